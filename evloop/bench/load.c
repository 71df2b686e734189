/* The load: a closed loop of length-prefixed messages (u32be length, then the payload) against an echo server; or of
   messages without a prefix against one that echoes bytes as they come.

   One process, one thread, epoll.  Each connection keeps a fixed number of messages in flight; a reply is checked and
   replaced by the next message; all that one read set free leaves with one write.  Closed loop means that a slow reply
   delays the next message: the percentiles say what these clients saw, not what an open stream of requests would have.

   Both directions of a connection are a known stream, message k of connection i = header, u64 (i << 40 | k), filler,
   so a connection needs no buffer: positions in the two streams say what to send next and what must come back.

   Never here: knowledge of any server; a reply that is counted before it is checked.
   Read next: evloop/bench/peers.py, which runs it; usage() below.

   Exit codes: 0 done, 1 failed here, 2 usage, 3 cannot connect, 4 no reply in time, 5 the peer closed or reset,
   7 wrong bytes.  On 0 one line of JSON on stdout, else one line of text on stderr. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    FAILED = 1, USAGE = 2, NO_CONNECT = 3, TIMEOUT = 4, GONE = 5, WRONG = 7,
    PREFIX = 4,
    BUFFER = 256 << 10,   /* one read, and one write of small messages */
    EVENTS = 512,
    SEQUENCE = 8,         /* bytes of the payload that number it; the rest is filler */
    OPENING = 32,         /* connects under way at a time: below every backlog in use (Twisted's is 50) */
    MANY = 1000,          /* connections from which source addresses rotate; an address has 28,000 ports */
    SUB_BITS = 7,         /* histogram: 128 buckets an octave, each at most 0.8 % wide */
    SUB = 1 << SUB_BITS,
    BUCKETS = (64 - SUB_BITS + 1) * SUB
};

#define CURVE_STEP 1.7782794100389228 /* 10^(1/4): four points of the latency curve a decade of 1 / (1 - share) */

enum mode { ECHO, CONNECT_RATE, IDLE };

struct conn {
    int fd;
    uint32_t id;
    uint64_t sent, limit, received; /* positions in the streams, in bytes; limit: how far may be sent */
    uint64_t next_stamp;            /* messages whose start was stamped */
    uint64_t *stamps;               /* [pipeline] ns; when message k was handed to the kernel is stamps[k % pipeline] */
    uint64_t opened;                /* ns; when connect was called */
    uint8_t connected, blocked;     /* blocked: the kernel took less, EPOLLOUT is armed */
};

static struct {
    enum mode mode;
    uint32_t connections, pipeline, size;
    double seconds, warmup, timeout;
    uint64_t messages;
    int check_bytes, raw;
    pid_t server;
    struct sockaddr_in address;
} opt = {.mode = ECHO, .connections = 1, .pipeline = 1, .size = 64, .seconds = 2, .warmup = 0.5, .timeout = 10};

static int epoll_fd;
static clockid_t server_clock;
static uint32_t header = PREFIX; /* 0: raw */
static uint32_t frame_size;      /* header and payload */
static uint32_t burst;           /* whole messages in the send buffer */
static uint8_t *tx, *rx, *model; /* burst messages; what was read; one message, to compare with */
static struct conn *conns;
static uint32_t established;
static uint32_t source_host;     /* the next source address, 127.x.y.z, host order */

static uint64_t histogram[BUCKETS];
static uint64_t replies, recvs, latency_max;
static int draining;             /* nothing new is sent, nothing is counted */

static void quit(int code, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));

static void quit(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(code);
}

