"""The chat server: a hub, the connections that it speaks over, and an end in good order.

>>> from evloop.apps import chat
>>> chat.serve("127.0.0.1:9000")  # doctest: +SKIP

Rule: nothing in this file may know what a message means.  Read next: ``hub.py``, ``sessions.py``.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import evloop
from evloop.addresses import AddressLike
from evloop.apps.chat import texts, wire
from evloop.apps.chat.fanout import FRAMED, Variant
from evloop.apps.chat.greetings import AuthFailed
from evloop.apps.chat.hub import Authenticate, Hub
from evloop.apps.chat.limits import CONNECTION_LIMITS, ChatLimits
from evloop.apps.chat.sessions import Session
from evloop.apps.chat.store import MemoryStore, Store
from evloop.apps.chat.web import FirstByte, Web
from evloop.apps.chat.wire import Codec
from evloop.sockets import local_address, raise_fd_limit

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["CONNECTION_LIMITS", "AuthFailed", "ChatLimits", "ChatServer", "FramedMember", "MemoryStore", "serve"]

logger = logging.getLogger("evloop.chat")

# Its bound is the server's own longest message: what a client may send is less, and is refused with a word for it.
FRAMING = evloop.Framing(4, "big", max_frame=wire.MAX_REPLY)

# Seconds that a server which is left by an exception takes to tell its protocols; a connection_lost takes microseconds.
FAREWELL = 1.0


class FramedMember(evloop.Protocol):
    """The transport of a client that sends frames: over TCP, TLS or a UNIX socket.  Reactor thread only."""

    __slots__ = ("conn", "frame_received", "frames_received", "hub", "resume_reading", "session")

    conn: evloop.Connection
    session: Session

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def connection_made(self, conn: evloop.Connection) -> None:
        """Make the session, which takes the frames itself."""
        self.conn = conn
        self.resume_reading = conn.resume_reading
        self.session = self.hub.connected(self)
        if self.hub.limits.rate:
            self.frame_received = self.session.message  # the rate is kept by a pause, and that may be after each one
        else:
            self.frames_received = self.session.messages

    @property
    def host(self) -> str:
        """The peer's address; "" for a UNIX socket."""
        peer = self.conn.peer
        return "" if peer is None else peer.host

    def variant(self, codec: Codec) -> Variant:
        """Return the form of messages in *codec*: the encoded message, of which the framing makes a frame."""
        return FRAMED[codec]

    def pause_reading(self) -> None:
        """Deliver no more frames; those of the present read that are behind this one are to come again.

        They go back as the bytes that they were: what a connection holds is bounded, and counted with all others'.
        """
        self.conn.pause_reading()
        unanswered = self.session.unanswered()
        if unanswered:
            self.conn.set_framing(FRAMING, FRAMING.encode_many(unanswered))

    def close(self, code: int, reason: str) -> None:
        """Close once what was sent is flushed."""
        self.conn.close()

    def eof_received(self) -> bool:
        """The client says nothing more, and may still read: it is answered first."""
        return self.session.leave(partial(self.conn.close_for, evloop.CloseReason.PEER))

    def framing_error(self, exc: evloop.FramingError) -> None:
        """Refuse a frame that is not even read; who spoke another protocol could make nothing of an answer."""
        if isinstance(exc, evloop.FrameTooLarge) and exc.looks_like is None:
            self.session.too_big(exc.length)

    def pause_writing(self) -> None:
        """The client does not take what it is sent."""
        self.session.choked()

    def resume_writing(self) -> None:
        """It has taken it."""
        self.session.relieved()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The session goes on without a connection, for a while."""
        self.session.lost()


class ChatServer:
    """A chat server on *reactor*: rooms, direct conversations, history, moderation; ``docs/chat-protocol.md``.

    Args:
        reactor: who drives it.
        address: as :func:`evloop.parse_address`; ``"127.0.0.1:0"`` takes a free port.
        limits: the chat's bounds; see :class:`ChatLimits`.
        connections: the connections' bounds; by default CONNECTION_LIMITS.
        store: where messages are kept; by default in memory.
        password: what `hello` must have; "": nothing.
        authenticate: ``authenticate(hello, host)``, called in the reactor's thread and not to block: returns the name
            of the account that ``hello.token`` shows (at most 64 characters, no ``@``, no ``/``), or None for a guest,
            who needs the password if there is one; or raises :class:`AuthFailed`.  It is asked again when a session is
            resumed: a token must be good for as long as its owner may come back, and no longer.
        motd: the greeting in `welcome`.
        lang: the language of texts (``"en"``, ``"zh"``) until `hello` has said another.
        node: the name of this server, which session ids begin with.
        origins: pages that may connect beside those of the same host; see :class:`evloop.apps.chat.web.Web`.
        ssl, sockets, reuse_port, unix_mode: as for :class:`evloop.Server`.

    Attributes:
        hub: what the sessions share; ``hub.stats()`` counts.
        server: the :class:`evloop.Server`; ``server.stats()`` counts connections.

    Raises:
        TypeError, ValueError: an argument is wrong.

    States: new, listening, closing, closed.  Owns: the server and the store.  Does not own: the reactor.
    """

    def __init__(
        self,
        reactor: evloop.Reactor,
        address: AddressLike = "127.0.0.1:9000",
        *,
        limits: ChatLimits | None = None,
        connections: evloop.Limits = CONNECTION_LIMITS,
        store: Store | None = None,
        password: str = "",
        authenticate: Authenticate | None = None,
        motd: str = texts.READY,
        lang: str = "en",
        node: str = "n1",
        origins: Iterable[str] = (),
        ssl: SSLContext | None = None,
        sockets: Iterable[socket.socket] | None = None,
        reuse_port: bool = False,
        unix_mode: int = 0o600,
    ) -> None:
        self.reactor = reactor
        self.hub = Hub(
            reactor,
            limits=limits,
            store=store,
            password=password,
            authenticate=authenticate,
            motd=motd,
            lang=lang,
            node=node,
        )
        self._web = Web(self.hub, origins)
        sockets = None if sockets is None else list(sockets)
        # Packets stay with the framing that they began with, and no browser comes that way.
        self._frames_only = _has_packets(address, sockets)
        self.server = evloop.Server(
            reactor,
            address=address,
            protocol_factory=self.new_protocol,
            framing=FRAMING if self._frames_only else None,
            limits=connections,
            ssl=ssl,
            sockets=sockets,
            reuse_port=reuse_port,
            unix_mode=unix_mode,
        )
        self._stopping: list[tuple[float, Callable[[], object] | None]] = []

    def new_protocol(self) -> evloop.Protocol:
        """Return the protocol of a new connection: what it speaks is known with its first byte."""
        return self._new_framed() if self._frames_only else FirstByte(self._web, FRAMING, self._new_framed)

    def _new_framed(self) -> FramedMember:
        return FramedMember(self.hub)

    def start(self) -> None:
        """Bind, listen and begin to accept.  Raises as :meth:`evloop.Server.start`.  Reactor thread only."""
        self.server.start()
        self.hub.start()

    @property
    def addresses(self) -> list[evloop.Address]:
        """The addresses that are listened on, with the real ports; empty before start and after the end."""
        return self.server.addresses

    @property
    def address(self) -> evloop.Address:
        """The first of :attr:`addresses`; before start and after the end the one that was asked for."""
        return self.server.address

    @property
    def closing(self) -> bool:
        """True once :meth:`shutdown` was called."""
        return self.server.closing

    def stats(self) -> dict[str, int]:
        """Return what the server and the hub have counted, the hub's with ``chat_`` in front.  Any thread."""
        return {**self.server.stats(), **{f"chat_{name}": value for name, value in self.hub.stats().items()}}

    def shutdown(self, grace: float | None = None, done: Callable[[], object] | None = None) -> None:
        """Stop accepting, keep what was said, tell everybody ``bye`` 3001, close, and call *done()*.

        Args:
            grace: seconds for all of it; None: ``connections.drain_timeout``.  Half of them are the store's: who has
                no answer by then asks again at the next start.
            done: called once, in the reactor's thread, in a later turn.

        A second call adds its *done*, and its grace replaces the first one's.  Reactor thread only.
        """
        first = not self.closing
        seconds = self.server.limits.drain_timeout if grace is None else grace
        self._stopping.append((seconds, done))
        if not first:
            if not self.hub.said_goodbye:
                return None
            return self._dismiss()
        self.server.close()
        timer = self.reactor.call_later(seconds / 2, self._dismiss)

        def kept() -> None:
            timer.cancel()
            self._dismiss()

        return self.hub.close(kept)

    def _dismiss(self) -> None:
        """Say goodbye, once, and close all connections."""
        self.hub.say_goodbye()
        calls, self._stopping = self._stopping, []
        for seconds, done in calls:
            self.server.shutdown(seconds, done)


