/* Integers on the wire, read and written at any address.  Plain C, no Python. */

#ifndef EVLOOP_WIRE_H
#define EVLOOP_WIRE_H

#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "_wire.h assumes a little-endian machine; build with EVLOOP_PURE_BUILD=1"
#endif

#define EVL_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define EVL_MAX_VARINT 10

/* Read an unsigned integer of |order| bytes, 1..8; big-endian if order > 0.  memcpy and not a cast: the field may lie
   at any address, and compilers turn this into one load and one bswap. */
static inline uint64_t evl_load(const unsigned char *p, int order) {
    uint64_t v = 0;
    uint32_t w;
    uint16_t h;
    int i;
    if (order == 4) { /* the usual one: a comparison, and not a jump through the table of the others */
        memcpy(&w, p, 4);
        return __builtin_bswap32(w);
    }
    switch (order) {
    case -4: memcpy(&w, p, 4); return w;
    case 2: memcpy(&h, p, 2); return __builtin_bswap16(h);
    case -2: memcpy(&h, p, 2); return h;
    case 8: memcpy(&v, p, 8); return __builtin_bswap64(v);
    case -8: memcpy(&v, p, 8); return v;
    default:
        if (order > 0)
            for (i = 0; i < order; i++) v = v << 8 | p[i];
        else
            for (i = -order - 1; i >= 0; i--) v = v << 8 | p[i];
        return v;
    }
}

/* Write the low |order| bytes of v; big-endian if order > 0. */
static inline void evl_store(unsigned char *p, int order, uint64_t v) {
    int i;
    if (order == 4) {
        uint32_t w = __builtin_bswap32((uint32_t)v);
        memcpy(p, &w, 4);
    } else if (order > 0) {
        for (i = order - 1; i >= 0; i--, v >>= 8) p[i] = (unsigned char)v;
    } else {
        for (i = 0; i < -order; i++, v >>= 8) p[i] = (unsigned char)v;
    }
}

/* Read a LEB128 number; return its size, 0 if it does not end within `available`, -1 if it exceeds 64 bits.
   A plain loop: a branch-free rewrite elsewhere took three continuation bytes for a whole number. */
static inline int evl_load_varint(const unsigned char *p, int64_t available, uint64_t *value) {
    uint64_t v = 0;
    int i;
    for (i = 0; i < EVL_MAX_VARINT && i < available; i++) {
        if (i == EVL_MAX_VARINT - 1 && p[i] > 1) return -1;
        v |= (uint64_t)(p[i] & 0x7F) << (7 * i);
        if (p[i] < 0x80) {
            *value = v;
            return i + 1;
        }
    }
    return 0;
}

/* Write v as LEB128; return its size, at most EVL_MAX_VARINT. */
static inline int evl_store_varint(unsigned char *p, uint64_t v) {
    int i = 0;
    for (; v > 0x7F; v >>= 7) p[i++] = (unsigned char)(v | 0x80);
    p[i++] = (unsigned char)v;
    return i;
}

#endif
