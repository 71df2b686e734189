"""The admin port: probes, metrics and status of a server, asked by clients that are not ours."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys

import psutil
import pytest
from peers import World, connection_class, encode, world
from programs import PATIENCE, Served, environment, frame, receive_frame, run_program, serving

import evloop
from evloop import Limits, Server
from evloop._admission import fullest_queue
from evloop.apps import admin as admin_module
from evloop.apps import lag
from evloop.apps.admin import Admin
from evloop.apps.families import Family
from evloop.apps.lag import LoopLag

NAMES = [
    "evloop_build_info",
    "evloop_connections",
    "evloop_connections_accepted_total",
    "evloop_connections_closed_total",
    "evloop_connections_rejected_total",
    "evloop_accept_errors_total",
    "evloop_accept_paused",
    "evloop_listen_queue_length",
    "evloop_listen_queue_limit",
    "evloop_received_bytes_total",
    "evloop_sent_bytes_total",
    "evloop_frames_received_total",
    "evloop_frames_sent_total",
    "evloop_protocol_errors_total",
    "evloop_buffered_bytes",
    "evloop_slow_consumer_total",
    "evloop_reads_paused",
    "evloop_loop_lag_seconds",
    "evloop_loop_busy_ratio",
    "evloop_stale_events_total",
    "evloop_callback_errors_total",
    "evloop_tls_handshake_errors_total",
    "evloop_draining",
]


@pytest.fixture
def watched(world):
    """An echo server with an admin port in a world, and what asks it: ``ask(path) -> (status, body)``."""
    server = Server(world.reactor, lambda conn, data: conn.send(data), "127.0.0.1:0", limits=Limits(linger=0))
    more = {"unready": [], "families": []}
    admin = Admin(
        server,
        "127.0.0.1:0",
        unready=lambda: more["unready"],
        status=lambda: {"rooms": 7},
        families=lambda: more["families"],
    )
    admin.start()

    def ask(path, *headers):
        peer = world.peer(socket.create_connection((admin.addresses[0].host, admin.addresses[0].port)), True)
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
        peer.write("\r\n".join(lines).encode())
        world.until(lambda: peer.ended)
        peer.close()
        head, _, body = bytes(peer.received).partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body.decode()

    ask.server, ask.more, ask.admin = server, more, admin
    yield ask
    admin.close()
    server.shutdown(0)
    world.turn(4)


def samples(text):
    """Return the values of an exposition by name with labels."""
    return {key: float(value) for key, value in re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)}


def call(world, server):
    """Return a peer of the watched server."""
    return world.peer(socket.create_connection((server.address.host, server.address.port)), True)


def test_admin_livez_is_ok_whatever_the_server_does(world, watched):
    """The loop turns: a restart would not help."""
    assert watched("/livez") == (200, "ok\n")
    watched.server.start()
    watched.server.close()
    assert watched("/livez") == (200, "ok\n")


def test_admin_readyz_follows_the_server_from_start_to_drain(world, watched):
    """A balancer sends nobody before, and nobody after; the admin port answers until the end."""
    assert watched("/readyz") == (503, "starting\n")
    watched.server.start()
    assert watched("/readyz") == (200, "ok\n")
    watched.server.close()
    assert watched("/readyz") == (503, "draining\n")


def test_admin_readyz_says_what_the_application_lacks(world, watched):
    """A chat whose store is down is no place for new members."""
    watched.server.start()
    watched.more["unready"] = ["no store", "too slow"]
    assert watched("/readyz") == (503, "no store\ntoo slow\n")


def test_admin_readyz_of_a_full_server_is_503_and_answered(world):
    """At the limit the admin port has a listener and descriptors of its own."""
    server = Server(world.reactor, lambda conn, data: None, "127.0.0.1:0", limits=Limits(max_connections=2, linger=0))
    server.start()
    with Admin(server, "127.0.0.1:0") as admin:
        admin.start()
        for there, reasons in ((1, []), (2, ["full"])):
            call(world, server)
            world.until(lambda there=there: len(server.connections) == there)
            assert admin.statusz()["state"] == (reasons or ["ready"])
    server.shutdown(0)
    world.turn(4)


def test_admin_metrics_have_the_names_and_the_counts(world, watched):
    """A dashboard is built on the names; they do not change."""
    watched.server.start()
    peer = call(world, watched.server).write(encode(b"hello", b"you"))
    world.until(lambda: peer.frames == [b"hello", b"you"])
    status, text = watched("/metrics")
    assert status == 200
    found = samples(text)
    families = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert {name for name in NAMES if name not in families} == set()
    assert found['evloop_connections{state="open"}'] == 1
    assert found["evloop_connections_accepted_total"] == 1
    assert found["evloop_frames_received_total"] == 2
    assert found["evloop_received_bytes_total"] == len(encode(b"hello", b"you"))
    assert abs(found["process_open_fds"] - len(os.listdir("/proc/self/fd"))) < 3
    assert abs(found["process_start_time_seconds"] - psutil.Process().create_time()) < 2
    assert abs(found["process_resident_memory_bytes"] / psutil.Process().memory_info().rss - 1) < 0.1
    assert found["process_cpu_seconds_total"] > 0
    assert "127.0.0.1" not in text, "a peer's address would be a time series for ever"


def test_admin_metrics_have_the_accept_queue(world, watched):
    """Who waits there has a connection and no answer: nothing else of a server that cannot keep up is seen so early."""
    before = samples(watched("/metrics")[1])
    assert not {name for name in before if name.startswith("evloop_listen_queue")}, "it does not listen yet"
    watched.server.start()
    found = samples(watched("/metrics")[1])
    limit = min(evloop.Limits().backlog, evloop.sockets.somaxconn())
    assert (found["evloop_listen_queue_length"], found["evloop_listen_queue_limit"]) == (0, limit)
    host, port = watched.server.address.host, watched.server.address.port
    waiting = [socket.create_connection((host, port)) for _ in range(3)]  # the loop does not turn meanwhile
    assert watched.server.listen_queue == (3, limit)
    for sock in waiting:
        sock.close()


def test_accept_queue_is_the_fullest_of_tcp_and_none_of_unix(world, tmp_path):
    """Two addresses, one crowd: an average would hide it.  Of UNIX sockets the kernel does not say."""
    with socket.create_server(("127.0.0.1", 0), backlog=2) as small, socket.create_server(("127.0.0.1", 0)) as other:
        server = Server(world.reactor, lambda conn, data: None, sockets=[small, other], limits=Limits(linger=0))
        server.start()
        queues = [fullest_queue([sock]) for sock in (small, other)]
        with socket.create_connection(small.getsockname()):
            assert fullest_queue([small, other]) == server.listen_queue == (1, queues[0][1])
        server.shutdown(0)
        world.turn(4)
    server = Server(world.reactor, lambda conn, data: None, f"unix:{tmp_path}/s")
    server.start()
    assert server.listen_queue is None
    server.shutdown(0)
    world.turn(4)


def test_admin_metrics_tell_why_connections_ended(world, watched):
    """The reasons are labels, and the sum of them is what was accepted and is not there."""
    watched.server.start()
    peer = call(world, watched.server).write(b"\xff\xff\xff\xff")
    world.until(lambda: peer.ended)
    world.settle()
    found = samples(watched("/metrics")[1])
    assert found['evloop_connections_closed_total{reason="frame_too_large"}'] == 1
    assert found['evloop_protocol_errors_total{kind="frame_too_large"}'] == 1


def test_admin_metrics_include_the_applications(world, watched):
    """Counters and gauges, with labels and without; a family without samples is no error."""
    watched.more["families"] = [
        Family("evloop_chat_messages_total", "Messages.", [({}, 3)]),
        Family("evloop_chat_members", "Members.", [({"transport": "frames"}, 1), ({"transport": "web"}, 2)]),
        Family("evloop_chat_byes_total", "Byes.", []),
    ]
    found = samples(watched("/metrics")[1])
    assert found["evloop_chat_messages_total"] == 3
    assert found['evloop_chat_members{transport="web"}'] == 2


def test_admin_metrics_speak_openmetrics_to_who_asks(world, watched):
    """Prometheus does; the end of the text is marked there."""
    status, text = watched("/metrics", "Accept: application/openmetrics-text; version=1.0.0")
    assert (status, text.endswith("# EOF\n")) == (200, True)


def test_admin_statusz_is_json_with_limits_and_the_applications_part(world, watched):
    """What an operator asks first: which version, which limits, how many, how late."""
    watched.server.start()
    status, text = watched("/statusz")
    shown = json.loads(text)
    assert status == 200
    assert shown["version"] == evloop.__version__
    assert shown["implementation"] == world.reactor.stats()["implementation"]
    assert shown["limits"]["linger"] == 0
    assert shown["listening"] == [watched.server.address.label]
    assert shown["state"] == ["ready"]
    assert shown["rooms"] == 7
    assert shown["loop"]["lag_p99_s"] == 0


def test_admin_statusz_lists_who_holds_most_output(world, watched):
    """The first question when memory grows."""
    watched.server.start()
    sock = socket.create_connection((watched.server.address.host, watched.server.address.port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    world.peer(sock).write(encode(b"x" * 1_000_000) * 8)
    world.settle()
    (slow,) = json.loads(watched("/statusz")[1])["most_output"]
    assert slow["peer"] == "127.0.0.1:{1}".format(*sock.getsockname())
    assert slow["output"] > 64 * 1024


@pytest.mark.parametrize(("path", "status"), [("/", 404), ("/metrics/", 404), ("/favicon.ico", 404), ("*", 404)])
def test_admin_unknown_path_is_told_what_there_is(world, watched, path, status):
    """A person who guesses gets the list."""
    found, text = watched(path)
    assert found == status
    assert "/livez, /readyz, /metrics, /statusz" in text


def test_admin_metrics_with_a_query_are_the_metrics(world, watched):
    """Some scrapers add parameters of their own."""
    assert watched("/metrics?name=x")[0] == 200


def test_admin_close_is_idempotent_and_good_after_the_reactor():
    """A program closes in whatever order its end runs."""
    with evloop.Reactor() as reactor:
        admin = Admin(Server(reactor, lambda conn, data: None, "127.0.0.1:0"), "127.0.0.1:0")
        admin.start()
        address = admin.addresses[0]
        with socket.create_connection((address.host, address.port)):
            reactor.call_later(0.01, reactor.stop)
            reactor.run_forever()
            reactor.close()
            admin.close()
            admin.close()


# --- lag ---------------------------------------------------------------------------------------------------------


def test_lag_of_a_loop_that_is_held_up_is_noted(world):
    """What a callback takes is what everybody else waits."""
    looks = LoopLag(world.reactor)
    looks.start()
    world.turn()
    world.advance(lag.INTERVAL + 0.2)
    assert looks.recent.max == pytest.approx(0.2)
    assert looks.total == pytest.approx(0.2)
    world.advance(lag.INTERVAL)
    assert looks.recent.p50 == pytest.approx(0.2)
    assert sum(looks.counts) == 2
    looks.stop()
    world.advance(lag.INTERVAL)
    assert sum(looks.counts) == 2


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (0.001, 0), (0.0011, 1), (2.5, 10), (2.6, 11)])
def test_lag_buckets_include_their_upper_bound(world, seconds, bucket):
    """As Prometheus has it: le."""
    looks = LoopLag(world.reactor)
    looks.note(seconds)
    assert looks.counts[bucket] == 1


def test_lag_histogram_is_cumulative(world, watched):
    """Prometheus' buckets contain the smaller ones; a count is the last of them."""
    for seconds in (0.0005, 0.004, 9.0):
        watched.admin.lag.note(seconds)
    found = samples(watched("/metrics")[1])
    assert found['evloop_loop_lag_seconds_bucket{le="0.001"}'] == 1
    assert found['evloop_loop_lag_seconds_bucket{le="0.005"}'] == 2
    assert found['evloop_loop_lag_seconds_bucket{le="+Inf"}'] == 3
    assert found["evloop_loop_lag_seconds_count"] == 3
    assert found["evloop_loop_lag_seconds_sum"] == pytest.approx(9.0045)


