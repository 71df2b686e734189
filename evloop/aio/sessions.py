"""Coroutine handlers: the door between a connection and the session that takes its frames.

Each implementation of the connection has a session of its own; which one it is to be, the connection says.

Rule: nothing in this file may run per message.  Read next: ``_session_py.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from evloop.aio._session_py import Session
from evloop.aio.loop import EventLoop, new_event_loop
from evloop.protocol import CoroutineProtocol

Handler = Callable[[Any], Coroutine[Any, Any, object]]


def session_class(implementation: str) -> type[Session]:
    """Return the session for a connection whose ``IMPLEMENTATION`` is *implementation*."""
    if implementation == "python":
        return Session
    from evloop.aio._session import Session as CompiledSession

    found: type[Session] = CompiledSession
    return found


def coroutine_protocol(handler: Handler, reactor: Any) -> CoroutineProtocol:
    """Return the protocol of connections whose frames *handler* takes.

    Raises: TypeError: *reactor* is not an event loop, and cannot run tasks.
    """
    if not isinstance(reactor, asyncio.AbstractEventLoop):
        raise TypeError(
            f"a coroutine handler needs an event loop to run in, and {type(reactor).__name__} is none: give "
            "Server() or connect() an evloop.aio.EventLoop, or use evloop.serve(), which makes one"
        )
    return CoroutineProtocol(lambda implementation: session_class(implementation)(handler))


def taken_by_whoever(made: Callable[[Any], object]) -> CoroutineProtocol:
    """Return the protocol of a connection without a handler; *made(conn)* is called when there is one."""
    return CoroutineProtocol(lambda implementation: session_class(implementation)(None, made))


@contextmanager
def loop_of_its_own() -> Iterator[EventLoop]:
    """Make an event loop for a ``with`` block; at its end cancel what still runs in it, and close it.

    Raises: RuntimeError: a loop is running in this thread already.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "serve() runs an event loop of its own, and there is one running in this thread: start an "
            "evloop.Server(loop, handler, address) in it, if it is an evloop.aio.EventLoop (evloop.aio.run())"
        )
    loop = new_event_loop()
    try:
        yield loop
    finally:
        try:
            if not loop.is_closed():  # as it is in a child that a handler has forked
                _cancel_all_tasks(loop)
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()


def _cancel_all_tasks(loop: EventLoop) -> None:
    """Cancel every task of the loop and let it end; what one raises instead goes to the exception handler."""
    tasks = asyncio.all_tasks(loop)
    if not tasks:  # of which gather() would ask for a loop
        return
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    for task in tasks:
        exc = None if task.cancelled() else task.exception()
        if exc is not None:
            context = {"message": "Unhandled exception as serve() ended", "exception": exc, "task": task}
            loop.call_exception_handler(context)
