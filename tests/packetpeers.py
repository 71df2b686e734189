"""What the tests of SEQPACKET sockets share: pairs of them, raw peers that send and take packets, and a world of both.

Rule: nothing in this file may use evloop's packets but for `PacketWorld`, which tests them.
"""

from __future__ import annotations

import errno
import socket

import pytest
from kernel import SocketKernel
from peers import Peer, World, narrow_pair, tcp_pair

from evloop._connection_packets import PacketConnection

PACKET = 1 << 16  # bytes of the packets that a peer sends its bytes in
LARGEST_TAKEN = 1 << 20  # bytes of a packet that a peer can take
SEQPACKET = (socket.AF_UNIX, socket.SOCK_SEQPACKET)


def packet_pair(size=None):
    """Return two connected SEQPACKET sockets, ours first; *size* is what SO_SNDBUF of both says, in bytes."""
    pair = socket.socketpair(*SEQPACKET)
    for sock in pair if size else ():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size // 2)  # which the kernel doubles (socket(7))
    return pair


def narrow_packet_pair():
    """A pair whose kernel buffers are so small that little output is much."""
    return packet_pair(8192)


class PacketPeer(Peer):
    """A peer of packets: `packets` are those received, `received` their bytes.

    A reset is noted in `error` and what was sent before it is taken all the same: that is the kernel's order.
    """

    def __init__(self, sock, reading=False):
        super().__init__(sock, reading)
        self.packets = []
        self._piece = min(PACKET, sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32)

    def _step_out(self):
        while self._out:
            try:
                self.sock.send(self._out[: self._piece])
            except BlockingIOError:
                return
            except OSError:
                self._out = b""
                raise
            self._out = self._out[self._piece :]
        super()._step_out()

    def step(self):
        if self.sock.fileno() < 0:
            return
        try:
            self._step_out()
        except OSError as exc:
            self.error = exc.errno
        while self.reading and not self.eof:
            try:
                packet = self.sock.recv(LARGEST_TAKEN)
            except BlockingIOError:
                return
            except ConnectionResetError:
                self.error = errno.ECONNRESET
                continue
            self.packets += [packet] if packet else []
            self.received += packet
            self.eof = not packet


class PacketWorld(World):
    """A world whose connections are over SEQPACKET sockets; where a test asks for narrow buffers they are narrow."""

    def __init__(self, **options):
        super().__init__(PacketConnection, **options)

    def spy(self):
        self.kernel = SocketKernel()
        return self.kernel

    def peer(self, sock, reading=False):
        self.peers.append(PacketPeer(sock, reading))
        return self.peers[-1]

    def connect(self, protocol, *, pair=packet_pair, **options):
        pair = {narrow_pair: narrow_packet_pair, tcp_pair: packet_pair, socket.socketpair: packet_pair}.get(pair, pair)
        return super().connect(protocol, pair=pair, **options)


@pytest.fixture
def packets():
    """A world of SEQPACKET sockets; ended, and checked, after the test."""
    world = PacketWorld()
    yield world
    world.close()
