"""What a chat client tells its user: messages, rooms, people, and how the connection is.

Rule: nothing in this file may do anything; these are values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from evloop.apps.chat import wire


@dataclass(frozen=True, slots=True)
class Message:
    """Something that was said, at its place in the order of its room.

    Attributes:
        room: the room's name; "" of a direct message.
        peer: the other one's nick of a direct message; else "".
        seq: its number in the room's order (int >= 1).
        ts: when the server took it, milliseconds since 1970 (UTC).
        sender: the nick it was said under.
        body: the text; of a ``mod`` the reason, or the topic.  As it came: escape it before a terminal gets it.
        kind: ``"text"``, ``"action"`` (/me), ``"file"`` or ``"mod"`` (*op* was done to *who* for *secs* seconds).
        own: it was said by this user, here or in another session.
        cid: the sender's own name for it, or None.
        re: the number of the message that it answers, or None.
    """

    room: str
    peer: str
    seq: int
    ts: int
    sender: str
    body: str
    kind: Literal["text", "action", "file", "mod"] = "text"
    own: bool = False
    cid: str | None = None
    re: int | None = None
    file: wire.File | None = None
    op: str | None = None
    who: str | None = None
    secs: int | None = None


@dataclass(frozen=True, slots=True)
class Entered:
    """This client is in a room, for the first time or again after the connection was lost.

    Attributes:
        again: it was in the room before.
        recovered: with *again*: nothing was missed; what was said meanwhile follows as messages.  If it is false, some
            may be missing before those that follow.
        history: the room's last messages, at the first time; else empty.
        n: how many members there are; *members* names at most 200 of them.
        role: ``"op"`` or ``"member"``.
    """

    room: str
    topic: str
    n: int
    members: tuple[str, ...]
    role: str
    again: bool
    recovered: bool
    history: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Left:
    """This client is in *room* no more, without having asked: *code* is why, as an error's, or ``"kicked"``."""

    room: str
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Missed:
    """Messages before the next one of this *room* (or of *peer*) are gone from the server: there is a hole."""

    room: str
    peer: str


@dataclass(frozen=True, slots=True)
class Presence:
    """Something that passes: who came, left, was lost, took a new nick (*text*), is away, or types (*on*).

    With ``"count"``, *n* is how many members there are.
    """

    room: str
    peer: str
    what: str
    who: str
    text: str | None = None
    n: int | None = None
    on: bool = True


@dataclass(frozen=True, slots=True)
class Renamed:
    """This user is called *nick* from now on."""

    nick: str


@dataclass(frozen=True, slots=True)
class Status:
    """How the connection is: ``"connected"``, ``"reconnecting"``, or ``"closed"``, after which nothing comes.

    *reason* is why it is not connected, for people; the next attempt comes in *retry_in* seconds.
    """

    state: Literal["connected", "reconnecting", "closed"]
    reason: str = ""
    retry_in: float = 0.0


@dataclass(frozen=True, slots=True)
class NotSent:
    """The server refused what was said in *room* or to *peer*; *code* is the error's, *text* is for people."""

    room: str
    peer: str
    body: str
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about the server that its users should know: *code* ``degraded``, ``restored``, or a later one."""

    level: str
    code: str
    text: str


Event: TypeAlias = Message | Entered | Left | Missed | Presence | Renamed | Status | NotSent | Notice
