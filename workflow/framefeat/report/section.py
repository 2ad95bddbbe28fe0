"""One backbone's part of the page: its verdict, the videos to look at, their details and the table."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from framefeat.report import numbers, thumbs
from framefeat.report.frame_map import FrameMap
from framefeat.report.gather import Backbone, ReportVideo, by_concern, read_rows
from framefeat.results import verdict
from framefeat.vectors import unit_rows
from framefeat.words import many

OPEN = 6  # videos in detail that are unfolded at first
CURVE_POINTS = 400
MATRIX_SIDE = 120
TABLE_ROWS = 400
LISTED = 25  # videos named under "look at these first"
_LOOKS = {verdict.VERIFIED: "good", verdict.DOUBTFUL: "doubtful", verdict.NOT_VERIFIED: "poor"}
_STATUS_LETTER = {"ok": "o", "clamped": "c", "bad": "b"}


def section(
    number: int,
    backbone: Backbone,
    shown: Sequence[str],
    sheets: thumbs.Sheets,
    plane: FrameMap,
    command: str | None = None,
) -> dict[str, Any]:
    """What the template and, under ``data``, the page's script need of one backbone; ``shown``: keys in detail,
    ``command``: what was typed."""
    manifest, videos = backbone.manifest, backbone.videos
    place_of = {video.key: place for place, video in enumerate(videos)}
    details = [videos[place_of[key]] for key in shown if key in place_of]
    detail_of = {video.key: place for place, video in enumerate(details)}
    order = [videos[place] for place in by_concern(videos)]
    flagged = [video for video in order if video.severity]
    offsets = np.concatenate([video.offsets for video in videos]) if videos else np.zeros(0)
    return {
        "number": number,
        "name": backbone.name,
        "display": manifest["backbone"],
        "weights": manifest["weights"],
        "dim": manifest["feature_dim"],
        "rows": len(backbone.matrix),
        "videos": len(videos),
        "counts": backbone.counts,
        "max_offset": _milliseconds(_farthest(videos)),
        "doubtful": sum(bool(video.doubts) for video in videos),
        "cuts": sum(video.cuts for video in videos),
        "flagged": len(flagged),
        **_verdict(backbone),
        "first": [_first_row(video, detail_of) for video in flagged[:LISTED]],
        "unlisted": max(0, len(flagged) - LISTED),
        "details": [_words(video, place, sheets) for place, video in enumerate(details)],
        "open": OPEN,
        "map": plane.words,
        "table": [_table_row(video, detail_of) for video in order[:TABLE_ROWS]],
        "untabled": max(0, len(videos) - TABLE_ROWS),
        "made": _made(backbone, command),
        "load": _load_line(backbone),
        "data": {
            "details": [_detail(backbone, video, sheets) for video in details],
            "map": plane.data,
            "offsets": numbers.histogram(offsets * 1000),
            "norms": numbers.histogram(backbone.norms),
            "changes": numbers.histogram(backbone.changes),
        },
    }


def _farthest(videos: Sequence[ReportVideo]) -> float | None:
    """The largest offset in seconds; None where no row has a frame."""
    return max((video.max_offset for video in videos if video.max_offset is not None), default=None)


def _verdict(backbone: Backbone) -> dict[str, Any]:
    """The first sentence of the page and what stands behind it."""
    if backbone.state == verdict.NOT_VERIFIED:
        headline = "Not verified: some rows are not proven to be their frames"
        because = [*_faults(backbone), *_doubts(backbone)]
    elif backbone.state == verdict.DOUBTFUL:
        doubtful = sum(bool(video.doubts) for video in backbone.videos)
        headline = f"Doubtful: the rows of {many(doubtful, 'video')} may not be the frames that were meant"
        because = [*_doubts(backbone), *_proofs(backbone)]
    else:
        headline = "Verified: every row is the frame it claims to be"
        because = _proofs(backbone)
    return {
        "state": backbone.state,
        "look": _LOOKS[backbone.state],
        "headline": headline,
        "because": because,
    }


def _faults(backbone: Backbone) -> list[str]:
    """Why a backbone is not verified."""
    because = []
    control = backbone.manifest.get("control")
    if control:
        because.append(
            f"This is a control ({control['kind']}): its rows are not the features of their frames."
        )
    bad = [video for video in backbone.videos if video.counts["bad"]]
    if bad:
        because.append(
            f"{many(backbone.counts['bad'], 'row')} of {many(len(bad), 'video')} have no frame: NaN in the matrix, "
            "status “bad”."
        )
    unproven = [v for v in backbone.videos if v.state == verdict.NOT_VERIFIED and not v.counts["bad"]]
    if unproven and not control:
        because.append(
            f"The second decode or embedding of {many(len(unproven), 'video')} did not agree, or is missing: "
            f"{_names(unproven)}."
        )
    return because or ["The manifest says so without naming a video; run “framefeat verify” on the results."]


def _proofs(backbone: Backbone) -> list[str]:
    rows, videos = many(len(backbone.matrix), "row"), many(len(backbone.videos), "video")
    because = [
        f"Each of the {rows} of {videos} has its evidence: the frame that was asked for, the frame that was decoded, "
        "its time."
    ]
    if again := backbone.rechecked:
        because.append(
            f"{many(again, 'row')} were decoded a second time another way and embedded again: the same pixels and "
            "features, as far as two decoders agree."
        )
    return because


def _doubts(backbone: Backbone) -> list[str]:
    """How many videos are doubtful, how far their rows are off, and the first reasons."""
    doubtful = [video for video in backbone.videos if video.doubts]
    if not doubtful:
        return []
    distance = verdict.distance(_farthest(doubtful))
    reasons = dict.fromkeys(f"{video.video_id}: {doubt}" for video in doubtful for doubt in video.doubts)
    return [
        f"{many(len(doubtful), 'video')} doubtful{distance and ', '}{distance}: {_names(doubtful)}.",
        *list(reasons)[:3],
    ]


def _names(videos: Sequence[ReportVideo]) -> str:
    return ", ".join(video.video_id for video in videos[:5]) + (" …" if len(videos) > 5 else "")


def _words(video: ReportVideo, place: int, sheets: thumbs.Sheets) -> dict[str, Any]:
    container = video.container
    counts = video.counts
    size = _size(container)
    facts = [
        many(video.total_rows, "row"),
        duration(float(container["duration_sec"])) if container.get("duration_sec") else "",
        size,
        f"{video.fps:.6g} fps" if video.fps else "",
        str(container.get("codec") or ""),
        f"read by {video.entry['decoder']}" if video.entry.get("decoder") else "",
        many(video.cuts, "likely cut") if video.can_have_cuts else "",
    ]
    return {
        "place": place,
        "id": video.video_id,
        "severity": video.severity,
        "facts": [fact for fact in facts if fact],
        "reasons": [text for _, text in video.reasons[:8]],
        "badge": _badge(video),
        "counts": counts,
        "why": str(video.entry.get("decoder_reason") or ""),
        "pictures": video.key in sheets.of_video,
        "has_frames": video.has_frames,
    }


def _badge(video: ReportVideo) -> str:
    """The video's state, with a word where it is verified and yet something stands out."""
    return f"{video.state}, look" if video.state == verdict.VERIFIED and video.severity else video.state


