"""Text for a terminal: tables, colours, and data that a terminal must not obey."""

import os
import re
import shutil
import unicodedata
from collections.abc import Collection, Sequence
from typing import TextIO

_COLOUR = re.compile("\x1b\\[[0-9]*m")
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
    droppable: Sequence[int] = (),
    cut: int | None = None,
) -> None:
    """Print ``rows`` under ``names``, each column as wide as what it holds.

    In a terminal no line wraps: where it would, columns are left out in the order of ``droppable``, and then ``cut``
    (default: the last one) is cut. ``right``: columns aligned to the right; ``levels``: how grave each row is, shown as
    the colour of one column.
    """
    cells = [[printable(cell) for cell in row] for row in [names, *rows]]
    widths = [max(width(row[place]) for row in cells) for place in range(len(names))]
    places = list(range(len(names)))
    columns = columns_of(out)
    if columns is not None:
        too_wide = _line_width(widths, places) - columns
        for place in droppable:
            if too_wide > 0:
                places.remove(place)
                too_wide = _line_width(widths, places) - columns
        shrinking = places[-1] if cut is None else cut
        widths[shrinking] = max(min(8, widths[shrinking]), widths[shrinking] - max(0, too_wide))
    for number, row in enumerate(cells):
        parts = []
        for place in places:
            text = _cut(row[place], widths[place])
            space = " " * (widths[place] - width(text))
            if number and levels is not None and place == coloured_column:
                text = coloured(text, levels[number - 1], out)
            parts.append(space + text if place in right else text + space)
        print("  ".join(parts).rstrip(), file=out)


def _line_width(widths: Sequence[int], places: Sequence[int]) -> int:
    return sum(widths[place] for place in places) + 2 * (len(places) - 1)


def columns_of(out: TextIO) -> int | None:
    """How wide the terminal is that ``out`` is; None where it is none."""
    return shutil.get_terminal_size((100, 24)).columns if out.isatty() else None


def print_wrapped(text: str, out: TextIO, indent: str = "  ") -> None:
    """Print ``text``, in a terminal with line ends between its words; lines after the first begin with ``indent``."""
    columns = columns_of(out)
    if columns is None:
        print(text, file=out)
        return
    line, *words = _pieces(text, columns - len(indent))
    for word in words:
        if width(line) + 1 + width(word) <= columns:
            line = f"{line} {word}"
        else:
            print(line, file=out)
            line = indent + word
    print(line, file=out)


def _pieces(text: str, columns: int) -> list[str]:
    """The words of ``text``, with its leading space; those that are wider than ``columns`` in parts."""
    start = text[: len(text) - len(text.lstrip(" "))]
    pieces = []
    for word in text.split() or [""]:
        while width(word) > columns:
            head = word
            while width(head) > columns:
                head = head[:-1]
            pieces.append(head)
            word = word.removeprefix(head)
        pieces.append(word)
    return [start + pieces[0], *pieces[1:]]


def width(text: str) -> int:
    """Columns that ``text`` takes in a terminal: wide characters take two, combining ones and colours none."""
    total = 0
    for letter in _COLOUR.sub("", text):
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
