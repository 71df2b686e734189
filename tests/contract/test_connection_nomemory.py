"""No memory, at each allocation of a read: what was taken from the kernel is delivered, or the connection closes.

A connection that goes on after it has lost some bytes delivers what its peer never sent.  Each case runs in an
interpreter of its own: one that has been starved is not one to run other tests in.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from feeding import run_python
from twins import needs_compiled

CHILD = '''
import sys
sys.path.insert(0, sys.argv[1])
import gc
import socket
import _testcapi
from peers import DataRecorder, FrameRecorder, Framing, World, encode
from evloop._connection import Connection

gc.disable()  # a collection has allocations of its own, and says on stderr which of them has failed
U32, PAIR = Framing.U32, Framing(4, deliver="pair")
BODY = bytes(range(256)) * 160  # 40 KiB: the next one of this size is received in its place
SCENARIOS = {
    # framing, what came before and was delivered, what comes now
    "one": (U32, [], encode(b"hello")),
    "some": (U32, [], encode(*[b"hello"] * 5)),
    "cut": (U32, [], encode(b"hello", BODY)[:-100]),
    "pair": (PAIR, [], encode(b"hello", b"hello", framing=PAIR)),
    "in place": (U32, [encode(BODY * 4)[:100_000]], encode(BODY * 4, b"hello")[100_000:]),
    "guess is right": (U32, [encode(BODY)], encode(BODY, b"hello")),
    "guess is wrong": (U32, [encode(BODY)], encode(b"hello", BODY[:9000], b"hello")),
    "unframed": (None, [], b"hello" * 10),
}

def frames_of(framing, data):
    return [data] if framing is None else framing.decoder(max_frame=1 << 20).feed(data)

def life(name, start):
    """Return whether the connection went on, and with which frames, after allocation *start* had failed."""
    framing, before, now = SCENARIOS[name]
    world = World(Connection)
    rec = (DataRecorder if framing is None else FrameRecorder)()
    conn, peer = world.connect(rec, pair=socket.socketpair, framing=framing)
    for data in before:
        peer.write(data)
        world.settle()
    peer.write(now)
    error = None
    read = conn.on_readable
    _testcapi.set_nomemory(start, start + 1)
    try:
        read()
    except MemoryError as exc:
        error = exc
    _testcapi.remove_mem_hooks()
    world.settle()
    world.errors.clear()
    result = conn.close_reason is None, rec.frames
    world.close()
    return result

for name, (framing, before, now) in SCENARIOS.items():
    whole = frames_of(framing, b"".join([*before, now]))
    went_on = ended = 0
    for start in range(30):
        alive, frames = life(name, start)
        assert frames == whole[:len(frames)], (name, start, len(frames))
        assert frames == whole or not alive, (name, start, len(frames), len(whole))
        went_on, ended = went_on + alive, ended + (not alive)
    assert went_on and ended, (name, went_on, ended)
print("done")
'''


@pytest.mark.slow
def test_connection_without_memory_in_a_read_delivers_what_it_took_or_closes(pytestconfig):
    """The compiled twin: in Python every line allocates, and what fails there ends up as an exception of a callback."""
    needs_compiled(pytestconfig)
    pytest.importorskip("_testcapi")
    assert run_python(CHILD, str(Path(__file__).parents[1])) == (0, "done\n", "")


SENDER = '''
import sys
sys.path.insert(0, sys.argv[1])
import gc
import socket
import _testcapi
from peers import FrameRecorder, World, encode
from evloop._connection import Connection

gc.disable()
LARGE, SMALL = bytes(range(256)) * 800, b"small" * 20

def life(sent, payloads, start):
    """Send behind a large answer of which *sent* bytes are gone, while allocation *start* fails."""
    world = World(Connection)
    world.spy()
    rec = FrameRecorder()
    conn, peer = world.connect(rec, pair=socket.socketpair)
    world.kernel.allow_writes(conn, sent)
    conn.send(LARGE)
    expected = encode(LARGE)
    call = conn.send_many
    _testcapi.set_nomemory(start, start + 1)
    try:
        call(payloads)
    except MemoryError:
        failed = True
    else:
        failed = False
    _testcapi.remove_mem_hooks()
    if not failed:
        expected += encode(*payloads)
    world.kernel.allow_writes(conn, None)
    peer.reading = True
    world.settle()
    ended = conn.close_reason is not None
    got = bytes(peer.received)
    world.errors.clear()
    world.close()
    assert got == expected or (ended and expected.startswith(got)), (sent, start, failed, ended, len(got))
    return failed

for payloads in ([SMALL], [LARGE], [SMALL, LARGE, LARGE]):
    for sent in (0, 2, 4, 100):
        assert {life(sent, payloads, start) for start in range(25)} == {True, False}
print("done")
'''


@pytest.mark.slow
def test_connection_without_memory_in_a_send_behind_a_large_answer_keeps_the_stream_whole(pytestconfig):
    """Refused, and nothing is sent; or the connection ends.  A torn stream would be taken for what was never sent."""
    needs_compiled(pytestconfig)
    pytest.importorskip("_testcapi")
    assert run_python(SENDER, str(Path(__file__).parents[1])) == (0, "done\n", "")
