"""What the reactor promises about call_soon, other threads and flush_soon: order, and nothing lost."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio
import contextvars
import fcntl
import select
import sys
import termios
import threading
from contextlib import ExitStack

import pytest
from reactor_fixtures import (
    PATIENCE,
    CountingSelector,
    clock,
    patience,
    pytest_generate_tests,
    reactor,
    reactor_module,
    recording_endpoint,
    run_turns,
    running_thread,
    selector_class,
    timed,
    wait_for,
)

import evloop._reactor_py

# --- call_soon ------------------------------------------------------------------------------------------------------


def test_call_soon_several_run_in_order_of_the_calls(reactor):
    """FIFO is what lets a caller reason about two of its own callbacks."""
    trace = []
    for number in range(5):
        reactor.call_soon(trace.append, number)
    run_turns(reactor, 1)
    assert trace == [0, 1, 2, 3, 4]


def test_call_soon_from_a_callback_runs_in_the_next_turn(reactor):
    """A callback that re-arms itself must not keep the reactor from its fds."""
    trace = []

    def again():
        trace.append("ran")
        reactor.call_soon(again)

    reactor.call_soon(again)
    run_turns(reactor, 1)
    assert trace == ["ran"]
    run_turns(reactor, 1)
    assert trace == ["ran", "ran"]


def test_call_soon_cancelled_handle_is_not_run_and_lets_go(reactor):
    """A cancelled callback must neither run nor keep its arguments alive until its turn."""
    trace = []
    handle = reactor.call_soon(trace.append, "never")
    assert handle.cancelled() is False
    handle.cancel()
    handle.cancel()
    run_turns(reactor, 1)
    assert (trace, handle.cancelled(), handle._args) == ([], True, ())


def test_call_soon_cancelled_by_an_earlier_callback_of_the_turn_is_not_run(reactor):
    """Whoever is cancelled before its turn came must not be run, even if it is queued already."""
    trace = []
    reactor.call_soon(lambda: later.cancel())
    later = reactor.call_soon(trace.append, "never")
    run_turns(reactor, 1)
    assert trace == []


def test_call_soon_context_is_the_callers_unless_given(reactor):
    """Context variables follow the callback as in asyncio, or request ids end up in the wrong log lines."""
    var = contextvars.ContextVar("var", default="unset")
    seen = []
    other = contextvars.copy_context()
    var.set("caller")
    reactor.call_soon(lambda: seen.append(var.get()))
    reactor.call_soon(lambda: seen.append(var.get()), context=other)
    reactor.call_later(0, lambda: seen.append(var.get()), context=other)
    var.set("later")
    run_turns(reactor, 1)
    assert seen == ["caller", "unset", "unset"]


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
@pytest.mark.parametrize("callback", [None, 5, "text"])
def test_call_soon_not_callable_raises_at_the_call(reactor, method, callback):
    """The mistake is reported where it was made, not a turn later without a stack."""
    with pytest.raises(TypeError, match="callable"):
        getattr(reactor, method)(callback)
    assert reactor.stats()["ready"] == 0


def test_ready_takes_anything_with_run_and_cancelled(reactor):
    """The FIFO holds other people's handles too; asyncio's do not look at their own cancellation."""
    loop = asyncio.SelectorEventLoop()
    trace = []
    try:
        for name in ("cancelled", "run"):
            reactor._ready.append(asyncio.Handle(trace.append, (name,), loop))
        reactor._ready[0]._cancelled = True
        run_turns(reactor, 1)
    finally:
        loop.close()
    assert trace == ["run"]


# --- threads --------------------------------------------------------------------------------------------------------


def test_threadsafe_four_threads_all_run_in_order_per_thread(reactor):
    """A lost wake-up would show as a reactor that sleeps with work in its queue."""
    seen = [[] for _ in range(4)]

    def produce(mine):
        for number in range(1000):
            reactor.call_soon_threadsafe(mine.append, number)

    with ExitStack() as threads:
        for mine in seen:
            threads.enter_context(running_thread(produce, mine))
        done = reactor.run_until(lambda: sum(map(len, seen)) == 4000, deadline=patience(reactor))
    assert done is True
    assert seen == [list(range(1000))] * 4


def test_threadsafe_ping_pong_no_wakeup_is_lost(reactor):
    """Each call finds the reactor asleep, waking up or draining; one lost byte ends the game."""
    answered = threading.Semaphore(0)
    rounds = []

    def ping():
        for number in range(2000):
            reactor.call_soon_threadsafe(lambda number=number: (rounds.append(number), answered.release()))
            if number % 3:  # two in flight at times: the second one falls into the wake-up of the first
                assert answered.acquire(timeout=PATIENCE)

    with running_thread(ping):
        assert reactor.run_until(lambda: len(rounds) == 2000, deadline=patience(reactor)) is True


def test_threadsafe_between_wakeup_and_drain_does_not_lose_the_next_wakeup(reactor_module):
    """A byte sent just before the drain is drained with the first one; its flag must not silence everybody after it."""
    trace = []

    class Window(CountingSelector):
        def select(self, timeout=None):
            events = super().select(timeout)
            if any(key.fd == self.wakeup_fd for key, _ in events) and "second" not in trace:
                reactor.call_soon_threadsafe(trace.append, "second")
            return events

    with reactor_module.Reactor(Window()) as reactor:
        reactor.call_soon_threadsafe(trace.append, "first")
        reactor.run_until(lambda: "second" in trace, deadline=patience(reactor))

        def third():
            wait_for(reactor._selector.asleep.is_set)
            reactor.call_soon_threadsafe(trace.append, "third")

        with running_thread(third):
            assert reactor.run_until(lambda: "third" in trace, deadline=patience(reactor)) is True


def test_threadsafe_late_byte_during_the_drain_does_not_silence_the_next_wakeup():
    """A thread that saw the reactor asleep may be held up until the drain; no thread can be held there on request.

    The pure twin alone: the compiled one drains and clears under one hold of the GIL.
    """
    with evloop._reactor_py.Reactor() as reactor:
        _late_byte(reactor)


def _late_byte(reactor):
    trace, wakeup = [], reactor._wakeup
    real = wakeup.receiver

    class Late:
        close = real.close

        def recv(self, size):
            wakeup.wake()
            return real.recv(size)

    def check_after(turns):  # in one run, since each run begins with a fresh wake-up
        if turns:
            reactor.call_soon(check_after, turns - 1)
            return
        wakeup.wake()
        trace.append(select.select([real], [], [], 0)[0])

    wakeup.receiver = Late()
    reactor.call_soon(wakeup.wake)
    reactor.call_soon(check_after, 4)
    reactor.run_until(lambda: trace, deadline=patience(reactor))
    wakeup.receiver = real
    assert trace == [[real]]


def _wakeups_in(fd):
    """Return the bytes in a socket, or the count of an eventfd."""
    with open(f"/proc/self/fdinfo/{fd}") as info:
        for line in info:
            if line.startswith("eventfd-count:"):
                return int(line.split()[1], 16)
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_threadsafe_thousand_calls_to_a_sleeper_cost_one_byte_and_one_wakeup(reactor_module):
    """Coalescing: a producer must not pay a system call per callback, nor fill the socket that signals need."""
    trace, queued = [], []

    class Asleep(CountingSelector):
        def select(self, timeout=None):
            if not queued:  # the reactor is in its wait, as far as it knows
                for number in range(1000):
                    reactor.call_soon_threadsafe(trace.append, number)
                queued.append(_wakeups_in(self.wakeup_fd))
            return super().select(timeout)

    with reactor_module.Reactor(Asleep()) as reactor:
        assert reactor.run_until(lambda: len(trace) == 1000, deadline=patience(reactor)) is True
        run_turns(reactor, 1)
        assert (queued, reactor._selector.wakeups) == ([1], 1)
        assert trace == list(range(1000))


def test_threadsafe_from_its_own_callback_wakes_nobody(reactor_module):
    """Code that does not know which thread it is in calls the safe variant; in the reactor's own it costs no byte."""
    trace = []
    selector = CountingSelector()
    with reactor_module.Reactor(selector) as reactor:
        reactor.call_soon(lambda: reactor.call_soon_threadsafe(trace.append, "ran"))
        assert reactor.run_until(lambda: trace, deadline=patience(reactor)) is True
        run_turns(reactor, 1)
        assert (trace, selector.wakeups) == (["ran"], 0)


