"""What a connection promises to who takes it over: set_protocol and set_framing, in a callback and outside of one."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import itertools
import random
import socket

import pytest
from packetpeers import packets
from peers import BatchRecorder, DataRecorder, FrameRecorder, World, connection_class, encode, world
from tlspeers import make_world, tls_world
from twins import needs_compiled

from evloop import CloseReason, Framing
from evloop._connection_py import Connection as PureConnection
from evloop.protocol import CoroutineProtocol, FunctionProtocol

U16, U32 = Framing.U16, Framing.U32
PAIR = socket.socketpair


class Former:
    """A recorder that gives its connection away: nobody tells it of the end, and so its diary has no beginning."""

    def connection_made(self, conn):
        self.conn = conn
        if "made" in self.actions:
            self.actions["made"](self)


class FormerData(Former, DataRecorder):
    """Of an unframed connection."""


class FormerFrames(Former, FrameRecorder):
    """Of a framed one."""


def taken_by(taker, framing, keep=0):
    """An action of an unframed connection: hand everything but the first *keep* bytes of this read to *taker*."""

    def action(rec, data):
        rec.conn.set_protocol(taker)
        rec.conn.set_framing(framing, data[keep:])
        taker.conn = rec.conn
        assert taker.frames == []  # not before the callback has returned

    return action


@pytest.mark.parametrize("cut", range(1, 12))
def test_switch_of_a_sniffed_stream_delivers_the_same_frames_wherever_it_is_cut(world, cut):
    """The first byte says which protocol it is; the read that brings it may end anywhere."""
    taker = FrameRecorder()
    conn, peer = world.connect(FormerData(data=taken_by(taker, U32)), framing=None, pair=PAIR)
    stream = encode(b"one", b"two")
    peer.write(stream[:cut])
    world.settle()
    peer.write(stream[cut:])
    world.settle()
    assert (taker.frames, conn.close_reason, conn.framing) == ([b"one", b"two"], None, U32)
    assert conn.protocol is taker


@pytest.mark.parametrize("first", ["protocol", "framing"])
def test_switch_asked_for_in_either_order_is_the_same(world, first):
    """Between the two calls the one does not fit the other, and nothing may come of that."""
    taker = BatchRecorder()

    def both(rec, data):
        taker.conn = rec.conn
        calls = [lambda: rec.conn.set_protocol(taker), lambda: rec.conn.set_framing(U32, data)]
        for call in calls if first == "protocol" else calls[::-1]:
            call()

    conn, peer = world.connect(FormerData(data=both), framing=None, pair=PAIR)
    peer.write(encode(b"1", b"2"))
    world.settle()
    peer.write(encode(b"3"))
    world.settle()
    assert (taker.log, taker.frames, conn.close_reason) == (["frames", "frames"], [b"1", b"2", b"3"], None)


def test_switch_outside_of_a_callback_delivers_the_rest_in_a_later_turn(world):
    """Who has kept the bytes until he knew better, a login for example, hands them over then."""
    taker, rec = FrameRecorder(), FormerData()
    conn, peer = world.connect(rec, framing=None, pair=PAIR)
    peer.write(b"\0\0")
    world.settle()
    conn.set_framing(U32, b"".join(rec.frames))
    conn.set_protocol(taker)
    peer.write(b"\0\5hello" + encode(b"you"))
    world.settle()
    assert (taker.frames, rec.log) == ([b"hello", b"you"], ["data"])
    taker.conn = conn


def test_switch_of_the_sender_encodes_what_follows_and_leaves_what_waits(world):
    """A STARTTLS-like answer still has the old format; what comes after it has the new one."""

    def upgrade(rec, frame):
        rec.conn.send(b"go ahead")
        rec.conn.set_framing(U16)
        rec.conn.send(b"welcome")
        rec.conn.send_many([b"a", b"b"])

    _conn, peer = world.connect(FrameRecorder(frame=upgrade), pair=PAIR, reading=True)
    peer.write(encode(b"upgrade"))
    world.settle()
    assert peer.received == encode(b"go ahead") + encode(b"welcome", b"a", b"b", framing=U16)


@pytest.mark.parametrize("framing", [U32, Framing(3, "little"), Framing(4, magic=b"EV", deliver="frame"),
                                     Framing(2, after=2, deliver="pair"), Framing.VARINT.replace(deliver="frame")],
                         ids=["u32", "u24le", "frame", "pair", "varint"])  # fmt: skip
@pytest.mark.parametrize("behind", [b"", b"raw", b"GET / HTTP/1.1\r\n\r\n" * 9, bytes(40), b"\xff" * 9])
def test_switch_from_frames_to_bytes_gives_back_what_came_behind_the_frame(world, framing, behind):
    """The decoder has read on: whole frames, a cut one, or what is none; it all comes as the bytes that it was."""
    taker = DataRecorder()

    def leave(rec, frame):
        rec.conn.set_framing(None)
        rec.conn.set_protocol(taker)
        taker.conn = rec.conn

    conn, peer = world.connect(FormerFrames(frame=leave), framing=framing, pair=PAIR)
    edges = {} if not framing.after else {"after": b"af"}
    if framing.magic:
        edges["before"] = b""
    frame = framing.encode(b"switch", **edges)
    peer.write(frame + frame + behind)
    world.settle()
    peer.write(b"more")
    world.settle()
    assert (b"".join(taker.frames), conn.close_reason) == (frame + behind + b"more", None)


def test_switch_behind_frames_that_lost_their_headers_is_refused_and_changes_nothing(world):
    """What cannot be put back must not be made up: a header of several spellings is gone."""
    framing = Framing(4, before=2)

    def leave(rec, frame):
        if len(rec.frames) == 1:
            with pytest.raises(RuntimeError, match="2 frames behind this one are decoded"):
                rec.conn.set_framing(None)

    rec = FrameRecorder(frame=leave)
    conn, peer = world.connect(rec, framing=framing, pair=PAIR)
    peer.write(b"".join(framing.encode(data, b"xy") for data in (b"1", b"2", b"3")))
    world.settle()
    assert (rec.frames, conn.framing, conn.close_reason) == ([b"1", b"2", b"3"], framing, None)


def test_switch_of_the_protocol_alone_gives_it_the_rest_of_the_read(world):
    """A login that is done with: the next frame is the application's, though it came with the same read."""
    taker = FrameRecorder()
    rec = FormerFrames(frame=lambda rec, frame: rec.conn.set_protocol(taker))
    conn, peer = world.connect(rec, pair=PAIR)
    peer.write(encode(b"login", b"1", b"2"))
    world.settle()
    assert (rec.frames, taker.frames) == ([b"login"], [b"1", b"2"])
    taker.conn = conn
    conn.abort()
    world.settle()
    assert (rec.log, taker.log) == (["frame"], ["frame", "frame", "lost"])


