/* Asking for memory some microseconds before it is wanted.  Plain C, no Python. */

#ifndef EVLOOP_PREFETCH_H
#define EVLOOP_PREFETCH_H

#include <stddef.h>

/* Have the processor fetch |size| bytes, at least one, to be written to; any address will do, and none is looked at. */
static inline void evl_prefetch(const void *start, size_t size) {
    const char *at = start, *last = at + size - 1;
    for (; at < last; at += 64) /* a line of memory, of every processor that matters */
        __builtin_prefetch(at, 1);
    __builtin_prefetch(last, 1);
}

#endif
