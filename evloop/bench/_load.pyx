# cython: embedsignature=True
"""The load generator: a load is configured from Python, and then runs without it.

What it does is in the C headers beside this file; here its options are checked and copied, its phases are run without
the GIL, and what it has found is handed over.

Rule: nothing in this file may send, receive or measure.  Read next: ``_load.h``, ``load.py``.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

import os
import socket


cdef extern from "<arpa/inet.h>" nogil:
    ctypedef struct in_addr:
        pass
    ctypedef struct in6_addr:
        pass
    cdef struct sockaddr_in:
        unsigned short sin_family, sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        unsigned short sin6_family, sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    unsigned short htons(unsigned short port)

cdef extern from "<sys/un.h>" nogil:
    cdef struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]

cdef extern from "<time.h>" nogil:
    ctypedef int clockid_t
    int clock_getcpuclockid(int pid, clockid_t *clock)

cdef extern from "_load_run.h" nogil:
    enum: EVB_SLACK, EVB_CLASSES, EVB_SERVERS, EVB_HIST_SIZE, EVB_FAILED
    ctypedef struct evb_histogram:
        uint64_t count, least, most
        double sum
        uint64_t counts[1]
    ctypedef struct evb_class:
        uint32_t header, size, total
        uint64_t header_word, header_mask, number_mask, share
        uint8_t *sent
        uint8_t *expected
    struct sockaddr_storage:
        pass
    ctypedef struct evb_load:
        int pattern, check, poisson, code, reason, stop, epoll_fd
        uint32_t connections, publishers, in_flight, classes_count, servers
        evb_class classes[1]
        double rate, client_cpu, client_wait, server_cpu
        uint64_t seed, warmup, duration, count, timeout
        sockaddr_storage address
        unsigned int address_size
        clockid_t server_clocks[1]
        char error[1]
        uint64_t messages, finished, bytes, reads, unsent, unanswered, begin, end
        evb_histogram service, response, lag, completion
    int evb_prepare(evb_load *)
    int evb_establish(evb_load *, uint32_t)
    int evb_measure(evb_load *)
    int evb_hold(evb_load *, uint64_t)
    int evb_ask(evb_load *)
    void evb_release(evb_load *)
    void evb_peek(const evb_load *, int *, uint64_t *, uint32_t *)
    void evb_hist_merge(evb_histogram *, const evb_histogram *)
    uint64_t evb_hist_percentile(const evb_histogram *, double)
    uint64_t evb_hist_edge(uint32_t)

PATTERNS = ("echo", "upper", "sink", "source", "connect", "idle", "fanout")
CHECKS = ("length", "seq", "full")
PHASES = ("connecting", "warming up", "measuring", "draining", "ended")
MOST_CLASSES = EVB_CLASSES
MOST_SERVERS = EVB_SERVERS


class LoadFailed(Exception):
    """A load could not go on; *message* (str) says why on one line, *code* (int) is the exit code that stands for it.

    *reason* (int) is the errno of a connect that has failed, else 0.
    Codes: 1 failed here, 3 cannot connect, 4 stalled, 5 closed or reset by the server, 7 wrong bytes.
    """

    def __init__(self, message, code, reason=0):
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason


cdef class Histogram:
    """Durations in ns, as ``_histogram.h`` counts them; empty when it is made.

    Attributes:
        count: samples (int); least, most: the extremes in ns (int), 0 without samples; mean: ns (float).
    """

    cdef evb_histogram *_h

    def __cinit__(self):
        self._h = <evb_histogram *>calloc(1, sizeof(evb_histogram))
        if self._h == NULL:
            raise MemoryError
        self._h.least = <uint64_t>-1

    def __dealloc__(self):
        free(self._h)

    @property
    def count(self):
        return self._h.count

    @property
    def least(self):
        return self._h.least if self._h.count else 0

    @property
    def most(self):
        return self._h.most

    @property
    def mean(self):
        return self._h.sum / self._h.count if self._h.count else 0.0

    def add(self, Histogram other not None):
        """Count the samples of *other*, too."""
        evb_hist_merge(self._h, other._h)

    def percentile(self, double percent):
        """Return the ns (int) that *percent* (0..100) of the samples did not exceed; 0 without samples."""
        return evb_hist_percentile(self._h, percent / 100.0)

    def pairs(self):
        """Return (ns, samples) of each counter that is not empty, rising; ns is the counter's upper edge (ints)."""
        cdef uint32_t i
        return [(evb_hist_edge(i), self._h.counts[i]) for i in range(EVB_HIST_SIZE) if self._h.counts[i]]


