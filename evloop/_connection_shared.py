"""What both connection twins share, written once: bounds, counters, texts of errors.

Rule: nothing in this file may do I/O or know which twin is in use.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from evloop._framing_spec import bytes_view
from evloop.errors import CloseReason, FrameTooLarge, FramingError, TlsError
from evloop.limits import Limits

if TYPE_CHECKING:
    from evloop.framing import Framing

# Frames that one connection may have delivered in a turn.  A read of 256 KiB can hold 65,536 empty ones; at a
# microsecond a callback, 1,024 keep the others waiting for about a millisecond.
FRAMES_PER_TURN = 1024

# Bytes that one connection may write in a turn: the largest frame of the default max_frame leaves with one call, where
# four calls in as many turns would cost a fifth more.  The copy keeps the others waiting for about 0.1 ms.
SEND_BUDGET = 1024 * 1024 + 64

# Bytes that closing discards while it waits for the peer's end of the stream: a full read more than the peer is likely
# to have had under way; who sends more is not about to stop.
DISCARD_BUDGET = 256 * 1024

# SO_LINGER on, with no time: close() sends RST and frees the output at once (socket(7)).
RESET = struct.pack("ii", 1, 0)

# Where a connection is in its life; it only ever goes down this list.
STATES = (
    "open",
    "flushing",  # closing: the rest of the output is on its way; nothing more is read or delivered
    "lingering",  # closing: our end of the stream is sent; what comes is discarded until theirs
    "closed",  # the socket is closed
)


NOT_PULLED = (
    "this connection's frames go to its handler's callbacks: recv(), drain() and `async for` are for a coroutine "
    "handler, and for what evloop.aio.connect() returns"
)


NOT_SWITCHED = "a coroutine takes this connection's frames, or would: another protocol or framing is for callbacks"


def not_a_connection(thing: object) -> str:
    """Return why *thing* cannot be in a group."""
    return f"a group is of connections, not of {type(thing).__name__}"


OTHER_REACTOR = "the members of a group share a reactor, and this connection has another one"


class ConnectionStats(NamedTuple):
    """Counters of one connection; all ints."""

    frames_received: int  # delivered to the protocol; without framing, reads
    bytes_received: int  # taken from the kernel
    frames_sent: int  # accepted by send()
    bytes_sent: int  # taken by the kernel
    output: int  # bytes waiting for the kernel to take them
    input: int  # bytes received and not delivered
    paused: int  # 1 while nothing is delivered: pause_reading, or output above high_water; else 0


class Budget:
    """The bytes that the connections of a server hold together, and the bound of them.

    A connection adds what has changed after each read and flush; nothing is counted per frame.

    Attributes:
        limit: bytes (int).
        used: bytes held now (int).
        exceeded: True once the bound was passed, until whoever was told sets it back (bool).
    Reactor thread only.
    """

    __slots__ = ("limit", "used", "exceeded", "_tell")

    def __init__(self, limit: int, tell: Callable[[], object]) -> None:
        self.limit = limit
        self.used = 0
        self.exceeded = False
        self._tell = tell  # called once, then not before exceeded was set back

    def add(self, change: int) -> None:
        """Count *change* bytes (int) more, or less."""
        self.used += change
        if self.used > self.limit and not self.exceeded:
            self.exceeded = True
            self._tell()


def find_receivers(protocol: Any, framed: bool) -> tuple[Any, Any]:
    """Return the protocol's receiving methods, (of many, of one), either of which may be None.

    Raises:
        TypeError: it has none.
    """
    if not framed:
        many, one, wanted = None, getattr(protocol, "data_received", None), "data_received, which framing=None needs"
    else:
        many, one = getattr(protocol, "frames_received", None), getattr(protocol, "frame_received", None)
        wanted = "frame_received or frames_received"
    if many is None and one is None:
        raise TypeError(f"{type(protocol).__name__} has no method {wanted}")
    return many, one


def refuse_frames(error: TypeError) -> Callable[..., object]:
    """Return what stands for the method that a protocol lacks, as *error* says: it raises that when it is called."""

    def refuse(*_args: object) -> None:
        raise TypeError(*error.args)

    return refuse


def stream_of(framing: Framing | None, items: Iterable[Any]) -> bytes:
    """Return the bytes of the stream that these frames were, or these reads of one without framing.

    Raises:
        RuntimeError: the framing has delivered less than there was.
    """
    if framing is None or framing.deliver == "frame":
        return b"".join(items)
    if framing.deliver == "pair":
        return b"".join([part for pair in items for part in pair])
    payloads = list(items)
    if not payloads:
        return b""
    if framing.width == "varint" or framing.header_size != framing.width:
        raise RuntimeError(
            f"{len(payloads)} frames behind this one are decoded, and without the bytes of their headers; "
            'deliver="frame" keeps them'
        )
    # Limits.max_frame may be the larger of the two bounds.
    return framing.replace(max_frame=max(map(len, payloads))).encode_many(payloads)


def as_they_are(payload: Any, before: bytes = b"", after: bytes = b"") -> bytes:
    """Return the bytes of *payload*: the encoder of an unframed connection; TypeError, ValueError as an encoder's."""
    if before or after:
        raise ValueError("before and after are parts of a header, and this connection has no framing")
    return payload if type(payload) is bytes else bytes_view(payload, "payload").tobytes()


