"""aiohttp on our loop, client and server: protocols and timers of its own, C parsers, sendfile, TLS, websockets."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio
import contextlib
import io
import os

import aiohttp
import pytest
from aiohttp import web
from aioloops import run_program, until
from tlspeers import foreign_client, foreign_server

MIB = 1 << 20


@contextlib.asynccontextmanager
async def serving(*routes, path=None, ssl=None, **options):
    """Serve the routes; yield a session whose base URL is the server."""
    app = web.Application(client_max_size=64 * MIB)
    app.add_routes(routes)
    runner = web.AppRunner(app, shutdown_timeout=1, **options)
    await runner.setup()
    if path is None:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl)
        connector = aiohttp.TCPConnector(ssl=True if ssl is None else foreign_client())
    else:
        site, connector = web.UnixSite(runner, path), aiohttp.UnixConnector(path)
    await site.start()
    name = runner.addresses[0]
    base = f"http{'s' * (ssl is not None)}://localhost:{name[1]}" if path is None else "http://localhost"
    try:
        async with aiohttp.ClientSession(base, connector=connector) as session:
            yield session
    finally:
        await runner.cleanup()


async def mirror(request):
    return web.Response(body=await request.read(), headers={"X-Method": request.method})


@pytest.fixture(params=["tcp", "unix", "tls"])
def transport(request, tmp_path):
    """The keywords of serving() for each kind of transport."""
    return {"tcp": {}, "unix": {"path": str(tmp_path / "http.sock")}, "tls": {"ssl": foreign_server()}}[request.param]


def test_http_bodies_of_all_sizes_come_back(run_program, transport):
    """From one segment to far above the water marks, over each kind of transport."""

    async def program():
        async with serving(web.route("*", "/", mirror), **transport) as session:
            for size in (0, 1, 65_535, 65_536, 8 * MIB):
                body = os.urandom(size)
                async with session.post("/", data=io.BytesIO(body)) as reply:
                    assert (reply.status, reply.headers["X-Method"]) == (200, "POST")
                    assert await reply.read() == body
            async with session.get("/") as reply:
                assert await reply.read() == b""

    run_program(program)


def test_http_streams_pass_in_both_directions_at_once(run_program, transport):
    """Each piece is answered before the next one is sent: nothing may wait for a buffer to fill."""

    async def upper(request):
        reply = web.StreamResponse()
        await reply.prepare(request)
        async for piece in request.content.iter_any():
            await reply.write(piece.upper())
        await reply.write_eof()
        return reply

    async def program():
        answered = asyncio.Queue()

        async def pieces():
            for i in range(50):
                yield f"piece {i};".encode()
                await answered.get()

        async with serving(web.post("/", upper), **transport) as session, session.post("/", data=pieces()) as reply:
            for i in range(50):
                assert await reply.content.readuntil(b";") == b"PIECE %d;" % i
                answered.put_nowait(None)
            assert await reply.read() == b""

    run_program(program)


def test_http_keep_alive_uses_one_connection(run_program, transport):
    """A connection that were lost between two requests would go unnoticed: the client opens another one."""
    seen = set()

    async def who(request):
        seen.add(id(request.transport))
        return web.Response(text="me")

    async def program():
        async with serving(web.get("/", who), **transport) as session:
            for _ in range(50):
                async with session.get("/") as reply:
                    assert await reply.text() == "me"
        assert len(seen) == 1

    run_program(program)


def test_http_many_requests_at_once_have_their_own_replies(run_program):
    """More requests than the pool has connections, and replies in any order."""

    async def number(request):
        await asyncio.sleep(0.001 * (int(request.match_info["n"]) % 5))
        return web.Response(text=request.match_info["n"])

    async def one(session, i):
        async with session.get(f"/{i}") as reply:
            return await reply.text()

    async def program():
        async with serving(web.get("/{n}", number)) as session:
            replies = await asyncio.gather(*(one(session, i) for i in range(300)))
        assert replies == [str(i) for i in range(300)]

    run_program(program)


def test_http_files_are_sent_whole(run_program, transport, tmp_path):
    """A file goes by sendfile(2) behind the head of the reply, which must not be overtaken; with TLS by reads."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(5 * MIB + 1))

    async def answer(_request):
        return web.FileResponse(path)

    async def program():
        async with serving(web.get("/", answer), **transport) as session:
            for _ in range(3):
                async with session.get("/") as reply:
                    assert await reply.read() == path.read_bytes()
            async with session.get("/", headers={"Range": "bytes=7-1000006"}) as reply:
                assert (reply.status, await reply.read()) == (206, path.read_bytes()[7:1_000_007])

    run_program(program)


