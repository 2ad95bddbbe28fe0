"""A folder of videos through the whole way that decides its rows: probed, listed, sampled."""

from pathlib import Path
from typing import Any

import numpy as np
from framefeat.index.merge import merge
from framefeat.layout import ResultsFolder
from framefeat.sample.video import sample_video
from framefeat.settings import resolve
from framefeat.shard_files import read_records

Record = dict[str, Any]


def records_of(folder: Path, out: Path, **config: Any) -> dict[str, Record]:
    """What folder input makes of each video, by its id."""
    merge(resolve({"videos": str(folder), "on_bad_frames": "mask", **config}), out)
    results = ResultsFolder(out)
    found = [read_records(results, shard) for shard in results.shard_names()]
    return {record["video_id"]: dict(record) for records in found for record in records.values()}


def sample(
    record: Record, out: Path, decoder: str = "auto", **more: Any
) -> tuple[dict[str, Any], np.ndarray]:
    """The evidence and the frames (uint8 [T, 96, 96, 3]) of a record."""
    out.mkdir(parents=True, exist_ok=True)
    evidence = sample_video(
        record,
        geometry="squash96",
        alignment=record.get("alignment", "index"),
        decoder=decoder,
        frames_path=out / "frames.npy",
        recheck_path=out / "recheck.npy",
        evidence_path=out / "evidence.safetensors",
        **more,
    )
    return evidence, np.load(out / "frames.npy")
