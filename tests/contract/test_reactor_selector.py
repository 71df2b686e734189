"""The compiled reactor's own selector: a selectors.BaseSelector by itself, and the way in that the reactor uses."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import errno
import gc
import os
import resource
import select
import selectors
import socket
import sys
import time
import weakref
from contextlib import ExitStack

import pytest
from reactor_fixtures import (
    READ,
    WRITE,
    pair,
    patience,
    pytest_generate_tests,
    reactor_module,
    recording_endpoint,
    run_turns,
    running_thread,
    socket_pair,
    wait_for,
)
from twins import needs_compiled


@pytest.fixture
def selector(reactor_module):
    """The selector that a reactor makes for itself, alone."""
    with reactor_module.EpollSelector() as selector:
        yield selector


@pytest.fixture
def reactor(reactor_module):
    """A reactor over its own selector."""
    with reactor_module.Reactor() as reactor:
        yield reactor


@pytest.fixture
def compiled(request):
    """The compiled module, for what it alone has."""
    needs_compiled(request.config)
    import evloop._reactor

    return evloop._reactor


def poll(fd):
    """Return what the kernel was told to watch *fd*'s epoll for, as {fd: mask}."""
    watched = {}
    with open(f"/proc/self/fdinfo/{fd}") as info:
        for line in info:
            if line.startswith("tfd:"):
                words = line.split()
                watched[int(words[1])] = int(words[3], 16) & 0xFFF
    return watched


# --- by itself --------------------------------------------------------------------------------------------------------


def test_selector_is_a_base_selector_with_live_map(selector, pair):
    """Whoever takes a BaseSelector must be able to take ours."""
    assert isinstance(selector, selectors.BaseSelector)
    key = selector.register(pair[0], READ, "data")
    assert key == selectors.SelectorKey(pair[0], pair[0].fileno(), READ, "data")
    registered = selector.get_map()
    assert (len(registered), list(registered), registered[pair[0]]) == (1, [pair[0].fileno()], key)
    assert selector.get_key(pair[0].fileno()) == key
    assert pair[0] in registered
    assert pair[1] not in registered
    assert selector.unregister(pair[0]) == key
    assert len(registered) == 0


def test_selector_select_reports_key_and_mask(selector, pair):
    """Both directions, each when it is so, and only what was asked for."""
    selector.register(pair[0], READ | WRITE, "data")
    assert [(key.data, mask) for key, mask in selector.select(0)] == [("data", WRITE)]
    pair[1].send(b"x")
    assert [mask for _, mask in selector.select(0)] == [READ | WRITE]
    assert selector.modify(pair[0], READ, "new").data == "new"
    assert [(key.data, key.events, mask) for key, mask in selector.select()] == [("new", READ, READ)]


def test_selector_data_may_be_none_and_fd_an_int(selector, pair):
    """The defaults of the interface."""
    selector.register(pair[0].fileno(), WRITE)
    ((key, mask),) = selector.select(-5)
    assert (key.fileobj, key.data, mask) == (pair[0].fileno(), None, WRITE)


def test_selector_timeout_is_never_early(selector):
    """Rounding down would have a timer's owner spin for the rest of a millisecond."""
    for timeout in (0.0001, 0.0015, 0.0101):
        before = time.monotonic()
        assert selector.select(timeout) == []
        assert time.monotonic() - before >= timeout


@pytest.mark.parametrize("events", [0, 4, -1, READ | 8, None])
def test_selector_bad_events_raise_value_error(selector, pair, events):
    """As the standard library's."""
    with pytest.raises(ValueError, match="Invalid events"):
        selector.register(pair[0], events)
    assert len(selector.get_map()) == 0


