"""What a server promises as a process: signals, an exit that drains, and an end of its file descriptors survived."""

from __future__ import annotations

import resource
import select
import signal
import socket
import threading
import time

import psutil
import pytest
from peers import PATIENCE, encode, python, read_line, wait_until

import evloop
from evloop import BlockingClient

SERVE = """
import sys, evloop
def handler(conn, frame):
    if frame == b"big":
        for _ in range(8):
            conn.send(bytes(1 << 20))
    elif frame == b"exit":
        sys.exit(7)
    else:
        conn.send(frame.upper())
limits = evloop.Limits(drain_timeout=float(sys.argv[1]), linger=float(sys.argv[2]), flush_timeout=60)
evloop.serve(handler, "127.0.0.1:0", limits=limits, ready=lambda server: print(server.address, flush=True))
print("returned", flush=True)
"""


def client(address):
    return BlockingClient(address, timeout=PATIENCE)


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda sig: sig.name)
def test_serve_signal_drains_and_returns(sig):
    """What a supervisor does to a server, a hundred times a day: the answer on its way arrives, the exit code is 0."""
    with python(SERVE, 30, 30) as process:
        address = read_line(process)
        with client(address) as busy, client(address) as idle:
            idle.send(b"hi")
            idle.expect(b"HI")
            busy.send(b"big")
            assert busy.recv() == bytes(1 << 20)
            process.send_signal(sig)
            with pytest.raises(evloop.ConnectionClosed):
                idle.recv()
            assert [len(frame) for frame in busy] == [1 << 20] * 7
        assert process.wait(PATIENCE) == 0
        assert read_line(process) == "returned"
        assert process.stderr.read() == b""


@pytest.mark.slow
def test_serve_signal_without_connections_returns_at_once():
    """No drain time is waited for when there is nothing to drain."""
    with python(SERVE, 3600, 3600) as process:
        read_line(process)
        process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_serve_second_sigterm_is_as_one():
    """Supervisors repeat themselves; the drain goes on."""
    with python(SERVE, 30, 30) as process, client(read_line(process)) as busy:
        busy.send(b"big")
        busy.recv()
        process.terminate()
        process.terminate()
        assert [len(frame) for frame in busy] == [1 << 20] * 7
        process.terminate()
        busy.close()
        assert process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_serve_sigterm_repeated_does_not_prolong_the_drain():
    """One stuck client, and a supervisor that asks every 20 ms: the time limit is that of the first signal."""
    with python(SERVE, 0.5, 30) as process, client(read_line(process)) as stuck:
        stuck.send(b"big")
        stuck.recv()
        deadline = time.monotonic() + PATIENCE
        process.terminate()
        while not select.select([process.stderr], [], [], 0.02)[0]:
            assert time.monotonic() < deadline, "the drain does not end"
            process.terminate()
        assert process.wait(PATIENCE) == 0
        assert b"did not finish in time" in process.stderr.read()


@pytest.mark.slow
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda sig: sig.name)
def test_serve_second_sigint_raises_keyboard_interrupt_at_once(first):
    """Ctrl-C twice, or after a SIGTERM that seems to hang: a person is waiting."""
    with python(SERVE, 3600, 3600) as process, client(read_line(process)) as stuck:
        stuck.send(b"big")
        stuck.recv()
        process.send_signal(first)
        wait_until(lambda: refused(stuck.address))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == -signal.SIGINT
        assert b"KeyboardInterrupt" in process.stderr.read()


def refused(address):
    try:
        socket.create_connection((address.host, address.port)).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.slow
def test_serve_stuck_client_is_reset_after_the_drain_timeout():
    """One client that never reads cannot keep a process alive; it is still exit code 0."""
    with python(SERVE, 0.2, 30) as process, client(read_line(process)) as stuck:
        stuck.send(b"big")
        stuck.recv()
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert b"did not finish in time" in process.stderr.read()


@pytest.mark.slow
def test_serve_sys_exit_in_a_handler_ends_the_process_with_its_code():
    """Only SystemExit and KeyboardInterrupt leave the loop."""
    with python(SERVE, 30, 30) as process, client(read_line(process)) as last:
        last.send(b"exit")
        assert process.wait(PATIENCE) == 7


@pytest.mark.slow
def test_serve_interrupted_still_tells_each_protocol_its_end():
    """One connection_lost for each connection_made: a session table on disk depends on it."""
    source = """
import evloop
class Told(evloop.Protocol):
    def connection_made(self, conn):
        print("made", flush=True)
    def frame_received(self, frame):
        raise KeyboardInterrupt
    def connection_lost(self, exc):
        print("lost", flush=True)
try:
    evloop.serve(Told, "127.0.0.1:0", ready=lambda server: print(server.address, flush=True))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    with python(source) as process, client(read_line(process)) as peer:
        assert read_line(process) == "made"
        peer.send(b"x")
        assert sorted([read_line(process), read_line(process)]) == ["interrupted", "lost"]


@pytest.mark.slow
def test_serve_gives_the_signals_back():
    """A program that serves and goes on has its own handlers again."""
    source = """
