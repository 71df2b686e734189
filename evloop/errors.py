"""The exceptions of evloop, and why a connection ended.

::

    EvloopError
    ├── FramingError (ValueError)          the stream, or a frame to be sent, breaks the wire format
    │   ├── FrameTooLarge                  longer than max_frame: theirs at the header, ours before a byte is queued
    │   ├── BadLength                      a length field that no frame can have: negative, too small, > 64 bits
    │   ├── BadMagic                       the fixed first bytes of a frame are other bytes
    │   ├── TruncatedFrame                 the stream ended inside a frame
    │   └── SinkError                      the application's sink refused the bytes of a spilled frame
    ├── AddressError (ValueError)          an address that cannot be parsed
    ├── ConnectionClosed (ConnectionError) a blocking client's peer has closed
    ├── TlsError (ConnectionError)         TLS failed: the handshake, a record, or an end without close_notify
    └── UnexpectedFrame                    a blocking client waited for one message and got another

Misuse of an object (feeding a decoder from inside its own sink, closing a running reactor) is RuntimeError, a wrong
argument is TypeError or ValueError, and what the kernel says stays OSError.

Rule: nothing in this file may import from the rest of the package.
"""

from __future__ import annotations

import enum
from typing import Any

# The first bytes of the protocols that are most often spoken to the wrong port.  1195725856 is "GET " read as a
# 32-bit length; an operator who sees the number alone looks for a bug in the framing.
_FAMILIAR = (
    (["GET ", "POST", "HEAD", "PUT ", "DELE", "OPTI", "PATC", "CONN", "PRI ", "HTTP"], "http", "an HTTP request"),
    (["\x16\x03\x00", "\x16\x03\x01", "\x16\x03\x02", "\x16\x03\x03"], "tls", "a TLS handshake"),
    (["SSH-"], "ssh", "an SSH banner"),
)
_LOOKS_LIKE_TEXT = {name: text for _, name, text in _FAMILIAR}


def looks_like(header: bytes) -> str | None:
    """Guess the protocol that begins with *header* (bytes): ``"http"``, ``"tls"``, ``"ssh"`` or None."""
    text = header.decode("latin-1")
    for prefixes, name, _ in _FAMILIAR:
        if text.startswith(tuple(prefixes)):
            return name
    return None


def name_of_protocol(guess: str) -> str:
    """Return what :func:`looks_like` guessed, with its article: ``"an HTTP request"``."""
    return _LOOKS_LIKE_TEXT[guess]


class EvloopError(Exception):
    """The base of every exception that evloop defines."""


class FramingError(EvloopError, ValueError):
    """The stream cannot be read as frames, or a payload cannot be sent as one.

    Attributes:
        frames: the items decoded before the fault in the same call (list); deliver them, then close.
        position: offset in the stream of the first byte of the faulty frame (int), or None for a frame to be sent.
        header: the raw header bytes that arrived (bytes, at most 64).
        looks_like: ``"http"``, ``"tls"``, ``"ssh"`` or None: what the header resembles, if it opens the stream.
    """

    # What __init__ takes before the keywords, so that pickle and again() can rebuild the exception.
    _fields: tuple[str, ...] = ("cause",)

    def __init__(
        self,
        *values: Any,
        position: int | None = None,
        header: bytes = b"",
        frames: list[Any] | None = None,
    ) -> None:
        if len(values) != len(self._fields):
            raise TypeError(f"{type(self).__name__} takes {', '.join(self._fields)}")
        for field, value in zip(self._fields, values, strict=True):
            setattr(self, field, value)
        self.position = position
        self.header = header
        self.frames = [] if frames is None else frames
        # Only the very first bytes of a stream name a protocol; later ones are payload that came out of step.
        self.looks_like = looks_like(header) if position == 0 else None
        super().__init__(self._text() + self._where())

    def _text(self) -> str:
        return str(self.__dict__["cause"])

    def _where(self) -> str:
        if self.position is None:
            return ""
        where = f" at offset {self.position}"
        if self.header:
            where += f"; header {self.header.hex(' ')}"
        if self.looks_like:
            where += f" looks like {name_of_protocol(self.looks_like)}"
        return where

    def again(self) -> FramingError:
        """Return the same error without its frames: what a failed decoder raises from then on."""
        values = [getattr(self, field) for field in self._fields]
        return type(self)(*values, position=self.position, header=self.header)

    def __reduce__(self) -> tuple[Any, ...]:
        values = tuple(getattr(self, field) for field in self._fields)
        return _rebuild, (type(self), values, self.position, self.header, self.frames)


