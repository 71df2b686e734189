"""The framing in plain Python: the readable reference, and what runs without a compiler.

``_framing.pyx`` has the same classes and methods in the same order, and one test-suite runs over both.  Everything
that is not a loop over bytes is shared: validation, errors and texts are in ``_framing_spec``.

How the decoder keeps memory small: it has no receive buffer.  Whole frames are sliced straight out of the chunk that
was fed.  Of a frame that a read has cut, it keeps the header in a scratch area and the body that has arrived, never
room for what was announced.

Rule: nothing in this file may know a socket, a clock or a log.  Read next: ``connection.py``, which feeds this.
"""

from __future__ import annotations

import struct
import sys
from collections import deque
from typing import Any, ClassVar

from evloop import _framing_spec as spec
from evloop._framing_spec import DecoderStats, FramingSpec, Layout
from evloop.errors import FramingError

IMPLEMENTATION = "python"

_STRUCT_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Codec:
    """The numbers of a wire format, and the encoders that use them; :class:`Framing` is its public form."""

    __slots__ = ("_layout", "_simple")

    _layout: Layout
    _simple: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        layout = spec.validate(*args, **kwargs)
        self._layout = layout
        # The usual case, a header that is the length field alone, skips the edges.
        self._simple = layout.header_size == layout.size
        return self

    width = property(lambda self: self._layout.width)
    byteorder = property(lambda self: self._layout.byteorder)
    signed = property(lambda self: self._layout.signed)
    before = property(lambda self: self._layout.before)
    after = property(lambda self: self._layout.after)
    magic = property(lambda self: self._layout.magic)
    counts = property(lambda self: self._layout.counts)
    bias = property(lambda self: self._layout.bias)
    deliver = property(lambda self: self._layout.deliver)
    max_frame = property(lambda self: self._layout.max_frame)
    header_size = property(lambda self: self._layout.header_size)

    def header(self, length: int, before: bytes = b"", after: bytes = b"") -> bytes:
        """Return the header that announces a payload of *length* bytes, for sendfile(2) or writev(2).

        Args:
            length: payload size in bytes, 0..max_frame.
            before, after: the header bytes around the length field, magic excluded; exactly as many as the format has.

        Raises:
            FrameTooLarge: *length* exceeds max_frame.
            BadLength: the format's negative bias cannot announce so short a payload.
            ValueError: *length* is negative, or *before* or *after* has the wrong size.
            TypeError: *length* is no int, *before* or *after* is not bytes-like.

        Any thread.
        """
        layout = self._layout
        if spec.check_length(length) > layout.max_frame:
            raise spec.too_large(length, layout.max_frame)
        value = length + layout.delta
        if value < 0:
            raise spec.unannounceable(layout, length)
        if layout.size:
            field = value.to_bytes(layout.size, "big" if layout.byteorder == "big" else "little")
        else:
            field = _varint(value)
        if self._simple and type(before) is type(after) is bytes and not before and not after:
            return field
        with spec.bytes_view(before, "before") as view:
            before = bytes(view)
        with spec.bytes_view(after, "after") as view:
            after = bytes(view)
        if len(layout.magic) + len(before) != layout.before or len(after) != layout.after:
            raise spec.edge_fault(layout, before, after)
        return layout.magic + before + field + after

    def encode(self, payload: Any, before: bytes = b"", after: bytes = b"") -> bytes:
        """Return one frame, header and payload, as new bytes.

        *payload* is any bytes-like object of contiguous single bytes; a ``str`` is a TypeError.  *before*, *after* and
        what is raised: as for :meth:`header`.  Any thread.
        """
        if type(payload) is bytes:
            return self.header(len(payload), before, after) + payload
        # Released before an error leaves, or its traceback would keep the caller's bytearray from growing.
        with spec.bytes_view(payload, "payload") as view:
            return self.header(view.nbytes, before, after) + view

    def encode_many(self, payloads: Any, before: bytes = b"", after: bytes = b"") -> bytes:
        """Return the frames of an iterable of payloads as one bytes object, all with the same *before* and *after*.

        Raises what :meth:`encode` does, for the first payload at fault; then nothing has been encoded.  Any thread.
        """
        return b"".join([self.encode(payload, before, after) for payload in list(payloads)])

    def encode_parts(self, payload: Any, before: bytes = b"", after: bytes = b"") -> tuple[bytes, Any]:
        """Return ``(header, payload)``, the payload object unchanged: a frame for writev(2) that copies nothing.

        The payload must not change size until it has been sent.  Raises what :meth:`encode` does.  Any thread.
        """
        if type(payload) is bytes:
            return self.header(len(payload), before, after), payload
        with spec.bytes_view(payload, "payload") as view:
            return self.header(view.nbytes, before, after), payload

    def encode_into(self, payload: Any, buffer: Any, offset: int = 0, before: bytes = b"", after: bytes = b"") -> int:
        """Write one frame into a writable *buffer* at *offset* (bytes, >= 0); return the bytes written.

        Raises:
            ValueError: the frame does not fit behind *offset*; nothing was written.
            TypeError: *buffer* is not a writable, contiguous buffer of single bytes.

        The rest as for :meth:`encode`.  Any thread.
        """
        frame = self.encode(payload, before, after)
        with spec.writable_view(buffer) as target:
            if len(frame) > len(target) - spec.check_offset(offset):
                raise spec.room_fault(len(frame), offset, len(target))
            target[offset : offset + len(frame)] = frame
        return len(frame)

    def decoder(self, **options: Any) -> FrameDecoder:
        """Return a new :class:`FrameDecoder` for this framing; *options* are its keywords.  Any thread."""
        return FrameDecoder(self, **options)


