"""Write the numbers of README.md and docs/benchmarks.md: each block between markers, from the files in bench/results.

    python bench/tables.py [--results DIRECTORY] [--pages DIRECTORY]     without measuring anything

A block whose files are not there is left as it is.  A test holds the pages to what this makes of the files.

Rule: nothing in this file measures, and no number stands in it but how many digits there are.
Read next: ``publish.py``, which measures; ``docs/benchmarks.md``, where most of it goes.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from evloop.bench.framing_cases import RIVALS as FRAMING_RIVALS
from evloop.bench.intervals import paired
from evloop.bench.peers_report import title, wrapped
from evloop.bench.peers_run import parse_case
from evloop.bench.records import CaseResults, Document, Runs, by_case, figures, middle, read
from evloop.bench.report import COLUMNS, base_of, cost_path
from evloop.bench.rivals import TUNED

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PAGES = ("README.md", "docs/benchmarks.md")
PICTURES = "docs/pictures"

MARKED = re.compile(r"(<!-- bench:([a-z0-9-]+) -->\n)(.*?)(<!-- /bench -->)", re.S)

CPU = "server/us_per_message"
COST = "ns_per_frame"
RATIO = "CPU us a message (ratio to C)"

# The rows of the README's tables: a label, and the row that it stands for; of two settings of malloc the cheaper one.
FRAMED_ROWS = {
    "C, epoll": "c",
    "evloop, `frames_received`": "evloop-batch",
    "evloop, function": "evloop-function",
    "evloop, coroutine": "evloop-coroutine",
    "asyncio Protocol on evloop.aio": "evloop-aio-protocol",
    "asyncio Protocol on uvloop with aiofastnet": "aiofastnet-protocol",
    "asyncio Protocol on uvloop": "uvloop-protocol",
    "asyncio Protocol on rloop": "rloop-protocol",
    "asyncio Protocol on asyncio": "asyncio-protocol",
    "`evloop.aio.start_server`": "evloop-streams",
    "asyncio's streams on evloop.aio": "evloop-aio-streams",
    "asyncio's streams on uvloop": "uvloop-streams",
    "threads, `socketserver`": "socketserver-threads",
    "gevent": "gevent-server",
    "Twisted, `Int32StringReceiver`": "twisted-int32",
    "trio": "trio-server",
    "Tornado": "tornado-tcpserver",
    "evloop in pure Python": "evloop-pure",
}
RAW_ROWS = {
    "C, epoll": "c-raw",
    "evloop.aio": "evloop-aio-raw",
    "aiofastnet on uvloop": "aiofastnet-raw",
    "uvloop": "uvloop-raw",
    "rloop": "rloop-raw",
    "asyncio": "asyncio-raw",
}
SIZE_ROWS = {label: row for label, row in FRAMED_ROWS.items() if row in (
    "c", "evloop-batch", "evloop-function", "evloop-coroutine", "evloop-aio-protocol", "aiofastnet-protocol",
    "uvloop-protocol", "twisted-int32")}  # fmt: skip
FRAMED_COLUMNS = {"c100p1s64": "1 in flight", "c100p16s64": "16 in flight"}
RAW_COLUMNS = {
    "raw-c100s64": "64 B", "raw-c100s1k": "1 KiB", "raw-c1s64": "64 B, 1 connection", "raw-c100s100k": "100 KiB"
}  # fmt: skip
SIZE_COLUMNS = {
    "c1p1s64": "1 connection", "c5000p1s64": "5,000 connections", "c100p1s1k": "1 KiB", "c10p1s64k": "64 KiB",
    "c4p1s1m": "1 MiB", "accept": "connect, message, close",
}  # fmt: skip
IDLE_ROWS = {
    "evloop-function": "a function",
    "evloop-protocol": "a protocol object",
    "evloop-coroutine": "a coroutine",
    "uvloop-protocol": "a Protocol on uvloop",
    "asyncio-protocol": "one on asyncio",
}
FRAMING_COLUMNS = ("cloop", "evloop", "pure", "struct", "msgpack", "twisted")
FRAMING_ROWS = (
    "decode 64 full",
    "decode 64 one",
    "decode 1024 full",
    "decode 1024 one",
    "encode 64 each",
    "encode 64 batch",
)

Cases = dict[str, CaseResults]
Documents = Mapping[str, Document]


def number(value: float) -> str:
    """Return a figure with two to four digits."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; all but its first column are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def costs(cases: Cases, case: str, row: str, path: str = CPU) -> list[float]:
    """Return a figure of each round, [] where there is none."""
    runs = cases.get(case, {}).get(row, "")
    return [] if isinstance(runs, str) else figures(runs, path)


