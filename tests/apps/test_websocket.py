"""The WebSocket server side: frames made by hand, and a client that is not ours."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import gc
import random
import ssl
import threading
import weakref

import pytest
from peers import PATIENCE, World, connection_class, narrow_pair, tcp_pair, world
from tlspeers import CERTIFICATES
from websocketpeers import (
    ACCEPT,
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    client_frame,
    close_frame,
    handshake,
    messages_of,
    response_of,
    text,
)
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

import evloop
from evloop import CloseReason, Limits
from evloop.apps import websocket
from evloop.apps.http import HttpProtocol, refusal
from evloop.apps.websocket import WebSocket, data_frame
from evloop.tls import server_context

NAMES = ["demo.v1.json", "demo.v1.msgpack"]
MAX = 65536


class Echo(WebSocket):
    """Sends each message back; a word or two are orders."""

    def __init__(self, reactor):
        super().__init__(reactor, NAMES, MAX)
        self.messages = []
        self.lost = 0

    def message_received(self, payload):
        self.messages.append(payload)
        if payload == b"pause":
            return self.pause_reading()
        if payload == b"bye":
            return self.close(3501, "\u518d\u89c1" * 30)
        if payload == b"raise":
            raise ZeroDivisionError
        return self.send(payload)

    def connection_lost(self, exc):
        super().connection_lost(exc)
        self.lost += 1


def http_protocol(reactor, sockets):
    """Return a protocol whose connection becomes an `Echo` on request, which is appended to *sockets*."""

    def upgrade(conn, request, rest):
        if not request.wants_upgrade("websocket"):
            return False
        echo = Echo(reactor)
        sockets.append(echo)
        if echo.begin(conn, request):
            echo.text = echo.subprotocol == NAMES[0]
            conn.set_protocol(echo)
            if rest:
                echo.data_received(rest)
        return True

    return HttpProtocol(reactor, lambda request: refusal(404, "nothing"), upgrade)


def start(world, data=b"", *, pair=tcp_pair, **limits):
    """Return a WebSocket's server side, its connection and its peer, after a handshake with *data* behind it."""
    sockets = []
    conn, peer = world.connect(http_protocol(world.reactor, sockets), framing=None, reading=True, pair=pair, **limits)
    peer.write(handshake() + data)
    world.until(lambda: response_of(peer.received) is not None)
    assert response_of(peer.received)[0] == 101
    world.settle()
    return sockets[0], conn, peer


def talk(world, data):
    """Return what comes back for *data* after a handshake, until nothing more comes or the server ends."""
    _, _, peer = start(world, data)
    world.settle()
    return messages_of(peer.received)


# --- the handshake -----------------------------------------------------------------------------------------------


def test_websocket_handshake_is_accepted_with_the_right_key(world):
    """RFC 6455, 4.2.2; no extension is agreed on, whatever is offered."""
    sockets = []
    _, peer = world.connect(http_protocol(world.reactor, sockets), framing=None, reading=True)
    peer.write(handshake("/ws", Sec_WebSocket_Extensions="permessage-deflate", Sec_WebSocket_Protocol=f"x, {NAMES[1]}"))
    world.until(lambda: response_of(peer.received) is not None)
    status, headers, rest = response_of(peer.received)
    assert (status, headers["sec-websocket-accept"], rest) == (101, ACCEPT, b"")
    assert headers["sec-websocket-protocol"] == NAMES[1]
    assert "sec-websocket-extensions" not in headers
    assert sockets[0].subprotocol == NAMES[1]


def test_websocket_without_a_subprotocol_speaks_the_first(world):
    """A client that was typed in a browser's console offers none, and is not told of one (RFC 6455, 4.2.2)."""
    _, _, peer = start(world)
    assert "sec-websocket-protocol" not in response_of(peer.received)[1]


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"Sec_WebSocket_Protocol": "demo.v2.json"}, 400, b"spoken here: demo.v1.json, demo.v1.msgpack"),
        ({"Sec_WebSocket_Key": None}, 400, b"Sec-WebSocket-Key"),
        ({"Sec_WebSocket_Key": "short"}, 400, b"Sec-WebSocket-Key"),
        ({"Sec_WebSocket_Version": "8"}, 400, b"Sec-WebSocket-Version"),
        ({"Upgrade": "websocket, h2c"}, 426, b"Upgrade"),
        ({"Content_Length": "5"}, 400, b""),
        ({"Transfer_Encoding": "chunked"}, 400, b""),
    ],
)
def test_websocket_handshake_that_is_none_is_told_why(world, changes, status, says):
    """The connection ends with an answer, and not as a WebSocket."""
    sockets = []
    _, peer = world.connect(http_protocol(world.reactor, sockets), framing=None, reading=True)
    peer.write(handshake(**changes))
    world.until(lambda: peer.ended)
    assert peer.eof
    found, headers, body = response_of(peer.received)
    assert found == status
    assert says in body
    assert headers["connection"] == "close"
    assert int(headers["content-length"]) == len(body)


