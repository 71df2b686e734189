"""``evloop serve``: real processes, spoken to with plain sockets that know nothing of evloop."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import struct
import subprocess

import pytest
from programs import Program, Served, frame, receive, receive_frame, rest_of, run_program, serving
from realsockets import needs_ipv6

from evloop.cli.foreground import as_called

LOCAL = "127.0.0.1:0"


@pytest.fixture(scope="module")
def echo():
    """An echo server that all tests of this file may use, and none may break."""
    with serving("echo", LOCAL) as server:
        yield server


def test_echo_server_returns_the_nine_bytes_of_a_frame(echo):
    """The first thing anybody tries, from any language: four bytes of length and hello."""
    with echo.connect() as sock:
        sock.sendall(b"\0\0\0\5hello")
        assert receive(sock, 9) == b"\0\0\0\5hello"


def test_echo_server_answers_sticky_and_cut_frames_in_order(echo):
    """What the tutorials are about: a message is neither a send nor a recv."""
    data = frame(b"one") + frame(b"") + frame(b"x" * 70_000)
    with echo.connect() as sock:
        for cut in range(0, 12, 1):
            sock.sendall(data[cut : cut + 1])
        sock.sendall(data[12:])
        assert [receive_frame(sock) for _ in range(3)] == [b"one", b"", b"x" * 70_000]


def test_echo_server_closes_after_the_peer_has(echo):
    """A half-closed connection gets its answers, then the end of the stream, and no reset."""
    with echo.connect() as sock:
        sock.sendall(frame(b"last"))
        sock.shutdown(socket.SHUT_WR)
        assert rest_of(sock) == frame(b"last")


def test_upper_server_changes_letters_only():
    """The tutorials' second server; bytes beyond ASCII belong to an encoding that it does not know."""
    with serving("upper", LOCAL) as server, server.connect() as sock:
        sock.sendall(frame("hello \u4f60\u597d".encode()))
        assert receive_frame(sock) == "HELLO \u4f60\u597d".encode()


def test_http_request_is_refused_by_name_and_the_server_lives():
    """1195725856 bytes announced is what a browser looks like; an operator needs to be told that."""
    with serving("echo", LOCAL) as server:
        with server.connect() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert rest_of(sock) == b""
        server.wait_for("err", b"looks like an HTTP request")
        with server.connect() as sock:
            sock.sendall(frame(b"still here"))
            assert receive_frame(sock) == b"still here"


def test_log_line_has_time_level_and_event():
    """The format is an interface: people grep it."""
    with serving("echo", LOCAL) as server:
        with server.connect() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            rest_of(sock)
        err = server.wait_for("err", b"HTTP request\n").decode()
    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING conn\.close peer=127\.0\.0\.1:\d+ ", err, re.M)


# --- where it listens ---------------------------------------------------------------------------------------------


def test_listening_line_has_the_real_port(echo):
    """Port 0 is how tests and scripts avoid each other; they have to learn the port."""
    assert len(echo.lines) == 1
    assert re.fullmatch(r"LISTENING tcp 127\.0\.0\.1:[1-9]\d*", echo.lines[0])


@needs_ipv6
def test_every_interface_has_a_line_each_and_a_warning():
    """There is neither TLS nor a password: whoever opens that to a network should know."""
    with serving("echo", ":0") as server:
        server.wait_for("err", b"no TLS and no password")
        assert [line.rpartition(":")[0] for line in server.lines] == ["LISTENING tcp 0.0.0.0", "LISTENING tcp [::]"]
    assert server.err.count(b"WARNING") == 1


@needs_ipv6
def test_ipv6_loopback_serves_without_a_warning():
    """[::1] is as local as 127.0.0.1."""
    with serving("echo", "[::1]:0") as server:
        with server.connect() as sock:
            sock.sendall(frame(b"six"))
            assert receive_frame(sock) == b"six"
        assert server.lines[0].startswith("LISTENING tcp [::1]:")
    assert b"WARNING" not in server.err


