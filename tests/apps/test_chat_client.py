"""evloop.apps.chat.client: in order, without holes, once, over whatever happens to the connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import ssl
import sys

import pytest
from playedchat import PATIENCE, PlayedServer, dm, msg
from tlspeers import CA, SERVER

import evloop.aio
from evloop import tls
from evloop.apps.chat import wire
from evloop.apps.chat.client import (
    Backoff,
    Client,
    Disconnected,
    Ended,
    Entered,
    Left,
    Message,
    Missed,
    NotSent,
    NoWelcome,
    OutboxFull,
    Presence,
    Refused,
    Renamed,
    Status,
)

AT_ONCE = {"draw": lambda: 0.0}


@pytest.fixture(params=["asyncio", "evloop"])
def run(request):
    """Run a coroutine function on asyncio's loop and on ours; fail when patience ends."""
    runner = asyncio.run if request.param == "asyncio" else evloop.aio.run

    def start(main):
        return runner(asyncio.wait_for(main(), PATIENCE))

    return start


@contextlib.asynccontextmanager
async def connected(server, nick="amy", **options):
    """Yield a client and the server's side of its connection."""
    options.setdefault("backoff", Backoff(**AT_ONCE))
    client = Client(server.address, nick, **options)
    connecting = asyncio.ensure_future(client.connect())
    peer = await server.accept()
    await peer.welcome(nick)
    await connecting
    try:
        yield client, peer
    finally:
        closing = asyncio.ensure_future(client.close())
        await asyncio.sleep(0)
        await peer.reset()
        await closing


async def entered(client, peer, room="lobby", **fields):
    """Have *client* join, and *peer* say that it did."""
    joining = asyncio.ensure_future(client.join(room))
    await peer.joined(room, **fields)
    return await joining


async def take(events, count):
    """Return the next *count* events that are no Status and no Presence."""
    found = []
    while len(found) < count:
        event = await events.__anext__()
        if not isinstance(event, (Status, Presence)):
            found.append(event)
    return found


async def bodies(events, count):
    """Return the texts of the next *count* events, which are messages; a hole is None."""
    return [getattr(event, "body", None) for event in await take(events, count)]


# --- a bot's day --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_client_of_the_docstring_answers_what_others_say(run, encoding):
    """What most bots are: join, look at each message, answer some."""

    async def main():
        async with PlayedServer() as server, connected(server, encoding=encoding) as (client, peer):
            await entered(client, peer, "大厅", top=7)

            async def bot():
                async for message in client:
                    assert await client.reply(message, message.body.upper()) == message.seq + 1

            answering = asyncio.ensure_future(bot())
            peer.send(msg(8, "你好 a", room="大厅"))
            said = await peer.confirm(9)
            assert (said.room, said.body, said.re) == ("大厅", "你好 A", 8)
            peer.send(msg(10, "b", room="大厅"))
            assert (await peer.confirm(11)).body == "B"
            answering.cancel()

    run(main)


def test_join_gives_the_history_and_not_as_messages(run):
    """A bot must not answer yesterday's questions (ergo's issue 1979)."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            room = await entered(client, peer, top=2, history=[msg(1, "old"), msg(2, "older")], topic="t")
            assert [message.body for message in room.history] == ["old", "older"]
            assert (room.topic, room.again, room.role) == ("t", False, "member")
            peer.send(msg(3, "new"))
            assert [m.body async for m in first_of(client, 1)] == ["new"]

    run(main)


async def first_of(iterator, count):
    """Yield the first *count* of an asynchronous iterator."""
    async for item in iterator:
        yield item
        count -= 1
        if not count:
            return


def test_own_message_stands_where_the_server_put_it(run):
    """Everybody sees one order, the sender too: what came before its confirmation is before it."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer)
            events = client.events()
            await take(events, 1)
            saying = asyncio.ensure_future(client.say("lobby", "mine"))
            said = await peer.expect(wire.Say)
            peer.send(msg(1, "first"), wire.Ok(ref=said.ref, seq=2, epoch="e1", ts=5), msg(3, "last"))
            found = await take(events, 3)
            assert [(m.body, m.own, m.seq) for m in found] == [
                ("first", False, 1),
                ("mine", True, 2),
                ("last", False, 3),
            ]
            assert await saying == 2

    run(main)


# --- order, holes, repetitions ------------------------------------------------------------------------------------


