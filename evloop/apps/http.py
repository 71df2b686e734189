"""The small HTTP/1.1 server side that a port needs beside its own protocol: a page, health, metrics, a way to upgrade.

Requests of one connection are answered one after the other, each in a turn of its own.  Bodies of requests are not
read: a request that has one, or may have, is the last of its connection, and so is whatever is no request.

RFC 9112 (messages) and RFC 9110 (semantics) say what is a request here; what is none gets a 400 that says why.

Rule: nothing in this file may know what is served, or what a connection becomes after an upgrade.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import re
import socket
from collections.abc import Callable, Container, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple

from evloop import Connection, Protocol, Reactor

logger = logging.getLogger("evloop.http")

# Bytes of a request's first line and headers.  What browsers send is below 2 KiB, and cookies of other programs on the
# same host, which come along whatever the port is, have made it 8 KiB; nginx stops at 32 KiB, Apache at some 800.
MAX_HEAD = 16 * 1024

# Seconds in which the head has to be whole.  A second is long for 2 KiB; ten let a phone lose its first packets twice.
HEAD_TIMEOUT = 10.0

# Seconds for which a connection that was answered may be silent.  A page's files are asked for within a second or so;
# held for longer, six connections of each browser would count for all who share its address (max_per_address).
KEEP_TIMEOUT = 2.0

# The first bytes of a request are its method, and methods are in capitals (RFC 9110, 9.1); read as the start of a
# 32-bit length they announce a gigabyte or more.
FIRST_BYTES = frozenset(range(ord("A"), ord("Z") + 1))

_END = re.compile(rb"\r?\n\r?\n")
_END_LENGTH = 4
_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # 5.5: no control characters, so no second line in a log
_VERSION = re.compile(r"HTTP/[0-9]\.[0-9]")
_NO_WEIGHT = re.compile(r"q=0(\.0*)?")
_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)

TEXT = "text/plain; charset=utf-8"


class BadRequest(Exception):
    """What a peer has sent is no request that is answered; *status* (int) is the answer, the text is its body."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Request(NamedTuple):
    """The head of a request.

    Attributes:
        method: as sent; methods are case-sensitive.
        path: of the target, up to ``?``, not decoded: ``/index.html``; or ``*``.
        query: behind the ``?``, not decoded.
        version: ``"HTTP/1.1"`` or ``"HTTP/1.0"``.
        headers: values by lower-case name; of a name that came several times, all, joined by ``", "``.
        head: the bytes themselves, with the empty line, for whoever has a parser of its own.
    """

    method: str
    path: str
    query: str
    version: str
    headers: Mapping[str, str]
    head: bytes

    def wants_upgrade(self, protocol: str) -> bool:
        """Return whether the peer asks to go on with *protocol* (lower case) on this connection (RFC 9110, 7.8)."""
        return "upgrade" in _tokens(self.headers.get("connection", "")) and protocol in _tokens(
            self.headers.get("upgrade", "")
        )

    @property
    def is_last(self) -> bool:
        """Whether nothing may follow it on its connection (RFC 9112, 9.3): the peer says so, or there may be a body."""
        headers = self.headers
        bare = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        lasting = self.version == "HTTP/1.1" and "close" not in _tokens(headers.get("connection", ""))
        return not (bare and lasting and self.method in ("GET", "HEAD"))


class Response(NamedTuple):
    """What answers a request: *status* (int), *body* (bytes), its *type*, and more *headers* (pairs of str)."""

    status: int
    body: bytes = b""
    type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()


Answer = Callable[[Request], Response]
# Called with the connection, the request, and the bytes behind its head; true if it has taken the connection over.
Upgrade = Callable[[Connection, Request, bytes], bool]


