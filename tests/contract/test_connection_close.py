"""What a connection promises about its own end: close, abort, write_eof, half-close, and the timeouts of each."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import errno
import socket

import pytest
from peers import (
    U32,
    BatchRecorder,
    DataRecorder,
    FrameRecorder,
    connection_class,
    decode,
    echo,
    encode,
    world,
)

from evloop import CloseReason

MEBI = bytes(1 << 20)


def close(rec, *args):
    rec.conn.close()


def abort(rec, *args):
    rec.conn.abort()


# --- close -----------------------------------------------------------------------------------------------------------


def test_connection_close_flushes_ten_mebibytes_then_sends_the_end(world):
    """ "Closed" must never mean "cut off": everything that send() accepted arrives."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    for _ in range(10):
        conn.send(MEBI)
    conn.close()
    world.turn(5)
    assert (conn.state, conn.is_closing(), rec.lost) == ("flushing", True, False)
    peer.reading = True
    world.until(lambda: peer.ended)
    assert peer.eof
    assert decode(bytes(peer.received)) == [MEBI] * 10
    assert conn.state == "lingering"
    peer.fin()
    world.until(lambda: rec.lost)
    assert (rec.reason, rec.exc) == (CloseReason.LOCAL, None)


def test_connection_close_with_unread_input_does_not_reset_the_peer(world):
    """Unread bytes at close make the kernel send a reset, which can destroy the last answer."""
    rec = FrameRecorder(frame=lambda rec, frame: (rec.conn.send(b"bye"), rec.conn.close()))
    _, peer = world.connect(rec)
    peer.write(encode(*[b"unread"] * 10_000), fin=True)
    world.until(lambda: rec.lost)
    peer.reading = True
    world.until(lambda: peer.ended)
    assert (peer.eof, peer.frames) == (True, [b"bye"])
    assert len(rec.frames) == 1


def test_connection_close_discards_at_most_its_budget(world):
    """A peer that never stops sending cannot hold a closing connection."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    conn.close()
    peer.write(bytes(16 << 20))
    world.until(lambda: rec.lost)
    assert rec.reason is CloseReason.LOCAL


def test_connection_close_waits_linger_seconds_for_the_peers_end(world):
    """A peer that keeps its side open costs a descriptor for `linger` seconds and no longer."""
    rec = FrameRecorder()
    conn, _ = world.connect(rec, linger=2)
    conn.close()
    world.settle()
    world.advance(1.999)
    assert (conn.state, rec.lost) == ("lingering", False)
    world.advance(0.001)
    assert (conn.state, rec.lost) == ("closed", True)
    assert (rec.reason, rec.exc) == (CloseReason.LOCAL, None)


def test_connection_close_trickle_does_not_prolong_linger(world):
    """The wait is absolute: a byte a second must not hold it open."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, linger=2)
    conn.close()
    world.settle()
    for _ in range(4):
        peer.write(b"x")
        world.advance(0.5)
    world.turn(2)
    assert rec.lost


def test_connection_close_without_linger_closes_at_once(world):
    """linger=0 means none."""
    rec = FrameRecorder()
    conn, _ = world.connect(rec, linger=0)
    conn.send(b"x")
    conn.close()
    assert (conn.state, rec.lost) == ("closed", False)
    world.turn(2)
    assert rec.lost


def test_connection_close_of_a_peer_that_takes_nothing_ends_after_flush_timeout(world):
    """A stopped reader cannot hold a closing connection; the reason says what was lost."""
    rec = FrameRecorder()
    conn, _ = world.connect(rec, flush_timeout=5)
    for _ in range(16):
        conn.send(MEBI)
    conn.close()
    world.settle()
    world.advance(4.999)
    assert not rec.lost
    world.advance(0.002)
    assert rec.reason is CloseReason.FLUSH_TIMEOUT
    assert isinstance(rec.exc, TimeoutError)
    assert "flush_timeout" in str(rec.exc)


