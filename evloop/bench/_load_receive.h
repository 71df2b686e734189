/* What comes back: read, checked, and only then counted.

   Plain C, no Python.  Never here: a decision about when something is sent; receiving makes room, and marks who has it.
 */

#ifndef EVLOOP_BENCH_LOAD_RECEIVE_H
#define EVLOOP_BENCH_LOAD_RECEIVE_H

#include "_load_sockets.h"

/* Replies that left together and came back together are one sample, n times. */
typedef struct evb_batch {
    uint64_t arrived, stamp, count, bytes;
} evb_batch;

static inline void evb_end_batch(evb_load *l, evb_batch *b) {
    if (b->count && l->measuring) {
        evb_hist_record(&l->service, b->arrived - b->stamp, b->count);
        l->messages += b->count;
        l->finished += b->count;
        l->bytes += b->bytes;
    }
    b->count = b->bytes = 0;
}

/* Count message k of an open loop, if it was planned for the interval that counts. */
static inline void evb_count_planned(evb_load *l, const evb_conn *c, uint64_t k, uint64_t arrived, uint32_t size) {
    double due = c->plans[k & l->mask], back = (double)(arrived - l->origin);
    if (due < l->from || due >= l->until) return;
    evb_hist_record(&l->response, back > due ? (uint64_t)(back - due) : 0, 1);
    evb_hist_record(&l->service, arrived - c->stamps[k & l->mask], 1);
    l->messages++;
    l->bytes += size;
}

static inline void evb_count_reply(evb_load *l, evb_conn *c, uint32_t size, evb_batch *b) {
    uint64_t stamp = l->pattern == EVB_CONNECT ? c->opened : c->stamps[c->rx & l->mask];
    if (l->heap_size) {
        evb_count_planned(l, c, c->rx, b->arrived, size);
        return;
    }
    if (stamp != b->stamp) evb_end_batch(l, b);
    b->stamp = stamp;
    b->count++;
    b->bytes += size;
}

/* The usual case in as few instructions as it takes: whole replies at p, of n bytes at most, that are right.  Return
   their bytes; what is wrong, cut or not owed is for the loop below to see. */
static size_t evb_take_run(evb_load *l, evb_conn *c, const uint8_t *p, size_t n, evb_batch *b) {
    const evb_class *class = l->classes;
    const uint64_t word = class->header_word, known = class->header_mask, mask = l->mask, *stamps = c->stamps;
    const size_t header = class->header, total = class->total, size = class->size;
    const int full = l->check == EVB_CHECK_FULL;
    uint64_t k = c->rx, last = k + n / total, number = evb_number(l, c->writer, k);
    const uint8_t *begin = p;
    if (last > c->tx) last = c->tx;
    for (; k < last; k++, number++, p += total) {
        if (((evb_load_word(p) ^ word) & known) | (evb_load_word(p + header) ^ number)) break;
        if (full && !evb_body_matches(class, p)) break;
        if (stamps[k & mask] != b->stamp) {
            evb_end_batch(l, b);
            b->stamp = stamps[k & mask];
        }
        b->count++;
        b->bytes += size;
    }
    c->rx = k;
    return (size_t)(p - begin);
}

/* Check n bytes in the read buffer against what c is owed. */
static int evb_take_replies(evb_load *l, evb_conn *c, size_t got, uint64_t arrived) {
    const uint8_t *p = l->rx, *end = p + got;
    evb_batch batch = {.arrived = arrived};
    while (p < end) {
        const evb_class *class = evb_class_of(l, c->writer, c->rx);
        size_t n = class->total - c->rx_at;
        if (n > (size_t)(end - p)) n = (size_t)(end - p);
        if (l->plain && n == class->total) {
            size_t right = evb_take_run(l, c, p, (size_t)(end - p), &batch);
            p += right;
            if (right) continue;
        }
        if (c->rx >= c->tx && (c->rx > c->tx || c->rx_at + n > c->tx_at))
            return evb_fail(l, EVB_WRONG, "connection %u: %zu bytes that nobody asked for after %llu replies", c->id,
                            (size_t)(end - p), (unsigned long long)c->rx);
        if (n == class->total) {
            if (!evb_matches(l, class, p, evb_number(l, c->writer, c->rx)))
                return evb_wrong(l, c, c->rx, p, 0, n);
        } else if (evb_check_piece(l, c, class, p, c->rx_at, n)) {
            return -1;
        }
        p += n;
        c->rx_at += (uint32_t)n;
        if (c->rx_at < class->total) break;
        evb_count_reply(l, c, class->size, &batch);
        c->rx_at = 0;
        c->rx++;
    }
    evb_end_batch(l, &batch);
    return 0;
}

/* ---- frames that come without being asked for: of a source, and of the publishers of a fan-out ---- */

/* Count a message that has reached the last subscriber; of an open loop from its planned time on. */
static void evb_count_completion(evb_load *l, const evb_conn *publisher, uint64_t k, uint64_t arrived) {
    if (l->heap_size) {
        double due = publisher->plans[k & l->mask];
        if (due < l->from || due >= l->until) return;
        evb_hist_record(&l->completion, (uint64_t)((double)(arrived - l->origin) - due), 1);
    } else if (l->measuring) {
        evb_hist_record(&l->completion, arrived - publisher->stamps[k & l->mask], 1);
        l->finished++;
    }
}

