"""Sampled frames around an extraction: sampled again where they are gone and needed, removed where they are not."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from framefeat import identity, shard_files, stored
from framefeat.environment import OWNER
from framefeat.errors import UserError
from framefeat.extract import stage as extract_stage
from framefeat.files import read_json, write_json
from framefeat.index import shards
from framefeat.index.merge import merge
from framefeat.layout import ResultsFolder
from framefeat.needs import Wanted
from framefeat.sample import stage as sample_stage
from framefeat.settings import resolve

from tests import clips

GEOMETRY, OTHER = "squash32", "squash48"
KEYS = ["a", "b", "c"]


class Work:
    """Three videos in one shard; what is decoded and what is embedded is noted."""

    def __init__(self, folder: Path, backbones: Mapping[str, str]) -> None:
        self.results = ResultsFolder(folder / "results")
        self.backbones = dict(backbones)
        self.decoded: list[str] = []
        self.embedded: list[str] = []
        self.fails: set[str] = set()
        (folder / "videos").mkdir()
        for key in KEYS:
            shutil.copy(clips.made("h264_no_b.mp4").path, folder / "videos" / f"{key}.mp4")
        merge(resolve({"videos": str(folder / "videos")}), self.results.root)
        (self.shard,) = self.results.shard_names()

    @property
    def wanted(self) -> Wanted:
        described = [
            {"folder": name, "geometry": geometry, "spec": json.dumps({"name": name}), "weights": "w"}
            for name, geometry in self.backbones.items()
        ]
        return Wanted.of("index", "auto", "float32", described)

    def sample(self, geometry: str = GEOMETRY, **more: Any) -> None:
        sample_stage.run(sample_stage.SampleShard(self.results, self.shard, geometry, self.wanted, **more))

    def extract(self, backbone: str = "one", keep_frames: bool = False) -> None:
        computing = extract_stage.Computing("weights.pth", "float32", "cpu", 0, "auto", 1)
        extract_stage.run(
            extract_stage.ExtractShard(
                self.results, self.shard, backbone, self.wanted, computing, keep_frames
            )
        )

    def compute(self, message: Any, device: str, receive: Callable[[Any], None]) -> None:
        for asked in message["videos"]:
            self.embedded.append(asked["video"])
            if asked["video"] in self.fails:
                receive({"place": asked["place"], "failure": f"{asked['video']}: no."})
                continue
            assert len(np.load(asked["frames"])) == asked["rows"]
            record = {"video_id": asked["video"], "key": asked["key"], "rows": asked["rows"], "device": "cpu"}
            stored.write(asked["features"], record, {"features": np.zeros((asked["rows"], 2), np.float32)})
            receive({"place": asked["place"], "record": record})

    def frames(self, geometry: str = GEOMETRY) -> list[str]:
        """The videos of which frames lie there, and never half of them."""
        there = [key for key in KEYS if self.results.frames(geometry, key).exists()]
        assert there == [key for key in KEYS if self.results.recheck(geometry, key).exists()]
        return there


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Work]:
    monkeypatch.delenv(OWNER, raising=False)
    monkeypatch.setattr(shards, "FEWEST", 1)

    def make(**backbones: str) -> Work:
        work = Work(tmp_path, backbones or {"one": GEOMETRY})
        sample_video = sample_stage.sample_video

        def note(record: Any, **more: Any) -> Any:
            work.decoded.append(record["video_id"])
            return sample_video(record, **more)

        monkeypatch.setattr(sample_stage, "sample_video", note)
        monkeypatch.setattr(extract_stage, "_compute_here", work.compute)
        return work

    return make


def test_frames_that_somebody_removed_are_sampled_again_where_they_are_needed(
    work: Callable[..., Work],
) -> None:
    job = work()
    job.sample()
    assert job.frames() == KEYS
    told = read_json(job.results.sampled(GEOMETRY, job.shard))
    evidence = stored.read_record(job.results.evidence(GEOMETRY, "b"))
    job.results.frames(GEOMETRY, "b").unlink()
    job.extract()
    assert job.decoded == ["a", "b", "c", "b"]
    assert job.embedded == ["a", "b", "c"]
    again = stored.read_record(job.results.evidence(GEOMETRY, "b"))
    assert identity.evidence_digest(again) == identity.evidence_digest(evidence)
    assert read_json(job.results.sampled(GEOMETRY, job.shard)) == told
    assert read_json(job.results.backbone("one").extracted(job.shard)) == told


@pytest.mark.parametrize("gone", ["frames", "recheck", "evidence"])
def test_each_file_that_an_extraction_reads_is_looked_for(work: Callable[..., Work], gone: str) -> None:
    job = work()
    job.sample()
    getattr(job.results, gone)(GEOMETRY, "c").unlink()
    job.extract()
    assert job.decoded == ["a", "b", "c", "c"]
    assert job.embedded == ["a", "b", "c"]


@pytest.mark.parametrize("damage", ["another row", "one bit", "cut", "empty"])
def test_frames_that_are_not_those_that_were_sampled_are_sampled_again(
    work: Callable[..., Work], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only rows that were decoded twice are compared once more when they are embedded."""
    job = work()
    job.sample()
    path = job.results.frames(GEOMETRY, "b")
    sampled, data = np.load(path), bytearray(path.read_bytes())
    if damage == "another row":
        np.save(path, sampled[[1, 1, *range(2, len(sampled))]])
    elif damage == "one bit":
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[:-100] if damage == "cut" else b"")
    job.extract(keep_frames=True)
    assert job.decoded == ["a", "b", "c", "b"]
    assert job.embedded == ["a", "b", "c"]
    assert np.array_equal(np.load(path), sampled)
    assert "is not what was sampled\n1 video to be sampled again\n" in capsys.readouterr().err


