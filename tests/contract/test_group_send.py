"""What a group promises about what it sends: the bytes, the order, the system calls, and the bounds of each member."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import functools
import gc
import itertools
import socket
import sys

import pytest
from groups import frames_of, group_class, members
from kernel import implementation_of
from packetpeers import packets
from peers import DataRecorder, FrameRecorder, World, connection_class, decode, encode, kernel, narrow_pair, world
from test_connection_reentry import collection_after
from tlspeers import make_world, shake, tls_world
from twins import needs_compiled

import evloop
from evloop import CloseReason, FrameTooLarge, Framing, Limits

U16, U32 = Framing.U16, Framing.U32
LARGE = b"L" * 20_000  # by reference
HIGH = 65_536  # the default


@pytest.fixture
def group(world):
    """An empty one."""
    return group_class(world.connection_class)()


# --- what arrives ----------------------------------------------------------------------------------------------------


def test_group_send_reaches_all_but_the_excluded_in_order(world, group):
    """A chat's message goes to the others, and its sender gets an answer of his own."""
    made = members(world, group, 4)
    stranger, _peer = world.connect(FrameRecorder(), pair=socket.socketpair)
    assert group.send(b"1") == 4
    assert group.send(b"2", exclude=made[1][0]) == 3
    assert group.send(b"3", exclude=stranger) == 4
    assert group.send_many([b"4", b"5"], exclude=made[0][0]) == 3
    world.settle()
    assert frames_of(made) == [
        [b"1", b"2", b"3"],
        [b"1", b"3", b"4", b"5"],
        [b"1", b"2", b"3", b"4", b"5"],
        [b"1", b"2", b"3", b"4", b"5"],
    ]
    assert [conn.stats.frames_sent for conn, _peer in made] == [3, 4, 5, 5]


@pytest.mark.parametrize("sizes", [(1, 2), (20_000, 1), (1, 20_000), (16_383, 16_383), (16_380, 16_379), (70_000,),
                                   (20_000, 20_000, 5, 20_000), (0, 0), (300,) * 40], ids=str)  # fmt: skip
@pytest.mark.parametrize("turns", ["one turn", "a turn each"])
def test_group_send_of_all_sizes_arrives_whole(world, group, sizes, turns):
    """By reference, by copy behind it, by copy before it: the bytes are the same."""
    made = members(world, group, 3)
    payloads = [bytes([number + 65]) * size for number, size in enumerate(sizes)]
    for payload in payloads:
        group.send(payload)
        if turns == "a turn each":
            world.turn()
    world.settle()
    assert [decode(bytes(peer.received)) for _conn, peer in made] == [payloads] * 3
    assert [conn.stats.output for conn, _peer in made] == [0] * 3


@pytest.mark.parametrize("make", [lambda: bytearray(b"abc"), lambda: memoryview(b"xabcx")[1:4]])
def test_group_send_takes_bytes_like_objects_and_copies_them(world, group, make):
    """The caller's buffer is his again when send returns."""
    made, payload = members(world, group, 2), make()
    group.send(payload)
    if isinstance(payload, bytearray):
        payload[:] = b"xyz"
    world.settle()
    assert frames_of(made) == [[b"abc"]] * 2


def test_group_send_mixes_with_the_members_own_in_order(world, group):
    """What was sent first arrives first, whoever has sent it."""
    made = members(world, group, 3)
    for number, (conn, _peer) in enumerate(made):
        conn.send(b"before %d" % number)
    group.send(b"all")
    for number, (conn, _peer) in enumerate(made):
        conn.send(b"between" if number else LARGE)
    group.send(b"again")
    group.send(LARGE)
    group.send(b"last")
    world.settle()
    assert frames_of(made) == [
        [b"before %d" % number, b"all", b"between" if number else LARGE, b"again", LARGE, b"last"]
        for number in range(3)
    ]


def test_group_send_in_a_members_callback_follows_what_it_has_sent_itself(world, group):
    """An echo to the sender, then the broadcast, then more: to the sender all in one send."""

    def say(rec, frame):
        rec.conn.send(b"ok")
        group.send(frame)
        rec.conn.send(b"done")

    kernel = world.spy()
    made = members(world, group, 3, lambda: FrameRecorder(frame=say))
    made[0][1].write(encode(b"hi"))
    world.settle()
    assert frames_of(made) == [[b"ok", b"hi", b"done"], [b"hi"], [b"hi"]]
    assert [kernel.sends(conn) for conn, _peer in made] == [1, 1, 1]


