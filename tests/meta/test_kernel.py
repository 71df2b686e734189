"""The kernel of the tests: what it counts and disturbs is the same for both twins, and nothing else is touched."""

from __future__ import annotations

import ctypes
import errno
import re
import socket
from pathlib import Path

import pytest
from kernel import CALLS, Message, Part, SocketKernel, TableKernel
from twins import needs_compiled

import evloop


class SocketEnd:
    """The least that a pure connection is: it calls the methods of its socket."""

    def __init__(self, kernel, sock, _call):
        self.sock = kernel.attach(sock)
        self.fileno = self.sock.fileno
        self.write = self.sock.send
        self.close = self.sock.close

    def read(self):
        buffer = bytearray(100)
        return bytes(buffer[: self.sock.recv_into(buffer)])


class TableEnd:
    """The least that a compiled connection is: an fd, and C calls through the table; *call* is the one that writes."""

    def __init__(self, kernel, sock, call):
        self.functions, self.call = kernel.table.functions, call
        self.fd = kernel.attach(sock).detach()

    def fileno(self):
        return self.fd

    def write(self, data):
        """Write *data*, as two parts where the call takes parts."""
        held = ctypes.create_string_buffer(data, len(data))
        start, half = ctypes.addressof(held), len(data) // 2
        parts = (Part * 2)(Part(start, half), Part(start + half, len(data) - half))
        message = Message(parts=ctypes.addressof(parts), count=2)
        arguments = {
            "send": (held, len(data), socket.MSG_NOSIGNAL),
            "sendmsg": (ctypes.byref(message), socket.MSG_NOSIGNAL),
            "writev": (parts, 2),
        }
        return self._checked(self.call, *arguments[self.call])

    def read(self):
        """Read with readv(2) where it writes with writev(2)."""
        held = ctypes.create_string_buffer(100)
        if self.call == "writev":
            size = self._checked("readv", ctypes.byref(Part(ctypes.addressof(held), 100)), 1)
        else:
            size = self._checked("recv", held, 100, 0)
        return held.raw[:size]

    def close(self):
        if self.fd >= 0:
            self._checked("close")
        self.fd = -1

    def _checked(self, name, *args):
        result = self.functions[name](self.fd, *args)
        if result < 0:
            raise OSError(ctypes.get_errno(), name)
        return result


@pytest.fixture(params=["python", "send", "sendmsg", "writev"])
def make_end(request):
    """A function that returns an end of that kind, its kernel and its peer; all with the kernel of this test."""
    made = []
    if request.param == "python":
        end_class, reactor, kernel = SocketEnd, None, SocketKernel()
    else:
        needs_compiled(request.config)
        import evloop._reactor

        end_class, reactor = TableEnd, evloop._reactor.Reactor()
        kernel = TableKernel(reactor)

    def make():
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        ours.setblocking(False)
        made.extend([end_class(kernel, ours, request.param), theirs])
        kernel.adopt(made[-2])
        return made[-2], kernel, theirs

    yield make
    for thing in made:
        thing.close()
    if reactor is not None:
        reactor.close()


def refused(number, call, *args):
    """Tell whether *call* fails with errno *number*."""
    with pytest.raises(OSError) as caught:
        call(*args)
    return caught.value.errno == number


def test_kernel_left_alone_passes_everything_and_counts_per_connection(make_end):
    """Looking must not change what is looked at."""
    (one, kernel, peer), (other, _, _) = make_end(), make_end()
    assert (one.write(b"hello"), one.write(b"you"), other.write(b"x")) == (5, 3, 1)
    assert peer.recv(100) == b"helloyou"
    peer.send(b"answer")
    assert one.read() == b"answer"
    assert [(kernel.sends(end), kernel.taken(end)) for end in (one, other)] == [(2, 8), (1, 1)]


def test_kernel_that_is_full_refuses_and_takes_nothing(make_end):
    """The real kernel's EAGAIN comes through, and is a call that wrote nothing."""
    end, kernel, _ = make_end()
    with pytest.raises(BlockingIOError):
        while True:
            end.write(bytes(1 << 20))
    taken = kernel.taken(end)
    assert refused(errno.EAGAIN, end.write, bytes(1 << 20))
    assert kernel.taken(end) == taken > 0


@pytest.mark.parametrize("times", [1, 3])
def test_kernel_failing_reads_fail_so_often(make_end, times):
    """Each failure is one call, and takes nothing out of the real kernel."""
    (end, kernel, peer), (other, _, others) = make_end(), make_end()
    kernel.fail_reads(end, errno.ECONNRESET, times=times)
    peer.send(b"x")
    others.send(b"y")
    assert all(refused(errno.ECONNRESET, end.read) for _ in range(times))
    assert (end.read(), other.read()) == (b"x", b"y")


