"""The constructor of Framing: what it takes, what it refuses, and in which words."""

from __future__ import annotations

import sys

import pytest
from feeding import both_twins, outcome

CEILING = sys.maxsize // 2
FIELDS = ("width", "byteorder", "signed", "before", "after", "magic", "counts", "bias", "deliver", "max_frame")

WRONG_TYPES = {
    "width bool": {"width": True},
    "width float": {"width": 4.0},
    "width None": {"width": None},
    "width bytes": {"width": b"varint"},
    "before bool": {"before": False},
    "before str": {"before": "4"},
    "before float": {"before": 1.0},
    "after None": {"after": None},
    "after bool": {"after": True},
    "magic str": {"magic": "croc"},
    "magic bytearray": {"magic": bytearray(b"croc")},
    "magic None": {"magic": None},
    "magic int": {"magic": 4},
    "bias float": {"bias": 0.0},
    "bias bool": {"bias": True},
    "bias None": {"bias": None},
    "max_frame float": {"max_frame": 1e3},
    "max_frame str": {"max_frame": "1"},
    "max_frame bool": {"max_frame": True},
    "unknown keyword": {"widht": 4},
}

OUT_OF_RANGE = {
    "width 0": ({"width": 0}, "width must be 1..8, not 0"),
    "width 9": ({"width": 9}, "width must be 1..8, not 9"),
    "width -1": ({"width": -1}, "width must be 1..8, not -1"),
    "width huge": ({"width": 1 << 70}, f"width must be 1..8, not {1 << 70}"),
    "width word": ({"width": "leb128"}, "width must be 1..8 or 'varint', not 'leb128'"),
    "byteorder": ({"byteorder": "native"}, "byteorder must be one of 'big', 'little', not 'native'"),
    "byteorder None": ({"byteorder": None}, "byteorder must be one of 'big', 'little', not None"),
    "byteorder list": ({"byteorder": ["big"]}, "byteorder must be one of 'big', 'little', not ['big']"),
    "before -1": ({"before": -1}, "before must be 0..64, not -1"),
    "before 65": ({"before": 65}, "before must be 0..64, not 65"),
    "after -1": ({"after": -1}, "after must be 0..64, not -1"),
    "after 65": ({"after": 65}, "after must be 0..64, not 65"),
    "counts": (
        {"counts": "header"},
        "counts must be one of 'payload', 'rest', 'from_length', 'frame', not 'header'",
    ),
    "counts None": ({"counts": None}, "counts must be one of 'payload', 'rest', 'from_length', 'frame', not None"),
    "deliver": ({"deliver": "view"}, "deliver must be one of 'payload', 'frame', 'pair', not 'view'"),
    "bias low": ({"bias": -(1 << 31) - 1}, f"bias must be {-(1 << 31)}..{1 << 31}, not {-(1 << 31) - 1}"),
    "bias high": ({"bias": (1 << 31) + 1}, f"bias must be {-(1 << 31)}..{1 << 31}, not {(1 << 31) + 1}"),
    "max_frame -1": ({"max_frame": -1}, f"max_frame must be 0..{(1 << 32) - 1}, not -1"),
}

CONTRADICTIONS = {
    "magic longer than before": (
        {"before": 3, "magic": b"croc"},
        "magic of 4 bytes does not fit into before=3",
    ),
    "magic in before=0": ({"before": 0, "magic": b"x"}, "magic of 1 bytes does not fit into before=0"),
    "signed varint": ({"width": "varint", "signed": True}, "a varint (LEB128) has no sign: leave out signed=True"),
    "header of 65": ({"before": 61}, "a header of up to 65 bytes exceeds the 64 that a decoder keeps"),
    "header of 65, all three": (
        {"width": 8, "before": 28, "after": 29},
        "a header of up to 65 bytes exceeds the 64 that a decoder keeps",
    ),
    "varint header of 65": (
        {"width": "varint", "after": 55},
        "a header of up to 65 bytes exceeds the 64 that a decoder keeps",
    ),
    "varint counts itself": (
        {"width": "varint", "counts": "from_length"},
        "counts='from_length' includes the length field, and the size of a varint depends on its value",
    ),
    "varint counts the frame": (
        {"width": "varint", "counts": "frame"},
        "counts='frame' includes the length field, and the size of a varint depends on its value",
    ),
    "bias beyond the field": (
        {"width": 1, "bias": 256},
        "no payload fits: the length field holds at most 255 and exceeds the payload by 256",
    ),
    "largest payload below the bias": (
        {"bias": -5, "max_frame": 4},
        "bias makes the length field -1 for the largest payload of 4 bytes",
    ),
}

# capacity: the largest value of the field; delta: what the field counts beside the payload
CAPACITIES = [
    pytest.param(dict(width=w, signed=s, **more), (1 << (8 * w - s)) - 1 - delta(w), id=f"{w}-{s}-{name}")
    for w in range(1, 8)
    for s in (False, True)
    for name, more, delta in (
        ("payload", {}, lambda w: 0),
        ("rest", {"after": 3, "counts": "rest"}, lambda w: 3),
        ("from_length", {"after": 3, "before": 2, "counts": "from_length"}, lambda w: w + 3),
        ("frame", {"after": 3, "before": 2, "counts": "frame"}, lambda w: w + 5),
        ("bias", {"bias": 2}, lambda w: 2),
        ("negative bias", {"bias": -1}, lambda w: -1),
    )
]


def test_framing_without_arguments_is_four_bytes_big_endian_one_mebibyte(framing_module):
    """The default is the commonest wire format; changing it breaks every peer in silence."""
    framing = framing_module.Framing()
    assert {name: getattr(framing, name) for name in FIELDS} == {
        "width": 4,
        "byteorder": "big",
        "signed": False,
        "before": 0,
        "after": 0,
        "magic": b"",
        "counts": "payload",
        "bias": 0,
        "deliver": "payload",
        "max_frame": 1 << 20,
    }


