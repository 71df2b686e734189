"""The server that the fault tests torment, as a process: ``program.py '{"limits": {...}, ...}'``.

It echoes; a frame that begins with ORDER is one to its handler, for the faults that only an application commits.
stdout gets one JSON object a line: the address, the answer to each SIGUSR1, and a last one when serving has ended.

Rule: nothing in this file may touch an underscore of evloop: what it reports is what any application could know.
"""

from __future__ import annotations

import builtins
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time

import evloop
import evloop.server
import evloop.tls
from evloop import _connection_py, connection

OPTIONS = json.loads(sys.argv[1])
ORDER = b"order: "
CLASSES = (connection.Connection, _connection_py.Connection)  # a TLS connection derives from the pure one
tally = dict.fromkeys(("made", "lost", "twice", "late", "frames"), 0)
conns = []  # in the order of their arrival
children = []
server = None


def say(**facts):
    """Print one line for the test."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def report():
    """Answer SIGUSR1: what the server counts, and what is left in this process."""
    gc.collect()
    alive = [thing for thing in gc.get_objects() if isinstance(thing, CLASSES)]
    reactor = server.reactor.stats()
    say(stats=server.stats(), reactor=reactor, objects=len(alive), tally=tally, wall=time.time())


class Obedient(evloop.Protocol):
    """Echoes each frame, and obeys orders; counts what it is told."""

    ended = False

    def connection_made(self, conn):
        self.conn = conn
        conns.append(conn)
        tally["made"] += 1

    def frame_received(self, frame):
        tally["frames"] += 1
        tally["late"] += self.ended
        if not frame.startswith(ORDER):
            return self.conn.send(frame)
        order, *args = frame[len(ORDER) :].decode().split()
        return getattr(self, "do_" + order.replace("-", "_"))(*args)

    def connection_lost(self, exc):
        tally["lost"] += 1
        tally["twice"] += self.ended
        self.ended = True
        conns.remove(self.conn)
        del self.conn

    def do_raise(self, name):
        if name == "RecursionError":
            return self.do_raise(name)
        raise getattr(builtins, name)("as ordered")

    def do_big(self, count):
        self.conn.send_many([bytes(1 << 20)] * int(count))

    def do_last(self, *words):
        self.conn.send(" ".join(words).encode())
        self.conn.close()

    def do_close_twice(self):
        self.conn.send(b"closing")
        self.conn.close()
        self.conn.close()
        self.conn.send(b"too late")
        self.conn.send_many([b"too", b"late"])

    def do_abort_twice(self):
        self.conn.abort()
        self.conn.abort()
        self.conn.close()
        self.conn.send(b"too late")

    def do_close_others(self):
        for conn in conns:
            if conn is not self.conn:
                conn.close()

    def do_abort_at(self, index):
        conns[int(index)].abort()

    def do_close_all(self):
        for conn in conns:
            conn.close()

    def do_close_listener(self):
        server.close()
        self.conn.send(b"closed")

    def do_pause(self, seconds):
        self.conn.pause_reading()
        server.reactor.call_later(float(seconds), self.conn.resume_reading)

    def do_timers(self, count, seconds):
        fired = []

        def fire():
            fired.append(None)
            if len(fired) == int(count):
                self.conn.send(b"fired")

        for _ in range(int(count)):
            server.reactor.call_later(float(seconds), fire)

    def do_spawn(self):
        command = [sys.executable, "-c", "input()"]
        children.append(subprocess.Popen(command, stdin=subprocess.PIPE, close_fds=False))
        self.conn.send(b"spawned")
        self.conn.close()

    def do_fork(self):
        child = os.fork()
        if child == 0:
            sys.exit(0)
        os.waitpid(child, 0)
        self.conn.send(b"forked")

    def do_fork_and_kill(self):
        ends = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(ends[1], b"x")  # Python forgets the signals that come while it forks
            signal.pause()
            os._exit(1)
        os.read(ends[0], 1)
        os.kill(child, signal.SIGTERM)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for fd in ends:
            os.close(fd)
        self.conn.send(b"killed" if code == -signal.SIGTERM else b"ended by itself")


def ready(new):
    """Tell the test where to connect, and be ready for its questions."""
    global server
    server = new
    server.reactor.add_signal_handler(signal.SIGUSR1, report)
    implementation = server.reactor.stats()["implementation"], connection.IMPLEMENTATION
    say(address=str(server.address), pid=os.getpid(), implementation=implementation)


def main():
    """Serve as the options say."""
    if "head_room" in OPTIONS:
        evloop.server.HEAD_ROOM = OPTIONS["head_room"]
    inherited = [socket.socket(fileno=OPTIONS["fd"])] if "fd" in OPTIONS else None
    framing = OPTIONS.get("framing")
    evloop.serve(
        Obedient,
        OPTIONS.get("address", "127.0.0.1:0"),
        framing=evloop.Framing.from_struct(framing) if framing else evloop.Framing.U32,
        limits=evloop.Limits(**{"linger": 0.2, **OPTIONS.get("limits", {})}),  # else each end takes 2 s
        sockets=inherited,
        ssl=evloop.tls.server_context(OPTIONS["certificate"]) if "certificate" in OPTIONS else None,
        ready=ready,
    )
    for child in children:
        child.communicate(b"\n")
    say(returned=True)


main()
