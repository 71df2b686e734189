"""Clients: ``connect()`` on a reactor, and ``BlockingClient`` for scripts and tests.

Rule: nothing in this file may parse bytes.  Read next: ``connection.py``, ``sockets.py``.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from selectors import EVENT_WRITE
from typing import TYPE_CHECKING, Any

from evloop._connection_shared import as_they_are, handshake_cut, no_close_notify
from evloop._packets import PacketSocket, refuse_tls
from evloop.addresses import Address, AddressLike, parse_address
from evloop.connection import Connection
from evloop.errors import ConnectionClosed, FramingError, TlsError, UnexpectedFrame
from evloop.framing import FrameDecoder, Framing
from evloop.limits import Limits
from evloop.protocol import Protocol, protocol_factory_of
from evloop.reactor import Core, Endpoint, TimerHandle
from evloop.server import framing_within, log_close
from evloop.sockets import (
    finish_connect,
    of_address,
    peer_address,
    resolve,
    resolve_numeric,
    set_tcp_options,
    socket_type_of,
    start_connect,
)

if TYPE_CHECKING:
    from ssl import SSLContext

    from typing_extensions import Self

    from evloop._tls_stream import TlsStream
    from evloop.tls import TlsInfo

# Bytes that a blocking client asks the kernel for at a time: one full default receive buffer of a TCP socket.
RECV_SIZE = 128 * 1024

# Seconds; some thirty years, and still a number that settimeout() and time_t can hold.
MAX_TIMEOUT = 1e9


def connect(
    reactor: Core,
    address: AddressLike,
    handler: Any = None,
    *,
    timeout: float | None = None,
    framing: Framing | None = Framing.U32,
    limits: Limits | None = None,
    protocol_factory: Callable[[], Protocol] | None = None,
    ssl: SSLContext | None = None,
    server_hostname: str | None = None,
    failed: Callable[[OSError], object] | None = None,
) -> Connector:
    """Connect without blocking, and give the connection its protocol; return at once.

    A name is resolved in a thread of its own; its addresses are tried one after the other.

    Args:
        handler, protocol_factory, framing, limits: as for :class:`Server`.
        timeout: seconds for everything, DNS and TLS included (float > 0); None: as long as the kernel tries, and then
            ``limits.handshake_timeout`` for TLS.
        ssl: an `ssl.SSLContext` for TLS, such as :func:`evloop.tls.client_context` or `ssl.create_default_context`
            makes; None: no TLS.
        server_hostname: the name to ask for and to find in the certificate; None: the host of *address*.
        failed: called once with the OSError (TimeoutError after *timeout*, TlsError) if no address could be reached or
            TLS failed there; without it the failure is logged.  The protocol then hears nothing; without TLS it is not
            even made.

    Returns:
        A :class:`Connector`, whose ``connection`` is there once ``connection_made`` has been called.

    Raises:
        AddressError, TypeError, ValueError: an argument is wrong.

    Reactor thread only.
    """
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout must be a number of seconds > 0, or None, not {timeout}")
    framing, limits = framing_within(framing, limits)
    factory = protocol_factory_of(handler, protocol_factory, reactor)

    address = parse_address(address)
    new_connection: Callable[..., Connection] = Connection
    if ssl is not None:
        refuse_tls([address])
        new_connection = _tls_connection(ssl, _name_of(address, server_hostname))
    elif server_hostname is not None:
        raise ValueError(_NAME_WITHOUT_TLS)
    elif address.kind == "seqpacket":
        from evloop._connection_packets import PacketConnection  # here, since few clients have a use for it

        new_connection = PacketConnection

    def established(sock: socket.socket, **callbacks: Any) -> Connection:
        # The peer is asked for now: one that has closed first has no address any more when the log wants it.
        set_tcp_options(sock, limits)
        # A client's output is questions; not to read the answers meanwhile would block both sides: no throttle.
        options = {"framing": framing, "limits": limits, "peer": peer_address(sock), "throttle": False}
        return new_connection(reactor, sock, factory(), **options, **callbacks)

    return Connector(reactor, address, established, timeout, failed, handshakes=ssl is not None)


_NAME_WITHOUT_TLS = "server_hostname is the name in a certificate, and without ssl there is none"


def _name_of(address: Address, server_hostname: str | None) -> str | None:
    """Return the name by which a server at *address* has to identify itself."""
    return server_hostname if server_hostname is not None else address.for_client().host or None


def _tls_connection(ssl: SSLContext, server_hostname: str | None) -> Callable[..., Connection]:
    from evloop._connection_tls import client_connection  # here, since it brings OpenSSL in

    return client_connection(ssl, server_hostname)


def _tls_stream(ssl: SSLContext, server_hostname: str | None) -> TlsStream:
    from evloop._tls_stream import TlsStream, check_context

    checked = check_context(ssl, server_side=False, server_hostname=server_hostname)
    return TlsStream(checked, server_side=False, server_hostname=server_hostname)


class Connector(Endpoint):
    """One attempt to connect, made by :func:`connect`.

    Attributes:
        connection: the :class:`Connection`, or None while there is none.
        exception: the OSError that the attempt ended with, or None.
    """

    __slots__ = (
        "address",
        "connection",
        "exception",
        "_established",
        "_failed_callback",
        "_handshake",
        "_handshakes",
        "_sock",
        "_targets",
        "_timer",
    )

    def __init__(
        self,
        reactor: Core,
        address: Address,
        established: Callable[..., Connection],
        timeout: float | None,
        failed: Callable[[OSError], object] | None,
        *,
        handshakes: bool,
    ) -> None:
        super().__init__(reactor)
        self.address = address
        self.connection: Connection | None = None
        self.exception: OSError | None = None
        self._established = established
        self._failed_callback = failed
        self._handshakes = handshakes
        self._handshake: Connection | None = None  # the connection while it has no TLS yet
        self._sock: socket.socket | None = None
        self._targets: deque[Any] = deque()
        self._timer: TimerHandle | None = None
        if timeout is not None:
            self._timer = reactor.call_later(timeout, self._timed_out, timeout)
        # In a later turn even if the end could be known now: no callback runs inside the call that asks for it.
        reactor.call_soon(self._begin)

    @property
    def done(self) -> bool:
        """True once the attempt has ended, one way or the other."""
        return self.closed

    def cancel(self) -> None:
        """Give up: no callback will be called.  No effect once done.  Reactor thread only."""
        self._end()

    def _begin(self) -> None:
        targets = None if self.closed else resolve_numeric(self.address)
        if targets is not None:
            self._resolved(targets, None)
        elif not self.closed:
            threading.Thread(target=self._resolve, name=f"evloop resolve {self.address.host}", daemon=True).start()

    def _resolve(self) -> None:
        """Ask DNS, in a thread: getaddrinfo(3) blocks, and nothing bounds for how long."""
        targets, error = [], None
        try:
            targets = resolve(self.address)
        except OSError as exc:
            error = exc
        try:
            self._reactor.call_soon_threadsafe(self._resolved, targets, error)
        except RuntimeError:
            pass  # the reactor was closed meanwhile

    def _resolved(self, targets: list[Any], error: OSError | None) -> None:
        if self.closed:
            return
        self.exception = error
        self._targets.extend(targets)
        self._next()

    def _next(self) -> None:
        """Try the next address; without one, fail with what the last one failed with."""
        while self._targets:
            family, sockaddr = self._targets.popleft()
            try:
                self._sock, connected = start_connect(
                    family,
                    sockaddr,
                    socket_type=socket_type_of(self.address),
                    socket_factory=self._reactor.socket_factory,
                )
                if not connected:
                    # Writable is how a connect tells its end, good or bad (connect(2), EINPROGRESS).
                    return self._reactor.register(self._sock, EVENT_WRITE, self)
            except OSError as exc:
                self.exception = exc
                self._drop()
                continue
            return self._connected(self._sock)
        return self._fail(self.exception or OSError(f"{self.address} resolves to no address"))

    def on_writable(self) -> None:
        """Learn how the connect ended."""
        sock = self._sock
        assert sock is not None
        self._reactor.unregister(sock)
        try:
            finish_connect(sock)
        except OSError as exc:
            self.exception = exc
            self._drop()
            return self._next()
        return self._connected(sock)

    def _connected(self, sock: socket.socket) -> None:
        self._sock = None  # the connection's from here on
        self.exception = None
        callbacks: dict[str, Any] = {"on_lost": log_close}
        if self._handshakes:
            callbacks = {"on_lost": self._lost, "on_made": self._made}
        else:
            self._end()
        try:
            conn = self._established(sock, **callbacks)
        except BaseException:
            self._end()
            sock.close()
            raise
        if self._handshakes:
            self._handshake = conn
        else:
            self.connection = conn
        conn.start()

    def _made(self, conn: Connection) -> None:
        """TLS is established."""
        self._handshake = None
        self._end()
        self.connection = conn

    def _lost(self, conn: Connection, exc: BaseException | None) -> None:
        """A connection with TLS is gone, perhaps before it had any."""
        if conn is self.connection:
            log_close(conn, exc)
        elif conn is self._handshake:
            self._handshake = None
            self._fail(exc if isinstance(exc, OSError) else OSError(f"no TLS with {self.address}: {exc}"))

    def _timed_out(self, timeout: float) -> None:
        self._fail(TimeoutError(f"no connection to {self.address} within {timeout:g} s"))

    def _fail(self, exc: OSError) -> None:
        self.exception = of_address(exc, self.address)
        self._end()
        if self._failed_callback is not None:
            self._failed_callback(exc)
        else:
            context = {"message": f"cannot connect to {self.address}", "exception": exc, "endpoint": self}
            self._reactor.call_exception_handler(context)

    def _end(self) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._targets.clear()
        self._drop()
        if self._handshake is not None:
            conn, self._handshake = self._handshake, None
            conn.abort()

    def _drop(self) -> None:
        if self._sock is not None:
            try:
                self._reactor.unregister(self._sock)
            except KeyError:
                pass  # not waiting
            self._sock.close()
            self._sock = None

    def __repr__(self) -> str:
        state = "connected" if self.connection else "failed" if self.exception else "ended" if self.closed else "trying"
        return f"<Connector {state} {self.address}>"


class BlockingClient:
    """A plain blocking socket with the same decoder: for scripts and tests.

    Args:
        address: as for a server.
        framing: the wire format; None: bytes as they come.
        timeout: seconds for connecting, and for each call that gives none (float > 0); None: wait for ever.
        max_frame: payload bound in bytes, in both directions; None: the framing's.
        ssl, server_hostname: for TLS, as :func:`connect`.

    Raises:
        OSError: cannot connect (TimeoutError: not in time; TlsError: TLS failed).
        AddressError, TypeError, ValueError: an argument is wrong.

    A context manager.  Not thread-safe.  Owns: the socket.
    """

    def __init__(
        self,
        address: AddressLike = "127.0.0.1:9000",
        *,
        framing: Framing | None = Framing.U32,
        timeout: float | None = None,
        max_frame: int | None = None,
        ssl: SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> None:
        self.address = parse_address(address)
        self.timeout = timeout
        self.framing = framing if framing is None or max_frame is None else framing.replace(max_frame=max_frame)
        self._decoder = None if self.framing is None else FrameDecoder(self.framing)
        self._frames: deque[Any] = deque()
        self._fault: BaseException | None = None
        self._eof = False
        self._tls: TlsStream | None = None
        self._ended = False  # our close_notify is sealed
        if ssl is not None:
            refuse_tls([self.address])
            self._tls = _tls_stream(ssl, _name_of(self.address, server_hostname))
        elif server_hostname is not None:
            raise ValueError(_NAME_WITHOUT_TLS)
        deadline = _Deadline(timeout)
        self._sock = self._connect(deadline)
        if self._tls is not None:
            try:
                self._shake_hands(self._tls, deadline)
            except BaseException:
                self._sock.close()
                raise

    @property
    def tls(self) -> TlsInfo | None:
        """What TLS has agreed on; None without TLS."""
        return None if self._tls is None else self._tls.info

    def _shake_hands(self, tls: TlsStream, deadline: _Deadline) -> None:
        data = b""
        while True:
            try:
                for payload in tls.feed(data):
                    self._received(payload)
            except TlsError:
                with contextlib.suppress(OSError):  # the alert that tells the server why
                    self._sock.sendall(tls.take())
                raise
            self._sock.settimeout(deadline.left())
            self._sock.sendall(tls.take())
            if tls.established:
                if tls.peer_closed:
                    self._received(b"")
                return
            self._sock.settimeout(deadline.left())
            data = self._sock.recv(RECV_SIZE)
            if not data:
                raise handshake_cut(server_side=False)

    def _connect(self, deadline: _Deadline) -> socket.socket:
        error: OSError | None = None
        for family, sockaddr in resolve(self.address):
            packets = self.address.kind == "seqpacket"
            sock = PacketSocket() if packets else socket.socket(family, socket.SOCK_STREAM)
            try:
                if family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(deadline.left())
                sock.connect(sockaddr)
                return sock
            except OSError as exc:
                sock.close()
                error = exc
            except BaseException:
                sock.close()
                raise
        raise of_address(error or OSError(f"{self.address} resolves to no address"), self.address)

    def send(self, payload: Any, before: bytes = b"", after: bytes = b"", *, timeout: float | None = None) -> None:
        """Send one frame, all of it (without framing: the bytes as they are).

        Raises:
            FramingError, TypeError, ValueError: as :meth:`Framing.encode`, and for a message that no packet of
                ``seqpacket:`` can be; nothing was sent.
            OSError: the connection is broken (TimeoutError: not in time; part of the frame may have been sent).
        """
        if self.framing is None and isinstance(self._sock, PacketSocket):
            return self._send_messages(self._sock, [payload], timeout)
        return self._send(payload if self.framing is None else self.framing.encode(payload, before, after), timeout)

    def send_many(self, payloads: Any, *, timeout: float | None = None) -> None:
        """Send an iterable of payloads, one frame each; raises as :meth:`send`."""
        if self.framing is None and isinstance(self._sock, PacketSocket):
            return self._send_messages(self._sock, payloads, timeout)
        return self._send(b"".join(payloads) if self.framing is None else self.framing.encode_many(payloads), timeout)

    def _send(self, data: Any, timeout: float | None) -> None:
        self._sock.settimeout(_Deadline(self.timeout if timeout is None else timeout).left())
        self._sock.sendall(data if self._tls is None else self._tls.seal(data))

    def _send_messages(self, sock: PacketSocket, payloads: Any, timeout: float | None) -> None:
        messages = [as_they_are(payload) for payload in payloads]
        sock.settimeout(_Deadline(self.timeout if timeout is None else timeout).left())
        sock.send_messages(messages)

    def recv(self, *, timeout: float | None = None) -> Any:
        """Return the next frame (without framing: the next bytes, or message of ``seqpacket:``); wait for it.

        Args:
            timeout: seconds for the whole frame (float > 0); None: the client's.
        Raises:
            ConnectionClosed: the peer has closed, between frames.
            FramingError: the stream is at fault (TruncatedFrame: the peer closed inside a frame).
            TimeoutError: not in time; what has arrived of the frame is kept for the next call.
            OSError: the connection is broken.
        """
        deadline = _Deadline(self.timeout if timeout is None else timeout)
        while not self._frames:
            if self._fault is not None:
                raise self._fault
            if self._eof:
                raise ConnectionClosed(f"{self.address} has closed the connection")
            self._sock.settimeout(deadline.left())
            try:
                data = self._sock.recv(RECV_SIZE)
                if self._tls is None:
                    self._received(data)
                else:
                    self._open(self._tls, data)
            except (ConnectionError, FramingError) as exc:
                self._fault = exc  # the kernel says it once, and from then on that the stream has ended
        return self._frames.popleft()

    def _open(self, tls: TlsStream, data: bytes) -> None:
        """Take the payload of *data*, records; raises TlsError, once what came before the fault has been taken."""
        if not data and not tls.peer_closed:
            raise no_close_notify()
        for payload in tls.feed(data):
            self._received(payload)
        if tls.peer_closed:
            self._received(b"")

    def _received(self, data: bytes) -> None:
        try:
            if not data:
                self._eof = True
                if self._decoder is not None:
                    self._decoder.eof()
            elif self._decoder is None:
                self._frames.append(data)
            else:
                self._frames.extend(self._decoder.feed(data))
        except ValueError as exc:  # FramingError; raised once the frames before it have been taken
            self._frames.extend(getattr(exc, "frames", ()))
            self._fault = exc

    def expect(self, message: bytes, *, timeout: float | None = None) -> None:
        """Wait for the next frame and check that it is *message*: a handshake in one line.

        Raises:
            UnexpectedFrame: it is another one.
            The rest as :meth:`recv`.
        """
        got = self.recv(timeout=timeout)
        if got != message:
            raise UnexpectedFrame(message, got)

    def write_eof(self) -> None:
        """Close the sending side: the peer sees the end of the stream; receiving goes on."""
        if self._tls is not None and not self._ended:
            self._ended = True
            self._tls.close_notify()
            self._sock.settimeout(_Deadline(self.timeout).left())
            self._sock.sendall(self._tls.take())
        self._sock.shutdown(socket.SHUT_WR)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the frames until the peer closes; raises as :meth:`recv`, but for ConnectionClosed."""
        while True:
            try:
                yield self.recv()
            except ConnectionClosed:
                return

    def fileno(self) -> int:
        """Return the socket's fd, or -1 once closed.  Frames that were read ahead do not make it readable."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the connection.  Idempotent."""
        if self._tls is not None and not self._ended:
            self._ended = True
            self._tls.close_notify()
            try:
                self._sock.settimeout(0)
                self._sock.send(self._tls.take())
            except OSError:
                pass  # the peer is gone, or takes nothing: it sees a stream that was cut, and so it was
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<BlockingClient {self.address} {'closed' if self.fileno() < 0 else 'open'}>"


class _Deadline:
    """A point in time from a number of seconds; None is never."""

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and not seconds > 0:
            raise ValueError(f"timeout must be a number of seconds > 0, or None, not {seconds}")
        self._at = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Return the seconds left, for settimeout(); TimeoutError if there are none."""
        if self._at is None:
            return None
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return min(left, MAX_TIMEOUT)
