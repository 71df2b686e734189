"""``evloop serve echo`` and ``evloop serve upper``: a server in the foreground, until SIGTERM or Ctrl-C.

``--port-file`` and a service manager are told, too; sockets that the manager has opened are taken instead of ADDR.

stdout gets one line per address that is listened on, ``LISTENING tcp 127.0.0.1:9000``, once connecting would succeed:
a script waits for that.  What is for people, hints and logs, goes to stderr.

Rule: nothing in this file may treat a frame; handlers live in ``evloop.apps``.  Read next: ``options.py``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

import evloop
from evloop import systemd
from evloop.apps import echo
from evloop.cli import exits
from evloop.cli.admin import AdminPort, admin_option
from evloop.cli.commands import Command, Commands
from evloop.cli.limit_options import EPILOG, limit_options, limits_of
from evloop.cli.logs import log_to_stderr
from evloop.cli.options import (
    ADDRESS,
    DEFAULT_FRAMING,
    Settings,
    framing_options,
    framing_within,
    is_local,
    verbosity_options,
)
from evloop.cli.readiness import PortFile
from evloop.cli.standard_streams import forget_stdout
from evloop.cli.tls import check_streams, server_context, server_tls_options
from evloop.sockets import explain_bind_error, local_address

if TYPE_CHECKING:
    from ssl import SSLContext

logger = logging.getLogger("evloop")

# -qq, -q, nothing, -v.
_LEVELS = {-2: logging.ERROR, -1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}


@click.group(
    "serve",
    cls=Commands,
    examples=("evloop serve echo", "evloop serve upper :9000 --framing varint", "evloop serve echo --help"),
    subcommand_metavar="PROGRAM [ADDR] [OPTIONS]",
)
@verbosity_options
def command() -> None:
    """Run a server in the foreground; SIGTERM or Ctrl-C ends it in good order."""


def _port_file_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--port-file",
        metavar="PATH",
        default="",
        envvar="EVLOOP_PORT_FILE",
        show_envvar=True,
        help="Write the addresses there, as JSON, once connecting would succeed; removed at the end.",
    )(function)


def _add(name: str, handler: Any, text: str, examples: Sequence[str]) -> None:
    """Make ``evloop serve NAME`` of a handler."""

    @command.command(
        name, cls=Command, help=text, short_help=text.partition(".")[0] + ".", epilog=EPILOG, examples=examples
    )
    @click.argument("address", type=ADDRESS, default="127.0.0.1:9000", metavar="[ADDR]")
    @framing_options
    @limit_options
    @_port_file_option
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
        log_to_stderr(_LEVELS[min(max(settings.verbosity, -2), 1)], tracebacks=settings.verbosity >= 2)
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
    manager = systemd.ServiceManager()
    inherited = _inherited_sockets()  # first: an fd that is missing there must not be found to be a file of ours
    check_streams(ssl, map(local_address, inherited) if inherited else [address])
    listening = False

    def ready(server: evloop.Server) -> None:
        nonlocal listening
        listening = True
        admin.open(server)
        file.write(server.addresses)
        _announce(server, framing_name, ssl, hints=hints)
        admin.announce()
        manager.ready(server.reactor)

    with contextlib.ExitStack() as stack:
        for sock in inherited:
            stack.enter_context(sock)  # until the server has them
        file = stack.enter_context(PortFile(port_file))
        stack.enter_context(admin)
        try:
            evloop.serve(
                handler,
                address,
                framing=framing,
                limits=limits,
                sockets=inherited or None,
                ssl=ssl,
                ready=ready,
                stopping=lambda server: manager.stopping(),
            )
        except OSError as exc:
            if listening:
                raise
            raise exits.Failure(explain_bind_error(address, exc), exits.CANNOT_CONNECT) from exc
    logger.info("stopped")


def _inherited_sockets() -> list[socket.socket]:
    """Return the sockets to accept on instead of ADDR, if there are any."""
    try:
        sockets = [sock for _, sock in systemd.inherited_sockets()]
    except ValueError as exc:
        raise exits.Failure(f"cannot listen on the sockets of LISTEN_FDS: {exc}", exits.CANNOT_CONNECT) from exc
    if sockets:
        logger.info("LISTEN_FDS: %d sockets to accept on; ADDR is not looked at", len(sockets))
    return sockets


def _announce(server: evloop.Server, framing_name: str, ssl: SSLContext | None, *, hints: bool) -> None:
    """Say where the server listens: to programs on stdout, to people on stderr."""
    lines = "".join(f"LISTENING {address.label}\n" for address in server.addresses)
    try:
        sys.stdout.write(lines)
        sys.stdout.flush()
    except OSError:
        # Whoever started the server does not want to know: no reason not to serve.  What the buffer still holds must
        # not fail again when the interpreter ends.
        forget_stdout()
    if hints:
        with contextlib.suppress(OSError):
            click.echo("\n".join(how_to_talk(server.address, framing_name, tls=ssl is not None)), err=True)
    exposed = [str(address) for address in server.addresses if not is_local(address)]
    if exposed and not (ssl and ssl.verify_mode):
        lacking = "no password and no client certificate" if ssl else "no TLS and no password"
        logger.warning("%s can be reached from the network, and there is %s", ", ".join(exposed), lacking)


def how_to_talk(address: evloop.Address, framing_name: str, *, tls: bool = False) -> list[str]:
    """Return the lines that tell a person how to reach the server at *address*, to be copied into a shell."""
    target = address.for_client()
    options = "" if framing_name == DEFAULT_FRAMING else f" --framing {framing_name}"
    options += " --tls" if tls else ""
    lines = [f"  type to it:     evloop connect {shlex.quote(str(target))}{options}"]
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
