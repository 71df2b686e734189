"""Logs for people and for files: one line an event on stderr, ``2026-11-21T01:08:00.123Z WARNING what happened``."""

from __future__ import annotations

import logging
import time

from evloop.cli.printable import printable

SILENT = logging.CRITICAL + 1  # the command says on its own what went wrong


class LineFormatter(logging.Formatter):
    """One event, one line, UTC with milliseconds; with *tracebacks* what an exception adds follows below."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of *record*.  Any thread."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        text = "; ".join(record.getMessage().splitlines())
        line = f"{moment}.{int(record.msecs):03d}Z {record.levelname} {printable(text)}"
        if self._tracebacks and record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def log_to_stderr(level: int, *, tracebacks: bool = False) -> None:
    """Send what the logger ``evloop`` says from *level* (of :mod:`logging`) on to stderr, and nowhere else."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(tracebacks=tracebacks))
    logger = logging.getLogger("evloop")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level)
