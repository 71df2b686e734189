"""What connections promise each other within a turn: fairness, no stale events, and writes that leave once."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import os
import socket

import pytest
from peers import (
    FrameRecorder,
    connection_class,
    echo,
    encode,
    kernel,
    tcp_pair,
    world,
)

from evloop import CloseReason
from evloop._connection_shared import FRAMES_PER_TURN

# --- fairness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_connection_delivers_at_most_its_share_of_frames_a_turn(world, extra):
    """A read of 256 KiB can hold 65,536 frames, and the others wait meanwhile."""
    rec = FrameRecorder()
    _, peer = world.connect(rec)
    peer.write(encode(*[b""] * (FRAMES_PER_TURN + extra)))
    world.turn()
    assert len(rec.frames) == FRAMES_PER_TURN + min(extra, 0)
    world.turn()
    assert len(rec.frames) == FRAMES_PER_TURN + extra


def test_connection_that_floods_lets_a_witness_be_served_every_turn(world):
    """One client at full speed, one with a single question a turn: the second never waits longer than its turn."""
    flood, witness = FrameRecorder(), FrameRecorder(frame=echo)
    _, peer = world.connect(flood)
    _, other = world.connect(witness, reading=True)
    peer.write(encode(*[b""] * 200_000))
    for asked in range(1, 101):
        other.write(encode(b"%d" % asked))
        world.turn()
        assert len(witness.frames) == asked
        assert len(flood.frames) <= asked * FRAMES_PER_TURN
    assert len(flood.frames) > 50 * FRAMES_PER_TURN


def test_connection_pause_and_resume_for_each_frame_does_not_get_a_larger_share(world):
    """A handler that pauses and resumes within one callback must not queue a delivery for each of them."""
    rec = FrameRecorder(frame=lambda rec, frame: (rec.conn.pause_reading(), rec.conn.resume_reading()))
    _, peer = world.connect(rec)
    peer.write(encode(*[b""] * 20_000))
    for turn in range(1, 20):
        world.turn()
        assert len(rec.frames) <= turn * FRAMES_PER_TURN


def test_connection_resumed_a_thousand_times_gets_one_share(world):
    """The same from outside: pause and resume by timer, by signal, by anything."""
    rec = FrameRecorder(frame=lambda rec, frame: rec.conn.pause_reading() if len(rec.frames) == 1 else None)
    conn, peer = world.connect(rec)
    peer.write(encode(*[b""] * 20_000))
    world.settle()
    for _ in range(1000):
        conn.resume_reading()
        conn.pause_reading()
    conn.resume_reading()
    world.turn()
    assert len(rec.frames) <= 1 + FRAMES_PER_TURN


# --- fd re-use -------------------------------------------------------------------------------------------------------


def test_connection_that_gets_a_closed_ones_fd_in_the_same_turn_gets_none_of_its_events(world):
    """The kernel hands a number out again at once; the event that waits for it was meant for the dead."""
    first, second, third = FrameRecorder(), FrameRecorder(), FrameRecorder()
    a, peer_a = world.connect(first)
    b, peer_b = world.connect(second)
    victims = {first: b, second: a}
    fresh = []

    def replace(rec, frame):
        victim = victims[rec]
        if fresh or victim.closed:
            return
        number = victim.fileno()
        spare = tcp_pair()
        victim.abort()
        ours = socket.socket(fileno=os.dup2(spare[0].fileno(), number))
        spare[0].close()
        conn, peer = world.connect(third, pair=lambda: (ours, spare[1]))
        fresh.append((number, conn, peer))

    first.actions["frame"] = second.actions["frame"] = replace
    for peer in (peer_a, peer_b):
        peer.sock.send(encode(b"x"))
    world.turn()
    number, conn, peer = fresh[0]
    assert number == conn.fileno()
    world.turn(3)
    assert (third.log, conn.state) == (["made"], "open")
    peer.write(encode(b"mine"))
    world.until(lambda: third.frames == [b"mine"])
    assert [len(first.frames), len(second.frames)] in ([1, 0], [0, 1])


def test_connection_whose_neighbour_is_reset_in_the_same_turn_is_unharmed(world):
    """Close in one handler, hang-up of the closed one in the same batch of events."""
    for _ in range(50):
        victim_rec = FrameRecorder()
        victim, victim_peer = world.connect(victim_rec)
        killer_rec = FrameRecorder(frame=lambda rec, frame, victim=victim: victim.abort())
        _, killer_peer = world.connect(killer_rec)
        killer_peer.sock.send(encode(b"x"))
        victim_peer.sock.send(encode(b"y"))
        victim_peer.reset()
        world.until(lambda rec=victim_rec: rec.lost)
        assert victim_rec.log.count("lost") == 1
        killer_peer.close()


# --- writes to others ------------------------------------------------------------------------------------------------


def test_connection_written_to_from_anothers_callback_is_sent_once_before_the_next_wait(world, kernel):
    """A chat room: a thousand messages of a batch to a member are one system call."""
    target, peer = world.connect(FrameRecorder(), reading=True)
    sender = FrameRecorder(frame=lambda rec, frame: target.send(frame))
    _, source = world.connect(sender)
    source.write(encode(*[b"%d" % i for i in range(200)]))
    world.until(lambda: len(sender.frames) == 200)
    world.turn(2)
    assert kernel.sends(target) == 1
    assert len(peer.frames) == 200


@pytest.mark.parametrize("where", ["made", "eof", "lost", "pause", "resume"])
def test_connection_written_to_from_any_callback_of_another_is_sent_once(world, kernel, where):
    """ "X has joined", "X has left": each is a callback, and each is a batch."""
    target, peer = world.connect(FrameRecorder(), reading=True)

    def tell(rec, *args):
        for i in range(10):
            target.send(b"%d" % i)

    fill = {"frame": lambda rec, frame: rec.conn.send_many([bytes(1 << 20)] * 16)}
    _, other = world.connect(FrameRecorder(**fill, **{where: tell}))
    other.write(encode(b"x"))
    world.turn(5)
    other.reading = True
    other.write(b"", fin=True)
    world.until(lambda: len(peer.frames) == 10)
    assert kernel.sends(target) == 1


def test_connection_written_to_from_call_soon_is_sent_at_once(world, kernel):
    """Outside of a callback nobody gathers: what is sent is sent."""
    target, _peer = world.connect(FrameRecorder(), reading=True)
    seen = []

    def tell():
        target.send(b"now")
        seen.append(target.stats.output)

    world.reactor.call_soon(tell)
    world.reactor.call_later(1, tell)
    world.turn()
    assert (seen, kernel.sends(target)) == ([0], 1)
    world.advance(1)
    assert (seen, kernel.sends(target)) == ([0, 0], 2)


def test_connection_written_to_from_anothers_callback_is_paused_at_its_high_water(world):
    """The bound of the target holds for those who write to it from outside, too: they are told."""
    rec = FrameRecorder()
    target, _ = world.connect(rec)
    sender = FrameRecorder(frame=lambda rec, frame: target.send_many([bytes(1 << 20)] * 16))
    _, source = world.connect(sender)
    source.write(encode(b"go"))
    world.until(lambda: sender.frames)
    world.turn(2)
    assert rec.log == ["made", "pause"]


def test_connection_closed_by_anothers_callback_flushes_what_was_sent_there(world):
    """A last message and a close from outside, in this order."""
    rec = FrameRecorder()
    target, peer = world.connect(rec, reading=True)

    def kick(other, frame):
        target.send(b"you are out")
        target.close()

    _, source = world.connect(FrameRecorder(frame=kick))
    source.write(encode(b"go"))
    world.until(lambda: peer.ended)
    assert (peer.eof, peer.frames) == (True, [b"you are out"])
    peer.fin()
    world.until(lambda: rec.lost)
    assert rec.reason is CloseReason.LOCAL


def test_connection_callback_that_closes_all_loses_each_once(world):
    """A kill switch in a handler: itself, the ones before it and the ones behind it in the same turn."""
    recs = [FrameRecorder() for _ in range(5)]

    def kill_all(rec, frame):
        for other in recs:
            other.conn.abort()

    for rec in recs:
        rec.actions["frame"] = kill_all
        _, peer = world.connect(rec)
        peer.sock.send(encode(b"x"))
    world.turn(3)
    assert [rec.log.count("lost") for rec in recs] == [1] * 5
    assert sum(len(rec.frames) for rec in recs) == 1
