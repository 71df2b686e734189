"""The compiled connection leaves nothing behind, however it lives and ends; nor do servers, clients and their budgets.

Each round is a whole world, with a reactor of its own: what a reactor keeps of its connections is part of the count.
"""

from __future__ import annotations

import logging
import socket

import pytest
from forks import in_child
from growth import fails, leaked
from peers import (
    BatchRecorder,
    DataRecorder,
    FrameRecorder,
    World,
    echo,
    encode,
    narrow_pair,
)
from serving import call, start
from twins import needs_compiled

import evloop
from evloop import Framing, Limits
from evloop.protocol import FunctionProtocol, protocol_factory_of

LARGE = bytes(100_000)
MEBI = bytes(1 << 20)


@pytest.fixture(scope="module")
def compiled(request):
    """The compiled connection."""
    needs_compiled(request.config)
    import evloop._connection

    return evloop._connection.Connection


def raising(*args):
    raise ZeroDivisionError


def leaving(*args):
    raise SystemExit


def function(handler):
    """Return the protocol of a function."""
    return protocol_factory_of(handler, None)()


@pytest.fixture(autouse=True)
def silence():
    """Log nothing: pytest keeps every record of a test.  The logger is given back by a fixture of conftest.py."""
    logging.getLogger("evloop").setLevel(logging.CRITICAL)


def told(world, rec, *payloads, **options):
    """Return a connection for *rec* and its peer, which has sent *payloads*."""
    conn, peer = world.connect(rec, reading=True, **options)
    peer.write(encode(*payloads))
    world.settle()
    return conn, peer


# --- delivery and sending ------------------------------------------------------------------------------------------


def echoes(world):
    payloads = [b"a", b"", b"x" * 300, LARGE, b"end"]
    for rec in (
        FrameRecorder(frame=echo),
        BatchRecorder(frames=lambda rec, frames: rec.conn.send_many(frames)),
        function(lambda conn, frame: conn.send(frame)),
    ):
        _, peer = told(world, rec, *payloads)
        assert peer.frames == payloads
        peer.write(encode(b"one"))
        world.settle()


def large_frames(world):
    """In place, guessed right and wrong, from the pool and back to it."""
    for rec in (FrameRecorder(), BatchRecorder(), function(lambda conn, frame: None)):
        conn, peer = world.connect(rec)
        for payload in (LARGE, LARGE, MEBI, LARGE, b"small", LARGE[:-1], MEBI, MEBI):
            peer.write(encode(payload))
            world.settle()
        peer.write(encode(LARGE, LARGE, LARGE))
        world.settle()
        peer.write(encode(MEBI)[:70_000])  # and no more
        world.settle()
        assert conn.stats.frames_received == 11


def keeps_frames(world):
    """What the handler keeps must not be given out again, and what it let go of may."""
    kept = []
    for rec in (FrameRecorder(), BatchRecorder(), function(lambda conn, frame, kept=kept: kept.append(frame))):
        _, peer = told(world, rec, LARGE, MEBI)
        peer.write(encode(LARGE))
        world.settle()
        kept += getattr(rec, "frames", ())
    assert kept == [LARGE, MEBI, LARGE] * 3


def other_formats(world):
    for framing in (
        Framing("varint"),
        Framing(4, deliver="pair"),
        Framing(4, deliver="frame"),
        Framing(2, "little", magic=b"ab", before=2, after=1),
    ):
        edge = (b"", b"e" * framing.after)
        conn, peer = world.connect(FrameRecorder(), framing=framing, reading=True)
        stream = b"".join(framing.encode(payload, *edge) for payload in (b"a", bytes(60_000), b"b"))
        peer.write(stream[:30_000])
        world.settle()
        peer.write(stream[30_000:])
        conn.send(b"a", *edge)
        conn.send(bytes(60_000), *edge)
        world.settle()
        assert conn.stats.frames_received == 3


def unframed(world):
    conn, peer = world.connect(DataRecorder(data=echo), framing=None, reading=True)
    peer.write(LARGE)
    conn.send_many([b"a", bytearray(b"b"), MEBI])
    world.settle()
    assert len(peer.received) == len(LARGE) + len(MEBI) + 2


