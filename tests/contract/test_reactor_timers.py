"""What the reactor promises about timers: never early, in order, and a heap that follows the live ones."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time

import pytest
from reactor_fixtures import (
    PATIENCE,
    READ,
    ManualClock,
    clock,
    pair,
    patience,
    pytest_generate_tests,
    reactor,
    reactor_module,
    recording_endpoint,
    run_turns,
    selector_class,
    timed,
)


def test_timer_manual_clock_runs_at_its_deadline_and_not_before(timed, clock):
    """A time-out that fires early disconnects a peer that was in time."""
    trace = []
    timed.call_later(2.5, lambda: trace.append(timed.time()))
    timed.call_at(1001, lambda: trace.append(timed.time()))
    assert timed.run_until(lambda: len(trace) == 2, deadline=2000) is True
    assert trace == [1001, 1002.5]


def test_timer_selector_returns_early_waits_again(timed, clock):
    """A selector may end a wait for nothing; neither a timer before its time nor a busy loop may come of it."""
    trace = []
    clock.early = 3
    timed.call_later(8, lambda: trace.append(timed.time()))
    timed.run_until(lambda: trace, deadline=2000)
    assert trace == [1008]
    assert clock.waits == [8, 4, 2, 1]


def test_timer_one_step_before_the_deadline_is_not_run(timed, clock):
    """The bound itself: due at when, not at the float before it."""
    trace = []
    timed.call_at(1005.0, trace.append, "ran")
    clock.now = math.nextafter(1005.0, 0)
    run_turns(timed, 1)
    assert trace == []
    clock.now = 1005.0
    run_turns(timed, 1)
    assert trace == ["ran"]


def test_timer_equal_deadlines_run_in_order_of_arming(timed):
    """Two time-outs of one peer must not swap; a heap alone is not stable."""
    trace = []
    for number in range(50):
        timed.call_at(1001, trace.append, number)
    timed.run_until(lambda: trace, deadline=2000)
    assert trace == list(range(50))


def test_timer_different_deadlines_run_by_deadline(timed):
    """All that are due in one turn run by deadline, however they were armed."""
    trace = []
    for delay in (3, 1, 2, 5, 4):
        timed.call_later(delay, trace.append, delay)
    timed._clock = lambda: 1100.0
    run_turns(timed, 1)
    assert trace == [1, 2, 3, 4, 5]


def test_timer_real_clock_is_never_early(reactor):
    """The kernel counts milliseconds; rounding down would fire up to one of them early."""
    early = []
    pending = []
    for tenth in range(40):
        when = reactor.time() + tenth * 0.00037

        def due(when=when):
            pending.pop()
            if reactor.time() < when:
                early.append(when)

        pending.append(when)
        reactor.call_at(when, due)
    assert reactor.run_until(lambda: not pending, deadline=patience(reactor)) is True
    assert early == []


def test_timer_and_ready_socket_in_one_turn_the_socket_comes_first(reactor_module, reactor, pair):
    """A reactor that was held up must not time out the peer whose data is waiting."""
    trace = []
    endpoint = recording_endpoint(reactor_module, trace, "fd", reactor=reactor, readable=lambda: pair[0].recv(1))
    reactor.register(pair[0], READ, endpoint)
    pair[1].send(b"x")
    reactor.call_at(reactor.time() - 1, trace.append, "timer")
    reactor.call_soon(trace.append, "soon")
    run_turns(reactor, 1)
    assert trace == ["soon", ("fd", "readable"), "timer"]
    reactor.unregister(pair[0])


def test_timer_armed_by_a_timer_for_now_runs_in_the_next_turn(timed):
    """A timer that re-arms itself with no delay must not keep the reactor in one turn."""
    trace = []

    def again():
        trace.append("ran")
        timed.call_later(0, again)

    timed.call_later(-5, again)
    run_turns(timed, 1)
    assert trace == ["ran"]


def test_timer_cancelled_is_not_run_and_not_waited_for(timed, clock):
    """A cancelled time-out must not wake the machine up."""
    trace = []
    handle = timed.call_later(1, trace.append, "never")
    assert handle.when() == 1001
    handle.cancel()
    handle.cancel()
    timed.call_later(5, trace.append, "ran")
    timed.run_until(lambda: trace, deadline=2000)
    assert (trace, clock.waits) == (["ran"], [5])
    assert timed.stats()["timers"] == 0


def test_timer_cancelled_when_already_due_in_this_turn_is_not_run(timed):
    """Due and queued is not yet run: its neighbour may still cancel it; the count of dead timers must stay right."""
    trace = []
    timed.call_at(1000, lambda: later.cancel())
    later = timed.call_at(1000, trace.append, "never")
    run_turns(timed, 1)
    assert (trace, timed._timer_cancelled_count, timed.stats()["timers"]) == ([], 0, 0)


def test_timer_cancelled_after_it_ran_changes_nothing(timed):
    """Cancelling in a clean-up path, too late, is legal and must not upset the bookkeeping."""
    handle = timed.call_at(1000, lambda: None)
    run_turns(timed, 1)
    handle.cancel()
    assert (timed._timer_cancelled_count, timed.stats()["timers"]) == (0, 0)


@pytest.mark.parametrize("inside", [True, False], ids=["in one turn", "before the run"])
def test_timers_armed_and_cancelled_ten_thousand_leave_a_small_heap(timed, inside):
    """A time-out per message is armed and cancelled; memory must follow the live timers, not the traffic."""
    sizes = []
    live = timed.call_later(1000, lambda: None)

    def churn():
        for _ in range(10_000):
            timed.call_later(500, lambda: None).cancel()
            sizes.append(len(timed._scheduled))

    if inside:
        timed.call_soon(churn)
        run_turns(timed, 1)
    else:
        churn()
    assert max(sizes) <= 102
    assert timed.stats()["timers"] == 1
    assert live in timed._scheduled


@pytest.mark.parametrize(("size", "left"), [(99, 99), (100, 100), (101, 50), (102, 50)])
def test_timers_more_than_half_cancelled_rebuilds_above_one_hundred_only(timed, size, left):
    """asyncio's two bounds, exactly: a small heap is never rebuilt, a bigger one at more than half."""
    handles = [timed.call_later(10 + number, lambda: None) for number in range(size)]
    for handle in handles[: size // 2]:
        handle.cancel()
    assert len(timed._scheduled) == size
    handles[-1].cancel()
    assert len(timed._scheduled) == left
    assert timed.stats()["timers"] == size - size // 2 - 1


def test_timer_overdue_does_not_ask_for_a_negative_wait(timed, clock):
    """A selector of somebody else's may take a negative time-out for "for ever"."""
    timed.call_at(5, timed.stop)
    timed.run_forever()
    assert clock.waits == [0]


def test_timers_rebuilt_heap_keeps_deadline_order(timed):
    """A rebuild must leave a heap, with equal deadlines still in order of arming."""
    trace = []
    handles = [timed.call_later(1 + number % 7, trace.append, (number % 7, number)) for number in range(400)]
    for number, handle in enumerate(handles):
        if number % 5:
            handle.cancel()
    timed.run_until(deadline=1100)
    assert trace == sorted((number % 7, number) for number in range(0, 400, 5))


@pytest.mark.parametrize("value", [None, "1", [], object()])
@pytest.mark.parametrize("method", ["call_at", "call_later"])
def test_timer_deadline_no_number_raises_type_error(timed, method, value):
    """Text that compares wrongly in a heap would break other people's timers."""
    with pytest.raises(TypeError):
        getattr(timed, method)(value, lambda: None)
    assert timed._scheduled == []


@pytest.mark.parametrize("method", ["call_at", "call_later"])
def test_timer_deadline_nan_raises_value_error(timed, method):
    """NaN compares false with everything, and so would destroy the heap's order in silence."""
    with pytest.raises(ValueError, match="NaN"):
        getattr(timed, method)(math.nan, lambda: None)
    assert timed._scheduled == []


def test_timer_not_callable_raises_and_arms_nothing(timed):
    """A half-armed timer would be an entry without a callback."""
    with pytest.raises(TypeError, match="callable"):
        timed.call_later(1, None)
    assert timed._scheduled == []


def test_timer_deadline_int_beyond_float_raises_overflow(timed):
    """A huge int is refused where it is given, not inside of the wait."""
    with pytest.raises(OverflowError):
        timed.call_later(10**400, lambda: None)


@pytest.mark.parametrize("delay", [1e9, 1e300, math.inf])
def test_timer_huge_delay_caps_the_wait(timed, clock, delay):
    """epoll_wait takes an int of milliseconds; a year must not overflow it."""
    timed.call_later(delay, lambda: None)
    timed.run_until(lambda: clock.waits)
    assert clock.waits == [24 * 3600]


def test_timer_handle_compares_by_deadline_then_by_order(timed):
    """What heapq relies on, and what asyncio's TimerHandle offers."""
    first, second, third = (timed.call_at(when, lambda: None) for when in (1001, 1001, 1000.5))
    assert third < first < second
    assert second > first >= first
    assert first != second
    with pytest.raises(TypeError):
        first < 5  # noqa: B015


def test_manual_clock_nothing_to_do_waits_without_limit(timed):
    """No timer, no deadline: the wait has no end, and a simulated kernel can tell a deadlock from a pause."""

    class Deadlock(Exception):
        pass

    class Simulated(ManualClock):
        def select(self, timeout=None):
            if timeout is None:
                raise Deadlock
            return super().select(timeout)

    selector = Simulated()
    with type(timed)(selector, clock=selector.time) as reactor:
        reactor.call_later(1, lambda: None)
        with pytest.raises(Deadlock):
            reactor.run_forever()
    assert selector.now == 1001


STOPPED = """
import importlib, selectors, socket, sys, time
module, selector = sys.argv[1:]
reactor = importlib.import_module(module).Reactor(getattr(selectors, selector)() if selector else None)
def read():
    print("data", sys.stdin.buffer.raw.read(1), flush=True)
    reactor.stop()
def late():
    print("timer", flush=True)
    reactor.stop()
reactor.add_reader(0, read)
reactor.call_later(0.3, late)
print("waiting", flush=True)
reactor.run_forever()
"""


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["", "EpollSelector", "PollSelector", "SelectSelector"])
def test_timer_due_while_the_process_was_stopped_runs_after_the_data(reactor_module, selector):
    """A stopped server (SIGSTOP, a debugger, a paused container) must not time out those whose data is waiting."""
    command = [sys.executable, "-W", "error", "-c", STOPPED, reactor_module.__name__, selector]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "waiting\n"
        # In the wait by then, or before it: the data comes first in both cases, but only the first one is a test.
        time.sleep(0.1)
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)  # until it has stopped: its wait has ended, and found nothing
        process.stdin.write("x")
        process.stdin.flush()
        time.sleep(0.4)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == "data b'x'\n"
        assert process.wait(PATIENCE) == 0
