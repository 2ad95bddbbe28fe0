"""Text for a terminal: tables, colours, and data that a terminal must not obey."""

import os
import shutil
import unicodedata
from collections.abc import Collection, Sequence
from typing import TextIO

#: By how grave a thing is: 0 is well, 3 is not.
_COLOURS = {3: "31", 2: "33", 1: "36", 0: "32"}


def print_table(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    out: TextIO,
    *,
    right: Collection[int] = (),
    levels: Sequence[int] | None = None,
    coloured_column: int = 0,
) -> None:
    """Print ``rows`` under ``names``, each column as wide as what it holds; in a terminal the last one is cut where the
    line would wrap.

    ``right``: columns aligned to the right; ``levels``: how grave each row is, shown as the colour of one column.
    """
    cells = [[printable(cell) for cell in row] for row in [names, *rows]]
    widths = [max(width(row[place]) for row in cells) for place in range(len(names))]
    if out.isatty():
        room = shutil.get_terminal_size((100, 24)).columns - sum(widths[:-1]) - 2 * (len(names) - 1)
        widths[-1] = max(8, min(widths[-1], room))
    for number, row in enumerate(cells):
        parts = []
        for place, cell in enumerate(row):
            text = _cut(cell, widths[place])
            space = " " * (widths[place] - width(text))
            if number and levels is not None and place == coloured_column:
                text = coloured(text, levels[number - 1], out)
            parts.append(space + text if place in right else text + space)
        print("  ".join(parts).rstrip(), file=out)


def width(text: str) -> int:
    """Columns that ``text`` takes in a terminal: wide characters take two, combining ones none."""
    total = 0
    for letter in text:
        if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me", "Cf"):
            continue
        total += 2 if unicodedata.east_asian_width(letter) in ("W", "F") else 1
    return total


def _cut(text: str, columns: int) -> str:
    if width(text) <= columns:
        return text
    kept = ""
    for letter in text:
        if width(kept + letter) > columns - 1:
            break
        kept += letter
    return kept + "…"


def printable(text: str) -> str:
    """An id is data: what a terminal would obey (escape sequences, line ends) is shown as its escape."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def coloured(text: str, level: int, out: TextIO) -> str:
    """``text`` in the colour of a level, 0 (well) to 3; as it is where ``out`` shows no colours."""
    if not out.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_COLOURS[level]}m{text}\x1b[0m"
