"""The compiled group leaves nothing behind, however it and its members end; nor does a connection that is handed over.

Each round is a whole world, with a reactor of its own: what a reactor keeps of its connections is part of the count.
"""

from __future__ import annotations

import pytest
from groups import group_class, members
from growth import fails, leaked
from peers import DataRecorder, FrameRecorder, World, encode, narrow_pair
from twins import needs_compiled

from evloop import FrameTooLarge, Framing

LARGE = bytes(100_000)


@pytest.fixture(scope="module")
def compiled(request):
    """The compiled connection."""
    needs_compiled(request.config)
    import evloop._connection

    return evloop._connection.Connection


def sends(world, group):
    """Of all sizes, to several framings, from inside and outside; what is refused; what waits at the end."""
    members(world, group, 3)
    members(world, group, 2, framing=Framing.U16)
    members(world, group, 2, make=DataRecorder, framing=None)
    members(world, group, 2, pair=narrow_pair, reading=False)
    for payload in (b"a", b"b" * 300, bytearray(b"c"), b"d" * 20_000):
        group.send(payload)
        group.send_many([payload, payload])
        world.turn()
    fails(FrameTooLarge, group.send, LARGE)
    fails(TypeError, group.send, "text")


def cuts(world, group):
    """Slow ones, by each bound."""
    members(world, group, 2, pair=narrow_pair, reading=False, max_output=50_000)
    members(world, group, 2, pair=narrow_pair, reading=False, soft_output=20_000, soft_output_timeout=1)
    members(world, group, 2, pair=narrow_pair, reading=False, write_timeout=1)
    for _ in range(20):
        group.send(b"x" * 10_000)
        world.turn()
    world.advance(2)
    world.advance(2)
    assert len(group) == 0


def leaves(world, group):
    """By discard, by each end, in callbacks of the walk, and not at all."""
    made = members(world, group, 6, lambda: FrameRecorder(pause=lambda rec: group.discard(rec.conn)), pair=narrow_pair)
    groups = [group_class(world.connection_class)() for _ in range(10)]
    for conn, _peer in made:
        for other in groups:
            other.add(conn)
    group.discard(made[0][0])
    made[1][0].close()
    made[2][0].abort()
    made[3][1].close()
    del groups[::2]
    for _ in range(10):
        group.send(LARGE)
        world.turn()
    iter(group), repr(group), list(group)


def handed_over(world, group):
    for first in (True, False):
        taker = FrameRecorder()
        conn, peer = world.connect(DataRecorder(), framing=None, reading=True)
        conn.protocol.log.clear()
        taker.conn = conn
        conn.set_protocol(taker)
        conn.set_framing(Framing.U32, encode(b"a", LARGE)[: 5000 if first else None])
        group.add(conn)
        conn.set_framing(Framing.U16)
        fails(TypeError, conn.set_framing, "text")
        fails(TypeError, conn.set_framing, None, "text")
        world.settle()
        peer.write(encode(b"b", framing=Framing.U16))
        world.settle()
        conn.set_protocol(DataRecorder())  # which cannot take frames
        peer.write(encode(b"b", framing=Framing.U16))
        conn.protocol.conn = conn
        world.settle()


OPERATIONS = [sends, cuts, leaves, handed_over]


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_group_life_leaves_nothing_behind(compiled, operation):
    """Rooms come and go with their users."""

    def one_life():
        world = World(compiled)
        operation(world, group_class(compiled)())
        world.close()

    assert leaked(one_life, rounds=20) == {}


@pytest.mark.slow
def test_group_messages_leave_nothing_behind(compiled):
    """One room that lives for months: what grows with its messages, and not with its lives."""
    world = World(compiled)
    group = group_class(compiled)()
    made = members(world, group, 5) + members(world, group, 1, make=DataRecorder, framing=None)
    visitor, _peer = world.connect(FrameRecorder(), reading=True)

    def messages():
        for payload in (b"a", b"b" * 20_000, LARGE):
            group.send(payload, exclude=made[0][0])
        group.send_many([b"a", bytearray(b"b")])
        group.add(visitor)
        group.send(b"c")
        group.discard(visitor)
        world.settle()
        for peer in world.peers:
            peer.received.clear()

    assert leaked(messages) == {}
    world.close()
