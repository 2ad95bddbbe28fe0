"""A folder that looks like a finished run, with pictures: drawn scenes, or real clips, and features made from the
pixels."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from framefeat import stored
from framefeat.layout import ResultsFolder
from framefeat.names import video_key
from framefeat.results import verdict
from framefeat.shard_files import Work
from framefeat.words import many
from PIL import Image

Features = Callable[[np.ndarray], np.ndarray]


@dataclass
class Sampled:
    """Frames uint8 ``[T, H, W, 3]`` sampled at ``times``; ``bad`` and ``clamped`` are places in it."""

    video_id: str
    frames: np.ndarray
    times: np.ndarray
    fps: float = 25.0
    bad: Sequence[int] = ()
    clamped: Sequence[int] = ()
    late: float = 0.0  # seconds between each row's time and its frame's
    warnings: Sequence[str] = ()
    problems: Sequence[str] = ()
    doubts: Sequence[str] = ()
    verified: bool = True
    container: dict[str, object] = field(default_factory=dict)


def drawn(
    video_id: str, scenes: Sequence[int], seed: int = 0, size: tuple[int, int] = (54, 96), **more: object
) -> Sampled:
    """``scenes[k]`` frames of each of several scenes: a coarse pattern that drifts a little."""
    random = np.random.default_rng(seed)
    frames = []
    for length in scenes:
        coarse = random.integers(20, 236, (4, 6, 3))
        picture = np.asarray(
            Image.fromarray(coarse.astype(np.uint8)).resize((size[1] * 2, size[0]), Image.Resampling.BICUBIC)
        )
        frames += [np.roll(picture, number, axis=1)[:, : size[1]] for number in range(length)]
    stack = np.stack(frames)
    return Sampled(video_id, stack, np.arange(len(stack)) / 2, **more)  # type: ignore[arg-type]


def filmed(path: Path, video_id: str | None = None, sample_fps: float = 2.0, height: int = 120) -> Sampled:
    """A real clip, decoded in order."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        fps = float(stream.average_rate)
        pictures, stamps = [], []
        for frame in container.decode(stream):
            stamps.append(float(frame.pts * stream.time_base))
            width = round(frame.width * height / frame.height)
            pictures.append(np.asarray(frame.to_image().resize((width, height))))
        facts = {
            "codec": stream.codec_context.name,
            "width": stream.codec_context.width,
            "height": stream.codec_context.height,
        }
    seconds = np.array(stamps) - stamps[0]
    duration = float(seconds[-1] + 1 / fps)
    times = np.arange(0, duration, 1 / sample_fps)
    places = np.minimum(np.round(times * fps).astype(int), len(pictures) - 1)
    return Sampled(
        video_id or path.stem, np.stack([pictures[place] for place in places]), times, fps,
        container={**facts, "fps": fps, "duration_sec": duration, "frames": len(pictures)},
    )  # fmt: skip


