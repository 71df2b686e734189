"""A fan-out server of messages: the websockets package, its broadcast(), no compression.

What comes on /publish goes to all on /subscribe; who connects is greeted with an empty message once that holds.
"""
# mypy: ignore-errors

import asyncio

from websockets.asyncio.server import broadcast, serve

subscribers = set()


async def session(websocket):
    if websocket.request.path == "/subscribe":
        subscribers.add(websocket)
    try:
        await websocket.send(b"")
        async for message in websocket:
            broadcast(subscribers, message)
    finally:
        subscribers.discard(websocket)


async def main():
    # A bound above every payload; pings would be messages that nobody measures.
    async with serve(session, "127.0.0.1", 0, compression=None, ping_interval=None, max_size=1 << 20) as server:
        print(f"LISTENING tcp 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
