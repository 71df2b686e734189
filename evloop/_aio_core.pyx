# cython: auto_pickle=False, binding=False, embedsignature=True, embedsignature.format=clinic
"""What asyncio's loop is asked for each future and each task, at C speed: a core that knows asyncio.

Each is the standard library's method of the same name with a Python frame or two less; whatever is not the ordinary
case (debug mode, a task factory, a context) goes to that method itself.

Rule: nothing in this file may touch an fd.  Read next: ``_reactor.pyx``, ``aio/loop.py``.
"""

from asyncio import BaseEventLoop, Future, Task

from evloop._reactor cimport Core

cdef object _Future = Future
cdef object _Task = Task
cdef object _inherited_create_task = BaseEventLoop.create_task


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
