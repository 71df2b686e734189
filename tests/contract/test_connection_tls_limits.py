"""The bounds of a connection where TLS makes a difference: its handshake, its records, and what it holds twice."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import contextlib
import functools
import os
import ssl

import pytest
from forks import in_child
from peers import DataRecorder, FrameRecorder, World, encode, narrow_pair
from tlspeers import VERSIONS, foreign_client, foreign_server, make_world, shake, tls_world

from evloop import CloseReason
from evloop._connection_shared import Budget
from evloop._connection_tls import SEAL_BUDGET, TlsConnection
from evloop._tls_stream import STEP
from evloop.socket_queues import queued_output

LONG = encode(bytes(256))


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def world(request, make_world):
    """Every connection in it has TLS, of that version."""
    return make_world(peer_context=foreign_client(version=request.param))


def met(world, rec, **options):
    """Return a connection of *rec* and its manual peer, after their handshake."""
    conn, peer = world.manual(rec, **options)
    shake(world, peer)
    world.until(lambda: conn.tls is not None)
    world.settle()
    return conn, peer


def send(world, peer, data):
    """Have *peer* send *data*, as it is, and the world take it."""
    peer.sock.sendall(data)
    world.settle()


# --- the handshake ---------------------------------------------------------------------------------------------------


def test_tls_idle_timeout_runs_in_the_handshake(tls_world):
    """Without a handshake_timeout nothing else would ever close a peer that connects and is silent."""
    conn, peer = tls_world.manual(FrameRecorder(), handshake_timeout=0, idle_timeout=10)
    tls_world.advance(9)
    send(tls_world, peer, peer.flight()[:20])
    tls_world.advance(9.999)
    assert not conn.closed
    tls_world.advance(0.002)
    assert (conn.close_reason, conn.closed) == (CloseReason.IDLE, True)
    assert tls_world.reactor.stats()["timers"] == 0


def test_tls_first_frame_timeout_begins_with_the_connection(tls_world):
    """The handshake has a bound of its own, and takes its time on a poor line."""
    rec = FrameRecorder()
    conn, peer = tls_world.manual(rec, handshake_timeout=30, first_frame_timeout=10)
    tls_world.advance(20)
    shake(tls_world, peer)
    tls_world.until(lambda: rec.log == ["made"])
    tls_world.advance(9.999)
    assert not conn.is_closing()
    tls_world.advance(0.002)
    assert conn.close_reason is CloseReason.FIRST_FRAME_TIMEOUT


def test_tls_handshake_counts_for_the_budget_and_is_given_back(tls_world):
    """Half a ClientHello from each of many peers is memory, too."""
    budget = Budget(1 << 30, list)
    conn, peer = tls_world.manual(FrameRecorder(), prepare=lambda conn: setattr(conn, "_budget", budget))
    send(tls_world, peer, peer.flight()[:100])
    assert (budget.used, conn.stats.input) == (100, 100)
    conn.abort()
    assert (budget.used, conn.stats.input) == (0, 0)


def test_fork_child_uses_a_connection_in_its_handshake_and_the_parents_goes_on(tls_world):
    """The child's copy is closed without a byte; its send must raise, as on any connection."""
    rec = FrameRecorder()
    conn, peer = tls_world.manual(rec)

    def child():
        with pytest.raises(RuntimeError) as caught:
            conn.send(b"from the child")
        conn.close()
        conn.abort()
        return str(caught.value), conn.fileno()

    refusal = f"this reactor belongs to process {os.getpid()}; make a new one after fork()"
    assert in_child(child) == (refusal, -1)
    shake(tls_world, peer)
    tls_world.until(lambda: rec.log == ["made"])


def test_fork_child_sends_no_close_notify(world):
    """It would be sealed with the parent's next number: the peer would take the stream for ended, or for forged."""
    conn, peer = met(world, FrameRecorder())
    before = len(peer.wire)
    assert in_child(lambda: (conn.close(), conn.write_eof(), conn.closed)[2]) is True
    world.settle()
    assert (len(peer.wire), peer.eof, peer.truncated) == (before, False, False)


# --- an unfinished record --------------------------------------------------------------------------------------------


def test_tls_frame_timeout_runs_for_an_unfinished_record(world):
    """Otherwise a peer that trickles records, of which no byte can be opened, would never be late."""
    rec = FrameRecorder()
    conn, peer = met(world, rec, frame_timeout=10)
    send(world, peer, peer.say(LONG))
    record = peer.say(LONG)
    for byte in record[:4]:
        send(world, peer, bytes([byte]))
        world.advance(2.5 - 0.001)
    assert (conn.is_closing(), conn.stats.input) == (False, 4)
    world.advance(0.005)
    assert conn.close_reason is CloseReason.FRAME_TIMEOUT
    assert rec.frames == [bytes(256)]


def test_tls_frame_timeout_goes_on_from_the_record_to_its_frame(world):
    """A frame that needs several records has one deadline, from its first byte on."""
    conn, peer = met(world, FrameRecorder(), frame_timeout=10)
    record = peer.say(LONG[:100])
    send(world, peer, record[:30])
    world.advance(6)
    send(world, peer, record[30:])
    world.advance(3.999)
    assert not conn.is_closing()
    world.advance(0.002)
    assert conn.close_reason is CloseReason.FRAME_TIMEOUT


