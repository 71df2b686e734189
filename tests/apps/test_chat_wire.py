"""The chat's messages: both encodings, the bounds that decoding keeps, and what is said of a payload that is none."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import msgspec
import pytest

from evloop.apps.chat import wire
from evloop.apps.chat.schema import schema, schema_text
from evloop.apps.chat.texts import text
from evloop.apps.chat.wire import JSON, MSGPACK, codec_of, fault_of

ROOT = pathlib.Path(__file__).parents[2]
CHAT = ROOT / "evloop/apps/chat"
NAMES = {code: name for name, code in vars(wire).items() if name.isupper() and type(code) is int}
REQUESTS = [
    wire.Hello(v=1, client="t/1", nick="小明", resume=wire.Resume(sid="s", key="0" * 32), ref=1),
    wire.Nick(nick="amy"),
    wire.Join(room="大厅", since=wire.Position(epoch="e", seq=3)),
    wire.Part(room="大厅", why="bye"),
    wire.Say(room="大厅", body="你好 😀", cid="c-1", file=wire.File(name="a", size=1, sha256="a" * 64)),
    wire.Typing(to="amy", on=True),
    wire.Away(text="tea"),
    wire.Who(room="大厅", after="a"),
    wire.Rooms(prefix="大"),
    wire.History(to="amy", before=5),
    wire.Mod(room="大厅", op="ban", who="amy", secs=60),
    wire.Ping(n=1),
    wire.Pong(n=1),
    wire.Quit(),
]
_MSG = wire.Msg(seq=1, ts=2, sender="amy", body="x", room="大厅", cid="c")
_LIMITS = wire.ServerLimits(
    frame=1, reply=1, body=1, nick=1, room=1, rooms=1, history=1, rate=wire.Rate(burst=20, per_s=10)
)
REPLIES = [
    wire.Welcome(
        v=1, server="s", node="n", sid="s", resume_key="k", nick="a", user="u", resumed=False, durability="memory",
        ping_s=25, now=1, limits=_LIMITS, dms=[wire.Conversation(dm="@a/b", who="b", epoch="e", top=1)], ref=1,
    ),
    _MSG,
    wire.Joined(
        room="r", epoch="e", top=1, you=wire.You(role="op"), n=1, members=["a"], recovered=True, history=[_MSG]
    ),
    wire.Event(e="typing", room="r", who="a", on=False),
    wire.Ok(ref=3, seq=1, epoch="e", ts=1, dup=True),
    wire.Err(ref=3, code="gone", text="t"),
    wire.Members(room="r", n=1, entries=[wire.Member(nick="a", role="op")]),
    wire.RoomList(entries=[wire.RoomInfo(room="r", n=1)]),
    wire.Page(room="r", epoch="e", items=[_MSG]),
    wire.Note(level="warning", code="degraded", text="t"),
    wire.Bye(code=3001, text="t", reconnect=True, after_ms=5),
    wire.Ping(n=1),
    wire.Pong(n=1),
]  # fmt: skip


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=repr)
@pytest.mark.parametrize("message", REQUESTS, ids=lambda message: type(message).__name__)
def test_request_survives_both_encodings(codec, message):
    """Every type a client sends, in each encoding, is told by its first byte and decoded to what it was."""
    payload = codec.encode(message)
    assert codec_of(payload) is codec
    assert codec.decode_request(payload) == message


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=repr)
@pytest.mark.parametrize("message", REPLIES, ids=lambda message: type(message).__name__)
def test_reply_survives_both_encodings(codec, message):
    """The same for what the server sends: the clients decode with the same module."""
    payload = codec.encode(message)
    assert codec_of(payload) is codec
    assert codec.decode_reply(payload) == message


def test_all_types_are_covered_above():
    """A type that is added without a sample here would be tested by nobody."""
    assert {type(message) for message in REQUESTS} == set(wire.ClientMessage.__args__)
    assert {type(message) for message in REPLIES} == set(wire.ServerMessage.__args__)


def test_message_on_the_wire_has_the_documented_names():
    """`from` and `list` are words of Python's, and not what an author in another language reads."""
    assert JSON.encode(_MSG) == '{"t":"msg","seq":1,"ts":2,"from":"amy","body":"x","room":"大厅","cid":"c"}'.encode()
    assert b'"list":[{"nick":"a","role":"op"}]' in JSON.encode(REPLIES[6])
    assert JSON.encode(wire.Event(e="typing", on=False)) == b'{"t":"ev","e":"typing","on":false}'


