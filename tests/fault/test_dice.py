"""Random traffic over a kernel with moods: short reads and writes, EAGAIN, EINTR, resets, no descriptors, and so on.

An echo server and its clients share one reactor, so that both ends' calls are disturbed.  Each seed is a test case, and
the same one every time but for the kernel's own timing.  Catalogue 33, and more.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter

import pytest
from dice import FATAL, TRANSPARENT, Faults, MoodySelector, Table, moody_sockets
from realsockets import open_fds
from scene import again

import evloop
from evloop import connection

pytestmark = pytest.mark.fault

SEEDS = 240  # of each sort and twin, in blocks
BLOCK = 60
PATIENCE = 20.0  # seconds of a seed; only a failing one takes as long
# The reactor's clock is this much faster than a real one, so that its rests (0.1 s after EMFILE) cost little.  No limit
# may depend on it: a machine that does something else for a moment would reach it.
HASTE = 20
NEVER = 1e6


class Diary(evloop.Protocol):
    """Counts its beginnings and ends, and what comes after the end."""

    made = lost = late = 0
    conn = reason = None

    def connection_made(self, conn):
        self.conn = conn
        self.made += 1

    def connection_lost(self, exc):
        self.lost += 1
        self.reason = self.conn.close_reason

    def heard(self):
        self.late += self.lost


class Echo(Diary):
    """The server's, frame by frame."""

    def frame_received(self, frame):
        self.heard()
        self.conn.send(frame)


class BatchEcho(Diary):
    """The server's, read by read."""

    def frames_received(self, frames):
        self.heard()
        self.conn.send_many(frames)


class Caller(Diary):
    """A client: some questions at a time; closes when it has all the answers, or ends its stream before them."""

    def __init__(self, dice):
        sizes = dice.choice([[0, 1, 10], [100, 3000], [0, 20_000, 70_000], [300_000]])
        self.frames = [
            dice.randbytes(dice.choice(sizes)) for _ in range(dice.randint(1, 2 if 300_000 in sizes else 30))
        ]
        self.ahead = dice.choice([1, 3, 100])
        self.half_closes = dice.random() < 0.3
        self.received = []
        self.sent = 0

    def connection_made(self, conn):
        super().connection_made(conn)
        self.go_on()

    def go_on(self):
        many = self.frames[self.sent : len(self.received) + self.ahead]
        self.sent += len(many)
        if many:
            self.conn.send_many(many)
        if self.sent == len(self.frames) and self.half_closes:
            self.conn.write_eof()
        if len(self.received) == len(self.frames) and not self.half_closes:
            self.conn.close()

    def frame_received(self, frame):
        self.heard()
        self.received.append(frame)
        self.go_on()


