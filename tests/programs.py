"""What the tests of the command line share: the program as a process, its servers, and peers made of plain sockets."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

EVLOOP = [sys.executable, "-m", "evloop"]
PATIENCE = 30.0  # seconds; only a failing test waits as long


def environment(**changes):
    """Return an environment without settings for evloop but *changes*, where a warning is an error."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVLOOP_")}
    if "EVLOOP_PURE" in os.environ:
        kept["EVLOOP_PURE"] = os.environ["EVLOOP_PURE"]
    return {**kept, "PYTHONWARNINGS": "error", **changes}


def run_program(*args, env=None, stdin=subprocess.DEVNULL, **options):
    """Run evloop to its end; return subprocess's CompletedProcess, with bytes."""
    if "input" in options:
        stdin = None
    options.setdefault("stdout", subprocess.PIPE)
    return subprocess.run(
        [*EVLOOP, *args],
        env=environment(**(env or {})),
        stdin=stdin,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        check=False,
        **options,
    )


def shell(script, *args):
    """Run *script* with sh, in which "$@" is evloop with *args*."""
    command = ["sh", "-c", script, "sh", *EVLOOP, *args]
    return subprocess.run(command, env=environment(), capture_output=True, timeout=PATIENCE, check=False)


class Program:
    """A running evloop, whose output can be waited for; killed at the end of a ``with``."""

    def __init__(self, *args, env=None, stdin=subprocess.PIPE, stdout=subprocess.PIPE, launcher=(), **options):
        self.process = subprocess.Popen(
            [*launcher, *EVLOOP, *args],
            env=environment(**(env or {})),
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            bufsize=0,
            **options,
        )
        self.out = self.err = b""
        self._open = {}
        if self.process.stdout is not None:
            self._open[self.process.stdout.fileno()] = "out"
        self._open[self.process.stderr.fileno()] = "err"

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def _pump(self, deadline):
        """Take what is there, or wait for it."""
        ready, _, _ = select.select(list(self._open), [], [], max(deadline - time.monotonic(), 0))
        assert ready, f"nothing came; so far out={self.out!r} err={self.err!r}"
        for fd in ready:
            data = os.read(fd, 65536)
            name = self._open[fd] if data else self._open.pop(fd)
            setattr(self, name, getattr(self, name) + data)

    def wait_for(self, stream, text):
        """Return what *stream* ("out" or "err") has said, once *text* (bytes) is in it."""
        deadline = time.monotonic() + PATIENCE
        while text not in getattr(self, stream):
            assert stream in self._open.values(), f"ended without {text!r}: out={self.out!r} err={self.err!r}"
            self._pump(deadline)
        return getattr(self, stream)

    def finish(self):
        """Wait for the end; return the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._open:
            self._pump(deadline)
        return self.process.wait(PATIENCE)

    def write(self, data):
        """Write to its standard input."""
        self.process.stdin.write(data)

    def signal(self, number):
        """Send it a signal."""
        self.process.send_signal(number)


class Served(Program):
    """A running ``evloop serve``; ``lines`` are its LISTENING lines, as text."""

    def __init__(self, *args, **options):
        super().__init__("serve", *args, **options)
        self.wait_for("out", b"\n")
        self.lines = self.out.decode().splitlines()

    @property
    def address(self):
        """The address to connect to, as a command line wants it."""
        kind, _, place = self.lines[0].partition(" ")[2].partition(" ")
        return place if kind == "tcp" else f"{kind}:{place}"

    def connect(self):
        """Return a plain socket, connected to it."""
        kind, _, path = self.address.partition(":")
        if kind in ("unix", "seqpacket"):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if kind == "unix" else socket.SOCK_SEQPACKET)
            sock.settimeout(PATIENCE)
            sock.connect(path)
            return sock
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE)


@contextlib.contextmanager
def serving(*args, **options):
    """Yield a running server; SIGTERM has to end it with 0 and without a traceback."""
    with Served(*args, **options) as server:
        yield server
        server.signal(signal.SIGTERM)
        code = server.finish()
        assert b"Traceback" not in server.err, server.err.decode()
        assert code == 0, server.err.decode()


# --- peers made of plain sockets ----------------------------------------------------------------------------------


def frame(payload, fmt="!I"):
    """Return *payload* behind its length."""
    return struct.pack(fmt, len(payload)) + payload


def receive(sock, size):
    """Return exactly *size* bytes."""
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, f"closed after {data!r}"
        data += more
    return data


def receive_frame(sock):
    """Return the payload of the next frame."""
    (size,) = struct.unpack("!I", receive(sock, 4))
    return receive(sock, size)


def rest_of(sock):
    """Return everything until the peer's end of the stream; a reset is one."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := sock.recv(65536):
            data += more
    return data


@contextlib.contextmanager
def listener(backlog=5):
    """Yield a plain listening socket and its address, as a command line wants it."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as sock:
        sock.settimeout(PATIENCE)
        yield sock, f"127.0.0.1:{sock.getsockname()[1]}"


def accept(listening):
    """Return the next connection, with a deadline on everything."""
    sock, _ = listening.accept()
    sock.settimeout(PATIENCE)
    return sock
