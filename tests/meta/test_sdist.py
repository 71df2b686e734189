"""What is published as source is what is in the repository: it can be built, tested and changed from there."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
OF_GIT_ALONE = {".gitignore"}


@pytest.mark.slow
def test_sdist_holds_all_files_of_the_repository(tmp_path):
    """A header that is missing is found by whoever has no wheel; tests that are missing, by a distribution."""
    pytest.importorskip("setuptools", reason="not installed: make build")
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and the repository: this tree is not a clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60).stdout
    # Only the list is made; extensions would be translated first, and their sources are package data as well.
    subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", tmp_path],
        cwd=ROOT,
        env={**os.environ, "EVLOOP_PURE_BUILD": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )
    published = set((tmp_path / "evloop.egg-info" / "SOURCES.txt").read_text().split("\n"))
    ours = {name for name in os.fsdecode(listed).split("\0") if (ROOT / name).is_file()} - OF_GIT_ALONE
    assert ours - published == set()
    assert [name for name in published if name.endswith((".so", ".pyc"))] == []
