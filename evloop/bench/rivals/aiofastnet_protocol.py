"""An echo server of frames: the Protocol of asyncio_protocol on aiofastnet's transports and uvloop."""
# mypy: ignore-errors

import asyncio

import aiofastnet
import uvloop
from asyncio_protocol import Echo


async def main():
    server = await aiofastnet.create_server(asyncio.get_running_loop(), Echo, "127.0.0.1", 0)
    print(f"LISTENING tcp 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
