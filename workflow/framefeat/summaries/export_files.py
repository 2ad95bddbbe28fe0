"""The features of a finished run as many files, one video each, in the layouts that people's loaders read.

- ``npy``: ``{video}_{backbone}.npy`` ``[T, D]``, ``{video}_fps.npy`` and ``{video}_timestamps_ms.npy`` (as
  video_features writes).
- ``npz``: ``{video}.npz`` with ``features`` ``[T, D]`` and ``timestamps`` (QVHighlights' and Moment-DETR's loaders read
  ``features``).
- ``webdataset``: ``{dataset}-000000.tar`` and on, one sample per video: ``features.npy``, ``timestamps.npy``, ``json``.

Rows stand in order of time. ``export.json`` tells which files are whose, and which matrix they come from.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np

from framefeat.errors import UserError, complain
from framefeat.names import video_key
from framefeat.results.dataset import Features, load
from framefeat.summaries.export_target import new_folder
from framefeat.terminal import printable
from framefeat.vectors import unit_rows
from framefeat.words import many

_UNSAFE = re.compile(r"[/\\%~\x00-\x1f\x7f]|^\.")


@dataclass(frozen=True, eq=False)
class _ExportedVideo:
    """What is written of one video: ``values`` float32 ``[T, D]``, ``times`` float64 ``[T]`` in seconds, ascending."""

    video_id: str
    values: np.ndarray
    times: np.ndarray
    fps: float


def run(
    layout: str,
    features_dir: str | os.PathLike[str],
    out: str | os.PathLike[str],
    l2: bool = False,
    drop_bad: bool = False,
    every: float | None = None,
    force: bool = False,
    videos_per_shard: int = 1000,
) -> dict[str, Any]:
    """Write the files into the folder ``out`` and say where they are; returns what ``export.json`` holds.

    ``l2``: scale rows to unit length. ``drop_bad``: leave bad rows out instead of refusing. ``every``: row k is the
    mean of the video's rows from ``k * every`` to ``(k + 1) * every`` seconds. ``force``: replace files that framefeat
    did not write.
    """
    if every is not None and not (np.isfinite(every) and every > 0):
        raise UserError(f"every: {every} is not a number of seconds above 0.")
    if videos_per_shard < 1:
        raise UserError(f"videos-per-shard: {videos_per_shard} is not a whole number from 1 on.")
    features, out = load(features_dir), Path(out)
    rows = _good_rows(features, drop_bad, every)
    record = _source(features) | {"format": layout, "l2_normalised": l2, "every_sec": every}
    with new_folder(out, features.files, force, record) as (folder, note):
        write = _WRITERS[layout]
        videos = (_read(features, video_id, mine, l2, every) for video_id, mine in rows.items())
        note["videos"] = list(write(folder, features, videos, videos_per_shard))
        total = sum(video["rows"] for video in note["videos"])
        note["rows"] = total
    print(
        f"{out}: {many(len(rows), 'video')}, {many(total, 'row')}, D = {features.dim}, {layout}",
        file=sys.stderr,
    )
    for line in _left_out(features, rows):
        print(line, file=sys.stderr)
    return note


def _left_out(features: Features, rows: Mapping[str, np.ndarray]) -> Iterator[str]:
    """What of the run's videos is not in the export, for a person. ``rows``: those that are, by id."""
    every = {video_id: len(features.times_order(video_id)) for video_id in features.video_ids}
    lost = {video_id: count - len(rows.get(video_id, ())) for video_id, count in every.items()}
    if gone := [video_id for video_id in every if video_id not in rows]:
        yield f"left out: {many(len(gone), 'video')} without a good row: {_some(gone)}"
    if shorter := [
        f"{video_id} ({lost[video_id]} of {every[video_id]})" for video_id in rows if lost[video_id]
    ]:
        yield f"bad rows left out of {many(len(shorter), 'video')}: {_some(shorter)}"


