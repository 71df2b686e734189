"""What our stream transport promises beyond asyncio's: system calls, memory, forks, and where it is not used."""
# ruff: noqa: F401 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio
import errno
import gc
import os
import random
import selectors
import socket
import sys
import weakref

import pytest
from aiopeers import STANDARD, BufferedDiary, Diary, connected, fill, receive, run, send, tcp_pair, turns, until
from forks import forked
from kernel import Table
from twins import needs_compiled

import evloop.aio


@pytest.fixture(autouse=True)
def compiled(request):
    """There is nothing of ours to be tested on the pure core."""
    needs_compiled(request.config)


def loop_with(table):
    """Return a factory of loops of ours, whose system calls go through *table*."""

    class Loop(evloop.aio.EventLoop):
        def _make_self_pipe(self):  # before asyncio registers its first fd
            self._use_syscalls(table.capsule)
            super()._make_self_pipe()

    return Loop


def counted(table, *names):
    return [table.counts[name] for name in names]


# --- system calls ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 20])
def test_transport_answers_to_one_read_leave_with_one_send(count):
    """However many they are; and nothing else is asked of the kernel."""
    table = Table()

    def answer(self, data):
        for number in range(count):
            self.transport.write(b"%3d" % number)
            assert self.transport.get_write_buffer_size() == 3 * (number + 1)
        self.counts = counted(table, "recv", "send", "sendmsg")

    async def main():
        protocol = Diary(data_received=answer)
        async with connected(protocol) as (_, peer):
            before = counted(table, "recv", "send", "sendmsg", "epoll_ctl")
            peer.send(b"x")
            await until(lambda: protocol.received)
            assert counted(table, "recv", "send", "sendmsg", "epoll_ctl") == [
                before[0] + 1, before[1] + 1, before[2], before[3]
            ]  # fmt: skip
            assert peer.recv(1000) == b"".join(b"%3d" % number for number in range(count))

    run(loop_with(table), main)


def test_transport_large_answer_takes_the_small_ones_before_it_along():
    """In order, with one sendmsg, and without a copy."""
    table = Table()
    large = bytes(100_000)

    def answer(self, data):
        self.transport.write(b"header")
        self.transport.write(large)
        assert self.transport.get_write_buffer_size() == 0
        self.transport.write(b"trailer")

    async def main():
        protocol = Diary(data_received=answer)
        async with connected(protocol) as (_, peer):
            before = counted(table, "send", "sendmsg")
            await send(peer, b"x")
            assert await receive(peer, 100_013) == b"header" + large + b"trailer"
            assert counted(table, "send", "sendmsg") == [before[0] + 1, before[1] + 1]

    run(loop_with(table), main)


def test_transport_writelines_is_one_call():
    """A vector, where asyncio before 3.12 joins."""
    table = Table()

    async def main():
        async with connected(Diary()) as (transport, peer):
            before = counted(table, "send", "sendmsg")
            transport.writelines([b"a" * 10_000, bytearray(b"b" * 10_000), memoryview(b"c" * 10_000)])
            assert await receive(peer, 30_000) == b"a" * 10_000 + b"b" * 10_000 + b"c" * 10_000
            assert counted(table, "send", "sendmsg") == [before[0], before[1] + 1]
            for wrong in ([b"a", "text"], [1]):
                with pytest.raises(TypeError):
                    transport.writelines(wrong)

    run(loop_with(table), main)


@pytest.mark.parametrize("pair", [tcp_pair, socket.socketpair])
def test_transport_writelines_to_a_slow_reader_come_in_order(pair):
    """Empty ones among them; paused once, resumed once: asyncio of 3.12 forgets both (python/cpython#127655)."""
    dice = random.Random(2)

    async def main():
        protocol = Diary()
        async with connected(protocol, pair) as (transport, peer):
            sent = bytearray()
            while len(sent) < 6_000_000:
                pieces = [dice.randbytes(dice.choice((0, 1, 100, 20_000, 200_000))) for _ in range(5)]
                for piece in pieces:
                    sent += piece
                transport.writelines(pieces)
            assert transport.get_write_buffer_size() > 65536
            transport.write_eof()
            assert await receive(peer, len(sent) + 1) == sent
            assert transport.get_write_buffer_size() == 0
        assert protocol.names[:3] == ["connection_made", "pause_writing", "resume_writing"]

    run(evloop.aio.new_event_loop, main)


