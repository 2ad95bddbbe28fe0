"""``framefeat show``: what came out of a run, as plain text for a terminal."""

import shlex
import sys
from pathlib import Path
from typing import TextIO

import numpy as np

from framefeat.errors import UserError
from framefeat.report import numbers
from framefeat.report.gather import (
    Backbone,
    ReportVideo,
    by_concern,
    judge,
    learn_unlike,
    read_backbone,
    read_rows,
)
from framefeat.results import verdict
from framefeat.results.finished import result_folders
from framefeat.run import outcome
from framefeat.terminal import coloured, print_table, print_wrapped, printable
from framefeat.vectors import row_lengths, unit_rows
from framefeat.words import many

_MOST_REASONS = 6
_REASONS = {3: verdict.NOT_VERIFIED, 2: verdict.DOUBTFUL, 1: "look"}


def run(results: str | Path, video: str | None = None, stream: TextIO | None = None) -> None:
    """Print every backbone's verdict and its videos, those that need a look first; or the rows of one video."""
    out = stream or sys.stdout
    folders = result_folders(Path(results), video)
    for number, folder in enumerate(folders):
        backbone = read_backbone(folder)
        if number:
            print(file=out)
        if video is None:
            _print_backbone(backbone, out)
        else:
            _print_video(backbone, video, out)
    if video is None:
        _print_left_out(folders[0].parent, out)


def _print_backbone(backbone: Backbone, out: TextIO) -> None:
    judge(backbone)
    manifest = backbone.manifest
    print_wrapped(f"{backbone.folder}: {manifest['backbone']}, weights {manifest['weights']}", out)
    size = (
        f"float32 ({len(backbone.matrix)}, {manifest['feature_dim']}), {many(len(backbone.videos), 'video')}"
    )
    print_wrapped(f"{size}; alignment {coloured(backbone.state, verdict.LEVELS[backbone.state], out)}", out)
    for note in manifest.get("notes") or []:
        print_wrapped(printable(str(note)), out)
    lines, levels, notes = [], [], []
    for place in by_concern(backbone.videos):
        video = backbone.videos[place]
        count, offset = video.counts, video.max_offset
        size_text = video.container.get("size") or [
            video.container.get("width"),
            video.container.get("height"),
        ]
        lines.append([
            video.state, video.video_id, str(video.total_rows), str(count["clamped"]),
            str(count["bad"]), "-" if offset is None else f"{offset * 1000:.1f}", f"{video.fps:.5g}" if video.container and video.fps else "-",
            "x".join(str(part) for part in size_text if part) or "-", str(video.container.get("codec") or "-"),
            str(video.entry.get("decoder") or "none"),
        ])  # fmt: skip
        if video.reasons:
            notes.append(f"{video.video_id}: {'; '.join(_gravest(backbone, video))}")
        levels.append(video.severity)
    names = ["state", "video", "rows", "clamped", "bad", "ms off", "fps", "size", "codec", "reader"]
    least_telling_first = [8, 7, 6, 9, 3, 5]
    print_table(names, lines, out, right={2, 3, 4, 5, 6}, levels=levels, droppable=least_telling_first, cut=1)
    if not lines:
        print("(none)", file=out)
    if notes:
        print(file=out)
    for text in notes:
        print_wrapped(printable(text), out)


def _gravest(backbone: Backbone, video: ReportVideo) -> list[str]:
    """What speaks against a video; of a file with a thousand bad frames the first of them, and where all are."""
    texts = [text.rstrip(".") for _, text in video.reasons]
    if len(texts) <= _MOST_REASONS + 1:  # one more takes no more room than to say so
        return texts
    # After -- an id that begins with - is no option.
    command = shlex.join(["framefeat", "show", str(backbone.folder), "--", video.video_id])
    return [*texts[:_MOST_REASONS], f"... and {len(texts) - _MOST_REASONS} more: {command}"]


def _print_left_out(results: Path, out: TextIO) -> None:
    left = outcome.left_out(results)
    if left.files:
        print(file=out)
        print_wrapped(f"{many(len(left.files), 'file')} left out, no row is of them:", out)
    for file in left.files:
        print_wrapped(printable(f"  {file['path']}: {file['reason']}"), out, indent="    ")
    if left.counts:
        print_wrapped(f"ignored, being no videos: {left.counted}", out)


def _print_video(backbone: Backbone, video_id: str, out: TextIO) -> None:
    judge(backbone)
    video = _find(backbone, video_id)
    values = read_rows(backbone.matrix, video.rows)
    unit, norms = unit_rows(values), row_lengths(values)
    change = numbers.changes(unit)
    learn_unlike(backbone)
    cuts = set(numbers.likely_cuts(change, backbone.unlike).tolist())
    print_wrapped(f"{backbone.folder}: {printable(video.video_id)}", out)
    facts = [f"{name} {value}" for name, value in video.container.items() if value not in (None, [], "")]
    print_wrapped(printable("; ".join(facts)), out)
    reason = video.entry.get("decoder_reason") or ""
    read_by = f"read by {video.entry.get('decoder') or 'none'}{f' ({reason})' if reason else ''}"
    print_wrapped(f"{coloured(video.state, verdict.LEVELS[video.state], out)}; {read_by}", out)
    for level, text in video.reasons:
        print_wrapped(f"{_REASONS[level]}: {printable(text)}", out)
    repeated = video.total_rows - len(video.rows)
    if repeated > 0:
        print_wrapped(f"{many(repeated, 'row')} asking for the same times again: not listed", out)
    lines = [
        [
            str(row), f"{video.times[place]:.3f}", str(video.native[place]),
            _number(video.times[place] + video.offsets[place], 3), _number(video.offsets[place] * 1000, 1),
            str(video.status[place]), _number(norms[place], 3), _number(change[place], 4), "cut?" if place in cuts else "",
        ]
        for place, row in enumerate(video.rows.tolist())
    ]  # fmt: skip
    levels = [{"ok": 0, "clamped": 1}.get(str(status), 3) for status in video.status]
    names = ["row", "asked s", "frame", "shown s", "ms off", "status", "norm", "change", ""]
    print_table(
        names, lines, out, right={0, 1, 2, 3, 4, 6, 7}, levels=levels, coloured_column=5, droppable=[6, 3, 7]
    )
    if not lines:
        print("(none)", file=out)


def _find(backbone: Backbone, video_id: str) -> ReportVideo:
    for video in backbone.videos:
        if video.video_id == video_id:
            return video
    import difflib

    near = difflib.get_close_matches(video_id, [video.video_id for video in backbone.videos], n=3, cutoff=0.5)
    hint = f"; near to it: {', '.join(map(repr, near))}" if near else ""
    raise UserError(
        f"{backbone.folder}: no video {video_id!r}{hint}. 'framefeat show {backbone.folder}' lists all."
    )


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "-"
