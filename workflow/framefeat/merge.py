"""The merge stage: two tables (or a folder) in; one merged index and one small slice per video out."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from framefeat import fingerprints, index, tables
from framefeat.errors import UserError, complain
from framefeat.files import atomic_path, write_json
from framefeat.names import video_key
from framefeat.plan import frame_numbers
from framefeat.settings import Settings

#: Columns that the merged index adds: the video's file-safe key, and the row of its slice that this row means.
KEY, SLICE_ROW = tables.MERGED_COLUMNS
#: The entry of the merged index's metadata that names the columns of the frame index, as a JSON list.
COLUMNS = b"framefeat.columns"
SLICE_SCHEMA = 1


def merge(settings: Settings, out: Path, workers: int = 1) -> None:
    """Write ``out/index.parquet``, ``out/slices/{key}.json`` and ``out/videos/{key}.json``.

    A slice holds what decides a video's frames and nothing else (fingerprint, native frame rate, digest of its
    distinct times in ascending order), so that it is the same bytes however the rows are ordered or labelled, wherever the
    file lies. ``videos`` holds the rest: the path, the times (float64 seconds) and the container's facts.

    Raises ``UserError`` listing all problems of a kind. A damaged file is not one of them: it fails when it is sampled.
    """
    videos, video_table = index.find_videos(settings)
    if not settings.from_folder:
        # Before any video is read: that can take hours, and a mistake in a table should be told at once.
        frame_name = str(settings.frame_index)
        frame_table, ids, times = index.read_frame_index(frame_name)
        positions = index.join(ids, videos, frame_name, str(settings.video_index))
    known = fingerprints.examine_all(
        [video.path for video in videos if not index.is_remote(video.path)],
        out / "fingerprints.json",
        workers,
        lambda text: print(text, file=sys.stderr, flush=True),
    )
    _check_sha256(videos, known)
    if settings.from_folder:
        frame_name = str(settings.videos)
        frame_table, ids, times, videos = _index_of_folder(videos, known, settings.sample_fps)
        positions = index.join(ids, videos, frame_name, frame_name)

    slice_rows = np.zeros(len(ids), dtype=np.int64)
    order = np.argsort(positions, kind="stable")
    starts = np.searchsorted(positions[order], np.arange(len(videos) + 1))
    slices: dict[int, np.ndarray] = {}
    for number in range(len(videos)):
        rows = order[starts[number] : starts[number + 1]]
        if len(rows):
            slices[number], slice_rows[rows] = np.unique(times[rows], return_inverse=True)
    if settings.on_bad_frames == "fail":
        _check_ends(videos, known, slices, settings.alignment, ids, times, positions, frame_name)

    keys = _keys(videos, slices)
    _fresh(out / "slices")
    _fresh(out / "videos")
    for number, slice_times in slices.items():
        _write_video(out, keys[number], videos[number], slice_times, known.get(videos[number].path))
    columns = {name: frame_table.column(name) for name in frame_table.column_names}
    if video_table is not None:
        for name in video_table.column_names:
            if name not in columns:
                columns[name] = video_table.column(name).take(pa.array(positions))
    columns[KEY] = pa.array([keys[number] for number in positions], pa.string())
    columns[SLICE_ROW] = pa.array(slice_rows)
    merged = pa.table(columns).replace_schema_metadata(
        _plain(frame_table.schema.metadata) | {COLUMNS: json.dumps(frame_table.column_names)}
    )
    with atomic_path(out / "index.parquet") as temporary:
        pq.write_table(merged, temporary)
    print(f"{len(ids)} rows of {len(slices)} videos", file=sys.stderr)


def _plain(metadata: Mapping[bytes, bytes] | None) -> dict[Any, Any]:
    # pandas' own notes on index and types travel with the user's table; they stay true for the user's columns.
    return dict(metadata or {})


def _index_of_folder(
    videos: list[index.Video], known: Mapping[str, Mapping[str, Any]], sample_fps: float
) -> tuple[pa.Table, list[str], np.ndarray, list[index.Video]]:
    """Both indexes of a folder: ``video_id, frame_idx, timestamp_sec``, the videos with the frame rate that was found.

    A file that cannot be read still has one row, t = 0: it fails (or is masked) as a video of its own, and is never
    silently absent.
    """
    ids: list[str] = []
    ordinals, all_times, probed = [], [], []
    for video in videos:
        facts = known[video.path]["facts"]
        times = index.sample_times(facts["duration_sec"], sample_fps) if facts else np.zeros(1)
        probed.append(index.Video(video.video_id, video.path, facts["fps"] if facts else 1.0))
        ids.extend([video.video_id] * len(times))
        ordinals.append(np.arange(len(times), dtype=np.int64))
        all_times.append(times)
    times = np.concatenate(all_times)
    table = pa.table(
        {
            "video_id": pa.array(ids, pa.string()),
            "frame_idx": pa.array(np.concatenate(ordinals)),
            "timestamp_sec": pa.array(times),
        }
    )
    return table, ids, times, probed


def _check_sha256(videos: list[index.Video], known: Mapping[str, Mapping[str, Any]]) -> None:
    wrong = [
        f"{video.video_id!r}: the index says {video.sha256}, the file {video.path!r} has {known[video.path]['sha256']}"
        for video in videos
        if video.sha256 and video.path in known and video.sha256 != known[video.path]["sha256"]
    ]
    if wrong:
        raise complain(
            "video_index: files whose content is not what the column sha256 says:",
            wrong,
            "Fetch these files again, or correct or drop the column.",
        )


def _check_ends(
    videos: list[index.Video],
    known: Mapping[str, Mapping[str, Any]],
    slices: Mapping[int, np.ndarray],
    alignment: str,
    ids: list[str],
    times: np.ndarray,
    positions: np.ndarray,
    frame_name: str,
) -> None:
    """Refuse times more than one frame past the end of a video, all of them listed."""
    late = []
    for number, slice_times in slices.items():
        video = videos[number]
        found = known.get(video.path, {})
        facts = found.get("facts")
        if facts is None or found["error"] or video.fps is None:
            continue  # a damaged file does not stop the merge: it fails, or is masked, when it is sampled
        beyond = index.past_the_end(slice_times, video.fps, facts, alignment)
        if beyond.any():
            first = float(slice_times[beyond][0])
            for row in np.flatnonzero((positions == number) & (times >= first)):
                late.append(
                    f"row {row} ({ids[row]!r}): {times[row]:g} s, but the video has {facts['frames']} frames "
                    f"and ends at {facts['duration_sec']:.3f} s (at {video.fps:g} fps: frame {frame_numbers(times[row], video.fps)})"
                )
    if late:
        raise complain(
            f"frame_index: {frame_name!r} has times more than one frame past the end of their video "
            "(rows count from 0):",
            late,
            "Correct these rows or the video's fps, or set on_bad_frames: mask to have them as NaN rows marked 'bad'.",
        )


def _keys(videos: list[index.Video], slices: Mapping[int, np.ndarray]) -> dict[int, str]:
    keys = {number: video_key(videos[number].video_id) for number in slices}
    folded: dict[str, list[str]] = {}
    for number, key in keys.items():
        folded.setdefault(key, []).append(videos[number].video_id)
    same = [", ".join(map(repr, ids)) for ids in folded.values() if len(ids) > 1]
    if same:
        raise complain("Video ids that would share one file name:", same, "Rename them.")
    return keys


def _fresh(folder: Path) -> None:
    if folder.is_symlink():
        raise UserError(
            f"{str(folder)!r} is a symbolic link; remove it: this folder is written anew by every merge."
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write_video(
    out: Path, key: str, video: index.Video, times: np.ndarray, found: Mapping[str, Any] | None
) -> None:
    facts = found["facts"] if found else None
    fingerprint = found["sha256"] if found else remote_fingerprint(video)
    identity = {
        "schema": SLICE_SCHEMA,
        "video_id": video.video_id,
        "fingerprint": fingerprint,
        "fps": video.fps,
        "rows": len(times),
        "times_sha256": index.times_digest(times),
    }
    warnings = []
    if facts and video.fps and abs(video.fps - facts["fps"]) > 0.01 * facts["fps"]:
        warnings.append(
            f"the index says {video.fps:g} fps, the container {facts['fps']:g}; the index is believed"
        )
    write_json(out / "slices" / f"{key}.json", identity)
    write_json(
        out / "videos" / f"{key}.json",
        identity
        | {
            "path": video.path if index.is_remote(video.path) else os.path.abspath(video.path),
            "timestamps": times.tolist(),
            "facts": facts,
            "error": found["error"] if found else None,
            "warnings": warnings,
        },
    )


def remote_fingerprint(video: index.Video) -> str:
    """A remote file is not read by the merge: its identity is the index's sha256, else its address."""
    return video.sha256 or f"address:{video.path}"
