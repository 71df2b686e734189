"""A real browser for tests: Debian's Chromium without a screen, driven over the DevTools protocol.

One process for all tests, a context each (its own storage, like another person's browser), real input events: what is
pressed and typed takes the way of a keyboard.  Nothing here sleeps to order events; what a test waits for is asked in
the page until it holds, with a deadline.

Rule: nothing in this file may know what the page is.  Read next: ``apps/test_chat_page.py``.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

PATIENCE = 30.0  # seconds; only a failing test waits as long
ASK_AGAIN = 15  # ms between two looks at a condition, in the page
READY = "DevTools listening on "  # what it says on stderr once it can be driven

# What would call home, wait for a keyring or slow down a window that nobody looks at.
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",  # a test may run as root, and shows the browser nothing but our own page
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--no-first-run",
    "--no-default-browser-check",
    "--password-store=basic",
    "--remote-debugging-port=0",
]

# Starts a program that the kernel kills when its parent, argv[1], has ended, however it did: a run of the tests that is
# killed has no time to tidy up.  prctl(2): PR_SET_PDEATHSIG is 1, SIGKILL 9; it outlives the exec.
LEASH = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(1, 9) or os.getppid() != int(sys.argv[1]):
    sys.exit("no parent to belong to")
os.execv(sys.argv[2], sys.argv[2:])
"""

