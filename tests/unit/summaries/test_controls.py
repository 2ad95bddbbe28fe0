import hashlib
import json
from pathlib import Path

import framefeat
import numpy as np
import pytest
from framefeat.errors import UserError
from framefeat.summaries import controls

from tests.unit.results.tiny_results import Clip, write_results


@pytest.fixture
def source(tmp_path: Path) -> Path:
    clips = [Clip("-a", 300), Clip("007", 450, bad=[4]), Clip("NA", 200)]
    rows = sum(len(clip.sample_times()) for clip in clips)
    order = np.random.default_rng(8).permutation(rows)  # videos interleaved in the frame index
    return write_results(tmp_path / "tiny" / "bb", clips, dim=6, order=order)


def test_twins_have_the_same_layout_and_say_what_they_are(source: Path, tmp_path: Path) -> None:
    folders = controls.run(source, tmp_path / "controls", seed=3)
    original = framefeat.load(source)
    bad = (original.index["status"] == "bad").to_numpy()
    for kind, folder in folders.items():
        twin = framefeat.load(folder)
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            path.name for path in source.iterdir()
        )
        assert twin.index.equals(original.index)
        assert np.array_equal(np.isnan(twin.matrix).all(axis=1), bad)
        manifest = twin.manifest
        assert manifest["control"] == {
            "kind": kind,
            "seed": 3,
            "source_matrix_sha256": original.manifest["matrix_sha256"],
        }
        assert manifest["alignment_verified"] is False
        assert manifest["matrix_sha256"] == hashlib.sha256(twin.matrix_path.read_bytes()).hexdigest()
        for video in manifest["videos"]:
            assert video["verified"] is False
            rows = twin.features_of(video["video_id"])
            assert (
                video["features_sha256"] == hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()
            )
        assert set(json.loads((source / "feature_manifest.json").read_text())) < set(manifest)


def test_what_each_kind_keeps(source: Path, tmp_path: Path) -> None:
    folders = controls.make_controls(source, tmp_path, seed=1)
    original = framefeat.load(source)

    def sorted_rows(values: np.ndarray) -> np.ndarray:
        return values[np.lexsort(np.nan_to_num(values).T)]

    zero = framefeat.load(folders["zero"])
    assert not np.nan_to_num(zero.matrix).any()
    within = framefeat.load(folders["row_shuffled"])
    across = framefeat.load(folders["cross_video_shuffled"])
    moved = 0
    for video in original.video_ids:
        mine = original.features_of(video)
        assert np.array_equal(sorted_rows(within.features_of(video)), sorted_rows(mine), equal_nan=True)
        assert not np.array_equal(within.features_of(video), mine, equal_nan=True)
        moved += not np.array_equal(sorted_rows(across.features_of(video)), sorted_rows(mine), equal_nan=True)
    assert moved == 3
    assert np.array_equal(sorted_rows(across.matrix), sorted_rows(original.matrix), equal_nan=True)


def test_deterministic_and_different_by_seed(source: Path, tmp_path: Path) -> None:
    def contents(folders: dict[str, Path]) -> dict[str, bytes]:
        return {
            f"{kind}/{path.name}": path.read_bytes()
            for kind, folder in folders.items()
            for path in folder.iterdir()
        }

    first = contents(controls.make_controls(source, tmp_path / "one", seed=5))
    assert first == contents(controls.make_controls(source, tmp_path / "two", seed=5))
    other = contents(controls.make_controls(source, tmp_path / "three", seed=6))
    assert first["zero/tiny_features.npy"] == other["zero/tiny_features.npy"]
    assert first["row_shuffled/tiny_features.npy"] != other["row_shuffled/tiny_features.npy"]
    assert first["cross_video_shuffled/tiny_features.npy"] != other["cross_video_shuffled/tiny_features.npy"]


def test_the_permutation_is_pinned(tmp_path: Path) -> None:
    """A change of numpy or of this code that would give other twins for the same seed must be seen."""
    features = framefeat.load(write_results(tmp_path, [Clip("a", 300), Clip("b", 450, bad=[4])], dim=4))
    digest = hashlib.sha256()
    for kind in ("row_shuffled", "cross_video_shuffled"):
        rows = controls.source_rows(features, kind, 7)
        assert rows is not None
        assert sorted(rows.tolist()) == list(range(len(features)))
        digest.update(rows.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "e6f70ec5a1162fce"


def test_several_blocks_give_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = controls.make_controls(source, tmp_path / "one")
    monkeypatch.setattr(controls, "_CHUNK_BYTES", 100)
    parts = controls.make_controls(source, tmp_path / "two")
    for kind in controls.KINDS:
        for name in ("tiny_features.npy", "feature_manifest.json"):
            assert (whole[kind] / name).read_bytes() == (parts[kind] / name).read_bytes()


def test_refusals(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown kind 'rows'"):
        controls.make_controls(source, tmp_path, kinds=["rows"])
    with pytest.raises(UserError, match="seed is -1"):
        controls.make_controls(source, tmp_path, seed=-1)
    folders = controls.make_controls(source, tmp_path, kinds=["zero"])
    with pytest.raises(UserError, match="itself a control"):
        controls.make_controls(folders["zero"], tmp_path / "again")
    named = write_results(tmp_path / "x" / "zero", [Clip("a", 100)])
    with pytest.raises(UserError, match="holds the results themselves"):
        controls.make_controls(named, tmp_path / "x", kinds=["zero"])


def test_other_results_are_not_replaced(source: Path, tmp_path: Path) -> None:
    other = write_results(tmp_path / "runs" / "zero", [Clip("a", 300)], dim=6)
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    with pytest.raises(UserError, match="holds other files than a control"):
        controls.make_controls(source, tmp_path / "runs", kinds=["zero"])
    assert {path.name: path.read_bytes() for path in other.iterdir()} == before
    mine = tmp_path / "mine" / "zero" / "frame_index.parquet"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match="holds other files than a control"):
        controls.make_controls(source, tmp_path / "mine", kinds=["zero"])
    assert mine.read_text() == "mine"
    for _ in range(2):  # its own are made anew
        controls.make_controls(source, tmp_path / "controls", kinds=["zero"])
