"""How a connection ends under a coroutine handler: closed by us, by the peer, by a limit; and what a fork does."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest
from peers import encode, narrow_pair
from stage import pytest_generate_tests, stage

import evloop
from evloop import BadLength, CloseReason, ConnectionClosed, FrameTooLarge, Framing, TruncatedFrame

WAITS = {
    "recv": lambda conn: conn.recv(),
    "async for": lambda conn: conn.__anext__(),
    "drain": lambda conn: conn.drain(),
}


@pytest.fixture(params=["recv", "async for"])
def wait(request):
    """Both ways to wait for a frame."""
    return WAITS[request.param]


def told_end(stage, log, wait=WAITS["recv"], before=()):
    """Return a handler that takes frames, and notes what it is told at their end."""

    async def handler(conn):
        for coro in before:
            await coro(conn)
        while True:
            try:
                log.append(await wait(conn))
            except BaseException as exc:
                log.append(exc)
                break
        try:
            await conn.recv()
        except ConnectionClosed as exc:
            log.append(str(exc))

    return handler


def wait_for_end(stage, count=1):
    """Turn until so many connections are lost and no handler runs."""
    stage.until(lambda: len(stage.lost) == count and not asyncio.all_tasks(stage.loop))


# --- by our side -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "abort"])
def test_session_closed_by_its_handler_gets_no_more_frames(stage, wait, how):
    """Nothing more is delivered, though it is decoded: the next wait says so."""
    log = []

    async def handler(conn):
        log.append(await conn.recv())
        conn.send(b"last")
        getattr(conn, how)()
        try:
            log.append(await wait(conn))
        except (ConnectionClosed, StopAsyncIteration) as exc:
            log.append(type(exc))

    conn, peer = stage.connect(handler)
    peer.write(encode(b"1", b"2", b"3"))
    wait_for_end(stage)
    assert log == [b"1", ConnectionClosed if wait is WAITS["recv"] else StopAsyncIteration]
    assert conn.close_reason is (CloseReason.LOCAL if how == "close" else CloseReason.ABORTED)
    assert peer.frames == ([b"last"] if how == "close" else [])


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("kind", WAITS)
def test_session_closed_by_somebody_else_wakes_who_waits(stage, how, kind):
    """In recv, in async for, in drain: told in a later turn, not inside of the call."""
    log = []

    async def handler(conn):
        if kind == "drain":
            conn.send(bytes(200_000))
        try:
            await WAITS[kind](conn)
        except (ConnectionClosed, StopAsyncIteration) as exc:
            log.append(type(exc))

    options = {"pair": narrow_pair, "reading": False, "high_water": 8192, "low_water": 1024} if kind == "drain" else {}
    conn, peer = stage.connect(handler, **options)
    stage.settle()
    getattr(conn, how)()
    assert log == []
    peer.reading = True
    wait_for_end(stage)
    assert log == [StopAsyncIteration if kind == "async for" else ConnectionClosed]


def test_session_return_closes_in_good_order(stage):
    """What was sent arrives, then the end of the stream."""

    async def handler(conn):
        conn.send(await conn.recv())

    conn, peer = stage.connect(handler)
    peer.write(encode(b"x", b"never taken"))
    wait_for_end(stage)
    assert peer.frames == [b"x"]
    assert conn.close_reason is CloseReason.LOCAL
    assert stage.lost == [(conn, None)]


def test_session_wait_closed_returns_to_all_who_wait(stage):
    """Any number of tasks, in the loop, whoever closes; and at once when it is over."""
    log = []

    async def watcher(conn, name):
        await conn.wait_closed()
        log.append(name)

    async def handler(conn):
        watchers = [asyncio.ensure_future(watcher(conn, name)) for name in "abc"]
        await asyncio.sleep(0)
        watchers.pop().cancel()
        conn.close()
        await conn.wait_closed()
        await asyncio.gather(*watchers)
        await conn.wait_closed()
        log.append("d")

    stage.connect(handler)
    wait_for_end(stage)
    assert log == ["a", "b", "d"]


def test_session_send_after_the_end_is_dropped(stage):
    """The peer may go at any moment; a handler need not look before each send."""
    log = []

    async def handler(conn):
        try:
            await conn.recv()
        except ConnectionError:
            pass
        await asyncio.sleep(0)
        conn.send(b"too late")
        log.append("sent")

    _, peer = stage.connect(handler)
    stage.settle()
    peer.reset()
    wait_for_end(stage)
    assert log == ["sent"]


# --- by the peer -----------------------------------------------------------------------------------------------------


def test_session_peers_end_after_frames_is_told_after_them(stage, wait):
    """A peer that sends its questions and closes its side gets its answers."""
    log = []
    conn, peer = stage.connect(told_end(stage, log, wait))
    peer.write(encode(b"1", b"2"), fin=True)
    wait_for_end(stage)
    assert log[:2] == [b"1", b"2"]
    assert isinstance(log[2], ConnectionClosed if wait is WAITS["recv"] else StopAsyncIteration)
    assert log[3] == "the connection is closed: peer"
    assert conn.close_reason is CloseReason.PEER


def test_session_half_closed_peer_gets_replies_until_the_handler_ends(stage):
    """The end of the peer's stream is not the end of ours: that is the handler's to say."""
    release = stage.loop.create_future()

    async def handler(conn):
        frames = [frame async for frame in conn]
        conn.send(b"begin")
        await conn.drain()
        await release
        conn.send_many(frames)

    conn, peer = stage.connect(handler)
    peer.write(encode(b"1", b"2"), fin=True)
    stage.until(lambda: peer.frames == [b"begin"])
    assert not conn.is_closing()
    release.set_result(None)
    wait_for_end(stage)
    assert peer.frames == [b"begin", b"1", b"2"]
    assert conn.close_reason is CloseReason.PEER


def test_session_reset_is_raised_once_then_it_is_closed(stage, wait):
    """The kernel's error, to the first who asks; an async for must not take it for a good end later."""
    log = []

    async def handler(conn):
        for _ in range(2):
            try:
                log.append(await wait(conn))
            except BaseException as exc:
                log.append(exc)

    conn, peer = stage.connect(handler)
    stage.settle()
    peer.reset()
    wait_for_end(stage)
    assert isinstance(log[0], ConnectionResetError)
    assert isinstance(log[1], ConnectionClosed)
    assert str(log[1]) == "the connection is closed: reset"
    assert conn.close_reason is CloseReason.RESET


