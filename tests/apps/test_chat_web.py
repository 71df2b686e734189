"""The chat over HTTP and WebSocket, on the port that speaks frames: the page, who may connect, sessions, codes."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import gzip
import json
import logging
import socket
import ssl
import threading
from http.client import HTTPConnection
from types import SimpleNamespace

import msgspec
import pytest
from chatpeers import QUICK, Chat, Client, chat, chats
from peers import PATIENCE
from programs import serving
from serving import call
from tlspeers import CERTIFICATES
from websocketpeers import BINARY, CLOSE, TEXT, client_frame, close_frame, frames_of, handshake, response_of, text
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from websockets.sync.client import connect

import evloop
from evloop.apps.admin import Admin
from evloop.apps.chat import ChatServer
from evloop.apps.chat.status import admin_options
from evloop.apps.chat.web import content_security_policy, parse_origin
from evloop.cli.program import run
from evloop.tls import server_context

JSON, MSGPACK = "evloop-chat.v1.json", "evloop-chat.v1.msgpack"


class Tab:
    """A client over WebSocket, made of a plain socket; ``tell`` and ``hear`` as a `Client` has them."""

    def __init__(self, chat, subprotocol=JSON, path="/ws", **changes):
        self.chat = chat
        self.peer = call(chat.world, chat.server.server)
        self.text = subprotocol == JSON
        offered = {} if subprotocol is None else {"Sec_WebSocket_Protocol": subprotocol}
        self.peer.write(handshake(path, **offered, **changes))
        chat.until(lambda: response_of(self.peer.received) is not None)
        self.status, self.headers, self.body = response_of(self.peer.received)

    def tell(self, kind, **fields):
        """Send a message."""
        encode = json.dumps if self.text else msgspec.msgpack.encode
        message = encode({"t": kind, **fields})
        self.peer.write(text(message) if self.text else client_frame(BINARY, message))
        return self

    def heard(self):
        """Return all messages so far, and the code of the close frame or None."""
        found, code = [], None
        for opcode, payload in frames_of(response_of(self.peer.received)[2])[0]:
            if opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big")
            else:
                assert opcode == (TEXT if self.text else BINARY)
                assert code is None, "nothing comes behind a close frame"
                found.append((json.loads if self.text else msgspec.msgpack.decode)(payload))
        return found, code

    def hear(self, kind, **expected):
        """Wait for a message of that kind, with these fields; return it."""

        def found():
            return [
                message
                for message in self.heard()[0]
                if message["t"] == kind and all(message.get(name) == value for name, value in expected.items())
            ]

        self.chat.until(lambda: found() or self.peer.ended)
        assert found(), self.heard()
        return found()[0]

    def hello(self, nick, *rooms, **fields):
        """Say hello, and join; return `welcome`."""
        self.tell("hello", v=1, client="tab", nick=nick, ref=1, **fields)
        welcome = self.hear("welcome")
        for ref, room in enumerate(rooms, 2):
            self.tell("join", room=room, ref=ref)
            self.hear("joined", ref=ref)
        return welcome

    def ended(self):
        """Wait for the end; return the last message and the code of the close frame."""
        self.chat.until(lambda: self.peer.ended)
        messages, code = self.heard()
        return messages[-1] if messages else None, code


def get(chat, path="/", *lines, method="GET", host="localhost"):
    """Return status, headers and body of an answer."""
    peer = call(chat.world, chat.server.server)
    head = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *lines, "", ""]
    peer.write("\r\n".join(head).encode())
    chat.until(lambda: peer.ended)
    return response_of(peer.received)


# --- one port --------------------------------------------------------------------------------------------------------


def test_chat_port_speaks_frames_and_websocket_and_pages_to_each_its_own(chat):
    """A room does not know how its members came."""
    framed = chat.client("amy", "r")
    tab, packed = Tab(chat), Tab(chat, MSGPACK)
    tab.hello("bob", "r")
    packed.hello("eve", "r")
    assert get(chat)[0] == 200
    tab.tell("say", room="r", body="\u4f60\u597d", cid="1", ref=9)
    assert tab.hear("ok", ref=9)["seq"] == 1
    framed.say("two")
    for member, bodies in ((tab, ["two"]), (packed, ["\u4f60\u597d", "two"])):
        member.hear("msg", body="two")
        assert [message["body"] for message in member.heard()[0] if message["t"] == "msg"] == bodies
    assert [message["body"] for message in framed.arrived() if message["t"] == "msg"] == ["\u4f60\u597d"]


@pytest.mark.parametrize("what", ["frames", "websocket", "page"])
def test_chat_port_byte_by_byte_tells_them_apart(chat, what):
    """The first byte may come alone, and the second much later."""
    hello = json.dumps({"t": "hello", "v": 1, "client": "x", "nick": "amy"}).encode()
    data = {
        "frames": evloop.Framing.U32.encode(hello),
        "websocket": handshake("/ws") + text(hello),
        "page": b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n",
    }[what]
    expected = {"frames": b'"t":"welcome"', "websocket": b'"t":"welcome"', "page": b"HTTP/1.1 426 Upgrade Required"}
    peer = call(chat.world, chat.server.server)
    for at in range(len(data)):
        peer.write(data[at : at + 1])
        chat.world.turn()
    chat.until(lambda: expected[what] in peer.received)


def test_chat_port_over_a_unix_socket_speaks_all_of_it(chat, tmp_path):
    """As a proxy would come."""
    server = ChatServer(chat.world.reactor, f"unix:{tmp_path}/chat", connections=QUICK)
    server.start()
    there = SimpleNamespace(world=chat.world, until=chat.until, server=server)
    Tab(there).hello("bob", "r")
    assert get(there, "/ws")[0] == 426
    hello = json.dumps({"t": "hello", "v": 1, "client": "x", "nick": "amy"}).encode()
    peer = call(chat.world, server.server).write(evloop.Framing.U32.encode(hello))
    chat.until(lambda: b'"t":"welcome"' in peer.received)
    server.shutdown(0)
    chat.until(lambda: not server.server.connections)


def test_chat_port_of_packets_speaks_frames_alone(chat, tmp_path):
    """Packets cannot change their framing, and no browser sends any."""
    server = ChatServer(chat.world.reactor, f"seqpacket:{tmp_path}/chat", connections=QUICK)
    server.start()
    hello = json.dumps({"t": "hello", "v": 1, "client": "x", "nick": "amy"}).encode()
    peer = call(chat.world, server.server).write(evloop.Framing.U32.encode(hello))
    chat.until(lambda: b'"t":"welcome"' in peer.received)
    server.shutdown(0)
    chat.until(lambda: not server.server.connections)


def test_chat_port_refuses_what_speaks_neither(chat):
    """TLS on a plain port is a frame of 369 MB, and is told so in the log; others are not hurt."""
    peer = call(chat.world, chat.server.server).write(b"\x16\x03\x01\x02\x00\x01")
    chat.until(lambda: chat.server.server.stats().get("closed_frame_too_large") == 1)
    assert peer.received == b""


def test_chat_port_closes_who_says_nothing(chats):
    """Whatever it is that does not come."""
    chat = chats(connections=QUICK.replace(first_frame_timeout=15.0))
    silent = call(chat.world, chat.server.server)
    half = call(chat.world, chat.server.server).write(b"\0")
    chat.world.settle()
    chat.world.advance(15.1)
    chat.until(lambda: silent.ended and half.ended)


# --- the page --------------------------------------------------------------------------------------------------------


def test_chat_page_is_served_with_its_policy_and_asked_about_by_its_tag(chat):
    """What somebody types is never run, and a page that is not new is not sent again."""
    status, headers, body = get(chat)
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<!doctype html>" in body[:20].lower()
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-cache"
    status, again, body = get(chat, "/", f"If-None-Match: {headers['etag']}")
    assert (status, body, again["etag"]) == (304, b"", headers["etag"])
    status, again, body = get(chat, "/", method="HEAD")
    assert (status, body, again["content-length"]) == (200, b"", headers["content-length"])


def test_chat_page_is_packed_for_who_takes_it(chat):
    """A third of the bytes, and another entity: its tag is its own."""
    plain = get(chat, "/chat.js")
    status, headers, body = get(chat, "/chat.js", "Accept-Encoding: gzip, br")
    assert (status, headers["content-encoding"], headers["vary"]) == (200, "gzip", "Accept-Encoding")
    assert gzip.decompress(body) == plain[2]
    assert len(body) < len(plain[2]) / 2
    assert headers["etag"] != plain[1]["etag"]
    assert get(chat, "/chat.js", "Accept-Encoding: gzip", f"If-None-Match: {headers['etag']}")[0] == 304
    assert get(chat, "/chat.js", f"If-None-Match: {headers['etag']}")[0] == 200


@pytest.mark.parametrize("path", ["/none", "/../wire.py", "/..%2fwire.py", "//etc/passwd", "/wire.py", "*"])
def test_chat_page_has_its_own_files_and_no_others(chat, path):
    """They were read at the start: no path is ever opened."""
    assert get(chat, path)[0] == 404


def test_chat_page_takes_no_post(chat):
    """There is nothing to post to."""
    status, headers, _ = get(chat, method="POST")
    assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_content_security_policy_names_what_the_page_holds():
    """By hash, which anybody can work out: echo -n 'a()' | openssl sha256 -binary | base64."""
    policy = content_security_policy("<script>a()</script><SCRIPT src=x></SCRIPT><style>b{}</style>")
    assert "script-src 'self' 'sha256-qVpDBgj7bpq5hMAcGp3AOc79J3Y1Z4HvySTwKrWDoy4=';" in policy
    assert policy.count("sha256-") == 2


# --- who may connect -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        (None, "localhost:9000", 101),  # no browser
        ("http://localhost:9000", "localhost:9000", 101),
        ("https://LOCALHOST:9000", "localhost:9000", 101),  # TLS may end in front of us
        ("http://localhost", "localhost:9000", 403),
        ("http://localhost:9001", "localhost:9000", 403),
        ("https://evil.example", "localhost:9000", 403),
        ("http://evil.example:9000", "evil.example:9000", 403),  # rebound to the loopback
        ("null", "localhost:9000", 403),  # a file, a sandbox
        ("file://localhost:9000", "localhost:9000", 403),
        ("https://chat.example", "127.0.0.1:9000", 101),  # --origin
        ("https://chat.example", "chat.example", 101),
        ("http://chat.example", "127.0.0.1:9000", 403),
    ],
)
def test_chat_page_of_a_stranger_may_not_connect(chats, origin, host, status):
    """It would use its reader's network, and loopback."""
    chat = chats(origins=["https://chat.example/"])
    tab = Tab(chat, host=host, Origin=origin)
    assert tab.status == status
    if status == 403:
        assert b"--origin" in tab.body


