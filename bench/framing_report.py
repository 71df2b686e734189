"""What the framing table says: the machine, the numbers, the rows we lose, and the project's aims against them.

Plain text of at most 120 columns.  Rule: nothing in this file measures, and nothing here leaves a row out.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sysconfig
from importlib import metadata
from statistics import median
from typing import NamedTuple

from framing_cases import DELIVERIES, RIVALS, STREAM_BYTES, Case

# The project's aims for decoding: at most this multiple of the C loop in every cell, and at least these advantages
# with payloads of 64 bytes.
FLOOR_AIM = 1.3
ADVANTAGE_AIMS = {"pure": 8, "twisted": 12}
ADVANTAGE_SIZE = 64

# A quiet machine stays below this from the smallest to the largest round; another process on the core does not.
STEADY = 1.5

LABEL_WIDTH = 24


class Result(NamedTuple):
    """One rival in one case, in ns a frame: median, smallest and largest of the rounds that count."""

    median: float
    low: float
    high: float


Results = dict[Case, dict[str, Result]]


def machine(rounds: int) -> dict[str, str]:
    """Describe what was measured, and on what."""
    from evloop import _framing, _framing_py, framing

    compiler = sysconfig.get_config_var("CC").split()[0]
    found = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    versions = [f"{name} {metadata.version(name.lower())}" for name in ("msgpack", "Twisted")]
    return {
        "cpu": f"{cpu_model()}, {os.cpu_count()} cores, kernel {platform.release()}",
        "load": "load average before the run " + " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": f"{platform.python_implementation()} {platform.python_version()}, garbage collector on",
        "build": f"Cython {metadata.version('cython')}, {found.stdout.splitlines()[0]}",
        "evloop": f"{metadata.version('evloop')}; the door gives IMPLEMENTATION {framing.IMPLEMENTATION!r}; measured: "
        f"evloop = {_framing.IMPLEMENTATION!r}, evloop pure = {_framing_py.IMPLEMENTATION!r}",
        "rivals": ", ".join(versions),
        "method": f"{rounds} interleaved rounds, the first dropped; on one core, {STREAM_BYTES // 1024} KiB a pass; "
        "in each round fresh processes and copies",
    }


def cpu_model() -> str:
    """Return the processor's name, or its architecture where Linux does not tell."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def summarise(samples: dict[Case, dict[str, list[float]]]) -> Results:
    """Drop each first round and reduce the others."""
    return {
        case: {name: Result(median(values[1:]), min(values[1:]), max(values[1:])) for name, values in rivals.items()}
        for case, rivals in samples.items()
    }


def ratio(results: Results, case: Case, name: str, to: str = "cloop") -> float:
    """Return how many times *to*'s median a rival's median is."""
    return results[case][name].median / results[case][to].median


def ns(value: float) -> str:
    """Return nanoseconds with as many digits as mean something."""
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def megabytes(case: Case, per_frame: float) -> float:
    """Return payload megabytes (10**6 bytes) a second at *per_frame* nanoseconds."""
    return case.size * 1e3 / per_frame


def text(machine: dict[str, str], results: Results) -> str:
    """Return the whole report."""
    lines = [f"{key:<8}{value}" for key, value in machine.items()]
    for direction in ("decode", "encode"):
        cases = [case for case in results if case.direction == direction]
        lines += ["", f"{direction}: ns/frame (median), and the ratio to the C loop"]
        lines += table(
            cases, lambda case, name: f"{results[case][name].median:8.1f} {ratio(results, case, name):5.2f}x"
        )
        lines += ["", f"{direction}: ns/frame, smallest..largest of the rounds"]
        lines += table(cases, lambda case, name: f"{ns(results[case][name].low)}..{ns(results[case][name].high)}")
        lines += ["", f"{direction}: payload MB/s"]
        lines += table(cases, lambda case, name: f"{megabytes(case, results[case][name].median):.0f}")
    lines += ["", *losses(results), "", *aims(results), *unsteady(results)]
    return "\n".join(lines)


