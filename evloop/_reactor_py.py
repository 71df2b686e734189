"""The reactor in pure Python: the readable reference of the seam whose door is ``reactor.py``.

One turn of the wheel stands in :meth:`Core._turn` and fits on a screen.  The words and their meaning are asyncio's,
and so are the names of the fields (``_ready``, ``_scheduled``, ``_stopping``, ...): the same core can be put in front
of asyncio's own loop, whose inherited code then sees the same lists.

Rule: nothing in this file may import asyncio, know a frame or a connection, or keep state outside of an object.
Read next: ``_reactor_lifecycle.py``, which runs the wheel; ``connection.py``, the most important endpoint.
"""

from __future__ import annotations

import collections
import contextvars
import functools
import heapq
import itertools
import selectors
import socket
import threading
import time
from collections.abc import Callable
from math import inf
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

from evloop._reactor_fork import Refusal, close_after_fork
from evloop._reactor_lifecycle import Lifecycle

IMPLEMENTATION = "python"

# A buffer allocated per read costs an mmap and its page faults from 128 KiB on, several times the recv itself; with
# one for all connections a read allocates nothing, and an idle connection has none.  256 KiB is also what a connection
# may read in a turn: copying it is a matter of microseconds, so a peer that never pauses delays the others by little.
RECV_BUFFER = 256 * 1024

# asyncio's bound: epoll_wait(2) counts milliseconds in an int, and a longer wait would overflow it after 24 days.
MAX_WAIT = 24 * 3600.0

# Cancelled timers stay in the heap until they come up, since to find one costs O(n).  asyncio's two bounds: up to 100
# the memory is not worth a rebuild; at half of the heap the O(n) of a rebuild is paid for by n/2 cancellations.
MIN_SCHEDULED_FOR_REBUILD = 100
MAX_CANCELLED_FRACTION = 0.5

# Seconds for which endpoints that asked for it are flushed before the reactor looks at the fds again.  5,000 members of
# a group are as many system calls, 20 ms; two milliseconds are some 500 of them, beside which the look is nothing, and
# the others wait no longer.  The clock is asked after every 16: fewer never ask, and 16 writes of the most that a
# connection may write in a turn take about as long as the slice.
FLUSH_SLICE = 0.002
FLUSHES_UNTIMED = 16

# The twin brings an epoll selector of its own; here it is the best one that the standard library has.
EpollSelector = selectors.DefaultSelector

# Wake-up bytes are coalesced, so only signals queue up here; more than this is left for the next turn.
WAKEUP_READ = 4096

Callback = Callable[..., object]
Context = contextvars.Context | None


