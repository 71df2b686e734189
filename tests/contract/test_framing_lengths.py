"""What a length field may say: the extremes, signs, biases and varints that broke other decoders."""

from __future__ import annotations

import pytest
from feeding import assert_decodes, fault_of, feed_each, outcome

from evloop.errors import BadLength, BadMagic, FrameTooLarge

CEILING = (1 << 62) - 1


def fault(decoder, *parts):
    """Feed until the decoder refuses; return its error."""
    with pytest.raises((FrameTooLarge, BadLength, BadMagic)) as caught:
        feed_each(decoder, parts)
    return caught.value


def both_cuts(stream):
    """Return a header fed whole and byte by byte: the fast path and the slow one."""
    return [[stream], [stream[i : i + 1] for i in range(len(stream))]]


def test_empty_payload_is_a_frame(framing_module):
    """Keep-alives are empty frames; 'no bytes' must not mean 'not yet'."""
    assert_decodes(framing_module.Framing().decoder, b"\0\0\0\0", [b""])
    assert_decodes(
        framing_module.Framing(1, deliver="pair").decoder, b"\0\1x\0", [(b"\0", b""), (b"\1", b"x"), (b"\0", b"")]
    )


def test_hundred_thousand_empty_frames_in_one_chunk(framing_module):
    """Recursion, or a list grown one slot at a time in quadratic time, shows here."""
    decoder = framing_module.Framing.U8.decoder()
    items = decoder.feed(bytes(100_000))
    assert (len(items), set(items)) == (100_000, {b""})
    assert decoder.stats[:3] == (100_000, 0, 0)
    assert decoder.position == 100_000


@pytest.mark.parametrize("deliver", ["payload", "frame", "pair"])
@pytest.mark.parametrize("size", [0, 1])
def test_frame_of_size_zero_or_one_on_the_slow_path(framing_module, size, deliver):
    """Python's empty bytes and one-character bytes are shared objects: writing into one corrupts the process."""
    payload, header = b"\x7f" * size, bytes([0, size])
    framing = framing_module.Framing(2, deliver=deliver)
    expected = {"payload": payload, "frame": header + payload, "pair": (header, payload)}[deliver]
    for _ in range(3):
        assert_decodes(framing.decoder, header + payload, [expected])
    assert (bytes([0x7F]), b"\x00"[:1], bytes(0)) == (b"\x7f", b"\0", b"")


@pytest.mark.parametrize(
    ("width", "counts"),
    [("varint", "payload"), ("varint", "rest")]
    + [(width, counts) for width in (2, 3, 5) for counts in ("payload", "rest", "from_length", "frame")],
)
def test_length_at_max_frame_is_taken_and_one_more_refused(framing_module, width, counts):
    """limit-1, limit, limit+1, whatever the field counts: the bound is on the payload."""
    spec = {"width": width, "before": 1, "after": 2, "counts": counts}
    ours, theirs = framing_module.Framing(**spec, max_frame=300), framing_module.Framing(**spec)
    for size in (299, 300):
        assert_decodes(ours.decoder, theirs.encode(bytes(size), b"b", b"aa"), [bytes(size)])
    wire = theirs.encode(bytes(301), b"b", b"aa")
    header = wire[:-301]
    for parts in ([wire], [header], [wire[:2], wire[2:]], *both_cuts(header)):
        exc = fault(ours.decoder(), *parts)
        assert (exc.length, exc.limit, exc.position, exc.header) == (301, 300, 0, header)


@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("width", range(1, 9))
def test_field_of_all_ones_is_its_largest_number(framing_module, width, order):
    """255, 65535, 2**24-1 ... 2**64-1: unsigned, and never -1."""
    framing = framing_module.Framing(width, order, max_frame=200)
    for parts in both_cuts(b"\xff" * width):
        exc = fault(framing.decoder(), *parts)
        assert (exc.length, exc.limit) == ((1 << (8 * width)) - 1, 200)


