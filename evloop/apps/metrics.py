"""A server's counters in Prometheus' text format: collected when somebody asks, from plain ints that are kept anyway.

Names follow Prometheus' rules: a prefix, base units, ``_total`` for what only grows.  No peer's address is a label:
each would be a time series for ever.

Rule: nothing in this file may count; whoever counts may not import it.  Read next: ``admin.py``, which serves it.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import evloop
from evloop.apps.families import Families, Family, by_label, ending, plain
from evloop.apps.lag import BUCKETS, LoopLag

# What a peer has broken, and what it did not take, by CloseReason.
_PROTOCOL_ERRORS = ("protocol", "frame_too_large", "truncated", "tls")
_SLOW = {"slow_consumer": "output", "write_timeout": "write_timeout", "overload": "max_buffered"}


class Exposition:
    """Everything that ``/metrics`` has, of one server on its reactor.

    Args:
        server: whose counters.
        lag: of its reactor.
        families: the application's own, asked for each time.

    The registry is its own: two servers in a process have two.  Asking costs about a microsecond a connection.
    Reactor thread only.
    """

    def __init__(self, server: evloop.Server, lag: LoopLag, families: Families) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_ServerCollector(server, lag, families))

    def encode(self, accept: str) -> tuple[bytes, str]:
        """Return the body and its content type, in the format that *accept*, a request's header, asks for."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type


class _ServerCollector(Collector):
    def __init__(self, server: evloop.Server, lag: LoopLag, families: Families) -> None:
        self._server = server
        self._lag = lag
        self._reactor = lag.reactor
        self._families = families

    def collect(self) -> Iterator[Metric]:
        server, stats = self._server, self._server.stats()
        yield from map(_metric, _connections(server, stats))
        yield from map(_metric, _traffic(stats))
        yield from map(_metric, _loop(server, self._lag, self._reactor))
        yield _lag_histogram(self._lag)
        yield from map(_metric, _process())
        yield from map(_metric, self._families())


def _metric(family: Family) -> Metric:
    """Return *family* as the library has it."""
    samples = list(family.samples)
    names = list(samples[0][0]) if samples else []
    kind = CounterMetricFamily if family.name.endswith("_total") else GaugeMetricFamily
    metric: CounterMetricFamily | GaugeMetricFamily = kind(family.name, family.help, labels=names)
    for labels, value in samples:
        metric.add_metric([labels[name] for name in names], value)
    return metric


def _connections(server: evloop.Server, stats: Mapping[str, int]) -> Iterator[Family]:
    states = {"open": 0, "flushing": 0, "lingering": 0, **Counter(conn.state for conn in server.connections)}
    yield by_label("state", "evloop_connections", "Connections now, by where they are in their life.", states.items())
    yield plain("evloop_connections_accepted_total", "Connections accepted.", stats["accepted"])
    closed = ending(stats, "closed_")
    yield by_label("reason", "evloop_connections_closed_total", "Connections that ended, by CloseReason.", closed)
    refused = ending(stats, "refused_")
    yield by_label("reason", "evloop_connections_rejected_total", "Connections closed as they were accepted.", refused)
    errors = ending(stats, "accept_errors_")
    yield by_label("errno", "evloop_accept_errors_total", "Failures of accept(2), by errno.", errors)
    paused = "1 while a listener rests for want of descriptors or memory."
    yield plain("evloop_accept_paused", paused, stats["accept_paused"])
    queue = server.listen_queue
    if queue is not None:
        waiting = "Connections that wait for accept(2), in the fullest queue."
        yield plain("evloop_listen_queue_length", waiting, queue[0])
        yield plain("evloop_listen_queue_limit", "As many as may wait there.", queue[1])
    broken = [(kind, stats.get(f"closed_{kind}", 0)) for kind in _PROTOCOL_ERRORS]
    yield by_label("kind", "evloop_protocol_errors_total", "Connections closed for what the peer sent.", broken)
    slow = [(limit, stats.get(f"closed_{reason}", 0)) for reason, limit in _SLOW.items()]
    yield by_label("limit", "evloop_slow_consumer_total", "Connections closed for what they did not take.", slow)
    tls = stats["handshake_errors"]
    yield plain("evloop_tls_handshake_errors_total", "Connections that ended before TLS was established.", tls)
    raised = stats.get("closed_handler", 0)
    yield plain("evloop_callback_errors_total", "Connections closed because a callback raised.", raised)


def _traffic(stats: Mapping[str, int]) -> Iterator[Family]:
    for what in ("received_bytes", "sent_bytes", "frames_received", "frames_sent"):
        unit = "Bytes" if what.endswith("bytes") else "Frames"
        yield plain(f"evloop_{what}_total", f"{unit} {what.replace('_bytes', '').split('_')[-1]}.", stats[what])
    output = stats["buffered_output"]
    held = [("out", output), ("in", stats["buffered_bytes"] - output)]
    yield by_label(
        "dir", "evloop_buffered_bytes", "Bytes that connections hold: output, and frames not delivered.", held
    )
    paused = "Connections of which nothing is delivered now."
    yield plain("evloop_reads_paused", paused, stats["reads_paused"])


def _loop(server: evloop.Server, lag: LoopLag, reactor: evloop.Reactor) -> Iterator[Family]:
    turned = reactor.stats()
    facts = {
        "version": evloop.__version__,
        "implementation": str(turned["implementation"]),
        "python": platform.python_version(),
    }
    yield Family("evloop_build_info", "1, with what runs as labels.", [(facts, 1)])
    yield plain("evloop_draining", "1 from the signal to stop on.", int(server.closing))
    yield plain("evloop_loop_busy_ratio", "Part of the last minute that the loop's thread was on a CPU.", lag.busy)
    yield plain("evloop_loop_turns_total", "Turns of the loop.", turned["turns"])
    yield plain("evloop_stale_events_total", "Events of connections that had ended by then.", turned["stale"])


def _lag_histogram(lag: LoopLag) -> Metric:
    buckets, seen = [], 0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), lag.counts, strict=True):
        seen += count
        buckets.append((bound, float(seen)))
    text = "How late the loop ran a timer, looked at every 0.1 s."
    return HistogramMetricFamily("evloop_loop_lag_seconds", text, buckets=buckets, sum_value=lag.total)


def _process() -> Iterator[Family]:
    """Return what the kernel knows of this process, by the names that Prometheus' clients agree on.

    Their own collector lists /proc/self/fd, which takes as long for a thousand connections as all the rest.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield plain("process_cpu_seconds_total", "CPU time, of the user and of the kernel.", used.ru_utime + used.ru_stime)
    with open("/proc/self/statm", "rb") as file:
        virtual, resident, *_ = (int(pages) * resource.getpagesize() for pages in file.read().split())
    yield plain("process_virtual_memory_bytes", "Address space.", virtual)
    yield plain("process_resident_memory_bytes", "Memory.", resident)
    # Since Linux 6.2 the size of the directory is the number of its entries; it was 0 before.
    opened = os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
    yield plain("process_open_fds", "Open file descriptors.", opened)
    yield plain("process_max_fds", "As many as may be open.", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield plain("process_start_time_seconds", "When it started, in seconds since 1970.", _started())


def _started() -> float:
    """Return when this process started; a start is so many ticks after the machine's (proc(5))."""
    with open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])  # the name before it may hold anything
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
