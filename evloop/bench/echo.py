"""The echo benchmark: evloop, its rivals and a C server under the same load, in interleaved rounds.

    python -m evloop.bench.echo [--cases c100p1s64,accept] [--rivals evloop-batch,uvloop-protocol] [--json FILE]

Each run is a fresh server and a fresh load; round after round each rival takes its turn, so that a machine that slows
down slows all of them.  The first round warms caches and is dropped.

Rule: nothing in this file measures or formats.  Read next: ``echo_run.py``, ``echo_report.py``, ``rivals/``.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import sys
from collections.abc import Sequence

from evloop.bench import echo_report, native
from evloop.bench.echo_run import Case, Programs, RunFailed, parse_case, prepare, run
from evloop.bench.rivals import C_AGAIN, C_RAW, C_RAW_AGAIN, RIVALS, C, Rival

# Ping-pong over many peers is chat and RPC; sixteen in flight is telemetry; 64 KiB and 1 MiB are files and images; one
# connection is latency alone; 5,000 is what the wheel itself costs.  Raw ones are what a transport costs: 100 KiB is
# more than one read of most.
CASES = ("c100p1s64", "c100p16s64", "c10p1s64k", "c4p1s1m", "c5000p1s64", "c1p1s64", "c100p1s1k", "accept", "idle",
         "hold", "raw-c100s64", "raw-c100s1k", "raw-c1s64", "raw-c100s100k")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as the command line says; return the exit code: 0 done, 1 failed, 2 usage, 130 Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        cases = [parse_case(name) for name in options.cases.split(",")]
        wanted = _rivals(options.rivals.split(",")) if options.rivals else list(RIVALS.values())
    except ValueError as exc:
        parser.error(str(exc))
    if options.list:
        return _list()
    _raise_fd_limit()
    try:
        programs = prepare()
        if options.json:
            options.json.touch()  # a path that cannot be written is said now, and not when all is measured
        floor = [C, C_AGAIN, C_RAW, C_RAW_AGAIN]
        return _benchmark(cases, floor if options.floor else wanted, programs, options)
    except (native.CompilerError, OSError) as exc:
        print(f"evloop bench echo: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evloop.bench.echo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--cases", default=",".join(CASES), help="comma separated; cNpNsN, raw-cNsN, accept, idle, hold (default: all)"
    )
    parser.add_argument("--rivals", help="comma separated names of --list (default: all); C is always among them")
    parser.add_argument("--rounds", type=_rounds, default=5, help="interleaved rounds, the first dropped (2.., 5)")
    parser.add_argument("--seconds", type=_seconds, default=2.0, help="seconds measured per run (0.1..3600, 2)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write every run's figures there")
    parser.add_argument("--list", action="store_true", help="list the cases and the rivals, and what is missing")
    parser.add_argument("--floor", action="store_true", help="the C server against itself: how noisy is this machine")
    return parser


def _rounds(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{value} is less than 2, and the first round is dropped")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{value:g} is not within 0.1..3600")
    return value


def _rivals(names: list[str]) -> list[Rival]:
    unknown = [name for name in names if name not in RIVALS]
    if unknown:
        raise ValueError(f"no rival {', '.join(unknown)}; there are {', '.join(RIVALS)}")
    return [RIVALS[name] for name in dict.fromkeys([C.name, C_RAW.name, *names])]


def _raise_fd_limit() -> None:
    """Let the servers, which inherit it, hold as many connections as the machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _list() -> int:
    print("cases:", " ".join(CASES))
    for rival in RIVALS.values():
        state = f"not installed: pip install {' '.join(rival.missing)}" if rival.missing else "ready"
        print(f"{rival.name:<28}{rival.file:<26}{state}")
    return 0


def _benchmark(cases: list[Case], wanted: list[Rival], programs: Programs, options: argparse.Namespace) -> int:
    facts = echo_report.machine(programs, options.rounds, options.seconds)
    print(echo_report.header(facts), flush=True)
    present = [rival for rival in wanted if not rival.missing]
    if len(present) < len(wanted):
        print(echo_report.install_line(wanted))
    found: dict[str, echo_report.CaseResults] = {}
    lost: list[str] = []
    for case in cases:
        fitting = [rival for rival in present if rival.raw == case.raw]
        found[case.name] = _measure(case, fitting, programs, options)
        print("\n" + echo_report.table(case, found[case.name]), flush=True)
        lost += echo_report.losses(case, found[case.name])
    if any(rival.ours for rival in present):
        print(
            "\nrows that evloop loses:", *(echo_report.wrapped("  " + line, 4) for line in lost or ["none"]), sep="\n"
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": facts, "cases": found, "lost": lost}, indent=1) + "\n")
    return 1 if any(isinstance(runs, str) for results in found.values() for runs in results.values()) else 0


def _measure(
    case: Case, rivals: list[Rival], programs: Programs, options: argparse.Namespace
) -> echo_report.CaseResults:
    """Run the rounds of one case; a rival that fails once is out of it, with the reason in place of its figures."""
    results: echo_report.CaseResults = {rival.name: [] for rival in rivals}
    for number in range(options.rounds):
        for rival in rivals:
            runs = results[rival.name]
            if isinstance(runs, str):
                continue
            if sys.stderr.isatty():
                print(f"\r\033[K{case.name} {number + 1}/{options.rounds} {rival.name}", end="", file=sys.stderr)
            try:
                figures = run(case, rival, programs, options.seconds)
            except RunFailed as exc:
                results[rival.name] = f"FAILED: {exc}"
                continue
            if number:
                runs.append(figures)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return results


if __name__ == "__main__":
    sys.exit(main())
