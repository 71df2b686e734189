"""What a protocol may still say when its peer's bytes are no frame, and that the peer gets to read it."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import pytest
from packetpeers import packets
from peers import U32, FrameRecorder, World, connection_class, encode, world
from test_connection_packets import wide_pair
from tlspeers import make_world

from evloop import BadLength, BadMagic, CloseReason, FrameTooLarge, Framing
from evloop.reactor import RECV_BUFFER

LIMIT = 100
ABOVE = encode(bytes(LIMIT + 1))
SIGNED = Framing(4, signed=True)
MAGIC = Framing(2, magic=b"ev")


class Answering(FrameRecorder):
    """Keeps what framing_error was called with."""

    def __init__(self, **actions):
        super().__init__(**actions)
        self.errors = []

    def framing_error(self, exc):
        self.errors.append(exc)
        return self._did("error", exc)


class Plain:
    """Looks like a protocol, and is none of ours: it has no framing_error."""

    def __init__(self):
        self.log = []

    def connection_made(self, conn):
        self.conn = conn

    def frame_received(self, frame):
        raise AssertionError

    def connection_lost(self, exc):
        self.log.append(exc)


def say_bye(rec, exc):
    """An action: the last word."""
    rec.conn.send(b"bye")


def lose(world, peer, rec):
    """Have *peer* read to the end and end its own side, until the connection of *rec* is lost."""
    peer.reading = True
    world.until(lambda: peer.ended)
    if peer.eof:
        peer.fin()
    world.until(lambda: rec.lost)


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1])
def test_framing_error_above_max_frame_is_called_before_the_close(world, size):
    """Only the application knows in which words its peers are told; a close alone looks like a broken line."""
    rec = Answering(error=say_bye, eof=lambda rec: rec.conn.send(b"end"))
    _, peer = world.connect(rec, max_frame=LIMIT)
    peer.write(encode(b"first", bytes(size)), fin=True)
    peer.reading = True
    world.until(lambda: peer.ended and rec.lost)
    if size > LIMIT:
        assert (rec.frames, peer.frames, peer.eof) == ([b"first"], [b"bye"], True)
        assert rec.log == ["made", "frame", "error", "lost"]
        assert (rec.reason, rec.exc) == (CloseReason.FRAME_TOO_LARGE, rec.errors[0])
        assert (rec.exc.length, rec.exc.limit) == (size, LIMIT)
    else:
        assert (len(rec.frames), peer.frames, rec.reason) == (2, [b"end"], CloseReason.PEER)
        assert rec.errors == []


@pytest.mark.parametrize(
    ("framing", "data", "error"),
    [(SIGNED, b"\xff\xff\xff\xff", BadLength), (MAGIC, b"EV\0\1", BadMagic)],
    ids=["length", "magic"],
)
def test_framing_error_of_any_kind_is_called(world, framing, data, error):
    """What is refused is the decoder's to say; that it is refused is told for all of it."""
    rec = Answering(error=say_bye)
    _, peer = world.connect(rec, framing=framing)
    peer.write(data)
    lose(world, peer, rec)
    assert [type(exc) for exc in rec.errors] == [error]
    assert (rec.exc, rec.reason) == (rec.errors[0], CloseReason.PROTOCOL)
    assert bytes(peer.received) == framing.encode(b"bye")


def test_framing_error_of_a_truncated_stream_is_not_called(world):
    """Whoever has sent its end would only be a reason for a reset."""
    rec = Answering()
    _, peer = world.connect(rec, max_frame=LIMIT)
    peer.write(ABOVE[:2], fin=True)
    world.until(lambda: rec.lost)
    assert (rec.errors, rec.reason) == ([], CloseReason.TRUNCATED)


def test_framing_error_words_reach_a_peer_that_goes_on_sending(world):
    """The rest of the frame is on its way: closed with it unread, the kernel's reset would overtake the words."""
    rec = Answering(error=say_bye)
    _, peer = world.connect(rec, max_frame=LIMIT)
    peer.write(encode(bytes(200 << 10)), fin=True)
    world.until(lambda: rec.lost)
    peer.reading = True
    world.until(lambda: peer.ended)
    assert (peer.frames, peer.eof, peer.error) == ([b"bye"], True, None)


