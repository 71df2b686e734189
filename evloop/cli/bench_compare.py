"""``evloop bench compare``: what has changed between two files of results.

Rule: nothing in this file compares.  Read next: ``evloop/bench/compare.py``.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import click

from evloop.cli import exits
from evloop.cli.commands import Command
from evloop.cli.options import verbosity_options

if TYPE_CHECKING:
    from evloop.bench import compare

FILE: Any = click.Path(path_type=pathlib.Path, exists=True, dir_okay=False)


@click.command(
    "compare",
    cls=Command,
    examples=(
        "evloop bench compare before.json after.json",
        "evloop bench compare before.json after.json --relative-to c --only evloop-",
        "evloop bench compare before.json after.json --metric rate --metric p99",
        "evloop bench compare before.json after.json --fail-if 'cpu>5%' --fail-if 'rate<-5%'   # exit code 9",
    ),
    epilog="A change counts if its 95 % interval, a bootstrap over the rounds, holds no 0 and it is more than 2 %.  "
    "The files' rounds were not interleaved: what the machine did in between counts, too, but for --relative-to.",
)
@click.argument("before", type=FILE)
@click.argument("after", type=FILE)
@click.option("--metric", "metrics", multiple=True, metavar="NAME", show_default="cpu, p99, idle, frame, operation",
              help="Also rate, p50, p99.9, max, rss; may be repeated.")  # fmt: skip
@click.option("--relative-to", default="", metavar="ROW",
              help="Compare ratios to this row in the same round, as c: what the machine did cancels out.")  # fmt: skip
@click.option("--only", metavar="TEXT", default="", help="Rows with this in CASE NAME.")
@click.option("--fail-if", "conditions", multiple=True, metavar="COND", help="As cpu>5%: exit code 9; may be repeated.")
@verbosity_options
def command(
    before: pathlib.Path,
    after: pathlib.Path,
    metrics: tuple[str, ...],
    relative_to: str,
    only: str,
    conditions: tuple[str, ...],
) -> None:
    """Compare two files that --json has written, row by row."""
    from evloop.bench import compare, records

    unknown = [name for name in metrics if name not in compare.METRICS]
    if unknown:
        raise click.UsageError(
            f"no metric {', '.join(unknown)}; there are {', '.join(compare.METRICS)}", click.get_current_context()
        )
    try:
        wanted = [compare.parse_condition(text) for text in conditions]
    except ValueError as exc:
        raise click.UsageError(f"--fail-if: {exc}", click.get_current_context()) from None
    shown = metrics or compare.DEFAULT_METRICS
    asked = tuple(dict.fromkeys([*shown, *(condition.metric for condition in wanted)]))
    try:
        old, new = records.read(before), records.read(after)
    except (records.NotAResult, OSError) as exc:
        raise exits.Failure(f"bench compare: {exc}") from exc
    click.echo(f"before  {old['when']}  {before}\nafter   {new['when']}  {after}")
    for line in compare.differences(old, new):
        click.echo(f"DIFFERENT {line}")
    found = [
        change for change in compare.changes(old, new, asked, relative_to) if only in f"{change.case} {change.name}"
    ]
    for line in compare.unmatched(old, new):
        click.echo(line)
    if not found:
        raise exits.Failure("bench compare: the files have no row with a figure in common; see --metric and --only")
    click.echo("\n" + compare.table(found, relative_to) + f"\n\n{compare.summary(found)}")
    _judge(found, wanted)


def _judge(found: list[compare.Change], wanted: list[compare.Condition]) -> None:
    """Fail with the code of --fail-if if a condition has come true."""
    fired = [
        f"{condition.text}: {change.case} {change.name} {change.percent:+.1f} %"
        for condition in wanted
        for change in found
        if condition.fires(change)
    ]
    if fired:
        more = f", and {len(fired) - 1} more" if len(fired) > 1 else ""
        raise exits.Failure(f"bench compare: --fail-if {fired[0]}{more}", exits.FAIL_IF)
