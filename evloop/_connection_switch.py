"""The part of a connection, in plain Python, that hands its stream over: to another protocol, to another framing.

A port that speaks two protocols looks at the first bytes unframed, and a stream that is upgraded changes in the middle.
What was received and not delivered belongs to who takes over, so nothing is delivered in here: the callback that asks
for it returns first, and may ask for both in either order.

Rule: nothing in this file may read, write or deliver.  Read next: ``_connection_py.py``, whose connection this is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from evloop._connection_shared import NOT_SWITCHED, STATES, as_they_are, refuse_frames, stream_of
from evloop.errors import FramingError
from evloop.framing import FrameDecoder, Framing
from evloop.protocol import CoroutineProtocol, Protocol

if TYPE_CHECKING:
    from evloop.limits import Limits
    from evloop.reactor import Core

OPEN, CLOSED = STATES[0], STATES[-1]


class Switching:
    """What a connection offers to who takes it over."""

    if not TYPE_CHECKING:  # the attributes below are the connection's, which a type checker would not believe
        __slots__ = ()
    else:
        framing: Framing | None
        protocol: Protocol | None
        _reactor: Core
        _limits: Limits
        _state: str
        _puller: Any
        _pending: deque[Any]
        _fault: Any
        _decoder: Any
        _undelivered: int
        _encode: Callable[..., bytes]
        _receive_many: Any
        _receive_one: Any
        _frames_received: int
        _frames_before: int
        _began: float
        _frame_at: int
        _frame_since: float
        _decode_plain: Callable[[memoryview], None]
        _find_receivers: Callable[[], None]
        _time_frame: Callable[[], None]
        _watch: Callable[[float], None]
        _continue_soon: Callable[[], None]
        _update_events: Callable[[], None]
        _account: Callable[[], None]

    def set_protocol(self, protocol: Protocol) -> None:
        """Have *protocol*'s methods called from now on; what was not delivered goes to it.

        ``connection_made`` is not called: whoever hands the connection over tells *protocol* what it has to know.  Of
        the old and the new one, ``connection_lost`` goes to the new one alone; while the output is above ``high_water``
        so does ``resume_writing``.  After ``connection_lost`` it does nothing.

        Args:
            protocol: an object with the methods of :class:`Protocol`.  One that cannot receive what the framing gives
                is told from others when the next of it comes: CloseReason.HANDLER, with a TypeError.
        Raises:
            RuntimeError: a coroutine takes the frames of this connection, or would.
        Reactor thread only.
        """
        self._refuse_coroutines(protocol)
        if self._state is not CLOSED or self.protocol is not None:
            self.protocol = protocol
            self._find_receivers_again()
            if self._pending:
                self._pending = deque(self._pending)  # another one: the running delivery ends
                self._continue_soon()

    def set_framing(self, framing: Framing | None, rest: Any = b"") -> None:
        """Decode what comes from now on as *framing* says, or not at all; what is sent is encoded so, too.

        First comes *rest*, then what was received and not delivered, as the bytes that came, then what is read; none of
        it before the running callback returns.  Frames decoded so far and not delivered are taken back; a batch of
        ``frames_received`` was delivered as a whole, and only what comes behind it can be.  The output that waits stays
        as it is.  ``first_frame_timeout`` goes on for the first frame of a stream that was unframed, whose reads do not
        count; if it was over, it starts anew.  On a closing connection it does nothing.

        Args:
            framing: the new wire format; None: bytes as they come.
            rest: bytes-like; delivered already, and yet of the new format.
        Raises:
            RuntimeError: frames would have to be taken back of a framing whose header can be written in more than one
                way; pause_reading() does not help, ``deliver="frame"`` does.  Or a coroutine takes the frames, or the
                packets of this connection are its messages.
            TypeError, ValueError: no Framing, *rest* is not bytes-like, or ``Limits.max_frame`` is not for *framing*.
        Nothing has changed then.  Reactor thread only.
        """
        self._refuse_coroutines(self.protocol)
        behind = as_they_are(rest)
        decoder = None if framing is None else FrameDecoder(framing, max_frame=self._limits.max_frame)
        if self._state is not OPEN:
            return
        behind += stream_of(self.framing, list(self._pending))
        if self._decoder is not None and not isinstance(self._fault, MemoryError):
            behind += self._decoder.take_rest()
        before, self.framing, self._decoder = self.framing, framing, decoder
        self._encode = as_they_are if framing is None else framing.encode
        self._pending, self._undelivered, self._frame_at, self._frame_since = deque(), 0, -1, inf
        if isinstance(self._fault, FramingError):
            self._fault = None  # of bytes that are read anew
        self._find_receivers_again()
        if before is None and framing is not None:
            self._expect_first_frame()
        if behind and self._fault is None:
            self._decode_plain(memoryview(behind))
        if self._limits.frame_timeout:
            self._time_frame()
        self._continue_soon()

    def _refuse_coroutines(self, protocol: object) -> None:
        if self._puller is not None or type(protocol) is CoroutineProtocol:
            raise RuntimeError(NOT_SWITCHED)

    def _find_receivers_again(self) -> None:
        try:
            self._find_receivers()
        except TypeError as exc:
            # The other of the two calls may be still to come.
            self._receive_many, self._receive_one = None, refuse_frames(exc)

    def _expect_first_frame(self) -> None:
        """Have first_frame_timeout count for the first frame: the reads before it were none."""
        self._frames_before = self._frames_received
        if self._limits.first_frame_timeout:
            if self._began == inf:
                self._began = self._reactor.time()
            self._watch(self._began + self._limits.first_frame_timeout)