def test_field_of_all_ones_is_a_frame_where_it_is_allowed(framing_module):
    """The other side of the bound, for the widths whose largest frame fits into a test."""
    for width in (1, 2):
        size = (1 << (8 * width)) - 1
        wire = b"\xff" * width + bytes(size)
        assert framing_module.Framing(width).decoder().feed(wire) == [bytes(size)]


@pytest.mark.parametrize("oversize", ["error", "skip"])
@pytest.mark.parametrize("value", [1 << 31, (1 << 31) + 1, (1 << 32) - 1, 1 << 63, (1 << 63) - 1, (1 << 64) - 1])
def test_eight_byte_length_around_a_sign_bit_is_too_large(framing_module, value, oversize):
    """libzmq, nopoll and gnet read 2**63 as a negative number that passes the limit; nobody can skip it either."""
    decoder = framing_module.Framing.U64.decoder(oversize=oversize)
    if oversize == "skip" and value <= CEILING:
        assert decoder.feed(value.to_bytes(8, "big")) == []
        assert (decoder.needed, decoder.in_frame) == (value, True)
        return
    exc = fault(decoder, value.to_bytes(8, "big"))
    assert (type(exc), exc.length) == (FrameTooLarge, value)


@pytest.mark.parametrize("parts", both_cuts(b"\x80\0\0\0"), ids=["whole", "cut"])
def test_four_byte_length_of_two_to_the_31_is_unsigned(framing_module, parts):
    """The same for the commonest width."""
    assert fault(framing_module.Framing.U32.decoder(), *parts).length == 1 << 31


@pytest.mark.parametrize("oversize", ["error", "skip"])
@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("width", range(1, 9))
def test_signed_negative_length_is_bad(framing_module, width, order, oversize):
    """-1 and INT_MIN of each width: Twisted with a signed format loops for ever."""
    framing = framing_module.Framing(width, order, signed=True)
    for value in (-1, -2, -(1 << (8 * width - 1))):
        header = value.to_bytes(width, order, signed=True)
        for parts in both_cuts(header):
            exc = fault(framing.decoder(oversize=oversize), *parts)
            text = f"length field is negative: {value} at offset 0; header {header.hex(' ')}"
            assert fault_of(exc) == ("BadLength", text, (f"length field is negative: {value}",), 0, header, None, [])


def test_signed_positive_maximum_is_a_length(framing_module):
    """127 is the largest frame of a signed byte."""
    assert_decodes(framing_module.Framing(1, signed=True).decoder, b"\x7f" + bytes(127), [bytes(127)])


@pytest.mark.parametrize(
    ("arguments", "header", "cause"),
    [
        (
            {"width": 1, "bias": 3},
            b"\x02",
            "length field is 2, less than the 3 that counts='payload' and bias=3 include",
        ),
        (
            {"counts": "from_length"},
            b"\0\0\0\3",
            "length field is 3, less than the 4 that counts='from_length' includes",
        ),
        (
            {"width": 2, "before": 2, "counts": "frame"},
            b"\3\0\0\3",
            "length field is 3, less than the 4 that counts='frame' includes",
        ),
        (
            {"width": 2, "after": 3, "counts": "rest"},
            b"\0\2abc",
            "length field is 2, less than the 3 that counts='rest' includes",
        ),
        (
            {"width": "varint", "after": 3, "counts": "rest"},
            b"\2abc",
            "length field is 2, less than the 3 that counts='rest' includes",
        ),
        (
            {"width": 2, "counts": "frame", "bias": 5},
            b"\0\0",
            "length field is 0, less than the 7 that counts='frame' and bias=5 include",
        ),
    ],
)
def test_length_below_what_it_counts_is_bad(framing_module, arguments, header, cause):
    """pgproto took PostgreSQL's length 3 for -1 and looped; Netty resynchronised on garbage."""
    for oversize in ("error", "skip"):
        for parts in (*both_cuts(header), [header + b"more"]):
            exc = fault(framing_module.Framing(**arguments).decoder(oversize=oversize), *parts)
            assert fault_of(exc) == (
                "BadLength",
                f"{cause} at offset 0; header {header.hex(' ')}",
                (cause,),
                0,
                header,
                None,
                [],
            )


