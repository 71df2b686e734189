"""Runs one module of CPython's ``test.test_asyncio`` on evloop's loop, each of its tests in a process of its own.

The modules are those of the Python that runs this, unmodified.  Before one is imported, the places where asyncio
chooses a loop are given ours: the policy's factory, the names of the class, and the class of the epoll selector, so
that a test that asks for "the epoll loop" gets our compiled way in and not the foreign-selector one.

A process a test: a hang, a crash or a leak is then the result of one test, not of all that follow.  They are forked
from one that has imported everything already, and has a single thread, so that a test costs milliseconds to start.

Writes a line of JSON per test to the standard output: id, status, seconds, loops, detail.

Rule: nothing in this file may import evloop or asyncio at its top: ``--stock`` runs without us.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import io
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unittest
from dataclasses import dataclass
from pathlib import Path

from exceptions import AFTER

PACKAGE = "test.test_asyncio"

# Seconds from SIGABRT, on which faulthandler writes down where every thread is, to SIGKILL.
LAST_WORDS = 3.0

# The end of a failing test's output that is passed on: enough for a traceback of asyncio's usual depth.
KEPT_OUTPUT = 6000


class Loops:
    """Counts how many loops of ours a process has made."""

    made = 0
    last = None


def install():
    """Have asyncio make our loops, by whichever of its ways a test asks for one."""
    import asyncio
    import selectors

    import evloop.aio
    import evloop.reactor

    ours = evloop.aio.EventLoop
    first = ours.__init__

    def counting(self, *args, **kwargs):
        Loops.made += 1
        first(self, *args, **kwargs)
        Loops.last = self

    ours.__init__ = counting
    asyncio.DefaultEventLoopPolicy._loop_factory = ours
    for module in (asyncio, asyncio.unix_events):
        for name in ("SelectorEventLoop", "EventLoop"):  # the second: since Python 3.13
            if hasattr(module, name):
                setattr(module, name, ours)
    selectors.EpollSelector = evloop.reactor.EpollSelector


def derive_mocks():
    """Have test_asyncio's mock of a loop, whose clock the tests move by hand, derive from our loop.

    It overrides the clock, ``_run_once`` and what watches fds; scheduling, timers and the turn are then ours, over our
    own selector.
    """
    import asyncio

    base = asyncio.base_events.BaseEventLoop
    asyncio.base_events.BaseEventLoop = asyncio.SelectorEventLoop
    try:
        utils = importlib.import_module(f"{PACKAGE}.utils")
    finally:
        asyncio.base_events.BaseEventLoop = base
    # Our __init__ watches the signals' sockets before the mock's has made this.
    utils.TestLoop.readers = {}
    # And would put a mock in our selector's place after it.
    utils.TestSelector = lambda: Loops.last._selector


def tests_of(suite):
    """Return the test cases of a suite by their ids, in the order in which unittest would run them."""
    found = {}
    for entry in suite:
        if isinstance(entry, unittest.TestSuite):
            found.update(tests_of(entry))
        else:
            found.setdefault(entry.id().removeprefix(PACKAGE + "."), entry)
    return found


# --- the process of one test ------------------------------------------------------------------------------------------


def outcome_of(tests):
    """Run one test, the fixtures of its class and module included; return its status and what was said.

    Args:
        tests: the test; before it, those that it is to follow in the same process.
    """
    log = io.StringIO()
    result = unittest.TextTestRunner(stream=log, verbosity=0).run(unittest.TestSuite(tests))
    if result.errors or result.failures or result.unexpectedSuccesses:
        status = "failed"
    elif result.skipped:
        return "skipped", "; ".join(sorted({reason for _, reason in result.skipped}))
    elif result.expectedFailures:
        return "skipped", "CPython itself expects it to fail"
    else:
        status = "passed" if result.testsRun else "failed"
    return status, log.getvalue() if status == "failed" else ""


def be_the_test(tests, room):
    """Be the process of one test: run it in the directory *room*, leave its outcome there and exit."""
    try:
        os.setsid()  # so that whatever it starts can be killed with it
        os.chdir(room)
        output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.enable()
        Loops.made = 0
        status, detail = outcome_of(tests)
        sys.stdout.flush()
        sys.stderr.flush()
        Path(room, "outcome").write_text(json.dumps([status, detail, Loops.made]))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(0)  # the interpreter's own end is no part of the test, and a thread left behind must not hold it up


@dataclass
class Running:
    """A test under way."""

    name: str
    pid: int
    pidfd: int
    room: str
    began: float
    aborted: bool = False


def start(name, tests):
    """Fork the process of a test."""
    room = tempfile.mkdtemp(prefix="conformance-")
    pid = os.fork()
    if pid == 0:
        be_the_test([tests[before] for before in (AFTER.get(name), name) if before in tests], room)
    return Running(name, pid, os.pidfd_open(pid), room, time.monotonic())


def finish(child, limit):
    """Take the outcome of a process that has ended, and whatever it has left running; return the line about it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)  # its number is still its own: it has not been waited for
    _, code = os.waitpid(child.pid, 0)
    os.close(child.pidfd)
    room = Path(child.room)
    output = room / "output"
    said = output.read_text(errors="replace")[-KEPT_OUTPUT:] if output.exists() else ""
    try:
        status, detail, loops = json.loads((room / "outcome").read_text())
    except FileNotFoundError:
        status, detail, loops = "crashed", f"its process ended with wait status {code}", 1
    if child.aborted:
        status, detail = "hung", f"it was not done after {limit:g} s"
    if status not in ("passed", "skipped"):
        detail = f"{detail}\n{said}"
    shutil.rmtree(room, ignore_errors=True)
    seconds = round(time.monotonic() - child.began, 3)
    return {"id": child.name, "status": status, "seconds": seconds, "loops": loops, "detail": detail}


