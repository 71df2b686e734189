"""Encoding: header, encode, encode_many and encode_parts, against int.to_bytes and protobuf's varints."""

from __future__ import annotations

import array
import ctypes

import pytest
from feeding import both_twins, outcome

from evloop.errors import BadLength, FrameTooLarge

# From protobuf's encoding guide and the edges of each size: value, bytes.
VARINTS = [
    (0, "00"),
    (1, "01"),
    (127, "7f"),
    (128, "80 01"),
    (150, "96 01"),
    (300, "ac 02"),
    (16383, "ff 7f"),
    (16384, "80 80 01"),
    (2097151, "ff ff 7f"),
    (2097152, "80 80 80 01"),
    (268435455, "ff ff ff 7f"),
    (268435456, "80 80 80 80 01"),
    ((1 << 35) - 1, "ff ff ff ff 7f"),
    (1 << 35, "80 80 80 80 80 01"),
    ((1 << 56) - 1, "ff ff ff ff ff ff ff 7f"),
    (1 << 56, "80 80 80 80 80 80 80 80 01"),
    ((1 << 62) - 1, "ff ff ff ff ff ff ff ff 3f"),
]

FIELDS = [(width, order, signed) for width in range(1, 9) for order in ("big", "little") for signed in (False, True)]

SHAPES = {
    "default": ({}, b"", b""),
    "edges": ({"width": 3, "byteorder": "little", "before": 2, "after": 1}, b"\x01\x02", b"\x03"),
    "magic": ({"magic": b"croc", "before": 5}, b"\x07", b""),
    "varint": ({"width": "varint", "before": 1}, b"\x30", b""),
    "counted": ({"width": 2, "before": 2, "after": 2, "counts": "frame"}, b"ab", b"cd"),
    "bias": ({"bias": 3}, b"", b""),
}
each_shape = pytest.mark.parametrize(("arguments", "before", "after"), SHAPES.values(), ids=SHAPES)

PAYLOADS = {
    "bytes": b"hello",
    "bytearray": bytearray(b"hello"),
    "memoryview": memoryview(b"hello"),
    "memoryview slice": memoryview(b"..hello..")[2:7],
    "memoryview of two dimensions": memoryview(b"hell").cast("B", (2, 2)),
    "array B": array.array("B", b"hello"),
    "array b": array.array("b", b"hello"),
    "bytes subclass": type("Bytes", (bytes,), {"__len__": lambda self: 99})(b"hello"),
    "ctypes": (ctypes.c_char * 5).from_buffer_copy(b"hello"),
    "empty bytearray": bytearray(),
    "empty memoryview": memoryview(b""),
}

REFUSED = {
    "str": ("text", "payload must be a bytes-like object, not str"),
    "None": (None, "payload must be a bytes-like object, not NoneType"),
    "int": (5, "payload must be a bytes-like object, not int"),
    "list": ([1, 2], "payload must be a bytes-like object, not list"),
    "array H": (array.array("H", [1, 2]), "payload must be contiguous single bytes; convert it with bytes()"),
    "every second byte": (
        memoryview(b"abcdef")[::2],
        "payload must be contiguous single bytes; convert it with bytes()",
    ),
    "backwards": (memoryview(b"abcdef")[::-1], "payload must be contiguous single bytes; convert it with bytes()"),
}
each_refused = pytest.mark.parametrize(("payload", "text"), REFUSED.values(), ids=REFUSED)


def encoders(framing, before=b"", after=b""):
    """Return each way to encode one payload into bytes."""

    def into(payload):
        buffer = bytearray(1 << 12)
        return bytes(buffer[: framing.encode_into(payload, buffer, 0, before, after)])

    return {
        "encode": lambda payload: framing.encode(payload, before, after),
        "encode_many": lambda payload: framing.encode_many([payload], before, after),
        "encode_parts": lambda payload: b"".join(framing.encode_parts(payload, before, after)),
        "encode_into": into,
    }


@pytest.mark.parametrize(("width", "order", "signed"), FIELDS)
def test_header_is_what_int_to_bytes_writes(framing_module, width, order, signed):
    """The field is the standard library's integer, for every width, order and sign."""
    most = min((1 << (8 * width - signed)) - 1, (1 << 62) - 1)
    framing = framing_module.Framing(width, order, signed=signed, max_frame=most)
    for length in {0, 1, 100, 0x7F, *(1 << shift for shift in range(most.bit_length())), most - 1, most}:
        assert framing.header(length) == length.to_bytes(width, order, signed=signed)


