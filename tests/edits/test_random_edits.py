"""Random edits, one to three before each run: what comes out is, byte for byte, what a run from scratch gives, what was
decoded and embedded is what ``framefeat plan`` foretold, and the next run has nothing to do.

Once with few videos, each a shard of its own, and once with so many that a shard has several."""

import json
import math
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.models import live_mobilenet, live_model
from tests.workflow.collection import FEW, FPS
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
    "shard_rows": ("auto", 1),
}


class Edits:
    """Each method edits ``project`` at random and says what it did. The videos ``ids`` are edited; a clip has so many
    ``frames``."""

    def __init__(self, project: Project, weights: Path, ids: Sequence[str], frames: int, seed: int) -> None:
        self.project, self.weights, self.ids, self.frames = project, weights, ids, frames
        self.random = random.Random(seed)

    def one(self) -> str:
        edits = [
            self.time, self.added, self.removed, self.order, self.content, self.swap, self.touched,
            self.setting, self.setting, self.setting, self.other_weights, self.output_gone,
        ]  # fmt: skip
        return self.random.choice(edits)()

    def video(self) -> Path:
        return self.project.videos / f"{self.random.choice(self.ids)}.mp4"

    def moment(self) -> float:
        return round(self.random.uniform(0, 0.8 * self.frames / FPS), 3)

    def write(self, rows: pd.DataFrame) -> None:
        self.project.write_index(rows, self.project.video_table())

    def time(self) -> str:
        rows = self.project.rows()
        row = self.random.randrange(len(rows))
        rows.loc[row, "timestamp_sec"] = self.moment()
        self.write(rows)
        return f"row {row} has another time"

    def added(self) -> str:
        video = self.random.choice(self.ids)
        row = {"video_id": video, "frame_idx": 9, "timestamp_sec": self.moment(), "label": "new"}
        self.write(pd.concat([self.project.rows(), pd.DataFrame([row])]))
        return f"one row of {video} more"

    def removed(self) -> str:
        rows = self.project.rows()
        kept = rows["video_id"] != self.random.choice(self.ids)
        if self.random.random() < 0.7 or not kept.any():
            kept = rows.index != self.random.randrange(len(rows)) if len(rows) > 1 else rows.index >= 0
        self.write(rows[kept])
        return f"{(~kept).sum()} rows fewer"

    def order(self) -> str:
        self.write(self.project.rows().sample(frac=1, random_state=self.random.randrange(1000)))
        return "rows in another order"

    def content(self) -> str:
        video = self.video()
        write_clip(video, self.random.randrange(100), self.frames)
        if self.random.random() < 0.5:
            os.utime(video, (1_000_000_000, 1_000_000_000))
        return f"{video.name} has another content"

    def swap(self) -> str:
        one, other = self.random.sample(self.ids, 2)
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


def start(project: Project, folder: Path) -> Path:
    """A complete run of ``project`` by the first of all ``CHOICES``; returns the large backbone's weights."""
    large, small = folder / "large.pth", folder / "small.pth"
    live_mobilenet(large)
    live_model(SMALL, small)
    project.config |= {name: values[0] for name, values in CHOICES.items()}
    project.config["weights"] = {LARGE: str(large), SMALL: str(small)}
    project.run()
    return large


def edit(edits: Edits, turns: int, folder: Path, shards: bool) -> None:
    """Edit, run, and hold the results against those of a run from scratch. ``shards``: whether they have several videos
    each, so that a job tells nothing of a video."""
    project = edits.project
    for turn in range(turns):
        made = "; ".join(edits.one() for _ in range(edits.random.choice([1, 1, 2, 3])))
        told = project.framefeat("plan", "--json", "--configfile", "run.yaml")
        assert told.returncode == 0, (made, told.stdout)
        plan = json.loads(told.stdout)
        project.forget_logs()
        done, work = project.run(), project.work()
        print(f"{turn}: {made}: {len(done.jobs)} jobs, {len(work.decoded)} videos decoded", flush=True)
        assert work.begun == work.sampled == sorted(plan["sample"]), made
        foretold = {backbone: sorted(videos) for backbone, videos in plan["extract"].items() if videos}
        assert work.embedded == foretold, made
        if not shards:
            embedded = {video for videos in foretold.values() for video in videos}
            assert done.of("sample_frames") == sorted(f"sample_frames:{video}" for video in plan["sample"])
            assert set(done.of("extract_features")) == {f"extract_features:{video}" for video in embedded}
        found, expected = outputs(project), from_scratch(project, folder / "scratch")
        assert [name for name in found if found[name] != expected[name]] == [], made
        assert project.run().jobs == [], made


def test_random_edits(
    new_project: Callable[..., Project], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    project = new_project(name="edits")
    weights = start(project, tmp_path)
    edits = Edits(project, weights, "abc", 60, request.config.getoption("--edit-seed"))
    edit(edits, request.config.getoption("--edits"), tmp_path, shards=False)


def test_random_edits_of_many_videos(
    new_collection: Callable[..., Project], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A third as many edits: each is held against a run of 65 videos from scratch."""
    project = new_collection(FEW)
    weights = start(project, tmp_path)
    edits = Edits(project, weights, FEW[:12], 10, request.config.getoption("--edit-seed"))
    edit(edits, math.ceil(request.config.getoption("--edits") / 3), tmp_path, shards=True)
