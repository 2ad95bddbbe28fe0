"""``python -m bench.scale PART N``: what many videos cost Snakemake and the assembly, in seconds and bytes.

=============  ====================================================================================================
dry N          a dry run with everything to do for N videos: the whole graph
noop N         a run with nothing to do
edit N         a run after one row's time was edited, and how much of it is the assembly
assemble ROWS  the assembly alone of a matrix of so many rows, beside a plain write of as many bytes
=============  ====================================================================================================

The rules, the merge and the assembly are the real ones. Each video is one tiny clip with a tail of its own, so that
every file has another content. One video is really sampled and extracted; the other videos' evidence and features are
made from its own by exchanging ids and digests, and ``snakemake --touch`` gives Snakemake the memory that a complete
run leaves behind. The collections stay in bench/data/scale for the next part; each part writes its lines into
docs/benchmarks.md.
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
from collections.abc import Callable, Iterator, Mapping
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
from framefeat import stored
from framefeat.files import read_json, write_json
from framefeat.identity import features_key, sample_key, times_digest
from framefeat.index import shards
from framefeat.index.merge import COLUMNS, KEY, SHARD_SCHEMA, SLICE_ROW
from framefeat.layout import ResultsFolder, jobs_of, results_of
from framefeat.records import Slice
from framefeat.shard_files import Merged, read_slices, work_in

from bench.document import CORES, DATA, ROOT, machine, write_section

DATASET, BACKBONE, GEOMETRY = "scale", "mobilenet_v3_large", "squash224"
FPS, FRAMES = 25, 60
WORK = DATA / "scale"


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


def write_videos(folder: Path, clip: bytes, videos: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(videos):
        (folder / f"{video_id(number)}.mp4").write_bytes(clip + tail(number))


def write_indexes(folder: Path, videos: int, rows: int) -> None:
    ids = [video_id(number) for number in range(videos)]
    times = np.arange(rows) * (1 / FPS) * max(1, (FRAMES - 1) // rows)
    index = {"video_id": np.repeat(ids, rows), "frame_idx": np.tile(np.arange(rows), len(ids))}
    pq.write_table(pa.table(index | {"timestamp_sec": np.tile(times, len(ids))}), folder / "frames.parquet")
    table = pd.DataFrame({"video_id": ids, "video_path": [f"{name}.mp4" for name in ids], "fps": float(FPS)})
    table.to_csv(folder / "videos.csv", index=False)


def make_workspace(folder: Path, videos: int, rows: int, weights: Path) -> None:
    """A working folder of the workflow beside ``videos``, the folder of the files."""
    folder.mkdir(parents=True)
    for name in ("Snakefile", "workflow", "profiles", "envs", "config"):
        (folder / name).symlink_to(ROOT / name)
    write_indexes(folder, videos, rows)
    values = {
        "dataset": DATASET,
        "frame_index": "frames.parquet",
        "video_index": "videos.csv",
        "video_root": "../videos",
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
    return [sys.executable, "-c", code, *snakemake("--touch", "--forceall", "--quiet", "all")[3:]]


# --- results without decoding
@dataclass(frozen=True)
class Sample:
    """What one video's real sampling and extraction left behind."""

    evidence: dict[str, Any]
    thumbnails: np.ndarray
    record: dict[str, Any]
    features: np.ndarray
    spec: dict[str, Any]


def real_sample(clip: bytes, rows: int, weights: Path) -> Sample:
    """The workflow on one video."""
    with tempfile.TemporaryDirectory(prefix="sample-", dir=WORK) as parent:
        folder = Path(parent) / "one"
        write_videos(folder.with_name("videos"), clip, 1)
        make_workspace(folder, 1, rows, weights)
        measure(snakemake(), folder)
        results = results_in(folder)
        (key,) = Merged(results).slices
        evidence, features = results.evidence(GEOMETRY, key), results.backbone(BACKBONE).features(key)
        return Sample(
            stored.read_record(evidence),
            stored.read_array(evidence, "thumbnails"),
            stored.read_record(features),
            stored.read_array(features, "features"),
            read_json(results.backbone(BACKBONE).manifest)["spec"],
        )


