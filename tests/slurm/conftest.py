"""One node for all tests here, and projects that run on it through profiles/slurm."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.models import live_mobilenet
from tests.slurm.node import Node, missing, running_node
from tests.workflow.collection import FEW, FPS
from tests.workflow.conftest import write_clip
from tests.workflow.project import ROOT, Project, environment

ENVIRONMENT = ROOT / ".venv-slurm" / "bin"
#: What this node needs beside the profile: it has no accounts and no accounting.
THIS_NODE = [
    "--slurm-no-account",
    "--slurm-status-command", "squeue",
    "--slurm-init-seconds-before-status-checks", "1",
    "--seconds-between-status-checks", "1",
    "--latency-wait", "10",
]  # fmt: skip


@dataclass(frozen=True)
class ClusterRun:
    """One Snakemake run on the node: what it printed, and what Slurm saw of it."""

    status: int
    output: str
    jobs: dict[str, dict[str, str]]
    seconds: float

    def of(self, name: str) -> list[dict[str, str]]:
        """The Slurm jobs of a rule or a group of rules, told by the name of their log's folder."""
        folder = re.compile(rf"/(rule|group)_{name}(_|/)")
        return [job for job in self.jobs.values() if folder.search(job["StdOut"])]


class ClusterProject(Project):
    def __init__(self, folder: Path, node: Node) -> None:
        super().__init__(folder)
        self.node = node

    def command(self, *arguments: str) -> list[str]:
        (self.folder / "run.yaml").write_text(yaml.safe_dump(self.config), encoding="utf-8")
        setpriv = shutil.which("setpriv")
        ends_with_us = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
        return [
            *ends_with_us, str(ENVIRONMENT / "snakemake"), "--profile", "profiles/slurm", "--configfile", "run.yaml", "--nocolor",
            *THIS_NODE, *arguments,
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(ENVIRONMENT), self.node.environment["PATH"]])
        return environment() | self.node.environment | {"PATH": path}

    def submit(
        self,
        *arguments: str,
        check: bool = True,
        meanwhile: Callable[["ClusterProject", object], None] | None = None,
    ) -> ClusterRun:
        """Run the workflow through the profile; ``meanwhile`` is called while it runs."""
        before = set(self.node.seen())
        began = time.monotonic()
        log = self.folder / "output.txt"
        with open(log, "w") as stream:
            process = subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder,
                env=self.environment(),
                stdout=stream,
                stderr=stream,
            )
        try:
            if meanwhile:
                meanwhile(self, process)
            process.wait(timeout=900)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        output = log.read_text(errors="replace")
        seconds = time.monotonic() - began
        jobs = {job: fields for job, fields in self.node.seen().items() if job not in before}
        if check:
            assert process.returncode == 0, output + self.slurm_logs()
        return ClusterRun(process.returncode, output, jobs, seconds)

    def slurm_logs(self) -> str:
        logs = sorted((self.folder / ".snakemake" / "slurm_logs").rglob("*.log"))
        return "\n".join(f"--- {path}\n{path.read_text(errors='replace')[-3000:]}" for path in logs[-5:])

    def embedder_loads(self) -> int:
        """How many embedders were started, by their own logs."""
        logs = (self.folder / "logs" / self.config["dataset"] / "embedder").glob("*.log")
        return sum(path.read_text().count(": ready for ") for path in logs)


def embedders() -> list[int]:
    """Ids of the embedder processes that are alive on this machine, of this user, started from the Slurm
    environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"framefeat.extract.server" in words and words[0].startswith(os.fsencode(ENVIRONMENT)):
            found.append(int(folder.name))
    return found


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    if missing():
        pytest.skip(f"no Slurm here: {', '.join(missing())} not installed (Debian: slurm-wlm and munge)")
    if not (ENVIRONMENT / "snakemake").exists():
        pytest.skip("no .venv-slurm here: make env-slurm")
    with running_node(cpus=8, memory_mb=64000, gpus=2) as running:
        yield running


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "live.pth"
    live_mobilenet(path)
    return path


def numbered(count: int) -> list[str]:
    return [f"v{number:02d}" for number in range(count)]


def make_project(folder: Path, node: Node, weights: Path, ids: Sequence[str]) -> ClusterProject:
    """Clips of 2.4 s with four rows each (2 fps), interleaved."""
    project = ClusterProject(folder, node)
    for number, video_id in enumerate(ids):
        write_clip(project.videos / f"{video_id}.mp4", seed=number)
    rows = pd.DataFrame(
        [{"video_id": video_id, "timestamp_sec": number / 2} for number in range(4) for video_id in ids]
    )
    project.write_index(
        rows, pd.DataFrame({"video_id": ids, "video_path": [f"{i}.mp4" for i in ids], "fps": FPS})
    )
    project.config |= {"weights": str(weights), "device": "auto"}
    return project


@pytest.fixture(scope="module")
def new_project(
    tmp_path_factory: pytest.TempPathFactory, node: Node, weights: Path
) -> Callable[..., ClusterProject]:
    def make(count: int = 3, name: str = "cluster") -> ClusterProject:
        return make_project(tmp_path_factory.mktemp(name) / "work", node, weights, numbered(count))

    return make


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory, node: Node, weights: Path) -> ClusterProject:
    """65 videos in four shards."""
    return make_project(tmp_path_factory.mktemp("collection") / "work", node, weights, FEW)


def twin(project: ClusterProject, folder: Path) -> Project:
    """The same inputs in a fresh folder, for a run on this machine alone."""
    other = Project(folder)
    shutil.rmtree(other.videos)
    other.videos.symlink_to(project.videos)
    for name in ("frames.csv", "videos.csv"):
        shutil.copy(project.folder / name, other.folder / name)
    other.config = dict(project.config)
    return other


def matrix(project: Project) -> np.ndarray:
    return np.load(project.results / "mobilenet_v3_large" / "toy_features.npy")
