"""A connection in plain Python: one stream of whole frames, from a socket to your protocol and back.

A read goes through the reactor's shared buffer into the decoder; the frames are dispatched; the answers are gathered
meanwhile and leave with one send.  Nothing here blocks, and nothing is held without a bound:

- input: the decoder's one unfinished frame, and the frames of one read while their delivery is paused;
- output: ``Limits.high_water`` and what one callback adds; above it the connection stops reading.

A connection ends through one function, ``_close`` (orderly) or ``_finish`` (at once), with one reason; both are in
``_connection_closing.py``.

Rule: nothing in this file may parse bytes or know a server.
Read next: ``_connection_deadlines.py``, ``_framing_py.py``, ``server.py``.
"""

from __future__ import annotations

import errno
import functools
import socket
from collections import deque
from collections.abc import Callable
from math import inf
from selectors import EVENT_READ, EVENT_WRITE
from sys import maxsize
from typing import TYPE_CHECKING, Any

from evloop._connection_closing import Closing
from evloop._connection_deadlines import SLOTS, Deadlines
from evloop._connection_ends import Ends
from evloop._connection_pull import PULL_SLOTS, Puller, Pulling
from evloop._connection_share import SHARE_SLOTS, Sharing
from evloop._connection_shared import (
    FRAMES_PER_TURN,
    SEND_BUDGET,
    STATES,
    Budget,
    ConnectionStats,
    as_they_are,
    describe,
    find_receivers,
    output_alarm,
    output_too_large,
    reset_on_close,
)
from evloop._connection_switch import Switching
from evloop.addresses import Address
from evloop.errors import CloseReason, FramingError, TlsError, TruncatedFrame
from evloop.framing import FrameDecoder, Framing
from evloop.limits import Limits
from evloop.protocol import CoroutineProtocol, FunctionProtocol, Protocol
from evloop.reactor import Core, Endpoint
from evloop.sockets import PEER_GONE, WOULD_BLOCK, Accepted, socket_of

if TYPE_CHECKING:
    from evloop.tls import TlsInfo

IMPLEMENTATION = "python"


OPEN, FLUSHING, LINGERING, CLOSED = STATES


