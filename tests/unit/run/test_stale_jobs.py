"""What removed videos and earlier shards left behind, logs and benchmarks too: listed, and deleted."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from framefeat.errors import UserError
from framefeat.files import write_json
from framefeat.layout import ResultsFolder, jobs_beside
from framefeat.run import stale


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Video ``a.b`` is a shard of its own; ``gone`` was one, and so was a bucket."""
    root = tmp_path / "results" / "toy"
    folder, jobs = ResultsFolder(root), jobs_beside(ResultsFolder(root))
    assert jobs is not None
    for shard in ("a.b", "gone", "shard+001of064"):
        touch(folder.sampled("squash224", shard), folder.backbone("net").extracted(shard))
        for path in (jobs.log, jobs.benchmark):
            touch(path("sample_frames", "squash224", shard), path("extract_features", "net", shard))
    for key in ("a.b", "gone"):
        touch(folder.evidence("squash224", key), folder.backbone("net").features(key))
    for rule in ("merge_index", "report"):
        touch(jobs.log(rule), jobs.benchmark(rule))
    touch(jobs.log("assemble", "net"), jobs.embedder_logs / "cpu.log")
    touch(tmp_path / "logs" / "other" / "sample_frames" / "squash224" / "gone.log")
    folder.shards.mkdir()
    write_json(folder.shard("a.b"), {"schema": 1, "videos": {"a.b": {"video_id": "a.b"}}})
    pq.write_table(pa.table({"video_id": ["a.b"]}), folder.index)
    return root


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_what_is_no_more_and_nothing_else(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    around = results.parents[1]
    before = files(around)
    left = {path for path in before if path.stem in ("gone", "shard+001of064") and "other" not in path.parts}
    assert len(left) == 2 * 2 + 2 * 4 + 2
    stale.run(results, delete=False)
    told = capsys.readouterr().out.splitlines()
    assert set(map(Path, told[:-1])) == left
    assert told[-1].startswith("14 files of 1 video no longer in the index and of 1 earlier shard (")
    assert files(around) == before
    stale.run(results, delete=True)
    assert files(around) == before - left
    capsys.readouterr()
    stale.run(results, delete=True)
    assert capsys.readouterr().out == "nothing is stale\n"


def test_from_within_the_folder(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the logs lie does not depend on how the folder is named."""
    named = {os.path.abspath(file.path) for file in stale.find(results)}
    for folder, name in ((results, "."), (results.parent, "toy"), (results.parents[1], "results/toy/")):
        monkeypatch.chdir(folder)
        assert {os.path.abspath(file.path) for file in stale.find(Path(name))} == named


def test_results_that_were_copied_elsewhere_have_no_jobs(results: Path) -> None:
    moved = results.rename(results.parents[1] / "copy")
    assert jobs_beside(ResultsFolder(moved)) is None
    assert all(moved in file.path.parents for file in stale.find(moved))
    assert len(stale.find(moved)) == 6


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no shards"):
        stale.find(tmp_path)