def table(cases: list[Case], cell) -> list[str]:
    """Return one line a case and one column a rival, filled by ``cell(case, name)``."""
    width = 16  # six rivals beside the label are 120 columns
    lines = [" " * LABEL_WIDTH + "".join(f"{rival.label:>{width}}" for rival in RIVALS.values())]
    for index, case in enumerate(cases):
        if index and case.size != cases[index - 1].size:
            lines.append("")
        lines.append(f"{case.label:<{LABEL_WIDTH}}" + "".join(f"{cell(case, name):>{width}}" for name in RIVALS))
    return lines


def losses(results: Results) -> list[str]:
    """Name each row in which any rival is faster than the compiled evloop."""
    lines = ["the rows we lose: who is faster than evloop, and evloop's time as a multiple of theirs"]
    for case, rivals in results.items():
        faster = [name for name in rivals if name != "evloop" and rivals[name].median < rivals["evloop"].median]
        if faster:
            who = ", ".join(f"{RIVALS[name].label} {ratio(results, case, 'evloop', name):.2f}x" for name in faster)
            lines.append(f"  {case.direction} {case.label:<{LABEL_WIDTH}}{who}")
    return lines if len(lines) > 1 else [*lines, "  none"]


def aims(results: Results) -> list[str]:
    """Hold the project's aims for decoding against what was measured."""
    cells = {case: ratio(results, case, "evloop") for case in results if case.direction == "decode"}
    missed = {case: value for case, value in cells.items() if value > FLOOR_AIM}
    worst = max(cells, key=cells.__getitem__)
    lines = ["the aims (decode)"]
    lines += verdict(f"within {FLOOR_AIM}x of the C loop in all {len(cells)} rows", not missed)
    lines.append(f"    {len(cells) - len(missed)} rows are; the worst is {cells[worst]:.3f}x, {worst.label.strip()}")
    lines += [f"    not: {value:.3f}x, {case.label.strip()}" for case, value in missed.items()]
    for name, aim in ADVANTAGE_AIMS.items():
        for how in DELIVERIES:
            case = Case("decode", ADVANTAGE_SIZE, how)
            advantage = ratio(results, case, name, "evloop")
            what = f"at least {aim}x {RIVALS[name].label} at {ADVANTAGE_SIZE} B, {DELIVERIES[how]}: {advantage:.2f}x"
            lines += verdict(what, advantage >= aim)
    return lines


def unsteady(results: Results) -> list[str]:
    """Warn if the C loop or evloop, which every ratio here is made of, was disturbed."""
    disturbed = [
        case
        for case, rivals in results.items()
        if any(rivals[name].high > STEADY * rivals[name].low for name in ("cloop", "evloop"))
    ]
    if not disturbed:
        return []
    return [
        "",
        f"UNSTEADY: in {len(disturbed)} of {len(results)} rows the C loop's or evloop's largest round is more than "
        f"{STEADY}x its smallest.",
        "The machine was busy; measure again before quoting these rows:",
        *[f"  {case.direction} {case.label}" for case in disturbed],
    ]


def verdict(what: str, met: bool) -> list[str]:
    """Return a line that says whether an aim was met."""
    return [f"  {'met   ' if met else 'MISSED'}  {what}"]


def markdown(machine: dict[str, str], results: Results) -> str:
    """Return the README's short table: ns a frame, and in brackets the multiple of the C loop."""
    lines = ["| decode, ns/frame (ratio to C) | " + " | ".join(rival.label for rival in RIVALS.values()) + " |"]
    lines.append("|---|" + "---:|" * len(RIVALS))
    for case, rivals in results.items():
        cells = [f"{rivals[name].median:.0f} ({ratio(results, case, name):.2f})" for name in RIVALS]
        lines.append("| " + " | ".join([" ".join(case.label.split()), *cells]) + " |")
    lines += ["", f"{machine['cpu']}; {machine['python']}; {machine['rivals']}; {machine['method']}."]
    lines += unsteady(results)
    return "\n".join(lines)
