"""Two files of results side by side: what has changed, what has not, and what cannot be told.

A change counts when its interval holds no 1 and it is more than 2 %; everything else is said to be no change, since a
table of small numbers with signs would be read as news.

Rule: nothing in this file measures or prints.  Read next: ``intervals.py``, ``records.py``.
"""

from __future__ import annotations

import re
from statistics import median
from typing import NamedTuple

from evloop.bench.intervals import Comparison, unpaired
from evloop.bench.records import CaseResults, Document, by_case, figures

# Names as --metric and --fail-if take them: where the figure is in a round, what it is divided by to be shown, its
# unit, and whether more of it is worse.
METRICS = {
    "cpu": ("server/us_per_message", 1, "CPU us/message", True),
    "rate": ("rate", 1, "messages/s", False),
    "p50": ("latency_ns/p50", 1e3, "p50 us", True),
    "p99": ("latency_ns/p99", 1e3, "p99 us", True),
    "p99.9": ("latency_ns/p99.9", 1e3, "p99.9 us", True),
    "max": ("latency_ns/max", 1e3, "max us", True),
    "rss": ("server/rss_bytes", 2**20, "RSS MiB", True),
    "idle": ("bytes_per_connection", 1, "bytes/connection", True),
    "frame": ("ns_per_frame", 1, "ns/frame", True),
    "operation": ("ns_per_operation", 1, "CPU ns/operation", True),
}
# What is compared unless --metric says otherwise: in a closed loop the rate, and p50, are CPU and noise in other words.
DEFAULT_METRICS = ("cpu", "p99", "idle", "frame", "operation")

_CONDITION = re.compile(r"([a-z0-9.]+)\s*([<>])\s*([+-]?\d+(?:\.\d+)?)\s*%")


class Change(NamedTuple):
    """One figure of one row in both files."""

    case: str
    name: str
    metric: str
    before: float
    after: float
    found: Comparison

    @property
    def percent(self) -> float:
        """How much more it is now."""
        return (self.found.times - 1) * 100

    @property
    def verdict(self) -> str:
        """What to say about it: ``better``, ``worse`` or ``no change``."""
        if self.found.same:
            return "no change"
        return "worse" if (self.found.times > 1) == METRICS[self.metric][3] else "better"


class Condition(NamedTuple):
    """What --fail-if names: a metric, a direction, and percent of the value before."""

    text: str
    metric: str
    above: bool
    percent: float

    def fires(self, change: Change) -> bool:
        """Whether a change is real and beyond the bound."""
        if change.metric != self.metric or change.found.same:
            return False
        return change.percent > self.percent if self.above else change.percent < self.percent


def parse_condition(text: str) -> Condition:
    """Return the condition that ``cpu>5%`` or ``rate<-5%`` stands for.

    Raises:
        ValueError: it is none.
    """
    found = _CONDITION.fullmatch(text.strip())
    if not found or found[1] not in METRICS:
        raise ValueError(
            f"bad condition {text!r}; write METRIC>PERCENT%, as cpu>5% or rate<-5%; metrics are {', '.join(METRICS)}"
        )
    return Condition(text, found[1], found[2] == ">", float(found[3]))


def changes(before: Document, after: Document, metrics: tuple[str, ...], relative_to: str = "") -> list[Change]:
    """Return the change of each figure that both files have, in the order of the first.

    With *relative_to*, the name of a row, a change is that of the ratio to it in the same round: what the machine did
    to both between the two runs cancels out.  Cases without the row are left out, and so is the row.
    """
    old, new = by_case(before), by_case(after)
    found = []
    for case, results in old.items():
        for name in results if not relative_to else [name for name in results if name != relative_to]:
            for metric in metrics:
                then, now = (_values(rows, name, metric, relative_to) for rows in (results, new.get(case, {})))
                comparison = unpaired(now, then)
                if comparison is not None:
                    found.append(Change(case, name, metric, median(then), median(now), comparison))
    return found


def _values(results: CaseResults, name: str, metric: str, relative_to: str) -> list[float]:
    """Return a figure of each round as it is shown, or its ratio to another row's; [] if there is none."""
    path, divisor, _, _ = METRICS[metric]
    mine, base = results.get(name, ""), results.get(relative_to, "")
    if isinstance(mine, str) or (relative_to and isinstance(base, str)):
        return []
    if isinstance(base, str):
        return [value / divisor for value in figures(mine, path)]
    return [one / other for one, other in zip(figures(mine, path), figures(base, path), strict=False) if other]


def unmatched(before: Document, after: Document) -> list[str]:
    """Return a line for each row that one file lacks, or that failed in one."""
    lines = []
    old, new = by_case(before), by_case(after)
    for first, second, where in ((old, new, "only before"), (new, old, "only after")):
        for case, results in first.items():
            lines += [f"{where}: {case} {name}" for name in results if name not in second.get(case, {})]
    for found, where in ((old, "before"), (new, "after")):
        for case, results in found.items():
            lines += [f"{where}: {case} {name} {text}" for name, text in results.items() if isinstance(text, str)]
    return lines


def differences(before: Document, after: Document) -> list[str]:
    """Return a line for each fact about the machine, the method or a version in which the files differ."""
    facts = [
        {**found["host"], **found["params"], "tool": found["tool"]}
        | {key: found.get("notes", {}).get(key) for key in ("evloop", "rivals", "C", "malloc")}
        for found in (before, after)
    ]
    keys = dict.fromkeys([*facts[0], *facts[1]])
    return [
        f"{key}: {facts[0].get(key)} before, {facts[1].get(key)} after"
        for key in keys
        if key != "load1" and facts[0].get(key) != facts[1].get(key)
    ]


def table(found: list[Change], relative_to: str = "") -> str:
    """Return the changes as a table, at most 120 columns: a line a figure, before and after side by side."""
    lines = [f"{'':<18}{'':<26}{'':<18}{'before':>12}{'after':>12}{'change':>9}{'interval':>17}"]
    case = ""
    for change in found:
        low, high = ((edge - 1) * 100 for edge in (change.found.low, change.found.high))
        interval = "unknown" if high == float("inf") else f"{low:+.1f}..{high:+.1f} %"
        unit = f"{change.metric}, x {relative_to}" if relative_to else METRICS[change.metric][2]
        lines.append(
            f"{change.case if change.case != case else '':<18}{change.name:<26}{unit:<18}"
            f"{_number(change.before):>12}{_number(change.after):>12}{change.percent:+7.1f} %{interval:>17}"
            f"{'' if change.found.same else '  ' + change.verdict}"
        )
        case = change.case
    return "\n".join(lines)


def _number(value: float) -> str:
    """Return a figure with four digits or so."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def summary(found: list[Change]) -> str:
    """Return one sentence that counts the verdicts."""
    counts = {
        verdict: sum(change.verdict == verdict for change in found) for verdict in ("better", "worse", "no change")
    }
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
