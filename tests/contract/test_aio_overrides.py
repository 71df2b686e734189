"""What subclasses and patches of an asyncio loop count on: which of its methods go through which others."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio

import pytest
from reactor_fixtures import pytest_generate_tests, reactor_module

import evloop.aio
from evloop.aio.loop import AsyncioLifecycle


@pytest.fixture(params=["stock", "public", "ours", "ours in debug mode"])
def loop_class(request, reactor_module):
    """asyncio's loop and, on each implementation of the core, ours: a subclass must not feel which of them it is of."""
    stock = asyncio.SelectorEventLoop
    if request.param in ("stock", "public"):
        return stock if request.param == "stock" else evloop.aio.EventLoop
    body = {"_core": reactor_module.Core}
    ours = type("EventLoop", (AsyncioLifecycle, reactor_module.Core, stock), body)
    if request.param == "ours":
        return ours

    def debugging(self, *args):
        ours.__init__(self, *args)
        self.set_debug(True)

    return type("DebuggingLoop", (ours,), {"__init__": debugging})


def turns(loop, count):
    """Turn *count* times, without waiting."""
    for _ in range(count):
        loop.stop()
        loop.run_forever()


def test_run_once_overridden_is_called_for_each_turn(loop_class):
    """Clocks that are moved by hand are moved between turns, which is where they find the loop idle."""
    seen = []

    class Loop(loop_class):
        def _run_once(self):
            super()._run_once()
            seen.append(len(self._ready))

    loop = Loop()
    try:
        loop.call_soon(loop.call_soon, loop.call_soon, loop.stop)
        loop.run_forever()
        assert seen == [1, 1, 0]
    finally:
        loop.close()


def test_run_once_patched_onto_the_loop_is_called_for_each_turn(loop_class):
    """The same, for those who do not subclass."""
    loop, seen = loop_class(), []
    try:
        original = loop._run_once

        def run_once():
            seen.append(len(loop._ready))
            original()

        loop._run_once = run_once
        loop.call_soon(loop.call_soon, loop.stop)
        loop.run_forever()
        assert seen == [1, 1]
    finally:
        loop.close()


def test_call_at_overridden_gets_what_call_later_arms(loop_class):
    """A simulated clock overrides call_at alone, and learns of every timer."""
    seen = []

    class Loop(loop_class):
        def time(self):
            return 100.0

        def call_at(self, when, callback, *args, context=None):
            seen.append(when)
            return super().call_at(when, callback, *args, context=context)

    loop = Loop()
    try:
        handle = loop.call_later(5, print)
        assert (seen, handle.when()) == ([105.0], 105.0)
        handle.cancel()
    finally:
        loop.close()


def test_time_overridden_is_the_clock_of_the_timers(loop_class):
    """A clock in a subclass is asked both when a timer is armed and whether it is due."""

    class Loop(loop_class):
        now = 100.0

        def time(self):
            return self.now

    loop, ran = Loop(), []
    try:
        loop.call_later(5, ran.append, "due")
        turns(loop, 1)
        assert ran == []
        loop.now = 105.0
        turns(loop, 1)
        assert ran == ["due"]
    finally:
        loop.close()


def test_time_patched_onto_the_loop_before_it_runs_moves_no_timer_early(loop_class):
    """Tests of other libraries patch the object; what was armed by the patched clock is not due by the real one."""
    loop, ran = loop_class(), []
    try:
        real = loop.time()
        loop.time = lambda: real
        loop.call_later(1000, ran.append, "early")
        turns(loop, 2)
        assert ran == []
    finally:
        loop.close()


def test_method_patched_onto_the_loop_survives_debug_mode(loop_class):
    """Debug mode exchanges methods on the object, and must leave alone what somebody else has put there."""
    loop, seen = loop_class(), []
    try:
        loop.call_soon = lambda *args, context=None: seen.append(args)
        for enabled in (True, False, True):
            loop.set_debug(enabled)
        loop.call_soon("patched")
        assert seen == [("patched",)]
    finally:
        loop.close()


@pytest.mark.parametrize("arm", ["call_soon", "call_later", "call_at", "call_soon_threadsafe"])
def test_handle_has_what_asyncio_asks_of_it(loop_class, arm):
    """Inherited code, and code that wraps these methods, drops the last frame of a traceback if there is one."""
    loop = loop_class()
    try:
        when = {"call_later": (1000,), "call_at": (loop.time() + 1000,)}.get(arm, ())
        handle = getattr(loop, arm)(*when, print)
        assert bool(handle._source_traceback) == loop.get_debug()
        assert (handle._cancelled, handle._callback, handle._args) == (False, print, ())
        handle.cancel()
    finally:
        loop.close()
