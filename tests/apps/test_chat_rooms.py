"""Rooms of the chat: who is in them, what is said in them, its order, its repeats and its past; moderation."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import pytest
from chatpeers import QUICK, body_of, chat, chats

import evloop
from evloop.apps.chat import wire
from evloop.apps.chat.store import Loaded, MemoryStore, Repeat, RoomState, Unavailable
from evloop.apps.chat.users import Recent


def three(chat, **fields):
    """Return amy (an op), bob and cem in the room "r", with nothing left to hear."""
    clients = [chat.client(nick, "r", **fields) for nick in ("amy", "bob", "cem")]
    for client in clients:
        chat.world.settle()
        client.arrived().clear()
    return clients


# --- coming and going ---------------------------------------------------------------------------------------------


def test_join_tells_the_room_as_it_is_and_the_room_tells_of_the_new_one(chat):
    """One answer has all that a client shows: who is there, the topic, one's role, what was said."""
    amy = chat.client("amy")
    joined = amy.join("大厅")
    assert joined.pop("epoch")
    assert joined == {
        "t": "joined", "ref": amy.ref, "room": "大厅", "top": 0, "you": {"role": "op"}, "n": 1, "members": ["amy"],
        "recovered": False, "history": [],
    }  # fmt: skip
    bob = chat.client("bob")
    assert bob.join("大厅")["you"] == {"role": "member"}
    amy.hear("ev", e="join", room="大厅", who="bob")
    bob.quiet()


def test_join_again_is_answered_and_told_to_nobody(chat):
    """A client that is not sure asks again; it stays what it was, and hears everything once."""
    amy, bob, _ = three(chat)
    assert bob.join("r")["n"] == 3
    amy.quiet()
    amy.say("hi")
    bob.hear("msg")
    bob.quiet()


def test_part_is_told_with_its_reason_and_ends_the_membership(chat):
    """Who has left hears nothing more, and is in no list."""
    amy, bob, _ = three(chat)
    assert bob.ask("part", room="r", why="tea\ntime") == {"t": "ok", "ref": bob.ref}
    amy.hear("ev", e="part", room="r", who="bob", text="tea time")
    amy.say("hi")
    bob.quiet()
    assert (
        bob.refused("part", room="r") == bob.refused("who", room="r") == bob.refused("history", room="r") == "no_room"
    )
    assert bob.refused("say", room="r", body="b", cid="c") == bob.refused("typing", room="r", on=True) == "no_room"


@pytest.mark.parametrize("name", ["@amy", "@g-1/g-2", " r", "a\nb", "明" * 22])
def test_room_with_a_name_that_cannot_be_one_is_refused(chat, name):
    """Names are shown in lists of other people."""
    assert chat.client("amy").refused("join", room=name) in ("room_bad", "no_room")


def test_room_name_means_the_same_however_it_is_composed(chat):
    """Two keyboards write é in two ways; `joined` has the one form that holds."""
    amy, bob = chat.client("amy", "caf\u00e9"), chat.client("bob")
    assert bob.join("cafe\u0301")["room"] == "caf\u00e9"
    amy.hear("ev", e="join")
    bob.say("hi", room="cafe\u0301")
    amy.hear("msg", room="caf\u00e9", body="hi")


def test_session_may_be_in_so_many_rooms_and_no_more(chats):
    """Each costs a place in an array; leaving one makes room for another."""
    chat = chats(limits={"session_rooms": 2})
    amy = chat.client("amy", "a", "b")
    assert amy.refused("join", room="c") == "room_full"
    amy.join("b")
    amy.ask("part", room="a")
    amy.join("c")


def test_room_has_so_many_members_and_no_more(chats):
    """A second session of a member is no other member."""
    chat = chats(limits={"room_members": 2})
    amy, _ = chat.client("amy", "r"), chat.client("bob", "r")
    assert chat.client("cem").refused("join", room="r") == "room_full"
    second = chat.client()
    second.hello(resume={"sid": "x", "key": amy.resume["key"]})
    assert second.join("r")["n"] == 2


def test_large_room_tells_a_count_now_and_then_instead_of_each_one(chats):
    """n people who come are n events to n others; above the bound one number each 5 s has to do."""
    chat = chats(limits={"quiet_members": 2})
    amy, bob = chat.client("amy", "r"), chat.client("bob", "r")
    amy.hear("ev", e="join")
    cem = chat.client("cem", "r")
    amy.tell("typing", room="r", on=True)
    cem.ask("nick", nick="eve")
    for client in (amy, bob):
        client.quiet()
    chat.advance(5)
    for client in (amy, bob, cem):
        client.hear("ev", e="count", room="r", n=3)
    chat.advance(5, awake=(amy, bob, cem))
    amy.quiet()
    assert cem.join("r")["members"] == ["amy", "bob"]
    cem.tell("quit").hear("bye")
    amy.hear("ev", e="part", who="eve")


def test_who_pages_through_the_members_by_name(chat):
    """The names are in the order in which they are compared, whatever their letters."""
    amy = chat.client("Amy", "r")
    for nick in ("bob", "Cem", "明"):
        chat.client(nick, "r")
    page = amy.ask("who", room="r", limit=2)
    assert page["n"] == 4 and page["more"] is True
    assert page["list"] == [{"nick": "Amy", "role": "op"}, {"nick": "bob"}]
    rest = amy.ask("who", room="r", after="BOB")
    assert [member["nick"] for member in rest["list"]] == ["Cem", "明"] and "more" not in rest
    assert amy.ask("who", room="r", limit=0)["list"] == []


