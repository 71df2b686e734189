/* Connections of the load: opened, watched, sent to, closed.

   Plain C, no Python.  Never here: what a reply means. */

#ifndef EVLOOP_BENCH_LOAD_SOCKETS_H
#define EVLOOP_BENCH_LOAD_SOCKETS_H

#include "_load_plan.h"

#include <netinet/tcp.h>

static const char *evb_reason(int error) {
    return error == ECONNRESET || error == EPIPE ? "reset by the server" : strerror(error);
}

static int evb_watch(evb_load *l, evb_conn *c, int operation, int writable) {
    struct epoll_event ev = {.events = writable ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
    c->watched = (uint8_t)writable;
    if (epoll_ctl(l->epoll_fd, operation, c->fd, &ev))
        return evb_fail(l, EVB_FAILED, "epoll_ctl: %s", strerror(errno));
    return 0;
}

static int evb_answers(const evb_load *l) {
    return l->pattern == EVB_ECHO || l->pattern == EVB_UPPER || l->pattern == EVB_CONNECT || l->pattern == EVB_IDLE;
}

/* Bind to the next of a thousand addresses 127.x.1.1 .. 127.x.4.250, each with all the ephemeral ports, if the server is
   on the loopback and one address might run out of them. */
static int evb_spread_source(evb_load *l, evb_conn *c) {
    struct sockaddr_in source = {.sin_family = AF_INET};
    const struct sockaddr_in *to = (const struct sockaddr_in *)&l->address;
    uint32_t low = l->source_host & 0xff, third = l->source_host >> 8 & 0xff;
    int on = 1;
    if (to->sin_family != AF_INET || ntohl(to->sin_addr.s_addr) >> 24 != 127) return 0;
    if (l->connections < EVB_MANY && l->pattern != EVB_CONNECT) return 0;
    source.sin_addr.s_addr = htonl(l->source_host);
    l->source_host &= 0xffff0000;
    l->source_host |= low < 250 ? third << 8 | (low + 1) : ((third & 3) + 1) << 8 | 1;
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(c->fd, (struct sockaddr *)&source, sizeof source))
        return evb_fail(l, EVB_NO_CONNECT, "cannot bind to %s: %s", inet_ntoa(source.sin_addr), strerror(errno));
    return 0;
}

static int evb_open(evb_load *l, evb_conn *c) {
    int on = 1, family = l->address.ss_family;
    if (!c->waits) c->opened = evb_now(); /* else it waits since then */
    c->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return evb_fail(l, EVB_FAILED, "socket %u of %u: %s; see ulimit -n", c->id + 1, l->connections, strerror(errno));
    if (family != AF_UNIX) setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (evb_spread_source(l, c)) return -1;
    c->started = c->tx = c->rx = 0;
    c->tx_at = c->rx_at = 0;
    c->allowed = l->asks;
    c->connected = c->greeted = c->waits = 0;
    if (connect(c->fd, (struct sockaddr *)&l->address, l->address_size) && errno != EINPROGRESS) {
        if (errno != EAGAIN) return evb_refused(l, errno);
        close(c->fd); /* a UNIX socket whose queue is full does not wait (connect(2)): again in a moment */
        c->fd = -1;
        c->waits = 1;
        l->retries++;
        return 0;
    }
    return evb_watch(l, c, EPOLL_CTL_ADD, 1);
}

/* Try again to connect what found the server's queue full. */
static int evb_retry(evb_load *l) {
    uint32_t i;
    l->retries = 0;
    for (i = 0; i < l->connections + l->publishers; i++)
        if (l->conns[i].waits && evb_open(l, &l->conns[i])) return -1;
    return 0;
}

/* Close; hard: without leaving the port in TIME_WAIT, where thousands slow the kernel's search in the next run. */
static void evb_close(evb_conn *c, int hard) {
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    if (c->fd < 0) return;
    if (hard) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(c->fd);
    c->fd = -1;
}

/* Return the message up to which (not included) c may send. */
static inline uint64_t evb_limit(const evb_load *l, const evb_conn *c) {
    uint64_t limit;
    if (!c->writes) return 0;
    if (!l->running)
        limit = c->allowed;
    else
        limit = (l->pattern == EVB_SINK ? c->tx : c->rx) + l->in_flight;
    if (l->pattern == EVB_CONNECT) return limit; /* its budget is taken when it is opened */
    if (l->heap_size && limit > c->planned) limit = c->planned;
    return limit < c->started + l->budget ? limit : c->started + l->budget;
}

