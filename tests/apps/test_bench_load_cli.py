"""``evloop bench load`` as people run it: what it prints, the files it writes, and its exit codes."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys

import jsonschema
import pytest
from loadpeers import LoadPeer, answering, echo, frame
from programs import Program, Served, run_program

from evloop.bench import native, records
from evloop.bench.rivals import HERE
from evloop.cli import bench_load
from evloop.cli.program import run

pytest.importorskip("evloop.bench._load", reason="the load generator is compiled, and this build is pure")
from evloop.bench.load_conditions import duration, parse_load_condition

SHORT = ["-n", "300", "-c", "3", "-P", "4", "-q"]


def load(capfd, *args):
    """Run the command in this process; return (exit code, stdout, stderr)."""
    code = run(["bench", "load", *args])
    said = capfd.readouterr()
    return code, said.out, said.err


def test_load_prints_a_screen_that_begins_with_the_kind_of_loop(capfd):
    """A closed loop's percentiles are not an open one's: a reader has to meet that word first."""
    with LoadPeer(answering(echo)) as peer:
        code, out, err = load(capfd, peer.address, *SHORT)
        opened = load(capfd, peer.address, *SHORT, "-R", "5k")[1]
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == f"closed loop    3 connections x 4 in flight, echo at {peer.address}, 64 B"
    assert re.match(
        r"  messages    300 in \d+\.\d\d s   [\d,]+/s   \d+\.\d MiB/s each way   length and number", lines[1]
    )
    assert re.match(r"  client      \d+\.\d{3} us of CPU a message, ", lines[2])
    assert lines[3].split() == ["min", "p50", "p90", "p99", "p99.9", "p99.99", "max"]
    assert lines[4].startswith("  service time, from send")
    assert opened.startswith("open loop    5,000 messages/s planned, constant, over 3 connections")
    assert "  response time, from plan" in opened
    assert "  service time, from send" in opened
    assert max(len(line) for line in (out + opened).splitlines()) <= 120


@pytest.mark.parametrize("extra", [[], ["-R", "5k", "--poisson"], ["--pattern", "connect", "-P", "1"]], ids=str)
def test_load_json_is_of_the_schema(capfd, tmp_path, extra):
    """Reports and comparisons read it: what they rely on is written down, and held."""
    path = tmp_path / "out.json"
    with LoadPeer(answering(echo)) as peer:
        assert load(capfd, peer.address, *SHORT, *extra, "--json", str(path), "--name", "echoes")[0] == 0
        code, out, _ = load(capfd, peer.address, *SHORT, *extra, "--json", "-")
    for found in (records.read(path), json.loads(out)):
        jsonschema.validate(found, json.loads(records.SCHEMA_FILE.read_text()))
        assert (code, found["tool"]) == (0, "load")
        assert found["results"][0]["rounds"][0]["messages"] == 300
    assert records.read(path)["results"][0]["name"] == "echoes"


def test_load_hgrm_is_what_the_plotter_reads(capfd, tmp_path):
    """The columns of HdrHistogram's own tools: value in ms, share, samples, and the axis."""
    path = tmp_path / "out.hgrm"
    with LoadPeer(answering(echo)) as peer:
        assert load(capfd, peer.address, *SHORT, "--hgrm", str(path))[0] == 0
    head, _, *rows = path.read_text().splitlines()
    assert head.split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
    figures = [tuple(map(float, row.split())) for row in rows if not row.startswith("#")]
    assert figures == sorted(figures)
    assert (figures[0][1], figures[-1][1:]) == (0.0, (1.0, 300.0, float("inf")))
    assert rows[-2].startswith("#[Max     =")
    assert "Total count    =          300]" in rows[-2]


def test_load_rounds_are_one_result_and_their_median(capfd, tmp_path):
    """`bench compare` has an interval only if there are rounds; a histogram file has the samples of all."""
    path, hgrm = tmp_path / "out.json", tmp_path / "out.hgrm"
    with LoadPeer(answering(echo)) as peer:
        what = ["--rounds", "3", "--json", str(path), "--hgrm", str(hgrm), "--fail-if", "p50<1ns"]
        code, out, _ = load(capfd, peer.address, *SHORT, *what)
    assert code == 0
    assert "round 3 of 3\n" in out
    assert re.search(r"^median, and range, of 3 rounds\n  a second +[\d,]+   [\d,]+\.\.[\d,]+$", out, re.M)
    (row,) = records.read(path)["results"]
    assert [found["messages"] for found in row["rounds"]] == [300, 300, 300]
    assert "Total count    =          900]" in hgrm.read_text()


