"""The measure itself: each kind of leak is seen, and what comes to an end is none."""

from __future__ import annotations

import ctypes
import itertools
import sys

import growth
import pytest
from growth import leaked


def test_measure_sees_an_object_a_round():
    """Of Python's allocator, and known to the collector."""
    kept = []
    found = leaked(lambda: kept.append([]))
    assert found["objects"] >= growth.ROUNDS


@pytest.mark.skipif(sys.getallocatedblocks() == 0, reason="PYTHONMALLOC=malloc: there are no blocks to count")
def test_measure_sees_a_block_a_round():
    """What the collector does not know of: bytes, numbers."""
    kept, numbers = [], itertools.count(1 << 40)
    found = leaked(lambda: kept.append(next(numbers)))
    assert found["blocks"] >= growth.ROUNDS
    assert "objects" not in found


@pytest.mark.skipif(growth.malloced is None, reason="this C library does not tell what malloc has given out")
def test_measure_sees_the_smallest_malloc_a_round():
    """Memory of C alone: no counter of Python's knows it."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    kept = (ctypes.c_void_p * (growth.WARM_UP + growth.WINDOWS * growth.ROUNDS))()
    places = itertools.count()

    def operation():
        kept[next(places)] = libc.malloc(24)

    try:
        assert leaked(operation)["bytes"] >= growth.ROUNDS * 24
    finally:
        for address in kept:
            libc.free(address)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="from Python 3.12 on None is not counted")
@pytest.mark.parametrize("change", [1, -1])
def test_measure_sees_a_reference_too_many_and_one_too_few(change):
    """Too few, and a long-running process ends with "deallocating None"."""
    count = ctypes.c_ssize_t.from_address(id(None))
    count.value += 100_000  # room for what is taken away

    def operation():
        count.value += change

    try:
        assert change * leaked(operation)["references"] >= growth.ROUNDS / 2
    finally:
        count.value -= 100_000 + change * (growth.WARM_UP + growth.WINDOWS * growth.ROUNDS)


def test_measure_does_not_take_a_cache_for_a_leak():
    """It grows, and then no more."""
    cache = {}
    numbers = itertools.count()
    assert leaked(lambda: cache.setdefault(next(numbers) % 150, [])) == {}


def test_measure_does_not_take_a_cycle_for_a_leak():
    """The collector's work is done before the count."""

    def operation():
        cycle = []
        cycle.append(cycle)

    assert leaked(operation) == {}
