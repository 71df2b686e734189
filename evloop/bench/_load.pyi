"""Types of the compiled load generator."""

from collections.abc import Sequence
from typing import Any

PATTERNS: tuple[str, ...]
CHECKS: tuple[str, ...]
PHASES: tuple[str, ...]
MOST_CLASSES: int
MOST_SERVERS: int

class LoadFailed(Exception):
    message: str
    code: int
    reason: int
    def __init__(self, message: str, code: int, reason: int = 0) -> None: ...

class Histogram:
    @property
    def count(self) -> int: ...
    @property
    def least(self) -> int: ...
    @property
    def most(self) -> int: ...
    @property
    def mean(self) -> float: ...
    def add(self, other: Histogram) -> None: ...
    def percentile(self, percent: float) -> int: ...
    def pairs(self) -> list[tuple[int, int]]: ...

class Load:
    def __init__(
        self,
        *,
        pattern: str,
        frames: Sequence[tuple[bytes, bytes, bytes, float]],
        family: int,
        address: Any,
        connections: int,
        in_flight: int,
        publishers: int,
        rate: float,
        poisson: bool,
        seed: int,
        warmup: float,
        duration: float,
        count: int,
        timeout: float,
        check: str,
        server_pids: Sequence[int],
    ) -> None: ...
    def establish(self, upto: int) -> None: ...
    def measure(self) -> None: ...
    def hold(self, seconds: float) -> None: ...
    def ask(self) -> None: ...
    def stop(self) -> None: ...
    def progress(self) -> tuple[str, int, int]: ...
    def figures(self) -> dict[str, Any]: ...
    def close(self) -> None: ...
