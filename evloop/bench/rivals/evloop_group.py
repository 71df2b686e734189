"""A fan-out server of frames: evloop, a group of subscribers, to which each frame goes as it comes.

An empty frame subscribes, and is answered with an empty frame; all others go to the subscribers.
"""
# mypy: ignore-errors

import evloop

subscribers = evloop.Group()


class Peer(evloop.Protocol):
    def connection_made(self, conn):
        self.conn = conn

    def frame_received(self, frame):
        if frame:
            subscribers.send(frame)
        else:
            subscribers.add(self.conn)
            self.conn.send(frame)


if __name__ == "__main__":
    evloop.serve(Peer, "127.0.0.1:0", ready=lambda server: print(f"LISTENING tcp {server.address}", flush=True))
