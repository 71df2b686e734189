"""The core in front of asyncio's own loop: the fields are shared, and what is inherited works on them."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio
import heapq
import os
import signal
import socket
import sys
import threading

import pytest
from reactor_fixtures import PATIENCE, pytest_generate_tests, reactor_module, selector_class

from evloop.aio.loop import AsyncioLifecycle

STANDARD = asyncio.SelectorEventLoop


def loop_class(module):
    """Return asyncio's loop on the core of one implementation."""
    return type("EventLoop", (AsyncioLifecycle, module.Core, STANDARD), {"_core": module.Core})


@pytest.fixture
def new_loop(reactor_module, selector_class):
    """A factory of loops on one implementation over one selector; whoever makes one closes it."""
    cls = loop_class(reactor_module)
    return lambda: cls(selector_class())


def run(new_loop, main):
    """Do what asyncio.run(main, loop_factory=new_loop) does, in the versions that lack the argument, too."""
    loop = new_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(main, PATIENCE))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.mark.parametrize("size", [1, 70_000, 1_000_000])
def test_streams_echo_returns_what_was_sent(new_loop, size):
    """Transports, flow control and tasks of the standard library, all on our fds and our FIFO."""

    async def echo(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        sent = os.urandom(size)
        writer.write(sent)
        writer.write_eof()
        got = await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return got == sent

    assert run(new_loop, main()) is True


def test_sock_methods_connect_accept_and_move_bytes(new_loop):
    """The low-level calls add and remove readers and writers for each operation, and look at their handles."""

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            listener.setblocking(False)
            client.setblocking(False)
            accepting = loop.create_task(loop.sock_accept(listener))
            await loop.sock_connect(client, listener.getsockname())
            peer, _ = await accepting
            with peer:
                receiving = loop.create_task(loop.sock_recv(peer, 100))
                await asyncio.sleep(0)
                await loop.sock_sendall(client, b"hello")
                return await receiving

    assert run(new_loop, main()) == b"hello"


def test_timers_sleep_wait_for_and_cancel_keep_their_order(new_loop):
    """asyncio's own users of the heap: futures with time-outs, cancelled as often as not."""

    async def main():
        order = []

        async def nap(seconds):
            await asyncio.sleep(seconds)
            order.append(seconds)

        naps = [asyncio.ensure_future(nap(seconds)) for seconds in (0.03, 0.01, 0.02)]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(PATIENCE), 0.005)
        await asyncio.gather(*naps)
        return order

    assert run(new_loop, main()) == [0.01, 0.02, 0.03]


def test_threadsafe_and_executor_wake_the_loop(new_loop):
    """to_thread ends with call_soon_threadsafe from another thread into a loop that sleeps."""

    async def main():
        return await asyncio.gather(*(asyncio.to_thread(threading.get_ident) for _ in range(20)))

    assert threading.get_ident() not in run(new_loop, main())


def test_subprocess_output_and_exit_code_arrive(new_loop):
    """Pipes are fds like any other; a child's end comes from a thread or a pidfd."""

    async def main():
        command = [sys.executable, "-c", "print(input().upper())"]
        process = await asyncio.create_subprocess_exec(*command, stdin=-1, stdout=-1)
        out, _ = await process.communicate(b"hello\n")
        return out, process.returncode

    if sys.version_info >= (3, 12):
        assert run(new_loop, main()) == (b"HELLO\n", 0)
        return
    watcher = asyncio.ThreadedChildWatcher()
    asyncio.set_child_watcher(watcher)
    try:
        assert run(new_loop, main()) == (b"HELLO\n", 0)
    finally:
        asyncio.set_child_watcher(None)


def test_signal_handler_of_asyncio_runs_in_the_loop(new_loop):
    """asyncio's signals come through its own socket pair, which is watched by our core."""

    async def main():
        loop = asyncio.get_running_loop()
        caught = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, caught.set_result, "caught")
        os.kill(os.getpid(), signal.SIGUSR1)
        result = await caught
        return result, loop.remove_signal_handler(signal.SIGUSR1)

    assert run(new_loop, main()) == ("caught", True)


def test_asyncio_runner_with_a_loop_factory(new_loop):
    """The modern way to choose a loop; asyncio.run(loop_factory=) is this and no more."""

    async def main():
        await asyncio.sleep(0)
        return type(asyncio.get_running_loop()).__name__

    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            assert runner.run(main()) == "EventLoop"
    else:
        assert run(new_loop, main()) == "EventLoop"


