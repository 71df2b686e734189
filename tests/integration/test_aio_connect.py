"""evloop.aio.connect(): a framed connection for coroutines, how it comes to be, and how that fails."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from peers import PATIENCE, RST_ON_CLOSE, encode
from tlspeers import CA, SERVER

import evloop
import evloop.aio
from evloop import AddressError, CloseReason, ConnectionClosed, Limits, TlsError, tls


def run(main):
    """Run a coroutine in our loop; fail when patience ends."""
    return evloop.aio.run(asyncio.wait_for(main, PATIENCE))


@contextlib.asynccontextmanager
async def served(handler, **options):
    """A server of this loop; shut down at once at the end."""
    loop = asyncio.get_running_loop()
    server = evloop.Server(loop, handler, "127.0.0.1:0", limits=Limits(linger=0), **options)
    server.start()
    try:
        yield server
    finally:
        done = loop.create_future()
        server.shutdown(0, done=lambda: done.set_result(None))
        await done


@contextlib.contextmanager
def listening():
    """A raw listener, and its address; nobody accepts but the test."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener, f"127.0.0.1:{listener.getsockname()[1]}"


def upper(conn, frame):
    conn.send(frame.upper())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def test_aio_connect_sends_and_receives():
    """The docstring's example, and what follows from it."""

    async def main():
        async with served(upper) as server:
            async with await evloop.aio.connect(server.address, timeout=PATIENCE) as conn:
                conn.send(b"hi")
                assert await conn.recv() == b"HI"
                conn.send_many([b"a", b"b"])
                await conn.drain()
                assert [await conn.recv(), await conn.recv()] == [b"A", b"B"]
            assert conn.closed
            assert conn.close_reason is CloseReason.LOCAL

    run(main())


def test_aio_connect_reader_and_writer_may_be_two_tasks():
    """One waits for frames, the other one for room."""

    async def main():
        async def write(conn):
            for number in range(2000):
                conn.send(b"%d" % number * 100)
                await conn.drain()
            conn.write_eof()

        async with served(upper) as server, await evloop.aio.connect(server.address) as conn:
            writer = asyncio.create_task(write(conn))
            frames = [frame async for frame in conn]
            await writer
        assert len(frames) == 2000

    run(main())


def test_aio_connect_frames_before_the_first_recv_are_kept():
    """A server that greets before anybody asks, and leaves."""

    async def greet(conn):
        conn.send_many([b"hello", b"and", b"bye"])

    async def main():
        async with served(greet) as server:
            conn = await evloop.aio.connect(server.address)
            await asyncio.sleep(0.01)
            assert [frame async for frame in conn] == [b"hello", b"and", b"bye"]
            with pytest.raises(ConnectionClosed, match="peer"):
                await conn.recv()
            await conn.wait_closed()

    run(main())


def test_aio_connect_async_with_of_a_lost_connection_still_gives_it():
    """It may have gone between connect() and the block."""

    async def leave(conn):
        conn.abort()

    async def main():
        async with served(leave) as server:
            conn = await evloop.aio.connect(server.address)
            await conn.wait_closed()
            async with conn as same:
                assert same is conn
                with pytest.raises(ConnectionError):
                    await conn.recv()

    run(main())


def test_aio_connect_reset_is_raised_once_then_it_is_closed():
    """Nobody waited when it came; the first who asks is told what it was."""

    async def main():
        with listening() as (listener, address):
            conn = await evloop.aio.connect(address)
            peer = listener.accept()[0]
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
            peer.close()
            await conn.wait_closed()
            with pytest.raises(ConnectionResetError):
                await conn.recv()
            with pytest.raises(ConnectionClosed, match="reset"):
                await conn.recv()
            with pytest.raises(ConnectionClosed, match="reset"):
                await conn.drain()
            with pytest.raises(ConnectionClosed, match="reset"):
                async for _ in conn:
                    pass

    run(main())


def test_aio_connect_refused_is_the_kernels_error():
    """An OSError with its errno."""

    async def main():
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ConnectionRefusedError):
            await evloop.aio.connect(address)

    run(main())


