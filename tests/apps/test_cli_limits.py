"""The limits on the command line: every one has a flag, a variable and a default, and reaches the server."""

from __future__ import annotations

import dataclasses

import pytest
from programs import frame, receive_frame, rest_of, serving

import evloop
from evloop.cli.limit_options import limits_of
from evloop.cli.serve import command

# What `evloop serve` runs with unless it is told otherwise; max_frame is an option of the framing.
DEFAULTS = {
    "max_connections": 10_000,
    "max_per_address": 0,
    "backlog": 1024,
    "max_frame": None,
    "high_water": 65536,
    "low_water": 16384,
    "max_output": 0,
    "soft_output": 0,
    "soft_output_timeout": 0,
    "max_buffered": 256 << 20,
    "write_timeout": 30,
    "idle_timeout": 300,
    "handshake_timeout": 10,
    "first_frame_timeout": 10,
    "frame_timeout": 30,
    "notsent_lowat": 128 << 10,
    "keepalive": 60,
    "keepalive_interval": 15,
    "keepalive_count": 4,
    "user_timeout": 110,
    "flush_timeout": 5,
    "linger": 2,
    "drain_timeout": 8,
}
FIELDS = [name for name in DEFAULTS if name != "max_frame"]
# Limits that need another one.
COMPANY = {"soft_output": ["--soft-output-timeout", "1"], "soft_output_timeout": ["--soft-output", "1"]}


def parsed(*args):
    """Return the limits that `evloop serve echo` with *args* has."""
    values = command.commands["echo"].make_context("echo", list(args)).params
    return limits_of({name: value for name, value in values.items() if name in FIELDS})


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    """The settings of whoever runs the tests are not the program's."""
    for name in FIELDS:
        monkeypatch.delenv(f"EVLOOP_{name.upper()}", raising=False)


def test_limit_defaults_are_those_of_a_server_on_a_network():
    """Stricter than the library's, written down once more so that a change is meant."""
    assert dataclasses.asdict(parsed()) == DEFAULTS


@pytest.mark.parametrize("name", FIELDS)
def test_limit_has_a_flag_and_a_variable_and_the_flag_wins(name, monkeypatch):
    """A unit file sets variables, a person overrides one on the line; a missing one would be a limit nobody can set."""
    flag = "--" + name.replace("_", "-")
    company = COMPANY.get(name, ["--low-water", "1"])
    if name == "low_water":
        company = []
    monkeypatch.setenv(f"EVLOOP_{name.upper()}", "7")
    assert getattr(parsed(*company), name) == 7
    assert getattr(parsed(flag, "9", *company), name) == 9


def test_limit_flags_cover_every_field():
    """A new limit without a flag fails here."""
    assert set(DEFAULTS) == set(evloop.Limits.__dataclass_fields__)


@pytest.mark.slow
def test_first_frame_and_frame_timeouts_close_while_others_are_served():
    """Silence and half a message, each with its own line; whoever speaks in whole messages stays."""
    options = ("--first-frame-timeout", "1s", "--frame-timeout", "200ms", "-v")
    with serving("echo", "127.0.0.1:0", *options) as server, server.connect() as good:
        good.sendall(frame(b"hi"))
        assert receive_frame(good) == b"hi"
        with server.connect() as silent, server.connect() as slow:
            slow.sendall(frame(b"whole") + b"\0\0")
            assert rest_of(slow) == frame(b"whole")
            assert rest_of(silent) == b""
        server.wait_for("err", b"reason=frame_timeout: a frame was not whole 0.2 s after its first byte")
        server.wait_for("err", b"reason=first_frame_timeout: no whole frame came in 1 s")
        good.sendall(frame(b"still here"))
        assert receive_frame(good) == b"still here"


def test_max_buffered_closes_who_holds_most():
    """The whole way from the flag to the warning."""
    with serving("echo", "127.0.0.1:0", "--max-buffered", "64K") as server, server.connect() as good:
        good.sendall(frame(b"hi"))
        assert receive_frame(good) == b"hi"
        with server.connect() as greedy:
            greedy.sendall(frame(bytes(200_000))[:100_000])
            assert rest_of(greedy) == b""
        server.wait_for("err", b"exceeded 65536 (max_buffered)")
        good.sendall(frame(b"still here"))
        assert receive_frame(good) == b"still here"
