/* An extension type whose instances are awaited at the price of a function call.
 *
 * An `await` asks its object three ways, by version: Python 3.10 and 3.11 call the slot am_send, which hands over a
 * result without an exception; 3.12 and later call tp_iternext, whose result is a StopIteration; C code that drives a
 * coroutine (the task) calls am_send in all of them.  Cython fills neither for a class of ours, so they are set here,
 * both over one function.
 *
 * Rule: nothing in this file may know what is awaited. */

#ifndef EVLOOP_AWAITABLE_H
#define EVLOOP_AWAITABLE_H

#include <Python.h>

static PyObject *
evl_iternext(PyObject *self)
{
    PyObject *result = NULL;
    PySendResult done = Py_TYPE(self)->tp_as_async->am_send(self, Py_None, &result);

    if (done != PYGEN_RETURN)
        return result; /* NULL where it failed */
    /* No result and no exception is an end with None.  A tuple or an exception would be unpacked: ours give neither. */
    if (result != Py_None)
        PyErr_SetObject(PyExc_StopIteration, result);
    Py_DECREF(result);
    return NULL;
}

/* Give *type*, which has an __await__ and a __next__, its two fast slots. */
static void
evl_make_awaitable(PyTypeObject *type, sendfunc send)
{
    type->tp_as_async->am_send = send;
    type->tp_iternext = evl_iternext;
    PyType_Modified(type);
}

/* A new reference to what a weak one points at, or NULL, without an exception, where that is gone. */
static inline PyObject *
evl_referent(PyObject *reference)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *found = NULL;

    if (PyWeakref_GetRef(reference, &found) < 0)
        PyErr_Clear();
    return found;
#else
    PyObject *found = PyWeakref_GetObject(reference);

    if (found == NULL || found == Py_None)
        return NULL;
    Py_INCREF(found);
    return found;
#endif
}

#endif
