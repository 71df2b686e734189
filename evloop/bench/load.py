"""One load: the engine runs in a thread of its own, without the GIL; this one watches, samples and puts together.

Rule: nothing in this file prints.  Read next: ``_load.h`` (the engine), ``load_report.py``.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from evloop.bench import load_process
from evloop.bench._load import Histogram, Load, LoadFailed
from evloop.bench.load_options import LoadOptions, case_name, frames, resolve
from evloop.bench.records import Round

# Above that share of its core, waiting for it included, the generator may have been what was measured; and above that
# lag it did not follow its plan.
BUSY = 0.85
LATE = 1_000_000  # ns, of the 99th percentile

# Seconds between two looks at the engine: phases are noticed within that, and a look costs microseconds.
_LOOK = 0.05

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)

# Connections with which an idle server's memory is first read, so that what it sets up once is not taken for the cost
# of one.
_FEW = 100

# Descriptors beside the connections: the standard streams, epoll, files that are written; and what we do not know.
_OTHER_FILES = 64

__all__ = ["BUSY", "LATE", "PERCENTILES", "Histogram", "LoadFailed", "Outcome", "Progress", "run"]


class Progress(NamedTuple):
    """How far a load is."""

    phase: str  # connecting, warming up, measuring, draining, ended
    connections: int
    messages: int  # that count
    seconds: float  # since the measuring began
    rate: float  # messages a second: of the last whole second, or since the begin


class Outcome(NamedTuple):
    """What a load has found."""

    case: str
    round: Round  # as schema.json has it
    histograms: dict[str, Histogram]  # service, response, lag, completion
    interrupted: bool

    def main(self, options: LoadOptions) -> Histogram:
        """Return the histogram of the round's ``latency_ns``."""
        return self.histograms["response" if options.is_open else "service"]


class _Samples:
    """What is taken while the engine runs: messages by the second, and the server's memory and switches."""

    def __init__(self, options: LoadOptions) -> None:
        self._pids = options.server_pids
        self.bins: list[float] = []
        self.rss: int | None = None
        self.switches_per_message: float | None = None
        self._first: tuple[int, int] | None = None
        self._began = self._edge = self._last = 0.0
        self._messages = 0

    def look(self, phase: str, messages: int, connections: int) -> Progress:
        """Take what is due; return how far the load is."""
        now = time.monotonic()
        if phase != "measuring":
            return Progress(phase, connections, messages, self._last - self._began, self.bins[-1] if self.bins else 0.0)
        if self._first is None:
            self._first = (load_process.context_switches(self._pids), messages)
            self._began = self._edge = now
            self._messages = messages
        self._last = now
        if now - self._edge >= 1:
            self.bins.append((messages - self._messages) / (now - self._edge))
            self._edge, self._messages = now, messages
            self._sample(messages)
        rate = (messages - self._first[1]) / (now - self._began) if now - self._began > _LOOK else 0.0
        return Progress(phase, connections, messages, now - self._began, self.bins[-1] if self.bins else rate)

    def _sample(self, messages: int) -> None:
        """Read the server's memory with its connections open, and what its switches have come to."""
        if self._pids:
            self.rss = load_process.resident(self._pids)
        if self._pids and self._first is not None and messages > self._first[1]:
            switches = load_process.context_switches(self._pids) - self._first[0]
            self.switches_per_message = switches / (messages - self._first[1])

    def end(self, messages: int) -> None:
        """Take the last sample, before the connections are closed."""
        self._sample(messages)


class _Engine(threading.Thread):
    """The thread that runs the phases of a load, and keeps what ended it."""

    def __init__(self, load: Load, options: LoadOptions) -> None:
        super().__init__(name="load", daemon=True)
        self._load, self._options = load, options
        self.failure: BaseException | None = None
        self.ended = threading.Event()
        self.idle: dict[str, float] = {}

    def run(self) -> None:
        try:
            if self._options.pattern == "idle":
                self._hold()
            else:
                if self._options.pattern != "connect":
                    self._load.establish(self._options.all_connections)
                self._load.measure()
        except BaseException as exc:
            self.failure = exc
        finally:
            self.ended.set()

    def _hold(self) -> None:
        """Open a few connections, then the rest, hold them, and ask each again; memory is read at each step."""
        pids, few = self._options.server_pids, min(_FEW, self._options.connections)
        sizes = []
        for count in (few, self._options.connections):
            self._load.establish(count)
            sizes.append(load_process.resident(pids) if pids else None)
        before, after = sizes
        if before is not None and after is not None and self._options.connections > few:
            self.idle["bytes_per_connection"] = (after - before) / (self._options.connections - few)
        self._load.hold(self._options.duration)
        self._load.ask()


