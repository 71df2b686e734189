"""What the blocking client promises: whole frames, a deadline for each call, and errors that say whose fault it is."""

from __future__ import annotations

import socket
import threading

import pytest
from peers import PATIENCE, RST_ON_CLOSE, encode

import evloop
from evloop import BadMagic, BlockingClient, ConnectionClosed, FrameTooLarge, Framing, TruncatedFrame, UnexpectedFrame

SHORT = 0.05  # seconds that a test of a time-out takes


@pytest.fixture
def call():
    """Return (client, raw peer) for the client's options; both closed at the end."""
    opened = []

    def connect(**options):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            opened.append(BlockingClient(listener.getsockname(), **{"timeout": PATIENCE, **options}))
            opened.append(listener.accept()[0])
        opened[-1].settimeout(PATIENCE)
        return tuple(opened[-2:])

    yield connect
    for end in opened:
        end.close()


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
    sock.close()


# --- frames ----------------------------------------------------------------------------------------------------------


def test_blocking_client_sends_and_receives_whole_frames(call):
    """The tutorials' recv(1024), done right."""
    client, peer = call()
    client.send(b"hi")
    client.send_many([b"", b"you"])
    assert peer.recv(17, socket.MSG_WAITALL) == encode(b"hi", b"", b"you")
    peer.sendall(encode(b"1", b"", b"3"))
    assert [client.recv() for _ in range(3)] == [b"1", b"", b"3"]


def test_blocking_client_frame_of_a_mebibyte_both_ways(call):
    """More than any buffer: sendall and many recv."""
    client, peer = call()
    frame = bytes(range(256)) * 4096

    def echo():
        rest = len(frame) + 4
        while rest:
            data = peer.recv(rest)
            rest -= len(data)
            peer.sendall(data)

    thread = threading.Thread(target=echo)
    thread.start()
    client.send(frame)
    assert client.recv() == frame
    thread.join()


def test_blocking_client_time_out_keeps_the_partial_frame(call):
    """A time-out is no end: what has arrived belongs to the next call."""
    client, peer = call()
    data = encode(b"hello")
    for byte in data[:-1]:
        peer.sendall(bytes([byte]))
    with pytest.raises(TimeoutError):
        client.recv(timeout=SHORT)
    with pytest.raises(TimeoutError):
        client.recv(timeout=SHORT)
    peer.sendall(data[-1:] + encode(b"next"))
    assert (client.recv(), client.recv()) == (b"hello", b"next")


def test_blocking_client_time_out_is_for_the_whole_frame(call):
    """One byte at a time must not prolong it."""
    client, peer = call()
    stop = threading.Event()

    def trickle():
        while not stop.wait(SHORT / 5):
            peer.sendall(b"\0")

    thread = threading.Thread(target=trickle)
    peer.sendall(b"\0\x0f\xff\xff")
    thread.start()
    try:
        with pytest.raises(TimeoutError):
            client.recv(timeout=SHORT)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("of", ["client", "call"])
def test_blocking_client_time_out_of_the_client_and_of_the_call(call, of):
    """The call's own wins."""
    client, _ = call(timeout=SHORT if of == "client" else None)
    with pytest.raises(TimeoutError):
        client.recv(**({"timeout": SHORT} if of == "call" else {}))


def test_blocking_client_send_times_out_when_the_peer_does_not_read(call):
    """Both directions have deadlines."""
    client, _ = call()
    with pytest.raises(TimeoutError):
        for _ in range(64):
            client.send(bytes(1 << 20), timeout=SHORT)


def test_blocking_client_time_out_of_connecting():
    """A listener with a full queue: SYNs are dropped."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with socket.create_connection(listener.getsockname()), pytest.raises(TimeoutError):
            BlockingClient(listener.getsockname(), timeout=SHORT)


def test_blocking_client_refused_raises_and_leaves_nothing():
    """The fixture of all tests counts descriptors."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError, match=f": '127.0.0.1:{sock.getsockname()[1]}'$"):
            BlockingClient(sock.getsockname())


