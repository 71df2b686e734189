"""A chat on bad lines: real clients that talk, lines that are cut and slow, a server that is killed and started again.

Whatever happens, all clients end with the same messages in each room: in order, without a hole, each once.

Rule: nothing in this file may know how the server keeps what was said.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import threading
from collections import Counter

from programs import Served

import evloop
from evloop.apps import chat
from evloop.apps.chat.client import Backoff, Client, Entered, Message, Missed
from evloop.apps.chat.sqlite import SqliteStore

PATIENCE = 60.0  # seconds; only a failing test waits as long
HOLE = "a hole"


class ThreadServer:
    """A chat server with a database in a thread; it is stopped without a word, as if its process had ended."""

    def __init__(self, directory, **_):
        self.path = f"{directory}/chat.sock"
        self._db = f"{directory}/chat.db"

    def start(self):
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._listens.wait(PATIENCE)

    def _run(self):
        with SqliteStore(self._db) as store, evloop.Reactor() as self._reactor:
            limits = chat.ChatLimits(rate=0, grace=0.5)
            server = chat.ChatServer(self._reactor, f"unix:{self.path}", limits=limits, store=store)
            server.start()
            self._server = server
            self._listens.set()
            self._reactor.run_forever()
            server.hub.stop()
            server.server.close()

    def _cut(self):
        for conn in list(self._server.server.connections):
            conn.abort()
        self._reactor.stop()

    def kill(self):
        self._reactor.call_soon_threadsafe(self._cut)
        self._thread.join(PATIENCE)

    stop = kill


class ProcessServer:
    """``evloop serve chat --db``, to be killed with SIGKILL or stopped with SIGTERM."""

    def __init__(self, directory, **env):
        self.path = f"{directory}/chat.sock"
        self._env = env
        self._args = (
            "chat",
            f"unix:{self.path}",
            "--db",
            f"{directory}/chat.db",
            "--rate",
            "0",
            "--grace",
            "500ms",
            "-q",
        )

    def start(self):
        self._served = Served(*self._args, env=self._env)

    def kill(self):
        with self._served as served:
            served.signal(signal.SIGKILL)
            assert served.finish() == -signal.SIGKILL

    def stop(self):
        with self._served as served:
            served.signal(signal.SIGTERM)
            assert served.finish() == 0, served.err.decode()


class Line:
    """A client's way to the server; it is slow now and then, hands over pieces, and can be cut."""

    def __init__(self, path, dice):
        self._path, self._dice = path, dice
        self._writers = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        self._tasks = set()
        return self

    async def __aexit__(self, *exc_info):
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def cut(self):
        """Reset what goes through; what was on its way is lost, perhaps in the middle of a message."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self._writers.add(writer)
        try:
            beyond, out = await asyncio.open_unix_connection(self._path)
        except OSError:
            writer.transport.abort()
        else:
            self._writers.add(out)
            await asyncio.gather(self._carry(reader, out), self._carry(beyond, writer))
            self._writers.discard(out)
        self._writers.discard(writer)
        self._tasks.discard(asyncio.current_task())

    async def _carry(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(self._dice.choice((1, 100, 5000))):
                if self._dice.random() < 0.05:
                    await asyncio.sleep(self._dice.random() * 0.01)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


class Talker:
    """A client, what it says, and what it has seen."""

    def __init__(self, nick, address, rooms, dice):
        draw = dice.random
        self.client = Client(address, nick, backoff=Backoff(lambda: draw() * 0.02), timeout=5)
        self.nick, self.rooms, self.dice = nick, rooms, dice
        self.seen = {room: [] for room in rooms}

    async def listen(self):
        async for event in self.client.events():
            if isinstance(event, Message):
                self.seen[event.room].append((event.seq, event.body))
            elif isinstance(event, Missed) or (isinstance(event, Entered) and event.again and not event.recovered):
                self.seen[event.room].append(HOLE)

    async def speak(self, count):
        for n in range(count):
            self.client.post(self.rooms[n % len(self.rooms)], f"{self.nick} {n}")
            if self.dice.random() < 0.3:
                await asyncio.sleep(self.dice.random() * 0.03)


async def play(seed, server, *, talkers=3, said=40, faults=8, gently=False):
    """Talk for a while in two rooms, with *faults* on the way; assert that all have seen the same.

    *gently*: the server is also stopped in good order, and not only killed.
    """
    dice = random.Random(seed)
    async with contextlib.AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(Line(server.path, dice)) for _ in range(talkers)]
        crowd = [Talker(f"t{n}", line.address, ["a", "b"], dice) for n, line in enumerate(lines)]
        for talker in crowd:
            await stack.enter_async_context(talker.client)
            for room in talker.rooms:
                await talker.client.join(room)
        listening = [asyncio.ensure_future(talker.listen()) for talker in crowd]
        speaking = [asyncio.ensure_future(talker.speak(said)) for talker in crowd]
        for _ in range(faults):
            await asyncio.sleep(dice.random() * 0.1)
            fault = dice.choice(["cut", "cut", "kill", "stop" if gently else "cut"])
            if fault == "cut":
                dice.choice(lines).cut()
            else:
                await asyncio.to_thread(getattr(server, fault))
                await asyncio.sleep(dice.random() * 0.05)
                await asyncio.to_thread(server.start)
        await asyncio.gather(*speaking)
        await asyncio.wait_for(asyncio.gather(*(talker.client.flush() for talker in crowd)), PATIENCE)
        whole = {room: talkers * len(range(index, said, 2)) for index, room in enumerate(["a", "b"])}
        for talker in crowd:
            for room, count in whole.items():
                await asyncio.wait_for(arrived(talker, room, count), PATIENCE)
        for task in listening:
            task.cancel()
        await asyncio.wait(listening)
        agree(crowd, whole)


async def arrived(talker, room, count):
    """Wait until *talker* has seen *count* messages in *room*."""
    while len(talker.seen[room]) < count:
        await asyncio.sleep(0.005)


def agree(crowd, whole):
    """Assert that each of *crowd* has seen all of each room once, in the one order."""
    for room, count in whole.items():
        first = crowd[0].seen[room]
        assert [seq for seq, _ in first] == list(range(1, count + 1)), (room, first)
        assert Counter(body for _, body in first).most_common(1)[0][1] == 1, (room, first)
        for talker in crowd[1:]:
            assert talker.seen[room] == first, (room, talker.nick)


def run(seed, server, **options):
    """Play one seed with *server*, started before and killed at the end."""
    server.start()
    try:
        asyncio.run(play(seed, server, **options))
    finally:
        server.kill()
