"""The layouts of many files, read back as their users read them, and what the folder may replace."""

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import framefeat
import numpy as np
import pytest
from framefeat.errors import UserError
from framefeat.files import read_json, write_json
from framefeat.names import video_key
from framefeat.summaries import controls, export_files, export_target
from framefeat.vectors import unit_rows

from tests.unit.results.tiny_results import Clip, write_results

CLIPS = [Clip("-esJr", 300), Clip("Base jumping", 450, fps=25.0), Clip("a/b.c", 200)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_results(tmp_path / "tiny" / "bb", CLIPS, dim=6)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("times", "rate"),
    [
        (np.arange(20) / 2, 2.0),
        (np.round(np.arange(300) / 3, 3), pytest.approx(3, abs=1e-3)),
        (np.r_[np.arange(20), np.arange(80, 100)] / 2, 2.0),  # bad rows left out
        ([0.0, 0.0, 0.5, 0.5], 6.0),  # rows asking for the same time again
        ([1.0, 1.0], 0.0),
        ([1.0], 0.0),
    ],
)
def test_rows_per_second(times: Any, rate: Any) -> None:
    assert export_files._rate(np.asarray(times)) == rate


def test_npy(folder: Path, tmp_path: Path) -> None:
    """As video_features writes them: {stem}_{name}.npy with its rows' milliseconds and their rate."""
    features, out = framefeat.load(folder), tmp_path / "out"
    export_files.run("npy", folder, out)
    assert np.array_equal(np.load(out / "-esJr_bb.npy"), features.features_of("-esJr"))
    assert np.load(out / "Base jumping_timestamps_ms.npy")[:3].tolist() == pytest.approx([0, 480, 1000])
    for name in ("-esJr", "Base jumping"):  # whatever the rate of its file
        assert np.load(out / f"{name}_fps.npy") == 2.0
    record = read_json(out / "export.json")
    assert record["complete"]
    assert record["matrix_sha256"] == features.manifest["matrix_sha256"]
    assert [video["file"] for video in record["videos"]] == [
        "-esJr_bb.npy",
        "Base jumping_bb.npy",
        "a%2Fb.c_bb.npy",
    ]


def read_like_moment_detr(folder: Path, video: str, longest: int = 75) -> np.ndarray:
    return np.load(os.path.join(folder, f"{video}.npz"))["features"][:longest].astype(np.float32)


def test_npz_as_sampled_and_one_row_per_two_seconds(folder: Path, tmp_path: Path) -> None:
    features = framefeat.load(folder)
    export_files.run("npz", folder, tmp_path / "all", l2=True)
    rows = features.features_of("-esJr")
    assert np.array_equal(read_like_moment_detr(tmp_path / "all", "-esJr"), unit_rows(rows))
    export_files.run("npz", folder, tmp_path / "two", every=2)
    pooled = read_like_moment_detr(tmp_path / "two", "-esJr")
    assert np.allclose(pooled, rows.reshape(5, 4, 6).mean(axis=1))
    with np.load(tmp_path / "two" / "Base jumping.npz") as file:
        assert len(file["features"]) == 9  # 18 s
        assert file["timestamps"].tolist() == list(range(0, 18, 2))
    with pytest.raises(UserError, match=r"(?s)'-esJr': no row lies from 0\.2 to 0\.4 s"):
        export_files.run("npz", folder, tmp_path / "dense", every=0.2)
    assert not (tmp_path / "dense").exists()


def test_webdataset(folder: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    features, out = framefeat.load(folder), tmp_path / "out"
    note = export_files.run("webdataset", folder, out, videos_per_shard=2)
    shards = sorted(str(path) for path in out.glob("*.tar"))
    assert [Path(path).name for path in shards] == ["tiny-000000.tar", "tiny-000001.tar"]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode())
    assert [sample["json"]["video_id"] for sample in samples] == features.video_ids
    assert [sample["__key__"] for sample in samples] == [video["key"] for video in note["videos"]]
    for sample in samples:
        assert np.array_equal(sample["features.npy"], features.features_of(sample["json"]["video_id"]))
        assert len(sample["timestamps.npy"]) == len(sample["features.npy"])
    export_files.run("webdataset", folder, tmp_path / "again", videos_per_shard=2)
    assert contents(out) == contents(tmp_path / "again")


