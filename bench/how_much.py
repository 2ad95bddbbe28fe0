"""``python -m bench.how_much``: seconds, memory and disk of a collection, by its length and by its number of clips.

Writes its section into docs/how-much.md. Each measurement runs the stage's own function in a fresh process of one
thread, so that its memory is its own; CPU seconds, so that others on the machine disturb little. Weights are random.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench import inputs
from bench.__main__ import DATA, ROOT, machine

BACKBONES = ("mobilenet_v3_large", "efficientnet_b0", "resnet50", "convnext_tiny", "vit_b_16")
LONG, SHORT = 60, 5  # seconds of a clip
HOUR, CLIPS = 3600, 1000
ROWS = 64  # of a backbone's forward passes
GEOMETRY = "squash224"
PAGE = ROOT / "docs" / "how-much.md"
START, END = "<!-- how-much:start -->", "<!-- how-much:end -->"


@dataclass(frozen=True)
class Sampling:
    """Of one clip: CPU seconds; bytes that stay and that are temporary; the largest process in bytes."""

    cpu: float
    kept: float
    temporary: float
    memory: float


@dataclass(frozen=True)
class Embedding:
    """``cpu``: seconds for a row. ``kept``: bytes of a row in the matrix and in the video's file; ``record``: bytes of
    such a file that are not rows. ``memory`` and ``weights``: bytes."""

    dim: int
    cpu: float
    kept: float
    record: float
    memory: float
    weights: float


# ------------------------------------------------------------------------- in a process of its own


def _alone(work: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _peak() -> float:
    """Bytes that this process held at most. Not ``ru_maxrss``, which begins with what the parent held."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line[:6] == "VmHWM:")
    return int(line.split()[1]) * 1024


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _record(path: Path, seconds: int) -> dict[str, Any]:
    """The clip as the merge would describe it."""
    import numpy as np
    from framefeat.identity import times_digest
    from framefeat.index import fingerprints

    times = np.arange(seconds * inputs.SAMPLE_FPS) / inputs.SAMPLE_FPS
    found = fingerprints.examine(str(path))
    return {
        "video_id": path.stem,
        "path": str(path),
        "timestamps": times.tolist(),
        "rows": len(times),
        "fps": float(inputs.FPS),
        "fingerprint": found["sha256"],
        "times_sha256": times_digest(times),
        "facts": found["facts"],
        "error": None,
        "warnings": [],
        "doubts": [],
    }


def _sample(path: Path, seconds: int, folder: Path) -> tuple[Path, Path, Path, Any]:
    from framefeat.sample.video import sample_video

    evidence, frames, recheck = (
        folder / f"{path.stem}.{kind}" for kind in ("safetensors", "npy", "again.npy")
    )
    told = sample_video(
        _record(path, seconds), geometry=GEOMETRY, alignment="index", decoder="auto",
        frames_path=frames, recheck_path=recheck, evidence_path=evidence,
    )  # fmt: skip
    return evidence, frames, recheck, told


def sampling(paths: Sequence[Path], seconds: int) -> Sampling:
    """The mean of some clips, imports left out. The merge's look at a file is in it, and the second decode."""
    with tempfile.TemporaryDirectory() as folder:
        _sample(paths[0], seconds, Path(folder))
        began = _cpu()
        made = [_sample(path, seconds, Path(folder)) for path in paths]
        spent = _cpu() - began
        kept = sum(evidence.stat().st_size for evidence, *_ in made)
        temporary = sum(file.stat().st_size for _, *files, _ in made for file in files)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    count = len(paths)
    return Sampling(spent / count, kept / count, temporary / count, max(_peak(), children))


def make_weights(name: str, path: Path) -> None:
    from tests.models import live_model

    live_model(name, path)


