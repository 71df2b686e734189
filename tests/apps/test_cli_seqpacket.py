"""``seqpacket:`` addresses from the shell: a server for plain sockets, and ``evloop connect`` against both."""

from __future__ import annotations

import os

import pytest
from programs import frame, run_program, serving


@pytest.fixture(params=["path", "abstract"])
def place(request, tmp_path):
    """A path, or an abstract name."""
    return str(tmp_path / "s") if request.param == "path" else f"@evloop-test-{os.getpid()}"


def test_seqpacket_server_says_where_and_serves_frames_in_any_packets(tmp_path):
    """A plain socket of this type; the LISTENING line names the kind, the path goes at the end."""
    path = tmp_path / "s"
    with serving("echo", f"seqpacket:{path}") as server:
        assert server.lines == [f"LISTENING seqpacket {path}"]
        err = server.wait_for("err", b"stop it").decode()
        assert f"evloop connect seqpacket:{path}\n" in err
        assert "nc " not in err  # it knows no packets
        with server.connect() as sock:
            sock.send(frame(b"one") + frame(b"two")[:5])
            assert sock.recv(1000) == frame(b"one")
            sock.send(frame(b"two")[5:])
            assert sock.recv(1000) == frame(b"two")
    assert os.listdir(tmp_path) == []


def test_seqpacket_server_without_framing_echoes_packet_by_packet(tmp_path):
    """Messages without a length in front, in any language."""
    with serving("echo", f"seqpacket:{tmp_path}/s", "--framing", "none") as server, server.connect() as sock:
        sent = [b"one", b"two", b"x" * 100_000]
        for message in sent:
            sock.send(message)
        assert [sock.recv(1 << 20) for _ in sent] == sent


def test_seqpacket_connect_in_a_pipe_gets_all_answers(place):
    """Both programs, frames in packets."""
    lines = b"".join(b"line %d %s\n" % (number, b"." * 1000) for number in range(1000))
    with serving("upper", f"seqpacket:{place}"):
        result = run_program("connect", f"seqpacket:{place}", input=lines)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == lines.upper()


def test_seqpacket_connect_without_framing_sends_a_step_as_a_packet(tmp_path):
    """A handshake of messages, in a script."""
    address = f"seqpacket:{tmp_path}/s"
    with serving("upper", address, "--framing", "none"):
        result = run_program("connect", address, "--framing", "none", "--send", "ping", "--expect", "PING")
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.parametrize("option", ["--send", "--expect"])
def test_seqpacket_connect_with_an_empty_message_is_a_usage_error(option):
    """It would end the stream; said before anything is connected."""
    result = run_program("connect", "seqpacket:s", "--framing", "none", option, "")
    assert result.returncode == 2
    assert f"{option} of nothing: an empty packet is the end of the stream; see --framing" in result.stderr.decode()


def test_seqpacket_connect_to_a_stream_says_what_may_be_wrong(tmp_path):
    """The two kinds share the file system, and nothing else."""
    with serving("echo", f"unix:{tmp_path}/s"):
        result = run_program("connect", f"seqpacket:{tmp_path}/s", "--send", "a")
    assert result.returncode == 3
    assert b"of another type; check the path, and whether it is unix: or seqpacket:\n" in result.stderr
