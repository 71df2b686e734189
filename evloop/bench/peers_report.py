"""What the table of echo servers says: the machine, the numbers with their intervals, and the rows that evloop loses.

Plain text of at most 120 columns.  Rule: nothing in this file measures, and nothing here leaves a row out.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import textwrap
from importlib import metadata
from statistics import median

from evloop.bench import native
from evloop.bench.intervals import LEVEL, Comparison, confidence, paired
from evloop.bench.peers_run import CLIENT_BOUND, Case, Programs, environment
from evloop.bench.records import CaseResults, Runs, figures, host, middle, system
from evloop.bench.rivals import C_RAW, RIVALS, TUNED, TUNED_MALLOC, C, Rival

# The project's aims for the compiled rows: a framed echo through a callback costs at most this multiple of the C
# server's CPU per message, and an idle connection at most this many bytes.
CALLBACK_AIM = 1.05
AIMS = {
    # Sixteen calls of a Python function a read: what the interpreter needs for them alone is a seventh of it all.
    ("c100p16s64", "evloop-function"): 1.15,
    ("c100p16s64", "evloop-protocol"): 1.15,
    ("c10p1s64k", ""): 1.00,
    ("c4p1s1m", ""): 0.90,
    ("accept", ""): 1.25,  # 0.8 times the connections a second
    # A coroutine is resumed and suspended for each frame, by the interpreter.
    ("c100p16s64", "evloop-coroutine"): 1.5,
    ("", "evloop-coroutine"): 1.15,
}
# evloop.aio's, as multiples of the better one of a rival's two rows: the settings of malloc are no merit of a loop.
AIO_AIMS = {
    ("raw-c100s64", "evloop-aio-raw"): {"uvloop-raw": 0.95, "aiofastnet-raw": 0.95},
    ("raw-c100s1k", "evloop-aio-raw"): {"uvloop-raw": 0.95, "aiofastnet-raw": 0.95},
    ("raw-c1s64", "evloop-aio-raw"): {"uvloop-raw": 1.00},
    ("raw-c100s100k", "evloop-aio-raw"): {"uvloop-raw": 0.95, "aiofastnet-raw": 0.95},
    ("c100p1s64", "evloop-aio-streams"): {"uvloop-streams": 0.92},
    ("c100p1s64", "evloop-streams"): {"uvloop-streams": 0.70},
}
IDLE_AIM = 1024
UNPROMISED = ("evloop-pure", "evloop-coroutine")  # what an idle connection of these costs is published, no more
WITNESS_AIM = 5000  # microseconds, p99.9 of a connection beside 19,000 that say nothing

WIDTH = 120  # columns


CPU = "server/us_per_message"


def notes(programs: Programs, rounds: int, seconds: float) -> dict[str, str]:
    """Describe what is measured, on what, and how: a heading and a line each."""
    found = host()
    pinned = f"server on core {programs.server_core}, load on core {programs.load_core}"
    if programs.server_core is None:
        pinned = "NOT PINNED: this process may use one core only, and server and load share it"
    elif programs.load_core in _siblings(programs.server_core):
        pinned += ", WHICH ARE TWO THREADS OF ONE CORE: they slow each other"
    tuned = " ".join(f"{key}={value}" for key, value in TUNED_MALLOC.items())
    return {
        "cpu": system(found),
        "cores": f"{pinned}; load average before the run {found['load1']:.2f}",
        "python": f"{found['python']}, garbage collector on",
        "evloop": f"{found['evloop']}: {_implementation('evloop-function')}; "
        f"evloop-pure: {_implementation('evloop-pure')}",
        "rivals": ", ".join(_versions()),
        "C": f"{native.compiler_version(native.compiler())}, {' '.join(native.FLAGS)}",
        "malloc": f"default; rows named +malloc: {tuned}",
        "method": f"{rounds} interleaved rounds, the first dropped; {seconds:g} s each; closed loop, C load generator, "
        "every reply's length and number checked, all its bytes in raw cases",
        "figures": "CPU: the server's own clock, user and system, of all threads, per message, median of the rounds; "
        f"x: to another's of the same round, median, with {_interval(rounds - 1)}; =: the interval holds 1, or "
        "less than 2 % apart; busy: share of its core; >=: the load was the bottleneck, above "
        f"{CLIENT_BOUND:.0%} of its core",
    }


def _interval(rounds: int) -> str:
    level = confidence(rounds)
    said = f"its {LEVEL:.0%} interval, a bootstrap over the rounds"
    return said if level == LEVEL else f"{said} ({rounds} can give {level:.0%} at most)"


def _siblings(core: int) -> set[int]:
    try:
        text = pathlib.Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text()
    except OSError:
        return set()
    edges = [[int(edge) for edge in part.split("-")] for part in text.strip().split(",")]
    return {core for part in edges for core in range(part[0], part[-1] + 1)}


def _implementation(name: str) -> str:
    """Return which twin each seam of evloop has in the processes of a rival; asked in one, not assumed."""
    pure = name == "evloop-pure"
    code = (
        "import evloop.framing as f, evloop.connection as c, evloop.reactor as r;"
        "print(f'framing {f.IMPLEMENTATION}, connection {c.IMPLEMENTATION}, reactor {r.IMPLEMENTATION}')"
    )
    env = environment(RIVALS[name]) | {"EVLOOP_PURE": "1" if pure else "0"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    return found.stdout.strip() or found.stderr.strip().rpartition("\n")[2]


def _versions() -> list[str]:
    names = sorted({need for rival in RIVALS.values() for need in rival.needs if not rival.missing})
    return [f"{name} {metadata.version(name)}" for name in names]


def header(facts: dict[str, str]) -> str:
    """Return the header of the report."""
    return "\n".join(wrapped(f"{key + ':':<10}{value}", 10) for key, value in facts.items())


def wrapped(text: str, indent: int) -> str:
    """Return *text* in lines of the table's width, all but the first indented."""
    return textwrap.fill(text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def base_of(case: Case) -> str:
    """Return the name of the row that the aims are against: the C server."""
    return C_RAW.name if case.raw else C.name


def title(case: Case) -> str:
    """Return what a case does, in words."""
    if case.mode == "idle":
        return f"{case.connections:,} connections, one message each, then silence"
    if case.mode == "hold":
        return f"a witness beside {case.connections:,} idle connections, 1 in flight, {case.size} bytes"
    what = "connect, one message, close" if case.mode == "accept" else f"{case.pipeline} in flight on each"
    peers = f"{case.connections:,} connection{'s' * (case.connections > 1)}"
    return f"{peers}, {what}, {_size(case.size)}{' unframed' * case.raw}"


def _size(size: int) -> str:
    for bits, unit in ((20, "MiB"), (10, "KiB")):
        if size and size % (1 << bits) == 0:
            return f"{size >> bits} {unit}"
    return f"{size} bytes"


def table(case: Case, results: CaseResults, baseline: str = "") -> str:
    """Return the table of one case, cheapest first; its ratios are to the row *baseline*, to C if that is not there."""
    base = baseline if not isinstance(results.get(baseline, ""), str) else base_of(case)
    if case.mode == "idle":
        columns = f"{'':<27}{'bytes/connection':>18}{'min..max':>18}{'RSS before MiB':>18}"
    elif case.mode == "hold":
        columns = f"{'':<27}{'p50 us':>9}{'p99 us':>9}{'p99.9 us':>10}{'min..max':>18}{'messages/s':>16}{'RSS MiB':>9}"
    else:
        unit = "connection" if case.mode == "accept" else "message"
        columns = (
            f"{'':<27}{'CPU us/' + unit:>17}{'x ' + base[:10]:>13}{'interval':>13}{unit + 's/s':>15}{'p50 us':>9}"
            f"{'p99 us':>9}{'busy':>7}{'RSS MiB':>9}"
        )
    lines = [f"{case.name}: {title(case)}", columns]
    measured = {name: runs for name, runs in results.items() if not isinstance(runs, str)}
    for name in cheapest_first(case, measured):
        row = {"idle": _idle_row, "hold": _hold_row}.get(case.mode, _row)
        lines.append(row(name, measured[name], measured.get(base)))
    lines += [f"{name:<27}  {text}" for name, text in results.items() if isinstance(text, str)]
    return "\n".join(lines)


def cheapest_first(case: Case, measured: dict[str, Runs]) -> list[str]:
    """Return the names of rows by the figure that the case is about."""
    return sorted(measured, key=lambda name: _middle(measured[name], cost_field(case)))


def cost_field(case: Case) -> str:
    """Return the figure by which the rows of a case are compared."""
    return {"idle": "bytes_per_connection", "hold": "latency_ns/p99.9"}.get(case.mode, CPU)


def _middle(runs: Runs, path: str) -> float:
    return middle(runs, path) or 0.0


def ratio(runs: Runs, base: Runs | None, path: str = CPU) -> Comparison | None:
    """Compare two rows of a case by a figure, round by round."""
    return paired(figures(runs, path), figures(base, path)) if base else None


def said_ratio(found: Comparison | None) -> tuple[str, str]:
    """Return a ratio and its interval as text."""
    if found is None:
        return "-", "-"
    interval = "?" if found.high == float("inf") else f"{found.low:.2f}..{found.high:.2f}"
    return f"{'= ' if found.same else ''}{found.times:.2f}", interval


def _row(name: str, runs: Runs, base: Runs | None) -> str:
    times, interval = said_ratio(ratio(runs, base))
    p50, p99 = (_middle(runs, f"latency_ns/{key}") / 1e3 for key in ("p50", "p99"))
    bound = any(run["client"]["client_bound"] for run in runs)
    rate = f"{'>= ' if bound else ''}{_middle(runs, 'rate'):,.0f}"
    return (
        f"{name:<27}{_middle(runs, CPU):17.3f}{times:>13}{interval:>13}{rate:>15}{p50:9,.0f}{p99:9,.0f}"
        f"{_middle(runs, 'server/busy'):7.0%}{_middle(runs, 'server/rss_bytes') / 2**20:9.1f}"
    )


def _idle_row(name: str, runs: Runs, _base: Runs | None) -> str:
    costs = figures(runs, "bytes_per_connection")
    spread = f"{min(costs):,.0f}..{max(costs):,.0f}"
    return f"{name:<27}{median(costs):18,.0f}{spread:>18}{_middle(runs, 'server/rss_bytes') / 2**20:18.1f}"


def _hold_row(name: str, runs: Runs, _base: Runs | None) -> str:
    p50, p99, p999 = ([each / 1e3 for each in figures(runs, f"latency_ns/{key}")] for key in ("p50", "p99", "p99.9"))
    spread = f"{min(p999):,.0f}..{max(p999):,.0f}"
    return (
        f"{name:<27}{median(p50):9,.0f}{median(p99):9,.0f}{median(p999):10,.0f}{spread:>18}"
        f"{_middle(runs, 'rate'):16,.0f}{_middle(runs, 'server/rss_bytes') / 2**20:9.1f}"
    )


def losses(case: Case, results: CaseResults) -> list[str]:
    """Name each row of evloop that misses the aim, or that another's row is ahead of, or that failed."""
    measured = {name: runs for name, runs in results.items() if not isinstance(runs, str)}
    lines = [f"{case.name}: {name} {text}" for name, text in results.items() if isinstance(text, str) and _ours(name)]
    for name, runs in measured.items():
        if not _ours(name):
            continue
        behind = [] if name == "evloop-pure" else _missed_aim(case, name, measured)
        for other, theirs in measured.items():
            found = ratio(runs, theirs, cost_field(case)) if _compared(name, other) else None
            behind += [f"{other} {found.times:.2f}x"] if found and found.more else []
        if behind:
            lines.append(f"{case.name}: {name} costs more than " + ", ".join(behind))
    return lines


def _compared(name: str, other: str) -> bool:
    """Tell whether a row of evloop is to be ahead of another's: on evloop.aio, of the same program on other loops."""
    if other.partition("-")[0] in ("c", "evloop"):
        return False
    return not RIVALS[name].on_aio or RIVALS[name].is_like(RIVALS[other])


def _missed_aim(case: Case, name: str, measured: dict[str, Runs]) -> list[str]:
    runs = measured[name]
    if RIVALS[name].on_aio:
        return _missed_aio_aims(case, name, measured)
    if case.mode == "idle":
        cost = _middle(runs, "bytes_per_connection")
        missed = cost > IDLE_AIM and name not in UNPROMISED
        return [f"the aim ({cost:,.0f} bytes, aim {IDLE_AIM:,})"] * missed
    if case.mode == "hold":
        slow = _middle(runs, "latency_ns/p99.9") / 1e3
        return [f"the aim (p99.9 {slow:,.0f} us, aim {WITNESS_AIM:,} us)"] * (slow > WITNESS_AIM)
    base = base_of(case)
    found = ratio(runs, measured.get(base))
    if found is None:
        return []
    keys = [(case.name, name), ("", name), (case.name, "")]
    aim = next((AIMS[key] for key in keys if key in AIMS), CALLBACK_AIM)
    return [f"{base} {found.times:.2f}x (aim {aim:.2f}x)"] * (found.times > aim)


def _missed_aio_aims(case: Case, name: str, measured: dict[str, Runs]) -> list[str]:
    missed = []
    for rival, aim in AIO_AIMS.get((case.name, name.removesuffix(TUNED)), {}).items():
        rows = [row for row in (rival, rival + TUNED) if row in measured]
        if not rows:
            continue
        better = min(rows, key=lambda row: _middle(measured[row], CPU))
        found = ratio(measured[name], measured[better])
        if found and found.times > aim:
            missed.append(f"the aim ({found.times:.3f}x {better}, aim {aim:.2f}x)")
    return missed


def _ours(name: str) -> bool:
    return name in RIVALS and RIVALS[name].ours


def install_line(rivals: list[Rival]) -> str:
    """Return how to get the rivals that are not there."""
    missing = {need: None for rival in rivals for need in rival.missing}
    names = ", ".join(rival.name for rival in rivals if rival.missing)
    return f"not installed, so not measured: {names}; pip install {' '.join(missing)}"
