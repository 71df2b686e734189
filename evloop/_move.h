/* Copies of the size that messages have.

   A compiler that knows a bound makes of memcpy() a string instruction, which takes some ten nanoseconds to begin; one
   that knows none makes a call, which then asks for the size and the processor.  Most messages are smaller than what
   either is made for: so up to 128 bytes are moved here, by at most eight registers of 16, which overlap; and three or
   less by three moves of a byte, some of which are the same one.  */

#ifndef EVLOOP_MOVE_H
#define EVLOOP_MOVE_H

#include <string.h>

/* Copy the first and the last |n| bytes of |size|; n is a constant, and n <= size <= 2 n. */
#define EVL_ENDS(n)                                      \
    do {                                                 \
        unsigned char first[n], last[n];                 \
        memcpy(first, from, n);                          \
        memcpy(last, from + size - n, n);                \
        memcpy(to, first, n);                            \
        memcpy(to + size - n, last, n);                  \
    } while (0)

/* Copy |size| bytes, any number, between places that do not overlap. */
static inline __attribute__((always_inline)) void evl_move(unsigned char *to, const unsigned char *from, size_t size) {
    if (size > 128) {
        __asm__("" : "+r"(size)); /* else a bound that the caller has checked makes a string instruction of it */
        memcpy(to, from, size);
    } else if (size > 64)
        EVL_ENDS(64);
    else if (size > 32)
        EVL_ENDS(32);
    else if (size > 16)
        EVL_ENDS(16);
    else if (size >= 8)
        EVL_ENDS(8);
    else if (size >= 4)
        EVL_ENDS(4);
    else if (size) {
        to[0] = from[0];
        to[size >> 1] = from[size >> 1];
        to[size - 1] = from[size - 1];
    }
}

#endif
