"""More than 64 videos: a job takes several of them, and does what is to be done for each alone.

Both are asserted after each edit: which shards' jobs ran, and which videos they decoded and embedded.
"""

import json
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import numpy as np
import pytest

from tests.workflow.collection import BUCKETS, FEW, MANY, bucket, shard, write_index
from tests.workflow.conftest import own_copy, write_clip
from tests.workflow.project import Project, Run

BACKBONE = "mobilenet_v3_large"
OUTPUTS = ("toy_features.npy", "frame_index.parquet", "feature_manifest.json")
MERGED, ASSEMBLED = ["merge_index:toy"], [f"assemble:{BACKBONE}", "report:toy"]


def jobs(videos: Iterable[str], of: int = 64) -> list[str]:
    """Both jobs of each shard that has one of these videos."""
    shards = {shard(video, of) for video in videos}
    return [f"{rule}:{name}" for rule in ("extract_features", "sample_frames") for name in shards]


def run(project: Project, recomputed: Collection[str]) -> Run:
    """A run that ``framefeat plan`` foretold, in which the jobs decoded and embedded exactly these videos."""
    expected = sorted(recomputed)
    told = project.framefeat("plan", "--json", "--configfile", "run.yaml")
    assert told.returncode == 0, told.stdout
    plan = json.loads(told.stdout)
    assert sorted(plan["sample"]) == sorted(plan["extract"][BACKBONE]) == expected
    project.forget_logs()
    done = project.run(check=False)
    work = project.work()
    assert work.begun == work.sampled == work.embedded.get(BACKBONE, []) == expected, done.output
    return Run(done.status, done.output, sorted(done.jobs))


def outputs(project: Project) -> dict[str, bytes]:
    return {name: (project.results / BACKBONE / name).read_bytes() for name in OUTPUTS}


def matrix(project: Project) -> np.ndarray:
    return np.load(project.results / BACKBONE / "toy_features.npy")


@pytest.fixture(scope="module")
def project(new_collection: Callable[..., Project]) -> Project:
    """A complete run of 65 videos that the edits of this module start from, one after the other."""
    project = new_collection(FEW)
    done = run(project, FEW)
    assert done.status == 0, done.output
    assert done.jobs == sorted([*MERGED, *jobs(FEW), *ASSEMBLED])
    assert len(jobs(FEW)) == 2 * len(BUCKETS)
    assert {path.stem for path in (project.results / "shards").glob("shard*.json")} == set(map(shard, FEW))
    return project


@pytest.fixture(scope="module")
def of_few(project: Project) -> dict[str, bytes]:
    """What the run from scratch made."""
    return outputs(project)


@pytest.fixture(scope="module")
def of_many(new_collection: Callable[..., Project]) -> dict[str, bytes]:
    project = new_collection(MANY)
    project.run()
    return outputs(project)


def in_bucket(number: int, videos: Collection[str] = FEW) -> list[str]:
    return [video for video in videos if bucket(video) == BUCKETS[number]]


def test_nothing_changed(project: Project, of_few: dict[str, bytes]) -> None:
    assert run(project, []).jobs == []
    assert "Nothing to be done" in project.framefeat("plan", "--configfile", "run.yaml").stdout


def test_one_time_edited_and_one_video_replaced(project: Project, tiny: list[Path]) -> None:
    edited, replaced = in_bucket(0)[1], in_bucket(1)[2]
    write_index(project, FEW, **{edited: (0.0, 0.24)})
    write_clip(project.videos / f"{replaced}.mp4", seed=99, frames=10)
    done = run(project, [edited, replaced])
    assert done.jobs == sorted([*MERGED, *jobs([edited, replaced]), *ASSEMBLED])


def test_one_video_added_and_one_removed(project: Project) -> None:
    """From 65 to 65 videos, and each of what was edited before is taken back."""
    added = next(video for video in MANY[len(FEW) :] if bucket(video) == BUCKETS[2])
    removed, edited = in_bucket(3)[0], in_bucket(0)[1]
    write_index(project, [*(video for video in FEW if video != removed), added])
    done = run(project, [added, edited])
    assert done.jobs == sorted([*MERGED, *jobs([added, removed, edited]), *ASSEMBLED])
    assert len(matrix(project)) == 2 * len(FEW)


