"""What the framing benchmark feeds, and the rivals that are fed.

A stream is half a mebibyte of payloads of one size, each behind its header, cut as a network might deliver it.  Every
rival gives back the same thing, a list of payload bytes for each chunk, and is checked against the payloads before it
is timed.

Rule: nothing in this file may read a clock or favour a rival.  Where one is treated unlike another, its class says how.
Read next: ``framing.py``, which has this timed.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import struct
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple

SIZES = (16, 64, 1024, 16384)
DELIVERIES = {"full": "64 KiB chunks", "one": "frame a chunk", "cuts": "random cuts"}
ENCODINGS = {"each": "one by one", "batch": "64 KiB batch"}

# Large enough that a pass takes microseconds even in C, small enough to stay in a second-level cache: a server
# decodes what recv(2) has just written, so cold memory would measure something else.
STREAM_BYTES = 512 * 1024

# What one large recv(2) returns.
CHUNK_BYTES = 64 * 1024

# Cuts are uniform in 1..2920, on average one TCP segment of 1460 bytes.
LARGEST_CUT = 2920

# evloop's default bound; every rival that has a bound gets the same.
MAX_FRAME = 1 << 20

SEED = 1

LENGTH = struct.Struct(">I")


class Case(NamedTuple):
    """One cell of the tables: ``decode`` with a delivery, or ``encode`` with an encoding, for one payload size."""

    direction: str
    size: int
    how: str

    @property
    def label(self) -> str:
        """What it is, for a table: size and manner."""
        size = f"{self.size} B" if self.size < 1024 else f"{self.size // 1024} KiB"
        return f"{size:>6}  {(DELIVERIES | ENCODINGS)[self.how]}"

    @property
    def name(self) -> str:
        """What it is called in files: ``decode 64 full``."""
        return f"{self.direction} {self.size} {self.how}"


DECODE_CASES = [Case("decode", size, how) for size in SIZES for how in DELIVERIES]
ENCODE_CASES = [Case("encode", size, how) for size in SIZES for how in ENCODINGS]


def payloads_of(size: int) -> list[bytes]:
    """Return payloads of *size* random bytes each, STREAM_BYTES of wire in all; the same in every process."""
    source = random.Random(SEED + size)
    return [source.randbytes(size) for _ in range(STREAM_BYTES // (size + 4))]


def cut(stream: bytes, how: str, frame_bytes: int) -> list[bytes]:
    """Cut *stream* into the chunks of a delivery; *frame_bytes* is the size of each of its frames."""
    source = random.Random(SEED)
    chunks, pos = [], 0
    while pos < len(stream):
        step = {"full": CHUNK_BYTES, "one": frame_bytes, "cuts": source.randint(1, LARGEST_CUT)}[how]
        chunks.append(stream[pos : pos + step])
        pos += step
    return chunks


def batches_of(payloads: list[bytes]) -> list[list[bytes]]:
    """Split *payloads* of one size into lists of about CHUNK_BYTES of wire."""
    count = CHUNK_BYTES // (len(payloads[0]) + 4)
    return [payloads[first : first + count] for first in range(0, len(payloads), count)]


def digest(frames: list[bytes]) -> str:
    """Return a hash that is equal only for equal lists of exact bytes."""
    state = blake2b(digest_size=16)
    for frame in frames:
        if type(frame) is not bytes:
            raise TypeError(f"a rival returned {type(frame).__name__} instead of bytes")
        state.update(len(frame).to_bytes(8, "big"))
        state.update(frame)
    return state.hexdigest()


class Rival:
    """One way to frame.  Subclasses give feed, encode and encode_many, as attributes so that no wrapper is timed."""

    label = ""
    needs = ""  # the module that is not part of Python, and its distribution's name
    feed: Callable[[bytes], list[bytes]]
    encode: Callable[[bytes], bytes]
    encode_many: Callable[[list[bytes]], bytes]

    def header(self, length: int) -> bytes:
        """Return what this rival expects before a payload of *length* bytes."""
        return LENGTH.pack(length)

    def decode(self, chunks: list[bytes]) -> None:
        """Decode a stream and drop the frames chunk by chunk, as a server does; this is what is timed."""
        feed = self.feed
        for chunk in chunks:
            feed(chunk)

    def encode_each(self, payloads: list[bytes]) -> None:
        """Encode payloads one by one and drop each; this is what is timed."""
        encode = self.encode
        for payload in payloads:
            encode(payload)

    def encode_batches(self, batches: list[list[bytes]]) -> None:
        """Encode each batch into one bytes object; this is what is timed."""
        encode_many = self.encode_many
        for batch in batches:
            encode_many(batch)

    def decoded(self, chunks: list[bytes]) -> list[bytes]:
        """Return all frames of a stream, for the check."""
        return [frame for chunk in chunks for frame in self.feed(chunk)]

    def parsed(self, wire: bytes) -> list[bytes]:
        """Return the payloads of what this rival has encoded, for the check; by a parser that is not its own."""
        found, pos = [], 0
        while pos < len(wire):
            stop = pos + 4 + int.from_bytes(wire[pos : pos + 4], "big")
            found.append(wire[pos + 4 : stop])
            pos = stop
        return found


class CLoop(Rival):
    """The floor; see ``rivals/framing_floor.c``."""

    label = "C loop"

    def __init__(self) -> None:
        floor = importlib.import_module("framing_floor")  # compiled, and put on the path, by who times it
        self.feed, self.encode, self.encode_many = floor.Decoder().feed, floor.encode, floor.encode_many


class Compiled(Rival):
    """evloop's extension, imported by name: its absence is an error here and not a silent change of subject."""

    label = "evloop"
    needs = "evloop._framing"

    def __init__(self) -> None:
        framing = importlib.import_module("evloop._framing").Framing(max_frame=MAX_FRAME)
        self.feed, self.encode, self.encode_many = framing.decoder().feed, framing.encode, framing.encode_many


