/* The fan-out load: publishers send, every subscriber must get every message once and in order, and each delivery and
   each broadcast's last delivery is timed.

   One process, one thread, epoll; publishers and subscribers are connections of it, so that one clock stamps a message
   and all its deliveries.  Closed loop: a publisher keeps a fixed number of broadcasts outstanding, each confirmed by
   the last of its recipients; what one turn of epoll set free leaves with one write.  Open loop (--rate): a broadcast's
   clock starts when the plan has it, even if the socket was full or this process late.

   Every byte of every message is checked.  The first that is lost, doubled, out of order or wrong ends the run: a
   server that leaves messages out is not fast.

   Never here: knowledge of what a protocol looks like, which is _fanout_wire.h's; a delivery counted before it is
   checked.  Read next: evloop/bench/fanout.py, which runs it; usage() in _fanout_options.h.

   Exit codes: 0 done, 1 failed here, 2 usage, 3 cannot connect, 4 no byte in time, 5 the server closed or reset,
   6 the server refused, 7 lost, doubled, reordered or wrong.  On 0 one line of JSON on stdout, else one line of text on
   stderr. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
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
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "_histogram.h"

#define TOPIC "bench" /* the channel, subject, topic or room */

enum {
    FAILED = 1, USAGE = 2, NO_CONNECT = 3, TIMEOUT = 4, GONE = 5, REFUSED = 6, WRONG = 7,
    BUFFER = 256 << 10, /* one read, behind what the last one left */
    EVENTS = 512,
    OPENING = 32,       /* connects under way at a time: below every backlog in use */
    AHEAD = 1 << 16,    /* broadcasts that an open loop's publisher may have on the way: more and it is held back */
    HELD = 1 << 20,     /* bytes that wait for a publisher's socket: more and it is held back */
    SETTLE = 20         /* ms after the last delivery in which a message too many is still caught */
};

struct text;

struct peer {
    int fd;
    uint32_t id;        /* among the subscribers, or among the publishers */
    uint8_t publisher, connected, ready, answered, blocked; /* blocked: EPOLLOUT is armed */
    uint8_t step;       /* of the handshake */
    uint32_t kept;      /* bytes at tail: what the last read left of an item */
    uint32_t room;
    uint8_t *tail;
    uint8_t *out;       /* what the kernel has not taken */
    size_t out_at, out_end, out_room;
    uint64_t seq;       /* chat: the room's number of the last message */
    uint64_t acknowledged; /* of a publisher's messages, by the server */
    uint64_t *next;     /* [publishers] the number of the message that must come next from each */
};

struct publisher {
    struct peer *peer;
    uint64_t sent, complete;
    /* Rings over the message's number. */
    uint64_t *stamp;    /* ns; when it was handed to the kernel, or planned */
    uint32_t *left;     /* recipients that have not got it */
    char *digits;       /* its number as it stands in the payload */
};

static struct {
    uint32_t subscribers, publishers, outstanding, size;
    double seconds, warmup, timeout, rate; /* rate: broadcasts a second; 0: closed loop */
    pid_t server;
    struct sockaddr_in address;
} opt = {.subscribers = 1, .publishers = 1, .outstanding = 1, .size = 100, .seconds = 2, .warmup = 0.5, .timeout = 10};

static int epoll_fd, plan_fd;
static clockid_t server_clock;
static struct peer *peers; /* the subscribers, then the publishers */
static struct publisher *publishers;
static uint32_t ready_peers, recipients, ring; /* ring: a power of two */
static uint8_t *rx;
static uint64_t arrived; /* ns; when the bytes at hand were read */
static uint64_t plan_start, planned; /* open loop: its begin, and the broadcasts sent of it */
static int draining; /* nothing new is published, nothing is counted */
static int leaving;  /* the server closes the connections, as asked */

static evb_histogram deliveries, completions, lags;
static uint64_t wire_bytes, reads, received; /* of the subscribers: bytes, reads, messages */

static void quit(int code, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));

static void quit(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("fanout: ", stderr);
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

static const char *name_of(const struct peer *c)
{
    static char name[32];
    snprintf(name, sizeof name, "%s %u", c->publisher ? "publisher" : "subscriber", c->id);
    return name;
}

/* ---- output ---- */

static void watch(struct peer *c, int operation, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll_fd, operation, c->fd, &ev))
        quit(FAILED, "epoll_ctl: %s", strerror(errno));
}

/* Append bytes to what waits for the socket; flush() sends them. */
static void append(struct peer *c, const void *data, size_t size)
{
    if (!size)
        return;
    if (c->out_room - c->out_end < size) {
        if (c->out_at)
            memmove(c->out, c->out + c->out_at, c->out_end - c->out_at);
        c->out_end -= c->out_at;
        c->out_at = 0;
        if (c->out_room - c->out_end < size) {
            c->out_room = (c->out_end + size) * 2;
            c->out = realloc(c->out, c->out_room);
            if (!c->out)
                quit(FAILED, "no memory for %zu bytes of output", c->out_room);
        }
    }
    memcpy(c->out + c->out_end, data, size);
    c->out_end += size;
}

