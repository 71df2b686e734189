"""Our reader and asyncio's, fed the same bytes in the same pieces and asked for the same, answer alike.

Without a transport: what is compared is what a reader decides, not what a kernel delivers.
"""

from __future__ import annotations

import asyncio
import random

import pytest
from streamworlds import both, outcome

ALPHABET = b"ab\n"  # few letters, so that separators are found, and found cut
SEPARATORS = [b"\n", b"a", b"ab", b"aab", b"\n\n", b"abab"]


def script(seed, length=60):
    """Return random steps for a reader."""
    dice = random.Random(seed)
    steps = []
    for _ in range(length):
        kind = dice.choice(["feed", "feed", "feed", "read", "exactly", "until", "line", "turn", "cancel"])
        if kind == "feed":
            steps.append((kind, bytes(dice.choices(ALPHABET, k=dice.choice([0, 1, 2, 3, 7, 20])))))
        elif kind in ("read", "exactly"):
            steps.append((kind, dice.choice([0, 1, 2, 5, 12, 30])))
        elif kind == "until":
            steps.append((kind, dice.choice(SEPARATORS)))
        else:
            steps.append((kind, None))
    steps.append(dice.choice([("eof", None), ("error", ConnectionResetError("gone")), ("eof", None)]))
    steps += [("line", None), ("read", 10), ("exactly", 3), ("until", b"ab"), ("read", -1)]
    return steps


async def play(world, steps, limit):
    """Run the steps; return what each read has come to, in the order of the reads."""
    reader = world.StreamReader(limit=limit, loop=asyncio.get_running_loop())
    begin = {
        "read": lambda n: reader.read(n),
        "exactly": lambda n: reader.readexactly(n),
        "until": lambda separator: reader.readuntil(separator),
        "line": lambda _: reader.readline(),
    }
    tasks, trace = [], []
    for kind, argument in steps:
        if kind in begin:
            tasks.append(asyncio.ensure_future(outcome(begin[kind](argument))))
        elif kind == "feed":
            reader.feed_data(argument)
        elif kind == "eof":
            reader.feed_eof()
        elif kind == "error":
            reader.set_exception(argument)
        elif kind == "cancel" and tasks:
            tasks[-1].cancel()
        # So many turns that all has settled: who begins to wait between a wake-up and the turn of who was woken is
        # lost by asyncio's reader, and is not by ours.
        for _ in range(6):
            await asyncio.sleep(0)
        trace.append((bytes(reader._buffer), reader.at_eof(), [task.done() for task in tasks]))
    return trace, [await task if task.done() else None for task in tasks]


@pytest.mark.parametrize("limit", [1, 3, 8, 1000])
@pytest.mark.parametrize("seed", range(40))
def test_reader_random_script_answers_as_asyncio_does(seed, limit):
    """Results, exceptions with their texts, what is left in the buffer, and when each read is done."""
    steps = script(seed)
    both(lambda world: play(world, steps, limit))


@pytest.mark.parametrize("seed", range(10))
def test_reader_random_cuts_yield_the_same_messages(seed):
    """Lengths and bodies of all sizes, cut anywhere: no byte is lost, doubled or moved."""
    dice = random.Random(seed)
    messages = [dice.randbytes(dice.choice([0, 1, 63, 64, 65, 500, 5000, 70_000])) for _ in range(40)]
    stream = b"".join(len(message).to_bytes(4, "big") + message for message in messages)

    async def main(world):
        reader = world.StreamReader(loop=asyncio.get_running_loop())

        async def read():
            got = []
            for _ in messages:
                size = int.from_bytes(await reader.readexactly(4), "big")
                got.append(await reader.readexactly(size))
            return got

        reading = asyncio.ensure_future(read())
        cuts = random.Random(seed + 1)
        place = 0
        while place < len(stream):
            size = cuts.choice([1, 3, 4, 5, 100, 4096, 65536, 262144])
            reader.feed_data(stream[place : place + size])
            place += size
            if cuts.random() < 0.7:
                await asyncio.sleep(0)
        return await reading

    assert both(main) == messages