def test_connection_close_of_a_peer_that_trickles_is_waited_for(world):
    """A slow line is no reason to cut what was accepted for it."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, flush_timeout=5)
    for _ in range(16):
        conn.send(MEBI)
    conn.close()
    world.settle()
    while conn.state == "flushing":
        for _ in range(16):
            peer.received += peer.sock.recv(1 << 16)
        world.settle()
        world.advance(4)
    peer.reading = True
    world.until(lambda: peer.ended)
    assert decode(bytes(peer.received)) == [MEBI] * 16


def test_connection_close_twice_is_as_once(world):
    """Idempotent, in every state."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, reading=True)
    conn.send(b"x")
    for _ in range(3):
        conn.close()
    peer.fin()
    world.until(lambda: rec.lost)
    conn.close()
    world.turn(3)
    assert rec.log == ["made", "lost"]
    assert peer.frames == [b"x"]


def test_connection_close_then_abort_ends_at_once(world):
    """Out of patience: the second, harder word holds."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    for _ in range(16):
        conn.send(MEBI)
    conn.close()
    conn.abort()
    assert conn.closed
    world.turn(2)
    assert (rec.reason, rec.exc) == (CloseReason.ABORTED, None)
    peer.reading = True
    world.until(lambda: peer.ended)
    assert peer.error == errno.ECONNRESET


def test_connection_close_drops_what_is_decoded_and_not_delivered(world):
    """ "Nothing more is delivered" is the documented word."""
    rec = FrameRecorder(frame=close)
    _, peer = world.connect(rec)
    peer.write(encode(b"1", b"2"), fin=True)
    world.until(lambda: rec.lost)
    assert (rec.frames, rec.log) == ([b"1"], ["made", "frame", "lost"])


def test_connection_close_while_paused_still_sees_the_peers_end(world):
    """Pausing is about delivery; the end must not hang on it."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    conn.pause_reading()
    peer.write(encode(b"unread"), fin=True)
    conn.close()
    world.until(lambda: rec.lost)
    assert rec.reason is CloseReason.LOCAL
    peer.reading = True
    world.until(lambda: peer.ended)
    assert peer.eof


@pytest.mark.parametrize("end", [close, abort])
@pytest.mark.parametrize("where", ["made", "frame", "eof", "pause", "resume", "lost"])
def test_connection_ended_in_a_callback_is_lost_once(world, where, end):
    """Each callback may end its own connection."""

    def fill(rec, frame):
        while rec.log.count("pause") == 0:
            rec.conn.send(MEBI)

    actions = {"frame": fill} if where in ("pause", "resume") else {}
    rec = FrameRecorder(**{**actions, where: end})
    _, peer = world.connect(rec)
    peer.write(encode(b"1"))
    world.settle()
    peer.reading = True
    world.settle()
    if (peer.sock.fileno() >= 0 and not peer.ended) or peer.eof:
        peer.fin()
    world.until(lambda: rec.lost)
    assert where in rec.log
    assert rec.log.count("lost") == 1
    if where != "lost":
        assert rec.reason is (CloseReason.LOCAL if end is close else CloseReason.ABORTED)
        assert rec.log[-2] == where


@pytest.mark.parametrize("recorder", [BatchRecorder, DataRecorder])
def test_connection_closed_in_a_batch_callback_is_lost_once(world, recorder):
    """The other receivers close as well."""
    rec = recorder(frames=close, data=close)
    _, peer = world.connect(rec, framing=None if recorder is DataRecorder else U32)
    peer.write(encode(b"1"), fin=True)
    world.until(lambda: rec.lost)
    assert rec.reason is CloseReason.LOCAL


def test_connection_lost_is_not_called_inside_of_close(world):
    """A callback in the middle of another one finds half-changed state."""
    rec = FrameRecorder()
    conn, _ = world.connect(rec, linger=0)
    conn.close()
    assert conn.closed
    assert rec.log == ["made"]
    world.turn()
    assert rec.log == ["made", "lost"]


def test_connection_reset_while_flushing_is_told(world):
    """`LOCAL` means "everything was flushed"; here it was not, and the reason has to say so."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    for _ in range(16):
        conn.send(MEBI)
    conn.close()
    world.settle()
    peer.reset()
    world.until(lambda: rec.lost)
    assert rec.reason is CloseReason.RESET
    assert isinstance(rec.exc, OSError)


def test_connection_reset_while_lingering_is_an_orderly_end(world):
    """Everything was sent; how the peer leaves is its own affair."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    conn.close()
    world.settle()
    peer.reset()
    world.until(lambda: rec.lost)
    assert (rec.reason, rec.exc) == (CloseReason.LOCAL, None)


