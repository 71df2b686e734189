# What other Cython modules may cimport: the endpoint to derive from, the core's C-level way in, the table of syscalls.
#
# The generation of an fd, and what epoll has been told about it, stand in the selector's table (Slot) and not in the
# Endpoint: they outlive the endpoint, and the selector can be used with other data than endpoints.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.time cimport timespec
from posix.types cimport clockid_t


cdef extern from "_syscalls.h" nogil:
    ctypedef unsigned int socklen_t
    ctypedef struct sigset_t:
        pass
    ctypedef struct epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    struct sockaddr:
        pass
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    ctypedef struct evl_syscalls:
        int (*epoll_create1)(int flags) noexcept nogil
        int (*epoll_ctl)(int epfd, int op, int fd, epoll_event* event) noexcept nogil
        int (*epoll_wait)(int epfd, epoll_event* events, int capacity, int milliseconds) noexcept nogil
        int (*epoll_pwait2)(int epfd, epoll_event* events, int capacity, const timespec* timeout,
                            const sigset_t* mask) noexcept nogil
        int (*eventfd)(unsigned int value, int flags) noexcept nogil
        ssize_t (*recv)(int fd, void* data, size_t size, int flags) noexcept nogil
        ssize_t (*send)(int fd, const void* data, size_t size, int flags) noexcept nogil
        ssize_t (*sendmsg)(int fd, const msghdr* message, int flags) noexcept nogil
        ssize_t (*readv)(int fd, const iovec* parts, int count) noexcept nogil
        ssize_t (*writev)(int fd, const iovec* parts, int count) noexcept nogil
        int (*accept4)(int fd, sockaddr* address, socklen_t* size, int flags) noexcept nogil
        int (*shutdown)(int fd, int how) noexcept nogil
        int (*setsockopt)(int fd, int level, int option, const void* value, socklen_t size) noexcept nogil
        int (*getsockopt)(int fd, int level, int option, void* value, socklen_t* size) noexcept nogil
        int (*close)(int fd) noexcept nogil
        ssize_t (*read)(int fd, void* data, size_t size) noexcept nogil
        ssize_t (*write)(int fd, const void* data, size_t size) noexcept nogil
        int (*clock_gettime)(clockid_t clock, timespec* time) noexcept nogil
    evl_syscalls evl_libc
    const char* EVL_SYSCALLS_CAPSULE

cdef extern from *:
    ctypedef bint flag "_Bool"    # of one byte, where a bint has four

cdef enum:
    EVENT_READ = 1                # selectors' numbers
    EVENT_WRITE = 2
    EVENT_HUNG_UP = 4             # in _revents only: ERR or HUP, and neither of the two is wanted
    GATHER_ROOM = 262144          # bytes: what one connection may write in a turn
    USED = 1                      # a Slot
    USED_BY_ENDPOINT = 2          # and what its events come with is an Endpoint

ctypedef struct Slot:             # what is known of an fd number; 12 bytes
    uint32_t generation           # counted up when the number is given back: events of before are stale
    unsigned char used            # 0: free; else USED, or USED_BY_ENDPOINT
    unsigned char wanted          # what it is watched for
    unsigned char armed           # what epoll has been told
    unsigned char dirty           # on the list of those whose two may differ
    uint32_t round                # the last crowded round that has brought an event of it


cdef class ReadyQueue:
    cdef list _ring               # None where there is nothing; a list, so that the garbage collector sees through it
    cdef Py_ssize_t _head, count

    cdef int push(self, object entry) except -1
    cdef object pop(self)         # the caller has seen count > 0
    cdef PyObject* first(self) noexcept  # the same; borrowed
    cdef int _grow(self) except -1
    cdef int reserve(self, Py_ssize_t more) except -1  # so that as many push() allocate nothing
    cdef list _entries(self)


cdef class Handle:
    cdef readonly object _callback
    cdef readonly tuple _args
    cdef readonly object _context, _reactor
    cdef public bint _cancelled

    cdef int run(self) except -1
    cdef int _report(self, object callback) except -1


cdef class TimerHandle(Handle):
    cdef readonly double _when
    cdef int64_t _order
    cdef public bint _scheduled   # in the heap


cdef class Endpoint:
    cdef public object _reactor   # the Core
    cdef Core core                # the same, typed
    cdef public flag closed
    cdef public flag _dirty       # on the reactor's list of endpoints to flush
    cdef public unsigned char _revents  # what was reported and has not been delivered
    cdef flag queued              # in the FIFO; it never is twice
    cdef unsigned char wanted     # what it asks for
    cdef int fd                   # -1 while not registered

    cdef int readable(self) except -1      # default: self.on_readable()
    cdef int writable(self) except -1      # default: self.on_writable()
    cdef int hung_up(self) except -1       # ERR or HUP while nothing is wanted, told once; default: self.on_readable()
    cdef int flush_output(self) except -1  # default: self.flush()
    cdef void prefetch(self) noexcept      # have fetched what readable() will look at beside it; default: nothing
    cdef int run(self) except -1
    cdef int _delivery_failed(self) except -1