def test_message_that_comes_twice_is_given_once(run):
    """A message that is pushed and in a page of history is one message."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer)
            events = client.events()
            await take(events, 1)
            peer.send(msg(1, "a"), msg(1, "a"), msg(2, "b"), msg(1, "a"), msg(3, "c"))
            assert await bodies(events, 3) == ["a", "b", "c"]

    run(main)


def test_hole_is_filled_from_the_history_before_anything_later_is_given(run):
    """The rule of the protocol: show last + 1, drop what is old, ask and hold at a hole."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer, top=4)
            events = client.events()
            await take(events, 1)
            peer.send(msg(5, "5"), msg(8, "8"))
            asked = await peer.expect(wire.History)
            assert (asked.room, asked.after) == ("lobby", 5)
            peer.send(msg(9, "9"), wire.Page(ref=asked.ref, epoch="e1", room="lobby", items=[msg(6, "6"), msg(7, "7")]))
            assert await bodies(events, 5) == ["5", "6", "7", "8", "9"]

    run(main)


def test_hole_longer_than_a_page_is_filled_page_by_page(run):
    """A page may be cut short by its bytes; the client goes on behind it."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer)
            events = client.events()
            await take(events, 1)
            peer.send(msg(4, "4"))
            for seq in (1, 2, 3):
                asked = await peer.expect(wire.History)
                assert asked.after == seq - 1
                page = wire.Page(ref=asked.ref, epoch="e1", room="lobby", items=[msg(seq, str(seq))], more_after=True)
                peer.send(page)
            assert await bodies(events, 4) == ["1", "2", "3", "4"]

    run(main)


@pytest.mark.parametrize("gone", ["error", "empty page", "later page"])
def test_hole_that_the_server_cannot_fill_is_told_once(run, gone):
    """Never a silent hole, and never a client that waits for ever for what is gone."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer)
            events = client.events()
            await take(events, 1)
            peer.send(msg(4, "4"))
            asked = await peer.expect(wire.History)
            if gone == "error":
                peer.send(wire.Err(ref=asked.ref, code="gone", text="gone"))
            else:
                items = [msg(3, "3")] if gone == "later page" else []
                peer.send(wire.Page(ref=asked.ref, epoch="e1", room="lobby", items=items))
            hole, *messages = await take(events, 3 if gone == "later page" else 2)
            assert hole == Missed("lobby", "")
            assert [m.body for m in messages] == (["3", "4"] if gone == "later page" else ["4"])
            peer.send(msg(5, "5"))
            assert await bodies(events, 1) == ["5"]

    run(main)


def test_direct_messages_are_a_conversation_with_its_own_order(run):
    """A direct message goes through the same rule, by the key of the conversation."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            events = client.events()
            peer.send(dm(5, "a"), dm(7, "c"))
            asked = await peer.expect(wire.History)
            assert (asked.room, asked.after) == ("@u-amy,u-bob", 5)
            peer.send(wire.Page(ref=asked.ref, epoch="e1", dm="@u-amy,u-bob", items=[dm(6, "b")]))
            found = await take(events, 3)
            assert [(m.room, m.peer, m.body) for m in found] == [("", "bob", text) for text in "abc"]
            telling = asyncio.ensure_future(client.tell("bob", "d"))
            assert (await peer.confirm(8, dm="@u-amy,u-bob")).to == "bob"
            assert await telling == 8
            (mine,) = await take(events, 1)
            assert (mine.peer, mine.own, mine.seq) == ("bob", True, 8)

    run(main)


# --- losing the connection ----------------------------------------------------------------------------------------


async def back(server, **changes):
    """Return the server's side of the next connection, welcomed, and its hello."""
    peer = await server.accept()
    return peer, await peer.welcome(**changes)


def test_lost_connection_is_resumed_and_nothing_is_missed(run):
    """The session on the wire of the specification: cut, resumed, recovered; said once, though sent twice."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer, top=42)
            events = client.events()
            await take(events, 1)
            peer.send(msg(43, "hi"))
            assert await bodies(events, 1) == ["hi"]
            saying = asyncio.ensure_future(client.say("lobby", "在吗"))
            said = await peer.expect(wire.Say)
            await peer.reset()
            again, hello = await back(server, resumed=True)
            assert (hello.resume.sid, hello.resume.key) == ("n1-1", "0" * 32)
            lost = [msg(44, "在吗", sender="amy", cid=said.cid), msg(45, "yes")]
            join = await again.joined(top=45, history=lost, recovered=True)
            assert (join.since.epoch, join.since.seq) == ("e1", 43)
            assert await saying == 44
            room, *messages = await take(events, 3)
            assert (room.again, room.recovered) == (True, True)
            assert [(m.body, m.own) for m in messages] == [("在吗", True), ("yes", False)]
            again.send(msg(46, "more"))
            assert await bodies(events, 1) == ["more"]
            assert client.unsent == 0
            await again.reset()

    run(main)


def test_unconfirmed_is_sent_again_under_the_same_name_in_order(run):
    """The server tells by the cid that it is the same; two things said stay in their order."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer)
            saying = [asyncio.ensure_future(client.say("lobby", text)) for text in ("one", "two")]
            before = [await peer.expect(wire.Say), await peer.expect(wire.Say)]
            await peer.reset()
            again, _ = await back(server)
            await again.joined(recovered=True)
            after = [await again.confirm(1, dup=True), await again.confirm(2)]
            assert [m.cid for m in before] == [m.cid for m in after]
            assert [m.body for m in after] == ["one", "two"]
            assert [await future for future in saying] == [1, 2]
            await again.reset()

    run(main)


