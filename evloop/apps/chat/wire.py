"""The protocol ``evloop-chat/1``: every message as a typed struct, both encodings, the codes and the wire's own bounds.

A message is one payload: a frame's (four bytes of length, big-endian, in front), or a WebSocket message's.  It is an
object with the field ``t``, its type, in JSON or in MessagePack; the first byte tells which (:func:`codec_of`), and the
server answers in the encoding of the client's first message.  ``docs/chat-protocol.md`` says what each is for.

Decoding validates: a message that was decoded has all required fields, of the right types and within these bounds.
Unknown fields are skipped, so a new field needs a default and no new version.

Rule: nothing in this file may know a session, a room or a socket.  Server, clients and tests share it.
Read next: ``sessions.py``, which answers the requests.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct, field

VERSION: Final = 1
SUBPROTOCOLS: Final = {"evloop-chat.v1.json": "json", "evloop-chat.v1.msgpack": "msgpack"}  # of WebSocket

# Bytes of one message to the server.  The longest legal body, 8 KiB, is 48 KiB when JSON escapes each of its bytes.
MAX_MESSAGE: Final = 64 * 1024
# Bytes of one message from the server.  The longest is `joined`, 192 KiB of history and 200 nicks; it is half of what
# evloop's own framing takes unasked.
MAX_REPLY: Final = 512 * 1024

MAX_BODY: Final = 8192  # bytes of UTF-8, and so at most as many characters
MAX_NAME: Final = 64  # characters of a nick or of a room's name on the wire; names.py has the narrower rules
MAX_CID: Final = 36  # a UUID as text
MAX_PAGE: Final = 200  # entries of one page: history, members, rooms
_MAX_TEXT = 512  # bytes are bounded by the frame; a topic, a reason or an away text of more nobody reads
_MAX_SECRET = 4096  # a bearer token; JWTs are about 1 KiB
_MAX_INT = 2**53 - 1  # what a JavaScript number holds exactly

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
# The key of a direct conversation, "@" and two user ids, is longer than a name, and may stand where one may.
RoomName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=160)]
Body: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_BODY)]
Cid: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_CID)]
Text: TypeAlias = Annotated[str, Meta(max_length=_MAX_TEXT)]
Secret: TypeAlias = Annotated[str, Meta(max_length=_MAX_SECRET)]
Seq: TypeAlias = Annotated[int, Meta(ge=0, le=_MAX_INT)]
Ref: TypeAlias = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Limit: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_PAGE)]
Kind: TypeAlias = Literal["text", "action", "file"]
ModOp: TypeAlias = Literal["kick", "ban", "unban", "mute", "unmute", "op", "deop", "topic", "lock", "unlock"]
EventName: TypeAlias = Literal["join", "part", "lost", "nick", "away", "typing", "count"]
Durability: TypeAlias = Literal["memory", "commit", "engine"]


# --- parts of messages --------------------------------------------------------------------------------------------


class Element(Struct, omit_defaults=True, gc=False, kw_only=True):
    """The base of what stands inside of messages."""


class Resume(Element):
    """Which session to take up again; *key* is what ``welcome`` gave as ``resume_key``: 128 bits as hex digits."""

    sid: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
    key: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]


class Position(Element):
    """A place in a room's order: *seq* counts from 1 and has no holes, as long as *epoch* is the same."""

    epoch: Annotated[str, Meta(max_length=MAX_NAME)]
    seq: Seq


class File(Element):
    """A file that was uploaded elsewhere; *size* in bytes, *ticket* is what the upload service gave for it."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    size: Seq
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None
    ticket: Secret | None = None


class Rate(Element):
    """Messages per second that a client may send, after *burst* at once; 0: as many as it likes."""

    burst: int
    per_s: float


class ServerLimits(Element):
    """The bounds that a client has to know: bytes of a frame, a reply and a body, columns of a nick, bytes of a room's
    name, rooms of a connection, messages of a room that are kept in memory, and the rate.
    """

    frame: int
    reply: int
    body: int
    nick: int
    room: int
    rooms: int
    history: int
    rate: Rate


class Conversation(Element):
    """A direct conversation of this user: its key, the other one's nick, and its newest position."""

    dm: str
    who: str
    epoch: str
    top: int


class You(Element):
    """What one is in a room: *role* is ``op`` or ``member``; *muted* tells whether saying something is refused."""

    role: str
    muted: bool = False


