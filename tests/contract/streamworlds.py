"""What the tests of evloop.aio's streams share: asyncio's own streams and ours, run by the same scripts.

Rule: nothing in this file may tell the two apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from types import SimpleNamespace

import evloop.aio
from evloop.aio import streams as ours

PATIENCE = 20.0  # seconds; only a failing test waits as long

NAMES = (
    *("StreamReader", "StreamWriter", "StreamReaderProtocol"),
    *("open_connection", "open_unix_connection", "start_server", "start_unix_server"),
)
STANDARD = SimpleNamespace(
    name="standard", new_loop=asyncio.SelectorEventLoop, **{name: getattr(asyncio, name) for name in NAMES}
)
OURS = SimpleNamespace(name="ours", new_loop=evloop.aio.new_event_loop, **{name: getattr(ours, name) for name in NAMES})
WORLDS = [STANDARD, OURS]


def run(world, main, debug=False):
    """Run a coroutine function with *world* on a new loop of it; return (result, what the exception handler got)."""
    reported = []
    loop = world.new_loop()
    loop.set_debug(debug)
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    try:
        asyncio.set_event_loop(loop)
        result = loop.run_until_complete(asyncio.wait_for(main(world), PATIENCE))
        loop.run_until_complete(finish())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return result, reported


async def finish():
    """Let closed transports say so, then cancel what is left."""
    for _ in range(3):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def both(main):
    """Return what a coroutine function has returned in both worlds, after checking that they agree."""
    results = []
    for world in WORLDS:
        result, reported = run(world, main)
        assert reported == [], world.name
        results.append(result)
    assert results[0] == results[1]
    return results[1]


async def outcome(awaitable):
    """Return the result of an awaitable, or its exception as (type, text)."""
    try:
        return await awaitable
    except (Exception, asyncio.CancelledError) as exc:
        return type(exc), str(exc)


@contextlib.asynccontextmanager
async def served(world, connected, **options):
    """Serve TCP; yield the port."""
    server = await world.start_server(connected, "127.0.0.1", 0, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def joined(world, **options):
    """Yield a reader and a writer on one end of a socket pair, and the other end, a non-blocking socket."""
    mine, other = socket.socketpair()
    with other:
        other.setblocking(False)
        reader, writer = await world.open_unix_connection(sock=mine, **options)
        try:
            yield reader, writer, other
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
