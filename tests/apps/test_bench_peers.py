"""The echo benchmark: every server that is compared echoes frames, and the load generator believes no wrong one."""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import struct
import subprocess
import threading

import jsonschema
import pytest

from evloop.bench import native, peers_report, peers_run, records
from evloop.bench.peers_run import Programs, RunFailed, environment, parse_case, run, serving
from evloop.bench.rivals import RIVALS, TUNED_MALLOC, Rival
from evloop.cli.program import run as evloop_command

DEADLINE = 10  # seconds: far above anything here
MIB = 1 << 20
SERVERS = [name for name, rival in RIVALS.items() if not (rival.tuned or rival.raw)]
RAW_SERVERS = [name for name, rival in RIVALS.items() if rival.raw and not rival.tuned]
RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, no time: close() resets


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """The floor and the load, compiled into a directory of this run."""
    directory = tmp_path_factory.mktemp("native")
    try:
        return Programs(native.build(native.FLOOR, directory), native.build(native.LOAD, directory), None, None)
    except native.CompilerError as exc:
        pytest.skip(f"the floor and the load are C: {exc}")


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
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


@contextlib.contextmanager
def started(name, programs):
    """Yield a connection to a server of the table; skip where what it needs is not installed."""
    rival = RIVALS[name]
    if rival.missing:
        pytest.skip(f"not installed: pip install {' '.join(rival.missing)}")
    with serving(rival, programs) as (_pid, address), connected(address) as sock:
        yield sock


def echoed(sock, stream):
    """Send *stream* while reading as many bytes; return them."""
    sender = threading.Thread(target=sock.sendall, args=(stream,))
    sender.start()
    answer = read(sock, len(stream))
    sender.join()
    return answer


@contextlib.contextmanager
def impostor(behave):
    """Yield the address of a server that reads the first bytes of each connection and does what *behave* says."""

    def serve():
        while True:
            sock, _ = listener.accept()
            with sock:
                if not (message := sock.recv(65536)):
                    return
                behave(sock, message)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        try:
            yield address
        finally:
            with connected(address):
                pass  # the connection without a byte that ends it
            thread.join(DEADLINE)
            assert not thread.is_alive()


def load(programs, address, *options):
    """Run the load generator against an address; return its exit code and what it said."""
    command = [programs.load, "-n", "20", "-w", "0", "-t", "5", *options, address]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return found.returncode, found.stdout + found.stderr


@pytest.mark.parametrize("name", SERVERS)
def test_server_frames_whole_cut_and_glued_are_echoed(name, programs):
    """A server that is fast because it echoes something else than frames would win every row."""
    whole, large = frame(b"whole"), frame(bytes(range(256)) * 1200)
    glued = b"".join(frame(b"%d" % i * (i % 7)) for i in range(500))
    with started(name, programs) as sock:
        for stream in (whole, frame(b""), glued, large, frame(b"x" * MIB)):
            assert echoed(sock, stream) == stream
        for byte in whole + frame(b"") + whole:
            sock.sendall(bytes([byte]))
        assert read(sock, 2 * len(whole) + 4) == whole + frame(b"") + whole


@pytest.mark.parametrize("name", RAW_SERVERS)
def test_raw_server_any_bytes_are_echoed_as_they_come(name, programs):
    """A raw server that waited for a frame, or took four bytes for a length, would be in the wrong table."""
    with started(name, programs) as sock:
        for stream in (b"x", b"\xff\xff\xff\xff", bytes(range(256)) * 400, bytes(range(251)) * 20_000):
            assert echoed(sock, stream) == stream


