"""The low-level calls on sockets: what asyncio's own loop does, ours does, too."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl

import pytest

import evloop.aio

PATIENCE = 20.0  # seconds; only a failing test waits as long
LOOPS = {"stock": (asyncio.SelectorEventLoop, False), "ours": (evloop.aio.EventLoop, False),
         "debug": (evloop.aio.EventLoop, True)}  # fmt: skip


@pytest.fixture(params=LOOPS)
def loop(request):
    """asyncio's own loop, ours, and ours in debug mode; what holds for the first has to hold for all."""
    factory, debug = LOOPS[request.param]
    loop = factory()
    loop.set_debug(debug)
    yield loop
    loop.close()


@pytest.fixture(autouse=True)
def no_fd_is_left():
    """Every test ends with the fds that it began with."""
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def pair():
    """Two connected non-blocking sockets."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    with ends[0], ends[1]:
        yield ends


def run(loop, main):
    """Run a coroutine to its end, or to the end of patience."""
    return loop.run_until_complete(asyncio.wait_for(main, PATIENCE))


def watched(loop):
    """Return how many fds a loop watches."""
    return len(loop._selector.get_map())


async def turns(count):
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def receive(loop, sock, how, size):
    """Receive at most *size* bytes by one call or the other."""
    if how == "recv":
        return await loop.sock_recv(sock, size)
    buffer = bytearray(size)
    return bytes(buffer[: await loop.sock_recv_into(sock, buffer)])


HOWS = pytest.mark.parametrize("how", ["recv", "recv_into"])


@HOWS
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_sock_receive_takes_at_most_what_was_asked_for(loop, pair, how, waits, size):
    """Whether the bytes are there already or come later; the rest stays in the kernel."""

    async def main():
        mine, other = pair
        if not waits:
            other.send(b"ab")
        task = loop.create_task(receive(loop, mine, how, size))
        await turns(3)
        assert task.done() is not waits
        if waits:
            other.send(b"ab")
        first = await task
        other.send(b"z")
        return first, await receive(loop, mine, how, 9)

    first, rest = run(loop, main())
    assert first == b"ab"[:size]
    assert first + rest == b"abz"


@HOWS
def test_sock_receive_of_nothing_is_nothing(loop, pair, how):
    """No bytes are asked for, none are waited for."""
    assert run(loop, receive(loop, pair[0], how, 0)) == b""


@HOWS
def test_sock_receive_at_the_end_of_the_stream_is_empty(loop, pair, how):
    """At once, and when the end comes while one waits."""

    async def main():
        task = loop.create_task(receive(loop, pair[0], how, 10))
        await turns(2)
        pair[1].shutdown(socket.SHUT_WR)
        return await task, await receive(loop, pair[0], how, 10)

    assert run(loop, main()) == (b"", b"")


@HOWS
def test_sock_receive_reset_is_raised_now_and_while_it_waits(loop, how):
    """The errors of the socket module, from the kernel's numbers."""

    async def main():
        errors = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for waits in (False, True):
                with socket.create_connection(listener.getsockname()) as mine, listener.accept()[0] as other:
                    mine.setblocking(False)
                    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    task = loop.create_task(receive(loop, mine, how, 10)) if waits else None
                    await turns(2)
                    other.close()
                    with pytest.raises(ConnectionResetError) as caught:
                        await (task or receive(loop, mine, how, 10))
                    errors.append(caught.value.args)
        assert watched(loop) <= 2
        return errors

    errors = run(loop, main())
    assert errors[0] == errors[1]


@HOWS
def test_sock_receive_cancelled_takes_nothing_and_watches_nothing(loop, pair, how):
    """What comes afterwards is for the next call."""

    async def main():
        mine, other = pair
        before = watched(loop)
        for _ in range(3):
            task = loop.create_task(receive(loop, mine, how, 10))
            await turns(2)
            assert watched(loop) == before + 1
            task.cancel()
            other.send(b"x")
            with pytest.raises(asyncio.CancelledError):
                await task
            await turns(2)
            assert watched(loop) == before
            assert await receive(loop, mine, how, 10) == b"x"

    run(loop, main())


@HOWS
def test_sock_receive_timed_out_leaves_the_socket_usable(loop, pair, how):
    """wait_for() around it is the ordinary time-out."""

    async def main():
        mine, other = pair
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(receive(loop, mine, how, 10), 0.01)
        other.send(b"late")
        return await asyncio.wait_for(receive(loop, mine, how, 10), PATIENCE)

    assert run(loop, main()) == b"late"


@HOWS
def test_sock_receive_and_send_wait_on_one_socket_at_once(loop, pair, how):
    """Both directions of one fd, each with an operation of its own."""

    async def main():
        mine, other = pair
        before = watched(loop)
        sent = os.urandom(1 << 20)
        sending = loop.create_task(loop.sock_sendall(mine, sent))
        receiving = loop.create_task(receive(loop, mine, how, 10))
        await turns(3)
        assert not (sending.done() or receiving.done())
        other.send(b"reply")
        assert await receiving == b"reply"
        got = bytearray()
        while len(got) < len(sent):
            got += await receive(loop, other, how, 65536)
        await sending
        await turns(2)
        return got == sent, watched(loop) - before

    assert run(loop, main()) == (True, 0)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_sock_sendall_sends_all(loop, pair, kind, size):
    """More than the kernel has room for takes turns; nothing at all takes none."""

    async def main():
        sent = os.urandom(size)
        task = loop.create_task(loop.sock_sendall(pair[0], kind(sent)))
        got = bytearray()
        while len(got) < size:
            got += await loop.sock_recv(pair[1], 65536)
        assert await task is None
        return got == sent

    assert run(loop, main()) is True


