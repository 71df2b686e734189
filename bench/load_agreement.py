"""Two load generators against the floor: evloop's, and load.c, which shares no line with it.

    python bench/load_agreement.py [ROUNDS]        `make bench-agreement`

They take turns at a fresh server, the first round is dropped, and what differs by more than a tenth is an error in one
of them.  Also said: the ceiling of `evloop bench load`, which is what any server's rate has to be held against.

Rule: nothing in this file is a generator.  Read next: ``evloop/bench/load.c``, ``evloop/bench/_load.h``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from statistics import median

from evloop.bench import native

SECONDS = 1.0
CASES = ((100, 16, 64), (100, 1, 64), (1, 1, 64), (10, 1, 65536))  # connections, in flight, bytes
AGREED = 0.10
FIGURES = ("messages/s", "p50 us", "server CPU us", "client CPU us")


def by_c(program, address, pid, case):
    """Return load.c's figures, in the order of FIGURES."""
    connections, in_flight, size = map(str, case)
    command = [program, "-c", connections, "-P", in_flight, "-s", size, "-d", str(SECONDS), "-p", str(pid), address]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return (found["messages_per_second"], found["latency_us"]["p50"], found["server_cpu_us"], found["load_cpu_us"])


def by_evloop(address, pid, case):
    """Return the figures of `evloop bench load`, in the order of FIGURES."""
    connections, in_flight, size = map(str, case)
    command = [sys.executable, "-m", "evloop", "bench", "load", address, "-c", connections, "-P", in_flight, "-s", size,
               "-d", str(SECONDS), "--warmup", "500ms", "--server-pid", str(pid), "--json", "-", "-q"]  # fmt: skip
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["results"][0]["rounds"][0]
    cost = found["server"]["us_per_message"], found["client"]["us_per_message"]
    return (found["rate"], found["latency_ns"]["p50"] / 1e3, *cost)


def measure(case, rounds, cores):
    """Return the rounds that count, of each generator."""
    floor, load = str(native.build(native.FLOOR)), str(native.build(native.LOAD))
    found = ([], [])
    for number in range(rounds):
        for rows, generator in zip(found, (lambda *a: by_c(load, *a), by_evloop), strict=True):
            with subprocess.Popen([floor], stdout=subprocess.PIPE, text=True) as server:
                try:
                    os.sched_setaffinity(server.pid, {cores[0]})
                    figures = generator(server.stdout.readline().split()[2], server.pid, case)
                finally:
                    server.kill()
            if number:
                rows.append(figures)
    return found


def main():
    """Print the table; exit 1 if they do not agree on messages/s or p50."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})  # inherited by the generators
    print(f"{'':<16}{'':<16}{'load.c':>14}{'bench load':>14}{'ratio':>8}")
    agree = True
    for case in CASES:
        c, ours = measure(case, rounds, cores)
        name = "c{}p{}s{}".format(*case)
        for i, figure in enumerate(FIGURES):
            pair = median(row[i] for row in c), median(row[i] for row in ours)
            times = median(mine[i] / other[i] for mine, other in zip(ours, c, strict=True))
            apart = i < 2 and abs(times - 1) > AGREED
            agree &= not apart
            print(f"{name:<16}{figure:<16}{pair[0]:>14,.2f}{pair[1]:>14,.2f}{times:>8.2f}{' APART' * apart}")
            name = ""
    print("they agree within 10 %" if agree else "they do NOT agree within 10 %; is the machine idle?")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
