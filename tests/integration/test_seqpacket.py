"""Servers and clients of ``seqpacket:`` addresses, against each other and against plain sockets."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading

import pytest
from packetpeers import SEQPACKET, PacketWorld
from peers import DataRecorder, FrameRecorder, echo, encode
from serving import call, serving

import evloop
from evloop import BlockingClient, CloseReason, ConnectionClosed, FrameTooLarge, Limits
from evloop._connection_packets import PacketConnection
from evloop.apps.echo import Echo


@pytest.fixture
def world():
    """A world whose raw peers speak packets."""
    world = PacketWorld()
    yield world
    world.close()


@pytest.fixture(params=["path", "abstract"])
def address(request, tmp_path):
    """A seqpacket address of each sort."""
    return f"seqpacket:{tmp_path}/s" if request.param == "path" else f"seqpacket:@evloop-test-{os.getpid()}"


@contextlib.contextmanager
def served(handler, address, **options):
    """Run a server in a thread, for blocking clients; drained at the end."""
    ready = threading.Event()
    servers = []
    thread = threading.Thread(
        target=evloop.serve,
        args=(handler, address),
        kwargs={"ready": lambda server: (servers.append(server), ready.set()), "limits": Limits(linger=0), **options},
    )
    thread.start()
    try:
        assert ready.wait(20)
        yield servers[0]
    finally:
        reactor = servers[0].reactor
        reactor.call_soon_threadsafe(lambda: servers[0].shutdown(1, reactor.stop))
        thread.join(20)
    assert not thread.is_alive()


def test_server_serves_a_foreign_client_of_messages(world, serving, address):
    """Any language's socket of this type: a packet there, a packet back."""
    server = serving(Echo, address, framing=None)
    assert str(server.address) == address
    peer = call(world, server)
    for message in (b"one", b"two"):
        peer.sock.send(message)
    world.until(lambda: len(peer.packets) == 2)
    assert peer.packets == [b"one", b"two"]
    (conn,) = server.connections
    assert type(conn) is PacketConnection
    assert str(conn.peer) == str(conn.local) == address
    assert server.stats()["frames_received"] == 2


def test_server_shutdown_ends_the_packets_in_order_and_removes_the_path(world, serving, tmp_path):
    """What a stream's server does at its end."""
    server = serving(Echo, f"seqpacket:{tmp_path}/s")
    peer = call(world, server)
    peer.sock.send(encode(b"one", b"two"))
    world.until(lambda: peer.frames == [b"one", b"two"])
    server.shutdown()
    world.until(lambda: peer.eof)
    world.until(lambda: not server.connections)
    assert (peer.error, os.listdir(tmp_path)) == (None, [])
    assert server.counters["closed_shutdown"] == 1


def test_server_refuses_above_max_connections(world, serving, address):
    """The bounds of a server are those of every address."""
    server = serving(Echo, address, limits=Limits(max_connections=1, linger=0, max_per_address=1))
    first, second = call(world, server), call(world, server)
    world.until(lambda: second.eof)
    assert not first.eof
    assert server.stats()["refused_max_connections"] == 1


def test_server_on_given_sockets_takes_packets_and_streams_side_by_side(world, serving, tmp_path):
    """Each listener has its own kind of connection: ListenSequentialPacket= beside ListenStream=."""
    with socket.socket(*SEQPACKET) as one, socket.socket(socket.AF_UNIX) as two:
        for sock, name in ((one, "packets"), (two, "stream")):
            sock.bind(f"{tmp_path}/{name}")
            sock.listen()
        server = serving(Echo, sockets=[one, two], framing=None)
        assert [address.label for address in server.addresses] == [
            f"seqpacket {tmp_path}/packets",
            f"unix {tmp_path}/stream",
        ]
        packets = call(world, server)
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(f"{tmp_path}/stream")
        stream = world.peer(stream, reading=True)
        for peer in (packets, stream):
            peer.sock.send(b"on")
            peer.sock.send(b"e")
        world.until(lambda: len(packets.received) == len(stream.received) == 3)
        assert packets.packets == [b"on", b"e"]
        assert {type(conn) is PacketConnection for conn in server.connections} == {True, False}


def test_server_and_clients_with_tls_refuse_packets(world, tmp_path):
    """Records are a stream's; found at the start, in one sentence."""
    from tlspeers import foreign_client, foreign_server

    address = f"seqpacket:{tmp_path}/s"
    with pytest.raises(ValueError, match="keeps packets, and TLS needs a stream"):
        evloop.Server(world.reactor, Echo, address, ssl=foreign_server())
    with pytest.raises(ValueError, match="keeps packets"):
        evloop.connect(world.reactor, address, FrameRecorder, ssl=foreign_client())
    with pytest.raises(ValueError, match="keeps packets"):
        BlockingClient(address, ssl=foreign_client())
    with socket.socket(*SEQPACKET) as given:
        given.bind(f"{tmp_path}/s")
        given.listen()
        with pytest.raises(ValueError, match="keeps packets"):
            evloop.Server(world.reactor, Echo, sockets=[given], ssl=foreign_server())
        assert given.fileno() >= 0


