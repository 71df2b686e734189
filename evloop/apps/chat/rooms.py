"""A room: an order of messages, who is in it, and what was said last.

A message gets its place (:meth:`Room.post`), is kept by the store, and then is shown (:meth:`Room.commit`), in the
order of the places.  Without a database both happen in one call.

Rule: nothing in this file may decide who may do what.  Read next: ``requests.py``, ``moderation.py``.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from operator import attrgetter
from sys import getsizeof
from time import time_ns
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from evloop.apps.chat.fanout import FanOut
from evloop.apps.chat.names import conversation_users
from evloop.apps.chat.store import Loaded, RoomState, Unavailable
from evloop.apps.chat.wire import Codec, Event, Msg, Ok

if TYPE_CHECKING:
    from evloop.apps.chat.hub import Hub
    from evloop.apps.chat.sessions import Session
    from evloop.apps.chat.users import User

# What a message takes beside its body: the struct with its fifteen fields, two numbers, the cid, its place in the ring.
_OVERHEAD = 400

_by_fold = attrgetter("fold")


class Entry(Struct, eq=False):
    """A message that has its place and is on its way into the store.

    Attributes:
        room, msg: which, and where.
        user: the id of who said it.
        state: the room's new state, if the message changes it, else None.
        session, ref: who waits for the ``ok``.
        key: of the sender's `Recent`, or None.
        then: called when it is kept and shown, or None.
        before: the state to go back to if it is not kept, or None if the message changes none.
        repeats: (session, ref) of those who have asked for it again meanwhile.
    """

    room: Room
    msg: Msg
    user: str
    session: Session
    ref: int | None
    key: tuple[str, str] | None = None
    state: RoomState | None = None
    then: Callable[[], None] | None = None
    before: RoomState | None = None
    repeats: list[tuple[Session, int | None]] = []

    def settled(self) -> None:
        """All who have waited for the store's word on it are answered."""
        self.session.answered()
        for session, _ in self.repeats:
            session.answered()


class Ring:
    """The last messages of a room, seq ``floor + 1`` to ``top``, within a bound on their number and one on bytes."""

    __slots__ = ("top", "bytes", "_messages", "_sizes", "_most", "_most_bytes")

    def __init__(self, most: int, most_bytes: int, top: int = 0, tail: Iterable[Msg] = ()) -> None:
        self.top = top
        self.bytes = 0
        self._most, self._most_bytes = most, most_bytes
        self._messages: deque[Msg] = deque(maxlen=most)
        self._sizes: deque[int] = deque(maxlen=most)
        for msg in tail:
            self.append(msg)

    @property
    def floor(self) -> int:
        """The seq before the oldest message that is held."""
        return self.top - len(self._messages)

    def append(self, msg: Msg) -> int:
        """Add the next message; return by how many bytes the ring has grown, less than 0 if it has shrunk."""
        messages, sizes = self._messages, self._sizes
        size = _OVERHEAD + getsizeof(msg.body) if msg.file is None else _size(msg)
        before = self.bytes
        held = before + size
        if len(sizes) == self._most:
            held -= sizes[0]  # it goes by itself, with its message
        messages.append(msg)
        sizes.append(size)
        self.top = msg.seq
        while held > self._most_bytes:
            messages.popleft()
            held -= sizes.popleft()
        self.bytes = held
        return held - before

    def drop(self) -> int:
        """Let go of the oldest message; return its bytes, 0 if there is none."""
        if not self._messages:
            return 0
        self._messages.popleft()
        size = self._sizes.popleft()
        self.bytes -= size
        return size

    def between(self, after: int, before: int) -> list[Msg]:
        """Return those with ``after < seq < before``, in order."""
        floor = self.floor
        return list(islice(self._messages, max(after - floor, 0), max(before - 1 - floor, 0)))

    def last(self) -> Msg | None:
        """Return the newest message, or None."""
        return self._messages[-1] if self._messages else None


def _size(msg: Msg) -> int:
    size = _OVERHEAD + getsizeof(msg.body)
    if msg.file is not None:
        size += getsizeof(msg.file.name) + getsizeof(msg.file.ticket)
    return size


def within(messages: Sequence[Msg], most_bytes: int, codec: Codec, *, newest: bool) -> list[Msg]:
    """Return as many of *messages* as have *most_bytes* together when encoded: from the end if *newest*."""
    chosen: list[Msg] = []
    for msg in reversed(messages) if newest else messages:
        most_bytes -= len(codec.encode(msg)) + 1
        if most_bytes < 0:
            break
        chosen.append(msg)
    return chosen[::-1] if newest else chosen


