"""A shard of several videos: what is sampled and what is not, and what one video's trouble means for the others."""

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from framefeat import stored
from framefeat.errors import UserError
from framefeat.files import read_json, write_json
from framefeat.identity import evidence_digest
from framefeat.layout import ResultsFolder
from framefeat.records import VideoRecord
from framefeat.sample import video as sample_of_video
from framefeat.sample.stage import SampleShard, run
from framefeat.shard_files import Work

from tests import clips
from tests.unit.shard_fixture import (
    GEOMETRY,
    backbone,
    record,
    store_features,
    store_frames,
    wanted,
    write_merge,
)

SHARD = "shard+3of64"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.noisy(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=12, key_every=12)


class Job:
    """The videos ``a``, ``b`` and ``c`` in one shard, and a job that samples them."""

    def __init__(self, folder: Path, clip: Path) -> None:
        self.results = ResultsFolder(folder / "results")
        self.records: dict[str, VideoRecord] = {}
        for video in "abc":
            path = folder / f"{video}.mp4"
            shutil.copy(clip, path)
            self.records[video] = record(video, path)
        self.asked = SampleShard(self.results, SHARD, GEOMETRY, wanted())
        self.merge()

    def merge(self) -> None:
        write_merge(self.results, {SHARD: list(self.records.values())})

    def sampled_by(self, taken_over: int = 0, **more: Any) -> list[str]:
        """Run the job; the videos whose evidence is new: they were decoded, but for those ``taken_over``."""
        before = {video: self.stamp(video) for video in self.records}
        told: list[None] = []
        try:
            run(replace(self.asked, **more), lambda: told.append(None))
        finally:
            changed = [video for video in self.records if self.stamp(video) != before[video]]
        assert len(told) == len(changed) - taken_over
        return changed

    def stamp(self, video: str) -> tuple[int, int] | None:
        path = self.results.evidence(GEOMETRY, video)
        return (path.stat().st_ino, path.stat().st_mtime_ns) if path.is_file() else None

    def evidence(self, video: str) -> dict[str, Any]:
        return stored.read_record(self.results.evidence(GEOMETRY, video))

    def has_frames(self, video: str) -> bool:
        paths = self.results.frames(GEOMETRY, video), self.results.recheck(GEOMETRY, video)
        assert len({path.is_file() for path in paths}) == 1
        return paths[0].is_file()

    @property
    def promise(self) -> Path:
        return self.results.sampled(GEOMETRY, SHARD)

    @property
    def ready(self) -> Path:
        return self.results.frames_ready(GEOMETRY, SHARD)


@pytest.fixture
def job(tmp_path: Path, clip: Path) -> Job:
    return Job(tmp_path, clip)


