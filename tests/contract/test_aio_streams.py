"""evloop.aio's streams against asyncio's: the same scripts over real sockets, results, exceptions and order alike."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import sys
from types import SimpleNamespace

import pytest
from streamworlds import OURS, STANDARD, WORLDS, both, joined, outcome, run, served
from tlspeers import foreign_client, foreign_server
from twins import needs_compiled

import evloop.aio

LIMIT = 1000


def each_world(test):
    """Run a test in asyncio's world, which says that the test is right, and in ours."""
    return pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)(test)


async def echo(reader, writer):
    """Answer with the same bytes until the end of the stream."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def framed_echo(reader, writer):
    """Answer each message, four bytes of length before it."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            header = await reader.readexactly(4)
            writer.write(header + await reader.readexactly(int.from_bytes(header, "big")))
            await writer.drain()
    writer.close()


async def turns(count=5):
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- whose classes ---------------------------------------------------------------------------------------------------


def test_streams_of_our_loop_are_compiled_and_asyncios_at_once(pytestconfig):
    """Libraries ask isinstance, and would refuse another class."""
    needs_compiled(pytestconfig)
    from evloop.aio._streams import ProtocolBase, ReaderBase, WriterBase

    async def main(world):
        async with joined(world) as (reader, writer, _):
            assert isinstance(reader, ReaderBase) and isinstance(reader, asyncio.StreamReader)
            assert isinstance(writer, WriterBase) and isinstance(writer, asyncio.StreamWriter)
            protocol = writer.transport.get_protocol()
            assert isinstance(protocol, ProtocolBase) and isinstance(protocol, asyncio.StreamReaderProtocol)

    assert run(OURS, main)[1] == []


def test_streams_on_a_strange_or_debugged_loop_are_asyncios():
    """There it is asyncio's diagnostics that are wanted, or nothing is known of the loop."""

    async def main(world):
        async with joined(OURS) as (reader, writer, _):
            assert type(reader) is asyncio.StreamReader
            assert type(writer) is asyncio.StreamWriter
        async with served(OURS, framed_echo) as port:
            reader, writer = await OURS.open_connection("127.0.0.1", port)
            assert type(reader) is asyncio.StreamReader
            writer.write(b"\0\0\0\1x")
            assert await reader.readexactly(5) == b"\0\0\0\1x"
            writer.close()
            await writer.wait_closed()

    assert run(STANDARD, main)[1] == []
    assert run(OURS, main, debug=True)[1] == []


def test_streams_of_a_loop_with_its_own_call_soon_are_asyncios():
    """It wants to see what is scheduled, wake-ups included."""
    seen = []

    class Loop(evloop.aio.EventLoop):
        def call_soon(self, callback, *args, context=None):
            seen.append(callback)
            return super().call_soon(callback, *args, context=context)

    async def main(world):
        async with joined(OURS) as (reader, _, other):
            other.send(b"x")
            await reader.read(1)
            return type(reader)

    world = SimpleNamespace(**vars(OURS) | {"new_loop": Loop})
    assert run(world, main) == (asyncio.StreamReader, [])
    assert seen


# --- bytes -----------------------------------------------------------------------------------------------------------


