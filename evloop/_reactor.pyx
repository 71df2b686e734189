# cython: auto_pickle=False
"""The reactor at C speed: the twin of ``_reactor_py.py``, with the same classes and methods in the same order.

What differs: it brings its own selector for epoll, with a way in that makes no Python object per event; changes of
interest are told to the kernel once, before the wait; the FIFO is a ring, the timers' heap is sifted in C; and every
system call goes through a table, so that a simulated kernel can stand in for one reactor.  With any other selector it
goes through the standard interface.  The whole docstrings are in the twin.

Rule: nothing in this file may import asyncio, know a frame or a connection, or keep state outside of an object.
Read next: ``_syscalls.h``, ``_reactor.pxd``, ``_reactor_lifecycle.py``.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.object cimport Py_EQ, Py_GT, Py_LE, Py_LT, Py_NE, PyCallable_Check, PyObject, PyObject_RichCompareBool
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EEXIST, EINTR, ENOENT, ENOSYS, EPERM, errno
from libc.limits cimport INT_MAX
from libc.math cimport ceil
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, timespec
from posix.types cimport time_t

import selectors
import socket
import threading
import time
from collections.abc import Mapping

from evloop._reactor_fork import Refusal, close_after_fork
from evloop._reactor_lifecycle import Lifecycle

cdef extern from "_syscalls.h":
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLONESHOT
    int EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLL_CLOEXEC, EFD_CLOEXEC, EFD_NONBLOCK

cdef extern from "_prefetch.h":
    void evl_prefetch(const void* start, size_t size) noexcept

cdef extern from "Python.h":
    # With bare pointers: the queue and the heap move references, they do not make any.
    PyObject* PyList_GET_ITEM(PyObject* array, Py_ssize_t index) noexcept
    void PyList_SET_ITEM(PyObject* array, Py_ssize_t index, PyObject* item) noexcept
    Py_ssize_t PyList_GET_SIZE(PyObject* array) noexcept
    PyObject** PySequence_Fast_ITEMS(PyObject* array) noexcept
    Py_ssize_t PyTuple_GET_SIZE(PyObject* array) noexcept
    void Py_INCREF(PyObject*) noexcept
    void Py_DECREF(PyObject*) noexcept
    # The result is looked at by hand: the context must be left before an exception goes anywhere.
    PyObject* PyObject_Vectorcall(PyObject* callback, PyObject** args, size_t count, PyObject* names) noexcept
    int PyContext_Enter(PyObject* context) noexcept
    int PyContext_Exit(PyObject* context) noexcept
    object PyContext_CopyCurrent()

IMPLEMENTATION = "cython"

# Their arguments stand in the twin.
RECV_BUFFER = 256 * 1024
MAX_WAIT = 24 * 3600.0
WAKEUP_READ = 4096
FLUSH_SLICE = 0.002

cdef enum:
    MIN_SCHEDULED_FOR_REBUILD = 100
    # A power of two, as the ring's index needs.  One kilobyte; an idle reactor has two such rings.
    FIRST_RING = 64
    # A ring that a flood has made longer is given back when it is empty; up to here (64 KiB) keeping it is cheaper.
    KEPT_RING = 8192
    # Events per epoll_wait, 12 bytes each.  The kernel looks at each socket that it reports: with few at a time that
    # memory is still at hand when the socket is read; see docs/adr/0018.  A turn asks as often as there are more.  Only
    # select() asks for more at a time; whoever calls it expects all that is ready.
    EVENTS = 128
    # Registered fds from which on their memory is asked for ahead.  Half a megabyte of ours, several of the kernel's:
    # by the time that an fd has its turn again, the second-level cache has seen all of them.
    CROWD = 512
    # What is asked for of an endpoint: a connection's fields up to those that only rare states touch.
    ENDPOINT_AHEAD = 256
    FIRST_SLOTS = 64
    # Turns in a row without a look at the fds, where a look could tell of signals and wake-ups alone: it is then a
    # seventeenth of what it was, and what signals wait for is as many callbacks more.
    MAX_SKIPPED = 16

    # Flushes between two looks at the clock; see _reactor_py.
    FLUSHES_UNTIMED = 16

cdef double MAX_CANCELLED_FRACTION = 0.5
cdef double SLICE = FLUSH_SLICE
cdef double LONGEST_WAIT = MAX_WAIT
cdef object monotonic = time.monotonic


@cython.final
cdef class ReadyQueue:
    """The FIFO of what is ready: a ring with the methods of ``collections.deque`` that a reactor's users call."""

    def __cinit__(self):
        self._ring = [None] * FIRST_RING

    cdef int push(self, object entry) except -1:
        cdef Py_ssize_t index
        while self.count >= PyList_GET_SIZE(<PyObject*>self._ring):
            self._grow()
        index = (self._head + self.count) & (PyList_GET_SIZE(<PyObject*>self._ring) - 1)
        Py_INCREF(<PyObject*>entry)
        Py_DECREF(PyList_GET_ITEM(<PyObject*>self._ring, index))  # None
        PyList_SET_ITEM(<PyObject*>self._ring, index, <PyObject*>entry)
        self.count += 1
        return 0

    cdef object pop(self):
        cdef PyObject* item
        cdef Py_ssize_t room = PyList_GET_SIZE(<PyObject*>self._ring)
        if room == 0:
            raise IndexError("pop from a queue that the garbage collector has cleared")
        item = PyList_GET_ITEM(<PyObject*>self._ring, self._head)
        Py_INCREF(<PyObject*>None)
        PyList_SET_ITEM(<PyObject*>self._ring, self._head, <PyObject*>None)
        self._head = (self._head + 1) & (room - 1)
        self.count -= 1
        entry = <object>item
        Py_DECREF(item)  # the ring's reference; the variable has its own
        if self.count == 0 and room > KEPT_RING:
            self._head = 0
            self._ring = [None] * FIRST_RING
        return entry

    cdef PyObject* first(self) noexcept:
        return PyList_GET_ITEM(<PyObject*>self._ring, self._head)

    cdef int _grow(self) except -1:
        cdef Py_ssize_t index, room = PyList_GET_SIZE(<PyObject*>self._ring)
        cdef list ring = [None] * (2 * room if room else FIRST_RING)
        # The allocation may have run the garbage collector, and so somebody's code that has appended.
        if room != PyList_GET_SIZE(<PyObject*>self._ring):
            return 0
        if room == 0:
            self.count = 0
        for index in range(self.count):
            ring[index] = self._ring[(self._head + index) & (room - 1)]
        self._head = 0
        self._ring = ring
        return 0

    cdef int reserve(self, Py_ssize_t more) except -1:
        while self.count + more > PyList_GET_SIZE(<PyObject*>self._ring):
            self._grow()
        return 0

    cdef list _entries(self):
        cdef Py_ssize_t index, room = PyList_GET_SIZE(<PyObject*>self._ring)
        return [self._ring[(self._head + index) & (room - 1)] for index in range(self.count if room else 0)]

    def append(self, entry):
        """Add *entry* at the end.  Any thread."""
        self.push(entry)

    def extend(self, entries):
        """Add all of an iterable at the end."""
        for entry in entries:
            self.push(entry)

    def popleft(self):
        """Take the first entry out and return it; IndexError if there is none."""
        if self.count == 0:
            raise IndexError("pop from an empty queue")
        entry = self.pop()
        _left_queue(entry)
        return entry

    def clear(self):
        """Drop all entries."""
        cdef list entries = self._entries()  # let go at the end: destructors may append
        self._ring, self._head, self.count = [None] * FIRST_RING, 0, 0
        for entry in entries:
            _left_queue(entry)

    def __len__(self):
        return self.count

    def __bool__(self):
        return self.count > 0

    def __iter__(self):
        return iter(self._entries())

    def __getitem__(self, index):
        return self._entries()[index]

    def __repr__(self):
        return f"ReadyQueue({self._entries()!r})"


