"""Standard input and output on a reactor: neither waits for the other, and neither holds more than its bound.

The descriptors belong to the shell as well, so they are never made non-blocking: that would outlive this program, and
break the ones beside it in the pipeline.

Rule: nothing in this file may know a connection or a frame.  Read next: ``conversation.py``, which joins the two.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
from collections.abc import Callable

import evloop

# Bytes of one read: what a pipe holds by default (pipe(7)), so that a writer is never kept waiting for a second read.
CHUNK = 64 * 1024

# Bytes of output held while nobody takes them, above which the source is asked to stop.
HIGH_WATER = 64 * 1024


def open_standard_streams() -> None:
    """Put /dev/null where the caller has closed stdin, stdout or stderr.  Main thread, before anything is opened.

    The kernel hands out the lowest free number, so the first socket would become the standard output.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # Python has None for these, and not all of our libraries expect that.
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def forget_stdout() -> None:
    """Let what is still buffered for a reader that has gone end in /dev/null, in silence.  Any thread."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.close(devnull)


def is_piped(fd: int) -> bool:
    """Return whether *fd* holds data that somebody meant for this program: a pipe, a file or a socket.  Any thread."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


class Input:
    """A descriptor as chunks of bytes.

    Args:
        received: called with each chunk (bytes, 1..CHUNK), and with b"" once, at the end.
        failed: called with the OSError that a read ended with; nothing more comes.

    States: paused (at first), reading, ended.  Owns: nothing.  Does not own: the descriptor.  Reactor thread only.
    """

    def __init__(
        self,
        reactor: evloop.Reactor,
        fd: int,
        received: Callable[[bytes], object],
        failed: Callable[[OSError], object],
    ) -> None:
        self._reactor = reactor
        self._fd = fd
        self._received = received
        self._failed = failed
        self._reading = False
        self._pollable = True
        self.ended = False

    def resume(self) -> None:
        """Read from the next turn on.  Idempotent."""
        if self._reading or self.ended:
            return
        self._reading = True
        if self._pollable:
            try:
                self._reactor.add_reader(self._fd, self._read)
                return
            except PermissionError:
                # epoll refuses what is always ready, regular files and /dev/null (epoll_ctl(2), EPERM); one chunk a
                # turn keeps the rest of the program alive beside them.
                self._pollable = False
        self._reactor.call_soon(self._read)

    def pause(self) -> None:
        """Read no more until :meth:`resume`.  Idempotent."""
        if self._reading:
            self._reading = False
            if self._pollable:
                self._reactor.remove_reader(self._fd)

    def _read(self) -> None:
        if not self._reading:
            return
        try:
            data = os.read(self._fd, CHUNK)
        except BlockingIOError:  # somebody else made it non-blocking, or took the data first
            return
        except OSError as exc:
            if exc.errno != errno.EIO:
                self._end()
                self._failed(exc)
                return
            data = b""  # the terminal has hung up
        if not data:
            self._end()
        elif not self._pollable:
            self._reactor.call_soon(self._read)
        self._received(data)

    def _end(self) -> None:
        self.pause()
        self.ended = True


class Output:
    """A descriptor that takes bytes without ever making the reactor wait for whoever reads them.

    Args:
        full: called when more than HIGH_WATER bytes wait.
        empty: called when none wait any more, after *full*.
        broken: called once with the OSError if nobody will read any more; what is written from then on is dropped.

    Owns: the bytes that wait.  Does not own: the descriptor.  Reactor thread only.
    """

    def __init__(
        self,
        reactor: evloop.Reactor,
        fd: int,
        *,
        full: Callable[[], object],
        empty: Callable[[], object],
        broken: Callable[[OSError], object],
    ) -> None:
        self._reactor = reactor
        self._fd = fd
        self._full = full
        self._empty = empty
        self._broken = broken
        self._waiting = bytearray()
        self._is_full = self._is_broken = self._watching = False
        # A pipe that polls as writable takes PIPE_BUF bytes without blocking, and more than that only perhaps.  A file
        # takes what it is given.
        self._step = CHUNK if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    @property
    def pending(self) -> int:
        """Bytes that wait for their reader."""
        return len(self._waiting)

    def write(self, data: bytes) -> None:
        """Write *data* (copied), now or when it can be taken."""
        if self._is_broken:
            return
        self._waiting += data
        if not self._watching:
            self._write_some()
        if len(self._waiting) > HIGH_WATER and not self._is_full:
            self._is_full = True
            self._full()

    def finish(self) -> None:
        """Write what waits, however long it takes; KeyboardInterrupt ends that.  Call it after the reactor's run."""
        while self._waiting and not self._is_broken:
            self._write_step()

    def _write_some(self) -> None:
        while self._waiting and not self._is_broken and self._poll.poll(0):
            self._write_step()
        waits = bool(self._waiting) and not self._is_broken
        if waits != self._watching:
            self._watching = waits
            if waits:
                self._reactor.add_writer(self._fd, self._write_some)
            else:
                self._reactor.remove_writer(self._fd)
        if self._is_full and not self._waiting:
            self._is_full = False
            self._empty()

    def _write_step(self) -> None:
        try:
            with memoryview(self._waiting) as view:
                written = os.write(self._fd, view[: self._step])
        except BlockingIOError:  # somebody else made it non-blocking
            self._poll.poll()
            return
        except OSError as exc:
            self._is_broken = True
            self._waiting.clear()
            self._broken(exc)
            return
        del self._waiting[:written]
