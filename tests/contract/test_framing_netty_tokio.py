"""The reference frameworks' own cases as tables: Netty's diagrams, Tokio's length_delimited tests.

Netty: the javadoc of LengthFieldBasedFrameDecoder.  Tokio: tokio-util/tests/length_delimited.rs.
"""

from __future__ import annotations

import pytest
from feeding import assert_decodes, chunks, feed_each

from evloop.errors import FrameTooLarge, TruncatedFrame

HELLO = b"HELLO, WORLD"
CAFE, CA, FE = b"\xca\xfe", b"\xca", b"\xfe"

# name: (arguments, bytes before the decoder, what Netty delivers)
NETTY = {
    "1 two bytes at offset 0, keep the header": (
        {"width": 2, "deliver": "frame"},
        b"\0\x0c" + HELLO,
        b"\0\x0c" + HELLO,
    ),
    "2 two bytes at offset 0, strip the header": ({"width": 2}, b"\0\x0c" + HELLO, HELLO),
    "3 the length is the whole message": (
        {"width": 2, "counts": "frame", "deliver": "frame"},
        b"\0\x0e" + HELLO,
        b"\0\x0e" + HELLO,
    ),
    "4 three bytes at the end of a five-byte header": (
        {"width": 3, "before": 2, "deliver": "frame"},
        CAFE + b"\0\0\x0c" + HELLO,
        CAFE + b"\0\0\x0c" + HELLO,
    ),
    "5 three bytes at the beginning of a five-byte header": (
        {"width": 3, "after": 2, "deliver": "frame"},
        b"\0\0\x0c" + CAFE + HELLO,
        b"\0\0\x0c" + CAFE + HELLO,
    ),
    "6 two bytes in the middle of a four-byte header, strip three": (
        {"width": 2, "before": 1, "bias": -1},
        CA + b"\0\x0c" + FE + HELLO,
        FE + HELLO,
    ),
    "7 the same, the length is the whole message": (
        {"width": 2, "before": 1, "counts": "frame"},
        CA + b"\0\x10" + FE + HELLO,
        FE + HELLO,
    ),
}

ABC, NUM, LONG = b"abcdefghi", b"123", b"hello world"
THREE = b"\0\0\0\x09" + ABC + b"\0\0\0\x03" + NUM + b"\0\0\0\x0b" + LONG

# name: (arguments, parts, frames), all of which end at a boundary
TOKIO_READS = {
    "read_empty_io_yields_nothing": ({}, [], []),
    "read_single_frame_one_packet": ({}, [b"\0\0\0\x09" + ABC], [ABC]),
    "read_single_frame_one_packet_little_endian": ({"byteorder": "little"}, [b"\x09\0\0\0" + ABC], [ABC]),
    "read_single_multi_frame_one_packet": ({}, [THREE], [ABC, NUM, LONG]),
    "read_single_frame_multi_packet": ({}, [b"\0\0", b"\0\x09abc", b"defghi"], [ABC]),
    "read_multi_frame_multi_packet": (
        {},
        [b"\0\0", b"\0\x09abc", b"defghi", b"\0\0\0\x0312", b"3\0\0\0\x0bhello world"],
        [ABC, NUM, LONG],
    ),
    "read_multi_frame_multi_packet_wait": (
        {},
        [b"\0\0", b"", b"\0\x09abc", b"", b"defghi", b"", b"\0\0\0\x0312", b"", b"3\0\0\0\x0bhello world"],
        [ABC, NUM, LONG],
    ),
    "read_one_byte_length_field": ({"width": 1}, [b"\x09" + ABC], [ABC]),
    "read_header_offset": ({"width": 2, "before": 4}, [b"zzzz\0\x09" + ABC], [ABC]),
    "read_single_multi_frame_one_packet_skip_none_adjusted": (
        {"width": 2, "before": 2, "deliver": "frame"},
        [b"xx\0\x09" + ABC + b"yy\0\x03" + NUM + b"zz\0\x0b" + LONG],
        [b"xx\0\x09" + ABC, b"yy\0\x03" + NUM, b"zz\0\x0b" + LONG],
    ),
    "read_single_frame_length_adjusted": ({"width": 3, "after": 1}, [b"\0\0\x09\x01" + ABC], [ABC]),
    "read_single_multi_frame_one_packet_length_includes_head": (
        {"width": 2, "counts": "frame"},
        [b"\0\x0b" + ABC + b"\0\x05" + NUM + b"\0\x0d" + LONG],
        [ABC, NUM, LONG],
    ),
}

# name: (parts, frames before the end, have, need)
TOKIO_CUTS = {
    "read_incomplete_head": ([b"\0\0"], [], 2, 4),
    "read_incomplete_head_multi": ([b"\0", b"", b"\0\0"], [], 3, 4),
    "read_incomplete_payload": ([b"\0\0\0\x09ab", b"cd"], [], 8, 13),
    "one frame, then half a head": ([THREE[:15]], [ABC], 2, 4),
}

TOKIO_WRITES = {
    "write_nothing": ({}, [], b""),
    "write_single_frame_one_packet": ({}, [ABC], b"\0\0\0\x09" + ABC),
    "write_single_multi_frame_one_packet": ({}, [ABC, NUM, LONG], THREE),
    "write_single_frame_little_endian": ({"byteorder": "little"}, [ABC], b"\x09\0\0\0" + ABC),
    "write_single_frame_with_short_length_field": ({"width": 1}, [ABC], b"\x09" + ABC),
    "write_single_frame_length_adjusted": ({"bias": 2}, [ABC], b"\0\0\0\x0b" + ABC),
    "write_zero": ({}, [b""], b"\0\0\0\0"),
}


