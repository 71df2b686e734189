"""What the fault tests share: a server process, a witness beside it, raw peers, and what has to hold in the end.

    with Scene(twin, limits={"linger": 0.2}) as scene:
        peer = scene.connect()
        ...

While a scene lasts, its witness echoes; when it ends, the worst round trip of the witness is within a bound, and the
server lives, serves a new client, holds no connection, descriptor or object of the ones before, does not spin, ends
with 0 at SIGTERM, and has written nothing to stderr but what the test has announced with `expect`.

Rule: nothing in this file may know a fault; it knows a server that must survive one.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import resource
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

import psutil
import pytest
from programs import frame, receive, receive_frame

import evloop

PROGRAM = str(pathlib.Path(__file__).with_name("program.py"))
PATIENCE = 20.0  # seconds; only a failing test waits as long
RST_ON_CLOSE = struct.pack("ii", 1, 0)

# Seconds.  A served witness waits for milliseconds, an unserved one for as long as the fault lasts; in between there is
# room for a machine that runs something else meanwhile.
WORST = 1.0

# Turns of an idle reactor in IDLE seconds: the question itself is two.  A spinning one makes thousands.
IDLE = 0.1
IDLE_TURNS = 8


def needs(*programs):
    """Return a mark that skips, and says so, where one of *programs* is not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def until(condition, what="the condition", patience=PATIENCE):
    """Wait for something outside of this process, and return what the condition returned."""
    deadline = time.monotonic() + patience
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true"
        select.select([], [], [], 0.01)
    return result


