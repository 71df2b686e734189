"""One connection to a chat server: requests with their answers, pushes, and proof that the server is still there.

Rule: nothing in this file may know a room, or connect again.  Read next: ``client.py``, which does both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from evloop.aio import BufferedFrames
from evloop.apps.chat import wire
from evloop.apps.chat.client.errors import Disconnected, Ended, Later, Refused

Answered = Callable[[Any], object]

# Seconds that a server, asked after a silence, has to answer: slow mobile networks take a few.
PATIENCE = 10.0


class Link(BufferedFrames):
    """A connection, from the loop's protocol factory on.

    Args:
        codec: the encoding of both directions.
        pushed: called with each message of the server that answers nothing (a wire struct).

    Attributes:
        bye: the server's goodbye (:class:`wire.Bye`), or None.
        closed: a future, with the exception that ended the connection as its result, or None for an orderly end.
        waiting: how many requests have no answer yet.

    An answer is handed out at its place among the pushes.  Event-loop thread only.
    """

    def __init__(self, codec: wire.Codec, pushed: Callable[[Any], object]) -> None:
        super().__init__(max_frame=wire.MAX_REPLY)
        loop = asyncio.get_running_loop()
        self.bye: wire.Bye | None = None
        self.closed: asyncio.Future[BaseException | None] = loop.create_future()
        self._event_loop = loop
        self._codec = codec
        self._pushed = pushed
        self._answers: dict[int, Answered] = {}
        self._ref = 0
        self._cause: BaseException | None = None
        self._heard = loop.time()
        self._watch: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many requests have no answer yet."""
        return len(self._answers)

    def tell(self, message: Any) -> None:
        """Send *message* (a wire struct); nothing answers it."""
        self.send(self._codec.encode(message))

    def request(self, message: Any, answered: Answered) -> int:
        """Send *message*, and call *answered* with its answer, a wire struct; return the number of the request.

        If the connection ends first, *answered* is never called.
        """
        self._ref += 1
        message.ref = self._ref
        payload = self._codec.encode(message)
        self._answers[self._ref] = answered
        self.send(payload)
        return self._ref

    def ask(self, message: Any, first: Answered | None = None) -> Coroutine[Any, Any, Any]:
        """Send *message*, and return what gives its answer when it is awaited; *first* gets it at once.

        Raises, when awaited: Refused: it is an ``err``; Disconnected: none came.
        """
        answer: asyncio.Future[Any] = self._event_loop.create_future()

        def answered(reply: Any) -> None:
            if first is not None:
                first(reply)
            if not answer.done():
                answer.set_result(reply)

        self.request(message, answered)
        return self._answer(answer)

    async def _answer(self, answer: asyncio.Future[Any]) -> Any:
        await asyncio.wait([answer, self.closed], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise Disconnected("the connection was lost before the answer came")
        reply = answer.result()
        if type(reply) is wire.Err:
            raise refused(reply)
        return reply

    def watch(self, silence: float) -> None:
        """From now on ask a server that says nothing for *silence* seconds, and give up one that does not answer."""
        self._silence = silence
        self._heard = self._event_loop.time()
        self._watch = self._event_loop.call_later(silence, self._look, None)

    def fail(self, cause: BaseException) -> None:
        """End the connection at once; *cause* becomes the result of ``closed``."""
        if self._cause is None:
            self._cause = cause
        self.abort()

    def frame_received(self, frame: bytes) -> None:
        """Hand out one message of the server.  Called by the loop."""
        self._heard = self._event_loop.time()
        if not frame:  # a heartbeat
            return
        try:
            message = self._codec.decode_reply(frame)
        except wire.DECODE_ERRORS as exc:
            self.fail(ValueError(f"the server sent what is no message of evloop-chat/1: {str(exc)[:200]}"))
            return
        if type(message) is wire.Ping:
            self.tell(wire.Pong(n=message.n))
        elif type(message) is wire.Bye:
            self.bye = message
            self.close()
        elif message.ref is not None and (answered := self._answers.pop(message.ref, None)) is not None:
            answered(message)
        elif type(message) is not wire.Pong:
            self._pushed(message)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note the end.  Called by the loop."""
        if self._watch is not None:
            self._watch.cancel()
        self._answers.clear()
        if not self.closed.done():
            self.closed.set_result(self._cause or exc)

    def _look(self, asked: float | None) -> None:
        """Look whether the server has been heard of; *asked* is when a ping was sent after a silence, or None."""
        now = self._event_loop.time()
        if not self.is_reading():  # it may have said a lot: we do not listen
            self._heard = now
        silent = now - self._heard
        if asked is not None and self._heard < asked:
            self.fail(TimeoutError(f"the server has said nothing for {silent:.0f} s"))
        elif silent < self._silence:
            self._watch = self._event_loop.call_later(self._silence - silent, self._look, None)
        else:
            self.tell(wire.Ping())
            self._watch = self._event_loop.call_later(PATIENCE, self._look, now)


def checked(message: Any) -> Any:
    """Return *message*.  ValueError: the server would call it malformed, and after three of these say goodbye."""
    try:
        wire.JSON.decode_request(wire.JSON.encode(message))
    except wire.DECODE_ERRORS as exc:
        raise ValueError(f"it cannot be sent: {exc}") from None
    return message


def refused(reply: wire.Err) -> Refused:
    """Return the exception that *reply* is."""
    return Refused(reply.code, reply.text, temp=reply.temp, retry_in=(reply.retry_ms or 0) / 1000)


def parted(bye: wire.Bye) -> Ended | Later:
    """Return the exception that *bye* is: Later, to come back, or Ended."""
    if wire.comes_back(bye):
        return Later(f"{bye.text} ({bye.code})", (bye.after_ms or 0) / 1000)
    return Ended(bye.code, bye.text)
