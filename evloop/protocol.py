"""Your callbacks, and how a function becomes one.

Rule: nothing in this file may know a socket, a reactor or bytes on the wire.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evloop.connection import Connection
    from evloop.errors import FramingError

Handler = Callable[["Connection", Any], object]


class Protocol:
    """The callbacks of one connection: one object per connection, asyncio's names and meaning.

    Beside the methods below a protocol has at least one of these; the first that exists is used:

    - ``frames_received(frames: list)``: all frames of one read, in one call;
    - ``frame_received(frame)``: one frame; ``bytes``, or what the framing's ``deliver`` says;
    - with ``framing=None``, ``data_received(data: bytes)``: bytes as they come.

    The objects are yours to keep.  Every method is called in the reactor's thread.  An exception that one of them
    raises closes this connection (``CloseReason.HANDLER``) and no other.
    """

    __slots__ = ()  # a subclass may do without a __dict__

    def connection_made(self, conn: Connection) -> None:
        """Called once, before anything else.  Keep *conn* to send."""

    def eof_received(self) -> bool | None:
        """Called when the peer has closed its side, between frames; nothing more will come.

        Return true to keep the sending side open, and close it yourself later; otherwise the connection is closed once
        what was sent has been flushed.
        """
        return None

    def framing_error(self, exc: FramingError) -> None:
        """Called at most once, when the peer's bytes are no frame: with everything before them delivered.

        The last word, such as an error message: what is sent in here is flushed, and then the connection is closed in
        good order (as by ``close()``: within ``Limits.flush_timeout`` and ``linger``) for *exc*, whatever this does;
        ``abort()`` and ``close_for()`` keep their reasons.  Not called for a stream that ends inside a frame
        (:class:`TruncatedFrame`): whoever has sent its end is not told what was wrong with it.  A protocol that is no
        subclass of this one may do without.
        """

    def pause_writing(self) -> None:
        """Called when the output exceeds ``Limits.high_water``: send no more until ``resume_writing``."""

    def resume_writing(self) -> None:
        """Called when the output is down to ``Limits.low_water``."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called exactly once, last, if connection_made was called.

        *exc* is None for an orderly end, else what ended the connection; ``conn.close_reason`` says it in one word.
        """


class FunctionProtocol(Protocol):
    """The protocol of a plain function ``handler(conn, frame)``, or per read with ``framing=None``.

    It keeps nothing of a connection, so that one serves all; the connection calls *handler* itself.
    """

    __slots__ = ("handler",)

    def __init__(self, handler: Handler) -> None:
        self.handler = handler


class CoroutineProtocol(Protocol):
    """The protocol of a coroutine function ``handler(conn)``; one serves all.

    A connection puts in its place what ``new_session(implementation)`` makes: a protocol that takes the frames itself,
    for one connection of that implementation.  :mod:`evloop.aio` supplies it, so that the rest need not know asyncio.
    """

    __slots__ = ("new_session",)

    def __init__(self, new_session: Callable[[str], Any]) -> None:
        self.new_session = new_session


def protocol_factory_of(
    handler: object, protocol_factory: Callable[[], Protocol] | None, reactor: object = None
) -> Callable[[], Protocol]:
    """Return what makes the protocol of a new connection of *reactor*, from what the user gave.

    A subclass of Protocol makes one object per connection; a coroutine function is called once per connection; any
    other callable is a function, called per frame; a factory is only ever *protocol_factory*.

    Raises:
        TypeError: both or neither were given, or *handler* is something else; it is a coroutine function, and *reactor*
            no event loop.
    """
    if (handler is None) == (protocol_factory is None):
        raise TypeError("give a handler or a protocol_factory, and not both")
    if protocol_factory is not None:
        if not callable(protocol_factory):
            raise TypeError(f"protocol_factory must be callable, not {type(protocol_factory).__name__}")
        return protocol_factory
    if inspect.isclass(handler):
        if issubclass(handler, Protocol):
            return handler
        raise TypeError(
            f"class {handler.__name__} is no evloop.Protocol; to use it as one: protocol_factory={handler.__name__}"
        )
    if isinstance(handler, Protocol):
        raise TypeError("a handler is a Protocol class, not an object of it: each connection gets its own")
    if not callable(handler):
        raise TypeError(f"a handler must be a function or a Protocol class, not {type(handler).__name__}")
    function = _unwrapped(handler)
    if inspect.isclass(function):
        raise TypeError(
            f"{handler!r} makes objects of a class; to have it called for each connection: protocol_factory="
        )
    if any(_is_generator(part) for part in (function, type(function).__call__)):
        raise TypeError(f"{handler!r} is a generator, and a handler is a function, a coroutine function or a class")
    protocol: Protocol
    if is_coroutine_handler(handler):
        from evloop.aio.sessions import coroutine_protocol  # here, since it brings asyncio in

        protocol = coroutine_protocol(handler, reactor)
    else:
        protocol = FunctionProtocol(handler)
    return lambda: protocol


def is_coroutine_handler(handler: Any) -> bool:
    """Return whether *handler* is a coroutine function, a partial of one, or an object that is called as one."""
    function = _unwrapped(handler)
    return inspect.iscoroutinefunction(function) or (
        not inspect.isclass(function) and inspect.iscoroutinefunction(type(function).__call__)
    )


def _unwrapped(handler: Any) -> Any:
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler


def _is_generator(function: Any) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
