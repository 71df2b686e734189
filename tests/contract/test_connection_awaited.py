"""Bodies of about a mebibyte, which the compiled twin leaves in the kernel of TCP until they are whole."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import socket

import pytest
from peers import DataRecorder, FrameRecorder, connection_class, encode, tcp_pair, world

from evloop import CloseReason

SIZE = 1024 * 1024
PART = 30000  # bytes, which any window takes


@pytest.fixture(params=["tcp", "unix"])
def begin(request, world):
    """Return a function that has a connection take a large frame, and begins another: (recorder, peer, its rest)."""

    def start(part=PART, **limits):
        rec = FrameRecorder()
        pair = tcp_pair if request.param == "tcp" else socket.socketpair
        _, peer = world.connect(rec, pair=pair, reading=True, **limits)
        frame = bytes(range(256)) * (SIZE // 256)
        peer.write(encode(frame))
        world.until(lambda: rec.frames)
        peer.write(encode(frame)[:part])
        world.settle()
        return rec, peer, encode(frame)[part:]

    return start


def test_awaited_body_arrives_whole_once_its_rest_has_come(world, begin):
    """Nothing of it is lost or delivered early, wherever the kernel has kept it."""
    rec, peer, rest = begin()
    assert len(rec.frames) == 1
    peer.write(rest[:-1])
    world.settle()
    assert len(rec.frames) == 1
    peer.write(rest[-1:] + encode(b"small"))
    world.until(lambda: len(rec.frames) == 3)
    assert rec.frames == [rec.frames[0], rec.frames[0], b"small"]


def test_awaited_body_is_not_read_before_it_is_whole(world, begin, request):
    """Which is what makes it cheap: one read for all of it, and memory for it only then."""
    rec, _, _ = begin()
    received = rec.conn.stats.bytes_received - len(encode(rec.frames[0]))
    kept = request.node.callspec.params["begin"] == "tcp" and type(rec.conn).__module__ == "evloop._connection"
    assert received == (4 if kept else PART)


@pytest.mark.parametrize("part", [1, 3, 4, 5])
def test_awaited_body_of_which_only_the_header_has_come_is_taken(world, begin, part):
    """Cut around the header's end, where there is no memory for the body yet."""
    rec, peer, rest = begin(part=part)
    peer.write(rest)
    world.until(lambda: len(rec.frames) == 2)
    assert rec.frames[0] == rec.frames[1]


def test_awaited_body_whose_peer_ends_is_truncated(world, begin):
    """The end of the stream is told at once, however much is waited for."""
    rec, peer, _ = begin()
    peer.fin()
    world.until(lambda: rec.lost)
    assert rec.reason is CloseReason.TRUNCATED


@pytest.mark.parametrize("size", [PART, 900_000])
def test_awaited_body_in_a_connection_that_closes_does_not_reset_the_peer(world, begin, size):
    """What it has sent and still sends is read and dropped: an unread byte would make of the end a reset."""
    rec, peer, rest = begin(linger=5)
    peer.write(rest[:size])
    world.settle()
    rec.conn.send(b"goodbye")
    rec.conn.close()
    world.until(lambda: peer.eof)
    peer.write(bytes(PART))
    peer.fin()
    world.until(lambda: rec.lost)
    assert (peer.frames, peer.error) == ([b"goodbye"], None)


def test_awaited_body_goes_to_who_takes_the_stream_over(world, begin):
    """set_framing() in the middle of it: what has come is the new protocol's, and all that follows as it comes."""
    rec, peer, rest = begin()
    world.recorders.remove(rec)  # it is told no more, not even of the end
    taker = DataRecorder()
    taker.conn = rec.conn
    rec.conn.set_protocol(taker)
    rec.conn.set_framing(None)
    peer.write(rest[:10])
    world.until(lambda: sum(map(len, taker.frames)) == PART + 10)
    assert b"".join(taker.frames) == encode(rec.frames[0])[:PART] + rest[:10]


def test_awaited_body_that_comes_slowly_is_no_idle_connection(world, begin):
    """Of the parts the kernel tells nobody, so it is asked before the connection is given up."""
    rec, peer, rest = begin(idle_timeout=10)
    world.advance(9)
    peer.write(rest[:PART])
    world.advance(9)
    world.settle()
    assert not rec.conn.is_closing()
    world.advance(11)
    world.settle()
    assert rec.conn.close_reason is CloseReason.IDLE
