"""``evloop serve`` under a supervisor: the port file, readiness, and sockets that were opened before it started."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import socket
import sys

import pytest
from programs import PATIENCE, Program, Served, frame, receive_frame, run_program, serving
from tlspeers import SERVER

import evloop
from evloop.cli import exits
from evloop.cli.readiness import PortFile

LOCAL = "127.0.0.1:0"


def echoed(sock, payload=b"hi"):
    """Assert that whoever has *sock*'s other end echoes."""
    sock.settimeout(PATIENCE)
    sock.sendall(frame(payload))
    assert receive_frame(sock) == payload


# --- the port file ---------------------------------------------------------------------------------------------------


def test_port_file_says_what_the_listening_line_says_and_goes_at_the_end(tmp_path):
    """A script without a pipe to the server polls for the file; once it is there, connecting succeeds."""
    path = tmp_path / "port.json"
    with serving("echo", LOCAL, "--port-file", path) as server:
        found = json.loads(path.read_text())
        assert found == {"pid": server.process.pid, "listening": [server.lines[0].removeprefix("LISTENING ")]}
        assert os.listdir(tmp_path) == ["port.json"]
    assert os.listdir(tmp_path) == []


def test_port_file_has_the_admin_port_and_the_servers_own_last(tmp_path):
    """Who asked for any free port reads both there; the sed of the documentation still finds the one that is served."""
    path = tmp_path / "port.json"
    with serving("echo", LOCAL, "--admin", LOCAL, "--port-file", path) as server:
        found = json.loads(path.read_text())
        line = server.wait_for("out", b"ADMIN ").decode().splitlines()[-1]
        assert found["admin"] == [line.removeprefix("ADMIN ")]
        assert found["listening"] == [server.lines[0].removeprefix("LISTENING ")]
        assert re.sub(r'.*"tcp ([^"]*)".*', r"\1", path.read_text()).strip() == server.address


def test_port_file_of_a_unix_socket_has_its_path(tmp_path):
    """One rule for both kinds of address: what follows the word LISTENING."""
    path = tmp_path / "port.json"
    with serving("echo", f"unix:{tmp_path}/s", env={"EVLOOP_PORT_FILE": str(path)}):
        assert json.loads(path.read_text())["listening"] == [f"unix {tmp_path}/s"]


def test_port_file_left_by_a_killed_server_is_replaced(tmp_path):
    """Nobody has to tidy up after kill -9."""
    path = tmp_path / "port.json"
    with Served("echo", LOCAL, "--port-file", path) as killed:
        killed.signal(signal.SIGKILL)
        killed.finish()
    assert path.exists()
    with serving("echo", LOCAL, "--port-file", path) as server:
        assert json.loads(path.read_text())["pid"] == server.process.pid


def test_port_file_of_a_successor_is_left(tmp_path):
    """A restart overlaps: the old server drains while the new one has told its port already."""
    path = tmp_path / "port.json"
    with serving("echo", LOCAL, "--port-file", path) as replaced:
        with serving("echo", LOCAL, "--port-file", path) as first:
            assert json.loads(path.read_text())["pid"] == first.process.pid
            with Served("echo", LOCAL, "--port-file", path) as second:
                first.signal(signal.SIGTERM)
                assert first.finish() == 0
                assert json.loads(path.read_text())["pid"] == second.process.pid
                second.signal(signal.SIGTERM)
                assert second.finish() == 0
        assert replaced.process.poll() is None
    assert os.listdir(tmp_path) == []


def test_port_file_goes_with_an_interrupt_too(tmp_path):
    """The second Ctrl-C leaves nothing behind either."""
    with Served("echo", LOCAL, "--port-file", tmp_path / "port.json") as server, server.connect() as sock:
        echoed(sock)
        server.signal(signal.SIGTERM)
        server.wait_for("err", b"stopping")
        server.signal(signal.SIGINT)
        assert server.finish() == 130
    assert os.listdir(tmp_path) == []


