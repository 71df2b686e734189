"""Frames inside ordinary asyncio code: the decoder under a protocol of asyncio's, on any event loop.

>>> import asyncio
>>> from evloop.aio import BufferedFrames
>>> class Upper(BufferedFrames):
...     def frame_received(self, frame):
...         self.send(frame.upper())
>>> async def main():
...     server = await asyncio.get_running_loop().create_server(Upper, "127.0.0.1", 9000)
...     await server.serve_forever()

The order of things is that of evloop's own connections (``_connection_py.py``): the frames of a read, then what follows
them in the stream, a fault or its end; and nothing of either while delivery is held.

Rule: nothing in this file may know a selector, a socket, or which event loop runs it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from evloop._connection_shared import FRAMES_PER_TURN, find_receivers
from evloop.errors import FramingError
from evloop.framing import FrameDecoder, Framing
from evloop.reactor import RECV_BUFFER

# Answers of one callback are gathered up to asyncio's own high-water mark; then the transport has to know of them, or
# it could not say that they are too many.
_GATHERED = 64 * 1024

# A buffer of a connection's own, where none can be shared: a quarter of the shared one, since every peer has one.
_OWN_BUFFER = 64 * 1024

# What a loop calls, and what answers in the place of what a subclass has under that name.
_CALLED_BY_LOOP = {
    "connection_made": "_made",
    "connection_lost": "_lost",
    "eof_received": "_eof_received",
    "pause_writing": "_pause_writing",
    "resume_writing": "_resume_writing",
}

_shared = threading.local()


class BufferedFrames(asyncio.BufferedProtocol):
    """An asyncio protocol of whole frames; subclass it, one object per connection.

    A subclass has at least one of these, as an :class:`evloop.Protocol` has; ``frames_received`` wins:

    - ``frames_received(frames: list)``: all frames of one read, in one call;
    - ``frame_received(frame)``: one frame; ``bytes``, or what the framing's ``deliver`` says.

    What is sent in a callback leaves with one write of the transport when the callback returns.  While the transport's
    output is above its high-water mark nothing is delivered and nothing read: whoever does not take the answers gets
    no more questions answered.  An exception that a callback raises is told to the loop's exception handler and ends
    this connection.

    Args:
        framing: the wire format, for both directions.
        max_frame: payload bound in bytes, for both directions, that replaces the framing's; None: the framing's.
    Raises:
        TypeError, ValueError: *max_frame* is no int, negative, or more than the framing can announce.

    Attributes:
        transport: asyncio's transport, from ``connection_made`` on; before, None.  Close and write through this object,
            not through it.  After ``loop.start_tls`` set it to the transport that this has returned.
        framing: the wire format.

    The methods below are called in the loop's thread and must be called there.
    """

    def __init__(self, framing: Framing = Framing.U32, *, max_frame: int | None = None) -> None:
        self.framing = framing if max_frame is None else framing.replace(max_frame=max_frame)
        self.transport: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._decoder = FrameDecoder(self.framing)
        self._receive_many: Callable[[list[Any]], object] | None = None
        self._receive_one: Callable[[Any], object] | None = None
        # Input: decoded and not delivered, and what follows it in the stream.
        self._pending: deque[Any] = deque()
        self._fault: FramingError | MemoryError | None = None
        self._eof = self._eof_told = self._scheduled = False
        self._reading = True
        self._paused = self._full = self._resumed = False
        # Output: what the callback that runs has sent.
        self._out: list[bytes] = []
        self._gathered = 0
        self._corked = self._write_ended = False
        # The end: asked for here, and come from the transport.
        self._closing = self._gone = False
        self._exc: BaseException | None = None
        # What the loop calls stands in front of what a subclass has defined, so that the latter need not call super().
        self.__dict__.update({name: getattr(self, ours) for name, ours in _CALLED_BY_LOOP.items()})

    # --- for the subclass: the meaning is that of evloop.Protocol -------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Called once, before anything else."""

    def eof_received(self) -> bool | None:
        """Called when the peer has closed its side, between frames, with all of them delivered.

        Return true to keep the sending side open, and close it yourself later; with TLS that is not possible.
        """
        return None

    def framing_error(self, exc: FramingError) -> None:
        """Called at most once, when the peer's bytes are no frame, with all frames before them delivered.

        What it sends is flushed, and then the connection is closed for *exc*, whatever this does.  An asyncio transport
        does not read on while it closes: a peer that is still sending may see a reset.
        """

    def pause_writing(self) -> None:
        """Called when the transport's output exceeds its high-water mark: send no more until ``resume_writing``."""

    def resume_writing(self) -> None:
        """Called when the transport's output is down to its low-water mark."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called exactly once, last, if connection_made was called.

        *exc* is None for an orderly end, else what ended the connection first: a :class:`FramingError`, with
        :class:`TruncatedFrame` for a stream that ends inside a frame, what a callback raised, or the transport's error.
        """

    # --- for the application ------------------------------------------------------------------------------------

    def send(self, payload: Any, before: bytes = b"", after: bytes = b"") -> None:
        """Send one frame; never blocks.  On a closing connection it is dropped in silence.

        Args:
            payload: bytes-like; copied before this returns.
            before, after: the header bytes around the length field, if the framing has any.
        Raises:
            FrameTooLarge: the payload exceeds max_frame; nothing was sent.
            TypeError, ValueError: as :meth:`Framing.encode`.
            RuntimeError: before ``connection_made``, or after :meth:`write_eof`.
        """
        self._put(self.framing.encode(payload, before, after))

    def send_many(self, payloads: Any) -> None:
        """Send an iterable of payloads, one frame each, as :meth:`send`; one at fault and nothing was sent."""
        self._put(self.framing.encode_many(payloads))

    def pause_reading(self) -> None:
        """Deliver nothing more, from this frame on, until :meth:`resume_reading`.  Idempotent."""
        self._paused = True
        self._update_reading()

    def resume_reading(self) -> None:
        """Deliver again, what was held back first, from the next turn on.  Idempotent."""
        if self._paused:
            self._paused = False
            self._continue_soon()

    def is_reading(self) -> bool:
        """Return whether frames are delivered as they come."""
        return not (self._paused or self._eof or self.is_closing())

    def write_eof(self) -> None:
        """Close the sending side once the output is flushed; receiving goes on.  Idempotent.

        Raises: NotImplementedError: the transport cannot, as with TLS; see ``transport.can_write_eof()``.
        """
        if not (self._write_ended or self.is_closing()):
            self._write_out()
            self.transport.write_eof()
            self._write_ended = True

    def close(self) -> None:
        """Flush the output and close, as ``transport.close()`` does.  Nothing more is delivered.  Idempotent."""
        self._end()

    def abort(self) -> None:
        """Close at once and drop the output, as ``transport.abort()`` does.  Idempotent."""
        self._out.clear()
        self._end()
        if self.transport is not None:
            self.transport.abort()

    def is_closing(self) -> bool:
        """Return whether the connection is closing or closed."""
        return self._closing or self._gone or (self.transport is not None and self.transport.is_closing())

    # --- called by the loop -------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the loop is to put what it reads; of no use after the next call."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Cut frames out of the *nbytes* bytes that the loop has read, and deliver them."""
        if self._closing or self._fault is not None:
            return
        try:
            self._pending.extend(self._decoder.feed(self._buffer[:nbytes]))
        except (FramingError, MemoryError) as exc:
            # Nothing that was accepted is lost: the frames before the fault are delivered first.
            self._pending.extend(getattr(exc, "frames", ()))
            self._fault = exc
        self._run_pending()

    def _made(self, transport: Any) -> None:
        if self._loop is not None:
            _used_up(transport)
        self.transport, self._loop = transport, asyncio.get_running_loop()
        self._buffer = _buffer_for(self._loop)
        self._dispatch(type(self).connection_made, self, transport)
        if not self._closing:
            self._dispatch(self._find_receivers)
        self._update_reading()

    def _eof_received(self) -> bool | None:
        self._eof = True
        if not (self._pending or self._paused or self._fault):
            return self._tell_eof()
        # It is told when its turn comes.  TLS closes in any case, and has words for whoever asks for anything else.
        return not (self._closing or self._over_tls())

    def _pause_writing(self) -> None:
        if self._resumed:  # and nobody has been told yet: it stays as it was
            self._resumed = False
            return
        self._full = True
        self._update_reading()
        self._dispatch(type(self).pause_writing, self)

    def _resume_writing(self) -> None:
        # In a later turn: asyncio's transports do not bear a close() in here, and who sends now holds up the others.
        self._resumed = True
        self._continue_soon()

    def _lost(self, exc: BaseException | None) -> None:
        self._gone, self._full = True, False
        # Python 3.10 tells of the end of a TLS stream by this alone.
        self._eof = self._eof or self._over_tls()
        if exc is None and self._eof and not (self._eof_told or self._closing):
            self._continue_soon()  # the stream was whole: what is held of it comes first
        else:
            self._tell_lost(exc)

    def _over_tls(self) -> bool:
        return self.transport.get_extra_info("sslcontext") is not None

    # --- input --------------------------------------------------------------------------------------------------

    def _find_receivers(self) -> None:
        """Look the subclass's methods up, once: after connection_made, which may have set them."""
        self._receive_many, self._receive_one = find_receivers(self, True)

    def _held(self) -> bool:
        """Tell whether nothing may be delivered now."""
        return self._paused or self._full

    def _run_pending(self) -> None:
        """Deliver what is decoded, then what follows it in the stream, then read on."""
        if self._pending and not (self._held() or self._closing):
            self._dispatch(self._deliver)
        if not (self._pending or self._paused or self._closing):
            if self._fault is not None:
                self._refuse(self._fault)
            elif self._eof and not self._eof_told:
                self._tell_eof()
        self._update_reading()

    def _deliver(self) -> None:
        pending = self._pending
        if self._receive_many is not None:
            frames = list(pending)
            pending.clear()
            self._receive_many(frames)
            return
        receive = self._receive_one
        assert receive is not None
        for _ in range(min(len(pending), FRAMES_PER_TURN)):
            receive(pending.popleft())
            if self._held() or self._closing or not pending:
                return
        if pending:
            self._continue_soon()

    def _refuse(self, fault: FramingError | MemoryError) -> None:
        """Close for what the decoder has raised; of a framing the subclass may have a last word."""
        if self._exc is None and isinstance(fault, FramingError):
            self._exc = fault  # told once, though the callback may raise an exit
            self._dispatch(type(self).framing_error, self, fault)
        self._end(fault)

    def _tell_eof(self) -> bool | None:
        """Tell of the peer's end of the stream, with everything before it delivered."""
        self._eof_told = True
        if self._closing:
            return None
        try:
            self._decoder.eof()
        except FramingError as exc:
            self._end(exc)
            return None
        # A transport that is gone has no sending side.
        keep_open = self._dispatch(type(self).eof_received, self) and not self._gone
        if not keep_open:
            self._end()
        return bool(keep_open)

    def _continue_soon(self) -> None:
        """Go on in a later turn; once, however often it is asked for, so that nobody gets a larger share."""
        if self._loop is not None and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._continue)

    def _continue(self) -> None:
        self._scheduled = False
        if self._resumed:
            self._resumed = self._full = False
            if not self._closing:
                self._dispatch(type(self).resume_writing, self)
        self._run_pending()

    def _update_reading(self) -> None:
        """Have the transport read if there is a use for it; the one place that tells it."""
        wanted = not (self._held() or self._pending or self._fault is not None)
        if wanted == self._reading or self.transport is None or self._eof or self.is_closing():
            return
        self._reading = wanted
        (self.transport.resume_reading if wanted else self.transport.pause_reading)()

    # --- output and the end -------------------------------------------------------------------------------------

    def _put(self, data: bytes) -> None:
        if self.transport is None:
            raise RuntimeError("send() before connection_made()")
        if self._write_ended:
            raise RuntimeError("send() after write_eof()")
        if self.is_closing():
            return
        if not self._corked:
            self.transport.write(data)
            return
        self._out.append(data)
        self._gathered += len(data)
        if self._gathered > _GATHERED:
            self._write_out()

    def _write_out(self) -> None:
        """Hand the transport what was gathered."""
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._gathered = 0
            if not self.transport.is_closing():
                self.transport.write(data)

    def _dispatch(self, callback: Callable[..., Any], *args: Any) -> Any:
        """Run a callback of the subclass; what it raises ends this connection and no other."""
        self._corked, corked = True, self._corked
        try:
            return callback(*args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            assert self._loop is not None
            message = f"a callback of {type(self).__name__} raised, which ends its connection"
            context = {"message": message, "exception": exc, "transport": self.transport, "protocol": self}
            self._loop.call_exception_handler(context)
            self._end(exc)
            return None
        finally:
            self._corked = corked
            if not corked:
                self._write_out()
                if self._closing:
                    self.transport.close()

    def _end(self, exc: BaseException | None = None) -> None:
        """Begin the end; the first cause is what connection_lost gets."""
        if self._closing:
            return
        self._closing, self._exc = True, exc
        self._pending.clear()
        if self.transport is None:
            return
        if self._gone:
            assert self._loop is not None
            self._loop.call_soon(self._tell_lost, None)  # never from inside whatever called close()
        elif not self._corked:
            self.transport.close()

    def _tell_lost(self, exc: BaseException | None) -> None:
        self._closing = True
        self._pending.clear()
        self._out.clear()
        # All of these know this object, as it knows them: in circles they would wait for the collector.
        self._receive_many = self._receive_one = None
        for name in _CALLED_BY_LOOP:
            self.__dict__.pop(name, None)
        self.__dict__["connection_made"] = _used_up
        cause, self._exc, self._fault = self._exc or self._fault or exc, None, None
        self.connection_lost(cause)


def _used_up(_transport: Any) -> None:
    raise RuntimeError("an object of BufferedFrames is of one connection, and this one has had its own")


def _buffer_for(loop: asyncio.AbstractEventLoop) -> memoryview:
    """Return the buffer for the reads of a connection: that of the thread, where no two reads can be under way.

    A loop that waits until something can be read asks for the buffer, fills it and hands it back in one step.  One
    that starts a read and waits for its end (Windows' proactor, io_uring) holds it for as long as the peer is silent.
    """
    modules = {base.__module__.partition(".")[0] for base in type(loop).__mro__}
    if not (isinstance(loop, asyncio.SelectorEventLoop) or "uvloop" in modules):
        return memoryview(bytearray(_OWN_BUFFER))
    if not hasattr(_shared, "buffer"):
        _shared.buffer = memoryview(bytearray(RECV_BUFFER))
    buffer: memoryview = _shared.buffer
    return buffer
