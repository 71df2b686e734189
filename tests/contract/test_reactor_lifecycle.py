"""What the reactor promises about running, stopping, closing and exceptions."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import logging
import math
import os
import selectors
import signal

import pytest
from reactor_fixtures import (
    READ,
    clock,
    pair,
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

# --- run, stop --------------------------------------------------------------------------------------------------------


def test_stop_inside_a_callback_finishes_the_turn(reactor):
    """What was ready with the stop is run; what it adds waits for the next run."""
    trace = []
    reactor.call_soon(reactor.stop)
    reactor.call_soon(trace.append, "same turn")
    reactor.call_soon(reactor.call_soon, trace.append, "next run")
    reactor.run_forever()
    assert trace == ["same turn"]
    reactor.stop()
    reactor.run_forever()
    assert trace == ["same turn", "next run"]


def test_stop_before_the_run_gives_one_turn(reactor):
    """asyncio's semantics: one turn without a wait, then back; and only once."""
    trace = []
    reactor.call_soon(trace.append, "ran")
    reactor.stop()
    reactor.run_forever()
    assert (trace, reactor.stats()["turns"]) == (["ran"], 1)
    reactor.call_soon(reactor.call_soon, trace.append, "next turn")
    assert reactor.run_until(lambda: trace[-1] == "next turn", deadline=patience(reactor)) is True


def test_is_running_only_inside_of_a_run(reactor):
    """Other threads decide by it whether there is anybody to talk to."""
    seen = []
    reactor.call_soon(lambda: seen.append(reactor.is_running()))
    run_turns(reactor, 1)
    assert (seen, reactor.is_running()) == ([True], False)


@pytest.mark.parametrize("method", ["run_forever", "run_until"])
def test_run_from_inside_a_callback_raises_and_the_run_goes_on(reactor, method):
    """A nested run would re-enter the turn's FIFO; it is refused without harm to the outer one."""
    caught = []

    def nested():
        try:
            getattr(reactor, method)(*([lambda: True] if method == "run_until" else []))
        except RuntimeError as exc:
            caught.append(str(exc))
        reactor.call_soon(reactor.stop)

    reactor.call_soon(nested)
    reactor.run_forever()
    assert caught == ["Reactor is already running"]
    assert reactor.is_running() is False


def test_run_from_another_thread_while_running_raises(reactor):
    """One thread turns the wheel at a time."""
    caught = []

    def other():
        wait_for(reactor.is_running)
        try:
            reactor.run_forever()
        except RuntimeError as exc:
            caught.append(str(exc))
        reactor.call_soon_threadsafe(reactor.stop)

    with running_thread(other):
        reactor.run_forever()
    assert caught == ["Reactor is already running"]


def test_run_until_predicate_true_at_once_takes_no_turn(reactor):
    """Nothing is run, nothing is waited for, when the answer is there."""
    assert reactor.run_until(lambda: "truthy") is True
    assert reactor.stats()["turns"] == 0


def test_run_until_predicate_is_asked_after_each_turn(timed):
    """The turn that makes it true is the last one."""
    trace = []
    for delay in (1, 2, 3):
        timed.call_later(delay, trace.append, delay)
    assert timed.run_until(lambda: len(trace) == 2) is True
    assert trace == [1, 2]


def test_run_until_deadline_returns_false_at_it_and_not_before(timed, clock):
    """Absolute, on the reactor's clock; a timer of the same instant still runs."""
    trace = []
    timed.call_at(1005, trace.append, "at")
    timed.call_at(math.ulp(1005) + 1005, trace.append, "after")
    assert timed.run_until(lambda: False, deadline=1005) is False
    assert (trace, clock.now) == (["at"], 1005)


def test_run_until_deadline_alone_is_a_way_to_wait(timed, clock):
    """No predicate: turn until then."""
    assert timed.run_until(deadline=1003.5) is False
    assert clock.now == 1003.5


@pytest.mark.parametrize("deadline", [1000, 999, -math.inf])
def test_run_until_deadline_passed_takes_no_turn(timed, deadline):
    """Too late is too late, but a predicate that holds wins over it."""
    timed.call_soon(pytest.fail, "ran")
    assert timed.run_until(lambda: False, deadline=deadline) is False
    assert timed.run_until(lambda: True, deadline=deadline) is True


def test_run_until_stop_returns_false(timed):
    """Somebody else's stop ends this run too; the caller learns that its wish did not come true."""
    timed.call_later(1, timed.stop)
    assert timed.run_until(lambda: False, deadline=math.inf) is False
    assert timed.is_running() is False


def test_run_until_neither_argument_raises_type_error(reactor):
    """run_until() would be run_forever() by a misleading name."""
    with pytest.raises(TypeError, match="run_forever"):
        reactor.run_until()


@pytest.mark.parametrize(("deadline", "error"), [(math.nan, ValueError), ("soon", TypeError)])
def test_run_until_bad_deadline_raises_and_does_not_run(reactor, deadline, error):
    """NaN compares false for ever: the run would have no end."""
    with pytest.raises(error):
        reactor.run_until(lambda: False, deadline=deadline)
    assert reactor.is_running() is False