static uint64_t nanoseconds(clockid_t clock)
{
    struct timespec ts;
    if (clock_gettime(clock, &ts))
        quit(FAILED, "cannot read a clock: %s", strerror(errno));
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t now(void)
{
    return nanoseconds(CLOCK_MONOTONIC);
}

/* ---- histogram: exact below SUB ns, then SUB buckets an octave ---- */

static void record(uint64_t ns)
{
    unsigned shift = ns < SUB ? 0 : 63u - (unsigned)__builtin_clzll(ns) - SUB_BITS;
    histogram[shift * SUB + (ns >> shift)]++;
    replies++;
    if (ns > latency_max)
        latency_max = ns;
}

/* Return the upper edge, in us, of the bucket in which the fraction of all replies is reached. */
static double percentile(double fraction)
{
    uint64_t wanted = (uint64_t)(fraction * (double)replies), seen = 0;
    if (wanted >= replies)
        wanted = replies - 1;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen > wanted) {
            unsigned shift = i < 2 * SUB ? 0 : i / SUB - 1;
            uint64_t edge = (((uint64_t)i - shift * SUB + 1) << shift) - 1;
            return (double)(edge < latency_max ? edge : latency_max) / 1e3;
        }
    }
    return (double)latency_max / 1e3;
}

/* ---- messages ---- */

static void put_sequence(uint8_t *message, uint64_t sequence)
{
    memcpy(message + header, &sequence, opt.size < SEQUENCE ? opt.size : SEQUENCE);
}

static uint64_t sequence_of(const struct conn *c, uint64_t k)
{
    return (uint64_t)c->id << 40 | k;
}

static void make_buffers(void)
{
    uint32_t length = htonl(opt.size), seed = 0x9e3779b9u;
    frame_size = header + opt.size;
    burst = BUFFER / frame_size;
    if (burst > opt.pipeline)
        burst = opt.pipeline;
    if (!burst)
        burst = 1;
    rx = malloc(BUFFER);
    model = malloc(frame_size + SEQUENCE);
    tx = malloc((size_t)burst * frame_size + SEQUENCE);
    if (!rx || !model || !tx)
        quit(FAILED, "no memory");
    memcpy(model, &length, header);
    for (uint32_t i = header; i < frame_size; i++) { /* xorshift: no period that a misplaced copy could hide in */
        seed ^= seed << 13, seed ^= seed >> 17, seed ^= seed << 5;
        model[i] = (uint8_t)seed;
    }
    for (uint32_t i = 0; i < burst; i++)
        memcpy(tx + (size_t)i * frame_size, model, frame_size);
}

/* ---- one connection ---- */

static void watch(struct conn *c, int operation, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll_fd, operation, c->fd, &ev))
        quit(FAILED, "epoll_ctl: %s", strerror(errno));
}

static void open_connection(struct conn *c)
{
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        quit(FAILED, "socket %u of %u: %s; see ulimit -n", c->id + 1, opt.connections, strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    int loopback = ntohl(opt.address.sin_addr.s_addr) >> 24 == 127;
    if (loopback && (opt.connections >= MANY || opt.mode != ECHO)) {
        struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr = {htonl(source_host)}};
        /* 127.x.1.1 .. 127.x.4.250: a thousand addresses, each with all the ephemeral ports. */
        uint32_t low = source_host & 0xff, third = source_host >> 8 & 0xff;
        source_host = (source_host & 0xffff0000) | (low < 250 ? third << 8 | (low + 1) : ((third & 3) + 1) << 8 | 1);
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(c->fd, (struct sockaddr *)&source, sizeof source))
            quit(FAILED, "cannot bind to %s: %s", inet_ntoa(source.sin_addr), strerror(errno));
    }
    c->sent = c->received = c->next_stamp = 0;
    c->limit = frame_size; /* the first reply says that the server has accepted, and not only the kernel */
    c->connected = c->blocked = 0;
    c->opened = now();
    if (connect(c->fd, (struct sockaddr *)&opt.address, sizeof opt.address) && errno != EINPROGRESS)
        quit(NO_CONNECT, "cannot connect to port %d: %s", ntohs(opt.address.sin_port), strerror(errno));
    watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
    c->blocked = 1;
}

