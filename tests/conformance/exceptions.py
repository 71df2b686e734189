"""The tests of CPython's that do not hold on evloop's loop, each with the reason; and what no loop of ours runs in.

Both lists are strict: an excepted test that passes is a failure of the run, and so is an entry that names no test of
the versions it is for.  The aim is none.

Rule: nothing in this file may excuse a test of which nobody knows why it fails.
"""

from __future__ import annotations

from dataclasses import dataclass

Version = tuple[int, int]


@dataclass(frozen=True)
class Excepted:
    """A test that is expected to fail.

    Args:
        test: ``module.Class.method``.
        reason: why, and whether it is the loop, the test or this machine.
        since: the first version of Python in which it fails.
        until: the last one.
        on_stock: whether it fails on the standard library's own loop, too.
    """

    test: str
    reason: str
    since: Version = (3, 10)
    until: Version = (3, 99)
    on_stock: bool = False


EXCEPTED: tuple[Excepted, ...] = ()

# Tests that hold only after another one in the same process, on any loop, and run after that one here, too.
AFTER = {
    # Since 3.12 the policy's get_event_loop() makes a loop, until the first set_event_loop() of the process.
    "test_subprocess.GenericWatcherTests.test_create_subprocess_with_pidfd":
        "test_subprocess.GenericWatcherTests.test_create_subprocess_fails_with_inactive_watcher",
}  # fmt: skip

# Modules that make no loop of ours, since they test parts of asyncio on mocks; with the last version of that kind.
LOOP_INDEPENDENT = {
    "test_pep492": (3, 99),  # asyncio.BaseEventLoop with a mock for a selector
    "test_protocols": (3, 99),  # the classes of protocols alone
    "test_runners": (3, 12),  # asyncio.BaseEventLoop with a mock for a selector; one test more in 3.13
    "test_transports": (3, 99),  # the classes of transports alone
}

# Modules for another operating system.
OTHER_SYSTEM = {"test_proactor_events", "test_windows_events", "test_windows_utils"}


def makes_loops(module: str, version: Version) -> bool:
    """Return whether a module has to make loops of ours in one version of Python; if not, it has to make none."""
    return version > LOOP_INDEPENDENT.get(module, (0, 0))


def excepted_in(version: Version, stock: bool = False) -> dict[str, Excepted]:
    """Return what is expected to fail in one version of Python, by the test's name."""
    entries = [entry for entry in EXCEPTED if entry.since <= version <= entry.until and (entry.on_stock or not stock)]
    return {entry.test: entry for entry in entries}
