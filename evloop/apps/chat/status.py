"""What a chat server adds to an admin port: its counters, its rooms, and why it wants no new members.

Rule: nothing in this file may change what it looks at, or import Prometheus.  Read next: ``evloop/apps/admin.py``.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from evloop.apps.families import Family, by_label, ending, plain

if TYPE_CHECKING:
    from evloop.apps.chat.hub import Hub

# Rooms that /statusz lists; a name is what its members made public, and the port is the operator's.
TOP = 10


def admin_options(hub: Hub) -> dict[str, Any]:
    """Return what :class:`evloop.apps.admin.Admin` takes beside the server, for a chat server's *hub*."""
    return {"unready": lambda: unready(hub), "status": lambda: status(hub), "families": lambda: families(hub)}


def unready(hub: Hub) -> list[str]:
    """Return why nobody should join now."""
    return ["the store is degraded"] if hub.degraded else []


def status(hub: Hub) -> Mapping[str, Any]:
    """Return the chat's part of ``/statusz``.  Costs a look at each room."""
    rooms = [room for name, room in hub.rooms.items() if not name.startswith("@")]
    largest = heapq.nlargest(TOP, rooms, key=lambda room: len(room.users))
    return {"chat": hub.stats(), "rooms": [{"room": room.name, "users": len(room.users)} for room in largest]}


def families(hub: Hub) -> Iterator[Family]:
    """Return the chat's part of ``/metrics``."""
    stats = hub.stats()
    held, strangers = stats["sessions_held"], stats["strangers"]
    states = [("open", stats["sessions"] - held), ("held", held), ("stranger", strangers)]
    yield by_label("state", "evloop_chat_sessions", "Sessions; held ones wait to be resumed.", states)
    yield plain("evloop_chat_users", "Users with a session.", stats["users"])
    yield plain("evloop_chat_rooms", "Rooms and direct conversations in memory.", stats["rooms"])
    yield plain("evloop_chat_kept_bytes", "Bytes of messages in memory.", stats["kept_bytes"])
    yield plain("evloop_chat_pending", "Messages that the store has not confirmed.", stats["pending"])
    yield plain("evloop_chat_choked", "Sessions that do not take what they are sent.", stats["choked"])
    yield plain("evloop_chat_messages_total", "Messages that were said.", stats["said"])
    yield plain("evloop_chat_throttled_total", "Messages after which a client was made to wait.", stats["throttled"])
    yield plain("evloop_chat_resumed_total", "Sessions that were resumed.", stats["resumed"])
    yield plain("evloop_chat_store_failed_total", "Messages not kept.", stats.get("store_failed", 0))
    yield by_label("code", "evloop_chat_errors_total", "Requests refused, by code.", ending(stats, "err_"))
    yield by_label("code", "evloop_chat_byes_total", "Connections ended by the server, by code.", ending(stats, "bye_"))
