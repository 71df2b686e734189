"""An echo server of frames: evloop, an object per connection, called once per frame."""
# mypy: ignore-errors

import evloop


class Echo(evloop.Protocol):
    def connection_made(self, conn):
        self.conn = conn

    def frame_received(self, frame):
        self.conn.send(frame)


if __name__ == "__main__":
    evloop.serve(Echo, "127.0.0.1:0", ready=lambda server: print(f"LISTENING tcp {server.address}", flush=True))
