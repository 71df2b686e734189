"""A fan-out server of frames: a Protocol of asyncio that cuts frames out of a bytearray with struct, on any loop.

Careful, not naive: the whole frames of a read go to each subscriber with one write, as the bytes they came in, and a
subscriber that does not read is cut.  An empty frame subscribes, and is answered with an empty frame.

usage: asyncio_fanout.py asyncio|uvloop|aiofastnet|evloop.aio
"""
# mypy: ignore-errors

import asyncio
import struct

import loops

HEADER = struct.Struct(">I")
MAX_FRAME = 1 << 20
MAX_OUTPUT = 64 << 20  # bytes: what NATS grants

subscribers = set()


class Peer(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray()

    def connection_lost(self, exc):
        subscribers.discard(self)

    def data_received(self, data):
        buffer = self.buffer
        buffer += data
        size, at = len(buffer), 0
        while size - at >= 4:
            (length,) = HEADER.unpack_from(buffer, at)
            if length > MAX_FRAME:
                self.transport.abort()
                return
            if at + 4 + length > size:
                break
            at += 4 + length
            if not length:
                subscribers.add(self)
                self.transport.write(buffer[at - 4 : at])
                del buffer[at - 4 : at]
                size, at = size - 4, at - 4
        if at:
            publish(bytes(buffer[:at]))
            del buffer[:at]


def publish(frames):
    for subscriber in subscribers:
        transport = subscriber.transport
        transport.write(frames)
        if transport.get_write_buffer_size() > MAX_OUTPUT:
            transport.abort()


if __name__ == "__main__":
    loops.serve_protocol(Peer)
