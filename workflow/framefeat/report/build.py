"""Builds the page: reads the results, chooses what is shown so that the size stays bounded, fills the template."""

import base64
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from framefeat.files import atomic_path
from framefeat.report import numbers, thumbs
from framefeat.report.gather import (
    Backbone,
    Video,
    by_concern,
    evidence_of,
    judge,
    many,
    measure,
    read_backbone,
    read_rows,
    result_folders,
    sprite_path,
)
from framefeat.report.stages import Stage, read_stages
from framefeat.results import verdict
from framefeat.run import outcome
from framefeat.vectors import unit_rows

DETAILS = 60  # videos with a filmstrip
DETAILS_ALL = 120  # the same, over all backbones together
OPEN = 6  # of them unfolded at first
CURVE_POINTS = 400
MATRIX_SIDE = 120
MAP_POINTS = 1500
MAP_VIDEOS = 500
NEIGHBOURS = 6
TABLE_ROWS = 400
LISTED = 25  # videos named under "look at these first"
SPRITE_BYTES = 7_000_000  # all sprites together, before base64
ATLAS_BYTES = 4_000_000
_LOOKS = {verdict.VERIFIED: "good", verdict.DOUBTFUL: "doubtful", verdict.NOT_VERIFIED: "poor"}
_STATUS_LETTER = {"ok": "o", "clamped": "c", "bad": "b"}


@dataclass
class Sheets:
    """The pictures of the page, each stored once however many backbones show it."""

    described: list[dict[str, Any]] = field(default_factory=list)
    of_video: dict[str, tuple[int, list[int]]] = field(
        default_factory=dict
    )  # key -> sheet, rows of the slice

    def add(self, sheet: thumbs.Sheet) -> int:
        self.described.append(sheet.described())
        return len(self.described) - 1


