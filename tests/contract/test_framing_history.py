"""One scripted history of a decoder, and everything it shows of itself at each step."""

from __future__ import annotations

import pytest
from feeding import Sink, both_twins, fault_of, state_of

from evloop.errors import FramingError

SPEC = "Framing(2, 'big', before=1, max_frame=10)"


def step(what, position, buffered, stats, *, needed=0, in_frame=False, failed=False, max_frame=10):
    """Return the state that a decoder shows after a step."""
    return {
        "buffered": buffered,
        "needed": needed,
        "position": position,
        "in_frame": in_frame,
        "failed": failed,
        "max_frame": max_frame,
        "stats": stats,
        "repr": f"<FrameDecoder {SPEC}: {what} at offset {position}, {buffered} bytes buffered>",
    }


def fault_at_eof(decoder):
    """Return what the end of the stream is at fault with."""
    with pytest.raises(FramingError) as caught:
        decoder.eof()
    return fault_of(caught.value)[:4]


# What is done, its result, and the state afterwards.
HISTORY = [
    (lambda d: None, None, step("between frames", 0, 0, (0, 0, 0, 0, 0, 0), needed=3)),
    (lambda d: d.feed(b""), [], step("between frames", 0, 0, (0, 0, 0, 0, 0, 0), needed=3)),
    (lambda d: d.feed(b"t"), [], step("header 1/3", 0, 1, (0, 0, 0, 0, 0, 1), needed=2, in_frame=True)),
    (lambda d: d.feed(b"\0\5"), [], step("body 3/8", 0, 3, (0, 0, 0, 0, 0, 3), needed=5, in_frame=True)),
    (lambda d: d.feed(b"abcd"), [], step("body 7/8", 0, 7, (0, 0, 0, 0, 0, 7), needed=1, in_frame=True)),
    (lambda d: d.feed(b"e"), [b"abcde"], step("between frames", 8, 0, (1, 5, 5, 0, 0, 8), needed=3)),
    (lambda d: d.feed(b"t\0\0t\0\1x"), [b"", b"x"], step("between frames", 15, 0, (3, 6, 5, 0, 0, 8), needed=3)),
    (lambda d: d.feed(b"t\0\1yt\0\1z", 1), [b"y"], step("between frames", 19, 4, (4, 7, 5, 0, 0, 8), in_frame=True)),
    (lambda d: d.feed(b"", 0), [], step("between frames", 19, 4, (4, 7, 5, 0, 0, 8), in_frame=True)),
    (lambda d: d.feed(b"t"), [b"z"], step("header 1/3", 23, 1, (5, 8, 5, 0, 0, 9), needed=2, in_frame=True)),
    (
        lambda d: d.feed(b"\0\x0b" + b"s" * 4),
        [],
        step("skipping 7/14", 23, 3, (5, 8, 5, 0, 0, 11), needed=7, in_frame=True),
    ),
    (lambda d: d.feed(b"s" * 7), [], step("between frames", 37, 0, (5, 8, 5, 1, 11, 11), needed=3)),
    (lambda d: d.expect_raw(4), None, step("raw item 0/4", 37, 0, (5, 8, 5, 1, 11, 11), needed=4, in_frame=True)),
    (lambda d: d.feed(b"ra"), [], step("raw item 2/4", 37, 2, (5, 8, 5, 1, 11, 13), needed=2, in_frame=True)),
    (lambda d: d.feed(b"w!"), [b"raw!"], step("between frames", 41, 0, (6, 12, 5, 1, 11, 15), needed=3)),
    (lambda d: d.expect_raw(0), None, step("raw item 0/0", 41, 0, (6, 12, 5, 1, 11, 15), in_frame=True)),
    (lambda d: d.feed(b""), [b""], step("between frames", 41, 0, (7, 12, 5, 1, 11, 15), needed=3)),
    (
        lambda d: setattr(d, "max_frame", 4),
        None,
        step("between frames", 41, 0, (7, 12, 5, 1, 11, 15), needed=3, max_frame=4),
    ),
    (lambda d: setattr(d, "max_frame", 10), None, step("between frames", 41, 0, (7, 12, 5, 1, 11, 15), needed=3)),
    (
        lambda d: [s.content for s in d.feed(b"t\0\x08spilled!")],
        [b"spilled!"],
        step("between frames", 52, 0, (8, 20, 8, 1, 11, 18), needed=3),
    ),
    (lambda d: d.feed(b"t\0\x08spil"), [], step("body 7/11", 52, 3, (8, 20, 8, 1, 11, 21), needed=4, in_frame=True)),
    (lambda d: len(d.feed(b"led!")), 1, step("between frames", 63, 0, (9, 28, 8, 1, 11, 21), needed=3)),
    (lambda d: d.feed(b"t\0\7abc"), [], step("body 6/10", 63, 6, (9, 28, 8, 1, 11, 27), needed=4, in_frame=True)),
    (
        lambda d: fault_at_eof(d),
        (
            "TruncatedFrame",
            "stream ended inside a frame, after 6 of 10 bytes, at offset 63; header 74 00 07",
            (6, 10),
            63,
        ),
        step("failed", 63, 6, (9, 28, 8, 1, 11, 27), in_frame=True, failed=True),
    ),
    (lambda d: d.take_rest(), b"t\0\7abc", step("closed", 0, 0, (0, 0, 0, 0, 0, 0))),
    (lambda d: d.reset(), None, step("between frames", 0, 0, (0, 0, 0, 0, 0, 0), needed=3)),
    (lambda d: d.eof(), None, step("closed", 0, 0, (0, 0, 0, 0, 0, 0))),
]


