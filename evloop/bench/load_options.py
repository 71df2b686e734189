"""What a load is asked to do: the options as one checked value, and the messages that follow from them.

Rule: nothing in this file opens a socket, except to ask for an address; nor does it measure or print.
Read next: ``load.py``.
"""

from __future__ import annotations

import dataclasses
import random
import socket
from typing import Any

import evloop

PATTERNS = {
    "echo": "each message comes back as it was",
    "upper": "each comes back with its letters in upper case",
    "sink": "the server only reads",
    "source": "the server only sends: frames of one size, numbered u64 little-endian from anything, one by one",
    "connect": "connect, one message there and back, close, and again",
    "idle": "one message there and back, silence, and one more",
    "fanout": "publishers send, and the server sends each message to all other connections",
}
CHECKS = ("length", "seq", "full")

MOST_CONNECTIONS = 1_000_000  # the hard limit of open files on most machines (fs.nr_open)
MOST_IN_FLIGHT = 1 << 16  # numbers of `upper` come round after 2 ** 20
MOST_SIZE = 16 << 20
MOST_SIZES = 16  # EVB_CLASSES of _load.h
MOST_SERVERS = 64  # EVB_SERVERS
NUMBER = 8  # bytes of a payload that number it

# In flight on each connection.  A closed loop has one, as a client that waits; an open one as many as it needs: 256 on
# each of 50 connections are 0.1 s of 100,000 a second, and what does not fit waits with its clock running.
IN_FLIGHT_CLOSED = 1
IN_FLIGHT_OPEN = 256

_LETTERS = b"abcdefghijklmnopqrstuvwxyz"

# Bytes that are drawn for a filler; a longer one repeats them.  A prime, so that no misplaced block of a power of two
# looks right.
_DRAWN = 65_521


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """What a load does; made by :func:`checked`.

    Attributes:
        address: where the server is; framing: how its frames are made, None for bytes as they come.
        pattern: a key of PATTERNS; check: one of CHECKS.
        sizes: (payload bytes, share of all) of each size.
        connections, in_flight: how many, and messages on each; publishers: of a fan-out, beside the connections.
        rate: messages a second over all connections, 0 for a closed loop; poisson: random arrivals of that rate.
        duration, warmup, timeout: seconds; count: messages instead of the duration, 0 for none.
        server_pids: processes whose CPU is read; seed: of everything that is drawn.
    """

    address: evloop.Address
    framing: evloop.Framing | None = evloop.Framing.U32
    pattern: str = "echo"
    check: str = "seq"
    sizes: tuple[tuple[int, float], ...] = ((64, 1.0),)
    connections: int = 1
    in_flight: int = 0
    publishers: int = 1
    rate: float = 0.0
    poisson: bool = False
    duration: float = 10.0
    warmup: float = 1.0
    timeout: float = 10.0
    count: int = 0
    server_pids: tuple[int, ...] = ()
    seed: int = 1

    @property
    def is_open(self) -> bool:
        """Whether messages leave by a plan, whatever comes back."""
        return self.rate > 0

    @property
    def all_connections(self) -> int:
        """Connections, those of publishers included."""
        return self.connections + (self.publishers if self.pattern == "fanout" else 0)


def checked(options: LoadOptions) -> LoadOptions:
    """Return *options* with what follows filled in.

    Raises:
        ValueError: they contradict each other, or are out of range; the message names the option of the command line.
    """
    _check_ranges(options)
    _check_pattern(options)
    _check_sizes(options)
    if options.framing is None:
        # No length says where a reply ends: only its bytes tell a right one from a wrong one.
        options = dataclasses.replace(options, check="full")
    if not options.in_flight:
        single = options.pattern in ("connect", "idle") or not options.is_open
        options = dataclasses.replace(options, in_flight=IN_FLIGHT_CLOSED if single else IN_FLIGHT_OPEN)
    return options


def _check_ranges(options: LoadOptions) -> None:
    numbers: list[tuple[str, float, float, float]] = [
        ("-c", options.connections, 1, MOST_CONNECTIONS),
        ("-P", options.in_flight or 1, 1, MOST_IN_FLIGHT),
        ("--publishers", options.publishers, 1, 1000),
        ("-n", options.count or 1, 1, 10**12),
        ("-d", options.duration, 0.001, 86400),
        ("--warmup", options.warmup, 0, 3600),
        ("--timeout", options.timeout, 0.001, 3600),
        ("-R", options.rate or 1, 0.001, 1e9),
    ]
    for name, value, least, most in numbers:
        if not least <= value <= most:
            raise ValueError(f"{name} {value:g} is not within {least:g}..{most:g}")
    if len(options.server_pids) > MOST_SERVERS:
        raise ValueError(f"--server-pid is given {len(options.server_pids)} times, and {MOST_SERVERS} are the most")


