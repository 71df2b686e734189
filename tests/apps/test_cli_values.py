"""The parts of the command line that are functions: sizes, durations, safe text, log lines, lines of input."""

from __future__ import annotations

import logging
import sys

import pytest

import evloop
from evloop.cli.conversation import Lines, Shown
from evloop.cli.logs import LineFormatter
from evloop.cli.options import FRAMINGS, parse_duration, parse_size, parse_whole_seconds
from evloop.cli.printable import printable, quoted


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("512B", 512), ("64K", 65536), ("64k", 65536), ("1M", 1 << 20), ("2GiB", 2 << 30)],
)
def test_size_with_a_unit_is_a_power_of_1024(text, size):
    """People write 64K, and mean what the kernel means."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "-1", "1.5M", "1KB", "1e3", " 1", "0x10", "9" * 19, "1\n", "\u0664\u0665"])
def test_size_that_is_none_is_refused(text):
    """A size that is guessed is a limit that nobody set."""
    with pytest.raises(ValueError, match="bad size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("30", 30), ("1.5s", 1.5), ("500ms", 0.5), ("5m", 300), ("2h", 7200)]
)
def test_duration_with_a_unit_is_in_seconds(text, seconds):
    """Both 30 and 30s are seconds; 5m are minutes, 500ms are not."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("text", "seconds"), [("60", 60), ("1m", 60), ("0", 0), ("1000ms", 1), ("1.0s", 1)])
def test_whole_seconds_are_durations_without_a_rest(text, seconds):
    """An int, as setsockopt wants it."""
    value = parse_whole_seconds(text)
    assert (value, type(value)) == (seconds, int)


@pytest.mark.parametrize("text", ["1.5s", "999ms", "soon", "-1"])
def test_whole_seconds_with_a_rest_are_refused(text):
    """Rounded in silence it would be another limit than the one that was asked for."""
    with pytest.raises(ValueError, match="bad duration"):
        parse_whole_seconds(text)


@pytest.mark.parametrize(
    "text", ["", "s", "-1", "1d", "nan", "inf", "1e9", "1.", ".5", "5 m", "9" * 10, "1s\n", "\u0664"]
)
def test_duration_that_is_none_is_refused(text):
    """nan and inf are floats to Python and endless waits to a server."""
    with pytest.raises(ValueError, match="bad duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("caf\u00e9 \u4f60\u597d", "caf\u00e9 \u4f60\u597d"),
        ("a\tb", "a\tb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\rb\nc\x00\x7f", "a\\rb\\nc\\x00\\x7f"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe\u2069", "\\u202egnp.exe\\u2069"),
        ("a\u2028b", "a\\u2028b"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("\udc80", "\\udc80"),
    ],
)
def test_printable_escapes_what_controls_a_terminal_and_nothing_else(text, safe):
    """A peer must not be able to clear the screen, set the title or turn the text around; people's scripts stay."""
    assert printable(text) == safe


@pytest.mark.parametrize(("size", "shown"), [(63, "x" * 63), (64, "x" * 64), (65, "x" * 64)])
def test_quoted_text_is_cut_at_64_characters(size, shown):
    """A frame of a megabyte in an error message is a flood."""
    assert quoted(b"x" * size) == f"'{shown}'" + ("..." if size > 64 else "")


def test_quoted_text_shows_characters_and_escapes_controls():
    """An expectation in Chinese has to be readable in the message that it was not met."""
    assert quoted("\u670d\u52a1\u7aef\x1b".encode() + b"\xff") == "'\u670d\u52a1\u7aef\\x1b\ufffd'"


def log_record(message, exc_info=None):
    """Return a log record."""
    return logging.LogRecord("evloop", logging.WARNING, __file__, 1, message, (), exc_info)


def test_log_line_is_one_line_with_time_and_level():
    """One event a line is what grep, journald and everybody's dashboard expect."""
    record = log_record("two\nlines \x1b[2J")
    record.created, record.msecs = 1795223280.123, 123.0
    line = LineFormatter(tracebacks=False).format(record)
    assert line == "2026-11-21T01:08:00.123Z WARNING two; lines \\x1b[2J"


def test_log_line_has_a_traceback_only_if_asked_for():
    """-vv is for whoever writes a handler; everybody else gets the line."""
    try:
        raise LookupError("gone")
    except LookupError:
        record = log_record("it failed", sys.exc_info())
    assert "LookupError" not in LineFormatter(tracebacks=False).format(record)
    assert "LookupError: gone" in LineFormatter(tracebacks=True).format(record)


CHUNKINGS = [[b"one\ntwo\n\nfour"], [b"one", b"\ntwo\n", b"\nfour"], [bytes([byte]) for byte in b"one\ntwo\n\nfour"]]


@pytest.mark.parametrize("chunks", CHUNKINGS, ids=["whole", "cut", "bytes"])
def test_lines_are_the_same_however_the_input_is_cut(chunks):
    """A pipe cuts where it likes; an empty line is a message, and so is a last one without its newline."""
    lines = Lines(evloop.Framing.U32)
    found = [line for chunk in chunks for line in lines.feed(chunk)] + lines.rest()
    assert found == [b"one", b"two", b"", b"four"]
    assert lines.fault == ""


@pytest.mark.parametrize("end", [b"\n", b""], ids=["ended", "begun"])
def test_lines_longer_than_a_frame_are_refused_at_the_first_byte_too_many(end):
    """limit-1, limit, limit+1: an endless line must not be gathered in memory first."""
    framing = evloop.Framing(4, max_frame=10)
    lines = Lines(framing)
    assert lines.feed(b"x" * 9 + b"\n" + b"x" * 10 + b"\n") == [b"x" * 9, b"x" * 10]
    assert lines.feed(b"y\n" + b"z" * 11 + end + (b"w\n" if end else b"")) == [b"y"]
    assert lines.fault == "line 4 of 11 bytes or more exceeds max_frame 10; see --max-frame"
    assert lines.feed(b"later\n") == []


def test_lines_without_framing_are_bytes_as_they_come():
    """The newline belongs to the protocol of a peer that has no frames."""
    lines = Lines(None)
    assert lines.feed(b"GET /\r\n\r") == [b"GET /\r\n\r"]
    assert lines.rest() == []


def test_shown_bytes_without_framing_keep_a_character_that_was_cut():
    """Without frames a read ends anywhere, and half of a character is no garbage."""
    shown = Shown(framed=False)
    first, second = "\u4f60\r\n".encode()[:2], "\u4f60\r\n".encode()[2:]
    assert shown.feed([first]) + shown.feed([second]) == "\u4f60\n".encode()


def test_shown_frames_are_a_line_each():
    """Two messages must not look like one, nor one like two."""
    assert Shown(framed=True).feed([b"a\nb", b"", b"\xff"]) == "a\\nb\n\n\ufffd\n".encode()


@pytest.mark.parametrize("name", [name for name, framing in FRAMINGS.items() if framing is not None])
def test_framing_names_stand_for_framings_that_read_what_they_write(name):
    """The names of the command line are the only ones many users ever see."""
    framing = FRAMINGS[name]
    assert evloop.FrameDecoder(framing).feed(framing.encode(b"hello")) == [b"hello"]
