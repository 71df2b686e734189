"""The program ``evloop``: finds the command, imports only that one, and turns what it raises into a line and a code.

Rule: nothing in this file may import a command at import time: ``evloop --help`` costs what click costs.
Read next: ``commands.py``, ``exits.py``, then the command of your choice.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import traceback

import click

import evloop
from evloop.cli import exits
from evloop.cli.commands import CONTEXT, Commands, HelpWanted, one_line
from evloop.cli.options import Settings, verbosity_options
from evloop.cli.printable import printable
from evloop.cli.standard_streams import forget_stdout, open_standard_streams

# Each is a module of this package with a click command named `command`.
_COMMANDS = ("serve", "connect", "chat", "bench", "info")

_HELP = f"""\
evloop {evloop.__version__} - event-loop servers and clients for whole, framed messages

Usage: evloop COMMAND [options]

  Try it:
    evloop serve echo                # terminal 1: listens on 127.0.0.1:9000
    evloop connect :9000             # terminal 2: type; answers arrive while you type
    evloop bench load :9000 -d 5s    # how fast is it?
    evloop serve chat 9001           # and open http://127.0.0.1:9001/, or: evloop chat :9001

  Serve      serve echo, serve upper, serve chat
  Use        connect, chat
  Measure    bench load, bench peers, bench fanout, bench framing, bench compare, bench report
  Other      info

  -h, --help   --version   -v, --verbose   -q, --quiet

evloop COMMAND --help shows a command's options.
Exit codes: 0 done, 1 failed, 2 usage, 3 cannot listen or connect, 4 timeout, 5 protocol error or peer gone,
6 refused by the server, 7 wrong bytes, 9 a --fail-if fired, 130 Ctrl-C.
"""


class Program(Commands):
    """The outermost command; the others are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of the help."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command *cmd_name*, or None."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"evloop.cli.{cmd_name}").command
        return command

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the one page that says what there is."""
        formatter.write(_HELP)


@click.group("evloop", cls=Program, context_settings=CONTEXT)
@click.version_option(evloop.__version__, message="evloop %(version)s")
@verbosity_options
def program() -> None:
    """Servers and clients for whole, framed messages."""


def run(args: list[str]) -> int:
    """Run the program with *args*, without its own name; return the exit code (int, 0..255).  Main thread only."""
    open_standard_streams()
    settings = Settings()
    try:
        try:
            code = _run(args, settings)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        forget_stdout()
        return exits.BROKEN_PIPE
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except Exception as exc:
        if settings.verbosity >= 2:
            traceback.print_exc()
        return _failed(f"{type(exc).__name__}: {exc}; -vv shows where", exits.FAILED)
    return code


def _run(args: list[str], settings: Settings) -> int:
    """Run one command; return its code, whatever it says about a wrong line or a failure on stderr."""
    try:
        with program.make_context("evloop", list(args), obj=settings) as ctx:
            program.invoke(ctx)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except HelpWanted as exc:
        click.echo(exc.text, err=True)
        return exits.USAGE
    except click.ClickException as exc:
        return _failed(one_line(exc), exc.exit_code)
    except exits.Failure as exc:
        if settings.verbosity >= 2:
            traceback.print_exc()
        return _failed(exc.message, exc.code)
    return exits.OK


def _failed(text: str, code: int) -> int:
    with contextlib.suppress(OSError):  # stderr is gone as well; the code still tells
        click.echo(f"evloop: {printable(' '.join(text.split()))}", err=True)
    return code
