"""What a connection promises about flow: paused readers, slow readers, bounded output, and who may hold up whom."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import socket

import pytest
from peers import (
    BatchRecorder,
    DataRecorder,
    FrameRecorder,
    connection_class,
    decode,
    echo,
    encode,
    kernel,
    narrow_pair,
    tcp_pair,
    world,
)

from evloop import CloseReason, FrameTooLarge, TruncatedFrame
from evloop._connection_shared import SEND_BUDGET

HIGH, LOW = 64 * 1024, 16 * 1024  # the defaults


def pause_at(number):
    """An action: pause reading at the frame of that number (from 1)."""

    def action(rec, frame):
        if len(rec.frames) == number:
            rec.conn.pause_reading()

    return action


# --- pause_reading, resume_reading -----------------------------------------------------------------------------------


def test_connection_paused_in_a_callback_holds_from_the_next_frame_on(world):
    """Flow control that lets the rest of a batch through is none."""
    rec = FrameRecorder(frame=pause_at(2))
    conn, peer = world.connect(rec)
    peer.write(encode(b"1", b"2", b"3", b"4"))
    world.settle()
    assert rec.frames == [b"1", b"2"]
    assert (conn.is_reading(), conn.stats.frames_received) == (False, 2)
    conn.resume_reading()
    assert rec.frames == [b"1", b"2"]  # in the next turn, not inside of the call
    world.settle()
    assert rec.frames == [b"1", b"2", b"3", b"4"]
    assert conn.is_reading()


def test_connection_paused_one_frame_at_a_time_delivers_all_in_order(world):
    """A consumer that takes one job, pauses, and resumes when it is done."""
    rec = FrameRecorder(frame=lambda rec, frame: rec.conn.pause_reading())
    conn, peer = world.connect(rec)
    frames = [b"%d" % i for i in range(100)]
    peer.write(encode(*frames))
    for done in range(1, 101):
        world.settle()
        assert len(rec.frames) == done
        conn.resume_reading()
    assert rec.frames == frames


def test_connection_paused_from_outside_reads_nothing_from_the_kernel(world):
    """Pausing has to reach the sender: its window must be able to close."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    conn.pause_reading()
    peer.write(encode(b"held"))
    world.settle()
    assert (rec.frames, conn.stats.bytes_received) == ([], 0)
    conn.resume_reading()
    world.settle()
    assert rec.frames == [b"held"]


