"""One run: a server on one core, the load on another, and what the load, the clocks and /proc say.

Rule: nothing in this file prints, compares or knows a rival by name.  Read next: ``load.c``, ``peers.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from evloop.bench import native
from evloop.bench.records import Round
from evloop.bench.rivals import Rival

PACKAGE_PARENT = str(pathlib.Path(__file__).parents[2])

# Seconds from the start of a server to its LISTENING line: an import of everything from a cold disk takes about 2.
START_TIMEOUT = 30.0

# The share of its core above which the load could not have asked for more: the rate is then its own.
CLIENT_BOUND = 0.85

# Seconds that a load may take beside those that it measures: 19,000 connections to a slow server on a busy machine.
GRACE = 120.0

_PERCENTILES = {"p50": "p50", "p99": "p99", "p999": "p99.9", "max": "max"}

# What would change the servers behind the table's back.
UNWANTED = (
    "EVLOOP_PURE", "GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_", "PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONMALLOC",
    "PYTHONTRACEMALLOC", "PYTHONWARNINGS",
)  # fmt: skip


class Case(NamedTuple):
    """What the load does."""

    name: str
    mode: str  # echo, accept, idle, hold
    connections: int
    pipeline: int = 1
    size: int = 64
    raw: bool = False  # messages without a length, one in flight


class RunFailed(Exception):
    """A server did not start or a load did not end well; the message says which and why."""


class Programs(NamedTuple):
    """The compiled programs, and the two cores; None: not pinned."""

    floor: pathlib.Path
    load: pathlib.Path
    server_core: int | None
    load_core: int | None


def prepare() -> Programs:
    """Compile what is needed and choose the cores; raises as native.build does."""
    cores = sorted(os.sched_getaffinity(0))
    server_core, load_core = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    return Programs(native.build(native.FLOOR), native.build(native.LOAD), server_core, load_core)


def parse_case(name: str) -> Case:
    """Return the case that a name such as ``c100p16s64``, ``raw-c1s100k``, ``accept``, ``idle`` or ``hold`` stands for.

    Raises:
        ValueError: it is no such name.
    """
    if name == "accept":
        return Case(name, "accept", 64)
    if held := re.fullmatch(r"idle(?:-c(\d{4,6}))?", name):  # from 1,000 on pages are small beside what they hold
        return Case(name, "idle", int(held[1] or 10_000))
    if name == "hold":  # under the 20,000 descriptors that a process may have on many machines
        return Case(name, "hold", 19_000)
    # Raw messages have no edges: the next one is sent when all of the last has come back.
    found = re.fullmatch(r"(raw-)?c(\d{1,6})(?(1)|p(\d{1,5}))s(\d{1,8})([km]?)", name)
    if not found:
        raise ValueError(
            f"{name!r} is no case: cNpNsN (connections, in flight, payload bytes; k and m), raw-cNsN, accept, idle, "
            "idle-cN or hold"
        )
    connections, pipeline, size = (int(found[i] or 1) for i in (2, 3, 4))
    if found[1] and not size:
        raise ValueError(f"{name!r} is no case: a raw message has at least one byte")
    return Case(name, "echo", connections, pipeline, size << {"": 0, "k": 10, "m": 20}[found[5]], found[1] is not None)


def environment(rival: Rival) -> dict[str, str]:
    """Return the environment of a server: the common one, cleaned, with this evloop first on the path."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(UNWANTED)}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [PACKAGE_PARENT, env.get("PYTHONPATH")]))
    return env | rival.environment


@contextlib.contextmanager
def serving(rival: Rival, programs: Programs) -> Iterator[tuple[int, str]]:
    """Run a server, pinned; yield its process id and HOST:PORT; kill it at the end."""
    command = [str(programs.floor)] if rival.path.suffix == ".c" else [sys.executable, str(rival.path)]
    command += rival.arguments
    with (
        tempfile.TemporaryFile() as errors,
        tempfile.TemporaryDirectory() as empty,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment(rival), cwd=empty) as server,
    ):
        try:
            _pin(server.pid, programs.server_core)
            assert server.stdout is not None
            line = read_line(server.stdout, START_TIMEOUT)
            if not line.startswith("LISTENING tcp "):
                server.kill()
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise RunFailed(f"{rival.name} did not start: {said or repr(line)}")
            yield server.pid, line.split()[2]
        finally:
            server.kill()