def test_nothing_is_sampled_for_features_that_are_there(work: Callable[..., Work]) -> None:
    job = work()
    job.sample()
    job.extract()
    assert job.frames() == []
    job.extract()
    job.sample()
    assert job.decoded == ["a", "b", "c"]
    assert job.embedded == ["a", "b", "c"]
    job.results.backbone("one").features("b").unlink()
    job.extract()
    assert job.decoded == ["a", "b", "c", "b"]
    assert job.embedded == ["a", "b", "c", "b"]
    assert job.frames() == []


def test_frames_that_cannot_be_had_again_stop_the_extraction(
    work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that lies behind an address is there for sampling jobs alone: that is no finding about it."""
    job = work()
    job.sample()
    records = shard_files.read_records(job.results, job.shard)
    records["b"]["path"] = "https://example.org/b.mp4"
    write_json(job.results.videos_of(job.shard), records)
    job.results.frames(GEOMETRY, "b").unlink()
    before = job.results.evidence(GEOMETRY, "b").read_bytes()
    with pytest.raises(UserError, match=r"'b': 'https://example.org/b.mp4' was not fetched for this job"):
        job.extract()
    assert job.results.evidence(GEOMETRY, "b").read_bytes() == before
    assert not job.results.backbone("one").extracted(job.shard).exists()


def test_frames_go_when_the_last_backbone_has_them(work: Callable[..., Work]) -> None:
    job = work(one=GEOMETRY, two=GEOMETRY, three=OTHER)
    job.sample()
    job.sample(OTHER)
    job.extract("one")
    assert job.frames() == KEYS
    job.extract("two")
    assert job.frames() == []
    assert job.frames(OTHER) == KEYS  # another geometry's are another backbone's
    job.extract("three")
    assert job.frames(OTHER) == []
    assert job.decoded == [*KEYS, *KEYS]


def test_frames_are_kept_where_that_is_asked_for(work: Callable[..., Work]) -> None:
    job = work()
    job.sample(keep_frames=True)
    job.extract(keep_frames=True)
    assert job.frames() == KEYS
    job.extract()
    assert job.frames() == []


def test_frames_of_a_video_that_failed_stay(work: Callable[..., Work]) -> None:
    job = work()
    job.sample()
    job.fails = {"b"}
    with pytest.raises(UserError, match="1 of the 3 videos of this job could not be embedded"):
        job.extract()
    assert job.frames() == ["b"]
    job.fails = set()
    job.extract()
    assert job.decoded == KEYS
    assert job.embedded == ["a", "b", "c", "b"]
    assert job.frames() == []


def test_frames_are_sampled_only_for_who_needs_them(work: Callable[..., Work]) -> None:
    """A backbone more: its frames are sampled, and those who have features of the same frames keep them."""
    job = work()
    job.sample()
    job.extract()
    before = {key: job.results.backbone("one").features(key).read_bytes() for key in KEYS}
    job.backbones["two"] = GEOMETRY
    job.sample()
    assert job.decoded == [*KEYS, *KEYS]
    assert job.frames() == KEYS
    job.extract("two")
    job.extract("one")
    assert job.embedded == [*KEYS, *KEYS]
    assert {key: job.results.backbone("one").features(key).read_bytes() for key in KEYS} == before
    assert job.frames() == []
