"""Servers and connect() with coroutine handlers: shutdown, log, counters, TLS and packets, serve() as a process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
import subprocess
import sys
import threading

import pytest
from peers import PATIENCE, python, read_line, wait_until
from tlspeers import CA, SERVER

import evloop
import evloop.aio
from evloop import BlockingClient, CloseReason, ConnectionClosed, Limits, tls


def run(main):
    """Run a coroutine in our loop; fail when patience ends."""
    return evloop.aio.run(asyncio.wait_for(main, PATIENCE))


@contextlib.asynccontextmanager
async def served(handler, address="127.0.0.1:0", *, limits=Limits(linger=0), **options):  # noqa: B008 - frozen
    """A server of this loop; shut down at once at the end."""
    server = evloop.Server(asyncio.get_running_loop(), handler, address, limits=limits, **options)
    server.start()
    try:
        yield server
    finally:
        await shut_down(server, 0)


async def shut_down(server, grace):
    """Shut a server down, and wait for its last connection."""
    done = asyncio.get_running_loop().create_future()
    server.shutdown(grace, done=lambda: done.cancelled() or done.set_result(None))
    await done


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


async def echo(conn):
    async for frame in conn:
        conn.send(frame)
        await conn.drain()


class Callable:
    """An object that is called as a coroutine function."""

    async def __call__(self, conn):
        await echo(conn)


async def echo_with(prefix, conn):
    await echo(conn)


HANDLERS = {"function": echo, "partial": functools.partial(echo_with, "x"), "object": Callable()}


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
def test_server_of_a_coroutine_function_serves_many(handler):
    """However it is wrapped; fifty clients of the same loop, hundred frames each."""

    async def client(server):
        async with await evloop.aio.connect(server.address) as conn:
            for number in range(100):
                conn.send(b"%d" % number)
                assert await conn.recv() == b"%d" % number

    async def main():
        async with served(handler) as server:
            await asyncio.gather(*(client(server) for _ in range(50)))
            await until(lambda: not server.connections)
            return server.stats()

    stats = run(main())
    assert (stats["accepted"], stats["closed_peer"]) == (50, 50)
    assert stats["frames_received"] == stats["frames_sent"] == 5000


@pytest.mark.parametrize("kind", ["tls", "seqpacket", "unix", "unframed"])
def test_server_of_every_kind_takes_a_coroutine(kind, tmp_path):
    """Connections that are other classes, and run in plain Python on the compiled core."""
    server_options, client_options, address = {}, {}, "127.0.0.1:0"
    if kind == "tls":
        server_options["ssl"], client_options["ssl"] = tls.server_context(SERVER), tls.client_context(CA)
        client_options["server_hostname"] = "localhost"
    elif kind == "unframed":
        server_options["framing"] = client_options["framing"] = None
    else:
        address = f"{kind}:{tmp_path}/s"

    async def main():
        async with served(echo, address, **server_options) as server:
            async with await evloop.aio.connect(server.address, **client_options) as conn:
                for size in (1, 1000, 60_000):
                    conn.send(bytes(size))
                    got = b""
                    while len(got) < size:
                        got += await conn.recv()
                    assert got == bytes(size)
            await until(lambda: not server.connections)
            return server.stats()

    assert run(main())["closed_peer"] == 1


def test_server_max_connections_refuses_coroutine_connections_too():
    """Limits hold whatever the handler is."""

    async def main():
        async with served(echo, limits=Limits(max_connections=1, linger=0)) as server:
            async with await evloop.aio.connect(server.address) as first:
                first.send(b"x")
                await first.recv()
                second = await evloop.aio.connect(server.address)
                with pytest.raises(ConnectionError):
                    await second.recv()
                await second.wait_closed()
            return server.stats()

    assert run(main())["refused_max_connections"] == 1


# --- shutdown --------------------------------------------------------------------------------------------------------


def test_server_shutdown_ends_a_waiting_session_at_once_and_lets_a_busy_one_finish():
    """The busy one's answer arrives; both connections end for the same reason."""
    log = []

    async def handler(conn):
        async for frame in conn:
            if frame == b"busy":
                await release
            conn.send(frame)
            log.append(frame)

    async def main():
        nonlocal release
        release = asyncio.get_running_loop().create_future()
        async with served(handler) as server:
            waiting, busy = [await evloop.aio.connect(server.address) for _ in range(2)]
            waiting.send(b"x")
            assert await waiting.recv() == b"x"
            busy.send(b"busy")
            busy.send(b"not begun any more")
            await until(lambda: server.stats()["frames_received"] == 2)
            ended = asyncio.ensure_future(shut_down(server, 60))
            with pytest.raises(ConnectionClosed):
                await waiting.recv()
            assert not ended.done()
            release.set_result(None)
            assert await busy.recv() == b"busy"
            with pytest.raises(ConnectionClosed):
                await busy.recv()
            await ended
            return server.stats()

    release = None
    stats = run(main())
    assert log == [b"x", b"busy"]
    assert stats["closed_shutdown"] == 2


