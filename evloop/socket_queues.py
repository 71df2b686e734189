"""What the kernel holds of a socket's bytes, and when it tells of them: questions that only rare moments ask.

Rule: nothing in this file may change a socket.  Read next: ``_connection_deadlines.py``.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
import termios


def queued_output(fd: int) -> int:
    """Return the bytes that the kernel holds of what was written to the socket *fd* and that its peer has not taken.

    TIOCOUTQ is SIOCOUTQ (tcp(7), unix(7)): for TCP what is not acknowledged, for UNIX sockets what is not read, with
    the kernel's overhead.  0 where nobody can tell.  Any thread.
    """
    try:
        return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def queued_input(fd: int) -> int:
    """Return the bytes that the kernel has received on the socket *fd* and that nobody has read: FIONREAD, tcp(7).

    0 where nobody can tell.  Any thread.
    """
    try:
        return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def opens_window() -> bool:
    """Return whether this kernel opens a TCP window as far as SO_RCVLOWAT asks to wait: Linux since 5.12.

    One that does not would wait for bytes that its peer may not send.  It is done since 4.18, and without a way to hang
    for want of memory since 5.12.  Any thread.
    """
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return found is not None and (int(found[1]), int(found[2])) >= (5, 12)
