"""The options and values that several commands share: addresses, framings, sizes, durations, verbosity.

Rule: nothing in this file may do anything but parse.  Read next: ``serve.py``, ``connect.py``.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

import evloop

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # generic in recent releases only

F = TypeVar("F", bound=Callable[..., Any])

# None is the unframed mode: bytes as they come.
FRAMINGS: dict[str, evloop.Framing | None] = {
    "u32be": evloop.Framing.U32,
    "u32le": evloop.Framing.U32LE,
    "u16be": evloop.Framing.U16,
    "u64be": evloop.Framing.U64,
    "varint": evloop.Framing.VARINT,
    "i": evloop.Framing.from_struct("i"),
    "none": None,
}
DEFAULT_FRAMING = "u32be"

_SIZE = re.compile(r"([0-9]{1,18})(?:([KMG])(?:iB)?|B)?", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)?")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}


@dataclasses.dataclass
class Settings:
    """What options that every command has were set to; the ``obj`` of click's contexts.

    Attributes:
        verbosity: -v counted up, -q counted down (int); from 2 on errors come with a traceback.
    """

    verbosity: int = 0


def parse_size(text: str) -> int:
    """Return the bytes that *text* means: ``512``, ``64K``, ``1M``, ``2GiB``; the units are powers of 1024.

    ValueError: it means none.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"bad size {text[:64]!r}; write bytes, or a number with K, M or G: 64K, 1M")
    return int(match[1]) * _SIZE_UNITS[(match[2] or "").upper()]


def parse_duration(text: str) -> float:
    """Return the seconds that *text* means: ``30``, ``1.5s``, ``500ms``, ``5m``, ``2h``.  ValueError: it means none."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"bad duration {text[:64]!r}; write seconds, or a number with ms, s, m or h: 500ms, 5m")
    return float(match[1]) * _DURATION_UNITS[match[2] or ""]


def parse_whole_seconds(text: str) -> int:
    """Return the seconds that *text* means, as :func:`parse_duration`, if the kernel can count them: ``60``, ``1m``.

    ValueError: it means none, or a part of one.
    """
    seconds = parse_duration(text)
    if seconds != int(seconds):
        raise ValueError(f"bad duration {text[:64]!r}; the kernel counts whole seconds here: 1s, 2m")
    return int(seconds)


class Parsed(ParamType):
    """A parameter that one function parses; what it raises is the message."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


ADDRESS = Parsed("addr", evloop.parse_address)
SIZE = Parsed("size", parse_size)
DURATION = Parsed("seconds", parse_duration)
WHOLE_SECONDS = Parsed("seconds", parse_whole_seconds)


def framing_within(name: str, max_frame: int | None) -> evloop.Framing | None:
    """Return the framing called *name* with the bound *max_frame* (bytes, None: its own); None for ``none``.

    click.UsageError: the bound exceeds what the framing can announce.
    """
    framing = FRAMINGS[name]
    if framing is None or max_frame is None:
        return framing
    try:
        return framing.replace(max_frame=max_frame)
    except ValueError as exc:
        text = f"--max-frame {max_frame} does not fit --framing {name}: {exc}"
        raise click.UsageError(text, click.get_current_context()) from None


def framing_options(function: F) -> F:
    """Give a command ``framing`` (a key of FRAMINGS) and ``max_frame`` (bytes, or None)."""
    framing = click.option(
        "--framing",
        type=click.Choice(list(FRAMINGS)),
        default=DEFAULT_FRAMING,
        show_default=True,
        envvar="EVLOOP_FRAMING",
        show_envvar=True,
        help="Length before each message; i: the tutorials' struct.pack('i', n); none: bytes as they come.",
    )
    max_frame = click.option(
        "--max-frame",
        type=SIZE,
        show_default="1M, or what the framing can announce",
        envvar="EVLOOP_MAX_FRAME",
        show_envvar=True,
        help="Longest message, in both directions; without framing nothing is bounded.",
    )
    return framing(max_frame(function))


def verbosity_options(function: F) -> F:
    """Give a command -v and -q; they set :class:`Settings`, wherever they stand on the line."""
    verbose = click.option(
        "-v", "--verbose", count=True, expose_value=False, callback=_louder, help="Say more; -vv: and tracebacks."
    )
    quiet = click.option("-q", "--quiet", count=True, expose_value=False, callback=_quieter, help="Say less.")
    return verbose(quiet(function))


def _louder(ctx: click.Context, param: click.Parameter, count: int) -> None:
    ctx.ensure_object(Settings).verbosity += count


def _quieter(ctx: click.Context, param: click.Parameter, count: int) -> None:
    ctx.ensure_object(Settings).verbosity -= count


def is_local(address: evloop.Address) -> bool:
    """Return whether only this machine can reach what listens on *address* (with a number for the host)."""
    if address.is_unix:
        return True
    ip = ipaddress.ip_address(address.host)
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback
