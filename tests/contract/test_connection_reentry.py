"""What connections promise to code that runs in the middle of them: a collection's destructors, and their own callers.

Until 3.11 an allocation may run a collection at once, from 3.12 on the next bytecode does; either way destructors, and
whoever asked in ``gc.callbacks``, run inside of whatever was going on.  The tests here have a collection come after 1,
2, 3, ... allocations, so that each place where it can come is visited, whatever the version.
"""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import contextlib
import gc
import os
import socket

import pytest
from peers import DataRecorder, FrameRecorder, Recorder, World, connection_class, encode, kernel, world

from evloop import CloseReason, FrameTooLarge, Framing, Limits
from evloop.protocol import FunctionProtocol

PLACES = 40  # more tracked objects than any of the operations makes
LARGE = b"x" * 20_000  # sent by reference


@pytest.fixture(autouse=True)
def nothing_else_to_collect():
    """Keep what the other tests have left out of the collections here, of which there are thousands."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@contextlib.contextmanager
def collection_after(allocations, action):
    """Run *action* once, in the collection that comes after so many allocations of tracked objects, if it comes."""
    fired = []

    def collecting(phase, info):
        if phase == "start" and not fired:
            fired.append(True)
            action()

    gc.collect()
    gc.callbacks.append(collecting)
    before = gc.get_threshold()
    gc.set_threshold(allocations)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(collecting)


@pytest.mark.parametrize("call", ["abort", "close"])
def test_connection_aborted_by_a_collection_in_its_end_ends_once(world, call):
    """A session whose destructor aborts: two ends would close an fd twice, somebody else's the second time."""
    for place in range(1, PLACES):
        rec = FrameRecorder()
        conn, peer = world.connect(rec, linger=0)
        with collection_after(place, conn.abort):
            getattr(conn, call)()
        world.turn(2)
        assert [lost for lost, _ in world.served].count(conn) == 1, place
        peer.close()


def test_connection_aborted_by_a_collection_in_its_start_leaves_no_timer(world):
    """There is one timer a state; the deadline's must not come when its state is over."""
    for place in range(1, PLACES):
        rec = FrameRecorder()
        with collection_after(place, lambda rec=rec: rec.conn and rec.conn.abort()):
            conn, peer = world.connect(rec, idle_timeout=30, first_frame_timeout=20, linger=2)
            conn.close()
        conn.abort()
        world.turn(2)
        assert (rec.log, world.reactor.stats()["timers"]) == (["made", "lost"], 0), place
        peer.close()


def test_connection_whose_fd_somebody_else_has_closed_ends(world):
    """One os.close() too many anywhere in the program must not leave a connection that cannot end."""
    rec = FrameRecorder()
    conn, _peer = world.connect(rec)
    world.turn()
    os.close(conn.fileno())
    conn.send(b"x")
    assert conn.close_reason is CloseReason.ERROR
    world.turn(2)
    assert (rec.log, conn.peer, world.errors) == (["made", "lost"], None, [])


def test_connection_aborted_by_a_collection_while_frames_are_cut_delivers_nothing_more(world):
    """The decoder that is at work must outlive the connection's end."""
    framing = Framing(4, deliver="pair")  # whose items are tracked objects
    for place in range(1, PLACES):
        rec = FrameRecorder()
        conn, peer = world.connect(rec, framing=framing)
        world.turn()
        peer.write(encode(*[b"frame"] * 100, framing=framing) + b"\0\0\1\0cut")
        with collection_after(place, conn.abort):
            world.reactor.call_soon(world.reactor.stop)
            world.reactor.run_forever()
        world.turn(2)
        assert world.errors == []
        assert (rec.frames, rec.log[-1]) == ([(b"\0\0\0\5", b"frame")] * len(rec.frames), "lost"), place
        peer.close()


