"""The reactor: the door of the seam, and its contract.

A :class:`Reactor` turns the wheel: it waits for readiness and deadlines, and runs callbacks, one after the other, in
the one thread that called ``run_forever`` or ``run_until``.  :class:`Core` is the part of it that schedules;
:class:`Endpoint` is what a reactor can poke: it knows its ``closed``, ``on_readable``, ``on_writable`` and ``flush``.

A turn, always in this order:

1. flush the endpoints that asked for it with ``flush_soon``, first come, first served; after two milliseconds the rest
   is left for the next turn, and this one does not wait;
2. wait: not at all if something is ready, else until the first deadline; a look that could only bring what comes from
   outside, while nothing but the reactor's own wake-ups is watched, may be left out, 16 turns in a row at most;
3. append the ready endpoints to the FIFO of ready things;
4. append the timers that are due: monotonic, never early, after the I/O, so that a reactor that was held up does not
   time out the peers whose data is waiting;
5. run as many entries as the FIFO held at that point, and no more: what they add is run in the next turn.

An event that an endpoint no longer wants when its turn comes (closed, unregistered, interest taken back) is delivered
neither to it, nor to anybody who has got the same fd number since.

Threads: "Reactor thread only" is the thread that runs the reactor, and, while none does, the one that sets it up.
``call_soon_threadsafe`` may be called from any thread and from signal handlers, and so may what says "Any thread".

Fork: a reactor belongs to the process that made it.  In a child its copy is closed before ``os.fork()`` returns: every
use raises RuntimeError, which names the owner; signals are handled as before the reactor took them; the parent's
reactor and its connections notice nothing.  A run that the child is inside of ends with that error when the callback
returns.  A child leaves with ``os._exit()``, or makes a reactor of its own.

Errors: what a callback or an endpoint lets escape goes to ``call_exception_handler``, and the reactor goes on; only
SystemExit and KeyboardInterrupt end the run, after which the reactor can run again.

The door chooses between two implementations that behave alike: ``_reactor`` (Cython, its own epoll) and ``_reactor_py``
(plain Python on ``selectors``, the readable reference); EVLOOP_PURE=1 chooses the pure one.  An extension that is
*absent* falls back to it with a RuntimeWarning; one that is *broken* is an ImportError.  A reactor takes endpoints of
its own implementation alone.  ``IMPLEMENTATION`` is ``"cython"`` or ``"python"``.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from evloop._implementation import pure_wanted

__all__ = ["IMPLEMENTATION", "RECV_BUFFER", "Core", "Endpoint", "EpollSelector", "Handle", "Reactor", "TimerHandle"]

if TYPE_CHECKING or pure_wanted():
    from evloop._reactor_py import (
        IMPLEMENTATION,
        RECV_BUFFER,
        Core,
        Endpoint,
        EpollSelector,
        Handle,
        Reactor,
        TimerHandle,
    )
else:
    try:
        from evloop._reactor import (
            IMPLEMENTATION,
            RECV_BUFFER,
            Core,
            Endpoint,
            EpollSelector,
            Handle,
            Reactor,
            TimerHandle,
        )
    except ModuleNotFoundError as exc:
        # Only the absence of the extension itself: something that it imports and does not find is a broken build.
        if exc.name != "evloop._reactor":
            raise
        warnings.warn(
            "evloop._reactor is not built: the reactor runs in plain Python, several times slower; "
            "reinstall with a C compiler, or set EVLOOP_PURE=1 to accept it",
            RuntimeWarning,
            stacklevel=2,
        )
        from evloop._reactor_py import (
            IMPLEMENTATION,
            RECV_BUFFER,
            Core,
            Endpoint,
            EpollSelector,
            Handle,
            Reactor,
            TimerHandle,
        )
