"""The chat client against the real server, over connections that break: in order, once, the same for everybody."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import random
import sys

import pytest
from chatthread import PATIENCE, ChatThread

import evloop.aio
from evloop.apps.chat import Client
from evloop.apps.chat.client import Backoff, Entered, Message, Presence, Status


class Line:
    """A line between clients and a server that can be cut: a TCP relay.

    *cut* breaks every connection at once, with whatever was under way in either direction.
    """

    def __init__(self, address):
        self._host, _, self._port = address.rpartition(":")
        self._pairs = set()
        self._tasks = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.address = "127.0.0.1:{1}".format(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *exc_info):
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def cut(self):
        """Break all connections."""
        for writer in self._pairs:
            writer.transport.abort()

    async def _accepted(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(self._host, int(self._port))
            ends = {writer, far_writer}
            self._pairs |= ends
            await asyncio.gather(self._relay(reader, far_writer), self._relay(far_reader, writer))
            self._pairs -= ends
        self._tasks.discard(asyncio.current_task())

    async def _relay(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def run(main):
    """Run a coroutine on our loop; fail when patience ends."""
    return evloop.aio.run(asyncio.wait_for(main, PATIENCE))


def quick(seed=None):
    """Return a back-off that does not wait long."""
    dice = random.Random(seed)
    return Backoff(lambda: dice.random() / 50)


async def lists(client, heard):
    """Append what *client* hears, in order, to *heard*."""
    async for event in client.events():
        if isinstance(event, Message):
            heard.append((event.seq, event.sender, event.body))
        elif isinstance(event, Entered) and event.again:
            assert event.recovered


async def until(condition):
    """Wait for *condition()*; the time-out of the program bounds it."""
    while not condition():
        await asyncio.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_everybody_ends_with_the_same_list_over_a_line_that_breaks(seed):
    """Three clients talk while the line breaks at random moments: nothing is lost, doubled or out of order."""
    dice = random.Random(seed)
    names = ("amy", "bob", "cy")
    count = 60

    async def talk(client):
        for number in range(count):
            await client.say("lobby", f"{client.nick} {number}")

    async def main():
        async with Line(server.address) as line, contextlib.AsyncExitStack() as stack:
            heard = {name: [] for name in names}
            clients = []
            for name in names:
                client = Client(line.address, name, backoff=quick(seed), encoding=dice.choice(["json", "msgpack"]))
                clients.append(await stack.enter_async_context(client))
                await client.join("lobby")
            listening = [asyncio.ensure_future(lists(client, heard[client.nick])) for client in clients]
            talking = [asyncio.ensure_future(talk(client)) for client in clients]
            for _ in range(12):
                await asyncio.sleep(dice.random() * 0.05)
                line.cut()
            await asyncio.gather(*talking)
            await until(lambda: all(len(found) >= len(names) * count for found in heard.values()))
            for task in listening:
                task.cancel()
            await asyncio.wait(listening)
        first = heard["amy"]
        assert heard["bob"] == first and heard["cy"] == first
        assert [seq for seq, _, _ in first] == list(range(1, len(names) * count + 1))
        for name in names:
            said = [body for _, sender, body in first if sender == name]
            assert said == [f"{name} {number}" for number in range(count)]

    with ChatThread() as server:
        run(main())


def test_resumed_session_makes_no_noise_in_its_rooms():
    """A phone that changes its network is not somebody who leaves and comes."""

    async def main():
        async with Line(server.address) as line, Client(server.address, "amy") as amy:
            await amy.join("lobby")
            events = amy.events()
            async with Client(line.address, "bob", backoff=quick()) as bob:
                await bob.join("lobby")
                welcome = bob.welcome
                line.cut()
                await until(lambda: bob.welcome is not welcome)
                assert bob.welcome.resumed and bob.nick == "bob"
                await bob.say("lobby", "still me")
                noise = []
                async for event in events:
                    if isinstance(event, Message):
                        break
                    noise.append(event)
        found = [(event.what, event.who) for event in noise if isinstance(event, Presence)]
        assert found == [("join", "bob")]

    with ChatThread() as server:
        run(main())


def test_server_that_comes_back_without_its_memory_is_talked_to_again():
    """A restart with the memory store: rooms are entered again, and what waited is said."""

    async def main():
        async with Client(address, "amy", backoff=quick()) as amy:
            await amy.join("lobby")
            await amy.say("lobby", "before")
            first.stop()
            await until(lambda: amy.state == "reconnecting")
            saying = asyncio.ensure_future(amy.say("lobby", "after"))
            with ChatThread(address):
                assert await saying == 1
                found = []
                async for event in amy.events():
                    found.append(event)
                    if isinstance(event, Message) and event.body == "after":
                        break
                again = [event for event in found if isinstance(event, Entered) and event.again]
                assert [event.recovered for event in again] == [False]
                assert [event.state for event in found if isinstance(event, Status)][-1] == "connected"
                await amy.close()

    with ChatThread() as first:
        address = first.address
        run(main())


def test_direct_messages_survive_a_broken_line():
    """A conversation is resumed as a room is."""

    async def main():
        async with (
            Line(server.address) as line,
            Client(server.address, "bob") as bob,
            Client(line.address, "amy", backoff=quick()) as amy,
        ):
            await bob.tell("amy", "one")
            async for message in amy:
                assert (message.peer, message.body) == ("bob", "one")
                break
            line.cut()
            await bob.tell("amy", "two")
            await bob.tell("amy", "three")
            found = []
            async for message in amy:
                found.append(message.body)
                if len(found) == 2:
                    break
            assert found == ["two", "three"]
            await amy.reply(message, "four")
            async for message in bob:
                assert (message.peer, message.body) == ("amy", "four")
                break

    with ChatThread() as server:
        run(main())


@pytest.mark.slow
def test_example_bot_greets_a_member_of_the_room():
    """The program that people copy, as they start it: an address and a room."""

    async def main():
        script = pathlib.Path(__file__).parents[2] / "examples" / "bot.py"
        async with Client(server.address, "amy") as amy:
            await amy.join("大厅")
            bot = await asyncio.create_subprocess_exec(sys.executable, str(script), server.address, "大厅")
            async for event in amy.events():
                if isinstance(event, Presence) and event.what == "join":
                    assert event.who == "bot"
                    await amy.say("大厅", "你好 all")
                elif isinstance(event, Message) and not event.own:
                    assert (event.sender, event.body, event.re) == ("bot", "你好, amy!", 1)
                    break
            bot.terminate()
            await bot.wait()

    with ChatThread() as server:
        run(main())
