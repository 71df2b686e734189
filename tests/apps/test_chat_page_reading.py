"""Reading and writing on the chat page: history, what is new, rooms, input methods, commands.

Read next: ``chatpages.py``.
"""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import json

import pytest
from browser import browser
from chatpages import ROOM, SHOWN, Voice, bubble, enter, server, solid, url_of, wait_for_room, write

pytestmark = pytest.mark.slow


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


def test_page_body_at_the_limit_is_sent_and_beyond_it_is_not(browser, server):
    """The server's bound is in bytes of UTF-8; the field says by how much a text is over it."""
    below, at, above = "é" * 4095 + "x", "é" * 4096, "é" * 4096 + "x"
    with browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        write(amy, below, at)
        amy.wait(f"{solid(below)} && {solid(at)}")
        write(amy, above)
        amy.wait("document.querySelector('.left.over').textContent === '-1'")
        assert amy.run("document.querySelector('#send').disabled")
        assert amy.count(".msg") == 2


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
