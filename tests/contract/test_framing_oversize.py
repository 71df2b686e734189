"""Frames above the bound: refused at the header, or skipped and counted; and the bound changed at run time."""

from __future__ import annotations

import pytest
from feeding import feed_each

from evloop.errors import FrameTooLarge

BIG = b"\x00\x09" + b"x" * 9  # above the bound of 5
GOOD = b"\x00\x03abc"


def skipper(framing_module, **options):
    """A decoder that drops what is above five bytes."""
    return framing_module.Framing(2, max_frame=5).decoder(oversize="skip", **options)


CUTS = {
    "wholly buffered": [BIG + GOOD],
    "cut in the header": [BIG[:1], BIG[1:] + GOOD],
    "cut behind the header": [BIG[:2], BIG[2:] + GOOD],
    "cut in the body": [BIG[:6], BIG[6:] + GOOD],
    "ends with the chunk": [BIG, GOOD],
    "byte by byte": [(BIG + GOOD)[i : i + 1] for i in range(len(BIG + GOOD))],
    "bytearray": [bytearray(BIG + GOOD)],
}
each_cut = pytest.mark.parametrize("parts", CUTS.values(), ids=CUTS)


@each_cut
def test_oversize_error_is_raised_at_the_header(framing_module, parts):
    """Swallowing the frame first would cost what the limit should save."""
    decoder, fed = framing_module.Framing(2, max_frame=5).decoder(), b""
    with pytest.raises(FrameTooLarge) as caught:
        for part in parts:
            fed += part
            decoder.feed(part)
    assert str(caught.value) == "frame of 9 bytes exceeds max_frame 5 at offset 0; header 00 09"
    assert decoder.take_rest() == fed


@each_cut
def test_oversize_skip_drops_the_frame_and_goes_on(framing_module, parts):
    """Netty skipped by a negative count if the frame was wholly buffered."""
    decoder = skipper(framing_module)
    assert feed_each(decoder, parts) == [b"abc"]
    assert decoder.stats == (1, 3, 3, 1, 9, decoder.stats.copied)
    assert (decoder.position, decoder.buffered, decoder.failed) == (len(BIG + GOOD), 0, False)


def test_oversize_skip_of_several_frames_counts_each(framing_module):
    """The counters are what an operator sees of the dropped frames."""
    decoder = skipper(framing_module)
    assert decoder.feed(GOOD + BIG + BIG + GOOD + BIG) == [b"abc", b"abc"]
    assert decoder.stats[3:5] == (3, 27)


def test_oversize_skip_holds_nothing_of_the_frame(framing_module):
    """A skipped frame costs its header."""
    decoder = skipper(framing_module)
    decoder.feed(b"\xff\xff" + bytes(30_000))
    assert (decoder.buffered, decoder.needed, decoder.in_frame) == (2, 35_535, True)


def test_oversize_skip_is_not_delivered_against_a_limit(framing_module):
    """A skipped frame is no item: limit=1 goes on to the next real one."""
    decoder = skipper(framing_module)
    assert decoder.feed(BIG + GOOD + BIG + GOOD, 1) == [b"abc"]
    assert decoder.feed(b"", 1) == [b"abc"]


def test_oversize_skip_of_four_gibibytes_counts_in_64_bits(framing_module):
    """2**32 + 10 bytes, fed in chunks: a 32-bit counter would resynchronise inside the frame."""
    size, chunk = (1 << 32) + 10, bytes(1 << 24)
    decoder = framing_module.Framing.U64.decoder(oversize="skip")
    decoder.feed(size.to_bytes(8, "big"))
    for _ in range(256):
        assert decoder.feed(chunk) == []
    assert (decoder.needed, decoder.position, decoder.buffered) == (10, 0, 8)
    assert decoder.feed(bytes(10) + (2).to_bytes(8, "big") + b"ok") == [b"ok"]
    assert decoder.stats == (1, 2, 2, 1, size, decoder.stats.copied)
    assert decoder.position == size + 18


def test_oversize_skip_of_the_largest_length_that_exists_waits_for_it(framing_module):
    """Just below the ceiling it is a frame; above it nobody can count the bytes, and it is an error."""
    ceiling = (1 << 62) - 1
    decoder = framing_module.Framing.U64.decoder(oversize="skip")
    assert decoder.feed(ceiling.to_bytes(8, "big") + bytes(100)) == []
    assert decoder.needed == ceiling - 100
    with pytest.raises(FrameTooLarge):
        framing_module.Framing.U64.decoder(oversize="skip").feed((ceiling + 1).to_bytes(8, "big"))


@pytest.mark.parametrize("oversize", ["fail", "", None, True, "ERROR"])
def test_oversize_other_word_is_value_error(framing_module, oversize):
    """A misspelled policy must not be the default one."""
    with pytest.raises(ValueError, match="oversize must be one of 'error', 'skip', not"):
        framing_module.Framing().decoder(oversize=oversize)


