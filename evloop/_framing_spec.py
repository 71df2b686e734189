"""The wire format as a value: what both framing twins share, written once.

Validation, normalisation, equality, texts and statistics are here; the state machine and the encoders are in
``_framing.pyx`` and ``_framing_py.py``.

The shape of a frame on the wire::

    [ before, beginning with magic ][ length field ][ after ][ payload ]
      before bytes                    width bytes     after    payload length bytes
      or a varint                     bytes

    length field = payload length + what `counts` adds + bias

Rule: nothing in this file may know a socket, a clock, or which twin is in use.
"""

from __future__ import annotations

import inspect
import struct
import sys
from typing import Any, Literal, NamedTuple, TypeVar

from evloop.errors import BadLength, BadMagic, FrameTooLarge, FramingError, SinkError, TruncatedFrame

Width = int | Literal["varint"]

# The decoder keeps an unfinished header in a scratch area inside the object, so that an idle connection holds no
# buffer.  The largest real header we know is Diameter's 20 bytes; one cache line leaves room.
MAX_HEADER = 64

# 10 x 7 bits hold 64; the tenth byte may only be 0 or 1.
MAX_VARINT = 10

# One mebibyte, as NATS does: large enough for most messages, and 1,000 peers that each send one cost 1 GiB at worst.
DEFAULT_MAX_FRAME = 1 << 20

# Twice this fits in a signed 64-bit integer, so the twins may add a header to a length without an overflow check.
MAX_FRAME_CEILING = sys.maxsize // 2

# An arbitrary bound far beyond any protocol's offset, that keeps `length + bias` inside 64 bits.
MAX_BIAS = 1 << 31

COUNTS = ("payload", "rest", "from_length", "frame")
DELIVER = ("payload", "frame", "pair")

S = TypeVar("S", bound="FramingSpec")


class DecoderStats(NamedTuple):
    """What one decoder has seen; all ints, since the decoder was made or reset."""

    frames: int  # items delivered by feed(), raw items included
    payload_bytes: int  # their payload bytes, headers excluded
    largest: int  # the largest payload, in bytes
    skipped: int  # frames dropped because of oversize="skip"
    skipped_bytes: int  # payload bytes dropped with them
    copied: int  # bytes gathered in the decoder because a read had cut a frame

    @property
    def average(self) -> float:
        """The mean payload size in bytes; 0.0 before the first frame."""
        return self.payload_bytes / self.frames if self.frames else 0.0


class FramingSpec:
    """The value half of ``Framing``: validated fields, equality, repr, pickling, presets."""

    __slots__ = ()

    width: Width
    byteorder: str
    signed: bool
    before: int
    after: int
    magic: bytes
    counts: str
    bias: int
    deliver: str
    max_frame: int
    header_size: int

    def __init__(
        self,
        width: Width = 4,
        byteorder: str = "big",
        *,
        signed: bool = False,
        before: int | None = None,
        after: int = 0,
        magic: bytes = b"",
        counts: str = "payload",
        bias: int = 0,
        deliver: str = "payload",
        max_frame: int | None = None,
    ) -> None:
        # The twins take and validate the arguments in __new__, where a half-made object cannot be had ("signed" is a
        # keyword of Cython, too); this is the signature that help() and inspect show.
        pass

    @classmethod
    def from_struct(cls: type[S], fmt: str, **kwargs: Any) -> S:
        """Return the framing whose header is ``struct.pack(fmt, length)``, with *kwargs* as for the constructor.

        ``"!I"`` is the default format, ``"<H"`` two bytes little-endian.  Without a prefix the size and order are this
        machine's, as in :mod:`struct`: ``"i"`` speaks to the tutorials' ``struct.pack("i", n)``; ``"<i"`` is its
        portable spelling.

        Raises:
            ValueError: *fmt* is not one integer code with an optional ``@ = < > !`` prefix.
        """
        prefix, code = (fmt[:1], fmt[1:]) if fmt[:1] in tuple("@=<>!") else ("@", fmt)
        if len(code) != 1 or code not in "bBhHiIlLqQnN":
            raise ValueError(f"from_struct takes one integer code such as '!I', '<H' or 'i', not {fmt!r}")
        try:
            width = struct.calcsize(fmt)
        except struct.error as exc:
            raise ValueError(f"bad struct format {fmt!r}: {exc}") from None
        byteorder = {"<": "little", ">": "big", "!": "big"}.get(prefix, sys.byteorder)
        return cls(width, byteorder, signed=code.islower(), **kwargs)

    def replace(self: S, **changes: Any) -> S:
        """Return a copy with some of the constructor's arguments changed.

        What follows from another argument follows again: *before* grows and shrinks with *magic*, and a *max_frame*
        that the changed length field cannot announce gives way to the default.  Raises as the constructor does.
        """
        values = self._asdict()
        if "magic" in changes and "before" not in changes:
            values["before"] = values["before"] - len(self.magic) + len(changes["magic"])
        if self.width == "varint":
            values["byteorder"] = "big"  # a varint has none, so this is the default's place
        values.update(changes)
        if "max_frame" not in changes:
            values["max_frame"] = None
            roomy = validate(**values)
            if roomy.delta + self.max_frame <= roomy.capacity:
                values["max_frame"] = self.max_frame
        return type(self)(**values)

    def _asdict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in FIELDS}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FramingSpec):
            return NotImplemented
        return self._asdict() == other._asdict()

    def __hash__(self) -> int:
        return hash(tuple(self._asdict().values()))

    def __repr__(self) -> str:
        shown = [repr(self.width)]
        if self.width != "varint" and (self.width != 1 or self.byteorder != "big"):
            shown.append(repr(self.byteorder))
        defaults = {
            "signed": False,
            "before": len(self.magic),
            "after": 0,
            "magic": b"",
            "counts": "payload",
            "bias": 0,
        }
        defaults["deliver"] = "payload"
        shown += [f"{name}={getattr(self, name)!r}" for name, value in defaults.items() if getattr(self, name) != value]
        shown.append(f"max_frame={self.max_frame}")
        return f"Framing({', '.join(shown)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # A framing is a value that travels between processes; the one that reads it uses its own implementation.
        return _unpickle, (self._asdict(),)

    def __copy__(self: S) -> S:
        return self

    def __deepcopy__(self: S, memo: Any) -> S:
        return self


