"""``evloop connect``: pipes, files, handshakes and failures, against real servers and plain sockets."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import socket
import struct
import subprocess

import pytest
from programs import (
    PATIENCE,
    Program,
    accept,
    frame,
    listener,
    receive,
    receive_frame,
    rest_of,
    run_program,
    serving,
    shell,
)
from realsockets import RST_ON_CLOSE, needs_ipv6

SHORT = "250ms"  # a timeout that is meant to pass


@pytest.fixture(scope="module")
def upper():
    """A server whose answers differ from the questions; returns the address."""
    with serving("upper", "127.0.0.1:0") as server:
        yield server.address


@pytest.fixture(scope="module")
def echo():
    """An echo server; returns the address."""
    with serving("echo", "127.0.0.1:0") as server:
        yield server.address


# --- input and output ---------------------------------------------------------------------------------------------


def test_connect_pipe_makes_lines_messages_and_messages_lines(upper):
    """The filter that it is in a pipeline; the last line needs no newline, an empty one is a message."""
    result = run_program("connect", upper, input=b"one\n\ntwo \xe4\xbd\xa0\nthree")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"ONE\n\nTWO \xe4\xbd\xa0\nTHREE\n", b"")


def test_connect_pipe_passes_bytes_as_they_are(echo):
    """Only a person's terminal needs protection; a pipe must get what was sent."""
    data = bytes(byte for byte in range(256) if byte != 10)
    assert run_program("connect", echo, input=data).stdout == data + b"\n"


@pytest.mark.parametrize("framing", ["u32be", "u32le", "u16be", "u64be", "varint", "i"])
def test_connect_speaks_the_framing_of_the_server(framing):
    """Two programs that are told the same word understand each other; 300 bytes need two of a varint's."""
    lines = b"hello\n" + b"x" * 300 + b"\n\n"
    with serving("upper", "127.0.0.1:0", "--framing", framing) as server:
        result = run_program("connect", server.address, "--framing", framing, input=lines)
    assert (result.returncode, result.stdout) == (0, lines.upper())


def test_connect_without_framing_passes_the_stream_as_it_is():
    """With the newlines: they are the protocol of a peer that has no frames."""
    with serving("upper", "127.0.0.1:0", "--framing", "none") as server:
        result = run_program("connect", server.address, "--framing", "none", input=b"one\ntwo\r\nthree")
    assert (result.returncode, result.stdout) == (0, b"ONE\nTWO\r\nTHREE")


def test_connect_reaches_a_unix_path(tmp_path):
    """The same words for a local socket."""
    with serving("upper", f"unix:{tmp_path}/s") as server:
        assert run_program("connect", server.address, input=b"local").stdout == b"LOCAL\n"


@needs_ipv6
def test_connect_reaches_ipv6():
    """[::1]:port, as a server prints it."""
    with serving("upper", "[::1]:0") as server:
        assert run_program("connect", server.address, input=b"six").stdout == b"SIX\n"


def test_connect_resolves_a_name(upper):
    """localhost may be two addresses, of which one refuses."""
    name = f"localhost:{upper.rpartition(':')[2]}"
    assert run_program("connect", name, input=b"by name").stdout == b"BY NAME\n"


@pytest.mark.parametrize("source", ["/dev/null", "closed"])
def test_connect_with_nothing_to_read_ends_at_once(echo, source):
    """epoll refuses /dev/null, and a closed descriptor is the next socket's number."""
    result = shell(f'exec "$@" {"<&-" if source == "closed" else "</dev/null"}', "connect", echo)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


@pytest.fixture(scope="module")
def big_file(tmp_path_factory):
    """Five megabytes in lines of very different length."""
    path = tmp_path_factory.mktemp("cli") / "big"
    lines, size, number = [], 0, 0
    while size < 5_000_000:
        number += 1
        lines.append(b"%d " % number + b"x" * (number * 7919 % 1500 if number % 97 else 200_000))
        size += len(lines[-1]) + 1
    path.write_bytes(b"\n".join([*lines, b""]))
    return path


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("source", ["file", "pipe"])
def test_connect_sends_five_megabytes_through_an_echo_and_gets_them_back(source, kind, big_file, tmp_path):
    """epoll refuses a regular file; and whoever only sends until all is sent waits for an echo that waits for him.

    A UNIX socket holds 200 KiB, so the second shows there; TCP may hold all of the five megabytes.
    """
    with serving("echo", "127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/s") as server:
        if source == "file":
            with big_file.open("rb") as file:
                result = run_program("connect", server.address, stdin=file)
        else:
            result = run_program("connect", server.address, input=big_file.read_bytes())
    assert (result.returncode, result.stderr) == (0, b"")
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(big_file.read_bytes()).digest()