def test_list_of_members_stays_right_through_coming_going_and_renaming(chat):
    """It is kept in order, and not sorted anew for each one who joins."""
    clients = {nick: chat.client(nick, "r") for nick in ("mia", "Zoe", "amy", "明", "bob")}

    def listed():
        return [member["nick"] for member in clients["amy"].ask("who", room="r")["list"]]

    assert listed() == ["amy", "bob", "mia", "Zoe", "明"]
    clients["bob"].ask("part", room="r")
    clients["mia"].ask("nick", nick="zz")
    assert listed() == ["amy", "Zoe", "zz", "明"]
    clients["mia"].ask("part", room="r")
    clients["bob"].join("r")
    assert listed() == ["amy", "bob", "Zoe", "明"]


def test_rooms_lists_those_that_somebody_is_in(chat):
    """By name, from a prefix, page by page; conversations are nobody else's business."""
    amy, bob = chat.client("amy", "b2", "a", "b1"), chat.client("bob", "b1", "gone")
    bob.ask("part", room="gone")
    bob.say("psst", room=None, to="amy")
    amy.ask("mod", room="b1", op="topic", text="tea")
    assert [room["room"] for room in amy.ask("rooms")["list"]] == ["a", "b1", "b2"]
    page = amy.ask("rooms", prefix="b", limit=1)
    assert page["list"] == [{"room": "b1", "n": 2, "topic": "tea"}] and page["more"] is True
    assert amy.ask("rooms", prefix="b", after="b1")["list"] == [{"room": "b2", "n": 1}]


# --- saying -------------------------------------------------------------------------------------------------------


def test_ok_and_msg_have_the_same_place_and_the_sender_hears_no_echo(chat):
    """All members have one order; `ok` stands in it where the others have `msg`."""
    amy, bob, cem = three(chat)
    for n in range(3):
        amy.tell("say", room="r", body=f"a{n}", cid=f"a{n}", ref=n)
        bob.tell("say", room="r", body=f"b{n}", cid=f"b{n}", ref=n)
    chat.world.settle()
    orders = [[message["seq"] for message in client.arrived()] for client in (amy, bob, cem)]
    assert orders == [[1, 2, 3, 4, 5, 6]] * 3
    assert [message["t"] for message in cem.messages] == ["msg"] * 6
    assert sorted(message["t"] for message in amy.messages) == ["msg"] * 3 + ["ok"] * 3


def test_order_holds_for_what_comes_in_one_read(chat):
    """Messages of one read are shown together, and still before and after what else was in it."""
    amy, bob, cem = three(chat)
    for client in (amy, bob):
        client.join("q")
    amy.arrived().clear()
    parts = [
        *({"t": "say", "room": "r", "body": body, "cid": body, "ref": 1} for body in ("1", "2")),
        {"t": "say", "room": "q", "body": "3", "cid": "3", "ref": 1},
        {"t": "typing", "room": "r", "on": True},
        *({"t": "say", "room": "r", "body": body, "cid": body, "ref": 1} for body in ("4", "5")),
        {"t": "say", "to": "bob", "body": "6", "cid": "6", "ref": 1},
        {"t": "mod", "room": "r", "op": "kick", "who": "cem", "ref": 1},
        {"t": "say", "room": "r", "body": "7", "cid": "7", "ref": 1},
        {"t": "quit", "ref": 1},
        {"t": "say", "room": "r", "body": "8", "cid": "8", "ref": 1},
    ]
    amy.peer.write(b"".join(evloop.Framing.U32.encode(amy.codec.encode(part)) for part in parts))
    answers = amy.ended()
    assert [message["t"] for message in answers] == ["ok"] * 8 + ["bye"]
    assert [message["seq"] for message in answers[:-1]] == [1, 2, 1, 3, 4, 1, 5, 6]
    chat.world.settle()

    def heard(client, room):
        return [
            message.get("body") or message.get("op") or message["e"]
            for message in client.arrived()
            if message.get("room") == room
        ]

    assert heard(bob, "r") == ["1", "2", "typing", "4", "5", "kick", "7", "part"]
    assert heard(bob, "q")[:1] == ["3"]
    assert heard(cem, "r") == ["1", "2", "typing", "4", "5", "kick"]
    assert sum(message.get("body") == "6" for message in bob.messages) == 1


def test_say_without_a_ref_is_said_and_not_answered(chat):
    """The simplest client of all only sends."""
    amy, bob, _ = three(chat)
    amy.tell("say", room="r", body="hi", cid="1")
    bob.hear("msg", body="hi")
    amy.quiet()


def test_msg_has_all_that_was_said_and_nothing_more(chat):
    """Every byte of it is sent to every member."""
    amy, bob, _ = three(chat)
    ok = amy.say("*waves*", kind="action", re=1)
    msg = bob.hear("msg")
    assert msg == {
        "t": "msg", "seq": 1, "ts": ok["ts"], "from": "amy", "body": "*waves*", "room": "r", "kind": "action",
        "cid": "*waves*", "re": 1,
    }  # fmt: skip
    amy.say("see", kind="file", file={"name": "a.txt", "size": 3, "ticket": "t"})
    assert bob.hear("msg")["file"] == {"name": "a.txt", "size": 3, "ticket": "t"}


