"""Changing the mode of a stream: raw items between frames, and handing the rest over."""

from __future__ import annotations

import pytest
from feeding import Sink, feed_each

from evloop.errors import FrameTooLarge, SinkError, TruncatedFrame


@pytest.fixture
def decoder(framing_module):
    """A decoder of one-byte lengths."""
    return framing_module.Framing.U8.decoder()


# --- expect_raw ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_expect_raw_item_ends_inside_a_chunk_with_frames_behind(framing_module, size):
    """The tutorial's upload: a frame, an unframed file, the next frame, cut anywhere."""
    wire = b"\x02hi" + b"FILE!" + b"\x01a\x00"
    decoder, items = framing_module.Framing.U8.decoder(), []
    for start in range(0, len(wire), size):
        new = decoder.feed(wire[start : start + size], 1)
        while new:
            items += new
            if items == [b"hi"]:
                decoder.expect_raw(5)
            new = decoder.feed(b"", 1)
    assert items == [b"hi", b"FILE!", b"a", b""]
    assert (decoder.position, decoder.stats[:3]) == (len(wire), (4, 8, 5))


@pytest.mark.parametrize("sink", [None, "sink"])
def test_expect_raw_of_no_bytes_is_an_item_of_the_next_feed(framing_module, sink):
    """An empty file is a file; it must not wait for bytes that belong to the next frame."""
    decoder, sink = framing_module.Framing.U8.decoder(), sink and Sink()
    decoder.expect_raw(0, sink)
    assert (decoder.in_frame, decoder.needed) == (True, 0)
    assert decoder.feed(b"", 0) == []
    assert decoder.feed(b"\x01a") == [b"" if sink is None else sink, b"a"]
    assert (decoder.position, decoder.stats.frames) == (2, 2)


def test_expect_raw_of_no_bytes_twice_in_a_row(decoder):
    """Two empty files."""
    for _ in range(2):
        decoder.expect_raw(0)
        assert decoder.feed(b"") == [b""]
    assert decoder.feed(b"\x00") == [b""]


@pytest.mark.parametrize("parts", [[b"abcde\x01x"], [b"ab", b"cde", b"\x01x"], [b"a", b"b", b"c", b"d", b"e\x01x"]])
def test_expect_raw_into_a_sink_delivers_the_sink(decoder, parts):
    """A file goes to disk, and its place in the list says when it is whole."""
    sink = Sink()
    decoder.expect_raw(5, sink)
    assert feed_each(decoder, parts) == [sink, b"x"]
    assert (sink.content, {type(data) for data in sink.writes}) == (b"abcde", {bytes})
    assert decoder.stats[:3] == (2, 6, 5)


def test_expect_raw_sink_gets_bytes_as_they_arrive_and_memory_holds_none(decoder):
    """A gigabyte upload costs no memory."""
    sink = Sink()
    decoder.expect_raw(1 << 40, sink)
    decoder.feed(b"abc")
    decoder.feed(bytearray(b"de"))
    assert (sink.content, decoder.buffered, decoder.needed) == (b"abcde", 0, (1 << 40) - 5)
    assert decoder.in_frame


@pytest.mark.parametrize("size", [4, 5])
def test_expect_raw_up_to_max_frame_is_held_in_memory(decoder, size):
    """limit-1, limit."""
    decoder.max_frame = 5
    decoder.expect_raw(size)
    assert decoder.feed(b"x" * size) == [b"x" * size]


def test_expect_raw_above_max_frame_is_too_large_and_changes_nothing(decoder):
    """limit+1: the size of a raw item comes from the peer, too."""
    decoder.max_frame = 5
    with pytest.raises(FrameTooLarge) as caught:
        decoder.expect_raw(6)
    assert str(caught.value) == "frame of 6 bytes exceeds max_frame 5"
    assert (caught.value.length, caught.value.limit, caught.value.position) == (6, 5, None)
    assert (decoder.failed, decoder.in_frame, decoder.feed(b"\x01a")) == (False, False, [b"a"])


def test_expect_raw_with_a_sink_may_exceed_max_frame(decoder):
    """The bound is on memory; only the counters' range remains."""
    decoder.max_frame = 2
    sink = Sink()
    decoder.expect_raw(6, sink)
    assert decoder.feed(b"abcdef") == [sink]
    decoder.expect_raw((1 << 62) - 1, sink)
    decoder.reset()
    with pytest.raises(FrameTooLarge):
        decoder.expect_raw(1 << 62, sink)


@pytest.mark.parametrize(
    ("n", "error"),
    [
        (-1, ValueError),
        (-(1 << 70), ValueError),
        (1 << 70, FrameTooLarge),
        (True, TypeError),
        (1.0, TypeError),
        ("1", TypeError),
        (None, TypeError),
    ],
)
@pytest.mark.parametrize("sink", [None, Sink()], ids=["memory", "sink"])
def test_expect_raw_bad_size_is_refused_and_changes_nothing(decoder, n, error, sink):
    """The peer's JSON says file_size: -1."""
    with pytest.raises(error) as caught:
        decoder.expect_raw(n, sink)
    assert type(caught.value) is error
    assert decoder.feed(b"\x01a") == [b"a"]


