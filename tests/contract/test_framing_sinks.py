"""Sinks: huge frames that spill, sinks that fail, and user code that calls the decoder from inside."""

from __future__ import annotations

import io

import pytest
from feeding import Sink, feed_each

from evloop.errors import FrameTooLarge, SinkError

REENTERED = "the decoder is in use: feed() was called from inside its own sink"
HEADER = b"\0\5"


def spilling(framing_module, make=Sink, above=2, **arguments):
    """A decoder whose frames of more than *above* bytes go to sinks."""
    return framing_module.Framing(2, **arguments).decoder(spill=make, spill_above=above)


class Failing(Sink):
    """A sink whose n-th write raises, or returns, what it is told."""

    def __init__(self, answer, at=0):
        super().__init__()
        self.answer, self.at = answer, at

    def write(self, data):
        if len(self.writes) == self.at:
            if isinstance(self.answer, BaseException):
                raise self.answer
            return self.answer
        return super().write(data)


# --- spilling --------------------------------------------------------------------------------------------------

PARTS = {
    "whole": [b"\0\5abcde\0\1x"],
    "cut in the header": [b"\0", b"\5abcde\0\1x"],
    "cut in the body": [b"\0\5ab", b"cde\0\1x"],
    "byte by byte": [bytes([byte]) for byte in b"\0\5abcde\0\1x"],
    "bytearray": [bytearray(b"\0\5abcd"), bytearray(b"e\0\1x")],
}
each_parts = pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)


@each_parts
@pytest.mark.parametrize(
    ("deliver", "content", "last"),
    [("payload", b"abcde", b"x"), ("frame", b"\0\5abcde", b"\0\1x"), ("pair", b"abcde", (b"\0\1", b"x"))],
)
def test_spill_delivers_the_sink_in_the_payloads_place(framing_module, parts, deliver, content, last):
    """The order of the frames stays; what was delivered says where the payload is."""
    sinks = []

    def make(length):
        sinks.append(Sink(length))
        return sinks[-1]

    items = feed_each(spilling(framing_module, make, deliver=deliver), parts)
    assert len(sinks) == 1
    assert items == [(HEADER, sinks[0]) if deliver == "pair" else sinks[0], last]
    assert (sinks[0].length, sinks[0].content) == (5, content)
    assert {type(data) for data in sinks[0].writes} == {bytes}


@pytest.mark.parametrize(("above", "spills"), [(4, True), (5, False), (6, False)])
def test_spill_above_is_the_largest_payload_kept_in_memory(framing_module, above, spills):
    """limit-1, limit, limit+1."""
    for parts in PARTS.values():
        item = feed_each(spilling(framing_module, above=above), parts)[0]
        assert (type(item) is Sink) == spills


def test_spill_above_zero_spills_all_but_empty_frames(framing_module):
    """An empty payload has no bytes to write, so no file is opened for it."""
    items = spilling(framing_module, above=0).feed(b"\0\0\0\1a")
    assert (items[0], items[1].content) == (b"", b"a")


def test_spill_holds_nothing_of_the_payload_and_counts_it(framing_module):
    """A huge frame costs its header; it is counted once it is whole."""
    decoder = spilling(framing_module)
    decoder.feed(b"\x10\0" + bytes(3000))
    assert (decoder.buffered, decoder.needed, decoder.position) == (2, 1096, 0)
    assert decoder.stats == (0, 0, 0, 0, 0, 2)
    decoder.feed(bytes(1096))
    assert (decoder.stats, decoder.position) == ((1, 4096, 4096, 0, 0, 2), 4098)


def test_spill_does_not_lift_max_frame(framing_module):
    """A disk fills up, too; and no sink is made for a refused frame."""
    made = []
    decoder = spilling(framing_module, made.append, max_frame=4)
    with pytest.raises(FrameTooLarge):
        decoder.feed(b"\0\5abcde")
    assert made == []


