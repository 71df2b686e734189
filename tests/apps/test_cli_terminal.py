"""The command line on a terminal: a pseudo-terminal with a person's keys, Ctrl-C and Ctrl-D among them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import subprocess
import termios
import time

import pytest
from programs import EVLOOP, PATIENCE, accept, environment, frame, listener, serving

CTRL_C, CTRL_D = b"\x03", b"\x04"


class Terminal:
    """evloop on a pseudo-terminal: standard input, output and error, as in a window."""

    def __init__(self, *args, **env):
        self.master, slave = pty.openpty()
        self.shown = b""
        self.process = subprocess.Popen(
            [*EVLOOP, *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(TERM="xterm", **env),
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)

    def type(self, keys):
        """Press *keys* (bytes)."""
        os.write(self.master, keys)

    def wait_for(self, text):
        """Return what is on the screen, once *text* (bytes) is."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown:
            assert self._read(deadline), self.shown
        return self.shown

    def finish(self):
        """Wait for the end; return the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        return self.process.wait(PATIENCE)

    def _read(self, deadline):
        assert select.select([self.master], [], [], max(deadline - time.monotonic(), 0))[0], self.shown
        data = b""
        with contextlib.suppress(OSError):  # EIO: the last one has closed it
            data = os.read(self.master, 65536)
        self.shown += data
        return data

    def close(self):
        """Hang up."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


def _take_terminal():
    """Make standard input the controlling terminal, so that its keys send signals."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal():
    """Return a function that starts evloop on a terminal of its own."""
    with contextlib.ExitStack() as stack:

        def start(*args, **env):
            started = Terminal(*args, **env)
            stack.callback(started.close)
            return started

        yield start


@pytest.fixture(scope="module")
def upper():
    """A server whose answers differ from what the terminal echoes; returns the address."""
    with serving("upper", "127.0.0.1:0") as server:
        yield server.address


def test_terminal_answers_arrive_while_typing_and_ctrl_d_ends(terminal, upper):
    """The second thing anybody tries: type, look, leave."""
    screen = terminal("connect", upper)
    screen.wait_for(b"Ctrl-D ends")
    screen.type(b"hello\n")
    screen.wait_for(b"HELLO\r\n")
    screen.type(b"again\n")
    screen.wait_for(b"AGAIN\r\n")
    screen.type(CTRL_D)
    assert screen.finish() == 0


def test_terminal_ctrl_c_leaves_with_130(terminal, upper):
    """The key of the hint does what the hint says."""
    screen = terminal("connect", upper)
    screen.type(b"hello\n")
    screen.wait_for(b"HELLO\r\n")
    screen.type(CTRL_C)
    assert screen.finish() == 130
    assert b"Traceback" not in screen.shown


def test_terminal_shows_a_peers_control_characters_as_text(terminal):
    """A message must not clear the screen, retitle the window, or look like two."""
    with listener() as (listening, address):
        screen = terminal("connect", address)
        with accept(listening) as sock:
            sock.sendall(frame(b"\x1b[2J\x1b]0;title\x07 two\nlines \xff \xe4\xbd\xa0"))
            shown = screen.wait_for("\u4f60\r\n".encode())
        assert b"\\x1b[2J\\x1b]0;title\\x07 two\\nlines \xef\xbf\xbd \xe4\xbd\xa0\r\n" in shown
        assert screen.finish() == 5


def test_terminal_without_framing_keeps_the_peers_lines(terminal):
    """Without frames the newline is the only structure there is."""
    with listener() as (listening, address):
        screen = terminal("connect", "--framing", "none", address)
        with accept(listening) as sock:
            sock.sendall(b"one\r\ntwo\n\x1bthree\n")
            assert b"one\r\ntwo\r\n\\x1bthree\r\n" in screen.wait_for(b"three\r\n")
        screen.finish()


def test_terminal_with_steps_is_not_read(terminal, upper):
    """A handshake typed into a terminal must end by itself."""
    screen = terminal("connect", upper, "--send", "x", "--expect", "X")
    assert screen.finish() == 0
    assert screen.shown == b""


def test_terminal_quiet_shows_no_hint(terminal, upper):
    """-q: the conversation and nothing else."""
    screen = terminal("connect", "-q", upper)
    screen.type(CTRL_D)
    assert screen.finish() == 0
    assert b"Ctrl-D" not in screen.shown


def test_terminal_that_hangs_up_ends_the_server_in_good_order(terminal, tmp_path):
    """A closed window sends SIGHUP, and takes stderr with it; nothing may keep the port or the path after that."""
    screen = terminal("serve", "echo", f"unix:{tmp_path}/s", "--port-file", str(tmp_path / "port.json"))
    screen.wait_for(b"stop it")
    master, screen.master = screen.master, os.open(os.devnull, os.O_RDWR)
    os.close(master)
    assert screen.process.wait(PATIENCE) == 0
    assert os.listdir(tmp_path) == []


def test_terminal_ctrl_c_stops_the_server_in_good_order(terminal):
    """The key of the hint does what the hint says."""
    screen = terminal("serve", "echo", "127.0.0.1:0")
    assert b"LISTENING tcp 127.0.0.1:" in screen.wait_for(b"stop it")
    screen.type(CTRL_C)
    assert screen.finish() == 0
    assert b"stopping: 0 connections" in screen.shown and b"Traceback" not in screen.shown


def test_terminal_info_draws_the_same_facts(terminal):
    """Colour is decoration: without it the words are all there."""
    screen = terminal("info", NO_COLOR="1")
    assert screen.finish() == 0
    for word in (b"implementations", b"framing", b"somaxconn", b"advice"):
        assert word in screen.shown


def test_terminal_shows_a_load_while_it_runs_and_then_its_figures(terminal, upper):
    """One line that redraws itself, and is gone when the figures are there."""
    screen = terminal("bench", "load", upper, "--pattern", "upper", "-d", "600ms", "--warmup", "100ms")
    screen.wait_for(b"measuring")
    assert screen.finish() == 0
    text = screen.shown.decode()
    assert text.index("closed loop") < text.index("measuring") < text.index("  service time, from send")
    assert text.count("\n") < 15
