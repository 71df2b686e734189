"""What the reactor promises where thousands of endpoints are to be flushed: slices, in order, and a look in between."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import itertools

import pytest
from reactor_fixtures import (
    READ,
    clock,
    pytest_generate_tests,
    reactor_module,
    recording_endpoint,
    socket_pair,
    timed,
)

from evloop._reactor_py import FLUSHES_UNTIMED


@pytest.fixture
def mark(reactor_module, timed, clock):
    """Return a function that marks so many endpoints, each of whose flushes takes so long, and the trace of them."""
    trace = []

    class Marked(reactor_module.Endpoint):
        def flush(self):
            trace.append(self.number)
            clock.now += self.seconds
            self.action(self.number)

    def mark(count, seconds, action=lambda number: None):
        for number in range(count):
            endpoint = Marked(timed)
            endpoint.number, endpoint.seconds, endpoint.action = number, seconds, action
            timed.flush_soon(endpoint)
        return trace

    return mark


@pytest.mark.parametrize("count", [1, FLUSHES_UNTIMED, FLUSHES_UNTIMED + 1])
def test_flush_of_a_few_is_not_cut_however_long_they_take(timed, clock, mark, count):
    """The usual list costs no look at the clock; one more than that is cut when the time is over."""
    trace = mark(count, 1.0)
    timed.run_until(lambda: len(trace) >= FLUSHES_UNTIMED or len(trace) == count)
    assert trace == list(range(count))  # the end of a run leaves nothing
    looks = 1 if count <= FLUSHES_UNTIMED else 2
    assert len(clock.waits) <= looks


def test_flush_of_many_looks_at_the_fds_between_slices_and_does_not_wait(timed, clock, mark):
    """Order is kept, each is flushed once, and a look comes each two milliseconds of flushing."""
    trace = mark(500, 0.0001)
    seen = []
    timed.run_until(lambda: seen.append(len(trace)) or len(trace) == 500)
    assert trace == list(range(500))
    slices = [later - earlier for earlier, later in itertools.pairwise([0, *seen])]
    assert set(slices[1:-1]) == {32}  # the first multiple of sixteen that lasts two milliseconds
    assert set(clock.waits[:-1]) == {0.0}  # the last turn has nothing more to flush


def test_flush_of_many_lets_an_event_in_after_one_slice(reactor_module, timed, clock, mark):
    """A peer that has nothing to do with the broadcast waits for a slice of it and not for all."""
    served = []
    with socket_pair() as (ours, theirs):
        witness = recording_endpoint(
            reactor_module, [], "witness", reactor=timed,
            readable=lambda: served.append((len(trace), ours.recv(10))),
        )  # fmt: skip
        timed.register(ours, READ, witness)
        trace = mark(5000, 0.0001, lambda number: number % 100 or theirs.send(b"?"))
        timed.run_until(lambda: len(trace) == 5000)
        timed.unregister(ours)
    assert len(served) > 40
    gaps = [after[0] - before[0] for before, after in itertools.pairwise(served)]
    assert max(gaps) <= 100 + 2 * 32  # it asked each hundredth flush


def test_flush_marked_anew_in_a_slice_comes_behind_all_others(timed, mark, reactor_module):
    """First come, first served: who always has something does not keep the others waiting."""
    trace = []
    endpoints = []

    def flush(number):
        trace.append(number)
        timed.flush_soon(endpoints[number])

    for number in range(40):
        endpoints.append(
            recording_endpoint(reactor_module, [], number, reactor=timed, flush=lambda number=number: flush(number))
        )
        timed.flush_soon(endpoints[-1])
    timed.run_until(lambda: len(trace) >= 100)
    assert trace[:100] == [*range(40), *range(40), *range(20)][:100]