def test_spill_and_skip_go_together(framing_module):
    """Above spill_above to a sink, above max_frame to nowhere."""
    decoder = framing_module.Framing(2, max_frame=4).decoder(oversize="skip", spill=Sink, spill_above=2)
    items = decoder.feed(b"\0\5abcde\0\4abcd\0\2ab")
    assert (items[0].content, items[1:], decoder.stats.skipped) == (b"abcd", [b"ab"], 1)


def test_spill_several_frames_in_one_chunk_get_a_sink_each(framing_module):
    """Sinks must not be mixed up between frames, nor between frames and raw items."""
    decoder = spilling(framing_module)
    items = decoder.feed(b"\0\3abc\0\3def\0\1x\0\3ghi")
    assert [getattr(item, "content", item) for item in items] == [b"abc", b"def", b"x", b"ghi"]
    decoder.expect_raw(5)
    assert decoder.feed(b"12345") == [b"12345"]


def test_spill_into_the_standard_librarys_files(framing_module, tmp_path):
    """BytesIO and open() count what they took."""
    with open(tmp_path / "spilled", "wb") as file:
        for sink in (io.BytesIO(), file):
            decoder = spilling(framing_module, lambda length, sink=sink: sink)
            assert feed_each(decoder, [b"\0\5ab", b"cde"]) == [sink]
            assert sink.tell() == 5
    assert (tmp_path / "spilled").read_bytes() == b"abcde"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"spill": Sink}, ValueError),
        ({"spill_above": 5}, ValueError),
        ({"spill": 5, "spill_above": 5}, TypeError),
        ({"spill": Sink, "spill_above": -1}, ValueError),
        ({"spill": Sink, "spill_above": 1 << 62}, ValueError),
        ({"spill": Sink, "spill_above": 1.0}, TypeError),
        ({"spill": Sink, "spill_above": True}, TypeError),
    ],
)
def test_spill_options_that_make_no_sense_are_refused(framing_module, options, error):
    """One without the other would spill never, or always."""
    with pytest.raises(error, match="spill"):
        framing_module.Framing().decoder(**options)


# --- sinks that fail -------------------------------------------------------------------------------------------


def test_sink_that_raises_is_a_sink_error_with_its_cause(framing_module):
    """A full disk ends this connection, with the frames before it delivered."""
    cause = OSError(28, "No space left on device")
    decoder = spilling(framing_module, lambda length: Failing(cause))
    with pytest.raises(SinkError) as caught:
        decoder.feed(b"\0\1a\0\5abcde\0\1b")
    exc = caught.value
    assert (exc.__cause__, exc.frames, exc.position, exc.header) == (cause, [b"a"], 3, HEADER)
    assert exc.cause == "sink raised OSError(28, 'No space left on device')"
    assert str(exc) == exc.cause + " at offset 3; header 00 05"


@pytest.mark.parametrize("parts", [[b"\0\5abc", b"de"], [b"\0\5", b"a", b"b"]])
def test_sink_that_raises_on_a_later_write_fails_the_decoder(framing_module, parts):
    """Not only the first write."""
    decoder = spilling(framing_module, lambda length: Failing(ValueError("closed"), at=1))
    with pytest.raises(SinkError):
        feed_each(decoder, parts)
    for call in (lambda: decoder.feed(b"x"), decoder.eof, lambda: decoder.expect_raw(1)):
        with pytest.raises(SinkError) as caught:
            call()
        assert (caught.value.frames, caught.value.cause) == ([], "sink raised ValueError('closed')")
    assert decoder.failed


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("where", ["spill", "write"])
def test_sink_interrupted_passes_the_interrupt_on_and_fails(framing_module, where, interrupt):
    """Ctrl-C is not the stream's fault, and after it nobody knows what the sink took."""

    def make(length):
        if where == "spill":
            raise interrupt
        return Failing(interrupt())

    decoder = spilling(framing_module, make)
    with pytest.raises(interrupt):
        decoder.feed(b"\0\5abcde")
    assert decoder.failed
    with pytest.raises(SinkError, match=f"sink raised {interrupt.__name__}\\(\\)"):
        decoder.feed(b"")
    decoder.reset()
    assert decoder.feed(b"\0\1a") == [b"a"]