@pytest.mark.parametrize("kind", [memoryview, lambda data: memoryview(data).cast("I")])
def test_transport_written_views_may_change_afterwards(kind):
    """As written bytearrays may; asyncio keeps a reference since 3.12, and counts items where it means bytes."""

    async def main():
        async with connected(Diary()) as (transport, peer):
            filled = fill(transport)
            memory = bytearray(b"abcd" * 50_000)
            transport.write(kind(memory))
            assert transport.get_write_buffer_size() >= 200_000
            memory[:] = b"x" * len(memory)
            assert (await receive(peer, filled + 200_000))[filled:] == b"abcd" * 50_000

    run(evloop.aio.new_event_loop, main)


def test_transport_writes_of_others_wait_for_nothing():
    """Only the connection that is being called gathers; to gather is not to hold back."""
    table = Table()

    async def main():
        others = Diary()
        async with connected(others) as (other, other_peer):

            def answer(self, data):
                self.transport.write(b"own")
                before = table.counts["send"]
                other.write(b"to the other")
                assert table.counts["send"] == before + 1

            protocol = Diary(data_received=answer)
            async with connected(protocol) as (_, peer):
                await send(peer, b"x")
                assert await receive(peer, 3) == b"own"
                assert await receive(other_peer, 12) == b"to the other"

    run(loop_with(table), main)


@pytest.mark.parametrize("high", [0, 1, 9, 10, 11])
def test_transport_gathers_no_more_than_the_high_water_mark(high):
    """pause_writing() is about what the kernel does not take, so the kernel is asked first."""

    def answer(self, data):
        self.transport.set_write_buffer_limits(high=high)
        self.transport.write(b"0123456789")
        assert self.transport.get_write_buffer_size() == (10 if high >= 10 else 0)
        self.transport.write(b"0123456789")
        assert self.transport.get_write_buffer_size() == 0 if high < 20 else 20

    async def main():
        protocol = Diary(data_received=answer)
        async with connected(protocol) as (_, peer):
            await send(peer, b"x")
            assert await receive(peer, 20) == b"0123456789" * 2
        assert "pause_writing" not in protocol.names

    run(evloop.aio.new_event_loop, main)


@pytest.mark.parametrize("end", ["close", "abort", "write_eof", "raise", "drop"])
def test_transport_gathered_output_leaves_before_whatever_comes(end):
    """asyncio would have sent it when it was written."""
    handled = []

    def answer(self, data):
        self.transport.write(b"answer")
        if end == "raise":
            raise ValueError
        if end != "drop":
            getattr(self.transport, end)()
        return True

    async def main():
        protocol = Diary(data_received=answer, eof_received=lambda self: True)
        async with connected(protocol) as (transport, peer):
            await send(peer, b"x")
            if end == "drop":
                transport.set_protocol(Diary())
                protocol = transport.get_protocol()
                protocol.actions["data_received"] = answer
                protocol.transport = transport
            assert await receive(peer, 6) == b"answer"

    run(evloop.aio.new_event_loop, main, handled)
    assert len(handled) == (end == "raise")


def test_transport_gather_with_no_room_in_the_kernel_is_queued_in_order():
    """A slow reader gets the small ones, the large ones and the next ones one after the other."""
    sent = []

    def answer(self, data):
        for number in range(120):
            for piece in (b"%d" % number * 100, bytes([number]) * 70_000, b"small"):
                sent.append(piece)
                self.transport.write(piece)

    async def main():
        protocol = Diary(data_received=answer)
        async with connected(protocol) as (transport, peer):
            await send(peer, b"x")
            await until(lambda: sent)
            assert transport.get_write_buffer_size() > 0
            await send(peer, b"x")
            await until(lambda: len(protocol.received) == 2)
            expected = b"".join(sent)
            assert await receive(peer, len(expected)) == expected
        assert protocol.names.count("pause_writing") == protocol.names.count("resume_writing") == 1

    run(evloop.aio.new_event_loop, main)


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ETIMEDOUT])
@pytest.mark.parametrize("call", ["recv", "send", "sendmsg"])
def test_transport_error_of_the_kernel_loses_the_connection_with_it(call, number):
    """Whatever the errno: an OSError for connection_lost(), and nothing for the loop's handler."""
    failing = []
    table = Table(**{call: lambda *_: number if failing else None})

    async def main():
        protocol = Diary(data_received=lambda self, data: self.transport.write(b"answer"))
        async with connected(protocol) as (transport, peer):
            failing.append(True)
            if call == "sendmsg":
                transport.writelines([b"x" * 10_000] * 3)
            else:
                await send(peer, b"x")
            await until(lambda: "connection_lost" in protocol.names)
            failing.clear()
        assert protocol.events[-1][1].errno == number

    run(loop_with(table), main)


