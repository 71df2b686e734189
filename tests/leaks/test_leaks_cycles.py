"""A connection that has ended dies with the last reference to it, and takes with it what the application hung on it."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import gc
import socket
import weakref

import pytest
from growth import without_collector
from peers import connection_class, encode, world

import evloop
from evloop import Framing, Limits
from evloop.framing import IMPLEMENTATION as FRAMING
from evloop.protocol import protocol_factory_of
from evloop.reactor import IMPLEMENTATION as REACTOR

MEBI = bytes(1 << 20)


class Keeper(evloop.Protocol):
    """A protocol as everybody writes it: it knows its connection."""

    def connection_made(self, conn):
        self.conn = conn

    def frame_received(self, frame):
        if frame == b"raise":
            raise ZeroDivisionError


def answer(conn, frame):
    if frame == b"raise":
        raise ZeroDivisionError


LAST_WORDS = {
    "close": lambda conn, peer: conn.close(),
    "abort": lambda conn, peer: conn.abort(),
    "end of the stream": lambda conn, peer: peer.fin(),
    "reset": lambda conn, peer: peer.reset(),
    "fault": lambda conn, peer: peer.write(b"\xff\xff\xff\xff"),
    "truncated": lambda conn, peer: peer.write(b"\0\0", fin=True),
    "exception": lambda conn, peer: peer.write(encode(b"raise", b"held")),
    "large output": lambda conn, peer: (conn.send(MEBI), conn.abort()),
}


class Context:
    """What an application hangs on a connection, which has no weak references itself."""


@pytest.mark.parametrize("words", LAST_WORDS.values(), ids=LAST_WORDS)
@pytest.mark.parametrize("make", [Keeper, protocol_factory_of(answer, None)], ids=["protocol", "function"])
def test_connection_that_has_ended_dies_with_its_last_reference(world, make, words):
    """Left to the collector, thousands of them with all that hangs on them would wait for it."""
    conn, peer = world.connect(make(), linger=0, idle_timeout=60, write_timeout=60, max_frame=1 << 20)
    conn.context = Context()
    gone = weakref.ref(conn.context)
    peer.write(encode(b"hello"))
    world.settle()
    with without_collector():
        words(conn, peer)
        while not conn.closed:
            world.turn()
        world.turn(2)
        protocol = conn.protocol
        world.connections.clear()
        world.served.clear()
        del conn
        if FRAMING == "python":  # what its decoder raises has a traceback, and that the frames of all who passed it on
            gc.collect()
        alive = gone() is not None
    assert (alive, protocol) == (False, None)


def test_connection_collected_while_open_closes_its_socket(connection_class):
    """With the reactor and all: the peer sees the end, and no descriptor is left."""
    one, two = socket.socketpair()
    with two:
        one.setblocking(False)
        two.settimeout(5)
        reactor = evloop.Reactor()
        conn = connection_class(reactor, one, Keeper(), framing=Framing.U32, limits=Limits(idle_timeout=60))
        conn.start()
        if connection_class.__module__.endswith("_py"):  # its socket would warn
            conn.abort()
        if REACTOR == "python":  # as would its wake-up
            reactor.close()
        conn.context = Context()
        gone = weakref.ref(conn.context)
        del conn, reactor, one
        gc.collect()
        assert gone() is None
        assert two.recv(1) == b""
