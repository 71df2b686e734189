"""The event loop beside asyncio's own: one script, the same trace of callbacks, futures, tasks and reads."""

from __future__ import annotations

import asyncio
import contextvars
import random
import socket

import pytest

import evloop.aio

LOOPS = {"ours": (evloop.aio.EventLoop, False), "debug": (evloop.aio.EventLoop, True)}
PATIENCE = 20.0  # seconds; only a failing test waits as long


@pytest.fixture(params=["stock", *LOOPS])
def loop(request):
    """asyncio's own loop, ours, and ours in debug mode; what holds for the first has to hold for all."""
    factory, debug = LOOPS.get(request.param, (asyncio.SelectorEventLoop, False))
    loop = factory()
    loop.set_debug(debug)
    yield loop
    loop.close()


def run(loop, main):
    """Run a coroutine to its end, or to the end of patience."""
    return loop.run_until_complete(asyncio.wait_for(main, PATIENCE))


# --- the differential ------------------------------------------------------------------------------------------------


class Script:
    """Random but repeatable work on one loop; all that may differ between two loops is left to chance by none."""

    def __init__(self, loop, seed, watch):
        self.loop, self.random = loop, random.Random(seed)
        self.trace, self.timers, self.futures, self.steps = [], [], [], 0
        self.mine, self.other = socket.socketpair()
        self.mine.setblocking(False)
        loop.set_exception_handler(lambda _, context: self.trace.append(("error", repr(context.get("exception")))))
        if watch:  # one fd: the kernel promises no order of several
            loop.add_reader(self.mine, self.read)

    def note(self, *what):
        self.trace.append(what)

    def step(self, name):
        """Do a few random things; the choice depends on nothing but the seed and the order of the steps."""
        self.note(name)
        self.steps += 1
        if self.steps > 600:
            return self.loop.stop()
        for _ in range(self.random.choice((0, 1, 1, 1, 2))):
            self.random.choice(self.ACTIONS)(self, self.steps)
        return None

    def read(self):
        try:
            self.note("read", len(self.mine.recv(10)))
        except BlockingIOError:
            self.note("nothing to read")
        self.step("reader")

    def soon(self, number):
        self.loop.call_soon(self.step, f"soon {number}")

    def safe(self, number):
        self.loop.call_soon_threadsafe(self.step, f"safe {number}")

    def now(self, number):
        self.timers.append(self.loop.call_later(self.random.choice((0, -1)), self.step, f"timer {number}"))

    def far(self, number):
        self.timers.append(self.loop.call_later(1000, self.step, "never"))

    def cancel(self, number):
        if self.timers:
            self.timers.pop(self.random.randrange(len(self.timers))).cancel()

    def fail(self, number):
        self.loop.call_soon([].pop)

    def send(self, number):
        self.other.send(b"x")

    def wait(self, number):
        self.futures.append(future := self.loop.create_future())
        future.add_done_callback(lambda _: self.step(f"future {number}"))

    def resolve(self, number):
        if self.futures:
            self.futures.pop(0).set_result(number)

    def task(self, number):
        async def body():
            for left in range(self.random.choice((0, 1, 3))):
                await asyncio.sleep(0)
                self.note(f"task {number} slept", left)
            if self.futures:
                self.note(f"task {number} got", await self.futures.pop(0))
            self.step(f"task {number}")

        self.tasks.append(self.loop.create_task(body()))

    tasks: list = []  # noqa: RUF012 - set anew for each script
    ACTIONS = (soon, soon, soon, safe, now, now, far, cancel, fail, send, send, wait, resolve, resolve, task, task)

    def run(self):
        self.tasks = []
        try:
            while self.steps <= 600:
                self.loop.call_soon(self.step, "again")
                self.loop.call_soon(self.loop.call_soon, self.loop.call_soon, self.loop.stop)
                self.loop.run_forever()
        finally:
            self.loop.remove_reader(self.mine)
            self.mine.close()
            self.other.close()
            for task in self.tasks:
                task.cancel()
            for future in self.futures:
                future.cancel()
            while not all(task.done() for task in self.tasks):
                self.loop.call_soon(self.loop.stop)
                self.loop.run_forever()
        return self.trace


@pytest.mark.parametrize("watch", [True, False], ids=["fd", "no-fd"])
@pytest.mark.parametrize("seed", range(15))
def test_scheduling_same_script_gives_the_trace_of_asyncio(loop, seed, watch):
    """What runs before what is no promise of asyncio's documents, and yet what programs depend on."""
    stock = asyncio.SelectorEventLoop()
    try:
        expected = Script(stock, seed, watch).run()
    finally:
        stock.close()
    assert Script(loop, seed, watch).run() == expected
    assert len(expected) > 600


# --- futures and tasks -----------------------------------------------------------------------------------------------