def _without_frame(video: ReportVideo) -> list[list[float | None]]:
    """Stretches of time whose rows have no frame, ``[from, to]`` in seconds: half-way to the rows with a frame beside
    them, None where there is none. Where they are many, those that lie too near each other to be drawn apart are one.
    """
    bad = np.concatenate([[False], video.status == "bad", [False]]).astype(np.int8)
    edges = np.diff(bad)
    firsts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if not len(firsts):
        return []
    span = float(video.times[-1] - video.times[0])
    apart = np.concatenate(
        [[True], video.times[firsts[1:]] - video.times[ends[:-1] - 1] > span / CURVE_POINTS]
    )
    if len(firsts) <= CURVE_POINTS:
        apart[:] = True
    firsts, ends = firsts[apart], ends[np.append(apart[1:], True)]
    between = (video.times[1:] + video.times[:-1]) / 2
    return [
        [
            round(float(between[first - 1]), 3) if first else None,
            round(float(between[end - 1]), 3) if end < len(video.times) else None,
        ]
        for first, end in zip(firsts.tolist(), ends.tolist(), strict=True)
    ]


def _detail(backbone: Backbone, video: ReportVideo, sheets: thumbs.Sheets) -> dict[str, Any]:
    """What the charts of one video draw: bounded by ``CURVE_POINTS`` and ``MATRIX_SIDE``, whatever its length."""
    change = backbone.changes[video.rows]
    cuts, threshold = backbone.cuts(video)
    # Rows that are not plain frames are never thinned out, nor are cuts.
    importance = np.nan_to_num(change, nan=0.0) + np.where(video.status != "ok", 10.0, 0.0)
    kept = numbers.telling_rows(importance, CURVE_POINTS)
    side = numbers.evenly(len(video.rows), MATRIX_SIDE)
    unit = unit_rows(read_rows(backbone.matrix, video.rows[side]))
    similarity, lowest = numbers.similarity_bytes(unit)
    sheet, pictured = sheets.of_video.get(video.key, (-1, []))
    cells = [
        (cell, row)
        for cell, row in enumerate(pictured)
        if row < len(video.rows) and video.status[row] != "bad"
    ]
    pictured = [row for _, row in cells]
    return {
        "id": video.video_id,
        "row": video.rows[kept].tolist(),
        "time": _rounded(video.times[kept], 3),
        "native": video.native[kept].tolist(),
        "offset": _rounded(video.offsets[kept] * 1000, 2),
        "change": _rounded(change[kept], 4),
        "status": "".join(_STATUS_LETTER[name] for name in video.status[kept]),
        "cuts": _rounded(video.times[cuts[:200]], 3),
        "threshold": round(threshold, 4) if np.isfinite(threshold) else None,
        "thinned": len(kept) < len(video.rows),
        "last": round(float(video.times[-1]), 3) if len(video.times) else 0,
        "side": len(side),
        "sideTime": _rounded(video.times[side], 3),
        "sideRow": video.rows[side].tolist(),
        "sideStatus": "".join(_STATUS_LETTER[name] for name in video.status[side]),
        "lowest": round(lowest, 4),
        "similarity": base64.b64encode(similarity.tobytes()).decode("ascii"),
        "sheet": sheet,
        "cell": [cell for cell, _ in cells],
        "cellTime": _rounded(video.times[pictured], 3),
        "cellRow": video.rows[pictured].tolist(),
        "none": _without_frame(video),
    }


