"""The fan-out load as members of a chat room: messages are parsed where their size varies, and believed no sooner."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import struct
import subprocess
import threading

import pytest

from evloop.bench import native

DEADLINE = 10  # seconds: far above anything here


@pytest.fixture(scope="session")
def load(tmp_path_factory):
    """The load, compiled into a directory of this run."""
    try:
        return native.build(native.FANOUT, tmp_path_factory.mktemp("fanout"))
    except native.CompilerError as exc:
        pytest.skip(f"the load is C: {exc}")


class Room:
    """A chat room in a thread, as small as the load needs it; *change* makes of each message what is sent instead."""

    def __init__(self, change, acknowledges=True, lets_go=True):
        self.change = change
        self.acknowledges = acknowledges
        self.lets_go = lets_go
        self.members = {}
        self.seen = []
        self.seq = 98  # so that it grows a digit in each run
        self.pongs = []

    def serve(self, listener):
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            with contextlib.suppress(OSError):  # the load has seen enough, and reset its connections
                while self.members or not self.seen:
                    for key, _ in selector.select(DEADLINE):
                        if key.fileobj is listener:
                            sock = listener.accept()[0]
                            selector.register(sock, selectors.EVENT_READ)
                            self.members[sock] = b""
                            self.seen.append(sock)
                        elif not self.hear(key.fileobj):
                            selector.unregister(key.fileobj)
                            del self.members[key.fileobj]

    def hear(self, sock):
        data = sock.recv(65536)
        stream = self.members[sock] + data
        while len(stream) >= 4 and len(stream) >= 4 + (size := struct.unpack_from(">I", stream)[0]):
            self.answer(sock, json.loads(stream[4 : 4 + size]))
            stream = stream[4 + size :]
        self.members[sock] = stream
        return bool(data)

    def answer(self, sock, message):
        kind = message["t"]
        if kind == "hello":
            send(sock, {"t": "ev", "e": "join"}, {"t": "welcome", "ref": message["ref"], "nick": message["nick"]})
        elif kind == "join":
            send(sock, {"t": "ev", "e": "count", "n": 2}, {"t": "joined", "ref": message["ref"], "history": []})
        elif kind == "quit" and self.lets_go:
            send(sock, {"t": "bye", "code": 1000, "text": ""})
            sock.shutdown(socket.SHUT_WR)
        elif kind == "pong":
            self.pongs.append(message["n"])
        elif kind == "say":
            self.seq += 1
            said = {"t": "msg", "seq": self.seq, "ts": 1790000000000, "from": "p0", "body": message["body"]}
            said |= {"room": message["room"], "cid": message["cid"]}
            acknowledgement = [{"t": "ok", "ref": 1, "seq": self.seq}] * self.acknowledges
            for member in self.members:
                send(member, *(acknowledgement if member is sock else self.change(said)))


def send(sock, *messages):
    for message in messages:
        payload = json.dumps(message, separators=(",", ":")).encode()
        sock.sendall(struct.pack(">I", len(payload)) + payload)


@contextlib.contextmanager
def serving(room):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=room.serve, args=(listener,))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join(DEADLINE)
            for sock in room.seen:
                sock.close()
            assert not thread.is_alive()


def loaded(load, room, *options):
    with serving(room) as address:
        command = [load, "-n", "2", "-o", "3", "-d", "0.05", "-w", "0", *options, "chat", address]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def once(change, at=105):
    """Change the message with the seq *at* alone."""
    return lambda said: change(said) if said["seq"] == at else [said]


@pytest.mark.parametrize("options", [[], ["-P", "3"], ["-s", "16"], ["-s", "8000", "-R", "200"]], ids=" ".join)
def test_chat_honest_room_has_figures(load, options):
    """Each publisher has an ok for his own and the others' messages; seq and so the size grow on the way."""
    found = loaded(load, Room(lambda said: [said]), *options)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["messages"] > 0


def test_chat_events_and_pings_in_between_are_no_messages(load):
    """The server pings whoever is silent, which subscribers are, and says who comes."""
    room = Room(once(lambda said: [{"t": "ping", "n": 7}, {"t": "ev", "e": "count", "n": 3}, said]))
    found = loaded(load, room)
    assert found.returncode == 0, found.stderr
    assert room.pongs == [7, 7]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda said: [{**said, "seq": said["seq"] + 1}], 7, "seq 106 behind seq 104"),
        (lambda said: [said, said], 7, "seq 105 behind seq 105"),
        (lambda said: [], 7, "seq 106 behind seq 104"),
        (lambda said: [{**said, "cid": "0" * 15 + "z"}], 7, "where a message was expected"),
        (lambda said: [{key: said[key] for key in said if key != "cid"}], 7, "where a message was expected"),
        (lambda said: [{**said, "body": said["body"][:-1] + "!"}], 7, "where a message was expected"),
        (lambda said: [{**said, "body": said["body"] + "!"}], 7, "where a message was expected"),
        (lambda said: [{"t": "bye", "code": 3008, "text": "slow"}], 6, '{"t":"bye","code":3008'),
        (lambda said: [{"t": "err", "code": "internal"}], 6, '{"t":"err","code":"internal"}'),
        (lambda said: [{"t": "surprise"}], 7, "where a message was expected"),
    ],
)
def test_chat_room_that_is_wrong_once_is_named(load, change, code, said):
    """A chat server that lost a message, or its cid, has no figures."""
    found = loaded(load, Room(once(change)))
    assert (found.returncode, said in found.stderr) == (code, True), found.stderr


@pytest.mark.slow
def test_chat_say_without_ok_is_named(load):
    """An ok is part of the work: a server that leaves it out would be cheaper."""
    found = loaded(load, Room(lambda said: [said], acknowledges=False), "-t", "0.5")
    assert (found.returncode, "have been acknowledged" in found.stderr) == (4, True), found.stderr


@pytest.mark.slow
def test_chat_quit_that_is_not_answered_is_named(load):
    """Members of the last run that the server still holds would be in the next one's room."""
    found = loaded(load, Room(lambda said: [said], lets_go=False), "-t", "0.5")
    assert (found.returncode, "3 connections were not closed" in found.stderr) == (4, True), found.stderr