def test_unix_path_serves_and_is_removed_at_the_end(tmp_path):
    """A path that stays behind is the next start's puzzle."""
    path = tmp_path / "echo.sock"
    with serving("echo", f"unix:{path}") as server:
        assert server.lines == [f"LISTENING unix {path}"]
        with server.connect() as sock:
            sock.sendall(frame(b"local"))
            assert receive_frame(sock) == b"local"
    assert not path.exists()


def test_address_in_use_is_one_line_and_exit_code_3(echo):
    """The most frequent failure of a server gets the clearest answer."""
    result = run_program("serve", "echo", echo.address)
    assert (result.returncode, result.stdout) == (3, b"")
    assert result.stderr.startswith(f"evloop: cannot listen on {echo.address}: address already in use; ".encode())
    assert result.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("192.0.2.1:0", b"this machine has no such address"),
        ("nosuch.invalid:0", b"check the name"),
        ("unix:/nowhere/echo.sock", b"create the directory /nowhere first"),
        ("unix:/etc/passwd", b"not a socket is in the way; remove it or choose another path"),
    ],
)
def test_address_that_cannot_be_had_is_one_line_and_exit_code_3(address, text):
    """Cause and remedy; a traceback of bind() is neither."""
    result = run_program("serve", "echo", address)
    assert (result.returncode, result.stdout) == (3, b"")
    assert text in result.stderr and result.stderr.count(b"\n") == 1


def drop_capability_to_override_permissions():
    """Make root an ordinary user of file modes (capabilities(7)): CAP_DAC_OVERRIDE leaves the bounding set at exec."""
    PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


def test_address_without_permission_names_the_way_out(tmp_path):
    """A directory that belongs to somebody else."""
    tmp_path.chmod(0o500)
    drop = drop_capability_to_override_permissions if os.geteuid() == 0 else None
    result = run_program("serve", "echo", f"unix:{tmp_path}/echo.sock", preexec_fn=drop)
    assert result.returncode == 3
    assert b"permission denied; " in result.stderr


def test_traceback_appears_with_vv_alone():
    """Whoever looks for a bug asks for it."""
    result = run_program("serve", "echo", "192.0.2.1:0", "-vv")
    assert result.returncode == 3
    assert b"Traceback" in result.stderr


# --- what it says to people ---------------------------------------------------------------------------------------


def test_hints_are_lines_that_work(echo):
    """A line to copy that does not work is worse than none: printf's bytes have to be a frame, connect has to run."""
    err = echo.wait_for("err", b"stop it").decode()
    assert f"evloop connect {echo.address}\n" in err
    script = re.search(r"(printf '.*') \| nc -q1 127\.0\.0\.1 \d+ \| xxd\n", err)[1]
    sent = subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout
    with echo.connect() as sock:
        sock.sendall(sent)
        assert receive_frame(sock) == b"hello"


@pytest.mark.parametrize(
    ("called", "installed", "shown"),
    [
        (".venv/bin/evloop", False, ".venv/bin/evloop"),
        ("/my tools/evloop", False, "'/my tools/evloop'"),
        (".venv/bin/evloop", True, "evloop"),
        ("/x/evloop/__main__.py", False, "evloop"),
    ],
)
def test_hints_call_the_program_as_it_can_be_called(called, installed, shown, tmp_path, monkeypatch):
    """`make run` has it in a private environment, where the shell of the one who copies the line does not look."""
    if installed:
        (tmp_path / "evloop").touch(0o755)
    monkeypatch.setattr("sys.argv", [called])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert as_called() == shown


@pytest.mark.parametrize(
    ("framing", "header"),
    [("u32le", b"\5\0\0\0"), ("u16be", b"\0\5"), ("u64be", b"\0" * 7 + b"\5"), ("varint", b"\5"), ("none", b"")],
)
def test_hints_speak_the_framing_that_is_served(framing, header, tmp_path):
    """The header of hello differs with each framing, and so does the command."""
    path = tmp_path / "s"
    with serving("echo", f"unix:{path}", "--framing", framing) as server:
        err = server.wait_for("err", b"stop it").decode()
    assert f"evloop connect unix:{path} --framing {framing}\n" in err
    script = re.search(r"(printf '.*') \| nc -q1 -U ", err)[1]
    assert subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout == header + b"hello"


