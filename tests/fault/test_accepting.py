"""Faults while connections are accepted: no descriptors, resets, floods, full queues, a broken listener."""

from __future__ import annotations

import errno
import re
import select
import socket
import subprocess
import sys

import psutil
import pytest
from programs import environment, frame, receive_frame
from scene import IDLE_TURNS, PATIENCE, Scene, ending, more_files, needs, reset, until

import evloop

pytestmark = pytest.mark.fault

FEW = 64
EXHAUSTED = r"cannot accept on .*Too many open files"


def answerable(sock):
    """Tell whether an answer comes, and not a reset, which is how an unread question is refused."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except ConnectionResetError:
        return False
    return True


def answered(sock):
    """Tell, without waiting, whether an answer has come."""
    readable, _, _ = select.select([sock], [], [], 0)
    return bool(readable) and bool(sock.recv(100))


def test_accept_without_descriptors_serves_those_there_and_then_the_waiting(twin):
    """Catalogue 1.  EMFILE leaves the listener readable: a careless loop burns a core and fills the log."""
    with Scene(twin, files=FEW, head_room=0, limits={"linger": 0}) as scene:
        scene.expect(EXHAUSTED)
        crowd = [scene.connect() for _ in range(80)]
        for sock in crowd:
            sock.sendall(frame(b"x"))
        until(lambda: psutil.Process(scene.pid).num_fds() == FEW, "the last descriptor's use")
        with scene.witness.resting():
            turns = scene.ask()["reactor"]["turns"]
            served = [sock for sock in crowd if answered(sock)]
            waiting = [sock for sock in crowd if sock not in served]
            assert 40 < len(served) < FEW
            assert scene.ask()["reactor"]["turns"] - turns <= IDLE_TURNS + len(crowd)
        for sock in served[: len(waiting) + 2]:
            sock.close()
        for sock in waiting:
            assert sock.recv(100) == frame(b"x")
        assert len(scene.log().splitlines()) <= 2


@pytest.mark.slow
def test_accept_without_descriptors_for_long_turns_the_waiting_away(twin):
    """Catalogue 3.  A client that is told the end can go elsewhere; one that hangs in the queue cannot."""
    with Scene(twin, files=FEW, head_room=0, limits={"linger": 0}) as scene:
        scene.expect(EXHAUSTED, r"refused a connection on .*: no file descriptor is left")
        crowd = [scene.connect() for _ in range(80)]
        for sock in crowd:
            sock.sendall(frame(b"x"))
        until(lambda: scene.stats()["refused_no_descriptor"] >= 80 - FEW, "the refusals", patience=5)
        served = scene.stats()["connections"] - 1
        answers = [sock.recv(100) if answerable(sock) else None for sock in crowd]
        assert answers.count(frame(b"x")) == served


@needs("strace")
@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "EPROTO", "EPERM", "EINTR"])
def test_accept_failing_in_the_kernel_goes_on_when_it_is_over(twin, name):
    """Catalogue 2.  Three times the kernel says no; each errno is either that one peer's end or a reason to rest."""
    fault = f"inject=accept4:error={name}:when=2..4"
    launcher = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=accept4", "-e", fault]
    with Scene(twin, launcher=launcher, limits={"linger": 0}) as scene:
        if getattr(errno, name) in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            scene.expect(r"cannot accept on ")
        for _ in range(10):
            assert scene.talk(b"once") == b"once"
        # After EINTR it is tried again at once (PEP 475).
        errors = scene.stats().get("accept_errors", 0)
        assert errors == (0 if name == "EINTR" else 3)


def test_accept_over_max_connections_refuses_at_once_and_has_room_again(twin):
    """Catalogue 4.  Ten are served, forty get a clean end, and a place is free as soon as somebody leaves."""
    with Scene(twin, limits={"max_connections": 10, "linger": 0}) as scene:
        scene.expect(r"refused 127\.0\.0\.1:\d+: max_connections=10 reached")
        inside = [scene.connect() for _ in range(9)]  # the witness is the tenth
        assert [scene.talk(b"in", sock) for sock in inside] == [b"in"] * 9
        outside = [scene.connect() for _ in range(40)]
        assert [ending(sock) for sock in outside] == ["eof"] * 40
        assert scene.stats()["refused"] == 40
        for _ in range(5):
            inside.pop().close()
            until(lambda: scene.stats()["connections"] == 9)
            inside.append(scene.connect())
            assert scene.talk(b"next", inside[-1]) == b"next"
        assert scene.stats()["refused"] == 40


