"""Servers under pytest-benchmark, both twins side by side: echo round trips, accepting, fan-out.

The client is Python, and a part of every figure: this is for a change of the code before and after, not for a
comparison with others, which ``evloop bench peers`` and ``fanout`` are for.
"""

import socket
import struct

import pytest
from servers import connected, receive, served

TWINS = ["cython", "python"]
FRAME = struct.pack(">I", 64) + bytes(64)
TRIPS = 100
SUBSCRIBERS = 100


@pytest.fixture(params=TWINS)
def echo(request):
    """The address of an echo server with a function, of either twin."""
    with served("evloop_function.py", request.param) as address:
        yield address


@pytest.mark.benchmark(group="echo, 100 round trips of 64 B")
def test_echo_round_trips(benchmark, echo):
    """Ping-pong on one connection: latency, and nothing to batch."""
    with connected(echo) as [sock]:

        def trips():
            for _ in range(TRIPS):
                sock.sendall(FRAME)
                receive(sock, len(FRAME))

        benchmark(trips)


@pytest.mark.benchmark(group="echo, 1,000 frames of 64 B at once")
def test_echo_pipelined(benchmark, echo):
    """What a batch costs: here the server's time is most of it."""
    many = FRAME * 1000
    with connected(echo) as [sock]:

        def trip():
            sock.sendall(many)
            receive(sock, len(many))

        benchmark(trip)


@pytest.mark.benchmark(group="echo, 1 MiB there and back")
def test_echo_large(benchmark, echo):
    """Copies, and the reads and writes of a frame that no buffer holds."""
    message = struct.pack(">I", 1 << 20) + bytes(1 << 20)
    with connected(echo) as [sock]:

        def trip():
            sock.sendall(message)  # the server answers when it has all of it
            receive(sock, len(message))

        benchmark(trip)


@pytest.mark.benchmark(group="accept, 50 connections with a frame each")
def test_accept(benchmark, echo):
    """Connect, one frame there and back, reset: churn, and no TIME_WAIT left behind."""

    def churn():
        for _ in range(50):
            with socket.create_connection(echo) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.sendall(FRAME)
                receive(sock, len(FRAME))

    benchmark(churn)


@pytest.fixture(params=TWINS)
def group(request):
    """The address of a server that sends each frame to all who subscribed."""
    with served("evloop_group.py", request.param) as address:
        yield address


@pytest.mark.benchmark(group="fan-out, 32 frames of 64 B to 100")
def test_fan_out(benchmark, group):
    """What a room costs: a frame in, a hundred out, thirty-two of them at once."""
    with connected(group, SUBSCRIBERS + 1) as [publisher, *subscribers]:
        for sock in subscribers:
            sock.sendall(bytes(4))  # an empty frame subscribes, and is answered with one
        for sock in subscribers:
            receive(sock, 4)

        def broadcast():
            publisher.sendall(FRAME * 32)
            for sock in subscribers:
                receive(sock, 32 * len(FRAME))

        benchmark(broadcast)
