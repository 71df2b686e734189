"""evloop.addresses: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import dataclasses

import pytest
from realsockets import listening

from evloop import addresses, sockets
from evloop.errors import AddressError, EvloopError
from evloop.sockets import Address, parse_address

VALID = [
    ("127.0.0.1:9000", "127.0.0.1:9000", "tcp 127.0.0.1:9000"),
    ("localhost:0", "localhost:0", "tcp localhost:0"),
    (":65535", ":65535", "tcp :65535"),
    ("8080", "127.0.0.1:8080", "tcp 127.0.0.1:8080"),
    ("0" * 5000 + "80", "127.0.0.1:80", "tcp 127.0.0.1:80"),
    ("[::1]:9000", "[::1]:9000", "tcp [::1]:9000"),
    ("[0:0:0::1]:9000", "[::1]:9000", "tcp [::1]:9000"),
    ("[::1%eth0]:9000", "[::1%eth0]:9000", "tcp [::1%eth0]:9000"),
    ("unix:/run/app.sock", "unix:/run/app.sock", "unix /run/app.sock"),
    ("unix:relative", "unix:relative", "unix relative"),
    ("unix:@abstract", "unix:@abstract", "unix @abstract"),
    ("unix:./@file", "unix:./@file", "unix ./@file"),
    ("seqpacket:/run/app.sock", "seqpacket:/run/app.sock", "seqpacket /run/app.sock"),
    ("seqpacket:@abstract", "seqpacket:@abstract", "seqpacket @abstract"),
    ("seqpacket:9000", "seqpacket:9000", "seqpacket 9000"),
    (7, "127.0.0.1:7", "tcp 127.0.0.1:7"),
    (Address("seqpacket", path="/p"), "seqpacket:/p", "seqpacket /p"),
    (("::1", 9000), "[::1]:9000", "tcp [::1]:9000"),
    (("", 9000), ":9000", "tcp :9000"),
    (Address("tcp", "h", 1), "h:1", "tcp h:1"),
]


@pytest.mark.parametrize(("value", "text", "label"), VALID, ids=[str(case[0])[:20] for case in VALID])
def test_parse_address_accepted_form_gives_canonical_text(value, text, label):
    """One syntax everywhere: what is printed can be pasted back, and means the same."""
    address = parse_address(value)
    assert (str(address), address.label) == (text, label)
    assert parse_address(text) == address


def test_parse_address_bare_port_takes_the_default_host():
    """A program that is meant for the network says so once."""
    assert parse_address("80", default_host="0.0.0.0") == Address("tcp", "0.0.0.0", 80)


REFUSED = [
    ("", "it is empty; write host:port, [ipv6]:port, :port, port, unix:/path or seqpacket:/path"),
    ("::1:9000", "write [::1]:9000"),
    ("::1", "write [::1]:7777"),
    ("fe80::1:", "needs brackets"),
    ("1:2:3:4:5:6:7:8", "write [1:2:3:4:5:6:7:8]:7777"),
    ("[::1]", "write [::1]:7777"),
    ("[::1]:", "write [::1]:7777"),
    ("[::1]9000", "not followed by ':port'"),
    ("[::1", "not followed by ':port'"),
    ("[]:9000", "not an IPv6 address"),
    ("[127.0.0.1]:9000", "'127.0.0.1' in the brackets is not an IPv6 address"),
    ("[::1%]:9000", "not an IPv6 address"),
    ("localhost", "write localhost:7777"),
    ("localhost:", "write localhost:7777"),
    ("localhost:http", "port 'http' is not a number"),
    ("localhost: 9000", "not a number"),
    ("localhost:-1", "not a number"),
    ("localhost:٣", "not a number"),
    ("localhost:65536", "port 65536 is outside 0..65535"),
    ("65536", "port 65536 is outside 0..65535"),
    ("9" * 6000, "outside 0..65535"),
    ("9000\n", "control character"),
    ("unix:/a\x1b[2J", "control character"),
    ("unix:/a\0b", "control character"),
    ("http://localhost:80", "it is a URL"),
    ("/run/app.sock", "write unix:/run/app.sock"),
    ("unix:", "the path is empty"),
    ("unix:@", "the path is empty"),
    ("unix:\ud800", "cannot be encoded"),
    ("seqpacket:", "the path is empty; write seqpacket:/path, seqpacket:relative or seqpacket:@abstract"),
    ("seqpacket:@", "the path is empty"),
    ("seqpacket:/a\0b", "control character"),
    ("a:b:1", "neither a host name nor an IPv6 address"),
    ("user@host:1", "is not a host name"),
    ("a b:1", "is not a host name"),
    ("a..b:1", "a part is empty or longer than 63 bytes"),
    ("x" * 64 + ":1", "a part is empty or longer than 63 bytes"),
    ("x:1" * 5000, "neither a host name"),
    (-1, "port -1 is outside 0..65535"),
    (65536, "port 65536 is outside 0..65535"),
    (("h", 65536), "port 65536 is outside 0..65535"),
    (("h",), "a tuple is (host, port)"),
    (("::x", 1), "neither a host name nor an IPv6 address"),
    (Address("tcp", "h", 1 << 40), "outside 0..65535"),
    (Address("udp", "h", 1), "none of 'tcp', 'unix' and 'seqpacket'"),
    (Address("unix"), "the path is empty"),
]


@pytest.mark.parametrize(("value", "part"), REFUSED, ids=[ascii(str(case[0])[:20]) for case in REFUSED])
def test_parse_address_bad_value_names_cause_and_remedy_in_one_short_line(value, part):
    """The person who mistyped reads one line on a terminal; a hostile text must not flood or redraw it."""
    with pytest.raises(AddressError) as caught:
        parse_address(value, default_port=7777)
    text = str(caught.value)
    assert text.startswith("bad address ")
    assert part in text
    assert len(text.splitlines()) == 1
    assert len(text) < 700
    assert isinstance(caught.value, EvloopError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("value", [None, True, 1.5, b"h:1", ["h", 1], ("h", "1"), (b"h", 1), ("h", True)], ids=repr)
def test_parse_address_wrong_type_raises_type_error(value):
    """A programming error is told apart from a user's typing error."""
    with pytest.raises(TypeError):
        parse_address(value)


