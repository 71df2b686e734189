"""The framing at C speed: the twin of ``_framing_py.py``, with the same classes and methods in the same order.

What differs is where bytes lie.  The fed chunk is read through a pointer, whole frames become exact ``bytes`` in one
copy, and the body of a frame that a read has cut is received into its final ``bytes`` object, which grows with what
arrived.  Pointers never outlive the call that acquired them.  The whole docstrings are
in the twin.

Rule: nothing in this file may know a socket, a clock or a log, and no text of an error stands here.
"""

import sys

cimport cython
from cpython.buffer cimport PyBUF_FULL_RO, PyBUF_WRITABLE, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from evloop import _framing_spec as spec
from evloop._framing_spec import DecoderStats, FramingSpec
from evloop.errors import FramingError

cdef extern from "_wire.h":
    uint64_t evl_load(const unsigned char* p, int order) noexcept nogil
    void evl_store(unsigned char* p, int order, uint64_t v) noexcept nogil
    int evl_load_varint(const unsigned char* p, Py_ssize_t available, uint64_t* value) noexcept nogil
    int evl_store_varint(unsigned char* p, uint64_t value) noexcept nogil
    bint unlikely "EVL_UNLIKELY"(bint) noexcept nogil

cdef extern from "_move.h":
    void evl_move(unsigned char* to, const unsigned char* data, size_t size) noexcept nogil

cdef extern from "_bodies.h":
    PyObject* evl_take_body(Py_ssize_t size) except NULL
    PyObject* _take_body "evl_take_body"(Py_ssize_t size) noexcept
    void evl_give_body(PyObject* body) noexcept
    void evl_forget_hash(PyObject* body) noexcept
    size_t EVL_FRONT
    void evl_give_large(PyObject* items, Py_ssize_t index) noexcept
    void evl_give(PyObject* body) noexcept
    object _copy "evl_copy"(const unsigned char* data, Py_ssize_t size)
    PyObject* evl_copy(const unsigned char* data, Py_ssize_t size) noexcept

cdef extern from "_scan.h":
    ctypedef struct evl_scanner:
        const unsigned char* at
        const unsigned char* end
        uint64_t low, high
        int64_t delta
        int order, failed
        Py_ssize_t payload, largest
        PyObject** frames
    enum: EVL_BATCH
    Py_ssize_t evl_scan(evl_scanner* scanner, Py_ssize_t room) noexcept
    int evl_extend(PyObject* items, PyObject** objects, Py_ssize_t count) except -1
    int evl_scanned(const evl_scanner* scanner) except -1
    void evl_give_items(PyObject* items) noexcept

cdef extern from "Python.h":
    object _new_bytes "PyBytes_FromStringAndSize"(const unsigned char* data, Py_ssize_t size)
    PyObject* PyBytes_New "PyBytes_FromStringAndSize"(const char* data, Py_ssize_t size) noexcept
    void PyErr_Clear() noexcept
    PyObject* PyList_GET_ITEM(list items, Py_ssize_t index)
    int _PyBytes_Resize(PyObject** body, Py_ssize_t size) except -1
    void Py_DECREF(PyObject*)
    Py_ssize_t PY_SSIZE_T_MAX
    Py_ssize_t Py_REFCNT(PyObject*) noexcept
    bint PyBytes_CheckExact(object) noexcept

IMPLEMENTATION = "cython"

cdef enum:
    MAX_VARINT = 10
    # The payload room of an unfinished body's first allocation: ten thousand peers that announce a mebibyte and send
    # ten bytes cost 11 MiB, and frames of up to 1 KiB, the usual ones, are never enlarged.
    FIRST_ROOM = 1024
    # Room for so many times what has arrived.  What is not written is address space and not memory, so this is free,
    # and each enlargement that it spares is a copy of what is there.  See docs/adr/0002.
    GROWTH = 8
    # Bodies of this size and above are worth a read that guesses where they go; below, the copy is cheaper.
    GUESSED = 16384
    # Guesses that are not made after one that was wrong, which cost a copy too many.
    DOUBT = 16


cdef void give_items(list items) noexcept:
    evl_give_items(<PyObject*>items)


cdef void give_large(list items, Py_ssize_t index) noexcept:
    evl_give_large(<PyObject*>items, index)


cdef void give_back(PyObject* frame) noexcept:
    if PyBytes_CheckExact(<object>frame) and Py_REFCNT(frame) == 1:
        evl_give(frame)
    else:
        Py_DECREF(frame)


