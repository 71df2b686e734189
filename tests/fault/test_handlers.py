"""Faults that an application commits: it raises, closes at the wrong moment, spawns, forks, arms too many timers."""

from __future__ import annotations

import select
import signal
import time

import pytest
from programs import frame, receive_frame
from scene import WORST, Scene, ending, reset, until

pytestmark = pytest.mark.fault


@pytest.mark.parametrize("name", ["ValueError", "MemoryError", "RecursionError", "GeneratorExit", "BaseException"])
def test_handler_that_raises_ends_its_own_connection(twin, name):
    """Catalogue 22.  Anything but an exit is that connection's fault: reason "handler", one traceback, nobody else."""
    with Scene(twin) as scene:
        scene.expect(f"reason=handler: .*|^{name}: ", r"^Traceback|^  |^    ")
        for _ in range(3):
            bad, good = scene.connect(), scene.connect()
            bad.sendall(frame(b"before") + frame(b"order: raise %s" % name.encode()) + frame(b"after"))
            assert receive_frame(bad) == b"before"
            assert ending(bad) in ("eof", "reset")
            assert scene.talk(b"unharmed", good) == b"unharmed"
        until(lambda: scene.closed("handler") == 3)
        assert scene.log().count("Traceback") == 1  # one of a kind in ten seconds


@pytest.mark.parametrize(("name", "code"), [("SystemExit", 1), ("KeyboardInterrupt", -signal.SIGINT)])
def test_handler_that_exits_ends_the_server_and_tells_each_connection(twin, name, code):
    """Catalogue 22.  SystemExit and KeyboardInterrupt are how Python ends a program, wherever they are raised."""
    scene = Scene(twin, worst=None)
    with scene:
        others = [scene.connect() for _ in range(5)]
        assert [scene.talk(b"in", sock) for sock in others] == [b"in"] * 5
        scene.connect().sendall(frame(b"order: raise %s" % name.encode()))
        assert [ending(sock) for sock in others] == ["reset"] * 5
        assert scene.process.wait(20) == code
        scene._check = lambda: None  # there is no server any more to be checked


def test_handlers_that_raise_do_not_slow_those_that_do_not(twin):
    """Catalogue 22.  A hundred raise, a hundred do not."""
    with Scene(twin) as scene:
        scene.expect(r"reason=handler: |^ValueError", r"^Traceback|^  |^    ")
        good = [scene.connect() for _ in range(100)]
        for sock in good:
            scene.connect().sendall(frame(b"order: raise ValueError"))
            sock.sendall(frame(b"unharmed"))
        assert [receive_frame(sock) for sock in good] == [b"unharmed"] * 100
        until(lambda: scene.closed("handler") == 100)


def test_handler_that_closes_twice_and_sends_after_it_does_no_harm(twin):
    """Catalogue 23.  The peer may end a connection at any moment, so sending on a closed one is nobody's error."""
    with Scene(twin) as scene:
        for order in (b"close-twice", b"abort-twice"):
            peer = scene.connect()
            peer.sendall(frame(b"order: " + order) + frame(b"ignored"))
            if order == b"close-twice":
                assert receive_frame(peer) == b"closing"
            assert ending(peer) == ("eof" if order == b"close-twice" else "reset")
        until(lambda: scene.closed("local") == scene.closed("aborted") == 1)


def test_handler_that_closes_others_and_all_closes_each_once(twin):
    """Catalogue 23.  Inside of a callback, while the others have frames waiting in the same batch of events."""
    with Scene(twin, worst=None) as scene:
        for order, left in ((b"close-others", 1), (b"close-all", 0)):
            crowd = [scene.connect() for _ in range(10)]
            assert [scene.talk(b"in", sock) for sock in crowd] == [b"in"] * 10
            with scene.stopped():
                for sock in crowd[5:] + crowd[:5]:
                    sock.sendall(frame(b"order: " + order if sock is crowd[0] else b"waiting"))
            until(lambda left=left: scene.ask()["tally"]["made"] - scene.ask()["tally"]["lost"] == left)
            for sock in crowd[:left]:
                assert scene.talk(b"left", sock) == b"left"
                sock.close()
            until(lambda: scene.stats()["connections"] == 0)