cdef class _Epoll:
    cdef evl_syscalls* sys
    cdef int epfd                 # -1: closed
    cdef bint _busy               # a thread waits in it
    cdef bint _no_pwait2          # the kernel lacks it
    cdef epoll_event* events      # what the last wait() filled
    cdef int _capacity
    cdef bint _full               # the last wait() filled all of it
    cdef bint _crowded            # and the round that it belongs to is not over
    cdef uint32_t _round
    cdef Py_ssize_t _taken        # events of the round so far
    cdef Slot* slots              # by fd
    cdef list data                # by fd, as long as the slots
    cdef Py_ssize_t size
    cdef Py_ssize_t count         # registered
    cdef dict _fileobjs           # by fd, of those that were not registered as numbers
    cdef int* _pending            # the dirty fds; as much room as there are slots
    cdef Py_ssize_t _pending_count
    cdef list failures            # (data, exception) of deferred changes that the kernel refused, or None
    cdef int64_t stale            # events of numbers that were given back

    cdef int open(self) except -1
    cdef int close_fd(self) noexcept
    cdef int add(self, int fd, int events, object data) except -1
    cdef int change(self, int fd, int events) except -1
    cdef int remove(self, int fd) except -1
    cdef int wait(self, double timeout) except -1
    cdef int _block(self, double timeout) noexcept nogil
    cdef int _apply(self) except -1
    cdef int _control(self, int operation, int fd, int events) noexcept
    cdef int _more_slots(self, int fd) except -1
    cdef int _more_events(self) noexcept
    cdef int begin_round(self, int count) noexcept
    cdef int go_round(self, int count) noexcept
    cdef int slot_of(self, epoll_event* event) noexcept
    cdef int find(self, object fileobj) except -2
    cdef object key_of(self, int fd)


cdef class Core:
    cdef evl_syscalls* sys
    cdef object _table            # the owner of sys, or None
    cdef _Epoll epoll             # the selector, if it is our own; else None
    cdef object _any_selector
    cdef ReadyQueue ready
    cdef ReadyQueue _to_flush
    cdef public list _scheduled
    cdef public Py_ssize_t _timer_cancelled_count
    cdef int64_t _timer_order
    cdef object __weakref__
    cdef public bint _stopping, _closed
    cdef bint debug
    cdef public str _refusal             # what a use of it is answered with, once it is closed
    cdef public bint _awake       # true while the FIFO is certain to be looked at before the next wait
    cdef public bint dispatching  # an endpoint runs the application's code: writes of others wait for flush_soon
    cdef public object _thread_id
    cdef public double _clock_resolution
    cdef public object socket_factory
    cdef object _any_clock
    cdef bint _own_clock          # the clock is time.monotonic, and time() is ours
    cdef double turn_time         # the clock at the end of this turn's wait
    cdef object _recv_buffer
    cdef unsigned char* _recv_memory  # owned by _recv_buffer
    # What the one connection that is being dispatched sends gathers here, and leaves with one send when it returns:
    # no connection needs memory of its own for what the kernel takes at once.
    cdef unsigned char* gather    # GATHER_ROOM bytes, or NULL before the first use
    cdef Py_ssize_t gathered      # bytes in it
    cdef void* gather_owner       # whose they are; borrowed, and NULL outside of its dispatch
    cdef readonly _WakeUp _wakeup
    cdef object _signals
    cdef readonly int64_t _turns, _events
    cdef public int _internal_fds  # asyncio's count of the fds that it watches for itself
    # Events of this turn whose endpoints have run nobody's code, but only moved bytes and scheduled: each adds itself.
    cdef int quiet
    cdef bint undisturbed         # the last turn ran nothing but such events
    cdef bint alone               # the event that is being run is all that this turn runs

    cdef double now(self) except? -1
    cdef unsigned char* gather_memory(self) except NULL
    cdef unsigned char* receive_memory(self) except NULL  # RECV_BUFFER bytes, shared by all; made on first use
    # Declare interest; with events 0 our own epoll keeps it registered (ERR and HUP still come, once), any other
    # selector forgets it.
    cdef int want(self, Endpoint endpoint, int fd, int events) except -1
    cdef int forget(self, Endpoint endpoint) except -1    # at once, before the owner closes the fd
    cdef int flush_later(self, Endpoint endpoint) except -1
    cdef object run_soon(self, Endpoint endpoint)         # into the FIFO; the caller has set _revents
    cdef Handle schedule(self, object callback, tuple args, object context)
    cdef TimerHandle schedule_at(self, double when, object callback, tuple args, object context)
    cdef int timer_cancelled(self, object handle) except -1
    cdef bint nothing_to_hear(self) except -1
    cdef int turn_without_wait(self) except -1
    cdef int turn(self, double timeout) except -1         # < 0: no limit
    cdef int run_ready(self, Py_ssize_t left) except -1
    cdef int flush_dirty(self, bint whole) except -1  # whole: no matter how long it takes
    cdef double time_to_wait(self, double timeout) except? -2
    cdef int next_events(self) except -1
    cdef int wait(self, double timeout) except -1
    cdef void look_ahead(self, int index, int count) noexcept
    cdef int run_event(self, int index) except -1
    cdef int append_event(self, int index) except -1
    cdef int append_due_timers(self) except -1
    cdef int check_closed(self) except -1
    cdef int check_usable(self) except -1
    cdef _FdWatch _watch_of(self, object fd)
    cdef Handle watch_with(self, object fd, int event, Handle handle)  # add_reader, add_writer; `handle` is run
    cdef int _want_of_any(self, Endpoint endpoint, int fd, int events) except -1


cdef class _FdWatch(Endpoint):
    cdef Handle reader, writer


cdef class _WakeUp(Endpoint):
    cdef evl_syscalls* sys
    cdef public bint pending
    cdef int event_fd             # -1: closed

    cdef int open(self, evl_syscalls* sys) except -1
    cdef int wake_up(self) noexcept
    cdef int close_fd(self) noexcept