def test_threadsafe_before_the_run_is_run_by_it(reactor):
    """What was queued while nobody ran must not wait for a wake-up."""
    trace = []
    with running_thread(reactor.call_soon_threadsafe, trace.append, "ran"):
        pass
    assert reactor.run_until(lambda: trace, deadline=patience(reactor)) is True


def test_threadsafe_stop_from_another_thread_ends_the_wait(reactor):
    """The ordinary way to end a reactor from outside."""

    def stop():
        wait_for(reactor.is_running)
        reactor.call_soon_threadsafe(reactor.stop)

    with running_thread(stop):
        reactor.run_forever()
    assert reactor.is_running() is False


def test_call_soon_debug_wrong_thread_raises(reactor):
    """The commonest mistake with any loop: debug mode names it, instead of a callback that runs whenever."""
    reactor.set_debug(True)
    assert reactor.get_debug() is True
    caught = []

    def wrong():
        wait_for(reactor.is_running)
        for call in (lambda: reactor.call_soon(print), lambda: reactor.call_later(1, print)):
            try:
                call()
            except RuntimeError as exc:
                caught.append(str(exc))
        reactor.call_soon_threadsafe(reactor.stop)

    with running_thread(wrong):
        reactor.run_forever()
    assert caught == ["not the reactor's thread: use call_soon_threadsafe"] * 2