cdef int _left_queue(object entry) except -1:
    """Let an endpoint that was taken out by hand be queued again."""
    if isinstance(entry, Endpoint):
        (<Endpoint>entry).queued = False
    return 0


# As many as a busy server has waiting in one turn, 90 bytes each: beyond them each is the allocator's, and counted by
# the garbage collector, which then goes through them all.
@cython.freelist(1024)
cdef class Handle:
    """A callback that waits to be run once; what ``call_soon`` returns.  Reactor thread only."""

    _source_traceback = None  # asyncio asks each handle for it; kept by its own alone, in debug mode

    def __init__(self, callback, tuple args not None, reactor, context=None):
        if not callable(callback):
            raise TypeError(f"a callback must be callable, not {type(callback).__name__}")
        self._callback = callback
        self._args = args
        self._context = PyContext_CopyCurrent() if context is None else context
        self._reactor = reactor

    def cancel(self):
        """Keep the callback from being run; it and its arguments are released at once.  Idempotent."""
        self._cancelled = True
        self._callback = None
        self._args = ()

    def cancelled(self):
        """Return whether :meth:`cancel` was called."""
        return self._cancelled

    def _run(self):
        self.run()

    cdef int run(self) except -1:
        # References of our own: the callback may cancel this handle.
        cdef object callback = self._callback, context = self._context
        cdef tuple args = self._args
        cdef PyObject* result
        if callback is None:
            return 0
        if PyContext_Enter(<PyObject*>context) == 0:
            result = PyObject_Vectorcall(
                <PyObject*>callback, PySequence_Fast_ITEMS(<PyObject*>args), PyTuple_GET_SIZE(<PyObject*>args), NULL
            )
            if PyContext_Exit(<PyObject*>context) == 0 and result is not NULL:
                Py_DECREF(result)
                return 0
        return self._report(callback)

    cdef int _report(self, object callback) except -1:
        try:
            _raised()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            context = {"message": f"Exception in callback {callback!r}", "exception": exc, "handle": self}
            if self._source_traceback:
                context["source_traceback"] = self._source_traceback
            self._reactor.call_exception_handler(context)
        return 0

    def __repr__(self):
        state = " cancelled" if self._cancelled else f" {self._callback!r}"
        return f"<{type(self).__name__}{state}>"


class _TracedHandle(Handle):
    """One that may be given a traceback of where it was made."""


cdef int _raised() except -1:
    """Have Cython see the exception that a C function has set."""
    return -1


cdef class TimerHandle(Handle):
    """A callback that waits for its time; what ``call_later`` and ``call_at`` return.  Reactor thread only."""

    def __init__(self, double when, int64_t order, *args):
        Handle.__init__(self, *args)
        self._when = when
        self._order = order

    def when(self):
        """Return the deadline in seconds on the scale of the reactor's ``time()``."""
        return self._when

    def cancel(self):
        """Keep the callback from being run.  Idempotent."""
        if self._cancelled:
            return
        Handle.cancel(self)  # first: the reactor may rebuild its heap at once, and drops what is cancelled
        if isinstance(self._reactor, Core):
            (<Core>self._reactor).timer_cancelled(self)
        else:
            self._reactor._timer_handle_cancelled(self)

    def __hash__(self):
        return object.__hash__(self)

    def __richcmp__(self, other, int operation):
        if operation == Py_EQ or operation == Py_NE:
            return NotImplemented  # identity
        if not isinstance(other, TimerHandle):
            return _compare_foreign(self, other, operation)
        if operation == Py_LT:
            return _earlier(self, <TimerHandle>other)
        if operation == Py_GT:
            return _earlier(<TimerHandle>other, self)
        if operation == Py_LE:
            return not _earlier(<TimerHandle>other, self)
        return not _earlier(self, <TimerHandle>other)


cdef inline bint _earlier(TimerHandle one, TimerHandle other) noexcept:
    return one._when < other._when or (one._when == other._when and one._order < other._order)


cdef object _compare_foreign(TimerHandle ours, object other, int operation):
    """Compare with another loop's timer, which may stand in the same heap; ours come first at equal times."""
    when = getattr(other, "_when", None)
    if when is None:
        return NotImplemented
    earlier = ours._when <= when
    return earlier if operation == Py_LT or operation == Py_LE else not earlier


# --- the heap: heapq's algorithms; items are exchanged in place, so that the list is whole at any time ---------------


cdef int _less(list heap, Py_ssize_t left, Py_ssize_t right) except -1:
    """Return heap[left] < heap[right]."""
    cdef Py_ssize_t size
    cdef int result
    one, other = <object>PyList_GET_ITEM(<PyObject*>heap, left), <object>PyList_GET_ITEM(<PyObject*>heap, right)
    if type(one) is TimerHandle and type(other) is TimerHandle:
        return _earlier(<TimerHandle>one, <TimerHandle>other)
    size = PyList_GET_SIZE(<PyObject*>heap)
    result = PyObject_RichCompareBool(one, other, Py_LT)
    if size != PyList_GET_SIZE(<PyObject*>heap):
        raise RuntimeError("the timers' heap changed while it was sifted")
    return result


cdef inline void _exchange(list heap, Py_ssize_t one, Py_ssize_t other) noexcept:
    cdef PyObject* item = PyList_GET_ITEM(<PyObject*>heap, one)
    PyList_SET_ITEM(<PyObject*>heap, one, PyList_GET_ITEM(<PyObject*>heap, other))
    PyList_SET_ITEM(<PyObject*>heap, other, item)


cdef int _heap_push(list heap, object item) except -1:
    cdef Py_ssize_t place = PyList_GET_SIZE(<PyObject*>heap), parent
    heap.append(item)
    while place > 0:
        parent = (place - 1) >> 1
        if not _less(heap, place, parent):
            break
        _exchange(heap, place, parent)
        place = parent
    return 0


cdef int _sift_down(list heap, Py_ssize_t place) except -1:
    cdef Py_ssize_t size = PyList_GET_SIZE(<PyObject*>heap), child = 2 * place + 1
    while child < size:
        if child + 1 < size and _less(heap, child + 1, child):
            child += 1
        if not _less(heap, child, place):
            break
        _exchange(heap, child, place)
        place, child = child, 2 * child + 1
    return 0


cdef object _heap_pop(list heap):
    cdef Py_ssize_t last = PyList_GET_SIZE(<PyObject*>heap) - 1
    _exchange(heap, 0, last)
    item = heap.pop()
    _sift_down(heap, 0)
    return item


cdef inline double _first_deadline(list heap) except? -1:
    first = <object>PyList_GET_ITEM(<PyObject*>heap, 0)
    if type(first) is TimerHandle:
        return (<TimerHandle>first)._when
    return first._when


cdef inline int _first_is_cancelled(list heap) except -1:
    first = <object>PyList_GET_ITEM(<PyObject*>heap, 0)
    if type(first) is TimerHandle:
        return (<TimerHandle>first)._cancelled
    return bool(first._cancelled)


# --- endpoints -------------------------------------------------------------------------------------------------------


cdef class Endpoint:
    """Something that a reactor can poke: a listener, a connection, a watched fd."""

    _cancelled = False  # the FIFO asks this of each of its entries
    _callback = None  # and asyncio's debug mode this of one that was slow

    def __cinit__(self):
        self.fd = -1

    def __init__(self, reactor):
        if not isinstance(reactor, Core):
            raise TypeError(_wrong_reactor(reactor))
        self._reactor = reactor
        self.core = reactor

    def on_readable(self):
        """Called when a read would not block: data, end of stream or an error.  Reactor thread only."""

    def on_writable(self):
        """Called when a write would not block, or would fail.  Reactor thread only."""

    def flush(self):
        """Called before the next wait after ``flush_soon(self)``.  Reactor thread only."""

    cdef int readable(self) except -1:
        self.on_readable()
        return 0

    cdef int writable(self) except -1:
        self.on_writable()
        return 0

    cdef int hung_up(self) except -1:
        self.on_readable()
        return 0

    cdef int flush_output(self) except -1:
        self.flush()
        return 0

    cdef void prefetch(self) noexcept:
        pass

    def _run(self):
        _run_endpoint(self)

    cdef int run(self) except -1:
        self.queued = False
        return (<int (*)(Endpoint) noexcept>_deliver)(self)

    cdef int _delivery_failed(self) except -1:
        try:
            _raised()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._failed(exc)
        return 0

    def _failed(self, exc):
        """Report an exception that a method let escape; the endpoint stays registered."""
        context = {"message": f"Exception in endpoint {self!r}", "exception": exc, "endpoint": self}
        self._reactor.call_exception_handler(context)

    def _forked(self):
        """Called in a forked child while registered: this is a copy, whose fd may be closed and not be used."""