def test_server_shutdown_cancels_a_session_that_overruns_the_grace(caplog):
    """Its connection is reset, its task cancelled, and its clean-up runs."""
    log = []

    async def handler(conn):
        try:
            await conn.recv()
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    async def main():
        async with served(handler) as server:
            conn = await evloop.aio.connect(server.address)
            conn.send(b"x")
            await until(lambda: server.stats()["frames_received"] == 1)
            with caplog.at_level(logging.WARNING, "evloop"):
                await shut_down(server, 0.01)
            await turns()
            await conn.wait_closed()
            return server.stats()

    stats = run(main())
    assert log == ["cancelled"]
    assert stats["closed_aborted"] == 1
    assert "1 connections did not finish in time" in caplog.text


def test_server_shutdown_twice_shortens_the_grace():
    """A second call's grace replaces the first one's, for sessions as for others."""
    log = []

    async def handler(conn):
        try:
            await conn.recv()
            await asyncio.sleep(3600)
        finally:
            log.append("over")

    async def main():
        async with served(handler) as server:
            conn = await evloop.aio.connect(server.address)
            conn.send(b"x")
            await until(lambda: server.stats()["frames_received"] == 1)
            first = asyncio.ensure_future(shut_down(server, 3600))
            await turns()
            await shut_down(server, 0)
            await first
            await turns()

    run(main())
    assert log == ["over"]


# --- log and counters ------------------------------------------------------------------------------------------------


async def fail(conn):
    await conn.recv()
    raise KeyError("a bug")


async def cancel(conn):
    await conn.recv()
    asyncio.current_task().cancel()
    await conn.recv()


ENDS = {
    "handler": (fail, lambda conn: conn.send(b"x")),
    "peer": (echo, lambda conn: conn.close()),
    "local": (cancel, lambda conn: conn.send(b"x")),
    "reset": (echo, lambda conn: conn.abort()),
}


@pytest.mark.parametrize("reason", ENDS)
def test_server_logs_a_session_that_failed_and_is_silent_about_ordinary_ends(reason, caplog):
    """ERROR with the traceback of the handler alone; DEBUG for the rest."""
    handler, act = ENDS[reason]

    async def main():
        async with served(handler) as server:
            conn = await evloop.aio.connect(server.address)
            conn.send(b"first") if handler is echo else None
            act(conn)
            await until(lambda: server.stats()["accepted"] and not server.connections)
            conn.abort()
            await turns()
            return server.stats()

    with caplog.at_level(logging.DEBUG, "evloop"):
        stats = run(main())
    assert stats[f"closed_{reason}"] == 1
    records = [record for record in caplog.records if f"reason={reason}" in record.message]
    if reason == "handler":
        assert [record.levelname for record in records] == ["ERROR"]
        assert "KeyError: 'a bug'" in caplog.text
        assert "_session" not in caplog.text
    else:
        assert {record.levelname for record in records} == {"DEBUG"}
    assert all(record.levelno == logging.DEBUG for record in caplog.records if record not in records)


# --- connect() with a handler ----------------------------------------------------------------------------------------


def test_connect_with_a_coroutine_handler_runs_it():
    """The client's side of a session, without aio.connect()."""
    got = []

    async def client(conn):
        conn.send(b"question")
        got.append(await conn.recv())

    async def main():
        async with served(echo) as server:
            connector = evloop.connect(asyncio.get_running_loop(), server.address, client, timeout=PATIENCE)
            await until(lambda: connector.connection is not None)
            await connector.connection.wait_closed()
            return connector.connection.close_reason

    assert run(main()) is CloseReason.LOCAL
    assert got == [b"question"]


def test_connect_with_a_coroutine_handler_on_a_reactor_is_an_error():
    """Before a socket is made."""
    with evloop.Reactor() as reactor, pytest.raises(TypeError, match="needs an event loop"):
        evloop.connect(reactor, "127.0.0.1:1", echo)


def test_connect_that_fails_never_runs_the_handler():
    """And makes no coroutine that nobody awaits: that would be a warning."""
    failed = []

    async def client(conn):
        failed.append("ran")

    async def main():
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        evloop.connect(asyncio.get_running_loop(), f"127.0.0.1:{port}", client, failed=failed.append)
        await until(lambda: failed)

    run(main())
    assert [type(exc) for exc in failed] == [ConnectionRefusedError]


# --- serve() ---------------------------------------------------------------------------------------------------------


def test_serve_of_a_coroutine_inside_a_running_loop_is_an_error_that_names_aio():
    """It would block the loop; the text says what to do instead."""

    async def main():
        with pytest.raises(RuntimeError, match=r"evloop\.aio"):
            evloop.serve(echo, "127.0.0.1:0")

    run(main())


def test_serve_of_a_coroutine_in_a_thread_ends_by_shutdown():
    """Outside of the main thread signals are left alone."""
    ready, servers, errors = threading.Event(), [], []

    def started(server):
        servers.append(server)
        ready.set()

    def body():
        try:
            evloop.serve(echo, "127.0.0.1:0", ready=started, limits=Limits(linger=0))
        except BaseException as exc:
            errors.append(exc)
        finally:
            ready.set()

    thread = threading.Thread(target=body)
    thread.start()
    assert ready.wait(PATIENCE)
    (server,) = servers
    with BlockingClient(server.address, timeout=PATIENCE) as client:
        client.send(b"x")
        client.expect(b"x")
        server.reactor.call_soon_threadsafe(lambda: server.shutdown(done=server.reactor.stop))
        with pytest.raises(ConnectionClosed):
            client.recv()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert errors == []