@pytest.mark.parametrize("body", ["x" * 8192, "明" * 2730 + "ab", "\x01" * 8192])
def test_body_of_8192_bytes_is_said_and_one_more_refused(chat, body):
    """Bytes of UTF-8, whatever the script, and however JSON has to write them."""
    amy, bob, _ = three(chat)
    amy.say(body, cid="c")
    assert bob.hear("msg")["body"] == body
    assert amy.refused("say", room="r", body=body + "x", cid="d") == "too_big"


@pytest.mark.parametrize("fields", [{}, {"room": "r", "to": "bob"}])
@pytest.mark.parametrize("kind", [("say", {"body": "b", "cid": "c"}), ("typing", {"on": True}), ("history", {})])
def test_place_has_to_be_a_room_or_somebody_and_not_both(chat, kind, fields):
    """Where it would go nobody could say."""
    amy, _, _ = three(chat)
    assert amy.refused(kind[0], **kind[1], **fields) == "bad_message"


def test_repeated_cid_gets_the_first_ok_and_is_said_once(chat):
    """A client whose answer was lost asks again; another body under the same name is its bug, and it is told."""
    amy, bob, _ = three(chat)
    first = amy.say("hi", cid="c-1")
    bob.hear("msg")
    again = amy.say("hi", cid="c-1")
    assert again == {**first, "ref": amy.ref, "dup": True}
    assert amy.refused("say", room="r", body="ho", cid="c-1") == "cid_conflict"
    assert amy.refused("say", room="r", body="hi", cid="c-1", kind="action") == "cid_conflict"
    bob.quiet()
    assert bob.say("hi", cid="c-1")["seq"] == 2, "names are each user's own"
    amy.join("q")
    assert amy.say("hi", room="q", cid="c-1")["seq"] == 1, "and each room's"


def test_cid_with_body_and_kind_exchanged_is_a_conflict(chat):
    """A body may be any word, a kind's name as well: the two are not told apart by what they are together."""
    amy = chat.client("amy", "r")
    amy.say("text", cid="c", kind="action")
    assert amy.refused("say", room="r", body="action", cid="c") == "cid_conflict"
    assert amy.say("text", cid="c", kind="action")["dup"] is True


def test_repeat_is_known_after_the_session_and_the_grace_are_over(chat):
    """The outbox of a client that was away for minutes: the key is who it is."""
    amy, bob, _ = three(chat)
    first = amy.say("hi", cid="c-1")
    chat.lose(amy)
    chat.advance(100, awake=[bob])
    again = chat.back(amy)
    assert again.welcome["resumed"] is False
    again.join("r")
    assert again.say("hi", cid="c-1")["dup"] is True
    assert again.say("hi", cid="c-1")["seq"] == first["seq"]


def test_recent_sends_are_remembered_to_their_number_and_bounded():
    """At least so many, at most twice: two generations instead of a queue."""
    recent = Recent(4)
    for n in range(20):
        recent.add(("r", str(n)), (n, 0, "e", 0))
        assert all(recent.get(("r", str(k))) for k in range(max(n - 3, 0), n + 1))
        assert len(recent) <= 8
    recent.discard(("r", "19"))
    assert recent.get(("r", "19")) is None and recent.get(("r", "0")) is None


# --- direct conversations -----------------------------------------------------------------------------------------


def test_direct_message_reaches_both_and_nobody_else(chat):
    """A room of two with a key of its own; whoever answers may use the nick or the key."""
    amy, bob, cem = three(chat)
    ok = amy.say("psst", room=None, to="BOB")
    msg = bob.hear("msg", body="psst", dm=ok["dm"], to="bob", user=amy.welcome["user"], seq=1)
    assert "room" not in msg
    bob.say("yes?", room=ok["dm"])
    amy.hear("msg", body="yes?", dm=ok["dm"], to="amy", seq=2, user=bob.welcome["user"])
    cem.quiet()
    page = bob.ask("history", to="amy")
    assert page["dm"] == ok["dm"] and body_of(page["items"]) == ["psst", "yes?"]
    assert cem.refused("history", room=ok["dm"]) == cem.refused("join", room=ok["dm"]) == "no_room"
    assert cem.refused("say", room=ok["dm"], body="b", cid="c") == "no_room"
    assert amy.refused("say", to="nobody", body="b", cid="c") == "no_nick"


def test_direct_messages_that_were_missed_are_announced_and_joined(chat):
    """`welcome` has them, since nobody could know of a conversation that began meanwhile."""
    amy, bob, _ = three(chat)
    chat.lose(bob)
    ok = amy.say("psst", room=None, to="bob")
    again = chat.back(bob)
    assert again.welcome["dms"] == [{"dm": ok["dm"], "who": "amy", "epoch": ok["epoch"], "top": 1}]
    joined = again.join(ok["dm"], since={"epoch": ok["epoch"], "seq": 0})
    assert joined["recovered"] is True and body_of(joined["history"]) == ["psst"]
    amy.say("hello?", room=None, to="bob")
    again.hear("msg", body="hello?", seq=2)


def test_direct_message_to_oneself_is_a_note(chat):
    """The other sessions get it, as everything that one says."""
    amy = chat.client("amy")
    second = chat.client()
    second.hello(resume={"sid": "x", "key": amy.resume["key"]})
    amy.say("note", room=None, to="amy")
    second.hear("msg", body="note")
    amy.quiet()