cdef inline int _run_endpoint(Endpoint endpoint) except -1:
    # Not in a try statement, which saves the caller's exception first: 30 instructions with every event.
    return endpoint._delivery_failed() if (<int (*)(Endpoint) noexcept>_run)(endpoint) < 0 else 0


cdef inline int _run(Endpoint endpoint) except -1:
    return endpoint.run()


cdef int _deliver(Endpoint endpoint) except -1:
    # readable() may close this endpoint, or take back its interest in writing (modify clears the bit in _revents):
    # both are asked again in between.
    if endpoint._revents & EVENT_READ and not endpoint.closed:
        endpoint._revents &= ~EVENT_READ
        endpoint.readable()
        if endpoint._revents == 0:
            return 0
    if endpoint._revents & EVENT_WRITE and not endpoint.closed:
        endpoint._revents &= ~EVENT_WRITE
        endpoint.writable()
    if endpoint._revents & EVENT_HUNG_UP and not endpoint.closed:
        endpoint._revents &= ~EVENT_HUNG_UP
        endpoint.hung_up()
    return 0


@cython.final
cdef class _FdWatch(Endpoint):
    """The endpoint of an fd watched with add_reader or add_writer.  Owns: one Handle a direction."""

    # None: somebody else's selector has reported what it was not asked for.
    cdef int readable(self) except -1:
        cdef Handle handle = self.reader  # a reference of our own: the callback may remove itself, and then raise
        return 0 if handle is None else handle.run()

    cdef int writable(self) except -1:
        cdef Handle handle = self.writer
        return 0 if handle is None else handle.run()


@cython.final
cdef class _WakeUp(Endpoint):
    """Ends the wait of a reactor from any thread.  Owns: an eventfd."""

    def __cinit__(self):
        self.event_fd = -1

    def __dealloc__(self):
        self.close_fd()

    cdef int open(self, evl_syscalls* sys) except -1:
        self.close_fd()
        self.sys = sys
        self.event_fd = sys.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.event_fd < 0:
            PyErr_SetFromErrno(OSError)
        return 0

    def wake(self):
        """Make the eventfd readable; once is enough until it was drained.  Any thread."""
        self.wake_up()

    cdef int wake_up(self) noexcept:
        cdef uint64_t one = 1
        if not self.pending and self.event_fd >= 0:
            self.pending = True
            # It cannot fail for want of room: the counter takes 2**64 - 2 of them.  Closed: nobody is left to wake.
            self.sys.write(self.event_fd, &one, sizeof(one))
        return 0

    cdef int readable(self) except -1:
        # Both under one hold of the GIL: nobody can write between the drain and the flag.
        cdef uint64_t count
        self.sys.read(self.event_fd, &count, sizeof(count))
        self.pending = False
        self.core.quiet += 1
        return 0

    cdef int close_fd(self) noexcept:
        if self.event_fd >= 0:
            self.sys.close(self.event_fd)
            self.event_fd = -1
        return 0


class _SignalPipe(Endpoint):
    """Where the C-level handler of signals writes their numbers; it ends the wait, too.  Owns: a pair of sockets.

    Apart from the eventfd, which counts and so would add the numbers up; made when the first handler is added.
    """

    def __init__(self, reactor):
        super().__init__(reactor)
        self.receiver, self.sender = socket.socketpair()
        self.receiver.setblocking(False)
        self.sender.setblocking(False)

    def on_readable(self):
        try:
            data = self.receiver.recv(WAKEUP_READ)
        except BlockingIOError:
            return
        self._reactor._wakeup_received(data)

    def close(self):
        self.closed = True
        self.receiver.close()
        self.sender.close()


# --- the selector ----------------------------------------------------------------------------------------------------


