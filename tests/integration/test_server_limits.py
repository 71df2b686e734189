"""The bounds that a server keeps for all its connections together, and what it counts."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import contextlib
import logging
import os
import random
import resource
import socket
import struct

import pytest
from peers import World, connection_class, encode, world
from serving import call, serving, start, upper

import evloop
from evloop import Limits, Server

MEBI = 1 << 20


def answer(conn, frame):
    """A handler: so many bytes as the frame says."""
    conn.send(bytes(int(frame)))


@pytest.fixture
def witness(world):
    """Call a server with what it returns; the peer has to be answered to the end of the test."""
    witnesses = []

    def add(server):
        witnesses.append(call(world, server))
        return witnesses[-1]

    yield add
    for peer in witnesses:
        peer.received.clear()
        peer.write(encode(b"7"))
        world.until(lambda peer=peer: peer.frames)


def part(size):
    """Return the first *size* bytes of a frame that is longer."""
    return struct.pack("!I", max(size, MEBI))[:size] + bytes(max(size - 4, 0))


def sized_parts(world, server, *sizes):
    """Return peers that have sent so many bytes of an unfinished frame each, and settle."""
    callers = [call(world, server).write(part(size)) for size in sizes]
    world.until(lambda: server.stats()["accepted"] >= len(sizes))
    world.settle()
    return callers


# --- the memory of all together --------------------------------------------------------------------------------------


def test_max_buffered_closes_the_largest_input_at_the_first_byte_too_many(world, serving, witness):
    """limit-1, limit, limit+1: liars that announce much and send little are bounded together, too."""
    server = serving(answer, limits=Limits(max_buffered=100_000, linger=0))
    watcher = witness(server)
    callers = sized_parts(world, server, 40_000, 30_000, 20_000, 9_999)
    assert server.stats()["buffered_bytes"] == 99_999
    for ended in ([False] * 4, [True, False, False, False]):
        callers[3].write(b"x")
        world.settle()
        assert [peer.ended for peer in callers] == ended
    world.turn(2)
    stats = server.stats()
    assert (stats["overloaded"], stats["closed_overload"], stats["buffered_bytes"]) == (1, 1, 60_001)
    assert not watcher.ended


def test_max_buffered_closes_until_a_fifth_is_free(world, serving, witness):
    """Looking for the largest costs time: it is paid once for so many bytes, not for each."""
    server = serving(answer, limits=Limits(max_buffered=100_000, linger=0))
    witness(server)
    callers = sized_parts(world, server, *[10_000] * 10)
    assert server.stats().get("closed_overload", 0) == 0
    callers[0].write(b"x")
    world.settle()
    world.turn(2)
    stats = server.stats()
    assert (stats["closed_overload"], stats["buffered_bytes"]) == (2, 80_000)
    assert callers[0].ended  # the largest


def test_max_buffered_holds_again_after_it_was_exceeded(world, serving, witness):
    """The second overload is as good as the first."""
    server = serving(answer, limits=Limits(max_buffered=100_000, linger=0))
    witness(server)
    for count in (1, 2, 3):
        sized_parts(world, server, 100_001)
        world.until(lambda count=count: server.stats()["overloaded"] == count)
        assert server.stats()["buffered_bytes"] == 0


def test_max_buffered_exceeded_for_less_than_a_turn_closes_nobody(world, serving):
    """Some other end in the same turn has set free what was too much."""
    conns = []

    def leave(conn, frame):
        if frame == b"hello":
            conns.append(conn)
        else:
            conns[0].abort()

    server = serving(leave, limits=Limits(max_buffered=100_000, linger=0))
    small, large, other = (call(world, server).write(encode(b"hello")) for _ in range(3))
    world.until(lambda: len(conns) == 3)
    small.write(part(9_000))
    large.write(part(90_000))
    world.settle()
    assert server.stats()["buffered_bytes"] == 99_000
    large.sock.send(bytes(2_000))
    other.sock.send(encode(b"abort"))
    world.turn(1)
    world.settle()
    stats = server.stats()
    assert (stats["overloaded"], stats["closed_aborted"], stats["buffered_bytes"]) == (0, 1, 92_000)
    assert not large.ended


def test_max_buffered_closes_the_largest_output_before_any_input(world, serving, witness):
    """Who asks and does not take is worse than who sends slowly."""
    server = serving(answer, limits=Limits(max_buffered=20 * MEBI, max_frame=32 * MEBI, linger=0))
    witness(server)
    sender = call(world, server).write(part(12 * MEBI))
    world.until(lambda: server.stats()["buffered_bytes"] == 12 * MEBI)
    taker = call(world, server, reading=False).write(encode(b"%d" % (16 * MEBI)))
    world.until(lambda: server.stats().get("closed_overload"))
    world.turn(2)
    taker.reading = True
    world.until(lambda: taker.ended)
    assert not sender.ended
    assert server.stats()["buffered_bytes"] == 12 * MEBI


def test_max_buffered_spares_a_small_output_beside_a_large_input(world, serving):
    """Less than an equal share is not what filled the memory."""
    server = serving(answer, limits=Limits(max_buffered=20 * MEBI, max_frame=32 * MEBI, linger=0))
    taker = call(world, server, reading=False).write(encode(b"%d" % (6 * MEBI)))
    world.until(lambda: server.stats()["buffered_bytes"] > MEBI)
    world.settle()
    sender = call(world, server).write(part(20 * MEBI))
    world.until(lambda: server.stats().get("closed_overload"))
    taker.reading = True
    world.until(lambda: len(taker.received) == 6 * MEBI + 4)
    assert (sender.ended, taker.ended) == (True, False)


def test_max_buffered_counts_what_is_sent_to_a_stalled_peer_by_others(world, serving, witness):
    """A broadcast: the output of a member that does not read grows without an event of its own."""
    members = []

    def broadcast(conn, frame):
        if frame == b"join":
            members.append(conn)
        elif frame == b"say":
            for member in members:
                member.send(bytes(MEBI))
        else:
            answer(conn, frame)

    server = serving(broadcast, limits=Limits(max_buffered=16 * MEBI, linger=0))
    speaker = witness(server)
    stalled = call(world, server, reading=False).write(encode(b"join"))
    world.until(lambda: members)
    for _ in range(40):
        speaker.write(encode(b"say"))
        world.settle()
        assert server._budget.used == server.stats()["buffered_bytes"] <= 16 * MEBI
    assert server.stats()["closed_overload"] == 1
    stalled.reading = True
    world.until(lambda: stalled.ended)


def test_max_buffered_counts_frames_that_wait_for_delivery(world, serving):
    """Held back by the application: decoded, and still memory."""
    conns = []

    def hold(conn, frame):
        conns.append(conn)
        conn.pause_reading()

    server = serving(hold, limits=Limits(max_buffered=MEBI, linger=0))
    call(world, server).write(encode(b"first", b"x" * 1000) + part(500))
    world.until(lambda: conns)
    stats = server.stats()
    assert stats["buffered_bytes"] == server._budget.used == len(encode(b"first", b"x" * 1000)) + 500
    assert stats["reads_paused"] == 1
    conns[0].resume_reading()
    world.until(lambda: len(conns) == 2)
    conns[0].resume_reading()
    world.settle()
    assert server._budget.used == server.stats()["buffered_bytes"] == 500


def test_max_buffered_is_back_to_zero_when_everybody_has_left(world, serving):
    """An account that drifts closes innocent peers a week later."""
    server = serving(answer, limits=Limits(max_buffered=MEBI, linger=0))
    callers = sized_parts(world, server, 1, 5, 1000)
    callers += [call(world, server, reading=False).write(encode(b"1000000", b"5", b"77") + b"\0") for _ in range(3)]
    world.settle()
    for index, peer in enumerate(callers):
        peer.close() if index % 2 else peer.reset()
    world.until(lambda: not server.connections)
    assert server._budget.used == server.stats()["buffered_bytes"] == 0


@pytest.mark.parametrize("seed", range(10))
def test_max_buffered_account_agrees_with_what_is_held_whatever_happens(world, serving, seed):
    """Counted by differences at a few places: one that is forgotten shows after some reads, pauses and ends."""
    dice = random.Random(seed)

    def act(conn, frame):
        what = dice.randrange(8)
        if what == 0:
            conn.pause_reading()
        elif what == 1:
            dice.choice(list(server.connections)).close()
        elif what == 2:
            dice.choice(list(server.connections)).abort()
        elif what < 6:
            for other in list(server.connections):
                other.send(bytes(dice.randrange(100_000)))
        else:
            conn.send(frame)

    server = serving(act, limits=Limits(max_buffered=4 * MEBI, max_output=2 * MEBI, linger=0))
    for _ in range(60):
        callers = [peer for peer in world.peers if not peer.ended]
        if len(callers) < 5 or dice.random() < 0.1:
            callers.append(call(world, server, reading=dice.random() < 0.5))
        peer = dice.choice(callers)
        if dice.random() < 0.5:
            peer.write(encode(*[bytes(dice.randrange(2000)) for _ in range(dice.randrange(5))]))
        elif dice.random() < 0.5:
            peer.reading = not peer.reading
        elif dice.random() < 0.2:
            peer.write(b"\0\0", fin=True)
        for conn in list(server.connections):
            if dice.random() < 0.3:
                conn.resume_reading()
        world.turn(dice.randrange(5))
        world.settle()
        assert server._budget.used == server.stats()["buffered_bytes"]
    server.shutdown(0)
    world.turn(4)
    assert server._budget.used == 0


def test_max_buffered_is_one_warning_with_a_count(world, serving, caplog):
    """An operator has to learn of it, and not once for each of a thousand peers."""
    server = serving(answer, limits=Limits(max_buffered=100_000, linger=0))
    sized_parts(world, server, *[10_000] * 9, 10_001)
    world.turn(2)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "closed with 10001 bytes held" in warnings[0]
    assert "exceeded 100000 (max_buffered)" in warnings[0]


# --- one address -----------------------------------------------------------------------------------------------------


class Foreign(socket.socket):
    """A listener whose peers come from `hosts`, one after the other: all that a machine without a network lacks."""

    hosts = ()

    def accept(self):
        sock, (_, port) = super().accept()
        hosts = type(self).hosts
        host, type(self).hosts = hosts[0], hosts[1:]
        return sock, (host, port)


@pytest.fixture
def foreign():
    """A function: serve with some limits in a world of its own, and call from hosts; return (world, server, peers)."""
    worlds = []

    def serve(hosts, **limits):
        Foreign.hosts = tuple(hosts)
        worlds.append(World(socket_factory=Foreign))
        server = start(worlds[-1], upper, limits=Limits(linger=0, **limits))
        callers = [call(worlds[-1], server) for _ in hosts]
        worlds[-1].until(lambda: server.stats()["accepted"] + server.stats()["refused"] == len(hosts))
        worlds[-1].settle()
        servers.append(server)
        return worlds[-1], server, callers

    servers = []
    yield serve
    for own_world, server in zip(worlds, servers, strict=True):
        server.shutdown(0)
        own_world.turn(4)
        own_world.close()


@pytest.mark.parametrize(("count", "refused"), [(2, 0), (3, 0), (4, 1), (7, 4)])
def test_max_per_address_refuses_the_one_above(foreign, count, refused, caplog):
    """limit-1, limit, limit+1: one address cannot take all the places, and another one is served."""
    world, server, callers = foreign(["192.0.2.1"] * count + ["192.0.2.2"], max_per_address=3)
    assert [peer.ended for peer in callers] == [False] * (count - refused) + [True] * refused + [False]
    assert [peer.error for peer in callers] == [None] * (count + 1)
    stats = server.stats()
    assert (stats["refused"], stats["refused_per_address"], stats["accepted"]) == (
        refused,
        refused,
        count - refused + 1,
    )
    for peer in callers:
        if not peer.ended:
            peer.write(encode(b"hi"))
            world.until(lambda peer=peer: peer.frames == [b"HI"])
    assert ("max_per_address=3 reached" in caplog.text) == bool(refused)


def test_max_per_address_place_is_free_again_after_a_close(foreign):
    """A bound that counts the dead shuts an honest client out for ever."""
    world, server, _ = foreign([], max_per_address=1)
    Foreign.hosts = ("192.0.2.1",) * 5
    for _ in range(5):
        peer = call(world, server).write(encode(b"hi"), fin=True)
        world.until(lambda peer=peer: peer.ended and not server.connections)
        assert peer.frames == [b"HI"]
    assert server.stats()["refused"] == 0
    assert server._per_address._counts == server._per_address._keys == {}


@pytest.mark.parametrize(
    ("hosts", "served"),
    [
        (["127.0.0.1", "127.0.0.1", "127.8.8.8"], [True, True, True]),
        (["::1", "::1"], [True, True]),
        (["::ffff:127.0.0.1", "::ffff:127.0.0.1"], [True, True]),
        (["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::", "2001:db8:0:1::1"], [True, False, False, True]),
        (["192.0.2.1", "::ffff:192.0.2.1", "::ffff:192.0.2.2"], [True, False, True]),
        (["fe80::1%lo", "fe80::2%lo"], [True, False]),
    ],
    ids=["loopback", "loopback6", "loopback-mapped", "prefix", "mapped", "scoped"],
)
def test_max_per_address_counts_what_one_party_has(foreign, hosts, served):
    """A /64 is what a household gets; loopback is a proxy, behind which everybody has that address."""
    _, _, callers = foreign(hosts, max_per_address=1)
    assert [not peer.ended for peer in callers] == served


def test_max_per_address_exempts_unix_peers(world, serving, tmp_path):
    """They have no address; the path's permissions say who may connect."""
    server = serving(address=f"unix:{tmp_path}/s", limits=Limits(max_per_address=1, linger=0))
    callers = [call(world, server).write(encode(b"hi")) for _ in range(3)]
    world.until(lambda: all(peer.frames for peer in callers))