def test_connect_input_that_cannot_be_read_is_one_line_and_exit_code_1(echo, tmp_path):
    """A redirection the wrong way round."""
    result = shell(f'exec "$@" 0>{tmp_path}/file', "connect", echo)
    assert (result.returncode, result.stderr) == (1, b"evloop: cannot read the standard input: bad file descriptor\n")


def test_connect_output_that_cannot_be_written_is_one_line_and_exit_code_1(echo):
    """A full disk must not look like a success."""
    result = shell('exec "$@" >/dev/full', "connect", echo, "-n", "--send", "x")
    assert result.returncode == 1
    assert result.stderr == b"evloop: cannot write the standard output: no space left on device\n"


@pytest.mark.slow
def test_connect_holds_a_bounded_part_of_what_nobody_reads():
    """`evloop connect ADDR | less`: the peer has to wait, not our memory."""
    chunk = frame(b"y" * 60_000)
    with listener() as (listening, address), Program("connect", address) as program, accept(listening) as sock:
        sock.setblocking(False)
        data = chunk * 2000
        sent = 0
        while sent < len(data) and select.select([], [sock], [], 1.0)[1]:
            sent += sock.send(data[sent : sent + 1_000_000])
        # Two socket buffers of at most 6 MB, a pipe, and 64 KiB with one read on top are less than half of 120 MB.
        assert sent < len(data) // 2
        lines = sent // len(chunk)
        got = b""
        while len(got) < lines * 60_001:
            assert select.select([program.process.stdout], [], [], PATIENCE)[0]
            got += os.read(program.process.stdout.fileno(), 1 << 20)
        assert got[: lines * 60_001] == (b"y" * 60_000 + b"\n") * lines


def test_connect_with_a_reader_that_leaves_is_silent(echo):
    """`evloop connect ADDR | head -1`: the shell's own code for SIGPIPE, and no word."""
    reader, writer = os.pipe()
    os.close(reader)
    result = run_program("connect", echo, "--send", "x", stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, b"")


def test_connect_answers_arrive_while_input_is_open(upper):
    """Full duplex: the first answer must not wait for the end of the input."""
    with Program("connect", upper) as program:
        program.write(b"first\n")
        program.wait_for("out", b"FIRST\n")
        program.write(b"second\n")
        program.wait_for("out", b"SECOND\n")
        program.process.stdin.close()
        assert program.finish() == 0


@pytest.mark.parametrize(("size", "code"), [(9, 0), (10, 0), (11, 1)])
def test_connect_line_longer_than_max_frame_is_named(echo, size, code):
    """limit-1, limit, limit+1; the lines before it have been sent."""
    result = run_program("connect", echo, "--max-frame", "10", input=b"a\n" + b"x" * size)
    assert result.returncode == code
    if code:
        assert result.stderr == b"evloop: line 2 of 11 bytes or more exceeds max_frame 10; see --max-frame\n"


# --- steps --------------------------------------------------------------------------------------------------------


def test_connect_send_and_expect_met_exits_0_and_prints_nothing(echo):
    """The tutorials' ready handshake, from a shell: an exit code is all that is asked for."""
    ready = "\u5ba2\u6237\u7aef\u5df2\u5c31\u7eea"
    result = run_program("connect", echo, "--send", ready, "--expect", ready)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_connect_handshake_with_a_plain_socket_is_the_tutorials():
    """Each side waits for the other's word, and both are bytes on the wire as they are in the seeds of this idea."""
    ours, theirs = "\u5ba2\u6237\u7aef\u5df2\u5c31\u7eea", "\u670d\u52a1\u7aef\u5df2\u5c31\u7eea"
    arguments = ("connect", "--framing", "i", "--send", ours, "--expect", theirs)
    with listener() as (listening, address), Program(*arguments, address, stdin=subprocess.DEVNULL) as program:
        with accept(listening) as sock:
            assert receive(sock, 4 + len(ours.encode())) == frame(ours.encode(), "i")
            sock.sendall(frame(theirs.encode(), "i"))
            assert rest_of(sock) == b""
        assert program.finish() == 0


def test_connect_other_answer_exits_5_with_both_texts(upper):
    """What came and what should have come, readable in any script."""
    result = run_program("connect", upper, "--send", "\u597d a", "--expect", "\u597d a")
    assert result.returncode == 5
    assert result.stderr.decode() == "evloop: expected '\u597d a', received '\u597d A'\n"


