"""What a connection promises about delivery: every whole frame, once, in order, however the bytes arrived."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import random
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
    kernel,
    world,
)

from evloop import CloseReason, Framing, Protocol
from evloop.protocol import protocol_factory_of

FRAMES = [b"", b"a", b"hello", b"x" * 300, b"", b"end"]
PAIRS = pytest.mark.parametrize("pair", [None, socket.socketpair], ids=["tcp", "unix"])


def echo_batch(rec, frames):
    rec.conn.send_many(frames)


# --- one call a frame, one call a read -------------------------------------------------------------------------------


@PAIRS
def test_connection_frames_in_one_read_are_delivered_one_by_one(world, pair):
    """Sticky packets, the tutorials' first trap."""
    rec = FrameRecorder()
    _, peer = world.connect(rec, **({"pair": pair} if pair else {}))
    peer.write(encode(*FRAMES))
    world.until(lambda: len(rec.frames) == len(FRAMES))
    assert rec.frames == FRAMES
    assert rec.log == ["made"] + ["frame"] * len(FRAMES)


def test_connection_frames_received_is_called_once_per_read(world):
    """The fast way in: one call however many frames."""
    rec = BatchRecorder()
    _, peer = world.connect(rec)
    peer.write(encode(*FRAMES))
    world.settle()
    peer.write(encode(b"second"))
    world.settle()
    assert rec.frames == [*FRAMES, b"second"]
    assert rec.log == ["made", "frames", "frames"]


def test_connection_frames_received_without_a_whole_frame_is_not_called(world):
    """An empty list would be a trap for `frames[0]`."""
    rec = BatchRecorder()
    _, peer = world.connect(rec)
    peer.write(encode(b"hello")[:-1])
    world.settle()
    assert rec.log == ["made"]


def test_connection_protocol_with_both_methods_frames_received_wins(world):
    """Documented: the first that exists is used."""

    class Both(BatchRecorder, FrameRecorder):
        pass

    rec = Both()
    _, peer = world.connect(rec)
    peer.write(encode(b"1", b"2"))
    world.settle()
    assert rec.log == ["made", "frames"]


def test_connection_function_handler_gets_connection_and_frame(world):
    """The shortest program: a function."""
    got = []
    conn, peer = world.connect(protocol_factory_of(lambda conn, frame: got.append((conn, frame)), None)())
    peer.write(encode(b"1", b"2"))
    world.settle()
    assert got == [(conn, b"1"), (conn, b"2")]


def test_connection_without_framing_function_handler_gets_bytes_per_read(world):
    """Unframed peers exist."""
    got = []
    conn, peer = world.connect(protocol_factory_of(lambda conn, data: got.append((conn, data)), None)(), framing=None)
    peer.write(b"abc")
    world.settle()
    assert got == [(conn, b"abc")]


def test_connection_without_framing_data_received_gets_all_bytes(world):
    """The stream as it is, and `send` as it is, too."""
    rec = DataRecorder(data=echo)
    _, peer = world.connect(rec, framing=None, reading=True)
    data = random.Random(1).randbytes(3_000_000)
    peer.write(data, fin=True)
    world.until(lambda: peer.ended and rec.lost)
    assert b"".join(rec.frames) == data
    assert peer.received == data
    assert rec.reason is CloseReason.PEER


def test_connection_without_framing_send_many_sends_the_pieces(world):
    """No header in between, bytes-like pieces included."""
    conn, peer = world.connect(DataRecorder(), framing=None, reading=True)
    conn.send_many([b"a", bytearray(b"b"), memoryview(b"c")])
    world.until(lambda: peer.received == b"abc")
    assert conn.stats.bytes_sent == 3


def test_connection_without_framing_header_arguments_are_refused(world):
    """They would be dropped in silence."""
    conn, _ = world.connect(DataRecorder(), framing=None)
    with pytest.raises(ValueError, match="no framing"):
        conn.send(b"x", b"before")


@pytest.mark.parametrize(
    ("protocol", "framing"),
    [(Protocol, U32), (DataRecorder, U32), (FrameRecorder, None), (BatchRecorder, None)],
    ids=["nothing", "data-framed", "frame-unframed", "frames-unframed"],
)
def test_connection_protocol_that_cannot_receive_is_closed_with_a_type_error(world, protocol, framing):
    """A misspelt method must not be a server that is silent for ever."""
    world.connect(protocol(), framing=framing, linger=0)
    world.turn()
    conn, exc = world.served[0]
    assert conn.close_reason is CloseReason.HANDLER
    assert isinstance(exc, TypeError)
    assert "has no method" in str(exc)


def test_connection_receiver_set_in_connection_made_is_used(world):
    """A protocol may choose its receiver when it knows its connection."""
    rec = FrameRecorder(
        made=lambda rec: setattr(rec, "frame_received", lambda frame: rec.frames.append(b"own " + frame))
    )
    _, peer = world.connect(rec)
    peer.write(encode(b"x"))
    world.settle()
    assert rec.frames == [b"own x"]


