"""What a service manager is told, and by whom: real datagram sockets, a manual clock."""

from __future__ import annotations

import os
import socket

import pytest
from peers import World

from evloop import systemd

STATE = "READY=1"


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """The manager's end of NOTIFY_SOCKET, which is set to its path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        yield sock


@pytest.fixture
def world():
    """A reactor whose clock the test moves."""
    world = World()
    yield world
    world.close()


def heard(manager):
    """Return all messages so far."""
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def test_notify_states_arrive_one_by_one(manager, world):
    """The order that systemd's state machine wants."""
    told = systemd.ServiceManager()
    told.ready(world.reactor)
    told.stopping()
    assert told.notify("STATUS=hello\nMAINPID=1") is True
    assert heard(manager) == ["READY=1", "STOPPING=1", "STATUS=hello\nMAINPID=1"]
    assert "NOTIFY_SOCKET" not in os.environ  # a child would speak for the service


def test_notify_abstract_name_is_reached(monkeypatch):
    """Containers and user managers use them: @ stands for the NUL."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(b"\0evloop-notify-%d" % os.getpid())
        monkeypatch.setenv("NOTIFY_SOCKET", f"@evloop-notify-{os.getpid()}")
        assert systemd.ServiceManager().notify(STATE) is True
        assert sock.recv(100) == b"READY=1"


def test_notify_without_a_manager_does_nothing(monkeypatch, world, caplog):
    """The ordinary case: a terminal."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    told = systemd.ServiceManager()
    told.ready(world.reactor)
    assert told.notify(STATE) is False
    assert (world.reactor.stats()["timers"], caplog.records) == (0, [])


@pytest.mark.parametrize(
    ("where", "cause"),
    [
        ("/nowhere/notify", "No such file"),
        ("relative", "neither a path from / on nor @"),
        ("vsock:2:1234", "neither a path from / on nor @"),
        ("/" + "x" * 200, "too long"),
        ("@" + "x" * 200, "too long"),
        ("@", "refused"),
    ],
)
def test_notify_socket_that_does_not_work_is_one_warning(monkeypatch, world, caplog, where, cause):
    """A server that cannot tell that it serves, serves."""
    monkeypatch.setenv("NOTIFY_SOCKET", where)
    told = systemd.ServiceManager()
    told.ready(world.reactor)
    told.stopping()
    (record,) = caplog.records
    assert cause in record.getMessage() and "cannot tell the service manager READY=1" in record.getMessage()


def test_notify_full_queue_of_the_manager_blocks_nobody(manager, caplog):
    """A manager that hangs must not take the loop with it."""
    told = systemd.ServiceManager()
    while told.notify("WATCHDOG=1"):
        pass
    assert told.notify("WATCHDOG=1", patience=0.01) is False
    assert len(caplog.records) == 1
    heard(manager)
    assert told.notify("WATCHDOG=1") is True


# --- the watchdog ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pid", [None, "ours"])
def test_watchdog_beats_twice_in_its_time_while_the_loop_turns(manager, world, monkeypatch, pid):
    """From a timer of the reactor: a loop that hangs is silent, whatever other threads do."""
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    told = systemd.ServiceManager()
    assert told.watchdog == 10.0
    told.ready(world.reactor)
    assert heard(manager) == ["READY=1", "WATCHDOG=1"]
    world.advance(4.999)
    assert heard(manager) == []
    world.advance(0.001)
    assert heard(manager) == ["WATCHDOG=1"]
    told.stopping()
    world.advance(60)
    assert heard(manager) == ["STOPPING=1", "WATCHDOG=1"]
    assert {"WATCHDOG_USEC", "WATCHDOG_PID"}.isdisjoint(os.environ)


def test_watchdog_of_another_process_is_none_of_ours(manager, world, monkeypatch):
    """The variables are inherited by accident, too."""
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getppid()))
    told = systemd.ServiceManager()
    told.ready(world.reactor)
    assert (told.watchdog, heard(manager)) == (0.0, ["READY=1"])


@pytest.mark.parametrize("usec", ["0", "-1", "1.5", "ten", "9" * 21, "\u0661"])
def test_watchdog_malformed_is_a_warning_and_none(manager, world, monkeypatch, caplog, usec):
    """A typing error in a unit does not stop a service."""
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    told = systemd.ServiceManager()
    told.ready(world.reactor)
    assert (told.watchdog, heard(manager)) == (0.0, ["READY=1"])
    assert "WATCHDOG_USEC=" in caplog.text and len(caplog.records) == 1


def test_watchdog_that_never_fires_is_a_timer_like_any_other(manager, world, monkeypatch):
    """USEC_INFINITY, 2**64 - 1."""
    monkeypatch.setenv("WATCHDOG_USEC", str(2**64 - 1))
    systemd.ServiceManager().ready(world.reactor)
    assert heard(manager) == ["READY=1", "WATCHDOG=1"]


# --- the environment of sockets that are passed; the sockets themselves are in tests/apps/test_cli_service.py --------


@pytest.mark.parametrize(
    ("pid", "count"), [(None, None), ("ours", None), (None, "1"), ("other", "1"), ("ours", "0"), ("", "")]
)
def test_inherited_sockets_none_for_this_process_is_an_empty_list(monkeypatch, pid, count):
    """LISTEN_PID decides: a shell in between passes the variables on, not the intention."""
    pids = {"ours": os.getpid(), "other": os.getppid()}
    for name, value in (("LISTEN_PID", pids.get(pid, pid)), ("LISTEN_FDS", count)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, str(value))
    assert systemd.inherited_sockets() == []
    assert {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}.isdisjoint(os.environ)


@pytest.mark.parametrize(
    ("pid", "count", "text"),
    [
        ("ours", "one", "LISTEN_FDS='one' is not a number"),
        ("ours", "-1", "LISTEN_FDS='-1' is not a number"),
        ("ours", "1" * 4500, "is not a number"),
        ("me", "1", "LISTEN_PID='me' is not a number"),
    ],
)
def test_inherited_sockets_malformed_variable_raises_and_is_removed(monkeypatch, pid, count, text):
    """One line that names the variable, before any fd is touched."""
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()) if pid == "ours" else pid)
    monkeypatch.setenv("LISTEN_FDS", count)
    with pytest.raises(ValueError, match=text):
        systemd.inherited_sockets()
    assert systemd.inherited_sockets() == []
