"""What a chat client raises.

    ChatError
    ├── Refused       the server said no to one request; the session goes on
    ├── Disconnected  the connection was lost before the answer came; the client connects again by itself
    │   └── Later     the server said goodbye, and to come back
    ├── OutboxFull    nothing more can be queued for sending
    └── Ended         the server said goodbye, and does not want this client back; or speaks another version

    TimeoutError, an OSError as those of sockets are
    └── NoWelcome     somebody has accepted the connection, and does not answer

Rule: nothing in this file may act on an error.
"""

from __future__ import annotations

import os
import socket
import ssl


class ChatError(Exception):
    """The base of what follows."""


class Refused(ChatError):
    """The server answered ``err``.

    Attributes: *code* (str, one of ``wire.ERRORS``), *text* (str, for people, in the client's language), *temp* (bool:
    later it may work) and *retry_in* (seconds, 0.0: the server did not say).
    """

    def __init__(self, code: str, text: str, *, temp: bool = False, retry_in: float = 0.0) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code
        self.text = text
        self.temp = temp
        self.retry_in = retry_in


class Disconnected(ChatError):
    """There is no connection now, or it was lost before the answer: whether the request was served is not known."""


class OutboxFull(ChatError):
    """More was said than the outbox holds, while the server confirmed none of it."""


class Ended(ChatError):
    """The server said ``bye``: *code* (int, one of ``wire.BYES``) and *text* (str, for people)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code
        self.text = text


class Later(Disconnected):
    """The server said ``bye``, and to come back after *seconds* (float >= 0); the client does so by itself."""

    def __init__(self, text: str, seconds: float) -> None:
        super().__init__(text)
        self.seconds = seconds


class NoWelcome(TimeoutError):
    """The connection was made in time, and the welcome did not come: what listens there may be no chat server."""


def reason_of(exc: BaseException | None) -> str:
    """Return why a connection failed or ended, in words for people: the kernel's, without numbers and addresses."""
    own_numbers = isinstance(exc, (socket.gaierror, ssl.SSLError))
    if isinstance(exc, OSError) and exc.errno and not own_numbers:
        return os.strerror(exc.errno)
    return str(exc or "") or "the server has closed the connection"
