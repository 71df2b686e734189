"""Random handlers under random frames and cancellations, beside the same handlers on a queue of standard asyncio.

A handler is a random program of steps: waiting for frames in every way there is, children, time-outs, its own end.
Outside of it a random list of events happens: frames arrive, the task is cancelled, a gate opens, a time-out expires.
After each event both worlds come to rest, so that their diaries must be equal, whatever a wake-up costs in turns.
Where events happen at once the order of the two is nobody's promise: then each frame is seen once, and in order.
"""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio
import random
import sys

import pytest
from peers import encode
from stage import Stage, pytest_generate_tests, random_seed, stage

from evloop import ConnectionClosed

ROUNDS = 25  # of each stage; a round takes some 10 ms
QUIET = 10  # turns without an entry in the diary, after which nothing is under way
NEW = sys.version_info >= (3, 11)

STEPS = [
    "recv",
    "recv",
    "recv",
    "for",
    "sleep",
    "child",
    "dropped",
    "wait_for",
    "self_cancel",
    "gate",
    "gather",
    "task",
]
# Of these none has a task between the connection and the diary, which a cancellation may find with a frame in hand.
DIRECT = ["recv", "recv", "for", "sleep", "self_cancel", "gate"]
EVENTS = ["frame", "frame", "frames", "frames", "cancel", "gate"]
if NEW:
    STEPS += ["timeout", "group"]
    DIRECT += ["timeout"]
    EVENTS += ["expire"]


class QueueConnection:
    """What a session is to be like: a connection whose frames come from a queue of asyncio."""

    def __init__(self):
        self.queue = asyncio.Queue()
        self.ended = self.waits = False

    async def recv(self):
        if self.ended:
            raise ConnectionClosed("the end")
        if self.waits:
            raise RuntimeError("somebody waits")
        self.waits = self.queue.empty()
        try:
            frame = await self.queue.get()
        finally:
            self.waits = False
        if frame is None:
            self.ended = True
            raise ConnectionClosed("the end")
        return frame

    def __aiter__(self):
        return self

    async def __anext__(self):
        try:
            return await self.recv()
        except ConnectionClosed:
            raise StopAsyncIteration from None


def program(dice, depth=0, choice=STEPS):
    """Return a random program: a list of (step, argument)."""
    steps = []
    for _ in range(dice.randint(2, 7)):
        step = dice.choice(choice)
        if step in ("child", "timeout", "group", "self_cancel"):
            if depth > 1:
                continue
            steps.append((step, program(dice, depth + 1, choice)))
        else:
            steps.append((step, dice.randint(0, 2)))
    return steps


class Player:
    """The handler that plays a program, and keeps the diary."""

    def __init__(self, steps):
        self.steps = steps
        self.diary = []
        self.gate = None
        self.timeouts = []
        self.done = False
        self.task = None

    async def __call__(self, conn):
        self.task = asyncio.current_task()
        try:
            await self.play(conn, self.steps)
            await self.rest(conn)
        except BaseException as exc:  # also a cancellation that came between two steps
            self.note("ended", type(exc))
        self.done = True

    async def rest(self, conn):
        while True:
            try:
                async for frame in conn:
                    self.note("rest", frame)
                return
            except asyncio.CancelledError:
                self.forgive("rest")

    def note(self, *what):
        self.diary.append(what)

    def spawn(self, coro):
        """Return a task; a handler that ends leaves some of them to themselves."""
        task = asyncio.ensure_future(coro)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return task

    def forgive(self, where):
        self.note("cancelled", where)
        if NEW and not self.timeouts:
            asyncio.current_task().uncancel()

    async def play(self, conn, steps):
        for step, argument in steps:
            try:
                await getattr(self, f"do_{step}")(conn, argument)
            except asyncio.CancelledError:
                if self.timeouts:  # asyncio.timeout's to forgive
                    raise
                self.forgive(step)

    async def do_recv(self, conn, _):
        self.note("recv", await conn.recv())

    async def do_for(self, conn, count):
        async for frame in conn:
            self.note("for", frame)
            if count == 0:
                return
            count -= 1

    async def do_sleep(self, conn, count):
        for _ in range(count):
            await asyncio.sleep(0)
        self.note("slept")

    async def do_child(self, conn, steps):
        await self.spawn(self.play(conn, steps))

    async def do_task(self, conn, _):
        self.note("task", await self.spawn(conn.recv()))

    async def do_dropped(self, conn, count):
        reader = self.spawn(conn.recv())
        for _ in range(count):
            await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait([reader])
        self.note("dropped", None if reader.cancelled() else reader.result())

    async def do_wait_for(self, conn, _):
        try:
            self.note("wait_for", await asyncio.wait_for(conn.recv(), 0))
        except asyncio.TimeoutError:
            self.note("late")

    async def do_self_cancel(self, conn, steps):
        asyncio.current_task().cancel()
        await self.play(conn, steps)

    async def do_gate(self, conn, _):
        self.gate = asyncio.get_running_loop().create_future()
        await self.gate
        self.note("gate")

    async def do_gather(self, conn, count):
        frame, _ = await asyncio.gather(self.spawn(conn.recv()), self.do_sleep(conn, count))
        self.note("gather", frame)

    async def do_timeout(self, conn, steps):
        try:
            async with asyncio.timeout(None) as scope:
                self.timeouts.append(scope)
                try:
                    await self.play(conn, steps)
                finally:
                    self.timeouts.remove(scope)
        except TimeoutError:
            self.note("timeout")

    async def do_group(self, conn, steps):
        async with asyncio.TaskGroup() as group:
            group.create_task(self.play(conn, steps))
            group.create_task(self.do_sleep(conn, 1))


