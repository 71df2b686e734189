"""evloop.sockets and the files of UNIX sockets: modes, stale and living servers, races, removal."""

from __future__ import annotations

import concurrent.futures
import errno
import fcntl
import os
import socket
import stat
import threading

import pytest
from realsockets import DEADLINE, accept, connect, leave_stale, listening, open_fds

from evloop import sockets
from evloop.sockets import listen


@pytest.mark.parametrize("umask", [0o000, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_listen_unix_mode_is_exact_and_never_wider_even_for_a_moment(tmp_path, umask, mode):
    """A chmod after bind leaves a moment in which anybody may connect; a umask takes rights that were asked for."""
    path = tmp_path / "s"
    seen = []

    class Watched(socket.socket):
        def bind(self, sockaddr):
            super().bind(sockaddr)
            seen.append(stat.S_IMODE(os.stat(path).st_mode))

    before = os.umask(umask)
    try:
        with listening(f"unix:{path}", unix_mode=mode, socket_factory=Watched) as (listener,):
            assert seen == [mode & ~umask]
            assert stat.S_IMODE(os.stat(path).st_mode) == mode
            assert (listener.getblocking(), listener.get_inheritable()) == (False, False)
    finally:
        os.umask(before)


@pytest.mark.parametrize("mode", [-1, 0o1000])
def test_listen_unix_mode_out_of_range_is_refused(tmp_path, mode):
    """A decimal 600 is 0o1130: the commonest slip with modes is caught."""
    with pytest.raises(ValueError, match="unix_mode"):
        listen(f"unix:{tmp_path}/s", unix_mode=mode)
    assert os.listdir(tmp_path) == []


def test_listen_unix_stale_path_is_replaced(tmp_path):
    """After a crash the server starts again without a hand that removes the file."""
    leave_stale(tmp_path / "s")
    with listening(f"unix:{tmp_path}/s") as (listener,), connect(f"unix:{tmp_path}/s"):
        accept(listener).close()


def test_listen_unix_live_path_is_refused_and_left_alone(tmp_path):
    """The second start is the mistake; the first server's clients must not notice it."""
    address = f"unix:{tmp_path}/s"
    with listening(address) as (listener,):
        identity = sockets.socket_identity(listener)
        with pytest.raises(OSError) as caught:
            listen(address)
        assert caught.value.errno == errno.EADDRINUSE
        assert sockets.socket_identity(address) == identity
        accept(listener).close()  # the newcomer's question
        with connect(address):
            accept(listener).close()


def test_listen_unix_live_path_with_a_full_backlog_is_no_stale_one(tmp_path):
    """A server too busy to accept answers EAGAIN; taking that for death would steal its path."""
    address = f"unix:{tmp_path}/s"
    with listening(address, backlog=0), connect(address):
        with pytest.raises(BlockingIOError):
            connect(address)
        with pytest.raises(OSError) as caught:
            listen(address)
        assert caught.value.errno == errno.EADDRINUSE


def test_listen_unix_datagram_socket_at_the_path_is_refused(tmp_path):
    """Another program's socket of another type (a log daemon's) is as alive as ours."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as rival:
        rival.bind(str(tmp_path / "s"))
        with pytest.raises(OSError) as caught:
            listen(f"unix:{tmp_path}/s")
        assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize(("running", "new"), [("unix", "seqpacket"), ("seqpacket", "unix"), ("seqpacket", "seqpacket")])
def test_listen_seqpacket_and_stream_do_not_take_each_others_path(tmp_path, running, new):
    """A living server of the other type answers with EPROTOTYPE, and is as alive; a dead one's path is free."""
    path = f"{tmp_path}/s"
    with listening(f"{running}:{path}") as (listener,):
        assert str(sockets.local_address(listener)) == f"{running}:{path}"
        with pytest.raises(OSError) as caught:
            listen(f"{new}:{path}")
        assert caught.value.errno == errno.EADDRINUSE
        if running != new:
            with pytest.raises(OSError) as caught:
                connect(f"{new}:{path}")
            assert caught.value.errno == errno.EPROTOTYPE
    with listening(f"{new}:{path}") as (listener,), connect(f"{new}:{path}") as client, accept(listener) as server:
        assert client.type == server.type == listener.type
        assert sockets.unlink_unix(f"{new}:{path}", sockets.socket_identity(listener)) is True


@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "dangling symlink", "symlink to a stale socket"])
def test_listen_unix_other_file_at_the_path_is_refused_and_untouched(tmp_path, kind):
    """A mistyped path must never cost a file, and a symlink must never choose which one."""
    path = tmp_path / "s"
    leave_stale(tmp_path / "stale")
    make = {
        "file": lambda: path.write_bytes(b"precious"),
        "directory": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "dangling symlink": lambda: path.symlink_to("nowhere"),
        "symlink to a stale socket": lambda: path.symlink_to("stale"),
    }
    make[kind]()
    before = os.lstat(path), sorted(os.listdir(tmp_path))
    with pytest.raises(FileExistsError):
        listen(f"unix:{path}")
    assert (os.lstat(path), sorted(os.listdir(tmp_path))) == before