class Gathered:
    """What one session has said in one read and one room, to be shown at the end of the read, or before anything else.

    With 32 messages in a read each of 100 members is gone to once and not 32 times, which is a third of the work.  The
    order stays: nobody else has a turn meanwhile, and what the sender does besides comes after :meth:`flush`.

    Attributes:
        sender: whose read it is; None: nothing is gathered.
        room, messages: what was said, and where; None: nothing yet.
    """

    __slots__ = ("sender", "room", "messages")

    def __init__(self) -> None:
        self.sender: Session | None = None
        self.room: Room | None = None
        self.messages: list[Msg] = []

    def add(self, room: Room, msg: Msg) -> None:
        """Show *msg* in *room* later."""
        if room is not self.room:
            self.flush()
            self.room = room
        self.messages.append(msg)

    def flush(self) -> None:
        """Show what was gathered."""
        if self.messages:
            room, sender, messages = self.room, self.sender, self.messages
            assert room is not None and sender is not None
            self.room, self.messages = None, []
            room.show_many(messages, sender)

    def end(self) -> None:
        """Show what was gathered, and gather no more."""
        try:
            self.flush()
        finally:
            self.sender = None


class Room:
    """One room.

    Attributes:
        private: True for a direct conversation.
        name, epoch: which, and of what order.
        ring: the last messages; ``ring.top`` is the newest that was shown.
        assigned: the last seq that was given, ``>= ring.top``.
        users: who is in it, with the number of their sessions in it.
        state: what moderation has made of it, as it is in force.
        pending: what waits for the store, in order.
        counted: the number of members that was last told, while it is not told one by one.
        kept: the store's, see Loaded.
    """

    __slots__ = (
        *("hub", "name", "epoch", "ring", "assigned", "users", "state", "pending", "counted"),
        "kept",
        *("_fanout", "_ts", "_sorted"),
    )

    private = False

    def __init__(self, hub: Hub, name: str, loaded: Loaded) -> None:
        limits = hub.limits
        self.hub = hub
        self.name = name
        self.epoch = loaded.epoch
        self.ring = Ring(limits.room_messages, limits.room_bytes, loaded.top, loaded.tail)
        self.assigned = loaded.top
        self.users: dict[User, int] = {}
        self.state = RoomState() if loaded.state is None else loaded.state
        self.pending: deque[Entry] = deque()
        self.counted = 0
        self.kept = loaded.kept
        self._fanout = FanOut()
        self._ts = 0
        self._sorted: list[User] | None = None

    def __repr__(self) -> str:
        return f"<Room {self.name!r} {self.epoch}/{self.ring.top} {len(self.users)} users>"

    # --- messages ----------------------------------------------------------------------------------------------

    def post(
        self,
        msg: Msg,
        session: Session,
        ref: int | None,
        key: tuple[str, str] | None = None,
        state: RoomState | None = None,
        then: Callable[[], None] | None = None,
        before: RoomState | None = None,
    ) -> None:
        """Give *msg* its place, seq and time; *session* gets ``ok`` with *ref* when it is kept.

        Time (ms) does not go back within a room.

        Args: key, state, then, before: as for an Entry.
        Raises: Unavailable: it was not taken.
        """
        hub = self.hub
        if hub.closing:
            raise Unavailable("the server stops")
        ts = time_ns() // 1_000_000
        if ts > self._ts:
            self._ts = ts
        else:
            ts = self._ts
        msg.ts = ts
        msg.seq = seq = self.assigned + 1
        if hub.keeps_nothing and then is None:
            self.assigned = seq
            return self.shown(msg, session, ref)
        if hub.pending >= hub.limits.pending:
            raise Unavailable(f"{hub.pending} messages wait for the database")
        assert session.user is not None
        entry = Entry(self, msg, session.user.id, session, ref, key, state, then, before)
        kept = hub.store.append(entry)
        self.assigned = seq
        if kept:
            return self.commit(entry)
        hub.pending += 1
        session.owed += 1
        return self.pending.append(entry)

    def commit(self, entry: Entry) -> None:
        """Show what is kept, and answer all who wait for that."""
        msg = entry.msg
        self.shown(msg, entry.session, entry.ref)
        if entry.repeats:
            for other, ref in entry.repeats:
                if ref is not None:
                    other.send(self.ok(ref, msg, dup=True))
        if entry.then is not None:
            self.hub.gathered.flush()  # who is taken out has seen why
            entry.then()

    def shown(self, msg: Msg, sender: Session, ref: int | None) -> None:
        """Show *msg*: to its sender as ``ok``, at this place in the order, to all others as ``msg``."""
        hub, gathered, conn = self.hub, self.hub.gathered, sender.conn
        held = hub.kept_bytes = hub.kept_bytes + self.ring.append(msg)
        hub.said += 1
        if gathered.room is self and gathered.sender is sender:
            gathered.messages.append(msg)
        elif self.private:
            self.show(msg, sender)
        elif gathered.sender is sender:
            gathered.add(self, msg)
        else:
            self._fanout.send(msg, conn)
        if ref is not None and conn is not None:
            ok = self.ok(ref, msg) if self.private else Ok(ref=ref, seq=msg.seq, epoch=self.epoch, ts=msg.ts)
            conn.send(sender.payload(ok))
        if held > hub.limits.total_bytes:
            hub.relieve(self)

    def ok(self, ref: int, msg: Msg, dup: bool = False) -> Ok:
        """Return the answer to who has said *msg*."""
        return Ok(ref=ref, seq=msg.seq, epoch=self.epoch, ts=msg.ts, dup=dup)

    def show(self, msg: Msg, sender: Session) -> None:
        """Send *msg* to all but *sender*."""
        self._fanout.send(msg, sender.conn)

    def show_many(self, messages: Sequence[Msg], sender: Session) -> None:
        """Send *messages* to all but *sender*."""
        self._fanout.send_many(messages, sender.conn)

    def send(self, message: Any, exclude: Session | None = None) -> None:
        """Send *message* to each session in the room, but for *exclude*."""
        self._fanout.send(message, None if exclude is None else exclude.conn)

    # --- who is in it ------------------------------------------------------------------------------------------

    def attach(self, session: Session) -> None:
        """Let *session*, which is a member, have what is shown from now on."""
        assert session.conn is not None and session.variant is not None
        self._fanout.add(session.variant, session.conn)

    def detach(self, session: Session) -> None:
        """Let *session* have no more; it stays a member."""
        if session.conn is not None and session.variant is not None:
            self._fanout.discard(session.variant, session.conn)

    def enter(self, user: User) -> bool:
        """Count a session of *user*; return whether it is the first one here."""
        count = self.users.get(user, 0)
        self.users[user] = count + 1
        if count == 0 and self._sorted is not None:
            insort(self._sorted, user, key=_by_fold)
        return count == 0

    def leave(self, user: User) -> bool:
        """Count a session of *user* no more; return whether it was the last one here."""
        count = self.users.get(user, 0)
        if count > 1:
            self.users[user] = count - 1
            return False
        self.users.pop(user, None)
        if count == 1 and self._sorted is not None:
            del self._sorted[bisect_left(self._sorted, user.fold, key=_by_fold)]  # no two have the same
        return count == 1

    def renamed(self) -> None:
        """Somebody in the room has another nick."""
        self._sorted = None

    def by_name(self) -> list[User]:
        """Return the users, by folded nick; not to be changed.

        Kept from then on: each one who joins is shown the first ones, and thousands do at once after a restart.
        """
        if self._sorted is None:
            self._sorted = sorted(self.users, key=_by_fold)
        return self._sorted

    @property
    def told_state(self) -> RoomState:
        """The state at ``ring.top``, without the acts that wait for the store: what clients are told.

        `state` has them, and is what is in force.  But an act that is not kept is told to nobody, nor that it was
        undone; and one that is kept comes to all behind what they were told, as its message.  Price: who asks goes
        through what waits in this room, half a millisecond for the 20,000 of ``ChatLimits.pending``.
        """
        return next((entry.before for entry in self.pending if entry.before is not None), self.state)

    def tell(self, event: Event, exclude: Session | None = None) -> None:
        """Send a ``join``, ``part`` or ``lost``, unless so many are here that a ``count`` now and then has to do."""
        if len(self.users) > self.hub.limits.quiet_members:
            self.hub.uncounted.add(self)
        else:
            self.send(event, exclude)

    @property
    def idle(self) -> bool:
        """True if nobody is in it and nothing is on its way: it may be let go of."""
        return not self.users and not self.pending


