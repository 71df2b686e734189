"""Chat: the protocol ``evloop-chat/1``, its server, and its clients.

>>> from evloop.apps import chat
>>> chat.serve("127.0.0.1:9000")  # doctest: +SKIP

Rule: nothing in this file may import anything at import time: a bot needs no server, and a server no client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evloop.apps.chat.client import Client as Client
    from evloop.apps.chat.greetings import AuthFailed as AuthFailed
    from evloop.apps.chat.limits import ChatLimits as ChatLimits
    from evloop.apps.chat.server import ChatServer as ChatServer
    from evloop.apps.chat.server import serve as serve

# What is public, and the module that it is imported from when it is asked for.
_PUBLIC = {
    "AuthFailed": "greetings",
    "ChatLimits": "limits",
    "ChatServer": "server",
    "Client": "client",
    "serve": "server",
}

__all__ = ["AuthFailed", "ChatLimits", "ChatServer", "Client", "serve"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
