"""Clients with TLS: whom they trust, what they say when they do not, and foreign servers that cut, stall or lie."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import threading

import pytest
from peers import PATIENCE, RST_ON_CLOSE, FrameRecorder, connection_class, echo, encode, world
from programs import receive_frame
from tlspeers import CA, EXPIRED, SERVER, STRANGER, VERSIONS, foreign_client, foreign_server

import evloop
from evloop import BlockingClient, CloseReason, ConnectionClosed, Limits, TlsError, TruncatedFrame, tls

MIB = 1 << 20
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command on this machine")


@pytest.fixture
def foreign():
    """Start servers in threads: ``foreign(function)`` gets each SSLSocket; its address is returned."""
    with contextlib.ExitStack() as stack:

        def start(function, context=None):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(PATIENCE)
            thread = threading.Thread(target=serve_one, args=(listener, context or foreign_server(), function))
            thread.start()
            stack.callback(thread.join, PATIENCE)
            return listener.getsockname()

        yield start


def serve_one(listener, context, function):
    """Accept one client, shake hands, and call *function*; what breaks then is the client's business."""
    with contextlib.suppress(OSError):
        sock = listener.accept()[0]
        sock.settimeout(PATIENCE)
        with sock, context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as tls_sock:
            function(tls_sock)


def echo_all(sock):
    """Echo until the client's close_notify; then send ours."""
    while data := sock.recv(65536):
        sock.sendall(data)
    sock.unwrap()


def linger(sock):
    """Do nothing until the client leaves."""
    with contextlib.suppress(OSError):
        sock.recv(1)


def dial(world, address, rec, **options):
    """Begin to connect for *rec*; failures go to its `failures`."""
    world.recorders.append(rec)
    rec.failures = []
    options = {"failed": rec.failures.append, "limits": Limits(linger=0), "ssl": tls.client_context(CA), **options}
    return evloop.connect(world.reactor, address, protocol_factory=lambda: rec, **options)


def failure(world, connector, rec):
    """Turn until the attempt has failed; return with what."""
    world.until(lambda: connector.done)
    world.turn(3)
    (exc,) = rec.failures
    assert (connector.connection, connector.exception, rec.log) == (None, exc, [])
    assert world.reactor.stats()["timers"] == 0
    return exc


# --- connect() -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("timeout", [None, 5])
def test_tls_connect_makes_the_connection_after_the_handshake(world, foreign, version, timeout):
    """`connector.connection` is there in connection_made, and not before."""
    seen = []
    rec = FrameRecorder(made=lambda rec: (seen.append(connector.connection), rec.conn.send(b"hello")))
    connector = dial(world, foreign(echo_all, foreign_server(version=version)), rec, timeout=timeout)
    assert (connector.done, connector.connection) == (False, None)
    world.until(lambda: rec.frames == [b"hello"])
    assert seen == [rec.conn] == [connector.connection]
    assert rec.conn.tls.version == version.name.replace("_", ".")
    assert rec.conn.tls.peer_certificate["subject"] == ((("commonName", "evloop test server"),),)
    assert (connector.done, world.reactor.stats()["timers"]) == (True, 0)
    rec.conn.send_many([b"a" * MIB, b"b" * MIB])
    rec.conn.write_eof()
    world.until(lambda: rec.lost)
    assert [frame[:1] for frame in rec.frames] == [b"h", b"a", b"b"]
    assert (rec.reason, rec.failures) == (CloseReason.PEER, [])


@pytest.mark.parametrize(
    ("certificate", "text"),
    [(STRANGER, "signed certificate; if it is the right server, trust its CA"), (EXPIRED, "has expired")],
    ids=["stranger", "expired"],
)
def test_tls_connect_to_whom_it_does_not_trust_fails(world, foreign, certificate, text):
    """The protocol hears nothing, nothing is sent."""
    rec = FrameRecorder()
    connector = dial(world, foreign(linger, foreign_server(certificate)), rec)
    exc = failure(world, connector, rec)
    assert isinstance(exc, TlsError)
    assert text in str(exc)


