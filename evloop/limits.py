"""Every bound of a connection and of a server, in one frozen value with each default argued.

Rule: a bound that is not here does not exist for the user; nothing in this file may know how a bound is kept.
"""

from __future__ import annotations

import dataclasses
import sys


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one peer, and all of them together, may take.  For times and counts, 0 means no bound.

    Attributes:
        max_connections: connections a server holds (int >= 0); one more is accepted and closed at once.  0: as many as
            the process may have file descriptors, less HEAD_ROOM.
        max_per_address: connections of a server from one IPv4 address or one IPv6 /64 (int >= 0); one more is accepted
            and closed at once.  Loopback and UNIX peers are exempt.
        backlog: connections the kernel queues before they are accepted (int >= 1), at most ``somaxconn``.
        max_frame: payload bytes of one frame, in both directions (int >= 0); None: the framing's own bound.
        high_water: output bytes that a connection holds (int >= 0) above which it calls ``pause_writing`` and stops
            reading: whoever does not take the answers gets no more questions answered.
        low_water: output bytes (0..high_water) at which it calls ``resume_writing`` and reads again.
        max_output: output bytes above which a connection is closed at once (int >= 0): those that neither the peer nor
            the kernel takes.  One callback may add as much as it likes; what the kernel takes of it does not count.
        soft_output: output bytes (int >= 0, at most max_output) above which it is closed after soft_output_timeout
            seconds (float >= 0) without coming down to it.  Both or none.
        max_buffered: bytes that all connections of a server hold together (int >= 0): unfinished frames, frames not
            delivered, output.  Above it those that hold most are closed until a fifth of it is free: the largest
            output first, if it is more than an equal share, then the largest input.
        write_timeout: seconds for which output may wait while the peer takes none of it, before it is closed at once
            (float >= 0).  A peer that takes something in each half of that time is never closed.
        idle_timeout: seconds without a byte in either direction after which a connection is closed (float >= 0).
        first_frame_timeout: seconds from its start in which the first whole frame (without framing: any byte) has to
            come (float >= 0).  Absolute: an idle timeout is kept off by a byte now and then.
        frame_timeout: seconds in which a frame has to be whole once its first byte was read (float >= 0).  Neither of
            the two runs while the connection does not read; it then begins anew.
        notsent_lowat: bytes of output that the kernel takes of a TCP connection beyond what is on its way (int >= 0; 0:
            as many as its buffer holds, which grows to megabytes).  TCP_NOTSENT_LOWAT.
        keepalive: seconds without a packet after which the kernel asks a TCP peer whether it is there (int 0..32767).
        keepalive_interval: seconds until it asks again (int 1..32767).
        keepalive_count: questions without an answer after which the connection is reset (int 1..127).
        user_timeout: seconds after which the kernel resets a TCP connection of which it has sent something that is not
            acknowledged, or cannot send because the peer's window is closed (float >= 0, at most 2147483).  Keepalive
            alone does not find a dead peer while there is output under way.  TCP_USER_TIMEOUT.
        handshake_timeout: seconds from the accept, or from the connect, in which TLS must be established (float >= 0).
        flush_timeout: seconds that a closing connection waits while the peer takes nothing of the rest of its output
            (float > 0); a peer that takes some is waited for.
        linger: seconds that closing then waits for the peer's end of the stream, discarding what still comes
            (float >= 0).  Closed at once, the kernel would answer unread bytes with a reset, and that can destroy the
            last answer on its way.
        drain_timeout: seconds that a stopping server gives all its connections to do both (float >= 0).

    Raises:
        TypeError, ValueError: a value is of the wrong type, out of range, or low_water exceeds high_water.
    """

    max_connections: int = 0
    # Behind a proxy or a company's NAT all peers have one address, so only who knows the network can say.
    max_per_address: int = 0
    # A burst of connects during a turn of 0.1 s at 10,000 a second; the kernel cuts it to somaxconn, 4096 today.
    backlog: int = 1024
    max_frame: int | None = None
    # asyncio's marks: one socket buffer's worth, and a quarter of it, so that reading does not flap.
    high_water: int = 64 * 1024
    low_water: int = 16 * 1024
    # A connection of which reading stops above high_water is bounded by that; who sends unasked has to say how much.
    max_output: int = 0
    soft_output: int = 0
    soft_output_timeout: float = 0.0
    # What is free depends on the machine and on what else runs there.
    max_buffered: int = 0
    write_timeout: float = 0.0
    idle_timeout: float = 0.0
    # What is honest depends on the line and on max_frame, which the application knows.
    first_frame_timeout: float = 0.0
    frame_timeout: float = 0.0
    # The kernel's own, which an operator may have set for the whole machine.
    notsent_lowat: int = 0
    keepalive: int = 0
    keepalive_interval: int = 15
    keepalive_count: int = 4
    user_timeout: float = 0.0
    # Two round trips and several retransmissions; a client that is slower than that is not about to send much.
    handshake_timeout: float = 10.0
    # Several retransmissions on a poor line; a peer that is alive acknowledges something in that time.
    flush_timeout: float = 5.0
    # Long enough for a round trip and a retransmission, short enough that peers which never close cost little.
    linger: float = 2.0
    # Below the 10 s after which container runtimes kill a process that was asked to stop.
    drain_timeout: float = 8.0

    def __post_init__(self) -> None:
        for name, least, most in _INTEGERS:
            _integer(name, getattr(self, name), least, most)
        if self.max_frame is not None:
            _integer("max_frame", self.max_frame, 0, None)
        for name in _SECONDS:
            _seconds(name, getattr(self, name))
        if self.user_timeout > _USER_TIMEOUT_MAX:
            raise ValueError(f"user_timeout must be at most {_USER_TIMEOUT_MAX}, not {self.user_timeout}")
        if self.flush_timeout == 0:
            raise ValueError(
                "flush_timeout must be more than 0: a peer that takes nothing would hold a closing connection"
            )
        if self.low_water > self.high_water:
            raise ValueError(f"low_water {self.low_water} exceeds high_water {self.high_water}")
        if self.soft_output > self.max_output > 0:
            raise ValueError(f"soft_output {self.soft_output} exceeds max_output {self.max_output}")
        if (self.soft_output > 0) != (self.soft_output_timeout > 0):
            raise ValueError(
                f"soft_output {self.soft_output} and soft_output_timeout {self.soft_output_timeout} need each other"
            )

    def replace(self, **changes: float | None) -> Limits:
        """Return a copy with some of the limits changed; raises as the constructor does."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


