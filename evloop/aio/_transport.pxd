# What other Cython modules may cimport: the transport's way in for raw memory, and the protocol to derive from.

from cpython.object cimport PyObject

from evloop._reactor cimport Core, Endpoint, socklen_t

cdef enum:
    ADDRESS_ROOM = 28             # bytes of a sockaddr_in6, the longest that is kept as the kernel gave it
    ROOMS = 4                     # sizes of bulk reads: 32, 64, 128 and 256 KiB


# A protocol that is called without a Python object per read.  The transport asks for the type alone, so a Python
# subclass is called this way, too.
cdef class CProtocol:
    # Called instead of data_received; `data` lies in the loop's shared buffer and is valid during the call.  An
    # exception is treated as one of data_received's.  The default calls self.data_received(bytes).
    cdef int c_data_received(self, const unsigned char* data, Py_ssize_t size) except -1


cdef class ReadMemory:            # of one loop: bytes objects that nobody has kept, each with one reference, or NULL
    cdef PyObject* _last          # the last small one
    cdef PyObject* _spare[ROOMS]  # for bulk reads

    cdef object copy(self, const char* data, Py_ssize_t size)
    cdef void give_copy(self, object body) noexcept
    cdef PyObject* take(self, int room) except NULL
    cdef void give(self, PyObject* body, int room) noexcept


cdef class SocketTransport(Endpoint):
    # What every message touches comes first, and together.
    cdef readonly int _sock_fd    # keeps its number when closed
    cdef bint _open               # the fd is ours
    cdef unsigned char _kind      # how the protocol is called
    cdef unsigned char _odd       # write() has something to look at: the three below
    cdef unsigned char _corked    # the protocol is being called with data: writes gather
    cdef unsigned char _reading, _writing  # what the fd is watched for
    cdef unsigned char _keeps     # the protocol keeps what it is given: no memory is lent to it
    cdef signed char _room        # the size of a bulk read: an index, or -1: the shared buffer
    cdef unsigned char _small     # bulk reads that filled little of it, in a row
    cdef readonly bint _closing, _paused, _eof, _protocol_paused, _protocol_connected
    cdef public int _conn_lost
    cdef object _receive          # data_received; None: not looked up yet
    cdef object _receiver         # its first argument, if it is a method of the protocol; else None
    cdef readonly object _protocol
    cdef CProtocol _c_protocol    # the same, if its kind is that
    cdef object _read_context, _write_context
    # output: the one thing that was written since the protocol is being called, or what lies in the core's gather, or
    # the chunks; never two of them
    cdef bytes _written
    cdef list _chunks             # bytes objects, or None
    cdef Py_ssize_t _first, _offset  # the first chunk that is not wholly sent, and what is sent of it
    cdef Py_ssize_t _queued       # bytes of the chunks that wait
    cdef Py_ssize_t _high_water, _low_water
    cdef Py_ssize_t _gather_room  # up to here writes gather
    cdef ReadMemory _memory
    # what is asked for rarely
    cdef object _socket           # the socket object that owns the fd; None: nobody has asked for one
    cdef dict _given              # what get_extra_info answers with
    cdef readonly object _server, _empty_waiter
    cdef unsigned char _sockname_size, _peername_size
    cdef unsigned char[ADDRESS_ROOM] _sockname, _peername
    cdef object __weakref__

    # Write `size` bytes, which the caller may change afterwards; otherwise as write().
    cdef int write_pointer(self, const char* data, Py_ssize_t size) except -1
    cdef int _begin(self, object loop, object protocol, object waiter, object server) except -1
    cdef int _want(self) except -1
    cdef int _find_receiver(self) except -1
    cdef int _read_bulk(self) except -1
    cdef int _read_into(self) except -1
    cdef int _read_nothing(self, Py_ssize_t size) except -1
    cdef int _end_of_stream(self) except -1
    cdef int _deliver_data(self, object data) except -1
    cdef int _deliver_pointer(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _deliver_buffer(self, Py_ssize_t size) except -1
    cdef int _callback_failed(self, object exc, str name) except -1
    cdef int _uncork(self, unsigned char corked) except -1
    cdef int _write_any(self, object data) except -1
    cdef bint _may_write(self, str verb, bint some) except -1
    cdef int _put(self, bytes owner, const char* data, Py_ssize_t size) except -1
    cdef bint _has_gathered(self) noexcept
    cdef bint _gather(self, bytes owner, const char* data, Py_ssize_t size) except -1
    cdef int _flush_gather(self, bytes owner, const char* data, Py_ssize_t size) except -1
    cdef int _keep(self, bytes owner, const char* data, Py_ssize_t size, Py_ssize_t sent) except -1
    cdef int _send_chunks(self) except -1
    cdef int _forget_sent(self, Py_ssize_t sent) except -1
    cdef void _drop_gathered(self) noexcept
    cdef void _drop_output(self) noexcept
    cdef int _start_writing(self) except -1
    cdef Py_ssize_t _output(self) noexcept
    cdef int _write_failed(self, int number) except -1
    cdef int _pause_if_high(self) except -1
    cdef int _resume_if_low(self) except -1
    cdef int _lose(self, object exc) except -1
    cdef int _let_go(self) except -1
    cdef int _close_socket(self) except -1


cdef class Listener(Endpoint):
    cdef readonly object sock
    cdef object _factory, _server, _sslcontext, _context
    cdef tuple _timeouts
    cdef dict _more
    cdef int _batch
    cdef bint _plain              # transports are made here
    cdef ReadMemory _memory

    cdef bint _accept_one(self) except -1
    cdef int _accepted(self, int fd, unsigned char* address, socklen_t size) except -1
