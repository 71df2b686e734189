"""A coroutine handler takes the frames of its connection: recv(), async for, drain(), and what they cost in turns."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio
import selectors
import socket

import pytest
from peers import encode, narrow_pair
from stage import Stage, pytest_generate_tests, stage

import evloop
from evloop import CloseReason, Framing
from evloop._connection_shared import FRAMES_PER_TURN

FRAMES = [b"", b"a", b"bc" * 50, b"\0" * 3000]


async def echo(conn):
    async for frame in conn:
        conn.send(frame)


def test_session_async_for_sees_each_frame_in_order(stage):
    """The tutorial's echo, whole frames in one write."""
    conn, peer = stage.connect(echo)
    peer.write(encode(*FRAMES))
    stage.until(lambda: peer.frames == FRAMES)
    assert conn.stats.frames_received == len(FRAMES)


def test_session_frames_byte_by_byte_arrive_whole(stage):
    """Where a read ends means nothing."""
    _, peer = stage.connect(echo)
    for byte in encode(*FRAMES[:3]):
        peer.write(bytes([byte]))
        stage.turn(2)
    stage.until(lambda: peer.frames == FRAMES[:3])


def test_session_trailing_bytes_are_the_next_frames_beginning(stage):
    """A frame and a half: the first is given at once, the second when it is whole."""
    _, peer = stage.connect(echo)
    wire = encode(b"one", b"two")
    peer.write(wire[:10])
    stage.until(lambda: peer.frames == [b"one"])
    peer.write(wire[10:])
    stage.until(lambda: peer.frames == [b"one", b"two"])


def test_session_without_framing_takes_bytes_as_they_come(stage):
    """recv() is then one read."""
    _, peer = stage.connect(echo, framing=None)
    peer.write(b"bytes")
    stage.until(lambda: peer.received == b"bytes")


def test_session_frames_decoded_already_are_taken_without_a_turn(stage):
    """A batch of one read costs one wake-up: no turn of the loop lies between its frames."""
    turns = []
    handle_turns = [0]

    async def handler(conn):
        while len(turns) < 20:
            await conn.recv()
            turns.append(handle_turns[0])

    _, peer = stage.connect(handler)
    stage.turn(2)
    peer.write(encode(*[b"x"] * 20))
    while len(turns) < 20:
        handle_turns[0] += 1
        stage.turn()
    assert len(set(turns)) == 1


def test_session_takes_a_frame_in_the_turn_in_which_it_is_read(stage):
    """A waiting handler is resumed by the connection's own entry; foreign wheels read one turn later than they poll."""
    got = []

    async def handler(conn):
        while True:
            got.append(await conn.recv())

    _, peer = stage.connect(handler)
    stage.settle()
    for number in range(3):
        peer.write(encode(b"%d" % number))
        stage.turn()
        assert got == [b"%d" % n for n in range(number + 1)]


def test_session_answers_to_one_read_leave_with_one_send(stage):
    """Twenty answers to one read are one system call, directly as through a step of the task."""
    kernel = stage.spy()

    async def handler(conn):
        async for frame in conn:
            conn.send(frame)
            if frame == b"sleep":
                await asyncio.sleep(0)
                for _ in range(9):
                    conn.send(b"awake")

    conn, peer = stage.connect(handler)
    stage.turn(3)
    for last, sends in ((b"x", 1), (b"sleep", 2)):
        before, frames = kernel.sends(conn), len(peer.frames)
        peer.write(encode(*[b"x"] * 19, last))
        expected = frames + 20 + 9 * (sends - 1)
        stage.until(lambda expected=expected: len(peer.frames) >= expected)
        assert kernel.sends(conn) - before == sends


def test_session_farewell_of_a_handler_that_is_told_of_the_end_leaves_with_one_send(stage):
    """The answers to a half-closed peer, or to a shutdown, are one system call, too."""
    kernel = stage.spy()

    async def handler(conn):
        async for _ in conn:
            pass
        for _ in range(20):
            conn.send(b"bye")

    conn, peer = stage.connect(handler)
    other, _ = stage.connect(handler)
    stage.turn(3)
    peer.fin()
    other.protocol.stop()
    stage.until(lambda: len(stage.lost) == 2 and len(peer.frames) == 20)
    assert (kernel.sends(conn), kernel.sends(other)) == (1, 1)


def test_session_drain_below_high_water_does_not_suspend(stage):
    """Nothing to wait for is no turn."""
    log = []

    async def handler(conn):
        await conn.recv()
        stage.loop.call_soon(log.append, "turn")
        for _ in range(100):
            conn.send(b"x")
            await conn.drain()
        log.append("done")
        await conn.recv()

    _, peer = stage.connect(handler)
    peer.write(encode(b"go"))
    stage.until(lambda: len(log) == 2)
    assert log == ["done", "turn"]


def test_session_drain_above_high_water_waits_until_there_is_room(stage):
    """A producer is held to the speed of its peer, and its output bounded."""
    most = []

    async def handler(conn):
        for _ in range(200):
            conn.send(bytes(1000))
            most.append(conn.stats.output)
            await conn.drain()
        conn.close()

    _, peer = stage.connect(handler, pair=narrow_pair, reading=False, high_water=8192, low_water=1024)
    stage.settle()
    assert len(most) < 200
    peer.reading = True
    stage.until(lambda: peer.eof)
    assert len(peer.frames) == 200
    assert max(most) < 8192 + 2 * 1004 + 8192


