"""What a server promises: addresses, limits, an orderly end, and a bad peer or callback that hurts nobody else."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import stat

import pytest
from peers import (
    FrameRecorder,
    World,
    connection_class,
    decode,
    echo,
    encode,
    recording_factory,
    world,
)
from serving import call, serving, start, upper

import evloop
import evloop.sockets
from evloop import CloseReason, Framing, Limits, Protocol, Server


def settled_stats(server):
    """The counters without those that are zero, and those of what was exchanged."""
    flows = ("received_bytes", "sent_bytes", "frames_received", "frames_sent")
    return {name: count for name, count in server.stats().items() if count and name not in flows}


# --- addresses -------------------------------------------------------------------------------------------------------


def test_server_port_zero_tells_the_real_port(world, serving):
    """Tests and supervisors start servers without choosing a number."""
    server = serving()
    assert server.address.port > 0
    assert server.addresses == [server.address]
    peer = call(world, server).write(encode(b"hi"))
    world.until(lambda: peer.frames == [b"HI"])


def test_server_name_with_several_addresses_listens_on_each(world, serving):
    """`localhost` is 127.0.0.1 and, where there is IPv6, ::1; all on one port."""
    server = serving(address="localhost:0")
    assert len({address.port for address in server.addresses}) == 1
    hosts = {sockaddr[0] for *_, sockaddr in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    assert {address.host for address in server.addresses} <= hosts
    for address in server.addresses:
        peer = world.peer(socket.create_connection((address.host, address.port)), True).write(encode(b"hi"))
        world.until(lambda peer=peer: peer.frames == [b"HI"])


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o660])
def test_server_unix_socket_has_its_mode_and_goes_with_the_server(world, serving, tmp_path, mode):
    """The mode is the access control of a UNIX socket; the path of a dead server is litter."""
    path = tmp_path / "s"
    server = serving(address=f"unix:{path}", unix_mode=mode)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    peer = call(world, server).write(encode(b"hi"))
    world.until(lambda: peer.frames == [b"HI"])
    (conn,) = server.connections
    assert str(conn.peer) == f"unix:{path}"
    server.close()
    assert not path.exists()


def test_server_unix_close_leaves_another_servers_socket(world, serving, tmp_path):
    """A successor that has taken the path over must not lose it to its predecessor's end."""
    path = tmp_path / "s"
    old = serving(address=f"unix:{path}")
    path.unlink()
    new = serving(address=f"unix:{path}")
    old.close()
    peer = call(world, new).write(encode(b"hi"))
    world.until(lambda: peer.frames == [b"HI"])


def test_server_unix_path_that_cannot_be_removed_does_not_keep_it_from_closing(world, serving, tmp_path, monkeypatch):
    """Another process holds the directory's lock: the end of a server must not depend on it."""
    monkeypatch.setattr(evloop.sockets, "LOCK_WAIT", 0.01)
    server = serving(address=f"unix:{tmp_path}/s")
    done = []
    lock = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server.shutdown(done=lambda: done.append(1))
    finally:
        os.close(lock)
    world.turn(3)
    assert (done, server.addresses) == ([1], [])


def test_server_address_in_use_raises_and_leaves_nothing_behind(world, serving):
    """Bind errors are the caller's to tell."""
    server = serving()
    with pytest.raises(OSError, match="in use") as caught:
        start(world, address=server.address)
    assert caught.value.errno == errno.EADDRINUSE


# --- the life of a server --------------------------------------------------------------------------------------------


def test_server_started_twice_raises(world, serving):
    """Also after its end: a server is started once."""
    server = serving()
    with pytest.raises(RuntimeError, match="once"):
        server.start()
    server.close()
    with pytest.raises(RuntimeError, match="once"):
        server.start()


def test_server_before_start_has_no_address_and_can_be_closed(world):
    """The other order of things: never started."""
    server = Server(world.reactor, upper, "127.0.0.1:0")
    done = []
    assert (server.addresses, str(server.address)) == ([], "127.0.0.1:0")
    server.close()
    server.shutdown(done=lambda: done.append(1))
    world.turn(2)
    assert done == [1]


def test_server_close_stops_accepting_and_keeps_connections(world, serving):
    """The first half of a hand-over to another process."""
    server = serving()
    peer = call(world, server)
    world.until(lambda: server.connections)
    address = server.address
    server.close()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port))
    peer.write(encode(b"hi"))
    world.until(lambda: peer.frames == [b"HI"])


def test_server_close_inside_connection_made_serves_the_one_and_reports_nothing(world, serving):
    """A server for one guest: the first one in closes the door."""

    class Guest(FrameRecorder):
        def connection_made(self, conn):
            super().connection_made(conn)
            server.close()

    server = serving(handler=None, protocol_factory=lambda: Guest(frame=echo))
    peer = call(world, server)
    peer.write(encode(b"hi"))
    world.until(lambda: peer.frames == [b"hi"])
    assert world.errors == []
    assert server.stats()["accept_errors"] == 0