def events(dice, at_once):
    """Return random events: lists of what happens in one turn."""
    return [[dice.choice(EVENTS) for _ in range(dice.randint(1, 3) if at_once else 1)] for _ in range(25)]


class World:
    """One of the two: ``deliver(frames)`` and ``end()`` are what makes them different."""

    def __init__(self, loop, player, turn):
        self.loop, self.player, self.turn = loop, player, turn

    def rest(self):
        """Turn until nothing is under way."""
        quiet = 0
        while quiet < QUIET:
            before = len(self.player.diary)
            self.turn()
            quiet = quiet + 1 if len(self.player.diary) == before else 0

    def _expire(self, scope):
        if scope in self.player.timeouts and not scope.expired():
            scope.reschedule(self.loop.time() - 1)

    def play(self, script):
        """Have the events happen; return the diary."""
        player, number = self.player, 0
        self.rest()
        for moment in script:
            player.note("event", *moment)
            for what in moment:
                if player.done:
                    break
                if what in ("frame", "frames"):
                    # A connection is read when its frames are taken, a queue is always there: one read at a time, then.
                    if len(moment) == 1 and len(frames_in(player.diary)) < number:
                        continue
                    count = 1 if what == "frame" else 3
                    self.deliver([b"%d" % n for n in range(number, number + count)])
                    number += count
                elif what == "cancel" and not player.task.done():
                    player.task.cancel()
                elif what == "gate" and player.gate is not None and not player.gate.done():
                    player.gate.set_result(None)
                elif what == "expire" and player.timeouts:
                    self.loop.call_soon(self._expire, player.timeouts[-1])
            self.rest()
        # The end is read when the last frame is taken, and a queue's is there: what comes now is one world's own.
        self.comparable = None if len(frames_in(player.diary)) == number else len(player.diary)
        if not player.done:
            self.end()
        for _ in range(100):
            self.rest()
            if player.done:
                break
            if player.gate is not None and not player.gate.done():
                player.gate.set_result(None)
        assert player.done, player.diary
        return player.diary, number


class SessionWorld(World):
    def __init__(self, stage, player):
        super().__init__(stage.loop, player, stage.turn)
        self.stage = stage
        _, self.peer = stage.connect(player)

    def deliver(self, frames):
        self.peer.write(encode(*frames))

    def end(self):
        self.peer.fin()


class QueueWorld(World):
    def __init__(self, player):
        super().__init__(asyncio.SelectorEventLoop(), player, self._turn)
        self.loop.call_soon(self._begin)

    def _begin(self):
        self.conn = QueueConnection()
        self.loop.create_task(self.player(self.conn))

    def _turn(self):
        self.loop.stop()
        self.loop.run_forever()

    def close(self):
        """End what a program has left behind, and the loop."""
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.rest()
        self.loop.close()

    def deliver(self, frames):
        for frame in frames:
            self.conn.queue.put_nowait(frame)

    def end(self):
        self.conn.queue.put_nowait(None)


def frames_in(diary):
    """Return the frames of a diary."""
    return [entry[1] for entry in diary if entry[0] != "event" and len(entry) > 1 and isinstance(entry[1], bytes)]


def test_session_random_handler_behaves_as_on_a_queue(stage):
    """Every way to wait, to be interrupted and to go on, in all combinations that a dice finds."""
    for _ in range(ROUNDS):
        seed = random_seed("SESSION_SEED")
        dice = random.Random(seed)
        steps, script = program(dice), events(dice, False)
        session, queue = SessionWorld(stage, Player(steps)), QueueWorld(Player(steps))
        got, _ = session.play(script)
        expected, _ = queue.play(script)
        queue.close()
        assert session.comparable == queue.comparable, f"EVLOOP_SESSION_SEED={seed}"
        assert got[: session.comparable] == expected[: queue.comparable], f"EVLOOP_SESSION_SEED={seed}"
        assert stage.errors == []


def test_session_random_handler_sees_each_frame_once_whatever_strikes_with_it(stage):
    """Frames, cancellations, time-outs in one turn."""
    for _ in range(ROUNDS):
        seed = random_seed("SESSION_SEED")
        dice = random.Random(seed)
        steps, script = program(dice, choice=DIRECT), events(dice, True)
        diary, number = SessionWorld(stage, Player(steps)).play(script)
        expected = [b"%d" % n for n in range(number)]
        seen = frames_in(diary)
        assert seen == (expected[: len(seen)] if diary[-1][0] == "ended" else expected), f"EVLOOP_SESSION_SEED={seed}"
        assert stage.errors == []
