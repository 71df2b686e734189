"""``evloop chat``: talk in rooms of a chat server, on a terminal or in a pipe.

Rule: nothing in this file may show a message or treat a line.  Read next: ``chat_talk.py``, ``chat_window.py``,
``chat_pipe.py``.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import click

import evloop
from evloop.cli import exits
from evloop.cli.chat_texts import LANGUAGES, Texts, language_of
from evloop.cli.commands import Command
from evloop.cli.logs import SILENT, log_to_stderr
from evloop.cli.options import ADDRESS, DURATION, Settings, verbosity_options
from evloop.cli.tls import check_streams, client_context, client_tls_options
from evloop.sockets import explain_connect_error

# The room where everybody comes in, the page's visitors too.
DEFAULT_ROOM = "大厅"

# Seconds: several retransmissions on a poor line, and a server that restarts.
_TIMEOUT = "30s"

# Characters of a password or token, the wire's bound; a file of more is the wrong one.
_MAX_SECRET = 4096

# Messages of a room that are shown to a person who enters it: a screenful.
_HISTORY = 20


@click.command(
    "chat",
    cls=Command,
    examples=(
        "evloop chat                                  # 127.0.0.1:9000; /help shows the commands, Ctrl-D leaves",
        "evloop chat :9000 --nick amy --room dev --room ops",
        "echo 'deployed' | evloop chat :9000 --nick bot --room ops     # ends when the server has it",
        "evloop chat :9000 --no-input --room ops | grep -i error       # listens until Ctrl-C",
    ),
)
@click.argument("address", type=ADDRESS, default="127.0.0.1:9000", metavar="[ADDR]")
@click.option("--nick", metavar="NAME", help="The name to take; without one the server gives one.")
@click.option(
    "--room",
    multiple=True,
    default=(DEFAULT_ROOM,),
    show_default=True,
    metavar="NAME",
    help="Enter it; may be repeated.",
)
@click.option("--lang", type=click.Choice(LANGUAGES), help="Language of the texts.  [default: the locale's]")
@click.option("--password-file", metavar="FILE", help="The server's password is the first line of FILE.")
@click.option("--token-file", metavar="FILE", help="The bearer token is the first line of FILE.")
@click.option(
    "--history",
    type=click.IntRange(0, 200),
    metavar="N",
    help="Show as many earlier messages.  [default: 20; in a pipe 0]",
)
@click.option("-n", "--no-input", is_flag=True, help="Leave the standard input alone: only listen.")
@click.option(
    "--timeout",
    type=DURATION,
    default=_TIMEOUT,
    show_default=True,
    envvar="EVLOOP_TIMEOUT",
    show_envvar=True,
    help="For connecting, and in a pipe for a server that is gone to come back; 0: for ever.",
)
@client_tls_options
@verbosity_options
@click.pass_obj
def command(
    settings: Settings,
    /,
    address: evloop.Address,
    nick: str | None,
    room: tuple[str, ...],
    lang: str | None,
    password_file: str | None,
    token_file: str | None,
    history: int | None,
    no_input: bool,
    timeout: float,
    **tls_options: Any,
) -> None:
    """Talk in rooms: type, and read what others say while you type.

    The connection comes back by itself, and nothing is lost or said twice. Without a terminal lines are read and
    written plainly: what is said comes out as "[room] nick: text", everything else goes to stderr, and the end of the
    input ends the program once the server has everything.
    """
    if address.kind == "seqpacket":
        raise click.UsageError(f"{address} keeps packets, and chat needs a stream: use unix: or TCP")
    context = client_context(**tls_options)
    check_streams(context, [address])
    secrets = {
        "password": _first_line("--password-file", password_file),
        "token": _first_line("--token-file", token_file),
    }
    log_to_stderr(SILENT, tracebacks=False)
    if settings.verbosity < 2:
        logging.getLogger("asyncio").setLevel(SILENT)  # it would write over the screen
    lang = lang or language_of()
    terminal = not no_input and os.isatty(0) and os.isatty(1) and os.environ.get("TERM") not in (None, "", "dumb")
    options = {
        "nick": nick,
        "lang": lang,
        "ssl": context,
        "server_hostname": tls_options["tls_name"],
        "timeout": timeout or None,
        **secrets,
    }
    view: dict[str, Any] = {
        "terminal": terminal,
        "rooms": room,
        "texts": Texts(lang),
        "history": history if history is not None else _HISTORY if terminal else 0,
        "reads_input": not no_input,
        "quiet": settings.verbosity < 0,
        "patience": timeout or None,
    }
    import evloop.aio  # here, since --help needs no asyncio

    evloop.aio.run(_chat(address, options, **view))


def _first_line(option: str, path: str | None) -> str | None:
    """Return the first line of the file at *path*, or None for None."""
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            line = file.readline(_MAX_SECRET + 2).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        cause = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise click.UsageError(f"{option} {path}: {cause}", click.get_current_context()) from None
    if not 0 < len(line) <= _MAX_SECRET:
        text = f"{option} {path}: the first line has 1 to {_MAX_SECRET} characters, and this one {len(line) or 'none'}"
        raise click.UsageError(text + (" or more" if line else ""), click.get_current_context())
    return line


async def _chat(address: evloop.Address, options: dict[str, Any], *, terminal: bool, **view: Any) -> None:
    """Connect and talk.  exits.Failure: how it ended, if not well."""
    from evloop.apps.chat.client import Client, Disconnected, Ended, NoWelcome, Refused

    client = Client(address, **options)
    try:
        await client.connect()
    except NoWelcome as exc:
        raise exits.Failure(f"{exc}; what listens there may be no chat server", exits.TIMEOUT) from exc
    except OSError as exc:
        own = isinstance(exc, TimeoutError) and exc.errno is None
        code = exits.TIMEOUT if own else exits.CANNOT_CONNECT
        raise exits.Failure(_unreachable(address, exc), code) from exc
    except Disconnected as exc:
        raise exits.Failure(f"{address.for_client()}: {exc}", exits.PEER) from exc
    except (Refused, Ended) as exc:
        remedy = "; see --nick" if isinstance(exc, Refused) and exc.code.startswith("nick_") else ""
        raise exits.Failure(f"the server refuses: {exc}{remedy}", exits.REFUSED) from exc
    try:
        await (_on_terminal if terminal else _in_pipe)(client, **view)
    except (Refused, Ended) as exc:
        raise exits.Failure(f"the server refuses: {exc}", exits.REFUSED) from exc
    finally:
        await client.close()


def _unreachable(address: evloop.Address, exc: OSError) -> str:
    """Return why there is no connection, and what to do about it."""
    if exc.errno and not isinstance(exc, socket.gaierror):
        from evloop.apps.chat.client import reason_of

        exc = OSError(exc.errno, reason_of(exc))  # asyncio's own words are not for people
    return explain_connect_error(address, exc).replace("evloop serve echo", "evloop serve chat")


async def _on_terminal(client: Any, texts: Texts, rooms: tuple[str, ...], history: int, **_: Any) -> None:
    from evloop.cli.chat_window import Window

    await Window(client, texts, history).run(rooms)


async def _in_pipe(client: Any, texts: Texts, rooms: tuple[str, ...], **options: Any) -> None:
    from evloop.cli.chat_pipe import Pipe

    await Pipe(client, texts, **options).run(rooms)
