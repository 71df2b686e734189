"""evloop.sockets against the kernel: listeners, connecting, and the words for what failed."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import socket
import struct

import pytest
from realsockets import DEADLINE, RST_ON_CLOSE, accept, connect, listening, needs_ipv6, refusing

from evloop import sockets
from evloop.socket_queues import queued_output
from evloop.sockets import Address, listen

# --- listening on TCP ---------------------------------------------------------------------------------------------


def test_listen_tcp_gives_nonblocking_cloexec_socket_with_nodelay_inherited():
    """tcp(7): options set on the listener are inherited; on it hangs that no accepted socket waits for an ACK."""
    with listening("127.0.0.1:0") as (listener,):
        assert listener.getblocking() is False
        assert listener.get_inheritable() is False
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
        with connect(sockets.local_address(listener)) as client, accept(listener) as server:
            assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert sockets.peer_address(server) == sockets.local_address(client)


@needs_ipv6
def test_listen_every_interface_binds_both_families_on_one_port():
    """`:0` is one server with one port, whichever family the client's resolver prefers."""
    with listening(":0") as (four, six):
        port = sockets.local_address(four).port
        assert sockets.local_address(four) == Address("tcp", "0.0.0.0", port)
        assert sockets.local_address(six) == Address("tcp", "::", port)
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        with connect(f"[::1]:{port}") as client, accept(six) as server:
            assert sockets.peer_address(client) == Address("tcp", "::1", port)
            assert sockets.local_address(server) == Address("tcp", "::1", port)


@needs_ipv6
def test_listen_port_zero_taken_on_the_second_family_tries_another_port():
    """A free port of IPv4 may be a used one of IPv6; starting a server must not depend on that luck."""
    rivals = []

    class Raced(socket.socket):
        def bind(self, sockaddr):
            if self.family == socket.AF_INET6 and not rivals:
                rivals.append(socket.create_server(sockaddr[:2], family=socket.AF_INET6))
            super().bind(sockaddr)

    with listening(":0", socket_factory=Raced) as (four, six):
        assert sockets.local_address(four).port == sockets.local_address(six).port
        assert sockets.local_address(four).port != sockets.local_address(rivals[0]).port
    rivals[0].close()


@needs_ipv6
def test_listen_given_port_taken_on_one_family_closes_all_and_raises():
    """Half a server is worse than none: clients of the other family would reach a stranger."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as rival:
        with pytest.raises(OSError) as caught:
            listen(f":{rival.getsockname()[1]}")
        assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_listen_family_the_machine_lacks_is_left_out(number):
    """A container without IPv6 still gets its IPv4 server from the same command line."""
    with listening(":0", socket_factory=refusing(socket.AF_INET6, number)) as listeners:
        assert [sock.family for sock in listeners] == [socket.AF_INET]


def test_listen_no_usable_address_raises_the_kernels_error():
    """Leaving out must not end in a server that listens nowhere."""
    with pytest.raises(OSError) as caught:
        listen("127.0.0.1:0", socket_factory=refusing(socket.AF_INET, errno.EAFNOSUPPORT))
    assert caught.value.errno == errno.EAFNOSUPPORT


def test_listen_other_failure_on_the_second_address_closes_the_first():
    """The fd guard of this suite sees the first listener if it stays open."""
    with pytest.raises(OSError) as caught:
        listen(":0", socket_factory=refusing(socket.AF_INET6, errno.EMFILE))
    assert caught.value.errno == errno.EMFILE


def test_listen_name_with_a_duplicate_address_binds_it_once(monkeypatch):
    """/etc/hosts may list localhost twice; the second bind would fail with our own first one."""
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: real(*args, **options) * 2)
    with listening("127.0.0.1:0") as listeners:
        assert len(listeners) == 1


def test_listen_reuse_port_lets_two_listeners_share_and_default_does_not():
    """Sharing a port is asked for; by default a second server is told that the first one is there."""
    with listening("127.0.0.1:0", reuse_port=True) as (first,):
        address = sockets.local_address(first)
        with listening(address, reuse_port=True) as (second,):
            assert sockets.local_address(second) == address
        with pytest.raises(OSError) as caught:
            listen(address)
        assert caught.value.errno == errno.EADDRINUSE
        assert str(caught.value).endswith(f": '{address}'"), "of several servers, which one"


def test_listen_port_of_a_closed_server_with_time_wait_is_free_at_once():
    """A restarted server must not wait a minute for its predecessor's connections."""
    with listening("127.0.0.1:0") as (first,):
        address = sockets.local_address(first)
        with connect(address) as client:
            accept(first).close()  # closes first, so its end is the one in TIME_WAIT
            assert select.select([client], [], [], DEADLINE)[0]
    with listening(address) as (second,):
        assert sockets.local_address(second) == address


