"""Where a matrix came from: in the manifest what decides the rows, on the page what was typed."""

import html
import json
import shutil
from pathlib import Path
from typing import Any

from tests.workflow.project import Project

BACKBONE = "mobilenet_v3_large"


def test_source_rate_and_command(tmp_path: Path, clips: Path, weights: Path) -> None:
    project = Project(tmp_path / "work")
    for name in ("a", "b"):
        shutil.copy(clips / f"{name}.mp4", project.videos / f"{name}.mp4")
    project.config = {"dataset": "toy", "videos": "videos", "weights": str(weights), "device": "cpu"}
    files = project.results / BACKBONE / "feature_manifest.json", project.results / "report.html"

    def manifest() -> dict[str, Any]:
        return json.loads(files[0].read_text(encoding="utf-8"))

    project.run()
    assert list(manifest())[5:6] == ["order"]
    assert manifest()["source"] == {"videos": "videos"}
    assert manifest()["sampling"] == {"sample_fps": 2.0}
    assert manifest()["command"] == (
        f"snakemake --config dataset=toy videos=videos sample_fps=2 backbones={BACKBONE} weights=live.pth"
    )
    typed = "snakemake --cores 2 --resources gpu=1 --configfile run.yaml --nocolor"
    assert html.escape(typed) in files[1].read_text(encoding="utf-8")
    # Another command, another number of cores, and the same folder by its whole path: nothing that was made changes.
    before = [path.read_bytes() for path in files]
    assert project.run("--keep-going", cores=1).jobs == []
    assert [path.read_bytes() for path in files] == before
    project.config["videos"] = str(project.videos)
    assert set(project.run().jobs) <= {"merge_index:toy", "report:toy"}
    assert files[0].read_bytes() == before[0]
    # A folder of another name is another source, of which nothing is decoded again.
    project.videos.rename(project.folder / "films")
    project.config["videos"] = "films"
    assert project.run().jobs == ["merge_index:toy", f"assemble:{BACKBONE}", "report:toy"]
    assert manifest()["source"] == {"videos": "films"}
