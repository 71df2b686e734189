"""The same scripts on asyncio's loop and on ours: both cores, all selectors, debug mode; the same order of events."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio
import functools

import pytest
from aioscripts import SCRIPTS, play
from reactor_fixtures import pytest_generate_tests, reactor_module, selector_class

import evloop.aio
from evloop.aio.loop import AsyncioLifecycle

DEBUG = pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
SCRIPT = pytest.mark.parametrize("name", SCRIPTS)


@functools.cache
def expected(name, debug):
    """Return what asyncio's own loop does."""
    return trace_on(asyncio.SelectorEventLoop(), name, debug)


def trace_on(loop, name, debug):
    """Return what a loop does."""
    loop.set_debug(debug)
    return play(name, loop)


@SCRIPT
@DEBUG
def test_asyncio_itself_repeats_the_trace(name, debug):
    """A script whose order is left to chance would prove nothing."""
    assert trace_on(asyncio.SelectorEventLoop(), name, debug) == expected(name, debug)


@SCRIPT
@DEBUG
def test_event_loop_gives_the_trace_of_asyncio(name, debug):
    """What programs get: the compiled wheel and transports, and in debug mode asyncio's code on our fds."""
    assert trace_on(evloop.aio.EventLoop(), name, debug) == expected(name, debug)


@SCRIPT
@DEBUG
def test_core_under_asyncio_gives_the_trace_of_asyncio(reactor_module, selector_class, name, debug):
    """Each core over each selector, with the transports of the standard library."""
    cls = type("EventLoop", (AsyncioLifecycle, reactor_module.Core, asyncio.SelectorEventLoop),
               {"_core": reactor_module.Core})  # fmt: skip
    assert trace_on(cls(selector_class()), name, debug) == expected(name, debug)


@SCRIPT
def test_debug_mode_switched_on_and_off_changes_no_trace(name):
    """Both wheels, one after the other, leave the same fields behind."""
    loop = evloop.aio.EventLoop()
    loop.set_debug(True)
    for _ in range(2):
        loop.call_soon(loop.stop)
        loop.run_forever()
    loop.set_debug(False)
    assert play(name, loop) == expected(name, False)
