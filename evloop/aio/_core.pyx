# cython: auto_pickle=False, binding=False, embedsignature=True, embedsignature.format=clinic
"""What asyncio's loop is asked for each future, task and packet, at C speed: a core that knows asyncio.

Each is the standard library's method of the same name with a Python frame or two less; whatever is not the ordinary
case (debug mode, another selector, a task factory, a context) goes to that method itself.

The low-level calls on sockets: what moves bytes is here (``sock_recv``, ``sock_recv_into``, ``sock_sendall``), what
comes once a connection (``sock_accept``, ``sock_connect``) is inherited.

Rule: nothing in this file may run in another mode than the compiled core's own.
Read next: ``_reactor.pyx``, ``_datagram.pyx``, ``loop.py``.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno

import sys
from asyncio import BaseEventLoop, Future, SelectorEventLoop, Task
from socket import socket

from evloop._reactor cimport EVENT_READ, EVENT_WRITE, Core, Handle

from evloop.aio._datagram import DatagramTransport, is_known
from evloop._reactor import RECV_BUFFER

cdef object _Future = Future
cdef object _Task = Task
cdef object _inherited_create_task = BaseEventLoop.create_task
cdef object _inherited_make_datagram_transport = SelectorEventLoop._make_datagram_transport

cdef object _inherited_sock_recv = SelectorEventLoop.sock_recv
cdef object _inherited_sock_recv_into = SelectorEventLoop.sock_recv_into
cdef object _inherited_sock_sendall = SelectorEventLoop.sock_sendall

cdef Py_ssize_t READ_SIZE = RECV_BUFFER
cdef bint CHECKS_FDS = sys.version_info >= (3, 12)  # the makers of transports do


cdef class AsyncioCore(Core):
    """The core of an asyncio loop: scheduling, fds and timers, and the futures and tasks that are made in it."""

    def get_debug(self):
        """Return whether debug mode is on.  Any thread."""
        return self.debug

    def create_future(self):
        """Return a new ``asyncio.Future`` of this loop.  Reactor thread only."""
        return _Future(loop=self)

    def create_task(self, coro, *, name=None, context=None):
        """Run a coroutine as an ``asyncio.Task``, from the next turn on.  Reactor thread only.

        Args:
            coro: a coroutine.
            name: str, or None: asyncio numbers it.
            context: a ``contextvars.Context`` (Python 3.11), or None: a copy of the current one.
        Raises: RuntimeError: the loop is closed.  TypeError: *coro* is no coroutine.
        """
        # Debug mode cuts its own frame off a traceback.
        if context is not None:
            return _inherited_create_task(self, coro, name=name, context=context)
        if self.debug or self._task_factory is not None:
            return _inherited_create_task(self, coro, name=name)
        self.check_closed()
        if name is None:
            return _Task(coro, loop=self)
        return _Task(coro, loop=self, name=name)

    def _make_datagram_transport(self, sock, protocol, address=None, waiter=None, extra=None):
        if self.debug or self.epoll is None or not is_known(sock):
            return _inherited_make_datagram_transport(self, sock, protocol, address, waiter, extra)
        if CHECKS_FDS:
            self._ensure_fd_no_transport(sock)
        return DatagramTransport(self, sock, protocol, address, waiter, extra)

    async def sock_recv(self, sock, n):
        """Receive at most *n* bytes from a non-blocking socket; b"" at the end of the stream.  Loop thread only.

        Cancelled while it waits, it has taken nothing.  Raises: OSError: as ``socket.recv``.
        """
        if not self.moves(sock) or type(n) is not int or not 0 <= n <= READ_SIZE:
            return await _inherited_sock_recv(self, sock, n)
        cdef int fd = sock.fileno()
        data = self.receive(fd, n)
        if data is None:
            wait = _Receive.__new__(_Receive)
            (<_Receive>wait).room = n
            future = self.wait_with(wait, fd, EVENT_READ)
            try:
                data = await future
            finally:
                (<_Wait>wait).end()
        return data

    async def sock_recv_into(self, sock, buf):
        """Receive into a writable buffer from a non-blocking socket; return the number of bytes.  Loop thread only.

        The buffer may be used otherwise while this waits.  Raises: OSError: as ``socket.recv_into``.
        """
        if not self.moves(sock):
            return await _inherited_sock_recv_into(self, sock, buf)
        cdef int fd = sock.fileno()
        try:
            count = self.receive_into(fd, buf)
        except (BufferError, TypeError):  # in the socket module's words
            return await _inherited_sock_recv_into(self, sock, buf)
        if count < 0:
            wait = _ReceiveInto.__new__(_ReceiveInto)
            (<_ReceiveInto>wait).buffer = buf
            future = self.wait_with(wait, fd, EVENT_READ)
            try:
                count = await future
            finally:
                (<_Wait>wait).end()
        return count

    async def sock_sendall(self, sock, data):
        """Send all of a bytes-like object to a non-blocking socket.  Loop thread only.

        After an error, or cancelled, nobody knows how much was sent.  Raises: OSError: as ``socket.send``.
        """
        if not self.moves(sock):
            return await _inherited_sock_sendall(self, sock, data)
        cdef int fd = sock.fileno()
        wait = _Send.__new__(_Send)
        if not (<_Send>wait).begin(self, fd, data):
            future = self.wait_with(wait, fd, EVENT_WRITE)
            try:
                await future
            finally:
                (<_Wait>wait).end()

    cdef bint moves(self, object sock) except -1:
        """Return whether the bytes of a socket are moved here; a subclass of it, such as TLS, has its own methods."""
        return type(sock) is socket and not self.debug and self.epoll is not None

    cdef object wait_with(self, _Wait wait, int fd, int event):
        """Watch an fd for *wait*; return the future of what comes of it."""
        self.check_closed()
        # Our transports are found by the selector, and are no entries of the map.
        if self.epoll is None or (0 <= fd < self.epoll.size and self.epoll.slots[fd].used) or \
                fd in self._transports.data:
            self._ensure_fd_no_transport(fd)
        wait.core, wait.fd, wait.event, wait._args = self, fd, event, ()
        wait.future = _Future(loop=self)
        self.watch_with(fd, event, wait)
        return wait.future

    cdef object receive(self, int fd, Py_ssize_t room):
        """Return what an fd has, at most *room* bytes; None: nothing yet."""
        cdef unsigned char* buffer = self.receive_memory()
        cdef Py_ssize_t count = self.sys.recv(fd, buffer, room, 0) if room else 0
        if count >= 0:
            return PyBytes_FromStringAndSize(<char*>buffer, count)
        _check_blocked()
        return None

    cdef Py_ssize_t receive_into(self, int fd, object buffer) except -2:
        """Receive into a writable buffer; return the number of bytes, or -1: nothing yet."""
        cdef Py_buffer view
        cdef Py_ssize_t count
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            count = self.sys.recv(fd, view.buf, view.len, 0) if view.len else 0
            if count < 0:
                _check_blocked()
            return count
        finally:
            PyBuffer_Release(&view)


cdef int _check_blocked() except -1:
    """Raise what errno says, unless it says to come again."""
    if errno == EINTR:
        PyErr_CheckSignals()
    elif errno != EAGAIN:
        PyErr_SetFromErrno(OSError)
    return 0


cdef class _Wait(Handle):
    """One operation on a socket that has to wait, in the place of a reader's or writer's handle.

    It runs nobody's code: what it finds out goes to a future.
    """

    cdef object future
    cdef AsyncioCore core
    cdef int fd, event

    cdef int run(self) except -1:
        self.core.quiet += 1
        if self._cancelled or self.future.done():
            return 0
        try:
            result = self.attempt()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.future.set_exception(exc)
        else:
            if result is None:
                return 0
            self.future.set_result(None if result is True else result)
        self.end()
        return 0

    cdef object attempt(self):
        """Try again; return the result, True for None, or None to wait on."""

    cdef int end(self) except -1:
        """Watch no more, unless somebody else has taken the place."""
        if not self._cancelled:
            self.core._unwatch(self.fd, self.event)  # which cancels this handle
        return 0


cdef class _Receive(_Wait):
    cdef Py_ssize_t room

    cdef object attempt(self):
        return self.core.receive(self.fd, self.room)


cdef class _ReceiveInto(_Wait):
    cdef object buffer

    cdef object attempt(self):
        cdef Py_ssize_t count = self.core.receive_into(self.fd, self.buffer)
        return None if count < 0 else count


cdef class _Send(_Wait):
    cdef Py_buffer view
    cdef bint held                # the view is ours to release
    cdef Py_ssize_t sent

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)

    cdef bint begin(self, AsyncioCore core, int fd, object data) except -1:
        """Send what the kernel takes; return whether that was all."""
        self.core, self.fd = core, fd
        PyObject_GetBuffer(data, &self.view, PyBUF_SIMPLE)
        self.held = True
        return self.attempt() is not None

    cdef object attempt(self):
        cdef Py_ssize_t count
        count = self.core.sys.send(self.fd, <char*>self.view.buf + self.sent, self.view.len - self.sent, 0)
        if count < 0:
            _check_blocked()
            return None
        self.sent += count
        return True if self.sent == self.view.len else None