def _has_packets(address: AddressLike, sockets: list[socket.socket] | None) -> bool:
    """Return whether one of the addresses is of SOCK_SEQPACKET."""
    addresses = map(local_address, sockets) if sockets else [evloop.parse_address(address)]
    return any(address.kind == "seqpacket" for address in addresses)


def serve(
    address: AddressLike = "127.0.0.1:9000",
    *,
    ready: Callable[[ChatServer], object] | None = None,
    stopping: Callable[[ChatServer], object] | None = None,
    **options: Any,
) -> None:
    """Serve until SIGTERM or Ctrl-C; then tell everybody, flush, close, and return.

    A second Ctrl-C does not wait: it raises KeyboardInterrupt.  Signals are handled as by :func:`evloop.serve`, and in
    the main thread alone.  The soft limit on file descriptors is raised to the hard one.

    Args:
        ready: called with the :class:`ChatServer` once it accepts.
        stopping: called with it when a signal has ended that.
        The others: as :class:`ChatServer`.
    Raises:
        OSError: the address cannot be had.  TypeError, ValueError: as :class:`ChatServer`.
    """
    raise_fd_limit()
    with evloop.Reactor() as reactor:
        server = ChatServer(reactor, address, **options)
        server.start()
        try:
            if threading.current_thread() is threading.main_thread():
                _handle_signals(server, stopping)
            if ready is not None:
                ready(server)
            reactor.run_forever()
        finally:
            if not reactor.is_closed():
                _say_farewell(server)


def _handle_signals(server: ChatServer, stopping: Callable[[ChatServer], object] | None) -> None:
    reactor = server.reactor

    def stop(sig: int) -> None:
        if sig == signal.SIGINT and server.closing:
            raise KeyboardInterrupt
        if server.closing:
            return
        logger.info(
            "stopping: %d connections to finish, at most %g s",
            len(server.server.connections),
            server.server.limits.drain_timeout,
        )
        server.shutdown(done=reactor.stop)
        if stopping is not None:
            stopping(server)

    hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL else []
    for sig in (signal.SIGTERM, signal.SIGINT, *hangup):
        reactor.add_signal_handler(sig, stop, sig)


def _say_farewell(server: ChatServer) -> None:
    """Close what a server that was left by an exception still has: every protocol is told its end all the same."""
    server.hub.stop()
    server.server.close()
    for conn in list(server.server.connections):
        conn.abort()
    if server.server.connections:
        server.server.shutdown(FAREWELL, done=server.reactor.stop)
        server.reactor.call_later(FAREWELL, server.reactor.stop)
        server.reactor.run_forever()
