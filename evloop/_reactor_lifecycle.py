"""The lifecycle of a reactor on its own: run, stop, close, signals, what becomes of exceptions.

It runs per reactor and not per callback, so it exists once, in Python, for every implementation of the core that it
stands in front of.  Under asyncio's loop, which brings its own lifecycle, it is absent.

Rule: nothing in this file may run per event or per callback (errors excepted), import asyncio, or import a core.
Read next: ``_reactor_py.py``, whose ``_turn`` is what is run here.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

    from evloop.reactor import Core
else:
    Core = object  # a mixin: the class that joins the two inherits the core itself

logger = logging.getLogger("evloop")


class Lifecycle(Core):
    """What :class:`Reactor` has beyond its core.  Owns: the signal handlers that were added."""

    def __init__(self) -> None:
        self._exception_handler: Callable[[Any, dict[str, Any]], object] | None = None
        self._signal_handlers: dict[int, tuple[Callable[..., object], tuple[Any, ...], contextvars.Context]] = {}
        self._previous_handlers: dict[int, Any] = {}
        self._previous_wakeup: tuple[int, object] = (-1, None)  # the fd and its identity

    def run_forever(self) -> None:
        """Turn until :meth:`stop` is called; what is marked for a flush is flushed before this returns.

        The calling thread is the reactor's thread meanwhile.  KeyboardInterrupt and SystemExit of a callback pass
        through; the reactor can run again.  Raises: RuntimeError: closed, or already running.
        """
        with self._running():
            self._turn_until_stopped()

    def run_until(self, predicate: Callable[[], object] | None = None, *, deadline: float | None = None) -> bool:
        """Turn until *predicate()* is true and return True, or until the *deadline* or :meth:`stop`, and return False.

        Args:
            predicate: asked before the first turn and after each one.
            deadline: absolute, in seconds on the scale of :meth:`time`; one that has passed permits no turn.
        Raises: RuntimeError: closed, or already running.  TypeError: neither argument, or one of the wrong type.
            ValueError: *deadline* is NaN.
        """
        if predicate is None and deadline is None:
            raise TypeError("run_until() needs a predicate, a deadline, or both; use run_forever() for neither")
        if deadline is not None and deadline != deadline:
            raise ValueError("deadline must be a number of seconds, not NaN")
        with self._running():
            if predicate is not None and predicate():
                return True
            while True:
                left = None if deadline is None else deadline - self.time()
                if left is not None and left <= 0:
                    return False
                self._turn(left)
                if predicate is not None and predicate():
                    return True
                if self._stopping:
                    return False

    @contextmanager
    def _running(self) -> Iterator[None]:
        self._check_closed()
        if self._thread_id is not None:
            raise RuntimeError("Reactor is already running")
        self._thread_id = threading.get_ident()
        # An interrupt may have come between setting the flag and sending the byte; at worst one turn does not wait.
        self._wakeup.pending = False
        try:
            yield
            self._check_closed()  # a child that the last turn has forked: its run is not the parent's
            self._flush_dirty(whole=True)  # what the last turn queued must not wait for a run that may never come
        finally:
            self._stopping = False
            self._awake = False
            self._thread_id = None

    def stop(self) -> None:
        """End the run after this turn; before a run: after its first turn.  Reactor thread only."""
        self._stopping = True

    def is_running(self) -> bool:
        """Return whether a thread is inside of ``run_forever`` or ``run_until``.  Any thread."""
        return self._thread_id is not None

    def is_closed(self) -> bool:
        """Return whether :meth:`close` was called.  Any thread."""
        return self._closed

    def close(self) -> None:
        """Drop what is scheduled, give the signals back, close the selector and the wake-up sockets.  Idempotent.

        Endpoints that are still registered are neither told nor closed.  Call it where the signal handlers were added:
        in the main thread.  Raises: RuntimeError: running.  ValueError: signal handlers, and not the main thread.
        """
        if self._thread_id is not None:
            raise RuntimeError("Cannot close a running reactor")
        if self._closed:
            return
        for sig in list(self._signal_handlers):
            self.remove_signal_handler(sig)
        self._close_core()

    def _forked(self, owner: int) -> None:
        # Else this process would ignore SIGTERM, and its signals' numbers would go to the parent, through the shared
        # wake-up socket.
        for sig in list(self._signal_handlers):
            self.remove_signal_handler(sig)
        super()._forked(owner)

    def __enter__(self) -> Self:
        self._check_closed()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- signals -------------------------------------------------------------------------------------------------

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        """Run *callback(\\*args)* as a callback of this reactor when the signal arrives; replaces the last one.

        Main thread only.  Raises: TypeError: not callable, a coroutine function, or *sig* no int.  ValueError: no such
        signal.  RuntimeError: closed, not the main thread, or the signal cannot be caught (SIGKILL, SIGSTOP).
        """
        self._check_closed()
        if not callable(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError(f"a signal handler must be a function, and no coroutine: {callback!r}")
        _check_signal(sig)
        if sig not in self._signal_handlers:
            self._catch(sig)
        self._signal_handlers[sig] = (callback, args, contextvars.copy_context())

    def _catch(self, sig: int) -> None:
        try:
            if not self._signal_handlers:
                previous_fd = signal.set_wakeup_fd(self._signal_fd())
                self._previous_wakeup = (previous_fd, _identity(previous_fd))
        except (ValueError, OSError) as exc:
            raise RuntimeError(str(exc)) from exc  # not the main thread
        try:
            previous = signal.signal(sig, self._signal_noop)
            signal.siginterrupt(sig, False)  # system calls of libraries that know no EINTR are restarted
        except OSError as exc:
            self._release_wakeup_fd()
            raise RuntimeError(f"signal {sig} cannot be caught") from exc
        # None: installed by C code, which Python cannot put back.
        self._previous_handlers[sig] = signal.SIG_DFL if previous is None else previous

    def _signal_noop(self, signum: int, frame: object) -> None:
        """Stand for the signal in Python; the C-level handler has sent its number through the wake-up socket."""

    def _release_wakeup_fd(self) -> None:
        if self._signal_handlers:
            return
        fd, identity = self._previous_wakeup
        # Its owner may have closed it meanwhile; a signal's number must not be written into somebody else's stream.
        current = signal.set_wakeup_fd(fd if _identity(fd) == identity else -1)
        if current != self._signal_fd():
            signal.set_wakeup_fd(current)  # somebody took the signals over since; they stay there

    def remove_signal_handler(self, sig: int) -> bool:
        """Put back what handled the signal before; return whether there was anything to remove.

        Main thread only (elsewhere ValueError).  Raises: TypeError, ValueError: as :meth:`add_signal_handler`.
        """
        _check_signal(sig)
        if sig not in self._signal_handlers:
            return False
        previous = self._previous_handlers[sig]
        owner = getattr(previous, "__self__", None)
        if isinstance(owner, Lifecycle) and owner.is_closed():  # put back, it would swallow the signal for ever
            previous = signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL
        if signal.getsignal(sig) == self._signal_noop:
            signal.signal(sig, previous)
        del self._previous_handlers[sig]
        del self._signal_handlers[sig]
        self._release_wakeup_fd()
        return True

    def _wakeup_received(self, data: bytes) -> None:
        for signum in data:
            if signum in self._signal_handlers:
                self.call_soon(self._signal_arrived, signum, context=self._signal_handlers[signum][2])

    def _signal_arrived(self, signum: int) -> None:
        if signum in self._signal_handlers:  # it may have been removed since
            callback, args, _ = self._signal_handlers[signum]
            callback(*args)

    # --- errors, debugging ---------------------------------------------------------------------------------------

    def set_exception_handler(self, handler: Callable[[Any, dict[str, Any]], object] | None) -> None:
        """Have *handler(reactor, context)* called for what callbacks and endpoints let escape; None: log it.

        Reactor thread only.  Raises: TypeError: neither callable nor None.
        """
        if handler is not None and not callable(handler):
            raise TypeError(f"an exception handler must be callable or None, not {type(handler).__name__}")
        self._exception_handler = handler

    def get_exception_handler(self) -> Callable[[Any, dict[str, Any]], object] | None:
        """Return what :meth:`set_exception_handler` was given, or None.  Any thread."""
        return self._exception_handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Log *context* with its traceback to the logger ``evloop`` at ERROR.  Any thread."""
        exc = context.get("exception")
        lines = [context.get("message") or "Unhandled exception in reactor"]
        lines += [f"{key}: {context[key]!r}" for key in sorted(context) if key not in ("message", "exception")]
        logger.error("\n".join(lines), exc_info=None if exc is None else (type(exc), exc, exc.__traceback__))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Hand *context* to the exception handler; an exception of that is logged, and goes no further.

        Args:
            context: ``message`` (str), ``exception`` (the object), and ``handle`` or ``endpoint``: who let it escape.
        Reactor thread only.
        """
        try:
            if self._exception_handler is not None:
                try:
                    self._exception_handler(self, context)
                    return
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as exc:
                    message = "Unhandled error in exception handler"
                    context = {"message": message, "exception": exc, "context": context}
            self.default_exception_handler(context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            logger.error("Exception in default exception handler", exc_info=True)

    def get_debug(self) -> bool:
        """Return whether debug mode is on.  Any thread."""
        return self._debug

    def set_debug(self, enabled: bool) -> None:
        """Switch debug mode: scheduling from a wrong thread raises RuntimeError.  Reactor thread only."""
        self._debug = bool(enabled)

    def stats(self) -> dict[str, Any]:
        """Return counters: ``implementation`` (str), ``turns`` and ``events`` since the start, ``stale`` ones of these
        that nobody got, ``ready`` entries, live ``timers``, registered ``fds`` without the reactor's own (ints).

        Reactor thread only.
        """
        return {
            "implementation": self._implementation,
            "turns": self._turns,
            "events": self._events,
            "stale": self._stale,
            "ready": len(self._ready),
            "timers": len(self._scheduled) - self._timer_cancelled_count,
            "fds": 0 if self._closed else len(self._selector.get_map()) - self._own_fds,
        }

    def __repr__(self) -> str:
        state = "closed" if self._closed else "running" if self._thread_id is not None else "idle"
        counts = " ".join(f"{key}={value}" for key, value in self.stats().items())
        return f"<{type(self).__name__} {state} {type(self._selector).__name__} {counts}>"


def _check_signal(sig: int) -> None:
    if not isinstance(sig, int):
        raise TypeError(f"sig must be an int, not {type(sig).__name__}")
    if sig not in signal.valid_signals():
        raise ValueError(f"invalid signal number {sig}")


def _identity(fd: int) -> object:
    """Return what tells the open file behind *fd* from a later one with its number; None if there is none."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino
