"""What the tests of connections share: a world of one thread, hostile raw peers in it, and protocols that keep a diary.

A world turns its reactor without ever waiting, moves its peers between two turns, and has a clock that stands still
until a test advances it.  So nothing in a test depends on how fast the machine is, and no timer fires by accident.
At its end each world proves for all of its connections: one ``connection_lost`` for each ``connection_made``, nothing
after it, and nothing that escaped to the reactor's exception handler.

Rule: nothing in this file may know how a connection works inside.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import subprocess
import sys
import time

import pytest
from kernel import kernel_of

import evloop
from evloop import CloseReason, Framing, Limits, Protocol, Reactor
from evloop._connection_py import Connection as PureConnection
from evloop.connection import Connection

PATIENCE = 20.0  # seconds; only a failing test waits as long, and a busy machine is no failure
RST_ON_CLOSE = struct.pack("ii", 1, 0)
STEP = 1 << 18  # bytes that a peer moves between two turns
U32 = Framing.U32


def encode(*payloads, framing=U32):
    """Return the payloads as they are on the wire."""
    return b"".join(framing.encode(payload) for payload in payloads)


def decode(data, framing=U32):
    """Return the frames that *data* consists of; it must end at a boundary."""
    decoder = evloop.FrameDecoder(framing, max_frame=framing.max_frame)
    frames = decoder.feed(data)
    decoder.eof()
    return frames


class Peer:
    """The raw other end of a connection; reads only while `reading`, and sends what `write` was given bit by bit."""

    def __init__(self, sock, reading=False):
        sock.setblocking(False)
        self.sock = sock
        self.reading = reading
        self.received = bytearray()
        self.eof = False
        self.error = None  # the errno that recv or send raised
        self._out = b""
        self._fin = False

    def write(self, data, fin=False):
        """Send *data* between the turns to come, as fast as the kernel takes it; then the end of the stream."""
        self._out += data
        self._fin = self._fin or fin
        self.step()
        return self

    @property
    def written(self):
        return not self._out

    @property
    def frames(self):
        """The complete frames received; the rest stays out."""
        return evloop.FrameDecoder(U32, max_frame=U32.max_frame).feed(bytes(self.received))

    @property
    def ended(self):
        return self.eof or self.error is not None

    def step(self):
        if self.sock.fileno() < 0:
            return
        try:
            self._step_out()
            if self.reading and not self.ended:
                data = self.sock.recv(STEP)
                self.received += data
                self.eof = not data
        except BlockingIOError:
            return
        except OSError as exc:
            self.error = exc.errno

    def _step_out(self):
        if self._out:
            try:
                self._out = self._out[self.sock.send(self._out[:STEP]) :]
            except BlockingIOError:
                return
            except OSError:
                self._out = b""
                raise
        if self._fin and not self._out:
            self._fin = False
            self.sock.shutdown(socket.SHUT_WR)

    def fin(self):
        """Close the sending side."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        """Close with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
        self.sock.close()

    def close(self):
        self.sock.close()


class Recorder(Protocol):
    """A protocol that keeps a diary, and does what it was told to: ``Recorder(frame=lambda rec, frame: ...)``.

    The words of the diary: made, frame, frames, data, eof, pause, resume, lost.
    """

    def __init__(self, **actions):
        self.actions = actions
        self.log = []
        self.frames = []
        self.late = []  # what came after connection_lost
        self.lost = False
        self.exc = self.reason = self.conn = None

    def _did(self, what, *args):
        (self.late if self.lost else self.log).append(what)
        self.lost = self.lost or what == "lost"
        action = self.actions.get(what)
        return None if action is None else action(self, *args)

    def connection_made(self, conn):
        self.conn = conn
        return self._did("made")

    def eof_received(self):
        return self._did("eof")

    def pause_writing(self):
        return self._did("pause")

    def resume_writing(self):
        return self._did("resume")

    def connection_lost(self, exc):
        self.exc, self.reason = exc, self.conn.close_reason
        return self._did("lost")


class FrameRecorder(Recorder):
    """One call a frame."""

    def frame_received(self, frame):
        self.frames.append(frame)
        return self._did("frame", frame)


class BatchRecorder(Recorder):
    """One call a read."""

    def frames_received(self, frames):
        self.frames.extend(frames)
        return self._did("frames", frames)


class DataRecorder(Recorder):
    """One call a read, without framing."""

    def data_received(self, data):
        self.frames.append(data)
        return self._did("data", data)


def echo(rec, frame):
    """An action: send the frame back."""
    rec.conn.send(frame)


def tcp_pair():
    """Return two connected TCP sockets on the loopback, ours first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours = listener.accept()[0]
    for sock in (ours, theirs):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


def narrow_pair():
    """A TCP pair whose kernel buffers are as small as they get, so that little output is much."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        theirs = socket.socket()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        theirs.connect(listener.getsockname())
        return listener.accept()[0], theirs


