"""The file that tells whoever started a server where it listens: ``--port-file``.

Rule: nothing in this file may open a socket.  Read next: ``serve.py``.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING

import evloop
from evloop.cli import exits

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("evloop")


class PortFile:
    """``{"pid": 4711, "listening": ["tcp 127.0.0.1:9000"]}``, at *path* (str; "": no file) while the server runs.

    With ``--admin`` there is ``"admin"`` with its addresses, too: in front, since a script that takes the last address
    of the line with sed(1) takes one that is served.

    A context manager.  Entering it makes the file under another name: a path that cannot be written is found before
    anything listens.  :meth:`write` fills and renames it, so a reader sees all of it or nothing (rename(2)).  Leaving
    removes it, unless it is another server's by then.

    Raises: exits.Failure: the file cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._temporary = ""
        self._file: TextIOWrapper | None = None
        self._written: tuple[int, int, int] | None = None

    def __enter__(self) -> Self:
        if not self._path:
            return self
        if os.path.isdir(self._path):
            raise exits.Failure(f"cannot write --port-file {self._path}: it is a directory")
        self._temporary = f"{self._path}.{os.getpid()}.{os.urandom(4).hex()}"
        try:
            self._file = open(self._temporary, "x", encoding="ascii")
        except OSError as exc:
            raise self._failure(exc) from exc
        return self

    def write(self, addresses: Sequence[evloop.Address], admin: Sequence[evloop.Address] = ()) -> None:
        """Say that the server listens on *addresses*, each as in its LISTENING line, and its admin port on *admin*."""
        if self._file is None:
            return
        import json  # here: --help needs none of it

        facts: dict[str, int | list[str]] = {"pid": os.getpid()}
        if admin:
            facts["admin"] = [address.label for address in admin]
        facts["listening"] = [address.label for address in addresses]
        try:
            json.dump(facts, self._file)
            self._file.write("\n")
            self._file.flush()
            written = _identity(os.fstat(self._file.fileno()))
            os.rename(self._temporary, self._path)
        except OSError as exc:
            raise self._failure(exc) from exc
        self._written = written

    def __exit__(self, *exc_info: object) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # what could not be written has been told
            self._file.close()
        path = self._temporary if self._written is None else self._path
        try:
            # A successor that renames its file between these two calls loses it; no call does both, and a lock that
            # all servers took would be needed for a microsecond at the end of a process.
            if self._written is None or _identity(os.lstat(path)) == self._written:
                os.unlink(path)
        except FileNotFoundError:
            pass  # somebody has tidied up
        except OSError as exc:
            logger.warning("cannot remove %s: %s", path, exc.strerror)

    def _failure(self, exc: OSError) -> exits.Failure:
        return exits.Failure(f"cannot write --port-file {self._path}: {exc.strerror}")


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    """Return what tells a file from its successor: the inode's number is given away again, the time is not."""
    return status.st_dev, status.st_ino, status.st_mtime_ns
