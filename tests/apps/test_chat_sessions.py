"""Sessions of the chat: hello, nicks, versions, passwords, heartbeats, deadlines, resume, and every goodbye."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import dataclasses
import gc
import logging
import pathlib
import re
import weakref

import pytest
from chatpeers import QUICK, chat, chats

import evloop
from evloop.apps.chat import AuthFailed, wire
from evloop.apps.chat.limits import ChatLimits
from evloop.apps.chat.names import columns, conversation_key, conversation_users, fold, guest_id, nick_fault, room_fault
from evloop.apps.chat.sessions import Session
from evloop.apps.chat.store import MemoryStore

BOTH = pytest.mark.parametrize("codec", [wire.JSON, wire.MSGPACK], ids=repr)


@BOTH
def test_hello_is_welcomed_with_all_that_a_client_has_to_know(chat, codec):
    """The first exchange: limits and times are the server's to say, nobody has to guess them."""
    welcome = chat.client(codec=codec).hello("小明", lang="zh")
    assert welcome["nick"] == "小明" and welcome["motd"] == "服务端已就绪"
    assert welcome["v"] == 1 and welcome["resumed"] is False and welcome["durability"] == "memory"
    assert welcome["server"] == f"evloop/{evloop.__version__}" and welcome["ping_s"] == 25
    assert welcome["user"] == guest_id(welcome["resume_key"]) and len(welcome["resume_key"]) == 32
    assert welcome["limits"] == {
        "frame": 65536, "reply": 512 * 1024, "body": 8192, "nick": 32, "room": 64, "rooms": 20, "history": 1000,
        "rate": {"burst": 20, "per_s": 0},
    }  # fmt: skip


def test_encodings_meet_in_one_room(chat):
    """Each client hears in what it speaks; nobody knows what the others speak."""
    amy, bob = chat.client("amy", "r"), chat.client("bob", "r", codec=wire.MSGPACK)
    cem = chat.client("cem", "r", codec=wire.MSGPACK)
    ok = bob.say("你好")
    assert amy.hear("ev")["who"] == "bob" and amy.hear("ev")["who"] == "cem"
    assert bob.hear("ev")["who"] == "cem"
    for other in (amy, cem):
        other.hear("msg", body="你好", seq=ok["seq"], room="r", cid="你好", **{"from": "bob"})
    bob.quiet()


@pytest.mark.parametrize(("best", "least", "fits"), [(1, 1, True), (9, 1, True), (9, 2, False), (3, 3, False)])
def test_version_is_the_highest_common_one_or_none(chat, best, least, fits):
    """A client of the future may still speak with us; one that cannot is told what we speak."""
    client = chat.client()
    answer = client.ask("hello", v=best, min=least, client="t")
    if fits:
        assert (answer["t"], answer["v"]) == ("welcome", 1)
    else:
        client.messages.append(answer)
        bye = client.hear("bye", code=3501, server_min=1, server_max=1)
        assert "reconnect" not in bye
        assert client.ended() == []


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("say", {"room": "r", "body": "b", "cid": "c"}), ("join", {"room": "r"}), ("rooms", {}), ("nick", {"nick": "a"})],
)
def test_request_before_welcome_is_refused(chat, kind, fields):
    """Nothing but hello, ping and quit: a stranger costs as little as possible."""
    client = chat.client()
    assert client.refused(kind, **fields) == "not_ready"
    assert client.ask("ping", n=5)["n"] == 5
    assert client.hello("amy")["nick"] == "amy"


def test_second_hello_is_refused_and_changes_nothing(chat):
    """Who is who is settled once; a nick is changed by `nick`."""
    amy = chat.client("amy")
    assert amy.refused("hello", v=1, client="t", nick="bob") == "already"
    assert list(chat.hub.nicks) == ["amy"]


# --- nicks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["amy", "AMY", "ＡＭＹ", "ａmy"])
def test_nick_that_folds_to_another_one_is_taken(chat, other):
    """Two people whose names nobody can tell apart are one too many; the client may try another one at once."""
    chat.client("amy")
    client = chat.client()
    assert client.refused("hello", v=1, client="t", nick=other) == "nick_taken"
    assert client.hello("bob")["nick"] == "bob"