def test_tls_frame_timeout_is_off_between_whole_records(world):
    """A peer that has said all it began to say may be silent; the next record begins anew."""
    rec = FrameRecorder()
    conn, peer = met(world, rec, frame_timeout=10)
    for _ in range(3):
        record = peer.say(LONG)
        send(world, peer, record[:-1])
        world.advance(9.9)
        send(world, peer, record[-1:])
        assert conn.stats.input == 0
        world.advance(1000)
        assert not conn.is_closing()
    assert len(rec.frames) == 3
    assert world.reactor.stats()["timers"] == 0


def test_tls_frame_timeout_of_a_session_ticket_does_not_become_the_next_frames():
    """A record without payload begins and ends at the same frame; what comes behind it has a deadline of its own."""
    maker = functools.partial(TlsConnection, context=foreign_client(), server_side=False, server_hostname="localhost")
    sent, answers = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = foreign_server(version=ssl.TLSVersion.TLSv1_3).wrap_bio(sent, answers, server_side=True)
    with contextlib.closing(World(maker)) as world:
        conn, peer = world.connect(FrameRecorder(), frame_timeout=10, reading=True)
        for _ in range(2):  # ClientHello; Finished, which is answered with tickets
            world.until(lambda: peer.received)
            sent.write(peer.received)
            peer.received.clear()
            with contextlib.suppress(ssl.SSLWantReadError):
                server.do_handshake()
            tickets = answers.read()
            send(world, peer, tickets if conn.tls is None else tickets[:30])
        assert (len(tickets) > 30, conn.stats.input) == (True, 30)
        world.advance(6)
        send(world, peer, tickets[30:])
        assert conn.stats.input == 0
        world.advance(100)
        assert not conn.is_closing()
        server.write(LONG[:5])
        send(world, peer, answers.read())
        world.advance(9.999)
        assert not conn.is_closing()
        world.advance(0.002)
        assert conn.close_reason is CloseReason.FRAME_TIMEOUT


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6, 7, 64, 100_000])
def test_tls_stream_unfinished_is_what_is_behind_the_last_whole_record(world, step):
    """However the bytes are cut: in a header, behind it, in the body, at a boundary."""
    conn, peer = met(world, DataRecorder(), framing=None)
    stream = conn._stream
    records = [peer.say(bytes(size)) for size in (1, 300, STEP, 1, 70)]
    ends = [sum(map(len, records[:count])) for count in range(len(records) + 1)]
    wire = b"".join(records)
    # In large pieces through the body of the full record, which is no edge.
    at = 0
    while at < len(wire):
        size = min(step if not 400 < at < STEP else 4000, len(wire) - at)
        list(stream.feed(wire[at : at + size]))
        at += size
        assert stream.unfinished == at - max(end for end in ends if end <= at), at
    assert stream.unfinished == 0


# --- output ----------------------------------------------------------------------------------------------------------


def test_tls_output_that_is_sealed_and_not_taken_counts_twice_for_the_budget(world):
    """It is there twice; so a bound on memory that counts it once would be passed by as much."""
    budget = Budget(1 << 40, list)
    prepare = {"prepare": lambda conn: setattr(conn, "_budget", budget)}
    conn, peer = world.connect(FrameRecorder(), pair=narrow_pair, **prepare)
    for _ in range(4):
        conn.send(bytes(1 << 20))
        world.settle()
        twice = budget.used - conn.stats.output
        assert 0 < twice <= SEAL_BUDGET + 2 * SEAL_BUDGET // STEP * 32
    peer.reading = True
    world.until(lambda: len(peer.received) == 4 * ((1 << 20) + 4))
    world.settle()
    assert (budget.used, conn.stats.output) == (0, 0)


def test_tls_budget_is_given_back_by_a_reset(world):
    """What is sealed goes with the connection."""
    budget = Budget(1 << 40, list)
    prepare = {"prepare": lambda conn: setattr(conn, "_budget", budget)}
    conn, _ = world.connect(FrameRecorder(), pair=narrow_pair, **prepare)
    conn.send(bytes(1 << 20))
    world.settle()
    assert budget.used > conn.stats.output
    conn.abort()
    assert budget.used == 0


def test_tls_write_timeout_spares_a_peer_that_takes_what_records_add(world):
    """What a record adds to its payload is sent first, as far as the connection counts: that is progress, too."""
    world.spy()
    conn, _ = world.connect(FrameRecorder(), write_timeout=10)
    world.kernel.allow_writes(conn, 0)
    conn.send(bytes(10_000))
    for _ in range(6):
        world.kernel.allow_writes(conn, 3)
        world.turn(3)
        world.kernel.allow_writes(conn, 0)
        world.until(lambda: not queued_output(conn.fileno()))  # an acknowledgement that comes late is progress, too
        assert conn.stats.output == 10_004
        world.advance(9)
        assert not conn.is_closing()
    world.advance(10.001)
    assert conn.close_reason is CloseReason.WRITE_TIMEOUT