@pytest.mark.parametrize("payloads", [[b"small"], [LARGE], [b"small", LARGE], [b"small"] * 5])
@pytest.mark.parametrize("framing", [None, Framing(2, max_frame=100)], ids=["none", "other"])
def test_connection_framing_set_by_a_collection_in_send_behind_a_large_answer_is_the_old_or_the_new(
    world, kernel, framing, payloads
):
    """What is sent behind an answer that waits makes a list, and that may run any code, before the framing is asked."""
    whole = b"".join(payloads) if framing is None else encode(*payloads, framing=Framing(2))
    for place in range(1, 12):
        conn, peer = world.connect(FrameRecorder(), reading=True)
        world.turn()
        kernel.allow_writes(conn, 1000)
        conn.send(LARGE)
        refused = False
        with collection_after(place, lambda conn=conn: conn.set_framing(framing)):
            try:
                conn.send(payloads[0]) if len(payloads) == 1 else conn.send_many(payloads)
            except FrameTooLarge:
                refused = True
        kernel.allow_writes(conn, None)
        world.until(lambda conn=conn: conn.stats.output == 0)
        world.settle()
        sent = peer.received[len(encode(LARGE)) :]
        assert sent in ([b""] if refused else [encode(*payloads), whole]), (place, len(sent))
        conn.abort()
        peer.close()


@pytest.mark.parametrize("framing", [Framing.U32, None], ids=["framed", "unframed"])
@pytest.mark.parametrize("payload", [LARGE, bytearray(LARGE)], ids=["bytes", "bytearray"])
@pytest.mark.parametrize("call", ["close", "abort"])
def test_connection_ended_by_a_collection_in_send_sends_the_whole_frame_or_nothing(world, framing, payload, call):
    """A header without its payload is a torn stream."""
    whole = payload if framing is None else encode(payload)
    for place in range(1, PLACES):
        conn, peer = world.connect(DataRecorder() if framing is None else FrameRecorder(), framing=framing)
        peer.reading = True
        world.turn()
        with collection_after(place, getattr(conn, call)):
            conn.send(payload)
        world.turn(2)
        assert bytes(peer.received) in (b"", bytes(whole)), place
        conn.abort()
        assert conn.stats.output == 0
        peer.close()


@pytest.mark.parametrize("then", [[], ["no bytes"] * 3, [b"y"], [bytearray(b"z")] * 60], ids=str)
def test_connection_list_changed_by_a_collection_in_send_many_is_sent_as_it_was_or_is(world, then):
    """The list is the caller's, and a destructor may know it: its items must not be borrowed across an allocation."""
    batch = [LARGE] + [b"y"] * 50
    allowed = [encode(*payloads) for payloads in (batch, then) if "no bytes" not in payloads]
    for place in range(1, PLACES):
        conn, peer = world.connect(FrameRecorder(), reading=True, linger=0)
        world.turn()
        payloads = batch[:]

        def change(payloads=payloads):
            payloads[:] = then

        with contextlib.suppress(TypeError), collection_after(place, change):
            conn.send_many(payloads)
        conn.close()
        world.turn(2)
        assert bytes(peer.received) in (allowed if "no bytes" not in then else [*allowed, b""]), place


def test_connection_reads_on_after_somebody_released_the_reactors_buffer(world):
    """An endpoint beside it that reads with ``with reactor.recv_buffer``."""
    rec = FrameRecorder()
    _conn, peer = world.connect(rec)
    with world.reactor.recv_buffer:
        pass
    others = [bytearray(256 * 1024) for _ in range(4)]  # what would get the memory, if it were free
    peer.write(encode(b"frame"))
    world.settle()
    assert (rec.frames, [other for other in others if any(other)]) == ([b"frame"], [])


