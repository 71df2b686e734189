"""The real chat server, in a thread of the test's process: what the tests of whole programs talk to."""

from __future__ import annotations

import threading

import evloop
from evloop.apps import chat

PATIENCE = 30.0  # seconds; only a failing test waits as long


class ChatThread:
    """A chat server at *address*, a context manager; without a bound on the rate, unless *limits* have one.

    Leaving it closes everything at once, as a kill would: nobody is told goodbye.
    """

    def __init__(self, address="127.0.0.1:0", *, password="", ssl=None, **limits):
        self._address = address
        self._options = {"password": password, "ssl": ssl}
        self._limits = chat.ChatLimits(**{"rate": 0.0, **limits})
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        assert self._listens.wait(PATIENCE), "the server did not start"
        return self

    def __exit__(self, *exc_info):
        self.stop()

    def stop(self):
        """Stop it, if it runs."""
        if self._thread.is_alive():
            self._reactor.call_soon_threadsafe(self._cut)
            self._thread.join(PATIENCE)

    def _cut(self):
        for conn in list(self._server.server.connections):
            conn.abort()
        self._reactor.stop()

    def _run(self):
        with evloop.Reactor() as self._reactor:
            server = chat.ChatServer(self._reactor, self._address, limits=self._limits, **self._options)
            self._server = server
            server.start()
            self.address = str(server.address)
            self._listens.set()
            self._reactor.run_forever()
            server.hub.stop()
            server.server.close()
