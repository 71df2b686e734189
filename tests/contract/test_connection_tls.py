"""What TLS adds to a connection: a handshake before it, records around it, and an end that nobody else can send."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import errno
import os
import socket
import ssl

import pytest
from peers import BatchRecorder, DataRecorder, FrameRecorder, World, decode, echo, encode, narrow_pair, tcp_pair
from tlspeers import (
    CA,
    CLIENT,
    STRANGER,
    VERSIONS,
    foreign_client,
    foreign_server,
    make_world,
    shake,
    tls_world,
)

from evloop import CloseReason, TlsError, TruncatedFrame

MIB = 1 << 20
SECRET = b"a word that must not be seen"


def lose(world, rec):
    """Turn until the connection of *rec* is lost, and return its reason."""
    world.until(lambda: rec.lost)
    world.turn(3)
    return rec.reason


def gone(world, conn):
    """Turn until *conn*, whose protocol hears nothing, is over; return its reason and its exception."""
    world.until(lambda: world.served)
    (found,) = world.served
    assert found[0] is conn
    return conn.close_reason, found[1]


# --- the handshake ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_tls_connection_is_made_after_the_handshake(make_world, version):
    """A protocol that is told earlier would send to somebody who has not shown who it is."""
    world = make_world(peer_context=foreign_client(version=version))
    rec = FrameRecorder(frame=echo)
    conn, peer = world.manual(rec, reading=True)
    world.turn(2)
    assert (rec.log, conn.tls, conn.state) == ([], None, "handshake")
    shake(world, peer)
    world.until(lambda: rec.log == ["made"])
    assert (conn.tls.version, conn.state) == (version.name.replace("_", "."), "open")
    assert conn.tls.cipher == peer.tls.cipher()[0]
    assert (conn.tls.alpn, conn.tls.peer_certificate, conn.tls.peer_certificate_der) == (None, None, None)
    peer.sock.sendall(peer.say(encode(b"hi")))
    world.until(lambda: peer.frames == [b"hi"])
    assert world.reactor.stats()["timers"] == 0


def test_tls_connection_data_behind_the_last_flight_is_delivered(make_world):
    """A client may send its question in the packet that completes its handshake; nothing else will wake us for it."""
    world = make_world()
    rec = FrameRecorder(frame=echo)
    _, peer = world.manual(rec, reading=True)
    peer.sock.sendall(peer.flight())
    world.until(lambda: peer.wire)
    peer.sock.sendall(peer.flight() + peer.say(encode(b"at once", b"and more")))
    world.until(lambda: peer.frames == [b"at once", b"and more"])
    assert rec.log == ["made", "frame", "frame"]


def test_tls_connection_exit_in_connection_made_loses_nothing(tls_world):
    """The reactor may run again, and the data has left the kernel already."""

    def leave(rec):
        raise KeyboardInterrupt

    rec = FrameRecorder(made=leave, frame=echo)
    _, peer = tls_world.manual(rec, reading=True)
    peer.sock.sendall(peer.flight())
    tls_world.until(lambda: peer.wire)
    peer.sock.sendall(peer.flight() + peer.say(encode(b"at once")))
    with pytest.raises(KeyboardInterrupt):
        tls_world.turn(3)
    tls_world.until(lambda: peer.frames == [b"at once"])


def test_tls_connection_sent_to_before_its_handshake_drops_it(tls_world):
    """A server's connections can be iterated over; plain text must never leave, nor the next peer's secret late."""
    rec = FrameRecorder()
    conn, peer = tls_world.manual(rec, reading=True)
    conn.send(SECRET)
    tls_world.turn(3)
    assert (peer.wire, conn.stats.output) == (b"", 0)
    shake(tls_world, peer)
    tls_world.settle()
    assert (peer.received, SECRET in peer.wire, rec.log) == (b"", False, ["made"])


def test_tls_connection_write_eof_before_its_handshake_waits_for_it(tls_world):
    """Half a handshake has no direction that could be closed."""
    rec = FrameRecorder()
    conn, peer = tls_world.manual(rec, reading=True)
    conn.write_eof()
    tls_world.turn(2)
    assert not peer.truncated
    shake(tls_world, peer)
    tls_world.until(lambda: peer.eof)
    assert rec.log == ["made"]


@pytest.mark.parametrize("seconds", [10, 0.5])
@pytest.mark.parametrize("sent", ["nothing", "half", "flight"])
def test_tls_connection_handshake_timeout_ends_it_at_the_limit(tls_world, seconds, sent):
    """Bytes do not prolong it: a client that trickles its ClientHello holds a descriptor and nothing else."""
    conn, peer = tls_world.manual(FrameRecorder(), handshake_timeout=seconds)
    hello = peer.flight()
    peer.sock.sendall({"nothing": b"", "half": hello[: len(hello) // 2], "flight": hello}[sent])
    tls_world.turn(3)
    tls_world.advance(seconds - 0.125)
    assert not conn.closed
    tls_world.advance(0.125)
    reason, exc = gone(tls_world, conn)
    assert (reason, conn.closed) == (CloseReason.HANDSHAKE, True)
    assert str(exc) == f"no TLS after {seconds:g} s (handshake_timeout)"


def test_tls_connection_handshake_timeout_zero_is_none(tls_world):
    """0 means no bound, as everywhere."""
    conn, _ = tls_world.manual(FrameRecorder(), handshake_timeout=0)
    tls_world.advance(1e6)
    assert not conn.closed
    assert tls_world.reactor.stats()["timers"] == 0


@pytest.mark.parametrize(
    ("data", "guess"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "looks like an HTTP request"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "looks like an SSH banner"),
        (encode(b"hello"), "it began with 00 00 00 05"),
        (b"\xff" * 1000, "ff ff ff ff"),
    ],
    ids=["http", "ssh", "frame", "noise"],
)
def test_tls_connection_plain_text_is_refused_and_named(tls_world, data, guess):
    """The commonest mistake of all: the right port, without TLS."""
    conn, peer = tls_world.manual(FrameRecorder(), linger=0)
    peer.sock.sendall(data)
    reason, exc = gone(tls_world, conn)
    assert reason is CloseReason.HANDSHAKE
    assert isinstance(exc, TlsError)
    assert "the peer does not speak TLS" in str(exc)
    assert guess in str(exc)


def test_tls_connection_cut_at_every_offset_of_the_handshake_is_no_connection(make_world):
    """Whatever the network does then, the protocol has heard nothing, and there is one reason."""
    world = make_world()
    _, probe = world.manual(FrameRecorder())
    hello = len(probe.flight())
    for offset in [0, 1, 4, 5, 6, *range(7, hello, 37), hello]:
        rec = FrameRecorder()
        world.served.clear()
        conn, peer = world.manual(rec, linger=0)
        peer.sock.sendall(peer.flight()[:offset])
        peer.cut()
        reason, exc = gone(world, conn)
        if offset:
            assert (reason, str(exc)[:31]) == (CloseReason.HANDSHAKE, "the peer closed the connection ")
        else:
            assert (reason, exc) == (CloseReason.PEER, None)
        assert rec.log == []
        peer.close()


@pytest.mark.parametrize("offset", [0, 5, 100])
def test_tls_connection_reset_inside_the_handshake_is_reset(tls_world, offset):
    """A reset stays what it is."""
    rec = FrameRecorder()
    conn, peer = tls_world.manual(rec)
    peer.sock.sendall(peer.flight()[:offset])
    tls_world.turn()
    peer.reset()
    reason, exc = gone(tls_world, conn)
    assert (reason, rec.log) == (CloseReason.RESET, [])
    assert isinstance(exc, ConnectionResetError)


@pytest.mark.parametrize("end", ["close", "close_for", "abort"])
def test_tls_connection_ended_inside_the_handshake_ends_at_once(tls_world, end):
    """A server that stops owes a half-open handshake nothing."""
    rec = FrameRecorder()
    conn, peer = tls_world.manual(rec)
    peer.sock.sendall(peer.flight())
    if end == "close_for":
        conn.close_for(CloseReason.SHUTDOWN)
    else:
        getattr(conn, end)()
    assert conn.closed
    reason, _ = gone(tls_world, conn)
    assert reason.value == {"close": "local", "close_for": "shutdown", "abort": "aborted"}[end]
    assert rec.log == []
    assert tls_world.reactor.stats()["timers"] == 0


def test_tls_connection_of_too_old_a_client_is_refused_with_an_alert(make_world):
    """Both sides are told: the client by the alert, which a reset must not destroy."""
    world = make_world(foreign_server(version=ssl.TLSVersion.TLSv1_3), foreign_client(version=ssl.TLSVersion.TLSv1_2))
    conn, peer = world.manual(FrameRecorder(), reading=True)
    peer.sock.sendall(peer.flight())
    world.until(lambda: peer.wire and peer.sock.fileno() >= 0)
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        peer.tls.do_handshake()
    peer.cut()
    reason, exc = gone(world, conn)
    assert reason is CloseReason.HANDSHAKE
    assert "no version of TLS" in str(exc)
    assert exc.reason == "UNSUPPORTED_PROTOCOL"


def test_tls_connection_closed_after_its_handshake_failed_keeps_that_reason(tls_world):
    """A server that stops while the alert is on its way must not hide what happened."""
    conn, peer = tls_world.manual(FrameRecorder())
    peer.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    tls_world.until(lambda: conn.close_reason)
    assert not conn.closed  # waits for the peer's end, so that no reset destroys the alert
    conn.close_for(CloseReason.SHUTDOWN)
    peer.cut()
    reason, exc = gone(tls_world, conn)
    assert (reason, type(exc)) == (CloseReason.HANDSHAKE, TlsError)
    assert tls_world.reactor.stats()["timers"] == 0


def test_connection_without_tls_has_none_to_tell():
    """The attribute is there on each connection."""
    world = World()
    conn, _ = world.connect(FrameRecorder())
    assert conn.tls is None
    world.close()


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("certificate", [CLIENT, None, STRANGER], ids=["good", "none", "stranger"])
def test_tls_connection_with_client_certificates_takes_only_the_cas(make_world, version, certificate):
    """Mutual TLS is access control; the application can read the name."""
    context = foreign_server()
    context.load_verify_locations(CA)
    context.verify_mode = ssl.CERT_REQUIRED
    world = make_world(context, foreign_client(version=version, certificate=certificate))
    rec = FrameRecorder()
    conn, _ = world.connect(rec, reading=True, linger=0)
    if certificate == CLIENT:
        assert conn.tls.peer_certificate["subject"] == ((("commonName", "evloop test client"),),)
        assert len(conn.tls.peer_certificate_der) > 100
    else:
        reason, exc = gone(world, conn)
        assert (reason, rec.log) == (CloseReason.HANDSHAKE, [])
        assert ("shows no certificate" if certificate is None else "is not accepted: ") in str(exc)


# --- records ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recorder", [FrameRecorder, BatchRecorder])
def test_tls_connection_delivers_everything_of_a_read_while_the_kernel_is_quiet(tls_world, recorder):
    """The classic trap: data inside of OpenSSL, nothing in the kernel, and no event to come."""
    rec = recorder()
    _, peer = tls_world.connect(rec)
    frames = [bytes([number]) * 3000 for number in range(60)]  # eleven records, and frames across their borders
    peer.write(encode(*frames))
    tls_world.until(lambda: len(rec.frames) == 60)
    assert rec.frames == frames


def test_tls_connection_records_cut_at_every_byte_deliver_the_same(tls_world):
    """A proxy between the two may cut wherever it likes."""
    rec = FrameRecorder(frame=echo)
    _, peer = tls_world.manual(rec, reading=True)
    wire = peer.flight()
    while not peer.established:
        for byte in wire:
            peer.sock.sendall(bytes([byte]))
            tls_world.turn()
        wire = peer.flight()
    wire += peer.say(encode(b"one", b"", b"three")) + peer.say(encode(b"x" * 300)) + peer.end()
    for byte in wire:
        peer.sock.sendall(bytes([byte]))
        tls_world.turn()
    tls_world.until(lambda: rec.lost or peer.eof)
    assert peer.frames == [b"one", b"", b"three", b"x" * 300]
    peer.cut()
    assert lose(tls_world, rec) is CloseReason.PEER


def test_tls_connection_mebibytes_both_ways_at_once_are_the_same(tls_world):
    """Sealing and opening take turns inside one OpenSSL object."""
    rec = FrameRecorder(made=lambda rec: rec.conn.send(b"d" * MIB), frame=echo)
    conn, peer = tls_world.connect(rec, reading=True, high_water=16 * MIB)
    conn.send_many([b"e" * MIB, b"f" * MIB])
    peer.write(encode(b"u" * MIB, b"v" * MIB))
    tls_world.until(lambda: len(peer.received) == 5 * (MIB + 4))
    assert [(len(frame), frame[:1]) for frame in decode(peer.received)][:3] == [(MIB, b"d"), (MIB, b"e"), (MIB, b"f")]
    assert rec.frames == [b"u" * MIB, b"v" * MIB]


@pytest.mark.parametrize("size", [16383, 16384, 16385, 65536, 262143, 262144, 262145])
def test_tls_connection_frames_at_the_sizes_of_records_and_budgets_pass(tls_world, size):
    """16 KiB is a record, 256 KiB a turn's writing."""
    rec = DataRecorder(data=lambda rec, data: rec.conn.send(data))
    _, peer = tls_world.connect(rec, reading=True, framing=None)
    data = bytes(range(256)) * (size // 256 + 1)
    peer.write(data[:size])
    tls_world.until(lambda: len(peer.received) == size)
    assert peer.received == data[:size]


def test_tls_connection_answers_to_one_read_are_one_record(tls_world):
    """A record costs 22 bytes and a call of the cipher; a hundred small answers share it."""
    _, peer = tls_world.connect(FrameRecorder(frame=echo), reading=True)
    tls_world.settle()
    before = len(peer.wire)
    peer.write(encode(*[b"x"] * 100))
    tls_world.until(lambda: len(peer.frames) == 100)
    assert len(peer.wire) - before == 500 + 22


def test_tls_connection_shows_no_plain_text_on_the_wire(make_world):
    """From every place that sends: callbacks, timers, other connections, behind a full kernel, while closing."""
    world = make_world()
    rec = FrameRecorder(
        made=lambda rec: rec.conn.send(SECRET),
        frame=lambda rec, frame: rec.conn.send_many([SECRET] * 50),
        resume=lambda rec: rec.conn.send(SECRET),
        eof=lambda rec: rec.conn.send(SECRET),
    )
    conn, peer = world.connect(rec, pair=narrow_pair, high_water=1000, low_water=10)
    other = FrameRecorder(frame=lambda rec, frame: conn.send(SECRET * 500))
    _, second = world.connect(other)
    peer.write(encode(*[b"q"] * 20))
    second.write(encode(b"q"))
    world.reactor.call_later(1, conn.send, SECRET)
    world.turn(5)
    world.advance(2)
    peer.reading = True
    peer.write(b"", fin=True)
    world.until(lambda: peer.eof)
    assert SECRET in peer.received
    assert SECRET not in peer.wire
    assert SECRET[:8] not in peer.wire
    peer.close()


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_tls_connection_damaged_record_ends_it_after_what_was_whole(make_world, version):
    """What was authentic is delivered; the rest is an attack or a broken machine."""
    world = make_world(peer_context=foreign_client(version=version))
    rec = FrameRecorder(frame=echo)
    _, peer = world.manual(rec, reading=True)
    shake(world, peer)
    good, bad = peer.say(encode(b"whole")), bytearray(peer.say(encode(b"damaged")))
    bad[-1] ^= 1
    peer.sock.sendall(good + bytes(bad))
    world.until(lambda: rec.lost or peer.alert)
    peer.cut()
    assert lose(world, rec) is CloseReason.TLS
    assert rec.frames == [b"whole"]
    assert str(rec.exc) == "a record was damaged or forged on its way"
    assert "BAD_RECORD_MAC" in str(peer.alert)


def test_tls_connection_bytes_that_are_no_record_end_it(tls_world):
    """A peer that falls back to plain text."""
    rec = FrameRecorder()
    _, peer = tls_world.connect(rec, linger=0)
    peer.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert lose(tls_world, rec) is CloseReason.TLS
    assert "does not speak TLS" not in str(rec.exc)


def test_tls_connection_output_that_could_not_be_sealed_is_dropped(tls_world):
    """After a fault nothing can be sealed; nothing may leave unsealed, either."""
    rec = FrameRecorder()
    conn, peer = tls_world.connect(rec, pair=narrow_pair, throttle=False)
    conn.send(SECRET * 30000)
    peer.sock.sendall(b"\x17\x03\x03\x00\x20" + b"?" * 32)
    tls_world.until(lambda: conn.close_reason is CloseReason.TLS)
    peer.reading = True
    tls_world.until(lambda: peer.alert or peer.ended)
    peer.cut()
    assert lose(tls_world, rec) is CloseReason.TLS
    assert SECRET[:8] not in peer.wire
    assert SECRET in peer.received


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [b"", encode(b"whole")])
def test_tls_connection_bare_end_of_tcp_is_truncated(tls_world, before):
    """Anybody on the path can send a FIN; only the peer can send a close_notify (RFC 8446, 6.1)."""
    rec = FrameRecorder()
    _, peer = tls_world.connect(rec, linger=0)
    peer.write(before)
    peer.cut()
    assert lose(tls_world, rec) is CloseReason.TRUNCATED
    assert isinstance(rec.exc, TlsError)
    assert "close_notify" in str(rec.exc)
    assert "eof" not in rec.log
    assert rec.frames == ([b"whole"] if before else [])


