"""The reactor under pytest-benchmark, both twins side by side: callbacks and timers, without a socket that is ready."""

import importlib

import pytest

# Callbacks of one turn: what a busy server has.
BATCH = 1000
TIMERS = 1_000_000


@pytest.fixture(params=["cython", "python"])
def reactor(request):
    """A reactor of either twin."""
    module = importlib.import_module("evloop._reactor" if request.param == "cython" else "evloop._reactor_py")
    with module.Reactor() as reactor:
        yield reactor


def nothing():
    """Be called."""


def turn(reactor, batch):
    """Have *batch* callbacks run."""
    for _ in range(batch):
        reactor.call_soon(nothing)
    reactor.call_soon(reactor.stop)
    reactor.run_forever()


@pytest.mark.benchmark(group="call_soon, 1,000 in a turn")
def test_call_soon_batch(benchmark, reactor):
    """Scheduling is what every coroutine and every deferred call pays."""
    benchmark(turn, reactor, BATCH)


@pytest.mark.benchmark(group="call_soon, a turn each")
def test_call_soon_chain(benchmark, reactor):
    """A callback that schedules itself: the price of a turn, with its look at the kernel."""
    left = 0

    def step():
        nonlocal left
        left -= 1
        if left:
            reactor.call_soon(step)
        else:
            reactor.stop()

    def chain():
        nonlocal left
        left = BATCH
        reactor.call_soon(step)
        reactor.run_forever()

    benchmark(chain)


def arm_and_cancel(reactor):
    """Arm a million timers of an hour, cancel each, and turn the wheel once, which may sweep them."""
    call_later = reactor.call_later
    timers = [call_later(3600, nothing) for _ in range(TIMERS)]
    for timer in timers:
        timer.cancel()
    turn(reactor, 0)


@pytest.mark.benchmark(group="timers, 1,000,000 armed and cancelled")
def test_timers_cancelled(benchmark, reactor):
    """A deadline a request that is nearly always met.  Most of it is the collector's, which looks at all of them."""
    benchmark.pedantic(arm_and_cancel, (reactor,), rounds=3, warmup_rounds=1)


def arm_and_run(reactor):
    """Arm timers that are due at once, in an order that is not theirs, and run them."""
    for number in range(BATCH):
        reactor.call_later((number * 7919 % BATCH) * 1e-9, nothing)
    reactor.call_later(2e-6, reactor.stop)
    reactor.run_forever()


@pytest.mark.benchmark(group="timers, 1,000 due")
def test_timers_due(benchmark, reactor):
    """Heap in, heap out, call."""
    benchmark(arm_and_run, reactor)
