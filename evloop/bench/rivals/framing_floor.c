/* The floor of the framing benchmark, a module of Python: what a C programmer writes for exactly one wire format, a
   4-byte big-endian length before each payload, against the CPython API and nothing else.

   It makes what evloop makes: one bytes object for each frame, one list for each chunk, with the limit checked before
   anything is allocated.  It leaves out what only a library needs: other formats, offsets and counters, sinks, a guard
   against re-entry, input other than bytes.  A chunk that raises has spoilt the decoder; it is a benchmark.

   Two choices make it fast.  A frame that a chunk has cut is received into its final bytes object, which is allocated
   at once with the size that its header announces: the cheapest correct way, and one that evloop does not take, as a
   peer that only announces would then own the memory.  And the list is filled in place while it has room, as Cython's
   own append does, so that the comparison is between decoders and not between ways to append. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define CLOOP_HEADER 4
#define CLOOP_MAX_FRAME (1u << 20) /* evloop's default */

typedef struct {
    PyObject_HEAD
    PyObject *body; /* the frame that the last chunk has cut, or NULL; owned */
    Py_ssize_t filled;
    int have; /* header bytes, while the cut went through the header */
    unsigned char header[CLOOP_HEADER];
} cloop_decoder;

static inline uint32_t cloop_load(const unsigned char *p) {
    uint32_t w;
    memcpy(&w, p, sizeof w);
    return __builtin_bswap32(w);
}

static inline void cloop_store(char *p, uint32_t n) {
    n = __builtin_bswap32(n);
    memcpy(p, &n, sizeof n);
}

static int cloop_too_large(size_t n) {
    PyErr_Format(PyExc_ValueError, "frame of %zu bytes exceeds %u", n, CLOOP_MAX_FRAME);
    return -1;
}

/* Append a frame to the list and give up our reference to it; -1 if it is NULL. */
static inline int cloop_put(PyObject *frames, PyObject *frame) {
    PyListObject *list = (PyListObject *)frames;
    Py_ssize_t n = Py_SIZE(list);
    int failed;
    if (frame == NULL) return -1;
    if (n < list->allocated) {
        list->ob_item[n] = frame;
        Py_SET_SIZE(list, n + 1);
        return 0;
    }
    failed = PyList_Append(frames, frame);
    Py_DECREF(frame);
    return failed;
}

/* Go on with the frame that the last chunk has cut; return where the next one begins, NULL on an error. */
static const unsigned char *cloop_resume(cloop_decoder *d, const unsigned char *p, const unsigned char *end,
                                         PyObject *frames) {
    Py_ssize_t n, take;
    PyObject *whole;
    if (d->body == NULL) {
        take = Py_MIN(CLOOP_HEADER - d->have, end - p);
        memcpy(d->header + d->have, p, take);
        d->have += (int)take;
        p += take;
        if (d->have < CLOOP_HEADER) return p;
        n = cloop_load(d->header);
        if (n > CLOOP_MAX_FRAME) return cloop_too_large(n), NULL;
        d->have = 0;
        if (n <= end - p) return cloop_put(frames, PyBytes_FromStringAndSize((const char *)p, n)) ? NULL : p + n;
        d->body = PyBytes_FromStringAndSize(NULL, n);
        d->filled = 0;
        if (d->body == NULL) return NULL;
    }
    n = PyBytes_GET_SIZE(d->body);
    take = Py_MIN(n - d->filled, end - p);
    memcpy(PyBytes_AS_STRING(d->body) + d->filled, p, take);
    d->filled += take;
    if (d->filled == n) {
        whole = d->body;
        d->body = NULL;
        if (cloop_put(frames, whole)) return NULL;
    }
    return p + take;
}

/* Keep p..end, the beginning of a frame whose length, if it is there, has been checked. */
static int cloop_keep(cloop_decoder *d, const unsigned char *p, const unsigned char *end) {
    if (end - p < CLOOP_HEADER) {
        d->have = (int)(end - p);
        memcpy(d->header, p, d->have);
        return 0;
    }
    d->body = PyBytes_FromStringAndSize(NULL, cloop_load(p));
    if (d->body == NULL) return -1;
    d->filled = end - p - CLOOP_HEADER;
    memcpy(PyBytes_AS_STRING(d->body), p + CLOOP_HEADER, d->filled);
    return 0;
}

static int cloop_check(PyObject *object, int right, const char *wanted) {
    if (!right) PyErr_Format(PyExc_TypeError, "%s is needed, not %s", wanted, Py_TYPE(object)->tp_name);
    return right;
}

