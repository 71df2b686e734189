"""The hub: all users, sessions and rooms of a server, and the clock that asks who is still there.

Rule: nothing in this file may answer a request or know a socket.
Read next: ``outcomes.py``, ``server.py``.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import secrets
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from itertools import islice, takewhile
from random import randrange
from typing import TYPE_CHECKING, Any, NamedTuple

from evloop.apps.chat import names, texts, wire
from evloop.apps.chat.limits import ChatLimits
from evloop.apps.chat.outcomes import Outcomes
from evloop.apps.chat.rooms import Conversation, Gathered, Room
from evloop.apps.chat.sessions import ENDED, HELD, OPEN, STRANGER, Session, Transport
from evloop.apps.chat.store import Loaded, MemoryStore, Store
from evloop.apps.chat.users import Recent, User, digest_of
from evloop.apps.chat.wire import Event, Ping

if TYPE_CHECKING:
    import evloop

logger = logging.getLogger("evloop.chat")

# Seconds between two looks at all that has a deadline.  Every bound on time is as exact as that, and none needs to be
# more so; a timer for each of 10,000 sessions would be 10,000 entries of the heap that each message moves.
TICK = 1.0

# Ticks between two looks at the idle ones: 10,000 of them take about a millisecond.
IDLE_TICKS = 5

# What is called with each ``hello``, one that resumes a session as well, and the peer's address to say who somebody is:
# returns the name of the account, or None for a guest, or raises AuthFailed.  It is called in the reactor's thread and
# must not block.
Authenticate = Callable[[wire.Hello, str], "str | None"]


class Loading(NamedTuple):
    """A room that the store was asked for: *calls* get it, or None at *until*, in seconds of the reactor's clock."""

    until: float
    calls: list[Callable[[Room | None], None]]


