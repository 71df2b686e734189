"""Every bound of the chat in one frozen value, each default argued; those of the sockets are ``evloop.Limits``.

Rule: a bound that is not here, in ``wire.py`` or in the connections' limits does not exist; nothing in this file may
know how one is kept.
"""

from __future__ import annotations

import dataclasses

import evloop
from evloop.apps.chat import wire


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatLimits:
    """What one user, one room, and all of them together, may take.

    Attributes:
        rate: messages per second (float >= 0) that a session may send on and on; 0: as many as it likes.  Who sends
            faster is read more slowly.
        burst: messages (int >= 1) that it may send at once before that.
        join_rate, join_burst: the same for joining rooms and changing nicks, which many are told of; above it they are
            refused, for a while.  Not kept if *rate* is 0.
        typing_interval: seconds (float >= 0) in which a session's `typing` is passed on once.
        session_rooms: rooms that a session may be in (int >= 1).
        room_members: users that a room may have (int >= 1).
        rooms: rooms and direct conversations that are held in memory (int >= 1).  Above it the one that has been empty
            for longest is let go of; without a database its messages are gone then.
        room_messages, room_bytes: messages of a room that are held in memory, and the bytes of their bodies and
            overhead (ints >= 1).
        total_bytes: the same bytes of all rooms together (int >= room_bytes).
        recover_bytes: bytes of messages, encoded, that one `joined` brings up to date (int >= 0, <= 256 KiB).
        page_bytes: bytes of messages, encoded, in one page of history (int >= 1, <= 256 KiB).
        quiet_members: users above which a room has no `join`, `part` and `lost` but a `count` each count_interval
            seconds (int >= 0, float > 0).
        sanctions: bans of a room, and mutes (int >= 1): one more replaces the oldest.
        ops: ops of a room (int >= 1), in the same way.
        repeats: sends of each user, by cid, that are remembered at least (int >= 1), and for at least repeat_seconds
            seconds after the user has left (float >= 0), of the last departed_users users (int >= 0).
        pending: sends that may wait for the database (int >= 1); above it they are refused, for a while.
        hello_timeout: seconds (float > 0) from the first byte in which `hello` has to come and be answered.
        ping_after: seconds (float > 0) without a message after which a client is asked whether it is there.
        dead_after: seconds (float > ping_after) without one after which its connection is given up; and for which a
            client waits for a database that does not give its room, or what is owed to who leaves.
        grace: seconds (float >= 0) for which the session of a lost connection is held.
        held_sessions: sessions that are held so (int >= 0); one more ends the one that was lost first.
        stall: seconds (float > 0) for which a client may leave more output untaken than its connection's `high_water`.

    Raises:
        ValueError: a value is out of range, or two contradict each other.
    """

    # A person types 2 to 3 messages a minute and a bot answers bursts: ten a second for good is neither.
    rate: float = 10.0
    burst: int = 20
    # A client that comes back joins all its 20 rooms at once, and perhaps a second time; nobody else needs more.
    join_rate: float = 2.0
    join_burst: int = 40
    # IRCv3's +typing sends it each 3 s; a second less so that a client's clock and the network may differ.
    typing_interval: float = 2.0
    # Each is a place in a room's array, here and in the kernel of nobody; people are in fewer.
    session_rooms: int = 20
    # One message to each of them is some 30 ms of system calls, which is the lag that everybody else feels.
    room_members: int = 10_000
    # An empty one takes about 2 KiB.
    rooms: int = 10_000
    # A day of a lively room, and what a reconnect needs many times over; both bounds are the specification's.
    room_messages: int = 1000
    room_bytes: int = 1024 * 1024
    # 256 rooms that are full to the brim; beside it 10,000 idle connections are small.
    total_bytes: int = 256 * 1024 * 1024
    # Together with what a connection may have queued before it is not read any more, 256 KiB, it stays well under the
    # 1 MiB at which it is cut; or a client on a slow line would be cut for coming back, again and again.
    recover_bytes: int = 192 * 1024
    page_bytes: int = 128 * 1024
    # In a room of n members who come and go n events reach n others; IRC servers stop being usable at some 2,000.
    quiet_members: int = 200
    count_interval: float = 5.0
    # Each has about 200 bytes, and is written down whole with each change.
    sanctions: int = 500
    ops: int = 100
    # More than a client has under way, at its rate, in 10 s of a dead connection and 10 s of looking for another.
    repeats: int = 256
    repeat_seconds: float = 300.0
    departed_users: int = 10_000
    # A second's worth of the fastest database here; a larger queue makes everybody wait longer, and nothing faster.
    pending: int = 20_000
    # Three round trips of a bad line with TLS, and no more: a stranger costs what a user costs.
    hello_timeout: float = 10.0
    # Below the 30 s after which mobile carriers forget a silent connection; the other is two pings, and time to answer.
    ping_after: float = 25.0
    dead_after: float = 60.0
    # A phone changes from Wi-Fi to mobile in 5 s, a browser reloads in 2 s; meanwhile others see a member who is not.
    grace: float = 30.0
    # All of a full server's clients, when its network fails for a moment, and as many again; each has about 2 KiB.
    held_sessions: int = 20_000
    stall: float = 10.0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int if isinstance(least, int) else (int, float)):
                raise ValueError(f"{name} must be {'an int' if isinstance(least, int) else 'a number'}, not {value!r}")
            if not least <= value < float("inf"):
                raise ValueError(f"{name} must be at least {least}, not {value}")
        for name in ("recover_bytes", "page_bytes"):
            if getattr(self, name) > wire.MAX_REPLY // 2:
                raise ValueError(f"{name} must be at most {wire.MAX_REPLY // 2}, not {getattr(self, name)}")
        if self.dead_after <= self.ping_after:
            raise ValueError(f"dead_after {self.dead_after:g} must be more than ping_after {self.ping_after:g}")
        if self.total_bytes < self.room_bytes:
            raise ValueError(f"total_bytes {self.total_bytes} is less than room_bytes {self.room_bytes}")

    def replace(self, **changes: float) -> ChatLimits:
        """Return a copy with some of the limits changed; raises as the constructor does."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


# The least value of each; an int says that only ints are taken.
_LEAST: dict[str, float] = {
    "rate": 0.0,
    "burst": 1,
    "join_rate": 0.001,
    "join_burst": 1,
    "typing_interval": 0.0,
    "session_rooms": 1,
    "room_members": 1,
    "rooms": 1,
    "room_messages": 1,
    "room_bytes": 1,
    "total_bytes": 1,
    "recover_bytes": 0,
    "page_bytes": 1,
    "quiet_members": 0,
    "count_interval": 0.001,
    "sanctions": 1,
    "ops": 1,
    "repeats": 1,
    "repeat_seconds": 0.0,
    "departed_users": 0,
    "pending": 1,
    "hello_timeout": 0.001,
    "ping_after": 0.001,
    "dead_after": 0.001,
    "grace": 0.0,
    "held_sessions": 0,
    "stall": 0.001,
}

# Of the connections.  A member is sent unasked, so that what it does not take is bounded at all; above high_water it is
# not read either.  16 from one address is a household or a small office; a larger one says so.
CONNECTION_LIMITS = evloop.Limits(
    max_per_address=16,
    high_water=256 * 1024,
    low_water=64 * 1024,
    max_output=1024 * 1024,
    max_buffered=256 * 1024 * 1024,
    write_timeout=15.0,  # who has more than high_water untaken for 10 s is told, by the chat; this is for the others
    first_frame_timeout=15.0,  # for who says nothing; who says hello too late is told so, after hello_timeout
    frame_timeout=30.0,
    notsent_lowat=128 * 1024,
    keepalive=60,
    user_timeout=110.0,
)
