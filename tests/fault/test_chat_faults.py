"""A chat server under fault: killed while it commits, stalled members, a crowd, an admin port beside a full server.

Catalogue 5 and 29, and what issue 6 asks of a room of 5,000.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import sqlite3
import time
import urllib.error
import urllib.request

import psutil
import pytest
from chatmachine import ProcessServer, run
from programs import Served, frame, receive_frame, rest_of, serving
from scene import more_files, until

import evloop
from evloop.apps.chat.wire import JSON, Hello, Join, Joined, Msg, Ok, Ping, Pong, Say

pytestmark = pytest.mark.fault

LOCAL = "127.0.0.1:0"
SEEDS = 5
KILLS = 12


def env_of(twin):
    return {"EVLOOP_PURE": "1"} if twin == "python" else {}


# --- kill -9 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(100, 100 + SEEDS))
def test_clients_agree_over_kills_and_restarts(twin, seed, tmp_path):
    """As in tests/property, with a process that is killed with SIGKILL or stopped with SIGTERM."""
    run(seed, ProcessServer(tmp_path, **env_of(twin)), faults=6, gently=True)


def test_no_confirmed_message_is_lost_by_kill_9_during_commits(twin, tmp_path):
    """`ok` is a promise: after each of many kills, all that had one are in the file, at the place that it named."""
    dice = random.Random(29)
    path = str(tmp_path / "chat.db")
    confirmed = {}
    for turn in range(KILLS):
        with Served("chat", LOCAL, "--db", path, "--rate", "0", "-q", env=env_of(twin)) as server:
            with server.connect() as sock:
                confirmed |= pump(sock, turn, server, time.monotonic() + 0.05 + dice.random() * 0.4)
            assert server.finish() == -signal.SIGKILL
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        found = dict(db.execute("SELECT seq, body FROM events"))
    assert len(confirmed) > KILLS, "the kills came too early to show anything"
    assert {seq: found.get(seq) for seq in confirmed} == confirmed
    assert sorted(found) == list(range(1, len(found) + 1)), "the order has a hole"


def pump(sock, turn, server, end):
    """Say what the line takes until *end*, kill the server, and return what was confirmed, by seq."""
    sock.sendall(frame(JSON.encode(Hello(v=1, client="pump"))) + frame(JSON.encode(Join(room="r", limit=0))))
    while type(JSON.decode_reply(receive_frame(sock))) is not Joined:
        pass
    sock.settimeout(0.05)
    decoder, bodies, confirmed = evloop.FrameDecoder(evloop.Framing.U32), [], {}
    killed = False
    while True:
        if not killed and time.monotonic() >= end:
            server.process.kill()
            killed = True
        if not killed and len(bodies) - len(confirmed) < 200:
            batch = range(len(bodies), len(bodies) + 20)
            bodies += [f"{turn}/{n}" for n in batch]
            says = [Say(room="r", body=bodies[n], cid=f"{turn}-{n}", ref=n) for n in batch]
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"".join(frame(JSON.encode(say)) for say in says))
        try:
            data = sock.recv(65536)
        except TimeoutError:
            continue
        except ConnectionError:
            data = b""
        if not data:
            return confirmed
        for reply in map(JSON.decode_reply, decoder.feed(data)):
            if type(reply) is Ok:
                confirmed[reply.seq] = bodies[reply.ref]


# --- a crowd ------------------------------------------------------------------------------------------------------


class Member(evloop.Protocol):
    """One of a crowd: checks that what it sees has no hole."""

    def __init__(self, crowd):
        self.crowd = crowd
        self.last = None
        self.lost = False

    def connection_made(self, conn):
        self.conn = conn
        conn.send(JSON.encode(Hello(v=1, client="crowd")))
        conn.send(JSON.encode(Join(room="r", limit=0, ref=1)))

    def frame_received(self, frame):
        reply = JSON.decode_reply(frame)
        if type(reply) is Msg or (type(reply) is Ok and reply.seq is not None):
            assert reply.seq == self.last + 1, "a hole"
            self.last = reply.seq
        elif type(reply) is Joined:
            self.last = reply.top
            self.crowd.joined += 1
        elif type(reply) is Ping:
            self.conn.send(JSON.encode(Pong(n=reply.n)))

    def connection_lost(self, exc):
        self.lost = True


def stalled(server):
    """Return a member of the same room that takes no more than fits into a small buffer of the kernel's."""
    host, _, port = server.address.rpartition(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(60)
    sock.connect((host, int(port)))
    sock.sendall(frame(JSON.encode(Hello(v=1, client="stalled"))) + frame(JSON.encode(Join(room="r", limit=0))))
    while type(JSON.decode_reply(receive_frame(sock))) is not Joined:
        pass
    return sock


def messages_of(sock):
    """Return how many messages a stalled member finds when it reads again, to the end."""
    replies = map(JSON.decode_reply, evloop.FrameDecoder(evloop.Framing.U32).feed(rest_of(sock)))
    return sum(type(reply) is Msg for reply in replies)


class Crowd:
    """Members in one room, on one reactor; the first one speaks."""

    def __init__(self, reactor, address, size):
        self.reactor, self.joined = reactor, 0
        self.members = [Member(self) for _ in range(size)]
        for at in range(0, size, 50):
            for member in self.members[at : at + 50]:
                evloop.connect(reactor, address, protocol_factory=lambda member=member: member, timeout=30)
            self.until(lambda at=at: self.joined >= min(at + 50, size), 60)

    def until(self, condition, patience):
        """Turn the wheel until *condition* holds."""
        deadline = time.monotonic() + patience

        def look():
            if condition() or time.monotonic() > deadline:
                self.reactor.stop()
            else:
                self.reactor.call_later(0.02, look)

        self.reactor.call_soon(look)
        self.reactor.run_forever()
        assert condition(), "it did not come true"

    def talk(self, rate, seconds, body):
        """Let the first one speak, and wait until all have seen it."""
        count, began = 0, self.reactor.time()
        total = int(rate * seconds)

        def beat():
            nonlocal count
            due = min(int((self.reactor.time() - began) * rate) + 1, total)
            while count < due:
                self.members[0].conn.send(JSON.encode(Say(room="r", body=body, cid=str(count), ref=count)))
                count += 1
            if count < total:
                self.reactor.call_later(1 / rate, beat)

        self.reactor.call_soon(beat)
        self.until(lambda: all(member.last == total for member in self.members), seconds + 60)


def test_stalled_member_of_a_hundred_is_dropped_and_the_others_miss_nothing(twin):
    """Catalogue 29: 1,000 messages a second; one does not read."""
    with serving("chat", LOCAL, "--rate", "0", "-q", env=env_of(twin)) as server, evloop.Reactor() as reactor:
        crowd = Crowd(reactor, server.address, 99)
        with stalled(server) as slow:
            crowd.talk(1000, 4, "x" * 500)
            assert not any(member.lost for member in crowd.members)
            assert messages_of(slow) < 4000, "it was dropped before it had everything"
        leave(crowd)


def leave(crowd):
    for member in crowd.members:
        member.conn.abort()
    crowd.until(lambda: all(member.lost for member in crowd.members), 20)


def tcp_memory():
    """Return the bytes that all TCP sockets of this machine take in the kernel (/proc/net/sockstat, in pages)."""
    with open("/proc/net/sockstat") as file:
        line = next(line for line in file if line.startswith("TCP:"))
    return int(line.split()[-1]) * 4096


@pytest.mark.skipif(psutil.virtual_memory().total < 4 << 30, reason="5,000 connections twice take 1 GiB")
def test_five_thousand_members_of_whom_fifty_stall_for_thirty_seconds():
    """The others see every message in order, and neither the server nor the kernel grows with what nobody takes."""
    more_files()
    with (
        serving("chat", LOCAL, "--rate", "0", "-q") as server,
        evloop.Reactor() as reactor,
        contextlib.ExitStack() as stack,
    ):
        crowd = Crowd(reactor, server.address, 4950)
        slow = [stack.enter_context(stalled(server)) for _ in range(50)]
        process = psutil.Process(server.process.pid)
        resident, kernel = process.memory_info().rss, tcp_memory()
        crowd.talk(8, 30, "x" * 4000)  # 960 KB for each: above high_water after 12 s, and cut 10 s later
        assert not any(member.lost for member in crowd.members)
        assert process.memory_info().rss - resident < 160 << 20, "50 of 1 MiB, and the room's own memory"
        assert tcp_memory() - kernel < 256 << 20
        assert max(messages_of(sock) for sock in slow) < 240
        leave(crowd)


# --- a full server ------------------------------------------------------------------------------------------------


def answer(address, path):
    """Return status and text of a GET."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


def test_admin_port_answers_beside_a_full_chat(twin):
    """Catalogue 5: with all places taken, /readyz still answers, with 503 and why."""
    args = ("chat", LOCAL, "--admin", LOCAL, "--max-connections", "4", "-q")
    with serving(*args, env=env_of(twin)) as server, contextlib.ExitStack() as stack:
        server.wait_for("out", b"ADMIN")
        admin = until(lambda: [line for line in server.out.decode().splitlines() if line.startswith("ADMIN")])[
            0
        ].split()[-1]
        for _ in range(4):
            sock = stack.enter_context(server.connect())
            sock.sendall(frame(json.dumps({"t": "hello", "v": 1, "client": "x"}).encode()))
            assert json.loads(receive_frame(sock))["t"] == "welcome"
        assert answer(admin, "/readyz") == (503, "full\n")
        assert answer(admin, "/livez")[0] == 200
        assert "evloop_chat_users 4" in answer(admin, "/metrics")[1]
