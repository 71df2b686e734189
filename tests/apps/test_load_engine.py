"""The load generator's engine: what it sends and accepts, what it counts, and how it names each way to be wrong."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import struct
import threading

import pytest
from loadpeers import Broadcast, LoadPeer, answering, echo, frame, read_frame, reset

import evloop

load = pytest.importorskip("evloop.bench.load", reason="the load generator is compiled, and this build is pure")
from evloop.bench import load_options, load_report  # noqa: E402
from evloop.bench._load import MOST_CLASSES, MOST_SERVERS, PATTERNS, Histogram  # noqa: E402


def options(peer, **changes):
    """Return the options of a short load."""
    values = {"count": 200, "warmup": 0.0, "timeout": 5.0, "connections": 3, "in_flight": 4, **changes}
    return load_options.checked(load_options.LoadOptions(evloop.parse_address(peer.address), **values))


def run(behave, *, path=None, **changes):
    """Load a server; return the outcome."""
    with LoadPeer(behave, path) as peer:
        return load.run(options(peer, **changes))


def failure(behave, **changes):
    """Load a server that is wrong; return the exit code and the line that says so."""
    with pytest.raises(load.LoadFailed) as caught:
        run(behave, **changes)
    return caught.value.code, caught.value.message


@pytest.mark.parametrize("check", ["seq", "full"])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 64, 300_000])
def test_echo_counts_exactly_what_was_asked_for(size, check):
    """-n is a promise: a sum over several runs must come out even; and a size has no smallest that is forgotten."""
    count = 200 if size < 1000 else 10
    found = run(answering(echo), sizes=((size, 1.0),), check=check, count=count).round
    assert found["messages"] == count
    assert found["bytes"] == count * size
    assert sum(n for _, n in found["hist"]) == count


def test_echo_over_a_unix_socket_with_an_abstract_name():
    """A UNIX server is loaded the same way; its queue of connects may be full, which is no failure."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.bind("")
        name = probe.getsockname().decode()[1:]
    with LoadPeer(answering(echo), f"\0evloop-load-{name}") as peer:
        peer.address = f"unix:@evloop-load-{name}"
        assert load.run(options(peer, connections=100)).round["messages"] == 200


@pytest.mark.parametrize(
    "framing",
    [
        evloop.Framing(2, "little"),
        evloop.Framing.VARINT,
        evloop.Framing(4, "big", counts="frame"),
        evloop.Framing(3, "big", magic=b"evloop!", after=5),
        None,
    ],
    ids=str,
)
def test_echo_with_any_framing_is_a_header_to_compare(framing):
    """The engine knows no framing but a header to compare with; that has to be enough for all of them."""

    def behave(peer, sock, stream):
        while data := sock.recv(1000):
            sock.sendall(data)

    found = run(behave, framing=framing, sizes=((200, 1.0),), check="full").round
    assert found["messages"] == 200


def test_mix_of_sizes_is_drawn_by_share_and_the_same_each_time():
    """Two runs with one seed are the same work, or they could not be compared."""
    seen = []

    def note(k, payload):
        seen.append(len(payload))
        return frame(payload)

    sizes = ((64, 90.0), (4096, 10.0))
    first = run(answering(note), sizes=sizes, connections=1, count=1000, check="full").round
    again = list(seen)
    seen.clear()
    run(answering(note), sizes=sizes, connections=1, count=1000, check="full")
    assert seen == again
    assert set(seen) == {64, 4096}
    assert 50 <= seen.count(4096) <= 150
    assert first["bytes"] == sum(again[1:])  # the first asks whether the server is there, and does not count


@pytest.mark.parametrize("size", [1, 8, 64])
def test_upper_expects_the_transform(size):
    """An echo that passes for a transform, or the other way round, would be a check of nothing."""
    assert run(answering(lambda k, p: frame(p.upper())), pattern="upper", sizes=((size, 1.0),), check="full")
    code, message = failure(answering(echo), pattern="upper", sizes=((size, 1.0),))
    assert (code, "wrong number at byte 4" in message) == (7, True)


