"""How the framing tests feed a decoder: whole, byte by byte, with bytes behind; and how they compare the twins."""

from __future__ import annotations

import itertools
import subprocess
import sys

from twins import needs_compiled


def both_twins(pytestconfig):
    """Return (compiled, pure); skip where only the pure twin was asked for."""
    needs_compiled(pytestconfig)
    import evloop._framing
    import evloop._framing_py

    return evloop._framing, evloop._framing_py


def outcome(call, *args, **kwargs):
    """Return ("returned", value) or ("raised", type name, text): what two twins are compared by."""
    try:
        return "returned", call(*args, **kwargs)
    except Exception as exc:
        return "raised", type(exc).__name__, str(exc)


def chunks(stream, *cuts):
    """Return *stream* cut at the given offsets."""
    edges = [0, *cuts, len(stream)]
    return [stream[start:stop] for start, stop in itertools.pairwise(edges)]


def feed_each(decoder, parts):
    """Feed the parts one after the other and return all items."""
    return [item for part in parts for item in decoder.feed(part)]


def feed_all_ways(make_decoder, stream):
    """Decode a stream of whole frames in each way a network may deliver it; return {way: (items, left, behind)}.

    *behind* is the stream's own first byte, the beginning of another frame; nothing if that byte is a whole frame.
    """
    tail = b"" if make_decoder().feed(stream[:1]) else stream[:1]
    feeds = {
        "whole": ([stream], b""),
        "byte by byte": ([stream[i : i + 1] for i in range(len(stream))], b""),
        "with a byte behind": ([stream + tail], tail),
        "in two, with a byte behind": ([stream[: len(stream) // 2], stream[len(stream) // 2 :] + tail], tail),
        "as views": ([memoryview(bytearray(stream))[i : i + 3] for i in range(0, len(stream), 3)], b""),
    }
    results = {}
    for way, (parts, behind) in feeds.items():
        decoder = make_decoder()
        items = feed_each(decoder, parts)
        results[way] = items, decoder.take_rest(), behind
    return results


def assert_decodes(make_decoder, stream, items):
    """Assert that *stream* gives *items* in each way of feeding, and that nothing is lost or kept."""
    for way, (got, left, behind) in feed_all_ways(make_decoder, stream).items():
        assert got == items, f"{way}: {got!r} instead of {items!r}"
        assert left == behind, f"{way}: {left!r} left over instead of {behind!r}"


def state_of(decoder):
    """Return everything a decoder shows of itself, for comparison between twins."""
    return {
        "buffered": decoder.buffered,
        "needed": decoder.needed,
        "position": decoder.position,
        "in_frame": decoder.in_frame,
        "failed": decoder.failed,
        "max_frame": decoder.max_frame,
        "stats": decoder.stats,
        "repr": repr(decoder),
    }


def fault_of(exc):
    """Return everything a framing error carries."""
    values = tuple(getattr(exc, field) for field in exc._fields)
    return type(exc).__name__, str(exc), values, exc.position, exc.header, exc.looks_like, exc.frames


def run_python(code, *args, env=None, cwd=None, timeout=60):
    """Run *code* in a fresh interpreter; return (exit status, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", code, *args], env=env, cwd=cwd, capture_output=True, text=True, timeout=timeout
    )
    return done.returncode, done.stdout, done.stderr


class Sink:
    """A sink that keeps what it was given, write by write."""

    def __init__(self, length=None):
        self.length = length
        self.writes = []

    def write(self, data):
        self.writes.append(data)
        return len(data)

    @property
    def content(self):
        return b"".join(self.writes)
