"""How late a loop is: a timer that notes by how much it was missed, and what the thread has worked meanwhile.

Rule: nothing in this file may know who asks.  Read next: ``admin.py``, which shows it.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from typing import NamedTuple

from evloop import Reactor

# Seconds between two looks.  Each costs a wake-up of some 10 us, so ten a second cost an idle server 0.01 % of a core;
# what holds the loop up for less than this may fall between two looks, and is seen in its share of them.
INTERVAL = 0.1

# Upper bounds in seconds: from what a chatter cannot notice to what trips a time-out.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

# Looks that "recent" means: a minute, so that a scrape every 15 s misses none.
RECENT = 600


class Recent(NamedTuple):
    """The lag of the last minute in seconds (floats); 0 before the first look."""

    p50: float
    p99: float
    max: float


class LoopLag:
    """Looks at a reactor every INTERVAL seconds, from :meth:`start` to :meth:`stop`.

    Attributes:
        counts: looks by lag: one for each of BUCKETS, and one above (list of int; not cumulative).
        total: seconds of lag of all looks (float).
        reactor: what is looked at.
    Reactor thread only.
    """

    def __init__(self, reactor: Reactor) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0
        self.reactor = reactor
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._worked: deque[tuple[float, float]] = deque(maxlen=RECENT)  # time, and CPU time of the thread
        self._due = 0.0
        self._stopped = True

    def start(self) -> None:
        """Begin to look; once."""
        self._stopped = False
        self._arm()

    def stop(self) -> None:
        """Look no more; the timer that is set does nothing."""
        self._stopped = True

    def _arm(self) -> None:
        self._due = self.reactor.time() + INTERVAL
        self.reactor.call_later(INTERVAL, self._look)

    def _look(self) -> None:
        if self._stopped:
            return
        self.note(self.reactor.time() - self._due)
        self._arm()

    def note(self, lag: float) -> None:
        """Count one look that found *lag* seconds (float >= 0)."""
        self.counts[bisect_left(BUCKETS, lag)] += 1
        self.total += lag
        self._recent.append(lag)
        self._worked.append((self.reactor.time(), time.thread_time()))

    @property
    def recent(self) -> Recent:
        """What the last minute was like."""
        lags = sorted(self._recent)
        if not lags:
            return Recent(0.0, 0.0, 0.0)
        return Recent(lags[len(lags) // 2], lags[len(lags) * 99 // 100], lags[-1])

    @property
    def busy(self) -> float:
        """The part of the last minute in which the loop's thread was on a CPU (float, 0..1)."""
        if len(self._worked) < 2:
            return 0.0
        (since, before), (until, after) = self._worked[0], self._worked[-1]
        return min((after - before) / (until - since), 1.0) if until > since else 0.0
