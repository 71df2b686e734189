"""Random lives of chat clients: lost connections, lost answers, repeats, a small memory; one order for everybody.

Each client keeps the whole rule of docs/chat-protocol.md, and nothing more: show the next, drop what is known, ask for
what is missing; say again, with the same cid, what was not answered.
"""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import random

import pytest
from chatpeers import Chat, chats

from evloop.apps.chat import wire

STEPS = 60


class Member:
    """A client with its list of what it was shown, over any number of connections."""

    def __init__(self, chat, name, dice):
        self.chat = chat
        self.name = name
        self.dice = dice
        self.codec = dice.choice([wire.JSON, wire.MSGPACK])
        self.shown = []  # (seq, cid) of the room's messages
        self.last = 0
        self.epoch = None
        self.outbox = {}  # cid: body, of what was not answered
        self.said = 0
        self.client = chat.client(codec=self.codec)
        self.client.hello(name)
        self.enter()

    def enter(self):
        since = {} if self.epoch is None else {"since": {"epoch": self.epoch, "seq": self.last}}
        joined = self.client.join("r", limit=200, **since)
        if not joined["recovered"]:
            self.shown.clear()
            self.last = joined["history"][0]["seq"] - 1 if joined["history"] else joined["top"]
        self.epoch = joined["epoch"]
        for message in joined["history"]:
            self.show(message["seq"], message["cid"])
            self.outbox.pop(message["cid"], None)
        assert self.last == joined["top"]

    def show(self, seq, cid):
        if seq == self.last + 1:
            self.shown.append((seq, cid))
            self.last = seq
        else:
            assert seq <= self.last, "a live session has no holes"

    def say(self):
        self.said += 1
        cid = f"{self.name}{self.said}"
        self.outbox[cid] = "x" * self.dice.randrange(1, 400)
        self.send(cid)

    def send(self, cid):
        self.client.tell("say", room="r", body=self.outbox[cid], cid=cid, ref=1_000_000 + int(cid[1:]))

    def listen(self):
        for message in self.client.arrived():
            if message["t"] == "msg":
                self.show(message["seq"], message["cid"])
            elif message["t"] == "ok":
                cid = f"{self.name}{message['ref'] - 1_000_000}"
                self.outbox.pop(cid, None)
                self.show(message["seq"], cid)
        self.client.arrived().clear()

    def lose(self):
        """Lose the connection, with whatever is under way; be back some time later."""
        if self.dice.random() < 0.5:
            self.listen()
        self.chat.lose(self.client)

    def back(self):
        codec, resume = self.codec, self.client.resume
        self.client = self.chat.client(codec=codec)
        self.client.hello(self.name, resume=resume)
        self.enter()
        for cid in list(self.outbox):
            self.send(cid)


@pytest.mark.parametrize("seed", range(12))
def test_all_members_end_with_the_same_list_each_message_once(chats, seed):
    """The promise of the protocol: no hole, no repeat, one order, whatever happens to the connections."""
    dice = random.Random(seed)
    ring = dice.choice([5, 20, 1000])
    chat = chats(limits={"room_messages": ring, "join_burst": 1000})
    members = [Member(chat, name, dice) for name in "abcd"]
    away = []
    for _ in range(STEPS):
        member = dice.choice(members)
        what = dice.random()
        if member in away:
            if what < 0.4:
                away.remove(member)
                member.back()
        elif what < 0.6:
            member.say()
        elif what < 0.7 and member.outbox:
            member.send(dice.choice(list(member.outbox)))
        elif what < 0.85:
            member.lose()
            away.append(member)
        elif what < 0.9:
            chat.advance(dice.choice([1, 5]))
        else:
            member.listen()
    for member in away:
        member.back()
    for member in members:
        chat.world.settle()
        member.listen()
    chat.world.settle()
    kept = [(msg.seq, msg.cid) for msg in chat.hub.rooms["r"].ring.between(0, 10**9)]
    for member in members:
        member.listen()
        assert member.outbox == {}
        seqs = [seq for seq, _ in member.shown]
        assert seqs == list(range(member.last - len(seqs) + 1, member.last + 1))
        shared = min(len(kept), len(member.shown))
        assert shared == 0 or member.shown[-shared:] == kept[-shared:]
        assert len({cid for _, cid in member.shown}) == len(member.shown), "nothing is said twice"
    assert chat.hub.said == sum(member.said for member in members)
