"""``--admin ADDR`` of a server: its second port, for probes, Prometheus and people.

Rule: nothing in this file may import the port itself before it is asked for.  Read next: ``evloop/apps/admin.py``.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

import evloop
from evloop.cli import exits
from evloop.cli.options import ADDRESS, is_local
from evloop.cli.standard_streams import forget_stdout
from evloop.sockets import explain_bind_error

F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger("evloop")


def admin_option(function: F) -> F:
    """Give a command ``admin``: an Address, or None."""
    return click.option(
        "--admin",
        type=ADDRESS,
        metavar="ADDR",
        envvar="EVLOOP_ADMIN",
        show_envvar=True,
        help="A second port, HTTP without a password: /livez, /readyz, /metrics, /statusz.",
    )(function)


class AdminPort:
    """The admin port at *address* (None: there is none), from :meth:`open` to the end of a ``with``."""

    def __init__(self, address: evloop.Address | None) -> None:
        self._address = address
        self._addresses: list[evloop.Address] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> AdminPort:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def open(self, server: evloop.Server, **more: Any) -> None:
        """Listen, if that is wanted; *more* is as for :class:`evloop.apps.admin.Admin`.

        Raises: exits.Failure: the address cannot be had.
        """
        if self._address is None:
            return
        from evloop.apps.admin import Admin  # here, since few ask, and prometheus_client takes a tenth of a second

        admin = self._stack.enter_context(Admin(server, self._address, **more))
        try:
            admin.start()
        except OSError as exc:
            text = f"--admin: {explain_bind_error(self._address, exc)}"
            raise exits.Failure(text, exits.CANNOT_CONNECT) from exc
        self._addresses = admin.addresses

    @property
    def addresses(self) -> list[evloop.Address]:
        """Where it listens, with the real port; empty before :meth:`open`, and if there is none."""
        return self._addresses

    def announce(self) -> None:
        """Say where it listens, behind the LISTENING lines, and warn if others can reach it."""
        try:
            sys.stdout.write("".join(f"ADMIN {address.label}\n" for address in self._addresses))
            sys.stdout.flush()
        except OSError:
            forget_stdout()  # as in serve.py: no reason not to serve
        exposed = [str(address) for address in self._addresses if not is_local(address)]
        if exposed:
            logger.warning("--admin %s can be reached from the network, and there is no password", ", ".join(exposed))
