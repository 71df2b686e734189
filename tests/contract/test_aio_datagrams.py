"""Datagrams on the event loop: what asyncio's own transport does, ours does, too."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import logging
import os
import random
import socket
import sys
import warnings

import pytest

import evloop.aio
from evloop.reactor import IMPLEMENTATION

PATIENCE = 20.0  # seconds; only a failing test waits as long
LOOPS = {"stock": (asyncio.SelectorEventLoop, False), "ours": (evloop.aio.EventLoop, False),
         "debug": (evloop.aio.EventLoop, True)}  # fmt: skip
FAMILIES = {"ipv4": "127.0.0.1", "ipv6": "::1"}


def new_loop(name):
    factory, debug = LOOPS[name]
    loop = factory()
    loop.set_debug(debug)
    return loop


@pytest.fixture(params=LOOPS)
def loop(request):
    """asyncio's own loop, ours, and ours in debug mode; what holds for the first has to hold for all."""
    loop = new_loop(request.param)
    yield loop
    loop.close()


@pytest.fixture(autouse=True)
def no_fd_is_left():
    """Every test ends with the fds that it began with."""
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


def run(loop, main):
    """Run a coroutine to its end, or to the end of patience."""
    return loop.run_until_complete(asyncio.wait_for(main, PATIENCE))


class Recorder(asyncio.DatagramProtocol):
    """Notes what it is told; ``next()`` waits for a datagram or an error."""

    def __init__(self):
        self.trace, self.queue, self.lost = [], asyncio.Queue(), asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.trace.append("made")

    def datagram_received(self, data, addr):
        self.trace.append(("got", data))
        self.queue.put_nowait((data, addr))

    def error_received(self, exc):
        self.trace.append(("error", type(exc), exc.args))
        self.queue.put_nowait(exc)

    def pause_writing(self):
        self.trace.append("pause")

    def resume_writing(self):
        self.trace.append("resume")

    def connection_lost(self, exc):
        self.trace.append(("lost", exc))
        self.lost.set_result(exc)


async def endpoint(protocol=Recorder, **arguments):
    return await asyncio.get_running_loop().create_datagram_endpoint(protocol, **arguments)


async def ended(*transports):
    """Close transports and wait until their protocols know."""
    for transport in transports:
        protocol = transport.get_protocol()
        transport.close()
        await protocol.lost


def is_ours(transport):
    """Return whether a transport is the compiled one."""
    return type(transport).__module__ == "evloop.aio._datagram"


async def unix_pair():
    """An endpoint with little room, connected to a plain UNIX socket."""
    mine, other = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    other.bind("")  # a free name in the abstract namespace
    mine.connect(other.getsockname())
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    other.setblocking(False)
    transport, protocol = await endpoint(sock=mine)
    return transport, protocol, other


# --- what arrives and what leaves ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("size", [1, 1472, 65507 - 8])
def test_datagram_exchange_carries_bytes_and_addresses(loop, host, size):
    """Whole datagrams, and addresses as the socket module makes them."""

    async def main():
        server, served = await endpoint(local_addr=(host, 0))
        client, asked = await endpoint(remote_addr=server.get_extra_info("sockname")[:2])
        sent = os.urandom(size)
        client.sendto(sent)
        data, address = await served.queue.get()
        assert (data, address) == (sent, client.get_extra_info("sockname"))
        assert type(data) is bytes
        server.sendto(data[::-1], address)
        reply = await asked.queue.get()
        assert reply == (sent[::-1], server.get_extra_info("sockname"))
        await ended(client, server)

    run(loop, main())


