"""One side of a TLS connection as bytes in and bytes out, on OpenSSL's memory BIOs.

What comes from the network is fed and gives payload; payload is sealed and gives what goes to the network.  After each
feed nothing is left inside but the one unfinished record, so nobody has to ask whether something is pending.

Rule: nothing in this file may do I/O or know a connection.  Read next: ``_connection_tls.py``; SSL_read(3),
SSL_shutdown(3), RFC 8446.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from evloop.errors import TlsError, looks_like, name_of_protocol
from evloop.tls import TlsInfo

# Bytes that go through a memory BIO at a time, about one full record (RFC 8446, 5.1: 2**14 of payload).  A BIO keeps
# the room it once needed: 61 KiB a connection with this step after large messages, 352 KiB when a whole read of 256 KiB
# goes in at once.  Price: a fifth more CPU on messages of 64 KiB (docs/adr/0006-tls.md).
STEP = 16 * 1024

# Of what a peer sends first, the bytes that are kept until the handshake is done, to say what it speaks instead.
FIRST_BYTES = 8

# Bytes in front of each record: its type, a version, and the length of the rest (RFC 8446, 5.1).
RECORD_HEADER = 5

# The content type of a handshake record (RFC 5246, 6.2.1), in the clear up to TLS 1.2.
_HANDSHAKE_RECORD = b"\x16"


class TlsStream:
    """One side of a TLS connection; see the module's docstring.

    Args:
        context: whose certificates, versions and ciphers hold; used as it is.
        server_hostname: the name to ask for and, if the context says so, to verify (clients only).

    Attributes:
        established: True once the handshake is complete (bool).
        failed: True once OpenSSL has given up on the stream (bool); nothing more can be read or sealed.
        peer_closed: True once the peer's close_notify has come (bool); what follows it is ignored.
        info: what was agreed (TlsInfo); None until established.
        unfinished: bytes of the record of which the rest has not come (int), header and all.

    Raises:
        TypeError, ValueError: as :func:`check_context`.

    One thread at a time.
    """

    __slots__ = (
        "_first",
        "_header",
        "_incoming",
        "_object",
        "_outgoing",
        "_to_come",
        "established",
        "failed",
        "info",
        "peer_closed",
        "unfinished",
    )

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        self._first = b""
        self._header = b""  # of the unfinished record, while it is not whole itself
        self._to_come = 0  # bytes of the unfinished record, once its header is whole
        self.unfinished = 0
        self.established = self.failed = self.peer_closed = False
        self.info: TlsInfo | None = None

    def feed(self, data: memoryview | bytes) -> Iterator[bytes]:
        """Take *data* from the network (empty: begin the handshake); yield its payload, at most STEP bytes at a time.

        Does nothing until it is iterated over, and has to be to its end.  Afterwards :attr:`pending` tells whether
        there is something to send besides payload.

        Raises:
            TlsError: the handshake failed, or the peer broke the stream or ended it with an alert.
        """
        view = memoryview(data)
        if len(self._first) < FIRST_BYTES and not self.established:
            self._first += view[: FIRST_BYTES - len(self._first)].tobytes()
        self._measure(view)
        for start in range(0, len(view) or 1, STEP):
            self._incoming.write(view[start : start + STEP])
            handshaking = not self.established
            try:
                if handshaking:
                    self._object.do_handshake()
                    # Now: OpenSSL refuses to tell once a renegotiation has begun, and that may be how it ends.
                    self.info = self._agreed()
                    self.established = True
                yield from self._payload()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as exc:
                self.failed = True
                raise tls_error(exc, b"" if self.established else self._first) from exc
            if self._outgoing.pending and not handshaking:
                self._refuse_renegotiation()

    def _measure(self, view: memoryview) -> None:
        """Follow the records in *view* to learn what is unfinished, which OpenSSL does not tell."""
        size, begin, end = len(view), -self.unfinished, self._to_come
        if not size:
            return
        if self._header:
            rest = RECORD_HEADER - len(self._header)
            self._header += view[:rest].tobytes()
            if len(self._header) < RECORD_HEADER:
                self.unfinished += size
                return
            end = rest + (self._header[3] << 8 | self._header[4])
        while end <= size - RECORD_HEADER:
            begin, end = end, end + RECORD_HEADER + (view[end + 3] << 8 | view[end + 4])
        if end > size:
            self._header, self._to_come, self.unfinished = b"", end - size, size - begin
        else:
            self._header, self._to_come, self.unfinished = view[end:].tobytes(), 0, size - end

    def _payload(self) -> Iterator[bytes]:
        # OpenSSL takes whole records from a BIO and no byte more; so with both at 0 a read would only say "want read",
        # and that exception costs more than a small record.
        while (self._incoming.pending or self._object.pending()) and not self.peer_closed:
            try:
                payload = self._object.read(STEP)
            except ssl.SSLZeroReturnError:  # after a close_notify of our own; before it, an empty read
                payload = b""
            if payload:
                yield payload
            else:
                self.peer_closed = True

    def _refuse_renegotiation(self) -> None:
        """Fail on a peer that starts another handshake on this connection, which TLS up to 1.2 allows.

        While it lasts a write has to wait for a read.  Nobody needs it, TLS 1.3 has abolished it, and OpenSSL 3 lets a
        server refuse it by itself; this is for the client, and contexts without OP_NO_RENEGOTIATION.
        """
        if self._object.version() == "TLSv1.3":
            return
        records = self._outgoing.read()
        if records.startswith(_HANDSHAKE_RECORD):
            self.failed = True
            raise TlsError("the peer asks for a renegotiation, and that is refused; use TLS 1.3")
        self._outgoing.write(records)

    def seal(self, payload: memoryview | bytes) -> bytes:
        """Return *payload* as records, behind whatever else was :attr:`pending`.

        Raises:
            TlsError: the stream has failed or its end is sealed.
        """
        view = memoryview(payload)
        sealed = []
        try:
            for start in range(0, len(view), STEP):
                self._object.write(view[start : start + STEP])
                sealed.append(self._outgoing.read())
        except ssl.SSLError as exc:
            self.failed = True
            raise tls_error(exc) from exc
        return sealed[0] if len(sealed) == 1 else b"".join(sealed)

    @property
    def pending(self) -> int:
        """Bytes that are to be sent besides payload: handshake, alerts, answers to a KeyUpdate, close_notify (int)."""
        return self._outgoing.pending

    def take(self) -> bytes:
        """Return what is pending; it is the caller's to send, before anything that is sealed later."""
        return self._outgoing.read()

    def close_notify(self) -> None:
        """Seal the end of this side's stream; reading goes on.  Call it once the handshake is done."""
        try:
            self._object.unwrap()
        except ssl.SSLError:
            # unwrap() first sends, then looks for the peer's close_notify, and objects to anything else that has come:
            # by then ours is pending, and that is all that was wanted.
            pass

    def _agreed(self) -> TlsInfo:
        tls = self._object
        cipher = tls.cipher()
        return TlsInfo(
            version=tls.version() or "",
            cipher=cipher[0] if cipher else "",
            alpn=tls.selected_alpn_protocol(),
            peer_certificate=tls.getpeercert(),
            peer_certificate_der=tls.getpeercert(binary_form=True),
        )


