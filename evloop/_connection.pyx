# cython: auto_pickle=False, embedsignature.format=clinic
"""A connection at C speed: the twin of ``_connection_py.py``, with the same methods in the same order.

What differs is how bytes move, not which or when: it owns a bare fd and makes its system calls through the reactor's
table; the body of a large frame is received in its final object; small payloads are copied into the one gather of the
reactor, and large ones referenced and sent with sendmsg.  The whole docstrings are in the twin.

Rule: nothing in this file may parse bytes or know a server.  Read next: ``_reactor.pxd``, ``_framing.pxd``.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, EINTR, errno
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset
from posix.unistd cimport close

from evloop._framing cimport Codec, give_back, give_items, give_large
from evloop._reactor cimport EVENT_READ, EVENT_WRITE, GATHER_ROOM, Core, Endpoint, iovec, msghdr, sockaddr, socklen_t

import os
import socket
from types import MethodType

from evloop._connection_shared import (
    DISCARD_BUDGET,
    FRAMES_PER_TURN,
    NOT_PULLED,
    NOT_SWITCHED,
    SEND_BUDGET,
    STATES,
    ConnectionStats,
    as_they_are,
    describe,
    find_receivers,
    flush_too_slow,
    is_timed,
    output_alarm,
    output_too_large,
    overdue,
    reason_of,
    refuse_frames,
    stream_of,
)
from evloop._reactor import RECV_BUFFER
from evloop.errors import CloseReason, FramingError, TruncatedFrame
from evloop.framing import FrameDecoder as FramingDecoder
from evloop.protocol import CoroutineProtocol, FunctionProtocol
from evloop.socket_queues import opens_window, queued_input, queued_output
from evloop.sockets import PEER_GONE, address_of, local_address, peer_address
from evloop.sockets import accept as accept_from

cdef extern from "_wire.h":
    void evl_store(unsigned char* out, int order, uint64_t value) noexcept nogil

cdef extern from "_prefetch.h":
    void evl_prefetch(const void* start, size_t size) noexcept

cdef extern from "_move.h":
    void evl_move(unsigned char* to, const unsigned char* data, size_t size) noexcept nogil

cdef extern from "_enter.h":
    ctypedef PyObject* (*evl_entry)(PyObject* self, PyObject** args, Py_ssize_t count, PyObject* names) noexcept
    evl_entry evl_enter_at(object method, evl_entry entry) except NULL
    int evl_call(PyObject* callback, PyObject* receiver, PyObject* argument) noexcept

cdef extern from "_bodies.h":
    size_t EVL_FRONT

cdef extern from "_syscalls.h":
    int MSG_NOSIGNAL, SHUT_WR, SOL_SOCKET, SO_LINGER, SO_RCVLOWAT
    int AF_INET, AF_INET6, SOCK_NONBLOCK, SOCK_CLOEXEC
    struct sockaddr_storage:
        unsigned short ss_family
    struct in_addr:
        unsigned int s_addr
    struct in6_addr:
        pass
    struct sockaddr_in:
        unsigned short sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_port
        in6_addr sin6_addr
        unsigned int sin6_scope_id
    unsigned short ntohs(unsigned short) noexcept
    struct linger:
        int l_onoff
        int l_linger

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(object) noexcept
    void Py_INCREF(PyObject*) noexcept
    void Py_DECREF(PyObject*) noexcept
    void PyList_SET_ITEM(PyObject* array, Py_ssize_t index, PyObject* item) noexcept
    size_t PY_VECTORCALL_ARGUMENTS_OFFSET
    ctypedef PyObject* (*vectorcallfunc)(PyObject* callback, PyObject** args, size_t count, PyObject* names) noexcept
    vectorcallfunc PyVectorcall_Function(PyObject* callback) noexcept
    bint PyBytes_CheckExact(PyObject*) noexcept
    bint PyFunction_Check(PyObject* callback) noexcept
    ctypedef struct PyFunctionObject:
        vectorcallfunc vectorcall
    PyObject* PyObject_Vectorcall(PyObject* callback, PyObject** args, size_t count, PyObject* names) noexcept
    Py_ssize_t PY_SSIZE_T_MAX
    PyObject* PyList_GET_ITEM(PyObject* array, Py_ssize_t index) noexcept

IMPLEMENTATION = "cython"

# What `_receive` is called with: a frame, the connection and a frame, a list of frames; or it is a Puller.
cdef enum:
    ONE
    FUNCTION
    MANY
    PULLED

cdef enum:
    # Payloads of this size and above are referenced until they are sent, smaller ones are copied: the copy of 16 KiB
    # takes about as long as the objects, the iovec and the larger system call that it saves.
    REFERENCED = 16384
    # A body that lacks this much is received in place; for less, the copy out of the shared buffer is the cheaper way.
    IN_PLACE = 16384
    # One sendmsg: 64 frames in flight with a header each are 128 parts; the kernel takes 1024 (IOV_MAX).
    PARTS = 128
    # What is asked for ahead of a decoder: the fields that small frames touch.
    DECODER_AHEAD = 144
    FIRST_TAIL = 512
    FIRST_PLACES = 4

cdef Py_ssize_t ALL = PY_SSIZE_T_MAX
cdef Py_ssize_t READ_SIZE = RECV_BUFFER
cdef Py_ssize_t WRITE_SIZE = SEND_BUDGET
# What a turn may receive of one large body, at its place: as much as it may send.
cdef Py_ssize_t BODY_SIZE = SEND_BUDGET
# A body of which this much is missing is left in the kernel until all of it has come, if one turn can have it then.
# Smaller ones are there in one read as it is: 768 KiB on the loopback are as fast either way, and of 1 MiB the read
# would have a part, and the next one another (bench peers --cases c4p1s1m: 1.02 of the C server, and so 0.89).
cdef Py_ssize_t AWAITED = 1000000 if opens_window() else PY_SSIZE_T_MAX
cdef Py_ssize_t MOST_FRAMES = FRAMES_PER_TURN
cdef Py_ssize_t MOST_DISCARDED = DISCARD_BUDGET

assert GATHER_ROOM <= SEND_BUDGET


@cython.final
cdef class Budget:
    """The bytes that the connections of a server hold together, and the bound of them."""

    def __init__(self, limit, tell):
        self.limit = min(limit, PY_SSIZE_T_MAX)
        self._tell = tell

    def add(self, Py_ssize_t change):
        """Count *change* bytes (int) more, or less."""
        self.count(change)

    cdef int count(self, Py_ssize_t change) except -1:
        self.used += change
        if self.used > self.limit and not self.exceeded:
            self.exceeded = True
            self._tell()
        return 0


@cython.final
cdef class _Bounds:
    """The limits of a connection as C numbers; the connections of a server have one of them together."""

    def __init__(self, limits):
        self.limits = limits
        self.high_water = min(limits.high_water, PY_SSIZE_T_MAX)
        self.low_water = min(limits.low_water, PY_SSIZE_T_MAX)
        self.max_output = min(limits.max_output, PY_SSIZE_T_MAX)
        self.soft_output = min(limits.soft_output, PY_SSIZE_T_MAX)
        self.alarm = min(output_alarm(limits), PY_SSIZE_T_MAX)
        self.idle_timeout, self.flush_timeout, self.linger = limits.idle_timeout, limits.flush_timeout, limits.linger
        self.first_frame_timeout, self.frame_timeout = limits.first_frame_timeout, limits.frame_timeout
        self.write_timeout, self.soft_output_timeout = limits.write_timeout, limits.soft_output_timeout
        self.timed = is_timed(limits)
        self.minds_output = bool(limits.write_timeout or limits.soft_output)


cdef _Bounds _last_bounds = None


cdef _Bounds _bounds_of(object limits):
    global _last_bounds
    if _last_bounds is None or _last_bounds.limits is not limits:
        _last_bounds = _Bounds(limits)
    return _last_bounds


cdef class Accepted:
    """A connection that was accepted and is nobody's yet: its fd, and the address that accept4(2) gave."""

    def __cinit__(self):
        self._fd = -1

    def __dealloc__(self):
        if self._fd >= 0:
            close(self._fd)

    @property
    def peer(self):
        """The peer's address; None for a UNIX socket, whose peers have none."""
        return _address_from(self._address, self._size) if self._size else None

    def detach(self):
        """Give the fd (int) away."""
        fd, self._fd = self._fd, -1
        return fd

    def close(self):
        """Close it.  Idempotent."""
        if self._fd >= 0:
            close(self.detach())


