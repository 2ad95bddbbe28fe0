"""The merge stage: two tables (or a folder) in; one merged index and one small file per shard out."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from framefeat.errors import UserError, complain
from framefeat.files import atomic_path, is_remote, write_json
from framefeat.identity import UNREAD, times_digest
from framefeat.index import collection, fingerprints, folder, former, shards, tables
from framefeat.layout import ResultsFolder
from framefeat.names import video_key
from framefeat.records import Shard, VideoRecord, slice_of
from framefeat.settings import Settings
from framefeat.video.alignment import frame_numbers
from framefeat.words import many

#: Columns that the merged index adds: the video's file-safe key, and the row of its slice that this row means.
KEY, SLICE_ROW = tables.MERGED_COLUMNS
#: The entry of the merged index's metadata that names the columns of the frame index, as a JSON list.
COLUMNS = b"framefeat.columns"
SHARD_SCHEMA = 3
_BLOCK_ROWS = 1 << 16


def merge(settings: Settings, out: Path, workers: int = 1, stored_in: ResultsFolder | None = None) -> None:
    """Write ``out/index.parquet``, ``out/shards/{shard}.json``, ``out/videos/{shard}.json`` and ``out/left_out.json``.

    A shard holds what decides the frames of its videos and nothing else (fingerprint, native frame rate, alignment,
    digest of the distinct times in ascending order), so that it is the same bytes however the rows are ordered or
    labelled, wherever the files lie. ``videos`` holds the rest: the paths, the times (float64 seconds) and the
    containers' facts. ``left_out.json`` says what of a folder is not in the index, ``former.json`` (where there is
    something to say) of which videos results lie in ``stored_in`` (``out``, if it is not given) under another name.

    Raises ``UserError`` listing all problems of a kind. A damaged file is none: sampling finds it.
    """
    results = ResultsFolder(out)
    video_table = None
    if settings.from_folder:
        videos, known, listing, dropped = _read_folder(settings, results, workers)
        frame_name = str(settings.videos)
        frame_table, ids, times, videos = _index_of_folder(videos, known, settings)
        positions = collection.join(ids, videos, frame_name, frame_name)
    else:
        # Tables first: reading the videos can take hours, and a mistake in a table should be reported at once.
        found = collection.find_videos(settings)
        videos, video_table, listing, dropped = found.videos, found.table, folder.Listing(), {}
        frame_name = str(settings.frame_index)
        frame_table, ids, times = collection.read_frame_index(frame_name)
        positions = collection.join(ids, videos, frame_name, str(settings.video_index))
        needed = np.unique(positions).tolist()
        collection.check_files(found, needed, settings)
        local = [videos[number].path for number in needed if not is_remote(videos[number].path)]
        known = fingerprints.examine_all(local, results.fingerprints, workers, _say)
        _check_sha256(videos, known)

    slice_rows = np.zeros(len(ids), dtype=np.int64)
    order = np.argsort(positions, kind="stable")
    starts = np.searchsorted(positions[order], np.arange(len(videos) + 1))
    slices: dict[int, np.ndarray] = {}
    for number in range(len(videos)):
        rows = order[starts[number] : starts[number + 1]]
        if len(rows):
            slices[number], slice_rows[rows] = np.unique(times[rows], return_inverse=True)
    if (
        settings.on_bad_frames == "fail" and not settings.from_folder
    ):  # nobody wrote a folder's rows: they are findings
        _check_ends(videos, known, slices, settings, ids, times, positions, frame_name)

    keys = _keys(videos, slices)
    records = {
        keys[number]: _record(videos[number], slice_times, known.get(videos[number].path), settings)
        for number, slice_times in slices.items()
    }
    dealt = shards.deal(
        {keys[number]: len(slice_times) for number, slice_times in slices.items()}, settings.rows_of_a_shard
    )
    _write_shards(results, records, dealt)
    if hints := former.find(stored_in or results, records):
        write_json(results.former, hints)
    else:
        results.former.unlink(missing_ok=True)
    columns = {name: frame_table.column(name) for name in frame_table.column_names}
    if video_table is not None:
        for name in video_table.column_names:
            if name not in columns:
                columns[name] = _of_rows(video_table.column(name), positions)
    columns[KEY] = pa.array([keys[number] for number in positions], pa.string())
    columns[SLICE_ROW] = pa.array(slice_rows)
    merged = pa.table(columns).replace_schema_metadata(
        _plain(frame_table.schema.metadata) | {COLUMNS: json.dumps(frame_table.column_names)}
    )
    with atomic_path(results.index) as temporary:
        pq.write_table(merged, temporary)
    unread = [
        folder.LeftOut(path, entry["error"])
        for path, entry in known.items()
        if entry["error"] and entry["sha256"] is None
    ]
    left_out = folder.report(listing, dropped, unread)
    write_json(results.left_out, left_out)
    for line in folder.sentences(left_out):
        _say(line)
    _say(
        f"{many(len(ids), 'row')} of {many(len(slices), 'video')} in {many(len(set(dealt.values())), 'shard')}"
    )


def _of_rows(column: pa.ChunkedArray, positions: np.ndarray) -> pa.ChunkedArray:
    """``column[positions]``, in blocks: a transcript for each row of its video is more than one Arrow text may hold."""
    starts = range(0, len(positions), _BLOCK_ROWS)
    blocks = [column.take(pa.array(positions[start : start + _BLOCK_ROWS])) for start in starts]
    return pa.chunked_array([chunk for block in blocks for chunk in block.chunks], type=column.type)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _read_folder(
    settings: Settings, results: ResultsFolder, workers: int
) -> tuple[list[collection.Video], dict[str, dict[str, Any]], folder.Listing, dict[str, folder.LeftOut]]:
    """The videos of the folder, what is known of each file by its path, what is left out, and by id what is dropped.

    ``on_bad_frames: drop`` leaves out files that give no video at all. One that has frames, some of them bad, stays.
    """
    pattern = str(settings.videos)
    listing = folder.listing(pattern)
    videos = collection.folder_videos(
        listing.videos, pattern
    )  # a name that is there twice is told before anything is read
    unsure = frozenset(listing.unsure)
    paths = [*(video.path for video in videos), *sorted(unsure)]
    known = fingerprints.examine_all(
        paths, results.fingerprints, workers, _say, unsure, settings.sample_every
    )
    taken = []
    for path in sorted(unsure):
        found = known[path]
        if found["sha256"] is not None:
            taken.append(path)
        elif found["no_video"] == folder.TEXT:
            listing.counts[folder.TEXT] += 1
        else:
            listing.left_out.append(folder.LeftOut(path, found["no_video"] or found["error"]))
    if taken:
        videos = collection.folder_videos([*listing.videos, *taken], pattern)
    dropped: dict[str, folder.LeftOut] = {}
    if settings.on_bad_frames == "drop":
        dropped = {
            video.video_id: folder.LeftOut(video.path, known[video.path]["error"])
            for video in videos
            if known[video.path]["facts"] is None
        }
        videos = [video for video in videos if video.video_id not in dropped]
    if not videos:
        report = folder.report(listing, dropped, [])
        raise complain(
            f"videos: no video file was found in {pattern!r}.",
            [line.strip() for line in folder.sentences(report)],
            "Name a folder or a glob that holds videos (in a glob, '[[]' stands for '['; the example's clips are put in "
            "place by 'make env').",
        )
    return videos, known, listing, dropped


def _plain(metadata: Mapping[bytes, bytes] | None) -> dict[Any, Any]:
    # pandas' own notes on index and types travel with the user's table; they stay true for the user's columns.
    return dict(metadata or {})


def _index_of_folder(
    videos: list[collection.Video], known: Mapping[str, Mapping[str, Any]], settings: Settings
) -> tuple[pa.Table, list[str], np.ndarray, list[collection.Video]]:
    """Both indexes of a folder: ``video_id, frame_idx, timestamp_sec``, the videos with the frame rate that was found.

    A file that cannot be read still has one row, t = 0: it fails (or is masked) as a video of its own, and is never
    silently absent.
    """
    ids: list[str] = []
    ordinals, all_times, probed = [], [], []
    for video in videos:
        facts = known[video.path]["facts"]
        times = _times_of(known[video.path], settings)
        probed.append(collection.Video(video.video_id, video.path, facts["fps"] if facts else 1.0))
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


def _times_of(found: Mapping[str, Any], settings: Settings) -> np.ndarray:
    """The times (float64 seconds, ascending) of a folder's video: at a rate, or those of every k-th frame."""
    if found["facts"] is None:
        return np.zeros(1)
    if settings.sample_every is not None:
        return np.array(found["sampled"]["times"])
    return collection.sample_times(collection.believable_duration(found["facts"]), settings.sample_fps)


