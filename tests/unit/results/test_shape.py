"""Edited manifests: a sentence or what was meant, never a traceback."""

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import framefeat
import pytest
from framefeat.errors import UserError
from framefeat.results import verify
from framefeat.results.shape import misfit, misfit_of_video

from tests.unit.results.tiny_results import Clip, write_results

WRONG: tuple[Any, ...] = (None, True, -3, 900, 1.5, "x", [], [None], {}, {"x": 1})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("whole") / "r", [Clip("a", 300), Clip("b", 200)], dim=8)


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
        assert not verify.verify_folder(copied, rows_per_video=1, weights=[]).ok, (
            "nothing of it is stored here"
        )


def test_a_copy_of_the_folder_alone_is_told_once(folder: Path) -> None:
    verdict = verify.verify_folder(folder, rows_per_video=1, weights=[])
    assert [text for video in verdict.videos for text in video.failures] == []
    assert len([text for text in verdict.failures if "copy results/DATASET whole" in text]) == 1