@pytest.mark.parametrize(
    ("timeout", "error"), [(0, ValueError), (-1, ValueError), (float("nan"), ValueError), ("1", TypeError)], ids=repr
)
@pytest.mark.parametrize("method", ["init", "recv", "send", "expect", "send_many"])
def test_blocking_client_wrong_time_out_is_refused(call, method, timeout, error):
    """0 is "do not block" to a socket, and half a frame would be sent."""
    if method == "init":
        with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(error):
            BlockingClient(listener.getsockname(), timeout=timeout)
        return
    client, _ = call()
    args = {"recv": [], "send": [b"x"], "expect": [b"x"], "send_many": [[b"x"]]}[method]
    with pytest.raises(error):
        getattr(client, method)(*args, timeout=timeout)


@pytest.mark.parametrize("seconds", [float("inf"), 1e300], ids=repr)
def test_blocking_client_endless_time_out_waits(seconds):
    """Any float > 0 is documented; one too long for the kernel's clock is as good as for ever."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        BlockingClient(listener.getsockname(), timeout=seconds) as client,
        listener.accept()[0] as peer,
    ):
        peer.sendall(encode(b"x"))
        assert client.recv() == b"x"


# --- expect, iteration, half-close -----------------------------------------------------------------------------------


def test_blocking_client_expect_takes_the_message_or_raises(call):
    """A handshake in one line."""
    client, peer = call()
    peer.sendall(encode(b"ready", b"other", b"more"))
    client.expect(b"ready")
    with pytest.raises(UnexpectedFrame) as caught:
        client.expect(b"ready")
    assert (caught.value.expected, caught.value.got) == (b"ready", b"other")
    assert client.recv() == b"more"


def test_blocking_client_iteration_ends_with_the_peers_orderly_end(call):
    """`for frame in client`."""
    client, peer = call()
    peer.sendall(encode(b"1", b"", b"3"))
    peer.close()
    assert list(client) == [b"1", b"", b"3"]
    assert list(client) == []


def test_blocking_client_iteration_does_not_hide_a_truncated_frame(call):
    """A cut stream must never look complete."""
    client, peer = call()
    peer.sendall(encode(b"1") + b"\0\0")
    peer.close()
    got = []
    with pytest.raises(TruncatedFrame):
        for frame in client:
            got.append(frame)  # noqa: PERF402
    assert got == [b"1"]


def test_blocking_client_write_eof_ends_sending_only(call):
    """Ask everything, say so, and read the answers."""
    client, peer = call()
    client.send(b"q")
    client.write_eof()
    assert peer.recv(100) == encode(b"q")
    assert peer.recv(100) == b""
    peer.sendall(encode(b"a"))
    assert client.recv() == b"a"
    with pytest.raises(OSError, match=r".") as caught:
        client.send(b"more")
    assert isinstance(caught.value, BrokenPipeError)


def test_blocking_client_without_framing_gets_bytes_as_they_come(call):
    """For peers that have none."""
    client, peer = call(framing=None)
    client.send(b"abc")
    client.send_many([b"d", memoryview(b"e")])
    assert peer.recv(100, socket.MSG_PEEK) in (b"abc", b"abcde")
    peer.sendall(b"\0\0")
    assert client.recv() == b"\0\0"
    peer.close()
    with pytest.raises((ConnectionClosed, ConnectionResetError)):
        client.recv()


# --- faults ----------------------------------------------------------------------------------------------------------


def test_blocking_client_peer_closed_between_frames_raises_each_time(call):
    """Asked again, the answer is the same."""
    client, peer = call()
    peer.sendall(encode(b"last"))
    peer.close()
    assert client.recv() == b"last"
    for _ in range(3):
        with pytest.raises(ConnectionClosed, match=str(client.address)):
            client.recv()


@pytest.mark.parametrize(
    ("options", "bad", "error"),
    [
        ({"max_frame": 10}, encode(bytes(11)), FrameTooLarge),
        ({}, b"HTTP", FrameTooLarge),
        ({"framing": Framing(4, magic=b"EV")}, b"XX\0\0\0\0", BadMagic),
    ],
    ids=["max_frame", "http", "magic"],
)
def test_blocking_client_fault_comes_after_the_good_frames_and_stays(call, options, bad, error):
    """What was whole before it is delivered; the stream is unusable behind it."""
    client, peer = call(**options)
    framing = options.get("framing", Framing.U32)
    peer.sendall(framing.encode(b"1") + framing.encode(b"2") + bad)
    assert (client.recv(), client.recv()) == (b"1", b"2")
    for _ in range(2):
        with pytest.raises(error):
            client.recv()


def test_blocking_client_reset_raises_and_frames_before_it_come_first(call):
    """Bytes before a reset stay readable."""
    client, peer = call()
    peer.sendall(encode(b"1", b"2"))
    reset(peer)
    assert (client.recv(), client.recv()) == (b"1", b"2")
    with pytest.raises(ConnectionResetError):
        client.recv()


def test_blocking_client_reset_is_not_an_orderly_end_when_asked_again(call):
    """The kernel reports a reset once and then an end of the stream; a retry must not take it for one."""
    client, peer = call()
    reset(peer)
    for _ in range(2):
        with pytest.raises(OSError, match=r".") as caught:
            client.recv()
        assert isinstance(caught.value, ConnectionResetError)


@pytest.mark.parametrize("size", [9, 10, 11])
def test_blocking_client_max_frame_holds_for_sending(call, size):
    """limit-1, limit, limit+1; nothing of the last is sent."""
    client, peer = call(max_frame=10)
    if size <= 10:
        client.send(bytes(size))
        assert peer.recv(100) == encode(bytes(size))
    else:
        with pytest.raises(FrameTooLarge):
            client.send(bytes(size))
        client.write_eof()
        assert peer.recv(100) == b""


@pytest.mark.parametrize("payload", ["text", None, 5], ids=repr)
@pytest.mark.parametrize("framing", [Framing.U32, None], ids=["framed", "unframed"])
def test_blocking_client_send_of_no_bytes_raises_type_error(call, framing, payload):
    """The first mistake of every beginner."""
    client, peer = call(framing=framing)
    with pytest.raises(TypeError):
        client.send(payload)
    with pytest.raises(TypeError):
        client.send_many([b"good", payload])
    client.write_eof()
    assert peer.recv(100) == b""


@pytest.mark.parametrize("method", ["recv", "send", "write_eof", "expect"])
def test_blocking_client_use_after_close_raises(call, method):
    """OSError, as a socket's."""
    client, _ = call()
    client.close()
    client.close()
    assert client.fileno() == -1
    with pytest.raises(OSError, match=r"."):
        getattr(client, method)(*([b"x"] if method in ("send", "expect") else []))


