"""Requests that a client sends without waiting for answers: what builds on a `join` waits for it, in order.

A room that has to be read from a file first is where it shows: the `join` has no answer yet when the `say` is there.
"""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import json

import msgspec
import pytest
from chatpeers import QUICK, Chat, chats
from programs import receive_frame, serving
from serving import call
from websocketpeers import BINARY, client_frame, frames_of, handshake, response_of, text

import evloop
from evloop.apps.chat import requests, sqlite, wire
from evloop.apps.chat.sqlite import SqliteStore
from evloop.apps.chat.store import MemoryStore

BOTH = pytest.mark.parametrize("codec", [wire.JSON, wire.MSGPACK], ids=repr)
# Without a rate all frames of a read are handed over together, with one they are one by one.
RATES = pytest.mark.parametrize("rate", [0.0, 1000.0], ids=["together", "one-by-one"])

FIRST = [
    {"t": "hello", "ref": 1, "v": 1, "client": "test/1", "nick": "amy"},
    {"t": "join", "ref": 2, "room": "r"},
    {"t": "say", "ref": 3, "room": "r", "body": "one", "cid": "1"},
    {"t": "say", "ref": 4, "room": "r", "body": "two", "cid": "2"},
    {"t": "ping", "ref": 5},
]


class SlowStore(MemoryStore):
    """Gives a room when the test says so."""

    def __init__(self):
        self.asked = []

    def load(self, name, done):
        """Keep *done* for :meth:`give`."""
        self.asked.append((name, done))

    def give(self):
        """Answer the oldest question."""
        name, done = self.asked.pop(0)
        super().load(name, done)
        return name


@pytest.fixture
def store():
    return SlowStore()


def frames(messages, codec=wire.JSON):
    return b"".join(map(evloop.Framing.U32.encode, map(codec.encode, messages)))


def answers(client):
    """Return the types and refs of what has come."""
    client.chat.world.settle()
    return [(message["t"], message.get("ref")) for message in client.arrived()]


@RATES
@BOTH
def test_say_behind_a_join_waits_for_the_room(chats, store, codec, rate):
    """All in one write: nothing of it is answered before the room is there, and then all is, in order."""
    chat = chats(store=store, limits={"rate": rate, "burst": 1000})
    amy = chat.client(codec=codec)
    amy.peer.write(frames(FIRST, codec))
    assert answers(amy) == [("welcome", 1)]
    assert store.give() == "r"
    assert answers(amy) == [("welcome", 1), ("joined", 2), ("ok", 3), ("ok", 4), ("pong", 5)]
    assert [message["seq"] for message in amy.messages if message["t"] == "ok"] == [1, 2]


@RATES
def test_requests_wait_for_one_room_after_the_other(chats, store, rate):
    """What waited may have to wait again, and a second one for the same room does not wait twice."""
    chat = chats(store=store, limits={"rate": rate, "burst": 1000, "join_burst": 1000})
    amy = chat.client("amy")
    asked = [{"t": "join", "ref": ref, "room": room} for ref, room in ((1, "a"), (2, "b"), (3, "a"))]
    asked[2:2] = [{"t": "say", "ref": 9, "room": "a", "body": "x", "cid": "x"}]
    amy.peer.write(frames([*asked, {"t": "ping", "ref": 4}]))
    assert answers(amy) == []
    assert store.give() == "a"
    assert answers(amy) == [("joined", 1)]
    assert store.give() == "b"
    assert [ref for _, ref in answers(amy)] == [1, 2, 9, 3, 4]
    assert store.asked == []