def test_connection_that_was_never_initialised_is_refused_or_closed(world):
    """object.__new__ is within reach of copy and pickle: it must not be a way to a crash."""
    with contextlib.suppress(TypeError):  # the compiled one needs a reactor first
        conn = world.connection_class.__new__(world.connection_class)
        with pytest.raises(AttributeError):
            conn.send(b"x")
    conn = world.connection_class.__new__(world.connection_class, world.reactor)
    for call in (conn.close, conn.abort, conn.write_eof, conn.resume_reading, conn.flush, conn.is_reading):
        with contextlib.suppress(AttributeError):  # the pure one has no attributes yet
            call()
    with contextlib.suppress(AttributeError):
        conn.send(b"x")
        assert (conn.is_closing(), conn.fileno(), conn.stats.output) == (True, -1, 0)


@pytest.mark.parametrize("arguments", [(), (object(), None, None)], ids=["nothing", "no reactor"])
def test_connection_that_is_refused_closes_no_descriptor(world, arguments):
    """What fails before it has a socket must not close one: 0 is the standard input, or whatever has that number."""
    kept = os.dup(0)
    try:
        with pytest.raises(TypeError):
            world.connection_class(*arguments, framing=None, limits=Limits())
        gc.collect()
        assert os.path.sameopenfile(0, kept)
    finally:
        os.dup2(kept, 0)  # for the tests to come
        os.close(kept)


@pytest.mark.parametrize("size", [10, 40_000])
def test_connection_read_from_inside_of_its_own_callback_delivers_each_frame_once(world, size):
    """on_readable() is public; a callback that wants more at once gets it, before the rest of its own batch."""
    payloads = [b"%05d" % i * (size // 5) for i in range(12)]

    def read_on(rec, frame):
        if len(rec.frames) in (2, 9):
            peer.write(encode(*later.pop()))
            rec.conn.on_readable()

    rec = FrameRecorder(frame=read_on)
    conn, peer = world.connect(rec, pair=socket.socketpair)
    later = [payloads[10:], payloads[5:10]]
    peer.write(encode(*payloads[:5]))
    world.settle()
    assert (conn.close_reason, sorted(rec.frames)) == (None, payloads)


def test_connection_without_a_receiver_ends_after_the_linger_whatever_the_idle_timeout(world):
    """It is closed as it starts; its idle timer must not take the place of the one that ends it."""
    rec = Recorder()
    conn, _peer = world.connect(rec, idle_timeout=100, linger=2)
    world.turn()
    assert (conn.state, conn.close_reason) == ("lingering", CloseReason.HANDLER)
    world.advance(2)
    assert rec.log == ["made", "lost"]


def test_connection_repr_names_its_peer_before_anybody_has_asked(world):
    """The log line of a fault is where the address is needed most."""
    conn, peer = world.connect(FrameRecorder())
    assert "peer={}:{}".format(*peer.sock.getsockname()) in repr(conn)


def test_connection_protocol_set_after_a_function_is_told_of_the_end(world):
    """``protocol`` is public: who takes a connection over from a handler is told when it is lost."""
    conn, _peer = world.connect(FunctionProtocol(lambda conn, frame: None), linger=0)
    rec = FrameRecorder()
    conn.protocol = rec
    rec.connection_made(conn)
    conn.close()
    world.turn(2)
    assert rec.log == ["made", "lost"]


@pytest.mark.parametrize("call", ["close", "abort", "resume_reading", "pause_reading"])
def test_connection_used_after_its_reactor_was_closed_raises_where_it_needs_a_turn(connection_class, call):
    """What it asks for would never be run; the socket is closed by abort() all the same."""
    world = World(connection_class)
    conn, peer = world.connect(FrameRecorder())
    world.turn()
    if call == "resume_reading":
        conn.pause_reading()
    world.reactor.close()
    refused = contextlib.nullcontext() if call == "pause_reading" else pytest.raises(RuntimeError, match="is closed")
    with refused:
        getattr(conn, call)()
    with contextlib.suppress(RuntimeError):
        conn.abort()
    assert conn.fileno() == -1
    peer.close()