def test_blocking_client_context_manager_closes(call):
    """`with` is how scripts use it."""
    client, peer = call()
    with client as same:
        assert same is client
        assert "open" in repr(client)
    assert "closed" in repr(client)
    assert peer.recv(1) == b""


def test_blocking_client_unix_and_server_together(tmp_path):
    """The two ends of the library, over a path."""
    reactor = evloop.Reactor()
    server = evloop.Server(reactor, lambda conn, frame: conn.send(frame), f"unix:{tmp_path}/s")
    server.start()
    thread = threading.Thread(target=reactor.run_forever)
    thread.start()
    with BlockingClient(f"unix:{tmp_path}/s", timeout=PATIENCE) as client:
        client.send_many([b"%d" % i for i in range(1000)])
        assert [client.recv() for _ in range(1000)] == [b"%d" % i for i in range(1000)]
    reactor.call_soon_threadsafe(server.shutdown, 5, reactor.stop)
    thread.join(PATIENCE)
    reactor.close()


@pytest.mark.parametrize("bad", [{"framing": 4}, {"framing": "U32"}, {"max_frame": -1}, {"max_frame": "1"}], ids=str)
def test_blocking_client_wrong_argument_is_refused_before_connecting(bad):
    """The listener never sees it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises((TypeError, ValueError)):
            BlockingClient(listener.getsockname(), timeout=SHORT, **bad)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
