"""What /proc tells of the server's processes: memory, and how often they were taken off their core.

Read here and not with psutil, which counts the switches of the first thread only.

Rule: nothing in this file knows what the processes do.  Read next: ``load.py``.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterable, Sequence

_SWITCHES = re.compile(r"^(?:non)?voluntary_ctxt_switches:\s+(\d+)", re.M)


def resident(pids: Iterable[int]) -> int | None:
    """Return the resident bytes of all *pids*; None if one cannot be read.

    From smaps_rollup, which walks the page tables; VmRSS may lag by some hundred KiB, and stands in where the other
    needs rights that we have not.
    """
    sizes = [_field(pid, "smaps_rollup", "Rss") or _field(pid, "status", "VmRSS") for pid in pids]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _field(pid: int, name: str, field: str) -> int | None:
    found = re.search(rf"^{field}:\s+(\d+) kB", _text(pathlib.Path(f"/proc/{pid}/{name}")), re.M)
    return int(found[1]) * 1024 if found else None


def context_switches(pids: Sequence[int]) -> int:
    """Return the context switches of all threads of *pids* that are there, wanted and unwanted ones."""
    tasks = [path for pid in pids for path in pathlib.Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(found) for path in tasks for found in _SWITCHES.findall(_text(path)))


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError:  # gone, or somebody else's
        return ""


def pin(pid: int, core: int) -> None:
    """Pin all threads of a process (0: this one) to a core.

    Raises:
        OSError: there is no such core, no such process, or it is not ours.
    """
    for task in os.listdir(f"/proc/{pid or 'self'}/task"):
        os.sched_setaffinity(int(task), {core})
