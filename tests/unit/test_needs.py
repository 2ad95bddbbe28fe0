"""What is to be done for a video, and why."""

from pathlib import Path
from typing import Any

import pytest
from framefeat import identity, needs
from framefeat.layout import ResultsFolder
from framefeat.needs import Needs, Wanted
from framefeat.records import Slice, slice_of
from framefeat.shard_files import Merged

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

NEW = ["new: no frames were sampled yet"]


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder(tmp_path / "results" / "toy")


@pytest.fixture
def done(results: ResultsFolder) -> ResultsFolder:
    """Everything of the video ``a`` is there; its frames are used up."""
    store_evidence(results, wanted(), ENTRY)
    store_features(results, backbone(), "a")
    return results


ENTRY = slice_of(record("a"))


def of(results: ResultsFolder, asked: Wanted | None = None, **changed: Any) -> Needs:
    entry: Slice = {**ENTRY, **changed}  # type: ignore[typeddict-item]
    return needs.of_video(results, asked or wanted(), "a", entry)


def test_nothing_is_there(results: ResultsFolder) -> None:
    need = of(results)
    assert (need.decode, need.embed) == ({GEOMETRY: NEW}, {"net": ["no features yet"]})
    assert (need.evidence, need.problems) == ({}, [])
    evidence, features = results.evidence(GEOMETRY, "a"), results.backbone("net").features("a")
    assert need.gone == {"net": [str(evidence), str(features)]}


def test_everything_is_there(done: ResultsFolder) -> None:
    need = of(done)
    assert (need.decode, need.embed, need.gone, need.problems) == ({}, {}, {}, [])
    assert need.evidence[GEOMETRY]["video_id"] == "a"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("fingerprint", "other", "the file's content changed"),
        ("times_sha256", "other", "its times changed"),
        ("fps", 25.0, "its fps in the index changed from 30.0 to 25.0"),
        ("alignment", "pts", "alignment changed from index to pts"),
    ],
)
def test_a_slice_that_changed(done: ResultsFolder, name: str, value: Any, reason: str) -> None:
    need = of(done, **{name: value})
    assert need.decode == {GEOMETRY: [reason]}
    assert need.embed == {"net": [needs.SAMPLED_AGAIN]}
    assert (need.evidence, need.gone) == ({}, {})


def test_several_reasons_are_all_told(done: ResultsFolder) -> None:
    need = of(done, wanted(backbone(weights="w2"), decoder="pyav"), fingerprint="other")
    assert need.decode[GEOMETRY] == ["the file's content changed", "decoder changed from auto to pyav"]
    assert need.embed == {"net": ["other weights"]}


def test_another_decoder(done: ResultsFolder) -> None:
    need = of(done, wanted(decoder="pyav"))
    assert need.decode == {GEOMETRY: ["decoder changed from auto to pyav"]}


def test_another_geometry(done: ResultsFolder) -> None:
    need = of(done, wanted(backbone(geometry="squash64")))
    assert need.decode == {"squash64": NEW}
    assert need.embed == {"net": [needs.SAMPLED_AGAIN]}


def test_a_new_version_of_the_algorithm(done: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    now = identity.SAMPLE_ALGORITHM
    monkeypatch.setattr(identity, "SAMPLE_ALGORITHM", now + 1)
    assert of(done).decode == {GEOMETRY: [f"the algorithm has a new version from {now} to {now + 1}"]}


EMBEDDED_AGAIN = pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"weights": "w2"}, "other weights"),
        ({"spec": '{"name": "other"}'}, "the backbone's description changed"),
        ({"precision": "bf16"}, "precision changed from float32 to bf16"),
    ],
)


@EMBEDDED_AGAIN
def test_features_of_another_kind_need_the_frames_again(
    done: ResultsFolder, changed: dict[str, str], reason: str
) -> None:
    need = of(done, wanted(backbone(**changed)))
    assert need.embed["net"][0] == reason
    assert need.decode == {GEOMETRY: ["its frames are needed again for net"]}
    assert need.evidence.keys() == {GEOMETRY}
    assert need.gone == {}