@cython.auto_pickle(False)  # Framing pickles as its arguments; see FramingSpec
cdef class Codec:
    """The numbers of a wire format, and the encoders that use them; :class:`Framing` is its public form."""

    def __cinit__(self, *args, **kwargs):
        layout = spec.validate(*args, **kwargs)
        self._layout = layout
        self.width, self.byteorder = layout.width, layout.byteorder
        self.before, self.after, self.magic = layout.before, layout.after, layout.magic
        self.counts, self.bias = layout.counts, layout.bias
        self.deliver, self.max_frame = layout.deliver, layout.max_frame
        self.header_size, self.size, self.delta = layout.header_size, layout.size, layout.delta
        self.longest_header = layout.before + (layout.size or MAX_VARINT) + layout.after
        self.order = self.size if layout.byteorder == "big" else -self.size
        self.simple = layout.header_size == layout.size
        self.limit = layout.max_frame
        self.magic_bytes = <const unsigned char*>PyBytes_AS_STRING(self.magic)
        self.magic_size = len(layout.magic)
        self.deliver_as = spec.DELIVER.index(layout.deliver)

    @property
    def signed(self):
        return self._layout.signed

    def header(self, length, before=b"", after=b""):
        """Return the header that announces a payload of *length* bytes, for sendfile(2) or writev(2)."""
        if spec.check_length(length) > self.limit:
            raise spec.too_large(length, self.limit)
        return _frame(self, length, NULL, before, after)

    def encode(self, payload, before=b"", after=b""):
        """Return one frame, header and payload, as new bytes."""
        cdef Py_ssize_t size
        if type(payload) is not bytes:
            payload = _as_bytes(self, payload)
        size = PyBytes_GET_SIZE(payload)
        return _frame(self, size, <const unsigned char*>PyBytes_AS_STRING(payload), before, after)

    def encode_many(self, payloads, before=b"", after=b""):
        """Return the frames of an iterable of payloads as one bytes object, all with the same *before* and *after*."""
        cdef list items
        cdef Py_ssize_t total = 0, size, index
        cdef unsigned char* out
        cdef const unsigned char* before_bytes
        cdef const unsigned char* after_bytes
        if self.simple and type(payloads) is list and before is b"" and after is b"":
            frames = _encode_plain(self, payloads)
            if frames is not None:
                return frames
        # A list of our own: an element's conversion may run Python code, and that may change the caller's list.
        items = list(payloads)
        if not items:
            return b""
        for index in range(len(items)):
            if type(items[index]) is not bytes:
                items[index] = _as_bytes(self, items[index])
            size = PyBytes_GET_SIZE(items[index])
            self.check_payload(size)
            # No overflow: the payloads are in memory, and a header is at most 64 bytes for an 8-byte reference.
            total += self.header_length(size) + size
        before, after = _edges(self, before, after)
        frames = PyBytes_FromStringAndSize(NULL, total)
        out = <unsigned char*>PyBytes_AS_STRING(frames)
        before_bytes = <const unsigned char*>PyBytes_AS_STRING(before)
        after_bytes = <const unsigned char*>PyBytes_AS_STRING(after)
        for payload in items:
            size = PyBytes_GET_SIZE(payload)
            out += self.write_header(out, size, before_bytes, after_bytes)
            memcpy(out, PyBytes_AS_STRING(payload), size)
            out += size
        return frames

    def encode_parts(self, payload, before=b"", after=b""):
        """Return ``(header, payload)``, the payload object unchanged: a frame for writev(2) that copies nothing."""
        size = PyBytes_GET_SIZE(payload) if type(payload) is bytes else spec.bytes_view(payload, "payload").nbytes
        return self.header(size, before, after), payload

    def encode_into(self, payload, buffer, offset=0, before=b"", after=b""):
        """Write one frame into a writable *buffer* at *offset* (bytes, >= 0); return the bytes written."""
        cdef bytes frame = self.encode(payload, before, after)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(frame), start
        cdef Py_buffer view
        target = spec.writable_view(buffer)
        start = spec.check_offset(offset)
        if size > <Py_ssize_t>len(target) - start:
            raise spec.room_fault(size, offset, len(target))
        PyObject_GetBuffer(target, &view, PyBUF_WRITABLE)
        memcpy(<unsigned char*>view.buf + start, PyBytes_AS_STRING(frame), size)
        PyBuffer_Release(&view)
        return size

    def decoder(self, **options):
        """Return a new :class:`FrameDecoder` for this framing; *options* are its keywords.  Any thread."""
        return FrameDecoder(self, **options)

    cdef int write_header(self, unsigned char* out, Py_ssize_t length, const unsigned char* before,
                          const unsigned char* after) noexcept:
        """Write the header of a checked *length*; return its size.  The edges have been checked, too."""
        cdef unsigned char* start = out
        cdef uint64_t value = <uint64_t>(<int64_t>length + self.delta)
        if self.simple:
            evl_store(out, self.order, value)
            return self.size
        memcpy(out, self.magic_bytes, self.magic_size)
        memcpy(out + self.magic_size, before, self.before - self.magic_size)
        out += self.before
        if self.size:
            evl_store(out, self.order, value)
            out += self.size
        else:
            out += evl_store_varint(out, value)
        memcpy(out, after, self.after)
        return <int>(out - start) + self.after

    cdef Py_ssize_t header_length(self, Py_ssize_t length) noexcept:
        cdef uint64_t value = <uint64_t>(<int64_t>length + self.delta)
        cdef Py_ssize_t size = self.header_size
        if self.size == 0:
            while value > 0x7F:
                value >>= 7
                size += 1
        return size

    cdef int check_payload(self, Py_ssize_t length) except -1:
        if length > self.limit:
            raise spec.too_large(length, self.limit)
        if <int64_t>length + self.delta < 0:
            raise spec.unannounceable(self._layout, length)
        return 0


