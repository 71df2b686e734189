"""The small HTTP server side: what is a request, what is none, and what each of them gets."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import gc
import logging
import shutil
import socket
import subprocess
import threading
import urllib.request
import weakref

import pytest
from peers import PATIENCE, World, connection_class, narrow_pair, world

import evloop
from evloop.apps import http
from evloop.apps.http import HttpProtocol, Request, Response

HELLO = Response(200, b"hello\n", http.TEXT, (("ETag", '"1"'),))


def head_of(received):
    """Return status line, headers by name, and body of a response."""
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines), body


class Site:
    """Answers HELLO and keeps the requests."""

    def __init__(self):
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        return http.only_get(request) or HELLO


def exchange(world, data, answer=None, upgrade=None):
    """Send *data* to a fresh connection; return what comes back until its end."""
    protocol = HttpProtocol(world.reactor, answer or Site(), upgrade)
    _, peer = world.connect(protocol, framing=None, reading=True)
    peer.write(data)
    world.until(lambda: peer.ended)
    assert peer.eof, "a reset can destroy the answer"
    peer.close()
    return head_of(peer.received)


def request(first="GET / HTTP/1.1", *lines, last=True):
    """Return a request with a Host."""
    ends = ["Connection: close"] if last else []
    return "\r\n".join([first, "Host: localhost", *lines, *ends, "", ""]).encode()


def test_http_get_is_answered_and_closed(world):
    """As it asks to."""
    first, headers, body = exchange(world, request())
    assert first == "HTTP/1.1 200 OK"
    assert body == b"hello\n"
    assert headers["Content-Length"] == "6"
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers["Connection"] == "close"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["ETag"] == '"1"'
    assert headers["Date"].endswith(" GMT")


def test_http_head_gets_the_headers_alone(world):
    """RFC 9110, 9.3.2: as GET, without the content, with the length that it would have."""
    first, headers, body = exchange(world, request("HEAD / HTTP/1.1"))
    assert (first, headers["Content-Length"], body) == ("HTTP/1.1 200 OK", "6", b"")


def test_http_post_is_told_what_is_answered(world):
    """405 is to come with Allow (RFC 9110, 15.5.6)."""
    first, headers, body = exchange(world, request("POST / HTTP/1.1", "Content-Length: 3") + b"abc")
    assert first == "HTTP/1.1 405 Method Not Allowed"
    assert headers["Allow"] == "GET, HEAD"
    assert body == b"POST is not answered here, but GET and HEAD\n"


def test_http_request_byte_by_byte_is_the_same_request(world):
    """How the bytes are cut says nothing about what they mean."""
    site = Site()
    _, peer = world.connect(HttpProtocol(world.reactor, site), framing=None, reading=True)
    data = request("GET /a?b=c HTTP/1.1", "X: 1")
    for at in range(len(data)):
        assert site.requests == []
        peer.write(data[at : at + 1])
        world.turn(2)
    world.until(lambda: peer.ended)
    whole = http.parse_request(data)
    assert site.requests == [whole]
    headers = {"host": "localhost", "x": "1", "connection": "close"}
    assert whole == Request("GET", "/a", "b=c", "HTTP/1.1", headers, data)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/a?b?c", "/a", "b?c"),
        ("//a/b", "//a/b", ""),
        ("http://host:1/a?b", "/a", "b"),
        ("HTTPS://host", "/", ""),
        ("http://host?q", "/", "q"),
        ("*", "*", ""),
    ],
)
def test_http_target_forms_are_read_as_a_path(target, path, query):
    """A proxy asks with the whole URL (RFC 9112, 3.2.2), and a path may begin with two slashes."""
    parsed = http.parse_request(request(f"GET {target} HTTP/1.1"))
    assert (parsed.path, parsed.query) == (path, query)


def test_http_headers_are_found_in_any_case_and_joined():
    """RFC 9110, 5.3: lines of one name are one list."""
    parsed = http.parse_request(
        request("GET / HTTP/1.1", "CONNECTION: keep-alive,  Upgrade", "a:1", "A: \t2 ", last=False)
    )
    assert parsed.headers["a"] == "1, 2"
    assert not parsed.wants_upgrade("websocket")
    parsed = http.parse_request(request("GET / HTTP/1.1", "Connection: x", "Connection: Upgrade", "Upgrade: WebSocket"))
    assert parsed.wants_upgrade("websocket")


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, "there is no Host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "Host came twice"),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400, "does not end in CR LF"),
        (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400, "does not end in CR LF"),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the first line is not"),
        (b"GET /\r\n\r\n", 400, "the first line is not"),
        (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the target is no path"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "not a name, a colon and a value"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400, "not a name, a colon and a value"),
        (b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n", 400, "not a name, a colon and a value"),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, "HTTP/3.0 is not spoken here"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2.0 is not spoken here"),
    ],
)
def test_http_what_is_no_request_is_told_why(world, data, status, text):
    """A guess at what was meant is how two servers read one request in two ways."""
    first, _, body = exchange(world, data)
    assert first.split(" ")[1] == str(status)
    assert text in body.decode()


def test_http_1_0_needs_no_host(world):
    """It is older than several hosts on one address."""
    assert exchange(world, b"GET / HTTP/1.0\r\n\r\n")[2] == b"hello\n"


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 431)])
def test_http_head_is_bounded(world, more, status):
    """Limit - 1, limit, limit + 1 bytes; the answer names the number."""
    room = http.MAX_HEAD + more - len(request("GET / HTTP/1.1", "X: "))
    data = request("GET / HTTP/1.1", "X: " + "x" * room)
    first, _, body = exchange(world, data)
    assert int(first.split(" ")[1]) == status
    assert status == 200 or b"more than 16384 bytes" in body


def test_http_head_without_an_end_is_refused_at_the_bound(world):
    """Nobody waits for the end of a head that is too long already."""
    first, _, _ = exchange(world, b"GET / HTTP/1.1\r\nX: " + b"x" * http.MAX_HEAD)
    assert first == "HTTP/1.1 431 Request Header Fields Too Large"


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_http_half_a_request_ends_at_the_deadline(world, data):
    """An absolute one: a byte now and then does not move it."""
    _, peer = world.connect(HttpProtocol(world.reactor, Site()), framing=None, reading=True)
    peer.write(data)
    world.settle()
    world.advance(http.HEAD_TIMEOUT - 0.1)
    peer.write(b"x")
    world.settle()
    assert not peer.ended
    world.advance(0.1)
    world.until(lambda: peer.ended)
    assert head_of(peer.received)[0] == "HTTP/1.1 408 Request Timeout"
    assert b"10 s" in peer.received


def test_http_peer_that_ends_inside_a_request_is_let_go(world):
    """There is nobody to answer; the deadline goes, too."""
    conn, peer = world.connect(HttpProtocol(world.reactor, Site()), framing=None, reading=True)
    peer.write(b"GET", fin=True)
    world.until(lambda: conn.closed)
    world.advance(http.HEAD_TIMEOUT + 1)
    assert peer.received == b""


def test_http_answer_that_raises_is_a_500_and_a_log(world, caplog):
    """The cause is the operator's to read, not the peer's."""

    def broken(request):
        raise ZeroDivisionError("secret")

    with caplog.at_level(logging.ERROR, "evloop.http"):
        first, _, body = exchange(world, request(), broken)
    assert first == "HTTP/1.1 500 Internal Server Error"
    assert b"secret" not in body
    assert "secret" in caplog.text


def test_http_requests_of_one_connection_are_answered_in_order(world):
    """A page has ten files, and each connection costs two round trips, with TLS three or four."""
    site = Site()
    conn, peer = world.connect(HttpProtocol(world.reactor, site), framing=None, reading=True)
    peer.write(request("GET /1 HTTP/1.1", last=False))
    world.until(lambda: len(site.requests) == 1)
    world.settle()
    assert not conn.is_closing()
    peer.write(request("HEAD /2 HTTP/1.1", last=False) + request("GET /3 HTTP/1.1") + request("GET /4 HTTP/1.1"))
    world.until(lambda: peer.ended)
    assert [asked.path for asked in site.requests] == ["/1", "/2", "/3"]
    assert bytes(peer.received).count(b"HTTP/1.1 200 OK\r\n") == 3
    assert bytes(peer.received).count(b"Connection: close\r\n") == 1


@pytest.mark.parametrize(
    ("data", "last"),
    [
        (request(last=False), False),
        (request("GET / HTTP/1.1", "Content-Length: 0", last=False), False),
        (request("GET / HTTP/1.0", last=False), True),
        (request("GET / HTTP/1.1", "Connection: x, Close", last=False), True),
        (request("GET / HTTP/1.1", "Content-Length: 1", last=False), True),
        (request("GET / HTTP/1.1", "Content-Length: 0", "Content-Length: 0", last=False), True),
        (request("GET / HTTP/1.1", "Transfer-Encoding: chunked", last=False), True),
        (request("OPTIONS / HTTP/1.1", last=False), True),
    ],
)
def test_http_request_that_may_have_a_body_is_the_last(data, last):
    """Read as a request, a body is somebody else's words."""
    assert http.parse_request(data).is_last is last


