/* Calls that come with every message: another way into a method of an extension type, and one out to Python.

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

/* Call |callback| with the argument, after the receiver if there is one; return -1 with the exception set.

   Whoever calls this holds references of its own to all three.  The array is gone before this returns, so that what
   comes last in the caller can be a jump; see docs/adr/0019. */
static inline int evl_call(PyObject *callback, PyObject *receiver, PyObject *argument) {
    PyObject *result;
    {
        /* The first place is the callee's to use, as PY_VECTORCALL_ARGUMENTS_OFFSET says. */
        PyObject *parts[3] = {NULL, receiver, argument};
        PyObject **first = receiver == NULL ? &parts[2] : &parts[1];
        size_t count = (receiver == NULL ? 1 : 2) | PY_VECTORCALL_ARGUMENTS_OFFSET;
        /* The usual case without a call to find out what to call. */
        vectorcallfunc function = PyFunction_Check(callback) ? ((PyFunctionObject *)callback)->vectorcall
                                                             : PyVectorcall_Function(callback);
        /* The interpreter has checked its result already, what PyObject_Vectorcall() does once more. */
        result = function == NULL ? PyObject_Vectorcall(callback, first, count, NULL)
                                  : function(callback, first, count, NULL);
    }
    if (result == NULL) return -1;
    Py_DECREF(result);
    return 0;
}

#endif
