"""The merged index: which frame of which file each row of the matrix is, checked before anything is decoded."""

import glob
import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from framefeat import tables
from framefeat.errors import UserError, complain
from framefeat.plan import frame_numbers
from framefeat.settings import Settings

VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .divx .f4v .flv .m2ts .m2v .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .rm .rmvb .ts .vob"
    " .webm .wmv .y4m".split()
)
REMOTE_PREFIXES = ("http://", "https://", "s3://", "gs://", "gcs://", "az://", "ftp://", "sftp://")


def is_remote(path: str) -> bool:
    """Whether ``path`` is an address for a storage plugin and not a local file."""
    return path.lower().startswith(REMOTE_PREFIXES)


@dataclass(frozen=True)
class Video:
    """One file of the collection; ``fps`` is None until a folder's videos have been probed."""

    video_id: str
    path: str
    fps: float | None
    sha256: str | None = None


def find_videos(settings: Settings) -> tuple[list[Video], pa.Table | None]:
    """The collection's files, in the order of the video index (of a folder: by id in byte order).

    Returns the videos and the user's video table (None with a folder). Raises ``UserError`` listing every missing file.
    """
    if settings.from_folder:
        return _folder_videos(str(settings.videos)), None
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
            f"video_index: {path!r} has duplicate video ids:", doubled, "Keep one row for each video."
        )
    fps = tables.number_column(table, "fps", path)
    wrong = [
        f"{ids[row]!r} (row {row}): fps is {'absent' if math.isnan(value) else value}"
        for row, value in enumerate(fps)
        if not (math.isfinite(value) and value > 0)
    ]
    if wrong:
        raise complain(
            f"video_index: {path!r} has frame rates that are not positive numbers:",
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
    videos, missing = [], []
    for row, video_id in enumerate(ids):
        found = locate(given[row])
        if found is None:
            missing.append(f"{video_id!r} (row {row}): {given[row]!r}")
        else:
            videos.append(Video(video_id, found, float(fps[row]), sha256[row]))
    if locate.ambiguous:
        raise complain(
            f"video_root: {settings.video_root!r} holds several files of one name:",
            locate.ambiguous,
            "Write paths in the video index that tell them apart.",
        )
    if missing:
        where = (
            f" and no file of that name was found in video_root ({settings.video_root!r})"
            if settings.video_root
            else ""
        )
        raise complain(
            f"video_index: {path!r} names files that do not exist{where}:",
            missing,
            "Correct the paths, or set video_root to the folder that holds the files.",
        )
    return videos, table


class _Locator:
    """Finds a file by its path; where ``root`` is set, also by its name alone, anywhere below it."""

    def __init__(self, root: str | None, index_folder: Path) -> None:
        self.root = Path(root) if root else None
        self.index_folder = index_folder
        self.ambiguous: list[str] = []
        self._by_name: dict[str, list[str]] | None = None
        if self.root is not None and not self.root.is_dir():
            raise UserError(f"video_root: {root!r} is not a folder; correct video_root in the configuration.")

    def __call__(self, path: str) -> str | None:
        if is_remote(path):
            return path
        starts: Iterable[Path] = [self.root] if self.root else [Path("."), self.index_folder]
        for start in starts:
            candidate = start / path  # an absolute path stays as it is
            # Not Path.is_file: it raises for a path that is too long, or that may not be looked at.
            if os.path.isfile(candidate):
                return str(candidate)
        if self.root is None:
            return None
        name = PureWindowsPath(path).name  # takes both kinds of slashes for separators
        if not name:
            return None
        if os.path.isfile(self.root / name):
            return str(self.root / name)
        matches = self._names().get(name, [])
        if len(matches) > 1:
            self.ambiguous.append(f"{name!r}: {', '.join(matches)}")
        return matches[0] if matches else None

    def _names(self) -> dict[str, list[str]]:
        if self._by_name is None:
            self._by_name = {}
            for folder, _, names in os.walk(str(self.root), followlinks=True):
                for name in names:
                    self._by_name.setdefault(name, []).append(os.path.join(folder, name))
        return self._by_name


def _folder_videos(pattern: str) -> list[Video]:
    if os.path.isdir(pattern):
        paths = [
            os.path.join(folder, name)
            for folder, _, names in os.walk(pattern, followlinks=True)
            for name in names
            if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and not name.startswith(".")
        ]
    else:
        paths = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
    if not paths:
        raise UserError(
            f"videos: no video file was found in {pattern!r}; name a folder or a glob that holds videos "
            "(the example's clips are put in place by 'make env')."
        )
    by_id: dict[str, list[str]] = {}
    for path in paths:
        by_id.setdefault(Path(path).stem, []).append(path)
    doubled = [
        f"{video_id!r}: {', '.join(sorted(found))}" for video_id, found in by_id.items() if len(found) > 1
    ]
    if doubled:
        raise complain(
            f"videos: {pattern!r} has files of the same name (the id of a video is its file name without the suffix):",
            sorted(doubled),
            "Rename them, or write the two indexes.",
        )
    ordered = sorted(by_id, key=lambda video_id: os.fsencode(video_id))
    return [Video(video_id, by_id[video_id][0], None) for video_id in ordered]


def stat_digest(settings: Settings) -> str:
    """A digest of every video's path, size and modification time, so that a replaced file is noticed even where its
    time is older than the results. Reads no video. Where the collection cannot be listed it is the error's text: the
    merge that follows says the same to the user."""
    try:
        videos, _ = find_videos(settings)
    except UserError as error:
        return hashlib.sha256(str(error).encode()).hexdigest()
    digest = hashlib.sha256()
    for video in videos:
        digest.update(repr((video.video_id, video.path, *_stat(video.path))).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _stat(path: str) -> tuple[int, int]:
    if is_remote(path):
        return (-1, -1)
    found = os.stat(path)
    return (found.st_size, found.st_mtime_ns)


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
    positions = pd.Index([video.video_id for video in videos], dtype=object).get_indexer(
        pd.Index(ids, dtype=object)
    )
    if (positions < 0).any():
        lost: dict[str, list[int]] = {}
        for row in np.flatnonzero(positions < 0).tolist():
            lost.setdefault(ids[row], []).append(row)
        raise complain(
            f"frame_index: {frame_index!r} has rows of videos that the video index {video_index!r} does not have:",
            [
                f"{video_id!r}: {len(rows)} row(s), the first is row {rows[0]}"
                for video_id, rows in lost.items()
            ],
            "Add them to the video index or remove these rows.",
        )
    return np.asarray(positions, dtype=np.int64)


def sample_times(duration_sec: float, sample_fps: float) -> np.ndarray:
    """t_k = k / sample_fps while t_k < duration, rounded to 3 decimals: float64 seconds, as TVSum's index was made.

    A video always has the row t = 0.
    """
    count = max(1, math.ceil(duration_sec * sample_fps))
    times = np.arange(count) / sample_fps
    times = times[times < duration_sec] if duration_sec > 0 else times[:1]
    return np.round(times, 3)


def times_digest(times: np.ndarray) -> str:
    """sha256 of a slice's times: little-endian float64, ascending."""
    return hashlib.sha256(np.ascontiguousarray(times, dtype="<f8").tobytes()).hexdigest()


def past_the_end(times: np.ndarray, fps: float, facts: Mapping[str, Any], alignment: str) -> np.ndarray:
    """Which times (bool [T]) mean a frame more than one past the end, by the container's own account."""
    if alignment == "index":
        return frame_numbers(times, fps) > facts["frames"]
    return times > facts["last_sec"] + 1.5 * facts["interval_sec"]
