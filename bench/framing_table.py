"""Measure the framing against its rivals and print the tables: what ``make bench-framing`` runs.

How: in each round every rival gets a fresh process, all pinned to one core, and fresh copies of the two extensions.
For each case the rivals are asked in turn (A B C A B C ...), so that a slow second of the machine falls on all of them.
The first round is dropped.  A rival's number is the median over the rounds, and the spread their smallest and largest.
The garbage collector stays on.

Rule: what is measured is in ``framing_cases.py``, and what is said about it in ``framing_report.py``; neither is here.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import framing_report as report
from framing_cases import DECODE_CASES, ENCODE_CASES, RIVALS, Case, prepare

# Long against the clock and a scheduler tick, and short enough that 12 rounds of 20 cases and 6 rivals take about a
# minute.  A rival whose pass takes longer gets one pass.
SAMPLE_SECONDS = 0.015

ROUNDS = 12
QUICK_ROUNDS = 4

README_CASES = [Case("decode", size, how) for size in (64, 1024) for how in ("full", "one")]


def sample(name: str, case: Case) -> float:
    """Return the nanoseconds a frame that one rival takes for one case, after a check and a warm-up."""
    job = prepare(name, case)
    run, work = job.run, job.work
    start = perf_counter()
    run(work)
    passes = math.ceil(SAMPLE_SECONDS / (perf_counter() - start))
    run(work)
    start = perf_counter()
    for _ in range(passes):
        run(work)
    return (perf_counter() - start) / (passes * job.frames) * 1e9


def fresh_copies(directory: str) -> None:
    """Copy the C loop and the package evloop to *directory*.

    The same bytes in another file can be a fifth slower: the C loop has taken 38 or 46 ns for a 64-byte frame a chunk,
    for as long as its file lay in the same pages of memory.  With new files in each round the median is over such luck.
    """
    import evloop

    package = Path(evloop.__file__).parent
    shutil.copytree(package, Path(directory, "evloop"), ignore=shutil.ignore_patterns("__pycache__"))
    for extension in Path(__file__).parent.glob("_cloop*.so"):
        shutil.copy(extension, directory)


def serve(name: str, directory: str) -> None:
    """Be one rival's process: read a case a line from standard input, answer its nanoseconds a frame."""
    sys.path.insert(0, directory)
    if hasattr(os, "sched_setaffinity"):
        # The last core: the first one usually serves the interrupts.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for line in sys.stdin:
        direction, size, how = line.split()
        print(sample(name, Case(direction, int(size), how)), flush=True)


class Worker:
    """A rival in a process of its own.  Owns: the process."""

    def __init__(self, name: str, directory: str) -> None:
        self.name = name
        command = [sys.executable, __file__, "--one", name, "--copies", directory]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, case: Case) -> float:
        """Return one sample; SystemExit if the process has died, which has then said why on standard error."""
        try:
            self.process.stdin.write(f"{case.direction} {case.size} {case.how}\n")
            self.process.stdin.flush()
            return float(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            sys.exit(f"the rival {self.name} failed")

    def close(self) -> None:
        """End the process by the end of its input."""
        self.process.communicate()


def measure(cases: list[Case], rounds: int) -> dict[Case, dict[str, list[float]]]:
    """Return the samples of all rounds, in ns a frame, by case and rival."""
    samples: dict[Case, dict[str, list[float]]] = {case: {name: [] for name in RIVALS} for case in cases}
    for number in range(rounds):
        print(f"\rround {number + 1} of {rounds} ", end="", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="evloop-bench-") as directory:
            fresh_copies(directory)
            measure_round(samples, [Worker(name, directory) for name in RIVALS])
    print("\r" + " " * 20 + "\r", end="", file=sys.stderr, flush=True)
    return samples


def measure_round(samples: dict[Case, dict[str, list[float]]], workers: list[Worker]) -> None:
    """Add one sample of each case and rival, case by case, and end the workers."""
    try:
        for case, rivals in samples.items():
            for worker in workers:
                rivals[worker.name].append(worker.ask(case))
    finally:
        for worker in workers:
            worker.close()


def write_json(path: str, machine: dict[str, str], samples: dict[Case, dict[str, list[float]]]) -> None:
    """Write the raw numbers of all rounds, the dropped first one included."""
    cases = {f"{case.direction} {case.size} {case.how}": rivals for case, rivals in samples.items()}
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"machine": machine, "unit": "ns/frame", "dropped_rounds": 1, "cases": cases}, file, indent=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds instead of {ROUNDS}")
    parser.add_argument("--json", metavar="FILE", help="write the raw numbers of all rounds to FILE")
    parser.add_argument("--markdown", action="store_true", help="measure and print only the short table of the README")
    parser.add_argument("--one", metavar="RIVAL", choices=RIVALS, help=argparse.SUPPRESS)
    parser.add_argument("--copies", metavar="DIRECTORY", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        serve(options.one, options.copies)
        return
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    cases = README_CASES if options.markdown else DECODE_CASES + ENCODE_CASES
    machine = report.machine(rounds)
    samples = measure(cases, rounds)
    if options.json:
        write_json(options.json, machine, samples)
    results = report.summarise(samples)
    print(report.markdown(machine, results) if options.markdown else report.text(machine, results))


if __name__ == "__main__":
    main()