def test_said_while_offline_is_sent_when_the_room_was_entered_again(run):
    """Before that the server would refuse it; and its place in the order must come after what was missed."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer)
            events = client.events()
            await take(events, 1)
            await peer.reset()
            while client.state == "connected":
                await asyncio.sleep(0)
            client.post("lobby", "offline")
            again, _ = await back(server)
            await again.joined(top=1, history=[msg(1, "missed")], recovered=True)
            await again.confirm(2)
            _, *messages = await take(events, 3)
            assert [m.body for m in messages] == ["missed", "offline"]
            await again.reset()

    run(main)


@pytest.mark.parametrize("epoch", ["e1", "e2"])
def test_room_that_cannot_be_recovered_says_so_and_goes_on_with_what_there_is(run, epoch):
    """recovered: false, in a new numbering or beyond what is kept: a line for people, then the newest messages."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer, top=3)
            events = client.events()
            await take(events, 1)
            await peer.reset()
            again, _ = await back(server)
            top = 900 if epoch == "e1" else 2
            history = [msg(top - 1, "a"), msg(top, "b")]
            await again.joined(top=top, epoch=epoch, history=history)
            room, *messages = await take(events, 3)
            assert isinstance(room, Entered) and room.again and not room.recovered
            assert [m.body for m in messages] == ["a", "b"]
            again.send(msg(top + 1, "c"))
            assert await bodies(events, 1) == ["c"]
            await again.reset()

    run(main)


def test_message_pushed_before_a_resumed_room_was_entered_waits_for_its_history(run):
    """A resumed session is a member all the while: what is said before the join's answer is early, and no hole."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer, top=1)
            events = client.events()
            await take(events, 1)
            await peer.reset()
            again, _ = await back(server, resumed=True)
            again.send(msg(3, "3"))
            await again.joined(top=3, history=[msg(2, "2"), msg(3, "3")], recovered=True)
            _, *messages = await take(events, 3)
            assert [m.body for m in messages] == ["2", "3"]
            await again.reset()

    run(main)


def test_missed_direct_messages_are_fetched_after_a_loss(run):
    """The welcome says how far each conversation goes; the difference is asked for."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            events = client.events()
            peer.send(dm(1, "a"))
            assert await bodies(events, 1) == ["a"]
            await peer.reset()
            key = "@u-amy,u-bob"
            conversation = wire.Conversation(dm=key, who="bob", epoch="e1", top=2)
            again, _ = await back(server, resumed=True, dms=[conversation])
            asked = await again.expect(wire.History)
            assert (asked.room, asked.after) == (key, 1)
            again.send(wire.Page(ref=asked.ref, epoch="e1", dm=key, items=[dm(2, "b")]))
            assert await bodies(events, 1) == ["b"]
            await again.reset()

    run(main)


@pytest.mark.parametrize("code", [wire.SHUTDOWN, wire.SLOW, wire.NO_PONG, 3499])
def test_bye_below_3500_is_followed_by_a_new_connection(run, code):
    """A drain and a cut for being slow are no reason to stay away."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            events = client.events()
            peer.send(wire.Bye(code=code, text="later", reconnect=True, after_ms=20))
            await peer.ended()
            found = []
            while not found or found[-1].state != "reconnecting":
                found.append(await events.__anext__())
            assert found[-1].reason == f"later ({code})" and found[-1].retry_in == 0.02
            again, _ = await back(server)
            assert (await events.__anext__()).state == "connected"
            await again.reset()

    run(main)


@pytest.mark.parametrize("code", [wire.REPLACED, wire.PROTOCOL, wire.AUTH, 3502])
def test_bye_from_3500_on_ends_the_client(run, code):
    """To come back would be rude, or the same thing again; whoever iterates is told why."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer)
            saying = asyncio.ensure_future(client.say("lobby", "x"))
            await peer.expect(wire.Say)
            peer.send(wire.Bye(code=code, text="out"))
            with pytest.raises(Ended, match=rf"out \({code}\)") as info:
                async for _ in client:
                    pass
            assert info.value.code == code
            with pytest.raises(Ended):
                await saying
            with pytest.raises(Ended):
                await client.join("other")
            assert client.state == "closed"

    run(main)


