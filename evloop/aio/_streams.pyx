# cython: auto_pickle=False, binding=False, embedsignature.format=clinic
"""asyncio's streams at C speed: what runs per packet or per read of a reader, a writer and the protocol between them.

The classes of ``evloop/aio/streams.py`` join these to asyncio's own, and inherit from there what runs per connection:
TLS upgrades, destructors, waits for the close, the representation; so the attributes here have asyncio's names.

A read is an :class:`Operation`, no coroutine: with the data there, awaiting it costs a call and no suspension.  What
was read before it is awaited is decided as for a coroutine: at the first step, so an operation that a time-out or a
cancellation overtakes has taken nothing.

A wake-up goes through the loop's FIFO, as a Future's does, and not straight into the task: callbacks, tasks and I/O
run in asyncio's order.  Price: an entry of the FIFO per wait.

Rule: nothing in this file may make a system call or know a socket.  Read next: ``_awaitable.h``, asyncio's streams.py.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.string cimport memchr, memcpy, memmove

from evloop._reactor cimport Core, Endpoint
from evloop.aio._transport cimport CProtocol, SocketTransport

import sys
from asyncio import CancelledError, IncompleteReadError, LimitOverrunError
from asyncio import StreamReader as StandardReader
from asyncio import StreamWriter as StandardWriter
from asyncio import tasks
from asyncio.streams import FlowControlMixin as StandardFlowControl
from contextvars import copy_context
from weakref import ref

cdef extern from "string.h" nogil:
    void* memmem(const void* data, size_t size, const void* wanted, size_t wanted_size)

cdef extern from "Python.h":
    void Py_INCREF(PyObject*) noexcept
    void Py_DECREF(PyObject*) noexcept
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    PyObject* PyDict_SetDefault(PyObject* array, PyObject* key, PyObject* value) except NULL
    int PyDict_DelItem(PyObject* array, PyObject* key) except -1
    Py_ssize_t PyNumber_AsSsize_t(object number, PyObject* overflow) except? -1
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    ctypedef PySendResult (*sendfunc)(PyObject*, PyObject*, PyObject**) noexcept
    PySendResult PyIter_Send(PyObject* iterator, PyObject* value, PyObject** result) except PYGEN_ERROR
    ctypedef struct PyTypeObject:
        pass

cdef extern from "_awaitable.h":
    void evl_make_awaitable(PyTypeObject* type, sendfunc send)
    PyObject* evl_referent(PyObject* reference) noexcept

cdef enum:
    # pymalloc's classes are 16 bytes apart; what holds a small message should hold the next one's header, too.
    FIRST_ROOM = 64
    # A buffer of this size and above is kept for the next reader, one a process: malloc maps and unmaps memory of
    # 128 KiB for each message, and trims the heap after smaller ones.  Up to twice what a reader holds by default
    # when it pauses (2 * 64 KiB and one read of 256 KiB).
    SPARE_LEAST = 16384
    SPARE_MOST = 786432
    # What the kernel does not take of a write is copied up to this size, and referenced above; as the transport does.
    COPIED = 16384

# A tuple of separators is understood from Python 3.13 on.
cdef bint SEPARATORS = sys.version_info >= (3, 13)

cdef enum:                        # what an operation does
    READ
    EXACTLY
    UNTIL
    LINE
    NEXT_LINE                     # of an `async for`
    DRAIN

cdef enum:                        # where it stands
    FRESH
    WAITING                       # its task has it for a future
    WOKEN
    CANCELLED
    DELEGATING                    # to a coroutine of asyncio's, which `argument` is
    DONE

cdef enum:                        # what the handler has done that its task has still to be told
    TOLD
    YIELDED
    RETURNED
    RAISED

cdef object enter_task = tasks._enter_task
cdef object leave_task = tasks._leave_task
cdef dict current = None          # the dict, by loop, that both of them write to, if that is known
cdef object current_task = tasks.current_task

cdef tuple NAMES = (
    "StreamReader.read", "StreamReader.readexactly", "StreamReader.readuntil", "StreamReader.readline",
    "StreamReader.__anext__", "StreamWriter.drain",
)

cdef char* spare = NULL
cdef Py_ssize_t spare_room = 0


cdef char* new_memory(Py_ssize_t size, Py_ssize_t* room) except NULL:
    """Return memory for *size* bytes or more."""
    global spare, spare_room
    cdef char* memory
    # Not much more than was asked for: who holds it may hold it for long.
    if spare_room >= size and spare_room <= 4 * size:
        memory, room[0] = spare, spare_room
        spare, spare_room = NULL, 0
        return memory
    memory = <char*>PyMem_Malloc(size)
    if memory is NULL:
        raise MemoryError()
    room[0] = size
    return memory


cdef void give_memory(char* memory, Py_ssize_t room) noexcept:
    global spare, spare_room
    if SPARE_LEAST <= room <= SPARE_MOST:
        memory, spare = spare, memory  # of the size of late
        spare_room = room
    PyMem_Free(memory)


# --- one read, or one drain ------------------------------------------------------------------------------------------


@cython.final
@cython.freelist(256)
cdef class Operation:
    """A read or a drain that somebody awaits: coroutine to asyncio and, while it waits, the future it waits for.

    A task takes it for a future by ``_asyncio_future_blocking``, which is None, as if it had none, unless it waits: so
    ``ensure_future`` and ``wait_for`` take it for what it is before.
    """

    cdef ReaderBase reader        # None for a drain
    cdef object argument          # separator; the writer of a drain; a coroutine
    cdef Py_ssize_t size          # of READ and EXACTLY
    cdef Py_ssize_t offset        # of UNTIL: up to here there is no separator
    cdef unsigned char kind, state
    cdef bint blocking            # told to the task, and not yet taken up
    cdef object callback, context  # who waits; a task is one
    cdef list others              # (callback, context) of further ones, or None
    cdef object error             # what to raise on the way on; of a cancellation: its message
    cdef Driver driver            # of the handler that waits, in place of a callback

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """Begin or go on, as a coroutine does."""
        cdef PyObject* result = NULL
        if self.state == FRESH and value is not None:
            raise TypeError("can't send non-None value to a just-started coroutine")
        if self.advance(value, &result) == PYGEN_NEXT:
            return take_reference(result)
        raise StopIteration(take_reference(result))

    def throw(self, kind, value=None, traceback=None):
        """Raise an exception where this waits, as a coroutine does."""
        if self.state == DELEGATING:
            if value is None and traceback is None:
                return self.argument.throw(kind)
            return self.argument.throw(kind, value, traceback)
        self.finish()
        raise exception_of(kind, value, traceback)

    def close(self):
        """End it where it stands, as a coroutine does; what was not read is left for others."""
        if self.state == DELEGATING:
            self.argument.close()
        self.finish()

    cdef int finish(self) except -1:
        if self.reader is not None and self.reader.waiter is self:
            self.reader.waiter = None
        self.state = DONE
        self.driver = None
        return 0

    cdef int advance(self, object value, PyObject** result) except -1:
        """Store a result and return PYGEN_RETURN, or what to wait for and PYGEN_NEXT."""
        cdef object found
        cdef bint woken = self.state == WOKEN
        if self.state == DELEGATING:
            return PyIter_Send(<PyObject*>self.argument, <PyObject*>value, result)
        if self.state == CANCELLED:
            self.finish()
            raise cancelled_error(self.error)
        if self.state == WAITING:
            raise RuntimeError("coroutine is being awaited already")
        if self.state == DONE:
            raise RuntimeError("cannot reuse already awaited coroutine")
        self.state = DONE  # if anything raises from here on
        if woken and self.error is not None:
            raise self.error
        if self.kind == DRAIN:
            coroutine = (<WriterBase>self.argument).drain_now()
            if coroutine is not None:
                return self.delegate(coroutine, result)
            found = None
        else:
            found = self.attempt(woken)
            if found is None:
                if self.kind == READ and self.size < 0:
                    return self.delegate(StandardReader.read(self.reader, -1), result)
                self.wait(woken)
                found = self
        result[0] = give_reference(found)
        return PYGEN_NEXT if found is self else PYGEN_RETURN

    cdef int delegate(self, object coroutine, PyObject** result) except -1:
        self.argument = coroutine
        self.state = DELEGATING
        return PyIter_Send(<PyObject*>coroutine, <PyObject*>None, result)

    cdef object attempt(self, bint woken):
        """Return what is asked for, or None if it is not there yet."""
        # Somebody woken by data gets the data; it is the next read that fails.
        if self.kind == EXACTLY:
            if self.size < 0:
                raise ValueError("readexactly size can not be less than zero")
            if not woken:
                self.reader.check()
            return self.reader.take_exactly(self.size)
        if self.kind == READ:
            if not woken:
                self.reader.check()
            return self.reader.take_some(self.size)
        if self.kind == UNTIL:
            return self.reader.take_until(self, woken)
        return self.reader.take_line(self, woken)

    cdef int wait(self, bint woken) except -1:
        cdef ReaderBase reader = self.reader
        if reader.waiter is not None:
            name = ("read", "readexactly")[self.kind] if self.kind <= EXACTLY else "readuntil"
            raise RuntimeError(f"{name}() called while another coroutine is already waiting for incoming data")
        if woken:
            reader.check()  # an error that came after the data: nobody would tell of it again
        # A paused transport would not bring what is waited for: more than the limit can be asked for exactly.
        if reader._paused:
            reader._paused = False
            reader._transport.resume_reading()
        reader.waiter = self
        self.state = WAITING
        self.blocking = True
        return 0

    cdef int wake(self, object error) except -1:
        if self.state == WAITING:
            self.state = WOKEN
            self.error = error
            if self.driver is None:
                self.tell()
            else:
                self.driver.woken()
                self.driver = None
        return 0

    cdef int tell(self) except -1:
        """Put those who wait into the loop's FIFO."""
        if self.callback is not None:
            callback, context = self.callback, self.context
            self.callback = self.context = None
            self.reader.call_soon(callback, self, context)
        if self.others is not None:
            others, self.others = self.others, None
            for callback, context in others:
                self.reader.call_soon(callback, self, context)
        return 0

    # --- the future that it is while it waits --------------------------------------------------------------------

    @property
    def _asyncio_future_blocking(self):
        if self.state == WAITING or self.state == WOKEN or self.state == CANCELLED:
            return self.blocking
        return None

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, bint blocking):
        self.blocking = blocking

    def get_loop(self):
        """Return the loop of the reader."""
        return self.reader._loop

    def add_done_callback(self, callback, *, context=None):
        """Have *callback(self)* called by the loop when this was woken or cancelled."""
        if context is None:
            context = copy_context()
        if self.state != WAITING:
            self.reader.call_soon(callback, self, context)
        elif self.callback is None:
            self.callback, self.context = callback, context
        else:
            if self.others is None:
                self.others = []
            self.others.append((callback, context))

    def remove_done_callback(self, callback):
        """Take back a callback; return how many there were."""
        cdef list others = self.others or []
        found = [entry for entry in others if entry[0] == callback]
        self.others = [entry for entry in others if entry[0] != callback]
        if self.callback is not None and self.callback == callback:
            self.callback = self.context = None
            return len(found) + 1
        return len(found)

    def cancel(self, msg=None):
        """Wake whoever waits with a CancelledError; return whether there was still something to cancel."""
        if self.state != WAITING:
            return False
        self.state = CANCELLED
        self.error = msg
        self.tell()
        return True

    def cancelled(self):
        """Return whether :meth:`cancel` ended the wait."""
        return self.state == CANCELLED

    def done(self):
        """Return whether the wait is over."""
        return self.state != WAITING

    def result(self):
        """Return None, or raise what ended the wait."""
        if self.state == CANCELLED:
            raise cancelled_error(self.error)

    def exception(self):
        """Return what ended the wait, if that was an error."""
        self.result()
        return self.error

    # --- what a task's repr asks a coroutine ---------------------------------------------------------------------

    @property
    def __name__(self):
        return NAMES[self.kind].rpartition(".")[2]

    @property
    def __qualname__(self):
        return NAMES[self.kind]

    @property
    def cr_running(self):
        return False

    @property
    def cr_await(self):
        return self.argument if self.state == DELEGATING else None

    def __repr__(self):
        state = ("not begun", "waiting", "woken", "cancelled", "waiting", "done")[self.state]
        return f"<{NAMES[self.kind]} {state}>"


