"""One verb for each chore with sockets: listen, resolve, connect, name, explain.

What it is: everything between an address and a non-blocking socket that is listening or connecting, with the options
and the order of calls that Linux wants.

Rule: no reactor, no framing, no logging in here.  What the kernel refuses stays OSError.  Nothing but `listen`,
`unlink_unix` (both at most `LOCK_WAIT` seconds, for a path) and `resolve` (DNS) ever blocks.

Read next: `server.py` and `client.py`, the callers; ip(7), tcp(7), unix(7), accept(2), connect(2).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import resource
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeAlias

from evloop.addresses import Address, AddressLike, parse_address
from evloop.limits import Limits

BACKLOG = 1024  # covers a burst of connects during ~0.1 s of a busy loop; the kernel cuts it to somaxconn (4096 today)
PORT_ATTEMPTS = 16  # port 0 on several addresses: the odds that a free port is taken on the other family, 16 times over
LOCK_WAIT = 2.0  # seconds; a starting server holds the directory's lock for well under a millisecond
LOCK_POLL = 0.001  # seconds between two tries for that lock

# --- errno groups -------------------------------------------------------------------------------------------------

# Nothing to read, or no room to write, right now.  POSIX lets the two differ; on Linux they are one number.
WOULD_BLOCK = frozenset({errno.EAGAIN, errno.EWOULDBLOCK})

# An established connection ended by the peer, the network or the operator: the ordinary end of a connection, no fault.
# ETIMEDOUT is tcp(7)'s word for un-acknowledged data, keepalive and TCP_USER_TIMEOUT; where an ICMP message came
# before it, the kernel reports that one instead (ip(7)), hence the unreachable family.
PEER_GONE = frozenset(
    {
        errno.ECONNRESET,  # RST received
        errno.EPIPE,  # written after the RST or after the peer's close of a UNIX socket
        errno.ECONNABORTED,  # closed here by the operator: `ss -K`
        errno.ENOTCONN,  # reset between accept() and the first call on the socket
        errno.ESHUTDOWN,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.ENETDOWN,
        errno.ENONET,
    }
)

# accept() took one connection off the queue and that one is dead; the listener is well, so try the next.  The list is
# accept(2)'s: "Linux accept() passes already-pending network errors on the new socket as an error code", to be treated
# like EAGAIN; EPERM is a firewall's verdict on that one connection.
ACCEPT_RETRY = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENONET,
        errno.ETIMEDOUT,
        errno.EPERM,
    }
)

# The process or the machine has no descriptor or memory left: the connection stays queued, and a retry at once spins.
NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
OUT_OF_RESOURCES = NO_DESCRIPTOR | {errno.ENOBUFS, errno.ENOMEM}

# The machine lacks this address or this family: the other addresses of the same name may still do.
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})

# --- names of sockets -------------------------------------------------------------------------------------------

Sockaddr: TypeAlias = "tuple[Any, ...] | str | bytes"


def address_of(family: int, sockaddr: Sockaddr, socket_type: int = socket.SOCK_STREAM) -> Address:
    """Return the `Address` of what accept(), getsockname() or getpeername() gave for *family*.  Any thread."""
    if family == socket.AF_UNIX:
        kind: Literal["unix", "seqpacket"] = "seqpacket" if socket_type == socket.SOCK_SEQPACKET else "unix"
        if isinstance(sockaddr, bytes):  # Python hands abstract names over as bytes, with the NUL
            return Address(kind, path="@" + os.fsdecode(sockaddr[1:]))
        return Address(kind, path=str(sockaddr))
    return Address("tcp", str(sockaddr[0]), int(sockaddr[1]))


def local_address(sock: socket.socket) -> Address:
    """Return the address *sock* is bound to.  OSError: it is closed.  Any thread."""
    return address_of(sock.family, sock.getsockname(), sock.type)


def peer_address(sock: socket.socket) -> Address | None:
    """Return the address of the peer of *sock*; None when it has none: not connected, or already reset.

    OSError: *sock* is closed.  Any thread.
    """
    try:
        return address_of(sock.family, sock.getpeername(), sock.type)
    except OSError as exc:
        if exc.errno == errno.ENOTCONN:
            return None
        raise


class Accepted:
    """A connection that was accepted and is nobody's yet: its socket, and the address that accept(2) gave.

    The compiled connection has one of its own, with a bare fd.  Owns: the socket, until :meth:`take` or :meth:`detach`.
    """

    __slots__ = ("_sock", "_sockaddr")

    def __init__(self, sock: socket.socket, sockaddr: Sockaddr) -> None:
        self._sock = sock
        self._sockaddr = sockaddr

    @property
    def peer(self) -> Address | None:
        """The peer's address; None for a UNIX socket, whose peers have none."""
        return None if self._sock.family == socket.AF_UNIX else address_of(self._sock.family, self._sockaddr)

    def take(self) -> socket.socket:
        """Give the socket away."""
        return self._sock

    def detach(self) -> int:
        """Give the fd (int) away."""
        return self._sock.detach()

    def close(self) -> None:
        """Close it.  Idempotent."""
        self._sock.close()


