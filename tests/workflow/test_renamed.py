"""A file of a folder that has another name, or lies elsewhere, and whose content is known: nothing is decoded."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.project import Project, Run

BACKBONE = "mobilenet_v3_large"
MERGED, ASSEMBLED = ["merge_index:toy"], [f"assemble:{BACKBONE}", "report:toy"]


def outputs(project: Project) -> dict[str, bytes]:
    names = ("toy_features.npy", "frame_index.parquet", "feature_manifest.json")
    return {name: (project.results / BACKBONE / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def new_folder(
    tmp_path_factory: pytest.TempPathFactory, clips: Path, weights: Path
) -> Callable[[Mapping[str, str]], Project]:
    """Make a project whose folder has these files, each a copy of a clip."""

    def make(files: Mapping[str, str]) -> Project:
        project = Project(tmp_path_factory.mktemp("folder") / "work")
        for name, clip in files.items():
            shutil.copy(clips / clip, project.videos / name)
        project.config = {"dataset": "toy", "videos": "videos", "weights": str(weights), "device": "cpu"}
        return project

    return make


@pytest.fixture(scope="module")
def project(new_folder: Callable[[Mapping[str, str]], Project]) -> Project:
    """A complete run of ``a`` and ``b`` that the tests of this module start from, one after the other."""
    project = new_folder({"a.mp4": "a.mp4", "b.mp4": "b.mp4"})
    project.run()
    return project


@pytest.fixture(autouse=True)
def forgotten(project: Project) -> None:
    project.forget_logs()


def plan(project: Project) -> dict[str, Any]:
    told = project.framefeat("plan", "--json", "--configfile", "run.yaml")
    assert told.returncode == 0, told.stdout
    return json.loads(told.stdout)


def run(project: Project, **taken_over: str) -> Run:
    """A run that decodes and embeds nothing, as foretold; ``taken_over``: the former name of each new video."""
    foretold = plan(project)
    assert (foretold["sample"], foretold["extract"]) == ({}, {BACKBONE: {}})
    assert foretold["taken_over"] == taken_over
    done = project.run()
    work = project.work()
    assert (work.decoded, work.embedded) == ([], {}), done.output
    assert "Nothing to be done" in project.framefeat("plan", "--configfile", "run.yaml").stdout
    return Run(done.status, done.output, sorted(done.jobs))


def jobs(*videos: str) -> list[str]:
    return [f"{rule}:{video}" for rule in ("extract_features", "sample_frames") for video in videos]


def log(project: Project, rule: str, folder: str, video: str) -> str:
    return (project.folder / "logs" / "toy" / rule / folder / f"{video}.log").read_text()


def test_a_renamed_file_is_taken_over(
    project: Project, new_folder: Callable[[Mapping[str, str]], Project]
) -> None:
    """And what its former name left goes when it is asked to."""
    (project.videos / "b.mp4").rename(project.videos / "z.mp4")
    told = project.framefeat("plan", "--configfile", "run.yaml").stdout
    assert "0 of 2 videos will be decoded" in told
    assert "1 of 2 videos has the content of another, whose results are taken over:\n  z: as b\n" in told
    assert "leaving the matrix: b" in told
    done = run(project, z="b")
    assert done.jobs == sorted([*MERGED, *jobs("z"), *ASSEMBLED])
    for rule, folder in (("sample_frames", "squash224"), ("extract_features", BACKBONE)):
        assert "z: as b, the same content: taken over\nworked on 0 of 1 videos, 0 rows\n" in log(
            project, rule, folder, "z"
        )
    fresh = new_folder({"a.mp4": "a.mp4", "z.mp4": "b.mp4"})
    fresh.run()
    assert outputs(project) == outputs(fresh)
    for path in ("evidence/squash224", f"{BACKBONE}/features"):
        stored = (project.results / path / "z.safetensors").read_bytes()
        assert stored == (fresh.results / path / "z.safetensors").read_bytes()
    assert project.framefeat("stale", "results/toy", "--delete").returncode == 0
    assert not list(project.results.rglob("b.safetensors"))
    assert run(project).jobs == []
    assert outputs(project) == outputs(fresh)


def test_a_copy_is_taken_over_and_the_first_keeps_its_own(
    project: Project, new_folder: Callable[[Mapping[str, str]], Project]
) -> None:
    kept = {path: path.read_bytes() for path in project.results.rglob("a.safetensors")}
    assert len(kept) == 2
    shutil.copy(project.videos / "a.mp4", project.videos / "again.mp4")
    assert run(project, again="a").jobs == sorted([*MERGED, *jobs("again"), *ASSEMBLED])
    assert {path: path.read_bytes() for path in kept} == kept
    fresh = new_folder({"a.mp4": "a.mp4", "again.mp4": "a.mp4", "z.mp4": "b.mp4"})
    fresh.run()
    assert outputs(project) == outputs(fresh)
    (project.videos / "again.mp4").unlink()
    assert run(project).of("sample_frames", "extract_features") == []


def test_a_file_in_another_folder_is_the_same_video(project: Project) -> None:
    before = outputs(project)
    (project.videos / "deeper").mkdir()
    (project.videos / "a.mp4").rename(project.videos / "deeper" / "a.mp4")
    assert run(project).jobs == [*MERGED, "report:toy"]
    assert outputs(project) == before


def test_both_at_once_and_a_second_backbone_decodes_once(project: Project) -> None:
    """What is new must be computed; what is known is not computed again."""
    (project.videos / "deeper" / "a.mp4").rename(project.videos / "c.mp4")
    project.config["backbones"] = [BACKBONE, "mobilenet_v3_small"]
    project.config["weights"] = {
        BACKBONE: project.config["weights"],
        "mobilenet_v3_small": str(small_weights(project.folder)),
    }
    foretold = plan(project)
    assert sorted(foretold["sample"]) == ["c", "z"]
    assert {folder: sorted(videos) for folder, videos in foretold["extract"].items()} == {
        BACKBONE: [],
        "mobilenet_v3_small": ["c", "z"],
    }
    assert foretold["taken_over"] == {"c": "a"}
    project.run()
    assert project.work().begun == ["c", "z"]
    assert project.work().embedded == {"mobilenet_v3_small": ["c", "z"]}
    assert "c: as a, the same content: taken over" in log(project, "extract_features", BACKBONE, "c")


def small_weights(folder: Path) -> Path:
    import torch
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(0)
    path = folder / "small.pth"
    torch.save(mobilenet_v3_small().state_dict(), path)
    return path
