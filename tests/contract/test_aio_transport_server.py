"""Servers, TLS and files on asyncio's transports: ours does what the standard library's does."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import gc
import os
import resource
import socket
import sys
import tempfile

import pytest
from aiopeers import (
    STANDARD,
    Diary,
    connected,
    fill,
    new_loop,
    receive,
    reset,
    run,
    send,
    turns,
    until,
)
from tlspeers import foreign_client, foreign_server

import evloop.aio


def echo(protocol, data):
    protocol.transport.write(data)


class Echo(Diary):
    """Writes back what comes."""

    made = ()

    def __init__(self):
        super().__init__(data_received=echo)
        Echo.made.append(self)


@pytest.fixture(autouse=True)
def new_echoes():
    """Each test has its own list of what was made."""
    Echo.made = []
    yield
    Echo.made = []


@contextlib.asynccontextmanager
async def serving(factory=Echo, **options):
    """Yield a server on a free port of the loopback, and its address."""
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, **options)
    try:
        yield server, server.sockets[0].getsockname() if server.sockets else None
    finally:
        server.close()
        await asyncio.wait_for(server.wait_closed(), 10)


def connect(address):
    """Return a non-blocking socket that is connected."""
    sock = socket.create_connection(address)
    sock.setblocking(False)
    return sock


# --- accepting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_server_takes_all_that_wait(new_loop, count):
    """A burst of connections is accepted in portions, and each is served."""

    async def main():
        async with serving(backlog=300) as (_, address):
            peers = [connect(address) for _ in range(count)]
            for number, peer in enumerate(peers):
                await send(peer, b"%4d" % number)
            for number, peer in enumerate(peers):
                assert await receive(peer, 4) == b"%4d" % number
                peer.close()
            await until(lambda: all("connection_lost" in protocol.names for protocol in Echo.made))
        assert len(Echo.made) == count

    run(new_loop, main)


def test_server_of_a_unix_path_serves(new_loop, tmp_path):
    """The addresses are of another kind, the bytes are the same."""

    async def main():
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "socket")
        server = await loop.create_unix_server(Echo, path)
        protocol = Diary()
        transport, _ = await loop.create_unix_connection(lambda: protocol, path)
        transport.write(b"x" * 200_000)
        await until(lambda: len(protocol.received) == 200_000)
        assert Echo.made[0].transport.get_extra_info("sockname") == path
        assert Echo.made[0].transport.get_extra_info("peername") == ""
        transport.close()
        await until(lambda: "connection_lost" in Echo.made[0].names)
        server.close()
        await server.wait_closed()

    run(new_loop, main)


def test_server_that_is_closed_accepts_nothing_and_waits_for_nobody_new(new_loop):
    """What was connected goes on."""

    async def main():
        async with serving() as (server, address):
            peer = connect(address)
            await until(lambda: Echo.made)
            server.close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            await send(peer, b"x")
            assert await receive(peer, 1) == b"x"
            peer.close()
            await until(lambda: "connection_lost" in Echo.made[0].names)

    run(new_loop, main)


if sys.version_info >= (3, 13):  # servers know their transports since

    @pytest.mark.parametrize("end", ["close_clients", "abort_clients"])
    def test_server_closes_its_clients(new_loop, end):
        """In good order, or at once."""

        async def main():
            async with serving() as (server, address):
                peers = [connect(address) for _ in range(3)]
                await until(lambda: len(Echo.made) == 3 and all(one.transport for one in Echo.made))
                server.close()
                getattr(server, end)()
                for peer in peers:
                    assert await receive(peer, 1) == b""
                    peer.close()

        run(new_loop, main)


def test_server_connections_have_contexts_of_their_own(new_loop):
    """A copy of the server's each: what one sets in its factory is its alone."""
    variable = contextvars.ContextVar("variable", default="none")
    seen = []

    class Protocol(Echo):
        def __init__(self):
            super().__init__()
            seen.append(("factory", variable.get()))
            variable.set(f"connection {len(seen)}")

        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(("made", variable.get()))

        def data_received(self, data):
            super().data_received(data)
            seen.append(("data", variable.get()))

    async def main():
        variable.set("server")
        async with serving(Protocol) as (_, address):
            variable.set("later")
            for _ in range(2):
                peer = connect(address)
                await send(peer, b"x")
                assert await receive(peer, 1) == b"x"
                peer.close()
            await until(lambda: all("connection_lost" in protocol.names for protocol in Echo.made))

    run(new_loop, main)
    assert seen == [
        ("factory", "server"),
        ("made", "connection 1"),
        ("data", "connection 1"),
        ("factory", "server"),
        ("made", "connection 4"),
        ("data", "connection 4"),
    ]


