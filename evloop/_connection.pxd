# What other Cython modules may cimport: the listener makes connections, and hands them a bare fd.

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from evloop._framing cimport Codec, FrameDecoder
from evloop._reactor cimport Core, Endpoint, iovec, socklen_t

cdef enum:
    ADDRESS_ROOM = 28             # bytes of a sockaddr_in6, the longest that is kept

ctypedef struct Times:            # what a deadline needs to know; a connection without deadlines has none
    double began, frame_since, stalled_since, soft_since  # INFINITY: does not run
    int64_t frames_before         # what was delivered of the stream while it was unframed
    int64_t frame_at              # offset in the stream of the frame that frame_since is about
    double due                    # when the timer looks at the deadlines
    int64_t queued                # what the kernel held of the output when it was last asked, or -1


cdef class Budget:
    cdef readonly Py_ssize_t limit, used
    cdef public bint exceeded
    cdef object _tell

    cdef int count(self, Py_ssize_t change) except -1


cdef class _Bounds:
    cdef object limits
    cdef Py_ssize_t high_water, low_water, max_output, soft_output, alarm
    cdef double idle_timeout, first_frame_timeout, frame_timeout, write_timeout, soft_output_timeout
    cdef double flush_timeout, linger
    cdef bint timed
    cdef bint minds_output        # has a bound of the output that a flush is to look at


@cython.final
cdef class Accepted:
    cdef int _fd                  # -1: somebody else's now, or closed
    cdef socklen_t _size          # of the address, as accept4(2) gave it
    cdef unsigned char[ADDRESS_ROOM] _address


cdef enum:                        # STATES, by number
    OPEN
    FLUSHING
    LINGERING
    CLOSED

cdef enum:                        # what share() says: it went nowhere; it went; _mind_output() when all have theirs
    PASSED
    SHARED
    MIND

cdef enum:                        # what somebody waits for whom a Puller resumes
    NOTHING
    FRAME
    CANCELLED                     # nothing any more: which is told in a later turn


cdef class Membership:            # a group, as far as a connection knows it
    cdef bint mixed               # the members may have different framings

    cdef void left(self, Py_ssize_t index) noexcept  # the member at *index* is one no more, and has forgotten it
    cdef void moved(self, Py_ssize_t index, Py_ssize_t place) noexcept  # it knows the group in another place now

ctypedef struct Place:            # in a group
    void* group                   # borrowed: it has itself forgotten before it goes, and so does the connection
    Py_ssize_t index              # of the connection, among its members

ctypedef struct Places:           # and behind it a Place for each of the groups
    Py_ssize_t count, room

cdef inline Place* place_at(Places* places, Py_ssize_t index) noexcept:
    return <Place*>(places + 1) + index


ctypedef struct Tail:             # output that waits, and was copied; the bytes are behind it
    Py_ssize_t start, end, room

cdef inline unsigned char* tail_bytes(Tail* tail) noexcept:
    return <unsigned char*>(tail + 1)


cdef class Puller:                # a protocol that takes the frames itself, when its coroutine asks for one
    cdef unsigned char waits
    cdef object recv, following, drain  # what Connection's recv(), __anext__() and drain() return: awaitables

    cdef int give(self, object frame) except -1  # one frame, to who waits for it
    cdef int frames_ready(self) except -1        # there is something for _take_frame()
    cdef int closing(self) except -1             # there will be nothing more; its coroutine is told in a later turn