/* Note when the messages up to `last` (not included) were handed to the kernel, unless it is noted already. */
static inline void evb_stamp(evb_load *l, evb_conn *c, uint64_t last) {
    uint64_t now = evb_now(), fresh = last - c->started;
    if (c->rx == c->started) c->moved = now;
    if (l->budget != EVB_UNBOUNDED && l->pattern != EVB_CONNECT) l->budget -= fresh;
    if (l->plain) {
        uint64_t k = c->started, mask = l->mask, *stamps = c->stamps;
        for (; k < last; k++) stamps[k & mask] = now;
        c->started = last;
        return;
    }
    for (; c->started < last; c->started++) {
        uint64_t slot = c->started & l->mask;
        c->stamps[slot] = now;
        if (c->remaining) c->remaining[slot] = l->connections;
        if (l->heap_size) {
            c->plans[slot] = c->due_started;
            c->due_started += evb_gap(l, c->writer, c->started);
        }
    }
}

/* Count n messages of a sink, from k on, which the kernel has taken: nobody will answer. */
static void evb_taken(evb_load *l, evb_conn *c, uint64_t k, uint64_t n) {
    for (; n; n--, k++) {
        double due = l->heap_size ? c->plans[k & l->mask] : 0;
        if (l->heap_size ? due < l->from || due >= l->until : !l->measuring) continue;
        if (l->heap_size) evb_hist_record(&l->response, (uint64_t)((double)(c->moved - l->origin) - due), 1);
        l->messages++;
        l->finished++;
        l->bytes += evb_class_of(l, c->writer, k)->size;
    }
}

/* Move on by n of the `size` bytes, `count` messages, that lie in the send buffer. */
static void evb_sent(evb_load *l, evb_conn *c, size_t n, size_t size, uint32_t count) {
    uint64_t before = c->tx, at = c->tx_at + n;
    uint32_t total;
    if (at == size) {
        c->tx += count;
        at = 0;
    } else {
        while (at >= (total = evb_class_of(l, c->writer, c->tx)->total)) at -= total, c->tx++;
    }
    c->tx_at = (uint32_t)at;
    if (l->pattern == EVB_SINK && n) {
        c->moved = evb_now();
        c->rx = c->tx;
        if (c->tx > before) evb_taken(l, c, before, c->tx - before);
    }
}

/* Send as far as the limit allows, in whole bursts while they last; watch for room if there was not enough. */
static int evb_send_more(evb_load *l, evb_conn *c) {
    uint64_t limit = evb_limit(l, c);
    while (c->tx < limit) {
        uint32_t count;
        size_t size = evb_build(l, c, limit, &count), left = size - c->tx_at;
        ssize_t n;
        if (c->tx + count > c->started) evb_stamp(l, c, c->tx + count);
        n = send(c->fd, l->tx + c->tx_at, left, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN && errno != EINTR)
                return evb_fail(l, EVB_GONE, "connection %u: %s while sending, after %llu replies", c->id,
                                evb_reason(errno), (unsigned long long)c->rx);
            n = 0;
        }
        evb_sent(l, c, (size_t)n, size, count);
        if ((size_t)n < left) break;
    }
    /* A sink is fed whenever it has room, all else when a reply has made some. */
    int wanted = c->tx < limit || (l->pattern == EVB_SINK && l->running && !l->heap_size && l->budget);
    return c->watched != wanted ? evb_watch(l, c, EPOLL_CTL_MOD, wanted) : 0;
}

/* Let every writer send what it may: at the start of a phase. */
static int evb_kick(evb_load *l) {
    uint32_t i;
    for (i = 0; i < l->connections + l->publishers; i++)
        if (l->conns[i].fd >= 0 && l->conns[i].connected && evb_send_more(l, &l->conns[i])) return -1;
    return 0;
}

static int evb_send_marked(evb_load *l) {
    uint32_t i;
    for (i = 0; i < l->dirty_size; i++) {
        evb_conn *c = l->dirty[i];
        c->dirty = 0;
        if (c->fd >= 0 && evb_send_more(l, c)) return -1;
    }
    l->dirty_size = 0;
    return 0;
}

#endif
