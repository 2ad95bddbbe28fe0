"""Files fetched for a job: one that the index does not identify is known by its content."""

from pathlib import Path

import numpy as np
from framefeat import stored
from framefeat.files import file_sha256, write_json
from framefeat.identity import evidence_digest, times_digest
from framefeat.layout import ResultsFolder
from framefeat.needs import Wanted
from framefeat.records import VideoRecord, slice_of
from framefeat.sample.stage import SampleShard, run

from tests.workflow.conftest import FPS, write_clip

ADDRESS = "http://somewhere/a.mp4"
TIMES = np.array([0.0, 0.2])


def test_another_content_at_the_same_address(tmp_path: Path) -> None:
    """It is decoded again, and features of its frames are others even where all that is told of them is the same."""
    record: VideoRecord = {
        "video_id": "a", "fingerprint": f"address:{ADDRESS}", "fps": FPS, "alignment": "index", "rows": 2,
        "times_sha256": times_digest(TIMES), "path": ADDRESS, "timestamps": TIMES.tolist(), "facts": None,
        "error": None, "doubts": [],
    }  # fmt: skip
    results = ResultsFolder(tmp_path / "results")
    write_json(results.shard("a"), {"schema": 3, "videos": {"a": slice_of(record)}})
    write_json(results.videos_of("a"), {"a": record})
    fetched = tmp_path / "fetched.mp4"
    backbone = {"folder": "any", "geometry": "squash224", "spec": "{}", "weights": "w"}
    wanted = Wanted.of("index", "pyav", "float32", [backbone])
    path = results.evidence("squash224", "a")
    decoded = []
    digests = set()
    for seed in (1, 1, 2):
        write_clip(fetched, seed, frames=10)
        run(
            SampleShard(results, "a", "squash224", wanted, fetched=(fetched,)),
            before_each=lambda seed=seed: decoded.append(seed),
        )
        evidence = stored.read_record(path)
        assert evidence["content"] == file_sha256(fetched)
        assert evidence["rows"]["status"] == ["ok", "ok"]
        digests.add(evidence_digest(evidence))
    assert decoded == [1, 2]
    assert len(digests) == 2
