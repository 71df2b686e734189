"""Limits: every field's range, and that a limit which cannot be kept is refused where it is written."""

from __future__ import annotations

import dataclasses
import math
import pickle
import socket

import pytest

import evloop
from evloop import Limits
from evloop.sockets import set_tcp_options

INTEGERS = {
    "max_connections": 0,
    "max_per_address": 0,
    "backlog": 1,
    "max_frame": 0,
    "high_water": 0,
    "low_water": 0,
    "max_output": 0,
    "soft_output": 0,
    "max_buffered": 0,
    "notsent_lowat": 0,
    "keepalive": 0,
    "keepalive_interval": 1,
    "keepalive_count": 1,
}
MOST = {
    "notsent_lowat": 2**31 - 1,
    "keepalive": 32767,
    "keepalive_interval": 32767,
    "keepalive_count": 127,
    "user_timeout": 2147483,
}
# Limits that need another one.
COMPANY = {
    "high_water": {"low_water": 0},
    "soft_output": {"soft_output_timeout": 1},
    "soft_output_timeout": {"soft_output": 1},
}
SECONDS = [
    "soft_output_timeout",
    "write_timeout",
    "user_timeout",
    "idle_timeout",
    "handshake_timeout",
    "first_frame_timeout",
    "frame_timeout",
    "flush_timeout",
    "linger",
    "drain_timeout",
]


def test_limits_defaults_are_consistent():
    """The values that most programs run with, written down once more so that a change is meant."""
    assert dataclasses.asdict(Limits()) == {
        "max_connections": 0,
        "max_per_address": 0,
        "backlog": 1024,
        "max_frame": None,
        "high_water": 65536,
        "low_water": 16384,
        "max_output": 0,
        "soft_output": 0,
        "soft_output_timeout": 0.0,
        "max_buffered": 0,
        "write_timeout": 0.0,
        "idle_timeout": 0.0,
        "handshake_timeout": 10.0,
        "first_frame_timeout": 0.0,
        "frame_timeout": 0.0,
        "notsent_lowat": 0,
        "keepalive": 0,
        "keepalive_interval": 15,
        "keepalive_count": 4,
        "user_timeout": 0.0,
        "flush_timeout": 5.0,
        "linger": 2.0,
        "drain_timeout": 8.0,
    }


@pytest.mark.parametrize(("name", "least"), INTEGERS.items())
def test_limits_integer_at_its_least_is_taken_and_below_refused(name, least):
    """limit-1, limit, limit+1."""
    base = COMPANY.get(name, {})
    if name != "soft_output":
        assert getattr(Limits(**base, **{name: least}), name) == least
    assert getattr(Limits(**base, **{name: least + 1}), name) == least + 1
    with pytest.raises(ValueError, match=f"{name} must be at least {least}, not {least - 1}"):
        Limits(**base, **{name: least - 1})


@pytest.mark.parametrize(("name", "most"), MOST.items())
def test_limits_of_the_kernel_are_taken_up_to_what_it_takes(name, most):
    """limit-1, limit, limit+1: setsockopt would refuse it with EINVAL, when the server starts or at the first peer."""
    assert getattr(Limits(**{name: most - 1}), name) == most - 1
    limits = Limits(**{name: most})
    with socket.socket() as sock:
        set_tcp_options(sock, limits)
        set_tcp_options(sock, limits.replace(keepalive=most if name == "keepalive" else 1))
    with pytest.raises(ValueError, match=f"{name} must be at most {most}, not {most + 1}"):
        Limits(**{name: most + 1})


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [1.0, "1", True, b"1", [1], math.nan], ids=repr)
def test_limits_integer_of_another_type_is_refused(name, value):
    """1.5 connections, True frames: a slip of the pen."""
    with pytest.raises(TypeError, match=f"{name} must be an int, not {type(value).__name__}"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", [name for name in INTEGERS if name != "max_frame"])
def test_limits_none_is_only_for_max_frame(name):
    """None means "the framing's own" there and nothing elsewhere."""
    assert Limits(max_frame=None).max_frame is None
    with pytest.raises(TypeError, match=name):
        Limits(**{name: None})


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [0.001, 1, 3600.5], ids=repr)
def test_limits_seconds_may_be_int_or_float(name, value):
    """Both are numbers of seconds."""
    assert getattr(Limits(**COMPANY.get(name, {}), **{name: value}), name) == value


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [-0.001, -1, math.nan, math.inf, -math.inf], ids=repr)
def test_limits_seconds_out_of_range_are_refused(name, value):
    """A timer that is never, or was always, due."""
    with pytest.raises(ValueError, match=name):
        Limits(**{name: value})


