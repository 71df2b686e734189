"""What a connection does at each of its bounds in time and memory, and that a second connection does not notice."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import socket

import pytest
from peers import (
    BatchRecorder,
    DataRecorder,
    FrameRecorder,
    connection_class,
    echo,
    encode,
    kernel,
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


# --- output ----------------------------------------------------------------------------------------------------------


def local_pair():
    """A UNIX pair with small buffers: what its kernel refuses it refuses until the peer reads, to the byte."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return ours, theirs


def stalled(world, output, **limits):
    """Return a connection without framing with exactly *output* bytes that the kernel does not take, and its peer."""
    rec = DataRecorder()
    conn, peer = world.connect(rec, framing=None, pair=local_pair, **limits)
    while conn.stats.output == 0:
        conn.send(bytes(1000))
        world.settle()
    conn.send(bytes(output - conn.stats.output))
    world.settle()
    assert conn.stats.output == output
    return rec, conn, peer


@pytest.mark.parametrize("where", ["callback", "outside", "other"])
def test_max_output_closes_at_the_first_byte_too_many(world, witness, where):
    """limit-1, limit, limit+1: who does not read would have the server hold everything for him."""
    rec, conn, _ = stalled(world, 49_999, max_output=50_000)

    def send_one(*_):
        conn.send(b"x")

    if where == "outside":
        act = send_one
    elif where == "callback":
        act = lambda: rec.actions.update(data=send_one) or send(world, world.peers[-1], b"?")  # noqa: E731
    else:
        other = world.connect(FrameRecorder(frame=send_one))[1]
        act = lambda: send(world, other, encode(b"?"))  # noqa: E731
    act()
    assert (conn.stats.output, conn.is_closing()) == (50_000, False)
    act()
    assert (conn.closed, conn.close_reason) == (True, CloseReason.SLOW_CONSUMER)
    conn.send(b"to nobody")
    world.turn(2)
    assert type(rec.exc) is ConnectionAbortedError
    assert str(rec.exc) == "the peer is too slow: 50001 bytes of output exceed 50000 (max_output)"


def test_max_output_resets_the_peer_at_once(world, witness):
    """What the kernel holds for a peer that does not read would stay for minutes after an orderly close."""
    conn, peer = world.connect(DataRecorder(), framing=None, pair=narrow_pair, max_output=50_000)
    while not conn.closed:
        conn.send(bytes(10_000))
        world.settle()
    peer.reading = True
    world.until(lambda: peer.ended)
    assert peer.error is not None


@pytest.mark.parametrize("corked", [False, True], ids=["outside", "callback"])
def test_max_output_does_not_count_what_the_kernel_takes(world, witness, corked):
    """One large answer to a peer that reads is no slow peer, though it passes the bound for a moment."""
    answer = bytes(1 << 20)
    rec = FrameRecorder(frame=lambda rec, frame: rec.conn.send(answer[:-8]))
    conn, peer = world.connect(rec, max_output=500_000, reading=True)
    if corked:
        peer.write(encode(b"?"))
    else:
        conn.send(answer[:-8])
    world.until(lambda: len(peer.received) == (1 << 20) - 4)
    assert not conn.is_closing()


def test_max_output_in_the_middle_of_a_batch_delivers_no_more(world, witness):
    """The connection is gone: the frames behind the one that closed it belong to nobody."""
    rec = FrameRecorder(frame=lambda rec, frame: rec.conn.send(bytes(100_000)))
    conn, peer = world.connect(rec, pair=narrow_pair, max_output=150_000, high_water=1 << 30)
    send(world, peer, encode(*[b"x"] * 10))
    assert conn.close_reason is CloseReason.SLOW_CONSUMER
    assert len(rec.frames) < 10


