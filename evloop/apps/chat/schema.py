"""The JSON Schema of ``evloop-chat/1``, for authors in other languages: ``python -m evloop.apps.chat.schema``.

What it prints is kept in ``docs/chat.schema.json``; a test compares the two.

Rule: nothing in this file may say anything about a message that ``wire.py`` does not.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec

from evloop.apps.chat import wire

_TEMPLATE = "#/$defs/{name}"


def schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) as plain dicts: a message of either direction is valid by it."""
    (client, server), defs = msgspec.json.schema_components(
        (wire.ClientMessage, wire.ServerMessage), ref_template=_TEMPLATE
    )
    for definition in defs.values():
        # One line: how a docstring is indented depends on Python's version.
        definition["description"] = " ".join(definition.get("description", "").split())
    _null_last(defs)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "evloop-chat/1",
        "description": "The messages of evloop's chat: `client` are those that a client sends, `server` the answers.",
        "anyOf": [{"$ref": _TEMPLATE.format(name=name)} for name in ("client", "server")],
        "$defs": {"client": client, "server": server, **dict(sorted(defs.items()))},
    }


def _null_last(node: Any) -> None:
    """Put null behind the other choices, in place: where msgspec puts it depends on its version."""
    if isinstance(node, dict):
        node.get("anyOf", []).sort(key=lambda choice: choice == {"type": "null"})
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            _null_last(part)


def schema_text() -> str:
    """Return :func:`schema` as the text of the file."""
    return json.dumps(schema(), ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