def _first_row(video: ReportVideo, detail_of: Mapping[str, int]) -> dict[str, Any]:
    return {
        "id": video.video_id,
        "severity": video.severity,
        "badge": _badge(video),
        "reasons": [text for _, text in video.reasons[:4]],
        "more": max(0, len(video.reasons) - 4),
        "detail": detail_of.get(video.key),
    }


def _table_row(video: ReportVideo, detail_of: Mapping[str, int]) -> dict[str, Any]:
    container = video.container
    return {
        "id": video.video_id,
        "detail": detail_of.get(video.key),
        "badge": _badge(video),
        "severity": video.severity,
        "rows": video.total_rows,
        "counts": video.counts,
        "offset": "" if video.max_offset is None else f"{video.max_offset * 1000:.1f}",
        "cuts": video.cuts if video.can_have_cuts else "",
        "decoder": video.entry.get("decoder") or "none",
        "video": ", ".join(
            part
            for part in (
                str(container.get("codec") or ""),
                _size(container),
                f"{video.fps:.5g} fps" if video.fps else "",
                f"{float(container['duration_sec']):.1f} s" if container.get("duration_sec") else "",
            )
            if part
        ),
        "note": video.reasons[0][1] if video.reasons else "",
    }


def _load_line(backbone: Backbone) -> str:
    """Python that opens these results, from the folder in which the page was drawn."""
    return f"framefeat.load({str(backbone.folder)!r})"


def _made(backbone: Backbone, command: str | None) -> list[tuple[str, str]]:
    """How the features were made, as pairs; the source and the sample rate first."""
    manifest = backbone.manifest
    preprocessing = manifest.get("preprocessing") or {}
    described = ", ".join(f"{name} {value}" for name, value in preprocessing.items() if value is not None)
    versions = ", ".join(f"{name} {value}" for name, value in (manifest.get("versions") or {}).items())
    pairs = [
        ("Source", ", ".join(f"{key} {name}" for key, name in (manifest.get("source") or {}).items())),
        ("Sampled", _sampled(backbone)),
        ("Command", command or ""),
        ("What decides the rows", str(manifest.get("command", ""))),
        ("Preprocessing", described),
        ("Alignment", str(manifest.get("alignment", ""))),
        ("Decoder", str(manifest.get("decoder", ""))),
        ("Precision", str(manifest.get("precision", ""))),
        ("Bad frames", str(manifest.get("on_bad_frames", ""))),
        ("Weights sha256", str(manifest.get("weights_sha256", ""))),
        ("Matrix sha256", str(manifest.get("matrix_sha256", ""))),
        ("Versions", versions),
    ]
    return [(name, value) for name, value in pairs if value and value != "None"]


def _sampled(backbone: Backbone) -> str:
    """How often a video was sampled: as the configuration says, or as the times of the frame index lie."""
    asked = backbone.manifest.get("sampling") or {}
    if "sample_fps" in asked:
        return f"{asked['sample_fps']:g} rows per second (sample_fps)"
    if "sample_every" in asked:
        return f"one of every {asked['sample_every']} native frames (sample_every)"
    steps = [np.diff(video.times) for video in backbone.videos if len(video.times) > 1]
    if not steps:
        return "at the times of the frame index"
    return f"at the times of the frame index, usually every {np.median(np.concatenate(steps)):.3g} s"


def _size(container: Mapping[str, Any]) -> str:
    if container.get("width") and container.get("height"):
        return f"{container['width']} × {container['height']}"
    size = container.get("size")
    if isinstance(size, str):
        return size
    return f"{size[0]} × {size[1]}" if size else ""


def _milliseconds(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds * 1000:.1f} ms"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _rounded(values: np.ndarray, digits: int) -> list[float | None]:
    """JSON has no NaN: null stands for it."""
    return [round(float(value), digits) if np.isfinite(value) else None for value in values]
