"""Servers for the pytest benchmarks: the rivals' own files, with either twin, and blocking clients beside them.

Rule: nothing in this file may be timed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from evloop.bench.peers_run import START_TIMEOUT, environment, read_line
from evloop.bench.rivals import HERE, RIVALS

TIMEOUT = 30.0  # seconds; only a broken server waits as long


@contextlib.contextmanager
def served(file: str, twin: str) -> Iterator[tuple[str, int]]:
    """Run a server of ``evloop/bench/rivals`` with *twin*, cython or python; yield its address; kill it at the end.

    It has the first core where there are two: the client, which is this process, is to have the other.
    """
    env = environment(RIVALS["evloop-function"]) | {"EVLOOP_PURE": "1" if twin == "python" else "0"}
    with subprocess.Popen([sys.executable, str(Path(HERE, file))], stdout=subprocess.PIPE, env=env) as server:
        try:
            cores = sorted(os.sched_getaffinity(0))
            if len(cores) > 1:
                os.sched_setaffinity(server.pid, cores[:1])
            assert server.stdout is not None
            line = read_line(server.stdout, START_TIMEOUT)
            host, _, port = line.rpartition(" ")[2].rpartition(":")
            yield host, int(port)
        finally:
            server.kill()


@contextlib.contextmanager
def connected(address: tuple[str, int], count: int = 1) -> Iterator[list[socket.socket]]:
    """Yield *count* blocking connections, closed at the end."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_connection(address, TIMEOUT)) for _ in range(count)]
        for sock in socks:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield socks


def receive(sock: socket.socket, size: int) -> None:
    """Take *size* bytes; EOFError if the stream ends before."""
    while size:
        data = sock.recv(min(size, 1 << 18))
        if not data:
            raise EOFError(f"{size} bytes short")
        size -= len(data)
