"""One message to many: encoded once for each form that it takes on the wire, and sent to each connection of that form.

Rule: nothing in this file may know a room or a session.  Read next: ``rooms.py``.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """The connections that get the same messages, by the variant that each has.  Reactor thread only."""

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: dict[Variant, dict[evloop.Connection, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._members.values()))

    def add(self, variant: Variant, conn: evloop.Connection) -> None:
        """Let *conn* have what is sent from now on.  Idempotent."""
        self._members.setdefault(variant, {})[conn] = None

    def discard(self, variant: Variant, conn: evloop.Connection) -> None:
        """Let *conn* have no more of it.  Idempotent, and also for one that has ended."""
        members = self._members.get(variant)
        if members is not None:
            members.pop(conn, None)
            if not members:
                del self._members[variant]

    def send(self, message: Any, exclude: evloop.Connection | None = None) -> None:
        """Send *message* to all but *exclude*; encoded here, once for each variant."""
        for variant, members in self._members.items():
            payload = variant.payload(message)
            for conn in members:
                if conn is not exclude:
                    conn.send(payload)
