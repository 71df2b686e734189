"""The framing against its rivals, in interleaved rounds.

How: in each round every rival gets a fresh process, all pinned to one core, and fresh copies of evloop and the C loop.
For each case the rivals are asked in turn (A B C A B C ...), so that a slow second of the machine falls on all of them.
The first round is dropped.  The garbage collector stays on.

Rule: what is measured is in ``framing_cases.py``, and what is said about it in ``framing_report.py``; neither is here.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

import evloop
from evloop.bench import native
from evloop.bench.framing_cases import DECODE_CASES, ENCODE_CASES, Case
from evloop.bench.records import CaseResults

CASES = [*DECODE_CASES, *ENCODE_CASES]
WORKER = pathlib.Path(__file__).with_name("framing_worker.py")


class RivalFailed(Exception):
    """A rival's process has died or got a case wrong, which it has said on stderr; the message names it."""


class Worker:
    """A rival in a process of its own.  Owns: the process."""

    def __init__(self, name: str, directory: str) -> None:
        self.name = name
        command = [sys.executable, str(WORKER), name, directory]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, case: Case) -> float:
        """Return one sample, ns a frame; RivalFailed if the process has died."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(f"{case.name}\n")
            self.process.stdin.flush()
            return float(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            raise RivalFailed(f"the rival {self.name} failed in {case.name!r}; its words are above") from None

    def close(self) -> None:
        """End the process by the end of its input."""
        try:
            self.process.communicate()
        except BrokenPipeError:  # it has died with a case unread
            self.process.wait()


def fresh_copies(floor: pathlib.Path, directory: str) -> None:
    """Copy the C loop and the package evloop to *directory*.

    The same bytes in another file can be a fifth slower: the C loop has taken 38 or 46 ns for a 64-byte frame a chunk,
    for as long as its file lay in the same pages of memory.  With new files in each round the median is over such luck.
    """
    package = pathlib.Path(evloop.__file__).parent
    shutil.copytree(package, pathlib.Path(directory, "evloop"), ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(floor, pathlib.Path(directory, "framing_floor.so"))


def measure(
    cases: Sequence[Case], rivals: Sequence[str], rounds: int, progress: Callable[[str, str, int], None]
) -> dict[Case, CaseResults]:
    """Return the rounds that count, by case and rival; *progress* is called before each round, as in ``peers.measure``.

    Raises:
        RivalFailed: a rival has died, or was wrong.
        native.CompilerError, OSError: the C loop cannot be compiled.
    """
    floor = native.build_module(native.FRAMING_FLOOR)
    found: dict[Case, CaseResults] = {case: {name: [] for name in rivals} for case in cases}
    for number in range(rounds):
        progress("framing", f"{len(cases)} cases", number)
        with tempfile.TemporaryDirectory(prefix="evloop-bench-") as directory:
            fresh_copies(floor, directory)
            _measure_round(found, rivals, directory, kept=number > 0)
    return found


def _measure_round(found: dict[Case, CaseResults], rivals: Sequence[str], directory: str, *, kept: bool) -> None:
    """Add one sample of each case and rival, case by case."""
    workers: list[Worker] = []
    try:
        workers += [Worker(name, directory) for name in rivals]
        for case, results in found.items():
            for worker in workers:
                cost = worker.ask(case)
                runs = results[worker.name]
                if kept and not isinstance(runs, str):
                    runs.append({"ns_per_frame": round(cost, 2)})
    finally:
        for worker in workers:
            worker.close()
