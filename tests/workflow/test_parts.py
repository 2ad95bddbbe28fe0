"""A collection too large for one graph of jobs: its parts one after the other, then the rest of it."""

from collections.abc import Callable

import numpy as np

from tests.workflow.project import Project

BACKBONE = "mobilenet_v3_large"


def jobs_of(*videos: str) -> list[str]:
    return [f"{rule}:{video}" for rule in ("extract_features", "sample_frames") for video in videos]


def test_parts_then_the_rest(new_project: Callable[..., Project]) -> None:
    project = new_project()
    first = project.run("results/toy/parts/1-of-2")
    assert sorted(first.jobs) == sorted(["merge_index:toy", *jobs_of("a", "c"), "part:1-of-2"])
    assert project.run("results/toy/parts/1-of-2").jobs == []
    assert sorted(project.run("results/toy/parts/2-of-2").jobs) == sorted([*jobs_of("b"), "part:2-of-2"])
    assert project.run().jobs == [f"assemble:{BACKBONE}", "report:toy"]
    whole = new_project()
    whole.run()
    made = [np.load(each.results / BACKBONE / "toy_features.npy") for each in (project, whole)]
    assert np.array_equal(*made)


def test_a_part_that_is_none(new_project: Callable[..., Project]) -> None:
    done = new_project().run("results/toy/parts/3-of-2", check=False)
    assert done.status != 0
    assert "no part 3 of 2" in done.output