def test_webdataset_is_not_there(folder: Path, tmp_path: Path) -> None:
    with mock.patch.dict("sys.modules", {"webdataset": None}):
        with pytest.raises(UserError, match="pip install webdataset"):
            export_files.run("webdataset", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = [Clip("a", 600, bad=[2, 5]), Clip("b", 100, bad=range(7))]
    folder = write_results(tmp_path / "r", clips, dim=8)
    with pytest.raises(UserError, match=r"(?s)'a': 2 of 40 rows are bad.*'b': 7 of 7"):
        export_files.run("npz", folder, tmp_path / "out")
    note = export_files.run("npz", folder, tmp_path / "out", drop_bad=True)
    assert note["rows"] == 38
    assert np.isfinite(read_like_moment_detr(tmp_path / "out", "a")).all()
    told = capsys.readouterr().err
    assert "left out: 1 video without a good row: b\nbad rows left out of 1 video: a (2 of 40)\n" in told


def test_windows_at_the_end_that_only_bad_rows_ask_for(tmp_path: Path) -> None:
    """Of a file that is cut short: its clips would be fewer than the loader counts."""
    folder = write_results(tmp_path / "r", [Clip("a", 300, bad=range(13, 20)), Clip("b", 300)], dim=8)
    with pytest.raises(UserError, match=r"'a': no row that has a frame lies from 8 to 10 s"):
        export_files.run("npz", folder, tmp_path / "out", drop_bad=True, every=2)
    export_files.run("npz", folder, tmp_path / "out", drop_bad=True, every=5)
    assert len(read_like_moment_detr(tmp_path / "out", "a")) == 2


@pytest.mark.parametrize("video_id", ["a/b", "a%2Fb", ".hidden", "x~y", "a\nb", "é" * 120, "\\", ".."])
def test_odd_ids_have_names_of_their_own(video_id: str) -> None:
    assert export_files.file_stem(video_id) == video_key(video_id)
    assert export_files.file_stem("Base jumping é") == "Base jumping é"


def test_a_folder_of_others_is_left_alone(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "-esJr.npz").write_text("mine")
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    with pytest.raises(UserError, match="is not empty and holds no export"):
        export_files.run("npz", folder, out)
    assert contents(out) == before
    export_files.run("npz", folder, out, force=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "-esJr.npz").read_bytes() != b"mine"
    with pytest.raises(UserError, match="holds the files that this export is made of"):
        export_files.run("npz", folder, folder, force=True)
    with pytest.raises(UserError, match="is a file"):
        export_files.run("npz", folder, folder / "tiny_features.npy", force=True)


def test_its_own_export_is_replaced_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_files.run("npy", folder, out)
    before = set(contents(out))
    with pytest.raises(
        UserError, match=r"holds another export \(format is 'npy'\), whose files would be removed"
    ):
        export_files.run("npz", folder, out)
    assert set(contents(out)) == before
    export_files.run("npz", folder, out, force=True)
    controls.run(folder, tmp_path / "controls", kinds=["zero"])
    with pytest.raises(UserError, match="holds another export \\(control is None\\)"):
        export_files.run("npz", tmp_path / "controls" / "zero", out)
    (out / "notes.txt").write_text("mine")
    (out / "-esJr.npz").unlink()
    record = read_json(out / "export.json")
    write_json(
        out / "export.json", record | {"files": [name for name in record["files"] if "%2F" not in name]}
    )
    with pytest.raises(UserError, match=r"(?s)framefeat did not write them.*a%2Fb\.c\.npz"):
        export_files.run("npz", folder, out)
    (out / "a%2Fb.c.npz").unlink()
    export_files.run("npz", folder, out)
    names = {"-esJr.npz", "Base jumping.npz", "a%2Fb.c.npz", "export.json", "notes.txt"}
    assert set(contents(out)) == names
    assert [path.name for path in tmp_path.glob(".tmp-*")] == []


def test_what_another_export_puts_there_meanwhile_stays(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    record = {"dataset": "a", "backbone": "b", "format": "npz"}

    def late() -> None:
        with export_target.new_folder(out, [], False, record) as (scratch, _):
            (scratch / "x.npz").write_text("late")
            export_files.run("npy", folder, out)

    with pytest.raises(UserError, match="holds another export"):
        late()
    assert "x.npz" not in contents(out)
    assert read_json(out / "export.json")["complete"]


def test_a_link_to_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a link to nothing"):
        export_files.run("npy", folder, tmp_path / "out")
    with pytest.raises(UserError, match="is a link to nothing"):
        export_target.check_file(tmp_path / "out", [], True, {}, lambda _: {})


def test_an_export_that_was_broken_off_can_be_made_again(folder: Path, tmp_path: Path) -> None:
    out, move = tmp_path / "out", os.replace
    moved: list[Any] = []

    def stop(source: Any, target: Any) -> None:
        moved.append(target)
        if len(moved) == 3:
            raise KeyboardInterrupt
        move(source, target)

    with mock.patch.object(export_target.os, "replace", stop), pytest.raises(KeyboardInterrupt):
        export_files.run("npz", folder, out)
    assert json.loads((out / "export.json").read_text())["complete"] is False
    export_files.run("npz", folder, out)
    assert read_json(out / "export.json")["complete"]