import os, signal, evloop
def mine(*args): print("mine", flush=True)
signal.signal(signal.SIGTERM, mine)
evloop.serve(print, "127.0.0.1:0", ready=lambda server: os.kill(os.getpid(), signal.SIGTERM))
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
os.kill(os.getpid(), signal.SIGTERM)
"""
    with python(source) as process:
        assert read_line(process) == "mine"
        assert process.wait(PATIENCE) == 0


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["SIG_IGN", "mine"])
def test_serve_sighup_that_is_ignored_or_handled_is_left_alone(whose):
    """nohup(1) ignores it, so that the server outlives the terminal; an application reloads its configuration."""
    source = f"""
import signal, evloop
def mine(*args): print("mine", flush=True)
signal.signal(signal.SIGHUP, {"signal.SIG_IGN" if whose == "SIG_IGN" else "mine"})
evloop.serve(lambda conn, frame: conn.send(frame), "127.0.0.1:0",
             ready=lambda server: print(server.address, flush=True))
"""
    with python(source) as process, client(read_line(process)) as peer:
        process.send_signal(signal.SIGHUP)
        if whose == "mine":
            assert read_line(process) == "mine"
        peer.send(b"served")
        peer.expect(b"served")
        process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_serve_stopping_is_called_once_when_a_signal_ends_the_accepting():
    """What a service manager is told; the listener is closed by then, the connections are not."""
    source = """
import evloop
def stopping(server):
    print("stopping", server.closing, len(server.connections), flush=True)
evloop.serve(print, "127.0.0.1:0", limits=evloop.Limits(drain_timeout=3600, linger=3600), stopping=stopping,
             ready=lambda server: print(server.address, flush=True))
print("returned", flush=True)
"""
    with python(source) as process:
        address = read_line(process)
        with client(address):
            process.terminate()
            assert read_line(process) == "stopping True 1"
            process.terminate()
        assert read_line(process) == "returned"


def test_serve_outside_of_the_main_thread_serves_and_leaves_signals_alone():
    """A server inside of a test, or beside a GUI; it is ended with shutdown."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    ready, servers = threading.Event(), []
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)

    def handler(conn, frame):
        conn.send(frame)
        servers[0].shutdown(done=servers[0].reactor.stop)

    thread = threading.Thread(
        target=evloop.serve,
        args=(handler, "127.0.0.1:0"),
        kwargs={"ready": lambda server: (servers.append(server), ready.set())},
    )
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        with client(servers[0].address) as peer:
            peer.send(b"x")
            peer.expect(b"x")
    finally:
        thread.join(PATIENCE)
        resource.setrlimit(resource.RLIMIT_NOFILE, soft)
    assert not thread.is_alive()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_serve_ready_that_raises_closes_everything():
    """The program's own fault at start must not leave a listener behind; the fixture of all tests looks."""
    addresses = []

    def ready(server):
        addresses.append(server.address)
        raise LookupError("not ready")

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with pytest.raises(LookupError):
            evloop.serve(print, "127.0.0.1:0", ready=ready)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, soft)
    assert refused(addresses[0])


@pytest.mark.parametrize(
    ("args", "error"),
    [((None,), TypeError), ((5,), TypeError), ((print, "nonsense"), ValueError), ((print, "unix:/no/dir/s"), OSError)],
    ids=["none", "int", "address", "path"],
)
def test_serve_wrong_argument_raises_and_leaves_nothing_behind(args, error):
    """The same errors as Server's; the signals are untouched."""
    before = signal.getsignal(signal.SIGTERM)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with pytest.raises(error):
            evloop.serve(*args)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, soft)
    assert signal.getsignal(signal.SIGTERM) is before


# --- the end of file descriptors -------------------------------------------------------------------------------------

FEW = 48

EXHAUSTED = """
import resource, sys, evloop
import evloop.server
evloop.server.HEAD_ROOM = 0  # as if the application had taken all that was left for it
def handler(conn, frame):
    conn.send(frame)
    if frame == b"stop":
        server.shutdown(0.5, done=reactor.stop)
reactor = evloop.Reactor()
server = evloop.Server(reactor, handler, "127.0.0.1:0", limits=evloop.Limits(linger=0))
server.start()
print(server.address, flush=True)
reactor.run_forever()
reactor.close()
print("returned", flush=True)
"""


def exhausted_server():
    return python(EXHAUSTED, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW)))


def callers(address, count):
    return [socket.create_connection((address.host, address.port)) for _ in range(count)]


def answered(sock):
    sock.setblocking(False)
    try:
        return bool(sock.recv(100))
    except (BlockingIOError, ConnectionResetError):
        return False


