"""The options for TLS of ``evloop serve`` and ``evloop connect``, and the contexts that they ask for.

Rule: nothing in this file may connect or listen; OpenSSL is brought in only when an option asks for TLS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from evloop.cli.commands import SectionedOption

if TYPE_CHECKING:
    from ssl import SSLContext

    import evloop

F = TypeVar("F", bound=Callable[..., Any])

# The heading in help under which they stand; the limit of the handshake joins them there.
SECTION = "TLS"


def server_tls_options(function: F) -> F:
    """Give a command ``tls_cert``, ``tls_key`` and ``tls_ca`` (paths or None)."""
    options = (
        _file("--tls-cert", "Speak TLS, with the certificate in FILE (PEM), intermediate ones behind it.", env=True),
        _file("--tls-key", "The certificate's private key (PEM, not encrypted), if it is not in its file.", env=True),
        _file("--tls-ca", "Let only clients in whose certificate a CA in FILE (PEM) has signed.", env=True),
    )
    return _with(function, options)


def client_tls_options(function: F) -> F:
    """Give a command ``tls`` (bool), ``tls_ca``, ``tls_name``, ``tls_cert`` and ``tls_key`` (text or None)."""
    options = (
        _option("--tls", "Speak TLS, and trust the CAs of the system; each --tls-... implies it.", is_flag=True),
        _file("--tls-ca", "Trust the CAs, or the self-signed certificate, in FILE (PEM) and no others."),
        _option("--tls-name", "The name to find in the server's certificate, if not the host.", metavar="NAME"),
        _file("--tls-cert", "Show the certificate in FILE (PEM), for a server that asks for one."),
        _file("--tls-key", "Its private key (PEM, not encrypted), if it is not in its file."),
    )
    return _with(function, options)


def _option(name: str, text: str, **settings: Any) -> Callable[[F], F]:
    return click.option(name, cls=SectionedOption, section=SECTION, help=text, **settings)


def _file(name: str, text: str, *, env: bool = False) -> Callable[[F], F]:
    # No variables for a client: those of a server in the same shell would give it TLS, and the server's certificate.
    variable = "EVLOOP" + name[1:].replace("-", "_").upper() if env else None
    return _option(name, text, metavar="FILE", envvar=variable, show_envvar=env)


def _with(function: F, options: tuple[Callable[[F], F], ...]) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def server_context(tls_cert: str | None, tls_key: str | None, tls_ca: str | None) -> SSLContext | None:
    """Return the context that the options ask for, or None for none.  click.UsageError: it cannot be."""
    if tls_cert is None:
        for name, value in (("--tls-key", tls_key), ("--tls-ca", tls_ca)):
            if value is not None:
                raise click.UsageError(f"{name} needs --tls-cert", click.get_current_context())
        return None
    from evloop.tls import server_context as make

    return _made(make, tls_cert, tls_key, client_ca=tls_ca)


def client_context(
    tls: bool, tls_ca: str | None, tls_name: str | None, tls_cert: str | None, tls_key: str | None
) -> SSLContext | None:
    """Return the context that the options ask for, or None for none.  click.UsageError: it cannot be."""
    if tls_key is not None and tls_cert is None:
        raise click.UsageError("--tls-key needs --tls-cert", click.get_current_context())
    if not tls and tls_ca is None and tls_name is None and tls_cert is None:
        return None
    from evloop.tls import client_context as make

    return _made(make, tls_ca, certificate=tls_cert, key=tls_key)


def check_streams(ssl: SSLContext | None, addresses: Iterable[evloop.Address]) -> None:
    """Return if there is no TLS, or each address has a stream for it.  click.UsageError: one has packets."""
    for address in addresses if ssl is not None else ():
        if address.kind == "seqpacket":
            text = f"{address} keeps packets, and TLS needs a stream: leave TLS out, or use unix: or TCP"
            raise click.UsageError(text, click.get_current_context())


def _made(make: Callable[..., SSLContext], *args: Any, **options: Any) -> SSLContext:
    try:
        return make(*args, **options)
    except OSError as exc:
        cause = exc.strerror or str(exc)
        text = f"cannot read {exc.filename}: {cause[:1].lower()}{cause[1:]}; see --tls-cert, --tls-key, --tls-ca"
    except ValueError as exc:
        text = str(exc)
    raise click.UsageError(text, click.get_current_context())
