"""No memory, at each allocation of a read or a write: nothing is lost in the middle of a stream that goes on.

Each case runs in an interpreter of its own: one that has been starved is not one to run other tests in.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from feeding import run_python
from twins import needs_compiled

CHILD = '''
import sys
sys.path.insert(0, sys.argv[1])
import asyncio
import gc
import socket
import _testcapi
import evloop.aio

gc.disable()  # a collection has allocations of its own, and says on stderr which of them has failed
LARGE = bytes(range(256)) * 300  # 75 KiB: a bulk read
FULL = bytes(500_000)  # more than the kernel takes

class Protocol(asyncio.Protocol):
    def __init__(self, answers):
        self.received, self.answers, self.written, self.lost = [], answers, [], False

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.received.append(data)
        for answer in self.answers:
            self.transport.write(answer)
            self.written.append(answer)

    def connection_lost(self, exc):
        self.lost = True

SCENARIOS = {
    # what came before and was delivered, what comes now, the answers, what was written before
    "small": ([], b"hello", [], b""),
    "large": ([], LARGE, [], b""),
    "bulk": ([LARGE], LARGE, [], b""),
    "bulk that is short": ([LARGE], b"hello", [], b""),
    "answers": ([], b"hello", [b"one", b"two"], b""),
    "answers of some size": ([], b"hello", [b"one", bytes(20_000), bytearray(20_000), b"two"], b""),
    "answers that wait": ([], b"hello", [b"one", bytearray(b"two")], FULL),
    "answers that begin to wait": ([], b"hello", [b"one", FULL, b"two"], b""),
    "views that begin to wait": ([], b"hello", [b"one", bytearray(FULL), b"two"], b""),
}

async def life(name, start):
    """Return whether the connection went on, after allocation *start* had failed."""
    loop = asyncio.get_running_loop()
    before, now, answers, waiting = SCENARIOS[name]
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    peer.setblocking(False)
    protocol = Protocol([])
    transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
    for data in before:
        await loop.sock_sendall(peer, data)
        await asyncio.sleep(0)
    while sum(map(len, protocol.received)) < sum(map(len, before)):
        await asyncio.sleep(0)
    if waiting:
        transport.write(waiting)
    peer.send(now)
    protocol.answers = answers
    transport._revents = 1
    _testcapi.set_nomemory(start, start + 1)
    try:
        transport._run()
    except MemoryError:
        pass
    _testcapi.remove_mem_hooks()
    protocol.answers = []
    for _ in range(5):
        await asyncio.sleep(0)
    alive = not transport.is_closing()
    sent = b"".join([*before, now])
    if not transport.is_closing():
        while sum(map(len, protocol.received)) < len(sent):
            await asyncio.sleep(0)
    received = b"".join(protocol.received)
    assert received == sent[:len(received)], (name, start)
    assert received == sent or not alive, (name, start)
    transport.close()
    expected, got = b"".join([waiting, *protocol.written]), bytearray()
    try:
        while data := await loop.sock_recv(peer, 1 << 20):
            got += data
    except ConnectionResetError:  # closed with something unread
        pass
    peer.close()
    assert expected.startswith(got) or got.startswith(expected), (name, start, len(got), len(expected))
    assert got.startswith(expected) or not alive, (name, start, len(got), len(expected))
    while not protocol.lost:
        await asyncio.sleep(0)
    return alive

async def main():
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    for name in SCENARIOS:
        lives = [await life(name, start) for start in range(40)]
        assert any(lives) and not all(lives), (name, lives)
    print("done")

evloop.aio.run(main())
'''


@pytest.mark.slow
def test_transport_without_memory_loses_nothing_in_the_middle(pytestconfig):
    """It goes on with every byte, or it closes."""
    needs_compiled(pytestconfig)
    pytest.importorskip("_testcapi")
    assert run_python(CHILD, str(Path(__file__).parents[1])) == (0, "done\n", "")
