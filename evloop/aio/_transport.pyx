# cython: auto_pickle=False, binding=False
"""asyncio's stream transport and its listener at C speed, as endpoints of the reactor's core.

It has no twin in this package: its reference is the standard library's ``_SelectorSocketTransport``, which runs in its
place over any other selector, in debug mode, and on the pure core.  What a protocol sees is the same: the order of the
callbacks, the contexts that they run in, the words of the errors.  What differs is how bytes move: they are received
into the core's one shared buffer; a bulk stream is received into the object that is delivered; what a protocol writes
while it is called with data leaves with one send when it returns.

Rule: nothing in this file may parse bytes, or start a task for a plain connection.
Read next: ``aio/transports.py``, ``_reactor.pxd``; asyncio's ``selector_events.py``.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from evloop._reactor cimport EVENT_READ, EVENT_WRITE, Core, Endpoint, _Epoll, iovec, msghdr, sockaddr, socklen_t

import os
import socket
import sys
import warnings
from asyncio import base_events, constants, futures, protocols, transports, trsock
from asyncio.log import logger
from types import MethodType

from evloop._reactor import RECV_BUFFER

cdef extern from "_syscalls.h":
    int MSG_NOSIGNAL, SHUT_WR, SOCK_NONBLOCK, SOCK_CLOEXEC
    int AF_INET, AF_INET6, AF_UNIX
    struct sockaddr_storage:
        unsigned short ss_family
    struct in_addr:
        pass
    struct in6_addr:
        pass
    struct sockaddr_in:
        unsigned short sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_port
        unsigned int sin6_flowinfo
        in6_addr sin6_addr
        unsigned int sin6_scope_id
    unsigned short ntohs(unsigned short) noexcept
    unsigned int ntohl(unsigned int) noexcept
    int getsockname(int fd, sockaddr* address, socklen_t* size) noexcept

cdef extern from "Python.h":
    ctypedef struct PyBytesObject:
        Py_ssize_t ob_shash
    Py_ssize_t Py_REFCNT(PyObject*) noexcept
    void Py_SET_SIZE(PyObject*, Py_ssize_t size) noexcept
    void Py_INCREF(PyObject*) noexcept
    void Py_DECREF(PyObject*) noexcept
    PyObject* PyBytes_New "PyBytes_FromStringAndSize"(const char* data, Py_ssize_t size) except NULL
    size_t PY_VECTORCALL_ARGUMENTS_OFFSET
    ctypedef PyObject* (*vectorcallfunc)(PyObject* callback, PyObject** args, size_t count, PyObject* names) noexcept
    vectorcallfunc PyVectorcall_Function(object callback) noexcept
    PyObject* PyObject_Vectorcall(PyObject* callback, PyObject** args, size_t count, PyObject* names) except NULL
    PyObject* PyList_GET_ITEM(PyObject* array, Py_ssize_t index) noexcept
    Py_ssize_t PY_SSIZE_T_MAX
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    object PyContext_Copy(object context)
    object PyContext_CopyCurrent()

# How the protocol is called.
cdef enum:
    DATA
    BUFFER
    POINTER

cdef enum:
    # What is written while the protocol is called with data is copied up to this size each, and up to GATHERED
    # together (asyncio's high-water mark); the copy of 16 KiB takes about as long as the system call that it saves.
    COPIED = 16384
    GATHERED = 65536
    # A read of this much makes the next one a bulk read; the least room, and half of the next one up.
    LEAST_BULK = 32768
    # Bulk reads in a row that fill less than a quarter of the room, before it is halved: one is the end of a message.
    FEW = 4
    # One sendmsg; the kernel takes 1024 (IOV_MAX).  Four kilobytes of stack.
    PARTS = 256
    # Connections accepted in a turn, as in uvloop's and nginx's queues: the others wait no longer than for as many.
    BATCH = 64

cdef Py_ssize_t READ_SIZE = RECV_BUFFER
cdef str WRITELINES = "writelines" if sys.version_info >= (3, 12) else "write"  # as asyncio's error says
cdef bint NAMED_CLIENTS = sys.version_info >= (3, 13)  # a server is told which transport comes and goes

assert LEAST_BULK << (ROOMS - 1) == RECV_BUFFER


class _Facade(transports._FlowControlMixin, transports.Transport):
    """What a transport says its class is.

    An extension type cannot derive from asyncio's classes, whose slots conflict with its own; but isinstance() asks for
    ``__class__``, too, and asyncio's own code, aiohttp and others look for asyncio.Transport.
    """


_Facade.__name__ = _Facade.__qualname__ = "SocketTransport"


cdef class CProtocol:
    """A protocol that is called with a pointer and not with bytes; for other extensions to derive from."""

    cdef int c_data_received(self, const unsigned char* data, Py_ssize_t size) except -1:
        self.data_received((<const char*>data)[:size])
        return 0


@cython.final
cdef class ReadMemory:
    """What was delivered and nobody has kept, for the next reads: 480 KiB for bulk reads, and one small object, a loop.

    A bytes object of 64 KiB and more comes from fresh pages each time: malloc maps it, or trims it off the heap when
    it is freed, and the kernel clears page after page, which costs as much as the copy in.  A small one costs two calls
    of malloc's, a third of what an echo of a kilobyte takes in user space; peers mostly send messages of one size.

    Only whoever holds the one reference may give an object: nobody can see it change then.
    """

    def __dealloc__(self):
        cdef int room
        if self._last is not NULL:
            Py_DECREF(self._last)
        for room in range(ROOMS):
            if self._spare[room] is not NULL:
                Py_DECREF(self._spare[room])

    cdef object copy(self, const char* data, Py_ssize_t size):
        """Return *size* bytes, fewer than LEAST_BULK or not, as a bytes object."""
        cdef PyObject* body = self._last
        if body is NULL or PyBytes_GET_SIZE(<object>body) != size:
            return PyBytes_FromStringAndSize(data, size)
        self._last = NULL
        memcpy(PyBytes_AS_STRING(<object>body), data, size)
        (<PyBytesObject*>body).ob_shash = -1
        copied = <object>body
        Py_DECREF(body)  # the variable has its own
        return copied

    cdef void give_copy(self, object body) noexcept:
        """Keep for the next copy() what the caller alone has, unless it is large."""
        cdef PyObject* former = self._last
        if Py_REFCNT(<PyObject*>body) == 1 and PyBytes_GET_SIZE(body) < LEAST_BULK:
            Py_INCREF(<PyObject*>body)
            self._last = <PyObject*>body
            if former is not NULL:
                Py_DECREF(former)

    cdef PyObject* take(self, int room) except NULL:
        """Return a bytes object with memory for LEAST_BULK << room bytes, of any content; the caller's reference."""
        cdef PyObject* body = self._spare[room]
        if body is NULL:
            return PyBytes_New(NULL, LEAST_BULK << room)
        self._spare[room] = NULL
        return body

    cdef void give(self, PyObject* body, int room) noexcept:
        """Take over the caller's reference, the only one."""
        if self._spare[room] is NULL:
            Py_SET_SIZE(body, LEAST_BULK << room)
            self._spare[room] = body
        else:
            Py_DECREF(body)


