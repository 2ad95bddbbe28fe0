"""A stand-in for a finished run: the three files that consumers read, with made-up features."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
TVSUM = SHARED / "tvsum"


@dataclass
class Clip:
    """``frames`` presented frames at ``fps``, sampled at ``times`` (seconds); ``bad``: places of bad samples."""

    video_id: str
    frames: int
    fps: float = 30.0
    times: np.ndarray | Sequence[float] | None = None
    bad: Sequence[int] = ()
    shots: Sequence[int] | None = None
    extra: dict[str, object] = field(default_factory=dict)

    def sample_times(self) -> np.ndarray:
        if self.times is not None:
            return np.asarray(self.times, dtype=float)
        return np.round(np.arange(0, self.frames / self.fps, 0.5), 3)


def scene_features(
    rng: np.random.Generator, steps: int, dim: int, shots: Sequence[int] | None = None
) -> np.ndarray:
    """float32 ``[steps, dim]``, non-negative, nearly constant between the places ``shots`` (else a cut every 4 to 14
    steps)."""
    if shots is None:
        cuts = np.cumsum(rng.integers(4, 15, size=max(1, steps)))
        shots = cuts[cuts < steps].tolist()
    scene = np.zeros(steps, dtype=int)
    scene[list(shots)] = 1
    scene = np.cumsum(scene)
    centres = rng.gamma(0.5, 1.0, size=(scene[-1] + 1, dim))
    return (centres[scene] + 0.1 * rng.random((steps, dim))).astype(np.float32)


def write_results(
    folder: Path,
    clips: Sequence[Clip],
    dim: int = 16,
    seed: int = 0,
    order: np.ndarray | None = None,
    dataset: str = "tiny",
) -> Path:
    """Write matrix, frame index and manifest of ``clips``; ``order`` permutes the rows of the frame index."""
    rng = np.random.default_rng(seed)
    parts, blocks = [], []
    for clip in clips:
        times = clip.sample_times()
        native = np.round(times * clip.fps).astype(int)
        status = np.where(native < clip.frames, "ok", "clamped").astype(object)
        native = np.minimum(native, clip.frames - 1)
        pts = native / clip.fps
        values = scene_features(rng, len(times), dim, clip.shots)
        for place in clip.bad:
            native[place], pts[place], status[place], values[place] = -1, np.nan, "bad", np.nan
        parts.append(
            pd.DataFrame(
                {
                    "video_id": clip.video_id,
                    "frame_idx": np.arange(len(times)),
                    "timestamp_sec": times,
                    "native_idx": native,
                    "pts_sec": pts,
                    "offset_sec": pts - times,
                    "status": status,
                }
            )
        )
        blocks.append(values)
    index = pd.concat(parts, ignore_index=True)
    matrix = np.concatenate(blocks)
    if order is not None:
        index, matrix = index.iloc[order].reset_index(drop=True), matrix[order]
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{dataset}_features.npy", matrix)
    index.to_parquet(folder / "frame_index.parquet", index=False)
    videos = []
    for clip in sorted(clips, key=lambda clip: int(np.flatnonzero(index["video_id"] == clip.video_id)[0])):
        rows = np.flatnonzero(index["video_id"] == clip.video_id)
        videos.append(
            {
                "video_id": clip.video_id,
                "rows": len(rows),
                "row_numbers": rows.tolist(),
                "container": {"frames": clip.frames, "fps": clip.fps},
                "features_sha256": hashlib.sha256(matrix[rows].tobytes()).hexdigest(),
                "verified": True,
                "recheck": {"agrees": True},
            }
        )
    manifest = {
        "backbone": "MobileNetV3-Large",
        "weights": "IMAGENET1K_V1",
        "feature_dim": dim,
        "total_frames": len(matrix),
        "alignment_verified": True,
        "order": "sequential_per_frame_index",
        "schema_version": 1,
        "dataset": dataset,
        "alignment": "index",
        "matrix_sha256": hashlib.sha256((folder / f"{dataset}_features.npy").read_bytes()).hexdigest(),
        "notes": [],
        "videos": videos,
    }
    (folder / "feature_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def tvsum_standin(folder: Path, videos: int = 50, dim: int = 32) -> Path:
    """TVSum's real frame index with made-up features: right ids, lengths, frame rates and picks."""
    table = pd.read_csv(TVSUM / "tvsum_index.csv", dtype={"video_id": str}, keep_default_na=False)
    rows = pd.read_parquet(TVSUM / "tvsum_frame_index.parquet")
    times = {name: part["timestamp_sec"].to_numpy() for name, part in rows.groupby("video_id", sort=False)}
    clips = [
        Clip(str(row.video_id), int(row.frame_count), float(row.fps), times[str(row.video_id)])
        for row in table.head(videos).to_records()
    ]
    return write_results(folder, clips, dim=dim, dataset="tvsum")
