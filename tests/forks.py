"""What the tests of fork() share: a child of the test itself, which reports through a pipe and never comes back."""

from __future__ import annotations

import os
import pickle
import traceback
from contextlib import contextmanager


class Child:
    """A forked child of this test; ``if child.here:`` is its side, which ends with ``child.leave(result)``."""

    def __init__(self):
        self._reader, self._writer = os.pipe()
        self._gate, self._key = os.pipe()
        self.pid = os.getpid()
        self.here = False

    def fork(self):
        """Fork; return True in the child."""
        self.pid = os.fork()
        self.here = self.pid == 0
        if self.here:
            self._close("_key")
        return self.here

    def leave(self, *result):
        """Report *result* and end the process, without a word of the interpreter's; child only."""
        os.write(self._writer, pickle.dumps(result))
        os._exit(0)

    def leave_after(self, body):
        """Report what *body()* returns, or its traceback, and end the process; child only."""
        try:
            self.leave(body())
        except BaseException:
            self.leave("failed", traceback.format_exc())

    def wait_to_be_let_go(self):
        """Wait until the parent asks for the result; child only."""
        os.read(self._gate, 1)

    def result(self):
        """Let the child go, wait for its end, return what it reported; parent only."""
        self._close("_key")
        self._close("_writer")
        data = b""
        while more := os.read(self._reader, 65536):
            data += more
        os.waitpid(self.pid, 0)
        assert data, "the child has reported nothing"
        result = pickle.loads(data)
        assert result[0] != "failed", result[1]
        return result[0] if len(result) == 1 else result

    def _close(self, name):
        if getattr(self, name) >= 0:
            os.close(getattr(self, name))
            setattr(self, name, -1)

    def close(self):
        for name in ("_reader", "_writer", "_gate", "_key"):
            self._close(name)


@contextmanager
def forked():
    """Yield a `Child` that is still to be forked; a child that leaves the block by accident ends there."""
    child = Child()
    try:
        yield child
    except BaseException:
        if child.here:
            child.leave("failed", traceback.format_exc())
        raise
    finally:
        if child.here:
            os._exit(1)
        child.close()


def in_child(body):
    """Return what *body()* returns in a forked child."""
    with forked() as child:
        if child.fork():
            child.leave_after(body)
        return child.result()
