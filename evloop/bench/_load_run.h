/* The run of a load: connections are established, warmed up, measured, drained and closed.

   The interval that counts lies between two readings of the server's own CPU clock, taken here: no reply that is counted
   was paid for outside of it, but for those in flight at its two ends.

   Plain C, no Python.  Never here: the contents of a message. */

#ifndef EVLOOP_BENCH_LOAD_RUN_H
#define EVLOOP_BENCH_LOAD_RUN_H

#include "_load_receive.h"

#include <sys/ioctl.h>
#include <linux/sockios.h>
#include <sys/prctl.h>

static int evb_wants_bytes(const evb_load *l, const evb_conn *c) {
    if (c->fd < 0) return 0;
    if (l->pattern == EVB_SOURCE) return l->phase != EVB_ESTABLISHING;
    /* The kernel may call a socket full between two messages: a sink has to take the next one, too. */
    if (l->pattern == EVB_SINK && l->running && (l->heap_size ? c->planned > c->tx : l->budget > 0)) return 1;
    return c->rx < c->started || c->tx_at;
}

static int evb_stalled(evb_load *l, const evb_conn *c) {
    double waited = (double)l->timeout / 1e9;
    uint32_t i;
    if (l->pattern == EVB_FANOUT)
        for (i = 0; i < l->connections; i++)
            if (l->conns[i].next[c->writer] <= c->rx)
                return evb_fail(l, EVB_STALLED, "subscriber %u: message %llu of publisher %u has not come for %g s", i,
                                (unsigned long long)c->rx, c->writer, waited);
    if (l->pattern == EVB_SINK)
        return evb_fail(l, EVB_STALLED, "connection %u: the server has read nothing for %g s, after %llu messages",
                        c->id, waited, (unsigned long long)c->tx);
    if (l->pattern == EVB_SOURCE)
        return evb_fail(l, EVB_STALLED, "connection %u: no byte for %g s, after %llu messages", c->id, waited,
                        (unsigned long long)c->rx);
    return evb_fail(l, EVB_STALLED, "connection %u: no byte for %g s with %llu messages in flight, after %llu replies",
                    c->id, waited, (unsigned long long)(c->started - c->rx), (unsigned long long)c->rx);
}

/* Look for connections that do not get on; at most once in a tick, so that it costs nothing with thousands. */
static int evb_scan(evb_load *l) {
    uint32_t i;
    if (l->now - l->scanned < EVB_TICK) return 0;
    l->scanned = l->now;
    for (i = 0; i < l->connections + l->publishers; i++) {
        evb_conn *c = &l->conns[i];
        if ((c->fd >= 0 && !c->connected) || c->waits) {
            if (l->now > c->opened + l->timeout) return evb_refused(l, ETIMEDOUT);
        } else if (evb_wants_bytes(l, c) && l->now > c->moved + l->timeout) {
            return evb_stalled(l, c);
        }
    }
    return 0;
}

/* Connect is done, or has failed. */
static int evb_connected(evb_load *l, evb_conn *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) return evb_refused(l, error);
    c->connected = 1;
    c->moved = evb_now();
    if (!evb_answers(l)) c->greeted = 1, l->greeted++;
    return 0;
}

/* Close after the one message of a visit, and come again. */
static int evb_visit_again(evb_load *l, evb_conn *c) {
    evb_close(c, 0); /* in good order: TIME_WAIT and its cost belong to what is measured */
    if (!l->budget) return 0;
    if (l->budget != EVB_UNBOUNDED) l->budget--;
    return evb_open(l, c);
}

static int evb_on_event(evb_load *l, evb_conn *c, uint32_t events) {
    if (!c->connected && evb_connected(l, c)) return -1;
    if (events & ~(uint32_t)EPOLLOUT) {
        if (evb_receive(l, c)) return -1;
        if (c->rx && l->pattern == EVB_CONNECT) return evb_visit_again(l, c);
        if (c->rx && !c->greeted) c->greeted = 1, l->greeted++;
    }
    return evb_send_more(l, c);
}

