"""asyncio's compiled transport leaves nothing behind, however a connection lives and ends.

Each round is a connection on one loop that stays; what the loop keeps of its connections is part of the count.
"""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiopeers import BufferedDiary, Diary, turns, until
from growth import leaked
from twins import needs_compiled

import evloop.aio

LARGE = bytes(100_000)


@pytest.fixture
def loop(request):
    """A loop of ours whose exception handler says nothing."""
    needs_compiled(request.config)
    loop = evloop.aio.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def raising(*args):
    raise ZeroDivisionError


def echo(protocol, data):
    protocol.transport.write(data)


async def live(protocol, *sent, end="close", large=False):
    """A connection's whole life: what comes, what is answered, how it ends."""
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    try:
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=ours)
        for data in sent:
            peer.send(data)
            await turns(2)
        if large:
            for _ in range(20):
                transport.write(LARGE)
            transport.write(bytearray(LARGE))
            transport.writelines([LARGE, b"small", bytearray(b"x")])
        if end == "peer":
            peer.close()
        elif transport._sock is not None:
            getattr(transport, end)()
            transport.get_extra_info("socket")
            transport.get_extra_info("peername")
    finally:
        peer.close()
    await until(lambda: "connection_lost" in protocol.names)
    protocol.transport = protocol.actions = None


LIVES = {
    "echo": lambda: live(Diary(data_received=echo), b"x", b"y" * 1000),
    "bulk": lambda: live(Diary(data_received=echo), LARGE, LARGE, LARGE, b"x"),
    "kept": lambda: live(Diary(), LARGE, LARGE, LARGE),
    "buffered": lambda: live(BufferedDiary(), b"x", LARGE),
    "unsent": lambda: live(Diary(), end="abort", large=True),
    "unsent, flushing": lambda: live(Diary(), end="close", large=True),
    "peer": lambda: live(Diary(), b"x", end="peer"),
    "raising": lambda: live(Diary(data_received=raising), b"x"),
    "raising, bulk": lambda: live(Diary(data_received=raising), LARGE),
    "raising, buffered": lambda: live(BufferedDiary(buffer_updated=raising), b"x"),
    "raising, lost": lambda: live(Diary(connection_lost=raising), b"x"),
}


@pytest.mark.parametrize("name", LIVES)
def test_leaks_transport_life_leaves_nothing(loop, name):
    """Objects, blocks, memory and references are what they were."""
    assert not leaked(lambda: loop.run_until_complete(LIVES[name]()))


def test_leaks_transport_accepted_connections_leave_nothing(loop):
    """Nor does the server that made them."""
    made = []

    def factory():
        made.append(Diary(data_received=echo))
        return made[-1]

    async def one(address):
        with socket.create_connection(address) as peer:
            peer.sendall(b"x")
            await until(lambda: made and made[-1].received)
            made[-1].transport.get_extra_info("socket")
        await until(lambda: "connection_lost" in made[-1].names)
        made.pop()

    server = loop.run_until_complete(loop.create_server(factory, "127.0.0.1", 0))
    address = server.sockets[0].getsockname()
    try:
        assert not leaked(lambda: loop.run_until_complete(one(address)))
    finally:
        server.close()
        loop.run_until_complete(server.wait_closed())


def test_leaks_transport_servers_leave_nothing(loop):
    """Begun and ended, with nobody there."""

    async def one():
        server = await asyncio.get_running_loop().create_server(Diary, "127.0.0.1", 0)
        server.close()
        await server.wait_closed()

    assert not leaked(lambda: loop.run_until_complete(one()))
