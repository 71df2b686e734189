"""The websockets library on our loop: client and server on streams of their own making, with pings and time-outs."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio
import os

import pytest
from aioloops import old_tls, run_program, until
from tlspeers import foreign_client, foreign_server
from websockets.asyncio.client import connect, unix_connect
from websockets.asyncio.server import serve, unix_serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

MIB = 1 << 20
MANY = 400  # messages of 64 KiB: far more than the kernel and both ends hold


async def echo(peer):
    async for message in peer:
        await peer.send(message)


def url(server, scheme="ws"):
    """Return the address of a server on TCP."""
    return f"{scheme}://localhost:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("compression", ["deflate", None])
def test_websocket_messages_of_all_sizes_come_back(run_program, compression):
    """A message of 1 MiB is many reads and more than the water marks; text and bytes must not change places."""

    async def program():
        async with (
            serve(echo, "127.0.0.1", 0, max_size=2 * MIB, compression=compression) as server,
            connect(url(server), max_size=2 * MIB, compression=compression) as client,
        ):
            for message in ("", "\u00e4" * (MIB // 2), b"", b"x", os.urandom(65_536), os.urandom(MIB)):
                await client.send(message)
                assert await client.recv() == message

    run_program(program)


def test_websocket_fragments_are_one_message(run_program):
    """Each fragment is a write of its own, and a drain."""

    async def program():
        async with serve(echo, "127.0.0.1", 0) as server, connect(url(server)) as client:
            await client.send([b"a" * 10_000] * 50)
            assert await client.recv() == b"a" * 500_000

    run_program(program)


def test_websocket_many_clients_have_their_own_echoes(run_program):
    """A hundred connections in the turns of one loop, both ends of each."""

    async def one(address, i):
        async with connect(address) as client:
            for k in range(20):
                await client.send(f"{i}:{k}")
            return [await client.recv() for _ in range(20)] == [f"{i}:{k}" for k in range(20)]

    async def program():
        async with serve(echo, "127.0.0.1", 0) as server:
            assert all(await asyncio.gather(*(one(url(server), i) for i in range(100))))

    run_program(program)


@pytest.mark.parametrize(
    ("code", "reason", "raised"), [(1000, "", ConnectionClosedOK), (4001, "no such room", ConnectionClosedError)]
)
def test_websocket_close_of_the_server_tells_its_code(run_program, code, reason, raised):
    """The code is in the last bytes before the end of the stream, which must not overtake them."""

    async def refuse(peer):
        await peer.send("last")
        await peer.close(code, reason)

    async def program():
        async with serve(refuse, "127.0.0.1", 0) as server, connect(url(server)) as client:
            assert await client.recv() == "last"
            with pytest.raises(raised) as caught:
                await client.recv()
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, reason)

    run_program(program)


def test_websocket_close_of_the_client_tells_its_code(run_program):
    """The other direction of the same."""
    seen = []

    async def listen(peer):
        await peer.wait_closed()
        seen.append((peer.close_code, peer.close_reason))

    async def program():
        async with serve(listen, "127.0.0.1", 0) as server:
            async with connect(url(server)) as client:
                await client.close(1001, "going")
            await until(lambda: seen)
        assert seen == [(1001, "going")]

    run_program(program)


def test_websocket_peer_that_vanishes_is_closed_with_1006(run_program):
    """An abort has no closing handshake: the connection's loss has to be reported all the same."""
    seen = []

    async def listen(peer):
        await peer.wait_closed()
        seen.append(peer.close_code)

    async def program():
        async with serve(listen, "127.0.0.1", 0) as server:
            async with connect(url(server)) as client:
                client.transport.abort()
                with pytest.raises(ConnectionClosedError):
                    await client.recv()
            await until(lambda: seen)
        assert seen == [1006]

    run_program(program)


def test_websocket_ping_is_answered_and_a_silent_peer_cut_off(run_program):
    """Keepalive is made of timers and of a future that a read sets."""

    async def stop_reading(peer):
        peer.transport.pause_reading()  # so no pong comes
        await peer.wait_closed()

    async def program():
        async with serve(echo, "127.0.0.1", 0) as server, connect(url(server)) as client:
            assert await (await client.ping()) >= 0
        async with serve(stop_reading, "127.0.0.1", 0, ping_interval=None) as server:
            async with connect(url(server), ping_interval=0.05, ping_timeout=0.05, close_timeout=0.05) as client:
                with pytest.raises(ConnectionClosedError, match="keepalive ping timeout"):
                    await client.recv()
            for peer in server.connections:
                peer.transport.abort()

    run_program(program)


def test_websocket_cancelled_recv_loses_no_message(run_program):
    """A time-out around a receive is how programs wait for two things at once."""

    async def program():
        async with serve(echo, "127.0.0.1", 0) as server, connect(url(server)) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.recv(), 0.02)
            await client.send("kept")
            assert await client.recv() == "kept"

    run_program(program)


def test_websocket_server_that_closes_tells_its_clients_1001(run_program):
    """Closing a server closes its connections in good order, and waits for them."""

    async def program():
        async with serve(echo, "127.0.0.1", 0) as server:
            clients = [await connect(url(server)) for _ in range(10)]
            server.close()
            await server.wait_closed()
            for client in clients:
                await client.wait_closed()
                assert client.close_code == 1001

    run_program(program)


def test_websocket_slow_reader_holds_the_sender_back(run_program):
    """Both directions have water marks; without them this would grow until memory ends."""
    sent = []

    async def flood(peer):
        for i in range(MANY):
            await peer.send(b"x" * 65_536)
            sent.append(i)

    async def program():
        async with (
            serve(flood, "127.0.0.1", 0, compression=None) as server,
            connect(url(server), max_queue=1, compression=None) as client,
        ):
            await client.recv()
            seen = -1
            while len(sent) != seen:  # until the sender gets no further
                seen = len(sent)
                for _ in range(100):
                    await asyncio.sleep(0)
            assert seen < MANY
            assert [len(await client.recv()) for _ in range(MANY - 1)] == [65_536] * (MANY - 1)

    run_program(program)


@old_tls
def test_websocket_over_tls_and_unix_sockets_works_as_well(run_program, tmp_path):
    """The same library on the two other transports."""

    async def program():
        async with (
            serve(echo, "127.0.0.1", 0, ssl=foreign_server()) as server,
            connect(url(server, "wss"), ssl=foreign_client()) as client,
        ):
            await client.send(b"t" * MIB)
            assert await client.recv() == b"t" * MIB
        path = str(tmp_path / "ws.sock")
        async with unix_serve(echo, path), unix_connect(path) as client:
            await client.send(b"u" * MIB)
            assert await client.recv() == b"u" * MIB

    run_program(program)
