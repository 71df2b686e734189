"""The compiled reactor leaves nothing behind: callbacks, timers, fds, selectors, whole lives, forked children."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import selectors
import signal
import socket
import threading
import weakref

import pytest
from growth import fails, leaked
from twins import implementations, needs_compiled

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@pytest.fixture(scope="module")
def module(request):
    """The compiled reactor."""
    needs_compiled(request.config)
    import evloop._reactor

    return evloop._reactor


def pytest_generate_tests(metafunc):
    """Run what takes `twin` over both implementations."""
    if "twin" in metafunc.fixturenames:
        metafunc.parametrize("twin", implementations(metafunc.config))


def run_turns(reactor, count):
    """Turn *count* times, without waiting."""
    for _ in range(count):
        reactor.stop()
        reactor.run_forever()


@contextlib.contextmanager
def socket_pair():
    """Two connected non-blocking sockets, closed at the end of the block."""
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        two.setblocking(False)
        yield one, two


def quiet(module, *args, **options):
    """Return a reactor that keeps no exception: the log would."""
    reactor = module.Reactor(*args, **options)
    reactor.set_exception_handler(lambda reactor, context: None)
    return reactor


def raising(*args):
    raise ZeroDivisionError


# --- on a reactor that lives on ------------------------------------------------------------------------------------


def call_soon(module, reactor):
    handle = reactor.call_soon(print)
    repr(handle), handle.cancelled()
    handle.cancel()
    repr(handle)
    reactor.call_soon(list, (1, 2))
    reactor.call_soon(raising, 1, 2, 3)
    kept = []
    handle = reactor.call_soon(kept.append, kept)  # a cycle through the arguments
    kept.append(handle)
    reactor.call_soon_threadsafe(list)
    run_turns(reactor, 2)
    for callback, errors in ((None, TypeError), (5, TypeError)):
        fails(errors, reactor.call_soon, callback)
        fails(errors, reactor.call_later, 1, callback)
        fails(errors, reactor.call_soon_threadsafe, callback)
    fails(TypeError, reactor.call_soon, print, nonsense=1)


def flood(module, reactor):
    """The queue grows, and shrinks again."""
    for _ in range(20_000):
        reactor.call_soon(list)
    run_turns(reactor, 1)


def from_threads(module, reactor):
    thread = threading.Thread(target=reactor.call_soon_threadsafe, args=(reactor.stop,))
    thread.start()
    reactor.run_forever()
    thread.join()


def exits(module, reactor):
    """An exit leaves the run; what comes after it is for the next one."""

    def leave():
        raise SystemExit

    def interrupt():
        raise KeyboardInterrupt

    for callback, error in ((leave, SystemExit), (interrupt, KeyboardInterrupt)):
        reactor.call_soon(callback)
        reactor.call_soon(list)
        fails(error, run_turns, reactor, 1)
        run_turns(reactor, 1)


def timers(module, reactor):
    handles = [reactor.call_later(0 if number % 2 else 1000, list) for number in range(10)]
    handles.append(reactor.call_at(reactor.time(), raising))
    assert sorted(handles)[0] <= handles[0]
    repr(handles[0]), hash(handles[0]), handles[0].when(), handles[0] == handles[1]
    fails(TypeError, lambda: handles[0] < 5)
    run_turns(reactor, 1)
    for handle in handles:
        handle.cancel()
        handle.cancel()
    for delay in ("1", None, float("nan")):
        fails((TypeError, ValueError), reactor.call_later, delay, list)
        fails((TypeError, ValueError), reactor.call_at, delay, list)


def many_cancelled_timers(module, reactor):
    """The heap is made anew when half of it is cancelled."""
    for handle in [reactor.call_later(1000 + number, list) for number in range(250)]:
        handle.cancel()
    run_turns(reactor, 1)


def endpoints(module, reactor):
    class Endpoint(module.Endpoint):
        def on_readable(self):
            raise ZeroDivisionError

        def flush(self):
            raise ZeroDivisionError

    with socket_pair() as (one, two):
        endpoint = Endpoint(reactor)
        reactor.register(one, READ, endpoint)
        fails(KeyError, reactor.register, one, READ, endpoint)
        fails(KeyError, reactor.register, one, READ, module.Endpoint(reactor))
        reactor.modify(one, READ | WRITE, endpoint)
        fails(ValueError, reactor.modify, one, READ, module.Endpoint(reactor))
        two.send(b"x")
        reactor.flush_soon(endpoint)
        run_turns(reactor, 2)
        repr(endpoint), reactor.stats()
        reactor.unregister(one)
        fails(KeyError, reactor.unregister, one)
        fails(KeyError, reactor.modify, one, READ, endpoint)
    for fd, events in ((one, READ), (10_000_000, READ), ("text", READ), (0, 0), (0, 64)):
        fails((ValueError, OSError, OverflowError), reactor.register, fd, events, endpoint)
    fails(TypeError, reactor.register, 0, READ, object())
    fails(TypeError, reactor.flush_soon, object())
    fails(TypeError, module.Endpoint, object())


def watches(module, reactor):
    with socket_pair() as (one, two):
        two.send(b"x")
        for _ in range(3):
            reactor.add_reader(one, one.recv, 1)
            reactor.add_writer(one, raising)
            run_turns(reactor, 1)
        reactor.remove_writer(one), reactor.remove_reader(one), reactor.remove_reader(one)
        reactor.add_reader(one, list)
        two.close()
        run_turns(reactor, 1)
        reactor.remove_reader(one)


def closed_first(module, reactor):
    """The fd is closed before it is unregistered: an event for nobody, and a number that somebody else gets."""
    with socket_pair() as (one, two):
        reactor.add_reader(one, list)
        number = one.fileno()
        with socket.socket(fileno=os.dup(number)) as copy:
            two.send(b"x")
            one.close()
            run_turns(reactor, 1)
            reactor.remove_reader(number)
            run_turns(reactor, 1)
            copy.recv(1)


def ready_queue(module, reactor):
    queue = module.ReadyQueue()
    queue.extend(object() for _ in range(100))
    queue[0], list(queue), len(queue), bool(queue), len(repr(queue))
    queue.append(queue)  # a cycle
    queue.popleft()
    queue.clear()
    fails(IndexError, queue.popleft)


def signals(module, reactor):
    reactor.add_signal_handler(signal.SIGUSR1, list)
    os.kill(os.getpid(), signal.SIGUSR1)
    run_turns(reactor, 2)
    reactor.remove_signal_handler(signal.SIGUSR1)


# --- whole lives -----------------------------------------------------------------------------------------------------


def life(module, make=lambda module: None):
    with quiet(module, make(module)) as reactor, socket_pair() as (one, two):
        reactor.add_reader(one, one.recv, 1)
        reactor.call_later(1000, lambda: reactor)
        two.send(b"x")
        run_turns(reactor, 2)
        reactor.call_soon(lambda: reactor)
    for method in (reactor.call_soon, reactor.call_soon_threadsafe):
        fails(RuntimeError, method, list)
    fails(RuntimeError, reactor.register, 0, READ, object())


def life_that_fails(module):
    """A selector that does not take the wake-up fd."""

    class Full(selectors.SelectSelector):
        def register(self, *args):
            raise OSError("full")

    with Full() as selector:
        fails(OSError, module.Reactor, selector)
    fails(TypeError, module.Reactor, nonsense=1)


def life_nobody_ends(module):
    """Neither closed nor empty: what the collector finds."""
    with socket_pair() as (one, two):
        reactor = quiet(module)
        reactor.add_reader(one, lambda: reactor)
        reactor.flush_soon(module.Endpoint(reactor))
        reactor.call_soon(lambda: reactor)
        reactor.call_later(1000, lambda: reactor)
        two.send(b"x")


def selector(module):
    with module.EpollSelector() as chosen, socket_pair() as (one, two):
        chosen.register(one, READ, object())
        chosen.modify(one, READ | WRITE, object())
        two.send(b"x")
        chosen.select(0), chosen.select(0.0001)
        watched = chosen.get_map()
        watched[one], len(watched), list(watched), chosen.get_key(one)
        for wrong in (two, "text"):
            fails((KeyError, ValueError), chosen.unregister, wrong)
            fails((KeyError, ValueError), chosen.modify, wrong, READ)
        fails(KeyError, chosen.register, one, READ)
        number = one.fileno()
        one.close()
        chosen.unregister(number)
    fails((ValueError, RuntimeError), chosen.register, two, READ)


def many_fds(module):
    """The table by fd grows with the largest number."""
    with module.EpollSelector() as chosen, contextlib.ExitStack() as stack:
        for _ in range(60):
            for sock in stack.enter_context(socket_pair()):
                chosen.register(sock, WRITE, object())
        assert len(chosen.select(0)) == 120


ON_ONE = [call_soon, from_threads, exits, timers, many_cancelled_timers, endpoints, watches, closed_first, ready_queue]
LIVES = {
    "closed": life,
    "over another selector": lambda module: life(module, lambda module: selectors.PollSelector()),
    "refused": life_that_fails,
    "abandoned": life_nobody_ends,
    "selector alone": selector,
    "many fds": many_fds,
}


@pytest.mark.parametrize("operation", [*ON_ONE, signals], ids=lambda operation: operation.__name__)
def test_reactor_operation_leaves_nothing_behind(module, operation):
    """On one reactor, which lives for months."""
    with quiet(module) as reactor:
        assert leaked(lambda: operation(module, reactor)) == {}


@pytest.mark.slow
def test_reactor_flood_leaves_nothing_behind(module):
    """The ring that it needs is given back."""
    with quiet(module) as reactor:
        assert leaked(lambda: flood(module, reactor), rounds=10) == {}


@pytest.mark.parametrize("operation", LIVES.values(), ids=LIVES)
def test_reactor_life_leaves_nothing_behind(module, operation):
    """Tests, and programs that connect now and then, make many."""
    assert leaked(lambda: operation(module)) == {}


@pytest.mark.slow
def test_reactor_forked_children_leave_nothing_in_the_parent(module):
    """Neither does the parent's copy of the list of reactors grow, nor is a reactor kept alive by it."""

    def operation():
        with quiet(module) as reactor, socket_pair() as (one, _):
            reactor.add_reader(one, list)
            pid = os.fork()
            if not pid:
                os._exit(0 if reactor.is_closed() else 1)
            assert os.waitpid(pid, 0)[1] == 0

    assert leaked(operation, rounds=20) == {}


@pytest.mark.parametrize("closed", [True, False])
def test_reactor_dies_with_its_last_user(twin, closed):
    """It holds hundreds of KiB; it is in cycles of its own, so the collector is who ends it."""
    module = importlib.import_module("evloop._reactor" if twin == "cython" else "evloop._reactor_py")
    reactor = module.Reactor(selectors.SelectSelector())
    handles = [reactor.call_soon(list), reactor.call_later(1000, list)]
    run_turns(reactor, 1)
    reactor.call_soon(list)
    gone = weakref.ref(reactor)
    if closed or twin == "python":  # whose sockets would warn
        reactor.close()
    handles.clear()
    del reactor
    gc.collect()
    assert gone() is None
