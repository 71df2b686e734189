"""``evloop connect``: talk to a server from a terminal, from a pipe, or in a handshake of a script.

Rule: nothing in this file may treat a frame.  Read next: ``conversation.py``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

import click

import evloop
from evloop.cli import exits
from evloop.cli.commands import Command
from evloop.cli.conversation import LIMITS, Conversation, End, Step
from evloop.cli.logs import SILENT, log_to_stderr
from evloop.cli.options import (
    ADDRESS,
    DURATION,
    Settings,
    framing_options,
    framing_within,
    verbosity_options,
)
from evloop.cli.standard_streams import is_piped
from evloop.cli.tls import check_streams, client_context, client_tls_options
from evloop.sockets import explain_connect_error

# Seconds: several retransmissions on a poor line, and short enough for a script that waits for nothing.
_TIMEOUT = "30s"


class _Connect(Command):
    """A command that keeps the order of --send and --expect among each other, which click hands over apart."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse *args*, and leave the order of the steps in ``ctx.meta``."""
        ctx.meta["evloop.steps"] = list(_order_of_steps(args))
        return super().parse_args(ctx, args)


def _order_of_steps(args: Iterable[str]) -> Iterable[bool]:
    """Yield True for each --expect and False for each --send of *args*; a value never counts as an option."""
    tokens = iter(args)
    for token in tokens:
        if token == "--":
            return
        name, equals, _ = token.partition("=")
        if name in ("--send", "--expect"):
            yield name == "--expect"
            if not equals:
                next(tokens, None)


@click.command(
    "connect",
    cls=_Connect,
    examples=(
        "evloop connect :9000                                     # type; Ctrl-D ends, Ctrl-C leaves",
        "printf 'one\\ntwo\\n' | evloop connect :9000               # two messages, two answers",
        "evloop connect :9000 --send ping --expect ping           # exit code 0, or 5 if it is another answer",
        "evloop connect example.com:9000 --tls                    # --tls-ca FILE for a CA of your own",
    ),
)
@click.argument("address", type=ADDRESS, metavar="ADDR")
@click.option("--send", multiple=True, metavar="TEXT", help="Send TEXT first; may be repeated.")
@click.option(
    "--expect",
    multiple=True,
    metavar="TEXT",
    help="Then wait for exactly TEXT; may be repeated, the order among --send and --expect is kept.",
)
@click.option("-n", "--no-input", is_flag=True, help="Leave the standard input alone, as in a loop that reads from it.")
@click.option(
    "--timeout",
    type=DURATION,
    default=_TIMEOUT,
    show_default=True,
    envvar="EVLOOP_TIMEOUT",
    show_envvar=True,
    help="For connecting, and for each wait for the peer; 0: none.",
)
@framing_options
@client_tls_options
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    address: evloop.Address,
    send: tuple[str, ...],
    expect: tuple[str, ...],
    no_input: bool,
    timeout: float,
    framing: str,
    max_frame: int | None,
    **tls_options: Any,
) -> None:
    """Send lines as messages, and show messages as lines.

    The end of the input closes this side; the answers are shown until the peer closes. With --send or --expect the
    standard input is read, after them, only if it is a pipe or a file, and the last --expect ends the program.
    """
    settings = ctx.ensure_object(Settings)
    log_to_stderr(logging.DEBUG if settings.verbosity >= 1 else SILENT, tracebacks=settings.verbosity >= 2)
    spec = framing_within(framing, max_frame)
    steps = _steps(ctx.meta["evloop.steps"], send, expect)
    _check_sizes(ctx, steps, spec, address)
    tls = {"ssl": client_context(**tls_options), "server_hostname": tls_options["tls_name"]}
    check_streams(tls["ssl"], [address])
    reads_input = not no_input and (not steps or is_piped(0))
    if reads_input and os.isatty(0) and settings.verbosity >= 0:
        click.echo(f"connecting to {address.for_client()}: type lines, Ctrl-D ends, Ctrl-C leaves", err=True)
    options: dict[str, Any] = {"steps": steps, "reads_input": reads_input, "terminal": os.isatty(1)}
    end = _converse(address, spec, timeout or None, tls, options)
    if end.code == exits.OK:
        return
    if end.message:
        raise exits.Failure(end.message, end.code) from end.cause
    raise click.exceptions.Exit(end.code)


def _steps(order: Iterable[bool], send: Iterable[str], expect: Iterable[str]) -> list[Step]:
    """Return the steps in the order of the command line; the texts as the bytes that the shell passed."""
    sends, expects = iter(send), iter(expect)
    return [Step(expects_text, os.fsencode(next(expects if expects_text else sends))) for expects_text in order]


def _check_sizes(
    ctx: click.Context, steps: Iterable[Step], framing: evloop.Framing | None, address: evloop.Address
) -> None:
    for step in steps:
        if framing is None and address.kind == "seqpacket" and not step.text:
            name = "--expect" if step.expects else "--send"
            raise click.UsageError(f"{name} of nothing: an empty packet is the end of the stream; see --framing", ctx)
        if framing is not None and len(step.text) > framing.max_frame:
            name = "--expect" if step.expects else "--send"
            text = f"{name} of {len(step.text)} bytes exceeds max_frame {framing.max_frame}; see --max-frame"
            raise click.UsageError(text, ctx)


def _converse(
    address: evloop.Address,
    framing: evloop.Framing | None,
    timeout: float | None,
    tls: dict[str, Any],
    options: dict[str, Any],
) -> End:
    """Connect, hold the conversation, and return how it ended."""
    with evloop.Reactor() as reactor:
        conversation = Conversation(reactor, framing, timeout=timeout, **options)

        def failed(exc: OSError) -> None:
            # One of our own deadline has no errno; the kernel's ETIMEDOUT is a host that does not answer.
            own = isinstance(exc, TimeoutError) and exc.errno is None
            code = exits.TIMEOUT if own else exits.CANNOT_CONNECT
            conversation.finish(End(code, explain_connect_error(address, exc)))

        def escaped(_: object, context: dict[str, Any]) -> None:
            exc = context.get("exception")
            conversation.finish(End(exits.FAILED, f"{type(exc).__name__}: {exc}", exc))

        reactor.set_exception_handler(escaped)
        try:
            connector = evloop.connect(
                reactor,
                address,
                framing=framing,
                limits=LIMITS,
                timeout=timeout,
                protocol_factory=lambda: conversation,
                failed=failed,
                **tls,
            )
        except ValueError as exc:  # of the name to find in the certificate
            raise click.UsageError(f"{exc}; see --tls-name", click.get_current_context()) from None
        try:
            reactor.run_forever()
            conversation.output.finish()
        finally:
            connector.cancel()
            if conversation.conn is not None:
                conversation.conn.abort()
    assert conversation.end is not None
    return conversation.end