def test_aio_connect_timeout_covers_the_tls_handshake():
    """A server that accepts and says nothing."""

    async def main():
        with listening() as (_, address), pytest.raises(TimeoutError):
            await evloop.aio.connect(address, ssl=tls.client_context(CA), timeout=0.02)

    run(main())


def test_aio_connect_tls_failure_is_a_tls_error():
    """A certificate of somebody whom nobody knows."""

    async def main():
        async with served(upper, ssl=tls.server_context(SERVER)) as server:
            with pytest.raises(TlsError):
                await evloop.aio.connect(server.address, ssl=tls.client_context(), server_hostname="localhost")
            async with await evloop.aio.connect(
                server.address, ssl=tls.client_context(CA), server_hostname="localhost"
            ) as conn:
                assert conn.tls is not None
                conn.send(b"x")
                assert await conn.recv() == b"X"

    run(main())


@pytest.mark.parametrize("turns", range(8))
def test_aio_connect_cancelled_at_any_point_leaves_nothing_behind(turns):
    """Before the socket, while it connects, in the turn in which it is there: the peer sees the end, if anything."""

    async def main():
        async with served(upper) as server:
            task = asyncio.ensure_future(evloop.aio.connect(server.address))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            try:
                conn = await task
            except asyncio.CancelledError:
                pass
            else:
                conn.abort()
            await asyncio.sleep(0.01)
            await until(lambda: not server.connections)

    run(main())


def test_aio_connect_cancelled_in_the_turn_in_which_it_is_there_aborts():
    """The future has its result, and the task is told of the cancellation instead."""

    async def main():
        async with served(upper) as server:
            task = asyncio.ensure_future(evloop.aio.connect(server.address))
            while not server.stats()["accepted"]:
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                (await task).abort()
            await until(lambda: not server.connections)

    run(main())


def test_aio_connect_in_another_loop_is_an_error_that_names_ours():
    """asyncio's own loop has no core for a connection."""

    async def main():
        with pytest.raises(RuntimeError, match=r"evloop\.aio\.run"):
            await evloop.aio.connect("127.0.0.1:1")

    asyncio.run(main())


WRONG = {
    "address": (AddressError, {"address": "nonsense:"}),
    "timeout": (ValueError, {"timeout": 0}),
    "framing": (TypeError, {"framing": 4}),
    "limits": (TypeError, {"limits": 4}),
    "server_hostname": (ValueError, {"server_hostname": "x"}),
}


@pytest.mark.parametrize("name", WRONG)
def test_aio_connect_wrong_argument_is_an_error(name):
    """As those of evloop.connect(), when awaited."""
    error, options = WRONG[name]

    async def main():
        with pytest.raises(error):
            await evloop.aio.connect(**{"address": "127.0.0.1:1", **options})

    run(main())


def test_aio_connect_limits_hold_for_the_client():
    """A server that announces too much is the server's fault, and the client is told."""

    async def main():
        with listening() as (listener, address):
            conn = await evloop.aio.connect(address, limits=Limits(max_frame=10, linger=0))
            with listener.accept()[0] as peer:
                peer.sendall(encode(b"x" * 10, b"x" * 11))
                assert await conn.recv() == b"x" * 10
                with pytest.raises(evloop.FrameTooLarge):
                    await conn.recv()
            await conn.wait_closed()

    run(main())


def test_aio_connect_proxy_between_two_sessions():
    """A handler that is client itself: two connections, one task each way."""

    async def pump(source, target):
        async for frame in source:
            target.send(frame)
            await target.drain()
        target.write_eof()

    async def main():
        async with served(upper) as upstream:

            async def proxy(conn):
                async with await evloop.aio.connect(upstream.address) as inner:
                    await asyncio.gather(pump(conn, inner), pump(inner, conn))

            async with served(proxy) as server, await evloop.aio.connect(server.address) as conn:
                for number in range(100):
                    conn.send(b"x%d" % number)
                conn.write_eof()
                assert [frame async for frame in conn] == [b"X%d" % number for number in range(100)]

    run(main())