def sends(world):
    """From outside and from inside, small and large, of each type; what waits; what is refused."""
    conn, _ = world.connect(FrameRecorder(), pair=narrow_pair, high_water=1 << 24)
    for payload in (b"small", LARGE, bytearray(LARGE), memoryview(b"view"), b""):
        conn.send(payload)
        conn.send_many([payload, b"x", payload])
    conn.send_many([])
    conn.send_many(iter([b"a", bytearray(b"b")]))
    for payload in ("text", None, 5, [b"a"], memoryview(b"abcd")[::2]):
        fails((TypeError, BufferError, ValueError), conn.send, payload)
        fails((TypeError, BufferError, ValueError), conn.send_many, [b"a", payload])
    narrow, _ = world.connect(FrameRecorder(), framing=Framing(1))
    fails(evloop.FrameTooLarge, narrow.send, bytes(256))
    fails(evloop.FrameTooLarge, narrow.send_many, [b"a", bytearray(256)])
    assert conn.stats.output > 500_000
    rec = FrameRecorder(frame=lambda rec, frame: (conn.send(b"to another"), rec.conn.send(frame)))
    told(world, rec, b"go", LARGE)
    conn.write_eof()
    fails(RuntimeError, conn.send, b"late")
    repr(conn), conn.stats, conn.peer, conn.local, conn.fileno(), conn.state, conn.is_reading()


def drains(world):
    """Output in pieces: chunks and tails, whole and cut."""
    rec = FrameRecorder()
    conn, peer = world.connect(rec, pair=narrow_pair)
    for _ in range(5):
        conn.send(b"head")
        conn.send(LARGE)
        conn.send(b"x" * 3000)
    peer.reading = True
    world.until(lambda: len(peer.frames) == 15)
    assert {"pause", "resume"} <= set(rec.log)


def pauses(world):
    conn, _ = told(world, FrameRecorder(frame=lambda rec, frame: rec.conn.pause_reading()), b"a", b"b", LARGE)
    for _ in range(3):
        conn.resume_reading()
        world.settle()
    assert conn.stats.frames_received == 3


# --- the end -------------------------------------------------------------------------------------------------------


def ends(world):
    """By us and by them, in order and not, with output and input of every kind left."""
    for end in ("close", "abort", "write_eof"):
        for waiting in (b"", b"small", MEBI):
            conn, peer = told(world, FrameRecorder(), b"a", pair=narrow_pair)
            conn.send(waiting)
            getattr(conn, end)()
            fails(RuntimeError, conn.send, b"late") if end == "write_eof" else conn.send(b"late")
            peer.write(b"\0\0\0\5ab")
            world.turn(2)
            repr(conn)
    for end in ("fin", "reset", "close"):
        for left in (b"", b"\0", encode(MEBI)[:50_000]):
            conn, peer = world.connect(FrameRecorder(), reading=True)
            peer.write(left)
            world.settle()
            conn.send(LARGE)
            getattr(peer, end)()
            world.settle()
            conn.send(b"more")


def faults(world):
    """The stream cannot go on; the frames before are delivered."""
    for rec in (FrameRecorder(), BatchRecorder()):
        told(world, rec, b"a", LARGE, max_frame=1000)
        assert rec.frames == [b"a"]
    conn, peer = world.connect(FrameRecorder(), framing=Framing(4, magic=b"ab", before=2))
    peer.write(b"GET / HTTP/1.1\r\n\r\n")
    world.settle()
    assert conn.is_closing()


def handlers_raise(world):
    for what in ("made", "frame", "eof", "pause"):
        conn, peer = told(world, FrameRecorder(**{what: raising}), b"a", b"b", pair=narrow_pair)
        conn.send(MEBI)
        peer.fin()
        world.settle()
    told(world, BatchRecorder(frames=raising), b"a", b"b")
    told(world, function(raising), b"a", b"b", LARGE)
    told(world, function(raising), LARGE)


def handlers_end_it(world):
    """From the middle of a batch, with what follows it held."""
    for end in ("close", "abort", "pause_reading"):
        for rec in (
            FrameRecorder(frame=lambda rec, frame, end=end: getattr(rec.conn, end)()),
            function(lambda conn, frame, end=end: (conn.send(frame), getattr(conn, end)())),
        ):
            told(world, rec, LARGE, b"a", LARGE, b"b")


def handlers_leave(world):
    """SystemExit goes through the reactor; the connection goes on."""
    for rec in (FrameRecorder(frame=leaving), BatchRecorder(frames=leaving), function(leaving)):
        conn, peer = world.connect(rec)
        peer.write(encode(b"a", LARGE))
        fails(SystemExit, world.until, conn.is_closing)
        getattr(rec, "actions", {}).clear()
        conn.protocol = None if isinstance(rec, FunctionProtocol) else rec
        conn.abort()
    conn, _ = world.connect(FrameRecorder(lost=leaving))
    conn.abort()
    fails(SystemExit, world.turn, 2)
    conn, _ = world.connect(FrameRecorder(lost=raising))
    conn.abort()
    world.turn(2)
    world.errors.clear()