# --- checks -------------------------------------------------------------------------------------------------------


def check_context(context: object, *, server_side: bool, server_hostname: str | None = None) -> ssl.SSLContext:
    """Return *context* if it can be used on this side.

    A server's is given a ClientHello that offers everything: OpenSSL has no other way to ask for a certificate.

    Raises:
        TypeError: it is no ssl.SSLContext.
        ValueError: it is made for the other side, a server's has no certificate, or a client's wants a host name and
            there is none, or one that cannot be.
    """
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl must be an ssl.SSLContext or None, not {type(context).__name__}; see evloop.tls")
    if not server_side and context.check_hostname and not server_hostname:
        raise ValueError("the ssl context verifies host names, and this address has none: give server_hostname")
    try:
        stream = TlsStream(context, server_side=server_side, server_hostname=server_hostname)
    except ssl.SSLError as exc:
        side, other = ("server", "CLIENT") if server_side else ("client", "SERVER")
        raise ValueError(f"this ssl context cannot be a {side}'s, it was made with PROTOCOL_TLS_{other}") from exc
    except ValueError as exc:
        raise ValueError(f"server_hostname={server_hostname!r} cannot be looked for in a certificate: {exc}") from None
    # Without one of its own, the callback may choose another context by the name that the client asks for.
    if server_side and context.sni_callback is None:
        _check_certificate(context, stream)
    return context


