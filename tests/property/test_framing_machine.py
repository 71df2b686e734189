"""Random histories of two decoders, compiled and pure, beside a naive one that keeps every byte."""

from __future__ import annotations

import pytest
from feeding import Sink, both_twins, fault_of, state_of
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from evloop.errors import BadLength, BadMagic, FrameTooLarge, FramingError, TruncatedFrame

# A few formats that between them have every part of a header.
FORMATS = [
    {"width": 1},
    {"width": 2, "before": 1, "counts": "frame", "deliver": "pair"},
    {"width": 1, "magic": b"M", "deliver": "frame"},
    {"width": "varint", "before": 1, "after": 1, "counts": "rest", "deliver": "pair"},
    {"width": 2, "byteorder": "little", "signed": True, "bias": -1},
    {"width": 1, "after": 2, "bias": 2},
]


class Item:
    """What the oracle is in the middle of."""

    def __init__(self, kind, header, size):
        self.kind, self.header, self.size, self.got = kind, header, size, b""


class Oracle:
    """The decoder as one would write it without a thought for memory: the contract in few lines."""

    def __init__(self, framing, skip, spill_above, max_frame):
        self.layout = framing._layout
        self.skip, self.spill_above, self.max_frame = skip, spill_above, max_frame
        self.reset()

    def reset(self):
        # the first bytes of the buffer, that have been looked at and are no whole header yet
        self.looked_at = 0
        self.buffer, self.item, self.position = b"", None, 0
        self.error, self.closed = None, False
        self.frames = self.payload_bytes = self.largest = self.skipped = self.skipped_bytes = 0

    def header_size(self):
        """Return the size of the header at the front, None if it is not whole yet."""
        layout = self.layout
        if layout.size:
            return layout.header_size if len(self.buffer) >= layout.header_size else None
        for index, byte in enumerate(self.buffer[layout.before : layout.before + 10]):
            if byte < 0x80 or index == 9:
                # A tenth byte that goes on ends the header: there is nothing to wait for.
                size = layout.before + index + 1 + (layout.after if byte < 0x80 else 0)
                return size if len(self.buffer) >= size else None
        return None

    def begin(self, size):
        """Judge the header at the front."""
        layout, header = self.layout, self.buffer[:size]
        if not header.startswith(layout.magic):
            return BadMagic
        if layout.size:
            field = header[layout.before : layout.before + layout.size]
            value = int.from_bytes(field, layout.byteorder, signed=layout.signed)
        else:
            digits = header[layout.before : size - layout.after] if header[-1 - layout.after] < 0x80 else None
            if digits is None:
                return BadLength
            value = sum((byte & 0x7F) << 7 * index for index, byte in enumerate(digits))
            if value >> 64:
                return BadLength
        length = value - layout.delta
        if value < 0 or length < 0:
            return BadLength
        if length > self.max_frame:
            if not self.skip:
                return FrameTooLarge
            kind = "skip"
        else:
            kind = "sink" if self.spill_above is not None and length > self.spill_above else "body"
        self.buffer, self.looked_at = self.buffer[size:], 0
        self.item = Item(kind, header, length)
        return None

    def feed(self, data, limit):
        """Return ("items", list) or ("error", class, list)."""
        self.buffer += data
        out = []
        while limit is None or len(out) < limit:
            if self.item is None:
                size = self.header_size()
                if size is None:
                    self.looked_at = len(self.buffer)
                    break
                self.error = self.begin(size)
                if self.error is not None:
                    return "error", self.error, out
            elif len(self.item.got) < self.item.size:
                if not self.buffer:
                    break
                take = self.item.size - len(self.item.got)
                self.item.got += self.buffer[:take]
                self.buffer = self.buffer[take:]
            else:
                self.finish(out)
        return "items", out

    def held(self):
        """Tell whether a limit keeps bytes back."""
        return len(self.buffer) > self.looked_at

    def finish(self, out):
        """Deliver the whole item."""
        item, self.item = self.item, None
        self.position += len(item.header) + item.size
        if item.kind == "skip":
            self.skipped += 1
            self.skipped_bytes += item.size
            return
        self.frames += 1
        self.payload_bytes += item.size
        self.largest = max(self.largest, item.size)
        raw = item.kind.startswith("raw")
        payload = item.got
        if self.layout.deliver == "frame" and not raw:
            payload = item.header + payload
        if item.kind in ("sink", "raw sink"):
            payload = "sink", payload
        out.append((item.header, payload) if self.layout.deliver == "pair" and not raw else payload)

    def buffered(self):
        kept = 0
        if self.item is not None:
            kept = len(self.item.header) + (len(self.item.got) if self.item.kind in ("body", "raw") else 0)
        return kept + len(self.buffer)

    def gone(self):
        return self.item is not None and self.item.kind in ("skip", "sink", "raw sink") and self.item.got

    def rest(self):
        return (self.item.header + self.item.got if self.item else b"") + self.buffer


