"""evloop on a pseudo-terminal whose screen is known cell by cell: what a person sees, wide characters and all.

pyte is the terminal; it answers what programs ask of one, and here alone the program's bytes are looked at.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time

import pyte
from programs import EVLOOP, PATIENCE, environment

COLUMNS, LINES = 72, 16


class Screen:
    """A program of evloop on a terminal of its own; a context manager that kills what still runs.

    Attributes: *bells* counts what would have rung.
    """

    def __init__(self, *args, columns=COLUMNS, lines=LINES, **env):
        self.bells = 0
        self._terminal = pyte.HistoryScreen(columns, lines, history=1000)
        self._terminal.write_process_input = self._answer
        self._terminal.bell = self._rung
        self._stream = pyte.ByteStream(self._terminal)
        self.master, slave = pty.openpty()
        self.resize(columns, lines)
        self.process = subprocess.Popen(
            [*EVLOOP, *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(**{"TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **env}),
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)

    def _answer(self, data):
        os.write(self.master, data.encode())

    def _rung(self):
        self.bells += 1

    def resize(self, columns, lines):
        """Give the window another size."""
        self._terminal.resize(lines, columns)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text):
        """Press the keys of *text*."""
        os.write(self.master, text.encode())

    def enter(self, text):
        """Press the keys of *text*, and Enter."""
        self.type(text + "\r")

    @property
    def lines(self):
        """What is on the screen: its lines, without the spaces at their ends."""
        return [line.rstrip() for line in self._terminal.display]

    @property
    def scrolled(self):
        """The lines that have left the screen at its top, oldest first."""
        columns = range(self._terminal.columns)
        return ["".join(row[column].data for column in columns).rstrip() for row in self._terminal.history.top]

    @property
    def text(self):
        """All that is and was on the screen, as one text."""
        return "\n".join([*self.scrolled, *self.lines])

    @property
    def cursor(self):
        """Where the cursor is: (line, column), from 0."""
        return self._terminal.cursor.y, self._terminal.cursor.x

    @property
    def input_line(self):
        """The line where the cursor is."""
        return self.lines[self._terminal.cursor.y]

    @property
    def bar(self):
        """The last line of the screen that has anything on it."""
        return [line for line in self.lines if line][-1]

    @property
    def cells(self):
        """The rows of the screen, each a list of pyte's cells: ``data``, ``fg``, ``bold``, ``reverse``, ..."""
        buffer = self._terminal.buffer
        return [
            [buffer[line][column] for column in range(self._terminal.columns)] for line in range(self._terminal.lines)
        ]

    def wait(self, condition):
        """Read until *condition*, a function of this object or a text that has to appear, holds."""
        if isinstance(condition, str):
            expected = condition
            condition = lambda screen: expected in screen.text  # noqa: E731
        deadline = time.monotonic() + PATIENCE
        while not condition(self):
            assert self._read(deadline), f"ended with\n{self.text}"

    def finish(self):
        """Wait for the end; return the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        return self.process.wait(PATIENCE)

    def _read(self, deadline):
        ready = select.select([self.master], [], [], max(deadline - time.monotonic(), 0))[0]
        assert ready, f"nothing more came; the screen is\n{self.text}"
        data = b""
        with contextlib.suppress(OSError):  # EIO: the last one has closed it
            data = os.read(self.master, 65536)
        self._stream.feed(data)
        return data


def _take_terminal():
    """Make standard input the controlling terminal, so that its keys send signals."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
