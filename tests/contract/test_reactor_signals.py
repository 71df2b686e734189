"""What the reactor promises about signals: delivered, given back, refused."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest
from reactor_fixtures import (
    patience,
    pytest_generate_tests,
    reactor,
    reactor_module,
    run_turns,
    running_thread,
    selector_class,
    wait_for,
)


def test_signal_arrives_during_the_wait_runs_the_handler_in_the_reactor(reactor):
    """The ordinary case: SIGTERM to a sleeping server; delivered from another thread, it must end the wait."""
    trace = []
    reactor.add_signal_handler(signal.SIGUSR1, lambda *args: trace.append((args, threading.get_ident())), 1, "two")

    def send():
        wait_for(reactor.is_running)
        os.kill(os.getpid(), signal.SIGUSR1)

    with running_thread(send):
        assert reactor.run_until(lambda: trace, deadline=patience(reactor)) is True
    assert trace == [((1, "two"), threading.get_ident())]


def test_signal_handler_replaced_the_last_one_runs(reactor):
    """One handler a signal, as with readers."""
    trace = []
    reactor.add_signal_handler(signal.SIGUSR1, trace.append, "old")
    reactor.add_signal_handler(signal.SIGUSR1, trace.append, "new")
    os.kill(os.getpid(), signal.SIGUSR1)
    reactor.run_until(lambda: trace, deadline=patience(reactor))
    assert trace == ["new"]


def test_signal_handler_several_signals_each_gets_its_own(reactor):
    """The number travels with the wake-up."""
    trace = []
    for sig in (signal.SIGUSR1, signal.SIGUSR2):
        reactor.add_signal_handler(sig, trace.append, sig)
        os.kill(os.getpid(), sig)
    reactor.run_until(lambda: len(trace) == 2, deadline=patience(reactor))
    assert sorted(trace) == sorted([signal.SIGUSR1, signal.SIGUSR2])


def test_signal_handler_removed_while_its_signal_is_queued_is_not_run(reactor):
    """After remove_signal_handler returned, the callback is never run."""
    trace = []
    reactor.set_exception_handler(lambda _, context: trace.append(context))
    reactor.add_signal_handler(signal.SIGUSR1, trace.append, "never")
    reactor.add_signal_handler(signal.SIGUSR2, trace.append, "kept")
    os.kill(os.getpid(), signal.SIGUSR1)
    run_turns(reactor, 1)  # the number is read, the callback queued
    assert reactor.remove_signal_handler(signal.SIGUSR1) is True
    assert reactor.remove_signal_handler(signal.SIGUSR1) is False
    run_turns(reactor, 2)
    assert trace == []


def test_signal_handler_raises_is_reported(reactor):
    """A signal handler is a callback like any other."""
    seen = []
    reactor.set_exception_handler(lambda _, context: seen.append(type(context["exception"])))
    reactor.add_signal_handler(signal.SIGUSR1, lambda: 1 / 0)
    os.kill(os.getpid(), signal.SIGUSR1)
    reactor.run_until(lambda: seen, deadline=patience(reactor))
    assert seen == [ZeroDivisionError]


def test_signal_python_handler_may_call_soon_threadsafe(reactor):
    """A handler of signal.signal() interrupts the wait in the reactor's own thread: the byte must be sent."""
    trace = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: reactor.call_soon_threadsafe(trace.append, "ran"))

    def send():
        wait_for(reactor.is_running)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    try:
        with running_thread(send):
            assert reactor.run_until(lambda: trace, deadline=patience(reactor)) is True
    finally:
        signal.signal(signal.SIGUSR1, previous)


@pytest.mark.parametrize("how", ["close", "remove"])
def test_signal_handling_is_given_back(reactor, how):
    """The program's own handler and wake-up fd are in force again afterwards."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        before = signal.set_wakeup_fd(theirs.fileno())
        previous = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        try:
            reactor.add_signal_handler(signal.SIGUSR1, print)
            assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_IGN
            reactor.close() if how == "close" else reactor.remove_signal_handler(signal.SIGUSR1)
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGUSR1, previous)
            assert signal.set_wakeup_fd(before) == theirs.fileno()


def test_signal_handling_taken_over_by_another_reactor_stays_there(reactor_module, reactor):
    """The first reactor's close must not take the signals from the second one."""
    trace = []
    with reactor_module.Reactor() as second:
        reactor.add_signal_handler(signal.SIGUSR1, trace.append, "first")
        second.add_signal_handler(signal.SIGUSR1, trace.append, "second")
        reactor.close()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert second.run_until(lambda: trace, deadline=patience(second)) is True
    assert trace == ["second"]
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSTOP])
def test_signal_that_cannot_be_caught_raises_and_leaves_nothing(reactor, sig):
    """asyncio's error; the wake-up fd must not stay behind."""
    with pytest.raises(RuntimeError, match=f"{int(sig)} cannot be caught"):
        reactor.add_signal_handler(sig, print)
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize(
    ("sig", "error"), [(0, ValueError), (-1, ValueError), (10**6, ValueError), ("TERM", TypeError)]
)
def test_signal_bad_number_raises(reactor, sig, error):
    """A wrong number must not reach the kernel, nor the bytes of the wake-up socket."""
    with pytest.raises(error):
        reactor.add_signal_handler(sig, print)
    with pytest.raises(error):
        reactor.remove_signal_handler(sig)


async def _coroutine():
    """Never awaited: it is refused."""


@pytest.mark.parametrize("callback", [None, 5, _coroutine])
def test_signal_handler_not_a_function_raises_type_error(reactor, callback):
    """A coroutine function would be called, and its coroutine dropped, in silence."""
    with pytest.raises(TypeError, match="function"):
        reactor.add_signal_handler(signal.SIGUSR1, callback)
    assert signal.set_wakeup_fd(-1) == -1


def test_signal_handler_outside_of_the_main_thread_raises(reactor):
    """Python delivers signals to the main thread alone."""
    caught = []

    def add():
        try:
            reactor.add_signal_handler(signal.SIGUSR1, print)
        except RuntimeError as exc:
            caught.append("main thread" in str(exc))

    with running_thread(add):
        pass
    assert caught == [True]


def test_signal_default_sigint_interrupts_the_wait(reactor):
    """Ctrl-C without a handler of ours: KeyboardInterrupt out of the wait, and a reactor that can run again."""

    def send():
        wait_for(reactor.is_running)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with running_thread(send), pytest.raises(KeyboardInterrupt):
        reactor.run_until(lambda: False, deadline=patience(reactor))
    assert reactor.is_running() is False
    run_turns(reactor, 1)