@pytest.mark.parametrize(
    ("flags", "hints", "stopping"), [([], True, True), (["-q"], False, False), (["-qq"], False, False)]
)
def test_quiet_server_says_where_it_listens_and_nothing_else(flags, hints, stopping):
    """A supervised server has no reader for hints; the LISTENING line is data and stays."""
    with serving("echo", LOCAL, *flags) as server:
        pass
    assert server.out.startswith(b"LISTENING tcp ")
    assert (b"evloop connect" in server.err, b"stopping" in server.err) == (hints, stopping)


@pytest.mark.parametrize("place", ["before", "after"])
def test_verbose_server_logs_each_close(place):
    """-v is what one asks for in a bug report; where it stands on the line must not matter."""
    words = ["-v"] if place == "before" else []
    with Program(*words, "serve", "echo", LOCAL, *(["-v"] if place == "after" else [])) as server:
        port = int(server.wait_for("out", b"\n").rpartition(b":")[2])
        socket.create_connection(("127.0.0.1", port)).close()
        server.wait_for("err", b" DEBUG conn.close peer=127.0.0.1")
        server.signal(signal.SIGTERM)
        assert server.finish() == 0


def test_stdout_that_nobody_reads_does_not_end_the_server(tmp_path):
    """`evloop serve echo | head -0`: the reader has gone, the peers have not."""
    reader, writer = os.pipe()
    os.close(reader)
    path = tmp_path / "s"
    with Program("serve", "echo", f"unix:{path}", stdout=writer) as server:
        os.close(writer)
        server.wait_for("err", b"stop it")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(frame(b"hi"))
            assert receive_frame(sock) == b"hi"
        server.signal(signal.SIGTERM)
        assert server.finish() == 0
    assert b"Broken" not in server.err and b"Traceback" not in server.err


# --- the options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framing", "fmt"),
    [("u32be", "!I"), ("u32le", "<I"), ("u16be", "!H"), ("u64be", "!Q"), ("i", "i"), ("varint", "B")],
)
def test_framing_option_reads_and_writes_that_header(framing, fmt):
    """struct is the witness: its header for five bytes, in both directions."""
    with serving("echo", LOCAL, "--framing", framing) as server, server.connect() as sock:
        sock.sendall(frame(b"hello", fmt))
        assert receive(sock, struct.calcsize(fmt) + 5) == frame(b"hello", fmt)


def test_unframed_server_answers_the_tutorials_client():
    """Their client sends bare bytes and calls recv(1024)."""
    with serving("upper", LOCAL, "--framing", "none") as server, server.connect() as client:
        for message in ("hello baby~", "\u4f60\u597d\u554a abc"):
            client.send(message.encode("utf8"))
            assert receive(client, len(message.encode())) == message.upper().encode("utf8")


@pytest.mark.parametrize(("size", "answered"), [(1023, True), (1024, True), (1025, False)])
def test_max_frame_option_bounds_a_message(size, answered):
    """limit-1, limit, limit+1."""
    with serving("echo", LOCAL, "--max-frame", "1K") as server, server.connect() as sock:
        sock.sendall(frame(b"x" * size))
        sock.shutdown(socket.SHUT_WR)
        assert rest_of(sock) == (frame(b"x" * size) if answered else b"")


def test_idle_timeout_option_closes_a_silent_connection():
    """A vanished peer costs a descriptor until somebody notices."""
    with serving("echo", LOCAL, "--idle-timeout", "50ms", "-v") as server:
        with server.connect() as sock:
            assert rest_of(sock) == b""
        server.wait_for("err", b"reason=idle: no byte moved for 0.05 s (idle_timeout)")


def test_idle_timeout_of_zero_is_none():
    """0 = off, as everywhere."""
    with serving("echo", LOCAL, "--idle-timeout", "0") as server, server.connect() as sock:
        sock.sendall(frame(b"hi"))
        assert receive_frame(sock) == b"hi"


