"""Framing as a value: from_struct, presets, equality, hash, repr, replace, pickle, copy, immutability."""

from __future__ import annotations

import copy
import inspect
import pickle
import struct
import sys

import pytest
from feeding import both_twins, outcome

SAMPLES = {
    "default": {},
    "one byte": {"width": 1},
    "one byte, little": {"width": 1, "byteorder": "little"},
    "little": {"width": 2, "byteorder": "little"},
    "signed": {"width": 8, "signed": True},
    "varint": {"width": "varint"},
    "varint, before, after": {"width": "varint", "before": 1, "after": 2},
    "edges": {"width": 3, "before": 2, "after": 6, "counts": "rest"},
    "magic": {"magic": b"croc\x00"},
    "magic within before": {"magic": b"ab", "before": 4},
    "from_length": {"before": 1, "counts": "from_length"},
    "frame": {"width": 2, "before": 2, "counts": "frame"},
    "bias": {"bias": -1, "before": 3},
    "deliver pair": {"deliver": "pair"},
    "deliver frame": {"deliver": "frame", "max_frame": 7},
    "bound zero": {"max_frame": 0},
}
each_sample = pytest.mark.parametrize("arguments", SAMPLES.values(), ids=SAMPLES)

FORMATS = [prefix + code for prefix in ("", "@", "=", "<", ">", "!") for code in "bBhHiIlLqQ"]
FORMATS += [prefix + code for prefix in ("", "@") for code in "nN"]
BAD_FORMATS = ["", "!", "x", "4I", "II", "f", "?", "!n", "<N", "=n", "s", "P", " i", "i ", "!!I", "I!", "é"]

PRESETS = {
    "U8": (1, "big"),
    "U16": (2, "big"),
    "U24": (3, "big"),
    "U32": (4, "big"),
    "U64": (8, "big"),
    "U32LE": (4, "little"),
    "VARINT": ("varint", "big"),
}


@pytest.mark.parametrize("fmt", FORMATS)
def test_framing_from_struct_header_is_what_struct_packs(framing_module, fmt):
    """The tutorials' peers write struct.pack("i", n); the header has to be the same bytes."""
    framing = framing_module.Framing.from_struct(fmt)
    for length in (0, 1, 127, framing.max_frame):
        assert framing.header(length) == struct.pack(fmt, length)


@pytest.mark.parametrize("fmt", FORMATS)
def test_framing_from_struct_decodes_what_struct_packs(framing_module, fmt):
    """Both directions come from one spec."""
    decoder = framing_module.Framing.from_struct(fmt).decoder()
    assert decoder.feed(struct.pack(fmt, 5) + b"hello") == [b"hello"]


@pytest.mark.parametrize("fmt", BAD_FORMATS)
def test_framing_from_struct_refuses_what_is_not_one_integer(framing_module, fmt):
    """A format of two fields has no one length."""
    with pytest.raises(ValueError):
        framing_module.Framing.from_struct(fmt)


@pytest.mark.parametrize("fmt", [None, 4, b"i"])
def test_framing_from_struct_of_no_string_is_an_error(framing_module, fmt):
    """struct takes bytes formats; here they are refused, not misread."""
    with pytest.raises((TypeError, ValueError)):
        framing_module.Framing.from_struct(fmt)


def test_framing_from_struct_passes_keywords_on(framing_module):
    """The tutorial's header with another protocol's edges is one call."""
    framing = framing_module.Framing.from_struct("<H", before=1, deliver="pair", max_frame=9)
    assert framing == framing_module.Framing(2, "little", before=1, deliver="pair", max_frame=9)


def test_framing_from_struct_sign_follows_the_case_of_the_code(framing_module):
    """'i' is signed as in struct: 0x80000000 is a negative length, not 2 GiB."""
    assert [framing_module.Framing.from_struct(code).signed for code in ("i", "I")] == [True, False]


