"""Groups whose members' frames are taken by coroutines, on each kind of event loop."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio

import pytest
from groups import group_class
from peers import encode, narrow_pair
from stage import Stage, pytest_generate_tests, stage

from evloop import Framing


@pytest.fixture
def group(stage):
    """An empty one."""
    return group_class(stage.connection_class)()


@pytest.fixture
def chat(group):
    """A handler: a chat in five lines."""

    async def handler(conn):
        group.add(conn)
        async for frame in conn:
            group.send(frame, exclude=conn)

    return handler


def test_group_of_sessions_is_a_chat(stage, group, chat):
    """Members come with their coroutine, and leave with their connection."""
    made = [stage.connect(chat) for _ in range(3)]
    stage.until(lambda: len(group) == 3)
    made[0][1].write(encode(b"hello", b"all"))
    stage.until(lambda: [peer.frames for _conn, peer in made] == [[], [b"hello", b"all"], [b"hello", b"all"]])
    made[1][1].close()
    stage.until(lambda: len(group) == 2)
    assert group.send(b"one is gone") == 2
    stage.until(lambda: made[0][1].frames == [b"one is gone"])


def test_group_send_from_a_task_and_a_timer_is_flushed_before_the_wait(stage, group, chat):
    """Where no connection's callback runs, the loop's next turn begins with it."""
    _conn, peer = stage.connect(chat)
    stage.until(lambda: len(group) == 1)

    async def announce():
        group.send(b"task")
        await asyncio.sleep(0)
        group.send(b"later")

    stage.run(announce())
    stage.loop.call_soon(group.send, b"soon")
    stage.until(lambda: peer.frames == [b"task", b"later", b"soon"])


def test_group_send_makes_a_full_sessions_drain_wait(stage, group):
    """Flow control is the same, whoever has filled the output."""
    done = []

    async def handler(conn):
        group.add(conn)
        await conn.recv()
        for _ in range(3):
            group.send(bytes(60_000))
            await asyncio.sleep(0)
        await conn.drain()
        done.append(conn.stats.output)

    conn, peer = stage.connect(handler, pair=narrow_pair, reading=False)
    peer.write(encode(b"go"))
    stage.until(lambda: conn.stats.output > 65_536)
    stage.turn(5)
    assert done == []
    peer.reading = True
    stage.until(lambda: done)
    assert done[0] <= 16_384


def test_session_is_not_handed_over(stage, group, chat):
    """Its coroutine holds the stream: between two recv() it could not know whose bytes those are."""
    conn, peer = stage.connect(chat)
    stage.turn(2)
    for call in (lambda: conn.set_framing(Framing.U16), lambda: conn.set_protocol(conn.protocol)):
        with pytest.raises(RuntimeError, match="a coroutine takes this connection's frames"):
            call()
    assert conn.close_reason is None
    peer.write(encode(b"as before"))
    stage.until(lambda: conn.stats.frames_received == 1)
