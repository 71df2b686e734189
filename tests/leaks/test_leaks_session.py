"""A session that has ended goes with the last reference to it, however it ended, and leaves nothing behind."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio
import gc
import logging
import weakref

import pytest
from growth import leaked, without_collector
from peers import encode
from stage import Stage, pytest_generate_tests, stage
from twins import needs_compiled

from evloop import ConnectionClosed
from evloop.aio.sessions import taken_by_whoever
from evloop.framing import IMPLEMENTATION as FRAMING


class Context:
    """What an application hangs on a connection, which has no weak references itself."""


async def echo(conn):
    async for frame in conn:
        if frame == b"raise":
            raise ZeroDivisionError
        if frame == b"sleep, raise":
            await asyncio.sleep(0)
            raise ZeroDivisionError
        if frame == b"late":
            try:
                await asyncio.wait_for(conn.recv(), 0)
            except asyncio.TimeoutError:
                pass
        if frame == b"child":
            child = asyncio.ensure_future(conn.recv())
            await asyncio.wait([child])
            conn.send(child.result())
        if frame == b"cancel":
            asyncio.current_task().cancel()
        conn.send(frame)


async def swallow(conn):
    """Keep the exception as long as the frame lives, and ask again."""
    try:
        while True:
            await conn.recv()
    except Exception as exc:
        kept = exc
        try:
            await conn.recv()
        except ConnectionClosed:
            pass
        del kept


HANDLERS = {"echo": echo, "swallow": swallow}
ENDS = {
    "close": lambda conn, peer: conn.close(),
    "abort": lambda conn, peer: conn.abort(),
    "end of the stream": lambda conn, peer: peer.fin(),
    "reset": lambda conn, peer: peer.reset(),
    "fault": lambda conn, peer: peer.write(b"\xff\xff\xff\xff"),
    "truncated": lambda conn, peer: peer.write(b"\0\0", fin=True),
    "exception": lambda conn, peer: peer.write(encode(b"raise", b"held")),
    "exception of a step": lambda conn, peer: peer.write(encode(b"sleep, raise", b"held")),
    "time-out": lambda conn, peer: peer.write(encode(b"late"), fin=True),
    "child": lambda conn, peer: peer.write(encode(b"child", b"its"), fin=True),
    "cancelled": lambda conn, peer: peer.write(encode(b"cancel"), fin=True),
    "stop": lambda conn, peer: conn.protocol.stop(),
    "large output": lambda conn, peer: (conn.send(bytes(1 << 20)), conn.abort()),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("handler", HANDLERS)
def test_session_that_has_ended_dies_with_its_last_reference(stage, handler, end):
    """Coroutine, task, connection and exception know each other; left to the collector, thousands would wait for it."""
    if handler == "swallow" and "exception" in end:
        return  # it raises none
    stage.connect(HANDLERS[handler], idle_timeout=60, max_frame=1 << 20)
    conn, peer = stage.connections[0], stage.peers[0]
    context = conn.context = Context()
    gone = weakref.ref(context)
    del context
    peer.write(encode(b"hello"))
    stage.settle()
    with without_collector():
        ENDS[end](conn, peer)
        while not (conn.closed or peer.ended):
            stage.turn()
        peer.close()
        while not conn.closed or asyncio.all_tasks(stage.loop):
            stage.turn()
        stage.turn(4)
        stage.connections.clear()
        stage.lost.clear()
        conn = None
        if stage.kind == "debug" or FRAMING == "python":  # tracebacks of sources, and of what the decoder raises
            gc.collect()
        alive = gone() is not None
    assert not alive
    assert not [context for context in stage.errors if "Unhandled" in context["message"]]
    stage.errors.clear()


def test_connection_of_aio_connect_that_has_ended_dies_with_its_last_reference(stage):
    """Its user is told of the reset, and the traceback of that leads to the connection."""
    taken = []
    stage.connect(protocol=taken_by_whoever(taken.append))
    stage.settle()
    conn, peer = taken.pop(), stage.peers[0]
    context = conn.context = Context()
    gone = weakref.ref(context)
    del context

    async def user(conn):
        errors = 0
        for _ in range(3):
            try:
                await conn.recv()
            except (ConnectionError, OSError):
                errors += 1
        return errors

    with without_collector():
        task = stage.loop.create_task(user(conn))
        stage.settle()
        peer.reset()
        stage.until(task.done)
        assert task.result() == 3
        stage.turn(4)
        del task, conn
        stage.connections.clear()
        stage.lost.clear()
        if stage.kind == "debug":
            gc.collect()
        assert gone() is None


@pytest.mark.slow
@pytest.mark.parametrize("end", ["close", "reset", "fault", "exception", "exception of a step", "child", "cancelled"])
def test_session_rounds_leave_nothing_behind(request, end):
    """Objects, memory, references to None: the compiled session leaves the same after a hundred more."""
    needs_compiled(request.config)
    logging.getLogger("evloop").setLevel(logging.CRITICAL)

    def session():
        stage = Stage("cython-own")
        try:
            conn, peer = stage.connect(echo, idle_timeout=60)
            peer.write(encode(b"hello", b"again"))
            stage.settle(4)
            ENDS[end](conn, peer)
            stage.until(lambda: conn.closed or peer.ended)
            peer.close()
            stage.until(lambda: conn.closed and not asyncio.all_tasks(stage.loop))
            stage.turn(2)
        finally:
            stage.errors.clear()
            stage.close()

    assert leaked(session) == {}