def test_client_that_waits_holds_up_nobody_else_and_is_not_read(chats, store):
    """It is one connection that is read no more; what it sends stays in the kernel, and nothing grows here."""
    chat = chats(store=store)
    bob = chat.client("bob")
    bob.tell("join", room="b", ref=1)
    chat.until(lambda: store.asked)
    store.give()
    chat.until(lambda: bob.arrived())
    amy = chat.client("amy")
    amy.tell("join", room="r", ref=1)
    chat.world.settle()
    session = next(session for session in chat.hub.sessions.values() if session.user.nick == "amy")
    for n in range(100):
        amy.tell("ping", n=n)
    chat.world.settle()
    assert session.waits and not session.conn.is_reading() and session.conn.stats.input == 0
    assert bob.say("still here", room="b")["seq"] == 1
    assert amy.arrived() == []
    store.give()
    assert len(answers(amy)) == 101


@RATES
def test_what_came_with_a_join_is_held_by_the_connection_and_counted(chats, store, rate):
    """Requests that wait for a room are bytes of a client like others: ``max_buffered`` bounds them all."""
    chat = chats(store=store, limits={"rate": rate, "burst": 10_000})
    amy = chat.client("amy")
    session = next(iter(chat.hub.sessions.values()))
    more = frames([{"t": "ping", "n": n} for n in range(1000)])
    amy.peer.write(frames([FIRST[1]]) + more + more[:10])
    chat.until(lambda: store.asked)
    chat.world.settle()
    assert session.conn.stats.input >= len(more)
    store.give()
    amy.peer.write(more[10:])
    assert len(answers(amy)) == 2001


def test_clients_that_wait_with_more_than_all_may_hold_are_cut(chats, store):
    """The bound is the server's, and the one that holds most goes."""
    chat = chats(store=store, connections=QUICK.replace(max_buffered=16 * 1024))
    amy, bob = chat.client("amy"), chat.client("bob")
    bob.tell("join", room="r")
    chat.until(lambda: store.asked)
    amy.peer.write(frames([FIRST[1], *({"t": "ping", "n": 10**9 + n} for n in range(1500))]))
    chat.until(lambda: len(chat.server.server.connections) == 1)
    assert amy.peer.ended
    store.give()
    bob.hear("joined")


def test_client_that_waits_is_not_taken_for_dead(chats, store):
    """Its signs of life are not read; a disk that hangs must not cut everybody who asks for a room."""
    chat = chats(store=store)
    amy = chat.client("amy")
    amy.tell("join", room="r", ref=1)
    chat.advance(50)
    store.give()
    assert answers(amy) == [("joined", 1)]
    chat.advance(24)
    assert [message["t"] for message in amy.arrived()] == ["joined"]
    chat.advance(2)
    assert [message["t"] for message in amy.arrived()] == ["joined", "ping"]


def test_room_that_is_not_loaded_within_a_minute_is_unavailable(chats, store):
    """A disk that hangs: who waits is answered and heard again, and an answer that comes too late is no second room."""
    chat = chats(store=store)
    amy, bob, gone = (chat.client(nick) for nick in ("amy", "bob", "gone"))
    amy.peer.write(frames([FIRST[1], FIRST[4]]))
    chat.until(lambda: store.asked)
    chat.advance(30, awake=[bob])
    gone.tell("join", room="r", ref=1)
    chat.world.settle()
    gone.peer.reset()  # which nobody sees before it is read again
    chat.advance(29, awake=[bob])
    assert answers(amy) == [] and len(chat.server.server.connections) == 3
    chat.advance(2)
    assert answers(amy) == [("err", 2), ("pong", 5)] and amy.messages[0]["code"] == "unavailable"
    chat.until(lambda: len(chat.server.server.connections) == 2)
    for client in (amy, bob):
        client.messages.clear()
        client.tell("join", room="r", ref=1)
    chat.until(lambda: len(store.asked) == 2)
    assert store.give() == "r"
    assert answers(amy) == answers(bob) == []
    assert store.give() == "r"
    amy.hear("joined", ref=1)
    bob.hear("joined", ref=1, n=2)


