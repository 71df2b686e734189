"""What feed() takes, what a limit holds back, and what it keeps of the caller's memory."""

from __future__ import annotations

import array
import sys

import pytest
from feeding import assert_decodes, feed_each

from evloop.errors import FrameTooLarge, TruncatedFrame

STREAM = b"\x01a\x02bb\x00\x03ccc"
FRAMES = [b"a", b"bb", b"", b"ccc"]

REFUSED = {
    "str": ("\x01a", "data must be a bytes-like object, not str"),
    "None": (None, "data must be a bytes-like object, not NoneType"),
    "int": (5, "data must be a bytes-like object, not int"),
    "list": ([1], "data must be a bytes-like object, not list"),
    "array H": (array.array("H", [1]), "data must be contiguous single bytes; convert it with bytes()"),
    "empty array H": (array.array("H"), "data must be contiguous single bytes; convert it with bytes()"),
    "strided": (memoryview(b"abcdef")[::2], "data must be contiguous single bytes; convert it with bytes()"),
    "backwards": (memoryview(b"abcdef")[::-1], "data must be contiguous single bytes; convert it with bytes()"),
}


@pytest.fixture
def decoder(framing_module):
    """A decoder of one-byte lengths."""
    return framing_module.Framing.U8.decoder()


@pytest.mark.parametrize(
    "make",
    [
        bytes,
        bytearray,
        memoryview,
        lambda data: memoryview(bytearray(data)),
        lambda data: memoryview(b"\xff\xff" + data + b"\xff")[2:-1],
        lambda data: memoryview(data).toreadonly(),
        lambda data: memoryview(data).cast("c"),
        lambda data: memoryview(data).cast("B", (2, 5)),
        lambda data: array.array("B", data),
        lambda data: array.array("b", data),
        type("Bytes", (bytes,), {"__len__": lambda self: 1, "__getitem__": lambda self, key: 1 / 0}),
    ],
    ids=[
        "bytes",
        "bytearray",
        "view",
        "writable view",
        "slice",
        "read-only",
        "chars",
        "2d",
        "array B",
        "array b",
        "subclass",
    ],
)
def test_feed_takes_contiguous_single_bytes_of_any_kind(decoder, make):
    """recv_into() a bytearray, a view of a ring, a mmap: all are a chunk."""
    assert decoder.feed(make(STREAM)) == FRAMES
    assert decoder.feed(make(STREAM), 2) == FRAMES[:2]
    assert decoder.feed(b"") == FRAMES[2:]


