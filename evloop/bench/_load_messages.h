/* Messages: which one is next, what it looks like on the wire, and whether that is what came back.

   A message is built from a template by writing its number, and checked by comparing two words.  Nothing is parsed: what
   must come is known, so any framing is a header to compare with.

   Plain C, no Python.  Never here: a socket or a clock. */

#ifndef EVLOOP_BENCH_LOAD_MESSAGES_H
#define EVLOOP_BENCH_LOAD_MESSAGES_H

#include "_load.h"

static inline uint64_t evb_load_word(const uint8_t *p) {
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

/* Mix 64 bits (the finalizer of splitmix64, by Steele, Lea and Flood): a draw that needs no state, so that the sender
   and the receiver of message k come to the same one. */
static inline uint64_t evb_mix(uint64_t x) {
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static inline const evb_class *evb_class_of(const evb_load *l, uint32_t writer, uint64_t k) {
    const evb_class *class = l->classes;
    uint64_t draw;
    if (l->classes_count == 1) return class;
    draw = evb_mix(l->seed ^ (uint64_t)writer << 40 ^ k) >> 32;
    while (draw >= class->share) class++;
    return class;
}

/* Return the number of message k: connection and count.  For a server that changes the case of letters it is made of
   letters, four bits each, which leave room for 2 ^ 20 messages before they come round: more than are in flight. */
static inline uint64_t evb_number(const evb_load *l, uint32_t writer, uint64_t k) {
    uint64_t n;
    if (!l->case_bits) return (uint64_t)writer << 40 | k;
    n = (uint64_t)(writer & 0xfff) << 20 | (k & 0xfffff);
    n = (n | n << 16) & UINT64_C(0x0000ffff0000ffff);
    n = (n | n << 8) & UINT64_C(0x00ff00ff00ff00ff);
    n = (n | n << 4) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return n + UINT64_C(0x6161616161616161);
}

static inline void evb_put_number(uint8_t *payload, uint32_t size, uint64_t number) {
    if (size >= EVB_NUMBER)
        memcpy(payload, &number, EVB_NUMBER);
    else
        memcpy(payload, &number, size);
}

/* Put messages of c, from the next to be sent up to limit (not included), into the send buffer, as many as fit and at
   least one; return their bytes. */
static size_t evb_build(evb_load *l, const evb_conn *c, uint64_t limit, uint32_t *count) {
    const evb_class *class = l->classes;
    uint64_t wanted = limit - c->tx;
    uint32_t i = 0;
    size_t at = 0;
    if (l->plain) {
        uint64_t number = evb_number(l, c->writer, c->tx);
        uint8_t *payload = l->tx + class->header;
        *count = wanted < l->burst ? (uint32_t)wanted : l->burst;
        for (; i < *count; i++, payload += class->total, number++) memcpy(payload, &number, EVB_NUMBER);
        return (size_t)i * class->total;
    }
    if (l->classes_count == 1) {
        *count = wanted < l->burst ? (uint32_t)wanted : l->burst;
        for (; i < *count; i++, at += class->total)
            evb_put_number(l->tx + at + class->header, class->size, evb_number(l, c->writer, c->tx + i));
        return at;
    }
    for (; i < wanted; i++, at += class->total) {
        class = evb_class_of(l, c->writer, c->tx + i);
        if (at && at + class->total > l->room) break;
        memcpy(l->tx + at, class->sent, class->total);
        evb_put_number(l->tx + at + class->header, class->size, evb_number(l, c->writer, c->tx + i));
    }
    *count = i;
    return at;
}

static inline int evb_header_matches(const evb_class *class, const uint8_t *p) {
    if (class->header <= sizeof(uint64_t)) return !((evb_load_word(p) ^ class->header_word) & class->header_mask);
    return !memcmp(p, class->expected, class->header);
}

static inline int evb_body_matches(const evb_class *class, const uint8_t *p) {
    uint32_t known = class->header + EVB_NUMBER;
    return class->total <= known || !memcmp(p + known, class->expected + known, class->total - known);
}

/* Tell whether the whole message at p has the length, the number and, if all bytes are to be checked, the filler. */
static inline int evb_matches(const evb_load *l, const evb_class *class, const uint8_t *p, uint64_t number) {
    if (!evb_header_matches(class, p)) return 0;
    if ((evb_load_word(p + class->header) ^ number ^ l->case_bits) & class->number_mask) return 0;
    return l->check != EVB_CHECK_FULL || evb_body_matches(class, p);
}

/* Say what is wrong with the n bytes at p, which begin at byte `at` of message k of c; return -1.  What: reply, message. */
__attribute__((cold)) static int evb_wrong(evb_load *l, const evb_conn *c, uint64_t k, const uint8_t *p, uint32_t at,
                                           size_t n) {
    const evb_class *class = evb_class_of(l, c->writer, k);
    uint64_t number = evb_number(l, c->writer, k) ^ l->case_bits, came;
    uint32_t numbered = class->header + (class->size < EVB_NUMBER ? class->size : EVB_NUMBER), i = at;
    uint8_t expected, *word = (uint8_t *)&number;
    for (;; i++) {
        if (i - at >= n) return evb_fail(l, EVB_WRONG, "connection %u, reply %llu: wrong", c->id, (unsigned long long)k);
        expected = i >= class->header && i < numbered ? word[i - class->header] : class->expected[i];
        if (p[i - at] != expected) break;
    }
    came = i >= class->header && !at && n >= class->total && class->size >= EVB_NUMBER && class->header && !l->case_bits
               ? evb_load_word(p + class->header) : UINT64_MAX;
    if (i < numbered && came >> 40 == c->writer && (came & EVB_SEQUENCES) < c->started)
        return evb_fail(l, EVB_WRONG, "connection %u: reply %llu came in place of reply %llu", c->id,
                        (unsigned long long)(came & EVB_SEQUENCES), (unsigned long long)k);
    return evb_fail(l, EVB_WRONG, "connection %u, reply %llu: wrong %s at byte %u of %u: 0x%02x in place of 0x%02x", c->id,
                    (unsigned long long)k, i < class->header ? "length" : i < numbered ? "number" : "byte", i,
                    class->total, p[i - at], expected);
}

/* Compare n bytes at p with message k of c from its byte `at` on; they lie in that message. */
static int evb_check_piece(evb_load *l, const evb_conn *c, const evb_class *class, const uint8_t *p, uint32_t at,
                           size_t n) {
    uint64_t number = evb_number(l, c->writer, c->rx) ^ l->case_bits;
    uint32_t numbered = class->header + (class->size < EVB_NUMBER ? class->size : EVB_NUMBER), i = at;
    for (; i < numbered && i - at < n; i++) {
        uint8_t expected = i < class->header ? class->expected[i] : ((uint8_t *)&number)[i - class->header];
        if (p[i - at] != expected) return evb_wrong(l, c, c->rx, p, at, n);
    }
    if (l->check == EVB_CHECK_FULL && i - at < n && memcmp(p + (i - at), class->expected + i, n - (i - at)))
        return evb_wrong(l, c, c->rx, p, at, n);
    return 0;
}

static int evb_make_buffers(evb_load *l) {
    uint32_t i, largest = 1;
    for (i = 0; i < l->classes_count; i++)
        if (l->classes[i].total > largest) largest = l->classes[i].total;
    l->burst = EVB_BUFFER / largest;
    if (l->burst > l->in_flight) l->burst = l->in_flight;
    if (!l->burst) l->burst = 1;
    l->room = l->classes_count == 1 ? (size_t)l->burst * largest : largest > EVB_BUFFER ? largest : EVB_BUFFER;
    l->tx = malloc(l->room + EVB_SLACK);
    l->rx = malloc(EVB_BUFFER + EVB_SLACK);
    if (!l->tx || !l->rx) return evb_fail(l, EVB_FAILED, "no memory for buffers of %zu bytes", l->room);
    memset(l->rx + EVB_BUFFER, 0, EVB_SLACK);
    for (i = 0; l->classes_count == 1 && i < l->burst; i++)
        memcpy(l->tx + (size_t)i * largest, l->classes[0].sent, l->classes[0].total);
    return 0;
}

#endif