FIELDS = ("width", "byteorder", "signed", "before", "after", "magic", "counts", "bias", "deliver", "max_frame")


def _unpickle(fields: dict[str, Any]) -> Any:
    from evloop.framing import Framing

    return Framing(**fields)


class Layout(NamedTuple):
    """The validated numbers that the twins compute with."""

    width: Width
    byteorder: str
    signed: bool
    before: int
    after: int
    magic: bytes
    counts: str
    bias: int
    deliver: str
    max_frame: int
    size: int  # bytes of the length field: 1..8, or 0 for a varint
    header_size: int  # of the smallest header, in bytes
    delta: int  # length field minus payload length
    capacity: int  # the largest value that the length field can hold


def _integer(name: str, value: Any, low: int, high: int) -> int:
    # bool is an int, and Framing(True) is a slip of the pen.
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low}..{high}, not {value}")
    return int(value)


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return str(value)


def _edges(before: Any, after: Any, magic: Any) -> tuple[int, int, bytes]:
    """Validate the bytes around the length field; *before* None means the magic alone."""
    if not isinstance(magic, bytes):
        raise TypeError(f"magic must be bytes, not {type(magic).__name__}")
    before = len(magic) if before is None else _integer("before", before, 0, MAX_HEADER)
    after = _integer("after", after, 0, MAX_HEADER)
    if len(magic) > before:
        raise ValueError(f"magic of {len(magic)} bytes does not fit into before={before}")
    return before, after, bytes(magic)


def _field(width: Any, byteorder: Any, signed: Any) -> tuple[Width, int, str, bool, int]:
    """Validate the length field: (width, size, byteorder, signed, the largest value it holds)."""
    byteorder = _choice("byteorder", byteorder, ("big", "little"))
    signed = bool(signed)
    if width == "varint":
        if signed:
            raise ValueError("a varint (LEB128) has no sign: leave out signed=True")
        return "varint", 0, "little", False, (1 << 64) - 1
    if isinstance(width, str):
        raise ValueError(f"width must be 1..8 or 'varint', not {width!r}")
    width = _integer("width", width, 1, 8)
    return width, width, byteorder, signed, (1 << (8 * width - signed)) - 1


def validate(
    width: Any = 4,
    byteorder: Any = "big",
    *,
    signed: Any = False,
    before: Any = None,
    after: Any = 0,
    magic: Any = b"",
    counts: Any = "payload",
    bias: Any = 0,
    deliver: Any = "payload",
    max_frame: Any = None,
) -> Layout:
    """Check the arguments of ``Framing`` against each other and return the numbers that follow from them.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, out of range, or contradicts another one.
    """
    width, size, byteorder, signed, capacity = _field(width, byteorder, signed)
    before, after, magic = _edges(before, after, magic)
    counts = _choice("counts", counts, COUNTS)
    deliver = _choice("deliver", deliver, DELIVER)
    bias = _integer("bias", bias, -MAX_BIAS, MAX_BIAS)
    longest = before + (size or MAX_VARINT) + after
    if longest > MAX_HEADER:
        raise ValueError(f"a header of up to {longest} bytes exceeds the {MAX_HEADER} that a decoder keeps")
    if size == 0 and counts in ("from_length", "frame"):
        raise ValueError(f"counts={counts!r} includes the length field, and the size of a varint depends on its value")
    delta = bias + {"payload": 0, "rest": after, "from_length": size + after, "frame": before + size + after}[counts]
    max_frame = _bound(max_frame, capacity, delta)
    return Layout(
        width, byteorder, signed, before, after, magic, counts, bias, deliver, max_frame,
        size, before + (size or 1) + after, delta, capacity,
    )  # fmt: skip