def test_nick_race_has_one_winner(chat):
    """Both ask in the same turn; the order in which they are read decides, and nobody is left without an answer."""
    clients = [chat.client() for _ in range(5)]
    for client in clients:
        client.tell("hello", v=1, client="t", nick="amy", ref=1)
    answers = [client.hear() for client in clients]
    assert sorted(answer["t"] for answer in answers) == ["err"] * 4 + ["welcome"]
    assert {answer["code"] for answer in answers if answer["t"] == "err"} == {"nick_taken"}


BAD_NICKS = [
    "a b",
    "a\tb",
    "a\u200bb",
    "\u202eamy",
    "@amy",
    "a/b",
    "a,b",
    "a:b",
    "\u0301",
    "明" * 17,
    "x" * 33,
    "\ue000",
    "\u3164",
    "\u2800",
    "a\u034fb",
    "a" + "\u0300" * 5,
    "\ufe0f",
]


@pytest.mark.parametrize("nick", BAD_NICKS, ids=ascii)
def test_nick_that_would_disturb_others_is_refused(chat, nick):
    """Invisible characters, those that turn the line around, those that mean something, and too many columns."""
    assert chat.client().refused("hello", v=1, client="t", nick=nick) == "nick_bad"
    amy = chat.client("amy")
    assert amy.refused("nick", nick=nick) == "nick_bad"


def test_nick_with_a_selector_that_nobody_sees_is_the_one_without(chat):
    """It looks the same on every screen: who could take it would speak in another's name."""
    chat.client("amy")
    assert chat.client().refused("hello", v=1, client="t", nick="amy\ufe0f") == "nick_taken"
    assert chat.client().hello(nick="\u2764\ufe0f")["nick"] == "\u2764\ufe0f"


@pytest.mark.parametrize("nick", ["明" * 16, "x" * 32, "a" + "\u0300" * 4, "é", "Ω", "😀", "a-b_c.d", "0", "ß" * 32])
def test_nick_at_its_bound_is_taken(nick):
    """32 columns, whatever the script."""
    assert nick_fault(nick) is None and columns(nick) <= 32


def test_names_are_judged_by_what_people_see():
    """The units of the rules, without a server."""
    assert fold("Straße") == fold("STRASSE") and fold("ﬁ") == "fi"
    assert columns("a明\u0301") == 3
    assert room_fault("x" * 64) is None and room_fault("明" * 21) is None and room_fault("a b") is None
    for bad in ("", "x" * 65, "明" * 22, " a", "a\n", "@a", "\u2800", "a" + "\u0301" * 5):
        assert room_fault(bad), bad
    assert conversation_users(conversation_key("g-2", "g-1")) == ("g-1", "g-2")
    assert conversation_users("@b/a") is conversation_users("@ab") is conversation_users("a/b") is None


def test_guest_without_a_nick_gets_one_in_their_language(chat):
    """Nobody has to choose a name to say something."""
    assert chat.client().hello()["nick"].startswith("guest-")
    assert chat.client().hello(lang="zh-CN")["nick"].startswith("游客-")


def test_nick_change_is_told_to_the_rooms_and_frees_the_old_one(chat):
    """Others see who it was; the change of one's own letters is none of the others' names."""
    amy, bob = chat.client("amy", "r"), chat.client("bob", "r")
    amy.hear("ev", e="join")
    assert amy.ask("nick", nick="Amy") == {"t": "ok", "ref": amy.ref, "nick": "Amy"}
    bob.hear("ev", e="nick", room="r", who="amy", text="Amy")
    assert amy.refused("nick", nick="BOB") == "nick_taken"
    amy.ask("nick", nick="eve")
    bob.hear("ev", e="nick", who="Amy", text="eve")
    assert chat.client("amy").welcome["nick"] == "amy"
    amy.say("hi")
    bob.hear("msg", **{"from": "eve"})


