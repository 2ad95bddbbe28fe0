"""Two runs at once: in one working folder the second is refused, in two folders both finish, each with its own
embedder."""

import re
import time
from collections.abc import Callable

from tests.kill import processes
from tests.workflow.project import Project

BACKBONE = "mobilenet_v3_large"


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def is_locked(project: Project) -> bool:
    return any((project.folder / ".snakemake" / "locks").glob("*.lock"))


def embedder_owners(project: Project) -> set[str]:
    """The processes that the project's embedders say they serve."""
    logs = (project.folder / "logs" / "toy" / "embedder").glob("*.log")
    return {owner for log in logs for owner in re.findall(r"ready for (\d+):", log.read_text())}


def matrix(project: Project) -> bytes:
    return (project.results / BACKBONE / "toy_features.npy").read_bytes()


def test_second_run_in_one_folder_is_refused(new_project: Callable[..., Project]) -> None:
    project = new_project(name="one")
    first = processes.start(project)
    wait_for(lambda: is_locked(project) or first.poll() is not None)
    second = project.run(check=False)
    assert second.status != 0
    assert "cannot be locked" in second.output
    assert second.jobs == []
    assert first.wait(timeout=300) == 0, (project.folder / "background.log").read_text()
    assert not is_locked(project)
    assert embedder_owners(project) == {str(first.pid)}
    again = project.run()
    assert "Nothing to be done" in again.output
    assert processes.left_in(project.folder) == []


def test_two_folders_at_once(new_project: Callable[..., Project]) -> None:
    projects = [new_project(name=name) for name in ("left", "right")]
    runs = [processes.start(project) for project in projects]
    for project, run in zip(projects, runs, strict=True):
        assert run.wait(timeout=300) == 0, (project.folder / "background.log").read_text()
    for project, run in zip(projects, runs, strict=True):
        assert embedder_owners(project) == {str(run.pid)}, "an embedder was shared"
        assert processes.left_in(project.folder) == []
    assert matrix(projects[0]) == matrix(projects[1])
