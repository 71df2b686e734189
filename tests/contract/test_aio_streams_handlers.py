"""A handler of start_server is an ordinary task, though its task does not run for each of its reads.

Every script runs on asyncio's streams as well, and what it notes has to agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import weakref

import pytest
from streamworlds import OURS, STANDARD, WORLDS, both, run, served

needs_timeout = pytest.mark.since(3, 11)  # asyncio.timeout came with Python 3.11


async def turns(count=5):
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


class Scene:
    """One handler, its task, the client's end, and what it notes."""

    def __init__(self, notes, reader, writer, task):
        self.notes, self.reader, self.writer, self.task = notes, reader, writer, task


@contextlib.asynccontextmanager
async def handled(world, handler, first=b""):
    """Yield the scene of a handler that has been given *first* and waits; handler(note, reader, writer)."""
    notes, tasks = [], []

    async def connected(reader, writer):
        tasks.append(asyncio.current_task())
        try:
            await handler(notes.append, reader, writer)
        except BaseException as exc:
            notes.append(("ended", type(exc), str(exc)))
            raise
        else:
            notes.append("returned")
        finally:
            writer.close()

    async with served(world, connected) as port:
        reader, writer = await world.open_connection("127.0.0.1", port)
        if first:
            writer.write(first)
        while not tasks:
            await asyncio.sleep(0)
        await turns()
        try:
            yield Scene(notes, reader, writer, tasks[0])
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            if not tasks[0].done():
                tasks[0].cancel()
            await asyncio.wait(tasks)


async def told(scene, count=1):
    """Wait until so many things have been noted."""
    while len(scene.notes) < count:
        await asyncio.sleep(0)


def agreed(handler, play, first=b""):
    """Run a handler and what is done to it in both worlds; return the notes, which agree, as do the reports."""
    found = []
    for world in WORLDS:

        async def main(world):
            async with handled(world, handler, first) as scene:
                await play(scene)
                notes = list(scene.notes)
            return notes, scene.task.cancelled()

        result, reported = run(world, main)
        # "Exception in callback", and then each loop's own way to show it.
        messages = [" ".join(context["message"].split()[:3]) for context in reported]
        found.append((result, [*zip(messages, [repr(context.get("exception")) for context in reported], strict=True)]))
    assert found[0] == found[1]
    return found[1][0]


# --- what it is ------------------------------------------------------------------------------------------------------


def test_handler_is_the_current_task_in_its_own_context_at_each_read():
    """What asyncio.current_task() and context variables say does not depend on who resumes it."""
    variable = contextvars.ContextVar("variable", default=0)

    async def handler(note, reader, writer):
        task = asyncio.current_task()
        for turn in range(3):
            note((await reader.readexactly(1), asyncio.current_task() is task, variable.get()))
            variable.set(turn + 1)

    async def play(scene):
        for letter in (b"a", b"b", b"c"):
            scene.writer.write(letter)
            await turns()
            assert asyncio.current_task() is not scene.task
            assert variable.get() == 0
        await told(scene, 4)

    notes, _ = agreed(handler, play)
    assert notes == [(b"a", True, 0), (b"b", True, 1), (b"c", True, 2), "returned"]


def test_handler_task_shows_its_coroutine():
    """repr() and get_stack() of a waiting task are what one looks at when a server hangs."""

    async def handler(note, reader, writer):
        await reader.readexactly(1)

    async def main(world):
        async with handled(world, handler) as scene:
            shown = repr(scene.task)
            stack = [frame.f_code.co_name for frame in scene.task.get_stack()]
            scene.writer.write(b"x")
            await told(scene)
            return "connected() running at" in shown, stack

    assert both(main) == (True, ["connected"])


def test_task_factory_is_given_the_coroutine_itself():
    """Whoever sets one wants to see what runs."""

    async def handler(note, reader, writer):
        note(await reader.readexactly(1))

    async def main(world):
        seen = []

        def factory(loop, coro, **options):
            seen.append(asyncio.iscoroutine(coro) and hasattr(coro, "cr_code") and type(coro).__name__)
            return asyncio.Task(coro, loop=loop, **options)

        asyncio.get_running_loop().set_task_factory(factory)
        async with handled(world, handler, b"x") as scene:
            await told(scene, 2)
            return set(seen), list(scene.notes)

    assert both(main) == ({"coroutine"}, [b"x", "returned"])


@pytest.mark.since(3, 12)  # eager tasks came with Python 3.12
def test_eager_handler_behaves_as_any():
    """Its first step is inside of connection_made()."""

    async def handler(note, reader, writer):
        note(await reader.readexactly(1))
        note(await asyncio.create_task(reader.readexactly(1)))
        note(await reader.readexactly(1))

    async def main(world):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with handled(world, handler) as scene:
            for letter in (b"a", b"b", b"c"):
                scene.writer.write(letter)
                await turns()
            await told(scene, 4)
            return list(scene.notes)

    assert both(main) == [b"a", b"b", b"c", "returned"]


# --- what it may do --------------------------------------------------------------------------------------------------