def spoilt(at, change):
    """Return a server that echoes, but for reply *at*, which *change* makes of the right one."""
    return answering(lambda k, payload: change(frame(payload)) if k == at else frame(payload))


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (
            lambda data: b"\0\0\0\x3f" + data[4:],
            7,
            "connection 0, reply 5: wrong length at byte 3 of 68: 0x3f in place",
        ),
        (lambda data: data[:6] + b"\xff" + data[7:], 7, "connection 0, reply 5: wrong number at byte 6 of 68"),
        (lambda data: data[:67] + bytes([data[67] ^ 1]), 7, "connection 0, reply 5: wrong byte at byte 67 of 68"),
        (lambda data: b"", 7, "connection 0: reply 6 came in place of reply 5"),
        (lambda data: data + data, 7, "connection 0: reply 5 came in place of reply 6"),
        (lambda data: None, 5, "connection 0: closed by the server after 5 replies"),
    ],
    ids=["length", "number", "byte", "dropped", "twice", "closed"],
)
def test_wrong_reply_is_named_with_its_place(change, code, words):
    """Whoever has to find the bug needs the connection, the reply and the byte."""
    # A server that closes with messages unread resets, so that one has none.
    found = failure(spoilt(5, change), connections=1, in_flight=1 if code == 5 else 8, check="full")
    assert found[0] == code
    assert found[1].startswith(words)


def test_wrong_byte_beyond_the_number_needs_check_full():
    """What is not checked must not be claimed to be; the default checks length and number."""
    spoil = spoilt(5, lambda data: data[:67] + bytes([data[67] ^ 1]))
    assert run(spoil, connections=1, check="seq").round["messages"] == 200


def test_without_frames_every_byte_is_checked():
    """No length says where a reply ends; what is not compared could be anything."""

    def behave(peer, sock, stream):
        while data := sock.recv(64, socket.MSG_WAITALL):
            sock.sendall(data[:-1] + b"?")

    code, message = failure(behave, framing=None, connections=1, in_flight=1)
    assert (code, "wrong byte at byte 63 of 64" in message) == (7, True)


def test_wrong_bytes_of_a_large_reply_are_found_across_reads():
    """A reply that many reads have cut is compared piece by piece."""
    size = 2_000_000
    spoil = spoilt(1, lambda data: data[:-9] + b"?" * 9)
    found = failure(spoil, connections=1, in_flight=1, count=3, sizes=((size, 1.0),), check="full",
                    framing=evloop.Framing(max_frame=size))  # fmt: skip
    assert found[0] == 7
    assert f"of {size + 4}" in found[1]


def test_reply_that_nobody_asked_for_is_wrong():
    """A server that says more than it was asked would otherwise look fast."""

    def behave(peer, sock, stream):
        sock.sendall(frame(read_frame(stream)) + b"\0")
        peer.wait(sock)

    assert failure(behave, connections=1) == (7, "connection 0: 1 bytes that nobody asked for after 1 replies")


def test_closed_inside_a_reply_says_how_much_of_it_came():
    """Half a reply is the sign of a server that does not flush before it closes."""

    def behave(peer, sock, stream):
        sock.sendall(frame(read_frame(stream))[:10])

    found = failure(behave, connections=1)
    assert found == (5, "connection 0: closed by the server inside reply 0, after 10 bytes of it")


def test_reset_is_told_from_closed():
    """A reset is a crash or a bound that was hit, a close is a decision."""

    def behave(peer, sock, stream):
        read_frame(stream)
        reset(sock)
        stream.close()

    assert failure(behave, connections=1) == (5, "connection 0: reset by the server after 0 replies")


def test_stalled_is_exit_code_4_though_other_connections_go_on():
    """One connection that starves beside busy ones is a stall; the sum would not show it."""
    lock = threading.Lock()
    served = []

    def behave(peer, sock, stream):
        with lock:
            served.append(sock)
            number = len(served)
        k = 0
        while (payload := read_frame(stream)) is not None:
            if number == 2 and k == 3:
                peer.wait(sock)
                return
            sock.sendall(frame(payload))
            k += 1

    code, message = failure(behave, count=0, duration=30.0, timeout=0.15)
    assert code == 4
    assert "no byte for 0.15 s with 4 messages in flight, after 3 replies" in message