static void flush(struct peer *c)
{
    if (c->out_at < c->out_end) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_end - c->out_at, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            quit(GONE, "%s: send: %s", name_of(c), strerror(errno));
        c->out_at += n > 0 ? (size_t)n : 0;
    }
    if (c->out_at == c->out_end)
        c->out_at = c->out_end = 0;
    if (c->blocked != (c->out_end != 0)) {
        c->blocked = !c->blocked;
        watch(c, EPOLL_CTL_MOD, c->blocked ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
}

/* Say something that is no message: a ping's answer. */
static void answer(struct peer *c, const void *data, size_t size)
{
    append(c, data, size);
    flush(c);
}

/* ---- a delivery ---- */

/* The message is none that must come next: say what that makes of it. */
static void misplaced(const struct peer *c, const uint8_t *digits) __attribute__((noreturn));

static void misplaced(const struct peer *c, const uint8_t *digits)
{
    char text[17] = {0}, *end;
    memcpy(text, digits, 16);
    unsigned long long whole = strtoull(text, &end, 16), from = whole >> 56, k = whole & ((1ull << 56) - 1);
    if (*end || from >= opt.publishers || (c->publisher && from == c->id) || k >= publishers[from].sent)
        quit(WRONG, "%s: message numbered %s, which was never sent to it", name_of(c), text);
    unsigned long long wanted = c->next[from];
    if (k > wanted)
        quit(WRONG, "%s: lost or reordered: message %llu of publisher %llu where %llu was next", name_of(c), k, from,
             wanted);
    quit(WRONG, "%s: doubled or reordered: message %llu of publisher %llu where %llu was next", name_of(c), k, from,
         wanted);
}

static unsigned hexadecimal(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - (unsigned)'0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10u : 256; /* no digit: above every publisher */
}

/* A message whose digits stand at *digits*, all else of it checked, has arrived. */
static void message(struct peer *c, const uint8_t *digits)
{
    unsigned from = hexadecimal(digits[0]) << 4 | hexadecimal(digits[1]);
    if (from >= opt.publishers || (c->publisher && from == c->id))
        misplaced(c, digits);
    struct publisher *p = &publishers[from];
    uint64_t k = c->next[from], at = k & (ring - 1);
    if (k >= p->sent || memcmp(p->digits + at * 16, digits, 16))
        misplaced(c, digits);
    c->next[from]++;
    uint64_t took = arrived - p->stamp[at];
    int last = !--p->left[at];
    p->complete += (unsigned)last;
    if (draining)
        return;
    received += !c->publisher;
    evb_hist_record(&deliveries, took, 1);
    if (last)
        evb_hist_record(&completions, took, 1);
}

#include "_fanout_wire.h"

static const struct wire *wire;

#include "_fanout_report.h"
#include "_fanout_options.h"

static size_t next_item(struct peer *c, const uint8_t *p, size_t n)
{
    if (!c->ready)
        return wire->hear(c, p, n);
    if (wire->item)
        return wire->item(c, p, n);
    size_t tail = record_digits + DIGITS;
    if (memcmp(p, record.data, n < record_digits ? n : record_digits))
        return wire->rest(c, p, n);
    if (n < record.size)
        return 0;
    if (memcmp(p + tail, record.data + tail, record.size - tail))
        wrong_bytes(c, p, record.size);
    message(c, p + record_digits);
    return record.size;
}

/* ---- one connection ---- */

static void open_peer(struct peer *c)
{
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        quit(FAILED, "socket of %s of %u: %s; see ulimit -n", name_of(c), opt.subscribers, strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (struct sockaddr *)&opt.address, sizeof opt.address) && errno != EINPROGRESS)
        quit(NO_CONNECT, "cannot connect to port %d: %s", ntohs(opt.address.sin_port), strerror(errno));
    watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
    c->blocked = 1;
}

/* The kernel acknowledges at once what comes to a client that has asked once, and delays it for one that has asked
   twice (net/ipv4/tcp_output.c, "pingpong"), which makes this process 15 % faster: it catches up with the server, and
   sleeps, and each time that it is woken is the server's time, some 50 us of a broadcast to 100.  The rows would differ
   by the length of their handshakes.  So all have what a client has that logs in before it subscribes. */
static void delay_acks(struct peer *c)
{
    int off = 0;
    setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof off);
}

static void ask(struct peer *c)
{
    struct text words = {0};
    wire->ask(c, &words);
    append(c, words.data, words.size);
    flush(c);
    free(words.data);
}

