"""``evloop chat`` in a pipe: lines in are said, what others say comes out, and the rest goes to stderr.

``[room] nick: text`` is one line, whatever is in the text.

Rule: nothing in this file may decide what a line says.  Read next: ``chat_talk.py``, ``standard_streams.py``.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

from evloop.apps.chat.client import Client, Message, Status
from evloop.cli import exits
from evloop.cli.chat_desk import Pane
from evloop.cli.chat_lines import Line, plain
from evloop.cli.chat_talk import Talk
from evloop.cli.chat_texts import Texts
from evloop.cli.printable import printable
from evloop.cli.standard_streams import Input, Output

# Lines read and not acted on; above it no more is read.
LINES = 100

# Bytes of one line of input: the longest body and a command in front, many times over.
LINE_MAX = 64 * 1024


class Pipe:
    """Standard input and output as the two directions of a chat.

    Args:
        reads_input: take descriptor 0; otherwise only listen.
        quiet: say nothing on stderr.
        patience: seconds that the server may be gone (float > 0), or None: for ever.

    Attributes: talk: what is said and heard.
    Owns: its tasks while :meth:`run` runs.  Event-loop thread of evloop's own loop only.
    """

    def __init__(
        self, client: Client, texts: Texts, *, reads_input: bool, quiet: bool, patience: float | None, history: int
    ) -> None:
        self.talk = Talk(client, texts, self, all_rooms=True, history=history)
        self._client = client
        self._reads_input = reads_input
        self._quiet = quiet
        self._patience = patience
        self._lines: deque[str] = deque()
        self._begun = bytearray()
        self._ended = False
        loop: Any = asyncio.get_running_loop()
        self._loop = loop
        self._input = Input(loop, 0, self._received, self._failed)
        self._output = Output(loop, 1, full=self._hold, empty=self._release, broken=self._broken)
        self._more = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._over: asyncio.Future[None] = loop.create_future()
        self._gone: asyncio.TimerHandle | None = None

    async def run(self, rooms: Sequence[str]) -> None:
        """Enter *rooms* and talk, until the input ends and everything is confirmed, or until the server is gone.

        Raises: exits.Failure: the server refused something, or stayed away; Ended, Refused: it wants us no more;
        BrokenPipeError: nobody reads the output.
        """
        tasks: list[asyncio.Future[None]] = [asyncio.ensure_future(self._listen()), self._over]
        tasks.append(asyncio.ensure_future(self._speak(rooms)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            self._input.pause()
            if self._gone is not None:
                self._gone.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._output.finish()
        if self.talk.refusal:
            raise exits.Failure(self.talk.refusal, exits.REFUSED)

    async def _listen(self) -> None:
        async for event in self._client.events():
            if isinstance(event, Status):
                self._watch(event)
            if not (isinstance(event, Message) and event.own):  # whoever wrote the input knows it
                self.talk.take(event)
            await self.room()

    async def _speak(self, rooms: Sequence[str]) -> None:
        for room in rooms:
            await self.talk.enter(room)
            if self.talk.refusal:
                return
        if not self._reads_input:
            await self._over
        self._input.resume()
        while True:
            while not self._lines:
                if self._ended:
                    await self._client.flush()
                    return
                self._more.clear()
                await self._more.wait()
            line = self._lines.popleft()
            self._continue()
            await self._client.drain()
            if self.talk.leaves(line):
                await self._client.flush()
                return
            await self.talk.typed(line)

    def _watch(self, status: Status) -> None:
        """Give up a server that stays away."""
        if status.state == "connected" and self._gone is not None:
            self._gone.cancel()
            self._gone = None
        elif status.state == "reconnecting" and self._gone is None and self._patience is not None:
            self._gone = self._loop.call_later(self._patience, self._give_up, status.reason)

    def _give_up(self, reason: str) -> None:
        text = f"the server is gone: {reason}; --timeout says how long it may be"
        self._finish(exits.Failure(text, exits.PEER))

    def _finish(self, cause: BaseException) -> None:
        if not self._over.done():
            self._over.set_exception(cause)

    # --- the input ----------------------------------------------------------------------------------------------

    def _received(self, data: bytes) -> None:
        self._begun += data
        *lines, rest = self._begun.split(b"\n")
        if not data:
            lines, self._ended = [*lines, rest] if rest else lines, True
            rest = bytearray()
        self._begun = bytearray(rest)
        for size in (*map(len, lines), len(rest)):
            if size > LINE_MAX:
                text = f"a line of {size} bytes or more exceeds {LINE_MAX}; a message has at most 8192"
                self._finish(exits.Failure(text, exits.FAILED))
                return
        self._lines.extend(line.decode(errors="replace") for line in lines)
        self._continue()
        self._more.set()

    def _continue(self) -> None:
        if self._ended or len(self._lines) > LINES:
            self._input.pause()
        else:
            self._input.resume()

    def _failed(self, exc: OSError) -> None:
        self._finish(exits.Failure(f"cannot read the standard input: {exc.strerror}", exits.FAILED))

    # --- the output ---------------------------------------------------------------------------------------------

    def show(self, pane: Pane | None, line: Line, *, data: bool) -> None:
        """Write *line*: what was said and what was asked for to stdout, the rest to stderr."""
        if data:
            text = plain([piece for piece in line if piece[0] != "class:time"])
            label = f"[{printable(pane.label)}] " if pane is not None else ""
            self._output.write(f"{label}{text}\n".encode(errors="replace"))
        elif not self._quiet:
            print(plain(line), file=sys.stderr)

    async def room(self) -> None:
        """Wait until the reader takes what there is."""
        await self._writable.wait()

    def changed(self) -> None:
        """Do nothing: a pipe has no place for the state of things."""

    def bell(self) -> None:
        """Do nothing: nobody is there to hear it."""

    def _hold(self) -> None:
        self._writable.clear()

    def _release(self) -> None:
        self._writable.set()

    def _broken(self, exc: OSError) -> None:
        self._writable.set()
        self._finish(BrokenPipeError(*exc.args))