@pytest.mark.parametrize("kind", ["unix:", "seqpacket:"])
@pytest.mark.parametrize("prefix", ["/", "@"])
def test_parse_address_path_at_the_limit_passes_and_one_more_byte_fails(prefix, kind):
    """sun_path holds 107 bytes and a NUL; the kernel's own error would name neither number."""
    limit = addresses.MAX_PATH - (prefix == "/")
    for size in (limit - 1, limit):
        assert parse_address(kind + prefix + "x" * size).path == prefix + "x" * size
    with pytest.raises(AddressError, match="a path of 108 bytes exceeds the 107 "):
        parse_address(kind + prefix + "x" * (limit + 1))


def test_parse_address_path_is_measured_in_bytes():
    """36 characters of three bytes are 108 bytes: one too many, though far from 107 characters."""
    with pytest.raises(AddressError, match="108 bytes"):
        parse_address("unix:" + "粘" * 36)


def test_listen_path_of_exactly_the_limit_is_taken_by_the_kernel(tmp_path, monkeypatch):
    """The limit we announce is the real one."""
    monkeypatch.chdir(tmp_path)
    for path in ("x" * addresses.MAX_PATH, "@" + "x" * addresses.MAX_PATH):
        with listening("unix:" + path) as (listener,):
            assert sockets.local_address(listener).path == path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":1", "127.0.0.1:1"),
        ("0.0.0.0:1", "127.0.0.1:1"),
        ("[::]:1", "[::1]:1"),
        ("h:1", "h:1"),
        ("unix:/p", "unix:/p"),
        ("seqpacket:/p", "seqpacket:/p"),
    ],
)
def test_for_client_every_interface_becomes_loopback(text, expected):
    """A client given the server's own address text reaches that server."""
    assert str(parse_address(text).for_client()) == expected


def test_address_is_frozen_and_hashable():
    """An address is a key and a value in logs; nobody may change it under them."""
    address = parse_address("h:1")
    with pytest.raises(dataclasses.FrozenInstanceError):
        address.port = 2
    assert {address: 1}[parse_address("h:1")] == 1
