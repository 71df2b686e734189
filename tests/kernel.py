"""The system calls of connections and reactors, to count and to disturb, whichever twin makes them.

Compiled code calls through its reactor's table of C functions (``evloop/_syscalls.h``), so a table made with ctypes
stands between; the pure connection calls the methods of its socket, so a subclass of ``socket.socket`` does.  What
becomes of a call is decided by one `Wire` a connection, the same for both, so that a test need not know which it has.

A call through ctypes costs microseconds: only the tests that look at system calls ask for a kernel.

Rule: nothing in this file may know more of a connection than its ``fileno()`` and its implementation.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
from itertools import repeat

INT, LONG, POINTER = ctypes.c_int, ctypes.c_ssize_t, ctypes.c_void_p
# name: result, arguments; in the order of struct evl_syscalls
CALLS = {
    "epoll_create1": (INT, INT),
    "epoll_ctl": (INT, INT, INT, INT, POINTER),
    "epoll_wait": (INT, INT, POINTER, INT, INT),
    "epoll_pwait2": (INT, INT, POINTER, INT, POINTER, POINTER),
    "eventfd": (INT, ctypes.c_uint, INT),
    "recv": (LONG, INT, POINTER, LONG, INT),
    "send": (LONG, INT, POINTER, LONG, INT),
    "sendmsg": (LONG, INT, POINTER, INT),
    "readv": (LONG, INT, POINTER, INT),
    "writev": (LONG, INT, POINTER, INT),
    "accept4": (INT, INT, POINTER, POINTER, INT),
    "shutdown": (INT, INT, INT),
    "setsockopt": (INT, INT, INT, INT, POINTER, ctypes.c_uint),
    "getsockopt": (INT, INT, INT, INT, POINTER, POINTER),
    "close": (INT, INT),
    "read": (LONG, INT, POINTER, LONG),
    "write": (LONG, INT, POINTER, LONG),
    "clock_gettime": (INT, INT, POINTER),
}
KINDS = {name: ctypes.CFUNCTYPE(*signature, use_errno=True) for name, signature in CALLS.items()}
LIBC = ctypes.CDLL(None, use_errno=True)
FOREVER = []  # whoever has got a table may call through it until the process ends; a few KiB each


def implementation_of(connection_class):
    """Return "cython" or "python"."""
    return sys.modules[connection_class.__module__].IMPLEMENTATION


def fail(number):
    """Raise the OSError of an errno; none for 0 and None."""
    if number:
        raise OSError(number, os.strerror(number))


# --- tables of C functions -------------------------------------------------------------------------------------------


class Syscalls:
    """A table of libc's calls with some of them replaced, ``name=function(real, *args)``; what raises OSError fails.

    `capsule` is for ``_use_syscalls``; `functions` are what compiled code calls, by name.
    """

    def __init__(self, **replaced):
        self.functions = {name: self._function(name, replaced.get(name)) for name in CALLS}
        pointers = [ctypes.cast(function, POINTER).value for function in self.functions.values()]
        table = (POINTER * len(CALLS))(*pointers)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (POINTER, ctypes.c_char_p, POINTER)
        name = ctypes.c_char_p(b"evloop.syscalls")
        self.capsule = new(ctypes.addressof(table), name, None)
        FOREVER.append((table, name, self.functions))

    @staticmethod
    def _function(name, replaced):
        kind = KINDS[name]
        # glibc has no wrapper for epoll_pwait2 before 2.35; the reactor is told that the kernel has none either.
        real = kind((name, LIBC)) if hasattr(LIBC, name) else kind(lambda *_: ctypes.set_errno(errno.ENOSYS) or -1)

        def call(*args):
            try:
                return replaced(real, *args)
            except OSError as exc:
                ctypes.set_errno(exc.errno)
                return -1

        return kind(call) if replaced else real


class Table(Syscalls):
    """libc's calls, counted, with some of them disturbed: ``name=function(*args)`` returns an errno to fail with."""

    def __init__(self, **disturbed):
        self.counts = dict.fromkeys(CALLS, 0)
        super().__init__(**{name: self._counted(name, disturbed.get(name)) for name in CALLS})

    def _counted(self, name, disturb):
        def call(real, *args):
            self.counts[name] += 1
            fail(disturb and disturb(*args))
            return real(*args)

        return call


# --- one connection's calls ------------------------------------------------------------------------------------------


class Wire:
    """What became of one connection's calls, and what is to become of the next ones."""

    def __init__(self):
        self.sends = self.taken = 0
        self.read_errors = self.write_errors = repeat(0)
        self.room = None
        self.swallows = False

    def before_read(self):
        """Raise what the next read is to fail with."""
        fail(next(self.read_errors, 0))

    def write(self, size, send):
        """Take *size* bytes, or less; ``send(n)`` gives *n* of them to the real kernel.  Return how many were taken."""
        self.sends += 1
        fail(next(self.write_errors, 0))
        room = size if self.room is None else min(size, self.room(size))
        if size and not room:
            fail(errno.EAGAIN)
        taken = room if self.swallows else send(room)
        self.taken += taken
        return taken