# --- cuts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recorder", [FrameRecorder, BatchRecorder])
def test_connection_stream_cut_at_every_offset_delivers_the_same_frames(world, recorder):
    """Cut packets, the tutorials' second trap: header and body cut anywhere."""
    data = encode(b"", b"hello", b"\x00\x00\x00\x01", b"end")
    for cut in range(len(data) + 1):
        rec = recorder()
        _, peer = world.connect(rec)
        for part in (data[:cut], data[cut:]):
            peer.write(part)
            world.settle()
        assert rec.frames == [b"", b"hello", b"\x00\x00\x00\x01", b"end"], cut
        peer.close()


@pytest.mark.parametrize("framing", [U32, Framing.U16, Framing(2, "little", magic=b"ab"), Framing.VARINT], ids=str)
def test_connection_one_byte_at_a_time_delivers_the_same_frames(world, framing):
    """The worst sender there is."""
    rec = FrameRecorder()
    _, peer = world.connect(rec, framing=framing)
    for byte in encode(*FRAMES, framing=framing):
        peer.write(bytes([byte]))
        world.turn(2)
    world.settle()
    assert rec.frames == FRAMES


def test_connection_frames_of_one_mebibyte_are_echoed(world):
    """The default bound itself has to work, over many reads and many sends."""
    frames = [random.Random(seed).randbytes(1 << 20) for seed in range(4)]
    rec = FrameRecorder(frame=echo)
    _, peer = world.connect(rec, reading=True)
    peer.write(encode(*frames), fin=True)
    world.until(lambda: peer.ended and rec.lost)
    assert peer.eof
    assert decode(bytes(peer.received)) == frames
    assert rec.reason is CloseReason.PEER


@pytest.mark.slow
@pytest.mark.parametrize(
    "rec", [lambda: FrameRecorder(frame=echo), lambda: BatchRecorder(frames=echo_batch)], ids=["frame", "batch"]
)
def test_connection_hundred_thousand_tiny_frames_then_half_close_all_echoed_then_fin(world, rec):
    """A client that sends its batch, shuts down and reads: nothing may be cut off."""
    rec = rec()
    _, peer = world.connect(rec, reading=True)
    frames = [b"%d" % i for i in range(100_000)]
    peer.write(encode(*frames), fin=True)
    world.until(lambda: peer.ended and rec.lost)
    assert peer.eof
    assert decode(bytes(peer.received)) == frames
    assert (rec.reason, rec.exc) == (CloseReason.PEER, None)


# --- sends -----------------------------------------------------------------------------------------------------------


def count_sends(world, rec, data, **options):
    """Return how many writing calls a read of *data* costs, and the peer."""
    conn, peer = world.connect(rec, reading=True, **options)
    before = world.kernel.sends(conn)
    peer.write(data)
    world.settle()
    return world.kernel.sends(conn) - before, peer


@pytest.mark.parametrize(
    "rec",
    [
        lambda: FrameRecorder(frame=echo),
        lambda: FrameRecorder(frame=lambda rec, frame: [rec.conn.send(frame[i:] + frame[:i]) for i in range(3)]),
        lambda: BatchRecorder(frames=echo_batch),
        lambda: BatchRecorder(frames=lambda rec, frames: [rec.conn.send(frame) for frame in frames]),
    ],
    ids=["frame", "three-answers", "batch", "batch-one-by-one"],
)
def test_connection_answers_to_one_read_leave_with_one_send(world, kernel, rec):
    """A system call an answer would cost more than everything else together."""
    sends, peer = count_sends(world, rec(), encode(*[b"abc"] * 100))
    assert sends == 1
    assert len(peer.frames) in (100, 300)


def test_connection_without_framing_answers_to_one_read_leave_with_one_send(world, kernel):
    """The unframed mode keeps the promise, too."""
    rec = DataRecorder(data=lambda rec, data: [rec.conn.send(bytes([byte])) for byte in data])
    sends, peer = count_sends(world, rec, b"abcdef", framing=None)
    assert sends == 1
    assert peer.received == b"abcdef"


def ten(rec):
    for i in range(10):
        rec.conn.send(b"%d" % i)


def test_connection_sends_in_connection_made_leave_with_one_send(world, kernel):
    """A greeting of several frames is one callback, and "leaves with one system call when the callback returns"."""
    conn, peer = world.connect(FrameRecorder(made=ten), reading=True)
    world.settle()
    assert len(peer.frames) == 10
    assert kernel.sends(conn) == 1


def test_connection_sends_in_eof_received_leave_with_one_send(world, kernel):
    """Last words of several frames are one callback."""
    rec = FrameRecorder(eof=ten)
    conn, peer = world.connect(rec, reading=True)
    peer.fin()
    world.until(lambda: peer.ended and rec.lost)
    assert len(peer.frames) == 10
    assert kernel.sends(conn) == 1


def test_connection_sends_in_resume_writing_leave_with_one_send(world, kernel):
    """A producer that goes on when told to: one callback."""
    rec = FrameRecorder(resume=ten)
    conn, peer = world.connect(rec)
    conn.send(bytes(1 << 19))
    while conn.stats.output <= 65536:
        conn.send(bytes(1 << 19))
    peer.reading = True
    sends = 0
    while "resume" not in rec.log:
        sends = kernel.sends(conn)
        world.turn()
    assert kernel.sends(conn) - sends <= 2  # what made room, and the ten