def accept(Core core not None, sock):
    """Return the next :class:`Accepted` of a listening socket, None if nobody waits."""
    cdef sockaddr_storage address
    cdef socklen_t size = sizeof(address)
    cdef Accepted accepted
    cdef int fd
    if type(sock) is not socket.socket:  # of a socket_factory, whose accept() may be its reason
        return accept_from(core, sock)
    fd = core.sys.accept4(sock.fileno(), <sockaddr*>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
    while fd < 0 and errno == EINTR:  # again, as Python's own accept does (PEP 475)
        PyErr_CheckSignals()
        fd = core.sys.accept4(sock.fileno(), <sockaddr*>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd < 0:
        if errno == EAGAIN:
            return None
        raise _os_error(errno)
    accepted = Accepted.__new__(Accepted)
    accepted._fd = fd
    if address.ss_family == AF_INET or address.ss_family == AF_INET6:
        accepted._size = size
        memcpy(accepted._address, &address, min(size, <socklen_t>ADDRESS_ROOM))
    return accepted


cdef object _address_from(unsigned char* raw, socklen_t size):
    """Return the Address that a sockaddr_in or sockaddr_in6 is (ip(7), ipv6(7)); a link-local scope by its name."""
    cdef sockaddr_in v4
    cdef sockaddr_in6 v6
    if size == sizeof(sockaddr_in):
        memcpy(&v4, raw, size)
        host, port = socket.inet_ntop(socket.AF_INET, (<unsigned char*>&v4.sin_addr)[:4]), ntohs(v4.sin_port)
    else:
        memcpy(&v6, raw, sizeof(sockaddr_in6))
        host, port = socket.inet_ntop(socket.AF_INET6, (<unsigned char*>&v6.sin6_addr)[:16]), ntohs(v6.sin6_port)
        if v6.sin6_scope_id:
            try:
                host += "%" + socket.if_indextoname(v6.sin6_scope_id)
            except OSError:
                host += f"%{v6.sin6_scope_id}"
    return address_of(socket.AF_INET, (host, port))


cdef class Membership:
    """A group, as far as a connection knows it."""

    cdef void left(self, Py_ssize_t index) noexcept:
        pass

    cdef void moved(self, Py_ssize_t index, Py_ssize_t place) noexcept:
        pass


cdef class Puller:
    """A protocol that takes the frames itself: the one of a coroutine.  Its methods are the subclass's."""

    cdef int give(self, object frame) except -1:
        raise NotImplementedError

    cdef int frames_ready(self) except -1:
        raise NotImplementedError

    cdef int closing(self) except -1:
        raise NotImplementedError


@cython.final
cdef class Connection(Endpoint):
    """One stream of whole frames; made by a server or by ``connect()``."""

    def __cinit__(self, *args, **kwargs):
        # First, and whatever the arguments: __dealloc__ runs even when this raises, and 0 is an fd.
        self._sock = self._send_turn = -1
        # Until __init__ has run, or after one that failed, it behaves as a closed one; on a reactor, which nothing here
        # could do without.
        Endpoint.__init__(self, args[0] if args else kwargs.get("reactor"))
        self._state = CLOSED
        self.closed = True

    def __init__(self, reactor, sock, protocol, *, framing, limits, peer=None, on_lost=None, throttle=True,
                 budget=None):
        cdef sockaddr_in v4
        self._bounds = _bounds_of(limits)
        self._timed = self._bounds.timed
        if self._timed or self._bounds.minds_output:
            self._times = _new_times()
        if type(sock) is Accepted:
            if (<Accepted>sock)._size == sizeof(sockaddr_in):
                memcpy(&v4, (<Accepted>sock)._address, sizeof(v4))
                self._peer_port, self._peer_host = v4.sin_port, v4.sin_addr.s_addr
            elif (<Accepted>sock)._size and peer is None:
                peer = sock  # which keeps it
        elif peer is None and not isinstance(sock, socket.socket):
            peer = sock.peer
        self._peer = peer
        self._on_lost = on_lost
        self._throttle = throttle
        self._alarm = self._bounds.alarm
        self._gather_room = min(self._bounds.high_water, self._alarm, <Py_ssize_t>GATHER_ROOM)
        self._budget = budget
        self.protocol = protocol
        self._codec = framing
        if framing is not None:
            self._plain = self._codec.simple
            self._decoder = FramingDecoder(framing, max_frame=limits.max_frame)
        self._sock = sock.detach()  # the last thing that can fail: until here the caller owns it
        self._state = OPEN
        self.closed = False

    def __dealloc__(self):
        self._leave_groups()
        self._drop_output()
        free(self._times)
        if self.core is not None and self.core.gather_owner is <void*>self:
            self.core.gather_owner = NULL  # or the next connection at this address would send what is in it
        if self._sock >= 0:
            close(self._sock)  # libc's: the collector may have taken the reactor away already

    def start(self):
        """Begin: call ``connection_made`` and read.  Called once, by whoever made the connection."""
        if self._timed:
            self._last_activity = self._times.began = self.core.now()
        if type(self.protocol) is CoroutineProtocol:
            self.protocol = self.protocol.new_session(IMPLEMENTATION)
            self._find_receivers()  # now, since an eager task takes frames inside of connection_made
        try:
            self._dispatch("connection_made", (self,))
        finally:  # an exit in the callback leaves the reactor, which may run again
            if self._state == OPEN:
                self._find_receivers()
            if self._timed:
                self._check_deadlines()
            self._continue_soon()
        self._run_pending()

    # --- for the application -----------------------------------------------------------------------------------

    @cython.binding(False)  # a builtin's call is what the interpreter specializes; 20 ns less
    @cython.embedsignature(True)
    def send(self, payload, before=b"", after=b""):
        """Send one frame (without framing: bytes as they are); never blocks."""
        self._send(payload, before, after)

    cdef int _send(self, object payload, object before, object after) except -1:
        cdef Py_ssize_t size
        cdef bint alone
        cdef bytes frame
        if type(payload) is bytes and self._is_chunk(PyBytes_GET_SIZE(payload)):
            self._prepare_chunks()  # before the framing is looked at: it may run any code, and that set another one
        if type(payload) is not bytes or not self._plain or before is not b"" or after is not b"":
            frame = self._encode(payload, before, after)
            if PyBytes_GET_SIZE(frame) >= REFERENCED or self._head:
                self._prepare_chunks()
            if not self._may_put():
                return 0
            alone = not self._output()
            self._append_chunk(frame)
        else:
            size = PyBytes_GET_SIZE(payload)
            if size > self._codec.limit or <int64_t>size + self._codec.delta < 0:
                self._codec.check_payload(size)  # raises
            if not self._may_put():
                return 0
            alone = not self._output()
            self._append(<bytes>payload)
        self._frames_sent += 1
        self._flush_unless_corked(alone)
        if self._output() > self._alarm:
            self._output_high()
        return 0

    def send_many(self, payloads):
        """Send an iterable of payloads, one frame each, as :meth:`send`; one at fault and nothing was sent."""
        cdef list items = payloads if type(payloads) is list else list(payloads)
        cdef bytes frames
        cdef Py_ssize_t total
        cdef bint one_by_one, alone
        total = _plain_size(self._codec, items) if self._plain else -1
        one_by_one = total > GATHER_ROOM or (total >= REFERENCED and _has_large(items))
        if one_by_one or total < 0 or self._head:
            # What allocates or encodes may run any code, and that may change the caller's list, or the framing: so our
            # list, and from here on what that says.
            if items is payloads:
                items = list(payloads)
            if one_by_one or self._head:
                self._prepare_chunks()
            total = _plain_size(self._codec, items) if self._plain else -1
            one_by_one = total >= REFERENCED
            if one_by_one and self._chunks is None:  # a plain framing since a moment ago: as if it were none
                total = -1
        if total < 0:
            frames = b"".join(items) if self._codec is None else self._codec.encode_many(items)
            if PyBytes_GET_SIZE(frames) >= REFERENCED or self._head:
                self._prepare_chunks()
            if not self._may_put():
                return
            alone = not self._output()
            self._append_chunk(frames)
        else:
            if not self._may_put():
                return
            alone = not self._output()
            if one_by_one:
                self._append_all(items)
            elif total:  # of no frames: nothing is reserved, neither the gather nor a tail
                _write_frames(self._codec, items, self._reserve(total))
        self._frames_sent += PyList_GET_SIZE(items)
        self._flush_unless_corked(alone)
        if self._output() > self._alarm:
            self._output_high()

    def recv(self):
        """Wait for the next frame; for coroutines."""
        return self.puller().recv

    def drain(self):
        """Wait until the output is down to ``Limits.low_water``, if it was above ``high_water``; for coroutines."""
        return self.puller().drain

    def wait_closed(self):
        """Wait until the connection is closed; for coroutines.  Any number of them."""
        return self.puller().wait_closed()

    def __aiter__(self):
        return self

    def __anext__(self):
        return self.puller().following

    def __aenter__(self):
        return self.puller().entered(self)

    def __aexit__(self, kind, exc, traceback):
        return self.puller().left(kind)

    def set_protocol(self, protocol):
        """Have *protocol*'s methods called from now on; what was not delivered goes to it."""
        self._refuse_coroutines(protocol)
        if self._state != CLOSED or self.protocol is not None:
            self.protocol = protocol
            self._find_receivers_again()
            if self._pending is not None:
                left = self._pending[self._next:] or None
                if self._pending is not None:  # else closed by a collection
                    self._pending, self._next = left, 0  # another list: the running delivery ends
                    self._continue_soon()

    def set_framing(self, framing, rest=b""):
        """Decode what comes from now on as *framing* says, or not at all; what is sent is encoded so, too."""
        cdef FrameDecoder decoder = None
        cdef bytes behind
        cdef Py_ssize_t index
        cdef bint unframed = self._codec is None
        self._refuse_coroutines(self.protocol)
        behind = as_they_are(rest)
        if framing is not None:
            decoder = FramingDecoder(framing, max_frame=self._bounds.limits.max_frame)
        if self._state != OPEN:
            return
        behind += stream_of(self._codec, [] if self._pending is None else self._pending[self._next:])
        if self._decoder is not None and not isinstance(self._fault, MemoryError):
            behind += self._decoder.take_rest()
        self._codec, self._decoder = framing, decoder
        self._plain = framing is not None and self._codec.simple
        self._pending, self._undelivered = None, 0
        if self._times is not NULL:
            self._times.frame_at, self._times.frame_since = -1, INFINITY
        if isinstance(self._fault, FramingError):
            self._fault = None  # of bytes that are read anew
        self._find_receivers_again()
        if unframed and framing is not None:
            self._expect_first_frame()
        for index in range(0 if self._places is NULL else self._places.count):
            (<Membership>place_at(self._places, index).group).mixed = True
        if behind and self._fault is None:
            self._decode(<const unsigned char*>PyBytes_AS_STRING(behind), PyBytes_GET_SIZE(behind))
        elif self._bounds.frame_timeout:
            self._time_frame()
        self._await_body()
        self._continue_soon()

    cdef int _refuse_coroutines(self, object protocol) except -1:
        if self._receives == PULLED or type(protocol) is CoroutineProtocol:
            raise RuntimeError(NOT_SWITCHED)
        return 0

    cdef int _find_receivers_again(self) except -1:
        self._receiver = None
        try:
            self._look_up_receivers()
        except TypeError as exc:
            # The other of the two calls may be still to come.
            self._receive, self._receives = refuse_frames(exc), ONE
        return 0

    cdef int _expect_first_frame(self) except -1:
        """Have first_frame_timeout count for the first frame: the reads before it were none."""
        if self._bounds.first_frame_timeout:
            self._times.frames_before = self._frames_received
            if self._times.began == INFINITY:
                self._times.began = self.core.now()
            self._watch(self._times.began + self._bounds.first_frame_timeout)
        return 0

    def pause_reading(self):
        """Deliver nothing more, from this frame on, until :meth:`resume_reading`.  Idempotent.  Reactor thread only."""
        self._paused = True
        self._update_events()

    def resume_reading(self):
        """Deliver again, what was held back first, from the next turn on.  Idempotent.  Reactor thread only."""
        if self._paused:
            self._paused = False
            self._continue_soon()

    def is_reading(self):
        """Return whether frames are delivered as they come.  Any thread."""
        return self._state == OPEN and not (self._paused or self._eof)

    def write_eof(self):
        """Close the sending side once the output is flushed; receiving goes on.  Idempotent.  Reactor thread only."""
        if self._state == OPEN and not self._write_eof:
            self._write_eof = True
            self._flush_unless_corked(False)

    def close(self):
        """Close in good order: flush, send the end of the stream, wait briefly for the peer's.  Idempotent."""
        self._close(CloseReason.LOCAL, None)

    def close_for(self, reason, exc=None):
        """Close as :meth:`close` does, for a *reason* of the caller's.  Reactor thread only."""
        self._close(reason, exc)

    def abort(self):
        """Close at once, dropping the output; the peer sees a reset.  Idempotent.  Reactor thread only."""
        self._abort(CloseReason.ABORTED, None)

    def abort_for(self, reason, exc=None):
        """Close as :meth:`abort` does, for a *reason* of the caller's.  Reactor thread only."""
        self._abort(reason, exc)

    cdef int _abort(self, object reason, object exc) except -1:
        cdef linger reset
        if self._state != CLOSED:
            reset.l_onoff, reset.l_linger = 1, 0
            self.core.sys.setsockopt(self._sock, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset))
            self._end(reason, exc)
        return 0

    def is_closing(self):
        """Return whether the connection is closing or closed.  Any thread."""
        return self._state != OPEN

    @property
    def state(self):
        """Where the connection is in its life: ``"open"``, ``"flushing"``, ``"lingering"`` or ``"closed"``."""
        return STATES[self._state]

    @property
    def framing(self):
        """The wire format; None: bytes as they come.  See :meth:`set_framing`."""
        return self._codec

    @property
    def peer(self):
        """The peer's address; None when it has none.  Any thread."""
        cdef sockaddr_in v4
        if type(self._peer) is Accepted:
            self._peer = self._peer.peer
        elif self._peer is None:
            if self._peer_host:
                v4.sin_port, v4.sin_addr.s_addr = self._peer_port, self._peer_host
                self._peer = _address_from(<unsigned char*>&v4, sizeof(v4))
            else:
                self._peer = self._ask(peer_address) or self._peer  # which the end may have set meanwhile
        return self._peer

    @property
    def local(self):
        """This side's address; None once closed.  Any thread."""
        return self._ask(local_address)

    @property
    def stats(self):
        """Counters, as :class:`ConnectionStats`.  Any thread."""
        paused = int(self._state == OPEN and self._held())
        sent = (self._frames_sent, self._bytes_sent, self._output())
        return ConnectionStats(self._frames_received, self._bytes_received, *sent, self._input(), paused)

    @property
    def tls(self):
        """What TLS has agreed on, :class:`evloop.tls.TlsInfo`; None without TLS."""
        return None

    def fileno(self):
        """Return the socket's fd, or -1 once closed.  Any thread."""
        return self._sock

    def __repr__(self):
        return describe(STATES[self._state], self.close_reason, self.peer, self._output())

    # --- input -------------------------------------------------------------------------------------------------

    cdef int _look_up_receivers(self) except -1:
        if type(self.protocol) is FunctionProtocol:
            self._receive, self._receives = self.protocol.handler, FUNCTION
            return 0
        if isinstance(self.protocol, Puller):
            self._receive, self._receives, self._pull_room = self.protocol, PULLED, <int>MOST_FRAMES
            return 0
        many, one = find_receivers(self.protocol, self._codec is not None)
        method, self._receives = (one, ONE) if many is None else (many, MANY)
        # A bound method would be an object a connection, and is taken apart again in each call.
        if type(method) is MethodType and method.__self__ is self.protocol:
            self._receive, self._receiver = method.__func__, self.protocol
        else:
            self._receive = method
        return 0

    cdef int _find_receivers(self) except -1:
        self._receiver = None
        try:
            self._look_up_receivers()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._close(CloseReason.HANDLER, exc)
        return 0

    def on_readable(self):
        """Take what has arrived, at most one shared buffer, and deliver it."""
        self.readable()

    cdef int run(self) except -1:
        if self._revents != EVENT_READ or self.closed:
            return Endpoint.run(self)
        self.queued = False
        self._revents = 0
        # A jump, as on the rest of a message's way, and no call whose result is looked at: see docs/adr/0019.
        return (<int (*)(Connection) noexcept>Connection.readable)(self)

    cdef int readable(self) except -1:
        cdef Py_ssize_t size, lacking
        cdef unsigned char* buffer
        cdef PyObject* frame
        if self._state != OPEN:
            return self._discard()
        if self._decoder is not None and (self._decoder._state or self._decoder._expected):
            lacking = self._decoder.lacking()
            if lacking >= IN_PLACE and (self._decoder._body is not NULL or self._unread):
                return self._read_in_place(lacking)
            lacking = self._decoder.guessed()
            if lacking:
                if self._is_awaited(lacking):
                    return self._read_header()
                return (<int (*)(Connection, Py_ssize_t) noexcept>Connection._read_guess)(self, lacking)
        buffer = self.core._recv_memory if self.core._recv_memory is not NULL else self.core.receive_memory()
        size = self.core.sys.recv(self._sock, buffer, READ_SIZE, 0)
        if size > 0:
            self._received(size)
            if self._takes_one():
                frame = self._decoder.feed_one(buffer, size)
                if frame is not NULL:
                    return (<int (*)(Connection, PyObject*) noexcept>Connection._dispatch_one)(self, frame)
            self._decode(buffer, size)
            self._await_body()
        elif size == 0:
            self._eof = True
        elif _would_block(errno):
            return 0
        else:
            return self._failed_io(_os_error(errno))
        return self._run_pending()

    cdef void prefetch(self) noexcept:
        evl_prefetch(<void*>self._decoder, DECODER_AHEAD)

    cdef int hung_up(self) except -1:
        # Paused, so there is nothing to be done: resume_reading has the kernel tell it again.
        return 0

    cdef int _decode(self, const unsigned char* data, Py_ssize_t size) except -1:
        # A reference of our own: the decoder allocates, which may run a collection, and a destructor may abort this
        # connection, which lets go of its decoder.
        cdef FrameDecoder decoder = self._decoder
        cdef list items
        cdef int64_t start
        if self._state != OPEN:  # ended by what ran meanwhile
            return 0
        if self._pending is None:
            self._undelivered = 0
        if decoder is None:
            try:
                items = [(<const char*>data)[:size]]
            except MemoryError as exc:
                self._fault = exc
                return 0
            self._undelivered += size
        else:
            start = decoder._position
            try:
                items = decoder.feed_pointer(data, size, None, ALL)
            except (FramingError, MemoryError) as exc:
                # Nothing that was accepted is lost: the frames before the fault are delivered first.
                items = list(getattr(exc, "frames", ()))
                self._fault = exc
                if type(exc) is MemoryError:
                    exc.frames = ()  # the interpreter may raise this very object again, for another stream
            self._undelivered += decoder._position - start
            if self._bounds.frame_timeout:
                self._time_frame()
        return self._add_pending(items)

    cdef Py_ssize_t _input(self) noexcept:
        """Return the bytes that were received and not delivered: of the unfinished frame, and of whole ones."""
        cdef Py_ssize_t held = 0 if self._decoder is None else self._decoder.held()
        if self._pending is not None and self._next < PyList_GET_SIZE(self._pending):
            held += self._undelivered
        return held

    cdef int _received(self, Py_ssize_t size) except -1:
        self._bytes_received += size
        if self._timed:
            self._last_activity = self.core.turn_time
        return 0

    cdef int _read_in_place(self, Py_ssize_t lacking) except -1:
        """Receive the rest of a large body where it will stay, and what follows it into the shared buffer."""
        cdef iovec parts[2]
        cdef Py_ssize_t size, body
        cdef unsigned char* buffer = self.core.receive_memory()
        try:
            parts[0].iov_base = self._decoder.body_tail(self._unread, &body)
        except MemoryError as exc:
            self._fault = exc
            return self._run_pending()
        body = min(body, BODY_SIZE)
        parts[0].iov_len = body
        parts[1].iov_base = buffer
        parts[1].iov_len = max(READ_SIZE - body, 0)
        # Behind a body that is not whole yet there is nothing to be had.
        size = self.core.sys.readv(self._sock, parts, 2 if body == lacking and body < READ_SIZE else 1)
        if size < 0:
            return 0 if _would_block(errno) else self._failed_io(_os_error(errno))
        if size == 0:
            self._eof = True
            return self._run_pending()
        self._received(size)
        self._decoder.received_in_place(min(size, body))
        self._decode(buffer, max(size - body, 0))
        self._await_body()
        return self._run_pending()

    cdef int _read_header(self) except -1:
        """Receive the header of what is probably a large frame, and leave the body until more of it has come.

        Each connection that has begun a body holds memory for it: four of a mebibyte are more than a processor has at
        hand, and one after another they can have the same.
        """
        cdef unsigned char[8] header
        cdef Py_ssize_t size = self.core.sys.recv(self._sock, header, self._codec.header_size, 0)
        if size < 0:
            return 0 if _would_block(errno) else self._failed_io(_os_error(errno))
        if size == 0:
            self._eof = True
        else:
            self._received(size)
            self._decode(header, size)
            self._await_body()
        return self._run_pending()

    cdef int _await_body(self) except -1:
        """Have the kernel say that there is something to read when the rest of a large body has come, and not a part.

        SO_RCVLOWAT, socket(7).  The end of the stream and an error are told at once, and so is a window that is full.
        A UNIX socket takes the option and says so with every part; then it is as without.
        """
        cdef Py_ssize_t lacking = 0
        if self._state != OPEN:
            return 0
        if self._decoder is not None:
            lacking = self._decoder.lacking()
        return self._wait_for(<int>lacking if self._is_awaited(lacking) else 0)

    cdef inline bint _is_awaited(self, Py_ssize_t lacking) noexcept:
        # Where all memory is counted together, what comes has to be counted as it comes.
        return AWAITED <= lacking <= BODY_SIZE and self._budget is None

    cdef int _wait_for(self, int size) except -1:
        if size != self._unread and \
                self.core.sys.setsockopt(self._sock, SOL_SOCKET, SO_RCVLOWAT, &size, sizeof(size)) == 0:
            self._unread = size
        return 0

    cdef int _read_guess(self, Py_ssize_t body) except -1:
        """Receive what is probably a frame like the last one, into its final place.

        What follows it stays in the kernel for the next turn: if that is such a frame too, it needs no copy either.
        """
        cdef unsigned char* start = self._decoder.guess()
        cdef Py_ssize_t size
        cdef PyObject* frame
        if start is NULL:
            return self._guess_failed()
        size = self.core.sys.recv(self._sock, start, min(self._codec.header_size + body, READ_SIZE), 0)
        if size == self._codec.header_size + body and self._takes_one():
            frame = self._decoder.take_guess()
            if frame is not NULL:
                self._received(size)
                return (<int (*)(Connection, PyObject*) noexcept>Connection._dispatch_one)(self, frame)
        return self._received_part(start, size, errno)

    cdef int _guess_failed(self) except -1:
        try:
            _raised()
        except MemoryError as exc:
            self._fault = exc
        return self._run_pending()

    cdef int _received_part(self, unsigned char* start, Py_ssize_t size, int error) except -1:
        """Go on behind a read into a guessed place that did not bring just the frame that was expected."""
        cdef bytes received
        try:
            received = self._decoder.received_guess(size)
        except MemoryError as exc:
            self._fault = exc
            return self._run_pending()
        if size < 0:
            return 0 if _would_block(error) else self._failed_io(_os_error(error))
        if size == 0:
            self._eof = True
            return self._run_pending()
        self._received(size)
        if received is not None:
            self._decode(<const unsigned char*>PyBytes_AS_STRING(received), PyBytes_GET_SIZE(received))
            return self._run_pending()
        self._decode(start, 0)  # delivers it, if it is whole
        self._await_body()
        return self._run_pending()

    cdef int _add_pending(self, list items) except -1:
        if self._pending is None:
            if items:
                self._pending, self._next = items, 0
        else:
            self._pending += items
        return 0

    cdef int _run_pending(self) except -1:
        """Deliver what is decoded, then what follows it in the stream, then look for more."""
        cdef bint whole = False
        try:
            if self._state == OPEN and self._pending is not None and not self._held():
                self._dispatch_pending()
            if self._state == OPEN and self._pending is None and not self._paused:
                if self._fault is not None:
                    self._refuse(self._fault)
                elif self._eof and not self._eof_told:
                    self._peer_closed()
            whole = True
        finally:
            if not whole:
                self._continue_soon()  # a callback ends the run, and the reactor may run again
        self._update_events()
        return self._account()

    cdef bint _held(self) noexcept:
        return self._paused or (self._full and self._throttle)

    cdef int _continue_soon(self) except -1:
        if not self._scheduled:
            self._scheduled = True
            self.core.check_usable()
            self.core.schedule(self._continue, (), None)
        return 0

    def _continue(self):
        self._scheduled = False
        if self._full and self._output() <= self._bounds.low_water:
            self._full = False
            if self._state == OPEN:
                self._dispatch("resume_writing", ())
        self._run_pending()

    cdef int _dispatch_pending(self) except -1:
        """What _dispatch does, around the one callback that comes with every message."""
        cdef bint outer = self.core.dispatching, corked = self._corked
        self.core.dispatching = self._corked = True
        # Without a try statement; see _called_back.
        return self._called_back((<int (*)(Connection) noexcept>_deliver_to)(self), outer, corked)

    cdef inline bint _takes_one(self) noexcept:
        """Return whether a frame that is all that was read may go to its receiver at once."""
        return self._plain and self._pending is None and not (self._paused | self._full) and (
            self._receives != PULLED or (<Puller>self._receive).waits == FRAME)

    cdef int _dispatch_one(self, PyObject* frame) except -1:
        """What _run_pending does when a read was just one frame, which is what it is when peers wait for answers.

        The reference to the frame is given.
        """
        cdef bint outer = self.core.dispatching, corked = self._corked
        cdef PyObject* receive
        cdef int result
        if self._timed and self._bounds.frame_timeout:
            self._time_frame()
            if self._state != OPEN:  # closed by a collection
                Py_DECREF(frame)
                return 0
        self.core.dispatching = self._corked = True
        self._frames_received += 1
        if self._receives == FUNCTION:
            receive = <PyObject*>self._receive
            Py_INCREF(receive)  # set_protocol() may let go of it meanwhile
            result = evl_call(receive, <PyObject*>self, frame)
            Py_DECREF(receive)
        else:
            result = (<int (*)(Connection, PyObject*) noexcept>_deliver_one_to)(self, frame)
        give_back(frame)
        return (<int (*)(Connection, int, bint, bint) noexcept>Connection._called_back)(self, result, outer, corked)

    cdef inline int _called_back(self, int result, bint outer, bint corked) except -1:
        """Look after what a callback has left: an exception, if *result* is -1, and what it has sent.

        Not as the clauses of a try statement, which begins by saving the caller's exception: 40 instructions.
        """
        if result < 0:
            return self._callback_failed(outer, corked)
        self._corked = corked
        self.core.dispatching = outer
        return 0 if corked else (<int (*)(Connection) noexcept>Connection._flush_answers)(self)

    cdef int _callback_failed(self, bint outer, bint corked) except -1:
        try:
            _raised()
        except (SystemExit, KeyboardInterrupt):
            self._continue_soon()
            raise
        except BaseException as exc:
            self._close(CloseReason.HANDLER, exc)
        finally:
            self._corked = corked
            self.core.dispatching = outer
            if not corked:
                self.flush_output()
        return 0

    cdef int _deliver_pending(self) except -1:
        cdef list frames = self._pending
        cdef object receive = self._receive, receiver = self._receiver
        cdef PyObject* first = <PyObject*>self if self._receives == FUNCTION else _or_null(receiver)
        cdef PyObject* frame
        cdef Py_ssize_t left, index
        cdef bint failed
        if self._receives == PULLED:
            self._pull_room, self._delivering = <int>MOST_FRAMES, True
            try:
                return (<Puller>receive).frames_ready()
            finally:
                self._delivering = False
        if self._receives == MANY:
            self._pending = None
            if self._next:
                del frames[:self._next]
            left = PyList_GET_SIZE(frames)
            self._frames_received += left
            if evl_call(<PyObject*>receive, first, <PyObject*>frames) < 0:
                return _raised()
            if Py_REFCNT(frames) == 1:  # nobody kept the list
                give_items(frames)
            return 0
        left = min(PyList_GET_SIZE(frames) - self._next, MOST_FRAMES)
        # Asked again for each: a callback that calls on_readable() has delivered some of them itself.
        while left > 0 and self._pending is frames and self._next < PyList_GET_SIZE(frames):
            left -= 1
            index = self._next
            # Counted, and taken out, before the call: an exit in it must not have the frame delivered again.
            self._next += 1
            self._frames_received += 1
            frame = PyList_GET_ITEM(<PyObject*>frames, index)
            Py_INCREF(<PyObject*>None)
            PyList_SET_ITEM(<PyObject*>frames, index, <PyObject*>None)
            failed = evl_call(<PyObject*>receive, first, frame) < 0
            give_back(frame)
            if failed:
                return _raised()
            if (self._state | self._paused | self._full) and (self._state != OPEN or self._held()):
                break
        if self._pending is not frames:  # closed meanwhile
            return 0
        if self._next == PyList_GET_SIZE(frames):
            self._pending = None
        else:
            del frames[:self._next]  # the delivered ones are not kept for the sake of the others
            self._next = 0
            if self._state == OPEN and not self._held():
                self._continue_soon()
        return 0

    cdef PyObject* _take_frame(self) except? NULL:
        """Give away the next frame; NULL without an exception if there is none to be had now."""
        cdef list frames = self._pending
        cdef PyObject* frame
        if frames is None or self._state != OPEN or self._held():
            return NULL
        if self._pull_room <= 0:
            # A coroutine that takes without ever having to wait would keep the others waiting.
            self._pull_room = <int>MOST_FRAMES
            self._continue_soon()
            return NULL
        self._pull_room -= 1
        self._frames_received += 1
        frame = PyList_GET_ITEM(<PyObject*>frames, self._next)  # the list's reference becomes the caller's
        Py_INCREF(<PyObject*>None)
        PyList_SET_ITEM(<PyObject*>frames, self._next, <PyObject*>None)
        self._next += 1
        if self._next == PyList_GET_SIZE(frames):
            self._pending = None
            if not self._delivering:
                self._continue_soon()  # to read on, or to tell what came behind it
        return frame

    cdef Puller puller(self):
        if self._receives != PULLED:
            raise RuntimeError(NOT_PULLED)
        return <Puller>self._receive

    cdef int _peer_closed(self) except -1:
        """The peer's end of the stream, with everything before it delivered."""
        if self._broken is not None:
            return self._failed_io(self._broken)
        if self._decoder is not None:
            try:
                self._decoder.eof()
            except TruncatedFrame as exc:
                return self._close(CloseReason.TRUNCATED, exc)
        keep_open = self._dispatch("eof_received", ())
        self._eof_told = True
        if not keep_open:
            self._close(CloseReason.PEER, None)
        return 0

    cdef int _discard(self) except -1:
        """Read and drop, so that the kernel has nothing to answer with a reset; end with the peer's end."""
        cdef Py_ssize_t size = self.core.sys.recv(self._sock, self.core.receive_memory(), READ_SIZE, 0)
        if size < 0:
            return 0 if _would_block(errno) else self._end(None, None)
        self._unread += size
        if size == 0 or self._unread > MOST_DISCARDED:
            self._end(None, None)
        return 0

    # --- output ------------------------------------------------------------------------------------------------

    def _encode(self, payload, before, after):
        return as_they_are(payload, before, after) if self._codec is None else \
            self._codec.encode(payload, before, after)

    # What belongs to groups: the twin of _connection_share.py.

    cdef Py_ssize_t place_in(self, Membership group) noexcept:
        cdef Py_ssize_t index
        # Twenty groups are many, and a search through as many is a cache line or five.
        for index in range(0 if self._places is NULL else self._places.count):
            if place_at(self._places, index).group is <void*>group:
                return index
        return -1

    cdef int join(self, Membership group, Py_ssize_t index) except -1:
        cdef Places* places = self._places
        cdef Py_ssize_t count = 0 if places is NULL else places.count, room
        if places is NULL or count == places.room:
            room = max(2 * count, <Py_ssize_t>FIRST_PLACES)
            places = <Places*>realloc(places, sizeof(Places) + room * sizeof(Place))
            if places is NULL:
                raise MemoryError
            places.room = room
            self._places = places
        places.count = count + 1
        place_at(places, count).group = <void*>group
        place_at(places, count).index = index
        return 0

    cdef void leave(self, Py_ssize_t place) noexcept:
        cdef Places* places = self._places
        cdef Place* last
        places.count -= 1
        if places.count == 0:
            self._places = NULL
            free(places)
        elif place != places.count:
            last = place_at(places, places.count)
            place_at(places, place)[0] = last[0]
            (<Membership>last.group).moved(last.index, place)

    cdef void _leave_groups(self) noexcept:
        cdef Places* places = self._places
        cdef Py_ssize_t index
        self._places = NULL
        for index in range(0 if places is NULL else places.count):
            (<Membership>place_at(places, index).group).left(place_at(places, index).index)
        free(places)

    cdef bint takes_shared(self) noexcept:
        """Tell whether what a group sends goes anywhere."""
        return self._state == OPEN and self._broken is None and not self._write_eof

    cdef int share(self, bytes data, Py_ssize_t frames) except -1:
        """Add the frames of a group, and have them flushed before the next wait; runs nobody's code."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        if size >= REFERENCED or self._head:
            self._prepare_chunks()
        if not self.takes_shared():
            return PASSED
        if size >= REFERENCED:
            self._append_chunk(data)
        elif self._output() or self._corked:
            if size:
                memcpy(self._reserve(size), PyBytes_AS_STRING(data), size)
        elif size:
            self._single, self._waiting = data, size
        self._frames_sent += frames
        if self.wanted & EVENT_WRITE:
            return MIND
        if not self._corked:
            self.core.flush_later(self)
        return MIND if self._output() > min(self._bounds.high_water, self._alarm) else SHARED

    def _mind_output(self):
        """Keep the bounds of the output, as :meth:`send` does behind what it adds."""
        if self._corked or self.wanted & EVENT_WRITE:
            self._flush_unless_corked(False)
        if self._output() > self._alarm:
            self._output_high()

    cdef bint _may_put(self) except -1:
        """Tell whether what is sent now goes anywhere."""
        if self._write_eof:
            self.core.check_closed()  # in a forked child, that is why
            raise RuntimeError("send() after write_eof()")
        return self._state == OPEN and self._broken is None

    cdef int _prepare_chunks(self) except -1:
        """Have the list that chunks are appended to; before _may_put, which is then the last word.

        To make one may run a collection, and that any code: close() between a header and its payload, for example.
        """
        cdef list chunks
        if self._chunks is None:
            chunks = []
            if self._chunks is None:
                self._chunks = chunks
        if self._head:
            self._queue_single()
        return 0

    cdef inline bint _goes_alone(self) noexcept:
        """Tell whether a large answer would be all that waits, and have room for its header in front of itself."""
        return not self._waiting and self.core.gather_owner is not <void*>self and \
            <size_t>self._codec.size <= EVL_FRONT

    cdef inline bint _is_chunk(self, Py_ssize_t size) noexcept:
        """Tell whether to append a payload of *size* bytes takes the list of chunks; see _append."""
        return self._head or (size >= REFERENCED and not (self._plain and self._goes_alone()))

    cdef int _append(self, bytes payload) except -1:
        """Add the frame of a payload whose size was checked, with a header that is the length field alone."""
        cdef Codec codec = self._codec
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
        cdef Py_ssize_t head = codec.size
        cdef bint copied = size < REFERENCED
        cdef unsigned char* out
        if not copied and self._goes_alone():
            # An answer alone, as most large ones are: a list of its header and itself would be 550 instructions more.
            evl_store(<unsigned char*>&self._first, codec.order, <uint64_t>(<int64_t>size + codec.delta))
            self._single, self._head = payload, <unsigned char>head
            self._waiting = head + size
            return 0
        out = self._reserve(head + size if copied else head)
        evl_store(out, codec.order, <uint64_t>(<int64_t>size + codec.delta))
        if copied:
            evl_move(out + head, <const unsigned char*>PyBytes_AS_STRING(payload), size)
            return 0
        try:
            return self._append_chunk(payload)
        except MemoryError as exc:
            self._end(CloseReason.ERROR, exc)  # its header is accepted: without it the stream is torn
            raise

    cdef int _append_all(self, list payloads) except -1:
        """Add the frames of payloads whose sizes were checked, large ones among them."""
        cdef Py_ssize_t index = 0
        try:
            while index < PyList_GET_SIZE(payloads):
                self._append(<bytes>PyList_GET_ITEM(<PyObject*>payloads, index))
                index += 1
        except MemoryError as exc:
            if index:
                self._end(CloseReason.ERROR, exc)  # some of what is whole or nothing is accepted
            raise
        return 0

    cdef int _append_chunk(self, bytes chunk) except -1:
        """Add bytes as they are: a copy if there are few, else a reference."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(chunk)
        if size < REFERENCED:
            if size:
                memcpy(self._reserve(size), PyBytes_AS_STRING(chunk), size)
            return 0
        if self.core.gather_owner is <void*>self:
            self._spill()
        if self._single is not None:
            self._queue_single()
        self._tail_to_chunk()
        self._chunks.append(chunk)
        self._waiting += size
        return 0

    cdef unsigned char* _reserve(self, Py_ssize_t size) except NULL:
        """Return where *size* bytes of output are to be written, at once: in the gather if it may be ours."""
        cdef Core core = self.core
        cdef unsigned char* out
        if core.gather_owner is <void*>self:
            if core.gathered + size <= GATHER_ROOM:
                out = core.gather + core.gathered
                core.gathered += size
                return out
            self._spill()
        elif core.gather_owner is NULL and not self._waiting and size <= GATHER_ROOM and (
                self._corked or not (core.dispatching or self.wanted & EVENT_WRITE)):  # whose flush is at hand
            out = core.gather_memory()
            core.gather_owner = <void*>self
            core.gathered = size
            return out
        if self._single is not None:
            self._queue_single()
        return self._reserve_tail(size)

    cdef unsigned char* _reserve_tail(self, Py_ssize_t size) except NULL:
        cdef Tail* tail = self._tail
        cdef unsigned char* out
        if tail is NULL:
            tail = self._enlarge_tail(max(size, <Py_ssize_t>FIRST_TAIL))
            tail.start = tail.end = 0
        elif tail.room - tail.end < size:
            if tail.start:
                memmove(tail_bytes(tail), tail_bytes(tail) + tail.start, tail.end - tail.start)
                tail.start, tail.end = 0, tail.end - tail.start
            if tail.room - tail.end < size:
                tail = self._enlarge_tail(max(tail.end + size, 2 * tail.room))
        out = tail_bytes(tail) + tail.end
        tail.end += size
        self._waiting += size
        return out

    cdef Tail* _enlarge_tail(self, Py_ssize_t room) except NULL:
        cdef Tail* tail = <Tail*>realloc(self._tail, sizeof(Tail) + room)
        if tail is NULL:
            raise MemoryError
        tail.room = room
        self._tail = tail
        return tail

    cdef int _spill(self) except -1:
        """Move what lies in the gather to this connection's own tail."""
        cdef Core core = self.core
        core.gather_owner = NULL  # first: whatever happens below, nobody else may find it taken
        try:
            memcpy(self._reserve_tail(core.gathered), core.gather, core.gathered)
        except MemoryError as exc:
            self._end(CloseReason.ERROR, exc)  # accepted output is lost, and with it the stream
            raise
        return 0

    cdef int _queue_single(self) except -1:
        """Put what is left of the one thing that waits where more can follow it.

        What a group has sent is copied to this connection's own tail; a large answer becomes the first chunk, for
        which _prepare_chunks has made the list.
        """
        cdef bytes data = self._single
        cdef Py_ssize_t left = PyBytes_GET_SIZE(data) - self._offset
        if not self._head:
            memcpy(self._reserve_tail(left), PyBytes_AS_STRING(data) + self._offset, left)
            self._waiting -= left  # it has been counted
            self._offset = 0
        else:
            # The list was empty: its first append makes room for both, or fails before anything has changed.
            if self._offset < self._head:
                self._chunks.append((<const char*>&self._first)[:self._head])
                self._chunks.append(data)
            else:
                self._chunks.append(data)
                self._offset -= self._head
            self._first = self._head = 0
        self._single = None
        return 0

    cdef int _tail_to_chunk(self) except -1:
        """Put the tail behind the chunks, so that another chunk can follow."""
        cdef Py_ssize_t size = self._in_tail()
        if size:
            self._chunks.append((<const char*>tail_bytes(self._tail) + self._tail.start)[:size])
            self._tail.start = self._tail.end = 0
        return 0

    cdef inline Py_ssize_t _in_tail(self) noexcept:
        return 0 if self._tail is NULL else self._tail.end - self._tail.start

    cdef Py_ssize_t _output(self) noexcept:
        """Return the bytes that wait for the kernel to take them."""
        return self._waiting + (self.core.gathered if self.core.gather_owner is <void*>self else 0)

    cdef int _flush_unless_corked(self, bint alone) except -1:
        """Write now; or when the callback returns, if this connection's, or before the next wait, if another's.

        *alone*: what waits was sent by one call.  If that answers the last frame that has arrived, probably nothing
        follows, and it leaves when the callback returns, however large it is.  Not so with a coroutine: that may ask
        with drain() what has left.
        """
        if self._corked or self.wanted & EVENT_WRITE:
            # Held back, but not without a bound; and a kernel that has refused some says when there is room.
            if self._output() > self._bounds.high_water and not self._full:
                if not (alone and self._corked and self._receives != PULLED and (
                        self._pending is None or self._next == len(self._pending))):
                    self._send_some()
            return 0 if self._corked else self._account()
        if self.core.dispatching:
            return self.core.flush_later(self)
        return self.flush_output()

    def on_writable(self):
        """Write on: the kernel has room again."""
        self.flush_output()

    cdef int writable(self) except -1:
        return self.flush_output()

    def flush(self):
        """Write what the kernel takes, then see what that changes."""
        self.flush_output()

    cdef int flush_output(self) except -1:
        if self._state == CLOSED or self._state == LINGERING:
            return 0
        if self._single is not None and self._is_plain() and not self._bounds.soft_output:
            return self._flush_single()
        self._send_some()
        return self._flushed()

    cdef inline bint _is_plain(self) noexcept:
        """Tell whether nothing but reading goes on here, and so a flush of all that waits changes nothing else.

        What a callback has changed of what is read is in `wanted` already, or in `_scheduled`: to look after it is for
        the turn that was asked for then.  The budget, if there is one, has been told of nothing that would be gone.
        """
        return not (self._state | self._full | self._write_eof | self._scheduled) and self.wanted == EVENT_READ and \
            self._pending is None and not self._accounted and self._room_in_turn() > 0

    cdef int _flush_single(self) except -1:
        """Do what flush_output does for one thing alone: in one step where the kernel takes all that there is.

        It is so with nearly all that is sent to many.
        """
        cdef int64_t before = self._bytes_sent
        self._send_single()
        # A callback that has sent more than high_water may have been left with output that waits since then.
        if self._bounds.write_timeout and (self._waiting or self._times.stalled_since != INFINITY):
            self._time_output(self._bytes_sent - before)
        if not self._waiting and self._broken is None:
            return 0
        self._keep_water_marks()
        return self._flushed()

    cdef int _flushed(self) except -1:
        if not self._output() and not self.closed:
            if self._state == FLUSHING:
                self._linger()
            elif self._write_eof and self._broken is None:
                self._shutdown()
        self._update_events()
        return self._account()

    cdef int _flush_answers(self) except -1:
        """Do what flush_output does, behind a callback: in one step where there is nothing to it but one small send.

        It is so for nearly all answers; 40 instructions, and not 170.
        """
        cdef Py_ssize_t size, sent
        if self._bounds.minds_output or not self._is_plain():
            return self.flush_output()
        if self.core.gather_owner is not <void*>self:
            if self._single is not None:
                return (<int (*)(Connection) noexcept>Connection._flush_single)(self)
            return self.flush_output() if self._waiting else 0
        size = self.core.gathered
        sent = self.core.sys.send(self._sock, self.core.gather, size, MSG_NOSIGNAL)
        if sent == size:
            self.core.gather_owner = NULL
            return self._sent(size)
        self._gathered_in_part(sent)
        self._keep_water_marks()
        return self._flushed()

    cdef int _send_some(self) except -1:
        """Hand the kernel one send's worth, and see to the water marks."""
        cdef int64_t before = self._bytes_sent
        if self._broken is None and self._output():
            if self._room_in_turn() <= 0:
                if self.core.gather_owner is <void*>self:
                    self._spill()
            else:
                if self.core.gather_owner is <void*>self:
                    self._send_gathered()
                else:
                    self._send_waiting()
                if self._bounds.write_timeout:
                    self._time_output(self._bytes_sent - before)
        return self._keep_water_marks()

    cdef Py_ssize_t _room_in_turn(self) noexcept:
        """Return how many bytes may still be written in this turn."""
        if self._send_turn != <int>self.core._turns:
            self._send_turn = <int>self.core._turns
            self._send_room = WRITE_SIZE
        return self._send_room

    cdef int _send_gathered(self) except -1:
        cdef Py_ssize_t size = self.core.gathered, sent
        sent = self.core.sys.send(self._sock, self.core.gather, size, MSG_NOSIGNAL)
        if sent == size:
            self.core.gather_owner = NULL
            return self._sent(sent)
        return self._gathered_in_part(sent)

    cdef int _gathered_in_part(self, Py_ssize_t sent) except -1:
        """Keep what send(2) has left of the gather; -1 and errno is what it says where it took nothing."""
        cdef Core core = self.core
        cdef Py_ssize_t size = core.gathered
        if sent >= 0 or _would_block(errno):
            if sent > 0:
                self._sent(sent)
                core.gathered = size - sent
                memmove(core.gather, core.gather + sent, size - sent)
            return self._spill()
        core.gather_owner = NULL
        return self._write_failed(errno)

    cdef int _send_waiting(self) except -1:
        """Send the chunks and the tail, as much as one call and one turn may."""
        cdef iovec parts[PARTS]
        cdef msghdr message
        cdef Py_ssize_t left = self._send_room, index = self._first, offset = self._offset, size, sent
        cdef int count = 0
        cdef PyObject* chunk
        if self._single is not None:
            return (<int (*)(Connection) noexcept>Connection._send_single)(self)
        if self._chunks is not None:
            while count < PARTS - 1 and left > 0 and index < PyList_GET_SIZE(self._chunks):
                chunk = PyList_GET_ITEM(<PyObject*>self._chunks, index)
                size = min(PyBytes_GET_SIZE(<object>chunk) - offset, left)
                parts[count].iov_base = PyBytes_AS_STRING(<object>chunk) + offset
                parts[count].iov_len = size
                left -= size
                count += 1
                index += 1
                offset = 0
        # The tail comes last, and only if every chunk is in.
        size = min(self._in_tail(), left)
        if size > 0 and (self._chunks is None or index == PyList_GET_SIZE(self._chunks)):
            parts[count].iov_base = tail_bytes(self._tail) + self._tail.start
            parts[count].iov_len = size
            count += 1
        if count == 1:
            sent = self.core.sys.send(self._sock, parts[0].iov_base, parts[0].iov_len, MSG_NOSIGNAL)
        else:
            memset(&message, 0, sizeof(message))
            message.msg_iov = parts
            message.msg_iovlen = count
            sent = self.core.sys.sendmsg(self._sock, &message, MSG_NOSIGNAL)
        if sent < 0:
            return 0 if _would_block(errno) else self._write_failed(errno)
        self._waiting -= sent
        self._sent(sent)
        return self._forget_sent(sent)

    cdef inline int _send_single(self) except -1:
        """Send the one thing that waits from where it is."""
        cdef Py_ssize_t offset = self._offset, size = min(self._waiting, <Py_ssize_t>self._send_room), sent
        cdef unsigned char* data = <unsigned char*>PyBytes_AS_STRING(self._single)
        if offset < self._head:
            sent = self._send_joined(data, offset, size)
        else:
            sent = self.core.sys.send(self._sock, data + offset - self._head, size, MSG_NOSIGNAL)
        if sent < 0:
            return 0 if _would_block(errno) else self._write_failed(errno)
        self._sent(sent)
        self._waiting -= sent
        if self._waiting:
            self._offset += sent
        else:
            self._drop_single()
        return 0

    cdef Py_ssize_t _send_joined(self, unsigned char* data, Py_ssize_t offset, Py_ssize_t size) noexcept:
        """Send the header and a bytes object's data behind it as one piece, the header where that has its hash."""
        cdef unsigned char[8] hash
        cdef unsigned char* front = data - EVL_FRONT
        cdef Py_ssize_t sent
        memcpy(hash, front, EVL_FRONT)
        memcpy(data - self._head, &self._first, self._head)
        sent = self.core.sys.send(self._sock, data - self._head + offset, size, MSG_NOSIGNAL)
        memcpy(front, hash, EVL_FRONT)
        return sent

    cdef void _drop_single(self) noexcept:
        cdef PyObject* single = <PyObject*>self._single
        self._first = self._offset = self._head = 0
        Py_INCREF(single)
        self._single = None
        give_back(single)

    cdef int _forget_sent(self, Py_ssize_t sent) except -1:
        """Let go of what the kernel has taken."""
        cdef Py_ssize_t size, count
        if self._waiting == 0:
            self._drop_output()
            return 0
        if self._chunks is not None:
            count = PyList_GET_SIZE(self._chunks)
            while self._first < count:
                size = PyBytes_GET_SIZE(<object>PyList_GET_ITEM(<PyObject*>self._chunks, self._first)) - self._offset
                if sent < size:
                    self._offset += sent
                    sent = 0
                    break
                sent -= size
                give_large(self._chunks, self._first)
                self._chunks[self._first] = None  # the bytes go now, the places in one step
                self._first += 1
                self._offset = 0
            if self._first == count:
                self._chunks, self._first = None, 0
            elif self._first > 64 and 2 * self._first > count:
                del self._chunks[:self._first]
                self._first = 0
        if sent:  # of the tail, since every chunk is gone
            self._tail.start += sent
        return 0

    cdef int _sent(self, Py_ssize_t size) except -1:
        self._bytes_sent += size
        self._send_room -= size
        if self._timed and (self._bounds.idle_timeout or self._state != OPEN):  # nobody else asks when that was
            self._last_activity = self.core.now()
        return 0

    cdef void _drop_output(self) noexcept:
        cdef Py_ssize_t index
        if self._single is not None:
            self._drop_single()
        if self._chunks is not None:
            for index in range(self._first, PyList_GET_SIZE(self._chunks)):
                give_large(self._chunks, index)
            self._chunks = None
        self._first = self._offset = 0
        free(self._tail)
        self._tail = NULL
        self._waiting = 0

    cdef int _output_high(self) except -1:
        """The output has passed one of its bounds: what counts is what the kernel does not take."""
        cdef Py_ssize_t left = self._output() + 1
        while self._alarm < self._output() < left:
            left = self._output()
            self._send_room = WRITE_SIZE  # that it was this connection's turn for long does not make its peer slow
            self._send_turn = <int>self.core._turns
            self._send_some()
        left = self._output()
        if self._state != OPEN or left <= self._alarm:
            return 0
        if self._bounds.max_output and left > self._bounds.max_output:
            return self._abort(CloseReason.SLOW_CONSUMER, output_too_large(left, self._bounds.max_output))
        self._times.soft_since = self.core.now()
        self._alarm = self._bounds.max_output if self._bounds.max_output else PY_SSIZE_T_MAX
        return self._watch(self._times.soft_since + self._bounds.soft_output_timeout)

    cdef int _keep_water_marks(self) except -1:
        if self._state != OPEN or self._broken is not None:
            return 0
        if self._bounds.soft_output and self._times.soft_since != INFINITY and \
                self._output() <= self._bounds.soft_output:
            self._times.soft_since, self._alarm = INFINITY, self._bounds.soft_output
        if self._full:
            # In a turn of its own: a producer whose peer reads as fast as it writes must not keep the others waiting.
            if self._output() <= self._bounds.low_water:
                self._continue_soon()
        elif self._output() > self._bounds.high_water:
            self._full = True
            self._dispatch("pause_writing", ())
        return 0

    cdef int _write_failed(self, int number) except -1:
        """Nothing more can be sent.  What a peer that is gone has sent may still be held, or readable: that first."""
        self._drop_output()
        self._broken = _os_error(number)
        self._full = False
        if self._times is not NULL:
            self._times.stalled_since = self._times.soft_since = INFINITY
        if self._state != OPEN or self._eof_told or number not in PEER_GONE:
            return self._failed_io(self._broken)
        return self._continue_soon()

    # --- the end: the twin of _connection_closing.py --------------------------------------------------------------

    cdef int _refuse(self, object fault) except -1:
        """Close for what the decoder has raised; of a framing a protocol may have a last word."""
        if self._exc is None and isinstance(fault, FramingError) and hasattr(self.protocol, "framing_error"):
            self._exc = fault  # told once, though the callback may read on, or raise an exit
            self._dispatch("framing_error", (fault,))
            # close() comes anyway: the fault stays what ended it.
            if self.close_reason is CloseReason.LOCAL and self._exc is None:
                self.close_reason, self._exc = reason_of(fault), fault
        return self._close(reason_of(fault), fault)

    cdef int _close(self, object reason, object exc) except -1:
        """Begin the orderly end: OPEN -> FLUSHING; from there on the output and the timers decide."""
        cdef int awaited
        if self._state != OPEN:
            return 0
        if self._times is NULL:
            self._times = _new_times()
        self._state = FLUSHING
        self.close_reason, self._exc = reason, exc
        self._leave_groups()
        self._pending = None
        self._timed = True
        self._last_activity = self.core.now()
        self._times.queued = -1
        awaited = self._unread
        self._wait_for(0)
        self._unread = -awaited  # so much more may be discarded: without us the kernel would not hold it
        self._arm(FLUSHING, self._last_activity + self._bounds.flush_timeout / 2, self._flush_too_slow)
        if self._receives == PULLED:
            (<Puller>self._receive).closing()
        self._update_events()
        return self._flush_unless_corked(False)

    cdef int _linger(self) except -1:
        """Everything is written: FLUSHING -> LINGERING, unless there is nothing to wait for."""
        if self._eof or not self._bounds.linger or self._broken is not None:
            return self._end(None, None)
        self._state = LINGERING
        self._arm(LINGERING, self.core.now() + self._bounds.linger, self._finish)
        self._shutdown()
        return self._update_events()

    cdef int _shutdown(self) noexcept:
        # ENOTCONN: not connected any more; the next read says why.
        return self.core.sys.shutdown(self._sock, SHUT_WR)

    def _flush_too_slow(self):
        cdef double seconds = self._bounds.flush_timeout, now = self.core.now(), quiet_until
        cdef int64_t queued = queued_output(self._sock)
        left = self._output()
        if self._times.queued >= 0 and self._times.queued != queued:
            self._last_activity = now  # it takes what the kernel holds, of which that tells nobody; see _ask_kernel
        self._times.queued = queued
        quiet_until = self._last_activity + seconds
        if quiet_until > now:
            self._arm(FLUSHING, min(quiet_until, now + seconds / 2), self._flush_too_slow)
            return
        # The first cause is what counts, if there is one.
        if self._exc is None:
            self._end(CloseReason.FLUSH_TIMEOUT, flush_too_slow(left, seconds))
        else:
            self._end(None, None)

    cdef int _failed_io(self, object exc) except -1:
        # A closing connection keeps its reason, unless that says that all is well: output was lost.
        if self._state == OPEN or (self._state == FLUSHING and self._exc is None):
            return self._end(CloseReason.RESET if exc.errno in PEER_GONE else CloseReason.ERROR, exc)
        return self._end(None, None)

    def _finish(self):
        self._end(None, None)

    cdef int _end(self, object reason, object exc) except -1:
        """Close the socket now; any state -> CLOSED.  A closing connection keeps its reason unless given a new one."""
        cdef Core core = self.core
        cdef int fd = self._sock
        if self._state == CLOSED:
            return 0
        # Asked for in logs, and gone with the socket.  Asking may run a collection, and that any code, abort() too.
        if self._peer is None and not self._peer_host:
            self._peer = self._ask(peer_address)
        if self._state == CLOSED:
            return 0
        self._state = CLOSED
        if reason is not None:
            self.close_reason, self._exc = reason, exc
        self._leave_groups()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        core.forget(self)
        self.closed = True
        self._sock = -1
        core.sys.close(fd)
        self._pending = None
        if core.gather_owner is <void*>self:
            core.gather_owner = NULL
        self._drop_output()
        self._decoder = None
        self._account()
        # Not from inside whatever called close(): a callback never runs in the middle of another one.
        core.check_usable()
        core.schedule(self._lost, (), None)
        return 0

    def _lost(self):
        cdef Core core = self.core
        cdef bint outer = core.dispatching
        core.dispatching = True  # what it sends to others is a batch, too
        try:
            # None where a factory forgot its return: that was the reason of the end, and has been told.
            if self.protocol is not None and type(self.protocol) is not FunctionProtocol:
                self.protocol.connection_lost(self._exc)
        finally:
            core.dispatching = outer
            if self._on_lost is not None:
                self._on_lost(self, self._exc)
            # A protocol knows its connection, as a traceback does: in a circle all would wait for the collector.
            self.protocol = self._receiver = self._on_lost = None
            if self._receives != PULLED:  # whose coroutine may still ask for a frame, to be told
                self._receive = None
            self._exc = self._fault = self._broken = None

    cdef int _account(self) except -1:
        """Tell the budget, if there is one, what has changed since the last time."""
        cdef Py_ssize_t held
        if self._budget is not None:
            held = self._output() + self._input()
            if held != self._accounted:
                held, self._accounted = held - self._accounted, held
                self._budget.count(held)
        return 0

    def _forked(self):
        """Let go of the copy of the socket, without a word to the peer or the protocol: both are the parent's."""
        cdef int fd = self._sock
        self._state = CLOSED
        self.closed = self._write_eof = self._scheduled = True  # so send() raises, and nothing asks for another turn
        self._sock = -1
        self._leave_groups()
        if self.core.gather_owner is <void*>self:
            self.core.gather_owner = NULL
        self.core.sys.close(fd)

    # --- small parts -------------------------------------------------------------------------------------------

    def _ask(self, question):
        """Return what the standard library finds out about the socket; None once closed, by whomever."""
        if self.closed:
            return None
        try:
            sock = socket.socket(fileno=self._sock)
            try:
                answer = question(sock)
            finally:
                sock.detach()
        except (OSError, ValueError, MemoryError):
            return None  # the end must not fail for want of a name
        # It may have come in between, to another thread's question: the number is nobody's then, or somebody else's.
        return None if self.closed else answer

    cdef object _dispatch(self, str name, tuple args):
        """Run a callback of the application; what it sends leaves with one send when it returns."""
        cdef Core core = self.core
        cdef bint outer = core.dispatching, corked = self._corked
        if type(self.protocol) is FunctionProtocol:  # whose other callbacks do nothing
            if not corked:
                self.flush_output()
            return None
        core.dispatching = self._corked = True
        try:
            return getattr(self.protocol, name)(*args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._close(CloseReason.HANDLER, exc)
            return None
        finally:
            self._corked = corked
            core.dispatching = outer
            if not corked:
                self.flush_output()

    cdef int _update_events(self) except -1:
        """Watch for what this state has a use for; the one place that talks to the selector."""
        cdef int events = 0
        if self._state == LINGERING:
            events = EVENT_READ
        elif self._state == OPEN and not (self._eof or self._paused) and self._pending is None and self._fault is None:
            # Whoever does not take the answers gets no more questions answered.
            events = 0 if self._full and self._throttle else EVENT_READ
        if self._state <= FLUSHING and self._broken is None and self._output():
            events |= EVENT_WRITE
        if events == self.wanted or self._state == CLOSED:
            return 0
        if self._timed and events & ~self.wanted & EVENT_READ:
            self._reads_again()
            if self._state == CLOSED:  # by a collection
                return 0
        return self.core.want(self, self._sock, events)

    # --- deadlines: the twin of _connection_deadlines.py ---------------------------------------------------------

    cdef int _arm(self, int state, double when, object callback) except -1:
        """Set the one timer that each state has; none if the state is another one by now.

        To make a timer may run a collection, and that close() or abort(): then theirs is the one that counts.
        """
        cdef object other
        self.core.check_usable()
        other = self.core.schedule_at(when, callback, (), None)
        if self._state == state:
            other, self._timer = self._timer, other
        if other is not None:
            other.cancel()
        return 0

    cdef int _watch(self, double deadline) except -1:
        """Have the deadlines looked at when *deadline* comes, unless that happens earlier anyway."""
        if self._state == OPEN and deadline < self._times.due:  # a closing connection has a timer of its own
            self._times.due = deadline
            return self._arm(OPEN, deadline, self._check_deadlines)
        return 0

    def _check_deadlines(self):
        """Close for the deadline that is over, or come again for the nearest."""
        cdef _Bounds bounds = self._bounds
        cdef double now, nearest = INFINITY, write_timeout
        cdef bint reading = self.wanted & EVENT_READ
        if self._state != OPEN:
            return
        now = self.core.now()
        if self._frames_received > self._times.frames_before:
            self._times.began = INFINITY
        if self._times.stalled_since + bounds.write_timeout / 2 <= now:
            self._ask_kernel(now)
        if reading and self._unread and bounds.idle_timeout and self._last_activity + bounds.idle_timeout <= now and \
                queued_input(self._sock):
            self._last_activity = now  # some of an awaited body has come, of which the kernel has told nobody
            self._wait_for(0)
        write_timeout = bounds.write_timeout / 2 if self._times.queued < 0 else bounds.write_timeout
        for since, seconds, reason in (
            # A peer that is not read cannot be late; _reads_again sets both anew.
            (self._times.began if reading else INFINITY, bounds.first_frame_timeout, CloseReason.FIRST_FRAME_TIMEOUT),
            (self._times.frame_since if reading else INFINITY, bounds.frame_timeout, CloseReason.FRAME_TIMEOUT),
            (self._times.soft_since, bounds.soft_output_timeout, CloseReason.SLOW_CONSUMER),
            (self._times.stalled_since, write_timeout, CloseReason.WRITE_TIMEOUT),
            (self._last_activity, bounds.idle_timeout, CloseReason.IDLE),
        ):
            if seconds and since + seconds <= now:
                exc = overdue(reason, bounds.limits, self._output())
                # Who takes nothing would take nothing of an orderly end, either.
                if reason in (CloseReason.SLOW_CONSUMER, CloseReason.WRITE_TIMEOUT):
                    self._abort(reason, exc)
                else:
                    self._close(reason, exc)
                return
            if seconds:
                nearest = min(nearest, <double>(since + seconds))
        if self._state == OPEN:  # else closed by a collection, and its timer is another one now
            self._times.due = INFINITY
            self._watch(nearest)

    cdef int _ask_kernel(self, double now) except -1:
        """Start write_timeout anew if the peer has taken some of what the kernel holds, of which that tells nobody."""
        cdef int64_t queued = queued_output(self._sock)
        if self._times.queued >= 0 and self._times.queued != queued:
            self._times.stalled_since = now
        self._times.queued = queued
        return 0

    cdef int _reads_again(self) except -1:
        """Start the deadlines of what the peer has to send anew: it was not heard."""
        cdef double now = self.core.now()
        if self._bounds.first_frame_timeout and self._times.began != INFINITY:
            self._times.began = now
            self._watch(now + self._bounds.first_frame_timeout)
        if self._times.frame_since != INFINITY:
            self._times.frame_since = now
            self._watch(now + self._bounds.frame_timeout)
        return 0

    cdef int _time_frame(self) except -1:
        """Note when the frame that the last read left unfinished has begun."""
        if self._decoder is None or not self._decoder.unfinished():
            self._times.frame_since = INFINITY
        elif self._decoder._position != self._times.frame_at:
            self._times.frame_at, self._times.frame_since = self._decoder._position, self._last_activity
            self._watch(self._times.frame_since + self._bounds.frame_timeout)
        return 0

    cdef int _time_output(self, Py_ssize_t sent) except -1:
        """Note since when output waits and the peer takes none of it."""
        if not self._output():
            self._times.stalled_since = INFINITY
        elif sent or self._times.stalled_since == INFINITY:
            self._times.stalled_since, self._times.queued = self.core.now(), -1
            self._watch(self._times.stalled_since + self._bounds.write_timeout / 2)
        return 0


cdef Times* _new_times() except NULL:
    cdef Times* times = <Times*>malloc(sizeof(Times))
    if times is NULL:
        raise MemoryError
    times.began = times.frame_since = times.stalled_since = times.soft_since = times.due = INFINITY
    times.frame_at = times.queued = -1
    times.frames_before = 0
    return times


cdef inline bint _gather(Connection self, PyObject* payload) noexcept:
    """Do what Connection.send(payload) does, if that is to add a few bytes to the gather; else do nothing and say so.

    What nearly all answers are, in one piece and without references: 60 instructions, and not 190.
    """
    cdef Py_ssize_t size, start = 0
    cdef int head
    cdef unsigned char* out
    if not PyBytes_CheckExact(payload) or not self._plain or self._state | self._write_eof:
        return False
    size = PyBytes_GET_SIZE(<object>payload)
    if self.core.gather_owner is <void*>self:
        start = self.core.gathered
    elif self.core.gather_owner is not NULL or not self._corked or self._waiting or self.core.gather is NULL or \
            self._broken is not None:
        return False
    head = self._codec.size
    if size >= REFERENCED or size > self._codec.limit or <int64_t>size + self._codec.delta < 0 or \
            start + head + size > self._gather_room:
        return False
    out = self.core.gather + start
    self.core.gather_owner = <void*>self
    self.core.gathered = start + head + size
    self._frames_sent += 1
    evl_store(out, self._codec.order, <uint64_t>(<int64_t>size + self._codec.delta))
    evl_move(out + head, <const unsigned char*>PyBytes_AS_STRING(<object>payload), size)
    return True


# Where Connection.send() is entered: Cython's own way in costs as much as what is done inside, with the defaults that
# it fetches and lets go.  What is anything but a few bytes goes that way.
cdef PyObject* _enter_send(PyObject* self, PyObject** args, Py_ssize_t count, PyObject* names) noexcept:
    if count == 1 and names is NULL and _gather(<Connection>self, args[0]):
        Py_INCREF(<PyObject*>None)
        return <PyObject*>None
    return _send_in_full(self, args, count, names)


cdef evl_entry _send_in_full = evl_enter_at(Connection.send, _enter_send)


# What a Connection calls without a try statement: these return -1 with the exception set, for who casts them so.


cdef inline int _deliver_to(Connection connection) except -1:
    return connection._deliver_pending()


cdef inline int _deliver_one_to(Connection connection, PyObject* frame) except -1:
    cdef object receive = connection._receive, receiver = connection._receiver
    if connection._receives == PULLED:
        return (<Puller>receive).give(<object>frame)
    if connection._receives == MANY:
        argument = [<object>frame]
    else:
        argument = <object>frame
    return _raised() if evl_call(<PyObject*>receive, _or_null(receiver), <PyObject*>argument) < 0 else 0


cdef inline PyObject* _or_null(object receiver) noexcept:
    return NULL if receiver is None else <PyObject*>receiver


cdef int _raised() except -1:
    """Have Cython see the exception that a C function has set."""
    return -1


cdef inline bint _would_block(int number) noexcept:
    return number == EAGAIN or number == EINTR  # on Linux EWOULDBLOCK is EAGAIN


cdef object _os_error(int number):
    return OSError(number, os.strerror(number))


cdef Py_ssize_t _plain_size(Codec codec, list payloads) except -2:
    """Return the size of the frames of nothing but bytes, -1 if there is something else.

    Raises FrameTooLarge for the first that the framing does not allow.
    """
    cdef Py_ssize_t index, size, total = 0
    cdef PyObject* payload
    for index in range(PyList_GET_SIZE(payloads)):
        payload = PyList_GET_ITEM(<PyObject*>payloads, index)
        if type(<object>payload) is not bytes:
            return -1
        size = PyBytes_GET_SIZE(<object>payload)
        if size > codec.limit or <int64_t>size + codec.delta < 0:
            codec.check_payload(size)  # raises
        total += codec.size + size
    return total


cdef bint _has_large(list payloads) noexcept:
    """Tell whether one of these bytes objects is to be referenced."""
    cdef Py_ssize_t index
    for index in range(PyList_GET_SIZE(payloads)):
        if PyBytes_GET_SIZE(<object>PyList_GET_ITEM(<PyObject*>payloads, index)) >= REFERENCED:
            return True
    return False


cdef void _write_frames(Codec codec, list payloads, unsigned char* out) noexcept:
    """Write the frames of these bytes objects, whose sizes were checked, one behind the other."""
    cdef Py_ssize_t index, size
    cdef PyObject* payload
    cdef int head = codec.size, order = codec.order
    cdef int64_t delta = codec.delta
    for index in range(PyList_GET_SIZE(payloads)):
        payload = PyList_GET_ITEM(<PyObject*>payloads, index)
        size = PyBytes_GET_SIZE(<object>payload)
        evl_store(out, order, <uint64_t>(<int64_t>size + delta))
        evl_move(out + head, <const unsigned char*>PyBytes_AS_STRING(<object>payload), size)
        out += head + size