@each_world
@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_000])
def test_echo_returns_what_was_sent(world, size):
    """More than any buffer holds: both sides are paused and go on."""
    sent = bytes(i * 7 & 0xFF for i in range(251)) * (size // 251 + 1)
    sent = sent[:size]

    async def main(world):
        async with served(world, echo) as port:
            reader, writer = await world.open_connection("127.0.0.1", port)

            async def send():
                writer.write(sent)
                await writer.drain()
                writer.write_eof()

            got, _ = await asyncio.gather(reader.read(), send())
            writer.close()
            await writer.wait_closed()
            return got

    result, reported = run(world, main)
    assert result == sent
    assert reported == []


@each_world
def test_unix_server_and_client_speak(world, tmp_path):
    """The other two of the four functions."""
    path = str(tmp_path / "socket")

    async def main(world):
        server = await world.start_unix_server(framed_echo, path)
        reader, writer = await world.open_unix_connection(path)
        writer.writelines([b"\0\0\0\5", b"he", bytearray(b"llo")])
        got = await reader.readexactly(9)
        assert writer.can_write_eof()
        writer.write_eof()
        assert await reader.read() == b""
        assert reader.at_eof()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return got

    assert run(world, main) == (b"\0\0\0\5hello", [])


@each_world
@pytest.mark.parametrize(
    "upgraded", [False, pytest.param(True, marks=pytest.mark.since(3, 11))], ids=["from the start", "start_tls"]
)
def test_tls_streams_speak(world, upgraded):
    """asyncio's TLS calls our protocol as any; an upgrade gives the writer another transport."""

    async def connected(reader, writer):
        if upgraded:
            writer.write(b"ready")
            await writer.start_tls(foreign_server())
        await echo(reader, writer)

    async def main(world):
        options = {} if upgraded else {"ssl": foreign_server()}
        async with served(world, connected, **options) as port:
            if upgraded:
                reader, writer = await world.open_connection("127.0.0.1", port)
                assert await reader.readexactly(5) == b"ready"
                await writer.start_tls(foreign_client(), server_hostname="localhost")
            else:
                reader, writer = await world.open_connection(
                    "127.0.0.1", port, ssl=foreign_client(), server_hostname="localhost"
                )
            sent = bytes(300_000)
            writer.write(sent)
            got = await reader.readexactly(len(sent))
            assert writer.get_extra_info("cipher") is not None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return got == sent

    assert run(world, main) == (True, [])


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1])
@pytest.mark.parametrize("ending", [b"\n", b"\nmore\n", b""], ids=["line", "two lines", "end"])
def test_readline_around_the_limit_agrees(size, ending):
    """What is too long is lost, up to its newline; the next line is not."""

    async def main(world):
        async with joined(world, limit=LIMIT) as (reader, _, other):
            other.send(b"x" * size + ending)
            other.shutdown(socket.SHUT_WR)
            return [await outcome(reader.readline()) for _ in range(3)]

    result = both(main)
    if ending:
        assert (result[0] == b"x" * size + b"\n") == (size <= LIMIT)


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1])
@pytest.mark.parametrize("separator", [b"#", b"##", b"#<>#"])
def test_readuntil_around_the_limit_agrees(size, separator):
    """What is too long stays, and can be read otherwise."""

    async def main(world):
        async with joined(world, limit=LIMIT) as (reader, _, other):
            other.send(b"x" * size + separator + b"rest")
            first = await outcome(reader.readuntil(separator))
            return first, await reader.readexactly(3), bytes(reader._buffer)

    both(main)


def test_readuntil_wrong_separators_raise_as_asyncio_does():
    """At the await, and the reader can be used afterwards."""

    async def main(world):
        async with joined(world) as (reader, _, other):
            other.send(b"some;text")
            wrong = [b"", "text", None, 7]
            if sys.version_info >= (3, 13):
                wrong += [(), (b"", b"a")]
            found = [await outcome(reader.readuntil(separator)) for separator in wrong]
            return found, await reader.readuntil(bytearray(b";")), await reader.readuntil(memoryview(b"xt"))

    both(main)


@pytest.mark.since(3, 13)  # tuples of separators came with Python 3.13
def test_readuntil_several_separators_shortest_result_wins():
    """Among those that end at the same byte the limit is compared with the shortest one's begin."""

    async def main(world):
        async with joined(world, limit=4) as (reader, _, other):
            found = []
            for data in (b"a--b;", b"ab---;", b"abc;-", b"abcdef;-", b"abcd\r\n"):
                other.send(data)
                found.append(await outcome(reader.readuntil((b";", b"--", b"---", b"\r\n", b"\n"))))
            other.send(b"x" * 20)
            found.append(await outcome(reader.readuntil((b"<>", b"<<>>"))))
            return found, bytes(reader._buffer)

    both(main)


