"""The answers to what a client asks, but for hello and goodbye: one function a type, ``function(session, request)``.

Rule: nothing in this file may know a transport; what is sent goes through a session or a room.
Read next: ``greetings.py``, ``rooms.py``, ``moderation.py``, ``history.py``.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from evloop.apps.chat import names, wire
from evloop.apps.chat.greetings import already, hello, nick_is_free, ping, pong, quit_
from evloop.apps.chat.history import history, recover
from evloop.apps.chat.moderation import (
    Refused,
    change_of,
    first_member,
    is_banned,
    is_muted,
    is_muted_by,
    is_op,
    role_of,
)
from evloop.apps.chat.names import fold, room_name
from evloop.apps.chat.rooms import Conversation, Room
from evloop.apps.chat.store import Unavailable
from evloop.apps.chat.users import Said, User
from evloop.apps.chat.wire import Event, Msg, Ok, Say

if TYPE_CHECKING:
    from evloop.apps.chat.sessions import Session

# Characters of a body that cannot have more than MAX_BODY bytes, at four bytes each: longer ones are counted.
_SURELY_SHORT = wire.MAX_BODY // 4

_fold_of = attrgetter("fold")


def refuse(session: Session, request: Any) -> None:
    """Answer what a stranger may not ask; a session that has ended answers nothing."""
    if session.transport is not None:
        session.error(request.ref, "not_ready")


# --- nick and away ------------------------------------------------------------------------------------------------


def _too_often(session: Session, ref: int | None) -> bool:
    """Count something that many are told of; tell whether it is refused because there were too many."""
    bucket = session.joins
    if bucket is None:
        return False
    tokens = bucket.fill(session.hub.reactor.time())
    if tokens >= 1.0:
        bucket.tokens -= 1.0
        return False
    retry_ms = int((1.0 - tokens) / bucket.rate * 1000) + 1
    session.error(ref, "rate_limited", f"{bucket.rate:g} a second, {bucket.burst:g} at once", retry_ms)
    return True


def nick(session: Session, request: wire.Nick) -> None:
    """Give a user another nick; those in the same rooms are told."""
    user, hub = session.user, session.hub
    assert user is not None
    if not nick_is_free(session, request.ref, request.nick, user) or _too_often(session, request.ref):
        return
    old = user.nick
    del hub.nicks[user.fold]
    user.rename(request.nick)
    hub.nicks[user.fold] = user
    for room in _rooms_of(user):
        room.renamed()
        if len(room.users) <= hub.limits.quiet_members:
            room.send(Event(e="nick", room=room.name, who=old, text=user.nick), session)
    user.send(Event(e="nick", who=old, text=user.nick), session)
    _ok(session, request.ref, Ok(ref=request.ref, nick=user.nick))


def away(session: Session, request: wire.Away) -> None:
    """Note that a user is away, or back; those in the same rooms are told."""
    user = session.user
    assert user is not None
    text = None if request.text is None else names.one_line(request.text)
    if text is not None and len(text.encode()) > names.MAX_AWAY:
        return session.error(request.ref, "too_big", f"a text of {len(text.encode())} bytes exceeds {names.MAX_AWAY}")
    if _too_often(session, request.ref):
        return None
    user.away = text
    for room in _rooms_of(user):
        if len(room.users) <= session.hub.limits.quiet_members:
            room.send(Event(e="away", room=room.name, who=user.nick, text=text), session)
    return _ok(session, request.ref)


def _rooms_of(user: User) -> set[Room]:
    return {room for session in user.sessions for room in session.rooms.values()}


def _ok(session: Session, ref: int | None, answer: Ok | None = None) -> None:
    if ref is not None:
        session.send(answer or Ok(ref=ref))


# --- rooms --------------------------------------------------------------------------------------------------------


def join(session: Session, request: wire.Join) -> None:
    """Make a session a member of a room, or bring a member up to date."""
    name, hub = room_name(request.room), session.hub
    if name.startswith("@"):
        if not _takes_part(session, name):
            return session.error(request.ref, "no_room", name)
    else:
        fault = names.room_fault(name)
        if fault is not None:
            return session.error(request.ref, "room_bad", fault)
        if name not in session.rooms and len(session.rooms) >= hub.limits.session_rooms:
            return session.error(request.ref, "room_full", _too_many(session))
    if _too_often(session, request.ref):
        return None
    return _with_room(session, request, name, partial(_join, session, request))


def _with_room(session: Session, request: Any, name: str, then: Callable[[Room | None], None]) -> None:
    """Call *then*, for *request*, with the room; if that is loaded first, what the client asks next waits, in order."""
    if not session.hub.with_room(name, partial(_then_go_on, session, request, then)):
        session.wait()


def _then_go_on(session: Session, request: Any, then: Callable[[Room | None], None], room: Room | None) -> None:
    try:
        then(room)
    except Exception:
        session.failed(request)
    finally:
        session.go_on()


def _takes_part(session: Session, key: str) -> bool:
    users = names.conversation_users(key)
    return users is not None and session.user is not None and session.user.id in users


def _join(session: Session, request: wire.Join, room: Room | None) -> None:
    user, hub = session.user, session.hub
    if session.conn is None or user is None:  # it has ended while the room was loaded
        return None
    if room is None:
        return session.error(request.ref, "unavailable", f"the room {request.room}")
    first = False
    if room.name not in session.rooms and not isinstance(room, Conversation):
        refusal = _refusal(session, room, user)
        if refusal is not None:
            return session.error(request.ref, *refusal)
        if not room.users:
            first_member(room, user)
        hub.idle.pop(room.name, None)
        session.rooms[room.name] = room
        first = room.enter(user)
    recovered, messages, more = recover(room, request, session.variant)
    room.attach(session)
    state, shown = room.told_state, room.by_name()[: hub.limits.quiet_members]
    session.send(
        wire.Joined(
            ref=request.ref,
            room=room.name,
            epoch=room.epoch,
            top=room.ring.top,
            you=wire.You(role=role_of(state, user), muted=is_muted_by(state, user)),
            n=len(room.users),
            members=[member.nick for member in shown[: wire.MAX_PAGE]],
            recovered=recovered,
            history=messages,
            topic=state.topic,
            locked=state.locked,
            more=more,
        )
    )
    if first:
        room.tell(Event(e="join", room=room.name, who=user.nick), session)
    return None


def _too_many(session: Session) -> str:
    return f"{session.hub.limits.session_rooms} rooms for one session"


def _refusal(session: Session, room: Room, user: User) -> tuple[str, str] | None:
    """Return why *user* may not become a member, as code and detail, or None."""
    if len(session.rooms) >= room.hub.limits.session_rooms:  # while this one was loaded others were joined
        return "room_full", _too_many(session)
    if is_banned(room, user):
        return "banned", room.name
    if room.state.locked and not is_op(room, user):
        return "forbidden", f"the room {room.name} is locked"
    if len(room.users) >= room.hub.limits.room_members and user not in room.users:
        return "room_full", f"{room.hub.limits.room_members} members"
    return None


def _own_room(session: Session, ref: int | None, name: str) -> Room | None:
    """Return the room *name* of this member; None: it is no member, and that was said."""
    room = session.rooms.get(name) or session.rooms.get(room_name(name))
    if room is None:
        session.error(ref, "no_room", name)
    return room


def part(session: Session, request: wire.Part) -> None:
    """Let a member go."""
    room = _own_room(session, request.ref, request.room)
    if room is not None:
        session.hub.leave(session, room, "part", names.one_line(request.why))
        _ok(session, request.ref)


def who(session: Session, request: wire.Who) -> None:
    """List the members of a room."""
    room = _own_room(session, request.ref, request.room)
    if room is None:
        return
    state, users = room.told_state, room.by_name()
    start = 0 if request.after is None else bisect_right(users, fold(request.after), key=_fold_of)
    page = users[start : start + request.limit]
    session.send(
        wire.Members(
            ref=request.ref,
            room=room.name,
            n=len(users),
            entries=[wire.Member(nick=user.nick, role=role_of(state, user), away=user.away) for user in page],
            more=start + len(page) < len(users),
        )
    )


def rooms(session: Session, request: wire.Rooms) -> None:
    """List the rooms in which somebody is."""
    if _too_often(session, request.ref):  # it looks at all of them
        return
    prefix, after = request.prefix, request.after or ""
    found = (
        name
        for name, room in session.hub.rooms.items()
        if room.users and name.startswith(prefix) and name > after and not name.startswith("@")
    )
    listed = heapq.nsmallest(request.limit + 1, found)
    entries = []
    for name in listed[: request.limit]:
        room = session.hub.rooms[name]
        entries.append(wire.RoomInfo(room=name, n=len(room.users), topic=room.told_state.topic))
    session.send(wire.RoomList(ref=request.ref, entries=entries, more=len(listed) > request.limit))


# --- messages -----------------------------------------------------------------------------------------------------


def say(session: Session, request: Say, room: Room | None = None) -> None:
    """Say something in *room*, by default the one that is named: the path that a busy server spends its time on."""
    if room is None:
        room = session.rooms.get(request.room)  # type: ignore[arg-type]  # None is the name of none
        if room is None or request.to is not None:
            return _say_elsewhere(session, request)
    user, body, kind, ref = session.user, request.body, request.kind, request.ref
    assert user is not None
    if len(body) > _SURELY_SHORT and len(body.encode()) > wire.MAX_BODY:
        return session.error(ref, "too_big", f"body of {len(body.encode())} bytes exceeds {wire.MAX_BODY}")
    name, cid, recent = room.name, request.cid, user.recent
    key = name, cid
    digest = hash((body, kind))  # digest_of
    said = recent.younger.get(key) or recent.older.get(key)
    if said is not None:
        return _repeat(session, request, room, said, digest)
    if room.state.mutes and is_muted(room, user):
        return session.error(ref, "muted", name)
    msg = Msg(seq=0, ts=0, sender=user.nick, body=body, room=name, cid=cid)
    if kind != "text" or request.re is not None or request.file is not None:
        msg.kind, msg.re, msg.file = kind, request.re, request.file
    if room.private:
        assert isinstance(room, Conversation)
        msg.room, msg.dm, msg.user, msg.to = None, name, user.id, room.nick_of(room.other(user.id))
    try:
        room.post(msg, session, ref, key)
    except Unavailable as exc:
        return session.error(ref, "unavailable", str(exc))
    if len(recent.younger) >= recent.least:
        recent.turn()
    recent.younger[key] = msg.seq, msg.ts, room.epoch, digest
    return None


def _say_elsewhere(session: Session, request: Say) -> None:
    """Say something where one is no member by this name: to somebody, by a conversation's key, or nowhere."""
    if (request.to is None) == (request.room is None):
        return session.error(request.ref, "bad_message", "room or to, and not both")
    if request.room is not None and not request.room.startswith("@"):
        room = _own_room(session, request.ref, request.room)
        return None if room is None else say(session, request, room)
    key = _conversation(session, request)
    if key is None:
        return None
    return _with_room(session, request, key, partial(_say_when_loaded, session, request))