def test_run_until_predicate_raises_passes_through_and_can_run_again(reactor):
    """The caller's own exception is the caller's."""
    with pytest.raises(ZeroDivisionError):
        reactor.run_until(lambda: 1 / 0)
    assert reactor.is_running() is False
    run_turns(reactor, 1)


# --- close ------------------------------------------------------------------------------------------------------------


def test_close_twice_is_the_same_as_once(reactor):
    """Clean-up paths meet."""
    reactor.close()
    reactor.close()
    assert reactor.is_closed() is True


def test_close_while_running_raises_and_the_run_goes_on(reactor):
    """The selector must not vanish under the turn."""
    caught = []

    def close():
        with pytest.raises(RuntimeError, match="running"):
            reactor.close()
        caught.append("refused")
        reactor.stop()

    reactor.call_soon(close)
    reactor.run_forever()
    assert (caught, reactor.is_closed()) == (["refused"], False)


def test_close_context_manager_closes_even_after_an_exception(reactor_module):
    """Two sockets and an epoll fd hang on it; the fixture that counts fds looks too."""
    with pytest.raises(ZeroDivisionError), reactor_module.Reactor() as reactor:
        1 / 0  # noqa: B018
    assert reactor.is_closed() is True


@pytest.mark.parametrize(
    "use",
    [
        lambda r: r.call_soon(print),
        lambda r: r.call_soon_threadsafe(print),
        lambda r: r.call_later(1, print),
        lambda r: r.call_at(1, print),
        lambda r: r.add_reader(0, print),
        lambda r: r.add_writer(0, print),
        lambda r: r.register(0, READ, None),
        lambda r: r.modify(0, READ, None),
        lambda r: r.add_signal_handler(signal.SIGUSR1, print),
        lambda r: r.run_forever(),
        lambda r: r.run_until(lambda: True),
        lambda r: r.__enter__(),
    ],
)
def test_close_then_use_raises_reactor_is_closed(reactor, use):
    """One message for all, instead of whatever the closed selector would say."""
    reactor.close()
    with pytest.raises(RuntimeError, match=r"^Reactor is closed$"):
        use(reactor)


def test_close_then_clean_up_by_others_is_harmless(reactor_module, reactor, pair):
    """Connections that outlive their reactor must be able to take themselves down."""
    timer, handle = reactor.call_later(1, print), reactor.call_soon(print)
    reactor.register(pair[0], READ, reactor_module.Endpoint(reactor))
    reactor.close()
    timer.cancel()
    handle.cancel()
    reactor.unregister(pair[0])
    reactor.stop()
    assert (reactor.remove_reader(pair[0]), reactor.remove_signal_handler(signal.SIGUSR1)) == (False, False)
    assert pair[0].fileno() >= 0
    assert reactor.stats()["fds"] == 0
    assert " closed " in repr(reactor)


def test_init_selector_fails_leaves_no_fd(reactor_module):
    """A constructor that fails half-way must not keep its sockets; the fixture counts them."""

    class Failing(selectors.SelectSelector):
        def register(self, fileobj, events, data=None):
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        reactor_module.Reactor(Failing())


def test_init_sockets_are_not_inherited_by_programs_it_starts(reactor):
    """A child that keeps the wake-up socket would keep the parent's fds alive."""
    fds = [key.fd for key in reactor._selector.get_map().values()]
    assert [os.get_inheritable(fd) for fd in fds] == [False]
    assert [os.get_blocking(fd) for fd in fds] == [False]


# --- exceptions -------------------------------------------------------------------------------------------------------


def test_callback_raises_is_logged_with_its_traceback_and_the_run_goes_on(reactor, caplog):
    """By default nothing is swallowed in silence, and nobody else suffers."""
    trace = []
    reactor.call_soon(lambda: 1 / 0)
    reactor.call_soon(trace.append, "ran")
    with caplog.at_level(logging.ERROR, "evloop"):
        run_turns(reactor, 1)
    assert trace == ["ran"]
    (record,) = caplog.records
    assert (record.name, record.exc_info[0]) == ("evloop", ZeroDivisionError)
    assert record.message.startswith("Exception in callback <function")


def test_exception_handler_gets_the_reactor_and_asyncios_context(reactor, caplog):
    """The keys are asyncio's, so that a handler written for it works here."""
    seen = []

    def handler(*args):
        seen.append(args)

    reactor.set_exception_handler(handler)
    assert reactor.get_exception_handler() is handler
    handle = reactor.call_soon(lambda: 1 / 0)
    run_turns(reactor, 1)
    ((source, context),) = seen
    assert source is reactor
    assert sorted(context) == ["exception", "handle", "message"]
    assert context["handle"] is handle
    assert type(context["exception"]) is ZeroDivisionError
    assert caplog.records == []


