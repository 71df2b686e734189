"""What the echo table says: the machine, the numbers with their spread, and the rows that evloop loses.

Plain text of at most 120 columns.  Rule: nothing in this file measures, and nothing here leaves a row out.
"""

from __future__ import annotations

import os
import pathlib
import platform
import re
import subprocess
import sys
import textwrap
from importlib import metadata
from statistics import median
from typing import Any

from evloop.bench import native
from evloop.bench.echo_run import Case, Programs, environment
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

# Between two rows nearer than this nobody has lost; `--floor` prints what the same program differs from itself by.
SAME = 1.02

WIDTH = 120  # columns

# One rival's runs in one case: the figures of each round that counts, or the text of a failure.
Runs = list[dict[str, Any]]
CaseResults = dict[str, Runs | str]


def machine(programs: Programs, rounds: int, seconds: float) -> dict[str, str]:
    """Describe what was measured, on what, and how."""
    pinned = f"server on core {programs.server_core}, load on core {programs.load_core}"
    if programs.server_core is None:
        pinned = "NOT PINNED: this process may use one core only, and server and load share it"
    elif programs.load_core in _siblings(programs.server_core):
        pinned += ", WHICH ARE TWO THREADS OF ONE CORE: they slow each other"
    tuned = " ".join(f"{key}={value}" for key, value in TUNED_MALLOC.items())
    return {
        "cpu": f"{cpu_model()}, {os.cpu_count()} cores, kernel {platform.release()}",
        "cores": f"{pinned}; load average before the run {os.getloadavg()[0]:.2f}",
        "python": f"{platform.python_implementation()} {platform.python_version()}, garbage collector on",
        "evloop": f"{metadata.version('evloop')}: {_implementation('evloop-function')}; "
        f"evloop-pure: {_implementation('evloop-pure')}",
        "rivals": ", ".join(_versions()),
        "C": f"{native.compiler_version(native.compiler())}, {' '.join(native.FLAGS)}",
        "malloc": f"default; rows named +malloc: {tuned}",
        "method": f"{rounds} interleaved rounds, the first dropped; {seconds:g} s each; closed loop, C load generator, "
        "every reply's length and number checked, all its bytes in raw cases",
        "figures": "CPU: the server's own clock, user and system, per message; x C: of the same round; median, and "
        "min..max; busy: share of its core",
    }


def cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else platform.machine()


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
    """Return the name of the row that the ratios are to: the C server."""
    return C_RAW.name if case.raw else C.name


def table(case: Case, results: CaseResults) -> str:
    """Return the table of one case, cheapest first."""
    base = base_of(case)
    if case.mode == "idle":
        title = f"{case.name}: {case.connections} connections, one message each, then silence"
        columns = f"{'':<27}{'bytes/connection':>18}{'min..max':>18}{'RSS before MiB':>18}"
    else:
        unit = "connection" if case.mode == "accept" else "message"
        what = "connect, one message, close" if case.mode == "accept" else f"{case.pipeline} in flight on each"
        title = f"{case.name}: {case.connections} connections, {what}, {case.size} bytes{' unframed' * case.raw}"
        columns = (
            f"{'':<27}{'CPU us/' + unit:>17}{'x ' + base:>8}{'min..max':>14}{unit + 's/s':>16}{'p50 us':>9}"
            f"{'p99 us':>9}{'busy':>7}{'RSS MiB':>9}"
        )
    if case.mode == "hold":
        title = f"{case.name}: a witness beside {case.connections} idle connections, 1 in flight, {case.size} bytes"
        columns = f"{'':<27}{'p50 us':>9}{'p99 us':>9}{'p99.9 us':>10}{'min..max':>18}{'messages/s':>16}{'RSS MiB':>9}"
    lines = [title, columns]
    measured = {name: runs for name, runs in results.items() if not isinstance(runs, str)}
    key = cost_field(case)
    for name in sorted(measured, key=lambda name: middle(measured[name], key)):
        row = {"idle": _idle_row, "hold": _hold_row}.get(case.mode, _row)
        lines.append(row(name, measured[name], measured.get(base)))
    lines += [f"{name:<27}  {text}" for name, text in results.items() if isinstance(text, str)]
    return "\n".join(lines)


def cost_field(case: Case) -> str:
    """Return the figure by which the rows of a case are compared."""
    return {"idle": "bytes_per_connection", "hold": "p999"}.get(case.mode, "server_cpu_us")


def middle(runs: Runs, key: str) -> float:
    """Return the median of a figure."""
    return float(median(run["latency_us"][key] if key == "p999" else run[key] for run in runs))