cdef Histogram _copy(const evb_histogram *source):
    cdef Histogram made = Histogram.__new__(Histogram)
    memcpy(made._h, source, sizeof(evb_histogram))
    return made


cdef class Load:
    """One run of the generator.

    *frames* are up to MOST_CLASSES of ``(header, sent, expected, share)``: three bytes objects, of which *sent* and
    *expected* are payloads of one length, and how often the class is drawn among the others (float > 0).  *address* is
    what `socket.connect` takes for *family*, with a numeric host.  Times are in seconds; a *rate* of 0 is a closed
    loop, a *count* of 0 runs for *duration*.  The caller has checked the ranges.

    One thread runs the phases, in the order `establish`, then `measure`, or `hold` and `ask`; `stop` and `progress` may
    be called by another one meanwhile; `figures` and `close` after it.

    Raises:
        LoadFailed: no memory, no epoll, or a process of *server_pids* is not there.
    """

    cdef evb_load *_load

    def __cinit__(self):
        self._load = <evb_load *>calloc(1, sizeof(evb_load))
        if self._load == NULL:
            raise MemoryError
        self._load.epoll_fd = -1

    def __init__(
        self, *, pattern, frames, family, address, connections, in_flight, publishers, rate, poisson, seed, warmup,
        duration, count, timeout, check, server_pids,
    ):
        cdef evb_load *load = self._load
        if load.connections:
            raise RuntimeError("a load is made once")
        load.pattern = PATTERNS.index(pattern)
        load.check = CHECKS.index(check)
        load.poisson = bool(poisson)
        load.connections, load.in_flight, load.publishers = connections, in_flight, publishers
        load.rate, load.seed, load.count = rate, seed, count
        load.warmup, load.duration, load.timeout = round(warmup * 1e9), round(duration * 1e9), round(timeout * 1e9)
        self._set_address(family, address)
        self._set_frames(frames)
        for pid in server_pids:
            if clock_getcpuclockid(pid, &load.server_clocks[load.servers]):
                raise LoadFailed(f"there is no process {pid}; see --server-pid", EVB_FAILED)
            load.servers += 1
        self._check(evb_prepare(load))

    cdef _set_address(self, family, address):
        cdef sockaddr_in *v4 = <sockaddr_in *>&self._load.address
        cdef sockaddr_in6 *v6 = <sockaddr_in6 *>&self._load.address
        cdef sockaddr_un *local = <sockaddr_un *>&self._load.address
        cdef bytes packed
        if family == socket.AF_UNIX:
            packed = os.fsencode(address)
            if packed.startswith(b"@"):
                packed = b"\0" + packed[1:]
            if len(packed) > <Py_ssize_t>sizeof(local.sun_path) - 1:
                raise ValueError(f"a path of {len(packed)} bytes exceeds the 107 of a UNIX socket")
            local.sun_family = family
            memcpy(local.sun_path, PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed))
            # An abstract name ends where the size says, a path with its NUL (unix(7)).
            self._load.address_size = 2 + len(packed) + (not packed.startswith(b"\0"))
            return
        host, port = address[:2]
        packed = socket.inet_pton(family, host.partition("%")[0])
        if family == socket.AF_INET:
            v4.sin_family, v4.sin_port = family, htons(port)
            memcpy(&v4.sin_addr, PyBytes_AS_STRING(packed), 4)
            self._load.address_size = sizeof(sockaddr_in)
        else:
            v6.sin6_family, v6.sin6_port, v6.sin6_scope_id = family, htons(port), address[3]
            memcpy(&v6.sin6_addr, PyBytes_AS_STRING(packed), 16)
            self._load.address_size = sizeof(sockaddr_in6)

    cdef _set_frames(self, frames):
        cdef evb_class *made
        cdef double total = sum(share for _, _, _, share in frames), below = 0
        cdef size_t i
        for header, sent, expected, share in frames:
            made = &self._load.classes[self._load.classes_count]
            self._load.classes_count += 1
            below += share
            made.header, made.size, made.total = len(header), len(sent), len(header) + len(sent)
            made.share = <uint64_t>(below / total * 4294967296.0)
            made.number_mask = 0xffffffffffffffff if made.size >= 8 else (<uint64_t>1 << 8 * made.size) - 1
            for i in range(made.header if made.header < 8 else 8):
                (<uint8_t *>&made.header_word)[i] = header[i]
                (<uint8_t *>&made.header_mask)[i] = 0xff
            made.sent = _frame(header + sent)
            made.expected = _frame(header + expected)
        self._load.classes[self._load.classes_count - 1].share = <uint64_t>1 << 32

    def __dealloc__(self):
        if self._load != NULL:
            evb_release(self._load)
            free(self._load)

    cdef _check(self, int result):
        if result:
            raise LoadFailed(self._load.error.decode("utf-8", "replace"), self._load.code, self._load.reason)

    def establish(self, uint32_t upto):
        """Open connections until *upto* are there, each with a message there and back where the server answers."""
        cdef int result
        with nogil:
            result = evb_establish(self._load, upto)
        self._check(result)

    def measure(self):
        """Warm up, measure, and wait for what is in flight; LoadFailed as the class says."""
        cdef int result
        with nogil:
            result = evb_measure(self._load)
        self._check(result)

    def hold(self, double seconds):
        """Hold the silent connections for *seconds*."""
        cdef int result
        cdef uint64_t duration = <uint64_t>(seconds * 1e9)
        with nogil:
            result = evb_hold(self._load, duration)
        self._check(result)

    def ask(self):
        """Send one more message on each connection that was held, and measure the answers."""
        cdef int result
        with nogil:
            result = evb_ask(self._load)
        self._check(result)

    def stop(self):
        """End the phase that is running, as its time would; what was measured stays.  Any thread."""
        self._load.stop = 1

    def progress(self):
        """Return (phase, messages that count so far, connections established): str, int, int.  Any thread."""
        cdef int phase = 0
        cdef uint64_t messages = 0
        cdef uint32_t greeted = 0
        evb_peek(self._load, &phase, &messages, &greeted)
        return PHASES[phase], messages, greeted

    def figures(self):
        """Return what was found: a dict of numbers, and the histograms.

        ``seconds`` from the first to the last reading; ``messages``, ``bytes`` (payload, one way), ``finished``
        (broadcasts that reached all), ``reads`` (recv calls), ``unsent`` and ``unanswered`` (of the plan),
        ``client_cpu`` and ``client_wait`` (s: ran, and was ready without a core), ``server_cpu`` (s, None if not asked
        for); ``service`` (from the send), ``response`` and ``lag`` (from the plan), ``completion`` (last subscriber):
        `Histogram`.
        """
        cdef evb_load *load = self._load
        known = load.servers and load.server_cpu >= 0
        return {
            "seconds": (load.end - load.begin) / 1e9 if load.end > load.begin else 0.0,
            "messages": load.messages, "finished": load.finished, "bytes": load.bytes, "reads": load.reads,
            "unsent": load.unsent, "unanswered": load.unanswered,
            "client_cpu": load.client_cpu, "client_wait": load.client_wait,
            "server_cpu": load.server_cpu if known else None,
            "service": _copy(&load.service), "response": _copy(&load.response), "lag": _copy(&load.lag),
            "completion": _copy(&load.completion),
        }

    def close(self):
        """Close the connections, and free what they needed; `figures` still works."""
        evb_release(self._load)


cdef uint8_t *_frame(bytes data) except NULL:
    """Return a copy of *data* with room for a word behind it."""
    cdef uint8_t *made = <uint8_t *>malloc(PyBytes_GET_SIZE(data) + EVB_SLACK)
    if made == NULL:
        raise MemoryError
    memcpy(made, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    memset(made + PyBytes_GET_SIZE(data), 0, EVB_SLACK)
    return made