def results_in(folder: Path) -> ResultsFolder:
    return results_of(DATASET, folder / "results")


def stand_in(
    results: ResultsFolder, sample: Sample, key: str, entry: Slice, rows: Mapping[str, Any], block: np.ndarray
) -> str:
    """Write evidence and features of the video of ``key``, ``rows`` and ``block`` [T, D]; returns what ties one to the
    other."""
    asked = sample_key(entry, alignment="index", geometry=GEOMETRY, decoder="auto")
    again = {**sample.evidence["recheck"], "rows": [0, entry["rows"] - 1]}
    evidence = {
        **sample.evidence,
        "video_id": entry["video_id"],
        "key": asked,
        "rows": rows,
        "recheck": again,
    }
    record = {
        **sample.record,
        "video_id": entry["video_id"],
        "key": features_key(sample.record["key"], evidence),
        "rows": entry["rows"],
        "features_sha256": hashlib.sha256(block).hexdigest(),
    }
    stored.write(results.evidence(GEOMETRY, key), evidence, {"thumbnails": sample.thumbnails})
    stored.write(results.backbone(BACKBONE).features(key), record, {"features": block})
    return str(record["key"]["evidence_sha256"])


def stand_in_all(results: ResultsFolder, sample: Sample) -> None:
    """Every video of the last merge, and what tells that its shard is done."""
    for shard in results.shard_names():
        digests, rows = {}, 0
        for key, entry in read_slices(results, shard).items():
            block = sample.features + np.float32(int(key[-3:])) * np.float32(1e-3)
            digests[key] = stand_in(results, sample, key, entry, sample.evidence["rows"], block)
            rows += entry["rows"]
        for promise in (results.sampled(GEOMETRY, shard), results.backbone(BACKBONE).extracted(shard)):
            write_json(promise, {"rows": rows, "videos": digests})


# --- collections, made once
@dataclass(frozen=True)
class Collection:
    """``merged``: a working folder in which the merge has run, and nothing else; ``done``: one in which all has."""

    videos: int
    rows: int
    weights: Path

    @property
    def root(self) -> Path:
        return WORK / f"{self.videos}x{self.rows}"

    def merged(self) -> Path:
        folder = self.root / "merged"
        with made_once(folder) as missing:
            if missing:
                write_videos(self.root / "videos", the_clip(), self.videos)
                make_workspace(folder, self.videos, self.rows, self.weights)
                say(
                    "merge_index, every file read",
                    self.videos,
                    measure(snakemake("--until", "merge_index"), folder),
                )
        return folder

    def done(self) -> Path:
        merged, folder = self.merged(), self.root / "done"
        with made_once(folder) as missing:
            if missing:
                shutil.copytree(merged, folder, symlinks=True)
                stand_in_all(results_in(folder), real_sample(the_clip(), self.rows, self.weights))
                measure(touch_all(), folder)
                found = expecting(snakemake(), folder, "assemble")
                say("assemble and report", self.videos, found)
        return folder


@contextmanager
def made_once(folder: Path) -> Iterator[bool]:
    """Whether ``folder`` is still to be made; one that was not finished is removed first."""
    finished = folder.with_name(f"{folder.name}.finished")
    missing = not finished.exists()
    if missing:
        shutil.rmtree(folder, ignore_errors=True)
    yield missing
    finished.touch()


def the_clip() -> bytes:
    path = WORK / "tiny.mp4"
    return path.read_bytes() if path.exists() else write_clip(path)


# --- the measurements
Found = dict[str, Figures]


def expecting(command: list[str], folder: Path, words: str) -> Figures:
    """``measure``, where these words must be printed."""
    found = measure(command, folder)
    if words not in found.output:
        raise SystemExit(f"{' '.join(command)}: {words!r} was not printed:\n{found.output[-4000:]}")
    return found


