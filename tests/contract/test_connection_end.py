"""What a connection promises about the end that others bring: one reason, one connection_lost, no frame lost."""
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
    echo,
    encode,
    kernel,
    world,
)

from evloop import BadLength, BadMagic, CloseReason, FrameTooLarge, Framing, Protocol, TruncatedFrame

FRAME = encode(b"hello")


def lose(world, rec):
    """Turn until the connection of *rec* is lost, and return its reason."""
    world.until(lambda: rec.lost)
    world.turn(3)
    return rec.reason


# --- the peer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [[], [b"1"], [b"1", b"", b"3"]], ids=len)
def test_connection_fin_at_a_boundary_is_the_peers_orderly_end(world, frames):
    """The ordinary end is no error: exc is None."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    peer.write(encode(*frames), fin=True)
    assert lose(world, rec) is CloseReason.PEER
    assert (rec.exc, rec.frames) == (None, frames)
    assert rec.log == ["made", *["frame"] * len(frames), "eof", "lost"]
    assert world.served == [(conn, None)]


@pytest.mark.parametrize("framing", [U32, Framing(4, magic=b"EV"), Framing.VARINT], ids=["u32", "magic", "varint"])
@pytest.mark.parametrize("before", [b"", b"first"])
def test_connection_fin_inside_a_frame_is_truncated_at_every_offset(world, framing, before):
    """A cut file must never look complete: header and body, each byte."""
    good = framing.encode(before) if before else b""
    data = framing.encode(b"hello")
    for offset in range(1, len(data)):
        rec = FrameRecorder()
        _, peer = world.connect(rec, framing=framing, linger=0)
        peer.write(good + data[:offset], fin=True)
        assert lose(world, rec) is CloseReason.TRUNCATED, offset
        assert isinstance(rec.exc, TruncatedFrame)
        assert rec.exc.have == offset
        assert rec.exc.position == len(good)
        assert rec.frames == [before] * bool(before)
        assert "eof" not in rec.log


@pytest.mark.parametrize("before", [0, 1, 3])
def test_connection_reset_at_every_offset_is_reset_and_loses_no_frame(world, before):
    """What the kernel took before the reset stays readable, and was accepted."""
    for offset in range(len(FRAME) + 1):
        rec = FrameRecorder()
        _, peer = world.connect(rec)
        peer.write(encode(*[b"x"] * before) + FRAME[:offset])
        peer.reset()
        assert lose(world, rec) is CloseReason.RESET, offset
        assert isinstance(rec.exc, ConnectionResetError)
        assert rec.frames == [b"x"] * before + [b"hello"] * (offset == len(FRAME))


@pytest.mark.parametrize("recorder", [FrameRecorder, BatchRecorder])
def test_connection_ten_frames_then_reset_are_delivered_first(world, recorder):
    """A client that sends its data and vanishes has still sent it."""
    rec = recorder()
    _, peer = world.connect(rec)
    peer.write(encode(*[b"%d" % i for i in range(10)]))
    peer.reset()
    assert lose(world, rec) is CloseReason.RESET
    assert rec.frames == [b"%d" % i for i in range(10)]


def test_connection_echo_to_a_peer_that_has_reset_still_delivers_every_frame(world):
    """The first answer fails with the reset; the frames behind it count all the same."""
    rec = FrameRecorder(frame=echo)
    _conn, peer = world.connect(rec)
    peer.write(encode(*[bytes(100)] * 300))  # what fits into the first window
    peer.reset()
    assert lose(world, rec) is CloseReason.RESET
    assert len(rec.frames) == 300
    assert (rec.log.count("pause"), rec.log.count("resume")) == (0, 0)


def test_connection_data_behind_a_reset_without_framing_is_delivered_first(world):
    """The unframed mode, too."""
    rec = DataRecorder()
    _, peer = world.connect(rec, framing=None)
    peer.write(b"last words")
    peer.reset()
    assert lose(world, rec) is CloseReason.RESET
    assert b"".join(rec.frames) == b"last words"


def test_connection_without_framing_has_no_truncation(world):
    """Every byte is a boundary."""
    rec = DataRecorder()
    _, peer = world.connect(rec, framing=None)
    peer.write(b"\0\0", fin=True)
    assert lose(world, rec) is CloseReason.PEER
    assert rec.log == ["made", "data", "eof", "lost"]


def test_connection_unix_peer_that_closes_with_unread_output_is_reset(world):
    """unix(7): the end of a peer that has not read everything is ECONNRESET, after the data."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, pair=socket.socketpair)
    conn.send(b"unread")
    peer.write(FRAME)
    peer.close()
    assert lose(world, rec) is CloseReason.RESET
    assert rec.frames == [b"hello"]