def test_websocket_handshake_and_frames_byte_by_byte_are_the_same(world):
    """How the bytes are cut says nothing about what they mean."""
    data = (
        handshake()
        + text("one")
        + client_frame(TEXT, b"tw", fin=False)
        + client_frame(PING, b"p")
        + client_frame(CONT, b"o")
        + text("x" * 200)
        + close_frame(1000)
    )
    received = []
    for step in (1, 7, len(data)):
        _, peer = world.connect(http_protocol(world.reactor, []), framing=None, reading=True)
        for at in range(0, len(data), step):
            peer.write(data[at : at + step])
            world.turn(2)
        world.until(lambda peer=peer: peer.ended)
        received.append(messages_of(peer.received))
    assert received[0] == received[1]
    # All at once, the ping is answered before the messages of its portion are: their order is nobody's promise.
    assert sorted(received[1]) == sorted(received[2])
    assert received[0] == [(TEXT, b"one"), (PONG, b"p"), (TEXT, b"two"), (TEXT, b"x" * 200), (CLOSE, 1000, "")]


# --- messages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
def test_websocket_message_of_each_kind_of_length_comes_back(world, size):
    """The header has 2, 4 or 10 bytes, in both directions."""
    assert talk(world, text(b"x" * size)) == [(TEXT, b"x" * size)]


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 70000])
@pytest.mark.parametrize("is_text", [True, False])
def test_data_frame_is_what_the_package_would_send(size, is_text):
    """It is made once for all receivers, and not by the package."""
    from websockets.frames import Frame, Opcode

    payload = b"x" * size
    expected = Frame(Opcode.TEXT if is_text else Opcode.BINARY, payload).serialize(mask=False)
    assert data_frame(payload, text=is_text) == expected


def test_websocket_message_above_the_bound_closes_with_1009(world):
    """It is refused by its header: nothing was allocated for it."""
    head = client_frame(TEXT, b"x" * (MAX + 1))[:14]
    ((opcode, code, reason),) = talk(world, head)
    assert (opcode, code) == (CLOSE, 1009)
    assert str(MAX) in reason


def test_websocket_fragments_above_the_bound_close_with_1009(world):
    """It is the message that is bounded."""
    data = client_frame(TEXT, b"x" * MAX, fin=False) + client_frame(CONT, b"x")
    assert [item[:2] for item in talk(world, data)] == [(CLOSE, 1009)]


def test_websocket_empty_fragments_hold_nothing(world):
    """A message may have any number of them; what is kept is their bytes."""
    echo, _, peer = start(world, client_frame(TEXT, b"a", fin=False))
    peer.write(client_frame(CONT, fin=False) * 20_000 + client_frame(CONT, b"b"))
    world.until(lambda: echo.messages)
    assert echo.messages == [b"ab"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (client_frame(BINARY, b"x"), 1003),
        (client_frame(BINARY, b"x", fin=False) + client_frame(CONT, b"x"), 1003),
        (text(b"\xff"), 1007),
        (client_frame(TEXT, b"\xe4\xbd", fin=False) + client_frame(CONT, b"x"), 1007),
        (client_frame(TEXT, b"x", mask=None), 1002),
        (client_frame(TEXT, b"x", bits=0x40), 1002),
        (client_frame(3, b"x"), 1002),
        (client_frame(CONT, b"x"), 1002),
        (client_frame(TEXT, b"x", fin=False) + text("y"), 1002),
        (client_frame(PING, b"x" * 126), 1002),
        (client_frame(PING, b"x", fin=False), 1002),
        (client_frame(CLOSE, b"\x03"), 1002),
        (client_frame(CLOSE, b"\x03\xed"), 1002),
    ],
)
def test_websocket_what_breaks_the_protocol_closes_with_its_code(world, data, code):
    """And what came before it is answered."""
    found = talk(world, text("before") + data + text("behind"))
    assert found[0] == (TEXT, b"before")
    assert [item[:2] for item in found[1:]] == [(CLOSE, code)]


def test_websocket_character_cut_by_fragments_is_whole_again(world):
    """RFC 6455, 5.6: a fragment may end inside of a character."""
    data = client_frame(TEXT, b"\xe4\xbd", fin=False) + client_frame(CONT, b"\xa0")
    assert talk(world, data) == [(TEXT, "\u4f60".encode())]


def test_websocket_pings_are_answered_in_order_with_their_bytes(world):
    """RFC 6455, 5.5.3."""
    assert talk(world, client_frame(PING, b"1") + client_frame(PING) + client_frame(PONG, b"no")) == [
        (PONG, b"1"),
        (PONG, b""),
    ]