# --- abort -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queued", [False, True])
def test_connection_abort_resets_the_peer(world, queued):
    """The peer learns that this was no orderly end."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    if queued:
        conn.send_many([MEBI] * 16)
    conn.abort()
    conn.abort()
    peer.reading = True
    world.until(lambda: peer.ended)
    assert peer.error == errno.ECONNRESET
    assert (rec.reason, rec.exc, rec.log.count("lost")) == (CloseReason.ABORTED, None, 1)


def test_connection_abort_of_a_unix_socket_ends_it(world):
    """There is no RST on a UNIX socket; the end comes all the same."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, pair=socket.socketpair, reading=True)
    conn.abort()
    world.until(lambda: peer.ended and rec.lost)
    assert rec.reason is CloseReason.ABORTED


# --- send on what is closing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "abort"])
def test_connection_send_after_the_end_is_dropped(world, end):
    """The peer may end a connection at any moment, so sending to one that ends cannot be an error."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, reading=True)
    conn.send(b"before")
    getattr(conn, end)()
    conn.send(b"after")
    conn.send_many([b"after", b"after"])
    if end == "close":
        peer.fin()
    world.until(lambda: rec.lost and peer.ended)
    conn.send(b"long after")
    assert conn.stats.frames_sent == 1
    assert peer.frames in ([b"before"], [])


def test_connection_everything_is_allowed_on_a_closed_one(world):
    """The application hears of the end a turn later; what it does meanwhile must not raise."""
    rec = FrameRecorder()
    conn, _ = world.connect(rec)
    conn.abort()
    for _ in range(2):
        conn.send(b"x")
        conn.send_many([b"x"])
        conn.pause_reading()
        conn.resume_reading()
        conn.write_eof()
        conn.close()
        conn.abort()
        world.turn(2)
    assert (conn.is_closing(), conn.closed, conn.is_reading(), conn.state) == (True, True, False, "closed")
    assert "closed (aborted)" in repr(conn)


# --- write_eof and half-close ----------------------------------------------------------------------------------------


def test_connection_write_eof_flushes_first_and_keeps_receiving(world):
    """The half-close of a client that has asked everything."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    for _ in range(8):
        conn.send(MEBI)
    conn.write_eof()
    conn.write_eof()
    peer.reading = True
    world.until(lambda: peer.ended)
    assert decode(bytes(peer.received)) == [MEBI] * 8
    assert (conn.is_closing(), rec.lost) == (False, False)
    peer.write(encode(b"answer"), fin=True)
    world.until(lambda: rec.lost)
    assert (rec.frames, rec.reason) == ([b"answer"], CloseReason.PEER)


@pytest.mark.parametrize("where", ["made", "frame"])
def test_connection_write_eof_in_a_callback_sends_the_answers_first(world, where):
    """The last answer and the end in one callback."""
    rec = FrameRecorder(**{where: lambda rec, *args: (rec.conn.send(b"last"), rec.conn.write_eof())})
    _, peer = world.connect(rec, reading=True)
    peer.write(encode(b"1"))
    world.until(lambda: peer.ended)
    assert (peer.eof, peer.frames) == (True, [b"last"])


@pytest.mark.parametrize("method", ["send", "send_many"])
def test_connection_send_after_write_eof_raises(world, method):
    """This one is a bug of the application, whatever the peer does."""
    conn, _ = world.connect(FrameRecorder())
    conn.write_eof()
    with pytest.raises(RuntimeError, match="write_eof"):
        getattr(conn, method)(b"x" if method == "send" else [b"x"])


