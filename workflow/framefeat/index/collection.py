"""The merged index: which frame of which file each row of the matrix is, checked before anything is decoded."""

import math
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pyarrow as pa

from framefeat.errors import UserError, complain
from framefeat.files import is_remote
from framefeat.index import folder, tables
from framefeat.settings import Settings
from framefeat.video.alignment import frame_numbers
from framefeat.words import many

_LONGEST_STILL_SEC = 60.0
_ALWAYS_BELIEVED_SEC = 3600.0


@dataclass(frozen=True)
class Video:
    """One file of the collection, by its absolute path; ``fps`` is None until a folder's videos have been probed."""

    video_id: str
    path: str
    fps: float | None
    sha256: str | None = None


@dataclass(frozen=True)
class Found:
    """The video index: its videos, its table, and by position those whose file is missing or has namesakes."""

    videos: list[Video]
    table: pa.Table
    missing: dict[int, str] = field(default_factory=dict)
    ambiguous: dict[int, str] = field(default_factory=dict)
    unread_folders: list[str] = field(default_factory=list)


def find_videos(settings: Settings) -> Found:
    """The videos of the video index, in its order. Files that do not exist are in ``missing``: no row may need them."""
    path = str(settings.video_index)
    table = tables.read_table(path, "video_index")
    tables.require_columns(table, ("video_id", "video_path", "fps"), path, "video_index")
    ids = tables.text_column(table, "video_id", path)
    seen: dict[str, int] = {}
    doubled = []
    for row, video_id in enumerate(ids):
        if video_id in seen:
            doubled.append(f"{video_id!r} in rows {seen[video_id]} and {row}")
        seen.setdefault(video_id, row)
    if doubled:
        raise complain(
            f"video_index: {path!r} has duplicate video ids (rows count from 0):",
            doubled,
            "Keep one row for each video.",
        )
    fps = tables.number_column(table, "fps", path)
    wrong = [
        f"{ids[row]!r} (row {row}): fps is {'absent' if math.isnan(value) else value}"
        for row, value in enumerate(fps)
        if not (math.isfinite(value) and value > 0)
    ]
    if wrong:
        raise complain(
            f"video_index: {path!r} has frame rates that are not positive numbers (rows count from 0):",
            wrong,
            "Write the video's native frame rate.",
        )
    sha256: list[str | None] = [None] * len(ids)
    if "sha256" in table.column_names:
        sha256 = [
            str(value).strip().lower() if value else None for value in table.column("sha256").to_pylist()
        ]
    locate = _Locator(settings.video_root, Path(path).parent)
    given = tables.text_column(table, "video_path", path)
    found = Found([], table, unread_folders=locate.unread_folders)
    for row, video_id in enumerate(ids):
        places = locate(given[row])
        place = places[0] if len(places) == 1 else given[row]
        found.videos.append(Video(video_id, place, float(fps[row]), sha256[row]))
        if not places:
            found.missing[row] = f"{video_id!r} (row {row}): {given[row]!r}{locate.hint(given[row])}"
        elif len(places) > 1:
            found.ambiguous[row] = f"{os.path.basename(places[0])!r}: {', '.join(places)}"
    return found


def check_files(found: Found, needed: Iterable[int], settings: Settings) -> None:
    """Raises ``UserError`` listing every video at the positions ``needed`` whose file is missing or has namesakes."""
    needed = list(needed)
    ambiguous = [found.ambiguous[position] for position in needed if position in found.ambiguous]
    if ambiguous:
        raise complain(
            f"video_root: {settings.video_root!r} holds several files of one name:",
            list(dict.fromkeys(ambiguous)),
            "Write paths in the video index that tell them apart.",
        )
    missing = [found.missing[position] for position in needed if position in found.missing]
    if missing:
        where = (
            f" and no file of that name was found in video_root ({settings.video_root!r})"
            if settings.video_root
            else ""
        )
        unread = f" These folders cannot be read: {', '.join(found.unread_folders)}." * bool(
            found.unread_folders
        )
        raise complain(
            f"video_index: {str(settings.video_index)!r} names files that do not exist{where} (rows count from 0):",
            missing,
            f"Correct the paths, or set video_root to the folder that holds the files.{unread}",
        )


class _Locator:
    """Finds a file by its path; where ``root`` is set, also by its name alone, anywhere below it."""

    def __init__(self, root: str | None, index_folder: Path) -> None:
        self.root = Path(root) if root else None
        self.unread_folders: list[str] = []
        self._starts = [self.root] if self.root else [Path("."), index_folder]
        self._by_name: dict[str, list[str]] | None = None
        if self.root is not None and not os.path.isdir(self.root):
            raise UserError(f"video_root: {root!r} is not a folder; correct video_root in the configuration.")

    def __call__(self, path: str) -> list[str]:
        """The absolute path (or the address) of the file; nothing, or several, where it cannot be told."""
        if is_remote(path):
            return [path]
        for start in self._starts:
            candidate = start / path  # an absolute path stays as it is
            # Not Path.is_file: it raises for a path that is too long, or that may not be looked at.
            if os.path.isfile(candidate):
                return [os.path.abspath(candidate)]
        if self.root is None:
            return []
        name = PureWindowsPath(path).name  # takes both kinds of slashes for separators
        if not name:
            return []
        if os.path.isfile(self.root / name):
            return [os.path.abspath(self.root / name)]
        return self._names().get(name, [])

    def hint(self, path: str) -> str:
        """What lies at the path instead of a file, where something does."""
        kinds = [folder.kind_of(start / path) for start in self._starts]
        return next((f" ({kind})" for kind in kinds if kind != "not there"), "")

    def _names(self) -> dict[str, list[str]]:
        if self._by_name is None:
            self._by_name = {}
            listing = folder.Listing()
            for path, kind in folder.files_below(str(self.root), listing):
                if kind == folder.FILE:
                    self._by_name.setdefault(os.path.basename(path), []).append(os.path.abspath(path))
            self.unread_folders.extend(repr(left.path) for left in listing.left_out)
        return self._by_name