def test_selector_misuse_raises_what_the_standard_one_raises(selector, pair):
    """Type by type: programs catch these."""
    selector.register(pair[0], READ)
    with pytest.raises(KeyError, match="already registered"):
        selector.register(pair[0], READ)
    for method in (selector.unregister, selector.get_key, lambda fd: selector.modify(fd, READ)):
        with pytest.raises(KeyError, match="not registered"):
            method(pair[1])
        with pytest.raises(ValueError, match="Invalid file"):
            method("text")
    with pytest.raises(PermissionError), open(__file__) as regular:
        selector.register(regular, READ)
    with pytest.raises(OSError, match="Bad file"):
        selector.register(999_999, READ)
    assert len(selector.get_map()) == 1


def test_selector_closed_refuses_and_closes_twice(selector, pair):
    """A closed selector holds nothing, neither fds nor objects."""
    selector.register(pair[0], READ, pair)
    fd = selector.fileno()
    selector.close()
    selector.close()
    assert selector.get_map() is None
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    for use in (lambda: selector.register(pair[0], READ), lambda: selector.select(0), selector.fileno):
        with pytest.raises(ValueError):
            use()
    with pytest.raises(RuntimeError):
        selector.get_key(pair[0])


def test_selector_nan_timeout_raises_value_error(selector):
    """NaN is neither a wait nor none."""
    with pytest.raises(ValueError):
        selector.select(float("nan"))


def test_selector_second_waiting_thread_is_refused(compiled):
    """One buffer for events: two waiting threads would overwrite each other's."""
    with compiled.EpollSelector() as selector, socket_pair() as (a, b):
        selector.register(a, READ)
        with running_thread(selector.select, 20):
            refused = []

            def try_it():
                try:
                    selector.select(0)
                except RuntimeError as exc:
                    refused.append(str(exc))
                return refused

            wait_for(try_it)
            b.send(b"x")
        assert "another thread" in refused[0]


def test_selector_more_events_than_its_array_holds_come_all(compiled):
    """As from the standard library's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    ends = [socket.socketpair() for _ in range(1100)]
    try:
        with compiled.EpollSelector() as selector:
            for a, _ in ends:
                selector.register(a, WRITE)
            assert [len(selector.select(0)) for _ in range(2)] == [1100, 1100]
    finally:
        for both in ends:
            both[0].close()
            both[1].close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("count", [100, 255, 300, 383])
def test_many_fds_beside_a_duplicate_of_one_that_was_closed_first_have_their_turns(compiled, count):
    """The kernel goes on reporting the duplicate, under a number that is another's by now: nobody may pay for it."""
    with compiled.Reactor() as reactor:
        old, other = socket.socketpair()
        number = old.fileno()
        reactor.add_reader(number, int)
        other.send(b"x")
        duplicate = old.dup()
        old.close()
        reactor.remove_reader(number)
        ends, seen = [socket.socketpair() for _ in range(count)], set()
        assert number in {a.fileno() for a, _ in ends}
        for a, b in ends[1:127] + ends[:1] + ends[127:]:  # the number's next owner in the middle of the kernel's list
            b.send(b"x")
            reactor.add_reader(a, seen.add, a.fileno())
        run_turns(reactor, 2)
        assert len(seen) == count
        for a, b in ends:
            reactor.remove_reader(a)
            a.close()
            b.close()
        for sock in (other, duplicate):
            sock.close()


def test_selector_modify_and_back_costs_no_system_call(compiled, pair):
    """Changes are told before the wait, once: what was taken back is not told at all."""
    with compiled.EpollSelector() as selector:
        selector.register(pair[0], READ)
        fd = pair[0].fileno()
        selector.modify(pair[0], READ | WRITE)
        assert poll(selector.fileno())[fd] == select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP
        selector.select(0)
        assert poll(selector.fileno())[fd] & select.EPOLLOUT
        selector.modify(pair[0], READ)
        selector.modify(pair[0], READ | WRITE)
        assert [mask for _, mask in selector.select(0)] == [WRITE]


def test_selector_modify_of_a_closed_fd_is_told_by_the_wait(compiled):
    """The price of telling late; the selector goes on with the others."""
    with compiled.EpollSelector() as selector, socket_pair() as (a, b):
        fd = a.fileno()
        selector.register(fd, READ)
        selector.register(b, WRITE)
        a.close()
        selector.modify(fd, WRITE)
        with pytest.raises(OSError, match="Bad file"):
            selector.select(0)
        assert len(selector.select(0)) == 1
        selector.unregister(fd)


