"""What an idle connection holds: its objects keep their sizes, and what is the same for all is there once."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import gc
import socket

import pytest
from peers import connection_class, encode, world
from serving import call, serving
from twins import needs_compiled

GC_HEADER = 16  # bytes in front of an object that the collector looks after, on a machine of 64 bits


def test_compiled_objects_of_a_connection_stay_in_their_size_classes(pytestconfig):
    """The allocator rounds up to 16 bytes: one more field in either is felt by each of ten thousand.

    A Protocol, its attributes, the reactor's tables and the server's set come to 400 bytes; the promise is 1,024.
    """
    needs_compiled(pytestconfig)
    from evloop._connection import Connection
    from evloop._framing import FrameDecoder

    assert GC_HEADER + Connection.__basicsize__ <= 384
    assert GC_HEADER + FrameDecoder.__basicsize__ <= 224


def test_server_connections_share_what_is_told_of_their_end(world, serving):
    """A bound method made for each of them is 64 bytes."""
    server = serving()
    peers = [call(world, server).write(encode(b"hi")) for _ in range(2)]
    world.until(lambda: all(peer.frames == [b"HI"] for peer in peers))
    told = [{id(part) for part in gc.get_referents(conn) if part == server._lost} for conn in server.connections]
    assert len(told) == 2
    assert told[0] == told[1] != set()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_server_peer_is_first_asked_for_after_its_end(world, serving, host):
    """The kernel has forgotten it by then; the log wants it, and nobody has asked before."""
    if host == "::1":
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind((host, 0))
        except OSError:
            pytest.skip("needs IPv6 on the loopback interface")
    conns = []
    server = serving(lambda conn, frame: conns.append(conn), f"[{host}]:0" if ":" in host else f"{host}:0")
    peer = call(world, server).write(encode(b"hi"))
    name = peer.sock.getsockname()[:2]
    world.until(lambda: conns)
    peer.reset()
    world.until(lambda: not server.connections)
    assert (conns[0].peer.host, conns[0].peer.port) == name
    assert conns[0].peer is conns[0].peer
