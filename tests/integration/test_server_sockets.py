"""A server on sockets that somebody else has bound: ``sockets=``."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import signal
import socket

import pytest
from peers import PATIENCE, connection_class, encode, python, read_line, world

from evloop import BlockingClient, Limits, Server
from evloop.sockets import listen


def upper(conn, frame):
    conn.send(frame.upper())


def given(world, sockets, **options):
    """Return a started server on *sockets*."""
    server = Server(world.reactor, upper, sockets=sockets, limits=Limits(linger=0), **options)
    server.start()
    return server


def called(world, sock):
    """Return a peer of whoever accepts on *sock*."""
    peer = socket.socket(sock.family)
    peer.connect(sock.getsockname())
    return world.peer(peer, reading=True)


def end(world, server):
    server.shutdown(0)
    world.turn(4)
    assert server.connections == set()


def test_server_given_sockets_serves_on_each_and_closes_them(world):
    """A supervisor binds what needs root, or several addresses; the address argument is not looked at."""
    ours = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    names = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in ours]
    server = given(world, iter(ours), address="unix:/nowhere/at/all")
    assert [str(address) for address in server.addresses] == names
    peers = [called(world, sock) for sock in ours]
    for peer in peers:
        peer.write(encode(b"hi"))
        world.until(lambda peer=peer: peer.frames == [b"HI"])
    end(world, server)
    assert [sock.fileno() for sock in ours] == [-1, -1]


def test_server_given_unix_socket_leaves_its_path(world, tmp_path):
    """The path is the giver's: systemd goes on listening there for the next instance."""
    path = tmp_path / "s"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    server = given(world, [sock])
    assert str(server.address) == f"unix:{path}"
    end(world, server)
    assert path.is_socket()


def test_server_given_shared_socket_leaves_the_queue_to_the_next(world):
    """A restart under a supervisor loses no client: who is queued when the old one ends is served by the new one."""
    with socket.create_server(("127.0.0.1", 0)) as kept:
        old = given(world, [kept.dup()])
        end_of_old = called(world, kept)
        old.close()
        assert old.stats()["connections"] == 0
        new = given(world, [kept.dup()])
        end_of_old.write(encode(b"hi"))
        world.until(lambda: end_of_old.frames == [b"HI"])
        assert new.stats()["accepted"] == 1
        end(world, new)
        end(world, old)


def test_server_given_sockets_never_started_closes_them(world):
    """They are its own from the constructor on."""
    sockets = listen("127.0.0.1:0")
    server = Server(world.reactor, upper, sockets=sockets)
    assert server.addresses == []
    assert server.address.port == sockets[0].getsockname()[1]
    server.close()
    server.close()
    assert sockets[0].fileno() == -1


def test_server_given_wrong_sockets_raises_and_leaves_them_to_the_caller(world):
    """Refused before anything is registered."""
    with socket.socket() as sock:
        with pytest.raises(ValueError, match="does not listen"):
            Server(world.reactor, upper, sockets=[sock])
        with pytest.raises(ValueError, match="no socket"):
            Server(world.reactor, upper, sockets=[])
        assert sock.fileno() >= 0


def test_server_given_sockets_with_a_backlog_beyond_the_kernels_says_nothing(world, caplog):
    """Their backlog was set by whoever made them; a warning about ours would be about nothing."""
    server = Server(world.reactor, upper, sockets=listen("127.0.0.1:0"), limits=Limits(backlog=0x7FFFFFFF))
    server.start()
    assert caplog.records == []
    end(world, server)


@pytest.mark.slow
def test_serve_given_sockets_serves_until_sigterm():
    """The same argument of the one-call form."""
    source = """
import evloop, evloop.sockets
evloop.serve(lambda conn, frame: conn.send(frame), sockets=evloop.sockets.listen("127.0.0.1:0"),
             ready=lambda server: print(server.address, flush=True))
"""
    with python(source) as process:
        with BlockingClient(read_line(process), timeout=PATIENCE) as client:
            client.send(b"hi")
            client.expect(b"hi")
        process.send_signal(signal.SIGTERM)
        assert (process.wait(PATIENCE), process.stderr.read()) == (0, b"")
