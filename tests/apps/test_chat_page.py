"""The chat page in a real Chromium, against a real server: what people see, press and type.

Rule: nothing here may call the page's code; a test presses keys and looks at what is shown.  Read next: ``browser.py``.
"""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import json
import os
import pathlib
import re
import signal

import pytest
from browser import browser
from programs import Program, serving
from tlspeers import SERVER
from wires import Wire

from evloop import BlockingClient
from evloop.apps import chat as chat_package

pytestmark = pytest.mark.slow

ROOM = "大厅"  # where the page comes in
PAGE = pathlib.Path(chat_package.__file__).parent / "page"
PHONE = {"width": 390, "height": 844, "touch": True, "scale": 2}
NARROWEST = {"width": 320, "height": 568, "touch": True, "scale": 2}

PICTURES = os.environ.get("EVLOOP_PICTURES")  # where `make screenshots` wants them; else they are looked at and dropped

CONNECTED = "document.querySelector('#pill').dataset.state === 'connected'"
SHOWN = "document.querySelector('#room-name').textContent"
SIDEWAYS = """[...document.querySelectorAll('*')].filter((node) => {
  const box = node.getBoundingClientRect();
  return box.width && getComputedStyle(node).visibility === 'visible' && box.right > innerWidth + 1;
}).map((node) => node.outerHTML.slice(0, 80))"""


class Voice:
    """A member without a page: JSON in frames, each request answered before the next one."""

    def __init__(self, address, nick, room=ROOM):
        self.client = BlockingClient(address, timeout=30)
        self.number = 0
        self.room = room
        self.ask(t="hello", v=1, client="test/1", nick=nick)
        self.joined = self.ask(t="join", room=room)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.client.close()

    def ask(self, **request):
        """Return the answer; what is pushed before it is dropped."""
        self.number += 1
        self.tell(**request, ref=self.number)
        return self.until("ref", self.number)

    def tell(self, **message):
        """Send a message that has no answer."""
        self.client.send(json.dumps(message).encode())

    def hear(self):
        """Return the next message."""
        return json.loads(self.client.recv())

    def until(self, key, value):
        """Return the next message whose *key* is *value*."""
        while True:
            message = self.hear()
            if message.get(key) == value:
                return message

    def say(self, *bodies):
        for body in bodies:
            answer = self.ask(t="say", room=self.room, body=body, cid=f"v{self.number}")
            assert answer["t"] == "ok", answer


@pytest.fixture
def server():
    """A running ``evloop serve chat``, with a page and without a rate."""
    with serving("chat", "127.0.0.1:0", "--rate", "0") as running:
        yield running


def url_of(server):
    return f"http://{server.address}/"


def enter(page, nick, room=ROOM):
    """Come in by the gate, as *nick*."""
    page.wait("document.querySelector('#gate').open && document.activeElement.id === 'gate-nick'")
    page.type(nick)
    page.press("Enter")
    wait_for_room(page, room)
    return page


def wait_for_room(page, room=ROOM):
    page.wait(f"{CONNECTED} && {SHOWN} === {json.dumps(room)} && document.querySelector('#member-count').textContent")


def write(page, *bodies):
    """Write each of *bodies* into the field, and press Enter."""
    for body in bodies:
        page.click("#input")
        page.type(body)
        page.press("Enter")


def bubble(body, classes=""):
    """Return the condition that *body* is shown in a bubble of the *classes*, such as ``.mine:not(.pending)``."""
    found = f"[...document.querySelectorAll('.msg{classes} .bubble')]"
    return f"{found}.some((node) => node.textContent === {json.dumps(body)})"


def solid(body):
    return bubble(body, ".mine:not(.pending):not(.failed)")


# --- talking --------------------------------------------------------------------------------------------------------


def test_page_two_people_talk_and_each_sees_the_other(browser, server):
    """What a chat is for: names, faces, who is here, who types, and what was said, on both sides."""
    with browser.person(url_of(server)) as amy, browser.person(url_of(server), language="zh-CN", dark=True) as ming:
        enter(amy, "amy")
        enter(ming, "小明")
        amy.wait("document.querySelectorAll('#member-list .label').length === 2")
        assert set(amy.texts("#member-list .label")) == {"amy", "小明"}
        ming.click("#input")
        ming.type("你好")
        amy.wait("document.querySelector('#typing').textContent === '小明 is typing…'")
        ming.press("Enter")
        amy.wait(bubble("你好"))
        amy.wait("document.querySelector('#typing').textContent === ''")
        write(amy, "hi 小明")
        ming.wait(bubble("hi 小明", ".called"))
        assert ming.texts(".msg .name")[-1] == "amy"
        assert [amy.complaints(), ming.complaints()] == [[], []]


