/* The plan of an open loop: when each message is due, whatever the server does.

   Each connection has its own arrivals, `gap` apart, or exponentially distributed around it (--poisson: the sum of
   independent Poisson processes is one).  A heap has the connection whose next message is due first.  A message that
   cannot be sent yet, because the socket is full or too many are in flight, waits with its clock running; so a server
   that stalls is charged for what would have arrived meanwhile, which a closed loop forgives (coordinated omission).

   Plain C, no Python.  Never here: a system call. */

#ifndef EVLOOP_BENCH_LOAD_PLAN_H
#define EVLOOP_BENCH_LOAD_PLAN_H

#include "_load_messages.h"

#include <math.h>

/* Return the ns between message k and the next one of a writer; the same for whoever asks. */
static inline double evb_gap(const evb_load *l, uint32_t writer, uint64_t k) {
    uint64_t draw;
    if (!l->poisson) return l->gap;
    draw = evb_mix(~l->seed ^ (uint64_t)writer << 40 ^ k) >> 11;
    return -log((double)(draw + 1) * 0x1p-53) * l->gap; /* of (0, 1], so that it is finite */
}

static void evb_sift_down(evb_conn **heap, uint32_t size, uint32_t at) {
    evb_conn *moved = heap[at];
    uint32_t child;
    while ((child = 2 * at + 1) < size) {
        if (child + 1 < size && heap[child + 1]->due < heap[child]->due) child++;
        if (heap[child]->due >= moved->due) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

/* Begin the plan: connections start one after the other within the first gap, so that they do not beat in time. */
static void evb_start_plan(evb_load *l) {
    uint32_t i, writers = 0;
    for (i = 0; i < l->connections + l->publishers; i++)
        if (l->conns[i].writes) l->heap[writers++] = &l->conns[i];
    l->heap_size = writers;
    l->gap = (double)writers / l->rate * 1e9;
    for (i = 0; i < writers; i++) {
        evb_conn *c = l->heap[i];
        c->planned = c->started;
        c->due = l->poisson ? evb_gap(l, c->writer, EVB_SEQUENCES) : l->gap * (i + 1) / writers;
        c->due_started = c->due;
    }
    for (i = writers / 2; i-- > 0;) evb_sift_down(l->heap, writers, i);
}

static inline int evb_plan_ended(const evb_load *l) {
    return !l->plan_budget || l->heap[0]->due >= l->until;
}

static inline void evb_mark(evb_load *l, evb_conn *c) {
    if (c->dirty) return;
    c->dirty = 1;
    l->dirty[l->dirty_size++] = c;
}

/* Take what is due, `now` ns after the origin, and mark the connections that have to send. */
static void evb_follow_plan(evb_load *l, double now) {
    int pops;
    for (pops = 0; pops < EVB_POPS && !evb_plan_ended(l) && l->heap[0]->due <= now; pops++) {
        evb_conn *c = l->heap[0];
        if (c->due >= l->from) {
            evb_hist_record(&l->lag, (uint64_t)(now - c->due), 1);
            l->plan_budget--;
        }
        c->due += evb_gap(l, c->writer, c->planned++);
        evb_sift_down(l->heap, l->heap_size, 0);
        evb_mark(l, c);
    }
}

#endif