def accept(reactor: object, listener: socket.socket) -> Accepted | None:
    """Return the next connection of a listening socket, non-blocking; None if nobody waits.  OSError: accept(2).

    The *reactor* is for the compiled twin, which accepts through its table of system calls.
    """
    try:
        sock, sockaddr = listener.accept()
    except BlockingIOError:
        return None
    sock.setblocking(False)
    return Accepted(sock, sockaddr)


def socket_of(given: Any) -> socket.socket:
    """Return *given* if it is a socket, or else the socket of what was accepted, by either implementation."""
    if isinstance(given, socket.socket):
        return given
    if isinstance(given, Accepted):
        return given.take()
    return socket.socket(fileno=given.detach())


def socket_type_of(address: Address) -> int:
    """Return the type of a socket for *address*: SOCK_SEQPACKET or SOCK_STREAM.  Any thread."""
    return socket.SOCK_SEQPACKET if address.kind == "seqpacket" else socket.SOCK_STREAM


def _sun_path(path: str) -> str | bytes:
    return b"\0" + os.fsencode(path[1:]) if path.startswith("@") else path


def set_tcp_options(sock: socket.socket, limits: Limits) -> None:
    """Have the kernel keep its part of *limits* on a TCP socket; a UNIX socket is left alone.

    Set on a socket before it listens, the connections have them from the handshake on: Linux copies the listener, with
    all of these, so an accept costs no call.  tcp(7), socket(7).  OSError: the kernel refused.  Any thread.
    """
    if sock.family == socket.AF_UNIX:
        return
    if limits.notsent_lowat:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.notsent_lowat)
    if limits.keepalive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, limits.keepalive)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, limits.keepalive_interval)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, limits.keepalive_count)
    if limits.user_timeout:
        # Rounded up: 0 ms would be the kernel's own bound of about 15 minutes.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(limits.user_timeout * 1000))


# --- listening ----------------------------------------------------------------------------------------------------


def listen(
    address: AddressLike,
    *,
    backlog: int = BACKLOG,
    reuse_port: bool = False,
    unix_mode: int = 0o600,
    socket_factory: Callable[..., socket.socket] = socket.socket,
) -> list[socket.socket]:
    """Return listening sockets, non-blocking and close-on-exec: one for each address that *address* stands for.

    ``:port`` gives 0.0.0.0 and, where the machine has IPv6, [::]; a name gives each address it resolves to (this may
    ask DNS, and block); those that the machine lacks are left out while one works.  With port 0 all share the port that
    the first one got.  A UNIX path left by a dead server is replaced; a living server's, or another file, is not.

    Args:
        backlog: connections the kernel queues before accept (0..2**31-1); it queues one more, at most `somaxconn`.
        reuse_port: several processes may listen side by side, the kernel spreads the connections (TCP only).
        unix_mode: permissions of the UNIX path (0..0o777), never wider for a moment; connecting needs the write bit.
            Not applied to abstract names: every user of the network namespace may connect to one.
        socket_factory: called as ``socket_factory(family, type)``.

    Raises:
        AddressError: see `parse_address`.
        ValueError: *backlog* or *unix_mode* is out of range.
        OSError: the kernel refused, nothing stays open.  EADDRINUSE: another server listens there.  EEXIST: something
            that is not a socket is at the path.  EBUSY: another process kept the lock on the path's directory, which
            has to be readable and writable, for `LOCK_WAIT` seconds.

    Any thread.
    """
    address = parse_address(address)
    if not 0 <= backlog <= 0x7FFFFFFF:
        raise ValueError(f"backlog {backlog} is outside 0..{0x7FFFFFFF}")
    if not 0 <= unix_mode <= 0o777:
        raise ValueError(f"unix_mode {unix_mode:#o} is outside 0..0o777")
    if address.is_unix:
        try:
            return [_listen_unix(address, backlog, unix_mode, socket_factory)]
        except OSError as exc:
            of_address(exc, address)
            raise
    targets = _getaddrinfo(address, socket.AI_PASSIVE)
    attempts = 1 if address.port else PORT_ATTEMPTS
    while True:
        attempts -= 1
        try:
            return _listen_on_each(targets, backlog, reuse_port, socket_factory)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or not attempts:
                of_address(exc, address)
                raise