def test_page_sent_bubble_is_grey_until_ok_then_solid(browser, server):
    """A message shows at once, and shows whether the server has it."""
    colour = "getComputedStyle(document.querySelector('.mine .bubble')).backgroundColor"
    with browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        server.signal(signal.SIGSTOP)
        try:
            write(amy, "are you there?")
            amy.wait(bubble("are you there? (sending)", ".pending"))
            waiting = amy.run(colour)
        finally:
            server.signal(signal.SIGCONT)
        amy.wait(solid("are you there?"))
        amy.wait(f"{colour} !== {json.dumps(waiting)}")


def test_page_refused_message_turns_red_and_can_be_sent_again(browser, server):
    """Nothing that was written vanishes: the bubble says why, and a press tries again."""
    with Voice(server.address, "boss") as boss, browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        boss.ask(t="mod", room=ROOM, op="mute", who="amy")
        write(amy, "let me speak")
        amy.wait(bubble("let me speak", ".failed"))
        assert "You are muted here." in amy.text(".fate")
        boss.ask(t="mod", room=ROOM, op="unmute", who="amy")
        amy.click(".retry")
        amy.wait(solid("let me speak"))
        assert boss.until("t", "msg")["body"] == "let me speak"


def test_page_text_with_markup_is_shown_literally(browser, server):
    """A stranger's words are text: no element comes of them, no script runs, and the browser has nothing to block."""
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script> & <b>"
    with Voice(server.address, "<b>eve") as eve, browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        eve.say(evil)
        amy.wait(bubble(evil))
        assert amy.texts(".msg .name") == ["<b>eve"]
        assert amy.count(".log img, .log b, .log script") == 0
        assert amy.run("document.title") == f"{ROOM} · evloop"
        assert amy.complaints() == []


def test_page_link_in_text_opens_elsewhere_without_a_referrer(browser, server):
    """An address is a link, and the sentence's full stop is not part of it; no other scheme becomes one."""
    with Voice(server.address, "eve") as eve, browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        eve.say("see http://example.org/a?b=1. javascript:alert(1)")
        amy.wait("document.querySelector('.bubble a')")
        link = "document.querySelector('.bubble a')"
        assert amy.run(f"[{link}.href, {link}.target, {link}.rel]") == [
            "http://example.org/a?b=1",
            "_blank",
            "noopener noreferrer",
        ]
        assert amy.count(".bubble a") == 1


# --- nothing is lost ------------------------------------------------------------------------------------------------


def test_page_offline_for_a_while_misses_nothing(browser, server):
    """What was said meanwhile comes in order and once, and what was written meanwhile is sent, in order and once."""
    with Voice(server.address, "boss") as boss, browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        boss.say("before")
        amy.wait(bubble("before"))
        amy.offline()
        amy.wait("document.querySelector('#pill').dataset.state === 'offline'")
        boss.say(*[f"missed {n}" for n in range(70)])
        write(amy, "from the tunnel 1", "from the tunnel 2")
        assert amy.count(".pending") == 2
        amy.wait("document.querySelector('#pill').textContent === 'Offline · 2 unsent'")
        amy.offline(False)
        amy.wait(f"{solid('from the tunnel 1')} && {solid('from the tunnel 2')}")
        expected = ["before", *[f"missed {n}" for n in range(70)], "from the tunnel 1", "from the tunnel 2"]
        assert amy.texts(".bubble") == expected
        boss.say("after")
        amy.wait(bubble("after"))
        heard = boss.ask(t="history", room=ROOM, limit=4)["items"]
        assert [msg["body"] for msg in heard] == [*expected[-3:], "after"]


def test_page_offline_for_longer_than_one_answer_holds_misses_nothing(browser, server):
    """What does not fit into the answer to a join is fetched page by page, and what came meanwhile waits its turn."""
    bodies = [f"{n} " + "x" * 5000 for n in range(60)]  # 300 KB; the server's answer ends at 192 KiB
    with Voice(server.address, "boss") as boss, browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        boss.say("before")
        amy.wait(bubble("before"))
        amy.offline()
        amy.wait("document.querySelector('#pill').dataset.state === 'offline'")
        boss.say(*bodies)
        amy.offline(False)
        amy.wait(bubble(bodies[-1]))
        assert amy.texts(".bubble") == ["before", *bodies]
        assert amy.count(".note.gap") == 0