def test_http_answers_that_nobody_takes_are_not_made(world):
    """A read of 256 KiB may ask 8,000 times for a page of 100 KB."""
    site = Site()
    big = Response(200, b"x" * 100_000)
    protocol = HttpProtocol(world.reactor, lambda asked: site(asked) and big)
    conn, peer = world.connect(protocol, framing=None, pair=narrow_pair)
    peer.write(request(last=False) * 2000)
    world.settle()
    assert len(site.requests) < 10
    assert conn.stats.output < 300_000
    assert not conn.is_closing()


def test_http_connection_that_was_answered_is_closed_without_a_word(world):
    """A 408 that nobody has asked for is an answer to the next request."""
    _, peer = world.connect(HttpProtocol(world.reactor, Site()), framing=None, reading=True)
    peer.write(request(last=False))
    world.settle()
    world.advance(http.KEEP_TIMEOUT - 0.1)
    assert not peer.ended
    world.advance(0.1)
    world.until(lambda: peer.ended)
    assert peer.eof
    assert peer.received.endswith(b"\r\n\r\nhello\n")


def test_http_second_request_has_as_long_as_the_first(world):
    """Half of it is no silence."""
    _, peer = world.connect(HttpProtocol(world.reactor, Site()), framing=None, reading=True)
    peer.write(request(last=False))
    world.settle()
    world.advance(http.KEEP_TIMEOUT - 0.1)
    peer.write(b"GET")
    world.settle()
    world.advance(0.1)
    world.advance(http.HEAD_TIMEOUT - http.KEEP_TIMEOUT - 0.1)
    assert not peer.ended
    world.advance(0.1)
    world.until(lambda: peer.ended)
    assert b"HTTP/1.1 408 Request Timeout" in peer.received


