"""A run that is ended from outside: the last lines say how far it is, and not that jobs failed."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
import yaml

from tests.workflow.project import Project, environment


@pytest.mark.parametrize(
    ("sent", "ended"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "stopped")], ids=["ctrl-c", "kill"]
)
def test_it_says_how_far_the_run_is(
    new_project: Callable[..., Project], sent: signal.Signals, ended: str
) -> None:
    project = new_project(name=ended)
    (project.folder / "run.yaml").write_text(yaml.safe_dump(project.config), encoding="utf-8")
    command = ["--cores", "1", "--resources", "gpu=1", "--configfile", "run.yaml", "--nocolor"]
    said = []
    with subprocess.Popen(
        [sys.executable, "-m", "snakemake", *command], cwd=project.folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        # A shell's background job, which these tests may run in, ignores it, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        finished = False
        for line in process.stdout:
            said.append(line)
            finished = finished or "(Rule: extract_features)" in line
            if finished and "of merge_index" not in line and re.match(r"Job \d+: (sample|extract)_f", line):
                # As a terminal does: the jobs get it, too.
                os.killpg(process.pid, sent)
                finished = False
    output = "".join(said)
    assert process.returncode != 0, output
    assert re.search(
        ended + r", [12] of 3 videos done; the same command goes on:\n  snakemake --cores 1", output
    ), output
    # Of jobs that were killed with it Snakemake may say that they failed.
    failures = ("Error in rule", "RuleException", "failed") if sent == signal.SIGINT else ()
    for word in (*failures, "Traceback"):
        assert word not in output, output
    assert project.run().status == 0
