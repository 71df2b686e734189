"""A fan-out server of frames: a Protocol of asyncio that cuts frames out of a bytearray with struct, on any loop.

Careful, not naive: the whole frames of a read go to each member with one write, as the bytes they came in, and a member
that does not read is cut.  Who connects is greeted with an empty frame once it is among the members.

usage: asyncio_fanout.py asyncio|uvloop|aiofastnet|evloop.aio
"""
# mypy: ignore-errors

import asyncio
import struct

import loops

HEADER = struct.Struct(">I")
MAX_FRAME = 1 << 20
MAX_OUTPUT = 64 << 20  # bytes: what NATS grants

members = set()


class Member(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray()
        members.add(self)
        transport.write(HEADER.pack(0))

    def connection_lost(self, exc):
        members.discard(self)

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
        if at:
            frames = bytes(buffer[:at])
            del buffer[:at]
            self.publish(frames)

    def publish(self, frames):
        for member in members:
            if member is not self:
                transport = member.transport
                transport.write(frames)
                if transport.get_write_buffer_size() > MAX_OUTPUT:
                    transport.abort()


if __name__ == "__main__":
    loops.serve_protocol(Member)