@pytest.mark.parametrize("arguments", WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_framing_argument_of_wrong_type_is_type_error(framing_module, arguments):
    """A slip such as Framing(True) must not become a one-byte field."""
    with pytest.raises(TypeError):
        framing_module.Framing(**arguments)


@pytest.mark.parametrize(("arguments", "text"), OUT_OF_RANGE.values(), ids=OUT_OF_RANGE)
def test_framing_argument_out_of_range_is_value_error_with_the_range(framing_module, arguments, text):
    """The message has to name the argument, its range and the value, or the user has to read the source."""
    with pytest.raises(ValueError) as caught:
        framing_module.Framing(**arguments)
    assert str(caught.value) == text


@pytest.mark.parametrize(("arguments", "text"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_framing_arguments_that_contradict_each_other_are_value_error(framing_module, arguments, text):
    """Tokio accepted a limit wider than its field and desynchronised the peer; a contradiction is refused at once."""
    with pytest.raises(ValueError) as caught:
        framing_module.Framing(**arguments)
    assert str(caught.value) == text


def test_framing_positional_arguments_end_at_byteorder(framing_module):
    """Framing(4, "big", True) would not say what is true."""
    with pytest.raises(TypeError):
        framing_module.Framing(4, "big", True)


def test_framing_unknown_keyword_names_framing_in_the_error(framing_module):
    """Whoever misspells a keyword has called Framing(), not an inner function."""
    with pytest.raises(TypeError) as caught:
        framing_module.Framing(widht=4)
    assert "widht" in str(caught.value)
    assert "validate()" not in str(caught.value)


@pytest.mark.parametrize(
    "table", [WRONG_TYPES, OUT_OF_RANGE, CONTRADICTIONS], ids=["types", "ranges", "contradictions"]
)
def test_framing_twins_refuse_arguments_with_the_same_type_and_text(pytestconfig, table):
    """Moving to the other twin must not change which except clause catches a mistake."""
    compiled, pure = both_twins(pytestconfig)
    for name, row in table.items():
        arguments = row if isinstance(row, dict) else row[0]
        assert (name, outcome(compiled.Framing, **arguments)) == (name, outcome(pure.Framing, **arguments))


@pytest.mark.parametrize(("arguments", "most"), CAPACITIES)
def test_framing_max_frame_at_capacity_is_taken_and_above_is_refused(framing_module, arguments, most):
    """One byte more than the field can announce is a frame that the peer reads as a tiny one."""
    for bound in (most - 1, most):
        assert framing_module.Framing(**arguments, max_frame=bound).max_frame == bound
    with pytest.raises(ValueError) as caught:
        framing_module.Framing(**arguments, max_frame=most + 1)
    assert str(caught.value) == f"max_frame {most + 1} is more than the length field can announce, {most}"


@pytest.mark.parametrize(("arguments", "most"), CAPACITIES)
def test_framing_without_max_frame_takes_one_mebibyte_or_what_the_field_holds(framing_module, arguments, most):
    """A default above the field's capacity could never be sent."""
    assert framing_module.Framing(**arguments).max_frame == min(most, 1 << 20)


@pytest.mark.parametrize("width", [8, "varint"])
def test_framing_max_frame_ends_below_half_of_the_address_space(framing_module, width):
    """Above it, header + length would overflow a signed 64-bit integer."""
    assert framing_module.Framing(width, max_frame=CEILING).max_frame == CEILING
    with pytest.raises(ValueError):
        framing_module.Framing(width, max_frame=CEILING + 1)


def test_framing_negative_bias_raises_the_default_bound_to_the_least_payload(framing_module):
    """With bias=-2**31 a payload below 2 GiB cannot be announced, so a bound of 1 MiB would admit none."""
    assert framing_module.Framing(bias=-(1 << 31)).max_frame == 1 << 31


@pytest.mark.parametrize("bias", [-(1 << 31), 1 << 31])
def test_framing_bias_at_its_bounds_is_taken(framing_module, bias):
    """limit, beside limit+1 in the table of refusals."""
    assert framing_module.Framing(8, bias=bias).bias == bias


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({}, 4),
        ({"width": 1}, 1),
        ({"width": 8, "before": 2, "after": 3}, 13),
        ({"width": "varint"}, 1),
        ({"width": "varint", "before": 2, "after": 3}, 6),
        ({"magic": b"croc"}, 8),
        ({"magic": b"croc", "before": 6}, 10),
        ({"before": 60}, 64),
        ({"width": "varint", "before": 54}, 55),
    ],
)
def test_framing_header_size_is_that_of_the_smallest_header(framing_module, arguments, size):
    """A reader that reads exactly header_size bytes first must neither block nor overshoot."""
    framing = framing_module.Framing(**arguments)
    assert framing.header_size == size
    before, after = bytes(framing.before - len(framing.magic)), bytes(framing.after)
    assert len(framing.header(0, before, after)) == size


def test_framing_before_none_is_the_magic_alone(framing_module):
    """A user who gives the magic should not have to count it."""
    assert framing_module.Framing(magic=b"croc").before == 4
    assert framing_module.Framing(magic=b"croc", before=4) == framing_module.Framing(magic=b"croc")


def test_framing_integer_subclasses_are_stored_as_plain_ints(framing_module):
    """An IntEnum member in a repr would not evaluate back."""
    import enum

    width = enum.IntEnum("Width", {"WORD": 4})
    framing = framing_module.Framing(width.WORD, bias=width.WORD, max_frame=width.WORD)
    assert [type(value) for value in (framing.width, framing.bias, framing.max_frame)] == [int, int, int]
