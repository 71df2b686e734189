"""Large frames: received where they stay, sent without a copy, their memory used again, and nobody sees any of it."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import ctypes
import random
import sys
import tracemalloc

import pytest
from groups import group_class
from peers import BatchRecorder, FrameRecorder, connection_class, echo, encode, kernel, world

from evloop import CloseReason, Framing

USABLE = ctypes.CDLL(None).malloc_usable_size
USABLE.restype = ctypes.c_size_t
LEAST = 32768  # from here on a body's memory is kept for another
SIZES = [0, 1, 16383, 16384, 16385, LEAST - 1, LEAST, LEAST + 1, 65536, 65537, 262139, 262140, 262141, 262144, 1 << 20]


def payload(size, number):
    """Return *size* bytes that no other number has at the same place."""
    return (random.Random(number).randbytes(1021) * (size // 1021 + 1))[:size]


@pytest.mark.parametrize("recorder", [FrameRecorder, BatchRecorder])
@pytest.mark.parametrize("size", SIZES)
def test_connection_equal_large_frames_arrive_as_they_were_sent(world, recorder, size):
    """The second one of a size is received unseen where it will stay; the one that was kept must not change."""
    rec = recorder()
    world.connect(rec)[1].write(encode(*[payload(size, number) for number in range(7)]))
    world.until(lambda: len(rec.frames) == 7)
    assert rec.frames == [payload(size, number) for number in range(7)]


@pytest.mark.parametrize("seed", range(8))
def test_connection_large_frames_of_changing_sizes_cut_at_random_are_echoed(world, seed):
    """A guess that is wrong in any way costs a copy and nothing else; some are kept, most are let go."""
    rng = random.Random(seed)
    sizes = [rng.choice(SIZES) if rng.random() < 0.5 else rng.choice((20000, 40000, 100000)) for _ in range(30)]
    kept, views = [], []

    def keep_some(rec, frame):
        number = len(kept)
        kept.append(frame if number % 5 == 0 else None)
        if number % 7 == 0:
            views.append((number, memoryview(frame)[:100]))
        rec.conn.send(frame)
        rec.frames.clear()

    rec = FrameRecorder(frame=keep_some)
    _, peer = world.connect(rec, reading=True)
    stream = encode(*[payload(size, number) for number, size in enumerate(sizes)])
    at = 0
    while at < len(stream):
        step = rng.choice((1, 3, 4, 5, 4096, 20004, 40004, 65540, 300_000))
        peer.write(stream[at : at + step])
        at += step
        world.turn(rng.randrange(3))
    world.until(lambda: len(kept) == len(sizes) and len(peer.received) == len(stream))
    assert peer.received == stream
    assert [frame for frame in kept if frame is not None] == [
        payload(size, number) for number, size in enumerate(sizes) if number % 5 == 0
    ]
    assert all(view == payload(sizes[number], number)[:100] for number, view in views)


@pytest.mark.parametrize("before", [1, 3, 4, 5, 100, 20000])
def test_connection_end_inside_a_guessed_frame_is_truncated(world, before):
    """A stream of equal frames that stops in the middle of one."""
    rec = FrameRecorder()
    frame = payload(40000, 1)
    _, peer = world.connect(rec)
    peer.write(encode(frame))
    world.until(lambda: rec.frames)
    peer.write(encode(frame)[:before], fin=True)
    world.until(lambda: rec.lost)
    assert (rec.frames, rec.reason) == ([frame], CloseReason.TRUNCATED)


def test_connection_end_instead_of_a_guessed_frame_is_the_peers(world):
    """Nothing came where a frame was expected."""
    rec = FrameRecorder()
    _, peer = world.connect(rec)
    peer.write(encode(payload(40000, 1)))
    world.until(lambda: rec.frames)
    peer.write(b"", fin=True)
    world.until(lambda: rec.lost)
    assert (rec.exc, rec.reason) == (None, CloseReason.PEER)


def test_connection_fault_where_a_guessed_frame_was_expected_is_that_fault(world):
    """The header is judged as ever."""
    rec = FrameRecorder()
    _, peer = world.connect(rec, max_frame=50000)
    peer.write(encode(payload(40000, 1)))
    world.until(lambda: rec.frames)
    peer.write(b"\x00\x00\xc3\x51" + bytes(40000), fin=True)
    world.until(lambda: rec.lost)
    assert (len(rec.frames), rec.reason) == (1, CloseReason.FRAME_TOO_LARGE)
    assert "frame of 50001 bytes exceeds max_frame 50000 at offset 40004" in str(rec.exc)


def test_connection_failed_read_of_a_guessed_frame_ends_it(world, kernel):
    """The errno is that of the read, whatever was tidied up after it."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    peer.write(encode(payload(40000, 1)))
    world.until(lambda: rec.frames)
    kernel.fail_reads(conn, 110)
    peer.write(b"x")
    world.until(lambda: rec.lost)
    assert (rec.exc.errno, rec.reason) == (110, CloseReason.RESET)


