"""A fan-out server of frames: evloop, a group of subscribers, to which the frames of a read go together.

An empty frame subscribes, and is answered with an empty frame; all others go to the subscribers.
"""
# mypy: ignore-errors

import evloop

subscribers = evloop.Group()


class Peer(evloop.Protocol):
    def connection_made(self, conn):
        self.conn = conn

    def frames_received(self, frames):
        if b"" in frames:
            subscribers.add(self.conn)
            self.conn.send(b"")
            frames = [frame for frame in frames if frame]
        subscribers.send_many(frames)


if __name__ == "__main__":
    evloop.serve(Peer, "127.0.0.1:0", ready=lambda server: print(f"LISTENING tcp {server.address}", flush=True))
