# What other Cython modules may cimport: a group, to send with.

from cpython.object cimport PyObject

from evloop._connection cimport Connection, Membership

ctypedef struct Member:
    PyObject* conn                # a Connection: borrowed, it leaves before it goes.  NULL: it has left during a walk
    Py_ssize_t place              # of the group, among those of the connection


cdef class Group(Membership):
    cdef Member* _members
    cdef Py_ssize_t _used, _room  # of the array
    cdef Py_ssize_t _holes        # members that are NULL
    cdef Py_ssize_t _first        # who is the next to be served first
    cdef int _walks               # that go on: meanwhile nobody changes places
    cdef object _others           # a group of the pure twin, for connections that are not ours; or None
    cdef object __weakref__

    cdef int _check_reactor(self, object reactor) except -1
    cdef Connection _any_member(self)
    cdef void _move(self, Py_ssize_t index, Py_ssize_t to) noexcept
    cdef void _fill_holes(self) noexcept
    cdef Py_ssize_t _send_all(self, list payloads, object exclude) except -1
    cdef object _encode(self, list payloads, object exclude, Py_ssize_t first, Py_ssize_t end)
    cdef Py_ssize_t _spread(self, Py_ssize_t begin, Py_ssize_t end, object encoded, Py_ssize_t frames, object exclude,
                            list above, list starved) except -1
