"""A server with TLS: foreign clients are served, bad ones counted, slow ones hurt nobody, and the end is in order."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest
from peers import PATIENCE, RST_ON_CLOSE, World, connection_class, decode, encode, world
from programs import receive_frame
from tlspeers import CA, CLIENT, SERVER, VERSIONS, foreign_client, foreign_server

from evloop import BlockingClient, CloseReason, Limits, Protocol, Server, TlsError, tls

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command on this machine")


class Echo(Protocol):
    """Echoes, with framing and without."""

    def connection_made(self, conn):
        self.conn = conn

    def frames_received(self, frames):
        self.conn.send_many(frames)

    def data_received(self, data):
        self.conn.send(data)


def upper(conn, frame):
    conn.send(frame.upper())


@pytest.fixture
def serving(world):
    """Start servers with TLS; shut down hard at the end."""
    servers = []

    def serve(handler=Echo, address="127.0.0.1:0", ssl=None, limits=None, plain=False, **options):
        ssl = None if plain else ssl or tls.server_context(SERVER)
        limits = limits or Limits(linger=0)
        servers.append(Server(world.reactor, handler, address, ssl=ssl, limits=limits, **options))
        servers[-1].start()
        return servers[-1]

    yield serve
    for server in servers:
        server.shutdown(0)
        world.turn(4)
        assert server.connections == set()


def beside(world, function, *args):
    """Run a blocking *function* in a thread while the world turns; return what it returns."""
    results, errors = [], []

    def run():
        try:
            results.append(function(*args))
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 6 * PATIENCE  # for all of it, and 200 handshakes take a second on a busy machine
    while thread.is_alive():
        assert time.monotonic() < deadline, "the function does not return"
        world.turn()
    if errors:
        raise errors[0]
    return results[0]


def dial(server):
    """Return a plain socket, connected to *server*."""
    return socket.create_connection((server.address.host, server.address.port), timeout=PATIENCE)


def foreign(server, context=None):
    """Return an `ssl.SSLSocket`, connected to *server*; blocks until the handshake is done."""
    context = context or foreign_client()
    return context.wrap_socket(dial(server), server_hostname="localhost", suppress_ragged_eofs=False)


# --- foreign clients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_tls_server_serves_pythons_ssl(world, serving, version):
    """An implementation of the client's half that has nothing of ours."""
    server = serving(upper)

    def client():
        with foreign(server, foreign_client(version=version)) as sock:
            sock.sendall(encode(b"hello"))
            assert receive_frame(sock) == b"HELLO"
            sock.sendall(encode(b"x" * (1 << 20)))
            assert receive_frame(sock) == b"X" * (1 << 20)
            agreed = sock.version()
            sock.unwrap()
            return agreed

    assert beside(world, client).replace(".", "_") == version.name
    world.until(lambda: not server.connections)
    assert server.stats()["closed_peer"] == 1
    assert server.stats()["handshake_errors"] == 0


def test_tls_server_tells_the_handler_what_was_agreed(world, serving):
    """With mutual TLS the certificate is who the client is."""
    server = serving(
        lambda conn, frame: conn.send(repr((conn.tls.version, conn.tls.peer_certificate["subject"])).encode()),
        ssl=tls.server_context(SERVER, client_ca=CA),
    )

    def client():
        with BlockingClient(
            server.address, timeout=PATIENCE, ssl=tls.client_context(CA, certificate=CLIENT)
        ) as connection:
            connection.send(b"?")
            return connection.recv()

    assert beside(world, client) == b"('TLSv1.3', ((('commonName', 'evloop test client'),),))"


def test_tls_server_without_the_clients_certificate_refuses_with_words(world, serving, caplog):
    """With TLS 1.3 the client believes itself connected, until the alert comes."""
    server = serving(ssl=tls.server_context(SERVER, client_ca=CA), limits=Limits())

    def client():
        with BlockingClient(server.address, timeout=PATIENCE, ssl=tls.client_context(CA)) as connection:
            with pytest.raises(TlsError, match="the peer requires a certificate") as caught:
                connection.recv()
            return caught.value.reason

    assert beside(world, client) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    world.until(lambda: not server.connections)
    assert (server.stats()["handshake_errors"], server.stats()["closed_handshake"]) == (1, 1)
    assert "reason=handshake: the peer shows no certificate" in caplog.text


