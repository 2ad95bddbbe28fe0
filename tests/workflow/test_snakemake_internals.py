"""What ``rules/snakemake_internals.smk`` relies on: each internal is still there, is still needed, and is put in place.

A failure after an update of Snakemake says which workaround to look at again.
"""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.checkpoints import Checkpoint
from snakemake.cli import parse_args
from snakemake.io import contains_wildcard, flag
from snakemake.modules import WorkflowModifier
from snakemake.path_modifier import PATH_MODIFIER_FLAG, PathModifier
from snakemake.persistence import PersistenceBase
from snakemake.rules import Rule
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.settings.types import DAGSettings, DeploymentMethod, SchedulingSettings, StorageSettings
from snakemake.workflow import Workflow

from tests.workflow.project import ROOT, Project, environment

#: A workflow around ours that prints what became of Snakemake once ours was read, and once a run of it is done.
PROBE = """
import json
include: {snakefile!r}
print("READ", json.dumps(dict(gpu=workflow.global_resources["gpu"].value, cores=given_resource("_cores"),
    nodes=given_resource("_nodes"), here=RUNS_JOBS_HERE)))
limit = lambda: workflow.scheduling_settings and repr(workflow.scheduling_settings.max_jobs_per_timespan)
onsuccess:
    print("DONE", json.dumps(dict(limit=limit())))
"""
#: A conda of a few lines: it answers what Snakemake asks, and activating an environment is told in a file.
CONDA = """#!/bin/sh
case "$*" in
  --version) echo "conda 24.9.0";;
  info*) echo '{{"conda_prefix": "{prefix}", "platform": "linux-64"}}';;
  config*) echo '{{"get": {{"channel_priority": "strict"}}}}';;
  *export*) echo 'name: stub';;
esac
"""


def test_the_default_rate_limit_still_sets_a_timer_for_each_look() -> None:
    default = parse_args([])[1].max_jobs_per_timespan
    assert (default.max_jobs, default.timespan) == (100, 1)
    assert "max_jobs_per_timespan" in {field.name for field in fields(SchedulingSettings)}
    scheduler: Any = SimpleNamespace(_open_jobs=threading.Semaphore(0))
    for _ in range(3):
        JobScheduler._schedule_reevalutation(scheduler, 1)
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    for timer in timers:
        timer.cancel()
    assert len(timers) == 3, "looks share a timer now: is clearing the limit still needed?"


def test_quiet_still_keeps_the_scheduler_from_telling_what_is_finished() -> None:
    """The line under a run takes PROGRESS out of the set that the scheduler asks."""
    source = inspect.getsource(JobScheduler.__init__)
    assert "Quietness.PROGRESS not in self.quiet" in source, "is the set asked elsewhere, or not any more?"
    assert isinstance(parse_args(["--quiet"])[1].quiet, set)


def test_what_else_is_reached_for_is_there() -> None:
    assert {"forceall", "forcerun"} <= {field.name for field in fields(DAGSettings)}
    assert callable(PersistenceBase.cleanup_metadata)
    assert "overwrite_workdir" in {field.name for field in fields(Workflow)}
    assert contains_wildcard("a{b}")
    assert not contains_wildcard("ab")
    assert DeploymentMethod.CONDA
    # Whether this workflow is a module, and where Snakemake moves a module's files.
    assert WorkflowModifier.is_main_snakefile(SimpleNamespace(base_snakefile=None))  # type: ignore[arg-type]
    modifier = PathModifier(None, "sub", workflow=SimpleNamespace(storage_settings=StorageSettings()))
    assert modifier.replace_prefix("a") == "sub/a"
    assert modifier.modify(flag("a", PATH_MODIFIER_FLAG)) == "a"
    assert Rule.is_producer
    assert Checkpoint(None, None).get
    assert WorkflowModifier.modify_rulename


def test_the_versions_allowed_are_those_looked_at() -> None:
    import tomllib

    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (bounds,) = [line for line in asked if line.startswith("snakemake>")]
    lowest = re.findall(r'min_version\("(.+)"\)', (ROOT / "workflow/rules/workflow.smk").read_text())
    assert bounds == f"snakemake>={lowest[0]},<10"


