"""What the framing table says: the machine, the numbers, the rows we lose, and the project's aims against them.

Plain text of at most 120 columns.  Rule: nothing in this file measures, and nothing here leaves a row out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from statistics import median

from evloop import framing
from evloop.bench import native
from evloop.bench.framing_cases import DELIVERIES, RIVALS, STREAM_BYTES, Case, missing
from evloop.bench.intervals import Comparison, paired
from evloop.bench.records import CaseResults, figures, hardware, host

# The project's aims for decoding: at most this multiple of the C loop in every cell, and at least these advantages
# with payloads of 64 bytes.
FLOOR_AIM = 1.3
ADVANTAGE_AIMS = {"pure": 8, "twisted": 12}
ADVANTAGE_SIZE = 64

# A quiet machine stays below this from the smallest to the largest round; another process on the core does not.
STEADY = 1.5

LABEL_WIDTH = 24

COST = "ns_per_frame"
Results = dict[Case, CaseResults]


def notes(rounds: int) -> dict[str, str]:
    """Describe what is measured, on what, and how: a heading and a line each."""
    found = host()
    versions = [f"{need} {metadata.version(need)}" for need in ("msgpack", "twisted") if _installed(need)]
    return {
        "cpu": hardware(found),
        "load": f"load average before the run {found['load1']:.2f}",
        "python": f"{found['python']}, garbage collector on",
        "C": native.compiler_version(native.compiler()),
        "evloop": f"{found['evloop']}; the door gives IMPLEMENTATION {framing.IMPLEMENTATION!r}; measured: "
        "evloop = 'cython', evloop pure = 'python'",
        "rivals": ", ".join(versions),
        "method": f"{rounds} interleaved rounds, the first dropped; on one core, {STREAM_BYTES // 1024} KiB a pass; "
        "in each round fresh processes and copies",
        "figures": "ns/frame: median of the rounds; x: to the C loop's of the same round, median; =: the 95 % interval "
        "holds 1, or less than 2 % apart",
    }


def _installed(need: str) -> bool:
    return any(rival.needs == need and not missing(name) for name, rival in RIVALS.items())


def present() -> tuple[list[str], list[str]]:
    """Return the rivals that can be measured, and for each other one a line that says how to get it."""
    lines = []
    for name, rival in RIVALS.items():
        if what := missing(name):
            remedy = "make build, with a C compiler" if what.startswith("evloop.") else f"pip install {what}"
            lines.append(f"not there, so not measured: {rival.label}; {remedy}")
    return [name for name in RIVALS if not missing(name)], lines


def costs(results: Results, case: Case, name: str) -> list[float]:
    """Return the nanoseconds a frame of each round."""
    runs = results[case].get(name, "")
    return [] if isinstance(runs, str) else figures(runs, COST)


def ratio(results: Results, case: Case, name: str, to: str = "cloop") -> Comparison | None:
    """Return how many times *to*'s time a rival takes, or None where one was not measured."""
    return paired(costs(results, case, name), costs(results, case, to))


def text(results: Results) -> str:
    """Return the whole report but its header."""
    lines: list[str] = []
    for direction in ("decode", "encode"):
        cases = [case for case in results if case.direction == direction]
        if cases:
            lines += ["", f"{direction}: ns/frame (median), and the ratio to the C loop"]
            lines += _table(results, cases, _cost_and_ratio)
            lines += ["", f"{direction}: ns/frame, smallest..largest of the rounds"]
            lines += _table(results, cases, lambda _case, _name, each, _x: f"{_ns(min(each))}..{_ns(max(each))}")
            lines += ["", f"{direction}: payload MB/s"]
            lines += _table(results, cases, lambda case, _name, each, _x: f"{case.size * 1e3 / median(each):.0f}")
    heading = "the rows we lose: who is faster than evloop, and evloop's time as a multiple of theirs"
    lost = [f"  {line}" for line in losses(results) or ["none"]]
    return "\n".join([*lines, "", heading, *lost, *aims(results), *unsteady(results)])