@EMBEDDED_AGAIN
def test_or_those_that_were_kept(done: ResultsFolder, changed: dict[str, str], reason: str) -> None:
    store_frames(done, "a")
    need = of(done, wanted(backbone(**changed)))
    assert need.embed["net"][0] == reason
    assert need.decode == {}
    done.recheck(GEOMETRY, "a").unlink()
    assert need != of(done, wanted(backbone(**changed)))


def test_a_backbone_more(done: ResultsFolder) -> None:
    asked = wanted(backbone(), backbone("more"))
    need = of(done, asked)
    assert need.embed == {"more": ["no features yet"]}
    assert need.decode == {GEOMETRY: ["its frames are needed again for more"]}
    assert need.gone == {"more": [str(done.backbone("more").features("a"))]}
    assert need.frames_are_wanted(asked, GEOMETRY)
    assert not need.frames_are_wanted(asked, "squash64")
    assert not of(done).frames_are_wanted(wanted(), GEOMETRY)


def test_frames_that_were_sampled_again_since(done: ResultsFolder) -> None:
    store_evidence(done, wanted(), ENTRY, decoder="decord")
    store_frames(done, "a")
    need = of(done)
    assert (need.decode, need.embed) == ({}, {"net": ["its frames were sampled again since"]})


@pytest.mark.parametrize("damage", ["gone", "cut", "garbage"])
@pytest.mark.parametrize("lost", ["evidence", "features"])
def test_a_file_that_is_lost(done: ResultsFolder, lost: str, damage: str) -> None:
    path = done.evidence(GEOMETRY, "a") if lost == "evidence" else done.backbone("net").features("a")
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] if damage == "cut" else b"x" * 100)
    need = of(done)
    if lost == "evidence":
        assert (need.decode, need.embed) == ({GEOMETRY: NEW}, {"net": [needs.SAMPLED_AGAIN]})
    else:
        assert need.decode == {GEOMETRY: ["its frames are needed again for net"]}
        assert need.embed == {"net": ["no features yet"]}
    assert need.gone.get("net") == ([str(path)] if damage == "gone" else None)


def test_a_lost_file_of_a_video_that_changed_is_not_what_it_is_about(done: ResultsFolder) -> None:
    done.backbone("net").features("a").unlink()
    assert of(done).gone
    assert of(done, fingerprint="other").gone == {}


def test_another_shard_is_no_reason(done: ResultsFolder) -> None:
    for shards in (
        {"a": [record("a")], "b": [record("b")]},
        {"shard+00of64": [record("a"), record("b")]},
        {"shard+000of128": [record("b")], "shard+001of128": [record("a", "elsewhere.mp4")]},
    ):
        write_merge(done, shards)
        need = needs.of_video(done, wanted(), "a", Merged(done).slices["a"])
        assert (need.decode, need.embed) == ({}, {})


def test_problems_of_what_stays(results: ResultsFolder) -> None:
    store_evidence(results, wanted(), ENTRY, problems=["row 1: broken"])
    store_features(results, backbone(), "a", problems=["row 1 is not finite"])
    assert of(results).problems == ["row 1: broken"]
    assert of(results, fingerprint="mended").problems == []
    store_evidence(results, wanted(), ENTRY)
    store_features(results, backbone(), "a", problems=["row 1 is not finite"])
    assert of(results).problems == ["row 1 is not finite"]
    assert of(results, wanted(backbone(weights="w2"))).problems == []


def test_what_is_wanted_is_the_same_after_a_journey() -> None:
    asked = Wanted.of(
        "pts", "pyav", "bf16",
        [
            {"folder": "a", "geometry": "squash96", "spec": '{"name": "caf\u00e9"}', "weights": "w1"},
            {"folder": "b", "geometry": "squash224", "spec": "{}", "weights": "w2"},
            {"folder": "c", "geometry": "squash96", "spec": "{}", "weights": "w3"},
        ],
    )  # fmt: skip
    assert asked.geometries == ["squash224", "squash96"]
    assert [one.request["precision"] for one in asked.backbones] == ["bf16"] * 3
    assert Wanted.from_json(asked.to_json()) == asked
