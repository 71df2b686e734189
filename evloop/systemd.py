"""A server under a service manager: inherited sockets, readiness, watchdog, by systemd's three protocols.

They are environment variables, one datagram socket and fds from 3 on: sd_listen_fds(3), sd_notify(3),
sd_watchdog_enabled(3).  Other managers speak them, too.  Where there is none, everything here does nothing.  What is
taken from the environment is removed from it, so that a child process does not take it for its own.

Rule: nothing in the core may import this file.  A manager that cannot be told is no reason not to serve.
Read next: ``cli/serve.py``, which does all of it.
"""

from __future__ import annotations

import logging
import os
import socket

from evloop.reactor import Core
from evloop.sockets import adopt_listeners

logger = logging.getLogger("evloop")

FIRST_FD = 3  # SD_LISTEN_FDS_START

# Seconds that a message which is sent once may wait for room in the manager's queue.  Lost, READY=1 would have the
# service killed after its start time-out; while it waits the kernel queues the connections.  A beat of the watchdog
# does not wait: the next one comes, and one that is late because of the manager would still be late.
PATIENCE = 1.0


def inherited_sockets() -> list[tuple[str, socket.socket]]:
    """Return the listening sockets that the service manager has passed, with their names; [] if there are none.

    To be given to ``Server(sockets=...)``: checked, non-blocking and close-on-exec.  The name is FileDescriptorName= of
    the unit, ``"unknown"`` without LISTEN_FDNAMES.  A second call returns [].

    Raises:
        ValueError: the variables are malformed or disagree, an fd is not open, or is no listening stream socket
            (:func:`evloop.sockets.adopt_listeners`).  The fds stay open.

    Call it before anything opens files; not thread-safe (the environment is the process's).
    """
    pid, count, names = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    # Another process's: whoever was to take them has started this one and has not cleaned up.
    if not pid or not count or _number("LISTEN_PID", pid) != os.getpid():
        return []
    fds = range(FIRST_FD, FIRST_FD + _number("LISTEN_FDS", count))
    sockets: list[socket.socket] = []
    try:
        sockets.extend(_socket_of(fd, len(fds)) for fd in fds)  # as far as they go; the count may be any
        labels = names.split(":") if names else ["unknown"] * len(sockets)
        if len(labels) != len(sockets):
            raise ValueError(f"LISTEN_FDS={len(sockets)}, and LISTEN_FDNAMES has {len(labels)} names")
        return list(zip(labels, adopt_listeners(sockets), strict=True)) if sockets else []
    except BaseException:
        for sock in sockets:
            sock.detach()
        raise


def _number(name: str, text: str) -> int:
    # No pid, and no number of fds, has more than seven digits on Linux (proc(5), pid_max; fs.nr_open).
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    raise ValueError(f"{name}={text[:20]!r} is not a number")


def _socket_of(fd: int, count: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
    except OSError:
        raise ValueError(f"LISTEN_FDS={count}, and fd {fd} is not open") from None
    try:
        return socket.socket(fileno=fd)  # finds the family and the type out by itself
    except OSError:
        raise ValueError(f"LISTEN_FDS={count}, and fd {fd} is not a socket") from None


class ServiceManager:
    """Who started this process and wants to know how it is: READY=1, STOPPING=1, WATCHDOG=1.

    Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; without them nothing is sent.  What cannot be sent is logged as
    a warning, once.  Owns: nothing; each message has a socket of its own, so a manager that starts again is found.

    Attributes:
        watchdog: seconds (float) within which the manager wants to hear from the loop; 0.0: it does not.
    """

    def __init__(self) -> None:
        self._where = os.environ.pop("NOTIFY_SOCKET", "")
        self._warned = False
        usec, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        self.watchdog = 0.0
        try:
            if usec and pid in ("", str(os.getpid())):
                self.watchdog = _microseconds("WATCHDOG_USEC", usec) / 1e6
        except ValueError as exc:
            logger.warning("no watchdog: %s", exc)

    def ready(self, reactor: Core) -> None:
        """Say READY=1; from now on WATCHDOG=1 twice in the time that the manager waits, from *reactor*'s timer.

        So the beat proves that the loop turns.  It ends with the reactor.  Reactor thread only.
        """
        self.notify("READY=1", patience=PATIENCE)
        if self._where and self.watchdog:
            self._beat(reactor)

    def stopping(self) -> None:
        """Say STOPPING=1: connections are drained, none are accepted.  The watchdog goes on.  Any thread."""
        self.notify("STOPPING=1", patience=PATIENCE)

    def notify(self, state: str, *, patience: float = 0.0) -> bool:
        """Send *state*, lines of ``NAME=value``; return whether it was sent.  Never raises OSError.

        Args:
            patience: seconds to wait for room in the manager's queue (float >= 0).
        Any thread.
        """
        if not self._where:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(patience)
                sock.sendto(state.encode(), _sun_path(self._where))
            return True
        except OSError as exc:
            if not self._warned:
                self._warned = True
                cause = exc.strerror or exc
                logger.warning("cannot tell the service manager %s at NOTIFY_SOCKET=%s: %s", state, self._where, cause)
            return False

    def _beat(self, reactor: Core) -> None:
        self.notify("WATCHDOG=1")
        reactor.call_later(self.watchdog / 2, self._beat, reactor)


def _microseconds(name: str, text: str) -> int:
    # 2**64 - 1 has twenty digits, and means never.
    if text.isascii() and text.isdigit() and len(text) <= 20 and int(text) > 0:
        return int(text)
    raise ValueError(f"{name}={text[:20]!r} is not a number of microseconds")


def _sun_path(where: str) -> bytes:
    if where.startswith("@"):
        return b"\0" + os.fsencode(where[1:])
    if where.startswith("/"):
        return os.fsencode(where)
    raise OSError(f"neither a path from / on nor @ and an abstract name: {where[:64]!r}")