def test_client_that_resumes_elsewhere_while_it_waits_asks_again(chats, store):
    """The room comes, and the connection that has asked for it is no more: what waited there is not said twice."""
    chat = chats(store=store)
    amy = chat.client("amy")
    amy.peer.write(frames(FIRST[1:]))
    chat.until(lambda: store.asked)
    again = chat.back(amy)
    amy.hear("bye", code=3504)
    again.peer.write(frames(FIRST[1:]))
    assert answers(again) == []
    store.give()
    assert answers(again) == [("joined", 2), ("ok", 3), ("ok", 4), ("pong", 5)]
    assert again.messages[1].get("dup", False) is False and chat.hub.stats()["said"] == 2
    assert amy.ended() == []


def test_rate_of_a_client_that_waits_is_kept_after_it(chats, store):
    """Two reasons to read nothing: the end of one is not the end of the other."""
    chat = chats(store=store, limits={"rate": 1.0, "burst": 2})
    amy = chat.client("amy")
    amy.peer.write(frames(FIRST[1:]))
    chat.world.settle()
    store.give()
    assert answers(amy) == [("joined", 2)]
    chat.advance(1)
    assert answers(amy) == [("joined", 2), ("ok", 3)]
    chat.advance(2)
    assert answers(amy) == [("joined", 2), ("ok", 3), ("ok", 4), ("pong", 5)]


def test_room_that_two_wait_for_is_one_whatever_the_first_one_asks_next(chats, store):
    """What the first one asks next leaves the room and needs its place: the second one is in it by then, and stays."""
    chat = chats(store=store, limits={"rooms": 1})
    amy, bob, cem = (chat.client(nick) for nick in ("amy", "bob", "cem"))
    asked = [FIRST[1], {"t": "part", "ref": 3, "room": "r"}, {"t": "join", "ref": 4, "room": "q"}]
    for client, parts in ((amy, asked), (bob, asked[:1])):
        client.peer.write(frames(parts))
        chat.world.settle()
    store.give()
    assert answers(amy) == [("joined", 2), ("ev", None), ("ok", 3), ("err", 4)]
    assert amy.messages[-1]["code"] == "unavailable"
    assert answers(bob) == [("joined", 2), ("ev", None)]
    bob.messages.clear()
    cem.join("r")
    cem.say("hi")
    bob.hear("ev", e="join", who="cem")
    bob.hear("msg", body="hi", seq=1)


def test_msg_comes_before_the_loss_of_its_sender_in_the_same_read(chats):
    """Gathered messages are shown before anything that follows from the end of the session."""
    chat = chats()
    amy, bob = chat.client("amy", "r"), chat.client("bob", "r")
    amy.peer.write(frames([FIRST[2]]) + 3 * evloop.Framing.U32.encode(b"{"))
    bob.hear("msg", body="one")
    bob.hear("ev", e="lost", who="amy")
    assert [message["t"] for message in amy.ended() if message["t"] in ("ok", "bye")] == ["ok", "bye"]


def test_quit_behind_a_direct_message_waits_for_the_conversation(chats, store):
    """What was said before the goodbye is said, though the conversation has to be loaded for it."""
    chat = chats(store=store)
    bob, amy = chat.client("bob"), chat.client("amy")
    asked = [{"t": "say", "ref": 1, "to": "bob", "body": "psst", "cid": "1"}, {"t": "quit", "ref": 2}]
    amy.peer.write(frames(asked))
    chat.until(lambda: store.asked)
    store.give()
    assert [(message["t"], message["ref"]) for message in amy.ended()] == [("ok", 1), ("bye", 2)]
    bob.hear("msg", body="psst")


def test_room_that_cannot_be_had_is_refused_and_what_waits_goes_on(chats, store):
    """The database has failed; the client hears it for each request, and stays."""
    chat = chats(store=store)
    amy = chat.client("amy")
    amy.peer.write(frames(FIRST[1:]))
    chat.until(lambda: store.asked)
    store.asked.pop()[1](None)
    assert answers(amy) == [("err", 2), ("err", 3), ("err", 4), ("pong", 5)]
    assert [message["code"] for message in amy.messages[:3]] == ["unavailable", "no_room", "no_room"]


