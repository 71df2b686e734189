"""Contexts and texts of TLS: what cannot work is refused where it is written, in one line with the remedy."""

from __future__ import annotations

import pathlib
import ssl
import subprocess
import sys

import pytest
from tlspeers import CA, CLIENT, ENCRYPTED, EXPIRED, SERVER, STRANGER, VERSIONS, foreign_client, foreign_server

import evloop
from evloop import BlockingClient, Reactor, Server, TlsError, tls
from evloop._tls_stream import STEP, TlsStream, check_context


def ignore(conn, frame):
    pass


def drive(client, server):
    """Bring the handshake of two streams to its end; TlsError as they raise it."""
    data = b""
    while not (client.established and server.established):
        for side in (client, server):
            assert list(side.feed(data)) == []
            data = side.take()
    list(client.feed(data))


def streams(server_context=None, client_context=None, name="localhost"):
    """Return the two ends of one stream."""
    client = TlsStream(client_context or tls.client_context(CA), server_side=False, server_hostname=name)
    return client, TlsStream(server_context or tls.server_context(SERVER), server_side=True)


# --- contexts --------------------------------------------------------------------------------------------------------


def test_tls_server_context_is_strict():
    """No old versions, no renegotiation, no tickets that a client leaves unread in its kernel."""
    context = tls.server_context(SERVER)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert (context.num_tickets, context.verify_mode) == (0, ssl.CERT_NONE)
    assert tls.server_context(SERVER, client_ca=CA).verify_mode is ssl.CERT_REQUIRED


def test_tls_client_context_verifies_certificate_and_name():
    """With the system's CAs or with given ones."""
    for context in (tls.client_context(), tls.client_context(CA), tls.client_context(certificate=CLIENT)):
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert len(tls.client_context(CA).get_ca_certs()) == 1


@pytest.mark.parametrize("make", [tls.server_context, lambda path: tls.client_context(certificate=path)])
def test_tls_context_names_the_file_that_is_wrong(make, tmp_path):
    """OpenSSL's own words are `[SSL] PEM lib (_ssl.c:3900)`."""
    nothing = tmp_path / "nothing.pem"
    with pytest.raises(FileNotFoundError, match=r"nothing\.pem"):
        make(str(nothing))
    nothing.write_text("this is no PEM")
    with pytest.raises(ValueError, match=r"nothing\.pem holds no certificate with its key, in PEM"):
        make(str(nothing))
    with pytest.raises(ValueError, match=r"ca\.pem holds no certificate with its key"):
        make(CA)  # no key


def test_tls_context_of_another_key_or_an_encrypted_one_is_refused():
    """An encrypted key would make OpenSSL ask on the terminal."""
    with pytest.raises(ValueError, match=r"client\.pem does not belong to the first certificate in .*server\.pem"):
        tls.server_context(SERVER, CLIENT)
    with pytest.raises(ValueError, match=r"encrypted.key.pem is encrypted; decrypt it: openssl pkey"):
        tls.server_context(SERVER, ENCRYPTED)
    with pytest.raises(FileNotFoundError, match="no-such"):
        tls.server_context(SERVER, "no-such")


def test_tls_context_ca_without_a_certificate_is_refused(tmp_path):
    """An empty CA file trusts nobody, and nobody finds out why."""
    empty = tmp_path / "empty"
    empty.write_text("")
    for make in (tls.client_context, lambda path: tls.server_context(SERVER, client_ca=path)):
        with pytest.raises(ValueError, match="empty holds no certificate in PEM"):
            make(str(empty))
        with pytest.raises(FileNotFoundError, match="no-such"):
            make("no-such")


# --- checks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [True, SERVER, object()], ids=["true", "path", "object"])
def test_tls_argument_that_is_no_context_is_a_type_error(wrong):
    """`ssl=True` means something elsewhere; here it would hide whom is trusted."""
    text = "ssl must be an ssl.SSLContext or None, not"
    with Reactor() as reactor:
        with pytest.raises(TypeError, match=text):
            Server(reactor, ignore, "127.0.0.1:0", ssl=wrong)
        with pytest.raises(TypeError, match=text):
            evloop.connect(reactor, "127.0.0.1:1", ignore, ssl=wrong)
    with pytest.raises(TypeError, match=text):
        BlockingClient("127.0.0.1:1", ssl=wrong)


@pytest.mark.parametrize("version", [None, *VERSIONS])
def test_tls_server_without_a_certificate_is_refused(version):
    """Each client would be told `handshake failure`, and the operator nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if version:
        context.minimum_version = context.maximum_version = version
    with Reactor() as reactor:
        with pytest.raises(ValueError, match="no certificate; give it one with load_cert_chain"):
            Server(reactor, ignore, "127.0.0.1:0", ssl=context)
        context.sni_callback = lambda sock, name, context: None  # may choose another one
        Server(reactor, ignore, "127.0.0.1:0", ssl=context)


@pytest.mark.parametrize("version", [None, *VERSIONS])
def test_tls_server_with_a_certificate_is_taken(version):
    """Also one that asks for the client's, and one of a single version."""
    context = foreign_server(version=version)
    assert check_context(context, server_side=True) is context
    context.load_verify_locations(CA)
    context.verify_mode = ssl.CERT_REQUIRED
    assert check_context(context, server_side=True) is context


