"""What the tests of coroutine handlers share: an event loop that turns when it is told to, with raw peers around it.

A stage stands for one way to run sessions: whose selector, debug mode or not, which twin of the connection.

Rule: nothing in this file may know how a session works inside.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import selectors
import time

import pytest
from kernel import kernel_of
from peers import PATIENCE, U32, Peer, tcp_pair
from twins import implementations

from evloop import Limits
from evloop._connection_py import Connection as PureConnection
from evloop.aio.loop import EventLoop
from evloop.aio.sessions import coroutine_protocol

LOOPS = ["own", "foreign", "debug"]


def stages(config):
    """Return the names of all stages: twin of the connection, kind of loop.  The core is the one of the process."""
    return [f"{twin}-{kind}" for twin in implementations(config) for kind in LOOPS]


def twin_of(name):
    """Return one twin of the connection."""
    return PureConnection if name == "python" else importlib.import_module("evloop._connection").Connection


class Stage:
    """An event loop, and all that plays on it.

    Attributes:
        loop: turned by :meth:`turn` and what uses it, never waiting.
        lost: (connection, exc) of each that has ended, as on_lost was called.
        errors: what escaped to the loop's exception handler; a test that expects something takes it out.
    """

    def __init__(self, name):
        twin, kind = name.split("-")
        self.kind = kind
        self.connection_class = twin_of(twin)
        self.loop = EventLoop(selectors.SelectSelector() if kind == "foreign" else None)
        self.loop.set_debug(kind == "debug")
        self.errors = []
        self.loop.set_exception_handler(lambda loop, context: self.errors.append(context))
        self.peers = []
        self.connections = []
        self.lost = []
        self.kernel = None

    def spy(self):
        """Return a `Kernel` of the connections to come."""
        loop = self.loop
        loop._remove_reader(loop._ssock)  # asyncio's own fd, for signals: the calls cannot change under it
        self.kernel = kernel_of(self.connection_class, loop)
        loop._add_reader(loop._ssock, loop._read_from_self)
        return self.kernel

    def connect(self, handler=None, *, protocol=None, pair=tcp_pair, framing=U32, reading=True, **limits):
        """Return a connection whose frames *handler* takes, and its peer; it does not linger unless told so."""
        limits.setdefault("linger", 0)
        ours, theirs = pair()
        peer = Peer(theirs, reading)
        self.peers.append(peer)
        if self.kernel is not None:
            ours = self.kernel.attach(ours)
        ours.setblocking(False)
        conn = self.connection_class(
            self.loop,
            ours,
            protocol or coroutine_protocol(handler, self.loop),
            framing=framing,
            limits=Limits(**limits),
            on_lost=lambda *args: self.lost.append(args),
        )
        self.connections.append(conn)
        if self.kernel is not None:
            self.kernel.adopt(conn)
        conn.start()
        return conn, peer

    def turn(self, count=1):
        """Turn the loop *count* times without waiting; the peers move after each turn."""
        for _ in range(count):
            self.loop.stop()
            self.loop.run_forever()
            for peer in self.peers:
                peer.step()

    def until(self, predicate):
        """Turn until *predicate()* is true; fail when patience ends."""
        deadline = time.monotonic() + PATIENCE
        while not predicate():
            assert time.monotonic() < deadline, f"the condition did not come true; errors: {self.errors}"
            self.turn()

    def settle(self, turns=8):
        """Turn until what is under way on the loopback has arrived and was dealt with."""
        self.turn(turns)

    def run(self, coro):
        """Run a coroutine to its end, with the peers moving; return its result."""
        task = self.loop.create_task(coro)
        self.until(task.done)
        return task.result()

    def close(self):
        """End everything; nothing may have escaped."""
        for conn in self.connections:
            conn.abort()
        self.turn(4)
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.until(lambda: not asyncio.all_tasks(self.loop))
        for peer in self.peers:
            peer.close()
        self.loop.close()
        assert self.errors == []


def pytest_generate_tests(metafunc):
    """Run each test that takes `stage` on all of them; a test module has to import this."""
    if "stage" in metafunc.fixturenames:
        metafunc.parametrize("stage", stages(metafunc.config), indirect=True)
    if "connection_class" in metafunc.fixturenames:
        metafunc.parametrize("connection_class", implementations(metafunc.config), indirect=True)


@pytest.fixture
def stage(request):
    """One way to run sessions; ended, and checked, after the test."""
    stage = Stage(request.param)
    yield stage
    stage.close()


def random_seed(name):
    """Return the seed of a random test: of the environment's ``EVLOOP_<name>``, or any."""
    return int(os.environ.get(f"EVLOOP_{name}", 0)) or int.from_bytes(os.urandom(4), "big")