def test_tls_connect_verifies_the_host_of_the_address_or_the_given_name(world, foreign):
    """127.0.0.1 and localhost are in the certificate, 127.0.0.2 is not."""
    rec = FrameRecorder()
    exc = failure(world, dial(world, foreign(linger), rec, server_hostname="example.com"), rec)
    assert "not valid for 'example.com'" in str(exc)
    for host, options in (("localhost", {}), ("127.0.0.1", {"server_hostname": "localhost"})):
        rec = FrameRecorder()
        connector = dial(world, (host, foreign(linger)[1]), rec, **options)
        world.until(lambda connector=connector: connector.done)
        assert (rec.log, rec.failures) == (["made"], [])
        rec.conn.abort()


@pytest.mark.parametrize("what", ["timeout", "handshake_timeout"])
def test_tls_connect_to_a_server_that_says_nothing_ends_in_time(world, what):
    """Accepted by a kernel whose program hangs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rec = FrameRecorder()
        options = {"timeout": 3} if what == "timeout" else {"limits": Limits(handshake_timeout=3)}
        connector = dial(world, listener.getsockname(), rec, **options)
        world.turn(4)
        world.advance(2.875)
        assert not connector.done
        world.advance(0.125)
        exc = failure(world, connector, rec)
        assert isinstance(exc, TimeoutError)
        assert "3 s" in str(exc)


def test_tls_connect_cancelled_inside_the_handshake_says_nothing(world):
    """cancel() promises that no callback comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rec = FrameRecorder()
        connector = dial(world, listener.getsockname(), rec, timeout=3)
        world.turn(4)
        assert world.reactor.stats()["fds"] == 1
        connector.cancel()
        world.turn(4)
        assert (rec.log, rec.failures, connector.done) == ([], [], True)
        assert (world.reactor.stats()["timers"], world.reactor.stats()["fds"]) == (0, 0)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", None], ids=["close", "ssh", "reset"])