def test_session_that_does_not_drain_is_not_fed_while_its_output_is_high(stage):
    """Who does not read the answers gets no more questions answered."""
    got = []

    async def handler(conn):
        async for frame in conn:
            got.append(frame)
            conn.send(bytes(5000))

    _, peer = stage.connect(handler, pair=narrow_pair, reading=False, high_water=8192, low_water=1024)
    peer.write(encode(*[b"x"] * 100))
    stage.turn(30)
    assert len(got) < 100
    peer.reading = True
    stage.until(lambda: len(peer.frames) == 100)


def test_session_slow_handler_bounds_the_input(stage):
    """A connection whose handler is busy is not read: what it holds is a read's worth, whatever the peer sends."""
    release = stage.loop.create_future()
    got = []

    async def handler(conn):
        await release
        while True:
            got.append(len(await conn.recv()))

    conn, peer = stage.connect(handler, pair=socket.socketpair)  # whose buffers are small
    peer.write(encode(*[bytes(65000)] * 40))
    stage.turn(30)
    assert conn.stats.input <= 256 * 1024 + 65004
    assert not peer.written
    release.set_result(None)
    stage.until(lambda: len(got) == 40)


def test_session_flood_of_tiny_frames_leaves_others_their_turn(stage):
    """One connection has at most FRAMES_PER_TURN frames taken in a turn."""
    counts, other = [0], []

    async def flooded(conn):
        async for _ in conn:
            counts[0] += 1

    async def modest(conn):
        await conn.recv()
        other.append(counts[0])

    _, flood = stage.connect(flooded)
    _, peer = stage.connect(modest)
    stage.turn(3)
    flood.write(encode(*[b""] * 20000))
    stage.turn()
    seen = counts[0]
    for _ in range(10):
        stage.turn()
        assert counts[0] - seen <= FRAMES_PER_TURN
        seen = counts[0]
    peer.write(encode(b"x"))
    stage.until(lambda: other)
    stage.until(lambda: counts[0] == 20000)
    assert other[0] < 20000


def test_session_pause_reading_holds_frames_until_resume(stage):
    """From the next frame on, though it is decoded already."""
    got = []

    async def handler(conn):
        async for frame in conn:
            got.append(frame)
            if frame == b"pause":
                conn.pause_reading()

    conn, peer = stage.connect(handler)
    peer.write(encode(b"1", b"pause", b"2", b"3"))
    stage.settle()
    assert got == [b"1", b"pause"]
    conn.resume_reading()
    stage.until(lambda: got == [b"1", b"pause", b"2", b"3"])


def test_session_frames_that_came_before_the_first_recv_are_kept(stage):
    """A handler may take its time before it asks."""
    release, got = stage.loop.create_future(), []

    async def handler(conn):
        await release
        got.extend([frame async for frame in conn])

    _, peer = stage.connect(handler)
    peer.write(encode(b"1", b"2"), fin=True)
    stage.settle()
    release.set_result(None)
    stage.until(lambda: got == [b"1", b"2"])


def test_session_handler_of_recv_and_async_for_mixed(stage):
    """A handshake with recv(), the rest with async for; each frame once."""
    got = []

    async def handler(conn):
        got.append(("hello", await conn.recv()))
        async for frame in conn:
            got.append(("in", frame))
            if frame == b"3":
                got.append(("inner", await conn.recv()))

    _, peer = stage.connect(handler)
    peer.write(encode(b"1", b"2", b"3", b"4", b"5"), fin=True)
    stage.until(lambda: stage.lost)
    assert got == [("hello", b"1"), ("in", b"2"), ("in", b"3"), ("inner", b"4"), ("in", b"5")]


def test_session_async_with_closes_the_connection_and_waits(stage):
    """At the end of the block the peer has everything, and the connection is gone."""
    states = []

    async def handler(conn):
        async with conn as same:
            assert same is conn
            conn.send(await conn.recv())
        states.append(conn.state)

    _, peer = stage.connect(handler)
    peer.write(encode(b"x"))
    stage.until(lambda: peer.eof)
    peer.close()
    stage.until(lambda: states)
    assert states == ["closed"]
    assert peer.frames == [b"x"]
    assert stage.lost[0][0].close_reason is CloseReason.LOCAL


def test_session_async_with_left_by_an_exception_aborts(stage):
    """What was half done must not look complete to the peer."""

    async def handler(conn):
        with pytest.raises(KeyError):
            async with conn:
                await conn.recv()
                raise KeyError

    _, peer = stage.connect(handler)
    peer.write(encode(b"x", b"unread"))
    stage.until(lambda: stage.lost)
    assert stage.lost[0][0].close_reason is CloseReason.ABORTED


