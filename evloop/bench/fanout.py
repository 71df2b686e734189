"""The comparison of servers that fan out: evloop, brokers, Python's own and a C server, in interleaved rounds.

A shape is a number of subscribers, of publishers and of payload bytes.  In each round each server is started afresh for
a shape, in an order of that round's own, and is measured with each number of broadcasts outstanding and then, in an
open loop, at each rate.  The first round warms caches and is dropped.

Rule: nothing in this file measures, formats or prints: ``fanout.c`` measures.
Read next: ``fanout_servers.py``, ``fanout_report.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
from collections.abc import Callable, Sequence
from typing import NamedTuple

from evloop.bench import native
from evloop.bench.fanout_servers import SERVERS, Server, floor, serving
from evloop.bench.peers_run import Programs, RunFailed
from evloop.bench.records import CaseResults, Round

# Most subscribers of a run: both ends of a connection are files of one machine, whose usual hard limit is 20,000 a
# process, and a server needs some for itself.
MOST_SUBSCRIBERS = 15_000
MOST_PUBLISHERS = 255  # two hexadecimal digits of a message's number
LEAST_PAYLOAD, MOST_PAYLOAD = 16, 65_536  # the digits; what chat and MQTT are used for is far below the other
MOST_OUTSTANDING = 65_536

# Seconds without a byte after which a run has failed; and those that a run may take beside what it measures: 5,000
# members' handshakes with a server in Python on a busy machine.
SILENCE = 10
GRACE = 120.0


class Shape(NamedTuple):
    """Who sends what to whom."""

    subscribers: int
    publishers: int = 1
    payload: int = 100

    def check(self) -> None:
        """Raise ValueError, naming both numbers, if one is out of its range."""
        for what, value, least, most in (
            ("subscribers", self.subscribers, 1, MOST_SUBSCRIBERS),
            ("publishers", self.publishers, 1, MOST_PUBLISHERS),
            ("payload bytes", self.payload, LEAST_PAYLOAD, MOST_PAYLOAD),
        ):
            if not least <= value <= most:
                raise ValueError(f"{value:,} {what} are not within {least:,}..{most:,}")


class Pace(NamedTuple):
    """How fast: *outstanding* broadcasts a publisher (closed loop), or an open loop.

    *rate* is in broadcasts a second, all publishers together, or, if *share*, in per cent of what the same server has
    done in the same round with the most outstanding.
    """

    outstanding: int = 0
    rate: float = 0.0
    share: bool = False

    @property
    def name(self) -> str:
        """The pace as a case's name ends."""
        return f"o{self.outstanding}" if self.outstanding else f"r{self.rate:g}{'%' if self.share else ''}"


class Plan(NamedTuple):
    """What is run."""

    shapes: list[Shape]
    paces: list[Pace]  # closed ones first
    servers: list[Server]
    rounds: int  # the first is dropped
    seconds: float  # measured in each run

    @property
    def present(self) -> list[Server]:
        """The servers that are installed."""
        return [server for server in self.servers if not server.missing]

    @property
    def runs(self) -> int:
        """How many runs of the load there will be."""
        return self.rounds * len(self.shapes) * len(self.paces) * len(self.present)


def parse_pace(text: str) -> Pace:
    """Return the open loop that a text such as ``500`` (broadcasts a second) or ``50%`` stands for.

    Raises:
        ValueError: it stands for none.
    """
    share = text.endswith("%")
    try:
        rate = float(text.rstrip("%"))
    except ValueError:
        rate = -1.0
    most = 200.0 if share else 1e6
    if not 0.1 <= rate <= most:
        raise ValueError(f"{text!r} is no rate: broadcasts a second, 0.1..1000000, or a share, 0.1%..200%")
    return Pace(0, rate, share)


def plan(
    shapes: Sequence[Shape],
    outstanding: Sequence[int],
    rates: Sequence[Pace],
    names: Sequence[str],
    rounds: int,
    seconds: float,
) -> Plan:
    """Return the plan for servers by name; no *names*: all; the floor and redis, which ratios are to, are among them.

    Raises:
        ValueError: there is no such server, or a number is out of its range; the message has both numbers.
    """
    for shape in shapes:
        shape.check()
    for number in outstanding:
        if not 1 <= number <= MOST_OUTSTANDING:
            raise ValueError(f"{number:,} outstanding are not within 1..{MOST_OUTSTANDING:,}")
    if not outstanding and any(pace.share for pace in rates):
        raise ValueError("a rate in per cent is of a closed loop's, and none was asked for; give --outstanding")
    unknown = [name for name in names if name not in SERVERS]
    if unknown:
        raise ValueError(f"no server {', '.join(unknown)}; there are {', '.join(SERVERS)}")
    wanted = dict.fromkeys(["floor", "redis", *names]) if names else dict.fromkeys(SERVERS)
    paces = [Pace(number) for number in sorted(set(outstanding))] + list(rates)
    return Plan(list(shapes), paces, [SERVERS[name] for name in wanted], rounds, seconds)