class Framing(Codec, FramingSpec):
    """A length-prefixed wire format: one immutable value for both directions, shared by every connection.

    ::

        [ before, beginning with magic ][ length field ][ after ][ payload ]

    Args:
        width: bytes of the length field, 1..8, or ``"varint"``: unsigned LEB128, at most 64 bits, padded forms too.
        byteorder: ``"big"`` or ``"little"``, as for :meth:`int.to_bytes`; a varint has none.
        signed: the field is two's complement; a negative length is BadLength.
        before, after: header bytes around the length field, in bytes; *before* None means ``len(magic)``.
        magic: the fixed first bytes of each frame, part of *before*.
        counts: what the field counts beside the payload: ``"payload"`` nothing, ``"rest"`` *after*, ``"from_length"``
            the field itself and *after* (PostgreSQL), ``"frame"`` the whole header (Diameter, TPKT).
        bias: added to what is counted, for protocols that are off by a constant; -2**31..2**31.
        deliver: what a decoder returns for a frame: ``"payload"`` bytes, the whole ``"frame"`` as bytes, or the
            ``"pair"`` (header bytes, payload bytes).
        max_frame: the largest payload in bytes, header excluded, in both directions; None means 1 MiB, or what the
            field can announce if that is less.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, out of range, or contradicts another.

    Class attributes: ``U8 U16 U24 U32 U64`` (big-endian), ``U32LE``, ``VARINT``.  Hashable, comparable, picklable.
    Attributes are the arguments by name, and ``header_size``: bytes of the header; of a varint's, the smallest.
    """

    __slots__ = ()

    U8: ClassVar[Framing]
    U16: ClassVar[Framing]
    U24: ClassVar[Framing]
    U32: ClassVar[Framing]
    U64: ClassVar[Framing]
    U32LE: ClassVar[Framing]
    VARINT: ClassVar[Framing]


spec.add_presets(Framing)

HEADER, BODY, RAW, SKIP, FAILED, CLOSED = "header", "body", "raw", "skip", "failed", "closed"