class Connection(Deadlines, Pulling, Switching, Sharing, Closing, Ends, Endpoint):
    """One stream of whole frames; made by a server or by ``connect()``.

    Attributes:
        protocol: the object whose callbacks are called; None after ``connection_lost``.
        framing: the wire format, or None.
        context: for the application; a handler function keeps its per-connection state here.  None at first.
        close_reason: a :class:`CloseReason` once it is closing, else None; final in ``connection_lost``.
        closed: True once the socket is closed.

    States: OPEN, FLUSHING, LINGERING, CLOSED.
    Owns: the socket, the decoder, the output.  Does not own: the reactor, the protocol.
    """

    __slots__ = (
        # what never changes
        "_sock", "_fd", "_peer", "_on_lost", "_throttle", "protocol", "framing", "context",
        "_encode", "_decoder", "_receive_many", "_receive_one",
        # where it is in its life
        "_state", "close_reason", "_exc", *SLOTS, *PULL_SLOTS, *SHARE_SLOTS,
        # input: decoded and not delivered, and what comes behind it
        "_pending", "_undelivered", "_fault", "_eof", "_eof_told", "_paused", "_scheduled", "_discarded",
        # output
        "_out", "_corked", "_full", "_write_eof", "_broken", "_events", "_alarm", "_send_turn", "_send_room",
        # the share of a budget
        "_budget", "_accounted",
        # counters
        "_frames_received", "_bytes_received", "_frames_sent", "_bytes_sent",
    )  # fmt: skip

    tls: TlsInfo | None = None  # what TLS has agreed on

    def __init__(
        self,
        reactor: Core,
        sock: socket.socket | Accepted,
        protocol: Protocol,
        *,
        framing: Framing | None,
        limits: Limits,
        peer: Address | None = None,
        on_lost: Callable[[Connection, BaseException | None], None] | None = None,
        throttle: bool = True,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(reactor)
        self._init_deadlines(limits)
        self._init_pulling()
        self._groups = None
        self._peer = peer if peer is not None or isinstance(sock, socket.socket) else sock.peer
        self._sock = socket_of(sock)
        self._fd = self._sock.fileno()
        self._on_lost = on_lost
        self._throttle = throttle  # hold reading while the output is above high_water
        self.protocol: Protocol | None = protocol
        self.framing = framing
        self.context: Any = None
        self._receive_many: Callable[[list[Any]], object] | None = None
        self._receive_one: Callable[[Any], object] | None = None
        self._encode: Callable[..., bytes] = as_they_are if framing is None else framing.encode
        self._decoder = None if framing is None else FrameDecoder(framing, max_frame=limits.max_frame)
        self._state: str = OPEN
        self.close_reason: CloseReason | None = None
        self._exc: BaseException | None = None
        self._pending: deque[Any] = deque()
        self._undelivered = 0  # bytes of the frames that the last read made whole
        self._fault: FramingError | MemoryError | TlsError | None = None
        self._eof = self._eof_told = self._scheduled = self._paused = False
        self._corked = self._full = self._write_eof = False
        self._out = bytearray()
        self._broken: OSError | None = None
        self._events = self._discarded = 0
        self._alarm = output_alarm(limits)  # bytes of output above which _output_high is to look
        self._send_turn = -1  # the turn that _send_room is of: bytes that may still be written in it
        self._send_room = 0
        self._budget = budget  # None: nobody counts
        self._accounted = 0  # bytes that the budget has been told of
        self._frames_received = self._bytes_received = self._frames_sent = self._bytes_sent = 0

    def start(self) -> None:
        """Begin: call ``connection_made`` and read.  Called once, by whoever made the connection.

        Raises:
            TypeError: the protocol has no method that could receive anything.
        """
        if self._timed:
            self._last_activity = self._began = self._reactor.time()
        if type(self.protocol) is CoroutineProtocol:
            self.protocol = self.protocol.new_session(IMPLEMENTATION)
            self._find_receivers()  # now, since an eager task takes frames inside of connection_made
        try:
            self._dispatch(self._tell, "connection_made", self)
        finally:  # an exit in the callback leaves the reactor, which may run again
            if self._state is OPEN:
                self._guarded(self._find_receivers)
            if self._timed:
                self._check_deadlines()
            self._continue_soon()
        self._run_pending()

    # --- for the application -----------------------------------------------------------------------------------

    def send(self, payload: Any, before: bytes = b"", after: bytes = b"") -> None:
        """Send one frame (without framing: bytes as they are); never blocks.

        What is sent in a callback of this connection leaves with one system call when the callback returns; at other
        times at once, or at the end of the turn.  On a closing connection it is dropped in silence, since the peer may
        end it at any moment.

        Args:
            payload: bytes-like; copied before this returns.
            before, after: the header bytes around the length field, if the framing has any.
        Raises:
            FrameTooLarge: the payload exceeds max_frame; nothing was sent.
            TypeError, ValueError: as :meth:`Framing.encode`.
            RuntimeError: after :meth:`write_eof`.

        Reactor thread only.
        """
        self._put(self._encode(payload, before, after), 1)

    def send_many(self, payloads: Any) -> None:
        """Send an iterable of payloads, one frame each, as :meth:`send`; one at fault and nothing was sent."""
        payloads = list(payloads)
        frames = b"".join(payloads) if self.framing is None else self.framing.encode_many(payloads)
        self._put(frames, len(payloads))

    def pause_reading(self) -> None:
        """Deliver nothing more, from this frame on, until :meth:`resume_reading`.  Idempotent.  Reactor thread only."""
        self._paused = True
        self._update_events()

    def resume_reading(self) -> None:
        """Deliver again, what was held back first, from the next turn on.  Idempotent.  Reactor thread only."""
        if self._paused:
            self._paused = False
            self._continue_soon()

    def is_reading(self) -> bool:
        """Return whether frames are delivered as they come.  Any thread."""
        return self._state is OPEN and not (self._paused or self._eof)

    def write_eof(self) -> None:
        """Close the sending side once the output is flushed; receiving goes on.  Idempotent.  Reactor thread only."""
        if self._state is OPEN and not self._write_eof:
            self._write_eof = True
            self._flush_unless_corked()

    def close(self) -> None:
        """Close in good order: flush, send the end of the stream, wait briefly for the peer's.  Idempotent.

        Nothing more is delivered; ``connection_lost(None)`` comes in a later turn, after at most ``flush_timeout`` and
        ``linger`` seconds.  Reactor thread only.
        """
        self._close(CloseReason.LOCAL)

    def close_for(self, reason: CloseReason, exc: BaseException | None = None) -> None:
        """Close as :meth:`close` does, for a *reason* of the caller's.  Reactor thread only."""
        self._close(reason, exc)

    def abort(self) -> None:
        """Close at once, dropping the output; the peer sees a reset.  Idempotent.  Reactor thread only."""
        self.abort_for(CloseReason.ABORTED)

    def abort_for(self, reason: CloseReason, exc: BaseException | None = None) -> None:
        """Close as :meth:`abort` does, for a *reason* of the caller's.  Reactor thread only."""
        if self._state is not CLOSED:
            reset_on_close(self._sock)
            self._finish(reason, exc)

    def is_closing(self) -> bool:
        """Return whether the connection is closing or closed.  Any thread."""
        return self._state is not OPEN

    @property
    def state(self) -> str:
        """Where the connection is in its life: ``"open"``, ``"flushing"``, ``"lingering"`` or ``"closed"``."""
        return self._state

    @property
    def stats(self) -> ConnectionStats:
        """The counters, as :class:`ConnectionStats`.  Any thread."""
        sent = (self._frames_sent, self._bytes_sent, len(self._out))
        paused = int(self._state is OPEN and self._held())
        return ConnectionStats(self._frames_received, self._bytes_received, *sent, self._input(), paused)

    def fileno(self) -> int:
        """Return the socket's fd, or -1 once closed.  Any thread."""
        return -1 if self.closed else self._fd

    def __repr__(self) -> str:
        return describe(self._state, self.close_reason, self.peer, len(self._out))

    # --- input -------------------------------------------------------------------------------------------------

    def _find_receivers(self) -> None:
        """Look the protocol's methods up, once: after connection_made, which may have set them."""
        if isinstance(self.protocol, Puller):
            self._puller = self.protocol
            return
        if type(self.protocol) is not FunctionProtocol:
            self._receive_many, self._receive_one = find_receivers(self.protocol, self.framing is not None)
        else:
            self._receive_many, self._receive_one = None, functools.partial(self.protocol.handler, self)

    def on_readable(self) -> None:
        """Take what has arrived, at most one shared buffer, and deliver it."""
        if self._state is not OPEN:
            return self._discard()
        buffer = self._reactor.recv_buffer
        try:
            size = self._sock.recv_into(buffer)
        except OSError as exc:
            if exc.errno not in WOULD_BLOCK and exc.errno != errno.EINTR:
                self._failed_io(exc)
            return None
        if size == 0:
            self._eof = True
        else:
            self._bytes_received += size
            self._touch()
            self._decode(buffer[:size])
            if self._limits.frame_timeout:
                self._time_frame()
        return self._run_pending()

    def _decode(self, data: memoryview) -> None:
        """Turn what was read into pending frames, or into the fault that follows them; with TLS below, overridden."""
        if not self._pending:
            self._undelivered = 0
        decoder = self._decoder  # a collection may end the connection meanwhile, which lets go of it
        if decoder is None:
            try:
                self._pending.append(data.tobytes())
            except MemoryError as exc:
                self._fault = exc
                return
            self._undelivered += len(data)
            return
        start = decoder.position
        try:
            self._pending.extend(decoder.feed(data))
        except (FramingError, MemoryError) as exc:
            # Nothing that was accepted is lost: the frames before the fault are delivered first.
            self._pending.extend(getattr(exc, "frames", ()))
            self._fault = exc
            if type(exc) is MemoryError:
                exc.frames = ()  # type: ignore[attr-defined]  # the very object may be raised again, for another stream
        self._undelivered += decoder.position - start

    _decode_plain = _decode  # what is no record of TLS's

    def _input(self) -> int:
        """Return the bytes that were received and not delivered: of the unfinished frame, and of whole ones."""
        decoder = self._decoder
        return (0 if decoder is None else decoder.buffered) + (self._undelivered if self._pending else 0)

    def _holds(self) -> int:
        """Return the bytes that count for the budget: output and input.  With TLS, overridden."""
        return len(self._out) + self._input()

    def _run_pending(self) -> None:
        """Deliver what is decoded, then what follows it in the stream, then look for more."""
        try:
            if self._state is OPEN and self._pending and not self._held():
                self._dispatch(self._deliver)
            if self._state is OPEN and not self._pending and not self._paused:
                if self._fault is not None:
                    self._refuse(self._fault)
                elif self._eof and not self._eof_told:
                    self._peer_closed()
        except BaseException:
            self._continue_soon()  # a callback ends the run, and the reactor may run again
            raise
        self._update_events()
        self._account()

    def _held(self) -> bool:
        """Tell whether nothing may be delivered now."""
        return self._paused or (self._full and self._throttle)

    def _continue_soon(self) -> None:
        """Go on in a later turn; once, however often it is asked for, so that nobody gets a larger share."""
        if not self._scheduled:
            self._scheduled = True
            self._reactor.call_soon(self._continue)

    def _continue(self) -> None:
        self._scheduled = False
        if self._full and len(self._out) <= self._limits.low_water:
            self._full = False
            if self._state is OPEN:
                self._dispatch(self._tell, "resume_writing")
        self._run_pending()

    def _deliver(self) -> None:
        if self._puller is not None:
            return self._tell_puller(self._puller)
        pending = self._pending
        if self._receive_many is not None:
            frames = list(pending)
            pending.clear()
            self._frames_received += len(frames)
            self._receive_many(frames)
            return None
        receive = self._receive_one
        assert receive is not None
        for _ in range(min(len(pending), FRAMES_PER_TURN)):
            self._frames_received += 1
            receive(pending.popleft())
            # Empty: a callback that calls on_readable() has delivered the others itself; another one: set_framing().
            if self._held() or self._state is not OPEN or not pending or self._pending is not pending:
                return None
        if pending:
            self._continue_soon()
        return None

    def _peer_closed(self) -> None:
        """The peer's end of the stream, with everything before it delivered."""
        if self._broken is not None:
            return self._failed_io(self._broken)
        if self._decoder is not None:
            try:
                self._decoder.eof()
            except TruncatedFrame as exc:
                return self._close(CloseReason.TRUNCATED, exc)
        keep_open = self._dispatch(self._tell, "eof_received")
        self._eof_told = True
        if not keep_open:
            self._close(CloseReason.PEER)
        return None

    # --- output ------------------------------------------------------------------------------------------------

    def _put(self, data: bytes, frames: int) -> None:
        if self._write_eof:
            self._reactor._check_closed()  # in a forked child, that is why
            raise RuntimeError("send() after write_eof()")
        if self._state is not OPEN or self._broken is not None:
            return
        alone = not self._out
        self._frames_sent += frames
        self._out += data
        self._flush_unless_corked(alone)
        if len(self._out) > self._alarm:
            self._output_high()

    def _flush_unless_corked(self, alone: bool = False) -> None:
        """Write now; or when the callback returns, if this connection's, or before the next wait, if another's.

        *alone*: what waits was sent by one call.  If that answers the last frame that has arrived, probably nothing
        follows, and it leaves when the callback returns, however large it is.  Not so with a coroutine: that may ask
        with drain() what has left.
        """
        if self._corked or self._events & EVENT_WRITE:
            # Held back, but not without a bound; and a kernel that has refused some says when there is room.
            last = alone and self._corked and self._puller is None and not self._pending
            if len(self._out) > self._limits.high_water and not self._full and not last:
                self._send_some()
            if not self._corked:
                self._account()
        elif self._reactor.dispatching:
            self._reactor.flush_soon(self)
        else:
            self.flush()

    def on_writable(self) -> None:
        """Write on: the kernel has room again."""
        self.flush()

    def flush(self) -> None:
        """Write what the kernel takes, then see what that changes."""
        if self._state is CLOSED or self._state is LINGERING:
            return
        self._send_some()
        if not self._out and not self.closed:
            if self._state is FLUSHING:
                self._linger()
            elif self._write_eof and self._broken is None:
                self._shutdown()
        self._update_events()
        self._account()

    def _send_some(self) -> None:
        """Hand the kernel one send's worth, and see to the water marks."""
        out = self._out
        if out and self._broken is None:
            sent = 0
            room = self._room_in_turn()
            if room <= 0:
                return self._keep_water_marks()
            try:
                with memoryview(out) as view:
                    sent = self._write(view[:room])
            except OSError as exc:
                if exc.errno not in WOULD_BLOCK and exc.errno != errno.EINTR:
                    self._write_failed(exc)
            else:
                del out[:sent]  # moves the start of the buffer, not its bytes
                self._bytes_sent += sent
                self._send_room -= sent
                self._touch()
            if self._limits.write_timeout:
                self._time_output(sent)
        return self._keep_water_marks()

    def _room_in_turn(self) -> int:
        """Return how many bytes may still be written in this turn."""
        turn = self._reactor._turns
        if self._send_turn != turn:
            self._send_turn, self._send_room = turn, SEND_BUDGET
        return self._send_room

    def _output_high(self) -> None:
        """The output has passed one of its bounds: what counts is what the kernel does not take."""
        left = len(self._out) + 1
        while self._alarm < len(self._out) < left:
            left = len(self._out)
            self._send_room = SEND_BUDGET  # that it was this connection's turn for long does not make its peer slow
            self._send_some()
        limits, left = self._limits, len(self._out)
        if self._state is not OPEN or left <= self._alarm:
            return None
        if limits.max_output and left > limits.max_output:
            return self.abort_for(CloseReason.SLOW_CONSUMER, output_too_large(left, limits.max_output))
        self._soft_since, self._alarm = self._reactor.time(), limits.max_output or maxsize
        return self._watch(self._soft_since + limits.soft_output_timeout)

    def _write(self, data: memoryview) -> int:
        """Hand the front of the output, the one way out, to the kernel; return what is done.  With TLS, overridden."""
        return self._sock.send(data)

    def _keep_water_marks(self) -> None:
        if self._state is not OPEN or self._broken is not None:
            return
        if len(self._out) <= self._limits.soft_output and self._soft_since != inf:
            self._soft_since, self._alarm = inf, self._limits.soft_output
        if self._full:
            # In a turn of its own: a producer whose peer reads as fast as it writes must not keep the others waiting.
            if len(self._out) <= self._limits.low_water:
                self._continue_soon()
        elif len(self._out) > self._limits.high_water:
            self._full = True
            self._dispatch(self._tell, "pause_writing")

    def _write_failed(self, exc: OSError) -> None:
        """Nothing more can be sent.  What a peer that is gone has sent may still be held, or readable: that first."""
        self._out = bytearray()  # and not clear(): the exception's traceback may hold a view of the old one
        self._broken = exc
        self._full = False
        self._stalled_since = self._soft_since = inf
        if self._state is not OPEN or self._eof_told or exc.errno not in PEER_GONE:
            self._failed_io(exc)
        else:
            self._continue_soon()

    def _account(self) -> None:
        """Tell the budget, if there is one, what has changed since the last time."""
        budget = self._budget
        if budget is not None:
            held = self._holds()
            if held != self._accounted:
                change, self._accounted = held - self._accounted, held
                budget.add(change)

    # --- small parts -------------------------------------------------------------------------------------------

    def _dispatch(self, callback: Callable[..., Any], *args: Any) -> Any:
        """Run a callback of the application; what it sends leaves with one send when it returns."""
        reactor = self._reactor
        reactor.dispatching, outer = True, reactor.dispatching
        self._corked, corked = True, self._corked
        try:
            return self._guarded(callback, *args)
        finally:
            self._corked = corked
            reactor.dispatching = outer
            if not corked:
                self.flush()

    def _tell(self, name: str, *args: Any) -> Any:
        return getattr(self.protocol, name)(*args)

    def _guarded(self, callback: Callable[..., Any], *args: Any) -> Any:
        """Run a callback of the application; what it raises ends this connection and no other."""
        try:
            return callback(*args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._close(CloseReason.HANDLER, exc)
            return None

    def _update_events(self) -> None:
        """Watch for what this state has a use for; the one place that talks to the selector."""
        events = 0
        if self._state is LINGERING:
            events = EVENT_READ
        elif self._state is OPEN and not (self._eof or self._fault or self._pending or self._paused):
            # Whoever does not take the answers gets no more questions answered.
            events = 0 if self._full and self._throttle else EVENT_READ
        if self._out and self._state in (OPEN, FLUSHING) and self._broken is None:
            events |= EVENT_WRITE
        before = self._events
        if events == before or self._state is CLOSED:
            return None
        # A selector cannot watch for nothing, so a paused connection is not registered: its reset is noticed when it
        # resumes or writes, and idle_timeout bounds how long that takes.
        try:
            if not before:
                self._reactor.register(self._fd, events, self)
            elif not events:
                self._reactor.unregister(self._fd)
            else:
                self._reactor.modify(self._fd, events, self)
        except KeyError:
            if self._state is not CLOSED:  # it is, if a collection in there has aborted: then that was its part
                raise
            return None
        if self._state is CLOSED:  # aborted by a collection in there, which has found it as it was before
            return None if before else self._reactor.unregister(self._fd)
        self._events = events
        if self._timed and events & ~before & EVENT_READ:
            self._reads_again()
        return None
