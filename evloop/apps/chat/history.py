"""Pages of what was said: from the memory of a room, and from the store before that.

Rule: nothing in this file may change a room.  Read next: ``rooms.py``, ``store.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evloop.apps.chat.rooms import Room, within
from evloop.apps.chat.wire import JSON, History, Join, Msg, Page

if TYPE_CHECKING:
    from evloop.apps.chat.fanout import Variant
    from evloop.apps.chat.sessions import Session


def recover(room: Room, request: Join, variant: Variant | None) -> tuple[bool, list[Msg], bool]:
    """Return what a `joined` tells of the past: whether that is all since ``request.since``; it; whether there is more.

    All or nothing: a part of what was missed would look like all of it.
    """
    ring, since, limits = room.ring, request.since, room.hub.limits
    codec = JSON if variant is None else variant.codec
    if since is not None and since.epoch == room.epoch and ring.floor <= since.seq <= ring.top:
        missed = ring.between(since.seq, ring.top + 1)
        fitting = within(missed, limits.recover_bytes, codec, newest=False)
        if len(fitting) == len(missed):
            return True, missed, _more_before(room, since.seq + 1)
    last = ring.between(ring.top - request.limit, ring.top + 1)
    last = within(last, limits.recover_bytes, codec, newest=True)
    return False, last, _more_before(room, last[0].seq if last else ring.top + 1)


def _more_before(room: Room, seq: int) -> bool:
    """Return whether there is something before *seq* that `history` can give."""
    return seq - 1 > (room.ring.floor if room.hub.store.durability == "memory" else 0)


def history(session: Session, request: History, room: Room | None) -> None:
    """Answer *request* for *room*; None: it cannot be had now."""
    if room is None:
        return session.error(request.ref, "unavailable", "the conversation")
    ring = room.ring
    low, high = _wanted(request, ring.top)
    memory = room.hub.store.durability == "memory"
    if (request.after or 0) > ring.top or (memory and _is_gone(request, high, ring.floor)):
        kept = f"only messages {ring.floor + 1} to {ring.top} are" if ring.top > ring.floor else "nothing is"
        return session.error(request.ref, "gone", kept)
    # The ring's part now: it moves on while the store is read.
    newer = ring.between(low, high)
    first = newer[0].seq if newer else high
    if memory or first - 1 <= low:
        return _send(session, request, room, newer, low)

    def done(older: Sequence[Msg] | None) -> None:
        session.answered()  # which has its effect in a later turn
        if older is None:
            return session.error(request.ref, "unavailable", "older messages")
        # What is missing was too old to be kept: it is the beginning that goes, so nothing is before what is there.
        missing = len(older) < first - 1 - low
        if missing and request.after is not None:
            return session.error(request.ref, "gone", f"messages after {low} are not kept")
        return _send(session, request, room, [*older, *newer], low, first=missing)

    newest = request.after is None and request.around is None
    session.owed += 1
    return room.hub.store.read(room.name, room.epoch, low, first, first - 1 - low, newest, done)


def _wanted(request: History, top: int) -> tuple[int, int]:
    """Return the seqs between which the page lies, both exclusive."""
    limit = request.limit
    if request.after is not None:
        low = request.after
    elif request.around is not None:
        low = max(request.around - limit // 2 - 1, 0)
    else:
        high = top + 1 if request.before is None else min(request.before, top + 1)
        return max(high - 1 - limit, 0), high
    return low, min(low + limit, top) + 1


def _is_gone(request: History, high: int, floor: int) -> bool:
    """Return whether a page that begins or ends where it has to would have a hole there."""
    if request.after is not None:
        return request.after < floor
    if request.around is not None:
        return request.around <= floor
    return request.before is not None and 1 < high <= floor + 1


def _send(session: Session, request: History, room: Room, items: list[Msg], low: int, *, first: bool = False) -> None:
    """Send the page of *items*, those after *low*, or as many of them as fit; *first*: nothing older is kept."""
    newest = request.after is None and request.around is None
    codec = JSON if session.variant is None else session.variant.codec
    cut = within(items, room.hub.limits.page_bytes, codec, newest=newest)
    session.send(
        Page(
            ref=request.ref,
            room=None if room.private else room.name,
            dm=room.name if room.private else None,
            epoch=room.epoch,
            items=cut,
            more_before=not (first and cut == items) and _more_before(room, cut[0].seq if cut else low + 1),
            more_after=(cut[-1].seq if cut else low) < room.ring.top,
        )
    )
