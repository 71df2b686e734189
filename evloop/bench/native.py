"""Compile the C programs of the benchmark when they are wanted, and keep them in the user's cache directory.

Compiled on demand and not at install, so that whoever never measures needs no compiler.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sysconfig
import tempfile

HERE = pathlib.Path(__file__).parent
FLOOR = HERE / "rivals" / "epoll_echo.c"
LOAD = HERE / "load.c"
FRAMING_FLOOR = HERE / "rivals" / "framing_floor.c"
FANOUT = HERE / "fanout.c"
FANOUT_FLOOR = HERE / "rivals" / "epoll_fanout.c"

# -O2 is what distributions build with.  Not -march=native: a cache in a shared home may serve another machine.
FLAGS = ("-O2", "-Wall", "-Wextra")


class CompilerError(Exception):
    """There is no C compiler, or it refused; the message says which, and what to do."""


def compiler() -> str:
    """Return the path of the C compiler: $CC if set, else gcc, else cc; CompilerError if there is none."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "cc"]
    for name in names:
        if found := shutil.which(name):
            return found
    raise CompilerError(f"no C compiler: {' and '.join(names)} not found on PATH; apt-get install gcc")


def compiler_version(path: str) -> str:
    """Return the first line of what the compiler says about itself."""
    found = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return (found.stdout or found.stderr).partition("\n")[0]


def cache_directory() -> pathlib.Path:
    """Return where the programs are kept: evloop-bench in $XDG_CACHE_HOME, or in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(base) / "evloop-bench"


def parts(source: pathlib.Path) -> list[pathlib.Path]:
    """Return *source* and the headers of ours that it includes, each once."""
    found = [source]
    for path in found:  # grows while it is walked: headers include headers
        names = re.findall(r'^#include "(.+)"', path.read_text(), re.M)
        found += [path.with_name(name) for name in names if path.with_name(name) not in found]
    return found


def build(source: pathlib.Path, directory: pathlib.Path | None = None) -> pathlib.Path:
    """Return the program compiled from *source*, compiling it unless *directory* has it already.

    The name holds a digest of the source, its headers, the compiler's version and the flags, so that a stale one is
    never run.

    Raises:
        CompilerError: there is no compiler, or it refused the source.
        OSError: the directory cannot be written; XDG_CACHE_HOME names another.
    """
    return _build(source, directory, FLAGS, "")


def build_module(source: pathlib.Path, directory: pathlib.Path | None = None) -> pathlib.Path:
    """Return the extension module compiled from *source* for this Python, as :func:`build` does a program."""
    include = sysconfig.get_path("include")
    if not os.path.exists(os.path.join(include, "Python.h")):
        raise CompilerError(f"no Python.h in {include}; apt-get install python3-dev")
    # -O3 and the distribution's own flags: what evloop's extensions are built with, or the compiler would be compared.
    flags = (*(sysconfig.get_config_var("CFLAGS") or "").split(), "-O3", "-shared", "-fPIC", f"-I{include}")
    return _build(source, directory, flags, sysconfig.get_config_var("EXT_SUFFIX") or ".so")


def _build(source: pathlib.Path, directory: pathlib.Path | None, flags: tuple[str, ...], suffix: str) -> pathlib.Path:
    directory = cache_directory() if directory is None else directory
    path = compiler()
    text = b"".join(part.read_bytes() for part in parts(source))
    key = hashlib.sha256(text + repr((compiler_version(path), flags, suffix)).encode()).hexdigest()[:16]
    program = directory / f"{source.stem}-{key}{suffix}"
    if program.exists():
        return program
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Compiled beside its final name and renamed, so that two runs at once never meet half a program.
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        fresh = pathlib.Path(scratch) / "program"
        command = [path, *flags, "-o", str(fresh), str(source)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            raise CompilerError(f"{path} refused {source.name}: {found.stderr.strip()}")
        os.replace(fresh, program)
    return program