def test_exception_handler_raises_is_logged_with_the_original_context(reactor, caplog):
    """The handler's bug must hide neither itself nor what it was called for."""
    reactor.set_exception_handler(lambda *_: [].pop())
    reactor.call_soon(lambda: 1 / 0)
    with caplog.at_level(logging.ERROR, "evloop"):
        run_turns(reactor, 1)
    (record,) = caplog.records
    assert record.message.startswith("Unhandled error in exception handler")
    assert "ZeroDivisionError" in record.message
    assert record.exc_info[0] is IndexError


def test_default_exception_handler_raises_is_logged(reactor, caplog, monkeypatch):
    """Even a context whose repr fails is reported, and ends nothing."""

    class Unprintable:
        def __repr__(self):
            raise ValueError("no repr")

    with caplog.at_level(logging.ERROR, "evloop"):
        reactor.call_exception_handler({"message": "m", "thing": Unprintable()})
    assert [record.message for record in caplog.records] == ["Exception in default exception handler"]


def test_exception_handler_none_restores_the_default(reactor, caplog):
    """Setting it back must set it back."""
    reactor.set_exception_handler(pytest.fail)
    reactor.set_exception_handler(None)
    reactor.call_soon(lambda: 1 / 0)
    with caplog.at_level(logging.ERROR, "evloop"):
        run_turns(reactor, 1)
    assert len(caplog.records) == 1


def test_exception_handler_not_callable_raises_type_error(reactor):
    """Otherwise the mistake would show only when the first error needs it."""
    with pytest.raises(TypeError, match="callable"):
        reactor.set_exception_handler("log it")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["callback", "endpoint", "flush", "exception handler"])
def test_interrupt_ends_the_run_and_the_reactor_can_run_again(reactor_module, reactor, pair, error, where):
    """Ctrl-C must get through from anywhere, and what was queued behind it must survive."""
    trace = []

    def interrupt(*_):
        raise error

    endpoint = recording_endpoint(reactor_module, [], "a", reactor=reactor, readable=interrupt, flush=interrupt)
    if where == "callback":
        reactor.call_soon(interrupt)
    elif where == "endpoint":
        reactor.register(pair[0], READ, endpoint)
        pair[1].send(b"x")
    elif where == "flush":
        reactor.flush_soon(endpoint)
    else:
        reactor.set_exception_handler(interrupt)
        reactor.call_soon(lambda: 1 / 0)
    later = recording_endpoint(reactor_module, trace, "later", reactor=reactor)
    reactor.flush_soon(later)
    reactor.call_later(0, trace.append, "timer")
    with pytest.raises(error):
        reactor.run_forever()
    assert reactor.is_running() is False
    if where == "endpoint":
        reactor.unregister(pair[0])
    with running_thread(reactor.call_soon_threadsafe, trace.append, "thread"):
        assert reactor.run_until(lambda: len(trace) == 3, deadline=patience(reactor)) is True
    assert sorted(map(str, trace)) == ["('later', 'flush')", "thread", "timer"]


def test_callback_raises_other_base_exception_is_reported(reactor):
    """GeneratorExit and the like are bugs of a callback, not orders to the reactor; asyncio agrees."""
    seen = []
    reactor.set_exception_handler(lambda _, context: seen.append(type(context["exception"])))

    def leave():
        raise GeneratorExit

    reactor.call_soon(leave)
    run_turns(reactor, 1)
    assert seen == [GeneratorExit]


# --- what it says about itself ----------------------------------------------------------------------------------------


def test_stats_counts_what_there_is(reactor_module, reactor, pair):
    """Operators and benchmarks read it: which implementation, how much of everything."""
    reactor.call_soon(print)
    reactor.call_later(100, print)
    reactor.call_later(100, print).cancel()
    reactor.add_reader(pair[0], print)
    assert reactor.stats() == {
        "implementation": reactor_module.IMPLEMENTATION,
        "turns": 0,
        "events": 0,
        "stale": 0,
        "ready": 1,
        "timers": 1,
        "fds": 1,
    }
    reactor.remove_reader(pair[0])


def test_repr_tells_state_and_counts(reactor, selector_class):
    """The first thing printed when something hangs."""
    assert repr(reactor).startswith(f"<Reactor idle {selector_class.__name__} implementation=")
    seen = []
    reactor.call_soon(lambda: seen.append(repr(reactor)))
    run_turns(reactor, 1)
    assert " running " in seen[0]


def test_repr_of_handles_tells_the_callback_or_that_it_is_cancelled(reactor):
    """What a log line of a failed callback shows."""
    handle, timer = reactor.call_soon(print), reactor.call_later(1, print)
    assert (repr(handle), repr(timer)) == (f"<Handle {print!r}>", f"<TimerHandle {print!r}>")
    timer.cancel()
    assert repr(timer) == "<TimerHandle cancelled>"


def test_door_exports_the_contract():
    """Users import the door; it must offer each name of the seam."""
    import evloop.reactor as door

    for name in ("Core", "Endpoint", "Handle", "Reactor", "TimerHandle", "IMPLEMENTATION"):
        assert hasattr(door, name)
    assert set(door.__all__) >= {"Core", "Endpoint", "Handle", "Reactor", "TimerHandle"}