def of_address(exc: OSError, address: Address) -> OSError:
    """Return *exc*, which names *address* from now on as open(2)'s errors name their file.  Any thread.

    The kernel's words alone, "Address already in use", leave out which one: of a program with three, that is a search.
    """
    if exc.errno is not None and exc.filename is None:
        exc.filename = str(address)
    return exc


def _listen_on_each(
    targets: Iterable[tuple[int, Sockaddr]], backlog: int, reuse_port: bool, factory: Callable[..., socket.socket]
) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    port = 0
    try:
        for family, sockaddr in targets:
            place = (sockaddr[0], port or sockaddr[1], *sockaddr[2:])
            try:
                listeners.append(_listen_tcp(family, place, backlog, reuse_port, factory))
            except OSError as exc:
                if exc.errno not in _NOT_HERE:
                    raise
                missing = missing or exc
                continue
            port = listeners[-1].getsockname()[1]
        if missing is not None and not listeners:
            raise missing
    except BaseException:
        for sock in listeners:
            sock.close()
        raise
    return listeners


def _listen_tcp(
    family: int, sockaddr: Sockaddr, backlog: int, reuse_port: bool, factory: Callable[..., socket.socket]
) -> socket.socket:
    sock = factory(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # On Linux this lets a server bind while connections of its predecessor are in TIME_WAIT; it never lets two
        # sockets listen on one port (socket(7)).  SO_REUSEPORT is not its stronger form: that one shares the port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # Without it [::] takes IPv4 as well, and 0.0.0.0 on the same port is then in use.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Accepted sockets inherit it: whole messages are written at once, so Nagle's wait for an ACK is only delay,
        # and one call here saves one for each connection.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(sockaddr)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _listen_unix(address: Address, backlog: int, mode: int, factory: Callable[..., socket.socket]) -> socket.socket:
    sock, path = factory(socket.AF_UNIX, socket_type_of(address)), address.path
    try:
        sock.setblocking(False)
        if path.startswith("@"):
            sock.bind(_sun_path(path))
            sock.listen(backlog)
            return sock
        # bind() gives the file the rights of the socket's own inode, less the umask: set them first, and no client
        # of the moment between bind() and a chmod() slips in.
        os.fchmod(sock.fileno(), mode)
        with _directory_lock(path):
            _remove_stale(path)
            sock.bind(path)
            try:
                _undo_umask(path, mode)
                sock.listen(backlog)
            except BaseException:
                os.unlink(path)
                raise
    except BaseException:
        sock.close()
        raise
    return sock


def adopt_listeners(given: Iterable[socket.socket]) -> list[socket.socket]:
    """Return the listening sockets *given* by somebody else, set up as those of `listen` are.

    That is: non-blocking, close-on-exec, and TCP without Nagle's delay.  A backlog, the permissions of a path and the
    like stay as they are; so does the path at the end, which is for whoever made it to remove.

    Raises:
        TypeError: one is no socket.socket.
        ValueError: there is none; one is there twice, is closed, is neither IPv4, IPv6 nor UNIX, is of another
            type than a stream (of UNIX sockets also SOCK_SEQPACKET), or does not listen.  Nothing is changed or closed.

    Any thread.
    """
    listeners = list(given)
    if not listeners:
        raise ValueError("there is no socket to accept on")
    for sock in listeners:
        if not isinstance(sock, socket.socket):
            raise TypeError(f"a listening socket must be a socket.socket, not {type(sock).__name__}")
        fault = _no_listener(sock)
        if fault:
            raise ValueError(f"fd {sock.fileno()} {fault}; a server needs listening stream sockets")
    if len({sock.fileno() for sock in listeners}) < len(listeners):
        raise ValueError(f"one of {len(listeners)} sockets is given twice")
    for sock in listeners:
        sock.setblocking(False)
        sock.set_inheritable(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as `listen`: accepted sockets inherit it
    return listeners


def _no_listener(sock: socket.socket) -> str:
    """Return what keeps a server from accepting on *sock*, "" if nothing does."""
    if sock.fileno() < 0:
        return "is closed"
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        return f"is of the address family {int(sock.family)}, not TCP or UNIX"
    if sock.type != socket.SOCK_STREAM and (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        return f"is a socket of type {int(sock.type)}, not SOCK_STREAM ({int(socket.SOCK_STREAM)})"
    return "" if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) else "does not listen"


@contextlib.contextmanager
def _directory_lock(path: str) -> Iterator[None]:
    """Hold the BSD lock of the directory of *path*: one process at a time replaces or removes sockets in it.

    Between bind() and listen() a socket looks as dead as a stale one, and between the look and the unlink() a stale
    one may have been replaced by a live one; two servers that start together would both "win".  So look, unlink, bind
    and listen happen under one lock.  The directory itself carries it: no lock file to leave behind, and a lock that
    dies with its process.  Price: the directory must be readable, whoever may read it can delay a start (hence the
    bound), and programs that do not take the lock are not kept out.
    """
    directory = os.path.dirname(path) or "."
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + LOCK_WAIT
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    text = f"another process has kept a lock on the directory for {LOCK_WAIT:g} s"
                    raise OSError(errno.EBUSY, text, directory) from None
            time.sleep(LOCK_POLL)
        try:
            yield
        finally:
            # close() alone would leave the lock with a child that another thread has just forked.
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def _remove_stale(path: str) -> None:
    """Remove the socket file at *path* if nobody listens on it; raise if somebody does, or if it is something else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "a file that is not a socket is in the way", path)
    # A living server sees one connection that closes at once; there is no quieter way to ask.  One of packets does not
    # even see that: the kernel compares the types first, EPROTOTYPE.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        error = probe.connect_ex(path)
    if error == errno.ECONNREFUSED:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    elif error != errno.ENOENT:
        # Connected, backlog full (EAGAIN), a socket of another type (EPROTOTYPE), or not ours to ask (EACCES).
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)


def _undo_umask(path: str, mode: int) -> None:
    """Give *path* the rights that the umask took from it: they are an explicit argument, not a default.

    The umask belongs to all threads, so it is not touched; O_PATH holds the file itself, so a symlink put in its place
    is not followed.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd).st_mode
        if stat.S_ISSOCK(found) and stat.S_IMODE(found) != mode:
            os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def socket_identity(bound: socket.socket | AddressLike) -> tuple[int, int] | None:
    """Return (st_dev, st_ino) of the file of a UNIX socket; None when there is none: TCP, abstract, removed.

    Ask right after `listen`.  *bound* is the listening socket or its address.  Any thread.
    """
    address = local_address(bound) if isinstance(bound, socket.socket) else parse_address(bound)
    if not address.is_unix or not address.path or address.path.startswith("@"):
        return None
    try:
        found = os.lstat(address.path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def unlink_unix(address: AddressLike, identity: tuple[int, int] | None) -> bool:
    """Remove the path of a UNIX listener if it still is the file with *identity*; return whether it was removed.

    Call it before closing the listener: an open socket keeps its inode, so no successor's file can have its number.
    A path that is gone, or another server's by now, gives False, as does an *identity* of None.

    Raises:
        OSError: the directory cannot be read or written, or its lock was kept (EBUSY, see `listen`).

    Any thread.
    """
    address = parse_address(address)
    if identity is None or not address.is_unix or address.path.startswith("@"):
        return False
    try:
        with _directory_lock(address.path):
            if socket_identity(address) != identity:
                return False
            os.unlink(address.path)
            return True
    except FileNotFoundError:
        return False


# --- connecting ---------------------------------------------------------------------------------------------------


def _getaddrinfo(address: Address, flags: int) -> list[tuple[int, Sockaddr]]:
    """Return the (family, sockaddr) pairs of a TCP *address*, in the resolver's order, without duplicates."""
    flags |= socket.AI_NUMERICSERV
    found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=flags)
    pairs: dict[tuple[int, Sockaddr], None] = {(int(entry[0]), entry[4]): None for entry in found}
    return list(pairs)


def is_numeric(host: str) -> bool:
    """Return whether *host* needs no DNS: an IPv4 or IPv6 address, or ``""``.  Any thread."""
    try:
        return not host or bool(socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST))
    except (OSError, ValueError):
        return False


