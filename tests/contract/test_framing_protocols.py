"""The wire formats of real protocols, from bytes built by hand: what Framing can express, both ways."""

from __future__ import annotations

import struct

import pytest
from feeding import assert_decodes

DNS = bytes.fromhex("1234 0100 0001 0000 0000 0000 016100 0001 0001")  # a query for "a.", type A, class IN
PROTOBUF = b"\x0a\xa9\x02" + b"x" * 297  # field 1, a string of 297 bytes: 300 bytes, whose length is ac 02
MQTT = b"\x00\x03a/b" + b"p" * 316  # topic "a/b" and a message: 321 bytes, the specification's two-byte example
DIAMETER_AFTER = bytes.fromhex("80 000101 00000000 00000001 00000002")  # flags, Capabilities-Exchange, ids
TPKT = bytes.fromhex("06 e0 0000 0001 00")  # an X.224 connection request

# arguments, [(before, payload, after)], the same as bytes on the wire
PROTOCOLS = {
    "Kafka ApiVersions": (
        {},
        [(b"", bytes.fromhex("0012 0000 00000001 ffff"), b"")],
        "0000000a 0012 0000 00000001 ffff",
    ),
    "Erlang packet 4": (
        {},
        [(b"", b"\x83d\x00\x02ok", b""), (b"", b"", b"")],
        "00000006 83 64 0002 6f6b 00000000",
    ),
    "Erlang packet 1": ({"width": 1}, [(b"", b"\x83a\x01", b"")], "03 83 61 01"),
    "DNS over TCP": ({"width": 2}, [(b"", DNS, b"")], "0013" + DNS.hex()),
    "protobuf delimited": (
        {"width": "varint"},
        [(b"", b"\x08\x96\x01", b""), (b"", PROTOBUF, b"")],
        "03 089601 ac02" + PROTOBUF.hex(),
    ),
    "MQTT": (
        {"width": "varint", "before": 1},
        [(b"\xc0", b"", b""), (b"\x30", MQTT, b"")],  # PINGREQ, PUBLISH
        "c0 00 30 c102" + MQTT.hex(),
    ),
    "PostgreSQL": (
        {"width": 4, "before": 1, "counts": "from_length"},
        [(b"Q", b"SELECT 1\0", b""), (b"Z", b"I", b""), (b"S", b"", b"")],
        "51 0000000d 53454c454354203100 5a 00000005 49 53 00000004",
    ),
    "MySQL": (
        {"width": 3, "byteorder": "little", "after": 1},
        [(b"", b"\x03SELECT 1", b"\x00"), (b"", b"", b"\x01")],
        "090000 00 03 53454c4543542031 000000 01",
    ),
    "HTTP/2": (
        {"width": 3, "after": 6},
        [(b"", b"", bytes.fromhex("04 00 00000000")), (b"", b"pingpong", bytes.fromhex("06 01 00000000"))],
        "000000 04 00 00000000 000008 06 01 00000000 70696e67706f6e67",
    ),
    "TPKT": ({"width": 2, "before": 2, "counts": "frame"}, [(b"\x03\x00", TPKT, b"")], "03 00 000b" + TPKT.hex()),
    "TPKT with its version as magic": (
        {"width": 2, "magic": b"\x03", "before": 2, "counts": "frame"},
        [(b"\x00", TPKT, b"")],
        "03 00 000b" + TPKT.hex(),
    ),
    "Diameter": (
        {"width": 3, "before": 1, "after": 16, "counts": "frame"},
        [
            (b"\x01", b"\x00\x00\x01\x08\x40\x00\x00\x0ahost\x00\x00"[:12], DIAMETER_AFTER),
            (b"\x01", b"", DIAMETER_AFTER),
        ],
        "01 000020" + DIAMETER_AFTER.hex() + "00000108 4000000a 686f7374" + "01 000014" + DIAMETER_AFTER.hex(),
    ),
    "croc": (
        {"width": 4, "byteorder": "little", "magic": b"croc"},
        [(b"", b"hi", b""), (b"", b"", b"")],
        "63726f63 02000000 6869 63726f63 00000000",
    ),
    "AMQP 0-9-1": (
        {"width": 4, "before": 3, "bias": -1},
        [(b"\x08\0\0", b"\xce", b""), (b"\x03\0\x01", b"body\xce", b"")],  # heartbeat, a content body
        "08 0000 00000000 ce 03 0001 00000004 626f6479 ce",
    ),
}
each_protocol = pytest.mark.parametrize(("arguments", "frames", "wire"), PROTOCOLS.values(), ids=PROTOCOLS)

