"""uvicorn on our loop, as people start it: --loop MODULE:FACTORY, an ASGI application, HTTP and SIGTERM."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import signal
import socket
import subprocess
import sys

import pytest
from aioloops import PATIENCE
from programs import environment

MIB = 1 << 20

APPLICATION = '''
import asyncio


async def app(scope, receive, send):
    """Echo the body once it is whole, in pieces, and say on which loop."""
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    loop = type(asyncio.get_running_loop())
    headers = [(b"x-loop", f"{loop.__module__}.{loop.__qualname__}".encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    pieces = []
    while not pieces or event["more_body"]:
        event = await receive()
        pieces.append(event["body"])
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
'''


class UnixConnection(http.client.HTTPConnection):
    """http.client on a UNIX socket; *host* is its path."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self.host)


def wait_for(stream, text):
    """Return what *stream* says, up to the line with *text*."""
    said = b""
    while text not in said:
        assert select.select([stream], [], [], PATIENCE)[0], f"nothing more after {said!r}"
        data = os.read(stream.fileno(), 65_536)
        assert data, f"ended after {said!r}"
        said += data
    return said


@pytest.mark.parametrize("debug", ["0", "1"], ids=["plain", "debug"])
def test_uvicorn_serves_requests_and_ends_in_good_order_at_sigterm(tmp_path, debug):
    """The loop's signals, its keep-alive and its shutdown, under a server that half the web runs on."""
    (tmp_path / "application.py").write_text(APPLICATION)
    path = str(tmp_path / "asgi.sock")
    command = [sys.executable, "-m", "uvicorn", "--loop", "evloop.aio:new_event_loop", "--uds", path, "application:app"]
    # Its own imports may warn, and are not what is tested.
    env = environment(PYTHONASYNCIODEBUG=debug, PYTHONWARNINGS="default")
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=tmp_path, env=env) as server:
        try:
            wait_for(server.stderr, b"Uvicorn running on")
            with contextlib.closing(UnixConnection(path)) as client:
                for body in (b"", b"x", os.urandom(MIB), b"again"):
                    client.request("POST", "/", body)
                    reply = client.getresponse()
                    assert (reply.status, reply.getheader("x-loop")) == (200, "evloop.aio.loop.EventLoop")
                    assert reply.read() == body
            server.send_signal(signal.SIGTERM)
            said = server.stderr.read().decode()
            assert "Application shutdown complete" in said
            assert "Traceback" not in said
            assert "Warning" not in said
            assert server.wait(PATIENCE) in (0, -signal.SIGTERM)  # it restores the signal, and lets itself be killed
        finally:
            server.kill()
