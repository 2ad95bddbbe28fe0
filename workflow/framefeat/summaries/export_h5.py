"""The HDF5 file that video summarisers load (the layout of ``eccv16_dataset_*_google_pool5.h5``), from a finished run.

One group per video, ``video_1`` onward: by its place in the annotations, by its group in the file that labels are taken
from, or in order of first appearance in the frame index. Within a group the rows stand in order of time. Without labels
``gtscore``, ``gtsummary`` and ``user_summary`` are left out.
"""

import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from framefeat.errors import UserError, complain
from framefeat.files import atomic_path
from framefeat.layout import FRAME_INDEX, MANIFEST
from framefeat.records import VideoEntry
from framefeat.results.dataset import Features, load
from framefeat.summaries import kts
from framefeat.summaries.annotations import MOST_FRAMES_APART, Annotations, Labels, open_annotations
from framefeat.summaries.export_target import WRITER, check_file, is_framefeats
from framefeat.summaries.knapsack import BUDGET, choice, shot_summary
from framefeat.summaries.other_h5 import OtherFile, choices
from framefeat.terminal import print_table
from framefeat.vectors import unit_rows
from framefeat.words import many

FORMAT = "eccv16_dataset"
_MOST_LINES = 200  # of the printed table; beyond it only what differs is shown


@dataclass(frozen=True)
class _Options:
    """What the exported values depend on beside the run itself."""

    l2: bool
    vmax: float
    drop_bad: bool
    annotations: Annotations | None
    shots_from: OtherFile | None
    labels_from: OtherFile | None

    @property
    def shots(self) -> OtherFile | None:
        """The file whose shots are taken: user summaries and machine summaries are made of the same ones."""
        return self.labels_from or self.shots_from


@dataclass(frozen=True)
class _Plan:
    """What goes into one group, known before anything is written. ``rows``: matrix rows in time order, none of them
    bad."""

    group: str
    video_id: str
    rows: np.ndarray
    dropped: int
    n_frames: int
    annotated: int | None


def run(
    features_dir: str | os.PathLike[str],
    out: str | os.PathLike[str],
    annotations: str | os.PathLike[str] | None = None,
    l2: bool = False,
    drop_bad: bool = False,
    segments_from: str | os.PathLike[str] | None = None,
    labels_from: str | os.PathLike[str] | None = None,
    vmax: float = kts.VMAX,
    force: bool = False,
) -> list[dict[str, Any]]:
    """Write ``out`` (atomically) and print a table; returns the table, one dict per video.

    ``annotations``: TVSum's .mat or anno .tsv, or SumMe's folder GT. ``l2``: scale the exported features to unit
    length. ``drop_bad``: leave bad rows out instead of refusing. ``segments_from``: take ``change_points`` from another
    file of this layout (needed for a control, whose own features say nothing about shots). ``labels_from``: take
    ``user_summary``, ``gtscore`` and ``change_points`` from one. ``vmax``: weight of the penalty of the segmentation.
    ``force``: replace a file that framefeat did not write.
    """
    if not (np.isfinite(vmax) and vmax >= 0):
        raise UserError(f"vmax: {vmax} is no weight of a penalty; give a number from 0 on.")
    features = load(features_dir)
    _check_combination(features, annotations, segments_from, labels_from)
    out = Path(out)
    with ExitStack() as stack:
        source = None if annotations is None else stack.enter_context(open_annotations(annotations))
        shots = labels = None
        if segments_from is not None:
            shots = stack.enter_context(OtherFile(segments_from, "segments-from"))
        if labels_from is not None:
            labels = stack.enter_context(OtherFile(labels_from, "labels-from"))
        options = _Options(l2, vmax, drop_bad, source, shots, labels)
        _check_places(features, options)
        others = [other.path for other in (shots, labels) if other is not None]
        inputs = [*features.files, *(source.files if source else ()), *others]
        check_file(out, inputs, force, _record(features), _record_in)
        plans, problems = _plan(features, options)
        if problems:
            raise complain(f"{features.folder}: these videos cannot be exported:", problems)
        if not plans:
            raise UserError(f"{features.folder}: no video is left to export.")
        import h5py

        with atomic_path(out) as temporary:
            with h5py.File(temporary, "w") as file:
                _describe(file, features, options)
                table = [_write(file, features, plan, options) for plan in plans]
    _print(out, features, table)
    return table


