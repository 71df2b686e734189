/* Memory of frames, used again.

   Large ones.  A bytes object of a mebibyte comes from fresh pages each time: malloc maps it, or
   trims it off the top of the heap when it is freed, and the kernel clears 256 pages for every frame, which costs more
   than the copies in and out.  So a body that nobody holds any more is kept for one that is about to arrive.

   Small ones.  The allocator has them at hand, but to free a bytes object and to make one is a quarter of what a frame
   costs a handler of batches, and frames of one size tend to follow each other: so those are kept by size.

   Only whoever holds the one reference to a bytes object may give it: nobody can see it change then, as nobody can see
   _PyBytes_Resize move it.  Under the GIL; one small pool for the process. */

#ifndef EVLOOP_BODIES_H
#define EVLOOP_BODIES_H

#include <Python.h>
#include <stddef.h>
#include <string.h>

#include "_move.h"

#define EVL_BODY_LEAST 32768      /* below it malloc has it at hand */
#define EVL_BODIES 16
#define EVL_BODIES_TOTAL 4194304  /* bytes kept at most; what four connections with frames of a mebibyte go round in */

/* To AddressSanitizer the content of a body in the pool is freed memory, and so is the end of one that is too long. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define EVL_FORBID(start, size) ASAN_POISON_MEMORY_REGION(start, size)
#define EVL_ALLOW(start, size) ASAN_UNPOISON_MEMORY_REGION(start, size)
#else
#define EVL_FORBID(start, size) ((void)0)
#define EVL_ALLOW(start, size) ((void)0)
#endif

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
/* The hash of the bytes that it held would be taken for the next ones'. */
static inline void evl_forget_hash(PyObject *body) {
    ((PyBytesObject *)body)->ob_shash = -1;
}

static inline PyObject **evl_next_small(PyObject *body) {
    return (PyObject **)&((PyBytesObject *)body)->ob_shash;
}

/* In front of its data a bytes object keeps its hash.  These bytes hold a frame's header for the time of one system
   call, in which nobody else runs: header and body are then one piece of memory, and the kernel need not read a list of
   two, which is 0.1 to 0.3 us of 11 for 64 KiB (make bench-output).  Price: who sends a bytes object writes to it. */
#define EVL_FRONT sizeof(Py_hash_t)
_Static_assert(offsetof(PyBytesObject, ob_sval) - offsetof(PyBytesObject, ob_shash) == sizeof(Py_hash_t),
               "the hash of a bytes object is not in front of its data");
#pragma GCC diagnostic pop

static PyObject *evl_bodies[EVL_BODIES];
static int evl_bodies_count;
static Py_ssize_t evl_bodies_total;

/* Take the body at |index| out, the others in their order; its reference is the caller's. */
static PyObject *evl_remove_body(int index) {
    PyObject *body = evl_bodies[index];
    evl_bodies_count--;
    memmove(&evl_bodies[index], &evl_bodies[index + 1], (size_t)(evl_bodies_count - index) * sizeof(PyObject *));
    evl_bodies_total -= PyBytes_GET_SIZE(body);
    EVL_ALLOW(PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body) + 1);
    return body;
}

/* Take over |body|, a bytes object with one reference, which is the caller's.  The oldest make room for it: sizes that
   nobody sends any more must not fill the pool for ever. */
static void evl_give_body(PyObject *body) {
    Py_ssize_t size = PyBytes_GET_SIZE(body);
    if (size < EVL_BODY_LEAST || size > EVL_BODIES_TOTAL) {
        Py_DECREF(body);
        return;
    }
    while (evl_bodies_count == EVL_BODIES || evl_bodies_total + size > EVL_BODIES_TOTAL)
        Py_DECREF(evl_remove_body(0));
    EVL_FORBID(PyBytes_AS_STRING(body), size + 1);
    evl_bodies[evl_bodies_count++] = body;
    evl_bodies_total += size;
}

