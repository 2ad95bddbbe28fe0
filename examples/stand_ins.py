"""Make stand-ins for a finished run, to try a summariser on features that are known to say something.

    python examples/stand_ins.py stand-ins

Writes, for 50 made-up videos of 60 to 120 s at 23.976 to 30 fps, cut into shots of 2 to 7 s (the last up to 9):

- ``two/`` (2 rows per second) and ``every15/`` (frames 0, 15, 30, ...): what a run leaves, ``*_features.npy`` float32
  [N, 960], ``frame_index.parquet`` and ``feature_manifest.json``; and beside them ``targets.parquet`` (``video_id``,
  ``frame_idx``, ``score``: the annotators' mean on 0..1), ``train.txt`` (the first four fifths) and ``val.txt``;
- ``ydata-tvsum50-anno.tsv``: 20 annotators in TVSum's layout, a shot's importance with noise per 2 s, 1 to 5;
- ``direction.npy``: the planted direction d, float64 [960], of length 1.

A row is its shot's centre (gamma numbers, without d), plus noise of 0 to 0.1, plus d times (importance - 0.5) times the
centres' mean length (about 27): importance is uniform on 0..1, so the signal is CENTRED, from about -13.5 to 13.5.
Nothing else in a row tells the importance. The same ``--seed`` gives the same files.
"""

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

RATES = (24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0)
USERS = 20


@dataclass
class Video:
    video_id: str
    fps: float
    frames: int
    shot_of: np.ndarray  # int64 [frames]
    importance: np.ndarray  # float64 [shots], 0..1
    centres: np.ndarray  # float64 [shots, D], orthogonal to the direction


def make_video(rng: np.random.Generator, place: int, direction: np.ndarray) -> Video:
    fps = RATES[place % len(RATES)]
    frames = int(rng.uniform(60, 120) * fps)
    cuts: list[int] = []
    seconds = rng.uniform(2, 7)
    while seconds <= frames / fps - 2:
        cuts.append(round(seconds * fps))
        seconds += rng.uniform(2, 7)
    importance = rng.random(len(cuts) + 1)
    centres = rng.gamma(0.5, 1.0, size=(len(importance), len(direction)))
    centres -= np.outer(centres @ direction, direction)
    shot_of = np.searchsorted(cuts, np.arange(frames), side="right")
    return Video(f"standin{place + 1:02d}", fps, frames, shot_of, importance, centres)


def rows_of(rng: np.random.Generator, video: Video, native: np.ndarray, direction: np.ndarray) -> np.ndarray:
    shots = video.shot_of[native]
    signal = (video.importance[shots] - 0.5) * np.linalg.norm(video.centres, axis=1).mean()
    noise = 0.1 * rng.random((len(shots), len(direction)))
    return (video.centres[shots] + noise + np.outer(signal, direction)).astype(np.float32)


def frames_of(video: Video, times: np.ndarray) -> pd.DataFrame:
    native = np.round(times * video.fps).astype(int)
    status = np.where(native < video.frames, "ok", "clamped")
    native = np.minimum(native, video.frames - 1)
    pts = native / video.fps
    return pd.DataFrame(
        {
            "video_id": video.video_id,
            "frame_idx": np.arange(len(times)),
            "timestamp_sec": times,
            "native_idx": native,
            "pts_sec": pts,
            "offset_sec": pts - times,
            "status": status,
        }
    )


def write_run(folder: Path, videos: list[Video], parts: list[pd.DataFrame], blocks: list[np.ndarray]) -> None:
    """The three files of a finished run, rows in the order of the videos."""
    folder.mkdir(parents=True, exist_ok=True)
    matrix = folder / f"{folder.name}_features.npy"
    np.save(matrix, np.concatenate(blocks))
    pd.concat(parts, ignore_index=True).to_parquet(folder / "frame_index.parquet", index=False)
    starts = np.cumsum([0, *map(len, blocks)])
    manifest = {
        "backbone": "stand-in",
        "weights": "none",
        "feature_dim": blocks[0].shape[1],
        "total_frames": int(starts[-1]),
        "alignment_verified": False,
        "order": "sequential_per_frame_index",
        "schema_version": 1,
        "dataset": folder.name,
        "alignment": "index",
        "matrix_sha256": hashlib.sha256(matrix.read_bytes()).hexdigest(),
        "notes": ["made-up features: examples/stand_ins.py"],
        "videos": [
            {
                "video_id": video.video_id,
                "rows": len(block),
                "row_numbers": list(range(start, start + len(block))),
                "container": {"frames": video.frames, "fps": video.fps},
                "features_sha256": hashlib.sha256(block.tobytes()).hexdigest(),
                "verified": False,
                "recheck": {"agrees": True},
            }
            for video, block, start in zip(videos, blocks, starts.tolist(), strict=False)
        ],
    }
    (folder / "feature_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def annotate(rng: np.random.Generator, video: Video) -> np.ndarray:
    """int64 ``[users, frames]``, 1 to 5."""
    spans = (np.arange(video.frames) / video.fps // 2).astype(int)
    noise = np.stack([rng.normal(scale=0.15, size=spans[-1] + 1) for _ in range(USERS)])
    seen = np.clip(video.importance[video.shot_of] + noise[:, spans], 0, 1)
    return np.clip(np.round(1 + 4 * seen), 1, 5).astype(int)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Make stand-ins for a finished run, with a planted direction."
    )
    parser.add_argument("folder", type=Path, help="where to write them")
    parser.add_argument("--videos", type=int, default=50)
    parser.add_argument("--dim", type=int, default=960)
    parser.add_argument("--seed", type=int, default=29)
    options = parser.parse_args()

    rng = np.random.default_rng(options.seed)
    direction = rng.normal(size=options.dim)
    direction /= np.linalg.norm(direction)
    videos = [make_video(rng, place, direction) for place in range(options.videos)]
    parts: dict[str, list[pd.DataFrame]] = {}
    for name in ("two", "every15"):
        parts[name], blocks = [], []
        for video in videos:
            times = np.arange(0, video.frames, 15) / video.fps
            if name == "two":
                times = np.round(np.arange(0, video.frames / video.fps, 0.5), 3)
            parts[name].append(frames_of(video, times))
            blocks.append(rows_of(rng, video, parts[name][-1]["native_idx"].to_numpy(), direction))
        write_run(options.folder / name, videos, parts[name], blocks)
        print(f"{name}: {len(videos)} videos, {sum(map(len, blocks))} rows of {options.dim}")

    scores = [annotate(rng, video) for video in videos]
    with open(options.folder / "ydata-tvsum50-anno.tsv", "w", encoding="utf-8") as file:
        for video, users in zip(videos, scores, strict=True):
            file.writelines(f"{video.video_id}\tVT\t{','.join(map(str, user))}\n" for user in users)
    np.save(options.folder / "direction.npy", direction)
    ids, held_out = [video.video_id for video in videos], max(1, len(videos) // 5)
    for name, tables in parts.items():
        for table, users in zip(tables, scores, strict=True):
            table["score"] = (users.mean(axis=0)[table["native_idx"]] - 1) / 4
        targets = pd.concat(tables, ignore_index=True)[["video_id", "frame_idx", "score"]]
        targets.to_parquet(options.folder / name / "targets.parquet", index=False)
        (options.folder / name / "train.txt").write_text("\n".join(ids[:-held_out]) + "\n", encoding="utf-8")
        (options.folder / name / "val.txt").write_text("\n".join(ids[-held_out:]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