# --- under a reactor --------------------------------------------------------------------------------------------------


def test_reactor_fd_reused_ten_thousand_times_pokes_the_owner_alone(reactor_module, reactor):
    """A busy server's numbers come round all day: each generation must hear of its own file and of nothing else."""
    trace = []
    for generation in range(10_000):
        a, b = socket.socketpair()
        endpoint = recording_endpoint(reactor_module, trace, generation, reactor=reactor)
        reactor.register(a.fileno(), READ, endpoint)
        if generation % 2:
            b.send(b"x")
            run_turns(reactor, 1)
        reactor.unregister(a.fileno())
        endpoint.closed = True
        a.close()
        b.close()
    assert trace == [(generation, "readable") for generation in range(1, 10_000, 2)]
    assert (reactor.stats()["fds"], reactor.stats()["stale"]) == (0, 0)


def test_reactor_event_of_a_number_given_back_is_stale_and_nobodys(compiled, pair):
    """Closed before unregistered, with a duplicate alive: epoll goes on reporting the old file under the old number."""
    trace = []
    with compiled.Reactor() as reactor, socket_pair() as (a, b):
        number = a.fileno()
        reactor.register(number, READ, recording_endpoint(compiled, trace, "old", reactor=reactor))
        duplicate = a.dup()
        os.dup2(pair[0].fileno(), number)  # what close and a new accept do, in one step
        reactor.unregister(number)
        reactor.register(number, READ, recording_endpoint(compiled, trace, "new", reactor=reactor))
        b.send(b"for the old one")
        run_turns(reactor, 1)
        assert (trace, reactor.stats()["stale"]) == ([], 1)
        pair[1].send(b"for the new one")
        run_turns(reactor, 1)
        assert trace == [("new", "readable")]
        reactor.unregister(number)
        duplicate.close()


@pytest.mark.parametrize("how", ["hang-up", "reset"])
def test_reactor_paused_endpoint_is_told_once_that_the_peer_is_gone(compiled, how):
    """A paused connection must learn of its end without reading, and must not spin if it does nothing about it."""
    trace = []
    with ExitStack() as stack:
        reactor = stack.enter_context(compiled.Reactor())
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        mine = stack.enter_context(socket.create_connection(listener.getsockname()))
        peer, _ = listener.accept()
        endpoint = recording_endpoint(compiled, trace, "a", reactor=reactor)
        reactor._want(mine.fileno(), READ, endpoint)
        reactor._want(mine.fileno(), 0, endpoint)
        peer.send(b"unread")
        run_turns(reactor, 1)
        assert trace == []
        if how == "hang-up":
            mine.shutdown(socket.SHUT_WR)
        else:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        reactor.run_until(lambda: trace, deadline=patience(reactor))
        run_turns(reactor, 3)
        assert trace == [("a", "readable")]
        reactor._want(mine.fileno(), READ, endpoint)
        run_turns(reactor, 1)
        assert trace == [("a", "readable")] * 2
        reactor.unregister(mine.fileno())


def test_reactor_change_of_a_closed_fd_is_reported_with_the_endpoint(compiled):
    """What the kernel refuses before the wait is the endpoint's trouble, and not the end of the run."""
    seen, trace = [], []
    with compiled.Reactor() as reactor, socket_pair() as (a, _):
        reactor.set_exception_handler(lambda _, context: seen.append((context["endpoint"], context["exception"].errno)))
        endpoint = recording_endpoint(compiled, trace, "a", reactor=reactor)
        fd = a.fileno()
        reactor.register(fd, READ, endpoint)
        a.close()
        reactor.modify(fd, WRITE, endpoint)
        run_turns(reactor, 2)
        assert seen == [(endpoint, errno.EBADF)]
        reactor.unregister(fd)