def test_handler_that_closes_the_listener_serves_on(twin):
    """Catalogue 23.  From the callback of a connection whose neighbours are queued: those have been told yes."""
    scene = Scene(twin)
    with scene:
        first = scene.connect()
        assert scene.talk(b"in", first) == b"in"
        with scene.stopped():
            first.sendall(frame(b"order: close-listener"))
            queued = [scene.connect() for _ in range(10)]
        assert receive_frame(first) == b"closed"
        assert [scene.talk(b"served", sock) for sock in queued] == [b"served"] * 10
        with pytest.raises(ConnectionRefusedError):
            scene.connect()
        assert scene.talk(b"and on", first) == b"and on"
        with scene.witness.resting():
            fds = scene.ask()["fds"]
        assert fds == scene.at_first["fds"] + len(queued) + 1 - LISTENER_AND_SPARE
        scene.witness.stop()
        scene.end()
        scene._check = lambda: None  # nobody can connect any more to ask for the rest


LISTENER_AND_SPARE = 2


@pytest.mark.slow
def test_handler_with_twenty_thousand_timers_due_at_once_serves_in_between(twin):
    """Catalogue 27.  All run in one turn, and the next one is for those whose data is waiting."""
    with Scene(twin) as scene:
        busy = scene.connect()
        busy.sendall(frame(b"order: timers 20000 0.5"))
        began, count = time.monotonic(), scene.witness.count
        assert receive_frame(busy) == b"fired"
        assert time.monotonic() - began < 0.5 + WORST
        until(lambda: scene.witness.count > count + 10)
        assert scene.ask()["reactor"]["timers"] <= 1


def test_handler_that_closes_another_whose_descriptor_is_reused_in_the_same_batch_spares_the_new_one(twin):
    """Catalogue 43.  A aborts B, C is accepted and gets B's number, and then B's events come: they are not C's."""
    with Scene(twin) as scene:
        for _ in range(100):
            a, b = scene.connect(), scene.connect()
            assert scene.talk(b"a", a) == b"a"
            assert scene.talk(b"b", b) == b"b"
            with scene.stopped():
                a.sendall(frame(b"order: abort-at 2"))  # the witness came first, then a, then b
                c = scene.connect()
                b.sendall(frame(b"too late"))
                reset(b)
            assert scene.talk(b"unharmed", c) == b"unharmed"
            assert scene.talk(b"as well", a) == b"as well"
            a.close()
            c.close()
            until(lambda: scene.stats()["connections"] == 1)
        stats = scene.stats()
        assert stats["closed_aborted"] == 100
        assert stats["closed_peer"] == 200
        del scene.sockets[1:]


def test_handler_that_spawns_a_child_leaves_it_no_connection(twin):
    """Catalogue 44.  A copy in a child would keep the peer waiting for an end that has come."""
    with Scene(twin) as scene:
        peer = scene.connect()
        peer.sendall(frame(b"order: spawn"))
        assert receive_frame(peer) == b"spawned"
        began = time.monotonic()
        assert ending(peer) == "eof"
        assert time.monotonic() - began < WORST
        scene.at_first["fds"] += 1  # the pipe to that child


@pytest.mark.parametrize("order", [b"fork", b"fork-and-kill"])
def test_handler_that_forks_keeps_the_parents_connections_and_signals(twin, order):
    """Catalogue 45.  The child leaves by sys.exit, or by a signal; the epoll set is shared, and not touched."""
    with Scene(twin) as scene:
        other, forking = scene.connect(), scene.connect()
        for _ in range(3):
            forking.sendall(frame(b"order: " + order))
            assert receive_frame(forking) == (b"forked" if order == b"fork" else b"killed")
            assert scene.talk(b"parent's", other) == b"parent's"
        assert not select.select([other], [], [], 0.1)[0]