@pytest.mark.parametrize(("length", "fits"), [(16 * MIB - 1, True), (16 * MIB, True), (16 * MIB + 1, False)])
def test_floor_frame_at_its_limit_is_echoed_above_is_closed(programs, length, fits):
    """A floor that checked nothing would have an unfair start; the frames before the bad one are still answered."""
    with started("c", programs) as sock:
        sock.sendall(frame(b"before") + struct.pack(">I", length))
        assert read(sock, 10) == frame(b"before")
        if not fits:
            assert sock.recv(1) == b""
            return
        rest = b"\x5a" * length + frame(b"after")
        sender = threading.Thread(target=sock.sendall, args=(rest,))
        sender.start()
        assert read(sock, 4 + len(rest)) == struct.pack(">I", length) + rest
        sender.join()


@pytest.mark.parametrize("name", ["c", "c-raw"])
def test_floor_peer_that_reads_late_is_not_read_from_and_loses_nothing(programs, name):
    """Output without a bound would make the floor cheaper than any server that has one."""
    with started(name, programs) as sock:
        message = frame(bytes(range(256)) * 100)
        sock.settimeout(0.3)
        sent = bytearray()
        with pytest.raises(TimeoutError):
            while len(sent) < 64 * MIB:  # the buffers of both ends hold some MiB; then the server must stop reading
                at = len(sent) % len(message)
                sent += message[at : at + sock.send(message[at:])]
        sock.settimeout(DEADLINE)
        whole = len(sent) // len(message)
        assert read(sock, whole * len(message)) == message * whole


def flip_last_byte(sock, message):
    sock.sendall(message[:-1] + bytes([message[-1] ^ 1]))


def flip_first_byte(sock, message):
    sock.sendall(bytes([message[0] ^ 1]) + message[1:])


def longer(sock, message):
    sock.sendall(frame(message[4:] + b"!"))


def renumbered(sock, message):
    sock.sendall(message[:4] + bytes([message[4] ^ 1]) + message[5:])


def twice(sock, message):
    sock.sendall(message * 2)


def cut(sock, message):
    sock.sendall(message[:10])


def hang_up(_sock, _message):
    pass


def reset(sock, _message):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def silent(sock, _message):
    sock.recv(1)  # until the load has given up


@pytest.mark.parametrize(
    ("behave", "options", "code", "said"),
    [
        (flip_last_byte, ["-b"], 7, "wrong byte at byte 67 of 68"),
        (flip_last_byte, ["--raw"], 7, "wrong byte at byte 63 of 64"),
        (flip_first_byte, ["--raw"], 7, "wrong sequence number at byte 0 of 64"),
        (twice, ["--raw"], 7, "reply that nobody asked for"),
        (cut, ["--raw"], 5, "closed by the server after 0 replies and 10 bytes"),
        (longer, [], 7, "wrong length at byte 3 of 68"),
        (renumbered, [], 7, "wrong sequence number at byte 4 of 68"),
        (twice, [], 7, "reply that nobody asked for"),
        (cut, [], 5, "closed by the server after 0 replies and 10 bytes"),
        (hang_up, [], 5, "closed by the server after 0 replies"),
        (reset, [], 5, "Connection reset by peer"),
        (silent, ["-t", "0.2"], 4, "no byte for 0.2 s"),
    ],
)
def test_load_server_that_answers_wrong_is_named(programs, behave, options, code, said):
    """A load generator that counts whatever comes back measures nothing."""
    with impostor(behave) as address:
        found, text = load(programs, address, *options)
    assert (found, said in text) == (code, True), text


def test_load_interval_without_a_reply_lasts_until_one_has_come(programs):
    """A server that got no core for a tenth of a second, on a busy machine, is slow and has not failed."""

    def late(sock, message):
        with contextlib.suppress(ConnectionError):  # the load resets when it has what it wants
            while message:
                sock.sendall(message)
                message = sock.recv(65536)
                threading.Event().wait(0.01)

    with impostor(late) as address:
        command = [programs.load, "-d", "0.001", "-w", "0", address]
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["messages"] >= 1