def test_kernel_failing_calls_fail_until_cleared(make_end):
    """Reads and writes apart; a failed write counts as a call."""
    end, kernel, peer = make_end()
    kernel.fail_reads(end, errno.EIO)
    kernel.fail_writes(end, errno.ENOBUFS)
    peer.send(b"x")
    assert all(refused(errno.EIO, end.read) and refused(errno.ENOBUFS, end.write, b"data") for _ in range(3))
    assert (kernel.sends(end), kernel.taken(end)) == (3, 0)
    kernel.fail_reads(end, 0)
    assert end.read() == b"x"
    assert refused(errno.ENOBUFS, end.write, b"data")
    kernel.fail_writes(end, 0)
    assert (end.write(b"data"), peer.recv(100)) == (4, b"data")


@pytest.mark.parametrize("size", [1, 3, 4, 5, 9])
def test_kernel_allowance_is_a_short_write_then_a_refusal(make_end, size):
    """Before, inside of, at and behind the seam of two parts, and at the last byte but one, of ten."""
    end, kernel, peer = make_end()
    assert end.write(b"before") == 6
    kernel.allow_writes(end, size)
    assert end.write(b"0123456789") == size
    assert refused(errno.EAGAIN, end.write, b"0123456789")
    assert peer.recv(100) == b"before" + b"0123456789"[:size]
    kernel.allow_writes(end, None)
    assert end.write(b"after") == 5
    assert (kernel.sends(end), kernel.taken(end)) == (4, 6 + size + 5)


@pytest.mark.parametrize("size", [10, 11])
def test_kernel_allowance_of_the_whole_write_takes_it(make_end, size):
    """What is left of it is for the next one."""
    end, kernel, peer = make_end()
    kernel.allow_writes(end, size)
    assert end.write(b"0123456789") == 10
    assert refused(errno.EAGAIN, end.write, b"ab") if size == 10 else end.write(b"ab") == 1
    assert peer.recv(100) == b"0123456789ab"[:size]


def test_kernel_cut_writes_ask_for_each_write_how_much_it_takes(make_end):
    """A part, nothing, more than there is."""
    end, kernel, peer = make_end()
    rooms, sizes = [2, 0, 100], []
    kernel.cut_writes(end, lambda size: sizes.append(size) or rooms.pop(0))
    assert end.write(b"abcd") == 2
    assert refused(errno.EAGAIN, end.write, b"cd")
    assert end.write(b"cd") == 2
    assert (sizes, peer.recv(100)) == ([4, 2, 2], b"abcd")


def test_kernel_that_swallows_takes_everything_and_sends_nothing(make_end):
    """More than any socket buffer holds."""
    end, kernel, peer = make_end()
    kernel.swallow_writes(end)
    assert [end.write(bytes(1 << 20)) for _ in range(20)] == [1 << 20] * 20
    assert kernel.taken(end) == 20 << 20
    assert refused(errno.EAGAIN, peer.recv, 100)


def test_kernel_counts_from_zero_on_a_used_fd_and_keeps_the_count_of_the_closed(make_end):
    """The kernel hands a number out again at once."""
    first, kernel, _ = make_end()
    number = first.fileno()
    kernel.fail_writes(first, errno.EIO)
    assert refused(errno.EIO, first.write, b"x")
    first.close()
    second, _, _ = make_end()
    assert second.fileno() == number
    assert second.write(b"abc") == 3
    assert [(kernel.sends(end), kernel.taken(end)) for end in (first, second)] == [(1, 0), (1, 3)]


def test_kernel_table_leaves_an_fd_alone_that_is_no_connections(pytestconfig):
    """The reactor's own calls, and those of connections that nobody asked about."""
    needs_compiled(pytestconfig)
    import evloop._reactor

    with evloop._reactor.Reactor() as reactor:
        kernel = TableKernel(reactor)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert kernel.table.functions["send"](ours.fileno(), b"abc", 3, 0) == 3
            assert theirs.recv(100) == b"abc"
        ran = []
        reactor.call_soon_threadsafe(ran.append, 1)
        reactor.run_until(lambda: ran, deadline=reactor.time() + 5)
    assert ran == [1]


def test_kernel_table_has_the_order_of_the_header():
    """A table out of order calls close() where shutdown() was meant."""
    header = (Path(evloop.__file__).parent / "_syscalls.h").read_text()
    struct = re.search(r"typedef struct evl_syscalls \{(.*?)\} evl_syscalls;", header, re.S)[1]
    assert re.findall(r"\(\*(\w+)\)", struct) == list(CALLS)
