"""Measure everything that README.md and docs/benchmarks.md quote, and write it there: what ``make bench-report`` runs.

    python bench/publish.py             three quarters of an hour, idle machine; bench/results, docs/pictures, the pages
    python bench/publish.py --quick     a few minutes, noise; all below build/bench-quick, the tree stays as it is
    python bench/publish.py --only peers-raw,framing
    python bench/publish.py --draw      nothing is measured: the pictures and pages of the files that are there

Each step is a command that anybody can run; its file of results holds every round.  What a step has measured takes the
place of the last run's when it is whole, so that a step which fails, hangs or is interrupted costs no other's numbers.

Rule: nothing in this file measures or formats.  Read next: ``tables.py``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import tables

from evloop.bench import records

QUICK = Path("build") / "bench-quick"
PARTS = Path("build") / "bench-parts"  # where a step writes

# Seconds: the longest step takes a quarter of an hour, so that one which is not done by then hangs; and how long a step
# may take to end its servers when it is told to end.
LIMIT = 3600.0
ENDING = 30.0

# Rounds that count are one less; six are the fewest whose interval is one of 94 %.
ROUNDS, SECONDS = 6, "1s"

_LOOPS = ("uvloop", "aiofastnet", "rloop", "asyncio")


def _both(kind: str) -> str:
    """Return the rows of asyncio's family, each under both settings of malloc."""
    return ",".join(f"{loop}-{kind},{loop}-{kind}+malloc" for loop in _LOOPS)


FRAMED = (
    "evloop-function,evloop-protocol,evloop-batch,evloop-coroutine,evloop-pure,evloop-streams,evloop-aio-streams,"
    "evloop-aio-protocol,evloop-aio-protocol+malloc,uvloop-streams,gevent-server,twisted-int32,trio-server,"
    "tornado-tcpserver,tornado-tcpserver+malloc,socketserver-threads," + _both("protocol")
)
RAW = "evloop-aio-raw,evloop-aio-raw+malloc," + _both("raw")
SOME = (
    "evloop-function,evloop-batch,evloop-coroutine,evloop-aio-protocol,uvloop-protocol+malloc,aiofastnet-protocol+malloc,"
    "twisted-int32"
)
IDLE = (
    "evloop-function,evloop-protocol,evloop-coroutine,evloop-aio-protocol,uvloop-protocol,asyncio-protocol,twisted-int32,"
    "gevent-server"
)

FANOUT = "evloop-group,evloop-chat,nats,mosquitto,uvloop,websockets"

# The pictures that the pages show; the page of all of them is build/bench-report/index.html.
PICTURES = (
    "peers-c100p1s64-cpu", "peers-c100p16s64-cpu", "peers-c100p1s64-latency", "peers-connections-p1s64", "peers-memory",
    "framing-ratios", "loop-ratios", "fanout-subscribers-p1s100o1", "fanout-subscribers-p1s100o32",
)  # fmt: skip


class Step(NamedTuple):
    """A command that writes a file of results."""

    name: str
    command: list[str]
    quick: list[str]  # what is put behind it to be quick; later options win


def _peers(name: str, cases: str, rivals: str, rounds: int = ROUNDS, quick_cases: str = "") -> Step:
    command = ["evloop", "bench", "peers", "--cases", cases, "--peers", rivals, "--rounds", str(rounds), "-d", SECONDS]
    return Step(name, command, ["--rounds", "2", "-d", "100ms", "--cases", quick_cases or cases])


STEPS = [
    _peers("peers-framed", "c100p1s64,c100p16s64", FRAMED),
    _peers("peers-raw", "raw-c100s64,raw-c100s1k,raw-c1s64,raw-c100s100k", RAW),
    _peers("peers-sizes", "c1p1s64,c10p1s64,c1000p1s64,c5000p1s64,c100p1s1k,c10p1s64k,c4p1s1m,accept", SOME, 5,
           "c1p1s64,c10p1s64,accept"),
    _peers("peers-idle", "idle-c1000,idle-c3000,idle,hold", IDLE, 3, "idle-c1000,idle-c3000"),
    Step("framing", ["evloop", "bench", "framing"], ["--rounds", "2"]),
    Step("loop", ["evloop.bench.micro"], ["--rounds", "2", "--seconds", "0.01"]),
    Step("fanout", ["evloop", "bench", "fanout", "--servers", FANOUT, "--subs", "100,1000,5000",
                    "--outstanding", "1,32", "--rounds", "5", "-d", SECONDS],
         ["--subs", "10,30", "--rounds", "2", "-d", "300ms"]),
]  # fmt: skip