def test_page_offline_for_longer_than_the_server_remembers_says_so(browser, server):
    """A hole that nobody can fill is shown as one: never a partial recovery that looks like a whole one."""
    bodies = [f"{n} " + "x" * 8000 for n in range(150)]  # more than the ring of a room, 1 MiB
    with Voice(server.address, "boss") as boss, browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        boss.say("before")
        amy.wait(bubble("before"))
        amy.offline()
        amy.wait("document.querySelector('#pill').dataset.state === 'offline'")
        boss.say(*bodies)
        amy.offline(False)
        amy.wait(f"document.querySelector('.note.gap') && {bubble(bodies[-1])}")
        shown = amy.texts(".bubble")
        assert shown == bodies[-len(shown) :]
        boss.say("after")
        amy.wait(bubble("after"))


def test_page_answer_that_was_lost_is_found_in_what_was_missed(browser, server):
    """The server has it and the page does not know: by its cid it is known again, and not said twice."""
    with (
        Wire(server.address) as wire,
        Voice(server.address, "boss") as boss,
        browser.person(f"http://{wire.address}/") as amy,
    ):
        enter(amy, "amy")
        wire.deaf = True
        write(amy, "did you get this?")
        assert boss.until("t", "msg")["body"] == "did you get this?"
        boss.say("yes")
        assert amy.count(".pending") == 1
        wire.cut()
        wire.deaf = False
        amy.wait(f"{solid('did you get this?')} && {bubble('yes')}")
        assert amy.texts(".bubble") == ["did you get this?", "yes"]
        assert [msg["body"] for msg in boss.ask(t="history", room=ROOM)["items"]] == ["did you get this?", "yes"]


def test_page_connection_that_is_cut_again_and_again_loses_and_doubles_nothing(browser, server):
    """Whatever is on its way at a cut, both ways: in the end the page shows the room as the server has it."""
    with (
        Wire(server.address) as wire,
        Voice(server.address, "boss") as boss,
        browser.person(f"http://{wire.address}/") as amy,
    ):
        enter(amy, "amy")
        for n in range(5):
            write(amy, f"mine {n}, before the cut")
            boss.say(f"yours {n}")
            wire.cut()
            write(amy, f"mine {n}, after the cut")
            boss.say(f"yours {n}, meanwhile")
            amy.wait(f"{CONNECTED} || document.querySelector('#pill').dataset.state === 'waiting'")
            amy.click("#pill")  # do not wait out the delay, which grows
            amy.wait(f"{CONNECTED} && {solid(f'mine {n}, after the cut')}")
        boss.say("the end")
        amy.wait(bubble("the end"))
        assert amy.texts(".bubble") == [msg["body"] for msg in boss.ask(t="history", room=ROOM)["items"]]
        mine = [f"mine {n}, {when} the cut" for n in range(5) for when in ("before", "after")]
        assert amy.texts(".mine .bubble") == mine


def test_page_and_terminal_talk_while_another_page_is_offline(browser, server):
    """Two browsers and a terminal in one room; the browser that was away has what both others said, in order."""
    with (
        Program("chat", server.address, "--nick", "bob", "--room", ROOM) as bob,
        browser.person(url_of(server)) as amy,
        browser.person(url_of(server), language="zh-CN") as ming,
    ):
        enter(amy, "amy")
        enter(ming, "小明")
        amy.wait("document.querySelectorAll('#member-list .label').length === 3")
        ming.offline()
        ming.wait("document.querySelector('#pill').dataset.state === 'offline'")
        said = []
        for n in range(10):
            bob.write(f"from the terminal {n}\n".encode())
            amy.wait(bubble(f"from the terminal {n}"))
            write(amy, f"from the page {n}")
            bob.wait_for("out", f"amy: from the page {n}\n".encode())
            said += [f"from the terminal {n}", f"from the page {n}"]
        ming.offline(False)
        ming.wait(bubble(said[-1]))
        assert ming.texts(".bubble") == said
        assert amy.texts(".bubble") == said