@pytest.mark.parametrize("place", ["callback", "timer", "outside"])
def test_group_sends_of_one_turn_cost_one_system_call_a_member(world, group, place):
    """A hundred broadcasts before the next wait are a hundred frames in one write."""
    kernel = world.spy()
    made = members(world, group, 4)
    _sender, peer = world.connect(FrameRecorder(frame=lambda rec, frame: burst()), pair=socket.socketpair)

    def burst():
        for number in range(100):
            group.send(b"%d" % number)

    if place == "callback":
        peer.write(encode(b"go"))
    elif place == "timer":
        world.reactor.call_soon(burst)
    else:
        burst()
    world.settle()
    assert frames_of(made) == [[b"%d" % number for number in range(100)]] * 4
    assert [kernel.sends(conn) for conn, _peer in made] == [1] * 4


def test_group_serves_another_member_last_each_time(world, group):
    """Who is always the last of five thousand is always 20 ms late."""
    kernel = world.spy()
    made = members(world, group, 8)
    written, lasts = [], []
    for index, (conn, _peer) in enumerate(made):
        kernel.cut_writes(conn, lambda size, index=index: written.append(index) or size)
    for _ in range(8):
        group.send(b"x")
        world.turn()
        lasts.append(written[-1])
    assert len(written) == 64
    assert all(one != other for one, other in itertools.pairwise(lasts))
    assert len(set(lasts)) >= 4


class TickingWorld(World):
    """A world in which half a millisecond passes between two looks at the clock."""

    @property
    def now(self):
        self._now += 0.0005
        return self._now

    @now.setter
    def now(self, value):
        self._now = value


def test_group_of_many_is_flushed_in_slices_between_which_others_are_served(connection_class):
    """Who has nothing to do with the broadcast waits for two milliseconds of it, and not for all."""
    world = TickingWorld(connection_class)
    group, left = group_class(connection_class)(), []
    made = members(world, group, 300)

    def count_left(rec, frame):
        left.append(sum(conn.stats.output > 0 for conn, _peer in made))

    _witness, peer = world.connect(FrameRecorder(frame=count_left), pair=socket.socketpair)
    world.settle()
    group.send(b"x")
    peer.write(encode(b"anybody there?"))
    world.reactor.run_until(lambda: left)
    assert 200 < left[0] < 300 - 16
    world.settle()
    assert frames_of(made) == [[b"x"]] * 300
    world.close()


# --- framings --------------------------------------------------------------------------------------------------------


def test_group_of_several_framings_encodes_for_each(world, group):
    """Raw members get the bytes as they are; equal framings that are other objects count as others, and work."""
    framings = [U32, U16, None, Framing(4, magic=b"EV"), Framing(2), U32, Framing.VARINT]
    made = [
        world.connect(
            DataRecorder() if framing is None else FrameRecorder(),
            framing=framing, pair=socket.socketpair, reading=True,
        )
        for framing in framings
    ]  # fmt: skip
    for conn, _peer in made:
        group.add(conn)
    assert (group.send(b"hello"), group.send_many([b"a", b"b"])) == (7, 7)
    group.send(LARGE)
    world.settle()
    payloads = [b"hello", b"a", b"b", LARGE]
    assert [bytes(peer.received) for _conn, peer in made] == [
        b"".join(payloads) if framing is None else framing.encode_many(payloads) for framing in framings
    ]


def test_group_keeps_one_frame_for_all_members(world, group):
    """Five thousand slow members of a room with a picture: the picture once, beside what is each one's own."""
    made = members(world, group, 20, reading=False, pair=narrow_pair, framing=None, make=DataRecorder)
    picture = bytes(100_000)
    before = sys.getrefcount(picture)
    group.send(picture)
    world.turn()
    held = sys.getrefcount(picture) - before
    assert held == (20 if "python" not in implementation_of(world.connection_class) else 0)
    for conn, _peer in made:
        conn.abort()
    assert sys.getrefcount(picture) == before


def test_group_whose_member_changes_its_framing_encodes_anew(world, group):
    """A connection that was unframed when it joined, and is not any more."""
    (first, one), (second, other) = members(world, group, 2)
    second.set_framing(U16)
    group.send(b"hi")
    world.settle()
    assert (one.received, other.received) == (encode(b"hi"), encode(b"hi", framing=U16))
    group.discard(first)
    group.discard(second)
    group.add(second)
    group.send(b"again")
    world.settle()
    assert other.received == encode(b"hi", b"again", framing=U16)


@pytest.mark.parametrize("wrong", ["text", 5, None, [b"x"]])
def test_group_send_of_what_is_no_bytes_raises_and_sends_nothing(world, group, wrong):
    """As a connection's send does."""
    made = members(world, group, 2)
    for send in (group.send, lambda payload: group.send_many([b"good", payload])):
        with pytest.raises(TypeError):
            send(wrong)
    world.settle()
    assert frames_of(made) == [[], []]


