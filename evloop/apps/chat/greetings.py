"""Coming and going: hello, who somebody is, the first nick, signs of life, quit.

Rule: nothing in this file may know a room's messages.  Read next: ``requests.py``, which answers the rest.
"""

from __future__ import annotations

import logging
from functools import partial
from time import time_ns
from typing import TYPE_CHECKING

import evloop
from evloop.apps.chat import names, wire
from evloop.apps.chat.names import fold
from evloop.apps.chat.texts import language
from evloop.apps.chat.users import User

if TYPE_CHECKING:
    from evloop.apps.chat.sessions import Session

logger = logging.getLogger("evloop.chat")


class AuthFailed(Exception):
    """Raised by a token hook: this client is not let in.  The text goes into the log, and not to the client."""


def hello(session: Session, request: wire.Hello) -> None:
    """Let a client in, or resume its session."""
    hub, resume = session.hub, request.resume
    session.lang = language(request.lang)
    if not request.min <= wire.VERSION <= request.v:
        return session.bye(wire.BAD_VERSION, ref=request.ref, server_min=wire.VERSION, server_max=wire.VERSION)
    assert session.transport is not None
    try:
        account = None if hub.authenticate is None else hub.authenticate(request, session.transport.host)
    except AuthFailed as exc:
        logger.info("chat: token of %s refused: %s", session.transport.host or "a local peer", exc)
        return session.bye(wire.AUTH, ref=request.ref)
    # The key alone takes up a guest's session, the password was said when it began; an account's takes its token, too.
    if resume is not None and hub.resume(session, resume, _user_id(account, resume.key)):
        return _welcome(session, request, resumed=True)
    if account is None and not hub.admits(request):
        return session.bye(wire.AUTH, ref=request.ref)
    key = names.new_key() if resume is None or account is not None else resume.key
    user_id = _user_id(account, key)
    user = hub.users.get(user_id)
    if user is None:
        nick = _first_nick(session, request, account)
        if nick is None:
            return None
        user = User(user_id, nick, hub.recent_of(user_id))
    hub.welcome(session, user, key)
    return _welcome(session, request, resumed=False)


def _user_id(account: str | None, key: str) -> str:
    return names.guest_id(key) if account is None else names.account_id(account)


def _first_nick(session: Session, request: wire.Hello, account: str | None) -> str | None:
    """Return the nick of a new user; None: the one that was asked for cannot be had, and that was said."""
    taken = session.hub.nicks
    if request.nick is not None:
        return request.nick if nick_is_free(session, request.ref, request.nick, None) else None
    if account is not None and names.nick_fault(account) is None and fold(account) not in taken:
        return account
    nick = names.guest_nick(session.lang)
    while fold(nick) in taken:
        nick += names.guest_nick("en")[-5:]  # 65,536 guests at once are more than there are names of that form
    return nick


def nick_is_free(session: Session, ref: int | None, nick: str, user: User | None) -> bool:
    """Return whether *user* (None: somebody new) may be called *nick*; if not, why was said."""
    fault = names.nick_fault(nick)
    if fault is not None:
        session.error(ref, "nick_bad", fault)
        return False
    if session.hub.nicks.get(fold(nick), user) is not user:
        session.error(ref, "nick_taken", nick)
        return False
    return True


def _welcome(session: Session, request: wire.Hello, *, resumed: bool) -> None:
    hub, user = session.hub, session.user
    assert user is not None
    session.send(
        wire.Welcome(
            ref=request.ref,
            v=wire.VERSION,
            server=f"evloop/{evloop.__version__}",
            node=hub.node,
            sid=session.sid,
            resume_key=session.key,
            nick=user.nick,
            user=user.id,
            resumed=resumed,
            durability=hub.store.durability,
            ping_s=int(hub.limits.ping_after),
            now=time_ns() // 1_000_000,
            limits=hub.wire_limits,
            rooms=sorted(session.rooms) if resumed else [],
            dms=hub.conversations(user),
            motd=hub.motd,
        )
    )


def already(session: Session, request: wire.Hello) -> None:
    """Answer a second hello."""
    session.error(request.ref, "already", "hello")


def ping(session: Session, request: wire.Ping) -> None:
    """Answer a sign of life with another."""
    session.send(wire.Pong(ref=request.ref, n=request.n))


def pong(session: Session, request: wire.Pong) -> None:
    """Take a sign of life: it was noted when it came."""


def quit_(session: Session, request: wire.Quit) -> None:
    """Let a client go, for good, once it knows what became of what it has said."""
    then = partial(_quit, session, request)
    if not session.leave(then):
        then()


def _quit(session: Session, request: wire.Quit) -> None:
    if session.user is not None:
        for room in list(session.rooms.values()):
            session.hub.leave(session, room, "part", names.one_line(request.why))
    session.bye(wire.QUIT, ref=request.ref)