def test_switch_to_a_function_calls_it_with_the_connection(world):
    """The cheapest handler there is can take over, too."""
    got = []
    handler = FunctionProtocol(lambda conn, frame: got.append((conn, frame)))

    def hand_over(rec, data):
        rec.conn.set_framing(U32, data)
        rec.conn.set_protocol(handler)

    conn, peer = world.connect(FormerData(data=hand_over), framing=None, pair=PAIR)
    peer.write(encode(b"1"))
    world.settle()
    assert got == [(conn, b"1")]


def test_switch_to_a_protocol_that_cannot_receive_closes_with_its_name(world):
    """The mistake of a programmer is his handler's, and names the method that is missing."""
    taker = FrameRecorder()
    conn, peer = world.connect(FormerData(data=lambda rec, data: rec.conn.set_protocol(taker)), framing=None)
    peer.write(b"x")
    world.settle()
    assert conn.close_reason is None
    taker.conn = conn
    peer.write(b"y")
    world.until(lambda: conn.close_reason is not None)
    peer.close()
    world.until(lambda: taker.lost)
    assert (conn.close_reason, type(taker.exc)) == (CloseReason.HANDLER, TypeError)
    assert "FrameRecorder has no method data_received" in str(taker.exc)


def test_switch_in_connection_made_holds_for_the_first_byte(world):
    """The protocol of a listener may be known when the peer's address is."""
    taker = FrameRecorder()

    def made(rec):
        rec.conn.set_framing(U16)
        rec.conn.set_protocol(taker)

    _conn, peer = world.connect(FormerData(made=made), framing=None, pair=PAIR)
    peer.write(encode(b"1", framing=U16))
    world.settle()
    assert taker.frames == [b"1"]
    taker.conn = world.connections[0]


def test_switch_while_reading_is_paused_waits_for_resume_reading(world):
    """A pause is the application's, and a change of the format does not end it."""
    rec = FrameRecorder(frame=lambda rec, frame: rec.conn.pause_reading())
    conn, peer = world.connect(rec, pair=PAIR)
    peer.write(encode(b"1") + encode(b"2", b"3", framing=U16)[:4])
    world.settle()
    conn.set_framing(U16)
    world.settle()
    assert rec.frames == [b"1"]
    rec.actions.clear()
    conn.resume_reading()
    peer.write(encode(b"2", b"3", framing=U16)[4:])
    world.settle()
    assert rec.frames == [b"1", b"2", b"3"]


