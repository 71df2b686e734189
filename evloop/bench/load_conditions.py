"""Conditions on the figures of a load: what ``--fail-if 'p99>2ms'`` means.

Rule: nothing in this file measures.  Read next: ``compare.py``, whose conditions are on changes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from evloop.bench.records import Round, middle

# Names: where the figure is in a round, and the units that a value may have.
_TIMES = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}
_RATES = {"": 1.0, "k": 1e3, "m": 1e6}
_SIZES = {"": 1.0, "k": 1024.0, "m": 1024.0**2, "g": 1024.0**3}
_SHARES = {"%": 0.01, "": 1.0}
METRICS = {
    **{name: (f"latency_ns/{name}", _TIMES) for name in ("min", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max")},
    "rate": ("rate", _RATES),
    "messages": ("messages", _RATES),
    "cpu": ("server/us_per_message", {name: scale / 1e3 for name, scale in _TIMES.items()}),
    "busy": ("server/busy", _SHARES),
    "rss": ("server/rss_bytes", _SIZES),
    "idle": ("bytes_per_connection", _SIZES),
    "lag": ("client/lag_p99_ns", _TIMES),
    "unsent": ("client/unsent", _RATES),
    "client": ("client/busy", _SHARES),
}

_CONDITION = re.compile(r"\s*([a-z0-9.]+)\s*([<>])\s*(\d+(?:\.\d+)?)\s*([a-zA-Z%]*)\s*")


class LoadCondition(NamedTuple):
    """A metric, a direction and a bound in the units of the round."""

    text: str
    metric: str
    above: bool
    bound: float

    def fires(self, rounds: list[Round]) -> str | None:
        """Return what to say if the condition holds of the median of *rounds*, or if there is no such figure.

        None: it does not hold.
        """
        value = middle(rounds, METRICS[self.metric][0])
        if value is None:
            return f"--fail-if {self.text!r}: there is no figure {self.metric!r} of this run"
        if not (value > self.bound if self.above else value < self.bound):
            return None
        return f"--fail-if {self.text!r}: {self.metric} is {_shown(value, self.metric)}"


def parse_load_condition(text: str) -> LoadCondition:
    """Return the condition that *text* means: ``p99>2ms``, ``rate<100k``, ``cpu>3us``, ``rss>64M``, ``client>85%``.

    Raises:
        ValueError: it means none.
    """
    found = _CONDITION.fullmatch(text)
    if found is None or found[1] not in METRICS:
        raise ValueError(f"bad condition {text[:64]!r}; write p99>2ms or rate<100k, with one of {', '.join(METRICS)}")
    units = METRICS[found[1]][1]
    scale = units.get(found[4].lower().removesuffix("ib"))
    if scale is None:
        known = ", ".join(unit for unit in units if unit)
        raise ValueError(f"bad condition {text[:64]!r}: {found[1]} has no unit {found[4]!r}, but {known}")
    return LoadCondition(text, found[1], found[2] == ">", float(found[3]) * scale)


def _shown(value: float, metric: str) -> str:
    units = METRICS[metric][1]
    if units is _TIMES:
        return duration(value)
    if metric == "cpu":
        return duration(value * 1e3)
    return f"{value * 100:.1f}%" if units is _SHARES else f"{value:,.0f}"


def duration(ns: float) -> str:
    """Return *ns* with three digits and its unit: ``412us``, ``1.61ms``, ``2.05s``."""
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= scale:
            value = ns / scale
            return f"{value:.{max(0, 2 - (value >= 9.995) - (value >= 99.95))}f}{unit}"
    return f"{ns:.0f}ns"
