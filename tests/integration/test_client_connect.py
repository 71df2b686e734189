"""What connect() promises: one of connection_made or failed, once, in a later turn, whatever the network does."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import threading

import pytest
from peers import (
    FrameRecorder,
    World,
    connection_class,
    echo,
    encode,
    recording_factory,
    wait_until,
    world,
)

import evloop
import evloop.client
from evloop import CloseReason, Limits


@pytest.fixture
def listener():
    """A listening socket on the loopback that nobody accepts from unless a test does."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@contextlib.contextmanager
def closed_port():
    """A port of the loopback that refuses: bound and not listening, so that nobody else gets it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def address_of(sock):
    return sock.getsockname()


def dial(world, address, rec, **options):
    """Begin to connect for *rec*; failures go to its `failures`."""
    world.recorders.append(rec)
    rec.failures = []
    options.setdefault("failed", rec.failures.append)
    options.setdefault("limits", Limits(linger=0))
    return evloop.connect(world.reactor, address, protocol_factory=lambda: rec, **options)


def hang_up(world, connector, sock):
    """End a connection that was made."""
    sock.close()
    world.until(lambda: connector.connection.closed)
    world.turn(2)


# --- success ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 5])
def test_connect_numeric_address_makes_the_connection_in_a_later_turn(world, listener, timeout):
    """Never inside of the call: the caller has not even got its connector yet."""
    rec = FrameRecorder(frame=lambda rec, frame: rec.conn.send(b"answer"))
    connector = dial(world, address_of(listener), rec, timeout=timeout)
    assert (rec.log, connector.done, connector.connection) == ([], False, None)
    world.until(lambda: rec.conn)
    peer = world.peer(listener.accept()[0], True).write(encode(b"question"))
    world.until(lambda: peer.frames == [b"answer"])
    assert (connector.done, connector.connection, connector.exception) == (True, rec.conn, None)
    assert (rec.conn.peer.host, rec.conn.peer.port) == address_of(listener)
    assert world.reactor.stats()["timers"] == 0
    hang_up(world, connector, peer)
    assert (rec.reason, rec.failures) == (CloseReason.PEER, [])


def test_connect_name_is_resolved_in_a_thread(world, listener):
    """DNS may take seconds; the reactor turns on meanwhile."""
    rec = FrameRecorder()
    connector = dial(world, ("localhost", address_of(listener)[1]), rec)
    world.until(lambda: connector.done)
    assert (rec.log, rec.failures) == (["made"], [])
    hang_up(world, connector, listener.accept()[0])


def test_connect_name_that_is_unknown_fails_with_the_resolvers_words(world):
    """`.invalid` is reserved for this."""
    rec = FrameRecorder()
    connector = dial(world, "no-such-host.invalid:1", rec)
    world.until(lambda: connector.done)
    assert rec.log == []
    assert [type(exc) for exc in rec.failures] == [socket.gaierror]


def test_connect_first_address_refuses_takes_the_next(world, listener, monkeypatch):
    """`localhost` with ::1 first and a server on 127.0.0.1 only."""
    with closed_port() as port:
        targets = [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET, address_of(listener))]
        monkeypatch.setattr(evloop.client, "resolve_numeric", lambda address: list(targets))
        rec = FrameRecorder()
        connector = dial(world, "127.0.0.1:9", rec)
        world.until(lambda: connector.done)
    assert (rec.log, rec.failures, connector.exception) == (["made"], [], None)
    hang_up(world, connector, listener.accept()[0])


def test_connect_unix_path(world, tmp_path):
    """A UNIX socket connects at once; the callback comes in a later turn all the same."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        rec = FrameRecorder()
        connector = dial(world, f"unix:{tmp_path}/s", rec)
        assert rec.log == []
        world.until(lambda: connector.done)
        peer = world.peer(server.accept()[0]).write(encode(b"x"))
        world.until(lambda: rec.frames == [b"x"])
        hang_up(world, connector, peer)


def test_connect_uses_the_reactors_socket_factory(listener, connection_class):
    """The seam of simulation."""
    factory, fds = recording_factory()
    world = World(connection_class, socket_factory=factory)
    rec = FrameRecorder()
    connector = dial(world, address_of(listener), rec)
    world.until(lambda: rec.conn)
    assert fds == [rec.conn.fileno()]
    hang_up(world, connector, listener.accept()[0])
    world.close()


