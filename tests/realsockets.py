"""What the tests of sockets share: real listeners, clients, stale files, and a kernel that lacks a family."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct

import pytest

from evloop import sockets
from evloop.sockets import listen

DEADLINE = 10  # seconds: far above anything here, below a human's patience
RST_ON_CLOSE = struct.pack("ii", 1, 0)


def _has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="::1 cannot be bound: this machine has no IPv6 loopback")


@contextlib.contextmanager
def listening(address, **options):
    """Yield the listeners of *address*, closed at the end."""
    listeners = listen(address, **options)
    try:
        yield listeners
    finally:
        for sock in listeners:
            sock.close()


def connect(address):
    """Return a connected socket, by the three steps a client takes."""
    kind = sockets.socket_type_of(sockets.parse_address(address))
    sock, connected = sockets.start_connect(*sockets.resolve(address)[0], socket_type=kind)
    if not connected:
        assert select.select([], [sock], [], DEADLINE)[1]
        sockets.finish_connect(sock)
    return sock


def accept(listener):
    """Return the next connection of a non-blocking listener."""
    assert select.select([listener], [], [], DEADLINE)[0]
    return listener.accept()[0]


def leave_stale(path):
    """Leave the file of a dead server at *path*."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def open_fds():
    """Return what each open descriptor points at, as {fd: target}."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def refusing(family, number):
    """Return a socket factory that fails with *number* for *family*, as a kernel without that family does."""

    def factory(fam, kind):
        if fam == family:
            raise OSError(number, os.strerror(number))
        return socket.socket(fam, kind)

    return factory
