"""Faults while answers are written: peers that stop to read, read too little, leave, or close half."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import subprocess
import time

import pytest
from programs import frame, receive, receive_frame, rest_of
from scene import IDLE_TURNS, Scene, ending, exchange, more_files, needs, reset, until

pytestmark = pytest.mark.fault

MIB = frame(bytes(1 << 20))
MARKS = {"high_water": 65536, "low_water": 16384}


def stuff(sock, payload, at_most=1 << 30):
    """Send frames and read nothing, until nothing is taken for a while; return the bytes that were sent."""
    data, sent = memoryview(frame(payload) * 64), 0
    sock.setblocking(False)
    while sent < at_most and select.select([], [sock], [], 0.3)[1]:
        sent += sock.send(data[sent % len(data) :])
    return sent


def complete(sock, payload, sent):
    """Send what *stuff* has left of a frame and then FIN, and read all the answers; return how many bytes those are."""
    size = len(frame(payload))
    rest = frame(payload)[sent % size :] if sent % size else b""
    answers = exchange(sock, rest)
    assert answers == frame(payload) * (len(answers) // size)
    return len(answers) - sent - len(rest)


def test_write_to_a_stopped_reader_stops_reading_it_and_loses_nothing(twin):
    """Catalogue 28.  Whoever takes no answers gets no more questions read: the memory stays, and so do the bytes.

    The peer does not read, which is all that the server's kernel can know of a stopped one.
    """
    with Scene(twin, limits=MARKS) as scene:
        before = scene.os_process.memory_info().rss
        stuck = scene.connect()
        payload = bytes(range(256)) * 40
        sent = stuff(stuck, payload)
        assert sent > 1 << 20
        with scene.witness.resting():
            assert scene.idle_turns() <= IDLE_TURNS
        assert scene.stats()["buffered_bytes"] < 4 * MARKS["high_water"] + (1 << 18)
        assert scene.os_process.memory_info().rss - before < 4 << 20
        assert complete(stuck, payload, sent) == 0


@pytest.mark.slow
def test_write_to_a_stopped_reader_ends_at_the_write_timeout(twin):
    """Catalogue 28.  Patience has a bound, for the descriptor's sake."""
    with Scene(twin, limits={**MARKS, "write_timeout": 1.0}) as scene:
        scene.expect(r"reason=write_timeout: ")
        stuck = scene.connect()
        stuff(stuck, bytes(10_000))
        until(lambda: scene.closed("write_timeout") == 1, patience=5)
        assert scene.stats()["slow_consumers"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", ["under", "over", "silent"])
def test_write_above_the_soft_limit_ends_after_its_time_and_not_before(twin, case):
    """Catalogue 30.  Redis' three: below for a moment in time is kept, above is not, not even without any traffic."""
    limits = {"high_water": 4 << 20, "low_water": 1 << 20, "soft_output": 1 << 20, "soft_output_timeout": 1.0}
    with Scene(twin, limits=limits) as scene:
        slow = scene.connect()
        slow.sendall(frame(b"order: big 24"))  # MiB: more than the kernel holds for both ends
        began = time.monotonic()
        if case == "under":
            select.select([], [], [], 0.3)
            assert receive(slow, 24 * len(MIB)) == 24 * MIB
            select.select([], [], [], 1.0)
            assert scene.talk(b"kept", slow) == b"kept"
            return
        scene.expect(r"reason=slow_consumer: ")
        while scene.closed("slow_consumer") == 0:
            assert time.monotonic() < began + 5
            if case == "over":
                with contextlib.suppress(ConnectionResetError):
                    slow.recv(1000)
            select.select([], [], [], 0.05)
        assert time.monotonic() > began + 0.9


def kernel_memory(scene):
    """Return the bytes that the kernel holds as unsent or unacknowledged output of the server, by ss(8)."""
    port = scene.address.port
    command = ["ss", "-tmnH", "state", "established", f"( sport = :{port} )"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(map(int, re.findall(r"skmem:\(r\d+,rb\d+,t\d+,tb\d+,f\d+,w(\d+),", listing)))


@needs("ss")
@pytest.mark.slow
def test_write_to_many_stopped_readers_leaves_little_in_the_kernel(twin):
    """Catalogue 31.  A stalled reader pins up to 4 MB of kernel memory that no RSS shows; TCP_NOTSENT_LOWAT bounds it.

    The control, twenty without it, is what shows that the bound is not something else's.
    """
    more_files()
    each = {}
    for count, lowat in ((20, 0), (500, 131072)):
        with Scene(twin, limits={"notsent_lowat": lowat}) as scene:
            stuck = [scene.connect(rcvbuf=4096) for _ in range(count)]
            for sock in stuck:
                sock.sendall(frame(b"order: big %d" % (6 if count == 20 else 1)))
            until(lambda count=count, scene=scene: scene.ask()["tally"]["made"] == count + 1)
            assert scene.talk() == b"are you there?"
            each[lowat] = kernel_memory(scene) / count
    assert each[131072] < 0.25 * (1 << 20)
    assert each[0] > 4 * each[131072]


@pytest.mark.slow
def test_write_to_a_reader_of_single_bytes_is_the_same_stream(twin):
    """Catalogue 32.  The smallest window there is: partial sends of every size."""
    with Scene(twin, limits={"high_water": 1000, "low_water": 100}) as scene:
        slow = scene.connect(rcvbuf=1, sndbuf=1)
        frames = [b"%d" % i * 100 for i in range(300)]
        stream = memoryview(b"".join(map(frame, frames)))
        expected, answers = bytes(stream), bytearray()
        slow.setblocking(False)
        while len(answers) < len(expected):
            readable, writable, _ = select.select([slow], [slow] if stream else [], [], 10)
            assert readable or writable, len(answers)
            if writable:
                stream = stream[slow.send(stream[:4096]) :]
            for _ in range(100 if readable else 0):
                try:
                    answers += slow.recv(1)
                except BlockingIOError:
                    break
        assert bytes(answers) == expected


def test_write_queue_of_a_reset_peer_is_freed_and_ends_once(twin):
    """Catalogue 34.  A megabyte and more is queued when the RST comes: no EPIPE in the log, no memory kept."""
    with Scene(twin) as scene:
        for _ in range(10):
            gone = scene.connect(rcvbuf=4096)
            gone.sendall(frame(b"order: big 24"))
            receive(gone, 1000)
            reset(gone)
        until(lambda: scene.closed("reset") == 10)
        before = scene.os_process.memory_info().rss
        assert scene.stats()["buffered_bytes"] == 0
        assert before < 200 << 20


@pytest.mark.parametrize("how", ["reset", "fin"])
def test_write_side_paused_peer_that_leaves_does_not_spin(twin, how):
    """Catalogue 35 and 36.  epoll reports ERR and HUP unasked, again and again: a paused connection must not spin.

    It is noticed when it resumes (or by a timeout), as documented: there is nothing to be done for it before.
    """
    with Scene(twin) as scene:
        crowd = [scene.connect() for _ in range(100)]
        for sock in crowd:
            sock.sendall(frame(b"order: pause 1.0") + frame(b"later"))
        until(lambda: scene.stats()["reads_paused"] == 100)
        for sock in crowd:
            reset(sock) if how == "reset" else sock.shutdown(socket.SHUT_WR)
        with scene.witness.resting():
            assert scene.idle_turns() <= IDLE_TURNS + 10
        if how == "fin":
            assert [receive_frame(sock) for sock in crowd] == [b"later"] * 100
            assert [ending(sock) for sock in crowd] == ["eof"] * 100
        until(lambda: scene.closed("reset") + scene.closed("peer") == 100)


def test_write_after_a_half_close_delivers_everything_and_then_ends(twin):
    """Catalogue 37.  printf | nc -N: ten MiB, FIN, and only then does the client read."""
    with Scene(twin) as scene:
        stream = frame(bytes(range(256)) * 256) * 160
        assert exchange(scene.connect(), stream) == stream
        until(lambda: scene.closed("peer") == 1)


def test_write_of_last_words_reaches_a_peer_that_is_still_sending(twin):
    """Catalogue 38.  close() with unread input sends RST, which overtakes the answer; so it discards first.

    A hundred times, on the loopback; test_network.py has it over a slow line.
    """
    with Scene(twin) as scene:
        for _ in range(100):
            last_words(scene.connect())


def last_words(peer, payload=bytes(1 << 20)):
    """Have the server say its last words while a MiB is on its way to it."""
    peer.setblocking(False)
    out = memoryview(frame(b"order: last you are wrong") + frame(payload))
    heard = b""
    want = frame(b"you are wrong")
    while len(heard) < len(want):
        readable, writable, _ = select.select([peer], [peer] if out else [], [], 10)
        assert readable or writable
        if readable:
            more = peer.recv(1000)
            assert more, f"the end came after {heard!r}"
            heard += more
        elif writable:
            try:
                out = out[peer.send(out[:65536]) :]
            except (BrokenPipeError, ConnectionResetError):
                out = None  # the server has discarded enough of it; what it said before is here
    assert heard == want
    peer.close()


def test_write_limit_of_a_connection_ends_it_at_once(twin):
    """What catalogue 29 has a chat do: the hard limit, and the witness does not notice."""
    with Scene(twin, limits={"max_output": 1 << 20, "high_water": 1 << 20}) as scene:
        scene.expect(r"reason=slow_consumer: ")
        slow = scene.connect(rcvbuf=4096)
        slow.sendall(frame(b"order: big 24"))
        until(lambda: scene.closed("slow_consumer") == 1)
        assert len(rest_of(slow)) < 24 * len(MIB)
