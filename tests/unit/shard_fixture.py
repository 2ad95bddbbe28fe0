"""What a merge writes and what jobs store, made by hand."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from framefeat import stored
from framefeat.files import write_json
from framefeat.identity import features_key, request_key, sample_key, times_digest
from framefeat.layout import ResultsFolder
from framefeat.needs import Wanted, WantedBackbone
from framefeat.records import Slice, VideoRecord, slice_of

GEOMETRY = "squash96"


def record(video_id: str, path: Path | str = "gone.mp4", times: Sequence[float] = (0.0, 0.2)) -> VideoRecord:
    """A video's record; the id stands for its content."""
    return {
        "video_id": video_id,
        "fingerprint": video_id,
        "fps": 30.0,
        "alignment": "index",
        "rows": len(times),
        "times_sha256": times_digest(np.asarray(times)),
        "path": str(path),
        "timestamps": list(times),
        "facts": None,
        "error": None,
        "warnings": [],
        "doubts": [],
    }


def write_merge(results: ResultsFolder, shards: Mapping[str, Sequence[VideoRecord]]) -> None:
    """The files of these shards, and of no others."""
    for path in (*results.shards.glob("*.json"), *results.videos.glob("*.json")):
        path.unlink()
    for shard, records in shards.items():
        members = {each["video_id"]: each for each in sorted(records, key=lambda each: each["video_id"])}
        slices = {key: slice_of(each) for key, each in members.items()}
        write_json(results.shard(shard), {"schema": 3, "videos": slices})
        write_json(results.videos_of(shard), members)
    ids = [each["video_id"] for records in shards.values() for each in records]
    pq.write_table(pa.table({"video_id": ids}), results.index)


def backbone(
    folder: str = "net", *, geometry: str = GEOMETRY, weights: str = "w1", precision: str = "float32",
    spec: str = '{"name": "net"}',
) -> WantedBackbone:  # fmt: skip
    return WantedBackbone(folder, geometry, request_key(spec, weights, precision))


def wanted(*backbones: WantedBackbone, decoder: str = "auto", alignment: str = "index") -> Wanted:
    return Wanted(alignment, decoder, backbones or (backbone(),))


def store_evidence(
    results: ResultsFolder, asked: Wanted, entry: Slice, geometry: str = GEOMETRY, **more: Any
) -> dict[str, Any]:
    """As a sampling of the video leaves it, without its frames."""
    evidence: dict[str, Any] = {
        "video_id": entry["video_id"],
        "key": sample_key(entry, alignment=asked.alignment, geometry=geometry, decoder=asked.decoder),
        "video": {"format": "mov,mp4"},
        "rows": {"status": ["ok"] * entry["rows"]},
        "recheck": {"agrees": True},
        "decoder": "pyav",
        "decoder_reason": "agrees",
        "warnings": [],
        "doubts": [],
        "problems": [],
        **more,
    }
    stored.write(
        results.evidence(geometry, entry["video_id"]), evidence, {"thumbnails": stored.as_bytes(b"")}
    )
    return evidence


def store_frames(results: ResultsFolder, key: str, geometry: str = GEOMETRY) -> None:
    for path in (results.frames(geometry, key), results.recheck(geometry, key)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def store_features(results: ResultsFolder, asked: WantedBackbone, key: str, **more: Any) -> str:
    """As an extraction from the evidence that lies there leaves it; returns the digest of the values."""
    evidence = stored.read_record(results.evidence(asked.geometry, key))
    features = np.zeros((2, 3), np.float32)
    made = {
        "video_id": key,
        "key": features_key(asked.request, evidence),
        "features_sha256": hashlib.sha256(features.tobytes()).hexdigest(),
        **more,
    }
    stored.write(results.backbone(asked.folder).features(key), made, {"features": features})
    return str(made["features_sha256"])
