"""BufferedFrames on stock asyncio, on our loop as it is and in debug mode, and on uvloop: the same on all of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import sys
import threading
import weakref

import pytest
from aioloops import old_tls
from tlspeers import foreign_client, foreign_server

import evloop.aio
from evloop import FrameTooLarge, Framing, TruncatedFrame
from evloop._connection_shared import FRAMES_PER_TURN
from evloop.aio.frames import BufferedFrames, _buffer_for

PATIENCE = 20.0  # seconds; only a failing test waits as long
MIB = 1 << 20
LOOPS = ["asyncio", "evloop", "evloop-debug", "uvloop"]


def make_loop(name):
    if name == "uvloop":
        return pytest.importorskip("uvloop", reason="not installed: pip install uvloop").new_event_loop()
    loop = asyncio.SelectorEventLoop() if name == "asyncio" else evloop.aio.new_event_loop()
    loop.set_debug(name == "evloop-debug")
    return loop


class Run:
    """Runs coroutine functions on one kind of loop; ``told`` is what the last one's exception handler was told."""

    def __init__(self, name):
        self.name = name
        self.told = []

    def __call__(self, program):
        loop = make_loop(self.name)
        self.told = []
        loop.set_exception_handler(lambda _loop, context: self.told.append(context))
        try:
            return loop.run_until_complete(asyncio.wait_for(program(), PATIENCE))
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


@pytest.fixture(scope="module", autouse=True)
def uvloop_has_its_pipe():
    """Let libuv open the pipe of its signals before any test counts descriptors: it is the process's, and stays."""
    with contextlib.suppress(ImportError):
        import uvloop

        loop = uvloop.new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@pytest.fixture(params=LOOPS)
def run(request):
    """Run a program on a loop; what its exception handler was told and the test has not taken fails it."""
    runner = Run(request.param)
    yield runner
    assert runner.told == []


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


class Diary(BufferedFrames):
    """Writes down what it is told, and calls super() nowhere."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.events = []
        self.frames = []

    def connection_made(self, transport):
        assert transport is self.transport
        self.events.append("made")

    def frame_received(self, frame):
        self.frames.append(frame)

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def eof_received(self):
        self.events.append("eof")

    def connection_lost(self, exc):
        self.events.append(exc)

    @property
    def lost(self):
        """Whether the last thing that it was told is the end."""
        return not isinstance(self.events[-1], str)


class Echo(Diary):
    def frame_received(self, frame):
        super().frame_received(frame)
        self.send(frame)


class Batch(Diary):
    def frames_received(self, frames):
        self.frames += frames
        self.send_many(frames)


@contextlib.asynccontextmanager
async def connected(factory):
    """Yield the protocol of a server's connection, and a plain socket at the other end of it."""
    made = []

    def make():
        made.append(factory())
        return made[-1]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, "127.0.0.1", 0)
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, server.sockets[0].getsockname())
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await until(lambda: made and made[0].events)
        try:
            yield made[0], sock
        finally:
            if not made[0].lost:
                made[0].abort()
                await until(lambda: made[0].lost)
            server.close()
            await server.wait_closed()


async def send(sock, data):
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def receive(sock, size):
    """Return *size* bytes, or what came before the end of the stream."""
    data = bytearray()
    while len(data) < size and (part := await asyncio.get_running_loop().sock_recv(sock, min(MIB, size - len(data)))):
        data += part
    return bytes(data)


def encode(*payloads, framing=Framing.U32):
    return framing.encode_many(payloads)


def whole(stream):
    return [stream]


def byte_by_byte(stream):
    return [stream[i : i + 1] for i in range(len(stream))]


def at_random(stream):
    dice = random.Random(4)
    cuts = sorted(dice.sample(range(1, len(stream)), 40))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@pytest.mark.parametrize("cut", [whole, byte_by_byte, at_random])
