"""``evloop serve chat``: a real process, spoken to with a plain socket and with evloop's blocking client."""

from __future__ import annotations

import json
import pathlib
import signal

import click
import pytest
from programs import Served, frame, receive_frame, rest_of, run_program, serving

import evloop
from evloop.apps.chat import wire
from evloop.apps.chat.limits import CONNECTION_LIMITS, ChatLimits
from evloop.cli.limit_options import limits_of
from evloop.cli.program import run
from evloop.cli.serve_chat import chat as command
from evloop.tls import client_context

LOCAL = "127.0.0.1:0"
CERTIFICATES = pathlib.Path(__file__).parents[1] / "certificates"


class Simple:
    """A client of twenty lines, as somebody would write one after reading the page."""

    def __init__(self, address, codec=wire.JSON, **options):
        self.client = evloop.BlockingClient(address, timeout=20, **options)
        self.codec = codec

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.client.close()

    def tell(self, **message):
        self.client.send(self.codec.encode(message))

    def hear(self, kind):
        message = self.codec.decode_any(self.client.recv())
        assert message["t"] == kind, message
        return message

    def hello(self, **fields):
        self.tell(t="hello", v=1, client="simple/1", **fields)
        return self.hear("welcome")

    def join(self, room):
        self.tell(t="join", room=room)
        return self.hear("joined")


def test_two_clients_in_two_encodings_talk():
    """From a shell to a conversation: the command, the LISTENING line, two clients of no code of the server's."""
    with serving("chat", LOCAL) as server:
        bob = Simple(server.address, wire.MSGPACK)
        with Simple(server.address) as amy, bob:
            assert amy.hello(nick="小明")["motd"] == "服务端已就绪"
            amy.join("大厅")
            bob.hello(nick="bob")
            bob.join("大厅")
            assert amy.hear("ev")["who"] == "bob"
            bob.tell(t="say", room="大厅", body="你好", cid="1", ref=1)
            assert bob.hear("ok")["seq"] == 1
            assert amy.hear("msg")["body"] == "你好"


def test_plain_socket_and_stdlib_json_are_enough():
    """The promise of the encoding: a client in any language, without a library."""
    with serving("chat", LOCAL) as server, server.connect() as sock:
        sock.sendall(frame(json.dumps({"t": "hello", "v": 1, "client": "nc"}).encode()))
        assert json.loads(receive_frame(sock))["t"] == "welcome"
        sock.sendall(frame(b'{"t":"quit"}'))
        assert json.loads(receive_frame(sock))["code"] == 1000
        assert rest_of(sock) == b""


def test_stopped_server_says_goodbye_and_exits_0():
    """SIGTERM: a deploy; clients are told when to come back."""
    with Served("chat", LOCAL) as server:
        with Simple(server.address) as amy:
            amy.hello()
            server.signal(signal.SIGTERM)
            bye = amy.hear("bye")
            assert bye["code"] == 3001 and bye["reconnect"] is True
            with pytest.raises(evloop.ConnectionClosed):
                amy.client.recv()
        assert server.finish() == 0, server.err.decode()


def test_password_file_and_tls_and_unix(tmp_path):
    """The ways in that are not open to everybody."""
    secret = tmp_path / "secret"
    secret.write_text("sesam öffne\nnot this\n")
    pem = str(CERTIFICATES / "server.pem")
    with serving("chat", LOCAL, "--password-file", str(secret), "--tls-cert", pem, "--rate", "0") as server:
        context = client_context(str(CERTIFICATES / "ca.pem"))
        with Simple(server.address, ssl=context, server_hostname="localhost") as amy:
            welcome = amy.hello(password="sesam öffne")
            assert welcome["limits"]["rate"] == {"burst": 20, "per_s": 0}
    path = f"unix:{tmp_path}/chat.sock"
    with serving("chat", path, "--motd", "hi", env={"EVLOOP_CHAT_PASSWORD": "pw"}) as server:
        with Simple(server.address) as amy:
            assert amy.hello(password="pw")["motd"] == "hi"
        with Simple(server.address) as bob:
            bob.tell(t="hello", v=1, client="t")
            assert bob.hear("bye")["code"] == 3500


WRONG = [
    (["seqpacket:/tmp/x"], 2, "the chat needs a stream"),
    (["--password-file", "/nonexistent"], 1, "cannot read --password-file /nonexistent: No such file"),
    (["--password-file", "/dev/null"], 2, "its first line has 0 bytes"),
    (["--rate", "-1"], 2, "--rate: -1"),
    (["--burst", "0"], 2, "--burst: 0"),
    (["--grace", "soon"], 2, "--grace: bad duration 'soon'"),
    (["--high-water", "1K"], 2, "low_water 65536 exceeds high_water 1024"),
]


@pytest.mark.parametrize(("args", "code", "text"), WRONG, ids=[" ".join(args) for args, _, _ in WRONG])
def test_wrong_line_is_refused_in_one_line(args, code, text, capfd):
    """Cause and remedy, before anything listens."""
    assert run(["serve", "chat", *args]) == code
    out, err = capfd.readouterr()
    assert out == "" and text in err and err.count("\n") == 1


def test_address_in_use_exits_3():
    """The same code as every server's."""
    with serving("chat", LOCAL) as server:
        result = run_program("serve", "chat", server.address)
        assert result.returncode == 3 and b"in use" in result.stderr


def test_defaults_of_the_command_are_those_of_the_library():
    """Two tables of one thing: they must not differ."""
    with click.Context(command):
        names = set(evloop.Limits.__dataclass_fields__) - {"max_frame"}
        params = {param.name: param for param in command.params}
        given = {name: params[name].type_cast_value(None, params[name].default) for name in names}
        limits = limits_of(given)
    changed = {"max_connections": 0, "keepalive_count": 4}
    for name in names - set(changed):
        assert getattr(limits, name) == getattr(CONNECTION_LIMITS, name), name
    chat = ChatLimits()
    assert (params["rate"].default, params["burst"].default) == (chat.rate, chat.burst)
    assert params["grace"].type_cast_value(None, params["grace"].default) == chat.grace


def test_help_of_all_servers_does_not_import_the_chat(capfd):
    """`evloop serve --help` costs what click costs."""
    result = run_program("serve", "--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert result.returncode == 0 and b"chat" in result.stdout
    assert b"msgspec" not in result.stderr and b"evloop.apps.chat" not in result.stderr