cdef class SocketTransport(Endpoint):
    """A transport of a stream socket (TCP, UNIX): asyncio.Transport.  Owns: the fd.  Loop thread only.

    Args:
        loop: the event loop, on the compiled core.
        sock: a connected, non-blocking socket; the transport's from now on.
        protocol: asyncio.Protocol, asyncio.BufferedProtocol, or a CProtocol.
        waiter: a future whose result is set when ``connection_made`` was called, or None.
        extra: what get_extra_info() is to know beyond the socket and its two addresses, or None.
        server: the asyncio.Server that counts this connection, or None.
    """

    max_size = RECV_BUFFER
    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    def __cinit__(self, *args, **kwargs):
        self._sock_fd = -1
        self._room = -1
        self._high_water, self._low_water = 65536, 16384  # asyncio's
        self._gather_room = GATHERED

    def __init__(self, loop, sock, protocol, waiter=None, extra=None, server=None):
        Endpoint.__init__(self, loop)
        self._given = {**(extra or {}), "socket": trsock.TransportSocket(sock)}
        _ask(self._given, "sockname", sock.getsockname)
        _ask(self._given, "peername", sock.getpeername)
        self._socket, self._sock_fd, self._open = sock, sock.fileno(), True
        self._memory = loop._read_memory
        base_events._set_nodelay(sock)
        self._begin(loop, protocol, waiter, server)

    cdef int _begin(self, object loop, object protocol, object waiter, object server) except -1:
        """Have the protocol told, then read; in asyncio's order."""
        self.set_protocol(protocol)
        self._server = server
        if server is not None:
            if NAMED_CLIENTS:
                server._attach(self)
            else:
                server._attach()
        loop.call_soon(protocol.connection_made, self)
        loop.call_soon(self._start_reading)
        if waiter is not None:
            loop.call_soon(futures._set_result_unless_cancelled, waiter, None)
        return 0

    @property
    def __class__(self):
        return _Facade

    def __del__(self):
        if self._open:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            if NAMED_CLIENTS and self._server is not None:
                self._server._detach(self)
            self._close_socket()

    def __dealloc__(self):
        if self._open and self._socket is None:  # __del__ has failed
            close(self._sock_fd)

    def __repr__(self):
        cdef bint closed = not self._open
        info = ["SocketTransport"]
        if closed:
            info.append("closed")
        elif self._closing:
            info.append("closing")
        info.append(f"fd={self._sock_fd}")
        if not closed and self._reactor is not None and not self._reactor.is_closed():
            info.append("read=polling" if self._reading else "read=idle")
            info.append(f"write=<{'polling' if self._writing else 'idle'}, bufsize={self._output()}>")
        return f"<{' '.join(info)}>"

    # --- what it is about ------------------------------------------------------------------------------------------

    @property
    def _loop(self):
        return self._reactor

    @property
    def _sock(self):
        """The socket object; made when it is first asked for.  None once closed."""
        if not self._open:
            return None
        if self._socket is None:
            self._socket = socket.socket(fileno=self._sock_fd)
        return self._socket

    @property
    def _extra(self):
        for name in ("socket", "sockname", "peername"):
            self.get_extra_info(name)
        return self._given

    def get_extra_info(self, name, default=None):
        """Return what is known of the connection under *name* (str), as asyncio's transports do.

        "socket": a TransportSocket; "sockname" and "peername": the two addresses as the socket module gives them, of
        when the connection was made, or None; and what the maker has given.
        """
        if self._given is None:
            self._given = {}
        if name not in self._given:
            if name == "socket":
                self._given[name] = trsock.TransportSocket(self._sock or _closed_socket())
            elif name == "sockname":
                self._given[name] = _address_from(self._sockname, self._sockname_size)
            elif name == "peername":
                self._given[name] = _address_from(self._peername, self._peername_size)
        return self._given.get(name, default)

    def set_protocol(self, protocol):
        """Deliver to *protocol* from now on."""
        self._c_protocol = self._receive = self._receiver = None
        if isinstance(protocol, CProtocol):
            self._kind = POINTER
            self._c_protocol = protocol
        else:
            self._kind = BUFFER if isinstance(protocol, protocols.BufferedProtocol) else DATA
        self._keeps = False
        self._protocol = protocol
        self._protocol_connected = True

    def get_protocol(self):
        """Return the protocol."""
        return self._protocol

    def is_closing(self):
        """Return whether the transport is closing or closed."""
        return self._closing

    # --- what the fd is watched for --------------------------------------------------------------------------------

    def is_reading(self):
        """Return whether the protocol is called with what arrives."""
        return not (self._closing or self._paused)

    def pause_reading(self):
        """Deliver nothing more until :meth:`resume_reading`.  Idempotent."""
        if not (self._closing or self._paused):
            self._paused = True
            self._reading = False
            self._want()

    def resume_reading(self):
        """Deliver again.  Idempotent."""
        if self._paused and not self._closing:
            self._paused = False
            self._start_reading()

    def _start_reading(self):
        """Begin or go on to read, in a copy of the caller's context, as a callback of add_reader() would."""
        if not (self._closing or self._paused):
            self._read_context = PyContext_CopyCurrent()
            self._reading = True
            self._want()
        elif self.fd < 0 and not self._closing:  # paused by connection_made()
            self._reactor._transports[self._sock_fd] = self

    cdef int _start_writing(self) except -1:
        if self._writing or self._conn_lost:
            return 0
        try:
            self._write_context = PyContext_CopyCurrent()
            self._writing = True
            self._want()
        except (MemoryError, OSError) as exc:  # what waits would wait for ever
            self._fatal_error(exc, "Fatal write error on socket transport")
            raise
        return 0

    cdef int _want(self) except -1:
        cdef int events = (EVENT_READ if self._reading else 0) | (EVENT_WRITE if self._writing else 0)
        if self.fd < 0:
            if not events:
                return 0
            # A callback of add_reader() gives way, as asyncio's one callback an fd does to the next.
            if self.core._watch_of(self._sock_fd) is not None:
                self.core._unwatch(self._sock_fd, EVENT_READ)
                self.core._unwatch(self._sock_fd, EVENT_WRITE)
        return self.core.want(self, self._sock_fd, events)

    cdef int run(self) except -1:
        cdef object loop = self._reactor
        self.queued = False
        try:
            if self._revents & EVENT_READ and not self.closed:
                self._revents &= ~EVENT_READ
                context = self._read_context
                PyContext_Enter(context)
                try:
                    self.readable()
                except MemoryError as exc:  # what was received may be lost, and with it the stream
                    self._fatal_error(exc, "Fatal read error on socket transport")
                finally:
                    PyContext_Exit(context)
            if self._revents & EVENT_WRITE and not self.closed:
                self._revents &= ~EVENT_WRITE
                context = self._write_context
                PyContext_Enter(context)
                try:
                    self.writable()
                finally:
                    PyContext_Exit(context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            loop.call_exception_handler({"message": f"Exception in callback of {self!r}", "exception": exc,
                                         "transport": self, "protocol": self._protocol})
        return 0

    cdef int hung_up(self) except -1:
        # Neither reads nor writes are wanted; to want one again has the kernel tell it again.
        return 0

    def _forked(self):
        """Let go of the copy of the fd in a child process, without a word to anybody."""
        self.closed = self._closing = self._odd = True
        self._conn_lost += 1
        self._drop_gathered()
        self._drop_output()
        self._close_socket()

    # --- input -----------------------------------------------------------------------------------------------------

    cdef int readable(self) except -1:
        cdef Core core = self.core
        cdef ReadMemory memory = self._memory
        cdef unsigned char* buffer
        cdef Py_ssize_t size
        cdef object data
        if self._conn_lost:
            return 0
        if self._kind == BUFFER:
            return self._read_into()
        if self._room >= 0:
            return self._read_bulk()
        buffer = core._recv_memory if core._recv_memory is not NULL else core.receive_memory()
        size = core.sys.recv(self._sock_fd, buffer, READ_SIZE, 0)
        if size <= 0:
            return self._read_nothing(size)
        if self._kind == POINTER:
            return self._deliver_pointer(buffer, size)
        if size >= LEAST_BULK and not self._keeps:
            self._room = _room_for(size)
        data = memory.copy(<char*>buffer, size)
        self._deliver_data(data)
        memory.give_copy(data)
        return 0

    cdef int _read_bulk(self) except -1:
        """Receive into what is delivered, and have its memory back if the protocol does not keep it.

        The object is at least a quarter full, so that who keeps it holds no more than four times what he was given, and
        that once: from then on he gets copies of their size.
        """
        cdef int room = self._room
        cdef Py_ssize_t full = LEAST_BULK << room
        cdef ReadMemory memory = self._memory
        cdef PyObject* body = memory.take(room)
        cdef Py_ssize_t size = self.core.sys.recv(self._sock_fd, PyBytes_AS_STRING(<object>body), full, 0)
        cdef object data
        if size <= 0:
            memory.give(body, room)
            return self._read_nothing(size)
        if 4 * size < full or self._keeps:
            try:
                data = PyBytes_FromStringAndSize(PyBytes_AS_STRING(<object>body), size)
            finally:
                memory.give(body, room)
            self._small += 1
            if self._small == FEW:
                self._small = 0
                self._room -= 1
            return self._deliver_data(data)
        self._small = 0
        if size == full and room < ROOMS - 1:
            self._room += 1
        Py_SET_SIZE(body, size)
        PyBytes_AS_STRING(<object>body)[size] = 0
        (<PyBytesObject*>body).ob_shash = -1
        data = <object>body
        Py_DECREF(body)  # the variable has its own
        try:
            self._deliver_data(data)
        finally:
            if Py_REFCNT(<PyObject*>data) == 1:
                body = <PyObject*>data
                Py_INCREF(body)
                data = None
                memory.give(body, room)
            elif self._queued == 0:  # else it may be our output that keeps it
                self._keeps, self._room = True, -1
        return 0

    cdef int _read_into(self) except -1:
        """Receive into the buffer of a BufferedProtocol."""
        cdef Py_buffer view
        cdef Py_ssize_t size
        try:
            buffer = self._protocol.get_buffer(-1)
            if not len(buffer):
                raise RuntimeError("get_buffer() returned an empty buffer")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            return self._callback_failed(exc, "get_buffer")
        if self._conn_lost:  # a get_buffer() that has aborted
            return 0
        try:
            PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        except BaseException as exc:
            self._fatal_error(exc, "Fatal read error on socket transport")
            return 0
        size = self.core.sys.recv(self._sock_fd, view.buf, view.len, 0)
        PyBuffer_Release(&view)  # which leaves errno alone but for an exporter in Python, whose turn it is not
        if size <= 0:
            return self._read_nothing(size)
        return self._deliver_buffer(size)

    cdef int _read_nothing(self, Py_ssize_t size) except -1:
        """A read has returned *size*: the end of the stream, or errno says why nothing came."""
        if size == 0:
            return self._end_of_stream()
        if not _would_block(errno):
            self._fatal_error(_os_error(errno), "Fatal read error on socket transport")
        return 0

    cdef int _end_of_stream(self) except -1:
        cdef unsigned char corked = self._corked
        self._corked = True
        try:
            keep_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            return self._callback_failed(exc, "eof_received")
        finally:
            self._uncork(corked)
        if not keep_open:
            self.close()
        elif not self._conn_lost:
            self._reading = False
            self._want()
        return 0

    cdef int _find_receiver(self) except -1:
        method = self._protocol.data_received
        # A bound method is taken apart again in each call.
        if type(method) is MethodType:
            self._receive, self._receiver = method.__func__, method.__self__
        else:
            self._receive = method
        return 0

    cdef int _deliver_data(self, object data) except -1:
        cdef unsigned char corked = self._corked
        self._corked = True
        try:
            if self._receive is None:
                self._find_receiver()
            _call(self._receive, self._receiver, data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            return self._callback_failed(exc, "data_received")
        finally:
            self._uncork(corked)
        return 0

    cdef int _deliver_pointer(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef unsigned char corked = self._corked
        cdef CProtocol protocol = self._c_protocol  # a reference of our own: the call may set another protocol
        self._corked = True
        try:
            protocol.c_data_received(data, size)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            return self._callback_failed(exc, "data_received")
        finally:
            self._uncork(corked)
        return 0

    cdef int _deliver_buffer(self, Py_ssize_t size) except -1:
        cdef unsigned char corked = self._corked
        self._corked = True
        try:
            self._protocol.buffer_updated(size)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            return self._callback_failed(exc, "buffer_updated")
        finally:
            self._uncork(corked)
        return 0

    cdef int _callback_failed(self, object exc, str name) except -1:
        self._uncork(False)  # what it has written is written
        self._fatal_error(exc, f"Fatal error: protocol.{name}() call failed.")
        return 0

    cdef int _uncork(self, unsigned char corked) except -1:
        self._corked = corked
        if not corked and self._has_gathered():
            return self._flush_gather(None, NULL, 0)
        return 0

    # --- output ----------------------------------------------------------------------------------------------------

    def write(self, data):
        """Write *data* (bytes-like): what the kernel takes at once, the rest when it has room.

        bytes are referenced until they are sent; of anything else a copy is kept, so that it may be changed
        afterwards.  Inside data_received() and buffer_updated() small writes are sent when that returns.
        Raises: TypeError: not bytes, bytearray or memoryview; RuntimeError: after write_eof(), or during sendfile().
        """
        if type(data) is bytes and not self._odd:
            self._put(<bytes>data, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        else:
            self._write_any(data)

    cdef int _write_any(self, object data) except -1:
        cdef Py_buffer view
        cdef bint some
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        some = len(data) > 0
        if self._odd and not self._may_write("write", some):
            return 0
        if not some:
            return 0
        try:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        except BaseException as exc:  # not contiguous, for one: asyncio learns of it from send()
            self._fatal_error(exc, "Fatal write error on socket transport")
            return 0
        try:
            return self._put(None, <const char*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef bint _may_write(self, str verb, bint some) except -1:
        """Tell whether something written goes anywhere, and raise for what is a mistake."""
        if self._eof:
            raise RuntimeError(f"Cannot call {verb}() after write_eof()")
        if self._empty_waiter is not None:
            raise RuntimeError(f"unable to {verb}; sendfile is in progress")
        if some and self._conn_lost:
            if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self._conn_lost += 1
            return False
        return not self._conn_lost

    def writelines(self, list_of_data):
        """Write an iterable of bytes-like objects, with one system call; otherwise as :meth:`write`."""
        cdef list items = [item if type(item) is bytes else bytes(memoryview(item)) for item in list_of_data]
        cdef Py_ssize_t total = 0
        cdef int number
        cdef bytes data
        for data in items:
            total += PyBytes_GET_SIZE(data)
        if self._odd and not self._may_write(WRITELINES, total > 0):
            return
        if total <= COPIED:
            data = b"".join(items)
            self._put(data, PyBytes_AS_STRING(data), total)
            return
        self._flush_gather(None, NULL, 0)
        if self._conn_lost:
            return
        for data in items:
            if PyBytes_GET_SIZE(data):
                self._keep(data, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), 0)
        if not self._writing:
            number = self._send_chunks()
            if number:
                self._write_failed(number)
                return
        if self._queued:
            self._start_writing()
            self._pause_if_high()

    cdef int write_pointer(self, const char* data, Py_ssize_t size) except -1:
        if self._odd and not self._may_write("write", size > 0):
            return 0
        return self._put(None, data, size)

    cdef int _put(self, bytes owner, const char* data, Py_ssize_t size) except -1:
        """Send, gather or queue; *owner* is the bytes object that the data is of, if it is one's."""
        cdef Py_ssize_t sent = 0
        if size == 0:
            return 0
        if self._queued == 0:
            if self._corked and self._gather(owner, data, size):
                return 0
            if self._has_gathered():
                return self._flush_gather(owner, data, size)
            sent = self.core.sys.send(self._sock_fd, data, size, MSG_NOSIGNAL)
            if sent == size:
                return 0
            if sent < 0:
                if not _would_block(errno):
                    return self._write_failed(errno)
                sent = 0
            self._start_writing()
        self._keep(owner, data, size, sent)
        return self._pause_if_high()

    cdef bint _has_gathered(self) noexcept:
        return self._written is not None or (self.core is not None and self.core.gather_owner is <void*>self)

    cdef bint _gather(self, bytes owner, const char* data, Py_ssize_t size) except -1:
        """Hold back for the one send to come; False: that would not do.

        The first bytes object is referenced, since often it stays the only one; with a second one both are copied.
        """
        cdef Core core = self.core
        cdef unsigned char* memory
        cdef Py_ssize_t before = 0
        if size > COPIED:
            return False
        if core.gather_owner is not <void*>self:
            if self._written is not None:
                before = PyBytes_GET_SIZE(self._written)
            if before + size > self._gather_room:
                return False
            if owner is not None and before == 0:
                self._written = owner
                return True
            if core.gather_owner is not NULL:
                return False
            memory = core.gather_memory()
            if before:
                memcpy(memory, PyBytes_AS_STRING(self._written), before)
                self._written = None
            core.gather_owner = <void*>self
            core.gathered = before
        elif core.gathered + size > self._gather_room:
            return False
        memcpy(core.gather + core.gathered, data, size)
        core.gathered += size
        return True

    cdef int _flush_gather(self, bytes owner, const char* data, Py_ssize_t size) except -1:
        """Send what was gathered, if anything, and *size* bytes behind it."""
        cdef Core core = self.core
        cdef bytes written = self._written
        cdef const char* first
        cdef Py_ssize_t gathered, sent
        cdef iovec parts[2]
        cdef msghdr message
        if written is not None:
            self._written = None
            first, gathered = PyBytes_AS_STRING(written), PyBytes_GET_SIZE(written)
        elif core is not None and core.gather_owner is <void*>self:
            core.gather_owner = NULL  # its memory is not touched below before it is kept
            first, gathered = <const char*>core.gather, core.gathered
        else:
            return 0
        if size == 0:
            sent = core.sys.send(self._sock_fd, first, gathered, MSG_NOSIGNAL)
        else:
            parts[0].iov_base, parts[0].iov_len = <void*>first, gathered
            parts[1].iov_base, parts[1].iov_len = <void*>data, size
            memset(&message, 0, sizeof(message))
            message.msg_iov, message.msg_iovlen = parts, 2
            sent = core.sys.sendmsg(self._sock_fd, &message, MSG_NOSIGNAL)
        if sent == gathered + size:
            return 0
        if sent < 0:
            if not _would_block(errno):
                return self._write_failed(errno)
            sent = 0
        if sent < gathered:
            self._keep(written, first, gathered, sent)
            sent = gathered
        if size:
            self._keep(owner, data, size, sent - gathered)
        self._start_writing()
        return self._pause_if_high()

    cdef int _keep(self, bytes owner, const char* data, Py_ssize_t size, Py_ssize_t sent) except -1:
        """Queue what is left of *size* bytes, of which *sent* are gone: none, unless these are the first."""
        try:
            if owner is None:
                owner = data[sent:size]
            if self._chunks is None:
                self._chunks, self._first, self._offset = [], 0, 0
            self._chunks.append(owner)
        except MemoryError as exc:  # output is lost, and with it the stream
            self._fatal_error(exc, "Fatal write error on socket transport")
            raise
        if self._queued == 0:
            self._offset = PyBytes_GET_SIZE(owner) - (size - sent)
        self._queued += size - sent
        return 0

    cdef int _send_chunks(self) except -1:
        """Have the kernel take what it will of the queue, in one call; return errno, or 0."""
        cdef iovec parts[PARTS]
        cdef msghdr message
        cdef Py_ssize_t index = self._first, offset = self._offset, sent
        cdef int count = 0
        cdef PyObject* chunk
        if self._chunks is None:
            return 0
        while count < PARTS and index < PyList_GET_SIZE(self._chunks):
            chunk = PyList_GET_ITEM(<PyObject*>self._chunks, index)
            parts[count].iov_base = PyBytes_AS_STRING(<object>chunk) + offset
            parts[count].iov_len = PyBytes_GET_SIZE(<object>chunk) - offset
            count += 1
            index += 1
            offset = 0
        if count == 1:
            sent = self.core.sys.send(self._sock_fd, parts[0].iov_base, parts[0].iov_len, MSG_NOSIGNAL)
        else:
            memset(&message, 0, sizeof(message))
            message.msg_iov, message.msg_iovlen = parts, count
            sent = self.core.sys.sendmsg(self._sock_fd, &message, MSG_NOSIGNAL)
        if sent < 0:
            return 0 if _would_block(errno) else errno
        self._forget_sent(sent)
        return 0

    cdef int _forget_sent(self, Py_ssize_t sent) except -1:
        """Let go of what the kernel has taken."""
        cdef Py_ssize_t size, count
        self._queued -= sent
        if self._queued == 0:
            self._drop_output()
            return 0
        count = PyList_GET_SIZE(self._chunks)
        while self._first < count:
            size = PyBytes_GET_SIZE(<object>PyList_GET_ITEM(<PyObject*>self._chunks, self._first)) - self._offset
            if sent < size:
                self._offset += sent
                break
            sent -= size
            self._chunks[self._first] = None  # the bytes go now, the places in one step
            self._first += 1
            self._offset = 0
        if self._first > 64 and 2 * self._first > count:
            del self._chunks[:self._first]
            self._first = 0
        return 0

    cdef void _drop_gathered(self) noexcept:
        self._written = None
        if self.core.gather_owner is <void*>self:
            self.core.gather_owner = NULL

    cdef void _drop_output(self) noexcept:
        self._chunks = None
        self._queued = self._first = self._offset = 0

    cdef Py_ssize_t _output(self) noexcept:
        """Return the bytes that wait for the kernel to take them."""
        if self._written is not None:
            return PyBytes_GET_SIZE(self._written)
        if self.core is not None and self.core.gather_owner is <void*>self:
            return self.core.gathered
        return self._queued

    cdef int writable(self) except -1:
        cdef int number
        if self._conn_lost or not self._writing:
            return 0
        number = self._send_chunks()
        if number:
            return self._write_failed(number)
        self._resume_if_low()  # may write
        if self._queued or self._conn_lost:
            return 0
        self._writing = False
        if self._empty_waiter is not None and not self._empty_waiter.done():
            self._empty_waiter.set_result(None)
        if self._closing:
            self._conn_lost += 1
            self._call_connection_lost(None)
            return 0
        self._want()
        if self._eof:
            self._shutdown()
        return 0

    def _shutdown(self):
        if self.core.sys.shutdown(self._sock_fd, SHUT_WR) < 0:
            raise _os_error(errno)

    cdef int _write_failed(self, int number) except -1:
        exc = _os_error(number)
        self._fatal_error(exc, "Fatal write error on socket transport")
        if self._empty_waiter is not None and not self._empty_waiter.done():
            self._empty_waiter.set_exception(exc)
        return 0

    def can_write_eof(self):
        """Return True: a stream socket can be half closed."""
        return True

    def write_eof(self):
        """Close the sending side once everything is sent; receiving goes on.  Idempotent.

        Raises: OSError: the kernel has refused it.
        """
        if self._closing or self._eof:
            return
        self._flush_gather(None, NULL, 0)
        if self._closing:
            return
        self._eof = self._odd = True
        if not self._queued:
            self._shutdown()

    # --- flow control ----------------------------------------------------------------------------------------------

    def get_write_buffer_size(self):
        """Return how many bytes (int) wait for the kernel to take them."""
        return self._output()

    def get_write_buffer_limits(self):
        """Return the water marks in bytes: (low, high)."""
        return self._low_water, self._high_water

    def set_write_buffer_limits(self, high=None, low=None):
        """Set the water marks: above *high* bytes the protocol's pause_writing() is called, at *low* resume_writing().

        Raises: ValueError: not high >= low >= 0.
        """
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high_water, self._low_water = min(high, PY_SSIZE_T_MAX), min(low, PY_SSIZE_T_MAX)
        self._gather_room = min(self._high_water, <Py_ssize_t>GATHERED)
        self._flush_gather(None, NULL, 0)
        self._pause_if_high()

    def _maybe_pause_protocol(self):
        self._pause_if_high()

    def _maybe_resume_protocol(self):
        self._resume_if_low()

    cdef int _pause_if_high(self) except -1:
        if self._queued > self._high_water and not self._protocol_paused:
            self._protocol_paused = True
            self._tell("pause_writing")
        return 0

    cdef int _resume_if_low(self) except -1:
        if self._protocol_paused and self._queued <= self._low_water:
            self._protocol_paused = False
            self._tell("resume_writing")
        return 0

    def _tell(self, name):
        """Call a method of the protocol that has no say in the matter."""
        try:
            getattr(self._protocol, name)()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            context = {"message": f"protocol.{name}() failed", "exception": exc, "transport": self,
                       "protocol": self._protocol}
            self._reactor.call_exception_handler(context)

    def _make_empty_waiter(self):
        """Return a future that is done when everything is sent; until _reset_empty_waiter() the fd is the caller's."""
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self._flush_gather(None, NULL, 0)
        self._empty_waiter = self._reactor.create_future()
        self._odd = True
        if not self._queued:
            self._empty_waiter.set_result(None)
            if not (self._reading or self._writing):
                self.core.forget(self)
        else:
            self._empty_waiter.add_done_callback(self._lend_fd)
        return self._empty_waiter

    def _lend_fd(self, waiter):
        # sendfile() watches the fd itself, with add_writer().
        if not (self._conn_lost or self._reading or self._writing):
            self.core.forget(self)

    def _reset_empty_waiter(self):
        self._empty_waiter = None
        self._odd = self._eof or self._conn_lost > 0

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self):
        """Send what was written, then close; the protocol's connection_lost(None) comes in a turn of its own."""
        if self._closing:
            return
        self._flush_gather(None, NULL, 0)
        if self._closing:
            return
        self._closing = True
        self._reading = False
        if self._queued:
            self._want()
        else:
            self._lose(None)

    def abort(self):
        """Close at once and drop what waits; connection_lost(None) comes in a turn of its own."""
        self._force_close(None)

    def _fatal_error(self, exc, message="Fatal error on transport"):
        loop = self._reactor
        if not isinstance(exc, OSError):
            loop.call_exception_handler(
                {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
            )
        elif loop.get_debug():
            logger.debug("%r: %s", self, message, exc_info=True)
        self._force_close(exc)

    def _force_close(self, exc):
        if self._conn_lost:
            return
        self._flush_gather(None, NULL, 0)  # asyncio has sent it when it was written
        if self._conn_lost:
            return
        self._drop_output()
        self._closing = True
        self._lose(exc)

    cdef int _lose(self, object exc) except -1:
        self._conn_lost += 1
        self._odd = True
        self._reading = self._writing = False
        if self.fd >= 0:
            self.core.forget(self)  # nothing is to be read or written any more
        elif self._empty_waiter is not None:
            self.core._unwatch(self._sock_fd, EVENT_WRITE)  # sendfile()'s, of an fd that is about to be closed
        self._reactor.call_soon(self._call_connection_lost, exc)
        return 0

    def _call_connection_lost(self, exc):
        try:
            if self._protocol_connected:
                self._protocol.connection_lost(exc)
        finally:
            self._let_go()
        if self._empty_waiter is not None and not self._empty_waiter.done():
            self._empty_waiter.set_exception(ConnectionError("Connection is closed by peer"))

    cdef int _let_go(self) except -1:
        """Close the socket, and hold nothing any more."""
        server, self._server = self._server, None
        self._odd = True
        self._drop_gathered()
        try:
            self.core.forget(self)
            self.closed = True
            self._close_socket()
        finally:
            self._protocol = self._c_protocol = self._receive = self._receiver = None
            self._read_context = self._write_context = self._memory = None
            self._reactor = self.core = None
            if server is not None:
                if NAMED_CLIENTS:
                    server._detach(self)
                else:
                    server._detach()
        return 0

    cdef int _close_socket(self) except -1:
        if self._open:
            self._open = False
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            else:
                self.core.sys.close(self._sock_fd)
        return 0


cdef class Listener(Endpoint):
    """What accepts the connections of a listening socket: transports without a task each.  Owns: nothing.

    Args:
        loop: the event loop, on the compiled core.
        sock: the listening socket (non-blocking); whose owner closes it after :meth:`stop`.
        factory, sslcontext, server, backlog: what ``loop._start_serving`` was called with.
        timeouts: a tuple, and *more* a dict: what it was called with beyond these.
        plain: whether a connection of ours is what the loop makes of an ordinary socket.
    """

    def __init__(self, loop, sock, factory, sslcontext, server, backlog, timeouts, more, plain):
        Endpoint.__init__(self, loop)
        self.sock, self._timeouts, self._more = sock, timeouts, more
        self._factory, self._server, self._sslcontext = factory, server, sslcontext
        self._batch = max(1, min(backlog, BATCH))
        # Of a kind whose addresses are read here, and which accept() makes nothing special of.
        self._plain = (plain and sslcontext is None and type(sock) is socket.socket
                       and sock.family in (AF_INET, AF_INET6, AF_UNIX))
        self._memory = loop._read_memory
        self._context = PyContext_CopyCurrent()
        base_events._set_nodelay(sock)  # what is accepted inherits it (tcp(7))
        self.core.register(sock, EVENT_READ, self)

    def stop(self):
        """Accept nothing more.  Idempotent."""
        if not self.closed:
            self.closed = True
            self.core.forget(self)

    def _forked(self):
        # The socket is its maker's, who may want it in the child.
        self.closed = True

    cdef int readable(self) except -1:
        cdef int left = self._batch
        while left > 0 and not self.closed and self._accept_one():
            left -= 1
        return 0

    cdef bint _accept_one(self) except -1:
        """Accept a connection; False if there is none."""
        cdef sockaddr_storage address
        cdef socklen_t size = sizeof(address)
        cdef int fd
        if not self._plain or self.core.debug:
            return self._accept_object()
        address.ss_family = 0
        fd = self.core.sys.accept4(self.fd, <sockaddr*>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd >= 0:
            self._accepted(fd, <unsigned char*>&address, size)
            return True
        if errno == EAGAIN or errno == ECONNABORTED:
            return False
        if errno == EINTR:
            PyErr_CheckSignals()
            return False  # the selector says so again
        return self._accept_failed(_os_error(errno))

    def _accept_object(self):
        """The same for what the loop is to make the transport of: TLS, other families and sockets; in debug mode."""
        try:
            conn, address = self.sock.accept()
            conn.setblocking(False)
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as exc:
            return self._accept_failed(exc)
        self._context.run(self._start_task, conn, {"peername": address})
        return True

    def _start_task(self, conn, extra):
        loop = self._reactor
        what = (self._factory, conn, extra, self._sslcontext, self._server, *self._timeouts)
        loop.create_task(loop._accept_connection2(*what, **self._more))

    def _accept_failed(self, exc):
        """Rest for a while if the process has no more of something, or raise; return False."""
        if exc.errno not in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
            raise exc
        loop = self._reactor
        loop.call_exception_handler({
            "message": "socket.accept() out of system resource",
            "exception": exc,
            "socket": trsock.TransportSocket(self.sock),
        })
        self.core.forget(self)  # or the kernel would say again and again that somebody waits
        loop.call_later(constants.ACCEPT_RETRY_DELAY, self._go_on)
        return False

    def _go_on(self):
        if not self.closed:
            self.core.register(self.sock, EVENT_READ, self)

    cdef int _accepted(self, int fd, unsigned char* address, socklen_t size) except -1:
        """Make the transport, in a copy of the context as each of asyncio's tasks has one."""
        cdef SocketTransport transport = SocketTransport.__new__(SocketTransport)
        context = PyContext_Copy(self._context)
        Endpoint.__init__(transport, self._reactor)
        transport._sock_fd, transport._open, transport._memory = fd, True, self._memory
        transport._given = _note_addresses(transport, address, size)
        PyContext_Enter(context)
        try:
            transport._begin(self._reactor, self._factory(), None, self._server)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport._close_socket()  # as asyncio: only in debug mode, whose code this is not, somebody hears of it
        finally:
            PyContext_Exit(context)
        return 0


cdef dict _note_addresses(SocketTransport transport, unsigned char* peer, socklen_t size):
    """Note both addresses of an accepted connection; return those that are not kept as the kernel gives them."""
    cdef sockaddr_storage local
    cdef socklen_t local_size = sizeof(local)
    cdef bint failed = getsockname(transport._sock_fd, <sockaddr*>&local, &local_size) < 0
    if (<sockaddr_storage*>peer).ss_family == AF_UNIX:
        return {"peername": _unix_address(peer, size),
                "sockname": None if failed else _unix_address(<unsigned char*>&local, local_size)}
    if size <= ADDRESS_ROOM:
        transport._peername_size = size
        memcpy(transport._peername, peer, size)
    if not failed and local_size <= ADDRESS_ROOM:
        transport._sockname_size = local_size
        memcpy(transport._sockname, &local, local_size)
    return None


cdef object _unix_address(unsigned char* raw, socklen_t size):
    """Return the address that a sockaddr_un is (unix(7)), as the socket module does: a path, or an abstract name."""
    cdef bytes path = (<char*>raw + 2)[:size - 2] if size > 2 else b""
    if path.startswith(b"\0"):
        return path
    return os.fsdecode(path.split(b"\0", 1)[0])


cdef object _address_from(unsigned char* raw, unsigned char size):
    """Return the tuple that the socket module makes of a sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)); None of none."""
    cdef sockaddr_in v4
    cdef sockaddr_in6 v6
    if size == sizeof(sockaddr_in):
        memcpy(&v4, raw, size)
        return socket.inet_ntop(socket.AF_INET, (<unsigned char*>&v4.sin_addr)[:4]), ntohs(v4.sin_port)
    if size == sizeof(sockaddr_in6):
        memcpy(&v6, raw, size)
        host = socket.inet_ntop(socket.AF_INET6, (<unsigned char*>&v6.sin6_addr)[:16])
        if v6.sin6_scope_id:
            try:
                host += "%" + socket.if_indextoname(v6.sin6_scope_id)
            except OSError:
                host += f"%{v6.sin6_scope_id}"
        return host, ntohs(v6.sin6_port), ntohl(v6.sin6_flowinfo), v6.sin6_scope_id
    return None


def _ask(given, name, question):
    """Note the answer, unless it is known; None if the kernel has none."""
    if name not in given:
        try:
            given[name] = question()
        except OSError:
            given[name] = None


def _closed_socket():
    sock = socket.socket()
    sock.close()
    return sock


cdef inline int _room_for(Py_ssize_t size) noexcept:
    """Return the least room that *size* bytes, LEAST_BULK or more, do not fill, or the largest."""
    cdef int room = 0
    while room < ROOMS - 1 and size >= LEAST_BULK << room:
        room += 1
    return room


cdef inline int _call(object receive, object receiver, object argument) except -1:
    """Call *receive* with the argument, after the receiver if there is one."""
    cdef PyObject* parts[3]  # the first place is the callee's to use, as PY_VECTORCALL_ARGUMENTS_OFFSET says
    cdef PyObject** first = &parts[2] if receiver is None else &parts[1]
    cdef size_t count = (1 if receiver is None else 2) | PY_VECTORCALL_ARGUMENTS_OFFSET
    cdef vectorcallfunc function = PyVectorcall_Function(receive)
    parts[1], parts[2] = <PyObject*>receiver, <PyObject*>argument
    if function is NULL:
        Py_DECREF(PyObject_Vectorcall(<PyObject*>receive, first, count, NULL))
    else:  # what PyObject_Vectorcall does, without its checks of a result that the interpreter has checked
        Py_DECREF(_result_of(function(<PyObject*>receive, first, count, NULL)))
    return 0


cdef inline PyObject* _result_of(PyObject* result) except NULL:
    return result


cdef inline bint _would_block(int number) noexcept:
    return number == EAGAIN or number == EINTR  # on Linux EWOULDBLOCK is EAGAIN


cdef object _os_error(int number):
    return OSError(number, os.strerror(number))


def is_compiled(loop):
    """Return whether *loop* is on the compiled core, and so takes our endpoints."""
    return isinstance(loop, Core)


def transport_of(_Epoll selector not None, int fd):
    """Return the transport that *fd* (int) is registered for with our own selector, or None."""
    if 0 <= fd < selector.size and selector.slots[fd].used and isinstance(selector.data[fd], SocketTransport):
        return selector.data[fd]
    return None
