"""The fan-out benchmark: every server delivers to everybody, and the load believes no server that does not."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import struct
import subprocess
import threading

import jsonschema
import pytest

from evloop.bench import fanout, fanout_report, fanout_servers, native, records
from evloop.bench.fanout import Pace, Shape
from evloop.bench.fanout_servers import SERVERS, Server
from evloop.bench.peers_run import Programs, RunFailed
from evloop.cli.program import run as evloop_command

DEADLINE = 10  # seconds: far above anything here
MIB = 1 << 20
EMPTY = b"\0\0\0\0"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, no time: close() resets
SCHEMA = json.loads(records.SCHEMA_FILE.read_text())


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """The floor and the load, compiled into a directory of this run; not pinned."""
    directory = tmp_path_factory.mktemp("fanout")
    try:
        return Programs(
            native.build(native.FANOUT_FLOOR, directory), native.build(native.FANOUT, directory), None, None
        )
    except native.CompilerError as exc:
        pytest.skip(f"the floor and the load are C: {exc}")


@contextlib.contextmanager
def started(name, programs):
    """Yield the server of the table, its process and its address; skip where what it needs is not installed."""
    server = fanout_servers.floor(programs.floor) if name == "floor" else SERVERS[name]
    if server.missing:
        pytest.skip(f"not installed: {server.missing}")
    with fanout_servers.serving(server, None) as (pid, address):
        yield server, pid, address


def frame(payload):
    return struct.pack(">I", len(payload)) + payload


def read(sock, count):
    """Return *count* bytes, or what came before the end of the stream."""
    data = bytearray()
    while len(data) < count and (part := sock.recv(min(MIB, count - len(data)))):
        data += part
    return bytes(data)


@contextlib.contextmanager
def connected(address):
    """Yield a connection that has not subscribed."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as sock:
        yield sock


@contextlib.contextmanager
def subscribed(address):
    """Yield a connection that the floor delivers to."""
    with connected(address) as sock:
        sock.sendall(EMPTY)
        assert read(sock, 4) == EMPTY
        yield sock


# --- the servers ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_fanout_each_server_delivers_every_message_to_everybody(name, programs):
    """The load ends with an error at the first message that is lost, doubled, out of order or wrong."""
    with started(name, programs) as (server, pid, address):
        capacity = 0.0
        for shape, pace in (
            (Shape(3, 2, 100), Pace(5)),
            (Shape(1, 1, 16), Pace(1)),
            (Shape(2, 1, 4096), Pace(40)),
            (Shape(3, 2, 100), Pace(0, 20.0, True)),
        ):
            found = fanout.run(server, shape, pace, pid, address, programs, 0.05, capacity)
            capacity = capacity or found["broadcasts"] / found["seconds"]
            row = {"case": fanout.case_name(shape, pace), "name": name, "rounds": [found]}
            document = {**records.document("fanout", [], {}, {}), "results": [row]}
            jsonschema.validate(document, SCHEMA)
            assert found["messages"] > 0
            assert found["latency_ns"]["p50"] <= found["latency_ns"]["p99"] <= found["latency_ns"]["max"]
            assert found["clock"] == ("send" if pace.outstanding else "plan")
            assert found["server"]["rss_bytes"] > 0
            assert found["wire_bytes_per_message"] > shape.payload


def test_floor_frames_whole_cut_and_glued_reach_all_subscribers(programs):
    """A floor that forwarded bytes and not frames, or to fewer, would win every row."""
    stream = frame(b"whole") + b"".join(frame(b"%d" % i * (1 + i % 7)) for i in range(500))
    with started("floor", programs) as (_, _, address), contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(subscribed(address)) for _ in range(2))
        sender = stack.enter_context(connected(address))
        for piece in (stream, *(stream[i : i + 1] for i in range(30))):
            sender.sendall(piece)
        sender.sendall(stream[30:] + frame(b"cut")[:5])
        for sock in (one, two):
            assert read(sock, 2 * len(stream)) == 2 * stream
        one.sendall(frame(b"back"))  # the cut frame must not stand before it
        assert read(one, 8) == read(two, 8) == frame(b"back")
        sender.sendall(frame(b"cut")[5:] + EMPTY + frame(b"mine"))  # and may subscribe between two frames
        assert read(sender, 4) == EMPTY
        assert frame(b"mine") in read(sender, 8) + read(sender, 7)  # of what stood before it the order is anybody's
        assert read(two, 15) == frame(b"cut") + frame(b"mine")