# key -> (code, Windows' number of the key, the text that it enters)
KEYS = {
    "Enter": ("Enter", 13, "\r"),
    "Tab": ("Tab", 9, ""),
    "Escape": ("Escape", 27, ""),
    "Backspace": ("Backspace", 8, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
}
SHIFT = 8  # the modifier's bit in Input.dispatchKeyEvent


class BrowserError(Exception):
    """The browser refused a command, or a script in the page threw."""


class Browser:
    """A running Chromium, until the end of a ``with``; :meth:`person` opens a window of somebody who is new here."""

    def __init__(self, directory):
        command = [shutil.which("chromium"), *ARGUMENTS, f"--user-data-dir={directory}", "about:blank"]
        # Its own session: it is a tree of processes, and Ctrl-C of the tests is not for it.
        command = [sys.executable, "-c", LEASH, str(os.getpid()), *command]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        self._said = b""
        self._last = 0
        self._events = []
        self._open = contextlib.ExitStack()
        # A picture has megabytes.  Without pings: their thread draws from the global generator, which hypothesis, in a
        # test of something else, takes for its own strategies doing so.
        self._socket = self._open.enter_context(connect(self._address(), max_size=None, ping_interval=None))

    def __enter__(self):
        return self

    def _address(self):
        """Return where it listens, from its stderr, which it goes on to fill: the rest is for nobody."""
        for line in self._process.stderr:
            self._said += line
            if line.startswith(READY.encode()):
                return line[len(READY) :].strip().decode()
        raise BrowserError(f"chromium ended: {self._said.decode(errors='replace')}")

    def __exit__(self, *exc_info):
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            self.call("Browser.close")
        self._open.close()
        with self._process:
            try:
                self._process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def call(self, method, session=None, **params):
        """Return the result of a DevTools command."""
        self._last += 1
        number = self._last
        command = {"id": number, "method": method, "params": params}
        if session is not None:
            command["sessionId"] = session
        self._socket.send(json.dumps(command))
        deadline = time.monotonic() + PATIENCE
        while True:
            message = json.loads(self._socket.recv(timeout=max(deadline - time.monotonic(), 0)))
            if "id" not in message:
                self._events.append(message)
            elif message["id"] == number:
                break
        if "error" in message:
            raise BrowserError(f"{method}: {message['error']['message']}")
        return message["result"]

    def events(self, session, method):
        """Take and return the parameters of the events *method* of *session* that have come so far."""
        taken = [event for event in self._events if (event.get("sessionId"), event["method"]) == (session, method)]
        self._events = [event for event in self._events if event not in taken]
        return [event["params"] for event in taken]

    @contextlib.contextmanager
    def person(self, url, **looks):
        """Yield a :class:`Page` on *url*, in a window of its own; *looks* as :meth:`Page.looks` takes them."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        try:
            yield self.open(context, url, **looks)
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)
            self._events.clear()

    def open(self, context, url, **looks):
        """Return a new :class:`Page` in *context*."""
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, context, session, url, **looks)


class Page:
    """One tab, and the hands of who uses it."""

    def __init__(self, browser, context, session, url, **looks):
        self.browser = browser
        self.context = context
        self._session = session
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.call("Security.setIgnoreCertificateErrors", ignore=True)  # those of tests are nobody's
        self.looks(**looks)
        self.goto(url)

    def call(self, method, **params):
        """Return the result of a DevTools command to this tab."""
        return self.browser.call(method, self._session, **params)

    def looks(self, *, width=1200, height=760, dark=False, language="en-US", touch=False, scale=1):
        """Have the size (CSS pixels), colour scheme, language, fingers and pixels per CSS pixel of a device."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=touch
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        agent = self.browser.call("Browser.getVersion")["userAgent"]
        self.call("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)

    # --- where it is ----------------------------------------------------------------------------------------------

    def goto(self, url):
        """Go to *url*, and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def reload(self):
        """Load the page again, as F5 does."""
        self.run("window.before = true")
        self.call("Page.reload")
        self.wait("document.readyState === 'complete' && !window.before")

    def offline(self, gone=True):
        """Take this tab's network away, or give it back."""
        self.call(
            "Network.emulateNetworkConditions", offline=gone, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )

    @contextlib.contextmanager
    def elsewhere(self):
        """Look at another tab of the same window, until the end of a ``with``."""
        self.call("Emulation.setFocusEmulationEnabled", enabled=False)
        other = self.browser.call("Target.createTarget", url="about:blank", browserContextId=self.context)["targetId"]
        self.wait("document.hidden")
        yield
        self.browser.call("Target.closeTarget", targetId=other)
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.call("Page.bringToFront")
        self.wait("!document.hidden && document.hasFocus()")

    def allow(self, permission):
        """Answer "allow" when the page asks for *permission*, such as ``"notifications"``."""
        descriptor = {"name": permission}
        options = {"permission": descriptor, "setting": "granted", "browserContextId": self.context}
        self.browser.call("Browser.setPermission", **options)

    # --- what it shows --------------------------------------------------------------------------------------------

    def run(self, script):
        """Return the value of *script*, an expression in the page; of a promise, what it becomes."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait(self, condition):
        """Wait until *condition*, an expression in the page, holds; return its value."""
        deadline = time.monotonic() + PATIENCE
        script = f"""new Promise((done) => {{
          const until = performance.now() + 2000;
          const look = () => {{
            const value = {condition};
            if (value || performance.now() > until) done(value instanceof Node ? true : value);
            else setTimeout(look, {ASK_AGAIN});
          }};
          look();
        }})"""
        value = None
        while time.monotonic() < deadline:
            with contextlib.suppress(BrowserError):  # the page may be on its way to another one
                value = self.run(script)
                if value:
                    return value
        raise AssertionError(f"{condition} is {value!r} after {PATIENCE} s; the page shows: {self.text('body')!r}")

    def text(self, selector):
        """Return the visible text of the first element that *selector* matches."""
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText")

    def texts(self, selector):
        """Return the texts of all elements that *selector* matches, in the order of the document."""
        script = f"[...document.querySelectorAll({json.dumps(selector)})].map((node) => node.textContent)"
        return self.run(script)

    def count(self, selector):
        """Return how many elements *selector* matches."""
        return self.run(f"document.querySelectorAll({json.dumps(selector)}).length")

    def complaints(self):
        """Return what the browser has complained of since the last call: exceptions, violated policies."""
        thrown = self.browser.events(self._session, "Runtime.exceptionThrown")
        logged = self.browser.events(self._session, "Log.entryAdded")
        found = [event["exceptionDetails"].get("exception", {}).get("description", "?") for event in thrown]
        # A connection that cannot be opened is logged as an error by the browser itself, and is no fault of the page.
        entries = [event["entry"] for event in logged if event["entry"]["source"] != "network"]
        return found + [entry["text"] for entry in entries if entry["level"] == "error"]

    def picture(self, path):
        """Write what it shows to *path*, a PNG."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))

    # --- hands ----------------------------------------------------------------------------------------------------

    def press(self, key, *, shift=False, alt=False):
        """Press and release *key*, one of KEYS."""
        code, number, text = KEYS[key]
        event = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": SHIFT * shift + alt}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text):
        """Enter *text* where the cursor is, as a keyboard that has each of its characters."""
        self.call("Input.insertText", text=text)

    def compose(self, text):
        """Show *text* as an input method does, before a word is chosen."""
        self.call("Input.imeSetComposition", text=text, selectionStart=len(text), selectionEnd=len(text))

    def click(self, selector):
        """Press the mouse in the middle of the first element that *selector* matches, once it is there."""
        self.wait(f"document.querySelector({json.dumps(selector)})")
        x, y = self._place(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def _place(self, selector):
        """Return the middle of the first element that *selector* matches, scrolled into view."""
        return self.run(f"""(() => {{
          const node = document.querySelector({json.dumps(selector)});
          node.scrollIntoView({{ block: "nearest" }});
          const box = node.getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2];
        }})()""")

    def wheel(self, selector, distance):
        """Turn the wheel over the first element that *selector* matches; negative is up, in pixels."""
        x, y = self._place(selector)
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=distance)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """The one browser of a run of the tests."""
    if shutil.which("chromium") is None:
        pytest.skip("not installed: apt-get install chromium")
    with Browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running