def test_websocket_messages_of_one_read_are_spread_over_turns(world):
    """A read may hold 40,000 small frames: one client must not hold up the others for as long as that takes."""
    echo, _, peer = start(world)
    peer.write(text("") * 10_000)
    counts = []
    while len(echo.messages) < 10_000:
        before = len(echo.messages)
        world.turn()
        counts.append(len(echo.messages) - before)
        assert len(counts) < 10_000
    assert max(counts) <= websocket.FRAMES_PER_TURN + websocket.PORTION // len(text(""))
    world.until(lambda: len(messages_of(peer.received)) == 10_000)


def test_websocket_paused_delivers_nothing_more_and_loses_nothing(world):
    """From the very message on in which it is asked for; control frames behind it wait as well."""
    echo, conn, peer = start(world)
    peer.write(text("a") + text("pause") + text("b") + client_frame(PING, b"p") + close_frame(1000))
    world.until(lambda: b"pause" in echo.messages)
    world.settle()
    assert echo.messages == [b"a", b"pause"]
    assert not conn.is_reading()
    echo.resume_reading()
    echo.resume_reading()
    world.until(lambda: peer.ended)
    assert echo.messages == [b"a", b"pause", b"b"]
    assert messages_of(peer.received) == [(TEXT, b"a"), (TEXT, b"b"), (PONG, b"p"), (CLOSE, 1000, "")]


def test_websocket_that_is_paused_counts_what_it_holds(world):
    """max_buffered bounds what all hold together, and this is held like any frame."""
    echo, conn, peer = start(world)
    peer.write(text("pause") + text("x" * 1000) * 100)
    world.until(lambda: echo.messages)
    world.settle()
    assert conn.stats.input > conn.stats.bytes_received - 2 * websocket.PORTION > 10_000
    echo.resume_reading()
    world.until(lambda: len(echo.messages) == 101)
    assert conn.stats.input == 0


def test_websocket_paused_twice_in_one_read_waits_twice(world):
    """What is held back is delivered as it came, with the same stops."""
    echo, conn, peer = start(world)
    peer.write(text("pause") + text("b") + text("pause") + text("c"))
    for messages in ([b"pause"], [b"pause", b"b", b"pause"], [b"pause", b"b", b"pause", b"c"]):
        world.settle()
        assert echo.messages == messages
        echo.resume_reading()
    world.settle()
    assert conn.is_reading()


def test_websocket_handler_that_raises_ends_its_connection_alone(world):
    """In the callback of a read, and in the turns that follow it."""
    for data in (text("raise"), text("pause") + text("raise")):
        echo, conn, peer = start(world)
        peer.write(data)
        world.settle()
        echo.resume_reading()
        world.settle()
        peer.close()
        world.until(lambda echo=echo: echo.lost)
        assert conn.close_reason is CloseReason.HANDLER
        assert echo.lost == 1


# --- the end -----------------------------------------------------------------------------------------------------


def test_websocket_close_of_the_client_is_answered_with_its_code(world):
    """RFC 6455, 5.5.1, and then the server ends the stream first (7.1.1)."""
    echo, conn, peer = start(world, text("a") + close_frame(1001, "gone"))
    world.until(lambda: peer.ended)
    assert messages_of(peer.received) == [(TEXT, b"a"), (CLOSE, 1001, "gone")]
    assert peer.eof
    peer.close()
    world.until(lambda: echo.lost)
    assert conn.close_reason is CloseReason.LOCAL
    assert echo.lost == 1


def test_websocket_close_of_the_server_has_its_code_and_a_reason_that_fits(world):
    """180 bytes of reason are cut to 123, and not inside of a character."""
    echo, _, peer = start(world, text("bye") + text("late"))
    world.until(lambda: peer.ended)
    ((opcode, code, reason),) = messages_of(peer.received)
    assert (opcode, code, reason) == (CLOSE, 3501, "\u518d\u89c1" * 20 + "\u518d")
    assert echo.messages == [b"bye"]
    echo.close(1000)


def test_websocket_close_of_both_at_once_sends_one_close(world):
    """The client's close came in the same read as the message that made the server close."""
    _, _, peer = start(world, text("bye") + close_frame(1000))
    world.until(lambda: peer.ended)
    assert [item[0] for item in messages_of(peer.received)] == [CLOSE]


def test_websocket_peer_that_vanishes_is_lost_once(world):
    """An end without a close frame is what a train tunnel makes."""
    echo, _, peer = start(world, text("a"))
    peer.fin()
    world.until(lambda: echo.lost)
    assert echo.lost == 1
    assert echo.messages == [b"a"]


