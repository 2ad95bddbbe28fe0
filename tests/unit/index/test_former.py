"""Which videos were here under another name, as the merge finds it."""

from pathlib import Path
from typing import Any

import pytest
from framefeat import stored
from framefeat.files import write_json
from framefeat.identity import evidence_digest
from framefeat.index import former
from framefeat.layout import ResultsFolder
from framefeat.records import VideoRecord
from framefeat.shard_files import read_former

from tests.unit.shard_fixture import GEOMETRY, backbone, record, store_evidence, store_features, wanted


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder(tmp_path / "toy")


def of(content: str, format: str = "mov,mp4", error: str | None = None) -> VideoRecord:
    found: Any = record("any") | {"fingerprint": content, "facts": {"format": format}, "error": error}
    return found


def store(results: ResultsFolder, key: str, content: str) -> str:
    """The digest of the evidence."""
    return evidence_digest(
        store_evidence(results, wanted(), {**record(key), "fingerprint": content, "video_id": key})
    )


def test_a_renamed_file(results: ResultsFolder) -> None:
    digest = store(results, "a", "1")
    store(results, "b", "2")
    store(results, "removed", "3")
    found = former.find(results, {"z": of("1"), "b": of("2"), "new": of("4")})
    assert found == {"z": {"a": [digest]}}
    write_json(results.former, found)
    assert read_former(results) == found


def test_and_its_features(results: ResultsFolder) -> None:
    digest = store(results, "a", "1")
    features = [store_features(results, backbone(name), "a", features_sha256=name) for name in ("net", "x")]
    (results.backbone("y").features("a")).parent.mkdir(parents=True)
    results.backbone("y").features("a").write_bytes(b"cut")
    assert former.find(results, {"z": of("1")}) == {"z": {"a": [digest, *features]}}


def test_a_name_that_had_another_content_before(results: ResultsFolder) -> None:
    digest = store(results, "a", "1")
    store(results, "b", "2")
    assert former.find(results, {"b": of("1")}) == {"b": {"a": [digest]}}


def test_what_has_evidence_of_its_own_content_needs_no_other(results: ResultsFolder) -> None:
    """So that the hint is gone once it was followed, though the former files stay."""
    store(results, "a", "1")
    store(results, "z", "1")
    assert former.find(results, {"z": of("1")}) == {}


def test_a_copy_of_a_video_that_stays(results: ResultsFolder) -> None:
    digest = store(results, "a", "1")
    both = {"a": of("1"), "again": of("1")}
    assert former.find(results, both) == {"again": {"a": [digest]}}
    store(results, "again", "of another file before")
    assert former.find(results, both) == {"again": {"a": [digest]}}
    store(results, "again", "1")
    assert former.find(results, both) == {}


def test_a_name_that_now_has_another_content_is_no_source(results: ResultsFolder) -> None:
    """Its evidence is about to be replaced: whether it could be taken in time, the order of the jobs would decide."""
    store(results, "a", "1")
    assert former.find(results, {"a": of("2"), "z": of("1")}) == {}
    assert former.find(results, {"a": of("2"), "z": of("1"), "copy": of("2")}) == {}


def test_several_geometries_and_several_names(results: ResultsFolder) -> None:
    digest = store(results, "a", "1")
    assert store(results, "b", "1") == digest
    other = evidence_digest(
        store_evidence(results, wanted(), {**record("a"), "fingerprint": "1"}, geometry="squash64")
    )
    found = former.find(results, {"z": of("1")})
    assert {key: sorted(digests) for key, digests in found["z"].items()} == {
        "a": sorted([digest, other]),
        "b": [digest],
    }


def test_what_the_name_may_decide_and_what_is_damaged(results: ResultsFolder) -> None:
    store(results, "a", "1")
    assert former.find(results, {"z": of("1")})
    assert former.find(results, {"z": of("1", format="avi")}) == {}
    assert former.find(results, {"z": of("1", error="damaged")}) == {}
    assert former.find(results, {"z": record("1")}) == {}  # its container is not known


def test_what_is_no_evidence_is_no_trouble(results: ResultsFolder) -> None:
    assert former.find(results, {"z": of("1")}) == {}
    store(results, "a", "1")
    folder = results.evidence(GEOMETRY, "a").parent
    (folder / "b.safetensors").write_bytes(b"cut")
    (folder / ".tmp-x.safetensors").write_bytes(b"half-made")
    (folder / "note.txt").write_text("mine")
    stored.write(folder / "c.safetensors", {"key": None}, {"x": stored.as_bytes(b"")})
    stored.write(
        folder / "d.safetensors", {"key": {"fingerprint": "1"}, "video": None}, {"x": stored.as_bytes(b"")}
    )
    assert list(former.find(results, {"z": of("1")})["z"]) == ["a"]


@pytest.mark.parametrize("text", ["", "[", "[]", "1", '{"a": 1}', '{"a": {"b": 1}}', "\udcff"])
def test_a_hint_that_makes_no_sense_is_none(results: ResultsFolder, text: str) -> None:
    assert read_former(results) == {}
    results.root.mkdir()
    results.former.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_former(results) == {}
