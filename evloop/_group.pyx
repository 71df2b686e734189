# cython: auto_pickle=False, embedsignature.format=clinic
"""A group of connections at C speed: the twin of ``_group_py.py``, with the same methods in the same order.

What differs is how a member is found: the group is an array of pointers, and a connection knows its index in each of
its groups.  To leave is to put the last member in its place; while a walk goes on it is to leave a hole.  A connection
that is not compiled, with TLS or over packets, is in a group of the pure twin beside it.  The whole docstrings are in
the twin.

Rule: nothing in this file may know how a connection writes, or what a message is.  Read next: ``_connection.pxd``.
"""

from cpython.object cimport PyObject
from libc.stdlib cimport free, realloc

from evloop._connection cimport MIND, OPEN, Connection, Membership, place_at

from evloop._connection_shared import OTHER_REACTOR, as_they_are, not_a_connection
from evloop._group_py import Connection as OtherConnection
from evloop._group_py import Group as OtherGroup
from evloop._group_py import encode, keep_bounds, spread

IMPLEMENTATION = "cython"

cdef extern from "_prefetch.h":
    void evl_prefetch(const void* start, size_t size) noexcept

cdef enum:
    FIRST_MEMBERS = 8
    # How many members ahead memory is asked for: to add to one's output takes some 30 ns, and memory some 100.
    AHEAD = 4
    # The fields that share() looks at are among the first of a connection.
    MEMBER_AHEAD = 256