class HttpProtocol(Protocol):
    """The requests of a connection with ``framing=None``, and their responses.

    Args:
        reactor: who drives the connection; for the deadline of the head.
        answer: called with each request, HEAD and unknown methods too; what it raises is logged, and a 500.
        upgrade: asked first, if there is one.
        hosts: names, lower case, that this machine may be called by beside its addresses and localhost; see
            :func:`is_rebound`, which is a 403.
        hint: how the operator adds one; the end of that answer.

    HEAD_TIMEOUT seconds after its start, or the last answer, a connection without a whole request gets a 408; one that
    has been answered and then says nothing for KEEP_TIMEOUT seconds is closed.  Reactor thread only.
    """

    __slots__ = ("reactor", "answer", "upgrade", "hosts", "hint", "conn", "_head", "_deadline")

    def __init__(
        self,
        reactor: Reactor,
        answer: Answer,
        upgrade: Upgrade | None = None,
        *,
        hosts: Container[str] = frozenset(),
        hint: str = "",
    ) -> None:
        self.reactor = reactor
        self.answer = answer
        self.upgrade = upgrade
        self.hosts = hosts
        self.hint = hint
        self._head = bytearray()

    def connection_made(self, conn: Connection) -> None:
        """Keep *conn*, and the time."""
        self.conn = conn
        self._deadline = self.reactor.call_later(HEAD_TIMEOUT, self._too_slow)

    def data_received(self, data: bytes) -> None:
        """Take *data*; answer once the head is whole."""
        head = self._head
        start = max(len(head) - _END_LENGTH, 0)  # where an end that came in two reads may begin
        head += data
        end = _END.search(head, start)
        if end is None and len(head) <= MAX_HEAD:
            return None
        self._deadline.cancel()
        if end is None or end.end() > MAX_HEAD:
            text = f"the head of the request has more than {MAX_HEAD} bytes (MAX_HEAD)"
            return self._respond(None, refusal(431, text))
        try:
            request = parse_request(bytes(head[: end.end()]))
            self._check_host(request.headers.get("host", ""))
        except BadRequest as exc:
            return self._respond(None, refusal(exc.status, str(exc)))
        rest, self._head = bytes(head[end.end() :]), bytearray()
        if self.upgrade is None or not self.upgrade(self.conn, request, rest):
            self._respond(request, self._answer(request), rest)
        return None

    def eof_received(self) -> None:
        """The peer will send no more; half a request is none."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the time."""
        self._deadline.cancel()

    def _check_host(self, authority: str) -> None:
        host = host_of(authority)
        if is_rebound(self.conn, host) and host not in self.hosts:
            text = f"{host[:64]} is no name of this machine; call it by its address or localhost{self.hint}"
            raise BadRequest(403, text)

    def _answer(self, request: Request) -> Response:
        try:
            return self.answer(request)
        except Exception:
            logger.exception("no answer to %s %s", request.method, request.path)
            return refusal(500, "the server failed to answer; its log says how")

    def _respond(self, request: Request | None, response: Response, rest: bytes = b"") -> None:
        conn, last = self.conn, request is None or request.is_last
        if request is not None and logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s %s %s %d", conn.peer, request.method, request.path, response.status)
        with_body = request is None or request.method != "HEAD"
        conn.send(encode_response(response, with_body=with_body, last=last))
        if last:
            return conn.close()
        self._deadline = self.reactor.call_later(KEEP_TIMEOUT, self._idle)
        if rest:
            # Read again in a later turn, and not before the peer has taken its answers: a few bytes ask for many.
            conn.set_framing(None, rest)
        return None

    def _idle(self) -> None:
        if self._head:  # the next request has begun
            self._deadline = self.reactor.call_later(HEAD_TIMEOUT - KEEP_TIMEOUT, self._too_slow)
        else:
            self.conn.close()

    def _too_slow(self) -> None:
        text = f"no whole request came in {HEAD_TIMEOUT:g} s (HEAD_TIMEOUT)"
        self._respond(None, refusal(408, text))


def parse_request(head: bytes) -> Request:
    """Return what *head* says, which ends with an empty line; any thread.

    Raises:
        BadRequest: it is none, or one of another version of HTTP.
    """
    lines = head.decode("latin-1").split("\r\n")  # obsolete text in a value is opaque (RFC 9110, 5.5)
    if any("\n" in line for line in lines):
        raise BadRequest(400, "a line of the head does not end in CR LF")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _VERSION.fullmatch(parts[2]):
        raise BadRequest(400, "the first line is not METHOD, one space, target, one space, HTTP/1.1")
    method, target, version = parts
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadRequest(505, f"{version} is not spoken here, but HTTP/1.1")
    headers = _parse_headers(lines[1:-2])
    if version == "HTTP/1.1" and "host" not in headers:
        raise BadRequest(400, "there is no Host")
    path, _, query = _origin_form(target).partition("?")
    return Request(method, path, query, version, headers, head)


