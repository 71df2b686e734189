# cython: auto_pickle=False
"""A session at C speed: the twin of ``_session_py.py``, with the same classes and methods in the same order.

The whole docstrings, and how a session works, are in the twin.

Rule: nothing in this file may parse bytes, write to a socket or touch the wheel.  Read next: ``_connection.pxd``.
"""

cimport cython
from cpython.object cimport PyObject

from evloop._connection cimport CANCELLED, FRAME, NOTHING, OPEN, Connection, Puller
from evloop._reactor cimport Core

import asyncio
import contextvars

from evloop.aio._session_shared import (
    COROUTINE_NAMES,
    NAMES,
    End,
    concurrent_wait,
    current_tasks,
    exception_of,
    finish,
    is_coroutine,
    no_coroutine,
    release,
)
from evloop.errors import CloseReason

cdef extern from *:
    """
    /* What `await` calls before 3.12: no exception, and so no object, per value.  From 3.12 on it is tp_iternext. */
    static void evl_set_am_send(PyObject* type, void* send) {
        ((PyTypeObject*)type)->tp_as_async->am_send = (sendfunc)send;
    }
    """
    void evl_set_am_send(PyObject* type, void* send) noexcept

cdef extern from "Python.h":
    ctypedef int PySendResult
    PySendResult PyIter_Send(PyObject* iterator, PyObject* value, PyObject** result) noexcept
    int PYGEN_RETURN, PYGEN_ERROR, PYGEN_NEXT
    PyObject* PyDict_SetDefault(PyObject* array, PyObject* key, PyObject* value) except NULL
    int PyDict_DelItem(PyObject* array, PyObject* key) except -1
    int PyContext_Enter(PyObject* context) except -1
    int enter_or_refuse "PyContext_Enter"(PyObject* context) noexcept
    void PyErr_Clear()
    int PyContext_Exit(PyObject* context) except -1
    void Py_INCREF(PyObject*) noexcept
    void Py_DECREF(PyObject*) noexcept

IMPLEMENTATION = "cython"

# The kinds of a Wait; NAMES has their names.
cdef enum:
    RECV
    FOLLOWING
    DRAINED

# What the coroutine has done that its task has still to be told.
cdef enum:
    TOLD
    YIELDED
    RETURNED
    RAISED

cdef object enter_task = asyncio.tasks._enter_task
cdef object leave_task = asyncio.tasks._leave_task
cdef dict current = current_tasks()  # which both of them write to, or None
cdef object current_task = asyncio.current_task


cdef inline object _owned(PyObject* item):
    """Return the object of a reference that is ours."""
    result = <object>item
    Py_DECREF(item)
    return result


@cython.final
cdef class Wait:
    """What ``recv()``, ``drain()`` and ``async for`` await; as good as a coroutine."""

    cdef Session session          # None once that is over
    cdef object end               # and then an End
    cdef unsigned char kind

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        cdef PyObject* result = NULL
        if self.poll(&result) == PYGEN_NEXT:
            return _owned(result)
        raise StopIteration(_owned(result))

    def send(self, value):
        """Go on."""
        return self.__next__()

    def throw(self, kind, value=None, traceback=None):
        """Raise; whoever waited has been relieved of that, or it is not the one this is meant for."""
        raise exception_of(kind, value, traceback)

    def close(self):
        """Wait no more, unless a task does."""
        if self.session is not None and self.kind != DRAINED and not self.session.is_awaited():
            self.session.waits = NOTHING

    def __getattr__(self, name):
        if name in ("__name__", "__qualname__"):  # asyncio's repr of a task asks
            return f"Connection.{NAMES[self.kind]}"
        raise AttributeError(name)

    cdef int poll(self, PyObject** result) except -1:
        """Store what there is and return PYGEN_RETURN; or PYGEN_NEXT, and the session: a future."""
        cdef Session session = self.session
        if session is None:
            raise self.end.tell(self.kind == FOLLOWING)
        if self.kind == DRAINED:
            return session.room(result)
        if session.waits != NOTHING:  # of which whoever is resumed has been relieved
            raise concurrent_wait(NAMES[self.kind])
        if session.look(self.kind, result):
            return PYGEN_RETURN
        session.waits = FRAME
        session._asyncio_future_blocking = True
        Py_INCREF(<PyObject*>session)
        result[0] = <PyObject*>session
        return PYGEN_NEXT


cdef int _send_to_wait(PyObject* wait, PyObject* value, PyObject** result) except -1:
    return (<Wait>wait).poll(result)


evl_set_am_send(<PyObject*>Wait, <void*>_send_to_wait)


