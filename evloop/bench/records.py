"""Files of results: what ``--json`` writes, ``schema.json`` describes, and ``compare`` and ``report`` read.

Rule: nothing in this file measures or formats.  Read next: ``schema.json``, ``compare.py``.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import re
import time
from collections.abc import Sequence
from importlib import metadata
from statistics import median
from typing import Any

SCHEMA = "evloop-bench/1"
SCHEMA_FILE = pathlib.Path(__file__).with_name("schema.json")

# A round as the schema has it; a row's rounds, or why there are none; the rows of a case by name.
Round = dict[str, Any]
Runs = list[Round]
CaseResults = dict[str, "Runs | str"]
Document = dict[str, Any]


class NotAResult(Exception):
    """A file is not one of ours; the message says which and why."""


def host() -> dict[str, Any]:
    """Describe this machine, as the schema's ``host``."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 1,
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "evloop": metadata.version("evloop"),
        "load1": round(os.getloadavg()[0], 2),
    }


def cpu_model() -> str:
    """Return the processor's name, or its architecture where the kernel does not tell."""
    found = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.M)
    return found[1] if found else platform.machine()


def hardware(found: dict[str, Any]) -> str:
    """Return the processor and the kernel in words, and whether both are a guest's; *found* is what `host` returned."""
    virtual = ", a virtual machine" if re.search(r"^flags\b.*\bhypervisor\b", _text("/proc/cpuinfo"), re.M) else ""
    return f"{found['cpu']}, {found['cores']} cores{virtual}, kernel {found['kernel']}"


def system(found: dict[str, Any]) -> str:
    """Return the same, with TCP's congestion control: both ends of a loopback do its work for each acknowledgement."""
    control = _text("/proc/sys/net/ipv4/tcp_congestion_control").strip() or "of an unknown kind"
    return f"{hardware(found)}, congestion control {control}"


def _text(path: str) -> str:
    """Return what a file of the kernel's says, "" if it does not exist here."""
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def document(tool: str, argv: Sequence[str], params: dict[str, Any], notes: dict[str, str]) -> Document:
    """Return a document without results, whose time is now."""
    return {
        "schema": SCHEMA,
        "tool": tool,
        "argv": list(argv),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": host(),
        "params": params,
        "notes": notes,
        "results": [],
    }


def rows(case: str, results: CaseResults) -> list[dict[str, Any]]:
    """Return the rows of a case as the schema's ``results``."""
    return [
        {"case": case, "name": name, "rounds": []} | ({"failed": runs} if isinstance(runs, str) else {"rounds": runs})
        for name, runs in results.items()
    ]


def by_case(found: Document) -> dict[str, CaseResults]:
    """Return a document's rows by case and name, in its order; a failed row is the text that says why."""
    cases: dict[str, CaseResults] = {}
    for row in found["results"]:
        cases.setdefault(row["case"], {})[row["name"]] = row.get("failed") or row["rounds"]
    return cases


def write(path: pathlib.Path, found: Document) -> None:
    """Write a document: a round to a line, so that two runs can be told apart by diff(1).  OSError as open() has it."""
    text = json.dumps({**found, "results": "@"}, indent=1)
    lines = []
    for row in found["results"]:
        head = json.dumps({key: value for key, value in row.items() if key != "rounds"})[:-1]
        rounds = ",\n   ".join(json.dumps(each) for each in row["rounds"])
        lines.append(f'  {head}, "rounds": [\n   {rounds}]}}' if rounds else f'  {head}, "rounds": []}}')
    path.write_text(text.replace('"@"', "[\n" + ",\n".join(lines) + "\n ]", 1) + "\n", encoding="utf-8")


def read(path: pathlib.Path) -> Document:
    """Return the document in a file.

    Raises:
        NotAResult: it is not one, or one of another version.
        OSError: the file cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise NotAResult(f"{path} is not JSON: {exc}") from None
    version = found.get("schema") if isinstance(found, dict) else None
    if version != SCHEMA:
        raise NotAResult(
            f"{path} has the schema {version!r}, and {SCHEMA!r} is needed; --json of evloop bench writes it"
        )
    for row in found.get("results", [{}]):
        if not all(key in row for key in ("case", "name", "rounds")):
            raise NotAResult(f"{path} has a result without case, name or rounds")
    return dict(found)


def figure(run: Round, path: str) -> float | None:
    """Return one figure of a round, ``server/us_per_message``, or None if the round has it not."""
    value: Any = run
    for key in path.split("/"):
        value = value.get(key) if isinstance(value, dict) else None
    return None if value is None else float(value)


def figures(runs: Runs, path: str) -> list[float]:
    """Return a figure of each round; of those that have it."""
    return [value for value in (figure(run, path) for run in runs) if value is not None]


def middle(runs: Runs, path: str) -> float | None:
    """Return the median of a figure, None if no round has it."""
    found = figures(runs, path)
    return median(found) if found else None
