"""asyncio's streams with a compiled reader and writer: ``start_server``, ``open_connection`` and their UNIX twins.

The classes join asyncio's own to the compiled halves of ``_streams.pyx``: what runs per packet or per read is ours,
what runs per connection is the running Python version's, its fixes included.  A reader is an ``asyncio.StreamReader``,
a writer an ``asyncio.StreamWriter``.  What they share with asyncio's is every argument, result, exception and its text.

Without the extension (EVLOOP_PURE=1), in debug mode, and on a loop that is not ours, these functions are asyncio's.

Rule: nothing in this file may run per packet.  Read next: ``_streams.pyx``.
"""

from __future__ import annotations

import asyncio
from asyncio import streams as standard
from collections.abc import Awaitable, Callable
from types import CoroutineType, FunctionType
from typing import TYPE_CHECKING, Any

from evloop.aio._session_shared import current_tasks
from evloop.aio.loop import AsyncioLifecycle, EventLoop
from evloop.reactor import IMPLEMENTATION

__all__ = [
    "StreamReader",
    "StreamReaderProtocol",
    "StreamWriter",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
]

# bytes: asyncio's.  Half of what a reader holds before it pauses the transport, and the longest line.
LIMIT = 2**16

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]

# Bound once: test-suites and libraries replace names in asyncio by ours.
_start_server, _open_connection = asyncio.start_server, asyncio.open_connection
_start_unix_server, _open_unix_connection = asyncio.start_unix_server, asyncio.open_unix_connection

if TYPE_CHECKING or IMPLEMENTATION == "python":
    from asyncio import StreamReader, StreamReaderProtocol, StreamWriter

    Driver: Any
else:
    from evloop.aio._streams import Driver, ProtocolBase, ReaderBase, WriterBase, know_current_tasks

    know_current_tasks(current_tasks())

    class StreamReader(ReaderBase, asyncio.StreamReader):
        """An ``asyncio.StreamReader`` whose reads are no coroutines: with the data there, they do not suspend.

        What a read returns is awaitable, once; ``create_task``, ``wait_for``, ``gather`` take it for a coroutine.  It
        takes nothing before it is awaited, and nothing if it is cancelled.

        Args:
            limit: bytes, > 0.
            loop: an event loop; None: the current one.
        Raises: ValueError: *limit* is not above 0.
        """

        def __init__(self, limit: int = LIMIT, loop: Any = None) -> None:
            if loop is None:
                loop = _current_loop()
            super().__init__(limit, loop)
            if loop.get_debug():
                self._source_traceback = standard.format_helpers.extract_stack(standard.sys._getframe(1))

    class StreamWriter(WriterBase, asyncio.StreamWriter):
        """An ``asyncio.StreamWriter`` whose ``drain()`` does not suspend while there is nothing to wait for."""

    class StreamReaderProtocol(ProtocolBase, asyncio.StreamReaderProtocol):
        """What stands between a transport and a :class:`StreamReader`; as ``asyncio.StreamReaderProtocol``."""

        def __init__(self, stream_reader: Any, client_connected_cb: Any = None, loop: Any = None) -> None:
            super().__init__(stream_reader, client_connected_cb, _current_loop() if loop is None else loop)

        # The version's own function, which finds our writer under the name that it makes one by.
        connection_made = FunctionType(
            asyncio.StreamReaderProtocol.connection_made.__code__,
            {**vars(standard), "StreamWriter": StreamWriter},
        )

    # What asyncio's constructors call when they are given no loop; up to 3.11 it warns where they were called.
    _current_loop = getattr(standard.events, "_get_event_loop", standard.events.get_event_loop)


def _is_ours(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether the streams of a loop are to be compiled ones."""
    if IMPLEMENTATION == "python" or not isinstance(loop, AsyncioLifecycle) or loop._is_inherited():
        return False
    # Ours put what they wake into the FIFO themselves; a subclass with a call_soon() of its own wants to see it.
    return type(loop).call_soon is EventLoop.call_soon


async def start_server(
    client_connected_cb: Connected,
    host: Any = None,
    port: Any = None,
    *,
    limit: int = LIMIT,
    **kwds: Any,
) -> asyncio.Server:
    """Serve TCP, with a reader and a writer for each client; as ``asyncio.start_server``.

    Args:
        client_connected_cb: called with (reader, writer); a coroutine function's coroutine becomes a task.
        host, port: where to listen, as for ``loop.create_server``.
        limit: bytes, > 0, of each reader: reading pauses above twice as many, and no line may be longer.
        kwds: what ``loop.create_server`` takes, such as ``ssl``.
    Returns: what ``loop.create_server`` returns.
    Raises: ValueError, OSError: as ``loop.create_server``.
    """
    loop = asyncio.get_running_loop()
    if not _is_ours(loop):
        return await _start_server(client_connected_cb, host, port, limit=limit, **kwds)
    return await loop.create_server(_factory(client_connected_cb, limit, loop), host, port, **kwds)


async def start_unix_server(
    client_connected_cb: Connected, path: Any = None, *, limit: int = LIMIT, **kwds: Any
) -> asyncio.AbstractServer:
    """Serve a UNIX socket; as ``asyncio.start_unix_server``, and :func:`start_server` in everything else.

    Args:
        path: of the socket's file.
    """
    loop = asyncio.get_running_loop()
    if not _is_ours(loop):
        return await _start_unix_server(client_connected_cb, path, limit=limit, **kwds)
    return await loop.create_unix_server(_factory(client_connected_cb, limit, loop), path, **kwds)


def _factory(connected: Connected, limit: int, loop: asyncio.AbstractEventLoop) -> Callable[[], asyncio.Protocol]:
    """Return what makes the protocol of each client."""

    def driven(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Any:
        handling = connected(reader, writer)
        # A task factory is somebody's who wants to see the coroutine itself.
        if type(handling) is CoroutineType and loop.get_task_factory() is None:
            return Driver(handling, loop)
        return handling

    def factory() -> asyncio.Protocol:
        return StreamReaderProtocol(StreamReader(limit, loop), driven, loop)

    return factory


async def open_connection(
    host: Any = None, port: Any = None, *, limit: int = LIMIT, **kwds: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect by TCP; as ``asyncio.open_connection``.

    Args:
        host, port: where to.
        limit: bytes, > 0, of the reader: reading pauses above twice as many, and no line may be longer.
        kwds: what ``loop.create_connection`` takes, such as ``ssl``.
    Returns: a reader and a writer.
    Raises: OSError: as ``loop.create_connection``; ValueError: of an argument.
    """
    loop = asyncio.get_running_loop()
    if not _is_ours(loop):
        return await _open_connection(host, port, limit=limit, **kwds)
    reader = StreamReader(limit, loop)
    protocol = StreamReaderProtocol(reader, None, loop)
    transport, _ = await loop.create_connection(lambda: protocol, host, port, **kwds)
    return reader, StreamWriter(transport, protocol, reader, loop)


async def open_unix_connection(
    path: Any = None, *, limit: int = LIMIT, **kwds: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a UNIX socket; as ``asyncio.open_unix_connection``, and :func:`open_connection` in everything else.

    Args:
        path: of the socket's file.
    """
    loop = asyncio.get_running_loop()
    if not _is_ours(loop):
        return await _open_unix_connection(path, limit=limit, **kwds)
    reader = StreamReader(limit, loop)
    protocol = StreamReaderProtocol(reader, None, loop)
    transport, _ = await loop.create_unix_connection(lambda: protocol, path, **kwds)
    return reader, StreamWriter(transport, protocol, reader, loop)
