"""The operations that the micro benchmark measures: each does *count* of them on a loop, and returns when all are done.

What surrounds an operation is as little as can be, and the same for every loop.  Rule: nothing in this file measures,
and nothing here knows whose loop it is.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

Operation = Callable[[asyncio.AbstractEventLoop, int], None]

# Operations between two turns, in the cases that do not ask for a turn each: about what a busy server has.
BATCH = 1000

# Seconds; the first of timers that are cancelled, and the second of timers that come due while the batch is armed or
# soon after: the clock of uvloop's timers counts milliseconds.
FAR, NEAR = 1000.0, 0.001


def call_soon_chain(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """A turn of the loop each: a callback that schedules itself."""
    left = count

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            loop.stop()

    loop.call_soon(step)
    loop.run_forever()


def _with_fd(operation: Operation) -> Operation:
    """Make of an operation the same in a loop that watches an fd, as that of every server does: it has to poll."""

    def watching(loop: asyncio.AbstractEventLoop, count: int) -> None:
        mine, other = socket.socketpair()
        with mine, other:
            loop.add_reader(mine, _nothing)
            try:
                operation(loop, count)
            finally:
                loop.remove_reader(mine)

    watching.__doc__ = f"{operation.__doc__} An fd is watched."
    return watching


def _in_batches(loop: asyncio.AbstractEventLoop, count: int, batch: Callable[[int], None]) -> None:
    """Have *batch* schedule *count* callbacks, at most BATCH before a turn."""
    left = count

    def step() -> None:
        nonlocal left
        if not left:
            loop.stop()
            return
        size = min(left, BATCH)
        left -= size
        batch(size)
        loop.call_soon(step)

    loop.call_soon(step)
    loop.run_forever()


def _nothing(*_args: object) -> None:
    """Be called."""


def call_soon_batch(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """A thousand callbacks a turn."""

    def batch(size: int) -> None:
        for _ in range(size):
            loop.call_soon(_nothing)

    _in_batches(loop, count, batch)


def call_soon_arguments(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """A thousand callbacks a turn, with three arguments each."""

    def batch(size: int) -> None:
        for _ in range(size):
            loop.call_soon(_nothing, 1, 2, 3)

    _in_batches(loop, count, batch)


def call_later_cancel(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """A time-out that is armed and taken back, as nearly all of them are."""

    def batch(size: int) -> None:
        for _ in range(size):
            loop.call_later(FAR, _nothing).cancel()

    _in_batches(loop, count, batch)


def call_later_due(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """A timer that comes due, a thousand at about the same time."""
    left = 0

    def due() -> None:
        nonlocal left
        left -= 1
        if not left:
            loop.stop()

    while count:
        left = min(count, BATCH)
        count -= left
        for _ in range(left):
            loop.call_later(NEAR, due)
        loop.run_forever()


def call_soon_threadsafe(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """A thousand a turn, from the loop's own thread: what a library calls that does not know where it runs."""

    def batch(size: int) -> None:
        for _ in range(size):
            loop.call_soon_threadsafe(_nothing)

    _in_batches(loop, count, batch)


def _beside(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    """Run the loop until it is stopped, with *work* in a thread."""
    thread = threading.Thread(target=work)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()


def call_soon_threadsafe_flood(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """From another thread, as fast as it can."""
    left = count

    def step() -> None:
        nonlocal left
        left -= 1
        if not left:
            loop.stop()

    def work() -> None:
        for _ in range(count):
            loop.call_soon_threadsafe(step)

    _beside(loop, work)


def call_soon_threadsafe_wake(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """From another thread, one at a time into a loop that sleeps: what the end of a call in an executor costs."""
    done = threading.Semaphore(0)

    def work() -> None:
        for _ in range(count):
            loop.call_soon_threadsafe(done.release)
            done.acquire()
        loop.call_soon_threadsafe(loop.stop)

    _beside(loop, work)


def _in_task(main: Callable[[asyncio.AbstractEventLoop, int], Coroutine[Any, Any, None]]) -> Operation:
    """Make an operation of a coroutine function."""

    def operation(loop: asyncio.AbstractEventLoop, count: int) -> None:
        loop.run_until_complete(main(loop, count))

    operation.__doc__ = main.__doc__
    return operation


@_in_task
async def sleep_0(_loop: asyncio.AbstractEventLoop, count: int) -> None:
    """A task that lets the others run: a turn each."""
    for _ in range(count):
        await asyncio.sleep(0)


@_in_task
async def future_wake_up(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """A task that waits for a future, which a callback resolves: two turns each."""
    for _ in range(count):
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future


@_in_task
async def create_task(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """A task that returns at once, made and awaited."""

    async def nothing() -> None:
        pass

    for _ in range(count):
        await loop.create_task(nothing())


@_in_task
async def wait_for(_loop: asyncio.AbstractEventLoop, count: int) -> None:
    """A time-out around something short: a timer that is taken back, and whatever the Python has around it."""
    for _ in range(count):
        await asyncio.wait_for(asyncio.sleep(0), FAR)


CASES: dict[str, Operation] = {
    "call_soon": call_soon_chain,
    "call_soon-fd": _with_fd(call_soon_chain),
    "call_soon-batch": call_soon_batch,
    "call_soon-arguments": call_soon_arguments,
    "call_later-cancel": call_later_cancel,
    "call_later-due": call_later_due,
    "threadsafe": call_soon_threadsafe,
    "threadsafe-flood": call_soon_threadsafe_flood,
    "threadsafe-wake": call_soon_threadsafe_wake,
    "sleep-0": sleep_0,
    "sleep-0-fd": _with_fd(sleep_0),
    "future": future_wake_up,
    "future-fd": _with_fd(future_wake_up),
    "task": create_task,
    "wait_for": wait_for,
}