def test_listen_backlog_reaches_the_kernel_and_its_bounds_are_checked():
    """TCP_INFO of a listener holds the size of its queue (tcpi_sacked); a negative one would mean the maximum."""
    with listening("127.0.0.1:0", backlog=7) as (listener,):
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        assert struct.unpack_from("=I", info, 28) == (7,)
    for backlog in (0, 2**31 - 1):
        with listening("127.0.0.1:0", backlog=backlog):
            pass
    for backlog in (-1, 2**31):
        with pytest.raises(ValueError, match="backlog"):
            listen("127.0.0.1:0", backlog=backlog)


# --- names of sockets ---------------------------------------------------------------------------------------------


def test_peer_address_without_a_peer_is_none_and_closed_raises():
    """A connection reset in the accept queue has no peer; asking must not break the server."""
    with listening("127.0.0.1:0") as (listener,):
        assert sockets.peer_address(listener) is None
        with connect(sockets.local_address(listener)) as client, accept(listener) as server:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
            client.close()
            assert select.select([server], [], [], DEADLINE)[0]
            assert sockets.peer_address(server) is None
    with pytest.raises(OSError) as caught:
        sockets.peer_address(listener)
    assert caught.value.errno == errno.EBADF


def test_addresses_of_an_unnamed_unix_pair_are_empty_paths():
    """A client's UNIX socket has no name; that is an answer, not an error."""
    left, right = socket.socketpair()
    with left, right:
        assert sockets.local_address(left) == sockets.peer_address(right) == Address("unix")
        assert sockets.socket_identity(left) is None


# --- connecting ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "numeric"),
    [("127.0.0.1", True), ("::1", True), ("", True), ("localhost", False), ("a\0b", False), ("x" * 64, False)],
)
def test_is_numeric_tells_addresses_from_names(host, numeric):
    """The reactor's thread may only be given what needs no DNS."""
    assert sockets.is_numeric(host) is numeric


def test_resolve_numeric_never_asks_dns_and_resolve_maps_every_interface_to_loopback():
    """`:9000` is where a server listens and also what its client is given."""
    expected = [(socket.AF_INET, ("127.0.0.1", 9000))]
    assert sockets.resolve_numeric(":9000") == sockets.resolve("0.0.0.0:9000") == expected
    assert sockets.resolve_numeric("localhost:9000") is None
    assert (socket.AF_INET, ("127.0.0.1", 9000)) in sockets.resolve("localhost:9000")
    assert sockets.resolve_numeric("[::1]:9000") == [(socket.AF_INET6, ("::1", 9000, 0, 0))]
    assert sockets.resolve_numeric("unix:@a") == [(socket.AF_UNIX, b"\0a")]


def test_resolve_unknown_zone_raises_gaierror():
    """What cannot be resolved is an OSError at the one call that resolves, with no DNS involved here."""
    with pytest.raises(socket.gaierror):
        sockets.resolve("[fe80::1%no-such-if]:1")


def test_connect_tcp_is_under_way_then_up():
    """The caller never blocks: the socket is handed over while the handshake runs."""
    with listening("127.0.0.1:0") as (listener,):
        sock, connected = sockets.start_connect(*sockets.resolve(sockets.local_address(listener))[0])
        with sock:
            assert (connected, sock.getblocking()) == (False, False)
            assert select.select([], [sock], [], DEADLINE)[1]
            assert sockets.finish_connect(sock) is None


