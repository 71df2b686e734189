"""An echo server of frames: evloop, a coroutine for each connection."""
# mypy: ignore-errors

import evloop


async def echo(conn):
    async for frame in conn:
        conn.send(frame)


def main():
    evloop.serve(echo, "127.0.0.1:0", ready=lambda server: print(f"LISTENING tcp {server.address}", flush=True))


if __name__ == "__main__":
    main()
