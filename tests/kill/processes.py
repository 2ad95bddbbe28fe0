"""The processes of a Snakemake run, seen from outside."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml

from tests.workflow.project import Project, environment

STAGES = ("merge", "sample", "extract", "assemble", "report", "fetch-weights")


def start(project: Project, *arguments: str, log: str = "background.log") -> subprocess.Popen[bytes]:
    """What ``project.run`` runs, in the background and in a session of its own; its output goes to ``log``."""
    (project.folder / "run.yaml").write_text(yaml.safe_dump(project.config), encoding="utf-8")
    with open(project.folder / log, "wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", "--cores", "2", "--resources", "gpu=1", "--configfile", "run.yaml",
             "--nocolor", *arguments],
            cwd=project.folder, env=environment(), stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def stage(process: psutil.Process) -> str | None:
    """``sample`` and the like for a job's own process, else None (the shell around it does not count)."""
    words = command(process)
    for place, word in enumerate(words[:3]):
        if Path(word).name == "framefeat" and place + 1 < len(words) and words[place + 1] in STAGES:
            return words[place + 1]
    return None


def jobs(pid: int) -> dict[psutil.Process, str]:
    """The job processes below Snakemake ``pid``; a fork of one counts as that stage too."""
    return {process: name for process in descendants(pid) if (name := stage(process))}


def samplers(pid: int) -> list[psutil.Process]:
    """The sample jobs' own processes."""
    found = [process for process, name in jobs(pid).items() if name == "sample"]
    return [process for process in found if _parent(process) not in found]


def decoders(pid: int) -> list[psutil.Process]:
    """The processes that sample jobs have forked to decode."""
    found = [process for process, name in jobs(pid).items() if name == "sample"]
    return [process for process in found if _parent(process) in found]


def embedders(pid: int) -> list[psutil.Process]:
    """The embedders whose owner is Snakemake ``pid``; they are in sessions of their own."""
    found = []
    for process in psutil.process_iter():
        words = command(process)
        if "framefeat.extract.server" in words and words[-1].startswith(f"{pid}:"):
            found.append(process)
    return found


def _parent(process: psutil.Process) -> psutil.Process | None:
    try:
        return process.parent()
    except psutil.Error:
        return None


def left_in(folder: Path, patience: float = 15.0) -> list[str]:
    """Commands of processes that still have ``folder`` as their working folder after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while True:
        left = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()) == folder and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(" ".join(process.cmdline())[:200])
            except (psutil.Error, OSError):
                continue
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.2)