class Handle:
    """A callback that waits to be run once; what ``call_soon`` returns.  Reactor thread only."""

    __slots__ = ("_callback", "_args", "_context", "_reactor", "_cancelled")

    _source_traceback: list[Any] | None = None  # asyncio asks each handle for it; kept by its own alone, in debug mode

    def __init__(self, callback: Callback, args: tuple[Any, ...], reactor: Core, context: Context = None) -> None:
        if not callable(callback):
            raise TypeError(f"a callback must be callable, not {type(callback).__name__}")
        self._callback: Callback | None = callback
        self._args: tuple[Any, ...] = args
        self._context = contextvars.copy_context() if context is None else context
        self._reactor = reactor
        self._cancelled = False

    def cancel(self) -> None:
        """Keep the callback from being run; it and its arguments are released at once.  Idempotent."""
        self._cancelled = True
        self._callback = None
        self._args = ()

    def cancelled(self) -> bool:
        """Return whether :meth:`cancel` was called."""
        return self._cancelled

    def _run(self) -> None:
        callback = self._callback
        if callback is None:
            return
        try:
            self._context.run(callback, *self._args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            context = {"message": f"Exception in callback {callback!r}", "exception": exc, "handle": self}
            if self._source_traceback:
                context["source_traceback"] = self._source_traceback
            self._reactor.call_exception_handler(context)

    def __repr__(self) -> str:
        state = " cancelled" if self._cancelled else f" {self._callback!r}"
        return f"<{type(self).__name__}{state}>"


class _TracedHandle(Handle):
    """One that may be given a traceback of where it was made."""


@functools.total_ordering
class TimerHandle(Handle):
    """A callback that waits for its time; what ``call_later`` and ``call_at`` return.  Reactor thread only.

    Ordered by deadline, then by the order of arming: equal deadlines run first in, first out.
    """

    __slots__ = ("_when", "_order", "_scheduled")

    def __init__(self, when: float, order: int, *args: Any) -> None:
        super().__init__(*args)
        self._when = when
        self._order = order
        self._scheduled = False  # in the heap

    def when(self) -> float:
        """Return the deadline in seconds on the scale of the reactor's ``time()``."""
        return self._when

    def cancel(self) -> None:
        """Keep the callback from being run.  Idempotent."""
        if not self._cancelled:
            super().cancel()  # first: the reactor may rebuild its heap at once, and drops what is cancelled
            self._reactor._timer_handle_cancelled(self)

    def __lt__(self, other: object) -> bool:
        if isinstance(other, TimerHandle):
            return self._when < other._when or (self._when == other._when and self._order < other._order)
        when = getattr(other, "_when", None)  # asyncio's may stand in the same heap; ours come first at equal times
        return NotImplemented if when is None else bool(self._when <= when)


class Endpoint:
    """Something that a reactor can poke: a listener, a connection, a watched fd.

    The object itself is the entry in the reactor's FIFO, so an event allocates nothing.  A subclass overrides what it
    registers for.  Methods that return without consuming the readiness are called again in the next turn.

    Attributes:
        closed: True once the owner is done with the fd (bool; set by the subclass); from then on nothing is called.
    Owns: nothing.  Does not own: the reactor, the fd.
    """

    # The selector resolves an fd to the endpoint at the time of the wait, so the object's identity is the generation:
    # the event of a closed fd, whose number another endpoint has got in the same turn, still reaches the object that
    # is closed, and stops there.  Cost: one attribute read an event.
    __slots__ = ("_reactor", "closed", "_revents", "_dirty", "_registered")

    _cancelled = False  # the FIFO asks this of each of its entries
    _callback = None  # and asyncio's debug mode this of one that was slow

    def __init__(self, reactor: Core) -> None:
        if not isinstance(reactor, Core):
            raise TypeError(f"an endpoint needs a reactor of its own implementation, not {type(reactor).__name__}")
        self._reactor = reactor
        self.closed = False
        self._revents = 0  # what the selector reported and has not been delivered
        self._dirty = False  # on the reactor's list of endpoints to flush
        self._registered = -1  # the fd

    def on_readable(self) -> None:
        """Called when a read would not block: data, end of stream or an error.  Reactor thread only."""

    def on_writable(self) -> None:
        """Called when a write would not block, or would fail.  Reactor thread only."""

    def flush(self) -> None:
        """Called before the next wait after ``flush_soon(self)``.  Reactor thread only."""

    def _run(self) -> None:
        # on_readable may close this endpoint, or take back its interest in writing (modify clears the bit in _revents):
        # both are asked again in between.
        try:
            if self._revents & EVENT_READ and not self.closed:
                self._revents &= ~EVENT_READ
                self.on_readable()
            if self._revents & EVENT_WRITE and not self.closed:
                self._revents = 0
                self.on_writable()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._failed(exc)

    def _failed(self, exc: BaseException) -> None:
        """Report an exception that a method let escape; the endpoint stays registered."""
        context = {"message": f"Exception in endpoint {self!r}", "exception": exc, "endpoint": self}
        self._reactor.call_exception_handler(context)

    def _forked(self) -> None:
        """Called in a forked child while registered: this is a copy, whose fd may be closed and not be used."""


class _FdWatch(Endpoint):
    """The endpoint of an fd watched with add_reader or add_writer.  Owns: one Handle a direction."""

    __slots__ = ("handles",)

    def __init__(self, reactor: Core) -> None:
        super().__init__(reactor)
        self.handles: dict[int, Handle] = {}

    # Absent: somebody else's selector has reported what it was not asked for.
    def on_readable(self) -> None:
        if EVENT_READ in self.handles:
            self.handles[EVENT_READ]._run()

    def on_writable(self) -> None:
        if EVENT_WRITE in self.handles:
            self.handles[EVENT_WRITE]._run()


class _WakeUp(Endpoint):
    """Ends the wait of a reactor from any thread, and from a signal's C-level handler.  Owns: a pair of sockets."""

    __slots__ = ("receiver", "sender", "pending")

    def __init__(self, reactor: Core) -> None:
        super().__init__(reactor)
        self.receiver, self.sender = socket.socketpair()
        self.receiver.setblocking(False)
        self.sender.setblocking(False)
        self.pending = False

    def wake(self) -> None:
        """Make the receiver readable; once is enough until it was drained.  Any thread."""
        if self.pending:
            return
        self.pending = True
        try:
            self.sender.send(b"\0")
        except OSError:
            pass  # full: there are bytes to wake up for; closed in the meantime: nobody is left to wake

    def on_readable(self) -> None:
        # Drain, then clear, before anything waits again.  Who still saw the flag has queued its callback before that,
        # and the next wait looks at the queue.  Cleared first, a byte sent between the two would be drained while its
        # flag stands, and nobody would ever send another one.  Price: now and then a wake-up for nothing.
        try:
            data = self.receiver.recv(WAKEUP_READ)
        except BlockingIOError:
            return
        finally:
            self.pending = False
        self._reactor._wakeup_received(data)

    def close(self) -> None:
        self.closed = True
        self.receiver.close()
        self.sender.close()


class Core:
    """Scheduling, fds and timers: what runs per callback or per packet.  A lifecycle stands in front of it.

    The lifecycle supplies ``call_exception_handler(context)``, sets ``_thread_id`` while turning, and calls
    ``_close_core`` at the end.

    Args:
        selector: where readiness comes from; default ``selectors.DefaultSelector()``.  Closed with the core.
        clock: seconds as float, must never go back; every timer and deadline is on its scale.
        socket_factory: how connections and listeners of this reactor make their sockets; called like ``socket.socket``.
    Raises: OSError when the process has no file descriptor left.
    Owns: the selector, the wake-up sockets, the shared receive buffer.  Does not own: registered endpoints, their fds.
    """

    _implementation = IMPLEMENTATION
    _own_fds = 1  # registered by the core itself
    _stale = 0  # events of fds that were given back, which cannot come: see Endpoint
    _refusal = "Reactor is closed"  # what a use of it is answered with, once it is
    call_exception_handler: Callable[[dict[str, Any]], None]

    def __init__(
        self,
        selector: selectors.BaseSelector | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        socket_factory: Callable[..., socket.socket] = socket.socket,
    ) -> None:
        self._ready: collections.deque[Any] = collections.deque()  # of anything with _run() and _cancelled
        self._scheduled: list[TimerHandle] = []
        self._timer_cancelled_count = 0
        self._timer_order = itertools.count()
        self._to_flush: collections.deque[Endpoint] = collections.deque()
        self._stopping = self._closed = self._debugging = False
        self._awake = False  # true while the FIFO is certain to be looked at before the next wait
        self._thread_id: int | None = None
        self._clock = clock
        self.socket_factory = socket_factory
        self._recv_buffer: memoryview | None = None
        self.dispatching = False  # an endpoint runs the application's code: writes of others wait for flush_soon
        self._turns = self._events = 0
        self._wakeup = _WakeUp(self)
        try:
            self._selector: selectors.BaseSelector = EpollSelector() if selector is None else selector
            self._selector.register(self._wakeup.receiver, EVENT_READ, self._wakeup)
        except BaseException:
            self._wakeup.close()
            raise
        close_after_fork(self)

    # A property, since asyncio's inherited code, and its tests, assign the field itself.
    @property
    def _debug(self) -> bool:
        return self._debugging

    @_debug.setter
    def _debug(self, enabled: bool) -> None:
        self._debugging = enabled
        self._debug_switched()

    def _debug_switched(self) -> None:
        """Called when debug mode was assigned: asyncio's loop runs other code then."""

    # --- scheduling ----------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Return the reactor's clock: seconds (float, monotonic, arbitrary origin).  Any thread."""
        return self._clock()

    def call_soon(self, callback: Callback, *args: Any, context: Context = None) -> Handle:
        """Run *callback(\\*args)* once, in the order of the calls; from inside a callback: in the next turn.

        Reactor thread only.  Raises: RuntimeError: closed, or the wrong thread (debug mode).  TypeError: not callable.
        """
        self._check_usable()
        handle = Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Callback, *args: Any, context: Context = None) -> Handle:
        """Like :meth:`call_soon`, and end the wait.  Any thread, and signal handlers.

        Cancel the handle in the reactor's thread only.  Raises: RuntimeError: closed.  TypeError: not callable.
        """
        self._check_closed()
        handle = Handle(callback, args, self, context)
        # First queue, then look: the turn first says that it sleeps, then looks at the queue, so one of the two sees.
        self._ready.append(handle)
        if not self._awake:
            self._wakeup.wake()
        return handle

    def call_later(self, delay: float, callback: Callback, *args: Any, context: Context = None) -> TimerHandle:
        """Run *callback(\\*args)* once, *delay* seconds from now (int or float; <= 0: in the next turn), never early.

        Reactor thread only.  Raises: as :meth:`call_at`.
        """
        return self.call_at(self.time() + _seconds("delay", delay), callback, *args, context=context)

    def call_at(self, when: float, callback: Callback, *args: Any, context: Context = None) -> TimerHandle:
        """Run *callback(\\*args)* once, when ``time() >= when`` (seconds; inf: never); equal deadlines run FIFO.

        Reactor thread only.  Raises: RuntimeError: closed, or the wrong thread (debug mode).  TypeError: not callable,
        or *when* no number.  ValueError: *when* is NaN.  OverflowError: an int that no float can hold.
        """
        self._check_usable()
        when = _seconds("when", when)
        handle = TimerHandle(when, next(self._timer_order), callback, args, self, context)
        heapq.heappush(self._scheduled, handle)
        handle._scheduled = True
        return handle

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        if not handle._scheduled:
            return
        self._timer_cancelled_count += 1
        scheduled = self._scheduled
        size = len(scheduled)
        if size > MIN_SCHEDULED_FOR_REBUILD and self._timer_cancelled_count > size * MAX_CANCELLED_FRACTION:
            for timer in scheduled:
                # asyncio's handles say so before they are cancelled, ours after it.
                timer._scheduled = not (timer._cancelled or timer is handle)
            scheduled[:] = [timer for timer in scheduled if timer._scheduled]
            heapq.heapify(scheduled)
            self._timer_cancelled_count = 0

    def flush_soon(self, endpoint: Endpoint) -> None:
        """Have ``endpoint.flush()`` called once before the next wait, unless closed by then.  Reactor thread only.

        Where many ask for it the fds are looked at in between, without waiting.  Raises: TypeError: no Endpoint.
        """
        if not isinstance(endpoint, Endpoint):
            raise TypeError(_wrong_endpoint(endpoint))
        if not endpoint._dirty:
            endpoint._dirty = True
            self._to_flush.append(endpoint)

    # --- file descriptors ----------------------------------------------------------------------------------------

    def register(self, fd: Any, events: int, endpoint: Endpoint) -> None:
        """Poke *endpoint* whenever *fd* (int, or an object with ``fileno()``) is ready for *events*; level-triggered.

        *events*: ``selectors.EVENT_READ | EVENT_WRITE``, at least one.  The owner unregisters before it closes the fd.
        Reactor thread only.  Raises: RuntimeError: closed.  TypeError: no Endpoint of this implementation.  ValueError:
        bad fd or events.  KeyError: the fd or the endpoint is registered.  OSError: the kernel cannot watch it (a
        regular file: EPERM).
        """
        self._check_closed()
        if not isinstance(endpoint, Endpoint):
            raise TypeError(_wrong_endpoint(endpoint))
        if endpoint._registered >= 0:
            raise KeyError(f"{endpoint!r} is registered already")
        endpoint._registered = self._selector.register(fd, events, endpoint).fd

    def modify(self, fd: Any, events: int, endpoint: Endpoint) -> None:
        """Change what *fd* is watched for; an event of this turn that is no longer asked for is not delivered.

        The kernel may be told only before the next wait.  Reactor thread only.  Raises: RuntimeError: closed.
        ValueError: bad events, or the fd is another endpoint's.  KeyError: *fd* is not registered.
        """
        self._check_closed()
        key = self._selector.get_key(fd)
        if key.data is not endpoint:
            raise ValueError(f"fd {key.fd} belongs to {key.data!r}, not to {endpoint!r}")
        self._selector.modify(fd, events, endpoint)
        endpoint._revents &= events

    def unregister(self, fd: Any) -> None:
        """Watch *fd* no more; its undelivered events are dropped.  Reactor thread only.

        On a closed reactor, which watches nothing, this does nothing.  Raises: KeyError: the fd is not registered.
        """
        if not self._closed:
            endpoint = self._selector.unregister(fd).data
            endpoint._registered, endpoint._revents = -1, 0

    def _want(self, fd: int, events: int, endpoint: Endpoint) -> None:
        """Register, modify or, without *events*, unregister: whatever it takes from what is."""
        if not isinstance(endpoint, Endpoint):
            raise TypeError(_wrong_endpoint(endpoint))
        if endpoint._registered < 0:
            if events:
                self.register(fd, events, endpoint)
        elif endpoint._registered != fd:
            raise ValueError(f"{endpoint!r} is registered for fd {endpoint._registered}, not {fd}")
        elif events:
            self.modify(fd, events, endpoint)
        else:
            self.unregister(fd)

    def add_reader(self, fd: Any, callback: Callback, *args: Any) -> None:
        """Run *callback(\\*args)* whenever *fd* (int, or an object with ``fileno()``) is readable; replaces the former.

        Reactor thread only.  Raises: RuntimeError: closed, or the fd belongs to another endpoint.  TypeError: not
        callable.  ValueError: bad fd.  OSError: the kernel cannot watch it.
        """
        self._watch(fd, EVENT_READ, callback, args)

    def remove_reader(self, fd: Any) -> bool:
        """Stop what :meth:`add_reader` began; return whether there was anything to stop.  Reactor thread only."""
        return self._unwatch(fd, EVENT_READ)

    def add_writer(self, fd: Any, callback: Callback, *args: Any) -> None:
        """Run *callback(\\*args)* whenever *fd* is writable; otherwise as :meth:`add_reader`.  Reactor thread only."""
        self._watch(fd, EVENT_WRITE, callback, args)

    def remove_writer(self, fd: Any) -> bool:
        """Stop what :meth:`add_writer` began; return whether there was anything to stop.  Reactor thread only."""
        return self._unwatch(fd, EVENT_WRITE)

    def _watched(self, fd: Any) -> tuple[int, _FdWatch | None]:
        key = self._selector.get_map().get(fd)
        if key is None:
            return 0, None
        if not isinstance(key.data, _FdWatch):
            raise RuntimeError(
                f"fd {key.fd} belongs to {key.data!r}; it cannot be watched with add_reader or add_writer"
            )
        return key.events, key.data

    def _watch(self, fd: Any, event: int, callback: Callback, args: tuple[Any, ...]) -> Handle:
        self._check_usable()
        handle = self._debug_handle(callback, args) if self._debug else Handle(callback, args, self)
        events, watch = self._watched(fd)
        if watch is None:
            watch = _FdWatch(self)
            self.register(fd, event, watch)
        elif not events & event:
            self.modify(fd, events | event, watch)
        else:
            # An event of this turn was meant for the old callback, which may have been told by other means.  If there
            # still is something, the level-triggered selector says so again.
            watch._revents &= ~event
            watch.handles[event].cancel()
        watch.handles[event] = handle
        return handle

    def _debug_handle(self, callback: Callback, args: tuple[Any, ...]) -> Handle:
        """Return the handle of a watched fd in debug mode."""
        return _TracedHandle(callback, args, self)

    def _unwatch(self, fd: Any, event: int) -> bool:
        if self._closed:
            return False
        events, watch = self._watched(fd)
        if watch is None or not events & event:
            return False
        if events == event:
            self.unregister(fd)
            watch.closed = True
        else:
            self.modify(fd, events & ~event, watch)
        watch.handles.pop(event).cancel()
        return True

    @property
    def recv_buffer(self) -> memoryview:
        """A view of the receive buffer that all connections share: RECV_BUFFER writable bytes, made on first use.

        Each call returns its own, which may be released.  What is in it is valid only until the endpoint that filled it
        returns.  Reactor thread only.
        """
        if self._recv_buffer is None:
            self._recv_buffer = memoryview(bytearray(RECV_BUFFER))
        return memoryview(self._recv_buffer)

    # --- the turn ------------------------------------------------------------------------------------------------

    def _turn(self, timeout: float | None = None) -> None:
        """Turn the wheel once, waiting at most *timeout* seconds (None: as long as nothing happens)."""
        self._check_closed()  # the turn before may have forked, and this be the child
        self._flush_dirty()
        self._awake = False  # before the FIFO is looked at; see call_soon_threadsafe
        wait = self._time_to_wait(timeout)
        events = self._selector.select(wait)
        if wait and not events:
            # A process that is stopped meanwhile is continued with EINTR (signal(7)), and Python then ends a wait whose
            # time is over without a look (PEP 475).  Price: a system call for each wait that a timer has ended.
            events = self._selector.select(0.0)
        self._awake = True
        self._process_events(events)
        # After the I/O: a reactor that was held up must not time out the peers whose data is waiting.
        self._append_due_timers()
        self._turns += 1
        ready = self._ready
        # What these add is for the next turn, or a callback that calls call_soon would starve the fds.
        for _ in range(len(ready)):
            entry = ready.popleft()
            if not entry._cancelled:
                entry._run()

    def _turn_until_stopped(self) -> None:
        """Turn until ``_stopping`` is set, or debug mode was switched: asyncio's loop turns another wheel then."""
        debug = self._debugging
        self._turn()
        while not self._stopping and self._debugging == debug:
            self._turn()

    def _process_events(self, events: list[tuple[selectors.SelectorKey, int]]) -> None:
        """Append the endpoints of a selector's (key, mask) pairs to the FIFO."""
        for key, mask in events:
            key.data._revents = mask
            self._ready.append(key.data)
        self._events += len(events)

    def _flush_dirty(self, whole: bool = False) -> bool:
        """Flush what was marked with ``flush_soon``, a slice or the *whole* of it; return whether any is marked now."""
        # Only what is on the list now: an endpoint that marks itself again must not keep the reactor here.
        size = len(self._to_flush)
        until = inf if whole or size <= FLUSHES_UNTIMED else self.time() + FLUSH_SLICE
        for done in range(size):
            if not self._to_flush or (done and done % FLUSHES_UNTIMED == 0 and until != inf and self.time() >= until):
                break
            endpoint = self._to_flush.popleft()
            endpoint._dirty = False
            if endpoint.closed:
                continue
            try:
                endpoint.flush()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                endpoint._failed(exc)
        return bool(self._to_flush)

    def _time_to_wait(self, timeout: float | None) -> float | None:
        if self._ready or self._stopping or self._to_flush:
            return 0.0
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(scheduled)._scheduled = False
        if scheduled:
            due = scheduled[0]._when - self.time()
            timeout = due if timeout is None else min(due, timeout)
        return None if timeout is None else min(max(timeout, 0.0), MAX_WAIT)

    def _append_due_timers(self) -> None:
        scheduled = self._scheduled
        if not scheduled:
            return
        now = self.time()
        while scheduled and scheduled[0]._when <= now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if handle._cancelled:
                self._timer_cancelled_count -= 1
            else:
                self._ready.append(handle)

    def _wakeup_received(self, data: bytes) -> None:
        """Take what came through the wake-up socket: 0 is a mere wake-up, any other byte the number of a signal."""

    def _signal_fd(self) -> int:
        """Return the fd that ``signal.set_wakeup_fd`` is to have."""
        self._check_closed()
        return self._wakeup.sender.fileno()

    def _check_closed(self) -> None:
        if self._closed:
            raise RuntimeError(self._refusal)

    def _check_usable(self) -> None:
        self._check_closed()
        if self._debug and self._thread_id not in (None, threading.get_ident()):
            raise RuntimeError("not the reactor's thread: use call_soon_threadsafe")

    def _close_core(self) -> None:
        self._closed = True
        self._ready.clear()
        self._scheduled.clear()
        self._to_flush.clear()
        self._recv_buffer = None
        if self._selector is not None:  # asyncio's close() has closed it already
            self._selector.close()
        self._wakeup.close()

    def _forked(self, owner: int) -> None:
        """Become unusable: this is the copy, in a child process, of a reactor that belongs to process *owner*."""
        if self._closed:
            return
        self._closed = True
        self._refusal = f"this reactor belongs to process {owner}; make a new one after fork()"
        endpoints = [key.data for key in self._selector.get_map().values()]
        self._thread_id = None  # a thread that ran it is not in this process, unless it is the one that has forked
        self._close_core()
        self._ready.append(Refusal(self._check_closed))
        for endpoint in endpoints:
            endpoint._forked()


class Reactor(Lifecycle, Core):
    """A core with a lifecycle of its own: run, stop, close, signals.

    States: idle, running (inside of ``run_forever`` or ``run_until``), closed.  A context manager, which closes it.
    Args, Raises, Owns: as :class:`Core`.

    >>> with Reactor() as reactor:
    ...     handle = reactor.call_soon(reactor.stop)
    ...     reactor.run_forever()
    """

    def __init__(
        self,
        selector: selectors.BaseSelector | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        socket_factory: Callable[..., socket.socket] = socket.socket,
    ) -> None:
        Core.__init__(self, selector, clock=clock, socket_factory=socket_factory)
        Lifecycle.__init__(self)


def _seconds(name: str, value: float) -> float:
    """Return *value* as a float; NaN would break the order of the heap, and text must not pass for a number."""
    try:
        seconds = float(value + 0.0)
    except TypeError:
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}") from None
    if seconds != seconds:
        raise ValueError(f"{name} must be a number of seconds, not NaN")
    return seconds


def _wrong_endpoint(endpoint: object) -> str:
    return f"an endpoint must derive from this implementation's Endpoint, not {type(endpoint).__name__}"