def _check_pattern(options: LoadOptions) -> None:
    pattern = options.pattern
    if options.address.kind == "seqpacket":
        raise ValueError(f"{options.address} keeps packets, and the load needs a stream: use unix: or TCP")
    if options.is_open and pattern in ("connect", "idle", "source"):
        raise ValueError(f"-R has no meaning with --pattern {pattern}")
    if options.poisson and not options.is_open:
        raise ValueError("--poisson needs a rate; see -R")
    if options.in_flight > 1 and pattern in ("connect", "idle"):
        raise ValueError(f"-P {options.in_flight}: --pattern {pattern} has one message in flight on a connection")
    if options.check == "length" and pattern != "source":
        raise ValueError("--check length is for --pattern source; elsewhere the number is always checked")
    if options.count and pattern == "idle":
        raise ValueError("-n has no meaning with --pattern idle; see -d")
    if options.framing is None and pattern in ("source", "fanout"):
        raise ValueError(f"--pattern {pattern} needs frames; see --framing")


def _check_sizes(options: LoadOptions) -> None:
    if not 1 <= len(options.sizes) <= MOST_SIZES:
        raise ValueError(f"-s has {len(options.sizes)} sizes, and 1..{MOST_SIZES} are possible")
    for size, share in options.sizes:
        if not 0 <= size <= MOST_SIZE:
            raise ValueError(f"-s {size} is not within 0..{MOST_SIZE} bytes")
        if not share > 0:
            raise ValueError(f"-s {size}:{share:g}: a share is above 0")
        if options.framing is None and not size:
            raise ValueError("-s 0: without a length a message has at least one byte")
        if options.framing is not None and size > options.framing.max_frame:
            raise ValueError(f"-s {size} exceeds the {options.framing.max_frame} bytes of a frame; see --max-frame")
        if options.pattern in ("source", "fanout") and size < NUMBER:
            raise ValueError(f"-s {size}: --pattern {options.pattern} needs {NUMBER} bytes for a message's number")
    if len(options.sizes) > 1 and options.pattern in ("source", "fanout"):
        raise ValueError(f"--pattern {options.pattern} has one size; -s has {len(options.sizes)}")


def frames(options: LoadOptions) -> list[tuple[bytes, bytes, bytes, float]]:
    """Return (header, payload sent, payload expected, share) of each size."""
    made = []
    for size, share in options.sizes:
        sent = filler(size, options.seed, letters=options.pattern == "upper")
        made.append((_header(options.framing, sent), sent, sent.upper() if options.pattern == "upper" else sent, share))
    return made


def _header(framing: evloop.Framing | None, payload: bytes) -> bytes:
    """Return what stands before *payload* on the wire; bytes around the length field that are the caller's are zero."""
    if framing is None:
        return b""
    edges = {"before": bytes(framing.before - len(framing.magic)), "after": bytes(framing.after)}
    return framing.encode(payload, **edges)[: -len(payload) or None]


def filler(size: int, seed: int, *, letters: bool = False) -> bytes:
    """Return *size* bytes that are the same for the same *seed*; of a-z if *letters*."""
    draw = random.Random(seed)
    drawn = min(size, _DRAWN)
    block = bytes(draw.choices(_LETTERS, k=drawn)) if letters else draw.randbytes(drawn)
    return (block * (size // _DRAWN + 1))[:size]


def resolve(address: evloop.Address) -> tuple[int, Any]:
    """Return the family and what `socket.connect` takes; a name is looked up once, and its first address taken.

    Raises:
        OSError: there is no such name.
    """
    if address.kind == "unix":
        return socket.AF_UNIX, address.path
    address = address.for_client()
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return int(found[0][0]), found[0][4]


def case_name(options: LoadOptions) -> str:
    """Return the work as one word, by which results are compared: ``c100p16s64``, as of ``bench peers`` for an echo."""
    sizes = ",".join(f"{size}" if len(options.sizes) == 1 else f"{size}:{share:g}" for size, share in options.sizes)
    words = [] if options.pattern == "echo" else [options.pattern]
    words += ["raw"] if options.framing is None else []
    words.append(f"c{options.connections}p{options.in_flight}s{sizes}")
    words += [f"{options.publishers}publishers"] if options.pattern == "fanout" else []
    words += [f"{options.rate:g}/s{'-poisson' * options.poisson}"] if options.is_open else []
    return "-".join(words)
