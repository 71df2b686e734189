"""``evloop serve echo`` and ``evloop serve upper``: a server in the foreground, until SIGTERM or Ctrl-C.

Rule: nothing in this file may treat a frame; handlers live in ``evloop.apps``.  Read next: ``foreground.py``.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

import evloop
from evloop.apps import echo
from evloop.cli.admin import AdminPort, admin_option
from evloop.cli.commands import Command, Commands
from evloop.cli.foreground import as_called, in_foreground, log_as_asked, port_file_option
from evloop.cli.limit_options import EPILOG, limit_options, limits_of
from evloop.cli.options import (
    ADDRESS,
    DEFAULT_FRAMING,
    Settings,
    framing_options,
    framing_within,
    verbosity_options,
)
from evloop.cli.serve_chat import chat
from evloop.cli.tls import server_context, server_tls_options

if TYPE_CHECKING:
    from ssl import SSLContext


@click.group(
    "serve",
    cls=Commands,
    examples=("evloop serve echo", "evloop serve upper :9000 --framing varint", "evloop serve echo --help"),
    subcommand_metavar="PROGRAM [ADDR] [OPTIONS]",
)
@verbosity_options
def command() -> None:
    """Run a server in the foreground; SIGTERM or Ctrl-C ends it in good order."""


def _add(name: str, handler: Any, text: str, examples: Sequence[str]) -> None:
    """Make ``evloop serve NAME`` of a handler."""

    @command.command(
        name, cls=Command, help=text, short_help=text.partition(".")[0] + ".", epilog=EPILOG, examples=examples
    )
    @click.argument("address", type=ADDRESS, default="127.0.0.1:9000", metavar="[ADDR]")
    @framing_options
    @limit_options
    @port_file_option
    @admin_option
    @server_tls_options
    @verbosity_options
    @click.pass_obj
    def serve(
        settings: Settings,
        /,
        address: evloop.Address,
        framing: str,
        max_frame: int | None,
        port_file: str,
        admin: evloop.Address | None,
        tls_cert: str | None,
        tls_key: str | None,
        tls_ca: str | None,
        **limits: Any,
    ) -> None:
        ssl = server_context(tls_cert, tls_key, tls_ca)
        log_as_asked(settings)
        hints = settings.verbosity >= 0
        _serve(handler, address, framing, max_frame, limits_of(limits), ssl, port_file, AdminPort(admin), hints=hints)


_ADDR = (
    "ADDR: host:port, [::1]:port, :port (every interface), port, unix:/path, seqpacket:/path; port 0 takes a free one."
)
_add(
    "echo",
    echo.Echo,
    f"Send every message back as it came. {_ADDR}",
    (
        "evloop serve echo                         # 127.0.0.1:9000",
        "evloop serve echo :0 --idle-timeout 30s   # any free port; read the LISTENING line",
        "evloop serve echo unix:/tmp/echo.sock --framing none",
        "evloop serve echo seqpacket:/tmp/echo.sock --framing none    # each packet is a message",
        "evloop serve echo :9000 --tls-cert server.pem --tls-key server.key",
    ),
)
_add(
    "upper",
    echo.upper,
    f"Send every message back with its letters a-z in upper case. {_ADDR}",
    (
        "evloop serve upper                        # 127.0.0.1:9000",
        "evloop serve upper :9000 --framing i      # for clients with struct.pack('i', n)",
        "evloop serve upper [::1]:0 --max-frame 64K",
    ),
)


command.add_command(chat)


def _serve(
    handler: Any,
    address: evloop.Address,
    framing_name: str,
    max_frame: int | None,
    limits: evloop.Limits,
    ssl: SSLContext | None,
    port_file: str,
    admin: AdminPort,
    *,
    hints: bool,
) -> None:
    framing = framing_within(framing_name, max_frame)

    def run(**options: Any) -> None:
        evloop.serve(handler, address, framing=framing, limits=limits, ssl=ssl, **options)

    def talk(server: evloop.Server) -> list[str]:
        return how_to_talk(server.address, framing_name, tls=ssl is not None)

    in_foreground(run, address, ssl, port_file, admin, talk if hints else None)


def how_to_talk(address: evloop.Address, framing_name: str, *, tls: bool = False) -> list[str]:
    """Return the lines that tell a person how to reach the server at *address*, to be copied into a shell."""
    target = address.for_client()
    options = "" if framing_name == DEFAULT_FRAMING else f" --framing {framing_name}"
    options += " --tls" if tls else ""
    lines = [f"  type to it:     {as_called()} connect {shlex.quote(str(target))}{options}"]
    # nc knows no abstract names, no packets, and no TLS.
    if not tls and not target.path.startswith("@") and target.kind != "seqpacket":
        where = f"-U {shlex.quote(target.path)}" if target.kind == "unix" else f"{target.host} {target.port}"
        lines.append(f"  one message:    printf '{_octal(framing_name)}hello' | nc -q1 {where} | xxd")
    lines.append("  stop it:        Ctrl-C, or kill " + str(os.getpid()))
    return lines


def _octal(framing_name: str) -> str:
    r"""Return the header of a message of five bytes for printf(1): ``\0\0\0\5``.  No digit may follow it."""
    framing = framing_within(framing_name, None)
    return "" if framing is None else "".join(f"\\{byte:o}" for byte in framing.encode(b"hello")[: -len(b"hello")])