def test_away_is_told_and_listed(chat):
    """And so is coming back: an `away` without a text."""
    amy, bob = chat.client("amy", "r"), chat.client("bob", "r")
    amy.hear("ev", e="join")
    amy.ask("away", text="tea\nor coffee")
    bob.hear("ev", e="away", room="r", who="amy", text="tea or coffee")
    assert bob.ask("who", room="r")["list"][0] == {"nick": "amy", "role": "op", "away": "tea or coffee"}
    amy.ask("away")
    assert bob.hear("ev", e="away", who="amy").get("text") is None
    assert amy.refused("away", text="x" * 257) == "too_big"


# --- who is let in ------------------------------------------------------------------------------------------------


def test_password_lets_in_and_keeps_out(chats):
    """Wrong and missing are the same to whoever guesses."""
    chat = chats(password="sesam öffne")
    assert chat.client().hello("amy", password="sesam öffne")["t"] == "welcome"
    for fields in ({}, {"password": "sesam"}, {"password": ""}, {"token": "sesam öffne"}):
        client = chat.client().tell("hello", v=1, client="t", lang="zh", **fields)
        client.hear("bye", code=3500, text="密码或令牌错误")
        assert client.ended() == []


def test_token_hook_names_the_account_or_refuses(chats, caplog):
    """The public seam for whoever has users already; its words stay in the log."""
    caplog.set_level(logging.INFO, logger="evloop.chat")
    seen = []

    def authenticate(hello, host):
        seen.append((hello.token, host))
        if hello.token == "bad":
            raise AuthFailed("signature of 1999")
        return hello.token

    chat = chats(authenticate=authenticate, password="pw")
    amy, again = chat.client(), chat.client()
    assert amy.hello(token="amy")["user"] == "u-amy" and amy.welcome["nick"] == "amy"
    assert again.hello(token="amy")["user"] == "u-amy", "two sessions of one user"
    assert chat.client().hello("amy2", password="pw")["user"].startswith("g-")
    bad = chat.client().tell("hello", v=1, client="t", token="bad")
    assert "1999" not in bad.hear("bye", code=3500)["text"]
    assert seen[0] == ("amy", "127.0.0.1") and "signature of 1999" in caplog.text


