"""One syntax for addresses, TCP and UNIX, everywhere: ``127.0.0.1:9000``, ``[::1]:9000``, ``:9000``, ``unix:/path``,
``seqpacket:/path``.

Rule: nothing in this file may open a socket or ask DNS.  Read next: ``sockets.py``, which does both.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from typing import Literal, NoReturn, TypeAlias

from evloop.errors import AddressError

DEFAULT_HOST = "127.0.0.1"  # nothing is exposed to a network unless asked for
DEFAULT_PORT = 9000
MAX_PATH = 107  # bytes: sun_path holds 108 and the last is the NUL (unix(7)); an abstract name's NUL is the first

# Whatever ends or redraws a line of output; an address stands in the LISTENING line, in logs and in one-line errors.
_CONTROL = frozenset(map(chr, (*range(32), *range(127, 160), 0x2028, 0x2029)))
_FORMS = "write host:port, [ipv6]:port, :port, port, unix:/path or seqpacket:/path"
_UNIX = ("unix", "seqpacket")  # SOCK_STREAM and SOCK_SEQPACKET


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens or a peer is: a value, not checked by itself; `parse_address` makes and checks it.

    Attributes:
        kind: ``"tcp"``, ``"unix"`` (a stream) or ``"seqpacket"`` (packets over a UNIX socket).
        host: a name, an IPv4 or (without brackets, perhaps with ``%zone``) an IPv6 address; ``""`` is every interface.
        port: 0..65535; 0 asks the kernel for a free one.
        path: of a UNIX socket; ``@name`` is abstract (a file of that name is ``./@name``); ``""`` is an unnamed peer.
    """

    kind: Literal["tcp", "unix", "seqpacket"]
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        """Return the text that `parse_address` reads: ``127.0.0.1:9000``, ``[::1]:9000``, ``unix:/path``."""
        if self.is_unix:
            return f"{self.kind}:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def label(self) -> str:
        """The kind and the place as two words: ``tcp 127.0.0.1:9000``, ``unix /path``, ``seqpacket /path``."""
        return f"{self.kind} {self.path if self.is_unix else self}"

    @property
    def is_unix(self) -> bool:
        """True for a UNIX socket of either kind: it has a path, and no host."""
        return self.kind in _UNIX

    def for_client(self) -> Address:
        """Return the address to connect to: "every interface" becomes the loopback of its family.  Any thread."""
        if self.kind == "tcp" and self.host in ("", "0.0.0.0"):
            return replace(self, host="127.0.0.1")
        if self.kind == "tcp" and self.host == "::":
            return replace(self, host="::1")
        return self


AddressLike: TypeAlias = "Address | str | int | tuple[str, int]"


def parse_address(
    address: AddressLike, *, default_host: str = DEFAULT_HOST, default_port: int = DEFAULT_PORT
) -> Address:
    """Return the `Address` that *address* means, checked.

    Texts: ``host:port``, ``[ipv6]:port``, ``[ipv6%zone]:port``, ``:port`` (every interface), ``port`` (on
    *default_host*), ``unix:/path``, ``unix:relative``, ``unix:@abstract``, and the same three with ``seqpacket:``.
    Also a ``(host, port)`` tuple, an int port and an `Address`.  A host without a port is refused; *default_port* is
    what the error proposes.  No DNS is asked.

    Raises:
        AddressError: the value is no address, the port is outside 0..65535, the path is longer than 107 bytes.
        TypeError: *address* is of another type.

    Any thread.
    """
    if isinstance(address, Address):
        return _checked(address, str(address))
    if isinstance(address, int) and not isinstance(address, bool):
        return _checked(Address("tcp", default_host, address), str(address))
    if isinstance(address, tuple):
        if len(address) != 2:
            _refuse(repr(address), "a tuple is (host, port)")
        return _checked(Address("tcp", *address), repr(address))
    if not isinstance(address, str):
        raise TypeError(
            f"an address is a str, an int, a (host, port) tuple or an Address, not {type(address).__name__}"
        )
    if address.startswith("unix:"):
        return _checked(Address("unix", path=address[5:]), address)
    if address.startswith("seqpacket:"):
        return _checked(Address("seqpacket", path=address[10:]), address)
    host, port = _split(address, default_host, default_port)
    return _checked(Address("tcp", host, port), address)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:120] + "...")  # a path of legal length in full, a flood never