def test_connection_pause_and_resume_twice_are_as_once(world):
    """Both are idempotent: two layers may both want quiet."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    conn.pause_reading()
    conn.pause_reading()
    peer.write(encode(b"1", b"2"))
    world.settle()
    conn.resume_reading()
    conn.resume_reading()
    world.settle()
    conn.resume_reading()
    world.settle()
    assert rec.frames == [b"1", b"2"]


def test_connection_paused_again_before_the_next_turn_delivers_nothing(world):
    """The last word counts."""
    rec = FrameRecorder(frame=pause_at(1))
    conn, peer = world.connect(rec)
    peer.write(encode(b"1", b"2"))
    world.settle()
    conn.resume_reading()
    conn.pause_reading()
    world.settle()
    assert rec.frames == [b"1"]


def test_connection_paused_in_connection_made_delivers_nothing_until_resumed(world):
    """A login that first asks a database."""
    rec = FrameRecorder(made=lambda rec: rec.conn.pause_reading())
    conn, peer = world.connect(rec)
    peer.write(encode(b"1"))
    world.settle()
    assert rec.frames == []
    conn.resume_reading()
    world.settle()
    assert rec.frames == [b"1"]


def test_connection_paused_in_frames_received_holds_the_next_batch(world):
    """A batch has been handed over whole; the next one waits."""
    rec = BatchRecorder(frames=lambda rec, frames: rec.conn.pause_reading())
    conn, peer = world.connect(rec)
    peer.write(encode(b"1", b"2"))
    world.settle()
    peer.write(encode(b"3"))
    world.settle()
    assert rec.frames == [b"1", b"2"]
    conn.resume_reading()
    world.settle()
    assert rec.frames == [b"1", b"2", b"3"]


def test_connection_without_framing_paused_holds_the_next_read(world):
    """The unframed mode pauses as well."""
    rec = DataRecorder(data=lambda rec, data: rec.conn.pause_reading())
    conn, peer = world.connect(rec, framing=None)
    for data in (b"1", b"2"):
        peer.write(data)
        world.settle()
    assert rec.frames == [b"1"]
    conn.resume_reading()
    world.settle()
    assert rec.frames == [b"1", b"2"]


def test_connection_pause_while_sending_still_flushes(world):
    """Reading and writing are paused apart."""
    conn, peer = world.connect(FrameRecorder())
    conn.pause_reading()
    conn.send(bytes(1 << 20))
    peer.reading = True
    world.until(lambda: len(peer.frames) == 1)
    assert conn.stats.output == 0


BEHIND = {
    "eof": (lambda peer: peer.fin(), CloseReason.PEER, type(None)),
    "truncated": (lambda peer: peer.write(b"\0", fin=True), CloseReason.TRUNCATED, TruncatedFrame),
    "fault": (lambda peer: peer.write(b"\xff" * 4), CloseReason.FRAME_TOO_LARGE, FrameTooLarge),
    "reset": (lambda peer: peer.reset(), CloseReason.RESET, ConnectionResetError),
}


@pytest.mark.parametrize("what", BEHIND)
def test_connection_end_behind_paused_frames_comes_after_them(world, what):
    """What was accepted is delivered first, however the stream ends behind it."""
    end, reason, exc = BEHIND[what]
    rec = FrameRecorder(frame=pause_at(1))
    conn, peer = world.connect(rec, linger=0)
    peer.write(encode(b"1", b"2", b"3"))
    end(peer)
    world.settle()
    assert rec.frames == [b"1"]
    conn.resume_reading()
    world.until(lambda: rec.lost)
    assert rec.frames == [b"1", b"2", b"3"]
    assert (rec.reason, type(rec.exc)) == (reason, exc)


@pytest.mark.parametrize("what", BEHIND)
def test_connection_paused_with_an_end_in_the_kernel_does_not_spin(world, what):
    """epoll reports a hang-up for ever to whoever watches it; a paused connection must not burn a core."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    conn.pause_reading()
    BEHIND[what][0](peer)
    world.settle()
    events = world.reactor.stats()["events"]
    world.turn(20)
    assert world.reactor.stats()["events"] == events


def test_connection_reset_noticed_by_a_send_while_paused_delivers_the_held_frames_first(world):
    """The contract knows no exception: "frames that came before a reset are delivered first"."""
    rec = FrameRecorder(frame=pause_at(1))
    conn, peer = world.connect(rec)
    peer.write(encode(b"1", b"2", b"3"))
    world.settle()
    peer.reset()
    conn.send(b"to nobody")
    world.settle()
    conn.resume_reading()
    world.until(lambda: rec.lost)
    assert rec.frames == [b"1", b"2", b"3"]
    assert rec.reason is CloseReason.RESET


def test_connection_paused_in_eof_behind_the_last_frame_tells_it_after_resume(world):
    """eof_received is part of the delivery."""
    rec = FrameRecorder(frame=lambda rec, frame: rec.conn.pause_reading())
    conn, peer = world.connect(rec)
    peer.write(encode(b"1"), fin=True)
    world.settle()
    assert rec.log == ["made", "frame"]
    conn.resume_reading()
    world.until(lambda: rec.lost)
    assert rec.log == ["made", "frame", "eof", "lost"]


# --- back-pressure ---------------------------------------------------------------------------------------------------


