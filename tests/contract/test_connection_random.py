"""Random lives of connections: whatever the order of calls, events and accidents, the promises hold.

Each seed is one life of two connections; a failing seed is a test case.  Checked while it goes on and at its end:
frames arrive whole, in order and without a gap; the peer reads a prefix of what was sent; a connection whose peer is
gone ends, in bounded time, exactly once (the world checks that), and leaves neither a timer nor a registered fd.
"""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import random
import socket

import pytest
from peers import (
    PATIENCE,
    BatchRecorder,
    FrameRecorder,
    connection_class,
    encode,
    kernel,
    narrow_pair,
    tcp_pair,
    world,
)

from evloop import CloseReason

LIVES = 400


def moody(dice):
    """Return the room of a kernel that is short of it now and then: for a part of a write, or for nothing."""

    def room(size):
        mood = dice.random()
        if mood < 0.1:
            return 0
        return dice.randint(1, 100_000) if mood < 0.5 else size

    return room


class Life:
    """One connection, its peer, and what was asked of both."""

    def __init__(self, world, dice, neighbour=None):
        self.world, self.dice, self.neighbour = world, dice, neighbour
        self.asked = self.sent = 0  # frames written by the peer; frames given to send()
        self.ended = False  # this side has ended it, or the peer did so in the middle of something
        self.eof_sent = False
        kind = dice.choice([FrameRecorder, BatchRecorder])
        actions = ["made", "frame", "frames", "eof", "pause", "resume", "lost"]
        self.rec = kind(**dict.fromkeys(actions, self.callback))
        room = dice.choice([None, moody(dice)])
        pair = dice.choice([tcp_pair, narrow_pair, narrow_pair, socket.socketpair])
        high = dice.choice([0, 1000, 65536])
        self.conn, self.peer = world.connect(
            self.rec, pair=pair, prepare=lambda conn: world.kernel.cut_writes(conn, room), high_water=high,
            low_water=high // 4, idle_timeout=dice.choice([0, 30]), linger=dice.choice([0, 2]),
        )  # fmt: skip

    def callback(self, rec, *args):
        if self.dice.random() < 0.15:
            self.act(rec.conn)
        return self.dice.random() < 0.3  # eof_received: sometimes keep it open

    def act(self, conn):
        """Do one thing that an application may do, at any time."""
        what = self.dice.choices(
            ["send", "big", "many", "pause", "resume", "eof", "close", "abort", "other"],
            [10, 4, 4, 5, 5, 1, 1, 1, 3],
        )[0]  # fmt: skip
        if what in ("send", "big", "many") and not self.eof_sent:
            size = {"send": 10, "big": 300_000, "many": 100}[what]
            payloads = [b"%08d" % (self.sent + i) + bytes(size) for i in range(20 if what == "many" else 1)]
            self.sent += len(payloads)  # before the call: pause_writing may come inside of it, and send more
            conn.send_many(payloads) if what == "many" else conn.send(payloads[0])
        elif what == "pause":
            conn.pause_reading()
        elif what == "resume":
            conn.resume_reading()
        elif what == "eof" and not conn.is_closing():
            self.eof_sent = True
            conn.write_eof()
        elif what in ("close", "abort"):
            self.ended = True
            getattr(conn, what)()
        elif what == "other" and self.neighbour is not None and self.neighbour.rec.conn is not None:
            self.neighbour.act(self.neighbour.rec.conn)

    def peer_acts(self):
        """Do one thing that a peer may do."""
        if self.peer.sock.fileno() < 0 or self.peer._fin or self.peer.error is not None:
            return
        what = self.dice.choices(["ask", "read", "fin", "reset", "half"], [10, 5, 0.4, 0.4, 0.2])[0]
        if what == "ask" and not self.ended_by_peer:
            count = self.dice.choice([1, 3, 3000])
            self.peer.write(encode(*[b"%08d" % (self.asked + i) for i in range(count)]))
            self.asked += count
        elif what == "read":
            self.peer.reading = not self.peer.reading
        elif what == "fin" and not self.ended_by_peer:
            self.ended_by_peer = True
            self.peer.write(b"", fin=True)
        elif what == "half" and not self.ended_by_peer:
            self.ended_by_peer = True
            self.peer.write(b"\0\0", fin=True)
        elif what == "reset":
            self.ended_by_peer = True
            self.was_reset = True
            self.peer.reset()

    ended_by_peer = was_reset = False

    def check(self):
        frames = self.rec.frames
        assert frames == [b"%08d" % i for i in range(len(frames))]
        assert len(frames) <= self.asked
        answers = [frame[:8] for frame in self.peer.frames]
        assert answers == [b"%08d" % i for i in range(len(answers))]
        assert len(answers) <= self.sent

    def is_over(self):
        """Tell whether it has ended, or only its application can end it."""
        return self.rec.lost or ("eof" in self.rec.log and self.conn.state == "open" and not self.conn.stats.output)

    def finish(self):
        """The peer reads the rest and leaves in good order; the application has stopped pausing."""
        self.rec.actions.clear()
        self.rec.actions["eof"] = lambda rec: False
        self.conn.resume_reading()
        self.peer.reading = True
        if not self.ended_by_peer and self.peer.sock.fileno() >= 0:
            self.peer.write(b"", fin=True)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(8))
def test_connection_random_life_keeps_every_promise(world, kernel, block):
    """No one thinks of every order of events; dice do."""
    for seed in range(block * LIVES // 8, (block + 1) * LIVES // 8):
        dice = random.Random(seed)
        first = Life(world, dice)
        second = Life(world, dice, first)
        first.neighbour = second
        lives = [first, second]
        for _ in range(60):
            life = dice.choice(lives)
            dice.choice([lambda life=life: life.act(life.conn), life.peer_acts, life.peer_acts])()
            world.turn(dice.choice([0, 1, 1, 3]))
            if dice.random() < 0.03:
                world.advance(dice.choice([0.5, 3, 20]))
        for life in lives:
            life.finish()
        # By itself: a connection whose peer reads and has left ends.  The kernel has timers of its own (a delayed ACK,
        # a probe of a closed window), so what bounds this is patience, and not a number of turns.
        world.until(lambda lives=lives: all(life.is_over() for life in lives))
        for life in lives:
            life.check()
            if not life.rec.lost:  # the application kept it open, and has to close it itself
                life.ended = True
                life.conn.close()
        world.advance(60)
        world.turn(5)
        world.advance(60)
        world.turn(5)
        for life in lives:
            assert life.rec.lost, (seed, life.conn, life.rec.log[-3:])
            own = life.ended or life.rec.reason is CloseReason.IDLE
            if not own and not life.was_reset and life.rec.reason is CloseReason.PEER:
                assert len(life.rec.frames) == life.asked, seed
                assert len(life.peer.frames) == life.conn.stats.frames_sent, seed
            life.peer.close()
        stats = world.reactor.stats()
        assert (stats["timers"], stats["fds"]) == (0, 0), seed
        world.peers.clear()
