"""The chat page and what our server does not say at will: goodbye to a hello, a welcome of a later version.

Read next: ``browser.py``, ``test_chat_page.py``.
"""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import contextlib
import itertools
import json
import threading

import pytest
from browser import browser
from chatpages import CONNECTED
from playedchat import LIMITS
from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.sync.server import serve

from evloop.apps.chat import wire
from evloop.apps.chat.web import load_page

pytestmark = pytest.mark.slow

WELCOME = wire.Welcome(
    v=1, server="test", node="n1", sid="n1-1", resume_key="0" * 32, nick="amy", user="u-amy", resumed=False,
    durability="memory", ping_s=25, now=0, limits=LIMITS,
)  # fmt: skip


@contextlib.contextmanager
def played(*answers):
    """Yield the URL of a page whose server gives the n-th connection's hello the n-th of *answers*, and then waits."""
    files = load_page()
    turns = itertools.count()

    def process(connection, request):
        if request.path == "/ws":
            return None
        file = files.get("/index.html" if request.path == "/" else request.path)
        if file is None:
            return connection.respond(404, "none")
        headers = Headers(file.plain.headers)
        headers["Content-Type"], headers["Content-Length"] = file.plain.type, str(len(file.plain.body))
        headers["Connection"] = "close"
        return Response(200, "OK", headers, file.plain.body)

    def talk(connection):
        hello = wire.JSON.decode_request(connection.recv(decode=False))
        answer = answers[next(turns)]
        answer.ref = hello.ref
        connection.send(wire.JSON.encode(answer).decode())
        if type(answer) is wire.Bye:
            return connection.close(answer.code)
        for _ in connection:  # until it leaves
            pass
        return None

    options = {"subprotocols": list(wire.SUBPROTOCOLS), "process_request": process, "ping_interval": None}
    with serve(talk, "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield "http://{}:{}/".format(*server.socket.getsockname())
        finally:
            server.shutdown()
            thread.join()


def come_in(page):
    page.wait("document.activeElement.id === 'gate-nick'")
    page.type("amy")
    page.press("Enter")


def test_page_told_to_come_back_before_the_first_welcome_does(browser):
    """A server that is being restarted answers the hello with a goodbye for now; its code alone says so."""
    byes = [wire.Bye(code=3001, text="stops", reconnect=True, after_ms=10), wire.Bye(code=3004, text="fault")]
    with played(*byes, WELCOME) as url, browser.person(url) as page:
        come_in(page)
        page.wait(CONNECTED)
        assert page.text("#me-nick") == "amy"


# Keeps how long each attempt to connect was put off, in ms without chance, and does not wait so long for it; nor for
# the answer to the question whether the server is there.
HASTE = """
  globalThis.delays = [];
  Math.random = () => 1;
  const later = setTimeout;
  globalThis.setTimeout = (call, delay, ...rest) => {
    const attempt = String(call).includes("open()");
    if (attempt) delays.push(delay);
    const brief = delay < 2 ** 30 && (attempt || String(call).includes("asked"));
    return later(call, brief ? delay / 1000 : delay, ...rest);
  };
"""
LOSE = "dispatchEvent(new Event('offline'))"  # it asks whether the server is there, which this one does not answer


def test_page_told_to_come_back_in_a_month_does_not_at_once(browser):
    """setTimeout counts in 32 bits, and one more is no delay at all: a server that says stay away would get a storm."""
    bye = wire.Bye(code=3001, text="stops", reconnect=True, after_ms=2**31)
    with played(bye, WELCOME) as url, browser.person(url) as page:
        page.run(HASTE)
        come_in(page)
        page.wait("delays.length")
        assert page.run("delays") == [2**31 - 1]


def test_page_refused_for_now_when_it_comes_back_tries_again(browser):
    """A server that has just started may have a fault for a moment; who was a member is not sent to the gate for it."""
    fault = wire.Err(code="internal", text="a fault", temp=True)
    later = wire.Err(code="unavailable", text="later", temp=True, retry_ms=700)
    with played(WELCOME, fault, later, WELCOME) as url, browser.person(url) as page:
        page.run(HASTE)
        come_in(page)
        page.wait(CONNECTED)
        page.run(LOSE)
        page.wait("delays.length === 3")
        page.wait(CONNECTED)
        assert page.run("delays") == [250, 500, 700 + 1000]


def test_page_refused_for_good_when_it_comes_back_asks_at_the_gate(browser):
    """Its nick is another's now: only its user can say what to do."""
    taken = wire.Err(code="nick_taken", text="somebody else has it", temp=False)
    with played(WELCOME, taken) as url, browser.person(url) as page:
        page.run(HASTE)
        come_in(page)
        page.wait(CONNECTED)
        page.run(LOSE)
        page.wait("document.querySelector('#gate-error').textContent !== ''")


def test_page_that_was_long_connected_waits_longer_and_longer(browser):
    """A good connection makes the first delay short, and not that of each attempt: a server that is down stays so."""
    byes = [wire.Bye(code=3004, text="fault") for _ in range(3)]
    with played(WELCOME, *byes, WELCOME) as url, browser.person(url) as page:
        page.run(HASTE)
        come_in(page)
        page.wait(CONNECTED)
        page.run("const clock = performance.now.bind(performance); performance.now = () => clock() + 61_000")
        page.run(LOSE)
        page.wait("delays.length === 4")
        page.wait(CONNECTED)
        assert page.run("delays") == [250, 500, 1000, 2000]


def test_page_told_to_stay_away_asks_at_the_gate(browser):
    """Nothing is tried again by itself, and a code of a later version is told in the server's words."""
    with played(wire.Bye(code=3599, text="no more guests")) as url, browser.person(url) as page:
        come_in(page)
        page.wait("document.querySelector('#gate-error').textContent === 'no more guests'")


def test_page_welcomed_in_another_version_says_to_reload(browser):
    """What a later version's messages mean this page does not know."""
    welcome = wire.JSON.decode_reply(wire.JSON.encode(WELCOME))
    welcome.v = 2
    with played(welcome) as url, browser.person(url) as page:
        come_in(page)
        page.wait("document.querySelector('#gate-error').textContent.startsWith('This page is too old')")
        assert not page.run(CONNECTED)
