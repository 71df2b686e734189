"""A page of results: one file of HTML with its pictures inside, and the pictures as files beside it.

The page has no script and loads nothing.  Every row of the files is in a table, the lost ones by name.

Rule: nothing in this file measures or reads a file.  Read next: ``plots.py``, ``records.py``.
"""

from __future__ import annotations

import base64
import html
import pathlib
import re
from collections.abc import Iterable, Sequence

from evloop.bench import plots
from evloop.bench.intervals import paired
from evloop.bench.plots import Picture
from evloop.bench.records import CaseResults, Document, Runs, by_case, figures, middle

# What the ratios of a tool's tables and pictures are to: the first of these rows that a case has.
BASES = {"peers": ("c", "c-raw"), "fanout": ("floor",), "framing": ("cloop",), "loop": ("uvloop", "asyncio")}

# Columns of a table: where the figure is, its heading, what it is divided by, its digits.
COLUMNS = (
    ("server/us_per_message", "CPU us", 1, 3),
    ("ns_per_frame", "ns/frame", 1, 1),
    ("ns_per_operation", "CPU ns/op", 1, 0),
    ("bytes_per_connection", "bytes/connection", 1, 0),
    ("rate", "messages/s", 1, 0),
    ("latency_ns/p50", "p50 us", 1e3, 0),
    ("latency_ns/p99", "p99 us", 1e3, 0),
    ("latency_ns/p99.9", "p99.9 us", 1e3, 0),
    ("server/rss_bytes", "RSS MiB", 2**20, 1),
)
# What a ratio is of: the first of these that the rows of a case have.
COSTS = ("server/us_per_message", "ns_per_frame", "ns_per_operation", "bytes_per_connection", "latency_ns/p99.9")

