"""What the tests of TLS share: certificates, foreign peers made of Python's own ssl, and a world where all is TLS.

Rule: nothing in this file may use evloop's TLS but for `TlsWorld`, which tests it.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
import socket
import ssl

import pytest
from kernel import SocketKernel
from peers import STEP, Peer, World

from evloop._connection_tls import TlsConnection

CERTIFICATES = pathlib.Path(__file__).parent / "certificates"
CA, SERVER, CLIENT, EXPIRED, STRANGER, ENCRYPTED = (
    str(CERTIFICATES / f"{name}.pem") for name in ("ca", "server", "client", "expired", "stranger", "encrypted.key")
)
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def foreign_client(ca=CA, version=None, certificate=None):
    """Return a client's context that evloop has no part in."""
    context = ssl.create_default_context(cafile=ca)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


def foreign_server(certificate=SERVER, version=None):
    """Return a server's context that evloop has no part in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class TlsPeer(Peer):
    """A peer with TLS below, made of Python's `ssl` on memory BIOs, so that a test decides about each byte on the wire.

    `eof` is a close_notify; `truncated` says that TCP's stream ended without one.  With `manual` nothing is sent by
    itself: what the peer says is returned by `say`, `flight` and `end`, and sent by hand.
    """

    def __init__(self, sock, reading=False, context=None, manual=False):
        super().__init__(sock, reading)
        self._in, self._sealed = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or foreign_client()).wrap_bio(self._in, self._sealed, server_hostname="localhost")
        self.manual = manual
        self.established = self.truncated = self._fin_sent = False
        self.alert = None  # what OpenSSL made of the connection's end
        self.wire = bytearray()  # as it came
        self._waiting = b""

    @property
    def ended(self):
        return super().ended or self.truncated or self.alert is not None

    def flight(self):
        """Return the next flight of the handshake, as far as it can go."""
        if not self.established:
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
                self.established = True
        return self._sealed.read()

    def say(self, payload):
        """Return *payload* sealed."""
        self.tls.write(payload)
        return self._sealed.read()

    def end(self):
        """Return a close_notify.  OpenSSL wants to have seen all payload before it writes one."""
        self._open()
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self._sealed.read()

    def fin(self):
        """Close the sending side, with a close_notify."""
        self._send(self.end())
        self._fin_sent = True
        self._shut_when_sent()

    def cut(self):
        """Close the sending side of TCP alone."""
        self.sock.shutdown(socket.SHUT_WR)

    def _send(self, data):
        self._waiting += data
        if self._waiting:
            with contextlib.suppress(BlockingIOError):
                self._waiting = self._waiting[self.sock.send(self._waiting[:STEP]) :]

    def _shut_when_sent(self):
        if self._fin_sent and not self._waiting:
            self._fin_sent = False
            self.cut()

    @property
    def written(self):
        return not self._out and not self._waiting

    def step(self):
        if self.sock.fileno() < 0:
            return
        try:
            if (self.reading or not self.established) and not (super().ended or self.truncated):
                self._receive()
            if not self.manual:
                self._step_out()
        except ssl.SSLError as exc:
            self.alert = exc
        except OSError as exc:
            self.error, self._waiting, self._out = exc.errno, b"", b""

    def _receive(self):
        try:
            data = self.sock.recv(STEP)
        except BlockingIOError:
            return
        self.wire += data
        self._in.write(data)
        if not data:
            self._open()
            self.truncated = not self.eof
        self._open()

    def _open(self):
        with contextlib.suppress(ssl.SSLWantReadError):
            while self.established and not self.eof:
                try:
                    data = self.tls.read(STEP)
                except ssl.SSLZeroReturnError:
                    data = b""
                self.received += data
                self.eof = not data

    def _step_out(self):
        self._send(self.flight())
        if self.established and not self._waiting:
            piece, self._out = self._out[:STEP], self._out[STEP:]
            self._send(self.say(piece) if piece else b"")
            if self._fin and self.written:
                self._fin = False
                self.fin()
        self._shut_when_sent()


class TlsWorld(World):
    """A world whose connections are a server's with TLS, and whose peers are `TlsPeer`s; `connect` shakes hands."""

    def __init__(self, context=None, peer_context=None, **options):
        context = foreign_server() if context is None else context
        maker = functools.partial(TlsConnection, context=context, server_side=True)
        super().__init__(maker, **options)
        self._manual = False
        self.peer_context = peer_context

    def spy(self):
        self.kernel = SocketKernel()
        return self.kernel

    def peer(self, sock, reading=False):
        self.peers.append(TlsPeer(sock, reading, self.peer_context, self._manual))
        return self.peers[-1]

    def connect(self, protocol, **options):
        conn, peer = super().connect(protocol, **options)
        self.until(lambda: (peer.established and conn.tls is not None) or conn.closed)
        return conn, peer

    def manual(self, protocol, **options):
        """Return a connection that waits for a ClientHello, and a manual peer."""
        self._manual = True
        try:
            return super().connect(protocol, **options)
        finally:
            self._manual = False


def shake(world, peer):
    """Bring the handshake of a manual peer to its end."""
    while not peer.established:
        peer.sock.sendall(peer.flight())
        world.turn()


@pytest.fixture
def make_world():
    """Return a function that makes a `TlsWorld`; each is ended, and checked, after the test."""
    worlds = []

    def make(*args, **options):
        worlds.append(TlsWorld(*args, **options))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.fixture
def tls_world(make_world):
    """One with contexts of the usual kind."""
    return make_world()