def attend(command: list[str], limit: float = LIMIT) -> int:
    """Run a command and return its exit code; after *limit* seconds it is told to end, as by Ctrl-C."""
    with subprocess.Popen(command, cwd=tables.ROOT) as process:
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            print(f"--- not done after {limit:g} s, so it is told to end", flush=True)
            process.send_signal(signal.SIGINT)
            return _ended(process)
        except KeyboardInterrupt:  # which the terminal has sent to it, too
            _ended(process)
            raise


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process that was told to end, and kill it if it does not."""
    try:
        return process.wait(ENDING)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def missing_cases(path: Path) -> list[str]:
    """Return what a file of results lacks: cases that have a title and no row; in words if there is nothing at all."""
    try:
        found = records.read(path)
    except (OSError, records.NotAResult):
        return ["every case"]
    measured = {row["case"] for row in found["results"]}
    return [case for case in found.get("titles", {}) if case not in measured] if measured else ["every case"]


def run(step: Step, results: Path, quick: bool) -> bool:
    """Run a step, and keep its file if it is whole; return whether all went well.  It speaks to the terminal itself."""
    part = tables.ROOT / PARTS / f"{step.name}.json"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.unlink(missing_ok=True)
    command = [sys.executable, "-m", *step.command, *(step.quick if quick else [])]
    command += ["--json", str(part.relative_to(tables.ROOT))]  # the file tells its command
    began = time.monotonic()
    print(f"\n--- {step.name}: {' '.join(command[2:])}", flush=True)
    code = attend(command)
    print(f"--- {step.name}: {(time.monotonic() - began) / 60:.1f} min, exit {code}", flush=True)
    if lacking := missing_cases(part):
        print(f"--- {step.name}: no result of {', '.join(lacking)}, so the last run's stay; what there is: {part}")
        return False
    shutil.move(part, results / part.name)
    return code == 0


def publish(results: Path, pages: Path, site: Path) -> bool:
    """Draw the pictures, and fill the pages, also if the pictures fail; return whether both were done.

    *site* is made anew, so that no picture of an earlier run is taken for one of this.
    """
    files = sorted(map(str, results.glob("*.json")))
    if not files:
        print(f"no results in {results}", file=sys.stderr)
        return False
    shutil.rmtree(site, ignore_errors=True)
    drawn = attend([sys.executable, "-m", "evloop", "bench", "report", *files, "-o", str(site)]) == 0
    shown = pages / tables.PICTURES
    shown.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        if (site / f"{name}.svg").exists():
            shutil.copy(site / f"{name}.svg", shown)
        else:
            print(f"no picture {name}: its cases were not measured", file=sys.stderr)
    fill = [sys.executable, tables.__file__, "--results", str(results), "--pages", str(pages)]
    return attend(fill) == 0 and drawn


def parsed() -> tuple[argparse.Namespace, list[str]]:
    """Return the options, and the names of the steps to run; exit 2 if there is no such step, 1 without matplotlib."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short runs, and nothing outside of build/bench-quick")
    parser.add_argument("--only", default="", help=f"comma separated: {', '.join(step.name for step in STEPS)}")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    options = parser.parse_args()
    names = [] if options.draw else options.only.split(",") if options.only else [step.name for step in STEPS]
    if unknown := set(names) - {step.name for step in STEPS}:
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(step.name for step in STEPS)}")
    if importlib.util.find_spec("matplotlib") is None:  # said now, and not when all is measured
        sys.exit("publish.py: the pictures need matplotlib: pip install matplotlib, or make bench-setup")
    return options, names


def main() -> int:
    options, names = parsed()
    if names and os.getloadavg()[0] > 0.5:
        print(f"THE MACHINE IS BUSY: load average {os.getloadavg()[0]:.2f}; do not quote what comes", file=sys.stderr)
    base = tables.ROOT / QUICK if options.quick else tables.ROOT
    results = base / "results" if options.quick else tables.RESULTS
    results.mkdir(parents=True, exist_ok=True)
    if options.quick:
        for page in tables.PAGES:
            (base / page).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tables.ROOT / page, base / page)
    failed, interrupted = [], False
    try:
        for step in [each for each in STEPS if each.name in names]:
            failed += [] if run(step, results, options.quick) else [step.name]
    except KeyboardInterrupt:
        interrupted = True
        print("\ninterrupted: what was measured before is written")
    if not publish(results, base, base / "page" if options.quick else tables.ROOT / "build" / "bench-report"):
        failed.append("the pictures or the pages")
    print(f"\nfailed: {', '.join(failed)}" if failed else f"\nwritten: {results}, {', '.join(tables.PAGES)}")
    return 130 if interrupted else 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