@pytest.mark.parametrize("call", ["recv", "send"])
@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINTR])
def test_transport_kernel_that_is_not_ready_is_asked_again(call, number):
    """Readiness is a hint."""
    failures = []
    table = Table(**{call: lambda *_: failures.pop() if failures else None})

    async def main():
        protocol = Diary(data_received=lambda self, data: self.transport.write(b"answer"))
        async with connected(protocol) as (_, peer):
            failures.extend([number] * 3)
            await send(peer, b"x")
            assert await receive(peer, 6) == b"answer"
            assert not failures

    run(loop_with(table), main)


@pytest.mark.parametrize("buffered", [False, True])
def test_transport_takes_at_most_a_shared_buffer_a_turn(buffered):
    """A flood on one connection must not keep the others waiting: 256 KiB, then it is the next one's turn."""
    turn_sizes = []

    async def main():
        if buffered:
            protocol = BufferedDiary(1 << 20, buffer_updated=lambda self, size: turn_sizes.append(size))
        else:
            protocol = Diary(data_received=lambda self, data: turn_sizes.append(len(data)))
        async with connected(protocol) as (transport, peer):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            transport.pause_reading()
            sending = asyncio.ensure_future(send(peer, bytes(3_000_000)))
            await turns(50)
            transport.resume_reading()
            await turns(2)
            seen = len(turn_sizes)
            assert seen <= 2
            await sending
            await until(lambda: len(protocol.received) == 3_000_000)
        assert buffered or max(turn_sizes) <= 256 * 1024

    run(evloop.aio.new_event_loop, main)


def test_server_factory_that_fails_costs_its_connection_alone():
    """Silently, as in asyncio, but for the warning of a socket that nobody closed: in debug mode it is reported."""
    failures = [ValueError()]
    made = []

    def factory():
        if failures:
            raise failures.pop()
        made.append(Diary(data_received=lambda self, data: self.transport.write(data)))
        return made[-1]

    async def main():
        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        first, second = (socket.create_connection(server.sockets[0].getsockname()) for _ in range(2))
        first.setblocking(False)
        second.setblocking(False)
        await send(second, b"x")
        assert await receive(first, 1) == b""
        assert await receive(second, 1) == b"x"
        first.close()
        second.close()
        await until(lambda: "connection_lost" in made[0].names)
        server.close()
        await server.wait_closed()

    run(evloop.aio.new_event_loop, main)


def test_transport_aborted_in_resume_writing_is_lost_once():
    """The callback that comes in the middle of writing; asyncio reports an AttributeError of its own here."""

    async def main():
        protocol = Diary(resume_writing=lambda self: self.transport.abort())
        async with connected(protocol) as (transport, peer):
            transport.set_write_buffer_limits(high=1000, low=500)
            fill(transport)
            transport.write(b"x" * 2000)
            await receive(peer, 1 << 30)
            await until(lambda: "connection_lost" in protocol.names)
            await turns(3)
        assert protocol.names == ["connection_made", "pause_writing", "resume_writing", "connection_lost"]

    run(evloop.aio.new_event_loop, main)


# --- where asyncio's own is used -------------------------------------------------------------------------------------


def test_transport_is_asyncios_in_debug_mode_and_over_other_selectors():
    """With all of the standard library's diagnostics."""

    def debugging():
        loop = evloop.aio.new_event_loop()
        loop.set_debug(True)
        return loop

    def selecting():
        return evloop.aio.EventLoop(selectors.SelectSelector())

    async def main():
        async with connected(Diary()) as (transport, _):
            return type(transport).__module__

    assert run(evloop.aio.new_event_loop, main) == "evloop.aio._transport"
    assert run(debugging, main) == run(selecting, main) == "asyncio.selector_events"


def test_transport_of_another_kind_of_socket_calls_its_methods():
    """Whoever derives from socket.socket has a reason."""
    calls = []

    class Socket(socket.socket):
        def recv(self, *args):
            calls.append(args)
            return super().recv(*args)

    def pair():
        one, other = socket.socketpair()
        return Socket(fileno=one.detach()), other

    async def main():
        protocol = Diary()
        async with connected(protocol, pair) as (_, peer):
            await send(peer, b"x")
            await until(lambda: protocol.received)

    run(evloop.aio.new_event_loop, main)
    assert calls


