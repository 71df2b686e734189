"""A fan-out server of frames: evloop, a group of all connections, to which the frames of a read go together.

What one connection sends goes to all the others; who connects is greeted with an empty frame once it is among them.
"""
# mypy: ignore-errors

import evloop

members = set()


class Member(evloop.Protocol):
    def connection_made(self, conn):
        self.conn = conn
        members.add(conn)
        conn.send(b"")

    def connection_lost(self, exc):
        members.discard(self.conn)

    def frames_received(self, frames):
        for conn in members:
            if conn is not self.conn:
                conn.send_many(frames)


if __name__ == "__main__":
    evloop.serve(Member, "127.0.0.1:0", ready=lambda server: print(f"LISTENING tcp {server.address}", flush=True))
