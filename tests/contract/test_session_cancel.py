"""Cancellation and time-outs of a coroutine handler: as asyncio's of a queue, and no frame is lost or seen twice."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio
import sys

import pytest
from peers import encode, narrow_pair
from stage import pytest_generate_tests, stage

from evloop import CloseReason

WAITS = {
    "recv": lambda conn: conn.recv(),
    "async for": lambda conn: conn.__anext__(),
}


@pytest.fixture(params=WAITS.values(), ids=WAITS)
def wait(request):
    """Both ways to wait for a frame."""
    return request.param


def task_of(conn):
    """Return the task of a connection's handler."""
    return next(task for task in asyncio.all_tasks(conn._reactor) if task.get_coro() is conn.protocol)


def started(stage, handler, **options):
    """Return connection, peer and task of a handler that has begun."""
    conn, peer = stage.connect(handler, **options)
    stage.settle()
    return conn, peer, task_of(conn)


def test_session_cancelled_while_it_waits_is_told_and_closed_in_good_order(stage, wait):
    """The handler's clean-up runs, its last words are sent, and the peer sees the end of the stream."""

    async def handler(conn):
        try:
            await wait(conn)
        finally:
            conn.send(b"bye")

    _, peer, task = started(stage, handler)
    assert task.cancel("why")
    stage.until(lambda: stage.lost)
    assert task.cancelled()
    assert peer.frames == [b"bye"]
    assert peer.eof
    assert stage.lost[0][0].close_reason is CloseReason.LOCAL


def test_session_cancel_message_arrives(stage, wait):
    """As with any future of asyncio."""
    args = []

    async def handler(conn):
        try:
            await wait(conn)
        except asyncio.CancelledError as exc:
            args.append(exc.args)
            raise

    _, _, task = started(stage, handler)
    task.cancel("why")
    stage.until(lambda: args)
    assert args == [("why",)]


@pytest.mark.parametrize("frame_first", [True, False])
def test_session_cancelled_in_the_turn_of_a_frame_loses_none(stage, wait, frame_first):
    """Cancellation is told first, the frame is the next one that is asked for; or the other way round."""
    log = []

    async def handler(conn):
        while len(log) < 3:
            try:
                log.append(await wait(conn))
            except asyncio.CancelledError:
                log.append("cancelled")

    _, peer, task = started(stage, handler)
    if frame_first:
        peer.write(encode(b"1"))
        stage.loop.call_soon(task.cancel)
    else:
        task.cancel()
        peer.write(encode(b"1"))
    stage.turn(3)
    peer.write(encode(b"2"))
    stage.until(lambda: len(log) == 3)
    assert log.count("cancelled") == 1
    assert [frame for frame in log if frame != "cancelled"] == [b"1", b"2"]


def test_session_cancelled_twice_in_a_turn_is_told_once(stage, wait):
    """The second request finds the first one still under way."""
    log = []

    async def handler(conn):
        for _ in range(2):
            try:
                log.append(await wait(conn))
            except asyncio.CancelledError:
                log.append("cancelled")

    _, peer, task = started(stage, handler)
    task.cancel()
    task.cancel()
    stage.turn(3)
    peer.write(encode(b"1"))
    stage.until(lambda: len(log) == 2)
    assert log == ["cancelled", b"1"]


NEXT = {
    "this connection": lambda conn, other: conn.recv(),
    "another future": lambda conn, other: other,
    "a bare yield": lambda conn, other: asyncio.sleep(0),
    "a task": lambda conn, other: asyncio.ensure_future(asyncio.sleep(0)),
    "a timer": lambda conn, other: asyncio.sleep(3600),
}


