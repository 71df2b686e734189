"""The table of system calls of the compiled reactor: another one can be put in; its errors are the kernel's."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import errno

import pytest
from kernel import Table
from reactor_fixtures import READ, pair, patience, recording_endpoint, run_turns
from twins import needs_compiled


@pytest.fixture
def compiled(request):
    """The compiled module."""
    needs_compiled(request.config)
    import evloop._reactor

    return evloop._reactor


def test_table_every_call_of_the_reactor_goes_through_it(compiled, pair):
    """A simulated kernel that is asked for less than everything simulates nothing."""
    table, trace = Table(), []
    with compiled.Reactor() as reactor, compiled.Reactor() as witness:
        reactor._use_syscalls(table.capsule)
        reactor.register(pair[0], READ, recording_endpoint(compiled, trace, "a", reactor=reactor))
        pair[1].send(b"x")
        reactor.call_soon_threadsafe(len, ())
        reactor.call_later(0, trace.append, "timer")
        run_turns(reactor, 2)
        witness.call_soon_threadsafe(len, ())
        run_turns(witness, 2)
        reactor.unregister(pair[0])
    assert trace == [("a", "readable"), "timer", ("a", "readable")]
    used = {name: count for name, count in table.counts.items() if name != "clock_gettime" and count}
    # eventfd: created, registered, written, read, closed; epoll: created, closed; the socket: added and deleted
    assert used == {
        "epoll_create1": 1,
        "epoll_ctl": 3,
        "epoll_wait": 2,
        "eventfd": 1,
        "close": 2,
        "read": 1,
        "write": 1,
    }
    assert table.counts["clock_gettime"] >= 2


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM])
def test_table_kernel_without_epoll_pwait2_waits_in_milliseconds_rounded_up(compiled, error):
    """Older kernels lack it, older containers forbid it; a timer must not be early there either."""
    waits = []
    table = Table(epoll_pwait2=lambda *_: error, epoll_wait=lambda _fd, _events, _room, wait: waits.append(wait))
    done = []
    with compiled.Reactor() as reactor:
        reactor._use_syscalls(table.capsule)
        start = reactor.time()
        for delay in (0.0101, 0.0151):
            reactor.call_later(delay, lambda: done.append(reactor.time()))
        reactor.run_until(lambda: len(done) == 2, deadline=patience(reactor))
    assert table.counts["epoll_pwait2"] == 1
    assert waits[0] == 11
    assert done[0] - start >= 0.0101
    assert done[1] - start >= 0.0151


def test_table_interrupted_wait_is_a_turn_without_events(compiled):
    """EINTR without a signal of Python's: a debugger, for one, causes it."""
    errors = [errno.EINTR] * 3
    table = Table(epoll_pwait2=lambda *_: errors.pop() if errors else None)
    ran = []
    with compiled.Reactor() as reactor:
        reactor._use_syscalls(table.capsule)
        reactor.call_later(0.01, ran.append, "ran")
        reactor.run_until(lambda: ran, deadline=patience(reactor))
        assert (errors, ran) == ([], ["ran"])


def test_table_failing_wait_raises_and_the_reactor_can_run_again(compiled):
    """An error that is nobody's in particular is told to whoever runs the reactor."""
    errors = [errno.EINVAL]
    table = Table(epoll_wait=lambda *_: errors.pop() if errors else None)
    with compiled.Reactor() as reactor:
        reactor._use_syscalls(table.capsule)
        with pytest.raises(OSError, match="Invalid argument"):
            run_turns(reactor, 1)
        run_turns(reactor, 1)


def test_table_no_memory_for_a_registration_raises_and_registers_nothing(compiled, pair):
    """ENOSPC: the kernel's bound on watches of one user."""
    errors = []
    table = Table(epoll_ctl=lambda *_: errors.pop() if errors else None)
    with compiled.Reactor() as reactor:
        reactor._use_syscalls(table.capsule)
        errors.append(errno.ENOSPC)
        endpoint = compiled.Endpoint(reactor)
        with pytest.raises(OSError, match="No space"):
            reactor.register(pair[0], READ, endpoint)
        assert reactor.stats()["fds"] == 0
        reactor.register(pair[0], READ, endpoint)
        reactor.unregister(pair[0])


def test_table_changed_with_registered_fds_raises(compiled, pair):
    """The new epoll would know nothing of them."""
    table = Table()
    with compiled.Reactor() as reactor:
        reactor.add_reader(pair[0], print)
        with pytest.raises(RuntimeError, match="registered fds"):
            reactor._use_syscalls(table.capsule)
        reactor.remove_reader(pair[0])


def test_table_that_is_no_capsule_of_ours_raises(compiled):
    """A pointer to anything else would be called."""
    with compiled.Reactor() as reactor:
        for wrong in (None, 5, object()):
            with pytest.raises(ValueError):
                reactor._use_syscalls(wrong)
        run_turns(reactor, 1)
