"""A chat client for programs: rooms in order, without holes, nothing lost or said twice, over losses of connection.

A client is connected, or on its way back: it waits (``backoff.py``), connects, takes its session up again or begins a
new one, enters its rooms from where it was in each (``rooms.py``), and sends what was not confirmed (``outbox.py``).

Rule: nothing in this file may print, or know a terminal.  Read next: ``link.py``, ``events.py``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import evloop
from evloop.addresses import AddressLike
from evloop.apps.chat import wire
from evloop.apps.chat.client.backoff import Backoff
from evloop.apps.chat.client.errors import Disconnected, Ended, Later, NoWelcome, OutboxFull, Refused, reason_of
from evloop.apps.chat.client.events import (
    Entered,
    Event,
    Message,
    Notice,
    Renamed,
    Status,
)
from evloop.apps.chat.client.link import Link, parted, refused
from evloop.apps.chat.client.outbox import Outbox, Unsent
from evloop.apps.chat.client.requests import Requests
from evloop.apps.chat.client.rooms import Room
from evloop.apps.chat.names import room_name

if TYPE_CHECKING:
    from ssl import SSLContext

    from typing_extensions import Self

# Seconds for one attempt: name, connection, TLS and welcome.
TIMEOUT = 10.0

# Events that wait for the program; above it nothing is read, and the server keeps the rest.
QUEUE = 1000

# Only requests under way keep the reading on above that, since an answer may be behind the events.  A program that asks
# more than it takes loses its connection here, and misses nothing: the rest is fetched when it has caught up.
QUEUE_FACTOR = 10

# Things said and not confirmed: an evening's worth of a person's, and at most 8 MiB.
OUTBOX = 1000

# Seconds for the goodbye at the end.
GOODBYE = 1.0

# What whoever waits is told when the client is closed.
CLOSED = "the client was closed"


class Client(Requests):
    """A user of a chat server, on any asyncio event loop.

    >>> async def main():
    ...     async with Client("127.0.0.1:9000", nick="echo") as chat:
    ...         await chat.join("lobby")
    ...         async for message in chat:
    ...             await chat.reply(message, message.body)

    Entering it connects, and raises if that fails; from then on it connects again by itself, until :meth:`close`, or
    until the server says that it is not wanted.  The iteration gives what others say, each message once and in its
    room's order; :meth:`events` gives everything.

    Args:
        address: as for :func:`evloop.connect`; TCP or ``unix:``.
        nick: the name to take; None: the server gives one.
        token, password: what the server asks for, or None.
        lang: the language of the server's texts, ``"en"`` or ``"zh"``.
        ssl: an `ssl.SSLContext` such as :func:`evloop.tls.client_context` makes; None: no TLS.
        server_hostname: the name to find in the certificate; None: the host of *address*.
        encoding: ``"json"`` or ``"msgpack"``.
        timeout: seconds for one attempt to connect (float > 0), and for a server that says at once to come back later;
            None: as long as the kernel tries, and for ever.
        queue: events that may wait for the program (int > 0).  Before the first iteration the oldest of more are
            dropped; from then on nothing is read above it, and the server keeps what it can.
        outbox: things said that may wait for the server (int > 0).
        backoff: the delays between attempts.
        name: what the program calls itself to the server (at most 64 characters).
    Raises:
        AddressError, ValueError: an argument is wrong.

    Attributes:
        nick, user: the name that this client has, and its id; "" before the first welcome.
        state: ``"connecting"``, ``"connected"``, ``"reconnecting"`` or ``"closed"``.
        welcome: the server's last :class:`wire.Welcome`, or None.

    Event-loop thread only; one task at a time iterates.
    """

    def __init__(
        self,
        address: AddressLike,
        nick: str | None = None,
        *,
        token: str | None = None,
        password: str | None = None,
        lang: str = "en",
        ssl: SSLContext | None = None,
        server_hostname: str | None = None,
        encoding: str = "json",
        timeout: float | None = TIMEOUT,
        queue: int = QUEUE,
        outbox: int = OUTBOX,
        backoff: Backoff | None = None,
        name: str = f"evloop/{evloop.__version__}",
    ) -> None:
        self._address = evloop.parse_address(address).for_client()
        if self._address.kind == "seqpacket":
            raise ValueError(f"{self._address} keeps packets, and chat needs a stream: use unix: or TCP")
        if encoding not in wire.CODECS:
            raise ValueError(f"encoding is one of {', '.join(wire.CODECS)}, not {encoding!r}")
        if not ((timeout is None or timeout > 0) and queue > 0 and outbox > 0):
            raise ValueError(f"timeout, queue and outbox are > 0, not {timeout}, {queue} and {outbox}")
        self.nick, self.user = nick or "", ""
        self.state = "connecting"
        self.welcome: wire.Welcome | None = None
        self._asked_nick = nick
        self._hello: dict[str, Any] = {"client": name, "token": token, "password": password, "lang": lang}
        self._tls: dict[str, Any] = {"ssl": ssl, "server_hostname": server_hostname} if ssl is not None else {}
        self._codec = wire.CODECS[encoding]
        self._timeout = timeout
        self._backoff = backoff or Backoff()
        self._outbox = Outbox(outbox, self._emit, self._notify)
        self._rooms = self._outbox.rooms
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._events: deque[Event] = deque()
        self._most_events = queue
        self._iterated = False
        self._changed: set[asyncio.Future[None]] = set()
        self._end: BaseException | None = None
        self._closing: asyncio.Future[None] | None = None  # done when the client is closed; of connect()'s loop

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Client {self.nick or '?'} at {self._address} {self.state}>"

    # --- the connection -----------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect and be welcomed; from then on the client stays connected by itself.

        A server that is about to stop says so and to come back; then it is tried again while *timeout* lasts.

        Raises:
            OSError: the server could not be reached; TimeoutError after *timeout* (NoWelcome: it was);
                ssl.SSLError.
            Refused, Ended: it could, and does not want this client.
            Disconnected: it went away before the welcome, or stayed away after it had said to come back; or the client
                was closed meanwhile, which ends the waiting at once.
            RuntimeError: it was called before.
        """
        if self._task is not None or self.state != "connecting":
            raise RuntimeError("connect() of a client that was connected before: make another one")
        self._closing = asyncio.get_running_loop().create_future()
        try:
            link = await self._first(self._closing)
            if self.state == "closed":  # in the turns since the welcome; close() has the link
                raise Disconnected(CLOSED)
        except BaseException:
            self.state = "closed"
            raise
        self._task = asyncio.get_running_loop().create_task(self._stay_connected(link))

    async def close(self, why: str = "") -> None:
        """Say goodbye and close; what is not confirmed by then is given up.  Idempotent, safe to cancel."""
        link, task = self._link, self._task
        self._finish(None)
        try:
            if link is not None and not link.is_closing():
                link.resume_reading()
                link.tell(wire.Quit(why=why))
                await asyncio.wait({link.closed}, timeout=GOODBYE)
        finally:
            if link is not None:
                link.abort()
            if task is not None and task is not asyncio.current_task():
                task.cancel()
                await asyncio.wait({task})
            if link is not None:
                await asyncio.wait({link.closed})

    async def _first(self, closing: asyncio.Future[None]) -> Link:
        """Return the first connection on which the server has welcomed; only one that asks for it is tried again."""
        loop = asyncio.get_running_loop()
        until = None if self._timeout is None else loop.time() + self._timeout
        asked = False
        while True:
            try:
                return await self._open()
            except (OSError, Disconnected) as exc:
                if closing.done():
                    raise Disconnected(CLOSED) from exc
                asked = asked or isinstance(exc, Later)
                if not asked:
                    raise
                reason, after = reason_of(exc), exc.seconds if isinstance(exc, Later) else 0.0
            delay = self._backoff.delay(at_least=after)
            if until is not None and loop.time() + delay > until:
                raise Disconnected(f"not welcomed within {self._timeout:g} s: {reason}")
            await asyncio.wait([closing], timeout=delay)
            if closing.done():
                raise Disconnected(CLOSED)

    async def _open(self, resume: wire.Resume | None = None) -> Link:
        """Connect once and be welcomed."""
        link = Link(self._codec, self._pushed)
        attempt = asyncio.get_running_loop().create_task(self._hello_on(link, resume))
        welcomed = False
        try:
            # Not wait_for(): before Python 3.12 it loses a cancellation that meets the end of what it waits for.
            assert self._closing is not None
            ends: list[asyncio.Future[None]] = [attempt, self._closing]
            await asyncio.wait(ends, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED)
            if not attempt.done():
                if self._closing.done():
                    raise Disconnected(CLOSED)
                within = f"from {self._address} within {self._timeout:g} s"
                if link.transport is None:
                    raise TimeoutError(f"no answer {within}")
                raise NoWelcome(f"no welcome {within}")
            attempt.result()
            welcomed = True
        finally:
            if not welcomed:
                attempt.cancel()
                await asyncio.wait([attempt])
                if not attempt.cancelled():
                    attempt.exception()  # whatever it was: what is raised here comes first
                await self._drop(link)
        return link

    async def _drop(self, link: Link) -> None:
        """Close *link*, on which the welcome came late or not at all."""
        link.abort()
        if self._link is link:
            self._disconnected()
        if link.transport is not None:
            await asyncio.wait([link.closed])

    async def _hello_on(self, link: Link, resume: wire.Resume | None) -> None:
        loop = asyncio.get_running_loop()
        address = self._address
        if address.is_unix:
            path = "\0" + address.path[1:] if address.path.startswith("@") else address.path
            await loop.create_unix_connection(lambda: link, path, **self._tls)
        else:
            await loop.create_connection(lambda: link, address.host, address.port, **self._tls)
        welcomed: asyncio.Future[None] = loop.create_future()

        def answered(reply: Any) -> None:
            if welcomed.done() or self.state == "closed":  # in this very turn
                return
            if type(reply) is wire.Welcome and reply.v != wire.VERSION:
                versions = f"the server speaks version {reply.v} of evloop-chat, and this client version {wire.VERSION}"
                welcomed.set_exception(Ended(wire.BAD_VERSION, versions))
            elif type(reply) is wire.Welcome:
                self._welcomed(link, reply)  # here, since what follows in the same read belongs to the session
                welcomed.set_result(None)
            else:
                welcomed.set_exception(refused(reply) if type(reply) is wire.Err else Disconnected("no welcome came"))

        hello = wire.Hello(v=wire.VERSION, nick=self._asked_nick, resume=resume, **self._hello)
        link.request(hello, answered)
        ends: list[asyncio.Future[Any]] = [welcomed, link.closed]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not welcomed.done():
            if link.bye is not None:
                raise parted(link.bye)
            cause = link.closed.result()
            raise cause if isinstance(cause, OSError) else Disconnected(f"no welcome came: {reason_of(cause)}")
        welcomed.result()

    def _welcomed(self, link: Link, welcome: wire.Welcome) -> None:
        self._link, self.welcome, self.state = link, welcome, "connected"
        link.watch(welcome.ping_s)
        self._emit(Status("connected"))
        if self.user and self.nick != welcome.nick:
            self._emit(Renamed(welcome.nick))
        self.nick, self.user = welcome.nick, welcome.user
        self._rooms.connected(link, welcome)
        self._outbox.connected(link)
        self._update_reading()

    async def _stay_connected(self, link: Link) -> None:
        """Connect again whenever the connection is lost, until the end."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                since = loop.time()
                cause = await asyncio.shield(link.closed)
                reason, after = self._lost(link, cause)
                link = await self._reconnect(reason, after, loop.time() - since)
        except (Ended, Refused) as exc:
            self._finish(exc)
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            self._finish(exc)
            raise

    def _lost(self, link: Link, cause: BaseException | None) -> tuple[str, float]:
        """Note that the connection is gone; return why, and the seconds to stay away.  Ended: for good."""
        self._disconnected()
        if link.bye is None:
            return reason_of(cause), 0.0
        bye = parted(link.bye)
        if isinstance(bye, Later):
            return str(bye), bye.seconds
        raise bye

    def _disconnected(self) -> None:
        self._link = None
        if self.state == "connected":
            self.state = "reconnecting"
        self._rooms.disconnected()
        self._outbox.disconnected()

    async def _reconnect(self, reason: str, after: float, up: float) -> Link:
        """Return a connection on which the server has welcomed, however long it takes."""
        assert self.welcome is not None
        while True:
            delay = self._backoff.delay(up=up, at_least=after)
            self._emit(Status("reconnecting", reason, delay))
            await asyncio.sleep(delay)
            while len(self._events) > self._most_events and self._iterated:
                await self._change()
            after = up = 0.0
            try:
                resume = wire.Resume(sid=self.welcome.sid, key=self.welcome.resume_key)
                return await self._open(resume)
            except Later as exc:
                reason, after = str(exc), exc.seconds
            except (OSError, Disconnected) as exc:
                reason = reason_of(exc)
            except Refused as exc:
                # The nick may be that of our own session, which the server still believes to be alive.
                if not (exc.temp or exc.code == "nick_taken"):
                    raise
                reason = str(exc)

    def _finish(self, cause: BaseException | None) -> None:
        """Be closed, once, for *cause* or because it was asked for."""
        if self.state == "closed":
            return
        self.state, self._end, self._link = "closed", cause, None
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)
        gone = cause or Disconnected(CLOSED)
        self._rooms.closed(gone)
        self._outbox.closed(gone)
        self._emit(Status("closed", str(cause or "")))

    # --- what comes ---------------------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[Event]:
        """Iterate over everything that happens, in order; it ends when the client is closed.

        Raises: Ended, Refused: the server does not want this client any more.
        """
        self._iterated = True
        while True:
            while not self._events:
                if self.state == "closed":
                    if self._end is not None:
                        raise self._end
                    return
                await self._change()
            event = self._events.popleft()
            if len(self._events) == self._most_events:
                self._notify()
            self._update_reading()
            yield event

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Iterate over what others say, without the moderators' acts; raises as :meth:`events`."""
        async for event in self.events():
            if isinstance(event, Message) and not event.own and event.kind != "mod":
                yield event

    def _emit(self, event: Event) -> None:
        self._events.append(event)
        if len(self._events) > self._most_events:
            if not self._iterated:
                self._events.popleft()
            elif len(self._events) == QUEUE_FACTOR * self._most_events and self._link is not None:
                self._link.fail(OSError(f"{len(self._events)} events wait for this program"))
        if not isinstance(event, Status):
            self._update_reading()
        self._notify()

    def _update_reading(self) -> None:
        """Read on, unless the program has enough to do and waits for no answer."""
        link = self._link
        if link is None:
            return
        if len(self._events) >= self._most_events and self._iterated and not link.waiting:
            link.pause_reading()
        else:
            link.resume_reading()

    async def _change(self) -> None:
        """Wait until something has changed."""
        change = asyncio.get_running_loop().create_future()
        self._changed.add(change)
        try:
            await change
        finally:
            self._changed.discard(change)

    def _notify(self) -> None:
        for change in self._changed:
            if not change.done():
                change.set_result(None)

    def _pushed(self, message: Any) -> None:
        kind = type(message)
        if kind is wire.Msg:
            self._rooms.said(message)
        elif kind is wire.Event:
            if message.e == "nick" and message.who == self.nick and message.text:
                self._renamed(message.text)
            self._rooms.passed(message)
        elif kind is wire.Note:
            self._emit(Notice(message.level, message.code, message.text))
        elif kind is wire.Err:
            self._emit(Notice("warning", message.code, message.text))

    def _renamed(self, nick: str) -> None:
        if nick != self.nick:
            self.nick = self._asked_nick = self._rooms.nick = nick
            self._emit(Renamed(nick))

    # --- what is said -------------------------------------------------------------------------------------------

    async def say(self, room: str, body: str, *, kind: str = "text", re: int | None = None) -> int:
        """Say *body* in *room*; return its number in the room's order, once the server has it.

        Over a loss of the connection it is sent again, and said once.  Cancelled before it was ever sent, it is not.

        Raises:
            ValueError: the body is empty or too long, or a name is.
            Refused, Ended: the server does not want it.
            Disconnected: the client was closed.
        """
        return await self._said(room, "", body, kind, re)

    async def tell(self, nick: str, body: str, *, kind: str = "text", re: int | None = None) -> int:
        """Say *body* to *nick* alone; otherwise as :meth:`say`."""
        return await self._said("", nick, body, kind, re)

    async def reply(self, message: Message, body: str) -> int:
        """Say *body* where *message* was said, as an answer to it; otherwise as :meth:`say`."""
        return await self._said(message.room, message.peer, body, "text", message.seq)

    def post(self, room: str, body: str, *, to: str = "", kind: str = "text", re: int | None = None) -> None:
        """Queue *body* for *room*, or with "" for the nick *to*, and return; what becomes of it comes as an event.

        Raises: ValueError: as :meth:`say`; OutboxFull; Disconnected: the client was closed.
        """
        if self._outbox.full:
            raise OutboxFull(f"{len(self._outbox)} messages wait for the server, the most that outbox= allows")
        self._add(room, to, body, kind, re)

    @property
    def unsent(self) -> int:
        """How many of the things said are not confirmed yet."""
        return len(self._outbox)

    async def drain(self) -> None:
        """Wait until there is a place in the outbox, or the client is closed."""
        while self._outbox.full and self.state != "closed":
            await self._change()

    async def flush(self) -> None:
        """Wait until everything said is confirmed or refused.  Ended, Refused, Disconnected: the client is closed."""
        while len(self._outbox):
            await self._change()
            if self.state == "closed":
                raise self._end or Disconnected(CLOSED)

    async def _said(self, room: str, to: str, body: str, kind: str, re: int | None) -> int:
        await self.drain()
        entry = self._add(room, to, body, kind, re)
        try:
            return await asyncio.shield(entry.done)
        except asyncio.CancelledError:
            self._outbox.withdraw(entry)
            raise

    def _add(self, room: str, to: str, body: str, kind: str, re: int | None) -> Unsent:
        most = self.welcome.limits.body if self.welcome is not None else wire.MAX_BODY
        size = len(body.encode())  # UnicodeEncodeError, a ValueError: half of a surrogate pair
        if not 0 < size <= most:
            raise ValueError(f"a message has 1 to {most} bytes of UTF-8, the server's bound, and this one {size}")
        if self.state == "closed":
            raise self._end or Disconnected(CLOSED)
        entry = self._outbox.add(room_name(room), to, body, kind, re)
        self._update_reading()
        return entry

    # --- rooms --------------------------------------------------------------------------------------------------

    async def join(self, room: str, *, history: int = 0) -> Entered:
        """Enter *room*, and stay in it over losses of the connection; its last *history* (0..200) messages with it.

        Raises: Refused, Ended: the server does not want it; Disconnected: the client was closed; ValueError: it cannot
        be a room's name.

        Cancelled, the room is entered all the same; :meth:`part` takes the wish back.
        """
        if self.state == "closed":
            raise self._end or Disconnected(CLOSED)
        entered: asyncio.Future[Entered] = asyncio.get_running_loop().create_future()
        self._rooms.enter(room_name(room), history, entered)
        self._update_reading()
        return await entered

    @property
    def followed(self) -> list[Room]:
        """The rooms and conversations that are followed; for reading only."""
        return list(self._rooms)
