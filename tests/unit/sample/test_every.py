"""``sample_every``: the native frames 0, k, 2k, ... of any file, by the pixels."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from framefeat.proof.numbered import read_number
from framefeat.video.container import declared_times, probe, read_container

from tests import clips, folder

#: Constant rate (also in a clock of milliseconds, and cut so that it begins in the middle), and variable rate.
FILES = ("h264_b.mov", "h264_b.mkv", "h264_cut.mp4", "h264_vfr.mp4", "h264_vfr.mkv", "vp9_vfr.webm")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("videos")
    for file in FILES:
        shutil.copy(clips.made(file).path, made / f"{file.replace('.', '_')}{Path(file).suffix}")
    return made


@pytest.mark.parametrize("every", [15, 1])
def test_rows_are_frames_0_k_2k(videos: Path, tmp_path: Path, every: int) -> None:
    records = folder.records_of(videos, tmp_path / "merged", sample_every=every)
    for file in FILES if every == 15 else ["h264_vfr.mkv"]:
        record = records[file.replace(".", "_")]
        clip = clips.made(file)
        wanted = list(range(0, len(clip.numbers), every))
        evidence, frames = folder.sample(record, tmp_path / file)
        assert evidence["rows"]["native_idx"] == wanted, file
        assert set(evidence["rows"]["status"]) == {"ok"}
        assert [read_number(frame) for frame in frames] == [clip.numbers[number] for number in wanted]
        assert np.allclose(record["timestamps"], [float(clip.times[number]) for number in wanted], atol=1e-3)
        assert record["alignment"] == "pts"


def test_another_number_reads_the_files_again(videos: Path, tmp_path: Path) -> None:
    rows = {}
    for every in (None, 10, 20, None, 20):
        records = folder.records_of(videos, tmp_path, **({"sample_every": every} if every else {}))
        rows.setdefault(every, []).append({name: record["timestamps"] for name, record in records.items()})
        remembered = json.loads((tmp_path / "fingerprints.json").read_text())["files"].values()
        if every:
            assert all(entry["sampled"]["every"] == every for entry in remembered)
    assert rows[None][0] == rows[None][1]
    assert rows[20][0] == rows[20][1]
    assert all(rows[20][0][name] == times[::2] for name, times in rows[10][0].items())


def test_frames_that_a_file_lacks_are_rows_that_are_bad(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    short = clips.cut_short(clips.noisy(tmp_path / "whole.mp4"), tmp_path / "videos" / "short.mp4")
    container = read_container(short)
    held, declared = container.n_presented, container.expected_frames
    assert held < declared
    assert len(declared_times(container)) == declared
    assert len(probe(short, 10)["sampled"]["times"]) == -(-declared // 10)
    record = folder.records_of(tmp_path / "videos", tmp_path / "merged", sample_every=10)["short"]
    rows = folder.sample(record, tmp_path / "out")[0]["rows"]
    expected = [number if number < held else -1 for number in range(0, declared, 10)]
    # The last frames that are there may be damaged themselves.
    assert all(found in (-1, number) for found, number in zip(rows["native_idx"], expected, strict=True))
    assert rows["native_idx"][:2] == [0, 10]
    assert rows["status"][-1] == "bad"