def test_server_close_inside_connection_made_with_a_full_queue_does_not_recurse(world, serving):
    """What is queued is accepted by close(), and each of those closes the server again."""

    class Closing(FrameRecorder):
        def connection_made(self, conn):
            super().connection_made(conn)
            server.close()

    server = serving(handler=None, protocol_factory=lambda: Closing(frame=echo))
    callers = [call(world, server).write(encode(b"hi")) for _ in range(400)]
    world.until(lambda: all(peer.frames == [b"hi"] for peer in callers))
    assert world.errors == []


def test_server_close_inside_a_handler_is_allowed(world, serving):
    """The listener's event of the same turn finds it closed."""
    server = serving(lambda conn, frame: (conn.send(frame), server.close()))
    peer = call(world, server)
    world.until(lambda: server.connections)
    late = call(world, server)
    peer.write(encode(b"hi"))
    late.write(encode(b"me, too"))
    world.until(lambda: peer.frames and late.frames)


def test_server_close_accepts_what_the_kernel_has_queued(world, serving):
    """Those peers have been told that they are connected; a reset would be a lie."""
    server = serving()
    callers = [call(world, server).write(encode(b"hi")) for _ in range(20)]
    server.close()
    world.until(lambda: all(peer.frames == [b"HI"] for peer in callers))


def test_server_shutdown_with_idle_clients_ends_in_order(world, serving):
    """Each gets the end of the stream, and `done` comes once, after the last."""
    server = serving(limits=Limits(linger=2))
    callers = [call(world, server) for _ in range(5)]
    world.until(lambda: len(server.connections) == 5)
    done = []
    server.shutdown(done=lambda: done.append(len(server.connections)))
    assert done == []
    world.until(lambda: all(peer.eof for peer in callers))
    assert done == []
    for peer in callers:
        peer.fin()
    world.until(lambda: done)
    world.turn(5)
    assert done == [0]
    assert server.stats()["closed_shutdown"] == 5


def test_server_shutdown_flushes_the_answers_of_busy_clients(world, serving):
    """ "Drain" means that what was answered arrives."""
    server = serving(lambda conn, frame: conn.send(bytes(4 << 20)), framing=Framing.U32.replace(max_frame=8 << 20))
    peer = call(world, server, reading=False).write(encode(b"all"))
    world.until(lambda: any(conn.stats.output for conn in server.connections))
    server.shutdown()
    world.turn(5)
    peer.reading = True
    world.until(lambda: peer.ended)
    assert (peer.eof, len(peer.received)) == (True, 4 + (4 << 20))


def test_server_shutdown_accepts_the_queued_and_closes_them_in_order(world, serving):
    """Queued in the kernel at shutdown: an end of the stream, no reset."""
    server = serving(limits=Limits(linger=2))
    callers = [call(world, server) for _ in range(20)]
    server.shutdown()
    world.until(lambda: all(peer.ended for peer in callers))
    assert [peer.error for peer in callers] == [None] * 20


def test_server_shutdown_of_a_stuck_client_is_forced_after_the_grace(world, serving, caplog):
    """One that never reads cannot keep a process alive."""
    server = serving(lambda conn, frame: [conn.send(bytes(1 << 20)) for _ in range(16)], limits=Limits(drain_timeout=3))
    call(world, server, reading=False).write(encode(b"x"))
    world.until(lambda: any(conn.stats.output for conn in server.connections))
    done = []
    server.shutdown(done=lambda: done.append(1))
    world.turn(3)
    world.advance(2.9)
    assert done == []
    world.advance(0.11)
    world.turn(2)
    assert done == [1]
    assert "1 connections did not finish in time" in caplog.text


def test_server_shutdown_again_with_a_shorter_grace_and_another_done(world, serving):
    """The impatient second signal."""
    server = serving(limits=Limits(drain_timeout=60, linger=50))
    call(world, server)
    world.until(lambda: server.connections)
    done = []
    server.shutdown(done=lambda: done.append("first"))
    server.shutdown(1, lambda: done.append("second"))
    world.turn(3)
    assert done == []
    world.advance(1.001)
    world.turn(2)
    assert done == ["first", "second"]


def test_server_shutdown_done_that_raises_does_not_swallow_the_others(world, serving):
    """Two parties wait for the end; the fault of one is not the other's."""
    server = serving()
    done = []
    server.shutdown(done=lambda: 1 / 0)
    server.shutdown(done=lambda: done.append(1))
    world.turn(4)
    world.errors.clear()
    assert done == [1]


