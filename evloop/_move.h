/* Copies of the size that messages have.

   A compiler that knows a bound makes of memcpy() a string instruction, which takes some ten nanoseconds to begin; one
   that knows none makes a call, which then asks for the size and the processor.  Most messages are smaller than what
   either is made for: so up to 128 bytes are moved here, by at most eight registers of 16, which overlap; and three or
   less by three moves of a byte, some of which are the same one.  */

#ifndef EVLOOP_MOVE_H
#define EVLOOP_MOVE_H

#include <stdint.h>
#include <string.h>

/* What one register takes; arrays would be written to the stack on their way. */
typedef unsigned char evl_16 __attribute__((vector_size(16)));

#define EVL_PART(type, at)                          \
    do {                                            \
        type part;                                  \
        memcpy(&part, from + (at), sizeof part);    \
        memcpy(to + (at), &part, sizeof part);      \
    } while (0)

/* Copy |size| bytes, any number, between places that do not overlap. */
static inline __attribute__((always_inline)) void evl_move(unsigned char *to, const unsigned char *from, size_t size) {
    if (size > 128) {
        __asm__("" : "+r"(size)); /* else a bound that the caller has checked makes a string instruction of it */
        memcpy(to, from, size);
    } else if (size >= 16) {
        /* Sixteen from each end, and as many more as it takes for the two to meet. */
        EVL_PART(evl_16, 0);
        EVL_PART(evl_16, size - 16);
        if (size <= 32) return;
        EVL_PART(evl_16, 16);
        EVL_PART(evl_16, size - 32);
        if (size <= 64) return;
        EVL_PART(evl_16, 32);
        EVL_PART(evl_16, 48);
        EVL_PART(evl_16, size - 64);
        EVL_PART(evl_16, size - 48);
    } else if (size >= 8) {
        EVL_PART(uint64_t, 0);
        EVL_PART(uint64_t, size - 8);
    } else if (size >= 4) {
        EVL_PART(uint32_t, 0);
        EVL_PART(uint32_t, size - 4);
    } else if (size) {
        to[0] = from[0];
        to[size >> 1] = from[size >> 1];
        to[size - 1] = from[size - 1];
    }
}

#endif