@pytest.mark.parametrize("first", [b"", b"[", b" ", b"\x00", b"\x7f", b"\x90", b"\xc0", b"G", b"\xff"])
def test_first_byte_of_anything_else_is_no_codec(first):
    """What is neither must not be guessed at."""
    assert codec_of(first) is None


SAY = {"t": "say", "room": "r", "body": "b", "cid": "c"}
AT_LIMIT = [
    {**SAY, "body": "x" * wire.MAX_BODY},
    {**SAY, "cid": "x" * 36},
    {**SAY, "ref": 2**32 - 1},
    {"t": "nick", "nick": "x" * 64},
    {"t": "join", "room": "r", "limit": 200},
    {"t": "join", "room": "x" * 160},
    {**SAY, "re": 2**53 - 1},
]
BEYOND = [
    ({**SAY, "body": "x" * (wire.MAX_BODY + 1)}, "too_big"),
    ({**SAY, "body": ""}, "bad_message"),
    ({**SAY, "cid": "x" * 37}, "bad_message"),
    ({**SAY, "ref": 2**32}, "bad_message"),
    ({"t": "nick", "nick": "x" * 65}, "bad_message"),
    ({"t": "nick", "nick": ""}, "bad_message"),
    ({"t": "join", "room": "r", "limit": 201}, "bad_message"),
    ({"t": "join", "room": "x" * 161}, "bad_message"),
    ({**SAY, "re": 2**53}, "bad_message"),
    ({**SAY, "kind": "mod"}, "bad_message"),
    ({"t": "mod", "room": "r", "op": "explode"}, "bad_message"),
    ({"t": "hello", "v": 1, "client": "c", "resume": {"sid": "s", "key": "K" * 32}}, "bad_message"),
    ({"t": "shout", "ref": 7}, "unknown_type"),
    ({"t": 3}, "bad_message"),
    ({"body": "b"}, "bad_message"),
]


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=repr)
@pytest.mark.parametrize("fields", AT_LIMIT, ids=lambda fields: str(fields)[:40])
def test_field_at_its_bound_is_decoded(codec, fields):
    """A bound that refuses its own value is another bound than the documented one."""
    codec.decode_request(codec.encode(fields))


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=repr)
@pytest.mark.parametrize(("fields", "code"), BEYOND, ids=lambda value: str(value)[:40])
def test_field_beyond_its_bound_is_a_fault_with_its_code(codec, fields, code):
    """The code is what a client acts on; the ref is that of the request, if it can be read."""
    payload = codec.encode({"ref": 5, **fields})
    with pytest.raises(wire.DECODE_ERRORS) as info:
        codec.decode_request(payload)
    fault = fault_of(codec, payload, info.value)
    assert (fault.code, fault.ref) == (code, {2**32: None, 7: 7}.get(fields.get("ref"), 5))
    assert code in wire.ERRORS and fault.detail


BROKEN = {
    "cut json": b'{"t":"say"',
    "trailing": b'{"t":"quit"} {}',
    "bad utf-8": b'{"t":"say","room":"r","cid":"c","body":"\xff"}',
    "half a surrogate pair": rb'{"t":"say","room":"r","cid":"c","body":"\ud800 x"}',
    "cut msgpack": b"\x82\xa1t",
    "bad utf-8 in msgpack": b"\x82\xa1t\xa3say\xa4body\xa1\xff",
    "announces four billion": b"\xdf\xff\xff\xff\xff",
    "nested": b'{"t":"say","x":' + b"[" * 60_000,
    "nested msgpack": b"\x82\xa1t\xa3say\xa1x" + b"\x91" * 60_000,
}