/* Send as far as limit allows, in whole bursts while they last. */
static void send_more(struct conn *c)
{
    while (c->sent < c->limit) {
        uint64_t first = c->sent / frame_size, at = c->sent % frame_size, last = c->limit / frame_size, stamp = now();
        uint32_t count = last - first < burst ? (uint32_t)(last - first) : burst;
        for (uint32_t i = 0; i < count; i++)
            put_sequence(tx + (size_t)i * frame_size, sequence_of(c, first + i));
        for (; c->next_stamp < first + count; c->next_stamp++)
            c->stamps[c->next_stamp % opt.pipeline] = stamp;
        ssize_t n = send(c->fd, tx + at, (size_t)count * frame_size - at, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN && errno != EINTR)
                quit(GONE, "connection %u: send: %s", c->id, strerror(errno));
            n = 0;
        }
        c->sent += (uint64_t)n;
        if ((uint64_t)n < (uint64_t)count * frame_size - at)
            break;
    }
    if (c->blocked != (c->sent < c->limit)) {
        c->blocked = !c->blocked;
        watch(c, EPOLL_CTL_MOD, c->blocked ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
}

static void wrong(const struct conn *c, uint64_t k, uint64_t at, const char *what)
{
    quit(WRONG, "connection %u, reply %llu: wrong %s at byte %llu of %u", c->id, (unsigned long long)k, what,
         (unsigned long long)at, frame_size);
}

/* Compare n bytes at p with the stream from c->received on; they lie in one message. */
static void check(struct conn *c, const uint8_t *p, size_t n)
{
    uint64_t k = c->received / frame_size, at = c->received % frame_size;
    size_t numbered = header + (opt.size < SEQUENCE ? opt.size : SEQUENCE);
    if (c->received + n > c->sent)
        wrong(c, k, at, "reply that nobody asked for");
    if (at < numbered) {
        size_t m = numbered - at < n ? numbered - at : n;
        uint8_t start[PREFIX + SEQUENCE];
        uint64_t sequence = sequence_of(c, k);
        memcpy(start, model, header);
        memcpy(start + header, &sequence, SEQUENCE);
        for (size_t i = 0; i < m; i++)
            if (p[i] != start[at + i])
                wrong(c, k, at + i, at + i < header ? "length" : "sequence number");
        p += m, at += m, n -= m, c->received += m;
    }
    if (opt.check_bytes && memcmp(p, model + at, n)) {
        size_t i = 0;
        while (p[i] == model[at + i])
            i++;
        wrong(c, k, at + i, "byte");
    }
    c->received += n;
}

/* Read once and check it.  Return the number of replies that it completed. */
static uint32_t receive(struct conn *c)
{
    ssize_t got = recv(c->fd, rx, BUFFER, 0);
    recvs += !draining;
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (got < 0)
        quit(c->connected ? GONE : NO_CONNECT, "connection %u: recv: %s", c->id, strerror(errno));
    if (got == 0)
        quit(GONE, "connection %u: closed by the server after %llu replies and %llu bytes of the next", c->id,
             (unsigned long long)(c->received / frame_size), (unsigned long long)(c->received % frame_size));
    uint64_t arrived = now();
    uint32_t complete = 0;
    size_t at = 0;
    while (at < (size_t)got) {
        uint64_t k = c->received / frame_size, missing = frame_size - c->received % frame_size;
        size_t n = (size_t)got - at < missing ? (size_t)got - at : (size_t)missing;
        check(c, rx + at, n);
        at += n;
        if (n == missing) {
            complete++;
            if (!draining)
                record(arrived - (opt.mode == CONNECT_RATE ? c->opened : c->stamps[k % opt.pipeline]));
        }
    }
    return complete;
}

/* ---- the run ---- */

/* Close without leaving the port in TIME_WAIT: thousands of them would slow the kernel's search in the next run. */
static void reset_connection(struct conn *c)
{
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(c->fd);
    c->fd = -1;
}

static void on_event(struct conn *c, uint32_t events)
{
    if (!c->connected) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error)
            quit(NO_CONNECT, "cannot connect to port %d: %s", ntohs(opt.address.sin_port), strerror(error));
        c->connected = 1;
    }
    uint32_t complete = events & ~(uint32_t)EPOLLOUT ? receive(c) : 0;
    if (complete && opt.mode == CONNECT_RATE) {
        close(c->fd); /* in good order: TIME_WAIT and its cost belong to what is measured */
        c->fd = -1;
        if (!draining)
            open_connection(c);
        return;
    }
    if (complete && c->received == frame_size)
        established++;
    if (complete && established == opt.connections && opt.mode == ECHO && !draining)
        c->limit = c->received / frame_size * frame_size + (uint64_t)opt.pipeline * frame_size;
    if (c->sent < c->limit)
        send_more(c);
}

