"""The framing twins have the same names, in the same order, with the same signatures and first lines."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from feeding import both_twins
from twins import needs_compiled

import evloop

PACKAGE = Path(evloop.__file__).parent
CLASSES = ("Codec", "Framing", "FrameDecoder")

# What only one of them needs: memory by hand, and the entry for raw pointers.
COMPILED_ONLY = {
    "FrameDecoder": {
        *(
            "__dealloc__",
            "_scan_plain",
            "feed_pointer",
            "_grow",
            "_keep",
            "_header_bytes",
            "_drop_body",
            "_prefix",
            "_capacity",
            "_out_of_memory",
        ),
        *("lacking", "body_tail", "received_in_place", "guessed", "guess", "received_guess", "take_guess", "feed_one"),
        *("held", "unfinished"),
    },
    # The pure one writes headers with int.to_bytes; the compiled one stores into memory.
    "Codec": {"write_header", "header_length", "check_payload"},
}
# Final by declaration there, by a hook here.
PURE_ONLY = {"__init_subclass__"}
CONSTRUCTORS = {"__cinit__": "__init__", "__new__": "__init__"}


@pytest.fixture
def twins(pytestconfig):
    """(compiled, pure)."""
    return both_twins(pytestconfig)


def public(thing):
    """Return the public names of a class, or of a module, that are its own."""
    return {name for name in vars(thing) if not name.startswith("_")}


def written_methods(path, name):
    """Return the functions that the source of a class defines, in order, each once."""
    body = re.search(rf"^(?:cdef )?class {name}\b.*?(?=^\S)", path.read_text() + "\nend", re.M | re.S)[0]
    found = re.findall(r"^    (?:cdef|def)\s+(?:[\w* ]+?\s\*?)?(\w+)\(", body, re.M)
    return list(dict.fromkeys(CONSTRUCTORS.get(method, method) for method in found))


def parameters(function):
    """Return what a caller sees of a signature: names, kinds and defaults, without annotations."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def first_line(thing):
    """Return the first line of a docstring."""
    return (thing.__doc__ or "").strip().split("\n")[0]


def test_twins_say_which_they_are(twins):
    """`evloop info` and every benchmark print it."""
    assert [module.IMPLEMENTATION for module in twins] == ["cython", "python"]


@pytest.mark.parametrize("name", CLASSES)
def test_twins_have_the_same_public_names(twins, name):
    """msgpack's fallback drifted for years: code that runs on one twin runs on the other."""
    compiled, pure = (public(getattr(module, name)) for module in twins)
    assert compiled == pure


def test_twins_modules_offer_the_same_classes(twins):
    """Nothing is importable from one module only."""
    compiled, pure = ({name for name in CLASSES if isinstance(getattr(m, name, None), type)} for m in twins)
    assert compiled == pure == set(CLASSES)


@pytest.mark.parametrize("name", ["Codec", "FrameDecoder"])
def test_twins_define_their_methods_in_the_same_order(name):
    """Two files that are read side by side."""
    compiled = written_methods(PACKAGE / "_framing.pyx", name)
    pure = written_methods(PACKAGE / "_framing_py.py", name)
    shared = [method for method in compiled if method in pure]
    assert [method for method in pure if method in compiled] == shared
    assert set(compiled) - set(pure) <= COMPILED_ONLY[name] | {"signed"}
    assert set(pure) - set(compiled) <= PURE_ONLY


@pytest.mark.parametrize("name", ["Codec", "FrameDecoder"])
def test_twins_methods_have_the_same_signatures(twins, name):
    """Keyword names are part of the contract, and defaults, too."""
    compiled, pure = (getattr(module, name) for module in twins)
    methods = [method for method in public(pure) if callable(getattr(pure, method))]
    assert methods
    for method in methods:
        assert (method, parameters(getattr(compiled, method))) == (method, parameters(getattr(pure, method)))


def test_twins_constructors_take_the_same_arguments(twins):
    """Framing's is shared; the decoder's is compared by what a call accepts."""
    for module in twins:
        framing = module.Framing()
        module.FrameDecoder(framing=framing, max_frame=1, oversize="skip", spill=list, spill_above=2)
        for wrong in ((framing, 1), (), (framing, None, "error")):
            with pytest.raises(TypeError):
                module.FrameDecoder(*wrong)
        with pytest.raises(TypeError):
            module.FrameDecoder(framing, limit=1)


