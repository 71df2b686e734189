"""What a decoder costs, without a clock: bytes copied, bodies enlarged, resident memory."""

from __future__ import annotations

import math

import pytest
from feeding import feed_each, run_python
from twins import needs_compiled

HEADER = 4

CUTS = {
    "1 byte at a time": [1],
    "7 bytes at a time": [7],
    "1 KiB at a time": [1024],
    "growing": list(range(1, 400)),
    "64 KiB at a time": [1 << 16],
}
PAYLOADS = {
    "empty": [b""] * 50,
    "small": [bytes(i % 90) for i in range(200)],
    "around the first room": [bytes(size) for size in (1, 478, 479, 480, 957, 958, 959, 960)],
    "one large": [bytes(50_000)],
    "mixed": [b"", bytes(3000), b"x", bytes(9000), b"yz"],
}


def cut(stream, sizes):
    """Return *stream* in pieces of the given sizes, in turn."""
    parts, start, turn = [], 0, 0
    while start < len(stream):
        parts.append(stream[start : start + sizes[turn % len(sizes)]])
        start, turn = start + len(parts[-1]), turn + 1
    return parts


@pytest.mark.parametrize("sizes", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("payloads", PAYLOADS.values(), ids=PAYLOADS)
def test_decoder_copies_no_byte_twice(framing_module, payloads, sizes):
    """Twisted's quadratic re-joining is open since 2013: here the counter is bounded by the bytes fed."""
    framing = framing_module.Framing()
    stream, decoder = framing.encode_many(payloads), framing.decoder()
    assert feed_each(decoder, cut(stream, sizes)) == payloads
    assert decoder.stats.copied <= sum(map(len, payloads)) + HEADER * len(payloads) == len(stream)


def test_decoder_of_whole_frames_copies_nothing_on_the_side(framing_module):
    """A chunk of whole frames is sliced straight out."""
    framing = framing_module.Framing()
    decoder = framing.decoder()
    decoder.feed(framing.encode_many([bytes(100)] * 100))
    assert decoder.stats.copied == 0


def test_decoder_copies_only_the_frames_that_were_cut(framing_module):
    """Of a hundred frames in two chunks one is gathered."""
    framing = framing_module.Framing()
    stream, decoder = framing.encode_many([bytes(100)] * 100), framing.decoder()
    feed_each(decoder, [stream[:5000], stream[5000:]])
    assert decoder.stats.copied == 100 + HEADER


@pytest.mark.parametrize("limit", [1, 3])
def test_decoder_limited_feeds_copy_nothing_again(framing_module, limit):
    """feed(b"", 1) over a held chunk must not be quadratic."""
    framing = framing_module.Framing()
    decoder = framing.decoder()
    items = decoder.feed(framing.encode_many([b"abc"] * 3000), limit)
    while new := decoder.feed(b"", limit):
        items += new
    assert (len(items), decoder.stats.copied) == (3000, 0)


@pytest.mark.parametrize("step", [1, 100, 1024, 60_000])
@pytest.mark.parametrize("size", [1, 479, 480, 4096, 100_000, 1 << 20])
def test_compiled_body_is_enlarged_a_logarithmic_number_of_times(pytestconfig, size, step):
    """Doubling: at most log2 of the size, however the frame is cut, so that each byte moves at most once on average."""
    needs_compiled(pytestconfig)
    import evloop._framing

    framing = evloop._framing.Framing()
    decoder, step = framing.decoder(), max(step, size // 20_000)
    assert feed_each(decoder, cut(framing.encode(bytes(size)), [step])) == [bytes(size)]
    assert decoder._resizes <= math.log2(size)


def test_decoder_buffered_never_exceeds_what_was_fed(framing_module):
    """Memory follows what arrived, never what was announced."""
    decoder = framing_module.Framing(max_frame=1 << 30).decoder()
    decoder.feed((1 << 30).to_bytes(4, "big"))
    for count in range(1, 100):
        decoder.feed(bytes(10))
        assert decoder.buffered == HEADER + 10 * count


# --- resident memory -------------------------------------------------------------------------------------------

CHILD = """
import gc, sys
import psutil
from importlib import import_module
module = import_module(sys.argv[1])
process = psutil.Process()

def resident():
    gc.collect()
    return process.memory_info().rss

def announced():
    framing = module.Framing(max_frame=1 << 20)
    start = (1 << 20).to_bytes(4, "big") + bytes(10)
    [framing.decoder().feed(start) for _ in range(100)]
    before = resident()
    decoders = [framing.decoder() for _ in range(10_000)]
    for decoder in decoders:
        decoder.feed(start)
    assert all(decoder.buffered == 14 for decoder in decoders)
    return resident() - before

def after_large():
    size = 16 << 20
    framing = module.Framing(max_frame=size)
    chunk, parts = bytes(1 << 18), size >> 18
    decoders = [framing.decoder() for _ in range(50)]
    def one(decoder):
        decoder.feed(size.to_bytes(4, "big"))
        for _ in range(parts - 1):
            decoder.feed(chunk)
        assert len(decoder.feed(chunk)[0]) == size
    before = resident()
    for decoder in decoders:
        one(decoder)
    return resident() - before

print(globals()[sys.argv[2]]())
"""

MIB = 1 << 20


def grown(framing_module, what):
    """Return by how many bytes the resident memory of a fresh process grew."""
    status, out, err = run_python(CHILD, framing_module.__name__, what)
    assert (status, err) == (0, "")
    return int(out)


def test_ten_thousand_announced_mebibytes_cost_what_arrived(framing_module):
    """10,000 peers send a header for 1 MiB and ten bytes: 10 GiB if one believes them."""
    # Measured on 64-bit Python 3.11: 8.2 MiB compiled, 13.4 MiB pure.  Twice that leaves room for other versions.
    most = {"cython": 16 * MIB, "python": 32 * MIB}[framing_module.IMPLEMENTATION]
    assert grown(framing_module, "announced") < most


@pytest.mark.slow
def test_fifty_frames_of_sixteen_mebibytes_leave_nothing_behind(framing_module):
    """One big message once must not pin its buffer for the life of the connection: 800 MiB here."""
    # Measured: 16 MiB, the one block that glibc keeps however many decoders there were.
    assert grown(framing_module, "after_large") < 32 * MIB
