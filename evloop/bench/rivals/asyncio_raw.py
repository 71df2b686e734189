"""An echo server of bytes as they come: a Protocol of asyncio, on any loop; a peer that does not read is not read from.

usage: asyncio_raw.py asyncio|uvloop|aiofastnet|rloop|evloop.aio
"""
# mypy: ignore-errors

import asyncio

import loops


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


if __name__ == "__main__":
    loops.serve_protocol(Echo)
