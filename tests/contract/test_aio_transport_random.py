"""Random lives of a connection: the same script gives the same diary on our loop and on the standard library's."""

from __future__ import annotations

import asyncio
import random
import socket
import sys

import pytest
from aiopeers import LOOPS, BufferedDiary, Diary, run, turns

# What a script, or a callback of the protocol, may do to the transport.
DEEDS = ["write", "write", "lines", "pause", "resume", "eof", "close", "abort", "switch", "raise", "limits", "nothing"]
PEER = ["send", "send", "send", "read", "shut", "leave"]
CALLBACKS = ["connection_made", "data_received", "eof_received", "pause_writing", "resume_writing", "connection_lost"]
GENTLE = ["write", "lines", "pause", "resume", "limits", "nothing", "switch"]


class Life:
    """One connection over a pair of UNIX sockets, whose kernel is as deterministic as the script.

    The peer sends less than what ours would take for a bulk stream, which it reads in other portions.
    """

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.trace = []
        self.plan = {name: [self._deed(0.35) for _ in range(40)] for name in CALLBACKS}
        if sys.version_info < (3, 11):  # asyncio begins to read all the same, there
            self.plan["connection_made"] = ["nothing"]

    def _deed(self, rough):
        return self.dice.choice(DEEDS) if self.dice.random() < rough else self.dice.choice(GENTLE)

    def protocol(self):
        actions = {name: lambda protocol, *args, name=name: self._called(name, *args) for name in CALLBACKS}
        if self.dice.random() < 0.3:
            actions["buffer_updated"] = lambda protocol, size: self._called("data_received", size)
            return BufferedDiary(self.dice.choice((1, 100, 100_000)), **actions)
        return Diary(**actions)

    def _called(self, name, *args):
        shown = [len(arg) if isinstance(arg, bytes) else type(arg).__name__ for arg in args]
        if args and isinstance(args[0], int):
            shown = [args[0]]
        self.trace.append((name, *shown))
        deeds = self.plan[name]
        if deeds:
            self.do(deeds.pop(), inside=True)
        return self.dice.random() < 0.5

    def do(self, deed, inside=False):
        """Do one thing, and note what came of it."""
        transport = self.transport
        try:
            if deed == "write":
                transport.write(self.dice.randbytes(self.dice.choice((1, 10, 1000, 20_000))))
            elif deed == "lines":
                # As one: 3.12 and 3.13 forget to pause.
                transport.write(b"".join(self.dice.randbytes(5) for _ in range(3)))
            elif deed == "pause":
                transport.pause_reading()
            elif deed == "resume":
                transport.resume_reading()
            elif deed == "eof":
                transport.write_eof()
            elif deed == "switch":
                transport.set_protocol(self.protocol())
            elif deed == "limits":
                transport.set_write_buffer_limits(high=self.dice.choice((0, 10, 65536)))
            elif deed in ("close", "abort"):
                getattr(transport, deed)()
            # Inside a callback ours gathers what is written, and so learns of a peer that is gone when that returns.
            self.trace.append((deed, inside or (transport.is_closing(), transport.is_reading())))
        except RuntimeError as exc:
            self.trace.append((deed, str(exc)))
        if deed == "raise" and inside:
            raise ValueError(deed)

    def peer_does(self, deed):
        """Have the peer do one thing."""
        try:
            if deed == "send":
                self.trace.append(("sent", self.peer.send(bytes(self.dice.choice((1, 10, 500))))))
            elif deed == "read":
                self.trace.append(("read", self.peer.recv(self.dice.choice((1, 100_000)))))
            elif deed == "shut":
                self.peer.shutdown(socket.SHUT_WR)
            else:
                self.peer.close()
        except OSError as exc:
            self.trace.append((deed, type(exc).__name__))

    async def live(self):
        """Run the script."""
        loop = asyncio.get_running_loop()
        ours, self.peer = socket.socketpair()
        ours.setblocking(False)
        self.peer.setblocking(False)
        protocol = self.protocol()
        self.transport = None

        def made(transport):
            self.transport = protocol.transport = transport
            self._called("connection_made")

        protocol.connection_made = made
        await loop.create_connection(lambda: protocol, sock=ours)
        for step in range(40):
            if self.dice.random() < 0.5:
                self.peer_does(self.dice.choice(PEER[:-2]) if self.dice.random() < 0.9 else self.dice.choice(PEER))
            elif self.transport._loop is not None:  # of one that is closed asyncio's methods raise what they may
                self.do(self._deed(0.1))
            loop.call_soon(self.trace.append, ("soon", step))
            await turns(self.dice.randrange(3))
        self.peer.close()
        await turns(3)
        if self.transport._loop is not None:
            self.transport.abort()
        await turns(3)
        self.trace.append("end")


def diary_of(name, seed):
    """Return the trace of a life on one of the loops, and what its exception handler was given."""
    life, handled = Life(seed), []
    run(LOOPS[name], life.live, handled)
    reports = [(context["message"][:21], sorted(context), repr(context["exception"])) for context in handled]
    return life.trace, reports


@pytest.mark.parametrize("start", range(0, 400, 40))
def test_transport_random_lives_are_the_same_on_both_loops(start):
    """Order, results, errors and reports."""
    for seed in range(start, start + 40):
        ours, standard = (diary_of(name, seed) for name in LOOPS)
        for number, (one, other) in enumerate(zip(ours[0], standard[0], strict=False)):
            assert one == other, (seed, number, ours[0][max(0, number - 8) : number])
        assert ours == standard, seed