def resolve(address: AddressLike) -> list[tuple[int, Sockaddr]]:
    """Return the (family, sockaddr) pairs to try when connecting to *address*, best first; at least one.

    Blocks while DNS answers, if the host is a name: not on the reactor's thread then, see `resolve_numeric`.

    Raises:
        AddressError: see `parse_address`.
        socket.gaierror (an OSError): the name is unknown, or DNS did not answer.

    Any thread.
    """
    address = parse_address(address).for_client()
    if address.is_unix:
        return [(socket.AF_UNIX, _sun_path(address.path))]
    return _getaddrinfo(address, 0)


def resolve_numeric(address: AddressLike) -> list[tuple[int, Sockaddr]] | None:
    """Return what `resolve` would if that takes no DNS, else None.  Never blocks.

    AddressError: see `parse_address`.  Any thread.
    """
    address = parse_address(address)
    if address.kind == "tcp" and not is_numeric(address.host):
        return None
    return resolve(address)


def start_connect(
    family: int,
    sockaddr: Sockaddr,
    *,
    socket_type: int = socket.SOCK_STREAM,
    socket_factory: Callable[..., socket.socket] = socket.socket,
) -> tuple[socket.socket, bool]:
    """Return a non-blocking socket that is connecting to *sockaddr*, and whether it is connected already.

    A UNIX socket connects at once.  If not connected: wait until it is writable, then `finish_connect`.  *sockaddr*
    is one of `resolve`'s: with a host name in it, Python would ask DNS here.  *socket_type* is `socket_type_of`'s.

    Raises:
        OSError: refused at once, the socket is closed.  EAGAIN means that the backlog of a UNIX listener is full; the
            kernel does not queue the attempt, so waiting for it to become writable is in vain (connect(2)).

    Any thread.
    """
    sock = socket_factory(family, socket_type)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as `listen`: messages are written whole
        error = sock.connect_ex(sockaddr)
        if error not in (0, errno.EINPROGRESS):
            raise OSError(error, os.strerror(error))
    except BaseException:
        sock.close()
        raise
    return sock, error == 0