SERVE = """
import asyncio, os, sys, evloop
async def handler(conn):
    try:
        async for frame in conn:
            if frame == b"busy":
                conn.send(b"begun")
                await asyncio.sleep(float(sys.argv[3]))
                conn.send(b"done")
            elif frame == b"big":
                for _ in range(8):
                    conn.send(bytes(1 << 20))
                    await conn.drain()
            elif frame == b"exit":
                sys.exit(7)
            elif frame == b"fork":
                if os.fork() == 0:
                    sys.exit(0)
                conn.send(frame)
            else:
                conn.send(frame.upper())
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise
limits = evloop.Limits(drain_timeout=float(sys.argv[1]), linger=float(sys.argv[2]), flush_timeout=60)
try:
    evloop.serve(handler, "127.0.0.1:0", limits=limits, ready=lambda server: print(server.address, flush=True))
finally:
    print("returned", flush=True)
"""


def client(address):
    return BlockingClient(address, timeout=PATIENCE)


@pytest.mark.slow
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda sig: sig.name)
def test_serve_signal_drains_coroutines_and_returns(sig):
    """The waiting one ends, the busy one finishes and its answer arrives, the exit code is 0."""
    with python(SERVE, 30, 30, 0.3) as process:
        address = read_line(process)
        with client(address) as busy, client(address) as big, client(address) as idle:
            idle.send(b"hi")
            idle.expect(b"HI")
            busy.send(b"busy")
            busy.expect(b"begun")
            big.send(b"big")
            big.recv()
            process.send_signal(sig)
            with pytest.raises(ConnectionClosed):
                idle.recv()
            assert [len(frame) for frame in big] == [1 << 20] * 7
            busy.expect(b"done")
            with pytest.raises(ConnectionClosed):
                busy.recv()
        assert process.wait(PATIENCE) == 0
        assert read_line(process) == "returned"
        assert process.stderr.read() == b""


@pytest.mark.slow
def test_serve_coroutine_that_overruns_the_grace_is_cancelled():
    """It is told, and the process ends with 0 all the same."""
    with python(SERVE, 0.2, 30, 3600) as process, client(read_line(process)) as stuck:
        stuck.send(b"busy")
        stuck.expect(b"begun")
        process.terminate()
        assert read_line(process) == "cancelled"
        assert read_line(process) == "returned"
        assert process.wait(PATIENCE) == 0
        assert b"did not finish in time" in process.stderr.read()


@pytest.mark.slow
def test_serve_second_sigint_cancels_coroutines_and_raises_keyboard_interrupt():
    """A person is waiting; the handlers' clean-up runs still."""
    with python(SERVE, 3600, 3600, 3600) as process, client(read_line(process)) as stuck:
        stuck.send(b"busy")
        stuck.expect(b"begun")
        process.send_signal(signal.SIGINT)
        wait_until(lambda: refused(stuck.address))
        process.send_signal(signal.SIGINT)
        assert read_line(process) == "cancelled"
        assert process.wait(PATIENCE) == -signal.SIGINT
        errors = process.stderr.read()
        assert b"KeyboardInterrupt" in errors
        assert b"never retrieved" not in errors


def refused(address):
    try:
        socket.create_connection((address.host, address.port)).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.slow
def test_serve_sys_exit_in_a_coroutine_ends_the_process_with_its_code():
    """SystemExit leaves the loop, without a complaint about it."""
    with python(SERVE, 30, 30, 0) as process, client(read_line(process)) as last:
        last.send(b"exit")
        assert process.wait(PATIENCE) == 7
        assert process.stderr.read() == b""


@pytest.mark.slow
def test_serve_coroutine_that_forks_leaves_the_parent_alone():
    """The child's way out through serve() touches nothing of the parent's."""
    with python(SERVE, 30, 30, 0) as process:
        address = read_line(process)
        with client(address) as witness, client(address) as forker:
            forker.send(b"fork")
            forker.expect(b"fork")
            for peer in (witness, forker):
                peer.send(b"still here")
                peer.expect(b"STILL HERE")
        with client(address) as late:
            late.send(b"late")
            late.expect(b"LATE")
        process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_serve_coroutine_in_pure_mode_serves_and_drains():
    """Without any extension: the same program."""
    with python(SERVE, 30, 30, 0.1, env={"EVLOOP_PURE": "1"}) as process:
        with client(read_line(process)) as peer:
            peer.send(b"busy")
            peer.expect(b"begun")
            process.terminate()
            peer.expect(b"done")
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == b""


def test_import_of_evloop_does_not_bring_asyncio_in():
    """Only who uses a coroutine handler pays for it."""
    source = "import sys, evloop; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], timeout=PATIENCE, check=False).returncode == 0
