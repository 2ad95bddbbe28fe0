"""The real workflow through profiles/slurm on a real Slurm, held against what Slurm saw."""

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.slurm.conftest import ClusterProject, ClusterRun, embedders, matrix, twin
from tests.workflow.collection import BUCKETS, FEW
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
def finished(collection: ClusterProject) -> tuple[ClusterProject, ClusterRun]:
    """Through the profile as it is."""
    run = collection.submit()
    tell("the profile as it is", collection, run)
    return collection, run


def test_a_job_is_a_shard_with_one_gpu_and_one_embedder(finished: tuple[ClusterProject, ClusterRun]) -> None:
    project, run = finished
    assert all(job["JobState"] == "COMPLETED" and job["ExitCode"] == "0:0" for job in run.jobs.values())
    sampling, extraction = run.of("sample_frames"), run.of("extract_features")
    assert len(sampling) == len(extraction) == len(BUCKETS)
    assert len(run.jobs) == 2 * len(BUCKETS) + 3, "and merge_index, assemble, report"
    assert project.work().sampled == sorted(FEW)
    assert [gpus(job) for job in run.jobs.values() if gpus(job)] == ["gres:gpu:1"] * len(BUCKETS)
    for job in sampling:
        assert (job["TRES"].split(",")[:2], job["TimeLimit"]) == (["cpu=1", "mem=1500M"], "00:30:00")
    for job in extraction:
        assert gpus(job) == "gres:gpu:1"
        assert (job["TRES"].split(",")[:2], job["TimeLimit"]) == (["cpu=2", "mem=6000M"], "00:10:00")
    assert project.embedder_loads() == len(BUCKETS)
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


def test_forced_jobs_decode_again(finished: tuple[ClusterProject, ClusterRun]) -> None:
    """The Snakemake of a job is not told that it is forced: the job is."""
    project, _ = finished
    before = digests(project)
    project.forget_logs()
    run = project.submit("--forcerun", "sample_frames")
    assert len(run.of("sample_frames")) == len(BUCKETS)
    assert project.work().sampled == sorted(FEW)
    assert project.work().embedded == {}
    assert digests(project) == before


def test_decoding_beside_the_gpu_with_frames_on_the_node(
    new_project: Callable[..., ClusterProject], tmp_path: Path
) -> None:
    """Sampling and extraction in one job: the frames lie in a folder of the node that nobody else ever sees."""
    project = new_project(2, name="nodelocal")
    project.results.mkdir(parents=True)
    (project.results / "frames").symlink_to(tmp_path / "scratch")
    (tmp_path / "scratch").mkdir()
    seen: list[Path] = []

    def watch(project: ClusterProject, process: object) -> None:
        while process.poll() is None and not seen:  # type: ignore[attr-defined]
            seen.extend((tmp_path / "scratch").rglob("*.npy"))
            time.sleep(0.05)

    run = project.submit("--groups", "sample_frames=both", "extract_features=both", meanwhile=watch)
    tell("sampling and extraction in one job", project, run)
    jobs = run.of("both")
    assert [gpus(job) for job in jobs] == ["gres:gpu:1"] * 2
    assert len(run.jobs) == 5
    assert seen, "no frame went through the node's folder"
    assert not list((tmp_path / "scratch").rglob("*.npy"))
    local = twin(project, tmp_path / "local")
    local.run()
    assert digests(local) == digests(project)


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
    jobs = sorted(run.of("extract_features"), key=lambda job: int(job["JobId"]))
    assert len(jobs) == 3, "one for each of the two videos, and another try"
    (first,) = [job for job in jobs if job["JobId"] == dead]
    second = jobs[-1]
    assert first["JobState"] == "CANCELLED"
    assert (second["JobState"], second["ExitCode"]) == ("COMPLETED", "0:0")
    assert "mem=6000M" in first["TRES"]
    assert "mem=12000M" in second["TRES"], "the second attempt has more memory"
    assert (first["TimeLimit"], second["TimeLimit"]) == ("00:10:00", "00:20:00")
    assert matrix(project).shape == (8, 960)
    assert np.isfinite(matrix(project)).all()
    assert project.node.idle(10)
    assert embedders() == []


def test_a_damaged_video_and_one_gpu_at_a_time(new_project: Callable[..., ClusterProject]) -> None:
    """Damage fails no job of a video; and two GPUs are free on the node, but the limit is the workflow's."""
    project = new_project(3, name="damaged")
    whole = (project.videos / "v01.mp4").read_bytes()
    (project.videos / "v01.mp4").write_bytes(b"\0" * 1000)
    run = project.submit("--retries", "0", "--resources", "gpu=1", check=False)
    tell("a damaged video among three, one GPU at a time", project, run)
    assert run.status != 0
    sampling, extraction, assembly = (
        run.of(rule) for rule in ("sample_frames", "extract_features", "assemble")
    )
    assert [job["JobState"] for job in (*sampling, *extraction)] == ["COMPLETED"] * 6
    assert [(job["JobState"], job["ExitCode"]) for job in assembly] == [("FAILED", "1:0")]
    assert "v01.mp4" in run.output
    spans = sorted((job["StartTime"], job["EndTime"]) for job in extraction)
    assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False)), spans

    (project.videos / "v01.mp4").write_bytes(whole)
    project.forget_logs()
    run = project.submit()
    tell("mended", project, run)
    assert len(run.of("sample_frames")) == len(run.of("extract_features")) == 1
    assert project.work().sampled == ["v01"]
    assert np.isfinite(matrix(project)).all()
