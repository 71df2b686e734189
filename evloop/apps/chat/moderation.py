"""What ops may do to a room and to those in it; who is banned, who is muted.

Each change is a message of the room, of kind ``mod``: it has a place in the order and is kept, and the room's state
with it.

Rule: nothing in this file may send anything but through the room.  Read next: ``requests.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from time import time_ns
from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from evloop.apps.chat.names import MAX_TOPIC, fold, one_line
from evloop.apps.chat.store import RoomState, Sanction
from evloop.apps.chat.wire import Mod

if TYPE_CHECKING:
    from evloop.apps.chat.rooms import Room
    from evloop.apps.chat.sessions import Session
    from evloop.apps.chat.users import User


class Refused(Exception):
    """It cannot be done: *code* of ERRORS, and a detail."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Change:
    """What a `mod` comes to: the room's new state, None if it stays, and who is to be taken out once it was shown."""

    __slots__ = ("state", "expelled")

    def __init__(self, state: RoomState | None = None, expelled: User | None = None) -> None:
        self.state = state
        self.expelled = expelled


def is_op(room: Room, user: User) -> bool:
    """Return whether *user* may moderate *room*."""
    return user.id in room.state.ops


def role_of(state: RoomState, user: User) -> Literal["op", "member"]:
    """Return what clients are told that *user* is in a room of this *state*."""
    return "op" if user.id in state.ops else "member"


def is_muted_by(state: RoomState, user: User) -> bool:
    """Return whether *user* may not say anything in a room of this *state*."""
    return _applies(state.mutes, user)


def is_banned(room: Room, user: User) -> bool:
    """Return whether *user* may not come in."""
    return _applies(room.state.bans, user)


def is_muted(room: Room, user: User) -> bool:
    """Return whether *user* may not say anything there."""
    return is_muted_by(room.state, user)


def _applies(sanctions: dict[str, Sanction], user: User) -> bool:
    # By the nick and by the user: neither another nick nor another key alone is a way around it.
    if not sanctions:
        return False
    now = time_ns() // 1_000_000
    found = [sanction for sanction in sanctions.values() if sanction.user == user.id]
    if user.fold in sanctions:
        found.append(sanctions[user.fold])
    return any(not sanction.until or sanction.until > now for sanction in found)


def first_member(room: Room, user: User) -> None:
    """Make the first member of an empty room an op: a room without one could not be moderated by anybody."""
    most = room.hub.limits.ops
    room.state = _with_op(room.state, user, most)
    for entry in room.pending:  # it is no act of theirs, and stays if one of them has to be taken back
        if entry.before is not None:
            entry.before = _with_op(entry.before, user, most)


def _with_op(state: RoomState, user: User, most: int) -> RoomState:
    return state if user.id in state.ops else replace(state, ops=[*state.ops, user.id][-most:])


def change_of(session: Session, room: Room, request: Mod) -> Change:
    """Return what *request* comes to.  Refused: it cannot be done."""
    assert session.user is not None
    if not is_op(room, session.user):
        raise Refused("forbidden", "only ops moderate")
    return _CHANGES[request.op](room, request)


def _named(request: Mod) -> str:
    if request.who is None:
        raise Refused("bad_message", "who is missing")
    return request.who


def _present(room: Room, request: Mod) -> User:
    user = room.hub.nicks.get(fold(_named(request)))
    if user is None or user not in room.users:
        raise Refused("no_nick", _named(request))
    return user


def _with_sanction(room: Room, request: Mod, sanctions: dict[str, Sanction]) -> tuple[dict[str, Sanction], User | None]:
    now = time_ns() // 1_000_000
    user = room.hub.nicks.get(fold(_named(request)))
    until = 0 if request.secs is None else now + request.secs * 1000
    left = {key: old for key, old in sanctions.items() if not old.until or old.until > now}
    left.pop(fold(_named(request)), None)
    left[fold(_named(request))] = Sanction(_named(request), None if user is None else user.id, until)
    while len(left) > room.hub.limits.sanctions:
        del left[next(iter(left))]
    return left, user


def _without_sanction(request: Mod, sanctions: dict[str, Sanction]) -> dict[str, Sanction]:
    key = fold(_named(request))
    if key not in sanctions:
        raise Refused("already", _named(request))
    return {other: sanction for other, sanction in sanctions.items() if other != key}


def _kick(room: Room, request: Mod) -> Change:
    return Change(expelled=_present(room, request))


def _ban(room: Room, request: Mod) -> Change:
    bans, user = _with_sanction(room, request, room.state.bans)
    return Change(replace(room.state, bans=bans), user if user in room.users else None)


def _unban(room: Room, request: Mod) -> Change:
    return Change(replace(room.state, bans=_without_sanction(request, room.state.bans)))


def _mute(room: Room, request: Mod) -> Change:
    return Change(replace(room.state, mutes=_with_sanction(room, request, room.state.mutes)[0]))


def _unmute(room: Room, request: Mod) -> Change:
    return Change(replace(room.state, mutes=_without_sanction(request, room.state.mutes)))


def _op(room: Room, request: Mod) -> Change:
    user = _present(room, request)
    if is_op(room, user):
        raise Refused("already", user.nick)
    return Change(_with_op(room.state, user, room.hub.limits.ops))


def _deop(room: Room, request: Mod) -> Change:
    user = _present(room, request)
    if not is_op(room, user):
        raise Refused("already", user.nick)
    return Change(replace(room.state, ops=[other for other in room.state.ops if other != user.id]))


def _topic(room: Room, request: Mod) -> Change:
    if len(request.text.encode()) > MAX_TOPIC:
        raise Refused("too_big", f"a topic of {len(request.text.encode())} bytes exceeds {MAX_TOPIC}")
    return Change(replace(room.state, topic=one_line(request.text)))


def _lock(room: Room, request: Mod) -> Change:
    locked = request.op == "lock"
    if room.state.locked is locked:
        raise Refused("already", request.op)
    return Change(replace(room.state, locked=locked))


_CHANGES: dict[str, Callable[[Room, Mod], Change]] = {
    "kick": _kick,
    "ban": _ban,
    "unban": _unban,
    "mute": _mute,
    "unmute": _unmute,
    "op": _op,
    "deop": _deop,
    "topic": _topic,
    "lock": _lock,
    "unlock": _lock,
}