/* Return a list of the frames that `chunk`, an exact bytes object, completes. */
static PyObject *cloop_feed(cloop_decoder *d, PyObject *chunk) {
    if (!cloop_check(chunk, PyBytes_CheckExact(chunk), "bytes")) return NULL;
    const unsigned char *p = (const unsigned char *)PyBytes_AS_STRING(chunk);
    const unsigned char *end = p + PyBytes_GET_SIZE(chunk);
    PyObject *frames = PyList_New(0);
    uint32_t n;
    if (frames == NULL) return NULL;
    if (d->body != NULL || d->have) {
        p = cloop_resume(d, p, end, frames);
        if (p == NULL) goto failed;
    }
    while (end - p >= CLOOP_HEADER) {
        n = cloop_load(p);
        if (n > CLOOP_MAX_FRAME) {
            cloop_too_large(n);
            goto failed;
        }
        if (n > end - p - CLOOP_HEADER) break;
        if (cloop_put(frames, PyBytes_FromStringAndSize((const char *)p + CLOOP_HEADER, n))) goto failed;
        p += CLOOP_HEADER + n;
    }
    if (p < end && cloop_keep(d, p, end)) goto failed;
    return frames;
failed:
    Py_DECREF(frames);
    return NULL;
}

/* Return the frame of one payload, an exact bytes object. */
static PyObject *cloop_encode(PyObject *module, PyObject *payload) {
    Py_ssize_t n;
    PyObject *frame;
    (void)module;
    if (!cloop_check(payload, PyBytes_CheckExact(payload), "bytes")) return NULL;
    n = PyBytes_GET_SIZE(payload);
    if (n > CLOOP_MAX_FRAME) return cloop_too_large(n), NULL;
    frame = PyBytes_FromStringAndSize(NULL, CLOOP_HEADER + n);
    if (frame == NULL) return NULL;
    cloop_store(PyBytes_AS_STRING(frame), (uint32_t)n);
    memcpy(PyBytes_AS_STRING(frame) + CLOOP_HEADER, PyBytes_AS_STRING(payload), n);
    return frame;
}

/* Return the frames of a list of payloads as one bytes object. */
static PyObject *cloop_encode_many(PyObject *module, PyObject *payloads) {
    Py_ssize_t count, total = 0, n, i;
    PyObject *frames, *payload;
    char *out;
    (void)module;
    if (!cloop_check(payloads, PyList_CheckExact(payloads), "a list")) return NULL;
    count = PyList_GET_SIZE(payloads);
    for (i = 0; i < count; i++) {
        payload = PyList_GET_ITEM(payloads, i);
        if (!cloop_check(payload, PyBytes_CheckExact(payload), "bytes")) return NULL;
        n = PyBytes_GET_SIZE(payload);
        if (n > CLOOP_MAX_FRAME) return cloop_too_large(n), NULL;
        total += CLOOP_HEADER + n;
    }
    frames = PyBytes_FromStringAndSize(NULL, total);
    if (frames == NULL) return NULL;
    out = PyBytes_AS_STRING(frames);
    for (i = 0; i < count; i++) {
        payload = PyList_GET_ITEM(payloads, i);
        n = PyBytes_GET_SIZE(payload);
        cloop_store(out, (uint32_t)n);
        memcpy(out + CLOOP_HEADER, PyBytes_AS_STRING(payload), n);
        out += CLOOP_HEADER + n;
    }
    return frames;
}

static void cloop_dealloc(cloop_decoder *d) {
    Py_CLEAR(d->body);
    Py_TYPE(d)->tp_free(d);
}

static PyMethodDef cloop_decoder_methods[] = {
    {"feed", (PyCFunction)cloop_feed, METH_O, "Return the list of frames that a chunk completes."},
    {0},
};

static PyTypeObject cloop_decoder_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "framing_floor.Decoder",
    .tp_doc = "A decoder of 4-byte big-endian frames of at most 1 MiB.",
    .tp_basicsize = sizeof(cloop_decoder),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)cloop_dealloc,
    .tp_methods = cloop_decoder_methods,
};

static PyMethodDef cloop_methods[] = {
    {"encode", cloop_encode, METH_O, "Return one frame."},
    {"encode_many", cloop_encode_many, METH_O, "Return the frames of a list of bytes as one bytes object."},
    {0},
};

static PyModuleDef cloop_module = {PyModuleDef_HEAD_INIT, .m_name = "framing_floor", .m_size = -1,
                                   .m_methods = cloop_methods};

PyMODINIT_FUNC PyInit_framing_floor(void) {
    PyObject *module = PyModule_Create(&cloop_module);
    if (module != NULL && PyModule_AddType(module, &cloop_decoder_type)) Py_CLEAR(module);
    return module;
}
