"""A session in plain Python: a coroutine that takes the frames of one connection.

Three things in one object, since there is one of each for each connection:

- the connection's protocol, a :class:`Puller`: it is told of frames, of the end, of room in the output;
- the coroutine of the handler's task: an ordinary ``asyncio`` task, which drives the handler's coroutine through it;
- the future that a task waits for which wants a frame (asyncio calls anything that has ``_asyncio_future_blocking``
  one), whoever's task that is.

When a frame comes and it is the handler itself that waits for it, its coroutine is resumed right there, in the
connection's own entry of the turn, with its task as the current one and in its task's context.  If it then waits for
the next frame, that is all: its task, which waits for this object all the while, has nothing to be told.  Whatever else
it does, to wait for another future, to return, to raise, is kept, and the task is woken: it resumes "its coroutine",
which is this object, and gets it.  So a frame costs neither a Handle nor a step of a task, and for asyncio nothing has
happened that it could not have seen: cancellation, time-outs, task groups and current_task() are what they are.

A cancellation that the coroutine asks for while it runs so is its task's to keep (``cancel()`` answers False, upon
which the task notes it), and is delivered where the task would have: at the next thing that is waited for.

Rule: nothing in this file may parse bytes, write to a socket or touch the wheel; no frame that an exception passes may
keep that exception, which knows the frame: in a circle both would wait for the collector.
Read next: ``_connection_pull.py``, ``_session_shared.py``.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from evloop._connection_pull import CANCELLED, FRAME, NO_FRAME, NOTHING, Puller
from evloop._connection_shared import STATES
from evloop.aio._session_shared import (
    COROUTINE_NAMES,
    NAMES,
    End,
    concurrent_wait,
    exception_of,
    finish,
    is_coroutine,
    no_coroutine,
    release,
)
from evloop.errors import CloseReason

if TYPE_CHECKING:
    from evloop.connection import Connection

IMPLEMENTATION = "python"

OPEN = STATES[0]

# The kinds of a Wait; NAMES has their names.
RECV, FOLLOWING, DRAINED = range(3)

# What the coroutine has done that its task has still to be told.
TOLD, YIELDED, RETURNED, RAISED = range(4)

_enter_task: Callable[[Any, Any], None] = asyncio.tasks._enter_task
_leave_task: Callable[[Any, Any], None] = asyncio.tasks._leave_task


class Wait:
    """What ``recv()``, ``drain()`` and ``async for`` await; as good as a coroutine.

    There is one of each kind for a connection, whoever awaits it: so it may be resumed, thrown at and closed by
    somebody who never waited, such as a task that is cancelled before its first step, while somebody else does.
    """

    __slots__ = ("session", "end", "kind")

    def __init__(self, session: Session, kind: int) -> None:
        self.session: Session | None = session  # None once that is over
        self.end: End | None = None  # and then this
        self.kind = kind

    def __await__(self) -> Wait:
        return self

    def __iter__(self) -> Wait:
        return self

    def __next__(self) -> Any:
        session = self.session
        if session is None:
            assert self.end is not None
            raise self.end.tell(self.kind == FOLLOWING)
        if self.kind == DRAINED:
            waiter = session.room()
            if waiter is None:
                raise StopIteration
            return waiter
        if session.waits != NOTHING:  # of which whoever is resumed has been relieved
            raise concurrent_wait(NAMES[self.kind])
        result = session.look(self.kind)
        if result is not NO_FRAME:
            raise StopIteration(result)
        session.waits = FRAME
        session._asyncio_future_blocking = True
        return session

    def send(self, value: Any) -> Any:
        """Go on."""
        return self.__next__()

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """Raise; whoever waited has been relieved of that, or it is not the one this is meant for."""
        try:
            raise exception_of(kind, value, traceback)
        finally:
            del kind, value  # the traceback knows this frame: see the Rule

    def close(self) -> None:
        """Wait no more, unless a task does."""
        session = self.session
        if session is not None and self.kind != DRAINED and not session.is_awaited():
            session.waits = NOTHING

    def __getattr__(self, name: str) -> Any:
        if name in ("__name__", "__qualname__"):  # asyncio's repr of a task asks
            return f"Connection.{NAMES[self.kind]}"
        raise AttributeError(name)


class Session(Puller):
    """The protocol of one connection whose frames a coroutine takes; the coroutine of its task, and its future.

    Args:
        handler: the coroutine function, called with the connection; None: whoever has the connection takes the frames.
        made: called with the connection when there is one.
    """

    def __init__(
        self, handler: Callable[[Any], Any] | None = None, made: Callable[[Any], object] | None = None
    ) -> None:
        self.handler = handler
        self.made = made
        self.conn: Any = None  # None before connection_made, and once both have ended
        self.coro: Any = None
        self.task: asyncio.Task[Any] | None = None
        self.loop: Any = None
        self.waits = NOTHING
        self.recv: Wait = Wait(self, RECV)
        self.following: Wait = Wait(self, FOLLOWING)
        self.drain: Wait = Wait(self, DRAINED)
        self._asyncio_future_blocking = False
        self._exc: BaseException | None = None  # what ended the connection, once it is lost
        self._end: End | None = None
        self._eof = self._stopping = self._lost = False
        # The registration of our own task: its callback, and its context.  It is kept: as long as the coroutine waits
        # for nothing but this connection, the task need not know that it runs.
        self._callback: Callable[[Any], object] | None = None
        self._context: contextvars.Context | None = None
        # That of any other task, for one wake-up.
        self._stranger: Callable[[Any], object] | None = None
        self._stranger_context: contextvars.Context | None = None
        self._own = False  # the task that waits is ours
        self._driven = False  # our task drives the coroutine, and is what the next registration comes from
        self._running = False  # the coroutine runs without its task's knowledge
        self._cancel_asked = False  # and has asked its task to cancel it meanwhile
        self._wakes = False  # a wake-up is scheduled
        self._message: tuple[Any, ...] | None = None  # of the cancellation that result() is to raise
        self._told = TOLD
        self._outcome: Any = None  # what the coroutine has yielded, returned or raised
        self._to_cancel: tuple[Any, BaseException] | None = None  # a future, and on whose behalf
        self._late: BaseException | None = None  # the cancellation that the next step is to deliver
        self._draining: list[asyncio.Future[None]] | None = None  # of drain()
        self._closing: list[asyncio.Future[None]] | None = None  # of wait_closed()

    # --- the protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, conn: Connection) -> None:
        """Start the handler, as a task."""
        self.conn = conn
        self.loop = conn._reactor
        if self.handler is not None:
            self.coro = self.handler(conn)
            if not is_coroutine(self.coro):
                result, self.coro = self.coro, None
                raise no_coroutine(self.handler, result)
            self.task = self.loop.create_task(self)
            assert self.task is not None
            self.task.add_done_callback(self._finished)
        if self.made is not None:
            self.made(conn)
            self.made = None

    def eof_received(self) -> bool:
        """Tell who waits for a frame; the handler closes when it ends."""
        self._eof = True
        if self.waits == FRAME:
            self.wake()
        return self.task is not None

    def pause_writing(self) -> None:
        """Nothing: ``drain()`` asks the connection."""

    def resume_writing(self) -> None:
        """Tell who waits in ``drain()``."""
        release(self._draining)
        self._draining = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell whoever still waits."""
        self._lost, self._exc = True, exc
        self.closing()
        release(self._closing)
        self._closing = None
        if self.task is None:
            self._let_go()

    def stop(self) -> None:
        """End the handler in good order: it gets no more frames, and what it sends is still sent."""
        self._stopping = True
        if self.task is None:
            self.conn.close_for(self.reason)
        elif self.waits == FRAME:
            self._wake_soon()

    def cancel_handler(self) -> None:
        """Cancel the handler's task."""
        if self.task is not None:
            self.task.cancel()

    @property
    def reason(self) -> CloseReason:
        """Why the connection is closed when the handler returns."""
        if self._stopping:
            return CloseReason.SHUTDOWN
        return CloseReason.PEER if self._eof else CloseReason.LOCAL

    @property
    def exc(self) -> BaseException | None:
        """What ended the connection; None if nothing did, or it was in good order."""
        exc: BaseException | None = self._exc if self.conn is None or self._lost else self.conn._exc
        return exc

    @property
    def ended(self) -> bool:
        """Whether there will be no more frames."""
        return self._eof or self._stopping or self.conn is None or self.conn.is_closing()

    def _finished(self, task: asyncio.Task[Any]) -> None:
        finish(self, task)
        self.task = self.handler = None  # the coroutine stays: repr(task) shows it
        if self._lost:
            self._let_go()

    def _let_go(self) -> None:
        """Keep nothing that knows us: in a circle all would wait for the collector."""
        end = self._noted_end(self._exc)
        for wait in (self.recv, self.following, self.drain):
            wait.session, wait.end = None, end
        self.conn = self._exc = None

    # --- what the connection calls ---------------------------------------------------------------------------------

    def frames_ready(self) -> None:
        if self.waits == FRAME:
            self.wake()

    def closing(self) -> None:
        if self.waits == FRAME:
            self._wake_soon()
        release(self._draining)
        self._draining = None

    # --- what a coroutine waits for --------------------------------------------------------------------------------

    def look(self, kind: int) -> Any:
        """Return the next frame, NO_FRAME if it is not there yet.  Raises what ended the connection."""
        conn = self.conn
        if conn is not None and not self._stopping:
            frame = conn._take_frame()
            if frame is not NO_FRAME or (conn._state is OPEN and not self._eof):
                return frame
        raise self._told_end(kind)

    def room(self) -> asyncio.Future[None] | None:
        """Return None if there is room in the output, else a future to be yielded.  Raises what ended the connection.

        An ordinary future, since it is for any number of tasks; where there is no room a turn more is no loss.
        """
        conn = self.conn
        if conn is None or conn._state is not OPEN:
            raise self._told_end(DRAINED)
        if not conn._full:
            return None
        if self._draining is None:
            self._draining = []
        waiter: asyncio.Future[None] = self.loop.create_future()
        waiter._asyncio_future_blocking = True
        self._draining.append(waiter)
        return waiter

    def _told_end(self, kind: int) -> BaseException:
        return self._noted_end(self.exc).tell(kind == FOLLOWING)

    def _noted_end(self, exc: BaseException | None) -> End:
        if self._end is None:
            self._end = End()
        self._end.note(self._why(), exc)
        return self._end

    def _why(self) -> CloseReason:
        reason: CloseReason | None = None if self.conn is None else self.conn.close_reason
        return self.reason if reason is None else reason

    async def wait_closed(self) -> None:
        """Wait until the connection is closed."""
        if not self._lost:
            if self._closing is None:
                self._closing = []
            waiter = asyncio.get_running_loop().create_future()
            self._closing.append(waiter)
            await waiter

    async def entered(self, conn: Any) -> Any:
        """Begin an ``async with``."""
        return conn

    async def left(self, kind: Any) -> None:
        """End an ``async with``: close in good order, or at once if it is left by an exception."""
        if self.conn is not None:
            if kind is None:
                self.conn.close()
            else:
                self.conn.abort()
        await self.wait_closed()

    # --- the future ------------------------------------------------------------------------------------------------

    def get_loop(self) -> Any:
        """Return the loop."""
        return self.loop

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Any = None) -> None:
        """Have *callback(self)* called when the connection has what is waited for."""
        if context is None:
            context = contextvars.copy_context()
        self._own, self._driven = self._driven, False
        if self._own:
            self._callback, self._context = callback, context
        else:
            self._stranger, self._stranger_context = callback, context

    def is_awaited(self) -> bool:
        """Return whether a task waits: it holds on to that, and will be told."""
        return (self._callback if self._own else self._stranger) is not None

    def cancel(self, msg: Any = None) -> bool:
        """Have :meth:`result` raise; return whether it will.  Not while the coroutine runs: its task is told so."""
        waits = self.waits == FRAME
        if self._running:
            # Or a task that has begun to wait meanwhile is told so; to be resumed for nothing does no harm.
            self._cancel_asked = True
            if waits:
                self._wake_soon()
            return False
        if not waits:
            return False
        self.waits = CANCELLED
        self._message = () if msg is None else (msg,)
        self._wake_soon()
        return True

    def result(self) -> None:
        """Return None, or raise the cancellation."""
        message, self._message = self._message, None
        if message is not None:
            raise asyncio.CancelledError(*message)

    def wake(self) -> None:
        """Resume who waits, now: from an entry of the FIFO that is the connection's."""
        if self.waits == CANCELLED:
            return
        if self._own:
            self._step()
        elif asyncio.current_task(self.loop) is not None:
            self._wake_soon()  # as _enter() does
        else:
            self.waits = NOTHING
            self._call_stranger()

    def _wake_soon(self) -> None:
        if not self._wakes:
            self._wakes = True
            self.loop.call_soon(self._wake)

    def _wake(self) -> None:
        """Resume who waits, in a turn of its own: a step of the task, since nobody gathers what it sends."""
        self._wakes = False
        if self.waits != NOTHING:
            self.waits = NOTHING
            if self._own:
                self._call_back()
            else:
                self._call_stranger()

    def _call_back(self) -> None:
        callback, self._callback = self._callback, None
        context, self._context = self._context, None
        try:
            if callback is not None and context is not None:
                context.run(callback, self)
        finally:
            del callback  # a task, and with that what it has raised

    def _call_stranger(self) -> None:
        callback, self._stranger = self._stranger, None
        context, self._stranger_context = self._stranger_context, None
        try:
            if callback is not None and context is not None:
                context.run(callback, self)
        finally:
            del callback  # a task, and with that what it has raised

    # --- the coroutine ---------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """Resume the coroutine in its task's place; what is not another wait for this connection is the task's."""
        context = self._context
        if context is None or not self._enter():
            return
        try:
            result = context.run(self._resume)
            if result is not self:
                self._told, self._outcome = YIELDED, result
        except StopIteration as exc:
            self._told, self._outcome = RETURNED, exc.value
        except BaseException as exc:
            if not self._running:  # refused: in a step of our own, or of another's in our context; as in _enter()
                self._wake_soon()
                return
            self._told, self._outcome = RAISED, exc
        finally:
            self._running = False
            _leave_task(self.loop, self.task)
        if self._told == TOLD:
            self._own = True
            if self._cancel_asked:
                self._cancel_asked = False
                self.waits = CANCELLED
                self._wake_soon()
            return
        self._cancel_asked = False
        self._call_back()
        if self._to_cancel is not None:
            self._cancel_future()

    def _resume(self) -> Any:
        self.waits = NOTHING
        self._running = True
        return self.coro.send(None)

    def _enter(self) -> bool:
        """Make our task the current one; inside of another's step, by on_readable() for example, wait for a turn."""
        try:
            _enter_task(self.loop, self.task)
        except RuntimeError:
            self._wake_soon()
            return False
        return True

    def _cancel_future(self) -> None:
        """Cancel what the task waits for by now: the coroutine had asked for that before, as it ran directly."""
        assert self._to_cancel is not None
        (future, exc), self._to_cancel = self._to_cancel, None
        if getattr(future, "_asyncio_future_blocking", None) is None or not future.cancel(*exc.args):
            self._late = exc  # nothing, or nothing that could be cancelled: then when it is over

    def send(self, value: Any) -> Any:
        """Resume the coroutine, or report what it has done; for its task."""
        if self._told != TOLD:
            return self._tell()
        if self._late is not None:
            exc, self._late = self._late, None
            return self._drive(exc, None)
        return self._drive(None, value)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """Raise in the coroutine; for its task."""
        exc = exception_of(kind, value, traceback)
        if self._told == YIELDED:
            # It has asked to be cancelled, and then waited for a future: to be cancelled is that one's turn.
            self._to_cancel = self._outcome, exc
            return self._tell()
        if self._told == RAISED:
            return self._tell()
        if self._told == RETURNED:
            self._told, self._outcome = TOLD, None
            try:
                raise exc
            finally:
                del exc, kind, value
        late, self._late = self._late, None
        if late is not None and not isinstance(exc, asyncio.CancelledError):
            exc = late
        try:
            return self._drive(exc, None)
        finally:
            del exc, kind, value, late

    def close(self) -> None:
        """Close the coroutine; for whoever drops its task."""
        self._callback = self._context = None
        if self.coro is not None:
            self.coro.close()

    def __await__(self) -> Session:
        return self

    def __iter__(self) -> Session:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def _tell(self) -> Any:
        told, self._told = self._told, TOLD
        outcome, self._outcome = self._outcome, None
        if told == YIELDED:
            return outcome
        if told == RETURNED:
            raise StopIteration(outcome)
        try:
            raise outcome
        finally:
            del outcome

    def _drive(self, exc: BaseException | None, value: Any) -> Any:
        """Resume the coroutine as its task has asked; what it sends leaves with one send."""
        conn = self.conn
        reactor = self.loop
        reactor.dispatching, outer = True, reactor.dispatching
        conn._corked, corked = True, conn._corked
        try:
            result = self.coro.send(value) if exc is None else self.coro.throw(exc)
        finally:
            conn._corked = corked
            del exc
            reactor.dispatching = outer
            if not corked:
                conn.flush()
        self._driven = result is self
        return result

    def __getattr__(self, name: str) -> Any:
        if name in COROUTINE_NAMES and self.coro is not None:
            return getattr(self.coro, name)
        raise AttributeError(name)

    def __repr__(self) -> str:
        return f"<Session of {self.conn!r}>"