@pytest.mark.parametrize("protocol", [Echo, Batch])
@pytest.mark.parametrize(
    "framing",
    [Framing.U32, Framing(2, "little", before=1), Framing.VARINT, Framing.U16.replace(deliver="frame")],
    ids=str,
)
def test_frames_however_the_stream_is_cut_are_the_same(run, cut, protocol, framing):
    """Reads have no edges of their own: frames are glued, cut, and followed by the beginning of the next one."""
    payloads = [b"%d" % i * (i % 9) for i in range(60)] + [bytes(range(256))]
    options = {"before": b"\x07"} if framing.before else {}
    stream = framing.encode_many(payloads, **options)
    tail = framing.encode(b"the rest of this one never comes", **options)[:-1]

    class Sender(protocol):
        def send(self, payload):
            super().send(payload, **options)

        def send_many(self, payloads):
            for payload in payloads:
                self.send(payload)

    async def program():
        async with connected(lambda: Sender(framing)) as (server, sock):
            for part in cut(stream + tail):
                await send(sock, part)
            if framing.deliver == "frame":
                payloads[:] = [framing.encode(payload) for payload in payloads]
            answer = framing.encode_many(payloads, **options)
            assert await receive(sock, len(answer)) == answer
            assert server.frames == payloads
            assert {type(frame) for frame in server.frames} == {bytes}

    run(program)


@pytest.mark.parametrize("size", [evloop.reactor.RECV_BUFFER - 4, evloop.reactor.RECV_BUFFER - 3, MIB])
def test_frames_above_a_read_are_whole(run, size):
    """The buffer is shared and soon used again: what is kept of it must have been copied."""

    async def program():
        payload = random.Random(size).randbytes(size)
        async with connected(Echo) as (server, sock):
            sending = asyncio.ensure_future(send(sock, encode(payload, b"next")))
            assert await receive(sock, size + 12) == encode(payload, b"next")
            await sending
            assert server.frames == [payload, b"next"]

    run(program)


def test_connections_of_one_thread_do_not_mix_their_bytes(run):
    """They read into one buffer, each with half a frame kept."""

    async def program():
        async with connected(Echo) as (_, first), connected(Echo) as (_, second):
            for a, b in zip(encode(b"a" * 50), encode(b"b" * 50), strict=True):
                await send(first, bytes([a]))
                await send(second, bytes([b]))
            assert await receive(first, 54) == encode(b"a" * 50)
            assert await receive(second, 54) == encode(b"b" * 50)

    run(program)


@pytest.mark.parametrize(("size", "fits"), [(99, True), (100, True), (101, False)])
def test_max_frame_holds_in_both_directions(run, size, fits):
    """The frames before the fault are delivered and answered, then the connection closes in good order."""

    async def program():
        async with connected(lambda: Echo(max_frame=100)) as (server, sock):
            await send(sock, encode(b"before") + encode(b"x" * size, b"after"))
            if fits:
                assert await receive(sock, size + 23) == encode(b"before", b"x" * size, b"after")
                server.send(b"y" * size)
                return
            with pytest.raises(FrameTooLarge):
                server.send(b"y" * size)
            with contextlib.suppress(ConnectionResetError):  # the kernel's, for what was not read
                assert await receive(sock, 100) == encode(b"before")
            await until(lambda: server.lost)
            assert server.frames == [b"before"]
            assert [type(event) for event in server.events] == [str, FrameTooLarge]
            assert (server.events[-1].length, server.events[-1].limit) == (101, 100)

    run(program)


@pytest.mark.parametrize("wrong", [{"max_frame": -1}, {"max_frame": 1 << 40}])
def test_max_frame_out_of_range_raises(wrong):
    """As everywhere: more than the length field can announce is a mistake, not a large limit."""
    with pytest.raises(ValueError, match="max_frame"):
        BufferedFrames(**wrong)


@pytest.mark.parametrize(("rest", "have"), [(b"", None), (b"\0", 1), (b"\0\0\0\5", 4), (b"\0\0\0\5hell", 8)])
def test_eof_between_frames_is_an_end_and_inside_one_a_fault(run, rest, have):
    """A stream that was cut must not look like one that has ended."""

    async def program():
        async with connected(Echo) as (server, sock):
            await send(sock, encode(b"one") + rest)
            sock.shutdown(socket.SHUT_WR)
            assert await receive(sock, 100) == encode(b"one")
            await until(lambda: server.lost)
            if have is None:
                assert server.events == ["made", "eof", None]
            else:
                assert [type(event) for event in server.events] == [str, TruncatedFrame]
                assert server.events[-1].have == have

    run(program)