def test_token_hook_that_fails_is_a_fault_of_the_server(chats, caplog):
    """An exception of the hook must not let anybody in, nor end the server."""
    chat = chats(authenticate=lambda hello, host: 1 // 0)
    client = chat.client()
    assert client.refused("hello", v=1, client="t") == "internal"
    assert client.refused("rooms") == "not_ready"
    assert "ZeroDivisionError" in caplog.text


def test_token_that_was_revoked_does_not_resume(chats):
    """The key outlives the token, and it is the token that says whether somebody is still wanted."""
    good = {"t1": "amy", "t2": "amy", "t3": "bob"}

    def authenticate(hello, host):
        if hello.token is not None and hello.token not in good:
            raise AuthFailed("revoked")
        return good.get(hello.token)

    chat = chats(authenticate=authenticate)
    amy = chat.client()
    amy.hello(token="t1")
    chat.lose(amy)
    again = chat.client()
    assert again.hello(resume=amy.resume, token="t2")["resumed"] is True, "another token of the same account"
    chat.lose(again)
    for fields in ({"token": "t3"}, {}):
        other = chat.client().hello(resume=amy.resume, **fields)
        assert other["resumed"] is False and other["user"] != "u-amy"
    del good["t1"]
    late = chat.client().tell("hello", v=1, client="t", resume=amy.resume, token="t1", ref=7)
    late.hear("bye", code=3500, ref=7)
    assert late.ended() == []


def test_guest_of_a_server_with_tokens_resumes_by_the_key_alone(chats):
    """The password was said when the session began, and a page that is loaded again does not know it any more."""
    chat = chats(authenticate=lambda hello, host: hello.token, password="pw")
    amy = chat.client()
    amy.hello("amy", password="pw")
    chat.lose(amy)
    assert chat.client().hello(resume=amy.resume)["resumed"] is True


# --- signs of life ------------------------------------------------------------------------------------------------


def test_hello_within_its_time_and_not_later(chats):
    """10 s from the first byte, however many pings come meanwhile."""
    chat = chats()
    late, good = chat.client(), chat.client()
    late.ask("ping")
    good.ask("ping")
    chat.advance(9)
    late.ask("ping")
    good.hello("amy")
    chat.advance(2)
    late.hear("bye", code=3505)
    assert late.ended() == []
    chat.advance(5)
    assert good.ask("ping")["t"] == "pong"


def test_idle_client_is_pinged_at_25_and_given_up_at_60_seconds(chat):
    """A NAT that forgets a silent connection tells nobody; what is heard in between begins the count anew."""
    amy = chat.client("amy")
    chat.advance(24)
    amy.quiet()
    chat.advance(6)
    n = amy.hear("ping")["n"]
    amy.tell("pong", n=n)
    chat.advance(24)
    amy.quiet()
    chat.advance(41)
    assert [message["t"] for message in amy.ended()] == ["ping", "bye"]
    assert amy.messages[-1]["code"] == 3012 and amy.messages[-1]["reconnect"] is True
    assert chat.back(amy).welcome["resumed"] is True


def test_empty_frame_is_a_sign_of_life_without_an_answer(chat):
    """Four bytes in a minute keep a phone connected."""
    amy = chat.client("amy")
    for _ in range(4):
        chat.advance(20)
        amy.raw(b"")
        chat.world.settle()
    amy.quiet()


# --- messages that are none ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b'{"t":"say"', "bad_frame"),
        (b"GET / HTTP/1.1", "bad_frame"),
        (b"\xff\xfe", "bad_frame"),
        (b'{"t":"say","room":"r","cid":"c","body":"\xff"}', "bad_frame"),
        (b'{"t":"say","x":' + b"[" * 9000, "bad_frame"),
        (b'{"t":"say","room":"r","cid":"c"}', "bad_message"),
        (b"{}", "bad_message"),
        (b'{"t":"say","room":"r","cid":"c","body":"' + b"x" * 8193 + b'"}', "too_big"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_message_gets_an_error_and_the_third_in_a_row_goodbye(chat, payload, code):
    """A slip is told; what does not speak this protocol is not argued with for ever."""
    amy = chat.client("amy")
    for _ in range(2):
        assert amy.raw(payload).hear("err")["code"] == code
    amy.ask("ping")
    for _ in range(3):
        assert amy.raw(payload).hear("err")["code"] == code
    bye = amy.hear("bye", code=3505)
    assert "reconnect" not in bye and amy.ended() == []
    assert chat.hub.sessions == {}, "such a session is not held"


def test_unknown_type_is_an_error_for_ever_and_never_a_disconnect(chat):
    """A client of a later version may ask for what this one does not know."""
    amy = chat.client("amy")
    for _ in range(5):
        answer = amy.ask("shout")
        assert (answer["code"], "shout" in answer["text"]) == ("unknown_type", True)


def test_first_message_in_no_encoding_is_answered_in_json(chat):
    """Somebody types to the port with nc: they should be able to read the answer."""
    client = chat.client().raw(b"hello")
    client.hear("err", code="bad_frame")
    assert client.hello("amy")["nick"] == "amy"


@pytest.mark.parametrize("state", ["stranger", "welcomed"])
def test_frame_of_64_kib_is_read_and_one_byte_more_ends_the_session(chat, state):
    """The bound is the documented one, and what passes it gets a word before the end."""
    client = chat.client(*(["amy"] if state == "welcomed" else []))
    pad = len(client.codec.encode({"t": "ping", "n": 7, "pad": ""}))
    client.tell("ping", n=7, pad="x" * (65536 - pad))
    assert client.hear("pong")["n"] == 7
    client.tell("ping", n=7, pad="x" * (65537 - pad))
    assert "65537" in client.hear("err", code="too_big")["text"]
    client.hear("bye", code=3505)
    assert client.ended() == []


def test_frame_above_every_bound_is_refused_at_its_header(chat):
    """Half a gigabyte is announced; nothing is allocated, and the others go on."""
    amy, bad = chat.client("amy"), chat.client("bad")
    bad.peer.write(b"\x20\0\0\0{")
    assert str(1 << 29) in bad.hear("err", code="too_big")["text"]
    assert "reconnect" not in bad.hear("bye", code=3505)
    assert bad.ended() == []
    assert amy.ask("ping")["t"] == "pong"
    assert (chat.hub.stats()["bye_3505"], len(chat.hub.sessions)) == (1, 1), "such a session is not held"
    assert chat.server.server.stats()["closed_frame_too_large"] == 1


@pytest.mark.parametrize("size", [wire.MAX_REPLY, wire.MAX_REPLY + 1])
@pytest.mark.parametrize("codec", [wire.JSON, wire.MSGPACK], ids=["json", "msgpack"])
def test_frame_of_any_length_above_the_bound_is_told_and_hung_up_on(chat, codec, size):
    """Read or not, the client cannot see the difference: the same two messages, in its encoding."""
    bad = chat.client("bad", codec=codec)
    bad.peer.write(size.to_bytes(4, "big") + b"x" * (size if size <= wire.MAX_REPLY else 7))
    assert str(size) in bad.hear("err", code="too_big")["text"]
    bad.hear("bye", code=3505)
    assert bad.ended() == []


def test_frame_of_a_stranger_above_every_bound_is_told_in_json(chat):
    """Its encoding is not known yet, and its first bytes are looked at without a framing."""
    client = chat.client()
    client.peer.write(b"\x20\0\0\0{")
    client.hear("err", code="too_big")
    client.hear("bye", code=3505)
    assert client.ended() == []


def test_fault_of_a_handler_is_answered_and_logged(chat, monkeypatch, caplog):
    """One message that the server cannot take must not end the session, nor be lost in silence."""
    amy = chat.client("amy")
    monkeypatch.setattr(chat.hub, "rooms", None)
    assert amy.refused("rooms") == "internal"
    monkeypatch.undo()
    assert amy.ask("rooms")["t"] == "rooms"
    assert "Rooms of <Session" in caplog.text


# --- coming back --------------------------------------------------------------------------------------------------


def test_resumed_session_keeps_nick_rooms_and_role_and_nobody_hears_of_it(chat):
    """A phone that changes its network is neither gone nor new."""
    amy, bob = chat.client("amy", "r"), chat.client("bob", "r")
    amy.hear("ev", e="join")
    chat.lose(amy)
    chat.advance(20)
    again = chat.back(amy)
    welcome = again.welcome
    assert welcome["resumed"] is True and welcome["rooms"] == ["r"]
    assert [welcome[name] for name in ("sid", "resume_key", "nick", "user")] == [
        amy.welcome[name] for name in ("sid", "resume_key", "nick", "user")
    ]
    joined = again.join("r")
    assert joined["you"] == {"role": "op"} and joined["members"] == ["amy", "bob"] and joined["n"] == 2
    bob.quiet()


def test_held_session_ends_after_its_grace(chat):
    """30 s: then the others are told, and the nick is free."""
    amy, bob = chat.client("amy", "r"), chat.client("bob", "r")
    amy.hear("ev", e="join")
    chat.lose(amy)
    chat.advance(29, awake=[bob])
    bob.quiet()
    chat.advance(2)
    bob.hear("ev", e="lost", room="r", who="amy")
    again = chat.back(amy)
    assert again.welcome["resumed"] is False and again.welcome["sid"] != amy.welcome["sid"]
    assert again.welcome["user"] == amy.welcome["user"], "the key is who one is"
    assert chat.client("amy").welcome["nick"] == "amy"


def test_so_many_sessions_are_held_and_no_more(chats):
    """Whoever connects and leaves a thousand times a second must not fill the memory; the oldest goes first."""
    chat = chats(limits={"held_sessions": 2})
    clients = [chat.client(nick) for nick in ("amy", "bob", "cem")]
    for client in clients:
        chat.lose(client)
    assert chat.hub.stats()["sessions_held"] == 2
    assert [chat.back(client).welcome["resumed"] for client in clients] == [False, True, True]


@pytest.mark.parametrize("wrong", [{"key": "0" * 32}, {"sid": "n1-0"}])
def test_resume_with_a_wrong_key_or_sid_is_a_new_session(chat, wrong):
    """A sid is no secret; and no word tells which of the two was wrong."""
    amy = chat.client("amy", "r")
    chat.lose(amy)
    thief = chat.client()
    assert thief.hello(resume={**amy.resume, **wrong})["resumed"] is False
    assert chat.back(amy).welcome["resumed"] is True


def test_resume_of_a_connected_session_replaces_the_connection(chat):
    """The old one may be dead and nobody has said so; if it is not, it is told, and does not come back."""
    amy, bob = chat.client("amy", "r"), chat.client("bob", "r")
    amy.hear("ev", e="join")
    again = chat.back(amy)
    bye = amy.hear("bye", code=3504)
    assert "reconnect" not in bye and amy.ended() == []
    assert again.welcome["resumed"] is True
    again.join("r")
    bob.say("hi")
    again.hear("msg", body="hi")
    assert chat.hub.stats()["sessions"] == 2


@pytest.mark.parametrize("bound", ["grace", "held_sessions"])
def test_session_is_taken_up_by_another_connection_though_none_is_held(chats, bound):
    """A second tab of a server that holds nothing: nothing has to be held for it."""
    chat = chats(limits={bound: 0})
    amy, bob = chat.client("amy", "r"), chat.client("bob", "r")
    amy.hear("ev", e="join")
    again = chat.back(amy)
    amy.hear("bye", code=3504)
    assert again.welcome["resumed"] is True and again.welcome["rooms"] == ["r"] and amy.ended() == []
    bob.quiet()
    assert again.join("r")["you"]["role"] == "op"
    chat.lose(again)
    bob.hear("ev", e="lost", who="amy")
    assert chat.back(amy).welcome["resumed"] is False
    assert chat.hub.stats()["sessions"] == 2


def test_session_is_taken_up_while_the_server_stops(chats):
    """What is owed is being written down, and a client comes over another network: it is told the end there."""

    class Slow(MemoryStore):
        def close(self, done):
            self.done = done

    store = Slow()
    chat = chats(store=store)
    amy, late = chat.client("amy", "r"), chat.client()
    late.ask("ping")
    chat.server.shutdown()
    assert late.hello(resume=amy.resume)["resumed"] is True
    amy.hear("bye", code=3504)
    store.done()
    late.hear("bye", code=3001)


def test_resumed_session_is_not_live_before_it_has_joined(chat):
    """What comes before `joined` would be a hole to the client; what was missed is in it."""
    amy, bob = chat.client("amy", "r"), chat.client("bob", "r")
    amy.hear("ev", e="join")
    chat.lose(amy)
    again = chat.back(amy)
    bob.say("missed")
    again.quiet()
    since = {"epoch": again.join("r", since={"epoch": "x", "seq": 0})["epoch"], "seq": 0}
    assert [message["body"] for message in again.join("r", since=since)["history"]] == ["missed"]


def test_two_sessions_of_one_user_share_the_nick_and_hear_each_other(chat):
    """The same key in a second window: one user, one name in the list, both see what either says."""
    amy, bob = chat.client("amy", "r"), chat.client("bob", "r")
    amy.hear("ev", e="join")
    second = chat.client()
    second.hello(resume={"sid": "other", "key": amy.resume["key"]})
    assert second.welcome["nick"] == "amy" and second.welcome["resumed"] is False
    assert second.join("r")["n"] == 2
    amy.say("one")
    second.hear("msg", body="one", **{"from": "amy"})
    bob.hear("msg", body="one")
    second.ask("nick", nick="eve")
    amy.hear("ev", e="nick", room="r", who="amy", text="eve")
    second.tell("quit").hear("bye", code=1000)
    bob.hear("ev", e="nick")
    bob.quiet()
    assert amy.ask("who", room="r")["n"] == 2


# --- going --------------------------------------------------------------------------------------------------------


def test_quit_is_answered_told_and_final(chat):
    """The tutorials' echoed `quit`, typed; there is nothing to resume."""
    amy, bob = chat.client("amy", "r", lang="zh"), chat.client("bob", "r")
    amy.hear("ev", e="join")
    bye = amy.ask("quit", why="tea")
    assert (bye["t"], bye["code"], bye["text"]) == ("bye", 1000, "再见")
    assert amy.ended() == []
    bob.hear("ev", e="part", room="r", who="amy", text="tea")
    assert chat.back(amy).welcome["resumed"] is False


def test_stranger_may_quit(chat):
    """Who has come to the wrong place leaves in good order."""
    client = chat.client().tell("quit")
    client.hear("bye", code=1000)
    assert client.ended() == []


def test_shutdown_tells_everybody_when_to_come_back(chats):
    """1,000 clients that come back in one millisecond are a storm; each gets its own time, below a second here."""
    chat = chats()
    amy, stranger = chat.client("amy", "r"), chat.client()
    held = chat.client("eve", "r")
    chat.lose(held)
    stranger.ask("ping")
    amy.hear("ev", e="join")
    done = []
    chat.server.shutdown(done=lambda: done.append(True))
    for client in (amy, stranger):
        bye = client.hear("bye", code=3001, reconnect=True)
        assert 0 <= bye["after_ms"] < 1000
        assert client.ended() == []
    chat.until(lambda: done)
    assert chat.hub.stats()["sessions"] == chat.hub.stats()["users"] == chat.hub.stats()["strangers"] == 0


def test_ended_session_is_freed_without_the_collector(chats):
    """Thousands come and go; what they leave in circles would wait for a collection that holds everybody up."""

    class Watched(Session):
        __slots__ = ("__weakref__",)

    chat = chats()
    chat.hub.connected = lambda transport: seen.append(session := Watched(chat.hub, transport)) or session
    seen = []
    amy, bob = chat.client("amy", "r"), chat.client("bob", "r")
    amy.say("hi", room=None, to="bob")
    chat.lose(amy)
    again = chat.back(amy)
    for client in (again, bob):
        client.tell("quit")
        client.ended()
    chat.until(lambda: not chat.server.server.connections)
    gc.disable()
    try:
        seen = [weakref.ref(session) for session in seen]
        chat.world.turn(3)
        assert len(seen) == 3 and [ref() for ref in seen] == [None] * 3
    finally:
        gc.enable()


# --- too fast, too slow -------------------------------------------------------------------------------------------


def test_client_that_sends_too_fast_is_read_more_slowly_and_loses_nothing(chats):
    """The burst at once, then one each tenth of a second: TCP holds the rest, and nobody is cut."""
    chat = chats(limits={"rate": 10.0, "burst": 3})
    amy = chat.client("amy", "r")
    chat.advance(1)
    for n in range(8):
        amy.tell("ping", n=n)
    chat.world.settle()
    assert len(amy.arrived()) == 3
    for expected in (4, 5, 6, 7, 8):
        chat.world.advance(0.11)
        chat.world.settle()
        assert len(amy.arrived()) == expected
    assert [message.get("n", 0) for message in amy.messages] == list(range(8))
    assert chat.hub.stats()["throttled"] == 6


def test_paused_client_that_leaves_is_no_trouble(chats):
    """Its timer comes due when there is nothing left to read."""
    chat = chats(limits={"rate": 1.0, "burst": 1})
    amy = chat.client("amy")
    amy.peer.reset()  # which nobody sees while nothing is read
    chat.advance(3)
    chat.until(lambda: not chat.server.server.connections)
    assert chat.hub.stats()["sessions_held"] == 1


def test_joins_and_nicks_that_come_too_fast_are_refused_with_a_time(chats):
    """Many are told of each; reading more slowly would keep the client from talking, too."""
    chat = chats(limits={"rate": 1000.0, "burst": 1000, "join_rate": 2.0, "join_burst": 3})
    amy = chat.client("amy", "r")
    amy.ask("nick", nick="eve")
    amy.ask("away", text="x")
    refused = amy.ask("join", room="q")
    assert (refused["code"], refused["temp"]) == ("rate_limited", True) and 0 < refused["retry_ms"] <= 501
    chat.world.advance(refused["retry_ms"] / 1000)
    amy.join("q")
    assert amy.refused("rooms") == "rate_limited"


def flood(chat, amy, slow, enough):
    """Let amy talk until *enough()*; slow does not read, and so its own place in the kernel is full at last."""
    count = 0
    while not enough():
        count += 1
        amy.tell("say", room="r", body="x" * 8000, cid=str(count))
        chat.world.turn()
        assert count < 5000
    return count


def test_slow_member_is_told_and_cut_after_ten_seconds_and_comes_back(chat):
    """What it has not taken by then it gets on coming back, by its position; the others notice nothing."""
    amy, bob = chat.client("amy", "r"), chat.client("bob", "r")
    slow = chat.client("slow", "r")
    slow.peer.reading = False
    count = flood(chat, amy, slow, lambda: chat.hub.stats()["choked"] == 1)
    chat.advance(9)
    assert chat.hub.stats()["choked"] == 1
    chat.advance(2)
    assert chat.hub.stats()["choked"] == 0 and chat.hub.stats()["bye_3008"] == 1
    slow.peer.reading = True
    slow.ended()
    assert slow.messages[-1]["code"] == 3008 and slow.messages[-1]["reconnect"] is True
    last = next(m["seq"] for m in reversed(slow.messages) if m["t"] == "msg")
    assert last == count, "all that was queued before the goodbye has come"
    chat.world.settle()
    assert [m["seq"] for m in bob.arrived() if m["t"] == "msg"] == list(range(1, count + 1))
    assert chat.back(slow).welcome["resumed"] is True


def test_member_above_the_hard_bound_is_cut_at_once(chats):
    """1 MiB: the memory of the others; it is resumable all the same."""
    chat = chats(connections=QUICK.replace(high_water=64 * 1024, low_water=16 * 1024, max_output=128 * 1024))
    amy, slow = chat.client("amy", "r"), chat.client("slow", "r")
    slow.peer.reading = False
    flood(chat, amy, slow, lambda: chat.server.stats()["slow_consumers"] == 1)
    assert chat.server.stats()["closed_slow_consumer"] == 1
    assert chat.back(slow).welcome["resumed"] is True
    assert amy.ask("ping")["t"] == "pong"


def test_connections_have_the_documented_bounds():
    """The core keeps and tests them; what is documented of them is here: 16 from an address, 256 KiB, 1 MiB."""
    assert (QUICK.max_per_address, QUICK.high_water, QUICK.max_output) == (16, 256 * 1024, 1024 * 1024)
    assert QUICK.write_timeout > ChatLimits().stall, "who is slow has to be told before it is cut"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"burst": 0}, "burst must be at least 1, not 0"),
        ({"burst": 1.5}, "burst must be an int, not 1.5"),
        ({"rate": -1}, "rate must be at least 0.0, not -1"),
        ({"rate": float("nan")}, "rate must be at least"),
        ({"rate": "1"}, "rate must be a number"),
        ({"recover_bytes": 256 * 1024 + 1}, "recover_bytes must be at most 262144"),
        ({"dead_after": 25.0}, "dead_after 25 must be more than ping_after 25"),
        ({"total_bytes": 1024 * 1024 - 1}, "is less than room_bytes"),
    ],
)
def test_limits_out_of_range_are_refused_with_both_numbers(changes, text):
    """A bound that is silently another one is worse than none."""
    with pytest.raises(ValueError, match=text.replace("(", r"\(")):
        ChatLimits(**changes)


def test_limits_page_has_every_limit_with_its_default():
    """docs/chat.md is where an operator looks."""
    page = (pathlib.Path(__file__).parents[2] / "docs/chat.md").read_text()
    shown = {}
    for names, values in re.findall(r"^\| (`[\w`, ]+`) \| ([^|]+) \|", page, re.M):
        shown.update(zip(re.findall(r"\w+", names), values.strip().split(", "), strict=True))
    assert {name: float(value) for name, value in shown.items()} == dataclasses.asdict(ChatLimits())


def test_limits_name_every_least_value():
    """A new limit without one would not be checked."""
    from evloop.apps.chat.limits import _LEAST

    assert set(_LEAST) == set(ChatLimits.__dataclass_fields__)
    assert ChatLimits().replace(rate=3).rate == 3
