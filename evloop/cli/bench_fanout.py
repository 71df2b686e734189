"""``evloop bench fanout``: servers that send one message to many, ours beside brokers and a server in C.

Rule: nothing in this file measures or compares.  Read next: ``evloop/bench/fanout.py``.
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
    from evloop.bench import fanout, records
    from evloop.bench.peers_run import Programs


@click.command(
    "fanout",
    cls=Command,
    examples=(
        "evloop bench fanout                        # the whole matrix and every server that is installed: an hour",
        "evloop bench fanout --subs 100 --outstanding 1,32 --servers evloop-group --rounds 3 -d 1s",
        "evloop bench fanout --subs 1000 --open 10%,50%,200 --json fanout.json    # and open loops",
        "evloop bench fanout --list                 # the servers, and what is not installed",
    ),
    epilog="Servers are pinned to one core and the load to another, so that two cores are needed for figures.  The "
    "floor and redis, which ratios are to, always run.  The rows that evloop loses are printed by name at the end.",
)
@click.option("--servers", "names", metavar="A,B", show_default="all of --list", help="Who is measured.")
@click.option("--subs", default="1,10,100,1000,5000", show_default=True, metavar="N,N", help="Subscribers.")
@click.option("--pubs", default="1", show_default=True, metavar="N,N", help="Publishers.")
@click.option("--payload", default="100", show_default=True, metavar="BYTES,..", help="Of a message, from 16 on.")
@click.option("--outstanding", default="1,32", show_default=True, metavar="N,N",
              help="Closed loop: broadcasts on their way, of each publisher.")  # fmt: skip
@click.option("--open", "rates", default="", metavar="RATE,..",
              help="Open loops too: broadcasts a second, or a share of what the closed loop reached: 50%.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(2), default=5, show_default=True, help="The first is dropped.")
@click.option("-d", "--duration", type=DURATION, default="2s", show_default=True, help="Measured in each run.")
@click.option("--json", "path", type=click.Path(path_type=pathlib.Path, dir_okay=False), metavar="FILE",
              help="Write every round's figures there.")  # fmt: skip
@click.option("--list", "list_all", is_flag=True, help="List the servers, and what is missing; no run.")
@verbosity_options
def command(
    names: str | None,
    subs: str,
    pubs: str,
    payload: str,
    outstanding: str,
    rates: str,
    rounds: int,
    duration: float,
    path: pathlib.Path | None,
    list_all: bool,
) -> None:
    """Compare servers that send one message to many: the CPU that each spends on a delivery, and how long one takes."""
    from evloop.bench import fanout

    if list_all:
        _list()
        return
    try:
        if not 0.1 <= duration <= 3600:
            raise ValueError(f"--duration {duration:g} s is not within 0.1..3600 s")
        shapes = [
            fanout.Shape(subscribers, publishers, size)
            for subscribers in _numbers("--subs", subs)
            for publishers in _numbers("--pubs", pubs)
            for size in _numbers("--payload", payload)
        ]
        open_loops = [fanout.parse_pace(text) for text in _items(rates)]
        wanted = fanout.plan(
            shapes, _numbers("--outstanding", outstanding), open_loops, _items(names or ""), rounds, duration
        )
    except ValueError as exc:
        raise click.UsageError(str(exc), click.get_current_context()) from None
    _run(wanted, path)


def _items(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(option: str, text: str) -> list[int]:
    """Return the numbers of a list; ValueError, naming the option, if one is none."""
    try:
        return [int(part) for part in _items(text)]
    except ValueError:
        raise ValueError(f"{option}: {text!r} is no list of numbers, such as 1,32") from None


def _list() -> None:
    from evloop.bench import fanout_servers

    for server in fanout_servers.SERVERS.values():
        state = f"not installed: {server.missing}" if server.missing else "ready"
        click.echo(f"{server.name:<16}{server.wire:<10}{state}")


def _run(wanted: fanout.Plan, path: pathlib.Path | None) -> None:
    from evloop.bench import fanout, native, peers

    peers.raise_fd_limit()
    try:
        programs = fanout.prepare()
        if path:
            path.touch()  # a path that cannot be written is said now, and not when all is measured
        found = _benchmark(wanted, programs, path)
    except (native.CompilerError, OSError) as exc:
        raise exits.Failure(f"bench fanout: {exc}") from exc
    failed = sum("failed" in row for row in found["results"])
    if failed:
        raise exits.Failure(
            f"bench fanout: {failed} of {len(found['results'])} rows failed; each says why in its table"
        )


def _benchmark(wanted: fanout.Plan, programs: Programs, path: pathlib.Path | None) -> records.Document:
    """Run all shapes and print each case's table; return the document, which is written after each shape."""
    from evloop.bench import fanout, fanout_report, peers_report, records

    notes = fanout_report.notes(programs, wanted.rounds, wanted.seconds, wanted.present)
    if missing := fanout_report.install_line(wanted.servers):
        notes["missing"] = missing
    params = {"rounds": wanted.rounds, "seconds": wanted.seconds, "servers": [each.name for each in wanted.present]}
    found = records.document("fanout", sys.argv[1:], params, notes)
    cases = [(shape, pace, fanout.case_name(shape, pace)) for shape in wanted.shapes for pace in wanted.paces]
    headings = {name: fanout_report.title(shape, pace, name) for shape, pace, name in cases}
    found |= {"titles": {name: text.partition(": ")[2] for name, text in headings.items()}, "aims": [], "lost": []}
    click.echo(peers_report.header(notes))
    progress = Progress(wanted.runs, wanted.rounds)
    for shape in wanted.shapes:
        measured = fanout.measure(shape, wanted, programs, progress)
        progress.clear()
        for pace, (name, results) in zip(wanted.paces, measured.items(), strict=True):
            click.echo("\n" + fanout_report.table(headings[name], results))
            found["lost"] += fanout_report.losses(name, results)
            found["aims"] += fanout_report.aims(name, results) if pace.outstanding else []
            found["results"] += records.rows(name, results)
        sys.stdout.flush()
        if path:
            records.write(path, found)  # whoever ends this after an hour has what there is
    for heading, lines in (("the aims:", found["aims"]), ("rows that evloop loses:", found["lost"])):
        wrapped = [peers_report.wrapped("  " + line, 4) for line in lines or ["none"]]
        click.echo("\n".join(["", heading, *wrapped]))
    return found
