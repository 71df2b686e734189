"""TLS contexts as evloop's command line makes them, and what a connection tells of its TLS.

Any `ssl.SSLContext` of your own does as well: ``ssl=`` of a server or client takes it as it is.

Rule: nothing in this file may know a socket or a connection.  Read next: ``_tls_stream.py``; RFC 8446, ssl(3).
"""

from __future__ import annotations

import dataclasses
import ssl
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class TlsInfo:
    """What was agreed in a handshake.

    Attributes:
        version: ``"TLSv1.3"`` or ``"TLSv1.2"``; what the context allows.
        cipher: the cipher suite, by OpenSSL's name.
        alpn: the protocol chosen by ALPN, or None.
        peer_certificate: the peer's, as `ssl.SSLSocket.getpeercert` gives it; empty if it was not verified, None if
            the peer sent none.
        peer_certificate_der: the same certificate as it came (DER bytes), verified or not; None: the peer sent none.
    """

    version: str
    cipher: str
    alpn: str | None
    peer_certificate: dict[str, Any] | None
    peer_certificate_der: bytes | None


def server_context(certificate: str, key: str | None = None, *, client_ca: str | None = None) -> ssl.SSLContext:
    """Return a context for a server: TLS 1.2 or newer, no renegotiation, no session tickets with TLS 1.3.

    Tickets would save a returning client's handshake some CPU.  But they come after the handshake: a client that sends
    its message and closes leaves them unread, and the kernel then answers with a reset, which can destroy that message
    on its way.

    Args:
        certificate: path of a PEM file with the server's certificate, followed by those of intermediate CAs.
        key: path of the PEM file with its private key, not encrypted; None: it is in *certificate*.
        client_ca: path of a PEM file with CAs; then each client must show a certificate that one of them signed.

    Raises:
        ValueError: a file is not what it should be; the text names it and the remedy.
        OSError: a file cannot be read.

    Reads files.  Any thread.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    _load_certificate(context, certificate, key)
    if client_ca is not None:
        _load_ca(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca: str | None = None, *, certificate: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """Return a context for a client: TLS 1.2 or newer; the server's certificate and its name are verified.

    Args:
        ca: path of a PEM file with the CAs to trust, or a self-signed certificate; None: those of the system.
        certificate, key: the client's own, as for `server_context`; None: it has none.

    Raises, Reads: as `server_context`.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    if ca is None:
        context.load_default_certs()
    else:
        _load_ca(context, ca)
    if certificate is not None:
        _load_certificate(context, certificate, key)
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996 deprecates what is older
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _load_certificate(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    def encrypted() -> str:  # OpenSSL would ask the terminal, in the middle of whatever is going on there
        raise ValueError(f"the key in {key or certificate} is encrypted; decrypt it: openssl pkey -in IN -out OUT")

    for path in (certificate, key):
        if path is not None:
            _readable(path)
    try:
        context.load_cert_chain(certificate, key, encrypted)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            text = f"the key in {key or certificate} does not belong to the first certificate in {certificate}"
        else:
            where = f"{certificate} and {key} hold" if key else f"{certificate} holds"
            text = f"{where} no certificate with its key, in PEM: {_reason(exc)}"
        raise ValueError(text) from None


def _load_ca(context: ssl.SSLContext, path: str) -> None:
    _readable(path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as exc:
        raise ValueError(f"{path} holds no certificate in PEM: {_reason(exc)}") from None


def _readable(path: str) -> None:
    """Raise the OSError of *path*, which OpenSSL's would not name."""
    with open(path, "rb"):
        pass


def _reason(exc: ssl.SSLError) -> str:
    return (exc.reason or "no PEM at all").replace("_", " ").lower()