def reap(running, limit):
    """Wait until a process ends; have those that are over time end; return those that did."""
    poll = select.poll()
    for child in running:
        poll.register(child.pidfd, select.POLLIN)
    ready = {fd for fd, _ in poll.poll(200)}
    now = time.monotonic()
    for child in running:
        late = now - child.began - limit
        if late > 0 and not child.aborted:
            child.aborted = True
            os.kill(child.pid, signal.SIGABRT)
        elif late > LAST_WORDS:
            os.kill(child.pid, signal.SIGKILL)
    return [child for child in running if child.pidfd in ready]


def run_all(chosen, tests, jobs, limit, tell):
    """Run the *chosen* of the tests of a module, *jobs* at a time, and tell about each."""
    waiting, running = chosen[:], []
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(start(waiting.pop(0), tests))
        for child in reap(running, limit):
            running.remove(child)
            tell(finish(child, limit))


def main():
    """Run the module that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module")
    parser.add_argument("--only", help="file with the ids of the tests to run, a line each")
    parser.add_argument("--match", default="", help="run the tests whose id contains this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=float, default=60.0)
    parser.add_argument("--stock", action="store_true")
    args = parser.parse_args()

    def tell(line):
        print(json.dumps(line), flush=True)

    try:
        if not args.stock:
            install()
            derive_mocks()
        module = importlib.import_module(f"{PACKAGE}.{args.module}")
        tests = tests_of(unittest.defaultTestLoader.loadTestsFromModule(module))
    except unittest.SkipTest as exc:
        tell({"id": args.module, "status": "skipped", "seconds": 0, "loops": 0, "detail": str(exc)})
        return
    except Exception:
        detail = traceback.format_exc()
        tell({"id": args.module, "status": "crashed", "seconds": 0, "loops": 0, "detail": detail})
        return
    only = set(Path(args.only).read_text().split()) if args.only else tests
    chosen = [name for name in tests if name in only and args.match in name]
    run_all(chosen, tests, args.jobs, args.limit, tell)


if __name__ == "__main__":
    main()
