"""Build the benchmark's C floor, ``_cloop``, beside this file.  It is never part of the package."""

from Cython.Build import cythonize
from setuptools import Extension, setup

# The same optimisation as evloop's own extension, or the ratio between the two would measure the compiler.
FLOOR = Extension("_cloop", ["_cloop.pyx"], depends=["_cloop.h"], extra_compile_args=["-O3"])

setup(
    name="evloop-bench-floor",
    ext_modules=cythonize([FLOOR], language_level=3, build_dir="../build/cython/bench"),
    options={"build": {"build_base": "../build/bench"}},
)
