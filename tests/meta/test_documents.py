"""The documents: what they name exists, what they show runs."""

from __future__ import annotations

import importlib
import pathlib
import re
import signal
import subprocess
import sys

import pytest

import evloop
from evloop.cli.serve import command

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")])
README_BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def resolve(dotted):
    """Return what a dotted name of the package stands for; AttributeError or ImportError if nothing."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            value = getattr(value, part)
        return value
    raise ImportError(dotted)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_names_only_what_exists(page):
    """A page that names a function that is gone is worse than no page."""
    text = page.read_text()
    for dotted in re.findall(r"`(evloop(?:\.\w+)+)", text):
        assert resolve(dotted) is not None
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:tests|docs|evloop|bench)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path


def test_limits_page_states_every_limit_with_its_default():
    """docs/limits.md is where an operator looks; a bound that is missing there does not exist for him."""
    text = (ROOT / "docs/limits.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.M))
    assert set(rows) == set(evloop.Limits.__dataclass_fields__)
    shown = {"backlog": "1024", "high_water": "64 KiB", "low_water": "16 KiB", "flush_timeout": "5 s"}
    shown |= {"linger": "2 s", "drain_timeout": "8 s", "keepalive_interval": "15 s", "keepalive_count": "4"}
    shown |= {"handshake_timeout": "10 s"}
    limits = evloop.Limits()
    for name, text in shown.items():
        number, _, unit = text.partition(" ")
        assert getattr(limits, name) == float(number) * (1024 if unit == "KiB" else 1), name
        assert rows[name].strip() == text


def test_limits_page_states_the_defaults_of_the_command_line():
    """The stricter column is the one that most people run with."""
    served = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", (ROOT / "docs/limits.md").read_text(), re.M)
    options = {option.name: option.default for option in command.commands["echo"].params}
    units = {" KiB": "K", " MiB": "M", " min": "m", " s": "s", ",": ""}
    for name, shown in served:
        if name == "max_frame":
            continue
        for unit, short in units.items():
            shown = shown.replace(unit, short)
        assert ("0" if shown == "none" else shown) == options[name], name


def test_readme_server_and_client_run_as_printed(tmp_path):
    """The first thing a stranger copies has to work, character for character but for the port."""
    server_code, client_code = README_BLOCKS[:2]
    ready = "ready=lambda server: print(server.address.port, flush=True)"
    server_code = server_code.replace('"127.0.0.1:9000")', f'"127.0.0.1:0", {ready})')
    command = [sys.executable, "-W", "error", "-c", server_code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        try:
            port = server.stdout.readline().strip()
            exec(compile(client_code.replace("9000", port), "README.md", "exec"), {})
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0


def test_readme_coroutines_run_as_printed(tmp_path):
    """Both ends of the same, as somebody with asyncio code copies them."""
    server_code = next(block for block in README_BLOCKS if "async def session" in block)
    client_code = next(block for block in README_BLOCKS if "evloop.aio.run(ask())" in block)
    ready = "ready=lambda server: print(server.address.port, flush=True)"
    server_code = "import evloop\n" + server_code.replace('"127.0.0.1:9000")', f'"127.0.0.1:0", {ready})')
    command = [sys.executable, "-W", "error", "-c", server_code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        try:
            port = server.stdout.readline().strip()
            client_code = client_code.replace("9000", port).replace("evloop.aio.run(", "answer = evloop.aio.run(")
            names = {}
            exec(compile(client_code, "README.md", "exec"), names)
            assert names["answer"] == b"HELLO"
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0


def test_readme_framings_and_protocol_are_valid():
    """The other examples are executed as far as they do not serve."""
    for block in README_BLOCKS[2:]:
        code = "\n".join(line for line in block.splitlines() if not re.match(r"evloop\.(serve|aio\.run)\(", line))
        exec(compile(code, "README.md", "exec"), {"evloop": evloop})
