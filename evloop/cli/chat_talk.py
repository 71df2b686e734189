"""What ``evloop chat`` does with what is typed and with what comes, on a terminal and in a pipe alike.

Rule: nothing in this file may read, print or know a terminal: it is given lines, and gives lines to a screen.
Read next: ``chat_window.py`` and ``chat_pipe.py``, the two screens; ``chat_desk.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from evloop.apps.chat.client import (
    Client,
    Disconnected,
    Ended,
    Entered,
    Event,
    Left,
    Message,
    Missed,
    Notice,
    NotSent,
    OutboxFull,
    Presence,
    Refused,
    Renamed,
    Status,
)
from evloop.apps.chat.names import room_name
from evloop.cli.chat_desk import Desk, Pane
from evloop.cli.chat_lines import Line, complaint, day_of, heading, info, mentions, of_message, of_presence
from evloop.cli.chat_texts import Texts

# Messages that /history gives without a number: a screenful.
HISTORY = 20

# Names that /who and the greeting of a room write out.
NAMES = 40


class Screen(Protocol):
    """Where lines go."""

    def show(self, pane: Pane | None, line: Line, *, data: bool) -> None:
        """Show *line* of *pane*; *data*: somebody has said it, or it was asked for."""

    async def room(self) -> None:
        """Wait until there is room for more lines."""

    def changed(self) -> None:
        """Show the state of things again: the rooms, what is new in them, the connection."""

    def bell(self) -> None:
        """Call the person."""


class Talk:
    """One person's chat.

    Args:
        all_rooms: the screen shows every room's lines as they come, one each, as a pipe does.
        history: messages that a room brings along when it is entered (0..200).

    Attributes:
        desk: the open rooms.
        texts: the person's language.
        status: the last :class:`Status`.
        refusal: what the server refused last, in words, or "".
    """

    def __init__(self, client: Client, texts: Texts, screen: Screen, *, all_rooms: bool, history: int) -> None:
        self.client = client
        self.texts = texts
        self.desk = Desk()
        self.status = Status("connected")
        self.refusal = ""
        self._screen = screen
        self._all_rooms = all_rooms
        self._history_of_rooms = history
        self._wanted = ""  # the room to show as soon as it is entered
        self._commands: dict[str, tuple[str, Callable[[str], Awaitable[None]]]] = {
            "join": ("/join ROOM", self._join),
            "part": ("/part [ROOM]", self._part),
            "room": ("/room N|NAME", self._room),
            "rooms": ("/rooms [PREFIX]", self._rooms),
            "msg": ("/msg NICK TEXT", self._msg),
            "me": ("/me TEXT", self._me),
            "who": ("/who [ROOM]", self._who),
            "history": ("/history [N]", self._history),
            "nick": ("/nick NICK", self._nick),
            "away": ("/away [TEXT]", self._away),
            "topic": ("/topic [TEXT]", self._topic),
            "help": ("/help", self._help),
            **{op: (f"/{op} NICK [WHY]", self._moderation(op)) for op in _MODERATION},
        }

    @property
    def commands(self) -> list[str]:
        """The names of all commands, with their strokes."""
        return sorted(f"/{name}" for name in (*self._commands, "quit"))

    @property
    def names(self) -> list[str]:
        """Who can be named in the current room, the last heard first."""
        pane = self.desk.current
        for room in self.client.followed:
            if pane is not None and (room.peer == pane.peer if pane.peer else room.name == pane.name):
                return [nick for nick in reversed(room.names) if nick != self.client.nick]
        return []

    # --- what comes ---------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Show what comes, until the client is closed.  Ended, Refused: the server wants us no more."""
        async for event in self.client.events():
            self.take(event)
            await self._screen.room()

    def take(self, event: Event) -> None:
        """Show *event*."""
        texts = self.texts
        self._screen.changed()
        if isinstance(event, Message):
            self._message(event)
        elif isinstance(event, Presence):
            self._presence(event)
        elif isinstance(event, Entered):
            self._entered(event)
        elif isinstance(event, Left):
            pane = self.desk.find(event.room)
            self._say(pane, complaint(texts("left", room=event.room, text=event.text or event.code)))
        elif isinstance(event, Missed):
            self._say(self.desk.find(event.room, event.peer), complaint(texts("hole")))
        elif isinstance(event, Renamed):
            self._say(None, info(texts("renamed", nick=event.nick)))
        elif isinstance(event, NotSent):
            pane = self.desk.find(event.room, event.peer)
            self.refusal = texts("not-sent", text=event.text, code=event.code)
            self._say(pane, complaint(f"{self.refusal}: {event.body}"))
        elif isinstance(event, Notice):
            self._say(None, complaint(texts("refused", text=event.text, code=event.code)))
        elif isinstance(event, Status):
            self._status(event)

    def _message(self, message: Message) -> None:
        pane = self.desk.find(message.room, message.peer)
        if pane is None:
            if message.room:  # it was left meanwhile
                return
            pane = self.desk.open("", message.peer)
        called = not message.own and (bool(message.peer) or mentions(message.body, self.client.nick))
        if pane.first is None:
            pane.first = message.seq
        self._add_message(pane, message)
        if not message.own and pane is not self.desk.current:
            pane.unread += 1
            pane.mentions += called
        if called:
            self._screen.bell()

    def _presence(self, event: Presence) -> None:
        pane = self.desk.find(event.room, event.peer)
        line = of_presence(event, self.texts)
        if pane is not None and line is not None:
            self._add(pane, line)
        if event.what == "nick" and event.text:
            for pane in self.desk.panes:
                if pane.peer == event.who:
                    pane.peer = event.text

    def _entered(self, event: Entered) -> None:
        texts = self.texts
        pane = self.desk.open(event.room)
        if event.again:
            if not event.recovered:
                self._say(pane, complaint(texts("hole")))
            return
        if event.history:
            pane.first = event.history[0].seq
        if self.desk.current is None or event.room == self._wanted:
            self.switch(pane)
        for message in event.history:
            self._add_message(pane, message)
        parts = [texts("entered", n=event.n)]
        if event.topic:
            parts.append(texts("topic", topic=event.topic))
        if 1 < len(event.members) <= NAMES:
            parts.append(texts("names", names=", ".join(event.members)))
        self._add(pane, info(" · ".join(parts)))

    def _status(self, event: Status) -> None:
        before, self.status = self.status, event
        if event.state == "reconnecting" and before.state != "reconnecting":
            self._say(None, complaint(self.texts("lost", reason=event.reason)))
        elif event.state == "connected" and before.state == "reconnecting":
            self._say(None, info(self.texts("back")))
        elif event.state == "closed" and event.reason:
            self._say(None, complaint(self.texts("closed", reason=event.reason)))

    # --- lines --------------------------------------------------------------------------------------------------

    def switch(self, pane: Pane | None) -> None:
        """Show *pane* from now on, with what is new there."""
        self.desk.current = pane
        self._screen.changed()
        if pane is None or self._all_rooms:
            return
        context, new = pane.show()
        self._screen.show(pane, heading(pane.label), data=False)
        for line in context:
            self._screen.show(pane, line, data=False)
        if context and new:
            self._screen.show(pane, info(self.texts("new")), data=False)
        for line in new:
            self._screen.show(pane, line, data=False)

    def _add_message(self, pane: Pane, message: Message) -> None:
        day = day_of(message.ts)
        if day != pane.day and not self._all_rooms:
            self._add(pane, heading(day))
        pane.day = day
        for line in of_message(message, self.client.nick, self.texts, one_line=self._all_rooms):
            self._add(pane, line, data=True)

    def _add(self, pane: Pane, line: Line, *, data: bool = False) -> None:
        """Keep *line* for *pane*, and show it if the pane is."""
        shown = self._all_rooms or pane is self.desk.current
        pane.add(line, shown=shown)
        if shown:
            self._screen.show(pane, line, data=data)

    def _say(self, pane: Pane | None, line: Line) -> None:
        """Show a line of ours, whichever room is shown; it is kept for *pane*."""
        if pane is not None:
            self._add(pane, line)
        if pane is None or not (self._all_rooms or pane is self.desk.current):
            self._screen.show(None, line, data=False)

    def _answer(self, text: str) -> None:
        """Show what was asked for."""
        self._screen.show(None, info(text), data=True)

    # --- what is typed ------------------------------------------------------------------------------------------

    @staticmethod
    def leaves(text: str) -> bool:
        """Return whether the line *text* says to leave."""
        return text.strip() in ("quit", "/quit")

    async def enter(self, room: str) -> None:
        """Enter *room*."""
        await self._try(self._enter(room))

    async def typed(self, text: str) -> None:
        """Do what the line *text* says."""
        await self._try(self._act(text.rstrip("\r\n")))

    async def _act(self, text: str) -> None:
        if text.startswith("/") and not text.startswith("//"):
            await self._command(text)
        elif text.strip():
            self._post(text[1:] if text.startswith("//") else text)

    async def _try(self, action: Awaitable[None]) -> None:
        """Do *action*, and say what is wrong with it."""
        try:
            await action
        except Refused as exc:
            self.refusal = self.texts("refused", text=exc.text, code=exc.code)
            self._say(None, complaint(self.refusal))
        except OutboxFull as exc:
            self._say(None, complaint(self.texts("outbox-full", error=exc)))
        except Disconnected:
            self._say(None, complaint(self.texts("disconnected")))
        except Ended:
            pass  # listen() ends with it, too, and the program with that
        except _Usage as exc:
            self._say(None, complaint(self.texts("usage", usage=exc)))
        except ValueError as exc:
            self._say(None, complaint(self.texts("too-long", error=exc)))

    async def _command(self, text: str) -> None:
        name, _, rest = text[1:].partition(" ")
        if name.lower() not in self._commands:
            self._say(None, complaint(self.texts("unknown", name=f"/{name}")))
            return
        usage, act = self._commands[name.lower()]
        rest = rest.strip()
        if not rest and "[" not in usage and " " in usage:
            raise _Usage(usage)
        await act(rest)

    def _post(self, body: str, kind: str = "text") -> None:
        pane = self.desk.current
        if pane is None:
            self._say(None, complaint(self.texts("no-room")))
            return
        self._post_to(pane, body, kind)

    def _post_to(self, pane: Pane, body: str, kind: str) -> None:
        self.client.post(pane.name, body, to=pane.peer, kind=kind)
        if self.client.state != "connected":
            self._screen.show(pane, info(f"{body} {self.texts('queued')}"), data=False)

    async def _join(self, room: str) -> None:
        room = room_name(room)
        pane = self.desk.find(room)
        if pane is not None:
            self.switch(pane)
        self._wanted = room
        await self._enter(room)

    async def _enter(self, room: str) -> None:
        await self.client.join(room, history=self._history_of_rooms)

    async def _part(self, room: str) -> None:
        pane = self.desk.choose(room) if room else self.desk.current
        if pane is None:
            self._say(None, complaint(self.texts("no-such-room", room=room) if room else self.texts("no-room")))
            return
        self.desk.close(pane)
        self._say(None, info(self.texts("parted", room=pane.label)))
        self.switch(self.desk.current)
        if not pane.peer:
            await self.client.part(pane.name)

    async def _room(self, text: str) -> None:
        pane = self.desk.choose(text)
        if pane is None:
            self._say(None, complaint(self.texts("no-such-room", room=text)))
        else:
            self.switch(pane)

    async def _rooms(self, prefix: str) -> None:
        page = await self.client.rooms(prefix)
        for room in page.entries:
            topic = f"  {room.topic}" if room.topic else ""
            self._answer(f"{room.room} ({room.n}){topic}")
        if not page.entries:
            self._say(None, info(self.texts("no-rooms")))

    async def _msg(self, rest: str) -> None:
        nick, _, body = rest.partition(" ")
        if not body.strip():
            raise _Usage("/msg NICK TEXT")
        pane = self.desk.open("", nick.removeprefix("@"))
        self._post_to(pane, body.strip(), "text")
        if not self._all_rooms and pane is not self.desk.current:
            self.switch(pane)

    async def _me(self, text: str) -> None:
        self._post(text, "action")

    async def _who(self, room: str) -> None:
        pane = self.desk.current
        name = room or (pane.name if pane is not None else "")
        if not name:
            self._say(None, complaint(self.texts("no-room")))
            return
        page = await self.client.who(name)
        marks = {"op": "+"}
        names = [marks.get(one.role, "") + one.nick + (" (away)" if one.away else "") for one in page.entries]
        self._answer(f"{name} ({page.n}): {', '.join(names)}" + (" ..." if page.more else ""))

    async def _history(self, number: str) -> None:
        pane = self.desk.current
        if pane is None:
            self._say(None, complaint(self.texts("no-room")))
            return
        if number and not (number.isascii() and number.isdigit() and 1 <= int(number) <= 200):
            raise _Usage("/history [1..200]")
        limit = int(number or HISTORY)
        messages = await self.client.history(pane.name, to=pane.peer, before=pane.first, limit=limit)
        if not messages:
            self._say(None, info(self.texts("no-history")))
            return
        pane.first = messages[0].seq
        self._screen.show(pane, heading(f"{pane.label} · {self.texts('earlier', n=len(messages))}"), data=False)
        for message in messages:
            for line in of_message(message, self.client.nick, self.texts, one_line=self._all_rooms):
                self._screen.show(pane, line, data=True)
        self._screen.show(pane, heading(pane.label), data=False)

    async def _nick(self, nick: str) -> None:
        await self.client.rename(nick)

    async def _away(self, text: str) -> None:
        await self.client.away(text or None)
        self._say(None, info(self.texts("away" if text else "back-one", who=self.client.nick, text=text)))

    async def _topic(self, text: str) -> None:
        pane = self.desk.current
        if pane is None or pane.peer:
            self._say(None, complaint(self.texts("no-room")))
        elif text:
            await self.client.moderate(pane.name, "topic", text=text)
        else:
            topics = [room.topic for room in self.client.followed if room.name == pane.name]
            self._answer(self.texts("topic", topic=topics[0] if topics else ""))

    async def _help(self, _: str) -> None:
        for line in self.texts("help").split("\n"):
            self._screen.show(None, [("class:info", line)], data=False)

    def _moderation(self, op: str) -> Callable[[str], Awaitable[None]]:
        async def moderate(rest: str) -> None:
            nick, _, why = rest.partition(" ")
            pane = self.desk.current
            if not nick:
                raise _Usage(f"/{op} NICK [WHY]")
            if pane is None or pane.peer:
                self._say(None, complaint(self.texts("no-room")))
                return
            await self.client.moderate(pane.name, op, nick, why.strip())  # type: ignore[arg-type]

        return moderate


_MODERATION = ("kick", "ban", "unban", "mute", "unmute", "op", "deop")


class _Usage(ValueError):
    """A command was given too little; its text is how to write it."""