def test_server_that_vanished_while_away_is_tried_again_and_again(run):
    """Each attempt that fails is followed by another, later one."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            events = client.events()
            assert (await events.__anext__()).state == "connected"
            await peer.reset()
            for _ in range(3):
                assert (await events.__anext__()).state == "reconnecting"
                peer = await server.accept()
                await peer.reset()
            again, _ = await back(server)
            while (await events.__anext__()).state != "connected":
                pass
            await again.reset()

    run(main)


def test_nick_that_is_taken_by_our_own_ghost_is_asked_for_again(run):
    """After a loss the server may hold the nick for a session that it has not given up yet."""

    async def main():
        async with PlayedServer() as server, connected(server) as (_, peer):
            await peer.reset()
            peer = await server.accept()
            hello = await peer.expect(wire.Hello)
            peer.send(wire.Err(ref=hello.ref, code="nick_taken", text="taken"))
            await peer.ended()
            again, hello = await back(server)
            assert hello.nick == "amy"
            await again.reset()

    run(main)


def test_silent_server_is_asked_and_then_given_up(run, monkeypatch):
    """A peer that vanished without a word: nothing else would ever tell."""
    monkeypatch.setattr("evloop.apps.chat.client.link.PATIENCE", 0.02)

    async def main():
        async with PlayedServer() as server:
            client = Client(server.address, "amy", backoff=Backoff(**AT_ONCE))
            connecting = asyncio.ensure_future(client.connect())
            peer = await server.accept()
            await peer.welcome(ping_s=0)  # asked at once, and never answered
            await connecting
            again, _ = await back(server)
            await client.close()
            await again.ended()

    run(main)


def test_room_that_refuses_after_a_loss_is_told_as_left(run):
    """Banned meanwhile: the program has to know, and what it had to say there is refused too."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer)
            events = client.events()
            await take(events, 1)
            saying = asyncio.ensure_future(client.say("lobby", "x"))
            await peer.expect(wire.Say)
            await peer.reset()
            again, _ = await back(server)
            join = await again.expect(wire.Join)
            again.send(wire.Err(ref=join.ref, code="banned", text="you are banned"))
            said = await again.expect(wire.Say)
            again.send(wire.Err(ref=said.ref, code="no_room", text="no"))
            assert await take(events, 2) == [
                Left("lobby", "banned", "you are banned"),
                NotSent("lobby", "", "x", "no_room", "no"),
            ]
            with pytest.raises(Refused, match="no_room"):
                await saying
            await again.reset()

    run(main)


@pytest.mark.parametrize("reconnect", [True, False])
def test_bye_that_says_to_come_back_is_obeyed_in_front_of_the_first_welcome_too(run, reconnect):
    """A server is being restarted as we come: it says so, and then nobody is there for a moment."""

    async def main():
        async with PlayedServer() as server:
            client = Client(server.address, "amy", backoff=Backoff(**AT_ONCE))
            connecting = asyncio.ensure_future(client.connect())
            peer = await server.accept()
            hello = await peer.expect(wire.Hello)
            asked = asyncio.get_running_loop().time()
            bye = wire.Bye(ref=hello.ref, code=wire.SHUTDOWN, text="stops", reconnect=reconnect, after_ms=50)
            peer.send(bye)
            await peer.ended()
            peer = await server.accept()
            assert asyncio.get_running_loop().time() - asked >= 0.049
            await peer.reset()
            again = await server.accept()
            await again.welcome()
            await connecting
            assert client.state == "connected"
            await again.reset()
            again = await server.accept()
            await again.expect(wire.Hello)
            again.send(wire.Bye(code=wire.SHUTDOWN, text="stops", reconnect=reconnect, after_ms=30))
            await again.ended()
            async for event in client.events():
                if isinstance(event, Status) and event.retry_in == 0.03:
                    assert event.reason == "stops (3001)"
                    break
            await client.close()

    run(main)


def test_server_that_says_to_come_back_and_does_not_is_given_up_in_time(run):
    """The first connection is somebody's who waits for it."""

    async def main():
        async with PlayedServer() as server:
            client = Client(server.address, "amy", timeout=0.2, backoff=Backoff(**AT_ONCE))
            connecting = asyncio.ensure_future(client.connect())
            peer = await server.accept()
            await peer.expect(wire.Hello)
            peer.send(wire.Bye(code=wire.SHUTDOWN, text="stops", reconnect=True, after_ms=1000))
            with pytest.raises(Disconnected, match=r"not welcomed within 0.2 s: stops \(3001\)"):
                await connecting
            assert client.state == "closed"

    run(main)