def test_http_connection_that_has_ended_is_freed_without_the_collector(world):
    """A storm of connects would else hold ten times what is connected."""

    class Watched(HttpProtocol):
        __slots__ = ("__weakref__",)

    gc.collect()
    gc.disable()
    try:
        protocol = Watched(world.reactor, Site())
        gone = weakref.ref(protocol)
        _, peer = world.connect(protocol, framing=None, reading=True, linger=0)
        del protocol
        peer.write(request())
        world.until(lambda: peer.ended)
        peer.close()
        world.connections.clear()
        world.settle()
        assert gone() is None
    finally:
        gc.enable()


def test_http_upgrade_gets_the_connection_and_what_follows_the_head(world):
    """The first bytes of the next protocol may come with the request."""
    taken = []

    def upgrade(conn, asked, rest):
        taken.append((asked.path, rest))
        conn.send(b"mine\r\n\r\n")
        conn.close()
        return True

    assert exchange(world, request("GET /up HTTP/1.1") + b"rest", None, upgrade)[0] == "mine"
    assert taken == [("/up", b"rest")]


def test_http_304_has_no_content():
    """A 304 with a length is a body that some clients wait for (RFC 9110, 15.4.5)."""
    first, headers, _ = head_of(http.encode_response(Response(304, b"x", "a/b", (("ETag", '"1"'),))))
    assert first == "HTTP/1.1 304 Not Modified"
    assert "Content-Length" not in headers
    assert headers["ETag"] == '"1"'