def _cost_and_ratio(_case: Case, _name: str, each: list[float], times: Comparison | None) -> str:
    return f"{median(each):8.1f}" + (f" {times.times:5.2f}{'=' if times.same else 'x'}" if times else "      -")


def _ns(value: float) -> str:
    """Return nanoseconds with as many digits as mean something."""
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


Cell = Callable[[Case, str, list[float], "Comparison | None"], str]


def _table(results: Results, cases: Sequence[Case], cell: Cell) -> list[str]:
    """Return one line a case and one column a rival, filled by *cell*; a dash where nothing was measured."""
    width = 16  # six rivals beside the label are 120 columns
    names = [name for name in RIVALS if any(costs(results, case, name) for case in cases)]
    lines = [" " * LABEL_WIDTH + "".join(f"{RIVALS[name].label:>{width}}" for name in names)]
    for index, case in enumerate(cases):
        if index and case.size != cases[index - 1].size:
            lines.append("")
        line = f"{case.label:<{LABEL_WIDTH}}"
        for name in names:
            each = costs(results, case, name)
            line += f"{cell(case, name, each, ratio(results, case, name)) if each else '-':>{width}}"
        lines.append(line)
    return lines


def losses(results: Results) -> list[str]:
    """Name each row in which any rival is faster than the compiled evloop."""
    lines = []
    for case, rivals in results.items():
        behind = {name: ratio(results, case, "evloop", name) for name in rivals if name != "evloop"}
        faster = [f"{RIVALS[name].label} {found.times:.2f}x" for name, found in behind.items() if found and found.more]
        if faster:
            lines.append(f"{case.direction} {' '.join(case.label.split())}: {', '.join(faster)}")
    return lines


def aims(results: Results) -> list[str]:
    """Hold the project's aims for decoding against what was measured."""
    found = {case: ratio(results, case, "evloop") for case in results if case.direction == "decode"}
    cells = {case: times.times for case, times in found.items() if times}
    if not cells:
        return []
    missed = {case: value for case, value in cells.items() if value > FLOOR_AIM}
    worst = max(cells, key=cells.__getitem__)
    lines = ["", "the aims (decode)"]
    lines += _verdict(f"within {FLOOR_AIM}x of the C loop in all {len(cells)} rows", not missed)
    lines.append(f"    {len(cells) - len(missed)} rows are; the worst is {cells[worst]:.3f}x, {worst.label.strip()}")
    lines += [f"    not: {value:.3f}x, {case.label.strip()}" for case, value in missed.items()]
    for name, aim in ADVANTAGE_AIMS.items():
        for how in DELIVERIES:
            case = Case("decode", ADVANTAGE_SIZE, how)
            advantage = ratio(results, case, name, "evloop") if case in results else None
            if advantage:
                what = f"at least {aim}x {RIVALS[name].label} at {ADVANTAGE_SIZE} B, {DELIVERIES[how]}"
                lines += _verdict(f"{what}: {advantage.times:.2f}x", advantage.times >= aim)
    return lines


def unsteady(results: Results) -> list[str]:
    """Warn if the C loop or evloop, which every ratio here is made of, was disturbed."""
    disturbed = []
    for case in results:
        rows = [costs(results, case, name) for name in ("cloop", "evloop")]
        if any(each and max(each) > STEADY * min(each) for each in rows):
            disturbed.append(case)
    if not disturbed:
        return []
    return [
        "",
        f"UNSTEADY: in {len(disturbed)} of {len(results)} rows the C loop's or evloop's largest round is more than "
        f"{STEADY}x its smallest.",
        "The machine was busy; measure again before quoting these rows:",
        *[f"  {case.direction} {case.label}" for case in disturbed],
    ]


def _verdict(what: str, met: bool) -> list[str]:
    """Return a line that says whether an aim was met."""
    return [f"  {'met   ' if met else 'MISSED'}  {what}"]