def test_connect_talks_to_a_server_in_messages(world, serving, address):
    """Both ends of evloop, whole messages without a length in front."""
    server = serving(Echo, address, framing=None)
    rec = DataRecorder()
    connector = evloop.connect(world.reactor, address, protocol_factory=lambda: rec, framing=None)
    world.until(lambda: rec.conn)
    assert connector.connection is rec.conn
    assert str(rec.conn.peer) == address
    sent = [b"one", bytes(100_000), b"three"]
    rec.conn.send_many(sent)
    world.until(lambda: len(rec.frames) == 3)
    assert rec.frames == sent
    rec.conn.close()
    world.until(lambda: rec.lost and not server.connections)
    assert rec.reason is CloseReason.LOCAL


def test_connect_with_framing_sends_frames_of_one_mebibyte(world, serving, address):
    """Several packets each, and one again at the other end."""
    serving(Echo, address)
    rec = FrameRecorder()
    evloop.connect(world.reactor, address, protocol_factory=lambda: rec)
    world.until(lambda: rec.conn)
    payload = os.urandom(1 << 20)
    rec.conn.send(payload)
    world.until(lambda: rec.frames)
    assert rec.frames == [payload]
    rec.conn.close()
    world.until(lambda: rec.lost)


def test_connect_to_a_stream_fails_with_the_kernels_word_for_it(world, tmp_path):
    """The commonest mistake: unix: and seqpacket: are two things at one path."""
    failures = []
    with socket.socket(socket.AF_UNIX) as stream:
        stream.bind(f"{tmp_path}/s")
        stream.listen()
        connector = evloop.connect(world.reactor, f"seqpacket:{tmp_path}/s", FrameRecorder, failed=failures.append)
        world.until(lambda: connector.done)
    assert [exc.errno for exc in failures] == [errno.EPROTOTYPE]


def test_blocking_client_sends_and_receives_messages(address):
    """A script's way: one send, one packet, one recv."""
    with served(Echo, address, framing=None), BlockingClient(address, framing=None, timeout=20) as client:
        client.send(b"one")
        client.send_many([b"two", bytearray(b"three")])
        client.expect(b"one")
        assert [client.recv(), client.recv()] == [b"two", b"three"]
        with pytest.raises(FrameTooLarge, match="wmem_default"):
            client.send(bytes(1 << 20))
        with pytest.raises(ValueError, match="end of the stream"):
            client.send(b"")
        client.send(bytes(200_000))
        assert len(client.recv()) == 200_000
        client.write_eof()
        with pytest.raises(ConnectionClosed):
            client.recv()


def test_blocking_client_with_framing_sends_frames_of_one_mebibyte(address):
    """More than a packet can be, in both directions."""
    payload = os.urandom(1 << 20)
    with served(Echo, address), BlockingClient(address, timeout=20) as client:
        client.send(payload)
        client.send_many([b"", b"x"])
        assert [client.recv(), client.recv(), client.recv()] == [payload, b"", b"x"]


def test_blocking_client_gets_what_came_before_a_reset_and_then_the_reset_for_good(tmp_path):
    """The kernel tells the reset first, and the last answer must not be lost for that."""
    with socket.socket(*SEQPACKET) as listener:
        listener.bind(f"{tmp_path}/s")
        listener.listen()
        with BlockingClient(f"seqpacket:{tmp_path}/s", timeout=20) as client:
            theirs, _ = listener.accept()
            client.send(b"never read")
            theirs.send(encode(b"last words"))
            theirs.close()
            assert client.recv() == b"last words"
            for _ in range(2):
                with pytest.raises(ConnectionResetError):
                    client.recv()


def test_blocking_client_packet_above_its_buffer_is_an_error_for_good(tmp_path):
    """A stream out of which something was cut has no frames any more."""
    with socket.socket(*SEQPACKET) as listener:
        listener.bind(f"{tmp_path}/s")
        listener.listen()
        with BlockingClient(f"seqpacket:{tmp_path}/s", timeout=20) as client:
            theirs, _ = listener.accept()
            with theirs:
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 300_000)
                theirs.send(encode(b"good"))
                theirs.send(bytes((1 << 18) + 1))
                theirs.send(encode(b"never"))
                assert client.recv() == b"good"
                for _ in range(2):
                    with pytest.raises(FrameTooLarge, match="packet of 262145 bytes exceeds 262144, "):
                        client.recv()
