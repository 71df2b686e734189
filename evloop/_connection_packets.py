"""A connection over a SEQPACKET socket of UNIX: packets that carry a stream of frames, or are the messages themselves.

It derives from the connection in plain Python over either reactor: there is a system call for each packet, and that
costs more than the rest.  What differs from a stream is how the kernel takes and gives bytes: a send is all or nothing,
a receive takes one packet and cuts what does not fit, and a reset is told before the packets that came before it.

Rule: nothing in this file may know a server.  Read next: ``_packets.py``, ``_connection_py.py``.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from evloop._connection_py import CLOSED, OPEN, Connection
from evloop._packets import STREAM_PACKET, PacketTooLarge, check_message, largest_packet, read_packet
from evloop.errors import CloseReason
from evloop.framing import Framing
from evloop.protocol import Protocol
from evloop.reactor import Core
from evloop.sockets import PEER_GONE, WOULD_BLOCK, Accepted

NOT_REFRAMED = "without framing each packet is a message, and with one it is not: a SEQPACKET connection stays with one"


class PacketConnection(Connection):
    """One stream of whole frames, or of messages, in packets; made by a server or ``connect()`` for ``seqpacket:``.

    As :class:`evloop.Connection`, but for this:

    - With a framing the packets carry the stream, and where one ends means nothing.  Ours have at most 64 KiB.
    - Without framing each packet is a message: one ``data_received`` each, and each payload of :meth:`send` and
      :meth:`send_many` is one packet.  An empty payload is ValueError, one longer than a packet can be FrameTooLarge.
    - A packet above 256 KiB is more than is read at once; it closes the connection with FRAME_TOO_LARGE.
    - An empty packet of the peer is the end of its stream: nobody can tell the two apart (recv(2)).
    - :meth:`abort` looks to the peer like :meth:`close` unless something that it has sent was not read: unix(7) has no
      reset but that one.

    Owns: as a connection.
    """

    __slots__ = ("_largest", "_sizes")

    def __init__(self, reactor: Core, sock: socket.socket | Accepted, protocol: Protocol, **options: Any) -> None:
        super().__init__(reactor, sock, protocol, **options)
        self._largest = largest_packet(self._sock)  # bytes
        # The bytes of each packet that waits in the output, in its order; None: they are of no interest.
        self._sizes: deque[int] | None = deque() if self.framing is None else None

    def send(self, payload: Any, before: bytes = b"", after: bytes = b"") -> None:
        """Send one frame; without framing one packet, and raise ValueError or FrameTooLarge if it cannot be one."""
        data = self._encode(payload, before, after)
        if self._sizes is not None:
            check_message(data, self._largest)
        self._put(data, 1)

    def send_many(self, payloads: Any) -> None:
        """Send an iterable of payloads, as :meth:`send`; one at fault and nothing was sent."""
        if self._sizes is None:
            return super().send_many(payloads)
        messages = [self._encode(payload) for payload in payloads]
        for message in messages:
            check_message(message, self._largest)
        return self._put(b"".join(messages), len(messages), [len(message) for message in messages])

    def set_framing(self, framing: Framing | None, rest: Any = b"") -> None:
        """As for a stream; RuntimeError if the packets would become messages, or cease to be: both have queued some."""
        if (framing is None) != (self.framing is None):
            raise RuntimeError(NOT_REFRAMED)
        super().set_framing(framing, rest)

    # --- input -------------------------------------------------------------------------------------------------

    def on_readable(self) -> None:
        """Take one packet, and deliver what is in it."""
        if self._state is not OPEN:
            return self._discard()
        buffer = self._reactor.recv_buffer
        try:
            size = read_packet(self._sock, buffer)
        except PacketTooLarge as exc:
            self._bytes_received += exc.length
            self._fault = exc
        except OSError as exc:
            return self._read_failed(exc)
        else:
            self._take(buffer[:size])
        return self._run_pending()

    def _take(self, packet: memoryview) -> None:
        if not packet:
            self._eof = True
            return
        self._bytes_received += len(packet)
        self._touch()
        self._decode(packet)
        if self._limits.frame_timeout:
            self._time_frame()

    def _read_failed(self, exc: OSError) -> None:
        if exc.errno in PEER_GONE and self._broken is None:
            self._write_failed(exc)  # nothing more can be sent; the packets before the reset come now, then the end
        elif exc.errno not in WOULD_BLOCK and exc.errno != errno.EINTR:
            self._failed_io(exc)

    # --- output ------------------------------------------------------------------------------------------------

    def _put(self, data: bytes, frames: int, sizes: Sequence[int] | None = None) -> None:
        if self._sizes is not None and self._state is OPEN and self._broken is None and not self._write_eof:
            self._out += data
            self._sizes.extend((len(data),) if sizes is None else sizes)
            data = b""  # it is in the output, and what is left is to write that
        super()._put(data, frames)

    def _check_shared(self, parts: Iterable[bytes]) -> None:
        if self._sizes is not None:
            for message in parts:
                check_message(message, self._largest)

    def _add_output(self, data: bytes, parts: list[bytes]) -> None:
        super()._add_output(data, parts)
        if self._sizes is not None:
            self._sizes.extend(map(len, parts))

    def _write(self, data: memoryview) -> int:
        """Hand packets to the kernel as long as it takes them; return their bytes.

        A message leaves whole, and so may exceed this turn's share, the end of *data*.
        """
        if self._state is CLOSED:  # by a collection, since the caller has looked; then sizes and output are gone
            return 0
        sizes, whole, done = self._sizes, self._out, 0
        try:
            with memoryview(whole) as out:
                while done < len(data):
                    size = min(STREAM_PACKET, self._largest, len(data) - done) if sizes is None else sizes[0]
                    done += self._sock.send(out[done : done + size])
                    if sizes is not None:
                        sizes.popleft()
        except OSError:
            if not done:
                raise
            # What was sent counts now; if it was more than a lack of room, the next write or read is told.
        return done

    def _write_failed(self, exc: OSError) -> None:
        self._forget_sizes()
        super()._write_failed(exc)

    def _finish(self, reason: CloseReason | None = None, exc: BaseException | None = None) -> None:
        super()._finish(reason, exc)
        self._forget_sizes()

    def _forget_sizes(self) -> None:
        """Let go of the sizes together with the output; a write that is under way keeps those it works on."""
        if self._sizes is not None:
            self._sizes = deque()