def test_chat_page_of_anybody_may_connect_if_that_is_wanted(chats):
    """A public server behind nothing."""
    chat = chats(origins=["*"])
    for origin in ("null", "https://evil.example"):
        assert Tab(chat, Origin=origin, host="evil.example").status == 101


@pytest.mark.parametrize(
    "value", ["", "chat.example", "https://a/b", "ftp://a", "https://", "https://a b", "https://u@a"]
)
def test_parse_origin_refuses_what_no_browser_sends(value):
    """It would never match, and nobody would know why."""
    with pytest.raises(ValueError, match="is no origin; write https://host"):
        parse_origin(value)


def test_chat_websocket_of_a_later_version_is_told_which_there_is(chat):
    """By name, in an answer that a person can read."""
    tab = Tab(chat, "evloop-chat.v2.json")
    assert tab.status == 400
    assert JSON.encode() in tab.body


def test_chat_websocket_elsewhere_is_none(chat):
    """404, and not a session."""
    assert Tab(chat, path="/chat").status == 404


# --- sessions --------------------------------------------------------------------------------------------------------


def test_chat_websocket_leaves_nothing_in_the_log_of_what_is_said(chat, caplog):
    """The package tells each connection at INFO and each message, with its text, at DEBUG; a log is read by others."""
    caplog.set_level(logging.DEBUG, logger="evloop")
    tab = Tab(chat)
    tab.tell("hello", v=1, client="secret")
    chat.until(lambda: tab.heard()[0])
    assert "secret" not in caplog.text and "connection open" not in caplog.text


