"""The HDF5 file that video summarisers load (the layout of ``eccv16_dataset_*_google_pool5.h5``), from a finished run.

One group per video, ``video_1`` onward in order of first appearance in the frame index; within a group the rows stand in
order of time. Without annotations ``gtscore``, ``gtsummary`` and ``user_summary`` are left out.
"""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import framefeat
from framefeat import kts
from framefeat.annotations import MOST_FRAMES_APART, Annotations, fit_length, open_annotations, unit_scores
from framefeat.dataset import FRAME_INDEX, MANIFEST, Features, load
from framefeat.errors import UserError, complain
from framefeat.files import atomic_path
from framefeat.knapsack import BUDGET, shot_summary

FORMAT = "eccv16_dataset"
_MOST_LINES = 200  # of the printed table; beyond it only what differs is shown


@dataclass(frozen=True)
class _Plan:
    """What goes into one group, known before anything is written. ``rows``: matrix rows in time order, none of them bad."""

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
    vmax: float = kts.VMAX,
) -> list[dict[str, Any]]:
    """Write ``out`` (atomically) and print a table; returns the table, one dict per video.

    ``annotations``: TVSum's .mat or anno .tsv. ``l2``: scale the exported features to unit length. ``drop_bad``: leave bad rows
    out instead of refusing. ``segments_from``: take ``change_points`` from another exported file (needed for
    a control, whose own features say nothing about shots). ``vmax``: weight of the penalty of the segmentation.
    """
    features = load(features_dir)
    if "control" in features.manifest and segments_from is None:
        raise UserError(
            f"{features.folder} is a control ({features.manifest['control']['kind']}): shots found in its features would change the evaluation "
            "too. Export the original first and give that file as segments-from."
        )
    out = Path(out)
    with ExitStack() as stack:
        source = None if annotations is None else stack.enter_context(open_annotations(annotations))
        shots = None if segments_from is None else stack.enter_context(_Segments(segments_from))
        plans, problems = _plan(features, source, drop_bad)
        if shots is not None:
            problems += [problem for plan in plans if (problem := shots.problem(plan))]
        if problems:
            raise complain(f"{features.folder}: these videos cannot be exported:", problems)
        if not plans:
            raise UserError(f"{features.folder}: no video is left to export.")
        import h5py

        with atomic_path(out) as temporary:
            with h5py.File(temporary, "w") as file:
                _describe(file, features, source, shots, l2, vmax)
                table = [_write(file, features, plan, source, shots, l2, vmax) for plan in plans]
    _print(out, features, table)
    return table


def _plan(features: Features, source: Annotations | None, drop_bad: bool) -> tuple[list[_Plan], list[str]]:
    status = features.index["status"].to_numpy()
    native = features.index["native_idx"].to_numpy()
    facts: Mapping[str, Any] = {str(video["video_id"]): video for video in features.manifest["videos"]}
    plans, problems = [], []
    for number, video_id in enumerate(features.video_ids, 1):
        rows = features.times_order(video_id)
        good = rows[status[rows] != "bad"]
        dropped = len(rows) - len(good)
        if dropped and not drop_bad:
            problems.append(
                f"{video_id!r}: {dropped} of {len(rows)} rows are bad (NaN); mend the video, or export with drop-bad"
            )
            continue
        if not len(good):
            continue  # its number stays free: later videos keep theirs
        frames = ((facts.get(video_id) or {}).get("container") or {}).get("frames")
        if not frames:
            problems.append(
                f"{video_id!r}: {MANIFEST} does not say how many frames it has (videos[].container.frames); run the workflow again"
            )
            continue
        picks = native[good]
        if picks.min() < 0 or picks.max() >= frames or np.any(np.diff(picks) < 0):
            problems.append(
                f"{video_id!r}: native_idx in {FRAME_INDEX} is not ascending in time within 0..{frames - 1}; run the workflow again"
            )
            continue
        if not np.isfinite(features.matrix[good]).all():
            problems.append(
                f"{video_id!r}: the matrix holds NaN or infinity in rows that are not marked bad; run the workflow again"
            )
            continue
        annotated = None
        if source is not None:
            if video_id not in source:
                problems.append(
                    f"{video_id!r}: there are no annotations of it in {str(source.path)!r}; export without annotations"
                )
                continue
            annotated = source.scores(video_id).shape[1]
            if abs(annotated - frames) > MOST_FRAMES_APART:
                problems.append(
                    f"{video_id!r}: {annotated} frames are annotated but {frames} were decoded (at most {MOST_FRAMES_APART} apart are reconciled); "
                    "is it the same cut of the video?"
                )
                continue
        plans.append(_Plan(f"video_{number}", video_id, good, dropped, int(frames), annotated))
    return plans, problems


