"""A terminal's screen as a picture: SVG, whose text stays text, in the cells where the terminal has it."""

from __future__ import annotations

import itertools
from xml.sax.saxutils import escape

# Pixels of a cell; 14 px monospaced type is 8.4 wide in the usual fonts, and a wide character is two cells anyway.
WIDTH, HEIGHT, SIZE = 8.4, 20, 14
MARGIN, TITLE = 16, 34  # around the cells, and the height of the bar with the title

FONTS = "'JetBrains Mono','SF Mono',Menlo,Consolas,'DejaVu Sans Mono','Noto Sans Mono CJK SC','PingFang SC',monospace"
INK, PAPER, EDGE, FAINT = "#d8dee9", "#1d2129", "#2b303b", "#7d8799"

# What pyte calls the sixteen colours, as a calm dark theme has them.
COLOURS = {
    "default": INK,
    "black": "#1d2129",
    "red": "#e06c75",
    "green": "#98c379",
    "brown": "#e5c07b",
    "blue": "#61afef",
    "magenta": "#c678dd",
    "cyan": "#56b6c2",
    "white": "#d8dee9",
    "brightblack": FAINT,
    "brightred": "#ef8790",
    "brightgreen": "#b4d89a",
    "brightbrown": "#f2d69b",
    "brightblue": "#8cc6f7",
    "brightmagenta": "#d89aea",
    "brightcyan": "#7fd0da",
    "brightwhite": "#ffffff",
}


def svg(rows, cursor, title):
    """Return the picture (str) of *rows* of pyte's cells, with the cursor at (line, column) and *title* above."""
    columns = len(rows[0])
    width, height = columns * WIDTH + 2 * MARGIN, len(rows) * HEIGHT + MARGIN + TITLE + MARGIN / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="{FONTS}" font-size="{SIZE}" role="img" aria-label="{escape(title)}">',
        f'<rect width="{width:g}" height="{height:g}" rx="9" fill="{PAPER}" stroke="{EDGE}"/>',
        *(f'<circle cx="{20 + 18 * index}" cy="17" r="5.5" fill="{EDGE}"/>' for index in range(3)),
        f'<text x="{width / 2:g}" y="21.5" fill="{FAINT}" font-size="12.5" text-anchor="middle">{escape(title)}</text>',
    ]
    for line, row in enumerate(rows):
        top = TITLE + line * HEIGHT
        for column, run in _runs(row):
            parts += _drawn(run, MARGIN + column * WIDTH, top)
    line, column = cursor
    left, top = MARGIN + column * WIDTH, TITLE + line * HEIGHT
    parts.append(f'<rect x="{left:g}" y="{top + 2:g}" width="{WIDTH:g}" height="{HEIGHT - 4}" fill="{INK}"/>')
    return "\n".join([*parts, "</svg>\n"])


def _runs(row):
    """Yield (column, cells) of pieces that look alike; wide characters apart, since their font is another one."""
    cells = [(index, cell, index + 1 < len(row) and row[index + 1].data == "") for index, cell in enumerate(row)]
    for _, group in itertools.groupby([item for item in cells if item[1].data], _looks):
        run = list(group)
        yield run[0][0], run


def _looks(item):
    """Return what makes one run of a cell and its neighbour."""
    _, cell, wide = item
    return cell.fg, cell.bg, cell.bold, cell.reverse, wide


def _drawn(run, left, top):
    """Return the elements of one run."""
    _, cell, wide = run[0]
    text = "".join(piece.data for _, piece, _ in run)
    length = len(run) * WIDTH * (2 if wide else 1)
    ink = COLOURS.get(cell.fg, f"#{cell.fg}")
    paper = PAPER if cell.bg == "default" else COLOURS.get(cell.bg, f"#{cell.bg}")
    if cell.reverse:
        # A bar of full brightness would outshine what is said.
        ink, paper = (INK if cell.fg == "default" else ink), EDGE
    parts = []
    if paper != PAPER:
        parts.append(f'<rect x="{left:g}" y="{top:g}" width="{length:g}" height="{HEIGHT}" fill="{paper}"/>')
    if text.strip():
        weight = ' font-weight="600"' if cell.bold else ""
        parts.append(
            f'<text x="{left:g}" y="{top + 14.5:g}" textLength="{length:g}" lengthAdjust="spacingAndGlyphs" '
            f'xml:space="preserve" fill="{ink}"{weight}>{escape(text)}</text>'
        )
    return parts
