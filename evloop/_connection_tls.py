"""A connection with TLS below its frames: what was read is opened before it is decoded, what is written is sealed.

It derives from the connection in plain Python over either reactor: the cipher costs more than the connection does.
The socket stays a plain one, all of TLS is in a `TlsStream`; so readiness means what it means without TLS, nothing is
ever left inside OpenSSL while the kernel is quiet, and either side can end its stream alone.

A connection begins with its handshake, of which the protocol hears nothing: ``connection_made`` follows it, and a
connection that does not get there has no ``connection_lost`` either.

Rule: nothing in this file may call OpenSSL, or know a server.  Read next: ``_tls_stream.py``, ``_connection_py.py``.
"""

from __future__ import annotations

import functools
import socket
import ssl
from collections.abc import Callable
from math import inf
from typing import Any

from evloop._connection_py import CLOSED, FLUSHING, LINGERING, OPEN, Connection
from evloop._connection_shared import handshake_cut, no_close_notify
from evloop._tls_stream import TlsStream, check_context
from evloop.errors import CloseReason, TlsError
from evloop.protocol import Protocol
from evloop.reactor import Core, TimerHandle
from evloop.tls import TlsInfo

# Bytes of payload that are sealed at a time; the rest waits for another turn.  The cipher takes about 0.2 ms for them,
# and they are held twice until the kernel has taken the records.
SEAL_BUDGET = 256 * 1024

# Stands in the output, which holds payload, for records that carry none: as long as they wait for the kernel, the
# output is not empty, and so the connection watches for room and does not end.  Never sent.
_STAND_IN = b"\0"