cdef int send_operation(object operation, object value, PyObject** result) except -1:
    return (<Operation>operation).advance(value, result)


cdef object take_reference(PyObject* pointer):
    """Return an object whose reference was handed over."""
    cdef object found = <object>pointer
    Py_DECREF(pointer)
    return found


cdef inline PyObject* give_reference(object item) noexcept:
    Py_INCREF(<PyObject*>item)
    return <PyObject*>item


cdef object exception_of(object kind, object value, object traceback):
    """Return what the arguments of a coroutine's throw() mean, in the old form or in the new one."""
    if not isinstance(kind, BaseException):
        kind = kind() if value is None else value if isinstance(value, BaseException) else kind(value)
    return kind if traceback is None else kind.with_traceback(traceback)


cdef object cancelled_error(object message):
    return CancelledError() if message is None else CancelledError(message)


evl_make_awaitable(<PyTypeObject*>Operation, <sendfunc>send_operation)


cdef Operation new_operation(ReaderBase reader, int kind, object argument, Py_ssize_t size):
    cdef Operation operation = Operation.__new__(Operation)
    operation.reader = reader
    operation.kind = kind
    operation.argument = argument
    operation.size = size
    return operation


# --- the handler of a server -----------------------------------------------------------------------------------------


@cython.final
cdef class Driver(Endpoint):
    """The coroutine of a handler, as its task sees it, and the future that the task waits for.

    As long as the handler waits for nothing but reads, its task need not know that it runs: it waits for the driver,
    which the readers put into the FIFO, where the task's wake-up would stand, and which resumes the handler in the
    task's place: as the current task, in its context.  Whatever else the handler waits for, what it returns or raises
    is the task's again, and so is a cancellation.
    """

    cdef object coro              # the handler's
    cdef object task              # None before its first step, and after its last one: it knows the driver
    cdef object callback, context  # the task's, while it waits for this
    cdef object outcome           # what the task has not been told yet, by `told`
    cdef object deferred          # the cancellation that its next step is to raise
    cdef object message           # of the cancellation that result() is to raise
    cdef unsigned char told
    cdef bint blocking            # said to the task, and not yet taken up
    cdef bint waits               # the handler waits for a read
    cdef bint running             # the handler runs without its task's knowledge
    cdef bint cancels             # result() is to raise
    cdef bint cancel_asked        # the task is to raise at its next step, and will do so by itself

    def __init__(self, coro, loop):
        Endpoint.__init__(self, loop)
        self.coro = coro

    # --- the coroutine -------------------------------------------------------------------------------------------

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """Begin or go on; for the task."""
        cdef PyObject* result = NULL
        if self.advance(value, &result) == PYGEN_NEXT:
            return take_reference(result)
        raise StopIteration(take_reference(result))

    def throw(self, kind, value=None, traceback=None):
        """Raise an exception where the handler waits; for the task."""
        cdef object exc = exception_of(kind, value, traceback), outcome = self.outcome
        cdef unsigned char told = self.told
        self.told, self.outcome = TOLD, None
        if told == RAISED:
            self.task = None
            raise outcome
        if told == YIELDED:
            # The handler has cancelled its own task, and then waited for something: to be cancelled is that one's turn.
            if outcome is None or not outcome.cancel(*exc.args[:1]):
                self.deferred = exc
            return outcome
        try:
            if told == RETURNED:
                raise exc
            found = self.coro.throw(exc)
        except BaseException:
            self.task = None
            raise
        return self if self.adopts(<PyObject*>found) else found

    def close(self):
        """Close the handler's; for whoever drops the task."""
        self.coro.close()

    cdef int advance(self, object value, PyObject** result) except -1:
        cdef int status
        if self.told != TOLD:
            return self.tell(result)
        if self.task is None:
            self.task = current_task(self._reactor)
        if self.deferred is not None:
            exc, self.deferred = self.deferred, None
            result[0] = give_reference(self.throw(exc))
            return PYGEN_NEXT
        try:
            status = PyIter_Send(<PyObject*>self.coro, <PyObject*>value, result)
        except BaseException:
            self.task = None
            raise
        if status == PYGEN_RETURN:
            self.task = None
        elif self.adopts(result[0]):
            take_reference(result[0])
            result[0] = give_reference(self)
        return status

    cdef int tell(self, PyObject** result) except -1:
        """Give the task what the handler has come to meanwhile."""
        cdef object outcome = self.outcome
        cdef unsigned char told = self.told
        self.told, self.outcome = TOLD, None
        if told != YIELDED:
            self.task = None
        if told == RAISED:
            raise outcome
        result[0] = give_reference(outcome)
        return PYGEN_NEXT if told == YIELDED else PYGEN_RETURN

    cdef bint adopts(self, PyObject* pointer) except -1:
        """Wait for what the handler waits for, if that is a read of this loop."""
        cdef Operation operation
        if type(<object>pointer) is not Operation:
            return False
        operation = <Operation>pointer
        if operation.state != WAITING or operation.reader.loop is not self._reactor:
            return False
        operation.driver = self
        self.waits = self.blocking = True
        return True

    def __getattr__(self, name):
        # What asyncio asks a task's coroutine for, to show it.
        if name.startswith("cr_") or name in ("__name__", "__qualname__"):
            return getattr(self.coro, name)
        raise AttributeError(name)

    def __repr__(self):
        return f"<Driver of {self.coro!r}>"

    # --- the future ----------------------------------------------------------------------------------------------

    @property
    def _asyncio_future_blocking(self):
        return self.blocking if self.waits else None

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, bint blocking):
        self.blocking = blocking

    def get_loop(self):
        """Return the loop."""
        return self._reactor

    def add_done_callback(self, callback, *, context=None):
        """Keep the task's, while the handler waits for reads alone."""
        self.callback = callback
        self.context = copy_context() if context is None else context

    def cancel(self, msg=None):
        """Have :meth:`result` raise; return whether it will.  If not, the task raises at its next step."""
        if self.running or not self.waits:
            self.cancel_asked = True
            return False
        self.waits = False
        self.cancels = True
        self.message = msg
        self.resume_soon()
        return True

    def result(self):
        """Return None, or raise the cancellation."""
        if self.cancels:
            self.cancels = False
            message, self.message = self.message, None
            raise cancelled_error(message)

    # --- the entry of the FIFO -----------------------------------------------------------------------------------

    cdef int woken(self) except -1:
        self.waits = False
        return self.resume_soon()

    cdef int resume_soon(self) except -1:
        if not self.queued:
            self.queued = True
            self.core.ready.push(self)
        return 0

    cdef int run(self) except -1:
        self.queued = False
        if self.callback is None:
            return 0
        try:
            if self.cancels or self.cancel_asked:
                self.call_back()
            else:
                self.step()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._failed(exc)
        return 0

    cdef int step(self) except -1:
        """Resume the handler in its task's place."""
        cdef object context = self.context
        PyContext_Enter(context)
        try:
            enter(self)
            self.running = True
            try:
                self.resume()
            except BaseException as exc:
                self.told, self.outcome = RAISED, exc
            self.running = False
            leave(self)
        finally:
            PyContext_Exit(context)
        if self.told != TOLD:
            self.call_back()
        elif self.cancel_asked:  # by the handler, which then waits for a read: its task raises in the next turn
            self.waits = False
            self.resume_soon()
        return 0

    cdef int resume(self) except -1:
        cdef PyObject* result = NULL
        cdef int status = PyIter_Send(<PyObject*>self.coro, <PyObject*>None, &result)
        cdef object outcome = take_reference(result)
        if status == PYGEN_RETURN:
            self.told, self.outcome = RETURNED, outcome
        elif not self.adopts(<PyObject*>outcome):
            self.told, self.outcome = YIELDED, outcome
        return 0

    cdef int call_back(self) except -1:
        """Have the task step."""
        cdef object callback = self.callback, context = self.context
        self.callback = self.context = None
        self.cancel_asked = False
        PyContext_Enter(context)
        try:
            callback(self)
        finally:
            PyContext_Exit(context)
        return 0


