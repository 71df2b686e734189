"""What a connection does at each of its bounds in time and memory, and that a second connection does not notice."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import pytest
from peers import (
    BatchRecorder,
    DataRecorder,
    FrameRecorder,
    connection_class,
    echo,
    encode,
    narrow_pair,
    world,
)

from evloop import CloseReason

HALF = encode(b"12345678")[:6]  # a frame that is begun: its header and two bytes
LONG = encode(bytes(256))


@pytest.fixture
def witness(world):
    """A connection without limits beside the one under test; it has to answer to the end."""
    rec = FrameRecorder(frame=echo)
    conn, peer = world.connect(rec, reading=True)
    yield conn
    peer.write(encode(b"still here"))
    world.until(lambda: peer.frames == [b"still here"])
    assert not conn.is_closing()


def send(world, peer, data):
    """Have *peer* send *data*, and the world take it."""
    peer.write(data)
    world.settle()


# --- the first frame -------------------------------------------------------------------------------------------------


def test_first_frame_timeout_closes_a_silent_peer_at_the_limit(world, witness):
    """A peer that connects and says nothing costs a descriptor; the close is the orderly one."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, first_frame_timeout=10, reading=True)
    world.advance(9.999)
    assert not conn.is_closing()
    world.advance(0.002)
    assert conn.close_reason is CloseReason.FIRST_FRAME_TIMEOUT
    peer.fin()
    world.until(lambda: rec.lost)
    assert (peer.eof, type(rec.exc), str(rec.exc)) == (
        True,
        TimeoutError,
        "no whole frame came in 10 s (first_frame_timeout)",
    )


def test_first_frame_timeout_is_not_put_off_by_single_bytes(world, witness):
    """Slowloris: a byte now and then keeps any idle timeout away, so the deadline is absolute."""
    conn, peer = world.connect(FrameRecorder(), first_frame_timeout=10, idle_timeout=5)
    for byte in LONG[:4]:
        world.advance(2.4)
        send(world, peer, bytes([byte]))
    assert not conn.is_closing()
    world.advance(0.41)
    assert conn.close_reason is CloseReason.FIRST_FRAME_TIMEOUT


def test_first_frame_timeout_is_over_with_the_first_frame(world, witness):
    """From then on the idle timeout, if any, is what counts."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, first_frame_timeout=10)
    world.advance(9.9)
    send(world, peer, encode(b"hello"))
    world.advance(1000)
    assert (rec.frames, conn.is_closing()) == ([b"hello"], False)
    assert world.reactor.stats()["timers"] == 0


def test_first_frame_timeout_after_a_halt_reads_first(world, witness):
    """A process that was stopped must not close for what it did not read itself."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, first_frame_timeout=10)
    world.settle()
    peer.sock.send(encode(b"I was here"))
    world.advance(60)
    assert (rec.frames, conn.is_closing()) == ([b"I was here"], False)


def test_first_frame_timeout_without_framing_wants_any_byte(world, witness):
    """The stream has no frames; a peer that has spoken is there."""
    spoken, silent = DataRecorder(), DataRecorder()
    first, peer = world.connect(spoken, framing=None, first_frame_timeout=10)
    second, _ = world.connect(silent, framing=None, first_frame_timeout=10)
    send(world, peer, b"x")
    world.advance(10.001)
    assert not first.is_closing()
    assert second.close_reason is CloseReason.FIRST_FRAME_TIMEOUT


def test_first_frame_timeout_does_not_run_while_reading_is_paused(world, witness):
    """The application looks something up first: a peer that is not read cannot be late."""
    rec = FrameRecorder(made=lambda rec: rec.conn.pause_reading())
    conn, _ = world.connect(rec, first_frame_timeout=10)
    world.advance(100)
    assert not conn.is_closing()
    conn.resume_reading()
    world.settle()
    world.advance(9.999)
    assert not conn.is_closing()
    world.advance(0.002)
    assert conn.close_reason is CloseReason.FIRST_FRAME_TIMEOUT


def test_first_frame_timeout_after_the_peers_end_of_stream_is_off(world, witness):
    """The application keeps a peer that only listens: no frame can come, and none is missing."""
    conn, peer = world.connect(FrameRecorder(eof=lambda rec: True), first_frame_timeout=10)
    peer.fin()
    world.settle()
    world.advance(100)
    assert not conn.is_closing()