cdef class Session(Puller):
    """The protocol of one connection whose frames a coroutine takes; the coroutine of its task, and its future."""

    cdef readonly Connection conn  # None before connection_made, and once both have ended
    cdef public bint _asyncio_future_blocking
    cdef object handler, made, coro, task, loop
    cdef object _exc              # what ended the connection, once it is lost
    cdef object _end              # an End, once somebody was told
    cdef object __weakref__
    cdef bint _eof, _stopping, _lost
    # The registration of our own task: its callback, and its context.  It is kept: as long as the coroutine waits for
    # nothing but this connection, the task need not know that it runs.
    cdef object _callback, _context
    cdef object _stranger, _stranger_context  # that of any other task, for one wake-up
    cdef bint _own                # the task that waits is ours
    cdef bint _driven             # our task drives the coroutine, and is what the next registration comes from
    cdef bint _running            # the coroutine runs without its task's knowledge
    cdef bint _cancel_asked       # and has asked its task to cancel it meanwhile
    cdef bint _wakes              # a wake-up is scheduled
    cdef object _message          # of the cancellation that result() is to raise, in a tuple
    cdef object _handed           # a frame for who waits
    cdef int _told
    cdef object _outcome          # what the coroutine has yielded, returned or raised
    cdef object _to_cancel        # a future, and on whose behalf, or None
    cdef object _late             # the cancellation that the next step is to deliver
    cdef list _draining           # futures of drain()
    cdef list _closing            # futures of wait_closed()

    def __init__(self, handler=None, made=None):
        self.handler = handler
        self.made = made
        self.recv, self.following = _new_wait(self, RECV), _new_wait(self, FOLLOWING)
        self.drain = _new_wait(self, DRAINED)

    # --- the protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, conn):
        """Start the handler, as a task."""
        self.conn = conn
        self.loop = conn._reactor
        if self.handler is not None:
            self.coro = self.handler(conn)
            if not is_coroutine(self.coro):
                result, self.coro = self.coro, None
                raise no_coroutine(self.handler, result)
            self.task = self.loop.create_task(self)
            self.task.add_done_callback(self._finished)
        if self.made is not None:
            self.made(conn)
            self.made = None

    def eof_received(self):
        """Tell who waits for a frame; the handler closes when it ends."""
        self._eof = True
        if self.waits == FRAME:
            self.wake()
        return self.task is not None

    def pause_writing(self):
        """Nothing: ``drain()`` asks the connection."""

    def resume_writing(self):
        """Tell who waits in ``drain()``."""
        release(self._draining)
        self._draining = None

    def connection_lost(self, exc):
        """Tell whoever still waits."""
        self._lost, self._exc = True, exc
        self.closing()
        release(self._closing)
        self._closing = None
        if self.task is None:
            self._let_go()

    def stop(self):
        """End the handler in good order: it gets no more frames, and what it sends is still sent."""
        self._stopping = True
        if self.task is None:
            self.conn.close_for(self.reason)
        elif self.waits == FRAME:
            self._wake_soon()

    def cancel_handler(self):
        """Cancel the handler's task."""
        if self.task is not None:
            self.task.cancel()

    @property
    def reason(self):
        """Why the connection is closed when the handler returns."""
        if self._stopping:
            return CloseReason.SHUTDOWN
        return CloseReason.PEER if self._eof else CloseReason.LOCAL

    @property
    def exc(self):
        """What ended the connection; None if nothing did, or it was in good order."""
        return self._exc if self.conn is None or self._lost else self.conn._exc

    @property
    def ended(self):
        """Whether there will be no more frames."""
        return self._eof or self._stopping or self.conn is None or self.conn._state != OPEN

    def _finished(self, task):
        finish(self, task)
        self.task = self.handler = None  # the coroutine stays: repr(task) shows it
        if self._lost:
            self._let_go()

    cdef int _let_go(self) except -1:
        """Keep nothing that knows us: in a circle all would wait for the collector."""
        cdef Wait wait
        end = self._noted_end(self._exc)
        for wait in (self.recv, self.following, self.drain):
            wait.session, wait.end = None, end
        self.conn = self._exc = None
        return 0

    # --- what the connection calls ---------------------------------------------------------------------------------

    cdef int give(self, object frame) except -1:
        cdef Connection conn = self.conn
        self._handed = frame
        self.wake()
        if self._handed is not None and self._handed is frame:
            # Who waited was cancelled before it could look: the frame is the first of what is still to be taken.
            self._handed = None
            conn._frames_received -= 1
            if conn._state == OPEN:
                if conn._pending is None:
                    conn._undelivered = 0
                conn._undelivered += conn._codec.header_size + len(frame)
                conn._pending, conn._next = [frame, *(conn._pending or [])[conn._next:]], 0
        return 0

    cdef int frames_ready(self) except -1:
        return self.wake() if self.waits == FRAME else 0

    cdef int closing(self) except -1:
        if self.waits == FRAME:
            self._wake_soon()
        release(self._draining)
        self._draining = None
        return 0

    # --- what a coroutine waits for --------------------------------------------------------------------------------

    cdef bint look(self, int kind, PyObject** result) except -1:
        """Store the next frame and return true; false: it is not there yet.  Raises what ended the connection."""
        cdef Connection conn = self.conn
        if self._handed is not None:
            Py_INCREF(<PyObject*>self._handed)
            result[0] = <PyObject*>self._handed
            self._handed = None
            return True
        if conn is not None and not self._stopping:
            result[0] = conn._take_frame()
            if result[0] is not NULL:
                return True
            if conn._state == OPEN and not self._eof:
                return False
        raise self._told_end(kind)

    cdef int room(self, PyObject** result) except -1:
        """What Wait.poll does for drain(): with an ordinary future.  Raises what ended the connection."""
        cdef Connection conn = self.conn
        if conn is None or conn._state != OPEN:
            raise self._told_end(DRAINED)
        if not conn._full:
            Py_INCREF(<PyObject*>None)
            result[0] = <PyObject*>None
            return PYGEN_RETURN
        if self._draining is None:
            self._draining = []
        waiter = self.loop.create_future()
        waiter._asyncio_future_blocking = True
        self._draining.append(waiter)
        Py_INCREF(<PyObject*>waiter)
        result[0] = <PyObject*>waiter
        return PYGEN_NEXT

    cdef object _told_end(self, int kind):
        return self._noted_end(self.exc).tell(kind == FOLLOWING)

    cdef object _noted_end(self, object exc):
        if self._end is None:
            self._end = End()
        self._end.note(self._why(), exc)
        return self._end

    cdef object _why(self):
        return self.reason if self.conn is None or self.conn.close_reason is None else self.conn.close_reason

    async def wait_closed(self):
        """Wait until the connection is closed."""
        if not self._lost:
            if self._closing is None:
                self._closing = []
            waiter = asyncio.get_running_loop().create_future()
            self._closing.append(waiter)
            await waiter

    async def entered(self, conn):
        """Begin an ``async with``."""
        return conn

    async def left(self, kind):
        """End an ``async with``: close in good order, or at once if it is left by an exception."""
        if self.conn is not None:
            if kind is None:
                self.conn.close()
            else:
                self.conn.abort()
        await self.wait_closed()

    # --- the future ------------------------------------------------------------------------------------------------

    def get_loop(self):
        """Return the loop."""
        return self.loop

    def add_done_callback(self, callback, *, context=None):
        """Have *callback(self)* called when the connection has what is waited for."""
        if context is None:
            context = contextvars.copy_context()
        self._own, self._driven = self._driven, False
        if self._own:
            self._callback, self._context = callback, context
        else:
            self._stranger, self._stranger_context = callback, context

    cdef bint is_awaited(self):
        """Return whether a task waits: it holds on to that, and will be told."""
        return (self._callback if self._own else self._stranger) is not None

    def cancel(self, msg=None):
        """Have :meth:`result` raise; return whether it will.  Not while the coroutine runs: its task is told so."""
        cdef bint waits = self.waits == FRAME
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

    def result(self):
        """Return None, or raise the cancellation."""
        message, self._message = self._message, None
        if message is not None:
            raise asyncio.CancelledError(*message)

    cdef int wake(self) except -1:
        """Resume who waits, now: from an entry of the FIFO that is the connection's."""
        if self.waits == CANCELLED:
            return 0
        if self._own:
            return self._step()
        if current_task(self.loop) is not None:
            return self._wake_soon()  # as _enter() does
        self.waits = NOTHING
        return self._call_stranger()

    cdef int _wake_soon(self) except -1:
        if not self._wakes:
            self._wakes = True
            self.loop.call_soon(self._wake)
        return 0

    def _wake(self):
        """Resume who waits, in a turn of its own: a step of the task, since nobody gathers what it sends."""
        self._wakes = False
        if self.waits != NOTHING:
            self.waits = NOTHING
            if self._own:
                self._call_back()
            else:
                self._call_stranger()

    cdef int _call_back(self) except -1:
        callback, self._callback = self._callback, None
        context, self._context = self._context, None
        return self._run_in(context, callback)

    cdef int _call_stranger(self) except -1:
        callback, self._stranger = self._stranger, None
        context, self._stranger_context = self._stranger_context, None
        return self._run_in(context, callback)

    cdef int _run_in(self, object context, object callback) except -1:
        if callback is None:
            return 0
        PyContext_Enter(<PyObject*>context)
        try:
            callback(self)
        finally:
            PyContext_Exit(<PyObject*>context)
        return 0

    # --- the coroutine ---------------------------------------------------------------------------------------------

    cdef int _step(self) except -1:
        """Resume the coroutine in its task's place; what is not another wait for this connection is the task's."""
        cdef PyObject* result = NULL
        cdef PySendResult status
        cdef object context = self._context
        if context is None or not self._enter():
            return 0
        if enter_or_refuse(<PyObject*>context) < 0:
            PyErr_Clear()  # inside of a step of our own, or of another's in our context: as in _enter()
            self._leave()
            return self._wake_soon()
        self.waits = NOTHING
        self._running = True
        status = PyIter_Send(<PyObject*>self.coro, <PyObject*>None, &result)
        self._running = False
        if status == PYGEN_NEXT and result == <PyObject*>self:
            Py_DECREF(result)
        elif status == PYGEN_ERROR:
            self._keep_exception()
        else:
            self._told = YIELDED if status == PYGEN_NEXT else RETURNED
            self._outcome = _owned(result)
        PyContext_Exit(<PyObject*>context)
        self._leave()
        if self._told == TOLD:
            self._own = True
            if self._cancel_asked:
                self._cancel_asked = False
                self.waits = CANCELLED
                self._wake_soon()
            return 0
        self._cancel_asked = False
        self._call_back()
        if self._to_cancel is not None:
            self._cancel_future()
        return 0

    cdef bint _enter(self) except -1:
        """Make our task the current one; inside of another's step, by on_readable() for example, wait for a turn."""
        cdef PyObject* found
        if current is not None:
            found = PyDict_SetDefault(<PyObject*>current, <PyObject*>self.loop, <PyObject*>self.task)
            if found == <PyObject*>self.task:
                return True
        else:
            try:
                enter_task(self.loop, self.task)
                return True
            except RuntimeError:
                pass
        self._wake_soon()
        return False

    cdef int _leave(self) except -1:
        if current is not None:
            PyDict_DelItem(<PyObject*>current, <PyObject*>self.loop)
        else:
            leave_task(self.loop, self.task)
        return 0

    cdef int _cancel_future(self) except -1:
        """Cancel what the task waits for by now: the coroutine had asked for that before, as it ran directly."""
        (future, exc), self._to_cancel = self._to_cancel, None
        if getattr(future, "_asyncio_future_blocking", None) is None or not future.cancel(*exc.args):
            self._late = exc  # nothing, or nothing that could be cancelled: then when it is over
        return 0

    cdef int _keep_exception(self) except -1:
        self._told = RAISED
        try:
            _raised()
        except BaseException as exc:
            self._outcome = exc
        return 0

    def send(self, value):
        """Resume the coroutine, or report what it has done; for its task."""
        if self._told != TOLD:
            return self._tell()
        if self._late is not None:
            exc, self._late = self._late, None
            return self._drive(exc, None)
        return self._drive(None, value)

    def throw(self, kind, value=None, traceback=None):
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
            raise exc
        late, self._late = self._late, None
        if late is not None and not isinstance(exc, asyncio.CancelledError):
            exc = late
        return self._drive(exc, None)

    def close(self):
        """Close the coroutine; for whoever drops its task."""
        self._callback = self._context = None
        if self.coro is not None:
            self.coro.close()

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def _tell(self):
        told, self._told = self._told, TOLD
        outcome, self._outcome = self._outcome, None
        if told == YIELDED:
            return outcome
        raise StopIteration(outcome) if told == RETURNED else outcome

    def _drive(self, exc, value):
        """Resume the coroutine as its task has asked; what it sends leaves with one send."""
        cdef Connection conn = self.conn
        cdef Core core = conn.core
        cdef bint outer = core.dispatching, corked = conn._corked
        core.dispatching = conn._corked = True
        try:
            result = self.coro.send(value) if exc is None else self.coro.throw(exc)
        finally:
            conn._corked = corked
            core.dispatching = outer
            if not corked:
                conn.flush_output()
        self._driven = result is self
        return result

    def __getattr__(self, name):
        if name in COROUTINE_NAMES and self.coro is not None:
            return getattr(self.coro, name)
        raise AttributeError(name)

    def __repr__(self):
        return f"<Session of {self.conn!r}>"


cdef Wait _new_wait(Session session, int kind):
    cdef Wait wait = Wait.__new__(Wait)
    wait.session = session
    wait.kind = kind
    return wait


cdef int _raised() except -1:
    """Have Cython see the exception that a C function has set."""
    return -1
