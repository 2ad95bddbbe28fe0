"""Random edits, one to three before each run: what comes out is, byte for byte, what a run from scratch gives, the jobs
that ran are those that ``framefeat plan`` foretold, and the next run has nothing to do."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.models import live_mobilenet, live_model
from tests.workflow.conftest import write_clip
from tests.workflow.project import Project

LARGE, SMALL = "mobilenet_v3_large", "mobilenet_v3_small"
OUTPUTS = ("toy_features.npy", "frame_index.parquet", "feature_manifest.json")
CHOICES: dict[str, tuple[Any, ...]] = {
    "alignment": ("index", "pts"),
    "precision": ("float32", "bf16"),
    "decoder": ("auto", "pyav", "decord"),
    "on_bad_frames": ("fail", "mask"),
    "keep_frames": (False, True),
    "backbones": ([LARGE], [SMALL], [LARGE, SMALL]),
}


class Edits:
    """Each method edits ``project`` at random and says what it did."""

    def __init__(self, project: Project, weights: Path, seed: int) -> None:
        self.project, self.weights, self.random = project, weights, random.Random(seed)

    def one(self) -> str:
        edits = [
            self.time, self.added, self.removed, self.order, self.content, self.swap, self.touched,
            self.setting, self.setting, self.setting, self.other_weights, self.output_gone,
        ]  # fmt: skip
        return self.random.choice(edits)()

    def video(self) -> Path:
        return self.project.videos / f"{self.random.choice('abc')}.mp4"

    def moment(self) -> float:
        return round(self.random.uniform(0, 2), 3)

    def write(self, rows: pd.DataFrame) -> None:
        self.project.write_index(rows, self.project.video_table())

    def time(self) -> str:
        rows = self.project.rows()
        row = self.random.randrange(len(rows))
        rows.loc[row, "timestamp_sec"] = self.moment()
        self.write(rows)
        return f"row {row} has another time"

    def added(self) -> str:
        video = self.random.choice("abc")
        row = {"video_id": video, "frame_idx": 9, "timestamp_sec": self.moment(), "label": "new"}
        self.write(pd.concat([self.project.rows(), pd.DataFrame([row])]))
        return f"one row of {video} more"

    def removed(self) -> str:
        rows = self.project.rows()
        kept = rows["video_id"] != self.random.choice("abc")
        if self.random.random() < 0.7 or not kept.any():
            kept = rows.index != self.random.randrange(len(rows)) if len(rows) > 1 else rows.index >= 0
        self.write(rows[kept])
        return f"{(~kept).sum()} rows fewer"

    def order(self) -> str:
        self.write(self.project.rows().sample(frac=1, random_state=self.random.randrange(1000)))
        return "rows in another order"

    def content(self) -> str:
        video = self.video()
        write_clip(video, self.random.randrange(100))
        if self.random.random() < 0.5:
            os.utime(video, (1_000_000_000, 1_000_000_000))
        return f"{video.name} has another content"

    def swap(self) -> str:
        one, other = self.random.sample("abc", 2)
        paths = [self.project.videos / name for name in (f"{one}.mp4", f"{other}.mp4", "aside")]
        os.replace(paths[0], paths[2])
        os.replace(paths[1], paths[0])
        os.replace(paths[2], paths[1])
        return f"the files of {one} and {other} are swapped"

    def touched(self) -> str:
        video = self.video()
        os.utime(video)
        return f"{video.name} touched"

    def setting(self) -> str:
        key = self.random.choice(list(CHOICES))
        now = self.project.config[key]
        self.project.config[key] = self.random.choice([value for value in CHOICES[key] if value != now])
        return f"{key}: {self.project.config[key]}"

    def other_weights(self) -> str:
        seed = self.random.randrange(5)
        live_mobilenet(self.weights, seed=seed)
        return f"weights of seed {seed}"

    def output_gone(self) -> str:
        backbone = self.project.results / self.random.choice(self.project.config["backbones"])
        files = sorted(path for path in backbone.glob("*") if path.is_file())
        if not files:
            return "nothing"
        path = self.random.choice(files)
        path.unlink()
        return f"{path.name} gone"


def outputs(project: Project) -> dict[str, bytes]:
    return {
        f"{backbone}/{name}": (project.results / backbone / name).read_bytes()
        for backbone in project.config["backbones"]
        for name in OUTPUTS
    }


def from_scratch(project: Project, folder: Path) -> dict[str, bytes]:
    other = Project(folder)
    shutil.rmtree(other.videos)
    other.videos.symlink_to(project.videos)
    other.config = dict(project.config)
    other.write_index(project.rows(), project.video_table())
    other.run()
    found = outputs(other)
    shutil.rmtree(folder)
    return found


def test_random_edits(
    new_project: Callable[..., Project], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    project = new_project(name="edits")
    large, small = tmp_path / "large.pth", tmp_path / "small.pth"
    live_mobilenet(large)
    live_model(SMALL, small)
    project.config |= {name: values[0] for name, values in CHOICES.items()}
    project.config["weights"] = {LARGE: str(large), SMALL: str(small)}
    project.run()
    edits = Edits(project, large, request.config.getoption("--edit-seed"))
    for turn in range(request.config.getoption("--edits")):
        made = "; ".join(edits.one() for _ in range(edits.random.choice([1, 1, 2, 3])))
        told = project.framefeat("plan", "--json", "--configfile", "run.yaml")
        assert told.returncode == 0, (made, told.stdout)
        plan = json.loads(told.stdout)
        done = project.run()
        print(f"{turn}: {made}: {len(done.jobs)} jobs", flush=True)
        embedded = {video for videos in plan["extract"].values() for video in videos}
        assert done.of("sample_frames") == sorted(f"sample_frames:{video}" for video in plan["sample"]), made
        assert set(done.of("extract_features")) == {f"extract_features:{video}" for video in embedded}, made
        found, expected = outputs(project), from_scratch(project, tmp_path / "scratch")
        assert [name for name in found if found[name] != expected[name]] == [], made
        assert project.run().jobs == [], made
