"""The command line itself: help, errors in one line, exit codes, and what starting it costs."""

from __future__ import annotations

import importlib
import os
import pathlib
import subprocess
import sys

import click
import pytest
from programs import environment, run_program, shell

import evloop
from evloop.cli.program import run


def test_program_without_arguments_shows_the_help_and_exits_2():
    """Nothing was asked for: the same page as --help, but a script that forgot its arguments has to fail."""
    bare, asked = run_program(), run_program("--help")
    assert (bare.returncode, bare.stdout) == (2, b"")
    assert (asked.returncode, asked.stderr) == (0, b"")
    assert bare.stderr == asked.stdout
    assert b"evloop serve echo" in asked.stdout


@pytest.mark.parametrize("group", ["serve", "bench"])
def test_program_help_names_every_command_of(group, capfd):
    """The first page is where people look for what there is."""
    assert run(["--help"]) == 0
    page = capfd.readouterr().out
    context = click.Context(click.Group())
    commands = importlib.import_module(f"evloop.cli.{group}").command
    assert [name for name in commands.list_commands(context) if f"{group} {name}" not in page] == []


def test_installed_script_is_the_same_program():
    """`evloop` and `python -m evloop` are one program with one name."""
    script = pathlib.Path(sys.executable).with_name("evloop")
    if not script.exists():
        pytest.skip("the package is not installed beside this Python")
    result = subprocess.run([script, "--help"], env=environment(), capture_output=True, check=True)
    assert result.stdout == run_program("--help").stdout


def test_version_is_the_packages(capfd):
    """A bug report begins with it."""
    assert run(["--version"]) == 0
    assert capfd.readouterr().out == f"evloop {evloop.__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["serve"],
        ["serve", "echo"],
        ["serve", "upper"],
        ["serve", "chat"],
        ["connect"],
        ["bench", "load"],
        ["bench", "peers"],
        ["bench", "compare"],
        ["bench", "framing"],
        ["bench", "report"],
        ["info"],
    ],
    ids=" ".join,
)
def test_command_help_shows_usage_then_examples_then_options(words, capfd):
    """Whoever asks for help mostly wants a line to copy."""
    assert run([*words, "--help"]) == 0
    text = capfd.readouterr().out
    usage, examples, options = (text.index(part) for part in ("Usage: evloop", "Examples:\n  ", "Options:\n"))
    assert usage < examples < options
    assert text[examples:options].count("evloop") >= 2


@pytest.mark.parametrize("words", [["serve", "echo"], ["connect"]], ids=" ".join)
def test_command_help_shows_default_and_variable_of_an_option(words, capfd):
    """A default that is not shown has to be searched for in the source."""
    assert run([*words, "--help"]) == 0
    text = " ".join(capfd.readouterr().out.split())
    assert "[env var: EVLOOP_FRAMING; default: u32be]" in text
    assert "[env var: EVLOOP_MAX_FRAME; default: (1M, or what the framing can announce)]" in text


def test_serve_help_puts_the_limits_into_sections_behind_the_options(capfd):
    """More than twenty of them in one list would hide the few options that people look for."""
    assert run(["serve", "echo", "--help"]) == 0
    text = capfd.readouterr().out
    headings = [line for line in text.splitlines() if line.startswith(("Options", "TLS", "Limits"))]
    assert headings[:2] == ["Options:", "TLS:"] and len(headings) == 6
    assert "EVLOOP_IDLE_TIMEOUT" in text
    for name in set(evloop.Limits.__dataclass_fields__) - {"max_frame"}:
        assert text.index(f"  --{name.replace('_', '-')} ") > text.index(headings[1])


def test_serve_without_a_program_shows_its_help_and_exits_2(capfd):
    """`evloop serve` alone is the question which ones there are."""
    assert run(["serve"]) == 2
    assert "upper" in capfd.readouterr().err


