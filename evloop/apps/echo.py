"""The two smallest servers: what ``evloop serve echo`` and ``evloop serve upper`` run.

Rule: nothing in this file may import anything but evloop's public names.
"""

from __future__ import annotations

from evloop import Connection, Protocol


class Echo(Protocol):
    """Sends each frame back as it came; without framing, the bytes of each read.  Reactor thread only.

    All frames of a read are one call: with 16 of 64 bytes that saves a quarter of the user time per frame against a
    function that gets them one by one, with 100 half of it.  Price: the answers to one read, at most 256 KiB of frames,
    are held at once.
    """

    def connection_made(self, conn: Connection) -> None:
        """Keep *conn*."""
        self.conn = conn

    def frames_received(self, frames: list[bytes]) -> None:
        """Send *frames* back."""
        self.conn.send_many(frames)

    def data_received(self, data: bytes) -> None:
        """Send *data* back."""
        self.conn.send(data)


def upper(conn: Connection, frame: bytes) -> None:
    """Send each frame back with the ASCII letters a-z in upper case; other bytes as they came.  Reactor thread only."""
    conn.send(frame.upper())