def test_chat_websocket_without_a_subprotocol_speaks_json(chat):
    """As a browser's console does."""
    tab = Tab(chat, None, "/")
    tab.text = True
    tab.hello("amy", "r")


def test_chat_websocket_of_json_that_speaks_binary_is_closed_with_1003(chat):
    """The kind of frame is the subprotocol's."""
    tab = Tab(chat)
    tab.peer.write(client_frame(BINARY, b"{}"))
    assert tab.ended() == (None, 1003)


def test_chat_websocket_message_above_the_bound_is_closed_with_1009(chat):
    """64 KiB are answered, one more is not read."""
    tab = Tab(chat)
    tab.hello("amy")
    tab.peer.write(text(b" " * 65535 + b"{"))
    tab.hear("err")
    tab.peer.write(text(b" " * 65537))
    assert tab.ended()[1] == 1009


@pytest.mark.parametrize(
    ("sends", "code"),
    [
        ([b'{"t":"quit"}'], 1000),
        ([b"{}", b"[]", b"{"], 3505),
        ([b'{"t":"hello","v":9,"min":9,"client":"x"}'], 3501),
    ],
)
def test_chat_websocket_bye_is_a_message_and_the_close_code(chat, sends, code):
    """Who lost the one has the other."""
    tab = Tab(chat)
    for message in sends:
        tab.peer.write(text(message))
    last, closed = tab.ended()
    assert (last["t"], last["code"], closed) == ("bye", code, code)


