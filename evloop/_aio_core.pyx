# cython: auto_pickle=False, binding=False, embedsignature=True, embedsignature.format=clinic
"""What asyncio's loop is asked for each future, task and datagram, at C speed: a core that knows asyncio.

Each is the standard library's method of the same name with a Python frame or two less; whatever is not the ordinary
case (debug mode, another selector, a task factory, a context) goes to that method itself.

Rule: nothing in this file may touch an fd.  Read next: ``_reactor.pyx``, ``aio/loop.py``.
"""

import sys
from asyncio import BaseEventLoop, Future, SelectorEventLoop, Task

from evloop._reactor cimport Core

from evloop._datagram import DatagramTransport, is_known

cdef object _Future = Future
cdef object _Task = Task
cdef object _inherited_create_task = BaseEventLoop.create_task
cdef object _inherited_make_datagram_transport = SelectorEventLoop._make_datagram_transport

cdef bint CHECKS_FDS = sys.version_info >= (3, 12)  # the makers of transports do


cdef class AsyncioCore(Core):
    """The core of an asyncio loop: scheduling, fds and timers, and the futures and tasks that are made in it."""

    def get_debug(self):
        """Return whether debug mode is on.  Any thread."""
        return self.debug

    def create_future(self):
        """Return a new ``asyncio.Future`` of this loop.  Reactor thread only."""
        return _Future(loop=self)

    def create_task(self, coro, *, name=None, context=None):
        """Run a coroutine as an ``asyncio.Task``, from the next turn on.  Reactor thread only.

        Args:
            coro: a coroutine.
            name: str, or None: asyncio numbers it.
            context: a ``contextvars.Context`` (Python 3.11), or None: a copy of the current one.
        Raises: RuntimeError: the loop is closed.  TypeError: *coro* is no coroutine.
        """
        # Debug mode cuts its own frame off a traceback.
        if context is not None:
            return _inherited_create_task(self, coro, name=name, context=context)
        if self.debug or self._task_factory is not None:
            return _inherited_create_task(self, coro, name=name)
        self.check_closed()
        if name is None:
            return _Task(coro, loop=self)
        return _Task(coro, loop=self, name=name)

    def _make_datagram_transport(self, sock, protocol, address=None, waiter=None, extra=None):
        if self.debug or self.epoll is None or not is_known(sock):
            return _inherited_make_datagram_transport(self, sock, protocol, address, waiter, extra)
        if CHECKS_FDS:
            self._ensure_fd_no_transport(sock)
        return DatagramTransport(self, sock, protocol, address, waiter, extra)