def test_tls_connect_to_a_server_without_tls_says_so(world, answer):
    """The other end of the commonest mistake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rec = FrameRecorder()
        connector = dial(world, listener.getsockname(), rec)
        world.turn(4)
        with listener.accept()[0] as sock:
            assert sock.recv(65536).startswith(b"\x16\x03\x01")
            if answer is None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
            else:
                sock.sendall(answer)
        exc = failure(world, connector, rec)
    if answer is None:
        assert isinstance(exc, ConnectionResetError)
    else:
        assert ("does it speak TLS on this port?" if not answer else "looks like an SSH banner") in str(exc)


def test_tls_connect_without_failed_logs_the_failure(world, foreign):
    """An error that nobody asked for is not lost."""
    rec = FrameRecorder()
    connector = dial(world, foreign(linger, foreign_server(STRANGER)), rec, failed=None)
    world.until(lambda: world.errors)
    (context,) = world.errors
    world.errors.clear()
    assert isinstance(context["exception"], TlsError)
    assert connector.exception is context["exception"]


def test_tls_connect_to_our_own_server_moves_mebibytes_both_ways(world):
    """Both halves in one reactor, and both above their water marks."""
    server = evloop.Server(
        world.reactor,
        lambda conn, frame: conn.send(frame),
        "127.0.0.1:0",
        ssl=tls.server_context(SERVER),
        limits=Limits(linger=0),
    )
    server.start()
    rec = FrameRecorder(made=lambda rec: rec.conn.send_many([bytes([number]) * MIB for number in range(10)]))
    dial(world, server.address, rec)
    world.until(lambda: len(rec.frames) == 10)
    assert [(frame[0], len(frame)) for frame in rec.frames] == [(number, MIB) for number in range(10)]
    assert {"pause", "resume"} <= set(rec.log)
    rec.conn.close()
    world.until(lambda: rec.lost and not server.connections)
    assert (rec.reason, server.stats()["closed_peer"]) == (CloseReason.LOCAL, 1)
    server.close()


@needs_openssl
def test_tls_connect_refuses_a_server_that_renegotiates(world):
    """With a context that would allow it: a write might then have to wait for a read, so it ends, with a reason."""
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", SERVER, "-key", SERVER, "-tls1_2"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        printed = b""
        while (accepts := re.search(rb"ACCEPT 127.0.0.1:(\d+)\n", printed)) is None:
            printed += (more := process.stdout.read1(65536))
            assert more, printed.decode()
        rec = FrameRecorder(made=lambda rec: rec.conn.send(b"hello"))
        dial(world, ("127.0.0.1", int(accepts[1])), rec, ssl=foreign_client())
        world.until(lambda: rec.log)
        process.stdin.write(b"r\n")
        process.stdin.flush()
        world.until(lambda: rec.lost)
        assert rec.reason is CloseReason.TLS
        assert str(rec.exc) == "the peer asks for a renegotiation, and that is refused; use TLS 1.3"
        assert rec.conn.tls.version == "TLSv1.2"  # which OpenSSL does not tell in the middle of a handshake
    finally:
        process.kill()
        process.communicate()


# --- BlockingClient --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_tls_blocking_client_talks_to_pythons_ssl(foreign, version):
    """A plain socket, the same decoder, the same TLS."""
    address = foreign(echo_all, foreign_server(version=version))
    with BlockingClient(address, timeout=PATIENCE, ssl=tls.client_context(CA)) as client:
        assert client.tls.version == version.name.replace("_", ".")
        client.send(b"hello")
        client.expect(b"hello")
        client.send_many([b"", b"x" * MIB])
        assert [client.recv(), client.recv()] == [b"", b"x" * MIB]
        client.send(b"last")
        client.write_eof()
        assert list(client) == [b"last"]
    assert client.fileno() == -1
    client.close()


def test_tls_blocking_client_is_told_of_a_cut_stream(foreign):
    """`ssl.SSLSocket` hides it by default; here what was whole is returned, and then the fault."""
    for data in (b"", encode(b"cut")[:6]):
        address = foreign(lambda sock, data=data: cut(sock, data))
        with BlockingClient(address, timeout=PATIENCE, ssl=tls.client_context(CA)) as client:
            assert client.recv() == b"whole"
            for _ in range(2):
                with pytest.raises(TlsError, match="close_notify"):
                    client.recv()


def cut(sock, data):
    """Send a whole frame and *data*; then end TCP's stream without a close_notify."""
    sock.sendall(encode(b"whole") + data)
    socket.socket.shutdown(sock, socket.SHUT_WR)
    linger(sock)


def test_tls_blocking_client_sees_the_end_of_a_server_that_keeps_tcp_open(foreign):
    """close_notify is the end; a server that waits for ours may have sent it in the packet of its last flight."""
    context = tls.client_context(CA)
    with BlockingClient(foreign(lambda sock: (sock.sendall(encode(b"bye")), sock.unwrap())), ssl=context) as client:
        assert list(client) == [b"bye"]
        with pytest.raises(ConnectionClosed):
            client.recv()


def test_tls_blocking_client_closes_with_a_close_notify(foreign):
    """So that the server can tell it from a cut."""
    ends, ended = [], threading.Event()

    def server(sock):
        sock.sendall(encode(b"hello"))
        try:
            ends.append(sock.recv(10))
        except ssl.SSLError as exc:
            ends.append(exc)
        ended.set()

    with BlockingClient(foreign(server), timeout=PATIENCE, ssl=tls.client_context(CA)) as client:
        client.expect(b"hello")
    assert ended.wait(PATIENCE)
    assert ends == [b""]


def test_tls_blocking_client_times_out_in_the_handshake_and_in_recv(foreign):
    """One deadline for everything that connecting takes."""
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(TimeoutError):
        BlockingClient(listener.getsockname(), timeout=0.05, ssl=tls.client_context(CA))
    client = BlockingClient(foreign(linger), timeout=PATIENCE, ssl=tls.client_context(CA))
    with client, pytest.raises(TimeoutError):
        client.recv(timeout=0.05)


def test_tls_blocking_client_refuses_whom_it_does_not_trust(foreign):
    """And leaves no descriptor behind."""
    with pytest.raises(TlsError, match="signed certificate; if it is the right server"):
        BlockingClient(foreign(linger, foreign_server(STRANGER)), timeout=PATIENCE, ssl=tls.client_context(CA))