def test_server_shutdown_finished_leaves_no_timer(world, serving):
    """A program that goes on without the server must not be woken, nor a reactor kept busy, for it."""
    server = serving()
    server.shutdown()
    world.turn(3)
    assert world.reactor.stats()["timers"] == 0


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("callers", "refused"), [(2, 0), (3, 0), (4, 1), (7, 4)])
def test_server_max_connections_refuses_the_one_above(world, serving, callers, refused):
    """limit-1, limit, limit+1: refused ones are closed and counted, the others work."""
    server = serving(limits=Limits(max_connections=3, linger=0))
    everybody = [call(world, server) for _ in range(callers)]
    world.until(lambda: server.stats().get("accepted", 0) + server.stats().get("refused", 0) == callers)
    assert len(server.connections) == callers - refused
    assert server.stats().get("refused", 0) == refused
    world.until(lambda: sum(peer.ended for peer in everybody) == refused)
    served = [peer.write(encode(b"hi")) for peer in everybody if not peer.ended]
    world.until(lambda: all(peer.frames == [b"HI"] for peer in served))


def test_server_max_connections_slot_is_free_again_after_a_close(world, serving):
    """A limit that counts the dead is an outage."""
    server = serving(limits=Limits(max_connections=1, linger=0))
    for _ in range(5):
        peer = call(world, server).write(encode(b"hi"), fin=True)
        world.until(lambda peer=peer: peer.ended and not server.connections)
        assert peer.frames == [b"HI"]
    assert settled_stats(server) == {"accepted": 5, "closed_peer": 5}


def test_server_refusals_are_logged_once_with_a_count(world, serving, caplog):
    """A peer can provoke a warning with each packet, and a log that fills a disk is an outage."""
    server = serving(limits=Limits(max_connections=1, linger=0))
    call(world, server)
    world.until(lambda: server.connections)
    for round_, seconds in ((1, 0), (2, 10)):
        world.advance(seconds)
        for _ in range(4):
            call(world, server)
        world.until(lambda round_=round_: server.stats().get("refused") == 4 * round_)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "max_connections=1 reached" in warnings[0]
    assert warnings[1].endswith("(and 3 more of this kind)")


def test_server_backlog_above_somaxconn_is_told(world, serving, caplog):
    """The kernel cuts it in silence."""
    queue = evloop.sockets.somaxconn()
    serving(limits=Limits(backlog=queue + 1, linger=0))
    assert f"backlog={queue + 1} is cut to {queue}" in caplog.text


# --- callbacks and factories -----------------------------------------------------------------------------------------


def test_server_broken_stream_is_one_warning_and_the_others_go_on(world, serving, caplog):
    """The operator reads what spoke to the wrong port, once in a while."""
    server = serving()
    witness = call(world, server)
    for _ in range(3):
        bad = call(world, server).write(b"GET / HTTP/1.1\r\n\r\n")
        world.until(lambda bad=bad: bad.ended)
    witness.write(encode(b"hi"))
    world.until(lambda: witness.frames == [b"HI"])
    world.until(lambda: server.stats().get("closed_frame_too_large") == 3)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "HTTP" in warnings[0]


def test_server_handler_that_raises_is_logged_with_its_traceback(world, serving, caplog):
    """The bug is ours: ERROR, with the place."""

    def fails(conn, frame):
        raise LookupError("the place")

    server = serving(fails)
    peer = call(world, server).write(encode(b"x"))
    world.until(lambda: peer.ended and not server.connections)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info[0] is LookupError
    assert settled_stats(server) == {"accepted": 1, "closed_handler": 1}


def test_server_ordinary_ends_are_not_logged_above_debug(world, serving, caplog):
    """Closes and resets are what networks do."""
    server = serving()
    call(world, server).fin()
    call(world, server).reset()
    world.until(lambda: server.stats().get("closed_peer") == server.stats().get("closed_reset") == 1)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def fails():
    raise LookupError("no protocol today")


@pytest.mark.parametrize("factory", [fails, lambda: None, lambda: 5, dict], ids=["raises", "none", "int", "dict"])
def test_server_factory_that_fails_refuses_this_peer_and_no_other(world, serving, caplog, factory):
    """A factory that forgets its `return` must not collect open, deaf sockets."""
    made = []
    server = serving(None, protocol_factory=lambda: FrameRecorder(frame=echo) if made else factory())
    bad = call(world, server)
    world.until(lambda: bad.ended or world.errors)
    world.turn(5)
    assert bad.ended
    assert (server.connections, world.errors) == (set(), [])
    made.append(1)
    good = call(world, server).write(encode(b"hi"))
    world.until(lambda: good.frames == [b"hi"])
    assert any(record.levelno == logging.ERROR for record in caplog.records)