def test_session_truncated_frame_is_raised_after_the_whole_ones(stage, wait):
    """The peer has died inside of a frame: not a good end."""
    log = []
    conn, peer = stage.connect(told_end(stage, log, wait))
    peer.write(encode(b"1") + b"\0\0", fin=True)
    wait_for_end(stage)
    assert log[0] == b"1"
    assert isinstance(log[1], TruncatedFrame)
    assert log[2] == "the connection is closed: truncated"
    assert conn.close_reason is CloseReason.TRUNCATED


@pytest.mark.parametrize("busy", [False, True])
def test_session_framing_error_is_raised_after_the_frames_before_it(stage, wait, busy):
    """Nothing that was accepted is lost, however long the handler takes for it."""
    log, release = [], stage.loop.create_future()
    conn, peer = stage.connect(
        told_end(stage, log, wait, [lambda conn: release] if busy else []), framing=Framing(4, signed=True)
    )
    peer.write(encode(b"1", b"2") + b"\xff\xff\xff\xff")
    if busy:
        stage.settle()
        assert not conn.is_closing()
        release.set_result(None)
    wait_for_end(stage)
    assert log[:2] == [b"1", b"2"]
    assert isinstance(log[2], BadLength)
    assert conn.close_reason is CloseReason.PROTOCOL


# --- by a limit ------------------------------------------------------------------------------------------------------


LIMITS = {
    CloseReason.IDLE: ({"idle_timeout": 0.01}, b""),
    CloseReason.FIRST_FRAME_TIMEOUT: ({"first_frame_timeout": 0.01}, b""),
    CloseReason.FRAME_TIMEOUT: ({"frame_timeout": 0.01}, b"\0\0"),
    CloseReason.FRAME_TOO_LARGE: ({"max_frame": 10}, encode(bytes(11))),
}


@pytest.mark.parametrize("reason", LIMITS, ids=lambda reason: reason.value)
def test_session_deadline_of_the_peer_is_raised_by_recv(stage, wait, reason):
    """Each names the limit that was passed."""
    limits, sent = LIMITS[reason]
    log = []
    conn, peer = stage.connect(told_end(stage, log, wait), **limits)
    peer.write(sent)
    wait_for_end(stage)
    assert isinstance(log[0], FrameTooLarge if reason is CloseReason.FRAME_TOO_LARGE else TimeoutError)
    assert log[1] == f"the connection is closed: {reason.value}"
    assert conn.close_reason is reason