@pytest.mark.parametrize(("value", "expected"), VARINTS)
def test_header_varint_is_protobufs(framing_module, value, expected):
    """protobuf's own vectors, and both sides of each size."""
    framing = framing_module.Framing("varint", max_frame=(1 << 62) - 1)
    assert framing.header(value) == bytes.fromhex(expected)


def test_header_varint_with_bias_reaches_ten_bytes(framing_module):
    """The tenth byte holds one bit; a bound near 2**62 and a bias stay in nine, and nothing overflows."""
    framing = framing_module.Framing("varint", bias=1 << 31, max_frame=(1 << 62) - 1)
    assert framing.header((1 << 62) - 1) == bytes.fromhex("ff ff ff ff 87 80 80 80 40")


@each_shape
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_encoders_give_header_and_payload(framing_module, arguments, before, after, payload):
    """Four ways to send a frame are one wire format."""
    framing = framing_module.Framing(**arguments)
    plain = memoryview(payload).tobytes()
    expected = framing.header(len(plain), before, after) + plain
    assert {name: encode(payload) for name, encode in encoders(framing, before, after).items()} == dict.fromkeys(
        ("encode", "encode_many", "encode_parts", "encode_into"), expected
    )
    assert type(framing.encode(payload, before, after)) is bytes


@each_shape
def test_encoded_frames_decode_to_their_payloads(framing_module, arguments, before, after):
    """One spec for both directions: decode(encode(x)) == x."""
    framing = framing_module.Framing(**arguments)
    payloads = [b"", b"a", b"hello" * 100]
    assert framing.decoder().feed(framing.encode_many(payloads, before, after)) == payloads


@pytest.mark.parametrize(
    "make",
    [list, tuple, iter, lambda payloads: (payload for payload in payloads), lambda payloads: dict.fromkeys(payloads)],
    ids=["list", "tuple", "iterator", "generator", "dict"],
)
def test_encode_many_takes_any_iterable(framing_module, make):
    """Callers hold their replies in what they like."""
    payloads = (b"a", b"", b"ccc")
    assert framing_module.Framing(1).encode_many(make(payloads)) == b"\x01a\x00\x03ccc"


def test_encode_many_of_mixed_buffers_joins_them(framing_module):
    """A reply may be half cached bytes and half a fresh bytearray."""
    expected = b"".join(framing_module.Framing().encode(payload) for payload in PAYLOADS.values())
    assert framing_module.Framing().encode_many(list(PAYLOADS.values())) == expected


@pytest.mark.parametrize("empty", [[], (), iter([]), ""], ids=["list", "tuple", "iterator", "str"])
def test_encode_many_of_nothing_is_no_bytes(framing_module, empty):
    """A handler with no replies needs no special case."""
    assert framing_module.Framing().encode_many(empty) == b""


@pytest.mark.parametrize("payloads", [None, 5, "ab", b"ab"], ids=repr)
def test_encode_many_of_what_is_no_iterable_of_payloads_is_type_error(framing_module, payloads):
    """encode_many(b"...") is encode() misspelled: its items are ints."""
    with pytest.raises(TypeError):
        framing_module.Framing().encode_many(payloads)


def test_encode_many_of_an_iterator_that_empties_its_list_is_safe(framing_module):
    """A compiled loop with a stale length would read behind the list."""
    payloads = [b"a" * 100, b"b" * 100, b"c" * 100]

    def draining():
        while payloads:
            yield payloads.pop()

    expected = framing_module.Framing().encode_many([b"c" * 100, b"b" * 100, b"a" * 100])
    assert framing_module.Framing().encode_many(draining()) == expected


def test_encode_many_of_a_list_subclass_uses_its_iterator(framing_module):
    """A fast path for lists must not look past what a subclass says."""

    class Doubled(list):
        def __iter__(self):
            return (item * 2 for item in list.__iter__(self))

    assert framing_module.Framing(1).encode_many(Doubled([b"a"])) == b"\x02aa"


