"""A TCP line between a client and a server that a test can cut, or make deaf in one direction.

Rule: nothing in this file may know what is said on the line.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import threading

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing is a reset, as when a network's state is gone


class Wire:
    """Forwards connections to *address* (``"host:port"``), in a thread, until the end of a ``with``.

    Attributes:
        address: where to connect to, in the same form.
        deaf: while it is true, what the server sends is thrown away: its answers are lost with the connection.
    """

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self._target = host, int(port)
        self.deaf = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._ask, self._asked = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)
        self._selector.register(self._ask, selectors.EVENT_READ, self._told)
        self._others = {}  # socket -> the other end's
        self._servers = set()
        self._done = threading.Event()
        self._running = True
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._tell(b"q")
        self._thread.join()
        self._selector.close()
        self._listening.close()
        os.close(self._ask)
        os.close(self._asked)

    def cut(self):
        """Reset every connection that there is; new ones go through."""
        self._tell(b"c")

    def _tell(self, what):
        self._done.clear()
        os.write(self._asked, what)
        self._done.wait()

    def _run(self):
        while self._running:
            for key, _ in self._selector.select():
                key.data(key.fileobj)

    def _told(self, fd):
        self._running = os.read(fd, 1) != b"q"
        for sock in list(self._others):
            self._drop(sock)
        self._done.set()

    def _accept(self, listening):
        client, _ = listening.accept()
        try:
            server = socket.create_connection(self._target)
        except ConnectionError:
            client.close()  # nobody is there
            return
        self._servers.add(server)
        self._others[client], self._others[server] = server, client
        for sock in (client, server):
            self._selector.register(sock, selectors.EVENT_READ, self._forward)

    def _forward(self, sock):
        if sock not in self._others:
            return  # its pair was dropped in this round
        try:
            data = sock.recv(65536)
            if data and not (self.deaf and sock in self._servers):
                self._others[sock].sendall(data)
        except OSError:
            data = b""
        if not data:
            self._drop(sock)

    def _drop(self, sock):
        other = self._others.pop(sock, None)
        if other is None:
            return
        del self._others[other]
        for end in (sock, other):
            self._servers.discard(end)
            self._selector.unregister(end)
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.close()
