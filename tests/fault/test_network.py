"""Faults of the network: slow lines, peers that vanish without a packet, an operator who kills connections.

Each test runs in a network of its own (user_namespaces(7)), whose addresses and queues are its to break.  netem is not
in every kernel, so a line is made slow by tbf and a peer vanishes by TCP_REPAIR: its socket is closed without a packet,
and its address is gone before the server could be told by a reset.
"""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import time

import pytest
from programs import frame, receive, receive_frame
from scene import WORST, Scene, ending, in_namespace, more_files, needs, until
from test_writing import last_words

pytestmark = [pytest.mark.fault, pytest.mark.slow, needs("unshare", "ip", "ss", "tc")]

TCP_REPAIR = 19
ELSEWHERE = "198.51.100.7"  # an address of the documentation's (RFC 5737): the peers that are to vanish
KEEPALIVE = {"keepalive": 1, "keepalive_interval": 1, "keepalive_count": 2}
MARGIN = 3.0  # seconds: the kernel's timers back off, and are rounded up


def run(command):
    """Run a command of iproute2."""
    subprocess.run(command.split(), check=True, capture_output=True)


@contextlib.contextmanager
def distant(scene):
    """Yield a connection from an address that is not the server's, echoed once."""
    run(f"ip address add {ELSEWHERE}/32 dev lo")
    # Once the address is gone, what is sent to it goes into a cable whose other end nobody looks at.
    run("ip link add hole type veth peer name nobody")
    run("ip link set hole up")
    run("ip link set nobody up")
    run(f"ip neighbour add {ELSEWHERE} lladdr 02:00:00:00:00:01 dev hole nud permanent")
    run("ip route add default dev hole src 127.0.0.1")
    peer = scene.connect(source=ELSEWHERE)
    assert scene.talk(b"hello", peer) == b"hello"
    yield peer


def vanish(peer):
    """Take the peer from the network: not a packet tells the server."""
    peer.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    peer.close()
    run(f"ip address del {ELSEWHERE}/32 dev lo")


def test_network_slow_line_delivers_last_words_to_a_peer_that_is_sending(twin, request):
    """Catalogue 38.  At 10 Mbit/s the peer is still sending for a second when the server has long said all it will."""
    if in_namespace(request):
        with Scene(twin, worst=None) as scene:
            run("tc qdisc add dev lo root tbf rate 10mbit burst 64k latency 1s")
            for _ in range(5):
                last_words(scene.connect())
            run("tc qdisc del dev lo root")


def test_network_idle_peer_that_vanishes_is_found_by_keepalive(twin, request):
    """Catalogue 39.  No packet comes and none is due: only a question finds out."""
    if in_namespace(request):
        with Scene(twin, limits=KEEPALIVE) as scene, distant(scene) as peer:
            began = time.monotonic()
            vanish(peer)
            until(lambda: scene.closed("reset") == 1)
            assert 0.9 < time.monotonic() - began < 3 + MARGIN


def test_network_peer_that_vanishes_with_an_answer_under_way_is_found_by_the_user_timeout(twin, request):
    """Catalogue 40.  While output is not acknowledged keepalive does not ask, and TCP tries for 15 minutes."""
    if in_namespace(request):
        with Scene(twin, limits={**KEEPALIVE, "user_timeout": 2.0}) as scene, distant(scene) as peer:
            with scene.stopped():
                peer.sendall(frame(b"answer me"))
                vanish(peer)
                began = time.monotonic()
            until(lambda: scene.closed("reset") == 1)
            assert 0.9 < time.monotonic() - began < 2 + MARGIN


def test_network_slow_peer_that_is_alive_is_kept(twin, request):
    """Catalogue 41.  A window of zero is no death: it is within the write timeout that its patience is measured."""
    if in_namespace(request):
        with Scene(twin, limits={**KEEPALIVE, "write_timeout": 30.0, "user_timeout": 31.0}) as scene:
            slow = scene.connect(rcvbuf=4096)
            slow.sendall(frame(b"order: big 8"))
            select.select([], [], [], 5.0)  # well beyond what keepalive would have taken
            assert scene.stats()["connections"] == 2
            for _ in range(8):
                assert len(receive(slow, 4 + (1 << 20))) == 4 + (1 << 20)


def test_network_operator_who_kills_connections_ends_those_alone(twin, request):
    """Catalogue 42.  ``ss -K`` on half of a thousand: each ends once, and the others do not notice."""
    if in_namespace(request):
        more_files()
        with Scene(twin) as scene:
            killed = [scene.connect(source="127.0.0.2") for _ in range(500)]
            spared = [scene.connect(source="127.0.0.3") for _ in range(500)]
            for sock in killed + spared:
                sock.sendall(frame(b"in"))
            assert [receive_frame(sock) for sock in killed + spared] == [b"in"] * 1000
            run("ss -K dst 127.0.0.2")
            until(lambda: scene.closed("reset") == 500)
            assert [ending(sock) for sock in killed] == ["reset"] * 500
            began = time.monotonic()
            for sock in spared:
                sock.sendall(frame(b"unharmed"))
            assert [receive_frame(sock) for sock in spared] == [b"unharmed"] * 500
            assert time.monotonic() - began < WORST
            assert scene.stats()["connections"] == 501
