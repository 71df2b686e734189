"""Stream transports: ours does what the standard library's does, callback for callback."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import random
import socket
import sys
import warnings

import pytest
from aiopeers import (
    STANDARD,
    BufferedDiary,
    Diary,
    connected,
    fill,
    new_loop,
    receive,
    reset,
    run,
    send,
    tcp_pair,
    turns,
    until,
)
from realsockets import needs_ipv6

PAIRS = [tcp_pair, socket.socketpair]


def echo(protocol, data):
    protocol.transport.write(data)


# --- input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Diary, BufferedDiary])
@pytest.mark.parametrize("largest", [100, 40_000, 600_000])
def test_transport_random_cuts_come_back_whole(new_loop, kind, largest):
    """Whatever sizes the kernel makes of it: small reads, bulk reads and the change between them."""
    dice = random.Random(largest)
    sent = [dice.randbytes(dice.randrange(1, largest)) for _ in range(30)]

    async def main():
        if kind is Diary:
            protocol = Diary(data_received=echo)
        else:
            protocol = BufferedDiary(150_000, buffer_updated=lambda self, n: self.transport.write(self.buffer[:n]))
        async with connected(protocol) as (_, peer):
            back = asyncio.ensure_future(receive(peer, sum(map(len, sent))))
            for piece in sent:
                await send(peer, piece)
                await turns(dice.randrange(3))
            assert await back == b"".join(sent)

    run(new_loop, main)


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("piece", [1, 20, 600, 500_000])
def test_transport_kept_data_never_changes(new_loop, piece, keep):
    """Memory of a read that somebody still holds must not be received into again."""
    dice = random.Random(1)
    sent = dice.randbytes(min(300 * piece, 8_000_000))
    kept = []

    def maybe_keep(_, data):
        if dice.random() < keep:
            kept.append((data, hash(bytes(bytearray(data)))))
        assert hash(data) == hash(bytes(bytearray(data)))  # and neither is the hash an older content's

    async def main():
        protocol = Diary(data_received=maybe_keep)
        protocol.events = _Forgetful()
        async with connected(protocol) as (_, peer):
            for start in range(0, len(sent), piece):
                await send(peer, sent[start : start + piece])
                await until(lambda end=start + piece: len(protocol.received) == end)
        assert protocol.received == sent

    run(new_loop, main)
    for data, number in kept:
        assert hash(bytes(bytearray(data))) == number


class _Forgetful(list):
    def append(self, item):
        pass


def test_transport_bulk_then_small_reads_shrink_and_grow(new_loop):
    """A connection that was a bulk stream once answers single bytes as any other."""

    async def main():
        protocol = Diary(data_received=echo)
        async with connected(protocol) as (_, peer):
            for size in [300_000, *[1] * 30, 200_000, *[40_000] * 10, 1, 300_000]:
                data = os.urandom(size)
                sending = asyncio.ensure_future(send(peer, data))
                assert await receive(peer, size) == data
                await sending

    run(new_loop, main)


@pytest.mark.parametrize("pair", PAIRS)
def test_transport_end_of_stream_closes(new_loop, pair):
    """eof_received() that returns nothing is the end."""

    async def main():
        protocol = Diary()
        async with connected(protocol, pair) as (transport, peer):
            await send(peer, b"last")
            peer.shutdown(socket.SHUT_WR)
            await until(lambda: "connection_lost" in protocol.names)
            assert transport.is_closing()
            assert await receive(peer, 1) == b""
        assert protocol.events == [
            ("connection_made",),
            ("data_received", b"last"),
            ("eof_received",),
            ("connection_lost", None),
        ]

    run(new_loop, main)


def test_transport_end_of_stream_that_keeps_open_can_write(new_loop):
    """Half closed: the peer has sent all, and wants the answer."""

    async def main():
        protocol = Diary(eof_received=lambda self: True)
        async with connected(protocol) as (transport, peer):
            peer.shutdown(socket.SHUT_WR)
            await until(lambda: "eof_received" in protocol.names)
            await turns(5)
            assert not transport.is_closing()
            assert transport.is_reading()
            transport.write(b"answer")
            transport.write_eof()
            assert await receive(peer, 100) == b"answer"
            transport.close()
            await until(lambda: "connection_lost" in protocol.names)
        assert protocol.names == ["connection_made", "eof_received", "connection_lost"]

    run(new_loop, main)


def test_transport_reset_is_lost_with_the_error(new_loop):
    """An OSError is for the protocol, and for nobody else."""

    async def main():
        protocol = Diary()
        async with connected(protocol) as (_, peer):
            reset(peer)
            await until(lambda: "connection_lost" in protocol.names)
        (name, exc) = protocol.events[-1]
        assert (name, type(exc), exc.errno) == ("connection_lost", ConnectionResetError, 104)
        assert str(exc) == "[Errno 104] Connection reset by peer"

    run(new_loop, main)


def test_transport_paused_reads_nothing_and_resumes(new_loop):
    """Pausing twice is pausing once; what came meanwhile is delivered afterwards."""

    async def main():
        protocol = Diary()
        async with connected(protocol) as (transport, peer):
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            await send(peer, b"held")
            await turns(5)
            assert protocol.names == ["connection_made"]
            transport.resume_reading()
            transport.resume_reading()
            assert transport.is_reading()
            await until(lambda: protocol.received)
            transport.pause_reading()
            transport.resume_reading()
            await send(peer, b"again")
            await until(lambda: protocol.received == b"heldagain")

    run(new_loop, main)


def test_transport_paused_in_connection_made_stays_so(new_loop):
    """Reading begins after connection_made(), and asks first."""

    async def main():
        protocol = Diary(connection_made=lambda self: self.transport.pause_reading())
        async with connected(protocol) as (transport, peer):
            if sys.version_info < (3, 11) and type(transport).__module__ != "evloop.aio._transport":
                return  # where asyncio does not ask
            await send(peer, b"x")
            await turns(5)
            assert protocol.names == ["connection_made"]
            transport.resume_reading()
            await until(lambda: protocol.received == b"x")

    run(new_loop, main)


def test_transport_hang_up_while_paused_is_told_when_resumed(new_loop):
    """No event may be lost, and none may keep the loop busy."""

    async def main():
        protocol = Diary()
        async with connected(protocol) as (transport, peer):
            transport.pause_reading()
            reset(peer)
            await turns(5)
            assert protocol.names == ["connection_made"]
            transport.resume_reading()
            await until(lambda: "connection_lost" in protocol.names)
            assert isinstance(protocol.events[-1][1], ConnectionResetError)

    run(new_loop, main)


def test_transport_protocol_switched_in_data_received(new_loop):
    """The next data is the new one's; the old one is not told of the end."""

    async def main():
        second = BufferedDiary()
        first = Diary(data_received=lambda self, data: self.transport.set_protocol(second))
        async with connected(first) as (transport, peer):
            await send(peer, b"one")
            await until(lambda: first.received)
            assert transport.get_protocol() is second
            await send(peer, b"two")
            await until(lambda: second.received)
            transport.close()
            await turns(3)
        assert first.names == ["connection_made", "data_received"]
        assert second.names == ["get_buffer", "buffer_updated", "connection_lost"]

    run(new_loop, main)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ({"get_buffer": lambda self: b""}, "Fatal error: protocol.get_buffer() call failed."),
        ({"get_buffer": lambda self: 1 / 0}, "Fatal error: protocol.get_buffer() call failed."),
        ({"get_buffer": lambda self: 7}, "Fatal error: protocol.get_buffer() call failed."),
        ({"get_buffer": lambda self: b"constant"}, "Fatal read error on socket transport"),
        ({"buffer_updated": lambda self, n: 1 / 0}, "Fatal error: protocol.buffer_updated() call failed."),
        ({"eof_received": lambda self: 1 / 0}, "Fatal error: protocol.eof_received() call failed."),
    ],
)
def test_transport_mistakes_of_a_buffered_protocol_are_fatal(new_loop, actions, message):
    """Reported once, with asyncio's words, and the connection is lost with the exception."""
    handled = []

    async def main():
        protocol = BufferedDiary(**actions)
        async with connected(protocol) as (transport, peer):
            if "eof_received" in actions:
                peer.shutdown(socket.SHUT_WR)
            else:
                await send(peer, b"data")
            await until(lambda: "connection_lost" in protocol.names)
            (context,) = handled
            assert context["message"] == message
            assert context["exception"] is protocol.events[-1][1]
            assert context["transport"] is transport
            assert context["protocol"] is protocol
            assert set(context) == {"message", "exception", "transport", "protocol"}

    run(new_loop, main, handled)