def cell(cases: Cases, case: str, row: str, base: str, path: str = CPU) -> tuple[str, bool]:
    """Return a cost with its ratio, of the cheaper of two settings of malloc; and whether that was the tuned one."""
    found = {name: costs(cases, case, name, path) for name in (row, row + TUNED)}
    present = {name: values for name, values in found.items() if values}
    if not present:
        return ("FAILED" if any(isinstance(cases.get(case, {}).get(name), str) for name in found) else "-"), False
    name = min(present, key=lambda each: median(present[each]))
    said = number(median(present[name]))
    times = paired(present[name], costs(cases, case, base, path))
    if times:
        said += f" ({'= ' if times.same and name != base else ''}{times.times:.2f})"
    return said, name.endswith(TUNED)


def cost_table(cases: Cases, head: str, rows: Mapping[str, str], columns: Mapping[str, str]) -> str:
    """Return a table of costs: *rows* by label, *columns* by case, the ratio to the first row in brackets."""
    shown = {case: words for case, words in columns.items() if case in cases}
    base = next(iter(rows.values()))
    lines = []
    for label, row in rows.items():
        cells = [cell(cases, case, row, base) for case in shown]
        if any(said != "-" for said, _ in cells):
            tuned = [tuned for said, tuned in cells if said not in ("-", "FAILED")]
            suffix = ", tuned malloc" if tuned and all(tuned) else ", the better malloc" if any(tuned) else ""
            lines.append([label + suffix, *(said for said, _ in cells)])
    return markdown([head, *shown.values()], lines)


def full_tables(found: Document) -> str:
    """Return every case of a document with every row: figures, ratio, interval."""
    parts = []
    for case, results in by_case(found).items():
        words = found.get("titles", {}).get(case, "")
        parts.append(f"**{case}**{': ' + words if words else ''}\n\n{full_table(found['tool'], results)}")
    return "\n\n".join(parts)


def full_table(tool: str, results: CaseResults) -> str:
    """Return one case with every row, the cheapest first, the failed ones with their reasons."""
    measured = {name: runs for name, runs in results.items() if not isinstance(runs, str)}
    columns = [each for each in COLUMNS if any(middle(runs, each[0]) is not None for runs in measured.values())]
    path, base = cost_path(results), base_of(tool, results)
    head = ["", *(heading for _, heading, _, _ in columns), *([f"times {base}", "interval"] if base else [])]
    rows = []
    for name in sorted(measured, key=lambda each: middle(measured[each], path) or 0):
        cells = [_figure(measured[name], *column) for column in columns]
        rows.append([name, *cells, *(_ratio(measured[name], measured[base], path) if base else [])])
    rows += [[name, text, *[""] * (len(head) - 2)] for name, text in results.items() if isinstance(text, str)]
    return markdown(head, rows)


def _figure(runs: Runs, path: str, _heading: str, divisor: float, digits: int) -> str:
    value = middle(runs, path)
    if value is None:
        return "-"
    bound = path == "rate" and any(run.get("client", {}).get("client_bound") for run in runs)
    return f"{'>= ' if bound else ''}{value / divisor:,.{digits}f}"


def _ratio(mine: Runs, base: Runs, path: str) -> list[str]:
    times = paired(figures(mine, path), figures(base, path))
    if times is None:
        return ["-", "-"]
    interval = "-" if times.high == float("inf") else f"{times.low:.2f}..{times.high:.2f}"
    return [f"{'= ' if times.same else ''}{times.times:.2f}", interval]


# --- the blocks: each returns its text, or None where the files for it are not there --------------------------------


def peers_of(found: Documents) -> list[Document]:
    """Return the files of bench peers."""
    return [each for each in found.values() if each["tool"] == "peers"]


def peers_cases(found: Documents) -> Cases:
    """Return the cases of all files of bench peers; no two have one in common."""
    return {case: results for each in peers_of(found) for case, results in by_case(each).items()}


