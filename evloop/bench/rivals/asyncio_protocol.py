"""An echo server of frames: a Protocol of asyncio that cuts frames out of a bytearray with struct, on any loop.

Careful, not naive: one write per read, lengths checked, and a peer that does not read is not read from.

usage: asyncio_protocol.py asyncio|uvloop|aiofastnet|rloop|evloop.aio
"""
# mypy: ignore-errors

import asyncio
import struct

import loops

HEADER = struct.Struct(">I")
MAX_FRAME = 1 << 20


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray()

    def data_received(self, data):
        buffer = self.buffer
        buffer += data
        size, at, answers = len(buffer), 0, []
        while size - at >= 4:
            (length,) = HEADER.unpack_from(buffer, at)
            if length > MAX_FRAME:
                self.transport.abort()
                return
            end = at + 4 + length
            if end > size:
                break
            frame = buffer[at + 4 : end]
            answers.append(HEADER.pack(length))
            answers.append(frame)
            at = end
        if answers:
            del buffer[:at]
            self.transport.write(b"".join(answers))

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


if __name__ == "__main__":
    loops.serve_protocol(Echo)