def test_tls_server_on_a_unix_socket_is_the_same(world, serving, tmp_path):
    """Rarely needed; but a proxy may terminate TCP only."""
    server = serving(upper, f"unix:{tmp_path}/s")

    def client():
        context = tls.client_context(CA)
        with BlockingClient(server.address, timeout=PATIENCE, ssl=context, server_hostname="localhost") as connection:
            connection.send(b"hi")
            return connection.recv()

    assert beside(world, client) == b"HI"


@pytest.mark.slow
def test_tls_server_two_hundred_clients_are_echoed(world, serving):
    """At once, each with its own stream."""
    server = serving()

    def clients():
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(foreign(server)) for _ in range(200)]
            for number, sock in enumerate(socks):
                sock.sendall(encode(b"%d" % number, b"x" * 20_000))
            for number, sock in enumerate(socks):
                assert receive_frame(sock) == b"%d" % number
                assert receive_frame(sock) == b"x" * 20_000
            return len(server.connections)

    assert beside(world, clients) == 200
    world.until(lambda: not server.connections)
    assert server.stats()["accepted"] == 200


# --- clients that do not get there -----------------------------------------------------------------------------------


def test_tls_server_spoken_to_in_plain_text_logs_one_line_and_lives(world, serving, caplog):
    """A browser, a scanner, a client whose TLS was forgotten: each hundreds of times."""
    server = serving(upper)
    for number in range(20):
        with dial(server) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            world.until(lambda number=number: server.stats()["handshake_errors"] == number + 1)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "the peer does not speak TLS: it began with 47 45 54 20" in warnings[0].getMessage()
    assert "looks like an HTTP request" in warnings[0].getMessage()
    assert warnings[0].exc_info is None

    def witness():
        with foreign(server) as sock:
            sock.sendall(encode(b"hi"))
            return receive_frame(sock)

    assert beside(world, witness) == b"HI"


def test_tls_server_counts_failed_handshakes_and_not_mere_looks(world, serving, caplog):
    """A load balancer connects and closes once a second: that is no error, and no warning."""
    caplog.set_level(logging.INFO)
    server = serving()
    for number, end in enumerate(("look", "cut", "reset"), 1):
        sock = dial(server)
        if end != "look":
            sock.sendall(b"\x16\x03\x01")
            world.until(lambda: len(server.connections) == 1)
            world.turn(2)
        if end == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
        sock.close()
        world.until(lambda number=number: server.stats().get("accepted") == number and not server.connections)
        world.turn(3)
        if end == "look":
            assert (server.stats()["handshake_errors"], caplog.text) == (0, "")
    stats = server.stats()
    assert (stats["closed_peer"], stats["closed_handshake"], stats["closed_reset"]) == (1, 1, 1)
    assert stats["handshake_errors"] == 2


def test_tls_server_slow_handshakes_do_not_block_others_and_end_in_time(world, serving):
    """A hundred clients that stop in the middle, at three places, while another one is served."""
    server = serving(upper, limits=Limits(linger=0, handshake_timeout=10, max_connections=101))
    with contextlib.ExitStack() as stack:
        for number in range(100):
            stack.enter_context(dial(server)).sendall(_hello()[: (0, 3, 10_000)[number % 3]])
        world.until(lambda: len(server.connections) == 100)

        def witness():
            with foreign(server) as sock:
                sock.sendall(encode(b"hi"))
                return receive_frame(sock)

        assert beside(world, witness) == b"HI"
        world.until(lambda: len(server.connections) == 100)
        world.advance(9.875)
        assert len(server.connections) == 100
        world.advance(0.25)
        world.until(lambda: not server.connections)
    assert server.stats()["handshake_errors"] == server.stats()["closed_handshake"] == 100
    assert world.reactor.stats()["timers"] == 0


