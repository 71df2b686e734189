"""Faults of UNIX sockets: full queues, files that are in the way, races for a path, permissions."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading

import pytest
from programs import Program, environment, frame, receive_frame, run_program
from scene import PATIENCE, Scene, until

from evloop import sockets
from evloop.addresses import parse_address

pytestmark = pytest.mark.fault


def serving(path):
    """Return a running ``evloop serve echo`` at *path*, which may have failed."""
    return Program("serve", "echo", f"unix:{path}", "-q")


def answers(path):
    """Tell whether somebody echoes at *path*."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
        sock.sendall(frame(b"hi"))
        return receive_frame(sock) == b"hi"


def test_unix_full_queue_tells_the_client_at_once(twin, tmp_path):
    """Catalogue 46.  unix(7): a non-blocking connect to a full queue fails with EAGAIN; nothing is dropped silently."""
    path = tmp_path / "s"
    with Scene(twin, address=f"unix:{path}", limits={"backlog": 4}) as scene:
        results = []
        with scene.stopped():
            for _ in range(10):
                sock = socket.socket(socket.AF_UNIX)
                scene.sockets.append(sock)
                sock.setblocking(False)
                results.append(sock.connect_ex(str(path)))
        assert results == [0] * 5 + [errno.EAGAIN] * 5
        for sock in scene.sockets[1:6]:
            sock.settimeout(PATIENCE)
            assert scene.talk(b"served", sock) == b"served"


def test_unix_stale_file_is_replaced(twin, tmp_path):
    """Catalogue 46.  kill -9 leaves the file, and the next start must not need a person."""
    path = tmp_path / "s"
    scene = Scene(twin, worst=None, address=f"unix:{path}")
    with scene:
        assert scene.talk() == b"are you there?"
        scene.send_signal(signal.SIGKILL)
        scene.process.wait()
        scene._check = lambda: None
    assert path.exists()
    with Scene(twin, address=f"unix:{path}") as scene:
        assert scene.talk() == b"are you there?"
    assert not path.exists()


def test_unix_live_file_is_left_alone(twin, tmp_path):
    """Catalogue 46.  Two of the same by mistake: the second one says so with 3, and the first one does not notice."""
    path = tmp_path / "s"
    with Scene(twin, address=f"unix:{path}"):
        before = path.lstat()
        done = run_program("serve", "echo", f"unix:{path}")
        assert done.returncode == 3
        assert len(done.stderr.splitlines()) <= 2
        assert str(path) in done.stderr.decode()
        assert path.lstat().st_ino == before.st_ino


@pytest.mark.parametrize("what", ["file", "directory", "link to a file", "link to nothing", "fifo"])
def test_unix_path_that_is_something_else_is_refused_and_kept(tmp_path, what):
    """Catalogue 46.  A slip of the pen must not cost a file."""
    path, other = tmp_path / "s", tmp_path / "other"
    other.write_text("precious")
    make = {
        "file": lambda: path.write_text("precious"),
        "directory": path.mkdir,
        "link to a file": lambda: path.symlink_to(other),
        "link to nothing": lambda: path.symlink_to(tmp_path / "nothing"),
        "fifo": lambda: os.mkfifo(path),
    }
    make[what]()
    before = path.lstat()
    done = run_program("serve", "echo", f"unix:{path}")
    assert done.returncode == 3, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    after = path.lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert other.read_text() == "precious"


RACE = """
import sys
from evloop import sockets
from evloop.addresses import parse_address
path, rounds = sys.argv[1], int(sys.argv[2])
kept = []
for i in range(rounds):
    sys.stdin.readline()
    try:
        kept += sockets.listen(parse_address(f"unix:{path}{i}"))
    except OSError as exc:
        print("no", flush=True)
    else:
        print("yes", flush=True)
sys.stdin.readline()
for sock in kept:
    sock.close()
"""


@pytest.mark.slow
def test_unix_race_of_two_for_a_stale_path_has_one_winner(tmp_path):
    """Catalogue 46.  Both find a stale file, and both want to replace it: two hundred times, exactly one may."""
    rounds = 200
    for i in range(rounds):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(f"{tmp_path}/{i}")
    command = [sys.executable, "-W", "error", "-c", RACE, f"{tmp_path}/", str(rounds)]
    with contextlib.ExitStack() as stack:
        racers = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(2)
        ]
        wins = [0, 0]
        for i in range(rounds):
            for racer in racers:
                racer.stdin.write("go\n")
                racer.stdin.flush()
            words = [racer.stdout.readline().strip() for racer in racers]
            assert sorted(words) == ["no", "yes"], i
            wins[words.index("yes")] += 1
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{tmp_path}/{i}")  # the winner's file is the one that is there
        for racer in racers:
            racer.stdin.close()
    assert sum(wins) == rounds


def test_unix_file_of_a_successor_survives_the_end_of_the_first(tmp_path):
    """Catalogue 46.  B has taken A's path (an operator removed the file); A ends, and B is still there."""
    path = tmp_path / "s"
    with serving(path) as first, contextlib.ExitStack() as stack:
        first.wait_for("out", b"LISTENING")
        path.unlink()
        second = stack.enter_context(serving(path))
        second.wait_for("out", b"LISTENING")
        first.signal(signal.SIGTERM)
        assert first.finish() == 0
        assert answers(path)
        second.signal(signal.SIGTERM)
        assert second.finish() == 0
    assert not path.exists()


@pytest.mark.slow
def test_unix_file_is_never_wider_than_asked(tmp_path):
    """Catalogue 47.  Five hundred starts, and somebody who looks all the time: never more than 0600 for a moment."""
    seen, over = set(), threading.Event()

    def watch():
        while not over.is_set():
            for i in range(8):
                with contextlib.suppress(OSError):
                    seen.add(stat.S_IMODE(os.lstat(tmp_path / f"{i}").st_mode))

    before = os.umask(0)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for i in range(500):
            path = tmp_path / f"{i % 8}"
            (sock,) = sockets.listen(parse_address(f"unix:{path}"), unix_mode=0o600)
            sock.close()
            path.unlink()
        until(lambda: seen)
    finally:
        over.set()
        thread.join()
        os.umask(before)
    assert seen == {0o600}


STRANGER = """
import os, socket, sys
os.setgid(65534)
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as sock:
    print(sock.connect_ex(sys.argv[1]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_unix_file_of_another_user_cannot_be_connected_to(twin, tmp_path):
    """Catalogue 47.  The mode of the file is the password: 0600 unless asked otherwise."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and parent.name:
            parent.chmod(parent.stat().st_mode | 0o111)
    path = tmp_path / "s"
    with Scene(twin, address=f"unix:{path}") as scene:
        command = [sys.executable, "-c", STRANGER, str(path)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
        assert int(done.stdout) == errno.EACCES
        assert scene.talk() == b"are you there?"