def test_create_future_belongs_to_the_loop(loop):
    """The C future asks its loop for all that it schedules."""
    future = loop.create_future()
    assert type(future) is asyncio.Future
    assert future.get_loop() is loop
    future.set_result(5)
    assert loop.run_until_complete(future) == 5


def test_create_task_takes_a_name_or_gets_a_number(loop):
    """Names are how one finds one's task in a dump."""

    async def name():
        return asyncio.current_task().get_name()

    async def main():
        return await loop.create_task(name(), name="mine"), await loop.create_task(name())

    named, numbered = run(loop, main())
    assert named == "mine"
    assert numbered.startswith("Task-")


@pytest.mark.since(3, 11)  # the argument is new in 3.11
def test_create_task_runs_in_the_context_given(loop):
    """A context that is handed over is entered itself, and not a copy of it."""
    variable = contextvars.ContextVar("variable", default="unset")

    async def set_it():
        variable.set("set")

    async def main():
        context = contextvars.copy_context()
        await loop.create_task(set_it(), context=context)
        await loop.create_task(set_it())
        return context[variable], variable.get()

    assert run(loop, main()) == ("set", "unset")


def test_create_task_uses_the_factory_while_there_is_one(loop):
    """Libraries install one to see each task."""
    made = []

    def factory(loop, coro, **rest):
        made.append(coro.__name__)
        return asyncio.Task(coro, loop=loop, **rest)

    async def some():
        return 1

    async def main():
        await loop.create_task(some(), name="factory's")
        loop.set_task_factory(None)
        await loop.create_task(some())

    loop.set_task_factory(factory)
    run(loop, main())
    assert made.count("some") == 1


def test_create_task_of_a_closed_loop_is_refused(loop):
    """The text is what programs look for; the coroutine is the caller's to close."""

    async def some():
        pass

    loop.close()
    coro = some()
    with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
        loop.create_task(coro)
    coro.close()


@pytest.mark.parametrize("thing", [None, 5, print, b""])
def test_create_task_of_no_coroutine_is_a_type_error(loop, thing):
    """As asyncio's own says it."""
    with pytest.raises(TypeError, match="a coroutine was expected"):
        loop.create_task(thing)


def test_create_task_misused_arguments_are_type_errors(loop):
    """The signature is asyncio's: name and context by keyword, nothing else."""
    for arguments, keywords in [((), {}), ((1, "name"), {}), ((1,), {"nome": "x"})]:
        with pytest.raises(TypeError):
            loop.create_task(*arguments, **keywords)


def test_get_debug_follows_set_debug_on_a_live_loop(loop):
    """Futures ask it when they are made; a future of debug mode keeps where it was made."""

    async def main():
        seen = []
        for enabled in (True, False):
            loop.set_debug(enabled)
            seen.append((loop.get_debug(), loop.create_future()._source_traceback is not None))
            await asyncio.sleep(0)
        return seen

    assert run(loop, main()) == [(True, True), (False, False)]


def test_run_once_polls_the_fds_each_time(loop):
    """Tests of many libraries turn the loop once with stop() and run_forever(), and expect that the fds are seen."""
    mine, other = socket.socketpair()
    with mine, other:
        got = []
        loop.add_reader(mine, lambda: got.append(mine.recv(1)))
        for _ in range(5):
            other.send(b"x")
            loop.call_soon(loop.stop)
            loop.run_forever()
        loop.remove_reader(mine)
        assert got == [b"x"] * 5


def test_call_soon_chain_does_not_starve_a_signal(loop):
    """A loop that always has something to run still has to look at the pipe that signals come through."""
    import os
    import signal

    seen = []

    def spin(left):
        if seen or not left:
            loop.stop()
        else:
            loop.call_soon(spin, left - 1)

    loop.add_signal_handler(signal.SIGUSR1, seen.append, "signal")
    try:
        loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        loop.call_soon(spin, 1000)
        loop.run_forever()
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)
    assert seen == ["signal"]


def test_call_soon_chain_does_not_starve_a_timer(loop):
    """The same of a deadline that passes while callbacks keep the loop busy."""
    seen = []
    end = loop.time() + PATIENCE

    def spin():
        if seen or loop.time() > end:
            loop.stop()
        else:
            loop.call_soon(spin)

    loop.call_later(0.002, seen.append, "timer")
    loop.call_soon(spin)
    loop.run_forever()
    assert seen == ["timer"]


def test_interrupt_ends_a_chain_of_callbacks(loop):
    """Ctrl-C in a program that computes in callbacks: KeyboardInterrupt comes out of run_forever."""
    import signal

    def spin(left):
        if left == 500:
            signal.raise_signal(signal.SIGINT)
        if left:
            loop.call_soon(spin, left - 1)
        else:
            loop.stop()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        loop.call_soon(spin, 1000)
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
    finally:
        signal.signal(signal.SIGINT, before)