class Member(Element):
    """Somebody in a room; *away* is the text they left, if they are away."""

    nick: str
    role: str = "member"
    away: str | None = None


class RoomInfo(Element):
    """A room as the list of rooms shows it, with *n* members."""

    room: str
    n: int
    topic: str = ""


# --- client to server ---------------------------------------------------------------------------------------------


class Request(Struct, tag_field="t", tag=str.lower, omit_defaults=True, gc=False, kw_only=True):
    """The base of what a client sends; an answer, if there is one, has the same *ref*."""

    ref: Ref | None = None


class Hello(Request):
    """The first message: the best version *v* and the least one, *min*, that the client speaks, and who it is."""

    v: Annotated[int, Meta(ge=1, le=_MAX_INT)]
    client: Annotated[str, Meta(max_length=MAX_NAME)]
    min: Annotated[int, Meta(ge=1, le=_MAX_INT)] = 1
    nick: Name | None = None
    token: Secret | None = None
    password: Secret | None = None
    lang: Annotated[str, Meta(max_length=16)] = "en"
    caps: Annotated[list[Annotated[str, Meta(max_length=32)]], Meta(max_length=32)] = []
    resume: Resume | None = None


class Nick(Request):
    """Take another nick."""

    nick: Name


class Join(Request):
    """Become a member of a room, or get what was missed of it: all after *since*, else the last *limit* messages."""

    room: RoomName
    since: Position | None = None
    limit: Limit = 50


class Part(Request):
    """Leave a room."""

    room: RoomName
    why: Text = ""


class Say(Request):
    """Say something, in a room or *to* a nick.  *cid* is the client's own name for it: a repeat is not said twice."""

    body: Body
    cid: Cid
    room: RoomName | None = None
    to: Name | None = None
    kind: Kind = "text"
    re: Seq | None = None
    file: File | None = None


class Typing(Request):
    """Somebody is writing, or no longer; without an answer."""

    on: bool
    room: RoomName | None = None
    to: Name | None = None


class Away(Request):
    """Be away, with a text; without one: be back."""

    text: Text | None = None


class Who(Request):
    """Ask for the members of a room, by name, those behind *after* first."""

    room: RoomName
    after: Name | None = None
    limit: Limit = MAX_PAGE


class Rooms(Request):
    """Ask for the rooms whose names begin with *prefix*, by name, those behind *after* first."""

    prefix: Annotated[str, Meta(max_length=MAX_NAME)] = ""
    after: Name | None = None
    limit: Limit = 100


class History(Request):
    """Ask for a page of a room's messages: *before*, *after* or *around* a seq; without either the newest."""

    room: RoomName | None = None
    to: Name | None = None
    before: Seq | None = None
    after: Seq | None = None
    around: Seq | None = None
    limit: Limit = 50


class Mod(Request):
    """Moderate a room: *op* on the nick *who*, for *secs* seconds (none: for good), with *text* as reason or topic."""

    room: RoomName
    op: ModOp
    who: Name | None = None
    secs: Annotated[int, Meta(ge=1, le=366 * 86400)] | None = None
    text: Text = ""


class Ping(Request):
    """Ask the other side, either of them, whether it is there."""

    n: Annotated[int, Meta(ge=-_MAX_INT, le=_MAX_INT)] = 0


class Pong(Request):
    """The answer to a ping, with its *n*."""

    n: Annotated[int, Meta(ge=-_MAX_INT, le=_MAX_INT)] = 0


class Quit(Request):
    """Leave for good: the session cannot be resumed."""

    why: Text = ""


ClientMessage: TypeAlias = (
    Hello | Nick | Join | Part | Say | Typing | Away | Who | Rooms | History | Mod | Ping | Pong | Quit
)


# --- server to client ---------------------------------------------------------------------------------------------


class Reply(Struct, tag_field="t", tag=str.lower, omit_defaults=True, gc=False, kw_only=True):
    """The base of what the server sends; without a *ref* it answers nothing: it is a push."""

    ref: int | None = None


class Welcome(Reply):
    """The answer to ``hello``: the session exists.  Times: *ping_s* seconds, *now* milliseconds since 1970 (UTC)."""

    v: int
    server: str
    node: str
    sid: str
    resume_key: str
    nick: str
    user: str
    resumed: bool
    durability: Durability
    ping_s: int
    now: int
    limits: ServerLimits
    caps: list[str] = []
    rooms: list[str] = []  # of a resumed session: those it is still a member of
    dms: list[Conversation] = []
    motd: str = ""