def build(
    results: str | Path,
    out: str | Path,
    backbones: Sequence[str] | None = None,
    benchmarks: str | Path | None = None,
    logs: str | Path | None = None,
) -> dict[str, Any]:
    """Write the report of ``results`` (``results/{dataset}``, or one backbone's folder) to ``out``.

    ``backbones``: folder names, default all that are there; ``benchmarks`` and ``logs``: the data set's folders, for
    time per stage and for where to read on. Returns counts for the log: videos, details, bytes, seconds.
    """
    started = time.monotonic()
    root = Path(results)
    folders = [root / name for name in backbones] if backbones else result_folders(root)
    if not backbones and folders == [root]:
        root = root.parent
    loaded = [read_backbone(folder) for folder in folders]
    for backbone in loaded:
        measure(backbone)
        judge(backbone)

    sheets = Sheets()
    most = DETAILS if len(loaded) == 1 else max(8, min(DETAILS, DETAILS_ALL // len(loaded)))
    shown = chosen_videos(loaded, most)
    for key in shown:
        _add_sprite(sheets, root, loaded[0], key, SPRITE_BYTES // max(1, len(shown)))
    points = [_map_of(backbone, root, sheets, shown) for backbone in loaded]

    frames_of = {video.key: int(video.entry.get("rows", len(video.rows))) for video in loaded[0].videos}
    stages = read_stages(Path(benchmarks) if benchmarks else None, frames_of)
    sections = [
        _section(number, backbone, shown, sheets, plane)
        for number, (backbone, plane) in enumerate(zip(loaded, points, strict=True))
    ]
    data = {
        "sheets": sheets.described,
        "backbones": [section.pop("data") for section in sections],
        "stages": [_stage_data(stage) for stage in stages],
    }
    page = render(
        dataset=str(loaded[0].manifest["dataset"]),
        sections=sections,
        stages=[_stage_text(stage) for stage in stages],
        stage_total=_duration(sum(stage.seconds for stage in stages)),
        logs=str(logs) if logs else None,
        left_out=outcome.left_out(root),
        data=data,
    )
    with atomic_path(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    facts = {
        "videos": len(loaded[0].videos),
        "rows": len(loaded[0].matrix),
        "details": len(shown),
        "bytes": len(page.encode("utf-8")),
        "seconds": round(time.monotonic() - started, 2),
    }
    print(
        f"{out}: {facts['videos']} videos ({facts['details']} in detail), {facts['bytes'] / 1e6:.1f} MB, "
        f"{facts['seconds']:.1f} s",
        file=sys.stderr,
    )
    return facts


def render(**values: Any) -> str:
    """Fill the template. Everything but the page's own script and style is escaped."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    files = resources.files("framefeat.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((files / "templates" / "page.html.j2").read_text(encoding="utf-8"))
    values["data"] = Markup(script_json(values["data"]))
    return template.render(
        **values,
        charts=Markup(get_plotlyjs()),
        style=Markup((files / "assets" / "page.css").read_text(encoding="utf-8")),
        script=Markup((files / "assets" / "page.js").read_text(encoding="utf-8")),
    )


def script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in, nor open a comment there."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def chosen_videos(loaded: Sequence[Backbone], most: int) -> list[str]:
    """Keys of the videos shown in detail: those that need a look first, then evenly over the rest, in index order."""
    videos: dict[str, Video] = {}
    for backbone in loaded:
        for video in backbone.videos:
            if video.key not in videos or video.severity > videos[video.key].severity:
                videos[video.key] = video
    keys = list(videos)
    order = by_concern(videos.values())
    # Some room is kept for ordinary videos: what is wrong is seen beside what is right.
    flagged = [place for place in order if videos[keys[place]].severity][: max(1, most * 3 // 4)]
    rest = sorted(set(range(len(keys))) - set(flagged))
    ordinary = [place for place in rest if not videos[keys[place]].severity] or rest
    taken = (
        [ordinary[place] for place in numbers.evenly(len(ordinary), most - len(flagged))] if ordinary else []
    )
    return [keys[place] for place in [*flagged, *taken]]


def _add_sprite(sheets: Sheets, root: Path, backbone: Backbone, key: str, most_bytes: int) -> None:
    evidence = evidence_of(root, backbone, key)
    path = sprite_path(root, backbone, key)
    rows = [int(row) for row in ((evidence or {}).get("thumbnails") or {}).get("rows") or []]
    if path is None or not rows:
        return
    sheet = thumbs.sprite(path, len(rows), most_bytes)
    if sheet is not None:
        sheets.of_video[key] = (sheets.add(sheet), rows)


# --- the map of all frames


@dataclass
class _Map:
    data: dict[str, Any]
    words: dict[str, Any]


def _map_of(backbone: Backbone, root: Path, sheets: Sheets, shown: Sequence[str]) -> _Map:
    """At most ``MAP_POINTS`` frames: of every video where they are few, else of the detailed ones and evenly of the rest."""
    videos = backbone.videos
    detailed = {place for place, video in enumerate(videos) if video.key in set(shown)}
    rest = [place for place in range(len(videos)) if place not in detailed]
    room = max(0, MAP_VIDEOS - len(detailed))
    chosen = (
        sorted(detailed | {rest[place] for place in numbers.evenly(len(rest), room)})
        if room
        else sorted(detailed)
    )
    each = max(1, MAP_POINTS // max(1, len(chosen)))
    points: list[tuple[int, int]] = []  # place of the video, place of the row in it
    cells: list[list[int]] = []  # sheet and cell of each point
    wanted: list[tuple[Path, int, list[int]]] = []
    waiting: list[list[int]] = []
    for place in chosen:
        video = videos[place]
        has_frame = video.status != "bad"
        if video.key in sheets.of_video:
            sheet, pictured = sheets.of_video[video.key]
            path = None
        else:
            sheet, path = -1, sprite_path(root, backbone, video.key)
            evidence = evidence_of(root, backbone, video.key) if path else None
            pictured = [int(row) for row in ((evidence or {}).get("thumbnails") or {}).get("rows") or []]
        usable = [(cell, row) for cell, row in enumerate(pictured) if row < len(has_frame) and has_frame[row]]
        if not usable:
            usable = [(-1, int(row)) for row in np.flatnonzero(has_frame)]
        taken = [usable[number] for number in numbers.evenly(len(usable), each)]
        if path is not None and taken and taken[0][0] >= 0:
            wanted.append((path, len(pictured), [cell for cell, _ in taken]))
            waiting.append(list(range(len(points), len(points) + len(taken))))
        for cell, row in taken:
            points.append((place, row))
            cells.append([sheet, cell] if sheet >= 0 and cell >= 0 else [-1, -1])
    sheet_of_rest, placed = thumbs.atlas(wanted, ATLAS_BYTES)
    if sheet_of_rest is not None:
        number = sheets.add(sheet_of_rest)
        for targets, given in zip(waiting, placed, strict=True):
            for target, cell in zip(targets, given, strict=True):
                cells[target] = [number, cell] if cell >= 0 else [-1, -1]

    rows = np.array([videos[place].rows[row] for place, row in points], dtype=np.int64)
    unit, _ = (
        unit_rows(read_rows(backbone.matrix, rows)) if len(rows) else (np.zeros((0, 2), np.float32), None)
    )
    finite = np.asarray(np.isfinite(unit).all(axis=1))
    if not finite.all():
        points = [point for point, kept in zip(points, finite, strict=True) if kept]
        cells = [cell for cell, kept in zip(cells, finite, strict=True) if kept]
        rows, unit = rows[finite], unit[finite]
    plane = numbers.principal_plane(unit)
    groups = np.array([place for place, _ in points], dtype=np.int64)
    inside, outside = numbers.neighbours(unit, groups, NEIGHBOURS) if len(rows) else ([], [])
    names = sorted(set(groups.tolist()))
    number_of = {place: number for number, place in enumerate(names)}
    data = {
        "videos": [videos[place].video_id for place in names],
        "detail": [
            list(shown).index(videos[place].key) if videos[place].key in shown else -1 for place in names
        ],
        "video": [number_of[place] for place, _ in points],
        "row": rows.tolist(),
        "time": [round(float(videos[place].times[row]), 3) for place, row in points],
        "span": [
            round(float(videos[place].times[row] / max(videos[place].times[-1], 1e-9)), 3)
            for place, row in points
        ],
        "cell": cells,
        "x": [round(float(value), 4) for value in plane.xy[:, 0]],
        "y": [round(float(value), 4) for value in plane.xy[:, 1]],
        "inside": [
            [[other, round(float(unit[number] @ unit[other]), 3)] for other in row]
            for number, row in enumerate(inside)
        ],
        "outside": [
            [[other, round(float(unit[number] @ unit[other]), 3)] for other in row]
            for number, row in enumerate(outside)
        ],
        "explained": [round(share, 3) for share in plane.explained],
    }
    words = {
        "points": len(rows),
        "videos": len(names),
        "all_videos": len(videos),
        "pictured": sum(1 for cell in cells if cell[0] >= 0),
        "explained": f"{100 * sum(plane.explained):.0f} %",
    }
    return _Map(data, words)


# --- one backbone


def _section(
    number: int, backbone: Backbone, shown: Sequence[str], sheets: Sheets, plane: _Map
) -> dict[str, Any]:
    manifest, videos = backbone.manifest, backbone.videos
    place_of = {video.key: place for place, video in enumerate(videos)}
    details = [videos[place_of[key]] for key in shown if key in place_of]
    flagged = [videos[place] for place in by_concern(videos) if videos[place].severity]
    counts = backbone.counts
    offsets = np.concatenate([video.offsets for video in videos]) if videos else np.zeros(0)
    farthest = [video.max_offset for video in videos if video.max_offset is not None]
    order = by_concern(videos)[:TABLE_ROWS]
    detail_of = {video.key: place for place, video in enumerate(details)}
    return {
        "number": number,
        "name": backbone.name,
        "display": manifest["backbone"],
        "weights": manifest["weights"],
        "dim": manifest["feature_dim"],
        "rows": len(backbone.matrix),
        "videos": len(videos),
        "counts": counts,
        "max_offset": _milliseconds(max(farthest, default=None)),
        "doubtful": sum(bool(video.doubts) for video in videos),
        "cuts": sum(video.cuts for video in videos),
        "flagged": len(flagged),
        **_verdict(backbone),
        "first": [
            {
                "id": video.video_id,
                "severity": video.severity,
                "badge": _badge(video),
                "reasons": [text for _, text in video.reasons[:4]],
                "more": max(0, len(video.reasons) - 4),
                "detail": detail_of.get(video.key),
            }
            for video in flagged[:LISTED]
        ],
        "unlisted": max(0, len(flagged) - LISTED),
        "details": [_words(video, place, sheets) for place, video in enumerate(details)],
        "open": OPEN,
        "map": plane.words,
        "table": [_table_row(videos[place], detail_of) for place in order],
        "untabled": len(videos) - len(order),
        "made": _made(manifest),
        "data": {
            "details": [_detail(backbone, video, sheets) for video in details],
            "map": plane.data,
            "offsets": numbers.histogram(offsets * 1000),
            "norms": numbers.histogram(backbone.norms),
            "changes": numbers.histogram(backbone.changes),
        },
    }


def _verdict(backbone: Backbone) -> dict[str, Any]:
    """The first sentence of the page and what stands behind it."""
    manifest, counts = backbone.manifest, backbone.counts
    rows, videos = many(len(backbone.matrix), "row"), many(len(backbone.videos), "video")
    unproven = [v for v in backbone.videos if v.state == verdict.NOT_VERIFIED and not v.counts["bad"]]
    if backbone.state == verdict.NOT_VERIFIED:
        headline = "Not verified: some rows are not proven to be their frames"
        because = []
        if control := manifest.get("control"):
            unproven = []
            because.append(
                f"This is a control ({control['kind']}): its rows are not the features of their frames."
            )
        if counts["bad"]:
            bad = [video for video in backbone.videos if video.counts["bad"]]
            because.append(
                f"{many(counts['bad'], 'row')} of {many(len(bad), 'video')} have no frame: NaN in the matrix, status “bad”."
            )
        if unproven:
            because.append(
                f"The second decode or embedding of {many(len(unproven), 'video')} did not agree, or is missing: "
                f"{_names(unproven)}."
            )
        if not because:
            because.append(
                "The manifest says so without naming a video; run “framefeat verify” on the results."
            )
        because += _doubts(backbone)
    else:
        headline = "Verified: every row is the frame it claims to be"
        because = [
            f"Each of the {rows} of {videos} has its evidence: the frame that was asked for, the frame that was decoded, its time."
        ]
        if again := backbone.rechecked:
            because.append(
                f"{many(again, 'row')} were decoded a second time another way and embedded again: the same pixels and "
                "features, as far as two decoders agree."
            )
    if backbone.state == verdict.DOUBTFUL:
        doubtful = sum(bool(video.doubts) for video in backbone.videos)
        headline = f"Doubtful: the rows of {many(doubtful, 'video')} may not be the frames that were meant"
        because = [*_doubts(backbone), *because]
    return {
        "state": backbone.state,
        "look": _LOOKS[backbone.state],
        "headline": headline,
        "because": because,
    }


def _doubts(backbone: Backbone) -> list[str]:
    """How many videos are doubtful, how far their rows are off, and the first reasons."""
    doubtful = [video for video in backbone.videos if video.doubts]
    if not doubtful:
        return []
    farthest = [video.max_offset for video in doubtful if video.max_offset is not None]
    distance = f", rows up to {max(farthest):.3f} s from their frames" if farthest else ""
    reasons = dict.fromkeys(f"{video.video_id}: {doubt}" for video in doubtful for doubt in video.doubts)
    return [f"{many(len(doubtful), 'video')} doubtful{distance}: {_names(doubtful)}.", *list(reasons)[:3]]


def _names(videos: Sequence[Video]) -> str:
    return ", ".join(video.video_id for video in videos[:5]) + (" …" if len(videos) > 5 else "")


def _words(video: Video, place: int, sheets: Sheets) -> dict[str, Any]:
    container = video.container
    counts = video.counts
    size = _size(container)
    facts = [
        many(int(video.entry.get("rows", len(video.rows))), "row"),
        _duration(float(container["duration_sec"])) if container.get("duration_sec") else "",
        size,
        f"{video.fps:.6g} fps" if video.fps else "",
        str(container.get("codec") or ""),
        f"read by {video.entry['decoder']}" if video.entry.get("decoder") else "",
        many(video.cuts, "likely cut") if video.has_frames else "",
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
    }


def _badge(video: Video) -> str:
    """The video's state, with a word where it is verified and yet something stands out."""
    return f"{video.state}, look" if video.state == verdict.VERIFIED and video.severity else video.state


def _without_frame(video: Video) -> list[list[float | None]]:
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


def _detail(backbone: Backbone, video: Video, sheets: Sheets) -> dict[str, Any]:
    """What the charts of one video draw: bounded by ``CURVE_POINTS`` and ``MATRIX_SIDE``, whatever its length."""
    change = backbone.changes[video.rows]
    cuts, threshold = backbone.cuts(video)
    # Rows that are not plain frames are never thinned out, nor are cuts.
    importance = np.nan_to_num(change, nan=0.0) + np.where(video.status != "ok", 10.0, 0.0)
    kept = numbers.telling_rows(importance, CURVE_POINTS)
    side = numbers.evenly(len(video.rows), MATRIX_SIDE)
    unit, _ = unit_rows(read_rows(backbone.matrix, video.rows[side]))
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


def _table_row(video: Video, detail_of: Mapping[str, int]) -> dict[str, Any]:
    container = video.container
    return {
        "id": video.video_id,
        "detail": detail_of.get(video.key),
        "badge": _badge(video),
        "severity": video.severity,
        "rows": int(video.entry.get("rows", len(video.rows))),
        "counts": video.counts,
        "offset": "" if video.max_offset is None else f"{video.max_offset * 1000:.1f}",
        "cuts": video.cuts if video.has_frames else "",
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


def _made(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the features were made, as pairs."""
    preprocessing = manifest.get("preprocessing") or {}
    described = ", ".join(f"{name} {value}" for name, value in preprocessing.items() if value is not None)
    versions = ", ".join(f"{name} {value}" for name, value in (manifest.get("versions") or {}).items())
    pairs = [
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


def _stage_data(stage: Stage) -> dict[str, Any]:
    return {
        "rule": stage.rule,
        "part": stage.part,
        "seconds": round(stage.seconds, 2),
        "cpu": round(stage.cpu_seconds, 2),
        "rates": [round(float(value), 2) for value in np.percentile(stage.rates, [5, 25, 50, 75, 95])]
        if stage.rates
        else [],
    }


def _stage_text(stage: Stage) -> dict[str, str]:
    rate = stage.frames_per_second
    return {
        "label": stage.label,
        "rule": stage.rule,
        "part": stage.part,
        "jobs": f"{stage.jobs:,}",
        "time": _duration(stage.seconds),
        "cpu": _duration(stage.cpu_seconds),
        "rate": f"{rate:,.1f}" if rate else "",
        "memory": f"{stage.max_rss_mb:,.0f} MB" if stage.max_rss_mb else "",
    }


def _size(container: Mapping[str, Any]) -> str:
    if container.get("width") and container.get("height"):
        return f"{container['width']} × {container['height']}"
    size = container.get("size")
    if isinstance(size, str):
        return size
    return f"{size[0]} × {size[1]}" if size else ""


def _milliseconds(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds * 1000:.1f} ms"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _rounded(values: np.ndarray, digits: int) -> list[float | None]:
    """JSON has no NaN: null stands for it."""
    return [round(float(value), digits) if np.isfinite(value) else None for value in values]
