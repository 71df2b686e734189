"""What every command shares: help with examples first, errors on one line, "did you mean".

Rule: nothing in this file may know a particular command.  Read next: ``options.py``, ``program.py``.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class HelpWanted(Exception):
    """No arguments were given where some are needed; *text* (str) is the help to show."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class SectionedOption(click.Option):
    """An option that help shows under the heading *section* (str), behind those without one."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class Command(click.Command):
    """A command whose help shows *examples*, lines for a shell, before the options."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", CONTEXT)
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the description and the examples."""
        super().format_help_text(ctx, formatter)
        write_examples(formatter, self.examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, and those of each section under its heading: forty in one list are read by nobody."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class Commands(click.Group):
    """A command that has commands; without one it shows its help, and that is an error."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", CONTEXT)
        kwargs["no_args_is_help"] = False  # click would show it and call that a success
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the description and the examples."""
        super().format_help_text(ctx, formatter)
        write_examples(formatter, self.examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse *args*; HelpWanted if there are none."""
        if not args and not ctx.resilient_parsing:
            raise HelpWanted(ctx.get_help())
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that *args* begin with; UsageError, with what was probably meant, if there is none."""
        if self.get_command(ctx, args[0]) is None:
            names = self.list_commands(ctx)
            raise UnknownCommand(args[0], difflib.get_close_matches(args[0], names), names, ctx)
        return super().resolve_command(ctx, args)


class UnknownCommand(click.UsageError):
    """There is no command *name*; *meant* are those that look like it, *names* all there are."""

    def __init__(self, name: str, meant: Sequence[str], names: Sequence[str], ctx: click.Context) -> None:
        super().__init__(f"no such command {name!r}", ctx)
        self.remedy = did_you_mean(meant) if meant else f"commands are {', '.join(names)}"


def write_examples(formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    """Write *examples* as a section, each line as it is: a wrapped command cannot be copied."""
    if examples:
        formatter.write_paragraph()
        formatter.write("Examples:\n" + "".join(f"  {line}\n" for line in examples))


def did_you_mean(names: Sequence[str]) -> str:
    """Return the question that names what was probably meant; *names* is not empty."""
    return f"did you mean {' or '.join(names)}?"


def one_line(exc: click.ClickException) -> str:
    """Return what click found wrong as cause and remedy, without a name in front."""
    if not isinstance(exc, click.UsageError):
        return exc.format_message()
    remedy = f"see: {exc.ctx.command_path} --help" if exc.ctx is not None else ""
    if isinstance(exc, UnknownCommand):
        cause, remedy = exc.message, exc.remedy
    elif isinstance(exc, click.NoSuchOption):
        cause = f"no such option {exc.option_name}"
        if exc.possibilities:
            remedy = did_you_mean(exc.possibilities)
    elif isinstance(exc, click.MissingParameter) or not isinstance(exc, click.BadParameter):
        cause = exc.format_message()
        cause = cause[:1].lower() + cause[1:]
    else:
        cause = _where(exc) + exc.message
    # Messages of our own types bring their remedy along, behind a semicolon.
    cause = " ".join(cause.rstrip(".").split())
    return cause if ";" in cause or not remedy else f"{cause}; {remedy}"


def _where(exc: click.BadParameter) -> str:
    """Return what the user has to change, with a colon: the option, or the variable that stood in for it."""
    param, ctx = exc.param, exc.ctx
    if not isinstance(param, click.Option) or ctx is None or param.name is None:
        return ""
    if ctx.get_parameter_source(param.name) is ParameterSource.ENVIRONMENT and isinstance(param.envvar, str):
        return f"{param.envvar}: "
    return f"{param.opts[0]}: "
