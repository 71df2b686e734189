"""The deadlines of a connection in plain Python: what runs, since when, and the one timer that looks.

An open connection has at most one timer, for the nearest of its deadlines.  What moves a deadline on only notes the
time; the timer, when due, looks whether the deadline still is, and comes again if not.  So traffic touches the heap no
more than twice in the shortest of the timeouts, however many frames come and go.

Rule: nothing in this file may read, write or deliver.  Read next: ``_connection_py.py``, whose connection this is.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from selectors import EVENT_READ
from typing import TYPE_CHECKING, Any

from evloop._connection_shared import STATES, is_timed, overdue
from evloop.errors import CloseReason
from evloop.limits import Limits
from evloop.socket_queues import queued_output

if TYPE_CHECKING:
    from evloop.reactor import Core, TimerHandle

OPEN = STATES[0]

# The attributes of Deadlines, which are slots of the connection: two bases with slots of their own do not go together.
SLOTS = (
    "_limits", "_timer", "_timed", "_due", "_last_activity",
    "_began", "_frames_before", "_frame_since", "_frame_at", "_stalled_since", "_queued", "_soft_since",
)  # fmt: skip


class Deadlines:
    """The part of a connection that knows the time.  A deadline that does not run is one since ``inf``."""

    if not TYPE_CHECKING:  # the attributes below are the connection's, which a type checker would not believe
        __slots__ = ()
    else:
        _reactor: Core
        _fd: int
        _state: str
        _events: int
        _frames_received: int
        _decoder: Any
        _out: bytearray
        _close: Callable[..., None]
        abort_for: Callable[..., None]

    def _init_deadlines(self, limits: Limits) -> None:
        self._limits = limits
        self._timer: TimerHandle | None = None
        self._timed = is_timed(limits)
        self._due = inf  # when the timer looks at the deadlines; -inf once closing, which has a timer of its own
        self._last_activity = 0.0
        self._began = self._frame_since = self._stalled_since = self._soft_since = inf
        self._frames_before = 0  # what was delivered of the stream while it was unframed, as frames_received counts it
        self._frame_at = -1  # offset in the stream of the frame that _frame_since is about
        self._queued: int | None = None  # what the kernel held of the output when it was last asked

    def _arm(self, state: str, when: float, callback: Callable[[], object]) -> None:
        """Set the one timer that each state has; none if the state is another one by now.

        To make a timer may run a collection, and that close() or abort(): then theirs is the one that counts.
        """
        other: TimerHandle | None = self._reactor.call_at(when, callback)
        if self._state is state:
            other, self._timer = self._timer, other
        if other is not None:
            other.cancel()

    def _touch(self) -> None:
        if self._timed:
            self._last_activity = self._reactor.time()

    def _watch(self, deadline: float) -> None:
        """Have the deadlines looked at when *deadline* comes, unless that happens earlier anyway."""
        if deadline < self._due:
            self._due = deadline
            self._arm(OPEN, deadline, self._check_deadlines)

    def _check_deadlines(self) -> None:
        """Close for the deadline that is over, or come again for the nearest."""
        if self._state is not OPEN:
            return None
        limits, now, reading = self._limits, self._reactor.time(), self._events & EVENT_READ
        if self._frames_received > self._frames_before:
            self._began = inf
        if self._stalled_since + limits.write_timeout / 2 <= now:
            self._ask_kernel(now)
        write_timeout = limits.write_timeout / 2 if self._queued is None else limits.write_timeout
        nearest = inf
        for since, seconds, reason in (
            # A peer that is not read cannot be late; _reads_again sets both anew.
            (self._began if reading else inf, limits.first_frame_timeout, CloseReason.FIRST_FRAME_TIMEOUT),
            (self._frame_since if reading else inf, limits.frame_timeout, CloseReason.FRAME_TIMEOUT),
            (self._soft_since, limits.soft_output_timeout, CloseReason.SLOW_CONSUMER),
            (self._stalled_since, write_timeout, CloseReason.WRITE_TIMEOUT),
            (self._last_activity, limits.idle_timeout, CloseReason.IDLE),
        ):
            if seconds and since + seconds <= now:
                # Who takes nothing would take nothing of an orderly end, either.
                at_once = reason in (CloseReason.SLOW_CONSUMER, CloseReason.WRITE_TIMEOUT)
                return (self.abort_for if at_once else self._close)(reason, overdue(reason, limits, len(self._out)))
            if seconds:
                nearest = min(nearest, since + seconds)
        if self._state is not OPEN:  # closed by a collection: its timer is another one now
            return None
        self._due = inf
        return self._watch(nearest)

    def _ask_kernel(self, now: float) -> None:
        """Start write_timeout anew if the peer has taken some of what the kernel holds, of which that tells nobody.

        A full socket becomes writable only when much of it is free again, and a slow but living peer can take minutes
        for that.  First asked at half of the time, which gives the number to compare with.
        """
        queued = queued_output(self._fd)
        if self._queued not in (None, queued):
            self._stalled_since = now
        self._queued = queued

    def _reads_again(self) -> None:
        """Start the deadlines of what the peer has to send anew: it was not heard."""
        limits, now = self._limits, self._reactor.time()
        if limits.first_frame_timeout and self._began != inf:
            self._began = now
            self._watch(now + limits.first_frame_timeout)
        if self._frame_since != inf:
            self._frame_since = now
            self._watch(now + limits.frame_timeout)

    def _time_frame(self) -> None:
        """Note when the frame that the last read left unfinished has begun."""
        decoder = self._decoder
        if decoder is None or not decoder.in_frame:
            self._frame_since = inf
        elif decoder.position != self._frame_at:
            self._frame_at, self._frame_since = decoder.position, self._last_activity
            self._watch(self._frame_since + self._limits.frame_timeout)

    def _time_output(self, sent: int) -> None:
        """Note since when output waits and the peer takes none of it."""
        if not self._out:
            self._stalled_since = inf
        elif sent or self._stalled_since == inf:
            self._stalled_since, self._queued = self._reactor.time(), None
            self._watch(self._stalled_since + self._limits.write_timeout / 2)