def test_conversation_of_a_guest_is_not_that_of_the_next_one_of_the_name(chat):
    """A nick is given on; what was said to its last owner is not."""
    amy, bob, _ = three(chat)
    secret = amy.say("secret", room=None, to="bob")
    bob.hear("msg")
    bob.tell("quit").hear("bye")
    impostor = chat.client("bob")
    assert "dms" not in impostor.welcome
    assert impostor.ask("history", to="amy")["items"] == []
    assert impostor.refused("history", room=secret["dm"]) == "no_room"


def test_typing_is_passed_on_at_most_each_two_seconds(chat):
    """It may be lost, and is told to no sender and to no history."""
    amy, bob, cem = three(chat)
    for _ in range(3):
        amy.tell("typing", room="r", on=True)
    for client in (bob, cem):
        event = client.hear("ev", e="typing", room="r", who="amy")
        assert "on" not in event
        client.quiet()
    amy.tell("typing", room="r", on=False)
    assert bob.hear("ev", e="typing")["on"] is False
    amy.tell("typing", to="bob", on=True)
    assert bob.hear("ev", e="typing", who="amy")["dm"].startswith("@")
    chat.world.advance(2.5)
    amy.tell("typing", room="r", on=True)
    bob.hear("ev", e="typing", room="r")
    amy.quiet()


# --- the past -----------------------------------------------------------------------------------------------------


def talk(amy, count, **fields):
    """Let amy say "1" to "count"."""
    for n in range(1, count + 1):
        ok = amy.say(str(n), cid=f"c{n}", **fields)
    return {"epoch": ok["epoch"], "seq": ok["seq"]}


def seqs(messages):
    """Return the seqs of messages."""
    return [message["seq"] for message in messages]


def test_join_shows_the_last_messages_and_whether_there_are_more(chat):
    """As many as were asked for, the newest."""
    amy = chat.client("amy", "r")
    talk(amy, 5)
    bob = chat.client("bob")
    joined = bob.join("r", limit=3)
    assert seqs(joined["history"]) == [3, 4, 5] and joined["top"] == 5 and joined["more"] is True
    assert "more" not in bob.join("r", limit=5)
    assert bob.join("r", limit=0)["history"] == []


@pytest.mark.parametrize("missed", [0, 1, 4, 5])
def test_join_with_since_brings_all_that_was_missed(chat, missed):
    """Recovered even if that is nothing; the position may be the very first."""
    amy = chat.client("amy", "r")
    last = talk(amy, 5)
    joined = chat.client("bob").join("r", since={**last, "seq": 5 - missed})
    assert joined["recovered"] is True
    assert seqs(joined["history"]) == list(range(6 - missed, 6))


def test_join_with_since_recovers_all_or_says_that_it_does_not(chats):
    """Never a part: a hole that nobody sees is the worst of all answers."""
    chat = chats(limits={"room_messages": 5, "recover_bytes": 300})
    amy, bob = chat.client("amy", "r"), chat.client("bob")
    last = talk(amy, 8)
    assert bob.join("r", since={**last, "seq": 6})["recovered"] is True
    cases = [{**last, "seq": 2}, {**last, "seq": 9}, {"epoch": "other", "seq": 7}]
    for since in cases:
        joined = bob.join("r", since=since, limit=2)
        assert joined["recovered"] is False and seqs(joined["history"]) == [7, 8]
    amy.say("x" * 300)
    joined = bob.join("r", since={**last, "seq": 8}, limit=2)
    assert joined["recovered"] is False and joined["history"] == [], "it is larger than one answer may be"


def test_history_pages_before_after_and_around(chat):
    """Scrolling up, filling a gap, jumping to a quotation."""
    amy = chat.client("amy", "r")
    talk(amy, 9)

    def page(**fields):
        answer = amy.ask("history", room="r", **fields)
        assert answer["t"] == "history" and answer["room"] == "r" and answer["epoch"]
        return seqs(answer["items"]), answer.get("more_before", False), answer.get("more_after", False)

    assert page(limit=3) == ([7, 8, 9], True, False)
    assert page(before=7, limit=3) == ([4, 5, 6], True, True)
    assert page(before=4, limit=3) == ([1, 2, 3], False, True)
    assert page(before=1) == ([], False, True)
    assert page(after=7) == ([8, 9], True, False)
    assert page(after=0, limit=2) == ([1, 2], False, True)
    assert page(after=9) == ([], True, False)
    assert page(around=5, limit=3) == ([4, 5, 6], True, True)
    assert page(around=1, limit=3) == ([1, 2, 3], False, True)
    assert page(before=100, limit=1) == ([9], True, False)
    assert amy.refused("history", room="r", after=10) == "gone"
    assert amy.refused("history", room="r", after=1, before=5) == "bad_message"


def test_history_beyond_what_is_kept_is_gone(chats):
    """A page never has a hole where it was asked to begin or to end."""
    chat = chats(limits={"room_messages": 4})
    amy = chat.client("amy", "r")
    talk(amy, 10)
    answer = amy.ask("history", room="r", before=9)
    assert seqs(answer["items"]) == [7, 8] and "more_before" not in answer
    assert seqs(amy.ask("history", room="r", after=6)["items"]) == [7, 8, 9, 10]
    for fields in ({"after": 5}, {"before": 7}, {"around": 6}):
        answer = amy.ask("history", room="r", **fields)
        assert answer["code"] == "gone" and "7 to 10" in answer["text"], fields