class Conversation(Room):
    """The direct conversation of two users: its members are their sessions, whoever is there."""

    __slots__ = ("ids", "nicks")

    private = True

    def __init__(self, hub: Hub, name: str, loaded: Loaded) -> None:
        super().__init__(hub, name, loaded)
        ids = conversation_users(name)
        assert ids is not None
        self.ids = ids
        self.nicks: dict[str, str] = {}  # by id: what they were called when they last said something here, or were told
        last = self.ring.last()
        if last is not None and last.user is not None:
            self.nicks = {self.other(last.user): last.to or "", last.user: last.sender}

    def other(self, user_id: str) -> str:
        """Return the id of the one who is not *user_id*; with oneself that is the same."""
        return self.ids[1] if self.ids[0] == user_id else self.ids[0]

    def nick_of(self, user_id: str) -> str:
        """Return what *user_id* is called, or was when last heard of here."""
        user = self.hub.users.get(user_id)
        return self.nicks.get(user_id, "") if user is None else user.nick

    def ok(self, ref: int, msg: Msg, dup: bool = False) -> Ok:
        """Return the answer to who has said *msg*; it has the key, which a client may not know yet."""
        return Ok(ref=ref, seq=msg.seq, epoch=self.epoch, ts=msg.ts, dup=dup, dm=self.name)

    def show(self, msg: Msg, sender: Session) -> None:
        """Send *msg* to all sessions of both but *sender*."""
        assert msg.user is not None
        self.nicks = {self.other(msg.user): msg.to or "", msg.user: msg.sender}
        self.send(msg, sender)

    def send(self, message: Any, exclude: Session | None = None) -> None:
        """Send *message* to all sessions of both but *exclude*."""
        for user_id in {*self.ids}:
            user = self.hub.users.get(user_id)
            if user is not None:
                user.send(message, exclude)

    def attach(self, session: Session) -> None:
        """Nothing to do: whoever is connected is shown what comes."""

    @property
    def idle(self) -> bool:
        """True if nothing is on its way: who comes back finds it in the store, if there is one."""
        return not self.pending