def test_encode_many_iterator_that_raises_passes_its_error_on(framing_module):
    """The caller's bug keeps its own name."""

    def broken():
        yield b"a"
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        framing_module.Framing().encode_many(broken())


@each_refused
def test_encoders_refuse_what_is_no_contiguous_bytes(framing_module, payload, text):
    """An encoded str would be a guess at its charset; an array('H') has another length than it has bytes."""
    for name, encode in encoders(framing_module.Framing()).items():
        with pytest.raises(TypeError) as caught:
            encode(payload)
        assert (name, str(caught.value)) == (name, text)


@pytest.mark.parametrize(
    "arguments", [{"max_frame": 5}, {"width": 1, "max_frame": 5}, {"width": "varint", "max_frame": 5}]
)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_encoders_hold_the_limit_of_the_decoder(framing_module, arguments, kind):
    """limit-1 and limit pass; Twisted sent 200 kB that its own peer would have dropped the link for."""
    framing = framing_module.Framing(**arguments)
    for name, encode in encoders(framing).items():
        for size in (4, 5):
            assert (name, framing.decoder().feed(encode(kind(bytes(size))))) == (name, [bytes(size)])
        with pytest.raises(FrameTooLarge) as caught:
            encode(kind(bytes(6)))
        exc = caught.value
        assert (name, str(exc)) == (name, "frame of 6 bytes exceeds max_frame 5")
        assert (exc.length, exc.limit, exc.position, exc.header, exc.frames) == (6, 5, None, b"", [])


def test_header_above_the_limit_is_too_large(framing_module):
    """limit-1, limit, limit+1, and a number that no C integer holds."""
    framing = framing_module.Framing(max_frame=5)
    assert [framing.header(4), framing.header(5)] == [b"\0\0\0\4", b"\0\0\0\5"]
    for length in (6, 1 << 80):
        with pytest.raises(FrameTooLarge, match=f"frame of {length} bytes exceeds max_frame 5"):
            framing.header(length)


@pytest.mark.parametrize(
    ("length", "error", "text"),
    [
        (-1, ValueError, "length must not be negative: -1"),
        (-(1 << 80), ValueError, f"length must not be negative: {-(1 << 80)}"),
        (True, TypeError, "length must be an int, not bool"),
        (1.0, TypeError, "length must be an int, not float"),
        ("1", TypeError, "length must be an int, not str"),
        (None, TypeError, "length must be an int, not NoneType"),
    ],
)
def test_header_of_no_length_is_refused(framing_module, length, error, text):
    """header(len) feeds sendfile(2); a negative length would be sent as four gigabytes."""
    with pytest.raises(error) as caught:
        framing_module.Framing().header(length)
    assert (type(caught.value), str(caught.value)) == (error, text)


def test_encoders_amqp_empty_payload_cannot_be_announced(framing_module):
    """AMQP's payload ends with a byte that its length does not count: with no byte at all the field would be -1."""
    framing = framing_module.Framing(4, before=3, bias=-1)
    for encode in [*encoders(framing, b"\x08\0\0").values(), lambda payload: framing.header(0, b"\x08\0\0")]:
        with pytest.raises(BadLength) as caught:
            encode(b"")
        assert str(caught.value) == "a payload of 0 bytes would make the length field -1"
    assert framing.encode(b"\xce", b"\x08\0\0") == bytes.fromhex("08 0000 00000000 ce")


@pytest.mark.parametrize(
    ("arguments", "before", "after", "text"),
    [
        ({"before": 2}, b"a", b"", "before must be 2 bytes (the magic is added), not 1"),
        ({"before": 2}, b"abc", b"", "before must be 2 bytes (the magic is added), not 3"),
        ({"before": 2}, b"", b"", "before must be 2 bytes (the magic is added), not 0"),
        ({"magic": b"croc"}, b"croc", b"", "before must be 0 bytes (the magic is added), not 4"),
        ({"after": 2}, b"", b"a", "after must be 2 bytes, not 1"),
        ({"after": 2}, b"", b"abc", "after must be 2 bytes, not 3"),
        ({}, b"a", b"", "before must be 0 bytes (the magic is added), not 1"),
        ({}, b"", b"a", "after must be 0 bytes, not 1"),
        ({"before": 1, "after": 1}, b"", b"", "before must be 1 bytes (the magic is added), not 0"),
    ],
)
def test_encoders_refuse_edges_of_the_wrong_size(framing_module, arguments, before, after, text):
    """One byte too many in a header shifts every frame behind it."""
    framing = framing_module.Framing(**arguments)
    calls = {"header": lambda payload: framing.header(len(payload), before, after), **encoders(framing, before, after)}
    for name, encode in calls.items():
        with pytest.raises(ValueError) as caught:
            encode(b"payload")
        assert (name, str(caught.value)) == (name, text)