def embedding(name: str, weights: Path, clip: Path, rows: int) -> Embedding:
    """Forward passes over a clip's frames and writing what is kept of them; loading the network is left out."""
    import json

    import numpy as np
    import torch
    from framefeat.backbone.network import load_model
    from framefeat.backbone.resolve import resolve
    from framefeat.extract.embed import embed_videos
    from framefeat.files import file_sha256
    from framefeat.identity import features_key, identifying, request_key

    torch.set_num_threads(1)
    spec = resolve(name, str(weights))
    network = load_model(spec, weights)
    identity = file_sha256(weights)
    asked = request_key(json.dumps(identifying(spec.to_json())), identity, "float32")
    with tempfile.TemporaryDirectory() as folder:
        evidence, frames, recheck, told = _sample(clip, rows // inputs.SAMPLE_FPS, Path(folder))
        features = Path(folder) / "features.safetensors"
        video = {
            "place": 0, "video": clip.stem, "rows": rows, "key": features_key(asked, told), "evidence": str(evidence),
            "frames": str(frames), "recheck": str(recheck), "features": str(features),
        }  # fmt: skip
        request = {
            "spec": json.dumps(spec.to_json()), "weights": str(weights), "weights_identity": identity,
            "precision": "float32", "videos": [video], "batch_size": "auto", "threads": 1, "scratch": folder,
            "together": False, "warnings": [],
        }  # fmt: skip
        network(torch.from_numpy(np.load(frames)[:16]))
        answers: list[Any] = []
        began = time.process_time()
        embed_videos(request, network, identity, answers.append)  # type: ignore[arg-type]
        spent = time.process_time() - began
        if "record" not in answers[0]:
            raise SystemExit(f"{name}: {answers[0]}")
        size = features.stat().st_size
    row = 4 * spec.dim
    return Embedding(spec.dim, spent / rows, 2 * row, size - rows * row, _peak(), weights.stat().st_size)


# ------------------------------------------------------------------------------------ the section


def section(long: Sampling, short: Sampling, found: dict[str, Embedding], about: str) -> str:
    """The tables, scaled to an hour of video and to a thousand clips."""
    per_hour = HOUR // LONG
    hour_rows, clip_rows = HOUR * inputs.SAMPLE_FPS, CLIPS * SHORT * inputs.SAMPLE_FPS
    lines = [
        f"Machine: {about}. {inputs.SIZE[0]}x{inputs.SIZE[1]} H.264 at {inputs.FPS} fps, "
        f"{inputs.SAMPLE_FPS} rows a second, `decoder: auto`, `precision: float32`, one thread.",
        "",
        "| sampling | rows | CPU s | largest process MB | kept MB | temporary frames MB, all at once |",
        "|---|---|---|---|---|---|",
        _sampled(f"an hour of video, in clips of {LONG} s", hour_rows, per_hour, long),
        _sampled(f"{CLIPS:,} clips of {SHORT} s", clip_rows, CLIPS, short),
        "",
        f"| embedding | numbers a row | rows per CPU s | CPU s: an hour | CPU s: {CLIPS:,} clips | largest process MB | "
        f"kept MB: an hour | kept MB: {CLIPS:,} clips | weights MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        kept = [
            _mb(rows * one.kept + files * one.record)
            for rows, files in ((hour_rows, per_hour), (clip_rows, CLIPS))
        ]
        lines.append(
            f"| {name} | {one.dim} | {1 / one.cpu:.1f} | {one.cpu * hour_rows:,.0f} | {one.cpu * clip_rows:,.0f} | "
            f"{_mb(one.memory)} | {' | '.join(kept)} | {_mb(one.weights)} |"
        )
    return "\n".join(lines)


def _sampled(name: str, rows: int, clips: int, one: Sampling) -> str:
    sizes = [_mb(value) for value in (one.memory, clips * one.kept, clips * one.temporary)]
    return f"| {name} | {rows:,} | {clips * one.cpu:,.0f} | {' | '.join(sizes)} |"


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f}" if size >= 1e7 else f"{size / 1e6:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.how_much")
    parser.add_argument(
        "--clips", type=int, default=4, metavar="N", help="of each length (default: %(default)s)"
    )
    parser.add_argument(
        "--rows", type=int, default=ROWS, metavar="N", help="embedded by each backbone (default: %(default)s)"
    )
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, metavar="NAME")
    options = parser.parse_args()
    sources = sorted((ROOT / "resources" / "example").glob("*.mp4"))
    if not sources:
        raise SystemExit("bench.how_much: the example's clips are not there; 'make env' puts them in place.")
    clips: dict[int, list[Path]] = {}
    for seconds in (LONG, SHORT):
        folder = DATA / f"{options.clips}x{seconds}"
        inputs.build(folder, sources, seconds, options.clips)
        clips[seconds] = sorted(folder.glob("clip*.mp4"))[: options.clips]
    long, short = (_alone(sampling, clips[seconds], seconds) for seconds in (LONG, SHORT))
    found = {}
    for name in options.backbones:
        weights = DATA / f"{name}.pth"
        if not weights.exists():
            _alone(make_weights, name, weights)
        found[name] = _alone(
            embedding, name, weights, clips[LONG][0], min(options.rows, LONG * inputs.SAMPLE_FPS)
        )
        print(f"{name}: {1 / found[name].cpu:.1f} rows per CPU second", flush=True)
    text = section(long, short, found, machine())
    print(text)
    # A part, or another size, must not take the place of the whole.
    if options == parser.parse_args([]):
        before, rest = PAGE.read_text(encoding="utf-8").split(START, 1)
        PAGE.write_text(f"{before}{START}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
