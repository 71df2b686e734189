"""No memory, at each allocation of a broadcast: nobody has it, or each member has all of it or is closed.

A member that goes on after it has missed a frame is wrong, and does not know.  Each case runs in an interpreter of its
own: one that has been starved is not one to run other tests in.
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
from groups import group_class
from peers import DataRecorder, FrameRecorder, Framing, World
from evloop._connection import Connection

gc.disable()  # a collection has allocations of its own, and says on stderr which of them has failed
LARGE = b"L" * 20_000
SCENARIOS = {
    # framings of the members, what was sent before in the same turn, what is sent now
    "small": ([Framing.U32] * 6, [], [b"hello"]),
    "small behind small": ([Framing.U32] * 6, [b"before"], [b"hello"]),
    "large": ([Framing.U32] * 6, [], [LARGE]),
    "large behind small": ([Framing.U32] * 6, [b"before"], [LARGE]),
    "many": ([Framing.U32] * 6, [], [b"a", b"b"]),
    "mixed": ([Framing.U32, Framing.U16, None], [b"before"], [LARGE]),
    "more than the ring": ([Framing.U32] * 70, [], [b"hello"]),
}

def life(name, start):
    """Return whether the call succeeded, how many were closed."""
    framings, before, now = SCENARIOS[name]
    world, group = World(Connection), group_class(Connection)()
    made = []
    for framing in framings:
        rec = DataRecorder() if framing is None else FrameRecorder()
        made.append(world.connect(rec, pair=socket.socketpair, framing=framing, reading=True))
        group.add(made[-1][0])
    for payload in before:
        group.send(payload)
    raised = False
    send = group.send_many
    _testcapi.set_nomemory(start, start + 1)
    try:
        count = send(now)
    except MemoryError:
        raised = True
    _testcapi.remove_mem_hooks()
    closed = 0
    world.settle()
    for (conn, peer), framing in zip(made, framings):
        old, new = (b"".join(x) if framing is None else framing.encode_many(x) for x in (before, now))
        got = bytes(peer.received)
        if conn.close_reason is not None:
            closed += 1
            assert (old + new).startswith(got), (name, start, len(got))
        else:
            assert got == old + (b"" if raised else new), (name, start, raised, len(got))
    world.errors.clear()
    world.close()
    return not raised, closed

for name in SCENARIOS:
    succeeded = refused = closed = 0
    for start in range(40):
        good, cut = life(name, start)
        succeeded, refused, closed = succeeded + good, refused + (not good), closed + cut
    assert succeeded and refused, (name, succeeded, refused, closed)
    assert closed or "large" not in name, name
print("done")
'''


@pytest.mark.slow
def test_group_without_memory_sends_to_all_or_closes_who_misses_it(pytestconfig):
    """The compiled twin: in Python every line allocates."""
    needs_compiled(pytestconfig)
    pytest.importorskip("_testcapi")
    assert run_python(CHILD, str(Path(__file__).parents[1])) == (0, "done\n", "")
