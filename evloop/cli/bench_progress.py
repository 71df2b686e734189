"""How far a benchmark is, on a terminal: one line of stderr that is written over and over.

Rule: nothing in this file may write where no terminal is.
"""

from __future__ import annotations

import sys
import time

import click


class Progress:
    """One line on a terminal's stderr: what runs, and when it will have ended; nothing elsewhere."""

    def __init__(self, runs: int, rounds: int) -> None:
        self._runs, self._rounds, self._done, self._began = runs, rounds, 0, time.monotonic()
        self._shown = sys.stderr.isatty()

    def __call__(self, case: str, name: str, number: int) -> None:
        """Show that a run begins."""
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
