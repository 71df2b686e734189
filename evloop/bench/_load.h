/* The load generator: what a load is, as data, and what all of its parts share.

   One thread, one epoll, no Python object while it runs.  The parts, in the order in which they stand on each other:
   _load_messages.h builds and checks, _load_plan.h says when, _load_sockets.h connects and sends, _load_receive.h
   receives, _load_run.h turns the wheel.

   Plain C, no Python.  Never here: knowledge of any server; a reply that is counted before it is checked.
   A load belongs to the thread that runs it; of another thread it may be given `stop` and asked for what evb_peek reads.
 */

#ifndef EVLOOP_BENCH_LOAD_H
#define EVLOOP_BENCH_LOAD_H

#include "_histogram.h"
#include "_syscalls.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum evb_pattern { EVB_ECHO, EVB_UPPER, EVB_SINK, EVB_SOURCE, EVB_CONNECT, EVB_IDLE, EVB_FANOUT };
enum evb_check { EVB_CHECK_LENGTH, EVB_CHECK_SEQUENCE, EVB_CHECK_FULL };
enum evb_phase { EVB_ESTABLISHING, EVB_WARMING, EVB_MEASURING, EVB_DRAINING, EVB_ENDED };
enum evb_code { EVB_DONE = 0, EVB_FAILED = 1, EVB_NO_CONNECT = 3, EVB_STALLED = 4, EVB_GONE = 5, EVB_WRONG = 7 };

enum {
    EVB_BUFFER = 256 << 10, /* one read, and one write of small messages */
    EVB_EVENTS = 512,       /* 6 KiB; enough that epoll_wait is a small part of a busy turn */
    EVB_OPENING = 32,       /* connects under way at a time: below every backlog in use (Twisted's is 50) */
    EVB_MANY = 1000,        /* connections from which source addresses rotate; an address has 28,000 ports */
    EVB_NUMBER = 8,         /* bytes of the payload that number it; the rest is filler */
    EVB_SLACK = 64,         /* after each buffer, so that eight bytes may be loaded and stored at its last one */
    EVB_CLASSES = 16,       /* sizes in a mix */
    EVB_SERVERS = 64,       /* processes of the server whose CPU is added up */
    EVB_POPS = 4096         /* of the plan per turn: 0.2 ms, after which replies are looked at again */
};

#define EVB_SEQUENCES ((UINT64_C(1) << 40) - 1) /* messages of a connection; a million a second for 12 days */
#define EVB_UNBOUNDED (UINT64_MAX >> 1)        /* a budget that is none; a count may still be added to it */
#define EVB_TICK UINT64_C(100000000)            /* ns between two looks for connections that have stalled */

/* One size of message, as it is sent and as it must come back. */
typedef struct evb_class {
    uint32_t header, size, total;        /* bytes: of the header, of the payload, of both */
    uint64_t header_word, header_mask;   /* the first bytes of a header of up to eight, as one word */
    uint64_t number_mask;                /* of the number, what a short payload has room for */
    uint64_t share;                      /* of 2^32: a draw below is of this class, or of one before */
    uint8_t *sent, *expected;            /* [total + EVB_SLACK] */
} evb_class;

/* Both directions of a connection are known streams: message k has a class, a number and filler, and nothing else.  So
   a connection needs no buffer; positions in the two say what to send next and what must come back. */
typedef struct evb_conn {
    int fd;
    uint32_t id, writer;       /* writer: who a message says it is from; of a publisher its place among them */
    uint64_t started, tx, rx;  /* messages: given a stamp, wholly sent, answered */
    uint32_t tx_at, rx_at;     /* bytes of the next one */
    uint64_t allowed;          /* before the run: messages that it may send */
    uint64_t planned;          /* open loop: messages whose time has come */
    double due, due_started;   /* ns after the origin: of message `planned`, and of message `started` */
    uint64_t *stamps;          /* [ring] ns; when message k was handed to the kernel is stamps[k & mask] */
    double *plans;             /* [ring], open loop: ns after the origin; when it was to be sent */
    uint32_t *remaining;       /* [ring], a publisher's: subscribers that have not got it */
    uint64_t *next;            /* a reader's, of each writer: the number to come */
    uint8_t *cut;              /* a reader's: the frame that a read has cut, as far as it is there */
    uint64_t moved, opened;    /* ns; when bytes came or first were awaited; when connect was called */
    uint8_t connected, greeted, writes, watched, dirty; /* greeted: the server has answered, or need not */
    uint8_t waits;             /* the server's queue of connects was full */
} evb_conn;

