"""``evloop chat`` in a pipe: lines in and out, and exit codes that a script can go by."""

from __future__ import annotations

import contextlib
import signal

import pytest
from chatthread import ChatThread
from programs import Program, accept, frame, listener, receive_frame, run_program
from tlspeers import CA, SERVER

import evloop
from evloop import tls
from evloop.apps.chat import wire


@pytest.fixture
def server():
    """A chat server of the test's own."""
    with ChatThread() as running:
        yield running


@contextlib.contextmanager
def member(address, nick="bob", room="lobby"):
    """Yield a blocking client that is in the room."""
    with evloop.BlockingClient(address, timeout=30) as client:
        client.send(wire.JSON.encode(wire.Hello(v=1, client="test", nick=nick)))
        client.send(wire.JSON.encode(wire.Join(room=room)))
        hear(client, wire.Joined)
        yield client


def hear(client, kind):
    """Return the next message that is a *kind*."""
    while True:
        message = wire.JSON.decode_reply(client.recv())
        if type(message) is kind:
            return message


def say(client, body, cid, room="lobby"):
    """Say *body* in the room."""
    client.send(wire.JSON.encode(wire.Say(body=body, cid=cid, room=room)))


@pytest.mark.slow
def test_lines_of_a_pipe_are_said_in_order_and_the_end_waits_for_the_server(server):
    """echo ... | evloop chat: what was said is there when the program has ended."""
    with member(server.address) as bob:
        lines = "".join(f"line {number}\n" for number in range(300)) + "你好, no newline"
        done = run_program("chat", server.address, "--nick", "amy", "--room", "lobby", "-q", input=lines.encode())
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        heard = [hear(bob, wire.Msg).body for _ in range(301)]
        assert heard == [*(f"line {number}" for number in range(300)), "你好, no newline"]


@pytest.mark.slow
def test_what_others_say_comes_out_as_one_line_each_whatever_is_in_it(server):
    """A line of the output is a message, and no message can look like two."""
    with Program("chat", server.address, "--nick", "amy", "--room", "lobby", "--room", "dev") as amy:
        amy.wait_for("err", b"-- 1 here")
        with member(server.address) as bob:
            say(bob, "hi\n[lobby] eve: fake\x1b[2J", "1")
            amy.wait_for("out", b"[lobby] bob: hi\\n[lobby] eve: fake\\x1b[2J\n")
            bob.send(wire.JSON.encode(wire.Say(body="psst", cid="2", to="amy")))
            amy.wait_for("out", b"[@bob] bob: psst\n")
            amy.write(b"/room dev\nin dev\n/who lobby\n/quit\nnever said\n")
            assert amy.finish() == 0
    assert b"-- lobby (2): bob, amy\n" in amy.out or b"-- lobby (2): amy, bob\n" in amy.out.replace(b"+", b"")
    assert b"in dev" not in amy.out and b"Traceback" not in amy.err


@pytest.mark.slow
def test_no_input_only_listens_until_ctrl_c(server):
    """evloop chat -n | grep: the standard input belongs to somebody else."""
    with Program("chat", server.address, "-n", "--nick", "amy", "--room", "lobby") as amy:
        amy.wait_for("err", b"-- 1 here")
        with member(server.address) as bob:
            say(bob, "first", "1")
            amy.wait_for("out", b"bob: first\n")
        amy.signal(signal.SIGINT)
        assert amy.finish() == 130
    assert b"Traceback" not in amy.err


@pytest.mark.slow
def test_history_comes_first_if_it_is_asked_for(server):
    """In a pipe there is none unless somebody wants it."""
    with member(server.address) as bob:
        for number in range(3):
            say(bob, f"old {number}", str(number))
        bob.send(wire.JSON.encode(wire.Ping()))
        hear(bob, wire.Pong)
        options = ("--nick", "amy", "--room", "lobby", "-q")
        assert run_program("chat", server.address, *options, input=b"").stdout == b""
        done = run_program("chat", server.address, *options, "--history", "2", input=b"", env={"LC_ALL": "zh_CN"})
        assert done.stdout == b"[lobby] bob: old 1\n[lobby] bob: old 2\n"


# --- exit codes ---------------------------------------------------------------------------------------------------


def test_nobody_there_is_code_3_and_says_how_to_start_a_server():
    """What everybody forgets first."""
    with listener() as (_, address):
        pass
    done = run_program("chat", address, input=b"")
    assert done.returncode == 3
    assert done.stderr.decode() == (
        f"evloop: cannot connect to {address}: connection refused; nothing listens there; "
        f"start a server with: evloop serve chat {address}\n"
    )


def test_silent_server_is_code_4():
    """A port behind which nobody says welcome."""
    with listener() as (_, address):
        done = run_program("chat", address, "--timeout", "50ms", input=b"")
    assert done.returncode == 4
    text = f"evloop: no welcome from {address} within 0.05 s; what listens there may be no chat server\n"
    assert done.stderr.decode() == text