@pytest.mark.parametrize(
    ("value", "known"), [('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), ("", False)]
)
def test_http_tag_is_found_in_if_none_match(value, known):
    """A list, weak or not, or anything."""
    assert http.has_tag(http.parse_request(request("GET / HTTP/1.1", f"If-None-Match: {value}")), '"a"') is known


@pytest.mark.parametrize(
    ("value", "takes"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("deflate,gzip ; q=1.0", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("br", False),
        ("*", False),
        ("", False),
    ],
)
def test_http_gzip_is_for_who_names_it(value, takes):
    """A client that takes anything may not have thought of it."""
    assert http.takes_gzip(http.parse_request(request("GET / HTTP/1.1", f"Accept-Encoding: {value}"))) is takes


@pytest.mark.parametrize(
    ("authority", "status"),
    [
        ("127.0.0.1:9000", 200),
        ("[::1]:9000", 200),
        ("192.168.1.7", 200),
        ("localhost:9000", 200),
        ("LocalHost", 200),
        ("app.localhost:9", 200),
        (socket.gethostname() + ":80", 200),  # Debian maps it to 127.0.1.1
        ("known.example:9000", 200),
        ("", 200),
        ("evil.example:9000", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
def test_http_name_of_a_stranger_for_the_loopback_is_refused(world, authority, status):
    """DNS rebinding makes a stranger's page "the same host"; an address or localhost cannot be rebound."""
    protocol = HttpProtocol(world.reactor, Site(), hosts={"known.example"}, hint=", or allow it")
    _, peer = world.connect(protocol, framing=None, reading=True)
    peer.write(f"GET / HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n".encode())
    world.until(lambda: peer.ended)
    first, _, body = head_of(peer.received)
    assert int(first.split(" ")[1]) == status
    assert status == 200 or body.endswith(
        b"is no name of this machine; call it by its address or localhost, or allow it\n"
    )


def test_http_unix_peer_may_call_it_as_it_likes(world):
    """Behind a UNIX socket is a proxy, which has its own idea of who may come."""
    conn, _ = world.connect(HttpProtocol(world.reactor, Site()), framing=None, pair=socket.socketpair)
    assert http.is_rebound(conn, "evil.example") is False


@pytest.fixture
def site():
    """A server in a thread of its own, for clients that block; its URL."""
    reactor = evloop.Reactor()
    server = evloop.Server(
        reactor, protocol_factory=lambda: HttpProtocol(reactor, Site()), address="127.0.0.1:0", framing=None
    )
    server.start()
    thread = threading.Thread(target=reactor.run_forever)
    thread.start()
    yield f"http://{server.address}/"
    reactor.call_soon_threadsafe(server.shutdown, 5, reactor.stop)
    thread.join(PATIENCE)
    reactor.close()


def test_http_standard_library_client_is_served(site):
    """A client that is not ours."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(site, timeout=PATIENCE) as response:
        assert (response.status, response.read()) == (200, b"hello\n")


def test_http_curl_is_served(site):
    """Another one, that complains about what is out of order."""
    if shutil.which("curl") is None:
        pytest.skip("curl is missing (Debian: curl)")
    command = ["curl", "-sS", "--noproxy", "*", "-D", "-", "-w", "%{http_code}", "--max-time", "20"]
    done = subprocess.run([*command, site], capture_output=True, check=True, timeout=PATIENCE)
    assert done.stdout.endswith(b"\r\n\r\nhello\n200")
    done = subprocess.run([*command, "-I", site], capture_output=True, check=True, timeout=PATIENCE)
    assert b"Content-Length: 6\r\n" in done.stdout
