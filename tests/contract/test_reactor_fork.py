"""What a reactor promises when its process forks: the child's copy refuses every use; the parent notices nothing."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import gc
import os
import signal
import socket
import weakref

import pytest
from forks import forked, in_child
from reactor_fixtures import (
    READ,
    WRITE,
    pair,
    patience,
    pytest_generate_tests,
    reactor,
    reactor_module,
    recording_endpoint,
    run_turns,
    selector_class,
)
from test_reactor_syscalls import Table
from twins import needs_compiled


def raised(use, *args):
    """Return the text of the RuntimeError that *use(\\*args)* raises."""
    with pytest.raises(RuntimeError) as caught:
        use(*args)
    return str(caught.value)


def refusal():
    """Return what a child of this process is told."""
    return f"this reactor belongs to process {os.getpid()}; make a new one after fork()"


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
def test_fork_child_uses_the_copy_raises_with_the_owner(reactor, use):
    """Who made it and what to do instead; asyncio's silence here has cost people days."""
    assert in_child(lambda: (raised(use, reactor), reactor.is_closed(), reactor.is_running())) == (
        refusal(),
        True,
        False,
    )
    assert reactor.is_closed() is False


def test_fork_child_cleans_up_the_copy_and_the_parent_goes_on(reactor_module, reactor, pair):
    """epoll_ctl in a child acts on the parent's set: whoever takes an fd out of the copy would deafen the parent."""
    trace = []
    endpoint = recording_endpoint(reactor_module, trace, "mine", reactor=reactor, readable=lambda: pair[0].recv(9))
    reactor.register(pair[0], READ, endpoint)
    reactor.add_writer(pair[1], trace.append, "writable")
    run_turns(reactor, 2)
    reactor.modify(pair[0], READ | WRITE, endpoint)  # the compiled selector has not told the kernel yet
    seen = len(trace)

    def child():
        reactor.unregister(pair[0])
        removed = reactor.remove_writer(pair[1])
        reactor.close()
        reactor.close()
        return removed, reactor.stats()["fds"]

    assert in_child(child) == (False, 0)
    pair[1].send(b"x")
    assert reactor.run_until(lambda: len(trace) >= seen + 3, deadline=patience(reactor)) is True
    assert {("mine", "readable"), ("mine", "writable"), "writable"} <= set(trace[seen:])
    reactor.remove_writer(pair[1])
    reactor.unregister(pair[0])


def test_fork_child_collects_the_copy_and_the_parent_goes_on(reactor_module, selector_class, pair):
    """Nobody calls close(): what the garbage collector does must be as quiet."""
    trace = []
    box = [reactor_module.Reactor(selector_class())]
    box[0].add_reader(pair[0], trace.append, "readable")
    watched = weakref.ref(box[0])

    def child():
        box.clear()
        gc.collect()
        return watched() is None

    assert in_child(child) is True
    pair[1].send(b"x")
    assert box[0].run_until(lambda: trace, deadline=patience(box[0])) is True
    box[0].close()


def test_fork_child_wakes_nobody_and_the_parent_can_still_be_woken(reactor):
    """The wake-up socket is shared, too: a byte read in the child is a wake-up lost, one sent is one for nothing."""
    run_turns(reactor, 1)
    assert in_child(lambda: raised(reactor.call_soon_threadsafe, print)) == refusal()
    events = reactor.stats()["events"]
    run_turns(reactor, 1)
    assert reactor.stats()["events"] == events
    trace = []
    reactor.call_soon_threadsafe(trace.append, "woken")
    assert reactor.run_until(lambda: trace, deadline=patience(reactor)) is True


def test_fork_child_has_no_fd_of_the_reactors_left(reactor):
    """A child that lives on must not keep the parent's epoll instance, or be what its wake-up bytes go to."""
    reactor.add_signal_handler(signal.SIGUSR1, print)
    own = [key.fd for key in reactor._selector.get_map().values()]
    own += [reactor._selector.fileno()] if hasattr(reactor._selector, "fileno") else []

    def child():
        return [fd for fd in own if os.path.exists(f"/proc/self/fd/{fd}")]

    assert in_child(child) == []
    assert [fd for fd in own if not os.path.exists(f"/proc/self/fd/{fd}")] == []


@pytest.mark.parametrize("stopped", [False, True], ids=["", "stopped"])
@pytest.mark.parametrize("others", [0, 3], ids=["last of the turn", "others behind it"])
def test_fork_inside_a_callback_child_returns_ends_its_run(reactor, others, stopped):
    """The common accident: what else is ready would run twice, the second time on the parent's sockets."""
    trace = []
    with forked() as child:
        if stopped:
            reactor.stop()
        reactor.call_soon(child.fork)
        for number in range(others):
            reactor.call_soon(trace.append, number)
        reactor.call_later(0.001, reactor.stop)
        try:
            reactor.run_forever()
        except RuntimeError as exc:
            child.leave(str(exc), trace)
        assert child.result() == (refusal(), [])
    assert trace == list(range(others))