# --- a started frame -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recorder", [FrameRecorder, BatchRecorder])
def test_frame_timeout_closes_at_the_limit_from_the_first_byte(world, witness, recorder):
    """Half a frame is memory that the peer holds; the connection had been quiet for long before."""
    rec = recorder()
    conn, peer = world.connect(rec, frame_timeout=30)
    world.advance(1000)
    send(world, peer, encode(b"whole") + HALF)
    world.advance(29.999)
    assert (rec.frames, conn.is_closing()) == ([b"whole"], False)
    world.advance(0.002)
    assert conn.close_reason is CloseReason.FRAME_TIMEOUT
    peer.fin()
    world.until(lambda: rec.lost)
    assert str(rec.exc) == "a frame was not whole 30 s after its first byte (frame_timeout)"


@pytest.mark.parametrize("start", [1, 3, 4, 5])
def test_frame_timeout_is_not_put_off_by_single_bytes(world, witness, start):
    """A trickle of one byte in two seconds, whether the header is whole or not."""
    conn, peer = world.connect(FrameRecorder(), frame_timeout=30, idle_timeout=5)
    send(world, peer, LONG[:start])
    for byte in LONG[start : start + 14]:
        world.advance(2)
        send(world, peer, bytes([byte]))
    world.advance(1.999)
    assert not conn.is_closing()
    world.advance(0.002)
    assert conn.close_reason is CloseReason.FRAME_TIMEOUT


def test_frame_timeout_is_per_frame(world, witness):
    """A slow peer that finishes each frame in time is a good peer, however often its frames are cut."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, frame_timeout=30)
    whole = encode(b"12345678")
    send(world, peer, HALF)
    for _ in range(10):
        world.advance(29)
        send(world, peer, whole[len(HALF) :] + HALF)
    assert (len(rec.frames), conn.is_closing()) == (10, False)
    world.advance(30.001)
    assert conn.close_reason is CloseReason.FRAME_TIMEOUT


def test_frame_timeout_between_frames_does_not_run(world, witness):
    """A peer that owes nothing may be quiet for ever, and costs no timer once the last one was looked at."""
    conn, peer = world.connect(FrameRecorder(), frame_timeout=30)
    send(world, peer, HALF)
    send(world, peer, encode(b"12345678")[len(HALF) :])
    world.advance(1000)
    assert not conn.is_closing()
    assert world.reactor.stats()["timers"] == 0


def test_frame_timeout_begins_anew_when_the_connection_reads_again(world, witness):
    """The application paused in the middle of the peer's frame; the rest may lie in the kernel all the time."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, frame_timeout=30)
    send(world, peer, HALF)
    conn.pause_reading()
    world.advance(100)
    assert not conn.is_closing()
    conn.resume_reading()
    world.settle()
    world.advance(29.999)
    assert not conn.is_closing()
    world.advance(0.002)
    assert conn.close_reason is CloseReason.FRAME_TIMEOUT


def test_frame_timeout_of_a_stream_in_pieces_keeps_one_timer(world, witness):
    """Traffic must not work the heap: deadlines are looked at when the timer is due, not moved with each read."""
    _, peer = world.connect(FrameRecorder(), frame_timeout=30, idle_timeout=300, first_frame_timeout=10)
    world.settle()
    whole = encode(b"12345678")
    send(world, peer, HALF)
    for _ in range(50):
        world.advance(0.1)
        send(world, peer, whole[len(HALF) :] + HALF)
        assert world.reactor.stats()["timers"] == 1


@pytest.mark.parametrize(
    ("limits", "seconds", "reason"),
    [
        ({"idle_timeout": 5, "first_frame_timeout": 10, "frame_timeout": 30}, 5, CloseReason.IDLE),
        ({"idle_timeout": 300, "first_frame_timeout": 10, "frame_timeout": 30}, 10, CloseReason.FIRST_FRAME_TIMEOUT),
        ({"idle_timeout": 300, "frame_timeout": 30}, 30, CloseReason.FRAME_TIMEOUT),
    ],
    ids=["idle", "first-frame", "frame"],
)
def test_nearest_of_several_deadlines_decides(world, witness, limits, seconds, reason):
    """One timer serves them all."""
    conn, peer = world.connect(FrameRecorder(), **limits)
    send(world, peer, HALF)
    world.advance(seconds - 0.001)
    assert not conn.is_closing()
    world.advance(0.002)
    assert conn.close_reason is reason


def test_deadlines_end_with_the_connection(world, witness):
    """A closing connection has its own timers; what ran before must not strike, nor stay in the heap."""
    conn, peer = world.connect(FrameRecorder(), frame_timeout=1, first_frame_timeout=1, idle_timeout=1, linger=60)
    send(world, peer, HALF)
    conn.close()
    world.advance(30)
    assert (conn.close_reason, conn.state) == (CloseReason.LOCAL, "lingering")
    conn.abort()
    world.turn(2)
    assert world.reactor.stats()["timers"] == 0
