"""What a client has said and the server has not confirmed: kept over a loss of the connection, sent again, never twice.

Rule: nothing in this file may open a connection, or wait.  Read next: ``rooms.py``, ``client.py``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from evloop.apps.chat import wire
from evloop.apps.chat.client.events import Event, Message, NotSent
from evloop.apps.chat.client.link import Link, checked, refused
from evloop.apps.chat.client.rooms import RETRY, Rooms


@dataclasses.dataclass(eq=False)
class Unsent:
    """One thing said, until the server has confirmed or refused it.

    Attributes:
        cid: the name by which the server knows a repetition (str, 16 characters).
        room: the room's name, or "" if it goes to one person.
        to: that person's nick, or "".
        body: the text.
        kind: ``"text"`` or ``"action"``.
        re: the number of the message that it answers, or None.
        done: who waits for it; its result is the number that it got.
        under_way: it was sent on the connection that there is.
        tried: it was handed to some connection, so the server may have it.
    """

    cid: str
    room: str
    to: str
    body: str
    kind: Any
    re: int | None
    done: asyncio.Future[int]
    under_way: bool = False
    tried: bool = False


class Outbox:
    """The unconfirmed, in the order in which they were said.

    Args:
        most: how many there may be (int > 0).
        emit: called with each event.
        changed: called when there is one less.

    Attributes:
        rooms: where what is confirmed takes its place.

    Owns: the entries.  Event-loop thread only.
    """

    def __init__(self, most: int, emit: Callable[[Event], object], changed: Callable[[], object]) -> None:
        self.most = most
        self.rooms = Rooms(emit, self._found, self._send_to)
        self._emit = emit
        self._changed = changed
        self._entries: dict[str, Unsent] = {}
        self._link: Link | None = None

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def full(self) -> bool:
        """True while nothing more can be added."""
        return len(self._entries) >= self.most

    def add(self, room: str, to: str, body: str, kind: str, re: int | None) -> Unsent:
        """Take something said, and send it as soon as that can be done; return its entry.

        ValueError: it is malformed, and was not taken.
        """
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        # 64 random bits: no other message of this user has them.
        entry = Unsent(os.urandom(8).hex(), room, to, body, kind, re, done)
        checked(_say(entry))
        self._entries[entry.cid] = entry
        self._send(entry)
        return entry

    def withdraw(self, entry: Unsent) -> None:
        """Forget *entry*, unless the server may have it already."""
        if not entry.tried and self._entries.pop(entry.cid, None) is not None:
            self._changed()

    def connected(self, link: Link) -> None:
        """Send on *link* what waits for no room."""
        self._link = link
        for entry in list(self._entries.values()):
            self._send(entry)

    def disconnected(self) -> None:
        """Note that nothing is under way any more."""
        self._link = None
        for entry in self._entries.values():
            entry.under_way = False

    def closed(self, cause: BaseException) -> None:
        """Give everything up, for *cause*."""
        self._link = None
        for entry in list(self._entries.values()):
            self._settle(entry, cause)

    def _send_to(self, name: str) -> None:
        """Send what was said for the room *name*: it was entered, or never will be."""
        for entry in list(self._entries.values()):
            if entry.room == name:
                self._send(entry)

    def _send(self, entry: Unsent) -> None:
        """Send *entry*, if it can be sent now and was not."""
        room = self.rooms.get(entry.room)
        if self._link is None or entry.under_way or (room is not None and room.entering):
            return
        entry.tried = entry.under_way = True
        self._link.request(_say(entry), partial(self._answered, entry))

    def _answered(self, entry: Unsent, reply: Any) -> None:
        if type(reply) is wire.Err:
            error = refused(reply)
            if error.temp:
                entry.under_way = False
                asyncio.get_running_loop().call_later(error.retry_in or RETRY, self._again, entry)
                return
            self._settle(entry, error)
            self._emit(NotSent(entry.room, entry.to, entry.body, error.code, error.text))
        elif type(reply) is wire.Ok and reply.seq is not None:
            message = Message(
                entry.room,
                entry.to,
                reply.seq,
                reply.ts or 0,
                self.rooms.nick,
                entry.body,
                entry.kind,
                own=True,
                cid=entry.cid,
                re=entry.re,
            )
            self._settle(entry, reply.seq)
            self.rooms.confirmed(reply.dm or entry.room, message, reply.epoch or "")

    def _again(self, entry: Unsent) -> None:
        if entry.cid in self._entries:
            self._send(entry)

    def _found(self, cid: str, seq: int) -> None:
        """Take what was said as *cid*, if it was said here, as confirmed: it stands in the order."""
        entry = self._entries.get(cid)
        if entry is not None:
            self._settle(entry, seq)

    def _settle(self, entry: Unsent, outcome: int | BaseException) -> None:
        self._entries.pop(entry.cid, None)
        if not entry.done.done():
            if isinstance(outcome, int):
                entry.done.set_result(outcome)
            else:
                entry.done.set_exception(outcome)
                entry.done.exception()  # of post(), nobody takes it
        self._changed()


def _say(entry: Unsent) -> wire.Say:
    to_room, to_one = entry.room or None, entry.to or None
    return wire.Say(body=entry.body, cid=entry.cid, room=to_room, to=to_one, kind=entry.kind, re=entry.re)