class Pure(Rival):
    """evloop's twin in plain Python."""

    label = "evloop pure"

    def __init__(self) -> None:
        framing = importlib.import_module("evloop._framing_py").Framing(max_frame=MAX_FRAME)
        self.feed, self.encode, self.encode_many = framing.decoder().feed, framing.encode, framing.encode_many


class StructLoop(Rival):
    """What a careful person writes in an hour: an offset and no re-slicing, one compaction a chunk, a limit.

    A frame that spans many chunks is gathered in a bytearray and looked at again only once it is whole; without that
    the loop would be quadratic in the frame's size.
    """

    label = "struct loop"

    def __init__(self) -> None:
        self.rest = bytearray()
        self.needed = 4

    def feed(self, chunk: bytes) -> list[bytes]:
        frames: list[bytes] = []
        rest = self.rest
        if rest:
            rest += chunk
            if len(rest) < self.needed:
                return frames
            chunk = bytes(rest)
            rest.clear()
        pos, end, unpack_from = 0, len(chunk), LENGTH.unpack_from
        self.needed = 4
        while end - pos >= 4:
            (length,) = unpack_from(chunk, pos)
            if length > MAX_FRAME:
                raise ValueError(f"frame of {length} bytes exceeds {MAX_FRAME}")
            stop = pos + 4 + length
            if stop > end:
                self.needed = 4 + length
                break
            frames.append(chunk[pos + 4 : stop])
            pos = stop
        if pos < end:
            rest += chunk[pos:]
        return frames

    def encode(self, payload: bytes) -> bytes:
        return LENGTH.pack(len(payload)) + payload

    def encode_many(self, payloads: list[bytes]) -> bytes:
        pack = LENGTH.pack
        parts = []
        for payload in payloads:
            parts.append(pack(len(payload)))
            parts.append(payload)
        return b"".join(parts)