def _rebuild(
    cls: type[FramingError], values: tuple[Any, ...], position: int | None, header: bytes, frames: list[Any]
) -> FramingError:
    return cls(*values, position=position, header=header, frames=frames)


class FrameTooLarge(FramingError):
    """A frame of *length* payload bytes (int) exceeds the *limit* ``max_frame`` (int); nothing was allocated for it."""

    _fields = ("length", "limit")
    length: int
    limit: int

    def _text(self) -> str:
        return f"frame of {self.length} bytes exceeds max_frame {self.limit}"


class BadLength(FramingError):
    """The length field holds a value that no frame can have; *cause* (str) says which and why."""

    cause: str


class BadMagic(FramingError):
    """A frame does not begin with the *expected* bytes but with *got* (both bytes)."""

    _fields = ("expected", "got")
    expected: bytes
    got: bytes

    def _text(self) -> str:
        return f"frame begins with {self.got.hex(' ')} instead of the magic {self.expected.hex(' ')}"


class TruncatedFrame(FramingError):
    """The stream ended after *have* of the *need* bytes (ints, header included) of a frame.

    While the header itself is incomplete, *need* is the least that any frame takes.
    """

    _fields = ("have", "need")
    have: int
    need: int

    def _text(self) -> str:
        return f"stream ended inside a frame, after {self.have} of {self.need} bytes,"


class SinkError(FramingError):
    """A sink raised (then ``__cause__`` says what) or wrote fewer bytes than it got; *cause* (str) says which."""

    cause: str


class AddressError(EvloopError, ValueError):
    """An address that cannot be parsed; the text names the accepted forms."""


class ConnectionClosed(EvloopError, ConnectionError):
    """The peer closed the stream at a frame boundary while a blocking client waited for a frame."""


class TlsError(EvloopError, ConnectionError):
    """TLS failed; the text is one line with the cause and, where there is one, the remedy.

    Attributes:
        reason: OpenSSL's name of it (str), such as ``"CERTIFICATE_VERIFY_FAILED"``; None if it has none.
    """

    def __init__(self, text: str, reason: str | None = None) -> None:
        super().__init__(text)
        self.reason = reason


class UnexpectedFrame(EvloopError):
    """A blocking client expected one message (*expected*, bytes) and received another (*got*, bytes)."""

    def __init__(self, expected: bytes, got: bytes) -> None:
        super().__init__(expected, got)
        self.expected = expected
        self.got = got

    def __str__(self) -> str:
        # 64 bytes are enough to recognise a message by, and too few for a peer to flood a log with.
        return f"expected {self.expected[:64]!r}, received {self.got[:64]!r}"


class CloseReason(enum.Enum):
    """Why a connection ended: one closed set for callback, log and counter.

    The value is the word used in logs and as a counter's label.
    """

    LOCAL = "local"  # close() was called here and everything was flushed
    ABORTED = "aborted"  # abort() was called here; the peer saw a reset
    PEER = "peer"  # the peer closed its side at a frame boundary
    RESET = "reset"  # the peer, or the network, reset the connection
    TRUNCATED = "truncated"  # the peer's stream ended inside a frame, or without TLS's close_notify
    PROTOCOL = "protocol"  # the peer broke the wire format: BadLength, BadMagic
    FRAME_TOO_LARGE = "frame_too_large"  # the peer announced a frame above max_frame
    HANDSHAKE = "handshake"  # TLS was not established, in time or at all; the protocol never heard of the connection
    TLS = "tls"  # the peer broke TLS, or ended it with an alert
    IDLE = "idle"  # no byte moved for idle_timeout
    FIRST_FRAME_TIMEOUT = "first_frame_timeout"  # the peer did not send its first frame in time
    FRAME_TIMEOUT = "frame_timeout"  # the peer began a frame and did not finish it in time
    WRITE_TIMEOUT = "write_timeout"  # output waited, and the peer took none of it in time
    SLOW_CONSUMER = "slow_consumer"  # the peer took less than it was sent: max_output, or soft_output for too long
    OVERLOAD = "overload"  # all connections of the server held too much together, and this one most
    HANDLER = "handler"  # the application's callback raised
    FLUSH_TIMEOUT = "flush_timeout"  # closing, and the peer did not take the rest of the output in time
    SHUTDOWN = "shutdown"  # the server stopped
    ERROR = "error"  # another error of the operating system
