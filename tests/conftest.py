"""What every test shares: the two framing implementations, and proof that a test cleans up after itself."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys

import pytest
from twins import PURE_ONLY, implementations


def pytest_addoption(parser):
    parser.addoption("--pure-only", action="store_true", help="test the pure-Python twins alone")
    parser.addoption("--compiled-only", action="store_true", help="test the compiled twins alone")
    parser.addoption("--no-skips", action="store_true", help="fail a test that would be skipped for want of something")


def pytest_configure():
    """Have signals arrive as at a terminal: ignored ones stay so in each program that a test starts.

    SIGINT is ignored by what a script starts with ``&``, SIGHUP by what nohup starts; a handler ends that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)  # this run itself is to go on


def pytest_generate_tests(metafunc):
    """Run each test of a seam over both twins; a missing extension is an error, not a skip."""
    if "framing_module" in metafunc.fixturenames:
        metafunc.parametrize("framing_module", implementations(metafunc.config), indirect=True, scope="session")
    if "connection_class" in metafunc.fixturenames:
        metafunc.parametrize("connection_class", implementations(metafunc.config), indirect=True)


def pytest_collection_modifyitems(config, items):
    """Leave out what this Python is too old for: nothing that the machine lacks, and so no skip."""
    new_enough = [item for item in items if all(sys.version_info >= mark.args for mark in item.iter_markers("since"))]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(new_enough)])
    items[:] = new_enough


def pytest_collection_finish():
    """Let the garbage collector look past the tests themselves: 300,000 objects, at each of its full turns."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """With --no-skips: the machine that checks a change has all that a test needs, or the check is worth less."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and item.config.getoption("--no-skips") and PURE_ONLY not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"skipped, and --no-skips was given: {report.longrepr[2]}"


@pytest.fixture(scope="session")
def framing_module(request):
    """One implementation of the framing seam, imported by name so that its absence fails the run."""
    if request.param == "cython":
        import evloop._framing as module
    else:
        import evloop._framing_py as module
    return module


def open_fds():
    """Return what each open file descriptor of this process points at, as {fd: target}."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
    return found


@pytest.fixture(autouse=True)
def no_leaked_fds(request):
    """Fail a test that ends with more file descriptors than it began with."""
    before = open_fds()
    yield
    after = open_fds()
    leaked = {fd: target for fd, target in after.items() if before.get(fd) != target}
    if leaked:
        gc.collect()  # an exception's traceback may be what keeps a socket; a cycle is no leak
        after = open_fds()
        leaked = {fd: target for fd, target in after.items() if before.get(fd) != target}
    assert not leaked, f"file descriptors left open: {leaked}"


@pytest.fixture(autouse=True)
def logger_as_it_was():
    """Give the logger back as it was: the command line turns it to stderr for the process."""
    logger = logging.getLogger("evloop")
    before = logger.handlers[:], logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = before[:2]
    logger.setLevel(before[2])