def test_bye_of_a_later_version_is_what_its_field_says():
    """A code that nobody here knows comes with the answer; those that are known need none."""
    assert not wire.comes_back(wire.Bye(code=1000, text=""))
    assert not wire.comes_back(wire.Bye(code=2999, text=""))
    assert wire.comes_back(wire.Bye(code=3000, text=""))
    assert wire.comes_back(wire.Bye(code=3499, text=""))
    assert not wire.comes_back(wire.Bye(code=3500, text=""))
    assert wire.comes_back(wire.Bye(code=4000, text="", reconnect=True))


def test_welcome_in_another_version_is_final(run):
    """What the messages of a later version mean is not known here; asking again would not change it."""

    async def main():
        async with PlayedServer() as server:
            client = Client(server.address, "amy")
            connecting = asyncio.ensure_future(client.connect())
            peer = await server.accept()
            await peer.welcome(v=2)
            with pytest.raises(Ended, match=r"version 2 of evloop-chat, and this client version 1 \(3501\)"):
                await connecting
            assert client.state == "closed" and client.welcome is None
        async with PlayedServer() as server, connected(server) as (client, peer):
            await peer.reset()
            await (await server.accept()).welcome(v=2)
            with pytest.raises(Ended, match="version 2"):
                async for _ in client.events():
                    pass

    run(main)


# --- refusals and bounds ------------------------------------------------------------------------------------------


def test_connect_to_nobody_raises_the_error_of_the_kernel(run):
    """The first attempt is the caller's: a wrong address must not be tried for ever."""

    async def main():
        async with PlayedServer() as server:
            address = server.address
        client = Client(address, "amy")
        with pytest.raises(ConnectionRefusedError):
            await client.connect()
        assert client.state == "closed"

    run(main)


def test_connect_with_a_nick_that_is_taken_raises_refused(run):
    """The first attempt again: another nick is the person's choice."""

    async def main():
        async with PlayedServer() as server:
            connecting = asyncio.ensure_future(Client(server.address, "amy").connect())
            peer = await server.accept()
            hello = await peer.expect(wire.Hello)
            peer.send(wire.Err(ref=hello.ref, code="nick_taken", text="taken"))
            with pytest.raises(Refused) as info:
                await connecting
            assert info.value.code == "nick_taken"
            await peer.ended()

    run(main)


def test_connect_with_a_wrong_password_raises_ended(run):
    """bye 3500 instead of a welcome."""

    async def main():
        async with PlayedServer() as server:
            connecting = asyncio.ensure_future(Client(server.address, "amy", password="x").connect())
            peer = await server.accept()
            assert (await peer.expect(wire.Hello)).password == "x"
            peer.send(wire.Bye(code=wire.AUTH, text="wrong password"))
            with pytest.raises(Ended, match="wrong password"):
                await connecting

    run(main)


def test_connect_without_a_welcome_times_out(run):
    """A port behind which something else listens, and says nothing."""

    async def main():
        async with PlayedServer() as server:
            with pytest.raises(NoWelcome, match=r"no welcome from 127.0.0.1:\d+ within 0.02 s"):
                await Client(server.address, timeout=0.02).connect()

    run(main)


def test_server_of_another_protocol_is_named_as_such(run):
    """An echo server sends our hello back."""

    async def main():
        async with PlayedServer() as server:
            connecting = asyncio.ensure_future(Client(server.address).connect())
            peer = await server.accept()
            peer.send(await peer.receive())
            with pytest.raises(Disconnected, match="no message of evloop-chat/1"):
                await connecting

    run(main)


def test_refused_say_raises_and_the_session_goes_on(run):
    """One muted room is not the end of a bot."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer)
            saying = asyncio.ensure_future(client.say("lobby", "x"))
            said = await peer.expect(wire.Say)
            peer.send(wire.Err(ref=said.ref, code="muted", text="you are muted"))
            with pytest.raises(Refused, match=r"you are muted \(muted\)"):
                await saying
            saying = asyncio.ensure_future(client.say("lobby", "y"))
            await peer.confirm(1)
            assert await saying == 1

    run(main)


def test_temporary_refusal_is_tried_again_after_the_time_the_server_names(run):
    """rate_limited is no answer for a person: the client waits, under the same cid."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer)
            saying = asyncio.ensure_future(client.say("lobby", "x"))
            said = await peer.expect(wire.Say)
            peer.send(wire.Err(ref=said.ref, code="rate_limited", text="slower", temp=True, retry_ms=1))
            assert (await peer.confirm(1)).cid == said.cid
            assert await saying == 1

    run(main)