/* Wait for events and handle them; quit if none has come for the time-out. */
static void turn(uint64_t until)
{
    static struct epoll_event events[EVENTS];
    static uint64_t last_event;
    uint64_t begin = now();
    if (!last_event)
        last_event = begin;
    uint64_t wait = until > begin ? (until - begin) / 1000000 + 1 : 0;
    int n = epoll_wait(epoll_fd, events, EVENTS, wait > 100 ? 100 : (int)wait);
    if (n < 0 && errno != EINTR)
        quit(FAILED, "epoll_wait: %s", strerror(errno));
    if (n > 0)
        last_event = now();
    else if ((double)(now() - last_event) / 1e9 > opt.timeout)
        quit(TIMEOUT, "no byte for %g s; %u of %u connections answered, %llu replies", opt.timeout, established,
             opt.connections, (unsigned long long)replies);
    for (int i = 0; i < n; i++)
        on_event(events[i].data.ptr, events[i].events);
}

/* Open connections [from, to), each with one message there and back, OPENING at a time. */
static void establish(uint32_t from, uint32_t to)
{
    uint32_t opened = from;
    established = from;
    while (established < to) {
        while (opened < to && opened - established < OPENING)
            open_connection(&conns[opened++]);
        turn(now() + 100000000);
    }
}

static void start_statistics(void)
{
    memset(histogram, 0, sizeof histogram);
    replies = recvs = latency_max = 0;
}

static uint64_t cpu_of_server(void)
{
    return opt.server ? nanoseconds(server_clock) : 0;
}

static void report(double seconds, double server_cpu, double load_cpu)
{
    static const char *names[] = {"echo", "connect-rate", "idle"};
    double count = (double)replies;
    printf("{\"mode\": \"%s\", \"connections\": %u, \"pipeline\": %u, \"size\": %u, \"seconds\": %.6f, "
           "\"messages\": %llu, \"messages_per_second\": %.1f, \"replies_per_read\": %.2f, ",
           names[opt.mode], opt.connections, opt.pipeline, opt.size, seconds, (unsigned long long)replies,
           count / seconds, recvs ? count / (double)recvs : 0.0);
    printf("\"latency_us\": {\"p50\": %.2f, \"p99\": %.2f, \"p999\": %.2f, \"max\": %.2f}, ", percentile(0.5),
           percentile(0.99), percentile(0.999), (double)latency_max / 1e3);
    printf("\"latency_curve_us\": [");
    for (double rest = 1; rest * count >= 1; rest /= CURVE_STEP)
        printf("%s[%.9g, %.2f]", rest < 1 ? ", " : "", 1 - rest, percentile(1 - rest));
    printf("], ");
    if (opt.server)
        printf("\"server_cpu_us\": %.4f, \"server_busy\": %.4f, ", server_cpu * 1e6 / count, server_cpu / seconds);
    else
        printf("\"server_cpu_us\": null, \"server_busy\": null, ");
    printf("\"load_cpu_us\": %.4f, \"load_busy\": %.4f, \"checked\": \"%s\"}\n", load_cpu * 1e6 / count,
           load_cpu / seconds, opt.check_bytes ? "bytes" : "length, sequence");
}