_TITLES = {
    "peers": "Echo servers", "fanout": "Fan-out", "framing": "Framing", "loop": "Event loops", "load": "Load"
}  # fmt: skip

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 980px; margin: 2em auto; padding: 0 1em }
h1, h2, h3 { line-height: 1.2; margin: 1.6em 0 .5em } h1 { font-size: 1.8em } h2 { border-bottom: 1px solid #ccc }
img { max-width: 100%; height: auto } figure { margin: 1em 0 } .wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: .5em 0 1.5em }
td, th { padding: .15em .7em; text-align: right; white-space: nowrap }
td:first-child, th:first-child, td.failed { text-align: left }
th { border-bottom: 1px solid #888 } tr:nth-child(even) td { background: #f5f7f9 } td.failed { color: #a00 }
tr.ours td:first-child { color: #0072b2; font-weight: 600 }
dl { font-size: 13px; display: grid; grid-template-columns: 6em 1fr; gap: .2em 1em } dt { color: #666 } dd { margin: 0 }
"""


def base_of(tool: str, results: CaseResults) -> str:
    """Return the row that the ratios of a case are to, "" if it has none of them."""
    return next((name for name in BASES.get(tool, ()) if not isinstance(results.get(name, ""), str)), "")


def cost_path(results: CaseResults) -> str:
    """Return the figure that the rows of a case are compared by, "" if they have none."""
    rows = [runs for runs in results.values() if not isinstance(runs, str)]
    return next((path for path in COSTS if any(middle(runs, path) is not None for runs in rows)), "")


def pictures(found: Document) -> list[Picture]:
    """Return the pictures of one document; their names begin with its tool's."""
    tool, cases, words = found["tool"], by_case(found), found.get("titles", {})
    drawn: list[Picture | None] = []
    for path, title in (("ns_per_frame", "Framing: ns a frame"), ("ns_per_operation", "Event loops: CPU an operation")):
        some = {case: results for case, results in cases.items() if cost_path(results) == path}
        base = next((base_of(tool, results) for results in some.values()), "")
        drawn.append(plots.ratio_dots("ratios", title, some, path, base, words))
    for case, results in cases.items():
        unit = "connection" if case == "accept" else "delivery" if tool == "fanout" else "message"
        title = words.get(case, case)
        if cost_path(results) == plots.CPU:
            drawn.append(plots.cost_bars(f"{case}-cpu", title, results, base_of(tool, results), unit))
        drawn.append(plots.latency_curves(f"{case}-latency", title, results))
    drawn += plots.against_connections(cases, "subscribers" if tool == "fanout" else "connections")
    return [picture._replace(name=file_name(tool, picture.name)) for picture in drawn if picture]


def file_name(tool: str, name: str) -> str:
    """Return the name of a picture of a tool as a file may have it: cases hold slashes and per cent."""
    return re.sub(r"[^\w.+-]", "_", f"{tool}-{name}")


def write(documents: Sequence[Document], directory: pathlib.Path, sources: Sequence[str]) -> list[pathlib.Path]:
    """Write the page and its pictures; return the files, the page first.  *sources*: what each document is called.

    Raises:
        OSError: the directory or a file cannot be written.
        ModuleNotFoundError: matplotlib is not installed.
    """
    all_drawn = [pictures(found) for found in documents]  # before anything is made: this is what may fail
    directory.mkdir(parents=True, exist_ok=True)
    body: list[str] = []
    files: list[pathlib.Path] = []
    for found, source, drawn in zip(documents, sources, all_drawn, strict=True):
        for picture in drawn:
            taken = any(path.stem == picture.name for path in files)  # two files of one tool, such as two loads
            name = f"{pathlib.Path(source).stem}-{picture.name}" if taken else picture.name
            for suffix, data in ((".svg", picture.svg), (".png", picture.png)):
                path = directory / (name + suffix)
                path.write_bytes(data)
                files.append(path)
        body += _section(found, source, drawn)
    page = directory / "index.html"
    page.write_text(_page(body), encoding="utf-8")
    return [page, *files]


def _page(body: Iterable[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>evloop: measurements</title>\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<style>{_STYLE}</style></head><body>\n<h1>evloop: measurements</h1>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _section(found: Document, source: str, drawn: Sequence[Picture]) -> list[str]:
    """Return the part of the page about one document."""
    tool = found["tool"]
    program = "python -m evloop.bench.micro" if tool == "loop" else "evloop"
    notes = {"when": f"{found['when']}, {source}", "command": " ".join([program, *found["argv"]])}
    notes |= found.get("notes", {})
    lines = [f"<h2>{_TITLES.get(tool, tool)}</h2>", "<dl>"]
    lines += [f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in notes.items()]
    lines.append("</dl>")
    if "lost" in found:
        rows = "".join(f"<li>{html.escape(line)}</li>" for line in found["lost"] or ["none"])
        lines.append(f"<h3>Rows that evloop loses</h3><ul>{rows}</ul>")
    left = list(drawn)
    cases = by_case(found)
    for case, results in cases.items():
        words = found.get("titles", {}).get(case, "")
        lines.append(f"<h3>{html.escape(f'{case}: {words}' if words else case)}</h3>")
        own = [picture for picture in left if picture.name.startswith(file_name(tool, f"{case}-"))]
        lines += [_figure(picture) for picture in own]
        left = [picture for picture in left if picture not in own]
        lines.append(_table(tool, results))
    if left:
        lines.append(f"<h3>{_TITLES.get(tool, tool)}: all cases</h3>")
    return lines + [_figure(picture) for picture in left]


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.svg).decode("ascii")
    return f'<figure><img alt="{html.escape(picture.title)}" src="data:image/svg+xml;base64,{data}"></figure>'


def _table(tool: str, results: CaseResults) -> str:
    """Return the table of one case: every row, the cheapest first, the failed ones with their reasons."""
    measured = {name: runs for name, runs in results.items() if not isinstance(runs, str)}
    columns = [each for each in COLUMNS if any(middle(runs, each[0]) is not None for runs in measured.values())]
    cost, base = cost_path(results), base_of(tool, results)
    heads = ["", *(heading for _, heading, _, _ in columns), *([f"times {base}", "interval"] if base else [])]
    lines = ["<div class=wide><table><tr>" + "".join(f"<th>{html.escape(head)}</th>" for head in heads) + "</tr>"]
    for name in sorted(measured, key=lambda name: middle(measured[name], cost) or 0.0):
        cells = [name, *(_cell(measured[name], path, divisor, digits) for path, _, divisor, digits in columns)]
        cells += _ratio(figures(measured[name], cost), figures(measured[base], cost)) if base else []
        kind = ' class="ours"' if name.startswith("evloop") else ""
        lines.append(f"<tr{kind}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    lines += [
        f'<tr><td>{html.escape(name)}</td><td class="failed" colspan="{len(heads) - 1}">{html.escape(text)}</td></tr>'
        for name, text in results.items()
        if isinstance(text, str)
    ]
    return "\n".join([*lines, "</table></div>"])


def _cell(runs: Runs, path: str, divisor: float, digits: int) -> str:
    value = middle(runs, path)
    if value is None:
        return "-"
    bound = path == "rate" and any(run.get("client", {}).get("client_bound") for run in runs)
    return f"{'>= ' if bound else ''}{value / divisor:,.{digits}f}"


def _ratio(mine: Sequence[float], base: Sequence[float]) -> list[str]:
    found = paired(mine, base)
    if found is None:
        return ["-", "-"]
    interval = "unknown" if found.high == float("inf") else f"{found.low:.2f}..{found.high:.2f}"
    return [f"{'= ' if found.same else ''}{found.times:.2f}", interval]
