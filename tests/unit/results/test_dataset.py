import contextlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import framefeat
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from framefeat import pad_collate
from framefeat.errors import UserError

from tests.unit.results.tiny_results import TVSUM, Clip, tvsum_standin, write_results

CLIPS = [Clip("-esJr", 300), Clip("007", 450, bad=[4]), Clip("NA", 200)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_results(tmp_path / "tiny" / "bb", CLIPS, dim=6)


@pytest.fixture
def targets(folder: Path) -> pd.DataFrame:
    index = framefeat.load(folder).index
    return pd.DataFrame(
        {
            "video_id": index["video_id"],
            "frame_idx": index["frame_idx"],
            "importance_score": np.arange(len(index)) / 100,
        }
    ).sample(frac=1, random_state=0)


def test_load(folder: Path) -> None:
    features = framefeat.load(folder)
    assert isinstance(features.matrix, np.memmap)
    assert not features.matrix.flags.writeable
    assert features.video_ids == ["-esJr", "007", "NA"]
    assert len(features) == len(features.index) == 20 + 30 + 14
    assert features.dim == 6
    assert features.rows_of("007").tolist() == list(range(20, 50))
    part = features.features_of("007")
    assert np.shares_memory(part, features.matrix)
    assert np.array_equal(part, features.matrix[20:50], equal_nan=True)
    for path in (features.matrix_path, folder / "feature_manifest.json"):
        assert len(framefeat.load(path)) == len(features)


def test_the_folder_of_a_data_set_will_do_where_it_has_one_backbone(folder: Path) -> None:
    assert framefeat.load(folder.parent).folder == folder
    write_results(folder.parent / "other", CLIPS, dim=4)
    with pytest.raises(UserError, match=r"several backbones: give one of .*/bb', '.*/other'"):
        framefeat.load(folder.parent)


def test_interleaved_rows_and_time_order(tmp_path: Path) -> None:
    clips = [Clip("a", 300), Clip("b", 200)]
    order = np.random.default_rng(0).permutation(20 + 14)
    features = framefeat.load(write_results(tmp_path, clips, dim=4, order=order))
    plain = framefeat.load(write_results(tmp_path / "plain", clips, dim=4))
    rows = features.rows_of("a")
    assert np.all(np.diff(rows) > 0)
    assert np.array_equal(features.features_of("a"), features.matrix[rows])
    assert np.array_equal(features.matrix[features.times_order("a")], plain.features_of("a"))
    item = features.sequences(split=["b"])[0]
    assert np.array_equal(item["features"].numpy(), plain.features_of("b"))


def test_sequences_and_padding(folder: Path, targets: pd.DataFrame, tmp_path: Path) -> None:
    features = framefeat.load(folder)
    split = tmp_path / "train.txt"
    split.write_text("NA\n\n-esJr\n007\n", encoding="utf-8")
    file = tmp_path / "targets.parquet"
    targets.to_parquet(file, index=False)
    data = features.sequences(targets=file, split=split)
    assert data.video_ids == ["NA", "-esJr", "007"]
    item = data[2]
    assert item["video_id"] == "007"
    assert item["features"].shape == (30, 6)
    assert item["mask"].tolist() == [place != 4 for place in range(30)]
    assert not item["features"][4].any()
    assert np.allclose(item["target"].numpy(), np.arange(20, 50) / 100)
    assert item["rows"].tolist() == list(range(20, 50))

    batch = pad_collate([data[0], data[2]])
    assert batch["features"].shape == (2, 30, 6)
    assert batch["lengths"].tolist() == [14, 30]
    assert batch["mask"].sum(1).tolist() == [14, 29]
    assert not batch["features"][0, 14:].any()
    assert not batch["target"][0, 14:].any()
    assert batch["rows"][0, 14:].eq(-1).all()
    assert batch["video_id"] == ["NA", "007"]
    assert pad_collate([features.sequences()[0]])["target"] is None


def test_loader_with_worker_processes(folder: Path) -> None:
    from torch.utils.data import DataLoader

    data = framefeat.load(folder).sequences()
    assert len(pickle.dumps(data)) < 20_000  # the file is opened again, not sent
    seen = [
        name
        for batch in DataLoader(data, batch_size=2, collate_fn=pad_collate, num_workers=1)
        for name in batch["video_id"]
    ]
    assert seen == data.video_ids


def test_targets_as_csv_keep_odd_ids(folder: Path, targets: pd.DataFrame, tmp_path: Path) -> None:
    targets.to_csv(tmp_path / "t.csv", index=False)
    data = framefeat.load(folder).sequences(targets=tmp_path / "t.csv")
    assert np.allclose(data[1]["target"].numpy(), np.arange(20, 50) / 100)


def test_wrong_splits_and_targets(folder: Path, targets: pd.DataFrame, tmp_path: Path) -> None:
    features = framefeat.load(folder)
    with pytest.raises(UserError, match=r"(?s)not in .*'nope'.*'nada'"):
        features.sequences(split=["007", "nope", "nada"])
    with pytest.raises(UserError, match=r"(?s)more than once.*'007'"):
        features.sequences(split=["007", "007"])
    with pytest.raises(UserError, match="no video id"):
        features.sequences(split=[])
    with pytest.raises(UserError, match="does not exist"):
        features.sequences(split=tmp_path / "none.txt")
    lost = targets[~((targets["video_id"] == "007") & targets["frame_idx"].isin([3, 9]))]
    with pytest.raises(UserError, match=r"'007': 2 rows, the first with frame_idx 3"):
        features.sequences(targets=lost)
    assert len(features.sequences(targets=lost, split=["NA"])) == 1
    with pytest.raises(UserError, match=r"(?s)more than once.*'NA', 0"):
        features.sequences(
            targets=pd.concat([targets, targets[(targets["video_id"] == "NA") & (targets["frame_idx"] == 0)]])
        )
    with pytest.raises(UserError, match="choose the target among"):
        features.sequences(targets=targets.assign(other=1.0))
    assert len(features.sequences(targets=targets.assign(other=1.0), target_column="other")) == 3
    with pytest.raises(UserError, match="no column 'score'"):
        features.sequences(targets=targets, target_column="score")
    with pytest.raises(UserError, match="column frame_idx is missing"):
        features.sequences(targets=targets.drop(columns="frame_idx"))
    with pytest.raises(UserError, match="there is no video 'xyz'"):
        features.features_of("xyz")


def test_targets_that_are_no_numbers(folder: Path, targets: pd.DataFrame) -> None:
    features = framefeat.load(folder)

    def refused(words: str, given: object, **more: Any) -> None:
        with pytest.raises(UserError, match=words):
            features.sequences(targets=given, **more)

    days = pd.to_datetime(["2020-01-01"] * len(targets))
    refused("column importance_score holds datetime64.*not numbers", targets.assign(importance_score=days))
    refused(
        "column importance_score holds timedelta64.*not numbers", targets.assign(importance_score=days - days)
    )
    refused("column importance_score holds complex128, not numbers", targets.assign(importance_score=1 + 2j))
    refused(
        "several columns are named importance_score",
        pd.concat([targets, targets[["importance_score"]]], axis=1),
    )
    named = targets["frame_idx"].map("f{:05}".format)
    refused(r"frame_idx holds what is no number .*'f000", targets.assign(frame_idx=named))
    refused("without a finite number", np.ma.masked_less(np.arange(len(features.index)), 3))
    refused("the fields score of the array have 2 dimensions", np.zeros(3, [("score", float, 2)]))
    refused("text that is not UTF-8", np.array([(b"M\xfc", 1, 1.0)], targets_type()))
    numbered = features.sequences(targets=targets.rename(columns={"importance_score": 0}))
    assert np.array_equal(numbered[0]["target"], features.sequences(targets=targets)[0]["target"])
    odd = pa.Table.from_pandas(targets).append_column("at", pa.array([1] * len(targets), pa.time64("ns")))
    assert len(features.sequences(targets=odd, target_column="importance_score")) == 3
    for split in (3, b"007"):
        with pytest.raises(UserError, match="neither a list of video ids nor a text file"):
            features.sequences(split=split)


def targets_type() -> list[tuple[str, str]]:
    return [("video_id", "S5"), ("frame_idx", "i8"), ("score", "f8")]


def test_rows_without_a_number_get_no_target_of_their_kind(folder: Path, targets: pd.DataFrame) -> None:
    """Null in both tables is no key."""
    path = folder / "frame_index.parquet"
    index = pd.read_parquet(path)
    index["frame_idx"] = index["frame_idx"].astype("Int64").mask(index["video_id"] == "007")
    index.to_parquet(path)
    nameless = pd.DataFrame({"video_id": ["007"], "frame_idx": [None], "importance_score": [0.5]})
    with pytest.raises(UserError, match="there is no importance_score for these rows"):
        framefeat.load(folder).sequences(targets=pd.concat([targets, nameless]), split=["007"])


def test_the_folder_above(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    assert framefeat.load("..").folder == folder.resolve()


def test_a_column_that_pandas_has_no_type_for_is_kept(folder: Path) -> None:
    path = folder / "frame_index.parquet"
    table = pq.read_table(path)
    shot_at = pa.array([123_456_789] * table.num_rows, pa.time64("ns"))
    pq.write_table(table.append_column("shot_at", shot_at), path)
    index = framefeat.load(folder).index
    assert pa.array(index["shot_at"]).equals(shot_at)
    pd.testing.assert_frame_equal(index.drop(columns="shot_at"), table.to_pandas())


def test_files_that_do_not_belong_together(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        framefeat.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"there is no feature_manifest.json"):
        framefeat.load(tmp_path)
    matrix = folder / "tiny_features.npy"
    values = np.load(matrix)
    np.save(matrix, values[:-1])
    with pytest.raises(UserError, match="different runs"):
        framefeat.load(folder)
    matrix.write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match="not a whole"):
        framefeat.load(folder)


def test_short_repr(folder: Path) -> None:
    features = framefeat.load(folder)
    assert repr(features) == f"<framefeat.Features {str(folder)!r}: 64 rows x 6, 3 videos>"


def test_after_a_change_of_directory_and_in_another_process(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    features = framefeat.load("bb")
    packed = pickle.dumps(features.sequences())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(features.sequences()[0]["features"]) == 20
    (tmp_path / "packed").write_bytes(packed)
    code = f"import pickle; print(len(pickle.load(open({str(tmp_path / 'packed')!r}, 'rb'))[0]['rows']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout == "20\n"


def test_parts_that_lie_apart(folder: Path, tmp_path: Path) -> None:
    parts = {}
    for name, file in (
        ("matrix", "tiny_features.npy"),
        ("index", "frame_index.parquet"),
        ("manifest", "feature_manifest.json"),
    ):
        parts[name] = tmp_path / name / "renamed"
        parts[name].parent.mkdir()
        parts[name].write_bytes((folder / file).read_bytes())
    features = framefeat.load(**parts)
    assert len(features) == 64
    assert len(pickle.loads(pickle.dumps(features))) == 64  # noqa: S301
    (folder / "feature_manifest.json").unlink()
    assert len(framefeat.load(folder, manifest=parts["manifest"])) == 64
    with pytest.raises(UserError, match=r"matrix, index and manifest \(manifest is missing\)"):
        framefeat.load(matrix=parts["matrix"], index=parts["index"])
    for wrong in ({"path": 3}, {"path": folder, "matrix": features.matrix}):
        with pytest.raises(UserError, match="is to be the path of a file or folder"):
            framefeat.load(**wrong)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt' is no folder of results"):
        framefeat.load(folder / "notes.txt")
    with pytest.raises(UserError, match="index: the file 'none' does not exist"):
        framefeat.load(folder, index="none")
    parts["manifest"].write_text("[1]")
    with pytest.raises(UserError, match="not a whole manifest"):
        framefeat.load(**parts)
    with pytest.raises(UserError, match="not a whole Parquet file"):
        framefeat.load(folder, manifest=_copied(folder, tmp_path), index=parts["matrix"])


def _copied(folder: Path, tmp_path: Path) -> Path:
    path = write_results(tmp_path / "copy", CLIPS, dim=6) / "feature_manifest.json"
    return path.rename(folder / "feature_manifest.json")


def test_targets_of_other_libraries(folder: Path, targets: pd.DataFrame) -> None:
    import pyarrow as pa

    features = framefeat.load(folder)
    wanted = features.sequences(targets=targets)[2]["target"].tolist()
    given: list[Any] = [
        pa.Table.from_pandas(targets),
        np.arange(64) / 100,
        targets.assign(video_id=targets["video_id"].astype("S8")).to_records(
            index=False, column_dtypes={"video_id": "S8"}
        ),
    ]
    with contextlib.suppress(ImportError):
        import polars

        given += [polars.from_pandas(targets), polars.from_pandas(targets).lazy()]
    for table in given:
        assert features.sequences(targets=table)[2]["target"].tolist() == wanted, type(table)
    with pytest.raises(UserError, match=r"array is float64 \[63\], the matrix has 64 rows"):
        features.sequences(targets=np.arange(63) / 100)
    lacking = np.where(np.arange(64) == 21, np.nan, 0.5)
    with pytest.raises(
        UserError, match="1 row without a finite number, the first of them row 21 \\('007'\\)"
    ):
        features.sequences(targets=lacking)
    assert len(features.sequences(targets=lacking, split=["NA"])) == 1
    with pytest.raises(UserError, match="targets: DoubleArray is no table"):
        features.sequences(targets=pa.array([0.5]))
    with pytest.raises(UserError, match="targets: dict is no table"):
        features.sequences(targets={"video_id": []})


def test_files_that_are_no_text(folder: Path, tmp_path: Path) -> None:
    features = framefeat.load(folder)
    with pytest.raises(UserError, match=r"split: .* is not text"):
        features.sequences(split=features.matrix_path)
    with pytest.raises(UserError, match=r"split: .* is a folder"):
        features.sequences(split=folder)
    for name in ("t.csv", "t.parquet"):
        (tmp_path / name).write_bytes(features.matrix_path.read_bytes())
        with pytest.raises(UserError, match=r"targets: .* is not a whole"):
            features.sequences(targets=tmp_path / name)


def test_torchs_own_collate(folder: Path, targets: pd.DataFrame) -> None:
    from torch.utils.data import DataLoader

    features = framefeat.load(folder)
    with pytest.raises(UserError, match=r"no targets.*collate_fn=framefeat\.pad_collate"):
        next(iter(DataLoader(features.sequences())))
    data = features.sequences(targets=targets)
    with pytest.raises(UserError, match=r"different lengths \(20, 30 rows\).*pad_collate"):
        next(iter(DataLoader(data, batch_size=2)))
    batch = next(iter(DataLoader(data)))
    assert batch["target"].shape == (1, 20)
    assert batch["video_id"] == ["-esJr"]


def test_reading_does_not_import_torch(folder: Path) -> None:
    code = f"import sys, framefeat; framefeat.load({str(folder)!r}).features_of('NA'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not TVSUM.is_dir(), reason="TVSum's index files are not here")
def test_with_tvsum_targets_and_split(tmp_path: Path) -> None:
    features = framefeat.load(tvsum_standin(tmp_path, dim=4))
    assert len(features) == 25190
    train = features.sequences(targets=TVSUM / "tvsum_targets.parquet", split=TVSUM / "tvsum_train.txt")
    assert len(train) == 40
    assert train.video_ids[0] == "-esJrBWj2d8"
    assert (
        sum(len(train[place]["target"]) for place in range(len(train)))
        == features.index["video_id"].isin(train.video_ids).sum()
    )


def test_the_worked_example(folder: Path, targets: pd.DataFrame, tmp_path: Path) -> None:
    targets.to_parquet(tmp_path / "t.parquet", index=False)
    (tmp_path / "train.txt").write_text("-esJr\n007\n")
    (tmp_path / "val.txt").write_text("NA\n")
    script = Path(__file__).resolve().parents[3] / "examples" / "train_bilstm.py"
    command = [
        sys.executable,
        script,
        folder,
        "--targets",
        tmp_path / "t.parquet",
        "--train",
        tmp_path / "train.txt",
    ]
    done = subprocess.run(
        [*map(str, command), "--val", str(tmp_path / "val.txt"), "--hidden", "8"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "epoch 1" in done.stdout
    assert "validation" in done.stdout