@pytest.mark.parametrize(
    ("condition", "code"),
    [("p99>1ns", 9), ("p99>1m", 2), ("p99>1000s", 0), ("rate<1M", 9), ("rate<1", 0), ("cpu>1s", 9), ("p98>1ms", 2)],
)
def test_load_fail_if_is_exit_code_9(capfd, condition, code):
    """A pipeline fails by its exit code; a figure that was never taken must not pass for a good one."""
    with LoadPeer(answering(echo)) as peer:
        found, out, err = load(capfd, peer.address, *SHORT, "--fail-if", condition, "--fail-if", "max>1000s")
    assert found == code
    if code == 9:
        assert out.startswith("closed loop")
        assert err.startswith(f"evloop: --fail-if '{condition}'")


def test_load_names_what_is_wrong_on_one_line(capfd):
    """Each way to be wrong has its code: 7 wrong bytes, 5 gone, 4 stalled, 3 cannot connect."""
    with LoadPeer(answering(lambda k, p: frame(p[:-1] + b"?"))) as peer:
        code, _, err = load(capfd, peer.address, *SHORT, "--check", "full")
        assert (code, err.count("\n")) == (7, 1)
        assert err.startswith(f"evloop: bench load: {peer.address}: connection ")
        assert "wrong byte at byte 67 of 68" in err
    with LoadPeer(answering(lambda k, p: None)) as peer:
        assert load(capfd, peer.address, *SHORT)[0] == 5
    with LoadPeer(lambda peer, sock, stream: peer.wait(sock)) as peer:
        code, _, err = load(capfd, peer.address, *SHORT, "--timeout", "100ms")
        assert (code, "no byte for 0.1 s with 1 messages in flight" in err) == (4, True)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*sock.getsockname())
    code, _, err = load(capfd, address, *SHORT)
    assert (code, err.startswith(f"evloop: cannot connect to {address}: connection refused; ")) == (3, True)
    code, _, err = load(capfd, "unix:/nowhere/sock", *SHORT)
    assert (code, err.startswith("evloop: cannot connect to unix:/nowhere/sock: no such file")) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-s", "64:x"], "bad size '64:x'; write bytes, or sizes with shares"),
        (["-n", "1.5"], "bad count '1.5'; write a whole number"),
        (["--pin", "0,1"], "--pin of the server needs --server-pid"),
        (["--pin", "a"], "bad cores 'a'"),
        (["-c", "0"], "-c 0 is not within"),
        (["--framing", "u16be", "-s", "64K"], "-s 65536 exceeds the 65535 bytes of a frame"),
        (["--fail-if", "p99>>1"], "bad condition 'p99>>1'; write p99>2ms"),
    ],
    ids=str,
)
def test_load_wrong_options_exit_2_with_the_remedy(capfd, arguments, words):
    """A typing error must not cost ten seconds of the wrong measurement."""
    code, _, err = load(capfd, "9000", *arguments)
    assert code == 2
    assert words in err


def test_load_file_that_cannot_be_written_is_said_before_anything_is_measured(capfd):
    """Not after an hour of it."""
    code, _, err = load(capfd, "9000", "--json", "/nowhere/out.json")
    assert (code, "cannot write /nowhere/out.json: No such file or directory" in err) == (1, True)


@pytest.mark.slow
def test_load_against_a_server_of_ours_reads_its_costs(tmp_path):
    """The whole program as people type it, with plain lines for a pipe."""
    with Served("echo", ":0") as server:
        pid = str(server.process.pid)
        done = run_program("bench", "load", server.address, "-d", "300ms", "--warmup", "50ms", "--server-pid", pid)
    text = done.stdout.decode()
    assert done.returncode == 0, done.stderr
    assert re.search(rf"  server      \d+\.\d{{3}} us of CPU a message, .* MiB resident, .*pid {pid}", text)
    assert re.search(r"^  (warming up|measuring  0 of 0.3 s)", done.stderr.decode(), re.M)


@pytest.mark.slow
def test_load_told_the_pid_of_another_process_says_that_it_did_nothing():
    """The pid of a shell that has started the server is what people have at hand, and its cost is nothing."""
    with Served("echo", ":0") as server, subprocess.Popen(["sleep", "60"]) as other:
        pid = str(other.pid)
        done = run_program("bench", "load", server.address, "-d", "100ms", "--warmup", "10ms", "--server-pid", pid)
        other.kill()
    assert done.returncode == 0, done.stderr
    assert f"pid {pid} used no CPU: it may be what has started the server" in done.stdout.decode()