class Msg(Reply, tag="msg"):
    """A message of a room (*room*) or of a direct conversation (*dm*): it has a place in the order, *seq*.

    *ts* is milliseconds since 1970 (UTC).  Of a direct one, *user* is the id of who said it and *to* the other's nick.
    With kind ``mod``, *op* is what was done to *who*, for *secs* seconds, and *body* the reason or the topic.
    """

    seq: int
    ts: int
    sender: str = field(name="from")
    body: str = ""
    room: str | None = None
    dm: str | None = None
    kind: Literal["text", "action", "file", "mod"] = "text"
    cid: str | None = None
    re: int | None = None
    file: File | None = None
    user: str | None = None
    to: str | None = None
    op: str | None = None
    who: str | None = None
    secs: int | None = None


class Joined(Reply):
    """The answer to ``join``: the room as it is at *top*; what is said from now on comes as ``msg``.

    *recovered*: *history* is all that was said after ``since``, in order and without a hole.  If it is false, *history*
    is the end of the room's messages; *more*: there are earlier ones.
    """

    room: str
    epoch: str
    top: int
    you: You
    n: int
    members: list[str]
    recovered: bool
    history: list[Msg]
    topic: str = ""
    locked: bool = False
    more: bool = False


class Event(Reply, tag="ev"):
    """Something that is not kept and may be lost: who came, left, was lost, is away, types; how many there are.

    *e* ``nick``: *who* is *text* from now on.  ``away``: without a *text*, *who* is back.  ``count``: *n* members.
    """

    e: EventName
    room: str | None = None
    dm: str | None = None
    who: str | None = None
    n: int | None = None
    text: str | None = None
    on: bool = True  # of typing


class Ok(Reply):
    """It was done.  Of a ``say``: at *seq* of *epoch*; *dup*: the first time it was asked for, not now."""

    seq: int | None = None
    epoch: str | None = None
    ts: int | None = None
    dup: bool = False
    dm: str | None = None
    nick: str | None = None


class Err(Reply):
    """It was not done, for *code*, one of ERRORS; *text* is for people.  *temp*: later it may be, in *retry_ms*."""

    code: str
    text: str
    temp: bool = False
    retry_ms: int | None = None


class Members(Reply):
    """The answer to ``who``: a page of the *n* members."""

    room: str
    n: int
    entries: list[Member] = field(name="list")
    more: bool = False


class RoomList(Reply, tag="rooms"):
    """The answer to ``rooms``."""

    entries: list[RoomInfo] = field(name="list")
    more: bool = False


class Page(Reply, tag="history"):
    """The answer to ``history``: consecutive messages in their order."""

    epoch: str
    items: list[Msg]
    room: str | None = None
    dm: str | None = None
    more_before: bool = False
    more_after: bool = False


class Note(Reply):
    """Something about the server that its users should know."""

    level: Literal["info", "warning"]
    code: str  # "degraded", "restored"; a client shows the text of any other
    text: str


class Bye(Reply):
    """The last message before the server closes, for *code*, one of those below; a client comes back if *reconnect*."""

    code: int
    text: str
    reconnect: bool = False
    after_ms: int | None = None
    server_min: int | None = None
    server_max: int | None = None


ServerMessage: TypeAlias = (
    Welcome | Msg | Joined | Event | Ok | Err | Members | RoomList | Page | Note | Bye | Ping | Pong
)

# --- codes --------------------------------------------------------------------------------------------------------

# Each code of an `err`, and whether trying again later may help.
ERRORS: Final[dict[str, bool]] = {
    "bad_frame": False,  # the payload is neither JSON nor MessagePack
    "bad_message": False,  # it is, but a field is missing or wrong
    "unknown_type": False,
    "too_big": False,
    "not_ready": False,  # before `welcome`
    "nick_taken": False,
    "nick_bad": False,
    "no_room": False,  # there is none of that name, or one is no member
    "no_nick": False,  # nobody is called so
    "room_bad": False,  # the name cannot be a room's
    "room_full": False,
    "forbidden": False,
    "banned": False,
    "muted": False,
    "already": False,
    "cid_conflict": False,  # the cid was used for another message
    "gone": False,  # the seq is outside of what is kept
    "rate_limited": True,
    "unavailable": True,
    "internal": True,
}