def test_history_page_is_bounded_in_bytes_and_has_no_hole(chats):
    """200 bodies of 8 KiB are more than a frame; what fits is consecutive."""
    chat = chats(limits={"page_bytes": 1000})
    amy = chat.client("amy", "r")
    for n in range(6):
        amy.say("x" * 300, cid=str(n))
    assert seqs(amy.ask("history", room="r")["items"]) == [5, 6]
    assert seqs(amy.ask("history", room="r", after=0)["items"]) == [1, 2]


def test_ring_keeps_its_bound_in_bytes(chats):
    """Long messages push out more than short ones."""
    chat = chats(limits={"room_bytes": 3000, "total_bytes": 100_000})
    amy = chat.client("amy", "r")
    for n in range(9):
        amy.say("x" * 900, cid=str(n))
    assert seqs(amy.ask("history", room="r")["items"]) == [8, 9]
    assert 0 < chat.hub.stats()["kept_bytes"] <= 3000


def test_total_of_all_rooms_is_bounded_and_empty_rooms_go_first(chats):
    """Then the one that grows loses its own oldest; nobody's room takes another's."""
    chat = chats(limits={"room_bytes": 10_000, "total_bytes": 12_000})
    amy = chat.client("amy", "a", "b", "c")
    for room in "abc":
        for n in range(3):
            amy.say("x" * 700, room=room, cid=str(n))
        if room == "a":
            amy.ask("part", room="a")
    for n in range(10):
        amy.say("y" * 700, room="c", cid=f"y{n}")
    assert chat.hub.stats()["kept_bytes"] <= 12_000 and set(chat.hub.rooms) == {"b", "c"}
    assert seqs(amy.ask("history", room="b")["items"]) == [1, 2, 3]
    page = seqs(amy.ask("history", room="c")["items"])
    assert page == list(range(page[0], 14)) and page[0] > 1


def test_room_that_was_let_go_of_has_another_epoch(chats):
    """Its numbers begin again, and nobody may take them for the old ones."""
    chat = chats(limits={"rooms": 2})
    amy = chat.client("amy", "a")
    last = talk(amy, 3, room="a")
    amy.ask("part", room="a")
    amy.join("b")
    assert seqs(amy.join("a", since=last)["history"]) == [], "recovered: there is room for both"
    amy.ask("part", room="a")
    amy.join("c")
    assert amy.refused("join", room="d") == "unavailable"
    amy.ask("part", room="c")
    joined = amy.join("a", since=last)
    assert joined["recovered"] is False and joined["epoch"] != last["epoch"] and joined["top"] == 0


# --- moderation ---------------------------------------------------------------------------------------------------


def test_first_member_is_op_and_others_may_not_moderate(chat):
    """Somebody has to be able to; the next first one, too, when all have left."""
    amy, bob, _ = three(chat)
    assert bob.refused("mod", room="r", op="topic", text="x") == "forbidden"
    assert bob.refused("mod", room="q", op="topic", text="x") == "no_room"
    assert amy.refused("mod", room="r", op="kick") == "bad_message"
    assert amy.refused("mod", room="r", op="kick", who="nobody") == "no_nick"
    amy.join("q")
    amy.ask("part", room="q")
    assert bob.join("q")["you"]["role"] == "op"


def test_mod_is_a_message_with_its_place(chat):
    """Everybody sees what was done and by whom, and so does who comes later."""
    amy, bob, _ = three(chat)
    ok = amy.ask("mod", room="r", op="topic", text="tea\nat five")
    assert ok["t"] == "ok" and ok["seq"] == 1
    msg = bob.hear("msg", kind="mod", op="topic", body="tea at five", seq=1, **{"from": "amy"})
    joined = chat.client("dan").join("r")
    assert joined["topic"] == "tea at five" and joined["history"] == [msg]
    assert amy.refused("mod", room="r", op="topic", text="明" * 171) == "too_big"
    assert amy.ask("mod", room="r", op="topic", text="明" * 170)["t"] == "ok"


def test_kick_takes_out_and_lets_come_back(chat):
    """With a reason that all see, the one who goes as well."""
    amy, bob, cem = three(chat)
    amy.ask("mod", room="r", op="kick", who="BOB", text="calm down")
    for client in (bob, cem):
        client.hear("msg", kind="mod", op="kick", who="BOB", body="calm down")
    assert bob.refused("say", room="r", body="b", cid="c") == "no_room"
    amy.say("now then")
    bob.quiet()
    cem.hear("msg")
    cem.quiet()
    assert bob.join("r")["n"] == 3


def test_kicked_while_away_is_not_in_the_room_when_coming_back(chat):
    """A lost connection is no shelter."""
    amy, bob, _ = three(chat)
    chat.lose(bob)
    amy.ask("mod", room="r", op="kick", who="bob")
    assert "rooms" not in chat.back(bob).welcome


def test_ban_holds_against_another_nick_and_another_key_until_its_time(chat):
    """By name and by user: a guest has to change both, and then is somebody else."""
    amy, bob, _ = three(chat)
    amy.ask("mod", room="r", op="ban", who="bob", secs=3600)
    bob.hear("msg", kind="mod", op="ban", secs=3600)
    assert bob.refused("join", room="r") == "banned"
    bob.ask("nick", nick="bobby")
    assert bob.refused("join", room="r") == "banned"
    assert chat.client("BOB").refused("join", room="r") == "banned"
    amy.ask("mod", room="r", op="unban", who="bob")
    assert bob.join("r")["n"] == 3
    assert amy.refused("mod", room="r", op="unban", who="bob") == "already"
    amy.ask("mod", room="r", op="ban", who="nobody-yet")
    assert chat.client("nobody-yet").refused("join", room="r") == "banned"


