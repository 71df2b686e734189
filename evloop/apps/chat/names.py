"""What may be a nick, a room's name or a short text, when two nicks are one, and the names of guests.

Rule: nothing in this file may know who has a name.
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata

from evloop.apps.chat import wire

MAX_COLUMNS = 32  # of a nick in a terminal; wide characters, as Chinese ones, have two
MAX_ROOM_BYTES = 64  # of a room's name, in UTF-8
MAX_TOPIC = 512  # bytes; a page of 200 rooms with topics stays within one reply
MAX_AWAY = 256  # bytes; the same for a page of 200 members

# `@` opens a mention and the key of a conversation, `/` a command and a part of that key, `,` and `:` end a nick where
# people address each other.
_NOT_IN_NICKS = frozenset("@/,:")

# Categories of Unicode: controls, formats (a nick must not turn the line around), surrogates, private and unassigned
# ones, and everything that is a space.
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"))

# Letters, marks and a symbol that show nothing, whatever their category says: the grapheme joiner, the fillers of
# Hangul, the inherent vowels of Khmer, the blank pattern of Braille.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")

# Variation selectors choose between two forms of the character before them (an emoji needs one), and are not seen by
# themselves: "amy" with one is "amy".
_SELECTORS = dict.fromkeys((*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))

# Marks upon one character.  No script in use needs more (UTS 39, 5.4), and a pile of them covers the lines around it.
MAX_MARKS = 4
_MARKS = frozenset(("Mn", "Me"))


def fold(nick: str) -> str:
    """Return what two nicks have in common if they are one: NFKC without variation selectors, case folded, NFKC."""
    seen = unicodedata.normalize("NFKC", nick).translate(_SELECTORS)
    return unicodedata.normalize("NFKC", seen.casefold())


def _hides(char: str) -> bool:
    return char in _BLANK or unicodedata.category(char) in _INVISIBLE


def _piles(text: str) -> bool:
    """Return whether a character of *text* has more than MAX_MARKS marks upon it."""
    marks = 0
    for char in unicodedata.normalize("NFD", text):
        marks = marks + 1 if unicodedata.category(char) in _MARKS else 0
        if marks > MAX_MARKS:
            return True
    return False


def columns(text: str) -> int:
    """Return how many columns of a terminal *text* takes: 2 for wide characters, 0 for marks upon others."""
    width = 0
    for char in text:
        if not unicodedata.combining(char):
            width += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return width


def nick_fault(nick: str) -> str | None:
    """Return why *nick* cannot be one, in English, or None."""
    if any(map(_hides, nick)):
        return "it has a space or an invisible character"
    if _piles(nick):
        return f"it has more than {MAX_MARKS} marks upon one character"
    if not _NOT_IN_NICKS.isdisjoint(nick):
        return "it has one of @ / , :"
    if not 1 <= columns(nick) <= MAX_COLUMNS:
        return f"it has {columns(nick)} columns, and 1 to {MAX_COLUMNS} are allowed"
    if not fold(nick) or len(fold(nick)) > 4 * MAX_COLUMNS:  # one character may fold to eighteen
        return "its folded form is empty or too long"
    return None


def room_fault(name: str) -> str | None:
    """Return why *name*, normalized by :func:`room_name`, cannot be a room's, in English, or None."""
    size = len(name.encode())
    if not 1 <= size <= MAX_ROOM_BYTES:
        return f"it has {size} bytes, and 1 to {MAX_ROOM_BYTES} are allowed"
    if name != name.strip() or any(_hides(char) and char != " " for char in name):
        return "it has an invisible character, or a space at an end"
    if _piles(name):
        return f"it has more than {MAX_MARKS} marks upon one character"
    if name.startswith("@"):
        return "it begins with @"
    return None


def room_name(name: str) -> str:
    """Return *name* in its one form: NFC, so that two keyboards that compose differently mean the same room."""
    return unicodedata.normalize("NFC", name) if not name.isascii() else name


def one_line(text: str) -> str:
    """Return *text* with a space for each control character: a topic, a reason."""
    return text if text.isprintable() else "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)


def guest_nick(lang: str) -> str:
    """Return a nick for somebody who has given none: ``guest-1a2b``, ``游客-1a2b``; it may be taken."""
    return f"{'游客' if lang == 'zh' else 'guest'}-{secrets.token_hex(2)}"


def new_key() -> str:
    """Return a new secret of a session: 128 random bits as hex digits."""
    return secrets.token_hex(16)


def guest_id(key: str) -> str:
    """Return the id of the user who has *key*: a one-way hash of it.

    So a guest stays the same user over a restart, and the server need not remember whom it has met.  80 bits: finding
    another key to somebody's id takes 2^80 tries.
    """
    return "g-" + hashlib.blake2b(key.encode(), digest_size=10).hexdigest()


def account_id(name: str) -> str:
    """Return the id of the user whom a token has shown to be *name*.

    ValueError: *name* is empty, has more than 64 characters, or one of ``@`` and ``/``.
    """
    if not 1 <= len(name) <= wire.MAX_NAME or "/" in name or "@" in name or not name.isprintable():
        raise ValueError(
            f"a user's name has 1 to {wire.MAX_NAME} printable characters and no @ or /, not {name!r:.100}"
        )
    return "u-" + name


def conversation_key(one: str, other: str) -> str:
    """Return the key of the direct conversation of two user ids, whoever begins it."""
    return f"@{min(one, other)}/{max(one, other)}"


def conversation_users(key: str) -> tuple[str, str] | None:
    """Return the two user ids of a conversation's key, or None if it is none."""
    one, slash, other = key[1:].partition("/")
    return (one, other) if key.startswith("@") and slash and one <= other and "/" not in other else None