@pytest.mark.parametrize(("name", "arguments"), PRESETS.items(), ids=PRESETS)
def test_framing_preset_equals_its_spelling(framing_module, name, arguments):
    """A preset is a name for a value, not another value."""
    assert getattr(framing_module.Framing, name) == framing_module.Framing(*arguments)
    assert type(getattr(framing_module.Framing, name)) is framing_module.Framing


@each_sample
def test_framing_equal_arguments_are_equal_and_hash_alike(framing_module, arguments):
    """Servers key their listeners by framing."""
    one, other = framing_module.Framing(**arguments), framing_module.Framing(**arguments)
    assert one is not other
    assert (one == other, one != other, hash(one) == hash(other)) == (True, False, True)


def test_framing_samples_are_pairwise_different(framing_module):
    """Each argument takes part in the comparison."""
    # Of a field of one byte the order means nothing: whether these two are equal is nobody's business.
    names = SAMPLES.keys() - {"one byte, little"}
    assert len({framing_module.Framing(**SAMPLES[name]) for name in names}) == len(names)


@pytest.mark.parametrize("other", [None, 4, "Framing(4)", object(), (4, "big")])
def test_framing_is_unequal_to_other_things(framing_module, other):
    """== never raises."""
    assert (framing_module.Framing() == other, framing_module.Framing() != other) == (False, True)


@each_sample
def test_framing_repr_evaluates_back_to_an_equal_framing(framing_module, arguments):
    """What a log shows can be pasted into a test."""
    framing = framing_module.Framing(**arguments)
    assert eval(repr(framing), {"Framing": framing_module.Framing}) == framing


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "Framing(4, 'big', max_frame=1048576)"),
        ({"width": "varint", "max_frame": 5}, "Framing('varint', max_frame=5)"),
        (
            {
                "width": 2,
                "byteorder": "little",
                "signed": True,
                "before": 3,
                "after": 1,
                "magic": b"ab",
                "counts": "rest",
                "bias": 1,
                "deliver": "pair",
                "max_frame": 9,
            },
            "Framing(2, 'little', signed=True, before=3, after=1, magic=b'ab', counts='rest', bias=1, "
            "deliver='pair', max_frame=9)",
        ),
        ({"magic": b"croc"}, "Framing(4, 'big', magic=b'croc', max_frame=1048576)"),
    ],
    ids=["default", "varint", "everything", "magic"],
)
def test_framing_repr_shows_what_differs_from_the_defaults(framing_module, arguments, text):
    """The bound is always shown: it is what an operator looks for."""
    assert repr(framing_module.Framing(**arguments)) == text


@each_sample
def test_framing_replace_of_nothing_is_equal(framing_module, arguments):
    """replace() feeds every argument back through the validation."""
    framing = framing_module.Framing(**arguments)
    assert framing.replace() == framing


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("byteorder", "little"),
        ("signed", True),
        ("before", 2),
        ("after", 3),
        ("counts", "frame"),
        ("bias", -1),
        ("deliver", "pair"),
        ("max_frame", 9),
        ("width", 8),
        ("width", "varint"),
    ],
)
def test_framing_replace_changes_one_argument(framing_module, change, value):
    """The other arguments stay."""
    framing = framing_module.Framing(4, before=1, deliver="frame", max_frame=100)
    changed = framing.replace(**{change: value})
    assert getattr(changed, change) == value
    kept = {"before", "after", "magic", "counts", "bias", "deliver", "signed"} - {change}
    assert {name: getattr(changed, name) for name in kept} == {name: getattr(framing, name) for name in kept}


def test_framing_replace_magic_moves_before_with_it(framing_module):
    """The bytes behind the magic keep their number."""
    framing = framing_module.Framing(magic=b"croc", before=6)
    assert framing.replace(magic=b"ab").before == 4
    assert framing.replace(magic=b"ab", before=9).before == 9