def test_finish_connect_refused_raises_and_leaves_the_socket_to_the_caller():
    """A port bound but not listening refuses for certain, and nobody else can take it meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        sock, _ = sockets.start_connect(socket.AF_INET, holder.getsockname())
        with sock:
            assert select.select([], [sock], [], DEADLINE)[1]
            with pytest.raises(ConnectionRefusedError):
                sockets.finish_connect(sock)
            assert sock.fileno() >= 0


def test_finish_connect_called_too_early_raises_enotconn():
    """SO_ERROR is 0 while the SYN waits for a full backlog; "no error yet" must not read as "connected"."""
    with listening("127.0.0.1:0", backlog=0) as (listener,), connect(sockets.local_address(listener)):
        sock, _ = sockets.start_connect(socket.AF_INET, listener.getsockname())
        with sock, pytest.raises(OSError) as caught:
            sockets.finish_connect(sock)
        assert caught.value.errno == errno.ENOTCONN


def test_finish_connect_to_itself_counts_as_refused():
    """TCP lets a socket connect to its own port; a client retrying a dead local server would talk to itself."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    sock, _ = sockets.start_connect(socket.AF_INET, holder.getsockname(), socket_factory=lambda *_: holder)
    with sock:
        assert select.select([], [sock], [], DEADLINE)[1]
        with pytest.raises(ConnectionRefusedError):
            sockets.finish_connect(sock)


def test_start_connect_unix_is_up_at_once_or_raises(tmp_path):
    """connect(2) never queues a UNIX connect: it is up, refused or EAGAIN, and a refused socket is closed."""
    address = f"unix:{tmp_path}/s"
    target = sockets.resolve(address)[0]
    with pytest.raises(FileNotFoundError):
        sockets.start_connect(*target)
    with listening(address, backlog=0):
        sock, connected = sockets.start_connect(*target)
        with sock:
            assert connected is True
            assert sockets.finish_connect(sock) is None
            with pytest.raises(BlockingIOError):
                sockets.start_connect(*target)


# --- errno groups -------------------------------------------------------------------------------------------------


def test_errno_groups_that_ask_for_different_acts_are_disjoint():
    """Retry at once, wait, close: an errno in two groups would get whichever is tested first."""
    assert sockets.OUT_OF_RESOURCES.isdisjoint(sockets.ACCEPT_RETRY | sockets.PEER_GONE | sockets.WOULD_BLOCK)
    assert sockets.WOULD_BLOCK.isdisjoint(sockets.ACCEPT_RETRY | sockets.PEER_GONE)


def test_errno_groups_hold_what_the_kernel_reports_for_a_reset_and_an_empty_queue():
    """The groups are checked against the kernel, not against their own spelling."""
    with listening("127.0.0.1:0") as (listener,):
        with pytest.raises(OSError) as empty:
            listener.accept()
        assert empty.value.errno in sockets.WOULD_BLOCK
        with connect(sockets.local_address(listener)) as client, accept(listener) as server:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
            client.close()
            assert select.select([server], [], [], DEADLINE)[0]
            for call in (lambda: server.recv(1), lambda: server.send(b"x"), lambda: server.shutdown(socket.SHUT_WR)):
                with pytest.raises(OSError) as gone:
                    call()
                assert gone.value.errno in sockets.PEER_GONE


def test_out_of_resources_holds_what_accept_reports_without_descriptors():
    """At the limit the connection stays queued: treating EMFILE as "try the next" would spin."""
    with listening("127.0.0.1:0") as (listener,), connect(sockets.local_address(listener)):
        assert select.select([listener], [], [], DEADLINE)[0]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = os.dup(listener.fileno())
        os.close(spare)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))  # the lowest free number is now out of reach
        try:
            with pytest.raises(OSError) as caught:
                listener.accept()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert caught.value.errno in sockets.OUT_OF_RESOURCES
        accept(listener).close()


