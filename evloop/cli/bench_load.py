"""``evloop bench load``: load a server of framed messages, check every reply, and say what it cost.

Figures go to stdout; progress and warnings that are not figures to stderr.

Rule: nothing in this file measures.  Read next: ``bench_load_progress.py``, ``evloop/bench/load.py``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import pathlib
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

import evloop
from evloop.cli import exits
from evloop.cli.commands import Command, SectionedOption
from evloop.cli.options import (
    ADDRESS,
    DURATION,
    Parsed,
    Settings,
    framing_options,
    framing_within,
    parse_size,
    verbosity_options,
)

if TYPE_CHECKING:
    from evloop.bench.load import Outcome
    from evloop.bench.load_conditions import LoadCondition
    from evloop.bench.load_options import LoadOptions

F = TypeVar("F", bound=Callable[..., Any])

_COUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([km]?)", re.IGNORECASE)
_COUNT_UNITS = {"": 1, "k": 1000, "m": 1_000_000}

PATTERNS = ("echo", "upper", "sink", "source", "connect", "idle", "fanout")
CHECKS = ("length", "seq", "full")


def parse_count(text: str) -> int:
    """Return the whole number that *text* means: ``500``, ``10k``, ``1.5M``; the units are 1000s.  ValueError: none."""
    match = _COUNT.fullmatch(text)
    value = float(match[1]) * _COUNT_UNITS[match[2].lower()] if match else 0.5
    if value != int(value):
        raise ValueError(f"bad count {text[:64]!r}; write a whole number, or one with k or M: 10k, 1.5M")
    return int(value)


def parse_sizes(text: str) -> tuple[tuple[int, float], ...]:
    """Return the sizes in *text* and how often each is drawn: ``64``, ``64:90,4K:10``.  ValueError: it means none."""
    sizes = []
    for part in text.split(","):
        size, colon, share = part.partition(":")
        try:
            sizes.append((parse_size(size), float(share) if colon else 1.0))
        except ValueError:
            raise ValueError(f"bad size {part[:64]!r}; write bytes, or sizes with shares: 64K, 64:90,4K:10") from None
    return tuple(sizes)


def parse_cores(text: str) -> tuple[int, ...]:
    """Return one or two numbers of cores: ``1``, ``0,1``.  ValueError: they are none."""
    cores = text.split(",")
    if not 1 <= len(cores) <= 2 or not all(core.isdecimal() and len(core) <= 4 for core in cores):
        raise ValueError(f"bad cores {text[:64]!r}; write the client's, or the server's and the client's: 1, 0,1")
    return tuple(int(core) for core in cores)


def _condition(text: str) -> LoadCondition:
    from evloop.bench.load_conditions import parse_load_condition

    return parse_load_condition(text)


def _other(*names: str, **settings: Any) -> Callable[[F], F]:
    return click.option(*names, cls=SectionedOption, section="Reporting", **settings)


@click.command(
    "load",
    cls=Command,
    examples=(
        "evloop bench load :9000                              # one connection, one message in flight, 10 s",
        "evloop bench load :9000 -c 50 -P 16 -s 64 -d 5s --server-pid $(pgrep -f 'evloop serve') --pin 0,1",
        "evloop bench load :9000 -c 100 -R 50k                # open loop: 50,000 messages/s, whatever comes back",
        "evloop bench load :9000 -s 64:90,4K:10 --check full  # a mix of sizes, every byte compared",
        "evloop bench load :9000 -n 10k --fail-if 'p99>2ms'   # exit code 9 if it is slower",
    ),
    epilog="A closed loop sends the next message when a reply has come: a slow reply delays what follows it, so its "
    "percentiles are what these clients saw. With -R messages leave by a plan; their response time counts from there, "
    "also while the socket is full. Exit codes: 3 cannot connect, 4 stalled, 5 closed or reset, 7 wrong bytes, "
    "9 a --fail-if has fired, 130 Ctrl-C.",
)
@click.argument("address", type=ADDRESS, metavar="ADDR")
@click.option("-c", "--connections", type=Parsed("count", parse_count), default="1", show_default=True,
              help="Of a fan-out: subscribers.")  # fmt: skip
@click.option("-P", "--in-flight", type=Parsed("count", parse_count), default="0",
              show_default="1; 256 with -R", help="Messages on each connection without a reply, at most.")  # fmt: skip
@click.option("-s", "--size", "sizes", type=Parsed("size", parse_sizes), default="64", show_default=True,
              help="Payload bytes, or several sizes with shares.")  # fmt: skip
@click.option("-d", "--duration", type=DURATION, default="10s", show_default=True, help="Of what is measured.")
@click.option("-n", "--count", type=Parsed("count", parse_count), default="0", metavar="COUNT",
              help="Exactly so many messages, instead of a duration.")  # fmt: skip
@click.option("-R", "--rate", type=Parsed("count", parse_count), default="0", metavar="COUNT",
              help="Messages a second, over all connections: an open loop.")  # fmt: skip
@click.option("--poisson", is_flag=True, help="With -R: at random times of that rate.")
@click.option("--warmup", type=DURATION, show_default="1s; 0 with -n", help="Before that, not counted.")
@click.option("--timeout", type=DURATION, default="10s", show_default=True, help="Without a byte, before giving up.")
@click.option("--pattern", type=click.Choice(PATTERNS), default="echo", show_default=True,
              help="What the server does; connect: a connection for each message; idle: held and silent.")  # fmt: skip
@click.option("--publishers", type=click.IntRange(1, 1000), default=1, show_default=True, help="Of a fan-out.")
@click.option("--check", type=click.Choice(CHECKS), default="seq", show_default=True,
              help="seq: length and number of every reply; full: all its bytes; length: of a source only.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**63), default=1, show_default=True, help="Of everything random.")
@click.option("--pin", type=Parsed("cores", parse_cores), metavar="[SERVER,]CLIENT", help="Cores to run on.")
@framing_options
@_other("--server-pid", "server_pids", type=click.IntRange(1), multiple=True, metavar="PID",
        help="Read this process's CPU, memory and context switches; may be repeated.")  # fmt: skip
@_other("--rounds", type=click.IntRange(1, 1000), default=1, show_default=True,
        help="Runs, one after the other; what `bench compare` needs for its intervals.")  # fmt: skip
@_other("--json", "json_path", type=click.Path(dir_okay=False), metavar="FILE",
        help="Write the figures there, as evloop-bench/1; -: to stdout, instead of the text.")  # fmt: skip
@_other("--hgrm", "hgrm_path", type=click.Path(dir_okay=False), metavar="FILE",
        help="Write the percentiles there, for HdrHistogram's plotter; of an open loop from the plan.")  # fmt: skip
@_other("--name", metavar="TEXT", help="What the server is called in the JSON.", show_default="ADDR")
@_other("--fail-if", "conditions", type=Parsed("condition", _condition), multiple=True, metavar="COND",
        help="As p99>2ms, rate<100k, cpu>3us, rss>64M; of rounds the median. Exit code 9; repeatable.")  # fmt: skip
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    address: evloop.Address,
    framing: str,
    max_frame: int | None,
    pin: tuple[int, ...] | None,
    rounds: int,
    json_path: str | None,
    hgrm_path: str | None,
    name: str | None,
    conditions: tuple[LoadCondition, ...],
    **values: Any,
) -> None:
    """Load a server of framed messages, and check every reply."""
    _find_engine()
    spec = _framing(framing, max_frame, values["sizes"])
    options = _options(ctx, address=address, framing=spec, **values)
    _touch(json_path, hgrm_path)
    if json_path != "-":
        from evloop.bench import load_report

        click.echo(load_report.title(options))
        sys.stdout.flush()  # before the progress, which goes another way
    outcomes = _run_rounds(ctx, options, pin, rounds, quiet=json_path == "-")
    _write(options, outcomes, name or str(address), json_path, hgrm_path)
    if outcomes[-1].interrupted:
        raise click.exceptions.Exit(exits.INTERRUPTED)
    fired = [condition.fires([outcome.round for outcome in outcomes]) for condition in conditions]
    if any(fired):
        raise exits.Failure("; ".join(said for said in fired if said), exits.FAIL_IF)


def _framing(name: str, max_frame: int | None, sizes: tuple[tuple[int, float], ...]) -> evloop.Framing | None:
    """Return the framing, which without --max-frame announces what its length field can: the server has the limit."""
    framing = framing_within(name, max_frame)
    if framing is None or max_frame is not None:
        return framing
    with contextlib.suppress(ValueError):  # more than the field can hold, which the check of the sizes says
        return framing.replace(max_frame=max(framing.max_frame, *(size for size, _ in sizes)))
    return framing


def _options(ctx: click.Context, **values: Any) -> LoadOptions:
    """Return the checked options.  click.UsageError: they contradict each other."""
    from evloop.bench.load_options import LoadOptions, checked

    if values["warmup"] is None:
        values["warmup"] = 0.0 if values["count"] else 1.0
    try:
        return checked(LoadOptions(**values))
    except ValueError as exc:
        raise click.UsageError(str(exc), ctx) from None


def _find_engine() -> None:
    """Import the compiled part.  exits.Failure: it was not built; a broken one raises as it does."""
    try:
        importlib.import_module("evloop.bench.load")
    except ModuleNotFoundError as exc:
        if exc.name != "evloop.bench._load":
            raise
        remedy = "install gcc and python3-dev, then build evloop again without EVLOOP_PURE_BUILD"
        raise exits.Failure(
            f"bench load is compiled, and this build of evloop has no compiled parts; {remedy}"
        ) from exc


def _touch(*paths: str | None) -> None:
    """Find out that files can be written before anything is measured.  exits.Failure: one cannot."""
    for path in paths:
        if path not in (None, "-"):
            try:
                pathlib.Path(path).touch()
            except OSError as exc:
                raise exits.Failure(f"cannot write {path}: {exc.strerror}") from exc


def _run_rounds(
    ctx: click.Context, options: LoadOptions, cores: tuple[int, ...] | None, rounds: int, *, quiet: bool
) -> list[Outcome]:
    """Run all rounds, or up to one that Ctrl-C has ended, and print the figures of each unless *quiet*."""
    from evloop.bench import load_report

    if cores:
        _pin(ctx, cores, options)
    outcomes = []
    for number in range(rounds):
        outcomes.append(_run(ctx, options))
        if not quiet:
            click.echo(
                (f"round {number + 1} of {rounds}\n" if rounds > 1 else "") + load_report.text(options, outcomes[-1])
            )
            sys.stdout.flush()
        if outcomes[-1].interrupted:
            break
    if len(outcomes) > 1 and not quiet:
        click.echo(load_report.summary([outcome.round for outcome in outcomes]))
    return outcomes


def _run(ctx: click.Context, options: LoadOptions) -> Outcome:
    from evloop.bench import load
    from evloop.cli.bench_load_progress import progress

    shown = ctx.ensure_object(Settings).verbosity >= 0
    try:
        with progress(options) if shown else contextlib.nullcontext() as watch:
            return load.run(options, watch)
    except load.LoadFailed as exc:
        raise exits.Failure(_explained(options, exc), exc.code) from exc
    except OSError as exc:
        raise exits.Failure(_unreachable(options, exc), exits.CANNOT_CONNECT) from exc


def _pin(ctx: click.Context, cores: tuple[int, ...], options: LoadOptions) -> None:
    from evloop.bench import load

    if len(cores) > 1 and not options.server_pids:
        raise click.UsageError("--pin of the server needs --server-pid; or give the client's core alone", ctx)
    try:
        load.pin(cores, options.server_pids)
    except OSError as exc:
        raise exits.Failure(f"cannot pin to {','.join(map(str, cores))}: {exc.strerror}; see taskset -p $$") from exc


def _explained(options: LoadOptions, exc: Any) -> str:
    if exc.reason:
        return _unreachable(options, OSError(exc.reason, str(exc.message).partition(": ")[2]))
    return f"bench load: {options.address}: {exc.message}"


def _unreachable(options: LoadOptions, exc: OSError) -> str:
    from evloop.sockets import explain_connect_error

    return explain_connect_error(options.address, exc)


def _write(
    options: LoadOptions, outcomes: list[Outcome], name: str, json_path: str | None, hgrm_path: str | None
) -> None:
    """Write the files that were asked for."""
    from evloop.bench import load_report, records

    if hgrm_path:
        histogram = outcomes[0].main(options)
        for outcome in outcomes[1:]:
            histogram.add(outcome.main(options))
        pathlib.Path(hgrm_path).write_text(load_report.hgrm(histogram), encoding="utf-8")
    if json_path == "-":
        click.echo(json.dumps(_document(options, outcomes, name), indent=1))
    elif json_path:
        records.write(pathlib.Path(json_path), _document(options, outcomes, name))


def _document(options: LoadOptions, outcomes: list[Outcome], name: str) -> dict[str, Any]:
    """Return the document of the schema: one result, with all rounds."""
    from evloop.bench import load_report, records

    params = {
        "address": str(options.address), "pattern": options.pattern, "check": options.check,
        "connections": options.connections, "in_flight": options.in_flight, "rate": options.rate,
        "poisson": options.poisson, "duration": options.duration, "count": options.count, "warmup": options.warmup,
        "sizes": [list(size) for size in options.sizes], "seed": options.seed, "framing": repr(options.framing),
    }  # fmt: skip
    found = records.document("load", sys.argv[1:], params, {"method": load_report.title(options)})
    row: dict[str, Any] = {"case": outcomes[0].case, "name": name, "rounds": [outcome.round for outcome in outcomes]}
    if outcomes[-1].interrupted:
        found["notes"]["interrupted"] = "ended with Ctrl-C before its time"
    return {**found, "results": [row]}
