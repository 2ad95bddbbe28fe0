"""The map of all frames: which are drawn, their pictures, their places in the plane, and their nearest frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from framefeat.report import numbers, thumbs
from framefeat.report.gather import Backbone, ReportVideo, read_rows, thumbnails
from framefeat.vectors import unit_rows

POINTS = 1500
VIDEOS = 500
NEIGHBOURS = 6
_ATLAS_BYTES = 4_000_000
_NO_CELL = (-1, -1)


@dataclass(frozen=True)
class FrameMap:
    """``data``: what the page's script draws; ``words``: what the page says about it."""

    data: dict[str, Any]
    words: dict[str, Any]


@dataclass(frozen=True)
class _Point:
    """A frame on the map: the place of its video, its place among the video's rows, and its picture (sheet, cell)."""

    video: int
    row: int
    picture: tuple[int, int]


def frame_map(backbone: Backbone, root: Path, sheets: thumbs.Sheets, shown: Sequence[str]) -> FrameMap:
    """At most ``POINTS`` frames: of every video where they are few, else of the detailed ones (keys ``shown``) and
    evenly of the rest."""
    videos = backbone.videos
    points, rows, unit = _finite(backbone, _points(backbone, root, sheets, shown))
    groups = np.array([point.video for point in points], dtype=np.int64)
    plane = numbers.principal_plane(unit)
    inside, outside = numbers.neighbours(unit, groups, NEIGHBOURS) if points else ([], [])
    drawn = sorted({point.video for point in points})
    number_of = {place: number for number, place in enumerate(drawn)}
    detail_of = {key: place for place, key in enumerate(shown)}
    times = [(float(videos[p.video].times[p.row]), float(videos[p.video].times[-1])) for p in points]
    data = {
        "videos": [videos[place].video_id for place in drawn],
        "detail": [detail_of.get(videos[place].key, -1) for place in drawn],
        "video": [number_of[point.video] for point in points],
        "row": rows.tolist(),
        "time": [round(time, 3) for time, _ in times],
        "span": [round(time / max(last, 1e-9), 3) for time, last in times],
        "cell": [point.picture for point in points],
        "x": [round(float(value), 4) for value in plane.xy[:, 0]],
        "y": [round(float(value), 4) for value in plane.xy[:, 1]],
        "inside": _with_cosines(unit, inside),
        "outside": _with_cosines(unit, outside),
        "explained": [round(share, 3) for share in plane.explained],
    }
    words = {
        "points": len(points),
        "videos": len(drawn),
        "all_videos": len(videos),
        "pictured": sum(point.picture != _NO_CELL for point in points),
        "explained": f"{100 * sum(plane.explained):.0f} %",
    }
    return FrameMap(data, words)


def _with_cosines(unit: np.ndarray, nearest: Sequence[Sequence[int]]) -> list[list[list[float]]]:
    return [
        [[other, round(float(unit[number] @ unit[other]), 3)] for other in row]
        for number, row in enumerate(nearest)
    ]


def _finite(backbone: Backbone, points: list[_Point]) -> tuple[list[_Point], np.ndarray, np.ndarray]:
    """The points whose features are finite, their matrix rows (int64 ``[P]``) and unit features (``[P, D]``)."""
    rows = np.array([backbone.videos[point.video].rows[point.row] for point in points], dtype=np.int64)
    if not points:
        return points, rows, np.zeros((0, 2), np.float32)
    unit = unit_rows(read_rows(backbone.matrix, rows))
    finite = np.isfinite(unit).all(axis=1)
    kept = [point for point, known in zip(points, finite, strict=True) if known]
    return kept, rows[finite], unit[finite]


def _chosen(videos: Sequence[ReportVideo], shown: Sequence[str]) -> list[int]:
    """Places of the videos that are on the map, ascending."""
    keys = set(shown)
    detailed = {place for place, video in enumerate(videos) if video.key in keys}
    rest = [place for place in range(len(videos)) if place not in detailed]
    room = VIDEOS - len(detailed)
    return sorted(
        detailed | {rest[place] for place in numbers.evenly(len(rest), room)} if room > 0 else detailed
    )


def _points(backbone: Backbone, root: Path, sheets: thumbs.Sheets, shown: Sequence[str]) -> list[_Point]:
    """The frames on the map. Frames with a thumbnail are preferred; those of videos that have no sheet yet go into one
    atlas, which is added to ``sheets``."""
    chosen = _chosen(backbone.videos, shown)
    each = max(1, POINTS // max(1, len(chosen)))
    points: list[_Point] = []
    wanted: list[tuple[bytes, int, list[int]]] = []
    waiting: list[int] = []  # the points whose pictures will be in the atlas, in the order of ``wanted``
    for place in chosen:
        video = backbone.videos[place]
        sheet, pictured = sheets.of_video.get(video.key, (-1, None))
        strip = b""
        if pictured is None:
            strip, pictured = thumbnails(root, backbone, video.key)
        taken = _taken(video, pictured, each)
        has_picture = taken and taken[0][0] >= 0
        if strip and has_picture:
            wanted.append((strip, len(pictured), [cell for cell, _ in taken]))
            waiting += range(len(points), len(points) + len(taken))
        on_sheet = sheet >= 0 and has_picture
        points += [_Point(place, row, (sheet, cell) if on_sheet else _NO_CELL) for cell, row in taken]
    atlas, cells = thumbs.atlas(wanted, _ATLAS_BYTES)
    if atlas is not None:
        number = sheets.add(atlas)
        for point, cell in zip(waiting, (cell for given in cells for cell in given), strict=True):
            if cell >= 0:
                points[point] = _Point(points[point].video, points[point].row, (number, cell))
    return points


def _taken(video: ReportVideo, pictured: Sequence[int], most: int) -> list[tuple[int, int]]:
    """At most ``most`` frames of a video as (cell of its thumbnails, row): pictured ones; else any, with cell -1."""
    has_frame = video.status != "bad"
    usable = [(cell, row) for cell, row in enumerate(pictured) if row < len(has_frame) and has_frame[row]]
    usable = usable or [(-1, int(row)) for row in np.flatnonzero(has_frame)]
    return [usable[number] for number in numbers.evenly(len(usable), most)]