OUTPUT = {
    CloseReason.WRITE_TIMEOUT: {"write_timeout": 0.02},
    CloseReason.SLOW_CONSUMER: {"soft_output": 20_000, "soft_output_timeout": 0.01},
}


@pytest.mark.parametrize("kind", ["recv", "drain"])
@pytest.mark.parametrize("reason", OUTPUT, ids=lambda reason: reason.value)
def test_session_deadline_of_the_output_is_raised_by_who_waits(stage, reason, kind):
    """A peer that does not read: the handler waits in recv, or in drain."""
    log = []

    async def handler(conn):
        conn.send(bytes(1 << 20))
        try:
            await WAITS[kind](conn)
        except OSError as exc:
            log.append(type(exc))

    limits = {"high_water": 8192, "low_water": 1024, **OUTPUT[reason]}
    conn, _ = stage.connect(handler, pair=narrow_pair, reading=False, **limits)
    wait_for_end(stage)
    assert log == [TimeoutError]
    assert conn.close_reason is reason


def test_session_hard_output_bound_ends_the_next_wait(stage):
    """The send that passes max_output resets the connection; the handler learns it where it waits next."""
    log = []

    async def handler(conn):
        for _ in range(100):
            conn.send(bytes(60_000))
        log.append(conn.closed)
        try:
            await conn.drain()
        except OSError as exc:
            log.append(type(exc))

    limits = {"high_water": 8192, "low_water": 1024, "max_output": 100_000}
    conn, _ = stage.connect(handler, pair=narrow_pair, reading=False, **limits)
    wait_for_end(stage)
    assert log == [True, ConnectionAbortedError]
    assert conn.close_reason is CloseReason.SLOW_CONSUMER


def test_session_slow_handler_is_no_late_peer(stage):
    """The first frame is here, and the handler takes its time: that is not the peer's fault."""
    log = []

    async def handler(conn):
        await asyncio.sleep(0.03)
        log.append(await conn.recv())
        log.append(await conn.recv())

    conn, peer = stage.connect(handler, first_frame_timeout=0.01, frame_timeout=0.01)
    peer.write(encode(b"1", b"2"))
    wait_for_end(stage)
    assert log == [b"1", b"2"]
    assert conn.close_reason is CloseReason.LOCAL


# --- by a shutdown, from the session's side --------------------------------------------------------------------------


def test_session_stopped_while_it_waits_ends_at_once(stage, wait):
    """A shutdown is the end of the frames."""
    log = []
    conn, _ = stage.connect(told_end(stage, log, wait))
    stage.settle()
    conn.protocol.stop()
    wait_for_end(stage)
    assert log[-1] == "the connection is closed: shutdown"
    assert conn.close_reason is CloseReason.SHUTDOWN


def test_session_stopped_while_busy_finishes_its_work(stage, wait):
    """What it has taken is answered; what is decoded and not taken is not begun."""
    log, release = [], stage.loop.create_future()

    async def handler(conn):
        frame = await conn.recv()
        await release
        conn.send(frame)
        try:
            log.append(await wait(conn))
        except (ConnectionClosed, StopAsyncIteration):
            log.append("end")

    conn, peer = stage.connect(handler)
    peer.write(encode(b"1", b"2"))
    stage.settle()
    conn.protocol.stop()
    stage.settle()
    assert not conn.is_closing()
    release.set_result(None)
    wait_for_end(stage)
    assert log == ["end"]
    assert peer.frames == [b"1"]
    assert conn.close_reason is CloseReason.SHUTDOWN


# --- other kinds of connections --------------------------------------------------------------------------------------


def test_session_in_a_forked_child_raises_and_the_parents_goes_on(stage):
    """The child has a copy of the loop, the connection and the handler's task; none of them is its own."""
    got = []

    async def handler(conn):
        async for frame in conn:
            if frame == b"fork":
                pid = os.fork()
                if pid == 0:
                    status = 1
                    try:
                        conn.send(b"from the child")
                    except RuntimeError:
                        status = 0
                    finally:
                        os._exit(status)
                got.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            conn.send(frame)

    _, peer = stage.connect(handler)
    stage.settle()
    peer.write(encode(b"fork", b"x"))
    stage.until(lambda: peer.frames == [b"fork", b"x"])
    assert got == [0]