@pytest.mark.parametrize("count", [1, 128, 129])
def test_fork_in_the_last_event_of_many_child_returns_ends_its_run(reactor, count):
    """A reactor that has taken as many events as it takes at a time would ask for more."""
    seen, ends = [], [socket.socketpair() for _ in range(count)]

    def readable():
        seen.append(os.getpid())
        if len(seen) == min(count, 128):
            child.fork()
            reactor.stop()

    with forked() as child:
        for a, b in ends:
            reactor.add_reader(a, readable)
            b.send(b"x")
        try:
            reactor.run_forever()
        except RuntimeError as exc:
            child.leave(str(exc), len(seen))
        assert child.result() == (refusal(), min(count, 128))
    for a, b in ends:
        reactor.remove_reader(a)
        a.close()
        b.close()


def test_fork_inside_a_callback_child_closes_there_and_returns(reactor):
    """Good manners must not make it worse: the copy is no running reactor, and the run ends with the same word."""
    trace = []
    with forked() as child:

        def callback():
            if child.fork():
                reactor.close()

        reactor.call_soon(callback)
        reactor.call_soon(trace.append, "parent")
        reactor.call_soon(reactor.stop)
        try:
            reactor.run_forever()
        except RuntimeError as exc:
            child.leave(str(exc), trace)
        assert child.result() == (refusal(), [])
    assert trace == ["parent"]


def test_fork_child_has_its_signals_back(reactor):
    """Else the child ignores SIGTERM, and its signals are told to the parent, whose handler then runs."""
    mine, parents = [], []
    before = signal.signal(signal.SIGUSR1, lambda *args: mine.append(args[0]))
    try:
        reactor.add_signal_handler(signal.SIGUSR1, parents.append, "parent's")

        def child():
            os.kill(os.getpid(), signal.SIGUSR1)
            return mine, parents, signal.set_wakeup_fd(-1), reactor.remove_signal_handler(signal.SIGUSR1)

        assert in_child(child) == ([signal.SIGUSR1], [], -1, False)
        run_turns(reactor, 3)
        assert parents == []
        os.kill(os.getpid(), signal.SIGUSR1)
        assert reactor.run_until(lambda: parents, deadline=patience(reactor)) is True
        reactor.remove_signal_handler(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_fork_child_makes_a_reactor_of_its_own(reactor_module, reactor, selector_class):
    """What the error asks for works, beside the copy and after it."""

    def child():
        trace = []
        with reactor_module.Reactor(selector_class()) as own:
            own.call_soon(trace.append, "own")
            run_turns(own, 1)
            return trace, in_child(lambda: raised(own.call_soon, print)) == refusal()

    assert in_child(child) == (["own"], True)


def test_fork_of_a_child_still_names_the_first_owner(reactor):
    """The grandchild's copy is the parent's reactor, not the child's."""
    assert in_child(lambda: in_child(lambda: raised(reactor.call_soon, print))) == refusal()


def test_fork_after_close_child_says_closed(reactor):
    """A reactor that nobody has any more belongs to nobody."""
    reactor.close()
    assert in_child(lambda: raised(reactor.call_soon, print)) == "Reactor is closed"


def test_fork_register_keeps_no_reactor_alive(reactor_module):
    """A list of live reactors that keeps them alive is a leak with a purpose."""
    reactor = reactor_module.Reactor()
    watched = weakref.ref(reactor)
    reactor.close()
    del reactor
    gc.collect()
    assert watched() is None


def test_fork_child_makes_no_call_that_the_parent_would_notice(pytestconfig, pair):
    """Counted at the kernel's door: between fork() and its end the child closes, and that is all."""
    needs_compiled(pytestconfig)
    import evloop._reactor

    table = Table()
    with evloop._reactor.Reactor() as reactor:
        reactor._use_syscalls(table.capsule)
        endpoint = evloop._reactor.Endpoint(reactor)
        reactor.register(pair[0], READ, endpoint)
        run_turns(reactor, 1)
        reactor.modify(pair[0], READ | WRITE, endpoint)
        before = dict(table.counts)

        def child():
            reactor.unregister(pair[0])
            raised(reactor.call_soon_threadsafe, print)
            raised(reactor.run_forever)
            reactor.close()
            return {name: count - before[name] for name, count in table.counts.items() if count != before[name]}

        assert in_child(child) == {"close": 2}
        reactor.unregister(pair[0])