def test_connection_hash_of_a_kept_large_frame_is_its_own(world):
    """An object that is used again must not remember the hash of what it held."""
    hashes = []
    rec = FrameRecorder(frame=lambda rec, frame: (hashes.append(hash(frame)), rec.frames.clear()))
    world.connect(rec)[1].write(encode(*[payload(40000, number) for number in range(10)]))
    world.until(lambda: len(hashes) == 10)
    assert hashes == [hash(payload(40000, number)) for number in range(10)]


@pytest.mark.parametrize("size", [16384, 40000, 1 << 20])
def test_connection_large_frame_that_was_sent_keeps_its_hash(world, size):
    """The hash stands where the header is put for the time of the system call."""
    frames = [payload(size, number) for number in range(3)]
    hashes = dict.fromkeys(frames[1:])  # the first one's hash was never asked for
    rec = FrameRecorder()
    _, peer = world.connect(rec, reading=True)
    for frame in frames * 2:
        rec.conn.send(frame)
        world.until(lambda: len(peer.received) % (size + 4) == 0 and rec.conn.stats.output == 0)
    world.until(lambda: len(peer.received) == 6 * (size + 4))
    assert peer.received == encode(*frames * 2)
    assert [hash(frame) for frame in frames] == [hash(bytes(bytearray(frame))) for frame in frames]
    assert list(hashes) == frames[1:] and all(frame in hashes for frame in frames[1:])


@pytest.mark.parametrize("size", [16384, 65536])
def test_connection_frames_behind_a_guessed_one_arrive_in_order(world, size):
    """A guess reads no further than its frame; what is behind it, large or small, comes in the next turn."""
    frames = []
    for number in range(5):
        frames += [payload(size, number), payload(size, number + 10), b"", payload(7, number)]
    rec = FrameRecorder(frame=echo)
    _, peer = world.connect(rec, reading=True)
    peer.write(encode(*frames))
    world.until(lambda: len(peer.received) == len(encode(*frames)))
    assert peer.received == encode(*frames)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_connection_many_large_answers_at_once_leave_in_order(world, count):
    """More parts than one sendmsg takes, small ones among them."""
    answers = [payload(17000 if number % 3 else 10, number) for number in range(count)]
    rec = FrameRecorder(frame=lambda rec, frame: [rec.conn.send(answer) for answer in answers])
    _, peer = world.connect(rec, reading=True)
    peer.write(encode(b"go"))
    world.until(lambda: len(peer.received) == len(encode(*answers)))
    assert peer.received == encode(*answers)


def send_behind(what, conn, group):
    """Send something behind an answer that waits; return what it is on the wire."""
    large, small = payload(20000, 8), b"small"
    if what == "large":
        conn.send(large)
        return encode(large)
    if what == "many":
        conn.send_many([small, large, small])
        return encode(small, large, small)
    if what == "group":
        group.send(small)
        group.send(large)
        return encode(small, large)
    if what == "framing":
        conn.set_framing(Framing(width=2))
        conn.send(small)
        return b"\x00\x05small"
    if what == "raw":
        conn.set_framing(None)
        conn.send(small)
        conn.send(large)
        return small + large
    conn.send(small)
    return encode(small)


