"""A folder of videos through the whole way that decides its rows: probed, listed, sampled."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from framefeat.index.merge import merge
from framefeat.sample.stage import sample_video
from framefeat.settings import resolve

Record = dict[str, Any]


def records_of(folder: Path, out: Path, **config: Any) -> dict[str, Record]:
    """What folder input makes of each video, by its id."""
    merge(resolve({"videos": str(folder), "on_bad_frames": "mask", **config}), out)
    found = [json.loads(path.read_text()) for path in sorted((out / "videos").glob("*.json"))]
    return {record["video_id"]: record for record in found}


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
        thumbnails_path=out / "thumbnails.jpg",
        evidence_path=out / "evidence.json",
        **more,
    )
    return evidence, np.load(out / "frames.npy")