def more_files(soft=15_000):
    """Let this process open as many files as a crowd needs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard), hard))


def reset(sock):
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
    sock.close()


def leave(sock):
    """Close in good order, which in TLS takes a word."""
    if isinstance(sock, ssl.SSLSocket) and sock.fileno() >= 0:
        with contextlib.suppress(OSError):
            sock.unwrap()
    sock.close()


def exchange(sock, data, fin=True, pieces=None):
    """Send *data* (in *pieces* bytes at a time: an iterator), then FIN, while reading; return all until the end."""
    sock.setblocking(False)
    received, view, deadline = bytearray(), memoryview(data), time.monotonic() + PATIENCE
    while True:
        if fin and not view:
            sock.shutdown(socket.SHUT_WR)
            fin = False
        readable, writable, _ = select.select([sock], [sock] if view else [], [], PATIENCE)
        assert readable or writable, f"stuck after {len(received)} bytes, with {len(view)} to send"
        assert time.monotonic() < deadline, f"too slow: {len(received)} bytes, {len(view)} to send"
        if writable:
            view = view[sock.send(view[: next(pieces) if pieces else 1 << 18]) :]
        if readable:
            more = sock.recv(1 << 18)
            if not more:
                return bytes(received)
            received += more


def ending(sock):
    """Return how the server ended a connection, "eof" or "reset"; what came before is dropped."""
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(1 << 18):
            pass
        return "eof"
    return "reset"


class Witness:
    """A client that does nothing wrong, in a thread: it asks, waits for the answer, and asks again."""

    def __init__(self, sock):
        self.sock = sock
        self.worst = self.count = 0
        self.failure = None
        self._run = threading.Event()
        self._run.set()
        self._resting = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self):
        try:
            while not self._over:
                if not self._run.is_set():
                    self._resting.set()
                    self._run.wait()
                    self._resting.clear()
                    continue
                began = time.monotonic()
                self.count += 1
                question = b"%012d" % self.count
                self.sock.sendall(frame(question))
                answer = receive_frame(self.sock)
                self.worst = max(self.worst, time.monotonic() - began)
                assert answer == question
                select.select([], [], [], 0.002)  # a person who types, not a load generator
        except BaseException as exc:  # the thread's; told in the test's
            self.failure = exc
            self._resting.set()

    @contextlib.contextmanager
    def resting(self):
        """Ask nothing meanwhile: the whole server is stopped, or something is counted."""
        self._run.clear()
        assert self._resting.wait(PATIENCE), "the witness is not answered"
        try:
            yield
        finally:
            self._resting.clear()
            self._run.set()

    def stop(self):
        """End the thread; its connection stays."""
        self._over = True
        self._run.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


class Scene:
    """A server process of one twin, and those around it.  See the module's docstring.

    Args:
        twin: "cython" or "python".
        worst: seconds that the witness may wait; None: no witness.
        tls: the context of the clients, if the server (option ``certificate``) speaks TLS.
        launcher: a command in front of the server's.
        env, files, pass_fds: changes of its environment, its limit of open files, fds that it inherits.
        options: program.py's.
    """

    def __init__(self, twin, worst=WORST, tls=None, launcher=(), env=None, files=None, pass_fds=(), **options):
        self.worst = worst
        self.tls = tls
        self.header = options.get("framing", "!I")
        self.expected = []
        self.witness = None
        self.sockets = []
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the scene
        pure = {"EVLOOP_PURE": "1"} if twin == "python" else {}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EVLOOP_")}
        limit = None if files is None else lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        self.process = subprocess.Popen(
            [*launcher, sys.executable, "-W", "error", PROGRAM, json.dumps(options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**kept, **pure, **(env or {})},
            pass_fds=pass_fds,
            preexec_fn=limit,
        )
        self._twin = twin

    def __enter__(self):
        try:
            first = self.read()
            self.address, self.pid = evloop.parse_address(first["address"]), first["pid"]
            assert first["implementation"] == [self._twin, self._twin]
            if self.worst is not None:
                self.witness = Witness(self.connect())
                until(lambda: self.witness.count > 1 or self.witness.failure, "the witness's first answer")
                with self.witness.resting():
                    self.at_first = self.ask()
            else:
                self.at_first = self.ask()
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(self, kind, exc, traceback):
        try:
            if kind is None:
                self._check()
            elif exc is not None:
                print("stderr of the server:", self.log())  # noqa: T201 - pytest shows it with the failure
        finally:
            self._clear()

    # --- what a test does ------------------------------------------------------------------------------------------

    def connect(self, plain=False, **options):
        """Return a connected socket with a deadline, closed at the end: ``source``, ``rcvbuf`` and ``sndbuf``.

        With TLS, if the clients have it and it is not to be *plain*.
        """
        unix = self.address.kind == "unix"
        sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        self.sockets.append(sock)
        for name, option in (("rcvbuf", socket.SO_RCVBUF), ("sndbuf", socket.SO_SNDBUF)):
            if name in options:
                sock.setsockopt(socket.SOL_SOCKET, option, options[name])
        if "source" in options:
            sock.bind((options["source"], 0))
        sock.settimeout(PATIENCE)
        sock.connect(self.address.path if unix else (self.address.host, self.address.port))
        if not unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls is not None and not plain:
            self.sockets[-1] = sock = self.tls.wrap_socket(sock, server_hostname="localhost")
        return sock

    def talk(self, payload=b"are you there?", sock=None):
        """Return the answer to one frame, on *sock* or on a new connection."""
        own = sock or self.connect()
        own.sendall(frame(payload, self.header))
        (size,) = struct.unpack(self.header, receive(own, struct.calcsize(self.header)))
        answer = receive(own, size)
        if sock is None:
            leave(own)
        return answer

    def expect(self, *patterns):
        """Announce lines of stderr: each line must match one of the patterns, and each pattern a line."""
        self.expected += patterns

    def read(self):
        """Return the next thing that the server says."""
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        assert ready, f"the server says nothing; stderr: {self.log()}"
        line = self.process.stdout.readline()
        assert line, f"the server is gone; stderr: {self.log()}"
        return json.loads(line)

    def ask(self):
        """Return what program.py reports, and ``fds``, how many descriptors its process has."""
        os.kill(self.pid, signal.SIGUSR1)
        return {**self.read(), "fds": self.os_process.num_fds()}

    def stats(self):
        """Return the counters of the server."""
        return self.ask()["stats"]

    def closed(self, reason):
        """Return how many connections have ended for *reason*."""
        return self.stats().get(f"closed_{reason}", 0)

    def send_signal(self, number):
        """Send the server a signal."""
        os.kill(self.pid, number)

    @contextlib.contextmanager
    def stopped(self):
        """Stop the process meanwhile, so that all that happens is one batch of events to it."""
        with self.witness.resting() if self.witness else contextlib.nullcontext():
            self.send_signal(signal.SIGSTOP)
            until(lambda: self.os_process.status() == psutil.STATUS_STOPPED, "the stop")
            try:
                yield
            finally:
                self.send_signal(signal.SIGCONT)

    @property
    def os_process(self):
        """The server as psutil sees it."""
        return psutil.Process(self.pid)

    def log(self):
        """Return what the server has written to stderr."""
        self._log.seek(0)
        return self._log.read().decode()

    # --- what has to hold in the end -----------------------------------------------------------------------------

    def settled(self):
        """Return the report of a server that has nobody but the witness; wait for that."""
        latest = {}
        witnesses = int(self.witness is not None)

        def is_settled():
            latest.update(self.ask())
            tally = latest["tally"]
            return latest["stats"]["connections"] == tally["made"] - tally["lost"] == latest["objects"] == witnesses

        try:
            until(is_settled)
        except AssertionError:
            raise AssertionError(f"connections are left: {latest}") from None
        return latest

    def idle_turns(self):
        """Return how often the reactor turned while there was nothing to do."""
        before = self.ask()["reactor"]["turns"]
        time.sleep(IDLE)
        return self.ask()["reactor"]["turns"] - before

    def _check(self):
        for sock in self.sockets[int(self.witness is not None) :]:
            leave(sock)
        assert self.process.poll() is None, f"the server died: {self.log()}"
        self.settled()  # first: with limits, those who leave make room for the next
        assert self.talk() == b"are you there?"
        if self.witness is not None:
            self.witness.stop()
            if self.witness.failure is not None:
                raise AssertionError("the witness was not served") from self.witness.failure
            assert self.witness.worst < self.worst, f"the witness waited for {self.witness.worst:.3f} s"
        report = self.settled()
        assert report["fds"] == self.at_first["fds"], (self.at_first["fds"], report["fds"])
        assert report["tally"]["twice"] == report["tally"]["late"] == 0
        closed = sum(count for name, count in report["stats"].items() if name.startswith("closed_"))
        untold = closed - report["tally"]["lost"]
        assert untold == 0 or (self.tls is not None and untold > 0)  # of a handshake that fails no protocol hears
        assert self.idle_turns() <= IDLE_TURNS, "the reactor spins"
        if self.witness is not None:
            leave(self.witness.sock)  # else the server lingers for it
        self.end()

    def end(self, sig=signal.SIGTERM, code=0):
        """Have a signal end the server, with that exit code and nothing unexpected in its log."""
        self.send_signal(sig)
        assert self.process.wait(PATIENCE) == code, self.log()
        lines = self.log().splitlines()
        strange = [line for line in lines if not any(re.search(pattern, line) for pattern in self.expected)]
        assert strange == [], strange
        missing = [pattern for pattern in self.expected if not re.search(pattern, self.log(), re.M)]
        assert missing == [], (missing, lines)

    def _clear(self):
        if self.witness is not None:
            self.witness._over = True
            self.witness._run.set()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        if self.witness is not None:
            self.witness._thread.join(PATIENCE)
        for sock in self.sockets:
            sock.close()
        self.process.stdout.close()
        self._log.close()


# --- a process, and a network, of one's own ----------------------------------------------------------------------


def again(request, launcher=(), env=None, options=()):
    """Run the requesting test in another process; fail as it does."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "fault", "-p", "no:cacheprovider", *options]
    done = subprocess.run(
        [*launcher, *command, request.node.nodeid],
        cwd=request.config.rootpath,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)


def in_namespace(request):
    """Return whether this process has a network of its own; if not, the requesting test has been run in one that has.

    There its addresses, routes and queues are the test's to break, which takes no rights: user_namespaces(7).
    """
    if os.environ.get("FAULT_NAMESPACE") == request.node.nodeid:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return True
    options = ["--pure-only"] if request.config.getoption("--pure-only") else []
    again(request, ["unshare", "-Urn"], {"FAULT_NAMESPACE": request.node.nodeid}, options)
    return False