def test_session_two_coroutines_on_one_connection_are_an_error(stage):
    """Whose the next frame is would be chance; the one who waited first goes on waiting."""
    log = []

    async def handler(conn):
        first = asyncio.ensure_future(conn.recv())
        second = asyncio.ensure_future(conn.recv())
        third = asyncio.ensure_future(conn.__anext__())
        results = await asyncio.gather(first, second, third, return_exceptions=True)
        log.extend([results[0], type(results[1]), str(results[1]), type(results[2])])

    _, peer = stage.connect(handler)
    stage.settle()
    peer.write(encode(b"mine"))
    stage.until(lambda: log)
    assert log[:2] == [b"mine", RuntimeError]
    assert log[2] == "recv() called while another coroutine waits for the same connection"
    assert log[3] is RuntimeError


def test_session_recv_on_a_function_connection_is_an_error(stage):
    """Its frames go elsewhere; to wait for one would be for ever."""
    got = []

    def handler(conn, frame):
        for method in (conn.recv, conn.drain, conn.wait_closed, conn.__anext__):
            with pytest.raises(RuntimeError, match="coroutine handler"):
                method()
        got.append(frame)

    from evloop.protocol import protocol_factory_of

    _, peer = stage.connect(protocol=protocol_factory_of(handler, None)())
    peer.write(encode(b"x"))
    stage.until(lambda: got)


def test_session_awaitable_awaited_twice_is_two_frames(stage):
    """What recv() returns may be kept: it stands for the next frame."""
    got = []

    async def handler(conn):
        frame = conn.recv()
        got.append(await frame)
        got.append(await frame)

    _, peer = stage.connect(handler)
    peer.write(encode(b"1", b"2"))
    stage.until(lambda: got == [b"1", b"2"])


@pytest.mark.parametrize("wait", ["wait_for", "create_task", "gather", "shield"])
def test_session_recv_through_asyncio_gets_the_frame(stage, wait):
    """What recv() returns is as good as a coroutine."""
    got = []

    async def handler(conn):
        for _ in range(3):
            match wait:
                case "wait_for":
                    got.append(await asyncio.wait_for(conn.recv(), 60))
                case "create_task":
                    got.append(await asyncio.create_task(conn.recv(), name="one"))
                case "gather":
                    got.extend(await asyncio.gather(conn.recv()))
                case "shield":
                    got.append(await asyncio.shield(conn.recv()))

    _, peer = stage.connect(handler)
    stage.settle()
    peer.write(encode(b"1"))
    stage.settle()
    peer.write(encode(b"2", b"3"))
    stage.until(lambda: got == [b"1", b"2", b"3"])


def test_session_large_frames_arrive_whole(stage):
    """Frames that are received in place take another way through the connection."""
    sizes = [70_000, 1 << 20, 3, 300_000, 300_000]
    got = []

    async def handler(conn):
        async for frame in conn:
            got.append(len(frame))
            await conn.drain()

    _, peer = stage.connect(handler)
    peer.write(encode(*[bytes(size) for size in sizes], framing=Framing.U32), fin=True)
    stage.until(lambda: stage.lost)
    assert got == sizes


def test_session_on_readable_called_inside_another_task_waits_for_a_turn(stage):
    """A task cannot be stepped inside of another one's step: the frame is taken in the next turn, by either kind."""
    got = []

    async def own(conn):
        while True:
            got.append((await conn.recv(), asyncio.current_task() is not caller))

    async def child(conn):
        async def reader():
            got.append((await conn.recv(), asyncio.current_task() is not caller))

        await asyncio.create_task(reader())

    first, one = stage.connect(own)
    second, two = stage.connect(child)
    stage.settle()

    async def poke():
        one.write(encode(b"1", b"2"))
        two.write(encode(b"3"))
        first.on_readable()
        second.on_readable()
        return list(got)

    caller = stage.loop.create_task(poke())
    stage.until(lambda: len(got) == 3)
    assert caller.result() == []
    assert sorted(got) == [(b"1", True), (b"2", True), (b"3", True)]


def test_session_frame_that_is_put_back_is_counted_and_stops_the_reading(stage):
    """A frame that nobody could look at is input that waits: the kernel keeps what comes behind it."""
    got = []

    async def handler(conn):
        got.append(await conn.recv())
        await conn.wait_closed()

    conn, peer = stage.connect(handler)
    stage.settle()

    async def poke():
        peer.write(encode(b"12345"))
        conn.on_readable()
        watched = stage.loop._selector.get_map().get(conn.fileno())
        return conn.stats.input, watched.events & selectors.EVENT_READ if watched else 0

    caller = stage.loop.create_task(poke())
    stage.until(lambda: got)
    assert caller.result() == (9, 0)
    assert (got, conn.stats.input) == ([b"12345"], 0)


def test_session_on_readable_called_by_its_own_handler_is_taken_by_the_next_recv(stage):
    """Re-entry into the connection, from inside of the step that it drives."""
    got = []

    async def handler(conn):
        async for frame in conn:
            got.append(frame)
            if frame == b"1":
                peer.write(encode(b"2", b"3"))
                conn.on_readable()

    _, peer = stage.connect(handler)
    stage.settle()
    peer.write(encode(b"1"))
    stage.until(lambda: got == [b"1", b"2", b"3"])
