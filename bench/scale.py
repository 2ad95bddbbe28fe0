"""``python -m bench.scale``: what many videos cost Snakemake and the assembly, in seconds and bytes.

The rules, the merge and the assembly are the real ones. Each video is one tiny clip with a tail of its own, so that
every file has another content. One video is really sampled and extracted; the other videos' evidence, features and
records are made from its own by exchanging ids and digests, and ``snakemake --touch`` gives Snakemake the memory that a
complete run leaves behind.
"""

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from framefeat.files import read_json
from framefeat.identity import times_digest
from framefeat.layout import ResultsFolder, results_of

from bench.__main__ import machine

ROOT = Path(__file__).parents[1]
DATASET, BACKBONE, GEOMETRY = "scale", "mobilenet_v3_large", "squash224"
FPS, FRAMES = 25, 60
CORES = len(os.sched_getaffinity(0))


@dataclass
class Figures:
    """One command: wall and CPU seconds (of its children too), and the largest resident size in bytes of its first
    process and of any process below that."""

    wall: float
    cpu: float
    peak: int
    peak_child: int
    output: str = ""


def environment() -> dict[str, str]:
    """The environment's own commands first; nothing of a surrounding run, and modules compiled once as for any user."""
    dropped = ("FRAMEFEAT_", "SNAKEMAKE_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return kept | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def measure(command: list[str], cwd: Path) -> Figures:
    """Run ``command``; the kernel's own high-water marks are read while it runs."""
    peaks = {"first": 0, "child": 0}
    done = threading.Event()
    with tempfile.TemporaryFile("w+") as output:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
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
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{text[-4000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Figures(wall, cpu, peaks["first"], peaks["child"], text)


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
        stream = container.add_stream(
            "libx264", rate=FPS, options={"preset": "veryfast", "bf": "2", "g": "20"}
        )
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(FRAMES):
            image = np.kron(np.roll(coarse, number // 4, axis=1), np.ones((8, 8, 1), np.uint8))
            image[: 4 + number % 40, :8] = 255 - image[: 4 + number % 40, :8]
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"))
            )
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
    return [
        sys.executable,
        "-c",
        code,
        *snakemake("--touch", "--forceall", "--quiet", "all", "--scheduler-subsample", "20")[3:],
    ]


# --- results without decoding
@dataclass(frozen=True)
class Sample:
    """What one video's real sampling and extraction left behind."""

    evidence: dict[str, Any]
    record: dict[str, Any]
    features: np.ndarray
    thumbnails: bytes
    spec: dict[str, Any]


def real_sample(parent: Path, clip: bytes, rows: int, weights: Path) -> Sample:
    """The workflow on one video."""
    with workspace(parent) as folder:
        collect(folder, clip, 1, rows)
        configure(folder, weights)
        measure(snakemake(), folder)
        results, key = results_in(folder), video_id(0)
        backbone = results.backbone(BACKBONE)
        return Sample(
            read_json(results.evidence(GEOMETRY, key)),
            read_json(backbone.record(key)),
            np.load(backbone.features(key)),
            results.thumbnails(GEOMETRY, key).read_bytes(),
            read_json(backbone.manifest)["spec"],
        )


def results_in(folder: Path) -> ResultsFolder:
    return results_of(DATASET, folder / "results")


def make_folders(results: ResultsFolder) -> None:
    """Those of each video's files."""
    features = results.backbone(BACKBONE).features("")
    for path in (
        results.slice(""),
        results.evidence(GEOMETRY, ""),
        results.thumbnails(GEOMETRY, ""),
        features,
    ):
        path.parent.mkdir(parents=True, exist_ok=True)


def stand_in(results: ResultsFolder, sample: Sample) -> None:
    """Each video's evidence, thumbnails, features and record, for the slices of ``results``."""
    from framefeat.identity import features_key

    backbone = results.backbone(BACKBONE)
    make_folders(results)
    for number, video in enumerate(results.video_keys()):
        slice_ = read_json(results.slice(video))
        key = {name: slice_.get(name, value) for name, value in sample.evidence["key"].items()}
        evidence = sample.evidence | {"video_id": slice_["video_id"], "key": key}
        record_key = features_key(sample.record["key"], evidence)
        features = sample.features + np.float32(number % 1000) * np.float32(1e-3)
        record = sample.record | {"video_id": slice_["video_id"], "key": record_key}
        record["features_sha256"] = hashlib.sha256(features.tobytes()).hexdigest()
        results.evidence(GEOMETRY, video).write_text(json.dumps(evidence, ensure_ascii=False) + "\n")
        backbone.record(video).write_text(json.dumps(record, ensure_ascii=False) + "\n")
        results.thumbnails(GEOMETRY, video).write_bytes(sample.thumbnails)
        np.save(backbone.features(video), features)


# --- the measurements
def measure_videos(
    parent: Path, videos: int, rows: int, sample: Sample, clip: bytes, weights: Path
) -> dict[str, Figures]:
    """Every figure of one size of collection, by name."""
    figures: dict[str, Figures] = {}

    def note(name: str, command: list[str], expect: str = "") -> None:
        figures[name] = found = measure(command, folder)
        print(
            f"{videos} videos: {name}: {found.wall:.1f} s, {found.cpu:.1f} s of CPU, {found.peak / 1e6:.0f} MB, "
            f"its jobs {found.peak_child / 1e6:.0f} MB",
            flush=True,
        )
        if expect not in found.output:
            raise SystemExit(f"{name}: {expect!r} was not printed:\n{found.output[-4000:]}")

    with workspace(parent) as folder:
        collect(folder, clip, videos, rows)
        configure(folder, weights)
        note("first `merge_index` (every file read)", snakemake("--until", "merge_index"))
        note("dry run, everything to do", snakemake("--dry-run"), "extract_features")
        stand_in(results_in(folder), sample)
        measure(touch_all(), folder)
        note("`assemble` and `report`", snakemake(), "assemble")
        note("dry run, nothing to do", snakemake("--dry-run"), "Nothing to be done")
        note("no-op run", snakemake(), "Nothing to be done")
        edit_one_time(folder, videos // 2)
        note("one time edited", snakemake(), "assemble")
        if len(re.findall("^Job .*sample_frames", figures["one time edited"].output, re.M)) != 1:
            raise SystemExit("one edited time sampled more than one video")
        note("`framefeat assemble` alone", job_command(folder, "assemble"))
        note("`framefeat report` alone", job_command(folder, "report"))
    return figures


def edit_one_time(folder: Path, number: int) -> None:
    table = pd.read_parquet(folder / "frames.parquet")
    row = table.index[table["video_id"] == video_id(number)][-1]
    table.loc[row, "timestamp_sec"] += 1 / FPS
    table.to_parquet(folder / "frames.parquet", index=False)


def job_command(folder: Path, rule: str) -> list[str]:
    """What ``rule`` runs, out of what Snakemake says it would run."""
    listed = measure(snakemake("--dry-run", "--forcerun", rule, "--printshellcmds"), folder).output
    found = re.search(rf"(framefeat {rule} .*?) 2> \S+$", listed, re.M)
    if found is None:
        raise SystemExit(f"no command of {rule} in:\n{listed[-3000:]}")
    return ["bash", "-c", "exec " + found[1]]


def measure_assemble(
    parent: Path, rows: int, videos: int, sample: Sample, interleaved: bool
) -> dict[str, float | Figures]:
    """``framefeat assemble`` of ``rows`` rows of ``videos`` videos, and a plain write of as many bytes, each with a
    sync."""
    from framefeat.identity import features_key
    from framefeat.index.merge import COLUMNS, KEY, SLICE_ROW

    each = rows // videos
    folder = Path(tempfile.mkdtemp(prefix="framefeat-assemble-", dir=parent))
    try:
        results = results_in(folder)
        backbone = results.backbone(BACKBONE)
        make_folders(results)
        times = [number / FPS for number in range(each)]
        seen = {
            "timestamp_sec": times,
            "native_idx": list(range(each)),
            "pts_sec": times,
            "status": ["ok"] * each,
        }
        block = np.random.default_rng(0).standard_normal((each, sample.features.shape[1]), dtype=np.float32)
        times_sha256 = times_digest(np.asarray(times))
        for number in range(videos):
            key = sample.evidence["key"] | {"fingerprint": f"{number:064x}", "times_sha256": times_sha256}
            evidence = sample.evidence | {"video_id": video_id(number), "rows": seen, "key": key}
            evidence["recheck"] = evidence["recheck"] | {"rows": [0, each - 1]}
            record_key = features_key(sample.record["key"], evidence)
            slice_ = {name: key[name] for name in ("fingerprint", "times_sha256", "fps")}
            slice_ |= {"schema": 1, "video_id": video_id(number), "rows": each}
            results.slice(video_id(number)).write_text(json.dumps(slice_))
            results.evidence(GEOMETRY, video_id(number)).write_text(json.dumps(evidence))
            block[:, 0] = number
            record = sample.record | {"video_id": video_id(number), "key": record_key, "rows": each}
            record["features_sha256"] = hashlib.sha256(block).hexdigest()
            backbone.record(video_id(number)).write_text(json.dumps(record))
            np.save(backbone.features(video_id(number)), block)
        ids, places = [video_id(number) for number in range(videos)], np.arange(each)
        columns = (
            {"video_id": np.tile(ids, each), SLICE_ROW: np.repeat(places, videos)}
            if interleaved
            else {"video_id": np.repeat(ids, each), SLICE_ROW: np.tile(places, videos)}
        )
        columns |= {KEY: columns["video_id"], "timestamp_sec": columns[SLICE_ROW] / FPS}
        names = ["video_id", "timestamp_sec"]
        table = pa.table({name: columns[name] for name in (*names, KEY, SLICE_ROW)})
        pq.write_table(table.replace_schema_metadata({COLUMNS: json.dumps(names)}), results.index)
        del table, columns

        matrix = backbone.matrix(DATASET)
        spec = sample.spec | {"folder": BACKBONE}
        os.sync()
        clock = time.perf_counter()
        plain_write(matrix.with_suffix(".plain"), block.nbytes * videos)
        plain = time.perf_counter() - clock
        matrix.with_suffix(".plain").unlink()
        os.sync()
        command = ["framefeat", "assemble", str(results.root), "--geometry", GEOMETRY, "--spec", json.dumps(spec),
                   "--weights-identity", sample.record["key"]["weights"], "--dataset", DATASET]  # fmt: skip
        clock = time.perf_counter()
        figures = measure(command, folder)
        sync(matrix)
        whole = time.perf_counter() - clock
        if not np.array_equal(np.load(matrix, mmap_mode="r")[-1, 1:], block[-1, 1:]):
            raise SystemExit("the assembled matrix is wrong")
        found: dict[str, float | Figures] = {
            "bytes": block.nbytes * videos, "plain": plain, "whole": whole, "assemble": figures
        }  # fmt: skip
        print(
            f"{rows} rows of {videos} videos{', interleaved' * interleaved}: assemble {whole:.1f} s ({figures.cpu:.1f} s of "
            f"CPU, {figures.peak / 1e6:.0f} MB), a plain write {plain:.1f} s",
            flush=True,
        )
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def plain_write(path: Path, size: int) -> None:
    block = np.random.default_rng(0).bytes(8 << 20)
    with path.open("wb", buffering=0) as stream:
        for first in range(0, size, len(block)):
            stream.write(block[: size - first])
        os.fsync(stream.fileno())


def sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


# --- the tables
def table(figures: dict[int, dict[str, Figures]]) -> str:
    """Markdown: one line per command, three columns for each number of videos."""
    sizes = list(figures)
    lines = [
        "| | " + " | ".join(f"{size:,} videos: s | CPU s | MB (largest job)" for size in sizes) + " |",
        "|---|" + "---|" * (3 * len(sizes)),
    ]
    for name in figures[sizes[0]]:
        cells = [figures[size][name] for size in sizes]
        shown = [
            f"{cell.wall:.1f} | {cell.cpu:.1f} | {cell.peak / 1e6:.0f}"
            + (f" ({cell.peak_child / 1e6:.0f})" if cell.peak_child else "")
            for cell in cells
        ]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def assemble_table(found: dict[str, dict[str, float | Figures]]) -> str:
    lines = [
        "| rows | GB | assemble, synced: s | MB/s | CPU s | memory MB | plain write, synced: s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, part in found.items():
        figures = part["assemble"]
        assert isinstance(figures, Figures)
        lines.append(
            f"| {name} | {part['bytes'] / 1e9:.2f} | {part['whole']:.1f} | {part['bytes'] / part['whole'] / 1e6:.0f} | "
            f"{figures.cpu:.1f} | {figures.peak / 1e6:.0f} | {part['plain']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--videos", type=int, nargs="*", default=[1000, 10000], metavar="N")
    parser.add_argument(
        "--rows", type=int, default=20, metavar="N", help="of each video (default: %(default)s)"
    )
    parser.add_argument("--matrix-rows", type=int, default=1_000_000, metavar="N", help="0: leave this out")
    parser.add_argument("--folder", type=Path, default=ROOT / "bench" / "data", help="where the work is done")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the tables there too")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    weights = options.folder / "mobilenet_v3_large.pth"
    if not weights.exists():
        from bench.weights import make_weights

        make_weights(weights)
    clip = write_clip(options.folder / "tiny.mp4")
    sample = real_sample(options.folder, clip, options.rows, weights)
    parts = [f"Machine: {machine()}."]
    if options.videos:
        figures = {
            videos: measure_videos(options.folder, videos, options.rows, sample, clip, weights)
            for videos in options.videos
        }
        parts.append(table(figures))
    if options.matrix_rows:
        found = {}
        for videos, interleaved in ((1000, False), (10_000, False), (1000, True)):
            name = f"{options.matrix_rows:,} of {videos:,} videos{', rows interleaved' * interleaved}"
            found[name] = measure_assemble(options.folder, options.matrix_rows, videos, sample, interleaved)
        parts.append(assemble_table(found))
    text = "\n\n".join(parts) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