class Hub:
    """Everything that the sessions share.  Reactor thread only, but for :meth:`stats`.

    Attributes:
        users, nicks: who is there, by id and by folded nick.
        sessions: those that are open or held, by sid.
        strangers, held: sessions with the time by which they have to be welcomed, or resumed; the nearest first.
        choked: sessions with too much output, and since which tick.
        gathered: what is said in the read that is being answered.
        talks: the direct conversations in memory, by the id of each of their users.
        rooms: those in memory, by name, with direct conversations; `idle` are those that may be let go of, the one
            that was left first in front.
        uncounted: large rooms in which somebody has come or gone since they were told how many they are.
        pending: how many messages wait for the store.
        kept_bytes: what all rings hold together.
        tick: seconds since the start.
    """

    def __init__(
        self,
        reactor: evloop.Reactor,
        *,
        limits: ChatLimits | None = None,
        store: Store | None = None,
        password: str = "",
        authenticate: Authenticate | None = None,
        motd: str = texts.READY,
        lang: str = "en",
        node: str = "n1",
    ) -> None:
        self.reactor = reactor
        self.limits = limits or ChatLimits()
        self.store: Store = store or MemoryStore()
        self.keeps_nothing = type(self.store) is MemoryStore  # there is nothing to wait for, nor to tell it
        self.authenticate = authenticate
        self.motd = motd
        self.lang = texts.language(lang)
        self.node = node
        self._password = password.encode()
        self.users: dict[str, User] = {}
        self.nicks: dict[str, User] = {}
        self.sessions: dict[str, Session] = {}
        self.strangers: OrderedDict[Session, float] = OrderedDict()
        self.held: OrderedDict[Session, float] = OrderedDict()
        self.choked: dict[Session, int] = {}
        self.rooms: dict[str, Room] = {}
        self.idle: OrderedDict[str, Room] = OrderedDict()
        self.gathered = Gathered()
        self.talks: defaultdict[str, set[str]] = defaultdict(set)
        self.uncounted: set[Room] = set()
        self._telling: set[str] = set()  # just loaded, and not all who have waited for it are in it yet
        self._loading: dict[str, Loading] = {}  # the one that was asked for first in front
        self._departed: OrderedDict[str, tuple[float, Recent]] = OrderedDict()
        self.pending = self.kept_bytes = self.said = self.throttled = self.tick = 0
        self.counters: Counter[str] = Counter()
        self.degraded = self.closing = self.said_goodbye = False
        self._timer: evloop.reactor.TimerHandle | None = None
        self.wire_limits = _told(self.limits)

    def start(self) -> None:
        """Begin; called once."""
        outcomes = Outcomes(self)
        self.store.start(self.reactor, outcomes.committed, outcomes.failed, outcomes.repeated)
        self._timer = self.reactor.call_later(TICK, self._ticked)

    def stats(self) -> dict[str, int]:
        """Return what was counted, all ints.  Any thread.

        - now: ``users``, ``sessions`` (``sessions_held`` of them without a connection), ``strangers``, ``rooms`` in
          memory, ``kept_bytes`` of their messages, ``pending`` for the store, ``choked`` by their output.
        - ever: ``said``; ``throttled``, messages after which a client was read more slowly; ``resumed``;
          ``err_<code>`` and ``bye_<code>`` for each that was sent; ``store_failed``.
        """
        return {
            "users": len(self.users),
            "sessions": len(self.sessions),
            "sessions_held": len(self.held),
            "strangers": len(self.strangers),
            "rooms": len(self.rooms),
            "kept_bytes": self.kept_bytes,
            "pending": self.pending,
            "choked": len(self.choked),
            "said": self.said,
            "throttled": self.throttled,
            "resumed": 0,
            **self.counters,
        }

    # --- sessions ----------------------------------------------------------------------------------------------

    def connected(self, transport: Transport) -> Session:
        """Return a new session for *transport*, a stranger's."""
        session = Session(self, transport)
        self.strangers[session] = self.reactor.time() + self.limits.hello_timeout
        return session

    def admits(self, hello: wire.Hello) -> bool:
        """Return whether *hello* has the password, if there is one."""
        given = (hello.password or "").encode()
        return not self._password or hmac.compare_digest(given, self._password)

    def welcome(self, session: Session, user: User, key: str) -> None:
        """Make a stranger a session of *user*."""
        session.sid, session.key, session.user = f"{self.node}-{secrets.token_hex(6)}", key, user
        user.sessions.append(session)
        self.users[user.id] = self.nicks[user.fold] = user
        self._departed.pop(user.id, None)
        self._open(session)

    def resume(self, session: Session, resume: wire.Resume, user_id: str) -> bool:
        """Let a stranger, *user_id*, take up the session that is meant, if it is there, theirs, and has this key."""
        old = self.sessions.get(resume.sid)
        if old is None or not hmac.compare_digest(old.key.encode(), resume.key.encode()):
            return False
        if old.user is None or old.user.id != user_id:
            return False
        if old.state is OPEN:
            # Its connection is one that nobody has told is dead; or two tabs of a browser, of which the later goes on.
            transport = old.transport
            old.send(wire.Bye(code=wire.REPLACED, text=texts.text(wire.REPLACED, old.lang)))
            self.counters[f"bye_{wire.REPLACED}"] += 1
            self._detach(old)
            old.closed(HELD)  # for this moment: `disconnected` would end it where none are held
            if transport is not None:
                transport.close(wire.REPLACED, "replaced")
        self.held.pop(old, None)
        session.take_over(old)
        self.counters["resumed"] += 1
        self._open(session)
        return True

    def _open(self, session: Session) -> None:
        self.strangers.pop(session, None)
        self.sessions[session.sid] = session
        session.opened()

    def disconnected(self, session: Session, *, resumable: bool = True) -> None:
        """A session has lost its connection, or is about to: hold it, or end it."""
        self.strangers.pop(session, None)
        self._detach(session)
        if session.state is STRANGER or session.user is None:
            return session.closed(ENDED)
        if self.closing or not resumable or not self.limits.grace:
            return self.end(session, "lost")
        session.closed(HELD)
        self.held[session] = self.reactor.time() + self.limits.grace
        if len(self.held) > self.limits.held_sessions:
            self.end(next(iter(self.held)), "lost")
        return None

    def _detach(self, session: Session) -> None:
        """Let nothing more come to the connection of *session*."""
        self.choked.pop(session, None)
        self.gathered.flush()  # what was said before is shown before anybody hears that this one has gone
        for room in session.rooms.values():
            room.detach(session)

    def end(self, session: Session, how: Any, why: str = "") -> None:
        """End a session for good; each room of its user hears *how* (``part``, ``lost``), if it was the last there."""
        user = session.user
        self.held.pop(session, None)
        self.sessions.pop(session.sid, None)
        if user is None:
            return session.closed(ENDED)
        for room in list(session.rooms.values()):
            self.leave(session, room, how, why)
        user.sessions.remove(session)
        session.closed(ENDED)
        session.user = None
        if not user.sessions:
            del self.users[user.id], self.nicks[user.fold]
            self._depart(user.id, user.recent)
        return None

    def recent_of(self, user_id: str) -> Recent:
        """Return what a user has said lately, who may not be here."""
        recent = self.remembered(user_id)
        return Recent(self.limits.repeats) if recent is None else recent

    def remembered(self, user_id: str) -> Recent | None:
        """Return what a user has said lately, who may have left; None: that is forgotten."""
        user = self.users.get(user_id)
        if user is not None:
            return user.recent
        departed = self._departed.get(user_id)
        return None if departed is None else departed[1]

    def _depart(self, user_id: str, recent: Recent) -> None:
        """Remember for a while what somebody who is not here has said."""
        self._departed[user_id] = (self.reactor.time() + self.limits.repeat_seconds, recent)
        self._departed.move_to_end(user_id)
        if len(self._departed) > self.limits.departed_users:
            self._departed.popitem(last=False)

    # --- rooms -------------------------------------------------------------------------------------------------

    def leave(self, session: Session, room: Room, how: Any, why: str = "") -> None:
        """Take *session* out of *room*; those who are left hear *how*, if its user has no other session there.

        None: they know it already.  A server that stops tells nobody: all are about to leave.
        """
        user = session.user
        assert user is not None
        session.rooms.pop(room.name, None)
        room.detach(session)
        if room.leave(user) and how is not None and not self.closing:
            room.tell(Event(e=how, room=room.name, who=user.nick, text=why or None))
        self.rest(room)

    def rest(self, room: Room) -> None:
        """Put *room* among those that may be let go of, the last one, if it may be."""
        if room.idle and room.name in self.rooms:
            self.idle[room.name] = room
            self.idle.move_to_end(room.name)

    def with_room(self, name: str, then: Callable[[Room | None], None]) -> bool:
        """Call *then* with the room or conversation *name*, made or loaded; None: it cannot be had.

        Return whether it was called; False: it will be, when the store has answered.
        """
        room = self.rooms.get(name)
        if room is None:
            waiting = self._loading.get(name)
            if waiting is not None:
                waiting.calls.append(then)
                return False
            if len(self.rooms) + len(self._loading) < self.limits.rooms or self._let_go():
                new = self._loading[name] = Loading(self.reactor.time() + self.limits.dead_after, [then])
                self.store.load(name, lambda loaded: self._loaded(name, new, loaded))
                return self._loading.get(name) is not new
        then(room)
        return True

    def _loaded(self, name: str, loading: Loading, loaded: Loaded | None) -> None:
        if self._loading.get(name) is not loading:
            return  # too late: it was given up, and another answer would be a second room, or an older one
        room: Room | None = None
        if loaded is not None:
            room = self.rooms[name] = (Conversation if name.startswith("@") else Room)(self, name, loaded)
            self.kept_bytes += room.ring.bytes
            for user_id in room.ids if isinstance(room, Conversation) else ():
                self.talks[user_id].add(name)
            self._remember(room, loaded)
        with contextlib.ExitStack() as stack:  # each is told, whatever another one raises
            if room is not None:
                stack.callback(self.rest, room)
                stack.callback(self._telling.discard, name)
                self._telling.add(name)
            for then in reversed(self._loading.pop(name).calls):
                stack.callback(then, room)

    def _give_up(self, now: float) -> None:
        """Have nobody wait any longer for a room that the store has not given: who waits is not heard, nor asked."""
        late = list(takewhile(lambda item: item[1].until <= now, self._loading.items()))
        if late:
            seconds = self.limits.dead_after
            logger.error("chat: the store has not given %d rooms within %g s (dead_after)", len(late), seconds)
        for name, loading in late:
            self._loaded(name, loading, None)

    def _remember(self, room: Room, loaded: Loaded) -> None:
        for user_id, cid, msg in loaded.repeats:
            recent = self.recent_of(user_id)
            recent.add((room.name, cid), (msg.seq, msg.ts, room.epoch, digest_of(msg.body, msg.kind)))
            if user_id not in self.users:
                self._depart(user_id, recent)

    def _let_go(self) -> bool:
        """Let go of the room that has been empty for longest; return whether there was one."""
        while self.idle:
            name, room = self.idle.popitem(last=False)
            if room.idle and self.rooms.get(name) is room and name not in self._telling:
                del self.rooms[name]
                self.uncounted.discard(room)
                self.kept_bytes -= room.ring.bytes
                for user_id in room.ids if isinstance(room, Conversation) else ():
                    self.talks[user_id].discard(name)
                    if not self.talks[user_id]:
                        del self.talks[user_id]
                return True
        return False

    def relieve(self, growing: Room) -> None:
        """Come down to the bound on all messages in memory: empty rooms go first, then *growing*'s own oldest ones."""
        limit = self.limits.total_bytes
        self.idle.pop(growing.name, None)  # it is in use, whoever is in it
        while self.kept_bytes > limit and self._let_go():
            pass
        while self.kept_bytes > limit:
            freed = growing.ring.drop()
            if not freed:
                return
            self.kept_bytes -= freed
        self.rest(growing)

    def conversations(self, user: User) -> list[wire.Conversation]:
        """Return direct conversations of *user*: at most a page of those in memory, and one of those in the store."""
        found: dict[str, wire.Conversation] = {}
        for key, epoch, top, who in self.store.conversations(user.id):
            found[key] = wire.Conversation(dm=key, who=who, epoch=epoch, top=top)
        for key in islice(self.talks.get(user.id, ()), wire.MAX_PAGE):
            room = self.rooms[key]
            if isinstance(room, Conversation) and room.ring.top:
                who = room.nick_of(room.other(user.id))
                found[key] = wire.Conversation(dm=key, who=who, epoch=room.epoch, top=room.ring.top)
        return list(found.values())

    # --- time --------------------------------------------------------------------------------------------------

    def _ticked(self) -> None:
        self.tick += 1
        self._timer = self.reactor.call_later(TICK, self._ticked)
        now = self.reactor.time()
        while self.strangers and next(iter(self.strangers.values())) <= now:
            session = next(iter(self.strangers))
            session.bye(wire.PROTOCOL, f"no hello within {self.limits.hello_timeout:g} s")
            self.strangers.pop(session, None)
        while self.held and next(iter(self.held.values())) <= now:
            self.end(next(iter(self.held)), "lost")
        while self._departed and next(iter(self._departed.values()))[0] <= now:
            self._departed.popitem(last=False)
        self._give_up(now)
        for session, since in list(self.choked.items()):
            if self.tick - since >= self.limits.stall:
                session.bye(wire.SLOW)
        if self.tick % IDLE_TICKS == 0:
            self._look_at_idle()
        if self.uncounted and self.tick % max(int(self.limits.count_interval / TICK), 1) == 0:
            self._tell_counts()

    def _look_at_idle(self) -> None:
        ping, dead, tick = self.limits.ping_after, self.limits.dead_after, self.tick
        silent = [session for session in self.sessions.values() if tick - session.heard >= ping]
        for session in silent:
            if session.conn is None:
                continue
            if session.waits:  # it is not heard; but who wants to leave does so in the end
                if tick - session.heard >= dead:
                    session.let_go()
            elif tick - session.heard >= dead:
                session.bye(wire.NO_PONG)
            elif session.pinged <= session.heard:
                session.pinged = tick
                session.send(Ping(n=tick))

    def _tell_counts(self) -> None:
        rooms, self.uncounted = self.uncounted, set()
        for room in rooms:
            if len(room.users) != room.counted:
                room.counted = len(room.users)
                room.send(Event(e="count", room=room.name, n=room.counted))

    def say_goodbye(self) -> None:
        """Tell each client that the server stops, and when to come back: each at its own time, 1 ms apart on average.

        Idempotent; the clock stops with it.
        A thousand that connect again in the same millisecond are a storm, and each would be late.
        """
        if self.said_goodbye:
            return
        self.said_goodbye = True
        self.stop()
        connected = [session for session in (*self.sessions.values(), *self.strangers) if session.conn is not None]
        for session in connected:
            session.bye(wire.SHUTDOWN, after_ms=randrange(max(len(connected), 1000)))
        for session in list(self.held):
            self.end(session, "lost")

    def close(self, done: Callable[[], None]) -> None:
        """Take no more messages, and call *done*, now or later, when all that were taken are kept.  Called once."""
        self.closing = True
        self.store.close(done)

    def stop(self) -> None:
        """Stop the clock.  Idempotent."""
        if self._timer is not None:
            self._timer.cancel()


def _told(limits: ChatLimits) -> wire.ServerLimits:
    """Return what ``welcome`` says of *limits*."""
    return wire.ServerLimits(
        frame=wire.MAX_MESSAGE,
        reply=wire.MAX_REPLY,
        body=wire.MAX_BODY,
        nick=names.MAX_COLUMNS,
        room=names.MAX_ROOM_BYTES,
        rooms=limits.session_rooms,
        history=limits.room_messages,
        rate=wire.Rate(burst=limits.burst, per_s=limits.rate),
    )
