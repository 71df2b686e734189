"""An echo server of frames: the handler of asyncio_streams.py, on the streams of evloop.aio."""
# mypy: ignore-errors

import asyncio_streams
import loops

import evloop.aio

if __name__ == "__main__":
    loops.main(lambda: evloop.aio.start_server(asyncio_streams.echo, "127.0.0.1", 0))