def test_body_at_and_above_the_servers_bound(run):
    """The bound is in bytes, and nothing is sent above it."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer)
            saying = asyncio.ensure_future(client.say("lobby", "你" * 2730 + "ab"))
            assert len((await peer.confirm(1)).body.encode()) == wire.MAX_BODY
            await saying
            for body in ("", "你" * 2731):
                with pytest.raises(ValueError, match="1 to 8192 bytes"):
                    await client.say("lobby", body)
            assert client.unsent == 0

    run(main)


def test_outbox_is_bounded_and_say_waits_for_a_place(run):
    """A server that confirms nothing must not grow the client; post() says so, say() waits."""

    async def main():
        async with PlayedServer() as server, connected(server, outbox=2) as (client, peer):
            await entered(client, peer)
            client.post("lobby", "1")
            client.post("lobby", "2")
            with pytest.raises(OutboxFull, match="2 messages"):
                client.post("lobby", "3")
            saying = asyncio.ensure_future(client.say("lobby", "3"))
            for seq in (1, 2, 3):
                await peer.confirm(seq)
            assert await saying == 3
            await client.flush()

    run(main)


def test_program_that_does_not_take_events_stops_the_reading(run):
    """Back-pressure: above the bound the client reads nothing, and the server keeps the rest."""

    async def main():
        async with PlayedServer() as server, connected(server, queue=10) as (client, peer):
            await entered(client, peer)
            events = client.events()
            await take(events, 1)
            sent = 0
            while client._link.is_reading():
                sent += 1
                peer.send(msg(sent, "x" * 1000))
                await asyncio.sleep(0)
            for _ in range(50):  # far more than the bound, and the client's memory does not see it
                sent += 1
                peer.send(msg(sent, "x" * 1000))
            await peer.writer.drain()
            assert len(client._events) < 60
            assert [m.seq for m in await take(events, sent)] == list(range(1, sent + 1))

    run(main)


def test_answer_comes_though_the_events_are_above_their_bound(run):
    """A bot that answers inside of its loop must not wait for an answer that is behind what it does not take."""

    async def main():
        async with PlayedServer() as server, connected(server, queue=3) as (client, peer):
            await entered(client, peer)
            events = client.events()
            await take(events, 1)
            peer.send(*(msg(seq) for seq in range(1, 11)))
            while client._link.is_reading():
                await asyncio.sleep(0)
            saying = asyncio.ensure_future(client.say("lobby", "x"))
            said = await peer.expect(wire.Say)
            peer.send(*(msg(seq) for seq in range(11, 15)), wire.Ok(ref=said.ref, seq=15, epoch="e1", ts=1))
            assert await saying == 15
            assert [m.seq for m in await take(events, 15)] == list(range(1, 16))

    run(main)


def test_program_that_only_speaks_keeps_the_newest_events(run):
    """A notifier never iterates; what it does not want must not stop its pings, nor grow."""

    async def main():
        async with PlayedServer() as server, connected(server, queue=5) as (client, peer):
            await entered(client, peer)
            peer.send(*(msg(seq) for seq in range(1, 21)))
            saying = asyncio.ensure_future(client.say("lobby", "x"))
            await peer.confirm(21)
            await saying
            assert [m.seq for m in await take(client.events(), 5)] == [17, 18, 19, 20, 21]

    run(main)


def test_program_that_asks_more_than_it_takes_loses_its_connection_and_misses_nothing(run):
    """The last bound: ten times the queue.  It reads no more, catches up, and asks for the rest from where it was."""

    async def main():
        async with PlayedServer() as server, connected(server, queue=3) as (client, peer):
            await entered(client, peer)
            events = client.events()
            await take(events, 1)
            saying = asyncio.ensure_future(client.say("lobby", "x"))
            said = await peer.expect(wire.Say)
            peer.send(*(msg(seq) for seq in range(1, 41)))
            await peer.ended()
            assert not saying.done()
            assert [m.seq for m in await take(events, 28)] == list(range(1, 29))
            again, _ = await back(server)
            join = await again.expect(wire.Join)
            missed = [msg(seq) for seq in range(join.since.seq + 1, 41)]
            again.send(
                wire.Joined(
                    ref=join.ref,
                    room="lobby",
                    epoch="e1",
                    top=40,
                    you=wire.You(role="member"),
                    n=1,
                    members=["amy"],
                    recovered=True,
                    history=missed,
                )
            )
            assert (await again.confirm(41)).cid == said.cid
            found = [m for m in await take(events, 14) if isinstance(m, Message)]
            assert [m.seq for m in found] == list(range(29, 42))
            assert await saying == 41
            await again.reset()

    run(main)


# --- requests -----------------------------------------------------------------------------------------------------


def test_rename_changes_the_nick_of_the_next_hello(run):
    """The name that a person has chosen last is the one to come back with."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            events = client.events()
            renaming = asyncio.ensure_future(client.rename("Bea"))
            request = await peer.expect(wire.Nick)
            peer.send(wire.Ok(ref=request.ref, nick="Bea"))
            assert await renaming == "Bea" == client.nick
            assert await take(events, 1) == [Renamed("Bea")]
            await peer.reset()
            again, hello = await back(server, nick="Bea")
            assert hello.nick == "Bea"
            await again.reset()

    run(main)