def recording_factory():
    """Return what to give as `socket_factory`, and the list of the fds that it makes, and that its sockets accept."""
    fds = []

    class Recording(socket.socket):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            fds.append(self.fileno())

        def accept(self):
            sock, address = super().accept()
            return type(self)(fileno=sock.detach()), address

    return Recording, fds


class World:
    """A reactor with a clock that stands still, and all that lives on it.  See the module's docstring."""

    def __init__(self, connection_class=Connection, **options):
        self.connection_class = connection_class
        self.now = 1000.0
        self.reactor = Reactor(clock=lambda: self.now, **options)
        self.reactor.set_exception_handler(lambda reactor, context: self.errors.append(context))
        self.errors = []  # what escaped; a test that expects something takes it out
        self.peers = []
        self.recorders = []
        self.served = []  # (connection, exc), as on_lost was called
        self.connections = []
        self.kernel = None

    def spy(self):
        """Return a `Kernel`, `self.kernel` from now on, of the connections to come; before the first one."""
        assert not self.connections, "a connection that exists has its system calls already"
        self.kernel = kernel_of(self.connection_class, self.reactor)
        return self.kernel

    def connect(self, protocol, *, pair=tcp_pair, prepare=None, framing=U32, reading=False, throttle=True, **limits):
        """Return a connection for *protocol*, started after ``prepare(connection)``, and its peer."""
        ours, theirs = pair()
        if self.kernel is not None:
            ours = self.kernel.attach(ours)
        ours.setblocking(False)
        peer = self.peer(theirs, reading)
        self.recorders += [protocol] if isinstance(protocol, Recorder) else []
        conn = self.connection_class(
            self.reactor,
            ours,
            protocol,
            framing=framing,
            limits=Limits(**limits),
            on_lost=lambda *args: self.served.append(args),
            throttle=throttle,
        )
        self.connections.append(conn)
        if self.kernel is not None:
            self.kernel.adopt(conn)
        if prepare is not None:
            prepare(conn)
        conn.start()
        return conn, peer

    def peer(self, sock, reading=False):
        """Adopt a raw socket as a peer."""
        self.peers.append(Peer(sock, reading))
        return self.peers[-1]

    def turn(self, count=1):
        """Turn the reactor *count* times without waiting; the peers move after each turn."""
        for _ in range(count):
            self.reactor.stop()
            self.reactor.run_forever()
            for peer in self.peers:
                peer.step()

    def until(self, predicate):
        """Turn until *predicate()* is true; fail when patience ends."""
        deadline = time.monotonic() + PATIENCE
        while not predicate():
            assert time.monotonic() < deadline, "the condition did not come true"
            self.turn()

    def settle(self):
        """Turn until nothing happens any more: a few turns in a row without an event, an entry or a byte."""
        quiet = 0
        deadline = time.monotonic() + PATIENCE
        while quiet < 5:
            assert time.monotonic() < deadline, "it does not come to rest"
            before = self._activity()
            self.turn()
            quiet = 0 if self._activity() != before else quiet + 1

    def _activity(self):
        moved = sum(len(peer.received) - len(peer._out) + peer.ended for peer in self.peers)
        return self.reactor.stats()["events"], self.reactor.stats()["ready"], moved

    def advance(self, seconds):
        """Move the clock on, and turn twice: what is due runs in the first turn, what that schedules in the second."""
        self.now += seconds
        self.turn(2)

    def close(self):
        """End everything, and check what every world promises."""
        for conn in self.connections:
            conn.abort()
        self.turn(3)
        for peer in self.peers:
            peer.close()
        self.reactor.close()
        assert [rec.late for rec in self.recorders if rec.late] == []
        made = [rec for rec in self.recorders if "made" in rec.log]
        assert [rec.log for rec in made if rec.log.count("lost") != 1 or rec.log[-1] != "lost"] == []
        assert [rec for rec in made if not isinstance(rec.reason, CloseReason)] == []
        assert self.errors == []


@pytest.fixture
def connection_class(request):
    """One implementation of the connection; a missing extension is an error, not a skip."""
    if request.param == "python":
        return PureConnection
    from evloop._connection import Connection

    return Connection


@pytest.fixture
def world(connection_class):
    """A world of that implementation; ended, and checked, after the test."""
    world = World(connection_class)
    yield world
    world.close()


@pytest.fixture
def kernel(world):
    """The system calls of that world's connections, to count and to disturb."""
    return world.spy()


@contextlib.contextmanager
def python(source, *args, preexec_fn=None, env=None):
    """Run *source* in a Python of its own, killed at the end of the block if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", source, *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=preexec_fn,
        env={**os.environ, **(env or {})},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def read_line(process):
    """Return the next line that the process prints, as text; fail when patience ends."""
    assert select.select([process.stdout], [], [], PATIENCE)[0], "the process prints nothing"
    line = process.stdout.readline().decode().strip()
    assert line, process.stderr.read().decode()
    return line


def wait_until(condition, process=None):
    """Wait for something outside of this process; fail when patience ends."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        if process is not None:
            assert process.poll() is None, process.stderr.read().decode()
        select.select([], [], [], 0.005)
