"""A session: one client's connection, who it is, the rooms that it is in; from its first byte to its end.

States: STRANGER, connected and not welcomed; OPEN; HELD, without a connection and to be resumed; ENDED.

A session outlives its connection by ``ChatLimits.grace``; a connection that resumes it brings a session of its own, a
stranger, which takes over what the held one has (:meth:`Session.take_over`).

Rule: nothing in this file may know a socket or how a message is framed: that is the transport's.
Read next: ``requests.py``, which answers the messages; ``hub.py``, which knows all sessions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from evloop.apps.chat import wire
from evloop.apps.chat.requests import HANDLERS, STRANGERS, refuse
from evloop.apps.chat.texts import text
from evloop.apps.chat.wire import DECODE_ERRORS, ERRORS, JSON, MAX_MESSAGE, Bye, Codec, Err, Say, codec_of, fault_of

if TYPE_CHECKING:
    import evloop
    from evloop.apps.chat.fanout import Variant
    from evloop.apps.chat.hub import Hub
    from evloop.apps.chat.rooms import Room
    from evloop.apps.chat.users import User

logger = logging.getLogger("evloop.chat")

STRANGER, OPEN, HELD, ENDED = "stranger", "open", "held", "ended"

# Messages in a row that are none, after which the client is taken for one that speaks something else.
MAX_BAD = 3


class Transport(Protocol):
    """What carries the messages of one session; all in the reactor's thread.

    It makes the session with ``hub.connected(transport)``, calls ``session.message(payload)`` for each message, or
    ``session.too_big(size)`` for one that it does not read, ``session.choked()`` and ``session.relieved()`` when its
    output is above and down to the marks, ``session.leave(then)`` when the client has nothing more to say and is still
    there to hear, and ``session.lost()`` once at the end.

    Attributes:
        conn: the connection, for the groups.  ``conn.send()`` takes what the variant's `payload` returns.
        host: the address of the peer as text, for logs and for the token hook; "" for a UNIX socket.
    """

    conn: evloop.Connection

    @property
    def host(self) -> str: ...

    def variant(self, codec: Codec) -> Variant:
        """Return the form that messages in *codec* have on this transport."""

    def close(self, code: int, reason: str) -> None:
        """Close once what was sent is flushed; *code* (of a ``bye``) and *reason* where the transport has such."""

    def pause_reading(self) -> None:
        """Deliver no more messages, from the next one on.

        Of those that `session.messages` was called with, `session.unanswered()` are to be delivered again.
        """

    def resume_reading(self) -> None:
        """Deliver them again."""


class Bucket:
    """A token bucket: *rate* a second (float > 0), after *burst* at once; time comes from outside."""

    __slots__ = ("rate", "burst", "tokens", "filled")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self.rate = rate
        self.burst = float(burst)
        self.tokens = float(burst)
        self.filled = now

    def take(self, now: float) -> float:
        """Take a token, of which there is one or will be; return the seconds until there is another, at least 0."""
        self.fill(now)
        self.tokens -= 1.0
        return 0.0 if self.tokens >= 1.0 else (1.0 - self.tokens) / self.rate

    def fill(self, now: float) -> float:
        """Return how many tokens there are."""
        self.tokens = min(self.tokens + (now - self.filled) * self.rate, self.burst)
        self.filled = now
        return self.tokens


class Session:
    """One session.  Reactor thread only.

    Attributes:
        state: see above.
        transport, conn, variant: how it is reached; None while it is held.
        payload: makes of a message what ``conn.send()`` takes; None before the first message.
        sid, key: what resumes it.
        user: whose it is; None for a stranger.
        rooms: those that it is in, by name.
        lang: the language of texts.
        heard, pinged: the hub's tick at the last message, and when it was last asked for one.
        typed: the time of the last `typing` that was passed on.
        joins: the bucket for what many are told of; None: no bound.
        waits: True while nothing more is answered, since a room is being loaded for the last request, or that was the
            client's last word and some of its answers are still owed.
        owed: how many of its requests wait for the store.
        leaves: what is called when none does any more, since the client has said its last word; else None.
    """

    __slots__ = (
        *("hub", "state", "transport", "conn", "variant", "sid", "key", "user", "rooms", "lang", "heard", "pinged"),
        *("payload", "typed", "joins", "waits", "owed", "_decode", "_handlers", "_bad", "_bucket", "_codec"),
        *("_holds", "_unread", "leaves"),
    )

    def __init__(self, hub: Hub, transport: Transport) -> None:
        now, limits = hub.reactor.time(), hub.limits
        self.hub = hub
        self.state = STRANGER
        self.transport: Transport | None = transport
        self.conn: evloop.Connection | None = transport.conn
        self.variant: Variant | None = None
        self.sid = self.key = ""
        self.user: User | None = None
        self.rooms: dict[str, Room] = {}
        self.lang = hub.lang
        self.heard = self.pinged = hub.tick
        self.typed = -limits.typing_interval
        self._codec: Codec = JSON
        self._decode: Any = self._decode_first
        self.payload: Any = None
        self._handlers: dict[type, Any] = STRANGERS
        self._bad = 0
        self._bucket = Bucket(limits.rate, limits.burst, now) if limits.rate else None
        self.joins = Bucket(limits.join_rate, limits.join_burst, now) if limits.rate else None
        self.waits = False
        self.owed = 0
        self.leaves: Callable[[], None] | None = None
        self._holds = 0  # how many reasons there are to read nothing
        self._unread: Iterator[bytes] = iter(())  # what the present read has beside the message that is being answered

    def __repr__(self) -> str:
        return f"<Session {self.sid or '?'} {self.state} {self.user}>"

    # --- from the transport ------------------------------------------------------------------------------------

    def message(self, payload: bytes) -> None:
        """Answer one message; whatever it is."""
        if not 0 < len(payload) <= MAX_MESSAGE:
            return self._odd_size(len(payload))
        try:
            request = self._decode(payload)
        except DECODE_ERRORS as exc:
            return self._undecodable(payload, exc)
        hub, kind = self.hub, type(request)
        self.heard = hub.tick
        if self._bad:
            self._bad = 0
        if self._bucket is not None:
            self._spend(self._bucket)
        if kind is not Say and hub.gathered.sender is not None:
            hub.gathered.flush()
        try:
            self._handlers.get(kind, refuse)(self, request)
        except Exception:
            self.failed(request)

    def messages(self, payloads: list[bytes]) -> None:
        """Answer all messages of one read; for transports that need not stop between two of them (see Bucket)."""
        if len(payloads) == 1:
            return self.message(payloads[0])
        gathered = self.hub.gathered
        gathered.sender = self
        self._unread = unread = iter(payloads)
        try:
            for payload in unread:
                self.message(payload)
        finally:
            gathered.end()
        return None

    def unanswered(self) -> list[bytes]:
        """Return what the read that is being answered has behind the present message; it is not answered then."""
        return list(self._unread)  # which ends the loop that takes from it

    def too_big(self, size: int) -> None:
        """Refuse a message of *size* bytes, which may not have been read, and close."""
        detail = f"a message of {size} bytes exceeds {MAX_MESSAGE}"
        self.error(None, "too_big", detail)
        self.bye(wire.PROTOCOL, detail)

    def failed(self, request: Any) -> None:
        """Answer *request* as one on which the server has failed; called where the exception is caught."""
        logger.exception("chat: %s of %s failed", type(request).__name__, self)
        self.error(request.ref, "internal")

    def choked(self) -> None:
        """The output is above the connection's ``high_water``."""
        self.hub.choked[self] = self.hub.tick

    def relieved(self) -> None:
        """The output is down to ``low_water`` again."""
        self.hub.choked.pop(self, None)

    def leave(self, then: Callable[[], None]) -> bool:
        """The client has said its last word: have *then* called when all that it has asked for is answered.

        Return False if that is so now; *then* is not called.  True: it will be, in a later turn, unless the connection
        ends before; a store that does not answer is waited for as long as a client that does not, ``dead_after``.
        """
        if self.leaves is None and self.owed:
            self.leaves = then
            self.heard = self.hub.tick
            self.wait()
        return self.leaves is not None

    def lost(self) -> None:
        """The connection has ended, by whomever and for whatever."""
        if self.conn is not None:
            self.hub.disconnected(self)

    # --- to the client -----------------------------------------------------------------------------------------

    def send(self, message: Any) -> None:
        """Send *message*, if there is a connection; never blocks."""
        conn = self.conn
        if conn is not None:
            conn.send(self.payload(message))

    def error(self, ref: int | None, code: str, detail: str = "", retry_ms: int | None = None) -> None:
        """Answer the request *ref* with ``err``; *code* is one of ERRORS."""
        self.hub.counters[f"err_{code}"] += 1
        self._send_at_all(
            Err(ref=ref, code=code, text=text(code, self.lang, detail), temp=ERRORS[code], retry_ms=retry_ms)
        )

    def bye(self, code: int, detail: str = "", **fields: Any) -> None:
        """Send ``bye``, close, and leave the session to be resumed if the client is to come back."""
        transport = self.transport
        if transport is None:
            return
        self.hub.counters[f"bye_{code}"] += 1
        words = text(code, self.lang, detail)
        self._send_at_all(Bye(code=code, text=words, reconnect=wire.reconnects(code), **fields))
        self.hub.disconnected(self, resumable=wire.reconnects(code))
        transport.close(code, words)

    def _send_at_all(self, message: Any) -> None:
        # Before the first message nobody knows which encoding is spoken; JSON people can read.
        if self.payload is None and self.transport is not None:
            self._speak(self._codec)
        self.send(message)

    # --- what the hub changes ----------------------------------------------------------------------------------

    def opened(self) -> None:
        """The session is welcomed: all requests are answered from now on."""
        self.state = OPEN
        self._handlers = HANDLERS

    def closed(self, state: str) -> None:
        """The connection is no longer this session's; *state* is HELD or ENDED."""
        self.state = state
        self.transport = self.conn = None
        self._handlers = {}
        self.waits, self.leaves = False, None

    def wait(self) -> None:
        """Answer nothing more until :meth:`go_on`: what comes next may build on the request that is not done yet.

        Nothing more is read of this one client meanwhile; what came in the same read goes back to its connection, which
        counts it as what it holds.
        """
        self.waits = True
        self._hold()

    def go_on(self) -> None:
        """Answer again, what was given back first.  Nothing happens if it does not wait."""
        if self.waits:
            self.waits = False
            self.heard = self.hub.tick  # nobody listened
            self._release()

    def answered(self) -> None:
        """A request that has waited for the store is answered; the last one lets go who wants to leave."""
        self.owed -= 1
        if not self.owed and self.leaves is not None:
            self.hub.reactor.call_soon(self.let_go)  # the store's callback has others to tell, whatever this raises

    def let_go(self) -> None:
        """Let the client leave, answered or not.  Nothing happens if it does not want to."""
        then, self.leaves = self.leaves, None
        if then is not None:
            then()

    def take_over(self, held: Session) -> None:
        """Be *held* from now on, which is ENDED by that: its user, rooms, key, and what its client may still send."""
        assert held.user is not None
        self.sid, self.key, self.user, self.rooms = held.sid, held.key, held.user, held.rooms
        self.typed, self.joins = held.typed, held.joins
        if held._bucket is not None:
            self._bucket = held._bucket
        sessions = held.user.sessions
        sessions[sessions.index(held)] = self
        held.state, held.user, held.rooms = ENDED, None, {}

    # --- small parts -------------------------------------------------------------------------------------------

    def _speak(self, codec: Codec) -> None:
        assert self.transport is not None
        self._codec = codec
        self.variant = self.transport.variant(codec)
        self.payload = self.variant.payload
        self._decode = codec.decode_request

    def _decode_first(self, payload: bytes) -> Any:
        codec = codec_of(payload)
        if codec is not None:
            self._speak(codec)
        return (codec or JSON).decode_request(payload)

    def _undecodable(self, payload: bytes, exc: Exception) -> None:
        if self.transport is None:
            return
        self.heard = self.hub.tick
        if self._bucket is not None:
            self._spend(self._bucket)
        fault = fault_of(self._codec, payload, exc)
        # A type of a later version is no sign of a broken client.
        self._bad += fault.code != "unknown_type"
        self.error(fault.ref, fault.code, fault.detail)
        if self._bad >= MAX_BAD:
            self.bye(wire.PROTOCOL, f"{MAX_BAD} messages in a row that are none")

    def _odd_size(self, size: int) -> None:
        if size:
            return self.too_big(size)
        self.heard = self.hub.tick  # an empty frame is a sign of life
        return None

    def _spend(self, bucket: Bucket) -> None:
        """Take a token for a message; without another one, the next message has to wait."""
        pause = bucket.take(self.hub.reactor.time())
        if pause > 0.0 and self.transport is not None:
            self.hub.throttled += 1
            self._hold()
            self.hub.reactor.call_later(pause, self._release)

    def _hold(self) -> None:
        """Read nothing until :meth:`_release`; as often as there are reasons."""
        self._holds += 1
        if self._holds == 1 and self.transport is not None:
            self.transport.pause_reading()

    def _release(self) -> None:
        self._holds -= 1
        if not self._holds and self.transport is not None:
            self.transport.resume_reading()
