"""``python -m bench.scale``: what many videos cost Snakemake and the assembly, in seconds and bytes.

The rules, the merge and the assembly are the real ones. Each video is one tiny clip with a tail of its own, so that every
file has another content. One video is really sampled and extracted; the other videos' evidence, features and records are
made from its own by exchanging ids and digests, and ``snakemake --touch`` gives Snakemake the memory that a complete run
leaves behind.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).parents[1]
DATASET, BACKBONE, GEOMETRY = "scale", "mobilenet_v3_large", "squash224"
RESULTS = Path("results") / DATASET
FPS, FRAMES = 25, 60
CORES = len(os.sched_getaffinity(0))


@dataclass
class Figures:
    """One command: wall seconds, the largest resident size (bytes) of its first process and of any other in its tree."""

    wall: float
    peak: int
    peak_child: int
    output: str
    status: int


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FRAMEFEAT_", "SNAKEMAKE_"))}
    return kept | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def measure(command: list[str], cwd: Path, check: bool = True) -> Figures:
    """Run ``command``; the kernel's own high-water marks are read while it runs."""
    peaks = {"first": 0, "child": 0}
    done = threading.Event()
    with tempfile.TemporaryFile("w+") as output:
        clock = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=cwd, env=environment(), text=True, stdout=output, stderr=subprocess.STDOUT
        )

        def watch() -> None:
            first = psutil.Process(process.pid)
            while not done.wait(0.05):
                peaks["first"] = max(peaks["first"], high_water(process.pid))
                try:
                    children = first.children(recursive=True)
                except psutil.Error:
                    return
                for child in children:
                    peaks["child"] = max(peaks["child"], high_water(child.pid))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        process.wait()
        wall = time.perf_counter() - clock
        done.set()
        watcher.join()
        output.seek(0)
        text = output.read()
    if check and process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{text[-4000:]}")
    return Figures(wall, peaks["first"], peaks["child"], text, process.returncode)


def high_water(pid: int) -> int:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


