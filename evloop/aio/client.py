"""A framed connection for coroutines: the client's side of a session.

Rule: nothing in this file may run per message.  Read next: ``sessions.py``, ``evloop/client.py``.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

import evloop.client
from evloop.addresses import AddressLike
from evloop.aio.sessions import taken_by_whoever
from evloop.connection import Connection
from evloop.framing import Framing
from evloop.limits import Limits
from evloop.reactor import Core

if TYPE_CHECKING:
    from ssl import SSLContext


async def connect(
    address: AddressLike,
    *,
    timeout: float | None = None,
    framing: Framing | None = Framing.U32,
    limits: Limits | None = None,
    ssl: SSLContext | None = None,
    server_hostname: str | None = None,
) -> Connection:
    """Connect, and return the connection, whose frames are taken with ``recv()`` or ``async for``.

    >>> async def main():
    ...     async with await evloop.aio.connect("127.0.0.1:9000", timeout=5) as conn:
    ...         conn.send(b"hi")
    ...         return await conn.recv()

    Args:
        timeout: seconds for everything, DNS and TLS included (float > 0); None: as :func:`evloop.connect`.
        The others: as :func:`evloop.connect`.
    Raises:
        OSError: no address could be reached; TimeoutError after *timeout*; TlsError.
        AddressError, TypeError, ValueError: an argument is wrong.
        RuntimeError: the running loop is not an :class:`EventLoop`.

    Cancelled, it leaves nothing behind.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, Core):
        raise RuntimeError(
            f"evloop.aio.connect() needs evloop's own event loop, and {type(loop).__name__} is running: "
            "use evloop.aio.run(), or asyncio.Runner(loop_factory=evloop.aio.new_event_loop)"
        )
    opened: asyncio.Future[Any] = loop.create_future()
    protocol = taken_by_whoever(functools.partial(_made, opened))
    connector = evloop.client.connect(
        loop,
        address,
        timeout=timeout,
        framing=framing,
        limits=limits,
        protocol_factory=lambda: protocol,
        ssl=ssl,
        server_hostname=server_hostname,
        failed=functools.partial(_failed, opened),
    )
    try:
        conn: Connection = await opened
    except asyncio.CancelledError:
        connector.cancel()
        if opened.done() and not opened.cancelled() and opened.exception() is None:
            opened.result().abort()  # it was there, and nobody has it
        raise
    return conn


def _made(opened: asyncio.Future[Any], conn: Connection) -> None:
    if opened.cancelled():  # in this very turn
        conn.abort()
    else:
        opened.set_result(conn)


def _failed(opened: asyncio.Future[Any], exc: OSError) -> None:
    if not opened.cancelled():
        opened.set_exception(exc)
