"""What a chat client can ask its server for, one answer each.

Rule: nothing in this file may follow a room or connect.  Read next: ``client.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evloop.apps.chat import wire
from evloop.apps.chat.client.errors import Disconnected
from evloop.apps.chat.client.events import Message
from evloop.apps.chat.client.link import Link, checked
from evloop.apps.chat.client.rooms import Rooms
from evloop.apps.chat.names import room_name


class Requests:
    """The part of :class:`Client` that asks.

    Each of the coroutines raises Refused: the server does not want it; Disconnected: there is no connection, or it was
    lost before the answer came, and then it is not known whether it was done; ValueError: a name or text is too long.
    """

    nick: str
    _link: Link | None
    _rooms: Rooms
    _end: BaseException | None

    async def part(self, room: str, why: str = "") -> None:
        """Leave *room*.  While there is no connection it is simply not entered again."""
        room = room_name(room)
        self._rooms.leave(room)
        if self._link is not None:
            await self._ask(wire.Part(room=room, why=why))

    async def rename(self, nick: str) -> str:
        """Take another nick; return it as the server writes it.  Refused: it is taken, or cannot be one."""
        reply = await self._ask(wire.Nick(nick=nick))
        self._renamed(reply.nick or nick)
        return self.nick

    async def away(self, text: str | None) -> None:
        """Be away, with *text*; None: be back."""
        await self._ask(wire.Away(text=text))

    async def who(self, room: str, after: str | None = None) -> wire.Members:
        """Return a page of the members of *room*, by name, those behind *after*."""
        page: wire.Members = await self._ask(wire.Who(room=room_name(room), after=after))
        return page

    async def rooms(self, prefix: str = "", after: str | None = None) -> wire.RoomList:
        """Return a page of the server's rooms whose names begin with *prefix*, by name, those behind *after*."""
        page: wire.RoomList = await self._ask(wire.Rooms(prefix=prefix, after=after))
        return page

    async def history(self, room: str, *, to: str = "", before: int | None = None, limit: int = 50) -> list[Message]:
        """Return the last *limit* (1..200) messages of *room*, or with "" of the conversation with *to*.

        *before*: those in front of that number.
        """
        page = await self._ask(wire.History(room=room_name(room) or None, to=to or None, before=before, limit=limit))
        return [self._rooms.message(msg) for msg in page.items]

    async def moderate(self, room: str, op: wire.ModOp, who: str = "", text: str = "", secs: int | None = None) -> None:
        """Do *op* (``kick``, ``ban``, ``mute``, ``op``, ``topic``, ...; :class:`wire.Mod`) in *room*."""
        room = room_name(room)

        def at_its_place(reply: Any) -> None:
            """Take the act as what it is, a message of the room: the others get it, and its author this answer."""
            if type(reply) is wire.Ok and reply.seq is not None:
                acted = Message(
                    room, "", reply.seq, reply.ts or 0, self.nick, text, "mod", own=True, op=op, who=who, secs=secs
                )
                self._rooms.confirmed(room, acted, reply.epoch or "")

        await self._ask(wire.Mod(room=room, op=op, who=who or None, text=text, secs=secs), at_its_place)

    def typing(self, room: str, on: bool = True, *, to: str = "") -> None:
        """Tell *room*, or with "" the nick *to*, that something is being written; without a connection nothing."""
        if self._link is not None:
            self._link.tell(checked(wire.Typing(on=on, room=room_name(room) or None, to=to or None)))

    async def _ask(self, message: Any, first: Callable[[Any], object] | None = None) -> Any:
        """Ask on the connection that there is; *first* gets the answer at its place among the pushes.

        Raises: Refused; Disconnected: there is none, or it was lost: ask again after ``Status("connected")``.
        """
        if self._link is None:
            raise self._end or Disconnected("there is no connection to the server now")
        answer = self._link.ask(checked(message), first)
        self._update_reading()
        return await answer

    def _update_reading(self) -> None:
        raise NotImplementedError

    def _renamed(self, nick: str) -> None:
        raise NotImplementedError