/* The interval that counts lies between two readings of the server's own CPU clock, taken here: no reply that is
   counted was paid for outside it, but for those in flight at its two ends. */
static void measure(void)
{
    uint64_t begin = now(), warm = begin + (uint64_t)(opt.warmup * 1e9);
    while (now() < warm)
        turn(warm);
    start_statistics();
    uint64_t load0 = nanoseconds(CLOCK_PROCESS_CPUTIME_ID), server0 = cpu_of_server();
    begin = now();
    uint64_t end = opt.messages ? UINT64_MAX : begin + (uint64_t)(opt.seconds * 1e9), at = begin;
    /* A server that had no core all the time has not failed: the interval lasts until something can be counted. */
    while (opt.messages ? replies < opt.messages : (at = now()) < end || !replies)
        turn(at < end ? end : at + 100000000);
    double seconds = (double)(now() - begin) / 1e9;
    double server_cpu = (double)(cpu_of_server() - server0) / 1e9;
    double load_cpu = (double)(nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - load0) / 1e9;
    draining = 1;
    for (uint32_t i = 0; i < opt.connections; i++) /* what is in flight still has to come back right */
        while (conns[i].fd >= 0 && (conns[i].received < conns[i].sent || conns[i].blocked))
            turn(now() + 100000000);
    report(seconds, server_cpu, load_cpu);
}

/* Hold the connections: a few first, so that what the server sets up once is not taken for the cost of one.  Each
   step is announced on stdout, and goes on with a line on stdin. */
static void hold_idle(void)
{
    uint32_t few = opt.connections < 100 ? opt.connections : 100, steps[] = {few, opt.connections};
    for (int i = 0; i < 2; i++) {
        establish(i ? few : 0, steps[i]);
        printf("{\"mode\": \"idle\", \"connections\": %u}\n", steps[i]);
        fflush(stdout);
        while (getchar() != '\n')
            if (feof(stdin))
                return;
    }
}

static void usage(const char *problem)
{
    fprintf(stderr, "load: %s\n"
        "usage: load [options] IPV4:PORT\n"
        "  -c N   connections (1..100000; 1)          -P N   messages in flight on each (1..65536; 1)\n"
        "  -s N   payload bytes (0..16777216; 64)     -d S   seconds (2)    -n N   replies, instead of -d\n"
        "  -w S, --warmup S      seconds before that, not counted (0.5)\n"
        "  -t S, --timeout S     seconds without a byte before giving up, exit 4 (10)\n"
        "  -b, --check-bytes     compare all bytes of a reply, not only its length and number\n"
        "  -r, --raw             messages without a length, 1 byte or more, each reply compared byte by byte\n"
        "  -p PID, --server PID  read the CPU clock of that process at both ends\n"
        "  --connect-rate        connect, one message, close, and again; latency is that of all three steps\n"
        "  --idle                open, one message each, then hold; a line on stdin goes on\n", problem);
    exit(USAGE);
}

static double number(const char *text, double least, double most, int whole)
{
    char *end;
    double value = strtod(text, &end);
    char problem[200];
    if (end == text || *end || !(value >= least && value <= most) || (whole && value != (double)(int64_t)value)) {
        snprintf(problem, sizeof problem, "%.40s is not %s of %.0f..%.0f", text, whole ? "an integer" : "a number",
                 least, most);
        usage(problem);
    }
    return value;
}