def _check_certificate(context: ssl.SSLContext, stream: TlsStream) -> None:
    anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anything.check_hostname = False
    anything.verify_mode = ssl.CERT_NONE
    anything.set_ciphers("ALL:@SECLEVEL=0")
    client = TlsStream(anything, server_side=False)
    list(client.feed(b""))
    try:
        list(stream.feed(client.take()))
    except TlsError as exc:
        # A client that offers everything shares no cipher with a server that has no key to sign with.  Without a key
        # TLS 1.3 is not on offer (OpenSSL's is_tls13_capable), so one that allows nothing else has no version left.
        only_1_3 = context.minimum_version is ssl.TLSVersion.TLSv1_3
        if exc.reason == "NO_SHARED_CIPHER" or (only_1_3 and exc.reason == "UNSUPPORTED_PROTOCOL"):
            raise ValueError("the ssl context has no certificate; give it one with load_cert_chain()") from None


# --- words for a human --------------------------------------------------------------------------------------------

_LOAD_CA = "if it is the right server, trust its CA: evloop.tls.client_context(ca=FILE), --tls-ca FILE"
_OTHER_NAME = "connect by a name that is in the certificate, or give it: server_hostname=, --tls-name"
# X509_V_ERR_*, x509_vfy(3).
_VERIFY_REMEDIES = {
    9: "check the clocks",
    10: "it has to be renewed; or check the clocks",
    18: _LOAD_CA,
    19: _LOAD_CA,
    20: _LOAD_CA,
    21: _LOAD_CA,
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}
_NO_VERSION = "the peer speaks no version of TLS that is allowed here; see minimum_version of both ssl contexts"
_THEIR_VERSION = "this side speaks no version of TLS that the peer allows; see minimum_version of both ssl contexts"
_OURS_REFUSED = "the peer refuses our certificate; it must trust the CA, find the name it asked for, and the date valid"
_OURS_MISSING = "the peer requires a certificate; give the ssl context one with load_cert_chain(), --tls-cert"
_THEIRS_MISSING = "the peer shows no certificate, and the ssl context requires one"
_TEXTS = {
    "UNSUPPORTED_PROTOCOL": _NO_VERSION,
    "TLSV1_ALERT_PROTOCOL_VERSION": _THEIR_VERSION,
    "TLSV1_ALERT_UNKNOWN_CA": _OURS_REFUSED,
    "SSLV3_ALERT_BAD_CERTIFICATE": _OURS_REFUSED,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _OURS_REFUSED,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _OURS_REFUSED,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _OURS_MISSING,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": _THEIRS_MISSING,
    "NO_SHARED_CIPHER": "the peer offers no cipher that is allowed here; see set_ciphers() of both ssl contexts",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the peer finds no cipher in common, or wants a certificate",
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": "a record was damaged or forged on its way",
}
# The content types that a record can begin with (RFC 8446, 5.1; RFC 6520).
_CONTENT_TYPES = range(20, 25)


def tls_error(exc: ssl.SSLError, first: bytes = b"") -> TlsError:
    """Return what OpenSSL says as one line with cause and remedy; *first*: the bytes that the peer began with."""
    reason = exc.reason
    if isinstance(exc, ssl.SSLCertVerificationError):
        message = exc.verify_message.rstrip(".")
        text = f"the peer's certificate is not accepted: {message}"
        remedy = _VERIFY_REMEDIES.get(exc.verify_code)
        return TlsError(f"{text}; {remedy}" if remedy else text, reason)
    if first and first[0] not in _CONTENT_TYPES:
        guess = looks_like(first)
        what = f", which looks like {name_of_protocol(guess)}" if guess else ""
        return TlsError(f"the peer does not speak TLS: it began with {first.hex(' ')}{what}", reason)
    words = (reason or exc.strerror or "unknown error").replace("_", " ").lower()
    return TlsError(_TEXTS.get(reason or "", f"TLS failed: {words}"), reason)