cdef bytes _encode_plain(Codec codec, list payloads):
    """Return the frames of a list of nothing but bytes, None if there is something else in it.

    No Python code can run in here, so the list stays as it is and its items need no references of ours.
    """
    cdef Py_ssize_t total = 0, size, index, count = PyList_GET_SIZE(payloads)
    cdef int head = codec.size, order = codec.order
    cdef unsigned char* out
    cdef PyObject* payload
    for index in range(count):
        payload = PyList_GET_ITEM(payloads, index)
        if not PyBytes_CheckExact(<object>payload):
            return None
        size = PyBytes_GET_SIZE(<object>payload)
        if size > codec.limit or <int64_t>size + codec.delta < 0:
            codec.check_payload(size)  # raises
        total += head + size
    frames = PyBytes_FromStringAndSize(NULL, total)
    out = <unsigned char*>PyBytes_AS_STRING(frames)
    for index in range(count):
        payload = PyList_GET_ITEM(payloads, index)
        size = PyBytes_GET_SIZE(<object>payload)
        evl_store(out, order, <uint64_t>(<int64_t>size + codec.delta))
        evl_move(out + head, <const unsigned char*>PyBytes_AS_STRING(<object>payload), size)
        out += head + size
    return frames


cdef bytes _as_bytes(Codec codec, payload):
    """Return an immutable copy of a payload that is not bytes, once its size is known to be allowed."""
    view = spec.bytes_view(payload, "payload")
    codec.check_payload(view.nbytes)
    return view.tobytes()


cdef tuple _edges(Codec codec, before, after):
    if type(before) is not bytes:
        before = spec.bytes_view(before, "before").tobytes()
    if type(after) is not bytes:
        after = spec.bytes_view(after, "after").tobytes()
    if codec.magic_size + PyBytes_GET_SIZE(before) != codec.before or PyBytes_GET_SIZE(after) != codec.after:
        raise spec.edge_fault(codec._layout, before, after)
    return before, after


cdef bytes _frame(Codec codec, Py_ssize_t size, const unsigned char* payload, before, after):
    """Return header and payload, or with a NULL payload the header alone."""
    cdef Py_ssize_t head
    cdef unsigned char* out
    codec.check_payload(size)
    if not codec.simple or before is not b"" or after is not b"":
        before, after = _edges(codec, before, after)
    head = codec.header_length(size)
    frame = PyBytes_FromStringAndSize(NULL, head if payload is NULL else head + size)
    out = <unsigned char*>PyBytes_AS_STRING(frame)
    codec.write_header(out, size, <const unsigned char*>PyBytes_AS_STRING(before),
                       <const unsigned char*>PyBytes_AS_STRING(after))
    if payload is not NULL:
        evl_move(out + head, payload, size)
    return frame


class Framing(Codec, FramingSpec):
    """A length-prefixed wire format: one immutable value for both directions, shared by every connection."""

    __slots__ = ()


spec.add_presets(Framing)

cdef enum:
    HEADER
    BODY
    RAW
    SKIP
    FAILED
    CLOSED

cdef tuple STATES = ("header", "body", "raw", "skip", "failed", "closed")