# --- flush_soon -----------------------------------------------------------------------------------------------------


def test_flush_soon_twice_flushes_once_before_the_next_wait(reactor_module, timed, clock):
    """Many replies to one connection in a turn leave in one write, before anybody sleeps."""
    trace = []
    endpoint = recording_endpoint(
        reactor_module, trace, "a", reactor=timed, flush=lambda: trace.append(len(clock.waits))
    )
    timed.call_soon(timed.flush_soon, endpoint)
    timed.call_soon(timed.flush_soon, endpoint)
    timed.call_later(1, timed.stop)
    timed.run_forever()
    assert trace == [("a", "flush"), 1]


def test_flush_soon_endpoint_closed_meanwhile_is_left_alone(reactor_module, timed):
    """The fd of a closed connection may belong to somebody else by now."""
    trace = []
    endpoint = recording_endpoint(reactor_module, trace, "a", reactor=timed)
    timed.flush_soon(endpoint)
    endpoint.closed = True
    run_turns(timed, 1)
    assert trace == []


def test_flush_soon_from_a_flush_does_not_wait_and_does_not_loop(reactor_module, timed, clock):
    """An endpoint that marks itself again is flushed once a turn, and the turn does not sleep on it."""
    trace = []
    endpoint = recording_endpoint(reactor_module, trace, "a", reactor=timed, flush=lambda: timed.flush_soon(endpoint))
    timed.flush_soon(endpoint)
    timed.run_until(lambda: len(trace) == 3)
    assert len(trace) == 4  # the fourth when the run ends
    assert clock.waits == [0, 0, 0]


def test_flush_soon_in_the_last_turn_is_flushed_before_the_run_returns(reactor_module, timed):
    """The reply queued by the callback that also stops the reactor must leave."""
    trace = []
    endpoint = recording_endpoint(reactor_module, trace, "a", reactor=timed)
    timed.call_soon(timed.flush_soon, endpoint)
    timed.call_soon(timed.stop)
    timed.run_forever()
    assert trace == [("a", "flush")]


def test_flush_soon_one_raises_the_others_are_flushed(reactor_module, timed):
    """One broken connection must not hold up the output of the rest."""
    trace, errors = [], []
    timed.set_exception_handler(lambda _, context: errors.append((context["endpoint"], context["exception"])))
    bad = recording_endpoint(reactor_module, trace, "bad", reactor=timed, flush=lambda: 1 / 0)
    good = recording_endpoint(reactor_module, trace, "good", reactor=timed)
    timed.flush_soon(bad)
    timed.flush_soon(good)
    run_turns(timed, 1)
    assert trace == [("bad", "flush"), ("good", "flush")]
    assert [(endpoint, type(exc)) for endpoint, exc in errors] == [(bad, ZeroDivisionError)]


# --- asyncio says so ------------------------------------------------------------------------------------------------


def _script(loop, trace):
    """Nested callbacks, zero and negative timers, cancellation, a stop half-way."""

    def step(name, depth=0):
        trace.append(name)
        if depth:
            loop.call_soon(step, name + ".soon", depth - 1)
            loop.call_later(0, step, name + ".later", depth - 1)
            doomed = loop.call_soon(step, name + ".doomed")
            loop.call_soon(doomed.cancel)
            loop.call_soon_threadsafe(step, name + ".safe")

    loop.call_soon(step, "a", 2)
    loop.call_later(0, step, "b", 2)
    loop.call_later(-1, step, "c", 1)
    loop.call_soon(lambda: loop.call_later(0, step, "d").cancel())
    loop.call_soon(loop.call_soon, loop.stop)
    loop.call_soon(step, "e", 1)


def test_reactor_same_script_as_asyncio_gives_the_same_trace(reactor):
    """The names are asyncio's, so the order must be asyncio's too: turn by turn, stop by stop."""
    loop = asyncio.SelectorEventLoop()
    traces = []
    try:
        for subject in (loop, reactor):
            trace = []
            _script(subject, trace)
            for _ in range(8):
                subject.run_forever()
                trace.append("|")
                subject.stop()
            traces.append(trace)
            subject.run_forever()
    finally:
        loop.close()
    assert traces[1] == traces[0]
    assert len(traces[0]) > 20