def colour_features(frames: np.ndarray) -> np.ndarray:
    """float32 ``[T, 192]``: mean colours of an 8 x 8 grid."""
    count, height, width, _ = frames.shape
    grid = frames[:, : height - height % 8, : width - width % 8].astype(np.float32)
    blocks = grid.reshape(count, 8, height // 8, 8, width // 8, 3).mean(axis=(2, 4))
    return blocks.reshape(count, -1) / 255


def write_run(
    root: Path,
    videos: Sequence[Sampled],
    backbones: dict[str, Features] | None = None,
    dataset: str = "demo",
    geometry: str = "squash224",
    order: np.ndarray | None = None,
) -> Path:
    """Write ``root/results/{dataset}``, ``root/benchmarks/{dataset}`` and ``root/logs/{dataset}``; returns the first.
    ``order`` permutes the index. Each video is a shard."""
    results, benchmarks, logs = (root / kind / dataset for kind in ("results", "benchmarks", "logs"))
    backbones = backbones or {"colour_grid": colour_features}
    random = np.random.default_rng(1)
    tables = []
    for video in videos:
        native = np.round(video.times * video.fps).astype(int)
        status = np.full(len(video.times), "ok", dtype=object)
        status[list(video.clamped)] = "clamped"
        native[list(video.clamped)] -= 1
        pts = native / video.fps + video.late
        status[list(video.bad)], native[list(video.bad)], pts[list(video.bad)] = "bad", -1, np.nan
        tables.append(pd.DataFrame({
            "video_id": video.video_id, "frame_idx": np.arange(len(native)), "timestamp_sec": video.times,
            "native_idx": native, "pts_sec": pts, "offset_sec": pts - video.times, "status": status,
        }))  # fmt: skip
        _write_pictures(results, geometry, video, native, pts, status)
    index = pd.concat(tables, ignore_index=True)
    if order is not None:
        index = index.iloc[order].reset_index(drop=True)
    for name, compute in backbones.items():
        blocks = []
        for video in videos:
            values = compute(video.frames).astype(np.float32)
            values[list(video.bad)] = np.nan
            blocks.append(values)
        matrix = np.concatenate(blocks)
        _write_backbone(
            results / name, dataset, name, matrix if order is None else matrix[order], index, videos
        )
        for video in videos:
            seconds = len(video.times) / random.uniform(60, 120)
            job = Path("extract_features", name, video_key(video.video_id))
            _benchmark(benchmarks / f"{job}.tsv", seconds, 700)
            _log(logs / f"{job}.log", 1, len(video.times))
        _benchmark(benchmarks / "assemble" / f"{name}.tsv", 1.2, 150)
    for video in videos:
        seconds = len(video.times) / random.uniform(30, 200)
        job = Path("sample_frames", geometry, video_key(video.video_id))
        _benchmark(benchmarks / f"{job}.tsv", seconds, 220)
        _log(logs / f"{job}.log", 1, len(video.times))
        _shard(results, video_key(video.video_id), [video.video_id])
    _benchmark(benchmarks / "merge_index" / "merge_index.tsv", 2.1, 120)
    return results


def _write_pictures(
    results: Path, geometry: str, video: Sampled, native: np.ndarray, pts: np.ndarray, status: np.ndarray
) -> None:
    key = video_key(video.video_id)
    kept = np.unique(np.round(np.linspace(0, len(video.frames) - 1, min(24, len(video.frames)))).astype(int))
    sprite = io.BytesIO()
    Image.fromarray(np.concatenate([video.frames[place] for place in kept], axis=1)).save(
        sprite, "JPEG", quality=80
    )
    evidence = {
        "schema": 1, "video_id": video.video_id, "video": video.container, "decoder": "decord",
        "rows": {
            "timestamp_sec": video.times.tolist(), "native_idx": native.tolist(),
            "pts_sec": [None if np.isnan(value) else float(value) for value in pts], "status": status.tolist(),
        },
        "thumbnails": {"rows": kept.tolist(), "height": video.frames.shape[1], "width": video.frames.shape[2]},
        "warnings": list(video.warnings), "problems": list(video.problems),
    }  # fmt: skip
    path = ResultsFolder(results).evidence(geometry, key)
    stored.write(path, evidence, {"thumbnails": stored.as_bytes(sprite.getvalue())})


def _write_backbone(
    folder: Path, dataset: str, name: str, matrix: np.ndarray, index: pd.DataFrame, videos: Sequence[Sampled]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{dataset}_features.npy", matrix)
    index.to_parquet(folder / "frame_index.parquet", index=False)
    entries = []
    for video in videos:
        rows = np.flatnonzero(index["video_id"] == video.video_id)
        mine = index.iloc[rows]
        counts = {kind: int((mine["status"] == kind).sum()) for kind in ("ok", "clamped", "bad")}
        where: dict[str, object] = {"first_row": int(rows[0]), "last_row": int(rows[-1])}
        sound = video.verified and not counts["bad"]
        ok = mine[mine["status"] == "ok"]
        if rows[-1] - rows[0] + 1 != len(rows):
            where = {"row_numbers": rows.tolist()}
        entries.append({
            "video_id": video.video_id, "rows": len(rows), **where, "fps": video.fps,
            "container": {"fps": video.fps, "codec": "h264", "duration_sec": float(video.times[-1] + 0.5), **video.container},
            "decoder": "decord", "decoder_reason": "count, times, shape and pixels agree with PyAV",
            "max_abs_offset_sec": float(ok["offset_sec"].abs().max()) if len(ok) else None,
            "counts": counts, "features_sha256": f"{hash((video.video_id, name)):x}", "verified": sound,
            "verdict": verdict.of_video(sound, video.doubts), "doubts": list(video.doubts),
            "recheck": {"pixels": {"reader": "pyav", "rows": [0, len(rows) // 2], "agrees": video.verified}},
            "warnings": list(video.warnings), "problems": list(video.problems),
        })  # fmt: skip
    counts = {kind: int((index["status"] == kind).sum()) for kind in ("ok", "clamped", "bad")}
    doubtful = [entry["max_abs_offset_sec"] for entry in entries if entry["doubts"]]
    notes = [f"{many(counts['bad'], 'bad row')} (NaN in the matrix)"] if counts["bad"] else []
    notes += [many(len(doubtful), "video") + " doubtful"] if doubtful else []
    manifest = {
        "backbone": name, "weights": "DEFAULT", "feature_dim": matrix.shape[1], "total_frames": len(matrix),
        "alignment_verified": all(entry["verified"] for entry in entries),
        "order": "sequential_per_frame_index", "verdict": verdict.of_all([entry["verdict"] for entry in entries]),
        "schema_version": 1, "dataset": dataset,
        "preprocessing": {"name": "squash224", "resize": [224, 224], "interpolation": "bilinear"}, "alignment": "index",
        "precision": "float32", "decoder": "auto", "on_bad_frames": "mask", "counts": counts,
        "doubtful": {"videos": len(doubtful), "max_abs_offset_sec": max(doubtful, default=None)},
        "notes": notes,
        "matrix_sha256": "0" * 64, "versions": {"framefeat": "0.1.0"}, "videos": entries,
    }  # fmt: skip
    (folder / "feature_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def _benchmark(path: Path, seconds: float, memory: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow("s h:m:s max_rss max_vms max_uss max_pss io_in io_out mean_load cpu_time".split())
        writer.writerow(
            [f"{seconds:.4f}", "0:00:01", memory, "NA", "NA", "NA", "-", "-", "0.00", f"{seconds * 0.9:.2f}"]
        )


def _log(path: Path, videos: int, rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{Work(videos, videos, rows)}\n")


def _shard(results: Path, name: str, ids: Sequence[str]) -> None:
    """What the report reads of a shard: that it is there, and its videos."""
    path = ResultsFolder(results).shard(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"videos": {video_key(video_id): {"video_id": video_id} for video_id in ids}}))


def leave_out(results: Path, path: str, reason: str) -> None:
    """As a merge tells of a file that it did not take."""
    told = {"schema": 1, "dropped": [], "files": [{"path": path, "reason": reason}], "unread": []}
    (results / "left_out.json").write_text(json.dumps(told | {"counts": {"text (.md)": 2}}))


def write_many(root: Path, videos: int, rows: int = 20, dim: int = 960, dataset: str = "many") -> Path:
    """Like :func:`write_run`, for thousands of videos: few distinct pictures, features written in blocks."""
    results = root / "results" / dataset
    folder = results / "backbone"
    folder.mkdir(parents=True, exist_ok=True)
    model = drawn("0", [rows // 2, rows - rows // 2], seed=3)
    template = write_run(root / "template", [model], dataset=dataset)
    files = ResultsFolder(template)
    evidence = stored.read_record(files.evidence("squash224", "0"))
    sprite = stored.read_array(files.evidence("squash224", "0"), "thumbnails")
    manifest = json.loads((template / "colour_grid" / "feature_manifest.json").read_text())
    entry = manifest["videos"][0]
    random = np.random.default_rng(0)
    matrix = np.lib.format.open_memmap(
        folder / f"{dataset}_features.npy", mode="w+", dtype=np.float32, shape=(videos * rows, dim)
    )
    entries = []
    buckets: dict[str, list[str]] = {}
    for number in range(videos):
        video_id = f"video {number:05d}"
        key = video_key(video_id)
        scene = random.random((2, dim)).astype(np.float32)
        matrix[number * rows : (number + 1) * rows] = np.repeat(scene, [rows // 2, rows - rows // 2], axis=0)
        matrix[number * rows : (number + 1) * rows] += 0.1 * random.random((rows, dim), dtype=np.float32)
        stored.write(
            ResultsFolder(results).evidence("squash224", key),
            {**evidence, "video_id": video_id},
            {"thumbnails": sprite},
        )
        buckets.setdefault(f"shard+{number % 64:02}of64", []).append(video_id)
        warned = ["the index says 25 fps, the file 24"] if number % 10 == 0 else []
        entries.append({
            **entry, "video_id": video_id, "first_row": number * rows, "last_row": number * rows + rows - 1,
            "features_sha256": str(number), "warnings": warned,
        })  # fmt: skip
    for shard, ids in buckets.items():
        _shard(results, shard, ids)
        for rule in ("sample_frames/squash224", "extract_features/backbone"):
            _benchmark(root / "benchmarks" / dataset / rule / f"{shard}.tsv", 0.5 * len(ids), 200)
            _log(root / "logs" / dataset / rule / f"{shard}.log", len(ids), len(ids) * rows)
    matrix.flush()
    one = pd.read_parquet(template / "colour_grid" / "frame_index.parquet")
    index = pd.concat([one] * videos, ignore_index=True)
    index["video_id"] = np.repeat([f"video {number:05d}" for number in range(videos)], rows)
    index.to_parquet(folder / "frame_index.parquet", index=False)
    manifest |= {"videos": entries, "total_frames": videos * rows, "feature_dim": dim}
    manifest["counts"] = {"ok": videos * rows, "clamped": 0, "bad": 0}
    (folder / "feature_manifest.json").write_text(json.dumps(manifest))
    return results
