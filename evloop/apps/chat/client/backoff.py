"""How long a client waits before it connects again.

Rule: nothing in this file may know a clock or a socket.
"""

from __future__ import annotations

import random
from collections.abc import Callable

# Seconds.  A server that was restarted is found again at once, and one that is down is asked twice a minute by each.
FIRST = 0.25
CAP = 30.0

# A connection that held so long (seconds) was no part of the trouble before it: the next loss starts from FIRST.
STEADY = 60.0


class Backoff:
    """Delays that double, each drawn evenly from zero to its bound, so that a thousand clients do not come at once.

    "Full jitter" of Brooker's study of it: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    Args:
        draw: returns a float, 0 <= x < 1; None: a generator of its own.

    Owns: the number of failures since the last steady connection.
    """

    def __init__(self, draw: Callable[[], float] | None = None) -> None:
        # Not the global generator: programs seed that, and then all of them would come back at the same moments.
        self._draw = random.Random().random if draw is None else draw
        self._failures = 0

    def delay(self, *, up: float = 0.0, at_least: float = 0.0) -> float:
        """Return the seconds to wait after a connection that held for *up* seconds (0: it was not made).

        *at_least* is what the server has asked for; the draw comes on top, since it has told everybody the same.
        """
        if up >= STEADY:
            self._failures = 0
        # Beyond 2**10 the bound is the cap in any case, and a float has an end.
        bound: float = min(CAP, FIRST * 2 ** min(self._failures, 10))
        self._failures += 1
        return at_least + self._draw() * bound
