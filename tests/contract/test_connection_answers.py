"""Answers to single frames, which is what most connections do: the compiled twin has a way of its own for them.

The boundaries of that way: how send() is called, the sizes of its copies, the bounds of the output, and what a callback
may do beside answering.
"""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import pytest
from peers import FrameRecorder, connection_class, encode, world

from evloop import CloseReason
from evloop.protocol import FunctionProtocol

REFERENCED = 16384  # from here on a payload is not copied


class Text(bytes):
    """Bytes, and yet not quite."""


CALLS = {
    "positional": lambda conn: conn.send(b"answer"),
    "keyword": lambda conn: conn.send(payload=b"answer"),
    "every argument": lambda conn: conn.send(b"answer", b"", b""),
    "every keyword": lambda conn: conn.send(payload=b"answer", before=b"", after=b""),
    "through the class": lambda conn: type(conn).send(conn, b"answer"),
    "unpacked": lambda conn: conn.send(*[b"answer"]),
    "bytearray": lambda conn: conn.send(bytearray(b"answer")),
    "memoryview": lambda conn: conn.send(memoryview(b"answer")),
    "subclass": lambda conn: conn.send(Text(b"answer")),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_send_called_in_any_way_sends_the_same_frame(world, call):
    """The usual call has an entrance of its own, and every other one finds its way from there."""

    def answer(conn, frame):
        call(conn)
        call(conn)

    conn, peer = world.connect(FunctionProtocol(answer), reading=True)
    peer.write(encode(b"question"))
    world.until(lambda: len(peer.frames) == 2)
    assert peer.frames == [b"answer", b"answer"]
    assert conn.stats.frames_sent == 2


@pytest.mark.parametrize(
    ("args", "options"),
    [((), {}), ((b"",) * 4, {}), ((b"x",), {"payload": b"x"}), ((b"x",), {"no_such": b""}), ((None,), {}), ((3,), {})],
)
def test_send_called_with_wrong_arguments_raises_type_error_and_sends_nothing(world, args, options):
    """A call that is wrong in a callback is wrong in the same way outside of one."""
    conn, peer = world.connect(FrameRecorder(), reading=True)
    with pytest.raises(TypeError):
        conn.send(*args, **options)
    conn.send(b"after")
    world.until(lambda: peer.frames)
    assert peer.frames == [b"after"]


def test_answers_of_every_small_size_arrive_as_they_were_sent(world):
    """Up to 128 bytes are copied in steps of 4, 8 and 16 that overlap: each size is a case of its own."""

    def echo(conn, frame):
        conn.send(frame)

    _, peer = world.connect(FunctionProtocol(echo), reading=True)
    payloads = [bytes(range(size)) for size in range(200)]
    for count, payload in enumerate(payloads, 1):  # alone in a read each
        peer.write(encode(payload))
        world.until(lambda count=count: len(peer.frames) == count)
    peer.write(encode(*payloads))
    world.until(lambda: len(peer.frames) == 2 * len(payloads))
    assert peer.frames == payloads + payloads


@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("bound", ["high_water", "max_output"])
def test_answers_around_a_bound_of_the_output_are_all_sent(world, bound, over):
    """What passes a bound inside of a callback is written there and then, as long as the peer takes it."""
    bounds = {"high_water": 1000, "low_water": 10}
    if bound == "max_output":
        bounds = {"max_output": 1000, "high_water": 1000, "low_water": 10}
    first, second = b"x" * 496, b"y" * (496 + over)  # with their headers 1000 bytes, and one less or more

    def answer(conn, frame):
        conn.send(first)
        conn.send(second)

    conn, peer = world.connect(FunctionProtocol(answer), reading=True, **bounds)
    for _ in range(3):
        peer.write(encode(b"question"))
    world.until(lambda: len(peer.frames) == 6)
    assert peer.frames == [first, second] * 3
    assert conn.state == "open"


@pytest.mark.parametrize("size", [REFERENCED - 1, REFERENCED, REFERENCED + 1])
def test_answers_around_the_size_that_is_referenced_keep_their_order(world, size):
    """A large answer between two small ones: the gather, a chunk, and a tail behind it."""
    large = b"l" * size

    def answer(conn, frame):
        for payload in (b"before", large, b"behind"):
            conn.send(payload)

    _, peer = world.connect(FunctionProtocol(answer), reading=True)
    peer.write(encode(b"question"))
    world.until(lambda: len(peer.frames) == 3)
    assert peer.frames == [b"before", large, b"behind"]


@pytest.mark.parametrize("count", [1, 3])
def test_an_answer_before_an_exception_arrives_and_then_the_end(world, count):
    """What a callback has sent was accepted, whatever happens to it afterwards."""

    def answer(conn, frame):
        conn.send(b"answer")
        raise ZeroDivisionError

    conn, peer = world.connect(FunctionProtocol(answer), reading=True)
    peer.write(encode(*[b"question"] * count))
    world.until(lambda: peer.ended)
    assert peer.frames == [b"answer"]
    assert conn.close_reason is CloseReason.HANDLER


@pytest.mark.parametrize("exit", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("count", [1, 2])
def test_an_answer_before_an_exit_arrives_and_the_next_frames_are_delivered(world, exit, count):
    """An exit leaves the reactor, which may run again: the connection goes on behind the frame of the call."""
    seen = []

    def answer(conn, frame):
        seen.append(frame)
        conn.send(frame)
        if len(seen) == 1:
            raise exit

    conn, peer = world.connect(FunctionProtocol(answer), reading=True)
    frames = [b"%d" % number for number in range(count)]
    peer.write(encode(*frames))
    with pytest.raises(exit):
        world.until(lambda: len(seen) == count + 1)
    peer.write(encode(b"last"))
    world.until(lambda: len(peer.frames) == count + 1)
    assert seen == peer.frames == [*frames, b"last"]
    assert conn.state == "open"


@pytest.mark.parametrize(
    "action", ["close", "abort", "write_eof", "pause_reading", "flush", "on_readable", "resume_reading"]
)
def test_what_a_callback_does_behind_its_answer_is_done(world, action):
    """Each is something that the short way behind a callback must not pass by."""

    def answer(conn, frame):
        conn.send(b"answer")
        getattr(conn, action)()

    conn, peer = world.connect(FunctionProtocol(answer), reading=True)
    peer.write(encode(b"question"))
    world.until(lambda: peer.ended if action in ("close", "abort", "write_eof") else peer.frames)
    world.settle()
    assert peer.frames == ([] if action == "abort" else [b"answer"])
    assert conn.is_reading() is (action not in ("close", "abort", "pause_reading"))


def test_answers_of_two_connections_to_one_frame_both_arrive(world):
    """Only one of them can have the reactor's gather at a time."""
    others = []

    def answer(conn, frame):
        conn.send(b"mine")
        others[0].send(b"yours")
        conn.send(b"mine too")
        others[0].send(b"yours too")

    other, other_peer = world.connect(FrameRecorder(), reading=True)
    others.append(other)
    _, peer = world.connect(FunctionProtocol(answer), reading=True)
    peer.write(encode(b"question"))
    world.until(lambda: len(peer.frames) == 2 and len(other_peer.frames) == 2)
    assert (peer.frames, other_peer.frames) == ([b"mine", b"mine too"], [b"yours", b"yours too"])