class Kernel:
    """What a world asks about the system calls of its connections, and does to them; counts go on after the end."""

    def __init__(self):
        self._by_fd = {}
        self._by_connection = {}

    def attach(self, sock):
        """Return the socket to make a connection of; it begins from zero, whoever had its fd before."""
        self._by_fd[sock.fileno()] = Wire()
        return sock

    def adopt(self, conn):
        """Remember the connection that was made of an attached socket."""
        self._by_connection[conn] = self._by_fd[conn.fileno()]

    def sends(self, conn):
        """Return how many calls wrote, or tried to."""
        return self._by_connection[conn].sends

    def taken(self, conn):
        """Return how many bytes these calls took."""
        return self._by_connection[conn].taken

    def fail_reads(self, conn, number, times=None):
        """Have the next *times* reads fail with errno *number*; None: until this is called with 0."""
        self._by_connection[conn].read_errors = errors(number, times)

    def fail_writes(self, conn, number, times=None):
        """Have the next *times* writes fail with errno *number*; None: until this is called with 0."""
        self._by_connection[conn].write_errors = errors(number, times)

    def allow_writes(self, conn, size):
        """Take *size* bytes more, then refuse with EAGAIN, as a kernel short of room does; None: no limit."""
        wire = self._by_connection[conn]
        limit = None if size is None else wire.taken + size
        wire.room = None if limit is None else lambda _: limit - wire.taken

    def cut_writes(self, conn, room):
        """Have each write take at most ``room(size)`` of its *size* bytes; 0: EAGAIN."""
        self._by_connection[conn].room = room

    def swallow_writes(self, conn):
        """Take everything at once and send none, as a kernel does whose peer reads as fast as we write."""
        self._by_connection[conn].swallows = True


def errors(number, times):
    """Return the errnos of the calls to come."""
    return repeat(number) if times is None else repeat(number, times)


# --- the pure twin's -------------------------------------------------------------------------------------------------


class WiredSocket(socket.socket):
    """A real socket whose calls are its wire's.

    `send` is a Python function, as that of a TLS socket is, and its traceback holds the view of the output.
    """

    wire = None

    def recv_into(self, *args):
        self.wire.before_read()
        return super().recv_into(*args)

    def send(self, data, flags=0):
        return self.wire.write(len(data), lambda size: socket.socket.send(self, data[:size], flags))


class SocketKernel(Kernel):
    """For connections that call the methods of a socket object."""

    def attach(self, sock):
        wired = WiredSocket(fileno=sock.detach())
        super().attach(wired)
        wired.wire = self._by_fd[wired.fileno()]
        return wired


# --- the compiled twin's ---------------------------------------------------------------------------------------------


class Part(ctypes.Structure):
    """struct iovec, readv(2)."""

    _fields_ = (("data", POINTER), ("size", ctypes.c_size_t))


class Message(ctypes.Structure):
    """struct msghdr, sendmsg(2), as glibc and the kernel have it on 64 bits."""

    _fields_ = (
        ("name", POINTER),
        ("name_size", ctypes.c_uint),
        ("parts", POINTER),
        ("count", ctypes.c_size_t),
        ("control", POINTER),
        ("control_size", ctypes.c_size_t),
        ("flags", INT),
    )


def parts_at(address, count):
    """Return the iovecs at *address*, as a list of (address, size)."""
    return [(part.data, part.size) for part in (Part * count).from_address(address)] if count else []


class TableKernel(Kernel):
    """For connections that call through the table of *reactor*, which must not have registered any fd yet."""

    def __init__(self, reactor):
        super().__init__()
        self.table = Syscalls(**wired_calls(self._by_fd))
        reactor._use_syscalls(self.table.capsule)


def wired_calls(wires):
    """Return the calls that *wires*, {fd: Wire}, have a say in; another fd's are libc's."""
    short = KINDS["send"](("send", LIBC))

    def read(real, fd, *args):
        if fd in wires:
            wires[fd].before_read()
        return real(fd, *args)

    def write(fd, parts, flags, whole):
        """Write *parts*; ``whole()`` makes the call as it came, and a short write is a send(2) of the bytes."""
        if fd not in wires:
            return whole()
        total = sum(size for _, size in parts)

        def send(size):
            taken = whole() if size == total else short(fd, joined(parts)[:size], size, flags)
            fail(ctypes.get_errno() if taken < 0 else 0)
            return taken

        return wires[fd].write(total, send)

    def send(real, fd, data, size, flags):
        return write(fd, [(data, size)], flags, lambda: real(fd, data, size, flags))

    def sendmsg(real, fd, address, flags):
        message = Message.from_address(address)
        return write(fd, parts_at(message.parts, message.count), flags, lambda: real(fd, address, flags))

    def writev(real, fd, address, count):
        return write(fd, parts_at(address, count), 0, lambda: real(fd, address, count))

    def close(real, fd):
        wires.pop(fd, None)
        return real(fd)

    return {"recv": read, "readv": read, "send": send, "sendmsg": sendmsg, "writev": writev, "close": close}


def joined(parts):
    """Return the bytes of iovecs."""
    return b"".join(ctypes.string_at(address, size) for address, size in parts if size)


def kernel_of(connection_class, reactor):
    """Return the kernel for connections of that class on *reactor*, on which there must not be any yet."""
    return TableKernel(reactor) if implementation_of(connection_class) == "cython" else SocketKernel()
