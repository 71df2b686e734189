"""The bounds that a server keeps for all its connections together, and what it counts."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import logging
import struct

import pytest
from peers import connection_class, encode, world
from serving import call, serving, start, upper

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
    return struct.pack("!I", size) + bytes(size - 4) if size >= 4 else bytes([1, 0, 0])[:size]


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


def test_max_buffered_is_one_warning_with_a_count(world, serving, caplog):
    """An operator has to learn of it, and not once for each of a thousand peers."""
    server = serving(answer, limits=Limits(max_buffered=100_000, linger=0))
    sized_parts(world, server, *[10_000] * 9, 10_001)
    world.turn(2)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "closed with 10001 bytes held" in warnings[0]
    assert "exceeded 100000 (max_buffered)" in warnings[0]


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