def test_http_websocket_messages_pings_and_close_codes_arrive(run_program, transport):
    """A connection that changes its protocol half-way."""

    async def talk(request):
        peer = web.WebSocketResponse(max_msg_size=2 * MIB)
        await peer.prepare(request)
        async for message in peer:
            if message.data == "bye":
                await peer.close(code=4000, message=b"bye to you")
            else:
                await peer.send_str(message.data)
        return peer

    async def program():
        async with (
            serving(web.get("/", talk), **transport) as session,
            session.ws_connect("/", max_msg_size=2 * MIB, heartbeat=5) as peer,
        ):
            for text in ("", "\u00e4", "x" * MIB):
                await peer.send_str(text)
                assert await peer.receive_str() == text
            await peer.ping(b"are you there")
            await peer.send_str("bye")
            last = await peer.receive()
            assert (last.type, last.data, last.extra) == (aiohttp.WSMsgType.CLOSE, 4000, "bye to you")

    run_program(program)


def test_http_client_cancelled_or_timed_out_frees_the_server(run_program):
    """The server's handler is cancelled when its client has gone, and other requests go on."""
    ends = []

    async def hang(request):
        try:
            await asyncio.Event().wait()
        finally:
            ends.append(request.path)

    async def program():
        async with serving(
            web.get("/hang/{n}", hang), web.route("*", "/", mirror), handler_cancellation=True
        ) as session:
            with pytest.raises(asyncio.TimeoutError):
                await session.get("/hang/1", timeout=aiohttp.ClientTimeout(total=0.05))
            await until(lambda: ends == ["/hang/1"])
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(session.get("/hang/2"), 0.05)
            await until(lambda: ends == ["/hang/1", "/hang/2"])
            async with session.post("/", data=b"still here") as reply:
                assert await reply.read() == b"still here"

    run_program(program)


def test_http_client_that_leaves_a_long_reply_ends_its_handler(run_program, transport):
    """The server is held back by a client that reads nothing, and then loses it: both while it writes."""
    ends = []

    async def flood(request):
        reply = web.StreamResponse()
        await reply.prepare(request)
        try:
            while True:
                await reply.write(b"x" * 65_536)
                await asyncio.sleep(0)  # asyncio's TLS learns of the loss in a turn of its own
        except ConnectionError:
            ends.append("gone")
            raise

    async def program():
        async with serving(web.get("/", flood), **transport) as session:
            async with session.get("/") as reply:
                await reply.content.readexactly(MIB)
                reply.close()
            await until(lambda: ends)

    run_program(program)


def test_http_server_gone_is_an_error_of_the_client(run_program):
    """Refused, cut before and cut within a reply: each has its exception."""

    async def cut(request):
        if request.path == "/within":
            reply = web.StreamResponse(headers={"Content-Length": "100"})
            await reply.prepare(request)
            await reply.write(b"some")
        request.transport.abort()
        return web.Response()

    async def program():
        async with serving(web.get("/{when}", cut)) as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get("/before")
            with pytest.raises(aiohttp.ClientError):
                async with session.get("/within") as reply:
                    await reply.read()
            base = session._base_url
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(base / "refused")

    run_program(program)


def test_http_shutdown_lets_the_request_that_runs_end(run_program):
    """A server that stops listens no more and still answers what it has taken."""

    async def program():
        entered, go_on = asyncio.Event(), asyncio.Event()

        async def slow(_request):
            entered.set()
            await go_on.wait()
            return web.Response(text="done")

        app = web.Application()
        app.add_routes([web.get("/", slow)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            asking = asyncio.ensure_future(session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/"))
            await entered.wait()
            stopping = asyncio.ensure_future(runner.cleanup())
            await asyncio.sleep(0)
            go_on.set()
            async with await asking as reply:
                assert await reply.text() == "done"
            await stopping

    run_program(program)
