"""The exported file, its numbers, and what five public summarisers do with each of its keys."""

import dataclasses
import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import framefeat
import h5py
import numpy as np
import pandas as pd
import pytest
from framefeat.errors import UserError
from framefeat.summaries import controls, export_h5
from framefeat.summaries.annotations import (
    MatAnnotations,
    TsvAnnotations,
    files_of_summe,
    fit_length,
    open_annotations,
    unit_scores,
)
from framefeat.summaries.knapsack import shot_summary
from framefeat.vectors import unit_rows

from tests.unit.results.tiny_results import TVSUM, Clip, scene_features, tvsum_standin, write_results

needs_tvsum = pytest.mark.skipif(
    not TVSUM.is_dir(), reason="TVSum's index files and annotations are not here"
)

CLIPS = [
    Clip("-esJr", 900),
    Clip("007", 1001, fps=25.0),  # half of its samples are ties
    Clip("NA", 600, fps=29.97),
]


def write_tsv(path: Path, lengths: dict[str, int], users: int = 5) -> dict[str, np.ndarray]:
    """Annotations as TVSum's anno file has them: no header, one line per annotator, a score for 2 s at a time."""
    rng = np.random.default_rng(11)
    scores, lines = {}, []
    for video, frames in lengths.items():
        shots = rng.integers(1, 6, size=(users, frames // 60 + 1))
        scores[video] = np.repeat(shots, 60, axis=1)[:, :frames]
        lines += [f"{video}\tVT\t{','.join(map(str, user))}\n" for user in scores[video]]
    path.write_text("".join(lines), encoding="utf-8")
    return scores


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_results(tmp_path / "tiny" / "bb", CLIPS, dim=12)


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    write_tsv(tmp_path / "anno.tsv", {"-esJr": 900, "007": 1000, "NA": 602})
    return tmp_path / "anno.tsv"


def test_keys_types_and_shapes(
    folder: Path, annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.h5"
    table = export_h5.run(folder, out, annotations=annotations)
    features = framefeat.load(folder)
    with h5py.File(out) as file:
        assert set(file) == {"video_1", "video_2", "video_3"}
        for number, clip in enumerate(CLIPS, 1):
            group = file[f"video_{number}"]
            steps, segments = len(clip.sample_times()), len(group["change_points"])
            wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
                "features": (np.float32, (steps, 12)),
                "gtscore": (np.float32, (steps,)),
                "gtsummary": (np.float32, (steps,)),
                "user_summary": (np.float32, (5, clip.frames)),
                "change_points": (np.int32, (segments, 2)),
                "n_frame_per_seg": (np.int32, (segments,)),
                "n_frames": (np.int32, ()),
                "n_steps": (np.int32, ()),
                "picks": (np.int32, (steps,)),
            }
            assert {name: (group[name].dtype, group[name].shape) for name in wanted} == wanted
            assert set(group) == {*wanted, "video_name"}
            assert group["video_name"][()].decode() == clip.video_id
            assert np.array_equal(group["features"], features.features_of(clip.video_id))
            assert (
                group["picks"][()].tolist()
                == features.index["native_idx"][features.rows_of(clip.video_id)].tolist()
            )
            assert group["n_frames"][()] == clip.frames
            assert group["n_steps"][()] == steps
            points = group["change_points"][()].tolist()
            assert points[0][0] == 0
            assert points[-1][1] == clip.frames - 1
            assert all(after[0] == before[1] + 1 for before, after in pairwise(points))
            assert group["n_frame_per_seg"][()].sum() == clip.frames
            assert set(np.unique(group["user_summary"])) <= {0.0, 1.0}
            assert group["user_summary"][()].sum(axis=1).max() <= int(0.15 * clip.frames)
        assert not file.attrs["l2_normalised"]
        assert file.attrs["matrix_sha256"] == features.manifest["matrix_sha256"]
    assert [(row["group"], row["video"], row["annotation_length"]) for row in table] == [
        ("video_1", "-esJr", "equal"),
        ("video_2", "007", "last score repeated 1x"),
        ("video_3", "NA", "last 2 scores cut"),
    ]
    printed = capsys.readouterr().err
    assert "annotated and decoded length differ in 2 videos: 007, NA" in printed
    with h5py.File(out) as file:
        assert file["video_2"].attrs["annotated_frames"] == 1000
        assert file["video_2"].attrs["decoded_frames"] == 1001
        assert file["video_3"].attrs["annotation_length"] == "last 2 scores cut"


def test_scores_and_summaries(folder: Path, annotations: Path, tmp_path: Path) -> None:
    export_h5.run(folder, tmp_path / "out.h5", annotations=annotations)
    raw = write_tsv(tmp_path / "again.tsv", {"-esJr": 900, "007": 1000, "NA": 602})["007"]
    scores = (np.concatenate([raw, raw[:, -1:]], axis=1) - 1) / 4
    with h5py.File(tmp_path / "out.h5") as file:
        group = file["video_2"]
        picks, shots = group["picks"][()], group["change_points"][()]
        assert np.allclose(group["gtscore"], scores.mean(axis=0)[picks])
        for user, summary in zip(scores, group["user_summary"][()], strict=True):
            assert np.array_equal(summary, shot_summary(user, shots))
        assert np.array_equal(group["gtsummary"], shot_summary(scores.mean(axis=0), shots)[picks])


def test_without_annotations(folder: Path, tmp_path: Path) -> None:
    export_h5.run(folder, tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        names = {"features", "change_points", "n_frame_per_seg", "n_frames", "n_steps", "picks", "video_name"}
        assert all(set(file[group]) == names for group in file)


def test_l2(folder: Path, tmp_path: Path) -> None:
    export_h5.run(folder, tmp_path / "plain.h5")
    export_h5.run(folder, tmp_path / "l2.h5", l2=True)
    with h5py.File(tmp_path / "plain.h5") as plain, h5py.File(tmp_path / "l2.h5") as scaled:
        assert scaled.attrs["l2_normalised"]
        for group in plain:
            assert np.allclose(np.linalg.norm(scaled[group]["features"], axis=1), 1)
            assert np.array_equal(scaled[group]["features"], unit_rows(plain[group]["features"][()]))
            assert np.array_equal(scaled[group]["change_points"], plain[group]["change_points"])


def test_same_bytes_and_rows_in_any_order(folder: Path, annotations: Path, tmp_path: Path) -> None:
    export_h5.run(folder, tmp_path / "one.h5", annotations=annotations)
    export_h5.run(folder, tmp_path / "two.h5", annotations=annotations)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
    rows = sum(len(clip.sample_times()) for clip in CLIPS)
    order = np.r_[0, 1 + np.random.default_rng(2).permutation(rows - 1)]
    shuffled = write_results(tmp_path / "shuffled", CLIPS, dim=12, order=order)
    export_h5.run(shuffled, tmp_path / "three.h5", annotations=annotations)
    with h5py.File(tmp_path / "one.h5") as one, h5py.File(tmp_path / "three.h5") as three:
        by_name = {three[group]["video_name"][()]: three[group] for group in three}
        assert three["video_1"]["video_name"][()] == b"-esJr"
        for group in one.values():
            for name, data in group.items():
                assert np.array_equal(data[()], by_name[group["video_name"][()]][name][()]), name


def test_bad_rows(tmp_path: Path) -> None:
    clips = [Clip("a", 600, bad=[2, 5]), Clip("b", 100, bad=range(7)), Clip("c", 600)]
    folder = write_results(tmp_path / "r", clips, dim=8)
    out = tmp_path / "out.h5"
    with pytest.raises(UserError, match=r"(?s)'a': 2 of 40 rows are bad.*'b': 7 of 7 rows"):
        export_h5.run(folder, out)
    assert not out.exists()
    table = export_h5.run(folder, out, drop_bad=True)
    assert [(row["group"], row["n_steps"], row["dropped"]) for row in table] == [
        ("video_1", 38, 2),
        ("video_3", 40, 0),
    ]
    with h5py.File(out) as file:
        assert set(file) == {"video_1", "video_3"}
        assert file["video_1"].attrs["dropped_bad_rows"] == 2
        assert np.isfinite(file["video_1"]["features"][()]).all()


def test_an_id_that_hdf5_cannot_hold(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "r", [Clip("a", 600), Clip("b\0c", 600)], dim=8)
    with pytest.raises(UserError, match=r"'b\\x00c': HDF5's text cannot hold the character NUL"):
        export_h5.run(folder, tmp_path / "out.h5")


def test_clamped_last_row(tmp_path: Path) -> None:
    clip = Clip("98MoyGZKHXc", 4688, fps=25.0)
    assert round(clip.sample_times()[-1] * 25) == 4688  # equals the number of frames
    export_h5.run(write_results(tmp_path / "r", [clip], dim=8), tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["video_1"]["picks"][-1] == 4687


def test_summaries_that_say_nothing_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One shot: nothing fits. A short and a long one: the short one alone fits, whatever it scores. Ten: scores
    decide."""
    clips = [Clip("a", 600, shots=[]), Clip("b", 600, shots=[5]), Clip("c", 600, shots=range(4, 40, 4))]
    folder = write_results(tmp_path / "r", clips, dim=8)
    write_tsv(tmp_path / "anno.tsv", {"a": 600, "b": 600, "c": 600})
    out = tmp_path / "out.h5"
    table = export_h5.run(folder, out, annotations=tmp_path / "anno.tsv")
    assert [row["choice"] for row in table] == ["empty", "forced", "free"]
    assert table[0]["empty_summaries"] == 5
    said = capsys.readouterr().err
    for sentence in export_h5.remarks(out):
        assert sentence in said
    assert "summaries are empty in 1 of 3 videos (a)" in said
    assert "summaries are forced in 1 of 3 videos (b)" in said
    with h5py.File(out) as file:
        assert [file[f"video_{n}"].attrs["summary_choice"] for n in (1, 2, 3)] == ["empty", "forced", "free"]
    random, truth = np.random.default_rng(0).random((2, 600))
    with h5py.File(out) as file:
        shots = file["video_2"]["change_points"][()]
    assert np.array_equal(shot_summary(random, shots), shot_summary(truth, shots))
    export_h5.run(write_results(tmp_path / "q", clips[2:], dim=8), tmp_path / "free.h5")
    assert export_h5.remarks(tmp_path / "free.h5") == []


# ---- what may be written over --------------------------------------------------------------------------------------


def test_the_source_of_the_shots_is_not_replaced(folder: Path, annotations: Path, tmp_path: Path) -> None:
    """Neither under its own name nor under another one of the same file, not even with force."""
    published = tmp_path / "published.h5"
    with h5py.File(published, "w") as file:
        for number, clip in enumerate(CLIPS, 1):
            file[f"video_{number}/change_points"] = np.array([[0, 99], [100, clip.frames - 1]])
    (tmp_path / "link.h5").symlink_to(published)
    before = published.read_bytes()
    for out in (published, tmp_path / "link.h5", tmp_path / "x" / ".." / "published.h5"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="one of the files that this export is made of"):
            export_h5.run(folder, out, segments_from=published, force=True)
        with pytest.raises(UserError, match="one of the files that this export is made of"):
            export_h5.run(folder, out, labels_from=published, force=True)
    for out in (annotations, folder / "tiny_features.npy", folder / "frame_index.parquet"):
        with pytest.raises(UserError, match="one of the files that this export is made of"):
            export_h5.run(folder, out, annotations=annotations, force=True)
    assert published.read_bytes() == before


def _copy(path: Path) -> Path:
    return Path(shutil.copy(path, path.with_suffix(".copy.h5")))


def test_what_framefeat_did_not_write_is_replaced_only_by_force(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "eccv16_dataset_tvsum_google_pool5.h5"
    for make in (
        lambda: out.write_text("notes"),
        lambda: h5py.File(out, "w").close(),
    ):
        make()
        before = out.read_bytes()
        with pytest.raises(UserError, match="framefeat did not write it"):
            export_h5.run(folder, out)
        assert out.read_bytes() == before
    export_h5.run(folder, out, force=True)
    export_h5.run(folder, out)  # its own
    with h5py.File(out, "a") as file:
        file.attrs["dataset"] = "other"
    with pytest.raises(
        UserError, match=r"is another export \(dataset is 'other'\); give another name, or --force"
    ):
        export_h5.run(folder, out)
    export_h5.run(folder, out, force=True)
    controls.run(folder, tmp_path / "controls", kinds=["zero"])
    with pytest.raises(UserError, match=r"is another export \(control is None\)"):
        export_h5.run(tmp_path / "controls" / "zero", out, segments_from=_copy(out))
    export_h5.run(folder, out)
    with pytest.raises(UserError, match="is a folder"):
        export_h5.run(folder, tmp_path, force=True)


# ---- labels of others ----------------------------------------------------------------------------------------------


def test_videos_keep_their_number_in_the_annotations(annotations: Path, tmp_path: Path) -> None:
    subset = write_results(tmp_path / "r", CLIPS[:0:-1], dim=8)
    export_h5.run(subset, tmp_path / "out.h5", annotations=annotations)
    with h5py.File(tmp_path / "out.h5") as file:
        assert {name: group["video_name"][()] for name, group in file.items()} == {
            "video_2": b"007",
            "video_3": b"NA",
        }


def published_file(path: Path, clips: list[Clip], named: bool) -> dict[str, np.ndarray]:
    """A file as published ones are: every 15th frame, 1024 dimensions, shots and summaries of its own."""
    rng = np.random.default_rng(4)
    scores = {}
    with h5py.File(path, "w") as file:
        for number, clip in enumerate(clips, 1):
            group = file.create_group(f"video_{number}")
            picks = np.arange(0, clip.frames, 15)
            scores[clip.video_id] = rng.random(len(picks)).astype(np.float32)
            starts = np.arange(0, clip.frames, 50)
            group["features"] = np.zeros((len(picks), 1024), np.float32)
            group["picks"] = picks
            group["gtscore"] = scores[clip.video_id]
            group["change_points"] = np.stack([starts, np.r_[starts[1:], clip.frames] - 1], axis=1)
            group["user_summary"] = rng.integers(0, 2, (3, clip.frames)).astype(np.float32)
            if named:
                group["video_name"] = clip.video_id + ".mp4"
    return scores


@pytest.mark.parametrize("named", [True, False])
def test_labels_of_another_file(tmp_path: Path, named: bool) -> None:
    other, out = tmp_path / "other.h5", tmp_path / "out.h5"
    scores = published_file(other, CLIPS, named)
    clips = [CLIPS[2], CLIPS[1]] if named else CLIPS  # without names the order of the index is all there is
    folder = write_results(tmp_path / "r", clips, dim=8)
    export_h5.run(folder, out, labels_from=other)
    with h5py.File(other) as theirs, h5py.File(out) as ours:
        assert set(ours) == ({"video_2", "video_3"} if named else set(theirs))
        for name, group in ours.items():
            assert np.array_equal(group["user_summary"][()], theirs[name]["user_summary"][()])
            assert np.array_equal(group["change_points"][()], theirs[name]["change_points"][()])
            mine = scores[group["video_name"][()].decode()][group["picks"][()] // 15]
            assert np.array_equal(group["gtscore"][()], mine)
        assert ours.attrs["summaries"] == "from other.h5"
    read_like_pgl_sum(out)
    twin = controls.make_controls(folder, tmp_path / "controls", kinds=["zero"])["zero"]
    export_h5.run(twin, tmp_path / "zero.h5", labels_from=other)


#: What a file may hold instead of numbers that can be used, by the option's data set.
ODD = [
    ("gtscore", "group"),
    ("gtscore", np.array([b"a", b"b"])),
    ("picks", np.full(60, np.nan)),
    ("picks", np.arange(60) * 15 - 50),
    ("picks", np.array([b"a"])),
    ("user_summary", np.zeros((0, 900), np.uint8)),
    ("user_summary", np.full((2, 900), np.nan)),
    ("user_summary", h5py.Empty("f")),
    ("change_points", "group"),
    ("change_points", h5py.SoftLink("/nowhere")),
    ("change_points", h5py.Empty("f")),
    ("change_points", "text"),
    ("change_points", np.full((2, 2), np.nan)),
    ("change_points", np.array([[b"a", b"b"]])),
]


@pytest.mark.parametrize(("name", "value"), ODD, ids=[f"{name}-{n}" for n, (name, _) in enumerate(ODD)])
def test_what_is_no_numbers_in_another_file_is_named(
    folder: Path, tmp_path: Path, name: str, value: object
) -> None:
    other = tmp_path / "other.h5"
    published_file(other, CLIPS, named=True)
    with h5py.File(other, "a") as file:
        del file[f"video_1/{name}"]
        if isinstance(value, str) and value == "group":
            file.create_group(f"video_1/{name}")
        else:
            file[f"video_1/{name}"] = value
    option = "segments_from" if name == "change_points" else "labels_from"
    with pytest.raises(UserError, match=rf"'-esJr' \(video_1\): .*{name}"):
        export_h5.run(folder, tmp_path / "out.h5", **{option: other})  # type: ignore[arg-type]


def test_odd_objects_in_another_file_harm_no_other_video(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    published_file(other, CLIPS, named=True)
    with h5py.File(other, "a") as file:
        file["a link to nothing"] = h5py.SoftLink("/nowhere")
        file["elsewhere"] = h5py.ExternalLink("none.h5", "/")
        for place, name in enumerate([np.zeros(0, "S1"), b"M\xfcnchen", "group"]):
            group = file.create_group(f"odd_{place}")
            if isinstance(name, str):
                group.create_group("video_name")
            else:
                group["video_name"] = name
    assert len(export_h5.run(folder, tmp_path / "out.h5", labels_from=other)) == len(CLIPS)


@pytest.mark.parametrize("vmax", [float("nan"), float("inf"), -1.0])
def test_a_weight_that_is_none(folder: Path, tmp_path: Path, vmax: float) -> None:
    with pytest.raises(UserError, match="is no weight of a penalty"):
        export_h5.run(folder, tmp_path / "out.h5", vmax=vmax)


def test_a_place_that_is_in_no_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"x.h5' cannot be written: .*file' is no folder"):
        export_h5.run(folder, tmp_path / "file" / "sub" / "x.h5")


def test_labels_that_do_not_fit(folder: Path, annotations: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "other.h5", tmp_path / "out.h5"
    published_file(other, CLIPS, named=True)
    with pytest.raises(UserError, match="labels-from and annotations do not go together"):
        export_h5.run(folder, out, labels_from=other, annotations=annotations)
    with h5py.File(other, "a") as file:
        del file["video_1/gtscore"]
        users = file["video_2/user_summary"][:, :900]
        del file["video_2/user_summary"], file["video_3"]
        file["video_2/user_summary"] = users
    with pytest.raises(
        UserError,
        match=r"(?s)'-esJr'.*no gtscore.*'007'.*covers 900 frames but 1001.*'NA'.*no video of this name",
    ):
        export_h5.run(folder, out, labels_from=other)
    with pytest.raises(UserError, match=r"labels-from: the file .* does not exist"):
        export_h5.run(folder, out, labels_from=tmp_path / "none.h5")
    assert not out.exists()


def write_summe(folder: Path, clips: list[Clip], **changes: Any) -> dict[str, np.ndarray]:
    """SumMe's files as its description has them: one per video, frames by users, above 0 where the user chose the
    frame."""
    from scipy.io import savemat

    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(3)
    chosen = {}
    for clip in clips:
        users = np.repeat(rng.integers(0, 4, (clip.frames // 50 + 1, 15)), 50, axis=0)[: clip.frames]
        chosen[clip.video_id] = users > 0
        values = {
            "user_score": users.astype(float),
            "gt_score": (users > 0).mean(axis=1, keepdims=True),
            "nFrames": float(clip.frames),
            "FPS": clip.fps,
            "segments": np.array([np.zeros((1, 2))] * 15, dtype=object)[None],
            "video_duration": clip.frames / clip.fps,
        } | changes
        savemat(
            folder / f"{clip.video_id}.mat",
            {name: value for name, value in values.items() if value is not None},
        )
    return chosen


def test_summe(tmp_path: Path) -> None:
    clips = [Clip("Base jumping", 600, fps=25.0), Clip("Air_Force_One", 500)]
    chosen = write_summe(tmp_path / "GT", [*clips, Clip("Cooking", 300)])
    (tmp_path / "GT" / "Cooking.mat").rename(tmp_path / "GT" / "Cooking.MAT")
    (tmp_path / "GT" / "._Cooking.mat").write_bytes(b"what macOS leaves")
    names = [file.name for file in files_of_summe(tmp_path / "GT")]
    assert names == ["Air_Force_One.mat", "Base jumping.mat", "Cooking.MAT"]
    folder = write_results(tmp_path / "r", clips, dim=8)
    export_h5.run(folder, tmp_path / "out.h5", annotations=tmp_path / "GT")
    with h5py.File(tmp_path / "out.h5") as file:
        assert [file[f"video_{n}/video_name"][()] for n in (1, 2)] == [b"Air_Force_One", b"Base jumping"]
        group = file["video_2"]
        assert np.array_equal(group["user_summary"][()], chosen["Base jumping"].T)
        assert np.allclose(group["gtscore"][()], chosen["Base jumping"].mean(axis=1)[group["picks"][()]])
        assert file.attrs["summaries"] == "user_score > 0"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gt_score": None}, "has no gt_score"),
        ({"nFrames": 7.0}, r"user_score is \[500, 15\] .* nFrames says 7"),
        ({"gt_score": np.full((500, 1), np.nan)}, "NaN or infinity"),
        ({"user_score": "none"}, "are not numbers"),
    ],
)
def test_wrong_summe_files(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    write_summe(tmp_path / "GT", [Clip("a", 500)], **changes)
    with pytest.raises(UserError, match=said), open_annotations(tmp_path / "GT") as source:
        source.labels("a")


def test_folders_and_files_that_are_not_summe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no \.mat file"):
        open_annotations(tmp_path)
    write_summe(tmp_path, [Clip("a", 500)])
    with pytest.raises(UserError, match="give the folder that holds"):
        open_annotations(tmp_path / "a.mat")
    (tmp_path / "a.mat").write_bytes(b"MATLAB")
    with (
        pytest.raises(UserError, match="not a MATLAB file as SumMe's are"),
        open_annotations(tmp_path) as source,
    ):
        source.frames("a")


def test_refusals(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    write_tsv(tmp_path / "far.tsv", {"-esJr": 903, "007": 1001})
    with pytest.raises(
        UserError, match=r"(?s)'-esJr': 903 frames are annotated but 900.*'NA': there are no annotations"
    ):
        export_h5.run(folder, out, annotations=tmp_path / "far.tsv")
    with pytest.raises(UserError, match="does not exist"):
        export_h5.run(folder, out, annotations=tmp_path / "none.mat")
    (tmp_path / "x.mat").write_text("MATLAB 5.0")
    with pytest.raises(UserError, match=r"not a MATLAB v7.3"):
        export_h5.run(folder, out, annotations=tmp_path / "x.mat")
    (tmp_path / "x.tsv").write_text("-esJr\tVT\t1,2,three\n007\tVT\t1\nNA\tVT\t1\n")
    with pytest.raises(UserError, match=r"line 1: expected video id"):
        export_h5.run(folder, out, annotations=tmp_path / "x.tsv")
    (tmp_path / "x.tsv").write_text("-esJr\tVT\t" + ",".join(["7"] * 900) + "\n")
    with pytest.raises(UserError, match="not a table of numbers from 1 to 5"):
        export_h5.run(folder, out, annotations=tmp_path / "x.tsv")
    assert not out.exists()


def test_controls_keep_the_shots_of_the_original(folder: Path, annotations: Path, tmp_path: Path) -> None:
    export_h5.run(folder, tmp_path / "real.h5", annotations=annotations)
    for kind, twin in controls.make_controls(folder, tmp_path / "controls").items():
        out = tmp_path / f"{kind}.h5"
        with pytest.raises(UserError, match="give that file as --segments-from"):
            export_h5.run(twin, out, annotations=annotations)
        export_h5.run(twin, out, annotations=annotations, segments_from=tmp_path / "real.h5")
        with h5py.File(tmp_path / "real.h5") as real, h5py.File(out) as control:
            assert f'"kind": "{kind}"' in control.attrs["control"]
            assert not control.attrs["alignment_verified"]
            for group in real:
                for name in real[group]:
                    assert np.array_equal(real[group][name][()], control[group][name][()]) == (
                        name != "features"
                    ), name


def test_shots_of_another_file(folder: Path, tmp_path: Path) -> None:
    def foreign(ends: list[int], starts: list[int]) -> Path:
        with h5py.File(tmp_path / "foreign.h5", "w") as file:
            for number, end in enumerate(ends, 1):
                points = np.array([[0, starts[number - 1] - 1], [starts[number - 1], end]])
                file[f"video_{number}/change_points"] = points
        return tmp_path / "foreign.h5"

    out = tmp_path / "out.h5"
    export_h5.run(folder, out, segments_from=foreign([899, 999, 600], [100, 100, 100]))
    with h5py.File(out) as file:
        assert file["video_2"]["change_points"][()].tolist() == [[0, 99], [100, 1000]]
        assert file["video_2"]["n_frame_per_seg"][()].tolist() == [100, 901]
        assert file.attrs["change_points"] == "from foreign.h5"
    assert "by place, not by name" in export_h5.remarks(out)[-1]
    other = foreign([700, 1000], [100, 100])
    with pytest.raises(UserError, match=r"names no videos .*2 groups where this run has 3 videos"):
        export_h5.run(folder, out, segments_from=other)
    with h5py.File(other, "a") as file:
        file.create_group("video_3")
    with pytest.raises(UserError, match=r"(?s)'-esJr' .* end at frame 700 of 900.*'NA' .*no change_points"):
        export_h5.run(folder, out, segments_from=other)


def test_names_of_another_file(tmp_path: Path) -> None:
    """With or without a suffix on either side; one name for two videos is nobody's."""
    other = tmp_path / "other.h5"
    scores = published_file(other, CLIPS, named=True)
    with h5py.File(other, "a") as file:
        for group in file.values():
            name = group["video_name"][()].decode().removesuffix(".mp4")
            del group["video_name"]
            group["video_name"] = name
    clips = [dataclasses.replace(clip, video_id=f"{clip.video_id}.mp4") for clip in CLIPS]
    folder = write_results(tmp_path / "r", clips, dim=8)
    export_h5.run(folder, tmp_path / "out.h5", labels_from=other)
    with h5py.File(tmp_path / "out.h5") as ours:
        for group in ours.values():
            mine = scores[group["video_name"][()].decode().removesuffix(".mp4")]
            assert np.array_equal(group["gtscore"][()], mine[group["picks"][()] // 15])
    with h5py.File(other, "a") as file:
        del file["video_2/video_name"]
        file["video_2/video_name"] = file["video_1/video_name"][()]
    with pytest.raises(UserError, match=r"two videos of the name .* \(video_1, video_2\)"):
        export_h5.run(folder, tmp_path / "out.h5", labels_from=other)


@pytest.mark.parametrize("force", [True, False])
def test_a_pipe_is_no_place_for_an_export(folder: Path, tmp_path: Path, force: bool) -> None:
    os.mkfifo(tmp_path / "out.h5")
    with pytest.raises(UserError, match="is a pipe or a device"):
        export_h5.run(folder, tmp_path / "out.h5", force=force)


# ---- what the consumers do: each function follows one public reader key by key -----------------------------------


def frame_level(scores: np.ndarray, picks: np.ndarray, n_frames: Any) -> np.ndarray:
    """Scores of steps spread to native frames, as all five do it: each holds until the next pick."""
    frames = np.zeros(n_frames, dtype=np.float32)
    if picks.dtype != int:
        picks = picks.astype(np.int32)
    if picks[-1] != n_frames:
        picks = np.concatenate([picks, [n_frames]])
    for step in range(len(picks) - 1):
        frames[picks[step] : picks[step + 1]] = 0 if step == len(scores) else scores[step]
    return frames


def f_score(summary: np.ndarray, users: np.ndarray) -> float:
    machine, users = np.asarray(summary, dtype=bool), np.asarray(users, dtype=bool)
    assert machine.shape == users.shape[1:]
    scores = []
    for user in users:
        both = (machine & user).sum()
        scores.append(2 * both / max(1, machine.sum() + user.sum()))
    return float(np.mean(scores))


def read_like_vsumm_reinforce(path: Path) -> dict[str, float]:
    import torch

    result = {}
    with h5py.File(path, "r") as dataset:
        for key in dataset.keys():  # noqa: SIM118  its splits are made of keys()
            sequence = torch.from_numpy(dataset[key]["features"][...]).unsqueeze(0)
            assert sequence.dtype == torch.float32
            torch.nn.LSTM(sequence.shape[2], 4, batch_first=True)(sequence)
            shots, frames = dataset[key]["change_points"][...], dataset[key]["n_frames"][()]
            lengths = dataset[key]["n_frame_per_seg"][...].tolist()
            scores = frame_level(dataset[key]["gtscore"][...], dataset[key]["picks"][...], frames)
            means = [
                float(scores[int(shots[i, 0]) : int(shots[i, 1] + 1)].mean()) for i in range(shots.shape[0])
            ]
            order = np.argsort(means)[::-1]
            parts, total = {}, 0
            for shot in order:
                parts[shot] = total + lengths[shot] < int(np.floor(frames * 0.15))
                total += lengths[shot] * parts[shot]
            summary = np.concatenate(
                [np.full(lengths[i], parts[i], dtype=np.float32) for i in range(len(lengths))]
            )
            result[key] = f_score(summary, dataset[key]["user_summary"][...])
    return result


def read_like_vasnet(path: Path, copy: Path) -> None:
    import torch

    with h5py.File(path, "r") as dataset, h5py.File(copy, "w") as saved:
        for key in dataset:
            group = dataset[key]
            target = torch.from_numpy(group["gtscore"][...]).unsqueeze(0)
            target -= target.min()
            target /= target.max()
            assert torch.isfinite(target).all()
            sequence = torch.from_numpy(group["features"][...]).unsqueeze(0)
            assert target.shape[1] == sequence.shape[1]
            assert (
                torch.nn.Linear(sequence.shape[2], 1)(sequence.view(-1, sequence.shape[2])).shape[0]
                == target.shape[1]
            )
            saved.create_dataset(key + "/picks", data=group["picks"][...])
            saved.create_dataset(key + "/video_name", data=group["video_name"][...])


def read_like_pgl_sum(path: Path) -> None:
    import torch

    with h5py.File(path, "r") as hdf:
        for video in list(hdf.keys()):
            values = torch.Tensor(np.array(hdf[video + "/features"]))
            assert values.dtype == torch.float32
            assert torch.Tensor(np.array(hdf[video + "/gtscore"])).shape == values.shape[:1]
            assert torch.equal(values.view(-1, values.shape[1]), values)  # its test mode, with --input_size D
            index = video[6:]
            frames = np.array(hdf.get("video_" + index + "/n_frames"))
            shots = np.array(hdf.get("video_" + index + "/change_points"))
            picks = np.array(hdf.get("video_" + index + "/picks"))
            users = np.array(hdf.get("video_" + index + "/user_summary"))
            scores = frame_level(np.array(hdf.get(video + "/gtscore")), picks, frames)
            for shot in shots:
                assert np.isfinite(scores[shot[0] : shot[1] + 1].mean().item())
            assert np.zeros(shots[-1][1] + 1, dtype=np.int8).shape == users.shape[1:]


def read_like_dsnet(path: Path, downsample: Any) -> None:
    with h5py.File(path, "r") as dataset:
        for group in dataset.values():
            sequence = group["features"][...].astype(np.float32)
            score = group["gtscore"][...].astype(np.float32)
            shots = group["change_points"][...].astype(np.int32)
            frames = group["n_frames"][...].astype(np.int32)
            lengths = group["n_frame_per_seg"][...].astype(np.int32)
            picks = group["picks"][...].astype(np.int32)
            assert group["user_summary"][...].astype(np.float32).shape[1] == frames
            score -= score.min()
            score /= score.max()
            assert score.shape == picks.shape
            assert lengths.sum() == frames
            summary = shot_summary(frame_level(score, picks, frames), shots)
            if len(downsample(summary, picks)) != len(sequence):
                raise IndexError("the target is not as long as the sequence")


def read_like_csta(path: Path) -> None:
    import torch

    with h5py.File(path, "r") as hdf:
        for video in hdf:
            values = torch.from_numpy(hdf[video]["features"][()]).float()
            image = values.unsqueeze(0).expand(3, -1, -1).unsqueeze(0)
            assert image.shape == (1, 3, *values.shape)
            assert torch.from_numpy(hdf[video]["gtscore"][()]).float().shape == values.shape[:1]
            assert (
                int(video.split("_")[-1]) >= 1
            )  # the number under which it looks up its own copy of the annotations
            frames, picks = np.array(hdf[f"{video}/n_frames"]), np.array(hdf[f"{video}/picks"])
            frame_level(hdf[video]["gtscore"][()], picks, frames)


def test_consumers_read_it(folder: Path, annotations: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    export_h5.run(folder, out, annotations=annotations)
    scores = read_like_vsumm_reinforce(out)
    assert set(scores) == {"video_1", "video_2", "video_3"}
    assert all(0 <= score <= 1 for score in scores.values())
    assert max(scores.values()) > 0
    read_like_vasnet(out, tmp_path / "saved.h5")
    with h5py.File(tmp_path / "saved.h5") as saved:
        assert saved["video_1/video_name"][()] == b"-esJr"
    read_like_pgl_sum(out)
    read_like_csta(out)
    read_like_dsnet(out, lambda summary, picks: summary[picks])


def test_code_that_assumes_every_15th_frame(folder: Path, annotations: Path, tmp_path: Path) -> None:
    """DSNet and CSTA take every 15th frame instead of ``picks``: right for an index made that way, wrong at 2 per
    second."""
    out = tmp_path / "out.h5"
    export_h5.run(folder, out, annotations=annotations)
    with pytest.raises(IndexError):
        read_like_dsnet(out, lambda summary, _: summary[::15])
    clips = [
        Clip(clip.video_id, clip.frames, clip.fps, np.arange(0, clip.frames, 15) / clip.fps) for clip in CLIPS
    ]
    export_h5.run(write_results(tmp_path / "every15", clips, dim=12), out, annotations=annotations)
    read_like_dsnet(out, lambda summary, _: summary[::15])
    with h5py.File(out) as file:
        for group in file.values():
            assert np.array_equal(group["picks"], np.arange(0, group["n_frames"][()], 15))


# ---- TVSum's own annotations --------------------------------------------------------------------------------------


@needs_tvsum
def test_published_scores_are_reproduced() -> None:
    """Values of ``gtscore`` that a user of the published file printed in a public thread, found as (mean - 1) / 4 at
    every 15th frame."""
    with MatAnnotations(TVSUM / "ydata-tvsum50.mat") as source:
        scores = unit_scores(source.scores("vdmoEJ5YbrQ")).mean(axis=0)[::15]
    head, tail = (
        np.repeat([0.3, 0.25, 0.1375, 0.125, 0.1625], 4),
        np.repeat([0.2, 0.1625, 0.125, 0.2], [4, 4, 4, 6]),
    )
    assert np.allclose(scores[:20], head, atol=1e-6)
    assert np.allclose(scores[-18:], tail, atol=1e-6)


@needs_tvsum
def test_mat_and_tsv_give_the_same_scores(tmp_path: Path) -> None:
    with MatAnnotations(TVSUM / "ydata-tvsum50.mat") as mat:
        values = mat.scores("AwmHb44_ouw")
        assert values.shape == (20, 10597)
        lines = [f"AwmHb44_ouw\tVT\t{','.join(str(int(score)) for score in user)}\n" for user in values]
        (tmp_path / "anno.tsv").write_text("".join(lines))
    with TsvAnnotations(tmp_path / "anno.tsv") as tsv:
        assert tsv.video_ids == ["AwmHb44_ouw"]
        assert np.array_equal(tsv.scores("AwmHb44_ouw"), values)


@needs_tvsum
def test_tvsum_targets_are_these_scores() -> None:
    """The notebook's targets are gtscore at its rows; in one video its reader took the first annotator for a header."""
    targets = pd.read_parquet(TVSUM / "tvsum_targets.parquet")
    rows = pd.read_parquet(TVSUM / "tvsum_frame_index.parquet").merge(targets, on=["video_id", "frame_idx"])
    table = pd.read_csv(TVSUM / "tvsum_index.csv", dtype={"video_id": str}, keep_default_na=False).set_index(
        "video_id"
    )
    with MatAnnotations(TVSUM / "ydata-tvsum50.mat") as source:
        for video, part in rows.groupby("video_id", sort=False):
            scores = source.scores(str(video))
            native = (
                np.round(part["timestamp_sec"] * table["fps"][video]).astype(int).clip(0, scores.shape[1] - 1)
            )
            used = scores[1:] if video == "AwmHb44_ouw" else scores
            assert np.allclose(unit_scores(used).mean(axis=0)[native], part["importance_score"], atol=1e-6), (
                video
            )


@needs_tvsum
def test_tvsum_export(tmp_path: Path) -> None:
    folder = tvsum_standin(tmp_path / "tvsum" / "bb")
    out = tmp_path / "tvsum.h5"
    table = export_h5.run(folder, out, annotations=TVSUM / "ydata-tvsum50.mat")
    assert len(table) == 50
    assert {
        row["video"]: row["annotation_length"] for row in table if row["annotation_length"] != "equal"
    } == {
        "WG0MBPpPC6I": "last score repeated 1x",
        "Se3oxnaPsz0": "last score repeated 1x",
    }
    with h5py.File(out) as file:
        assert len(file) == 50
        first = file["video_1"]
        assert first["video_name"][()] == b"AwmHb44_ouw"
        assert first["n_frames"][()] == 10597
        assert first["n_steps"][()] == 708
        assert first["user_summary"].shape == (20, 10597)
        assert file["video_50"]["video_name"][()] == b"-esJrBWj2d8"
        assert sum(group["n_steps"][()] for group in file.values()) == 25190
        shares = [group["user_summary"][()].mean(axis=1) for group in file.values()]
        assert max(map(max, shares)) <= 0.15
    read_like_pgl_sum(out)
    read_like_dsnet(out, lambda summary, picks: summary[picks])
    assert len(read_like_vsumm_reinforce(out)) == 50


def test_fit_length() -> None:
    scores = np.array([[1.0, 2.0, 3.0]])
    assert fit_length(scores, 5).tolist() == [[1, 2, 3, 3, 3]]
    assert fit_length(scores, 2).tolist() == [[1, 2]]


def test_scene_features_are_what_the_tests_think() -> None:
    values = scene_features(np.random.default_rng(0), 30, 8, [10])
    assert np.abs(values[9] - values[0]).max() < 0.11 < np.abs(values[10] - values[0]).max()