def test_port_file_has_the_rights_of_the_umask(tmp_path):
    """Who may read it is the administrator's decision, as with any file."""
    path = tmp_path / "port.json"
    with serving("echo", LOCAL, "--port-file", path, preexec_fn=lambda: os.umask(0o027)):
        assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("place", "cause"),
    [("missing/port", "No such file or directory"), (".", "it is a directory"), ("file/port", "Not a directory")],
)
def test_port_file_that_cannot_be_written_is_one_line_before_listening(tmp_path, place, cause):
    """Found before anything listens: exit code 1, and the address was never taken."""
    (tmp_path / "file").touch()
    result = run_program("serve", "echo", f"unix:{tmp_path}/s", "--port-file", tmp_path / place)
    text = f"evloop: cannot write --port-file {tmp_path / place}: {cause}\n"
    assert (result.returncode, result.stdout, result.stderr.decode()) == (1, b"", text)
    assert os.listdir(tmp_path) == ["file"]


def test_port_file_of_a_server_that_cannot_listen_is_never_there(tmp_path):
    """What was prepared is removed."""
    result = run_program("serve", "echo", "192.0.2.1:0", "--port-file", tmp_path / "port.json")
    assert (result.returncode, result.stderr.count(b"\n")) == (3, 1)
    assert os.listdir(tmp_path) == []


def test_port_file_on_a_full_disk_ends_the_server_before_it_says_listening(tmp_path):
    """Somebody waits for the file: a server that nobody finds is worse than none."""

    def no_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    path = tmp_path / "port.json"
    result = run_program("serve", "echo", LOCAL, "--port-file", path, preexec_fn=no_room)
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.decode() == f"evloop: cannot write --port-file {path}: File too large\n"
    assert os.listdir(tmp_path) == []


def test_port_file_whose_place_was_taken_meanwhile_is_not_forced(tmp_path):
    """rename(2) refuses to replace a directory; what is there is somebody's."""
    path = tmp_path / "port.json"
    with PortFile(str(path)) as file:
        path.mkdir()
        with pytest.raises(exits.Failure, match=f"cannot write --port-file {path}: Is a directory"):
            file.write([evloop.parse_address("127.0.0.1:9000")])
    assert os.listdir(tmp_path) == ["port.json"]


def test_port_file_that_was_removed_by_others_is_no_fault(tmp_path, caplog):
    """Whoever has read it may tidy up."""
    path = tmp_path / "port.json"
    with PortFile(str(path)) as file:
        file.write([evloop.parse_address("127.0.0.1:9000")])
        path.unlink()
    assert caplog.records == []


# --- readiness -------------------------------------------------------------------------------------------------------


@pytest.fixture
def manager(tmp_path):
    """A service manager's end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(PATIENCE)
        yield sock


def test_manager_hears_ready_then_stopping(manager, tmp_path):
    """Type=notify: units that need this one start at READY=1, so connecting has to succeed by then."""
    path = tmp_path / "s"
    with Program("serve", "echo", f"unix:{path}", env={"NOTIFY_SOCKET": manager.getsockname()}) as server:
        assert manager.recv(100) == b"READY=1"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            echoed(sock)
            server.signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
        assert server.finish() == 0


def test_manager_hears_the_watchdog_until_the_end(manager):
    """From the loop, the drain included: a watchdog that is fed by a thread proves nothing."""
    env = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "20000"}
    with Served("echo", LOCAL, env=env) as server, server.connect() as sock:
        assert [manager.recv(100) for _ in range(4)] == [b"READY=1", *[b"WATCHDOG=1"] * 3]
        echoed(sock)
        server.signal(signal.SIGTERM)
        while manager.recv(100) != b"STOPPING=1":
            pass
        assert manager.recv(100) == b"WATCHDOG=1"
        sock.close()
        assert server.finish() == 0


def test_manager_that_is_gone_is_one_warning(tmp_path):
    """Telling is best effort; serving is not."""
    env = {"NOTIFY_SOCKET": f"{tmp_path}/gone", "WATCHDOG_USEC": "10000"}
    with serving("echo", LOCAL, env=env) as server, server.connect() as sock:
        echoed(sock)
        text = f"cannot tell the service manager READY=1 at NOTIFY_SOCKET={tmp_path}/gone: No such file or directory"
        server.wait_for("err", text.encode())
    assert server.err.count(b"WARNING") == 1


# --- sockets from before ---------------------------------------------------------------------------------------------

# What systemd does between fork and exec: the sockets at 3, 4, ..., and who they are for.
LAUNCH = """
import fcntl, os, sys
fds = [int(word) for word in sys.argv[1].split(",") if word]
high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in fds]
for fd in fds:
    os.close(fd)
for place, fd in enumerate(high, 3):
    os.dup2(fd, place)
    os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