def _say_when_loaded(session: Session, request: Say, room: Room | None) -> None:
    if room is None:
        session.error(request.ref, "unavailable", "the conversation")
    elif session.user is not None:
        say(session, request, room)
        session.hub.rest(room)


def _conversation(session: Session, request: Say | wire.Typing | wire.History) -> str | None:
    """Return the key of the conversation that is meant by `to` or `room`; None: there is none, and that was said."""
    assert session.user is not None
    if request.to is None:
        key = request.room or ""
        if not _takes_part(session, key):
            session.error(request.ref, "no_room", key)
            return None
        return key
    other = session.hub.nicks.get(fold(request.to))
    if other is None:
        session.error(request.ref, "no_nick", request.to)
        return None
    return names.conversation_key(session.user.id, other.id)


def _repeat(session: Session, request: Say, room: Room, said: Said, digest: int) -> None:
    """Answer who says the same again, by its cid: as the first time, and as soon as that is kept."""
    seq, ts, epoch, first = said
    if first != digest:
        return session.error(request.ref, "cid_conflict", request.cid)
    if epoch == room.epoch and seq > room.ring.top:
        for entry in room.pending:
            if entry.msg.seq == seq:
                session.owed += 1
                return entry.repeats.append((session, request.ref))
    dm = room.name if room.private else None
    return _ok(session, request.ref, Ok(ref=request.ref, seq=seq, epoch=epoch, ts=ts, dup=True, dm=dm))