typedef struct evb_load {
    /* What is asked for. */
    int pattern, check, poisson;
    uint32_t connections, publishers, in_flight, classes_count;
    evb_class classes[EVB_CLASSES];
    double rate;                           /* messages a second over all connections; 0: closed loop */
    uint64_t seed, warmup, duration, count, timeout; /* ns, but for the count; a count of 0: until the duration */
    struct sockaddr_storage address;
    socklen_t address_size;
    uint32_t servers;
    clockid_t server_clocks[EVB_SERVERS];

    /* What it works with. */
    int epoll_fd;
    uint64_t mask;             /* of the rings */
    uint64_t case_bits;        /* what the server changes in a number: of `upper`, a letter's case */
    int plain;                 /* one size, a short header, closed loop: what the short loops are for */
    int body_known;            /* of `source`: the filler has been seen */
    uint32_t burst;            /* messages in the send buffer */
    size_t room;               /* bytes of it */
    uint8_t *tx, *rx;
    evb_conn *conns, **heap, **dirty;
    uint64_t *ring_stamps, *ring_next;
    double *ring_plans;
    uint32_t *ring_remaining;
    uint32_t heap_size, dirty_size, opened, greeted, retries, source_host;
    uint64_t now, scanned, origin, budget;
    uint32_t asks;             /* messages by which a connection is greeted */
    uint64_t plan_budget;
    double gap, from, until;   /* ns: between two messages of a connection; the interval that counts, of the plan */
    int running, measuring, probing;
    int stop;                  /* set by another thread */

    /* What it has found. */
    int phase, code, reason;   /* reason: of a connect that has failed, an errno */
    char error[300];
    uint64_t messages, finished, bytes, reads, unsent, unanswered;
    uint64_t begin, end;       /* ns */
    double client_cpu, client_wait, server_cpu; /* s; server_cpu below 0: not known */
    evb_histogram service, response, lag, completion;
} evb_load;

static inline uint64_t evb_clock(clockid_t clock) {
    struct timespec ts;
    if (clock_gettime(clock, &ts)) return 0;
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline uint64_t evb_now(void) {
    return evb_clock(CLOCK_MONOTONIC);
}

/* Keep the first failure, and return -1. */
__attribute__((format(printf, 3, 4), cold)) static int evb_fail(evb_load *l, int code, const char *format, ...) {
    va_list args;
    if (!l->code) {
        l->code = code;
        va_start(args, format);
        vsnprintf(l->error, sizeof l->error, format, args);
        va_end(args);
    }
    return -1;
}

__attribute__((cold)) static int evb_refused(evb_load *l, int reason) {
    l->reason = reason;
    return evb_fail(l, EVB_NO_CONNECT, "cannot connect: %s", strerror(reason));
}

static inline void evb_set_phase(evb_load *l, int phase) {
    __atomic_store_n(&l->phase, phase, __ATOMIC_RELAXED);
}

static inline int evb_stopped(const evb_load *l) {
    return __atomic_load_n(&l->stop, __ATOMIC_RELAXED);
}

/* For another thread: the phase, the messages that count so far, and the connections that were greeted. */
static inline void evb_peek(const evb_load *l, int *phase, uint64_t *messages, uint32_t *greeted) {
    *phase = __atomic_load_n(&l->phase, __ATOMIC_RELAXED);
    *messages = __atomic_load_n(&l->messages, __ATOMIC_RELAXED);
    *greeted = __atomic_load_n(&l->greeted, __ATOMIC_RELAXED);
}

#endif
