/* Another way into a method of an extension type.

   A method that Cython compiles is entered through code that makes of a call's arguments what the signature says: 50
   instructions for one of three arguments of which two are left out.  Where a call comes with every message, a function
   of our own is entered first, which knows the usual call and hands on any other one.

   Rule: nothing in this file may know which method. */

#ifndef EVLOOP_ENTER_H
#define EVLOOP_ENTER_H

#include <Python.h>

/* What METH_FASTCALL | METH_KEYWORDS stands for. */
typedef PyObject *(*evl_entry)(PyObject *self, PyObject **args, Py_ssize_t count, PyObject *names);

/* Have |method|, of that kind and of an extension type, as its class shows it, entered at |entry|; return where it was
   entered before, or NULL with TypeError. */
static evl_entry evl_enter_at(PyObject *method, evl_entry entry) {
    PyMethodDef *definition;
    evl_entry before;
    if (!Py_IS_TYPE(method, &PyMethodDescr_Type) ||
        ((PyMethodDescrObject *)method)->d_method->ml_flags != (METH_FASTCALL | METH_KEYWORDS)) {
        PyErr_Format(PyExc_TypeError, "%R is not a builtin method with keywords", method);
        return NULL;
    }
    definition = ((PyMethodDescrObject *)method)->d_method;
    before = (evl_entry)(void (*)(void))definition->ml_meth;
    definition->ml_meth = (PyCFunction)(void (*)(void))entry;
    return before;
}

#endif