def test_server_without_fds_rests_and_goes_on(new_loop, monkeypatch):
    """Told once in a while, with asyncio's words; never spinning."""
    monkeypatch.setattr(asyncio.constants, "ACCEPT_RETRY_DELAY", 0.05)
    handled = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main():
        loop = asyncio.get_running_loop()
        async with serving(backlog=1) as (server, address):
            peer = connect(address)
            highest = max(int(name) for name in os.listdir("/proc/self/fd"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
            held = []
            try:
                with contextlib.suppress(OSError):
                    while True:
                        held.append(os.open("/dev/null", os.O_RDONLY))
                await until(lambda: handled)
                before, since = len(handled), loop.time()
                await turns(50)
                rests = 1 + (loop.time() - since) // asyncio.constants.ACCEPT_RETRY_DELAY
                assert len(handled) - before <= rests
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for fd in held:
                    os.close(fd)
            await send(peer, b"x")
            assert await receive(peer, 1) == b"x"
            assert [socket_of(context) for context in handled] == [server.sockets[0].fileno()] * len(handled)
            peer.close()
            await until(lambda: "connection_lost" in Echo.made[0].names)

    def socket_of(context):
        assert context["message"] == "socket.accept() out of system resource"
        assert context["exception"].errno == errno.EMFILE
        assert set(context) == {"message", "exception", "socket"}
        return context["socket"].fileno()

    run(new_loop, main, handled)
    assert handled


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100_000, 3_000_000])
def test_tls_echo_comes_back_whole(new_loop, size):
    """asyncio's own TLS stands on the transport: a BufferedProtocol."""

    async def main():
        async with serving(ssl=foreign_server()) as (_, address):
            protocol = Diary()
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: protocol, *address, ssl=foreign_client(), server_hostname="localhost"
            )
            data = os.urandom(size)
            transport.write(data)
            await until(lambda: len(protocol.received) == size)
            assert protocol.received == data
            assert transport.get_extra_info("peername") == address
            assert transport.get_extra_info("ssl_object").version().startswith("TLS")
            transport.close()
            await until(lambda: "connection_lost" in protocol.names)
            await until(lambda: "connection_lost" in Echo.made[0].names)
            Echo.made[0].transport.close()  # Python 3.10 warns of it otherwise

    run(new_loop, main)


def test_tls_begun_on_a_plain_connection(new_loop):
    """start_tls() on both sides, after a word in plain text."""

    async def main():
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        one.setblocking(False)
        other.setblocking(False)
        server_side, client_side = Diary(data_received=echo), Diary()
        server_plain, _ = await loop.create_connection(lambda: server_side, sock=one)
        client_plain, _ = await loop.create_connection(lambda: client_side, sock=other)
        client_plain.write(b"plain")
        await until(lambda: client_side.received == b"plain")
        server_tls, client_tls = await asyncio.gather(
            loop.start_tls(server_plain, server_side, foreign_server(), server_side=True),
            loop.start_tls(client_plain, client_side, foreign_client(), server_hostname="localhost"),
        )
        server_side.transport = server_tls
        client_tls.write(b"secret" * 50_000)
        await until(lambda: len(client_side.received) == 5 + 300_000)
        client_tls.close()
        await until(lambda: "connection_lost" in client_side.names and "connection_lost" in server_side.names)
        server_tls.close()
        await turns(3)

    run(new_loop, main)


def test_tls_peer_that_speaks_none_is_lost(new_loop):
    """And the server goes on."""
    handled = []

    async def main():
        async with serving(ssl=foreign_server()) as (_, address):
            peer = connect(address)
            await send(peer, b"GET / HTTP/1.0\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                while await receive(peer, 1):
                    pass
            peer.close()
            await turns(5)

    run(new_loop, main, handled)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fallback", [False, True])
@pytest.mark.parametrize("size", [1, 100_000, 5_000_000])
def test_sendfile_goes_between_what_is_written(new_loop, size, fallback):
    """After what waits, before what comes; a slow reader does not matter."""
    data = os.urandom(size)

    async def main():
        loop = asyncio.get_running_loop()
        protocol = Diary(data_received=echo)
        async with connected(protocol) as (transport, peer):
            with tempfile.TemporaryFile() as file:
                file.write(data)
                file.flush()
                filled = fill(transport)
                if fallback:
                    sending = asyncio.ensure_future(loop._sendfile_fallback(transport, file, 0, None))
                    file.seek(0)
                else:
                    sending = asyncio.ensure_future(loop.sendfile(transport, file))
                    await turns(2)
                    with pytest.raises(RuntimeError, match="unable to write; sendfile is in progress"):
                        transport.write(b"between")
                    with pytest.raises(RuntimeError, match=r"unable to write(lines)?; sendfile is in progress"):
                        transport.writelines([b"between"])
                receiving = asyncio.ensure_future(receive(peer, filled + size + 5))
                assert await sending == size
                transport.write(b"after")
                assert await receiving == b"f" * filled + data + b"after"
                await send(peer, b"echo")
                assert await receive(peer, 4) == b"echo"

    run(new_loop, main)


def test_sendfile_to_a_peer_that_is_gone_fails(new_loop):
    """The future says so, and the transport can be closed."""

    async def main():
        loop = asyncio.get_running_loop()
        protocol = Diary()
        async with connected(protocol) as (transport, peer):
            with tempfile.TemporaryFile() as file:
                file.truncate(50_000_000)
                sending = asyncio.ensure_future(loop.sendfile(transport, file))
                await turns(5)
                reset(peer)
                with pytest.raises((ConnectionError, BrokenPipeError)):
                    await sending
            transport.close()
            await until(lambda: "connection_lost" in protocol.names)

    run(new_loop, main)