def test_chat_websocket_of_a_stopping_server_is_told_when_to_come_back(chat):
    """3001: reconnect, after a while."""
    tab = Tab(chat)
    tab.hello("amy", "r")
    chat.server.shutdown()
    last, closed = tab.ended()
    assert (last["code"], last["reconnect"], closed) == (3001, True, 3001)
    assert last["after_ms"] >= 0


def test_chat_session_goes_on_from_websocket_to_frames(chat):
    """A session is not a connection: the terminal takes up what the browser had."""
    tab = Tab(chat)
    welcome = tab.hello("amy", "r")
    other = chat.client("bob", "r")
    tab.peer.reset()
    chat.until(lambda: chat.hub.stats()["sessions_held"] == 1)
    other.say("meanwhile")
    framed = chat.client(None)
    back = framed.hello(resume={"sid": welcome["sid"], "key": welcome["resume_key"]})
    assert (back["resumed"], back["nick"]) == (True, "amy")
    joined = framed.join("r", since={"epoch": framed.join("r")["epoch"], "seq": 0})
    assert [message["body"] for message in joined["history"]] == ["meanwhile"]
    assert "lost" not in [message.get("e") for message in other.arrived()]


def test_chat_websocket_close_of_a_tab_holds_the_session(chat):
    """A reload is a close with 1001, and is to miss nothing."""
    tab = Tab(chat)
    tab.hello("amy", "r")
    tab.peer.write(close_frame(1001))
    assert tab.ended()[1] == 1001
    tab.peer.close()
    chat.until(lambda: chat.hub.stats()["sessions_held"] == 1)