/* Return the ns to wait for events: not beyond `until`, a tick, or the next message of the plan. */
static uint64_t evb_patience(const evb_load *l, uint64_t until) {
    uint64_t wait = until > l->now ? until - l->now : 0;
    if (wait > EVB_TICK) wait = EVB_TICK;
    if (l->retries && wait > 1000000) wait = 1000000;
    if (l->heap_size && !evb_plan_ended(l)) {
        double left = l->heap[0]->due - (double)(l->now - l->origin);
        if (left < (double)wait) wait = left > 0 ? (uint64_t)left : 0;
    }
    return wait;
}

/* Wait for events, at most until `until`, and handle them. */
static int evb_turn(evb_load *l, uint64_t until) {
    static __thread struct epoll_event events[EVB_EVENTS];
    struct timespec patience;
    uint64_t wait;
    int n, i;
    if (l->heap_size) evb_follow_plan(l, (double)(l->now - l->origin));
    if (l->dirty_size && evb_send_marked(l)) return -1;
    wait = evb_patience(l, until);
    patience.tv_sec = (time_t)(wait / 1000000000u);
    patience.tv_nsec = (long)(wait % 1000000000u);
    n = evl_epoll_pwait2(l->epoll_fd, events, EVB_EVENTS, &patience, NULL);
    if (n < 0 && errno == ENOSYS) n = epoll_wait(l->epoll_fd, events, EVB_EVENTS, (int)((wait + 999999) / 1000000));
    if (n < 0 && errno != EINTR) return evb_fail(l, EVB_FAILED, "epoll_wait: %s", strerror(errno));
    for (i = 0; i < n; i++)
        if (evb_on_event(l, events[i].data.ptr, events[i].events)) return -1;
    if (l->dirty_size && evb_send_marked(l)) return -1;
    if (l->retries && evb_retry(l)) return -1;
    l->now = evb_now();
    return evb_scan(l);
}

/* ---- the phases ---- */

/* Open connections until `upto` of them have been greeted, EVB_OPENING at a time, each with one message there and back
   where the server answers: a reply says that the server has accepted, and not only the kernel. */
static int evb_establish(evb_load *l, uint32_t upto) {
    uint32_t first = l->opened, before = l->greeted;
    l->now = evb_now();
    while (l->greeted - before < upto - first && !evb_stopped(l)) {
        while (l->opened < upto && l->opened - first - (l->greeted - before) < EVB_OPENING)
            if (evb_open(l, &l->conns[l->opened++])) return -1;
        if (evb_turn(l, l->now + EVB_TICK)) return -1;
    }
    return 0;
}

static int evb_missed(evb_load *l, const evb_conn *publisher) {
    uint32_t i = 0;
    while (i < l->connections - 1 && l->conns[i].next[publisher->writer] == publisher->started) i++;
    return evb_fail(l, EVB_STALLED, "subscriber %u of %u: nothing of publisher %u for %g s", i, l->connections,
                    publisher->writer, (double)l->timeout / 1e9);
}

/* Find out that every subscriber is one: publish until the last message has reached all.  Whoever is accepted late has
   missed some, which before the run is no loss; and none is under way when the run begins. */
static int evb_probe(evb_load *l) {
    uint32_t i;
    uint64_t begin = evb_now(), next;
    l->probing = 1;
    for (i = 0; i < l->publishers; i++) {
        evb_conn *publisher = &l->conns[l->connections + i];
        do {
            publisher->allowed = publisher->started + 1;
            publisher->moved = l->now = evb_now();
            if (evb_send_more(l, publisher)) return -1;
            for (next = l->now + EVB_TICK; publisher->rx < publisher->started && l->now < next;)
                if (evb_turn(l, next)) return -1;
            if (publisher->rx < publisher->started && l->now > begin + l->timeout) return evb_missed(l, publisher);
        } while (publisher->rx < publisher->started && !evb_stopped(l));
    }
    l->probing = 0;
    return 0;
}

