"""Where messages are kept beyond the memory of the rooms: the seam, and the store that keeps nothing.

The hub is the one sequencer: it gives a message its place and hands it to the store.  A store that writes answers
later, for many at once (group commit): the room then shows them, in their order, and their senders get ``ok``.

Rule: nothing in this file may know a session.  Read next: ``rooms.py``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from evloop.apps.chat.wire import Durability, Msg

if TYPE_CHECKING:
    from evloop import Reactor
    from evloop.apps.chat.rooms import Entry


class Unavailable(Exception):
    """The store cannot take or give anything now; the text (English) goes into the ``err unavailable``."""


class Sanction(msgspec.Struct, omit_defaults=True):
    """A ban or a mute: of *nick*, and of the user *user* if one had it then; *until* is ms since 1970, 0 for good."""

    nick: str
    user: str | None = None
    until: int = 0


class RoomState(msgspec.Struct, omit_defaults=True):
    """What moderation has made of a room; small, and written down whole with each change.  *ops* are user ids."""

    topic: str = ""
    locked: bool = False
    ops: list[str] = []
    bans: dict[str, Sanction] = {}  # by folded nick
    mutes: dict[str, Sanction] = {}


class Repeat(NamedTuple):
    """A send that may be asked for again: user id, cid, and where it stands."""

    user: str
    cid: str
    msg: Msg


class Loaded(NamedTuple):
    """A room as it was kept.

    Attributes:
        epoch: of its order; a new one if nothing was kept.
        tail: its last messages in order, the newest last; at most as many as a room holds in memory.
        top: the seq of the newest, 0 if there was none.
        state: what moderation has made of it.
        repeats: the sends of the last minutes, oldest first, for those who ask again after a restart.
        kept: what the store wants to find at the room again, as ``Entry.room.kept``.
    """

    epoch: str
    tail: Sequence[Msg] = ()
    top: int = 0
    state: RoomState | None = None
    repeats: Sequence[Repeat] = ()
    kept: Any = None


class Store(Protocol):
    """What keeps messages.  All methods and all callbacks: reactor thread only; none of the methods may block.

    Attributes:
        durability: what an ``ok`` means: ``memory``, it has its place; ``commit``, it is on disk.
    """

    durability: Durability

    def start(
        self,
        reactor: Reactor,
        committed: Callable[[Sequence[Entry]], None],
        failed: Callable[[Sequence[Entry], str], None],
        repeated: Callable[[Entry, Msg], None],
    ) -> None:
        """Begin.  Called once, before anything else.

        *committed(entries)* is to be called with what was appended and is kept now, in the order of the appends; later,
        and not from inside of :meth:`append`.
        *failed(entries, text)* with what is not kept after all; everything appended after them to the same rooms has
        then failed as well, and is among them.
        *repeated(entry, first)*: the same user has used the same cid in the same room before, for *first*, which the
        hub has forgotten.  It is not kept, nor is what was appended after it to the same room, which the hub appends
        again, from within this call, at other places.
        """

    def load(self, name: str, done: Callable[[Loaded | None], None]) -> None:
        """Call *done*, now or later, with the room *name*; None: it cannot be had now."""

    def append(self, entry: Entry) -> bool:
        """Keep ``entry.msg``, the next message of ``entry.room``, and ``entry.state`` if it is not None.

        Return True if it is kept now, as far as `durability` promises; False: *committed* or *failed* follow.
        Unavailable: it cannot be taken; nothing was changed.
        """

    def read(
        self, name: str, epoch: str, after: int, before: int, limit: int, newest: bool,
        done: Callable[[Sequence[Msg] | None], None],
    ) -> None:  # fmt: skip
        """Call *done*, now or later, with at most *limit* messages of the room, in order, ``after < seq < before``.

        *newest*: the last ones of those, else the first ones.  None: it cannot be had now.  What was committed before
        is among them; what rooms have in memory is not asked for.
        """

    def conversations(self, user: str) -> Sequence[tuple[str, str, int, str]]:
        """Return (key, epoch, top, nick of the other) of at most 200 direct conversations of *user*, newest first.

        Those that are in memory need not be among them.  Called at each hello: it has to return within a millisecond.
        """

    def close(self, done: Callable[[], None]) -> None:
        """Keep what was appended, tell *committed*, and then call *done*, now or later.  Nothing is called after it."""


class MemoryStore:
    """Keeps nothing: the rooms hold their last messages, and a room that is let go of begins a new epoch.

    Epochs are random, so that a client that comes back after a restart cannot take one order for another.
    """

    durability: Durability = "memory"

    def start(
        self,
        reactor: Reactor,
        committed: Callable[[Sequence[Entry]], None],
        failed: Callable[[Sequence[Entry], str], None],
        repeated: Callable[[Entry, Msg], None],
    ) -> None:
        """Nothing has to be begun."""

    def load(self, name: str, done: Callable[[Loaded | None], None]) -> None:
        """Call *done* with an empty room."""
        done(Loaded(new_epoch()))

    def append(self, entry: Entry) -> bool:
        """Return True: the room keeps it."""
        return True

    def read(
        self, name: str, epoch: str, after: int, before: int, limit: int, newest: bool,
        done: Callable[[Sequence[Msg] | None], None],
    ) -> None:  # fmt: skip
        """Call *done* with nothing."""
        done(())

    def conversations(self, user: str) -> Sequence[tuple[str, str, int, str]]:
        """Return nothing: the hub knows those in memory."""
        return ()

    def close(self, done: Callable[[], None]) -> None:
        """Call *done*."""
        done()


def new_epoch() -> str:
    """Return the name of a new order: 48 random bits, which no room of this name has had before."""
    return secrets.token_hex(6)