def test_eof_with_true_keeps_the_sending_side_open(run):
    """A peer may send all it has and then wait for the answers."""

    class Late(Diary):
        def eof_received(self):
            super().eof_received()
            return True

    async def program():
        async with connected(Late) as (server, sock):
            await send(sock, encode(b"question"))
            sock.shutdown(socket.SHUT_WR)
            await until(lambda: server.events == ["made", "eof"])
            assert not server.is_reading()
            server.pause_reading()
            server.resume_reading()  # with nothing to come, neither may ask the transport for more
            await asyncio.sleep(0)
            server.send(b"answer")
            server.close()
            assert await receive(sock, 100) == encode(b"answer")
            await until(lambda: server.lost)
            assert server.events == ["made", "eof", None]

    run(program)


@pytest.mark.parametrize("end", ["fault", "truncated", "eof"])
def test_paused_holds_frames_and_what_follows_them(run, end):
    """Pausing after the first of five frames: the other four, and the end of the stream, wait for resume_reading."""

    class OneByOne(Diary):
        def frame_received(self, frame):
            super().frame_received(frame)
            self.pause_reading()

    last = {"fault": b"\xff\xff\xff\xff", "truncated": b"\0\0", "eof": b""}[end]
    kind = {"fault": FrameTooLarge, "truncated": TruncatedFrame, "eof": type(None)}[end]

    async def program():
        async with connected(OneByOne) as (server, sock):
            await send(sock, encode(*[b"%d" % i for i in range(5)]) + last)
            sock.shutdown(socket.SHUT_WR)
            for i in range(1, 6):
                await until(lambda i=i: len(server.frames) == i)
                for _ in range(10):
                    await asyncio.sleep(0)
                assert (len(server.frames), server.events) == (i, ["made"])
                assert not server.is_reading()
                server.resume_reading()
            await until(lambda: server.lost)
            assert server.events[:-1] == ["made"] + ["eof"] * (end == "eof")
            assert type(server.events[-1]) is kind

    run(program)


