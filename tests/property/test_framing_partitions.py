"""Any framing, any payloads, any cuts: the frames come out, nothing is kept, nothing is read beyond a slice."""

from __future__ import annotations

import itertools

import pytest
from feeding import Sink, both_twins, fault_of, state_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evloop.errors import FramingError

SETTINGS = settings(deadline=None, max_examples=250)

EDGES = {
    "before": st.none() | st.integers(0, 6),
    "after": st.integers(0, 6),
    "magic": st.binary(max_size=4),
    "byteorder": st.sampled_from(["big", "little"]),
    "deliver": st.sampled_from(["payload", "frame", "pair"]),
    "counts": st.sampled_from(["payload", "rest", "from_length", "frame"]),
    "signed": st.booleans(),
    "bias": st.just(0) | st.integers(-20, 20) | st.sampled_from([-1000, 1000, 1 << 31]),
    "width": st.integers(1, 8) | st.just("varint"),
    "max_frame": st.none() | st.integers(0, 3000),
}


@st.composite
def framing_arguments(draw):
    """Arguments that Framing takes: each drawn from its range, contradictions dropped."""
    from evloop._framing_py import Framing

    arguments = draw(st.fixed_dictionaries({}, optional=EDGES))
    try:
        Framing(**arguments)
    except ValueError:
        assume(False)
    return arguments


@st.composite
def streams(draw):
    """(arguments, [(before, payload, after)], cuts): frames that the framing can send, and where to cut them."""
    from evloop._framing_py import Framing

    arguments = draw(framing_arguments())
    framing = Framing(**arguments)
    delta = framing._layout.delta
    least, most = max(0, -delta), min(framing.max_frame, 3000)
    assume(least <= most)
    # Around 479 and 958 the compiled body is enlarged.
    sizes = st.integers(least, min(most, least + 20)) | st.sampled_from(
        sorted({min(max(size, least), most) for size in (478, 479, 480, 957, 958, 959, 3000)})
    )
    frames = [
        (
            draw(st.binary(min_size=framing.before - len(framing.magic), max_size=framing.before - len(framing.magic))),
            bytes([index + 1]) * size,
            draw(st.binary(min_size=framing.after, max_size=framing.after)),
        )
        for index, size in enumerate(draw(st.lists(sizes, max_size=6)))
    ]
    total = sum(len(framing.encode(payload, before, after)) for before, payload, after in frames)
    return arguments, frames, sorted(draw(st.lists(st.integers(0, total), max_size=12)))


def pieces(stream, cuts):
    """Return *stream* cut at the given offsets."""
    edges = [0, *cuts, len(stream)]
    return [stream[start:stop] for start, stop in itertools.pairwise(edges)]


def delivered(framing, before, payload, after):
    """Return what a decoder delivers for one frame."""
    header = framing.header(len(payload), before, after)
    return {"payload": payload, "frame": header + payload, "pair": (header, payload)}[framing.deliver]


@given(sample=streams(), kind=st.sampled_from([bytes, bytearray, memoryview]))
@SETTINGS
def test_any_framing_decodes_what_it_encodes_however_it_is_cut(framing_module, sample, kind):
    """decode(encode(x)) == x, and the decoder is empty and at the stream's end afterwards."""
    arguments, frames, cuts = sample
    framing = framing_module.Framing(**arguments)
    stream = b"".join(framing.encode(payload, before, after) for before, payload, after in frames)
    decoder = framing.decoder()
    items = [item for part in pieces(stream, cuts) for item in decoder.feed(kind(part))]
    assert items == [delivered(framing, *frame) for frame in frames]
    assert (decoder.buffered, decoder.position, decoder.in_frame) == (0, len(stream), False)
    assert decoder.stats.copied <= len(stream)
    decoder.eof()


@given(sample=streams(), limits=st.lists(st.none() | st.integers(0, 3), min_size=1, max_size=20))
@SETTINGS
def test_any_limits_change_when_frames_come_and_not_which(framing_module, sample, limits):
    """taken + held == fed at each step, and the frames are the same."""
    arguments, frames, cuts = sample
    framing = framing_module.Framing(**{**arguments, "deliver": "frame"})
    stream = b"".join(framing.encode(payload, before, after) for before, payload, after in frames)
    decoder, items, fed = framing.decoder(), [], 0
    for part, limit in zip(pieces(stream, cuts), itertools.cycle(limits), strict=False):
        items += decoder.feed(part, limit)
        fed += len(part)
        assert len(b"".join(items)) == decoder.position
        assert decoder.position + decoder.buffered == fed
    items += decoder.feed(b"")
    assert b"".join(items) == stream


