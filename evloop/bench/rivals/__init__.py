"""The servers that are compared: one small file each, the shortest honest echo server of frames that it can be.

Raw ones echo bytes as they come; those of asyncio are one program for all loops, which takes the loop's name.
Each is run as a script in a process of its own, prints ``LISTENING tcp 127.0.0.1:PORT`` and serves until it is killed.
They are not type-checked: most rivals have no types, and a reader should see the server and nothing else.
"""

from __future__ import annotations

import importlib.util
import pathlib
from typing import NamedTuple

HERE = pathlib.Path(__file__).parent

# asyncio asks for 256 KiB a read.  Above glibc's threshold that is an mmap, a munmap and page faults each time, unless
# the process has by chance raised the threshold before; so that family is shown under both settings.
TUNED_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "4194304", "MALLOC_TRIM_THRESHOLD_": "16777216"}
TUNED = "+malloc"


class Rival(NamedTuple):
    """A row of the table."""

    name: str
    file: str
    needs: tuple[str, ...] = ()  # distributions, each also the name of its module
    tuned: bool = False  # with TUNED_MALLOC
    arguments: tuple[str, ...] = ()
    raw: bool = False  # echoes bytes as they come; only raw cases are for it, and all others for the rest
    program: str = ""  # the file of which this is the program in another's terms; empty: its own

    @property
    def path(self) -> pathlib.Path:
        """The server's source."""
        return HERE / self.file

    @property
    def environment(self) -> dict[str, str]:
        """What it needs in the environment, beside the common part."""
        return TUNED_MALLOC if self.tuned else {}

    @property
    def missing(self) -> list[str]:
        """The distributions that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    @property
    def on_aio(self) -> bool:
        """Whether it is a program of asyncio on evloop's event loop."""
        return self.arguments[:1] == ("evloop.aio",)

    def is_like(self, other: Rival) -> bool:
        """Whether it is the same program as another row, on another loop."""
        return (self.program or self.file) == (other.program or other.file)

    @property
    def ours(self) -> bool:
        """Whether it is evloop."""
        return self.name.startswith("evloop-")


# The distributions that each loop needs.
_LOOPS = {
    "evloop.aio": (),
    "uvloop": ("uvloop",),
    "aiofastnet": ("aiofastnet", "uvloop"),
    "rloop": ("rloop",),
    "asyncio": (),
}


def _both(rival: Rival) -> list[Rival]:
    """Return the two rows of a program of asyncio's family, one for each setting of malloc."""
    return [rival, rival._replace(name=rival.name + TUNED, tuned=True)]


def _on(loops: str, kind: str) -> list[Rival]:
    """Return the rows of one program of asyncio on each of the *loops*."""
    rows = []
    for loop in loops.split():
        name = f"{loop.replace('.', '-')}-{kind}"
        rows += _both(Rival(name, f"asyncio_{kind}.py", _LOOPS[loop], arguments=(loop,), raw=kind == "raw"))
    return rows


C = Rival("c", "epoll_echo.c")
C_AGAIN = C._replace(name="c-again")
C_RAW = C._replace(name="c-raw", arguments=("--raw",), raw=True)
C_RAW_AGAIN = C_RAW._replace(name="c-raw-again")

RIVALS: dict[str, Rival] = {
    rival.name: rival
    for rival in [
        C,
        Rival("evloop-function", "evloop_function.py"),
        Rival("evloop-protocol", "evloop_protocol.py"),
        Rival("evloop-batch", "evloop_batch.py"),
        Rival("evloop-coroutine", "evloop_coroutine.py"),
        Rival("evloop-pure", "evloop_pure.py"),
        *_on("evloop.aio uvloop aiofastnet rloop asyncio", "protocol"),
        *_on("evloop.aio uvloop aiofastnet rloop asyncio", "streams"),
        *_both(Rival("evloop-streams", "evloop_streams.py", arguments=("evloop.aio",), program="asyncio_streams.py")),
        C_RAW,
        *_on("evloop.aio uvloop aiofastnet rloop asyncio", "raw"),
        Rival("gevent-server", "gevent_server.py", ("gevent",)),
        *_both(Rival("tornado-tcpserver", "tornado_server.py", ("tornado",))),
        Rival("trio-server", "trio_server.py", ("trio",)),
        Rival("socketserver-threads", "socketserver_threads.py"),
        Rival("twisted-int32", "twisted_int32.py", ("twisted",)),
    ]
}
