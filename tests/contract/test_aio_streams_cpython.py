"""CPython's own tests of asyncio's streams, of the Python that runs, with asyncio's names bound to ours; no exceptions.

In a process of their own: they replace what asyncio offers to everybody.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from twins import needs_compiled

PATIENCE = 120  # seconds; only a failing test waits as long

PROGRAM = """
import asyncio, unittest
from asyncio import events, streams
import evloop.aio
from evloop.aio import streams as ours

asyncio.new_event_loop = events.new_event_loop = evloop.aio.new_event_loop
asyncio.SelectorEventLoop = evloop.aio.EventLoop
for name in ours.__all__:
    for module in (asyncio, streams):
        setattr(module, name, getattr(ours, name))

from test.test_asyncio import test_streams

program = unittest.main(module=test_streams, argv=["test_streams"], exit=False, verbosity=0)
assert test_streams.asyncio.StreamReader is ours.StreamReader
print("ran", program.result.testsRun, "failed", len(program.result.failures) + len(program.result.errors))
"""


def test_cpython_tests_of_streams_pass_on_ours(pytestconfig):
    """White-box ones too: the attributes that they look at are there."""
    needs_compiled(pytestconfig)
    if not any(os.path.exists(os.path.join(path, "test", "test_asyncio", "test_streams.py")) for path in sys.path):
        pytest.skip("this Python was installed without its tests")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=PATIENCE)
    ran, failed = done.stdout.split()[1::2]
    assert (int(ran) > 50, int(failed)) == (True, 0), done.stderr
