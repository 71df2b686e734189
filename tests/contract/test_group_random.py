"""Groups of both twins side by side: one script, one manual clock, the same trace.

A seed is a script: connections of several framings and bounds, groups that they join and leave, what is sent to whom,
in and out of callbacks, and what the kernel takes of it.  After each step the world comes to rest.  The kernel says
which of several fds comes first, so the selector is one that sorts; what the peers have got at the end, the callbacks
in their order, and the counters must be equal.
"""

from __future__ import annotations

import itertools
import random
import socket

import pytest
from groups import group_class
from peers import BatchRecorder, DataRecorder, FrameRecorder, World
from test_connection_differential import SortedSelector, shown
from twins import needs_compiled

from evloop import Framing
from evloop._connection_py import Connection as PureConnection

SEEDS = 80
BLOCKS = 4
STEPS = 40
FRAMINGS = (Framing.U32, Framing.U32, Framing.U32, Framing.U16, Framing.VARINT, Framing(4, magic=b"EV"), None)
SIZES = (0, 1, 7, 300, 5000, 16_379, 16_380, 16_384, 20_000, 40_000, 65_535, 65_536)
ACTIONS = ("send", "many", "own", "add", "discard", "close", "abort", "eof", "reframe")
CHANCES = (20, 6, 6, 8, 6, 0.5, 0.3, 0.3, 1)
BOUNDS = (
    *({},) * 4,
    {"max_output": 60_000},
    {"high_water": 3000, "low_water": 1000},
    {"soft_output": 30_000, "soft_output_timeout": 4},
    {"write_timeout": 5},
)


class Script:
    """A seed's life of some connections of a class, and groups for them; `trace` is what came of it."""

    def __init__(self, connection_class, seed):
        self.dice = dice = random.Random(seed)
        self.world = World(connection_class, selector=SortedSelector())
        self.kernel = self.world.spy() if dice.random() < 0.4 else None
        self.groups = [group_class(connection_class)() for _ in range(dice.choice((1, 1, 3)))]
        self.trace, self.sides = [], []
        self.left = 200  # actions of callbacks: two that answer each other would never come to rest
        for number in range(dice.choice((2, 5, 9))):
            self.connect(number)

    def connect(self, number):
        dice = self.dice
        framing = self.dice.choice(FRAMINGS)
        words = ("frame", "frames", "data", "eof", "pause", "resume", "lost")
        actions = {word: self.callback(number, word) for word in words}
        make = DataRecorder if framing is None else dice.choice((FrameRecorder, BatchRecorder))
        conn, peer = self.world.connect(
            make(**actions), pair=socket.socketpair, framing=framing, reading=dice.random() < 0.7,
            throttle=dice.random() < 0.7, linger=0, **dice.choice(BOUNDS),
        )  # fmt: skip
        if self.kernel is not None and dice.random() < 0.5:
            step = dice.choice((700, 3000, 50_000))
            self.kernel.cut_writes(conn, self.room(conn, step))
        self.sides.append((conn, peer))
        dice.choice(self.groups).add(conn)

    def room(self, conn, step):
        """Take what is left to the next cut of the stream, which is refused once: by position, not by call."""
        refused = set()

        def room(size):
            taken = self.kernel.taken(conn)
            if taken % step == 0 and taken not in refused:
                refused.add(taken)
                return 0
            return step - taken % step

        return room

    def note(self, *what):
        self.trace.append((round(self.world.now, 3), *map(shown, what)))

    def callback(self, number, word):
        moods = random.Random(self.dice.random())

        def called(rec, *args):
            args = args if word != "lost" else (rec.conn.close_reason,)
            self.note(number, word, *args)
            if self.left and moods.random() < 0.5:
                self.left -= 1
                self.act(moods, rec.conn)
            if word in ("frame", "data") and moods.random() < 0.02:
                raise RuntimeError("from a callback")

        return called

    def payload(self, dice):
        data = bytes([dice.randrange(256)]) * dice.choice(SIZES)
        return dice.choice((data, data, bytearray(data)))

    def act(self, dice, mine=None):
        """Do one thing that an application may do."""
        what = dice.choices(ACTIONS, CHANCES)[0]
        group = dice.choice(self.groups)
        conn = mine if mine is not None and dice.random() < 0.5 else dice.choice(self.sides)[0]
        exclude = dice.choice((None, None, conn))
        try:
            if what == "send":
                self.note(what, group.send(self.payload(dice), exclude=exclude), len(group))
            elif what == "many":
                payloads = [self.payload(dice) for _ in range(dice.choice((0, 1, 4, 30)))]
                self.note(what, group.send_many(payloads, exclude=exclude), len(group))
            elif what == "own":
                conn.send(self.payload(dice))
            elif what == "add":
                group.add(conn)
            elif what == "discard":
                group.discard(conn)
            elif what == "reframe":
                conn.set_framing(dice.choice((Framing.U32, Framing.U16)))
            else:
                {"close": conn.close, "abort": conn.abort, "eof": conn.write_eof}[what]()
        except (ValueError, RuntimeError) as exc:
            self.note(what, exc)

    def rest(self):
        self.world.settle()
        for number, (conn, peer) in enumerate(self.sides):
            stats = conn.stats
            self.note(number, conn.state, conn.close_reason, stats.frames_sent, stats.output, len(peer.received))
        for group in self.groups:
            self.note([number for number, (conn, _peer) in enumerate(self.sides) if conn in group], len(group))

    def run(self):
        for _ in range(STEPS):
            dice = self.dice
            conn, peer = dice.choice(self.sides)
            if dice.random() < 0.6:
                self.act(dice)
            elif dice.random() < 0.5:
                peer.reading = not peer.reading
            elif conn.framing is not None and not peer.ended and not peer._fin and dice.random() < 0.9:
                peer.write(conn.framing.encode(bytes(dice.choice((1, 100)))))
            elif dice.random() < 0.2:
                peer.close()
            if dice.random() < 0.7:
                self.rest()
            if dice.random() < 0.15:
                self.world.now += dice.choice((0.5, 3, 6))
                self.rest()
        return self.ended()

    def ended(self):
        self.left = 0
        for conn, peer in self.sides:
            peer.reading = True
            conn.close()
        self.world.settle()
        for number, (_conn, peer) in enumerate(self.sides):
            self.note(number, bytes(peer.received) if peer.error is None else None)
        self.world.now += 100
        self.world.settle()
        self.note([repr(context["exception"]) for context in self.world.errors], [len(group) for group in self.groups])
        self.world.errors.clear()  # connection_lost raises, too
        self.world.close()
        return self.trace


def difference(compiled, pure):
    """Return where two traces part, with what came before; None if they are equal."""
    for index, (one, other) in enumerate(itertools.zip_longest(compiled, pure)):
        if one != other:
            before = "\n".join(f"  {entry}" for entry in pure[max(index - 12, 0) : index])
            return f"{before}\ncompiled: {one}\npure:     {other}"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("block", range(BLOCKS))
def test_group_random_script_has_the_same_trace_on_both_twins(pytestconfig, block):
    """The readable twin is the specification: whatever it does, the fast one does, in the same order."""
    needs_compiled(pytestconfig)
    from evloop._connection import Connection

    for seed in range(block * SEEDS // BLOCKS, (block + 1) * SEEDS // BLOCKS):
        compiled, pure = (Script(cls, seed).run() for cls in (Connection, PureConnection))
        parted = difference(compiled, pure)
        assert parted is None, f"seed {seed}\n{parted}"