def test_load_nobody_listening_exits_3(programs):
    """A benchmark script has to tell a dead server from a wrong one."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        assert load(programs, f"127.0.0.1:{sock.getsockname()[1]}")[0] == 3


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["9000"], ["localhost:9000"], ["127.0.0.1:0"], ["127.0.0.1:65536"], ["127.0.0.1:9", "more"],
        ["-c", "0", "127.0.0.1:9"], ["-c", "100001", "127.0.0.1:9"], ["-P", "1.5", "127.0.0.1:9"],
        ["-s", "-1", "127.0.0.1:9"], ["-s", "16777217", "127.0.0.1:9"], ["-d", "nan", "127.0.0.1:9"],
        ["-w", "x", "127.0.0.1:9"], ["--no-such", "127.0.0.1:9"],
        ["--raw", "-s", "0", "127.0.0.1:9"],
    ],
)  # fmt: skip
def test_load_wrong_arguments_exit_2_with_the_usage(programs, arguments):
    """An option that is misread in silence is a wrong table."""
    found = subprocess.run([programs.load, *arguments], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, "usage: load" in found.stderr) == (2, "", True)


@pytest.mark.parametrize(
    "options",
    [
        ["-c", "3", "-P", "5", "-s", "64", "-b"], ["-s", "0"], ["-s", "7", "-P", "3"], ["-s", "8"], ["-s", "9"],
        ["-c", "2", "-s", "300000", "-P", "2", "-b"], ["-P", "9000", "-n", "20000"], ["--connect-rate", "-c", "4"],
        ["-c", "1000", "-n", "2000"], ["-r", "-s", "1"], ["-r", "-s", "8", "-P", "3"],
        ["-r", "-c", "5", "-s", "102400", "-n", "200"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_load_honest_server_gives_a_line_of_json(programs, options):
    """The line is the interface of the load generator."""
    with serving(RIVALS["c-raw" if "-r" in options else "c"], programs) as (pid, address):
        code, text = load(programs, address, *options, "-p", str(pid))
    assert (code, text.count("\n")) == (0, 1), text
    found = json.loads(text)
    assert {key: type(value) for key, value in found.items()} == {
        "mode": str, "connections": int, "pipeline": int, "size": int, "seconds": float, "messages": int,
        "messages_per_second": float, "replies_per_read": float, "latency_us": dict, "latency_curve_us": list,
        "server_cpu_us": float, "server_busy": float, "load_cpu_us": float, "load_busy": float, "checked": str,
    }  # fmt: skip
    assert found["messages"] >= 20
    assert found["server_cpu_us"] >= 0  # 0: all twenty were answered before the first reading of the server's clock
    latency = [found["latency_us"][key] for key in ("p50", "p99", "p999", "max")]
    assert latency == sorted(latency)
    assert found["latency_curve_us"] == sorted(found["latency_curve_us"])
    assert [point[1] for point in found["latency_curve_us"]] == sorted(point[1] for point in found["latency_curve_us"])


@pytest.mark.slow
def test_load_ways_each_is_measured_or_says_why_not(programs, tmp_path):
    """ADR 0015 decides by that table; a program that nobody runs stops working unseen."""
    ways = native.build(pathlib.Path(__file__).parents[2] / "bench" / "load_ways.c", tmp_path)
    found = subprocess.run([ways, programs.floor, "1", "0.01"], capture_output=True, text=True, timeout=60, check=True)
    lines = [line.split() for line in found.stdout.splitlines() if line.startswith("  ")]
    assert len(lines) == 2 * (1 + 6)
    for line in lines:
        assert "machine:" in line or line[-1] == "sleeps/read" or float(line[-3]) in (16.0, 256.0), line


def test_run_idle_tells_bytes_per_connection(programs):
    """What an idle connection costs is a promise of the project; the C server shows what is possible."""
    case = parse_case("idle")._replace(connections=1100)
    assert 0 <= run(case, RIVALS["c"], programs, 0.1)["bytes_per_connection"] < 1024


def test_run_server_that_dies_at_once_is_told_with_its_last_words(programs, tmp_path):
    """A rival with a broken import must not look like a slow one."""
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit('no luck today')")
    with pytest.raises(RunFailed, match="broken did not start: no luck today"):
        run(parse_case("c1p1s1"), Rival("broken", str(script)), programs, 0.1)


@pytest.fixture
def scripted(programs, tmp_path):
    """Return a function that puts a shell script in the place of the load."""

    def replaced(text):
        script = tmp_path / "load"
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
        return programs._replace(load=script)

    return replaced


def test_run_load_that_does_not_end_fails_the_row_alone(monkeypatch, scripted):
    """After forty minutes of a comparison one load that hangs must cost one row."""
    monkeypatch.setattr(peers_run, "GRACE", 0.05)
    with pytest.raises(RunFailed, match=r"not done 0\.05 s after its time"):
        run(parse_case("c1p1s1"), RIVALS["c"], scripted("exec sleep 60"), 0.1)


def test_run_idle_load_that_dies_between_its_steps_is_told_with_its_last_words(scripted):
    """A pipe without a reader is the load's failure, and not the comparison's."""
    dying = scripted("""echo '{"connections": 100}'; echo 'no more files' >&2; exit 1""")
    with pytest.raises(RunFailed, match="exit 1: no more files"):
        run(parse_case("idle"), RIVALS["c"], dying, 0.1)


def test_build_without_compiler_names_gcc(monkeypatch, tmp_path):
    """Whoever has no compiler should read what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(native.CompilerError, match="gcc and cc not found on PATH; apt-get install gcc"):
        native.build(native.FLOOR, tmp_path)