def test_chat_websocket_above_its_rate_is_read_more_slowly_and_loses_nothing(chats):
    """What came in one read waits in front of the server, message by message."""
    chat = chats(limits={"rate": 10.0, "burst": 5})
    tab = Tab(chat)
    tab.hello("amy", "r")
    for number in range(20):
        tab.tell("say", room="r", body=str(number), cid=str(number), ref=100 + number)
    chat.world.settle()
    answered = [message for message in tab.heard()[0] if message["t"] == "ok"]
    assert 0 < len(answered) <= 5
    for _ in range(60):
        chat.world.advance(0.1)
        chat.world.settle()
    assert [message["seq"] for message in tab.heard()[0] if message["t"] == "ok"] == list(range(1, 21))


def test_chat_websocket_that_reads_nothing_is_cut_and_the_others_go_on(chats):
    """3008 where it can still be said; its session waits for it."""
    chat = chats(connections=QUICK.replace(max_output=1 << 20, high_water=1 << 18, low_water=1 << 16))
    slow = Tab(chat)
    slow.hello("slow", "r")
    fast, framed = Tab(chat), chat.client("framed", "r")
    fast.hello("fast", "r")
    slow.peer.reading = False
    body = "x" * 8000
    for number in range(2000):
        fast.tell("say", room="r", body=body, cid=str(number))
        if number % 20 == 0:
            chat.world.turn()
        if chat.hub.stats()["sessions_held"]:
            break
    assert chat.hub.stats()["sessions_held"] == 1
    fast.tell("say", room="r", body="last", cid="last", ref=9)
    assert fast.hear("ok", ref=9)["seq"] == number + 2
    chat.until(lambda: framed.arrived()[-1].get("body") == "last")


def test_chat_websocket_that_says_no_hello_is_told_so(chat):
    """As a frame's client is."""
    tab = Tab(chat)
    chat.advance(12)
    last, closed = tab.ended()
    assert (last["t"], last["code"], closed) == ("bye", 3505, 3505)


# --- a client that is not ours -----------------------------------------------------------------------------------


@pytest.fixture(params=["ws", "wss"])
def url(request):
    """A chat server in a thread of its own; where its WebSocket is."""
    pem = CERTIFICATES / "server.pem"
    reactor = evloop.Reactor()
    server = ChatServer(reactor, "127.0.0.1:0", ssl=server_context(pem, pem) if request.param == "wss" else None)
    server.start()
    thread = threading.Thread(target=reactor.run_forever)
    thread.start()
    yield f"{request.param}://localhost:{server.address.port}/ws"
    reactor.call_soon_threadsafe(server.shutdown, 5, reactor.stop)
    thread.join(PATIENCE)
    reactor.close()