class TlsConnection(Connection):
    """One stream of whole frames inside of TLS; made by a server or by ``connect()`` that was given ``ssl=``.

    As :class:`evloop.Connection`, but for this:

    - :attr:`tls` says what was agreed; None until the handshake is complete, and what is sent until then is dropped.
    - The peer's end of the stream is its close_notify; a bare end of TCP may be an attacker's, and is TRUNCATED.
    - :meth:`write_eof` sends close_notify and reads on.  TLS 1.3 means just that (RFC 8446, 6.1); a peer with TLS 1.2
      is told by its RFC to drop what it still had to send (RFC 5246, 7.2.1), and most do not.
    - The byte counters count records, payload and all.
    - Until the handshake is complete, idle_timeout and write_timeout run beside handshake_timeout; first_frame_timeout
      begins after it.  An unfinished record counts as input, and frame_timeout runs for it: it holds a frame's bytes.

    Owns: as a connection, and the TLS stream.
    """

    __slots__ = (
        "_ended",
        "_handshake_timer",
        "_handshaking",
        "_on_made",
        "_sealed",
        "_sealing",
        "_server_side",
        "_stream",
    )

    def __init__(
        self,
        reactor: Core,
        sock: socket.socket,
        protocol: Protocol,
        *,
        context: ssl.SSLContext,
        server_side: bool,
        server_hostname: str | None = None,
        on_made: Callable[[Connection], object] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(reactor, sock, protocol, **options)
        self._server_side = server_side
        self._stream = TlsStream(context, server_side=server_side, server_hostname=server_hostname)
        self._handshaking = True
        self._handshake_timer: TimerHandle | None = None
        self._on_made = on_made
        self._sealed = bytearray()  # records that the kernel has not taken
        self._sealing = 0  # bytes at the front of the output that they stand for; 0 if and only if there are none
        self._ended = False  # our close_notify is sealed

    def start(self) -> None:
        """Begin the handshake; ``connection_made`` is called once it is complete.  Called once."""
        seconds = self._limits.handshake_timeout
        if seconds:
            self._handshake_timer = self._reactor.call_later(seconds, self._handshake_too_slow, seconds)
        if self._timed:
            self._last_activity = self._reactor.time()
            self._check_deadlines()
        self._decode(memoryview(b""))
        self._run_pending()

    @property
    def tls(self) -> TlsInfo | None:  # type: ignore[override]
        """What the handshake has agreed on; None while it goes on.  Any thread."""
        return None if self._handshaking else self._stream.info

    @property
    def state(self) -> str:
        """As without TLS, but first ``"handshake"``."""
        return "handshake" if self._handshaking and self._state is OPEN else self._state

    # --- the handshake -----------------------------------------------------------------------------------------

    def _made(self) -> None:
        """The handshake is complete: from here on it is a connection like any other."""
        self._handshaking = False
        self._cancel_handshake_timer()
        if self._on_made is not None:
            self._on_made(self)
        super().start()

    def _handshake_too_slow(self, seconds: float) -> None:
        self._handshake_timer = None
        self._finish(CloseReason.HANDSHAKE, TimeoutError(f"no TLS after {seconds:g} s (handshake_timeout)"))

    def _handshake_cut(self) -> None:
        """The peer's end of the stream inside the handshake."""
        if self._server_side and not self._bytes_received:
            self._finish(CloseReason.PEER)  # somebody looked whether the port is open
        else:
            self._finish(CloseReason.HANDSHAKE, handshake_cut(self._server_side))

    def _cancel_handshake_timer(self) -> None:
        if self._handshake_timer is not None:
            self._handshake_timer.cancel()
            self._handshake_timer = None

    # --- input -------------------------------------------------------------------------------------------------

    def _decode(self, data: memoryview) -> None:
        """Open the records that *data* completes, all of them, and decode what was in them."""
        stream = self._stream
        try:
            for payload in stream.feed(data):
                super()._decode(memoryview(payload))
                if self._fault is not None:
                    break
        except TlsError as exc:
            self._fault = exc
        self._eof = self._eof or stream.peer_closed
        if self._handshaking and stream.established:
            self._made()  # flushes, too
        elif stream.pending:
            self._flush_unless_corked()

    def _input(self) -> int:
        return super()._input() + (0 if self.closed else self._stream.unfinished)

    def _holds(self) -> int:
        return super()._holds() + len(self._sealed)

    def _time_frame(self) -> None:
        """Note when the frame has begun, or the record that is to bring it: a peer may trickle either."""
        at, since = self._frame_at, self._frame_since
        super()._time_frame()
        if self._frame_since != inf:
            return
        self._frame_at = -1
        if self._decoder is not None and self._stream.unfinished and not self._handshaking:
            position = self._decoder.position
            self._frame_at, self._frame_since = position, since if at == position else self._last_activity
            self._watch(self._frame_since + self._limits.frame_timeout)

    def _peer_closed(self) -> None:
        if self._handshaking:
            self._handshake_cut()
        elif self._stream.peer_closed or self._broken is not None or (self._decoder and self._decoder.in_frame):
            super()._peer_closed()
        else:
            self._close(CloseReason.TRUNCATED, no_close_notify())

    # --- output ------------------------------------------------------------------------------------------------

    def _put(self, data: bytes, frames: int) -> None:
        if not self._handshaking or self._state is CLOSED:  # that may be the copy in a forked child, which raises
            super()._put(data, frames)

    def _takes_shared(self) -> bool:
        return not self._handshaking and super()._takes_shared()

    def flush(self) -> None:
        """Write what the kernel takes, then see what that changes."""
        if self._state is not CLOSED and self._state is not LINGERING:
            self._queue_records()
        if self._handshaking and self._state is OPEN:
            self._send_some()
            self._update_events()
            self._account()
        else:
            super().flush()

    def _queue_records(self) -> None:
        """Queue what TLS itself has to say: its handshake, answers to a KeyUpdate, an alert, close_notify."""
        if self._ended:
            self._stream.take()  # nothing may follow close_notify
            return
        if self._stream.failed:
            del self._out[self._sealing :]  # nothing can be sealed any more; the alert that says why is what is left
        elif self._sealing == len(self._out):
            self._seal_end()
        if self._broken is not None or not self._stream.pending:
            return
        # Otherwise there is payload, and they are sealed and sent in front of it.
        if self._sealed or not self._out:
            self._sealed += self._stream.take()
            if not self._out:
                self._out += _STAND_IN
                self._sealing = len(_STAND_IN)

    def _seal_end(self) -> None:
        """Seal the end of our stream, if the application has nothing more to say."""
        if (self._state is FLUSHING or self._write_eof) and not (self._ended or self._handshaking):
            self._ended = True
            self._stream.close_notify()

    def _keep_water_marks(self) -> None:
        if not self._handshaking:
            super()._keep_water_marks()

    def _write(self, data: memoryview) -> int:
        """Hand records to the kernel; return the bytes of output that they stood for."""
        if not self._sealed:
            data = data[:SEAL_BUDGET]
            self._sealed += self._stream.seal(data)
            self._sealing = len(data)
            if self._sealing == len(self._out):
                self._seal_end()
                self._sealed += self._stream.take()
        sent = self._sock.send(self._sealed)
        del self._sealed[:sent]
        # A record is longer than its payload: what is left of the records bounds what is left of the payload.
        before, self._sealing = self._sealing, min(self._sealing, len(self._sealed))
        done = before - self._sealing
        self._bytes_sent += sent - done  # the caller adds done
        if not done and sent:
            self._stalled_since = inf  # the peer takes something, of which the caller sees nothing
        return done

    # --- the end -----------------------------------------------------------------------------------------------

    def _close(self, reason: CloseReason, exc: BaseException | None = None) -> None:
        if not self._handshaking or self._state is not OPEN:
            super()._close(reason, exc)
        elif reason is CloseReason.TLS:
            self._cancel_handshake_timer()
            super()._close(CloseReason.HANDSHAKE, exc)  # and not at once: the alert tells the peer why
        else:
            self._finish(reason, exc)  # nothing was promised to the peer yet

    def _failed_io(self, exc: OSError) -> None:
        if isinstance(exc, TlsError) and self._state is OPEN:
            self._finish(CloseReason.TLS, exc)
        else:
            super()._failed_io(exc)

    def _write_failed(self, exc: OSError) -> None:
        self._drop_records()
        super()._write_failed(exc)

    def _drop_records(self) -> None:
        self._sealed, self._sealing = bytearray(), 0

    def _finish(self, reason: CloseReason | None = None, exc: BaseException | None = None) -> None:
        self._cancel_handshake_timer()
        self._drop_records()
        super()._finish(reason, exc)

    def _lost(self) -> None:
        if not self._handshaking:
            super()._lost()
        elif self._on_lost is not None:
            self._on_lost(self, self._exc)


def server_connection(context: object) -> Callable[..., Connection]:
    """Return what makes a server's connections with *context*; raises as :func:`check_context`."""
    checked = check_context(context, server_side=True)
    return functools.partial(TlsConnection, context=checked, server_side=True)


def client_connection(context: object, server_hostname: str | None) -> Callable[..., TlsConnection]:
    """Return what makes a client's connections with *context*; raises as :func:`check_context`."""
    checked = check_context(context, server_side=False, server_hostname=server_hostname)
    return functools.partial(TlsConnection, context=checked, server_side=False, server_hostname=server_hostname)
