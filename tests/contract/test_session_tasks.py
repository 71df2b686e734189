"""A handler is an ordinary task of asyncio: current_task(), contexts, names, stacks, factories, exceptions."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio
import contextvars
import gc
import io
import logging
import select
import sys
import traceback

import pytest
from peers import PATIENCE, encode
from stage import pytest_generate_tests, stage

import evloop
from evloop import CloseReason, ConnectionClosed
from evloop.aio.sessions import coroutine_protocol

WHO = contextvars.ContextVar("who", default="nobody")


def task_of(conn):
    """Return the task of a connection's handler."""
    return next(task for task in asyncio.all_tasks(conn._reactor) if task.get_coro() is conn.protocol)


def test_session_current_task_is_its_own_in_every_step(stage):
    """A frame taken directly, by a step of the task, by the clean-up: it is always the same one."""
    tasks = []

    async def handler(conn):
        tasks.append(asyncio.current_task())
        async for _ in conn:
            tasks.append(asyncio.current_task())
            await asyncio.sleep(0)
            tasks.append(asyncio.current_task())

    conn, peer = stage.connect(handler)
    stage.settle()
    task = task_of(conn)
    peer.write(encode(b"1", b"2"))
    stage.settle()
    peer.write(encode(b"3"))
    stage.until(lambda: len(tasks) == 7)
    assert set(tasks) == {task}
    assert asyncio.current_task(stage.loop) is None


def test_session_context_is_its_own_and_kept(stage):
    """A context variable set in one step is there in the next, and nowhere else."""
    seen = []

    async def handler(conn):
        name = await conn.recv()
        WHO.set(name)
        async for _ in conn:
            seen.append((name, WHO.get()))
            await asyncio.sleep(0)
            seen.append((name, WHO.get()))

    WHO.set("outside")
    peers = [stage.connect(handler)[1] for _ in range(3)]
    for number, peer in enumerate(peers):
        peer.write(encode(b"%d" % number))
    stage.settle()
    for peer in peers:
        peer.write(encode(b"x", b"y"))
    stage.until(lambda: len(seen) == 12)
    assert all(name == who for name, who in seen)
    assert WHO.get() == "outside"


@pytest.mark.since(3, 11)  # tasks in a context of the caller's are 3.11's
def test_session_read_inside_of_its_own_context_waits_for_a_turn(stage):
    """A context is entered once at a time: the frame is kept, no task stays the current one, and the step comes."""
    context = contextvars.copy_context()
    stage.loop.set_task_factory(lambda loop, coro, **_: asyncio.Task(coro, loop=loop, context=context))
    seen = []

    async def handler(conn):
        async for frame in conn:
            seen.append(frame)
            conn.send(frame)

    conn, peer = stage.connect(handler)
    stage.settle()
    peer.write(encode(b"1"))
    select.select([conn], [], [], PATIENCE)
    context.run(conn.on_readable)
    assert seen == []
    assert asyncio.current_task(stage.loop) is None
    peer.write(encode(b"2"))
    stage.until(lambda: len(seen) == 2)
    assert seen == [b"1", b"2"]


def test_session_task_shows_the_handler(stage):
    """Name, stack and repr of a suspended handler lead to its line, and the finished task still says whose it was."""

    async def some_handler(conn):
        async for _ in conn:
            pass

    conn, peer = stage.connect(some_handler)
    stage.settle()
    task = task_of(conn)
    for _ in range(2):
        assert "some_handler" in repr(task)
        assert task.get_stack()[0].f_code is some_handler.__code__
        out = io.StringIO()
        task.print_stack(file=out)
        assert "async for _ in conn" in out.getvalue()
        peer.write(encode(b"x"))
        stage.settle()
    peer.fin()
    stage.until(task.done)
    stage.settle()
    assert "some_handler" in repr(task)


def test_session_child_waiting_shows_what_for(stage):
    """In a list of tasks a wait for a frame is recognised."""
    shown = []

    async def handler(conn):
        child = asyncio.ensure_future(conn.recv())
        await asyncio.sleep(0)
        shown.append(repr(child))
        await child

    _, peer = stage.connect(handler)
    peer.write(encode(b"x"))
    stage.until(lambda: stage.lost)
    assert "Connection.recv" in shown[0]