def test_nobody_listening_is_exit_code_3_with_its_errno():
    """The command explains an errno with a remedy; the engine hands it over."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = evloop.parse_address(sock.getsockname())
    with pytest.raises(load.LoadFailed) as caught:
        load.run(load_options.checked(load_options.LoadOptions(address)))
    assert (caught.value.code, caught.value.reason) == (3, 111)


def test_sink_counts_what_was_taken_and_waits_until_it_was_read():
    """A message in a buffer is no message that was read; and a sink that answers is none."""
    read = []

    def behave(peer, sock, stream):
        total = 0
        while data := sock.recv(65536):
            total += len(data)
        read.append(total)

    with LoadPeer(behave) as peer:
        found = load.run(options(peer, pattern="sink", count=1000)).round
    assert found["messages"] == 1000
    assert "latency_ns" not in found
    assert sum(read) == 1000 * 68
    code, message = failure(answering(echo), pattern="sink", count=0, duration=30.0)
    assert (code, "of a server that was to send none" in message) == (7, True)


def test_sink_that_does_not_read_is_stalled():
    """A server that has stopped reading looks alive to TCP."""
    found = failure(lambda peer, sock, stream: peer.wait(sock), pattern="sink", count=0, duration=30.0, timeout=0.1)
    assert found[0] == 4
    assert "the server has read nothing for 0.1 s" in found[1]


def numbered(first, step=1):
    """Return a source of frames of 64 bytes, numbered from *first*."""

    def behave(peer, sock, stream):
        for number in range(first, first + 1_000_000, step):
            sock.sendall(frame(struct.pack("<Q", number) + b"x" * 56))

    return behave


def test_source_counts_frames_that_are_numbered_from_anything():
    """A server that pushes has its own numbers; they must have no gap."""
    found = run(numbered(77), pattern="source", count=5000, check="full").round
    assert found["messages"] >= 5000
    assert "latency_ns" not in found
    code, message = failure(numbered(77, 2), pattern="source", connections=1)
    assert (code, message) == (7, "connection 0: message 79 in place of 78")
    assert run(numbered(77, 2), pattern="source", check="length", count=100).round["messages"] >= 100
    code, message = failure(numbered(77), pattern="source", sizes=((63, 1.0),))
    assert (code, "not a frame of 63 bytes" in message) == (7, True)


def test_connect_makes_a_connection_for_each_message():
    """The accept rate is measured with visits: exactly so many, each with its answer."""
    visits = []

    def behave(peer, sock, stream):
        visits.append(sock)
        answering(echo)(peer, sock, stream)

    found = run(behave, pattern="connect", in_flight=1, count=50).round
    assert found["messages"] == 50 == len(visits)


def test_idle_holds_and_asks_again(tmp_path):
    """A silent connection that the server has forgotten is found by asking once more."""
    found = run(answering(echo), pattern="idle", in_flight=1, count=0, duration=0.05, connections=120).round
    assert found["messages"] == 120
    code, message = failure(
        answering(lambda k, p: frame(p) if k == 0 else None),
        pattern="idle", in_flight=1, count=0, duration=0.01,
    )  # fmt: skip
    assert (code, "closed by the server after 1 replies" in message) == (5, True)


@pytest.mark.parametrize("publishers", [1, 3])
def test_fanout_counts_deliveries_to_every_subscriber(publishers):
    """Each message reaches each subscriber once; both the delivery and the last one have a histogram."""
    outcome = run(Broadcast(), pattern="fanout", connections=5, publishers=publishers, count=100, check="full")
    # With several publishers each is a subscriber of the others, which does not count.
    assert outcome.round["messages"] == 500
    assert outcome.round["broadcasts"] == 100
    assert outcome.histograms["service"].count == 500
    assert outcome.round["completion_ns"]["max"] == outcome.round["latency_ns"]["max"]


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (lambda n, data: b"" if n == 20 else data, 7, "one is lost"),
        (lambda n, data: data + data if n == 20 else data, 7, "again"),
        (lambda n, data: data[:4] + b"\xff" * 8 + data[12:] if n == 20 else data, 7, "a message of publisher"),
        (lambda n, data: data[:-1] + b"?" if n == 20 else data, 7, "wrong bytes after the number"),
        (lambda n, data: b"" if n >= 20 else data, 4, "message 5 of publisher 0 has not come"),
    ],
    ids=["lost", "twice", "made-up", "bytes", "stalled"],
)
def test_fanout_that_is_wrong_is_named(spoil, code, words):
    """A broker that loses or repeats a message to one of many subscribers has failed, however fast it is."""
    found = failure(
        Broadcast(spoil), pattern="fanout", connections=4, count=100, check="full",
        timeout=0.2 if code == 4 else 5.0,
    )  # fmt: skip
    assert found[0] == code
    assert words in found[1]


@pytest.mark.parametrize("poisson", [False, True])
def test_open_loop_counts_each_planned_message_and_both_clocks(poisson):
    """The response time begins with the plan, the service time with the send: it can only be shorter."""
    outcome = run(answering(echo), rate=5000.0, poisson=poisson, count=500, in_flight=0)
    assert outcome.round["messages"] == 500
    assert outcome.round["clock"] == "plan"
    histograms = outcome.histograms
    assert histograms["response"].count == histograms["service"].count == histograms["lag"].count == 500
    assert histograms["response"].mean >= histograms["service"].mean
    assert outcome.round["client"]["unsent"] == 0


def test_open_loop_charges_a_stall_to_what_was_planned_in_it():
    """Coordinated omission: a closed loop has one slow sample of a stall, an open loop all that it delayed."""
    stall = threading.Event()

    def change(k, payload):
        if k == 20:
            stall.wait(0.1)
        return frame(payload)

    one = {"connections": 1, "count": 400}
    closed = run(answering(change), in_flight=1, **one)
    opened = run(answering(change), rate=2000.0, in_flight=0, **one)
    half = 50_000_000  # ns
    slow = [sum(n for ns, n in outcome.round["hist"] if ns > half) for outcome in (closed, opened)]
    assert 1 <= slow[0] < 20  # one, and whatever else the machine was busy with
    assert slow[1] >= 50


def test_open_loop_beyond_the_window_waits_with_its_clock_running():
    """One in flight is a socket that is always full: the wait for it belongs to the response time."""
    stall = threading.Event()

    def change(k, payload):
        stall.wait(0.005)
        return frame(payload)

    outcome = run(answering(change), rate=2000.0, in_flight=1, connections=1, count=30)
    assert outcome.round["service_ns"]["p50"] < outcome.round["latency_ns"]["p50"]
    assert outcome.round["latency_ns"]["max"] > 20 * 4_000_000


def test_open_loop_of_a_duration_counts_all_that_was_planned_in_it():
    """A generator that wakes up after the end of the interval still owes what was planned before it."""

    def behave(peer, sock, stream):
        while sock.recv(65536):
            pass

    found = run(behave, pattern="sink", rate=4000.0, count=0, duration=0.1, in_flight=0).round
    assert found["messages"] == pytest.approx(400, abs=2)
    found = run(answering(echo), rate=4000.0, count=0, duration=0.1, in_flight=0).round
    assert found["messages"] == pytest.approx(400, abs=2)


@pytest.mark.slow
def test_open_loop_overload_reports_what_was_not_sent():
    """A server that cannot follow the plan is not waited for without end, nor is the rest forgotten."""
    stall = threading.Event()

    def change(k, payload):
        stall.wait(0.01)
        return frame(payload)

    # The timeout bounds the wait for the rest, and that for one reply of this thread, which may get no core at once.
    outcome = run(answering(change), rate=10_000.0, in_flight=1, connections=1, count=0, duration=0.05, timeout=0.5)
    client = outcome.round["client"]
    assert client["unsent"] > 100
    assert outcome.round["messages"] + client["unsent"] + client["unanswered"] == pytest.approx(500, abs=2)


def test_open_loop_without_a_message_has_no_cost_of_one():
    """What was spent all the same would be printed as the cost of one message."""
    with LoadPeer(answering(echo)) as peer:
        asked = options(peer, rate=0.001, connections=1, count=0, duration=0.01, server_pids=(os.getpid(),))
        outcome = load.run(asked)
    found = outcome.round
    assert (found["messages"], found["client"]["us_per_message"], found["server"]["us_per_message"]) == (0, None, None)
    said = load_report.text(asked, outcome)
    assert "CPU a message" not in said and "unknown" not in said and "% of a core" in said


def test_closed_loop_interval_without_a_reply_lasts_until_one_has_come():
    """A server that is slower than the interval is long has not failed, and a row of nothing helps nobody."""
    pause = threading.Event()

    def late(k, payload):
        pause.wait(0.01)
        return frame(payload)

    found = run(answering(late), count=0, duration=0.001).round
    assert found["messages"] >= 1 and found["seconds"] >= 0.001


def test_closed_loop_of_a_duration_ends_and_drains():
    """What is in flight at the end is not counted, and still has to come back right."""
    outcome = run(answering(echo), count=0, duration=0.1, warmup=0.05)
    assert outcome.round["seconds"] >= 0.1
    assert outcome.round["messages"] > 0


def test_server_pid_reads_cpu_memory_and_switches():
    """The server's cost a message is the figure that survives a noisy machine; this process is the server here."""
    with LoadPeer(answering(echo)) as peer:
        found = load.run(options(peer, server_pids=(os.getpid(),))).round["server"]
    assert found["us_per_message"] > 0
    assert found["rss_bytes"] > 1 << 20
    with LoadPeer(answering(echo)) as peer, pytest.raises(load.LoadFailed, match="there is no process 4194304"):
        load.run(options(peer, server_pids=(1 << 22,)))


