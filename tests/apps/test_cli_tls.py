"""TLS from the shell: a server and a client as processes, and one line for each thing that cannot be."""

from __future__ import annotations

import signal
import socket
import ssl

import pytest
from programs import Program, frame, receive_frame, rest_of, run_program, serving
from tlspeers import CA, CLIENT, ENCRYPTED, SERVER, foreign_client

LOCAL = "127.0.0.1:0"


@pytest.fixture(scope="module")
def echo():
    """An echo server with TLS that all tests of this file may use, and none may break."""
    with serving("echo", LOCAL, "--tls-cert", SERVER) as server:
        yield server


def message(result):
    """Return the one line that a failed program says."""
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert result.stdout == b""
    return lines[0]


def test_tls_server_serves_a_foreign_client(echo):
    """Any language's TLS, with the frames that it knows."""
    with foreign_client().wrap_socket(echo.connect(), server_hostname="localhost") as sock:
        sock.sendall(frame(b"hello") + frame(b"x" * 100_000))
        assert [receive_frame(sock), receive_frame(sock)] == [b"hello", b"x" * 100_000]
        assert sock.version() == "TLSv1.3"


def test_tls_connect_in_a_pipe_gets_all_answers_and_ends(echo):
    """The end of the input is a close_notify; the answers still come (RFC 8446, 6.1)."""
    lines = b"".join(b"line %d %s\n" % (number, b"." * 1000) for number in range(2000))
    result = run_program("connect", echo.address, "--tls-ca", CA, input=lines)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == lines


def test_tls_connect_of_a_server_that_nobody_vouches_for_says_what_to_do(echo):
    """The first thing that goes wrong with TLS, and the advice is not to switch the check off."""
    result = run_program("connect", echo.address, "--tls", "--send", "a", "--expect", "a")
    assert result.returncode == 3
    text = message(result)
    assert text.startswith(f"evloop: cannot connect to {echo.address}: the peer's certificate is not accepted: ")
    assert text.endswith("--tls-ca FILE")


def test_tls_connect_name_is_the_one_in_the_certificate(echo):
    """An address may have another name than the certificate."""
    steps = ("--send", "a", "--expect", "a", "--tls-ca", CA)
    assert run_program("connect", echo.address, *steps, "--tls-name", "localhost").returncode == 0
    result = run_program("connect", echo.address, *steps, "--tls-name", "example.com")
    assert result.returncode == 3
    assert "not valid for 'example.com'; connect by a name" in message(result)


def test_tls_connect_without_tls_is_told_by_the_server():
    """The client sees a close; the server's log says why."""
    with serving("echo", LOCAL, "--tls-cert", SERVER) as server:  # its own: a warning of a kind comes once in 10 s
        result = run_program("connect", server.address, "--send", "a", "--expect", "a")
        assert result.returncode == 5
        server.wait_for("err", b"the peer does not speak TLS: it began with 00 00 00 01 61")


def test_tls_connect_to_a_plain_server_says_so():
    """And the server's log has recognised the ClientHello."""
    with serving("echo", LOCAL) as server:
        result = run_program("connect", server.address, "--tls", "--send", "a", "--expect", "a")
        assert result.returncode == 3
        assert "does it speak TLS on this port?" in message(result)
        server.wait_for("err", b"looks like a TLS handshake")


