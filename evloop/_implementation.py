"""Which implementation of a seam is wanted: one switch for all doors."""

from __future__ import annotations

import os


def pure_wanted() -> bool:
    """Tell whether EVLOOP_PURE asks for the pure twins; ValueError if it is neither 0, 1, empty nor unset."""
    value = os.environ.get("EVLOOP_PURE", "")
    if value not in ("", "0", "1"):
        raise ValueError(f"EVLOOP_PURE must be 0 or 1, not {value!r}")
    return value == "1"
