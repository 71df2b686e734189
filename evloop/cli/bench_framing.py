"""``evloop bench framing``: the decoder and the encoder beside others, and beside a loop in C.

Rule: nothing in this file measures or compares.  Read next: ``evloop/bench/framing.py``.
"""

from __future__ import annotations

import pathlib
import sys

import click

from evloop.cli import exits
from evloop.cli.bench_progress import Progress
from evloop.cli.commands import Command
from evloop.cli.options import verbosity_options


@click.command(
    "framing",
    cls=Command,
    examples=(
        "evloop bench framing                        # all cases, about a minute",
        "evloop bench framing --only 'decode 64' --rounds 4",
        "evloop bench framing --json framing.json",
    ),
    epilog="Each rival decodes half a mebibyte of frames, in chunks of 64 KiB (full), a frame a chunk (one) or cut at "
    "random (cuts), and encodes one by one (each) or 64 KiB at a time (batch); what it returns is checked first.",
)
@click.option("--rounds", type=click.IntRange(2), default=12, show_default=True, help="The first is dropped.")
@click.option("--only", metavar="TEXT", default="", help="Cases with this in their names, as: decode 64 full.")
@click.option("--json", "path", type=click.Path(path_type=pathlib.Path, dir_okay=False), metavar="FILE",
              help="Write every round's figures there.")  # fmt: skip
@verbosity_options
def command(rounds: int, only: str, path: pathlib.Path | None) -> None:
    """Compare decoders and encoders: ns a frame, in interleaved rounds."""
    from evloop.bench import framing, framing_report, native, peers_report, records

    cases = [case for case in framing.CASES if only in case.name]
    if not cases:
        names = ", ".join(case.name for case in framing.CASES)
        raise click.UsageError(f"--only {only}: no such case; there are {names}", click.get_current_context())
    try:
        if path:
            path.touch()  # a path that cannot be written is said now, and not when all is measured
        rivals, missing = framing_report.present()
        notes = framing_report.notes(rounds) | ({"missing": ". ".join(missing)} if missing else {})
        found = records.document("framing", sys.argv[1:], {"rounds": rounds, "only": only}, notes)
        click.echo(peers_report.header(notes))
        progress = Progress(rounds, rounds)
        results = framing.measure(cases, rivals, rounds, progress)
        progress.clear()
        click.echo(framing_report.text(results))
        found["titles"] = {case.name: f"{case.direction} {' '.join(case.label.split())}" for case in cases}
        found["results"] = [row for case, rows in results.items() for row in records.rows(case.name, rows)]
        found["lost"] = framing_report.losses(results)
        if path:
            records.write(path, found)
    except (native.CompilerError, framing.RivalFailed, OSError) as exc:
        raise exits.Failure(f"bench framing: {exc}") from exc