def test_framing_error_large_last_word_is_flushed(world):
    """More than the kernel takes at once is still what send() has accepted."""
    word = bytes(U32.max_frame)
    rec = Answering(error=lambda rec, exc: rec.conn.send_many([word] * 4))
    conn, peer = world.connect(rec)
    peer.write(b"\xff" * 4)
    world.until(lambda: rec.errors)
    world.turn(3)
    assert conn.state == "flushing"
    lose(world, peer, rec)
    assert (peer.frames, rec.reason) == ([word] * 4, CloseReason.FRAME_TOO_LARGE)


def test_framing_error_last_word_to_a_peer_that_takes_none_is_bounded(world):
    """What the peer did first is the reason; flush_timeout is how long it may keep a descriptor."""
    rec = Answering(error=lambda rec, exc: rec.conn.send_many([bytes(U32.max_frame)] * 16))
    _, peer = world.connect(rec, flush_timeout=5)
    peer.write(b"\xff" * 4)
    world.until(lambda: rec.errors)
    world.settle()
    world.advance(4.999)
    assert not rec.lost
    world.advance(0.002)
    assert (rec.lost, rec.reason) == (True, CloseReason.FRAME_TOO_LARGE)


def test_framing_error_that_raises_is_a_handlers_error(world):
    """As in any callback, and the connection beside it goes on."""
    rec, witness = Answering(error=lambda rec, exc: 1 // 0), FrameRecorder()
    _, peer = world.connect(rec, max_frame=LIMIT)
    _, other = world.connect(witness)
    peer.write(ABOVE)
    lose(world, peer, rec)
    assert (type(rec.exc), rec.reason) == (ZeroDivisionError, CloseReason.HANDLER)
    other.write(encode(b"still here"))
    world.until(lambda: witness.frames)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda rec, exc: rec.conn.abort(), CloseReason.ABORTED),
        (lambda rec, exc: rec.conn.close_for(CloseReason.SHUTDOWN), CloseReason.SHUTDOWN),
    ],
    ids=["abort", "close_for"],
)
def test_framing_error_that_ends_the_connection_keeps_its_own_reason(world, end, reason):
    """The first cause counts, and that is whoever closes first."""
    rec = Answering(error=end)
    _, peer = world.connect(rec, max_frame=LIMIT)
    peer.write(ABOVE)
    lose(world, peer, rec)
    assert (rec.reason, rec.exc) == (reason, None)


def test_framing_error_that_closes_for_a_fault_of_its_own_keeps_that(world):
    """close_for() keeps its reason and its exception, whichever they are."""
    own = ValueError("too much")
    rec = Answering(error=lambda rec, exc: rec.conn.close_for(CloseReason.LOCAL, own))
    _, peer = world.connect(rec, max_frame=LIMIT)
    peer.write(ABOVE)
    lose(world, peer, rec)
    assert (rec.reason, rec.exc) == (CloseReason.LOCAL, own)


@pytest.mark.parametrize("linger", [0, 2])
def test_framing_error_that_closes_keeps_the_fault_as_the_reason(world, linger):
    """Most error paths of an application end in close(): an operator still has to see what the peer did."""
    rec = Answering(error=lambda rec, exc: (rec.conn.send(b"bye"), rec.conn.close(), rec.conn.send(b"late")))
    _, peer = world.connect(rec, max_frame=LIMIT, linger=linger)
    peer.write(ABOVE)
    lose(world, peer, rec)
    assert (rec.reason, rec.exc, peer.frames) == (CloseReason.FRAME_TOO_LARGE, rec.errors[0], [b"bye"])


def test_framing_error_is_called_once_though_it_reads_on(world):
    """A callback may take what is in the kernel; the decoder says the same again, and it is not told again."""
    rec = Answering(error=lambda rec, exc: rec.conn.on_readable())
    _, peer = world.connect(rec, max_frame=LIMIT)
    # More than one read of the shared buffer, so that there is something left to take.
    peer.write(ABOVE + bytes(600 << 10))
    world.until(lambda: rec.errors)
    lose(world, peer, rec)
    assert (len(rec.errors), rec.reason) == (1, CloseReason.FRAME_TOO_LARGE)


