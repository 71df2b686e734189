"""An echo server of frames: socketserver, a thread per connection, framing as in asyncio_protocol."""
# mypy: ignore-errors

import socket
import socketserver
import struct

HEADER = struct.Struct(">I")
MAX_FRAME = 1 << 20


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        sock = self.request
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray()
        try:
            while data := sock.recv(65536):
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
                    sock.sendall(b"".join(answers))
        except ConnectionError:
            pass  # the peer has gone, which is how connections end


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 1024


if __name__ == "__main__":
    with Server(("127.0.0.1", 0), Echo) as server:
        print(f"LISTENING tcp 127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()