def test_tls_connect_to_a_silent_server_keeps_its_timeout():
    """--timeout is for connecting as a whole."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        result = run_program("connect", address, "--tls", "--timeout", "0.2", "--send", "a", "--expect", "a")
    assert result.returncode == 4
    assert "no connection to" in message(result)


def test_tls_server_with_a_client_ca_takes_only_its_clients():
    """Who has a certificate is answered; who has none is told that it takes one."""
    steps = ("--tls-ca", CA, "--send", "a", "--expect", "a")
    with serving("echo", LOCAL, "--tls-cert", SERVER, "--tls-key", SERVER, "--tls-ca", CA) as server:
        assert run_program("connect", server.address, *steps, "--tls-cert", CLIENT).returncode == 0
        result = run_program("connect", server.address, *steps)
        assert result.returncode == 5
        assert "the peer requires a certificate" in message(result)
        assert "--tls-cert" in message(result)


def test_tls_server_ends_a_handshake_that_takes_too_long():
    """What --handshake-timeout says, in the log, too."""
    with serving("echo", LOCAL, "--tls-cert", SERVER, "--handshake-timeout", "100ms") as server:
        with server.connect() as sock:
            assert rest_of(sock) == b""
        server.wait_for("err", b"reason=handshake: no TLS after 0.1 s (handshake_timeout)")


def test_tls_server_takes_its_settings_from_the_environment():
    """Each flag has a variable; a client in the same shell takes none of them for its own."""
    env = {"EVLOOP_TLS_CERT": SERVER, "EVLOOP_TLS_KEY": SERVER}
    with serving("echo", LOCAL, env=env) as server:
        result = run_program("connect", server.address, "--tls-ca", CA, "--send", "a", "--expect", "a", env=env)
        assert result.returncode == 0


def test_tls_server_stopped_with_connections_ends_them_with_close_notify():
    """A client can tell a stop from a cut."""
    with Program("serve", "echo", LOCAL, "--tls-cert", SERVER) as program:
        address = program.wait_for("out", b"\n").decode().split()[-1]
        host, _, port = address.rpartition(":")
        plain = socket.create_connection((host, int(port)))
        plain.settimeout(30)
        with foreign_client().wrap_socket(plain, server_hostname=host, suppress_ragged_eofs=False) as sock:
            sock.sendall(frame(b"a"))
            assert receive_frame(sock) == b"a"
            program.signal(signal.SIGTERM)
            assert sock.recv(1) == b""  # a bare end of TCP would raise
            sock.unwrap()
        assert program.finish() == 0


def test_tls_server_says_how_to_talk_to_it_and_what_is_missing():
    """The hint has --tls and no nc; the warning knows of TLS."""
    with serving("echo", "0.0.0.0:0", "--tls-cert", SERVER) as server:
        server.wait_for("err", b"there is no password and no client certificate")
        assert b" --tls\n" in server.err
        assert b"nc -q1" not in server.err
        assert b"no TLS" not in server.err
    with serving("echo", "0.0.0.0:0", "--tls-cert", SERVER, "--tls-ca", CA) as server:
        server.wait_for("err", b"stop it:")
        server.signal(signal.SIGTERM)
        server.finish()
        assert b"WARNING" not in server.err


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["serve", "echo", "--tls-key", SERVER], "--tls-key needs --tls-cert"),
        (["serve", "echo", "--tls-ca", CA], "--tls-ca needs --tls-cert"),
        (["serve", "echo", "--tls-cert", "no-such"], "cannot read no-such: no such file or directory"),
        (["serve", "echo", "--tls-cert", CA], "holds no certificate with its key, in PEM"),
        (["serve", "echo", "--tls-cert", SERVER, "--tls-key", CLIENT], "does not belong to the first certificate in"),
        (["serve", "echo", "--tls-cert", SERVER, "--tls-key", ENCRYPTED], "is encrypted; decrypt it: openssl pkey"),
        (["serve", "echo", "--tls-cert", SERVER, "--tls-ca", "/dev/null"], "/dev/null holds no certificate in PEM"),
        (["connect", ":1", "--tls-key", SERVER], "--tls-key needs --tls-cert"),
        (["connect", ":1", "--tls-ca", "no-such"], "cannot read no-such: no such file or directory"),
        (["connect", "unix:/no-such", "--tls"], "this address has none: give server_hostname; see --tls-name"),
        (["connect", ":1", "--tls-name", "."], "see --tls-name"),
        (["serve", "echo", "seqpacket:s", "--tls-cert", SERVER], "seqpacket:s keeps packets, and TLS needs a stream"),
        (["connect", "seqpacket:s", "--tls-ca", CA], "seqpacket:s keeps packets, and TLS needs a stream"),
    ],
    ids=lambda value: None if isinstance(value, list) else value[:24],
)
def test_tls_option_that_cannot_be_is_a_usage_error(args, text):
    """Before anything listens or connects, with the file or the option that is wrong."""
    result = run_program(*args)
    assert result.returncode == 2
    assert text in message(result)


def test_tls_context_of_the_system_is_the_default():
    """--tls alone trusts what the machine trusts, and checks names."""
    from evloop.cli.tls import client_context

    context = client_context(True, None, None, None, None)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert client_context(False, None, None, None, None) is None
    assert client_context(False, None, "localhost", None, None) is not None
