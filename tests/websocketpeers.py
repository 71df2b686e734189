"""What the tests of WebSockets share: a handshake and frames made by hand, and a reader of what comes back.

Rule: nothing in this file may use the package that the server uses: a mistake that both make would look right.
"""

from __future__ import annotations

import base64
import hashlib
import struct

KEY = base64.b64encode(bytes(range(16))).decode()
ACCEPT = base64.b64encode(hashlib.sha1((KEY + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x12\x34\x56\x78"


def handshake(path="/", *lines, host="localhost", first=None, **changes):
    """Return a client's handshake; a header given as None is left out."""
    headers = {
        "Host": host,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    head = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([first or f"GET {path} HTTP/1.1", *head, *lines, "", ""]).encode()


def client_frame(opcode, payload=b"", *, fin=True, mask=MASK, bits=0):
    """Return a frame of a client (RFC 6455, 5.2); *mask* None leaves it out, which is forbidden."""
    size = len(payload)
    first = (0x80 if fin else 0) | bits | opcode
    masked = 0x80 if mask is not None else 0
    if size < 126:
        head = struct.pack("!BB", first, masked | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, masked | 126, size)
    else:
        head = struct.pack("!BBQ", first, masked | 127, size)
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def text(payload, **options):
    """Return a text message of a client."""
    return client_frame(TEXT, payload.encode() if isinstance(payload, str) else payload, **options)


def close_frame(code, reason=""):
    """Return a client's close frame."""
    return client_frame(CLOSE, struct.pack("!H", code) + reason.encode())


def response_of(received):
    """Return the status (int), the headers by lower-case name, and what comes behind the head; None: not whole yet."""
    head, end, rest = bytes(received).partition(b"\r\n\r\n")
    if not end:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    return int(first.split(" ")[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, rest


def frames_of(data):
    """Return the whole frames of a server in *data*, as (opcode, payload), and what is left of it."""
    found = []
    while len(data) >= 2:
        assert data[0] & 0x70 == 0, "no extension was agreed on"
        assert data[1] & 0x80 == 0, "a server does not mask"
        assert data[0] & 0x80, "this server sends whole messages"
        size, at = data[1], 2
        if size == 126:
            size, at = struct.unpack_from("!H", data.ljust(4, b"\0"), 2)[0], 4
        elif size == 127:
            size, at = struct.unpack_from("!Q", data.ljust(10, b"\0"), 2)[0], 10
        if len(data) < at + size:
            break
        found.append((data[0] & 15, data[at : at + size]))
        data = data[at + size :]
    return found, data


def messages_of(received):
    """Return the frames behind the response of a handshake; (CLOSE, payload) as (CLOSE, code, reason)."""
    response = response_of(received)
    if response is None:
        return []
    return [
        (CLOSE, struct.unpack("!H", payload[:2])[0], payload[2:].decode()) if opcode == CLOSE and payload else item
        for item in frames_of(response[2])[0]
        for opcode, payload in [item]
    ]
