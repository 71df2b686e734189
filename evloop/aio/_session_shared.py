"""What both session twins share: the texts of their errors, and what becomes of a coroutine's end.

Rule: nothing in this file may know which twin is in use, or run per message.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from evloop.errors import CloseReason, ConnectionClosed

# The kinds of a Wait, by number: whose result it is.
NAMES = ("recv", "__anext__", "drain")


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


def the_end(reason: CloseReason | None, exc: BaseException | None, following: bool) -> BaseException:
    """Return what to raise where there is no frame any more: what ended the connection, or that it has ended."""
    if exc is not None:
        return exc
    if following:
        return StopAsyncIteration()
    return ConnectionClosed(f"the connection is closed: {reason.value if reason else 'never opened'}")


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
    if exc is not None and (exc is session.exc or isinstance(exc, ConnectionClosed)):
        exc = None  # it was told of the end and let that escape: no fault of its own
    if exc is not None and conn is not None and not conn.is_closing():
        conn.close_for(CloseReason.HANDLER, exc)
        return
    if exc is not None:  # too late to be the reason of anything
        context = {"message": "Unhandled exception in a session", "exception": exc, "task": task}
        task.get_loop().call_exception_handler(context)
    if conn is not None:
        conn.close_for(session.reason)