# --- output ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
def test_transport_slow_reader_gets_everything_in_order(new_loop, pair):
    """Short sends, the queue, and the water marks: paused once, resumed once."""
    dice = random.Random(2)

    async def main():
        protocol = Diary()
        async with connected(protocol, pair) as (transport, peer):
            sent = bytearray()
            while len(sent) < 6_000_000:
                pieces = [dice.randbytes(dice.choice((0, 1, 100, 20_000, 200_000))) for _ in range(5)]
                for piece in pieces:
                    sent += piece
                for piece in pieces:
                    transport.write(piece)
            assert transport.get_write_buffer_size() > 65536
            transport.write_eof()
            assert await receive(peer, len(sent) + 1) == sent
            assert transport.get_write_buffer_size() == 0
        assert protocol.names[:3] == ["connection_made", "pause_writing", "resume_writing"]

    run(new_loop, main)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_transport_written_memory_may_change_afterwards(new_loop, kind):
    """What is queued is the transport's own."""

    async def main():
        async with connected(Diary()) as (transport, peer):
            filled = fill(transport)
            memory = bytearray(b"abcd" * 50_000)
            transport.write(kind(memory))
            memory[:] = b"x" * len(memory)
            assert (await receive(peer, filled + 200_000))[filled:] == b"abcd" * 50_000

    run(new_loop, main)


