"""Who is let in: how many from one address, how many wait, and a word for those whom no descriptor is left for.

Rule: nothing in this file may know a server, a connection or a reactor.  Read next: ``server.py``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from evloop.addresses import Address

Key: TypeAlias = "str | bytes"

_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, an IPv4 peer of a listener that takes both (RFC 4291, 2.5.5.2)
_LOOPBACK = bytes(15) + b"\1"


def address_key(peer: Address) -> Key | None:
    """Return what a bound per address counts: an IPv4 address, or the first 64 bits of an IPv6 one.

    A household or a rented machine has a whole /64 (RFC 6177), so that a bound per address would bound nobody there.
    None, exempt: loopback (127.0.0.0/8, ::1), which is a proxy on this machine or its operator, and UNIX sockets.
    """
    if peer.is_unix:
        return None
    host = peer.host
    if ":" in host:
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
        if not packed.startswith(_MAPPED):
            return None if packed == _LOOPBACK else packed[:8]
        host = socket.inet_ntop(socket.AF_INET, packed[12:])
    return None if host.startswith("127.") else host


# Of struct tcp_info (linux/tcp.h): in front eight bytes and four numbers, then tcpi_unacked and tcpi_sacked, which are
# the length of the accept queue and its bound while a socket listens (tcp_get_info() in the kernel).
_TCP_QUEUE = struct.Struct("=24xII")


def fullest_queue(listeners: Iterable[socket.socket]) -> tuple[int, int] | None:
    """Return how many connections wait in the fullest accept queue, and how many may; None: no TCP listener, no Linux.

    The kernel drops the last packet of a handshake for which there is no place, so a full queue is a second, three, or
    seven for somebody who connects.  It tells this of TCP alone.  One system call a listener.
    """
    if sys.platform != "linux":
        return None
    tcp = [sock for sock in listeners if sock.family in (socket.AF_INET, socket.AF_INET6)]
    infos = [sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_QUEUE.size) for sock in tcp]
    return max(map(_TCP_QUEUE.unpack, infos), default=None)


class PerAddress:
    """How many connections each address has, at most *limit* (int; 0: nobody counts).  Memory: what it counts."""

    __slots__ = ("limit", "_counts", "_keys")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._counts: dict[Key, int] = {}
        self._keys: dict[object, Key] = {}  # of each connection that counts

    def is_full(self, peer: Address) -> bool:
        """Tell whether *peer*'s address has as many as it may."""
        if not self.limit:
            return False
        key = address_key(peer)
        return key is not None and self._counts.get(key, 0) >= self.limit

    def add(self, conn: object, peer: Address) -> None:
        """Count *conn* as one of *peer*'s address."""
        key = address_key(peer) if self.limit else None
        if key is not None:
            self._keys[conn] = key
            self._counts[key] = self._counts.get(key, 0) + 1

    def discard(self, conn: object) -> None:
        """Count *conn* no more.  Idempotent."""
        key = self._keys.pop(conn, None)
        if key is not None:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]


class SpareDescriptor:
    """A file descriptor that is given up when there is no other, so that one connection can be accepted, and closed.

    Owns: the descriptor, from :meth:`take` to :meth:`give_up`.
    """

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = -1

    def take(self) -> bool:
        """Have the descriptor; return whether there is one.  Idempotent."""
        if self._fd < 0:
            with contextlib.suppress(OSError):
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        return self._fd >= 0

    def give_up(self) -> None:
        """Close it.  Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    @contextlib.contextmanager
    def lent(self) -> Iterator[bool]:
        """Give it up for the time of a ``with``, which is told whether there was one."""
        had = self._fd >= 0
        self.give_up()
        try:
            yield had
        finally:
            self.take()
