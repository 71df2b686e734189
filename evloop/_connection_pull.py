"""The part of a connection, in plain Python, whose frames are taken by a coroutine and not given to a callback.

The protocol is then a :class:`Puller`: it is told that there is something, and takes frames for as long as its
coroutine asks for them.  What it leaves stays decoded with the connection, which reads nothing meanwhile.

Rule: nothing in this file may know asyncio, or read and write.  Read next: ``evloop/aio/_session_py.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from evloop._connection_shared import FRAMES_PER_TURN, NOT_PULLED, STATES

if TYPE_CHECKING:
    from typing_extensions import Self

OPEN = STATES[0]

# The attributes of Pulling, which are slots of the connection: two bases with slots of their own do not go together.
PULL_SLOTS = ("_puller", "_delivering", "_pull_room")

# What _take_frame() returns where there is no frame to be had now: a frame may be anything.
NO_FRAME = object()

# What somebody waits for whom a Puller resumes; CANCELLED: nothing any more, which is told in a later turn.
NOTHING, FRAME, CANCELLED = range(3)


class Puller:
    """A protocol that takes the frames itself: the one of a coroutine.  Its methods are the subclass's."""

    waits: int
    recv: Awaitable[Any]
    following: Awaitable[Any]
    drain: Awaitable[None]

    def frames_ready(self) -> None:
        """There is something for ``_take_frame()``."""
        raise NotImplementedError

    def closing(self) -> None:
        """There will be nothing more; the coroutine is told in a later turn."""
        raise NotImplementedError

    def stop(self) -> None:
        """End in good order: the coroutine gets no more frames, and when it has ended the connection is closed."""
        raise NotImplementedError

    def cancel_handler(self) -> None:
        """Cancel the coroutine."""
        raise NotImplementedError

    def wait_closed(self) -> Coroutine[Any, Any, None]:
        """Wait until the connection is closed."""
        raise NotImplementedError

    def entered(self, conn: Any) -> Coroutine[Any, Any, Any]:
        """Begin an ``async with``: return *conn*."""
        raise NotImplementedError

    def left(self, kind: Any) -> Coroutine[Any, Any, None]:
        """End an ``async with``, left by an exception of class *kind*, if any."""
        raise NotImplementedError


class Pulling:
    """What a connection offers to coroutines: those of a coroutine handler, and whoever has called ``aio.connect``.

    Each raises RuntimeError on a connection whose frames go to callbacks.
    """

    if not TYPE_CHECKING:  # the attributes below are the connection's, which a type checker would not believe
        __slots__ = ()
    else:
        _pending: deque[Any]
        _state: str
        _frames_received: int
        _held: Callable[[], bool]
        _continue_soon: Callable[[], None]

    def _init_pulling(self) -> None:
        self._puller: Puller | None = None
        self._delivering = False  # the puller is being told, and _run_pending looks after what it leaves
        self._pull_room = FRAMES_PER_TURN  # frames that it may still take in this turn

    def recv(self) -> Awaitable[Any]:
        """Wait for the next frame; for coroutines.

        A frame that is decoded already is returned without suspending.  Cancelled, it loses none: the next call gets
        it.  One coroutine at a time.

        Raises, when awaited:
            ConnectionClosed: there is none any more: either side has closed in good order.
            FramingError, OSError: what else ended the connection, after the frames before it; raised once, to the first
                who asks, and ConnectionClosed from then on.
            RuntimeError: another coroutine waits for this connection.
        Reactor thread only.
        """
        return self._pulled().recv

    def drain(self) -> Awaitable[None]:
        """Wait until the output is down to ``Limits.low_water``, if it was above ``high_water``; for coroutines.

        Any number of them, also while another one waits in :meth:`recv`.  Below it returns without suspending.  Raises
        as :meth:`recv`, once the connection is closing.
        """
        return self._pulled().drain

    def wait_closed(self) -> Awaitable[None]:
        """Wait until the connection is closed; for coroutines.  Any number of them."""
        return self._pulled().wait_closed()

    def __aiter__(self) -> Self:
        """Iterate over the frames until the connection is closed in good order; else raise as :meth:`recv`."""
        return self

    def __anext__(self) -> Awaitable[Any]:
        return self._pulled().following

    def __aenter__(self) -> Awaitable[Any]:
        """Return the connection; at the end it is closed, and waited for: aborted, if an exception leaves the block."""
        return self._pulled().entered(self)

    def __aexit__(self, kind: Any, exc: Any, traceback: Any) -> Awaitable[None]:
        return self._pulled().left(kind)

    def _tell_puller(self, puller: Puller) -> None:
        self._pull_room, self._delivering = FRAMES_PER_TURN, True
        try:
            puller.frames_ready()
        finally:
            self._delivering = False

    def _take_frame(self) -> Any:
        """Give away the next frame; NO_FRAME if there is none to be had now."""
        if not self._pending or self._state is not OPEN or self._held():
            return NO_FRAME
        if self._pull_room <= 0:
            # A coroutine that takes without ever having to wait would keep the others waiting.
            self._pull_room = FRAMES_PER_TURN
            self._continue_soon()
            return NO_FRAME
        self._pull_room -= 1
        self._frames_received += 1
        frame = self._pending.popleft()
        if not self._pending and not self._delivering:
            self._continue_soon()  # to read on, or to tell what came behind it
        return frame

    def _pulled(self) -> Puller:
        if self._puller is None:
            raise RuntimeError(NOT_PULLED)
        return self._puller
