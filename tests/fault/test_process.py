"""Faults that strike the process: signals at every moment, a stuck client at the end, a wall clock that jumps."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from programs import Program, environment, frame, receive_frame
from scene import PATIENCE, WORST, Scene, ending, until

pytestmark = pytest.mark.fault

# Seconds.  An end that waits for nothing takes milliseconds; one that waits for the drain takes DRAIN.
DRAIN = 3.0


def ended_within(scene, seconds, code):
    """Wait for the end of the process; check its code and that it took no longer."""
    began = time.monotonic()
    assert scene.process.wait(PATIENCE) == code, scene.log()
    assert time.monotonic() - began < seconds


@contextlib.contextmanager
def ending_scene(twin, **limits):
    """A scene without a witness whose test ends the server itself."""
    with Scene(twin, worst=None, limits={"drain_timeout": DRAIN, **limits}) as scene:
        yield scene
        assert scene.process.poll() is not None
        scene._check = lambda: None


def test_sigterm_when_idle_ends_at_once(twin):
    """Catalogue 59.  Nothing to wait for."""
    with ending_scene(twin) as scene:
        scene.send_signal(signal.SIGTERM)
        ended_within(scene, WORST, 0)
        assert scene.log() == ""


def test_sigterm_with_a_hundred_asking_answers_each_and_ends(twin):
    """Catalogue 59.  What was asked before the signal is answered, and each connection ends with a FIN."""
    with ending_scene(twin) as scene:
        crowd = [scene.connect() for _ in range(100)]
        assert [scene.talk(b"in", sock) for sock in crowd] == [b"in"] * 100
        for sock in crowd:
            sock.sendall(frame(b"order: big 1"))
        for sock in crowd:
            assert sock.recv(1, socket.MSG_PEEK)
        scene.send_signal(signal.SIGTERM)
        assert [receive_frame(sock) for sock in crowd] == [bytes(1 << 20)] * 100
        assert [ending(sock) for sock in crowd] == ["eof"] * 100
        for sock in crowd:
            sock.close()
        ended_within(scene, WORST, 0)
        assert scene.log() == ""


def test_sigterm_with_a_stuck_client_ends_at_the_drain_limit(twin):
    """Catalogue 59.  A client that never reads cannot hold the process; it is reset, and that is said."""
    with ending_scene(twin, drain_timeout=1.0, flush_timeout=30.0) as scene:
        stuck = scene.connect(rcvbuf=4096)
        stuck.sendall(frame(b"order: big 24"))
        assert stuck.recv(1)
        began = time.monotonic()
        scene.send_signal(signal.SIGTERM)
        ended_within(scene, 1.0 + WORST, 0)
        assert time.monotonic() - began > 0.9
        assert "1 connections did not finish in time and are reset" in scene.log()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM], ids=lambda sig: sig.name)
def test_second_sigint_ends_at_once(twin, first):
    """Catalogue 60.  A person at a terminal is waiting."""
    with ending_scene(twin, drain_timeout=60.0, flush_timeout=60.0) as scene:
        stuck = scene.connect(rcvbuf=4096)
        stuck.sendall(frame(b"order: big 24"))
        assert stuck.recv(1)
        scene.send_signal(first)
        until(lambda: refuses(scene))
        scene.send_signal(signal.SIGINT)
        ended_within(scene, WORST, -signal.SIGINT)
        assert "KeyboardInterrupt" in scene.log()


def refuses(scene):
    """Tell whether nobody can connect any more."""
    try:
        scene.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_second_sigint_of_the_command_ends_with_130():
    """Catalogue 60.  As a shell expects of a program that Ctrl-C has ended."""
    with Program("serve", "echo", "127.0.0.1:0") as server:
        server.wait_for("out", b"LISTENING")
        server.wait_for("err", b"stop it")
        host, _, port = server.out.decode().split()[2].rpartition(":")
        with socket.create_connection((host, int(port))) as stuck:
            stuck.sendall(frame(b"x"))
            assert receive_frame(stuck) == b"x"
            server.signal(signal.SIGINT)
            until(lambda: connect_fails(host, int(port)))
            server.signal(signal.SIGINT)
            assert server.finish() == 130
            assert b"Traceback" not in server.err


def connect_fails(host, port):
    """Tell whether nobody can connect there."""
    try:
        socket.create_connection((host, port)).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.slow
def test_sigterm_at_any_moment_of_the_start_is_not_lost():
    """Catalogue 61.  A supervisor changes its mind: before Python runs, while it imports, while it binds.

    Until the server has its handlers the signal kills, as it kills any program; after that the end is orderly.
    """
    ends = []
    for step in range(25):
        with subprocess.Popen(
            [sys.executable, "-m", "evloop", "serve", "echo", "127.0.0.1:0"],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            select.select([process.stdout], [], [], 0.02 * step if step < 24 else PATIENCE)
            process.terminate()
            _, err = process.communicate(timeout=PATIENCE)
            ends.append(process.returncode)
            assert b"Traceback" not in err, err.decode()
    assert set(ends) <= {0, -signal.SIGTERM}
    assert ends[-1] == 0


def test_signals_by_the_thousand_lose_neither_answers_nor_the_end(twin):
    """Catalogue 61.  A thousand signals a second, and then the one that counts."""
    with Scene(twin) as scene:
        stop = threading.Event()

        def pester():
            while not stop.is_set():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(scene.pid, signal.SIGWINCH)
                    os.kill(scene.pid, signal.SIGCHLD)
                select.select([], [], [], 0.001)

        thread = threading.Thread(target=pester)
        thread.start()
        try:
            count = scene.witness.count
            until(lambda: scene.witness.count > count + 200)
            for _ in range(50):
                assert scene.ask()["tally"]["lost"] == 0
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("hours", [1, -1])
def test_wall_clock_that_jumps_moves_no_timer(twin, tmp_path, hours):
    """Catalogue 26.  An operator sets the clock, or NTP does: whoever counts by it closes everybody, or nobody.

    A library loaded before libc's moves the wall clock, as soon as a file is there.
    """
    library, jumped = preloaded(tmp_path, hours)
    env = {"LD_PRELOAD": library}
    with Scene(twin, env=env, limits={"idle_timeout": 1.5}) as scene:
        quiet = scene.connect()
        assert scene.talk(b"hello", quiet) == b"hello"
        began, wall = time.monotonic(), scene.ask()["wall"]
        jumped.touch()
        moved = scene.ask()["wall"] - wall
        assert abs(moved - 3600 * hours) < 60, "the wall clock has not been moved"
        assert scene.talk(b"still here", quiet) == b"still here"
        assert ending(quiet) == "eof"
        assert 1.0 < time.monotonic() - began < 1.5 + 2 * WORST
        until(lambda: scene.closed("idle") == 1)


WALL_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (!result && clock == CLOCK_REALTIME && !access(JUMPED, F_OK)) now->tv_sec += HOURS * 3600;
    return result;
}
"""


def preloaded(tmp_path, hours):
    """Return the path of a library that moves the wall clock once a file exists, and that file's."""
    library, jumped = tmp_path / "wall.so", tmp_path / "jumped"
    subprocess.run(
        ["cc", "-shared", "-fPIC", f'-DJUMPED="{jumped}"', f"-DHOURS={hours}", "-o", library, "-x", "c", "-"],
        input=WALL_CLOCK.encode(),
        check=True,
    )
    return str(library), jumped