def finish_connect(sock: socket.socket) -> None:
    """Return if the connection that `start_connect` began is up; call it once *sock* is writable.

    Raises:
        OSError: what the attempt failed with.  ENOTCONN: it is still under way, or was reset this moment.
            ECONNREFUSED: refused, or connected to itself.  The socket stays the caller's to close.

    Any thread.
    """
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
    # A client that retries a dead server's port, on this machine and inside the ephemeral range, is one day given that
    # port as its own: TCP's simultaneous open then connects the socket to itself.  Cost: two system calls.
    if sock.family != socket.AF_UNIX and sock.getpeername() == sock.getsockname():
        raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


# --- words for a human --------------------------------------------------------------------------------------------

_TCP_BIND = {
    errno.EADDRINUSE: "another server has it (ss -ltnp 'sport = :{port}' names it); stop it, or try port 0",
    errno.EADDRNOTAVAIL: "this machine has no such address (ip addr lists them); try :{port} for all of them",
    errno.EAFNOSUPPORT: "this kernel has no IPv6; try 127.0.0.1:{port}",
}
_UNIX_BIND = {
    errno.EADDRINUSE: "another server is listening there; stop it or choose another path",
    errno.EEXIST: "remove it or choose another path",
    errno.ENOENT: "create the directory {directory} first",
    errno.ENOTDIR: "{directory} is not a directory; choose another path",
    errno.EACCES: "this user must be able to read and write the directory {directory}",
    errno.EROFS: "{directory} is on a read-only file system; choose another path",
    errno.EBUSY: "see who with: fuser -v {directory}; choose another path",
}
_START_ONE = "nothing listens there; start a server with: evloop serve echo {address}"
_TCP_CONNECT = {
    errno.ECONNREFUSED: _START_ONE,
    errno.ETIMEDOUT: "the host is down or a firewall drops the packets; check the address",
    errno.EHOSTUNREACH: "check the address and the network",
    errno.ENETUNREACH: "this machine has no route there; check the address and the network",
    errno.EADDRNOTAVAIL: "no local port or address is free for it; see: ss -s",
    errno.EAFNOSUPPORT: "this kernel has no IPv6; try an IPv4 address",
}
_UNIX_CONNECT = {
    errno.ECONNREFUSED: _START_ONE,
    errno.ENOENT: _START_ONE,
    errno.EACCES: "connecting needs write permission on the path, and search permission on its directories",
    errno.EAGAIN: "the server's backlog is full, it does not accept; try again later",
    errno.EPROTOTYPE: "the socket there is of another type; check the path, and whether it is unix: or seqpacket:",
}


