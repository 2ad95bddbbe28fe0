"""The files of shards, read back and checked."""

from pathlib import Path

import pytest
from framefeat import shard_files
from framefeat.errors import UserError
from framefeat.files import write_json
from framefeat.layout import ResultsFolder
from framefeat.shard_files import Merged, Work

from tests.unit.shard_fixture import (
    GEOMETRY,
    backbone,
    record,
    store_evidence,
    store_features,
    wanted,
    write_merge,
)

AGAIN = "--forcerun merge_index"


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    """Three videos in two shards."""
    results = ResultsFolder(tmp_path)
    write_merge(results, {"shard+0of2": [record("d"), record("a")], "shard+1of2": [record("c")]})
    return results


def test_merged(results: ResultsFolder) -> None:
    merged = Merged(results)
    assert list(merged.slices) == ["a", "c", "d"]
    assert merged.shard_of == {"a": "shard+0of2", "d": "shard+0of2", "c": "shard+1of2"}
    assert [merged.record(key)["video_id"] for key in ("a", "c", "d", "a")] == ["a", "c", "d", "a"]
    assert merged.record("a")["timestamps"] == [0.0, 0.2]
    with pytest.raises(UserError, match=f"videos' knows no video 'b'; .*{AGAIN}"):
        merged.record("b")
    assert Merged(ResultsFolder(results.root / "none")).slices == {}


def test_neighbours_are_read_once(results: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    read, shards = shard_files.read_records, []

    def noted(results: ResultsFolder, shard: str) -> object:
        shards.append(shard)
        return read(results, shard)

    monkeypatch.setattr(shard_files, "read_records", noted)
    merged = Merged(results)
    for key in "addca":
        merged.record(key)
    assert shards == ["shard+0of2", "shard+1of2", "shard+0of2"]


def test_records_of_another_merge_are_refused(results: ResultsFolder) -> None:
    path = results.videos_of("shard+0of2")
    records = {key: record(key) for key in "ad"}
    for wrong in (
        {**records, "d": {**records["d"], "fps": 25.0}},
        {"a": records["a"]},
        {**records, "e": record("e")},
    ):
        write_json(path, wrong)
        differing = "e" if "e" in wrong else "d"
        with pytest.raises(UserError, match=f"differ in {differing}: they are not of one merge; .*{AGAIN}"):
            shard_files.read_records(results, "shard+0of2")
    write_json(path, {**records, "d": {**records["d"], "path": "moved.mp4"}})
    assert shard_files.read_records(results, "shard+0of2")["d"]["path"] == "moved.mp4"


@pytest.mark.parametrize("kind", ["shards", "videos"])
@pytest.mark.parametrize("content", [None, "", "{", "[]", "3"])
def test_a_file_that_is_gone_or_broken(results: ResultsFolder, kind: str, content: str | None) -> None:
    path = results.root / kind / "shard+1of2.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    words = "is gone" if content is None else "is not what a merge writes"
    with pytest.raises(UserError, match=rf"{kind}/shard\+1of2.json' {words}; .*{AGAIN}"):
        shard_files.read_records(results, "shard+1of2")


def promises(results: ResultsFolder) -> list[Path]:
    """Everything is there, and it is told so, of both shards."""
    made = []
    for shard, keys in (("shard+0of2", "ad"), ("shard+1of2", "c")):
        for key in keys:
            store_evidence(results, wanted(), Merged(results).slices[key])
            store_features(results, backbone(), key)
        for path in (results.sampled(GEOMETRY, shard), results.backbone("net").extracted(shard)):
            write_json(path, {"rows": 2, "videos": dict.fromkeys(keys, "digest")})
            made.append(path)
    return made


def test_promises_that_hold_stay(results: ResultsFolder) -> None:
    made = promises(results)
    write_json(results.frames_ready(GEOMETRY, "shard+0of2"), {"videos": 2})
    shard_files.drop_empty_promises(results)
    assert all(path.is_file() for path in (*made, results.frames_ready(GEOMETRY, "shard+0of2")))
    shard_files.drop_empty_promises(ResultsFolder(results.root / "none"))


def test_a_promise_goes_with_a_file_of_one_of_its_videos(results: ResultsFolder) -> None:
    sampled, extracted, *others = promises(results)
    results.backbone("net").features("d").unlink()
    shard_files.drop_empty_promises(results)
    assert [path.is_file() for path in (sampled, extracted)] == [True, False]
    results.evidence(GEOMETRY, "a").unlink()
    shard_files.drop_empty_promises(results)
    assert not sampled.is_file()
    assert all(path.is_file() for path in others)


def test_a_promise_goes_with_the_whole_folder(results: ResultsFolder) -> None:
    made = promises(results)
    results.evidence(GEOMETRY, "a").parent.rename(results.root / "evidence" / "moved")
    shard_files.drop_empty_promises(results)
    assert [path.is_file() for path in made] == [False, True, False, True]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"videos": 3}', '{"rows": 1}'])
def test_a_promise_that_cannot_be_read_goes(results: ResultsFolder, content: str) -> None:
    first, *others = promises(results)
    first.write_text(content)
    shard_files.drop_empty_promises(results)
    assert not first.is_file()
    assert all(path.is_file() for path in others)


def test_the_work_that_a_log_tells(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert shard_files.work_in(log) is None
    log.write_bytes(b"caf\xe9: worked on 1 of 1 videos, 1 rows\n")
    assert shard_files.work_in(log) is None
    log.write_text(f"--- a: new\n{Work(1, 3, 10)}\n--- b: new\n{Work(2, 3, 25)}\nmore\n")
    assert shard_files.work_in(log) == Work(2, 3, 25)