def test_connection_unix_peer_that_is_gone_breaks_a_send_with_epipe(world):
    """EPIPE is the peer's end, no error of ours."""
    rec = FrameRecorder(eof=lambda rec: True)
    conn, peer = world.connect(rec, pair=socket.socketpair)
    peer.close()
    world.until(lambda: "eof" in rec.log)
    conn.send(b"x")
    assert lose(world, rec) is CloseReason.RESET
    assert rec.exc.errno == errno.EPIPE


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ECONNRESET, CloseReason.RESET),
        (errno.ETIMEDOUT, CloseReason.RESET),
        (errno.EHOSTUNREACH, CloseReason.RESET),
        (errno.EIO, CloseReason.ERROR),
        (errno.ENOMEM, CloseReason.ERROR),
    ],
    ids=lambda value: errno.errorcode.get(value, ""),
)
def test_connection_error_of_recv_has_its_reason(world, kernel, number, reason):
    """The network's errors are resets; what is this machine's own is an error."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    kernel.fail_reads(conn, number)
    peer.write(b"x")
    assert lose(world, rec) is reason
    assert rec.exc.errno == number


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINTR], ids=errno.errorcode.get)
def test_connection_interrupted_recv_is_tried_again(world, kernel, number):
    """Neither is an error; the level-triggered selector comes again."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec)
    kernel.fail_reads(conn, number, times=3)
    peer.write(FRAME)
    world.until(lambda: rec.frames == [b"hello"])


@pytest.mark.parametrize("number", [errno.ECONNRESET, errno.EPIPE], ids=errno.errorcode.get)
def test_connection_broken_send_reads_the_rest_first(world, kernel, number):
    """A failed send says nothing about what the peer had sent before."""
    rec = FrameRecorder(frame=echo)
    conn, peer = world.connect(rec)
    kernel.fail_writes(conn, number)
    peer.write(encode(b"1", b"2"))
    world.settle()
    peer.write(encode(b"3"), fin=True)
    assert lose(world, rec) is CloseReason.RESET
    assert rec.frames == [b"1", b"2", b"3"]
    assert rec.exc.errno == number


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM, errno.EIO], ids=errno.errorcode.get)
def test_connection_send_that_fails_on_a_living_peer_ends_it(world, kernel, number):
    """A connection that hears and is mute for ever would be worse than none: here nobody else ends it."""
    rec = FrameRecorder(frame=echo)
    conn, peer = world.connect(rec)
    kernel.fail_writes(conn, number)
    peer.write(encode(b"1"))
    world.settle()
    world.turn(5)
    assert (rec.lost, rec.reason) == (True, CloseReason.ERROR)


# --- the wire format -------------------------------------------------------------------------------------------------

HTTP = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
SSH = b"SSH-2.0-OpenSSH_9.2\r\n"


@pytest.mark.parametrize(
    ("framing", "data", "reason", "exc", "guess"),
    [
        (U32, b"\x00\x10\x00\x01", CloseReason.FRAME_TOO_LARGE, FrameTooLarge, None),
        (U32, b"\xff\xff\xff\xff", CloseReason.FRAME_TOO_LARGE, FrameTooLarge, None),
        (U32, HTTP, CloseReason.FRAME_TOO_LARGE, FrameTooLarge, "http"),
        (U32, TLS, CloseReason.FRAME_TOO_LARGE, FrameTooLarge, "tls"),
        (U32, SSH, CloseReason.FRAME_TOO_LARGE, FrameTooLarge, "ssh"),
        (Framing(4, signed=True), b"\xff\xff\xff\xff", CloseReason.PROTOCOL, BadLength, None),
        (Framing(4, magic=b"EV"), b"XX\0\0\0\0", CloseReason.PROTOCOL, BadMagic, None),
        (Framing(2, counts="frame"), b"\x00\x01", CloseReason.PROTOCOL, BadLength, None),
        (Framing.VARINT, b"\xff" * 10, CloseReason.PROTOCOL, BadLength, None),
    ],
    ids=["max+1", "2^32-1", "http", "tls", "ssh", "negative", "magic", "too-small", "varint"],
)
def test_connection_bad_stream_is_closed_with_its_reason(world, framing, data, reason, exc, guess):
    """Each way to be out of step has one word, and the exception says where."""
    rec = FrameRecorder()
    _conn, peer = world.connect(rec, framing=framing, reading=True)
    peer.write(data)
    world.until(lambda: peer.ended)
    assert peer.eof  # an orderly end: what was sent before arrives
    peer.fin()
    assert lose(world, rec) is reason
    assert type(rec.exc) is exc
    assert (rec.exc.position, rec.exc.looks_like) == (0, guess)
    assert rec.log == ["made", "lost"]


