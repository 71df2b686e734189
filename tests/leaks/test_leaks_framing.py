"""The compiled framing leaves nothing behind: neither what works nor what fails, whole or half-way through."""

from __future__ import annotations

import contextlib
import copy
import pickle

import pytest
from feeding import Sink
from growth import fails, leaked
from twins import needs_compiled

from evloop.errors import FramingError

BODY = bytes(range(256)) * 8
LARGE = bytes(100_000)  # of the size that the pool of bodies keeps
FRAME = b"\0\5hello"


@pytest.fixture(scope="module")
def module(request):
    """The compiled framing."""
    needs_compiled(request.config)
    import evloop._framing

    return evloop._framing


class Bad:
    """A sink that raises, or does not take all, as it is told."""

    def __init__(self, answer):
        self.answer = answer

    def write(self, data):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


# --- encoding --------------------------------------------------------------------------------------------------------


def encode(module):
    framing = module.Framing(2)
    for payload in (b"hello", bytearray(b"hello"), memoryview(b"hello"), b"", LARGE[:60_000]):
        framing.encode(payload)
        framing.encode_parts(payload)
        framing.encode_many([payload, b"a", payload])
        framing.encode_many(iter([payload, bytearray(b"b")]))
    framing.encode_many([])
    framing.encode_into(b"hello", bytearray(20), 3)
    framing.header(5)


def encode_edges(module):
    framing = module.Framing(4, before=3, after=2, magic=b"ab")
    framing.encode(b"hello", b"c", b"de")
    framing.encode_many([b"hello", b"x"], bytearray(b"c"), memoryview(b"de"))
    framing.header(5, b"c", b"de")
    fails(ValueError, framing.encode, b"hello", b"too long", b"de")
    fails(TypeError, framing.encode, b"hello", 5, b"de")
    varint = module.Framing("varint")
    varint.encode(b"hello" * 100)
    varint.encode_many([b"hello", bytearray(300)])


def encode_refused(module):
    framing = module.Framing(1, max_frame=5)
    for payload in (b"hello!", bytearray(6)):
        fails(FramingError, framing.encode, payload)
        fails(FramingError, framing.encode_parts, payload)
        fails(FramingError, framing.encode_many, [b"a", payload])
    for payload in ("text", 5, None, memoryview(b"abcd")[::2]):
        fails((TypeError, ValueError, BufferError), framing.encode, payload)
        fails((TypeError, ValueError, BufferError), framing.encode_many, [b"a", payload])
        fails((TypeError, ValueError, BufferError), framing.encode_parts, payload)
    fails((TypeError, ValueError), framing.encode_many, 5)
    fails(FramingError, framing.header, 6)
    fails(TypeError, framing.header, "6")
    for buffer, offset in ((bytearray(3), 0), (bytearray(9), 6), (b"immutable", 0), (bytearray(9), -1)):
        fails((TypeError, ValueError, BufferError), framing.encode_into, b"hello", buffer, offset)
    fails(FramingError, module.Framing(1, bias=-3).encode, b"a")


def framing_value(module):
    framing = module.Framing(3, "little", before=1, deliver="pair", max_frame=70_000)
    assert pickle.loads(pickle.dumps(framing)) == copy.deepcopy(framing) == framing.replace(max_frame=70_000)
    repr(framing), hash(framing), framing.signed
    module.Framing.from_struct("<h")
    fails((TypeError, ValueError), module.Framing, 9)
    fails((TypeError, ValueError), module.Framing, 4, "middle")
    fails(TypeError, module.Framing, nonsense=1)
    fails(TypeError, module.FrameDecoder, 5)
    fails((TypeError, ValueError), framing.decoder, max_frame=-1)
    fails((TypeError, ValueError), framing.decoder, oversize="what")
    fails((TypeError, ValueError), framing.decoder, spill=5)


# --- decoding --------------------------------------------------------------------------------------------------------


def feed(module, *, cut=None, limit=None, make=bytes, size=2, **arguments):
    """Decode small, middle and large frames, in pieces of *cut* bytes, with a limit of so many frames a call."""
    framing = module.Framing(4, **arguments)
    edge = (b"e" * framing.before, b"f" * framing.after)
    stream = b"".join(framing.encode(payload, *edge) for payload in (b"a", b"", BODY, LARGE, b"end"))
    decoder = framing.decoder()
    step = cut or len(stream)
    count = 0
    for start in range(0, len(stream), step):
        count += len(decoder.feed(make(stream[start : start + step]), limit))
        while limit and (more := len(decoder.feed(b"", limit))):
            count += more
    assert count == 5
    repr(decoder), decoder.stats, decoder.buffered, decoder.needed, decoder.in_frame, decoder.position
    decoder.eof()
    fails(RuntimeError, decoder.feed, b"")


def feed_half(module):
    """Die, and start anew, in the middle of everything."""
    for stream in (b"\0", FRAME[:4], b"\0\0\0\0\xff\xff", b"\xc3\x50" + LARGE[:40_000], FRAME + b"\0\1"):
        decoder = module.Framing(2).decoder()
        decoder.feed(stream)
        decoder.reset()
        decoder.feed(bytearray(stream), 1)
        decoder.take_rest()
        decoder = module.Framing(2).decoder()
        decoder.feed(stream, 1)


