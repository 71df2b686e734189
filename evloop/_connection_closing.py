"""The part of a connection, in plain Python, that ends it: in good order, at once, or as a copy in a forked child.

There is one way down, OPEN -> FLUSHING -> LINGERING -> CLOSED, and one reason, which the first cause gives.  `_close`
begins the orderly end, `_finish` is the last step of every end, and `_lost` tells of it in a turn of its own.

Rule: nothing in this file may decode, deliver or write.  Read next: ``_connection_py.py``, whose connection this is.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from evloop._connection_shared import DISCARD_BUDGET, STATES, flush_too_slow, reason_of
from evloop.addresses import Address
from evloop.errors import CloseReason, FramingError, TlsError
from evloop.socket_queues import queued_output
from evloop.sockets import PEER_GONE, WOULD_BLOCK

if TYPE_CHECKING:
    from evloop.limits import Limits
    from evloop.protocol import Protocol
    from evloop.reactor import Core, TimerHandle

OPEN, FLUSHING, LINGERING, CLOSED = STATES


class Closing:
    """How a connection ends."""

    if not TYPE_CHECKING:  # the attributes below are the connection's, which a type checker would not believe
        __slots__ = ()
    else:
        closed: bool
        close_reason: CloseReason | None
        protocol: Protocol | None
        _sock: socket.socket
        _fd: int
        _peer: Address | None
        _reactor: Core
        _limits: Limits
        _state: str
        _exc: BaseException | None
        _fault: Any
        _broken: OSError | None
        _pending: deque[Any]
        _decoder: Any
        _puller: Any
        _receive_many: Any
        _receive_one: Any
        _on_lost: Callable[..., None] | None
        _eof: bool
        _write_eof: bool
        _scheduled: bool
        _discarded: int
        _out: bytearray
        _events: int
        _timed: bool
        _due: float
        _last_activity: float
        _queued: int | None
        _timer: TimerHandle | None
        _arm: Callable[..., None]
        _dispatch: Callable[..., Any]
        _tell: Callable[..., Any]
        _leave_groups: Callable[[], None]
        _update_events: Callable[[], None]
        _flush_unless_corked: Callable[[], None]
        _account: Callable[[], None]

        @property
        def peer(self) -> Address | None: ...

    def _refuse(self, fault: FramingError | MemoryError | TlsError) -> None:
        """Close for what the decoder, or TLS below it, has raised; of a framing a protocol may have a last word."""
        if self._exc is None and isinstance(fault, FramingError) and hasattr(self.protocol, "framing_error"):
            self._exc = fault  # told once, though the callback may read on, or raise an exit
            self._dispatch(self._tell, "framing_error", fault)
            # close() comes anyway: the fault stays what ended it.
            if self.close_reason is CloseReason.LOCAL and self._exc is None:
                self.close_reason, self._exc = reason_of(fault), fault
        self._close(reason_of(fault), fault)

    def _close(self, reason: CloseReason, exc: BaseException | None = None) -> None:
        """Begin the orderly end: OPEN -> FLUSHING; from there on the output and the timers decide."""
        if self._state is not OPEN:
            return
        self._state = FLUSHING
        self.close_reason, self._exc = reason, exc
        self._leave_groups()
        self._pending.clear()
        self._timed, self._due = True, -inf
        self._last_activity = self._reactor.time()
        self._queued = None
        self._arm(FLUSHING, self._last_activity + self._limits.flush_timeout / 2, self._flush_too_slow)
        if self._puller is not None:
            self._puller.closing()
        self._update_events()
        self._flush_unless_corked()

    def _linger(self) -> None:
        """Everything is written: FLUSHING -> LINGERING, unless there is nothing to wait for."""
        if self._eof or not self._limits.linger or self._broken is not None:
            return self._finish()
        self._state = LINGERING
        self._arm(LINGERING, self._reactor.time() + self._limits.linger, self._finish)
        self._shutdown()
        return self._update_events()

    def _discard(self) -> None:
        """Read and drop, so that the kernel has nothing to answer with a reset; end with the peer's end."""
        try:
            size = self._sock.recv_into(self._reactor.recv_buffer)
        except OSError as exc:
            if exc.errno not in WOULD_BLOCK and exc.errno != errno.EINTR:
                self._finish()
            return
        self._discarded += size
        if size == 0 or self._discarded > DISCARD_BUDGET:
            self._finish()

    def _shutdown(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # not connected any more; the next read says why

    def _flush_too_slow(self) -> None:
        seconds, left, now = self._limits.flush_timeout, len(self._out), self._reactor.time()
        queued = queued_output(self._fd)
        if self._queued not in (None, queued):
            self._last_activity = now  # it takes what the kernel holds, of which that tells nobody; see _ask_kernel
        self._queued = queued
        quiet_until = self._last_activity + seconds
        if quiet_until > now:
            return self._arm(FLUSHING, min(quiet_until, now + seconds / 2), self._flush_too_slow)
        # The first cause is what counts, if there is one.
        if self._exc is None:
            return self._finish(CloseReason.FLUSH_TIMEOUT, flush_too_slow(left, seconds))
        return self._finish()

    def _failed_io(self, exc: OSError) -> None:
        # A closing connection keeps its reason, unless that says that all is well: output was lost.
        if self._state is OPEN or (self._state is FLUSHING and self._exc is None):
            return self._finish(CloseReason.RESET if exc.errno in PEER_GONE else CloseReason.ERROR, exc)
        return self._finish()

    def _finish(self, reason: CloseReason | None = None, exc: BaseException | None = None) -> None:
        """Close the socket now; any state -> CLOSED.  A closing connection keeps its reason unless given a new one."""
        if self._state is CLOSED:
            return
        # Asked for in logs, and gone with the socket.  Asking may run a collection, and that any code, abort() too.
        self._peer = self.peer
        if self._state is CLOSED:
            return
        self._state = CLOSED
        if reason is not None:
            self.close_reason, self._exc = reason, exc
        self._leave_groups()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._events:
            self._events = 0
            with contextlib.suppress(KeyError):  # aborted from inside another unregister, which was quicker
                self._reactor.unregister(self._fd)
        self.closed = True
        with contextlib.suppress(OSError):  # close(2): whatever it says, the fd is gone
            self._sock.close()
        self._pending.clear()
        self._out = bytearray()
        self._decoder = None
        self._account()
        # Not from inside whatever called close(): a callback never runs in the middle of another one.
        self._reactor.call_soon(self._lost)

    def _lost(self) -> None:
        reactor = self._reactor
        reactor.dispatching, outer = True, reactor.dispatching  # what it sends to others is a batch, too
        try:
            # None where a factory forgot its return: that was the reason of the end, and has been told.
            if self.protocol is not None:
                self.protocol.connection_lost(self._exc)
        finally:
            reactor.dispatching = outer
            if self._on_lost is not None:
                self._on_lost(self, self._exc)
            # A protocol knows its connection, as a traceback does: in a circle all would wait for the collector.
            self.protocol = self._receive_many = self._receive_one = self._on_lost = None
            self._exc = self._fault = self._broken = None

    def _forked(self) -> None:
        """Let go of the copy of the socket, without a word to the peer or the protocol: both are the parent's."""
        self._state = CLOSED
        self.closed = self._write_eof = self._scheduled = True  # so send() raises, and nothing asks for another turn
        self._leave_groups()
        self._sock.close()
