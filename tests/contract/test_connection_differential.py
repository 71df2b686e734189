"""The two connections side by side: one script, one manual clock, the same trace.

A seed is a script: two connections that know each other, what their callbacks do, what the application and the peers do
in between, and what the kernel takes.  After each step the world comes to rest, and what is read is decided by the seed
and not by the clock of the machine, so that the traces of the twins must be equal: the callbacks in order, with their
arguments; what the peers got; close reasons and the texts of exceptions; the counters.

What may differ is kept out: over its own epoll the kernel says which of several fds comes first, so there a script has
one connection, and two run on a selector that sorts; and the compiled twin may take several reads for a large body, so
in a script of large frames one arrives at a time, nothing is held back, and the peer reads.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import selectors
import socket

import pytest
from peers import BatchRecorder, DataRecorder, FrameRecorder, World
from twins import needs_compiled

from evloop import CloseReason, Framing
from evloop._connection_py import Connection as PureConnection
from evloop.protocol import FunctionProtocol

SEEDS = 640
BLOCKS = 8
STEPS = 40
MOST_ACTIONS = 60  # of the callbacks of one connection: two that answer each other would never come to rest

FRAMINGS = [
    Framing.U32,
    Framing.U32,
    Framing.U16,
    Framing(2, "little", max_frame=60_000),
    Framing.VARINT,
    Framing(8, "big"),
    Framing(4, "little", signed=True, bias=3, counts="frame"),
    Framing(4, magic=b"EV", before=4, after=1),
    Framing(4, deliver="frame"),
    Framing(3, deliver="pair"),
    Framing.VARINT.replace(deliver="frame"),
    None,
]
SMALL = (0, 1, 7, 300, 5000, 16_383)
LARGE = (0, 7, 16_383, 16_384, 16_384, 40_000, 70_000, 300_000)


class SortedSelector(selectors.DefaultSelector):
    """A selector that reports what is ready in the order in which it was first registered, by the endpoint."""

    def __init__(self):
        super().__init__()
        self.order = {}

    def register(self, fileobj, events, data=None):
        self.order.setdefault(data, len(self.order))
        return super().register(fileobj, events, data)

    def select(self, timeout=None):
        return sorted(super().select(timeout), key=lambda ready: self.order[ready[0].data])


def shown(thing):
    """Return what stands in the trace for an argument: short, and the same for equal ones."""
    if isinstance(thing, BaseException):
        return type(thing).__name__, str(thing)
    if isinstance(thing, (list, tuple)):
        return type(thing).__name__, *map(shown, thing)
    if isinstance(thing, (bytes, bytearray)) and len(thing) > 12:
        return len(thing), hashlib.blake2b(thing, digest_size=6).hexdigest()
    return thing


class Side:
    """One connection of a script, and its peer."""

    def __init__(self, script, number):
        dice = script.dice
        self.script, self.number = script, number
        self.actions = MOST_ACTIONS
        self.moods = random.Random(dice.random())  # of the callbacks
        self.framing = dice.choice(FRAMINGS)
        self.sizes = dice.choice((SMALL, SMALL, LARGE))
        high = dice.choice((0, 1000, 65_536))
        limits = {
            "high_water": high,
            "low_water": dice.choice((0, high // 4, high)),
            "linger": dice.choice((0, 2)),
            "idle_timeout": dice.choice((0, 0, 7)),
            "max_frame": dice.choice((None,) * 7 + (10_000,)),
            **dice.choice(script.BOUNDS),
        }
        self.exact = self.sizes is SMALL  # what was read is the same at each rest
        self.cuts = dice.choice((None, 700, 3000, 50_000)) if self.exact else None
        self.refused = set()
        script.sides.append(self)  # now: an exit in connection_made leaves a connection that goes on
        script.world.connect(
            self.protocol(dice),
            pair=socket.socketpair,
            prepare=self.prepare,
            framing=self.framing,
            throttle=dice.random() < 0.7,
            reading=not self.exact,
            **limits,
        )

    def protocol(self, dice):
        words = ("made", "frame", "frames", "data", "eof", "pause", "resume", "lost")
        actions = {word: self.callback(word) for word in words}
        if dice.random() < 0.2:
            return FunctionProtocol(lambda conn, frame: actions["frame"](None, frame))
        if self.framing is None:
            return DataRecorder(**actions)
        return (BatchRecorder if self.exact and dice.random() < 0.4 else FrameRecorder)(**actions)

    def prepare(self, conn):
        self.conn, self.peer = conn, self.script.world.peers[-1]
        if self.script.world.kernel is not None and self.cuts:
            self.script.world.kernel.cut_writes(conn, self.room)

    def room(self, size):
        """Take what is left to the next cut of the stream, which is refused once: by position, not by call."""
        taken = self.script.world.kernel.taken(self.conn)
        step = self.cuts
        if taken % step == 0 and taken not in self.refused:
            self.refused.add(taken)
            return 0
        return step - taken % step

    def note(self, *what):
        self.script.trace.append((round(self.script.world.now, 3), self.number, *map(shown, what)))

    def callback(self, word):
        def called(_recorder, *args):
            args = args if word != "lost" else (self.conn.close_reason,)
            self.note(word, *args)
            if self.actions and self.moods.random() < 0.5:
                self.actions -= 1
                self.act(self.moods, callback=True)
            return word == "eof" and self.moods.random() < 0.4

        return called

    def payload(self, dice):
        size = dice.choice(self.sizes)
        data = bytes([dice.randrange(256)]) * size
        return dice.choice((data, data, data, bytearray(data), memoryview(data)))

    def act(self, dice, callback=False):
        """Do one thing that an application may do."""
        what = dice.choices(
            (
                "send",
                "many",
                "other",
                "pause",
                "resume",
                "eof",
                "close",
                "close_for",
                "abort",
                "raise",
                "exit",
                "edges",
            ),
            (30, 12, 8, 5, 8, 0.7, 0.5, 0.3, 0.3, 0.4, 0.5, 0.5),
        )[0]
        if what == "pause" and not self.exact:
            what = "resume"
        self.note("act", what)
        try:
            self.ACTIONS[what](self, dice, callback)
        except (OSError, TypeError, ValueError, RuntimeError) as exc:
            self.note("refused", exc)
            if what == "raise":
                raise

    def send(self, dice, callback):
        for _ in range(dice.choice((1, 1, 1, 4))):
            self.conn.send(self.payload(dice))

    def many(self, dice, callback):
        payloads = [self.payload(dice) for _ in range(dice.choice((0, 1, 3, 30)))]
        self.conn.send_many(dice.choice((list, list, tuple, iter))(payloads))

    def other(self, dice, callback):
        side = dice.choice(self.script.sides)
        if side.actions:
            side.actions -= 1
            dice.choice((Side.send, Side.many, Side.many, Side.close))(side, dice, callback)

    def close(self, dice, callback):
        if dice.random() < 0.1:
            self.conn.close()

    def fail(self, dice, callback):
        if callback:
            raise RuntimeError("from a callback")

    def leave(self, dice, callback):
        if callback:
            raise SystemExit("from a callback")

    ACTIONS = {  # noqa: RUF012 - never changed
        "send": send,
        "many": many,
        "other": other,
        "pause": lambda self, dice, callback: self.conn.pause_reading(),
        "resume": lambda self, dice, callback: self.conn.resume_reading(),
        "eof": lambda self, dice, callback: self.conn.write_eof(),
        "close": lambda self, dice, callback: self.conn.close(),
        "close_for": lambda self, dice, callback: self.conn.close_for(CloseReason.SHUTDOWN, OSError("shown")),
        "abort": lambda self, dice, callback: self.conn.abort(),
        "raise": fail,
        "exit": leave,
        "edges": lambda self, dice, callback: self.conn.send(b"x", b"ab", b"c"),
    }

    def peer_acts(self, dice):
        """Do one thing that a peer may do."""
        peer = self.peer
        what = dice.choices(("ask", "read", "fin", "cut", "junk", "vanish"), (20, 6, 0.6, 0.3, 0.2, 0.4))[0]
        gone = peer.sock.fileno() < 0 or peer._fin or peer.error is not None
        self.note("peer", what, gone)
        if gone:
            return
        if what == "ask":
            peer.write(self.question(dice))
        elif what == "read":
            peer.reading = not (peer.reading and self.exact)
        elif what == "fin":
            peer.write(b"", fin=True)
        elif what == "cut":
            question = self.question(dice)
            peer.write(question[: dice.randrange(len(question) + 1)], fin=dice.random() < 0.5)
        elif what == "junk":
            peer.write(bytes(dice.choice((b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 12, b"\x16\x03\x01" + bytes(20)))))
        else:
            peer.close()

    def question(self, dice):
        payloads = [bytes(self.payload(dice)) for _ in range(dice.choice((1, 1, 1, 2, 20)) if self.exact else 1)]
        if self.framing is None:
            return b"".join(payloads)
        edges = (b"be"[: self.framing.before - len(self.framing.magic)], b"a"[: self.framing.after])
        return b"".join(self.framing.encode(p, *edges) for p in payloads if len(p) <= self.framing.max_frame)

    def got(self):
        """Return what the peer has; None where it was cut off in the middle of something large."""
        return bytes(self.peer.received) if self.exact or self.peer.error is None else None

    def rest(self):
        """Note what is to be equal now that nothing moves."""
        stats = self.conn.stats._asdict()
        if not self.exact:
            del stats["bytes_received"], stats["frames_received"], stats["input"]
        error = self.peer.error if self.peer.sock.fileno() >= 0 else None
        received = (self.got() and len(self.got()), self.peer.eof, error)
        self.note(self.conn.state, self.conn.close_reason, self.conn.is_reading(), *stats.items(), *received)


class Script:
    """A seed's life of one or two connections of a class; `trace` is what came of it."""

    BOUNDS = (
        *({},) * 4,
        {"max_output": 200_000},
        {"soft_output": 30_000, "soft_output_timeout": 4},
        {"write_timeout": 5},
        {"first_frame_timeout": 6, "frame_timeout": 3},
    )

    def __init__(self, connection_class, seed):
        self.dice = random.Random(seed)
        alone = self.dice.random() < 0.5
        self.world = World(connection_class, **({} if alone else {"selector": SortedSelector()}))
        self.trace, self.sides = [], []
        if self.dice.random() < 0.5:
            self.world.spy()
        for number in range(1 if alone else 2):
            self.tolerantly(lambda number=number: Side(self, number))

    def tolerantly(self, function):
        """Run what may run callbacks; an exit in one of them ends the run and not the script."""
        try:
            function()
        except SystemExit as exc:
            self.trace.append(("exit", str(exc)))
        except RuntimeError as exc:
            self.trace.append(("raised", str(exc)))

    def settle(self):
        for _ in range(MOST_ACTIONS):
            before = len(self.trace)
            self.tolerantly(self.world.settle)
            if len(self.trace) == before or self.trace[-1][0] != "exit":
                break
        for side in self.sides:
            side.rest()

    def run(self):
        for _ in range(STEPS):
            side = self.dice.choice(self.sides)
            what = self.dice.choice((side.act, side.peer_acts, side.peer_acts))
            self.tolerantly(lambda what=what: what(self.dice))
            self.settle()
            if self.dice.random() < 0.2:
                self.world.now += self.dice.choice((0.5, 2, 3, 6))
                self.settle()
        for side in self.sides:
            side.actions = 0
            side.peer.reading = True
            self.tolerantly(side.conn.close)
        self.settle()
        for side in self.sides:
            side.note("got", side.got())
        self.world.now += 100
        self.settle()
        self.trace.append(("errors", *[repr(context["exception"]) for context in self.world.errors]))
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


@pytest.mark.parametrize("block", range(BLOCKS))
def test_differential_random_script_has_the_same_trace_on_both_twins(pytestconfig, block):
    """The readable twin is the specification: whatever it does, the fast one does, in the same order."""
    needs_compiled(pytestconfig)
    from evloop._connection import Connection

    for seed in range(block * SEEDS // BLOCKS, (block + 1) * SEEDS // BLOCKS):
        compiled, pure = (Script(cls, seed).run() for cls in (Connection, PureConnection))
        parted = difference(compiled, pure)
        assert parted is None, f"seed {seed}\n{parted}"
