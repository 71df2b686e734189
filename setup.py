"""The extensions, and nothing else: metadata is in pyproject.toml.

EVLOOP_PURE_BUILD=1 builds without a compiler.  It has to be asked for: a package that silently lacks its
extensions is slow on the machine where nobody looks.  EVLOOP_SANITIZE=1 builds for `make test-asan`; a process that
loads such an extension must have libasan loaded before.
"""

import os
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, PlatformError

REMEDY = (
    "evloop: the C compiler failed on {}; its words are above. Install a compiler and the Python headers "
    "(Debian, Ubuntu: apt-get install gcc python3-dev), or set EVLOOP_PURE_BUILD=1 for the slower pure-Python build."
)

# -UNDEBUG: the assertions of Python's own headers, such as that PyList_GET_SIZE is given a list.  -fno-wrapv: Python's
# flags make signed overflow wrap, and what wraps UBSan does not report.  The rest is what the sanitizers ask for.
SANITIZERS = "-fsanitize=address,undefined"
SANITIZED = [SANITIZERS, "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-O1", "-g", "-UNDEBUG",
             "-fno-wrapv", "-U_FORTIFY_SOURCE"]  # fmt: skip


class BuildExtensions(build_ext):
    """Turn the compiler's failure into one sentence with the remedy."""

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except (CompileError, PlatformError):
            sys.exit(REMEDY.format(ext.sources[0]))


def extensions():
    if os.environ.get("EVLOOP_PURE_BUILD") == "1":
        return []
    from Cython.Build import cythonize

    # -O3 over the distribution's -O2: the decode loop gains from unrolled header loads; see bench/test_framing.py.
    options = {"include_dirs": ["evloop", "evloop/aio"], "extra_compile_args": ["-O3", "-Wno-pointer-sign"]}
    if os.environ.get("EVLOOP_SANITIZE") == "1":
        options["extra_compile_args"] += SANITIZED
        options["extra_link_args"] = [SANITIZERS]
    names = ("_wire", "_move", "_prefetch", "_bodies", "_scan", "_enter", "_syscalls", "aio/_awaitable")
    headers = [f"evloop/{name}.h" for name in names]
    asyncio = ("aio._core", "aio._datagram", "aio._session", "aio._streams", "aio._transport")
    compiled = [
        Extension(f"evloop.{name}", [f"evloop/{name.replace('.', '/')}.pyx"], depends=headers, **options)
        for name in ("_framing", "_reactor", "_connection", "_group", *asyncio)
    ]
    parts = ["_histogram.h", *(f"_load{part}.h" for part in ("", "_messages", "_plan", "_sockets", "_receive", "_run"))]
    load = dict(options, include_dirs=["evloop", "evloop/bench"], libraries=["m"])
    headers = ["evloop/_syscalls.h", *(f"evloop/bench/{part}" for part in parts)]
    compiled.append(Extension("evloop.bench._load", ["evloop/bench/_load.pyx"], depends=headers, **load))
    annotate = os.environ.get("EVLOOP_ANNOTATE") == "1"
    # language_level is set here once; safety directives (boundscheck, ...) stand on the functions that need them.
    return cythonize(compiled, language_level=3, build_dir="build/cython", annotate=annotate)


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExtensions})
