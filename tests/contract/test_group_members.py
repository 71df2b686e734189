"""What a group promises about who is in it: adding, discarding, and leaving by itself."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import contextlib
import gc
import random
import weakref

import pytest
from groups import frames_of, group_class, members
from peers import FrameRecorder, World, connection_class, encode, narrow_pair, world
from twins import needs_compiled

import evloop
from evloop import CloseReason


@pytest.fixture
def group(world):
    """An empty one."""
    return group_class(world.connection_class)()


def test_group_is_public_and_of_the_twin_in_use():
    """The door takes the group of the connections that servers make."""
    assert evloop.Group.__module__ == evloop.Connection.__module__.replace("connection", "group")


def test_group_of_members_knows_them(world, group):
    """The names of a set, with a set's meaning."""
    conns = [conn for conn, _peer in members(world, group, 3)]
    stranger, _peer = world.connect(FrameRecorder())
    assert (len(group), list(group), bool(group)) == (3, conns, True)
    assert [conn in group for conn in [*conns, stranger]] == [True] * 3 + [False]
    assert (None in group, 5 in group) == (False, False)
    assert repr(group) == "<Group of 3>"
    group.discard(conns[0])
    assert (len(group), set(group), conns[0] in group) == (2, set(conns[1:]), False)


def test_group_add_and_discard_are_idempotent(world, group):
    """A user who joins twice is in the room once, and one who leaves twice is not an error."""
    (conn, peer), _other = members(world, group, 2)
    group.add(conn)
    assert (len(group), group.send(b"once")) == (2, 2)
    world.settle()
    assert peer.frames == [b"once"]
    group.discard(conn)
    group.discard(conn)
    assert len(group) == 1


def test_group_iterates_over_those_of_the_beginning(world, group):
    """Whoever empties a group in a loop over it gets them all."""
    made = members(world, group, 5)
    seen = []
    for conn in group:
        seen.append(conn)
        group.discard(conn)
    assert (seen, len(group)) == ([conn for conn, _peer in made], 0)


@pytest.mark.parametrize("wrong", [None, 5, "conn", object()])
def test_group_refuses_what_is_no_connection(group, wrong):
    """At once, and not when something is sent."""
    with pytest.raises(TypeError, match="a group is of connections, not of"):
        group.add(wrong)
    group.discard(wrong)
    assert len(group) == 0


def test_group_refuses_the_connection_of_another_reactor(world, group, connection_class):
    """Its thread is another one, or will be."""
    members(world, group, 1)
    other = World(connection_class)
    conn, _peer = other.connect(FrameRecorder())
    with pytest.raises(ValueError, match="the members of a group share a reactor"):
        group.add(conn)
    assert (len(group), conn in group) == (1, False)
    other.close()


@pytest.mark.parametrize("end", ["close", "abort", "peer", "reset", "raise", "write_timeout", "forked"])
def test_group_is_left_before_connection_lost_by_whatever_end(world, group, end):
    """What connection_lost tells the others goes to the others: nobody has to remember to discard."""
    told = []

    def fail(rec, frame):
        raise ZeroDivisionError

    def lost(rec):
        told.append((conn in group, len(group), group.send(b"has left")))

    conn, peer = world.connect(
        FrameRecorder(frame=fail, lost=lambda rec, *_: lost(rec)), pair=narrow_pair, linger=0, write_timeout=1
    )
    group.add(conn)
    stays = members(world, group, 2)
    if end in ("close", "abort"):
        getattr(conn, end)()
        assert conn not in group  # at once: what is sent now would be dropped
    elif end == "peer":
        peer.close()
    elif end == "reset":
        peer.reset()
    elif end == "raise":
        peer.write(encode(b"x"))
    elif end == "write_timeout":
        conn.send(bytes(500_000))
        world.turn()
        world.advance(1.1)
    else:
        conn._forked()
        assert (conn in group, len(group)) == (False, 2)
        world.connections.remove(conn)
        world.recorders.remove(conn.protocol)
        return
    world.until(lambda: told)
    world.settle()
    assert told == [(False, 2, 2)]
    assert frames_of(stays) == [[b"has left"]] * 2


def test_group_add_of_a_closing_connection_does_nothing(world, group):
    """Its peer may have ended it at any moment, so that is no error; and it would stay for ever."""
    conn, _peer = world.connect(FrameRecorder())
    conn.close()
    group.add(conn)
    assert (len(group), group.send(b"nobody")) == (0, 0)
    world.settle()
    group.add(conn)
    assert len(group) == 0


def test_group_of_many_and_connection_in_many_leave_in_any_order(world, connection_class):
    """Twenty rooms a connection: each swap of a place must be told to the one that is moved."""
    dice = random.Random(7)
    groups = [group_class(connection_class)() for _ in range(20)]
    conns = [world.connect(FrameRecorder())[0] for _ in range(12)]
    model = [set() for _ in groups]
    for step in range(3000):
        index, conn = dice.randrange(len(groups)), dice.choice(conns)
        if dice.random() < 0.55:
            groups[index].add(conn)
            model[index].add(conn)
        else:
            groups[index].discard(conn)
            model[index].discard(conn)
        if step % 50 == 0:
            assert [set(group) for group in groups] == model
            assert [len(group) for group in groups] == [len(found) for found in model]
            assert [conn in group for group in groups] == [conn in found for found in model]
    conns[3].abort()
    conns[8].close()
    gone = {conns[3], conns[8]}
    assert [set(group) for group in groups] == [found - gone for found in model]


def test_group_that_nobody_keeps_is_gone_and_its_members_are_not(world, connection_class):
    """A group for one announcement must not stay with each connection that was in it."""
    group, kept = group_class(connection_class)(), group_class(connection_class)()
    made = members(world, group, 3)
    for conn, _peer in made:
        kept.add(conn)
    ref = weakref.ref(group)
    del group
    gc.collect()
    assert ref() is None
    made[1][0].abort()
    assert (len(kept), kept.send(b"x")) == (2, 2)


def test_group_in_a_circle_with_a_member_is_collected(connection_class):
    """A room knows its group, a protocol its room, a connection its protocol."""

    class Room:
        pass

    def life():
        world = World(connection_class)
        room = Room()
        room.group = group_class(connection_class)()
        for conn, _peer in members(world, room.group, 3):
            conn.protocol.room = room
        world.close()
        return weakref.ref(room)

    room = life()
    gc.collect()
    assert room() is None


def test_group_forgets_a_compiled_connection_that_is_dropped_without_an_end(pytestconfig):
    """A reactor that is closed under its connections ends none of them; nothing may point at what is freed."""
    needs_compiled(pytestconfig)
    from evloop._connection import Connection

    group = group_class(Connection)()
    world = World(Connection)
    made = members(world, group, 4)
    world.reactor.close()
    for _conn, peer in made:
        peer.close()
    for conn, _peer in made[:2]:
        with contextlib.suppress(RuntimeError):
            conn.abort()
    assert len(group) == 2
    del world, made, conn, _peer, peer, _conn
    gc.collect()
    assert (len(group), group.send(b"x")) == (0, 0)


def test_group_can_be_derived_from(world, connection_class):
    """A room is a group with a name."""

    class Room(group_class(connection_class)):
        def __init__(self, name):
            super().__init__()
            self.name = name

    room = Room("lobby")
    made = members(world, room, 2)
    assert (room.name, room.send(b"hi"), repr(room)) == ("lobby", 2, "<Room of 2>")
    world.settle()
    assert frames_of(made) == [[b"hi"]] * 2
