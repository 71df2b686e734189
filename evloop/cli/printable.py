"""Text from elsewhere, made safe for a terminal and for a log of one line an event."""

from __future__ import annotations

import unicodedata

# Control (Cc) and format (Cf) characters move the cursor, set the title of a window or turn the direction of the text
# after them; line and paragraph separators (Zl, Zp) end a line; a lone surrogate (Cs) cannot be printed at all.
_ESCAPED = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})

# Format characters that only join: emoji and several scripts are made with them, and they cannot hide anything.
_JOINERS = frozenset("\u200c\u200d")


def printable(text: str, keep: str = "\t") -> str:
    """Return *text* with what could control a terminal as backslash escapes; the characters of *keep* stay.

    >>> printable("caf\u00e9\x1b[2J")
    'caf\u00e9\\\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(char if char in keep or not _controls(char) else _escaped(char) for char in text)


def quoted(data: bytes, most: int = 64) -> str:
    """Return at most *most* characters of *data* (UTF-8, undecodable bytes replaced) in quotes, for a message.

    64 are enough to recognise a message by, and too few for a peer to flood a terminal with.
    """
    text = data[: 4 * most + 4].decode(errors="replace")
    return f"'{printable(text[:most], keep='')}'" + ("..." if len(text) > most else "")


def _controls(char: str) -> bool:
    return unicodedata.category(char) in _ESCAPED and char not in _JOINERS


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