def test_soft_output_closes_after_its_timeout_without_any_traffic(world, witness):
    """At the bound nothing happens; above it the clock runs, and a timer looks even if nobody moves."""
    rec, conn, _ = stalled(world, 20_000, soft_output=20_000, soft_output_timeout=10)
    world.advance(1000)
    assert not conn.is_closing()
    conn.send(b"x")
    world.advance(9.999)
    assert not conn.is_closing()
    world.advance(0.002)
    assert (conn.closed, conn.close_reason) == (True, CloseReason.SLOW_CONSUMER)
    assert str(rec.exc) == (
        "the output, 20001 bytes now, was above 20000 bytes (soft_output) for 10 s (soft_output_timeout)"
    )


def test_soft_output_clock_ends_when_the_peer_catches_up(world, witness):
    """A burst is what the soft bound allows: down to it in time, and the next one has all its time again."""
    _, conn, peer = stalled(world, 20_001, soft_output=20_000, soft_output_timeout=10)
    for _ in range(3):
        world.advance(9)
        peer.reading = True
        world.until(lambda: conn.stats.output == 0)
        peer.reading = False
        for _ in range(1000):
            if conn.stats.output <= 20_000:
                conn.send(bytes(1000))
                world.settle()
    assert not conn.is_closing()
    world.advance(9.999)
    assert not conn.is_closing()
    world.advance(0.002)
    assert conn.close_reason is CloseReason.SLOW_CONSUMER


def test_max_output_is_watched_above_soft_output(world, witness):
    """The hard bound does not wait for the soft one's time."""
    _, conn, _ = stalled(world, 50_000, soft_output=20_000, soft_output_timeout=10, max_output=50_000)
    assert not conn.is_closing()
    conn.send(b"x")
    assert conn.close_reason is CloseReason.SLOW_CONSUMER


def test_soft_output_above_for_all_its_time_with_some_progress_still_closes(world, witness):
    """Taking one byte now and then is not catching up."""
    _, conn, peer = stalled(world, 100_000, soft_output=20_000, soft_output_timeout=10)
    for _ in range(4):
        world.advance(2.4)
        peer.received += peer.sock.recv(1000)
        world.settle()
    assert (conn.stats.output > 20_000, conn.is_closing()) == (True, False)
    world.advance(0.41)
    assert conn.close_reason is CloseReason.SLOW_CONSUMER


def test_write_timeout_closes_a_peer_that_takes_nothing_at_the_limit(world, witness):
    """Stopped, or behind a cut cable: nothing else would notice while its window is closed."""
    rec, conn, _ = stalled(world, 30_000, write_timeout=30)
    world.advance(29.999)
    assert not conn.is_closing()
    world.advance(0.002)
    assert (conn.closed, conn.close_reason) == (True, CloseReason.WRITE_TIMEOUT)
    assert (type(rec.exc), str(rec.exc)) == (
        TimeoutError,
        "the peer took none of 30000 bytes of output for 30 s (write_timeout)",
    )


def test_write_timeout_is_not_put_off_by_what_the_peer_sends(world, witness):
    """It may talk as much as it likes: that takes none of the output."""
    _, conn, peer = stalled(world, 30_000, write_timeout=30, high_water=1 << 20, idle_timeout=25)
    for _ in range(10):
        world.advance(2.9)
        send(world, peer, b"hello")
    assert not conn.is_closing()
    world.advance(1.001)
    assert conn.close_reason is CloseReason.WRITE_TIMEOUT


def test_write_timeout_of_output_that_leaves_behind_its_callback_is_over(world, kernel):
    """An answer above high_water is sent in part inside of the callback, and the rest behind it."""
    rec = FrameRecorder(frame=lambda rec, frame: rec.conn.send(frame) if frame else None)
    conn, peer = world.connect(rec, reading=True, write_timeout=30, idle_timeout=0)
    parts = iter([100_000])
    kernel.cut_writes(conn, lambda size: next(parts, size))
    peer.write(encode(bytes(120_000), b""))
    world.until(lambda: len(peer.received) == 120_004)
    world.advance(60)
    assert (conn.stats.output, conn.close_reason) == (0, None)