def feed_faults(module):
    for arguments, stream in (
        ({"max_frame": 4}, b"\0\1a\0\5hello"),
        ({"magic": b"ab", "before": 2}, b"ab\0\1xcd\0\1y"),
        ({"bias": 2}, b"\0\3a\0\0"),
    ):
        decoder = module.Framing(2, **arguments).decoder()
        for _ in range(3):
            fails(FramingError, decoder.feed, stream)
        fails(FramingError, decoder.eof)
        fails(FramingError, decoder.expect_raw, 5)
        decoder.failed, repr(decoder)
        with contextlib.suppress(RuntimeError):
            decoder.take_rest()
    fails(FramingError, module.Framing("varint").decoder().feed, b"\1a" + b"\xff" * 12)
    decoder = module.Framing(2).decoder()
    decoder.feed(FRAME[:5])
    fails(FramingError, decoder.eof)
    fails(FramingError, decoder.feed, b"")


def feed_refused(module):
    decoder = module.Framing(2).decoder()
    for data in ("text", 5, None, [1], memoryview(b"abcd")[::2], memoryview(bytes(8)).cast("I")):
        fails((TypeError, ValueError, BufferError), decoder.feed, data)
    fails((TypeError, ValueError), decoder.feed, b"", "1")
    fails((TypeError, ValueError), decoder.feed, bytearray(1), -1)
    fails((TypeError, ValueError), decoder.expect_raw, -1)
    fails((TypeError, ValueError), setattr, decoder, "max_frame", "much")
    fails(AttributeError, delattr, decoder, "max_frame")
    fails(TypeError, copy.copy, decoder)
    decoder.feed(FRAME + FRAME, 1)
    fails(RuntimeError, decoder.eof)
    decoder = module.Framing(2).decoder()
    decoder.feed(FRAME[:3])
    fails(RuntimeError, decoder.expect_raw, 5)


def raw_and_rest(module):
    decoder = module.Framing(2).decoder()
    decoder.expect_raw(len(BODY))
    decoder.feed(BODY[:100])
    decoder.feed(BODY[100:] + FRAME)
    decoder.expect_raw(0)
    decoder.feed(b"")
    decoder.expect_raw(4, Sink(4))
    decoder.feed(b"abcd" + FRAME * 3, 1)
    decoder.take_rest()
    fails(RuntimeError, decoder.feed, FRAME)


def spill(module):
    for deliver in ("payload", "frame", "pair"):
        decoder = module.Framing(2, deliver=deliver).decoder(spill=Sink, spill_above=2)
        decoder.feed(FRAME + b"\0\1a" + FRAME[:5])
        decoder.feed(bytearray(FRAME[5:]))
    decoder = module.Framing(2, max_frame=4).decoder(oversize="skip")
    decoder.feed(b"\0\1a" + FRAME[:4])
    decoder.feed(FRAME[4:] + b"\0\1b")


def spill_fails(module):
    def raises(length):
        raise ZeroDivisionError

    def leaves(length):
        raise KeyboardInterrupt

    for make in (
        raises,
        lambda length: 5,
        lambda length: Bad(0),
        lambda length: Bad(OSError("full")),
        lambda length: Bad(KeyboardInterrupt()),
        leaves,
    ):
        decoder = module.Framing(2).decoder(spill=make, spill_above=2)
        fails((FramingError, KeyboardInterrupt), decoder.feed, b"\0\1a" + FRAME)
        fails(FramingError, decoder.feed, FRAME)


def spill_reenters(module):
    def inside(length):
        fails(RuntimeError, decoder.feed, b"")
        fails(RuntimeError, decoder.reset)
        fails(RuntimeError, decoder.eof)
        fails(RuntimeError, decoder.take_rest)
        return Sink(length)

    decoder = module.Framing(2).decoder(spill=inside, spill_above=2)
    decoder.feed(FRAME)


OPERATIONS = {
    "encode": encode,
    "encode with edges": encode_edges,
    "encode refused": encode_refused,
    "framing as a value": framing_value,
    "feed": feed,
    "feed cut": lambda module: feed(module, cut=1009),
    "feed bytearrays": lambda module: feed(module, cut=5000, make=bytearray),
    "feed with a limit": lambda module: feed(module, cut=5000, limit=1),
    "feed bytearrays with a limit": lambda module: feed(module, limit=2, make=bytearray),
    "feed frames": lambda module: feed(module, cut=1009, deliver="frame", before=1),
    "feed pairs": lambda module: feed(module, cut=1009, deliver="pair", after=3),
    "feed half": feed_half,
    "feed faults": feed_faults,
    "feed refused": feed_refused,
    "raw bytes and the rest": raw_and_rest,
    "spill and skip": spill,
    "spill fails": spill_fails,
    "spill re-enters": spill_reenters,
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_framing_operation_leaves_nothing_behind(module, operation):
    """A connection makes millions of them; one object each would end the process."""
    assert leaked(lambda: operation(module)) == {}