def test_page_server_restart_says_so_and_comes_back_by_itself(browser):
    """A deploy: the pill tells, the field stays usable, the same name comes back, and the outbox is sent."""
    with serving("chat", "127.0.0.1:0") as first:
        address = first.address
        amy_window = browser.person(url_of(first))
        amy = amy_window.__enter__()
        enter(amy, "amy")
        write(amy, "before")
        amy.wait(solid("before"))
    try:
        amy.wait("['waiting', 'lost'].includes(document.querySelector('#pill').dataset.state)")
        write(amy, "meanwhile")
        amy.wait(bubble("meanwhile (sending)", ".pending"))
        with serving("chat", address):
            amy.wait(f"{CONNECTED} && {solid('meanwhile')}")
            assert amy.text("#me-nick") == "amy"
            # Its memory is gone, and with it what was said: the page does not pretend.
            assert amy.texts(".bubble") == ["meanwhile"]
            assert amy.count(".note.gap") == 1
    finally:
        amy_window.__exit__(None, None, None)


def test_page_reloaded_is_the_same_member_and_nobody_notices(browser, server):
    """F5 keeps the name, the rooms, a draft and what was unsent; the others see neither a leave nor a join."""
    with Voice(server.address, "boss") as boss, browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        boss.until("e", "join")
        boss.ask(t="mod", room=ROOM, op="mute", who="amy")
        write(amy, "unsent")
        amy.wait(bubble("unsent", ".failed"))
        boss.ask(t="mod", room=ROOM, op="unmute", who="amy")
        write(amy, "/join 茶馆")
        wait_for_room(amy, "茶馆")
        amy.type("half a thought")
        amy.reload()
        wait_for_room(amy, "茶馆")
        assert amy.text("#me-nick") == "amy"
        assert amy.texts("#room-list .label") == [ROOM, "茶馆"]
        assert amy.run("document.querySelector('#input').value") == "half a thought"
        assert boss.hear().get("body") == "unsent"
        boss.tell(t="ping", n=7)
        assert boss.hear()["t"] == "pong"


def test_page_key_of_the_session_is_not_where_another_tab_finds_it(browser, server):
    """A duplicated tab copies the storage: with the key in it two tabs would take the session from each other."""
    with browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        assert amy.run("sessionStorage.length") == 0
        assert "key" not in amy.run("JSON.stringify(localStorage)")


# --- reading --------------------------------------------------------------------------------------------------------


def test_page_scrolled_up_loads_history_and_keeps_the_place(browser, server):
    """The page before appears above what is read, which does not move."""
    place = "[...document.querySelectorAll('.msg')].map((n) => [n.textContent, n.getBoundingClientRect().top])"
    first = f"{place}.find(([text, top]) => top > 60)"
    with Voice(server.address, "boss") as boss, browser.person(url_of(server)) as amy:
        boss.say(*[f"line {n}" for n in range(170)])
        enter(amy, "amy")
        amy.wait(bubble("line 169"))
        assert amy.count(".msg") == 50
        amy.run("document.querySelector('#scroll').scrollTop = 500")
        text, top = amy.run(first)
        amy.run("document.querySelector('#scroll').scrollTop = 399")
        amy.wait("document.querySelectorAll('.msg').length >= 100")
        moved = dict(amy.run(place))[text]
        assert abs(moved - (top + 101)) <= 2
        while amy.count(".msg") < 170:
            amy.run("document.querySelector('#scroll').scrollTop = 0")
            amy.wait(f"document.querySelectorAll('.msg').length > {amy.count('.msg')} - 1")
        assert amy.texts(".bubble") == [f"line {n}" for n in range(170)]
        amy.wait(f"document.querySelector('#top').textContent === 'The beginning of {ROOM}'")


def test_page_of_a_busy_room_keeps_a_bounded_number_of_messages(browser, server):
    """A tab that stays open for a week: what is far above is let go of, and comes back by scrolling up."""
    total = 600  # 550 is where the page cuts back to 500
    with Voice(server.address, "boss") as boss, browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        for n in range(total):
            boss.tell(t="say", room=ROOM, body=f"line {n}", cid=f"flood-{n}")
        amy.wait(f"{bubble(f'line {total - 1}')} && document.querySelector('#jump').hidden")
        bodies = amy.texts(".bubble")
        assert 500 <= len(bodies) <= 550
        assert bodies == [f"line {n}" for n in range(total - len(bodies), total)]
        amy.run("document.querySelector('#scroll').scrollTop = 0")
        amy.wait(bubble(f"line {total - len(bodies) - 1}"))


