"""The part of a connection, in plain Python, that knows the addresses of its two ends.

Rule: nothing in this file may read, write or deliver.  Read next: ``_connection_py.py``, whose connection this is.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from evloop.addresses import Address
from evloop.sockets import local_address, peer_address


class Ends:
    """Both addresses, asked for when they are wanted: most connections are never asked."""

    if not TYPE_CHECKING:  # the attributes below are the connection's, which a type checker would not believe
        __slots__ = ()
    else:
        closed: bool
        _peer: Address | None
        _sock: socket.socket

    @property
    def peer(self) -> Address | None:
        """The peer's address; None when it has none.  Any thread."""
        if self._peer is None:
            found: Address | None = self._ask(peer_address)
            self._peer = found or self._peer  # which the end may have set meanwhile
        return self._peer

    @property
    def local(self) -> Address | None:
        """This side's address; None once closed.  Any thread."""
        found: Address | None = self._ask(local_address)
        return found

    def _ask(self, question: Callable[[socket.socket], Any]) -> Any:
        """Return what the standard library finds out about the socket; None once closed, by whomever."""
        try:
            answer = None if self.closed else question(self._sock)
        except (OSError, MemoryError):
            return None  # the end must not fail for want of a name
        return None if self.closed else answer  # it may have come in between, to another thread's question