def _hello():
    """Return a ClientHello."""
    outgoing = ssl.MemoryBIO()
    client = foreign_client().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_tls_server_max_connections_counts_handshakes(world, serving):
    """What has a descriptor counts, or a flood of half-open handshakes would have no bound."""
    server = serving(limits=Limits(linger=0, max_connections=3))
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(dial(server)) for _ in range(4)]
        world.until(lambda: server.stats().get("accepted", 0) + server.stats().get("refused", 0) == 4)
        assert (server.stats()["accepted"], server.stats()["refused"]) == (3, 1)
        assert socks[3].recv(1) == b""


# --- the end ---------------------------------------------------------------------------------------------------------


def test_tls_server_shutdown_ends_handshakes_at_once_and_others_in_order(world, serving):
    """A half-open handshake holds no stop; who is connected gets its answer and a close_notify."""
    server = serving(upper, limits=Limits())
    done = []

    def client():
        with dial(server) as half, foreign(server) as sock:
            half.sendall(_hello()[:5])
            sock.sendall(encode(b"hi"))
            assert receive_frame(sock) == b"HI"
            world.reactor.call_soon_threadsafe(server.shutdown, None, lambda: done.append(True))
            ends = (sock.recv(1), half.recv(1))  # a bare FIN would raise: suppress_ragged_eofs is off
            sock.unwrap()
            return ends

    assert beside(world, client) == (b"", b"")
    world.until(lambda: done)
    assert server.stats()["closed_shutdown"] == 2
    assert server.stats()["handshake_errors"] == 0


def test_tls_client_of_a_plain_server_and_the_server_are_both_told(world, serving, caplog):
    """The other mix-up: the server recognises a ClientHello where it expects a length."""
    server = serving(upper, plain=True, limits=Limits())

    def client():
        with pytest.raises(TlsError, match="does it speak TLS on this port"):
            BlockingClient(server.address, timeout=PATIENCE, ssl=tls.client_context(CA))
        return True

    assert beside(world, client)
    world.until(lambda: server.stats().get("closed_frame_too_large"))
    assert "looks like a TLS handshake" in caplog.text


# --- openssl's own client --------------------------------------------------------------------------------------------


def s_client(server, *options, lines):
    """Run ``openssl s_client``, type *lines* one after the other's answer, and leave."""
    command = ["openssl", "s_client", "-connect", str(server.address), "-CAfile", CA, "-verify_return_error", *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        printed = b""
        for line, answer in lines:
            process.stdin.write(line)
            process.stdin.flush()
            while answer not in printed:
                printed += (more := process.stdout.read1(65536))
                assert more, printed.decode()
            printed = printed[printed.index(answer) + len(answer) :]
    finally:
        process.kill()
        process.communicate()


@needs_openssl
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_tls_server_serves_openssl(world, serving, version):
    """The other implementation that is everywhere; without framing, as one types."""
    server = serving(upper, framing=None)
    beside(world, lambda: s_client(server, version, lines=[(b"hello\n", b"HELLO"), (b"again\n", b"AGAIN")]))


@needs_openssl
def test_tls_server_answers_key_updates(world, serving):
    """A read then has something to write (RFC 8446, 4.6.3); s_client's K asks for an update of our keys, too."""
    server = serving(upper, framing=None)
    lines = [
        (b"xyzzy\n", b"XYZZY"),
        (b"K\n", b"KEYUPDATE"),
        (b"plugh\n", b"PLUGH"),
        (b"k\n", b"KEYUPDATE"),
        (b"fnord\n", b"FNORD"),
    ]
    beside(world, lambda: s_client(server, "-tls1_3", lines=lines))


@needs_openssl
def test_tls_server_refuses_a_renegotiation(world, serving):
    """It would let a client burn our CPU, and make writes wait for reads; TLS 1.3 has abolished it."""
    server = serving(upper, framing=None, ssl=foreign_server())
    beside(world, lambda: s_client(server, "-tls1_2", lines=[(b"xyzzy\n", b"XYZZY"), (b"R\n", b"RENEGOTIATING")]))
    world.until(lambda: not server.connections)
    assert server.stats()["accepted"] == 1