def _check_combination(
    features: Features, annotations: object, segments_from: object, labels_from: object
) -> None:
    if labels_from is not None and (annotations is not None or segments_from is not None):
        other = "annotations" if annotations is not None else "segments-from"
        raise UserError(
            f"labels-from and {other} do not go together: labels-from brings user_summary, gtscore and the change_points that they are "
            "made of. Give one of the two."
        )
    if "control" in features.manifest and segments_from is None and labels_from is None:
        raise UserError(
            f"{features.folder} is a control ({features.manifest['control']['kind']}): shots found in its features would change the evaluation "
            "too. Export the original first and give that file as --segments-from (key export_segments_from)."
        )


def _check_places(features: Features, options: _Options) -> None:
    """A file without names knows its videos by place alone: of another number of videos the places are others."""
    for name, other in (("segments-from", options.shots_from), ("labels-from", options.labels_from)):
        videos = len(features.video_ids)
        if other is None or other.named or options.annotations is not None or other.groups == videos:
            continue
        raise UserError(
            f"{name}: {str(other.path)!r} names no videos (no video_name), and has {many(other.groups, 'group')} where this "
            f"run has {many(videos, 'video')}: no one can tell which is which. Write the names into it, or export all its "
            "videos in its order."
        )


def _record(features: Features) -> dict[str, Any]:
    """What the file says of where it comes from."""
    manifest: Mapping[str, Any] = features.manifest
    names = ("dataset", "backbone", "weights", "alignment", "matrix_sha256")
    record = {"format": FORMAT, "writer": WRITER} | {
        name: manifest[name] for name in names if manifest.get(name) is not None
    }
    if "control" in manifest:
        record["control"] = json.dumps(manifest["control"], sort_keys=True)
    return record


