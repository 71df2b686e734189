"""Each fault strikes a server of both twins."""

from __future__ import annotations

from twins import implementations


def pytest_generate_tests(metafunc):
    """Run a test with the argument *twin* over both."""
    if "twin" in metafunc.fixturenames:
        metafunc.parametrize("twin", implementations(metafunc.config))
