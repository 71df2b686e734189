"""One line on a terminal's stderr that says what is measured, and when it will have ended.

Rule: nothing in this file writes to stdout, or to anything but a terminal.
"""

from __future__ import annotations

import sys
import time

import click


class Progress:
    """Called before each of *runs* (int) runs; shows nothing where stderr is no terminal.  Main thread."""

    def __init__(self, runs: int, rounds: int) -> None:
        self._runs, self._rounds, self._done, self._began = runs, rounds, 0, time.monotonic()
        self._shown = sys.stderr.isatty()

    def __call__(self, case: str, name: str, number: int) -> None:
        """Show that round *number*, from 0, of *name* in *case* begins."""
        if self._shown:
            passed = time.monotonic() - self._began
            left = f", {passed / self._done * (self._runs - self._done) / 60:.0f} min left" if self._done else ""
            line = f"{self._done}/{self._runs}{left}: {case} round {number + 1}/{self._rounds} {name}"
            click.echo(f"\r\033[K{line}", nl=False, err=True)
        self._done += 1

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            click.echo("\r\033[K", nl=False, err=True)
