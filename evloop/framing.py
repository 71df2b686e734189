"""Length-prefixed framing: the wire format as a value, and the decoder that cuts a stream into frames.

This is the door of the framing seam.  It chooses between two implementations that behave alike, byte for byte and
error for error: ``_framing`` (Cython) and ``_framing_py`` (plain Python, the readable reference).

- ``EVLOOP_PURE=1`` in the environment chooses the pure one; unset, empty or ``0`` the compiled one.
- An extension that is *absent* falls back to the pure one with a RuntimeWarning.  One that is *broken* (another
  Python's, a missing symbol) is an ImportError: running ten times slower in silence helps nobody.

``IMPLEMENTATION`` is ``"cython"`` or ``"python"``.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from evloop._framing_spec import DEFAULT_MAX_FRAME, DecoderStats
from evloop._implementation import pure_wanted

__all__ = ["DEFAULT_MAX_FRAME", "IMPLEMENTATION", "DecoderStats", "FrameDecoder", "Framing", "pure_wanted"]

if TYPE_CHECKING or pure_wanted():
    from evloop._framing_py import IMPLEMENTATION, FrameDecoder, Framing
else:
    try:
        from evloop._framing import IMPLEMENTATION, FrameDecoder, Framing
    except ModuleNotFoundError as exc:
        # Only the absence of the extension itself: something that it imports and does not find is a broken build.
        if exc.name != "evloop._framing":
            raise
        warnings.warn(
            "evloop._framing is not built: framing runs in plain Python, about ten times slower; "
            "reinstall with a C compiler, or set EVLOOP_PURE=1 to accept it",
            RuntimeWarning,
            stacklevel=2,
        )
        from evloop._framing_py import IMPLEMENTATION, FrameDecoder, Framing
