"""A thousand clients at once, and thousands of rude ones: nothing lost, nothing left over, the counters add up."""

from __future__ import annotations

import json
import os
import random
import resource
import selectors
import socket
import threading
import time

import psutil
import pytest
from peers import PATIENCE, RST_ON_CLOSE, decode, encode, python, read_line, wait_until

import evloop
from evloop import BlockingClient

# Echoes; "stats" is answered with the server's counters, and "fds" by the process's number of descriptors.
SERVER = """
import json, os, evloop
def handler(conn, frame):
    if frame == b"stats":
        conn.send(json.dumps(server.stats()).encode())
    else:
        conn.send(frame)
reactor = evloop.Reactor()
limits = evloop.Limits(linger=0.2, flush_timeout=0.5, high_water=65536)
server = evloop.Server(reactor, handler, "127.0.0.1:0", limits=limits)
server.start()
print(server.address, flush=True)
reactor.run_forever()
"""


def stats_of(control):
    control.send(b"stats")
    return json.loads(control.recv())


class Caller:
    """One of many clients: sends its frames cut at random, and keeps what comes back."""

    def __init__(self, address, seed):
        self.dice = random.Random(seed)
        self.frames = [self.dice.randbytes(self.dice.choice([0, 1, 10, 200, 2000])) for _ in range(20)]
        self.out = encode(*self.frames)
        self.received = bytearray()
        self.eof = False
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect_ex((address.host, address.port))

    def ready(self, events):
        """Move a random piece; return what to wait for next."""
        if events & selectors.EVENT_WRITE and self.out:
            sent = self.sock.send(self.out[: self.dice.randint(1, 400)])
            self.out = self.out[sent:]
            if not self.out:
                self.sock.shutdown(socket.SHUT_WR)
        if events & selectors.EVENT_READ:
            data = self.sock.recv(65536)
            self.received += data
            self.eof = not data
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.out else 0)


@pytest.mark.slow
def test_stress_thousand_connections_with_random_cuts_are_all_echoed_in_order():
    """The promise of the library in one test: many peers, whole messages, in order, to the right one."""
    with python(SERVER) as process:
        address = evloop.parse_address(read_line(process))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
        callers = [Caller(address, seed) for seed in range(1000)]
        deadline = time.monotonic() + 6 * PATIENCE
        with selectors.DefaultSelector() as selector:
            for caller in callers:
                selector.register(caller.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, caller)
            while selector.get_map():
                assert time.monotonic() < deadline, f"{len(selector.get_map())} are not done"
                for key, events in selector.select(PATIENCE):
                    wanted = key.data.ready(events)
                    if key.data.eof:
                        selector.unregister(key.fileobj)
                    elif wanted != key.events:
                        selector.modify(key.fileobj, wanted, key.data)
        wrong = [i for i, caller in enumerate(callers) if decode(bytes(caller.received)) != caller.frames]
        for caller in callers:
            caller.sock.close()
        with BlockingClient(address, timeout=PATIENCE) as control:
            wait_until(lambda: stats_of(control)["connections"] == 1, process)
            stats = stats_of(control)
    assert wrong == []
    assert (stats["accepted"], stats["closed_peer"]) == (1001, 1000)


def rude(sock, dice):
    """Do one of the things that peers do to a server."""
    what = dice.randrange(10)
    frames = encode(*[dice.randbytes(dice.randrange(300)) for _ in range(dice.randrange(5))])
    if what == 0:
        pass  # connect and leave
    elif what == 1:
        sock.sendall(frames)
    elif what == 2:
        sock.sendall(frames + b"\0\0\0")
    elif what == 3:
        sock.sendall(frames + encode(b"x" * 50)[:-1])
    elif what == 4:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    elif what == 5:
        sock.sendall(dice.randbytes(1000))
    elif what == 6:
        sock.sendall(frames)
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(PATIENCE)
        while sock.recv(65536):
            pass
    elif what == 7:
        sock.sendall(encode(bytes(60_000)))  # and never read the answer
    elif what == 8:
        sock.sendall(frames)
        sock.send(b"!", socket.MSG_OOB)
    elif what == 9:
        sock.shutdown(socket.SHUT_WR)
    if dice.random() < 0.4:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)


def be_rude(address, count, seed, stop):
    dice = random.Random(seed)
    kept = []
    for _ in range(count):
        if stop.is_set():
            break
        sock = socket.create_connection((address.host, address.port), PATIENCE)
        try:
            rude(sock, dice)
        except OSError:
            pass  # the server has had enough of this one
        if dice.random() < 0.1:
            kept.append(sock)  # leave later, in another order
        else:
            sock.close()
        if len(kept) > 20:
            kept.pop(dice.randrange(20)).close()
    for sock in kept:
        sock.close()


