"""What the tests of libraries on our loop share: one program, run as it is and in debug mode, that must leave nothing.

Rule: nothing in this file may know a library.
"""

from __future__ import annotations

import asyncio
import gc
import sys

import pytest

import evloop.aio

# Python 3.10's asyncio forgets that a TLS transport which the peer has closed is closed; no loop is to blame.
old_tls = pytest.mark.filterwarnings(
    "ignore:unclosed transport <asyncio.sslproto" if sys.version_info < (3, 11) else "error"
)

PATIENCE = 30.0  # seconds; only a failing test waits as long


def run_on_evloop(program, *, debug):
    """Run ``await program()`` on our loop, within PATIENCE; return its result.

    It fails if the program leaves a task, or anything was told to the loop's exception handler: a library that meets a
    loop's mistake often survives it, and says so there only.
    """
    told = []

    async def main():
        loop = asyncio.get_running_loop()
        assert isinstance(loop, evloop.aio.EventLoop)
        assert loop.get_debug() is debug
        loop.set_exception_handler(lambda _loop, context: told.append(context))
        before = asyncio.all_tasks()
        result = await asyncio.wait_for(program(), PATIENCE)
        left = asyncio.all_tasks() - before
        assert not left, f"tasks left: {left}"
        return result

    result = evloop.aio.run(main(), debug=debug)
    gc.collect()  # whatever was not closed warns now, and in the test that has left it
    assert not told, told
    return result


@pytest.fixture(params=[False, True], ids=["plain", "debug"])
def run_program(request):
    """Run a coroutine function on our loop, once as it is and once in debug mode, where asyncio's own code runs."""
    return lambda program: run_on_evloop(program, debug=request.param)


async def until(condition):
    """Let others run until *condition()* holds; the time-out of the program bounds it."""
    while not condition():
        await asyncio.sleep(0)
