"""What connections promise when their process forks: the child's copies are closed in silence, the parent's go on."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import os

import pytest
from forks import forked, in_child
from peers import FrameRecorder, connection_class, echo, encode, world


def refusal():
    """Return what a child of this process is told."""
    return f"this reactor belongs to process {os.getpid()}; make a new one after fork()"


def test_fork_child_uses_a_connection_and_the_parents_goes_on(world):
    """A send would land in the parent's stream; abort() or close() would reset or end it for both."""
    rec = FrameRecorder(frame=echo)
    conn, peer = world.connect(rec, reading=True)
    world.settle()

    def child():
        with pytest.raises(RuntimeError) as caught:
            conn.send(b"from the child")
        conn.write_eof()
        conn.close()
        conn.abort()
        return str(caught.value), conn.is_closing(), conn.fileno(), rec.log

    assert in_child(child) == (refusal(), True, -1, ["made"])
    peer.write(encode(b"still here"))
    world.until(lambda: peer.frames)
    assert (peer.frames, peer.ended) == ([b"still here"], False)
    conn.close()
    world.until(lambda: peer.ended)
    assert peer.error is None  # an end, no reset


def test_fork_inside_a_callback_child_sends_nothing(world):
    """What was queued for the end of the callback is sent by the parent, once."""
    with forked() as child:

        def answer(rec, frame):
            if frame != b"one":  # the parent goes on, and is not to fork again
                return
            rec.conn.send(b"queued")
            if child.fork():
                with pytest.raises(RuntimeError, match="belongs to process"):
                    rec.conn.send(b"from the child")
            else:
                rec.conn.send(b"parent")

        rec = FrameRecorder(frame=answer)
        _, peer = world.connect(rec, reading=True)
        peer.write(encode(b"one", b"two"))
        try:
            world.until(lambda: child.pid != os.getpid())
        except RuntimeError as exc:
            child.leave(str(exc), rec.frames, rec.log)
        assert child.result() == (refusal(), [b"one"], ["made", "frame"])
        rec.actions.clear()
        world.until(lambda: len(peer.frames) >= 2)
        world.settle()
        assert peer.frames[:2] == [b"queued", b"parent"]
        assert b"from the child" not in peer.received


def test_fork_child_lives_on_and_the_peer_sees_the_parents_end(world):
    """A child that keeps a copy of the socket keeps the peer waiting for an end that has come."""
    conn, peer = world.connect(FrameRecorder(), reading=True)
    world.settle()
    with forked() as child:
        if child.fork():
            child.leave_after(child.wait_to_be_let_go)
        conn.abort()
        world.until(lambda: peer.ended)
        assert child.result() is None
