"""What a load says about itself: a screen of text, and the ``.hgrm`` file of HdrHistogram's tools.

Rule: nothing in this file measures, and no line is left out because it is unwelcome.  Read next: ``load.py``.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from evloop.bench.load import BUSY, LATE, Histogram, Outcome
from evloop.bench.load_conditions import duration
from evloop.bench.load_options import LoadOptions
from evloop.bench.records import Round, figures

MIB = 1 << 20
WIDTH = 120  # columns
# What a figure is of.
_UNITS = {"fanout": "delivery", "connect": "visit"}
_BARS = "▁▂▃▄▅▆▇█"
_COLUMNS = ("min", "p50", "p90", "p99", "p99.9", "p99.99", "max")
# Steps of a .hgrm file between a percentile and the one half as far from 100: as the tools of HdrHistogram write it.
_TICKS = 5


_SUMMARY: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("a second", "rate", "{:,.0f}".format),
    ("server CPU, each", "server/us_per_message", lambda us: duration(us * 1e3)),
    ("p50", "latency_ns/p50", duration),
    ("p99", "latency_ns/p99", duration),
    ("p99.9", "latency_ns/p99.9", duration),
)


def title(options: LoadOptions) -> str:
    """Return what is done, in a line or two: closed or open loop first, since it decides what the figures mean."""
    return textwrap.fill(_title(options), WIDTH, subsequent_indent="  ", break_long_words=False)


def _title(options: LoadOptions) -> str:
    sizes = " ".join(f"{size} B" if len(options.sizes) == 1 else f"{size} B:{share:g}" for size, share in options.sizes)
    sizes += " unframed" * (options.framing is None)
    many = f"{options.connections:,} connection{'s' * (options.connections != 1)}"
    if options.pattern == "fanout":
        many = f"{options.publishers} publisher{'s' * (options.publishers != 1)} to {options.connections:,} subscriber"
        many += "s" * (options.connections != 1)
    words = [f"{options.pattern} at {options.address}", sizes]
    if options.pattern == "idle":
        return ", ".join([f"idle    {many}, held for {options.duration:g} s", *words])
    if options.pattern == "source":
        return ", ".join([f"receiving    {many}", *words])
    if options.is_open:
        kind = f"open loop    {options.rate:,.0f} messages/s planned, {'Poisson' if options.poisson else 'constant'}"
        return ", ".join([f"{kind}, over {many}", f"at most {options.in_flight} in flight on each", *words])
    flight = "" if options.pattern == "connect" else f" x {options.in_flight} in flight"
    return ", ".join([f"closed loop    {many}{flight}", *words])


def text(options: LoadOptions, outcome: Outcome) -> str:
    """Return the figures for a person."""
    found = outcome.round
    if not found.get("seconds"):
        return "nothing was measured"
    lines = [_messages(options, found)]
    if "server" in found:
        lines.append(_server(found["server"], _UNITS.get(options.pattern, "message")))
    lines.append(_client(found["client"], _UNITS.get(options.pattern, "message")))
    if "bytes_per_connection" in found:
        lines.append(f"  memory       {found['bytes_per_connection']:,.0f} bytes an idle connection")
    lines += _latencies(options, found)
    if found.get("bins") and options.pattern != "idle":
        lines.append(_seconds(found["bins"]))
    lines += warnings(options, found)
    # Only the lines with a variable number of parts can be too long; tables are not.
    return "\n".join(
        textwrap.fill(line, WIDTH, subsequent_indent=" " * 14, break_on_hyphens=False) if len(line) > WIDTH else line
        for line in lines
    )


def summary(rounds: list[Round]) -> str:
    """Return the median and the range over several rounds, of what is compared."""
    lines = [f"median, and range, of {len(rounds)} rounds"]
    for name, path, shown in _SUMMARY:
        found = figures(rounds, path)
        if found:
            lines.append(f"  {name:<20}{shown(median(found)):>12}   {shown(min(found))}..{shown(max(found))}")
    return "\n".join(lines)


def _messages(options: LoadOptions, found: Round) -> str:
    what = {"fanout": "deliveries", "connect": "visits"}.get(options.pattern, "messages")  # plural of _UNITS
    ways = "each way" if options.pattern in ("echo", "upper", "connect", "idle") else "of payload"
    if options.check == "full":
        checked = "every byte checked"
    else:
        checked = "length checked" if options.check == "length" else "length and number checked"
    if options.pattern == "sink":
        checked = "taken by the kernel, answers none"
    rate = f"{found['rate']:,.0f}/s   {found['bytes'] / found['seconds'] / MIB:.1f} MiB/s {ways}"
    return f"  {what:<12}{found['messages']:,} in {found['seconds']:.2f} s   {rate}   {checked}"


def _cpu(side: dict[str, Any], unit: str) -> list[str]:
    """Return what a side has used; of no message there is no cost of one."""
    each = [] if side["us_per_message"] is None else [f"{side['us_per_message']:.3f} us of CPU a {unit}"]
    return [*each, f"{side['busy']:.0%} of a core"]


def _server(server: dict[str, Any], unit: str) -> str:
    parts = ["CPU unknown, its process has ended"] if server["busy"] is None else _cpu(server, unit)
    if server["rss_bytes"] is not None:
        parts.append(f"{server['rss_bytes'] / MIB:.1f} MiB resident")
    if server["context_switches_per_message"] is not None:
        parts.append(f"{server['context_switches_per_message']:.2g} context switches a {unit}")
    return f"  server      {', '.join(parts)}   pid {server['pid']}"


def _client(client: dict[str, Any], unit: str) -> str:
    parts = _cpu(client, unit)
    if client["waiting"] > 0.005:
        parts.append(f"{client['waiting']:.0%} waiting for one")
    if "lag_p99_ns" in client:
        parts.append(f"lag behind the plan p99 {duration(client['lag_p99_ns'])}")
    return f"  client      {', '.join(parts)}   {'CLIENT-BOUND' if client['client_bound'] else 'not client-bound'}"


def _latencies(options: LoadOptions, found: Round) -> list[str]:
    rows = []
    if "latency_ns" in found:
        name = "response time, from plan" if options.is_open else "service time, from send"
        name = "visit, from connect to reply" if options.pattern == "connect" else name
        rows.append((f"{name}, delivery" if options.pattern == "fanout" else name, found["latency_ns"]))
    if "service_ns" in found:
        rows.append(("service time, from send", found["service_ns"]))
    if "completion_ns" in found:
        rows.append(("to the last subscriber", found["completion_ns"]))
    if not rows:
        return []
    head = f"  {'':<36}" + "".join(f"{name:>9}" for name in _COLUMNS)
    return [head] + [f"  {name:<36}" + "".join(f"{duration(row[key]):>9}" for key in _COLUMNS) for name, row in rows]


def _seconds(bins: list[float]) -> str:
    """Return the rate of each second as a bar; the last 60, from nothing to the most."""
    most = max(*bins, 1)
    bars = "".join(_BARS[round(rate / most * (len(_BARS) - 1))] for rate in bins[-60:])
    return f"  each second {bars}   {min(bins):,.0f}..{max(bins):,.0f}/s"


def warnings(options: LoadOptions, found: Round) -> list[str]:
    """Return what a reader of the figures has to know before he believes them."""
    client, lines = found["client"], []
    used = client["busy"] + client["waiting"]
    if used > BUSY:
        lines.append(
            f"client-bound: the generator ran, or waited for a core, {used:.0%} of the time: the rate is a lower bound,"
            " the server's CPU a message still holds"
        )
    if client.get("lag_p99_ns", 0) > LATE:
        lines.append(
            f"client-bound: the plan was followed {duration(client['lag_p99_ns'])} late (p99), which the response time"
            " includes"
        )
    server = found.get("server")
    if server is not None and server["us_per_message"] == 0:
        lines.append(f"pid {server['pid']} used no CPU: it may be what has started the server, and not the server")
    left = client.get("unsent", 0) + client.get("unanswered", 0)
    if left:
        lines.append(
            f"overload: {client['unsent']:,} planned messages were not sent and {client['unanswered']:,} not answered"
            f" {options.timeout:g} s after the end: the percentiles are lower bounds"
        )
    return lines


def hgrm(histogram: Histogram) -> str:
    """Return the percentile distribution in ms as HdrHistogram's plotter reads it."""
    pairs = histogram.pairs()
    mean, count = histogram.mean, histogram.count
    deviation = math.sqrt(sum((ns - mean) ** 2 * n for ns, n in pairs) / count) if count else 0.0
    lines = [f"{'Value':>12} {'Percentile':>14} {'TotalCount':>10} {'1/(1-Percentile)':>14}", ""]
    for ns, share, below in _steps(pairs, count):
        inverse = f"{1 / (1 - share):>14.2f}" if share < 1 else f"{'inf':>14}"
        lines.append(f"{min(ns, histogram.most) / 1e6:>12.6f} {share:>14.12f} {below:>10d} {inverse}")
    lines.append(f"#[Mean    = {mean / 1e6:>12.6f}, StdDeviation   = {deviation / 1e6:>12.6f}]")
    lines.append(f"#[Max     = {histogram.most / 1e6:>12.6f}, Total count    = {count:>12d}]")
    lines.append(f"#[Buckets = {32:>12d}, SubBuckets     = {2048:>12d}]")
    return "\n".join(lines) + "\n"


def _steps(pairs: list[tuple[int, int]], count: int) -> Iterator[tuple[int, float, int]]:
    """Yield (ns, share, samples so far) at each tick: _TICKS between a share and the one half as far from 1."""
    below, wanted = 0, 0.0
    for ns, samples in pairs:
        below += samples
        while below / count >= wanted:
            yield ns, wanted, below
            if below == count and 1 - wanted <= 1 / count:
                break
            wanted += 1 / (_TICKS * 2 ** (math.floor(math.log2(1 / (1 - wanted))) + 1))
    if count:
        yield pairs[-1][0], 1.0, count