@pytest.mark.parametrize("counted", [4, 5])
def test_length_of_exactly_what_it_counts_is_an_empty_frame(framing_module, counted):
    """The boundary beside the refusal."""
    framing = framing_module.Framing(counts="from_length")
    assert_decodes(framing.decoder, counted.to_bytes(4, "big") + b"x" * (counted - 4), [b"x" * (counted - 4)])


@pytest.mark.parametrize("bound", [0, 1, 2])
def test_negative_bias_with_a_bound_below_it_admits_no_frame(framing_module, bound):
    """With bias=-3 the least payload has 3 bytes; a bound of 2 then refuses each field, zero included."""
    decoder = framing_module.Framing(2, bias=-3).decoder(max_frame=bound)
    assert fault(decoder, b"\0\0abc").length == 3
    decoder = framing_module.Framing(2, bias=-3).decoder(max_frame=bound, oversize="skip")
    assert decoder.feed(b"\0\0abc\0\1abcd") == []
    assert decoder.stats.skipped == 2


def test_negative_bias_with_a_bound_at_it_admits_that_frame(framing_module):
    """limit, beside limit-1 above."""
    assert_decodes(lambda: framing_module.Framing(2, bias=-3).decoder(max_frame=3), b"\0\0abc", [b"abc"])


# --- varints ---------------------------------------------------------------------------------------------------


def leb128(value, size=0):
    """Return *value* as LEB128, padded with continuation bytes to *size*."""
    out = []
    while value > 0x7F or len(out) + 1 < size:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


AROUND = sorted({(1 << 7 * k) + d for k in range(1, 10) for d in (-1, 0, 1)} | {(1 << 64) - 1, 1 << 63, 0, 1})


@pytest.mark.parametrize("value", AROUND)
def test_varint_cut_after_each_byte_waits_for_the_next(framing_module, value):
    """Netty's branch-free varint took a cut one for whole: a 2 MiB frame became two million empty ones."""
    wire = leb128(value)
    for cut in range(1, len(wire)):
        decoder = framing_module.Framing("varint").decoder(max_frame=0)
        assert decoder.feed(wire[:cut]) == []
        assert (decoder.buffered, decoder.needed, decoder.in_frame) == (cut, 1, True)
        if value == 0:
            assert decoder.feed(wire[cut:]) == [b""]
        else:
            assert fault(decoder, wire[cut:]).length == value


@pytest.mark.parametrize("value", [v for v in AROUND if v <= 2_097_153])
def test_varint_frame_cut_within_its_header_arrives_whole(framing_module, value):
    """The same with the payload behind it."""
    payload = bytes(value)
    wire = leb128(value) + payload
    for cut in range(len(leb128(value)) + 1):
        decoder = framing_module.Framing("varint").decoder(max_frame=value)
        assert [len(item) for item in feed_each(decoder, [wire[:cut], wire[cut:]])] == [value]


@pytest.mark.parametrize("size", range(1, 11))
@pytest.mark.parametrize("value", [0, 5])
def test_varint_padded_with_zeros_is_its_value(framing_module, value, size):
    """protobuf accepts padded varints, of up to ten bytes."""
    assert_decodes(framing_module.Framing("varint").decoder, leb128(value, size) + b"hello"[:value], [b"hello"[:value]])


@pytest.mark.parametrize(
    "wire",
    [
        b"\x80" * 11,
        b"\x80" * 10,
        b"\xff" * 10,
        b"\xff" * 11,
        b"\xff" * 9 + b"\x02",
        b"\x80" * 9 + b"\x7f",
        b"\x80" * 10 + b"\x00",
        b"\xff" * 64,
    ],
    ids=lambda wire: wire.hex(),
)
@pytest.mark.parametrize("oversize", ["error", "skip"])
def test_varint_beyond_64_bits_is_bad(framing_module, wire, oversize):
    """A tenth byte above 1, or an eleventh byte: refused as soon as it is seen, and not skipped."""
    for parts in both_cuts(wire):
        decoder = framing_module.Framing("varint").decoder(oversize=oversize)
        exc = fault(decoder, *parts)
        assert (type(exc), exc.cause, exc.header) == (BadLength, "varint longer than 64 bits", wire[:10])
        assert exc.position == 0