class Scenario:
    """One seed: a server, its clients, and a kernel with moods under both."""

    def __init__(self, seed, fatal, path):
        self.faults = Faults(seed, fatal)
        self.dice = random.Random(seed)
        self.errors = []
        self.served = []
        self.failed = []
        self.reactor = self._reactor()
        self.reactor.set_exception_handler(lambda reactor, context: self.errors.append(context))
        high = self.dice.choice([0, 1000, 65536])
        limits = evloop.Limits(high_water=high, low_water=high // 4, flush_timeout=NEVER, linger=NEVER)
        kind = self.dice.choice([Echo, BatchEcho])
        address = self.dice.choice([f"unix:{path}/s{seed}", "127.0.0.1:0"])
        self.server = evloop.Server(
            self.reactor, address=address, limits=limits, protocol_factory=lambda: self._serve(kind)
        )
        self.server.start()
        self.callers = [Caller(self.dice) for _ in range(self.dice.randint(1, 6))]
        for caller in self.callers:
            self._connect(caller, limits)

    def _connect(self, caller, limits):
        evloop.connect(
            self.reactor,
            self.server.address,
            limits=limits,
            protocol_factory=lambda: caller,
            failed=self.failed.append,
        )

    def _reactor(self):
        def clock():
            return time.monotonic() * HASTE

        if connection.IMPLEMENTATION == "python":
            selector, sockets = MoodySelector(self.faults), moody_sockets(self.faults)
            return evloop.Reactor(selector, clock=clock, socket_factory=sockets)
        reactor = evloop.Reactor(clock=clock)
        reactor._use_syscalls(Table(self.faults).capsule)
        return reactor

    def _serve(self, kind):
        self.served.append(kind())
        return self.served[-1]

    def until(self, condition, what):
        """Turn without waiting, since the clock is not the kernel's."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {self.state()}"
            self.reactor.stop()
            self.reactor.run_forever()

    def state(self):
        """What a person wants to know of a seed that hangs."""
        return [(caller.conn, caller.sent, len(caller.received), len(caller.frames)) for caller in self.callers]

    def run(self):
        """Let it go on until nobody is left; check what holds whatever the kernel did."""
        try:
            self.until(self._is_over, "it does not end")
            self._check()
        finally:
            self.faults.over = True
            self.server.close()
            for conn in [caller.conn for caller in self.callers] + [diary.conn for diary in self.served]:
                if conn is not None:
                    conn.abort()
            self.reactor.stop()
            self.reactor.run_forever()
            self.reactor.close()

    def _is_over(self):
        told = sum(caller.lost > 0 for caller in self.callers) + len(self.failed)
        return told == len(self.callers) and not self.server.connections and self.server.stats()["accepted"] >= told

    def _check(self):
        assert self.errors == []
        for caller in self.callers:
            assert caller.received == caller.frames[: len(caller.received)], "not a prefix of what was sent"
        for diary in self.callers + self.served:
            assert (diary.made, diary.lost, diary.late) in ((1, 1, 0), (0, 0, 0))
        stats = self.server.stats()
        assert stats["buffered_bytes"] == stats["connections"] == 0
        # The listener's, which is watched, or rests and has a timer.
        assert self.reactor.stats()["timers"] == stats["accept_paused"]
        assert self.reactor.stats()["fds"] == 1 - stats["accept_paused"]

    def check_all_arrived(self):
        """What holds when the kernel was only moody, and never said that a connection was over."""
        assert self.failed == []
        for caller in self.callers:
            assert len(caller.received) == len(caller.frames)
            wanted = evloop.CloseReason.PEER if caller.half_closes else evloop.CloseReason.LOCAL
            assert caller.reason is wanted
        assert [diary.reason for diary in self.served] == [evloop.CloseReason.PEER] * len(self.callers)


def run_block(block, fatal, path):
    """Run the seeds of a block; return what was done to them, by kind."""
    done = Counter()
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        before = open_fds()
        scenario = Scenario(seed, fatal, path)
        try:
            scenario.run()
            if not fatal:
                scenario.check_all_arrived()
            assert open_fds() == before
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}, fatal={fatal}: {exc}; done: {dict(scenario.faults.done)}") from exc
        done += scenario.faults.done
    return done


def on_twin(twin, request):
    """Return whether this process runs *twin*; if not, the requesting test has been run in one that does."""
    if twin == connection.IMPLEMENTATION:
        return True
    again(request, env={"EVLOOP_PURE": "1"}, options=["--pure-only"])
    return False


@pytest.mark.slow
@pytest.mark.parametrize("block", range(SEEDS // BLOCK))
@pytest.mark.parametrize("fatal", [False, True], ids=["transparent", "fatal"])
def test_traffic_over_a_moody_kernel_keeps_every_promise(twin, request, tmp_path, caplog, fatal, block):
    """What arrives is a prefix of what was sent, each end is told once, nothing is left over and nothing escapes.

    With the transparent faults alone everything arrives.
    """
    if on_twin(twin, request):
        caplog.set_level(logging.CRITICAL, "evloop")
        done = run_block(block, fatal, tmp_path)
        assert {kind for kind in TRANSPARENT + (FATAL if fatal else ()) if not done[kind]} == set()


@pytest.mark.slow
def test_traffic_over_a_lying_kernel_is_found_out(twin, request, tmp_path):
    """The proof of the apparatus: a byte that is said to be sent and is not, as in many a tutorial, is found out."""
    if on_twin(twin, request):
        found = 0
        for seed in range(20):
            scenario = Scenario(seed, False, tmp_path)
            scenario.faults.lies = 0.02
            scenario.until = lambda condition, what, scenario=scenario: until_briefly(scenario, condition)
            try:
                scenario.run()
                scenario.check_all_arrived()
            except AssertionError:
                found += 1
        assert found >= 10


def until_briefly(scenario, condition):
    """Turn a few thousand times: a stream that lacks a byte stands still."""
    for _ in range(3000):
        if condition():
            return
        scenario.reactor.stop()
        scenario.reactor.run_forever()
    raise AssertionError("it does not end")
