"""What becomes of a reactor in a child process that fork() made: its copy closes itself, and refuses every use.

A child shares the parent's epoll instance, wake-up fds and connections: one epoll_ctl() of the child takes an fd of the
parent's out of the set (epoll_ctl(2)), one read() takes its wake-up, one send() lands in the middle of its stream.  To
close its own copies of the fds is the one thing that a child can do with them and the parent does not notice.  So that
is done at once, in the child, before fork() returns there; from then on the copy is a closed reactor, which every use
asks about anyway.  Price: nothing per call; per fork, and in the child, one close() for each connection.

Rule: nothing in this file may call into the kernel but to ask for the process's number, or know more of a reactor than
``_forked``.  Read next: ``_reactor_py.py``, :meth:`Core._forked`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from collections.abc import Callable
from typing import Any

# The live reactors, with the process that made each.  Weak: a reactor that nobody has any more needs no mark.
_live: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


class Refusal:
    """Ends the turn in which the process was forked, in the child: what else was ready is the parent's to run.

    An entry of the FIFO, whose *check* raises.
    """

    __slots__ = ("_run",)

    _cancelled = False  # the FIFO asks this of each of its entries

    def __init__(self, check: Callable[[], None]) -> None:
        self._run = check


def close_after_fork(core: Any) -> None:
    """Have ``core._forked(pid)`` called in each child process, *pid* being this one's number.  Any thread."""
    _install()
    _live[core] = os.getpid()


@functools.cache
def _install() -> None:
    """Register the hook, once; it cannot be taken back, so not before there is a reactor."""
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _after_fork_in_child() -> None:
    copies = list(_live.items())
    _live.clear()
    with contextlib.ExitStack() as stack:  # each is told, whatever one raises
        for core, owner in copies:
            stack.callback(core._forked, owner)
