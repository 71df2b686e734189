"""``evloop bench report``: a page and pictures of files of results.

Rule: nothing in this file draws or formats.  Read next: ``evloop/bench/report.py``.
"""

from __future__ import annotations

import pathlib

import click

from evloop.cli import exits
from evloop.cli.commands import Command
from evloop.cli.options import verbosity_options


@click.command(
    "report",
    cls=Command,
    examples=(
        "evloop bench report peers.json framing.json            # bench-report/index.html and its pictures",
        "evloop bench report peers.json -o /tmp/page",
    ),
    epilog="The page is one file without scripts, its pictures inside; they are beside it as SVG and PNG, too.",
)
@click.argument("files", type=click.Path(path_type=pathlib.Path, exists=True, dir_okay=False), nargs=-1, required=True,
                metavar="FILE...")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=pathlib.Path, file_okay=False), default="bench-report",
              show_default=True, metavar="DIR", help="Where the page goes; made if need be.")  # fmt: skip
@verbosity_options
def command(files: tuple[pathlib.Path, ...], output: pathlib.Path) -> None:
    """Make a page and pictures of files that --json has written."""
    from evloop.bench import records, report

    try:
        documents = [records.read(path) for path in files]
        written = report.write(documents, output, [path.name for path in files])
    except ModuleNotFoundError as exc:
        if exc.name != "matplotlib":
            raise
        raise exits.Failure("bench report: the pictures need matplotlib: pip install matplotlib") from exc
    except (records.NotAResult, OSError) as exc:
        raise exits.Failure(f"bench report: {exc}") from exc
    click.echo(f"{written[0]}, {(len(written) - 1) // 2} pictures")