def _refuse(text: str, cause: str, remedy: str = _FORMS) -> NoReturn:
    raise AddressError(f"bad address {_shown(text)}: {cause}; {remedy}")


def _split(text: str, default_host: str, default_port: int) -> tuple[str, int]:
    """Cut *text* into host and port; what the two may be is `_checked`'s business."""
    if not text:
        _refuse(text, "it is empty")
    if not _CONTROL.isdisjoint(text):
        _refuse(text, "it holds a control character")
    if "://" in text:
        _refuse(text, "it is a URL")
    if "/" in text:
        _refuse(text, "a path needs 'unix:' in front", f"write unix:{text[:120]}")
    if text.isascii() and text.isdigit():
        return default_host, _port(text, text)
    host, colon, port = text.rpartition(":")
    if text.startswith("["):
        host, bracket, port = text[1:].rpartition("]")
        if not bracket or (port and port[0] != ":"):
            _refuse(text, "the brackets are not followed by ':port'")
        if not _is_ipv6(host):
            _refuse(text, f"{_shown(host)} in the brackets is not an IPv6 address")
        if len(port) < 2:
            _refuse(text, "it has no port", f"write [{host}]:{default_port}")
        return host, _port(port[1:], text)
    if _is_ipv6(host):
        _refuse(text, "an IPv6 address needs brackets", f"write [{host}]:{port or default_port}")
    if _is_ipv6(text):
        _refuse(text, "an IPv6 address needs brackets, and a port", f"write [{text}]:{default_port}")
    if not colon or not port:
        name = host if colon else text
        _refuse(text, "it has no port", f"write {name[:120]}:{default_port}")
    return host, _port(port, text)


def _port(digits: str, text: str) -> int:
    if not (digits.isascii() and digits.isdigit()):
        _refuse(text, f"port {_shown(digits)} is not a number")
    # int() of thousands of digits is slow, and refused by Python; five digits settle the range.
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= 5 else _refuse(text, f"port {digits[:20]} is outside 0..65535")


def _is_ipv6(host: str) -> bool:
    bare, percent, zone = host.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6, bare)
    except (OSError, ValueError):
        return False
    return bool(zone) or not percent


def _checked(address: Address, text: str) -> Address:
    """Return *address* with an IPv6 host in its shortest form, or refuse *text*, which is what the user wrote."""
    host, port, path = address.host, address.port, address.path
    if not isinstance(host, str) or not isinstance(path, str) or not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"host and path are str and port is an int, not {host!r:.60}, {path!r:.60} and {port!r:.60}")
    if not _CONTROL.isdisjoint(host + path):
        _refuse(text, "it holds a control character")
    if address.is_unix:
        _check_path(address.kind, path, text)
        return address
    if address.kind != "tcp":
        _refuse(text, f"its kind is {address.kind!r}, and none of 'tcp', 'unix' and 'seqpacket'")
    if not 0 <= port <= 65535:
        _refuse(text, f"port {port} is outside 0..65535")
    if any(char in "/[]@\\" or char.isspace() for char in host):
        _refuse(text, f"{_shown(host)} is not a host name")
    if ":" in host:
        if not _is_ipv6(host):
            _refuse(text, f"{_shown(host)} is neither a host name nor an IPv6 address")
        bare, percent, zone = host.partition("%")
        short = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, bare))
        return replace(address, host=short + percent + zone)
    try:
        host.encode("idna")  # what getaddrinfo would do, much later, with an error that is no OSError
    except UnicodeError:
        _refuse(text, f"{_shown(host)} is not a host name: a part is empty or longer than 63 bytes")
    return address


def _check_path(kind: str, path: str, text: str) -> None:
    try:
        size = len(os.fsencode(path.removeprefix("@")))
    except UnicodeError:
        _refuse(text, "the path cannot be encoded for the file system")
    if size == 0:
        _refuse(text, "the path is empty", f"write {kind}:/path, {kind}:relative or {kind}:@abstract")
    if size > MAX_PATH:
        remedy = "choose a shorter path, or one relative to the working directory"
        _refuse(text, f"a path of {size} bytes exceeds the {MAX_PATH} of a UNIX socket (sun_path, unix(7))", remedy)