def test_handler_mixes_reads_with_everything_else():
    """Sleeps, futures, tasks, reads of other connections, locks: each is the task's, and the reads go on after it."""

    async def handler(note, reader, writer):
        loop = asyncio.get_running_loop()
        note(await reader.readexactly(1))
        await asyncio.sleep(0)
        note(await reader.readexactly(1))
        await asyncio.sleep(0.001)
        future = loop.create_future()
        loop.call_soon(future.set_result, "future")
        note(await future)
        note(await reader.readexactly(1))
        note(await asyncio.gather(reader.readexactly(1), asyncio.sleep(0, "slept")))
        note(await asyncio.wait_for(reader.readexactly(1), 10))
        async with asyncio.Lock():
            note(await reader.readline())
        try:
            await asyncio.wait_for(reader.read(5), 0.001)
        except asyncio.TimeoutError:
            note("time-out")
        writer.write(b"more")
        note(await reader.read(5))
        note(await reader.read())

    async def play(scene):
        for letter in b"abcde":
            scene.writer.write(bytes([letter]))
            await turns()
        scene.writer.write(b"f\n")
        assert await scene.reader.readexactly(4) == b"more"
        scene.writer.write(b"g")
        await told(scene, 9)
        scene.writer.write_eof()
        await told(scene, 11)

    notes, _ = agreed(handler, play)
    assert notes[-3:] == [b"g", b"", "returned"]


def test_handler_reads_of_another_connection():
    """A proxy waits for its upstream's reader as for its own."""

    async def upstream(reader, writer):
        writer.write((await reader.readline()).upper())
        writer.close()

    async def main(world):
        async with served(world, upstream) as port:

            async def handler(note, reader, writer):
                there, back = await world.open_connection("127.0.0.1", port)
                back.write(await reader.readline())
                writer.write(await there.readline())
                back.close()
                await back.wait_closed()

            async with handled(world, handler, b"hello\n") as scene:
                return await scene.reader.read(), scene.notes

    assert both(main) == (b"HELLO\n", ["returned"])


def test_handler_two_tasks_of_a_connection_each_read_in_turn():
    """The handler's read waits, then a child's: whoever waits is woken, whichever way."""

    async def handler(note, reader, writer):
        for _ in range(2):
            note(await reader.readexactly(1))
            child = asyncio.ensure_future(reader.readexactly(1))
            note(await child)

    async def play(scene):
        for letter in b"abcd":
            scene.writer.write(bytes([letter]))
            await turns()
        await told(scene, 5)

    agreed(handler, play)


@pytest.mark.parametrize("way", ["feed", "eof", "error"])
def test_handler_woken_by_another_task_goes_on(way):
    """feed_data() and its like may be called by anybody."""

    async def handler(note, reader, writer):
        note(reader)
        note(await reader.read(10))

    async def main(world):
        async with handled(world, handler) as scene:
            reader = scene.notes.pop()
            if way == "feed":
                reader.feed_data(b"fed")
            elif way == "eof":
                reader.feed_eof()
            else:
                reader.set_exception(ZeroDivisionError("set"))
            now = list(scene.notes)
            with contextlib.suppress(ZeroDivisionError):
                await scene.task
            return now, scene.notes

    result = [run(world, main)[0] for world in WORLDS]
    assert result[0] == result[1]
    assert result[1][0] == []


# --- ends and cancellations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"data"], ids=["waiting", "woken"])
@pytest.mark.parametrize("message", [None, "because"])
def test_handler_cancelled_from_outside_raises_at_its_read(data, message):
    """With the message, and without having taken what came with it."""

    async def handler(note, reader, writer):
        note("waits")
        try:
            await reader.read(10)
        except asyncio.CancelledError as exc:
            note((exc.args, bytes(reader._buffer)))
            raise

    async def play(scene):
        if data:
            scene.writer.write(data)
            await turns(1)
        scene.task.cancel(message)
        scene.task.cancel(message)
        await asyncio.wait([scene.task])

    notes, cancelled = agreed(handler, play)
    assert cancelled
    assert notes[-1][1] is asyncio.CancelledError


def test_handler_that_survives_a_cancellation_reads_on():
    """As the standard library lets it."""

    async def handler(note, reader, writer):
        for _ in range(3):
            try:
                note(await reader.readexactly(1))
            except asyncio.CancelledError:
                note("cancelled")

    async def play(scene):
        scene.writer.write(b"a")
        await told(scene)
        scene.task.cancel()
        await told(scene, 2)
        scene.writer.write(b"b")
        await told(scene, 4)

    notes, cancelled = agreed(handler, play)
    assert notes == [b"a", "cancelled", b"b", "returned"]
    assert not cancelled