def test_endpoint_is_registered_once(reactor_module, reactor, pair):
    """An endpoint has one fd; a second registration would leave the first one without an owner."""
    endpoint = reactor_module.Endpoint(reactor)
    reactor.register(pair[0], READ, endpoint)
    with pytest.raises(KeyError, match="registered already"):
        reactor.register(pair[1], READ, endpoint)
    with pytest.raises(ValueError, match="belongs to"):
        reactor.modify(pair[0], READ, reactor_module.Endpoint(reactor))
    reactor.unregister(pair[0])
    reactor.register(pair[1], READ, endpoint)
    reactor.unregister(pair[1])


def test_want_registers_modifies_and_pauses(reactor_module, reactor, pair):
    """One call for all that a connection has to say; said twice it does nothing."""
    trace = []
    endpoint = recording_endpoint(reactor_module, trace, "a", reactor=reactor)
    fd = pair[0].fileno()
    pair[1].send(b"x")
    for events in (0, READ, READ, READ | WRITE, 0, 0, WRITE):
        reactor._want(fd, events, endpoint)
        run_turns(reactor, 1)
    expected = [("a", "readable")] * 3 + [("a", "writable")] * 2
    assert sorted(trace) == expected
    with pytest.raises(ValueError, match="is registered for fd"):
        reactor._want(pair[1].fileno(), READ, endpoint)
    reactor.unregister(fd)
    with pytest.raises(ValueError):
        reactor._want(fd, 8, endpoint)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_reactor_in_a_cycle_is_collected_unclosed(reactor_module):
    """Through the FIFO, the heap, the table of fds and a callback: the garbage collector must see all of them."""

    class Marker:
        pass

    def make():
        marker = Marker()
        a, b = socket.socketpair()
        with a, b:
            reactor = reactor_module.Reactor()
            reactor.marker = marker
            endpoint = recording_endpoint(reactor_module, [], "a", reactor=reactor)
            reactor.register(a.fileno(), READ, endpoint)
            reactor.call_soon(lambda: reactor)
            reactor.call_later(1000, lambda: reactor)
            reactor.flush_soon(endpoint)
            if reactor_module.IMPLEMENTATION == "python":
                reactor._wakeup.close()  # its sockets would warn
                reactor._selector.close()
        return weakref.ref(marker)

    gone = make()
    gc.collect()
    assert gone() is None


def test_reactor_life_leaves_no_object_behind(reactor_module, pair):
    """Handles, timers, endpoints and events in numbers: what is left afterwards is what was there before."""

    def live():
        trace = []
        with reactor_module.Reactor() as reactor:
            reactor.set_exception_handler(lambda *_: None)  # the log would keep the exceptions
            for number in range(50):
                endpoint = recording_endpoint(reactor_module, trace, number, reactor=reactor)
                reactor.register(pair[0], READ, endpoint)
                reactor.call_soon(trace.append, endpoint)
                reactor.call_later(0 if number % 2 else 1000, trace.append, endpoint).cancel()
                reactor.call_later(0, lambda: 1 / 0) if number == 7 else reactor.call_later(0, trace.append, endpoint)
                reactor.flush_soon(endpoint)
                run_turns(reactor, 1)
                reactor.unregister(pair[0])
            reactor.add_reader(pair[0], trace.append, trace)
            run_turns(reactor, 1)
            reactor.remove_reader(pair[0])

    def count():
        gc.collect()
        return len(gc.get_objects())

    pair[1].send(b"x")
    live()
    before = count()
    for _ in range(3):
        live()
    assert count() - before < 20


def test_endpoint_refcount_is_as_before_after_registering(reactor_module, reactor, pair):
    """The table of fds owns one reference, no more, and gives it back."""
    endpoint = reactor_module.Endpoint(reactor)
    before = sys.getrefcount(endpoint)
    for _ in range(100):
        reactor.register(pair[0].fileno(), WRITE, endpoint)
        run_turns(reactor, 1)
        reactor.modify(pair[0].fileno(), READ, endpoint)
        reactor.unregister(pair[0].fileno())
    assert sys.getrefcount(endpoint) == before