cdef class _Epoll:
    """Level-triggered epoll with a table by fd; :class:`EpollSelector` is its public form.

    An event carries the fd and the generation of its number.  epoll watches the open file behind an fd: one that was
    duplicated goes on reporting after its number was closed, and is told from the number's next user by this.
    """

    def __cinit__(self, *args, **kwargs):
        self.sys = &evl_libc
        self.epfd = -1
        self.data = []
        self._fileobjs = {}

    def __init__(self):
        if self.epfd < 0:
            self.open()

    def __dealloc__(self):
        self.close_fd()
        free(self.events)
        free(self.slots)
        free(self._pending)

    cdef int open(self) except -1:
        if self.events is NULL:
            self.events = <epoll_event*>malloc(EVENTS * sizeof(epoll_event))
            if self.events is NULL:
                raise MemoryError
            self._capacity = EVENTS
        self.epfd = self.sys.epoll_create1(EPOLL_CLOEXEC)
        if self.epfd < 0:
            PyErr_SetFromErrno(OSError)
        return 0

    cdef int close_fd(self) noexcept:
        if self.epfd >= 0:
            self.sys.close(self.epfd)
            self.epfd = -1
        return 0

    cdef int add(self, int fd, int events, object data) except -1:
        """Watch an *fd* that is not registered; the kernel's refusal is an OSError here and now."""
        # The kernel first: it knows which numbers are open, and so how long the table may get.
        if self._control(EPOLL_CTL_ADD, fd, events) < 0:
            # The same file under the same number, left behind by an owner that closed before it unregistered.
            if errno != EEXIST or self._control(EPOLL_CTL_MOD, fd, events) < 0:
                PyErr_SetFromErrno(OSError)
        if fd >= self.size:
            try:
                self._more_slots(fd)
            except BaseException:
                self._control(EPOLL_CTL_DEL, fd, 0)
                raise
        self.slots[fd].used = _use_of(data)
        self.data[fd] = data
        self.slots[fd].wanted = self.slots[fd].armed = events
        self.count += 1
        return 0

    cdef int change(self, int fd, int events) except -1:
        """Change what a registered *fd* is watched for; the kernel is told before the next wait, once."""
        cdef Slot* slot = &self.slots[fd]
        slot.wanted = events
        if events != slot.armed and not slot.dirty:
            slot.dirty = True
            self._pending[self._pending_count] = fd  # each number at most once, so there is room
            self._pending_count += 1
        return 0

    cdef int remove(self, int fd) except -1:
        """Watch a registered *fd* no more, from now on; never fails on a closed one."""
        self._control(EPOLL_CTL_DEL, fd, 0)
        self.slots[fd].used = False
        self.slots[fd].generation += 1
        self.slots[fd].round = 0
        self.count -= 1
        self._fileobjs.pop(fd, None)
        self.data[fd] = None
        return 0

    cdef int wait(self, double timeout) except -1:
        """Fill ``events``, waiting at most *timeout* seconds (< 0: for ever); return how many there are."""
        cdef int count, error
        if self.epfd < 0:
            raise ValueError("I/O operation on closed epoll object")
        if self._busy:
            raise RuntimeError("another thread is waiting in this selector")
        if self._pending_count:
            self._apply()
        if timeout == 0:
            count = self.sys.epoll_wait(self.epfd, self.events, self._capacity, 0)
            error = errno
        else:
            self._busy = True
            with nogil:
                count = self._block(timeout)
                error = errno
            self._busy = False
        if count < 0:
            if error != EINTR:
                (&errno)[0] = error
                PyErr_SetFromErrno(OSError)
            PyErr_CheckSignals()
            if timeout <= 0:
                return 0
            # A process that was stopped meanwhile is continued with EINTR (signal(7)); the time may be over by now, and
            # who is timed out without another look may have his data waiting.
            return self.wait(0)
        self._full = count == self._capacity
        return count

    cdef int _block(self, double timeout) noexcept nogil:
        cdef timespec limit
        cdef int count
        if timeout < 0:
            return self.sys.epoll_wait(self.epfd, self.events, self._capacity, -1)
        if timeout > LONGEST_WAIT:
            timeout = LONGEST_WAIT
        if not self._no_pwait2:
            # Rounded up, as everywhere: early by a nanosecond would be a turn for nothing.
            limit.tv_sec = <time_t>timeout
            limit.tv_nsec = <long>ceil((timeout - limit.tv_sec) * 1e9)
            if limit.tv_nsec >= 1000000000:
                limit.tv_sec, limit.tv_nsec = limit.tv_sec + 1, 0
            count = self.sys.epoll_pwait2(self.epfd, self.events, self._capacity, &limit, NULL)
            # A kernel before 5.11 does not know it; the filter of an older container runtime forbids it.
            if count >= 0 or (errno != ENOSYS and errno != EPERM):
                return count
            self._no_pwait2 = True
        return self.sys.epoll_wait(self.epfd, self.events, self._capacity, <int>ceil(timeout * 1e3))

    cdef int _apply(self) except -1:
        cdef int fd
        while self._pending_count:
            self._pending_count -= 1
            fd = self._pending[self._pending_count]
            self.slots[fd].dirty = False
            if not self.slots[fd].used or self.slots[fd].wanted == self.slots[fd].armed:
                continue
            self.slots[fd].armed = self.slots[fd].wanted
            if self._control(EPOLL_CTL_MOD, fd, self.slots[fd].wanted) == 0:
                continue
            # ENOENT: the number got another file behind our back, by dup2 for example.
            if errno == ENOENT and self._control(EPOLL_CTL_ADD, fd, self.slots[fd].wanted) == 0:
                continue
            if self.failures is None:
                self.failures = []
            self.failures.append((self.data[fd], _os_error()))
        return 0

    cdef int _control(self, int operation, int fd, int events) noexcept:
        cdef epoll_event event
        cdef uint64_t generation = self.slots[fd].generation if 0 <= fd < self.size else 0
        event.data.u64 = generation << 32 | <uint32_t>fd
        # ERR and HUP come without being asked for, again and again; to whom wants nothing they are told once.
        event.events = 0 if events else EPOLLONESHOT
        if events & EVENT_READ:
            event.events |= EPOLLIN
        if events & EVENT_WRITE:
            event.events |= EPOLLOUT
        return self.sys.epoll_ctl(self.epfd, operation, fd, &event)

    cdef int _more_slots(self, int fd) except -1:
        cdef Py_ssize_t size = max(FIRST_SLOTS, 2 * self.size, <Py_ssize_t>fd + 1)
        cdef void* memory = realloc(self._pending, size * sizeof(int))
        if memory is NULL:
            raise MemoryError
        self._pending = <int*>memory
        memory = realloc(self.slots, size * sizeof(Slot))
        if memory is NULL:
            raise MemoryError
        self.slots = <Slot*>memory
        while PyList_GET_SIZE(<PyObject*>self.data) < size:
            self.data.append(None)  # and not extend(): a list more may run a collection, and that close what is added
        memset(self.slots + self.size, 0, (size - self.size) * sizeof(Slot))
        self.size = size
        return 0

    cdef int _more_events(self) noexcept:
        cdef void* memory = realloc(self.events, self.count * sizeof(epoll_event))
        if memory is not NULL:  # else the rest comes with the next wait
            self.events = <epoll_event*>memory
            self._capacity = <int>self.count
        return 0

    @cython.final
    cdef int begin_round(self, int count) noexcept:
        """Begin a round with the events of a wait; return how many they are."""
        self._crowded = self._full
        if not self._crowded:
            return count
        self._round += 1
        self._taken = 0
        return self.go_round(count)

    @cython.final
    cdef int go_round(self, int count) noexcept:
        """Leave out the events of fds that this round has brought one of already; return how many are left.

        What is still ready when it was reported goes to the end of the kernel's list, so that the round is over when
        one comes again; or when as many have come as there are fds, since stale ones are not told from each other.  A
        hang-up that is told once (see _control) is no repetition.
        """
        cdef int index, kept = 0
        cdef epoll_event event
        cdef uint32_t fd
        self._taken += count
        self._crowded = self._full and self._taken < self.count
        for index in range(count):
            event = self.events[index]
            fd = <uint32_t>event.data.u64
            if fd < self.size and self.slots[fd].generation == event.data.u64 >> 32:
                if self.slots[fd].round == self._round:
                    self._crowded = False
                    if self.slots[fd].wanted:
                        continue
                self.slots[fd].round = self._round
            self.events[kept] = event
            kept += 1
        return kept

    @cython.final
    cdef int slot_of(self, epoll_event* event) noexcept:
        """Return the fd that an event is for, or -1, counted, if its number was given back since."""
        cdef uint32_t fd = <uint32_t>event.data.u64
        # The list's own length: the garbage collector clears it before it deletes a selector in a cycle.
        if (fd < self.size and self.slots[fd].used and self.slots[fd].generation == event.data.u64 >> 32
                and fd < PyList_GET_SIZE(<PyObject*>self.data)):
            return <int>fd
        self.stale += 1
        return -1

    cdef int find(self, object fileobj) except -2:
        """Return the registered fd that *fileobj* names, or -1."""
        cdef int fd
        try:
            fd = _fileno(fileobj)
        except OverflowError:
            return -1
        except ValueError:
            for number, registered in self._fileobjs.items():  # closed first, removed afterwards
                if registered is fileobj:
                    return number
            raise
        return fd if fd < self.size and self.slots[fd].used else -1

    cdef object key_of(self, int fd):
        return selectors.SelectorKey(self._fileobjs.get(fd, fd), fd, self.slots[fd].wanted, self.data[fd])

    def register(self, fileobj, events, data=None):
        """Watch *fileobj* (int, or an object with ``fileno()``) for *events*; return its SelectorKey."""
        cdef int fd, mask = _check_events(events)
        self._check_open()
        fd = _fileno(fileobj)
        if fd < self.size and self.slots[fd].used:
            raise KeyError(f"{fileobj!r} (FD {fd}) is already registered")
        self.add(fd, mask, data)
        if not isinstance(fileobj, int):
            self._fileobjs[fd] = fileobj
        return self.key_of(fd)

    def modify(self, fileobj, events, data=None):
        """Change what *fileobj* is watched for and what comes with its events; the kernel is told by ``select()``."""
        cdef int fd, mask
        self._check_open()
        fd = self.find(fileobj)
        if fd < 0:
            raise KeyError(f"{fileobj!r} is not registered")
        mask = _check_events(events)
        self.change(fd, mask)
        self.slots[fd].used = _use_of(data)
        self.data[fd] = data  # last: what was there may have a destructor, which finds both in step
        return self.key_of(fd)

    def unregister(self, fileobj):
        """Watch *fileobj* no more; return its last SelectorKey."""
        cdef int fd
        self._check_open()
        fd = self.find(fileobj)
        if fd < 0:
            raise KeyError(f"{fileobj!r} is not registered")
        key = self.key_of(fd)
        self.remove(fd)
        return key

    def select(self, timeout=None):
        """Wait at most *timeout* seconds (None: for ever; <= 0: not at all); return a list of (key, events)."""
        cdef double seconds = -1 if timeout is None else timeout
        cdef int index, fd, count
        if seconds != seconds:
            raise ValueError("timeout must be a number of seconds, not NaN")
        if timeout is not None and seconds < 0:
            seconds = 0
        if self._capacity < self.count and not self._busy:
            self._more_events()
        count = self.wait(seconds)
        if self.failures is not None:
            failures, self.failures = self.failures, None
            raise failures[0][1]
        ready = []
        for index in range(count):
            fd = self.slot_of(&self.events[index])
            if fd >= 0:
                mask = _mask(self.events[index].events, self.slots[fd].wanted)
                if mask:
                    ready.append((self.key_of(fd), mask))
        return ready

    def get_map(self):
        """Return a live mapping of file objects to SelectorKeys, or None once closed."""
        return None if self.epfd < 0 else _Map(self)

    def close(self):
        """Close the epoll fd and forget everything.  Idempotent."""
        cdef int fd
        self.close_fd()
        for fd in range(<int>self.size):
            self.slots[fd].used = False
        self.count = 0
        self._fileobjs.clear()
        data, self.data = self.data, [None] * self.size
        del data

    def fileno(self):
        """Return the epoll fd.  Raises: ValueError: closed."""
        self._check_open()
        return self.epfd

    def _check_open(self):
        if self.epfd < 0:
            raise ValueError("I/O operation on closed epoll object")