def test_connection_write_eof_then_close_waits_for_the_peer_only(world):
    """The second word adds nothing but the wait."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, reading=True)
    conn.write_eof()
    conn.close()
    world.until(lambda: peer.ended)
    peer.fin()
    world.until(lambda: rec.lost)
    assert rec.reason is CloseReason.LOCAL


def test_connection_eof_received_true_keeps_sending_possible(world):
    """A server that answers later, to a client that has shut down its side."""
    rec = FrameRecorder(eof=lambda rec: True)
    conn, peer = world.connect(rec, reading=True)
    peer.fin()
    world.settle()
    assert (rec.log, conn.is_closing(), conn.is_reading()) == (["made", "eof"], False, False)
    for _ in range(10):
        conn.send(MEBI)
    conn.close()
    world.until(lambda: rec.lost and peer.ended)
    assert decode(bytes(peer.received)) == [MEBI] * 10
    assert (peer.eof, rec.reason) == (True, CloseReason.LOCAL)


def test_connection_half_closed_by_the_peer_does_not_spin(world):
    """An end of the stream stays readable for ever."""
    rec = FrameRecorder(eof=lambda rec: True)
    _, peer = world.connect(rec)
    peer.fin()
    world.settle()
    events = world.reactor.stats()["events"]
    world.turn(20)
    assert world.reactor.stats()["events"] == events
    assert rec.log == ["made", "eof"]


def test_connection_eof_received_may_close_and_abort(world):
    """Its own word comes before the default."""
    rec = FrameRecorder(eof=lambda rec: rec.conn.abort() or True)
    _, peer = world.connect(rec)
    peer.fin()
    world.until(lambda: rec.lost)
    assert rec.reason is CloseReason.ABORTED


def test_connection_peers_half_close_gets_ten_mebibytes_first(world):
    """The client shuts down its side while ten megabytes are on their way to it."""
    rec = FrameRecorder(frame=lambda rec, frame: [rec.conn.send(MEBI) for _ in range(10)])
    _, peer = world.connect(rec)
    peer.write(encode(b"all"), fin=True)
    world.settle()
    peer.reading = True
    world.until(lambda: rec.lost and peer.ended)
    assert decode(bytes(peer.received)) == [MEBI] * 10
    assert (peer.eof, rec.reason) == (True, CloseReason.PEER)


# --- idle ------------------------------------------------------------------------------------------------------------


def test_connection_idle_timeout_closes_in_order(world):
    """A silent peer costs a descriptor; the close is the orderly one."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, idle_timeout=10, reading=True)
    world.advance(9.999)
    assert not conn.is_closing()
    world.advance(0.002)
    assert conn.close_reason is CloseReason.IDLE
    peer.fin()
    world.until(lambda: rec.lost)
    assert (rec.reason, type(rec.exc)) == (CloseReason.IDLE, TimeoutError)
    assert peer.eof


@pytest.mark.parametrize("move", ["in", "out"])
def test_connection_idle_timeout_starts_anew_with_each_byte(world, move):
    """A byte in either direction is a sign of life."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, idle_timeout=10, reading=True)
    for _ in range(5):
        world.advance(9)
        peer.write(b"\0") if move == "in" and conn.stats.bytes_received < 3 else conn.send(b"x")
        world.settle()
    assert not conn.is_closing()
    world.advance(10.001)
    assert conn.close_reason is CloseReason.IDLE


def test_connection_idle_with_output_that_nobody_takes_ends_after_both_timeouts(world):
    """The idle close has to flush as well, and that is bounded as well."""
    rec = FrameRecorder()
    conn, _ = world.connect(rec, idle_timeout=10, flush_timeout=5)
    for _ in range(16):
        conn.send(MEBI)
    world.settle()
    world.advance(10.001)
    assert conn.close_reason is CloseReason.IDLE
    world.advance(5.001)
    assert rec.lost
    assert rec.reason is CloseReason.IDLE  # the first cause


def test_connection_idle_timeout_after_a_halt_reads_first(world):
    """A process that was stopped for a minute must not kill the peers whose data is waiting."""
    rec = FrameRecorder(frame=echo)
    conn, peer = world.connect(rec, idle_timeout=10)
    world.settle()
    peer.sock.send(encode(b"I am here"))
    world.advance(60)
    assert (rec.frames, conn.is_closing()) == ([b"I am here"], False)


def test_connection_without_timeouts_has_no_timer(world):
    """An idle connection costs nothing by default."""
    world.connect(FrameRecorder())
    assert world.reactor.stats()["timers"] == 0


def test_connection_closed_leaves_no_timer_behind(world):
    """A timer would keep the connection, its protocol and its buffers alive."""
    rec = FrameRecorder()
    conn, _ = world.connect(rec, idle_timeout=10)
    conn.close()
    conn.abort()
    world.turn(2)
    assert world.reactor.stats()["timers"] == 0