def test_kicked_from_a_room_is_told_and_not_entered_again(run):
    """The client of a kicked person must not act for them."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer)
            events = client.events()
            await take(events, 1)
            peer.send(msg(1, "enough", kind="mod", op="kick", who="Amy"))
            _, left = await take(events, 2)
            assert left == Left("lobby", "kicked", "enough")
            await peer.reset()
            again, _ = await back(server)
            await again.reset()
            assert client.followed == []

    run(main)


def test_request_without_a_connection_raises_disconnected_and_join_waits(run):
    """A list that cannot be had now is asked for again by whoever wants it; a room is a wish that stays."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            asking = asyncio.ensure_future(client.who("lobby"))
            await peer.expect(wire.Who)
            await peer.reset()
            with pytest.raises(Disconnected):
                await asking
            with pytest.raises(Disconnected):
                await client.rooms()
            joining = asyncio.ensure_future(client.join("later"))
            again, _ = await back(server)
            await again.joined("later")
            assert (await joining).room == "later"
            await again.reset()

    run(main)


def test_presence_is_told_and_remembered_for_completion(run):
    """Who is there is what Tab offers."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer, members=["amy", "bob"])
            events = client.events()
            await take(events, 1)
            peer.send(
                wire.Event(e="join", room="lobby", who="cy", n=3),
                wire.Event(e="nick", room="lobby", who="bob", text="Rob"),
                wire.Event(e="part", room="lobby", who="cy", n=2),
                msg(1, "hi", sender="dan"),
            )
            found = [await events.__anext__() for _ in range(4)]
            assert found[0] == Presence("lobby", "", "join", "cy", n=3)
            assert [type(event) for event in found] == [Presence, Presence, Presence, Message]
            assert list(client.followed[0].names) == ["amy", "Rob", "dan"]

    run(main)


def test_own_act_of_moderation_is_a_message_at_its_place(run):
    """The others are pushed it; its author gets the number in the answer, and would wait for it for ever."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer)
            events = client.events()
            await take(events, 1)
            acting = asyncio.ensure_future(client.moderate("lobby", "topic", text="new"))
            request = await peer.expect(wire.Mod)
            peer.send(wire.Ok(ref=request.ref, seq=1, epoch="e1", ts=1), msg(2, "after"))
            await acting
            first, second = await take(events, 2)
            assert (first.kind, first.op, first.body, first.own) == ("mod", "topic", "new", True)
            assert second.body == "after"
            assert client.followed[0].topic == "new"

    run(main)


@pytest.mark.parametrize("do", ["join", "rename", "tell", "who", "away"])
def test_name_that_the_wire_cannot_carry_is_refused_here(run, do):
    """The server says goodbye to a client that sends nonsense three times; this one does not send it."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            arguments = {"tell": ["x" * 65, "hi"], "away": ["x" * 513]}.get(do, ["x" * 161])
            with pytest.raises(ValueError, match="cannot be sent"):
                await getattr(client, do)(*arguments)
            assert client.unsent == 0 and client.followed == []
            asking = asyncio.ensure_future(client.rooms())
            await peer.expect(wire.Rooms)
            asking.cancel()

    run(main)


# --- cancelling and closing ---------------------------------------------------------------------------------------


def test_close_says_goodbye_and_gives_up_what_is_unsent(run):
    """After it nothing is under way: no task, no descriptor, no waiter."""

    async def main():
        before = asyncio.all_tasks()
        async with PlayedServer() as server:
            client = Client(server.address, "amy")
            connecting = asyncio.ensure_future(client.connect())
            peer = await server.accept()
            await peer.welcome()
            await connecting
            saying = asyncio.ensure_future(client.say("lobby", "x"))
            await peer.expect(wire.Say)
            closing = asyncio.ensure_future(client.close("bye"))
            assert (await peer.expect(wire.Quit)).why == "bye"
            peer.send(wire.Bye(code=wire.QUIT, text="再见"))
            await peer.ended()
            await closing
            with pytest.raises(Disconnected):
                await saying
            assert [type(event) async for event in client.events()][-1] is Status
            await client.close()
            assert asyncio.all_tasks() == before

    run(main)


def test_close_while_reconnecting_ends_at_once(run):
    """Nobody wants to wait for half a minute of back-off, and then for a server that is down."""

    async def main():
        before = asyncio.all_tasks()
        async with PlayedServer() as server:
            client = Client(server.address, "amy", backoff=Backoff(lambda: 1e9))
            connecting = asyncio.ensure_future(client.connect())
            peer = await server.accept()
            await peer.welcome()
            await connecting
            await peer.reset()
            events = client.events()
            while (await events.__anext__()).state != "reconnecting":
                pass
            await client.close()
            assert asyncio.all_tasks() == before

    run(main)


@pytest.mark.parametrize("told", [True, False], ids=["told-to-come-back", "unanswered"])
def test_close_while_connecting_ends_connect_at_once(run, told):
    """Neither the back-off nor the server's silence is waited for, and nobody connects any more."""

    async def main():
        async with PlayedServer() as server:
            waits = asyncio.Event()
            backoff = Backoff(lambda: waits.set() or 1e9)
            client = Client(server.address, "amy", timeout=None, backoff=backoff)
            connecting = asyncio.ensure_future(client.connect())
            peer = await server.accept()
            await peer.expect(wire.Hello)
            if told:
                peer.send(wire.Bye(code=wire.SHUTDOWN, text="stops", reconnect=True, after_ms=0))
                await waits.wait()
            await client.close()
            with pytest.raises(Disconnected, match="the client was closed"):
                await connecting
            await peer.ended()
            assert client.state == "closed"

    run(main)


