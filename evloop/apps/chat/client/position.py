"""How far a client has followed one room: what is shown, dropped, held, or missing.

The whole rule of a room's order, on the client's side: the next number is shown, an old one dropped, and one that comes
too early is held until the history has brought those before it.

Rule: nothing in this file may know the wire or a clock.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")

# Messages held while a gap is filled.  A page of history is at most 200, so this bridges one page being fetched;
# what does not fit is fetched again behind it.
HELD_MAX = 256


class Position(Generic[T]):
    """The position in one room, and the messages that came before their time.

    Attributes:
        epoch: which numbering the numbers are of (str); "" before the first.
        last: the number of the last message shown (int >= 0).
    """

    __slots__ = ("epoch", "last", "_held", "_top")

    def __init__(self) -> None:
        self.epoch = ""
        self.last = 0
        self._held: dict[int, T] = {}
        self._top = 0

    @property
    def gap(self) -> bool:
        """True while messages after ``last`` are known to exist and are not here: the history has to be asked."""
        return self._top > self.last

    def start(self, epoch: str, last: int) -> None:
        """Take *last* of *epoch* as shown, and forget what was held."""
        self.epoch = epoch
        self.last = self._top = last
        self._held.clear()

    def reach(self, top: int) -> None:
        """Know that the room goes up to *top*."""
        self._top = max(self._top, top)

    def take(self, seq: int, item: T) -> list[T]:
        """Return what can be shown now that the message number *seq* is here, in order: none, it, or more."""
        if seq <= self.last:
            return []
        self.reach(seq)
        if seq > self.last + 1:
            if len(self._held) < HELD_MAX:
                self._held[seq] = item
            return []
        shown = [item]
        while (following := seq + len(shown)) in self._held:
            shown.append(self._held.pop(following))
        self._held.pop(seq, None)
        self.last = seq + len(shown) - 1
        return shown

    def skip_to(self, seq: int) -> None:
        """Give up what is missing before the message number *seq*: it is gone from the server too."""
        if seq - 1 > self.last:
            self.last = seq - 1
            self.reach(self.last)
            self._held = {held: item for held, item in self._held.items() if held >= seq}

    def skip_gap(self) -> list[T]:
        """Give up everything that is missing; return what was held, in order."""
        shown = [self._held[seq] for seq in sorted(self._held)]
        self.start(self.epoch, self._top)
        return shown