class _Segments:
    """``change_points`` of another file of this layout, found by ``video_name`` where it has one, else by group name."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import h5py

        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"segments-from: the file {str(path)!r} does not exist.")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise UserError(f"segments-from: {str(path)!r} is not an HDF5 file ({error}).") from error
        self._by_name = {}
        for group in self._file:
            if "video_name" in self._file[group]:
                name = self._file[group]["video_name"][()]
                self._by_name[name.decode() if isinstance(name, bytes) else str(name)] = group

    def __enter__(self) -> "_Segments":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _group(self, plan: _Plan) -> Any:
        return self._file.get(self._by_name.get(plan.video_id, "") if self._by_name else plan.group)

    def problem(self, plan: _Plan) -> str | None:
        group = self._group(plan)
        if group is None or "change_points" not in group:
            return f"{plan.video_id!r} ({plan.group}): {str(self.path)!r} has no change_points for it"
        shots = group["change_points"][()]
        frames = int(shots[-1, 1]) + 1
        if shots[0, 0] != 0 or np.any(shots[1:, 0] != shots[:-1, 1] + 1) or np.any(shots[:, 1] < shots[:, 0]):
            return f"{plan.video_id!r} ({plan.group}): the change_points in {str(self.path)!r} leave gaps or overlap"
        if abs(frames - plan.n_frames) > MOST_FRAMES_APART or shots[-1, 0] >= plan.n_frames:
            return f"{plan.video_id!r} ({plan.group}): the change_points in {str(self.path)!r} end at frame {frames - 1} of {plan.n_frames}"
        return None

    def shots(self, plan: _Plan) -> np.ndarray:
        shots = np.array(self._group(plan)["change_points"][()], dtype=np.int32)
        shots[-1, 1] = plan.n_frames - 1
        return shots


def _describe(
    file: Any, features: Features, source: Annotations | None, shots: _Segments | None, l2: bool, vmax: float
) -> None:
    manifest = features.manifest
    file.attrs["format"] = FORMAT
    file.attrs["writer"] = f"framefeat {framefeat.__version__}"
    for name in ("dataset", "backbone", "weights", "alignment", "matrix_sha256"):
        if manifest.get(name) is not None:
            file.attrs[name] = manifest[name]
    file.attrs["feature_dim"] = features.dim
    file.attrs["alignment_verified"] = bool(manifest["alignment_verified"])
    file.attrs["l2_normalised"] = l2
    if shots is None:
        file.attrs["change_points"] = f"KTS, linear kernel on unit-length features, vmax {vmax:g}"
    else:
        file.attrs["change_points"] = f"from {shots.path.name}"
    if source is not None:
        file.attrs["annotations"] = source.path.name
        file.attrs["gtscore"] = "mean over users of (score - 1) / 4 at picks"
        file.attrs["summaries"] = f"knapsack over mean shot scores, at most {BUDGET:g} of n_frames"
    if "control" in manifest:
        file.attrs["control"] = json.dumps(manifest["control"], sort_keys=True)


def _write(
    file: Any,
    features: Features,
    plan: _Plan,
    source: Annotations | None,
    shots: _Segments | None,
    l2: bool,
    vmax: float,
) -> dict[str, Any]:
    import h5py

    values = np.array(features.matrix[plan.rows], dtype=np.float32)
    picks = features.index["native_idx"].to_numpy()[plan.rows].astype(np.int32)
    times = features.index["timestamp_sec"].to_numpy(dtype=float)[plan.rows]
    segments = kts.shots_of(values, picks, times, plan.n_frames, vmax) if shots is None else shots.shots(plan)
    group = file.create_group(plan.group)
    group["features"] = kts.unit_rows(values) if l2 else values
    group["picks"] = picks
    group["n_frames"] = np.int32(plan.n_frames)
    group["n_steps"] = np.int32(len(picks))
    group["change_points"] = segments.astype(np.int32)
    group["n_frame_per_seg"] = (segments[:, 1] - segments[:, 0] + 1).astype(np.int32)
    group.create_dataset("video_name", data=plan.video_id, dtype=h5py.string_dtype("utf-8"))
    group.attrs["decoded_frames"] = plan.n_frames
    if plan.dropped:
        group.attrs["dropped_bad_rows"] = plan.dropped
    users = empty = 0
    note = ""
    if source is not None and plan.annotated is not None:
        scores = unit_scores(fit_length(source.scores(plan.video_id), plan.n_frames))
        users = len(scores)
        mean = scores.mean(axis=0)
        group["gtscore"] = mean[picks].astype(np.float32)
        group["gtsummary"] = shot_summary(mean, segments)[picks].astype(np.float32)
        summaries = np.stack([shot_summary(user, segments) for user in scores])
        group.create_dataset("user_summary", data=summaries, dtype=np.float32)
        empty = int((~summaries.any(axis=1)).sum())
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
    return {
        "group": plan.group,
        "video": plan.video_id,
        "n_steps": len(picks),
        "n_frames": plan.n_frames,
        "segments": len(segments),
        "users": users,
        "annotated": plan.annotated,
        "annotation_length": note,
        "empty_summaries": empty,
        "dropped": plan.dropped,
    }


def _remarkable(row: dict[str, Any]) -> bool:
    return row["annotation_length"] not in ("", "equal") or bool(row["dropped"] or row["empty_summaries"])


def _print(out: Path, features: Features, table: list[dict[str, Any]]) -> None:
    shown = table if len(table) <= _MOST_LINES else [row for row in table if _remarkable(row)]
    columns = [name for name in table[0] if any(row[name] for row in table)]
    texts = [columns] + [["" if row[name] is None else str(row[name]) for name in columns] for row in shown]
    widths = [max(len(line[i]) for line in texts) for i in range(len(columns))]
    for line in texts:
        print(
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip(),
            file=sys.stderr,
        )
    if len(shown) < len(table):
        print(f"(and {len(table) - len(shown)} videos with nothing to remark)", file=sys.stderr)
    left_out = len(features.video_ids) - len(table)
    apart = [row["video"] for row in table if row["annotation_length"] not in ("", "equal")]
    if apart:
        print(
            f"annotated and decoded length differ in {len(apart)} videos: {', '.join(apart)}", file=sys.stderr
        )
    empty = [row["video"] for row in table if row["empty_summaries"]]
    if empty:
        print(
            f"summaries are empty in {len(empty)} videos ({', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}): every shot that a user "
            f"scored above the lowest is longer than {BUDGET:.0%} of the video",
            file=sys.stderr,
        )
    if left_out:
        print(f"{left_out} videos without a good row are left out; their numbers stay free", file=sys.stderr)
    print(
        f"{out}: {len(table)} videos, {sum(row['n_steps'] for row in table)} steps, D = {features.dim}",
        file=sys.stderr,
    )


def tree(path: str | os.PathLike[str], group: str = "video_1") -> str:
    """The keys of one group with dtype and shape, as a Markdown table."""
    import h5py

    lines = ["| key | dtype | shape |", "|---|---|---|"]
    with h5py.File(path, "r") as file:
        for name, data in file[group].items():
            kind = "text" if h5py.check_string_dtype(data.dtype) else str(data.dtype)
            shape = (
                "scalar"
                if data.shape == ()
                else "(" + ", ".join(map(str, data.shape)) + ("," if data.ndim == 1 else "") + ")"
            )
            lines.append(f"| `{name}` | {kind} | {shape} |")
    return "\n".join(lines)
