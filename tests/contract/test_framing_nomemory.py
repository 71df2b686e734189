"""No memory, at each allocation of a feed: no crash, a failed decoder, and the frames before it kept.

Each case runs in an interpreter of its own: one that has been starved is not one to run other tests in.
"""

from __future__ import annotations

import pytest
from feeding import run_python

CHILD = '''
import sys
import _testcapi
from importlib import import_module
from evloop.errors import FramingError, SinkError

module = import_module(sys.argv[1])

class Sink:
    def __init__(self, length):
        self.data = []
    def write(self, data):
        self.data.append(data)

def show(item):
    return b"".join(item.data) if isinstance(item, Sink) else item

BIG = bytes(range(256)) * 12
SCENARIOS = {
    # arguments, options, raw size, [(data, limit)]
    "whole frames": (dict(), {}, None, [(b"\\0\\5hello\\0\\2hi\\0\\0\\0\\1x" * 3, None)]),
    "frame": (dict(deliver="frame"), {}, None, [(b"\\0\\5hello\\0\\2hi" * 3, None)]),
    "pair": (dict(deliver="pair"), {}, None,
             [(b"\\0\\5hello\\0\\2hi" * 3, None), (b"\\0\\2h", None), (b"i", None)]),
    "bytearray": (dict(), {}, None, [(bytearray(b"\\0\\5hello\\0\\2hi"), None)]),
    "cut body": (dict(), {}, None, [(b"\\0\\1a\\x0c", None), (b"\\0" + BIG[:500], None), (BIG[500:1100], None),
                                    (BIG[1100:] + b"\\0\\1b", None)]),
    "cut body, frame": (dict(deliver="frame"), {}, None,
                        [(b"\\0\\1a\\x0c", None), (b"\\0" + BIG[:9], None),
                         (BIG[9:], None)]),
    "limit": (dict(), {}, None,
              [(b"\\0\\1a\\0\\1b\\0\\1c", 1), (bytearray(b"\\0\\1d\\0"), 1), (b"\\1e", 1), (b"", None)]),
    "limit of a bytearray": (dict(), {}, None, [(bytearray(b"\\0\\1a\\0\\1b\\0\\1c"), 1), (b"", None)]),
    "raw": (dict(), {}, 1000, [(BIG[:600], None), (BIG[:400] + b"\\0\\1b", None)]),
    "spill": (dict(), dict(spill=Sink, spill_above=4), None, [(b"\\0\\1a\\0\\5he", None), (b"llo\\0\\1b", None)]),
    "skip": (dict(max_frame=4), dict(oversize="skip"), None, [(b"\\0\\1a\\0\\5he", None), (b"llo\\0\\1b", None)]),
    "fault": (dict(max_frame=4), {}, None, [(b"\\0\\1a\\0\\2hi\\0\\5hello", None)]),
}

def starve(start, stop, decoder, feeds):
    """Return (items of the calls that returned, how many did, the exception of the one that did not)."""
    # The list has its room: between the hooks, only the decoder may need memory.
    results, feed, error, index = [None] * len(feeds), decoder.feed, None, 0
    _testcapi.set_nomemory(start, stop)
    try:
        for data, limit in feeds:
            results[index] = feed(data, limit)
            index += 1
    except BaseException as exc:
        error = exc
    _testcapi.remove_mem_hooks()
    return [item for items in results[:index] for item in items], index, error

def prepare(name):
    arguments, options, raw, feeds = SCENARIOS[name]
    decoder = module.Framing(2, **arguments).decoder(**options)
    if raw is not None:
        decoder.expect_raw(raw)
    return decoder, feeds

def finish(decoder, feeds):
    got = []
    try:
        for data, limit in feeds:
            got.extend(decoder.feed(data, limit))
    except FramingError as exc:
        got.extend(exc.frames)
    return got

def check(name, start, stop):
    """Starve one feed history; return whether an allocation failed, and how many frames the error kept."""
    expected = [show(item) for item in finish(*prepare(name))]
    decoder, feeds = prepare(name)
    got, done, error = starve(start, stop, decoder, feeds)
    where = f"{name}, allocation {start}: {error!r}"
    if error is None:
        assert [show(item) for item in got] == expected, where
        return False, 0
    if isinstance(error, FramingError) and not isinstance(error, SinkError):
        assert name == "fault" and [show(item) for item in got + error.frames] == expected, where
        return False, 0
    assert isinstance(error, (MemoryError, SinkError)), where
    if not decoder.failed:
        # Refused before a byte was taken: the same bytes can be fed again.
        rest = finish(decoder, feeds[done:])
        assert [show(item) for item in got + rest] == expected, (where, "frames lost", got, rest)
        return True, 0
    frames = getattr(error, "frames", [])
    assert hasattr(error, "frames"), (where, "no frames on the error")
    seen = [show(item) for item in got + frames]
    assert seen == expected[:len(seen)], (where, "frames out of order", seen)
    for call in (lambda: decoder.feed(b""), decoder.eof, lambda: decoder.feed(b"\\0\\1a")):
        try:
            call()
        except (MemoryError, FramingError) as exc:
            assert not getattr(exc, "frames", []), (where, "frames twice")
        else:
            raise AssertionError((where, "failed, and goes on"))
    if isinstance(error, MemoryError):
        try:
            decoder.take_rest()
        except RuntimeError:
            pass
        else:
            raise AssertionError((where, "returned a rest with a hole in it"))
    repr(decoder), decoder.buffered, decoder.needed, decoder.stats
    decoder.reset()
    assert len(decoder.feed(b"\\0\\1a")) == 1, where
    return True, len(frames)

starved = kept = 0
name = sys.argv[2]
quiet = start = 0
while quiet < 8 and start < 400:
    failed, frames = check(name, start, start + 1)
    starved += failed
    kept = max(kept, frames)
    quiet = 0 if failed else quiet + 1
    start += 1
print(starved, kept)
'''

SCENARIOS = [
    "whole frames",
    "frame",
    "pair",
    "bytearray",
    "cut body",
    "cut body, frame",
    "limit",
    "limit of a bytearray",
    "raw",
    "spill",
    "skip",
    "fault",
]


def run(framing_module, scenario):
    """Run one scenario in its own interpreter; return (allocations that failed, frames kept by an error)."""
    status, out, err = run_python(CHILD, framing_module.__name__, scenario)
    assert (status, err) == (0, "")
    return tuple(map(int, out.split()))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_feed_without_memory_at_one_allocation_fails_cleanly(framing_module, scenario):
    """Under memory pressure a server must lose the connection and not the process, nor a frame in silence."""
    pytest.importorskip("_testcapi")
    starved, kept = run(framing_module, scenario)
    assert starved > 0
    # Where many frames come out of one call, an allocation fails behind the first of them.
    assert kept > 0 or scenario not in ("whole frames", "frame", "pair")
