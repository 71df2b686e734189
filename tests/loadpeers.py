"""Servers for the load generator, made of plain sockets and threads: honest ones, and one for each way to be wrong."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading


def frame(payload):
    """Return a frame with a length of four bytes, big-endian."""
    return struct.pack(">I", len(payload)) + payload


def read_frame(stream):
    """Return the next payload of a file made of a socket, None at the end."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    size = struct.unpack(">I", head)[0]
    payload = stream.read(size)
    return payload if len(payload) == size else None


def reset(sock):
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class LoadPeer:
    """A server that runs *behave(sock, stream)* for each connection in a thread; ``address`` is where.

    At the end of a ``with`` everything is shut down and joined.
    """

    def __init__(self, behave, path=None):
        self._behave = behave
        self._socket = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self._socket.bind(path or ("127.0.0.1", 0))
        self._socket.listen(128)
        self.address = f"unix:{path}" if path else f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._threads, self._open = [], []
        self._stop_r, self._stop_w = os.pipe()

    def __enter__(self):
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()
        return self

    def __exit__(self, *exc_info):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._socket.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        os.close(self._stop_w)
        for thread in self._threads:
            thread.join()
        os.close(self._stop_r)

    def wait(self, sock):
        """Wait for the end of the test: a server that says nothing."""
        os.read(self._stop_r, 1)

    def _accept(self):
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return
            self._open.append(sock)
            self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
            self._threads[-1].start()

    def _serve(self, sock):
        with contextlib.suppress(OSError), sock, sock.makefile("rb") as stream:
            self._behave(self, sock, stream)


def answering(change):
    """Return a server that answers frame k with what *change(k, payload)* returns, bytes as they are."""

    def behave(peer, sock, stream):
        k = 0
        while (payload := read_frame(stream)) is not None:
            answer = change(k, payload)
            if answer is None:
                return
            sock.sendall(answer)
            k += 1

    return behave


def echo(k, payload):
    """Answer with the same."""
    return frame(payload)


class Broadcast:
    """A server that sends each frame to all connections but the sender's, as *spoil(n, frame)* lets it.

    *spoil* is given how many have been sent so far, over all subscribers, and returns bytes.
    """

    def __init__(self, spoil=lambda n, data: data):
        self._spoil = spoil
        self._lock = threading.Lock()
        self._members = []
        self._sent = 0

    def __call__(self, peer, sock, stream):
        with self._lock:
            self._members.append(sock)
        try:
            while (payload := read_frame(stream)) is not None:
                with self._lock:
                    for member in self._members:
                        if member is not sock:
                            member.sendall(self._spoil(self._sent, frame(payload)))
                            self._sent += 1
        finally:
            with self._lock:
                self._members.remove(sock)
