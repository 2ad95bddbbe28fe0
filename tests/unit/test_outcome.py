"""The last lines of a run that failed."""

from pathlib import Path

from framefeat import outcome
from framefeat.files import write_json


def test_a_list_of_problems_is_not_cut_at_its_heading(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "a.log"
    log.parent.mkdir()
    log.write_text(
        "a warning\nframefeat extract: Weights file w.pth does not fit resnet18:\n  - no fc.bias\n  - no fc.weight\n"
    )
    said = list(outcome.failures(log.parent, 0, "snakemake --cores 4"))
    assert said[1] == "  Weights file w.pth does not fit resnet18: - no fc.bias"
    assert said[-1] == "  snakemake --cores 4"


def test_what_slows_every_run_is_said_once(tmp_path: Path) -> None:
    slow = {"device": "cpu", "warnings": ["m is not folded: no such operator."]}
    manifest = {
        "alignment_verified": True, "dataset": "d", "total_frames": 1, "feature_dim": 2, "videos": [],
        "computed_by": [slow, {**slow, "device": "NVIDIA Test"}],
    }  # fmt: skip
    (tmp_path / "m").mkdir()
    write_json(tmp_path / "m" / "feature_manifest.json", manifest)
    assert list(outcome.lines(tmp_path, ["m"]))[1:] == slow["warnings"]
