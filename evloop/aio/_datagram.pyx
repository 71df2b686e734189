# cython: auto_pickle=False, binding=False
"""asyncio's datagram transport at C speed, as an endpoint of the reactor's core.

It has no twin in this package: its reference is the standard library's ``_SelectorDatagramTransport``, which runs in
its place over any other selector, in debug mode, on the pure core, and for address families that are not known here.
What a protocol sees is the same: the order of the callbacks, their context, the words of the errors.  What differs: a
datagram is received into the core's shared buffer, an address is read and written here, and the one that the last
datagram came from not even that.

Rule: nothing in this file may look into a datagram.  Read next: ``_reactor.pxd``; asyncio's ``selector_events.py``.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset, strlen

from evloop._reactor cimport EVENT_READ, EVENT_WRITE, Core, Endpoint, iovec, msghdr, sockaddr, socklen_t

import os
import sys
import warnings
from asyncio import constants, futures, transports, trsock
from asyncio.log import logger
from collections import deque

from evloop._reactor import RECV_BUFFER

cdef extern from "_syscalls.h" nogil:
    enum: AF_INET, AF_INET6, AF_UNIX, INET6_ADDRSTRLEN
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        pass
    struct sockaddr_in:
        uint16_t sin_family, sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_family, sin6_port
        uint32_t sin6_flowinfo, sin6_scope_id
        in6_addr sin6_addr
    struct sockaddr_storage:
        uint16_t ss_family
    uint16_t htons(uint16_t number)
    uint16_t ntohs(uint16_t number)
    uint32_t ntohl(uint32_t number)
    uint32_t htonl(uint32_t number)
    const char* inet_ntop(int family, const void* source, char* text, socklen_t size)
    int inet_pton(int family, const char* text, void* destination)
    ssize_t recvfrom(int fd, void* data, size_t size, int flags, sockaddr* address, socklen_t* length)

cdef extern from "<sys/un.h>" nogil:
    struct sockaddr_un:
        uint16_t sun_family
        char* sun_path

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    object PyContext_CopyCurrent()

# What became of a datagram that was to be sent.
cdef enum:
    SENT
    BLOCKED
    FAILED                        # and the protocol was told

cdef enum:
    # Datagrams read in one turn, where nothing else is waiting.  After as many the loop looks at its fds and timers, as
    # it does after 16 turns without a look.
    BATCH = 16
    # Reads that found the queue empty in a row make the next attempt wait for twice as many datagrams, up to this.
    LONGEST_PATIENCE = 64

cdef Py_ssize_t READ_SIZE = RECV_BUFFER  # asyncio's max_size; a longer datagram (UNIX) is cut
cdef bint SENDS_EMPTY = sys.version_info >= (3, 13)  # before, asyncio takes an empty one for nothing to send
cdef Py_ssize_t HEADER = 8 if SENDS_EMPTY else 0  # what each adds to the buffer's size, so that empty ones are bounded


class _Facade(transports._FlowControlMixin, transports.Transport, transports.DatagramTransport):
    """What a transport says its class is: an extension type cannot derive from asyncio's."""


_Facade.__name__ = _Facade.__qualname__ = "DatagramTransport"


def is_known(sock):
    """Return whether the addresses of a socket's family are read here."""
    return sock.family in (AF_INET, AF_INET6, AF_UNIX)