@pytest.mark.parametrize("then", NEXT.values(), ids=NEXT)
@pytest.mark.parametrize("direct", [True, False])
def test_session_self_cancel_strikes_at_the_next_wait(stage, direct, then):
    """Asked for while the handler runs, directly or in a step of its task: told where asyncio tells it."""
    log = []

    async def handler(conn):
        other = asyncio.get_running_loop().create_future()
        await conn.recv()
        if not direct:
            await asyncio.sleep(0)
        asyncio.current_task().cancel("mine")
        try:
            await then(conn, other)
            log.append("not told")
        except asyncio.CancelledError as exc:
            log.append(exc.args)
        log.append(other.cancelled())
        log.append(await conn.recv())

    _, peer, _ = started(stage, handler)
    peer.write(encode(b"1"))
    stage.turn(3)
    peer.write(encode(b"2"))
    stage.until(lambda: len(log) == 3)
    # Python 3.10 loses the message on its way through a task that was cancelled.
    args = () if then is NEXT["a task"] and sys.version_info < (3, 11) else ("mine",)
    assert log == [args, then is NEXT["another future"], b"2"]


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("end", ["return", "raise", "cancelled"])
def test_session_self_cancel_then_end_is_as_in_asyncio(stage, direct, end):
    """A return after it is a cancelled task; an exception wins."""

    async def handler(conn):
        await conn.recv()
        if not direct:
            await asyncio.sleep(0)
        asyncio.current_task().cancel()
        if end == "raise":
            raise KeyError
        if end == "cancelled":
            raise asyncio.CancelledError

    _, peer, task = started(stage, handler)
    peer.write(encode(b"1"))
    stage.until(task.done)
    stage.until(lambda: stage.lost)
    assert task.cancelled() is (end != "raise")
    assert stage.lost[0][0].close_reason is (CloseReason.HANDLER if end == "raise" else CloseReason.LOCAL)


@pytest.mark.since(3, 11)  # uncancel() is 3.11's
@pytest.mark.parametrize("direct", [True, False])
def test_session_uncancel_and_cancelling_count_as_in_asyncio(stage, direct):
    """What asyncio.timeout and task groups are made of."""
    counts = []

    async def handler(conn):
        await conn.recv()
        if not direct:
            await asyncio.sleep(0)
        task = asyncio.current_task()
        task.cancel()
        counts.append(task.cancelling())
        with pytest.raises(asyncio.CancelledError):
            await conn.recv()
        counts.append(task.uncancel())
        counts.append(await conn.recv())

    _, peer, _ = started(stage, handler)
    peer.write(encode(b"1"))
    stage.turn(3)
    peer.write(encode(b"2"))
    stage.until(lambda: stage.lost)
    assert counts == [1, 0, b"2"]


def test_session_swallowed_cancellation_goes_on(stage, wait):
    """A handler may refuse, as any task."""
    log = []

    async def handler(conn):
        while len(log) < 6:
            try:
                log.append(await wait(conn))
            except asyncio.CancelledError:
                log.append("no")

    _, peer, task = started(stage, handler)
    for number in range(3):
        task.cancel()
        stage.turn(2)
        peer.write(encode(b"%d" % number))
        stage.turn(3)
    assert log == ["no", b"0", "no", b"1", "no", b"2"]


def test_session_wait_for_timeout_loses_no_frame(stage, wait):
    """The frame that comes after the time-out, or with it, is the next one."""
    log = []

    async def handler(conn):
        while len([entry for entry in log if entry != "late"]) < 20:
            try:
                log.append(await asyncio.wait_for(wait(conn), 0.001))
            except asyncio.TimeoutError:
                log.append("late")

    _, peer = stage.connect(handler)
    for number in range(20):
        peer.write(encode(b"%d" % number))
        stage.until(lambda number=number: b"%d" % number in log)
    assert [entry for entry in log if entry != "late"] == [b"%d" % number for number in range(20)]


@pytest.mark.since(3, 11)  # asyncio.timeout is 3.11's
def test_session_asyncio_timeout_raises_and_the_next_recv_works(stage, wait):
    """The handler itself waits here, not a task of wait_for."""
    log = []

    async def handler(conn):
        try:
            async with asyncio.timeout(0.005):
                await wait(conn)
        except TimeoutError:
            log.append("late")
        async with asyncio.timeout(60):
            log.append(await wait(conn))
        log.append(asyncio.current_task().cancelling())

    _, peer = stage.connect(handler)
    stage.until(lambda: log == ["late"])
    peer.write(encode(b"1"))
    stage.until(lambda: len(log) == 3)
    assert log == ["late", b"1", 0]


@pytest.mark.since(3, 11)  # asyncio.TaskGroup is 3.11's
def test_session_task_group_whose_child_fails_cancels_the_wait(stage, wait):
    """The error of the child is what the handler ends with; the frame is still there for who comes after."""
    log = []

    async def fail(trigger):
        await trigger
        raise KeyError("child")

    async def handler(conn):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail(trigger))
                await wait(conn)
        except ExceptionGroup as exc:  # noqa: F821 - 3.11's
            log.append(exc.exceptions[0].args)
        log.append(await wait(conn))

    trigger = stage.loop.create_future()
    _, peer = stage.connect(handler)
    stage.settle()
    trigger.set_result(None)
    stage.turn(1)
    peer.write(encode(b"1"))
    stage.until(lambda: len(log) == 2)
    assert log == [("child",), b"1"]


