"""The core of the event loop: the reactor's, compiled with what asyncio asks of a loop for each future and each task.

In pure mode it is the reactor's core as it is: the rest is asyncio's own, which is Python as well.

Rule: nothing but the choice stands in this file.  Read next: ``_core.pyx``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evloop.reactor import IMPLEMENTATION

__all__ = ["AsyncioCore"]

if TYPE_CHECKING or IMPLEMENTATION == "python":
    from evloop.reactor import Core as AsyncioCore
else:
    from evloop.aio._core import AsyncioCore
