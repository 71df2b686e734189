"""What the tests of the chat page share: a server, members without a page, and what hands do on the page.

Rule: nothing in this file may call the page's code: it presses keys and looks at what is shown.
"""

from __future__ import annotations

import json

import pytest
from programs import serving

from evloop import BlockingClient

ROOM = "大厅"  # where the page comes in

CONNECTED = "document.querySelector('#pill').dataset.state === 'connected'"
SHOWN = "document.querySelector('#room-name').textContent"


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