def machine(found: Mapping[str, Document]) -> str | None:
    """Return the sentence about the machine, the versions and the rounds of some files, and a line on what each has of
    its own: they may be of several days."""
    parts = {name: _facts(each) for name, each in found.items()}
    if not parts:
        return None
    first, *others = parts.values()
    common = [part for part in first if all(part in other for other in others)]
    own = {name: "; ".join(part for part in facts if part not in common) for name, facts in parts.items()}
    lines = [wrapped(f"- `{name}`: {facts}.", 2) for name, facts in own.items() if facts]
    return "\n\n".join([wrapped("; ".join(common) + ".", 0), *(["\n".join(lines)] if lines else [])])


def _facts(each: Document) -> list[str]:
    """Return what a file says about its machine, its versions and its rounds, one by one."""
    notes = {"evloop": "", **each["notes"]} | {"evloop": f"evloop {each['notes']['evloop']}"}
    keys = ("cpu", "cores", "load", "python", "evloop", "rivals", "servers", "C", "missing", "method")
    return [part for key in keys if notes.get(key) for part in notes[key].split("; ")] + [each["when"][:10]]


def items(lines: Sequence[str]) -> str:
    """Return a list."""
    return "\n".join(wrapped(f"- {line}", 2) for line in lines or ["none in this run"])


def lost(files: Sequence[Document]) -> str | None:
    """Return the rows that evloop loses."""
    return items([line for each in files for line in each.get("lost", [])]) if files else None


def missed_aims(files: Sequence[Document]) -> str | None:
    """Return the aims that were missed, by case."""
    missed: dict[str, list[str]] = {}
    for line in (line for each in files for line in each.get("lost", [])):
        case, _, rest = line.partition(": ")
        row, _, reasons = rest.partition(" costs more than ")
        for reason in re.findall(r"(?:[^,(]|\([^)]*\))+", reasons):
            if "aim" in reason and not row.endswith(TUNED):
                missed.setdefault(case, []).append(f"{row} {re.sub(r'^(the aim|c-raw|c) ', '', reason.strip())}")
    words = {case: f"{title(parse_case(case))} (`{case}`)" for case in missed}
    return items([f"{words[case]}: {'; '.join(rows)}" for case, rows in missed.items()]) if files else None


def framed(found: Documents) -> str | None:
    """Return the README's table of framed servers."""
    cases = peers_cases(found)
    head = "CPU us a message of 64 B, 100 connections (ratio to C)"
    return cost_table(cases, head, FRAMED_ROWS, FRAMED_COLUMNS) if "c100p1s64" in cases else None


def raw(found: Documents) -> str | None:
    """Return the README's table of servers without frames."""
    cases = peers_cases(found)
    return cost_table(cases, RATIO, RAW_ROWS, RAW_COLUMNS) if "raw-c100s64" in cases else None


def sizes(found: Documents) -> str | None:
    """Return the table of other sizes and numbers of connections."""
    cases = peers_cases(found)
    return cost_table(cases, RATIO, SIZE_ROWS, SIZE_COLUMNS) if "accept" in cases else None


def idle(found: Documents) -> str | None:
    """Return the sentence about what idle connections cost."""
    cases = peers_cases(found)
    each = {row: costs(cases, "idle", row, "bytes_per_connection") for row in IDLE_ROWS}
    parts = [f"{median(each[row]):,.0f} bytes with {words}" for row, words in IDLE_ROWS.items() if each[row]]
    if not parts:
        return None
    held = costs(cases, "hold", "evloop-function", "latency_ns/p99.9")
    witness = f"  Beside 19,000 of them a busy connection has p99.9 {median(held) / 1e6:.2f} ms." if held else ""
    return wrapped(f"An idle connection adds {', '.join(parts)}.{witness}", 0)


def framing(found: Documents) -> str | None:
    """Return the README's table of the framing."""
    if "framing" not in found:
        return None
    cases = by_case(found["framing"])
    head = ["ns/frame (ratio to the C loop)", *(FRAMING_RIVALS[name].label for name in FRAMING_COLUMNS)]
    rows = [
        [found["framing"]["titles"][case], *(cell(cases, case, name, "cloop", COST)[0] for name in FRAMING_COLUMNS)]
        for case in FRAMING_ROWS
        if case in cases
    ]
    return markdown(head, rows)


def loop(found: Documents) -> str | None:
    """Return the sentence about the loops: from where to where their ratios reach."""
    ratios = {}
    for case, results in by_case(found["loop"]).items() if "loop" in found else ():
        times = paired(*(costs({case: results}, case, row, "ns_per_operation") for row in ("evloop", "uvloop")))
        if times:
            ratios[case] = times.times
    if not ratios:
        return None
    low, high = (pick(ratios, key=ratios.__getitem__) for pick in (min, max))
    return wrapped(
        f"`call_soon`, timers, tasks and futures without a socket cost {ratios[low]:.2f} ({low}) to {ratios[high]:.2f} "
        f"({high}) of what they cost on uvloop.",
        0,
    )