@pytest.mark.slow
def test_stress_two_thousand_rude_connections_leave_nothing_behind():
    """Disconnects, resets, garbage and half frames: a witness is served throughout, and all is as before."""
    with python(SERVER) as process:
        address = evloop.parse_address(read_line(process))
        with BlockingClient(address, timeout=PATIENCE) as witness:
            witness.send(b"first")
            witness.expect(b"first")
            before = psutil.Process(process.pid).num_fds()
            stop = threading.Event()
            threads = [threading.Thread(target=be_rude, args=(address, 1000, seed, stop)) for seed in (1, 2)]
            for thread in threads:
                thread.start()
            try:
                asked = 0
                while any(thread.is_alive() for thread in threads):
                    asked += 1
                    witness.send(b"%d" % asked)
                    witness.expect(b"%d" % asked)
            finally:
                stop.set()
                for thread in threads:
                    thread.join(6 * PATIENCE)
            wait_until(lambda: stats_of(witness)["connections"] == 1, process)
            stats = stats_of(witness)
            fds = psutil.Process(process.pid).num_fds()
        process.kill()
        process.wait()
        log = process.stderr.read().decode()
    closed = {name: count for name, count in stats.items() if name.startswith("closed_")}
    assert stats["accepted"] == 2001
    assert sum(closed.values()) == 2000
    assert fds == before
    assert set(closed) <= {"closed_peer", "closed_reset", "closed_truncated", "closed_frame_too_large"}
    assert min(closed.get(name, 0) for name in ("closed_peer", "closed_truncated", "closed_frame_too_large")) > 50
    assert "Traceback" not in log
    assert log.count("conn.close") < 20


@pytest.mark.slow
def test_stress_witness_is_served_beside_stuck_and_flooding_clients():
    """Fifty who never read, ten who never pause, and one who only wants an answer, a hundred times."""
    with python(SERVER) as process:
        address = evloop.parse_address(read_line(process))
        stuck = [socket.create_connection((address.host, address.port)) for _ in range(50)]
        for sock in stuck:
            sock.setblocking(False)
            try:
                while True:
                    sock.send(encode(bytes(50_000)))
            except BlockingIOError:
                pass
        flood = [socket.create_connection((address.host, address.port)) for _ in range(10)]
        stop = threading.Event()

        def pour():
            data = encode(*[b"flood"] * 5000)
            with selectors.DefaultSelector() as selector:
                for sock in flood:
                    sock.setblocking(False)
                    selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
                while not stop.is_set():
                    for key, events in selector.select(0.1):
                        if events & selectors.EVENT_READ:
                            key.fileobj.recv(1 << 20)
                        if events & selectors.EVENT_WRITE:
                            key.fileobj.send(data)

        thread = threading.Thread(target=pour)
        thread.start()
        try:
            with BlockingClient(address, timeout=PATIENCE) as witness:
                for i in range(100):
                    witness.send(b"%d" % i)
                    witness.expect(b"%d" % i)
                assert stats_of(witness)["connections"] == 61
        finally:
            stop.set()
            thread.join(PATIENCE)
        for sock in stuck + flood:
            sock.close()
        with BlockingClient(address, timeout=PATIENCE) as control:
            wait_until(lambda: stats_of(control)["connections"] == 1, process)
        memory = psutil.Process(process.pid).memory_info().rss
    assert memory < 200 << 20


def test_stress_thousand_connections_in_one_process_leave_no_descriptor():
    """Open and close in one thread, both ends ours, and count."""
    before = len(os.listdir("/proc/self/fd"))
    with evloop.Reactor() as reactor:
        server = evloop.Server(reactor, lambda conn, frame: conn.send(frame), "127.0.0.1:0")
        server.start()
        ended = []

        class Once(evloop.Protocol):
            def connection_made(self, conn):
                self.conn = conn
                conn.send(b"hi")

            def frame_received(self, frame):
                self.conn.close()

            def connection_lost(self, exc):
                ended.append(self.conn.close_reason)

        for _ in range(10):
            for _ in range(100):
                evloop.connect(reactor, server.address, Once)
            target = len(ended) + 100
            assert reactor.run_until(
                lambda target=target: len(ended) == target and not server.connections,
                deadline=reactor.time() + 6 * PATIENCE,
            )
        assert set(ended) == {evloop.CloseReason.LOCAL}
        exchanged = {"frames_received": 1000, "frames_sent": 1000, "received_bytes": 6000, "sent_bytes": 6000}
        counted = {name: count for name, count in server.stats().items() if count}
        assert counted == {"accepted": 1000, "closed_peer": 1000, **exchanged}
        server.close()
    assert len(os.listdir("/proc/self/fd")) == before