# --- words for a human --------------------------------------------------------------------------------------------


def os_error(number):
    return OSError(number, os.strerror(number))


BIND = [
    ("127.0.0.1:80", errno.EACCES, "cannot listen on 127.0.0.1:80: permission denied; ports below 1024 need root or "),
    ("[::1]:80", errno.EACCES, "CAP_NET_BIND_SERVICE, try [::1]:8080"),
    (":80", errno.EACCES, "CAP_NET_BIND_SERVICE, try :8080"),
    (":8080", errno.EACCES, "cannot listen on :8080: permission denied"),
    (":8080", errno.EADDRINUSE, "address already in use; another server has it (ss -ltnp 'sport = :8080' names it)"),
    ("1.2.3.4:80", errno.EADDRNOTAVAIL, "try :80 for all of them"),
    ("[::1]:80", errno.EAFNOSUPPORT, "try 127.0.0.1:80"),
    ("unix:/d/{s}", errno.EADDRINUSE, "cannot listen on unix:/d/{s}: address already in use; another server is"),
    ("unix:/d/s", errno.ENOENT, "create the directory /d first"),
    ("seqpacket:/d/s", errno.EADDRINUSE, "cannot listen on seqpacket:/d/s: address already in use; another server is"),
    ("unix:s", errno.EACCES, "able to read and write the directory ."),
    ("h:1", errno.EIO, "cannot listen on h:1: input/output error"),
]
CONNECT = [
    ("127.0.0.1:1", errno.ECONNREFUSED, "cannot connect to 127.0.0.1:1: connection refused; nothing listens there; "),
    (":1", errno.ECONNREFUSED, "start a server with: evloop serve echo 127.0.0.1:1"),
    ("unix:/d/s", errno.ENOENT, "start a server with: evloop serve echo unix:/d/s"),
    ("unix:/d/s", errno.EAGAIN, "backlog is full"),
    ("unix:/d/s", errno.EPROTOTYPE, "of another type; check the path, and whether it is unix: or seqpacket:"),
    ("seqpacket:/d/s", errno.ENOENT, "start a server with: evloop serve echo seqpacket:/d/s"),
    ("unix:/d/s", errno.EACCES, "write permission"),
    ("h:1", errno.ETIMEDOUT, "the host is down or a firewall drops the packets"),
    ("h:1", errno.EHOSTUNREACH, "check the address and the network"),
]


@pytest.mark.parametrize(
    ("explain", "address", "number", "part"),
    [(sockets.explain_bind_error, *case) for case in BIND]
    + [(sockets.explain_connect_error, *case) for case in CONNECT],
)
def test_explain_error_gives_cause_and_remedy_in_one_line(explain, address, number, part):
    """Whoever starts a server reads what to do next, not a traceback."""
    text = explain(address, os_error(number))
    assert part in text
    assert len(text.splitlines()) == 1


def test_explain_error_without_an_errno_still_says_what_happened():
    """A client's own deadline, a resolver's failure and a bare OSError have no errno of the kernel."""
    assert "timed out; the host is down" in sockets.explain_connect_error("h:1", TimeoutError("timed out"))
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert "h:1: name or service not known; check the name" in sockets.explain_bind_error("h:1", unknown)
    assert sockets.explain_bind_error("h:1", OSError()) == "cannot listen on h:1: unknown error"


def test_explain_bind_error_of_a_real_conflict_names_the_file_in_the_way(tmp_path):
    """The text of our own EEXIST travels with the exception."""
    (tmp_path / "s").touch()
    with pytest.raises(OSError) as caught:
        listen(f"unix:{tmp_path}/s")
    text = sockets.explain_bind_error(f"unix:{tmp_path}/s", caught.value)
    assert text.endswith("s: a file that is not a socket is in the way; remove it or choose another path")


# --- limits of the system -----------------------------------------------------------------------------------------


