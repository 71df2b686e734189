"""How late a chat server's loop is while it writes down what is said: ``python bench/chat_load.py`` (make bench-chat).

A server in a process of its own, ``--rate`` messages a second in all, one sender a room, with a database and without.
How late a timer was, each millisecond, is what everybody waits for whatever one callback does; CPU is the server's,
the loop's thread and all of it.  On a machine that others use, numbers of time are noise: look at the CPU, and again.

Rule: nothing in this file may look into the server: it speaks the protocol, and has a timer on the loop.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import evloop
from evloop.apps import chat
from evloop.apps.chat.limits import CONNECTION_LIMITS
from evloop.apps.chat.sqlite import SqliteStore
from evloop.apps.chat.wire import JSON, Hello, Join, Say

PROBE = 0.001  # seconds between two looks at the loop
BEAT = 0.001  # seconds between two bursts of the load: 20 messages at 20,000 a second
WARM_UP = 2.0  # seconds before what is measured
JOINS_AT_ONCE = 20


# --- the server ---------------------------------------------------------------------------------------------------


class Probe:
    """A timer on the server's loop, and the CPU time between two signals."""

    def __init__(self, reactor: evloop.Reactor) -> None:
        self._reactor = reactor
        self._late: list[float] = []
        self._due = reactor.time() + PROBE
        reactor.call_at(self._due, self._look)
        reactor.add_signal_handler(signal.SIGUSR1, self._begin)
        reactor.add_signal_handler(signal.SIGUSR2, self._end)

    def _look(self) -> None:
        now = self._reactor.time()
        self._late.append(now - self._due)
        self._due = now + PROBE
        self._reactor.call_at(self._due, self._look)

    def _begin(self) -> None:
        self._late.clear()
        self._cpu = time.process_time(), time.thread_time()

    def _end(self) -> None:
        process, loop = self._cpu
        late = sorted(self._late)
        facts = {f"lag_p{share:g}": late[int(len(late) * share / 100)] for share in (50, 99, 99.9)}
        facts |= {"lag_max": late[-1], "cpu": time.process_time() - process, "cpu_loop": time.thread_time() - loop}
        facts["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(facts), flush=True)


def serve(db: str) -> None:
    """Serve, with the database *db*, or with none if it is empty, until SIGTERM."""

    def ready(server: chat.ChatServer) -> None:
        Probe(server.reactor)
        print(server.address, flush=True)

    store = SqliteStore(db) if db else None
    chat.serve("127.0.0.1:0", store=store, limits=chat.ChatLimits(rate=0), connections=CONNECTION_LIMITS, ready=ready)


# --- the load -----------------------------------------------------------------------------------------------------


class Member(evloop.Protocol):
    """One connection, in one room."""

    def __init__(self, load: Load, room: str) -> None:
        self.load, self.room = load, room
        self.joined = False
        self.sent: deque[float] = deque()

    def connection_made(self, conn: evloop.Connection) -> None:
        """Join."""
        self.conn = conn
        conn.send(JSON.encode(Hello(v=1, client="load")))
        conn.send(JSON.encode(Join(room=self.room, ref=1)))

    def frames_received(self, frames: list[bytes]) -> None:
        """Count; what a sender gets is the answers to what it has said, in that order."""
        if not self.joined:
            self.joined = any(b'"joined"' in frame[:20] for frame in frames)
            return
        self.load.received += len(frames)
        if self.sent:
            now = self.load.reactor.time()
            for frame in frames:
                if frame.startswith(b'{"t":"ok"'):
                    self.load.latencies.append(now - self.sent.popleft())
                else:
                    self.load.odd += not frame.startswith((b'{"t":"ev"', b'{"t":"ping"'))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell of what must not be."""
        self.load.lost += 1


class Load:
    """So many messages a second, whatever becomes of them (an open loop)."""

    def __init__(self, reactor: evloop.Reactor, address: str, rooms: int, members: int, rate: float) -> None:
        self.reactor = reactor
        self.members = [Member(self, f"room-{n % rooms}") for n in range(rooms * members)]
        self.senders = self.members[:rooms]
        self.received = self.odd = self.lost = self.said = 0
        self.latencies: list[float] = []
        self._rate = rate
        self._unconnected = iter(self.members)
        self._body = "x" * 100
        self._address = address

    def connect(self, done: Callable[[], object]) -> None:
        """Connect all, some at a time, and call *done*."""

        def more() -> None:
            for _, member in zip(range(JOINS_AT_ONCE), self._unconnected, strict=False):
                evloop.connect(self.reactor, self._address, protocol_factory=lambda member=member: member, timeout=20)
            if all(member.joined for member in self.members):
                done()
            else:
                self.reactor.call_later(0.02, more)

        more()

    def speak(self) -> None:
        """Say what is due, from now on."""
        self._began = self.reactor.time()
        self._beat()

    def _beat(self) -> None:
        now = self.reactor.time()
        due = int((now - self._began) * self._rate)
        while self.said < due:
            sender = self.senders[self.said % len(self.senders)]
            self.said += 1
            sender.sent.append(now)
            sender.conn.send(JSON.encode(Say(room=sender.room, body=self._body, cid=f"c{self.said}", ref=self.said)))
        self.reactor.call_later(BEAT, self._beat)


def measure(db: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what one run has measured."""
    command = [*shlex.split(options.launcher), sys.executable, __file__, "--serve", "--db", db]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, evloop.Reactor() as reactor:
        assert server.stdout is not None
        try:
            load = Load(reactor, server.stdout.readline().strip(), options.rooms, options.members, options.rate)
            reactor.call_soon(load.connect, reactor.stop)
            reactor.run_forever()
            load.speak()
            reactor.call_later(WARM_UP, reactor.stop)
            reactor.run_forever()
            server.send_signal(signal.SIGUSR1)
            said, received, began = load.said, load.received, reactor.time()
            load.latencies.clear()
            reactor.call_later(options.seconds, reactor.stop)
            reactor.run_forever()
            server.send_signal(signal.SIGUSR2)
            seconds = reactor.time() - began
            facts: dict[str, Any] = json.loads(server.stdout.readline())
            latencies = sorted(load.latencies) or [0.0]
            return facts | {
                "said": (load.said - said) / seconds,
                "received": (load.received - received) / seconds,
                "cpu": facts["cpu"] / seconds,
                "cpu_loop": facts["cpu_loop"] / seconds,
                "ok_p50": latencies[len(latencies) // 2],
                "ok_p99": latencies[int(len(latencies) * 0.99)],
                "odd": load.odd,
                "lost": load.lost,
            }
        finally:
            server.kill()


def main() -> None:
    """Measure with and without a database, in turns, and print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--db", default="", help=argparse.SUPPRESS)
    parser.add_argument("--rooms", type=int, default=100)
    parser.add_argument("--members", type=int, default=5, help="of each room; one of them speaks")
    parser.add_argument("--rate", type=float, default=20_000, help="messages a second in all")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=["db", "memory"])
    parser.add_argument("--launcher", default="", help="what starts the server: 'chrt -r 2', 'taskset -c 0'")
    options = parser.parse_args()
    if options.serve:
        return serve(options.db)
    print("          said/s  delivered/s  lag p50    p99  p99.9    max   ok p50    p99   CPU  loop  MiB")
    for _ in range(options.rounds):
        for name in [options.only] if options.only else ["memory", "db"]:
            with tempfile.TemporaryDirectory() as directory:
                run = measure(str(pathlib.Path(directory) / "chat.db") if name == "db" else "", options)
            times = "".join(f"{run[key] * 1e3:8.2f}" for key in ("lag_p50", "lag_p99", "lag_p99.9", "lag_max"))
            oks = "".join(f"{run[key] * 1e3:8.2f}" for key in ("ok_p50", "ok_p99"))
            shares = f"{run['cpu']:6.0%}{run['cpu_loop']:6.0%}{run['rss']:5.0f}"
            print(f"{name:7}{run['said']:9,.0f}{run['received']:13,.0f}  {times} {oks}{shares}", flush=True)
            if run["odd"] or run["lost"]:
                print(f"       {run['odd']} messages were refused, {run['lost']} connections lost")
    return None


if __name__ == "__main__":
    main()
