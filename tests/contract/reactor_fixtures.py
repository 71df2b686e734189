"""What the tests of the reactor share: each implementation over each selector, a manual clock, other threads."""

from __future__ import annotations

import importlib
import itertools
import selectors
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from twins import implementations

SELECTORS = ["own", "SelectSelector", "PollSelector", "EpollSelector"]
PATIENCE = 20.0  # seconds; only a failing test waits as long

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


def pytest_generate_tests(metafunc):
    """Run each test that takes `reactor_module` over both twins; a test module has to import this."""
    if "reactor_module" in metafunc.fixturenames:
        metafunc.parametrize("reactor_module", implementations(metafunc.config), indirect=True, scope="session")


@pytest.fixture(scope="session")
def reactor_module(request):
    """One implementation of the reactor, imported by name so that its absence fails the run."""
    return importlib.import_module("evloop._reactor" if request.param == "cython" else "evloop._reactor_py")


@pytest.fixture(params=SELECTORS)
def selector_class(request):
    """The compiled selector, which the pure reactor must be able to use, too, or one of the standard library's."""
    if request.param != "own":
        return getattr(selectors, request.param)
    name = "_reactor" if "cython" in implementations(request.config) else "_reactor_py"
    return importlib.import_module(f"evloop.{name}").EpollSelector


@pytest.fixture
def reactor(reactor_module, selector_class):
    """A reactor of one implementation over one selector; closed at the end."""
    with reactor_module.Reactor(selector_class()) as reactor:
        yield reactor


class ManualClock(selectors.DefaultSelector):
    """A selector that never sleeps: it moves its own clock by the time it was asked to wait, and records it."""

    def __init__(self):
        super().__init__()
        self.now = 1000.0
        self.waits = []
        self.slept = False
        self.early = 0  # how often a wait ends half-way, as a kernel may let it

    def time(self):
        return self.now

    def select(self, timeout=None):
        if timeout or not self.slept:  # the look that follows a wait is no wait
            self.waits.append(timeout)
        events = super().select(0)
        self.slept = bool(timeout) and not events
        if not events and timeout:
            if self.early:
                self.early -= 1
                timeout /= 2
            self.now += timeout
        return events


@pytest.fixture
def clock():
    """A manual clock that is also the selector."""
    return ManualClock()


@pytest.fixture
def timed(reactor_module, clock):
    """A reactor on the manual clock; closed at the end."""
    with reactor_module.Reactor(clock, clock=clock.time) as reactor:
        yield reactor


class CountingSelector(selectors.DefaultSelector):
    """A selector that counts how often the wake-up socket, the first thing a reactor registers, was ready."""

    def __init__(self):
        super().__init__()
        self.wakeups = 0
        self.asleep = threading.Event()
        self.wakeup_fd = None

    def register(self, fileobj, events, data=None):
        key = super().register(fileobj, events, data)
        if self.wakeup_fd is None:
            self.wakeup_fd = key.fd
        return key

    def select(self, timeout=None):
        if timeout is None or timeout > 0:
            self.asleep.set()
        events = super().select(timeout)
        self.asleep.clear()
        self.wakeups += sum(key.fd == self.wakeup_fd for key, _ in events)
        return events


@contextmanager
def socket_pair():
    """Two connected non-blocking sockets, closed at the end of the block."""
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)
        b.setblocking(False)
        yield a, b


@pytest.fixture
def pair():
    """Two connected non-blocking sockets."""
    with socket_pair() as ends:
        yield ends


@contextmanager
def running_thread(target, *args):
    """Run *target* in a thread beside the block, and have it end with it."""
    errors = []

    def body():
        try:
            target(*args)
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert errors == []


def patience(reactor):
    """Return the absolute deadline of a test that goes wrong."""
    return reactor.time() + PATIENCE


def run_turns(reactor, count):
    """Turn *count* times, without waiting."""
    for _ in range(count):
        reactor.stop()
        reactor.run_forever()


def recording_endpoint(module, trace, name, **actions):
    """Return an endpoint that appends (name, what) to *trace*, then runs the action of that name, if there is one."""
    return _recorder_class(module)(trace, name, actions)


def _recorder_class(module):
    class Recorder(module.Endpoint):
        def __init__(self, trace, name, actions):
            super().__init__(actions.pop("reactor"))
            self.trace, self.name, self.actions = trace, name, actions

        def _did(self, what):
            self.trace.append((self.name, what))
            if what in self.actions:
                self.actions[what]()

        def on_readable(self):
            self._did("readable")

        def on_writable(self):
            self._did("writable")

        def flush(self):
            self._did("flush")

        def __repr__(self):
            return f"<Recorder {self.name}>"

    return Recorder


def wait_for(condition):
    """Wait in another thread than the reactor's until *condition()* is true; fail when patience ends."""
    deadline = time.monotonic() + PATIENCE
    for pause in itertools.chain([0.0] * 100, itertools.repeat(0.001)):
        if condition():
            return
        assert time.monotonic() < deadline, "the condition did not come true"
        threading.Event().wait(pause)