@given(sample=streams(), stop=st.integers(0, 20_000), limit=st.none() | st.integers(0, 3))
@SETTINGS
def test_taken_and_consumed_is_what_was_fed(framing_module, sample, stop, limit):
    """At a mode switch no byte is lost and none is made up."""
    arguments, frames, cuts = sample
    framing = framing_module.Framing(**{**arguments, "deliver": "frame"})
    stream = b"".join(framing.encode(payload, before, after) for before, payload, after in frames)[:stop]
    decoder = framing.decoder()
    items = [item for part in pieces(stream, [c for c in cuts if c <= stop]) for item in decoder.feed(part, limit)]
    assert b"".join(items) + decoder.take_rest() == stream


@given(
    arguments=framing_arguments(),
    parts=st.lists(st.binary(max_size=40) | st.sampled_from([b"\0" * 9, b"\xff" * 9, b"\x80" * 11]), max_size=8),
    limit=st.none() | st.integers(0, 3),
    options=st.sampled_from([{}, {"oversize": "skip"}, {"spill": Sink, "spill_above": 3}, {"max_frame": 0}]),
)
@settings(deadline=None, max_examples=600)
def test_garbage_raises_framing_errors_alone_and_the_twins_agree(pytestconfig, arguments, parts, limit, options):
    """Whatever a stranger sends is an ordinary error, the same on every machine."""
    histories = []
    for module in both_twins(pytestconfig):
        history, decoder = [], module.Framing(**arguments).decoder(**options)
        for part in [*parts, None]:
            try:
                items = decoder.feed(part, limit) if part is not None else [*decoder.feed(b""), decoder.eof()]
                history.append([plain(item) for item in items])
            except FramingError as exc:
                exc.frames = [plain(item) for item in exc.frames]
                history.append(fault_of(exc))
            history.append(state_of(decoder))
        histories.append(history)
    assert histories[0] == histories[1]


def plain(item):
    """Return an item with a sink's content in the sink's place."""
    if isinstance(item, tuple):
        return item[0], plain(item[1])
    return ("sink", item.content) if isinstance(item, Sink) else item


# --- every partition -------------------------------------------------------------------------------------------

# 14 bytes each: framing arguments, stream, frames.
FOURTEEN = {
    "four bytes": ({}, b"\0\0\0\0\0\0\0\6abcdef", [b"", b"abcdef"]),
    "one byte": ({"width": 1}, b"\0\1a\0\0\2bc\5defgh", [b"", b"a", b"", b"", b"bc", b"defgh"]),
    "padded varint between edges": (
        {"width": "varint", "before": 1, "after": 1, "deliver": "pair"},
        b"b\x83\x80\0aXYZb\2a12",
        [(b"b\x83\x80\0a", b"XYZ"), (b"b\2a", b"12")],
    ),
    "magic, counted": (
        {"width": 2, "magic": b"M", "after": 1, "counts": "frame", "deliver": "frame"},
        b"M\0\6.xyM\0\4.M\0\4.",
        [b"M\0\6.xy", b"M\0\4.", b"M\0\4."],
    ),
}


@pytest.mark.parametrize(("arguments", "stream", "frames"), FOURTEEN.values(), ids=FOURTEEN)
def test_every_partition_of_a_stream_gives_its_frames(framing_module, arguments, stream, frames):
    """All 2**(n-1) ways to cut it, each slice a view between other bytes, which must not be seen."""
    size = len(stream)
    views = {
        (start, stop): memoryview(bytearray(b"BEFORE" + stream[start:stop] + b"AFTER"))[6:-5]
        for start in range(size)
        for stop in range(start + 1, size + 1)
    }
    decoder = framing_module.Framing(**arguments).decoder()
    for mask in range(1 << (size - 1)):
        decoder.reset()
        items, start = [], 0
        for stop in range(1, size + 1):
            if stop == size or mask >> (stop - 1) & 1:
                items += decoder.feed(views[start, stop])
                start = stop
        assert items == frames
        assert (decoder.buffered, decoder.position) == (0, size)
