"""The chat client for programs: ``from evloop.apps.chat import Client``.

Rule: nothing in this package may print, or run outside of an asyncio event loop.  Read next: ``client.py``.
"""

from evloop.apps.chat.client.backoff import Backoff
from evloop.apps.chat.client.client import Client
from evloop.apps.chat.client.errors import (
    ChatError,
    Disconnected,
    Ended,
    NoWelcome,
    OutboxFull,
    Refused,
    reason_of,
)
from evloop.apps.chat.client.events import (
    Entered,
    Event,
    Left,
    Message,
    Missed,
    Notice,
    NotSent,
    Presence,
    Renamed,
    Status,
)

__all__ = [
    # the client
    "Backoff",
    "Client",
    # what it tells
    "Entered",
    "Event",
    "Left",
    "Message",
    "Missed",
    "Notice",
    "NotSent",
    "Presence",
    "Renamed",
    "Status",
    # what it raises
    "ChatError",
    "Disconnected",
    "Ended",
    "NoWelcome",
    "OutboxFull",
    "Refused",
    "reason_of",
]