def typing(session: Session, request: wire.Typing) -> None:
    """Pass on that somebody types, not too often, and not to a crowd."""
    hub, user, now = session.hub, session.user, session.hub.reactor.time()
    assert user is not None
    if (request.to is None) == (request.room is None):
        return session.error(request.ref, "bad_message", "room or to, and not both")
    if request.on and now - session.typed < hub.limits.typing_interval:
        return None
    if request.room is not None and not request.room.startswith("@"):
        room = _own_room(session, request.ref, request.room)
        if room is not None and len(room.users) <= hub.limits.quiet_members and not is_muted(room, user):
            room.send(Event(e="typing", room=room.name, who=user.nick, on=request.on), session)
    else:
        key = _conversation(session, request)
        users = names.conversation_users(key or "")
        for user_id in {*users} - {user.id} if users is not None else ():
            other = hub.users.get(user_id)
            if other is not None:
                other.send(Event(e="typing", dm=key, who=user.nick, on=request.on))
    session.typed = now if request.on else now - hub.limits.typing_interval
    return None


def page(session: Session, request: wire.History) -> None:
    """Send a page of what was said."""
    if (request.to is None) == (request.room is None):
        return session.error(request.ref, "bad_message", "room or to, and not both")
    if sum(value is not None for value in (request.before, request.after, request.around)) > 1:
        return session.error(request.ref, "bad_message", "before, after or around, and not two of them")
    if request.room is not None and not request.room.startswith("@"):
        room = _own_room(session, request.ref, request.room)
        return None if room is None else history(session, request, room)
    key = _conversation(session, request)
    return None if key is None else _with_room(session, request, key, partial(history, session, request))