@pytest.mark.parametrize("last", [0, 1])
def test_varint_of_ten_bytes_may_end_with_zero_or_one(framing_module, last):
    """The largest number is 2**64 - 1, whose tenth byte is 1."""
    wire = b"\xff" * 9 + bytes([last])
    for parts in both_cuts(wire):
        assert fault(framing_module.Framing("varint").decoder(), *parts).length == (last << 63) | ((1 << 63) - 1)


@pytest.mark.parametrize("cut", range(1, 14))
def test_varint_between_edges_is_cut_anywhere(framing_module, cut):
    """before and after around a varint of three bytes: where the header ends depends on a byte inside it."""
    framing = framing_module.Framing("varint", before=2, after=3, deliver="pair")
    wire = b"be" + leb128(5, 3) + b"aft" + b"hello"
    decoder = framing.decoder()
    assert feed_each(decoder, [wire[:cut], wire[cut:]]) == [(wire[:8], b"hello")]
    assert decoder.position == len(wire)


@pytest.mark.parametrize("deliver", ["payload", "frame", "pair"])
@pytest.mark.parametrize("header", [7, 8, 9, 64])
def test_header_around_the_size_of_the_scratch_is_cut_anywhere(framing_module, header, deliver):
    """Up to 8 bytes are kept in the decoder, longer ones elsewhere; 64 is the longest that a framing may have."""
    framing = framing_module.Framing(1, before=header - 1, deliver=deliver)
    front = bytes(range(1, header)) + b"\x05"
    whole = {"payload": b"hello", "frame": front + b"hello", "pair": (front, b"hello")}[deliver]
    wire = front + b"hello"
    for cut in range(1, len(wire)):
        decoder = framing.decoder()
        assert feed_each(decoder, [wire[:cut], wire[cut:]]) == [whole]
        decoder.feed(wire[:cut])
        assert decoder.buffered == cut
        assert decoder.take_rest() == wire[:cut]
    assert feed_each(framing.decoder(), [wire[i : i + 1] for i in range(len(wire))] * 2) == [whole] * 2


# --- magic -----------------------------------------------------------------------------------------------------


def test_magic_wrong_is_refused_with_what_was_expected(framing_module):
    """croc's peers prove with four bytes that they speak croc."""
    framing = framing_module.Framing(4, "little", magic=b"croc")
    for parts in both_cuts(b"crab\x02\0\0\0"):
        exc = fault(framing.decoder(), *parts)
        text = (
            "frame begins with 63 72 61 62 instead of the magic 63 72 6f 63 at offset 0; header 63 72 61 62 02 00 00 00"
        )
        assert fault_of(exc) == ("BadMagic", text, (b"croc", b"crab"), 0, b"crab\x02\0\0\0", None, [])


@pytest.mark.parametrize("oversize", ["error", "skip"])
def test_magic_is_checked_before_the_length(framing_module, oversize):
    """Of a stranger's bytes the length means nothing: skipping by it would follow the stranger."""
    framing = framing_module.Framing(1, magic=b"M", max_frame=3)
    for parts in both_cuts(b"X\xff"):
        assert type(fault(framing.decoder(oversize=oversize), *parts)) is BadMagic


def test_magic_of_a_later_frame_is_checked_too(framing_module):
    """Out of step in mid-stream."""
    exc = fault(framing_module.Framing(1, magic=b"M").decoder(), b"M\x01aM\x01bX\x01c")
    assert (type(exc), exc.position, exc.got, exc.frames) == (BadMagic, 6, b"X", [b"a", b"b"])


def test_decoder_of_no_framing_is_type_error(framing_module):
    """FrameDecoder(4) is a likely slip."""
    for wrong in (None, 4, "U32", framing_module.Framing, object()):
        assert outcome(framing_module.FrameDecoder, wrong)[1] == "TypeError"