cdef class Connection(Endpoint):
    # What every message touches comes first, and together; what is a byte stands with bytes.  An idle connection is to
    # cost 1 KiB at most, with all that belongs to it: what few of them need has memory of its own while they do.
    cdef int _sock                # -1: closed
    cdef unsigned char _state, _receives
    cdef unsigned char _timed, _throttle
    cdef unsigned char _eof, _eof_told, _paused, _scheduled
    cdef unsigned char _corked, _full, _write_eof
    cdef unsigned char _plain     # there is a framing, and its header is the length field alone
    cdef unsigned char _delivering  # the puller is being told, and _run_pending looks after what it leaves
    cdef unsigned char _head      # bytes of the header that belongs in front of `_single`; 0: there is none
    cdef unsigned short _peer_port
    cdef unsigned int _peer_host  # of an IPv4 peer, both in the network's order; 0 is nobody's, and not IPv4 here
    cdef int _unread              # bytes: what is waited for (SO_RCVLOWAT), or 0; once closing, what was discarded
    cdef int _pull_room           # frames that it may still take in this turn
    cdef Codec _codec             # the framing, or None
    cdef FrameDecoder _decoder
    cdef object _receive          # called with what `_receives` says
    cdef object _receiver         # its first argument, if it is a method of the protocol; else None
    cdef _Bounds _bounds
    cdef Budget _budget           # None: nobody counts
    cdef list _pending            # decoded and not delivered, or None
    cdef object _broken
    cdef Py_ssize_t _waiting      # bytes of output, beside what lies in the core's gather
    cdef Py_ssize_t _gather_room  # of the gather: up to here there is nothing to be decided
    cdef int _send_turn           # the turn that _send_room is of, but for its high bits
    cdef int _send_room           # bytes that may still be written in it
    cdef int64_t _frames_received, _bytes_received, _frames_sent, _bytes_sent
    cdef Py_ssize_t _accounted    # bytes that the budget has been told of
    # input: what is decoded and not delivered, and what comes behind it
    cdef Py_ssize_t _next         # the first of `_pending` that is still to be delivered
    cdef object _fault
    cdef Py_ssize_t _undelivered  # bytes of the frames that the last read made whole
    # output that waits: one thing alone; or the chunks, then the tail
    cdef bytes _single            # all of it, if it is one thing: a large answer, or small and a group's; else None
    cdef Py_ssize_t _alarm        # bytes of output above which _output_high is to look
    cdef list _chunks             # bytes objects, or None
    cdef Py_ssize_t _first        # the first chunk that is not wholly sent; if `_head`, the memory of a header instead
    cdef Py_ssize_t _offset       # what is sent of that chunk, or of the one thing alone with its header
    cdef Tail* _tail              # NULL until needed
    # time
    cdef double _last_activity
    cdef Times* _times            # NULL until needed
    cdef object _timer
    # the ends
    cdef public object protocol, context
    cdef readonly object close_reason
    cdef object _exc, _on_lost
    cdef Places* _places          # NULL: in no group
    cdef object _peer             # an Address; until it is asked for None, or the Accepted that keeps it

    cdef int run(self) except -1
    cdef void prefetch(self) noexcept
    cdef int _refuse_coroutines(self, object protocol) except -1
    cdef int _find_receivers_again(self) except -1
    cdef int _expect_first_frame(self) except -1
    cdef int _look_up_receivers(self) except -1
    cdef int _find_receivers(self) except -1
    cdef int _discard(self) except -1
    cdef int _decode(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _read_in_place(self, Py_ssize_t lacking) except -1
    cdef int _read_guess(self, Py_ssize_t body) except -1
    cdef int _guess_failed(self) except -1
    cdef int _received_part(self, unsigned char* start, Py_ssize_t size, int error) except -1
    cdef int _read_header(self) except -1
    cdef int _await_body(self) except -1
    cdef bint _is_awaited(self, Py_ssize_t lacking) noexcept
    cdef int _wait_for(self, int size) except -1
    cdef Py_ssize_t _input(self) noexcept
    cdef int _received(self, Py_ssize_t size) except -1
    cdef int _add_pending(self, list items) except -1
    cdef int _run_pending(self) except -1
    cdef bint _held(self) noexcept
    cdef int _continue_soon(self) except -1
    cdef int _dispatch_pending(self) except -1
    cdef bint _takes_one(self) noexcept
    cdef int _dispatch_one(self, PyObject* frame) except -1
    cdef int _called_back(self, int result, bint outer, bint corked) except -1
    cdef int _callback_failed(self, bint outer, bint corked) except -1
    cdef int _deliver_pending(self) except -1
    cdef PyObject* _take_frame(self) except? NULL
    cdef Puller puller(self)
    cdef int _peer_closed(self) except -1
    cdef Py_ssize_t place_in(self, Membership group) noexcept       # or -1
    cdef int join(self, Membership group, Py_ssize_t index) except -1  # in a new place, the last
    cdef void leave(self, Py_ssize_t place) noexcept
    cdef void _leave_groups(self) noexcept
    cdef bint takes_shared(self) noexcept
    cdef int share(self, bytes data, Py_ssize_t frames) except -1
    cdef int _send(self, object payload, object before, object after) except -1
    cdef bint _may_put(self) except -1
    cdef int _prepare_chunks(self) except -1
    cdef int _append(self, bytes payload) except -1
    cdef int _append_all(self, list payloads) except -1
    cdef int _append_chunk(self, bytes chunk) except -1
    cdef unsigned char* _reserve(self, Py_ssize_t size) except NULL
    cdef unsigned char* _reserve_tail(self, Py_ssize_t size) except NULL
    cdef Tail* _enlarge_tail(self, Py_ssize_t room) except NULL
    cdef int _spill(self) except -1
    cdef bint _goes_alone(self) noexcept
    cdef bint _is_chunk(self, Py_ssize_t size) noexcept
    cdef int _queue_single(self) except -1
    cdef bint _is_plain(self) noexcept
    cdef int _flush_single(self) except -1
    cdef int _tail_to_chunk(self) except -1
    cdef Py_ssize_t _in_tail(self) noexcept
    cdef Py_ssize_t _output(self) noexcept
    cdef int _flush_unless_corked(self, bint alone) except -1
    cdef int _flushed(self) except -1
    cdef int _flush_answers(self) except -1
    cdef int _send_some(self) except -1
    cdef Py_ssize_t _room_in_turn(self) noexcept
    cdef int _send_gathered(self) except -1
    cdef int _gathered_in_part(self, Py_ssize_t sent) except -1
    cdef int _send_waiting(self) except -1
    cdef int _send_single(self) except -1
    cdef Py_ssize_t _send_joined(self, unsigned char* data, Py_ssize_t offset, Py_ssize_t size) noexcept
    cdef void _drop_single(self) noexcept
    cdef int _forget_sent(self, Py_ssize_t sent) except -1
    cdef int _sent(self, Py_ssize_t size) except -1
    cdef void _drop_output(self) noexcept
    cdef int _output_high(self) except -1
    cdef int _keep_water_marks(self) except -1
    cdef int _write_failed(self, int number) except -1
    cdef int _refuse(self, object fault) except -1
    cdef int _close(self, object reason, object exc) except -1
    cdef int _linger(self) except -1
    cdef int _shutdown(self) noexcept
    cdef int _abort(self, object reason, object exc) except -1
    cdef int _failed_io(self, object exc) except -1
    cdef int _end(self, object reason, object exc) except -1
    cdef object _dispatch(self, str name, tuple args)
    cdef int _update_events(self) except -1
    cdef int _arm(self, int state, double when, object callback) except -1
    cdef int _watch(self, double deadline) except -1
    cdef int _ask_kernel(self, double now) except -1
    cdef int _reads_again(self) except -1
    cdef int _time_frame(self) except -1
    cdef int _time_output(self, Py_ssize_t sent) except -1
    cdef int _account(self) except -1
