"""The second, small port of a server: is it alive, does it want work, what does it count, what is it doing.

- ``/livez``: 200 while the loop turns; a supervisor that gets nothing restarts the process.
- ``/readyz``: 200, or 503 with the reason in one word a line: a balancer sends no new clients meanwhile.
- ``/metrics``: for Prometheus; ``metrics.py`` has the names.
- ``/statusz``: JSON for people: version, limits in force, counters, lag, who holds most output.

It runs on the server's own reactor, so that what it says of the loop is true of the one that serves; on a listener of
its own, so that it answers while the server is full, and until the last connection is drained.

Rule: nothing in this file may change what it looks at.  Read next: ``metrics.py``, ``lag.py``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import json
import os
import resource
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import evloop
from evloop.addresses import AddressLike
from evloop.apps.families import Families
from evloop.apps.http import HttpProtocol, Request, Response, only_get, refusal
from evloop.apps.lag import LoopLag
from evloop.apps.metrics import Exposition
from evloop.limits import HEAD_ROOM

if TYPE_CHECKING:
    from typing_extensions import Self

PATHS = ("/livez", "/readyz", "/metrics", "/statusz")

# A scraper, two probes and a few people are a handful; each connection lives for one answer.  They come out of the
# descriptors that a server leaves free (HEAD_ROOM), so a full server can still be asked.
LIMITS = evloop.Limits(max_connections=16, write_timeout=10.0, idle_timeout=30.0, linger=1.0, backlog=64)

# Connections that /statusz lists: enough to see who is slow, and not a copy of the table.
TOP = 10


def _nothing() -> tuple[()]:
    return ()


class Admin:
    """The admin port of *server*; :meth:`start` binds it, :meth:`close` ends it.  A context manager.

    Args:
        server: what is looked at; on a :class:`evloop.Reactor`.
        address: as for a server.  There is no password: leave it on the loopback, or behind something that has one.
        unready: more reasons against new clients, in a few words each; called for ``/readyz``.
        status: more for ``/statusz``, whatever json knows; called for it.
        families: more for ``/metrics``; called for it.

    Raises:
        TypeError, ValueError: the address is wrong.
    Reactor thread only.
    """

    def __init__(
        self,
        server: evloop.Server,
        address: AddressLike = "127.0.0.1:9100",
        *,
        unready: Callable[[], Any] = _nothing,
        status: Callable[[], Mapping[str, Any]] = dict,
        families: Families = _nothing,
    ) -> None:
        self._watched = server
        self._unready = unready
        self._status = status
        self._reactor: evloop.Reactor = server.reactor  # type: ignore[assignment]  # a Server takes a Core, too
        self._began = self._reactor.time()
        self.lag = LoopLag(self._reactor)
        self._exposition = Exposition(server, self.lag, families)
        self._server = evloop.Server(
            self._reactor,
            protocol_factory=lambda: HttpProtocol(self._reactor, self._answer),
            address=address,
            framing=None,
            limits=LIMITS,
        )

    def start(self) -> None:
        """Bind, listen, and begin to measure the loop.  Raises: OSError: the address cannot be had."""
        self._server.start()
        self.lag.start()

    @property
    def addresses(self) -> list[evloop.Address]:
        """Where it listens, with the real ports; empty before start and after close."""
        return self._server.addresses

    def close(self) -> None:
        """Close the listener, and what is connected at once.  Idempotent; good on a closed reactor, too."""
        self.lag.stop()
        self._server.close()
        for conn in list(self._server.connections):
            with contextlib.suppress(RuntimeError):  # the reactor is closed: the socket is, and nobody can be told
                conn.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- the answers ---------------------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Response:
        refused = only_get(request)
        if refused is not None:
            return refused
        if request.path == "/livez":
            return _no_store(200, b"ok\n")
        if request.path == "/readyz":
            reasons = self._reasons()
            return _no_store(503 if reasons else 200, "".join(f"{reason}\n" for reason in reasons or ["ok"]).encode())
        if request.path == "/metrics":
            return _no_store(200, *self._exposition.encode(request.headers.get("accept", "")))
        if request.path == "/statusz":
            return _no_store(200, json.dumps(self.statusz(), indent=1).encode() + b"\n", "application/json")
        return refusal(404, f"there is nothing at this path; there is {', '.join(PATHS)}")

    def _reasons(self) -> list[str]:
        """Return why the server wants no new clients; empty: it does."""
        server = self._watched
        found = []
        if server.closing:
            found.append("draining")
        elif not server.addresses:
            found.append("starting")
        if len(server.connections) >= _max_connections(server.limits):
            found.append("full")
        if server.accept_paused:
            found.append("no descriptors")
        return [*found, *self._unready()]

    def statusz(self) -> dict[str, Any]:
        """Return what ``/statusz`` shows, for json."""
        server, lag = self._watched, self.lag.recent
        return {
            "version": evloop.__version__,
            "implementation": self._reactor.stats()["implementation"],
            "pid": os.getpid(),
            "uptime_s": round(self._reactor.time() - self._began, 3),
            "state": self._reasons() or ["ready"],
            "listening": [address.label for address in server.addresses],
            "connections": len(server.connections),
            "loop": {
                "lag_p50_s": round(lag.p50, 6),
                "lag_p99_s": round(lag.p99, 6),
                "lag_max_s": round(lag.max, 6),
                "busy": round(self.lag.busy, 4),
                "reactor": self._reactor.stats(),
            },
            "limits": dataclasses.asdict(server.limits),
            "stats": server.stats(),
            "most_output": _most_output(server),
            **self._status(),
        }


def _no_store(status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> Response:
    return Response(status, body, kind, (("Cache-Control", "no-store"),))


def _max_connections(limits: evloop.Limits) -> int:
    """Return how many connections a server takes: as many as it is told, or as there are descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(soft - HEAD_ROOM, 1)
    return min(limits.max_connections or most, most)


def _most_output(server: evloop.Server) -> list[dict[str, Any]]:
    """Return the connections that hold most output, if any does."""
    held = [(conn.stats.output, conn) for conn in list(server.connections)]
    return [
        {"peer": str(conn.peer), "output": output, "state": conn.state}
        for output, conn in heapq.nlargest(TOP, held, key=lambda item: item[0])
        if output
    ]