cdef class DatagramTransport(Endpoint):
    """A transport of datagrams (UDP, UNIX): asyncio.DatagramTransport.  Owns: the socket.  Loop thread only.

    Args:
        loop: the event loop, on the compiled core.
        sock: a non-blocking datagram socket of a family that :func:`is_known`; the transport's from now on.
        protocol: asyncio.DatagramProtocol.
        address: where it is connected to, as the socket module gives it, or None.
        waiter: a future whose result is set when ``connection_made`` was called, or None.
        extra: what get_extra_info() is to know beyond the socket and its two addresses, or None.
    """

    cdef readonly int _sock_fd    # keeps its number when closed
    cdef readonly object _sock    # None once closed
    cdef readonly object _protocol, _address
    cdef readonly dict _extra
    cdef readonly bint _closing, _paused, _protocol_paused, _protocol_connected
    cdef public int _conn_lost
    cdef bint _connected          # it has a peer: send() and not sendto()
    cdef bint _reading, _writing  # what the fd is watched for
    cdef int _family
    cdef object _read_context, _write_context
    cdef object _buffer           # deque of (bytes, address) that wait, oldest first
    cdef Py_ssize_t _buffer_size, _high_water, _low_water
    cdef int _patience, _misses   # datagrams until a second read is tried again, and how many that was the last time
    # The address of the last datagram: as the kernel gave it, and what was made of it.
    cdef object _last
    cdef socklen_t _last_size
    cdef sockaddr_storage _last_raw
    cdef object __weakref__

    max_size = RECV_BUFFER

    def __cinit__(self, *args, **kwargs):
        self._sock_fd = -1
        self._misses = 1
        self._high_water, self._low_water = 65536, 16384  # asyncio's

    def __init__(self, loop, sock, protocol, address=None, waiter=None, extra=None):
        Endpoint.__init__(self, loop)
        self._extra = {**(extra or {}), "socket": trsock.TransportSocket(sock)}
        self._extra["sockname"] = _answer(sock.getsockname)
        if "peername" not in self._extra:
            self._extra["peername"] = _answer(sock.getpeername)
        self._connected = bool(self._extra["peername"])
        self._sock, self._sock_fd, self._family = sock, sock.fileno(), sock.family
        self._address = address
        self._buffer = deque()
        self.set_protocol(protocol)
        loop._transports[self._sock_fd] = self
        loop.call_soon(protocol.connection_made, self)
        loop.call_soon(self._start_reading)  # not before connection_made() was called
        if waiter is not None:
            loop.call_soon(futures._set_result_unless_cancelled, waiter, None)

    @property
    def __class__(self):
        return _Facade

    def __del__(self):
        if self._sock is not None:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self._sock.close()

    def __repr__(self):
        info = ["DatagramTransport"]
        if self._sock is None:
            info.append("closed")
        elif self._closing:
            info.append("closing")
        info.append(f"fd={self._sock_fd}")
        if self._reactor is not None and not self._reactor.is_closed():
            info.append("read=polling" if self._reading else "read=idle")
            info.append(f"write=<{'polling' if self._writing else 'idle'}, bufsize={self._buffer_size}>")
        return f"<{' '.join(info)}>"

    # --- what it is about ------------------------------------------------------------------------------------------

    @property
    def _loop(self):
        return self._reactor

    def get_extra_info(self, name, default=None):
        """Return what is known under *name* (str): "socket" (a TransportSocket), "sockname", "peername" (or None)."""
        return self._extra.get(name, default)

    def set_protocol(self, protocol):
        """Deliver to *protocol* from now on."""
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
        """Deliver nothing more until :meth:`resume_reading`; the kernel keeps what it has room for.  Idempotent."""
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

    cdef int _want(self) except -1:
        cdef int events = (EVENT_READ if self._reading else 0) | (EVENT_WRITE if self._writing else 0)
        if events:
            return self.core.want(self, self._sock_fd, events)
        return self.core.forget(self)  # an error of the socket is for the next call to tell

    cdef int run(self) except -1:
        cdef object loop = self._reactor
        self.queued = False
        try:
            if self._revents & EVENT_READ and not self.closed:
                self._revents &= ~EVENT_READ
                self._in_context(self._read_context, False)
            if self._revents & EVENT_WRITE and not self.closed:
                self._revents &= ~EVENT_WRITE
                self._in_context(self._write_context, True)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            loop.call_exception_handler({"message": f"Exception in callback of {self!r}", "exception": exc,
                                         "transport": self, "protocol": self._protocol})
        return 0

    cdef int _in_context(self, object context, bint write) except -1:
        PyContext_Enter(context)
        try:
            if write:
                self.writable()
            else:
                self.readable()
        finally:
            PyContext_Exit(context)
        return 0

    cdef int hung_up(self) except -1:
        return 0

    def _forked(self):
        """Let go of the copy of the fd in a child process, without a word to anybody."""
        self.closed = self._closing = True
        self._conn_lost += 1
        self._buffer.clear()
        self._buffer_size = 0
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    # --- input -----------------------------------------------------------------------------------------------------

    cdef int readable(self) except -1:
        """Deliver a datagram; and more of them where asyncio would do nothing else next.

        asyncio reads one a turn, and that is the order of datagrams and callbacks here, too.  Where no other fd is
        watched and the protocol has left nothing to run, the next datagram is all that the next turns would bring.
        The attempt costs a read that finds nothing if there is none, so it is made where the last ones found something.
        """
        cdef Core core = self.core
        cdef int64_t timers = core._timer_order
        cdef int left = BATCH
        if not self._read_one():
            return 0
        if not core.alone or core.epoll is None or core.epoll.count > 2 + core._internal_fds:
            return 0
        if self._patience > 0:
            self._patience -= 1
            return 0
        while left > 1 and self._reading and core.ready.count == 0 and core._timer_order == timers:
            if core._to_flush.count or core._stopping or core.debug or core.epoll is None or core.epoll._pending_count:
                return 0
            left -= 1
            if not self._read_one():
                self._misses = min(2 * self._misses, <int>LONGEST_PATIENCE)
                self._patience = self._misses
                return 0
            self._misses = 1
        return 0

    cdef bint _read_one(self) except -1:
        """Receive a datagram or an error, and deliver it; False if there was none."""
        cdef Core core = self.core
        cdef unsigned char* buffer
        cdef sockaddr_storage address
        cdef socklen_t size = sizeof(address)
        cdef Py_ssize_t length
        if self._conn_lost:
            return False
        buffer = core._recv_memory if core._recv_memory is not NULL else core.receive_memory()
        length = recvfrom(self._sock_fd, buffer, READ_SIZE, 0, <sockaddr*>&address, &size)
        if length < 0:
            if errno == EAGAIN:
                return False
            if errno == EINTR:
                PyErr_CheckSignals()
                return False  # the selector says so again
            self._protocol.error_received(_os_error())
            return True
        data = PyBytes_FromStringAndSize(<char*>buffer, length)
        sender = self._sender(&address, size)
        self._protocol.datagram_received(data, sender)
        return True

    cdef object _sender(self, sockaddr_storage* address, socklen_t size):
        """Return an address that the kernel gave as the socket module does."""
        if size != self._last_size or size == 0 or memcmp(address, &self._last_raw, size) != 0:
            self._last = _address_from(address, size)
            self._last_size = min(size, <socklen_t>sizeof(self._last_raw))
            memcpy(&self._last_raw, address, self._last_size)
        return self._last

    # --- output ----------------------------------------------------------------------------------------------------

    def sendto(self, data, addr=None):
        """Send a datagram now, or queue it while the kernel has no room.

        Args:
            data: bytes, bytearray or memoryview; copied if it has to wait.
            addr: where to, as the socket module takes it; None: where the transport is connected to.
        Raises:
            TypeError: *data* is none of the three.
            ValueError: *addr* is not where the transport is connected to.
        """
        cdef int state
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if not SENDS_EMPTY and not data:
            return
        if self._address:
            if addr is not None and addr != self._address:
                raise ValueError(f"Invalid address: must be None or {self._address}")
            addr = self._address
        if self._conn_lost and (self._address or self._sock is None):
            if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self._conn_lost += 1
            return
        if not self._buffer_waits():
            state = self._send(data, addr)
            if state != BLOCKED:
                return
            self._write_context = PyContext_CopyCurrent()
            self._writing = True
            self._want()
        self._buffer.append((bytes(data), addr))
        self._buffer_size += len(data) + HEADER
        self._maybe_pause_protocol()

    cdef bint _buffer_waits(self) except -1:
        return len(self._buffer) > 0

    cdef int _send(self, object data, object addr) except -1:
        """Try to send; an OSError is the protocol's, any other exception the end of the transport."""
        cdef Py_buffer view
        cdef int state
        try:
            if type(data) is bytes:
                state = self._send_bytes(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data, addr)
            else:
                PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
                try:
                    state = self._send_bytes(<char*>view.buf, view.len, data, addr)
                finally:
                    PyBuffer_Release(&view)
        except (BlockingIOError, InterruptedError):
            return BLOCKED
        except OSError as exc:
            failure = exc
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal write error on datagram transport")
            return FAILED
        else:
            if state != FAILED:
                return state
            failure = _os_error()
            if isinstance(failure, (BlockingIOError, InterruptedError)):
                return BLOCKED
        self._protocol.error_received(failure)
        return FAILED

    cdef int _send_bytes(self, char* start, Py_ssize_t size, object data, object addr) except -1:
        """Send to *addr*, or leave what it says to the socket module; FAILED: errno says why."""
        cdef sockaddr_storage address
        cdef iovec part
        cdef msghdr message
        cdef socklen_t length
        if self._connected:
            return SENT if self.core.sys.send(self._sock_fd, start, size, 0) >= 0 else FAILED
        memset(&message, 0, sizeof(message))
        if addr is self._last and self._last_size > 0 and addr is not None:
            message.msg_name, message.msg_namelen = &self._last_raw, self._last_size
        else:
            length = _address_to(self._family, addr, &address)
            if length == 0:
                self._sock.sendto(data, addr)
                return SENT
            message.msg_name, message.msg_namelen = &address, length
        part.iov_base, part.iov_len = start, size
        message.msg_iov, message.msg_iovlen = &part, 1
        return SENT if self.core.sys.sendmsg(self._sock_fd, &message, 0) >= 0 else FAILED

    cdef int writable(self) except -1:
        cdef int state
        while self._buffer_waits():
            data, addr = self._buffer.popleft()
            self._buffer_size -= len(data) + HEADER
            state = self._send(data, addr)
            if state == BLOCKED:
                self._buffer.appendleft((data, addr))
                self._buffer_size += len(data) + HEADER
                break
            if state == FAILED:
                return 0
        self._maybe_resume_protocol()  # may append to the buffer
        if not self._buffer_waits() and self._sock is not None:
            self._writing = False
            self._want()
            if self._closing:
                self._call_connection_lost(None)
        return 0

    def get_write_buffer_size(self):
        """Return how many bytes wait to be sent; each datagram counts 8 more from Python 3.13 on."""
        return self._buffer_size

    def get_write_buffer_limits(self):
        """Return the water marks (low, high) in bytes."""
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
        self._high_water, self._low_water = min(high, sys.maxsize), min(low, sys.maxsize)
        self._maybe_pause_protocol()

    def _maybe_pause_protocol(self):
        if self._buffer_size > self._high_water and not self._protocol_paused:
            self._protocol_paused = True
            self._tell("pause_writing")

    def _maybe_resume_protocol(self):
        if self._protocol_paused and self._buffer_size <= self._low_water:
            self._protocol_paused = False
            self._tell("resume_writing")

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

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self):
        """Send what waits, then close; the protocol's connection_lost(None) comes in a turn of its own.  Idempotent."""
        if self._closing:
            return
        self._closing = True
        self._reading = False
        if not self._buffer_waits():
            self._writing = False
            self._conn_lost += 1
            self._reactor.call_soon(self._call_connection_lost, None)
        self._want()

    def abort(self):
        """Close at once and drop what waits; connection_lost(None) comes in a turn of its own."""
        self._force_close(None)

    def _fatal_error(self, exc, message="Fatal error on transport"):
        if isinstance(exc, OSError):
            if self._reactor.get_debug():
                logger.debug("%r: %s", self, message, exc_info=True)
        else:
            self._reactor.call_exception_handler(
                {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
            )
        self._force_close(exc)

    def _force_close(self, exc):
        if self._conn_lost:
            return
        self._buffer.clear()
        self._buffer_size = 0
        self._closing = True
        self._reading = self._writing = False
        self._want()
        self._conn_lost += 1
        self._reactor.call_soon(self._call_connection_lost, exc)

    def _call_connection_lost(self, exc):
        try:
            if self._protocol_connected:
                self._protocol.connection_lost(exc)
        finally:
            self._conn_lost = max(self._conn_lost, 1)
            self._reading = self._writing = False
            self.core.forget(self)
            self.closed = True
            sock, self._sock = self._sock, None
            if sock is not None:
                sock.close()
            self._protocol = self._read_context = self._write_context = self._last = None
            self._reactor = self.core = None


cdef object _answer(object question):
    try:
        return question()
    except OSError:
        return None


cdef object _os_error():
    """Return errno as the exception that it makes."""
    try:
        PyErr_SetFromErrno(OSError)
    except OSError as exc:
        return exc


cdef object _address_from(sockaddr_storage* address, socklen_t size):
    """Return what the socket module makes of an address."""
    cdef char[INET6_ADDRSTRLEN] text
    cdef sockaddr_in* ipv4 = <sockaddr_in*>address
    cdef sockaddr_in6* ipv6 = <sockaddr_in6*>address
    cdef sockaddr_un* path = <sockaddr_un*>address
    cdef Py_ssize_t length
    if size == 0:
        return None  # a sender without a name
    if address.ss_family == AF_INET:
        length = _write_ipv4(text, <unsigned char*>&ipv4.sin_addr)
        return PyUnicode_DecodeASCII(text, length, NULL), ntohs(ipv4.sin_port)
    if address.ss_family == AF_INET6:
        inet_ntop(AF_INET6, &ipv6.sin6_addr, text, sizeof(text))
        host = PyUnicode_DecodeASCII(text, strlen(text), NULL)
        return host, ntohs(ipv6.sin6_port), ntohl(ipv6.sin6_flowinfo), ipv6.sin6_scope_id
    length = <Py_ssize_t>size - (path.sun_path - <char*>path)
    if length > 0 and path.sun_path[0] == 0:
        return PyBytes_FromStringAndSize(path.sun_path, length)  # the abstract namespace
    return os.fsdecode(PyBytes_FromStringAndSize(path.sun_path, max(length, <Py_ssize_t>0)).partition(b"\0")[0])


cdef Py_ssize_t _write_ipv4(char* text, unsigned char* address) noexcept:
    """Write an IPv4 address; return the length.  glibc's inet_ntop() goes through printf: a third of a datagram."""
    cdef Py_ssize_t length = 0
    cdef int index, number
    for index in range(4):
        number = address[index]
        if number >= 100:
            text[length] = 48 + number // 100
            length += 1
        if number >= 10:
            text[length] = 48 + number // 10 % 10
            length += 1
        text[length] = 48 + number % 10
        text[length + 1] = 46  # a dot
        length += 2
    return length - 1


cdef socklen_t _address_to(int family, object address, sockaddr_storage* raw) except? 1:
    """Fill *raw* with a numeric address of the usual form and return its length; 0: it is for the socket module."""
    cdef const char* text
    cdef Py_ssize_t length
    cdef int64_t port, flow = 0, scope = 0
    cdef sockaddr_in* ipv4 = <sockaddr_in*>raw
    cdef sockaddr_in6* ipv6 = <sockaddr_in6*>raw
    if type(address) is not tuple or family == AF_UNIX:
        return 0
    if len(<tuple>address) != 2 and not (family == AF_INET6 and len(<tuple>address) == 4):
        return 0
    for part in (<tuple>address)[1:]:
        if type(part) is not int or not 0 <= part <= 0xFFFFFFFF:
            return 0
    host, port = (<tuple>address)[0], (<tuple>address)[1]
    if type(host) is not str or port > 0xFFFF:
        return 0
    text = PyUnicode_AsUTF8AndSize(host, &length)
    memset(raw, 0, sizeof(sockaddr_in6))
    if family == AF_INET:
        if inet_pton(AF_INET, text, &ipv4.sin_addr) != 1:
            return 0
        ipv4.sin_family, ipv4.sin_port = AF_INET, htons(<uint16_t>port)
        return sizeof(sockaddr_in)
    if len(<tuple>address) == 4:
        flow, scope = (<tuple>address)[2], (<tuple>address)[3]
    if flow > 0xFFFFF or inet_pton(AF_INET6, text, &ipv6.sin6_addr) != 1:
        return 0
    ipv6.sin6_family, ipv6.sin6_port = AF_INET6, htons(<uint16_t>port)
    ipv6.sin6_flowinfo, ipv6.sin6_scope_id = htonl(<uint32_t>flow), <uint32_t>scope
    return sizeof(sockaddr_in6)
