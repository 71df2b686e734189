"""Which transports and listeners an event loop makes: ours where it turns its own wheel, asyncio's elsewhere.

The door of ``_transport``, which has no pure twin here: asyncio's own transports are that.  They run in debug mode,
over any selector but our own, on the pure core, and where the extension is absent.

Rule: nothing in this file may run per packet.  Read next: ``_transport.pyx``.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import sys
import weakref
from typing import TYPE_CHECKING, Any

from evloop._implementation import pure_wanted
from evloop.reactor import EpollSelector

if TYPE_CHECKING:
    from evloop.aio._transport import Listener, ReadMemory, SocketTransport, is_compiled, transport_of
elif pure_wanted():
    is_compiled = None
else:
    try:
        from evloop.aio._transport import Listener, ReadMemory, SocketTransport, is_compiled, transport_of
    except ModuleNotFoundError as exc:
        # Only the absence of the extension itself: something that it imports and does not find is a broken build.
        if exc.name != "evloop.aio._transport":
            raise
        is_compiled = None  # the reactor's door has warned

# Bound once: test-suites and libraries replace the name in asyncio by a class of ours.
_Standard = asyncio.SelectorEventLoop

_CHECKS_FDS = sys.version_info >= (3, 12)  # the makers of transports do

if TYPE_CHECKING:

    class _Base(_Standard):
        _selector: Any

        def _is_inherited(self) -> bool: ...
else:
    _Base = object  # a mixin


class Registry(weakref.WeakValueDictionary[int, Any]):
    """asyncio's map of fds to transports, for those who ask whether an fd is one's.

    Ours are found with the selector, which knows its fds anyway: an entry here costs a connection as much as all the
    rest of making its transport.  Entries are asyncio's own transports, and those of ours that have not been
    registered because they were paused before they began to read.
    """

    def __init__(self, selector: Any) -> None:
        super().__init__()
        self._selector = selector

    def __getitem__(self, fd: int) -> Any:
        found = transport_of(self._selector, fd)
        return super().__getitem__(fd) if found is None else found

    def get(self, fd: int, default: Any = None) -> Any:
        """Return the transport of *fd*, or *default*."""
        found = transport_of(self._selector, fd)
        return super().get(fd, default) if found is None else found

    def __delitem__(self, fd: int) -> None:
        self.pop(fd, None)  # as sendfile() does, to which ours lend the fd unregistered


class Transports(_Base):
    """The part of an event loop that makes transports of sockets, and accepts."""

    @property
    def _transports(self) -> Any:
        return self._registry

    @_transports.setter
    def _transports(self, registry: Any) -> None:  # asyncio's __init__ does
        ours = is_compiled is not None and is_compiled(self) and type(self._selector) is EpollSelector
        self._registry = Registry(self._selector) if ours else registry

    def _is_standard(self) -> bool:
        """Return whether asyncio's transports are to be made."""
        return is_compiled is None or self._is_inherited() or not is_compiled(self)

    @functools.cached_property
    def _read_memory(self) -> Any:
        return ReadMemory()

    @functools.cached_property
    def _listeners(self) -> dict[int, Any]:
        return {}  # by fd

    def _make_socket_transport(
        self, sock: Any, protocol: Any, waiter: Any = None, *, extra: Any = None, server: Any = None
    ) -> Any:
        # A socket of another class may have methods of its own, which asyncio's transport calls.
        if self._is_standard() or type(sock) is not socket.socket:
            return _Standard._make_socket_transport(self, sock, protocol, waiter, extra=extra, server=server)  # type: ignore[attr-defined]
        if _CHECKS_FDS:
            self._ensure_fd_no_transport(sock)  # type: ignore[attr-defined]
        return SocketTransport(self, sock, protocol, waiter, extra, server)

    def _make_ssl_transport(
        self, rawsock: Any, protocol: Any, sslcontext: Any, waiter: Any = None, *, server_side: bool = False,
        server_hostname: Any = None, extra: Any = None, server: Any = None, **timeouts: Any,
    ) -> Any:  # fmt: skip
        if _CHECKS_FDS:
            self._ensure_fd_no_transport(rawsock)  # type: ignore[attr-defined]
        ssl_protocol = asyncio.sslproto.SSLProtocol(  # type: ignore[attr-defined]
            self, protocol, sslcontext, waiter, server_side, server_hostname, **timeouts
        )
        self._make_socket_transport(rawsock, ssl_protocol, extra=extra, server=server)
        return ssl_protocol._app_transport

    def _start_serving(
        self, protocol_factory: Any, sock: Any, sslcontext: Any = None, server: Any = None, backlog: int = 100,
        *timeouts: Any, **more: Any,
    ) -> None:  # fmt: skip
        if self._is_standard():
            _Standard._start_serving(self, protocol_factory, sock, sslcontext, server, backlog, *timeouts, **more)  # type: ignore[attr-defined]
            return
        plain = type(self)._make_socket_transport is Transports._make_socket_transport
        listener = Listener(self, sock, protocol_factory, sslcontext, server, backlog, timeouts, more, plain)
        self._listeners[sock.fileno()] = listener

    def _stop_serving(self, sock: Any) -> None:
        listener = self._listeners.pop(sock.fileno(), None)
        if listener is None:
            _Standard._stop_serving(self, sock)  # type: ignore[attr-defined]
        else:
            listener.stop()
            sock.close()