def run(options: LoadOptions, watch: Callable[[Progress], None] | None = None) -> Outcome:
    """Run a load; call *watch* twenty times a second meanwhile.  Ctrl-C ends it, and what was measured is returned.

    Raises:
        LoadFailed: it could not go on; see there for the codes.
        OSError: the address has a name that cannot be found.
    """
    _raise_fd_limit(options.all_connections)
    family, address = resolve(options.address)
    load = Load(
        pattern=options.pattern,
        frames=frames(options),
        family=family,
        address=address,
        connections=options.connections,
        in_flight=options.in_flight,
        publishers=options.publishers if options.pattern == "fanout" else 0,
        rate=options.rate,
        poisson=options.poisson,
        seed=options.seed,
        warmup=options.warmup,
        duration=options.duration,
        count=options.count,
        timeout=options.timeout,
        check=options.check,
        server_pids=options.server_pids,
    )
    engine, samples = _Engine(load, options), _Samples(options)
    engine.start()
    interrupted = False
    try:
        while not engine.ended.wait(_LOOK):
            progress = samples.look(*load.progress())
            if watch is not None:
                watch(progress)
        samples.end(load.progress()[1])
    except KeyboardInterrupt:
        interrupted = True
    finally:
        load.stop()
        engine.join()
        found = load.figures()
        load.close()
    if engine.failure is not None:
        raise engine.failure
    return Outcome(case_name(options), _round(options, found, samples, engine.idle), _histograms(found), interrupted)


def _raise_fd_limit(connections: int) -> None:
    """Let this process hold so many *connections*, or as many as the machine allows; the engine says if one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _OTHER_FILES
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))


def _histograms(found: dict[str, Any]) -> dict[str, Histogram]:
    return {name: value for name, value in found.items() if isinstance(value, Histogram)}


def _round(options: LoadOptions, found: dict[str, Any], samples: _Samples, idle: dict[str, float]) -> Round:
    """Return the figures as the schema has them."""
    seconds, messages = found["seconds"], found["messages"]
    if not seconds:
        return {"messages": 0, "errors": {}}
    made: Round = {
        "messages": messages, "seconds": seconds, "rate": messages / seconds, "bytes": found["bytes"], "errors": {},
        "clock": "plan" if options.is_open else "send",
    }  # fmt: skip
    main = found["response" if options.is_open else "service"]
    if main.count:
        made |= {"latency_ns": latency(main), "hist": [list(pair) for pair in main.pairs()]}
    if options.is_open and found["service"].count:
        made["service_ns"] = latency(found["service"])
    if found["completion"].count:
        made |= {"completion_ns": latency(found["completion"]), "broadcasts": found["completion"].count}
    if samples.bins:
        made["bins"] = [round(rate) for rate in samples.bins]
    if options.server_pids:
        made["server"] = _server(options, found, samples)
    made["client"] = _client(options, found)
    return made | idle


def latency(histogram: Histogram) -> dict[str, float]:
    """Return the schema's latencies, in ns."""
    shares = {f"p{percent:g}": histogram.percentile(percent) for percent in PERCENTILES}
    return {"min": histogram.least, "mean": round(histogram.mean, 1), **shares, "max": histogram.most}


def _server(options: LoadOptions, found: dict[str, Any], samples: _Samples) -> dict[str, Any]:
    cpu, messages = found["server_cpu"], found["messages"]
    return {
        "pid": options.server_pids[0], "cpu_s": cpu or 0.0,
        "us_per_message": None if cpu is None or not messages else cpu * 1e6 / messages,
        "busy": None if cpu is None else cpu / found["seconds"],
        "rss_bytes": samples.rss,
        "context_switches_per_message": samples.switches_per_message,
    }  # fmt: skip


def _client(options: LoadOptions, found: dict[str, Any]) -> dict[str, Any]:
    seconds, lag = found["seconds"], found["lag"].percentile(99)
    busy, waiting = found["client_cpu"] / seconds, found["client_wait"] / seconds
    made = {
        "us_per_message": found["client_cpu"] * 1e6 / found["messages"] if found["messages"] else None,
        "busy": busy,
        "waiting": waiting,
        "client_bound": busy + waiting > BUSY or lag > LATE,
    }
    if options.is_open:
        made |= {"lag_p99_ns": lag, "unsent": found["unsent"], "unanswered": found["unanswered"]}
    return made


def pin(cores: tuple[int, ...], server_pids: tuple[int, ...]) -> None:
    """Pin this process to the last of *cores*, and with two the servers to the first.  OSError: see load_process."""
    if len(cores) > 1:
        for pid in server_pids:
            load_process.pin(pid, cores[0])
    os.sched_setaffinity(0, {cores[-1]})
