"""The comparison of echo servers: evloop, its rivals and a C server under the same load, in interleaved rounds.

Each run is a fresh server and a fresh load; round after round each rival takes its turn, in an order of that round's
own, so that a machine that slows down slows all of them.  The first round warms caches and is dropped.

Rule: nothing in this file measures, formats or prints.  Read next: ``peers_run.py``, ``peers_report.py``, ``rivals/``.
"""

from __future__ import annotations

import random
import resource
from collections.abc import Callable, Sequence
from typing import NamedTuple

from evloop.bench.peers_run import Case, Programs, RunFailed, parse_case, run
from evloop.bench.records import CaseResults
from evloop.bench.rivals import C_AGAIN, C_RAW, C_RAW_AGAIN, RIVALS, C, Rival

# Ping-pong over many peers is chat and RPC; sixteen in flight is telemetry; 64 KiB and 1 MiB are files and images; one
# connection is latency alone; 5,000 is what the wheel itself costs.  Raw ones are what a transport costs: 100 KiB is
# more than one read of most.
CASES = ("c100p1s64", "c100p16s64", "c10p1s64k", "c4p1s1m", "c5000p1s64", "c1p1s64", "c100p1s1k", "accept", "idle",
         "hold", "raw-c100s64", "raw-c100s1k", "raw-c1s64", "raw-c100s100k")  # fmt: skip


class Plan(NamedTuple):
    """What is run."""

    cases: list[Case]
    rivals: list[Rival]
    rounds: int  # the first is dropped
    seconds: float  # measured in each run
    baseline: str  # the row that ratios are to; C's in cases where it has none

    @property
    def present(self) -> list[Rival]:
        """The rivals that are installed."""
        return [rival for rival in self.rivals if not rival.missing]

    @property
    def runs(self) -> int:
        """How many servers will be started."""
        fitting = [rival for case in self.cases for rival in self.present if rival.raw == case.raw]
        return self.rounds * len(fitting)


def plan(
    cases: Sequence[str],
    rivals: Sequence[str],
    rounds: int,
    seconds: float,
    baseline: str = C.name,
    floor: bool = False,
) -> Plan:
    """Return the plan for cases and rivals by name; no *rivals*: all; *floor*: the C server against itself.

    Raises:
        ValueError: there is no such case or rival, or the baseline is none of them.
    """
    parsed = [parse_case(name) for name in cases]
    unknown = [name for name in [*rivals, baseline] if name not in RIVALS]
    if unknown:
        raise ValueError(f"no rival {', '.join(unknown)}; there are {', '.join(RIVALS)}")
    names = dict.fromkeys([C.name, C_RAW.name, baseline, *rivals]) if rivals else dict.fromkeys(RIVALS)
    wanted = [C, C_AGAIN, C_RAW, C_RAW_AGAIN] if floor else [RIVALS[name] for name in names]
    return Plan(parsed, wanted, rounds, seconds, baseline)


def measure(case: Case, wanted: Plan, programs: Programs, progress: Callable[[str, str, int], None]) -> CaseResults:
    """Run the rounds of one case; a rival that fails once is out of it, with the reason in place of its figures.

    *progress* is called before each run, with the case's name, the rival's and the number of the round, from 0.
    """
    rivals = [rival for rival in wanted.present if rival.raw == case.raw]
    results: CaseResults = {rival.name: [] for rival in rivals}
    for number in range(wanted.rounds):
        turns = list(rivals)
        random.Random(number).shuffle(turns)  # who comes after whom must not be the same in each round
        for rival in turns:
            runs = results[rival.name]
            if isinstance(runs, str):
                continue
            progress(case.name, rival.name, number)
            try:
                figures = run(case, rival, programs, wanted.seconds)
            except RunFailed as exc:
                results[rival.name] = f"FAILED: {exc}"
                continue
            if number:
                runs.append(figures)
    return results


def raise_fd_limit() -> None:
    """Let the servers, which inherit it, hold as many connections as the machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