static void parse(int argc, char **argv)
{
    static const struct option names[] = {
        {"warmup", 1, 0, 'w'}, {"timeout", 1, 0, 't'}, {"check-bytes", 0, 0, 'b'}, {"server", 1, 0, 'p'},
        {"raw", 0, 0, 'r'}, {"connect-rate", 0, 0, 'C'}, {"idle", 0, 0, 'I'}, {0}};
    int key;
    opterr = 0;
    while ((key = getopt_long(argc, argv, "c:P:s:d:n:w:t:brp:", names, NULL)) != -1)
        switch (key) {
        case 'c': opt.connections = (uint32_t)number(optarg, 1, 100000, 1); break;
        case 'P': opt.pipeline = (uint32_t)number(optarg, 1, 65536, 1); break;
        case 's': opt.size = (uint32_t)number(optarg, 0, 16 << 20, 1); break;
        case 'd': opt.seconds = number(optarg, 0.001, 86400, 0); break;
        case 'n': opt.messages = (uint64_t)number(optarg, 1, 1e15, 1); break;
        case 'w': opt.warmup = number(optarg, 0, 3600, 0); break;
        case 't': opt.timeout = number(optarg, 0.001, 3600, 0); break;
        case 'b': opt.check_bytes = 1; break;
        case 'r': opt.raw = 1; break;
        case 'p': opt.server = (pid_t)number(optarg, 1, 1 << 22, 1); break;
        case 'C': opt.mode = CONNECT_RATE; break;
        case 'I': opt.mode = IDLE; break;
        default: usage("unknown option, or its value is missing");
        }
    if (optind != argc - 1)
        usage("give one address");
    char *colon = strrchr(argv[optind], ':');
    if (!colon)
        usage("an address is IPV4:PORT, such as 127.0.0.1:9000");
    opt.address.sin_family = AF_INET;
    opt.address.sin_port = htons((uint16_t)number(colon + 1, 1, 65535, 1));
    *colon = 0;
    if (inet_pton(AF_INET, argv[optind], &opt.address.sin_addr) != 1)
        usage("an address is IPV4:PORT, such as 127.0.0.1:9000");
    if (opt.mode != ECHO)
        opt.pipeline = 1;
    if (opt.raw && !opt.size)
        usage("a raw message has at least one byte");
    if (opt.raw) { /* no length says where a reply ends: only its bytes tell a right one from a wrong one */
        header = 0;
        opt.check_bytes = 1;
    }
}

int main(int argc, char **argv)
{
    struct rlimit files;
    parse(argc, argv);
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (opt.server && clock_getcpuclockid(opt.server, &server_clock))
        quit(FAILED, "no CPU clock of process %d", (int)opt.server);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    conns = calloc(opt.connections, sizeof *conns);
    uint64_t *stamps = calloc((size_t)opt.connections * opt.pipeline, sizeof *stamps);
    if (epoll_fd < 0 || !conns || !stamps)
        quit(FAILED, "no memory for %u connections of %u messages", opt.connections, opt.pipeline);
    make_buffers();
    /* A second byte of its own for each run: its ports are not those that the last one has left in TIME_WAIT. */
    source_host = 127u << 24 | (uint32_t)(1 + getpid() % 250) << 16 | 1 << 8 | 1;
    for (uint32_t i = 0; i < opt.connections; i++) {
        conns[i].id = i;
        conns[i].fd = -1;
        conns[i].stamps = stamps + (size_t)i * opt.pipeline;
    }
    if (opt.mode == IDLE) {
        hold_idle();
    } else if (opt.mode == CONNECT_RATE) {
        for (uint32_t i = 0; i < opt.connections; i++)
            open_connection(&conns[i]);
        measure();
    } else {
        establish(0, opt.connections);
        for (uint32_t i = 0; i < opt.connections; i++) {
            conns[i].limit = (1 + (uint64_t)opt.pipeline) * frame_size;
            send_more(&conns[i]);
        }
        measure();
    }
    for (uint32_t i = 0; i < opt.connections; i++)
        if (conns[i].fd >= 0)
            reset_connection(&conns[i]);
    free(stamps);
    free(conns);
    free(tx), free(rx), free(model);
    return 0;
}