@pytest.mark.parametrize("size", [99, 100, 101])
def test_group_send_too_large_for_one_framing_goes_to_nobody(world, group, size):
    """Half of a room with a message that the others do not have is worse than an error."""
    small = Framing(4, max_frame=100)
    made = members(world, group, 2) + members(world, group, 1, framing=small)
    if size <= 100:
        assert group.send(bytes(size)) == 3
    else:
        with pytest.raises(FrameTooLarge, match=r"101 .*100"):
            group.send(bytes(size))
        assert group.send(bytes(size), exclude=made[2][0]) == 2
    world.settle()
    assert [len(frames) for frames in frames_of(made)] == ([1, 1, 1] if size <= 100 else [1, 1, 0])


def test_group_without_takers_encodes_nothing(world, group):
    """Whatever it is given: there is nobody whom it could be wrong for."""
    assert (group.send("text"), group.send_many([]), group.send_many([5])) == (0, 0, 0)
    ((conn, _peer),) = members(world, group, 1)
    assert (group.send(5, exclude=conn), group.send_many([])) == (0, 0)


# --- who gets nothing ------------------------------------------------------------------------------------------------


def test_group_send_passes_over_who_can_send_no_more(world, group):
    """After write_eof a connection's own send is an error of its caller; a group's has no idea of it."""
    made = members(world, group, 3)
    made[0][0].write_eof()
    assert (group.send(b"x"), len(group)) == (2, 3)
    made[1][0].close()
    assert (group.send(b"y"), len(group)) == (1, 2)
    world.settle()
    assert frames_of(made) == [[], [b"x"], [b"x", b"y"]]


def test_group_send_after_the_peer_is_gone_is_dropped_and_it_leaves(world, group):
    """The kernel says so at the first write; until then it counts as sent."""
    made = members(world, group, 2, pair=narrow_pair)
    made[0][1].reset()
    for _ in range(3):
        group.send(b"x")
        world.turn()
    world.settle()
    assert (len(group), made[0][0].close_reason, made[1][1].frames) == (1, CloseReason.RESET, [b"x"] * 3)


def test_group_send_in_the_childs_copy_goes_nowhere(world, group):
    """The sockets are the parent's."""
    made = members(world, group, 2)
    made[0][0]._forked()
    assert (group.send(b"x"), made[0][0] in group) == (1, False)
    world.connections.remove(made[0][0])
    world.recorders.remove(made[0][0].protocol)


# --- bounds ----------------------------------------------------------------------------------------------------------


def flood(group, world, count=40, size=10_000):
    for _ in range(count):
        group.send(bytes(size))
        world.turn()


@pytest.mark.parametrize("size", [10_000, 30_000])
def test_group_cuts_the_slow_member_and_no_other(world, group, size):
    """max_output holds for each: one sleeper costs the others nothing."""
    quick = members(world, group, 3, pair=narrow_pair)
    ((slow, _peer),) = members(world, group, 1, pair=narrow_pair, reading=False, max_output=100_000)
    rec = slow.protocol
    flood(group, world, size=size)
    world.until(lambda: all(len(peer.frames) == 40 for _conn, peer in quick))
    assert (slow.close_reason, slow in group, len(group)) == (CloseReason.SLOW_CONSUMER, False, 3)
    assert "exceed 100000 (max_output)" in str(rec.exc)


def test_group_send_in_one_turn_above_max_output_tries_the_kernel_first(world, group):
    """That nobody was flushed yet does not make a peer slow."""
    made = members(world, group, 3, max_output=50_000)
    for number in range(30):
        group.send(b"%05d" % number * 1000)
    world.settle()
    assert [len(peer.frames) for _conn, peer in made] == [30] * 3
    assert [conn.close_reason for conn, _peer in made] == [None] * 3


def test_group_pauses_a_full_member_and_resumes_it(world, group):
    """The water marks are each member's, and its callbacks come when all have theirs."""
    rooms = []
    made = members(
        world, group, 3, lambda: FrameRecorder(pause=lambda rec: rooms.append(waiting(made))), reading=False,
        pair=narrow_pair,
    )  # fmt: skip
    for _ in range(3):
        group.send(bytes(60_000))
        world.turn()
    assert [rec.log for rec in (conn.protocol for conn, _peer in made)] == [["made", "pause"]] * 3
    before = [conn.stats.output for conn, _peer in made]
    assert min(before) > HIGH
    for _conn, peer in made:
        peer.reading = True
    world.until(lambda: all(conn.protocol.log[-1] == "resume" for conn, _peer in made))
    world.settle()
    assert [len(peer.frames) for _conn, peer in made] == [3] * 3