def test_chat_with_clients_of_the_websockets_package(url):
    """JSON and MessagePack, over TCP and TLS: both hear each other."""
    tls = {"ssl": ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")} if url.startswith("wss") else {}
    options = {"open_timeout": PATIENCE, "close_timeout": PATIENCE, **tls}
    with connect(url, subprotocols=[JSON], **options) as amy, connect(url, subprotocols=[MSGPACK], **options) as bob:
        for client, encode, decode, nick in (
            (amy, json.dumps, json.loads, "amy"),
            (bob, msgspec.msgpack.encode, msgspec.msgpack.decode, "bob"),
        ):
            client.send(encode({"t": "hello", "v": 1, "client": "x", "nick": nick, "ref": 1}))
            client.send(encode({"t": "join", "room": "r", "ref": 2}))
            assert [decode(client.recv(PATIENCE))["t"] for _ in range(2)] == ["welcome", "joined"]
        assert json.loads(amy.recv(PATIENCE)) == {"t": "ev", "e": "join", "room": "r", "who": "bob"}
        bob.send(msgspec.msgpack.encode({"t": "say", "room": "r", "body": "\u4f60\u597d", "cid": "1", "ref": 3}))
        assert json.loads(amy.recv(PATIENCE))["body"] == "\u4f60\u597d"
        amy.send(json.dumps({"t": "quit"}))
        assert json.loads(amy.recv(PATIENCE))["t"] == "bye"
        with pytest.raises(ConnectionClosedOK) as caught:
            amy.recv(PATIENCE)
        assert caught.value.rcvd.code == 1000


# --- what an operator sees ---------------------------------------------------------------------------------------


def ask(chat, admin, path):
    """Return the status and the body of an answer of the admin port."""
    address = admin.addresses[0]
    peer = chat.world.peer(socket.create_connection((address.host, address.port)), True)
    peer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    chat.until(lambda: peer.ended)
    peer.close()
    status, _, body = response_of(peer.received)
    return status, body.decode()


def test_chat_admin_port_shows_sessions_messages_rooms_and_codes(chat):
    """The chat's counters beside the connections'."""
    framed = chat.client("amy", "r", "quiet")
    Tab(chat).hello("bob", "r")
    framed.say("hello")
    assert framed.refused("say", room="nowhere", body="x", cid="x")
    with Admin(chat.server.server, "127.0.0.1:0", **admin_options(chat.hub)) as admin:
        admin.start()
        metrics = ask(chat, admin, "/metrics")[1]
        for line in (
            'evloop_chat_sessions{state="open"} 2.0',
            "evloop_chat_users 2.0",
            "evloop_chat_messages_total 1.0",
            'evloop_chat_errors_total{code="no_room"} 1.0',
        ):
            assert f"{line}\n" in metrics
        shown = json.loads(ask(chat, admin, "/statusz")[1])
        assert shown["rooms"] == [{"room": "r", "users": 2}, {"room": "quiet", "users": 1}]
        assert shown["chat"]["said"] == 1
        assert ask(chat, admin, "/readyz") == (200, "ok\n")
        chat.hub.degraded = True
        assert ask(chat, admin, "/readyz") == (503, "the store is degraded\n")
        chat.hub.degraded = False


# --- the command -------------------------------------------------------------------------------------------------


def test_serve_chat_prints_where_the_page_is_and_serves_it():
    """What a person clicks on; the admin port knows of the rooms."""
    with serving("chat", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--origin", "https://chat.example") as server:
        shown = server.wait_for("err", b"stop it")
        assert f"open it:        http://{server.address}/\n".encode() in shown
        client = HTTPConnection(server.address, timeout=PATIENCE)
        for path, kind in (("/", "text/html"), ("/style.css", "text/css"), ("/app.js", "text/javascript")):
            client.request("GET", path)  # on one connection
            answer = client.getresponse()
            assert (answer.status, answer.headers.get_content_type()) == (200, kind)
            assert len(answer.read()) > 1000
        client.close()
        options = {"open_timeout": PATIENCE, "origin": "https://chat.example", "subprotocols": [JSON]}
        with connect(f"ws://{server.address}/ws", **options) as tab:
            tab.send('{"t":"hello","v":1,"client":"x"}')
            assert json.loads(tab.recv(PATIENCE))["motd"] == "\u670d\u52a1\u7aef\u5df2\u5c31\u7eea"
            tab.send('{"t":"join","room":"r"}')
            assert json.loads(tab.recv(PATIENCE))["t"] == "joined"
            admin = HTTPConnection(server.wait_for("out", b"ADMIN tcp ").split()[-1].decode(), timeout=PATIENCE)
            admin.request("GET", "/statusz")
            assert json.loads(admin.getresponse().read())["rooms"] == [{"room": "r", "users": 1}]
            admin.close()


def test_serve_chat_refuses_an_origin_that_is_none(capfd):
    """Before anything listens, with what it should look like."""
    assert run(["serve", "chat", "--origin", "chat.example"]) == 2
    assert "write https://host or http://host:port, null, or *" in capfd.readouterr().err