def test_websocket_peer_that_reads_nothing_is_not_read(world):
    """A thousand pings need a thousand pongs: who does not take them gets no more of them made."""
    _, conn, peer = start(world, pair=narrow_pair, high_water=1000, low_water=100)
    peer.reading = False
    peer.write(client_frame(PING, b"x" * 125) * 4000)
    world.settle()
    assert conn.stats.output < 1000 + 2 * websocket.PORTION, "what a portion has asked for, and no more"
    assert conn.stats.bytes_received < 300_000, "one read"
    peer.reading = True
    world.until(lambda: len(peer.received) > 4000 * 127)
    assert len(messages_of(peer.received)) == 4000


@pytest.mark.parametrize("data", [b"", text("a"), text(b"\xff"), client_frame(3), close_frame(1000)])
def test_websocket_that_has_ended_is_freed_without_the_collector(world, data):
    """A storm of reconnects would else hold ten times what is connected."""
    gc.collect()
    gc.disable()
    try:
        sockets = []
        _, peer = world.connect(http_protocol(world.reactor, sockets), framing=None, reading=True, linger=0)
        peer.write(handshake() + data)
        world.settle()
        peer.close()
        world.until(lambda: sockets[0].lost)
        gone = [weakref.ref(sockets[0]), weakref.ref(sockets[0]._parser)]
        sockets.clear()
        world.connections.clear()
        world.settle()
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


# --- clients that are not ours -----------------------------------------------------------------------------------


@pytest.fixture(params=["plain", "tls"])
def url(request):
    """A server in a thread of its own; its URL."""
    tls = server_context(CERTIFICATES / "server.pem", CERTIFICATES / "server.pem") if request.param == "tls" else None
    reactor = evloop.Reactor()
    server = evloop.Server(
        reactor, protocol_factory=lambda: http_protocol(reactor, []), address="127.0.0.1:0", framing=None, ssl=tls
    )
    server.start()
    thread = threading.Thread(target=reactor.run_forever)
    thread.start()
    yield f"{'wss' if tls else 'ws'}://localhost:{server.address.port}/"
    reactor.call_soon_threadsafe(server.shutdown, 5, reactor.stop)
    thread.join(PATIENCE)
    reactor.close()


def calling(url, **options):
    """Return a connection of the websockets package's blocking client."""
    if url.startswith("wss"):
        options["ssl"] = ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")
    return connect(url, open_timeout=PATIENCE, close_timeout=PATIENCE, **options)


def test_websocket_client_of_the_package_is_served(url):
    """Messages of all sizes, fragments, pings; compression is offered and refused."""
    with calling(url, subprotocols=NAMES) as client:
        assert client.subprotocol == NAMES[0]
        for message in ("", "x", "\u4f60\u597d", "x" * 65536):
            client.send(message)
            assert client.recv(PATIENCE) == message
        client.send(iter(["a", "", "b"]))
        assert client.recv(PATIENCE) == "ab"
        assert client.ping().wait(PATIENCE)
        client.send("bye")
        with pytest.raises(ConnectionClosedError) as caught:
            client.recv(PATIENCE)
        assert caught.value.rcvd.code == 3501


def test_websocket_client_of_the_package_speaks_binary(url):
    """The second subprotocol."""
    with calling(url, subprotocols=NAMES[1:]) as client:
        client.send(b"\x00\xff")
        assert client.recv(PATIENCE) == b"\x00\xff"


def test_websocket_client_of_the_package_is_refused_with_a_status(url):
    """What a program is told that comes from another version."""
    with pytest.raises(InvalidStatus) as caught:
        calling(url, subprotocols=["demo.v2.json"])
    assert caught.value.response.status_code == 400


@pytest.mark.parametrize("seed", range(5))
def test_websocket_random_cuts_and_fragments_give_the_same_messages(world, seed):
    """Any cutting, fragments and controls between them: the messages are those that were sent."""
    rng = random.Random(seed)
    sent, data = [], b""
    for _ in range(100):
        message = "".join(rng.choices("ab\u4f60\U0001f600", k=rng.choice([0, 1, 5, 130]))).encode()
        sent.append(message)
        cuts = sorted(rng.randrange(len(message) + 1) for _ in range(rng.choice([0, 0, 1, 3])))
        parts = [message[a:b] for a, b in zip([0, *cuts], [*cuts, len(message)], strict=True)]
        for at, part in enumerate(parts):
            mask = rng.randbytes(4)
            data += client_frame(CONT if at else TEXT, part, fin=at == len(parts) - 1, mask=mask)
            data += client_frame(PING, b"?") if rng.random() < 0.1 else b""
    echo, _, peer = start(world)
    while data:
        size = rng.choice([1, 2, 3, 50, 1000, 5000])
        peer.write(data[:size])
        data = data[size:]
        world.turn(rng.randrange(3))
        if rng.random() < 0.1:
            echo.pause_reading()
            world.turn()
            echo.resume_reading()
    world.until(lambda: len(echo.messages) == len(sent))
    assert echo.messages == sent