@pytest.mark.parametrize("size", [2 * LIMIT - 1, 2 * LIMIT, 2 * LIMIT + 1])
def test_reader_pauses_the_transport_above_twice_the_limit(size):
    """And lets it go on when no more than the limit is left."""

    async def main(world):
        async with joined(world, limit=LIMIT) as (reader, writer, other):
            other.send(b"x" * size)
            while len(reader._buffer) < size:
                await asyncio.sleep(0)
            found = [writer.transport.is_reading()]
            for _ in range(3):
                await reader.readexactly(size // 3)
                found.append((writer.transport.is_reading(), len(reader._buffer)))
            return found

    result = both(main)
    assert result[0] == (size <= 2 * LIMIT)
    assert result[-1][0]


@each_world
def test_readexactly_more_than_the_reader_may_hold_comes(world):
    """A paused transport would never bring it: who waits for it lets it go on."""

    async def main(world):
        async with joined(world, limit=LIMIT) as (reader, writer, other):
            other.send(b"x" * (2 * LIMIT + 1))
            while writer.transport.is_reading():
                await asyncio.sleep(0)
            reading = asyncio.ensure_future(reader.readexactly(20 * LIMIT))
            for _ in range(18):
                await turns()
                other.send(b"y" * LIMIT)
            got = await reading
            return len(got), len(reader._buffer)

    assert run(world, main) == ((20 * LIMIT, 1), [])


@pytest.mark.parametrize("limit", [0, -1])
@each_world
def test_reader_without_a_limit_is_refused(world, limit):
    """asyncio's words."""

    async def main(world):
        with pytest.raises(ValueError, match=r"^Limit cannot be <= 0$"):
            world.StreamReader(limit=limit, loop=asyncio.get_running_loop())

    run(world, main)


# --- what a read is --------------------------------------------------------------------------------------------------


WAYS = {
    "await": lambda read: read,
    "create_task": lambda read: asyncio.get_running_loop().create_task(read),
    "ensure_future": asyncio.ensure_future,
    "wait_for": lambda read: asyncio.wait_for(read, 10),
    "shield": asyncio.shield,
    "gather": lambda read: asyncio.gather(read),
    "task of a task": lambda read: asyncio.create_task(asyncio.wait_for(asyncio.shield(read), 10)),
}
READS = {
    "read": lambda reader: reader.read(100),
    "readexactly": lambda reader: reader.readexactly(4),
    "readuntil": lambda reader: reader.readuntil(b";"),
    "readline": lambda reader: reader.readline(),
}


@pytest.mark.parametrize("late", [False, True], ids=["there", "awaited"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("read", READS)
@each_world
def test_read_is_taken_for_a_coroutine(world, read, way, late):
    """Whatever takes a coroutine takes a read, whether or not it has to wait."""

    async def main(world):
        async with joined(world) as (reader, _, other):
            if late:
                asyncio.get_running_loop().call_later(0.001, other.send, b"ab;\n")
            else:
                other.send(b"ab;\n")
                while not reader._buffer:
                    await asyncio.sleep(0)
            got = await WAYS[way](READS[read](reader))
            return got[0] if isinstance(got, list) else got

    result, reported = run(world, main)
    assert result == (b"ab;" if read == "readuntil" else b"ab;\n")
    assert reported == []


@each_world
def test_read_takes_nothing_before_it_is_awaited(world):
    """A time-out of 0, or a task that is cancelled before its first step, must not lose bytes."""

    async def main(world):
        async with joined(world) as (reader, _, other):
            other.send(b"abcd")
            while not reader._buffer:
                await asyncio.sleep(0)
            later = reader.read(1)
            task = asyncio.ensure_future(reader.read(1))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            unused = reader.read(4)
            unused.close()
            return await reader.read(1), await later, await reader.read(10)

    assert run(world, main)[0] == (b"a", b"b", b"cd")


@each_world
def test_read_awaited_twice_raises(world):
    """As a coroutine does, in its words."""

    async def main(world):
        async with joined(world) as (reader, _, other):
            other.send(b"ab")
            read = reader.read(1)
            assert await read == b"a"
            with pytest.raises(RuntimeError, match=r"^cannot reuse already awaited coroutine$"):
                await read
            waiting = reader.readexactly(2)
            task = asyncio.ensure_future(waiting)
            await turns(1)
            with pytest.raises(RuntimeError, match=r"^coroutine is being awaited already$"):
                await waiting
            other.send(b"c")
            return await task

    assert run(world, main)[0] == b"bc"


@each_world
def test_read_driven_by_hand_behaves_as_a_coroutine(world):
    """send, throw and close are what other event libraries drive."""

    async def main(world):
        reader = world.StreamReader(loop=asyncio.get_running_loop())
        reader.feed_data(b"abc")
        read = reader.readexactly(3)
        with pytest.raises(TypeError, match="can't send non-None value to a just-started coroutine"):
            read.send(1)
        with pytest.raises(StopIteration) as caught:
            read.send(None)
        assert caught.value.value == b"abc"
        read = reader.read(1)
        waited = read.send(None)
        assert waited._asyncio_future_blocking is True
        assert asyncio.isfuture(waited) and waited.get_loop() is asyncio.get_running_loop() and not waited.done()
        with pytest.raises(ZeroDivisionError):
            read.throw(ZeroDivisionError("x"))
        assert reader._waiter is None
        read = reader.read(1)
        read.send(None)
        read.close()
        assert reader._waiter is None
        read = reader.read(1)
        with pytest.raises(KeyError):
            read.throw(KeyError)
        return True

    assert run(world, main)[0] is True


@each_world
def test_second_reader_raises_while_the_first_waits(world):
    """Nobody could say who gets the next bytes."""

    async def main(world):
        async with joined(world) as (reader, _, other):
            first = asyncio.ensure_future(reader.readexactly(2))
            await turns(1)
            found = [
                await outcome(read)
                for read in (reader.read(1), reader.read(), reader.readexactly(1), reader.readline())
            ]
            other.send(b"ab")
            return found, await first

    result = run(world, main)[0]
    assert result[1] == b"ab"
    assert [kind for kind, _ in result[0]] == [RuntimeError] * 4
    assert both(main) == result


@each_world
def test_lines_are_iterated_to_the_end(world):
    """`async for`, with a last line that has no end, and lines that come in pieces."""

    async def main(world):
        async with joined(world) as (reader, _, other):

            async def send():
                for piece in (b"one\ntw", b"o\n", b"\nlast"):
                    other.send(piece)
                    await turns()
                other.shutdown(socket.SHUT_WR)

            sending = asyncio.ensure_future(send())
            lines = [line async for line in reader]
            await sending
            return lines

    assert run(world, main)[0] == [b"one\n", b"two\n", b"\n", b"last"]


# --- cancellation, time-outs -----------------------------------------------------------------------------------------


@each_world
@pytest.mark.parametrize("read", READS)
def test_cancelled_read_has_lost_nothing(world, read):
    """What came before the cancellation, and after it, is there for the next read."""

    async def main(world):
        async with joined(world) as (reader, _, other):
            task = asyncio.ensure_future(READS[read](reader))
            await turns(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(READS[read](reader), 0.001)
            other.send(b"abcd;\n")
            return await reader.readuntil(b"\n")

    assert run(world, main) == (b"abcd;\n", [])


@each_world
def test_cancellation_that_comes_with_the_data_loses_nothing(world):
    """Woken by data, then cancelled before its step: asyncio leaves the data in the reader."""

    async def main(world):
        reader = world.StreamReader(loop=asyncio.get_running_loop())
        task = asyncio.ensure_future(reader.read(10))
        await turns(1)
        reader.feed_data(b"data")
        task.cancel()
        found = await outcome(task)
        return found, await reader.read(10)

    assert run(world, main)[0] == ((asyncio.CancelledError, ""), b"data")


@each_world
def test_cancel_message_arrives(world):
    """asyncio passes it on through the future that is waited for."""

    async def main(world):
        reader = world.StreamReader(loop=asyncio.get_running_loop())
        messages = []

        async def read():
            try:
                await reader.read(1)
            except asyncio.CancelledError as exc:
                messages.append(exc.args)
                raise

        task = asyncio.ensure_future(read())
        await turns(1)
        task.cancel("because")
        await outcome(task)
        return messages

    assert run(world, main)[0] == [("because",)]


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READS)
def test_exception_of_the_reader_is_raised_by_reads_and_drain(read):
    """By the one that waits, by all later ones, and by drain(), though data is left."""

    async def main(world):
        async with joined(world) as (reader, writer, _):
            task = asyncio.ensure_future(outcome(READS[read](reader)))
            await turns(1)
            reader.set_exception(ConnectionResetError("gone"))
            reader.feed_data(b"abcd;\n")
            found = [await task, await outcome(READS[read](reader)), await outcome(writer.drain())]
            return found, repr(reader.exception())

    result = both(main)[0]
    assert result == [(ConnectionResetError, "gone")] * 3


@pytest.mark.parametrize("read", READS)
def test_end_of_stream_in_the_middle_agrees(read):
    """Half a message is told apart from none."""

    async def main(world):
        async with joined(world) as (reader, _, other):
            task = asyncio.ensure_future(outcome(READS[read](reader)))
            await turns(1)
            other.send(b"ab")
            await turns()
            other.shutdown(socket.SHUT_WR)
            return [await task, await outcome(READS[read](reader)), reader.at_eof()]

    both(main)


def test_reset_by_the_peer_reaches_the_waiting_read_and_wait_closed():
    """A RST is an error to both."""

    async def main(world):
        accepted = asyncio.get_running_loop().create_future()

        async def connected(reader, writer):
            accepted.set_result([await outcome(reader.read(10)), await outcome(writer.drain())])
            writer.close()

        async with served(world, connected) as port:
            with socket.create_connection(("127.0.0.1", port)) as peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return await accepted

    result = both(main)
    assert result[0][0] is ConnectionResetError


# --- drain, close ----------------------------------------------------------------------------------------------------


@each_world
def test_drain_does_not_yield_while_nothing_is_queued(world):
    """Nothing else runs in between."""

    async def main(world):
        async with joined(world) as (_, writer, other):
            order = []
            asyncio.get_running_loop().call_soon(order.append, "callback")
            for _ in range(3):
                writer.write(b"x")
                await writer.drain()
            order.append("drained")
            await turns(1)
            return order, other.recv(10)

    assert run(world, main)[0] == (["drained", "callback"], b"xxx")


def test_drain_of_a_closing_transport_yields_once():
    """Or a loop of write and drain would never see the connection lost."""

    async def main(world):
        async with joined(world) as (_, writer, _):
            order = []
            writer.close()
            asyncio.get_running_loop().call_soon(order.append, "callback")
            found = await outcome(writer.drain())
            return order, found, await outcome(writer.drain())

    assert both(main)[0] == ["callback"]


@each_world
@pytest.mark.parametrize("end", ["read", "close", "reset"])
def test_drain_waits_while_too_much_is_queued(world, end):
    """Until the peer has read, or there is no peer."""

    async def main(world):
        async with joined(world) as (_, writer, other):
            writer.write(bytes(4_000_000))
            drains = [asyncio.ensure_future(outcome(writer.drain())) for _ in range(2)]
            await turns()
            assert not any(drain.done() for drain in drains)
            drains.pop().cancel()
            if end == "close":
                other.close()
            elif end == "reset":
                writer.transport.abort()
            while not drains[0].done():
                if end == "read":
                    with contextlib.suppress(BlockingIOError):
                        other.recv(1 << 20)
                await asyncio.sleep(0)
            return await drains[0]

    result, reported = run(world, main)
    if end == "read":
        assert result is None
    assert reported == []
    assert run(STANDARD, main)[0] == result


@each_world
def test_wait_closed_returns_when_the_connection_is_lost(world):
    """Asked for before and after, by several."""

    async def main(world):
        async with joined(world) as (reader, writer, other):
            before = asyncio.ensure_future(writer.wait_closed())
            await turns()
            assert not before.done() and not writer.is_closing()
            writer.close()
            assert writer.is_closing()
            await before
            await writer.wait_closed()
            assert reader.at_eof()
            return other.recv(1)

    assert run(world, main) == (b"", [])


# --- the callback ----------------------------------------------------------------------------------------------------


@each_world
def test_connected_callback_may_be_a_function(world):
    """It is called with the pair; what it starts is its own."""

    async def main(world):
        pairs = []
        async with served(world, lambda reader, writer: pairs.append((reader, writer))) as port:
            reader, writer = await world.open_connection("127.0.0.1", port)
            while not pairs:
                await asyncio.sleep(0)
            pairs[0][1].write(b"hello")
            pairs[0][1].close()
            got = await reader.read()
            writer.close()
            await writer.wait_closed()
            return got

    assert run(world, main) == (b"hello", [])


@pytest.mark.since(3, 11)  # Python 3.10 leaves the transport open and says nothing
def test_connected_callback_that_fails_is_reported_as_asyncio_does():
    """The exception handler hears of it, and the transport is closed."""

    async def connected(reader, writer):
        await reader.readexactly(1)
        raise ZeroDivisionError("mine")

    async def main(world):
        async with served(world, connected) as port:
            reader, writer = await world.open_connection("127.0.0.1", port)
            writer.write(b"x")
            got = await outcome(reader.read())
            writer.close()
            await writer.wait_closed()
            return got

    found = []
    for world in WORLDS:
        result, reported = run(world, main)
        found.append((result, [(c["message"], repr(c["exception"]), sorted(c)) for c in reported]))
    assert found[0] == found[1]
    assert found[1][1][0][:2] == ("Unhandled exception in client_connected_cb", "ZeroDivisionError('mine')")


@each_world
def test_context_variables_follow_the_task_and_not_the_packet(world):
    """Each handler goes on in its own context, whoever's data woke it."""
    variable = contextvars.ContextVar("variable", default="none")

    async def connected(reader, writer):
        variable.set((await reader.readexactly(1)).decode())
        for _ in range(3):
            await reader.readexactly(1)
            writer.write(variable.get().encode())
        writer.close()

    async def main(world):
        async with served(world, connected) as port:
            pairs = [await world.open_connection("127.0.0.1", port) for _ in range(3)]
            for round_ in range(4):
                for (_, writer), letter in zip(pairs, (b"a", b"b", b"c"), strict=True):
                    writer.write(letter if round_ == 0 else b".")
                await turns()
            got = [await reader.read() for reader, _ in pairs]
            for _, writer in pairs:
                writer.close()
                await writer.wait_closed()
            return got, variable.get()

    assert run(world, main)[0] == ([b"aaa", b"bbb", b"ccc"], "none")


# --- order -----------------------------------------------------------------------------------------------------------


def test_order_of_wake_ups_and_callbacks_is_asyncios():
    """A read is woken through the FIFO: behind what was in it, before what comes later, in the order of the data."""

    async def main(world):
        loop = asyncio.get_running_loop()
        order = []

        async def reads(name, reader, count):
            for _ in range(count):
                order.append((name, await reader.readexactly(2)))
                loop.call_soon(order.append, f"after {name}")

        async with joined(world) as (one, _, to_one), joined(world) as (two, _, to_two):
            tasks = [asyncio.ensure_future(reads("one", one, 3)), asyncio.ensure_future(reads("two", two, 3))]
            await turns(1)

            def before():
                order.append("before")
                loop.call_soon(order.append, "next turn")

            loop.call_soon(before)
            to_one.send(b"aabb")
            to_two.send(b"c")
            to_two.send(b"cdd")
            for step in range(8):
                loop.call_soon(order.append, step)
                await asyncio.sleep(0)
            to_two.send(b"ee")
            to_one.send(b"ff")
            for step in range(8):
                loop.call_soon(order.append, step)
                await asyncio.sleep(0)
            await asyncio.gather(*tasks)
            return order

    both(main)


def test_order_of_feeds_in_one_callback_is_asyncios():
    """Readers woken by one callback go on in the order in which they were fed, after what was queued before."""

    async def main(world):
        loop = asyncio.get_running_loop()
        readers = [world.StreamReader(loop=loop) for _ in range(3)]
        order = []

        async def read(index):
            order.append((index, await readers[index].readline()))
            order.append((index, await readers[index].readline()))

        tasks = [asyncio.ensure_future(read(index)) for index in range(3)]
        await turns(1)
        future = loop.create_future()
        future.add_done_callback(lambda _: order.append("future"))
        loop.call_soon(order.append, "queued before")
        readers[2].feed_data(b"x\n")
        future.set_result(None)
        readers[0].feed_data(b"y")
        readers[1].feed_eof()
        loop.call_soon(order.append, "queued after")
        await turns(2)
        readers[0].feed_data(b"\nz\n")
        readers[2].set_exception(ZeroDivisionError())
        found = await asyncio.gather(*tasks, return_exceptions=True)
        return order, [repr(each) for each in found]

    both(main)