def test_connect_keeps_the_order_of_send_and_expect():
    """Nothing is sent past an expectation that was not met: --send a --expect 1 --send b is a conversation."""
    arguments = ("connect", "--send", "a", "--expect=1", "--send=--expect", "--expect", "2", "--send", "c", "-n")
    with listener() as (listening, address), Program(*arguments, address) as program:
        with accept(listening) as sock:
            assert receive_frame(sock) == b"a"
            sock.sendall(frame(b"1"))
            assert receive_frame(sock) == b"--expect"
            sock.sendall(frame(b"not 2"))
            assert rest_of(sock) == b""
        assert program.finish() == 5


def test_connect_expectations_may_arrive_in_one_read():
    """Sticky messages are no fault of the peer's."""
    with (
        listener() as (listening, address),
        Program("connect", address, "--expect", "a", "--expect", "b", stdin=subprocess.DEVNULL) as program,
    ):
        with accept(listening) as sock:
            sock.sendall(frame(b"a") + frame(b"b"))
            assert rest_of(sock) == b""
        assert program.finish() == 0


def test_connect_expectation_without_framing_compares_bytes_however_they_are_cut():
    """Without frames the text may come in pieces, and more may follow it."""
    arguments = ("connect", "--framing", "none", "--expect", "ready\n", "--expect", "go", "--send", "thanks")
    with listener() as (listening, address), Program(*arguments, address, stdin=subprocess.DEVNULL) as program:
        with accept(listening) as sock:
            sock.sendall(b"rea")
            sock.sendall(b"dy\ngo and more")
            assert rest_of(sock) == b"thanks"
            sock.sendall(b", and more")
        assert program.finish() == 0
    assert program.out == b" and more, and more"


def test_connect_other_bytes_without_framing_exit_5_before_all_have_come():
    """A wrong beginning cannot become right."""
    arguments = ("connect", "--framing", "none", "--expect", "ready")
    with (
        listener() as (listening, address),
        Program(*arguments, address, stdin=subprocess.DEVNULL) as program,
        accept(listening) as sock,
    ):
        sock.sendall(b"red")
        assert program.finish() == 5
    assert program.err == b"evloop: expected 'ready', received 'red'\n"


def test_connect_send_without_expect_prints_the_answers(upper):
    """One question from a shell."""
    result = run_program("connect", upper, "--send", "one", "--send", "two")
    assert (result.returncode, result.stdout) == (0, b"ONE\nTWO\n")


def test_connect_steps_come_before_piped_lines(upper):
    """A login, then the data."""
    arguments = ("connect", upper, "--send", "login", "--expect", "LOGIN")
    result = run_program(*arguments, input=b"data\n")
    assert (result.returncode, result.stdout) == (0, b"DATA\n")


def test_connect_no_input_leaves_a_loops_input_alone(echo):
    """`while read x; do evloop connect ...; done` must not lose its lines to the first round, nor wait for its end."""
    script = 'read one; "$@"; read two; echo "$one $two"'
    result = shell(f"printf '1\\n2\\n' | {{ {script}; }}", "connect", echo, "-n", "--send", "x", "--expect", "x")
    assert (result.returncode, result.stdout) == (0, b"1 2\n")


# --- failures -----------------------------------------------------------------------------------------------------


def test_connect_refused_is_one_line_and_exit_code_3():
    """The remedy is a command that can be copied."""
    with listener() as (_, address):
        pass
    result = run_program("connect", address)
    assert result.returncode == 3
    start = f"nothing listens there; start a server with: evloop serve echo {address}\n"
    assert result.stderr.decode() == f"evloop: cannot connect to {address}: connection refused; {start}"


@pytest.mark.parametrize(
    ("address", "text"), [("nosuch.invalid:1", b"; check the name"), ("unix:/nowhere/s", b"; nothing listens there")]
)
def test_connect_to_what_is_not_there_exits_3(address, text):
    """A wrong name is no time-out and no usage error."""
    result = run_program("connect", address)
    assert (result.returncode, result.stderr.count(b"\n")) == (3, 1)
    assert text in result.stderr


@pytest.mark.slow
def test_connect_without_answer_to_the_handshake_exits_4():
    """A full backlog drops the handshake, as a firewall does."""
    with listener(backlog=0) as (listening, address):
        place = listening.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for sock in fillers:
            sock.setblocking(False)
            sock.connect_ex(place)
        result = run_program("connect", address, "--timeout", SHORT)
        for sock in fillers:
            sock.close()
    assert result.returncode == 4
    assert result.stderr.startswith(f"evloop: cannot connect to {address}: ".encode())


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", frame(b"ready")[:-1]], ids=["nothing", "a part"])
def test_connect_expectation_that_does_not_come_exits_4(sent):
    """A script must not hang on a server that does."""
    arguments = ("connect", "--expect", "ready", "--timeout", SHORT)
    with (
        listener() as (listening, address),
        Program(*arguments, address, stdin=subprocess.DEVNULL) as program,
        accept(listening) as sock,
    ):
        sock.sendall(sent)
        assert program.finish() == 4
    assert program.err == b"evloop: 'ready' did not come within 0.25 s; see --timeout\n"


