"""Edited manifests: a sentence or what was meant, never a traceback."""

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import framefeat
import pytest
from framefeat.backbone.chosen import chosen_backbones
from framefeat.errors import UserError
from framefeat.results import verify
from framefeat.results.shape import misfit, misfit_of_video
from framefeat.settings import resolve

from tests.unit.results.tiny_results import Clip, write_results

WRONG: tuple[Any, ...] = (None, True, -3, 900, 1.5, "x", [], [None], {}, {"x": 1})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with all that verification asks of a manifest."""
    made = write_results(tmp_path_factory.mktemp("whole") / "r", [Clip("a", 300), Clip("b", 200)], dim=8)
    path = made / "feature_manifest.json"
    manifest = json.loads(path.read_text())
    spec = chosen_backbones(resolve({}))[0].label_json
    manifest |= {
        "counts": {"ok": manifest["total_frames"], "clamped": 0, "bad": 0},
        **dict.fromkeys(("weights_sha256", "frame_index_sha256", "matrix_sha256"), "0" * 64),
        "decoder": "auto", "on_bad_frames": "fail", "precision": "float32", "alignment": "index", "versions": {},
        "preprocessing": {"geometry": "squash224"}, "spec": json.loads(spec),
    }  # fmt: skip
    for entry in manifest["videos"]:
        entry |= {
            "fingerprint": "0" * 64, "fps": 30.0, "container": None, "decoder": None, "features_sha256": "0" * 64,
            "counts": {"ok": entry["rows"], "clamped": 0, "bad": 0}, "verdict": "verified", "doubts": [],
        }  # fmt: skip
    path.write_text(json.dumps(manifest))
    return made


def edits(manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The manifest with one member, or one of a video, replaced or gone."""
    for name in manifest:
        for value in WRONG:
            yield f"{name}={value!r}", {**manifest, name: value}
        yield f"no {name}", {other: value for other, value in manifest.items() if other != name}
    for name in manifest["videos"][0]:
        for value in WRONG:
            edited = copy.deepcopy(manifest)
            edited["videos"][0][name] = value
            yield f"videos[0].{name}={value!r}", edited
        edited = copy.deepcopy(manifest)
        del edited["videos"][0][name]
        yield f"no videos[0].{name}", edited


def test_what_was_written_fits(folder: Path) -> None:
    manifest = json.loads((folder / "feature_manifest.json").read_text())
    assert misfit(manifest) == ""
    assert [misfit_of_video(entry) for entry in manifest["videos"]] == ["", ""]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("total_frames", "x", "total_frames is 'x'"),
        ("feature_dim", [1], r"feature_dim is \[1\]"),
        ("videos", 5, "videos is no list"),
        ("counts", {"ok": "1"}, r"counts\.ok is '1'"),
        ("doubtful", {"max_abs_offset_sec": "far"}, r"doubtful\.max_abs_offset_sec is 'far'"),
    ],
)
def test_a_member_of_another_type(folder: Path, tmp_path: Path, name: str, value: object, said: str) -> None:
    path = tmp_path / "feature_manifest.json"
    manifest = json.loads((folder / "feature_manifest.json").read_text())
    path.write_text(json.dumps(manifest | {name: value}))
    with pytest.raises(UserError, match=rf"not a manifest as it was written: {said}; run Snakemake"):
        framefeat.load(folder, manifest=path)


@pytest.mark.parametrize(
    "rows",
    [
        {"first_row": -1, "last_row": 2},
        {"first_row": 0, "last_row": 10_000},
        {"first_row": 2, "last_row": 1},
        {"first_row": 0},
        {"row_numbers": [3, 2]},
        {"row_numbers": []},
    ],
)
def test_rows_that_are_none(folder: Path, rows: dict[str, Any]) -> None:
    manifest = json.loads((folder / "feature_manifest.json").read_text())
    manifest["videos"][1] = {"video_id": "b", **rows}
    assert "videos[1] ('b') has no rows between 0 and" in misfit(manifest)


def test_no_edit_ends_in_a_traceback(folder: Path, tmp_path: Path) -> None:
    whole = json.loads((folder / "feature_manifest.json").read_text())
    copied = tmp_path / "copy"
    copied.mkdir()
    (tmp_path / "videos").mkdir()
    for file in folder.iterdir():
        (copied / file.name).symlink_to(file)
    (copied / "feature_manifest.json").unlink()
    for what, edited in edits(whole):
        (copied / "feature_manifest.json").write_text(json.dumps(edited))
        with contextlib.suppress(UserError):
            assert len(framefeat.load(copied)) == sum(entry["rows"] for entry in whole["videos"]), what
        verdict = verify.verify_folder(copied, rows_per_video=1, weights=[])
        assert not verdict.ok, "nothing of it is stored here"
        verify._print(verdict)


def test_a_copy_of_the_folder_alone_is_told_once(folder: Path) -> None:
    verdict = verify.verify_folder(folder, rows_per_video=1, weights=[])
    assert "knows no video" not in str([video.failures for video in verdict.videos])
    assert len([text for text in verdict.failures if "copy results/DATASET whole" in text]) == 1


def test_a_verdict_that_was_not_repeated_is_none() -> None:
    counts = {"ok": 2, "clamped": 0, "bad": 0}
    video = verify.CheckedVideo("a", 2, counts, "pyav", state="verified")  # type: ignore[arg-type]
    assert video.outcome == "not checked"
    video.redecoded = 2
    assert video.outcome == "verified"
    video.failures.append("its file is gone")
    assert video.outcome == "FAILED"
    assert verify.CheckedVideo("b", 2, counts, "none", state="not verified").outcome == "not verified"  # type: ignore[arg-type]