def test_write_timeout_is_put_off_by_what_the_peer_takes(world, witness):
    """Slow and alive: each read of the peer starts the time anew."""
    _, conn, peer = stalled(world, 200_000, write_timeout=30)
    for _ in range(8):
        before = conn.stats.output
        world.advance(29)
        for _ in range(100):
            if conn.stats.output == before:
                peer.received += peer.sock.recv(2000)
                world.settle()
    assert not conn.is_closing()
    world.advance(30.001)
    assert conn.close_reason is CloseReason.WRITE_TIMEOUT


def test_write_timeout_sees_what_the_peer_takes_of_the_kernels_part(world, witness):
    """A full socket is writable again when much of it is free: until then a slow, living peer looks like a dead one."""
    conn, peer = world.connect(DataRecorder(), framing=None, pair=socket.socketpair, write_timeout=30)
    conn.send(bytes(1 << 20))
    world.settle()
    before = conn.stats.bytes_sent
    for _ in range(3):
        world.advance(14.9)
        peer.received += peer.sock.recv(1 << 15)
        world.settle()
    assert (conn.stats.bytes_sent, conn.is_closing()) == (before, False)  # 44.7 s without a byte from us
    world.advance(30)
    world.advance(30.001)
    assert conn.close_reason is CloseReason.WRITE_TIMEOUT


def test_write_timeout_is_exact_again_after_some_progress(world, witness):
    """What the kernel said before the last progress is nothing to compare with."""
    _, conn, peer = stalled(world, 300_000, write_timeout=30)
    world.advance(16)
    peer.received += peer.sock.recv(1 << 20)
    world.settle()
    assert 0 < conn.stats.output < 300_000
    world.advance(29.999)
    assert not conn.is_closing()
    world.advance(0.002)
    assert conn.close_reason is CloseReason.WRITE_TIMEOUT


def test_output_deadlines_end_with_a_broken_stream(world, witness):
    """Reset while reading is paused: the reason comes when it is read, and is the reset."""
    limits = {"write_timeout": 10, "soft_output": 1000, "soft_output_timeout": 10}
    conn, peer = world.connect(DataRecorder(), framing=None, pair=narrow_pair, **limits)
    conn.pause_reading()
    while conn.stats.output <= 1000:
        conn.send(bytes(1000))
        world.settle()
    peer.reset()
    world.until(lambda: conn.stats.output == 0)
    world.advance(100)
    assert not conn.is_closing()
    conn.resume_reading()
    world.settle()
    assert conn.close_reason is CloseReason.RESET


def test_write_timeout_with_nothing_to_write_does_not_run(world, witness):
    """A quiet connection is no stalled one, and its timer is gone when the output is."""
    _, conn, peer = stalled(world, 30_000, write_timeout=30)
    peer.reading = True
    world.until(lambda: conn.stats.output == 0)
    world.advance(1000)
    assert not conn.is_closing()
    assert world.reactor.stats()["timers"] == 0


def test_write_timeout_leaves_a_closing_connection_to_flush_timeout(world, witness):
    """One bound for each state: the orderly end has its own."""
    _, conn, peer = stalled(world, 30_000, write_timeout=3, flush_timeout=60)
    conn.close()
    world.advance(59)
    before = conn.stats.output
    while conn.stats.output == before:  # some progress, at which an open connection would set its deadline anew
        peer.received += peer.sock.recv(2000)
        world.settle()
    world.advance(59.999)
    assert conn.state == "flushing"
    world.advance(0.002)
    assert conn.close_reason is CloseReason.FLUSH_TIMEOUT


def test_answer_and_close_in_one_callback_are_bounded_by_flush_timeout(world, witness):
    """The first byte of output is offered when the connection is closing already: no other deadline may begin then."""

    def answer_and_close(rec, data):
        rec.conn.send(bytes(1 << 20))
        rec.conn.close()

    limits = {"write_timeout": 1, "high_water": 1 << 30, "flush_timeout": 5}
    rec = DataRecorder(data=answer_and_close)
    conn, peer = world.connect(rec, framing=None, pair=local_pair, **limits)
    send(world, peer, b"?")
    assert conn.state == "flushing"
    world.advance(4.999)
    assert conn.state == "flushing"
    world.advance(0.002)
    assert conn.close_reason is CloseReason.FLUSH_TIMEOUT