def _some(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + more


def _source(features: Features) -> dict[str, Any]:
    names = ("dataset", "backbone", "weights", "alignment", "alignment_verified", "matrix_sha256", "control")
    manifest: Mapping[str, Any] = features.manifest
    return {name: manifest[name] for name in names if name in manifest} | {"feature_dim": features.dim}


def _good_rows(features: Features, drop_bad: bool, every: float | None) -> dict[str, np.ndarray]:
    """Matrix rows of each video in order of time, none of them bad; videos without any are left out."""
    bad = (features.index["status"] == "bad").to_numpy()
    times = features.index["timestamp_sec"].to_numpy(dtype=float)
    found, problems = {}, []
    for video_id in features.video_ids:
        rows = features.times_order(video_id)
        good = rows[~bad[rows]]
        if len(good) < len(rows) and not drop_bad:
            problems.append(
                f"{video_id!r}: {len(rows) - len(good)} of {len(rows)} rows are bad (NaN); mend the video, or export with --drop-bad"
            )
        elif (
            len(good)
            and every is not None
            and (gap := _first_gap(times[good], times[rows], every)) is not None
        ):
            problems.append(
                f"{video_id!r}: no row{' that has a frame' * bool(bad[rows].any())} lies from {gap * every:g} to {(gap + 1) * every:g} s, so "
                "that rows would be counted wrong; sample more densely, choose a larger --every, or leave the video out"
            )
        elif len(good):
            found[video_id] = good
    if problems:
        raise complain(f"{features.folder}: these videos cannot be exported:", problems)
    if not found:
        raise UserError(f"{features.folder}: no video is left to export.")
    return found


def _windows(times: np.ndarray, every: float) -> np.ndarray:
    return np.floor(times / every + 1e-6).astype(np.int64)  # 0.3 / 0.1 is a little less than 3


def _first_gap(times: np.ndarray, asked: np.ndarray, every: float) -> int | None:
    """The first window, up to the last one that was ``asked`` for, in which none of ``times`` lies."""
    filled = np.unique(_windows(times, every))
    lacking = np.flatnonzero(filled != np.arange(len(filled)))
    first = int(lacking[0]) if len(lacking) else len(filled)
    return first if first <= _windows(asked, every).max() else None


def _read(
    features: Features, video_id: str, rows: np.ndarray, l2: bool, every: float | None
) -> _ExportedVideo:
    values = np.array(features.matrix[rows], dtype=np.float32)
    if not np.isfinite(values).all():
        raise UserError(
            f"{features.folder}: the matrix holds NaN or infinity in rows of {video_id!r} that are not marked bad; run the workflow again."
        )
    if every is None:
        own = features.index["pts_sec"].to_numpy(dtype=float)[rows] if "pts_sec" in features.index else None
        asked = features.index["timestamp_sec"].to_numpy(dtype=float)[rows]
        times = asked if own is None or not np.isfinite(own).all() else own
        fps = _rate(asked)
    else:
        window = _windows(features.index["timestamp_sec"].to_numpy(dtype=float)[rows], every)
        starts = np.flatnonzero(np.r_[True, np.diff(window) > 0])
        counts = np.diff(np.r_[starts, len(window)])[:, None]
        values = (np.add.reduceat(values.astype(np.float64), starts, axis=0) / counts).astype(np.float32)
        times, fps = np.arange(len(values)) * every, 1 / every
    return _ExportedVideo(video_id, unit_rows(values) if l2 else values, times, fps)


def _rate(times: np.ndarray) -> float:
    """Rows per second where they follow each other; 0 where no two do. ``times``: what was asked for, ascending. (The
    frames' own times go by the file's rate: at 25 fps, one every half second comes 0.48 or 0.52 s after the last.)"""
    steps = np.diff(times)
    if not (steps > 0).any():
        return 0.0
    close = steps[steps <= 1.5 * np.median(steps[steps > 0])]
    return float(len(close) / close.sum())


def file_stem(video_id: str) -> str:
    """The id itself where it can be a file's name, since loaders look for ``{id}.npz``; else what stands for it. One to
    one."""
    return video_key(video_id) if _UNSAFE.search(video_id) or len(os.fsencode(video_id)) > 180 else video_id


def _write_npy(
    folder: Path, features: Features, videos: Iterator[_ExportedVideo], _: int
) -> Iterator[Mapping[str, Any]]:
    suffix = features.folder.name
    for video in videos:
        stem = file_stem(video.video_id)
        np.save(folder / f"{stem}_{suffix}.npy", video.values)
        np.save(folder / f"{stem}_fps.npy", np.float64(video.fps))
        np.save(folder / f"{stem}_timestamps_ms.npy", video.times * 1000)
        yield {"video_id": video.video_id, "rows": len(video.values), "file": f"{stem}_{suffix}.npy"}


def _write_npz(
    folder: Path, _: Features, videos: Iterator[_ExportedVideo], __: int
) -> Iterator[Mapping[str, Any]]:
    for video in videos:
        name = f"{file_stem(video.video_id)}.npz"
        np.savez(folder / name, features=video.values, timestamps=video.times)
        yield {"video_id": video.video_id, "rows": len(video.values), "file": name}


def _write_webdataset(
    folder: Path, features: Features, videos: Iterator[_ExportedVideo], videos_per_shard: int
) -> Iterator[Mapping[str, Any]]:
    try:
        from webdataset import TarWriter
    except ImportError as error:
        raise UserError(
            "This layout is written by the library webdataset, which is not installed: pip install 'framefeat[export]', or pip install webdataset."
        ) from error
    name = features.manifest.get("dataset", "features")
    for number in count():
        batch = list(islice(videos, 1))
        if not batch:
            return
        file = f"{name}-{number:06d}.tar"
        with (
            open(folder / file, "wb") as stream,
            TarWriter(stream, mtime=0, format="PAX_FORMAT") as tar,
        ):
            for video in chain(batch, islice(videos, videos_per_shard - 1)):
                key = file_stem(video.video_id).replace(".", "%2E")  # a sample's key ends at the first dot
                tar.write(
                    {
                        "__key__": key,
                        "features.npy": video.values,
                        "timestamps.npy": video.times,
                        "json": {"video_id": video.video_id, "fps": video.fps},
                    }
                )
                yield {"video_id": video.video_id, "rows": len(video.values), "file": file, "key": key}


_WRITERS: Mapping[str, Callable[..., Iterator[Mapping[str, Any]]]] = {
    "npy": _write_npy,
    "npz": _write_npz,
    "webdataset": _write_webdataset,
}