def reason_of(fault: FramingError | MemoryError | TlsError) -> CloseReason:
    """Return the close reason of what a decoder, or TLS below it, raised."""
    if isinstance(fault, MemoryError):
        return CloseReason.ERROR
    if isinstance(fault, TlsError):
        return CloseReason.TLS
    return CloseReason.FRAME_TOO_LARGE if isinstance(fault, FrameTooLarge) else CloseReason.PROTOCOL


def flush_too_slow(left: int, seconds: float) -> TimeoutError:
    """Return the error of a closing connection whose peer took none of *left* bytes."""
    return TimeoutError(f"the peer took none of {left} bytes of output for {seconds:g} s (flush_timeout)")


_OVERDUE = {
    CloseReason.FIRST_FRAME_TIMEOUT: "no whole frame came in {0.first_frame_timeout:g} s (first_frame_timeout)",
    CloseReason.FRAME_TIMEOUT: "a frame was not whole {0.frame_timeout:g} s after its first byte (frame_timeout)",
    CloseReason.IDLE: "no byte moved for {0.idle_timeout:g} s (idle_timeout)",
    CloseReason.WRITE_TIMEOUT: "the peer took none of {1} bytes of output for {0.write_timeout:g} s (write_timeout)",
    CloseReason.SLOW_CONSUMER: "the output, {1} bytes now, was above {0.soft_output} bytes (soft_output) for "
    "{0.soft_output_timeout:g} s (soft_output_timeout)",
}


def overdue(reason: CloseReason, limits: Limits, output: int) -> TimeoutError:
    """Return the error of a connection that is closed for a deadline, with so many bytes of *output* left."""
    return TimeoutError(_OVERDUE[reason].format(limits, output))


def output_too_large(output: int, limit: int) -> ConnectionAbortedError:
    """Return the error of a connection whose output, in bytes, exceeds max_output."""
    return ConnectionAbortedError(f"the peer is too slow: {output} bytes of output exceed {limit} (max_output)")


def overload(held: int, limit: int) -> ConnectionAbortedError:
    """Return the error of a connection that is closed because all together hold more bytes than max_buffered."""
    text = f"closed with {held} bytes held, because all connections together exceeded {limit} (max_buffered)"
    return ConnectionAbortedError(text)


def output_alarm(limits: Limits) -> int:
    """Return the bytes of output above which the first of its bounds is passed."""
    return min(limits.soft_output or sys.maxsize, limits.max_output or sys.maxsize)


def is_timed(limits: Limits) -> bool:
    """Tell whether an open connection needs the time of what happens on it."""
    return bool(limits.idle_timeout or limits.first_frame_timeout or limits.frame_timeout)


def handshake_cut(server_side: bool) -> TlsError:
    """Return the error of a peer that ends its stream before TLS is established."""
    guess = "perhaps it does not accept the certificate" if server_side else "does it speak TLS on this port?"
    return TlsError(f"the peer closed the connection inside the TLS handshake; {guess}")


def no_close_notify() -> TlsError:
    """Return the error of a stream that may be complete or not."""
    return TlsError("the stream ended without TLS's close_notify: the peer skips it, or the connection was cut")


def describe(state: str, reason: CloseReason | None, peer: object, output: int) -> str:
    """Return a connection's repr."""
    why = f" ({reason.value})" if reason else ""
    return f"<Connection {state}{why} peer={peer} {output} bytes to send>"


def reset_on_close(sock: socket.socket) -> None:
    """Have the coming close of *sock* send a reset."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    except OSError:
        pass  # the kernel has forgotten the connection: there is nobody to reset
