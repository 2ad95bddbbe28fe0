"""Builds the page: reads the results, chooses what is shown so that the size stays bounded, fills the template."""

import json
import sys
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from framefeat.files import atomic_path
from framefeat.layout import ResultsFolder
from framefeat.report import numbers, thumbs
from framefeat.report.frame_map import frame_map
from framefeat.report.gather import (
    Backbone,
    ReportVideo,
    by_concern,
    judge,
    measure,
    read_backbone,
    thumbnails,
)
from framefeat.report.section import duration, section
from framefeat.report.stages import Stage, read_stages
from framefeat.results import drawn
from framefeat.results.finished import result_folders
from framefeat.run import outcome

DETAILS = 60  # videos with a filmstrip
DETAILS_ALL = 120  # the same, over all backbones together
SPRITE_BYTES = 7_000_000  # all sprites together, before base64


def build(
    results: str | Path,
    out: str | Path,
    backbones: Sequence[str] | None = None,
    benchmarks: str | Path | None = None,
    logs: str | Path | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Write the report of ``results`` (``results/{dataset}``, or one backbone's folder) to ``out``.

    ``backbones``: folder names, default all that are there; ``benchmarks`` and ``logs``: the data set's folders, for
    time per stage and for where to read on; ``command``: what was typed to make the results. Returns counts
    for the log: videos, details, bytes, seconds.
    """
    started = time.monotonic()
    root, loaded = _read(Path(results), backbones)
    most = DETAILS if len(loaded) == 1 else max(8, min(DETAILS, DETAILS_ALL // len(loaded)))
    shown = chosen_videos(loaded, most)
    sheets = thumbs.Sheets()
    for key in shown:
        _add_sprite(sheets, root, loaded[0], key, SPRITE_BYTES // max(1, len(shown)))
    maps = [frame_map(backbone, root, sheets, shown) for backbone in loaded]
    sections = [
        section(number, backbone, shown, sheets, maps[number], command)
        for number, backbone in enumerate(loaded)
    ]
    stages = read_stages(
        Path(benchmarks) if benchmarks else None,
        Path(logs) if logs else None,
        ResultsFolder(root).shard_names(),
    )
    data = {
        "sheets": sheets.described,
        "backbones": [part.pop("data") for part in sections],
        "stages": [_stage_data(stage) for stage in stages],
    }
    page = render(
        dataset=str(loaded[0].manifest["dataset"]),
        drawn_of=drawn.drawn_of([backbone.folder for backbone in loaded]),
        sections=sections,
        stages=[_stage_text(stage) for stage in stages],
        throughput=any(stage.rates for stage in stages),
        stage_total=duration(sum(stage.seconds for stage in stages)),
        logs=str(logs) if logs else None,
        left_out=outcome.left_out(root),
        data=data,
    ).encode("utf-8")
    with atomic_path(out) as temporary:
        temporary.write_bytes(page)
    facts = {
        "videos": len(loaded[0].videos),
        "rows": len(loaded[0].matrix),
        "details": len(shown),
        "bytes": len(page),
        "seconds": round(time.monotonic() - started, 2),
    }
    print(
        f"{out}: {facts['videos']} videos ({facts['details']} in detail), {facts['bytes'] / 1e6:.1f} MB, "
        f"{facts['seconds']:.1f} s",
        file=sys.stderr,
    )
    return facts


def _read(results: Path, backbones: Sequence[str] | None) -> tuple[Path, list[Backbone]]:
    """The data set's folder, and its backbones measured and judged."""
    folders = [results / name for name in backbones] if backbones else result_folders(results)
    loaded = [read_backbone(folder) for folder in folders]
    for backbone in loaded:
        measure(backbone)
        judge(backbone)
    return folders[0].parent if folders == [results] else results, loaded


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
    videos: dict[str, ReportVideo] = {}
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


def _add_sprite(sheets: thumbs.Sheets, root: Path, backbone: Backbone, key: str, most_bytes: int) -> None:
    strip, rows = thumbnails(root, backbone, key)
    if not rows:
        return
    sheet = thumbs.sprite(strip, len(rows), most_bytes)
    if sheet is not None:
        sheets.of_video[key] = (sheets.add(sheet), rows)


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
        "time": duration(stage.seconds),
        "cpu": duration(stage.cpu_seconds),
        "rate": f"{rate:,.1f}" if rate else "",
        "memory": f"{stage.max_rss_mb:,.0f} MB" if stage.max_rss_mb else "",
    }
