"""How a load is watched: one line that redraws itself on a terminal, one line a second elsewhere; both on stderr.

Rule: nothing in this file measures, and drawing must not delay what is measured: this thread gives way to the load's.
Read next: ``bench_load.py``.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from evloop.bench.load import Progress
    from evloop.bench.load_options import LoadOptions

# Redraws a second: fewer look stuck, more are not read.
_REDRAWS = 4

# Of 0..19.  The thread that draws shares a core with the generator where the server has the other one, and two
# milliseconds of drawing in its way would be the p99.9 of the server.
_NICENESS = 15


@contextlib.contextmanager
def progress(options: LoadOptions) -> Iterator[Callable[[Progress], None]]:
    """Yield a function that shows a `Progress`, as often as it is worth it."""
    if sys.stderr.isatty():
        with _drawing(options) as draw:
            yield draw
    else:
        yield _Lines(options)


class _Lines:
    """A line when a phase begins, and one a second while it is measured."""

    def __init__(self, options: LoadOptions) -> None:
        self._options = options
        self._phase, self._next = "", 1.0

    def __call__(self, now: Progress) -> None:
        if now.phase == self._phase and (now.phase != "measuring" or now.seconds < self._next):
            return
        self._phase = now.phase
        if now.phase == "measuring" and now.seconds >= self._next:
            self._next = int(now.seconds) + 1.0
        click.echo(f"  {line(now, self._options)}", err=True)


def line(now: Progress, options: LoadOptions) -> str:
    """Return how far a load is, in a line."""
    if now.phase == "connecting":
        return f"connecting  {now.connections:,} of {options.all_connections:,}"
    if now.phase != "measuring":
        return now.phase
    whole = f"{now.messages / options.count:.0%}" if options.count else f"{now.seconds:.0f} of {options.duration:g} s"
    rate = f"  {now.rate:,.0f}/s" if now.rate else ""
    return f"measuring  {whole}  {now.messages:,} messages{rate}"


@contextlib.contextmanager
def _drawing(options: LoadOptions) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
    last = 0.0
    console: Any = Console(stderr=True, highlight=False)
    with Live(Text(""), console=console, auto_refresh=False, transient=True) as live:

        def draw(now: Progress) -> None:
            nonlocal last
            if time.monotonic() - last >= 1 / _REDRAWS:
                last = time.monotonic()
                live.update(Text(line(now, options), style="dim"), refresh=True)

        yield draw