def test_connect_function_handler_is_called_per_frame(world, listener):
    """The same kinds of handler as a server's."""
    got = []
    connector = evloop.connect(world.reactor, address_of(listener), lambda conn, frame: got.append(frame))
    world.until(lambda: connector.done)
    peer = world.peer(listener.accept()[0]).write(encode(b"1", b"2"))
    world.until(lambda: got == [b"1", b"2"])
    hang_up(world, connector, peer)


# --- failure ---------------------------------------------------------------------------------------------------------


def test_connect_refused_calls_failed_once(world):
    """The protocol is not made; nobody has to guess."""
    rec = FrameRecorder()
    with closed_port() as port:
        connector = dial(world, ("127.0.0.1", port), rec, timeout=5)
        world.until(lambda: connector.done)
    world.advance(6)
    assert [exc.errno for exc in rec.failures] == [errno.ECONNREFUSED]
    assert connector.exception is rec.failures[0]
    assert str(rec.failures[0]).endswith(f": '127.0.0.1:{port}'")
    assert (rec.log, connector.connection) == ([], None)
    assert world.reactor.stats()["fds"] == 0


def test_connect_all_addresses_refuse_fails_with_the_last_error(world, monkeypatch):
    """One failure for the attempt, not one for each address."""
    with closed_port() as one, closed_port() as two:
        targets = [(socket.AF_INET, ("127.0.0.1", port)) for port in (one, two)]
        monkeypatch.setattr(evloop.client, "resolve_numeric", lambda address: list(targets))
        rec = FrameRecorder()
        connector = dial(world, "127.0.0.1:9", rec)
        world.until(lambda: connector.done)
    world.turn(3)
    assert [exc.errno for exc in rec.failures] == [errno.ECONNREFUSED]


def test_connect_without_failed_reports_to_the_exception_handler(world):
    """A failure that nobody asked for must not be silent."""
    rec = FrameRecorder()
    with closed_port() as port:
        connector = dial(world, ("127.0.0.1", port), rec, failed=None)
        world.until(lambda: connector.done)
    (context,) = world.errors
    world.errors.clear()
    assert isinstance(context["exception"], ConnectionRefusedError)
    assert f"cannot connect to 127.0.0.1:{port}" in context["message"]


def test_connect_failed_callback_that_raises_is_reported(world):
    """It ends the callback, not the reactor."""
    rec = FrameRecorder()
    with closed_port() as port:
        connector = dial(world, ("127.0.0.1", port), rec, failed=lambda exc: 1 / 0)
        world.until(lambda: connector.done)
    world.turn(3)
    assert [type(context["exception"]) for context in world.errors] == [ZeroDivisionError]
    world.errors.clear()


def test_connect_failed_callback_may_connect_again(world, listener):
    """The usual retry."""
    rec = FrameRecorder()
    second = []
    with closed_port() as port:
        retry = lambda exc: second.append(dial(world, address_of(listener), rec))  # noqa: E731
        connector = dial(world, ("127.0.0.1", port), FrameRecorder(), failed=retry)
        world.until(lambda: second and second[0].done)
    assert connector.connection is None
    hang_up(world, second[0], listener.accept()[0])