@pytest.mark.parametrize("payload", BROKEN.values(), ids=BROKEN.keys())
def test_payload_that_cannot_be_decoded_is_a_bad_frame(payload):
    """Whatever arrives, one of three exceptions and one answer; a lone surrogate could not even be sent on."""
    codec = codec_of(payload)
    with pytest.raises(wire.DECODE_ERRORS) as info:
        codec.decode_request(payload)
    assert fault_of(codec, payload, info.value).code == "bad_frame"


def test_unknown_fields_are_skipped():
    """What a later version adds must not break this one."""
    assert JSON.decode_request(b'{"t":"ping","n":3,"later":{"a":[1,2]}}') == wire.Ping(n=3)
    assert JSON.decode_reply(b'{"t":"pong","later":1}') == wire.Pong()


def test_codes_below_3500_and_no_others_come_back():
    """A client that was banned and reconnects is a nuisance, one that was drained and does not is lost."""
    assert [code for code in wire.BYES if wire.reconnects(code)] == [3001, 3008, 3012]


def test_longest_body_fits_a_frame_however_it_is_escaped():
    """Or the bound on bodies would depend on what is in them."""
    worst = wire.Say(room="\x01" * 160, body="\x01" * wire.MAX_BODY, cid="\x01" * 36, ref=1)
    assert len(JSON.encode(worst)) < wire.MAX_MESSAGE


def test_schema_file_is_what_the_structs_say():
    """An author in another language generates code from the file; `python -m evloop.apps.chat.schema` writes it."""
    assert (ROOT / "docs/chat.schema.json").read_text() == schema_text()


def test_schema_names_each_message_and_its_bounds():
    """Not only the shapes: the bounds are what other implementations get wrong."""
    defs = schema()["$defs"]
    for message in (*REQUESTS, *REPLIES):
        assert type(message).__name__ in defs
    assert defs["Say"]["properties"]["body"] == {"type": "string", "minLength": 1, "maxLength": wire.MAX_BODY}
    assert defs["Say"]["required"] == ["t", "body", "cid"]


def test_protocol_page_names_every_type_field_and_code():
    """The page is the specification: what it leaves out nobody implements."""
    page = (ROOT / "docs/chat-protocol.md").read_text()
    for cls in (*wire.ClientMessage.__args__, *wire.ServerMessage.__args__):
        assert f"`{cls.__struct_config__.tag}`" in page
        for info in msgspec.structs.fields(cls):
            assert info.encode_name == "ref" or f"`{info.encode_name}`" in page, (cls, info.encode_name)
    for code in wire.ERRORS:
        assert f"`{code}`" in page, code
    for code in wire.BYES:
        assert str(code) in page


def test_module_needs_nothing_of_the_server():
    """A bot imports the messages alone: no reactor, no sockets of ours beside the package itself."""
    code = "import sys; from evloop.apps.chat import wire; sys.exit('evloop.apps.chat.server' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


def test_every_code_of_a_goodbye_has_words_and_a_line_in_the_documentation():
    """A code without one says nothing to whoever gets it; a line without a code is a promise that nobody keeps."""
    table = (ROOT / "docs/chat-protocol.md").read_text().partition("| `bye` |")[2]
    assert re.findall(r"^\| (\d{4}) \|.*\| (?:yes.*|no) \|$", table, re.MULTILINE) == [str(code) for code in wire.BYES]
    for code in wire.BYES:
        assert text(code, "en", "x") and text(code, "zh", "x")
        sent = [path.name for path in CHAT.glob("*.py") if re.search(rf"wire\.{NAMES[code]}\b", path.read_text())]
        assert sent, f"nothing sends {code}"


def test_note_with_a_code_of_a_later_version_is_shown():
    """A client must not give up its connection for it."""
    note = JSON.decode_reply(b'{"t":"note","level":"info","code":"later","text":"at nine"}')
    assert (note.code, note.text) == ("later", "at nine")
