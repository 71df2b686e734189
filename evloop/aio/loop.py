"""The event loop: the reactor's core in front of asyncio's own loop.

What runs per callback or per packet is the core's; what runs per connection or per loop is inherited from the standard
library: tasks, executors, name resolution, subprocesses, pipes, signals, TLS.  Both halves work on the same fields
(``_ready``, ``_scheduled``, ``_stopping``, ...), so neither knows that the other one is there.

In debug mode, and over any selector but our own, the wheel and the scheduling are inherited, too: with all of the
standard library's diagnostics.

Rule: nothing in this file may run per callback or per packet.  Read next: ``reactor.py``, ``_reactor_py.py``.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.format_helpers import extract_stack
from collections.abc import Coroutine
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar

from evloop.aio.core import AsyncioCore
from evloop.aio.transports import Transports
from evloop.reactor import Core, EpollSelector

T = TypeVar("T")

# Bound once: test-suites and libraries replace the name in asyncio by a class of ours.
_Standard = asyncio.SelectorEventLoop

# What the core does per callback, and asyncio does instead where it is to look at each of them.
_PER_CALLBACK = ("call_soon", "call_soon_threadsafe", "call_later", "call_at", "time")


if TYPE_CHECKING:

    class _Base(Core, _Standard):  # type: ignore[misc]
        pass
else:
    _Base = object  # a mixin: the class that joins the three inherits the core itself


class AsyncioLifecycle(Transports, _Base):  # type: ignore[misc]
    """What stands in front of a core and of asyncio's loop, and says which of them does what."""

    _core: type[Any] = Core

    def __init__(self, selector: BaseSelector | None = None) -> None:
        self._core.__init__(self, selector)
        self._refusal = "Event loop is closed"  # whose very words programs look for
        try:
            _Standard.__init__(self, self._selector)
        except BaseException:
            self._close_core()
            raise

    # --- which half turns the wheel --------------------------------------------------------------------------------

    def _is_inherited(self) -> bool:
        """Return whether asyncio's code is to see each callback: in debug mode, and over any other selector."""
        return self._debug or type(self._selector) is not EpollSelector

    def _debug_switched(self) -> None:
        # On the object, since the class may be anybody's, who has overridden some of them.
        own, inherited = vars(self), self._is_inherited()
        # asyncio's call_later goes through call_at and ours does not: for whoever has overridden that it has to.
        call_at_overridden = type(self).call_at is not self._core.call_at
        for name in _PER_CALLBACK:
            if inherited or (name == "call_later" and call_at_overridden):
                if name not in own and getattr(type(self), name) is getattr(self._core, name):
                    own[name] = MethodType(getattr(_Standard, name), self)
            elif getattr(own.get(name), "__func__", None) is getattr(_Standard, name):
                del own[name]  # ours alone: somebody may have put another function in its place

    def _run_once(self) -> None:
        # An interrupt may have come between setting the flag and waking up; at worst one turn does not wait.
        self._wakeup.pending = False
        if self._is_inherited():
            if self._flush_dirty():
                self.call_soon(_nothing)  # so that the turn does not wait, and the next one flushes
            _Standard._run_once(self)  # type: ignore[attr-defined]
        else:
            # Whoever has put a method of his own in front of this one, as simulated clocks do, counts on one turn.
            overridden = getattr(self._run_once, "__func__", None) is not AsyncioLifecycle._run_once
            try:
                if overridden:
                    self._turn()
                else:
                    self._turn_until_stopped()
            finally:
                self._awake = False
        if self._stopping:
            self._flush_dirty(whole=True)  # what the last turn queued must not wait for a run that may never come

    def close(self) -> None:
        """Close the loop; it must not run.  Idempotent."""
        _Standard.close(self)
        self._close_core()

    # --- whose the fds are -----------------------------------------------------------------------------------------

    # asyncio's public four look for a transport first, then call these.
    add_reader, remove_reader = _Standard.add_reader, _Standard.remove_reader
    add_writer, remove_writer = _Standard.add_writer, _Standard.remove_writer

    def _add_reader(self, fd: Any, callback: Any, *args: Any) -> Any:
        return self._watch(fd, EVENT_READ, callback, args)

    def _remove_reader(self, fd: Any) -> bool:
        return self._unwatch(fd, EVENT_READ)

    def _add_writer(self, fd: Any, callback: Any, *args: Any) -> Any:
        return self._watch(fd, EVENT_WRITE, callback, args)

    def _remove_writer(self, fd: Any) -> bool:
        return self._unwatch(fd, EVENT_WRITE)

    def _debug_handle(self, callback: Any, args: tuple[Any, ...]) -> Any:
        handle: Any = super()._debug_handle(callback, args)
        handle._source_traceback = extract_stack(sys._getframe(1))  # as asyncio's handles have
        return handle

    def _write_to_self(self) -> None:
        # The core's wake-up: one write for many calls.  asyncio's pair of sockets is left for the signals.
        self._wakeup.wake()


class EventLoop(AsyncioLifecycle, AsyncioCore, _Standard):  # type: ignore[misc]
    """An asyncio event loop on evloop's reactor: everything of ``asyncio.SelectorEventLoop``, only faster.

    It is a reactor's core as well, and takes its place: ``evloop.Server(loop, handler)``, ``evloop.connect(loop, ...)``
    run beside asyncio's tasks, in the same turns.

    Args:
        selector: where readiness comes from; None: epoll.  Over any other one, and in debug mode, asyncio's own code
            runs each callback.  Closed with the loop.
    Raises: OSError: the process has no file descriptor left.
    """

    _core = AsyncioCore


def _nothing() -> None:
    """Be something to do."""


def new_event_loop() -> EventLoop:
    """Return a new event loop: the ``loop_factory`` of ``asyncio.Runner`` and of servers that take one."""
    return EventLoop()


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run a coroutine on a new :class:`EventLoop` and return its result; as ``asyncio.run`` in everything else.

    Args:
        main: a coroutine.
        debug: asyncio's debug mode; None: what the environment says.
    Raises:
        RuntimeError: called while an event loop runs in this thread.
        ValueError, TypeError: *main* is no coroutine.
    """
    if sys.version_info >= (3, 11):
        with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
            return runner.run(main)
    # Python 3.10 takes loops from the policy alone.
    policy = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(EventLoopPolicy())
    try:
        return asyncio.run(main, debug=debug)
    finally:
        asyncio.set_event_loop_policy(policy)


class EventLoopPolicy(asyncio.DefaultEventLoopPolicy):
    """asyncio's policy, whose new loops are :class:`EventLoop`; for code that chooses loops by a policy."""

    _loop_factory = EventLoop