def read_line(stream: IO[bytes], timeout: float) -> str:
    """Return the first line of an unread pipe, "" at its end; RunFailed if none comes within *timeout* seconds."""
    deadline = time.monotonic() + timeout
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([stream], [], [], left)[0]:
            raise RunFailed(f"no line within {timeout:g} s, but {line!r}")
        byte = os.read(stream.fileno(), 1)  # byte by byte: what follows the line stays in the pipe
        if not byte:
            break
        line += byte
    return line.decode().strip()


def run(case: Case, rival: Rival, programs: Programs, seconds: float) -> Round:
    """Run *rival* in *case* for *seconds*; return the round, as ``schema.json`` has it.

    For an idle case it has the resident memory before, and ``bytes_per_connection``; for one that holds connections,
    the figures of a witness beside them.

    Raises:
        RunFailed: the server did not start, or the load ended with an error.
    """
    with serving(rival, programs) as (pid, address):
        command = [str(programs.load), "-c", str(case.connections), "-P", str(case.pipeline), "-s", str(case.size)]
        command += ["--raw"] * case.raw
        measure = ["-d", str(seconds), "-w", str(seconds / 4), "-p", str(pid)]
        if case.mode in ("idle", "hold"):
            witness = [str(programs.load), *measure, address] if case.mode == "hold" else None
            return _hold_idle([*command, "--idle", address], pid, programs, case.connections, witness, seconds)
        command += measure
        command += ["--connect-rate"] * (case.mode == "accept")
        return _drive([*command, address], pid, programs, seconds)


def _drive(command: list[str], pid: int, programs: Programs, seconds: float) -> Round:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
        try:
            _pin(load.pid, programs.load_core)
            try:
                # In the middle, with the connections open; one small read of /proc disturbs nobody.
                out, err = load.communicate(timeout=seconds * 0.75)
                rss = 0
            except subprocess.TimeoutExpired:
                rss = _resident(pid, "status", "VmRSS")
                out, err = load.communicate(timeout=seconds + GRACE)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"not done {GRACE:g} s after its time") from None
        finally:
            load.kill()
    if load.returncode:
        raise RunFailed(f"exit {load.returncode}: {err.strip()}")
    return _round(json.loads(out), rss)


def _round(said: dict[str, Any], rss: int) -> Round:
    """Return what ``load.c`` has printed as the schema's round."""
    latency = {_PERCENTILES[key]: value * 1e3 for key, value in said["latency_us"].items()}
    return {
        "messages": said["messages"],
        "seconds": said["seconds"],
        "rate": said["messages_per_second"],
        "clock": "send",
        "latency_ns": latency,
        "curve": [[share, round(value * 1e3)] for share, value in said["latency_curve_us"]],
        "server": {"us_per_message": said["server_cpu_us"], "busy": said["server_busy"], "rss_bytes": rss},
        "client": {
            "us_per_message": said["load_cpu_us"],
            "busy": said["load_busy"],
            "client_bound": said["load_busy"] > CLIENT_BOUND,
        },
    }


def _hold_idle(
    command: list[str], pid: int, programs: Programs, connections: int, witness: list[str] | None, seconds: float
) -> Round:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as load:
        try:
            _pin(load.pid, programs.load_core)
            assert load.stdin and load.stdout and load.stderr
            steps = []
            for _ in range(2):
                line = read_line(load.stdout, GRACE)
                if not line:
                    said = load.stderr.read().decode().strip()  # to its end: it has ended
                    raise RunFailed(f"exit {load.wait()}: {said}")
                # smaps_rollup walks the page tables: exact, where VmRSS may lag by some hundred KiB.
                steps.append((json.loads(line)["connections"], _resident(pid, "smaps_rollup", "Rss")))
                if witness and steps[-1][0] == connections:
                    return _drive(witness, pid, programs, seconds)
                with contextlib.suppress(BrokenPipeError):  # it has failed; the next line that it does not say tells
                    os.write(load.stdin.fileno(), b"\n")
        finally:
            load.kill()
    (few, before), (_, after) = steps
    return {"server": {"rss_bytes": before}, "bytes_per_connection": (after - before) / max(connections - few, 1)}


def _resident(pid: int, name: str, field: str) -> int:
    """Return a resident size that /proc tells, in bytes; 0 if it does not."""
    try:
        text = pathlib.Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.M)
    return int(found[1]) * 1024 if found else 0


def _pin(pid: int, core: int | None) -> None:
    if core is not None:
        with contextlib.suppress(ProcessLookupError):  # it has ended already; who reads its output will tell
            os.sched_setaffinity(pid, {core})