def test_transport_works_on_when_debug_mode_is_switched():
    """Other wheels turn it, then."""

    async def main():
        loop = asyncio.get_running_loop()
        protocol = Diary(data_received=lambda self, data: self.transport.write(data))
        async with connected(protocol) as (transport, peer):
            for debug in (True, False, True):
                loop.set_debug(debug)
                await turns(2)
                await send(peer, b"x" * 100_000)
                assert await receive(peer, 100_000) == b"x" * 100_000
            transport.close()
            await turns(2)

    run(evloop.aio.new_event_loop, main)


def test_server_makes_asyncios_transports_once_in_debug_mode():
    """Switched on while it serves."""
    made = []

    def factory():
        made.append(Diary())
        return made[-1]

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory, "127.0.0.1", 0)
        for debug in (False, True):
            loop.set_debug(debug)
            with socket.create_connection(server.sockets[0].getsockname()) as peer:
                await until(lambda debug=debug: len(made) == 1 + debug and made[-1].transport)
                assert made[-1].transport.get_extra_info("peername") == peer.getsockname()
            await until(lambda: "connection_lost" in made[-1].names)
        server.close()
        await server.wait_closed()

    run(evloop.aio.new_event_loop, main)
    kinds = [type(protocol.transport).__module__ for protocol in made]
    assert kinds == ["evloop.aio._transport", "asyncio.selector_events"]


def test_server_of_a_loop_that_makes_other_transports_uses_them():
    """A subclass may override what every connection goes through in asyncio."""
    made = []

    class Loop(evloop.aio.EventLoop):
        def _make_socket_transport(self, *args, **kwargs):
            made.append(super()._make_socket_transport(*args, **kwargs))
            return made[-1]

    async def main():
        server = await asyncio.get_running_loop().create_server(Diary, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()):
            await until(lambda: made)
        await until(lambda: made[0].is_closing())
        server.close()
        await server.wait_closed()

    run(Loop, main)
    assert len(made) == 1


# --- forks -----------------------------------------------------------------------------------------------------------


def test_transport_copy_in_a_forked_child_is_closed_quietly():
    """The child's copies of the fds are closed, and the parent's connection goes on."""

    async def main():
        loop = asyncio.get_running_loop()
        protocol = Diary(data_received=lambda self, data: self.transport.write(data))
        accepted = Diary(data_received=lambda self, data: self.transport.write(data))
        server = await loop.create_server(lambda: accepted, "127.0.0.1", 0)
        async with connected(protocol) as (transport, peer):
            raw = socket.create_connection(server.sockets[0].getsockname())
            await until(lambda: accepted.transport)
            fds = [one._sock_fd for one in (transport, accepted.transport)]
            with forked() as child:
                if child.fork():
                    child.leave_after(lambda: _child_side(fds, [transport, accepted.transport]))
                assert child.result() == (True, 2, [None, None])
            for sock in (peer, raw):
                sock.send(b"parent")
                await until(lambda: protocol.received)
                assert await receive(peer, 6) == b"parent" if sock is peer else True
            raw.close()
            await until(lambda: "connection_lost" in accepted.names)
        server.close()
        await server.wait_closed()

    run(evloop.aio.new_event_loop, main)


def _child_side(fds, transports):
    closed = 0
    for fd in fds:
        try:
            os.fstat(fd)
        except OSError:
            closed += 1
    for transport in transports:
        transport.write(b"child")
        transport.close()
    return all(transport.is_closing() for transport in transports), closed, [one._sock for one in transports]


# --- memory ----------------------------------------------------------------------------------------------------------


def test_transport_and_protocol_go_when_the_connection_does():
    """Without the garbage collector's help, and with nothing kept by who still has the transport."""
    gc.collect()
    gc.disable()
    try:
        loop = evloop.aio.new_event_loop()
        ours, peer = tcp_pair()
        ours.setblocking(False)
        protocol = Diary(data_received=lambda self, data: self.transport.write(data))
        made = [protocol]
        transport = loop.run_until_complete(loop.create_connection(made.pop, sock=ours))[0]
        peer.sendall(b"x" * 100_000)
        peer.setblocking(False)
        assert len(loop.run_until_complete(receive(peer, 100_000))) == 100_000
        transport.close()
        loop.run_until_complete(turns(2))
        assert transport.get_protocol() is None
        assert transport._sock is None
        assert transport._loop is None
        gone = weakref.ref(transport), weakref.ref(protocol), weakref.ref(ours)
        protocol.transport = None
        del transport, protocol, ours
        assert [reference() for reference in gone] == [None] * 3
        loop.close()
        peer.close()
    finally:
        gc.enable()
        gc.collect()