@pytest.mark.parametrize("width", [1, 2, 8, "varint"])
def test_framing_replace_width_keeps_a_bound_that_was_given_and_fits(framing_module, width):
    """A limit of 100 bytes that turns into 1 MiB because the field got wider is a limit lost in silence."""
    assert framing_module.Framing(4, max_frame=100).replace(width=width).max_frame == 100


def test_framing_replace_width_too_narrow_for_the_derived_bound_derives_another(framing_module):
    """The mebibyte of the default was nobody's choice, so it must not stand in the way."""
    assert framing_module.Framing(4).replace(width=2).max_frame == 65535


@pytest.mark.parametrize(
    ("change", "bound"),
    [({"counts": "frame"}, 65533), ({"signed": True}, 32767), ({"bias": 1}, 65534)],
    ids=["counts", "signed", "bias"],
)
def test_framing_replace_that_narrows_the_field_derives_a_bound_that_was_not_given(framing_module, change, bound):
    """Framing.U16.replace(counts="frame") names no bound, so none can be too large."""
    assert framing_module.Framing.U16.replace(**change).max_frame == bound


@pytest.mark.parametrize("change", [{"width": 0}, {"magic": "x"}, {"nonsense": 1}, {"max_frame": -1}])
def test_framing_replace_validates_as_the_constructor_does(framing_module, change):
    """There is no second way in."""
    with pytest.raises((TypeError, ValueError)):
        framing_module.Framing().replace(**change)


@each_sample
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_framing_pickles_to_an_equal_framing(framing_module, arguments, protocol):
    """A pre-forked server sends its settings to its workers."""
    framing = framing_module.Framing(**arguments)
    assert pickle.loads(pickle.dumps(framing, protocol)) == framing


def test_framing_copies_are_the_object_itself(framing_module):
    """An immutable value needs no second one."""
    framing = framing_module.Framing()
    assert copy.copy(framing) is framing
    assert copy.deepcopy([framing])[0] is framing


@pytest.mark.parametrize(
    "name",
    [
        "width",
        "byteorder",
        "signed",
        "before",
        "after",
        "magic",
        "counts",
        "bias",
        "deliver",
        "max_frame",
        "header_size",
        "anything",
    ],
)
def test_framing_attribute_cannot_be_set_or_deleted(framing_module, name):
    """Every connection shares the value."""
    framing = framing_module.Framing()
    with pytest.raises(AttributeError):
        setattr(framing, name, 1)
    with pytest.raises(AttributeError):
        delattr(framing, name)


def test_framing_init_called_again_changes_nothing(framing_module):
    """__init__ is an ordinary method; immutability may not depend on nobody calling it."""
    framing = framing_module.Framing(2)
    framing.__init__(8)
    assert framing == framing_module.Framing(2)


def test_framing_signature_shows_its_arguments(framing_module):
    """help(Framing) in either twin is where a user looks first."""
    parameters = inspect.signature(framing_module.Framing).parameters
    assert list(parameters) == [
        "width",
        "byteorder",
        "signed",
        "before",
        "after",
        "magic",
        "counts",
        "bias",
        "deliver",
        "max_frame",
    ]


def test_framing_twins_make_equal_values(pytestconfig):
    """A pickle written by one twin's process is read by another's."""
    compiled, pure = both_twins(pytestconfig)
    for arguments in SAMPLES.values():
        one, other = compiled.Framing(**arguments), pure.Framing(**arguments)
        assert (one, hash(one), repr(one), one.header_size) == (other, hash(other), repr(other), other.header_size)
    for fmt in FORMATS + BAD_FORMATS:
        assert outcome(compiled.Framing.from_struct, fmt) == outcome(pure.Framing.from_struct, fmt)


def test_framing_native_order_is_this_machines(framing_module):
    """struct without a prefix is native, and the tutorials have none."""
    assert framing_module.Framing.from_struct("i").byteorder == sys.byteorder