def test_switch_with_a_fault_in_the_rest_delivers_what_is_before_it(world):
    """The rest is read as any other bytes are."""
    conn, peer = world.connect(FormerData(), framing=None, pair=PAIR, max_frame=100)
    taker = FrameRecorder()
    taker.conn = conn
    conn.set_protocol(taker)
    conn.set_framing(U32, encode(b"1") + b"GET / HTTP/1.1\r\n")
    world.settle()
    peer.close()
    world.settle()
    assert (taker.frames, conn.close_reason, taker.lost) == ([b"1"], CloseReason.FRAME_TOO_LARGE, True)


def test_switch_keeps_the_bound_of_the_limits(world):
    """max_frame is the connection's, whatever it speaks."""
    conn, _peer = world.connect(DataRecorder(), framing=None, pair=PAIR, max_frame=1000)
    with pytest.raises(ValueError, match="max_frame"):
        conn.set_framing(Framing(1))
    assert conn.framing is None


def test_switch_with_the_end_of_the_stream_behind_it_ends_after_the_frames(world):
    """The last read may hold everything: the first bytes, the frames, and the end."""
    taker = FrameRecorder()
    conn, peer = world.connect(FormerData(data=taken_by(taker, U32)), framing=None, pair=PAIR)
    peer.write(encode(b"1", b"2"), fin=True)
    world.settle()
    assert (taker.frames, taker.log[:3], conn.close_reason) == (
        [b"1", b"2"],
        ["frame", "frame", "eof"],
        CloseReason.PEER,
    )


def test_switch_on_a_closing_connection_does_nothing(world):
    """Its peer may have ended it at any moment, so that is no error."""
    conn, _peer = world.connect(DataRecorder(), framing=None, pair=PAIR)
    conn.close()
    conn.set_framing(U32, b"rest")
    assert conn.framing is None
    world.settle()
    conn.abort()
    world.turn(2)
    conn.set_protocol(FrameRecorder())
    assert conn.protocol is None


# --- deadlines -------------------------------------------------------------------------------------------------------


def test_switch_counts_the_first_frame_from_the_beginning(world):
    """Who sends one byte and sleeps has sent no frame, though an unframed read was delivered."""
    taker = FrameRecorder()
    conn, peer = world.connect(FormerData(data=taken_by(taker, U32)), framing=None, pair=PAIR, first_frame_timeout=10)
    world.advance(4)
    peer.write(b"\0")
    world.settle()
    world.advance(5.9)
    assert conn.close_reason is None
    world.advance(0.2)
    assert conn.close_reason is CloseReason.FIRST_FRAME_TIMEOUT


def test_switch_after_the_first_frames_deadline_starts_it_anew(world):
    """What spoke another protocol for an hour has as long for its first frame as everybody."""
    conn, peer = world.connect(FormerData(), framing=None, pair=PAIR, first_frame_timeout=10)
    peer.write(b"x")
    world.settle()
    world.advance(50)
    rec = FrameRecorder()
    rec.conn = conn
    conn.set_protocol(rec)
    conn.set_framing(U32)
    world.advance(9.9)
    assert conn.close_reason is None
    peer.write(encode(b"in time"))
    world.settle()
    world.advance(50)
    assert (rec.frames, conn.close_reason) == ([b"in time"], None)


def test_switch_into_the_middle_of_a_frame_starts_its_deadline(world):
    """A frame that began in the rest has begun."""
    conn, peer = world.connect(
        FormerData(data=taken_by(FrameRecorder(), U32)), framing=None, pair=PAIR, frame_timeout=3
    )
    peer.write(encode(b"never whole")[:-1])
    world.settle()
    conn.protocol.conn = conn
    world.advance(2.9)
    assert conn.close_reason is None
    world.advance(0.2)
    assert conn.close_reason is CloseReason.FRAME_TIMEOUT


def test_switch_away_from_the_middle_of_a_frame_ends_its_deadline(world):
    """What had begun was no frame."""
    rec = DataRecorder()
    conn, peer = world.connect(FormerFrames(), pair=PAIR, frame_timeout=3)
    peer.write(b"\0\0")
    world.settle()
    rec.conn = conn
    conn.set_protocol(rec)
    conn.set_framing(None)
    world.settle()
    world.advance(10)
    assert (rec.frames, conn.close_reason) == ([b"\0\0"], None)


# --- who may not -----------------------------------------------------------------------------------------------------