/* A frame of another writer: the next of it, once and in order. */
static int evb_check_published(evb_load *l, evb_conn *c, const uint8_t *frame, uint64_t arrived) {
    const evb_class *class = l->classes;
    uint64_t number = evb_load_word(frame + class->header), from = number >> 40, k = number & EVB_SEQUENCES;
    evb_conn *publisher;
    if (from >= l->publishers)
        return evb_fail(l, EVB_WRONG, "subscriber %u: a message of publisher %llu, and there are %u", c->id,
                        (unsigned long long)from, l->publishers);
    publisher = &l->conns[l->connections + from];
    if (k >= publisher->started)
        return evb_fail(l, EVB_WRONG, "subscriber %u: message %llu of publisher %llu, which was never sent", c->id,
                        (unsigned long long)k, (unsigned long long)from);
    if (k != c->next[from] && !(l->probing && k > c->next[from]))
        return evb_fail(l, EVB_WRONG, "subscriber %u: message %llu of publisher %llu in place of %llu: %s", c->id,
                        (unsigned long long)k, (unsigned long long)from, (unsigned long long)c->next[from],
                        k < c->next[from] ? "again" : "one is lost");
    c->next[from] = k + 1;
    if (l->measuring && !l->heap_size) {
        evb_hist_record(&l->service, arrived - publisher->stamps[k & l->mask], 1);
        l->messages++;
        l->bytes += class->size;
    } else if (l->heap_size) {
        evb_count_planned(l, publisher, k, arrived, class->size);
    }
    if (--publisher->remaining[k & l->mask]) return 0;
    evb_count_completion(l, publisher, k, arrived);
    publisher->rx = k + 1;
    publisher->moved = arrived;
    evb_mark(l, publisher);
    return 0;
}

/* A frame of a source: numbered from anything, one by one, its filler always that of the first. */
static int evb_check_source(evb_load *l, evb_conn *c, const uint8_t *frame) {
    evb_class *class = l->classes;
    uint64_t number = evb_load_word(frame + class->header);
    if (l->check != EVB_CHECK_LENGTH && c->rx && number != c->next[0])
        return evb_fail(l, EVB_WRONG, "connection %u: message %llu in place of %llu", c->id, (unsigned long long)number,
                        (unsigned long long)c->next[0]);
    c->next[0] = number + 1;
    if (!l->body_known) memcpy(class->expected + class->header, frame + class->header, class->size);
    l->body_known = 1;
    c->rx++;
    if (!l->measuring) return 0;
    l->messages++;
    l->finished++;
    l->bytes += class->size;
    return 0;
}

static int evb_take_frame(evb_load *l, evb_conn *c, const uint8_t *frame, uint64_t arrived) {
    const evb_class *class = l->classes;
    if (!evb_header_matches(class, frame))
        return evb_fail(l, EVB_WRONG, "connection %u, message %llu: not a frame of %u bytes", c->id,
                        (unsigned long long)c->rx, class->size);
    if (l->pattern == EVB_FANOUT ? evb_check_published(l, c, frame, arrived) : evb_check_source(l, c, frame)) return -1;
    if (l->check == EVB_CHECK_FULL && !evb_body_matches(class, frame))
        return evb_fail(l, EVB_WRONG, "connection %u, message %llu: wrong bytes after the number", c->id,
                        (unsigned long long)(c->next[0] - 1));
    return 0;
}

static int evb_take_frames(evb_load *l, evb_conn *c, size_t got, uint64_t arrived) {
    const uint8_t *p = l->rx, *end = p + got;
    size_t total = l->classes->total;
    if (c->writes) return 0; /* a publisher's own messages, if the server sends them back: it does not count them */
    while (p < end) {
        size_t n = total - c->rx_at;
        if (n > (size_t)(end - p)) n = (size_t)(end - p);
        if (n == total) {
            if (evb_take_frame(l, c, p, arrived)) return -1;
        } else {
            if (!c->cut && !(c->cut = malloc(total + EVB_SLACK)))
                return evb_fail(l, EVB_FAILED, "no memory for a frame of %zu bytes", total);
            memcpy(c->cut + c->rx_at, p, n);
            c->rx_at += (uint32_t)n;
            if (c->rx_at == total) {
                c->rx_at = 0;
                if (evb_take_frame(l, c, c->cut, arrived)) return -1;
            }
        }
        p += n;
    }
    return 0;
}

/* Read once, and check and count what came. */
static int evb_receive(evb_load *l, evb_conn *c) {
    ssize_t got = recv(c->fd, l->rx, EVB_BUFFER, 0);
    uint64_t arrived;
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (got < 0)
        return evb_fail(l, EVB_GONE, "connection %u: %s after %llu replies", c->id, evb_reason(errno),
                        (unsigned long long)c->rx);
    if (!got && c->rx_at)
        return evb_fail(l, EVB_GONE, "connection %u: closed by the server inside reply %llu, after %u bytes of it",
                        c->id, (unsigned long long)c->rx, c->rx_at);
    if (!got)
        return evb_fail(l, EVB_GONE, "connection %u: closed by the server after %llu replies", c->id,
                        (unsigned long long)c->rx);
    if (l->pattern == EVB_SINK)
        return evb_fail(l, EVB_WRONG, "connection %u: %zd bytes of a server that was to send none", c->id, got);
    arrived = evb_now();
    c->moved = arrived;
    l->reads += (uint64_t)l->measuring;
    return evb_answers(l) ? evb_take_replies(l, c, (size_t)got, arrived) : evb_take_frames(l, c, (size_t)got, arrived);
}

#endif
