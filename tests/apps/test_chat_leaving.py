"""Leaving a server that writes down what is said: who goes in good order is told first what became of it.

Read next: ``test_chat_pipelining.py``.
"""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import json
import socket

import pytest
from chatpeers import Chat, Client, chats
from serving import call
from tlspeers import SERVER, TlsPeer
from websocketpeers import CLOSE, close_frame, frames_of, handshake, response_of, text

import evloop
from evloop import tls
from evloop.apps.chat import sqlite, wire
from evloop.apps.chat.sqlite import SqliteStore
from evloop.apps.chat.store import MemoryStore

# Without a rate all frames of a read are handed over together, with one they are one by one.
RATES = pytest.mark.parametrize("rate", [0.0, 1000.0], ids=["together", "one-by-one"])

HELLO = {"t": "hello", "ref": 1, "v": 1, "client": "test/1", "nick": "amy"}
JOIN = {"t": "join", "ref": 2, "room": "r"}
SAY = {"t": "say", "ref": 3, "room": "r", "body": "one", "cid": "1"}
QUIT = {"t": "quit", "ref": 4}
PING = {"t": "ping", "ref": 5}


class Disk(MemoryStore):
    """Keeps what it is given when the test says so, and answers as late who asks for a page."""

    durability = "commit"

    def __init__(self):
        self.waiting = []
        self.pages = []

    def start(self, reactor, committed, failed, repeated):
        """Keep what is to be called."""
        self.committed, self.failed, self.repeated = committed, failed, repeated

    def append(self, entry):
        """Take it, and say nothing yet."""
        self.waiting.append(entry)
        return False

    def commit(self):
        """Keep what waits."""
        batch, self.waiting = self.waiting, []
        self.committed(batch)

    def fail(self):
        """Keep nothing of what waits."""
        batch, self.waiting = self.waiting, []
        self.failed(batch, "no space left")

    def read(self, name, epoch, after, before, limit, newest, done):
        """Keep *done* for the test."""
        self.pages.append(done)


@pytest.fixture
def disk():
    return Disk()


def frames(*messages):
    return b"".join(map(evloop.Framing.U32.encode, map(wire.JSON.encode, messages)))


def heard(client):
    """Return the types and refs of what has come."""
    client.chat.world.settle()
    return [(message["t"], message.get("ref")) for message in client.arrived()]


@RATES
@pytest.mark.parametrize("last", [frames(QUIT), b""], ids=["quit", "eof"])
def test_last_words_piped_into_a_socket_are_answered(tmp_path, monkeypatch, last, rate):
    """As `printf ... | nc` sends them: all in one write and the end behind it; that it is kept is told."""
    monkeypatch.setattr(sqlite, "GATHER", 0.0)  # the clock stands still
    with SqliteStore(tmp_path / "chat.db") as store:
        chat = Chat(store=store, limits={"rate": rate, "burst": 1000})
        amy = chat.client()
        amy.peer.write(frames(HELLO, JOIN, SAY) + last, fin=True)
        found = [(message["t"], message["ref"]) for message in amy.ended()]
        assert found == [("welcome", 1), ("joined", 2), ("ok", 3), *([("bye", 4)] if last else [])]
        chat.server.shutdown()
        chat.until(lambda: store._file._lock < 0)
        chat.close()


@pytest.mark.parametrize("last", [frames(QUIT), b""], ids=["quit", "close_notify"])
def test_last_words_over_tls_are_answered(chats, disk, last):
    """A close_notify ends one direction alone, as a FIN does (RFC 8446, 6.1)."""
    chat = chats(store=disk, ssl=tls.server_context(SERVER))
    address = chat.server.address
    peer = TlsPeer(socket.create_connection((address.host, address.port)), reading=True)
    chat.world.peers.append(peer)
    amy = Client(chat, peer)
    amy.peer.write(frames(HELLO, JOIN, SAY) + last, fin=True)
    chat.until(lambda: disk.waiting)
    chat.world.settle()
    assert not peer.ended
    disk.commit()
    found = [(message["t"], message["ref"]) for message in amy.ended()]
    assert found == [("welcome", 1), ("joined", 2), ("ok", 3), *([("bye", 4)] if last else [])]


@RATES
def test_nothing_behind_a_quit_is_answered(chats, disk, rate):
    """The goodbye is the last word of both, however long it takes; the others see the member until then."""
    chat = chats(store=disk, limits={"rate": rate, "burst": 1000})
    bob, amy = chat.client("bob", "r"), chat.client("amy", "r")
    bob.hear("ev", e="join")
    amy.peer.write(frames(SAY, QUIT, PING, {**SAY, "cid": "2"}))
    assert heard(amy) == [] and len(disk.waiting) == 1
    amy.peer.write(frames(PING))
    bob.quiet()
    disk.commit()
    assert [message["t"] for message in amy.ended()] == ["ok", "bye"]
    bob.hear("msg", body="one")
    bob.hear("ev", e="part", who="amy")
    assert chat.hub.stats()["sessions"] == 1 and disk.waiting == []