def test_floor_subscribers_that_speak_at_once_keep_each_ones_order(programs):
    """What a turn gathers is of several connections, and each one's frames must stay whole."""
    with started("floor", programs) as (_, _, address), contextlib.ExitStack() as stack:
        socks = [stack.enter_context(subscribed(address)) for _ in range(4)]
        said = [[b"%d of %d" % (k, i) for k in range(300)] for i in range(3)]
        for i, payloads in enumerate(said):
            socks[i].sendall(b"".join(map(frame, payloads)))
        size = sum(len(frame(payload)) for payloads in said for payload in payloads)
        got = [_frames(read(sock, size)) for sock in socks]
        assert got[1:] == got[:-1]
        for payloads in said:
            assert [payload for payload in got[0] if payload in set(payloads)] == payloads


def _frames(stream):
    """Return the payloads of the frames of a stream."""
    found, at = [], 0
    while at < len(stream):
        (size,) = struct.unpack_from(">I", stream, at)
        found.append(stream[at + 4 : at + 4 + size])
        at += 4 + size
    return found


@pytest.mark.parametrize(("length", "fits"), [(MIB - 1, True), (MIB, True), (MIB + 1, False)])
def test_floor_frame_at_its_limit_is_delivered_above_is_closed(programs, length, fits):
    """A floor that checked nothing would have an unfair start; the frames before the bad one still go out."""
    with started("floor", programs) as (_, _, address), subscribed(address) as one, connected(address) as sender:
        sender.sendall(frame(b"before") + struct.pack(">I", length))
        assert read(one, 10) == frame(b"before")
        if not fits:
            assert sender.recv(1) == b""
            return
        sender.sendall(b"\x5a" * length)
        assert read(one, 4 + length) == struct.pack(">I", length) + b"\x5a" * length


def test_floor_member_that_reads_late_holds_nobody_up_and_loses_nothing(programs):
    """A turn's frames are kept once: what a full socket did not take must be kept apart."""
    message = frame(bytes(range(256)) * 256)
    with started("floor", programs) as (_, _, address), contextlib.ExitStack() as stack:
        late, one = (stack.enter_context(subscribed(address)) for _ in range(2))
        sender = stack.enter_context(connected(address))
        for _ in range(240):  # 15 MiB: more than the buffers of a socket's both ends
            sender.sendall(message)
            assert read(one, len(message)) == message
        for _ in range(240):
            assert read(late, len(message)) == message


# --- liars --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def impostor(behave, greeting=b""):
    """Yield the address of a server of frames that gathers three of a publisher and does as *behave* says.

    *behave* is called once, with the three frames, the subscribers' sockets and the publisher's.
    """

    def serve():
        socks, subscribers, gathered = [], [], b""
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            try:
                while True:
                    for key, _ in selector.select(DEADLINE):
                        if key.fileobj is listener:
                            socks.append(listener.accept()[0])
                            selector.register(socks[-1], selectors.EVENT_READ)
                            socks[-1].sendall(greeting)
                        elif not (data := key.fileobj.recv(65536)):
                            return
                        elif data == EMPTY:
                            subscribers.append(key.fileobj)
                            key.fileobj.sendall(EMPTY)
                        else:
                            gathered += data
                            if len(_frames(gathered)) == 3:
                                behave([frame(payload) for payload in _frames(gathered)], subscribers, key.fileobj)
            except OSError:
                return  # the load has reset its connections, having seen enough
            finally:
                for sock in socks:
                    sock.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with contextlib.suppress(OSError):
                socket.create_connection(listener.getsockname(), timeout=1).close()  # ends one without a peer
            thread.join(DEADLINE)
            assert not thread.is_alive()


def sends(*change):
    """Return a behaviour that sends each subscriber what the functions make of the three frames."""
    return lambda messages, subscribers, _publisher: [
        sock.sendall(b"".join(change[0](messages))) for sock in subscribers
    ]