class FrameDecoder:
    """Cut a stream of bytes into frames: feed what arrived, get what is complete.

    Args:
        framing: the :class:`Framing` of the stream.
        max_frame: payload bound in bytes that replaces the framing's; see the attribute.
        oversize: ``"error"`` refuses a frame above max_frame; ``"skip"`` drops it, counts it and goes on with the next.
        spill: ``spill(length) -> sink``, called for each frame of more than *spill_above* payload bytes; the payload
            goes to ``sink.write(bytes)`` as it arrives, and the sink is delivered in its place.  max_frame still holds.
            A sink takes all it is given: write() returns None or the number of bytes, and a smaller one is SinkError.
        spill_above: payload size in bytes, >= 0; goes with *spill*.

    Owns: the header and body of the one unfinished frame, and what a limit held back; no receive buffer.
    States: header, body, raw, skip, failed, closed.

    Not thread-safe and not re-entrant: a call from inside a sink is a RuntimeError.
    """

    __slots__ = (
        # what never changes
        "_framing", "_layout", "_unpack", "_oversize", "_spill", "_spill_above",
        # the bound, and the length-field values that the fast loop takes
        "_max_frame", "_low", "_high", "_fast_high",
        # the item being read: its header, its body or sink, how much of it is there
        "_state", "_header", "_body", "_sink", "_filled", "_need",
        # what a limit held back, and where we are in the stream
        "_rest", "_rest_offset", "_position", "_busy", "_failure", "_lost",
        # counters
        "_frames", "_payload_bytes", "_largest", "_skipped", "_skipped_bytes", "_copied",
    )  # fmt: skip

    _state: str
    _body: bytearray | None
    _sink: Any
    _filled: int
    _need: int
    _rest: deque[bytes]
    _failure: BaseException | None

    def __init__(
        self,
        framing: Codec,
        *,
        max_frame: int | None = None,
        oversize: str = "error",
        spill: Any = None,
        spill_above: int | None = None,
    ) -> None:
        if not isinstance(framing, Codec):
            raise TypeError(f"framing must be a Framing, not {type(framing).__name__}")
        layout = framing._layout
        self._framing = framing
        self._layout = layout
        self._spill_above = spec.check_options(oversize, spill, spill_above)
        self._oversize = oversize
        self._spill = spill
        order = ">" if layout.byteorder == "big" else "<"
        code = _STRUCT_CODES.get(layout.size)
        self._unpack = struct.Struct(order + code).unpack_from if code else None
        self._busy = False
        self._set_max_frame(layout.max_frame if max_frame is None else max_frame)
        self.reset()

    def __init_subclass__(cls) -> None:
        raise TypeError("FrameDecoder is not an acceptable base type")

    def feed(self, data: Any, limit: int | None = None) -> list[Any]:
        """Return the items that *data* completes, at most *limit* of them; keep the rest for the next call.

        Args:
            data: the next bytes of the stream: bytes, or anything contiguous with single-byte items.  Not kept, unless
                a limit cuts it short: then bytes are kept by reference and other objects by one copy.  ``b""`` is
                harmless: it goes on with what a limit held back, and is not the end of the stream.
            limit: the most items to return (int >= 0), or None for all.

        Returns:
            A new list: payloads as exact bytes (or what ``deliver`` says), raw items, and sinks of spilled frames.

        Raises:
            FramingError: the stream is at fault; ``exc.frames`` holds the items before the fault, and each later call
                raises the error again, without them.
            RuntimeError: after eof() or take_rest(), or from inside the decoder's own sink.
            MemoryError: no memory for a frame; the decoder has failed, ``exc.frames`` as above.
            TypeError: *data* is not bytes-like.

        Reactor thread only.
        """
        if type(data) is not bytes:
            data = spec.bytes_view(data, "data").tobytes()
        room = sys.maxsize if limit is None else spec.check_limit(limit)
        if self._busy:
            raise RuntimeError(spec.REENTERED)
        if self._failure is not None:
            raise _again(self._failure)
        if self._state is CLOSED:
            raise RuntimeError(spec.FED_AFTER_END)
        items: list[Any] = []
        self._busy = True
        try:
            self._decode(data, items, room)
        except MemoryError as exc:
            self._state, self._failure, self._lost = FAILED, exc, True
            exc.frames = items  # type: ignore[attr-defined]
            raise
        finally:
            self._busy = False
        if self._state is FAILED:
            raise self._take_failure(items)
        return items

    def eof(self) -> None:
        """Tell the decoder that the stream has ended.

        Raises:
            TruncatedFrame: it ended inside a frame or a raw item.
            FramingError: the decoder had failed before.
            RuntimeError: bytes that a limit held back have not been decoded yet: feed(b"") first.

        Reactor thread only.
        """
        self._check_idle()
        if self._failure is not None:
            raise _again(self._failure)
        if self._rest:
            raise RuntimeError(spec.EOF_WITH_REST.format(self._rest_bytes()))
        have = len(self._header) + self._filled
        if have or (self._state is RAW and self._need):
            self._failure = spec.truncated(have, self._item_size(), self._position, bytes(self._header))
            self._state = FAILED
            raise self._failure
        self._state = CLOSED

    def expect_raw(self, n: int, sink: Any = None) -> None:
        """Take the next *n* bytes of the stream as one item without a header, then go on with frames.

        The item is bytes, which *n* <= max_frame bounds, or *sink* after its ``write(bytes)`` got them all.  Call it
        between frames; with more than one frame in a chunk, ``feed(limit=1)`` stops at the right place.  An item of 0
        bytes is delivered by the next feed().

        Raises:
            FrameTooLarge: *n* exceeds max_frame and there is no sink.
            RuntimeError: the decoder is inside a frame, or has ended.
            ValueError, TypeError: *n* is negative or no int; *sink* has no write().

        Reactor thread only.
        """
        self._check_idle()
        if self._failure is not None:
            raise _again(self._failure)
        if self._state is CLOSED:
            raise RuntimeError(spec.FED_AFTER_END)
        if self._state is not HEADER or self._header:
            raise RuntimeError(spec.RAW_INSIDE)
        self._need = spec.check_raw(n, sink, self._max_frame)
        self._sink = sink
        self._body = bytearray() if sink is None else None
        self._state = RAW

    def take_rest(self) -> bytes:
        """Return every byte that is not part of a delivered item, and close the decoder for another protocol.

        After a fault in a header this is the stream from that header on.

        Raises:
            RuntimeError: some of those bytes are gone: skipped, or already written to a sink.

        Reactor thread only.
        """
        self._check_idle()
        if self._lost or (self._filled and self._body is None):
            raise RuntimeError(spec.REST_GONE)
        parts = [bytes(self._header)]
        if self._body is not None:
            parts.append(bytes(self._body[len(self._body) - self._filled :]))
        for index, chunk in enumerate(self._rest):
            parts.append(chunk if index else chunk[self._rest_offset :])
        self.reset()
        self._state = CLOSED
        return b"".join(parts)

    def reset(self) -> None:
        """Forget everything but the settings, for a new stream.  Reactor thread only."""
        self._check_idle()
        self._state = HEADER
        self._header = bytearray()
        self._body = None
        self._sink = None
        self._filled = 0
        self._need = 0
        self._rest = deque()
        self._rest_offset = 0
        self._position = 0
        self._failure = None
        self._lost = False
        self._frames = self._payload_bytes = self._largest = 0
        self._skipped = self._skipped_bytes = self._copied = 0

    @property
    def max_frame(self) -> int:
        """The largest payload in bytes; settable (0..what the field can announce), effective at the next header."""
        return self._max_frame

    @max_frame.setter
    def max_frame(self, value: int) -> None:
        self._set_max_frame(value)

    @property
    def buffered(self) -> int:
        """Bytes held in memory: of the unfinished item, and what a limit held back."""
        body = self._filled if self._body is not None else 0
        return len(self._header) + body + self._rest_bytes()

    @property
    def needed(self) -> int:
        """Bytes that the current header, body or raw item still lacks; 0 while undecoded bytes are held."""
        if self._rest or self._state in (FAILED, CLOSED):
            return 0
        return self._item_size() - len(self._header) - self._filled

    @property
    def position(self) -> int:
        """Offset in the stream of the current frame's first byte."""
        return self._position

    @property
    def in_frame(self) -> bool:
        """True while bytes of an undelivered item are held or awaited: the time to have a deadline."""
        return bool(self._header or self._filled or self._rest) or self._state in (BODY, RAW, SKIP)

    @property
    def failed(self) -> bool:
        """True after a fault; feed() raises it again."""
        return self._failure is not None

    @property
    def stats(self) -> DecoderStats:
        """Counters since the decoder was made or reset, as :class:`DecoderStats`."""
        return DecoderStats(
            self._frames, self._payload_bytes, self._largest, self._skipped, self._skipped_bytes, self._copied
        )

    def __reduce__(self) -> Any:
        raise TypeError(spec.NOT_COPIED)

    def __repr__(self) -> str:
        have = len(self._header) + self._filled
        framing: Any = self._framing
        return spec.describe(framing, self._state, have, self._item_size(), self._position, self.buffered)

    # --- the state machine -------------------------------------------------------------------------------------

    def _decode(self, data: bytes, items: list[Any], room: int) -> None:
        """Decode what a limit held back, then *data*; keep what the limit leaves."""
        if not self._rest:
            stop = self._consume(data, 0, items, room)
            if stop < len(data):
                self._rest.append(data)
                self._rest_offset = stop
            return
        if data:
            self._rest.append(data)
        while self._rest:
            chunk = self._rest[0]
            stop = self._consume(chunk, self._rest_offset, items, room)
            if stop < len(chunk):
                self._rest_offset = stop
                return
            self._rest.popleft()
            self._rest_offset = 0

    def _consume(self, chunk: bytes, pos: int, items: list[Any], room: int) -> int:
        """Run the machine over chunk[pos:]; return where it stopped: the end, the limit, or a fault."""
        end = len(chunk)
        while len(items) < room and self._state is not FAILED:
            if self._state is HEADER:
                if not self._header:
                    pos = self._scan(chunk, pos, items, room)
                    if len(items) >= room:
                        break
                pos = self._read_header(chunk, pos)
                if self._state is HEADER:  # the chunk ended inside the header
                    break
            elif self._filled < self._need:
                if pos == end:
                    break
                pos = self._read_body(chunk, pos)
            else:
                self._finish(items)
        return pos

    def _scan(self, chunk: bytes, pos: int, items: list[Any], room: int) -> int:
        """Take whole, ordinary frames; stop before the first header that needs a closer look."""
        layout = self._layout
        unpack, size, before, after = self._unpack, layout.size, layout.before, layout.after
        magic, deliver, order = layout.magic, layout.deliver, layout.byteorder
        low, high, delta = self._low, self._fast_high, layout.delta
        start, end, largest = pos, len(chunk), self._largest
        room -= len(items)
        taken = payload_bytes = 0
        while taken < room:
            field = pos + before
            if size:
                body = field + size + after
                if body > end:
                    break
                value = unpack(chunk, field)[0] if unpack else int.from_bytes(chunk[field : field + size], order)  # type: ignore[arg-type]
            else:
                value, stop = _read_varint(chunk, field, end)
                if stop is None:
                    break
                body = stop + after
            if not low <= value <= high or not chunk.startswith(magic, pos):
                break
            n = value - delta
            stop = body + n
            if stop > end:
                break
            if deliver == "payload":
                items.append(chunk[body:stop])
            elif deliver == "frame":
                items.append(chunk[pos:stop])
            else:
                items.append((chunk[pos:body], chunk[body:stop]))
            pos = stop
            taken += 1
            payload_bytes += n
            if n > largest:
                largest = n
        self._position += pos - start
        self._frames += taken
        self._payload_bytes += payload_bytes
        self._largest = largest
        return pos

    def _read_header(self, chunk: bytes, pos: int) -> int:
        """Gather header bytes until the header is whole, then begin the body."""
        header, end = self._header, len(chunk)
        while True:
            need = self._header_need()
            if len(header) >= need:
                break
            take = min(need - len(header), end - pos)
            if take == 0:
                return pos
            header += chunk[pos : pos + take]
            self._copied += take
            pos += take
        self._begin_body()
        return pos

    def _header_need(self) -> int:
        """Return how long the header is, or, while a varint is open, that one more byte is needed."""
        layout = self._layout
        if layout.size:
            return layout.header_size
        header = self._header
        for index in range(layout.before, min(len(header), layout.before + spec.MAX_VARINT)):
            if header[index] < 0x80:
                return index + 1 + layout.after
        if len(header) >= layout.before + spec.MAX_VARINT:
            return len(header)  # unending: _begin_body refuses it
        return max(len(header) + 1, layout.header_size - layout.after)

    def _begin_body(self) -> None:
        """Judge a whole header and enter BODY, SKIP or FAILED."""
        layout, header = self._layout, bytes(self._header)
        if not header.startswith(layout.magic):
            return self._fail(spec.magic_fault(layout, self._position, header))
        if layout.size:
            field = header[layout.before : layout.before + layout.size]
            value = int.from_bytes(field, "big" if layout.byteorder == "big" else "little")
        else:
            value, stop = _read_varint(header, layout.before, len(header))
            if stop is None or value >> 64:
                return self._fail(spec.varint_fault(self._position, header))
        if not self._low <= value <= self._high:
            if self._oversize == "skip" and spec.is_oversize(layout, value):
                self._state, self._need = SKIP, value - layout.delta
                return None
            return self._fail(spec.length_fault(layout, value, self._max_frame, self._position, header))
        self._state, self._need = BODY, value - layout.delta
        if self._need > self._spill_above:
            return self._open_sink(header)
        self._body = bytearray(header if layout.deliver == "frame" else b"")
        return None

    def _read_body(self, chunk: bytes, pos: int) -> int:
        """Add what the chunk holds of the current item."""
        take = min(self._need - self._filled, len(chunk) - pos)
        if self._sink is not None:
            self._write(chunk[pos : pos + take])
        elif self._body is not None:
            self._body += chunk[pos : pos + take]
            self._copied += take
        self._filled += take
        return pos + take

    def _finish(self, items: list[Any]) -> None:
        """Deliver the item that is whole and return to HEADER."""
        header, n, skipped = bytes(self._header), self._need, self._state is SKIP
        if not skipped:
            body = self._sink if self._sink is not None else bytes(self._body or b"")
            items.append((header, body) if self._layout.deliver == "pair" and self._state is BODY else body)
            self._frames += 1
            self._payload_bytes += n
            self._largest = max(self._largest, n)
        else:
            self._skipped += 1
            self._skipped_bytes += n
        self._position += len(header) + n
        self._state = HEADER
        self._header, self._body, self._sink = bytearray(), None, None
        self._filled = self._need = 0

    # --- sinks, faults and small questions ---------------------------------------------------------------------

    def _open_sink(self, header: bytes) -> None:
        """Ask the application where the payload shall go; user code runs here, with the decoder busy."""
        try:
            self._sink = spec.check_sink(self._spill(self._need))
        except BaseException as exc:
            return self._sink_raised(exc)
        if self._layout.deliver == "frame":
            self._write(header)
        return None

    def _write(self, data: bytes) -> None:
        try:
            problem = spec.write_to_sink(self._sink, data)
        except BaseException as exc:
            return self._sink_raised(exc)
        if problem:
            self._fail(spec.sink_fault(problem, self._position, bytes(self._header)), lost=True)
        return None

    def _sink_raised(self, exc: BaseException) -> None:
        self._fail(spec.sink_raised(exc, self._position, bytes(self._header)), lost=True)
        if not isinstance(exc, Exception):
            raise exc

    def _fail(self, failure: FramingError, lost: bool = False) -> None:
        self._state, self._failure, self._lost = FAILED, failure, lost

    def _take_failure(self, items: list[Any]) -> BaseException:
        """Return the fault with the items decoded before it; from now on it is raised without them."""
        failure = self._failure
        assert isinstance(failure, FramingError)
        failure.frames = items
        try:
            self._failure = failure.again()
        except MemoryError:
            pass  # the copy is made when it is raised; until then the frames stay
        return failure

    def _check_idle(self) -> None:
        if self._busy:
            raise RuntimeError(spec.REENTERED)

    def _set_max_frame(self, value: int) -> None:
        layout = self._layout
        most = min(layout.capacity - layout.delta, spec.MAX_FRAME_CEILING)
        self._max_frame = spec.check_max_frame(value, most)
        self._low = max(layout.delta, 0)
        self._high = self._max_frame + layout.delta
        self._fast_high = min(self._max_frame, self._spill_above) + layout.delta

    def _item_size(self) -> int:
        """Return the size of the current item, header included, as far as it is known."""
        if self._state is HEADER:
            return max(self._layout.header_size, self._header_need())
        return self._need + len(self._header)

    def _rest_bytes(self) -> int:
        return sum(map(len, self._rest)) - self._rest_offset


def _again(failure: BaseException) -> BaseException:
    return failure.again() if isinstance(failure, FramingError) else type(failure)(*failure.args)


def _varint(value: int) -> bytes:
    """Return *value* (0..2**64-1) as LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes | bytearray, pos: int, end: int) -> tuple[int, int | None]:
    """Return (value, where it ends), or (0, None) if it does not end within 10 bytes or before *end*."""
    value = shift = 0
    for index in range(pos, min(end, pos + spec.MAX_VARINT)):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    return 0, None
