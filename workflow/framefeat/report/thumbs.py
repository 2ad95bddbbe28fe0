"""Thumbnails of the page: the sprites of the videos shown in detail, and one atlas for the rest of the map."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CELL = (96, 72)  # pixels of a cell of the atlas: width, height
_COLUMNS = 25
_GREY = (128, 128, 128)


@dataclass
class Sheet:
    """A picture of equal cells, numbered along its rows."""

    source: str
    columns: int
    cells: int
    width: int
    height: int

    def described(self) -> dict[str, Any]:
        return {
            "src": self.source,
            "columns": self.columns,
            "cells": self.cells,
            "w": self.width,
            "h": self.height,
        }


@dataclass
class Sheets:
    """The pictures of the page, each stored once however many backbones show it.

    ``of_video``: by video key, the number of its sheet and the rows that its cells show.
    """

    described: list[dict[str, Any]] = field(default_factory=list)
    of_video: dict[str, tuple[int, list[int]]] = field(default_factory=dict)

    def add(self, sheet: Sheet) -> int:
        """Keep a sheet: returns its number."""
        self.described.append(sheet.described())
        return len(self.described) - 1


def data_uri(payload: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(payload).decode('ascii')}"


def sprite(payload: bytes, cells: int, most_bytes: int) -> Sheet | None:
    """A video's horizontal sprite of ``cells`` cells, a JPEG; drawn smaller where it is above ``most_bytes``. None if
    unreadable."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(payload)) as image:
            image.load()
            picture = image.convert("RGB")
    except (OSError, ValueError):
        return None
    width = picture.width // max(1, cells)
    if cells < 1 or width < 1:
        return None
    height = picture.height
    for quality in (80, 65, 50, 40, 30):
        if len(payload) <= most_bytes:
            break
        factor = min(1.0, max(0.3, (most_bytes / len(payload)) ** 0.5))
        width, height = max(16, round(width * factor)), max(12, round(height * factor))
        payload = _jpeg(picture.resize((width * cells, height)), quality)
    return Sheet(data_uri(payload), cells, cells, width, height)


def atlas(
    wanted: Sequence[tuple[bytes, int, Sequence[int]]], most_bytes: int
) -> tuple[Sheet | None, list[list[int]]]:
    """One sheet of chosen cells: ``wanted`` is ``(sprite, its number of cells, cells taken)`` per video.

    Returns the sheet and, per video, the numbers of its cells in the sheet (-1 where a sprite could not be read).
    """
    from PIL import Image

    total = sum(len(cells) for _, _, cells in wanted)
    if not total:
        return None, [[] for _ in wanted]
    columns = min(_COLUMNS, total)
    lines = -(-total // columns)
    canvas = Image.new("RGB", (columns * CELL[0], lines * CELL[1]), _GREY)
    numbers: list[list[int]] = []
    place = 0
    for payload, count, cells in wanted:
        mine: list[int] = []
        try:
            with Image.open(io.BytesIO(payload)) as image:
                picture = image.convert("RGB")
        except (OSError, ValueError):
            numbers.append([-1] * len(cells))
            continue
        width = picture.width // count
        for cell in cells:
            piece = picture.crop((cell * width, 0, (cell + 1) * width, picture.height))
            piece.thumbnail(CELL)
            left = (place % columns) * CELL[0] + (CELL[0] - piece.width) // 2
            top = (place // columns) * CELL[1] + (CELL[1] - piece.height) // 2
            canvas.paste(piece, (left, top))
            mine.append(place)
            place += 1
        numbers.append(mine)
    if not place:
        return None, numbers
    drawn = b""
    for quality in (70, 50, 30, 15):
        drawn = _jpeg(canvas, quality)
        if len(drawn) <= most_bytes:
            break
    return Sheet(data_uri(drawn), columns, place, *CELL), numbers


def _jpeg(picture: Any, quality: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue()