@pytest.mark.since(3, 11)  # asyncio.TaskGroup is 3.11's
def test_session_children_and_handler_take_turns_at_the_frames(stage):
    """Who waits may change with every frame: the handler directly, a child, the handler again."""
    log = []

    async def child(conn, name):
        log.append((name, await conn.recv()))

    async def handler(conn):
        for number in range(5):
            log.append(("handler", await conn.recv()))
            async with asyncio.TaskGroup() as group:
                group.create_task(child(conn, number))
            log.append(("handler", await conn.recv()))
            await asyncio.create_task(child(conn, "last"))

    _, peer = stage.connect(handler)
    stage.settle()
    for number in range(20):
        peer.write(encode(b"%d" % number))
        stage.until(lambda number=number: len(log) == number + 1)
    assert [frame for _, frame in log] == [b"%d" % number for number in range(20)]
    assert [who for who, _ in log[:4]] == ["handler", 0, "handler", "last"]
    stage.until(lambda: stage.lost)


@pytest.mark.parametrize("when", ["waiting", "with the frame", "after the frame"])
def test_session_child_cancelled_loses_no_frame(stage, wait, when):
    """A task that somebody else has made waits; its frame goes to the next who asks."""
    log = []

    async def handler(conn):
        reader = asyncio.ensure_future(wait(conn))
        readers.append(reader)
        await asyncio.wait([reader])
        log.append("cancelled" if reader.cancelled() else reader.result())
        while True:
            log.append(await conn.recv())

    readers = []
    _, peer = stage.connect(handler)
    stage.settle()
    if when == "waiting":
        readers[0].cancel()
        stage.turn(3)
        peer.write(encode(b"1", b"2"))
    elif when == "with the frame":
        readers[0].cancel()
        peer.write(encode(b"1", b"2"))
    else:
        peer.write(encode(b"1", b"2"))
        stage.turn(1)
        readers[0].cancel()
    stage.until(lambda: b"2" in log)
    assert [entry for entry in log if entry != "cancelled"] == [b"1", b"2"]


def test_session_cancelled_in_drain_leaves_the_output_alone(stage):
    """What was sent is still sent."""
    log = []

    async def handler(conn):
        conn.send(bytes(100_000))
        try:
            await conn.drain()
        except asyncio.CancelledError:
            log.append("cancelled")
        await conn.drain()
        log.append("drained")
        await conn.recv()

    _, peer, task = started(stage, handler, pair=narrow_pair, reading=False, high_water=8192, low_water=1024)
    task.cancel()
    stage.turn(3)
    assert log == ["cancelled"]
    peer.reading = True
    stage.until(lambda: len(log) == 2)
    stage.until(lambda: peer.frames == [bytes(100_000)])


def test_session_cancelled_before_it_has_begun_never_runs(stage):
    """As a task of asyncio: the coroutine is closed without its first line."""
    log = []

    async def handler(conn):
        log.append("ran")

    conn, _ = stage.connect(handler)
    task_of(conn).cancel()
    stage.until(lambda: stage.lost)
    assert log == []
    assert stage.lost[0][0].close_reason is CloseReason.LOCAL


def test_session_closed_coroutine_lets_the_next_one_wait(stage):
    """A wait that was dropped half-way, by a generator's close(), does not keep the connection."""
    log = []

    async def inner(conn):
        await conn.recv()

    async def handler(conn):
        coro = inner(conn)
        assert coro.send(None) is not None  # suspended, and nobody will resume it
        coro.close()
        log.append(await conn.recv())

    _, peer = stage.connect(handler)
    stage.settle()
    peer.write(encode(b"1"))
    stage.until(lambda: log == [b"1"])


@pytest.mark.parametrize("number", range(2))
def test_session_cancelled_at_any_point_of_a_busy_exchange_keeps_count(stage, number):
    """A cancellation a turn, while frames come two a turn: each frame is seen once, in order."""
    log = []

    async def handler(conn):
        while True:
            try:
                if number:
                    await asyncio.sleep(0)
                log.append(await conn.recv())
            except asyncio.CancelledError:
                log.append("cancelled")
            except ConnectionError:
                return

    _, peer, task = started(stage, handler)
    for turn in range(100):
        peer.write(encode(b"%d" % (2 * turn), b"%d" % (2 * turn + 1)))
        task.cancel()
        stage.turn()
        if turn % 3 == 0:
            stage.loop.call_soon(task.cancel)
    stage.until(lambda: b"199" in log)
    assert [entry for entry in log if entry != "cancelled"] == [b"%d" % number for number in range(200)]
    assert "cancelled" in log