def test_a_damaged_video_is_a_finding_and_its_neighbours_are_done(project: Project, tiny: list[Path]) -> None:
    damaged, edited, *_ = in_bucket(1)
    (project.videos / f"{damaged}.mp4").write_bytes(b"\0" * 1000)
    write_index(project, FEW, **{edited: (0.0, 0.24)})
    left = in_bucket(2, MANY[len(FEW) :])[0]  # of the test before
    done = run(project, [damaged, edited])
    assert done.status != 0
    assert "Traceback" not in done.output
    assert done.jobs == sorted(
        [*MERGED, *jobs([damaged, edited, left, in_bucket(3)[0]]), f"assemble:{BACKBONE}"]
    )
    at_the_end = done.output.partition(" failed:\n")[2]
    assert f"'{damaged}': all 2 rows: " in at_the_end
    assert f"1 of {len(FEW)} videos has bad rows" in at_the_end
    plan = project.framefeat("plan", "--configfile", "run.yaml").stdout
    assert f"0 of {len(FEW)} videos will be decoded" in plan
    assert f"no matrix will be assembled.\n  {damaged}: " in plan


def test_the_collection_grows_past_the_next_power_of_two(
    project: Project, tiny: list[Path], of_many: dict[str, bytes]
) -> None:
    """Every shard is another, and what was computed stays; whoever computes it in other shards has the same bytes."""
    damaged, edited, *_ = in_bucket(1)
    for video in (damaged, in_bucket(1)[2]):
        own_copy(tiny[MANY.index(video) % len(tiny)], project.videos / f"{video}.mp4")
    project.config["shard_rows"] = 2
    write_index(project, MANY)
    new = set(MANY[len(FEW) :]) - {in_bucket(2, MANY[len(FEW) :])[0]}
    done = run(project, [*new, damaged, edited, in_bucket(1)[2]])
    assert done.jobs == sorted([*MERGED, *jobs(MANY, of=128), *ASSEMBLED])
    assert {path.stem for path in (project.results / "shards").glob("shard*.json")} == {
        shard(video, of=128) for video in MANY
    }
    assert outputs(project) == of_many


def test_shard_rows_and_the_order_of_the_index_change_no_video(project: Project) -> None:
    before = matrix(project)
    project.config["shard_rows"] = "auto"
    write_index(project, MANY[::-1])
    done = run(project, [])
    assert done.jobs == sorted([*MERGED, *jobs(MANY), *ASSEMBLED])
    half = len(MANY)
    assert np.array_equal(matrix(project), np.concatenate([before[:half][::-1], before[half:][::-1]]))
    write_index(project, MANY)
    assert run(project, []).jobs == sorted([*MERGED, *ASSEMBLED])
    assert np.array_equal(matrix(project), before)
    project.config["shard_rows"] = 2
    told = project.framefeat("plan", "--configfile", "run.yaml").stdout
    assert "The index will be merged again: shard_rows changed.\n" in told
    assert "The matrix and its manifest will be assembled, and the report drawn.\n" in told
    assert run(project, []).jobs == sorted([*MERGED, *ASSEMBLED]), "the jobs of these shards were done before"
    project.config["shard_rows"] = "auto"
    run(project, [])


def test_from_64_videos_to_65(project: Project, of_few: dict[str, bytes]) -> None:
    """Each a shard of its own, then all of them in buckets."""
    write_index(project, FEW[:64])
    done = run(project, [])
    assert done.jobs == sorted(
        [*MERGED, *ASSEMBLED]
        + [f"{rule}:{video}" for rule in ("extract_features", "sample_frames") for video in FEW[:64]]
    )
    write_index(project, FEW)
    assert run(project, []).jobs == sorted([*MERGED, *jobs(FEW), *ASSEMBLED])
    assert outputs(project) == of_few
