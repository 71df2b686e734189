"""Pictures of results, with matplotlib: costs as bars, latencies as curves, cost and memory against connections.

Light, with axes that begin at 0 where lengths are compared, and in colours that the colour-blind can tell apart
(Okabe and Ito's); evloop is blue everywhere, the floor in C black, everybody else neither.

Rule: nothing in this file measures, reads a file, or decides what is better; no picture leaves a row out in silence.
Read next: ``report.py``, which puts these on a page.
"""

from __future__ import annotations

import importlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from evloop.bench.intervals import paired
from evloop.bench.records import CaseResults, Runs, figures, middle
from evloop.bench.rivals import TUNED

CPU = "server/us_per_message"

BLUE, SKY, GREEN, ORANGE, RED, PINK = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
BLACK, GREY, PALE = "#000000", "#6E6E6E", "#B9B9B9"

# Who is drawn in a picture of lines, in this order, up to LINES of them: more cannot be told apart.
STYLES = {
    "c": (BLACK, "--"), "c-raw": (BLACK, "--"), "cloop": (BLACK, "--"), "floor": (BLACK, "--"),
    "evloop-batch": (BLUE, "-"), "evloop-aio-raw": (BLUE, "-"), "evloop": (BLUE, "-"), "evloop-group": (SKY, "-"),
    "evloop-function": (SKY, "-"), "evloop-chat": (SKY, "-"), "evloop-coroutine": (BLUE, ":"),
    "evloop-aio": (BLUE, "-."), "evloop-aio-protocol": (BLUE, "-."),
    "redis": (RED, "-"), "nats": (GREEN, "-"), "mosquitto": (PINK, ":"),
    "uvloop": (ORANGE, "-"), "aiofastnet": (RED, "-"), "asyncio": (PINK, "-"), "twisted": (GREEN, "-"),
    "gevent": (GREEN, ":"), "trio": (RED, ":"), "tornado": (ORANGE, ":"), "rloop": (GREY, "-"),
    "socketserver": (GREY, ":"), "websockets": (GREY, "-."), "struct": (ORANGE, "-"), "msgpack": (RED, "-"),
    "pure": (SKY, "-"),
}  # fmt: skip
LINES = 8

# What a row is called in a picture, where its name is short for those who know.
LABELS = {"c": "C, epoll", "c-raw": "C, epoll", "cloop": "C loop", "floor": "C, epoll", "pure": "evloop pure",
          "struct": "struct loop"}  # fmt: skip

# Points of 1/72 inch; readable on a page of 900 pixels.
_RC = {
    "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#E6E6E6", "grid.linewidth": 0.8, "xtick.color": "#333333",
    "ytick.color": "#333333", "figure.facecolor": "white", "svg.hashsalt": "evloop", "legend.frameon": False,
}  # fmt: skip
WIDTH = 8.0  # inches

# One name and what is drawn of it.
Lines = dict[str, list[tuple[float, float]]]


class Picture(NamedTuple):
    """A picture: *name* for its files, *title* in words, and the same as SVG (text) and PNG."""

    name: str
    title: str
    svg: bytes
    png: bytes


def _drawn(name: str, title: str, draw: Any, height: float) -> Picture:
    """Return what ``draw(axes)`` draws; nothing of the time or the place gets into the files."""
    with importlib.import_module("matplotlib").rc_context(_RC):
        figure = importlib.import_module("matplotlib.figure").Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_title(title)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", dpi=130, metadata={"Software": None})
    return Picture(name, title, svg.getvalue(), png.getvalue())


def family(name: str) -> str:
    """Return the key of STYLES that a row's name has, or its first word."""
    name = name.removesuffix(TUNED)
    return name if name in STYLES or name.startswith("evloop") else name.partition("-")[0]


def style(name: str) -> tuple[str, str]:
    """Return the colour and the dashes of a row's line."""
    return STYLES.get(family(name), (BLUE if name.startswith("evloop") else GREY, "-."))


def label(name: str) -> str:
    """Return what a row is called in a picture."""
    return LABELS.get(name, name.replace(TUNED, ", tuned malloc"))


