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
_BEGUN = re.compile(r"^--- (.+?): (.+)$", re.MULTILINE)
_SAMPLED = re.compile(r"^(.+): \d+ rows by ", re.MULTILINE)
_EMBEDDED = re.compile(r"^(.+): \d+ rows on ", re.MULTILINE)


@dataclass(frozen=True)
class Decoded:
    """A video that a job began to decode, and why; ``done``: whether its evidence was written."""

    video: str
    reasons: str
    done: bool


@dataclass(frozen=True)
class Work:
    """What the logs say was done for each video, in the order of the logs: ``embedded`` by backbone folder."""

    decoded: list[Decoded]
    embedded: dict[str, list[str]]

    @property
    def begun(self) -> list[str]:
        """The videos that were decoded, or begun to be, sorted."""
        return sorted(one.video for one in self.decoded)

    @property
    def sampled(self) -> list[str]:
        """The videos that were decoded to their end, sorted."""
        return sorted(one.video for one in self.decoded if one.done)


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

    def forget_logs(self) -> None:
        """So that ``work`` tells of the next run alone."""
        shutil.rmtree(self.folder / "logs", ignore_errors=True)

    def work(self) -> Work:
        """What the logs say was done for each video since they were forgotten."""
        logs = self.folder / "logs" / self.config["dataset"]
        decoded: list[Decoded] = []
        embedded: dict[str, list[str]] = {}
        # An extraction samples, too, where frames are gone that it needs.
        for path in sorted([*logs.glob("sample_frames/*/*.log"), *logs.glob("extract_features/*/*.log")]):
            text = path.read_text(encoding="utf-8", errors="replace")
            done = _SAMPLED.findall(text)
            decoded += [Decoded(video, reasons, video in done) for video, reasons in _BEGUN.findall(text)]
            if path.parent.parent.name == "extract_features":
                embedded.setdefault(path.parent.name, []).extend(_EMBEDDED.findall(text))
        return Work(decoded, {folder: sorted(videos) for folder, videos in embedded.items() if videos})

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


def started_jobs(output: str) -> list[str]:
    """``rule:what`` of each job that Snakemake announced (the rules' messages are ``rule of what``)."""
    jobs: list[str] = []
    for line in output.splitlines():
        if found := _JOB.match(line):
            jobs.append(f"{found[1]}:{found[2]}")
    return jobs