@pytest.mark.parametrize("sink", [5, "path", b"", [], object(), type("Half", (), {"write": 5})()])
def test_expect_raw_sink_without_write_is_type_error(decoder, sink):
    """A path is no file; found out before the first byte is lost."""
    with pytest.raises(TypeError, match=r"a sink needs a write\(\) method, and .* has none"):
        decoder.expect_raw(5, sink)
    assert decoder.feed(b"\x01a") == [b"a"]


@pytest.mark.parametrize("fed", [b"\x03", b"\x03a"], ids=["behind the header", "in the body"])
def test_expect_raw_inside_a_frame_is_misuse(decoder, fed):
    """Half a frame would be lost."""
    decoder.feed(fed)
    with pytest.raises(RuntimeError) as caught:
        decoder.expect_raw(1)
    assert str(caught.value) == (
        "expect_raw() is for a frame boundary, and the decoder is inside a frame or a raw item"
    )
    assert decoder.feed(b"abc"[len(fed) - 1 :]) == [b"abc"]


def test_expect_raw_inside_a_header_raw_item_or_skip_is_misuse(framing_module):
    """The other states that are no boundary."""
    for arguments, fed, raw in (
        ({"width": 2}, b"\0", None),
        ({"width": 2}, b"", 5),
        ({"width": 2}, b"", 0),
        ({"width": 2, "max_frame": 1}, b"\0\5a", None),
    ):
        decoder = framing_module.Framing(**arguments).decoder(oversize="skip")
        if raw is not None:
            decoder.max_frame = 5
            decoder.expect_raw(raw)
        decoder.feed(fed, 0 if raw == 0 else None)
        with pytest.raises(RuntimeError, match="expect_raw"):
            decoder.expect_raw(1)


def test_expect_raw_after_the_end_is_misuse(decoder):
    """eof() and take_rest() both end the stream."""
    for end in (decoder.eof, decoder.take_rest):
        end()
        with pytest.raises(RuntimeError, match="reset\\(\\)"):
            decoder.expect_raw(1)
        decoder.reset()


def test_expect_raw_takes_bytes_that_a_limit_held_back(decoder):
    """The file came in the same read as the frame that announced it."""
    assert decoder.feed(b"\x01nFILE\x01z", 1) == [b"n"]
    decoder.expect_raw(4)
    assert (decoder.needed, decoder.buffered) == (0, 6)
    assert decoder.feed(b"") == [b"FILE", b"z"]


@pytest.mark.parametrize("deliver", ["payload", "frame", "pair"])
def test_expect_raw_item_has_no_header_in_any_delivery(framing_module, deliver):
    """A raw item is bytes, and not a pair with an empty header."""
    for parts in ([b"\x01aXYZ\x01b"], [b"\x01aX", b"YZ", b"\x01b"]):
        decoder = framing_module.Framing(1, deliver=deliver).decoder()
        items = decoder.feed(parts[0], 1)
        decoder.expect_raw(3)
        items += decoder.feed(b"") + feed_each(decoder, parts[1:])
        a, b = {"payload": (b"a", b"b"), "frame": (b"\1a", b"\1b"), "pair": ((b"\1", b"a"), (b"\1", b"b"))}[deliver]
        assert items == [a, b"XYZ", b]


def test_expect_raw_large_item_is_gathered_whole(framing_module):
    """The growing body, without a header in front."""
    decoder, data = framing_module.Framing.U32.decoder(), bytes(range(256)) * 64
    decoder.expect_raw(len(data))
    assert feed_each(decoder, [data[i : i + 37] for i in range(0, len(data), 37)]) == [data]


# --- take_rest -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feeds", "rest"),
    [
        ([], b""),
        ([(b"\0\1a", None)], b""),
        ([(b"\0", None)], b"\0"),
        ([(b"\0\3", None)], b"\0\3"),
        ([(b"\0\3ab", None)], b"\0\3ab"),
        ([(b"\0\1a\0\3ab", None)], b"\0\3ab"),
        ([(b"\0\1a\0\1b\0", 1)], b"\0\1b\0"),
        ([(b"\0\1a\0\1b\0", 0)], b"\0\1a\0\1b\0"),
        ([(b"\0\1a\0\1b", 1), (b"\0\1c", 0), (b"\0", 0)], b"\0\1b\0\1c\0"),
        ([(b"\0\3a", None), (b"b", 0), (b"c\0", 0)], b"\0\3abc\0"),
        ([(bytearray(b"\0\1a\0\1b\0"), 1)], b"\0\1b\0"),
    ],
)
@pytest.mark.parametrize("deliver", ["payload", "frame", "pair"])
def test_take_rest_returns_what_was_not_delivered(framing_module, feeds, rest, deliver):
    """A protocol upgrade loses no byte and leaks none; the decoder is closed then."""
    decoder = framing_module.Framing(2, deliver=deliver).decoder()
    for data, limit in feeds:
        decoder.feed(data, limit)
    taken = decoder.take_rest()
    assert (taken, type(taken)) == (rest, bytes)
    assert (decoder.buffered, decoder.in_frame, decoder.needed, decoder.take_rest()) == (0, False, 0, b"")
    with pytest.raises(RuntimeError, match=r"feed\(\) after eof\(\) or take_rest\(\)"):
        decoder.feed(b"")
    decoder.eof()