/* Return a bytes object of |size| bytes, of any content, with one reference, from the pool or new; NULL with
   MemoryError.  Of just that size: one that was made shorter would hold more than it says, and more each time. */
static PyObject *evl_take_body(Py_ssize_t size) {
    for (int i = evl_bodies_count - 1; size >= EVL_BODY_LEAST && i >= 0; i--) {
        if (PyBytes_GET_SIZE(evl_bodies[i]) != size) continue;
        PyObject *body = evl_remove_body(i);
        evl_forget_hash(body);
        return body;
    }
    return PyBytes_FromStringAndSize(NULL, size);
}

#define EVL_SMALL_END 512   /* bytes; from about here on a frame's copies cost more than its object */
#define EVL_SMALLS 512      /* objects kept at most, so 0.3 MB: twice the frames of a kilobyte that one read holds */

static PyObject *evl_smalls[EVL_SMALL_END]; /* by size, each linked to the next of its size through its hash */
static int evl_smalls_count;
/* Made here and not given back yet: no more is taken in than was given out, or bodies that came another way, whole only
   after several reads, would pile up. */
static Py_ssize_t evl_smalls_out;

/* Free all small ones: sizes that nobody sends any more must not fill the pool for ever.  Not inlined, or the registers
   that it needs were saved for each body that is given. */
static __attribute__((noinline, cold)) void evl_drop_smalls(void) {
    for (int size = 0; size < EVL_SMALL_END; size++) {
        PyObject *body;
        while ((body = evl_smalls[size]) != NULL) {
            evl_smalls[size] = *evl_next_small(body);
            Py_DECREF(body);
        }
    }
    evl_smalls_count = 0;
}

/* Take over |body|, a bytes object of 2 to EVL_SMALL_END - 1 bytes with one reference, which is the caller's. */
static inline void evl_give_small(PyObject *body) {
    if (evl_smalls_out <= 0) {
        Py_DECREF(body);
        return;
    }
    if (evl_smalls_count == EVL_SMALLS) evl_drop_smalls();
    evl_smalls_out--;
    *evl_next_small(body) = evl_smalls[PyBytes_GET_SIZE(body)];
    evl_smalls[PyBytes_GET_SIZE(body)] = body;
    evl_smalls_count++;
}

/* Return a bytes object with a copy of |size| bytes at |data|, used again or new; NULL with MemoryError. */
static inline PyObject *evl_copy(const unsigned char *data, Py_ssize_t size) {
    if (size >= EVL_SMALL_END) return PyBytes_FromStringAndSize((const char *)data, size);
    PyObject *body = evl_smalls[size];
    evl_smalls_out += size > 1;
    if (body == NULL) return PyBytes_FromStringAndSize((const char *)data, size);
    evl_smalls[size] = *evl_next_small(body);
    evl_smalls_count--;
    evl_forget_hash(body);
    evl_move((unsigned char *)PyBytes_AS_STRING(body), data, (size_t)size);
    return body;
}

/* Give |body| back, a bytes object with one reference, which is the caller's. */
static inline void evl_give(PyObject *body) {
    Py_ssize_t size = PyBytes_GET_SIZE(body);
    if (size < EVL_SMALL_END && size > 1) /* those of 0 and 1 are the interpreter's */
        evl_give_small(body);
    else if (size >= EVL_BODY_LEAST)
        evl_give_body(body);
    else
        Py_DECREF(body);
}

/* Give the item of |list| at |index| back, if it is a large bytes object that only the list holds; None takes its
   place. */
static inline void evl_give_large(PyObject *list, Py_ssize_t index) {
    PyObject *body = PyList_GET_ITEM(list, index);
    if (!PyBytes_CheckExact(body) || PyBytes_GET_SIZE(body) < EVL_BODY_LEAST || Py_REFCNT(body) != 1) return;
    Py_INCREF(Py_None);
    PyList_SET_ITEM(list, index, Py_None);
    evl_give_body(body);
}

#endif
