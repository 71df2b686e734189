"""What both session twins share: the texts of their errors, and what becomes of a coroutine's end.

Rule: nothing in this file may know which twin is in use, or run per message.
"""

from __future__ import annotations

import asyncio
import inspect
from types import TracebackType
from typing import Any

from evloop.errors import CloseReason, ConnectionClosed

# The kinds of a Wait, by number: whose result it is.
NAMES = ("recv", "__anext__", "drain")

# The twins, whose frames come before the handler's in a traceback.
_OURS = frozenset({"evloop.aio._session", "evloop.aio._session_py"})

# What asyncio asks a task's coroutine for, to show it: a session answers for the handler's.
COROUTINE_NAMES = frozenset({"__name__", "__qualname__", "cr_code", "cr_frame", "cr_running", "cr_await", "cr_origin"})


def current_tasks() -> dict[Any, Any] | None:
    """Return the dict, by loop, in which asyncio keeps the tasks that are current; None if there is none to be had.

    To write to it is what ``_enter_task`` and ``_leave_task`` do, for a tenth of what the calls cost.  It is asyncio's
    own affair where it is kept, so that is tried and not assumed: up to 3.13 it is a dict of the C module's.
    """
    found = getattr(asyncio.tasks, "_current_tasks", None)
    if not isinstance(found, dict):
        return None
    loop, task = object(), object()
    asyncio.tasks._enter_task(loop, task)  # type: ignore[arg-type]
    try:
        return found if found.get(loop) is task else None
    finally:
        asyncio.tasks._leave_task(loop, task)  # type: ignore[arg-type]


def is_coroutine(thing: Any) -> bool:
    """Return whether it can be driven as one."""
    return inspect.iscoroutine(thing) or asyncio.iscoroutine(thing)


def no_coroutine(handler: Any, result: Any) -> TypeError:
    """Return the error for a handler whose call has not made a coroutine."""
    return TypeError(f"a coroutine handler must return a coroutine, and {handler!r} returned {type(result).__name__}")


def concurrent_wait(name: str) -> RuntimeError:
    """Return the error for a second one that would wait on the same connection."""
    return RuntimeError(f"{name}() called while another coroutine waits for the same connection")


def release(waiters: list[asyncio.Future[None]] | None) -> None:
    """Have all of the futures done, which may be none."""
    for waiter in waiters or ():
        if not waiter.done():
            waiter.set_result(None)


class End:
    """What somebody is told who asks a connection for more after its end.

    What ended it is raised once: raised again and again it would collect the frames of all who were told, and they know
    the connection, which would wait for the collector then.

    Attributes:
        reason: the CloseReason; what it would be, while the connection is open and there will be no more frames.
        exc: what ended the connection and nobody was told of yet; else None.
        failed: True if something did, told or not: the end was not in good order.
    """

    __slots__ = ("reason", "exc", "failed")

    def __init__(self) -> None:
        self.reason = CloseReason.LOCAL
        self.exc: BaseException | None = None
        self.failed = False

    def note(self, reason: CloseReason, exc: BaseException | None) -> None:
        """Take over what is known of the end by now."""
        self.reason = reason
        if exc is not None and not self.failed:
            self.failed = True
            # What the handler has raised is its own; whoever else waits for the connection did not do it.
            self.exc = None if reason is CloseReason.HANDLER else exc

    def tell(self, following: bool) -> BaseException:
        """Return what to raise; *following*: in an ``async for``, which a good end just ends."""
        exc, self.exc = self.exc, None
        if exc is not None:
            return exc
        if following and not self.failed:
            return StopAsyncIteration()
        return ConnectionClosed(f"the connection is closed: {self.reason.value}")


def exception_of(kind: Any, value: Any, traceback: Any) -> BaseException:
    """Return what the arguments of a coroutine's ``throw()`` mean, in the old form or in the new one."""
    exc: BaseException
    if isinstance(kind, BaseException):
        exc = kind
    elif isinstance(value, BaseException):
        exc = value
    else:
        exc = kind() if value is None else kind(value)
    return exc if traceback is None else exc.with_traceback(traceback)


def finish(session: Any, task: asyncio.Task[Any]) -> None:
    """End the connection of a handler that has ended; what it raised is the connection's end, or goes to the log."""
    conn, exc = session.conn, None if task.cancelled() else task.exception()
    if exc is not None and _is_told_end(session, exc):
        exc = None
    if exc is not None:
        exc.__traceback__ = _without_ours(exc.__traceback__)
    if conn is not None and not conn.is_closing():
        conn.close_for(session.reason if exc is None else CloseReason.HANDLER, exc)
    elif exc is not None and not isinstance(exc, (SystemExit, KeyboardInterrupt)):  # which have left the loop
        # Too late to be the reason of anything.
        context = {"message": "Unhandled exception in a session", "exception": exc, "task": task}
        task.get_loop().call_exception_handler(context)


def _is_told_end(session: Any, exc: BaseException) -> bool:
    """Return whether a handler was told of the end and let that escape, which is no fault of its own."""
    # ConnectionClosed may also be about another connection that the handler has, while its own is well.
    return exc is session.exc or (isinstance(exc, ConnectionClosed) and session.ended)


def _without_ours(traceback: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the handler on; what drives its coroutine is of no interest to who wrote it."""
    found = traceback
    while found is not None and found.tb_frame.f_globals.get("__name__") in _OURS:
        found = found.tb_next
    return traceback if found is None else found
