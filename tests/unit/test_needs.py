"""What is to be done for a video, and why."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from framefeat import identity, needs, stored
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


def test_what_is_read_from_a_file_is_not_told_beside_its_change(done: ResultsFolder) -> None:
    """A folder's video that was cut: its times and its rate are others, and nobody wrote either."""
    need = of(done, fingerprint="other", times_sha256="other", fps=1.0)
    assert need.decode == {GEOMETRY: ["the file's content changed"]}


def test_a_file_that_could_not_be_read_before(done: ResultsFolder) -> None:
    evidence = stored.read_record(done.evidence(GEOMETRY, "a"))
    evidence["key"]["fingerprint"] = "unread:a"
    stored.write(done.evidence(GEOMETRY, "a"), evidence, {"thumbnails": np.zeros(1, np.uint8)})
    assert of(done).decode == {GEOMETRY: ["its file could not be read before"]}


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
    assert need.embed["net"] == [reason]
    assert need.decode == {GEOMETRY: ["its frames are needed again for net"]}
    assert need.evidence.keys() == {GEOMETRY}
    assert need.gone == {}


@EMBEDDED_AGAIN
def test_or_those_that_were_kept(done: ResultsFolder, changed: dict[str, str], reason: str) -> None:
    store_frames(done, "a")
    need = of(done, wanted(backbone(**changed)))
    assert need.embed["net"] == [reason]
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


@pytest.mark.parametrize("other", [{"decoder": "decord"}, {"frames_checksum": 1}], ids=str)
def test_frames_that_were_sampled_again_since(done: ResultsFolder, other: dict[str, Any]) -> None:
    """By another decoder, or by another version of it: other pixels."""
    store_evidence(done, wanted(), ENTRY, **other)
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
    assert need.gone == {"net": [str(path)]}


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
    store_evidence(results, wanted(), ENTRY, problems=["frame 1 at 1.000 s: broken"])
    store_features(results, backbone(), "a", problems=["1 row is not finite"])
    assert of(results).problems == ["frame 1 at 1.000 s: broken"]
    assert of(results, fingerprint="mended").problems == []
    store_evidence(results, wanted(), ENTRY)
    store_features(results, backbone(), "a", problems=["1 row is not finite"])
    assert of(results).problems == ["1 row is not finite"]
    assert of(results, wanted(backbone(weights="w2"))).problems == []


# --- the same content under another name


RENAMED: Slice = {**ENTRY, "video_id": "b"}


FEATURES = hashlib.sha256(np.zeros((2, 3), np.float32).tobytes()).hexdigest()


def evidence_of_a(results: ResultsFolder) -> str:
    """Its digest."""
    return identity.evidence_digest(stored.read_record(results.evidence(GEOMETRY, "a")))


def of_renamed(
    results: ResultsFolder, asked: Wanted | None = None, digests: list[str] | None = None, **changed: Any
) -> Needs:
    """Of the video ``b``, of which the merge said that ``a`` had its content."""
    if digests is None:
        digests = [evidence_of_a(results), FEATURES]
    entry: Slice = {**RENAMED, **changed}  # type: ignore[typeddict-item]
    return needs.of_video(results, asked or wanted(), "b", entry, {"gone": digests, "a": digests})


def is_taken(need: Needs) -> tuple[list[str], list[str]]:
    """What of a video is taken over: geometries and backbones."""
    return list(need.evidence_from), list(need.features_from)


def test_what_lies_under_another_name_is_taken_over(done: ResultsFolder) -> None:
    need = of_renamed(done)
    assert (need.decode, need.embed, need.problems) == ({}, {}, [])
    assert is_taken(need) == ([GEOMETRY], ["net"])
    assert need.evidence_from[GEOMETRY] == needs.Stored(done.evidence(GEOMETRY, "a"), "a")
    assert need.features_from["net"] == needs.Stored(done.backbone("net").features("a"), "a")
    assert need.gone == {"net": [str(done.evidence(GEOMETRY, "b")), str(done.backbone("net").features("b"))]}
    for source, path in (
        (need.evidence_from[GEOMETRY], done.evidence(GEOMETRY, "b")),
        (need.features_from["net"], done.backbone("net").features("b")),
    ):
        needs.take_over(source, path, "b")
        assert stored.read_record(path) == stored.read_record(source.path) | {"video_id": "b"}
    need = of_renamed(done)
    assert (need.decode, need.embed, need.gone, is_taken(need)) == ({}, {}, {}, ([], []))