def test_ban_ends_by_itself(chat):
    """secs is wall-clock time, since it has to hold over a restart."""
    amy, bob, _ = three(chat)
    amy.ask("mod", room="r", op="ban", who="bob", secs=1)
    sanction = chat.hub.rooms["r"].state.bans["bob"]
    sanction.until -= 1001
    assert bob.join("r")["t"] == "joined"


def test_mute_refuses_to_speak_and_unmute_lets(chat):
    """The muted hear everything, and are told in `joined`."""
    amy, bob, cem = three(chat)
    amy.ask("mod", room="r", op="mute", who="bob")
    bob.hear("msg", op="mute")
    assert bob.refused("say", room="r", body="b", cid="c") == "muted"
    bob.tell("typing", room="r", on=True)
    cem.hear("msg", op="mute")
    cem.quiet()
    assert bob.join("r")["you"] == {"role": "member", "muted": True}
    amy.ask("mod", room="r", op="unmute", who="bob")
    assert bob.say("b", cid="c")["seq"] == 3


def test_op_and_deop_give_and_take_the_right(chat):
    """What is so already is said to be."""
    amy, bob, _ = three(chat)
    amy.ask("mod", room="r", op="op", who="bob")
    assert amy.refused("mod", room="r", op="op", who="bob") == "already"
    assert bob.ask("mod", room="r", op="deop", who="amy")["t"] == "ok"
    assert amy.refused("mod", room="r", op="op", who="amy") == "forbidden"
    assert bob.refused("mod", room="r", op="deop", who="amy") == "already"


def test_locked_room_lets_nobody_in_but_ops_and_who_comes_back(chat):
    """Those who are in stay in."""
    amy, bob, _ = three(chat)
    amy.ask("mod", room="r", op="lock")
    assert amy.refused("mod", room="r", op="lock") == "already"
    assert chat.client("dan").refused("join", room="r") == "forbidden"
    assert bob.join("r")["locked"] is True
    amy.ask("part", room="r")
    assert amy.join("r")["you"]["role"] == "op"
    amy.ask("mod", room="r", op="unlock")
    assert chat.client("eve").join("r")["n"] == 4


def test_sanctions_and_ops_are_bounded(chats):
    """One more replaces the oldest."""
    chat = chats(limits={"sanctions": 2, "ops": 2})
    amy = chat.client("amy", "r")
    for nick in ("a", "b", "c"):
        amy.ask("mod", room="r", op="ban", who=nick)
    assert list(chat.hub.rooms["r"].state.bans) == ["b", "c"]
    for nick in ("x", "y"):
        chat.client(nick, "r")
        assert amy.ask("mod", room="r", op="op", who=nick)["t"] == "ok"
    assert len(chat.hub.rooms["r"].state.ops) == 2


# --- the store's seam ---------------------------------------------------------------------------------------------


class SlowStore(MemoryStore):
    """A store that keeps when the test says so, as one with a disk does; `kept` is what it would find again."""

    durability = "commit"

    def __init__(self):
        self.waiting, self.kept, self.loads, self.full = [], {}, [], False

    def start(self, reactor, committed, failed, repeated):
        self.committed, self.failed, self.repeated = committed, failed, repeated

    def load(self, name, done):
        self.loads.append((name, done))

    def loaded(self):
        """Answer all that is asked for."""
        for name, done in self.loads:
            kept = self.kept.get(name, [])
            tail = [msg for msg, _, _ in kept][-3:]
            states = [state for _, _, state in kept if state is not None]
            repeats = [Repeat(user, msg.cid, msg) for msg, user, _ in kept if msg.cid]
            done(Loaded("e", tail, len(kept), states[-1] if states else None, repeats))
        self.loads = []

    def append(self, entry):
        if self.full:
            raise Unavailable("the disk is full")
        self.waiting.append(entry)
        return False

    def commit(self, count=None):
        """Keep the first *count* of those that wait."""
        batch, self.waiting = self.waiting[:count], self.waiting[count or len(self.waiting) :]
        for entry in batch:
            self.kept.setdefault(entry.room.name, []).append((entry.msg, entry.user, entry.state))
        self.committed(batch)

    def read(self, name, epoch, after, before, limit, newest, done):
        found = [msg for msg, _, _ in self.kept[name] if after < msg.seq < before]
        done(found[-limit:] if newest else found[:limit])

    def close(self, done):
        self.commit()
        done()


@pytest.fixture
def stored(chats):
    """A chat over a SlowStore, and amy and bob in "r"."""
    store = SlowStore()
    chat = chats(store=store)
    clients = [chat.client(nick) for nick in ("amy", "bob")]
    for client in clients:
        client.tell("join", room="r")
        chat.world.settle()
    store.loaded()
    chat.world.settle()
    for client in clients:
        client.arrived().clear()
    return chat, store, *clients


def test_nothing_is_shown_before_it_is_kept(stored):
    """`ok` means that a crash does not lose it; and the others must not see what may be lost."""
    chat, store, amy, bob = stored
    for n in range(3):
        amy.tell("say", room="r", body=str(n), cid=str(n), ref=n)
    bob.quiet()
    amy.quiet()
    assert chat.hub.stats()["pending"] == 3
    store.commit(2)
    chat.world.settle()
    assert [m["seq"] for m in amy.arrived()] == [m["seq"] for m in bob.arrived()] == [1, 2]
    dan = chat.client("dan")
    assert dan.join("r")["top"] == 2, "who joins now gets the third as a push"
    store.commit()
    dan.hear("msg", seq=3)