def waiting(made):
    return [conn.stats.output for conn, _peer in made]


def test_group_soft_output_closes_after_its_time(world, group):
    """The soft bound runs from the broadcast that passes it."""
    ((slow, _peer),) = members(
        world, group, 1, reading=False, pair=narrow_pair, soft_output=50_000, soft_output_timeout=5
    )
    flood(group, world, 20)
    assert slow.close_reason is None
    world.advance(5.1)
    assert slow.close_reason is CloseReason.SLOW_CONSUMER


def test_group_write_timeout_runs_for_what_it_has_sent(world, group):
    """A peer that takes nothing is found, whoever has sent what it does not take."""
    ((slow, _peer),) = members(world, group, 1, reading=False, pair=narrow_pair, write_timeout=3)
    flood(group, world, 20)
    for _ in range(4):
        world.advance(1)
    assert slow.close_reason is CloseReason.WRITE_TIMEOUT


@pytest.mark.parametrize("limit", [30_000, 10_000_000])
def test_group_counts_for_the_budget_of_all(world, group, limit):
    """max_buffered counts what waits, by reference or not, and is told without a flush of ours."""
    told = []
    twin = sys.modules[world.connection_class.__module__]
    make = twin.Budget if hasattr(twin, "Budget") else evloop.connection.Budget
    budget = make(limit, lambda: told.append(budget.used))
    world.connection_class = functools.partial(world.connection_class, budget=budget)
    members(world, group, 2, reading=False, pair=narrow_pair)
    flood(group, world, 30, 5000)
    assert bool(told) == (limit == 30_000)
    assert budget.used == sum(conn.stats.output for conn in world.connections)


# --- callbacks in the middle of it -----------------------------------------------------------------------------------


def test_group_changed_by_pause_writing_has_sent_to_all_before(world, group):
    """The callback of the first may throw out the second, who has the frame by then."""

    def empty(rec):
        for conn in group:
            group.discard(conn)
        group.send(b"to nobody")

    slow = members(world, group, 1, lambda: FrameRecorder(pause=empty), reading=False, pair=narrow_pair)[0][0]
    quick = members(world, group, 4)
    slow.send(bytes(60_000))
    world.turn()
    for _ in range(2):
        group.send(b"y" * 9000)
    world.settle()
    assert slow.protocol.log == ["made", "pause"]
    assert (frames_of(quick), len(group)) == ([[b"y" * 9000] * 2] * 4, 0)


def test_group_sent_to_by_connection_lost_of_a_member_that_it_has_cut(world, group):
    """ "X has left" because of the message before it: after it, to all the others."""
    slow = members(
        world, group, 1, lambda: FrameRecorder(lost=lambda rec: group.send(b"X has left")), reading=False,
        pair=narrow_pair, max_output=20_000,
    )[0][0]  # fmt: skip
    quick = members(world, group, 3)
    while slow.close_reason is None:
        group.send(b"z" * 5000)
    world.settle()
    assert slow.close_reason is CloseReason.SLOW_CONSUMER
    assert [frames[-1] for frames in frames_of(quick)] == [b"X has left"] * 3
    assert len({len(frames) for frames in frames_of(quick)}) == 1


def test_group_send_that_ends_a_run_in_pause_writing_has_sent_to_all(world, group):
    """SystemExit goes to the caller, and nobody is without the frame."""

    def leave(rec):
        raise SystemExit

    slow = members(world, group, 1, lambda: FrameRecorder(pause=leave), reading=False, pair=narrow_pair)[0][0]
    quick = members(world, group, 3)
    slow.send(bytes(60_000))
    world.turn()
    with pytest.raises(SystemExit):
        while True:
            group.send(b"y" * 9000)
    world.settle()
    assert len({tuple(frames) for frames in frames_of(quick)}) == 1
    assert (len(group), frames_of(quick)[0][-1]) == (4, b"y" * 9000)