def deadlines(world):
    """Each timer, armed, put off and due."""
    for limits in (
        {"idle_timeout": 1},
        {"first_frame_timeout": 1},
        {"frame_timeout": 1},
        {"write_timeout": 1},
        {"soft_output": 1000, "soft_output_timeout": 1},
        {"max_output": 1000},
    ):
        conn, peer = world.connect(FrameRecorder(), pair=narrow_pair, **limits)
        conn.send(MEBI)
        peer.write(encode(b"a")[:3])
        world.turn(2)
        peer.write(encode(b"a")[3:] + b"\0\0")
        world.advance(0.6)
        world.advance(0.6)
    for conn in world.connections:
        conn.close()  # the flush timer
    world.advance(6)
    world.advance(6)


def constructors_fail(world):
    """The socket stays the caller's."""
    one, two = socket.socketpair()
    with one, two:
        options = {"framing": Framing.U32, "limits": Limits()}
        make = world.connection_class
        fails(TypeError, make, object(), one, None, **options)
        fails(TypeError, make, world.reactor, one, None, framing=5, limits=Limits())
        fails(AttributeError, make, world.reactor, object(), None, **options)
        fails(TypeError, make, world.reactor, one)
        fails(TypeError, make, world.reactor, one, None, nonsense=1, **options)


def never_ended(world):
    """Neither closed nor even started: the collector closes the socket."""
    for started in (True, False):
        one, two = socket.socketpair()
        with two:
            one.setblocking(False)
            conn = world.connection_class(
                world.reactor, one, FrameRecorder(), framing=Framing.U32, limits=Limits(idle_timeout=5)
            )
            if started:
                conn.start()
                world.turn()
                two.sendall(b"\0\0\xff\xff" + LARGE[:30_000])
                world.turn()
                conn.send(b"x")
                conn.send(MEBI)
            world.reactor.close()


# --- servers and clients -------------------------------------------------------------------------------------------


def serves(world):
    """Accepted, refused, too much held by all, cut by the shutdown."""
    limits = Limits(max_connections=4, max_buffered=100_000, linger=0)
    server = start(world, limits=limits)
    peers = [call(world, server) for _ in range(6)]
    for peer in peers:
        peer.write(encode(b"hello") + b"\0\0\xff\xff" + LARGE[:40_000])
        world.turn(3)
    server.stats(), repr(server)
    server.shutdown(0)
    world.turn(4)
    for peer in peers:
        peer.close()
    assert server.connections == set()


def dials(world):
    """Answered, refused, given up."""
    server = start(world)
    failures = []
    answered = evloop.connect(world.reactor, server.address, FrameRecorder, timeout=5, failed=failures.append)
    world.until(lambda: answered.connection is not None)
    answered.connection.close()
    evloop.connect(world.reactor, server.address, FrameRecorder).cancel()
    address = server.address
    server.shutdown(0)
    world.turn(4)
    evloop.connect(world.reactor, address, FrameRecorder, timeout=5, failed=failures.append)
    world.until(lambda: failures)
    fails(OSError, evloop.BlockingClient, address, timeout=5)


OPERATIONS = [
    echoes,
    large_frames,
    keeps_frames,
    other_formats,
    unframed,
    sends,
    drains,
    pauses,
    ends,
    faults,
    handlers_raise,
    handlers_end_it,
    handlers_leave,
    deadlines,
    constructors_fail,
    never_ended,
    serves,
    dials,
]


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_connection_life_leaves_nothing_behind(compiled, operation):
    """A server makes thousands a second, and half of them end badly."""

    def one_life():
        world = World(compiled)
        operation(world)
        if not world.reactor.is_closed():
            world.close()

    assert leaked(one_life, rounds=20) == {}


@pytest.mark.slow
def test_connection_messages_leave_nothing_behind(compiled):
    """One connection that lives for months: what grows with its messages, and not with its lives."""
    world = World(compiled)
    conn, peer = world.connect(FrameRecorder(frame=lambda rec, frame: (rec.conn.send(frame), rec.frames.clear())))
    payloads = [b"a", b"b" * 20_000, LARGE, bytearray(LARGE)]

    def messages():
        peer.write(encode(b"x", LARGE))
        conn.send_many(payloads)
        for payload in payloads:
            conn.send(payload)
        conn.pause_reading()
        conn.resume_reading()
        peer.reading = True
        world.settle()
        peer.received.clear()
        conn.protocol.log.clear()

    assert leaked(messages) == {}
    world.close()


@pytest.mark.slow
def test_connection_forked_children_leave_nothing_in_the_parent(compiled):
    """The copies are the children's; the lives of the parent's connections go on, and end."""

    def one_life():
        world = World(compiled)
        conn, peer = world.connect(FrameRecorder(frame=echo), reading=True)
        conn.send(LARGE)
        assert in_child(conn.is_closing)
        peer.write(encode(b"still here"))
        world.until(lambda: b"still here" in peer.frames)
        world.close()

    assert leaked(one_life, rounds=10) == {}