def activated(*sockets, count=None, names=None):
    """Return the options of a program that is started with *sockets*, and told that they are *count*."""
    fds = [sock.fileno() for sock in sockets]
    env = {"LISTEN_FDS": str(len(fds) if count is None else count)}
    env |= {} if names is None else {"LISTEN_FDNAMES": names}
    launcher = [sys.executable, "-c", LAUNCH, ",".join(map(str, fds))]
    return {"launcher": launcher, "pass_fds": fds, "env": env}


def test_activated_server_takes_the_sockets_instead_of_the_address(tmp_path):
    """Port 80 without root, and no moment at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        with serving("echo", "192.0.2.1:1", **activated(tcp, unix, names="web:local")) as server:
            expected = [f"LISTENING tcp 127.0.0.1:{tcp.getsockname()[1]}", f"LISTENING unix {tmp_path}/s"]
            assert server.lines == expected
            server.wait_for("err", b"LISTEN_FDS: 2 sockets to accept on; ADDR is not looked at")
            for listening in (tcp, unix):
                with socket.socket(listening.family) as sock:
                    sock.connect(listening.getsockname())
                    echoed(sock)
            for fd in (3, 4):
                with open(f"/proc/{server.process.pid}/fdinfo/{fd}") as info:
                    flags = int(dict(line.split(":") for line in info)["flags"], 8)
                assert flags & os.O_NONBLOCK and flags & os.O_CLOEXEC
        assert (tmp_path / "s").is_socket()  # systemd's, for the next instance


def test_activated_server_takes_packets(tmp_path):
    """ListenSequentialPacket= of a socket unit."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as given:
        given.bind(str(tmp_path / "s"))
        given.listen()
        with serving("echo", "--framing", "none", **activated(given)) as server:
            assert server.lines == [f"LISTENING seqpacket {tmp_path}/s"]
            with server.connect() as sock:
                sock.send(b"one")
                sock.send(b"two")
                assert [sock.recv(100), sock.recv(100)] == [b"one", b"two"]


def test_activated_server_with_tls_refuses_packets(tmp_path):
    """The command line and the unit file disagree, and nothing may be served in the clear for that."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as given:
        given.bind(str(tmp_path / "s"))
        given.listen()
        with Program("serve", "echo", "--tls-cert", SERVER, **activated(given)) as server:
            assert server.finish() == 2
    assert f"seqpacket:{tmp_path}/s keeps packets, and TLS needs a stream" in server.err.decode()


def test_activated_servers_hand_over_without_losing_a_client():
    """Who connects while none runs waits in the kernel's queue; so does who is queued when one ends."""
    with socket.create_server(("127.0.0.1", 0)) as kept, contextlib.ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(socket.create_connection(kept.getsockname()))
            client.sendall(frame(b"early"))
            with serving("echo", **activated(kept)):
                client.settimeout(PATIENCE)
                assert receive_frame(client) == b"early"


@pytest.mark.parametrize(
    ("make", "options", "cause"),
    [
        (
            lambda: socket.socket(type=socket.SOCK_DGRAM),
            {},
            "fd 3 is a socket of type 2, not SOCK_STREAM (1); a server",
        ),
        (socket.socket, {}, "fd 3 does not listen; a server needs listening stream sockets"),
        (lambda: os.fdopen(os.open(os.devnull, os.O_RDONLY)), {}, "LISTEN_FDS=1, and fd 3 is not a socket"),
        (lambda: socket.create_server(("127.0.0.1", 0)), {"count": 999999999}, "LISTEN_FDS=999999999, and fd 4 is not"),
        (lambda: socket.create_server(("127.0.0.1", 0)), {"names": "a:b"}, "LISTEN_FDS=1, and LISTEN_FDNAMES has 2"),
        (lambda: socket.create_server(("127.0.0.1", 0)), {"count": "x"}, "LISTEN_FDS='x' is not a number"),
    ],
    ids=["datagram", "deaf", "file", "missing", "names", "number"],
)
def test_activated_server_with_wrong_sockets_is_one_line_and_exit_code_3(make, options, cause):
    """A wrong unit file is told at the start; to listen on ADDR instead would surprise twice."""
    with make() as given, Program("serve", "echo", LOCAL, **activated(given, **options)) as server:
        assert server.finish() == 3
    assert server.out == b""
    assert server.err.startswith(f"evloop: cannot listen on the sockets of LISTEN_FDS: {cause}".encode())
    assert server.err.count(b"\n") == 1