def test_server_counters_add_up_when_the_factory_fails(world, serving):
    """accepted == connections + all closed_*: an operator's first check."""
    server = serving(None, protocol_factory=fails)
    for _ in range(3):
        peer = call(world, server)
        world.until(lambda peer=peer: peer.ended)
    world.turn(3)
    stats = server.stats()
    closed = sum(count for name, count in stats.items() if name.startswith("closed_"))
    assert stats.get("accepted", 0) == stats["connections"] + closed


def test_server_factory_that_fails_for_each_peer_does_not_flood_the_log(world, serving, caplog):
    """A traceback a packet, at the peer's choice."""
    server = serving(None, protocol_factory=fails)
    for _ in range(20):
        peer = call(world, server)
        world.until(lambda peer=peer: peer.ended)
    assert len(caplog.records) < 5


def test_server_handler_that_fails_for_each_peer_does_not_flood_the_log(world, serving, caplog):
    """The same bug, provoked at the rate of the peer's packets; all are counted, one traceback tells."""
    server = serving(lambda conn, frame: fails())
    for _ in range(20):
        peer = call(world, server).write(encode(b"x"))
        world.until(lambda peer=peer: peer.ended)
    world.until(lambda: server.stats().get("closed_handler") == 20)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) < 5


@pytest.mark.parametrize("where", ["factory", "made"])
def test_server_exit_while_closing_still_closes_every_listener(world, serving, where):
    """sys.exit() in what close() runs for a queued peer: the door is shut all the same, and nothing is left open."""

    class Leaving(FrameRecorder):
        def connection_made(self, conn):
            super().connection_made(conn)
            if where == "made":
                raise SystemExit

    def factory():
        if where == "factory":
            raise SystemExit
        return Leaving()

    server = serving(None, "localhost:0", protocol_factory=factory)
    addresses = server.addresses
    peer = call(world, server)
    with pytest.raises(SystemExit):
        server.close()
    for address in addresses:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address.host, address.port)).close()
    world.until(lambda: peer.ended or server.connections)


def test_server_connection_dead_before_its_accept_is_no_error(world, serving, caplog):
    """Reset while it was queued: Linux hands a dead socket over."""
    server = serving()
    for _ in range(50):
        call(world, server).reset()
    witness = call(world, server).write(encode(b"hi"))
    world.until(lambda: witness.frames == [b"HI"] and len(server.connections) == 1)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_server_accepts_a_bounded_number_a_turn(world, serving):
    """A storm of connects must not stop those who are connected."""
    server = serving()
    witness = call(world, server)
    world.until(lambda: server.connections)
    for _ in range(200):
        call(world, server)
    witness.write(encode(b"hi"))
    world.turn(2)
    assert len(server.connections) <= 1 + 2 * evloop.server.ACCEPTS_PER_TURN
    assert witness.frames == [b"HI"]
    world.until(lambda: len(server.connections) == 201)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"framing": 4}, TypeError),
        ({"framing": "U32"}, TypeError),
        ({"limits": {}}, TypeError),
        ({"limits": 5}, TypeError),
        ({"address": 5.0}, TypeError),
        ({"address": "nonsense"}, ValueError),
        ({"limits": Limits(max_frame=1 << 40), "framing": Framing.U32}, ValueError),
    ],
    ids=["framing-int", "framing-str", "limits-dict", "limits-int", "address-float", "address-text", "max_frame"],
)
def test_server_wrong_argument_is_refused_at_once(world, options, error):
    """Documented: "TypeError, ValueError: an argument is wrong"; not at the first peer, in a log."""
    with pytest.raises(error):
        Server(world.reactor, upper, **{"address": "127.0.0.1:0", **options})


def test_server_socket_factory_makes_the_listeners():
    """The seam of simulation and of counting: a listener of that factory, and the connection that it accepts."""
    factory, fds = recording_factory()
    world = World(socket_factory=factory)
    try:
        server = start(world, FrameRecorder)
        assert len(fds) == 1
        peer = call(world, server)
        world.until(lambda: server.connections)
        (conn,) = server.connections
        assert fds[1:] == [conn.fileno()]
        peer.close()
        server.shutdown(0)
        world.turn(4)
    finally:
        world.close()


def test_server_one_protocol_object_per_connection(world, serving):
    """State of one peer must not be another's."""
    made = []

    class Counting(Protocol):
        def connection_made(self, conn):
            made.append(self)
            self.conn = conn

        def frame_received(self, frame):
            self.conn.send(b"%d" % made.index(self))

    server = serving(Counting)
    callers = [call(world, server) for _ in range(3)]
    world.until(lambda: len(made) == 3)
    for peer in reversed(callers):
        peer.write(encode(b"?"))
    world.until(lambda: all(peer.frames for peer in callers))
    assert sorted(peer.frames for peer in callers) == [[b"0"], [b"1"], [b"2"]]