def test_tls_connection_bare_end_of_tcp_inside_a_frame_says_how_much_was_there(tls_world):
    """The more exact of two true causes."""
    rec = FrameRecorder()
    _, peer = tls_world.connect(rec, linger=0)
    peer.write(encode(b"hello")[:7])
    peer.cut()
    assert lose(tls_world, rec) is CloseReason.TRUNCATED
    assert isinstance(rec.exc, TruncatedFrame)
    assert (rec.exc.have, rec.exc.need) == (7, 9)


def test_tls_connection_close_notify_without_the_end_of_tcp_is_the_end(tls_world):
    """The peer may keep TCP open and wait for our close_notify."""
    rec = FrameRecorder()
    _, peer = tls_world.manual(rec, reading=True)
    shake(tls_world, peer)
    peer.sock.sendall(peer.say(encode(b"last")) + peer.end())
    assert lose(tls_world, rec) is CloseReason.PEER
    assert (rec.frames, rec.exc, peer.eof) == ([b"last"], None, True)


class Mute(socket.socket):
    """A socket that can be told to take nothing, as a kernel does whose buffer is full to the last byte."""

    mute = False

    def send(self, data, flags=0):
        if self.mute:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return super().send(data, flags)


@pytest.mark.parametrize("end", ["close", "write_eof"])
def test_tls_connection_whose_kernel_is_full_still_sends_close_notify(tls_world, end):
    """All payload is gone and 24 bytes are left: without them the peer would take the stream for cut."""
    ours, theirs = tcp_pair()
    sock = Mute(fileno=ours.detach())
    rec = FrameRecorder()
    conn, peer = tls_world.connect(rec, pair=lambda: (sock, theirs), reading=True)
    conn.send(b"last")
    tls_world.until(lambda: peer.frames == [b"last"])
    assert conn.stats.output == 0
    sock.mute = True
    getattr(conn, end)()
    tls_world.turn(5)
    assert not peer.ended
    sock.mute = False
    tls_world.until(lambda: peer.ended)
    assert (peer.eof, peer.truncated) == (True, False)
    conn.close()


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_tls_connection_write_eof_reads_on(make_world, version):
    """Half-close, as with plain TCP: a client that has asked everything waits for the answers."""
    world = make_world(peer_context=foreign_client(version=version))
    rec = FrameRecorder()
    conn, peer = world.connect(rec, reading=True)
    conn.send(b"question")
    conn.write_eof()
    world.until(lambda: peer.eof)
    peer.write(encode(b"answer", b"x" * MIB))
    world.until(lambda: len(rec.frames) == 2)
    assert (rec.frames[0], len(rec.frames[1]), conn.closed) == (b"answer", MIB, False)
    peer.fin()
    assert lose(world, rec) is CloseReason.PEER


def test_tls_connection_payload_and_close_notify_leave_with_one_send(tls_world):
    """One packet for the last answer and the end."""
    rec = FrameRecorder(frame=lambda rec, frame: (rec.conn.send(b"bye"), rec.conn.close()))
    _, peer = tls_world.connect(rec, reading=True)
    tls_world.settle()
    before = len(peer.wire)
    peer.write(encode(b"q"))
    tls_world.until(lambda: peer.eof)
    assert (peer.frames, len(peer.wire) - before) == ([b"bye"], 7 + 22 + 24)


def test_tls_connection_counters_count_records(tls_world):
    """What the kernel took and gave, as without TLS; frames are frames."""
    rec = FrameRecorder(frame=echo)
    conn, peer = tls_world.connect(rec, reading=True)
    peer.write(encode(b"x" * 100_000))
    tls_world.until(lambda: len(peer.received) == 100_004)
    tls_world.settle()
    assert (conn.stats.frames_received, conn.stats.frames_sent, conn.stats.output) == (1, 1, 0)
    assert conn.stats.bytes_sent == len(peer.wire)
