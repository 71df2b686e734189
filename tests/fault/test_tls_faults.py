"""Faults below the frames of TLS: peers that speak something else, stop in the handshake, or end without a word.

Catalogue 58, but for certificates that are reloaded, which no server does yet.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import ssl
import subprocess
import time

import pytest
from programs import frame, receive_frame
from scene import WORST, Scene, ending, more_files, needs, reset, until
from tlspeers import CA, EXPIRED, SERVER, STRANGER, foreign_client

pytestmark = pytest.mark.fault


def tls_scene(twin, certificate=SERVER, **options):
    """Return a scene in which the server and the witness speak TLS."""
    return Scene(twin, tls=foreign_client(), certificate=certificate, **options)


def flights(context=None):
    """Return the client's half of a handshake on memory, and its first flight, the ClientHello."""
    inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = (context or foreign_client()).wrap_bio(inward, outward, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return tls, inward, outward, outward.read()


@pytest.mark.parametrize("what", ["http", "garbage", "nothing", "hello and garbage"])
def test_tls_peer_that_speaks_something_else_is_closed_and_counted(twin, what):
    """Plain text, random bytes, an end at once, and a handshake that turns into noise."""
    hello = flights()[3]
    said = {"http": b"GET / HTTP/1.1\r\n\r\n", "garbage": bytes(range(200)), "nothing": b""}
    with tls_scene(twin) as scene:
        scene.expect(r"handshake|TLS|reason=(truncated|peer)") if what != "nothing" else None
        for _ in range(5):
            peer = scene.connect(plain=True)
            peer.sendall(said.get(what, hello + b"\x17\x03\x03\x00\x20" + bytes(32)))
            if what == "nothing":
                peer.close()
            else:
                assert ending(peer) in ("eof", "reset")
        if what == "nothing":  # somebody has looked whether the port is open
            until(lambda: scene.closed("peer") == 5)
        else:
            until(lambda: scene.stats().get("handshake_errors") == 5)
        assert len(scene.log().splitlines()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["byte by byte", "after the hello", "before the hello", "hello and a half"])
def test_tls_handshake_that_does_not_come_to_its_end_ends_at_its_deadline(twin, how):
    """The deadline is absolute, and bytes that trickle do not move it."""
    hello = flights()[3]
    with tls_scene(twin, limits={"handshake_timeout": 1.0}) as scene:
        scene.expect(r"handshake")
        slow, began = scene.connect(plain=True), time.monotonic()
        if how == "byte by byte":
            for index in range(len(hello)):
                if select.select([slow], [], [], 0.2)[0]:
                    break
                slow.sendall(hello[index : index + 1])
        elif how != "before the hello":
            slow.sendall(hello if how == "after the hello" else hello + hello[: len(hello) // 2])
        assert ending(slow) in ("eof", "reset")
        if how != "hello and a half":  # which is noise, where a Finished should be
            assert 0.9 < time.monotonic() - began < 1.0 + WORST
        until(lambda: scene.stats().get("handshake_errors") == 1)


@pytest.mark.slow
def test_tls_half_handshakes_by_the_hundred_do_not_block_the_established(twin):
    """Five hundred clients say hello and nothing more; each costs the server a signature, and the witness little."""
    more_files()
    hello = flights()[3]
    with tls_scene(twin, worst=2 * WORST, limits={"handshake_timeout": 30.0}) as scene:
        crowd = [scene.connect(plain=True) for _ in range(500)]
        for sock in crowd:
            sock.sendall(hello)
        until(lambda: scene.stats()["connections"] == 501)
        assert scene.talk() == b"are you there?"
        for sock in crowd:
            reset(sock)
        until(lambda: scene.stats().get("handshake_errors") == 500)


def test_tls_of_an_old_version_is_refused(twin):
    """TLS 1.0 and 1.1 are deprecated (RFC 8996)."""
    with tls_scene(twin) as scene:
        scene.expect(r"handshake")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(CA)
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            old.wrap_socket(scene.connect(plain=True), server_hostname="localhost")
        until(lambda: scene.stats().get("handshake_errors") == 1)


@pytest.mark.parametrize("certificate", [EXPIRED, STRANGER], ids=["expired", "stranger"])
def test_tls_certificate_that_the_client_refuses_is_an_alert_in_the_log(twin, certificate):
    """The client leaves with an alert; the operator reads which one, and the server goes on."""
    scene = Scene(twin, worst=None, certificate=certificate)
    with scene:
        scene.expect(r"handshake")
        with pytest.raises(ssl.SSLCertVerificationError):
            foreign_client().wrap_socket(scene.connect(plain=True), server_hostname="localhost")
        until(lambda: scene.stats().get("handshake_errors") == 1)
        scene.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        scene.tls.check_hostname, scene.tls.verify_mode = False, ssl.CERT_NONE


@pytest.mark.parametrize("cut", ["in a frame", "between frames"])
def test_tls_end_without_close_notify_is_truncated(twin, cut):
    """A bare FIN may be an attacker's; so it is no end of a stream, wherever it comes."""
    with tls_scene(twin) as scene:
        scene.expect(r"reason=truncated")
        peer = scene.connect()
        assert scene.talk(b"hello", peer) == b"hello"
        if cut == "in a frame":
            peer.sendall(frame(b"half")[:6])
        socket.socket.shutdown(peer, socket.SHUT_WR)
        until(lambda: scene.closed("truncated") == 1)


@needs("openssl")  # Python's ssl cannot ask for it
def test_tls_renegotiation_is_refused(twin):
    """TLS 1.2's renegotiation costs the server a signature whenever a client likes: it is answered with an alert."""
    with tls_scene(twin) as scene:
        scene.expect(r"reason=tls")
        command = ["openssl", "s_client", "-tls1_2", "-CAfile", CA, "-connect", str(scene.address)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as client:
            said = b""
            while b"---\n" not in said or b"Verify return code: 0" not in said:
                said += client.stdout.read1()
            client.stdin.write(b"R\n")  # the program's word for it
            client.stdin.flush()
            said = client.stdout.read()
        assert b"no renegotiation" in said


def test_tls_sigterm_during_handshakes_ends_in_time(twin):
    """Catalogue 61.  Who has not finished his handshake has nothing to be waited for."""
    hello = flights()[3]
    with Scene(twin, worst=None, tls=foreign_client(), certificate=SERVER, limits={"drain_timeout": 2.0}) as scene:
        for count in range(20):
            scene.connect(plain=True).sendall(hello[: 20 * count])
        until(lambda: scene.stats()["connections"] == 20)
        scene.send_signal(signal.SIGTERM)
        assert scene.process.wait(2.0 + WORST) == 0
        assert "Traceback" not in scene.log()
        scene._check = lambda: None


def test_tls_close_with_queued_output_flushes_and_says_so(twin):
    """A server's last words arrive whole, and the end is a close_notify."""
    with tls_scene(twin) as scene:
        peer = scene.connect()
        peer.suppress_ragged_eofs = False
        peer.sendall(frame(b"order: big 3") + frame(b"order: last goodbye"))
        for _ in range(3):
            assert receive_frame(peer) == bytes(1 << 20)
        assert receive_frame(peer) == b"goodbye"
        assert peer.recv(1) == b""  # without one this would raise SSLEOFError