def test_page_scrolled_up_stays_there_and_counts_what_is_new(browser, server):
    """Who reads is not torn away; a button says how much came, and goes there."""
    at_end = "((n) => n.scrollHeight - n.scrollTop < n.clientHeight + 2)(document.querySelector('#scroll'))"
    with Voice(server.address, "boss") as boss, browser.person(url_of(server)) as amy:
        boss.say(*[f"line {n}" for n in range(40)])
        enter(amy, "amy")
        amy.wait(f"{bubble('line 39')} && {at_end}")
        amy.wheel("#scroll", -600)
        amy.wait(f"!({at_end}) && !document.querySelector('#jump').hidden")
        before = amy.run("document.querySelector('#scroll').scrollTop")
        boss.say("new 1", "new 2", "new 3")
        amy.wait("document.querySelector('#jump').textContent === '3 new ↓'")
        assert abs(amy.run("document.querySelector('#scroll').scrollTop") - before) <= 1
        amy.wait("document.title.startsWith('(3) ')")
        amy.click("#jump")
        amy.wait(f"{at_end} && document.querySelector('#jump').hidden")
        amy.wait("!document.title.startsWith('(')")
        boss.say("new 4")
        amy.wait(f"{bubble('new 4')} && {at_end}")


def test_page_unread_line_stays_until_it_was_passed(browser, server):
    """Coming back to a room one sees where one left; reading does not wipe that out, an answer does."""
    line = "document.querySelector('.fresh')?.parentElement.querySelector('.bubble').textContent"
    with Voice(server.address, "boss") as boss, browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        boss.say("old")
        amy.wait(bubble("old"))
        write(amy, "/join 茶馆")
        wait_for_room(amy, "茶馆")
        boss.say("new 1", "amy, new 2")
        amy.wait("document.querySelector('#room-list .badge.called')?.textContent === '2'")
        amy.wait("document.title.startsWith('(2) ')")
        amy.click("#room-list button")
        amy.wait(f"{line} === 'new 1' && !document.querySelector('#room-list .badge')")
        boss.say("new 3")
        amy.wait(bubble("new 3"))
        assert amy.run(line) == "new 1"
        write(amy, "read it")
        amy.wait(f"{solid('read it')} && !document.querySelector('.fresh')")


def test_page_behind_another_tab_counts_and_waits_at_the_unread_line(browser, server):
    """What came while one looked elsewhere is in the tab's title, and the page stands where one left it."""
    at_line = "document.querySelector('.fresh').getBoundingClientRect().top"
    with Voice(server.address, "boss") as boss, browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        boss.say(*[f"seen {n}" for n in range(30)])
        amy.wait(bubble("seen 29"))
        with amy.elsewhere():
            boss.say(*[f"new {n}" for n in range(40)])
            amy.wait("document.title.startsWith('(40) ')")
        assert amy.run("document.querySelector('.fresh').parentElement.querySelector('.bubble').textContent") == "new 0"
        assert 0 < amy.run(at_line) < 300
        assert amy.text("#jump") == "40 new ↓"
        amy.click("#jump")
        amy.wait("!document.title.startsWith('(')")


def test_page_alt_and_arrows_go_from_room_to_room(browser, server):
    """Hands that write need no mouse to look elsewhere; what was begun to write waits in its room."""
    with browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        write(amy, "/join 茶馆")
        wait_for_room(amy, "茶馆")
        amy.type("a draft")
        amy.press("ArrowDown", alt=True)
        amy.wait(f"{SHOWN} === {json.dumps(ROOM)} && document.querySelector('#input').value === ''")
        amy.press("ArrowUp", alt=True)
        amy.wait(f"{SHOWN} === '茶馆' && document.querySelector('#input').value === 'a draft'")


def test_page_asks_for_notifications_when_pressed_and_not_before(browser, server):
    """A page that asks at once is refused for good; and what was switched on can be switched off."""
    pressed = "document.querySelector('#notify').getAttribute('aria-pressed')"
    with browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        assert amy.run("Notification.permission") == "default"
        amy.allow("notifications")
        assert amy.run(pressed) == "false"
        amy.click("#notify")
        amy.wait(f"{pressed} === 'true'")
        amy.click("#notify")
        amy.wait(f"{pressed} === 'false'")