@pytest.mark.parametrize(
    ("parts", "count", "text"),
    [
        ([b"\0\5abcde"], 4, "sink took 4 of 5 bytes"),
        ([b"\0\5abc", b"de"], 0, "sink took 0 of 3 bytes"),
        ([b"\0\5abc"], 4, "sink took 4 of 3 bytes"),
        ([b"\0\5abc"], -1, "sink took -1 of 3 bytes"),
    ],
)
def test_sink_that_writes_short_is_a_sink_error(framing_module, parts, count, text):
    """write(2) may take less; the rest would be missing in the file, in silence."""
    decoder = spilling(framing_module, lambda length: Failing(count))
    with pytest.raises(SinkError) as caught:
        feed_each(decoder, parts)
    assert (caught.value.cause, caught.value.__cause__, decoder.failed) == (text, None, True)


@pytest.mark.parametrize("answer", [None, "5", 5.0], ids=repr)
def test_sink_that_answers_no_int_took_everything(framing_module, answer):
    """list.append, a queue's put: sinks that do not count."""
    items = spilling(framing_module, lambda length: Failing(answer)).feed(b"\0\5abcde")
    assert len(items) == 1


@pytest.mark.parametrize("sink", [None, 5, "path", object()], ids=repr)
def test_spill_that_returns_no_sink_is_a_sink_error(framing_module, sink):
    """The application's bug, told with the frame it happened at."""
    decoder = spilling(framing_module, lambda length: sink)
    with pytest.raises(SinkError) as caught:
        decoder.feed(b"\0\5abcde")
    assert type(caught.value.__cause__) is TypeError
    assert f"{type(sink).__name__} has none" in str(caught.value)


def test_spill_that_raises_is_a_sink_error(framing_module):
    """No directory to put the file into."""
    cause = FileNotFoundError(2, "no such directory")

    def make(length):
        raise cause

    with pytest.raises(SinkError) as caught:
        spilling(framing_module, make).feed(b"\0\1a\0\5")
    assert (caught.value.__cause__, caught.value.frames) == (cause, [b"a"])


@pytest.mark.parametrize("where", ["spill", "write"])
def test_sink_whose_exception_has_no_repr_fails_the_decoder_all_the_same(framing_module, where):
    """An exception's own bug must not leave a decoder that goes on with half a frame missing."""

    class Nameless(Exception):
        def __repr__(self):
            raise LookupError("no repr")

    def make(length):
        if where == "spill":
            raise Nameless
        return Failing(Nameless())

    decoder = spilling(framing_module, make)
    with pytest.raises((LookupError, SinkError)):
        decoder.feed(b"\0\5abcde")
    assert decoder.failed
    with pytest.raises(SinkError):
        decoder.feed(b"\0\1a")


@pytest.mark.parametrize("failing", ["raises", "short"])
def test_raw_sink_that_fails_is_a_sink_error(framing_module, failing):
    """The upload's disk is as full as the frame's."""
    decoder = framing_module.Framing(2).decoder()
    decoder.feed(b"\0\1a")
    decoder.expect_raw(5, Failing(OSError("full") if failing == "raises" else 1))
    with pytest.raises(SinkError) as caught:
        decoder.feed(b"abcde")
    assert (caught.value.position, caught.value.header, caught.value.frames) == (3, b"", [])


def test_sink_of_deliver_frame_that_fails_on_the_header(framing_module):
    """The header is the first write then."""
    decoder = spilling(framing_module, lambda length: Failing(1), deliver="frame")
    with pytest.raises(SinkError, match="sink took 1 of 2 bytes"):
        decoder.feed(b"\0\5")
    assert decoder.failed


