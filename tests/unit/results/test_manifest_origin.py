"""The manifest's words on its source stand after the notebook's members, and only where they are given."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from framefeat.backbone.resolve import resolve
from framefeat.results import assemble, finished
from framefeat.results.verdict import VERIFIED

ORIGIN = {
    "source": {"videos": "films"},
    "sampling": {"sample_fps": 2.0},
    "command": "snakemake --config dataset=toy",
}


#: As the notebook wrote it for TVSum.
NOTEBOOKS_MANIFEST = {
    "backbone": "MobileNetV3-Large",
    "weights": "IMAGENET1K_V1",
    "feature_dim": 960,
    "total_frames": 25190,
    "alignment_verified": True,
    "order": "sequential_per_frame_index",
}
SPEC = dict.fromkeys(("folder", "name", "display", "weights", "geometry", "mean", "std"), "x") | {"dim": 2}


def head(
    tmp_path: Path, origin: Any, spec: Mapping[str, Any] = SPEC, rows: Sequence[str] = ()
) -> dict[str, Any]:
    asked = assemble.Asked(
        assemble.ResultsFolder(tmp_path),
        "squash224",
        spec,
        "toy",
        "index",
        "auto",
        "float32",
        "w",
        "fail",
        origin,
    )
    summary = assemble.Summary(videos=["{}"], weights_sha256={"0"})
    summary.states[VERIFIED] += 1
    nothing = np.zeros(0)
    written = assemble.manifest_head(
        asked, assemble.Columns(nothing, nothing, np.asarray(rows)), summary, "0", "1"
    )
    path = tmp_path / "feature_manifest.json"
    assemble._write_manifest(path, written, summary.videos)
    found = finished.read_manifest_head(path)
    assert found is not None
    return dict(found)


def test_after_the_notebooks_members(tmp_path: Path) -> None:
    found = head(tmp_path, ORIGIN)
    assert list(found)[:6] == list(NOTEBOOKS_MANIFEST)
    assert {name: found[name] for name in ORIGIN} == ORIGIN


def test_the_notebooks_members_have_its_values(tmp_path: Path) -> None:
    spec = resolve("mobilenet_v3_large", "IMAGENET1K_V1").to_json()
    found = head(tmp_path, ORIGIN, spec, ["ok"] * 25190)
    assert json.dumps(dict(list(found.items())[:6])) == json.dumps(NOTEBOOKS_MANIFEST)


def test_by_hand_nothing_is_made_up(tmp_path: Path) -> None:
    assert not ORIGIN.keys() & head(tmp_path, None).keys()
