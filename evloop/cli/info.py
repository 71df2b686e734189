"""``evloop info``: versions, which implementation runs, the limits of this system, and what to do about them.

Rule: nothing in this file may change anything.  Read next: ``evloop/framing.py``, which chooses an implementation.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import sys
from typing import Any

import click

import evloop
import evloop.connection
import evloop.framing
import evloop.group
import evloop.reactor
from evloop.cli.commands import Command
from evloop.cli.options import verbosity_options
from evloop.limits import HEAD_ROOM
from evloop.sockets import somaxconn

# Fewer than that and the default --max-connections of `evloop serve` is cut.
_WANTED_FILES = 10_000 + HEAD_ROOM


@click.command(
    "info",
    cls=Command,
    examples=("evloop info", "evloop info --json", "EVLOOP_PURE=1 evloop info   # what runs without the extension"),
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@verbosity_options
def command(as_json: bool) -> None:
    """Show versions, which implementation runs, limits of the system, advice."""
    facts = collect()
    facts["advice"] = advice(facts)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    elif sys.stdout.isatty():
        _draw(facts)
    else:
        _write(facts)


def collect() -> dict[str, Any]:
    """Return the facts by group: ``versions``, ``system``, ``implementations``, ``limits``.  Any thread."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {
        "versions": {
            "evloop": evloop.__version__,
            "python": f"{platform.python_version()} ({platform.python_implementation()})",
            "click": importlib.metadata.version("click"),
            "rich": importlib.metadata.version("rich"),
        },
        "system": {
            "platform": f"{platform.system()} {platform.machine()}",
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
        },
        "implementations": {
            "framing": evloop.framing.IMPLEMENTATION,
            "reactor": evloop.reactor.IMPLEMENTATION,
            "connection": evloop.connection.IMPLEMENTATION,
            "group": evloop.group.IMPLEMENTATION,
        },
        "limits": {
            "open_files_soft": _number(soft),
            "open_files_hard": _number(hard),
            "somaxconn": somaxconn(),
        },
    }


def _number(limit: int) -> int | None:
    return None if limit == resource.RLIM_INFINITY else limit


def advice(facts: dict[str, Any]) -> list[str]:
    """Return one sentence for each of *facts* that costs speed or connections; cause before remedy.  Any thread."""
    limits = facts["limits"]
    soft, hard, queue = limits["open_files_soft"], limits["open_files_hard"], limits["somaxconn"]
    backlog = evloop.Limits().backlog
    found = []
    if facts["implementations"]["framing"] == "python":
        remedy = "install gcc and python3-dev, then build again: make build, or pip install --force-reinstall evloop"
        if evloop.framing.pure_wanted():
            remedy = "unset EVLOOP_PURE"
        found.append(f"framing runs in plain Python, about ten times slower than compiled; {remedy}")
    if hard is not None and hard < _WANTED_FILES:
        found.append(
            f"the hard limit of {hard} open files allows {max(hard - HEAD_ROOM, 1)} connections; "
            "raise it: ulimit -Hn, /etc/security/limits.conf, or LimitNOFILE= of a systemd service"
        )
    if soft is not None and (hard is None or soft < hard):
        found.append(
            f"the soft limit is {soft} open files; evloop serve raises it by itself, for other programs: ulimit -n hard"
        )
    if queue is not None and queue < backlog:
        found.append(
            f"net.core.somaxconn={queue} cuts a backlog of {backlog}; sysctl -w net.core.somaxconn={4 * backlog}"
        )
    return found


def _rows(facts: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the facts for a table: (group, [(name, value)]), the values as text."""
    groups = [group for group in facts if group != "advice"]
    return [
        (group, [(name.replace("_", " "), _shown(value)) for name, value in facts[group].items()]) for group in groups
    ]


def _shown(value: object) -> str:
    return "unknown or unlimited" if value is None else str(value)


def _write(facts: dict[str, Any]) -> None:
    for group, rows in _rows(facts):
        click.echo(group)
        for name, value in rows:
            click.echo(f"  {name:<16}{value}")
    click.echo("advice")
    for sentence in facts["advice"] or ["none: nothing here holds evloop back"]:
        click.echo(f"  {sentence}")


def _draw(facts: dict[str, Any]) -> None:
    """Show the same on a terminal, with colours; rich honours NO_COLOR and TERM=dumb."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    for group, rows in _rows(facts):
        table.add_row(Text(group, style="bold"), "", "")
        for name, value in rows:
            style = "yellow" if group == "implementations" and value == "python" else ""
            table.add_row("", Text(name, style="cyan"), Text(value, style=style))
    console.print(table)
    console.print(Text("advice", style="bold"))
    for sentence in facts["advice"] or ["none: nothing here holds evloop back"]:
        console.print(Text(f"  {sentence}"), soft_wrap=True)
