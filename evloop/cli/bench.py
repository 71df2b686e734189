"""``evloop bench``: measurements; each command is a module of its own, ``bench_NAME.py`` with a command ``command``.

Rule: nothing in this file may import a command before it is asked for, nor measure.  Read next: ``bench_peers.py``.
"""

from __future__ import annotations

import importlib

import click

from evloop.cli.commands import Commands
from evloop.cli.options import verbosity_options

# Said here and not by the commands: the group's help must not import what each of them needs.
_COMMANDS = {
    "load": "Load any server of framed messages, and check every reply.",
    "peers": "Compare evloop's echo servers with others and with a server in C.",
    "fanout": "Compare servers that send one message to many: evloop, brokers, a server in C.",
    "framing": "Compare the decoder and the encoder with others and with a loop in C.",
    "compare": "Compare two files that another of these commands has written.",
    "report": "Make a page and pictures of such files.",
}


class _Benchmarks(Commands):
    """The group; imports the command that was asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of the help."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command *cmd_name*, or None."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"evloop.cli.bench_{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what each command is for."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    "bench",
    cls=_Benchmarks,
    examples=(
        "evloop bench peers --cases c100p1s64 --json a.json   # our echo servers beside others, in interleaved rounds",
        "evloop bench compare a.json b.json                   # what has changed, and what is noise",
        "evloop bench report a.json                           # a page and pictures",
    ),
    subcommand_metavar="COMMAND [OPTIONS]",
)
@verbosity_options
def command() -> None:
    """Measure: servers under load, the framing, and what has changed since."""
