"""What was decoded is the file whose fingerprint it is stored under, or nothing is stored."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from framefeat.errors import MachineError
from framefeat.files import file_sha256, file_stamp
from framefeat.index import fingerprints
from framefeat.sample import video
from framefeat.video import container, packets

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


def _cannot_open(name: str) -> Any:
    import av

    raise av.error.OSError(errno.EIO, "Input/output error", name)


def _ends_early(source: Any, stream: Any, tick: Any, trial: bool = True) -> Any:
    found = packets.read_packets(source, stream, tick, trial)
    for values in (
        found.pts,
        found.dts,
        found.marked,
        found.key,
        found.shown,
        found.corrupt,
        found.durations,
    ):
        del values[5:]
    found.stopped = "Input/output error"
    return found


@pytest.mark.parametrize(
    "trouble", [{"open_source": _cannot_open}, {"read_packets": _ends_early}], ids=["opening", "reading"]
)
def test_a_share_that_was_gone_for_a_moment_is_no_finding(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: dict[str, Any]
) -> None:
    """What fails once, and then not, is not the file's fault: neither in the merge nor in a job."""
    record = record_of(file)
    work = video._work
    met = tmp_path / "met"

    def once(job: Any, line: Any) -> Any:
        if not met.exists():
            met.touch()
            for name, instead in trouble.items():
                setattr(container, name, instead)  # in this child alone
        return work(job, line)

    monkeypatch.setattr(video, "_work", once)
    assert sample(record, tmp_path)["rows"]["status"] == ["ok", "ok"]
    assert met.exists()

    probe, asked = container.probe, []

    def probe_once(path: str) -> Any:
        asked.append(path)
        if len(asked) > 1:
            return probe(path)
        with monkeypatch.context() as patched:
            for name, instead in trouble.items():
                patched.setattr(container, name, instead)
            return probe(path)

    monkeypatch.setattr(container, "probe", probe_once)
    found = fingerprints.examine(str(file))
    assert len(asked) == 2
    assert not found["error"]
    assert found["facts"]


def test_files_that_the_system_has_no_number_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files say nothing about a video."""

    def too_many(*arguments: Any, **named: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files", str(file))

    monkeypatch.setattr(Path, "open", too_many)
    with pytest.raises(MachineError, match="Too many open files"):
        fingerprints.examine(str(file))