def test_build_refused_source_tells_the_compilers_words_and_leaves_nothing(programs, tmp_path):
    """A half-built program in the cache would be run for ever."""
    source, cache = tmp_path / "bad.c", tmp_path / "cache"
    source.write_text("int main(void) { return nonsense; }")
    with pytest.raises(native.CompilerError, match="nonsense"):
        native.build(source, cache)
    assert list(cache.iterdir()) == []


def test_environment_drops_what_changes_a_server(monkeypatch):
    """PYTHONASYNCIODEBUG in somebody's shell would halve every asyncio row."""
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    plain, tuned = environment(RIVALS["asyncio-protocol"]), environment(RIVALS["asyncio-protocol+malloc"])
    assert "PYTHONASYNCIODEBUG" not in plain
    assert {key for key in plain if key.startswith("MALLOC_")} == set()
    assert tuned == plain | TUNED_MALLOC


@pytest.mark.parametrize("name", ["c10p1s64k", "c1p65536s0", "accept", "idle", "idle-c1000", "raw-c100s100k"])
def test_parse_case_keeps_the_name(name):
    """A case is its name: tables of two days are compared by it."""
    assert parse_case(name).name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "c1p1",
        "c1p1s64g",
        "c1p1s64 ",
        "C1p1s1",
        "idle2",
        "idle-c999",
        "c1s64",
        "raw-c1p1s64",
        "raw-idle",
        "raw-c1s0",
    ],
)
def test_parse_case_anything_else_raises(name):
    """A case that is guessed is a row nobody asked for."""
    with pytest.raises(ValueError, match="is no case"):
        parse_case(name)


def rounds_of(*cpu):
    """Return rounds as a run makes them, with these figures of CPU."""
    latency = {"p50": 10e3, "p99": 20e3}
    return [
        {
            "rate": 1000.0,
            "latency_ns": latency,
            "server": {"us_per_message": cost, "busy": 0.5, "rss_bytes": MIB},
            "client": {"client_bound": False},
        }
        for cost in cpu
    ]