def ratios(runs: Runs, base: Runs, key: str) -> list[float]:
    """Return the ratio to the base in each round: what both met in the same minute cancels out."""
    return [float(run[key] / other[key]) for run, other in zip(runs, base, strict=False) if other[key]]


def _row(name: str, runs: Runs, base: Runs | None) -> str:
    found = ratios(runs, base, "server_cpu_us") if base else []
    ratio = f"{median(found):8.2f}{f'{min(found):.2f}..{max(found):.2f}':>14}" if found else f"{'-':>8}{'-':>14}"
    p50, p99 = (median(run["latency_us"][key] for run in runs) for key in ("p50", "p99"))
    return (
        f"{name:<27}{middle(runs, 'server_cpu_us'):17.3f}{ratio}{middle(runs, 'messages_per_second'):16,.0f}"
        f"{p50:9,.0f}{p99:9,.0f}{middle(runs, 'server_busy'):7.0%}{middle(runs, 'rss') / 2**20:9.1f}"
    )


def _idle_row(name: str, runs: Runs, _base: Runs | None) -> str:
    costs = [run["bytes_per_connection"] for run in runs]
    spread = f"{min(costs):,.0f}..{max(costs):,.0f}"
    return f"{name:<27}{median(costs):18,.0f}{spread:>18}{middle(runs, 'rss') / 2**20:18.1f}"


def _hold_row(name: str, runs: Runs, _base: Runs | None) -> str:
    p50, p99, p999 = ([run["latency_us"][key] for run in runs] for key in ("p50", "p99", "p999"))
    spread = f"{min(p999):,.0f}..{max(p999):,.0f}"
    return (
        f"{name:<27}{median(p50):9,.0f}{median(p99):9,.0f}{median(p999):10,.0f}{spread:>18}"
        f"{middle(runs, 'messages_per_second'):16,.0f}{middle(runs, 'rss') / 2**20:9.1f}"
    )


def losses(case: Case, results: CaseResults) -> list[str]:
    """Name each row of evloop that misses the aim, or that another's row is ahead of, or that failed."""
    key = cost_field(case)
    measured = {name: runs for name, runs in results.items() if not isinstance(runs, str)}
    lines = [f"{case.name}: {name} {text}" for name, text in results.items() if isinstance(text, str) and _ours(name)]
    for name, runs in measured.items():
        if not _ours(name):
            continue
        behind = [] if name == "evloop-pure" else _missed_aim(case, name, measured)
        for other, theirs in measured.items():
            if not _compared(name, other) or not middle(theirs, key):
                continue
            times = middle(runs, key) / middle(theirs, key)
            behind += [f"{other} {times:.2f}x"] * (times > SAME)
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
        cost = middle(runs, "bytes_per_connection")
        missed = cost > IDLE_AIM and name not in UNPROMISED
        return [f"the aim ({cost:,.0f} bytes, aim {IDLE_AIM:,})"] * missed
    if case.mode == "hold":
        slow = middle(runs, "p999")
        return [f"the aim (p99.9 {slow:,.0f} us, aim {WITNESS_AIM:,} us)"] * (slow > WITNESS_AIM)
    base = base_of(case)
    if base not in measured:
        return []
    times = median(ratios(runs, measured[base], "server_cpu_us"))
    keys = [(case.name, name), ("", name), (case.name, "")]
    aim = next((AIMS[key] for key in keys if key in AIMS), CALLBACK_AIM)
    return [f"{base} {times:.2f}x (aim {aim:.2f}x)"] * (times > aim)


def _missed_aio_aims(case: Case, name: str, measured: dict[str, Runs]) -> list[str]:
    missed = []
    for rival, aim in AIO_AIMS.get((case.name, name.removesuffix(TUNED)), {}).items():
        rows = [row for row in (rival, rival + TUNED) if row in measured]
        if not rows:
            continue
        better = min(rows, key=lambda row: middle(measured[row], "server_cpu_us"))
        times = median(ratios(measured[name], measured[better], "server_cpu_us"))
        missed += [f"the aim ({times:.3f}x {better}, aim {aim:.2f}x)"] * (times > aim)
    return missed


def _ours(name: str) -> bool:
    return name in RIVALS and RIVALS[name].ours


def install_line(rivals: list[Rival]) -> str:
    """Return how to get the rivals that are not there."""
    missing = {need: None for rival in rivals for need in rival.missing}
    names = ", ".join(rival.name for rival in rivals if rival.missing)
    return f"not installed, so not measured: {names}; pip install {' '.join(missing)}"