def test_transport_water_marks_are_exact(new_loop):
    """limit - 1, limit, limit + 1."""

    async def main():
        protocol = Diary()
        async with connected(protocol) as (transport, peer):
            transport.set_write_buffer_limits(high=1 << 30)
            filled = fill(transport)
            size = transport.get_write_buffer_size()
            transport.set_write_buffer_limits(high=size + 100, low=1000)
            assert transport.get_write_buffer_limits() == (1000, size + 100)
            transport.write(b"x" * 99)
            transport.write(b"x")
            assert "pause_writing" not in protocol.names
            transport.write(b"x")
            assert protocol.names.count("pause_writing") == 1
            transport.write(b"x")
            assert transport.get_write_buffer_size() == size + 102
            await receive(peer, filled + 102)
            await until(lambda: "resume_writing" in protocol.names)
        assert protocol.names == ["connection_made", "pause_writing", "resume_writing", "connection_lost"]

    run(new_loop, main)


def test_transport_lower_limits_pause_at_once(new_loop):
    """set_write_buffer_limits() looks at what waits already."""

    async def main():
        protocol = Diary()
        async with connected(protocol) as (transport, _):
            transport.set_write_buffer_limits(high=1 << 30)
            fill(transport)
            transport.set_write_buffer_limits(high=0)
            assert protocol.names == ["connection_made", "pause_writing"]

    run(new_loop, main)


def test_transport_impossible_limits_are_refused(new_loop):
    """With asyncio's words."""

    async def main():
        async with connected(Diary()) as (transport, _):
            for high, low in ((1, 2), (-1, None), (None, -1)):
                with pytest.raises(ValueError, match=r"high \(-?\d+\) must be >= low \(-?\d+\) must be >= 0"):
                    transport.set_write_buffer_limits(high, low)
            transport.set_write_buffer_limits(low=100)
            assert transport.get_write_buffer_limits() == (100, 400)
            transport.set_write_buffer_limits()
            assert transport.get_write_buffer_limits() == (16384, 65536)

    run(new_loop, main)


@pytest.mark.parametrize("data", ["text", None, 1, [b"x"]])
def test_transport_write_of_no_bytes_is_a_type_error(new_loop, data):
    """And does the connection no harm."""

    async def main():
        async with connected(Diary()) as (transport, peer):
            name = type(data).__name__
            with pytest.raises(TypeError, match=f"data argument must be a bytes-like object, not '{name}'"):
                transport.write(data)
            transport.write(b"")
            transport.write(b"fine")
            assert await receive(peer, 4) == b"fine"

    run(new_loop, main)


def test_transport_memory_that_is_not_contiguous_is_fatal(new_loop):
    """asyncio learns of it from send(), which is too late for an error at the call."""
    handled = []

    async def main():
        protocol = Diary()
        async with connected(protocol) as (transport, _):
            transport.write(memoryview(b"abcd")[::2])
            await turns(2)
            assert protocol.names == ["connection_made", "connection_lost"]
        assert [context["message"] for context in handled] == ["Fatal write error on socket transport"]
        assert isinstance(handled[0]["exception"], BufferError)

    run(new_loop, main, handled)