static int evb_in_flight(const evb_load *l, const evb_conn *c) {
    int left = 0;
    if (c->waits) return 1;
    if (c->fd < 0) return 0;
    if (l->pattern == EVB_CONNECT) return 1;
    if (l->pattern == EVB_SINK && !c->tx_at && c->tx >= c->started && (!l->heap_size || c->tx >= c->planned))
        return !ioctl(c->fd, SIOCOUTQ, &left) && left > 0;
    return c->writes && (c->rx < (l->heap_size ? c->planned : c->started) || c->tx_at);
}

/* Send nothing new but what was planned, and wait for what is in flight: it still has to come back right. */
static int evb_drain(evb_load *l) {
    uint64_t deadline = evb_now() + l->timeout;
    uint32_t i;
    evb_set_phase(l, EVB_DRAINING);
    if (!l->heap_size) l->budget = 0;
    l->now = evb_now();
    /* What was due before the end and not noticed, because this thread came late, is planned all the same. */
    while (l->heap_size && !evb_plan_ended(l) && l->heap[0]->due <= (double)(l->now - l->origin))
        evb_follow_plan(l, (double)(l->now - l->origin));
    for (i = 0; i < l->connections + l->publishers; i++) {
        evb_conn *c = &l->conns[i];
        while (evb_in_flight(l, c) && !evb_stopped(l)) {
            if (l->heap_size && l->now > deadline) return 0; /* slower than the plan, and not done with it: reported */
            if (l->pattern == EVB_SINK && l->now > deadline) return evb_stalled(l, c);
            if (evb_turn(l, l->now + (l->pattern == EVB_SINK ? 1000000 : EVB_TICK))) return -1;
        }
    }
    return 0;
}

