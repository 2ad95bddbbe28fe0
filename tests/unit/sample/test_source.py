"""What was decoded is the file whose fingerprint it is stored under, or nothing is stored."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from framefeat.errors import MachineError
from framefeat.files import file_sha256, file_stamp
from framefeat.sample import video

from tests import clips


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Path(shutil.copy(clips.made("cfr_25.mp4").path, tmp_path / "a.mp4"))


def record_of(file: Path) -> dict[str, Any]:
    """As the merge writes it."""
    return {
        "video_id": "a",
        "path": str(file),
        "timestamps": [0.0, 1.0],
        "fps": 25.0,
        "fingerprint": file_sha256(file),
        "times_sha256": "t" * 64,
        "stamp": list(file_stamp(file.stat())),
    }


def sample(record: dict[str, Any], tmp_path: Path) -> Any:
    return video.sample_video(
        record,  # type: ignore[arg-type]
        geometry="squash96",
        alignment="index",
        decoder="pyav",
        frames_path=tmp_path / "out" / "a.npy",
        recheck_path=tmp_path / "out" / "a.recheck.npy",
        evidence_path=tmp_path / "out" / "a.safetensors",
    )


def refused(record: dict[str, Any], tmp_path: Path, words: str) -> None:
    """Trouble of the machine: the job fails, and no finding about the video stays."""
    with pytest.raises(MachineError, match=words):
        sample(record, tmp_path)
    assert not list(tmp_path.glob("out/*"))


def test_a_file_that_was_touched_is_the_same(file: Path, tmp_path: Path) -> None:
    record = record_of(file)
    os.utime(file, (1, 1))
    assert sample(record, tmp_path)["rows"]["status"] == ["ok", "ok"]


def test_a_file_that_was_replaced_since_the_merge(file: Path, tmp_path: Path) -> None:
    record = record_of(file)
    shutil.copy(clips.made("h264_no_b.mp4").path, file)
    refused(record, tmp_path, "was replaced since this run read it; run again")


def test_a_file_that_is_replaced_while_it_is_decoded(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = record_of(file)
    decoded = video._Attempts.evidence

    def replaced(self: video._Attempts) -> Any:
        found = decoded(self)
        shutil.copy(clips.made("h264_no_b.mp4").path, file)
        return found

    monkeypatch.setattr(video._Attempts, "evidence", replaced)
    refused(record, tmp_path, "was replaced while it was decoded; run again")


def test_a_folder_that_went_away(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share that is not mounted any more, before a video is decoded and amid it."""
    record, away = record_of(file), file.rename(tmp_path / "away.mp4")
    refused(record, tmp_path, "cannot be read .*No such file.*is its disk still there")
    away.rename(file)
    work = video._work

    def unmounted(job: Any, line: Any) -> Any:
        file.rename(away)
        return work(job, line)

    monkeypatch.setattr(video, "_work", unmounted)
    refused(record, tmp_path, "cannot be read to its end .*No such file.*is its disk still there")


def test_what_the_merge_could_not_read_is_a_finding(file: Path, tmp_path: Path) -> None:
    record = record_of(file) | {"stamp": None, "fingerprint": "unread:a"}
    file.unlink()
    assert sample(record, tmp_path)["rows"]["status"] == ["bad", "bad"]
