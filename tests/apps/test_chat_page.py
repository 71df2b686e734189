"""The chat page in a real Chromium, against a real server: coming in, talking, and losing nothing.

Read next: ``browser.py``, ``chatpages.py``.
"""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import json
import signal

import pytest
from browser import browser
from chatpages import CONNECTED, ROOM, SHOWN, Voice, bubble, enter, server, solid, url_of, wait_for_room, write
from programs import Program, serving
from tlspeers import SERVER
from wires import Wire

pytestmark = pytest.mark.slow


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


def test_page_link_ends_where_the_direction_of_text_is_turned(browser, server):
    """What is underlined has to be where it leads: behind U+202E "gpj.exe" reads "exe.jpg"."""
    with Voice(server.address, "eve") as eve, browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        eve.say("http://example.org/\u202egpj.exe", "http://example.org/中文")
        amy.wait("document.querySelectorAll('.bubble a').length === 2")
        assert amy.texts(".bubble a") == ["http://example.org/", "http://example.org/中文"]


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


def test_page_room_that_was_left_offline_is_left(browser, server):
    """What was put away stays away: the server is told as soon as it can be, and a conversation does not reappear."""
    with Voice(server.address, "boss") as boss, browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        write(amy, "/msg boss hello")
        amy.wait(solid("hello"))
        write(amy, "/join 茶馆")
        wait_for_room(amy, "茶馆")
        amy.offline()
        amy.wait("document.querySelector('#pill').dataset.state === 'offline'")
        write(amy, "/part")
        amy.wait(f"{SHOWN} === 'boss'")
        write(amy, "/part")
        amy.offline(False)
        wait_for_room(amy)
        assert amy.texts(".room-list .label") == [ROOM]
        boss.until("t", "msg")
        amy.reload()
        wait_for_room(amy)
        assert amy.texts(".room-list .label") == [ROOM]
        assert [entry["room"] for entry in boss.ask(t="rooms")["list"] if entry["n"]] == [ROOM]
        boss.ask(t="say", to="amy", body="still there?", cid="back")
        amy.wait("document.querySelector('#direct-list .badge')")


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
        amy.run("document.querySelector('#scroll').scrollTop = 0")
        amy.wait(f"document.querySelectorAll('.bubble').length > {len(shown)}")
        shown = amy.texts(".bubble")
        assert shown == bodies[-len(shown) :]
        assert amy.run("document.querySelector('#log').firstElementChild.matches('.gap')")
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
