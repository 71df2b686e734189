"""What the tests of the chat share: a server in a world whose clock stands still, and clients made of plain sockets.

Rule: nothing in this file may use the server's own objects to talk to it: bytes go in, bytes come out.
"""

from __future__ import annotations

import json
import socket
import time

import pytest
from peers import PATIENCE, World
from serving import call

import evloop
from evloop.apps.chat import ChatLimits, ChatServer, wire
from evloop.apps.chat.server import CONNECTION_LIMITS

QUICK = CONNECTION_LIMITS.replace(linger=0)


class Client:
    """One client; ``tell`` sends a message, ``hear`` returns the next one; both as plain dicts."""

    def __init__(self, chat, peer, codec=wire.JSON):
        self.chat = chat
        self.peer = peer
        # Or the kernel would hold a small frame back until the last one is acknowledged, and a world would be at rest.
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.codec = codec
        self._decoder = evloop.FrameDecoder(evloop.Framing.U32)
        self._fed = 0
        self.messages = []
        self.ref = 0

    def raw(self, payload):
        """Send a frame of these bytes."""
        self.peer.write(evloop.Framing.U32.encode(payload))
        return self

    def tell(self, kind, /, **fields):
        """Send a message."""
        fields = {name.rstrip("_"): value for name, value in fields.items()}
        return self.raw(self.codec.encode({"t": kind, **fields}))

    def arrived(self):
        """Return what has come and was not yet heard, as a list."""
        data = bytes(self.peer.received[self._fed :])
        self._fed += len(data)
        self.messages += [self.codec.decode_any(frame) for frame in self._decoder.feed(data)]
        return self.messages

    def hear(self, kind=None, /, **expected):
        """Return the next message; it has to be of that kind, and to have these fields."""
        self.chat.until(lambda: self.arrived() or self.peer.ended)
        assert self.messages, "the connection ended"
        message = self.messages.pop(0)
        if kind is not None:
            assert message["t"] == kind, message
        assert {name: message.get(name) for name in expected} == expected, message
        return message

    def ask(self, kind, /, **fields):
        """Send a request, and return its answer; pushes before it stay to be heard."""
        self.ref += 1
        self.tell(kind, ref=self.ref, **fields)
        self.chat.until(lambda: any(m.get("ref") == self.ref for m in self.arrived()) or self.peer.ended)
        found = [message for message in self.messages if message.get("ref") == self.ref]
        assert len(found) == 1, (found, self.messages)
        self.messages.remove(found[0])
        return found[0]

    def refused(self, kind, /, **fields):
        """Send a request that is refused; return the code."""
        answer = self.ask(kind, **fields)
        assert answer["t"] == "err" and answer["text"], answer
        return answer["code"]

    def hello(self, nick=None, **fields):
        """Say hello; return `welcome`, whose parts are kept for resume."""
        fields = {"v": 1, "client": "test/1", **({} if nick is None else {"nick": nick}), **fields}
        self.welcome = self.ask("hello", **fields)
        assert self.welcome["t"] == "welcome", self.welcome
        return self.welcome

    def join(self, room="r", **fields):
        """Join a room; return `joined`."""
        joined = self.ask("join", room=room, **fields)
        assert joined["t"] == "joined", joined
        return joined

    def say(self, body, room="r", cid=None, **fields):
        """Say something; return `ok`."""
        ok = self.ask("say", **({} if room is None else {"room": room}), body=body, cid=cid or body[:36], **fields)
        assert ok["t"] == "ok", ok
        return ok

    @property
    def resume(self):
        """What takes this client's session up again."""
        return {"sid": self.welcome["sid"], "key": self.welcome["resume_key"]}

    def quiet(self):
        """Assert that nothing has come; pushes that were on the way are waited for."""
        self.chat.world.settle()
        assert self.arrived() == []

    def ended(self):
        """Wait for the end of the connection; return what came before it."""
        self.chat.until(lambda: self.peer.ended)
        return self.arrived()


class Chat:
    """A chat server, driven by the test; ``advance`` moves its clock."""

    def __init__(self, **options):
        self.world = World()
        options.setdefault("connections", QUICK)
        limits = options.pop("limits", {})
        self.server = ChatServer(
            self.world.reactor, "127.0.0.1:0", limits=ChatLimits(**{"rate": 0.0, **limits}), **options
        )
        self.server.start()

    @property
    def hub(self):
        return self.server.hub

    def client(self, nick=None, *rooms, codec=wire.JSON, reading=True, **hello):
        """Return a client; with a nick it has said hello, and joined *rooms*."""
        client = Client(self, call(self.world, self.server.server, reading), codec)
        if nick is not None:
            client.hello(nick, **hello)
        for room in rooms:
            client.join(room)
        return client

    def back(self, client):
        """Return a new client that has resumed the session of *client*."""
        again = Client(self, call(self.world, self.server.server, True), client.codec)
        again.hello(resume=client.resume)
        return again

    def until(self, predicate):
        deadline = time.monotonic() + PATIENCE
        while not predicate():
            assert time.monotonic() < deadline, "the condition did not come true"
            self.world.turn()

    def advance(self, seconds, awake=()):
        """Move the clock on, second by second, as the server's tick is; *awake* clients show that they are there."""
        for second in range(int(seconds)):
            self.world.advance(1)
            if second % 10 == 0:
                for client in awake:
                    client.raw(b"")
        self.world.settle()

    def lose(self, client):
        """Reset the connection of *client*, and wait until the server knows."""
        before = len(self.server.server.connections)
        client.peer.reset()
        self.until(lambda: len(self.server.server.connections) < before)

    def close(self):
        self.server.shutdown(0)
        self.until(lambda: not self.server.server.connections)
        self.world.close()


@pytest.fixture
def chat():
    """A chat server without a rate limit."""
    chat = Chat()
    yield chat
    chat.close()


@pytest.fixture
def chats():
    """Make chat servers with options; all are ended after the test."""
    made = []

    def make(**options):
        made.append(Chat(**options))
        return made[-1]

    yield make
    for chat in made:
        chat.close()


def body_of(messages):
    """Return the bodies of messages, for short."""
    return [message["body"] for message in messages]


def as_json(payload):
    """Return what a JSON payload says."""
    return json.loads(payload)