# What a misspelt keyword is reported against: the user has called Framing().
validate.__qualname__ = "Framing"


def _bound(max_frame: Any, capacity: int, delta: int) -> int:
    """Return the payload bound: the given one if the length field can announce it, else one that it can."""
    most = min(capacity - delta, MAX_FRAME_CEILING)
    if most < max(0, -delta):
        raise ValueError(
            f"no payload fits: the length field holds at most {capacity} and exceeds the payload by {delta}"
        )
    if max_frame is None:
        return max(min(DEFAULT_MAX_FRAME, most), -delta)
    bound = check_max_frame(max_frame, most)
    if bound + delta < 0:
        raise ValueError(f"bias makes the length field {bound + delta} for the largest payload of {bound} bytes")
    return bound


def check_max_frame(max_frame: Any, most: int) -> int:
    """Return *max_frame* if it is an int in 0..*most*, where *most* is what the length field can announce."""
    if isinstance(max_frame, int) and max_frame > most:
        raise ValueError(f"max_frame {max_frame} is more than the length field can announce, {most}")
    return _integer("max_frame", max_frame, 0, most)


# --- the faults, with their texts ------------------------------------------------------------------------------


def length_fault(layout: Layout, value: int, max_frame: int, position: int, header: bytes) -> FramingError:
    """Return the error for a length field of *value* (int, unsigned as read) that the decoder refused."""
    if layout.signed and value > layout.capacity:
        value -= 1 << (8 * layout.size)
    if value < 0:
        return BadLength(f"length field is negative: {value}", position=position, header=header)
    length = value - layout.delta
    if length < 0:
        text = f"length field is {value}, less than the {layout.delta} that counts={layout.counts!r}"
        text += f" and bias={layout.bias} include" if layout.bias else " includes"
        return BadLength(text, position=position, header=header)
    return FrameTooLarge(length, max_frame, position=position, header=header)


def is_oversize(layout: Layout, value: int) -> bool:
    """Tell whether a refused length field of *value* announces a frame that exists but is too long: one can skip it."""
    if layout.signed and value > layout.capacity:
        return False
    return 0 <= value - layout.delta <= MAX_FRAME_CEILING


def varint_fault(position: int, header: bytes) -> FramingError:
    """Return the error for a varint that does not end within 64 bits."""
    return BadLength("varint longer than 64 bits", position=position, header=header)


def magic_fault(layout: Layout, position: int, header: bytes) -> FramingError:
    """Return the error for a header that does not begin with the magic."""
    return BadMagic(layout.magic, header[: len(layout.magic)], position=position, header=header)


def truncated(have: int, need: int, position: int, header: bytes) -> FramingError:
    """Return the error for a stream that ended after *have* of *need* bytes of an item."""
    return TruncatedFrame(have, need, position=position, header=header)


def sink_fault(problem: str, position: int, header: bytes) -> FramingError:
    """Return the error for a sink that did not take what it was given."""
    return SinkError(f"sink {problem}", position=position, header=header)


def too_large(length: int, max_frame: int) -> FramingError:
    """Return the error for a payload of *length* bytes that this side wanted to send."""
    return FrameTooLarge(length, max_frame)


def unannounceable(layout: Layout, length: int) -> FramingError:
    """Return the error for a payload too short for its negative bias."""
    return BadLength(f"a payload of {length} bytes would make the length field {length + layout.delta}")


def edge_fault(layout: Layout, before: bytes, after: bytes) -> ValueError:
    """Return the error for header bytes given to an encoder that do not fill their place."""
    want = layout.before - len(layout.magic)
    if len(before) != want:
        return ValueError(f"before must be {want} bytes (the magic is added), not {len(before)}")
    return ValueError(f"after must be {layout.after} bytes, not {len(after)}")


def sink_raised(exc: BaseException, position: int, header: bytes) -> FramingError:
    """Return the error for a sink that raised *exc*, whatever that one's own repr does."""
    try:
        what = repr(exc)
    except Exception:
        what = type(exc).__name__
    failure = sink_fault(f"raised {what}", position, header)
    failure.__cause__ = exc
    return failure


def room_fault(need: int, offset: int, room: int) -> ValueError:
    """Return the error for an encoder's target that is too small."""
    return ValueError(f"frame needs {need} bytes at offset {offset}, and the buffer has {room}")