static int evb_servers_cpu(evb_load *l, double *seconds) {
    uint32_t i;
    *seconds = 0;
    for (i = 0; i < l->servers; i++) {
        struct timespec ts;
        if (clock_gettime(l->server_clocks[i], &ts)) return -1;
        *seconds += (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
    }
    return 0;
}

/* Return the seconds that this thread was ready to run and had no core. */
static double evb_waited(void) {
    unsigned long long ran, waited = 0;
    FILE *file = fopen("/proc/thread-self/schedstat", "re");
    if (file) {
        if (fscanf(file, "%llu %llu", &ran, &waited) != 2) waited = 0;
        fclose(file);
    }
    return (double)waited / 1e9;
}

static int evb_start_statistics(evb_load *l) {
    evb_hist_reset(&l->service);
    evb_hist_reset(&l->response);
    evb_hist_reset(&l->lag);
    evb_hist_reset(&l->completion);
    l->messages = l->finished = l->bytes = l->reads = 0;
    l->client_wait = -evb_waited();
    if (evb_servers_cpu(l, &l->server_cpu))
        return evb_fail(l, EVB_FAILED, "the server's process has no CPU clock: it is gone, or its number is wrong");
    l->server_cpu = -l->server_cpu;
    l->client_cpu = -(double)evb_clock(CLOCK_THREAD_CPUTIME_ID) / 1e9;
    l->begin = l->now = evb_now();
    return 0;
}

static void evb_end_statistics(evb_load *l) {
    double cpu;
    l->end = evb_now();
    l->client_cpu += (double)evb_clock(CLOCK_THREAD_CPUTIME_ID) / 1e9;
    l->server_cpu = evb_servers_cpu(l, &cpu) ? -1 : l->server_cpu + cpu;
    l->client_wait += evb_waited();
}

static int evb_reopen(evb_load *l) {
    uint32_t i;
    for (i = 0; i < l->connections; i++) {
        if (l->conns[i].fd >= 0 || l->conns[i].waits || !l->budget) continue;
        if (l->budget != EVB_UNBOUNDED) l->budget--;
        if (evb_open(l, &l->conns[i])) return -1;
    }
    return 0;
}

static int evb_go(evb_load *l) {
    if (l->pattern == EVB_CONNECT) return evb_reopen(l);
    return evb_kick(l);
}

static int evb_warm_up(evb_load *l) {
    uint64_t until;
    evb_set_phase(l, EVB_WARMING);
    l->running = l->pattern != EVB_CONNECT; /* a visit has one message */
    l->now = l->origin = evb_now();
    l->from = l->until = INFINITY;
    if (l->rate > 0) evb_start_plan(l);
    if (!l->warmup) return 0;
    if (evb_go(l)) return -1;
    for (until = l->now + l->warmup; l->now < until && !evb_stopped(l);)
        if (evb_turn(l, until)) return -1;
    /* Exactly so many messages are to be counted: none may be in flight when the count begins. */
    if (l->count && !l->heap_size && evb_drain(l)) return -1;
    return 0;
}

static void evb_count_unfinished(evb_load *l) {
    uint32_t i;
    for (i = 0; i < l->heap_size; i++) {
        l->unsent += l->heap[i]->planned - l->heap[i]->started;
        l->unanswered += l->heap[i]->started - l->heap[i]->rx;
    }
}

/* Tell whether the interval that counts lasts.  That of a closed loop lasts until something has been counted: a server
   that is slower than the interval is long, or had no core in it, has not failed, and one that has stalled is found. */
static int evb_goes_on(const evb_load *l, uint64_t end) {
    if (evb_stopped(l)) return 0;
    if (l->count) return l->heap_size ? l->plan_budget > 0 : l->finished < l->count;
    return l->now < end || (!l->heap_size && !l->messages);
}

/* Warm up, measure, drain.  Of an open loop all that was planned within the interval counts, however late it came back;
   of a closed one, what came back within it. */
static int evb_measure(evb_load *l) {
    uint64_t end;
    prctl(PR_SET_TIMERSLACK, 1UL); /* the plan is followed to the microsecond, not to the 50 that are the default */
    if (l->pattern == EVB_FANOUT && evb_probe(l)) return -1;
    if (evb_warm_up(l)) return -1;
    if (evb_stopped(l)) return 0;
    if (l->count && l->heap_size) l->plan_budget = l->count;
    else if (l->count) l->budget = l->count;
    if (evb_start_statistics(l)) return -1;
    l->measuring = 1;
    l->from = (double)(l->begin - l->origin);
    end = l->count ? EVB_UNBOUNDED : l->begin + l->duration;
    if (!l->count) l->until = l->from + (double)l->duration;
    evb_set_phase(l, EVB_MEASURING);
    if ((l->count || !l->warmup) && evb_go(l)) return -1;
    while (evb_goes_on(l, end))
        if (evb_turn(l, l->now < end ? end : l->now + EVB_TICK)) return -1;
    if (l->heap_size && evb_stopped(l)) l->until = (double)(l->now - l->origin);
    if (!l->heap_size) evb_end_statistics(l), l->measuring = 0;
    if (evb_drain(l)) return -1;
    if (l->heap_size) evb_end_statistics(l), l->measuring = 0;
    evb_count_unfinished(l);
    evb_set_phase(l, EVB_ENDED);
    return 0;
}

/* Hold the connections for `duration` ns; whatever a silent connection does is reported. */
static int evb_hold(evb_load *l, uint64_t duration) {
    uint64_t until;
    evb_set_phase(l, EVB_MEASURING);
    l->now = evb_now();
    for (until = l->now + duration; l->now < until && !evb_stopped(l);)
        if (evb_turn(l, until)) return -1;
    return 0;
}

/* One more message on each connection: the silent ones are still served. */
static int evb_ask(evb_load *l) {
    uint32_t i;
    if (evb_start_statistics(l)) return -1;
    l->measuring = 1;
    for (i = 0; i < l->connections; i++) l->conns[i].allowed++;
    if (evb_kick(l)) return -1;
    while (l->messages < l->connections && !evb_stopped(l))
        if (evb_turn(l, l->now + EVB_TICK)) return -1;
    l->measuring = 0;
    evb_end_statistics(l);
    evb_set_phase(l, EVB_ENDED);
    return 0;
}

/* ---- made and unmade ---- */

static void evb_set_up(evb_load *l, evb_conn *c, uint32_t i) {
    size_t ring = (size_t)l->mask + 1;
    c->fd = -1;
    c->id = i;
    c->writer = i < l->connections ? i : i - l->connections;
    c->writes = l->pattern == EVB_FANOUT ? i >= l->connections : l->pattern != EVB_SOURCE;
    if (l->ring_stamps) c->stamps = l->ring_stamps + (l->pattern == EVB_FANOUT ? c->writer : i) * ring;
    if (l->ring_plans) c->plans = l->ring_plans + (l->pattern == EVB_FANOUT ? c->writer : i) * ring;
    if (l->ring_remaining && c->writes) c->remaining = l->ring_remaining + c->writer * ring;
    if (l->ring_next && !c->writes) c->next = l->ring_next + (size_t)i * (l->publishers ? l->publishers : 1);
}

/* Get the memory; the options, classes and the address are set. */
static int evb_prepare(evb_load *l) {
    size_t all = (size_t)l->connections + l->publishers, ring = 1, writers, i;
    writers = l->pattern == EVB_FANOUT ? l->publishers : l->pattern == EVB_SOURCE ? 0 : l->connections;
    while (ring < l->in_flight) ring *= 2;
    l->mask = ring - 1;
    l->case_bits = l->pattern == EVB_UPPER ? UINT64_C(0x2020202020202020) : 0;
    l->plain = l->classes_count == 1 && l->classes->header <= sizeof(uint64_t) && l->classes->size >= EVB_NUMBER &&
               !(l->rate > 0) && (l->pattern == EVB_ECHO || l->pattern == EVB_IDLE);
    l->budget = l->plan_budget = EVB_UNBOUNDED;
    l->asks = l->pattern == EVB_SINK || l->pattern == EVB_FANOUT ? 0 : 1;
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (l->epoll_fd < 0) return evb_fail(l, EVB_FAILED, "epoll_create1: %s", strerror(errno));
    l->conns = calloc(all, sizeof *l->conns);
    l->heap = calloc(all, sizeof *l->heap);
    l->dirty = calloc(all, sizeof *l->dirty);
    if (writers) l->ring_stamps = calloc(writers * ring, sizeof *l->ring_stamps);
    if (writers && l->rate > 0) l->ring_plans = calloc(writers * ring, sizeof *l->ring_plans);
    if (l->pattern == EVB_FANOUT) l->ring_remaining = calloc(writers * ring, sizeof *l->ring_remaining);
    if (writers < all) l->ring_next = calloc(all * (l->publishers ? l->publishers : 1), sizeof *l->ring_next);
    if (!l->conns || !l->heap || !l->dirty || (writers && (!l->ring_stamps || (l->rate > 0 && !l->ring_plans))) ||
        (l->pattern == EVB_FANOUT && !l->ring_remaining) || (writers < all && !l->ring_next))
        return evb_fail(l, EVB_FAILED, "no memory for %zu connections of %zu messages in flight", all, ring);
    for (i = 0; i < all; i++) evb_set_up(l, &l->conns[i], (uint32_t)i);
    /* A second byte of its own for each process: its ports are not those that the last one has left in TIME_WAIT. */
    l->source_host = 127u << 24 | (uint32_t)(1 + getpid() % 250) << 16 | 1 << 8 | 1;
    return evb_make_buffers(l);
}

/* Close all and free all; the figures stay. */
static void evb_release(evb_load *l) {
    size_t i, all = (size_t)l->connections + l->publishers;
    for (i = 0; l->conns && i < all; i++) {
        evb_close(&l->conns[i], all >= EVB_MANY);
        free(l->conns[i].cut);
    }
    if (l->epoll_fd >= 0) close(l->epoll_fd);
    free(l->conns), free(l->heap), free(l->dirty), free(l->tx), free(l->rx);
    free(l->ring_stamps), free(l->ring_plans), free(l->ring_remaining), free(l->ring_next);
    l->conns = NULL, l->heap = l->dirty = NULL;
    l->tx = l->rx = NULL;
    l->ring_stamps = l->ring_next = NULL, l->ring_plans = NULL, l->ring_remaining = NULL;
    l->epoll_fd = -1;
    for (i = 0; i < l->classes_count; i++) {
        free(l->classes[i].sent), free(l->classes[i].expected);
        l->classes[i].sent = l->classes[i].expected = NULL;
    }
}

#endif
