"""A connection: one stream of whole frames.  The door of the seam, and its contract.

- A read takes at most one shared buffer, 256 KiB; its frames are delivered in order, in one ``frames_received`` or one
  ``frame_received`` each; the answers leave with one send.
- Flow: ``pause_reading`` holds from the next frame on.  Above ``Limits.high_water`` of output the connection calls
  ``pause_writing`` and stops reading, until the output is down to ``Limits.low_water``.
- Bounds: an open connection has at most one timer, for the nearest of its deadlines; traffic only notes the time.  What
  it holds (``stats.output`` and ``stats.input``) it reports to a :class:`Budget`, if it was given one, after each read
  and flush.  Above ``max_output`` it is reset by the ``send`` that passes it, with what the kernel takes left out.
- The end: exactly one ``connection_lost(exc)`` for each ``connection_made``, in a turn of its own, with
  ``conn.close_reason`` a :class:`CloseReason`.  Frames that came before a fault, an end of the stream or a reset are
  delivered first.
"""

from evloop._connection_py import IMPLEMENTATION, Connection
from evloop._connection_shared import Budget, ConnectionStats

__all__ = ["IMPLEMENTATION", "Budget", "Connection", "ConnectionStats"]
