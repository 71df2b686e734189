"""An echo server of frames: tornado's TCPServer, a coroutine per connection, framing as in asyncio_protocol."""
# mypy: ignore-errors

import asyncio
import struct

from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.tcpserver import TCPServer

HEADER = struct.Struct(">I")
MAX_FRAME = 1 << 20


class Echo(TCPServer):
    async def handle_stream(self, stream, address):
        stream.set_nodelay(True)
        buffer = bytearray()
        try:
            while True:
                buffer += await stream.read_bytes(65536, partial=True)
                size, at, answers = len(buffer), 0, []
                while size - at >= 4:
                    (length,) = HEADER.unpack_from(buffer, at)
                    if length > MAX_FRAME:
                        stream.close()
                        return
                    end = at + 4 + length
                    if end > size:
                        break
                    answers.append(HEADER.pack(length))
                    answers.append(buffer[at + 4 : end])
                    at = end
                if answers:
                    del buffer[:at]
                    await stream.write(b"".join(answers))
        except StreamClosedError:
            pass  # the peer has gone, which is how connections end


async def main():
    server = Echo()
    sockets = bind_sockets(0, "127.0.0.1", backlog=1024)
    server.add_sockets(sockets)
    print(f"LISTENING tcp 127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
