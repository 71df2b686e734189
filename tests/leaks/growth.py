"""What an operation leaves behind: objects, memory of Python's allocator and of malloc, references to None and such.

A leak grows with the number of rounds; caches, free lists and the like come to an end.  So an operation is repeated, in
windows of many rounds each, and only what grows in every window is a leak.

Rule: nothing in this file may know evloop.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import warnings
from collections.abc import Iterator

WARM_UP = 20  # rounds; what is made on first use is there then
ROUNDS = 100
# malloc keeps freed blocks by size, up to seven each, and calls them used: that can make one window grow, or two.
WINDOWS = 10
# Half of what a leak in each round would be at least: an object, a block, a reference, malloc's smallest chunk.
LEAK = {"objects": ROUNDS / 2, "blocks": ROUNDS / 2, "bytes": ROUNDS * 32 / 2, "references": ROUNDS / 2}
# What C code hands out without making it, and so may count wrongly, in both directions.  From Python 3.12 on these are
# not counted at all.
SHARED = (None, True, False, (), b"", "")


class _Mallinfo2(ctypes.Structure):
    """struct mallinfo2, mallinfo(3)."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names)


def _find_malloced():
    """Return the function that tells the bytes that malloc has given out, or None where the C library has none."""
    process = ctypes.CDLL(None)
    if hasattr(process, "__sanitizer_get_current_allocated_bytes"):
        function = process.__sanitizer_get_current_allocated_bytes
        function.restype = ctypes.c_size_t
        return function
    if not hasattr(process, "mallinfo2"):  # glibc before 2.33, or another library
        return None
    process.mallinfo2.restype = _Mallinfo2

    def malloced():
        info = process.mallinfo2()
        return info.uordblks + info.hblkhd

    return malloced


malloced = _find_malloced()


def _held():
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # since Python 3.13
        # Up to 4096 names of attributes that were asked for, each a block if str.format() has made it.
        sys._clear_type_cache()
    return {
        "objects": len(gc.get_objects()),
        "blocks": sys.getallocatedblocks(),
        "bytes": 0 if malloced is None else malloced(),
        "references": sum(map(sys.getrefcount, SHARED)),
    }


def _leaked(before, after, rounds):
    """Return what has grown too much, as {what: by how much}; references may not become fewer, either."""
    grown = {what: after[what] - before[what] for what in before}
    share = rounds / ROUNDS
    return {
        what: change
        for what, change in grown.items()
        if (abs(change) if what == "references" else change) >= share * LEAK[what]
    }


def leaked(operation, rounds=ROUNDS):
    """Return what ``operation()``, called again and again, leaves behind: {} or {what: growth in *rounds* calls}."""
    gc.collect()
    gc.freeze()  # the collector, and the count, are for what is made from now on
    for _ in range(min(WARM_UP, rounds)):
        operation()
    before = _held()
    for _ in range(WINDOWS):
        for _ in range(rounds):
            operation()
        after = _held()
        found = _leaked(before, after, rounds)
        if not found:
            break
        before = after
    return found


def fails(errors, operation, *args, **options):
    """Call *operation*, which has to raise one of *errors*; unlike pytest.raises nothing keeps the exception."""
    try:
        operation(*args, **options)
    except errors:
        return
    raise AssertionError("nothing was raised")


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Keep the garbage collector out: what dies in the block has died because nobody referred to it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
