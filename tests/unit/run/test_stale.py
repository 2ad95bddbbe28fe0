"""What is left of videos and shards that are no more."""

from pathlib import Path

import pytest
from framefeat.errors import UserError
from framefeat.files import write_json
from framefeat.layout import ResultsFolder
from framefeat.run import stale

from tests.unit.shard_fixture import (
    GEOMETRY,
    backbone,
    record,
    store_evidence,
    store_features,
    store_frames,
    wanted,
    write_merge,
)


def run_of(results: ResultsFolder, shards: dict[str, str]) -> None:
    """All that a run leaves of these videos, of one letter each, by shard."""
    write_merge(results, {shard: [record(key) for key in keys] for shard, keys in shards.items()})
    for shard, keys in shards.items():
        for key in keys:
            store_evidence(results, wanted(), record(key))
            store_frames(results, key)
            store_features(results, backbone(), key)
        for path in (
            results.sampled(GEOMETRY, shard),
            results.frames_ready(GEOMETRY, shard),
            results.backbone("net").extracted(shard),
        ):
            write_json(path, {"rows": 2, "videos": dict.fromkeys(keys, "digest")})


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    results = ResultsFolder(tmp_path)
    run_of(results, {"shard+0of2": "ab", "shard+1of2": "c"})
    return results


def of_video(results: ResultsFolder, key: str) -> set[Path]:
    return {
        results.evidence(GEOMETRY, key),
        results.frames(GEOMETRY, key),
        results.recheck(GEOMETRY, key),
        results.backbone("net").features(key),
    }


def of_shard(results: ResultsFolder, shard: str) -> set[Path]:
    return {
        results.sampled(GEOMETRY, shard),
        results.frames_ready(GEOMETRY, shard),
        results.backbone("net").extracted(shard),
    }


def test_nothing_is_stale(results: ResultsFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert stale.find(results.root) == []
    stale.run(results.root, delete=True)
    assert capsys.readouterr().out == "nothing is stale\n"


def test_a_video_that_left_is_stale_and_its_shard_is_not(
    results: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    write_merge(results, {"shard+0of2": [record("a")], "shard+1of2": [record("c")]})
    found = stale.find(results.root)
    assert {file.path for file in found} == of_video(results, "b")
    assert {(file.kind, file.name) for file in found} == {("video", "b")}
    assert sum(file.size for file in found) == sum(file.path.stat().st_size for file in found) > 0
    stale.run(results.root, delete=False)
    assert "4 files of 1 video no longer in the index (" in capsys.readouterr().out
    assert all(file.path.is_file() for file in found)
    stale.run(results.root, delete=True)
    assert capsys.readouterr().out.splitlines()[-1].startswith("deleted 4 files")
    assert not any(file.path.exists() for file in found)
    assert all(path.is_file() for key in "ac" for path in of_video(results, key))
    assert all(path.is_file() for shard in results.shard_names() for path in of_shard(results, shard))


def test_shards_that_are_no_more_are_stale_and_their_videos_are_not(results: ResultsFolder) -> None:
    """As when the collection doubled."""
    write_merge(results, {"shard+0of4": [record("a"), record("b")], "shard+1of4": [record("c")]})
    found = stale.find(results.root)
    assert {file.path for file in found} == of_shard(results, "shard+0of2") | of_shard(results, "shard+1of2")
    assert {file.kind for file in found} == {"shard"}
    stale.run(results.root, delete=True)
    assert all(path.is_file() for key in "abc" for path in of_video(results, key))


def test_a_video_s_name_is_not_taken_for_a_shard_s(results: ResultsFolder) -> None:
    """A video that was a shard of its own, and is one of several now: its name is still known, as a video."""
    run_of(results, {"a": "a", "b": "b"})
    write_merge(results, {"shard+0of2": [record("a"), record("c")], "shard+1of2": [record("b")]})
    found = stale.find(results.root)
    assert {file.path for file in found} == of_shard(results, "a") | of_shard(results, "b")


def test_the_assembled_results_are_never_stale(results: ResultsFolder) -> None:
    files = [
        results.index,
        results.report,
        results.backbone("net").matrix("toy"),
        results.backbone("net").manifest,
    ]
    for path in files:
        path.touch()
    write_merge(results, {"z": [record("z")]})
    stale.run(results.root, delete=True)
    assert all(path.is_file() for path in files)
    assert results.shard("z").is_file()
    assert not list(results.files_of_videos())
    assert not list(results.files_of_shards())


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no shards"):
        stale.find(tmp_path)


def test_a_merge_that_did_not_end_tells_nothing(results: ResultsFolder) -> None:
    """Its videos are in some of the shards only, or its index is not there: what looks stale is not."""
    kept = results.shard("shard+1of2").read_bytes()
    results.shard("shard+1of2").unlink()
    with pytest.raises(UserError, match="did not end"):
        stale.run(results.root, delete=True)
    results.shard("shard+1of2").write_bytes(kept)
    assert stale.find(results.root) == []
    results.index.unlink()
    with pytest.raises(UserError, match="did not end"):
        stale.find(results.root)
    assert of_video(results, "c") <= {path for _, path in results.files_of_videos()}