def test_max_connections_option_refuses_one_more():
    """The third of two is closed at once, the two go on."""
    with serving("echo", LOCAL, "--max-connections", "2") as server, contextlib.ExitStack() as stack:
        allowed = [stack.enter_context(server.connect()) for _ in range(2)]
        for sock in allowed:
            sock.sendall(frame(b"in"))
            assert receive_frame(sock) == b"in"
        with server.connect() as sock:
            assert rest_of(sock) == b""
        server.wait_for("err", b"max_connections=2 reached")
        allowed[0].sendall(frame(b"still in"))
        assert receive_frame(allowed[0]) == b"still in"


def test_backlog_option_reaches_the_kernels_bound():
    """More than somaxconn is cut by the kernel in silence; the server says so."""
    with serving("echo", LOCAL, "--backlog", "2147483647") as server:
        server.wait_for("err", b"backlog=2147483647 is cut to ")


def test_variables_stand_in_for_options_and_options_win():
    """A unit file sets variables, a person overrides one on the line."""
    env = {"EVLOOP_FRAMING": "u16be", "EVLOOP_MAX_FRAME": "3", "EVLOOP_IDLE_TIMEOUT": "1h"}
    env |= {"EVLOOP_MAX_CONNECTIONS": "7", "EVLOOP_BACKLOG": "2147483647"}
    with serving("echo", LOCAL, "--max-frame", "4", env=env) as server:
        server.wait_for("err", b"backlog=2147483647 is cut to ")
        for size, answered in ((4, True), (5, False)):
            with server.connect() as sock:
                sock.sendall(frame(b"x" * size, "!H"))
                sock.shutdown(socket.SHUT_WR)
                assert rest_of(sock) == (frame(b"x" * size, "!H") if answered else b"")


# --- the end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_signal_drains_the_connections_and_exits_0(number):
    """What was sent is answered, the peer gets an orderly end, the supervisor a success."""
    with Served("echo", LOCAL) as server, server.connect() as sock:
        sock.sendall(frame(b"before"))
        assert receive_frame(sock) == b"before"
        server.signal(number)
        assert rest_of(sock) == b""
        sock.close()
        assert server.finish() == 0
    assert b"stopping: 1 connections to finish" in server.err and b"Traceback" not in server.err


def test_second_interrupt_exits_130_at_once():
    """Whoever presses Ctrl-C twice does not want to wait for a peer that does not close."""
    with Served("echo", LOCAL) as server, server.connect() as sock:
        sock.sendall(frame(b"x"))
        receive_frame(sock)
        server.signal(signal.SIGINT)
        server.wait_for("err", b"stopping: 1 connections")
        server.signal(signal.SIGINT)
        assert server.finish() == 130
    assert b"Traceback" not in server.err and b"Exception" not in server.err


def test_interrupt_during_the_drain_of_sigterm_exits_130_at_once():
    """The supervisor asked politely, the person at the keyboard does not want to wait."""
    with Served("echo", LOCAL) as server, server.connect() as sock:
        sock.sendall(frame(b"x"))
        receive_frame(sock)
        server.signal(signal.SIGTERM)
        server.wait_for("err", b"stopping: 1 connections")
        server.signal(signal.SIGINT)
        assert server.finish() == 130
    assert b"Traceback" not in server.err and b"Exception" not in server.err


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_sigterm_during_the_drain_keeps_draining(first):
    """Supervisors repeat themselves; what is left to flush is flushed, and the end is a success."""
    with Served("echo", LOCAL) as server, server.connect() as sock:
        sock.sendall(frame(b"x"))
        receive_frame(sock)
        server.signal(first)
        server.wait_for("err", b"stopping: 1 connections")
        for _ in range(3):
            server.signal(signal.SIGTERM)
        assert rest_of(sock) == b""
        sock.close()
        assert server.finish() == 0
    assert server.err.count(b"stopping") == 1


def test_nohup_lets_the_server_outlive_the_terminal():
    """nohup(1) ignores SIGHUP; a program that takes it back breaks what its user asked for."""
    nohup = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with serving("echo", LOCAL, **nohup) as server, server.connect() as sock:
        server.signal(signal.SIGHUP)
        sock.sendall(frame(b"still here"))
        assert receive_frame(sock) == b"still here"