def python_tasks(loop, coro, **options):
    """A task factory whose tasks are asyncio's in plain Python."""
    return asyncio.tasks._PyTask(coro, loop=loop, **options)


def named_tasks(loop, coro, **options):
    """A task factory of an application."""
    return asyncio.Task(coro, loop=loop, name="factory", **options)


FACTORIES = {"python": python_tasks, "named": named_tasks}
if sys.version_info >= (3, 12):
    FACTORIES["eager"] = asyncio.eager_task_factory


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_session_of_any_task_factory_works(stage, factory):
    """Echo, a child, a cancellation, an end."""
    log = []

    async def handler(conn):
        log.append(await conn.recv())
        log.append(await asyncio.create_task(conn.recv()))
        async for frame in conn:
            conn.send(frame)
            if frame == b"cancel":
                asyncio.current_task().cancel()
                try:
                    log.append(await conn.recv())
                except asyncio.CancelledError:
                    log.append("cancelled")
        log.append("end")

    stage.loop.set_task_factory(factory)
    _, peer = stage.connect(handler)
    for frame in (b"1", b"2", b"3", b"4", b"cancel"):
        peer.write(encode(frame))
        stage.settle()
    peer.write(encode(b"5"), fin=True)
    stage.until(lambda: stage.lost)
    assert log == [b"1", b"2", "cancelled", "end"]
    assert peer.frames == [b"3", b"4", b"cancel", b"5"]


@pytest.mark.since(3, 12)  # eager tasks are 3.12's
def test_session_eager_children_inside_a_direct_step_wait_for_the_handler(stage):
    """A child begins to wait while the handler runs without its task's knowledge; neither takes the other's place."""
    log = []

    async def child(conn):
        log.append(("child", await conn.recv()))

    async def handler(conn):
        while len(log) < 6:
            log.append(("handler", await conn.recv()))
            reader = asyncio.create_task(child(conn))
            await asyncio.sleep(0)
            await reader
            log.append(("handler", await conn.recv()))
            cancelled = asyncio.create_task(child(conn))
            cancelled.cancel()
            await asyncio.wait([cancelled])
            assert cancelled.cancelled()

    stage.loop.set_task_factory(asyncio.eager_task_factory)
    _, peer = stage.connect(handler)
    stage.settle()
    for number in range(6):
        peer.write(encode(b"%d" % number))
        stage.settle()
    assert log == [(who, b"%d" % n) for n, who in enumerate(["handler", "child", "handler"] * 2)]


@pytest.mark.since(3, 12)  # eager tasks are 3.12's
@pytest.mark.parametrize("end", ["return", "raise", "close"])
def test_session_eager_handler_that_ends_at_once_is_told_its_end(stage, end, caplog):
    """It has ended before its connection has begun."""

    async def handler(conn):
        conn.send(b"bye")
        if end == "raise":
            raise KeyError("at once")
        if end == "close":
            conn.close()

    stage.loop.set_task_factory(asyncio.eager_task_factory)
    _, peer = stage.connect(handler)
    stage.until(lambda: stage.lost)
    assert stage.lost[0][0].close_reason is (CloseReason.HANDLER if end == "raise" else CloseReason.LOCAL)
    stage.until(lambda: peer.frames == [b"bye"])


WHERE = ["before the first await", "after a direct step", "after a step of its task", "after a time-out"]


@pytest.mark.parametrize("where", WHERE)
def test_session_exception_ends_the_connection_with_a_traceback_of_the_handler(stage, where):
    """HANDLER, the exception itself, and a traceback that begins in the handler."""

    async def handler(conn):
        if where != WHERE[0]:
            await conn.recv()
        if where == WHERE[2]:
            await asyncio.sleep(0)
        if where == WHERE[3]:
            try:
                await asyncio.wait_for(conn.recv(), 0.001)
            except asyncio.TimeoutError:
                pass
        raise KeyError("mine")

    conn, peer = stage.connect(handler)
    stage.settle()
    peer.write(encode(b"x"))
    stage.until(lambda: stage.lost)
    assert conn.close_reason is CloseReason.HANDLER
    exc = stage.lost[0][1]
    assert isinstance(exc, KeyError)
    assert [frame.name for frame in traceback.extract_tb(exc.__traceback__)] == ["handler"]
    assert exc.__context__ is None