def _record_in(path: Path) -> dict[str, Any]:
    """The same of an earlier export; empty where framefeat did not write the file."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return dict(file.attrs) if is_framefeats(file.attrs.get("writer")) else {}
    except OSError:
        return {}


def _groups(features: Features, options: _Options) -> Mapping[str, str]:
    """The group of each video: the place that others know it by, where there is one."""
    if options.annotations is not None:
        places = {video_id: place for place, video_id in enumerate(options.annotations.video_ids, 1)}
    elif options.labels_from is not None and options.labels_from.named:
        names = {video_id: options.labels_from.group_of(video_id) for video_id in features.video_ids}
        return {video_id: group for video_id, group in names.items() if group is not None}
    else:
        places = {video_id: place for place, video_id in enumerate(features.video_ids, 1)}
    return {video_id: f"video_{places[video_id]}" for video_id in features.video_ids if video_id in places}


class _CannotExport(Exception):
    """Why one video cannot be exported, in a sentence that begins with its id."""


@dataclass(frozen=True, eq=False)
class _Known:
    """Of the run: ``status`` and ``native`` of each row; by video id the number of frames and the group."""

    status: np.ndarray
    native: np.ndarray
    frames: Mapping[str, int]
    groups: Mapping[str, str]


def _frames_of(video: VideoEntry) -> int:
    """How many frames the manifest says it has; 0 where it does not say."""
    container = video.get("container")
    return int(container.get("frames") or 0) if container else 0


def _plan(features: Features, options: _Options) -> tuple[list[_Plan], list[str]]:
    """What goes into the file, and what is in the way."""
    known = _Known(
        features.index["status"].to_numpy(),
        features.index["native_idx"].to_numpy(),
        {str(video["video_id"]): _frames_of(video) for video in features.manifest["videos"]},
        _groups(features, options),
    )
    plans, problems = [], []
    taken: set[str] = set()
    for video_id in features.video_ids:
        try:
            plan = _plan_of(features, options, known, video_id, taken)
        except _CannotExport as problem:
            problems.append(str(problem))
            continue
        if plan is not None:
            taken.add(plan.group)
            plans.append(plan)
    return plans, problems


def _plan_of(
    features: Features, options: _Options, known: _Known, video_id: str, taken: Collection[str]
) -> _Plan | None:
    """The plan of one video; None where none of its rows is good: its number stays free, later videos keep theirs."""
    rows = features.times_order(video_id)
    good = rows[known.status[rows] != "bad"]
    dropped = len(rows) - len(good)
    if dropped and not options.drop_bad:
        raise _CannotExport(
            f"{video_id!r}: {dropped} of {len(rows)} rows are bad (NaN); mend the video, or export with --drop-bad"
        )
    if not len(good):
        return None
    if "\0" in video_id:
        raise _CannotExport(f"{video_id!r}: HDF5's text cannot hold the character NUL; rename the video")
    frames = _frames(features, known, video_id, good)
    group = known.groups.get(video_id)
    if group is None:
        raise _CannotExport(_unknown(video_id, options))
    if group in taken:
        raise _CannotExport(
            f"{video_id!r}: another video has its place already ({group}); rename one of the two"
        )
    return _Plan(group, video_id, good, dropped, frames, _annotated(options, video_id, group, frames))


def _frames(features: Features, known: _Known, video_id: str, good: np.ndarray) -> int:
    """How many frames the video has. Its ``good`` rows are checked: their frames lie among these, in order of time, and
    their features are numbers."""
    frames = known.frames.get(video_id, 0)
    if not frames:
        raise _CannotExport(
            f"{video_id!r}: {MANIFEST} does not say how many frames it has (videos[].container.frames); run the "
            "workflow again"
        )
    picks = known.native[good]
    if picks.min() < 0 or picks.max() >= frames or np.any(np.diff(picks) < 0):
        raise _CannotExport(
            f"{video_id!r}: native_idx in {FRAME_INDEX} is not ascending in time within 0..{frames - 1}; run the "
            "workflow again"
        )
    if not np.isfinite(features.matrix[good]).all():
        raise _CannotExport(
            f"{video_id!r}: the matrix holds NaN or infinity in rows that are not marked bad; run the workflow again"
        )
    return frames


def _unknown(video_id: str, options: _Options) -> str:
    """That the source of labels does not have this video."""
    if options.annotations is not None:
        path = str(options.annotations.path)
        return f"{video_id!r}: there are no annotations of it in {path!r}; export without annotations"
    assert options.labels_from is not None
    path = str(options.labels_from.path)
    return f"{video_id!r}: {path!r} has no video of this name; export without labels-from"


def _annotated(options: _Options, video_id: str, group: str, frames: int) -> int | None:
    """How many frames are annotated; None without labels. Shots and labels are checked against ``frames``."""
    source, labels = options.annotations, options.labels_from
    problem = options.shots.problem_of_shots(video_id, group, frames) if options.shots else None
    if labels is not None:
        problem = problem or labels.problem_of_labels(video_id, group, frames)
    if problem is not None:
        raise _CannotExport(problem)
    if labels is not None:
        return labels.frames(video_id, group)
    if source is None:
        return None
    annotated = source.frames(video_id)
    if abs(annotated - frames) > MOST_FRAMES_APART:
        raise _CannotExport(
            f"{video_id!r}: {annotated} frames are annotated but {frames} were decoded (at most {MOST_FRAMES_APART} "
            "apart are reconciled); is it the same cut of the video?"
        )
    return annotated


def _describe(file: Any, features: Features, options: _Options) -> None:
    manifest = features.manifest
    file.attrs.update(_record(features))
    file.attrs["feature_dim"] = features.dim
    file.attrs["alignment_verified"] = bool(manifest["alignment_verified"])
    file.attrs["l2_normalised"] = options.l2
    if options.shots is None:
        file.attrs["change_points"] = f"KTS, linear kernel on unit-length features, vmax {options.vmax:g}"
    else:
        file.attrs["change_points"] = f"from {options.shots.path.name}"
    if options.annotations is not None:
        file.attrs["annotations"] = options.annotations.path.name
        file.attrs["gtscore"] = options.annotations.words["gtscore"]
        file.attrs["summaries"] = options.annotations.words["summaries"]
    elif options.labels_from is not None:
        file.attrs["gtscore"] = (
            f"from {options.labels_from.path.name}, each score holding until its next pick"
        )
        file.attrs["summaries"] = f"from {options.labels_from.path.name}"
    for other in (options.shots_from, options.labels_from):
        if other is not None and not other.named:
            file.attrs["matched"] = f"by place, not by name: {other.path.name} has no video_name"


def _labels(plan: _Plan, options: _Options) -> Labels | None:
    if options.annotations is not None:
        return options.annotations.labels(plan.video_id).fit(plan.n_frames)
    if options.labels_from is not None:
        return options.labels_from.labels(plan.video_id, plan.group).fit(plan.n_frames)
    return None


def _write(file: Any, features: Features, plan: _Plan, options: _Options) -> dict[str, Any]:
    """Write one group; returns its line of the table."""
    import h5py

    values = np.array(features.matrix[plan.rows], dtype=np.float32)
    picks = features.index["native_idx"].to_numpy()[plan.rows].astype(np.int32)
    shots = _shots(features, plan, options, values, picks)
    left = choice(shots, plan.n_frames)
    group = file.create_group(plan.group)
    group["features"] = unit_rows(values) if options.l2 else values
    group["picks"] = picks
    group["n_frames"] = np.int32(plan.n_frames)
    group["n_steps"] = np.int32(len(picks))
    group["change_points"] = shots
    group["n_frame_per_seg"] = (shots[:, 1] - shots[:, 0] + 1).astype(np.int32)
    group.create_dataset("video_name", data=plan.video_id, dtype=h5py.string_dtype("utf-8"))
    group.attrs["decoded_frames"] = plan.n_frames
    group.attrs["summary_choice"] = left
    if plan.dropped:
        group.attrs["dropped_bad_rows"] = plan.dropped
    users, note, empty = _write_labels(group, plan, options, shots, picks)
    return {
        "group": plan.group,
        "video": plan.video_id,
        "n_steps": len(picks),
        "n_frames": plan.n_frames,
        "segments": len(shots),
        "choice": left,
        "users": users,
        "annotated": plan.annotated,
        "annotation_length": note,
        "empty_summaries": empty,
        "dropped": plan.dropped,
    }


def _shots(
    features: Features, plan: _Plan, options: _Options, values: np.ndarray, picks: np.ndarray
) -> np.ndarray:
    """int32 ``[segments, 2]``: taken from another file, or found in the features."""
    if options.shots is not None:
        return options.shots.shots(plan.video_id, plan.group, plan.n_frames)
    times = features.index["timestamp_sec"].to_numpy(dtype=float)[plan.rows]
    return kts.shots_of(values, picks, times, plan.n_frames, options.vmax)


def _write_labels(
    group: Any, plan: _Plan, options: _Options, shots: np.ndarray, picks: np.ndarray
) -> tuple[int, str, int]:
    """Write what people said, if anything: returns the number of users, what was done about a length that differs, and
    how many of their summaries are empty."""
    labels = _labels(plan, options)
    if labels is None or plan.annotated is None:
        return 0, "", 0
    summaries = labels.user_summaries
    if summaries is None:
        assert labels.user_scores is not None
        summaries = np.stack([shot_summary(user, shots) for user in labels.user_scores])
    empty = int((~summaries.any(axis=1)).sum())
    group["gtscore"] = labels.importance[picks].astype(np.float32)
    group["gtsummary"] = shot_summary(labels.importance, shots)[picks].astype(np.float32)
    group.create_dataset("user_summary", data=summaries, dtype=np.float32)
    apart = plan.n_frames - plan.annotated
    note = (
        "equal"
        if not apart
        else f"last score repeated {apart}x"
        if apart > 0
        else f"last {-apart} scores cut"
    )
    group.attrs["annotated_frames"] = plan.annotated
    group.attrs["annotation_length"] = note
    group.attrs["empty_summaries"] = empty
    return len(summaries), note, empty


def remarks(path: str | os.PathLike[str]) -> list[str]:
    """What an exported file says of its summaries that a person must know before comparing anything."""
    return [*_remarks(choices(Path(path))), *_match(Path(path))]


def _match(path: Path) -> Iterator[str]:
    import h5py

    with h5py.File(path, "r") as file:
        how = file.attrs.get("matched")
    if how:
        yield f"videos are matched {how}; is its order the frame index's?"


def _remarks(videos: Sequence[tuple[str, str, int]]) -> list[str]:
    said = []
    for word, meaning in (
        ("empty", f"no shot fits {BUDGET:.0%} of the video; some evaluations make NaN of it"),
        (
            "forced",
            "all shots that fit the budget fit together, so that all positive scores give the same summary",
        ),
    ):
        found = [video for video, left, _ in videos if left == word]
        if found:
            said.append(
                f"summaries are {word} in {len(found)} of {len(videos)} videos ({_some(found)}): {meaning}"
            )
    if said:
        said.append(
            "so the summaries of these videos say nothing of a method's scores: look at their features, or take other shots (--segments-from, --labels-from, --vmax)"
        )
    found = [video for video, left, empty in videos if empty and left != "empty"]
    if found:
        said.append(
            f"a user's summary is empty in {many(len(found), 'more video')} ({_some(found)}): that user chose no frame, or the shots "
            f"scored above the lowest are longer than {BUDGET:.0%} of the video"
        )
    return said


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _remarkable(row: dict[str, Any]) -> bool:
    return (
        row["annotation_length"] not in ("", "equal")
        or row["choice"] != "free"
        or bool(row["dropped"] or row["empty_summaries"])
    )


def _print(out: Path, features: Features, table: list[dict[str, Any]]) -> None:
    shown = table if len(table) <= _MOST_LINES else [row for row in table if _remarkable(row)]
    columns = [name for name in table[0] if any(row[name] for row in table)]
    cells = [["" if row[name] is None else str(row[name]) for name in columns] for row in shown]
    print_table(columns, cells, sys.stderr)
    if len(shown) < len(table):
        print(f"(and {many(len(table) - len(shown), 'video')} with nothing to remark)", file=sys.stderr)
    left_out = len(features.video_ids) - len(table)
    apart = [row["video"] for row in table if row["annotation_length"] not in ("", "equal")]
    if apart:
        print(
            f"annotated and decoded length differ in {many(len(apart), 'video')}: {', '.join(apart)}",
            file=sys.stderr,
        )
    for remark in _remarks([(row["video"], row["choice"], row["empty_summaries"]) for row in table]):
        print(remark, file=sys.stderr)
    for remark in _match(out):
        print(remark, file=sys.stderr)
    if left_out:
        print(
            f"left out: {many(left_out, 'video')} without a good row; their numbers stay free",
            file=sys.stderr,
        )
    print(
        f"{out}: {many(len(table), 'video')}, {many(sum(row['n_steps'] for row in table), 'step')}, D = {features.dim}",
        file=sys.stderr,
    )