def bytes_view(data: Any, what: str) -> memoryview:
    """Return a view of *data* as contiguous single bytes.

    Raises:
        TypeError: *data* is not bytes-like, not contiguous, or its items are wider than a byte.
    """
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"{what} must be a bytes-like object, not {type(data).__name__}") from None
    if view.itemsize != 1 or not view.c_contiguous:
        view.release()
        raise TypeError(f"{what} must be contiguous single bytes; convert it with bytes()")
    return view


def writable_view(buffer: Any) -> memoryview:
    """Return a flat, writable view of *buffer*; TypeError as for :func:`bytes_view`, or if it is read-only."""
    view = bytes_view(buffer, "buffer")
    if view.readonly:
        view.release()
        raise TypeError("buffer must be writable")
    return view.cast("B")


def check_offset(offset: Any) -> int:
    """Return *offset* if it is an int >= 0."""
    return _integer("offset", offset, 0, sys.maxsize)


def check_length(length: Any) -> int:
    """Return *length* if it is an int >= 0; how large it may be is for max_frame to say."""
    if isinstance(length, bool) or not isinstance(length, int):
        raise TypeError(f"length must be an int, not {type(length).__name__}")
    if length < 0:
        raise ValueError(f"length must not be negative: {length}")
    return length


def check_raw(n: Any, sink: Any, max_frame: int) -> int:
    """Return *n*, the size of a raw item: an int >= 0, and at most *max_frame* if it is to be held in memory."""
    check_length(n)
    most = max_frame if sink is None else MAX_FRAME_CEILING
    if n > most:
        raise FrameTooLarge(n, most)
    if sink is not None:
        check_sink(sink)
    return int(n)


# --- misuse of a decoder: programming errors of the caller, not faults of the stream ----------------------------


def check_options(oversize: Any, spill: Any, spill_above: Any) -> int:
    """Check a decoder's options and return the payload size above which frames spill; MAX_FRAME_CEILING without."""
    _choice("oversize", oversize, ("error", "skip"))
    if (spill is None) != (spill_above is None):
        raise ValueError(
            "spill and spill_above go together: the sink's maker and the payload size above which it is used"
        )
    if spill is None:
        return MAX_FRAME_CEILING
    if not callable(spill):
        raise TypeError(f"spill must be a callable that takes the length, not {type(spill).__name__}")
    return _integer("spill_above", spill_above, 0, MAX_FRAME_CEILING)


def check_sink(sink: Any) -> Any:
    """Return *sink* if it can be written to."""
    if not callable(getattr(sink, "write", None)):
        raise TypeError(f"a sink needs a write() method, and {type(sink).__name__} has none")
    return sink


def check_limit(limit: Any) -> int:
    """Return *limit* if it is an int >= 0."""
    return _integer("limit", limit, 0, sys.maxsize)


def write_to_sink(sink: Any, data: bytes) -> str | None:
    """Write *data* to the sink and return what went wrong, or None.

    A raw file may take less than it is given (write(2)); the rest would be lost in silence, so a short count is a
    fault.  BufferedWriter, BytesIO and sockets' makefile() take all.
    """
    written = sink.write(data)
    if isinstance(written, int) and written != len(data):
        return f"took {written} of {len(data)} bytes"
    return None


NOT_COPIED = "a FrameDecoder is a place in one stream and cannot be copied or pickled; its framing can"
REENTERED = "the decoder is in use: feed() was called from inside its own sink"
FED_AFTER_END = "feed() after eof() or take_rest(): reset() the decoder for a new stream"
EOF_WITH_REST = "eof() with {} bytes not yet decoded: take them with feed(b'') first"
RAW_INSIDE = "expect_raw() is for a frame boundary, and the decoder is inside a frame or a raw item"
REST_GONE = "take_rest() cannot return bytes of the current item that were skipped or given to a sink"


def describe(framing: FramingSpec, state: str, have: int, need: int, position: int, buffered: int) -> str:
    """Return a decoder's repr: where it stands in the stream and what it waits for."""
    what = {"raw": "raw item", "skip": "skipping"}.get(state, state)
    if state == "header" and not have:
        what = "between frames"
    elif state in ("header", "body", "raw", "skip"):
        what += f" {have}/{need}"
    return f"<FrameDecoder {framing!r}: {what} at offset {position}, {buffered} bytes buffered>"


def add_presets(cls: Any) -> None:
    """Set the usual framings as class attributes: ``U8 U16 U24 U32 U64`` (big-endian), ``U32LE`` and ``VARINT``."""
    for bits in (8, 16, 24, 32, 64):
        setattr(cls, f"U{bits}", cls(bits // 8))
    cls.U32LE = cls(4, "little")
    cls.VARINT = cls("varint")
    # __new__ takes anything and validates it; __init__ has the words.
    signature = inspect.signature(FramingSpec.__init__)
    cls.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])
