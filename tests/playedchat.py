"""What the tests of the chat clients share: a server's side of the wire, played by hand, message by message.

It is for what a good server does not do when it is asked: to lose a message, to answer late, to say goodbye.
"""

from __future__ import annotations

import asyncio
import struct
import time

from evloop.apps.chat import wire

PATIENCE = 30.0  # seconds; only a failing test waits as long

LIMITS = wire.ServerLimits(
    frame=wire.MAX_MESSAGE,
    reply=wire.MAX_REPLY,
    body=wire.MAX_BODY,
    nick=32,
    room=64,
    rooms=20,
    history=1000,
    rate=wire.Rate(burst=20, per_s=10.0),
)


class Peer:
    """One connection, from the server's side."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.codec = wire.JSON

    async def receive(self):
        """Return the next message of the client; pings are answered and left out."""
        while True:
            (size,) = struct.unpack("!I", await self.reader.readexactly(4))
            payload = await self.reader.readexactly(size)
            self.codec = wire.codec_of(payload)
            message = self.codec.decode_request(payload)
            if type(message) is not wire.Ping:
                return message
            self.send(wire.Pong(ref=message.ref, n=message.n))

    async def expect(self, kind):
        """Return the next message, which has to be a *kind*."""
        message = await self.receive()
        assert type(message) is kind, message
        return message

    def send(self, *messages):
        """Send *messages* in one write."""
        payloads = [self.codec.encode(message) for message in messages]
        self.writer.write(b"".join(struct.pack("!I", len(payload)) + payload for payload in payloads))

    async def welcome(self, nick="amy", **changes):
        """Take the hello, and welcome whoever it is; return the hello."""
        hello = await self.expect(wire.Hello)
        fields = {"v": 1, "sid": "n1-1", "resume_key": "0" * 32, "resumed": False, "ping_s": 25, **changes}
        self.send(
            wire.Welcome(
                ref=hello.ref,
                server="test",
                node="n1",
                nick=nick,
                user="u-" + nick,
                durability="memory",
                now=now(),
                limits=LIMITS,
                **fields,
            )
        )
        return hello

    async def joined(self, room="lobby", top=0, history=(), epoch="e1", recovered=False, members=("amy",), **fields):
        """Take the join, and say that it was done; return the join."""
        join = await self.expect(wire.Join)
        assert join.room == room
        members = list(members)
        self.send(
            wire.Joined(
                ref=join.ref,
                room=room,
                epoch=epoch,
                top=top,
                you=wire.You(role="member"),
                n=len(members),
                members=members,
                recovered=recovered,
                history=list(history),
                **fields,
            )
        )
        return join

    async def confirm(self, seq, epoch="e1", **fields):
        """Take something said, and say that it is the message number *seq*; return it."""
        said = await self.expect(wire.Say)
        self.send(wire.Ok(ref=said.ref, seq=seq, epoch=epoch, ts=now(), **fields))
        return said

    async def ended(self):
        """Wait for the client's end of the stream."""
        assert await self.reader.read() == b""
        await self.close()

    async def close(self):
        """Close this side, in good order."""
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass

    async def reset(self):
        """Cut the connection."""
        self.writer.transport.abort()
        await self.close()


class PlayedServer:
    """A listening socket whose connections a test takes one by one; an asynchronous context manager.

    *path* is of a UNIX socket, ``@name`` an abstract one; without it a TCP port is taken.
    """

    def __init__(self, path=None, ssl=None):
        self._path, self._ssl = path, ssl

    async def __aenter__(self):
        self._arrived = asyncio.Queue()
        self._peers = []
        if self._path is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._ssl)
            host, port = self._server.sockets[0].getsockname()
            self.address = f"{host}:{port}"
        else:
            path = self._path.replace("@", "\0", 1)
            self._server = await asyncio.start_unix_server(self._accept, path)
            self.address = f"unix:{self._path}"
        return self

    async def __aexit__(self, *exc_info):
        self._server.close()
        for peer in self._peers:
            await peer.reset()
        await self._server.wait_closed()

    def _accept(self, reader, writer):
        peer = Peer(reader, writer)
        self._peers.append(peer)
        self._arrived.put_nowait(peer)

    async def accept(self):
        """Return the next connection."""
        return await self._arrived.get()


def now():
    """Return the time as the protocol counts it."""
    return int(time.time() * 1000)


def msg(seq, body="hi", sender="bob", room="lobby", **fields):
    """Return a message of a room."""
    return wire.Msg(seq=seq, ts=now(), sender=sender, body=body, room=room, **fields)


def dm(seq, body="hi", sender="bob", to="amy", key="@u-amy,u-bob", **fields):
    """Return a direct message."""
    return wire.Msg(seq=seq, ts=now(), sender=sender, body=body, dm=key, user="u-" + sender, to=to, **fields)
