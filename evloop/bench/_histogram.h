/* A histogram of durations in HdrHistogram's layout: 1 ns to an hour, three significant digits, fixed size.

   The layout is Gil Tene's (HdrHistogram; bucket arithmetic as in HdrHistogram_c's get_bucket_index): 2,048 counters of
   1 ns, and for each further power of two the 1,024 counters of its upper half, each twice as wide as those before.  So
   a counter is never wider than a thousandth of its values, recording is a shift and an addition, and histograms of
   several runs are merged by adding them up.  264 KiB, of which a run touches a few.

   Plain C, no Python.  Never here: a clock, or a sample that was not taken.
   Not thread-safe: one thread records, others read when it has ended. */

#ifndef EVLOOP_BENCH_HISTOGRAM_H
#define EVLOOP_BENCH_HISTOGRAM_H

#include <stdint.h>
#include <string.h>

#define EVB_HIST_MOST UINT64_C(3600000000000) /* ns: an hour; what takes longer counts as that */

enum {
    EVB_HIST_HALF_BITS = 10,               /* 2 ^ 11 counters hold three digits of any value: 2,000 would be enough */
    EVB_HIST_HALF = 1 << EVB_HIST_HALF_BITS,
    EVB_HIST_OCTAVES = 32,                 /* 2,048 << 31 ns is the first power of two above an hour */
    EVB_HIST_SIZE = (EVB_HIST_OCTAVES + 1) * EVB_HIST_HALF
};

typedef struct evb_histogram {
    uint64_t count;      /* samples */
    uint64_t least, most; /* ns, exact; of no samples UINT64_MAX and 0 */
    double sum;          /* ns; a double has room for all, and 53 bits are more than the mean is good for */
    uint64_t counts[EVB_HIST_SIZE];
} evb_histogram;

static inline void evb_hist_reset(evb_histogram *h) {
    memset(h, 0, sizeof *h);
    h->least = UINT64_MAX;
}

/* Return the counter of ns, which is at most EVB_HIST_MOST. */
static inline uint32_t evb_hist_index(uint64_t ns) {
    unsigned shift = 63u - EVB_HIST_HALF_BITS - (unsigned)__builtin_clzll(ns | (2 * EVB_HIST_HALF - 1));
    return (shift << EVB_HIST_HALF_BITS) + (uint32_t)(ns >> shift);
}

/* Return the largest value, in ns, that the counter at index stands for. */
static inline uint64_t evb_hist_edge(uint32_t index) {
    unsigned shift = index < 2 * EVB_HIST_HALF ? 0 : (index >> EVB_HIST_HALF_BITS) - 1;
    return ((uint64_t)(index - (shift << EVB_HIST_HALF_BITS) + 1) << shift) - 1;
}

/* Count a sample n times, n >= 1: a batch that left together and came back together is one call. */
static inline void evb_hist_record(evb_histogram *h, uint64_t ns, uint64_t n) {
    if (ns > EVB_HIST_MOST) ns = EVB_HIST_MOST;
    h->counts[evb_hist_index(ns)] += n;
    h->count += n;
    h->sum += (double)ns * (double)n;
    if (ns < h->least) h->least = ns;
    if (ns > h->most) h->most = ns;
}

/* Return the value, in ns, that the fraction (0..1) of the samples does not exceed: the upper edge of its counter, and
   never more than the largest sample; 0 without samples. */
static inline uint64_t evb_hist_percentile(const evb_histogram *h, double fraction) {
    double exact = fraction * (double)h->count * (1 - 1e-12); /* 0.999 * 1000 is a little more than 999 */
    uint64_t wanted = (uint64_t)exact, seen = 0, edge;
    uint32_t i;
    if ((double)wanted < exact || !wanted) wanted++; /* the first sample at or above, as HdrHistogram counts */
    for (i = 0; i < EVB_HIST_SIZE; i++) {
        seen += h->counts[i];
        if (seen >= wanted) {
            edge = evb_hist_edge(i);
            return edge < h->most ? edge : h->most;
        }
    }
    return h->most;
}

static inline void evb_hist_merge(evb_histogram *into, const evb_histogram *from) {
    uint32_t i;
    for (i = 0; i < EVB_HIST_SIZE; i++) into->counts[i] += from->counts[i];
    into->count += from->count;
    into->sum += from->sum;
    if (from->least < into->least) into->least = from->least;
    if (from->most > into->most) into->most = from->most;
}

#endif