def _parse_headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        value = value.strip(" \t")
        # No blank before the colon and none before the name: others read those lines in two ways (RFC 9112, 5.1, 5.2).
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadRequest(400, "a header is not a name, a colon and a value")
        name = name.lower()
        if name in headers:
            if name in ("host", "origin"):
                raise BadRequest(400, f"{name.capitalize()} came twice")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers


def _origin_form(target: str) -> str:
    """Return the target as a path with its query: what a proxy is asked has the whole URL (RFC 9112, 3.2.2)."""
    found = _ABSOLUTE.match(target)
    if found:
        rest = target[found.end() :]
        return rest if rest.startswith("/") else "/" + rest
    if target != "*" and not target.startswith("/"):
        raise BadRequest(400, "the target is no path")
    return target


def encode_response(response: Response, *, with_body: bool = True, last: bool = True) -> bytes:
    """Return *response* on the wire, the *last* one of its connection or not; any thread."""
    lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}", f"Date: {formatdate(usegmt=True)}"]
    if response.status != HTTPStatus.NOT_MODIFIED:
        # X-Content-Type-Options: the type is ours to say, not a browser's to guess from what people have typed.
        lines += [f"Content-Type: {response.type}", "X-Content-Type-Options: nosniff"]
        lines.append(f"Content-Length: {len(response.body)}")
    lines += [f"{name}: {value}" for name, value in response.headers]
    lines += ["Connection: close", "", ""] if last else ["", ""]
    return "\r\n".join(lines).encode("latin-1") + (response.body if with_body else b"")


def refusal(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """Return a response of one line that says why there is no other; any thread."""
    return Response(status, f"{text}\n".encode(), TEXT, (("Cache-Control", "no-store"), *headers))


def only_get(request: Request) -> Response | None:
    """Return the 405 that any method but GET and HEAD deserves, or None; any thread."""
    if request.method in ("GET", "HEAD"):
        return None
    return refusal(405, f"{request.method[:16]} is not answered here, but GET and HEAD", ("Allow", "GET, HEAD"))


def entity_tag(body: bytes) -> str:
    """Return the ETag of *body*: the same for the same bytes, in every process; any thread."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def has_tag(request: Request, tag: str) -> bool:
    """Return whether the peer has what *tag* stands for: If-None-Match, compared weakly (RFC 9110, 13.1.2)."""
    known = request.headers.get("if-none-match", "")
    return known == "*" or tag in (item.strip().removeprefix("W/") for item in known.split(","))


def takes_gzip(request: Request) -> bool:
    """Return whether the peer would rather have gzip than nothing: Accept-Encoding (RFC 9110, 12.5.3); any thread."""
    for item in request.headers.get("accept-encoding", "").lower().split(","):
        coding, _, weight = item.replace(" ", "").partition(";")
        if coding == "gzip":
            return _NO_WEIGHT.fullmatch(weight) is None
    return False


def host_of(authority: str) -> str:
    """Return the host of a Host header, lower-case, without port and brackets; any thread."""
    host = authority.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def is_rebound(conn: Connection, host: str) -> bool:
    """Return whether *host*, as :func:`host_of` has it, is a stranger's name for this machine.

    A page of evil.example can have its own name resolve to 127.0.0.1, and is then "the same host" for its browser as
    what listens there (DNS rebinding).  So who comes by the loopback is to call this machine by an address, by
    localhost, or by its own name.  What comes from elsewhere has come by a route that a stranger's page has not.
    """
    peer = conn.peer
    if peer is None or peer.is_unix or not _is_loopback(peer.host):
        return False
    if host in ("", "localhost", socket.gethostname().lower()) or host.endswith(".localhost"):
        return False
    return not _is_ip(host)


def _is_loopback(host: str) -> bool:
    address = ipaddress.ip_address(host)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _tokens(value: str) -> list[str]:
    return [token.strip().lower() for token in value.split(",")]
