"""What an application counts, in the form that an admin port shows: a type, so that whoever counts needs no library.

Rule: nothing in this file may import anything but the standard library.  Read next: ``metrics.py``, which shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple


class Family(NamedTuple):
    """One metric by Prometheus' rules.

    Attributes:
        name: with the prefix, ``"evloop_chat_messages_total"``; ``_total`` is what only grows, anything else a gauge.
        help: one line.
        samples: a value for each set of labels (``{}``: none); every set has the same names.
    """

    name: str
    help: str
    samples: Iterable[tuple[Mapping[str, str], float]]


Families = Callable[[], Iterable[Family]]


def plain(name: str, help: str, value: float) -> Family:
    """Return a family of one value."""
    return Family(name, help, [({}, value)])


def by_label(label: str, name: str, help: str, values: Iterable[tuple[str, float]]) -> Family:
    """Return a family of a value for each value of *label*."""
    return Family(name, help, [({label: key}, value) for key, value in values])


def ending(stats: Mapping[str, int], prefix: str) -> list[tuple[str, int]]:
    """Return what follows *prefix* in the names of counters, and their values."""
    return [(name[len(prefix) :], value) for name, value in stats.items() if name.startswith(prefix)]
