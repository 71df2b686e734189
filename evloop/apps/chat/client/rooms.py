"""The rooms and direct conversations that a chat client follows, each in its order and without holes.

Rule: nothing in this file may open a connection or wait.  Read next: ``position.py``, ``client.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from evloop.apps.chat import wire
from evloop.apps.chat.client.errors import Refused
from evloop.apps.chat.client.events import Entered, Event, Left, Message, Missed, Presence
from evloop.apps.chat.client.link import Link, checked, refused
from evloop.apps.chat.client.position import Position

# Messages that a room gives after a loss that it cannot bridge: a screenful or two of what is going on now.
AGAIN_LIMIT = 50

# Seconds before a room is asked again that could not answer now and did not say when it can.
RETRY = 1.0

# Names of a room that are remembered for completion; the server stops telling who comes and goes at 200.
NAMES_MAX = 1000

# Conversations that are followed; of one more the oldest is forgotten, and after a loss not asked for.  A bot is talked
# to by anybody.
CONVERSATIONS_MAX = 1000


class Room:
    """A room, or (*direct*) the conversation with *peer*, whose key is *name*.

    Attributes:
        names: nicks that are or were heard there, as the keys of a dict, in the order in which they came.
        n: how many members there are, as far as is known.
    """

    __slots__ = (
        *("name", "peer", "limit", "position"),
        *("entering", "entered", "asking", "waiting"),
        *("names", "n", "topic", "role"),
    )

    def __init__(self, name: str, peer: str = "", limit: int = 0) -> None:
        self.name = name
        self.peer = peer
        self.limit = limit
        self.position: Position[Message] = Position()
        self.entering = False  # a join is under way: what comes early is held until its history is here
        self.entered = False  # it was entered once
        self.asking = False  # a page of history is under way
        self.waiting: list[asyncio.Future[Entered]] = []
        self.names: dict[str, None] = {}
        self.n = 0
        self.topic = ""
        self.role = "member"

    @property
    def label(self) -> tuple[str, str]:
        """The fields ``room`` and ``peer`` of an event of this room."""
        return ("", self.peer) if self.peer else (self.name, "")

    def heard(self, nick: str) -> None:
        """Remember *nick*."""
        if nick not in self.names and len(self.names) >= NAMES_MAX:
            del self.names[next(iter(self.names))]
        self.names[nick] = None


class Rooms:
    """All that one client follows, by name or key.

    Args:
        emit: called with each event, in order.
        confirm: called with the cid of a message of this user that has turned up in the order, with its seq.
        settled: called with the name of a room that was entered, or that will not be: what is said there can be sent.

    Attributes:
        link: the connection, once the server has welcomed on it; None while there is none.
        user, nick: who this client is there.

    Event-loop thread only.
    """

    def __init__(
        self,
        emit: Callable[[Event], object],
        confirm: Callable[[str, int], object],
        settled: Callable[[str], object],
    ) -> None:
        self.link: Link | None = None
        self.user = self.nick = ""
        self._rooms: dict[str, Room] = {}
        self._emit = emit
        self._confirm = confirm
        self._settled = settled

    def __iter__(self) -> Iterator[Room]:
        return iter(list(self._rooms.values()))

    def get(self, name: str | None) -> Room | None:
        """Return the room called *name*, or the conversation with that key, or None."""
        return self._rooms.get(name or "")

    def direct(self, nick: str) -> Room | None:
        """Return the conversation with *nick*, or None."""
        return next((room for room in self._rooms.values() if room.peer and room.peer == nick), None)

    # --- the connection comes and goes --------------------------------------------------------------------------

    def connected(self, link: Link, welcome: wire.Welcome) -> None:
        """Enter all rooms again, and ask for what was missed in conversations."""
        self.link = link
        if self.user not in ("", welcome.user):  # conversations belong to a user, and this is another one
            self._rooms = {name: room for name, room in self._rooms.items() if not room.peer}
        self.user, self.nick = welcome.user, welcome.nick
        for room in list(self._rooms.values()):
            if not room.peer:
                self._enter(room)
        for known in welcome.dms:
            conversation = self._rooms.get(known.dm)
            if conversation is not None:
                conversation.peer = known.who
                self._at_epoch(conversation, known.epoch)
                conversation.position.reach(known.top)
                self._fill(conversation)

    def disconnected(self) -> None:
        """Note that nothing is under way any more."""
        self.link = None
        for room in self._rooms.values():
            room.entering = room.asking = False

    def closed(self, cause: BaseException) -> None:
        """Tell whoever waits for a room that it will not come."""
        for room in self._rooms.values():
            for waiter in room.waiting:
                if not waiter.done():
                    waiter.set_exception(cause)
                    waiter.exception()  # nobody may be there to take it
            room.waiting.clear()

    # --- entering and leaving -----------------------------------------------------------------------------------

    def enter(self, name: str, limit: int, waiter: asyncio.Future[Entered]) -> None:
        """Enter the room *name*, now or once there is a connection, and tell *waiter*.

        ValueError: it cannot be a room's name, or *limit* is out of range.
        """
        checked(wire.Join(room=name, limit=limit))
        room = self._rooms.setdefault(name, Room(name))
        room.limit = limit
        room.waiting.append(waiter)
        if not room.entering:
            self._enter(room)

    def leave(self, name: str) -> None:
        """Follow *name* no more."""
        self._rooms.pop(name, None)

    def _enter(self, room: Room) -> None:
        if self.link is None or self._rooms.get(room.name) is not room:
            return
        room.entering = True
        position, since = room.position, None
        if position.epoch:
            since = wire.Position(epoch=position.epoch, seq=position.last)
        limit = AGAIN_LIMIT if room.entered else room.limit
        self.link.request(wire.Join(room=room.name, since=since, limit=limit), partial(self._joined, room))

    def _joined(self, room: Room, reply: Any) -> None:
        room.entering = False
        if self._rooms.get(room.name) is not room:  # left meanwhile
            return
        if type(reply) is wire.Err:
            self._not_joined(room, refused(reply))
            return
        again, room.entered = room.entered, True
        messages = [self.message(msg) for msg in reply.history]
        room.n, room.topic, room.role = reply.n, reply.topic, reply.you.role
        for nick in reply.members:
            room.heard(nick)
        if not (again and reply.recovered):
            room.position.start(reply.epoch, messages[0].seq - 1 if again and messages else reply.top)
        event = Entered(
            room.name,
            reply.topic,
            reply.n,
            tuple(reply.members),
            reply.you.role,
            again,
            again and reply.recovered,
            () if again else tuple(messages),
        )
        self._emit(event)
        for waiter in room.waiting:
            if not waiter.done():
                waiter.set_result(event)
        room.waiting.clear()
        for message in messages if again else ():
            self._take(room, message)
        room.position.reach(reply.top)
        self._settled(room.name)
        self._fill(room)

    def _not_joined(self, room: Room, error: Refused) -> None:
        if error.temp:
            asyncio.get_running_loop().call_later(error.retry_in or RETRY, self._enter, room)
            return
        self.leave(room.name)
        if room.entered:
            self._emit(Left(room.name, error.code, error.text))
        for waiter in room.waiting:
            if not waiter.done():
                waiter.set_exception(error)
                waiter.exception()
        self._settled(room.name)

    # --- messages -----------------------------------------------------------------------------------------------

    def message(self, msg: wire.Msg) -> Message:
        """Return *msg* as an event."""
        own = msg.user == self.user if msg.user is not None else msg.sender == self.nick
        peer = ""
        if msg.dm is not None:
            peer = (msg.to or "") if own else msg.sender
        return Message(
            msg.room or "",
            peer,
            msg.seq,
            msg.ts,
            msg.sender,
            msg.body,
            msg.kind,
            own,
            msg.cid,
            msg.re,
            msg.file,
            msg.op,
            msg.who,
            msg.secs,
        )

    def said(self, msg: wire.Msg) -> None:
        """Take a message that the server has pushed."""
        message = self.message(msg)
        if msg.dm is not None:
            room = self.conversation(msg.dm, message.peer, msg.seq - 1)
        else:
            followed = self._rooms.get(msg.room or "")
            if followed is None:  # a join or a part is under way
                return
            room = followed
        self._take(room, message)
        self._fill(room)

    def confirmed(self, name: str, message: Message, epoch: str) -> None:
        """Take *message*, which this client has said and the server now confirmed, at its place."""
        room = self.conversation(name, message.peer, message.seq - 1) if message.peer else self._rooms.get(name)
        if room is None:
            self._emit(message)  # said into a room that was left meanwhile
            return
        if not room.entering:
            self._at_epoch(room, epoch)
        self._take(room, message)
        self._fill(room)

    def conversation(self, key: str, peer: str, last: int) -> Room:
        """Return the conversation *key* with *peer*; a new one begins behind the number *last*."""
        room = self._rooms.get(key)
        if room is None:
            known = [name for name, room in self._rooms.items() if room.peer]
            if len(known) >= CONVERSATIONS_MAX:
                del self._rooms[known[0]]
            room = self._rooms[key] = Room(key, peer)
            room.position.start("", last)
        room.peer = peer or room.peer
        return room

    def passed(self, event: wire.Event) -> None:
        """Take something that passes."""
        room = self._rooms.get(event.dm or event.room or "")
        who = event.who or ""
        if room is not None:
            self._count(room, event, who)
        if event.e == "nick" and event.text:
            for known in self._rooms.values():
                if known.peer == who:
                    known.peer = event.text
        label = room.label if room is not None else (event.room or "", who if event.dm else "")
        self._emit(Presence(*label, event.e, who, event.text, event.n, event.on))

    def _count(self, room: Room, event: wire.Event, who: str) -> None:
        if event.n is not None:
            room.n = event.n
        if event.e == "join":
            room.heard(who)
        elif event.e in ("part", "lost"):
            room.names.pop(who, None)
        elif event.e == "nick" and event.text:
            room.names.pop(who, None)
            room.heard(event.text)

    def _take(self, room: Room, message: Message) -> None:
        self._confirm_own(message)
        for shown in room.position.take(message.seq, message):
            room.heard(shown.sender)
            self._emit(shown)
            if shown.kind == "mod":
                self._moderated(room, shown)

    def _confirm_own(self, message: Message) -> None:
        if message.own and message.cid is not None:
            self._confirm(message.cid, message.seq)

    def _moderated(self, room: Room, message: Message) -> None:
        if message.op == "topic":
            room.topic = message.body
        elif message.op in ("kick", "ban") and (message.who or "").casefold() == self.nick.casefold():
            self.leave(room.name)
            self._emit(Left(room.name, "kicked" if message.op == "kick" else "banned", message.body))

    # --- holes --------------------------------------------------------------------------------------------------

    def _at_epoch(self, room: Room, epoch: str) -> None:
        """Know that the numbers of *room* are of *epoch*: of another one than before, they begin again."""
        position = room.position
        if position.epoch and epoch != position.epoch:
            self._emit(Missed(*room.label))
            position.start(epoch, 0)
        position.epoch = epoch

    def _fill(self, room: Room) -> None:
        """Ask for what is missing before the messages that are held."""
        if self.link is None or room.asking or room.entering or not room.position.gap:
            return
        room.asking = True
        request = wire.History(room=room.name, after=room.position.last, limit=wire.MAX_PAGE)
        self.link.request(request, partial(self._filled, room))

    def _filled(self, room: Room, reply: Any) -> None:
        room.asking = False
        if self._rooms.get(room.name) is not room or room.entering:
            return
        position = room.position
        if type(reply) is wire.Err and reply.temp:
            delay = (reply.retry_ms or 0) / 1000 or RETRY
            asyncio.get_running_loop().call_later(delay, self._fill, room)
            return
        before = position.last
        if type(reply) is wire.Page:
            self._at_epoch(room, reply.epoch)
            messages = [self.message(msg) for msg in reply.items]
            if messages and messages[0].seq > position.last + 1:
                self._emit(Missed(*room.label))
                position.skip_to(messages[0].seq)
            for message in messages:
                self._take(room, message)
        if position.gap and position.last == before:  # the server has none of them any more
            self._emit(Missed(*room.label))
            for message in position.skip_gap():
                self._emit(message)
        self._fill(room)
