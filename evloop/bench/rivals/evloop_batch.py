"""An echo server of frames: evloop, an object per connection, called once per read with all its frames."""
# mypy: ignore-errors

import evloop


class Echo(evloop.Protocol):
    def connection_made(self, conn):
        self.conn = conn

    def frames_received(self, frames):
        self.conn.send_many(frames)


if __name__ == "__main__":
    evloop.serve(Echo, "127.0.0.1:0", ready=lambda server: print(f"LISTENING tcp {server.address}", flush=True))
