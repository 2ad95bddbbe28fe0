"""Broken clips of many codecs through folder input and sampling: each row right, or marked, or the video a finding.

Right is what a plain decode in order of the same broken file gives.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from framefeat.proof.plain_decode import plain_decode
from framefeat.proof.truth import Truth, decoded_truth, wrong_rows
from framefeat.sample.child import ChildLost, Line, run_in_child

from tests import folder
from tests.fuzz import mutations

_SECONDS = 30.0


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What folder input makes of all broken clips together: none of them may stop the others."""
    first, count = (request.config.getoption(f"--{name}") for name in ("mutation-seed", "mutations"))
    sources = tmp_path_factory.mktemp("whole")
    broken = tmp_path_factory.mktemp("broken")
    for seed in range(first, first + count):
        mutations.broken(seed, mutations.source(seed, sources), broken)
    records = folder.records_of(broken, tmp_path_factory.mktemp("merged"), sample_fps=5.0)
    return {name.split("-")[0]: record for name, record in records.items()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_broken_clip_is_right_or_marked_or_a_finding(
    videos: dict[str, Any], seed: int, tmp_path: Path
) -> None:
    record = videos.get(f"{seed:04}")
    if record is None:
        return  # folder input left it out, and said so
    evidence, frames = folder.sample(
        record, tmp_path, decoder=("auto", "pyav")[seed % 3 == 0], timeout=_SECONDS
    )
    status = evidence["rows"]["status"]
    assert len(status) == len(frames) == len(record["timestamps"])
    if "bad" in status:
        assert evidence["problems"]
    assert "Traceback" not in " ".join([*evidence["problems"], *evidence["warnings"]])
    for row, what in enumerate(status):
        assert what != "bad" or not frames[row].any()
    if evidence.get("doubts") or set(status) == {"bad"}:
        return
    truth = reference_of(record, tmp_path)
    if truth is None:
        return  # the plain decode itself crashes: there is nothing to compare with
    expected = truth.expected(record["timestamps"], "index") if truth.times else [None] * len(status)
    assert wrong_rows(truth, record.get("alignment", "index"), expected, evidence, frames) == {}


def reference_of(record: dict[str, Any], scratch: Path) -> Truth | None:
    """A plain decode, in a process of its own: a broken file may take its decoder with it."""
    try:
        told = run_in_child(partial(_decode, Path(record["path"]), scratch), _SECONDS)
    except ChildLost:
        return None
    if not told["frames"]:
        return Truth(record["fps"], [], None, np.zeros((0, 96, 96, 3), dtype=np.uint8), complete=False)
    truth = decoded_truth(Path(record["path"]), scratch)
    return replace(truth, fps=record["fps"], trusted=False)


def _decode(path: Path, scratch: Path, line: Line) -> dict[str, int]:
    return {"frames": len(plain_decode(path, scratch).times)}
