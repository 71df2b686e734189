"""What the tests of servers share: a server in a world, and peers that call it."""

from __future__ import annotations

import socket

import pytest

from evloop import Limits, Server
from evloop.sockets import resolve, socket_type_of


def upper(conn, frame):
    conn.send(frame.upper())


def start(world, handler=upper, address="127.0.0.1:0", **options):
    """Return a server of *world* that listens."""
    options.setdefault("limits", Limits(linger=0))
    server = Server(world.reactor, handler, address, **options)
    server.start()
    return server


@pytest.fixture
def serving(world):
    """Start servers with `start`'s arguments; shut down hard at the end."""
    servers = []

    def serve(*args, **options):
        servers.append(start(world, *args, **options))
        return servers[-1]

    yield serve
    for server in servers:
        server.shutdown(0)
        world.turn(4)
        assert server.connections == set()


def call(world, server, reading=True):
    """Return a peer connected to *server*; it may still be queued."""
    address = server.address
    if address.is_unix:
        sock = socket.socket(socket.AF_UNIX, socket_type_of(address))
        sock.connect(resolve(address)[0][1])
    else:
        sock = socket.create_connection((address.host, address.port))
    return world.peer(sock, reading)
