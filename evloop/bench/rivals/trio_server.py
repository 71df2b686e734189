"""An echo server of frames: trio, a task per connection, framing as in asyncio_protocol."""
# mypy: ignore-errors

import struct

import trio

HEADER = struct.Struct(">I")
MAX_FRAME = 1 << 20


async def echo(stream):  # trio has set TCP_NODELAY
    buffer = bytearray()
    try:
        while data := await stream.receive_some():
            buffer += data
            size, at, answers = len(buffer), 0, []
            while size - at >= 4:
                (length,) = HEADER.unpack_from(buffer, at)
                if length > MAX_FRAME:
                    return
                end = at + 4 + length
                if end > size:
                    break
                answers.append(HEADER.pack(length))
                answers.append(buffer[at + 4 : end])
                at = end
            if answers:
                del buffer[:at]
                await stream.send_all(b"".join(answers))
    except trio.BrokenResourceError:
        pass  # the peer has gone, which is how connections end


async def main():
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, echo, 0)
        print(f"LISTENING tcp 127.0.0.1:{listeners[0].socket.getsockname()[1]}", flush=True)


if __name__ == "__main__":
    trio.run(main)
