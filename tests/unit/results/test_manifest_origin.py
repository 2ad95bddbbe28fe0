"""The manifest's words on its source stand after the notebook's members, and only where they are given."""

from pathlib import Path
from typing import Any

from framefeat.results import assemble, finished
from framefeat.results.verdict import VERIFIED

ORIGIN = {
    "source": {"videos": "films"},
    "sampling": {"sample_fps": 2.0},
    "command": "snakemake --config dataset=toy",
}
NOTEBOOK = ["backbone", "weights", "feature_dim", "total_frames", "alignment_verified", "order"]


def head(tmp_path: Path, origin: Any) -> dict[str, Any]:
    spec = dict.fromkeys(("folder", "name", "display", "weights", "geometry", "mean", "std"), "x") | {
        "dim": 2
    }
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
    nothing = assemble.np.zeros(0)
    summary = assemble.Summary(videos=["{}"], weights_sha256={"0"})
    summary.states[VERIFIED] += 1
    written = assemble._manifest(asked, assemble.Columns(nothing, nothing, nothing), summary, "0", "1")
    path = tmp_path / "feature_manifest.json"
    assemble._write_manifest(path, written, summary.videos)
    found = finished.read_manifest_head(path)
    assert found is not None
    return dict(found)


def test_after_the_notebooks_members(tmp_path: Path) -> None:
    found = head(tmp_path, ORIGIN)
    assert list(found)[:6] == NOTEBOOK
    assert {name: found[name] for name in ORIGIN} == ORIGIN


def test_by_hand_nothing_is_made_up(tmp_path: Path) -> None:
    assert not ORIGIN.keys() & head(tmp_path, None).keys()