def colour(name: str) -> str:
    """Return the colour of a row's bar."""
    if name.split("-")[0] in ("c", "cloop", "floor"):
        return "#444444"
    if not name.startswith("evloop"):
        return PALE
    return SKY if name.startswith(("evloop-pure", "evloop-aio", "evloop-streams")) else BLUE


def better_malloc(results: CaseResults) -> dict[str, Runs]:
    """Return the measured rows, of two that differ by malloc's settings alone the cheaper one."""
    found: dict[str, Runs] = {}
    for name, runs in results.items():
        if isinstance(runs, str) or middle(runs, CPU) is None:
            continue
        other = name.removesuffix(TUNED) if name.endswith(TUNED) else name + TUNED
        if other in found:
            if (middle(found[other], CPU) or 0) <= (middle(runs, CPU) or 0):
                continue
            del found[other]
        found[name] = runs
    return found


def cost_bars(name: str, title: str, results: CaseResults, base: str, unit: str = "message") -> Picture | None:
    """Draw CPU as bars, the cheapest on top, with the smallest and largest round; None if there is nothing to draw."""
    rows = better_malloc(results)
    if len(rows) < 2:
        return None
    order = sorted(rows, key=lambda row: middle(rows[row], CPU) or 0, reverse=True)
    costs = [middle(rows[row], CPU) or 0 for row in order]

    def draw(axes: Any) -> None:
        spans = [(min(figures(rows[row], CPU)), max(figures(rows[row], CPU))) for row in order]
        errors = [[cost - low for cost, (low, _) in zip(costs, spans, strict=True)],
                  [high - cost for cost, (_, high) in zip(costs, spans, strict=True)]]  # fmt: skip
        places = list(range(len(order)))
        axes.barh(places, costs, color=[colour(row) for row in order], height=0.72)
        axes.set_yticks(places, [label(row) for row in order])
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.errorbar(costs, places, xerr=errors, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
        for place, (row, cost, (_, high)) in enumerate(zip(order, costs, spans, strict=True)):
            times = paired(figures(rows[row], CPU), figures(rows.get(base, []), CPU))
            said = f"{cost:.3g}" + (f"  ({times.times:.2f})" if times and row != base else "")
            axes.annotate(said, (high, place), (5, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_xlim(0, max(high for _, high in spans) * 1.18)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"server CPU, us a {unit}" + (f"  (in brackets: times {label(base)})" if base in rows else ""))

    return _drawn(name, title, draw, 1.1 + 0.27 * len(order))


def latency_curves(name: str, title: str, results: CaseResults) -> Picture | None:
    """Draw latency over its share, on a logarithmic 1 / (1 - share); None if no row has a curve."""
    lines: Lines = {}
    rows = better_malloc(results) or {row: runs for row, runs in results.items() if not isinstance(runs, str)}
    for row in _chosen(rows):
        runs = results[row]
        if isinstance(runs, str) or not (points := curve(runs)):
            continue
        lines[row] = [(1 / (1 - share), ns / 1e3) for share, ns in points if share < 1]
    if not lines:
        return None

    def draw(axes: Any) -> None:
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plot(axes, lines)
        last = max(points[-1][0] for points in lines.values())
        nines = [(1, "0"), (2, "50"), *((10**power, _nines(power)) for power in range(1, 8) if 10**power <= last * 1.1)]
        axes.set_xticks([at for at, _ in nines], [f"{said} %" for _, said in nines])
        axes.minorticks_off()
        axes.set_xlabel("share of the messages that took no longer")
        axes.set_ylabel("latency, us")
        _plain_ticks(axes.yaxis)

    return _drawn(name, title + _some(lines, rows), draw, 4.6)


def _some(lines: Lines, rows: Mapping[str, Any]) -> str:
    """Return what a title has to say where not every row is drawn."""
    return f" ({len(lines)} of {len(rows)} rows)" if len(lines) < len(rows) else ""


def _nines(power: int) -> str:
    return f"{100 - 10 ** (2 - power):.{max(power - 2, 0)}f}"


def curve(runs: Runs) -> list[tuple[float, float]]:
    """Return latencies (ns) by share: the median over the rounds, as far as all reach."""
    found: dict[float, list[float]] = {}
    for run in runs:
        for share, ns in run.get("curve") or _curve_of(run.get("hist") or []):
            found.setdefault(share, []).append(ns)
    return [(share, median(values)) for share, values in sorted(found.items()) if len(values) == len(runs)]


def _curve_of(histogram: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Return a histogram's latencies at four shares a decade of 1 / (1 - share), as far as it has as many samples."""
    total = sum(count for _, count in histogram)
    points: list[tuple[float, float]] = []
    seen, step = 0.0, 0
    for ns, count in histogram:
        seen += count
        while 10 ** (step / 4) <= total and seen > total * (1 - 10 ** (-step / 4)):
            points.append((1 - 10 ** (-step / 4), ns))
            step += 1
    return points


# The number that a picture is drawn over, and all else of a case's name: connections of peers, subscribers of fanout.
_CONNECTIONS = re.compile(r"[cn](\d+)(p\d+s\d+[km]?(?:o\d+)?)")
_IDLE = re.compile(r"idle(?:-c(\d+))?")


def against_connections(cases: Mapping[str, CaseResults], what: str = "connections") -> list[Picture]:
    """Draw CPU a message, and memory, over the number of connections, where two cases or more differ by it alone."""
    costs: dict[str, Lines] = {}
    memory: Lines = {}
    for case, results in cases.items():
        if found := _CONNECTIONS.fullmatch(case):
            for row, runs in better_malloc(results).items():
                points = costs.setdefault(found[2], {}).setdefault(row.removesuffix(TUNED), [])
                points.append((int(found[1]), middle(runs, CPU) or 0))
        elif found := _IDLE.fullmatch(case):
            _add_memory(memory, int(found[1] or 10_000), results)
    unit = "delivery" if what == "subscribers" else "message"
    pictures = [
        _over_connections(f"{what}-{kind}", f"CPU against {what} ({kind})", lines, f"server CPU, us a {unit}", what)
        for kind, lines in costs.items()
    ]
    pictures.append(
        _over_connections("memory", "Memory against idle connections", memory, "resident memory, MiB", what)
    )
    return [picture for picture in pictures if picture is not None]


def _add_memory(memory: Lines, connections: int, results: CaseResults) -> None:
    for row, runs in results.items():
        if isinstance(runs, str) or row.endswith(TUNED):
            continue
        each, before = middle(runs, "bytes_per_connection"), middle(runs, "server/rss_bytes")
        if each is not None and before is not None:
            memory.setdefault(row, []).append((connections, (before + each * connections) / 2**20))


def _over_connections(name: str, title: str, lines: Lines, label: str, what: str) -> Picture | None:
    rows = {row: sorted(points) for row, points in lines.items() if len(points) >= 2}
    lines = {row: rows[row] for row in _chosen(rows)}
    if not lines:
        return None

    def draw(axes: Any) -> None:
        axes.set_xscale("log")
        axes.set_yscale("log")  # who costs twice as much is as far above everywhere
        _plot(axes, lines, marker="o")
        ticks = sorted({at for points in lines.values() for at, _ in points})
        axes.set_xticks(ticks, [f"{at:,.0f}" for at in ticks])
        axes.minorticks_off()
        _plain_ticks(axes.yaxis)
        axes.set_xlabel(what)
        axes.set_ylabel(label)

    return _drawn(name, title + _some(lines, rows), draw, 4.6)


def _chosen(rows: Mapping[str, Any]) -> list[str]:
    """Return the rows to draw as lines: one of each family in STYLES, then others, LINES in all."""
    found: dict[str, str] = {}
    for row in rows:
        found.setdefault(family(row), row)
    known = [found[key] for key in STYLES if key in found]
    return [*known, *(row for key, row in found.items() if key not in STYLES)][:LINES]


def _plot(axes: Any, lines: Lines, marker: str = "") -> None:
    """Draw lines, each with its name at its end, the names pushed apart as far as they need."""
    for row, points in lines.items():
        tone, dashes = style(row)
        thick = 2.4 if row.startswith("evloop") else 1.6
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, color=tone, linestyle=dashes, linewidth=thick, marker=marker, markersize=4)
    axes.margins(x=0.02)
    low, high = axes.get_ylim()
    scale = math.log if axes.get_yscale() == "log" else float
    span = scale(high) - scale(low)
    ends = {row: (scale(points[-1][1]) - scale(low)) / span for row, points in lines.items()}
    for row, place in spread(ends, 0.052).items():
        x, y = lines[row][-1]
        tone = style(row)[0]
        axes.annotate(
            label(row), (x, y), (1.02, place), textcoords="axes fraction", va="center", fontsize=9, color=_dark(tone),
            arrowprops={"arrowstyle": "-", "color": tone, "linewidth": 0.7, "alpha": 0.6, "relpos": (0, 0.5)},
        )  # fmt: skip


def spread(places: Mapping[str, float], gap: float) -> dict[str, float]:
    """Return places of labels, in order and *gap* apart, as near to their own as neighbours allow; within 0..1."""
    order = sorted(places, key=lambda name: places[name])
    # Labels that would touch are one block, centred on the middle of what they name; blocks that touch are joined.
    blocks: list[tuple[list[str], float]] = []
    for name in order:
        names, centre = [name], places[name]
        while blocks and centre - gap * (len(names) - 1) / 2 < blocks[-1][1] + gap * (len(blocks[-1][0]) + 1) / 2:
            others, _ = blocks.pop()
            names = others + names
            half = gap * (len(names) - 1) / 2
            centre = min(max(sum(places[each] for each in names) / len(names), half), 1 - half)
        blocks.append((names, centre))
    return {
        name: centre + gap * (at - (len(names) - 1) / 2) for names, centre in blocks for at, name in enumerate(names)
    }


def _dark(tone: str) -> str:
    """Return a colour dark enough for text on white."""
    parts = [int(int(tone[at : at + 2], 16) * 0.72) for at in (1, 3, 5)]
    return "#" + "".join(f"{part:02x}" for part in parts)


def _plain_ticks(axis: Any) -> None:
    """Write a logarithmic axis in numbers that people read: 1, 2, 5, 10, ... and not powers."""
    ticker = importlib.import_module("matplotlib.ticker")
    axis.set_major_locator(ticker.LogLocator(base=10, subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _at: f"{value:,.6g}"))
    axis.set_minor_locator(ticker.NullLocator())


def ratio_dots(
    name: str, title: str, cases: Mapping[str, CaseResults], path: str, base: str, words: Mapping[str, str]
) -> Picture | None:
    """Draw each row's ratio to the row *base*, a line a case, on a logarithmic scale; *words*: the cases' titles."""
    found: dict[str, dict[str, float]] = {}
    for case, results in cases.items():
        theirs = results.get(base, "")
        for row, runs in results.items():
            if not isinstance(runs, str) and not isinstance(theirs, str):
                times = paired(figures(runs, path), figures(theirs, path))
                if times:
                    found.setdefault(row, {})[case] = times.times
    shown = [case for case in cases if any(case in ratios for ratios in found.values())]
    if not shown:
        return None
    places = {case: -at for at, case in enumerate(shown)}
    marks = "osD^vPX*"

    def draw(axes: Any) -> None:
        axes.set_xscale("log")
        axes.axvline(1, color=BLACK, linewidth=1)
        for number, (row, ratios) in enumerate(found.items()):
            if row == base:
                continue
            tone = style(row)[0]
            axes.scatter(list(ratios.values()), [places[case] for case in ratios], color=tone, label=label(row), s=44,
                         marker=marks[number % len(marks)], zorder=3)  # fmt: skip
        axes.set_yticks(list(places.values()), [words.get(case, case) for case in shown])
        _plain_ticks(axes.xaxis)
        axes.set_xlabel(f"times {label(base)}: left of 1 is cheaper")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))

    return _drawn(name, title, draw, 1.3 + 0.27 * len(shown))