def test_histogram_keeps_three_digits_and_the_extremes():
    """Percentiles are upper edges of counters of at most a thousandth; min and max are exact."""
    outcome = run(answering(echo), count=1000)
    histogram = outcome.histograms["service"]
    pairs = histogram.pairs()
    assert sum(n for _, n in pairs) == histogram.count == 1000
    assert [ns for ns, _ in pairs] == sorted(ns for ns, _ in pairs)
    assert histogram.percentile(100) == histogram.most <= pairs[-1][0] <= histogram.most * 1.001
    assert pairs[0][0] >= histogram.least >= pairs[0][0] / 1.001 - 1
    below = 0
    for percent in (0.1, 50, 99, 99.9):
        below = next(ns for ns, seen in running(pairs) if seen >= percent * 10)
        assert histogram.percentile(percent) == min(below, histogram.most)


def running(pairs):
    """Yield (ns, samples so far)."""
    seen = 0
    for ns, n in pairs:
        seen += n
        yield ns, seen


def test_histogram_without_samples_is_all_zero():
    """A sink has no latencies; asking for them is no error."""
    empty = Histogram()
    assert (empty.count, empty.least, empty.most, empty.mean, empty.percentile(50), empty.pairs()) == (
        0,
        0,
        0,
        0,
        0,
        [],
    )