WRONG_LINES = [
    (["serv"], "no such command 'serv'; did you mean serve?"),
    (["frobnicate"], "no such command 'frobnicate'; commands are serve, connect, chat, bench, info"),
    (["serve", "eco"], "no such command 'eco'; did you mean echo?"),
    (["--verbos"], "no such option --verbos; did you mean --verbose"),
    (["serve", "echo", "--framin", "i"], "no such option --framin; did you mean --framing"),
    (["serve", "echo", "a:1", "b:2"], "unexpected extra argument (b:2); see: evloop serve echo --help"),
    (["serve", "echo", "127.0.0.1"], "bad address '127.0.0.1': it has no port; write 127.0.0.1:9000"),
    (["serve", "echo", ":65536"], "port 65536 is outside 0..65535"),
    (["serve", "echo", "unix:"], "the path is empty"),
    (["serve", "echo", "--framing", "u24"], "--framing: 'u24' is not one of"),
    (["serve", "echo", "--max-frame", "64Q"], "--max-frame: bad size '64Q'; write bytes, or"),
    (["serve", "echo", "--max-frame", "-1"], "--max-frame: bad size '-1'"),
    (["serve", "echo", "--max-frame", "65536", "--framing", "u16be"], "more than the length field can announce, 65535"),
    (["serve", "echo", "--idle-timeout", "soon"], "--idle-timeout: bad duration 'soon'; write seconds, or"),
    (["serve", "echo", "--idle-timeout", "-1"], "--idle-timeout: bad duration '-1'"),
    (["serve", "echo", "--keepalive", "1.5"], "--keepalive: bad duration '1.5'; the kernel counts whole seconds"),
    (["serve", "echo", "--keepalive", "32768"], "keepalive must be at most 32767, not 32768"),
    (["serve", "echo", "--keepalive-count", "128"], "--keepalive-count: 128 is not in the range"),
    (["serve", "echo", "--soft-output", "1K"], "soft_output 1024 and soft_output_timeout 0.0 need each other"),
    (["serve", "echo", "--high-water", "1K"], "low_water 16384 exceeds high_water 1024; see: evloop serve echo --help"),
    (["serve", "echo", "--flush-timeout", "0"], "flush_timeout must be more than 0"),
    (["serve", "echo", "--max-connections", "-1"], "--max-connections: -1 is not in the range"),
    (["serve", "echo", "--max-connections", "many"], "--max-connections: 'many' is not a valid integer"),
    (["serve", "echo", "--backlog", "0"], "--backlog: 0 is not in the range"),
    (["serve", "echo", "--backlog", "2147483648"], "--backlog: 2147483648 is not in the range"),
    (["serve", "echo", "--backlog"], "option '--backlog' requires an argument"),
    (["connect"], "missing argument 'ADDR'; see: evloop connect --help"),
    (["connect", "http://127.0.0.1:1"], "it is a URL"),
    (["connect", ":1", "--timeout", "x"], "--timeout: bad duration 'x'"),
    (["connect", ":1", "--send"], "option '--send' requires an argument"),
    (["connect", ":1", "--max-frame", "3", "--send", "four"], "--send of 4 bytes exceeds max_frame 3; see --max-frame"),
    (["connect", ":1", "--max-frame", "3", "--expect", "four"], "--expect of 4 bytes exceeds max_frame 3"),
    (["info", "extra"], "unexpected extra argument (extra)"),
]


@pytest.mark.parametrize(("args", "text"), WRONG_LINES, ids=[" ".join(args) for args, _ in WRONG_LINES])
def test_wrong_line_is_refused_in_one_line_with_exit_code_2(args, text, capfd):
    """Cause and remedy in one line: a page of usage hides what was wrong."""
    assert run(args) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("evloop: ") and err.count("\n") == 1
    assert text in err


def test_wrong_variable_is_named_in_the_error(capfd, monkeypatch):
    """A bad value in a unit file must not be blamed on a flag that nobody wrote."""
    monkeypatch.setenv("EVLOOP_MAX_FRAME", "64Q")
    assert run(["serve", "echo", "127.0.0.1:0"]) == 2
    assert capfd.readouterr().err.startswith("evloop: EVLOOP_MAX_FRAME: bad size '64Q'; ")


def test_control_characters_of_an_argument_do_not_reach_the_terminal(capfd):
    """An argument may come out of somebody else's file name."""
    assert run(["\x1b[2Jevil"]) == 2
    assert "\x1b" not in capfd.readouterr().err


def test_program_without_click_says_in_one_line_what_to_install():
    """The library has no dependency, so the command may be there without its own."""
    code = "import sys; sys.modules['click'] = None; from evloop.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "info"]
    result = subprocess.run(command, env=environment(), capture_output=True, check=False)
    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr == b"evloop: the command line needs click and rich: pip install click rich\n"


@pytest.mark.parametrize("args", [["--help"], ["serve", "echo", "--help"], ["connect", "--help"]], ids=" ".join)
def test_help_imports_nothing_that_it_does_not_need(args):
    """Start-up time is what a shell loop over the command pays each time."""
    code = "import sys; from evloop.__main__ import main; main(); print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", code, *args]
    result = subprocess.run(command, env=environment(), capture_output=True, check=True, text=True)
    loaded = set(result.stderr.split())
    assert "click" in loaded
    assert not loaded & {"asyncio", "concurrent.futures", "logging.config", "rich", "ssl", "json", "importlib.metadata"}
    if args == ["--help"]:
        assert not {name for name in loaded if name.startswith("evloop.apps")}
        assert not loaded & {"evloop.cli.serve", "evloop.cli.connect", "evloop.cli.info"}


def test_help_into_a_closed_pipe_is_silent():
    """`evloop --help | head -1` must not end in a traceback; the shell's own code for SIGPIPE tells."""
    reader, writer = os.pipe()
    os.close(reader)
    result = run_program("--help", stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, b"")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_not_end_the_program(closed):
    """Without care the first socket becomes the standard output, and the peer gets what was meant for the user."""
    result = shell(f'exec "$@" {closed}', "connect", "127.0.0.1:1", "--timeout", "5s", "--send", "x")
    assert result.returncode == 3
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("args", [["--help"], ["info"], ["nonsense"]], ids=" ".join)
def test_output_that_was_closed_is_written_nowhere(args):
    """What cannot be shown changes neither the code nor, by a traceback, anybody's log."""
    result = shell('exec "$@" >&-', *args)
    assert result.returncode == (2 if args == ["nonsense"] else 0)
    assert result.stdout == b"" and b"Traceback" not in result.stderr