/* Begin the handshake's step that c->step has come to, or end it. */
static void take_step(struct peer *c)
{
    c->answered = 0;
    if (c->step < (c->publisher && wire->silent ? 0 : wire->steps)) {
        ask(c);
        return;
    }
    c->ready = 1;
    ready_peers++;
    delay_acks(c);
    flush(c);
}

/* Keep the n bytes at p until the rest of their item arrives. */
static void keep(struct peer *c, const uint8_t *p, size_t n)
{
    if (n > LONGEST + BUFFER / 2)
        wrong_bytes(c, p, n);
    if (n > c->room) {
        c->room = (uint32_t)n * 2;
        free(c->tail);
        c->tail = malloc(c->room);
        if (!c->tail)
            quit(FAILED, "no memory for %u bytes of input", c->room);
    }
    memcpy(c->tail, p, n);
    c->kept = (uint32_t)n;
}

static void receive(struct peer *c)
{
    if (c->kept)
        memcpy(rx, c->tail, c->kept);
    ssize_t got = recv(c->fd, rx + c->kept, BUFFER, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0 && leaving) {
        close(c->fd);
        c->fd = -1;
        ready_peers--;
        return;
    }
    if (got < 0)
        quit(GONE, "%s: recv: %s", name_of(c), strerror(errno));
    if (got == 0)
        quit(GONE, "%s: closed by the server", name_of(c));
    arrived = now();
    if (!draining && !c->publisher) {
        reads++;
        wire_bytes += (uint64_t)got;
    }
    size_t n = c->kept + (size_t)got, at = 0, used;
    while (at < n && (used = next_item(c, rx + at, n - at))) {
        at += used;
        if (c->answered) {
            c->step++;
            take_step(c);
        }
    }
    c->kept = 0;
    if (at < n)
        keep(c, rx + at, n - at);
}

static void on_event(struct peer *c, uint32_t events)
{
    if (!c->connected) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error)
            quit(NO_CONNECT, "cannot connect to port %d: %s", ntohs(opt.address.sin_port), strerror(error));
        c->connected = 1;
        take_step(c);
    } else if (events & EPOLLOUT) {
        flush(c);
    }
    if (events & ~(uint32_t)EPOLLOUT)
        receive(c);
}

#include "_fanout_publish.h"

/* ---- the run ---- */