def test_connection_whose_peer_does_not_read_holds_high_water_and_one_answer(world):
    """The memory that a slow peer can take is bounded, whatever it asks for."""
    answer = bytes(1000)
    rec = FrameRecorder(frame=lambda rec, frame: rec.conn.send(answer))
    conn, peer = world.connect(rec, pair=narrow_pair)
    worst = 0
    peer.write(encode(*[b"x"] * 20_000))
    for _ in range(200):
        world.turn()
        worst = max(worst, conn.stats.output)
    assert HIGH < worst <= HIGH + len(answer) + 4
    assert rec.log[-1] == "pause"
    assert len(rec.frames) < 20_000
    peer.reading = True
    world.until(lambda: len(peer.received) == 20_000 * 1004)
    assert len(rec.frames) == 20_000


def test_connection_with_an_amplifying_handler_holds_high_water_and_one_answer(world):
    """One byte asked, 40,000 answered: the bound is per answer, not per read."""
    answer = bytes(40_000)
    rec = FrameRecorder(frame=lambda rec, frame: rec.conn.send(answer))
    conn, peer = world.connect(rec, pair=narrow_pair, reading=False)
    peer.write(encode(*[b""] * 1000))
    worst = 0
    for _ in range(100):
        world.turn()
        worst = max(worst, conn.stats.output)
    assert worst <= HIGH + len(answer) + 4
    peer.reading = True
    world.until(lambda: len(peer.received) == 1000 * 40_004)


def test_connection_above_high_water_takes_nothing_more_from_the_kernel(world):
    """Whoever does not take the answers gets no more questions answered."""
    rec = FrameRecorder(frame=echo)
    conn, peer = world.connect(rec, pair=narrow_pair)
    peer.write(encode(*[bytes(1000)] * 4000))
    world.settle()
    received = conn.stats.bytes_received
    world.turn(50)
    assert conn.stats.bytes_received == received < 4000 * 1004


