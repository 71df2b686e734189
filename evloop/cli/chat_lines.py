"""Events of a chat as lines for people: pieces of text with a style each, safe for a terminal.

Rule: whatever comes from others goes through ``printable`` here; nothing in this file may print, or know a terminal.
"""

from __future__ import annotations

import re
import time
import zlib
from typing import TypeAlias

from evloop.apps.chat.client import Message, Presence
from evloop.cli.chat_texts import Texts
from evloop.cli.printable import printable

# Pieces of one line, each with the name of its style: prompt_toolkit's "formatted text", which needs no import of it.
Line: TypeAlias = "list[tuple[str, str]]"

# How many colours nicks are told apart by; the names of the styles are class:nick-0 and so on.
NICK_COLOURS = 6

# The width of the time and its space, under which the later lines of a message stand.
_INDENT = " " * 6


def plain(line: Line) -> str:
    """Return the text of *line*."""
    return "".join(text for _, text in line)


def info(text: str) -> Line:
    """Return a line of ours."""
    return [("class:info", f"-- {printable(text)}")]


def complaint(text: str) -> Line:
    """Return a line about what did not work."""
    return [("class:error", f"-- {printable(text)}")]


def heading(text: str) -> Line:
    """Return the line that begins a room's part of the screen."""
    return [("class:heading", f"── {printable(text)} ──")]


def nick_style(nick: str) -> str:
    """Return the style of *nick*: the same for all time."""
    return f"class:nick-{zlib.crc32(nick.casefold().encode(errors='replace')) % NICK_COLOURS}"


def mentions(body: str, nick: str) -> bool:
    """Return whether *body* names *nick*: as a word, where the script has words."""
    if not nick:
        return False
    before = r"(?<![A-Za-z0-9_])" if nick[0].isascii() else ""
    after = r"(?![A-Za-z0-9_])" if nick[-1].isascii() else ""
    return re.search(before + re.escape(nick) + after, body, re.IGNORECASE) is not None


def of_message(message: Message, me: str, texts: Texts, *, one_line: bool = False) -> list[Line]:
    """Return the lines of *message*, for somebody called *me*; *one_line*: a newline in it is escaped, too."""
    at = ("class:time", time.strftime("%H:%M ", time.localtime(message.ts / 1000)))
    nick = printable(message.sender)
    if message.kind == "mod":
        return [[at, *info(_of_act(message, texts))]]
    style = "class:mention" if not message.own and mentions(message.body, me) else ""
    first, *others = [printable(part) for part in ([message.body] if one_line else message.body.split("\n"))]
    who = ("class:own" if message.own else nick_style(message.sender), nick)
    begin: Line = [at, ("", "* "), who, ("", " ")] if message.kind == "action" else [at, who, ("class:colon", ": ")]
    return [[*begin, (style, first)], *([(style, _INDENT + other)] for other in others)]


def _of_act(message: Message, texts: Texts) -> str:
    """Return what a moderator did, in words; what is new to us in the server's."""
    sender, who, body = message.sender, message.who or "", message.body
    if message.op == "topic":
        return texts("retopic", sender=sender, body=body)
    try:
        text = texts(message.op or "", sender=sender, who=who)
    except KeyError:
        text = f"{sender}: {message.op} {who}".rstrip()
    return f"{text}: {body}" if body else text


def day_of(ts: int) -> str:
    """Return the local day of *ts*, milliseconds since 1970 (UTC)."""
    return time.strftime("%Y-%m-%d", time.localtime(ts / 1000))


def of_presence(event: Presence, texts: Texts) -> Line | None:
    """Return the line of *event*, or None: it is not worth one."""
    key = {"lost": "lost-one"}.get(event.what, event.what)
    if event.what == "away" and event.text is None:
        key = "back-one"
    if key not in ("join", "part", "lost-one", "nick", "away", "back-one"):
        return None
    return info(texts(key, who=event.who, text=event.text or ""))
