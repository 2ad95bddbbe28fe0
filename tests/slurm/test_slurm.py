"""The real workflow through profiles/slurm on a real Slurm, held against what Slurm saw."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from tests.slurm.conftest import ClusterProject, embedders, twin
from tests.workflow.project import Project

OUTPUTS = ("toy_features.npy", "frame_index.parquet", "feature_manifest.json")


def digests(project: Project) -> dict[str, str]:
    folder = project.results / "mobilenet_v3_large"
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in OUTPUTS}


def test_the_profile_s_groups_and_the_same_bytes(
    new_project: Callable[..., ClusterProject], tmp_path: Path
) -> None:
    """Three videos: one sampling job on CPUs, one extraction job with one GPU and one embedder; a local run's bytes."""
    project = new_project(3)
    run = project.submit()
    print(run.output, {k: (v["StdOut"], v.get("TresPerJob"), v["TRES"]) for k, v in run.jobs.items()})
    assert all(job["JobState"] == "COMPLETED" and job["ExitCode"] == "0:0" for job in run.jobs.values())
    assert len(run.of("sampling")) == len(run.of("extraction")) == 1
    gpus = {number: job.get("TresPerJob") for number, job in run.jobs.items() if job.get("TresPerJob")}
    assert list(gpus.values()) == ["gres:gpu:1"]
    assert run.of("extraction")[0]["JobId"] in gpus
    assert len(run.jobs) == 5, "merge_index, sampling, extraction, assemble, report"
    assert project.embedder_loads() == 1
    assert project.node.idle(10)
    assert embedders() == []
    local = twin(project, tmp_path / "local")
    local.run()
    assert digests(local) == digests(project)