def explain_bind_error(address: AddressLike, exc: OSError) -> str:
    """Return one line for a human: why `listen` failed, and what to do about it.  Any thread."""
    address = parse_address(address)
    if address.is_unix:
        remedy = _UNIX_BIND.get(exc.errno or 0, "")
    elif exc.errno in (errno.EACCES, errno.EPERM) and address.port < 1024:
        remedy = "ports below 1024 need root or CAP_NET_BIND_SERVICE, try {host}:8080"
    else:
        remedy = _TCP_BIND.get(exc.errno or 0, "")
    return _explain("cannot listen on", address, exc, remedy)


def explain_connect_error(address: AddressLike, exc: OSError) -> str:
    """Return one line for a human: why connecting failed, and what to do about it.  Any thread."""
    address = parse_address(address).for_client()
    # A deadline of the client's own is a TimeoutError without an errno; the advice is the same.
    number = errno.ETIMEDOUT if isinstance(exc, TimeoutError) else exc.errno or 0
    remedy = (_UNIX_CONNECT if address.is_unix else _TCP_CONNECT).get(number, "")
    return _explain("cannot connect to", address, exc, remedy)


def _explain(verb: str, address: Address, exc: OSError, remedy: str) -> str:
    if isinstance(exc, socket.gaierror):  # its errno is one of getaddrinfo's own numbers, not in the tables
        remedy = "check the name, /etc/hosts and DNS, or write a numeric address"
    cause = " ".join((exc.strerror or str(exc) or "unknown error").split())
    host = str(address).rpartition(":")[0]
    directory = os.path.dirname(address.path) or "."
    text = f"{verb} {address}: {cause[:1].lower()}{cause[1:]}"
    if remedy:
        text += "; " + remedy.format(address=address, host=host, port=address.port, directory=directory)
    return text


# --- limits of the system -----------------------------------------------------------------------------------------


def somaxconn() -> int | None:
    """Return the kernel's bound on a backlog (connections), None where it cannot be read.  Any thread."""
    try:
        with open("/proc/sys/net/core/somaxconn", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def raise_fd_limit() -> tuple[int, int]:
    """Raise this process's soft limit of open files to the hard one; return (old soft, new soft) limit.

    The soft limit is 1024 on most systems for the sake of select(), which cannot go beyond; nothing here uses it by
    default.  A child process inherits the limit.  Any thread.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft, soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # a hard limit above fs.nr_open cannot be set again; the old soft limit holds
        return soft, soft
    return soft, hard