def test_sock_sendall_broken_pipe_is_raised_now_and_while_it_waits(loop, pair):
    """The peer is gone."""

    async def main():
        task = loop.create_task(loop.sock_sendall(pair[0], b"x" * 3_000_000))
        await turns(3)
        assert not task.done()
        pair[1].close()
        for waiting in (task, loop.sock_sendall(pair[0], b"x")):
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                await waiting
        await turns(2)

    run(loop, main())


def test_sock_sendall_cancelled_watches_nothing(loop, pair):
    """And lets go of the caller's buffer."""

    async def main():
        before = watched(loop)
        data = bytearray(3_000_000)
        task = loop.create_task(loop.sock_sendall(pair[0], data))
        await turns(3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        await turns(2)
        data.extend(b"x")  # BufferError, while somebody looks into it
        return watched(loop) - before

    assert run(loop, main()) == 0


MISUSES = {
    "recv text": lambda loop, sock: loop.sock_recv(sock, "1"),
    "recv negative": lambda loop, sock: loop.sock_recv(sock, -1),
    "recv_into bytes": lambda loop, sock: loop.sock_recv_into(sock, b"abc"),
    "recv_into text": lambda loop, sock: loop.sock_recv_into(sock, "abc"),
    "sendall text": lambda loop, sock: loop.sock_sendall(sock, "abc"),
    "sendall number": lambda loop, sock: loop.sock_sendall(sock, 5),
    "sendall gaps": lambda loop, sock: loop.sock_sendall(sock, memoryview(b"abcd")[::2]),
    "recv nothing": lambda loop, sock: loop.sock_recv(None, 1),
}


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES)
def test_sock_misuse_gives_asyncios_error(misuse):
    """Type and text."""
    seen = []
    for factory, debug in LOOPS.values():
        loop = factory()
        ends = socket.socketpair()
        try:
            loop.set_debug(debug)
            ends[0].setblocking(False)
            with pytest.raises(Exception) as caught:
                run(loop, misuse(loop, ends[0]))
            seen.append((caught.type, str(caught.value)))
        finally:
            loop.close()
            for end in ends:
                end.close()
    if misuse is not MISUSES["recv nothing"]:  # whose text names an attribute of the code's own
        assert seen[1:] == seen[:-1]


def test_sock_closed_socket_is_refused(loop):
    """EBADF from the kernel, since nobody asked before."""

    async def main():
        sock = socket.socket()
        sock.setblocking(False)
        sock.close()
        for operation in (
            loop.sock_recv(sock, 1),
            loop.sock_recv_into(sock, bytearray(1)),
            loop.sock_sendall(sock, b"x"),
        ):
            with pytest.raises(OSError, match="Bad file descriptor"):
                await operation

    run(loop, main())


def test_sock_of_tls_is_refused(loop):
    """asyncio's TLS is a protocol; its sockets are not to be mixed with it."""

    async def main():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with socket.socket() as plain, context.wrap_socket(plain, server_hostname="x") as sock:
            with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
                await loop.sock_recv(sock, 1)
            with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
                await loop.sock_sendall(sock, b"x")

    run(loop, main())


def test_sock_fd_of_a_transport_is_refused(loop, pair):
    """Two readers of one stream would each get some of it."""

    async def main():
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=pair[0])
        sock = socket.socket(fileno=os.dup(pair[0].fileno()))
        with sock, pytest.raises(RuntimeError, match="is used by transport"):
            await loop.sock_recv(pair[0], 1)
        transport.close()
        await turns(2)

    run(loop, main())


def test_sock_reader_added_meanwhile_takes_the_place(loop, pair):
    """As in asyncio: the later one replaces the former, and is not removed with it."""

    async def main():
        seen = []
        mine, other = pair
        task = loop.create_task(loop.sock_recv(mine, 1))
        await turns(2)
        loop.add_reader(mine, lambda: seen.append(mine.recv(1)))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await turns(2)
        other.send(b"x")
        while not seen:
            await asyncio.sleep(0)
        return seen, loop.remove_reader(mine)

    assert run(loop, main()) == ([b"x"], True)


def test_sock_coroutines_are_made_into_tasks_and_gathered(loop, pair):
    """They are coroutines as anybody's: named in a task's repr, closed without a trace."""

    async def main():
        receiving = asyncio.ensure_future(loop.sock_recv(pair[1], 5))
        await asyncio.sleep(0)
        assert "sock_recv" in repr(receiving)
        await asyncio.gather(loop.sock_sendall(pair[0], b"hello"), receiving)
        coro = loop.sock_recv(pair[0], 1)
        assert asyncio.iscoroutine(coro)
        coro.close()
        return receiving.result()

    assert run(loop, main()) == b"hello"


def test_sock_echo_has_the_trace_of_asyncio():
    """Who goes on first when two wait for each other's bytes."""

    async def main(loop, trace):
        mine, other = socket.socketpair()
        with mine, other:
            mine.setblocking(False)
            other.setblocking(False)

            async def echo():
                while data := await loop.sock_recv(other, 100):
                    trace.append(("echo", data))
                    loop.call_soon(trace.append, ("soon", data))
                    await loop.sock_sendall(other, data)

            task = loop.create_task(echo())
            for number in range(20):
                await loop.sock_sendall(mine, b"%d" % number)
                trace.append(("sent", number))
                trace.append(("got", await loop.sock_recv(mine, 100)))
                if number % 3 == 0:
                    await asyncio.sleep(0)
            mine.shutdown(socket.SHUT_WR)
            await task

    traces = []
    for factory, debug in LOOPS.values():
        loop, trace = factory(), []
        loop.set_debug(debug)
        try:
            run(loop, main(loop, trace))
        finally:
            loop.close()
        traces.append(trace)
    assert traces[1:] == traces[:-1]