@pytest.mark.parametrize("what", ["small", "large", "many", "group", "framing", "raw"])
@pytest.mark.parametrize("taken", [0, 1, 3, 4, 5, 16383, 40003])
def test_connection_large_answer_taken_in_part_is_followed_in_order(world, kernel, connection_class, taken, what):
    """An answer alone waits as it is; what comes behind it, in any way, finds it cut anywhere."""
    conn, peer = world.connect(FrameRecorder(), reading=True)
    group = group_class(connection_class)()
    group.add(conn)
    kernel.allow_writes(conn, taken)
    frame = payload(40000, 1)
    conn.send(frame)
    world.turn(3)
    assert conn.stats.output == 40004 - taken
    stream = encode(frame) + send_behind(what, conn, group)
    assert conn.stats.output == len(stream) - taken
    kernel.allow_writes(conn, None)
    world.until(lambda: len(peer.received) == len(stream))
    assert (peer.received, conn.stats.output, hash(frame)) == (stream, 0, hash(payload(40000, 1)))


@pytest.mark.parametrize("allowance", [1, 3, 4, 5, 16384])
def test_connection_large_answer_in_short_sends_arrives_whole(world, kernel, allowance):
    """The header, too, may leave in parts."""
    conn, peer = world.connect(FrameRecorder(), reading=True)
    kernel.cut_writes(conn, lambda size: allowance)
    stream = encode(payload(16384, 1), payload(16384, 2))
    conn.send(payload(16384, 1))
    conn.send(payload(16384, 2))
    world.until(lambda: len(peer.received) == len(stream))
    assert peer.received == stream


@pytest.mark.parametrize("end", ["close", "abort", "reset"])
def test_connection_ended_with_a_large_answer_waiting_lets_go_of_it(world, kernel, end):
    """Whole when it is closed, and in any case not held by what has ended."""
    conn, peer = world.connect(rec := FrameRecorder(), reading=True)
    kernel.allow_writes(conn, 10)
    frame = payload(40000, 1)
    references = sys.getrefcount(frame)
    conn.send(frame)
    world.turn(3)
    if end == "reset":
        kernel.allow_writes(conn, None)
        peer.reset()
    else:
        getattr(conn, end)()
        kernel.allow_writes(conn, None)
    peer.write(b"", fin=True)
    world.until(lambda: rec.lost)
    assert sys.getrefcount(frame) == references
    assert (peer.received == encode(frame)) == (end == "close")


def test_connection_large_frames_of_falling_sizes_hold_no_more_than_they_say(world):
    """A body that is used again for a shorter frame would keep the memory of the longest."""
    seen = []
    rec = FrameRecorder(frame=lambda rec, frame: (rec.frames.clear(), seen.append(allocated(frame) - len(frame))))
    _, peer = world.connect(rec)
    for step in range(32):
        stream = encode(bytes(int((1 << 20) * 0.9**step)))
        for part in (stream[: len(stream) // 2], stream[len(stream) // 2 :]):
            peer.write(part)
            world.until(lambda: peer.written)
            world.turn(3)
        world.until(lambda number=step: len(seen) == number + 1)
    assert max(seen) <= 8192  # malloc's rounding, up to a page and its own header


def test_connection_guessed_frame_of_which_little_has_come_holds_little(world):
    """The pool lends a body for what arrives, not for what is announced: that is any number of connections."""
    size, peers = 1 << 20, []
    for _ in range(12):
        rec = FrameRecorder(frame=lambda rec, frame: rec.frames.clear())
        conn, peer = world.connect(rec, max_frame=size)
        peers.append((conn, peer))
    tracemalloc.start()
    try:
        for conn, peer in peers:
            stream = encode(bytes(size))
            peer.write(stream * 2 + stream[:9])
            world.until(lambda conn=conn: conn.stats.bytes_received == 2 * (size + 4) + 9)
        world.settle()
        assert tracemalloc.get_traced_memory()[0] < (4 << 20) + (2 << 20)  # what the pool keeps, and 12 beginnings
    finally:
        tracemalloc.stop()


def allocated(frame):
    """Return the bytes of memory that malloc gave to a large bytes object."""
    return USABLE(ctypes.c_void_p(id(frame)))