def test_report_names_the_rows_that_are_lost():
    """A table that leaves it to the reader to find the lost rows is advertising."""
    case = parse_case("c100p1s64")
    results = {
        "c": rounds_of(4.0, 8.0, 4.0, 4.0),
        "evloop-function": rounds_of(8.0, 16.0, 8.0, 8.0),
        "evloop-batch": rounds_of(4.0, 8.0, 4.2, 4.2),
        "evloop-pure": "FAILED: exit 7: wrong byte",
        "uvloop-protocol": rounds_of(4.1, 6.0, 4.1, 4.1),
    }
    lost = peers_report.losses(case, results)
    assert lost == [
        "c100p1s64: evloop-pure FAILED: exit 7: wrong byte",
        "c100p1s64: evloop-function costs more than c 2.00x (aim 1.05x), uvloop-protocol 1.95x",
    ]
    lines = peers_report.table(case, results).splitlines()
    assert max(len(line) for line in lines) <= 120
    assert [line.split()[0] for line in lines[2:]] == [
        "c", "uvloop-protocol", "evloop-batch", "evloop-function", "evloop-pure",
    ]  # fmt: skip
    rows = {line.split()[0]: line for line in lines[2:]}
    assert "2.00   2.00..2.00" in rows["evloop-function"]
    assert "= 1.02   1.00..1.05" in rows["evloop-batch"]


def test_report_ratios_are_to_the_baseline_that_was_chosen():
    """Who replaces uvloop asks what is won against it, and not against C."""
    case = parse_case("c100p1s64")
    results = {"c": rounds_of(4.0, 4.0), "uvloop-protocol": rounds_of(8.0, 8.0), "evloop-batch": "FAILED: exit 5"}
    text = peers_report.table(case, results, "uvloop-protocol")
    assert "x uvloop-pro" in text and "0.50   0.50..0.50" in text
    assert "x c " in peers_report.table(case, results, "evloop-batch")  # one that failed is no base
    assert "x c " in peers_report.table(case, results, "c-raw")  # nor one of other cases


def test_report_row_whose_load_was_the_bottleneck_says_at_least():
    """A rate that is the generator's own says nothing about the server but that it can do more."""
    results = {"c": rounds_of(4.0, 4.0)}
    assert ">=" not in peers_report.table(parse_case("c1p1s1"), results)
    results["c"][1]["client"]["client_bound"] = True
    assert ">= 1,000" in peers_report.table(parse_case("c1p1s1"), results)


@pytest.mark.parametrize(
    ("cost", "lost"),
    [
        (9.5, []),
        (9.6, ["raw-c100s64: evloop-aio-raw costs more than the aim (0.960x uvloop-raw+malloc, aim 0.95x)"]),
        (15.0, ["raw-c100s64: evloop-aio-raw costs more than the aim (1.500x uvloop-raw+malloc, aim 0.95x), "
                "the aim (1.154x aiofastnet-raw, aim 0.95x), uvloop-raw+malloc 1.50x, aiofastnet-raw 1.15x"]),
    ],
)  # fmt: skip
def test_report_holds_a_loop_against_the_better_row_of_the_same_program(cost, lost):
    """Beating a loop by the malloc it was given, or another program by asking for less, would be no news."""
    results = {
        "c-raw": rounds_of(1.0, 1.0), "evloop-aio-raw": rounds_of(cost, cost), "uvloop-raw": rounds_of(40.0, 40.0),
        "uvloop-raw+malloc": rounds_of(10.0, 10.0), "aiofastnet-raw": rounds_of(13.0, 13.0),
        "asyncio-raw": "FAILED: exit 5",
    }  # fmt: skip
    assert peers_report.losses(parse_case("raw-c100s64"), results) == lost
    framed = {"c": rounds_of(1.0), "evloop-aio-streams": rounds_of(9.0, 9.0), "uvloop-protocol": rounds_of(4.0, 4.0)}
    assert peers_report.losses(parse_case("c100p1s64"), framed) == []