def test_transport_write_after_write_eof_is_refused(new_loop):
    """Even of nothing."""

    async def main():
        async with connected(Diary()) as (transport, peer):
            transport.write(b"all")
            assert transport.can_write_eof()
            transport.write_eof()
            transport.write_eof()
            for data in (b"x", b"", bytearray(b"x")):
                with pytest.raises(RuntimeError, match=r"Cannot call write\(\) after write_eof\(\)"):
                    transport.write(data)
            with pytest.raises(RuntimeError, match=r"Cannot call write(lines)?\(\) after write_eof\(\)"):
                transport.writelines([b"x"])
            assert await receive(peer, 10) == b"all"

    run(new_loop, main)


def test_transport_writes_to_a_lost_connection_warn_from_the_fifth_on(new_loop, caplog):
    """asyncio's words, which people search for."""

    async def main():
        async with connected(Diary()) as (transport, _):
            transport.abort()
            for _ in range(7):
                transport.write(b"x")
                transport.write(b"")
            assert transport.get_write_buffer_size() == 0

    with caplog.at_level(logging.WARNING, "asyncio"):
        run(new_loop, main)
    assert [record.message for record in caplog.records] == ["socket.send() raised exception."] * 3


def test_transport_failing_write_loses_the_connection_once(new_loop):
    """The first send to a reset connection says so; the others are dropped."""

    async def main():
        protocol = Diary()
        async with connected(protocol) as (transport, peer):
            transport.pause_reading()
            reset(peer)
            await turns(2)
            transport.write(b"x")
            transport.write(b"x")
            assert transport.is_closing()
            await turns(2)
        assert protocol.names == ["connection_made", "connection_lost"]
        assert isinstance(protocol.events[-1][1], (ConnectionResetError, BrokenPipeError))

    run(new_loop, main)


def test_transport_close_sends_what_waits_first(new_loop):
    """And reads no more meanwhile."""

    async def main():
        protocol = Diary()
        async with connected(protocol) as (transport, peer):
            filled = fill(transport)
            transport.close()
            transport.close()
            transport.write(b"more")
            assert transport.is_closing()
            assert not transport.is_reading()
            assert len(await receive(peer, 1 << 30)) == filled + 4
            await until(lambda: "connection_lost" in protocol.names)
        assert protocol.names.count("connection_lost") == 1
        assert protocol.events[-1] == ("connection_lost", None)

    run(new_loop, main)


def test_transport_abort_drops_what_waits(new_loop):
    """connection_lost(None) comes in the next turn, not from inside."""

    async def main():
        protocol = Diary()
        async with connected(protocol) as (transport, _):
            fill(transport)
            transport.abort()
            transport.abort()
            assert transport.get_write_buffer_size() == 0
            assert "connection_lost" not in protocol.names
            await turns(1)
            assert protocol.events[-1] == ("connection_lost", None)
            assert protocol.names.count("connection_lost") == 1

    run(new_loop, main)


# --- callbacks that close, raise, exit -------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.parametrize("name", ["connection_made", "data_received", "eof_received", "pause_writing"])
def test_transport_ended_inside_a_callback_is_lost_once(new_loop, name, end):
    """Each callback may be the last but one."""

    def finish(self, *_):
        if name == "data_received":
            self.transport.write(b"answer")
        getattr(self.transport, end)()
        return True

    async def main():
        protocol = Diary(**{name: finish})
        async with connected(protocol) as (transport, peer):
            if name == "data_received":
                await send(peer, b"x")
                assert await receive(peer, 6) == b"answer"
            elif name == "eof_received":
                peer.shutdown(socket.SHUT_WR)
            elif name == "pause_writing":
                fill(transport)
                transport.write(b"x" * 100_000)
                peer.setblocking(False)
                receiving = asyncio.ensure_future(receive(peer, 1 << 30))
            await until(lambda: "connection_lost" in protocol.names)
            if name == "pause_writing":
                await receiving
            await turns(3)
        assert protocol.names[-1] == "connection_lost"
        assert protocol.names.count("connection_lost") == 1
        assert protocol.events[-1][1] is None

    run(new_loop, main)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data_received", "Fatal error: protocol.data_received() call failed."),
        ("eof_received", "Fatal error: protocol.eof_received() call failed."),
        ("pause_writing", "protocol.pause_writing() failed"),
        ("resume_writing", "protocol.resume_writing() failed"),
    ],
)
def test_transport_exception_in_a_callback_is_reported_as_asyncio_does(new_loop, name, message):
    """The context has asyncio's keys; what was written before is sent; only input errors are fatal."""
    handled = []

    def fail(self, *_):
        if name == "data_received":
            self.transport.write(b"before")
        raise ValueError(name)

    async def main():
        protocol = Diary(**{name: fail})
        async with connected(protocol) as (transport, peer):
            if name == "data_received":
                await send(peer, b"x")
                assert await receive(peer, 6) == b"before"
            elif name == "eof_received":
                peer.shutdown(socket.SHUT_WR)
            else:
                filled = fill(transport)
                transport.write(b"x" * 100_000)
                await receive(peer, filled + 100_000)
            await until(lambda: handled)
            (context,) = handled
            assert context["message"] == message
            assert str(context["exception"]) == name
            assert context["transport"] is transport
            assert context["protocol"] is protocol
            assert set(context) == {"message", "exception", "transport", "protocol"}
            if name in ("data_received", "eof_received"):
                await until(lambda: "connection_lost" in protocol.names)
                assert protocol.events[-1][1] is context["exception"]
            else:
                assert not transport.is_closing()

    run(new_loop, main, handled)


