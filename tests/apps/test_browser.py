"""The browser of the tests, as a process: it ends with whoever has started it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import shutil
import subprocess
import sys

import psutil
import pytest
from programs import PATIENCE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="not installed: apt-get install chromium"),
]

OWNER = """
import sys
from browser import Browser
with Browser(sys.argv[1]) as running:
    print(running._process.pid, flush=True)
    sys.stdin.read()
"""


def test_browser_ends_with_a_run_that_is_killed(tmp_path):
    """kill -9 of a run left a Chromium for each, with its memory, until the machine was tidied up by hand."""
    tests = pathlib.Path(__file__).parents[1]
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    owner = subprocess.Popen(command, cwd=tests, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with owner, contextlib.ExitStack() as stack:
        browser = psutil.Process(int(owner.stdout.readline()))
        watched = set()
        for process in (browser, *browser.children(recursive=True)):
            with contextlib.suppress(ProcessLookupError):
                watched.add(os.pidfd_open(process.pid))
        for fd in watched:
            stack.callback(os.close, fd)
        assert len(watched) > 1, "it is a tree"
        owner.kill()
        while watched:
            ended, _, _ = select.select(list(watched), [], [], PATIENCE)
            assert ended, "it goes on without anybody"
            watched.difference_update(ended)
