"""examples/stand_ins.py: what it writes is a finished run, and its rows tell the targets by one direction."""

import subprocess
import sys
from pathlib import Path

import framefeat
import h5py
import numpy as np
import pandas as pd
import pytest
from framefeat.results.dataset import Features
from framefeat.summaries import controls, export_h5
from scipy.stats import spearmanr

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "stand_ins.py"
VIDEOS, DIM = 4, 32


def make(folder: Path) -> Path:
    command = [sys.executable, SCRIPT, folder, "--videos", str(VIDEOS), "--dim", str(DIM)]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("stand-ins"))


def along(features: Features, direction: np.ndarray, targets: pd.DataFrame) -> float:
    """Spearman's rho of the rows along the direction with the targets, mean over videos."""
    scores = targets.set_index("video_id")["score"]
    return float(
        np.mean(
            [
                spearmanr(features.features_of(name) @ direction, scores[name]).statistic
                for name in features.video_ids
            ]
        )
    )


@pytest.mark.parametrize("name", ["two", "every15"])
def test_the_planted_direction_tells_the_targets_and_shuffled_rows_do_not(
    stand_ins: Path, name: str, tmp_path: Path
) -> None:
    features = framefeat.load(stand_ins / name)
    direction = np.load(stand_ins / "direction.npy")
    targets = pd.read_parquet(stand_ins / name / "targets.parquet")
    assert features.dim == len(direction) == DIM
    assert len(features.video_ids) == VIDEOS
    assert along(features, direction, targets) > 0.9
    twins = controls.run(stand_ins / name, tmp_path, seed=0)
    assert abs(along(framefeat.load(twins["row_shuffled"]), direction, targets)) < 0.2
    assert abs(along(framefeat.load(twins["cross_video_shuffled"]), direction, targets)) < 0.2
    # Centred: no video's mean is far from 0 on the scale of the signal.
    signal = features.matrix @ direction
    assert abs(signal.mean()) < signal.std() / 2


def test_targets_and_split_cover_the_videos(stand_ins: Path) -> None:
    folder = stand_ins / "two"
    features = framefeat.load(folder)
    train, val = (
        features.sequences(folder / "targets.parquet", folder / f"{part}.txt") for part in ("train", "val")
    )
    assert (len(train), len(val)) == (VIDEOS - 1, 1)
    assert {*train.video_ids, *val.video_ids} == set(features.video_ids)
    every15 = framefeat.load(stand_ins / "every15").index
    assert (every15["native_idx"] == 15 * every15["frame_idx"]).all()


def test_the_annotations_export(stand_ins: Path, tmp_path: Path) -> None:
    annotations = stand_ins / "ydata-tvsum50-anno.tsv"
    export_h5.run(stand_ins / "two", tmp_path / "two.h5", annotations=annotations)
    targets = pd.read_parquet(stand_ins / "two" / "targets.parquet").set_index("video_id")["score"]
    with h5py.File(tmp_path / "two.h5") as file:
        assert sorted(file) == [f"video_{k}" for k in range(1, VIDEOS + 1)]
        for group in file.values():
            assert len(group["user_summary"]) == 20
            assert group["gtscore"][()] == pytest.approx(targets[group["video_name"][()].decode()].to_numpy())


def test_the_same_seed_gives_the_same_files(stand_ins: Path, tmp_path: Path) -> None:
    again = make(tmp_path)
    names = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(stand_ins) for path in stand_ins.rglob("*") if path.is_file())
    assert len(names) == 14
    assert all((again / name).read_bytes() == (stand_ins / name).read_bytes() for name in names)