def test_without_a_hint_it_is_a_new_video(done: ResultsFolder) -> None:
    need = needs.of_video(done, wanted(), "b", RENAMED)
    assert (need.decode, need.embed, is_taken(need)) == (
        {GEOMETRY: NEW},
        {"net": ["no features yet"]},
        ([], []),
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("fingerprint", "other"), ("times_sha256", "x"), ("fps", 25.0), ("alignment", "pts"), ("rows", 3)],
)
def test_a_hint_that_is_wrong_costs_a_decode(done: ResultsFolder, name: str, value: Any) -> None:
    need = of_renamed(done, **{name: value})
    assert (need.decode, need.embed, is_taken(need)) == (
        {GEOMETRY: NEW},
        {"net": ["no features yet"]},
        ([], []),
    )


def test_what_was_made_since_the_merge_is_not_taken_over(done: ResultsFolder) -> None:
    """Whether it is would depend on which job comes first."""
    assert is_taken(of_renamed(done, digests=["another", FEATURES])) == ([], [])
    need = of_renamed(done, digests=[evidence_of_a(done), "another"])
    assert need.decode == {GEOMETRY: ["its frames are needed again for net"]}
    assert (need.embed, is_taken(need)) == ({"net": ["no features yet"]}, ([], []))


def test_what_is_taken_over_must_be_what_is_asked_for(done: ResultsFolder) -> None:
    assert is_taken(of_renamed(done, wanted(decoder="pyav"))) == ([], [])
    need = of_renamed(done, wanted(backbone(weights="w2")))
    assert need.decode == {GEOMETRY: ["its frames are needed again for net"]}
    assert (need.embed, is_taken(need)) == ({"net": ["no features yet"]}, ([], []))


def test_a_backbone_more_takes_the_frames_and_leaves_the_rest(done: ResultsFolder) -> None:
    need = of_renamed(done, wanted(backbone(), backbone("more")))
    assert need.decode == {GEOMETRY: ["its frames are needed again for more"]}
    assert (need.embed, is_taken(need)) == ({"more": ["no features yet"]}, ([], ["net"]))


def test_frames_of_another_evidence_are_not_believed(done: ResultsFolder) -> None:
    store_frames(done, "b")
    done.backbone("net").features("a").unlink()
    need = of_renamed(done)
    assert need.decode == {GEOMETRY: ["its frames are needed again for net"]}


def test_features_that_were_damaged_are_not_taken_over(done: ResultsFolder) -> None:
    path = done.backbone("net").features("a")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    need = of_renamed(done)
    assert need.decode == {GEOMETRY: ["its frames are needed again for net"]}
    assert (need.embed, is_taken(need)) == ({"net": ["no features yet"]}, ([], []))


@pytest.mark.parametrize("name", ["warnings", "problems", "doubts"])
def test_a_text_that_names_the_file_is_not_taken_over(results: ResultsFolder, name: str) -> None:
    for text, taken in (("'/films/a.mp4' is damaged", []), ("it differs by 3.1/255", [GEOMETRY])):
        store_evidence(results, wanted(), ENTRY, **{name: [text]})
        store_features(results, backbone(), "a")
        assert is_taken(of_renamed(results))[0] == taken


def test_an_older_file_of_that_name_gives_way(done: ResultsFolder) -> None:
    store_evidence(done, wanted(), {**RENAMED, "fingerprint": "older"})
    store_features(done, backbone(), "b")
    need = of_renamed(done)
    assert (need.decode, need.embed, need.gone) == ({}, {}, {})
    assert is_taken(need) == ([GEOMETRY], ["net"])


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