@pytest.mark.parametrize("name", ["connection_made", "connection_lost"])
def test_transport_exception_at_either_end_goes_to_the_loop(new_loop, name):
    """And the socket is closed all the same."""
    handled = []

    def fail(self, *_):
        raise ValueError(name)

    async def main():
        protocol = Diary(**{name: fail})
        async with connected(protocol) as (transport, peer):
            await send(peer, b"x")
            await until(lambda: protocol.received)
            transport.close()
            assert await receive(peer, 1) == b""
        (context,) = handled
        assert context["message"].startswith("Exception in callback ")
        assert str(context["exception"]) == name

    run(new_loop, main, handled)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_transport_exit_in_a_callback_leaves_the_loop(new_loop, kind):
    """It ends the run; the next one goes on with the same connection."""
    loop = new_loop()
    ours, peer = socket.socketpair()
    ours.setblocking(False)

    def leave(self, data):
        self.transport.write(b"answer")
        if data == b"exit":
            raise kind

    protocol = Diary(data_received=leave)
    try:
        transport, _ = loop.run_until_complete(loop.create_connection(lambda: protocol, sock=ours))
        peer.send(b"exit")
        with pytest.raises(kind):
            loop.run_until_complete(asyncio.sleep(10))
        assert peer.recv(100) == b"answer"
        peer.send(b"again")
        loop.run_until_complete(until(lambda: protocol.received == b"exitagain"))
        assert peer.recv(100) == b"answer"
        transport.close()
        loop.run_until_complete(turns(2))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(turns(2))
    finally:
        peer.close()
        loop.close()


def test_transport_callbacks_run_in_the_context_that_made_it(new_loop):
    """Each in a copy of its own, but what data_received() sets stays for the next one, until a pause."""
    variable = contextvars.ContextVar("variable", default="none")
    seen = []

    def look(self, *args):
        seen.append(variable.get())
        variable.set("set inside")

    async def main():
        variable.set("made")
        protocol = Diary(connection_made=look, data_received=look, eof_received=look, connection_lost=look)
        async with connected(protocol) as (transport, peer):
            variable.set("later")
            for data in (b"1", b"2"):
                await send(peer, data)
                await until(lambda data=data: protocol.received.endswith(data))
            transport.pause_reading()
            variable.set("resumed")
            transport.resume_reading()
            await send(peer, b"3")
            await until(lambda: protocol.received.endswith(b"3"))
            peer.shutdown(socket.SHUT_WR)
            await until(lambda: "connection_lost" in protocol.names)

    run(new_loop, main)
    #                made   1       2             3          eof           lost
    assert seen == ["made", "made", "set inside", "resumed", "set inside", "set inside"]


# --- what it says of itself ------------------------------------------------------------------------------------------


