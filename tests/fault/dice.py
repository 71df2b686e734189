"""A kernel with moods: the system calls of connections, listeners and epoll fail and fall short as seeded dice say.

Compiled code calls through its reactor's table of C functions, so a table made with ctypes stands between; pure code
calls the methods of its sockets and of its selector, so subclasses of those do.  What becomes of a call is decided by
one `Faults`, the same for both.

Each seed turns a random half of the kinds on, so that they do not hide each other.

Rule: nothing in this file may invent what Linux cannot do.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import random
import selectors
import socket
from collections import Counter

from kernel import KINDS, LIBC, Message, Part, Syscalls, fail, joined, parts_at

# What a program must not notice but by its speed.
TRANSPARENT = (
    "short read",
    "short write",
    "EAGAIN at read",
    "EAGAIN at write",
    "EINTR at read",
    "EINTR at write",
    "EAGAIN at accept",
    "ECONNABORTED at accept",
    "EMFILE at accept",
    "ENFILE at accept",
    "spurious event",
    "late event",
    "EINTR at wait",
)
# What ends a connection.
FATAL = ("ECONNRESET at read", "ECONNRESET at write", "EPIPE at write", "ENOBUFS at write", "ETIMEDOUT at read")

# Accepts that fail one after the other: a server that finds no descriptor for long turns its clients away.
ACCEPT_FAILURES = 3

RARE = 0.01  # of calls that end a connection: most of a seed's traffic is to come before it
EVENTS = (("EPOLLIN", 1), ("EPOLLOUT", 4))


class Faults:
    """What becomes of each call, by the dice of a *seed*; `done` counts what was done, by kind."""

    def __init__(self, seed, fatal):
        self.dice = random.Random(seed)
        self.rate = {kind: self.dice.choice([0.05, 0.3]) for kind in TRANSPARENT if self.dice.random() < 0.5}
        if fatal:
            self.rate |= {kind: RARE for kind in FATAL if self.dice.random() < 0.5}
        self.done = Counter()
        self.lies = 0.0  # the rate of writes that say they took more than they did: no kernel, but a planted bug
        self.refused = 0  # accepts, one after the other
        self.over = False  # faults are off, so that what is left can come to its end

    def strikes(self, kind):
        """Tell whether this is one of the calls that *kind* happens to."""
        if self.over or self.dice.random() >= self.rate.get(kind, 0):
            return False
        self.done[kind] += 1
        return True

    def fail(self, where):
        """Raise what a call *where* ("read", "write", "accept", "wait") is to fail with."""
        for kind in self.rate:
            name, _, place = kind.partition(" at ")
            if place == where and self.strikes(kind):
                fail(getattr(errno, name))

    def accept(self, call):
        """Accept."""
        if self.refused < ACCEPT_FAILURES:
            self.refused += 1  # unless it comes to the call
            self.fail("accept")
        self.refused = 0
        return call()

    def read(self, size, call):
        """Read: ``call(n)`` takes at most n bytes."""
        self.fail("read")
        return call(self.dice.randint(1, size) if size > 1 and self.strikes("short read") else size)

    def write(self, size, call, hang_up):
        """Write: ``call(n)`` gives n of the bytes to the real kernel; ``hang_up()`` ends both directions there.

        After a reset Linux lets a program read what had come, and then the end: so does a socket that was shut down.
        """
        try:
            self.fail("write")
        except (ConnectionResetError, BrokenPipeError):
            hang_up()
            raise
        if size > 1 and self.dice.random() < self.lies:
            call(size - 1)
            return size
        return call(self.dice.randint(1, size) if size > 1 and self.strikes("short write") else size)

    def events(self, real, armed):
        """Return the events of a wait: *real*, {fd: mask}, less some and more some, of *armed*, in another order."""
        if self.strikes("EINTR at wait"):
            fail(errno.EINTR)
        events = list(real.items())
        self.dice.shuffle(events)
        if len(events) > 1 and self.strikes("late event"):
            del events[self.dice.randrange(1, len(events)) :]
        for fd, mask in armed.items():
            if fd not in real and mask and self.strikes("spurious event"):
                events.append((fd, self.dice.choice([bit for _, bit in EVENTS if mask & bit] or [mask])))
        return events


# --- the compiled twin's ---------------------------------------------------------------------------------------------


class Event(ctypes.Structure):
    """struct epoll_event, epoll_wait(2); packed on x86-64 alone."""

    _pack_ = 1 if platform.machine() == "x86_64" else 8
    _fields_ = (("events", ctypes.c_uint32), ("data", ctypes.c_uint64))


ADD, DELETE, MODIFY = 1, 2, 3
IN_OUT = 1 | 4


class Table(Syscalls):
    """A table of C functions that is disturbed by *faults*."""

    def __init__(self, faults):
        self.faults = faults
        self.armed = {}  # fd: (mask, data), of the one epoll instance that a reactor has
        self.short_send = KINDS["send"](("send", LIBC))
        self.short_read = KINDS["readv"](("readv", LIBC))
        names = "recv send sendmsg readv accept4 epoll_ctl epoll_wait epoll_pwait2 close"
        super().__init__(**{name: getattr(self, "_" + name) for name in names.split()})

    def _recv(self, real, fd, data, size, flags):
        return self.faults.read(size, lambda n: real(fd, data, n, flags))

    def _readv(self, real, fd, address, count):
        parts = parts_at(address, count)
        total = sum(size for _, size in parts)

        def read(n):
            return real(fd, address, count) if n == total else self.short_read(fd, *cut(parts, n))

        return self.faults.read(total, read)

    def _send(self, real, fd, data, size, flags):
        return self.faults.write(size, lambda n: real(fd, data, n, flags), lambda: hang_up(fd))

    def _sendmsg(self, real, fd, address, flags):
        message = Message.from_address(address)
        parts = parts_at(message.parts, message.count)
        total = sum(size for _, size in parts)

        def write(n):
            return real(fd, address, flags) if n == total else self.short_send(fd, joined(parts)[:n], n, flags)

        return self.faults.write(total, write, lambda: hang_up(fd))

    def _accept4(self, real, *args):
        return self.faults.accept(lambda: real(*args))

    def _epoll_ctl(self, real, epfd, operation, fd, address):
        result = real(epfd, operation, fd, address)
        if result == 0 and operation == DELETE:
            self.armed.pop(fd, None)
        elif result == 0:
            event = Event.from_address(address)
            self.armed[fd] = event.events & IN_OUT, event.data
        return result

    def _close(self, real, fd):
        self.armed.pop(fd, None)
        return real(fd)

    def _epoll_wait(self, real, epfd, events, capacity, *how):
        return self._moody(real(epfd, events, capacity, *how), events, capacity)

    _epoll_pwait2 = _epoll_wait

    def _moody(self, count, address, capacity):
        if count < 0:
            return count
        array = (Event * capacity).from_address(address)
        by_data = {data: fd for fd, (_, data) in self.armed.items()}
        found = {event.data: event.events for event in array[:count]}
        foreign = [(data, mask) for data, mask in found.items() if data not in by_data]
        real = {by_data[data]: mask for data, mask in found.items() if data in by_data}
        events = self.faults.events(real, {fd: mask for fd, (mask, _) in self.armed.items()})
        told = foreign + [(self.armed[fd][1], mask) for fd, mask in events]
        for index, (data, mask) in enumerate(told[:capacity]):
            array[index].events, array[index].data = mask, data
        return min(len(told), capacity)


def hang_up(fd):
    """End both directions of a connection."""
    LIBC.shutdown(fd, socket.SHUT_RDWR)


def cut(parts, size):
    """Return iovecs for the first *size* bytes of *parts*, and their count."""
    kept = []
    for data, length in parts:
        if size > 0:
            kept.append(Part(data, min(length, size)))
            size -= length
    return (Part * len(kept))(*kept), len(kept)


# --- the pure twin's -------------------------------------------------------------------------------------------------


def moody_sockets(disturbed):
    """Return a class of sockets that are disturbed by the faults *disturbed*."""

    class MoodySocket(socket.socket):
        faults = disturbed

        def recv_into(self, buffer, nbytes=0, flags=0):
            size = nbytes or len(buffer)
            return self.faults.read(size, lambda n: socket.socket.recv_into(self, buffer, n, flags))

        def send(self, data, flags=0):
            def send(size):
                return socket.socket.send(self, data[:size], flags)

            return self.faults.write(len(data), send, lambda: hang_up(self.fileno()))

        def accept(self):
            sock, address = self.faults.accept(super().accept)
            return type(self)(fileno=sock.detach()), address

    return MoodySocket


class MoodySelector(selectors.DefaultSelector):
    """A selector that is disturbed by *faults*."""

    def __init__(self, faults):
        super().__init__()
        self.faults = faults

    def select(self, timeout=None):
        keys = {key.fd: key for key in self.get_map().values()}
        real = {key.fd: mask for key, mask in super().select(timeout)}
        # selectors.EVENT_READ and EVENT_WRITE are 1 and 2; dice know epoll's 1 and 4.
        armed = {fd: key.events & 1 | (key.events & 2) << 1 for fd, key in keys.items()}
        try:
            events = self.faults.events({fd: mask & 1 | (mask & 2) << 1 for fd, mask in real.items()}, armed)
        except InterruptedError:
            return []  # as each of the standard library's does
        return [(keys[fd], mask & 1 | (mask & 4) >> 1) for fd, mask in events]
