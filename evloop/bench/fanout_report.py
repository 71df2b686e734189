"""What the table of fan-out servers says: the machine, the numbers with their intervals, the rows that evloop loses.

Plain text of at most 120 columns.  Rule: nothing in this file measures, and nothing here leaves a row out.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from evloop.bench import native
from evloop.bench.fanout import Pace, Shape
from evloop.bench.fanout_servers import SERVERS, Server, environment
from evloop.bench.intervals import LEVEL, confidence, paired
from evloop.bench.peers_report import CPU, said_ratio, wrapped
from evloop.bench.peers_run import Programs
from evloop.bench.records import CaseResults, Runs, figures, host, middle, system

# What a delivery through ours costs is at most this multiple of redis' CPU for it, and the slowest hundredth of them
# takes no longer: the project's aim, for payloads of chat's size.
AIM = 1.0
AIMED_AT = "redis"
AIMED = ("evloop-chat", "evloop-group", "evloop-batch")

# The rows that ratios are to.
BASES = ("redis", "floor")


def notes(programs: Programs, rounds: int, seconds: float, servers: Sequence[Server]) -> dict[str, str]:
    """Describe what is measured, on what, and how: a heading and a line each."""
    found = host()
    pinned = f"servers on core {programs.server_core}, load on core {programs.load_core}; nats on all of them"
    if programs.server_core is None:
        pinned = "NOT PINNED: this process may use one core only, and server and load share it"
    return {
        "cpu": system(found),
        "cores": f"{pinned}; load average before the run {found['load1']:.2f}",
        "python": f"{found['python']}, garbage collector on",
        "evloop": f"{found['evloop']}: {_implementations()}",
        "servers": ", ".join(_versions(servers)),
        "C": f"{native.compiler_version(native.compiler())}, {' '.join(native.FLAGS)}",
        "method": f"{rounds} interleaved rounds, the first dropped; {seconds:g} s each; one load process is all "
        "publishers and all subscribers; every byte of every delivery is checked, and the first that is lost, doubled, "
        "out of order or wrong fails the row; all its connections delay their acknowledgements; oN: closed loop, N "
        "broadcasts outstanding a publisher, each confirmed by its last recipient; rN: open loop, N broadcasts a "
        "second in all, latency from the planned time",
        "figures": "CPU us: of a delivery, by the server's own clock, user and system, all threads; median of the "
        f"rounds; x: to another's of the same round, median, with {_interval(rounds - 1)}; =: the interval holds 1, or "
        "less than 2 % apart; p50..p99.9: us from a broadcast's start to a delivery; all50, all99: to its last one; "
        "busy: CPU a second; MiB: resident; sw: context switches a thousand deliveries; B: bytes on the wire a "
        "delivery; >=: generator-bound, the load used more than 90 % of its core",
    }


def _interval(rounds: int) -> str:
    level = confidence(rounds)
    return f"its {LEVEL:.0%} interval" + ("" if level == LEVEL else f" ({rounds} rounds can give {level:.0%} at most)")


def _implementations() -> str:
    """Return which twin each seam of evloop has in a server's process; asked in one, not assumed."""
    code = (
        "import evloop.framing as f, evloop.connection as c, evloop.reactor as r;"
        "print(f'framing {f.IMPLEMENTATION}, connection {c.IMPLEMENTATION}, reactor {r.IMPLEMENTATION}')"
    )
    env = environment(SERVERS["evloop-group"])
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    return found.stdout.strip() or found.stderr.strip().rpartition("\n")[2]


def _versions(servers: Sequence[Server]) -> list[str]:
    """Return what each broker says that it is; the rest is ours, or Python's."""
    found = {}
    for server in servers:
        if server.program and not server.missing and server.program not in found:
            option = "-h" if server.program == "mosquitto" else "--version"
            said = subprocess.run(
                [server.program, option], capture_output=True, text=True, env=environment(server), check=False
            )
            found[server.program] = (said.stdout or said.stderr).strip().partition("\n")[0][:48]
    return list(found.values()) or ["no broker is installed"]


def install_line(servers: Sequence[Server]) -> str:
    """Return which servers are not there and how to get each, "" if all are."""
    missing = ", ".join(f"{server.name} ({server.missing})" for server in servers if server.missing)
    return f"not installed, so not measured: {missing}" if missing else ""


def title(shape: Shape, pace: Pace, name: str) -> str:
    """Return what a case does, in words."""
    loop = f"closed loop, {pace.outstanding} outstanding each"
    if not pace.outstanding:
        of = "% of each server's own closed loop" if pace.share else " broadcasts/s"
        loop = f"open loop, {pace.rate:g}{of}"
    senders = f"{shape.publishers} publisher{'s' * (shape.publishers > 1)}"
    receivers = f"{shape.subscribers:,} subscriber{'s' * (shape.subscribers > 1)}"
    return f"{name}: {senders}, {receivers}, {shape.payload} bytes, {loop}"