@pytest.mark.parametrize(("cost", "lost"), [(1023, False), (1024, False), (1025, True)])
def test_report_names_an_idle_connection_above_its_aim(cost, lost):
    """1 KiB an idle connection is a promise; the report has to say when it is broken."""
    runs = [{"bytes_per_connection": float(cost), "server": {"rss_bytes": MIB}}]
    said = ["idle: evloop-batch costs more than the aim (1,025 bytes, aim 1,024)"]
    assert peers_report.losses(parse_case("idle"), {"evloop-batch": runs, "evloop-coroutine": runs}) == said * lost


def test_report_missing_rivals_have_their_pip_line():
    """A rival that is absent in silence looks beaten."""
    line = peers_report.install_line([RIVALS["c"], Rival("absent-one", "x.py", ("no_such_module_here",))])
    assert line == "not installed, so not measured: absent-one; pip install no_such_module_here"


@pytest.mark.slow
def test_peers_runs_cases_with_what_fits_them_and_writes_json(programs, tmp_path, monkeypatch, capsys):
    """The command is what people run; all its parts have to fit, and a raw server would wait for ever for a frame."""
    monkeypatch.setattr(peers_run, "prepare", lambda: programs)
    path = tmp_path / "out.json"
    what = ["--cases", "c2p2s16,raw-c2s16", "--peers", "evloop-batch,evloop-aio-raw", "--rounds", "3"]
    assert evloop_command(["bench", "peers", *what, "-d", "100ms", "--json", str(path)]) == 0
    document = json.loads(path.read_text())
    jsonschema.validate(document, json.loads(records.SCHEMA_FILE.read_text()))
    found = records.by_case(records.read(path))
    assert {name: len(runs) for name, runs in found["c2p2s16"].items()} == {"c": 2, "evloop-batch": 2}
    assert {name: len(runs) for name, runs in found["raw-c2s16"].items()} == {"c-raw": 2, "evloop-aio-raw": 2}
    said = capsys.readouterr().out
    assert "evloop:" in said
    assert max(len(line) for line in said.splitlines()) <= 120
    assert "rows that evloop loses:" in said


@pytest.mark.slow
def test_peers_server_that_fails_is_named_and_the_command_exits_1(programs, tmp_path, monkeypatch, capsys):
    """A comparison in which somebody is missing must not look complete to a script."""
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no luck today')")
    monkeypatch.setattr(peers_run, "prepare", lambda: programs)
    monkeypatch.setitem(RIVALS, "evloop-batch", Rival("evloop-batch", str(broken)))
    what = ["--cases", "c1p1s1", "--peers", "evloop-batch", "--rounds", "2", "-d", "100ms"]
    assert evloop_command(["bench", "peers", *what]) == 1
    out, err = capsys.readouterr()
    assert "evloop-batch did not start: no luck today" in out
    assert err == "evloop: bench peers: 1 of 2 rows failed; each says why in its table\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--cases", "c1"], "'c1' is no case"),
        (["--peers", "nobody"], "no rival nobody; there are c, "),
        (["--baseline", "nobody"], "no rival nobody; there are c, "),
        (["--rounds", "1"], "--rounds: 1 is not in the range x>=2"),
        (["--duration", "0"], "0 s is not within 0.1..3600 s"),
        (["--duration", "x"], "-d: bad duration 'x'"),
    ],
    ids=str,
)
def test_peers_wrong_arguments_exit_2(arguments, text, capfd):
    """A typing error must not cost an hour of the wrong measurement."""
    assert evloop_command(["bench", "peers", *arguments]) == 2
    assert text in capfd.readouterr().err


def test_peers_list_names_what_is_not_installed(monkeypatch, capsys):
    """Whoever plans an hour of measuring wants to know before what will be missing."""
    monkeypatch.setitem(RIVALS, "absent", Rival("absent", "x.py", ("no_such_module_here",)))
    assert evloop_command(["bench", "peers", "--list"]) == 0
    assert "not installed: pip install no_such_module_here" in capsys.readouterr().out
