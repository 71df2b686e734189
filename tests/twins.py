"""Which of the twins a run tests, and what a run of one of them leaves out."""

from __future__ import annotations

import pytest

PURE_ONLY = "only the pure twin was asked for"


def implementations(config):
    """Return the names of the implementations to be tested; a missing extension is an error, not a skip."""
    if config.getoption("--compiled-only"):
        return ["cython"]
    return ["python"] if config.getoption("--pure-only") else ["cython", "python"]


def needs_compiled(config):
    """Skip a test of the compiled twin, or of both side by side, where only the pure one was asked for."""
    if config.getoption("--pure-only"):
        pytest.skip(PURE_ONLY)