def prepare() -> Programs:
    """Compile the load and the floor, and choose the cores; raises as native.build does."""
    cores = sorted(os.sched_getaffinity(0))
    server_core, load_core = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    return Programs(native.build(native.FANOUT_FLOOR), native.build(native.FANOUT), server_core, load_core)


def case_name(shape: Shape, pace: Pace) -> str:
    """Return the name of a case: ``n100p1s64o32``, with ``r500`` or ``r50%`` in the place of ``o32`` if it is open."""
    return f"n{shape.subscribers}p{shape.publishers}s{shape.payload}{pace.name}"


def measure(
    shape: Shape, wanted: Plan, programs: Programs, progress: Callable[[str, str, int], None]
) -> dict[str, CaseResults]:
    """Run the rounds of one shape; return its results by the name of the case.

    A server that fails in a case is out of it, with the reason in place of its figures.  *progress* is called before
    each run, with the case's name, the server's and the number of the round, from 0.
    """
    found: dict[str, CaseResults] = {
        case_name(shape, pace): {server.name: [] for server in wanted.present} for pace in wanted.paces
    }
    for number in range(wanted.rounds):
        servers = list(wanted.present)
        random.Random(number).shuffle(servers)  # who comes after whom must not be the same in each round
        for server in servers:
            _measure_server(server, shape, wanted, programs, number, found, progress)
    return found


def _measure_server(
    server: Server,
    shape: Shape,
    wanted: Plan,
    programs: Programs,
    number: int,
    found: dict[str, CaseResults],
    progress: Callable[[str, str, int], None],
) -> None:
    """Run one server through all paces, one process for all; one that failed is not asked to go on."""
    alive = [pace for pace in wanted.paces if not isinstance(found[case_name(shape, pace)][server.name], str)]
    if not alive:
        return
    if server.name == "floor":
        server = floor(programs.floor)
    capacity = 0.0  # broadcasts a second
    try:
        with serving(server, programs.server_core) as (pid, address):
            while alive:
                pace, name = alive[0], case_name(shape, alive[0])
                progress(name, server.name, number)
                round_ = run(server, shape, pace, pid, address, programs, wanted.seconds, capacity)
                if pace.outstanding:
                    capacity = round_["broadcasts"] / round_["seconds"]
                runs = found[name][server.name]
                if number and not isinstance(runs, str):
                    runs.append(round_)
                del alive[0]
    except RunFailed as exc:
        reason = f"FAILED: {exc}"
        for pace in alive:
            found[case_name(shape, pace)][server.name] = reason
            reason = f"not run: it failed in {case_name(shape, alive[0])}"


def run(
    server: Server,
    shape: Shape,
    pace: Pace,
    pid: int,
    address: str,
    programs: Programs,
    seconds: float,
    capacity: float = 0.0,
) -> Round:
    """Run the load once against a running server; return the round, as ``schema.json`` has it.

    *capacity*: broadcasts a second, of which a share's rate is a share.

    Raises:
        RunFailed: the load ended with an error: a message lost, doubled, out of order or wrong, a peer gone, silence.
    """
    rate = pace.rate / 100 * capacity if pace.share else pace.rate
    how = ["-o", str(pace.outstanding)] if pace.outstanding else ["-R", f"{max(rate, 0.1):.3f}"]
    command = [
        str(programs.load), "-n", str(shape.subscribers), "-P", str(shape.publishers), "-s", str(shape.payload), *how,
        "-d", str(seconds), "-w", str(seconds / 4), "-t", str(SILENCE), "-p", str(pid), server.wire, address,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
        try:
            if programs.load_core is not None:
                with contextlib.suppress(ProcessLookupError):  # it has ended already; its output will tell why
                    os.sched_setaffinity(load.pid, {programs.load_core})
            out, err = load.communicate(timeout=seconds * 1.25 + SILENCE + GRACE)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"not done {SILENCE + GRACE:g} s after its time") from None
        finally:
            load.kill()
    if load.returncode:
        raise RunFailed(f"exit {load.returncode}: {err.strip()}")
    found: Round = json.loads(out)
    return found | ({} if pace.outstanding else {"planned_rate": rate})