@cython.final
cdef class FrameDecoder:
    """Cut a stream of bytes into frames: feed what arrived, get what is complete."""

    def __cinit__(self, framing, *, max_frame=None, oversize="error", spill=None, spill_above=None):
        if not isinstance(framing, Codec):
            raise TypeError(f"framing must be a Framing, not {type(framing).__name__}")
        self._codec = framing
        above = spec.check_options(oversize, spill, spill_above)
        self._skip_oversize = oversize == "skip"
        self._spill = None if spill is None else (spill, above)
        self._set_max_frame(framing.max_frame if max_frame is None else max_frame)
        self._header = self._near
        if self._codec.longest_header > NEAR:
            self._header = <unsigned char*>malloc(self._codec.longest_header)
            if self._header is NULL:
                raise MemoryError

    def __dealloc__(self):
        self._drop_body()
        if self._header != <unsigned char*>self._near:
            free(self._header)

    def feed(self, data, limit=None):
        """Return the items that *data* completes, at most *limit* of them; keep the rest for the next call."""
        cdef Py_ssize_t room = PY_SSIZE_T_MAX
        cdef Py_buffer view
        if type(data) is bytes:
            if limit is not None:
                room = spec.check_limit(limit)
            return self.feed_pointer(<const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data, room)
        _get_buffer(data, &view)
        try:
            if limit is not None:
                room = spec.check_limit(limit)
            return self.feed_pointer(<const unsigned char*>view.buf, view.len, None, room)
        finally:
            PyBuffer_Release(&view)

    cdef Py_ssize_t lacking(self) noexcept:
        """Return how many bytes of the current body could be received in place."""
        if self._state != BODY or self._sink is not None or self._busy or self._rest is not None:
            return 0
        return self._need - self._filled

    cdef unsigned char* body_tail(self, Py_ssize_t come, Py_ssize_t* room) except NULL:
        """Return where the next bytes of the current body belong, *come* of which have, and for how many is room."""
        come = self._filled + min(max(come, <Py_ssize_t>1), self._need - self._filled)
        if self._body is NULL or self._capacity() < come:
            self._grow(come)
        room[0] = self._capacity() - self._filled
        return <unsigned char*>PyBytes_AS_STRING(<object>self._body) + self._prefix() + self._filled

    cdef void received_in_place(self, Py_ssize_t size) noexcept:
        """Account for *size* bytes that were written to body_tail()."""
        self._filled += size

    cdef Py_ssize_t guessed(self) noexcept:
        """Return the size of the body that probably comes next, if it is worth a guess, else 0.

        Bulk traffic is frames of one size: the next one is received where it will stay if it is like the last one.
        """
        if self._expected == 0 or self._state != HEADER or self._header_size or self._busy or \
                self._rest is not None or not self._codec.simple or self._codec.deliver_as or \
                <size_t>self._codec.header_size > EVL_FRONT:
            return 0
        if self._doubt:
            self._doubt -= 1
            return 0
        return self._expected

    cdef unsigned char* guess(self) noexcept:
        """Return where the next frame would go, if it has the guessed size: its header is in front of the body's data,
        until take_guess() has taken it or received_guess() been told.  NULL with MemoryError."""
        self._body = _take_body(self._expected)
        if self._body is NULL:
            return NULL
        return <unsigned char*>PyBytes_AS_STRING(<object>self._body) - self._codec.header_size

    cdef bytes received_guess(self, Py_ssize_t size):
        """Account for *size* bytes received there; if the guess was wrong, return them, to be fed."""
        cdef Codec codec = self._codec
        cdef Py_ssize_t head = codec.header_size, room = self._expected, body = min(size - head, room)
        cdef uint64_t value
        cdef bint right = False
        if size > 0:
            memcpy(self._header, PyBytes_AS_STRING(<object>self._body) - head, min(size, head))
        evl_forget_hash(self._body)
        if body >= 0:
            value = evl_load(self._header, codec.order)
            right = self._fast_low <= value <= self._fast_high and <Py_ssize_t>(<int64_t>value - codec.delta) == room
            if right and body >= room // GROWTH:  # memory follows what has arrived, from the pool as well
                self._state, self._header_size = BODY, <unsigned char>head
                self._need = room
                self._filled = body
                return None
        received = None
        try:
            if size > 0:
                received = _new_bytes(NULL, min(size, head + room))
                memcpy(PyBytes_AS_STRING(received), self._header, min(size, head))
                if body > 0:
                    memcpy(PyBytes_AS_STRING(received) + head, PyBytes_AS_STRING(<object>self._body), body)
                if not right:
                    self._doubt = DOUBT
        finally:
            evl_give_body(self._body)
            self._body = NULL
        return received

    cdef PyObject* take_guess(self) noexcept:
        """Return the frame that was received whole at guess(), the caller's reference; NULL if it is another one."""
        cdef PyObject* frame = self._body
        cdef Py_ssize_t size = self._expected
        cdef uint64_t value = evl_load(
            <unsigned char*>PyBytes_AS_STRING(<object>frame) - self._codec.header_size, self._codec.order)
        if value < self._fast_low or value > self._fast_high or <int64_t>value - self._codec.delta != size:
            return NULL
        evl_forget_hash(frame)
        self._body = NULL
        self._frames += 1
        self._payload_bytes += size
        self._largest = max(self._largest, <int64_t>size)
        self._position += self._codec.header_size + size
        return frame

    cdef PyObject* feed_one(self, const unsigned char* data, Py_ssize_t size) noexcept:
        """Return the one frame that data[0:size] is, neither more nor less; NULL, and nothing is done, if it is not.

        A peer that waits for each answer sends nothing else, and a list for one frame is a tenth of what it costs.
        Returns: a new reference.
        """
        cdef Py_ssize_t body = size - self._codec.size
        cdef uint64_t value
        cdef PyObject* made
        # A decoder that has failed or is closed is in a state of its own.
        if body < 0 or self._state != HEADER or self._header_size or self._busy or self._rest is not None or \
                not self._codec.simple or self._codec.deliver_as or body >= GUESSED:
            return NULL
        value = evl_load(data, self._codec.order)
        if value < self._fast_low or value > self._fast_high or <int64_t>value - self._codec.delta != body:
            return NULL
        # Nobody's code runs in this allocation.  Without memory the usual way says so, with all that belongs to it.
        made = evl_copy(data + self._codec.size, body)
        if made is NULL:
            PyErr_Clear()
            return NULL
        self._position += size
        self._frames += 1
        self._payload_bytes += body
        if body > self._largest:
            self._largest = body
        self._expected = 0
        return made

    cdef list feed_pointer(self, const unsigned char* data, Py_ssize_t size, object owner, Py_ssize_t room):
        """Decode data[0:size]; *owner* is the bytes object it lies in, or None: then what must be kept is copied."""
        cdef list items
        cdef bint whole = False
        self._check_idle()
        if self._failure is not None:
            raise _again(self._failure)
        if self._state == CLOSED:
            raise RuntimeError(spec.FED_AFTER_END)
        items = []
        # Allocating may run a garbage collection, and that any code at all: the flag covers the whole decode.
        self._busy = True
        try:
            self._decode(data, size, owner, items, room)
            whole = True
        finally:
            self._busy = False
            # Not an except clause: saving the caller's exception state for one costs 2 ns in every call.
            if not whole:
                self._out_of_memory(sys.exc_info()[1], items)
        if self._state == FAILED:
            raise self._take_failure(items)
        return items

    cdef int _out_of_memory(self, object exc, list items) except -1:
        if isinstance(exc, MemoryError):
            self._fail(exc, lost=True)
            exc.frames = items
        return 0

    def eof(self):
        """Tell the decoder that the stream has ended."""
        cdef Py_ssize_t have
        self._check_idle()
        if self._failure is not None:
            raise _again(self._failure)
        if self._rest:
            raise RuntimeError(spec.EOF_WITH_REST.format(self._rest_bytes()))
        have = self._header_size + self._filled
        if have or (self._state == RAW and self._need):
            self._fail(spec.truncated(have, self._item_size(), self._position, self._header_bytes()))
            raise self._failure
        self._state = CLOSED

    def expect_raw(self, n, sink=None):
        """Take the next *n* bytes of the stream as one item without a header, then go on with frames."""
        self._check_idle()
        if self._failure is not None:
            raise _again(self._failure)
        if self._state == CLOSED:
            raise RuntimeError(spec.FED_AFTER_END)
        if self._state != HEADER or self._header_size:
            raise RuntimeError(spec.RAW_INSIDE)
        self._need = spec.check_raw(n, sink, self._max_frame)
        self._sink = sink
        self._state = RAW

    def take_rest(self):
        """Return every byte that is not part of a delivered item, and close the decoder for another protocol."""
        cdef const unsigned char* body
        self._check_idle()
        if self._lost or (self._filled and self._body is NULL):
            raise RuntimeError(spec.REST_GONE)
        parts = [self._header_bytes()]
        if self._filled:
            body = <const unsigned char*>PyBytes_AS_STRING(<object>self._body)
            parts.append(_new_bytes(body + self._prefix(), self._filled))
        for index, chunk in enumerate(self._rest or ()):
            parts.append(chunk if index else chunk[self._rest_offset:])
        self.reset()
        self._state = CLOSED
        return b"".join(parts)

    def reset(self):
        """Forget everything but the settings, for a new stream.  Reactor thread only."""
        self._check_idle()
        self._state = HEADER
        self._header_size = 0
        self._drop_body()
        self._sink = self._failure = self._rest = None
        self._filled = self._need = self._rest_offset = self._position = 0
        self._lost = False
        self._frames = self._payload_bytes = self._largest = 0
        self._skipped = self._skipped_bytes = self._copied = self._resizes = 0

    @property
    def max_frame(self):
        """The largest payload in bytes; settable (0..what the field can announce), effective at the next header."""
        return self._max_frame

    @max_frame.setter
    def max_frame(self, value):
        self._set_max_frame(value)

    @max_frame.deleter
    def max_frame(self):
        raise AttributeError("max_frame cannot be deleted")

    @property
    def buffered(self):
        """Bytes held in memory: of the unfinished item, and what a limit held back."""
        return self.held()

    cdef Py_ssize_t held(self) noexcept:
        return self._header_size + (self._filled if self._body is not NULL else 0) + self._rest_bytes()

    @property
    def needed(self):
        """Bytes that the current header, body or raw item still lacks; 0 while undecoded bytes are held."""
        if self._rest or self._state == FAILED or self._state == CLOSED:
            return 0
        return self._item_size() - self._header_size - self._filled

    @property
    def position(self):
        """Offset in the stream of the current frame's first byte."""
        return self._position

    @property
    def in_frame(self):
        """True while bytes of an undelivered item are held or awaited: the time to have a deadline."""
        return self.unfinished()

    cdef bint unfinished(self) noexcept:
        return (self._header_size or self._filled or self._rest is not None or self._state == BODY
                or self._state == RAW or self._state == SKIP)

    @property
    def failed(self):
        """True after a fault; feed() raises it again."""
        return self._failure is not None

    @property
    def stats(self):
        """Counters since the decoder was made or reset, as :class:`DecoderStats`."""
        return DecoderStats(
            self._frames, self._payload_bytes, self._largest, self._skipped, self._skipped_bytes, self._copied
        )

    def __reduce__(self):
        raise TypeError(spec.NOT_COPIED)

    def __repr__(self):
        have = self._header_size + self._filled
        return spec.describe(self._codec, STATES[self._state], have, self._item_size(), self._position, self.buffered)

    # --- the state machine -------------------------------------------------------------------------------------

    cdef int _decode(self, const unsigned char* data, Py_ssize_t size, object owner, list items,
                     Py_ssize_t room) except -1:
        """Decode what a limit held back, then *data*; keep what the limit leaves."""
        cdef Py_ssize_t stop, kept
        cdef bytes chunk
        if self._rest is None:
            stop = self._consume(data, 0, size, items, room)
            if stop < size:
                # Kept whole with an offset if it is the caller's bytes; never sliced again for each limited call.
                if owner is not None:
                    self._rest, self._rest_offset = [owner], stop
                else:
                    self._rest, self._rest_offset = [_new_bytes(data + stop, size - stop)], 0
            return 0
        if size:
            self._rest.append(owner if owner is not None else _new_bytes(data, size))
        kept = 0
        try:
            for kept in range(len(self._rest)):
                chunk = self._rest[kept]
                stop = self._consume(<const unsigned char*>PyBytes_AS_STRING(chunk), self._rest_offset,
                                     PyBytes_GET_SIZE(chunk), items, room)
                if stop < PyBytes_GET_SIZE(chunk):
                    self._rest_offset = stop
                    return 0
                self._rest_offset = 0
            kept += 1
        finally:
            if kept == len(self._rest):
                self._rest = None
            elif kept:
                del self._rest[:kept]
        return 0

    cdef Py_ssize_t _consume(self, const unsigned char* data, Py_ssize_t pos, Py_ssize_t end, list items,
                             Py_ssize_t room) except -1:
        """Run the machine over data[pos:end]; return where it stopped: the end, the limit, or a fault."""
        while len(items) < room and self._state != FAILED:
            if self._state == HEADER:
                if self._header_size == 0:
                    if self._codec.simple and self._codec.deliver_as == 0:
                        pos = self._scan_plain(data, pos, end, items, room)
                    else:
                        pos = self._scan(data, pos, end, items, room)
                    if pos == end or len(items) >= room:
                        break
                    if self._keep(data, pos, end):
                        pos = end
                        break
                pos = self._read_header(data, pos, end)
                if self._state == HEADER:  # the chunk ended inside the header
                    break
            elif self._filled < self._need:
                if pos == end:
                    break
                pos = self._read_body(data, pos, end)
            else:
                self._finish(items)
        return pos

    cdef Py_ssize_t _scan_plain(self, const unsigned char* data, Py_ssize_t pos, Py_ssize_t end, list items,
                                Py_ssize_t room) except -1:
        """Take whole frames that are a length and the payload that is delivered, as :meth:`_scan` does."""
        cdef Codec codec = self._codec
        cdef evl_scanner scanner
        cdef Py_ssize_t count, taken = 0
        scanner.at, scanner.end = data + pos, data + end
        scanner.low, scanner.high, scanner.delta, scanner.order = \
            self._fast_low, self._fast_high, codec.delta, codec.order
        scanner.payload, scanner.largest, scanner.failed = 0, self._largest, 0
        room -= PyList_GET_SIZE(items)
        while True:
            count = evl_scan(&scanner, room - taken)
            if count:
                evl_extend(<PyObject*>items, scanner.frames, count)
            evl_scanned(&scanner)
            taken += count
            if count < EVL_BATCH:
                break
        self._position += scanner.at - (data + pos)
        self._frames += taken
        self._payload_bytes += scanner.payload
        self._largest = scanner.largest
        if taken:
            self._expected = scanner.payload if taken == 1 and scanner.payload >= GUESSED else 0
        return scanner.at - data

    cdef Py_ssize_t _scan(self, const unsigned char* data, Py_ssize_t pos, Py_ssize_t end, list items,
                          Py_ssize_t room) except -1:
        """Take whole, ordinary frames; stop before the first header that needs a closer look."""
        cdef Codec codec = self._codec
        cdef Py_ssize_t head = codec.header_size, field = codec.before, start = pos, n, largest = self._largest
        cdef Py_ssize_t taken = 0, payload_bytes = 0
        cdef uint64_t value, low = self._fast_low, high = self._fast_high
        cdef int64_t delta = codec.delta
        cdef int order = codec.order, deliver_as = codec.deliver_as, used
        room -= len(items)
        while taken < room and end - pos >= head:
            if order:
                value = evl_load(data + pos + field, order)
            else:
                used = evl_load_varint(data + pos + field, end - pos - field, &value)
                head = field + used + codec.after
                if used <= 0 or end - pos < head:
                    break
            # Unsigned, and before any arithmetic: a length from the wire never reaches a pointer unchecked.
            if value < low or value > high:
                break
            n = <Py_ssize_t>(<int64_t>value - delta)
            if n > end - pos - head:
                break
            if codec.magic_size and memcmp(data + pos, codec.magic_bytes, codec.magic_size) != 0:
                break
            if deliver_as == 0:
                items.append(_copy(data + pos + head, n))
            elif deliver_as == 1:
                items.append(_copy(data + pos, head + n))
            else:
                items.append((_new_bytes(data + pos, head), _new_bytes(data + pos + head, n)))
            pos += head + n
            taken += 1
            payload_bytes += n
            if n > largest:
                largest = n
            if order == 0:
                head = codec.header_size
        self._position += pos - start
        self._frames += taken
        self._payload_bytes += payload_bytes
        self._largest = largest
        if taken:
            self._expected = payload_bytes if taken == 1 and payload_bytes >= GUESSED else 0
        return pos

    cdef bint _keep(self, const unsigned char* data, Py_ssize_t pos, Py_ssize_t end) except -1:
        """Begin an ordinary frame whose header the chunk holds and whose body it cuts; False leaves it to the machine.

        The common cut, in one step: what _read_header, _begin_body and _read_body do together.
        """
        cdef Codec codec = self._codec
        cdef Py_ssize_t head = codec.header_size, body = end - pos - head
        cdef uint64_t value
        if not codec.order or body < 0 or codec.deliver_as == 1 or codec.magic_size:
            return False
        value = evl_load(data + pos + codec.before, codec.order)
        if value < self._fast_low or value > self._fast_high:
            return False
        self._need = <Py_ssize_t>(<int64_t>value - codec.delta)
        if body >= self._need:  # a limit stopped the scan here
            return False
        memcpy(self._header, data + pos, head)
        self._header_size = <unsigned char>head
        self._state = BODY
        if body:
            self._grow(body)
            memcpy(PyBytes_AS_STRING(<object>self._body), data + pos + head, body)
        self._filled = body
        self._copied += head + body
        return True

    cdef Py_ssize_t _read_header(self, const unsigned char* data, Py_ssize_t pos, Py_ssize_t end) except -1:
        """Gather header bytes until the header is whole, then begin the body."""
        cdef Py_ssize_t need, take
        while True:
            need = self._header_need()
            if self._header_size >= need:
                break
            take = min(need - self._header_size, end - pos)
            if take == 0:
                return pos
            # In bounds: the scratch has room for the longest header of this framing, an unending varint included.
            memcpy(self._header + self._header_size, data + pos, take)
            self._header_size += <unsigned char>take
            self._copied += take
            pos += take
        self._begin_body(end - pos)
        return pos

    cdef int _header_need(self) noexcept:
        """Return how long the header is, or, while a varint is open, that one more byte is needed."""
        cdef Codec codec = self._codec
        cdef int index
        if codec.size:
            return codec.header_size
        for index in range(codec.before, min(self._header_size, codec.before + MAX_VARINT)):
            if self._header[index] < 0x80:
                return index + 1 + codec.after
        if self._header_size >= codec.before + MAX_VARINT:
            return self._header_size  # unending: _begin_body refuses it
        return max(self._header_size + 1, codec.header_size - codec.after)

    cdef int _begin_body(self, Py_ssize_t available) except -1:
        """Judge a whole header and enter BODY, SKIP or FAILED; *available* body bytes lie in the chunk."""
        cdef Codec codec = self._codec
        cdef uint64_t value
        if codec.magic_size and memcmp(self._header, codec.magic_bytes, codec.magic_size) != 0:
            return self._fail(spec.magic_fault(codec._layout, self._position, self._header_bytes()))
        if codec.size:
            value = evl_load(self._header + codec.before, codec.order)
        elif evl_load_varint(self._header + codec.before, self._header_size - codec.before, &value) <= 0:
            return self._fail(spec.varint_fault(self._position, self._header_bytes()))
        # The bounds, as _set_max_frame has them, without a spill.
        if <int64_t>self._max_frame + codec.delta < 0 or value < <uint64_t>max(codec.delta, <int64_t>0) or \
                value > <uint64_t>(<int64_t>self._max_frame + codec.delta):
            if self._skip_oversize and spec.is_oversize(codec._layout, value):
                self._state, self._need = SKIP, <Py_ssize_t>(<int64_t>value - codec.delta)
                return 0
            return self._fail(
                spec.length_fault(codec._layout, value, self._max_frame, self._position, self._header_bytes())
            )
        self._state, self._need = BODY, <Py_ssize_t>(<int64_t>value - codec.delta)
        # Allowed, and not for the fast loop: only by a spill do the two differ.
        if value < self._fast_low or value > self._fast_high:
            return self._open_sink(self._header_bytes())
        if available or not self._need or self._prefix():  # memory is for what has come
            self._grow(min(available, self._need))
            memcpy(PyBytes_AS_STRING(<object>self._body), self._header, self._prefix())
        return 0

    cdef Py_ssize_t _read_body(self, const unsigned char* data, Py_ssize_t pos, Py_ssize_t end) except -1:
        """Add what the chunk holds of the current item."""
        cdef Py_ssize_t take = min(self._need - self._filled, end - pos)
        if self._sink is not None:
            self._write(_new_bytes(data + pos, take))
        elif self._state != SKIP:
            self._grow(self._filled + take)
            memcpy(PyBytes_AS_STRING(<object>self._body) + self._prefix() + self._filled, data + pos, take)
            self._copied += take
        self._filled += take
        return pos + take

    cdef Py_ssize_t _prefix(self) noexcept:
        """Return how many header bytes are at the front of the body; a raw item has no header."""
        return self._header_size if self._codec.deliver_as == 1 else 0

    cdef Py_ssize_t _capacity(self) noexcept:
        """Return how many payload bytes the body has room for."""
        return PyBytes_GET_SIZE(<object>self._body) - self._prefix()

    cdef int _grow(self, Py_ssize_t at_least) except -1:
        """Make room for *at_least* payload bytes and for more to come, never beyond what is needed."""
        cdef Py_ssize_t room
        if self._body is NULL:
            room = min(self._need, max(<Py_ssize_t>FIRST_ROOM, GROWTH * at_least))
            # (NULL, 0) would be the shared empty bytes, and (NULL, 1) is private: only the first must not be written.
            self._body = evl_take_body(self._prefix() + room)
        elif at_least > self._capacity():
            room = min(self._need, GROWTH * at_least)
            # Legal: we hold the only reference and nobody has seen the object.  On failure it is gone and set to NULL.
            _PyBytes_Resize(&self._body, self._prefix() + room)
            self._resizes += 1
        return 0

    cdef int _finish(self, list items) except -1:
        """Deliver the item that is whole and return to HEADER."""
        if self._state == SKIP:
            self._skipped += 1
            self._skipped_bytes += self._need
        else:
            self._expected = 0
            if self._sink is not None:
                body = self._sink
            elif self._body is NULL:
                body = b""  # a raw item of no bytes
            else:
                body = <object>self._body
                self._drop_body()
                if self._state == BODY and self._need >= GUESSED:
                    self._expected = self._need
            if self._state == BODY and self._codec.deliver_as == 2:
                body = (self._header_bytes(), body)
            items.append(body)
            self._frames += 1
            self._payload_bytes += self._need
            self._largest = max(self._largest, <int64_t>self._need)
        self._position += self._header_size + self._need
        self._state = HEADER
        self._sink = None
        self._header_size = 0
        self._filled = self._need = 0
        return 0

    # --- sinks, faults and small questions ---------------------------------------------------------------------

    cdef int _open_sink(self, bytes header) except -1:
        """Ask the application where the payload shall go; user code runs here, with the decoder busy."""
        try:
            self._sink = spec.check_sink(self._spill[0](self._need))
        except BaseException as exc:
            return self._sink_raised(exc)
        if self._codec.deliver_as == 1:
            self._write(header)
        return 0

    cdef int _write(self, bytes data) except -1:
        try:
            problem = spec.write_to_sink(self._sink, data)
        except BaseException as exc:
            return self._sink_raised(exc)
        if problem is not None:
            self._fail(spec.sink_fault(problem, self._position, self._header_bytes()), lost=True)
        return 0

    cdef int _sink_raised(self, object exc) except -1:
        self._fail(spec.sink_raised(exc, self._position, self._header_bytes()), lost=True)
        if not isinstance(exc, Exception):
            raise exc
        return 0

    cdef int _fail(self, object failure, bint lost=False) except -1:
        self._state = FAILED
        self._failure = failure
        self._lost = lost
        return 0

    cdef object _take_failure(self, list items):
        """Return the fault with the items decoded before it; from now on it is raised without them."""
        failure = self._failure
        failure.frames = items
        try:
            self._failure = failure.again()
        except MemoryError:
            pass  # the copy is made when it is raised; until then the frames stay
        return failure

    cdef int _check_idle(self) except -1:
        if unlikely(self._busy):
            raise RuntimeError(spec.REENTERED)
        return 0

    cdef int _set_max_frame(self, object value) except -1:
        layout = self._codec._layout
        most = min(layout.capacity - layout.delta, spec.MAX_FRAME_CEILING)
        self._max_frame = spec.check_max_frame(value, most)
        fast = (self._max_frame if self._spill is None else min(self._max_frame, self._spill[1])) + layout.delta
        # A negative bias can put a bound below zero, where no unsigned value is: low > high then admits nothing.
        self._fast_low = 1 if fast < 0 else max(layout.delta, 0)
        self._fast_high = max(fast, 0)
        return 0

    cdef Py_ssize_t _item_size(self) noexcept:
        """Return the size of the current item, header included, as far as it is known."""
        if self._state == HEADER:
            return max(self._codec.header_size, self._header_need())
        return self._need + self._header_size

    cdef Py_ssize_t _rest_bytes(self) noexcept:
        cdef Py_ssize_t total = 0
        if self._rest is None:
            return 0
        for chunk in self._rest:
            total += PyBytes_GET_SIZE(chunk)
        return total - self._rest_offset

    cdef bytes _header_bytes(self):
        return _new_bytes(self._header, self._header_size)

    cdef void _drop_body(self) noexcept:
        if self._body is not NULL:
            Py_DECREF(self._body)
            self._body = NULL


def _again(failure):
    return failure.again() if isinstance(failure, FramingError) else type(failure)(*failure.args)


cdef int _get_buffer(object data, Py_buffer* view) except -1:
    """Acquire *data* as contiguous single bytes; the twin's TypeError otherwise."""
    try:
        PyObject_GetBuffer(data, view, PyBUF_FULL_RO)
    except (TypeError, BufferError):
        spec.bytes_view(data, "data")  # raises
        raise
    if view.itemsize != 1 or not PyBuffer_IsContiguous(view, b"C"):
        PyBuffer_Release(view)
        spec.bytes_view(data, "data")  # raises
    return 0