def test_repeat_of_what_is_not_kept_yet_waits_for_it(stored):
    """Its answer is a promise like the first one."""
    _, store, amy, _ = stored
    amy.tell("say", room="r", body="x", cid="c", ref=7)
    amy.tell("say", room="r", body="x", cid="c", ref=8)
    amy.quiet()
    store.commit()
    amy.hear("ok", ref=7, seq=1, dup=None)
    amy.hear("ok", ref=8, seq=1, dup=True)


def test_failed_store_is_told_and_may_be_asked_again(stored):
    """Nothing was shown, so the place is given to the next one; the cid is free again, too."""
    chat, store, amy, bob = stored
    amy.tell("say", room="r", body="x", cid="c", ref=7)
    chat.world.settle()
    batch, store.waiting = store.waiting, []
    store.failed(batch, "no space left")
    assert amy.hear("err", ref=7, code="unavailable")["temp"] is True
    for client in (amy, bob):
        client.hear("note", code="degraded", text="no space left")
    amy.tell("say", room="r", body="x", cid="c", ref=8)
    chat.world.settle()
    store.commit()
    amy.hear("ok", ref=8, seq=1, dup=None)
    amy.hear("note", code="restored")
    store.full = True
    assert "disk is full" in amy.ask("say", room="r", body="y", cid="d")["text"]
    assert amy.refused("mod", room="r", op="lock") == "unavailable"
    store.full = False


def test_acts_that_are_not_kept_are_taken_back(stored):
    """Who was told that a ban has failed must not find it in force; the acts before the failure stay."""
    chat, store, amy, bob = stored
    for op, who in (("op", "bob"), ("ban", "cem"), ("kick", "bob"), ("ban", "dan")):
        amy.tell("mod", room="r", op=op, who=who)
        chat.world.settle()
    cem, dan = chat.client("cem"), chat.client("dan")
    assert cem.refused("join", room="r") == "banned", "at once"
    store.commit(1)
    batch, store.waiting = store.waiting, []
    store.failed(batch, "no space left")
    assert cem.join("r")["you"]["role"] == dan.join("r")["you"]["role"] == "member"
    assert bob.join("r")["you"]["role"] == "op"


@pytest.mark.parametrize("kept", [True, False])
def test_who_joins_while_acts_wait_is_told_the_room_as_it_is_kept(stored, kept):
    """`joined` is the room at its `top`, and the acts come behind it as messages; nobody tells that one was undone."""
    chat, store, amy, bob = stored
    amy.tell("mod", room="r", op="topic", text="tea")
    chat.world.settle()
    store.commit()
    assert bob.hear("msg")["op"] == "topic"
    for op, fields in (("topic", {"text": "beer"}), ("op", {"who": "bob"}), ("mute", {"who": "bob"}), ("lock", {})):
        amy.tell("mod", room="r", op=op, **fields)
    chat.world.settle()
    assert chat.client("cem").refused("join", room="r") == "forbidden", "the lock is in force"
    joined = bob.join("r")
    assert (joined["top"], joined["topic"], joined.get("locked", False)) == (1, "tea", False)
    assert joined["you"] == {"role": "member"}
    assert [member.get("role") for member in bob.ask("who", room="r")["list"]] == ["op", None]
    assert bob.ask("rooms")["list"] == [{"room": "r", "n": 2, "topic": "tea"}]
    if kept:
        store.commit()
        assert [bob.hear("msg")["op"] for _ in range(4)] == ["topic", "op", "mute", "lock"]
    else:
        batch, store.waiting = store.waiting, []
        store.failed(batch, "no space left")
        bob.hear("note", code="degraded")
    joined = bob.join("r")
    expected = (5, "beer", True, {"role": "op", "muted": True}) if kept else (1, "tea", False, {"role": "member"})
    assert (joined["top"], joined["topic"], joined.get("locked", False), joined["you"]) == expected


def test_first_member_stays_op_when_an_older_act_is_not_kept(stored):
    """The room was empty while the act waited: to take it back must not take away the only op."""
    chat, store, amy, bob = stored
    amy.tell("mod", room="r", op="ban", who="dan")
    chat.world.settle()
    for client in (amy, bob):
        client.ask("part", room="r")
    cem = chat.client("cem", "r")
    batch, store.waiting = store.waiting, []
    store.failed(batch, "no space left")
    assert cem.join("r")["you"]["role"] == "op"
    assert chat.client("dan", "r").join("r")["you"]["role"] == "member"


@pytest.mark.parametrize("full", [False, True])
def test_requests_behind_a_repeat_wait_again_or_are_refused_and_taken_back(stored, full):
    """The store knows the first one, and those behind it get other places if it takes them: `pending` counts them."""
    chat, store, amy, _ = stored
    amy.tell("say", room="r", body="0", cid="0", ref=1)
    amy.tell("mod", room="r", op="lock", ref=2)
    amy.tell("say", room="r", body="1", cid="1", ref=3)
    chat.world.settle()
    (repeat, *_), store.waiting, store.full = store.waiting, [], full
    first = wire.Msg(seq=0, ts=5, sender="amy", body="0", room="r", cid="0")
    store.repeated(repeat, first)
    amy.hear("ok", ref=1, seq=0, dup=True)
    assert chat.hub.stats()["pending"] == (0 if full else 2)
    store.full = False
    store.commit()
    for ref, seq in ((2, 1), (3, 2)):
        if full:
            amy.hear("err", ref=ref, code="unavailable")
        else:
            amy.hear("ok", ref=ref, seq=seq)
    assert chat.hub.stats()["pending"] == 0
    assert chat.client("cem").tell("join", room="r", ref=1).hear()["t"] == ("joined" if full else "err")