def test_tls_context_of_the_other_side_is_refused():
    """A server's context verifies nobody."""
    with pytest.raises(ValueError, match="cannot be a server's, it was made with PROTOCOL_TLS_CLIENT"):
        check_context(foreign_client(), server_side=True)
    with pytest.raises(ValueError, match="cannot be a client's, it was made with PROTOCOL_TLS_SERVER"):
        check_context(foreign_server(), server_side=False, server_hostname="localhost")


def test_tls_client_of_an_address_without_a_name_needs_one():
    """A UNIX path is no name that a certificate could hold."""
    context = foreign_client()
    with Reactor() as reactor:
        with pytest.raises(ValueError, match="give server_hostname"):
            evloop.connect(reactor, "unix:/nowhere", ignore, ssl=context)
        with pytest.raises(ValueError, match="without ssl there is none"):
            evloop.connect(reactor, "127.0.0.1:1", ignore, server_hostname="localhost")
        with pytest.raises(ValueError, match=r"server_hostname='\.localhost' cannot be looked for"):
            evloop.connect(reactor, "127.0.0.1:1", ignore, ssl=context, server_hostname=".localhost")
    with pytest.raises(ValueError, match="give server_hostname"):
        BlockingClient("unix:/nowhere", ssl=context)
    with pytest.raises(ValueError, match="without ssl there is none"):
        BlockingClient("127.0.0.1:1", server_hostname="localhost")
    context.check_hostname = False
    assert check_context(context, server_side=False) is context


def test_tls_is_not_imported_by_who_does_without():
    """OpenSSL costs 10 ms of every start, and megabytes."""
    code = "import sys, evloop; evloop.Server(evloop.Reactor(), print); assert 'ssl' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=30)


# --- the stream ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, STEP - 1, STEP, STEP + 1, 300_000])
@pytest.mark.parametrize("cut", [1, 1000, STEP, 1 << 20])
def test_tls_stream_gives_what_was_sealed_however_it_is_cut(size, cut):
    """And nothing is left inside of OpenSSL once all of a feed was taken."""
    client, server = streams()
    drive(client, server)
    payload = bytes(range(251)) * (size // 251 + 1)
    wire = client.seal(payload[:size]) + client.take()
    if cut == 1:
        wire_pieces = [wire[:1], wire[1:2], wire[2:-1], wire[-1:]]
    else:
        wire_pieces = [wire[start : start + cut] for start in range(0, len(wire), cut)]
    got = [piece for data in wire_pieces for piece in server.feed(data)]
    assert b"".join(got) == payload[:size]
    assert all(len(piece) <= STEP for piece in got)


def test_tls_stream_ends_one_side_alone():
    """close_notify is an end of one direction; the other goes on, also past what was under way."""
    client, server = streams()
    drive(client, server)
    late = server.seal(b"under way")
    client.close_notify()
    assert list(server.feed(client.take())) == []
    assert (server.peer_closed, client.peer_closed) == (True, False)
    assert list(client.feed(late + server.seal(b"later"))) == [b"under way", b"later"]
    server.close_notify()
    assert list(client.feed(server.take() + b"what follows is ignored")) == []
    assert client.peer_closed
    with pytest.raises(TlsError):
        client.seal(b"after the end")


@pytest.mark.parametrize(
    ("certificate", "ca", "name", "text"),
    [
        (SERVER, STRANGER, "localhost", "unable to get local issuer certificate; if it is the right server, trust"),
        (STRANGER, CA, "localhost", "signed certificate; if it is the right server, trust its CA"),
        (SERVER, CA, "example.com", "not valid for 'example.com'; connect by a name that is in the certificate"),
        (SERVER, CA, "127.0.0.2", "not valid for '127.0.0.2'; connect by a name that is in the certificate"),
        (EXPIRED, CA, "localhost", "certificate has expired; it has to be renewed; or check the clocks"),
    ],
    ids=["other-ca", "self-signed", "name", "address", "expired"],
)
def test_tls_certificate_that_is_not_accepted_says_why_and_what_to_do(certificate, ca, name, text):
    """One line; OpenSSL's reason is kept for programs."""
    client, server = streams(foreign_server(certificate), tls.client_context(ca), name)
    with pytest.raises(TlsError) as caught:
        drive(client, server)
    assert str(caught.value).startswith("the peer's certificate is not accepted: ")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.reason == "CERTIFICATE_VERIFY_FAILED"
    with pytest.raises(TlsError, match="the peer refuses our certificate"):
        list(server.feed(client.take()))


def test_tls_info_tells_what_was_agreed():
    """Version, cipher, ALPN and the peer's certificate, verified or as it came."""
    server_context, client_context = tls.server_context(SERVER), tls.client_context(CA)
    server_context.set_alpn_protocols(["evloop"])
    client_context.set_alpn_protocols(["other", "evloop"])
    client, server = streams(server_context, client_context)
    drive(client, server)
    assert (client.info.version, client.info.alpn, server.info.alpn) == ("TLSv1.3", "evloop", "evloop")
    assert client.info.cipher == server.info.cipher != ""
    assert client.info.peer_certificate["subject"] == ((("commonName", "evloop test server"),),)
    assert ssl.DER_cert_to_PEM_cert(client.info.peer_certificate_der) in pathlib.Path(SERVER).read_text()
    assert (server.info.peer_certificate, server.info.peer_certificate_der) == (None, None)