def folder_videos(paths: Iterable[str], pattern: str) -> list[Video]:
    """The videos of a folder or glob, by id in byte order. Refuses ids that two files would have."""
    by_id: dict[str, list[str]] = {}
    for path in paths:
        by_id.setdefault(folder.video_id(path), []).append(path)
    doubled = [
        f"{video_id!r}: {', '.join(map(repr, sorted(found)))}"
        for video_id, found in by_id.items()
        if len(found) > 1
    ]
    if doubled:
        raise complain(
            f"videos: {pattern!r} has files of the same name (the id of a video is its file name without the suffix):",
            sorted(doubled),
            "Rename them, or write the two indexes.",
        )
    return [Video(video_id, by_id[video_id][0], None) for video_id in sorted(by_id, key=str.encode)]


def read_frame_index(path: str) -> tuple[pa.Table, list[str], np.ndarray]:
    """The frame index as it is, its ids as text and its times as float64 seconds. Lists every unusable row."""
    table = tables.read_table(path, "frame_index")
    tables.require_columns(table, ("video_id", "timestamp_sec"), path, "frame_index")
    taken = [name for name in (*tables.RESULT_COLUMNS, *tables.MERGED_COLUMNS) if name in table.column_names]
    if taken:
        raise complain(
            f"frame_index: {path!r} has columns whose names the results use:", taken, "Rename or drop them."
        )
    if table.num_rows == 0:
        raise UserError(f"frame_index: {path!r} has no rows; nothing can be extracted.")
    ids = tables.text_column(table, "video_id", path)
    times = tables.number_column(table, "timestamp_sec", path)
    wrong = [
        f"row {row} ({ids[row]!r}): timestamp_sec is {'absent or NaN' if math.isnan(value) else value}"
        for row, value in enumerate(times)
        if not (math.isfinite(value) and value >= 0)
    ]
    if wrong:
        raise complain(
            f"frame_index: {path!r} has times that are negative or not finite (rows count from 0):",
            wrong,
            "Times are seconds from the first frame of the video.",
        )
    place = table.column_names.index("video_id")
    return table.set_column(place, "video_id", pa.array(ids, pa.string())), ids, times


def join(ids: Sequence[str], videos: Sequence[Video], frame_index: str, video_index: str) -> np.ndarray:
    """Position of each row's video (int64 [N]), many to one. Lists every id that has rows and no video."""
    place = {video.video_id: position for position, video in enumerate(videos)}
    positions = np.fromiter((place.get(video_id, -1) for video_id in ids), np.int64, len(ids))
    if (positions < 0).any():
        lost: dict[str, list[int]] = {}
        for row in np.flatnonzero(positions < 0).tolist():
            lost.setdefault(ids[row], []).append(row)
        alike = {_folded(video.video_id): video.video_id for video in videos}

        def near(video_id: str) -> str:
            other = alike.get(_folded(video_id))
            return f": did you mean {other!r}? Ids are compared letter by letter" if other else ""

        raise complain(
            f"frame_index: {frame_index!r} has rows of videos that the video index {video_index!r} does not have (rows count from 0):",
            [
                f"{video_id!r}: {many(len(rows), 'row')}, the first is row {rows[0]}{near(video_id)}"
                for video_id, rows in lost.items()
            ],
            "Add them to the video index or remove these rows.",
        )
    return positions


def _folded(video_id: str) -> str:
    """The id without what is easily overlooked: case, blanks around it, how accents are coded, a file's suffix."""
    plain = unicodedata.normalize("NFKC", video_id).strip().casefold()
    stem, suffix = os.path.splitext(plain)
    return stem if suffix in folder.VIDEO_SUFFIXES else plain


def believable_duration(facts: Mapping[str, Any]) -> float:
    """The duration in seconds, but no more than the frames can fill: a minute for each, an hour in any case.

    A clock that jumps says days for some seconds of video, and each of its samples would be a row.
    """
    return min(
        facts["duration_sec"],
        max(_LONGEST_STILL_SEC * facts["frames_found"], _ALWAYS_BELIEVED_SEC),
    )


def sample_times(duration_sec: float, sample_fps: float) -> np.ndarray:
    """t_k = k / sample_fps while t_k < duration, rounded to 3 decimals: float64 seconds, as TVSum's index was made.

    A video always has the row t = 0.
    """
    count = max(1, math.ceil(duration_sec * sample_fps))
    times = np.arange(count) / sample_fps
    times = times[times < duration_sec] if duration_sec > 0 else times[:1]
    return np.round(times, 3)


def past_the_end(times: np.ndarray, fps: float, facts: Mapping[str, Any], alignment: str) -> np.ndarray:
    """Which times (bool [T]) mean a frame more than one past the end, by the container's own account."""
    if alignment == "index":
        return frame_numbers(times, fps) > facts["frames"]
    shown = facts.get("last_duration_sec", facts["interval_sec"])
    return times > facts["last_sec"] + shown + 0.5 * facts["interval_sec"]