def test_a_damaged_video_is_a_finding_among_others(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    Path(job.records["b"]["path"]).write_text("no video")
    assert job.sampled_by() == ["a", "b", "c"]
    status = {video: job.evidence(video)["rows"]["status"] for video in "abc"}
    assert status == {"a": ["ok"] * 2, "b": ["bad"] * 2, "c": ["ok"] * 2}
    assert "b.mp4" in job.evidence("b")["problems"][0]
    digests = {video: evidence_digest(job.evidence(video)) for video in "abc"}
    assert read_json(job.promise) == {"rows": 6, "videos": digests}
    assert job.ready.is_file()
    for video in "abc":
        assert np.load(job.results.frames(GEOMETRY, video)).shape == (2, 96, 96, 3)
    told = capfd.readouterr()
    lines = told.err.splitlines()
    for video in "abc":
        assert f"--- {video}: new: no frames were sampled yet" in lines
    assert any(line.startswith("a: 2 rows by ") and not line.endswith("bad") for line in lines)
    assert any(line.startswith("b: 2 of 2 rows are bad: ") for line in lines)
    assert "b: 2 rows by no decoder, 2 of them bad" in lines
    assert lines[-1] == str(Work(3, 3, 6))


def test_what_is_sampled_stays_as_it_is(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    job.sampled_by()
    promise = job.promise.read_bytes()
    job.promise.unlink()
    job.ready.unlink()
    capfd.readouterr()
    assert job.sampled_by() == []
    assert job.promise.read_bytes() == promise
    assert job.ready.is_file()
    assert capfd.readouterr().err == f"{Work(0, 3, 0)}\n"


def test_only_what_changed_is_sampled(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    job.sampled_by()
    job.records["b"] = record("b", job.records["b"]["path"], (0.0, 0.1, 0.3))
    job.merge()
    capfd.readouterr()
    assert job.sampled_by() == ["b"]
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "--- b: its times changed"
    assert lines[-1] == str(Work(1, 3, 3))
    assert read_json(job.promise)["rows"] == 7
    assert len(np.load(job.results.frames(GEOMETRY, "b"))) == 3


def test_another_shard_takes_what_lies_there(job: Job) -> None:
    job.sampled_by()
    write_merge(
        job.results,
        {"shard+007of128": [job.records["a"], job.records["c"]], "shard+006of128": [job.records["b"]]},
    )
    assert job.sampled_by(shard="shard+007of128") == []
    assert read_json(job.results.sampled(GEOMETRY, "shard+007of128"))["videos"].keys() == {"a", "c"}


def renamed(job: Job, video: str, name: str) -> None:
    """The file of ``video`` has another name, and the merge has seen whose content it is."""
    job.records[name] = {**job.records.pop(video), "video_id": name}
    job.merge()
    digests = [evidence_digest(job.evidence(video))]
    features = stored.record_or_none(job.results.backbone("net").features(video))
    digests += [features["features_sha256"]] if features else []
    write_json(job.results.former, {name: {video: digests}})


def test_a_renamed_video_is_taken_over(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    """With its features; frames of an older video of that name are not its own."""
    job.sampled_by()
    before = job.evidence("a")
    for video in "abc":
        store_features(job.results, backbone(), video)
    renamed(job, "a", "z")
    store_frames(job.results, "z")
    capfd.readouterr()
    assert job.sampled_by(taken_over=1, keep_frames=True) == ["z"]
    assert capfd.readouterr().err == f"z: as a, the same content: taken over\n{Work(0, 3, 0)}\n"
    assert job.evidence("z") == before | {"video_id": "z"}
    assert job.evidence("a") == before
    assert not job.has_frames("z")
    assert read_json(job.promise)["videos"]["z"] == evidence_digest(before)
    assert job.sampled_by() == []


def test_a_renamed_video_that_must_be_embedded_is_decoded(
    job: Job, capfd: pytest.CaptureFixture[str]
) -> None:
    job.sampled_by()
    before = job.evidence("a")
    renamed(job, "a", "z")
    capfd.readouterr()
    assert job.sampled_by() == ["z"]
    assert "--- z: its frames are needed again for net\n" in capfd.readouterr().err
    assert job.evidence("z") == before | {"video_id": "z"}
    assert job.has_frames("z")


def test_who_asks_for_it_again_gets_a_renamed_video_too(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    job.sampled_by()
    for video in "abc":
        store_features(job.results, backbone(), video)
    renamed(job, "a", "z")
    assert job.sampled_by(again=True) == ["b", "c", "z"]
    assert "taken over" not in capfd.readouterr().err


def test_frames_that_are_needed_again(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    job.sampled_by()
    evidence = {video: job.evidence(video) for video in "abc"}
    job.results.frames(GEOMETRY, "c").unlink()
    capfd.readouterr()
    assert job.sampled_by() == ["c"]
    assert "--- c: its frames are needed again for net" in capfd.readouterr().err
    assert {video: job.evidence(video) for video in "abc"} == evidence
    assert job.has_frames("c")


def test_who_asks_for_it_again_gets_all(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    job.sampled_by()
    job.records["b"] = record("b", job.records["b"]["path"], (0.0, 0.1, 0.3))
    job.merge()
    capfd.readouterr()
    assert job.sampled_by(again=True) == ["a", "b", "c"]
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("---")] == [
        "--- a: asked for again", "--- b: its times changed", "--- c: asked for again"
    ]  # fmt: skip
    assert lines[-1] == str(Work(3, 3, 7))


def no_room_for(*videos: str) -> Any:
    real = sample_of_video._work

    def work(asked: Any, line: Any) -> Any:
        if asked.record["video_id"] in videos:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(asked, line)

    return work


def test_the_machine_s_trouble_with_one_fails_the_job_when_the_others_are_safe(
    job: Job, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sample_of_video, "_work", no_room_for("b"))
    with pytest.raises(UserError) as error:
        job.sampled_by()
    heading, listed, advice = str(error.value).splitlines()
    assert heading == "1 of the 3 videos of this job could not be sampled; the others are done and kept:"
    assert listed.startswith("  - 'b': No space left on device.")
    assert advice == "Run again when this is mended."
    told = capfd.readouterr().err.splitlines()
    assert any(line.startswith("b: ") and "No space left on device" in line for line in told)
    assert told[-1] == str(Work(2, 3, 4))
    assert not job.promise.exists()
    assert not job.ready.exists()
    assert [job.stamp(video) is not None for video in "abc"] == [True, False, True]
    assert not job.has_frames("b")
    monkeypatch.undo()
    assert job.sampled_by() == ["b"]
    assert read_json(job.promise)["videos"].keys() == {"a", "b", "c"}


def test_all_that_failed_are_listed(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_of_video, "_work", no_room_for("a", "c"))
    with pytest.raises(UserError, match="2 of the 3 videos") as error:
        job.sampled_by()
    assert str(error.value).count("\n  - ") == 2


def test_the_error_of_an_only_video_is_told_as_it_is(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    del job.records["a"], job.records["c"]
    job.merge()
    monkeypatch.setattr(sample_of_video, "_work", no_room_for("b"))
    with pytest.raises(UserError, match=r"^No space left on device\.[^\n]*$"):
        job.sampled_by()
    assert not job.promise.exists()


@pytest.mark.parametrize("broken", ["", "b"])
def test_short_videos_share_a_process_until_something_is_wrong_with_one(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    if broken:
        path = Path(job.records[broken]["path"])
        path.write_bytes(path.read_bytes()[:-2000])
    real, told = sample_of_video._work, tmp_path / "told"

    def work(asked: Any, line: Any) -> Any:
        with told.open("a") as stream:
            stream.write(f"{asked.record['video_id']} {os.getpid()}\n")
        return real(asked, line)

    monkeypatch.setattr(sample_of_video, "_work", work)
    job.sampled_by()
    processes = dict(line.split() for line in told.read_text().splitlines())
    assert os.getpid() not in map(int, processes.values())
    assert processes["a"] == processes["b"]
    assert (processes["c"] == processes["b"]) == (not broken)
    found = job.evidence("b")
    assert bool(found["problems"] or found["warnings"]) == bool(broken)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_loses_the_video_at_work_and_no_other(job: Job, end: signal.Signals) -> None:
    script = f"""
import time
from pathlib import Path
from framefeat.layout import ResultsFolder
from framefeat.sample import video
from framefeat.sample.stage import SampleShard, run
from tests.unit.shard_fixture import GEOMETRY, wanted
real = video._work
def work(job, line):
    if job.record["video_id"] == "b":
        print("ready", flush=True)
        time.sleep(60)
    return real(job, line)
video._work = work
run(SampleShard(ResultsFolder(Path({str(job.results.root)!r})), {SHARD!r}, GEOMETRY, wanted()))
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(end)
    assert process.wait(timeout=20) == (-end if end == signal.SIGKILL else 128 + end)
    assert process.stdout.read() == ""  # the child held this pipe too: it is gone
    process.stdout.close()
    assert [job.stamp(video) is not None for video in "abc"] == [True, False, False]
    assert not job.promise.exists()
    assert not job.ready.exists()
    assert not job.has_frames("b")
    assert job.sampled_by() == ["b", "c"]


def test_frames_go_when_no_backbone_needs_them(job: Job) -> None:
    asked = wanted(backbone(), backbone("more"))
    job.sampled_by(wanted=asked)
    store_features(job.results, backbone(), "a")
    store_features(job.results, backbone("more"), "a")
    store_features(job.results, backbone(), "b")
    assert job.sampled_by(wanted=asked, keep_frames=True) == []
    assert [job.has_frames(video) for video in "abc"] == [True, True, True]
    assert job.sampled_by(wanted=asked) == []
    assert [job.has_frames(video) for video in "abc"] == [False, True, True]
    assert job.sampled_by(wanted=wanted()) == []
    assert [job.has_frames(video) for video in "abc"] == [False, False, True]


ADDRESS = "https://example.org/{}.mp4"


def remote(job: Job, *videos: str, sha256: bool = True) -> tuple[Path, ...]:
    """Let these videos lie behind addresses; where they were fetched to."""
    places = []
    for video in videos:
        place = Path(job.records[video]["path"])
        content = hashlib.sha256(place.read_bytes()).hexdigest()
        address = ADDRESS.format(video)
        job.records[video]["path"] = address
        job.records[video]["fingerprint"] = content if sha256 else f"address:{address}"
        places.append(place)
    job.merge()
    return tuple(places)


@pytest.mark.parametrize("sha256", [True, False])
def test_remote_videos_are_read_where_they_were_fetched_to(
    job: Job, monkeypatch: pytest.MonkeyPatch, sha256: bool
) -> None:
    fetched = remote(job, "a", "c", sha256=sha256)
    Path(fetched[1]).write_bytes(clips.noisy(fetched[1], frames=20).read_bytes())
    if sha256:
        job.records["c"]["fingerprint"] = hashlib.sha256(fetched[1].read_bytes()).hexdigest()
        job.merge()
    monkeypatch.chdir(fetched[0].parent)
    relative = tuple(Path(path.name) for path in fetched)
    assert job.sampled_by(fetched=relative) == ["a", "b", "c"]
    frames = {video: job.evidence(video)["video"]["frames"] for video in "abc"}
    assert frames == {"a": 12, "b": 12, "c": 20}
    assert {tuple(job.evidence(video)["rows"]["status"]) for video in "abc"} == {("ok", "ok")}


def test_a_remote_video_with_another_content_takes_no_other_with_it(job: Job) -> None:
    fetched = remote(job, "a", "c")
    fetched[0].write_bytes(fetched[0].read_bytes() + b"more")
    with pytest.raises(
        UserError, match=r"(?s)1 of the 3 videos.*'a': the index says sha256 .*fetch it again"
    ):
        job.sampled_by(fetched=fetched)
    assert [job.stamp(video) is not None for video in "abc"] == [False, True, True]


def test_a_remote_video_that_was_not_fetched_is_no_finding(job: Job) -> None:
    remote(job, "a")
    with pytest.raises(
        UserError, match=r"'a': 'https://example.org/a.mp4' was not fetched .*--forcerun sample_frames"
    ):
        job.sampled_by()
    assert [job.stamp(video) is not None for video in "abc"] == [False, True, True]


def test_remote_videos_that_are_sampled_need_no_file(job: Job) -> None:
    fetched = remote(job, "a", "c")
    job.sampled_by(fetched=fetched)
    for path in fetched:
        path.unlink()
    assert job.sampled_by() == []


def test_as_many_files_as_remote_videos(job: Job) -> None:
    fetched = remote(job, "a", "c")
    for wrong in (fetched[:1], (*fetched, fetched[0])):
        with pytest.raises(UserError, match=rf"names {len(wrong)} files, and 2 videos"):
            job.sampled_by(fetched=wrong)


def test_records_that_are_not_of_one_merge_are_refused(job: Job) -> None:
    job.results.videos_of(SHARD).write_text("{}")
    with pytest.raises(UserError, match="are not of one merge"):
        job.sampled_by()
    assert not job.promise.exists()


@pytest.mark.parametrize("done", [True, False])
def test_libraries_are_imported_once_and_only_where_a_video_is_decoded(job: Job, done: bool) -> None:
    """In the job, before its children fork: each of them would spend more on them than on a short video."""
    if done:
        job.sampled_by()
    script = f"""
import os, sys
from pathlib import Path
from framefeat.layout import ResultsFolder
from framefeat.needs import Wanted
from framefeat.sample import stage
wanted = Wanted.from_json({wanted().to_json()!r})
stage.run(stage.SampleShard(ResultsFolder(Path({str(job.results.root)!r})), {SHARD!r}, {GEOMETRY!r}, wanted))
heavy = {{"av", "framefeat.sample.attempt", "decord", "torch", "pandas", "pyarrow"}} & set(sys.modules)
print(*sorted(heavy), len(os.listdir("/proc/self/task")))
"""
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert told == ("1\n" if done else "av decord framefeat.sample.attempt 1\n")


def test_what_a_killed_job_left_half_made_is_removed_and_nothing_else(tmp_path: Path, clip: Path) -> None:
    job = Job(tmp_path, clip)
    frames = job.results.frames(GEOMETRY, "a").parent
    rechecks = job.results.recheck(GEOMETRY, "a").parent
    left, others = [], []
    for folder in (frames, rechecks):
        folder.mkdir(parents=True)
        left += [folder / ".tmp-abcdefgh-a.npy", folder / ".tmp-0_23cd5h-c.npy"]
        others += [folder / ".tmp-abcdefgh-z-a.npy", folder / ".tmp-abcdefgh-z.npy"]  # another job's
    for path in (*left, *others):
        path.write_bytes(b"x")
    job.sampled_by()
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)
