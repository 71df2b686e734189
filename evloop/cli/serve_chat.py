"""``evloop serve chat``: the chat server in the foreground.

Rule: nothing in this file may import the chat before it is asked for: ``evloop serve --help`` needs none of it.
Read next: ``foreground.py``, ``evloop/apps/chat/server.py``.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

import evloop
from evloop.cli import exits
from evloop.cli.admin import AdminPort, admin_option
from evloop.cli.commands import Command, SectionedOption
from evloop.cli.foreground import as_called, in_foreground, log_as_asked, port_file_option
from evloop.cli.limit_options import EPILOG, limit_options, limits_of
from evloop.cli.options import ADDRESS, DURATION, Settings, verbosity_options
from evloop.cli.tls import server_context, server_tls_options

if TYPE_CHECKING:
    from evloop.apps.chat.store import Store

# Where the chat's defaults differ from those of a server that is only asked: they are CONNECTION_LIMITS, in
# evloop/apps/chat/limits.py, where they are argued.  Silent clients are pinged, and so never idle.
DEFAULTS = {
    "max_per_address": "16",
    "idle_timeout": "0",
    "first_frame_timeout": "15s",
    "write_timeout": "15s",
    "high_water": "256K",
    "low_water": "64K",
    "max_output": "1M",
}

# A file of more is no password, but the wrong file.
_MAX_PASSWORD = 1024


def _chat_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``rate``, ``burst``, ``grace``, ``password_file``, ``db``, ``durable``, ``origin``, ``motd`` and
    ``lang``.
    """
    options = (
        _option("--rate", type=click.FloatRange(min=0), default=10.0, metavar="N",
                help="Messages a second that a client may send; one that sends more is read more slowly. 0: all."),
        _option("--burst", type=click.IntRange(min=1), default=20, metavar="N", help="So many at once before that."),
        _option("--grace", type=DURATION, default="30s",
                help="Hold the session of a lost connection for so long: nick, rooms and roles."),
        _option("--password-file", metavar="FILE", envvar="EVLOOP_CHAT_PASSWORD_FILE", show_envvar=True,
                show_default=False,
                help="Let only those in who know the password in FILE (its first line); or $EVLOOP_CHAT_PASSWORD."),
        _option("--db", metavar="FILE", show_default=False,
                help="Keep messages, rooms and bans in this SQLite file, over a restart and a kill -9, for 7 days."),
        _option("--durable", is_flag=True, show_default=False,
                help="With --db: over a loss of power, too; each commit waits for the disk."),
        _option("--origin", multiple=True, metavar="ORIGIN", show_default=False,
                help="Let pages of https://HOST connect, too, beside those of this server; null: files; *: any. "
                "May be repeated."),
        _option("--motd", metavar="TEXT", default="服务端已就绪", help="The greeting."),
        _option("--lang", type=click.Choice(["en", "zh"]), default="en",
                help="Language of texts to clients that have not said theirs."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def _option(name: str, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    settings.setdefault("envvar", "EVLOOP_CHAT" + name[1:].replace("-", "_").upper())
    settings.setdefault("show_default", True)
    return click.option(name, cls=SectionedOption, section="Chat", **settings)


@click.command(
    "chat",
    cls=Command,
    help="A chat server: rooms, direct messages, history, moderation. "
    "ADDR: host:port, [::1]:port, :port (every interface), port, unix:/path; port 0 takes a free one.",
    short_help="A chat server: rooms, direct messages, history, moderation.",
    epilog=EPILOG,
    examples=(
        "evloop serve chat                         # 127.0.0.1:9000",
        "evloop serve chat :9000 --password-file secret.txt --tls-cert server.pem",
        "evloop serve chat --db chat.db                    # messages survive a restart",
        "evloop serve chat unix:/tmp/chat.sock --rate 0    # no bound on the rate, for programs",
        "evloop serve chat --origin https://chat.example   # behind a proxy that ends TLS",
    ),
)
@click.argument("address", type=ADDRESS, default="127.0.0.1:9000", metavar="[ADDR]")
@_chat_options
@limit_options
@port_file_option
@admin_option
@server_tls_options
@verbosity_options
@click.pass_obj
def chat(
    settings: Settings,
    /,
    address: evloop.Address,
    rate: float,
    burst: int,
    grace: float,
    password_file: str | None,
    db: str | None,
    durable: bool,
    origin: tuple[str, ...],
    motd: str,
    lang: str,
    port_file: str,
    admin: evloop.Address | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
    **limits: Any,
) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    _need_extras()
    from evloop.apps.chat import ChatLimits, ChatServer, serve
    from evloop.apps.chat.status import admin_options

    _refuse_packets(address)
    ssl = server_context(tls_cert, tls_key, tls_ca)
    password = _password(password_file)
    origins, connections = _origins(origin), limits_of(limits)
    bounds = ChatLimits(rate=rate, burst=burst, grace=grace)
    log_as_asked(settings)

    def run(**options: Any) -> None:
        with _store(db, durable, bounds.pending) as store:
            serve(
                address,
                limits=bounds,
                connections=connections,
                store=store,
                password=password,
                origins=origins,
                motd=motd,
                lang=lang,
                ssl=ssl,
                **options,
            )

    def talk(server: ChatServer) -> list[str]:
        return how_to_chat(server.address, tls=ssl is not None)

    in_foreground(
        run,
        address,
        ssl,
        port_file,
        AdminPort(admin),
        talk if settings.verbosity >= 0 else None,
        password=bool(password),
        inside=lambda server: (server.server, admin_options(server.hub)),
    )


def _need_extras() -> None:
    """Import the chat.  exits.Failure: it cannot be, without a library that is missing."""
    try:
        import evloop.apps.chat.server
        import evloop.apps.chat.status  # noqa: F401
    except ModuleNotFoundError as exc:
        if exc.name not in ("msgspec", "websockets"):
            raise
        raise exits.Failure(f"evloop serve chat needs {exc.name}; pip install {exc.name}", exits.USAGE) from None


@contextlib.contextmanager
def _store(path: str | None, durable: bool, pending: int) -> Iterator[Store | None]:
    """Yield the store of --db, or None; close it at the end.

    exits.Failure: the file cannot be had.  click.UsageError: --durable without a file.
    """
    if path is None:
        if durable:
            raise click.UsageError("--durable needs --db FILE")
        yield None
        return
    from evloop.apps.chat.sqlite import SqliteStore, StoreError

    try:
        store = SqliteStore(path, durable=durable, pending=pending)
    except StoreError as exc:
        raise exits.Failure(f"--db: {exc}") from exc
    with store:
        yield store


def _refuse_packets(address: evloop.Address) -> None:
    if address.kind == "seqpacket":
        text = f"{address} keeps packets, and the chat needs a stream: use unix: or TCP"
        raise click.UsageError(text, click.get_current_context())


for _param in chat.params:
    if _param.name in DEFAULTS:
        _param.default = DEFAULTS[_param.name]


def _origins(values: tuple[str, ...]) -> list[str]:
    """Return the origins of --origin, or click.UsageError."""
    from evloop.apps.chat.web import parse_origin

    try:
        return [parse_origin(value) for value in values]
    except ValueError as exc:
        raise click.UsageError(f"--origin: {exc}", click.get_current_context()) from None


def _password(path: str | None) -> str:
    """Return the password: the first line of the file at *path*, or $EVLOOP_CHAT_PASSWORD, or "".

    exits.Failure: the file cannot be read.  click.UsageError: there is no password in it.
    """
    if path is None:
        return os.environ.get("EVLOOP_CHAT_PASSWORD", "")
    try:
        with open(path, "rb") as file:
            line = file.read(_MAX_PASSWORD + 2).partition(b"\n")[0].rstrip(b"\r")
    except OSError as exc:
        raise exits.Failure(f"cannot read --password-file {path}: {exc.strerror}") from exc
    context = click.get_current_context()
    if not 1 <= len(line) <= _MAX_PASSWORD:
        text = f"--password-file {path}: its first line has {len(line)} bytes, and 1 to {_MAX_PASSWORD} are a password"
        raise click.UsageError(text, context)
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise click.UsageError(f"--password-file {path}: its first line is not UTF-8", context) from None


def how_to_chat(address: evloop.Address, *, tls: bool = False) -> list[str]:
    """Return the lines that tell a person how to reach the server at *address*, to be copied into a shell."""
    there = address.for_client()
    target = shlex.quote(str(there)) + (" --tls" if tls else "")
    page = [] if there.is_unix else [f"  open it:        http{'s' if tls else ''}://{there}/"]
    return [
        *page,
        f"  talk to it:     {as_called()} chat {target}",
        f"  stop it:        Ctrl-C, or kill {os.getpid()}",
    ]
