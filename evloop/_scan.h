/* The inner loop of the decoder: whole frames whose header is a length of fixed width, and a list that takes them.

   Sixteen frames of 64 bytes a read are what a busy connection gets, and then this loop is a third of what the server
   does in user space.  So it keeps everything in registers, knows the usual width at compile time, and hands over
   batches of frames instead of calling the list for each.

   Never here: a frame that needs a closer look; a byte that was not checked to be there.  Under the GIL. */

#ifndef EVLOOP_SCAN_H
#define EVLOOP_SCAN_H

#include "_bodies.h"
#include "_wire.h"

#define EVL_BATCH 64 /* frames; half a kilobyte of stack, and more than most reads hold */

typedef struct {
    const unsigned char *at, *end; /* the next header, and the end of what has come */
    uint64_t low, high;            /* lengths to take, as they are on the wire */
    int64_t delta;                 /* to subtract from them for the payload's size */
    int order;                     /* bytes of the length; negative if little-endian */
    int failed;                    /* an allocation; its MemoryError is set */
    Py_ssize_t payload, largest;   /* bytes, of all taken and of one */
    PyObject *frames[EVL_BATCH];
} evl_scanner;

/* Take at most |room| frames, which is at most EVL_BATCH; return how many. */
static inline __attribute__((always_inline)) Py_ssize_t evl_scan_as(evl_scanner *s, Py_ssize_t room, const int order) {
    const unsigned char *at = s->at, *const end = s->end;
    const uint64_t low = s->low, high = s->high;
    const int64_t delta = s->delta;
    const Py_ssize_t head = order < 0 ? -order : order;
    Py_ssize_t taken = 0, payload = 0, largest = s->largest;
    while (taken < room && end - at >= head) {
        uint64_t value = evl_load(at, order);
        /* Unsigned, and before any arithmetic: a length from the wire never reaches a pointer unchecked. */
        if (value < low || value > high) break;
        Py_ssize_t size = (Py_ssize_t)((int64_t)value - delta);
        if (size > end - at - head) break;
        PyObject *frame = evl_copy(at + head, size);
        if (frame == NULL) {
            s->failed = 1;
            break;
        }
        s->frames[taken++] = frame;
        at += head + size;
        payload += size;
        if (size > largest) largest = size;
    }
    s->at = at;
    s->payload += payload;
    s->largest = largest;
    return taken;
}

static Py_ssize_t evl_scan(evl_scanner *s, Py_ssize_t room) {
    if (room > EVL_BATCH) room = EVL_BATCH;
    return s->order == 4 ? evl_scan_as(s, room, 4) : evl_scan_as(s, room, s->order);
}

/* Return -1, with the MemoryError set, if an allocation has failed. */
static inline int evl_scanned(const evl_scanner *s) { return s->failed ? -1 : 0; }

/* Append |count| objects to a list that nobody else has seen, and give their references to it; return -1 and let them
   go if there is no memory.  As PyList_Append() does, but once for all of them. */
static int evl_extend(PyObject *list, PyObject **objects, Py_ssize_t count) {
    PyListObject *to = (PyListObject *)list;
    Py_ssize_t size = PyList_GET_SIZE(list);
    if (size + count > to->allocated) {
        Py_ssize_t room = size ? 2 * size + count : count;
        PyObject **items = PyMem_Realloc(to->ob_item, (size_t)room * sizeof *items);
        if (items == NULL) {
            while (count) Py_DECREF(objects[--count]);
            PyErr_NoMemory();
            return -1;
        }
        to->ob_item = items;
        to->allocated = room;
    }
    evl_move((unsigned char *)(to->ob_item + size), (unsigned char *)objects, (size_t)count * sizeof *objects);
    Py_SET_SIZE(to, size + count);
    return 0;
}

/* Give back the bytes objects of a list that only the caller holds, and that he is about to let go: those that only
   the list holds, from its end on to the first that is something else.  Nobody's code runs in this. */
static void evl_give_items(PyObject *list) {
    Py_ssize_t size = PyList_GET_SIZE(list);
    while (size) {
        PyObject *body = PyList_GET_ITEM(list, size - 1);
        if (!PyBytes_CheckExact(body) || Py_REFCNT(body) != 1) break;
        size--;
        evl_give(body);
    }
    Py_SET_SIZE((PyListObject *)list, size);
}

#endif