/* Wait for events and handle them; quit if none has come for the time-out.  until: ns. */
static void turn(uint64_t until)
{
    static struct epoll_event events[EVENTS];
    static uint64_t last_event;
    uint64_t begin = now(), expirations;
    if (!last_event)
        last_event = begin;
    uint64_t wait = until > begin ? (until - begin) / 1000000 + 1 : 0;
    int n = epoll_wait(epoll_fd, events, EVENTS, wait > 100 ? 100 : (int)wait);
    if (n < 0 && errno != EINTR)
        quit(FAILED, "epoll_wait: %s", strerror(errno));
    for (int i = 0; i < n; i++) {
        if (!events[i].data.ptr) {
            if (read(plan_fd, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
                quit(FAILED, "timerfd: %s", strerror(errno));
            continue;
        }
        on_event(events[i].data.ptr, events[i].events);
        last_event = begin;
    }
    if ((double)(begin - last_event) / 1e9 <= opt.timeout)
        return;
    if (leaving)
        quit(TIMEOUT, "no byte for %g s; %u connections were not closed", opt.timeout, ready_peers);
    if (ready_peers < opt.subscribers + opt.publishers)
        quit(TIMEOUT, "no byte for %g s; %u of %u connections ready", opt.timeout, ready_peers,
             opt.subscribers + opt.publishers);
    uint64_t sent = 0, complete = 0;
    for (uint32_t i = 0; i < opt.publishers; i++)
        sent += publishers[i].sent, complete += publishers[i].complete;
    if (sent > complete)
        quit(TIMEOUT, "no byte for %g s; lost: %llu of %llu broadcasts have not reached all %u", opt.timeout,
             (unsigned long long)(sent - complete), (unsigned long long)sent, recipients);
    if (draining)
        quit(TIMEOUT, "no byte for %g s; not all of %llu broadcasts have been acknowledged", opt.timeout,
             (unsigned long long)sent);
    last_event = begin; /* an open loop slower than the time-out */
}

/* Open all connections and take them through the handshake, OPENING at a time. */
static void establish(void)
{
    uint32_t opened = 0, all = opt.subscribers + opt.publishers;
    while (ready_peers < all) {
        while (opened < all && opened - ready_peers < OPENING)
            open_peer(&peers[opened++]);
        turn(now() + 100000000);
    }
}

static uint64_t cpu_of_server(void)
{
    return opt.server ? nanoseconds(server_clock) : 0;
}

static void drain(void)
{
    draining = 1;
    for (uint32_t i = 0; i < opt.publishers; i++) {
        struct publisher *p = &publishers[i];
        while (p->complete < p->sent || (wire->acks && p->peer->acknowledged < p->sent))
            turn(now() + 100000000);
    }
    for (uint64_t end = now() + SETTLE * 1000000u; now() < end;)
        turn(end);
    for (uint32_t i = 0; wire->acks && i < opt.publishers; i++)
        if (publishers[i].peer->acknowledged > publishers[i].sent)
            quit(WRONG, "publisher %u: %llu acknowledgements of %llu messages", i,
                 (unsigned long long)publishers[i].peer->acknowledged, (unsigned long long)publishers[i].sent);
    for (uint32_t i = 0; i < opt.subscribers; i++)
        if (peers[i].kept)
            wrong_bytes(&peers[i], peers[i].tail, peers[i].kept);
}

/* Say that this is the end, and wait until the server has closed every connection. */
static void leave(void)
{
    struct text words = {0};
    leaving = 1;
    wire->leave(&words);
    for (uint32_t i = 0; i < opt.subscribers + opt.publishers; i++)
        answer(&peers[i], words.data, words.size);
    free(words.data);
    while (ready_peers)
        turn(now() + 100000000);
}

/* The interval that counts lies between two readings of the server's own CPU clock, taken here: no delivery that is
   counted was paid for outside it, but for those on the way at its two ends. */
static void measure(void)
{
    if (opt.rate > 0)
        start_plan();
    for (uint64_t warm = now() + (uint64_t)(opt.warmup * 1e9); now() < warm; turn(warm))
        publish_more();
    evb_hist_reset(&deliveries), evb_hist_reset(&completions), evb_hist_reset(&lags);
    wire_bytes = reads = received = 0;
    struct facts before = facts_of_server();
    uint64_t load0 = nanoseconds(CLOCK_PROCESS_CPUTIME_ID), server0 = cpu_of_server(), begin = now();
    for (uint64_t end = begin + (uint64_t)(opt.seconds * 1e9), at; (at = now()) < end || !completions.count;) {
        publish_more();
        turn(at < end ? end : at + 100000000); /* one broadcast at least: turn() ends a wait in vain */
    }
    struct cost cost = {.seconds = (double)(now() - begin) / 1e9};
    cost.server_cpu = (double)(cpu_of_server() - server0) / 1e9;
    cost.load_cpu = (double)(nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - load0) / 1e9;
    struct facts after = facts_of_server();
    cost.voluntary = after.voluntary - before.voluntary;
    cost.involuntary = after.involuntary - before.involuntary;
    cost.resident = after.resident;
    cost.peak = after.peak;
    uint64_t due = opt.rate > 0 ? (uint64_t)((double)(now() - plan_start) / 1e9 * opt.rate) : 0;
    cost.unsent = due > planned ? due - planned : 0;
    drain();
    if (wire->leave)
        leave();
    report(&cost);
}

static void *zeroed(size_t count, size_t size)
{
    void *found = calloc(count, size);
    if (!found)
        quit(FAILED, "no memory for %zu times %zu bytes", count, size);
    return found;
}

static void make_peers(void)
{
    uint32_t all = opt.subscribers + opt.publishers;
    peers = zeroed(all, sizeof *peers);
    publishers = zeroed(opt.publishers, sizeof *publishers);
    uint64_t *next = zeroed((size_t)all * opt.publishers, sizeof *next);
    recipients = opt.subscribers + (wire->others ? opt.publishers - 1 : 0);
    for (ring = 1; ring < (opt.rate > 0 ? AHEAD : opt.outstanding);)
        ring *= 2;
    for (uint32_t i = 0; i < all; i++) {
        peers[i].publisher = i >= opt.subscribers;
        peers[i].id = peers[i].publisher ? i - opt.subscribers : i;
        peers[i].next = next + (size_t)i * opt.publishers;
    }
    for (uint32_t i = 0; i < opt.publishers; i++)
        publishers[i] = (struct publisher){.peer = &peers[opt.subscribers + i], .stamp = zeroed(ring, sizeof(uint64_t)),
                                           .left = zeroed(ring, sizeof(uint32_t)), .digits = zeroed(ring, DIGITS)};
    rx = zeroed(1, LONGEST + 2 * BUFFER);
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
    if (epoll_fd < 0)
        quit(FAILED, "epoll_create1: %s", strerror(errno));
    make_peers();
    wire->make();
    establish();
    measure();
    /* A reset leaves no port in TIME_WAIT: thousands of them would slow the kernel's search in the next run. */
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    for (uint32_t i = 0; i < opt.subscribers + opt.publishers; i++)
        setsockopt(peers[i].fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    return 0;
}