@pytest.mark.parametrize("recorder", [FrameRecorder, BatchRecorder])
def test_connection_good_frames_before_a_bad_one_are_delivered_and_answered(world, recorder):
    """The fault ends the stream, not what came before it in the same read."""
    rec = recorder(frame=echo, frames=lambda rec, frames: rec.conn.send_many(frames))
    _, peer = world.connect(rec, reading=True)
    peer.write(encode(b"1", b"2") + b"\xff" * 100, fin=True)
    assert lose(world, rec) is CloseReason.FRAME_TOO_LARGE
    assert rec.frames == [b"1", b"2"]
    world.until(lambda: peer.ended)
    assert (peer.eof, peer.frames) == (True, [b"1", b"2"])


@pytest.mark.parametrize(("size", "reason"), [(99, None), (100, None), (101, CloseReason.FRAME_TOO_LARGE)])
def test_connection_max_frame_of_the_limits_holds_at_the_header(world, size, reason):
    """Refused before a byte of its body is taken."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, max_frame=100)
    peer.write(encode(bytes(size))[: 4 if reason else None])
    world.settle()
    assert conn.close_reason is reason
    assert rec.frames == ([] if reason else [bytes(size)])


# --- the application -------------------------------------------------------------------------------------------------


class Oops(Exception):
    pass


def fail(rec, *args):
    raise Oops(f"in {rec.log[-1]}")


@pytest.mark.parametrize("where", ["made", "frame", "eof", "pause", "resume"])
def test_connection_callback_that_raises_ends_this_connection_and_no_other(world, where):
    """One bug, one connection."""

    def fill(rec, frame):
        while rec.log.count("pause") == 0 and not rec.conn.is_closing():
            rec.conn.send(bytes(1 << 20))

    actions = {"frame": fill} if where in ("pause", "resume") else {}
    rec, witness = FrameRecorder(**{**actions, where: fail}), FrameRecorder(frame=echo)
    _, peer = world.connect(rec, linger=0)
    _, other = world.connect(witness, reading=True)
    peer.write(encode(b"1", b"2"))
    other.write(encode(b"w"))
    world.settle()
    peer.reading = True
    peer.write(b"", fin=True)
    assert lose(world, rec) is CloseReason.HANDLER
    assert isinstance(rec.exc, Oops)
    assert rec.log[-2:] == [where, "lost"]
    assert other.frames == [b"w"]


@pytest.mark.parametrize("recorder", [BatchRecorder, DataRecorder])
def test_connection_batch_callback_that_raises_ends_it(world, recorder):
    """The other receivers are guarded as well."""
    rec = recorder(frames=fail, data=fail)
    _, peer = world.connect(rec, framing=None if recorder is DataRecorder else U32)
    peer.write(encode(b"1", b"2"), fin=True)
    assert lose(world, rec) is CloseReason.HANDLER


def test_connection_handler_that_raises_sends_what_it_sent_before(world):
    """An error answer, then the error."""
    rec = FrameRecorder(frame=lambda rec, frame: (rec.conn.send(b"sorry"), fail(rec)))
    _, peer = world.connect(rec, reading=True)
    peer.write(encode(b"1"), fin=True)
    assert lose(world, rec) is CloseReason.HANDLER
    world.until(lambda: peer.ended)
    assert (peer.eof, peer.frames) == (True, [b"sorry"])


def test_connection_lost_that_raises_is_reported_and_counted(world):
    """The server must take the connection off its list all the same."""
    rec = FrameRecorder(lost=fail)
    conn, _ = world.connect(rec)
    conn.abort()
    world.turn(3)
    assert world.served == [(conn, None)]
    assert [type(error["exception"]) for error in world.errors] == [Oops]
    world.errors.clear()


@pytest.mark.parametrize("exc", [MemoryError, RecursionError, GeneratorExit], ids=lambda cls: cls.__name__)
def test_connection_other_base_exceptions_are_the_handlers(world, exc):
    """Only the two that mean "end the program" go further."""

    def raise_it(rec, frame):
        raise exc

    rec = FrameRecorder(frame=raise_it)
    _, peer = world.connect(rec)
    peer.write(encode(b"1"), fin=True)
    assert lose(world, rec) is CloseReason.HANDLER
    assert type(rec.exc) is exc


@pytest.mark.parametrize("exc", [SystemExit, KeyboardInterrupt], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("where", ["made", "frame", "eof", "lost"])
def test_connection_exit_in_a_callback_leaves_run_forever(world, where, exc):
    """sys.exit() in a handler has to work, wherever it stands."""
    raised = []

    def leave(rec, *args):
        if not raised:
            raised.append(rec.log[-1])
            raise exc

    rec = FrameRecorder(**{where: leave})
    with pytest.raises(exc):
        _, peer = world.connect(rec)
        peer.write(FRAME, fin=True)
        world.until(lambda: rec.lost and world.served)
    assert raised == [where]


@pytest.mark.parametrize("exc", [SystemExit, KeyboardInterrupt], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("where", ["made", "frame", "eof"])
def test_connection_after_an_exit_in_a_callback_goes_on_when_the_reactor_runs_again(world, where, exc):
    """Documented: "the reactor can run again".  A Ctrl-C in a REPL must not leave a connection dead and open."""
    raised = []

    def leave(rec, *args):
        if not raised:
            raised.append(1)
            raise exc

    rec = FrameRecorder(**{where: leave})
    with pytest.raises(exc):
        world.connect(rec)
        world.peers[-1].write(encode(b"1", b"2", b"3"), fin=True)
        world.until(lambda: rec.lost)
    if where == "made":
        world.peers[-1].write(encode(b"1", b"2", b"3"), fin=True)
    assert lose(world, rec) is CloseReason.PEER
    assert rec.frames == [b"1", b"2", b"3"]


def test_connection_of_an_object_that_is_no_protocol_is_ended(world):
    """A factory that forgets its `return` gives None; that must not leave an open, deaf socket behind."""
    try:
        _, peer = world.connect(None)
    except (TypeError, AttributeError):
        pass  # refused at once is as good
    peer = world.peers[-1]
    peer.reading = True
    world.turn(5)
    world.errors.clear()
    assert peer.ended


def test_connection_of_a_protocol_that_lacks_a_callback_is_ended_as_the_handlers_fault(world):
    """A class that only looks like a Protocol: its missing method is its error, and ends its connection."""

    class Bare:
        def connection_made(self, conn):
            pass

        def frame_received(self, frame):
            pass

        def connection_lost(self, exc):
            lost.append(exc)

    lost = []
    _, peer = world.connect(Bare())
    peer.fin()
    world.turn(10)
    world.errors.clear()
    assert len(lost) == 1


def test_connection_handler_error_is_not_hidden_by_a_flush_timeout(world):
    """The first cause is what the operator has to see: a traceback at ERROR, not a slow peer at DEBUG."""

    def answer_then_fail(rec, frame):
        rec.conn.send_many([bytes(1 << 20)] * 16)
        fail(rec)

    rec = FrameRecorder(frame=answer_then_fail)
    _, peer = world.connect(rec, flush_timeout=5)
    peer.write(FRAME)
    world.settle()
    world.advance(5.001)
    world.turn(2)
    assert isinstance(rec.exc, Oops)
    assert rec.reason is CloseReason.HANDLER


def test_connection_lost_comes_in_a_turn_of_its_own(world):
    """Never inside of another callback: the application's state may be half changed."""
    order = []
    first = FrameRecorder(lost=lambda rec: order.append("lost"))
    victim, _ = world.connect(first)

    def kill(rec, frame):
        victim.abort()
        order.append("still in the callback")

    _, peer = world.connect(FrameRecorder(frame=kill))
    peer.write(FRAME)
    world.settle()
    assert order == ["still in the callback", "lost"]


def test_connection_protocol_base_class_callbacks_do_nothing(world):
    """A subclass overrides what it needs."""

    class Minimal(Protocol):
        def frame_received(self, frame):
            pass

    _, peer = world.connect(Minimal())
    peer.write(FRAME, fin=True)
    world.until(lambda: world.served)
    assert world.served[0][0].close_reason is CloseReason.PEER