@pytest.mark.parametrize("fin", [False, True], ids=["quit", "eof"])
def test_everything_that_is_owed_is_answered_before_the_end(chats, disk, fin):
    """A message, the same once more, an act, and a page of what only the disk has; the last one of them ends it."""
    chat = chats(store=disk, limits={"room_messages": 1})
    amy = chat.client("amy", "r")
    amy.peer.write(frames(SAY, {**SAY, "cid": "2"}))
    chat.until(lambda: len(disk.waiting) == 2)
    disk.commit()
    chat.until(lambda: len(amy.arrived()) == 2)
    amy.messages.clear()
    asked = [{**SAY, "cid": "3", "ref": 10}, {**SAY, "cid": "3", "ref": 11}]
    asked += [
        {"t": "mod", "room": "r", "op": "topic", "text": "tea", "ref": 12},
        {"t": "history", "room": "r", "ref": 13},
    ]
    amy.peer.write(frames(*asked, *([] if fin else [QUIT])), fin=fin)
    assert heard(amy) == []
    disk.commit()
    assert heard(amy) == [("ok", 10), ("ok", 11), ("ok", 12)] and not amy.peer.ended
    disk.pages.pop()([])
    assert [message["ref"] for message in amy.ended()] == [10, 11, 12, 13, *([] if fin else [4])]
    chat.until(lambda: not chat.server.server.connections)


@pytest.mark.parametrize("fin", [False, True], ids=["quit", "eof"])
def test_who_leaves_is_told_that_it_was_not_kept(chats, disk, fin):
    """That is an answer as well; so is a cid that turns out to be another message's."""
    chat = chats(store=disk)
    amy = chat.client("amy", "r")
    amy.peer.write(frames(SAY, {**SAY, "cid": "2", "ref": 9}, *([] if fin else [QUIT])), fin=fin)
    chat.until(lambda: len(disk.waiting) == 2)
    first, second = disk.waiting
    disk.waiting = []
    disk.repeated(first, wire.Msg(seq=1, ts=1, sender="amy", body="other", room="r", cid="1"))
    assert heard(amy) == [("err", 3)] and disk.waiting == [second]
    disk.fail()
    kinds = [(message["t"], message.get("ref")) for message in amy.ended()]
    assert kinds[:2] == [("err", 3), ("err", 9)] and kinds[-1] == (("note", None) if fin else ("bye", 4))


@pytest.mark.parametrize("last", [close_frame(1000), b"", text(json.dumps(QUIT))], ids=["close", "eof", "quit"])
def test_websocket_is_closed_behind_the_answers(chats, disk, last):
    """A page that is closed has said its last word as well; its close frame is answered when all else is."""
    chat = chats(store=disk)
    peer = call(chat.world, chat.server.server)
    peer.write(handshake("/ws") + b"".join(text(json.dumps(said)) for said in (HELLO, JOIN, SAY)) + last, fin=not last)
    chat.until(lambda: disk.waiting)
    chat.world.settle()
    assert len(frames_of(response_of(peer.received)[2])[0]) == 2 and not peer.ended
    disk.commit()
    chat.until(lambda: peer.ended)
    found = frames_of(response_of(peer.received)[2])[0]
    told = [json.loads(payload)["t"] for opcode, payload in found if opcode != CLOSE]
    assert told == ["welcome", "joined", "ok", *(["bye"] if last.startswith(text("")[:1]) else [])]
    assert [payload[:2] for opcode, payload in found if opcode == CLOSE] == ([b"\x03\xe8"] if last else [])


@pytest.mark.parametrize("fin", [False, True], ids=["quit", "eof"])
def test_disk_that_hangs_keeps_nobody_from_leaving(chats, disk, fin):
    """60 s, as for whom nothing is heard of; then it is over without an answer, and what was said may yet be kept."""
    chat = chats(store=disk)
    amy = chat.client("amy", "r")
    amy.peer.write(frames(SAY, *([] if fin else [QUIT])), fin=fin)
    chat.until(lambda: disk.waiting)
    chat.advance(55)
    assert len(chat.server.server.connections) == 1
    chat.advance(10)
    told = [message["t"] for message in amy.ended() if message["t"] != "ping"]
    assert told == ([] if fin else ["bye"])
    disk.commit()
    chat.world.settle()
    assert chat.client("bob").join("r")["top"] == 1


def test_connection_that_breaks_while_it_leaves_is_no_trouble(chats, disk):
    """The answer comes to a session that is held, or taken up by another connection, which asks again by the cid."""
    chat = chats(store=disk)
    amy = chat.client("amy", "r")
    amy.peer.write(frames(SAY), fin=True)
    chat.until(lambda: disk.waiting)
    again = chat.back(amy)
    amy.hear("bye", code=3504)
    again.peer.write(frames(JOIN, SAY, QUIT))
    assert heard(again) == [("joined", 2)]
    disk.commit()
    answers = [(message["t"], message["ref"]) for message in again.ended() if "ref" in message]
    assert answers == [("joined", 2), ("ok", 3), ("bye", 4)]
    chat.until(lambda: not chat.server.server.connections)


@pytest.mark.parametrize("fin", [False, True], ids=["quit", "eof"])
def test_shutdown_flushes_who_is_leaving(chats, disk, fin):
    """The server stops meanwhile: what is owed comes first all the same."""
    chat = chats(store=disk)
    disk.close = lambda done: (disk.commit(), done())
    amy = chat.client("amy", "r")
    amy.peer.write(frames(SAY, *([] if fin else [QUIT])), fin=fin)
    chat.until(lambda: disk.waiting)
    chat.server.shutdown()
    assert [message["t"] for message in amy.ended()] == ["ok", "bye"]