def all_settled(crowd, served, turned_away):
    """Sort *crowd* into those who have an answer and those who have an end; tell whether that is all of them."""
    for sock in crowd:
        if sock not in served and sock not in turned_away:
            try:
                (served if sock.recv(100) else turned_away).add(sock)
            except BlockingIOError:
                pass
            except ConnectionResetError:
                turned_away.add(sock)
    return len(served) + len(turned_away) == len(crowd)


@pytest.mark.slow
def test_server_out_of_descriptors_rests_and_recovers():
    """EMFILE leaves the listener readable: whoever does not rest burns a core, and fills the log."""
    with exhausted_server() as process:
        address = evloop.parse_address(read_line(process))
        witness = client(address)
        witness.send(b"hi")
        witness.expect(b"hi")
        crowd = callers(address, FEW + 10)
        for sock in crowd:
            sock.sendall(encode(b"x"))
        served = set()

        def look():
            served.update(sock for sock in crowd if sock not in served and answered(sock))
            return len(served)

        wait_until(lambda: look() > 25, process)
        watched = psutil.Process(process.pid)
        wait_until(lambda: watched.num_fds() == FEW, process)
        before, ticks = watched.cpu_times(), watched.num_ctx_switches().voluntary
        for i in range(50):
            witness.send(b"%d" % i)
            witness.expect(b"%d" % i)
        with pytest.raises(TimeoutError):
            witness.recv(timeout=1.0)  # a second of rest
        after = watched.cpu_times()
        assert after.user + after.system - before.user - before.system <= 0.2
        assert watched.num_ctx_switches().voluntary - ticks < 150
        refused = set()
        wait_until(lambda: all_settled(crowd, served, refused), process)
        assert refused
        for sock in crowd:
            sock.close()
        crowd, served = callers(address, 20), set()
        for sock in crowd:
            sock.sendall(encode(b"x"))
        wait_until(lambda: look() == len(crowd), process)
        for sock in crowd:
            sock.close()
        witness.send(b"stop")
        witness.expect(b"stop")
        witness.close()
        assert process.wait(PATIENCE) == 0
        log = process.stderr.read().decode()
        assert log.count("cannot accept") == log.count("no file descriptor is left") == 1
        assert "Traceback" not in log


@pytest.mark.slow
def test_server_out_of_descriptors_can_be_shut_down():
    """The moment at which an operator restarts a server is often this one."""
    with exhausted_server() as process:
        address = evloop.parse_address(read_line(process))
        witness = client(address)
        crowd = callers(address, FEW)
        wait_until(lambda: psutil.Process(process.pid).num_fds() == FEW, process)
        witness.send(b"before")
        witness.expect(b"before")
        witness.send(b"stop")
        witness.expect(b"stop")
        witness.close()
        for sock in crowd:
            sock.close()
        assert process.wait(PATIENCE) == 0
        log = process.stderr.read().decode()
        assert "Traceback" not in log


@pytest.mark.slow
def test_server_max_connections_is_cut_to_the_descriptors_there_are():
    """A limit that cannot be kept is told at the start, and refusing in good time is cheaper than EMFILE."""
    source = """
import evloop
reactor = evloop.Reactor()
server = evloop.Server(reactor, print, "127.0.0.1:0", limits=evloop.Limits(max_connections=5000))
server.start()
print(server._max_connections, flush=True)
"""
    with python(source, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))) as process:
        assert read_line(process) == "36"
        assert b"max_connections=5000 is cut to 36" in process.stderr.readline()


@pytest.mark.slow
def test_serve_raises_the_soft_limit_of_descriptors():
    """1024 is select()'s number, not ours."""
    source = """
import os, resource, signal, evloop
evloop.serve(print, "127.0.0.1:0", ready=lambda server: os.kill(os.getpid(), signal.SIGTERM))
print(*resource.getrlimit(resource.RLIMIT_NOFILE), flush=True)
"""
    with python(source, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))) as process:
        assert read_line(process) == "512 512"


@pytest.mark.slow
def test_serve_children_do_not_inherit_the_sockets():
    """A spawned program that keeps a copy would keep the peer waiting for an end that has come."""
    source = """
import subprocess, sys, evloop
children = []
def handler(conn, frame):
    children.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False))
    conn.send(b"spawned")
    conn.close()
evloop.serve(handler, "127.0.0.1:0", limits=evloop.Limits(linger=0),
             ready=lambda server: print(server.address, flush=True))
for child in children:
    child.communicate(b"\\n")
"""
    with python(source) as process, client(read_line(process)) as peer:
        peer.send(b"x")
        peer.expect(b"spawned")
        with pytest.raises(evloop.ConnectionClosed):
            peer.recv()
        process.terminate()
        assert process.wait(PATIENCE) == 0