class MessagePack(Rival):
    """The C extension nearest in purpose: feed bytes, iterate over objects; here every object is a bin32.

    Its header is 5 bytes where the others' is 4.  Its encoder chooses the shortest header, 2, 3 or 5 bytes.
    """

    label = "msgpack"
    needs = "msgpack"

    def __init__(self) -> None:
        msgpack: Any = importlib.import_module("msgpack")

        # bin32's header comes on top of the payload.
        self.unpacker = msgpack.Unpacker(raw=True, max_buffer_size=MAX_FRAME + 5)
        self.encode = msgpack.Packer().pack
        self.packer = msgpack.Packer(autoreset=False)
        self.make_unpacker = msgpack.Unpacker

    def header(self, length: int) -> bytes:
        return struct.pack(">BI", 0xC6, length)

    def feed(self, chunk: bytes) -> list[bytes]:
        self.unpacker.feed(chunk)
        return list(self.unpacker)

    def decode(self, chunks: list[bytes]) -> None:
        unpacker = self.unpacker
        feed = unpacker.feed
        for chunk in chunks:
            feed(chunk)
            list(unpacker)

    def encode_many(self, payloads: list[bytes]) -> bytes:
        packer = self.packer
        pack = packer.pack
        for payload in payloads:
            pack(payload)
        wire: bytes = packer.bytes()
        packer.reset()
        return wire

    def parsed(self, wire: bytes) -> list[bytes]:
        unpacker = self.make_unpacker(raw=True)
        unpacker.feed(wire)
        return list(unpacker)


class Twisted(Rival):
    """Twisted's Int32StringReceiver, which is plain Python, with a stub for its transport.

    Where an application defines stringReceived, a list's append stands here: it collects the frames as the others do
    and costs less than any Python function.  write() is an append, too, to a deque that holds one frame.
    """

    label = "Twisted"
    needs = "twisted"

    def __init__(self) -> None:
        self.protocol: Any = importlib.import_module("twisted.protocols.basic").Int32StringReceiver()
        self.protocol.MAX_LENGTH = MAX_FRAME
        self.protocol.transport = self
        self.last: deque[bytes] = deque(maxlen=1)
        self.write: Callable[[bytes], None] = self.last.append

    def feed(self, chunk: bytes) -> list[bytes]:
        frames: list[bytes] = []
        self.protocol.stringReceived = frames.append
        self.protocol.dataReceived(chunk)
        return frames

    def encode(self, payload: bytes) -> bytes:
        self.protocol.sendString(payload)
        return self.last[0]

    def encode_each(self, payloads: list[bytes]) -> None:
        send = self.protocol.sendString
        for payload in payloads:
            send(payload)

    def encode_many(self, payloads: list[bytes]) -> bytes:
        parts: list[bytes] = []
        self.write = parts.append
        send = self.protocol.sendString
        for payload in payloads:
            send(payload)
        self.write = self.last.append
        return b"".join(parts)

    def loseConnection(self) -> None:
        raise ValueError("Twisted refused a frame")


RIVALS: dict[str, type[Rival]] = {
    "cloop": CLoop,
    "evloop": Compiled,
    "pure": Pure,
    "struct": StructLoop,
    "msgpack": MessagePack,
    "twisted": Twisted,
}


def missing(name: str) -> str:
    """Return what a rival lacks, "" if nothing: the distribution to install, or the extension that was not built."""
    needs = RIVALS[name].needs
    return needs if needs and importlib.util.find_spec(needs) is None else ""


class Job(NamedTuple):
    """One verified case of one rival, ready to be timed: call ``run(work)``; it passes *frames* frames."""

    run: Callable[[Any], None]
    work: Any
    frames: int


def prepare(name: str, case: Case) -> Job:
    """Build a case for the rival *name* and check that the rival gets it right; RuntimeError if it does not."""
    rival = RIVALS[name]()
    payloads = payloads_of(case.size)
    run: Callable[[Any], None]
    work: Any
    if case.direction == "decode":
        header = rival.header(case.size)
        stream = b"".join([header + payload for payload in payloads])
        work = cut(stream, case.how, len(header) + case.size)
        run, result = rival.decode, rival.decoded(work)
    elif case.how == "each":
        work = payloads
        run, result = rival.encode_each, rival.parsed(b"".join([rival.encode(payload) for payload in payloads]))
    else:
        work = batches_of(payloads)
        run, result = rival.encode_batches, rival.parsed(b"".join([rival.encode_many(batch) for batch in work]))
    if digest(result) != digest(payloads):
        raise RuntimeError(f"{rival.label} got {case.direction} {case.label.strip()} wrong")
    return Job(run, work, len(payloads))