def test_somaxconn_is_the_kernels_number_or_none(monkeypatch):
    """A caller warns when its backlog is cut; where /proc is hidden it just cannot know."""
    with open("/proc/sys/net/core/somaxconn", encoding="ascii") as file:
        assert sockets.somaxconn() == int(file.read())

    def hidden(*args, **options):
        raise PermissionError(errno.EACCES, "hidden")

    monkeypatch.setattr(sockets, "open", hidden, raising=False)
    assert sockets.somaxconn() is None


def test_raise_fd_limit_raises_soft_to_hard_and_reports_both(monkeypatch):
    """The soft limit of 1024 is the first wall that a server of many connections runs into."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = min(256, hard - 1)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
        with monkeypatch.context() as patch:
            patch.setattr(resource, "setrlimit", lambda *_: (_ for _ in ()).throw(ValueError("above fs.nr_open")))
            assert sockets.raise_fd_limit() == (low, low)
        assert sockets.raise_fd_limit() == (low, hard)
        assert sockets.raise_fd_limit() == (hard, hard)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- listeners from elsewhere ----------------------------------------------------------------------------------------


def test_adopt_listeners_sets_them_up_as_listen_does():
    """A supervisor's socket is blocking, inheritable and has Nagle's delay."""
    with socket.create_server(("127.0.0.1", 0)) as given:
        given.set_inheritable(True)
        given.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        assert sockets.adopt_listeners([given]) == [given]
        assert (given.getblocking(), given.get_inheritable()) == (False, False)
        with connect(sockets.local_address(given)), accept(given) as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_adopt_listeners_takes_unix_sockets(kind):
    """TCP's options are not theirs."""
    with socket.socket(socket.AF_UNIX, kind) as given:
        given.bind(f"\0evloop-test-adopt-{os.getpid()}")
        given.listen()
        assert sockets.adopt_listeners(iter([given])) == [given]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (list, ValueError, "there is no socket"),
        (lambda: [5], TypeError, "must be a socket.socket, not int"),
        (lambda: [socket.socket()], ValueError, "fd [0-9]+ does not listen"),
        (lambda: [socket.socket(type=socket.SOCK_DGRAM)], ValueError, r"of type 2, not SOCK_STREAM \(1\)"),
        (lambda: [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)], ValueError, "does not listen"),
        (lambda: [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)], ValueError, "of type 2, not"),
        (lambda: [socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)], ValueError, "address family 16, not TCP or UNIX"),
        (lambda: [closed_socket()], ValueError, "fd -1 is closed"),
        (lambda: [listening_socket()] * 2, ValueError, "one of 2 sockets is given twice"),
        (lambda: [listening_socket(), socket.socket()], ValueError, "does not listen"),
    ],
)
def test_adopt_listeners_wrong_socket_raises_and_changes_nothing(make, error, text):
    """A unit file with ListenDatagram= is found at the start, not by the first accept()."""
    given = make()
    try:
        with pytest.raises(error, match=text):
            sockets.adopt_listeners(given)
        assert all(sock.getblocking() for sock in given if isinstance(sock, socket.socket) and sock.fileno() >= 0)
    finally:
        for sock in given:
            if isinstance(sock, socket.socket):
                sock.close()


def listening_socket():
    return socket.create_server(("127.0.0.1", 0))


def closed_socket():
    sock = socket.socket()
    sock.close()
    return sock


# --- what the kernel holds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1:0", "unix"])
def test_queued_output_falls_as_the_peer_takes_it(address, tmp_path):
    """The one sign of a slow and living peer while its socket is full."""
    where = f"unix:{tmp_path}/s" if address == "unix" else address
    with (
        listening(where) as (listener,),
        connect(sockets.local_address(listener)) as sock,
        accept(listener) as peer,
    ):
        assert queued_output(sock.fileno()) == 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.send(bytes(1 << 16))
        full = queued_output(sock.fileno())
        assert full > 0
        peer.settimeout(DEADLINE)
        while queued_output(sock.fileno()) >= full:
            assert peer.recv(1 << 16)


def test_queued_output_of_what_is_no_socket_is_0():
    """A socket_factory may make sockets that the kernel has never seen."""
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    assert queued_output(writer) == 0