# The codes of a `bye`.  As Centrifugo's: a client reconnects for those below 3500, and not for the others.
QUIT: Final = 1000
SHUTDOWN: Final = 3001
SLOW: Final = 3008
NO_PONG: Final = 3012
AUTH: Final = 3500
BAD_VERSION: Final = 3501
REPLACED: Final = 3504
PROTOCOL: Final = 3505
BYES: Final = (QUIT, SHUTDOWN, SLOW, NO_PONG, AUTH, BAD_VERSION, REPLACED, PROTOCOL)


def reconnects(code: int) -> bool:
    """Return whether a client that was told ``bye`` with *code* is to come back."""
    return 3000 <= code < 3500


def comes_back(bye: Bye) -> bool:
    """Return whether a client that was told *bye* is to come back, whenever it was told; the page has the same rule.

    The field is for codes that this version does not know.
    """
    return bye.reconnect or reconnects(bye.code)


# --- encodings ----------------------------------------------------------------------------------------------------

# What decoding raises: for bad syntax or a bad field, for bad UTF-8, for brackets nested deeper than the stack.
DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Codec:
    """One encoding of the messages; there are two, JSON and MSGPACK.  Immutable; any thread.

    Attributes:
        name: ``"json"`` or ``"msgpack"``.
        encode: returns the payload (bytes) of a message of either direction.
        decode_request: returns the ClientMessage that a payload (bytes-like) is, or raises one of DECODE_ERRORS, of
            which :func:`fault_of` makes an answer.
        decode_reply: the same for a ServerMessage.
        decode_any: returns the plain dicts, lists and values of a payload.
    """

    __slots__ = ("name", "encode", "decode_request", "decode_reply", "decode_any")

    def __init__(self, name: str, module: Any) -> None:
        self.name = name
        self.encode: Callable[[Any], bytes] = module.Encoder().encode
        self.decode_request: Callable[[Any], Any] = module.Decoder(ClientMessage).decode
        self.decode_reply: Callable[[Any], Any] = module.Decoder(ServerMessage).decode
        self.decode_any: Callable[[Any], Any] = module.Decoder().decode

    def __repr__(self) -> str:
        return f"<Codec {self.name}>"


JSON: Final = Codec("json", msgspec.json)
MSGPACK: Final = Codec("msgpack", msgspec.msgpack)
CODECS: Final = {codec.name: codec for codec in (JSON, MSGPACK)}


def codec_of(payload: bytes) -> Codec | None:
    """Return the codec of the message that *payload* begins with, or None if it is of neither.

    ``{`` opens a JSON object, and as MessagePack would be a number; 0x80-0x8F, 0xDE and 0xDF open a MessagePack map.
    """
    first = payload[0] if payload else -1
    if first == 0x7B:
        return JSON
    return MSGPACK if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF) else None


class Fault(Struct, gc=False):
    """Why a payload is no message: *code* of ERRORS, *detail* in English, *ref* of the request if it could be read."""

    code: str
    detail: str
    ref: int | None = None


_TYPES = frozenset(cls.__struct_config__.tag for cls in ClientMessage.__args__)


def fault_of(codec: Codec, payload: bytes, exc: Exception) -> Fault:
    """Return what is wrong with *payload*, of which ``codec.decode_request`` has raised *exc*.

    The loose envelope is decoded again, for the ref and to tell an unknown type from a bad field.
    """
    try:
        envelope = codec.decode_any(payload)
    except (*DECODE_ERRORS, ValueError) as worse:
        return Fault("bad_frame", _first_line(worse))
    if not isinstance(envelope, dict):
        return Fault("bad_message", "a message is an object")
    ref, kind = envelope.get("ref"), envelope.get("t")
    if isinstance(ref, bool) or not isinstance(ref, int) or not 0 <= ref < 2**32:
        ref = None
    if isinstance(kind, str) and kind not in _TYPES:
        return Fault("unknown_type", kind[:MAX_NAME], ref)
    body = envelope.get("body")
    if isinstance(body, str) and len(body) > MAX_BODY:
        return Fault("too_big", f"body of {len(body)} characters exceeds {MAX_BODY} bytes", ref)
    return Fault("bad_message", _first_line(exc), ref)


def _first_line(exc: Exception) -> str:
    if isinstance(exc, UnicodeDecodeError):
        return f"not UTF-8: {exc.reason}"
    if isinstance(exc, RecursionError):
        return f"nested more than {sys.getrecursionlimit()} deep"
    return str(exc).partition("\n")[0][:200]
