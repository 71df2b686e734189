"""A server: listening sockets, the connections they accept, and an end in good order.

Rule: nothing in this file may parse bytes or parse a command line.  Read next: ``connection.py``, ``sockets.py``.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import resource
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from selectors import EVENT_READ
from typing import TYPE_CHECKING, Any

from evloop._admission import PerAddress, SpareDescriptor, fullest_queue
from evloop._connection_shared import overload
from evloop._packets import refuse_tls
from evloop.addresses import Address, AddressLike, parse_address
from evloop.connection import Budget, Connection, ConnectionStats, accept, puller_of
from evloop.errors import CloseReason
from evloop.framing import Framing
from evloop.limits import HEAD_ROOM, Limits
from evloop.protocol import Protocol, is_coroutine_handler, protocol_factory_of
from evloop.reactor import Core, Endpoint, Reactor, TimerHandle
from evloop.sockets import (
    ACCEPT_RETRY,
    NO_DESCRIPTOR,
    OUT_OF_RESOURCES,
    Accepted,
    adopt_listeners,
    listen,
    local_address,
    raise_fd_limit,
    set_tcp_options,
    socket_identity,
    somaxconn,
    unlink_unix,
)

if TYPE_CHECKING:
    from ssl import SSLContext

logger = logging.getLogger("evloop")

# Connections accepted per turn and listener.  An accept with its set-up takes about 50 us here, so a storm of connects
# delays the connected by some 3 ms a turn; the rest waits in the kernel's queue.
ACCEPTS_PER_TURN = 64

# Seconds that a listener rests when the process or the machine is out of descriptors or memory: at first, and at most.
# A level-triggered listener that is left watched would spin; the first rest is short because the cause may be.
ACCEPT_REST = 0.1
ACCEPT_REST_MAX = 1.0

# Seconds without a descriptor after which those who wait are accepted with the spare one, and closed: the shortage may
# pass, and then all are served; if not, a clean end tells a client more than a connection that nobody answers.
REFUSE_AFTER = 1.0

# Seconds in which one kind of warning is logged once; what came meanwhile is told as a count by the next one.
WARNING_INTERVAL = 10.0

# The part of max_buffered that closing connections sets free: the cost of looking for the largest is paid once for so
# many bytes, and those who are left have room to breathe.
RELIEF = 0.2

# Seconds that a server which is left by an exception takes to tell its protocols; a connection_lost takes microseconds.
FAREWELL = 1.0

# Why a connection is closed as it is accepted; the counters of stats().
REFUSALS = ("refused_max_connections", "refused_per_address", "refused_protocol", "refused_no_descriptor")

_NO_FLOW = ConnectionStats(0, 0, 0, 0, 0, 0, 0)

_WARNED = frozenset(
    {
        CloseReason.PROTOCOL,
        CloseReason.FRAME_TOO_LARGE,
        CloseReason.TRUNCATED,
        CloseReason.WRITE_TIMEOUT,
        CloseReason.SLOW_CONSUMER,
        CloseReason.OVERLOAD,
        CloseReason.HANDSHAKE,
        CloseReason.TLS,
    }
)

# How a peer ends a connection that has no TLS yet, as far as that is an error; a mere look at the port is none.
_HANDSHAKE_ERRORS = frozenset(
    {CloseReason.HANDSHAKE, CloseReason.RESET, CloseReason.ERROR, CloseReason.IDLE, CloseReason.WRITE_TIMEOUT}
)


class Server:
    """Accept connections on an address and give each its protocol.

    Args:
        reactor: who drives it.
        handler: a function ``handler(conn, frame)``, called per frame; or a coroutine function ``handler(conn)``, a
            task for each connection, for which *reactor* is to be an event loop (:mod:`evloop.aio`); or a
            :class:`Protocol` class.  When the coroutine has ended, its connection is closed in good order; what it
            raises, but for the end of the connection that it was told of, is logged with ``CloseReason.HANDLER``.
        address: as :func:`evloop.parse_address`; ``"127.0.0.1:0"`` takes a free port.
        framing: the wire format; None: bytes as they come.
        limits: every bound; see :class:`Limits`.
        protocol_factory: instead of *handler*, called without arguments for the protocol of each connection.
        reuse_port: SO_REUSEPORT, for several processes on one port.
        unix_mode: permissions of a UNIX socket's path.
        sockets: listening sockets (``socket.socket``, of any kind that an address has) to accept on, instead of binding
            *address*, which is not looked at then; once this has returned they are the server's to close.  Whoever gave
            them may share them: a UNIX path is not removed at the end, and what is queued on them then is left for the
            next who accepts.
        ssl: an `ssl.SSLContext` for TLS, such as :func:`evloop.tls.server_context` makes; None: no TLS.

    Raises:
        TypeError, ValueError: an argument is wrong; max_frame exceeds what the framing can announce; one of *sockets*
            does not listen (:func:`evloop.sockets.adopt_listeners`); the ssl context has no certificate, or an address
            is ``seqpacket:``, which has no TLS.

    States: new, listening, closing (no listener, connections finish), closed.
    Owns: its listeners and connections.  Does not own: the reactor.
    """

    def __init__(
        self,
        reactor: Core,
        handler: Any = None,
        address: AddressLike = "127.0.0.1:9000",
        *,
        framing: Framing | None = Framing.U32,
        limits: Limits | None = None,
        protocol_factory: Callable[[], Protocol] | None = None,
        reuse_port: bool = False,
        unix_mode: int = 0o600,
        sockets: Iterable[socket.socket] | None = None,
        ssl: SSLContext | None = None,
    ) -> None:
        self.reactor = reactor
        self.framing, self.limits = framing_within(framing, limits)
        self.connections: set[Connection] = set()
        self._budget = Budget(self.limits.max_buffered, self._overloaded) if self.limits.max_buffered else None
        self._factory = protocol_factory_of(handler, protocol_factory, reactor)
        self._given = [] if sockets is None else adopt_listeners(sockets)  # until start()
        self._shared = sockets is not None
        self._wanted = local_address(self._given[0]) if self._given else parse_address(address)
        self._new_connection: Callable[..., Connection] = Connection
        self._tls = ssl is not None
        if ssl is not None:
            refuse_tls(map(local_address, self._given) if self._given else [self._wanted])
            from evloop._connection_tls import server_connection  # here, since it brings OpenSSL in

            self._new_connection = server_connection(ssl)
        self._reuse_port = reuse_port
        self._unix_mode = unix_mode
        self._listeners: list[_Listener] = []
        self._unix_identity: tuple[int, int] | None = None
        self._max_connections = 0
        self._per_address = PerAddress(self.limits.max_per_address)
        self._spare = SpareDescriptor()
        self._stopped: list[Callable[[], object]] = []
        self.closing = False  # True once close() or shutdown() was called
        self._force_timer: TimerHandle | None = None
        self._warnings = WarningLimit(reactor)
        self.counters: Counter[str] = Counter()
        self._ended = (0, 0, 0, 0)  # the first four of ConnectionStats, of the connections that have ended

    def start(self) -> None:
        """Bind, listen and begin to accept.  Reactor thread only.

        Raises:
            OSError: the address cannot be had; :func:`evloop.sockets.explain_bind_error` says it for people.
            RuntimeError: started before.
        """
        if self._listeners or self.closing:
            raise RuntimeError("a server is started once")
        limits = self.limits
        self._max_connections = _affordable(limits.max_connections)
        queue = somaxconn()
        if not self._shared and queue is not None and queue < limits.backlog:
            logger.warning("backlog=%d is cut to %d by net.core.somaxconn", limits.backlog, queue)
        for sock in self._given:
            set_tcp_options(sock, limits)
        sockets, self._given = self._given, []
        sockets = sockets or listen(
            self._wanted,
            backlog=limits.backlog,
            reuse_port=self._reuse_port,
            unix_mode=self._unix_mode,
            socket_factory=self._make_listener,
        )
        self._listeners = [_Listener(self, sock) for sock in sockets]
        self._spare.take()
        if self._wanted.is_unix and not self._shared:
            self._unix_identity = socket_identity(sockets[0])

    @property
    def addresses(self) -> list[Address]:
        """The addresses that are listened on, with the real ports; empty before start and after close."""
        return [listener.address for listener in self._listeners]

    @property
    def address(self) -> Address:
        """The first of :attr:`addresses`; before start and after close the one that was asked for."""
        return self._listeners[0].address if self._listeners else self._wanted

    @property
    def accept_paused(self) -> bool:
        """Whether a listener rests because the process or the machine is out of something.  Any thread."""
        return any(listener.resting for listener in self._listeners)

    @property
    def listen_queue(self) -> tuple[int, int] | None:
        """How many wait to be accepted and how many may, of the fullest TCP listener.  Reactor thread only."""
        return fullest_queue(listener.sock for listener in self._listeners)

    def close(self) -> None:
        """Stop accepting; connections go on.  Idempotent.  Reactor thread only.

        What the kernel has queued is accepted first: those peers have been told that they are connected.  Not so on
        sockets that were given: another process may share them, and serve those peers.
        """
        listeners, self._listeners = self._listeners, []
        self.closing = True
        # The name goes first: as long as the socket is open nobody else's file can have its inode, and nobody connects
        # any more between the last accept and the close.
        if listeners and self._unix_identity is not None:
            try:
                unlink_unix(self._wanted, self._unix_identity)
            except OSError as exc:
                logger.warning("cannot remove %s: %s", self._wanted, exc.strerror)
        with contextlib.ExitStack() as stack:  # each is closed, whatever a callback of a queued peer raises
            stack.callback(self._spare.give_up)
            for sock in self._given:
                stack.callback(sock.close)
            for listener in listeners:
                stack.callback(listener.close)
            for listener in listeners:
                if not self._shared:
                    listener.accept_queued(self.limits.backlog + 1)

    def shutdown(self, grace: float | None = None, done: Callable[[], object] | None = None) -> None:
        """Stop accepting, close each connection in good order, and call *done()* when the last one is gone.

        A coroutine handler gets no more frames, and what it still sends is sent until it has ended.

        Args:
            grace: seconds after which those that are left are aborted, and their coroutine handlers cancelled; None:
                ``limits.drain_timeout``.
            done: called once, in the reactor's thread, in a later turn.

        A second call adds its *done*, and its grace replaces the first one's.  Reactor thread only.
        """
        self.close()
        if done is not None:
            self._stopped.append(done)
        for conn in list(self.connections):
            puller = puller_of(conn)
            if puller is None:
                conn.close_for(CloseReason.SHUTDOWN)
            else:
                puller.stop()
        if self._force_timer is not None:
            self._force_timer.cancel()
        self._force_timer = self.reactor.call_later(self.limits.drain_timeout if grace is None else grace, self._force)
        self._check_stopped()

    def stats(self) -> dict[str, int]:
        """Return what was counted, all ints.  Any thread; costs about a microsecond for each connection.

        - now: ``connections``; ``buffered_bytes``, which they hold: unfinished and undelivered frames, and output;
          ``buffered_output``, the output of that; ``reads_paused``, of how many nothing is delivered;
          ``accept_paused``, 1 while a listener rests because the process or the machine is out of something.
        - ever: ``accepted``; ``refused``, and of those ``refused_max_connections``, ``refused_per_address``,
          ``refused_protocol`` (the factory failed), ``refused_no_descriptor``; ``accept_errors``, and of those
          ``accept_errors_<errno>`` for each that occurred, such as EMFILE; ``handshake_errors``, peers that did not
          get to TLS; ``closed_<reason>`` for each :class:`CloseReason` that occurred, and of those ``slow_consumers``,
          who did not take their output, and ``overloaded``, who held most when all held too much;
          ``received_bytes``, ``sent_bytes``, with TLS those of its records; ``frames_received``, ``frames_sent``.
        """
        counters = Counter(self.counters)
        flows = [conn.stats for conn in list(self.connections)]
        total = ConnectionStats(*map(sum, zip(_NO_FLOW, *flows, strict=True)))
        return {
            "connections": len(flows),
            "buffered_bytes": total.output + total.input,
            "buffered_output": total.output,
            "reads_paused": total.paused,
            "accept_paused": int(self.accept_paused),
            "accepted": 0,
            "refused": sum(counters[name] for name in REFUSALS),
            **dict.fromkeys(REFUSALS, 0),
            "accept_errors": sum(n for name, n in counters.items() if name.startswith("accept_errors_")),
            "received_bytes": self._ended[1] + total.bytes_received,
            "sent_bytes": self._ended[3] + total.bytes_sent,
            "frames_received": self._ended[0] + total.frames_received,
            "frames_sent": self._ended[2] + total.frames_sent,
            "slow_consumers": counters["closed_slow_consumer"] + counters["closed_write_timeout"],
            "overloaded": counters["closed_overload"],
            "handshake_errors": 0,
            **counters,
        }

    def __repr__(self) -> str:
        state = "listening" if self._listeners else "closing" if self.closing else "new"
        return f"<Server {state} {self.address} {len(self.connections)} connections>"

    def _refuse(self, sock: socket.socket | Accepted, reason: str, text: str, exc: BaseException | None = None) -> None:
        # No word of refusal: the framing may be anybody's.  The close is clean unless the peer has sent already.
        self.counters[f"refused_{reason}"] += 1
        sock.close()
        self._warnings.log(reason, f"refused {text}", exc)

    def _accepted(self, sock: Accepted, listener: _Listener) -> None:
        unix = listener.unix
        if len(self.connections) >= self._max_connections:
            text = f"{unix or sock.peer}: max_connections={self._max_connections} reached"
            return self._refuse(sock, "max_connections", text)
        # Asked for only where it is counted: an address costs more time and memory than the rest of an accept.
        peer = (unix or sock.peer) if self._per_address.limit else unix
        if peer is not None and self._per_address.is_full(peer):
            return self._refuse(sock, "per_address", f"{peer}: max_per_address={self._per_address.limit} reached")
        try:
            protocol = self._factory()
            if not hasattr(protocol, "connection_made"):
                raise TypeError(f"protocol_factory made no Protocol but {type(protocol).__name__}")
        except Exception as exc:
            return self._refuse(sock, "protocol", f"{unix or sock.peer}: the protocol factory failed", exc)
        except BaseException:
            sock.close()
            raise
        self.counters["accepted"] += 1
        conn = listener.new_connection(
            self.reactor,
            sock,
            protocol,
            framing=self.framing,
            limits=self.limits,
            peer=unix,
            on_lost=listener.lost,
            budget=self._budget,
        )
        self.connections.add(conn)
        if peer is not None:
            self._per_address.add(conn, peer)
        return conn.start()

    def _make_listener(self, family: int, kind: int) -> socket.socket:
        sock = self.reactor.socket_factory(family, kind)
        try:
            set_tcp_options(sock, self.limits)
        except BaseException:
            sock.close()
            raise
        return sock

    def _lost(self, conn: Connection, exc: BaseException | None) -> None:
        self.connections.discard(conn)
        self._per_address.discard(conn)
        stats = conn.stats
        a, b, c, d = self._ended
        self._ended = (a + stats[0], b + stats[1], c + stats[2], d + stats[3])
        assert conn.close_reason is not None
        self.counters[f"closed_{conn.close_reason.value}"] += 1
        if self._tls and conn.tls is None and conn.close_reason in _HANDSHAKE_ERRORS:
            self.counters["handshake_errors"] += 1
        log_close(conn, exc, self._warnings)
        self._check_stopped()

    def _overloaded(self) -> None:
        # In a turn of its own: this is called from within some connection.
        self.reactor.call_soon(self._relieve)

    def _relieve(self) -> None:
        """Close the connections that hold most, until RELIEF of the budget is free again.

        Looking at all of them costs about a microsecond each.  It happens once in a turn at most, and not again before
        the connections have taken what was set free.
        """
        budget = self._budget
        assert budget is not None
        budget.exceeded = False
        if budget.used <= budget.limit:
            return
        # An equal share: without it, a peer with one answer on its way would go before one with half a frame of 1 MiB.
        share = budget.limit // len(self.connections)

        def harm(conn: Connection) -> tuple[int, int, int]:
            stats = conn.stats
            return stats.output if stats.output > share else 0, stats.input, stats.output

        goal = budget.limit - int(budget.limit * RELIEF)
        for conn in sorted(self.connections, key=harm, reverse=True):
            if budget.used <= goal:
                break
            stats = conn.stats
            conn.abort_for(CloseReason.OVERLOAD, overload(stats.output + stats.input, budget.limit))

    def _force(self) -> None:
        left = list(self.connections)
        if left:
            logger.warning("%d connections did not finish in time and are reset", len(left))
        for conn in left:
            puller = puller_of(conn)
            conn.abort()
            if puller is not None:
                puller.cancel_handler()

    def _check_stopped(self) -> None:
        if self.closing and not self.connections:
            if self._force_timer is not None:
                self._force_timer.cancel()
            callbacks, self._stopped = self._stopped, []
            for callback in callbacks:
                self.reactor.call_soon(callback)


class _Listener(Endpoint):
    """One listening socket.  Owns: the socket."""

    __slots__ = ("server", "lost", "sock", "address", "unix", "new_connection", "rest", "resting", "starved_since")

    def __init__(self, server: Server, sock: socket.socket) -> None:
        super().__init__(server.reactor)
        self.server = server
        self.lost = server._lost  # one for all of its connections: a bound method is 64 bytes
        self.sock = sock
        self.address = local_address(sock)
        # What stands for the peers of a UNIX socket, which have no address.
        self.unix = self.address if self.address.is_unix else None
        self.new_connection = server._new_connection
        if self.address.kind == "seqpacket":
            from evloop._connection_packets import PacketConnection  # here, since few servers have a use for it

            self.new_connection = PacketConnection
        self.rest = ACCEPT_REST  # seconds, of the next one
        self.resting = False
        self.starved_since: float | None = None  # the time of the first accept that found no descriptor
        self._reactor.register(sock, EVENT_READ, self)

    def on_readable(self) -> None:
        self.accept_queued(ACCEPTS_PER_TURN)

    def accept_queued(self, at_most: int) -> None:
        """Accept what is queued, *at_most* so many."""
        for _ in range(at_most):
            if self.closed:  # by a callback of the connection just accepted
                return
            try:
                accepted = accept(self._reactor, self.sock)
            except OSError as exc:
                self.server.counters[f"accept_errors_{errno.errorcode.get(exc.errno or 0, exc.errno)}"] += 1
                if exc.errno in ACCEPT_RETRY:
                    continue  # that one peer is gone already; the next may not be
                if exc.errno in NO_DESCRIPTOR:
                    self._turn_away()
                self._rest(exc)
                return
            if accepted is None:
                return
            self.rest, self.starved_since = ACCEPT_REST, None
            self.server._accepted(accepted, self)

    def _turn_away(self) -> None:
        """Close those who wait, if there has been no descriptor for REFUSE_AFTER; by then a rest takes as long."""
        now = self._reactor.time()
        if self.starved_since is None:
            self.starved_since = now
        if now - self.starved_since < REFUSE_AFTER:
            return
        server = self.server
        with server._spare.lent() as lent:
            for _ in range(ACCEPTS_PER_TURN if lent else 0):
                try:
                    sock, _ = self.sock.accept()
                except OSError:
                    return  # nobody waits any more, or somebody else has taken the descriptor
                server._refuse(sock, "no_descriptor", f"a connection on {self.address}: no file descriptor is left")

    def _rest(self, exc: OSError) -> None:
        """Stop watching for a while: the connections stay queued, and the loop does not spin on them."""
        text = f"cannot accept on {self.address}: {exc.strerror}; next try in {self.rest:g} s"
        if exc.errno in OUT_OF_RESOURCES:
            text += "; see ulimit -n, and max_connections to refuse in good time"
        self.server._warnings.log("accept", text)
        if self.resting:
            return
        self.resting = True
        self._reactor.unregister(self.sock)
        self._reactor.call_later(self.rest, self._resume)
        self.rest = min(2 * self.rest, ACCEPT_REST_MAX)

    def _resume(self) -> None:
        if not self.closed:
            self.resting = False
            self._reactor.register(self.sock, EVENT_READ, self)

    def _forked(self) -> None:
        self.closed = True
        self.sock.close()
        self.server._unix_identity = None  # the path is the parent's to remove

    def close(self) -> None:
        """Stop watching and close the socket.  Idempotent."""
        if not self.closed:
            self.closed = True
            if not self.resting:
                self._reactor.unregister(self.sock)
            self.sock.close()


def serve(
    handler: Any = None,
    address: AddressLike = "127.0.0.1:9000",
    *,
    framing: Framing | None = Framing.U32,
    limits: Limits | None = None,
    protocol_factory: Callable[[], Protocol] | None = None,
    reuse_port: bool = False,
    unix_mode: int = 0o600,
    sockets: Iterable[socket.socket] | None = None,
    ssl: SSLContext | None = None,
    ready: Callable[[Server], object] | None = None,
    stopping: Callable[[Server], object] | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; then stop accepting, flush, close, and return.

    A coroutine function as *handler* is a task for each connection, in an event loop that is made for it.  At the end
    one that waits for a frame is told that there is none; one that is busy is cancelled after ``drain_timeout``.

    A second Ctrl-C, or one after SIGTERM, does not wait: it raises KeyboardInterrupt; SIGTERM again changes nothing.
    SIGHUP, where nobody handles or ignores it (nohup(1) does), is as SIGTERM: the terminal is gone.  Outside the main
    thread signals are left alone, and a handler ends the server with ``server.shutdown(done=server.reactor.stop)``.
    The soft limit on file descriptors is raised to the hard one.

    Args:
        ready: called with the :class:`Server` once it accepts; ``server.address`` has the real port.
        stopping: called with it when a signal has ended that.
        The others: as :class:`Server`.
    Raises:
        OSError: the address cannot be had.  TypeError, ValueError: as :class:`Server`.
        RuntimeError: *handler* is a coroutine function, and an event loop runs in this thread.
    """
    raise_fd_limit()
    with _reactor_for(handler) as reactor:
        server = Server(
            reactor,
            handler,
            address,
            framing=framing,
            limits=limits,
            protocol_factory=protocol_factory,
            reuse_port=reuse_port,
            unix_mode=unix_mode,
            sockets=sockets,
            ssl=ssl,
        )
        server.start()
        try:
            if threading.current_thread() is threading.main_thread():
                # By default it kills, without a flush, and the path of a UNIX socket stays; an application's own
                # handler, to reload something, does not end here.
                hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL else []
                stop = _Stop(server, reactor, stopping)
                for sig in (signal.SIGTERM, signal.SIGINT, *hangup):
                    reactor.add_signal_handler(sig, stop, sig)
            if ready is not None:
                ready(server)
            reactor.run_forever()
        finally:
            if not reactor.is_closed():  # as it is in a child that a handler has forked
                _say_farewell(server, reactor)


