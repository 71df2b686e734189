# The compiled transport has no pure twin here: asyncio's own is that.

from typing import Any

class BulkMemory: ...
class CProtocol: ...

class SocketTransport:
    def __init__(
        self, loop: Any, sock: Any, protocol: Any, waiter: Any = ..., extra: Any = ..., server: Any = ...
    ) -> None: ...

class Listener:
    def __init__(
        self, loop: Any, sock: Any, factory: Any, sslcontext: Any, server: Any, backlog: int,
        timeouts: tuple[Any, ...], more: dict[str, Any],
    ) -> None: ...  # fmt: skip
    def stop(self) -> None: ...

def is_compiled(loop: Any) -> bool: ...