def test_connection_pause_and_resume_writing_come_in_pairs(world):
    """A producer that counts them must never drift."""
    rec = FrameRecorder(frame=echo)
    _conn, peer = world.connect(rec, pair=narrow_pair)
    peer.write(encode(*[bytes(1000)] * 2000), fin=True)
    for _ in range(3000):
        peer.reading = not peer.reading
        world.turn()
    peer.reading = True
    world.until(lambda: rec.lost and peer.ended)
    marks = [word for word in rec.log if word in ("pause", "resume")]
    assert marks == ["pause", "resume"] * (len(marks) // 2)
    assert len(marks) > 2
    assert decode(bytes(peer.received)) == [bytes(1000)] * 2000


@pytest.mark.parametrize(("extra", "paused"), [(-1, False), (0, False), (1, True)], ids=["below", "at", "above"])
def test_connection_high_water_is_exceeded_by_one_byte(world, extra, paused):
    """The mark itself is still allowed; "exceeds" is the documented word."""
    rec = FrameRecorder()
    conn, _ = world.connect(rec, pair=narrow_pair, high_water=100_000, low_water=10)
    fill(world, conn)
    conn.send(bytes(100_000 + extra - conn.stats.output - 4))
    assert conn.stats.output == 100_000 + extra
    assert ("pause" in rec.log) is paused


@pytest.mark.parametrize(("low", "resumed"), [(0, False), (1, True), (2, True)])
def test_connection_low_water_is_reached_at_the_mark(world, kernel, low, resumed):
    """`down to low_water` includes it: one byte left, and a mark of 0, 1 or 2."""
    rec = FrameRecorder()
    conn, _peer = world.connect(rec, high_water=10, low_water=low)
    kernel.allow_writes(conn, 0)
    conn.send(bytes(20))
    kernel.allow_writes(conn, 23)
    world.turn(5)
    assert conn.stats.output == 1
    assert rec.log == ["made", "pause"] + ["resume"] * resumed


def fill(world, conn):
    """Send one byte at a time until the kernel takes no more."""
    while conn.stats.output == 0:
        conn.send(b"x" * 500)
        world.turn(2)


def test_connection_high_water_zero_pauses_as_soon_as_the_kernel_refuses(world):
    """The smallest legal setting has to work, not to lock up."""
    rec = FrameRecorder(frame=echo)
    conn, peer = world.connect(rec, pair=narrow_pair, high_water=0, low_water=0)
    frames = [bytes(997)] * 500
    peer.write(encode(*frames), fin=True)
    world.settle()
    assert 0 < conn.stats.output <= 1001
    peer.reading = True
    world.until(lambda: rec.lost and peer.ended)
    assert decode(bytes(peer.received)) == frames


@pytest.mark.parametrize("allowance", [1, 2, 3, 7])
def test_connection_short_sends_of_any_size_lose_nothing(world, kernel, allowance):
    """send(2) may take a part; whoever ignores the rest loses data."""
    rec = FrameRecorder(frame=echo)
    conn, peer = world.connect(rec, reading=True)
    kernel.cut_writes(conn, lambda size: allowance)
    frames = [b"%d" % i for i in range(200)]
    peer.write(encode(*frames), fin=True)
    world.until(lambda: rec.lost and peer.ended)
    assert decode(bytes(peer.received)) == frames


def test_connection_throttled_and_half_closed_by_the_peer_still_answers_everything(world):
    """A client that writes all, shuts down, and reads at the end."""
    rec = FrameRecorder(frame=echo)
    _conn, peer = world.connect(rec, pair=narrow_pair)
    frames = [bytes(1000)] * 300
    peer.write(encode(*frames))
    world.settle()
    assert "pause" in rec.log
    peer.reading = True
    peer.write(b"", fin=True)
    world.until(lambda: rec.lost and peer.ended)
    assert decode(bytes(peer.received)) == frames
    assert rec.reason is CloseReason.PEER


def test_connection_batch_above_high_water_holds_the_next_read_back(world):
    """frames_received may answer a whole read at once; the next read waits for the mark."""
    rec = BatchRecorder(frames=lambda rec, frames: rec.conn.send_many(frames))
    conn, peer = world.connect(rec, pair=narrow_pair)
    frames = [bytes(1000)] * 3000
    peer.write(encode(*frames), fin=True)
    world.settle()
    assert conn.stats.output <= HIGH + (256 << 10)
    peer.reading = True
    world.until(lambda: rec.lost and peer.ended)
    assert decode(bytes(peer.received)) == frames


def test_connection_producer_that_fills_up_to_pause_and_goes_on_at_resume_delivers_all(world):
    """The usual producer: send until paused, go on in resume_writing, close at the end."""
    chunks = iter([b"%d" % i * 200 for i in range(1000)])

    def produce(rec):
        while rec.log.count("pause") == rec.log.count("resume"):
            chunk = next(chunks, None)
            if chunk is None:
                return rec.conn.close()
            rec.conn.send(chunk)
        return None

    rec = FrameRecorder(made=produce, resume=produce)
    _, peer = world.connect(rec, pair=narrow_pair, reading=True)
    world.until(lambda: peer.ended)
    assert decode(bytes(peer.received)) == [b"%d" % i * 200 for i in range(1000)]
    assert rec.log.count("pause") == rec.log.count("resume") > 0


def test_connection_paused_and_throttled_waits_for_both(world):
    """Neither resume may undo the other's pause."""

    def answer(rec, frame):
        rec.conn.send(bytes(1 << 20))
        rec.conn.pause_reading()

    rec = FrameRecorder(frame=answer)
    conn, peer = world.connect(rec, pair=narrow_pair)
    peer.write(encode(b"1", b"2"))
    world.settle()
    assert rec.log == ["made", "frame", "pause"]
    conn.resume_reading()
    world.settle()
    assert rec.frames == [b"1"]  # still throttled
    conn.pause_reading()
    peer.reading = True
    world.until(lambda: "resume" in rec.log)
    world.settle()
    assert rec.frames == [b"1"]  # still paused
    conn.resume_reading()
    world.until(lambda: len(rec.frames) == 2)


def test_connection_reset_by_a_throttled_peer_is_noticed(world):
    """RST while a megabyte is queued: the memory goes, and nobody waits."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    for _ in range(16):
        conn.send(bytes(1 << 20))
    world.turn()
    assert "pause" in rec.log
    peer.reset()
    world.until(lambda: rec.lost)
    assert rec.reason is CloseReason.RESET
    assert isinstance(rec.exc, OSError)
    assert conn.stats.output == 0


def test_connection_reset_by_a_throttled_peer_delivers_what_it_had_sent_first(world):
    """Its last questions were accepted by the kernel before the reset."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    for _ in range(16):
        conn.send(bytes(1 << 20))
    world.turn()
    peer.write(encode(b"1", b"2"))
    world.settle()
    assert rec.frames == []
    peer.reset()
    world.until(lambda: rec.lost)
    assert rec.frames == [b"1", b"2"]
    assert rec.reason is CloseReason.RESET


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_connection_reset_by_a_throttled_peer_delivers_what_was_decoded_and_ends(world, frames):
    """Frames held back in the connection, and a reset found by the write: they come, then the end; nothing is left."""
    rec = FrameRecorder(frame=lambda rec, frame: rec.conn.send_many([bytes(1 << 20)] * 16))
    _, peer = world.connect(rec)
    peer.write(encode(*[b"x"] * frames))
    world.settle()
    assert rec.log == ["made", "frame", "pause"]
    peer.reset()
    world.until(lambda: rec.lost)
    assert len(rec.frames) == frames
    assert rec.reason is CloseReason.RESET


def test_connection_reset_while_throttled_does_not_call_resume_writing(world):
    """ "Go on sending" to a peer that is known to be gone would be a lie."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    for _ in range(16):
        conn.send(bytes(1 << 20))
    world.turn()
    peer.reset()
    world.until(lambda: rec.lost)
    assert rec.log == ["made", "pause", "lost"]


def test_connection_producer_into_a_fast_kernel_does_not_recurse(world, kernel):
    """Send in resume_writing, be paused, be resumed: in a loop, not in each other, or a fast peer is a crash."""
    left = [2000]

    def produce(rec):
        while left[0] and rec.log.count("pause") == rec.log.count("resume"):
            left[0] -= 1
            rec.conn.send(bytes(400_000))

    rec = FrameRecorder(made=produce, resume=produce)
    conn, _ = world.connect(rec, prepare=kernel.swallow_writes)
    world.until(lambda: conn.is_closing() or not (left[0] or conn.stats.output))
    assert conn.close_reason is None
    assert kernel.taken(conn) == 2000 * 400_004


def test_connection_producer_into_a_fast_kernel_lets_others_run(world, kernel):
    """However fast its peer reads, one connection writes a bounded amount in a turn."""
    left = [100]  # frames; who never pauses a producer has to fail here, not to hang

    def produce(rec):
        while left[0] and rec.log.count("pause") == rec.log.count("resume"):
            left[0] -= 1
            rec.conn.send(bytes(400_000))

    rec = FrameRecorder(made=produce, resume=produce)
    conn, _ = world.connect(rec, prepare=kernel.swallow_writes)
    turns = []
    world.reactor.call_soon(lambda: turns.append(rec.log.count("resume")))
    world.turn()
    assert turns[0] < 5
    assert kernel.taken(conn) < 5 * SEND_BUDGET


def test_connection_without_throttle_reads_on_above_high_water(world):
    """A client that has many questions out must read the answers, or both sides stop for ever."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, pair=narrow_pair, throttle=False)
    conn.send_many([bytes(1000)] * 1000)
    world.settle()
    assert (rec.log, conn.is_reading()) == (["made", "pause"], True)
    peer.write(encode(b"1", b"2"))
    world.until(lambda: rec.frames == [b"1", b"2"])
    assert conn.stats.output > HIGH
    peer.reading = True
    world.until(lambda: len(peer.received) == 1000 * 1004)
    world.turn(2)
    assert rec.log == ["made", "pause", "frame", "frame", "resume"]
