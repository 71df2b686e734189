"""Small frames: their memory is used again as soon as nobody holds them, and nobody sees any of it."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import random

import pytest
from peers import connection_class, encode, kernel, world

import evloop

END = 512  # from here on a small frame's memory is not kept
KEPT = 512  # objects at most
SIZES = [0, 1, 2, 3, 64, END - 1, END, END + 1]


def payload(size, number):
    """Return *size* bytes that differ from another number's."""
    return random.Random(number).randbytes(size)


class EachFrame(evloop.Protocol):
    """Calls *action* with each frame, and keeps nothing: a recorder would keep all."""

    def __init__(self, action):
        self.action = action

    def frame_received(self, frame):
        self.action(frame)


class AllFrames(EachFrame):
    """The same, one call a read."""

    def frames_received(self, frames):
        for frame in frames:
            self.action(frame)


@pytest.mark.parametrize("protocol", [EachFrame, AllFrames])
@pytest.mark.parametrize("size", SIZES)
def test_connection_small_frames_that_are_kept_never_change(world, protocol, size):
    """Every third is kept, by itself or by a view; one frame a read, and many in one."""
    kept, views, number = [], [], 0

    def keep_some(frame):
        nonlocal number
        if number % 3 == 0:
            kept.append((number, frame))
        elif number % 3 == 1:
            views.append((number, memoryview(frame)))
        number += 1

    _, peer = world.connect(protocol(keep_some))
    for first in range(0, 90, 30):
        for alone in range(first, first + 10):
            peer.write(encode(payload(size, alone)))
            world.until(lambda alone=alone: number == alone + 1)
        peer.write(encode(*[payload(size, n) for n in range(first + 10, first + 30)]))
        world.until(lambda first=first: number == first + 30)
    assert kept == [(n, payload(size, n)) for n in range(0, 90, 3)]
    assert [(n, bytes(view)) for n, view in views] == [(n, payload(size, n)) for n in range(1, 90, 3)]


def test_connection_hash_of_a_small_frame_is_its_own(world):
    """A bytes object remembers its hash: the one of what its memory held before would lose it in a dict."""
    seen = []

    def look_up(frame):
        seen.append({bytes(bytearray(frame)): "found"}.get(frame))

    _, peer = world.connect(EachFrame(look_up))
    peer.write(encode(*[payload(20, number) for number in range(300)]))
    world.until(lambda: len(seen) == 300)
    peer.write(encode(*[payload(20, number) for number in range(300, 600)]))
    world.until(lambda: len(seen) == 600)
    assert set(seen) == {"found"}


@pytest.mark.parametrize("count", [KEPT - 1, KEPT, KEPT + 1, 3 * KEPT])
def test_connection_more_small_frames_than_are_kept_arrive_as_they_were_sent(world, count):
    """The pool is emptied when it is full; sizes come and go."""
    got = []
    _, peer = world.connect(AllFrames(lambda frame: got.append(bytes(bytearray(frame)))))
    for sizes in ((64,), (5, 200), (64,), (2, 3, 4)):
        expected = [payload(sizes[n % len(sizes)], n) for n in range(count)]
        got.clear()
        peer.write(encode(*expected))
        world.until(lambda expected=expected: len(got) == len(expected))
        assert got == expected
