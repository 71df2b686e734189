"""One message to many: encoded once for each form that it takes on the wire, and handed to the core's groups.

Rule: nothing in this file may know a room or a session.  Read next: ``rooms.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import evloop
from evloop.apps.chat.wire import CODECS, Codec


class Variant:
    """One form of a message: an encoding, and what a transport puts around it.  Compared by identity; make few.

    Attributes:
        name: ``"json/framed"``, ``"msgpack/websocket"``.
        codec: the encoding.
        payload: returns what ``Connection.send`` is to be given for a message: with frames the encoded message, since
            the framing is the connection's; with WebSocket *wrap* of it, for a connection without framing.
    """

    __slots__ = ("name", "codec", "payload")

    def __init__(self, codec: Codec, transport: str = "framed", wrap: Callable[[bytes], bytes] | None = None) -> None:
        self.name = f"{codec.name}/{transport}"
        self.codec = codec
        encode = codec.encode
        self.payload: Callable[[Any], bytes] = encode if wrap is None else lambda message: wrap(encode(message))

    def __repr__(self) -> str:
        return f"<Variant {self.name}>"


FRAMED = {codec: Variant(codec) for codec in CODECS.values()}


class FanOut:
    """The connections that get the same messages: a group for each variant that is in use.  Reactor thread only."""

    __slots__ = ("_groups", "_pairs")

    def __init__(self) -> None:
        self._groups: dict[Variant, evloop.Group] = {}
        # The same, to be walked: what a member's callbacks do about its output may add and discard members.
        self._pairs: tuple[tuple[Variant, evloop.Group], ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def add(self, variant: Variant, conn: evloop.Connection) -> None:
        """Let *conn* have what is sent from now on.  Idempotent."""
        group = self._groups.get(variant)
        if group is None:
            group = self._groups[variant] = evloop.Group()
            self._pairs = tuple(self._groups.items())
        group.add(conn)

    def discard(self, variant: Variant, conn: evloop.Connection) -> None:
        """Let *conn* have no more of it.  Idempotent, and also for one that has ended and so left by itself."""
        group = self._groups.get(variant)
        if group is not None:
            group.discard(conn)
            if not group:
                del self._groups[variant]
                self._pairs = tuple(self._groups.items())

    def send(self, message: Any, exclude: evloop.Connection | None = None) -> None:
        """Send *message* to all but *exclude*; encoded here, once for each variant."""
        for variant, group in self._pairs:
            group.send(variant.payload(message), exclude=exclude)

    def send_many(self, messages: Sequence[Any], exclude: evloop.Connection | None = None) -> None:
        """Send *messages*, in their order, to all but *exclude*: each member is gone to once."""
        for variant, group in self._pairs:
            group.send_many(list(map(variant.payload, messages)), exclude=exclude)