def plain(item):
    """Return an item with a sink's content in the sink's place."""
    if isinstance(item, tuple):
        return item[0], plain(item[1])
    return ("sink", item.content) if isinstance(item, Sink) else item


def answer(call, *args):
    """Return what a decoder's method returned or raised, comparable."""
    try:
        result = call(*args)
    except FramingError as exc:
        exc.frames = [plain(item) for item in exc.frames]
        return "raised", *fault_of(exc)
    except (RuntimeError, ValueError, TypeError) as exc:
        return "raised", type(exc).__name__, str(exc)
    return "returned", [plain(item) for item in result] if isinstance(result, list) else result


class Histories(RuleBasedStateMachine):
    """Do the same to all three and compare everything they show."""

    modules = ()

    @initialize(
        arguments=st.sampled_from(FORMATS),
        skip=st.booleans(),
        spill_above=st.none() | st.integers(0, 6),
        max_frame=st.integers(6, 12) | st.integers(0, 12),
    )
    def begin(self, arguments, skip, spill_above, max_frame):
        options = {"oversize": "skip" if skip else "error", "max_frame": max_frame}
        if spill_above is not None:
            options |= {"spill": Sink, "spill_above": spill_above}
        self.framing = self.modules[1].Framing(**arguments)
        self.decoders = [module.Framing(**arguments).decoder(**options) for module in self.modules]
        self.oracle = Oracle(self.framing, skip, spill_above, max_frame)

    def ask(self, method, *args):
        """Call both decoders, compare them, and return their common answer."""
        answers = [answer(getattr(decoder, method), *args) for decoder in self.decoders]
        assert answers[0] == answers[1]
        return answers[0]

    def compare(self):
        """Compare what is to be seen, between the twins and with the oracle."""
        states = [state_of(decoder) for decoder in self.decoders]
        assert states[0] == states[1]
        state, oracle = states[0], self.oracle
        assert state["buffered"] == oracle.buffered()
        assert state["position"] == oracle.position
        assert state["failed"] == (oracle.error is not None)
        if oracle.error is None:
            assert state["in_frame"] == bool(oracle.buffer or oracle.item)
        assert state["max_frame"] == oracle.max_frame
        counted = (oracle.frames, oracle.payload_bytes, oracle.largest, oracle.skipped, oracle.skipped_bytes)
        assert state["stats"][:5] == counted
        if oracle.error or oracle.closed or oracle.held():
            assert state["needed"] == 0
        elif oracle.item:
            assert state["needed"] == oracle.item.size - len(oracle.item.got)
        else:
            assert state["needed"] > 0

    def feed_all(self, data, limit):
        """Feed all three and compare what came out."""
        got = self.ask("feed", data, limit)
        if self.oracle.error is not None:
            assert got[:2] == ("raised", self.oracle.error.__name__)
            assert got[-1] == []
        elif self.oracle.closed:
            assert got[:2] == ("raised", "RuntimeError")
        else:
            expected = self.oracle.feed(bytes(data), limit)
            if expected[0] == "items":
                assert got == ("returned", expected[1])
            else:
                # class, position and frames; the text is compared between the twins
                assert (got[1], got[4], got[-1]) == (expected[1].__name__, self.oracle.position, expected[2])
        self.compare()

    limits = st.none() | st.none() | st.integers(0, 3)

    @rule(
        sizes=st.lists(st.integers(0, 7) | st.integers(0, 14), min_size=1, max_size=4),
        cut=st.integers(0, 30),
        limit=limits,
        kind=st.sampled_from([bytes, bytearray]),
    )
    def feed_frames(self, sizes, cut, limit, kind):
        """Whole frames, most of them legal, in one or two feeds."""
        layout = self.framing._layout
        edges = b"e" * (layout.before - len(layout.magic)), b"f" * layout.after
        usable = [max(size, -layout.delta) for size in sizes]
        data = b"".join(self.framing.encode(bytes([65 + size]) * size, *edges) for size in usable)
        self.feed_all(kind(data[:cut]), limit)
        self.feed_all(kind(data[cut:]), limit)

    @rule(data=st.binary(max_size=6), limit=limits, really=st.integers(0, 3))
    def feed_garbage(self, data, limit, really):
        if really == 3:
            self.feed_all(data, limit)

    @rule(limit=limits)
    def feed_nothing(self, limit):
        self.feed_all(b"", limit)

    @rule(value=st.integers(7, 14) | st.integers(0, 14))
    def set_max_frame(self, value):
        for decoder in self.decoders:
            decoder.max_frame = value
        self.oracle.max_frame = value
        self.compare()

    @rule(n=st.integers(-1, 16), to_sink=st.booleans())
    def expect_raw(self, n, to_sink):
        answers = [answer(decoder.expect_raw, n, *([Sink()] if to_sink else [])) for decoder in self.decoders]
        assert answers[0] == answers[1]
        oracle, got = self.oracle, answers[0]
        if oracle.error is not None:
            assert got[1] == oracle.error.__name__
        elif oracle.closed or oracle.item or oracle.looked_at:
            assert got[1] == "RuntimeError"
        elif n < 0:
            assert got[1] == "ValueError"
        elif not to_sink and n > oracle.max_frame:
            assert got[1] == "FrameTooLarge"
        else:
            assert got == ("returned", None)
            oracle.item = Item("raw sink" if to_sink else "raw", b"", n)
        self.compare()

    # What ends a history comes seldom, or most of its steps would be refused.
    seldom = st.integers(0, 9).map(lambda number: number == 9)

    @rule(really=seldom)
    def eof(self, really):
        if not really:
            return
        oracle, got = self.oracle, self.ask("eof")
        if oracle.error is not None:
            assert got[1] == oracle.error.__name__
        elif oracle.held():
            assert got[1] == "RuntimeError"
        elif oracle.buffer or (oracle.item and (oracle.item.header or oracle.item.size)):
            assert (got[1], got[3][0]) == ("TruncatedFrame", len(oracle.rest()))
            oracle.error = TruncatedFrame
        else:
            assert got == ("returned", None)
            oracle.closed, oracle.item = True, None
        self.compare()

    @rule(really=seldom)
    def take_rest(self, really):
        if not really:
            return
        oracle, got = self.oracle, self.ask("take_rest")
        if oracle.gone():
            assert got[1] == "RuntimeError"
        else:
            assert got == ("returned", oracle.rest())
            oracle.reset()
            oracle.closed = True
        self.compare()

    @precondition(lambda self: self.oracle.error or self.oracle.closed)
    @rule()
    def reset_ended(self):
        self.reset()

    @rule(really=seldom)
    def reset_running(self, really):
        if really:
            self.reset()

    def reset(self):
        assert self.ask("reset") == ("returned", None)
        self.oracle.reset()
        self.compare()


# How long one example takes says how busy the machine is, and nothing about the decoder.
BUSY_MACHINE = settings(
    deadline=None, max_examples=1000, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.slow
def test_decoders_and_a_naive_one_agree_over_any_history(pytestconfig):
    """The rare state is the one that no example has: C against Python against the contract, step by step."""
    modules = both_twins(pytestconfig)
    machine = type("TheseHistories", (Histories,), {"modules": modules})
    run_state_machine_as_test(machine, settings=BUSY_MACHINE)
