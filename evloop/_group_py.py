"""A group of connections in plain Python: the readable reference of the seam whose door is ``group.py``.

Rule: nothing in this file may know how a connection writes, or what a message is.
Read next: ``_connection_share.py``, the members' part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from evloop._connection_py import Connection
from evloop._connection_shared import OTHER_REACTOR, as_they_are, not_a_connection
from evloop.errors import CloseReason

if TYPE_CHECKING:
    from evloop.framing import Framing

IMPLEMENTATION = "python"


class Group:
    """A set of connections that get the same bytes.

    A payload is encoded once for each framing among the members, appended to the output of each, and leaves with one
    system call a member before the next wait, however many were sent in a turn.  A member that is closing has left all
    of its groups; so has one that is closed, by whomever, before its ``connection_lost``.

    Owns: nothing.  A group that nobody else keeps is gone, and its members are members of the others still; nor does it
    keep a connection from its end.  The order of the members is nobody's business: it changes, so that nobody is the
    last each time.
    """

    __slots__ = ("__weakref__", "_first", "_members", "_places")

    def __init__(self) -> None:
        self._members: list[Connection] = []
        self._places: dict[Connection, int] = {}  # the index of each
        self._first = 0  # who is the next to be served first

    def add(self, conn: Connection) -> None:
        """Make *conn* a member.  Idempotent; of a closing connection it does nothing.  Reactor thread only.

        Raises: TypeError: no connection.  ValueError: the members belong to another reactor.
        """
        if not isinstance(conn, Connection):
            raise TypeError(not_a_connection(conn))
        if self._members and self._members[0]._reactor is not conn._reactor:
            raise ValueError(OTHER_REACTOR)
        if conn not in self._places and not conn.is_closing():
            self._places[conn] = len(self._members)
            self._members.append(conn)
            conn._join(self)

    def discard(self, conn: Connection) -> None:
        """Take *conn* out, if it is a member.  Reactor thread only."""
        index = self._places.pop(conn, None)
        if index is not None:
            last = self._members.pop()
            if last is not conn:
                self._members[index] = last
                self._places[last] = index
            conn._left(self)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, conn: object) -> bool:
        return conn in self._places

    def __iter__(self) -> Iterator[Connection]:
        """Iterate over the members that there are now."""
        return iter(list(self._members))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)}>"

    def send(self, payload: Any, *, exclude: Connection | None = None) -> int:
        """Send one frame (without framing: bytes as they are) to each member but *exclude*; never blocks.

        It leaves before the next wait, or, to the connection whose callback runs, when that returns.  A member whose
        output passes one of its bounds is paused or closed as by its own :meth:`Connection.send`, when all members have
        theirs; its callbacks may add and discard members.  One that there is no memory for is reset
        (CloseReason.ERROR): it would miss a frame unawares.

        Args:
            payload: bytes-like; copied before this returns.
            exclude: who is left out, usually the sender; it need not be a member.
        Returns:
            How many members it was appended for: all but *exclude* and those that can send no more.
        Raises:
            FrameTooLarge: the payload exceeds the max_frame of a member's framing.
            TypeError, ValueError: as :meth:`Framing.encode`.
            MemoryError: for the frame, not for a member's share of it.
        Nothing was sent then.  Reactor thread only.
        """
        return self._send_all([payload], exclude)

    def send_many(self, payloads: Iterable[Any], *, exclude: Connection | None = None) -> int:
        """Send an iterable of payloads, one frame each, as :meth:`send`; one at fault and nothing was sent."""
        return self._send_all(list(payloads), exclude)

    def _send_all(self, payloads: list[Any], exclude: Connection | None) -> int:
        takers = self._takers(exclude) if payloads else []
        return spread(takers, encode(takers, payloads), self)

    def _takers(self, exclude: Connection | None) -> list[Connection]:
        """Return to whom what is sent now goes, in this time's order."""
        # In one piece: two slices of the list itself allocate, which may run any code in between, and so change it.
        members, first = list(self._members), 0
        if members:
            first = self._first % len(members)
            # Five eighths of the circle, near the golden section: who was among the last is not so the next time.
            self._first = first + len(members) * 5 // 8
        return [conn for conn in members[first:] + members[:first] if conn is not exclude and conn._takes_shared()]


# What goes to the members of a framing: its bytes, and the payloads as bytes.
Encoded = dict[int, tuple[bytes, list[bytes]]]


def encode(takers: Iterable[Connection], payloads: list[Any]) -> Encoded:
    """Return what goes to each of the connections, by the id of its framing; raise for the first that refuses it."""
    found: Encoded = {}
    for conn in takers:
        if id(conn.framing) not in found:
            found[id(conn.framing)] = _encoded(conn.framing, payloads)
        conn._check_shared(found[id(conn.framing)][1])
    return found


def _encoded(framing: Framing | None, payloads: list[Any]) -> tuple[bytes, list[bytes]]:
    if framing is not None:
        return framing.encode_many(payloads), payloads
    parts = [as_they_are(payload) for payload in payloads]
    return b"".join(parts), parts


def spread(takers: Iterable[Connection], found: Encoded, group: Group) -> int:
    """Append to the output of each, then keep the bounds of those that are above one; return how many they were."""
    count, members = 0, group._places
    above: list[Connection] = []
    starved: list[tuple[Connection, MemoryError]] = []
    for conn in takers:
        try:
            # Both are asked anew for each: to allocate may run a collection, and that any code.
            if conn in members and conn._takes_shared():
                if conn._share(*found[id(conn.framing)]):
                    above.append(conn)
                count += 1
        except MemoryError as exc:
            starved.append((conn, exc))
    keep_bounds(above, starved)
    return count


def keep_bounds(above: Iterable[Connection], starved: Iterable[tuple[Connection, MemoryError]]) -> None:
    """End what there was no memory for, and have the others look at their bounds: of either twin."""
    for conn, exc in starved:
        conn.abort_for(CloseReason.ERROR, exc)
    for conn in above:
        conn._mind_output()