def mod(session: Session, request: wire.Mod) -> None:
    """Moderate a room."""
    room, user = _own_room(session, request.ref, request.room), session.user
    if room is None or user is None:
        return None
    try:
        change = change_of(session, room, request)
    except Refused as exc:
        return session.error(request.ref, exc.code, exc.detail)
    msg = Msg(
        seq=0, ts=0, sender=user.nick, body=names.one_line(request.text), room=room.name, kind="mod",
        op=request.op, who=request.who, secs=request.secs,
    )  # fmt: skip
    expelled, before = change.expelled, room.state
    then = None if expelled is None else partial(_expel, room, expelled)
    # Now, and not when it is kept: what is asked for next has to build on it, and a ban must not wait for a disk.
    # If it is not kept after all, the hub takes it back.
    room.state = change.state or before
    undo = None if change.state is None else before
    try:
        room.post(msg, session, request.ref, state=change.state, then=then, before=undo)
    except Unavailable as exc:
        room.state = before
        return session.error(request.ref, "unavailable", str(exc))
    return None


def _expel(room: Room, user: User) -> None:
    """Take all sessions of *user* out of *room*; they and the others have seen why."""
    for session in list(user.sessions):
        if session.rooms.get(room.name) is room:
            room.hub.leave(session, room, None)


_Handler = Callable[["Session", Any], None]

# By the type of the message: before `welcome`, and after it.
STRANGERS: dict[type, _Handler] = {wire.Hello: hello, wire.Ping: ping, wire.Pong: pong, wire.Quit: quit_}
HANDLERS: dict[type, _Handler] = {
    **STRANGERS,
    wire.Hello: already,
    wire.Nick: nick,
    wire.Away: away,
    wire.Join: join,
    wire.Part: part,
    wire.Who: who,
    wire.Rooms: rooms,
    wire.Say: say,
    wire.Typing: typing,
    wire.History: page,
    wire.Mod: mod,
}