def test_fault_behind_a_loaded_room_is_answered_and_what_waits_goes_on(chats, store, monkeypatch, caplog):
    """Nobody calls any more who could answer for it; a client would wait for its `joined` for ever."""
    monkeypatch.setattr(requests, "recover", lambda *args: 1 // 0)
    chat = chats(store=store)
    amy = chat.client("amy")
    amy.peer.write(frames([FIRST[1], FIRST[4]]))
    chat.until(lambda: store.asked)
    store.give()
    assert answers(amy) == [("err", 2), ("pong", 5)]
    assert amy.messages[0]["code"] == "internal" and "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("subprotocol", wire.SUBPROTOCOLS)
def test_websocket_say_behind_a_join_waits_for_the_room(chats, store, subprotocol):
    """A page sends its hello and what follows as soon as it may, too."""
    chat = chats(store=store)
    peer = call(chat.world, chat.server.server)
    as_text = subprotocol.endswith("json")

    def sent(request):
        return text(json.dumps(request)) if as_text else client_frame(BINARY, msgspec.msgpack.encode(request))

    def heard():
        chat.world.settle()
        decode = json.loads if as_text else msgspec.msgpack.decode
        payloads = [decode(payload) for _, payload in frames_of(response_of(peer.received)[2])[0]]
        return [(message["t"], message["ref"]) for message in payloads]

    peer.write(handshake("/ws", Sec_WebSocket_Protocol=subprotocol) + b"".join(map(sent, FIRST)))
    chat.until(lambda: store.asked)
    assert heard() == [("welcome", 1)]
    store.give()
    assert heard() == [("welcome", 1), ("joined", 2), ("ok", 3), ("ok", 4), ("pong", 5)]


@BOTH
def test_resume_join_and_say_in_one_write_after_a_restart(tmp_path, codec, monkeypatch):
    """With --db: the same client, the same room, and what it did not know to be said, as one write to a new server."""
    monkeypatch.setattr(sqlite, "GATHER", 0.0)  # the clock stands still
    first = [{**FIRST[0]}, *FIRST[1:4]]
    for turn in range(2):
        with SqliteStore(tmp_path / "chat.db") as kept:
            chat = Chat(store=kept)
            amy = chat.client(codec=codec)
            amy.peer.write(frames(first, codec))
            welcome, joined, *oks = [amy.hear() for _ in range(4)]
            assert (welcome["t"], joined["t"], joined.get("recovered")) == ("welcome", "joined", turn == 1)
            assert [(ok["seq"], ok.get("dup", False)) for ok in oks] == [(turn + 1, bool(turn)), (2 + turn, False)]
            chat.server.shutdown()
            chat.until(lambda: kept._file._lock < 0)
            chat.close()
        resume = {"sid": welcome["sid"], "key": welcome["resume_key"]}
        again = {**FIRST[1], "since": {"epoch": joined["epoch"], "seq": 2}}
        more = {**FIRST[3], "body": "three", "cid": "3"}
        first = [{**FIRST[0], "resume": resume}, again, FIRST[3], more]


@pytest.mark.slow
def test_serve_chat_with_db_takes_a_whole_session_in_one_write(tmp_path):
    """The command, as a script meets it: hello, join and say without waiting, twice over the same file."""
    for count in range(2):
        with serving("chat", "127.0.0.1:0", "--db", str(tmp_path / "chat.db")) as server, server.connect() as sock:
            said = {**FIRST[2], "cid": f"c{count}"}
            sock.sendall(frames([*FIRST[:2], said]))
            found = [json.loads(receive_frame(sock)) for _ in range(3)]
        assert [message["t"] for message in found] == ["welcome", "joined", "ok"]
        assert (found[1]["top"], found[2]["seq"]) == (count, count + 1)