# The eight bytes of the tutorial's client: struct.pack("i", n) and its JSON.
SEED_JSON = b'{"file_name": "a.txt", "file_size": 3}'


def split(framing, frames):
    """Return each frame's (header, payload) by the format's definition, with the encoder's header."""
    return [(framing.header(len(payload), before, after), payload) for before, payload, after in frames]


@each_protocol
def test_protocol_bytes_decode_to_their_payloads(framing_module, arguments, frames, wire):
    """The studies claim that Framing expresses the protocol; these are the protocol's own bytes."""
    framing = framing_module.Framing(**arguments)
    assert_decodes(framing.decoder, bytes.fromhex(wire), [payload for _, payload, _ in frames])


@each_protocol
def test_protocol_frames_encode_to_their_bytes(framing_module, arguments, frames, wire):
    """What we send is what the protocol's peer reads."""
    framing = framing_module.Framing(**arguments)
    magic = len(framing.magic)
    assert b"".join(framing.encode(p, before, after) for before, p, after in frames) == bytes.fromhex(wire)
    assert magic == 0 or bytes.fromhex(wire)[:magic] == framing.magic


@each_protocol
def test_protocol_deliver_pair_gives_header_and_payload(framing_module, arguments, frames, wire):
    """The type byte beside the length is what most protocols dispatch on."""
    framing = framing_module.Framing(**arguments, deliver="pair")
    assert_decodes(framing.decoder, bytes.fromhex(wire), split(framing, frames))


@each_protocol
def test_protocol_deliver_frame_gives_the_wire_bytes(framing_module, arguments, frames, wire):
    """A proxy forwards frames as they came."""
    framing = framing_module.Framing(**arguments, deliver="frame")
    expected = [header + payload for header, payload in split(framing, frames)]
    assert_decodes(framing.decoder, bytes.fromhex(wire), expected)
    assert b"".join(expected) == bytes.fromhex(wire)


@pytest.mark.parametrize("deliver", ["payload", "frame", "pair"])
def test_tutorial_client_bytes_decode_with_a_file_behind(framing_module, deliver):
    """The tutorial's client sends struct.pack("i", n), its JSON, then the file without any frame."""
    wire = struct.pack("i", len(SEED_JSON)) + SEED_JSON + b"abc" + struct.pack("i", 4) + b"done"
    framing = framing_module.Framing.from_struct("i", deliver=deliver)
    header = struct.pack("i", len(SEED_JSON))
    expected = {"payload": SEED_JSON, "frame": header + SEED_JSON, "pair": (header, SEED_JSON)}[deliver]
    last = {"payload": b"done", "frame": b"\4\0\0\0done", "pair": (b"\4\0\0\0", b"done")}[deliver]
    for size in (1, 2, 5, 7, len(wire)):
        decoder, items = framing.decoder(), []
        for start in range(0, len(wire), size):
            new = decoder.feed(wire[start : start + size], 1)
            while new:
                items += new
                if len(items) == 1:
                    decoder.expect_raw(3)
                new = decoder.feed(b"", 1)
        assert items == [expected, b"abc", last]
        decoder.eof()


def test_tutorial_framing_is_a_portable_spelling_on_this_machine(framing_module):
    """'i' is native; '<i' says what the tutorials' machines did."""
    assert framing_module.Framing.from_struct("i").header(5) == struct.pack("i", 5)
    assert framing_module.Framing.from_struct("<i").header(5) == b"\5\0\0\0"