def test_take_rest_of_a_raw_item_returns_its_bytes(decoder):
    """They are held in memory, so they can be handed over."""
    decoder.expect_raw(5)
    decoder.feed(b"abc")
    assert decoder.take_rest() == b"abc"


def test_take_rest_after_a_bad_header_is_the_stream_from_it_on(framing_module):
    """A server that finds an HTTP request on its port hands the whole of it to the HTTP parser."""
    for limit in (None, 5):
        decoder = framing_module.Framing.U32.decoder()
        with pytest.raises(FrameTooLarge) as caught:
            decoder.feed(b"GET / HTTP/1.1\r\n\r\n", limit)
        assert caught.value.looks_like == "http"
        assert decoder.take_rest() == b"GET / HTTP/1.1\r\n\r\n"
        assert decoder.failed is False


def test_take_rest_after_a_bad_header_behind_frames_and_held_chunks(framing_module):
    """The frames before it have been delivered with the error."""
    decoder = framing_module.Framing(2, max_frame=5).decoder()
    decoder.feed(b"\0\1a\0\1b\0", 1)
    decoder.feed(b"\x63XY", 0)
    decoder.feed(b"Z", 0)
    with pytest.raises(FrameTooLarge) as caught:
        decoder.feed(b"")
    assert (caught.value.frames, caught.value.position) == ([b"b"], 6)
    assert decoder.take_rest() == b"\0\x63XYZ"


def test_take_rest_after_a_truncated_frame_returns_it(decoder):
    """What arrived of the last frame may go to a log."""
    decoder.feed(b"\x05abc")
    with pytest.raises(TruncatedFrame):
        decoder.eof()
    assert decoder.take_rest() == b"\x05abc"


def test_take_rest_of_a_skipped_frame_is_refused_once_bytes_are_gone(framing_module):
    """Bytes that do not exist any more cannot be returned, and a gap must not look like a stream."""
    decoder = framing_module.Framing(2, max_frame=2).decoder(oversize="skip")
    decoder.feed(b"\0\5")
    assert decoder.take_rest() == b"\0\5"
    decoder.reset()
    decoder.feed(b"\0\5a")
    with pytest.raises(RuntimeError) as caught:
        decoder.take_rest()
    assert str(caught.value) == (
        "take_rest() cannot return bytes of the current item that were skipped or given to a sink"
    )
    assert decoder.feed(b"bcde\0\1x") == [b"x"]
    assert decoder.take_rest() == b""


@pytest.mark.parametrize("raw", [False, True], ids=["spill", "raw"])
def test_take_rest_of_an_item_in_a_sink_is_refused(framing_module, raw):
    """The same for a sink; the item can still be finished."""
    sink = Sink()
    decoder = framing_module.Framing(2).decoder(spill=lambda length: sink, spill_above=2)
    if raw:
        decoder.expect_raw(5, sink)
        assert decoder.feed(b"abc") == []
    else:
        assert decoder.feed(b"\0\5abc") == []
    with pytest.raises(RuntimeError, match="take_rest"):
        decoder.take_rest()
    assert (decoder.feed(b"de\0"), sink.content) == ([sink], b"abcde")
    assert decoder.take_rest() == b"\0"


def test_take_rest_of_a_raw_sink_that_has_got_nothing_is_allowed(decoder):
    """No byte is gone."""
    decoder.expect_raw(5, Sink())
    assert decoder.take_rest() == b""


def test_take_rest_after_a_sink_failed_is_refused(decoder):
    """Nobody knows what the sink took."""

    class Full(Sink):
        def write(self, data):
            raise OSError(28, "No space left on device")

    decoder.expect_raw(5, Full())
    with pytest.raises(SinkError):
        decoder.feed(b"abc")
    with pytest.raises(RuntimeError, match="take_rest"):
        decoder.take_rest()
    decoder.reset()
    assert decoder.take_rest() == b""


def test_take_rest_after_a_sink_failed_on_the_header_is_refused(framing_module):
    """With deliver="frame" the header is the sink's, too: no payload byte has to be gone."""

    class Full(Sink):
        def write(self, data):
            raise OSError(28, "No space left on device")

    decoder = framing_module.Framing(2, deliver="frame").decoder(spill=Full, spill_above=0)
    with pytest.raises(SinkError):
        decoder.feed(b"\0\5")
    with pytest.raises(RuntimeError, match="take_rest"):
        decoder.take_rest()


def test_take_rest_with_everything_delivered_adds_up(framing_module):
    """taken + consumed == fed, at each cut of a stream."""
    wire = b"\0\3abc\0\0\0\1x\0\2hi"
    for cut in range(len(wire) + 1):
        for limit in (None, 0, 1, 2):
            decoder = framing_module.Framing(2, deliver="frame").decoder()
            frames = decoder.feed(wire[:cut], limit)
            assert b"".join(frames) + decoder.take_rest() == wire[:cut]