def _check_sha256(videos: list[collection.Video], known: Mapping[str, Mapping[str, Any]]) -> None:
    wrong = [
        f"{video.video_id!r}: the index says {video.sha256}, the file {video.path!r} has {known[video.path]['sha256']}"
        for video in videos
        if video.sha256 and video.path in known and known[video.path]["sha256"] not in (None, video.sha256)
    ]
    if wrong:
        raise complain(
            "video_index: files whose content is not what the column sha256 says:",
            wrong,
            "Fetch these files again, or correct or drop the column.",
        )


def _check_ends(
    videos: list[collection.Video],
    known: Mapping[str, Mapping[str, Any]],
    slices: Mapping[int, np.ndarray],
    settings: Settings,
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
        beyond = collection.past_the_end(slice_times, video.fps, facts, _alignment(settings, facts))
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


def _keys(videos: list[collection.Video], slices: Mapping[int, np.ndarray]) -> dict[int, str]:
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


def _write_shards(
    results: ResultsFolder, records: Mapping[str, VideoRecord], dealt: Mapping[str, str]
) -> None:
    """``dealt``: the shard of each key."""
    by_shard: dict[str, dict[str, VideoRecord]] = {}
    for key, record in records.items():
        by_shard.setdefault(dealt[key], {})[key] = record
    _fresh(results.shards)
    _fresh(results.videos)
    for shard, members in by_shard.items():
        members = dict(sorted(members.items()))
        decided: Shard = {
            "schema": SHARD_SCHEMA,
            "videos": {key: slice_of(record) for key, record in members.items()},
        }
        write_json(results.shard(shard), decided)
        write_json(results.videos_of(shard), members)


def _record(
    video: collection.Video, times: np.ndarray, found: Mapping[str, Any] | None, settings: Settings
) -> VideoRecord:
    facts = found["facts"] if found else None
    if found is None:
        fingerprint = remote_fingerprint(video)
    else:
        fingerprint = found["sha256"] or f"{UNREAD}{video.video_id}"
    assert video.fps is not None  # a folder's videos are probed by now
    doubts = []
    if settings.from_folder and facts and collection.believable_duration(facts) < facts["duration_sec"]:
        doubt = f"its clock says {facts['duration_sec']:.0f} s for {facts['frames_found']} frames, which cannot be"
        if settings.sample_every is None:
            doubt += f": the rows end at {collection.believable_duration(facts):.0f} s"
        doubts.append(doubt)
    return {
        "video_id": video.video_id,
        "fingerprint": fingerprint,
        "fps": video.fps,
        "alignment": _alignment(settings, facts),
        "rows": len(times),
        "times_sha256": times_digest(times),
        "path": video.path,
        "timestamps": times.tolist(),
        "facts": facts,
        "error": found["error"] if found else None,
        "doubts": doubts,
        "stamp": found["stamp"][:2] if found and found["sha256"] and found["stamp"] else None,
    }


def _alignment(settings: Settings, facts: Mapping[str, Any] | None) -> str:
    """The alignment that holds for a video: where nobody indexed labels, a variable rate is sampled by time."""
    return "pts" if settings.from_folder and facts and facts["vfr"] else settings.alignment


def remote_fingerprint(video: collection.Video) -> str:
    """A remote file is not read by the merge: its identity is the index's sha256, else its address."""
    return video.sha256 or f"address:{video.path}"
