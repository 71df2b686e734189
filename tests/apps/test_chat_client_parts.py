"""The parts of the chat client that need no server: the order of a room, and the delays between attempts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evloop.apps.chat.client.backoff import CAP, FIRST, STEADY, Backoff
from evloop.apps.chat.client.position import HELD_MAX, Position


def at(last):
    """Return a position behind the message number *last*."""
    position = Position()
    position.start("e1", last)
    return position


def test_position_shows_the_next_drops_the_old_and_holds_the_early():
    """The three cases of the rule."""
    position = at(4)
    assert position.take(5, "5") == ["5"]
    assert position.take(5, "5") == [] and not position.gap
    assert position.take(7, "7") == [] and position.gap
    assert position.take(6, "6") == ["6", "7"] and not position.gap


@given(st.lists(st.integers(1, 30)), st.randoms(use_true_random=False))
def test_position_shows_each_number_once_and_in_order(extra, rng):
    """Whatever comes in whatever order, as often as it likes: 1, 2, 3, ... up to the first that is missing."""
    arriving = [*range(1, 31), *extra]
    rng.shuffle(arriving)
    position = at(0)
    shown = [seq for arrived in arriving for seq in position.take(arrived, arrived)]
    assert shown == list(range(1, 31))


@pytest.mark.parametrize("early", [HELD_MAX - 1, HELD_MAX, HELD_MAX + 1])
def test_position_holds_up_to_its_bound_and_knows_of_the_rest(early):
    """What does not fit is a hole again, behind what was held: it is asked for, and not lost."""
    position = at(0)
    for seq in range(2, 2 + early):
        assert position.take(seq, seq) == []
    held = min(early, HELD_MAX)
    assert position.take(1, 1) == list(range(1, 2 + held))
    assert position.gap == (early > HELD_MAX)


def test_position_that_skips_forgets_what_lies_before():
    """What is gone from the server too cannot come any more."""
    position = at(0)
    position.take(3, "3")
    position.take(7, "7")
    position.skip_to(5)
    assert position.last == 4 and position.take(3, "3") == []
    assert position.take(5, "5") == ["5"] and position.gap
    assert position.skip_gap() == ["7"]
    assert position.last == 7 and not position.gap


def test_backoff_doubles_up_to_its_cap():
    """The bounds of the draws: 0.25, 0.5, 1, ... 16, 30, 30."""
    backoff = Backoff(lambda: 1.0)
    assert [backoff.delay() for _ in range(9)] == [FIRST * 2**n for n in range(7)] + [CAP, CAP]
    assert [Backoff(random.Random(1).random).delay() < FIRST for _ in range(3)] == [True] * 3


@pytest.mark.parametrize(("up", "expected"), [(STEADY - 1, 4 * FIRST), (STEADY, FIRST)])
def test_backoff_starts_again_after_a_connection_that_held(up, expected):
    """A connection that fails at once each minute is not a steady one; one of an hour was."""
    backoff = Backoff(lambda: 1.0)
    backoff.delay()
    backoff.delay()
    assert backoff.delay(up=up) == expected


def test_backoff_waits_at_least_as_long_as_the_server_asks():
    """The draw comes on top: the server has told everybody the same number."""
    assert Backoff(lambda: 0.5).delay(at_least=5.0) == 5.0 + FIRST / 2
