"""encode_into: a frame into the caller's buffer, which nobody but the caller may have changed otherwise."""

from __future__ import annotations

import array
import ctypes
import mmap
import sys

import pytest

from evloop.errors import FrameTooLarge


def mapped(size):
    """Return an anonymous memory map of *size* bytes."""
    return mmap.mmap(-1, size)


TARGETS = {
    "bytearray": bytearray,
    "memoryview": lambda size: memoryview(bytearray(size)),
    "memoryview slice": lambda size: memoryview(bytearray(size + 4))[2:-2],
    "memoryview of two dimensions": lambda size: memoryview(bytearray(size)).cast("B", (2, size // 2)),
    "array B": lambda size: array.array("B", bytes(size)),
    "array b": lambda size: array.array("b", bytes(size)),
    "ctypes char": lambda size: (ctypes.c_char * size)(),
    "ctypes ubyte": lambda size: (ctypes.c_ubyte * size)(),
    "mmap": mapped,
}
REFUSED = {
    "bytes": (b"........", "buffer must be writable"),
    "read-only view": (memoryview(b"........"), "buffer must be writable"),
    "str": ("........", "buffer must be a bytes-like object, not str"),
    "None": (None, "buffer must be a bytes-like object, not NoneType"),
    "array H": (array.array("H", [0] * 9), "buffer must be contiguous single bytes; convert it with bytes()"),
    "strided": (memoryview(bytearray(32))[::2], "buffer must be contiguous single bytes; convert it with bytes()"),
}


@pytest.mark.parametrize("make", TARGETS.values(), ids=TARGETS)
def test_encode_into_fills_any_writable_buffer(framing_module, make):
    """A ring of registered buffers may be made of anything that holds bytes."""
    target = make(8)
    assert framing_module.Framing(2).encode_into(b"abc", target, 1) == 5
    assert memoryview(target).tobytes() == b"\0\0\x03abc\0\0"
    if isinstance(target, mmap.mmap):
        target.close()


@pytest.mark.parametrize("offset", [0, 1, 4])
def test_encode_into_exact_fit_is_taken_and_one_byte_less_refused(framing_module, offset):
    """limit-1, limit, limit+1 of the room; what does not fit leaves the buffer as it was."""
    framing = framing_module.Framing(2)
    for room in (5, 6):
        target = bytearray(b"." * (offset + room))
        assert framing.encode_into(b"abc", target, offset) == 5
        assert target == b"." * offset + b"\0\x03abc" + b"." * (room - 5)
    target = bytearray(b"." * (offset + 4))
    with pytest.raises(ValueError) as caught:
        framing.encode_into(b"abc", target, offset)
    assert str(caught.value) == f"frame needs 5 bytes at offset {offset}, and the buffer has {offset + 4}"
    assert target == b"." * (offset + 4)


@pytest.mark.parametrize("offset", [9, 10, 1 << 40, sys.maxsize])
def test_encode_into_offset_behind_the_buffer_is_value_error(framing_module, offset):
    """offset + size must not wrap around to something that fits."""
    target = bytearray(9)
    with pytest.raises(ValueError) as caught:
        framing_module.Framing().encode_into(b"", target, offset)
    assert str(caught.value) == f"frame needs 4 bytes at offset {offset}, and the buffer has 9"
    assert target == bytes(9)


@pytest.mark.parametrize(
    ("offset", "error"),
    [
        (-1, ValueError),
        (-9, ValueError),
        (sys.maxsize + 1, ValueError),
        (1 << 100, ValueError),
        (True, TypeError),
        (1.0, TypeError),
        (None, TypeError),
        ("0", TypeError),
    ],
)
def test_encode_into_bad_offset_is_refused(framing_module, offset, error):
    """A negative offset does not count from the end: it is a miscalculation of the caller."""
    target = bytearray(9)
    with pytest.raises(error, match="offset"):
        framing_module.Framing().encode_into(b"x", target, offset)
    assert target == bytes(9)


@pytest.mark.parametrize(("target", "text"), REFUSED.values(), ids=REFUSED)
def test_encode_into_buffer_that_cannot_be_written_is_type_error(framing_module, target, text):
    """A read-only buffer is shared with somebody."""
    with pytest.raises(TypeError) as caught:
        framing_module.Framing().encode_into(b"x", target)
    assert str(caught.value) == text


@pytest.mark.parametrize("offset", range(6))
def test_encode_into_payload_within_the_buffer_is_read_before_it_is_overwritten(framing_module, offset):
    """Framing a message in place shifts it by the header; each overlap has to give the same frame."""
    target = bytearray(b"hello.......")
    framing_module.Framing(2).encode_into(memoryview(target)[:5], target, offset)
    assert target[offset : offset + 7] == b"\0\x05hello"


def test_encode_into_that_fails_writes_nothing(framing_module):
    """The frame is checked before the first byte is stored."""
    target = bytearray(b"................")
    for payload, error in ((b"toolong", FrameTooLarge), ("text", TypeError)):
        with pytest.raises(error):
            framing_module.Framing(max_frame=4).encode_into(payload, target)
    assert target == b"................"


def test_encode_into_leaves_the_buffer_resizable(framing_module):
    """A view that is not released turns the next append into a BufferError."""
    target = bytearray(8)
    framing_module.Framing().encode_into(b"abc", target)
    target.append(1)
    assert len(target) == 9


def test_encode_into_too_small_buffer_can_grow_in_the_except_clause(framing_module):
    """`except ValueError: buffer.extend(...)` and try again: the exception must not hold the buffer."""
    target = bytearray(4)
    try:
        framing_module.Framing().encode_into(b"abc", target)
    except ValueError:
        target.extend(bytes(3))
    assert framing_module.Framing().encode_into(b"abc", target) == 7


def test_encode_into_read_only_and_wrong_buffers_can_be_released_in_the_except_clause(framing_module):
    """The same for a buffer of the wrong kind."""
    target = array.array("H", [0] * 4)
    try:
        framing_module.Framing().encode_into(b"abc", target)
    except TypeError:
        target.append(1)
    assert len(target) == 5


def test_encode_into_empty_buffer_takes_no_frame(framing_module):
    """An empty bytearray is a legal buffer that nothing fits into."""
    with pytest.raises(ValueError, match="frame needs 4 bytes at offset 0, and the buffer has 0"):
        framing_module.Framing().encode_into(b"", bytearray())
