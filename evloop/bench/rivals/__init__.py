"""The servers that are compared: one small file each, the shortest honest echo server of frames that it can be.

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
    def ours(self) -> bool:
        """Whether it is evloop."""
        return self.name.startswith("evloop-")


def _both(name: str, file: str, *needs: str) -> list[Rival]:
    return [Rival(name, file, needs), Rival(name + TUNED, file, needs, tuned=True)]


C = Rival("c", "epoll_echo.c")
C_AGAIN = Rival("c-again", "epoll_echo.c")

RIVALS: dict[str, Rival] = {
    rival.name: rival
    for rival in [
        C,
        Rival("evloop-function", "evloop_function.py"),
        Rival("evloop-protocol", "evloop_protocol.py"),
        Rival("evloop-batch", "evloop_batch.py"),
        Rival("evloop-pure", "evloop_pure.py"),
        *_both("uvloop-protocol", "uvloop_protocol.py", "uvloop"),
        *_both("aiofastnet-protocol", "aiofastnet_protocol.py", "aiofastnet", "uvloop"),
        *_both("asyncio-protocol", "asyncio_protocol.py"),
        *_both("asyncio-streams", "asyncio_streams.py"),
        Rival("gevent-server", "gevent_server.py", ("gevent",)),
        Rival("twisted-int32", "twisted_int32.py", ("twisted",)),
    ]
}