class _Map(Mapping):
    """The mapping of file objects to keys that a selector shows."""

    def __init__(self, selector):
        self._selector = selector

    def __len__(self):
        return (<_Epoll?>self._selector).count

    def __getitem__(self, fileobj):
        cdef _Epoll selector = self._selector
        cdef int fd = selector.find(fileobj)
        if fd < 0:
            raise KeyError(f"{fileobj!r} is not registered")
        return selector.key_of(fd)

    def __iter__(self):
        cdef _Epoll selector = self._selector
        cdef Py_ssize_t fd
        return iter([fd for fd in range(selector.size) if selector.slots[fd].used])


class EpollSelector(_Epoll, selectors.BaseSelector):
    """epoll as a ``selectors.BaseSelector``, level-triggered; what a reactor uses unless it is given another one.

    Unlike the standard library's it tells the kernel of a ``modify`` when it next waits, so that a change that is taken
    back costs nothing; what the kernel has against it is raised there.
    """


cdef inline int _mask(uint32_t events, int wanted) noexcept:
    """Return what to deliver.  Errors and hang-ups are for whoever waits, since a read or a write will tell them."""
    cdef int mask = 0
    if events & ~EPOLLOUT:
        mask = EVENT_READ
    if events & ~EPOLLIN:
        mask |= EVENT_WRITE
    if wanted == 0:
        return EVENT_HUNG_UP if events & (EPOLLERR | EPOLLHUP) else 0
    return mask & wanted


cdef inline int _use_of(object data) noexcept:
    return USED_BY_ENDPOINT if isinstance(data, Endpoint) else USED


cdef int _check_events(events) except -1:
    if events not in (EVENT_READ, EVENT_WRITE, EVENT_READ | EVENT_WRITE):
        raise ValueError(f"Invalid events: {events!r}")
    return events


cdef int _fileno(object fileobj) except -1:
    """Return the fd that an int or an object names; the errors are those of the standard library's selectors."""
    if isinstance(fileobj, int):
        number = fileobj
    else:
        try:
            number = int(fileobj.fileno())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"Invalid file object: {fileobj!r}") from None
    if number < 0:
        raise ValueError(f"Invalid file descriptor: {number}")
    if number > INT_MAX:
        raise OverflowError("Python int too large to convert to C int")
    return number


cdef object _os_error():
    """Return errno as the exception that it makes."""
    try:
        PyErr_SetFromErrno(OSError)
    except OSError as exc:
        return exc


# --- the core --------------------------------------------------------------------------------------------------------


