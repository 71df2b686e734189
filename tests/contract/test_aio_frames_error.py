"""What a subclass of BufferedFrames may still say when its peer's bytes are no frame; on each kind of loop."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import pytest
from test_aio_frames import Diary, connected, encode, receive, run, send, until, uvloop_has_its_pipe

from evloop import FrameTooLarge


class Answering(Diary):
    """Sends a last word, and then does what it was told to."""

    def __init__(self, then=lambda protocol: None):
        super().__init__(max_frame=100)
        self.errors = []
        self.then = then

    def framing_error(self, exc):
        self.errors.append(exc)
        self.send(b"bye")
        self.then(self)


@pytest.mark.parametrize("then", [lambda protocol: None, Answering.close], ids=["nothing", "close"])
def test_framing_error_of_asyncio_frames_sends_a_last_word(run, then):
    """As of an evloop.Protocol: all before the fault is delivered, and close() is what comes anyway."""

    async def program():
        async with connected(lambda: Answering(then)) as (server, sock):
            await send(sock, encode(b"first") + (101).to_bytes(4, "big"))
            assert await receive(sock, 100) == encode(b"bye")
            await until(lambda: server.lost)
            assert (server.frames, server.events) == ([b"first"], ["made", server.errors[0]])
            assert [type(exc) for exc in server.errors] == [FrameTooLarge]

    run(program)


def test_framing_error_of_asyncio_frames_that_raises_ends_as_any_callback(run):
    """It is told to the loop's handler, and is what the connection was lost for."""

    async def program():
        async with connected(lambda: Answering(lambda protocol: 1 // 0)) as (server, sock):
            await send(sock, b"\xff" * 4)
            assert await receive(sock, 100) == encode(b"bye")
            await until(lambda: server.lost)
            assert type(server.events[-1]) is ZeroDivisionError

    run(program)
    (context,) = run.told
    assert type(context["exception"]) is ZeroDivisionError
    run.told = []
