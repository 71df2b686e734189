"""An echo server of frames: asyncio streams, readexactly for the header and for the payload."""
# mypy: ignore-errors

import asyncio

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


async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    print(f"LISTENING tcp 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
