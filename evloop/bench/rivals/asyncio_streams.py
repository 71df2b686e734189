"""An echo server of frames: streams as asyncio has them, readexactly for the header and for the payload.

usage: asyncio_streams.py asyncio|uvloop|aiofastnet|rloop|evloop.aio
"""
# mypy: ignore-errors

import asyncio

import loops

MAX_FRAME = 1 << 20


async def echo(reader, writer):
    try:
        while True:
            header = await reader.readexactly(4)
            length = int.from_bytes(header, "big")
            if length > MAX_FRAME:
                break
            writer.write(header + await reader.readexactly(length))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the peer has gone, which is how connections end
    finally:
        writer.close()


if __name__ == "__main__":
    loops.serve_streams(echo)