def test_accept_of_connections_reset_in_the_queue_logs_nothing(twin):
    """Catalogue 6.  A scanner leaves before it is accepted; Linux returns a socket that has no peer any more."""
    with Scene(twin) as scene:
        with scene.stopped():
            for _ in range(200):
                reset(scene.connect())
        until(lambda: scene.stats()["accepted"] == 201)
        assert scene.stats().get("closed_reset", 0) == 200


@pytest.mark.slow
def test_accept_queue_overflow_is_served_after_the_kernels_retry(twin):
    """Catalogue 7.  listen(4) holds five; the others' SYNs are dropped, and sent again after 1 s, 3 s, 7 s."""
    with Scene(twin, limits={"backlog": 4}) as scene:
        with scene.stopped():
            crowd = []
            for _ in range(20):
                sock = socket.socket()
                scene.sockets.append(sock)
                sock.setblocking(False)
                assert sock.connect_ex((scene.address.host, scene.address.port)) == errno.EINPROGRESS
                crowd.append(sock)
            assert len(select.select([], crowd, [], 0.2)[1]) == 5
        for sock in crowd:
            assert select.select([], [sock], [], PATIENCE)[1]
            sock.settimeout(PATIENCE)
            assert scene.talk(b"at last", sock) == b"at last"


@pytest.mark.slow
def test_accept_storm_does_not_starve_the_connected(twin):
    """Catalogue 8.  Five thousand connect and reset at once, from eight addresses."""
    more_files()
    with Scene(twin) as scene:
        for i in range(5000):
            reset(scene.connect(source=f"127.0.0.{2 + i % 8}"))
            scene.sockets.pop()
        until(lambda: scene.stats()["accepted"] == 5001)


def test_accept_on_a_shut_listener_rests_and_serves_the_connected(twin):
    """Catalogue 9.  Whoever shares a listener can shut it down: HUP from epoll and EINVAL from accept, for ever.

    The server rests ever longer and says so; it does not end, because whoever gave it the socket may replace it.
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Scene(twin, pass_fds=[listener.fileno()], fd=listener.fileno()) as scene,
    ):
        scene.expect(r"cannot accept on .*Invalid argument")
        other = scene.connect()
        assert scene.talk(b"accepted", other) == b"accepted"
        listener.shutdown(socket.SHUT_RD)
        until(lambda: "cannot accept" in scene.log(), "the warning")
        with scene.witness.resting():
            assert scene.idle_turns() <= IDLE_TURNS
        assert scene.talk(b"still here", other) == b"still here"
        assert scene.stats()["connections"] == 2
        listener.listen()  # which Linux permits, on another port
        scene.address = evloop.parse_address(listener.getsockname())


SYSCTL = "ip link set lo up; sysctl -q net.ipv6.conf.all.disable_ipv6=1; exec "


@needs("unshare", "sysctl")
@pytest.mark.parametrize(
    ("fault", "address", "why"),
    [
        ("in use", None, "Address already in use|already in use"),
        ("no permission", "127.0.0.1:80", "ermission"),
        ("no address", "192.0.2.1:0", "192.0.2.1"),
        ("no IPv6", "[::1]:0", "::1"),
    ],
    ids=["in-use", "no-permission", "no-address", "no-ipv6"],
)
def test_listen_that_cannot_be_had_is_one_line_and_exit_code_3(fault, address, why):
    """Catalogue 10.  The commonest fault of all, at three in the morning; the line names the address."""
    launcher = {"no permission": ["unshare", "-Un"], "no IPv6": ["unshare", "-Urn", "sh", "-c", SYSCTL + '"$@"', "sh"]}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = address or f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [*launcher.get(fault, []), sys.executable, "-m", "evloop", "serve", "echo", address],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert re.search(why, done.stderr)
    assert address.rpartition(":")[0].strip("[]") in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_scene_receives_frames_of_a_healthy_server(twin):
    """The proof of the apparatus: without a fault nothing is found."""
    with Scene(twin) as scene:
        sock = scene.connect()
        sock.sendall(frame(b"a") + frame(b"b"))
        assert (receive_frame(sock), receive_frame(sock)) == (b"a", b"b")