def test_cancelled_connect_leaves_nothing(run):
    """Ctrl-C during the first attempt."""

    async def main():
        async with PlayedServer() as server:
            client = Client(server.address, "amy")
            connecting = asyncio.ensure_future(client.connect())
            peer = await server.accept()
            await peer.expect(wire.Hello)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            await peer.ended()

    run(main)


def test_cancelled_say_before_it_was_sent_is_not_said(run):
    """What a program has given up while offline must not turn up an hour later."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer)
            await peer.reset()
            while client.state == "connected":
                await asyncio.sleep(0)
            saying = asyncio.ensure_future(client.say("lobby", "x"))
            await asyncio.sleep(0)
            assert client.unsent == 1
            saying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await saying
            assert client.unsent == 0

    run(main)


def test_cancelled_iteration_loses_no_event(run):
    """wait_for() around the next message is how programs wait for a while."""

    async def main():
        async with PlayedServer() as server, connected(server) as (client, peer):
            await entered(client, peer)
            waiting = asyncio.ensure_future(client.__aiter__().__anext__())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            peer.send(msg(1, "kept"))
            assert (await client.__aiter__().__anext__()).body == "kept"

    run(main)


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"queue": 0}, {"outbox": 0}, {"encoding": "xml"}, {"address": "seqpacket:/s"}]
)
def test_argument_that_cannot_be_is_named(options):
    """Before anything is opened."""
    with pytest.raises(ValueError, match=r"> 0|encoding is one of|needs a stream"):
        Client(**{"address": 9000, **options})


# --- the example, TLS, UNIX sockets -------------------------------------------------------------------------------


@pytest.mark.slow
def test_example_bot_answers_a_greeting():
    """The 15 lines that people copy work as they stand, as a program of their own."""
    script = pathlib.Path(__file__).parents[2] / "examples" / "bot.py"

    async def main():
        async with PlayedServer() as server:
            command = [sys.executable, str(script), server.address, "大厅"]
            bot = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
            peer = await server.accept()
            assert (await peer.welcome()).nick == "bot"
            await peer.joined("大厅", top=7)
            peer.send(msg(8, "noise", room="大厅"), msg(9, "你好 all", room="大厅"))
            answer = await peer.confirm(10)
            assert (answer.room, answer.body, answer.re) == ("大厅", "你好, bob!", 9)
            peer.send(wire.Bye(code=3503, text="no bots"))
            assert b"Ended: no bots (3503)" in (await bot.communicate())[1]

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_client_speaks_tls_and_verifies_the_name(run):
    """The password of hello must not go to whoever listens there."""

    async def main():
        context = tls.server_context(SERVER)
        async with PlayedServer(ssl=context) as server:
            for name, fails in (("wrong.example", True), ("localhost", False)):
                options = {"ssl": tls.client_context(CA), "server_hostname": name}
                client = Client(server.address, "amy", **options)
                connecting = asyncio.ensure_future(client.connect())
                if fails:
                    with pytest.raises(ssl.SSLCertVerificationError):
                        await connecting
                    continue
                peer = await server.accept()
                await peer.welcome()
                await connecting
                closing = asyncio.ensure_future(client.close())
                await peer.expect(wire.Quit)
                peer.send(wire.Bye(code=wire.QUIT, text="bye"))
                await closing
                await peer.ended()

    run(main)


@pytest.mark.parametrize("place", ["path", "abstract"])
def test_client_reaches_a_unix_socket(run, tmp_path, place):
    """A bot on the server's machine needs no port."""
    path = f"{tmp_path}/s" if place == "path" else f"@evloop-{os.getpid()}-{tmp_path.name}"

    async def main():
        async with PlayedServer(path) as server, connected(server) as (client, _):
            assert client.state == "connected"

    run(main)