cdef class Group(Membership):
    """A set of connections that get the same bytes."""

    def __dealloc__(self):
        cdef Py_ssize_t index
        for index in range(self._used):
            if self._members[index].conn is not NULL:
                (<Connection>self._members[index].conn).leave(self._members[index].place)
        free(self._members)

    def add(self, conn):
        """Make *conn* a member.  Idempotent; of a closing connection it does nothing.  Reactor thread only."""
        cdef Connection member
        cdef Py_ssize_t room
        cdef Member* members
        if type(conn) is not Connection:
            return self._add_other(conn)
        member = <Connection>conn
        self._check_reactor(member.core)
        if member._state != OPEN or member.place_in(self) >= 0:
            return None
        if self._used == self._room:
            room = max(2 * self._room, <Py_ssize_t>FIRST_MEMBERS)
            members = <Member*>realloc(self._members, room * sizeof(Member))
            if members is NULL:
                raise MemoryError
            self._members, self._room = members, room
        if self._used == self._holes:
            self.mixed = False
        elif not self.mixed:
            self.mixed = self._any_member()._codec is not member._codec
        member.join(self, self._used)
        self._members[self._used].conn = <PyObject*>member
        self._members[self._used].place = member._places.count - 1
        self._used += 1
        return None

    def _add_other(self, conn):
        if not isinstance(conn, OtherConnection):
            raise TypeError(not_a_connection(conn))
        self._check_reactor(conn._reactor)
        if self._others is None:
            self._others = OtherGroup()
        self._others.add(conn)

    cdef int _check_reactor(self, object reactor) except -1:
        cdef Connection member = self._any_member()
        cdef object theirs = reactor
        if member is not None:
            theirs = member.core
        elif self._others is not None:
            for other in self._others:
                theirs = other._reactor
                break
        if theirs is not reactor:
            raise ValueError(OTHER_REACTOR)
        return 0

    cdef Connection _any_member(self):
        cdef Py_ssize_t index
        for index in range(self._used):
            if self._members[index].conn is not NULL:
                return <Connection>self._members[index].conn
        return None

    def discard(self, conn):
        """Take *conn* out, if it is a member.  Reactor thread only."""
        cdef Connection member
        cdef Py_ssize_t place, index
        if type(conn) is Connection:
            member = <Connection>conn
            place = member.place_in(self)
            if place >= 0:
                index = place_at(member._places, place).index
                member.leave(place)
                self.left(index)
        elif self._others is not None:
            self._others.discard(conn)

    cdef void left(self, Py_ssize_t index) noexcept:
        if self._walks:
            self._members[index].conn = NULL
            self._holes += 1
        else:
            self._used -= 1
            self._move(self._used, index)

    cdef void moved(self, Py_ssize_t index, Py_ssize_t place) noexcept:
        self._members[index].place = place

    cdef void _move(self, Py_ssize_t index, Py_ssize_t to) noexcept:
        cdef Member* member = self._members + to
        if index != to:
            member[0] = self._members[index]
            place_at((<Connection>member.conn)._places, member.place).index = to

    cdef void _fill_holes(self) noexcept:
        """Put the last members where members have left; when the last walk is over."""
        cdef Py_ssize_t index = 0
        while self._holes:
            if self._members[self._used - 1].conn is NULL:
                self._used -= 1
                self._holes -= 1
            elif self._members[index].conn is NULL:
                self._used -= 1
                self._holes -= 1
                self._move(self._used, index)
            else:
                index += 1

    def __len__(self):
        return self._used - self._holes + (0 if self._others is None else len(self._others))

    def __contains__(self, conn):
        if type(conn) is Connection:
            return (<Connection>conn).place_in(self) >= 0
        return self._others is not None and conn in self._others

    def __iter__(self):
        """Iterate over the members that there are now."""
        cdef Py_ssize_t index
        cdef list found = []
        for index in range(self._used):
            if self._members[index].conn is not NULL:
                found.append(<object>self._members[index].conn)
        found.extend(self._others or ())
        return iter(found)

    def __repr__(self):
        return f"<{type(self).__name__} of {len(self)}>"

    def send(self, payload, *, exclude=None):
        """Send one frame (without framing: bytes as they are) to each member but *exclude*; never blocks."""
        return self._send_all([payload], exclude)

    def send_many(self, payloads, *, exclude=None):
        """Send an iterable of payloads, one frame each, as :meth:`send`; one at fault and nothing was sent."""
        return self._send_all(list(payloads), exclude)

    cdef Py_ssize_t _send_all(self, list payloads, object exclude) except -1:
        cdef Py_ssize_t count = 0, first = 0, end, frames = len(payloads)
        cdef list above = [], starved = [], others = None
        cdef object encoded = None, for_others = None
        if not frames:
            return 0
        self._walks += 1  # from here on: what allocates or encodes may run any code, and so empty the group
        end = self._used
        if end:
            first = self._first % end
            # Five eighths of the circle, near the golden section: who was among the last is not so the next time.
            self._first = first + end * 5 // 8
        try:
            if end:
                encoded = self._encode(payloads, exclude, first, end)
            if self._others is not None:
                others = self._others._takers(exclude)
                for_others = encode(others, payloads)
            if encoded is not None:
                self._any_member().core._to_flush.reserve(end)
                count = self._spread(first, end, encoded, frames, exclude, above, starved)
                count += self._spread(0, first, encoded, frames, exclude, above, starved)
        finally:
            self._walks -= 1
            if not self._walks:
                self._fill_holes()
        try:
            if others:
                count += spread(others, for_others, self._others)
        finally:
            if above or starved:
                keep_bounds(above, starved)
        return count

    cdef object _encode(self, list payloads, object exclude, Py_ssize_t first, Py_ssize_t end):
        """Return what goes to the members: bytes, or a dict of them by the framing's address; None: to nobody."""
        cdef Py_ssize_t step
        cdef PyObject* pointer
        cdef Connection conn
        cdef dict each = None
        for step in range(end):
            pointer = self._members[first + step - (end if first + step >= end else 0)].conn
            if pointer is NULL or pointer is <PyObject*>exclude:
                continue
            conn = <Connection>pointer
            if not conn.takes_shared():
                continue
            if not self.mixed:
                return _encoded(conn._codec, payloads)
            if each is None:
                each = {}
            if <size_t><void*>conn._codec not in each:
                each[<size_t><void*>conn._codec] = _encoded(conn._codec, payloads)
        return each

    cdef Py_ssize_t _spread(self, Py_ssize_t begin, Py_ssize_t end, object encoded, Py_ssize_t frames, object exclude,
                            list above, list starved) except -1:
        """Append to the output of each, and note whose bounds are to be looked at; return how many they were."""
        cdef Py_ssize_t index = begin, count = 0
        cdef PyObject* pointer
        cdef Connection conn = None
        cdef bytes data = encoded if type(encoded) is bytes else None
        cdef int shared
        while index < end:
            try:  # once, and again only behind a member that there is no memory for
                while index < end:
                    pointer = self._members[index].conn
                    if index + AHEAD < end:
                        evl_prefetch(self._members[index + AHEAD].conn, MEMBER_AHEAD)
                    index += 1
                    if pointer is NULL or pointer is <PyObject*>exclude:
                        continue
                    conn = <Connection>pointer
                    if type(encoded) is dict:
                        data = (<dict>encoded).get(<size_t><void*>conn._codec)
                        if data is None:  # it takes nothing
                            continue
                    shared = conn.share(data, frames)
                    if shared:
                        count += 1
                        if shared == MIND:
                            above.append(conn)
            except MemoryError as exc:
                starved.append((conn, exc))
        return count


cdef bytes _encoded(object framing, list payloads):
    if framing is not None:
        return framing.encode_many(payloads) if len(payloads) > 1 else framing.encode(payloads[0])
    if len(payloads) > 1:
        return b"".join([as_they_are(payload) for payload in payloads])
    return as_they_are(payloads[0])