@pytest.mark.parametrize("name", SECONDS)
def test_limits_seconds_beyond_a_float_are_refused(name):
    """An int that no timer can hold is no finite number of seconds: refused here, not when the timer is armed."""
    with pytest.raises((ValueError, OverflowError), match=name):
        Limits(**{name: 10**400})


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", ["1", None, True, b"", 1j], ids=repr)
def test_limits_seconds_of_another_type_are_refused(name, value):
    """Text from an environment variable must be converted where it is read."""
    with pytest.raises(TypeError, match=f"{name} must be a number of seconds"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", [name for name in SECONDS if name != "flush_timeout"])
def test_limits_zero_seconds_switch_off(name):
    """0 is the documented word for "none"."""
    assert getattr(Limits(**{name: 0}), name) == 0


def test_limits_flush_timeout_zero_is_refused_with_the_reason():
    """The one bound that closing cannot do without."""
    with pytest.raises(ValueError, match="flush_timeout must be more than 0"):
        Limits(flush_timeout=0)


@pytest.mark.parametrize(("low", "allowed"), [(99, True), (100, True), (101, False)])
def test_limits_low_water_is_at_most_high_water(low, allowed):
    """Above it a connection would be resumed as it is paused."""
    if allowed:
        assert Limits(high_water=100, low_water=low).low_water == low
    else:
        with pytest.raises(ValueError, match="low_water 101 exceeds high_water 100"):
            Limits(high_water=100, low_water=low)


@pytest.mark.parametrize(("soft", "allowed"), [(99, True), (100, True), (101, False)])
def test_limits_soft_output_is_at_most_max_output(soft, allowed):
    """Above it, it would never be what closes a connection; without a max_output it may be anything."""
    timed = {"soft_output": soft, "soft_output_timeout": 1}
    assert Limits(**timed).soft_output == soft
    if allowed:
        assert Limits(max_output=100, **timed).soft_output == soft
    else:
        with pytest.raises(ValueError, match="soft_output 101 exceeds max_output 100"):
            Limits(max_output=100, **timed)


@pytest.mark.parametrize("alone", [{"soft_output": 5}, {"soft_output_timeout": 5}], ids=["bytes", "seconds"])
def test_limits_soft_output_and_its_timeout_need_each_other(alone):
    """One without the other bounds nothing, and would look as if it did."""
    with pytest.raises(ValueError, match=r"soft_output [05] and soft_output_timeout [05].* need each other"):
        Limits(**alone)


def test_limits_high_water_below_the_default_low_water_says_both_numbers():
    """The knob that was not turned has to be in the message."""
    with pytest.raises(ValueError, match="low_water 16384 exceeds high_water 1000"):
        Limits(high_water=1000)


def test_limits_are_frozen_and_a_value():
    """They are shared by all connections of a server."""
    limits = Limits(backlog=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.backlog = 6
    assert limits == Limits(backlog=5) != Limits()
    assert hash(limits) == hash(Limits(backlog=5))
    assert pickle.loads(pickle.dumps(limits)) == limits


def test_limits_take_keywords_only():
    """Twenty numbers in a row would be a riddle."""
    with pytest.raises(TypeError):
        Limits(10)


def test_limits_replace_changes_a_copy_and_checks_it():
    """One stricter server beside another."""
    limits = Limits(backlog=5)
    assert limits.replace(linger=1) == Limits(backlog=5, linger=1)
    assert limits == Limits(backlog=5)
    with pytest.raises(ValueError, match="linger"):
        limits.replace(linger=-1)
    with pytest.raises(TypeError):
        limits.replace(unknown=1)


def test_limits_replace_checks_the_whole():
    """A pair of limits that fit each other must still do so when one of them is changed."""
    limits = Limits(max_output=100, soft_output=100, soft_output_timeout=1)
    assert limits.replace(soft_output=0, soft_output_timeout=0) == Limits(max_output=100)
    with pytest.raises(ValueError, match="soft_output 100 exceeds max_output 99"):
        limits.replace(max_output=99)
    with pytest.raises(ValueError, match="need each other"):
        limits.replace(soft_output_timeout=0)


def test_limits_repr_can_be_read_back():
    """What a log shows is what somebody pastes into an issue, or a program."""
    limits = Limits(max_output=100, soft_output=50, soft_output_timeout=1, keepalive=60, user_timeout=0.5)
    assert eval(repr(limits)) == limits
    assert all(f"{name}=" in repr(limits) for name in Limits.__dataclass_fields__)


def test_limits_max_frame_replaces_the_framings_own_bound():
    """Both ways: lower, higher, and more than the field can announce."""
    with evloop.Reactor() as reactor:
        for bound in (10, 5_000_000):
            server = evloop.Server(reactor, print, "127.0.0.1:0", limits=Limits(max_frame=bound))
            assert server.framing.max_frame == bound
        assert evloop.Server(reactor, print, "127.0.0.1:0").framing.max_frame == 1 << 20
        with pytest.raises(ValueError, match="65536"):
            evloop.Server(reactor, print, framing=evloop.Framing.U16, limits=Limits(max_frame=65536))