@pytest.mark.slow
def test_load_ctrl_c_prints_what_there_is_and_exits_130():
    """Whoever has seen enough still wants the figures."""
    with (
        Served("echo", ":0") as server,
        Program("bench", "load", server.address, "-d", "1h", "--warmup", "0s") as program,
    ):
        program.wait_for("err", b"measuring  1 of 3600 s")
        program.signal(signal.SIGINT)
        assert program.finish() == 130
    assert b"  service time, from send" in program.out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["asyncio_protocol.py", "twisted_int32.py", "epoll_echo.c"])
def test_load_works_against_any_framed_server(capfd, name):
    """It is not our generator for our servers: asyncio's, Twisted's Int32, and the floor in C speak the same frames."""
    if name == "twisted_int32.py":
        pytest.importorskip("twisted")
    path = HERE / name
    command = [str(native.build(path))] if path.suffix == ".c" else [sys.executable, str(path), "asyncio"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().split()[-1]
            assert load(capfd, address, "-n", "5k", "-c", "10", "-P", "16", "-q", "--check", "full")[0] == 0
        finally:
            server.kill()


GROUP = """
import evloop
room = evloop.Group()
class Member(evloop.Protocol):
    def connection_made(self, conn):
        self.conn = conn
        room.add(conn)
    def frame_received(self, frame):
        room.send(frame, exclude=self.conn)
evloop.serve(Member, "127.0.0.1:0", ready=lambda server: print(server.address, flush=True))
"""


@pytest.mark.slow
def test_load_fanout_through_a_group_of_ours(capfd):
    """A broadcast server in ten lines, and every subscriber has every message of two publishers once and in order."""
    with subprocess.Popen([sys.executable, "-c", GROUP], stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().strip()
            what = ["--pattern", "fanout", "--publishers", "2", "-c", "50", "-P", "8", "-n", "200", "--check", "full"]
            code, out, _ = load(capfd, address, *what, "-q")
        finally:
            server.kill()
    assert code == 0
    assert "  deliveries  10,000 in " in out
    assert "  to the last subscriber" in out


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("500", 500), ("10k", 10_000), ("1.5M", 1_500_000)])
def test_parse_count_units_are_thousands(text, value):
    """Messages are counted in tens, bytes in twos."""
    assert bench_load.parse_count(text) == value


@pytest.mark.parametrize("text", ["", "k", "-1", "1.5", "1g", "1e6", "0x10"])
def test_parse_count_anything_else_raises(text):
    """A count that is guessed is a run nobody asked for."""
    with pytest.raises(ValueError, match="bad count"):
        bench_load.parse_count(text)


def test_parse_sizes_of_a_mix():
    """The notation of the issue: 90 of 64 bytes to 10 of 4 KiB."""
    assert bench_load.parse_sizes("64:90,4K:10") == ((64, 90.0), (4096, 10.0))


@pytest.mark.parametrize(
    ("text", "bound"),
    [("p99>2ms", 2e6), ("rate<100k", 1e5), ("cpu > 3us", 3.0), ("rss>64MiB", 1 << 26), ("client>85%", 0.85)],
)
def test_parse_condition_has_units(text, bound):
    """A bound without its unit would be in whatever the file has."""
    assert parse_load_condition(text).bound == pytest.approx(bound)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0ns"),
        (999, "999ns"),
        (1000, "1.00us"),
        (412_300, "412us"),
        (9_996, "10.0us"),
        (99_960, "100us"),
        (2.05e9, "2.05s"),
    ],
)
def test_duration_has_three_digits(ns, text):
    """Columns of seven figures are read if each is short."""
    assert duration(ns) == text


def test_load_without_the_compiled_part_says_so_and_exits_1():
    """A build without a compiler has every other command; this one has to say what it lacks."""
    code = (
        "import sys; sys.modules['evloop.bench._load'] = None; from evloop.cli.program import run;"
        "sys.exit(run(['bench', 'load', '9000']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("evloop: bench load is compiled, and this build of evloop has no compiled parts; ")


def test_help_imports_none_of_what_the_command_needs():
    """--help costs what click costs; rich and the engine come when they are used."""
    code = (
        "import sys; from evloop.cli.program import run; run(['bench', 'load', '--help']);"
        "assert not {'rich', 'psutil', 'asyncio', 'evloop.bench._load'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