cdef class Core:
    """Scheduling, fds and timers: what runs per callback or per packet.  A lifecycle stands in front of it."""

    _implementation = IMPLEMENTATION

    def __cinit__(self, *args, **kwargs):
        # Until __init__ has run, or after one that failed, it behaves as a closed one.
        self._closed = True
        self._refusal = "Reactor is closed"
        self.sys = &evl_libc
        self.ready = ReadyQueue()
        self._to_flush = ReadyQueue()
        self._scheduled = []
        self._wakeup = _WakeUp(self)

    def __dealloc__(self):
        free(self.gather)

    def __init__(self, selector=None, *, clock=monotonic, socket_factory=socket.socket):
        self._closed = False
        self._clock = clock
        self.socket_factory = socket_factory
        self._selector = EpollSelector() if selector is None else selector
        try:
            self._wakeup.open(self.sys)
            self.register(self._wakeup.event_fd, EVENT_READ, self._wakeup)
        except BaseException:
            self._wakeup.close_fd()
            raise
        close_after_fork(self)

    # BaseEventLoop's __init__ runs after ours and assigns a deque.  To keep our ring is to take over what is in it:
    # code that asks for the attribute each time, as all of asyncio does, sees one queue.
    @property
    def _ready(self):
        return self.ready

    @_ready.setter
    def _ready(self, entries):
        entries = list(entries)
        self.ready.clear()
        self.ready.extend(entries)

    @property
    def _selector(self):
        return self._any_selector

    @_selector.setter
    def _selector(self, selector):
        # A subclass may override select(): it gets the standard interface.
        self.epoll = selector if type(selector) is EpollSelector else None
        self._any_selector = selector

    @property
    def _clock(self):
        return self._any_clock

    @_clock.setter
    def _clock(self, clock):
        self._any_clock = clock
        # Decided here and not per call.  Price: a time() that is patched onto the object later is not seen in here.
        self._own_clock = clock is monotonic and type(self).time is Core.time

    # A property, since asyncio's inherited code, and its tests, assign the field itself.
    @property
    def _debug(self):
        return self.debug

    @_debug.setter
    def _debug(self, enabled):
        self.debug = enabled
        self._debug_switched()

    def _debug_switched(self):
        """Called when debug mode was assigned: asyncio's loop runs other code then."""

    @property
    def _own_fds(self):
        return 1 if self._signals is None else 2

    @property
    def _stale(self):
        return 0 if self.epoll is None else self.epoll.stale

    # --- scheduling ----------------------------------------------------------------------------------------------

    def time(self):
        """Return the reactor's clock: seconds (float, monotonic, arbitrary origin).  Any thread."""
        return self.now() if self._own_clock else self._any_clock()

    cdef double now(self) except? -1:
        cdef timespec moment
        if not self._own_clock:
            return self.time()
        self.sys.clock_gettime(CLOCK_MONOTONIC, &moment)
        return moment.tv_sec + moment.tv_nsec * 1e-9

    def call_soon(self, callback, *args, context=None):
        """Run *callback(\\*args)* once, in the order of the calls; from inside a callback: in the next turn."""
        self.check_usable()
        return self.schedule(callback, args, context)

    cdef Handle schedule(self, object callback, tuple args, object context):
        cdef Handle handle = Handle.__new__(Handle)
        _fill(handle, callback, args, self, context)
        self.ready.push(handle)
        return handle

    def call_soon_threadsafe(self, callback, *args, context=None):
        """Like :meth:`call_soon`, and end the wait.  Any thread, and signal handlers."""
        self.check_closed()
        # First queue, then look: the turn first says that it sleeps, then looks at the queue, so one of the two sees.
        handle = self.schedule(callback, args, context)
        if not self._awake:
            self._wakeup.wake_up()
        return handle

    def call_later(self, delay, callback, *args, context=None):
        """Run *callback(\\*args)* once, *delay* seconds from now (<= 0: in the next turn), never early."""
        self.check_usable()
        return self.schedule_at(self.now() + _seconds("delay", delay), callback, args, context)

    def call_at(self, when, callback, *args, context=None):
        """Run *callback(\\*args)* once, when ``time() >= when`` (seconds; inf: never); equal deadlines run FIFO."""
        self.check_usable()
        return self.schedule_at(_seconds("when", when), callback, args, context)

    cdef TimerHandle schedule_at(self, double when, object callback, tuple args, object context):
        cdef TimerHandle handle = TimerHandle.__new__(TimerHandle)
        _fill(handle, callback, args, self, context)
        handle._when = when
        handle._order = self._timer_order
        self._timer_order += 1
        _heap_push(self._scheduled, handle)
        handle._scheduled = True
        return handle

    def _timer_handle_cancelled(self, handle):
        self.timer_cancelled(handle)

    cdef int timer_cancelled(self, object handle) except -1:
        cdef list scheduled = self._scheduled, live
        cdef Py_ssize_t size = PyList_GET_SIZE(<PyObject*>scheduled), place
        if not handle._scheduled:
            return 0
        self._timer_cancelled_count += 1
        if size <= MIN_SCHEDULED_FOR_REBUILD or self._timer_cancelled_count <= size * MAX_CANCELLED_FRACTION:
            return 0
        live = []
        for timer in scheduled:
            # asyncio's handles say so before they are cancelled, ours after it.
            timer._scheduled = not (timer._cancelled or timer is handle)
            if timer._scheduled:
                live.append(timer)
        scheduled[:] = live
        for place in range((PyList_GET_SIZE(<PyObject*>scheduled) >> 1) - 1, -1, -1):
            _sift_down(scheduled, place)
        self._timer_cancelled_count = 0
        return 0

    def flush_soon(self, endpoint):
        """Have ``endpoint.flush()`` called once before the next wait, unless closed by then.  Reactor thread only."""
        if not isinstance(endpoint, Endpoint):
            raise TypeError(_wrong_endpoint(endpoint))
        self.flush_later(endpoint)

    cdef int flush_later(self, Endpoint endpoint) except -1:
        if not endpoint._dirty:
            endpoint._dirty = True
            self._to_flush.push(endpoint)
        return 0

    cdef object run_soon(self, Endpoint endpoint):
        if not endpoint.queued:
            endpoint.queued = True
            self.ready.push(endpoint)

    # --- file descriptors ----------------------------------------------------------------------------------------

    def register(self, fd, events, endpoint):
        """Poke *endpoint* whenever *fd* (int, or an object with ``fileno()``) is ready for *events*."""
        cdef Endpoint owner
        self.check_closed()
        if not isinstance(endpoint, Endpoint):
            raise TypeError(_wrong_endpoint(endpoint))
        owner = endpoint
        if owner.fd >= 0:
            raise KeyError(f"{endpoint!r} is registered already")
        owner.fd = self._any_selector.register(fd, events, endpoint).fd
        owner.wanted = events

    def modify(self, fd, events, endpoint):
        """Change what *fd* is watched for; an event of this turn that is no longer asked for is not delivered."""
        cdef Endpoint owner
        self.check_closed()
        key = self._any_selector.get_key(fd)
        if key.data is not endpoint:
            raise ValueError(f"fd {key.fd} belongs to {key.data!r}, not to {endpoint!r}")
        self._any_selector.modify(fd, events, endpoint)
        owner = endpoint
        owner.wanted = events
        owner._revents &= events

    def unregister(self, fd):
        """Watch *fd* no more; its undelivered events are dropped.  Reactor thread only."""
        cdef Endpoint owner
        if not self._closed:
            owner = self._any_selector.unregister(fd).data
            owner.fd, owner.wanted, owner._revents = -1, 0, 0

    def _want(self, fd, events, endpoint):
        """Register, modify or, without *events*, pause: with our own selector only a hang-up is then told, once."""
        if not isinstance(endpoint, Endpoint):
            raise TypeError(_wrong_endpoint(endpoint))
        self.want(endpoint, _fileno(fd), _check_events(events) if events else 0)

    cdef int want(self, Endpoint endpoint, int fd, int events) except -1:
        if endpoint.wanted == events and endpoint.fd == fd:
            return 0
        if self._closed and not events:
            return 0  # which watches nothing, as unregister() says
        self.check_closed()
        if endpoint.fd >= 0 and endpoint.fd != fd:
            raise ValueError(f"{endpoint!r} is registered for fd {endpoint.fd}, not {fd}")
        if self.epoll is None:
            self._want_of_any(endpoint, fd, events)
        elif endpoint.fd >= 0:
            self.epoll.change(fd, events)
        else:
            if fd < self.epoll.size and self.epoll.slots[fd].used:
                raise KeyError(f"fd {fd} is already registered")
            self.epoll.add(fd, events, endpoint)
            endpoint.fd = fd
        endpoint.wanted = events
        endpoint._revents &= events
        return 0

    cdef int _want_of_any(self, Endpoint endpoint, int fd, int events) except -1:
        if endpoint.fd >= 0 and events:
            self._any_selector.modify(fd, events, endpoint)
        elif events:
            self._any_selector.register(fd, events, endpoint)
            endpoint.fd = fd
        elif endpoint.fd >= 0:
            self._any_selector.unregister(fd)
            endpoint.fd = -1
        return 0

    cdef int forget(self, Endpoint endpoint) except -1:
        cdef int fd = endpoint.fd
        endpoint.fd, endpoint.wanted, endpoint._revents = -1, 0, 0
        if fd < 0 or self._closed:
            return 0
        if self.epoll is None:
            self._any_selector.unregister(fd)
        else:
            self.epoll.remove(fd)
        return 0

    def add_reader(self, fd, callback, *args):
        """Run *callback(\\*args)* whenever *fd* is readable; replaces the former.  Reactor thread only."""
        self._watch(fd, EVENT_READ, callback, args)

    def remove_reader(self, fd):
        """Stop what :meth:`add_reader` began; return whether there was anything to stop.  Reactor thread only."""
        return self._unwatch(fd, EVENT_READ)

    def add_writer(self, fd, callback, *args):
        """Run *callback(\\*args)* whenever *fd* is writable; otherwise as :meth:`add_reader`.  Reactor thread only."""
        self._watch(fd, EVENT_WRITE, callback, args)

    def remove_writer(self, fd):
        """Stop what :meth:`add_writer` began; return whether there was anything to stop.  Reactor thread only."""
        return self._unwatch(fd, EVENT_WRITE)

    cdef _FdWatch _watch_of(self, object fd):
        cdef int number
        if self.epoll is not None:
            number = self.epoll.find(fd)
            if number < 0:
                return None
            data = self.epoll.data[number]
        else:
            key = self._any_selector.get_map().get(fd)
            if key is None:
                return None
            number, data = key.fd, key.data
        if not isinstance(data, _FdWatch):
            raise RuntimeError(f"fd {number} belongs to {data!r}; it cannot be watched with add_reader or add_writer")
        return data

    def _watch(self, fd, int event, callback, tuple args not None):
        self.check_usable()
        handle = self._debug_handle(callback, args) if self.debug else Handle(callback, args, self)
        return self.watch_with(fd, event, handle)

    cdef Handle watch_with(self, object fd, int event, Handle handle):
        cdef Handle former
        cdef _FdWatch watch = self._watch_of(fd)
        if watch is None:
            watch = _FdWatch(self)
            if type(fd) is int:
                self.want(watch, fd, event)
            else:
                self.register(fd, event, watch)  # which remembers the object
        elif not watch.wanted & event:
            self.want(watch, watch.fd, watch.wanted | event)
        else:
            # An event of this turn was meant for the old callback, which may have been told by other means.  If there
            # still is something, the level-triggered selector says so again.
            watch._revents &= ~event
            former = watch.reader if event == EVENT_READ else watch.writer
            former.cancel()
        if event == EVENT_READ:
            watch.reader = handle
        else:
            watch.writer = handle
        return handle

    def _debug_handle(self, callback, args):
        """Return the handle of a watched fd in debug mode."""
        return _TracedHandle(callback, args, self)

    def _unwatch(self, fd, int event):
        cdef _FdWatch watch
        cdef Handle former
        if self._closed:
            return False
        watch = self._watch_of(fd)
        if watch is None or not watch.wanted & event:
            return False
        if watch.wanted == event:
            self.forget(watch)
            watch.closed = True
        else:
            self.want(watch, watch.fd, watch.wanted & ~event)
        if event == EVENT_READ:
            former, watch.reader = watch.reader, None
        else:
            former, watch.writer = watch.writer, None
        former.cancel()
        return True

    @property
    def recv_buffer(self):
        """A view of the receive buffer that all connections share: RECV_BUFFER writable bytes, made on first use."""
        self.receive_memory()
        return memoryview(self._recv_buffer)  # not ours, which keeps the memory: whoever asks may release his

    cdef unsigned char* receive_memory(self) except NULL:
        if self._recv_buffer is None:
            memory = bytearray(RECV_BUFFER)
            self._recv_buffer = memoryview(memory)  # which keeps the bytes where they are
            self._recv_memory = <unsigned char*>PyByteArray_AS_STRING(memory)
        return self._recv_memory

    cdef unsigned char* gather_memory(self) except NULL:
        if self.gather is NULL:
            self.gather = <unsigned char*>malloc(GATHER_ROOM)
            if self.gather is NULL:
                raise MemoryError
        return self.gather

    # --- the turn ------------------------------------------------------------------------------------------------

    def _turn(self, timeout=None):
        """Turn the wheel once, waiting at most *timeout* seconds (None: as long as nothing happens)."""
        self.turn(-1 if timeout is None else max(timeout, 0.0))

    def _turn_until_stopped(self):
        """Turn until ``_stopping`` is set, or debug mode was switched: asyncio's loop turns another wheel then."""
        cdef bint debug = self.debug
        cdef int skipped = 0
        self.turn(-1)
        while not self._stopping and self.debug == debug:
            if skipped < MAX_SKIPPED and self.nothing_to_hear():
                skipped += 1
                self.turn_without_wait()
            else:
                skipped = 0
                self.turn(-1)

    cdef bint nothing_to_hear(self) except -1:
        """Return whether the next turn's wait would, for all that this process did, add nothing to the FIFO.

        Then the turn may do without: the order of callbacks and events is the same.  So it is where nothing is watched
        but what wakes the reactor up, and where, since the last look, nobody's code has run that could have made an
        fd ready.  What comes from outside has no order to what runs in here.
        """
        cdef _Epoll epoll = self.epoll
        cdef list scheduled = self._scheduled
        if epoll is None or not self._own_clock or self.ready.count == 0 or self._to_flush.count:
            return False
        if not self.undisturbed and epoll.count > 1 + self._internal_fds + (self._signals is not None):
            return False
        if epoll._pending_count or epoll.failures is not None or epoll._full:
            return False
        return not PyList_GET_SIZE(<PyObject*>scheduled) or _first_deadline(scheduled) > self.now()

    cdef int turn_without_wait(self) except -1:
        self.check_closed()
        PyErr_CheckSignals()
        self._turns += 1
        self.undisturbed = self.alone = False
        self.run_ready(self.ready.count)
        return 0

    cdef int turn(self, double timeout) except -1:
        cdef Py_ssize_t left
        cdef int events, total, done = 0
        cdef bint ahead
        self.check_closed()  # the turn before may have forked, and this be the child
        self.flush_dirty(False)
        self._awake = False  # before the FIFO is looked at; see call_soon_threadsafe
        total = events = self.wait(self.time_to_wait(timeout))
        self._awake = True
        try:
            PyErr_CheckSignals()  # a turn of C code alone would never look
            # After the I/O: a reactor that was held up must not time out the peers whose data is waiting.
            self.append_due_timers()
            self._turns += 1
            # What these add is for the next turn, or a callback that calls call_soon would starve the fds.
            left = self.ready.count
            self.undisturbed = False
            self.quiet = 0
            self.alone = left == 0 and events == 1
            ahead = events > 1 and self.epoll is not None and self.epoll.count >= CROWD
            while done < events and not self._closed:
                done += 1
                if ahead:
                    self.look_ahead(done, events)
                self.run_event(done - 1)
                if done == events and self.epoll is not None and self.epoll._crowded:
                    events = self.next_events()
                    done, total = 0, total + events
        finally:
            while done < events and not self._closed:  # an exit ends the run: what was not run yet is for the next one
                self.append_event(done)
                done += 1
        self.undisturbed = left == 0 and self.quiet == total
        self.alone = False
        if self.epoll is not None and self.epoll.failures is not None:  # of changes that next_events() has told
            self._report_failures()
        self.run_ready(left)
        return 0

    cdef int run_ready(self, Py_ssize_t left) except -1:
        cdef object entry
        while left > 0 and self.ready.count > 0:
            left -= 1
            entry = self.ready.pop()
            if type(entry) is Handle or type(entry) is TimerHandle:
                (<Handle>entry).run()  # nothing, once it is cancelled
            elif isinstance(entry, Endpoint):
                _run_endpoint(<Endpoint>entry)
            elif not entry._cancelled:
                entry._run()
        return 0

    cdef int wait(self, double timeout) except -1:
        """Wait; append what is ready to the FIFO, or return how many events of our own epoll would be its first."""
        cdef _Epoll epoll = self.epoll
        cdef int index, count
        if epoll is None:
            ready = self._any_selector.select(None if timeout < 0 else timeout)
            # Python ends an interrupted wait whose time is over without a look (PEP 475); see _Epoll.wait.
            self._process_events(ready if ready or timeout <= 0 else self._any_selector.select(0.0))
            return 0
        count = epoll.begin_round(epoll.wait(timeout))
        self._events += count
        if epoll.failures is not None:
            self._report_failures()
        # With nothing before them in the FIFO they need not go through it: each is run straight from epoll's array.
        if self.ready.count == 0:
            return count
        while count > 0:
            for index in range(count):
                self.append_event(index)
            count = self.next_events()
        return 0

    cdef int next_events(self) except -1:
        """Take what else is ready, if the wait before has brought all that it may; return how many events that are."""
        cdef _Epoll epoll = self.epoll
        cdef int count
        if self._closed or epoll is None or not epoll._crowded:
            return 0
        epoll._crowded = False
        count = epoll.go_round(epoll.wait(0))
        self._events += count
        return count

    @cython.final
    cdef void look_ahead(self, int index, int count) noexcept:
        """Have the processor fetch what the events from *index* on are about, the nearest in most detail."""
        cdef _Epoll epoll = self.epoll
        cdef PyObject** data
        cdef Py_ssize_t size
        cdef uint32_t fd
        if epoll is None or count > epoll._capacity:  # as in run_event
            return
        data = PySequence_Fast_ITEMS(<PyObject*>epoll.data)
        size = min(epoll.size, PyList_GET_SIZE(<PyObject*>epoll.data))
        # Each step reads what the one before it has had fetched, when the event was one further away.
        if index + 2 < count:
            fd = <uint32_t>epoll.events[index + 2].data.u64
            if fd < size:
                evl_prefetch(epoll.slots + fd, 1)
                evl_prefetch(data + fd, 1)
        if index + 1 < count:
            fd = <uint32_t>epoll.events[index + 1].data.u64
            if fd < size:
                evl_prefetch(data[fd], ENDPOINT_AHEAD)
        if index < count:
            fd = <uint32_t>epoll.events[index].data.u64
            if fd < size and epoll.slots[fd].used == USED_BY_ENDPOINT:
                (<Endpoint>data[fd]).prefetch()

    @cython.final
    cdef inline int run_event(self, int index) except -1:
        """Run the endpoint of an event, unless the fd was given back since or it is no longer wanted."""
        cdef Endpoint endpoint
        cdef int fd, mask
        if self.epoll is None or index >= self.epoll._capacity:  # a callback has put in another selector
            return 0
        fd = self.epoll.slot_of(&self.epoll.events[index])
        if fd >= 0:
            mask = _mask(self.epoll.events[index].events, self.epoll.slots[fd].wanted)
            if mask:
                endpoint = _endpoint(PyList_GET_ITEM(<PyObject*>self.epoll.data, fd), self.epoll.slots[fd].used)
                endpoint._revents = endpoint._revents | mask if endpoint.queued else mask
                _run_endpoint(endpoint)
        return 0

    cdef int append_event(self, int index) except -1:
        cdef _Epoll epoll = self.epoll
        cdef int fd
        if epoll is None or index >= epoll._capacity:  # as in run_event
            return 0
        fd = epoll.slot_of(&epoll.events[index])
        if fd >= 0:
            _happened(self, _endpoint(PyList_GET_ITEM(<PyObject*>epoll.data, fd), epoll.slots[fd].used),
                      _mask(epoll.events[index].events, epoll.slots[fd].wanted))
        return 0

    def _process_events(self, events):
        """Append the endpoints of a selector's (key, mask) pairs to the FIFO."""
        for key, mask in events:
            _happened(self, <Endpoint?>key.data, mask)
        self._events += len(events)

    def _report_failures(self):
        failures, self.epoll.failures = self.epoll.failures, None
        for endpoint, exc in failures:
            endpoint._failed(exc)

    def _flush_dirty(self, bint whole=False):
        """Flush what was marked with ``flush_soon``, a slice or the *whole* of it; return whether any is marked now."""
        self.flush_dirty(whole)
        return self._to_flush.count > 0

    cdef int flush_dirty(self, bint whole) except -1:
        # Only what is on the list now: an endpoint that marks itself again must not keep the reactor here.
        cdef Py_ssize_t left = self._to_flush.count, untimed = FLUSHES_UNTIMED
        cdef bint timed = not whole and left > untimed
        cdef double until = self.now() + SLICE if timed else 0
        cdef Endpoint endpoint
        while left > 0 and self._to_flush.count > 0:
            if timed:
                if untimed == 0:
                    if self.now() >= until:
                        break
                    untimed = FLUSHES_UNTIMED
                untimed -= 1
            left -= 1
            endpoint = <Endpoint>self._to_flush.pop()
            if left >= CROWD and self._to_flush.count:
                evl_prefetch(self._to_flush.first(), ENDPOINT_AHEAD)
            endpoint._dirty = False
            if endpoint.closed:
                continue
            try:
                endpoint.flush_output()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                endpoint._failed(exc)
        return 0

    cdef double time_to_wait(self, double timeout) except? -2:
        cdef list scheduled
        cdef double due
        if self.ready.count or self._stopping or self._to_flush.count:
            return 0
        scheduled = self._scheduled
        while PyList_GET_SIZE(<PyObject*>scheduled) and _first_is_cancelled(scheduled):
            self._timer_cancelled_count -= 1
            _heap_pop(scheduled)._scheduled = False
        if PyList_GET_SIZE(<PyObject*>scheduled):
            due = max(_first_deadline(scheduled) - self.now(), <double>0)
            if timeout < 0 or due < timeout:
                timeout = due
        return min(timeout, LONGEST_WAIT)

    cdef int append_due_timers(self) except -1:
        cdef list scheduled = self._scheduled
        self.turn_time = self.now()
        while PyList_GET_SIZE(<PyObject*>scheduled) and _first_deadline(scheduled) <= self.turn_time:
            handle = _heap_pop(scheduled)
            handle._scheduled = False
            if handle._cancelled:
                self._timer_cancelled_count -= 1
            else:
                self.ready.push(handle)
        return 0

    def _wakeup_received(self, data):
        """Take what came through the signals' socket: each byte is the number of one."""

    def _signal_fd(self):
        """Return the fd that ``signal.set_wakeup_fd`` is to have."""
        self.check_closed()
        if self._signals is None:
            signals = _SignalPipe(self)
            try:
                self.register(signals.receiver.fileno(), EVENT_READ, signals)
            except BaseException:
                signals.close()
                raise
            self._signals = signals
        return self._signals.sender.fileno()

    def _use_syscalls(self, table):
        """Make the system calls through *table*, a capsule of an ``evl_syscalls``, from now on; before any fd."""
        self.check_closed()
        sys = <evl_syscalls*>PyCapsule_GetPointer(table, EVL_SYSCALLS_CAPSULE)
        if len(self._any_selector.get_map()) > 1:
            raise RuntimeError("the system calls cannot change under registered fds")
        self.forget(self._wakeup)
        self._wakeup.close_fd()
        if self.epoll is not None:
            self.epoll.close_fd()
            self.epoll.sys = sys
            self.epoll.open()
        self.sys, self._table = sys, table
        self._wakeup.open(sys)
        self.register(self._wakeup.event_fd, EVENT_READ, self._wakeup)

    def _check_closed(self):
        self.check_closed()

    cdef int check_closed(self) except -1:
        if self._closed:
            raise RuntimeError(self._refusal)
        return 0

    cdef int check_usable(self) except -1:
        if self._closed or self.debug:
            self.check_closed()
            if self._thread_id is not None and self._thread_id != threading.get_ident():
                raise RuntimeError("not the reactor's thread: use call_soon_threadsafe")
        return 0

    def _close_core(self):
        self._closed = True
        self.ready.clear()
        self._scheduled.clear()
        self._to_flush.clear()
        self._recv_buffer = None
        self._recv_memory = NULL
        if self._any_selector is not None:  # asyncio's close() has closed it already
            self._any_selector.close()
        self._wakeup.close_fd()
        if self._signals is not None:
            self._signals.close()

    def _forked(self, owner):
        """Become unusable: this is the copy, in a child process, of a reactor that belongs to process *owner*."""
        if self._closed:
            return
        self._closed = True
        self._refusal = f"this reactor belongs to process {owner}; make a new one after fork()"
        endpoints = [key.data for key in self._any_selector.get_map().values()]
        self._thread_id = None  # a thread that ran it is not in this process, unless it is the one that has forked
        self._close_core()
        self.ready.push(Refusal(self._check_closed))
        for endpoint in endpoints:
            endpoint._forked()