@pytest.mark.parametrize(("data", "text"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("before", [b"", b"\x03c"], ids=["between frames", "inside a frame"])
def test_feed_refuses_what_is_no_contiguous_bytes(decoder, before, data, text):
    """A wrong argument is the caller's bug, and leaves the stream as it was."""
    decoder.feed(before)
    with pytest.raises(TypeError) as caught:
        decoder.feed(data)
    assert (str(caught.value), decoder.failed, decoder.buffered) == (text, False, len(before))


@pytest.mark.parametrize(
    ("limit", "error"),
    [(-1, ValueError), (1 << 63, ValueError), (True, TypeError), (1.0, TypeError), ("1", TypeError)],
)
def test_feed_bad_limit_is_refused_and_nothing_consumed(decoder, limit, error):
    """A limit of -1 is not 'no limit'."""
    for data in (STREAM, bytearray(STREAM)):
        with pytest.raises(error, match="limit"):
            decoder.feed(data, limit)
    assert (decoder.position, decoder.buffered, decoder.feed(STREAM)) == (0, 0, FRAMES)


def test_feed_limit_is_positional_or_keyword(decoder):
    """feed(data, limit=1) is how it is written."""
    assert decoder.feed(data=STREAM, limit=1) == FRAMES[:1]


def test_feed_items_are_exact_bytes(framing_module):
    """A frame that is a subclass of bytes, or a view, would carry the caller's buffer along."""
    wire = type("Bytes", (bytes,), {})(STREAM)
    for deliver in ("payload", "frame"):
        decoder = framing_module.Framing(1, deliver=deliver).decoder()
        assert {type(item) for item in decoder.feed(wire) + feed_each(decoder, [wire[:4], wire[4:]])} == {bytes}
    decoder = framing_module.Framing(1, deliver="pair").decoder()
    assert {tuple(map(type, item)) for item in decoder.feed(wire)} == {(bytes, bytes)}
    assert type(decoder.feed(wire)) is list


def test_feed_returns_a_new_list_each_time(decoder):
    """Callers keep and change what they got."""
    first = decoder.feed(STREAM)
    assert decoder.feed(STREAM) is not first
    assert (decoder.feed(b""), first) == ([], FRAMES)


def test_feed_of_nothing_is_harmless(framing_module):
    """b"" is not the end of the stream; recv returning b"" is the reactor's business."""
    decoder = framing_module.Framing.U8.decoder()
    assert [decoder.feed(b"") for _ in range(3)] == [[], [], []]
    assert (decoder.in_frame, decoder.position) == (False, 0)
    assert feed_each(decoder, [b"", b"\x02", b"", b"a", b"", b"b", b""]) == [b"ab"]


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_feed_bytearray_mutated_afterwards_changes_nothing(framing_module, cut):
    """recv_into() re-uses its buffer at once: what the decoder keeps must be its own."""
    buffer = bytearray(b"\0\0\0\5hello\0\0\0\5world")
    decoder = framing_module.Framing.U32.decoder()
    frames = decoder.feed(memoryview(buffer)[: 9 + cut])
    kept = bytes(buffer[9 + cut :])
    buffer[:] = b"X" * len(buffer)
    assert frames + decoder.feed(kept) == [b"hello", b"world"]


def test_feed_bytearray_can_be_resized_afterwards(decoder):
    """No view of the caller's buffer outlives the call, a limited or a failing one included."""
    buffer = bytearray(STREAM)
    decoder.feed(buffer, 1)
    buffer.extend(b"more")
    decoder.max_frame = 0
    try:
        decoder.feed(buffer)
    except FrameTooLarge:
        buffer.extend(b"and more")
    assert len(buffer) == len(STREAM) + 12


def test_feed_does_not_keep_a_whole_chunk(decoder):
    """Once its frames are out, the chunk is free: no slice pins a 256 KiB read."""
    chunk = b"\x01a" * 100
    before = sys.getrefcount(chunk)
    frames = decoder.feed(chunk)
    decoder.feed(chunk + b"\x05ab")
    assert (len(frames), sys.getrefcount(chunk)) == (100, before)


# --- limit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 4, 5, sys.maxsize, None])
def test_feed_limit_returns_at_most_that_many_and_keeps_the_rest(framing_module, limit):
    """limit-1, limit and limit+1 of the four frames in the chunk."""
    decoder = framing_module.Framing.U8.decoder()
    first = decoder.feed(STREAM, limit)
    assert first == FRAMES[:limit]
    assert decoder.position == sum(1 + len(frame) for frame in first)
    assert decoder.buffered == len(STREAM) - decoder.position
    assert decoder.in_frame == bool(decoder.buffered)
    assert decoder.needed == (0 if decoder.buffered else 1)
    assert first + decoder.feed(b"") == FRAMES


def test_feed_limit_counts_frames_finished_from_an_earlier_chunk(decoder):
    """The frame that was cut is the first of the limit."""
    assert decoder.feed(b"\x03ab") == []
    assert decoder.feed(b"c\x01d\x01e", 1) == [b"abc"]
    assert decoder.feed(b"", 1) == [b"d"]
    assert decoder.feed(b"", 1) == [b"e"]
    assert decoder.feed(b"", 1) == []


def test_feed_limit_zero_only_keeps(decoder):
    """A paused connection's bytes wait undecoded, a bad header included."""
    decoder.max_frame = 1
    assert decoder.feed(b"\x01a", 0) == []
    assert decoder.feed(b"\x02", 0) == []
    assert (decoder.buffered, decoder.failed, decoder.stats.frames) == (3, False, 0)
    with pytest.raises(FrameTooLarge) as caught:
        decoder.feed(b"")
    assert caught.value.frames == [b"a"]


def test_feed_limit_zero_inside_a_frame_keeps_the_rest(decoder):
    """The same in the middle of a body."""
    decoder.feed(b"\x04ab")
    assert decoder.feed(b"cd\x01e", 0) == []
    assert (decoder.buffered, decoder.needed, decoder.in_frame) == (7, 0, True)
    assert decoder.feed(b"") == [b"abcd", b"e"]


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_feed_limit_over_several_held_chunks_keeps_their_order(framing_module, kind, limit):
    """Chunks fed while others are held are queued behind them."""
    wire = framing_module.Framing.U8.encode_many([bytes([65 + i]) * i for i in range(20)])
    decoder, got = framing_module.Framing.U8.decoder(), []
    for start in range(0, len(wire), 7):
        got += decoder.feed(kind(wire[start : start + 7]), limit)
    while new := decoder.feed(b"", limit):
        assert len(new) <= limit
        got += new
    assert got == [bytes([65 + i]) * i for i in range(20)]
    assert (decoder.buffered, decoder.position) == (0, len(wire))


def test_feed_limit_holds_bytes_by_reference(decoder):
    """No copy of a 256 KiB read for each limited call: the very object is kept, once, until it is used up."""
    chunk = bytes([1, 97]) * 1000
    before = sys.getrefcount(chunk)
    decoder.feed(chunk, 1)
    assert sys.getrefcount(chunk) == before + 1
    for _ in range(998):
        decoder.feed(b"", 1)
    assert sys.getrefcount(chunk) == before + 1
    assert decoder.feed(b"", 1) == [b"a"]
    assert (sys.getrefcount(chunk), decoder.buffered) == (before, 0)


def test_feed_limit_queues_bytes_by_reference(decoder):
    """The chunks behind the first one, too."""
    first, second = bytes([1, 97]) * 10, bytes([1, 98]) * 10
    before = sys.getrefcount(second)
    decoder.feed(first, 1)
    decoder.feed(second, 1)
    assert sys.getrefcount(second) == before + 1
    decoder.feed(b"", 8)
    assert sys.getrefcount(second) == before + 1
    assert decoder.feed(b"") == [b"b"] * 10
    assert sys.getrefcount(second) == before


def test_feed_limit_copies_a_bytearray(decoder):
    """Its owner overwrites it with the next recv_into()."""
    buffer = bytearray(STREAM)
    before = sys.getrefcount(buffer)
    assert decoder.feed(buffer, 1) == [b"a"]
    assert sys.getrefcount(buffer) == before
    buffer[:] = b"X" * len(buffer)
    assert decoder.feed(b"") == FRAMES[1:]


def test_feed_limit_copies_a_queued_bytearray(decoder):
    """The same for a chunk that is queued behind another."""
    buffer = bytearray(STREAM)
    decoder.feed(STREAM, 1)
    decoder.feed(buffer, 1)
    buffer.clear()
    assert decoder.feed(b"") == FRAMES[2:] + FRAMES


def test_feed_limit_held_bytes_stay_held_until_asked_for(decoder):
    """eof() with frames in hand would lose them in silence."""
    decoder.feed(STREAM, 1)
    with pytest.raises(RuntimeError) as caught:
        decoder.eof()
    assert str(caught.value) == "eof() with 8 bytes not yet decoded: take them with feed(b'') first"
    assert decoder.failed is False
    assert decoder.feed(b"") == FRAMES[1:]
    decoder.eof()


# --- the end of the stream -------------------------------------------------------------------------------------

ENDS = {
    "in the header": (b"\0\0", 2, 4, b"\0\0"),
    "behind the header": (b"\0\0\0\5", 4, 9, b"\0\0\0\5"),
    "in the body": (b"\0\0\0\5hell", 8, 9, b"\0\0\0\5"),
}


@pytest.mark.parametrize(("wire", "have", "need", "header"), ENDS.values(), ids=ENDS)
def test_eof_inside_a_frame_is_truncated(framing_module, wire, have, need, header):
    """With where it began, and how much was missing."""
    decoder = framing_module.Framing().decoder()
    assert decoder.feed(b"\0\0\0\1a" + wire) == [b"a"]
    with pytest.raises(TruncatedFrame) as caught:
        decoder.eof()
    exc = caught.value
    assert (exc.have, exc.need, exc.position, exc.header, exc.frames) == (have, need, 5, header, [])
    where = f"after {have} of {need} bytes, at offset 5; header {header.hex(' ')}"
    assert str(exc) == f"stream ended inside a frame, {where}"
    assert decoder.failed


def test_eof_at_a_boundary_closes_the_decoder(decoder):
    """A clean end; feeding on is the caller's bug, and a second eof() is harmless."""
    decoder.feed(STREAM)
    assert (decoder.eof(), decoder.eof(), decoder.failed, decoder.needed) == (None, None, False, 0)
    with pytest.raises(RuntimeError) as caught:
        decoder.feed(b"")
    assert str(caught.value) == "feed() after eof() or take_rest(): reset() the decoder for a new stream"
    assert type(caught.value) is RuntimeError


def test_eof_before_any_byte_is_clean(decoder):
    """A peer that connects and leaves."""
    decoder.eof()
    assert decoder.stats.frames == 0


def test_eof_inside_a_skipped_frame_is_truncated(framing_module):
    """A dropped frame is a frame."""
    decoder = framing_module.Framing.U8.decoder(max_frame=2, oversize="skip")
    decoder.feed(b"\x05ab")
    with pytest.raises(TruncatedFrame) as caught:
        decoder.eof()
    assert (caught.value.have, caught.value.need) == (3, 6)


@pytest.mark.parametrize("fed", [b"", b"ab"])
def test_eof_inside_a_raw_item_is_truncated(decoder, fed):
    """An upload that ends early, even before its first byte."""
    decoder.feed(b"\x01x")
    decoder.expect_raw(5)
    decoder.feed(fed)
    with pytest.raises(TruncatedFrame) as caught:
        decoder.eof()
    assert (caught.value.have, caught.value.need, caught.value.position) == (len(fed), 5, 2)


@pytest.mark.parametrize("raw", [False, True], ids=["frame", "raw item"])
def test_in_frame_after_a_truncated_item_says_that_bytes_are_held(decoder, raw):
    """The attribute promises it for every undelivered item; a raw one has no header to be recognised by."""
    if raw:
        decoder.expect_raw(5)
    decoder.feed(b"\x05ab")
    with pytest.raises(TruncatedFrame):
        decoder.eof()
    assert (decoder.buffered, decoder.in_frame) == (3, True)


def test_eof_inside_a_varint_needs_the_least(framing_module):
    """While the header is open, `need` is the least that any frame takes."""
    decoder = framing_module.Framing("varint", before=1, after=2).decoder()
    decoder.feed(b"b\x80")
    with pytest.raises(TruncatedFrame) as caught:
        decoder.eof()
    assert (caught.value.have, caught.value.header) == (2, b"b\x80")
    assert caught.value.need >= 3


def test_eof_after_a_fault_raises_the_fault(decoder):
    """The end of a broken stream is no news."""
    decoder.max_frame = 2
    with pytest.raises(FrameTooLarge):
        decoder.feed(b"\x05")
    with pytest.raises(FrameTooLarge):
        decoder.eof()


def test_eof_truncated_is_raised_again_by_each_later_call(decoder):
    """The failure is sticky."""
    decoder.feed(b"\x05a")
    for call in (decoder.eof, decoder.eof, lambda: decoder.feed(b"bcde"), lambda: decoder.expect_raw(1)):
        with pytest.raises(TruncatedFrame) as caught:
            call()
        assert (caught.value.have, caught.value.need) == (2, 6)


@pytest.mark.parametrize("end", ["eof", "take_rest", "fault", "truncated", "raw", "held"])
def test_reset_makes_the_decoder_new_from_every_state(framing_module, end):
    """A pool re-uses decoders for other connections: nothing of the old stream may show."""
    decoder = framing_module.Framing.U8.decoder(max_frame=5)
    fresh = repr(decoder)
    decoder.feed(STREAM)
    if end == "eof":
        decoder.eof()
    elif end == "take_rest":
        decoder.take_rest()
    elif end == "raw":
        decoder.expect_raw(5)
        decoder.feed(b"ab")
    elif end == "held":
        decoder.feed(STREAM, 1)
    else:
        with pytest.raises((FrameTooLarge, TruncatedFrame)):
            decoder.feed(b"\x06" if end == "fault" else b"\x03a")
            decoder.eof()
    decoder.reset()
    assert repr(decoder) == fresh
    assert (decoder.stats, decoder.position, decoder.buffered, decoder.failed, decoder.in_frame) == (
        (0, 0, 0, 0, 0, 0),
        0,
        0,
        False,
        False,
    )
    assert_decodes(lambda: (decoder.reset(), decoder)[1], STREAM, FRAMES)