# --- max_frame of a decoder ------------------------------------------------------------------------------------


def test_max_frame_of_the_decoder_replaces_the_framings(framing_module):
    """Both ways: lower, and higher than the framing's own."""
    framing = framing_module.Framing(2, max_frame=5)
    assert framing.decoder().max_frame == 5
    assert framing.decoder(max_frame=9).feed(BIG) == [b"x" * 9]
    with pytest.raises(FrameTooLarge, match="exceeds max_frame 2 "):
        framing.decoder(max_frame=2).feed(GOOD)


@pytest.mark.parametrize("value", [2, 3, 4])
def test_max_frame_set_holds_from_the_next_header(framing_module, value):
    """limit-1, limit, limit+1 of a bound that authentication has just changed."""
    decoder = framing_module.Framing(2).decoder()
    decoder.max_frame = value
    assert decoder.max_frame == value
    if value < 3:
        with pytest.raises(FrameTooLarge):
            decoder.feed(GOOD)
    else:
        assert decoder.feed(GOOD) == [b"abc"]


def test_max_frame_lowered_while_a_frame_is_in_flight_spares_it(framing_module):
    """Its header was judged by the old bound."""
    decoder = framing_module.Framing(2).decoder()
    decoder.feed(GOOD[:3])
    decoder.max_frame = 0
    assert decoder.feed(GOOD[3:] + b"\0\0") == [b"abc", b""]
    with pytest.raises(FrameTooLarge):
        decoder.feed(b"\0\1")


def test_max_frame_lowered_while_a_header_is_cut_holds_for_it(framing_module):
    """A header that is not whole has not been judged."""
    decoder = framing_module.Framing(2).decoder()
    decoder.feed(b"\0")
    decoder.max_frame = 2
    with pytest.raises(FrameTooLarge):
        decoder.feed(b"\3")


def test_max_frame_raised_while_a_frame_is_skipped_still_skips_it(framing_module):
    """Half of the frame is gone."""
    decoder = skipper(framing_module)
    decoder.feed(BIG[:4])
    decoder.max_frame = 100
    assert decoder.feed(BIG[4:] + BIG) == [b"x" * 9]


def test_max_frame_changed_between_frames_held_by_a_limit(framing_module):
    """A ready handshake allows 3 bytes; the frames behind it, already received, get the new bound."""
    decoder = framing_module.Framing(2).decoder(max_frame=3)
    assert decoder.feed(GOOD + BIG, 1) == [b"abc"]
    decoder.max_frame = 9
    assert decoder.feed(b"") == [b"x" * 9]


def test_max_frame_zero_admits_empty_frames_alone(framing_module):
    """0 is a bound, not 'none'."""
    for decoder in (framing_module.Framing(2).decoder(max_frame=0), framing_module.Framing(2, max_frame=0).decoder()):
        assert decoder.feed(b"\0\0\0\0") == [b"", b""]
        with pytest.raises(FrameTooLarge):
            decoder.feed(b"\0\1")


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1, ValueError),
        (65536, ValueError),
        (1 << 70, ValueError),
        (True, TypeError),
        (1.0, TypeError),
        ("1", TypeError),
        (b"1", TypeError),
    ],
)
def test_max_frame_that_the_field_cannot_announce_or_no_int_is_refused(framing_module, value, error):
    """The setter and the constructor check alike, and a refused value changes nothing."""
    framing = framing_module.Framing(2)
    with pytest.raises(error, match="max_frame"):
        framing.decoder(max_frame=value)
    decoder = framing.decoder(max_frame=5)
    with pytest.raises(error, match="max_frame"):
        decoder.max_frame = value
    assert decoder.max_frame == 5
    assert decoder.feed(GOOD) == [b"abc"]


def test_max_frame_none_is_the_framings_bound_only_in_the_constructor(framing_module):
    """decoder.max_frame = None would read as 'no bound'."""
    decoder = framing_module.Framing(2).decoder(max_frame=None)
    assert decoder.max_frame == 65535
    with pytest.raises(TypeError):
        decoder.max_frame = None


def test_max_frame_outlives_reset(framing_module):
    """Settings are not state of the stream."""
    decoder = framing_module.Framing(2).decoder()
    decoder.max_frame = 2
    decoder.reset()
    assert decoder.max_frame == 2
    with pytest.raises(FrameTooLarge):
        decoder.feed(GOOD)


def test_max_frame_at_capacity_and_above_in_the_decoder(framing_module):
    """The field that counts itself announces less."""
    framing = framing_module.Framing(2, counts="frame")
    assert framing.decoder(max_frame=65533).max_frame == 65533
    with pytest.raises(ValueError, match="max_frame 65534 is more than the length field can announce, 65533"):
        framing.decoder(max_frame=65534)
