"""The chat in a browser: the page, and ``evloop-chat/1`` over WebSocket, on the port that speaks frames, too.

The first byte of a connection tells: methods of HTTP are in capitals, and a capital as the first byte of a length would
announce a gigabyte (:class:`FirstByte`).  ``GET /`` and its like get the page's files; ``GET /ws``, or ``/``, with an
upgrade becomes a WebSocket, whose messages are a session's as a frame's are.

Who may connect: pages of this very host, those that the operator names, and programs, which send no Origin.  Browsers
always send it, and no page can forge it, so a stranger's page cannot use its reader's network or loopback to chat here.

Rule: nothing in this file may know what a message means.  Read next: ``http.py``, ``websocket.py``, ``sessions.py``.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Callable, Container, Iterable
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Final, NamedTuple

from websockets.frames import CloseCode

from evloop import CloseReason, Connection, Framing, Protocol
from evloop.apps.chat.fanout import Variant
from evloop.apps.chat.wire import CODECS, MAX_MESSAGE, SUBPROTOCOLS, Codec
from evloop.apps.http import (
    FIRST_BYTES,
    HttpProtocol,
    Request,
    Response,
    encode_response,
    entity_tag,
    has_tag,
    host_of,
    only_get,
    refusal,
    takes_gzip,
)
from evloop.apps.websocket import WebSocket, data_frame

if TYPE_CHECKING:
    from evloop.apps.chat.hub import Hub
    from evloop.apps.chat.sessions import Session

# Where a WebSocket may be asked for; the page uses the first, and the second is what people try.
WEBSOCKET_PATHS: Final = ("/ws", "/")

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
}

# A message is the same in text and in binary frames; the kind of a frame is the subprotocol's.
_VARIANTS: Final = {
    (codec, text): Variant(codec, f"websocket/{'text' if text else 'binary'}", partial(data_frame, text=text))
    for codec in CODECS.values()
    for text in (True, False)
}


class FirstByte(Protocol):
    """A connection of which nothing is known, with ``framing=None``: hands it to HTTP or to frames.

    Args:
        web: who takes what speaks HTTP.
        framing: of the frames.
        new_protocol: makes who takes these, once they are known to be that.

    Both are told by ``connection_made``, before the first byte and in the framing that is theirs.  Reactor thread only.
    """

    __slots__ = ("_web", "_framing", "_new_protocol", "_conn")

    def __init__(self, web: Web, framing: Framing, new_protocol: Callable[[], Protocol]) -> None:
        self._web = web
        self._framing = framing
        self._new_protocol = new_protocol

    def connection_made(self, conn: Connection) -> None:
        """Keep *conn*."""
        self._conn = conn

    def data_received(self, data: bytes) -> None:
        """Look at the first byte of *data*, and hand over."""
        conn = self._conn
        if data[0] in FIRST_BYTES:
            http = self._web.new_protocol()
            conn.set_protocol(http)
            http.connection_made(conn)
            return http.data_received(data)
        conn.set_framing(self._framing, data)  # delivered when this has returned
        framed = self._new_protocol()
        framed.connection_made(conn)
        return conn.set_protocol(framed)


class Web:
    """What a chat server answers to HTTP.

    Args:
        hub: whose sessions WebSockets become.
        origins: of pages that may connect beside those of the same host: ``"https://chat.example"``, ``"null"`` for
            files, ``"*"`` for any; see :func:`parse_origin`.

    Raises:
        ValueError: one of *origins* is none.
    """

    def __init__(self, hub: Hub, origins: Iterable[str] = ()) -> None:
        self._hub = hub
        self._origins = frozenset(map(parse_origin, origins))
        self._files = load_page()
        names = (host_of(origin.partition("://")[2]) for origin in self._origins)
        self._hosts: Container[str] = _Everything() if "*" in self._origins else frozenset(names)

    def new_protocol(self) -> HttpProtocol:
        """Return the protocol of a connection that speaks HTTP."""
        hint = ", or allow the name: --origin"
        return HttpProtocol(self._hub.reactor, self._answer, self._upgrade, hosts=self._hosts, hint=hint)

    def _answer(self, request: Request) -> Response:
        refused = only_get(request)
        if refused is not None:
            return refused
        if request.path == WEBSOCKET_PATHS[0]:
            text = f"this is a WebSocket, which speaks {' or '.join(SUBPROTOCOLS)}"
            return refusal(426, text, ("Upgrade", "websocket"), ("Connection", "Upgrade"))
        file = self._files.get("/index.html" if request.path == "/" else request.path)
        if file is None:
            return refusal(404, "there is nothing at this path; the chat is at /")
        answer = file.packed if takes_gzip(request) else file.plain
        return answer._replace(status=304, body=b"") if has_tag(request, dict(answer.headers)["ETag"]) else answer

    def _upgrade(self, conn: Connection, request: Request, rest: bytes) -> bool:
        """Make *conn* a WebSocket, if that is what *request* asks for."""
        if request.path not in WEBSOCKET_PATHS or not request.wants_upgrade("websocket"):
            return False
        fault = self._origin_fault(request)
        if fault:
            conn.send(encode_response(refusal(403, fault)))
            conn.close()
            return True
        socket = ChatSocket(self._hub)
        if socket.begin(conn, request):
            conn.set_protocol(socket)
            socket.opened()
            if rest:
                socket.data_received(rest)
        return True

    def _origin_fault(self, request: Request) -> str:
        """Return why a page of the request's Origin may not connect; "" if it may, or if this is no browser."""
        origin = request.headers.get("origin", "").lower()
        if not origin or origin in self._origins or "*" in self._origins:
            return ""
        scheme, _, authority = origin.partition("://")
        if scheme in ("http", "https") and authority == request.headers.get("host", "").lower():
            return ""
        return f"pages of {origin[:100]} may not connect here; to allow them: --origin {origin[:100]}"