def fanout(found: Documents) -> str | None:
    """Return the table of the fan-out, by cost of a delivery: the cases of one publisher and 100 bytes."""
    every = by_case(found["fanout"]) if "fanout" in found else {}
    cases = {case: results for case, results in every.items() if re.fullmatch(r"n\d+p1s100o\d+", case)}
    if not cases:
        return None
    names = dict.fromkeys(name for results in cases.values() for name in results)
    first = next(iter(cases))
    order = sorted(names, key=lambda name: median(costs(cases, first, name) or [math.inf]))
    head = ["CPU us a delivery (ratio to redis)"]
    head += [
        f"{int(case[1:].partition('p')[0]):,} subscribers, {case.rpartition('o')[2]} outstanding" for case in cases
    ]
    return markdown(head, [[name, *(cell(cases, case, name, "redis")[0] for case in cases)] for name in order])


def all_of(*files: Document | None) -> str | None:
    """Return every case and row of some files."""
    return "\n\n".join(full_tables(each) for each in files if each) or None


BLOCKS: dict[str, Callable[[Documents], str | None]] = {
    "framed": framed,
    "raw": raw,
    "sizes": sizes,
    "idle": idle,
    "machine": lambda found: machine({name: each for name, each in found.items() if each["tool"] == "peers"}),
    "missed": lambda found: missed_aims(peers_of(found)),
    "lost": lambda found: lost(peers_of(found)),
    "peers": lambda found: all_of(*peers_of(found)),
    "framing": framing,
    "framing-all": lambda found: all_of(found.get("framing")),
    "framing-machine": lambda found: machine({name: found[name] for name in ("framing",) if name in found}),
    "framing-lost": lambda found: lost([found["framing"]] if "framing" in found else []),
    "loop": loop,
    "loop-lost": lambda found: lost([found["loop"]] if "loop" in found else []),
    "loop-all": lambda found: all_of(found.get("loop")),
    "loop-machine": lambda found: machine({name: found[name] for name in ("loop",) if name in found}),
    "fanout": fanout,
    "fanout-all": lambda found: all_of(found.get("fanout")),
    "fanout-lost": lambda found: lost([found["fanout"]] if "fanout" in found else []),
    "fanout-machine": lambda found: machine({name: found[name] for name in ("fanout",) if name in found}),
}


def picture_of(name: str, shown: Sequence[str], page: str) -> str | None:
    """Return the images whose names begin with the block's, without ``picture-``; None if there are none."""
    folder = "docs/pictures" if page == "README.md" else "pictures"
    names = [each for each in shown if each.startswith(name.removeprefix("picture-"))]
    return "\n\n".join(f"![{each}]({folder}/{each}.svg)" for each in names) or None


def filled(text: str, page: str, found: Documents, shown: Sequence[str]) -> str:
    """Return the text of a page with its blocks filled, those whose files are not there as they were.

    *shown*: the names of the pictures in docs/pictures; the block ``picture-NAME`` is those that begin with NAME.

    Raises:
        KeyError: a block has a name that is not in BLOCKS.
    """

    def fill(match: re.Match[str]) -> str:
        picture = match[2].startswith("picture-")
        made = picture_of(match[2], shown, page) if picture else BLOCKS[match[2]](found)
        return match[0] if made is None else f"{match[1]}{made}\n{match[4]}"

    return MARKED.sub(fill, text)


def documents(directory: Path) -> dict[str, Document]:
    """Return the files of results in a directory by name, without the suffix."""
    return {path.stem: read(path) for path in sorted(directory.glob("*.json"))}


def pictures(directory: Path) -> list[str]:
    """Return the names of the pictures in a directory, without the suffix."""
    return sorted(path.stem for path in directory.glob("*.svg"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the files are (bench/results)")
    parser.add_argument("--pages", type=Path, default=ROOT, help="the directory with README.md and docs")
    options = parser.parse_args()
    found, shown = documents(options.results), pictures(options.pages / PICTURES)
    for page in PAGES:
        path = options.pages / page
        path.write_text(filled(path.read_text(encoding="utf-8"), page, found, shown), encoding="utf-8")
        print(f"filled {path}")


if __name__ == "__main__":
    main()
