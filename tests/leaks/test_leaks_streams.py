"""The compiled streams leave nothing behind: reads that succeed, wait, fail and are cancelled, handlers that end."""

from __future__ import annotations

import asyncio
import contextlib
import weakref

import pytest
from growth import leaked, without_collector
from twins import needs_compiled

import evloop.aio
from evloop.aio.streams import StreamReader

LARGE = bytes(100_000)  # of the size that is kept for the next reader


@pytest.fixture
def loop(request):
    """A loop of ours, whose streams are the compiled ones."""
    needs_compiled(request.config)
    loop = evloop.aio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    yield loop
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


async def outcome(awaitable):
    """Wait, whatever comes of it; keep nothing."""
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await awaitable


async def turns(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


async def reads_that_are_served():
    reader = StreamReader(limit=64, loop=asyncio.get_running_loop())
    reader.feed_data(b"0123456789line\nuntil;x\n" + LARGE)
    await reader.readexactly(5)
    await reader.read(5)
    await reader.readline()
    await reader.readuntil(b";")
    async for _ in reader:
        break
    await reader.readexactly(len(LARGE) - 5)
    reader.feed_data(LARGE)
    reader.feed_eof()
    await reader.read()


async def reads_that_fail():
    for limit in (8, 64):
        for read in ("readline()", "readuntil(b';')", "readexactly(50)", "readuntil(b'')", "readexactly(-1)"):
            reader = StreamReader(limit=limit, loop=asyncio.get_running_loop())
            reader.feed_data(b"x" * 20)
            reader.feed_eof()
            await outcome(eval(f"reader.{read}"))
            reader.set_exception(ConnectionResetError("gone"))
            await outcome(eval(f"reader.{read}"))


async def reads_that_wait():
    loop = asyncio.get_running_loop()
    for end in ("data", "eof", "error", "cancel", "close", "time-out"):
        reader = StreamReader(loop=loop)
        waiting = asyncio.wait_for(reader.readexactly(3), 0 if end == "time-out" else 60)
        task = loop.create_task(outcome(waiting))
        await turns(2)
        if end != "time-out":
            await outcome(reader.read(1))  # a second one
        if end == "data":
            reader.feed_data(b"ab")
            reader.feed_data(LARGE)
        elif end == "eof":
            reader.feed_eof()
        elif end == "error":
            reader.set_exception(ZeroDivisionError("set"))
        elif end == "cancel":
            task.cancel()
        elif end == "close":
            task.cancel()
            reader.feed_data(b"abc")
        await task


async def reads_by_hand():
    reader = StreamReader(loop=asyncio.get_running_loop())
    for end in ("close", "throw", "drop"):
        read = reader.read(10)
        waited = read.send(None)
        waited.add_done_callback(print)
        waited.add_done_callback(repr)
        waited.remove_done_callback(print)
        if end == "throw":
            with contextlib.suppress(ZeroDivisionError):
                read.throw(ZeroDivisionError)
        else:
            read.close()


READS = {read.__name__: read for read in (reads_that_are_served, reads_that_fail, reads_that_wait, reads_by_hand)}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_reads_leave_nothing_behind(loop, read):
    """Each way in which a read can end."""
    assert leaked(lambda: loop.run_until_complete(read())) == {}


async def connection(handler, said):
    """One life of a handler."""
    server = await evloop.aio.start_server(handler, "127.0.0.1", 0)
    reader, writer = await evloop.aio.open_connection(*server.sockets[0].getsockname())
    for piece in said:
        writer.write(piece)
        await turns()
    with contextlib.suppress(OSError):  # a handler that has left something unread resets
        writer.write_eof()
    await outcome(reader.read())
    writer.close()
    await outcome(writer.wait_closed())
    server.close()
    await server.wait_closed()
    await turns()


async def echo(reader, writer):
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()
    writer.close()


async def failing(reader, writer):
    await reader.readexactly(2)
    writer.close()
    raise ZeroDivisionError


async def cancelling(reader, writer):
    await reader.readexactly(1)
    asyncio.current_task().cancel()
    try:
        await reader.readexactly(1)
    finally:
        writer.close()


async def mixing(reader, writer):
    await reader.readexactly(1)
    await asyncio.sleep(0)
    with contextlib.suppress(asyncio.TimeoutError, EOFError):  # whichever comes first
        await asyncio.wait_for(reader.readexactly(100), 0.0001)
    await asyncio.gather(reader.read(1), asyncio.sleep(0))
    writer.write(LARGE)
    await writer.drain()
    writer.close()


HANDLERS = {handler.__name__: handler for handler in (echo, failing, cancelling, mixing)}


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
def test_handlers_leave_nothing_behind(loop, handler):
    """A connection's reader, writer, protocol, driver and task, with all that they were given."""
    assert leaked(lambda: loop.run_until_complete(connection(handler, [b"a", b"bc", b"d\n"]))) == {}


def test_reader_and_task_of_an_ended_handler_die_without_the_collector(loop):
    """Left to it, those of thousands of connections would wait for it."""
    kept = []

    async def handler(reader, writer):
        kept.append(weakref.ref(reader))
        kept.append(weakref.ref(asyncio.current_task()))
        await echo(reader, writer)

    with without_collector():
        loop.run_until_complete(connection(handler, [b"a", b"b"]))
        loop.run_until_complete(turns())
        assert [reference() for reference in kept] == [None, None]
