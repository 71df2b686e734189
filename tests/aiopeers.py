"""What the tests of asyncio's transports share: our loop and the standard library's, and protocols that keep a diary.

Each test that takes `new_loop` runs on both, with the same assertions: that is how the two are held to be one.

Rule: nothing in this file may know how a transport works inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import pytest

import evloop.aio

PATIENCE = 20.0  # seconds; only a failing test waits as long
RST_ON_CLOSE = struct.pack("ii", 1, 0)
STANDARD = asyncio.SelectorEventLoop
LOOPS = {"ours": evloop.aio.EventLoop, "standard": STANDARD}


@pytest.fixture(params=LOOPS)
def new_loop(request):
    """A factory of loops, ours and asyncio's own."""
    return LOOPS[request.param]


def run(new_loop, main, handled=None):
    """Run the coroutine function *main* on a new loop; fail for what the loop reports unless a list takes it."""
    loop = new_loop()
    reports = [] if handled is None else handled
    loop.set_exception_handler(lambda _loop, context: reports.append(context))
    try:
        result = loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))
        loop.run_until_complete(turns(3))  # what was scheduled last
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    assert handled is not None or not reports, reports
    return result


async def turns(count=1):
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition):
    """Let the loop turn until *condition()* holds."""
    while not condition():
        await asyncio.sleep(0)


class Diary(asyncio.Protocol):
    """Notes what it is called with; then does what a test has put under the name of the callback."""

    def __init__(self, **actions):
        self.events = []
        self.actions = actions
        self.received = bytearray()
        self.transport = None

    @property
    def names(self):
        """The names of the callbacks, in order."""
        return [name for name, *_ in self.events]

    def _note(self, name, *args):
        self.events.append((name, *args))
        action = self.actions.get(name)
        return action(self, *args) if action else None

    def connection_made(self, transport):
        self.transport = transport
        self._note("connection_made")

    def data_received(self, data):
        assert type(data) is bytes
        self.received += data
        self._note("data_received", data)

    def eof_received(self):
        return self._note("eof_received")

    def pause_writing(self):
        self._note("pause_writing")

    def resume_writing(self):
        self._note("resume_writing")

    def connection_lost(self, exc):
        self._note("connection_lost", exc)


class BufferedDiary(Diary, asyncio.BufferedProtocol):
    """The same, with a buffer of its own."""

    def __init__(self, size=1000, **actions):
        super().__init__(**actions)
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint):
        assert sizehint == -1
        answer = self._note("get_buffer")
        return self.buffer if answer is None else answer

    def buffer_updated(self, nbytes):
        self.received += self.buffer[:nbytes]
        self._note("buffer_updated", nbytes)


def tcp_pair():
    """Return two connected sockets of TCP, over the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        return one, listener.accept()[0]


@contextlib.asynccontextmanager
async def connected(protocol, pair=tcp_pair):
    """Yield the transport of *protocol* and the raw non-blocking socket at its other end; both are closed."""
    ours, peer = pair()
    peer.setblocking(False)
    ours.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
    try:
        yield transport, peer
    finally:
        peer.close()
        if transport._sock is not None:  # asyncio's abort() of one that is closed raises
            transport.abort()
        await turns(2)


async def send(peer, data):
    """Send all of *data* from a raw peer, whose system calls are not the loop's: a table does not see them."""
    await STANDARD.sock_sendall(asyncio.get_running_loop(), peer, data)


async def receive(peer, size):
    """Return *size* bytes that a raw peer receives, less at the end of the stream."""
    received = bytearray()
    while len(received) < size:
        data = await STANDARD.sock_recv(asyncio.get_running_loop(), peer, min(size - len(received), 65536))
        if not data:
            break
        received += data
    return bytes(received)


def fill(transport):
    """Write until the kernel takes no more; return how many bytes were written."""
    written = 0
    while not transport.get_write_buffer_size():
        transport.write(b"f" * 65536)
        written += 65536
    return written


def reset(peer):
    """Close a raw peer with a reset."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
    peer.close()
