"""A server in the foreground of a terminal, or under a service manager: what every ``evloop serve`` does around it.

stdout gets one line per address that is listened on, ``LISTENING tcp 127.0.0.1:9000``, once connecting would succeed:
a script waits for that.  ``--port-file`` and a service manager are told, too; sockets that the manager has opened are
taken instead of ADDR.  What is for people, hints and logs, goes to stderr.

Rule: nothing in this file may know what is served.  Read next: ``serve.py``, ``serve_chat.py``.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

import evloop
from evloop import systemd
from evloop.cli import exits
from evloop.cli.admin import AdminPort
from evloop.cli.logs import log_to_stderr
from evloop.cli.options import Settings, is_local
from evloop.cli.readiness import PortFile
from evloop.cli.standard_streams import forget_stdout
from evloop.cli.tls import check_streams
from evloop.sockets import explain_bind_error, local_address

if TYPE_CHECKING:
    from ssl import SSLContext

logger = logging.getLogger("evloop")

# -qq, -q, nothing, -v.
_LEVELS = {-2: logging.ERROR, -1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}


def log_as_asked(settings: Settings) -> None:
    """Send the log to stderr, as much of it as -v and -q ask for."""
    log_to_stderr(_LEVELS[min(max(settings.verbosity, -2), 1)], tracebacks=settings.verbosity >= 2)


def port_file_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``port_file``: a path, or ""."""
    return click.option(
        "--port-file",
        metavar="PATH",
        default="",
        envvar="EVLOOP_PORT_FILE",
        show_envvar=True,
        help="Write the addresses there, as JSON, once connecting would succeed; removed at the end.",
    )(function)


def _itself(server: Any) -> tuple[evloop.Server, dict[str, Any]]:
    return server, {}


def in_foreground(
    run: Callable[..., None],
    address: evloop.Address,
    ssl: SSLContext | None,
    port_file: str,
    admin: AdminPort,
    talk: Callable[[Any], list[str]] | None,
    *,
    password: bool = False,
    inside: Callable[[Any], tuple[evloop.Server, dict[str, Any]]] = _itself,
) -> None:
    """Run a server until it ends, and tell everybody who waits for it where it listens.

    Args:
        run: called with ``sockets``, ``ready`` and ``stopping``, which mean what they do for :func:`evloop.serve`; what
            it gives to the last two has ``addresses``, ``address`` and ``reactor``.
        talk: returns the lines that tell people how to reach it; None: they are told nothing.
        password: True if nobody is let in without one.
        inside: returns the :class:`evloop.Server` in it, and what more the admin port is to show.
    Raises:
        exits.Failure: the address, or the file, cannot be had.
    """
    manager = systemd.ServiceManager()
    inherited = _inherited_sockets()  # first: an fd that is missing there must not be found to be a file of ours
    check_streams(ssl, map(local_address, inherited) if inherited else [address])
    listening = False

    def ready(server: Any) -> None:
        nonlocal listening
        listening = True
        gc.freeze()  # what was imported stays; a full collection looked at a chat's for 7 ms, and nobody was served
        core, more = inside(server)
        admin.open(core, **more)
        file.write(server.addresses, admin.addresses)
        _announce(server, ssl, talk, password=password)
        admin.announce()
        manager.ready(server.reactor)

    with contextlib.ExitStack() as stack:
        for sock in inherited:
            stack.enter_context(sock)  # until the server has them
        file = stack.enter_context(PortFile(port_file))
        stack.enter_context(admin)
        try:
            run(sockets=inherited or None, ready=ready, stopping=lambda server: manager.stopping())
        except OSError as exc:
            if listening:
                raise
            raise exits.Failure(explain_bind_error(address, exc), exits.CANNOT_CONNECT) from exc
    logger.info("stopped")


def as_called() -> str:
    """Return how a person calls this program from where the server was started: with its path, if PATH has it not."""
    called = sys.argv[0]
    if os.path.basename(called) != "evloop" or shutil.which("evloop"):
        return "evloop"
    return shlex.quote(called)


def _inherited_sockets() -> list[socket.socket]:
    """Return the sockets to accept on instead of ADDR, if there are any."""
    try:
        sockets = [sock for _, sock in systemd.inherited_sockets()]
    except ValueError as exc:
        raise exits.Failure(f"cannot listen on the sockets of LISTEN_FDS: {exc}", exits.CANNOT_CONNECT) from exc
    if sockets:
        logger.info("LISTEN_FDS: %d sockets to accept on; ADDR is not looked at", len(sockets))
    return sockets


def _announce(server: Any, ssl: SSLContext | None, talk: Callable[[Any], list[str]] | None, *, password: bool) -> None:
    """Say where the server listens: to programs on stdout, to people on stderr."""
    lines = "".join(f"LISTENING {address.label}\n" for address in server.addresses)
    try:
        sys.stdout.write(lines)
        sys.stdout.flush()
    except OSError:
        # Whoever started the server does not want to know: no reason not to serve.  What the buffer still holds must
        # not fail again when the interpreter ends.
        forget_stdout()
    if talk is not None:
        with contextlib.suppress(OSError):
            click.echo("\n".join(talk(server)), err=True)
    exposed = [str(address) for address in server.addresses if not is_local(address)]
    if not exposed or (ssl and (password or ssl.verify_mode)):
        return
    lacking = "no password and no client certificate" if ssl else "no TLS" if password else "no TLS and no password"
    logger.warning("%s can be reached from the network, and there is %s", ", ".join(exposed), lacking)