# --- the collection
def write_clip(path: Path) -> bytes:
    """A tiny H.264 clip with B-frames: ``FRAMES`` frames of 64x48."""
    import av

    random = np.random.default_rng(1)
    coarse = random.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "bf": "2", "g": "20"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(FRAMES):
            image = np.kron(np.roll(coarse, number // 4, axis=1), np.ones((8, 8, 1), np.uint8))
            image[: 4 + number % 40, :8] = 255 - image[: 4 + number % 40, :8]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def tail(number: int) -> bytes:
    """An MP4 box that players skip: it makes each file's content its own."""
    content = f"video {number}".encode()
    return (8 + len(content)).to_bytes(4, "big") + b"free" + content


def video_id(number: int) -> str:
    return f"video{number:06}"


def collect(folder: Path, clip: bytes, videos: int, rows: int) -> None:
    """``videos`` files and their two indexes."""
    (folder / "videos").mkdir(exist_ok=True)
    for number in range(videos):
        (folder / "videos" / f"{video_id(number)}.mp4").write_bytes(clip + tail(number))
    write_indexes(folder, range(videos), rows)


def write_indexes(folder: Path, numbers: range, rows: int) -> None:
    ids = [video_id(number) for number in numbers]
    times = np.arange(rows) * (1 / FPS) * max(1, (FRAMES - 1) // rows)
    index = {"video_id": np.repeat(ids, rows), "frame_idx": np.tile(np.arange(rows), len(ids))}
    pq.write_table(pa.table(index | {"timestamp_sec": np.tile(times, len(ids))}), folder / "frames.parquet")
    table = pd.DataFrame({"video_id": ids, "video_path": [f"{name}.mp4" for name in ids], "fps": float(FPS)})
    table.to_csv(folder / "videos.csv", index=False)


@contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """A fresh working folder of the workflow; removed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="framefeat-scale-", dir=parent))
    try:
        for name in ("Snakefile", "workflow", "profiles", "envs", "config"):
            (folder / name).symlink_to(ROOT / name)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def configure(folder: Path, weights: Path) -> None:
    values = {
        "dataset": DATASET,
        "frame_index": "frames.parquet",
        "video_index": "videos.csv",
        "video_root": "videos",
        "weights": str(weights),
        "device": "cpu",
    }
    (folder / "scale.yaml").write_text(yaml.safe_dump(values))


def snakemake(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--cores", str(CORES), "--resources", "gpu=1", "--configfile",
            "scale.yaml", "--nocolor", *arguments]  # fmt: skip


def touch_all() -> list[str]:
    """``snakemake --touch --forceall`` without its pause of 0.1 s for each job."""
    code = "from snakemake import cli; from snakemake.executors import touch; touch.Executor.SLEEPING_TIME = 0; cli.main()"
    return [sys.executable, "-c", code, *snakemake("--touch", "--forceall", "--quiet", "all", "--scheduler-subsample", "20")[3:]]


# --- results without decoding
@dataclass(frozen=True)
class Sample:
    """What one video's real sampling and extraction left behind."""

    evidence: dict[str, Any]
    record: dict[str, Any]
    features: np.ndarray
    thumbnails: bytes


def real_sample(parent: Path, clip: bytes, rows: int, weights: Path) -> Sample:
    """The workflow on one video."""
    with workspace(parent) as folder:
        collect(folder, clip, 1, rows)
        configure(folder, weights)
        measure(snakemake(), folder)
        results, key = folder / RESULTS, video_id(0)
        return Sample(
            json.loads((results / "evidence" / GEOMETRY / f"{key}.json").read_text()),
            json.loads((results / BACKBONE / "features" / f"{key}.json").read_text()),
            np.load(results / BACKBONE / "features" / f"{key}.npy"),
            (results / "thumbnails" / GEOMETRY / f"{key}.jpg").read_bytes(),
        )


def stand_in(results: Path, sample: Sample) -> None:
    """Each video's evidence, thumbnails, features and record, for the slices of ``results``."""
    from framefeat.extract import evidence_digest

    evidence_folder, thumbnail_folder = results / "evidence" / GEOMETRY, results / "thumbnails" / GEOMETRY
    features_folder = results / BACKBONE / "features"
    for folder in (evidence_folder, thumbnail_folder, features_folder):
        folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted((results / "slices").glob("[!.]*.json"))):
        slice_ = json.loads(path.read_text())
        key = {name: slice_.get(name, value) for name, value in sample.evidence["key"].items()}
        evidence = sample.evidence | {"video_id": slice_["video_id"], "key": key}
        record_key = sample.record["key"] | {"evidence_sha256": evidence_digest(evidence)}
        record = sample.record | {"video_id": slice_["video_id"], "key": record_key}
        (evidence_folder / f"{path.stem}.json").write_text(json.dumps(evidence, ensure_ascii=False) + "\n")
        (features_folder / f"{path.stem}.json").write_text(json.dumps(record, ensure_ascii=False) + "\n")
        (thumbnail_folder / f"{path.stem}.jpg").write_bytes(sample.thumbnails)
        np.save(features_folder / f"{path.stem}.npy", sample.features + np.float32(number % 1000) * np.float32(1e-3))


# --- the measurements
def measure_videos(parent: Path, videos: int, rows: int, sample: Sample, clip: bytes, weights: Path) -> dict[str, Figures]:
    """Every figure of one size of collection."""
    figures: dict[str, Figures] = {}

    def note(name: str, command: list[str], expect: str = "", check: bool = True) -> Figures:
        figures[name] = found = measure(command, folder, check)
        if os.environ.get("SCALE_DEBUG"):
            Path(os.environ["SCALE_DEBUG"], name.replace(" ", "_") + ".log").write_text(found.output)
        print(f"{videos} videos: {name}: {found.wall:.1f} s, {found.peak / 1e6:.0f} MB, children {found.peak_child / 1e6:.0f} MB", flush=True)
        if expect and expect not in found.output:
            raise SystemExit(f"{name}: {expect!r} was not printed:\n{found.output[-4000:]}")
        return found

    with workspace(parent) as folder:
        collect(folder, clip, videos, rows)
        configure(folder, weights)
        note("merge_index, first time", snakemake("--until", "merge_index"))
        note("dry run, everything to do", snakemake("--dry-run"), "extract_features")
        stand_in(folder / RESULTS, sample)
        note("touch", touch_all())
        note("assemble and report", snakemake(), "assemble")
        note("dry run, nothing to do", snakemake("--dry-run"), "Nothing to be done")
        note("no-op run", snakemake(), "Nothing to be done")
        edit_one_time(folder, videos // 2)
        note("one row edited", snakemake(), "assemble")
        note("no-op run again", snakemake(), "Nothing to be done")
        note("framefeat assemble", assemble_command(folder))
    return figures


def edit_one_time(folder: Path, number: int) -> None:
    table = pd.read_parquet(folder / "frames.parquet")
    row = table.index[table["video_id"] == video_id(number)][-1]
    table.loc[row, "timestamp_sec"] += 1 / FPS
    table.to_parquet(folder / "frames.parquet", index=False)


def assemble_command(folder: Path) -> list[str]:
    """What the rule runs, out of what Snakemake says it would run."""
    listed = measure(snakemake("--dry-run", "--forcerun", "assemble", "--printshellcmds"), folder).output
    found = re.search(r"(framefeat assemble .*?) 2> \S+$", listed, re.M)
    if found is None:
        raise SystemExit(f"no assemble command in:\n{listed[-3000:]}")
    return ["bash", "-c", "exec " + found[1]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--videos", type=int, nargs="*", default=[1000, 10000])
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=ROOT / "bench" / "data")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    weights = options.folder / "mobilenet_v3_large.pth"
    if not weights.exists():
        from bench.weights import make_weights

        make_weights(weights)
    clip = write_clip(options.folder / "tiny.mp4")
    sample = real_sample(options.folder, clip, options.rows, weights)
    for videos in options.videos:
        measure_videos(options.folder, videos, options.rows, sample, clip, weights)


if __name__ == "__main__":
    main()
