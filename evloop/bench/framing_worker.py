"""One rival of the framing benchmark in a process of its own: a case a line in, its nanoseconds a frame out.

    framing_worker.py RIVAL DIRECTORY

It is run as a script, so that evloop is imported from DIRECTORY, where a fresh copy is beside the floor's module.

Rule: nothing in this file chooses or compares.  Read next: ``framing_cases.py``.
"""

from __future__ import annotations

import math
import os
import sys
from time import perf_counter

# Long against the clock and a scheduler tick, and short enough that 12 rounds of 20 cases and 6 rivals take about a
# minute.  A rival whose pass takes longer gets one pass.
SAMPLE_SECONDS = 0.015


def sample(name: str, direction: str, size: int, how: str) -> float:
    """Return the nanoseconds a frame that one rival takes for one case, after a check and a warm-up."""
    from evloop.bench.framing_cases import Case, prepare

    job = prepare(name, Case(direction, size, how))
    run, work = job.run, job.work
    start = perf_counter()
    run(work)
    passes = math.ceil(SAMPLE_SECONDS / (perf_counter() - start))
    run(work)
    start = perf_counter()
    for _ in range(passes):
        run(work)
    return (perf_counter() - start) / (passes * job.frames) * 1e9


def main() -> None:
    """Answer cases until the end of the input."""
    name, directory = sys.argv[1:]
    sys.path[0] = directory  # in place of this script's own
    if hasattr(os, "sched_setaffinity"):
        # The last core: the first one usually serves the interrupts.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for line in sys.stdin:
        direction, size, how = line.split()
        print(sample(name, direction, int(size), how), flush=True)


if __name__ == "__main__":
    main()
