"""The part of a connection, in plain Python, that belongs to groups: its membership, and the output that they share.

Rule: nothing in this file may read, deliver or write.  Read next: ``_group_py.py``, whose member this is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from selectors import EVENT_WRITE
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from evloop._connection_shared import STATES

if TYPE_CHECKING:
    from evloop.limits import Limits
    from evloop.reactor import Core

OPEN = STATES[0]

# The attributes of Sharing, which are slots of the connection: two bases with slots of their own do not go together.
SHARE_SLOTS = ("_groups",)


class Membership(Protocol):
    """A group, as far as a connection knows it."""

    def discard(self, conn: Any) -> None:
        """Take *conn* out."""


class Sharing:
    """What a connection is to a group.

    Neither keeps the other one's group alive: whoever drops a group need not empty it.
    """

    if not TYPE_CHECKING:  # the attributes below are the connection's, which a type checker would not believe
        __slots__ = ()
    else:
        _groups: WeakSet[Any] | None
        _reactor: Core
        _limits: Limits
        _state: str
        _broken: OSError | None
        _write_eof: bool
        _corked: bool
        _full: bool
        _events: int
        _alarm: int
        _out: bytearray
        _frames_sent: int
        _send_some: Callable[[], None]
        _output_high: Callable[[], None]
        _account: Callable[[], None]

    def _join(self, group: Membership) -> None:
        if self._groups is None:
            self._groups = WeakSet()
        self._groups.add(group)

    def _left(self, group: Membership) -> None:
        if self._groups is not None:
            self._groups.discard(group)

    def _leave_groups(self) -> None:
        groups, self._groups = self._groups, None
        for group in list(groups or ()):
            group.discard(self)

    def _check_shared(self, parts: Iterable[bytes]) -> None:
        """Raise for what :meth:`send` would refuse; of packets alone."""

    def _takes_shared(self) -> bool:
        """Tell whether what a group sends goes anywhere; with TLS, overridden."""
        return self._state is OPEN and self._broken is None and not self._write_eof

    def _share(self, data: bytes, parts: list[bytes]) -> bool:
        """Add the frames of a group, of which there are as many as *parts*, and have them flushed before the next wait.

        Runs nobody's code: return whether :meth:`_mind_output` is to be called when all members have theirs.
        """
        self._add_output(data, parts)
        self._frames_sent += len(parts)
        if self._events & EVENT_WRITE:
            return True
        if not self._corked:
            self._reactor.flush_soon(self)  # type: ignore[arg-type]
        return len(self._out) > min(self._limits.high_water, self._alarm)

    def _add_output(self, data: bytes, parts: list[bytes]) -> None:
        """Add *data*, of which *parts* were made; of packets, overridden."""
        self._out += data

    def _mind_output(self) -> None:
        """Keep the bounds of the output, as :meth:`send` does behind what it adds."""
        if self._corked or self._events & EVENT_WRITE:
            if len(self._out) > self._limits.high_water and not self._full:
                self._send_some()
            if not self._corked:
                self._account()
        if len(self._out) > self._alarm:
            self._output_high()
