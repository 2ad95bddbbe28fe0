"""The real workflow through profiles/slurm on a real Slurm, held against what Slurm saw."""

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.slurm.conftest import ClusterProject, ClusterRun, embedders, matrix, twin
from tests.workflow.project import Project

BACKBONE = "mobilenet_v3_large"
OUTPUTS = ("toy_features.npy", "frame_index.parquet", "feature_manifest.json")


def digests(project: Project) -> dict[str, str]:
    folder = project.results / BACKBONE
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in OUTPUTS}


def tell(title: str, project: ClusterProject, run: ClusterRun) -> None:
    """What Slurm saw, for whoever reads the log."""
    print(
        f"\n{title}: {len(run.jobs)} Slurm jobs, {project.embedder_loads()} embedder loads, {run.seconds:.0f} s"
    )
    for number, job in run.jobs.items():
        name = "/".join(job["StdOut"].partition("slurm_logs/")[2].split("/")[:-1])
        print(
            f"  {number:>4} {job['JobState']:<10} exit {job['ExitCode']:<5} {job['RunTime']} {job['TRES'].partition(',node')[0]:<18}"
            f" {job.get('TresPerJob', ''):<11} {name}"
        )


def gpus(job: Mapping[str, str]) -> str:
    return job.get("TresPerJob", "")


@pytest.fixture(scope="module")
def finished(new_project: Callable[..., ClusterProject]) -> tuple[ClusterProject, ClusterRun]:
    """Three videos, through the profile as it is."""
    project = new_project(3)
    run = project.submit()
    tell("the profile as it is", project, run)
    return project, run


def test_few_jobs_one_gpu_one_embedder(finished: tuple[ClusterProject, ClusterRun]) -> None:
    project, run = finished
    assert all(job["JobState"] == "COMPLETED" and job["ExitCode"] == "0:0" for job in run.jobs.values())
    assert len(run.jobs) == 5, "merge_index, sampling, extraction, assemble, report"
    (sampling,), (extraction,) = run.of("sampling"), run.of("extraction")
    assert [gpus(job) for job in run.jobs.values() if gpus(job)] == ["gres:gpu:1"]
    assert gpus(extraction) == "gres:gpu:1"
    # Three videos one after the other: what one needs, for three times as long.
    assert (sampling["TRES"].split(",")[:2], sampling["TimeLimit"]) == (["cpu=1", "mem=1500M"], "01:30:00")
    assert (extraction["TRES"].split(",")[:2], extraction["TimeLimit"]) == (
        ["cpu=2", "mem=6000M"],
        "00:30:00",
    )
    assert project.embedder_loads() == 1
    assert project.node.idle(10)
    assert embedders() == [], "an embedder is left on the node"


def test_same_bytes_as_on_one_machine(finished: tuple[ClusterProject, ClusterRun], tmp_path: Path) -> None:
    project, _ = finished
    local = twin(project, tmp_path / "local")
    local.run()
    assert digests(local) == digests(project)


def test_nothing_to_do_a_second_time(finished: tuple[ClusterProject, ClusterRun]) -> None:
    project, _ = finished
    run = project.submit()
    assert run.jobs == {}
    assert "Nothing to be done" in run.output


def test_decoding_beside_the_gpu_with_frames_on_the_node(
    finished: tuple[ClusterProject, ClusterRun], new_project: Callable[..., ClusterProject], tmp_path: Path
) -> None:
    """Sampling and extraction in one job: the frames lie in a folder of the node that nobody else ever sees."""
    project = new_project(3, name="nodelocal")
    project.results.mkdir(parents=True)
    (project.results / "frames").symlink_to(tmp_path / "scratch")
    (tmp_path / "scratch").mkdir()
    seen: list[Path] = []

    def watch(project: ClusterProject, process: object) -> None:
        while process.poll() is None and not seen:  # type: ignore[attr-defined]
            seen.extend((tmp_path / "scratch").rglob("*.npy"))
            time.sleep(0.05)

    run = project.submit(
        "--groups",
        "sample_frames=video",
        "extract_features=video",
        "--group-components",
        "video=12",
        meanwhile=watch,
    )
    tell("sampling and extraction in one job", project, run)
    (job,) = run.of("video")
    assert gpus(job) == "gres:gpu:1"
    assert seen, "no frame went through the node's folder"
    assert not list((tmp_path / "scratch").rglob("*.npy"))
    assert project.embedder_loads() == 1
    assert digests(project) == digests(finished[0])


def test_a_killed_job_is_sent_again(new_project: Callable[..., ClusterProject]) -> None:
    project = new_project(2, name="scancel")
    killed: list[str] = []

    def kill(project: ClusterProject, process: object) -> None:
        while process.poll() is None:  # type: ignore[attr-defined]
            jobs = [number for number, comment in project.node.running() if "extract_features" in comment]
            if jobs and embedders():
                project.node.ask("scancel", jobs[0])
                killed.append(jobs[0])
                return
            time.sleep(0.1)

    run = project.submit(meanwhile=kill)
    tell("scancel of the GPU job", project, run)
    (dead,) = killed
    first, second = sorted(run.of("extraction"), key=lambda job: int(job["JobId"]))
    assert (first["JobId"], first["JobState"]) == (dead, "CANCELLED")
    assert (second["JobState"], second["ExitCode"]) == ("COMPLETED", "0:0")
    assert "mem=6000M" in first["TRES"]
    assert "mem=12000M" in second["TRES"], "the second attempt has more memory"
    assert (first["TimeLimit"], second["TimeLimit"]) == ("00:20:00", "00:40:00")
    assert matrix(project).shape == (8, 960)
    assert np.isfinite(matrix(project)).all()
    assert project.node.idle(10)
    assert embedders() == []


def test_a_damaged_video_and_the_others(new_project: Callable[..., ClusterProject]) -> None:
    """The first run keeps what the damaged video's neighbours have; alone in their jobs, the others finish."""
    project = new_project(4, name="damaged")
    whole = (project.videos / "v01.mp4").read_bytes()
    (project.videos / "v01.mp4").write_bytes(whole[: len(whole) // 2])

    def names(folder: str) -> list[str]:
        return sorted(path.stem for path in (project.results / folder).glob("*.json"))

    run = project.submit("--retries", "0", check=False)
    tell("a damaged video among four", project, run)
    assert run.status != 0
    (sampling,) = run.of("sampling")
    assert (sampling["JobState"], sampling["ExitCode"]) == ("FAILED", "1:0")
    assert names("evidence/squash224") == ["v00", "v02", "v03"], (
        "a group goes on after a failure and keeps what it has"
    )
    assert "v01.mp4" in run.output

    run = project.submit(
        "--retries",
        "0",
        "--group-components",
        "sampling=1",
        "extraction=1",
        "--resources",
        "gpu=1",
        check=False,
    )
    tell("again, each video by itself, one GPU at a time", project, run)
    assert run.status != 0
    assert len(run.of("sampling")) == 1, "only the damaged video is decoded again"
    assert names(f"{BACKBONE}/features") == ["v00", "v02", "v03"]
    # Two GPUs are free on the node: the limit is the workflow's, and it is of the whole cluster.
    spans = sorted((job["StartTime"], job["EndTime"]) for job in run.of("extraction"))
    assert len(spans) == 3
    assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False)), spans

    shutil.copy(project.videos / "v00.mp4", project.videos / "v01.mp4")
    run = project.submit()
    tell("mended", project, run)
    assert len(run.of("sampling")) == len(run.of("extraction")) == 1
    assert matrix(project).shape == (16, 960)