def _reactor_for(handler: Any) -> contextlib.AbstractContextManager[Any]:
    """Return what drives a server of *handler*: a reactor, or an event loop if it is a coroutine function."""
    if not is_coroutine_handler(handler):
        return Reactor()
    from evloop.aio.sessions import loop_of_its_own  # here, since it brings asyncio in

    return loop_of_its_own()


def _say_farewell(server: Server, reactor: Any) -> None:
    """Close what a server that was left by an exception still has: every protocol is told its end all the same."""
    server.close()
    for conn in list(server.connections):
        conn.abort()
    if server.connections:
        server.shutdown(FAREWELL, done=reactor.stop)
        reactor.call_later(FAREWELL, reactor.stop)
        reactor.run_forever()


class _Stop:
    """What the signals do to a server that :func:`serve` runs: the first one ends it in good order."""

    def __init__(self, server: Server, reactor: Any, stopping: Callable[[Server], object] | None) -> None:
        self.server = server
        self.reactor = reactor
        self.stopping = stopping
        self.asked = False

    def __call__(self, sig: int) -> None:
        server = self.server
        # The second Ctrl-C comes the same way as the first, between two callbacks.  Python's own handler would strike
        # anywhere, and so in the middle of a close; the price is that it would also have ended a callback that hangs.
        if sig == signal.SIGINT and server.closing:
            raise KeyboardInterrupt
        if self.asked:  # supervisors repeat themselves, and that must not give the connections more time
            return
        self.asked = True
        logger.info(
            "stopping: %d connections to finish, at most %g s", len(server.connections), server.limits.drain_timeout
        )
        server.shutdown(done=self.reactor.stop)
        if self.stopping is not None:
            self.stopping(server)