def test_init_of_asyncio_afterwards_keeps_the_queue_and_the_heap(reactor_module, new_loop):
    """BaseEventLoop's __init__ assigns its fields after ours: both halves must see one FIFO and one heap."""
    loop, ran = new_loop(), []
    try:
        loop._ready.append(asyncio.Handle(ran.append, ("theirs",), loop))
        loop.call_soon(ran.append, "ours")
        loop._scheduled.append(loop.call_at(0, ran.append, "unused"))
        loop._scheduled.pop()
        assert (len(loop._ready), bool(loop._ready), len(loop._scheduled)) == (2, True, 1)
        loop.stop()
        loop.run_forever()
        assert ran == ["theirs", "ours", "unused"]
    finally:
        loop.close()


def test_heap_holds_both_kinds_of_timers(new_loop):
    """set_debug on a live loop mixes asyncio's handles into the heap; either may be pushed by either side."""
    loop, ran = new_loop(), []
    try:
        for number in range(200):
            when = (number * 7919) % 200 / 1000
            if number % 2:
                loop.call_at(when, ran.append, when)
            else:
                handle = asyncio.TimerHandle(when, ran.append, (when,), loop)
                heapq.heappush(loop._scheduled, handle)
                handle._scheduled = True
        loop.stop()
        loop.run_forever()
        assert ran == sorted(ran)
        assert len(ran) == 200
    finally:
        loop.close()


def test_foreign_timers_cancelled_keep_the_count_right(new_loop):
    """asyncio's TimerHandle tells the loop before it is cancelled: a rebuild must drop the very one that tells."""
    loop = new_loop()
    try:
        handles = []
        for number in range(300):
            handle = asyncio.TimerHandle(loop.time() + 1000 + number, print, (), loop)
            heapq.heappush(loop._scheduled, handle)
            handle._scheduled = True
            handles.append(handle)
        for handle in handles:
            handle.cancel()
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert loop._timer_cancelled_count == sum(handle._cancelled for handle in loop._scheduled)
        assert len(loop._scheduled) <= 101
    finally:
        loop.close()


def test_exception_handler_gets_our_handle_from_asyncio(new_loop):
    """What a callback lets escape goes asyncio's way, with asyncio's keys."""
    loop, seen = new_loop(), []
    try:
        loop.set_exception_handler(lambda _, context: seen.append(sorted(context)))
        loop.call_soon(lambda: 1 / 0)
        loop.stop()
        loop.run_forever()
        assert seen == [["exception", "handle", "message"]]
    finally:
        loop.close()


def test_keyboard_interrupt_leaves_a_loop_that_can_be_closed(new_loop):
    """Ctrl-C inside of a task, the ordinary end of a program under development."""
    loop = new_loop()

    def interrupt():
        raise KeyboardInterrupt

    try:
        loop.call_soon(interrupt)
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        assert loop.is_running() is False
    finally:
        loop.close()
    assert loop.is_closed() is True


def test_closed_loop_refuses_and_is_closed_twice(new_loop):
    """Both halves agree that it is closed; the second close has nothing left to do."""
    loop = new_loop()
    loop.close()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon(print)
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_forever()


def test_each_public_name_comes_from_the_half_that_is_meant(reactor_module):
    """A name that the core grows by accident would shadow asyncio's; the list is the contract."""
    cls = loop_class(reactor_module)
    mine = {name for name in vars(reactor_module.Core) if not name.startswith("_")}
    assert mine - {"dispatching", "socket_factory"} == {
        "add_reader", "add_writer", "call_at", "call_later", "call_soon", "call_soon_threadsafe", "flush_soon",
        "modify", "recv_buffer", "register", "remove_reader", "remove_writer", "time", "unregister",
    }  # fmt: skip
    for name in ("call_at", "call_later", "call_soon", "call_soon_threadsafe", "time", "_timer_handle_cancelled"):
        assert getattr(cls, name) is getattr(reactor_module.Core, name), name
    for name in ("add_reader", "add_writer", "remove_reader", "remove_writer"):
        assert getattr(cls, name) is getattr(STANDARD, name), name
    for name in ("run_forever", "run_until_complete", "stop", "is_running", "is_closed", "call_exception_handler",
                 "add_signal_handler", "create_server", "create_task", "get_debug", "set_debug"):  # fmt: skip
        assert getattr(cls, name) is getattr(STANDARD, name), name