@pytest.mark.parametrize(
    "then", ["read", "sleep", "yield", "future", "task", "done future", "return", "raise", "twice"]
)
def test_handler_that_cancels_itself_is_cancelled_at_its_next_wait(then):
    """Whether it runs in its task's step or in its task's place."""

    async def handler(note, reader, writer):
        note(await reader.readexactly(1))
        child = asyncio.ensure_future(asyncio.sleep(60)) if then == "task" else None
        asyncio.current_task().cancel("mine")
        note("asked")
        try:
            if then in ("read", "twice"):
                note(await reader.readexactly(1))
            elif then == "sleep":
                await asyncio.sleep(60)
            elif then == "yield":
                await asyncio.sleep(0)
                note("went on")
            elif then == "future":
                await asyncio.get_running_loop().create_future()
            elif then == "task":
                await child
            elif then == "done future":
                future = asyncio.get_running_loop().create_future()
                future.set_result(None)
                await future
                note("not suspended")
                await asyncio.sleep(0)
            elif then == "raise":
                raise ZeroDivisionError("first")
        except asyncio.CancelledError as exc:
            note(("caught", exc.args, child and child.cancelled()))
            if then != "twice":
                raise
            note(await reader.readexactly(1))

    async def play(scene):
        scene.writer.write(b"a")
        await told(scene, 2)
        await turns()
        scene.writer.write(b"b")
        await asyncio.wait([scene.task])

    agreed(handler, play)


@needs_timeout
def test_handler_timeouts_and_task_groups_cancel_its_reads():
    """asyncio.timeout cancels the task and takes that back; a group cancels its parent for a failed child."""

    async def handler(note, reader, writer):
        for _ in range(2):
            try:
                async with asyncio.timeout(0.001):
                    await reader.readexactly(1)
            except TimeoutError:
                note(("time-out", asyncio.current_task().cancelling()))
        async with asyncio.timeout(60):
            note(await reader.readexactly(1))

        async def fail():
            await reader.readexactly(1)
            raise ZeroDivisionError("child")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.sleep(60)
        except BaseExceptionGroup as exc:  # noqa: F821 - Python 3.11
            note([repr(each) for each in exc.exceptions])
        note((await reader.readexactly(1), asyncio.current_task().cancelling()))

    async def play(scene):
        await told(scene, 2)
        for letter in b"abc":
            scene.writer.write(bytes([letter]))
            await turns()
        await told(scene, 6)

    notes, _ = agreed(handler, play)
    assert notes[:2] == [("time-out", 0)] * 2


def test_handler_exception_after_a_read_is_the_tasks():
    """The handler's own exception, reported once, as the version does."""

    async def handler(note, reader, writer):
        await reader.readexactly(1)
        raise ZeroDivisionError("mine")

    async def play(scene):
        scene.writer.write(b"a")
        await asyncio.wait([scene.task])
        assert repr(scene.task.exception()) == "ZeroDivisionError('mine')"

    agreed(handler, play)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_handler_exit_ends_the_run(world, kind):
    """Out of run_until_complete(), in the turn in which it was raised; the loop can run again."""
    loop = world.new_loop()
    went_on = []

    async def connected(reader, writer):
        try:
            await reader.readexactly(1)
            raise kind
        finally:
            writer.close()

    async def main():
        server = await world.start_server(connected, "127.0.0.1", 0)
        _, writer = await world.open_connection(*server.sockets[0].getsockname())
        await turns()
        writer.write(b"x")
        try:
            await asyncio.sleep(60)
        finally:
            writer.close()
            server.close()
            went_on.append(True)

    task = loop.create_task(main())
    loop.set_exception_handler(lambda loop, context: None)
    try:
        with pytest.raises(kind):
            loop.run_until_complete(task)
        assert not went_on
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.run_until_complete(turns())
    finally:
        loop.close()
    gc.collect()


# --- what is left ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["returns", "raises", "cancelled", "loop closed"])
def test_handler_leaves_nothing_behind(end):
    """Reader, writer and task die when it has ended; with the loop, if it never did."""

    class Mark:
        pass

    marks = []

    async def handler(note, reader, writer):
        mark = Mark()
        marks.append(weakref.ref(mark))
        await reader.readexactly(1)
        if end == "raises":
            raise ZeroDivisionError(mark)
        await reader.readexactly(1 if end == "returns" else 2)

    async def main(world):
        async with handled(world, handler) as scene:
            kept.append(weakref.ref(scene.task))
            for _ in range(2):
                scene.writer.write(b"a")
                await turns()
            if end == "cancelled":
                scene.task.cancel()
            if end != "loop closed":
                await asyncio.wait([scene.task])

    for world in (STANDARD, OURS):
        kept = []
        run(world, main)
        gc.collect()
        assert [reference() for reference in [*kept, *marks]] == [None] * (len(kept) + len(marks))


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_handler_of_an_abandoned_loop_is_collected(world):
    """A loop that is closed while handlers wait: circles, and asyncio's words for the tasks in them."""
    loop = world.new_loop()
    reported = []
    loop.set_exception_handler(lambda loop, context: reported.append(context["message"]))

    async def connected(reader, writer):
        await reader.readexactly(1)
        await reader.readexactly(1)

    async def main():
        server = await world.start_server(connected, "127.0.0.1", 0)
        reader, writer = await world.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x")
        await turns(10)
        server.close()
        writer.transport.abort()
        return weakref.ref(reader)

    reader = loop.run_until_complete(main())
    with pytest.warns(ResourceWarning):
        loop.close()
        del loop
        gc.collect()
    assert reader() is None
    assert set(reported) <= {"Task was destroyed but it is pending!"}