def test_so_many_may_wait_for_the_store_and_no_more(chats):
    """A disk that hangs must not fill the memory; once it has caught up, all goes on."""
    store = SlowStore()
    chat = chats(store=store, limits={"pending": 2})
    amy = chat.client("amy").tell("join", room="r")
    chat.world.settle()
    store.loaded()
    amy.hear("joined")
    for n in range(2):
        amy.tell("say", room="r", body=str(n), cid=str(n))
    assert amy.refused("say", room="r", body="2", cid="2") == "unavailable"
    store.commit()
    amy.tell("say", room="r", body="2", cid="2", ref=9)
    chat.world.settle()
    store.commit()
    amy.hear("ok", ref=9, seq=3)
    assert chat.hub.stats()["pending"] == 0


def test_restart_knows_the_repeats_the_state_and_the_past(stored, chats):
    """Another server over what the first one kept: same order, same ops, nothing twice, older pages from the store."""
    chat, store, amy, _bob = stored
    for n in range(5):
        amy.tell("say", room="r", body=str(n), cid=str(n))
    amy.tell("mod", room="r", op="topic", text="tea")
    chat.world.settle()
    store.commit()
    chat.lose(amy)
    second = SlowStore()
    second.kept = store.kept
    other = chats(store=second)
    again = other.client()
    again.hello("amy", resume=amy.resume)
    again.tell("join", room="r", since={"epoch": "e", "seq": 4}, ref=50)
    other.world.settle()
    second.loaded()
    joined = again.hear("joined", ref=50, recovered=True, topic="tea", top=6)
    assert seqs(joined["history"]) == [5, 6] and joined["you"]["role"] == "op"
    assert again.say("3", cid="3")["dup"] is True
    page = again.ask("history", room="r", limit=5)
    assert seqs(page["items"]) == [2, 3, 4, 5, 6] and page["more_before"] is True
    assert seqs(again.ask("history", room="r", after=0, limit=2)["items"]) == [1, 2]


def test_shutdown_keeps_what_was_said_before_it_says_goodbye(chats):
    """An `ok` that is owed is sent before the `bye`."""
    store = SlowStore()
    chat = chats(store=store)
    amy = chat.client("amy").tell("join", room="r")
    chat.world.settle()
    store.loaded()
    amy.hear("joined")
    amy.tell("say", room="r", body="x", cid="c", ref=9)
    chat.world.settle()
    chat.server.shutdown()
    amy.hear("ok", ref=9)
    amy.hear("bye", code=3001)
    assert len(store.kept["r"]) == 1


def test_rooms_of_a_session_are_bounded_while_they_are_loaded(chats):
    """All were asked for before the first one was there."""
    store = SlowStore()
    chat = chats(store=store, limits={"session_rooms": 2})
    amy = chat.client("amy")
    for name in "abc":
        amy.tell("join", room=name, ref=1)
    for _ in "ab":
        chat.world.settle()
        store.loaded()
    assert [amy.hear()["t"] for _ in range(3)] == ["joined", "joined", "err"]


def test_failure_for_one_who_waits_for_a_room_is_not_the_others(chats, monkeypatch):
    """Both wait for the same room; the one's fault must not take the other's answer."""
    store = SlowStore()
    chat = chats(store=store)
    amy, bob = chat.client("amy"), chat.client("bob")
    for client in (amy, bob):
        client.tell("join", room="r", ref=1)
        chat.world.settle()
    faulty = next(iter(chat.hub.sessions.values()))
    monkeypatch.setattr(faulty, "rooms", None)
    store.loaded()
    bob.hear("joined", ref=1)
    monkeypatch.undo()
    amy.hear("err", ref=1, code="internal")


def test_failed_send_of_one_who_has_left_forgets_nothing_else(stored):
    """What they said before is known all the same when they come back and ask again."""
    chat, store, amy, _ = stored
    amy.tell("say", room="r", body="1", cid="1")
    chat.world.settle()
    store.commit()
    amy.tell("say", room="r", body="2", cid="2")
    chat.world.settle()
    chat.lose(amy)
    chat.advance(31)
    batch, store.waiting = store.waiting, []
    store.failed(batch, "no space left")
    again = chat.back(amy)
    again.join("r")
    assert again.say("1", cid="1")["dup"] is True


def test_room_that_cannot_be_loaded_is_unavailable(chats):
    """And whoever has left meanwhile is no trouble."""
    store = SlowStore()
    chat = chats(store=store)
    amy, bob = chat.client("amy"), chat.client("bob")
    amy.tell("join", room="r", ref=1)
    bob.tell("join", room="r", ref=1)
    chat.world.settle()
    assert len(store.loads) == 1, "asked for once"
    bob.peer.reset()  # which nobody sees before he is read again
    (_, done), store.loads = store.loads[0], []
    done(None)
    amy.hear("err", ref=1, code="unavailable")
    chat.until(lambda: len(chat.server.server.connections) == 1)
    assert chat.hub.rooms == {}
