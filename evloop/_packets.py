"""SEQPACKET sockets of UNIX: how large a packet can be, what is wrong with one, and a blocking socket of packets.

unix(7): connection-oriented, in order, and each send is one packet, which one receive takes: whole, or cut.  What the
kernel does at the edges is asserted by ``tests/unit/test_packets.py``.

Rule: nothing in this file may know a reactor, a connection or a framing.  Read next: ``_connection_packets.py``.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from typing import Any

from evloop.addresses import Address
from evloop.errors import FrameTooLarge

# Bytes of the packets in which a stream of frames is sent: what most programs read at once, and what the kernel finds
# memory for without a large piece in a row.  A call for 64 KiB costs little more than its copy.
STREAM_PACKET = 64 * 1024

# Bytes of the largest packet that is read: the reactor's shared buffer, which a blocking client has one of, too.
LARGEST_READ = 256 * 1024

# The kernel keeps as many bytes of SO_SNDBUF for itself (net/unix/af_unix.c, unix_dgram_sendmsg).
_KEPT = 32

_OURS = "what SO_SNDBUF leaves (net.core.wmem_default); a framing sends it in several"
_THEIRS = "what is read at once; the peer has to send it in several"


class PacketTooLarge(FrameTooLarge):
    """A packet of *length* bytes (int) exceeds the *limit* (int) of one to be sent or to be read; *knob* (str)."""

    _fields = ("length", "limit", "knob")  # type: ignore[assignment]
    knob: str

    def _text(self) -> str:
        return f"packet of {self.length} bytes exceeds {self.limit}, {self.knob}"


def refuse_tls(addresses: Iterable[Address]) -> None:
    """Return if TLS can be had on *addresses*; ValueError: one is of packets, and records are a stream's."""
    for address in addresses:
        if address.kind == "seqpacket":
            raise ValueError(f"{address} keeps packets, and TLS needs a stream: leave ssl out, or use unix: or TCP")


def largest_packet(sock: socket.socket) -> int:
    """Return the bytes of the largest packet that *sock* can send: one more is EMSGSIZE.  OSError: it is closed."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _KEPT


def check_message(message: bytes, largest: int) -> None:
    """Return if *message* can be one packet of at most *largest* bytes.

    Raises:
        PacketTooLarge: it is longer.
        ValueError: it is empty, and so looks like the end of the stream to whoever receives it (recv(2)).
    """
    if not message:
        raise ValueError("an empty message is no packet: its receiver takes it for the end of the stream")
    if len(message) > largest:
        raise PacketTooLarge(len(message), largest, _OURS)


def read_packet(sock: socket.socket, buffer: memoryview) -> int:
    """Take the next packet into *buffer*; return its bytes (int), 0 at the end of the stream.

    A reset is told once, before the packets that came before it, and those can still be read.

    Raises:
        PacketTooLarge: it is longer than the buffer; the rest of it is lost.
        OSError: as recv(2).
    """
    # With MSG_TRUNC the kernel returns the size of the packet, of what it has cut, too (recv(2), Linux 3.4).
    size = sock.recv_into(buffer, 0, socket.MSG_TRUNC)
    if size > len(buffer):
        raise PacketTooLarge(size, len(buffer), _THEIRS)
    return size


class PacketSocket(socket.socket):
    """A blocking socket of packets, with the methods of a stream that a blocking client uses.  Not thread-safe."""

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._buffer = memoryview(bytearray(LARGEST_READ))
        self._reset: ConnectionError | None = None

    def recv(self, bufsize: int = LARGEST_READ, flags: int = 0, /) -> bytes:
        """Return the next packet, whole, or b"" at the end; a reset is raised once all packets are read.

        Raises: as :func:`read_packet`.
        """
        try:
            size = read_packet(self, self._buffer)
        except ConnectionError as exc:
            self._reset = exc
            size = read_packet(self, self._buffer)  # does not block: the peer is gone
        if not size and self._reset is not None:
            raise self._reset
        return bytes(self._buffer[:size])

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send the bytes of *data* as a stream, in packets of at most STREAM_PACKET bytes.  OSError: as send(2)."""
        with memoryview(data).cast("B") as view:
            size = min(STREAM_PACKET, largest_packet(self))
            self._send_each(view[at : at + size] for at in range(0, len(view), size))

    def send_messages(self, messages: Iterable[bytes]) -> None:
        """Send each of *messages* as one packet, if all of them can be.

        Raises:
            PacketTooLarge, ValueError: as :func:`check_message`; nothing was sent.
            OSError: as send(2).
        """
        messages, largest = list(messages), largest_packet(self)
        for message in messages:
            check_message(message, largest)
        self._send_each(messages)

    def _send_each(self, packets: Iterable[Any]) -> None:
        """Send all *packets* in the time of one call."""
        seconds = self.gettimeout()
        end = None if seconds is None else time.monotonic() + seconds
        for packet in packets:
            if end is not None:
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError("timed out")
                self.settimeout(left)
            self.send(packet)