def test_listen_unix_missing_directory_raises_and_relative_path_works(tmp_path, monkeypatch):
    """A relative path is the way around 107 bytes, so it has to work, lock included."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        listen("unix:missing/s")
    with listening("unix:s") as (listener,):
        assert sockets.unlink_unix("unix:s", sockets.socket_identity(listener)) is True


def test_listen_unix_failure_after_bind_leaves_no_file(tmp_path):
    """A start that failed must not leave the file that makes the next one ask whether it is stale."""

    class Broken(socket.socket):
        def listen(self, backlog):
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    with pytest.raises(OSError):
        listen(f"unix:{tmp_path}/s", socket_factory=Broken)
    assert os.listdir(tmp_path) == []


def test_listen_abstract_name_has_no_file_and_is_exclusive():
    """Abstract names vanish with their socket; there is nothing to clean, and nothing to remove by mistake."""
    address = f"unix:@evloop-test-{os.getpid()}"
    with listening(address) as (listener,):
        assert str(sockets.local_address(listener)) == address
        assert sockets.socket_identity(listener) is None
        assert sockets.unlink_unix(address, (1, 1)) is False
        with connect(address) as client:
            assert str(sockets.peer_address(client)) == address
        with pytest.raises(OSError) as caught:
            listen(address)
        assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.slow
def test_listen_unix_four_servers_race_for_a_stale_path_exactly_one_wins(tmp_path):
    """Look, unlink, bind, listen are four steps: without a lock a late server unlinks the winner's live socket."""
    address = f"unix:{tmp_path}/s"
    barrier = threading.Barrier(4)

    def start(_):
        barrier.wait(DEADLINE)
        try:
            return listen(address)[0]
        except OSError as exc:
            return exc.errno

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(200):
            leave_stale(tmp_path / "s")
            results = list(pool.map(start, range(4)))
            winners = [result for result in results if isinstance(result, socket.socket)]
            try:
                assert [result for result in results if result not in winners] == [errno.EADDRINUSE] * 3
                assert sockets.unlink_unix(address, sockets.socket_identity(winners[0])) is True
            finally:
                for sock in winners:
                    sock.close()


def test_listen_unix_lock_kept_by_another_fails_with_ebusy_in_bounded_time(tmp_path, monkeypatch):
    """Whoever can read the directory can hold its lock; a start then fails in words instead of hanging."""
    monkeypatch.setattr(sockets, "LOCK_WAIT", 0.01)
    address = f"unix:{tmp_path}/s"
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="kept a lock") as caught:
            listen(address)
        assert caught.value.errno == errno.EBUSY
        fcntl.flock(fd, fcntl.LOCK_UN)
        with listening(address):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a listening server holds it no longer
    finally:
        os.close(fd)


def test_listen_unix_lock_is_let_go_even_if_a_forked_child_holds_the_descriptor(tmp_path):
    """A duplicate of the directory's descriptor, as a fork in another thread makes one, must not keep the lock."""
    duplicates = []

    class Forked(socket.socket):
        def bind(self, sockaddr):
            held = [fd for fd, target in open_fds().items() if target == str(tmp_path)]
            duplicates.extend(os.dup(fd) for fd in held)
            super().bind(sockaddr)

    with listening(f"unix:{tmp_path}/s", socket_factory=Forked) as (listener,):
        assert len(duplicates) == 1
        assert sockets.unlink_unix(f"unix:{tmp_path}/s", sockets.socket_identity(listener)) is True
    os.close(duplicates[0])


def test_unlink_unix_removes_only_the_file_that_was_bound(tmp_path):
    """Server A's exit must not take away the path of server B, started after A's file was removed."""
    address = f"unix:{tmp_path}/s"
    with listening(address) as (first,):
        mine = sockets.socket_identity(first)
        os.unlink(tmp_path / "s")
        assert sockets.unlink_unix(address, mine) is False
        with listening(address) as (second,):
            theirs = sockets.socket_identity(address)
            assert theirs != mine
            assert sockets.unlink_unix(address, mine) is False
            assert sockets.unlink_unix(address, None) is False
            assert sockets.socket_identity(second) == theirs
            assert sockets.unlink_unix(address, theirs) is True
            assert sockets.unlink_unix(address, theirs) is False
    assert sockets.unlink_unix(f"unix:{tmp_path}/gone/s", mine) is False