@pytest.mark.parametrize(("arguments", "wire", "delivered"), NETTY.values(), ids=NETTY)
def test_netty_diagram_decodes_as_drawn(framing_module, arguments, wire, delivered):
    """Seven drawings that most of the field learned framing from; each without a sign puzzle."""
    framing = framing_module.Framing(**arguments)
    assert_decodes(framing.decoder, wire, [delivered])
    assert_decodes(framing.decoder, wire * 3, [delivered] * 3)


@pytest.mark.parametrize(("arguments", "wire", "delivered"), NETTY.values(), ids=NETTY)
def test_netty_diagram_encodes_back(framing_module, arguments, wire, delivered):
    """Netty needs a second class, LengthFieldPrepender, and cannot write five of the seven."""
    framing = framing_module.Framing(**arguments, **({} if "deliver" in arguments else {"deliver": "frame"}))
    size = framing.header_size
    before, after = wire[: framing.before], wire[size - framing.after : size]
    assert framing.encode(wire[size:], before, after) == wire


@pytest.mark.parametrize(("arguments", "parts", "frames"), TOKIO_READS.values(), ids=TOKIO_READS)
def test_tokio_read_case_gives_its_frames(framing_module, arguments, parts, frames):
    """Packets as Tokio's tests cut them; then each other way."""
    framing = framing_module.Framing(**arguments)
    decoder = framing.decoder()
    assert feed_each(decoder, parts) == frames
    decoder.eof()
    assert_decodes(framing.decoder, b"".join(parts), frames)


@pytest.mark.parametrize(("parts", "frames", "have", "need"), TOKIO_CUTS.values(), ids=TOKIO_CUTS)
def test_tokio_stream_that_ends_inside_a_frame_is_truncated(framing_module, parts, frames, have, need):
    """Silence at the end is the commonest defect of other decoders."""
    decoder = framing_module.Framing().decoder()
    assert feed_each(decoder, parts) == frames
    with pytest.raises(TruncatedFrame) as caught:
        decoder.eof()
    assert (caught.value.have, caught.value.need) == (have, need)


def test_tokio_read_max_frame_len_refuses_at_the_header(framing_module):
    """read_max_frame_len."""
    decoder = framing_module.Framing(max_frame=5).decoder()
    with pytest.raises(FrameTooLarge) as caught:
        decoder.feed(b"\0\0\0\x09" + ABC)
    assert (caught.value.length, caught.value.limit, caught.value.header) == (9, 5, b"\0\0\0\x09")


def test_tokio_read_update_max_frame_len_at_rest_holds_for_the_next_frame(framing_module):
    """read_update_max_frame_len_at_rest."""
    decoder = framing_module.Framing().decoder()
    assert decoder.feed(b"\0\0\0\x09" + ABC) == [ABC]
    decoder.max_frame = 5
    with pytest.raises(FrameTooLarge):
        decoder.feed(b"\0\0\0\x09" + ABC)


def test_tokio_read_update_max_frame_len_in_flight_spares_the_open_frame(framing_module):
    """read_update_max_frame_len_in_flight."""
    decoder = framing_module.Framing().decoder()
    assert decoder.feed(b"\0\0\0\x09abcd") == []
    decoder.max_frame = 5
    assert decoder.feed(b"efghi") == [ABC]
    with pytest.raises(FrameTooLarge):
        decoder.feed(b"\0\0\0\x09" + ABC)


@pytest.mark.parametrize(("arguments", "frames", "wire"), TOKIO_WRITES.values(), ids=TOKIO_WRITES)
def test_tokio_write_case_gives_its_bytes(framing_module, arguments, frames, wire):
    """Encoding one by one, and all at once."""
    framing = framing_module.Framing(**arguments)
    assert framing.encode_many(frames) == wire
    assert b"".join(map(framing.encode, frames)) == wire


@pytest.mark.parametrize("arguments", [{"max_frame": 5}, {"width": 1}, {"width": 1, "bias": 2}])
def test_tokio_write_above_the_bound_or_the_field_is_too_large(framing_module, arguments):
    """write_max_frame_len, encode_overflow: a payload of 257 in a one-byte field desynchronised the peer."""
    framing = framing_module.Framing(**arguments)
    framing.encode(bytes(framing.max_frame))
    for size in (framing.max_frame + 1, 257):
        with pytest.raises(FrameTooLarge):
            framing.encode(bytes(size))


@pytest.mark.parametrize(("bias", "most"), [(0, 255), (-1, 256), (1, 254)], ids=["fits", "negative", "positive"])
def test_tokio_max_frame_that_does_not_fit_is_refused_when_built(framing_module, bias, most):
    """frame_does_not_fit, neg_adjusted_, pos_adjusted_, max_allowed_frame_fits."""
    assert framing_module.Framing(1, bias=bias, max_frame=most).max_frame == most
    with pytest.raises(ValueError):
        framing_module.Framing(1, bias=bias, max_frame=most + 1)


@pytest.mark.parametrize("cut", range(len(THREE) + 1))
def test_three_frames_cut_anywhere_are_three_frames(framing_module, cut):
    """Every single cut of Tokio's stream."""
    decoder = framing_module.Framing().decoder()
    assert feed_each(decoder, chunks(THREE, cut)) == [ABC, NUM, LONG]
    assert (decoder.buffered, decoder.position, decoder.in_frame) == (0, len(THREE), False)