@pytest.mark.parametrize("edge", [None, "", "ab", 0, [], 2, array.array("H")], ids=repr)
@pytest.mark.parametrize("arguments", [{}, {"before": 2, "after": 2}], ids=["no edges", "edges"])
@pytest.mark.parametrize("name", ["before", "after"])
def test_encoders_refuse_edges_that_are_no_bytes(framing_module, arguments, name, edge):
    """A false value is no bytes either: header(5, before=None) is a mistake in both twins."""
    framing = framing_module.Framing(**arguments)
    edges = {"before": bytes(framing.before), "after": bytes(framing.after), name: edge}
    for call in (
        lambda: framing.header(1, **edges),
        lambda: framing.encode(b"x", **edges),
        lambda: framing.encode_many([b"x"], **edges),
        lambda: framing.encode_parts(b"x", **edges),
        lambda: framing.encode_into(b"x", bytearray(99), 0, **edges),
    ):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("kind", [bytearray, memoryview, type("Bytes", (bytes,), {})])
def test_encoders_take_edges_of_any_bytes_like(framing_module, kind):
    """Edges come out of the same buffers as payloads."""
    framing = framing_module.Framing(1, before=1, after=1)
    for name, encode in encoders(framing, kind(b"<"), kind(b">")).items():
        assert (name, encode(b"x")) == (name, b"<\x01>x")
    assert framing_module.Framing(1).header(3, kind(b""), kind(b"")) == b"\x03"


def test_encode_parts_returns_the_very_payload(framing_module):
    """writev(2) of a large payload must copy nothing."""
    for payload in PAYLOADS.values():
        header, same = framing_module.Framing().encode_parts(payload)
        assert (type(header), same is payload) == (bytes, True)


def test_encoded_frame_is_a_copy_of_a_mutable_payload(framing_module):
    """A queued frame must not change when the caller re-uses its buffer."""
    payload = bytearray(b"hello")
    frames = framing_module.Framing(1).encode(payload), framing_module.Framing(1).encode_many([payload, payload])
    payload[:] = b"XXXXX"
    assert frames == (b"\x05hello", b"\x05hello\x05hello")


def test_encoders_that_refuse_a_bytearray_do_not_lock_it(framing_module):
    """`except FrameTooLarge: del payload[limit:]` has to work while the exception is being handled."""
    for name, encode in encoders(framing_module.Framing(max_frame=2)).items():
        payload = bytearray(b"hello")
        try:
            encode(payload)
        except FrameTooLarge:
            del payload[2:]
        assert (name, payload) == (name, b"he")


def test_encoders_twins_raise_the_same_for_two_faults_at_once(pytestconfig):
    """With a bad payload and bad edges, both twins have to complain about the same one."""
    compiled, pure = both_twins(pytestconfig)
    for method in ("encode", "encode_many", "encode_parts"):
        for payload in ("text", b"toolong", b"ok", None):
            for edges in ((b"x", b""), (b"", b"x"), (None, b""), (b"", "x")):
                argument = [payload] if method == "encode_many" else payload
                one, other = (
                    outcome(getattr(twin.Framing(max_frame=2), method), argument, *edges) for twin in (compiled, pure)
                )
                assert (method, payload, edges, one) == (method, payload, edges, other)


def test_encode_many_twins_raise_the_same_if_payload_and_iterator_are_at_fault(pytestconfig):
    """The first payload at fault is what the docstring promises."""
    compiled, pure = both_twins(pytestconfig)

    def broken():
        yield "text"
        raise LookupError("mine")

    one, other = (outcome(twin.Framing().encode_many, broken()) for twin in (compiled, pure))
    assert one == other
