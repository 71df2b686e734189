"""The exit codes, and the exception that ends the program with one of them."""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2
CANNOT_CONNECT = 3  # nor bind
TIMEOUT = 4
PEER = 5  # broke the protocol, or is gone
REFUSED = 6  # by the server
WRONG_BYTES = 7
FAIL_IF = 9  # what --fail-if names has come true
BROKEN_PIPE = 141  # 128 + SIGPIPE: what a shell reports of a program whose reader (head, less) has left
INTERRUPTED = 130  # 128 + SIGINT


class Failure(Exception):
    """Ends the program: *message* (str) on one line of stderr, cause before remedy, and *code* (int, 1..255)."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