def test_paused_from_the_beginning_reads_nothing_until_resumed(run):
    """connection_made is where a program says that it is not ready yet."""

    class Unready(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            self.pause_reading()

    async def program():
        async with connected(Unready) as (server, sock):
            await send(sock, encode(b"x"))
            for _ in range(10):
                await asyncio.sleep(0)
            assert server.frames == []
            server.resume_reading()
            assert await receive(sock, 5) == encode(b"x")

    run(program)


def test_answers_of_one_read_leave_together_when_the_callback_returns(run):
    """Sixteen answers are one system call, or framing would cost sixteen times as many as it must."""
    seen = []

    class Peeking(Echo):
        def frame_received(self, frame):
            super().frame_received(frame)
            with contextlib.suppress(BlockingIOError):
                seen.append(peer.recv(1))

    async def program():
        nonlocal peer
        async with connected(Peeking) as (server, peer):
            stream = encode(*[b"%d" % i for i in range(16)])
            await send(peer, stream)
            await until(lambda: len(server.frames) == 16)
            assert seen == []
            assert await receive(peer, len(stream)) == stream

    peer = None
    run(program)


def test_peer_that_does_not_take_the_answers_is_not_read_from(run):
    """Without this one peer that only asks makes the server's memory grow; and nothing may be lost by it."""

    async def program():
        message = bytes(range(256)) * 256
        async with connected(Echo) as (server, sock):
            sent = bytearray()
            stream = encode(message)
            await until(lambda: fill(sock, stream, sent) and "pause" in server.events)
            assert not server.transport.is_reading()
            asked = len(sent)
            sent += stream[len(sent) % len(stream) :]
            assert server.events == ["made", "pause"]
            # One read of frames may be answered above the mark, and then no more.
            assert server.transport.get_write_buffer_size() < 2 * MIB
            rest = asyncio.ensure_future(send(sock, sent[asked:]))
            assert await receive(sock, len(sent)) == sent
            await rest
            await until(lambda: server.events[-1] == "resume")
            assert server.frames == [message] * (len(sent) // len(stream))

    def fill(sock, stream, sent):
        """Send until the kernel takes no more."""
        try:
            while True:
                at = len(sent) % len(stream)
                sent += stream[at : at + sock.send(stream[at:])]
        except BlockingIOError:
            return True

    run(program)


def test_callback_that_raises_ends_its_connection_and_no_other(run):
    """What was answered before is sent; the loop's exception handler is told once, with all it wants to know."""

    class Failing(Echo):
        def frame_received(self, frame):
            super().frame_received(frame)
            if frame == b"bad":
                raise ZeroDivisionError

    async def program():
        async with connected(Failing) as (server, sock), connected(Failing) as (_, neighbour):
            await send(sock, encode(b"good", b"bad", b"never"))
            assert await receive(sock, 100) == encode(b"good", b"bad")
            await until(lambda: server.lost)
            assert [type(event) for event in server.events] == [str, ZeroDivisionError]
            assert server.frames == [b"good", b"bad"]
            await send(neighbour, encode(b"still here"))
            assert await receive(neighbour, 14) == encode(b"still here")
            assert [(type(c["exception"]), c["protocol"]) for c in run.told] == [(ZeroDivisionError, server)]
            run.told.clear()

    run(program)


@pytest.mark.parametrize("name", ["connection_made", "eof_received", "pause_writing", "resume_writing"])
def test_other_callback_that_raises_ends_its_connection_too(run, name):
    """There is one rule for all callbacks; asyncio itself has several."""

    def fail(*_args):
        raise ZeroDivisionError

    async def program():
        async with connected(type("Failing", (Echo,), {name: fail, "events": ["made"]})) as (server, sock):
            if name == "eof_received":
                sock.shutdown(socket.SHUT_WR)
            elif name != "connection_made":
                server.transport.set_write_buffer_limits(high=1, low=0)
                server.send_many([b"x" * MIB] * 16)
            with contextlib.suppress(ConnectionResetError):
                await receive(sock, 64 * MIB)
            await until(lambda: server.lost)
            assert type(server.events[-1]) is ZeroDivisionError
            assert [type(context["exception"]) for context in run.told] == [ZeroDivisionError]
            run.told.clear()

    run(program)


def test_subclass_without_a_receiver_is_told_and_closed(run):
    """A misspelt method would otherwise lose every frame in silence."""

    class Deaf(BufferedFrames):
        events = ()

        def connection_made(self, _transport):
            self.events = ["made"]

        def connection_lost(self, exc):
            self.events.append(exc)

        lost = Diary.lost

    async def program():
        async with connected(Deaf) as (server, sock):
            assert await receive(sock, 1) == b""
            await until(lambda: server.lost)
            assert "has no method frame_received or frames_received" in str(server.events[-1])
            run.told.clear()

    run(program)


def test_close_in_a_callback_sends_what_was_answered_and_delivers_no_more(run):
    """Close is a decision about all that follows, also about what is decoded already."""

    class Once(Echo):
        def frame_received(self, frame):
            super().frame_received(frame)
            self.close()
            self.send(b"too late")  # dropped, without a word

    async def program():
        async with connected(Once) as (server, sock):
            await send(sock, encode(b"one", b"two"))
            assert await receive(sock, 100) == encode(b"one")
            await until(lambda: server.lost)
            assert (server.frames, server.events) == ([b"one"], ["made", None])
            server.send(b"x")
            server.close()
            server.abort()
            server.pause_reading()
            server.resume_reading()
            assert server.is_closing()
            assert not server.is_reading()

    run(program)


def test_abort_drops_the_output(run):
    """For a peer that is not worth waiting for."""

    async def program():
        async with connected(Echo) as (server, sock):
            server.send_many([b"x" * MIB] * 32)
            server.abort()
            with contextlib.suppress(ConnectionResetError):
                assert len(await receive(sock, 32 * MIB)) < 32 * MIB
            await until(lambda: server.lost)
            assert server.events[-1] is None

    run(program)


def test_write_eof_ends_one_direction_and_comes_after_the_answers(run):
    """Half a close: the peer sees the end and still can send."""

    class Last(Echo):
        def frame_received(self, frame):
            if self.frames:
                self.frames.append(frame)
                return
            super().frame_received(frame)
            self.write_eof()
            self.write_eof()

    async def program():
        async with connected(Last) as (server, sock):
            await send(sock, encode(b"one"))
            assert await receive(sock, 100) == encode(b"one")
            await send(sock, encode(b"two"))
            await until(lambda: server.frames == [b"one", b"two"])
            with pytest.raises(RuntimeError, match="after write_eof"):
                server.send(b"x")

    run(program)


def test_send_without_a_connection_raises():
    """Dropped in silence it would be looked for on the wire."""
    with pytest.raises(RuntimeError, match="before connection_made"):
        Echo().send(b"x")


def test_object_of_a_second_connection_is_refused(run):
    """A factory that returns one object for all mixes the peers' bytes."""

    async def program():
        async with connected(Echo) as (server, sock):
            with pytest.raises(RuntimeError, match="of one connection"):
                server.connection_made(server.transport)
            await send(sock, encode(b"x"))
            assert await receive(sock, 5) == encode(b"x")
        with pytest.raises(RuntimeError, match="of one connection"):
            server.connection_made(server.transport)

    run(program)


def test_many_frames_of_one_read_let_others_run(run):
    """A quarter of a mebibyte of empty frames is 65,536 callbacks: a turn of its own each thousand."""
    count = 3 * FRAMES_PER_TURN
    seen = []

    class Counting(Diary):
        def frame_received(self, frame):
            if not self.frames:
                asyncio.get_running_loop().call_soon(lambda: seen.append(len(self.frames)))
            super().frame_received(frame)

    async def program():
        async with connected(Counting) as (server, sock):
            await send(sock, encode() + b"\0\0\0\0" * count)
            await until(lambda: len(server.frames) == count)
        assert seen[0] <= FRAMES_PER_TURN

    run(program)


def test_object_is_freed_without_a_collection(run):
    """A server of many short connections must not leave their end to the garbage collector."""

    async def program():
        async with connected(Echo) as (server, sock):
            await send(sock, encode(b"x"))
            assert await receive(sock, 5) == encode(b"x")
            return weakref.ref(server)

    gc.disable()
    try:
        if "debug" not in run.name:  # which keeps what it would show
            assert run(program)() is None
    finally:
        gc.enable()


def test_client_and_unix_socket_work_as_well(run, tmp_path):
    """The other end of a connection, and the other family."""

    async def program():
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "frames.sock")
        server = await loop.create_unix_server(Batch, path)
        _, client = await loop.create_unix_connection(Diary, path)
        client.send_many([b"a", b"", b"x" * MIB])
        await until(lambda: len(client.frames) == 3)
        assert client.frames == [b"a", b"", b"x" * MIB]
        client.close()
        await until(lambda: client.lost)
        server.close()
        await server.wait_closed()

    run(program)


@old_tls
@pytest.mark.parametrize("upgrade", [False, True], ids=["tls", "start_tls"])
def test_tls_below_changes_nothing(run, upgrade):
    """asyncio's TLS reads into the buffer of a protocol, too; and ends both directions at once."""

    class Held(Echo):
        def frame_received(self, frame):
            super().frame_received(frame)
            if frame == b"hold":
                self.pause_reading()

    async def program():
        loop = asyncio.get_running_loop()
        made = []

        def make():
            made.append(Held())
            return made[-1]

        server = await loop.create_server(make, "127.0.0.1", 0, ssl=None if upgrade else foreign_server())
        address = server.sockets[0].getsockname()
        tls = {} if upgrade else {"ssl": foreign_client(), "server_hostname": "localhost"}
        _, client = await loop.create_connection(Diary, *address, **tls)
        if upgrade:
            await until(lambda: made and made[0].events)
            transports = await asyncio.gather(
                loop.start_tls(made[0].transport, made[0], foreign_server(), server_side=True),
                loop.start_tls(client.transport, client, foreign_client(), server_hostname="localhost"),
            )
            made[0].transport, client.transport = transports
        client.send_many([b"a", b"x" * MIB])
        await until(lambda: len(client.frames) == 2)
        assert client.frames == [b"a", b"x" * MIB]
        client.send_many([b"hold", b"kept", b"kept, too"])
        client.close()
        await until(lambda: made[0].frames[-1] == b"hold")
        if sys.version_info >= (3, 11):  # before, TLS that is paused does not even read the peer's goodbye
            await until(lambda: client.lost and made[0].transport.is_closing())
        for _ in range(20):
            await asyncio.sleep(0)
        assert made[0].events == ["made"]
        made[0].resume_reading()
        await until(lambda: made[0].lost and client.lost)
        assert made[0].frames[-3:] == [b"hold", b"kept", b"kept, too"]
        assert made[0].events == ["made", "eof", None]
        server.close()
        await server.wait_closed()

    run(program)


def test_buffer_is_shared_within_a_thread_and_by_loops_that_wait_for_readiness(run):
    """A loop that starts a read and waits for its end would have two peers write into one buffer."""

    async def program():
        return _buffer_for(asyncio.get_running_loop())

    first = run(program)
    assert run(program) is first
    others = []
    thread = threading.Thread(target=lambda: others.append(run(program)))
    thread.start()
    thread.join()
    assert others[0] is not first
    foreign = asyncio.AbstractEventLoop()
    assert _buffer_for(foreign) is not _buffer_for(foreign)
