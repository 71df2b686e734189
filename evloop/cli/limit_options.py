"""The limits as options of ``evloop serve``: a flag and a variable for each field of :class:`evloop.Limits`.

The names, and what they mean, are those of Limits; the defaults are stricter, since who runs a server from the command
line has no code of his own that would bound anything.  ``max_frame`` is an option of the framing.

Rule: nothing in this file may do anything but parse.  Read next: ``options.py``, ``serve.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import click

import evloop
from evloop.cli.commands import SectionedOption
from evloop.cli.options import DURATION, SIZE, WHOLE_SECONDS
from evloop.cli.tls import SECTION as TLS

EPILOG = (
    "Each limit is also an environment variable: --idle-timeout is EVLOOP_IDLE_TIMEOUT. 0 is no limit, where there can "
    "be none."
)


class _Row(NamedTuple):
    """One limit: its field, its default as it is written on a command line, its type, and the help."""

    field: str
    default: str
    type: Any
    help: str


_COUNT = click.IntRange(min=0)

# Where it is not said otherwise, the defaults are those of servers that are trusted: Redis, NATS, nginx, HAProxy.
_SECTIONS: dict[str, tuple[_Row, ...]] = {
    TLS: (_Row("handshake_timeout", "10s", DURATION, "TLS, where there is any, has to be established within."),),
    "Limits: how many": (
        _Row("max_connections", "10000", _COUNT, "Refuse more; 0: as many as there are file descriptors."),
        _Row("max_per_address", "0", _COUNT, "Refuse more from one address; loopback is exempt."),
        _Row("backlog", "1024", click.IntRange(1, 0x7FFFFFFF), "Queued by the kernel before they are accepted."),
    ),
    "Limits: time": (
        # A vanished peer is noticed by little else; five minutes is what people expect of a server they type to.
        _Row("idle_timeout", "5m", DURATION, "Close a connection on which nothing moves for so long."),
        _Row("first_frame_timeout", "10s", DURATION, "The first whole message has to come within."),
        _Row("frame_timeout", "30s", DURATION, "A message that has begun has to be whole within."),
        _Row("write_timeout", "30s", DURATION, "Close a peer that takes none of its output for so long."),
        _Row("flush_timeout", "5s", DURATION, "The same while closing."),
        _Row("linger", "2s", DURATION, "Then wait so long for the peer's own end."),
        _Row("drain_timeout", "8s", DURATION, "Reset who is left so long after SIGTERM."),
    ),
    "Limits: memory": (
        _Row("high_water", "64K", SIZE, "Output of a connection above which it is not read."),
        _Row("low_water", "16K", SIZE, "Output at which it is read again."),
        _Row("max_output", "0", SIZE, "Output above which it is closed at once."),
        _Row("soft_output", "0", SIZE, "Output above which it is closed after --soft-output-timeout."),
        _Row("soft_output_timeout", "0", DURATION, "See --soft-output."),
        _Row("max_buffered", "256M", SIZE, "All connections together; above it those that hold most are closed."),
    ),
    "Limits: kept by the kernel, TCP only": (
        _Row("notsent_lowat", "128K", SIZE, "Output of a connection that the kernel takes ahead."),
        _Row("keepalive", "60s", WHOLE_SECONDS, "Ask a silent peer whether it is there, after so long."),
        _Row("keepalive_interval", "15s", WHOLE_SECONDS, "Ask again after so long."),
        _Row("keepalive_count", "4", click.IntRange(1, 127), "Reset after so many questions without an answer."),
        # Above write_timeout, which knows slow peers from dead ones, and below keepalive + interval * count.
        _Row("user_timeout", "110s", DURATION, "Reset when output is not acknowledged for so long."),
    ),
}


def limit_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an argument for each limit, by the name of its field; :func:`limits_of` takes them."""
    rows = [(section, row) for section, rows in _SECTIONS.items() for row in rows]
    for section, row in reversed(rows):
        option = click.option(
            f"--{row.field.replace('_', '-')}",
            cls=SectionedOption,
            section=section,
            type=row.type,
            metavar="N" if isinstance(row.type, click.IntRange) else None,
            default=row.default,
            show_default=True,
            envvar=f"EVLOOP_{row.field.upper()}",
            help=row.help,
        )
        function = option(function)
    return function


def limits_of(values: dict[str, Any]) -> evloop.Limits:
    """Return the limits that the options of :func:`limit_options` were set to.

    click.UsageError: one is out of range, or two contradict each other.
    """
    try:
        return evloop.Limits(**values)
    except ValueError as exc:
        raise click.UsageError(str(exc), click.get_current_context(silent=True)) from None
