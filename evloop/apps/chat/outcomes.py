"""What becomes of the messages that the store was given: they are shown, refused, or found to be repeats.

Rule: nothing in this file may give a message to a room for the first time.  Read next: ``store.py``, ``rooms.py``.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evloop.apps.chat.rooms import Entry
from evloop.apps.chat.store import Unavailable
from evloop.apps.chat.users import digest_of
from evloop.apps.chat.wire import Msg, Note

if TYPE_CHECKING:
    from evloop.apps.chat.hub import Hub

logger = logging.getLogger("evloop.chat")


class Outcomes:
    """What the store of *hub* calls; see :meth:`evloop.apps.chat.store.Store.start`.  Reactor thread only."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def committed(self, entries: Sequence[Entry]) -> None:
        """Show *entries*, which are kept."""
        hub = self._hub
        hub.pending -= len(entries)
        for entry in entries:
            room = entry.room
            first = room.pending.popleft()
            assert first is entry, "a store tells in the order of the appends"
            room.commit(entry)
            if entry.repeats or entry.session.leaves is not None:
                entry.settled()
            else:  # the same without its calls, which would be a tenth of what 20,000 a second take
                entry.session.owed -= 1
            if not room.pending and (room.private or not room.users):
                hub.rest(room)
        if hub.degraded:
            self._degrade(False, "restored")

    def failed(self, entries: Sequence[Entry], why: str) -> None:
        """Refuse *entries*, which are not kept; *why* is for the log and for everybody's `note`."""
        hub = self._hub
        logger.error("chat: the store has failed for %d messages: %s", len(entries), why)
        hub.counters["store_failed"] += len(entries)
        for entry in entries:
            room = entry.room
            room.pending.remove(entry)
            room.assigned = room.ring.top if not room.pending else room.pending[-1].msg.seq
            hub.rest(room)
        self._not_kept(entries, "the message could not be written down")
        if not hub.degraded:
            self._degrade(True, why)

    def _not_kept(self, entries: Sequence[Entry], detail: str) -> None:
        """Refuse *entries*, which had their places: of each room the last ones; what they have changed is undone."""
        self._hub.pending -= len(entries)
        for entry in reversed(entries):  # each had built on the one before
            if entry.before is not None:
                entry.room.state = entry.before
        for entry in entries:
            self._forget(entry)
            for session, ref in [(entry.session, entry.ref), *entry.repeats]:
                session.error(ref, "unavailable", detail)
            entry.settled()

    def repeated(self, entry: Entry, first: Msg) -> None:
        """Answer *entry* as what it is, a repeat of *first*, and give those behind it other places: none was shown."""
        hub, room = self._hub, entry.room
        waiting, room.pending = room.pending, deque()
        again = waiting.popleft()
        assert again is entry, "a store tells in the order of the appends"
        hub.pending -= 1  # it waits no more; those behind it still do
        room.assigned = room.ring.top
        same = digest_of(first.body, first.kind) == digest_of(entry.msg.body, entry.msg.kind)
        self._note(entry, first)
        for session, ref in [(entry.session, entry.ref), *entry.repeats]:
            if not same:
                session.error(ref, "cid_conflict", first.cid or "")
            elif ref is not None:
                session.send(room.ok(ref, first, dup=True))
        entry.settled()
        while waiting:
            other = waiting[0]
            other.msg.seq = room.assigned + 1
            try:
                hub.store.append(other)
            except Unavailable as exc:
                self._not_kept(waiting, str(exc))  # with all that is behind it and may build on it
                break
            room.assigned = other.msg.seq
            room.pending.append(waiting.popleft())
            self._note(other, other.msg)
        hub.rest(room)

    def _note(self, entry: Entry, msg: Msg) -> None:
        """Remember that *entry* stands where *msg* does."""
        recent = self._hub.remembered(entry.user)
        if entry.key is not None and recent is not None:
            recent.add(entry.key, (msg.seq, msg.ts, entry.room.epoch, digest_of(msg.body, msg.kind)))

    def _forget(self, entry: Entry) -> None:
        """Forget that *entry* was said: it was not kept."""
        recent = self._hub.remembered(entry.user)
        if entry.key is not None and recent is not None:
            recent.discard(entry.key)

    def _degrade(self, degraded: bool, why: str) -> None:
        hub = self._hub
        hub.degraded = degraded
        logger.warning("chat: the store is %s: %s", "degraded" if degraded else "restored", why)
        code: Any = "degraded" if degraded else "restored"
        for session in list(hub.sessions.values()):
            session.send(Note(level="warning" if degraded else "info", code=code, text=why))
