"""``evloop bench peers``: evloop's echo servers beside others and a server in C, under the same load.

Rule: nothing in this file measures or compares.  Read next: ``evloop/bench/peers.py``.
"""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING

import click

from evloop.cli import exits
from evloop.cli.bench_progress import Progress
from evloop.cli.commands import Command
from evloop.cli.options import DURATION, verbosity_options

if TYPE_CHECKING:
    from evloop.bench import peers, records
    from evloop.bench.peers_run import Programs


@click.command(
    "peers",
    cls=Command,
    examples=(
        "evloop bench peers                       # every case and every peer that is installed: above an hour",
        "evloop bench peers --cases c100p1s64,accept --peers evloop-batch,uvloop-protocol --json a.json",
        "evloop bench peers --list                # the cases, the peers, and what is not installed",
        "evloop bench peers --floor --cases c100p1s64    # the C server against itself: how noisy this machine is",
    ),
    epilog="Cases: cNpNsN (connections, in flight, payload bytes; k and m are KiB and MiB), raw-cNsN (no frames), "
    "accept, idle, idle-cN, hold.  The rows that evloop loses are printed by name at the end.",
)
@click.option("--cases", metavar="A,B", show_default="all of --list", help="What the load does.")
@click.option("--peers", "names", metavar="A,B", show_default="all of --list", help="Rows; C's are always among them.")
@click.option("--baseline", default="c", show_default=True, metavar="PEER", help="The row that ratios are to.")
@click.option("--rounds", type=click.IntRange(2), default=5, show_default=True, help="The first is dropped.")
@click.option("-d", "--duration", type=DURATION, default="2s", show_default=True, help="Measured in each run.")
@click.option("--json", "path", type=click.Path(path_type=pathlib.Path, dir_okay=False), metavar="FILE",
              help="Write every round's figures there.")  # fmt: skip
@click.option("--list", "list_all", is_flag=True, help="List the cases and the peers, and what is missing; no run.")
@click.option("--floor", is_flag=True, help="The C server against itself, and nothing else.")
@verbosity_options
def command(
    cases: str | None,
    names: str | None,
    baseline: str,
    rounds: int,
    duration: float,
    path: pathlib.Path | None,
    list_all: bool,
    floor: bool,
) -> None:
    """Compare echo servers: the CPU that each spends on a message, in interleaved rounds."""
    from evloop.bench import peers

    if not 0.1 <= duration <= 3600:
        raise click.UsageError(f"--duration {duration:g} s is not within 0.1..3600 s", click.get_current_context())
    try:
        wanted = peers.plan(
            cases.split(",") if cases else peers.CASES,
            names.split(",") if names else [],
            rounds,
            duration,
            baseline,
            floor,
        )
    except ValueError as exc:
        raise click.UsageError(str(exc), click.get_current_context()) from None
    if list_all:
        _list()
    else:
        _run(wanted, path)


def _list() -> None:
    from evloop.bench import peers, rivals

    click.echo("cases: " + " ".join(peers.CASES))
    for rival in rivals.RIVALS.values():
        state = f"not installed: pip install {' '.join(rival.missing)}" if rival.missing else "ready"
        click.echo(f"{rival.name:<28}{rival.file:<26}{state}")


def _run(wanted: peers.Plan, path: pathlib.Path | None) -> None:
    from evloop.bench import native, peers, peers_run

    peers.raise_fd_limit()
    try:
        programs = peers_run.prepare()
        if path:
            path.touch()  # a path that cannot be written is said now, and not when all is measured
        found = _benchmark(wanted, programs, path)
    except (native.CompilerError, OSError) as exc:
        raise exits.Failure(f"bench peers: {exc}") from exc
    failed = sum("failed" in row for row in found["results"])
    if failed:
        raise exits.Failure(f"bench peers: {failed} of {len(found['results'])} rows failed; each says why in its table")


def _benchmark(wanted: peers.Plan, programs: Programs, path: pathlib.Path | None) -> records.Document:
    """Run all cases and print each one's table; return the document, which is written after each case."""
    from evloop.bench import peers, peers_report, records

    notes = peers_report.notes(programs, wanted.rounds, wanted.seconds)
    if len(wanted.present) < len(wanted.rivals):
        notes["missing"] = peers_report.install_line(wanted.rivals)
    params = {"rounds": wanted.rounds, "seconds": wanted.seconds, "baseline": wanted.baseline}
    found = records.document("peers", sys.argv[1:], params, notes)
    found["titles"] = {case.name: peers_report.title(case) for case in wanted.cases}
    click.echo(peers_report.header(notes))
    progress = Progress(wanted.runs, wanted.rounds)
    found["lost"] = lost = []
    for case in wanted.cases:
        results = peers.measure(case, wanted, programs, progress)
        progress.clear()
        click.echo("\n" + peers_report.table(case, results, wanted.baseline))
        sys.stdout.flush()
        lost += peers_report.losses(case, results)
        found["results"] += records.rows(case.name, results)
        if path:
            records.write(path, found)  # whoever ends this after an hour has what there is
    if any(rival.ours for rival in wanted.present):
        lines = [peers_report.wrapped("  " + line, 4) for line in lost or ["none"]]
        click.echo("\n".join(["\nrows that evloop loses:", *lines]))
    return found