# --- no descriptor left ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_descriptors():
    """Leave the process without a free descriptor for the time of the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_accept_without_descriptors_rests_and_does_not_spin(world, serving, witness, caplog):
    """A listener is readable as long as somebody waits: it is left alone for 0.1 s, 0.2 s, ... 1 s."""
    server = serving()
    watcher = witness(server)
    world.until(lambda: server.connections)
    waiting = call(world, server)
    with no_descriptors():
        world.turn(2)
        for tries, rest in enumerate((0.1, 0.2, 0.4), 1):
            world.turn(50)
            stats = server.stats()
            assert (stats["accept_paused"], stats["accept_errors"], stats["accept_errors_EMFILE"]) == (1, tries, tries)
            world.advance(rest - 0.001)
            assert server.stats()["accept_errors"] == tries
            world.advance(0.002)
        watcher.write(encode(b"hi"))
        world.until(lambda: watcher.frames == [b"HI"])
    waiting.write(encode(b"me, too"))
    world.advance(0.8)
    world.until(lambda: waiting.frames == [b"ME, TOO"])
    stats = server.stats()
    assert (stats["accept_paused"], stats["refused"], caplog.text.count("cannot accept")) == (0, 0, 1)


def test_accept_without_descriptors_for_long_turns_those_who_wait_away(world, serving, witness):
    """A clean end within two seconds; a connection that nobody answers tells a client nothing."""
    server = serving()
    witness(server)
    world.until(lambda: server.connections)
    waiting = [call(world, server) for _ in range(3)]
    with no_descriptors():
        world.turn(2)
        for rest in (0.101, 0.201, 0.401):
            world.advance(rest)
        world.settle()
        assert [peer.ended for peer in waiting] == [False] * 3
        world.advance(0.801)
        world.settle()
        assert [(peer.eof, peer.error) for peer in waiting] == [(True, None)] * 3
    assert server.stats()["refused_no_descriptor"] == server.stats()["refused"] == 3
    late = call(world, server).write(encode(b"hi"))
    world.advance(1.001)
    world.until(lambda: late.frames == [b"HI"])


def test_accept_without_descriptors_for_a_moment_twice_turns_nobody_away(world, serving):
    """Two short shortages, an hour apart, are not a long one."""
    server = serving()
    for _ in range(2):
        peer = call(world, server).write(encode(b"hi"))
        with no_descriptors():
            world.turn(2)
            assert server.stats()["accept_paused"] == 1
        world.advance(0.101)
        world.until(lambda peer=peer: peer.frames == [b"HI"])
        world.advance(3600)
    assert server.stats()["refused"] == 0


def test_accept_without_descriptors_can_turn_away_again(world, serving):
    """The spare descriptor is taken back each time, and returned at the end."""
    server = serving()
    call(world, server)
    world.until(lambda: server.connections)
    socks = [socket.socket() for _ in range(3)]  # made before there are none left
    with no_descriptors():
        for count, sock in enumerate(socks, 1):
            sock.connect((server.address.host, server.address.port))
            peer = world.peer(sock, True)
            for _ in range(6):
                world.advance(0.7)
            world.settle()
            assert peer.eof
            assert server.stats()["refused_no_descriptor"] == count


# --- what is counted -------------------------------------------------------------------------------------------------


def test_stats_total_what_was_exchanged_over_open_and_closed_connections(world, serving):
    """A rate that drops when a peer leaves is no rate."""
    server = serving()
    first, second = call(world, server), call(world, server)
    for peer in (first, second):
        peer.write(encode(b"one", b"three"))
        world.until(lambda peer=peer: peer.frames == [b"ONE", b"THREE"])
    expected = {"received_bytes": 32, "sent_bytes": 32, "frames_received": 4, "frames_sent": 4, "buffered_bytes": 0}
    for _ in range(2):
        stats = server.stats()
        assert {name: stats[name] for name in expected} == expected
        first.close()
        world.until(lambda: len(server.connections) == 1)


def test_stats_of_a_new_server_have_every_fixed_counter(world):
    """A dashboard must not depend on what has happened already."""
    assert set(Server(world.reactor, upper).stats().values()) == {0}


def test_stats_count_slow_consumers_of_each_kind(world, serving, caplog):
    """By the bound they went over in `closed_*`, and together; each kind is one warning in 10 s."""
    hard = serving(answer, limits=Limits(max_output=MEBI, max_frame=9 * MEBI, linger=0))
    stalled = serving(answer, limits=Limits(write_timeout=30, max_frame=9 * MEBI, linger=0))
    for server, size in ((hard, 9 * MEBI), (stalled, 9 * MEBI)):
        call(world, server, reading=False).write(encode(b"%d" % size))
    world.until(lambda: hard.stats()["slow_consumers"])
    world.until(lambda: stalled.stats()["buffered_bytes"])
    world.settle()
    world.advance(30.001)
    world.until(lambda: stalled.stats()["slow_consumers"])
    assert (hard.stats()["closed_slow_consumer"], stalled.stats()["closed_write_timeout"]) == (1, 1)
    assert "(max_output)" in caplog.text and "(write_timeout)" in caplog.text


# --- what the kernel keeps -------------------------------------------------------------------------------------------

KERNEL = {"notsent_lowat": 131072, "keepalive": 60, "keepalive_interval": 15, "keepalive_count": 4, "user_timeout": 110}


def options_of(conn):
    """Return what the kernel says of the socket of *conn*, by the names and in the units of the limits."""
    with socket.socket(fileno=os.dup(conn.fileno())) as sock:
        tcp = {
            "notsent_lowat": socket.TCP_NOTSENT_LOWAT,
            "keepalive": socket.TCP_KEEPIDLE,
            "keepalive_interval": socket.TCP_KEEPINTVL,
            "keepalive_count": socket.TCP_KEEPCNT,
            "user_timeout": socket.TCP_USER_TIMEOUT,
        }
        found = {name: sock.getsockopt(socket.IPPROTO_TCP, number) for name, number in tcp.items()}
        found["user_timeout"] /= 1000
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), found


def test_kernel_limits_are_on_each_accepted_connection(world, serving):
    """Set on the listener before it listens: Linux hands them on, and so does this test if that should ever change."""
    server = serving(address="localhost:0", limits=Limits(linger=0, **KERNEL))
    for address in server.addresses:
        world.peer(socket.create_connection((address.host, address.port)))
    world.until(lambda: len(server.connections) == len(server.addresses))
    assert [options_of(conn) for conn in server.connections] == [(1, KERNEL)] * len(server.addresses)


def test_kernel_limits_that_are_off_leave_the_kernels_own(world, serving):
    """An operator may have set them for the machine."""
    server = serving()
    call(world, server)
    world.until(lambda: server.connections)
    (conn,) = server.connections
    with socket.socket() as untouched:
        own = untouched.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
    alive, found = options_of(conn)
    assert (alive, found["keepalive"], found["user_timeout"], found["notsent_lowat"]) == (0, own, 0, 0)


def test_kernel_limits_are_on_a_clients_connection(world, serving):
    """The same limits mean the same at the other end."""
    server = serving()
    connector = evloop.connect(world.reactor, server.address, upper, limits=Limits(**KERNEL))
    world.until(lambda: connector.connection)
    assert options_of(connector.connection) == (1, KERNEL)
    connector.connection.abort()
    world.turn(2)


def test_kernel_limits_do_not_keep_a_unix_server_from_serving(world, serving, tmp_path):
    """UNIX sockets know none of them."""
    server = serving(address=f"unix:{tmp_path}/s", limits=Limits(linger=0, **KERNEL))
    peer = call(world, server).write(encode(b"hi"))
    world.until(lambda: peer.frames == [b"HI"])


@pytest.mark.parametrize(("seconds", "milliseconds"), [(0.0001, 1), (0.0011, 2), (1.5, 1500)])
def test_user_timeout_is_rounded_up_to_milliseconds(world, serving, seconds, milliseconds):
    """0 ms would switch it off."""
    server = serving(limits=Limits(user_timeout=seconds, linger=0))
    call(world, server)
    world.until(lambda: server.connections)
    (conn,) = server.connections
    assert options_of(conn)[1]["user_timeout"] * 1000 == milliseconds