def test_sink_error_frees_the_frames_for_the_caller_once(framing_module):
    """Delivered twice is worse than not at all."""
    decoder = spilling(framing_module, lambda length: Failing(OSError("full")))
    with pytest.raises(SinkError) as first:
        decoder.feed(b"\0\1a\0\1b\0\5abcde")
    with pytest.raises(SinkError) as again:
        decoder.feed(b"")
    assert (first.value.frames, again.value.frames) == ([b"a", b"b"], [])
    assert str(again.value) == str(first.value)


# --- re-entrance -----------------------------------------------------------------------------------------------

CALLS = {
    "feed": lambda decoder: decoder.feed(b"\0\1a"),
    "feed nothing": lambda decoder: decoder.feed(b""),
    "feed a bytearray": lambda decoder: decoder.feed(bytearray(b"\0\1a")),
    "feed with a limit": lambda decoder: decoder.feed(b"\0\1a", 1),
    "eof": lambda decoder: decoder.eof(),
    "reset": lambda decoder: decoder.reset(),
    "expect_raw": lambda decoder: decoder.expect_raw(5),
    "take_rest": lambda decoder: decoder.take_rest(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("where", ["spill", "write", "raw write"])
def test_decoder_called_from_inside_its_sink_is_misuse_and_goes_on(framing_module, where, call):
    """msgpack freed the buffer it was reading from; here the call is refused and the frame arrives."""
    refusals = []

    def try_it():
        with pytest.raises(RuntimeError) as caught:
            call(decoder)
        refusals.append(str(caught.value))

    class Calling(Sink):
        def write(self, data):
            if where != "spill":
                try_it()
            return super().write(data)

    def make(length):
        if where == "spill":
            try_it()
        return Calling(length)

    decoder = spilling(framing_module, make)
    if where == "raw write":
        decoder.expect_raw(5, Calling(5))
    items = decoder.feed((b"" if where == "raw write" else HEADER) + b"abcde\0\1x")
    assert (items[0].content, items[1:], refusals) == (b"abcde", [b"x"], [REENTERED])


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_decoder_called_from_inside_its_sink_unguarded_is_a_sink_error(framing_module, call):
    """The RuntimeError goes through the sink, like any other of its exceptions."""

    class Calling(Sink):
        def write(self, data):
            call(decoder)

    decoder = spilling(framing_module, Calling)
    with pytest.raises(SinkError) as caught:
        decoder.feed(b"\0\5abcde")
    assert str(caught.value.__cause__) == REENTERED
    decoder.reset()
    assert decoder.feed(b"\0\1a") == [b"a"]


def test_decoder_shows_its_state_from_inside_its_sink(framing_module):
    """A progress bar reads needed and position; reading is no misuse."""
    seen = []

    class Watching(Sink):
        def write(self, data):
            seen.append((decoder.needed, decoder.position, decoder.buffered, decoder.in_frame, decoder.failed))
            assert "offset 3" in repr(decoder)
            return super().write(data)

    decoder = spilling(framing_module, Watching)
    decoder.feed(b"\0\1a\0\5ab")
    decoder.feed(b"cde")
    assert seen == [(5, 3, 2, True, False), (3, 3, 2, True, False)]


def test_decoder_max_frame_set_from_inside_its_sink_holds_for_the_next_frame(framing_module):
    """The setter is allowed; the frame in flight is not touched."""

    class Lowering(Sink):
        def write(self, data):
            decoder.max_frame = 1
            return super().write(data)

    decoder = spilling(framing_module, Lowering)
    with pytest.raises(FrameTooLarge) as caught:
        decoder.feed(b"\0\5abcde\0\1x\0\2xx")
    assert [getattr(item, "content", item) for item in caught.value.frames] == [b"abcde", b"x"]


def test_sink_may_feed_another_decoder(framing_module):
    """A tunnel: the payload of one stream is another stream."""
    inner = framing_module.Framing.U8.decoder()
    found = []

    class Tunnel:
        def write(self, data):
            found.extend(inner.feed(data))

    outer = spilling(framing_module, lambda length: Tunnel())
    feed_each(outer, [b"\0\6\1a\2", b"bc\1", b"\0\3d\1e"])
    assert found == [b"a", b"bc", b"d", b"e"]