@pytest.mark.slow
def test_server_that_is_being_restarted_is_waited_for():
    """A deploy as a script comes in: the old server says goodbye for now, then nobody is there, then the new one is."""
    with contextlib.ExitStack() as stack:
        with listener() as (listening, address):
            amy = stack.enter_context(Program("chat", address, "--nick", "amy", "--room", "lobby"))
            with accept(listening) as sock:
                receive_frame(sock)
                bye = wire.Bye(code=wire.SHUTDOWN, text="the server stops", reconnect=True, after_ms=10)
                sock.sendall(frame(wire.JSON.encode(bye)))
        stack.enter_context(ChatThread(address))
        amy.wait_for("err", b"-- 1 here")
        amy.write(b"/quit\n")
        assert amy.finish() == 0


def test_server_that_said_to_come_back_and_is_not_there_is_code_5():
    """A script must not wait for ever for it, either."""
    with listener() as (listening, address):
        amy = Program("chat", address, "--timeout", "300ms", "--nick", "amy")
        with amy, accept(listening) as sock:
            receive_frame(sock)
            sock.sendall(frame(wire.JSON.encode(wire.Bye(code=wire.SHUTDOWN, text="later", after_ms=10_000))))
            assert amy.finish() == 5
    assert amy.err.decode() == f"evloop: {address}: not welcomed within 0.3 s: later (3001)\n"


@pytest.mark.slow
def test_server_that_stays_away_is_code_5(server):
    """A script must not wait for ever; --timeout says how long it does."""
    with ChatThread() as other:
        address = other.address
        amy = Program("chat", address, "--timeout", "300ms", "--nick", "amy", "--room", "lobby")
        with amy:
            amy.wait_for("err", b"-- 1 here")
            other.stop()
            assert amy.finish() == 5
    assert b"evloop: the server is gone: " in amy.err and b"--timeout" in amy.err


@pytest.mark.slow
@pytest.mark.parametrize(("line", "code"), [(b"/msg nobody hi\n", b"no_nick"), (b"/kick bob\n", b"forbidden")])
def test_refusal_of_what_was_said_is_code_6(server, line, code):
    """A deployment that was announced to nobody is no success."""
    with member(server.address):
        done = run_program("chat", server.address, "--nick", "amy", "--room", "lobby", input=line)
    assert done.returncode == 6
    assert code in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_taken_nick_and_wrong_password_are_code_6(tmp_path):
    """Before anything is read."""
    (tmp_path / "secret").write_text("open sesame\n")
    (tmp_path / "wrong").write_text("please\n")
    (tmp_path / "empty").write_text("")
    (tmp_path / "endless").write_text("x" * 4097)
    with ChatThread(password="open sesame") as server:
        args = ("chat", server.address, "--nick", "amy", "--room", "lobby", "--password-file")
        done = run_program(*args, str(tmp_path / "wrong"), input=b"")
        assert done.returncode == 6 and b"evloop: the server refuses: " in done.stderr
        with Program(*args, str(tmp_path / "secret")) as amy:
            amy.wait_for("err", b"-- 1 here")
            done = run_program(*args, str(tmp_path / "secret"), input=b"")
            assert done.returncode == 6 and b"(nick_taken); see --nick" in done.stderr
    for name in ("empty", "endless", "missing"):
        done = run_program(*args, str(tmp_path / name), input=b"")
        assert done.returncode == 2 and f"--password-file {tmp_path}/{name}".encode() in done.stderr


def test_server_of_another_protocol_is_code_5():
    """An echo server sends the hello back; it is no chat."""
    with (
        listener() as (listening, address),
        Program("chat", address, "--nick", "amy") as amy,
        accept(listening) as sock,
    ):
        sock.sendall(frame(receive_frame(sock)))
        assert amy.finish() == 5
    assert b"no message of evloop-chat/1" in amy.err


@pytest.mark.slow
@pytest.mark.parametrize("place", ["tls", "unix"])
def test_chat_goes_over_tls_and_unix_sockets(place, tmp_path):
    """Everywhere that the server listens."""
    address, ssl = ("127.0.0.1:0", tls.server_context(SERVER)) if place == "tls" else (f"unix:{tmp_path}/s", None)
    options = ("--tls-ca", CA, "--tls-name", "localhost") if place == "tls" else ()
    with ChatThread(address, ssl=ssl) as server:
        done = run_program("chat", server.address, *options, "--nick", "amy", "--room", "lobby", input=b"hi\n/who")
        assert (done.returncode, done.stdout) == (0, b"-- lobby (1): +amy\n"), done.stderr
        if place == "tls":
            done = run_program("chat", server.address, "--tls", input=b"")  # the system's CAs do not know ours
            assert done.returncode == 3 and b"certificate" in done.stderr


@pytest.mark.slow
def test_reader_that_has_left_ends_it_as_sigpipe_would(server):
    """evloop chat | head -1."""
    with Program("chat", server.address, "-n", "--nick", "amy", "--room", "lobby") as amy:
        amy.wait_for("err", b"-- 1 here")
        amy.process.stdout.close()
        with member(server.address) as bob:
            say(bob, "anybody?", "1")
            assert amy.process.wait(30) == 141


def test_wrong_use_is_code_2():
    """Packets and certificates of nobody."""
    done = run_program("chat", "seqpacket:/tmp/x", input=b"")
    assert done.returncode == 2 and b"needs a stream" in done.stderr
    done = run_program("chat", "--tls-ca", CA + ".missing", input=b"")
    assert done.returncode == 2