def test_transport_is_what_asyncio_says_it_is(new_loop):
    """asyncio's own code and aiohttp ask with isinstance()."""

    async def main():
        async with connected(Diary()) as (transport, _):
            assert isinstance(transport, asyncio.Transport)
            assert isinstance(transport, asyncio.transports._FlowControlMixin)
            assert "fd=" in repr(transport)
            assert "read=polling" in repr(transport)
            assert "write=<idle, bufsize=0>" in repr(transport)
            fill(transport)
            assert "write=<polling, bufsize=" in repr(transport)
            transport.close()
            assert "closing" in repr(transport)
            transport.abort()
            await turns(2)
            assert "closed" in repr(transport)

    run(new_loop, main)


@pytest.mark.parametrize("family", ["v4", pytest.param("v6", marks=needs_ipv6), "unix", "unnamed"])
def test_transport_extra_info_is_right_before_and_after_the_end(new_loop, family, tmp_path):
    """Both ends, as the socket module says it; asked for early or for the first time when all is over."""

    async def main():
        loop = asyncio.get_running_loop()
        server_side = Diary()
        path = str(tmp_path / "socket")
        if family.startswith("un"):
            server = await loop.create_unix_server(lambda: server_side, path)
            sock = socket.socket(socket.AF_UNIX)
            if family == "unix":
                sock.bind(str(tmp_path / "client"))
            sock.setblocking(False)
            await loop.sock_connect(sock, path)
        else:
            server = await loop.create_server(lambda: server_side, "127.0.0.1" if family == "v4" else "::1", 0)
            sock = socket.socket(socket.AF_INET if family == "v4" else socket.AF_INET6)
            sock.setblocking(False)
            await loop.sock_connect(sock, server.sockets[0].getsockname())
        own, other = sock.getsockname(), sock.getpeername()
        transport, _ = await loop.create_connection(Diary, sock=sock)
        await until(lambda: server_side.transport)
        ends = [(transport, own, other), (server_side.transport, other, own)]
        assert transport.get_extra_info("socket").getsockname() == own
        assert transport.get_extra_info("peername") == other
        transport.close()
        await until(lambda: "connection_lost" in server_side.names)
        await turns(2)
        for one, sockname, peername in ends:
            assert one.get_extra_info("sockname") == sockname
            assert one.get_extra_info("peername") == peername
            assert one.get_extra_info("socket").fileno() == -1
            assert one.get_extra_info("nothing") is None
            assert one.get_extra_info("nothing", 7) == 7
        server.close()
        await server.wait_closed()

    run(new_loop, main)


def test_transport_socket_of_an_accepted_connection_is_usable(new_loop):
    """It is made when somebody asks, and is the one whose options count."""

    async def main():
        loop = asyncio.get_running_loop()
        protocol = Diary()
        server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as peer:
            await until(lambda: protocol.transport)
            sock = protocol.transport.get_extra_info("socket")
            assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
            assert sock.getpeername() == peer.getsockname()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.gettimeout() == 0
            assert protocol.transport.get_extra_info("socket") is sock
            protocol.transport.close()
            await turns(2)
            assert sock.fileno() == -1
        server.close()
        await server.wait_closed()

    run(new_loop, main)


@pytest.mark.parametrize("made", [None, lambda self: self.transport.pause_reading()])
def test_transport_fd_cannot_be_watched_by_others(new_loop, made):
    """asyncio's RuntimeError; once it is closing the fd is nobody's business."""

    async def main():
        loop = asyncio.get_running_loop()
        async with connected(Diary(connection_made=made)) as (transport, _):
            await turns(2)
            fd = transport.get_extra_info("socket").fileno()
            for watch in (loop.add_reader, loop.add_writer):
                with pytest.raises(RuntimeError, match=f"File descriptor {fd} is used by transport"):
                    watch(fd, print)
            for unwatch in (loop.remove_reader, loop.remove_writer):
                with pytest.raises(RuntimeError, match=f"File descriptor {fd} is used by transport"):
                    unwatch(fd)
            transport.abort()
            loop.add_writer(fd, lambda: None)
            loop.remove_writer(fd)

    run(new_loop, main)


def test_transport_that_nobody_closed_warns(new_loop):
    """A ResourceWarning, and the socket is closed."""
    loop = new_loop()
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    loop.run_until_complete(loop.create_connection(Diary, sock=ours))
    loop.close()
    del ours
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = None
        gc.collect()
    # The standard library's may have its socket collected first, which warns, too.
    assert "unclosed transport <" in " ".join(str(warning.message) for warning in caught)
    assert {warning.category for warning in caught} == {ResourceWarning}
    assert peer.recv(1) == b""
    peer.close()