def table(heading: str, results: CaseResults) -> str:
    """Return the table of one case, cheapest first."""
    columns = (
        f"{'':<13}{'CPU us':>10}{'x redis':>8}{'interval':>13}{'x floor':>8}{'deliveries/s':>13}{'p50':>7}{'p99':>7}"
        f"{'p99.9':>7}{'all50':>7}{'all99':>7}{'busy':>5}{'MiB':>4}{'sw':>6}{'B':>5}"
    )
    measured = {name: runs for name, runs in results.items() if not isinstance(runs, str)}
    rows = [_row(name, measured[name], measured) for name in sorted(measured, key=lambda name: _cost(measured[name]))]
    failed = [wrapped(f"{name:<14}{text}", 14) for name, text in results.items() if isinstance(text, str)]
    return "\n".join([heading, columns, *rows, *failed])


def _cost(runs: Runs) -> float:
    return middle(runs, CPU) or 0.0


def _row(name: str, runs: Runs, measured: dict[str, Runs]) -> str:
    (redis, interval), (floor, _) = (
        said_ratio(paired(figures(runs, CPU), figures(measured[base], CPU)) if base in measured else None)
        for base in BASES
    )
    paths = ("latency_ns/p50", "latency_ns/p99", "latency_ns/p99.9", "completion_ns/p50", "completion_ns/p99")
    times = "".join(f"{(middle(runs, path) or 0) / 1e3:7.0f}" for path in paths)
    bound = any(run["client"]["client_bound"] for run in runs)
    rate = f"{'>= ' if bound else ''}{middle(runs, 'rate') or 0:,.0f}"
    return (
        f"{name:<13}{_cost(runs):10.3f}{redis:>8}{interval:>13}{floor:>8}{rate:>13}{times}"
        f"{middle(runs, 'server/busy') or 0:5.0%}{(middle(runs, 'server/rss_bytes') or 0) / 2**20:4.0f}"
        f"{_switches(runs):6.1f}{middle(runs, 'wire_bytes_per_message') or 0:5.0f}"
    )


def _switches(runs: Runs) -> float:
    """Return the context switches a thousand deliveries, of all rounds."""
    switches = sum(run["server"]["voluntary_switches"] + run["server"]["involuntary_switches"] for run in runs)
    return float(switches * 1000 / max(sum(run["messages"] for run in runs), 1))


def losses(name: str, results: CaseResults) -> list[str]:
    """Name each row of evloop that costs more than another's, is slower than redis, or failed."""
    measured = {row: runs for row, runs in results.items() if not isinstance(runs, str)}
    lines = [f"{name}: {row} {text}" for row, text in results.items() if isinstance(text, str) and SERVERS[row].ours]
    for row, runs in measured.items():
        if not SERVERS[row].ours:
            continue
        behind = []
        for other, theirs in measured.items():
            found = paired(figures(runs, CPU), figures(theirs, CPU))
            if found and found.more and other != "floor" and not SERVERS[other].ours:
                behind.append(f"{other} {found.times:.2f}x")
        if behind:
            lines.append(f"{name}: {row} costs more than " + ", ".join(behind))
        if row in AIMED and (slow := _slower(runs, measured.get(AIMED_AT, []))):
            lines.append(f"{name}: {row} is slower than {AIMED_AT}: p99 {slow:.2f}x")
    return lines


def _slower(runs: Runs, base: Runs) -> float | None:
    """Return how many times redis' p99 a row's is, if it is more and not by chance."""
    found = paired(figures(runs, "latency_ns/p99"), figures(base, "latency_ns/p99"))
    return found.times if found and found.more else None


def aims(name: str, results: CaseResults) -> list[str]:
    """Return a line for each row with an aim: CPU a delivery and p99, as multiples of redis', and whether it was met.

    For CPU the median counts, whatever its interval; for p99, which is much less steady, a difference that is none
    (:attr:`intervals.Comparison.same`) is no miss.
    """
    base = results.get(AIMED_AT, "")
    if isinstance(base, str) or not base:
        return []
    lines = []
    for row in AIMED:
        runs = results.get(row, "")
        if isinstance(runs, str) or not runs:
            continue
        cpu, p99 = (paired(figures(runs, path), figures(base, path)) for path in (CPU, "latency_ns/p99"))
        if cpu is None or p99 is None:
            continue
        said = [f"{each.times:.2f} ({said_ratio(each)[1]})" for each in (cpu, p99)]
        verdict = "met" if cpu.times <= AIM and (p99.times <= AIM or p99.same) else "NOT met"
        lines.append(f"{name}: {row} {said[0]} x redis' CPU a delivery, {said[1]} x its p99: {verdict}")
    return lines