@pytest.mark.parametrize("name", CLASSES)
def test_twins_docstrings_begin_alike(twins, name):
    """help() in either says what the method returns; the long text stands once, in the pure twin."""
    compiled, pure = (getattr(module, name) for module in twins)
    assert first_line(compiled) == first_line(pure) != ""
    for member in sorted(public(pure)):
        documented = inspect.getattr_static(pure, member)
        if callable(getattr(pure, member)) or (isinstance(documented, property) and documented.__doc__):
            assert (member, first_line(getattr(compiled, member))) == (member, first_line(documented))


def test_twins_presets_and_shared_names_are_equal(twins):
    """Constants come from one file."""
    compiled, pure = twins
    for preset in ("U8", "U16", "U24", "U32", "U64", "U32LE", "VARINT"):
        assert getattr(compiled.Framing, preset) == getattr(pure.Framing, preset)
    assert compiled.DecoderStats is pure.DecoderStats
    assert compiled.FramingError is pure.FramingError


def test_twins_constants_in_c_are_those_of_the_spec(twins):
    """C cannot import a Python constant, so the copies are compared."""
    from evloop import _framing_spec as spec

    sources = {path: (PACKAGE / path).read_text() for path in ("_framing.pyx", "_wire.h", "_framing.pxd")}
    assert re.search(r"MAX_VARINT = (\d+)", sources["_framing.pyx"])[1] == str(spec.MAX_VARINT)
    assert re.search(r"EVL_MAX_VARINT (\d+)", sources["_wire.h"])[1] == str(spec.MAX_VARINT)
    assert "unsigned char _header_size" in sources["_framing.pxd"]
    assert spec.MAX_HEADER < 256  # which that byte counts
    states = re.search(r"STATES = \((.*?)\)", sources["_framing.pyx"])[1]
    pure = twins[1]
    names = (pure.HEADER, pure.BODY, pure.RAW, pure.SKIP, pure.FAILED, pure.CLOSED)
    assert states == ", ".join(f'"{name}"' for name in names)


def test_twins_extension_is_as_new_as_its_source(pytestconfig):
    """A stale extension passes tests that its source would fail."""
    compiled, _ = both_twins(pytestconfig)
    built = Path(compiled.__file__).stat().st_mtime
    for source in ("_framing.pyx", "_framing.pxd", "_wire.h"):
        assert built >= (PACKAGE / source).stat().st_mtime, f"{source} was edited after the build: make build"


def test_connection_twins_have_the_same_public_names_and_signatures(pytestconfig):
    """Whoever switches finds everything, under the same keywords."""
    needs_compiled(pytestconfig)
    from evloop._connection import Connection as Compiled
    from evloop._connection_py import Connection as Pure

    found = [{name for name in dir(cls) if not name.startswith("_")} for cls in (Compiled, Pure)]
    assert found[0] == found[1]
    methods = [name for name in sorted(found[1]) if callable(getattr(Pure, name))]
    for name in methods:
        compiled, pure = (
            parameters(getattr(cls, name))[1:] for cls in (Compiled, Pure)
        )  # a builtin's self has no name
        assert (name, compiled) == (name, pure)
        assert (name, first_line(getattr(Compiled, name))) == (name, first_line(getattr(Pure, name)))


def test_group_twins_have_the_same_names_and_signatures(pytestconfig):
    """A room is the same on both."""
    needs_compiled(pytestconfig)
    from evloop._group import Group as Compiled
    from evloop._group_py import Group as Pure

    methods = sorted(public(Pure))
    assert methods == sorted(public(Compiled)) == ["add", "discard", "send", "send_many"]
    for name in methods:
        compiled, pure = (parameters(getattr(cls, name))[1:] for cls in (Compiled, Pure))
        assert (name, compiled) == (name, pure)
        assert first_line(getattr(Compiled, name)) == first_line(getattr(Pure, name))
    assert first_line(Compiled) == first_line(Pure)


def test_reactor_twins_flush_in_slices_of_the_same_size():
    """C cannot import a Python constant, so the copies are compared."""
    from evloop._reactor_py import FLUSH_SLICE, FLUSHES_UNTIMED

    source = (PACKAGE / "_reactor.pyx").read_text()
    assert re.search(r"FLUSHES_UNTIMED = (\d+)", source)[1] == str(FLUSHES_UNTIMED)
    assert re.search(r"FLUSH_SLICE = (\S+)", source)[1] == str(FLUSH_SLICE)