# Name, least and most; the bounds of the kernel's options are Linux's: MAX_TCP_KEEPIDLE and its like in net/tcp.h, and
# what fits a C int.
_INTEGERS: tuple[tuple[str, int, int | None], ...] = (
    ("max_connections", 0, None),
    ("max_per_address", 0, None),
    ("backlog", 1, None),
    ("high_water", 0, None),
    ("low_water", 0, None),
    ("max_output", 0, None),
    ("soft_output", 0, None),
    ("max_buffered", 0, None),
    ("notsent_lowat", 0, 0x7FFFFFFF),
    ("keepalive", 0, 32767),
    ("keepalive_interval", 1, 32767),
    ("keepalive_count", 1, 127),
)
_USER_TIMEOUT_MAX = 0x7FFFFFFF // 1000  # the kernel has it as a C int of milliseconds
_SECONDS = (
    "soft_output_timeout",
    "write_timeout",
    "user_timeout",
    "idle_timeout",
    "handshake_timeout",
    "first_frame_timeout",
    "frame_timeout",
    "flush_timeout",
    "linger",
    "drain_timeout",
)

# File descriptors that a server leaves free of connections: its own, logs, and what the application opens.
HEAD_ROOM = 64


def _integer(name: str, value: object, least: int, most: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most}, not {value}")


def _seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    # sys.float_info.max and not inf: an int may be larger than any float, and fail where the clock is added to it.
    if not 0 <= value <= sys.float_info.max:
        raise ValueError(f"{name} must be a finite number of seconds >= 0, not {value}")