@pytest.mark.parametrize("size", [10, 20_000])
def test_group_changed_by_a_collection_in_the_middle_serves_each_once(world, group, size):
    """A destructor may run at any allocation, and close and discard: nobody is served twice, or forgotten."""
    made = members(world, group, 40)

    class Circle:
        def __init__(self):
            self.me = self

        def __del__(self):
            if victims:
                conn = victims.pop()
                (conn.abort if len(victims) % 2 else lambda: group.discard(conn))()

    for start in range(1, 12):
        victims = [made[start * 3][0], made[start * 3 + 1][0]]
        gc.collect()
        Circle(), Circle()
        threshold = gc.get_threshold()
        gc.set_threshold(start)
        try:
            group.send(b"%02d" % start * (size // 2))
        finally:
            gc.set_threshold(*threshold)
        gc.collect()
        world.turn()
    world.settle()
    for conn, peer in made:
        if conn in group:
            assert len(peer.frames) == 11
        assert len(set(peer.frames)) == len(peer.frames)


@pytest.mark.parametrize("size", [10, 20_000])
def test_group_send_serves_nobody_who_is_out_by_then(world, group, size):
    """A destructor may end a session in the middle: what is said after it has left is not for its connection."""
    came = 0
    for place in range(1, 60):
        made = [conn for conn, _peer in members(world, group, 5)]
        sent = []

        def leave(made=made, sent=sent):
            for conn in made:
                group.discard(conn)
            sent += [conn.stats.frames_sent for conn in made]

        with collection_after(place, leave):
            group.send(b"x" * size)
        after = [conn.stats.frames_sent for conn in made]
        # Who is being served when it comes has the frame already.
        assert not sent or sum(after) - sum(sent) in (0, 1)
        came += bool(sent)
        for conn in made:
            conn.abort()
        world.turn(2)
    assert came or sys.version_info >= (3, 12), "no collection came inside of send()"


# --- members of another make -----------------------------------------------------------------------------------------


@pytest.fixture
def public(pytestconfig):
    """The group of the twin in use, which takes every kind of connection of its reactor."""
    return evloop.Group()


def test_group_of_tls_members_seals_for_each(tls_world, public):
    """The payload is shared, the ciphertext cannot be."""
    made = [tls_world.connect(FrameRecorder(), reading=True) for _ in range(3)]
    for conn, _peer in made:
        public.add(conn)
    assert (len(public), made[0][0] in public, {*public}) == (3, True, {conn for conn, _peer in made})
    public.send(b"hello", exclude=made[0][0])
    public.send_many([b"a", LARGE])
    tls_world.until(lambda: all(LARGE in peer.frames for _conn, peer in made))
    assert frames_of(made) == [[b"a", LARGE], [b"hello", b"a", LARGE], [b"hello", b"a", LARGE]]
    made[1][0].abort()
    assert (len(public), public.send(b"x")) == (2, 2)
    public.discard(made[2][0])
    assert list(public) == [made[0][0]]


def test_group_passes_over_a_handshake_that_goes_on(tls_world, public):
    """Whose connection_made has not come has joined nothing; but a Connector's connection is known before."""
    conn, _peer = tls_world.manual(FrameRecorder())
    public.add(conn)
    assert public.send(b"x") == 0


def test_group_of_plain_and_tls_members_reaches_both(tls_world, public, pytestconfig):
    """One room, two ports."""
    needs_compiled(pytestconfig)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    plain = evloop.Connection(tls_world.reactor, ours, FrameRecorder(), framing=U32, limits=Limits())
    plain.start()
    conn, peer = tls_world.connect(FrameRecorder(), reading=True)
    for member in (plain, conn):
        public.add(member)
    assert (public.send(b"both"), public.send(b"one", exclude=conn), len(public)) == (2, 1, 2)
    tls_world.until(lambda: peer.frames)
    assert (theirs.recv(100), peer.frames) == (encode(b"both", b"one"), [b"both"])
    plain.abort()
    theirs.close()
    assert list(public) == [conn]


def test_group_of_packet_members_sends_each_message_as_one(packets, public):
    """Without framing a packet is a message, also where several leave at once."""
    made = [packets.connect(DataRecorder(), framing=None, reading=True) for _ in range(2)]
    for conn, _peer in made:
        public.add(conn)
    public.send(b"one")
    public.send_many([b"two", b"three"])
    packets.settle()
    assert [peer.packets for _conn, peer in made] == [[b"one", b"two", b"three"]] * 2
    for wrong in (b"", bytes(10_000_000)):
        with pytest.raises(ValueError):
            public.send(wrong)
    packets.settle()
    assert [len(peer.packets) for _conn, peer in made] == [3, 3]


def test_group_of_packet_members_with_frames_carries_a_stream(packets, public):
    """Where a packet ends means nothing then."""
    made = [packets.connect(FrameRecorder(), reading=True) for _ in range(2)]
    for conn, _peer in made:
        public.add(conn)
    public.send_many([b"", LARGE])
    packets.settle()
    assert frames_of(made) == [[b"", LARGE]] * 2
