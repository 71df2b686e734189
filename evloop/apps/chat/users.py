"""Who is there: a user, the sessions that are theirs, and what they have said lately, by cid.

Rule: nothing in this file may send anything.  Read next: ``sessions.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from evloop.apps.chat.names import fold

if TYPE_CHECKING:
    from evloop.apps.chat.sessions import Session


# Where a message got its place, seq, ts and epoch, and the hash of what it said: SipHash with a key of this process.
Said: TypeAlias = "tuple[int, int, str, int]"


def digest_of(body: str, kind: str) -> int:
    """Return what tells a repeat from another message under the same cid."""
    return hash((body, kind))  # with their places: not the same for the two exchanged


class Recent:
    """The last *least* to twice as many sends of a user, by room and cid.

    Two generations: when the younger is full it becomes the older, and that is forgotten at once.  Price: twice the
    memory in the worst case; a queue in exact order would cost a step at each send.

    Attributes:
        least: see above.
        younger, older: the generations; for who cannot spend a call on :meth:`get` and :meth:`add`.
    """

    __slots__ = ("least", "older", "younger")

    def __init__(self, least: int) -> None:
        self.least = least
        self.younger: dict[tuple[str, str], Said] = {}
        self.older: dict[tuple[str, str], Said] = {}

    def get(self, key: tuple[str, str]) -> Said | None:
        """Return what was said under *key* (room, cid), or None."""
        return self.younger.get(key) or self.older.get(key)

    def add(self, key: tuple[str, str], said: Said) -> None:
        """Remember *said* under *key*."""
        if len(self.younger) >= self.least:
            self.turn()
        self.younger[key] = said

    def turn(self) -> None:
        """Begin another generation: the younger is full."""
        self.older, self.younger = self.younger, {}

    def discard(self, key: tuple[str, str]) -> None:
        """Forget *key*: it was not said after all."""
        self.younger.pop(key, None)
        self.older.pop(key, None)

    def __len__(self) -> int:
        return len(self.younger) + len(self.older)


class User:
    """One user; perhaps with several sessions, that share the nick.

    Attributes:
        id: ``g-...`` of a guest, ``u-...`` of an account.
        nick, fold: the name, and the form in which names are compared.
        away: the text that was left, or None.
        sessions: all of theirs, connected or held.
        recent: what was said lately.
    """

    __slots__ = ("id", "nick", "fold", "away", "sessions", "recent")

    def __init__(self, user_id: str, nick: str, recent: Recent) -> None:
        self.id = user_id
        self.nick = nick
        self.fold = fold(nick)
        self.away: str | None = None
        self.sessions: list[Session] = []
        self.recent = recent

    def rename(self, nick: str) -> None:
        """Take another nick."""
        self.nick, self.fold = nick, fold(nick)

    def send(self, message: Any, exclude: Session | None = None) -> None:
        """Send *message* to each session that is connected, but for *exclude*."""
        for session in self.sessions:
            if session is not exclude:
                session.send(message)

    def __repr__(self) -> str:
        return f"<User {self.id} {self.nick!r}>"