cdef int send_to_driver(object driver, object value, PyObject** result) except -1:
    return (<Driver>driver).advance(value, result)


evl_make_awaitable(<PyTypeObject*>Driver, <sendfunc>send_to_driver)


def know_current_tasks(dict found):
    """Say which dict asyncio keeps the current tasks in, or None: two calls less for each time a handler goes on."""
    global current
    current = found


cdef int enter(Driver driver) except -1:
    """Make the task the current one; RuntimeError: another one is."""
    if current is None or (PyDict_SetDefault(<PyObject*>current, <PyObject*>driver._reactor, <PyObject*>driver.task)
                           != <PyObject*>driver.task):
        enter_task(driver._reactor, driver.task)
    return 0


cdef int leave(Driver driver) except -1:
    if current is None:
        leave_task(driver._reactor, driver.task)
    else:
        PyDict_DelItem(<PyObject*>current, <PyObject*>driver._reactor)
    return 0


# --- the reader ------------------------------------------------------------------------------------------------------


cdef class ReaderBase:
    """The half of a stream reader that runs per packet or per read; see ``evloop.aio.StreamReader``."""

    # The bytes that nobody has read, in memory[start:end]; no memory where there are none.
    cdef char* memory
    cdef Py_ssize_t start, end, room
    cdef Core core                # the loop, if it is a compiled one of ours
    cdef object loop
    cdef object waiter            # the operation that waits, or a Future of inherited code, or None
    cdef public Py_ssize_t _limit
    cdef public bint _eof, _paused
    cdef public object _exception, _transport
    cdef object __weakref__

    def __init__(self, limit, loop):
        if limit <= 0:
            raise ValueError("Limit cannot be <= 0")
        self._limit = PyNumber_AsSsize_t(limit, NULL)
        self._loop = loop

    def __dealloc__(self):
        if self.memory is not NULL:
            give_memory(self.memory, self.room)

    @property
    def _loop(self):
        return self.loop

    @_loop.setter
    def _loop(self, loop):
        self.loop = loop
        self.core = loop if isinstance(loop, Core) else None

    @property
    def _buffer(self):
        """A copy of what nobody has read."""
        return PyByteArray_FromStringAndSize(self.memory + self.start, self.end - self.start)

    @property
    def _waiter(self):
        return self.waiter

    @_waiter.setter
    def _waiter(self, waiter):
        self.waiter = waiter

    # --- what is read --------------------------------------------------------------------------------------------

    def read(self, n=-1):
        """Read up to *n* bytes, as soon as there are any; -1: all up to the end; awaitable."""
        return new_operation(self, READ, None, PyNumber_AsSsize_t(n, NULL))

    def readexactly(self, n):
        """Read *n* bytes, or raise IncompleteReadError at the end of the stream; awaitable."""
        return new_operation(self, EXACTLY, None, PyNumber_AsSsize_t(n, NULL))

    def readuntil(self, separator=b"\n"):
        """Read up to and with *separator* (from Python 3.13 on: or the first of a tuple of them); awaitable."""
        return new_operation(self, UNTIL, separator, 0)

    def readline(self):
        """Read up to and with the next newline, or what there is at the end of the stream; awaitable."""
        return new_operation(self, LINE, b"\n", 0)

    def __aiter__(self):
        return self

    def __anext__(self):
        return new_operation(self, NEXT_LINE, b"\n", 0)

    def at_eof(self):
        """Return whether there is nothing more to read, now and later."""
        return self._eof and self.start == self.end

    def exception(self):
        """Return what was given to :meth:`set_exception`, or None."""
        return self._exception

    cdef inline int check(self) except -1:
        if self._exception is not None:
            raise self._exception
        return 0

    cdef object take(self, Py_ssize_t size):
        """Return the next *size* bytes; the caller has seen that they are there."""
        cdef bytes data = PyBytes_FromStringAndSize(self.memory + self.start, size)
        self.drop(size)
        if self._paused:
            self.maybe_resume()
        return data

    cdef void drop(self, Py_ssize_t size) noexcept:
        self.start += size
        if self.start == self.end:
            self.start = self.end = 0
            if self.memory is not NULL:
                give_memory(self.memory, self.room)
                self.memory = NULL
                self.room = 0

    cdef int maybe_resume(self) except -1:
        if self._paused and self.end - self.start <= self._limit:
            self._paused = False
            self._transport.resume_reading()
        return 0

    def _maybe_resume_transport(self):
        self.maybe_resume()

    cdef object take_some(self, Py_ssize_t size):
        cdef Py_ssize_t held = self.end - self.start
        if size == 0:
            return b""
        if size < 0 or (held == 0 and not self._eof):
            return None
        return self.take(min(size, held))

    cdef object take_exactly(self, Py_ssize_t size):
        if size == 0:
            return b""
        if self.end - self.start >= size:
            return self.take(size)
        if self._eof:
            raise IncompleteReadError(self.take_rest(), size)
        return None

    cdef object take_rest(self):
        """Return all that is left at the end of the stream."""
        cdef bytes data = PyBytes_FromStringAndSize(self.memory + self.start, self.end - self.start)
        self.drop(self.end - self.start)
        return data

    cdef object take_until(self, Operation operation, bint woken):
        cdef list separators = sorted_separators(operation.argument)
        cdef Py_ssize_t held, found, first = -1, after = -1
        if not woken:
            self.check()
        held = self.end - self.start
        if held - operation.offset >= len(separators[0]):
            for separator in separators:
                found = self.find(separator, operation.offset)
                # The shortest result wins, and of those that end at one place the shortest separator.
                if found >= 0 and (after < 0 or found + len(separator) < after):
                    first, after = found, found + len(separator)
            if after >= 0:
                if first > self._limit:
                    raise LimitOverrunError("Separator is found, but chunk is longer than limit", first)
                return self.take(after)
            # All but what may be the beginning of a separator has been looked at.
            operation.offset = max(0, held + 1 - len(separators[len(separators) - 1]))
            if operation.offset > self._limit:
                raise LimitOverrunError("Separator is not found, and chunk exceed the limit", operation.offset)
        if self._eof:
            raise IncompleteReadError(self.take_rest(), None)
        return None

    cdef Py_ssize_t find(self, bytes separator, Py_ssize_t offset):
        """Return where *separator* begins, from *offset* on, or -1."""
        cdef char* begin = self.memory + self.start
        cdef Py_ssize_t size = PyBytes_GET_SIZE(separator), left = self.end - self.start - offset
        cdef char* found
        if left < size:
            return -1
        if size == 1:
            found = <char*>memchr(begin + offset, PyBytes_AS_STRING(separator)[0], left)
        else:
            found = <char*>memmem(begin + offset, left, PyBytes_AS_STRING(separator), size)
        return -1 if found is NULL else found - begin

    cdef object take_line(self, Operation operation, bint woken):
        try:
            line = self.take_newline(operation, woken)
        except IncompleteReadError as exc:
            line = exc.partial
        except LimitOverrunError as exc:
            # The line is lost, and so is what there is of a line without an end.
            if self.find(b"\n", exc.consumed) == exc.consumed:
                self.drop(exc.consumed + 1)
            else:
                self.drop(self.end - self.start)
            self.maybe_resume()
            raise ValueError(exc.args[0])
        if operation.kind == NEXT_LINE and line is not None and len(line) == 0:
            raise StopAsyncIteration
        return line

    cdef object take_newline(self, Operation operation, bint woken):
        """Do what take_until does, for the one separator of a line."""
        cdef Py_ssize_t held = self.end - self.start, found
        if not woken:
            self.check()
        found = self.find(b"\n", operation.offset)
        if found > self._limit:
            raise LimitOverrunError("Separator is found, but chunk is longer than limit", found)
        if found >= 0:
            return self.take(found + 1)
        operation.offset = held
        if held > self._limit:
            raise LimitOverrunError("Separator is not found, and chunk exceed the limit", held)
        if self._eof:
            raise IncompleteReadError(self.take_rest(), None)
        return None

    # --- what is fed ---------------------------------------------------------------------------------------------

    def feed_data(self, data):
        """Append bytes, as the protocol does."""
        cdef const unsigned char[::1] view
        if type(data) is bytes:
            self.feed(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            return
        view = memoryview(data).cast("B")
        self.feed(<const char*>&view[0] if view.shape[0] else NULL, view.shape[0])

    cdef int feed(self, const char* data, Py_ssize_t size) except -1:
        if self._eof:
            raise AssertionError("feed_data after feed_eof")
        if size == 0:
            return 0
        if self.room - self.end < size:
            self.make_room(size)
        memcpy(self.memory + self.end, data, size)
        self.end += size
        if self.waiter is not None:
            # Not for less than it needs: it would only wait again, and have the transport resumed.
            if (type(self.waiter) is Operation and (<Operation>self.waiter).kind == EXACTLY
                    and (<Operation>self.waiter).size > self.end - self.start):
                return 0
            self.wake(None)
        if not self._paused and (self.end - self.start) >> 1 >= self._limit and self._transport is not None:
            self.maybe_pause()
        return 0

    cdef int make_room(self, Py_ssize_t size) except -1:
        cdef Py_ssize_t held = self.end - self.start, room
        cdef char* memory
        # Moved to the front only where as much has been read as is moved: no byte moves more than once on average.
        if held + size <= self.room and self.start >= held:
            memmove(self.memory, self.memory + self.start, held)
        else:
            # Doubled, so that what comes in pieces is copied twice at most.
            memory = new_memory(max(held + size, FIRST_ROOM if self.memory is NULL else 2 * held), &room)
            if self.memory is not NULL:
                memcpy(memory, self.memory + self.start, held)
                give_memory(self.memory, self.room)
            self.memory, self.room = memory, room
        self.start, self.end = 0, held
        return 0

    cdef int maybe_pause(self) except -1:
        if self.end - self.start <= 2 * self._limit:
            return 0
        try:
            self._transport.pause_reading()
        except NotImplementedError:
            self._transport = None  # it cannot be: all that comes is held
        else:
            self._paused = True
        return 0

    def feed_eof(self):
        """Say that nothing more comes, as the protocol does."""
        self._eof = True
        self.wake(None)

    def set_exception(self, exc):
        """Have this and all later reads raise *exc*."""
        self._exception = exc
        self.wake(exc)

    def set_transport(self, transport):
        """Set what is paused above twice the limit; once."""
        if self._transport is not None:
            raise AssertionError("Transport already set")
        self._transport = transport

    def _wakeup_waiter(self):
        self.wake(None)

    cdef int wake(self, object error) except -1:
        cdef object waiter = self.waiter
        if waiter is None:
            return 0
        self.waiter = None
        if type(waiter) is Operation:
            (<Operation>waiter).wake(error)
        elif waiter.cancelled():
            pass
        elif error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
        return 0

    cdef int call_soon(self, object callback, object argument, object context) except -1:
        if self.core is not None:
            self.core.schedule(callback, (argument,), context)
        else:
            self.loop.call_soon(callback, argument, context=context)
        return 0


cdef list sorted_separators(object separator):
    """Return the separators as bytes, the shortest first; asyncio's errors for what is none."""
    cdef list separators
    if type(separator) is bytes:
        separators = [separator]
    elif SEPARATORS and isinstance(separator, tuple):
        separators = [as_bytes(each) for each in sorted(separator, key=len)]
        if not separators:
            raise ValueError("Separator should contain at least one element")
    else:
        len(separator)  # its error first
        separators = [as_bytes(separator)]
    if len(separators[0]) == 0:
        raise ValueError("Separator should be at least one-byte string")
    return separators


cdef bytes as_bytes(object separator):
    if not isinstance(separator, (bytes, bytearray, memoryview)):
        b"".find(separator)  # the error for text; what else is like bytes is taken
    return bytes(separator)


# --- the writer ------------------------------------------------------------------------------------------------------


cdef class WriterBase:
    """The half of a stream writer that runs per packet or per write; see ``evloop.aio.StreamWriter``."""

    cdef object _any_transport
    cdef SocketTransport ours     # the same, if it is one of ours; else None
    cdef public object _protocol, _reader, _loop

    def __init__(self, transport, protocol, reader, loop):
        if not (reader is None or isinstance(reader, StandardReader)):
            raise AssertionError
        self._transport = transport
        self._protocol = protocol
        self._reader = reader
        self._loop = loop

    @property
    def _transport(self):
        return self._any_transport

    @_transport.setter
    def _transport(self, transport):
        self._any_transport = transport
        self.ours = transport if type(transport) is SocketTransport else None

    @property
    def transport(self):
        """The transport."""
        return self._any_transport

    def write(self, data):
        """Write *data*, or queue what the kernel does not take."""
        if self.ours is not None and type(data) is bytes and PyBytes_GET_SIZE(data) <= COPIED:
            self.ours.write_pointer(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        else:
            self._any_transport.write(data)

    def writelines(self, data):
        """Write an iterable of bytes."""
        self._any_transport.writelines(data)

    def write_eof(self):
        """Close the writing half, after what is queued."""
        return self._any_transport.write_eof()

    def can_write_eof(self):
        """Return whether :meth:`write_eof` can be called."""
        return self._any_transport.can_write_eof()

    def close(self):
        """Close the transport, after what is queued."""
        return self._any_transport.close()

    def is_closing(self):
        """Return whether the transport is closed or about to be."""
        return self._any_transport.is_closing()

    def get_extra_info(self, name, default=None):
        """Return what the transport knows of *name*."""
        return self._any_transport.get_extra_info(name, default)

    def drain(self):
        """Wait until the transport takes more, and raise what the connection was lost for; awaitable."""
        return new_operation(None, DRAIN, self, 0)

    cdef object drain_now(self):
        """Return None if there is nothing to wait for or raise, else asyncio's coroutine for the rest."""
        cdef ProtocolBase protocol
        if isinstance(self._protocol, ProtocolBase):
            protocol = <ProtocolBase>self._protocol
            if not protocol._connection_lost and not protocol._paused and self.reader_is_fine():
                if not (self._any_transport.is_closing() if self.ours is None else self.ours._closing):
                    return None
        return StandardWriter.drain(self)

    cdef bint reader_is_fine(self) except -1:
        if self._reader is None:
            return True
        if isinstance(self._reader, ReaderBase):
            return (<ReaderBase>self._reader)._exception is None
        return self._reader.exception() is None


# --- the protocol ----------------------------------------------------------------------------------------------------


cdef class ProtocolBase(CProtocol):
    """The half of a stream protocol that runs per packet; see ``evloop.aio.StreamReaderProtocol``."""

    cdef public object _loop, _stream_reader_wr, _source_traceback, _strong_reader, _stream_writer, _task, _transport
    cdef public object _client_connected_cb
    cdef public bint _paused, _connection_lost, _reject_connection, _over_ssl
    cdef bint overridden          # a subclass has a data_received() of its own
    cdef Core core                # the loop, if it is one of ours
    cdef object close_waiter      # the Future of wait_closed(), made when it is asked for
    cdef object lost_with         # what connection_lost() was called with
    cdef object drain_waiters     # Futures, or None

    def __init__(self, stream_reader, client_connected_cb, loop):
        self._loop = loop
        self.core = loop if isinstance(loop, Core) else None
        if stream_reader is not None:
            self._stream_reader_wr = ref(stream_reader)
            self._source_traceback = stream_reader._source_traceback
        if client_connected_cb is not None:
            self._strong_reader = stream_reader  # until the connection is made
        self._client_connected_cb = client_connected_cb
        self.overridden = type(self).data_received is not data_received

    def __del__(self):
        # Nobody may have waited for the close: no report of an exception that nobody has looked at.
        if self.close_waiter is not None and self.close_waiter.done() and not self.close_waiter.cancelled():
            self.close_waiter.exception()

    @property
    def _drain_waiters(self):
        if self.drain_waiters is None:
            self.drain_waiters = []
        return self.drain_waiters

    @property
    def _closed(self):
        if self.close_waiter is None:
            self.close_waiter = self._loop.create_future()
            if self._connection_lost:
                self.tell_closed()
        return self.close_waiter

    cdef int tell_closed(self) except -1:
        if self.close_waiter is None or self.close_waiter.done():
            return 0
        if self.lost_with is None:
            self.close_waiter.set_result(None)
        else:
            self.close_waiter.set_exception(self.lost_with)
        return 0

    cdef object reader(self):
        """Return the reader, if somebody still has it, else None."""
        cdef PyObject* found
        if self._stream_reader_wr is None:
            return None
        found = evl_referent(<PyObject*>self._stream_reader_wr)
        return None if found is NULL else take_reference(found)

    cdef int c_data_received(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef object reader
        if self.overridden:
            self.data_received((<const char*>data)[:size])
            return 0
        reader = self.reader()
        if isinstance(reader, ReaderBase):
            (<ReaderBase>reader).feed(<const char*>data, size)
            if self.core is not None:
                self.core.quiet += 1  # once an event, as the transport calls this
        elif reader is not None:
            reader.feed_data((<const char*>data)[:size])
        return 0

    def data_received(self, data):
        """Hand the reader what has come."""
        reader = self.reader()
        if reader is not None:
            reader.feed_data(data)

    def eof_received(self):
        """Tell the reader; keep the writing half open where there are halves."""
        reader = self.reader()
        if reader is not None:
            reader.feed_eof()
        return not self._over_ssl

    def connection_lost(self, exc):
        """Wake all that wait, with *exc* if there is one."""
        reader = self.reader()
        if reader is not None:
            if exc is None:
                reader.feed_eof()
            else:
                reader.set_exception(exc)
        self.lost_with = exc
        self.tell_closed()
        if self._paused:
            StandardFlowControl.connection_lost(self, exc)
        self._connection_lost = True
        self._stream_reader_wr = None
        self._stream_writer = None
        self._task = None
        self._transport = None


cdef object data_received = ProtocolBase.data_received
