"""The servers that fan out: ours, the C floor, brokers of the distribution, and what else Python has.

Each is started on a port of the loopback that is free, with an empty directory and a configuration of its own, which
raises no bound but that on a slow subscriber's output (64 MiB, NATS' default), and turns off what writes to a disk.
The scripts among them print ``LISTENING tcp 127.0.0.1:PORT``, the brokers say in their own words that they are ready.

Rule: nothing in this file measures.  Read next: ``fanout.py``, ``_fanout_wire.h``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from evloop.bench import rivals
from evloop.bench.peers_run import PACKAGE_PARENT, START_TIMEOUT, UNWANTED, RunFailed

# Attempts at a port that was free a moment ago.
ATTEMPTS = 5

# Seconds between two looks at what a server has said; a start takes at least as long.
_LOOK = 0.01

_OUTPUT_BOUND = 64 << 20  # bytes that may wait for a subscriber

Command = Callable[[pathlib.Path, int], list[str]]


class Server(NamedTuple):
    """A row of the table."""

    name: str
    wire: str  # what fanout.c is to speak
    command: Command  # from an empty directory and a free port
    ready: str = r"LISTENING tcp 127\.0\.0\.1:(\d+)"  # what it says when it listens; a group is the port
    program: str = ""  # on the PATH
    package: str = ""  # of Debian, with the program
    modules: tuple[str, ...] = ()  # distributions, each also the name of its module
    environment: tuple[tuple[str, str], ...] = ()
    pinned: bool = True  # to the server's core; if not, it takes all there are, the load's too

    @property
    def missing(self) -> str:
        """How to install what it needs and is not there; empty if nothing is missing."""
        if self.program and shutil.which(self.program, path=_path()) is None:
            return f"apt-get install {self.package}"
        lacking = [name for name in self.modules if importlib.util.find_spec(name) is None]
        return f"pip install {' '.join(lacking)}" if lacking else ""

    @property
    def ours(self) -> bool:
        """Whether it is evloop."""
        return self.name.startswith("evloop-")


def _path() -> str:
    """Return the PATH with sbin, where Debian puts daemons and a user's PATH does not look."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def _script(file: str, *arguments: str) -> Command:
    return lambda _directory, _port: [sys.executable, str(rivals.HERE / file), *arguments]


def _chat(_directory: pathlib.Path, _port: int) -> list[str]:
    return [sys.executable, "-m", "evloop", "serve", "chat", "127.0.0.1:0", "--rate", "0",
            "--max-output", str(_OUTPUT_BOUND)]  # fmt: skip


def _redis(directory: pathlib.Path, port: int) -> list[str]:
    bound = str(_OUTPUT_BOUND)
    return ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", "",
            "--appendonly", "no", "--io-threads", "1",
            "--client-output-buffer-limit", "pubsub", bound, bound, "60"]  # fmt: skip


def _nats(_directory: pathlib.Path, port: int) -> list[str]:
    return ["nats-server", "-a", "127.0.0.1", "-p", str(port)]


def _mosquitto(directory: pathlib.Path, port: int) -> list[str]:
    path = directory / "mosquitto.conf"
    path.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
        "max_queued_messages 0\nconnection_messages false\nlog_dest stderr\n"
    )
    return ["mosquitto", "-c", str(path)]


def floor(program: pathlib.Path) -> Server:
    """Return the row of the compiled floor."""
    return Server("floor", "frames", lambda _directory, _port: [str(program)])


_NATS = Server("nats", "nats", _nats, "Server is ready", "nats-server", "nats-server", pinned=False)

SERVERS: dict[str, Server] = {
    server.name: server
    for server in [
        Server("floor", "frames", lambda _directory, _port: []),  # its command is known when it is compiled
        Server("redis", "resp", _redis, "eady to accept connections", "redis-server", "redis-server"),
        _NATS._replace(name="nats-1", environment=(("GOMAXPROCS", "1"),), pinned=True),
        _NATS,
        Server("mosquitto", "mqtt", _mosquitto, "mosquitto version .* running", "mosquitto", "mosquitto"),
        Server("evloop-group", "frames", _script("evloop_group.py")),
        Server("evloop-batch", "frames", _script("evloop_group_batch.py")),
        Server("evloop-chat", "chat", _chat, modules=("click", "msgspec")),
        Server("evloop-aio", "frames", _script("asyncio_fanout.py", "evloop.aio")),
        Server("asyncio", "frames", _script("asyncio_fanout.py", "asyncio")),
        Server("uvloop", "frames", _script("asyncio_fanout.py", "uvloop"), modules=("uvloop",)),
        Server("websockets", "ws", _script("websockets_fanout.py"), modules=("websockets",)),
    ]
}


def environment(server: Server) -> dict[str, str]:
    """Return the environment of a server: the common one, cleaned, with this evloop first on the path."""
    env = {key: value for key, value in os.environ.items() if not key.startswith((*UNWANTED, "GOMAXPROCS", "EVLOOP_"))}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [PACKAGE_PARENT, env.get("PYTHONPATH")]))
    env["PATH"] = _path()
    return env | dict(server.environment)


@contextlib.contextmanager
def serving(server: Server, core: int | None) -> Iterator[tuple[int, str]]:
    """Run a server on *core* (None: any); yield its process id and HOST:PORT; kill it at the end.

    Raises:
        RunFailed: it did not start; with its last words.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        for attempt in range(ATTEMPTS):
            log = directory / f"log-{attempt}"
            port = _free_port()
            with _started(server, server.command(directory, port), log, core) as process:
                try:
                    found = _wait_until_ready(server, process, log)
                    if found is not None:
                        yield process.pid, f"127.0.0.1:{found or port}"
                        return
                finally:
                    process.kill()
            if "in use" not in log.read_text(errors="replace").lower():  # else somebody took the port first
                break
        said = log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise RunFailed(f"{server.name} did not start: {said or 'it said nothing'}")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _started(server: Server, command: list[str], log: pathlib.Path, core: int | None) -> subprocess.Popen[bytes]:
    """Start a process whose output goes to a file: a pipe that nobody reads would stop a server that logs."""
    pin = {core} if core is not None and server.pinned else None
    with log.open("wb") as output:
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(server),
                cwd=log.parent,
                # Before the program runs: what it starts threads by is the number of cores it has at its start.
                preexec_fn=(lambda: os.sched_setaffinity(0, pin)) if pin else None,
            )
        except OSError as exc:
            raise RunFailed(f"{server.name} did not start: {exc}") from exc


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes], log: pathlib.Path) -> int | None:
    """Return the port that the server says it listens on, 0 if it says only that it is ready, None if it has ended."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        ended = process.poll() is not None
        found = re.search(server.ready, log.read_text(errors="replace"))
        if found:
            return int(found[1]) if found.groups() else 0
        if ended:
            return None
        if time.monotonic() > deadline:
            raise RunFailed(f"{server.name} was not ready within {START_TIMEOUT:g} s")
        time.sleep(_LOOK)