def test_constants_agree_with_the_engine():
    """Checked in Python before anything is allocated in C: both must mean the same."""
    assert (load_options.MOST_SIZES, load_options.MOST_SERVERS) == (MOST_CLASSES, MOST_SERVERS)
    assert tuple(load_options.PATTERNS) == PATTERNS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"connections": 0}, "-c 0 is not within 1..1e"),
        ({"in_flight": 65537}, "-P 65537 is not within 1..65536"),
        ({"sizes": ((16 << 20 | 1, 1.0),)}, "-s 16777217 is not within 0..16777216 bytes"),
        ({"sizes": ((64, 1.0),) * 17}, "-s has 17 sizes, and 1..16 are possible"),
        ({"sizes": ((64, 0.0),)}, "a share is above 0"),
        ({"framing": evloop.Framing.U16, "sizes": ((65536, 1.0),)}, "-s 65536 exceeds the 65535 bytes of a frame"),
        ({"framing": None, "sizes": ((0, 1.0),)}, "without a length a message has at least one byte"),
        ({"framing": None, "pattern": "fanout"}, "--pattern fanout needs frames"),
        ({"pattern": "fanout", "sizes": ((7, 1.0),)}, "needs 8 bytes for a message's number"),
        ({"pattern": "source", "sizes": ((8, 1.0), (9, 1.0))}, "--pattern source has one size; -s has 2"),
        ({"pattern": "connect", "rate": 5.0}, "-R has no meaning with --pattern connect"),
        ({"poisson": True}, "--poisson needs a rate"),
        ({"pattern": "idle", "in_flight": 2}, "--pattern idle has one message in flight"),
        ({"check": "length"}, "--check length is for --pattern source"),
        ({"address": evloop.parse_address("seqpacket:/x")}, "keeps packets, and the load needs a stream"),
        ({"server_pids": (1,) * 65}, "--server-pid is given 65 times, and 64 are the most"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_with_the_option(changes, words):
    """A measurement of something else than what was asked for is worse than none."""
    with pytest.raises(ValueError, match=re.escape(words)):
        load_options.checked(load_options.LoadOptions(**{"address": evloop.parse_address("9000"), **changes}))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"connections": 100, "in_flight": 16}, "c100p16s64"),
        ({"sizes": ((64, 9.0), (4096, 1.0))}, "c1p1s64:9,4096:1"),
        ({"pattern": "upper", "framing": None}, "upper-raw-c1p1s64"),
        ({"rate": 50_000.0, "poisson": True}, "c1p256s64-50000/s-poisson"),
        ({"pattern": "fanout", "publishers": 8}, "fanout-c1p1s64-8publishers"),
    ],
)
def test_case_name_is_the_work(changes, name):
    """Two results are compared if their names are the same; that of an echo is the name `bench peers` has for it."""
    made = load_options.checked(load_options.LoadOptions(evloop.parse_address("9000"), **changes))
    assert load_options.case_name(made) == name
    assert dataclasses.replace(made) == made
