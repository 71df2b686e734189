"""``evloop chat`` on a terminal: what comes is printed above one stable line of input, and scrolls as any output does.

prompt_toolkit draws the line and the bar below it.  Lines are gathered for a moment and printed in one go: the prompt
is erased, the lines are written where it was, and it is drawn again below them.  prompt_toolkit's own way to do that
gives the terminal back to the kernel's line editing meanwhile, which echoes what is typed just then, and takes Ctrl-D
and Ctrl-C for itself; ours never leaves the raw mode.  For the same reason there is one prompt from the beginning to
the end, and Enter does not end it.

Rule: nothing in this file may decide what a line says.  Read next: ``chat_talk.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import pathlib
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, Completion
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.keys import Keys
from prompt_toolkit.renderer import print_formatted_text
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth

from evloop.apps.chat.client import Client
from evloop.cli.chat_desk import Pane
from evloop.cli.chat_lines import NICK_COLOURS, Line, complaint, info
from evloop.cli.chat_talk import Talk
from evloop.cli.chat_texts import Texts
from evloop.cli.printable import printable

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence

    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document
    from prompt_toolkit.key_binding.key_processor import KeyPressEvent

# Seconds for which lines are gathered: one redraw for a burst, and no delay that a person would see.
GATHER = 0.02

# Lines of one redraw; more would keep the keys waiting, so the rest comes in the next.
PRINT_AT_ONCE = 200

# Lines that wait to be printed, above which no more is taken from the connection: a slow terminal slows it down.
WAITING_MAX = 1000

# Seconds between redraws of the bar, for its countdown.
REFRESH = 1.0

# Bytes of the history of what was typed, above which its older half is dropped at the start.
HISTORY_MAX = 512 * 1024

# The terminal's own colours, which its user has chosen to be readable.
_NICKS = ("ansicyan", "ansigreen", "ansimagenta", "ansiyellow", "ansibrightblue", "ansibrightred")
assert len(_NICKS) == NICK_COLOURS
_STYLE = Style.from_dict(
    {
        **{f"nick-{index}": f"{colour} bold" for index, colour in enumerate(_NICKS)},
        "own": "bold",
        "time": "ansibrightblack",
        "info": "ansibrightblack",
        "heading": "bold",
        "error": "ansired",
        "mention": "bold ansiyellow",
        "prompt": "bold",
        "bottom-toolbar": "noreverse",
        "bar": "reverse",
        "bar.online": "reverse ansigreen",
        "bar.offline": "reverse ansired",
        "bar.current": "bold noreverse",
        "bar.unread": "reverse bold",
        "bar.mention": "reverse bold ansired",
    }
)


class Window:
    """The screen, the line of input and the bar.

    Owns: its tasks while :meth:`run` runs.  Event-loop thread only.
    """

    def __init__(self, client: Client, texts: Texts, history: int) -> None:
        self.talk = Talk(client, texts, self, all_rooms=False, history=history)
        self._client = client
        self._texts = texts
        self._waiting: list[Line] = []
        self._more = asyncio.Event()
        self._printed = asyncio.Event()
        self._acting: set[asyncio.Task[Any]] = set()
        self._warned = False  # that what is not sent is lost with the program
        self._timed: object = None  # the status whose next attempt is at _retry_at
        self._retry_at = 0.0
        self._session: PromptSession[str] = PromptSession(
            message=self._prompt,
            bottom_toolbar=self._bar,
            completer=_Names(self.talk),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            reserve_space_for_menu=0,
            enable_suspend=True,
            erase_when_done=True,
            history=_history(),
            key_bindings=self._keys(),
            refresh_interval=REFRESH,
            style=_STYLE,
        )

    async def run(self, rooms: Sequence[str]) -> None:
        """Enter *rooms* and talk, until the person leaves.  Ended, Refused: the server wants us no more."""
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[Any]] = [
            loop.create_task(work) for work in (self.talk.listen(), self._print(), self._read())
        ]
        *_, reading = tasks
        for room in rooms:
            self._start(self.talk.enter(room))
        with contextlib.suppress(ValueError, RuntimeError):  # only a main thread has signals
            loop.add_signal_handler(signal.SIGTERM, reading.cancel)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.result()
        finally:
            with contextlib.suppress(ValueError, RuntimeError):
                loop.remove_signal_handler(signal.SIGTERM)
            tasks += self._acting
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._put(len(self._waiting))

    async def _read(self) -> None:
        """Take lines, by :meth:`_keys`, until one says to leave."""
        with contextlib.suppress(EOFError):
            # What nobody has caught goes to asyncio's logger; prompt_toolkit's own way asks for Enter in the middle.
            await self._session.prompt_async(set_exception_handler=False)

    def _start(self, action: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(action)
        self._acting.add(task)
        task.add_done_callback(self._acting.discard)

    # --- the screen ---------------------------------------------------------------------------------------------

    def show(self, pane: Pane | None, line: Line, *, data: bool) -> None:
        """Print *line* above the line of input, soon."""
        self._waiting.append(line)
        self._more.set()

    async def room(self) -> None:
        """Wait until what waits was printed, if it is a lot."""
        while len(self._waiting) >= WAITING_MAX:
            self._printed.clear()
            await self._printed.wait()

    def changed(self) -> None:
        """Draw prompt and bar again."""
        self._session.app.invalidate()

    def bell(self) -> None:
        """Ring, or whatever the terminal does instead."""
        self._session.app.output.bell()
        self._session.app.output.flush()

    async def _print(self) -> None:
        app = self._session.app
        while True:
            await self._more.wait()
            self._more.clear()
            while self._waiting:
                await asyncio.sleep(GATHER)
                if app.is_running and app.output.responds_to_cpr:
                    # An answer that is under way tells of a row where the prompt is not any more.
                    await app.renderer.wait_for_cpr_responses()
                self._put(PRINT_AT_ONCE)
                self._printed.set()

    def _put(self, most: int) -> None:
        app = self._session.app
        lines, self._waiting = self._waiting[:most], self._waiting[most:]
        pieces = [piece for line in lines for piece in (*line, ("", "\n"))]
        running = app.is_running
        if running:
            app.renderer.erase()
        print_formatted_text(app.output, FormattedText(pieces), _STYLE, color_depth=app.color_depth)
        if running:
            app.renderer.request_absolute_cursor_position()
            app.invalidate()

    # --- the line of input and the bar --------------------------------------------------------------------------

    def _prompt(self) -> FormattedText:
        pane = self.talk.desk.current
        return FormattedText([("class:prompt", f"{printable(pane.label)}> " if pane is not None else "> ")])

    def _bar(self) -> FormattedText:
        pieces = [self._state(), ("class:bar", f" {printable(self._client.nick)} ")]
        if self._client.unsent and self.talk.status.state != "connected":
            pieces.append(("class:bar.mention", f" {self._texts('unsent', n=self._client.unsent)} "))
        columns = self._session.app.output.get_size().columns
        rooms = [self._mark(number, pane) for number, pane in enumerate(self.talk.desk.panes, 1)]
        if sum(get_cwidth(text) for _, text in (*pieces, *rooms)) > columns:
            # There is no place for all: those that nothing is new in can be reached without being seen.
            rooms = [mark for mark in rooms if mark[0] != "class:bar"]
        return FormattedText([*pieces, *rooms, ("class:bar", " " * columns)])

    def _mark(self, number: int, pane: Pane) -> tuple[str, str]:
        """Return the piece of the bar that stands for *pane*."""
        style = "class:bar.current" if pane is self.talk.desk.current else "class:bar"
        if pane.unread:
            style = "class:bar.mention" if pane.mentions else "class:bar.unread"
        marks = f" {pane.unread}" if pane.unread else ""
        return style, f" {number} {printable(pane.label)}{'!' if pane.mentions else ''}{marks} "

    def _state(self) -> tuple[str, str]:
        status = self.talk.status
        if status.state == "connected":
            return "class:bar.online", f" ● {self._texts('online')} "
        if status is not self._timed:
            self._timed, self._retry_at = status, time.monotonic() + status.retry_in
        seconds = math.ceil(self._retry_at - time.monotonic())
        text = self._texts("retry", seconds=seconds) if seconds > 0 else self._texts("offline")
        return "class:bar.offline", f" ○ {text} "

    # --- keys ---------------------------------------------------------------------------------------------------

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        keys.add("enter")(self._entered)
        keys.add("c-c")(self._cleared)
        keys.add(Keys.SIGINT)(self._cleared)
        keys.add("c-d", filter=Condition(lambda: not self._session.default_buffer.text))(self._leave)
        for number in range(1, 10):
            keys.add("escape", str(number))(partial(self._switch_to, number))
        keys.add("escape", "a")(self._switch_to_unread)
        return keys

    def _entered(self, event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        text = buffer.text
        with contextlib.suppress(OSError):  # the disk is full, and that is no reason not to talk
            buffer.append_to_history()
        buffer.reset()
        if self.talk.leaves(text):
            self._leave(event)
        else:  # the next line can be typed while a command waits for the server
            self._start(self.talk.typed(text))

    def _cleared(self, event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            self.show(None, info(self._texts("quit-hint")), data=False)

    def _leave(self, event: KeyPressEvent) -> None:
        """Leave; but what could not be sent is lost then, so that takes a second time."""
        if self._client.unsent and self._client.state != "connected" and not self._warned:
            self._warned = True
            self.show(None, complaint(self._texts("leave-hint", n=self._client.unsent)), data=False)
        else:
            event.app.exit(result="")

    def _switch_to(self, number: int, _: KeyPressEvent) -> None:
        if number <= len(self.talk.desk.panes):
            self.talk.switch(self.talk.desk.panes[number - 1])

    def _switch_to_unread(self, _: KeyPressEvent) -> None:
        pane = self.talk.desk.next_unread()
        if pane is not None:
            self.talk.switch(pane)


class _Names(Completer):
    """Completes the word before the cursor: a command at the beginning of the line, else a nick."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what the word may become."""
        before = document.text_before_cursor
        word = before.rpartition(" ")[2]
        first = word == before
        if first and word.startswith("/"):
            found, end = self._talk.commands, " "
        else:
            at = "@" if word.startswith("@") else ""
            found, end = [at + printable(nick) for nick in self._talk.names], ": " if first and not at else " "
        for text in found:
            if text.casefold().startswith(word.casefold()):
                yield Completion(text + end, -len(word), display=text)


def _history() -> History:
    """Return the history of what was typed: a file of this user's alone, or none that outlives the program."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    path = pathlib.Path(state) / "evloop" / "chat-history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
            os.fchmod(file.fileno(), 0o600)
            if file.seek(0, os.SEEK_END) > HISTORY_MAX:
                file.seek(-HISTORY_MAX // 2, os.SEEK_END)
                rest = file.read()
                file.seek(0)
                file.truncate()
                file.write(rest[rest.find(b"\n# ") + 1 :])
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