class ChatSocket(WebSocket):
    """The transport of a session over WebSocket; see :class:`evloop.apps.chat.sessions.Transport`.

    A ``bye`` is a message like any other, and then its code is that of the close frame, too: 1000 and 3000..4999 are
    free for applications there (RFC 6455, 7.4.2).
    """

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub.reactor, tuple(SUBPROTOCOLS), MAX_MESSAGE)
        self._hub = hub
        self.host = ""
        self._session: Session | None = None

    def opened(self) -> None:
        """Begin the session: the handshake is answered."""
        self.text = SUBPROTOCOLS[self.subprotocol] == "json"
        peer = self.conn.peer
        self.host = "" if peer is None else peer.host
        self._session = self._hub.connected(self)

    def variant(self, codec: Codec) -> Variant:
        """Return the form that messages in *codec* have here."""
        return _VARIANTS[codec, self.text]

    def message_received(self, payload: bytes) -> None:
        """Give the session a message."""
        assert self._session is not None
        self._session.message(payload)

    def close_received(self) -> bool:
        """Let the session answer what was asked before."""
        return self._session is not None and self._session.leave(partial(self.close, CloseCode.NORMAL_CLOSURE))

    def eof_received(self) -> bool:
        """The same for a client that says nothing more without a close frame, and gets none."""
        then = partial(self.conn.close_for, CloseReason.PEER)
        return self._session is not None and self._session.leave(then)

    def pause_writing(self) -> None:
        """Tell the session that the client does not take what it is sent."""
        super().pause_writing()
        if self._session is not None:
            self._session.choked()

    def resume_writing(self) -> None:
        """Tell it that it does."""
        if self._session is not None:
            self._session.relieved()
        super().resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell it that this is over."""
        super().connection_lost(exc)
        session, self._session = self._session, None
        if session is not None:
            session.lost()


def parse_origin(text: str) -> str:
    """Return *text*, an origin as browsers write it, in lower case: ``https://chat.example``, ``null``, or ``*``.

    Raises:
        ValueError: it has a path, or no scheme.
    """
    origin = text.lower().rstrip("/")
    if origin not in ("*", "null") and not re.fullmatch(r"https?://[^/?#@\s]+", origin):
        raise ValueError(f"{text!r} is no origin; write https://host or http://host:port, null, or *")
    return origin


class File(NamedTuple):
    """The two answers that a file of the page is: as it is, and by gzip, which is a third of it."""

    plain: Response
    packed: Response


def load_page() -> dict[str, File]:
    """Return the files of the page by their paths; they are read once."""
    folder = resources.files("evloop.apps.chat") / "page"
    files: dict[str, File] = {}
    for file in folder.iterdir() if folder.is_dir() else ():
        kind = _TYPES.get("." + file.name.rpartition(".")[2])
        if kind is not None:
            files[f"/{file.name}"] = _file(file.read_bytes(), kind)
    return files


def _file(body: bytes, kind: str) -> File:
    # no-cache: kept, and asked about each time; a page that is older than its server is a bug report.
    headers = [("Cache-Control", "no-cache"), ("Vary", "Accept-Encoding"), ("Referrer-Policy", "no-referrer")]
    if kind.startswith("text/html"):
        headers.append(("Content-Security-Policy", content_security_policy(body.decode())))
    packed = gzip.compress(body, mtime=0)
    return File(
        Response(200, body, kind, (("ETag", entity_tag(body)), *headers)),
        Response(200, packed, kind, (("ETag", entity_tag(packed)), ("Content-Encoding", "gzip"), *headers)),
    )


def content_security_policy(html: str) -> str:
    """Return what a browser may do for *html*: run what it names or holds itself, and talk to this host alone.

    Scripts and styles in the page are allowed by their hashes, so what somebody gets into it is not run: neither
    another ``<script>``, nor an ``onclick``, nor ``eval``.  'self' in connect-src includes WebSockets (CSP 3).
    """
    scripts, styles = (_hashes(html, tag) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src 'self'{scripts}; style-src 'self'{styles}; img-src 'self' data:; "
        "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(html: str, tag: str) -> str:
    """Return the sources of the elements *tag* that have their text in the page."""
    texts = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", html, re.DOTALL | re.IGNORECASE)
    return "".join(f" 'sha256-{_digest(text)}'" for text in texts if text.strip())


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class _Everything:
    """Contains whatever it is asked for."""

    def __contains__(self, item: object) -> bool:
        return True
