"""What the kernel does with SEQPACKET sockets at the edges, and the blocking socket that stands on it."""

from __future__ import annotations

import errno
import pickle
import socket
import time

import pytest
from packetpeers import SEQPACKET, packet_pair

from evloop import FrameTooLarge, reactor
from evloop._packets import LARGEST_READ, STREAM_PACKET, PacketSocket, PacketTooLarge, check_message, largest_packet


@pytest.fixture(params=[None, 8192])
def pair(request):
    """Two connected sockets, with buffers as they come and with small ones; closed at the end."""
    ours, theirs = packet_pair(request.param)
    with ours, theirs:
        ours.settimeout(10)
        theirs.settimeout(10)
        yield ours, theirs


@pytest.fixture
def blocking(tmp_path):
    """A PacketSocket and its peer, closed at the end."""
    with socket.socket(*SEQPACKET) as listener, PacketSocket() as ours:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        ours.settimeout(10)
        ours.connect(str(tmp_path / "s"))
        theirs, _ = listener.accept()
        with theirs:
            theirs.settimeout(10)
            yield ours, theirs


def test_largest_packet_is_the_last_that_the_kernel_takes(pair):
    """The number that a message is measured by before it is queued is the kernel's."""
    ours, theirs = pair
    most = largest_packet(ours)
    for size in (most - 1, most):
        assert ours.send(bytes(size)) == size
        assert len(theirs.recv(1 << 20)) == size
    with pytest.raises(OSError) as caught:
        ours.send(bytes(most + 1))
    assert caught.value.errno == errno.EMSGSIZE


def test_largest_read_is_the_reactors_shared_buffer():
    """A client and a server of evloop understand the same packets."""
    assert LARGEST_READ == reactor.RECV_BUFFER


def test_check_message_at_the_limit_passes_and_outside_raises():
    """One error for each of the two that no packet can be."""
    check_message(b"x", 10)
    check_message(bytes(10), 10)
    with pytest.raises(PacketTooLarge, match=r"packet of 11 bytes exceeds 10, .*net\.core\.wmem_default"):
        check_message(bytes(11), 10)
    with pytest.raises(ValueError, match="end of the stream"):
        check_message(b"", 10)


def test_packet_too_large_is_a_frame_too_large_and_can_be_pickled():
    """It is caught as what it is like, and crosses to another process."""
    with pytest.raises(FrameTooLarge) as caught:
        check_message(bytes(2), 1)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (PacketTooLarge, str(caught.value))


def test_packet_socket_recv_takes_packets_whole_then_the_end(blocking):
    """One packet a call, however large."""
    ours, theirs = blocking
    for packet in (b"one", bytes(200_000)):
        theirs.send(packet)
    theirs.shutdown(socket.SHUT_WR)
    assert [ours.recv(), len(ours.recv(1)), ours.recv(), ours.recv()] == [b"one", 200_000, b"", b""]


def test_packet_socket_recv_gives_what_came_before_a_reset_and_then_the_reset(blocking):
    """The kernel tells the reset first, and once."""
    ours, theirs = blocking
    ours.send(b"never read")
    theirs.send(b"one")
    theirs.send(b"two")
    theirs.close()
    assert [ours.recv(), ours.recv()] == [b"one", b"two"]
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            ours.recv()


def test_packet_socket_recv_of_more_than_its_buffer_raises(blocking):
    """A message that was cut must not look like a whole one."""
    ours, theirs = blocking
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST_READ)
    if largest_packet(theirs) <= LARGEST_READ:
        pytest.skip("net.core.wmem_max is too small for a packet that is too large")
    theirs.send(bytes(LARGEST_READ))
    assert len(ours.recv()) == LARGEST_READ
    theirs.send(bytes(LARGEST_READ + 1))
    with pytest.raises(PacketTooLarge, match=f"packet of {LARGEST_READ + 1} bytes exceeds {LARGEST_READ}, "):
        ours.recv()


def test_packet_socket_sendall_cuts_a_stream_into_packets(blocking):
    """EMSGSIZE is no answer to a large frame."""
    ours, theirs = blocking
    ours.settimeout(None)  # with a time-out Python polls first, and the kernel has three quarters to be free for that
    data = bytes(range(256)) * 600
    ours.sendall(bytearray(data))
    packets = [theirs.recv(1 << 20) for _ in range(3)]
    assert b"".join(packets) == data
    assert list(map(len, packets)) == [STREAM_PACKET, STREAM_PACKET, len(data) - 2 * STREAM_PACKET]


def test_packet_socket_send_messages_sends_each_as_one_packet_or_none_at_all(blocking):
    """One at fault and nothing was sent."""
    ours, theirs = blocking
    with pytest.raises(PacketTooLarge):
        ours.send_messages([b"good", bytes(largest_packet(ours) + 1)])
    with pytest.raises(ValueError):
        ours.send_messages([b"good", b""])
    ours.send_messages(iter([b"one", b"two"]))
    assert [theirs.recv(100), theirs.recv(100)] == [b"one", b"two"]


def test_packet_socket_sends_time_out_together(blocking):
    """The time-out is the whole call's, not each packet's."""
    ours, theirs = blocking
    ours.settimeout(0.05)
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        ours.sendall(bytes(10 << 20))
    assert time.monotonic() - before < 5
    assert theirs.recv(1 << 20)