def test_switch_to_a_coroutine_is_refused(world):
    """A session is made when a connection begins, over a loop that this one may not have."""
    conn, _peer = world.connect(FrameRecorder(), pair=PAIR)
    with pytest.raises(RuntimeError, match="a coroutine takes this connection's frames, or would"):
        conn.set_protocol(CoroutineProtocol(lambda implementation: None))
    assert isinstance(conn.protocol, FrameRecorder)


@pytest.mark.parametrize("wrong", [(object(),), (U32, "text"), (U32, 5)])
def test_switch_with_wrong_arguments_raises_and_changes_nothing(world, wrong):
    """A mistake must not leave a connection between two formats."""
    rec = DataRecorder()
    conn, peer = world.connect(rec, framing=None, pair=PAIR)
    with pytest.raises(TypeError):
        conn.set_framing(*wrong)
    peer.write(b"as before")
    world.settle()
    assert (conn.framing, rec.frames) == (None, [b"as before"])


# --- the other kinds of connection -----------------------------------------------------------------------------------


def test_switch_inside_of_tls_is_the_same(tls_world):
    """The payload of a record is bytes as any others are, with several records in one read."""
    taker = FrameRecorder()
    conn, peer = tls_world.connect(FormerData(data=taken_by(taker, U32)), framing=None)
    stream = encode(*(b"%05d" % number * 1000 for number in range(20)))
    peer.write(stream)
    tls_world.until(lambda: len(taker.frames) == 20)
    assert (encode(*taker.frames), conn.close_reason) == (stream, None)


def test_switch_of_packets_from_messages_to_frames_is_refused(packets):
    """A queued message is a packet, and a queued frame is not: they cannot wait in one output."""
    conn, _peer = packets.connect(DataRecorder(), framing=None)
    with pytest.raises(RuntimeError, match="each packet is a message"):
        conn.set_framing(U32)


def test_switch_of_packets_from_frames_to_frames_is_allowed(packets):
    """They carry a stream, which may change its format."""
    rec = FrameRecorder(frame=lambda rec, frame: rec.conn.set_framing(U16))
    _conn, peer = packets.connect(rec)
    peer.write(encode(b"1") + encode(b"2", framing=U16))
    packets.settle()
    assert rec.frames == [b"1", b"2"]


# --- both twins, at random -------------------------------------------------------------------------------------------


class Chameleon(FormerFrames):
    """Changes the framing, or hands over to another of its kind, at frames that chance picks."""

    FRAMINGS = (U32, U16, Framing(3, "little"), Framing(4, deliver="frame"), None)

    def __init__(self, dice, left=12):
        super().__init__()
        self.dice, self.left = dice, left

    def frame_received(self, frame):
        self.frames.append(("frame", self.left, bytes(frame)))
        self.change(b"")

    def data_received(self, data):
        keep = self.dice.randrange(len(data) + 1)
        self.frames.append(("data", self.left, data[:keep]))
        self.change(data[keep:])

    def change(self, rest):
        if not rest and self.dice.random() < 0.6:
            return
        framing = self.dice.choice(self.FRAMINGS) if self.left else self.conn.framing
        if not self.left and rest:
            self.frames.append(("data", 0, rest))
            return
        self.left -= self.left > 0
        if self.dice.random() < 0.5:
            other = Chameleon(self.dice, self.left)
            other.frames, other.conn, other.log = self.frames, self.conn, self.log
            self.conn.set_protocol(other)
        self.conn.set_framing(framing, rest)


def chameleon_trace(cls, seed):
    """Return what a connection of a class made of a stream of small numbers, which is something in every framing."""
    dice, trace = random.Random(seed), []
    world = World(cls)
    rec = Chameleon(dice)
    rec.conn, peer = world.connect(rec, framing=None, pair=PAIR, linger=0, max_frame=dice.choice((None, 3000)))
    conn = rec.conn
    for _ in range(6):
        peer.write(bytes(dice.choices((0, 0, 0, 1, 2, 200), k=dice.choice((1, 5, 40, 700)))))
        world.settle()
        trace.append((conn.framing, conn.state, conn.close_reason, conn.stats.input, len(rec.frames)))
    trace.append((rec.frames, conn.stats))
    conn.abort()
    world.turn(2)
    world.close()
    return trace


def test_switch_random_changes_have_the_same_trace_on_both_twins(pytestconfig):
    """The readable twin is the specification."""
    needs_compiled(pytestconfig)
    from evloop._connection import Connection

    for seed in range(150):
        compiled, pure = (chameleon_trace(cls, seed) for cls in (Connection, PureConnection))
        for one, other in itertools.zip_longest(compiled, pure):
            assert one == other, seed
