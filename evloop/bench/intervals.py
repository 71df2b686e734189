"""Medians of rounds, their ratios, and how far both can be trusted: a bootstrap over the rounds.

Rule: nothing in this file knows what was measured.  Read next: ``peers_report.py``, ``compare.py``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

# Between two figures nearer than this nobody has won: what the same program differs from itself by, in another minute
# or from other pages of memory.  `evloop bench peers --floor` shows it.
SAME = 0.02

# The usual level.  The interval of a median is at most smallest..largest, which holds it with 1 - 2**(1 - rounds): five
# rounds are 94 %, four 88 %.
LEVEL = 0.95

# Resamples of a bootstrap: the ends of the interval then move by less than what is printed.
RESAMPLES = 2000

# The same table of the same figures each time it is printed.
_SEED = 1


class Comparison(NamedTuple):
    """How many times the other's figure one's own is: the ratio of medians or median ratio, and its interval."""

    times: float
    low: float
    high: float

    @property
    def same(self) -> bool:
        """Whether nothing was found: the interval holds 1, or the difference is too small to mean anything."""
        return self.low <= 1 <= self.high or abs(self.times - 1) < SAME

    @property
    def more(self) -> bool:
        """Whether one's own is more, and not by chance."""
        return self.times > 1 and not self.same


def confidence(rounds: int) -> float:
    """Return the confidence (0..LEVEL) that an interval of so many rounds can have."""
    return min(LEVEL, 1 - 2.0 ** (1 - max(rounds, 1)))


def paired(mine: Sequence[float], base: Sequence[float]) -> Comparison | None:
    """Compare rounds that were interleaved: by the ratio in each, what both met in the same minute cancels out.

    None: no round has a base other than 0.  The shorter of the two decides how many rounds count.
    """
    found = [one / other for one, other in zip(mine, base, strict=False) if other]
    if not found:
        return None
    source = random.Random(_SEED)
    count = RESAMPLES if len(found) > 1 else 0
    return _comparison(median(found), [median(source.choices(found, k=len(found))) for _ in range(count)])


def unpaired(mine: Sequence[float], base: Sequence[float]) -> Comparison | None:
    """Compare rounds of two runs, which share nothing: by the ratio of their medians.

    None: one has no rounds, or the base's median is 0.
    """
    if not mine or not base or not median(base):
        return None
    source = random.Random(_SEED)
    resampled = []
    for _ in range(RESAMPLES if min(len(mine), len(base)) > 1 else 0):
        other = median(source.choices(base, k=len(base)))
        if other:
            resampled.append(median(source.choices(mine, k=len(mine))) / other)
    return _comparison(median(mine) / median(base), resampled)


def _comparison(times: float, resampled: list[float]) -> Comparison:
    """Cut the tails off; without resamples, as of one round, nothing is known."""
    resampled.sort()
    if not resampled:
        return Comparison(times, 0.0, float("inf"))
    tail = int(len(resampled) * (1 - LEVEL) / 2)
    return Comparison(times, resampled[tail], resampled[-1 - tail])