class Reactor(Lifecycle, Core):
    """A core with a lifecycle of its own: run, stop, close, signals."""

    def __init__(self, selector=None, *, clock=monotonic, socket_factory=socket.socket):
        Core.__init__(self, selector, clock=clock, socket_factory=socket_factory)
        Lifecycle.__init__(self)


cdef int _fill(Handle handle, object callback, tuple args, Core core, object context) except -1:
    if not PyCallable_Check(callback):
        raise TypeError(f"a callback must be callable, not {type(callback).__name__}")
    handle._callback = callback
    handle._args = args
    handle._context = PyContext_CopyCurrent() if context is None else context
    handle._reactor = core
    return 0


cdef double _seconds(str name, object value) except? -1:
    """Return *value* as a double; NaN would break the order of the heap, and text must not pass for a number."""
    cdef double seconds
    if type(value) is float:
        seconds = value
    else:
        try:
            seconds = value + 0.0
        except TypeError:
            raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}") from None
    if seconds != seconds:
        raise ValueError(f"{name} must be a number of seconds, not NaN")
    return seconds


cdef inline Endpoint _endpoint(PyObject* data, int used):
    # The slot knows: to ask the type is a walk through its bases, 20 instructions with every event.
    if used == USED_BY_ENDPOINT:
        return <Endpoint><object>data
    return <Endpoint?><object>data


cdef inline int _happened(Core core, Endpoint endpoint, int mask) except -1:
    # One that is in the FIFO has events to come, its own or run_soon's; in any other, what is left is stale.
    endpoint._revents = endpoint._revents | mask if endpoint.queued else mask
    core.run_soon(endpoint)
    return 0


cdef str _wrong_endpoint(object endpoint):
    return f"an endpoint must derive from this implementation's Endpoint, not {type(endpoint).__name__}"


cdef str _wrong_reactor(object reactor):
    return f"an endpoint needs a reactor of its own implementation, not {type(reactor).__name__}"