@pytest.fixture(scope="module")
def project(new_project: Callable[..., Project]) -> Project:
    return new_project(("a",))


def snakemake(project: Project, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    (project.folder / "run.json").write_text(json.dumps(project.config))
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", "--nocolor", *arguments, "--configfile", "run.json"],
        cwd=project.folder, env=environment() | more, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=200, check=False,
    )  # fmt: skip


def test_each_is_put_in_place(project: Project) -> None:
    (project.folder / "probe.smk").write_text(PROBE.format(snakefile=str(project.folder / "Snakefile")))
    done = snakemake(project, "-s", "probe.smk", "results/toy/index.parquet")
    assert done.returncode == 0, done.stdout
    read, end = (json.loads(re.findall(rf"^{word} (.+)$", done.stdout, re.M)[0]) for word in ("READ", "DONE"))
    assert read == {"gpu": 1, "cores": 2, "nodes": None, "here": True}
    assert end == {"limit": "None"}


def test_forced_jobs_decode_again(project: Project) -> None:
    """Jobs do what a video needs, which is nothing once it is done: that they are forced, the rules must tell them."""
    project.run()
    stored = {path: path.read_bytes() for path in project.results.glob("*/*/a.safetensors")}
    assert len(stored) == 2, "the evidence and the features of the one video"
    for arguments, decoded in (
        (["--forcerun", "sample_frames"], ["a: asked for again"]),
        (["--forceall"], ["a: asked for again"]),
        (["--forcerun", "merge_index"], []),
        (["--forcerun", "extract_features"], ["a: asked for again"]),  # to embed takes frames
    ):
        project.forget_logs()
        done = project.run(*arguments)
        assert [f"{one.video}: {one.reasons}" for one in project.work().decoded] == decoded, arguments
        embedded = ["a"] if arguments[-1] in ("--forceall", "extract_features") else []
        assert [video for videos in project.work().embedded.values() for video in videos] == embedded, (
            arguments
        )
        assert bool(done.of("sample_frames")) == (arguments != ["--forcerun", "merge_index"])
        assert {path: path.read_bytes() for path in stored} == stored


def test_with_conda_jobs_run_in_the_environment_of_snakemake(project: Project, tmp_path: Path) -> None:
    """A stand-in for a conda environment: a folder beside this one's, and a conda that knows what Snakemake asks."""
    refused = snakemake(project, "--sdm", "conda", "-n")
    assert refused.returncode != 0
    assert "which is no conda environment. Leave the option out" in refused.stdout

    prefix = tmp_path / "conda"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "conda").write_text(CONDA.format(prefix=prefix))
    (prefix / "bin" / "activate").write_text(f'echo "$1" >> {tmp_path}/activated\n')
    for file in (prefix / "bin").iterdir():
        file.chmod(0o755)
    here = tmp_path / "environment"
    (here / "conda-meta").mkdir(parents=True)
    wrapper = f"import sys; sys.prefix = {str(here)!r}\ninclude: {str(project.folder / 'Snakefile')!r}\n"
    (project.folder / "conda.smk").write_text(wrapper)
    shutil.rmtree(project.results, ignore_errors=True)
    done = snakemake(
        project, "results/toy/index.parquet", "-s", "conda.smk", "--sdm", "conda",
        PATH=os.pathsep.join([str(prefix / "bin"), environment()["PATH"]]),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "activated").read_text().split() == [str(here)]


def test_as_a_module_of_another_workflow(project: Project) -> None:
    (project.folder / "outer.smk").write_text(
        f"module frames:\n    snakefile: {str(project.folder / 'Snakefile')!r}\n    config: config\n"
        "use rule * from frames\n"
    )
    done = snakemake(project, "-s", "outer.smk", "-n", "--forceall")
    assert done.returncode == 0, done.stdout
    assert "merge_index of toy" in done.stdout
