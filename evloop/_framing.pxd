# What other Cython modules may cimport: the codec's numbers and the decoder's entry for raw memory.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

# Give back the memory of frames, if they are bytes objects that nobody else holds: of one whose reference is the
# caller's; of the items of a list that only the caller holds, which are taken off its end; of an item of a list, whose
# place None takes, if it is large.
cdef void give_back(PyObject* frame) noexcept
cdef void give_items(list items) noexcept
cdef void give_large(list items, Py_ssize_t index) noexcept


cdef class Codec:
    # the layout, as numbers
    cdef readonly int before, after, header_size
    cdef int longest_header       # bytes; with a varint more than header_size
    cdef int size                 # bytes of the length field: 1..8, or 0 for a varint
    cdef int order                # how load() and store() treat the field: size, negative for little-endian
    cdef bint simple              # the header is the length field alone
    cdef int64_t delta            # length field minus payload length
    cdef Py_ssize_t limit         # max_frame
    cdef const unsigned char* magic_bytes  # owned by `magic`
    cdef int magic_size
    cdef int deliver_as           # 0 payload, 1 frame, 2 pair
    # the layout, as Python sees it
    cdef readonly object width, byteorder, magic, counts, bias, deliver, max_frame
    cdef object _layout

    cdef int write_header(self, unsigned char* out, Py_ssize_t length, const unsigned char* before,
                          const unsigned char* after) noexcept
    cdef Py_ssize_t header_length(self, Py_ssize_t length) noexcept
    cdef int check_payload(self, Py_ssize_t length) except -1


cdef enum:
    NEAR = 8                      # bytes: the longest header that is a length field alone


cdef class FrameDecoder:
    # What every frame touches comes first, and together: with thousands of connections each line of memory is a miss.
    # With thousands of connections it is also a third of what an idle one holds: what a framing's numbers or another
    # field say already is no field, and what few need is elsewhere.
    cdef Codec _codec
    cdef unsigned char _state     # 0: between frames, or in a header
    cdef unsigned char _header_size  # header bytes in the scratch, of MAX_HEADER at most
    cdef unsigned char _busy, _lost
    cdef unsigned char _skip_oversize
    cdef unsigned char _doubt     # so many guesses are left out
    cdef readonly unsigned short _resizes  # how often a body was enlarged; for the tests of the growth policy
    cdef uint64_t _fast_low, _fast_high  # the length-field values that the fast loop takes
    cdef list _rest               # what a limit held back
    cdef object _failure
    cdef Py_ssize_t _expected     # size of the last frame that came alone
    cdef int64_t _position        # where we are in the stream
    cdef int64_t _frames, _payload_bytes, _largest
    # the item being read: its header, its body or sink, how much of it is there
    cdef PyObject* _body          # the final bytes object, or NULL; owned, never exposed before it is whole
    cdef Py_ssize_t _filled, _need
    cdef object _sink
    cdef unsigned char* _header   # the scratch: `_near`, or memory of its own for a framing whose headers are longer
    cdef unsigned char[NEAR] _near
    # the bounds, and what is rarely asked for
    cdef tuple _spill             # the sinks' maker, and the payload size above which it is asked; or None
    cdef Py_ssize_t _max_frame
    cdef Py_ssize_t _rest_offset
    cdef int64_t _skipped, _skipped_bytes, _copied

    cdef Py_ssize_t held(self) noexcept  # buffered, and in_frame
    cdef bint unfinished(self) noexcept
    # Receiving in place: how much the current body lacks (0: it is no such body), where that goes and for how much
    # there is room, and that so much has come.  Then feed_pointer, if only with nothing.  And the same for a frame
    # that is only guessed at, header and body.  Between asking for the place and telling what came no Python code may
    # run.
    cdef Py_ssize_t lacking(self) noexcept
    cdef unsigned char* body_tail(self, Py_ssize_t come, Py_ssize_t* room) except NULL
    cdef void received_in_place(self, Py_ssize_t size) noexcept
    cdef Py_ssize_t guessed(self) noexcept
    cdef unsigned char* guess(self) noexcept
    cdef bytes received_guess(self, Py_ssize_t size)
    cdef PyObject* take_guess(self) noexcept
    cdef PyObject* feed_one(self, const unsigned char* data, Py_ssize_t size) noexcept
    cdef list feed_pointer(self, const unsigned char* data, Py_ssize_t size, object owner, Py_ssize_t room)
    cdef int _out_of_memory(self, object exc, list items) except -1
    cdef int _decode(self, const unsigned char* data, Py_ssize_t size, object owner, list items,
                     Py_ssize_t room) except -1
    cdef Py_ssize_t _consume(self, const unsigned char* data, Py_ssize_t pos, Py_ssize_t end, list items,
                             Py_ssize_t room) except -1
    cdef Py_ssize_t _scan_plain(self, const unsigned char* data, Py_ssize_t pos, Py_ssize_t end, list items,
                                Py_ssize_t room) except -1
    cdef Py_ssize_t _scan(self, const unsigned char* data, Py_ssize_t pos, Py_ssize_t end, list items,
                          Py_ssize_t room) except -1
    cdef bint _keep(self, const unsigned char* data, Py_ssize_t pos, Py_ssize_t end) except -1
    cdef Py_ssize_t _read_header(self, const unsigned char* data, Py_ssize_t pos, Py_ssize_t end) except -1
    cdef int _header_need(self) noexcept
    cdef int _begin_body(self, Py_ssize_t available) except -1
    cdef Py_ssize_t _read_body(self, const unsigned char* data, Py_ssize_t pos, Py_ssize_t end) except -1
    cdef Py_ssize_t _prefix(self) noexcept
    cdef Py_ssize_t _capacity(self) noexcept
    cdef int _grow(self, Py_ssize_t at_least) except -1
    cdef int _finish(self, list items) except -1
    cdef int _open_sink(self, bytes header) except -1
    cdef int _write(self, bytes data) except -1
    cdef int _sink_raised(self, object exc) except -1
    cdef int _fail(self, object failure, bint lost=*) except -1
    cdef object _take_failure(self, list items)
    cdef int _check_idle(self) except -1
    cdef int _set_max_frame(self, object value) except -1
    cdef Py_ssize_t _item_size(self) noexcept
    cdef Py_ssize_t _rest_bytes(self) noexcept
    cdef bytes _header_bytes(self)
    cdef void _drop_body(self) noexcept
