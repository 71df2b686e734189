"""A connection: one stream of whole frames.  The door of the seam, and its contract.

- A read takes at most one shared buffer, 256 KiB; its frames are delivered in order, in one ``frames_received`` or one
  ``frame_received`` each; the answers leave with one send.
- Flow: ``pause_reading`` holds from the next frame on.  Above ``Limits.high_water`` of output the connection calls
  ``pause_writing`` and stops reading, until the output is down to ``Limits.low_water``.
- Bounds: an open connection has at most one timer, for the nearest of its deadlines; traffic only notes the time.  What
  it holds (``stats.output`` and ``stats.input``) it reports to a :class:`Budget`, if it was given one, after each read
  and flush.  Above ``max_output`` it is reset by the ``send`` that passes it, with what the kernel takes left out.
- Handing over: ``set_protocol`` and ``set_framing`` give what was not delivered to another protocol, read another way.
- Groups: what a :class:`evloop.Group` sends is appended to the output and flushed before the next wait; a connection
  leaves its groups when it begins to close.
- The end: exactly one ``connection_lost(exc)`` for each ``connection_made``, in a turn of its own, with
  ``conn.close_reason`` a :class:`CloseReason`.  Frames that came before a fault, an end of the stream or a reset are
  delivered first.

The door chooses as the others do, and takes the pure twin where the reactor or the framing is.  ``IMPLEMENTATION`` is
``"cython"`` or ``"python"``.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from evloop import framing, reactor
from evloop._connection_pull import Puller
from evloop._connection_shared import ConnectionStats

__all__ = ["IMPLEMENTATION", "Budget", "Connection", "ConnectionStats", "Puller", "accept", "puller_of"]

if TYPE_CHECKING or "python" in (framing.IMPLEMENTATION, reactor.IMPLEMENTATION):
    from evloop._connection_py import IMPLEMENTATION, Connection
    from evloop._connection_shared import Budget
    from evloop.sockets import accept

    _PULLERS: tuple[type, ...] = (Puller,)
else:
    try:
        from evloop._connection import IMPLEMENTATION, Budget, Connection, accept
        from evloop._connection import Puller as _CompiledPuller

        _PULLERS = (Puller, _CompiledPuller)
    except ModuleNotFoundError as exc:
        # Only the absence of the extension itself: something that it imports and does not find is a broken build.
        if exc.name != "evloop._connection":
            raise
        warnings.warn(
            "evloop._connection is not built: connections run in plain Python, several times slower; "
            "reinstall with a C compiler, or set EVLOOP_PURE=1 to accept it",
            RuntimeWarning,
            stacklevel=2,
        )
        from evloop._connection_py import IMPLEMENTATION, Connection
        from evloop._connection_shared import Budget
        from evloop.sockets import accept

        _PULLERS = (Puller,)


def puller_of(conn: Connection) -> Puller | None:
    """Return the connection's protocol, if that takes the frames itself, for a coroutine; else None."""
    protocol: object = conn.protocol
    return protocol if isinstance(protocol, _PULLERS) else None  # type: ignore[return-value]
