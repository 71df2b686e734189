"""How the chat page looks and sounds: phones, colours, screen readers, both languages; and the README's pictures.

Read next: ``chatpages.py``.
"""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import os
import pathlib
import re

import pytest
from browser import browser
from chatpages import ROOM, Voice, bubble, enter, server, solid, url_of, wait_for_room, write

from evloop.apps import chat as chat_package

pytestmark = pytest.mark.slow

PAGE = pathlib.Path(chat_package.__file__).parent / "page"
PHONE = {"width": 390, "height": 844, "touch": True, "scale": 2}
NARROWEST = {"width": 320, "height": 568, "touch": True, "scale": 2}

PICTURES = os.environ.get("EVLOOP_PICTURES")  # where `make screenshots` wants them; else they are looked at and dropped

SIDEWAYS = """[...document.querySelectorAll('*')].filter((node) => {
  const box = node.getBoundingClientRect();
  return box.width && getComputedStyle(node).visibility === 'visible' && box.right > innerWidth + 1;
}).map((node) => node.outerHTML.slice(0, 80))"""


def test_page_on_a_phone_fits_its_width(browser, server):
    """Nothing sticks out sideways, not even a word without an end; no field is so small that iOS zooms into it."""
    with Voice(server.address, "a-rather-long-name-for-a-member") as boss, browser.person(url_of(server)) as amy:
        boss.ask(t="mod", room=ROOM, op="topic", text="a topic " * 20)
        boss.say("w" * 300, "https://example.org/" + "path/" * 40, "中" * 200)
        enter(amy, "amy")
        write(amy, "y" * 200)
        amy.wait(solid("y" * 200))
        for device in (PHONE, NARROWEST):
            amy.looks(**device)
            amy.wait(f"innerWidth === {device['width']}")
            assert amy.run("document.documentElement.scrollWidth") == device["width"]
            amy.wait(f"({SIDEWAYS}).length === 0")  # once the columns have become drawers
            assert amy.run("parseFloat(getComputedStyle(document.querySelector('#input')).fontSize)") >= 16
            bottom = amy.run("document.querySelector('#composer').getBoundingClientRect().bottom")
            assert bottom <= device["height"]
            amy.click("#open-rooms")
            amy.wait("document.querySelector('#rooms').getBoundingClientRect().left === 0")
            assert amy.run("document.querySelector('#main').inert")
            amy.press("Escape")
            amy.wait("!document.querySelector('#main').inert && document.activeElement.id === 'open-rooms'")


def test_page_names_are_readable_in_every_colour(browser, server):
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
    with Voice(server.address, "boss") as boss, browser.person(url_of(server)) as amy:
        enter(amy, "amy")
        boss.say("hello")
        amy.wait(bubble("hello"))
        assert amy.run(script) >= 4.5
        amy.looks(dark=True)
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