@pytest.fixture
def full():
    """A listener whose queue is full: the kernel drops further SYNs, and a connect to it hangs."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        filler = socket.create_connection(sock.getsockname())
        yield sock
        filler.close()


def test_connect_timeout_covers_an_answer_that_never_comes(world, full):
    """A firewall that drops: the kernel alone would try for two minutes."""
    rec = FrameRecorder()
    connector = dial(world, address_of(full), rec, timeout=5)
    world.turn(5)
    world.advance(4.999)
    assert (connector.done, rec.failures) == (False, [])
    world.advance(0.001)
    assert [type(exc) for exc in rec.failures] == [TimeoutError]
    assert "within 5 s" in str(rec.failures[0])
    assert (connector.done, world.reactor.stats()["fds"]) == (True, 0)


def test_connect_timeout_covers_dns(world, monkeypatch):
    """getaddrinfo(3) cannot be bounded; the attempt can."""
    answer = threading.Event()

    def resolve(address):
        answer.wait(20)
        return [(socket.AF_INET, ("127.0.0.1", 1))]

    monkeypatch.setattr(evloop.client, "resolve", resolve)
    rec = FrameRecorder()
    connector = dial(world, "localhost:1", rec, timeout=1)
    world.advance(1)
    assert [type(exc) for exc in rec.failures] == [TimeoutError]
    answer.set()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("evloop resolve")])
    world.turn(3)
    assert (connector.connection, len(rec.failures), rec.log) == (None, 1, [])


@pytest.mark.parametrize("when", ["at once", "while it tries", "twice"])
def test_connect_cancelled_calls_nobody(world, full, when):
    """The user has closed the window."""
    rec = FrameRecorder()
    connector = dial(world, address_of(full), rec, timeout=5)
    if when != "at once":
        world.turn(3)
    connector.cancel()
    if when == "twice":
        connector.cancel()
    world.advance(6)
    assert (connector.done, connector.connection, rec.failures, rec.log) == (True, None, [], [])
    assert world.reactor.stats()["fds"] == world.reactor.stats()["timers"] == 0


def test_connect_cancelled_when_done_leaves_the_connection_alone(world, listener):
    """Too late is too late."""
    rec = FrameRecorder()
    connector = dial(world, address_of(listener), rec)
    world.until(lambda: connector.done)
    connector.cancel()
    peer = world.peer(listener.accept()[0]).write(encode(b"x"))
    world.until(lambda: rec.frames == [b"x"])
    hang_up(world, connector, peer)


def test_connect_unix_full_backlog_fails_at_once(world, tmp_path):
    """EAGAIN there is no "wait for it" (connect(2)); waiting would spin or hang."""
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as filler:
        server.bind(str(tmp_path / "s"))
        server.listen(0)
        filler.connect(str(tmp_path / "s"))
        rec = FrameRecorder()
        connector = dial(world, f"unix:{tmp_path}/s", rec)
        world.until(lambda: connector.done)
    assert [exc.errno for exc in rec.failures] == [errno.EAGAIN]


@pytest.mark.parametrize("error", [LookupError, OSError])
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_connect_factory_that_raises_is_reported_and_the_socket_closed(world, tmp_path, family, error):
    """The application's fault, even if it is an OSError: `failed` is for the network."""

    def factory():
        raise error("no protocol today")

    with socket.socket(socket.AF_UNIX if family == "unix" else socket.AF_INET) as server:
        server.bind(str(tmp_path / "s") if family == "unix" else ("127.0.0.1", 0))
        server.listen()
        address = f"unix:{tmp_path}/s" if family == "unix" else server.getsockname()
        failures = []
        connector = evloop.connect(world.reactor, address, protocol_factory=factory, failed=failures.append)
        world.until(lambda: (connector.done and world.errors) or failures)
        with server.accept()[0] as theirs:
            assert theirs.recv(1) == b""
    assert [type(context["exception"]) for context in world.errors] == [error]
    assert failures == []
    world.errors.clear()


def test_connect_reactor_closed_meanwhile_leaves_no_thread_that_raises(monkeypatch, connection_class):
    """The resolver's thread comes back to a reactor that is gone."""
    world = World(connection_class)
    go = threading.Event()
    monkeypatch.setattr(evloop.client, "resolve", lambda address: go.wait(20) and [])
    dial(world, "localhost:1", FrameRecorder())
    world.close()
    go.set()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("evloop resolve")])


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1"])
def test_connect_on_a_closed_reactor_raises(address):
    """Nothing would ever happen, and nobody would be told."""
    reactor = evloop.Reactor()
    reactor.close()
    with pytest.raises(RuntimeError, match="closed"):
        evloop.connect(reactor, address, print)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": "5"}, TypeError),
        ({"address": "nonsense"}, ValueError),
        ({"handler": None}, TypeError),
        ({"handler": 5}, TypeError),
        ({"framing": 4}, TypeError),
        ({"limits": 5}, TypeError),
    ],
    ids=lambda value: str(value),
)
def test_connect_wrong_argument_is_refused_at_once(world, options, error):
    """Before a thread, a timer or a socket exists."""
    values = {"address": "127.0.0.1:1", "handler": print, **options}
    with pytest.raises(error):
        evloop.connect(world.reactor, values.pop("address"), values.pop("handler"), **values)
    assert world.reactor.stats()["timers"] == world.reactor.stats()["ready"] == 0


def test_connect_broken_stream_is_logged(world, listener, caplog):
    """A client has no server object that would log for it."""
    rec = FrameRecorder()
    connector = dial(world, address_of(listener), rec)
    world.until(lambda: connector.done)
    peer = world.peer(listener.accept()[0]).write(b"HTTP/1.1 400 Bad Request\r\n", fin=True)
    world.until(lambda: rec.lost)
    assert rec.reason is CloseReason.FRAME_TOO_LARGE
    assert [record.levelno for record in caplog.records if record.levelno > logging.DEBUG] == [logging.WARNING]
    hang_up(world, connector, peer)