def test_none_keeps_its_references_through_the_ring(compiled):
    """The ring is filled with None by hand; one reference too few a callback would end the process after a day."""
    with compiled.Reactor() as reactor:
        before = sys.getrefcount(None)
        for _ in range(200):
            for _ in range(300):
                reactor.call_soon(len, ())
            run_turns(reactor, 1)
        assert abs(sys.getrefcount(None) - before) < 1000


# --- the queue --------------------------------------------------------------------------------------------------------


class Entry:
    """Anything with _run() and _cancelled."""

    _cancelled = False

    def __init__(self, number):
        self.number = number

    def _run(self):
        pass


def test_ready_queue_behaves_as_a_deque(compiled):
    """asyncio's inherited code, and its tests, treat it as one."""
    queue = compiled.ReadyQueue()
    assert (len(queue), bool(queue), list(queue)) == (0, False, [])
    with pytest.raises(IndexError):
        queue.popleft()
    entries = [Entry(number) for number in range(1000)]
    for entry in entries[:500]:
        queue.append(entry)
    assert [queue.popleft() for _ in range(300)] == entries[:300]
    queue.extend(entries[500:])
    assert list(queue) == entries[300:]
    assert (queue[0], queue[-1], len(queue), bool(queue)) == (entries[300], entries[-1], 700, True)
    assert entries[400] in queue
    with pytest.raises(IndexError):
        queue[700]
    queue.clear()
    assert list(queue) == []


def test_ready_queue_gives_a_flood_s_memory_back(compiled):
    """A million callbacks once must not cost eight megabytes for ever."""
    queue = compiled.ReadyQueue()
    entry = Entry(0)
    for _ in range(100_000):
        queue.append(entry)
    for _ in range(100_000):
        queue.popleft()
    (ring,) = [thing for thing in gc.get_referents(queue) if isinstance(thing, list)]
    assert sys.getsizeof(ring) < 2000


def test_ready_endpoint_taken_out_by_hand_is_queued_again(reactor_module, reactor, pair):
    """asyncio's code pops and clears the queue itself; an endpoint that believed itself queued would sleep for ever."""
    trace = []
    endpoint = recording_endpoint(reactor_module, trace, "a", reactor=reactor)
    reactor.register(pair[0], READ, endpoint)
    pair[1].send(b"x")
    reactor._process_events(reactor._selector.select(0))
    assert reactor._ready.popleft() is endpoint
    reactor._process_events(reactor._selector.select(0))
    reactor._ready.clear()
    run_turns(reactor, 1)
    assert trace == [("a", "readable")]
    reactor.unregister(pair[0])


def test_ready_assigned_takes_the_contents_over(reactor_module, reactor):
    """BaseEventLoop's __init__ does it."""
    ran = []
    reactor.call_soon(ran.append, "dropped")
    other = type(reactor._ready)()
    reactor._ready = other
    assert len(reactor._ready) == 0
    reactor.call_soon(ran.append, "ran")
    run_turns(reactor, 1)
    assert ran == ["ran"]


def test_core_without_init_behaves_as_closed(compiled):
    """A subclass that forgets to call it gets an error, and no crash."""

    class Forgetful(compiled.Core):
        def __init__(self):
            pass

    core = Forgetful()
    for use in (lambda: core.call_soon(print), lambda: core.register(0, READ, None), lambda: core.add_reader(0, print)):
        with pytest.raises(RuntimeError, match="closed"):
            use()
    assert core.remove_reader(0) is False
    core._close_core()


def test_handle_without_a_tuple_is_refused(compiled):
    """What C code reads as a tuple has to be one."""
    with compiled.Reactor() as reactor:
        for wrong in (None, [], "ab"):
            with pytest.raises(TypeError):
                compiled.Handle(print, wrong, reactor)
            with pytest.raises(TypeError):
                reactor._watch(0, READ, print, wrong)