def framing_within(framing: Framing | None, limits: Limits | None) -> tuple[Framing | None, Limits]:
    """Return both, the framing with the bound of the limits, so that both directions keep the same one.

    Raises:
        TypeError: *framing* is no Framing, *limits* no Limits; None is either's default.
        ValueError: the framing cannot announce the limits' max_frame.
    """
    if limits is None:
        limits = Limits()
    elif not isinstance(limits, Limits):
        raise TypeError(f"limits must be Limits, not {type(limits).__name__}")
    if framing is None:
        return None, limits
    if not isinstance(framing, Framing):
        raise TypeError(f"framing must be a Framing or None, not {type(framing).__name__}")
    return (framing if limits.max_frame is None else framing.replace(max_frame=limits.max_frame)), limits


def _affordable(wanted: int) -> int:
    """Return how many connections the process can have descriptors for, at most *wanted* unless that is 0."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(soft - HEAD_ROOM, 1)
    if wanted > most:
        logger.warning("max_connections=%d is cut to %d by the limit of %d open files", wanted, most, soft)
    return min(wanted, most) if wanted else most


class WarningLimit:
    """Log a warning of one kind once in WARNING_INTERVAL seconds, with a count of those that it stands for.

    A peer can provoke warnings at the rate of its packets, and a log that fills a disk is an outage.
    """

    def __init__(self, reactor: Core) -> None:
        self._reactor = reactor
        self._seen: dict[str, tuple[float, int]] = {}

    def log(self, kind: str, text: str, exc: BaseException | None = None) -> None:
        """Log *text*, with the traceback of *exc*, or count it if its *kind* (one of a few) was logged just now."""
        now = self._reactor.time()
        last, suppressed = self._seen.get(kind, (now - WARNING_INTERVAL, 0))
        if now - last < WARNING_INTERVAL:
            self._seen[kind] = (last, suppressed + 1)
            return
        self._seen[kind] = (now, 0)
        more = f" (and {suppressed} more of this kind)" if suppressed else ""
        logger.log(logging.ERROR if exc else logging.WARNING, "%s%s", text, more, exc_info=exc)


def log_close(conn: Connection, exc: BaseException | None, warnings: WarningLimit | None = None) -> None:
    """Write the line that a closed connection deserves: DEBUG, WARNING for a broken protocol, ERROR for our side."""
    reason = conn.close_reason
    assert reason is not None
    if reason is not CloseReason.HANDLER and reason not in _WARNED and not logger.isEnabledFor(logging.DEBUG):
        return  # the usual end; the peer's address alone would cost more than the rest of it
    text = f"conn.close peer={conn.peer} reason={reason.value}" + (f": {exc}" if exc else "")
    if reason is CloseReason.HANDLER:
        if warnings is not None:
            warnings.log(reason.value, text, exc)
        else:
            logger.error(text, exc_info=exc)
    elif reason in _WARNED:
        (warnings.log if warnings else _warn)(reason.value, text)
    else:
        logger.debug(text)


def _warn(kind: str, text: str) -> None:
    logger.warning(text)