def test_connection_answers_of_many_frames_arrive_in_order(world):
    """Batch, single and out-of-callback sends share one queue."""
    rec = FrameRecorder(frame=echo)
    conn, peer = world.connect(rec, reading=True)
    for i in range(50):
        conn.send(b"a%d" % i)
        peer.write(encode(b"b%d" % i))
        world.settle()
    assert peer.frames == [b"%s%d" % (name, i) for i in range(50) for name in (b"a", b"b")]


def test_connection_send_takes_a_copy(world):
    """A buffer that is re-used after send() must not change what is on its way."""
    conn, peer = world.connect(FrameRecorder())
    buffer = bytearray(1 << 20)
    for i in range(4):
        buffer[:] = bytes([i]) * len(buffer)
        conn.send(memoryview(buffer))
    peer.reading = True
    world.until(lambda: len(peer.frames) == 4)
    assert [set(frame) for frame in peer.frames] == [{0}, {1}, {2}, {3}]


@pytest.mark.parametrize("payload", ["text", 5, None, [1], memoryview(b"abcd")[::2]], ids=repr)
@pytest.mark.parametrize("framing", [U32, None], ids=["framed", "unframed"])
def test_connection_send_of_no_bytes_raises_and_sends_nothing(world, payload, framing):
    """The mistake of every first program is an error at the place where it is made."""
    conn, peer = world.connect((FrameRecorder if framing else DataRecorder)(), framing=framing, reading=True)
    with pytest.raises(TypeError):
        conn.send(payload)
    with pytest.raises(TypeError):
        conn.send_many([b"good", payload])
    world.settle()
    assert peer.received == b""
    assert conn.stats.frames_sent == 0


@pytest.mark.parametrize(("size", "allowed"), [(99, True), (100, True), (101, False)])
def test_connection_send_at_max_frame_is_the_last_that_is_allowed(world, size, allowed):
    """What the other side would refuse is refused here, before a byte is queued."""
    framing = U32.replace(max_frame=100)
    conn, peer = world.connect(FrameRecorder(), framing=framing, reading=True)
    if allowed:
        conn.send(bytes(size))
    else:
        with pytest.raises(ValueError, match="max_frame 100"):
            conn.send(bytes(size))
    world.settle()
    assert peer.frames == [bytes(size)] * allowed


def test_connection_send_many_of_nothing_from_anothers_callback_sends_nothing(world):
    """Whoever filters a batch for each member of a room sends some of them an empty one."""
    target, target_peer = world.connect(FrameRecorder(), reading=True)
    rec = FrameRecorder(frame=lambda rec, frame: (rec.conn.send(b"answer"), target.send_many([])))
    conn, peer = world.connect(rec, reading=True)
    peer.write(encode(b"ask"))
    world.settle()
    assert (conn.close_reason, peer.frames, bytes(target_peer.received)) == (None, [b"answer"], b"")


def test_connection_send_many_of_nothing_before_a_large_frame_does_not_lose_it(world):
    """What was reserved for no bytes must not be taken for memory that is not there."""
    large = bytearray(b"x" * 20_000)
    rec = FrameRecorder(frame=lambda rec, frame: (rec.conn.send_many([]), rec.conn.send(large)))
    conn, peer = world.connect(rec, reading=True)
    peer.write(encode(b"ask"))
    world.settle()
    assert (conn.close_reason, peer.frames) == (None, [large])


def test_connection_stats_count_both_directions(world):
    """The counters are what operators see."""
    rec = FrameRecorder(frame=echo)
    conn, peer = world.connect(rec, reading=True)
    peer.write(encode(b"12", b"345") + b"\x00")
    world.settle()
    assert conn.stats._asdict() == {
        "frames_received": 2,
        "bytes_received": 14,
        "frames_sent": 2,
        "bytes_sent": 13,
        "output": 0,
        "input": 1,
        "paused": 0,
    }


def test_connection_addresses_are_the_sockets(world):
    """peer and local are each other's mirror, and survive the close (peer) or not (local)."""
    conn, peer = world.connect(FrameRecorder())
    assert (conn.peer.host, conn.peer.port) == peer.sock.getsockname()
    assert (conn.local.host, conn.local.port) == peer.sock.getpeername()
    assert conn.fileno() >= 0
    address = conn.peer
    conn.abort()
    assert (conn.peer, conn.local, conn.fileno()) == (address, None, -1)


def test_connection_deliver_pair_hands_over_header_and_payload(world):
    """The framing says what an item is; the connection passes it on as it is."""
    framing = Framing(4, deliver="pair", before=2)
    rec = FrameRecorder()
    _, peer = world.connect(rec, framing=framing)
    peer.write(framing.encode(b"body", b"ab"))
    world.settle()
    assert rec.frames == [(b"ab\x00\x00\x00\x04", b"body")]