# --- writing --------------------------------------------------------------------------------------------------------


def test_page_enter_of_an_input_method_sends_nothing(browser, server):
    """Who writes Chinese chooses a word with Enter; half a sentence must not go out by that."""
    with browser.person(url_of(server), language="zh-CN") as ming:
        enter(ming, "小明")
        ming.click("#input")
        ming.compose("nihao")
        ming.press("Enter")
        assert ming.count(".msg") == 0
        ming.run("document.querySelector('#input').value = ''")
        ming.type("你好")
        ming.press("Enter")
        ming.wait(solid("你好"))
        assert ming.count(".msg") == 1


def test_page_shift_enter_begins_a_line(browser, server):
    """Several lines are one message, and are shown as several lines."""
    with browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        amy.click("#input")
        amy.type("one")
        amy.press("Enter", shift=True)
        amy.type("two")
        amy.press("Enter")
        amy.wait(solid("one\ntwo"))
        assert amy.run("getComputedStyle(document.querySelector('.bubble')).whiteSpace") == "pre-wrap"


@pytest.mark.parametrize("size, sent", [(8191, True), (8192, True), (8193, False)])
def test_page_body_at_the_limit_is_sent_and_beyond_it_is_not(browser, server, size, sent):
    """The server's bound is in bytes of UTF-8; the field says by how much a text is over it."""
    body = "é" * (size // 2) + "x" * (size % 2)
    with browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        write(amy, body)
        if sent:
            amy.wait(solid(body))
        else:
            amy.wait("document.querySelector('.left.over').textContent === '-1'")
            assert amy.run("document.querySelector('#send').disabled")
            assert amy.count(".msg") == 0


def test_page_commands_do_what_they_say(browser, server):
    """What IRC has taught people to type: a name, a topic, a gesture, who is here; and a slip sends nothing."""
    with Voice(server.address, "boss") as boss, browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        boss.ask(t="mod", room=ROOM, op="op", who="amy")
        write(amy, "/topic the weather", "/me waves", "/nick Anna", "/who", "/jion tea", "//slash")
        amy.wait(solid("/slash"))
        amy.wait("document.querySelector('#room-topic').textContent === 'the weather'")
        amy.wait("document.querySelector('#me-nick').textContent === 'Anna'")
        amy.wait(bubble("amy waves", ".action"))
        notes = "\n".join(amy.texts(".note"))
        assert "There is no /jion." in notes
        amy.wait("[...document.querySelectorAll('.note')].some((n) => /^2 in 大厅: /.test(n.textContent))")
        write(amy, "/quit")
        amy.wait("document.querySelector('#pill').dataset.state === 'ended'")
        assert boss.until("e", "part")["who"] == "Anna"


def test_page_direct_message_has_a_conversation_of_its_own(browser, server):
    """Nobody else sees it; it is announced, counted, and answered in place."""
    with browser.person(url_of(server)) as amy, browser.person(url_of(server), language="zh-CN") as ming:
        enter(amy, "amy")
        enter(ming, "小明")
        write(amy, "/msg 小明 between us")
        amy.wait(solid("between us"))
        ming.wait("document.querySelector('#direct-list .badge.called')?.textContent === '1'")
        ming.click("#direct-list button")
        ming.wait(bubble("between us"))
        write(ming, "好")
        amy.wait(bubble("好"))
        assert amy.text("#room-name") == "小明"
        amy.click("#room-list button")
        assert amy.count(".msg") == 0
        amy.reload()
        wait_for_room(amy)
        amy.click("#direct-list button")
        amy.wait(f"{bubble('between us', '.mine')} && {bubble('好')}")


# --- coming in ------------------------------------------------------------------------------------------------------


def test_page_name_that_is_taken_is_asked_for_again(browser, server):
    """Names are unique; who comes second is told so where the name is asked for, and takes another one."""
    with Voice(server.address, "amy"), browser.person(url_of(server)) as page:
        page.wait("document.activeElement.id === 'gate-nick'")
        page.type("AMY")
        page.press("Enter")
        page.wait("document.querySelector('#gate-error').textContent.startsWith('Somebody has this name')")
        page.run("document.querySelector('#gate-nick').select()")
        page.type("anna")
        page.press("Enter")
        wait_for_room(page)
        assert page.text("#me-nick") == "anna"


def test_page_of_a_server_with_a_password_asks_for_it(browser, tmp_path):
    """The gate says what is missing, then what is wrong, and lets in who knows it."""
    secret = tmp_path / "password"
    secret.write_text("芝麻开门\n")
    secret.chmod(0o600)
    with (
        serving("chat", "127.0.0.1:0", "--password-file", str(secret)) as running,
        browser.person(url_of(running)) as page,
    ):
        page.wait("document.activeElement.id === 'gate-nick'")
        page.type("amy")
        page.press("Enter")
        page.wait("document.querySelector('#gate-error').textContent === 'This server asks for a password.'")
        page.wait("document.activeElement.id === 'gate-password'")
        page.type("sesame")
        page.press("Enter")
        page.wait("document.querySelector('#gate-error').textContent === 'The password is wrong.'")
        page.run("document.querySelector('#gate-password').select()")
        page.type("芝麻开门")
        page.press("Enter")
        wait_for_room(page)


def test_page_over_tls_talks_over_tls(browser):
    """A page that came over https may open no other connection than wss, and does."""
    with (
        serving("chat", "127.0.0.1:0", "--tls-cert", SERVER) as running,
        browser.person(f"https://{running.address}/") as amy,
    ):
        enter(amy, "amy")
        write(amy, "secret")
        amy.wait(solid("secret"))
        assert amy.complaints() == []


def test_page_member_who_is_kicked_is_told_and_put_out(browser, server):
    """A room that one was put out of is not shown as if one were in it."""
    with Voice(server.address, "boss", "茶馆") as boss, browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        write(amy, "/join 茶馆")
        wait_for_room(amy, "茶馆")
        boss.ask(t="mod", room="茶馆", op="kick", who="amy")
        amy.wait(f"{SHOWN} === {json.dumps(ROOM)}")
        assert "You were removed from 茶馆" in amy.texts(".note")
        assert amy.texts("#room-list .label") == [ROOM]


def test_page_without_a_name_one_is_a_guest(browser, server):
    """The least that can be asked of somebody who wants to look."""
    with browser.person(url_of(server)) as page:
        enter(page, "")
        assert page.text("#me-nick")


def test_page_address_with_a_room_goes_there(browser, server):
    """A link to a room is what people send each other."""
    with browser.person(url_of(server) + "#茶馆") as page:
        enter(page, "amy", "茶馆")


def test_page_speaks_the_language_of_the_browser_until_it_is_switched(browser, server):
    """zh and en by themselves, and what was chosen is remembered."""
    with browser.person(url_of(server), language="zh-CN") as ming:
        enter(ming, "小明")
        assert ming.run("document.documentElement.lang") == "zh-CN"
        assert ming.text("#pill") == "已连接"
        ming.click("#language")
        ming.wait("document.querySelector('#pill').textContent === 'Connected'")
        ming.reload()
        wait_for_room(ming)
        assert ming.text("#pill") == "Connected"


# --- how it looks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [PHONE, NARROWEST], ids=["phone", "narrowest"])
def test_page_on_a_phone_fits_its_width(browser, server, device):
    """Nothing sticks out sideways, not even a word without an end; no field is so small that iOS zooms into it."""
    with Voice(server.address, "a-rather-long-name-for-a-member") as boss:
        boss.ask(t="mod", room=ROOM, op="topic", text="a topic " * 20)
        boss.say("w" * 300, "https://example.org/" + "path/" * 40, "中" * 200)
        with browser.person(url_of(server), **device) as amy:
            enter(amy, "amy")
            write(amy, "y" * 200)
            amy.wait(solid("y" * 200))
            assert amy.run("document.documentElement.scrollWidth") == device["width"]
            assert amy.run(SIDEWAYS) == []
            assert amy.run("parseFloat(getComputedStyle(document.querySelector('#input')).fontSize)") >= 16
            bottom = amy.run("document.querySelector('#composer').getBoundingClientRect().bottom")
            assert bottom <= device["height"]
            amy.click("#open-rooms")
            amy.wait("document.querySelector('#rooms').getBoundingClientRect().left === 0")
            assert amy.run("document.querySelector('#main').inert")
            amy.press("Escape")
            amy.wait("!document.querySelector('#main').inert && document.activeElement.id === 'open-rooms'")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_names_are_readable_in_every_colour(browser, server, dark):
    """A name's colour is a hash; WCAG 2 asks for 4.5:1 of text, whatever the hash."""
    script = """(() => {
      const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
      const light = (colour) => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const part = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255)
          .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
      };
      const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      const ground = light(getComputedStyle(document.body).backgroundColor);
      const name = document.querySelector(".msg .name");
      const face = document.querySelector(".msg .avatar");
      let worst = Infinity;
      for (let hue = 0; hue < 360; hue += 15) {
        name.style.setProperty("--hue", hue);
        face.style.setProperty("--hue", hue);
        worst = Math.min(worst, ratio(light(getComputedStyle(name).color), ground));
        const style = getComputedStyle(face);
        worst = Math.min(worst, ratio(light(style.color), light(style.backgroundColor)));
      }
      return worst;
    })()"""
    with Voice(server.address, "boss") as boss, browser.person(url_of(server), dark=dark) as amy:
        enter(amy, "amy")
        boss.say("hello")
        amy.wait(bubble("hello"))
        assert amy.run(script) >= 4.5


def test_page_everything_that_can_be_pressed_has_a_name(browser, server):
    """A screen reader says what a button does; an icon alone says nothing."""
    with browser.person(url_of(server), width=800) as amy:
        enter(amy, "amy")
        write(amy, "hello")
        amy.wait(solid("hello"))
        amy.call("Accessibility.enable")
        nodes = amy.call("Accessibility.getFullAXTree")["nodes"]
        spoken = {"button", "textbox", "combobox", "log", "listbox", "navigation", "complementary"}
        found = [(node["role"]["value"], node.get("name", {}).get("value")) for node in nodes if not node["ignored"]]
        assert [(role, name) for role, name in found if role in spoken and not name] == []
        assert "log" in dict(found)


def test_page_picture_for_the_readme(browser, server, tmp_path):
    """The README shows what a run of the tests has seen: `make screenshots`."""
    folder = pathlib.Path(PICTURES or tmp_path)
    amy_looks, ming_looks = {"width": 1120, "height": 700, "scale": 2}, {**PHONE, "dark": True, "language": "zh-CN"}
    with (
        Voice(server.address, "李雷") as lei,
        Voice(server.address, "bob", "releases"),
        browser.person(url_of(server), **amy_looks) as amy,
        browser.person(url_of(server), **ming_looks) as ming,
    ):
        lei.ask(t="mod", room=ROOM, op="topic", text="Release night: evloop 0.3")
        enter(amy, "amy")
        enter(ming, "小明")
        write(amy, "/join releases", "/msg 小明 dinner at 7?")
        amy.wait(solid("dinner at 7?"))
        ming.wait("document.querySelector('#direct-list .badge')")
        amy.click("#room-list button")
        wait_for_room(amy)
        for who, body in (
            (amy, "Hi all, is the new build up?"),
            (ming, "在的，刚刚部署好了"),
            (ming, "你们试试 https://example.org/releases/0.3 有问题叫我"),
            (lei, "收到，我在终端里看"),
            (amy, "Looks great on my side."),
            (amy, "Went through two tunnels on the train and lost nothing, @小明"),
            (ming, "那就好。每个房间一个 seq，断线后从 since 补齐，\n重发由 cid 去重。"),
            (lei, "漂亮！"),
        ):
            who.say(body) if who is lei else write(who, body)
            amy.wait(bubble(body))
            ming.wait(bubble(body))
        lei.tell(t="typing", room=ROOM, on=True)
        amy.wait("document.querySelector('#typing').textContent")
        amy.picture(folder / "chat-page.png")
        ming.picture(folder / "chat-page-phone.png")
        assert (folder / "chat-page.png").stat().st_size > 20_000
        assert [amy.complaints(), ming.complaints()] == [[], []]


def test_page_texts_exist_in_both_languages():
    """A text that one language lacks would be shown as nothing."""
    source = (PAGE / "texts.js").read_text()
    english, chinese = (re.search(rf"const {name} = {{\n(.*?)\n}};", source, re.DOTALL)[1] for name in ("EN", "ZH"))
    keys = re.compile(r"^ {2,4}(\w+):", re.MULTILINE)
    assert keys.findall(english) == keys.findall(chinese)
    placeholders = re.compile(r"^ {2}(\w+): .*?$", re.MULTILINE)
    for one, other in zip(placeholders.finditer(english), placeholders.finditer(chinese), strict=True):
        assert sorted(set(re.findall(r"{\w+}", one[0]))) == sorted(set(re.findall(r"{\w+}", other[0]))), one[1]