def renumbered(message):
    return message[:4] + b"00ffffffffffffff" + message[20:]


def flipped(message, at):
    return message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]


def hang_up(_messages, subscribers, _publisher):
    subscribers[1].shutdown(socket.SHUT_WR)


def reset(_messages, subscribers, _publisher):
    subscribers[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    subscribers[1].close()


def to_the_sender(messages, _subscribers, publisher):
    publisher.sendall(messages[0])


def to_one_only(messages, subscribers, _publisher):
    subscribers[0].sendall(b"".join(messages))


@pytest.mark.parametrize(
    ("behave", "code", "said"),
    [
        (sends(lambda m: [m[0], m[2]]), 7, "lost or reordered: message 2 of publisher 0 where 1 was next"),
        (sends(lambda m: [m[1], m[0], m[2]]), 7, "lost or reordered: message 1 of publisher 0 where 0 was next"),
        (sends(lambda m: [m[0], m[0], m[1]]), 7, "doubled or reordered: message 0 of publisher 0 where 1 was next"),
        (sends(lambda m: [renumbered(m[0])]), 7, "numbered 00ffffffffffffff, which was never sent to it"),
        (sends(lambda m: [b"".join(m[:1]).replace(b"00", b"0z")]), 7, "which was never sent to it"),
        (sends(lambda m: [flipped(m[0], 103)]), 7, "where a message was expected"),
        (sends(lambda m: [flipped(m[0], 20)]), 7, "where a message was expected"),
        (sends(lambda m: [frame(m[0][4:] + b"!")]), 7, "where a message was expected"),
        (sends(lambda m: [frame(m[0][4:-1])]), 7, "where a message was expected"),
        (to_the_sender, 7, "publisher 0: message numbered"),
        pytest.param(to_one_only, 4, "lost: 3 of 3 broadcasts have not reached all 2", marks=pytest.mark.slow),
        pytest.param(sends(lambda m: [m[0], m[1][:50]]), 4, "lost: 3 of 4 broadcasts have not reached all 2",
                     marks=pytest.mark.slow),
        (hang_up, 5, "subscriber 1: closed by the server"),
        (reset, 5, "Connection reset by peer"),
    ],
)  # fmt: skip
def test_load_server_that_delivers_wrong_is_named(programs, behave, code, said):
    """A load that counted whatever arrives would call the server that drops the most the fastest."""
    patience = "0.5" if code == 4 else str(DEADLINE)  # a busy machine may keep the impostor waiting
    command = [programs.load, "-n", "2", "-o", "3", "-w", "0", "-t", patience, "frames"]
    with impostor(behave) as address:
        found = subprocess.run([*command, address], capture_output=True, text=True, timeout=30, check=False)
    assert (found.returncode, said in found.stderr) == (code, True), found.stderr
    assert found.stdout == ""


@pytest.mark.parametrize(
    ("wire", "greeting", "said"),
    [
        ("resp", b"-NOAUTH Authentication required.\r\n", "subscriber 0: the server says -NOAUTH"),
        ("nats", b"-ERR 'Authorization Violation'\r\n", "subscriber 0: the server says -ERR"),
        ("mqtt", b"\x20\x02\x00\x05", "subscriber 0: the server says"),
        ("ws", b"HTTP/1.1 403 Forbidden\r\n\r\n", "subscriber 0: the server says HTTP/1.1 403 Forbidden"),
        ("chat", frame(b'{"t":"bye","code":3500,"text":"no"}'), 'the server says {"t":"bye","code":3500'),
    ],
)
def test_load_server_that_refuses_is_quoted(programs, wire, greeting, said):
    """Whoever runs a broker with a password has to read why there are no figures."""
    with impostor(lambda *_: None, greeting) as address:
        found = subprocess.run([programs.load, wire, address], capture_output=True, text=True, timeout=30, check=False)
    assert (found.returncode, said in found.stderr) == (6, True), found.stderr


def test_load_nobody_listening_exits_3(programs):
    """A dead server is not a wrong one."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        command = [programs.load, "frames", f"127.0.0.1:{sock.getsockname()[1]}"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert found.returncode == 3


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["frames"], ["frames", "9000"], ["smoke", "127.0.0.1:9"], ["frames", "localhost:9"],
        ["frames", "127.0.0.1:0"], ["-n", "0", "frames", "127.0.0.1:9"], ["-n", "100001", "frames", "127.0.0.1:9"],
        ["-P", "256", "frames", "127.0.0.1:9"], ["-s", "15", "frames", "127.0.0.1:9"],
        ["-s", "65537", "frames", "127.0.0.1:9"], ["-o", "1.5", "frames", "127.0.0.1:9"],
        ["-R", "0", "frames", "127.0.0.1:9"], ["--no-such", "frames", "127.0.0.1:9"],
    ],
)  # fmt: skip
def test_load_wrong_arguments_exit_2_with_the_usage(programs, arguments):
    """An option that is misread in silence is a wrong table."""
    found = subprocess.run([programs.load, *arguments], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, "usage: fanout" in found.stderr) == (2, "", True)


# --- the plan, the servers' start, the report ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--subs", "0"], "0 subscribers are not within 1..15,000"),
        (["--subs", "15001"], "15,001 subscribers are not within 1..15,000"),
        (["--subs", "many"], "--subs: 'many' is no list of numbers"),
        (["--pubs", "256"], "256 publishers are not within 1..255"),
        (["--payload", "15"], "15 payload bytes are not within 16..65,536"),
        (["--payload", "65537"], "65,537 payload bytes are not within 16..65,536"),
        (["--outstanding", "0"], "0 outstanding are not within 1..65,536"),
        (["--servers", "kafka"], "no server kafka; there are floor, redis,"),
        (["--open", "fast"], "'fast' is no rate"),
        (["--open", "201%"], "'201%' is no rate"),
        (["--open", "50%", "--outstanding", ""], "give --outstanding"),
        (["-d", "0.05"], "--duration 0.05 s is not within 0.1..3600 s"),
    ],
)
def test_fanout_command_wrong_value_is_a_usage_error(arguments, said, capfd):
    """The message names what was asked for and what there is."""
    assert evloop_command(["bench", "fanout", *arguments]) == 2
    assert said in capfd.readouterr().err


def test_fanout_command_list_names_what_is_missing(capfd, monkeypatch, tmp_path):
    """A server that is left out in silence looks like one that was beaten."""
    monkeypatch.setattr(fanout_servers, "_path", lambda: str(tmp_path))
    assert evloop_command(["bench", "fanout", "--list"]) == 0
    out = capfd.readouterr().out
    assert "not installed: apt-get install redis-server" in out
    assert "not installed: apt-get install mosquitto" in out


@pytest.mark.slow
def test_fanout_command_prints_tables_and_writes_a_valid_file(programs, capfd, monkeypatch, tmp_path):
    """From the command line to the file, with processes of its own."""
    monkeypatch.setattr(fanout, "prepare", lambda: programs)
    monkeypatch.setattr(fanout_servers, "_path", lambda: str(tmp_path))  # brokers are another test's
    path = tmp_path / "found.json"
    command = ["bench", "fanout", "--servers", "asyncio", "--subs", "2", "--rounds", "2", "-d", "0.1"]
    assert evloop_command([*command, "--outstanding", "2", "--open", "20%", "--json", str(path)]) == 0
    out = capfd.readouterr().out
    assert "not installed, so not measured: redis (apt-get install redis-server)" in out
    assert "rows that evloop loses:" in out
    document = records.read(path)
    jsonschema.validate(document, SCHEMA)
    cases = records.by_case(document)
    assert list(cases) == ["n2p1s100o2", "n2p1s100r20%"]
    assert all(len(runs) == 1 for results in cases.values() for runs in results.values())
    assert document["tool"] == "fanout" and set(document["titles"]) == set(cases)
    assert "redis (apt-get" in document["notes"]["missing"]  # what a page of the file has to say, too


def test_serving_program_that_dies_at_once_is_told_with_its_last_words(tmp_path):
    """A broken server must not look like a slow one."""
    server = Server("broken", "frames", lambda _directory, _port: ["sh", "-c", "echo no luck today; exit 1"])
    with pytest.raises(RunFailed, match="broken did not start: no luck today"), fanout_servers.serving(server, None):
        pass


def test_serving_port_taken_meanwhile_is_tried_again(tmp_path):
    """Between the look for a free port and the server's bind anybody may take it."""
    marker = tmp_path / "tried"
    script = f"if [ -e {marker} ]; then echo ready; exec sleep 60; fi; touch {marker}; echo Address already in use"
    server = Server("late", "frames", lambda _directory, _port: ["sh", "-c", script], ready="ready")
    with fanout_servers.serving(server, None) as (pid, address):
        assert pid > 0
        assert address.startswith("127.0.0.1:")


@pytest.mark.slow
def test_measure_server_that_fails_is_out_with_its_reason(programs, monkeypatch):
    """The others' figures stand; its own, from before it failed, do not count."""
    broken = Server("broken", "resp", lambda _directory, _port: [str(programs.floor)])  # speaks something else
    monkeypatch.setitem(SERVERS, "broken", broken)
    wanted = fanout.Plan([Shape(1)], [Pace(1), Pace(2)], [SERVERS["floor"], broken], 2, 0.05)
    found = fanout.measure(Shape(1), wanted, programs, lambda *_: None)
    assert "closed by the server" in found["n1p1s100o1"]["broken"]
    assert found["n1p1s100o2"]["broken"] == "not run: it failed in n1p1s100o1"
    assert len(found["n1p1s100o1"]["floor"]) == len(found["n1p1s100o2"]["floor"]) == 1


def some_round(cost, p99, bound=False):
    """Return a round with a CPU cost (us) and a p99 (ns)."""
    latency = {"p50": 1000, "p99": p99, "p99.9": p99}
    server = {"us_per_message": cost, "busy": 1.0, "rss_bytes": MIB, "voluntary_switches": 1, "involuntary_switches": 2}
    return {
        "messages": 1000, "rate": 5000.0, "wire_bytes_per_message": 104.0, "latency_ns": latency,
        "completion_ns": latency, "server": server, "client": {"client_bound": bound},
    }  # fmt: skip


def test_report_names_each_row_that_is_lost():
    """A comparison that hides where we lose is an advertisement."""
    results = {
        "floor": [some_round(1.0, 9000)] * 4,
        "redis": [some_round(2.0, 9000)] * 4,
        "nats": [some_round(1.5, 9000, bound=True)] * 4,
        "evloop-group": [some_round(2.1, 5000)] * 4,
        "evloop-batch": [some_round(1.2, 9999)] * 4,
        "evloop-aio": "FAILED: exit 7: lost",
    }
    assert fanout_report.losses("c", results) == [
        "c: evloop-aio FAILED: exit 7: lost",
        "c: evloop-group costs more than redis 1.05x, nats 1.40x",
        "c: evloop-batch is slower than redis: p99 1.11x",
    ]
    group, batch = fanout_report.aims("c", results)
    assert batch == "c: evloop-batch 0.60 (0.60..0.60) x redis' CPU a delivery, 1.11 (1.11..1.11) x its p99: NOT met"
    assert group.endswith("NOT met")
    results["evloop-group"] = [some_round(1.9, 5000)] * 4
    assert fanout_report.aims("c", results)[0].endswith(": met")


def test_report_table_has_every_row_and_fits_the_page():
    """A row that is generator-bound says so, and one that failed says why."""
    results = {"redis": [some_round(2.0, 9000, bound=True)] * 2, "floor": [some_round(1.0, 9e8)], "nats": "FAILED: x"}
    lines = fanout_report.table("heading", results).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["floor", "redis", "nats"]
    assert ">= 5,000" in lines[3]
    assert "FAILED: x" in lines[4]
    assert max(map(len, lines)) <= 120


def test_build_changed_header_is_compiled_anew(tmp_path):
    """A stale load would measure with yesterday's rules."""
    source, header = tmp_path / "program.c", tmp_path / "program.h"
    source.write_text('#include "program.h"\nint main(void) { return CODE; }\n')
    header.write_text("#define CODE 3\n")
    try:
        first = native.build(source, tmp_path / "cache")
    except native.CompilerError as exc:
        pytest.skip(str(exc))
    header.write_text("#define CODE 4\n")
    second = native.build(source, tmp_path / "cache")
    assert [subprocess.run([path], check=False).returncode for path in (first, second)] == [3, 4]