def test_framing_error_that_switches_the_framing_is_closed_all_the_same(world):
    """A second reading of refused bytes would be a way to go on for ever."""
    rec = Answering(error=lambda rec, exc: rec.conn.set_framing(Framing(1)))
    _, peer = world.connect(rec, max_frame=LIMIT)
    peer.write(ABOVE)
    lose(world, peer, rec)
    assert (rec.frames, rec.reason) == ([], CloseReason.FRAME_TOO_LARGE)


def test_framing_error_waits_for_what_comes_before_it(world):
    """A paused protocol has frames in front of the fault, and answers them first."""
    rec = Answering(frame=lambda rec, frame: rec.conn.pause_reading(), error=say_bye)
    conn, peer = world.connect(rec, max_frame=LIMIT)
    peer.write(encode(b"1", b"2") + ABOVE)
    for expected in ([b"1"], [b"1", b"2"]):
        world.settle()
        assert (rec.frames, rec.errors) == (expected, [])
        conn.resume_reading()
    lose(world, peer, rec)
    assert (len(rec.errors), peer.frames) == (1, [b"bye"])


def test_framing_error_exit_in_it_is_not_told_again(world):
    """Ctrl-C may come anywhere; the connection is closed when the reactor runs again."""
    rec = Answering(error=lambda rec, exc: (_ for _ in ()).throw(KeyboardInterrupt))
    _, peer = world.connect(rec, max_frame=LIMIT)
    peer.write(ABOVE)
    with pytest.raises(KeyboardInterrupt):
        world.until(lambda: rec.lost)
    lose(world, peer, rec)
    assert (len(rec.errors), rec.reason) == (1, CloseReason.FRAME_TOO_LARGE)


def test_framing_error_to_a_peer_that_is_gone_keeps_the_reason(world):
    """The last word fails as any write may; what was wrong stays what was wrong."""
    rec = Answering(error=lambda rec, exc: (peer.reset(), rec.conn.send(b"bye")))
    _, peer = world.connect(rec, max_frame=LIMIT)
    peer.write(ABOVE)
    world.until(lambda: rec.lost)
    assert rec.reason is CloseReason.FRAME_TOO_LARGE


def test_framing_error_is_optional(world):
    """Protocols were written before there was one, and a protocol need not derive from ours."""
    protocol = Plain()
    conn, peer = world.connect(protocol, max_frame=LIMIT)
    peer.write(ABOVE)
    peer.reading = True
    world.until(lambda: peer.ended)
    peer.fin()
    world.until(lambda: protocol.log)
    assert (conn.close_reason, type(protocol.log[0])) == (CloseReason.FRAME_TOO_LARGE, FrameTooLarge)


def test_framing_error_over_tls_is_sealed_and_followed_by_close_notify(make_world):
    """The words are for the peer alone, and it can tell that they are the last."""
    world = make_world()
    rec = Answering(error=say_bye)
    _, peer = world.connect(rec, max_frame=LIMIT, reading=True)
    peer.write(encode(b"first", bytes(200 << 10)))
    lose(world, peer, rec)
    assert (rec.frames, peer.frames, peer.eof) == ([b"first"], [b"bye"], True)
    assert (rec.log, rec.reason) == (["made", "frame", "error", "lost"], CloseReason.FRAME_TOO_LARGE)


def test_framing_error_is_not_called_for_a_broken_record(make_world):
    """Nothing can be sealed any more: TLS has its alert, and the protocol no word."""
    world = make_world()
    rec = Answering(error=say_bye)
    _, peer = world.connect(rec, reading=True)
    peer.sock.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    peer.fin()
    world.until(lambda: rec.lost)
    assert (rec.errors, rec.reason) == ([], CloseReason.TLS)


def test_framing_error_of_a_packet_too_large_to_be_read_is_called(packets):
    """The kernel has cut it, so it is no frame whatever is in it; the answer is a packet of its own."""
    rec = Answering(error=say_bye)
    _, peer = packets.connect(rec, reading=True, pair=wide_pair)
    peer.sock.send(bytes(RECV_BUFFER + 1))
    packets.until(lambda: peer.ended)
    peer.fin()
    packets.until(lambda: rec.lost)
    assert ([type(exc).__name__ for exc in rec.errors], rec.reason) == (["PacketTooLarge"], CloseReason.FRAME_TOO_LARGE)
    assert bytes(peer.received) == encode(b"bye")