def test_session_exception_after_the_end_goes_to_the_exception_handler(stage):
    """The connection has its reason already; the error must not be lost."""
    release = stage.loop.create_future()

    async def handler(conn):
        await release
        raise KeyError("late")

    conn, _ = stage.connect(handler)
    stage.settle()
    conn.abort()
    stage.until(lambda: stage.lost)
    release.set_result(None)
    stage.until(lambda: stage.errors)
    context = stage.errors.pop()
    assert context["message"] == "Unhandled exception in a session"
    assert isinstance(context["exception"], KeyError)
    assert "handler" in repr(context["task"])
    assert conn.close_reason is CloseReason.ABORTED


def test_session_told_of_the_end_and_ending_with_that_is_no_error(stage):
    """`while True: await conn.recv()` is a handler as people write it."""

    async def handler(conn):
        while True:
            conn.send(await conn.recv())

    one, peer = stage.connect(handler)
    peer.write(encode(b"x"), fin=True)
    two, other = stage.connect(handler)
    stage.settle()
    other.reset()
    stage.until(lambda: len(stage.lost) == 2)
    assert one.close_reason is CloseReason.PEER
    assert two.close_reason is CloseReason.RESET
    assert peer.frames == [b"x"]


def test_session_ended_by_another_connections_end_is_an_error(stage):
    """A proxy whose upstream is gone: its own peer did nothing wrong, and somebody should know."""

    async def handler(conn):
        await conn.recv()
        raise ConnectionClosed("upstream")

    conn, peer = stage.connect(handler)
    peer.write(encode(b"x"))
    stage.until(lambda: stage.lost)
    assert conn.close_reason is CloseReason.HANDLER


@pytest.mark.parametrize("exit", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("direct", [True, False])
def test_session_exit_leaves_the_loop_and_loses_nothing(stage, exit, direct):
    """It ends the run, as asyncio's; the others go on when the loop runs again."""
    got = []

    async def handler(conn):
        await conn.recv()
        if not direct:
            await asyncio.sleep(0)
        conn.send(b"last words")
        raise exit

    async def other(conn):
        while True:
            got.append(await conn.recv())

    conn, peer = stage.connect(handler)
    _, second = stage.connect(other)
    stage.settle()
    peer.write(encode(b"1", b"2"))
    second.write(encode(b"a", b"b"))
    with pytest.raises(exit):
        stage.turn(5)
    stage.until(lambda: stage.lost and got == [b"a", b"b"])
    assert peer.frames == [b"last words"]
    assert conn.close_reason is CloseReason.HANDLER


def test_session_exception_state_does_not_leak(stage):
    """sys.exc_info() in a handler is its own: an exception that it handles is nobody else's context."""
    seen = []

    async def handler(conn):
        async for frame in conn:
            seen.append(sys.exc_info()[0])
            try:
                raise KeyError(frame)
            except KeyError:
                seen.append(await conn.recv())
                seen.append(sys.exc_info()[0])

    _, one = stage.connect(handler)
    _, two = stage.connect(handler)
    for peer in (one, two, one, two):
        peer.write(encode(b"x"))
        stage.settle()
    assert seen == [None, None, b"x", KeyError, b"x", KeyError]


def test_session_handler_that_returns_no_coroutine_is_an_error(stage):
    """A wrapper that forgets its return is found at the first connection."""
    conn, _ = stage.connect(protocol=coroutine_protocol(lambda conn: None, stage.loop))
    stage.until(lambda: stage.lost)
    assert conn.close_reason is CloseReason.HANDLER
    assert "must return a coroutine" in str(stage.lost[0][1])


def test_session_in_a_reactor_that_is_no_loop_is_an_error_that_says_what_to_do():
    """The three ways out are in the text."""

    async def handler(conn):
        pass

    with evloop.Reactor() as reactor, pytest.raises(TypeError, match=r"evloop\.aio\.EventLoop.*evloop\.serve"):
        evloop.Server(reactor, handler, "127.0.0.1:0")