def decoder_of(module):
    """The decoder that the history is about."""
    return module.Framing(2, before=1, max_frame=10).decoder(oversize="skip", spill=Sink, spill_above=7)


def test_decoder_shows_each_step_of_its_history(framing_module):
    """position, buffered, needed, in_frame, failed, stats and repr are what an operator debugs with."""
    decoder = decoder_of(framing_module)
    for number, (act, result, state) in enumerate(HISTORY):
        assert (number, act(decoder)) == (number, result)
        assert (number, state_of(decoder)) == (number, state)


def test_decoder_twins_show_the_same_history(pytestconfig):
    """Step by step, so that a drift names its step."""
    decoders = [decoder_of(module) for module in both_twins(pytestconfig)]
    for number, (act, _, _) in enumerate(HISTORY):
        shown = [(act(decoder), state_of(decoder)) for decoder in decoders]
        assert (number, shown[0]) == (number, shown[1])


@pytest.mark.parametrize(
    ("wire", "what", "needed"),
    [
        (b"", "between frames", 4),
        (b"b", "header 1/4", 3),
        (b"b\x80", "header 2/4", 2),
        (b"b\x80\x80", "header 3/4", 1),
        (b"b\x80\x80\x80", "header 4/5", 1),
        (b"b\x83\x00", "header 3/5", 2),
        (b"b\x83\x00a", "header 4/5", 1),
        (b"b\x83\x00aa", "body 5/8", 3),
    ],
)
def test_decoder_of_a_varint_shows_what_is_known_so_far(framing_module, wire, what, needed):
    """While the varint is open its size is unknown: one byte more, and never less than the smallest header."""
    for parts in ([wire], [wire[i : i + 1] for i in range(len(wire))]):
        decoder = framing_module.Framing("varint", before=1, after=2).decoder()
        for part in parts:
            decoder.feed(part)
        assert f": {what} at offset 0, {len(wire)} bytes buffered>" in repr(decoder)
        assert decoder.needed == needed


def test_decoder_stats_average_is_zero_before_the_first_frame(framing_module):
    """A metrics page asks an idle connection, too."""
    decoder = framing_module.Framing.U8.decoder()
    assert decoder.stats.average == 0.0
    decoder.feed(b"\x01a\x02bb\x00")
    assert (decoder.stats.average, decoder.stats.frames) == (1.0, 3)
    assert type(decoder.stats) is framing_module.DecoderStats


@pytest.mark.parametrize("name", ["position", "buffered", "needed", "in_frame", "failed", "stats"])
def test_decoder_state_cannot_be_set(framing_module, name):
    """Only max_frame is a knob."""
    decoder = framing_module.Framing().decoder()
    with pytest.raises(AttributeError):
        setattr(decoder, name, 1)
    with pytest.raises(AttributeError):
        decoder.anything = 1


def test_decoder_max_frame_cannot_be_deleted(framing_module):
    """A decoder without a bound does not exist."""
    with pytest.raises(AttributeError):
        del framing_module.Framing().decoder().max_frame


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("width", [4, "varint"])
def test_decoder_cannot_be_copied(framing_module, how, width):
    """Two decoders that share one unfinished body would each deliver half of it."""
    import copy
    import pickle

    decoder = framing_module.Framing(width).decoder()
    with pytest.raises(TypeError):
        {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": pickle.dumps}[how](decoder)


def test_decoder_cannot_be_subclassed(framing_module):
    """The compiled class is final; code that subclasses the pure one would break on another machine."""
    with pytest.raises(TypeError):
        type("Mine", (framing_module.FrameDecoder,), {})