# --- the command -------------------------------------------------------------------------------------------------


def ask(address, path):
    """Return status and body of one request to ``host:port``."""
    host, _, port = address.rpartition(":")
    client = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=PATIENCE)
    try:
        client.request("GET", path)
        answer = client.getresponse()
        return answer.status, answer.read()
    finally:
        client.close()


def admin_address(server):
    """Return where the ADMIN line of a running server says that its admin port is."""
    out = server.wait_for("out", b"ADMIN ")
    while b"\n" not in out.partition(b"ADMIN ")[2]:
        out = server.wait_for("out", b"\n")
    return out.partition(b"ADMIN tcp ")[2].split()[0].decode()


def test_serve_echo_with_admin_is_asked_beside_its_work():
    """One process, two ports; the second line says where the second is."""
    with serving("echo", "127.0.0.1:0", "--admin", "127.0.0.1:0") as server, server.connect() as sock:
        address = admin_address(server)
        sock.sendall(frame(b"hello"))
        assert receive_frame(sock) == b"hello"
        assert ask(address, "/readyz") == (200, b"ok\n")
        assert b"evloop_frames_sent_total 1.0\n" in ask(address, "/metrics")[1]


def test_serve_admin_answers_503_while_draining():
    """A balancer has to hear it from the port that it asks, and not from a refused connection."""
    with Served("echo", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--linger", "20s") as server, server.connect() as sock:
        address = admin_address(server)
        sock.sendall(frame(b"hello"))
        assert receive_frame(sock) == b"hello"
        server.signal(15)
        assert sock.recv(1) == b"", "the peer lingers: it has the server's end, and keeps its own open"
        assert ask(address, "/readyz") == (503, b"draining\n")
        sock.close()
        assert server.finish() == 0
        assert b"Traceback" not in server.err


def test_serve_admin_address_in_use_exits_3_and_names_the_option():
    """The line is about the second port, and not about the first."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_program("serve", "echo", "127.0.0.1:0", "--admin", address)
    assert done.returncode == 3
    assert done.stderr.startswith(b"evloop: --admin: "), done.stderr
    assert address.encode() in done.stderr
    assert done.stdout == b""


def test_serve_admin_on_every_interface_is_warned_of():
    """There is no password."""
    with serving("echo", "127.0.0.1:0", "--admin", "0.0.0.0:0") as server:
        server.wait_for("err", b"can be reached from the network, and there is no password")


def test_serve_without_admin_does_not_import_what_it_needs():
    """prometheus_client takes a tenth of a second, and its users are few."""
    source = "import sys, evloop.cli.serve; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], env=environment(), timeout=PATIENCE).returncode == 0