def dry(collection: Collection) -> Found:
    found = expecting(snakemake("--dry-run"), collection.merged(), "extract_features")
    jobs = re.search(r"^total +(\d+)", found.output, re.M)
    return {f"dry run, everything to do ({int(jobs[1]) if jobs else 0:,} jobs)": found}


def noop(collection: Collection) -> Found:
    folder = collection.done()
    return {
        "no-op run": expecting(snakemake(), folder, "Nothing to be done"),
        "dry run, nothing to do": expecting(snakemake("--dry-run"), folder, "Nothing to be done"),
    }


def edit(collection: Collection) -> Found:
    """The last row of the middle video is moved by a frame, or back."""
    folder = collection.done()
    table = pd.read_parquet(folder / "frames.parquet")
    edited = video_id(collection.videos // 2)
    row, before = table.index[table["video_id"] == edited][-2:][::-1]
    step = table["timestamp_sec"][1] - table["timestamp_sec"][0]
    moved = table.loc[row, "timestamp_sec"] - table.loc[before, "timestamp_sec"] > 1.25 * step
    table.loc[row, "timestamp_sec"] += (-1 if moved else 1) / FPS
    table.to_parquet(folder / "frames.parquet", index=False)
    whole = expecting(snakemake(), folder, "assemble")
    shard = Merged(results_in(folder)).shard_of[edited]
    if len(re.findall("^Job .*sample_frames", whole.output, re.M)) != 1:
        raise SystemExit("one edited time sampled more than one shard")
    jobs = jobs_of(DATASET)
    work = work_in(folder / jobs.log("sample_frames", GEOMETRY, shard))
    if work is None or work.videos != 1:
        raise SystemExit(f"one edited time: {work}")
    inside = {
        rule: float(pd.read_csv(folder / jobs.benchmark(rule, *job), sep="\t")["s"][0])
        for rule, job in (("assemble", (BACKBONE,)), ("report", ()))
    }
    told = f"one time edited (of it assemble {inside['assemble']:.1f} s, report {inside['report']:.1f} s)"
    return {told: whole}


def assemble(rows: int, videos: int, interleaved: bool, sample: Sample) -> dict[str, float]:
    """``framefeat assemble`` of ``rows`` rows of ``videos`` videos, and a plain write of as many bytes, each with a
    sync."""
    each = rows // videos
    with tempfile.TemporaryDirectory(prefix="assemble-", dir=WORK) as parent:
        folder = Path(parent)
        results = results_in(folder)
        backbone = results.backbone(BACKBONE)
        times = [number / FPS for number in range(each)]
        seen = {
            "timestamp_sec": times,
            "native_idx": list(range(each)),
            "pts_sec": times,
            "status": ["ok"] * each,
        }
        block = np.random.default_rng(0).standard_normal((each, sample.features.shape[1]), dtype=np.float32)
        times_sha256 = times_digest(np.asarray(times))
        ids = [video_id(number) for number in range(videos)]
        decided: dict[str, dict[str, Slice]] = {}
        dealt = shards.deal(dict.fromkeys(ids, each))
        for number, name in enumerate(ids):
            entry: Slice = {
                "video_id": name,
                "fingerprint": f"{number:064x}",
                "fps": float(FPS),
                "alignment": "index",
                "rows": each,
                "times_sha256": times_sha256,
            }
            block[:, 0] = number
            stand_in(results, sample, name, entry, seen, block)
            decided.setdefault(dealt[name], {})[name] = entry
        for shard, entries in decided.items():
            write_json(results.shard(shard), {"schema": SHARD_SCHEMA, "videos": entries})
        places = np.arange(each)
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
        print(
            f"{rows} rows of {videos} videos{', interleaved' * interleaved}: assemble {whole:.1f} s ({figures.cpu:.1f} s of "
            f"CPU, {figures.peak / 1e6:.0f} MB), a plain write {plain:.1f} s",
            flush=True,
        )
        return {
            "bytes": block.nbytes * videos, "plain": plain, "whole": whole, "cpu": figures.cpu, "peak": figures.peak
        }  # fmt: skip


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
_MEMORY = WORK / "scale.json"


def keep(kind: str, name: str, figures: Mapping[str, Any]) -> None:
    """Remember figures; those of another machine are forgotten."""
    kept = remembered()
    kept[kind][name] = dict(figures)
    write_json(_MEMORY, kept, indent=1)


def remembered() -> dict[str, Any]:
    kept = read_json(_MEMORY) if _MEMORY.exists() else {}
    return kept if kept.get("machine") == machine() else {"machine": machine(), "videos": {}, "matrices": {}}


def say(name: str, videos: int, found: Figures) -> None:
    """Print figures and keep them. A name's remark in brackets may change from one time to the next."""
    print(
        f"{videos:,} videos: {name}: {found.wall:.1f} s, {found.cpu:.1f} s of CPU, {found.peak / 1e6:.0f} MB, "
        f"its jobs {found.peak_child / 1e6:.0f} MB",
        flush=True,
    )
    about = {
        "name": name,
        "wall": found.wall,
        "cpu": found.cpu,
        "peak": found.peak,
        "child": found.peak_child,
    }
    keep("videos", f"{videos:09} {name.partition(' (')[0]}", {"videos": videos, **about})


def tables() -> str:
    """Markdown: all that is remembered of this machine."""
    kept = remembered()
    lines = [
        f"Machine: {kept['machine']}.",
        "",
        "| videos | | s | CPU s | largest process, MB (largest job) |",
        "|---|---|---|---|---|",
    ]
    for _, one in sorted(kept["videos"].items()):
        job = f" ({one['child'] / 1e6:.0f})" if one["child"] else ""
        lines.append(
            f"| {one['videos']:,} | {one['name']} | {one['wall']:.1f} | {one['cpu']:.1f} | {one['peak'] / 1e6:.0f}{job} |"
        )
    if kept["matrices"]:
        lines += [
            "",
            "| matrix | GB | assemble, synced: s | MB/s | CPU s | memory, MB | plain write, synced: s |",
            "|---|---|---|---|---|---|---|",
        ]
    for name, one in kept["matrices"].items():
        lines.append(
            f"| {name} | {one['bytes'] / 1e9:.2f} | {one['whole']:.1f} | {one['bytes'] / one['whole'] / 1e6:.0f} | "
            f"{one['cpu']:.1f} | {one['peak'] / 1e6:.0f} | {one['plain']:.1f} |"
        )
    return "\n".join(lines)


PARTS: dict[str, Callable[[Collection], Found]] = {"dry": dry, "noop": noop, "edit": edit}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=[*PARTS, "assemble"])
    parser.add_argument("count", type=int, metavar="N", help="videos; of assemble: rows")
    parser.add_argument("--rows", type=int, default=20, help="of each video (default: %(default)s)")
    parser.add_argument("--try", action="store_true", dest="trial", help="leave docs/benchmarks.md as it is")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    weights = DATA / "mobilenet_v3_large.pth"
    if not weights.exists():
        from bench.weights import make_weights

        make_weights(weights)
    if options.part == "assemble":
        sample = real_sample(the_clip(), options.rows, weights)
        for share, interleaved in ((1000, False), (100, False), (1000, True)):
            videos = options.count // share
            name = f"{options.count:,} rows of {videos:,} videos{', interleaved' * interleaved}"
            keep("matrices", name, assemble(options.count, videos, interleaved, sample))
    else:
        for name, found in PARTS[options.part](Collection(options.count, options.rows, weights)).items():
            say(name, options.count, found)
    print(tables())
    if not options.trial:
        write_section("scale", tables())


if __name__ == "__main__":
    main()