@pytest.mark.parametrize("host", FAMILIES.values(), ids=FAMILIES)
def test_datagram_sendto_many_addresses_reaches_each(loop, host):
    """The address of the last datagram is known by heart; the others are not to be taken for it."""

    async def main():
        server, served = await endpoint(local_addr=(host, 0))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        peers = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(5)]
        try:
            for number, peer in enumerate(peers):
                peer.bind((host, 0))
                peer.sendto(b"%d" % number, server.get_extra_info("sockname"))
            addresses = [(await served.queue.get())[1] for _ in peers]
            for number, address in reversed(list(enumerate(addresses))):
                server.sendto(b"to %d" % number, address)
                server.sendto(b"also %d" % number, (*address,))  # equal, and not the same
                server.sendto(b"and %d" % number, peers[number].getsockname()[:2])
            for number, peer in enumerate(peers):
                peer.setblocking(False)
                assert [peer.recv(99) for _ in range(3)] == [b"to %d" % number, b"also %d" % number, b"and %d" % number]
        finally:
            for peer in peers:
                peer.close()
            await ended(server)

    run(loop, main())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.10", "127.1.100.99", "127.255.255.254", "127.200.109.9"])
def test_datagram_sender_of_any_address_is_written_as_the_socket_module_does(loop, host):
    """IPv4 addresses are put into words here; all of 127/8 is this machine."""

    async def main():
        server, served = await endpoint(local_addr=("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind((host, 0))
            peer.settimeout(PATIENCE)
            peer.sendto(b"x", server.get_extra_info("sockname"))
            _, address = await served.queue.get()
            assert address == peer.getsockname()
            server.sendto(b"z", (host, address[1]))
            assert peer.recv(9) == b"z"
        await ended(server)

    run(loop, main())


@pytest.mark.parametrize("name", [None, "path", "abstract"])
def test_datagram_unix_sender_is_named_as_the_socket_module_does(loop, tmp_path, name):
    """Nameless, a path, or a name in Linux's abstract namespace."""
    path = {"path": str(tmp_path / "client\u00e9"), "abstract": b"\0evloop\0%d" % os.getpid(), None: None}[name]

    async def main():
        mine = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        mine.bind(str(tmp_path / "server"))
        server, served = await endpoint(sock=mine)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            if path is not None:
                client.bind(path)
            client.setblocking(False)
            client.sendto(b"hello", str(tmp_path / "server"))
            assert await served.queue.get() == (b"hello", path)
            if path is not None:
                server.sendto(b"you", path)
                server.sendto(b"too", client.getsockname())
                assert [client.recv(9), client.recv(9)] == [b"you", b"too"]
        await ended(server)

    run(loop, main())


def test_datagram_empty_is_delivered(loop):
    """UDP carries datagrams of no bytes; one means something to many a protocol."""

    async def main():
        server, served = await endpoint(local_addr=("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(b"", server.get_extra_info("sockname"))
            peer.sendto(b"x", server.get_extra_info("sockname"))
            assert [(await served.queue.get())[0] for _ in range(2)] == [b"", b"x"]
        await ended(server)

    run(loop, main())


def test_datagram_empty_is_sent_from_python_3_13_on(loop):
    """Before, asyncio takes it for nothing to send."""

    async def main():
        transport, _, other = await unix_pair()
        with other:
            transport.sendto(b"")
            transport.sendto(b"x")
            assert other.recv(9) == (b"" if sys.version_info >= (3, 13) else b"x")
        await ended(transport)

    run(loop, main())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_datagram_data_may_change_after_sendto(loop, kind):
    """What has to wait is a copy."""

    async def main():
        transport, _, other = await unix_pair()
        with other:
            memory = bytearray(b"a" * 1000)
            count = 0
            while transport.get_write_buffer_size() < 2000:
                transport.sendto(memory if kind is bytearray else kind(memory))
                count += 1
            memory[:] = b"b" * 1000
            got = await drained(other, count)
        await ended(transport)
        return got

    assert set(run(loop, main())) == {b"a" * 1000}


async def drained(other, count):
    """Return the next *count* datagrams of a non-blocking socket."""
    loop = asyncio.get_running_loop()
    return [await loop.sock_recv(other, 99_999) for _ in range(count)]


# --- errors ----------------------------------------------------------------------------------------------------------


def test_datagram_refused_is_an_error_and_not_the_end(loop):
    """ICMP says that nobody listens: error_received(), and the transport goes on."""

    async def main():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            address = gone.getsockname()
        client, asked = await endpoint(remote_addr=address)
        client.sendto(b"anybody?")
        assert type(await asked.queue.get()) is ConnectionRefusedError
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(address)
            client.sendto(b"now?")
            assert peer.recv(9) == b"now?"
        await ended(client)
        return asked.trace

    assert run(loop, main()) == [
        "made", ("error", ConnectionRefusedError, (errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))), ("lost", None)
    ]  # fmt: skip


def test_datagram_too_long_is_an_error_of_that_one(loop):
    """EMSGSIZE: told at once, and the next one is sent."""

    async def main():
        server, served = await endpoint(local_addr=("127.0.0.1", 0))
        client, asked = await endpoint(remote_addr=server.get_extra_info("sockname"))
        client.sendto(b"x" * 70_000)
        client.sendto(b"y")
        got = (await served.queue.get())[0]
        await ended(client, server)
        return got, asked.trace

    got, trace = run(loop, main())
    assert got == b"y"
    assert trace[1] == ("error", OSError, (errno.EMSGSIZE, os.strerror(errno.EMSGSIZE)))


@pytest.mark.parametrize("data", [None, "text", 5, [1]])
def test_datagram_sendto_of_no_bytes_is_a_type_error(loop, data):
    """Before anything is sent, with asyncio's text."""

    async def main():
        transport, _ = await endpoint(local_addr=("127.0.0.1", 0))
        with pytest.raises(TypeError, match="data argument must be a bytes-like object, not"):
            transport.sendto(data)
        await ended(transport)

    run(loop, main())


def test_datagram_sendto_elsewhere_when_connected_is_a_value_error(loop):
    """The very address, or none."""

    async def main():
        server, served = await endpoint(local_addr=("127.0.0.1", 0))
        address = server.get_extra_info("sockname")
        client, _ = await endpoint(remote_addr=address)
        client.sendto(b"1", address)
        client.sendto(b"2", None)
        with pytest.raises(ValueError, match="Invalid address: must be None or"):
            client.sendto(b"3", ("127.0.0.1", 9))
        got = [(await served.queue.get())[0] for _ in range(2)]
        await ended(client, server)
        return got

    assert run(loop, main()) == [b"1", b"2"]


@pytest.mark.parametrize(
    "address", [None, (), ("127.0.0.1",), ("127.0.0.1", "x"), ("127.0.0.1", -1), ("127.0.0.1", 70_000), (5, 5), "text",
                ("127.0.0.1", 5, 6), ("a\0b", 5)]
)  # fmt: skip
def test_datagram_sendto_no_address_ends_the_transport_as_in_asyncio(address):
    """A programming error is a fatal one: connection_lost() gets what the socket module raised."""

    async def main():
        errors = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append((context["message"], type(context["exception"]))))
        transport, protocol = await endpoint(local_addr=("127.0.0.1", 0))
        transport.sendto(b"x", address)
        closing = transport.is_closing()
        transport.close()
        exc = await protocol.lost
        return errors, closing, type(exc), str(exc)

    results = []
    for name in LOOPS:
        loop = new_loop(name)
        try:
            results.append(run(loop, main()))
        finally:
            loop.close()
    assert results[1:] == results[:-1]


def test_datagram_sendto_numeric_oddities_go_where_asyncio_sends_them(loop):
    """A name to be resolved, and IPv4 addresses that only the socket module understands."""

    async def main():
        server, served = await endpoint(local_addr=("127.0.0.1", 0))
        port = server.get_extra_info("sockname")[1]
        for host in ("localhost", "127.0.0.1"):
            server.sendto(host.encode(), (host, port))
            assert (await served.queue.get())[0] == host.encode()
        await ended(server)

    run(loop, main())


def test_datagram_exception_in_a_callback_is_reported_and_reading_goes_on(loop):
    """One bad datagram must not stop a server."""
    errors = []

    class Strict(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if data == b"bad":
                raise ZeroDivisionError

    async def main():
        loop.set_exception_handler(lambda _, context: errors.append(type(context["exception"])))
        server, served = await endpoint(Strict, local_addr=("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            for data in (b"bad", b"good"):
                peer.sendto(data, server.get_extra_info("sockname"))
            got = [(await served.queue.get())[0] for _ in range(2)]
        await ended(server)
        return got

    assert run(loop, main()) == [b"bad", b"good"]
    assert errors == [ZeroDivisionError]


@pytest.mark.parametrize("where", ["datagram_received", "call_soon"])
def test_datagram_interrupt_comes_out_of_the_run(loop, where):
    """KeyboardInterrupt and SystemExit are nobody's to catch."""

    class Interrupted(Recorder):
        def datagram_received(self, data, addr):
            if where == "datagram_received":
                raise KeyboardInterrupt
            asyncio.get_running_loop().call_soon(self.interrupt)

        def interrupt(self):
            raise KeyboardInterrupt

    server, _served = run(loop, endpoint(Interrupted, local_addr=("127.0.0.1", 0)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.sendto(b"x", server.get_extra_info("sockname"))
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
    run(loop, ended(server))


# --- back-pressure ---------------------------------------------------------------------------------------------------


def test_datagram_full_queue_pauses_and_resumes_the_protocol(loop):
    """Above the high-water mark, and again at the low one; nothing is lost, nothing is doubled."""

    async def main():
        transport, protocol, other = await unix_pair()
        transport.set_write_buffer_limits(high=5000, low=1000)
        with other:
            sent = []
            while "pause" not in protocol.trace:
                sent.append(os.urandom(700))
                transport.sendto(sent[-1])
            assert 5000 < transport.get_write_buffer_size() <= 5000 + 708
            got = await drained(other, len(sent))
            while "resume" not in protocol.trace:
                await asyncio.sleep(0)
            # asyncio of 3.13.0 counts 8 bytes a datagram when it is queued, and forgets them when it is sent.
            assert is_ours(transport) is False or transport.get_write_buffer_size() == 0
        await ended(transport)
        return sent == got, protocol.trace

    same, trace = run(loop, main())
    assert same
    assert trace == ["made", "pause", "resume", ("lost", None)]


@pytest.mark.parametrize("limits", [{"high": 5, "low": 6}, {"low": -1}, {"high": -1}])
def test_datagram_water_marks_out_of_order_are_refused(loop, limits):
    """With asyncio's text, and the defaults in place."""

    async def main():
        transport, _ = await endpoint(local_addr=("127.0.0.1", 0))
        with pytest.raises(ValueError, match="must be >= low"):
            transport.set_write_buffer_limits(**limits)
        if sys.version_info >= (3, 11):
            assert transport.get_write_buffer_limits() == (16384, 65536)
        transport.set_write_buffer_limits(low=10)
        if sys.version_info >= (3, 11):
            assert transport.get_write_buffer_limits() == (10, 40)
        await ended(transport)

    run(loop, main())


def test_datagram_close_sends_what_waits_and_abort_does_not(loop):
    """close() is polite, abort() is not; both tell connection_lost(None), once."""

    async def main():
        results = []
        for end in ("close", "abort"):
            transport, protocol, other = await unix_pair()
            with other:
                count = 0
                while transport.get_write_buffer_size() < 3000:
                    transport.sendto(b"%3d" % count + b"x" * 700)
                    count += 1
                waiting = transport.get_write_buffer_size() // 700
                getattr(transport, end)()
                transport.close()
                assert transport.is_closing()
                got = await drained(other, count if end == "close" else count - waiting)
                await protocol.lost
                with pytest.raises(BlockingIOError):
                    other.recv(9)
                results.append(([int(data[:3]) for data in got] == list(range(len(got))), protocol.trace[-1]))
                assert protocol.trace.count(("lost", None)) == 1
        return results

    assert run(loop, main()) == [(True, ("lost", None))] * 2


@pytest.mark.since(3, 11)  # asyncio pauses its datagram transports from 3.11 on
def test_datagram_pause_reading_leaves_them_in_the_kernel(loop):
    """Both calls are idempotent, and a paused transport wakes nobody."""

    async def main():
        server, served = await endpoint(local_addr=("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            server.pause_reading()
            server.pause_reading()
            for number in range(3):
                peer.sendto(b"%d" % number, server.get_extra_info("sockname"))
            for _ in range(5):
                await asyncio.sleep(0)
            assert (served.queue.qsize(), server.is_reading()) == (0, False)
            server.resume_reading()
            server.resume_reading()
            got = [(await served.queue.get())[0] for _ in range(3)]
        await ended(server)
        server.resume_reading()
        return got

    assert run(loop, main()) == [b"0", b"1", b"2"]


# --- order -----------------------------------------------------------------------------------------------------------


class Busy(asyncio.DatagramProtocol):
    """Does a random thing with each datagram, the same for the same seed; notes all in ``trace``."""

    def __init__(self, loop, seed):
        self.loop, self.random, self.trace = loop, random.Random(seed), []

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.trace.append(("got", data))
        if data == b"last":
            self.loop.call_soon(self.loop.call_soon, self.loop.stop)
        action = self.random.choice(("none", "none", "none", "soon", "timer", "echo", "task", "fail"))
        if action == "soon":
            self.loop.call_soon(self.trace.append, ("soon", data))
        elif action == "timer":
            self.loop.call_later(0, self.trace.append, ("timer", data))
        elif action == "echo":
            self.transport.sendto(data, addr)
        elif action == "task":
            self.loop.create_task(self.task(data))
        elif action == "fail":
            raise ZeroDivisionError

    async def task(self, data):
        self.trace.append(("task", data))
        await asyncio.sleep(0)
        self.trace.append(("task again", data))

    def error_received(self, exc):
        self.trace.append(("error", type(exc)))


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside-an-fd"])
@pytest.mark.parametrize("seed", range(12))
def test_datagram_queue_is_delivered_in_the_order_of_asyncio(seed, others):
    """Many that wait: what their callbacks schedule comes between them where asyncio has it come."""
    traces = []
    for name in LOOPS:
        loop = new_loop(name)
        protocol = Busy(loop, seed)
        loop.set_exception_handler(lambda _, context, trace=protocol.trace: trace.append(type(context["exception"])))
        pair = socket.socketpair()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer, pair[0], pair[1]:
            transport, _ = run(loop, endpoint(lambda protocol=protocol: protocol, local_addr=("127.0.0.1", 0)))
            if others:
                loop.add_reader(pair[0], print)
            for number in range(3):
                for part in range(50):
                    peer.sendto(b"%d %d" % (number, part), transport.get_extra_info("sockname"))
                peer.sendto(b"last", transport.get_extra_info("sockname"))
                patience = loop.call_later(PATIENCE, loop.stop)
                loop.run_forever()
                patience.cancel()
            loop.remove_reader(pair[0])
            transport.close()
            loop.call_soon(loop.stop)
            loop.run_forever()
        loop.close()
        traces.append(protocol.trace)
    assert traces[1:] == traces[:-1]
    assert len(traces[0]) > 153


def test_datagram_both_ends_in_one_loop_have_asyncios_order():
    """Each reply makes another fd ready: no end may read on while the other waits."""

    async def main(trace):
        class Server(Recorder):
            def datagram_received(self, data, addr):
                trace.append(("server", data))
                self.transport.sendto(data, addr)

        class Client(Recorder):
            def datagram_received(self, data, addr):
                trace.append(("client", data))
                if data == b"19":
                    self.queue.put_nowait(data)

        server, _ = await endpoint(Server, local_addr=("127.0.0.1", 0))
        client, asked = await endpoint(Client, remote_addr=server.get_extra_info("sockname"))
        for number in range(20):
            client.sendto(b"%d" % number)
        await asked.queue.get()
        await ended(client, server)

    traces = []
    for name in LOOPS:
        loop, trace = new_loop(name), []
        try:
            run(loop, main(trace))
        finally:
            loop.close()
        traces.append(trace)
    assert traces[1:] == traces[:-1]


def test_datagram_close_in_a_callback_delivers_nothing_more(loop):
    """The rest of the queue is the kernel's to drop."""

    class Short(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            self.transport.close()

    async def main():
        server, served = await endpoint(Short, local_addr=("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            for _ in range(5):
                peer.sendto(b"x", server.get_extra_info("sockname"))
            await served.lost
        return served.trace

    assert run(loop, main()) == ["made", ("got", b"x"), ("lost", None)]


def test_datagram_callbacks_run_in_the_context_of_the_maker(loop):
    """One context for all reads of a transport, as that of asyncio's reader handle."""
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    class Contextual(Recorder):
        def datagram_received(self, data, addr):
            seen.append(variable.get())
            variable.set("left by the former")
            super().datagram_received(data, addr)

    async def main():
        variable.set("maker's")
        server, served = await endpoint(Contextual, local_addr=("127.0.0.1", 0))
        variable.set("changed")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            for _ in range(2):
                peer.sendto(b"x", server.get_extra_info("sockname"))
                await served.queue.get()
        await ended(server)

    run(loop, main())
    assert seen == ["maker's", "left by the former"]


# --- what it is ------------------------------------------------------------------------------------------------------


def test_datagram_transport_is_what_asyncio_calls_one(loop):
    """Libraries ask with isinstance(); from 3.12 on asyncio's own is a DatagramTransport, ours always is."""

    async def main():
        transport, protocol = await endpoint(local_addr=("127.0.0.1", 0))
        assert isinstance(transport, asyncio.Transport)
        ours = is_ours(transport)
        assert ours == (IMPLEMENTATION == "cython" and isinstance(loop, evloop.aio.EventLoop) and not loop.get_debug())
        if ours or sys.version_info >= (3, 12):
            assert isinstance(transport, asyncio.DatagramTransport)
        assert transport.get_protocol() is protocol
        assert transport.get_extra_info("peername") is None
        assert transport.get_extra_info("nothing", 5) == 5
        sock = transport.get_extra_info("socket")
        assert sock.getsockname() == transport.get_extra_info("sockname")
        assert f"fd={sock.fileno()}" in repr(transport)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(sock.fileno(), print)
        await ended(transport)
        assert "closed" in repr(transport)
        assert transport.is_closing()

    run(loop, main())


def test_datagram_protocol_may_be_changed(loop):
    """What arrives from then on is the new one's."""

    async def main():
        server, first = await endpoint(local_addr=("127.0.0.1", 0))
        second = Recorder()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(b"1", server.get_extra_info("sockname"))
            await first.queue.get()
            server.set_protocol(second)
            peer.sendto(b"2", server.get_extra_info("sockname"))
            await second.queue.get()
        await ended(server)
        return first.trace, second.trace

    assert run(loop, main()) == (["made", ("got", b"1")], [("got", b"2"), ("lost", None)])


def test_datagram_unclosed_transport_warns(loop):
    """Whoever forgets to close it is told so, and the fd is closed."""

    async def main():
        transport, _ = await endpoint(local_addr=("127.0.0.1", 0))
        await asyncio.sleep(0)
        if is_ours(transport):
            transport.pause_reading()
        else:
            loop._remove_reader(transport._sock_fd)
        return transport  # which the loop holds no more

    transport = run(loop, main())
    transport.get_protocol().transport = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport
        import gc

        gc.collect()
    assert [w.category for w in caught if "unclosed transport" in str(w.message)] == [ResourceWarning]


def test_datagram_sendto_after_the_end_is_dropped_and_then_warned_of(loop, caplog):
    """As asyncio's connected transports do; five in silence."""

    async def main():
        server, _ = await endpoint(local_addr=("127.0.0.1", 0))
        client, asked = await endpoint(remote_addr=server.get_extra_info("sockname"))
        client.abort()
        with caplog.at_level(logging.WARNING):
            for _ in range(5):
                client.sendto(b"x")
            assert len(caplog.messages) == 1
            await asked.lost
            client.sendto(b"x")
        await ended(server)
        return caplog.messages

    assert run(loop, main()) == ["socket.send() raised exception."] * 2
