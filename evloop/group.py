"""Groups: sets of connections that get the same bytes.  The door of the seam, and its contract.

- A payload is encoded once for each framing object among the members; raw members get its bytes as they are.
- It is appended to the output of each: small ones by reference while nothing else waits there, and by copy behind
  something; from 16 KiB on always by reference (ADR 0007).
- Each member is flushed before the next wait, once however many were sent; thousands in slices, between which the
  reactor looks at the other connections (ADR 0012).
- The bounds of the output are each member's own.  What passing one leads to, callbacks and closing, comes when all
  members have theirs.
- A connection leaves its groups when it begins to close.

The door takes the twin of the connections that are in use, and has no other to fall back on.  ``IMPLEMENTATION`` is
``"cython"`` or ``"python"``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evloop import connection

__all__ = ["IMPLEMENTATION", "Group"]

if TYPE_CHECKING or connection.IMPLEMENTATION == "python":
    from evloop._group_py import IMPLEMENTATION, Group
else:
    from evloop._group import IMPLEMENTATION, Group