@pytest.mark.slow
def test_connect_peer_that_does_not_close_exits_4_with_what_it_answered():
    """After the end of the input the peer has the word; if it keeps silent, the answers so far are not lost."""
    with listener() as (listening, address), Program("connect", address, "--timeout", SHORT) as program:
        program.write(b"question\n")
        program.process.stdin.close()
        with accept(listening) as sock:
            assert receive_frame(sock) == b"question"
            sock.sendall(frame(b"answer"))
            assert program.finish() == 4
    assert program.out == b"answer\n"
    assert b"neither answered nor closed for 0.25 s; see --timeout" in program.err


@pytest.mark.slow
def test_connect_peer_that_takes_nothing_exits_4():
    """Input of any length must not be gathered for a peer that has stopped reading."""
    endless = "yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    with listener() as (_, address):
        result = shell(f'{endless} | "$@"', "connect", address, "--timeout", SHORT)
    assert result.returncode == 4
    assert b"neither answered nor closed" in result.stderr


@pytest.mark.slow
def test_connect_timeout_does_not_count_while_bytes_move():
    """A slow answer is an answer: each wait has the time, not the whole conversation."""
    with listener() as (listening, address), Program("connect", address, "--timeout", "1s", "--send", "x") as program:
        program.process.stdin.close()
        with accept(listening) as sock:
            assert receive_frame(sock) == b"x"
            for byte in frame(b"slow"):
                select.select([sock], [], [], 0.3)  # nothing comes: the pace of a slow peer
                sock.sendall(bytes([byte]))
        assert program.finish() == 0
    assert program.out == b"slow\n"


PEER_ENDS = [
    ("closed", b"", False, b"has closed the connection before 'ready' came"),
    ("truncated", frame(b"ready")[:-1], False, b"stream ended inside a frame, after 8 of 9 bytes"),
    ("reset", b"", True, b"the connection broke: "),
    ("too large", struct.pack("!I", 1 << 30), False, b"frame of 1073741824 bytes exceeds max_frame 1048576"),
    ("http", b"HTTP/1.1 400 Bad Request\r\n", False, b"looks like an HTTP request"),
]


@pytest.mark.parametrize(("sent", "reset", "text"), [end[1:] for end in PEER_ENDS], ids=[end[0] for end in PEER_ENDS])
def test_connect_peer_gone_before_the_expected_answer_exits_5(sent, reset, text):
    """The peer's fault has a code of its own, and one line that says which fault."""
    with (
        listener() as (listening, address),
        Program("connect", address, "--send", "x", "--expect", "ready", stdin=subprocess.DEVNULL) as program,
    ):
        with accept(listening) as sock:
            assert receive_frame(sock) == b"x"
            sock.sendall(sent)
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
        assert program.finish() == 5
    assert text in program.err and program.err.count(b"\n") == 1


def test_connect_peer_gone_before_the_end_of_the_input_exits_5():
    """Lines that nobody has taken are a failure, even if the peer was polite about it."""
    with listener() as (listening, address), Program("connect", address) as program:
        accept(listening).close()
        assert program.finish() == 5
    assert program.err.endswith(b" has closed the connection before the end of the input\n")


def test_connect_interrupted_exits_130_without_a_word():
    """Ctrl-C is no error to explain."""
    with listener() as (listening, address), Program("connect", address) as program, accept(listening):
        program.signal(signal.SIGINT)
        assert program.finish() == 130
    assert program.err == b""


def test_connect_interrupted_while_its_reader_sleeps_exits_130():
    """Ctrl-C has to work while the output is stuck, too."""
    with listener() as (listening, address), Program("connect", address) as program, accept(listening) as sock:
        sock.sendall(frame(b"z" * 500_000))
        program.wait_for("out", b"z" * 1000)
        program.signal(signal.SIGINT)
        assert program.finish() == 130


def test_connect_verbose_logs_on_stderr(upper):
    """-v shows the library's own view, beside the answers."""
    result = run_program("connect", upper, "-v", "--send", "x")
    assert (result.returncode, result.stdout) == (0, b"X\n")
    assert b" DEBUG conn.close peer=" in result.stderr
