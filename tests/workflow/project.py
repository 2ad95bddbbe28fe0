"""A working copy of the workflow in a fresh folder, and real Snakemake runs in it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
_JOB = re.compile(r"^Job \d+: (\w+) of (\S+)")


@dataclass(frozen=True)
class Run:
    """One finished Snakemake run: exit status, everything it printed, and the jobs that it started."""

    status: int
    output: str
    jobs: list[str]

    def of(self, *rules: str) -> list[str]:
        """The started jobs of these rules, sorted: ``rule`` or ``rule:video``."""
        return sorted(job for job in self.jobs if job.split(":")[0] in rules)


class Project:
    """``videos`` and ``index`` are the inputs that a test edits between runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("Snakefile", "workflow", "profiles", "envs"):
            (folder / name).symlink_to(ROOT / name)
        shutil.copytree(ROOT / "config", folder / "config")
        self.videos = folder / "videos"
        self.videos.mkdir()
        self.config: dict[str, Any] = {
            "dataset": "toy",
            "frame_index": "frames.csv",
            "video_index": "videos.csv",
            "video_root": "videos",
            "device": "cpu",
        }

    # --- inputs
    def write_index(self, rows: pd.DataFrame, videos: pd.DataFrame) -> None:
        rows.to_csv(self.folder / "frames.csv", index=False)
        videos.to_csv(self.folder / "videos.csv", index=False)

    def rows(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "frames.csv", dtype={"video_id": str}, keep_default_na=False)

    def video_table(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "videos.csv", dtype={"video_id": str}, keep_default_na=False)

    # --- runs
    def run(
        self, *arguments: str, cores: int = 2, check: bool = True, env: Mapping[str, str] | None = None
    ) -> Run:
        (self.folder / "run.yaml").write_text(yaml.safe_dump(self.config), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", str(cores), "--resources", "gpu=1", "--configfile",
             "run.yaml", "--nocolor", *arguments],
            cwd=self.folder, env=environment() | dict(env or {}), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=600, check=False,
        )  # fmt: skip
        result = Run(done.returncode, done.stdout, started_jobs(done.stdout))
        if check:
            assert result.status == 0, result.output
        return result

    def framefeat(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "run.yaml").write_text(yaml.safe_dump(self.config), encoding="utf-8")
        return subprocess.run(
            [sys.executable, "-m", "framefeat.cli", *arguments], cwd=self.folder, env=environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200, check=False,
        )  # fmt: skip

    @property
    def results(self) -> Path:
        return self.folder / "results" / self.config["dataset"]


def environment() -> dict[str, str]:
    """The environment's own commands first; nothing of a surrounding run."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("FRAMEFEAT_", "SNAKEMAKE_"))
    }
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "CI": "true",
    }


def python_own_thresholds() -> list[int]:
    """Those of the garbage collection in a new process; this one's may have been set by a subcommand run in it."""
    asked = [sys.executable, "-c", "import gc; print(*gc.get_threshold())"]
    return [int(word) for word in subprocess.check_output(asked, text=True).split()]


def started_jobs(output: str) -> list[str]:
    """``rule:what`` of each job that Snakemake announced (the rules' messages are ``rule of what``)."""
    jobs: list[str] = []
    for line in output.splitlines():
        if found := _JOB.match(line):
            jobs.append(f"{found[1]}:{found[2]}")
    return jobs
