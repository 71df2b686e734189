"""The rooms that a person has open: which one is shown, what is new in the others, and what was seen before.

Rule: nothing in this file may print, or know a terminal or a connection.  Read next: ``chat_talk.py``.
"""

from __future__ import annotations

import time
from collections import deque

from evloop.cli.chat_lines import Line, day_of

# Lines of a room that are kept for when it is shown again: some twenty screens.
KEPT = 500

# Lines already seen that are shown again for the context of what is new.
CONTEXT = 5


class Pane:
    """One open room, or the conversation with one person.

    Attributes:
        name: the room's name, or "" of a conversation; *peer* is the other one's nick, or "".
        unread, mentions: what came while it was not shown.
        day: the local day of the last message, as a text; at first today.
        first: the number of the oldest message known here, or None: what /history goes on from.
    """

    def __init__(self, name: str, peer: str = "") -> None:
        self.name = name
        self.peer = peer
        self.unread = 0
        self.mentions = 0
        self.day = day_of(int(time.time() * 1000))
        self.first: int | None = None
        self.lines: deque[Line] = deque(maxlen=KEPT)
        self._seen = 0  # lines from the end of which on nothing was seen

    @property
    def label(self) -> str:
        """What a person calls it: ``lobby``, ``@amy``."""
        return f"@{self.peer}" if self.peer else self.name

    def add(self, line: Line, *, shown: bool) -> None:
        """Keep *line*; *shown*: it is on the screen already."""
        self.lines.append(line)
        self._seen = 0 if shown else min(self._seen + 1, KEPT)

    def show(self) -> tuple[list[Line], list[Line]]:
        """Return what is to be shown when it is looked at again: lines for context, and new ones."""
        lines = list(self.lines)
        cut = len(lines) - self._seen
        self._seen = self.unread = self.mentions = 0
        return lines[max(cut - CONTEXT, 0) : cut], lines[cut:]


class Desk:
    """All open panes, in the order in which they were opened.

    Attributes: *current* is the one that is shown, or None.
    """

    def __init__(self) -> None:
        self.panes: list[Pane] = []
        self.current: Pane | None = None

    def find(self, name: str, peer: str = "") -> Pane | None:
        """Return the pane of the room *name*, or with "" of the conversation with *peer*."""
        for pane in self.panes:
            if pane.name == name and pane.peer.casefold() == peer.casefold():
                return pane
        return None

    def open(self, name: str, peer: str = "") -> Pane:
        """Return the pane of *name* or *peer*, a new one if need be."""
        pane = self.find(name, peer)
        if pane is None:
            pane = Pane(name, peer)
            self.panes.append(pane)
        return pane

    def close(self, pane: Pane) -> None:
        """Remove *pane*; the one before it is the current one then."""
        index = self.panes.index(pane)
        self.panes.remove(pane)
        if self.current is pane:
            self.current = self.panes[max(index - 1, 0)] if self.panes else None

    def choose(self, text: str) -> Pane | None:
        """Return the pane that *text* means: its number from 1 on, its label, or the one whose label begins so."""
        if text.isascii() and text.isdigit() and 1 <= int(text) <= len(self.panes):
            return self.panes[int(text) - 1]
        for pane in self.panes:
            if pane.label == text:
                return pane
        begun = [pane for pane in self.panes if pane.label.casefold().startswith(text.casefold())]
        return begun[0] if len(begun) == 1 else None

    def next_unread(self) -> Pane | None:
        """Return the pane to look at next: one with mentions, else one with something new, else None."""
        waiting = [pane for pane in self.panes if pane.unread]
        return max(waiting, key=lambda pane: pane.mentions > 0, default=None)
