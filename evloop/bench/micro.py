"""The micro benchmark of the event loops: what scheduling costs, operation by operation, without a socket.

    python -m evloop.bench.micro [--cases sleep-0,task] [--loops evloop,uvloop] [--rounds 7] [--json FILE]
    python -m evloop.bench.micro --one sleep-0 --loops evloop --count 10000      (for callgrind: that and no more)

Each run is a fresh process with one loop; round after round each loop takes its turn, so that a machine that slows down
slows all of them.  A figure is CPU of the process, user and system, per operation.

Rule: nothing in this file opens a connection; ``peers.py`` does.  Read next: ``micro_cases.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from statistics import median

from evloop.bench import peers_report, records
from evloop.bench.intervals import paired
from evloop.bench.micro_cases import CASES, Operation
from evloop.bench.peers_run import UNWANTED

# The rows; the ratios are to the second, which is who is to be beaten.
LOOPS = ("evloop", "uvloop", "asyncio")
BASE = "uvloop"

COST = "ns_per_operation"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as the command line says; return the exit code: 0 done, 1 failed, 2 usage, 130 Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(argv)
    cases, loops = options.cases.split(","), options.loops.split(",")
    for name in [*cases, *([options.one] if options.one else [])]:
        if name not in CASES:
            parser.error(f"no case {name}; there are {', '.join(CASES)}")
    for name in loops:
        if name not in LOOPS:
            parser.error(f"no loop {name}; there are {', '.join(LOOPS)}")
    if options.one:
        measure(loops[0], options.one, options.count)
        return 0
    if options.child:
        print(json.dumps({name: sample(loops[0], name, options.seconds) for name in cases}))
        return 0
    try:
        return _benchmark(cases, loops, options)
    except subprocess.CalledProcessError as exc:
        print(f"evloop bench micro: {' '.join(exc.cmd)}: exit {exc.returncode}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evloop.bench.micro", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--cases", default=",".join(CASES), help=f"comma separated (default: all): {', '.join(CASES)}")
    parser.add_argument("--loops", default=",".join(LOOPS), help="comma separated (default: all that are installed)")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds, the first dropped (2.., 7)")
    parser.add_argument("--seconds", type=float, default=0.1, help="seconds measured per case and run (0.1)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write every round's figures there")
    parser.add_argument("--one", metavar="CASE", help="run CASE once on the first of --loops and print nothing")
    parser.add_argument("--count", type=int, default=10_000, help="operations of --one (10,000)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    """Return a new loop of that name."""
    if name == "evloop":
        import evloop.aio

        return evloop.aio.new_event_loop()
    if name == "uvloop":
        return importlib.import_module("uvloop").new_event_loop()  # type: ignore[no-any-return]
    return asyncio.SelectorEventLoop()


def measure(loop_name: str, case: str, count: int) -> float:
    """Run *count* operations of a case on a new loop; return nanoseconds of CPU per operation."""
    loop = new_loop(loop_name)
    operation: Operation = CASES[case]
    try:
        began = time.process_time_ns()
        operation(loop, count)
        return (time.process_time_ns() - began) / count
    finally:
        loop.close()


def sample(loop_name: str, case: str, seconds: float) -> float:
    """Return nanoseconds per operation of a run that takes about *seconds*, after one that warms up and tells how many.

    A thousand operations: the batches of the cases are no longer.
    """
    warm = max(measure(loop_name, case, 1000), 10.0)
    return measure(loop_name, case, max(1000, int(seconds * 1e9 / warm) // 1000 * 1000))


def _benchmark(cases: list[str], loops: list[str], options: argparse.Namespace) -> int:
    notes = machine(options.rounds, options.seconds)
    params = {"rounds": options.rounds, "seconds": options.seconds}
    present = [name for name in loops if name != "uvloop" or importlib.util.find_spec("uvloop")]
    if len(present) < len(loops):
        notes["missing"] = "not installed, so not measured: uvloop; pip install uvloop"
    document = records.document("loop", sys.argv[1:], params, notes)
    print(peers_report.header(notes), flush=True)
    if options.json:
        options.json.touch()  # a path that cannot be written is said now, and not when all is measured
    found: dict[str, dict[str, records.Runs]] = {case: {name: [] for name in present} for case in cases}
    for number in range(options.rounds):
        for name in present:
            figures = _run_child(name, cases, options.seconds)
            for case, cost in figures.items():
                if number:
                    found[case][name].append({COST: round(cost, 2)})
    print("\n" + table(found))
    print("\noperations that evloop loses:", *(f"  {line}" for line in losses(found) or ["none"]), sep="\n")
    if options.json:
        rows = [row for case, results in found.items() for row in records.rows(case, {**results})]
        records.write(options.json, {**document, "results": rows, "lost": losses(found)})
    return 0


def losses(found: dict[str, dict[str, records.Runs]]) -> list[str]:
    """Name each operation that costs more on evloop than on another loop."""
    lines = []
    for case, rows in found.items():
        mine = records.figures(rows.get("evloop", []), COST)
        others = {name: paired(mine, records.figures(runs, COST)) for name, runs in rows.items() if name != "evloop"}
        lines += [f"{case}: {name} {times.times:.2f}x" for name, times in others.items() if times and times.more]
    return lines


def _run_child(loop_name: str, cases: list[str], seconds: float) -> dict[str, float]:
    command = [sys.executable, "-m", "evloop.bench.micro", "--child", "--loops", loop_name, "--cases", ",".join(cases)]
    env = {key: value for key, value in os.environ.items() if not key.startswith(UNWANTED)}
    core = min(os.sched_getaffinity(0))
    found = subprocess.run(
        [*command, "--seconds", str(seconds)],
        stdout=subprocess.PIPE,
        env=env,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    figures: dict[str, float] = json.loads(found.stdout)
    return figures


def machine(rounds: int, seconds: float) -> dict[str, str]:
    """Describe what was measured, on what, and how."""
    import evloop.reactor

    uvloop = f", uvloop {metadata.version('uvloop')}" if importlib.util.find_spec("uvloop") else ""
    found = records.host()
    return {
        "cpu": records.hardware(found),
        "cores": f"all on core {min(os.sched_getaffinity(0))}; load average before the run {found['load1']:.2f}",
        "python": f"{found['python']}, garbage collector on{uvloop}",
        "evloop": f"{found['evloop']}: reactor {evloop.reactor.IMPLEMENTATION}",
        "method": f"{rounds} interleaved rounds, the first dropped; a process a loop and round; {seconds:g} s a case",
        "figures": f"CPU ns per operation, user and system: median and min..max; x {BASE}: of the same round, median, "
        "with its 95 % interval; =: the interval holds 1, or less than 2 % apart",
    }


def table(found: dict[str, dict[str, records.Runs]]) -> str:
    """Return the table: a row for each case and loop."""
    lines = [f"{'':<24}{'loop':<10}{'CPU ns/op':>12}{'min..max':>20}{'x ' + BASE:>10}{'interval':>16}"]
    for case, rows in found.items():
        title = case
        for name, runs in rows.items():
            costs = records.figures(runs, COST)
            spread = f"{min(costs):,.0f}..{max(costs):,.0f}"
            line = f"{title:<24}{name:<10}{median(costs):12,.0f}{spread:>20}"
            if BASE in rows:
                times, interval = peers_report.said_ratio(paired(costs, records.figures(rows[BASE], COST)))
                line += f"{times:>10}{interval:>16}"
            lines.append(line)
            title = ""
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
