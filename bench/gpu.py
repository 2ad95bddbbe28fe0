"""``python -m bench.gpu``: how fast it is where there is a CUDA device. Writes its section into docs/benchmarks.md.

The embedder against a plain loop over one batch that is on the device already, and the whole command against decoding
alone on the same cores, for clips of 60, 240 and 5 s. Needs no network, and of the package no installation.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
from framefeat import stored
from framefeat.backbone import network, resolve
from framefeat.backbone.spec import BackboneSpec
from framefeat.errors import UserError
from framefeat.extract import devices, server
from framefeat.index import shards
from framefeat.records import Embedded, EmbedRequest, VideoToEmbed

from bench import inputs
from bench.__main__ import workflow
from bench.document import CORES, DATA, ROOT, machine, write_section
from bench.weights import make_weights
from tests.models import pictures

NAME = "mobilenet_v3_large"
LEAST_EMBEDDER = 0.7  # of the plain loop's frames per second
MOST_COMMAND = 1.3  # times the wall time of decoding alone
PRECISIONS = ("float32", "bf16", "fp16")
CLIPS = {60: inputs.CLIPS, 240: inputs.CLIPS, 5: 200}  # seconds: how many
_VIDEOS = {60: 40, 240: 10, 5: 300}  # of sampled frames, for the embedder alone


# ----------------------------------------------------------------------------------------------------- the embedder


def plain_fps(weights: Path, precision: str, device: str, memory: Any = None) -> float:
    """Frames per second of the bare network on one batch, again and again."""
    import torch

    before = network.MEMORY[device]
    network.MEMORY[device] = memory or before
    try:
        model = network.load_model(_spec(weights), str(weights), device=device, precision=precision)
    finally:
        network.MEMORY[device] = before
    batch = network.AUTO_BATCH[device]
    frames = torch.from_numpy(pictures(batch)).to(device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    count = 0
    for _ in range(3):
        model(frames)
    wait()
    start = time.perf_counter()
    while time.perf_counter() - start < 2:
        for _ in range(10):
            model(frames)
        wait()
        count += 10 * batch
    return count / (time.perf_counter() - start)


def embedder_fps(weights: Path, precision: str, device: str, seconds: int, videos: int) -> float:
    """Frames per second of the embedder's backend, files read and written, two clients at a time. As in a large
    collection, a request has the videos of one shard."""
    folder = DATA / "embedder"
    rows = seconds * inputs.SAMPLE_FPS
    together = max(1, shards.AUTO_ROWS // rows)
    with _emptied(folder):
        asked = [_video(folder, number, rows) for number in range(videos)]
        messages = [
            _request(asked[first : first + together], folder, weights, precision)
            for first in range(0, videos, together)
        ]
        backend = server.TorchBackend(device)
        backend.load(messages[0], lambda: None)
        start = time.perf_counter()
        with ThreadPoolExecutor(devices.CLIENTS) as clients:
            list(
                clients.map(lambda message: backend.embed(message, _expect_features, lambda: None), messages)
            )
        return videos * rows / (time.perf_counter() - start)


def _expect_features(answer: Embedded) -> None:
    if "failure" in answer:
        raise SystemExit(answer["failure"])


def _spec(weights: Path) -> BackboneSpec:
    return resolve.resolve(NAME, str(weights))


def _video(folder: Path, number: int, rows: int) -> VideoToEmbed:
    """One video's sampled frames and evidence, as the sampling job leaves them."""
    paths = {name: folder / f"{number}.{name}" for name in ("frames", "recheck", "evidence", "features")}
    some = pictures(min(rows, 16))
    frames = np.concatenate([some] * -(-rows // len(some)))[:rows]
    again = [0, rows - 1]
    for name, array in (("frames", frames), ("recheck", frames[again])):
        with paths[name].open("wb") as stream:
            np.save(stream, array)
    seen = {"status": ["ok"] * rows, "native_idx": list(range(rows))}
    recheck = {"rows": again, "mean_abs_diff": [0.0, 0.0], "agrees": True}
    evidence = {"video_id": str(number), "rows": seen, "recheck": recheck}
    stored.write(paths["evidence"], evidence, {"thumbnails": stored.as_bytes(b"jpeg")})
    video = {"place": number, "video": str(number), "rows": rows, "key": {}}
    return cast(VideoToEmbed, video | {name: str(path) for name, path in paths.items()})


def _request(videos: list[VideoToEmbed], folder: Path, weights: Path, precision: str) -> EmbedRequest:
    return {
        "spec": json.dumps(_spec(weights).to_json()),
        "weights": str(weights),
        "weights_identity": "",
        "precision": precision,
        "videos": videos,
        "batch_size": "auto",
        "threads": CORES,
        "scratch": str(folder),
        "together": True,
        "warnings": [],
    }


@contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------------------------------------ the whole command


def _decode(path: str) -> None:
    """Every frame once, one thread, nothing converted."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for _ in container.decode(stream):
            pass


def decode_wall(folder: Path) -> float:
    """Seconds in which all cores decode all clips, and do nothing else."""
    paths = [str(path) for path in sorted(folder.glob("clip*.mp4"))]
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool:
        list(pool.map(_decode, paths[:1] * CORES))  # imports done
        start = time.perf_counter()
        list(pool.map(_decode, paths))
        return time.perf_counter() - start


def sources() -> list[Path]:
    """The example's clips where they are; else one of blobs that move."""
    found = sorted((ROOT / "resources" / "example").glob("*.mp4"))
    if found:
        return found
    import av

    path = DATA / "made.mp4"
    DATA.mkdir(parents=True, exist_ok=True)
    image = pictures(1, inputs.SIZE[1], inputs.SIZE[0])[0]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=inputs.FPS)
        stream.width, stream.height, stream.pix_fmt = *inputs.SIZE, "yuv420p"
        for number in range(150):
            moved = np.roll(image, (number, 2 * number), (0, 1))
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(moved), format="rgb24"))
            )
        container.mux(stream.encode())
    return [path]


def provide_command() -> None:
    """The jobs call ``framefeat``: where it is not installed, from this folder."""
    if shutil.which("framefeat") or (Path(sys.executable).parent / "framefeat").exists():
        return
    script = DATA / "bin" / "framefeat"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m framefeat.cli "$@"\n')
    script.chmod(0o755)
    os.environ["PATH"] = f"{script.parent}:{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = f"{ROOT / 'workflow'}:{ROOT}:{os.environ.get('PYTHONPATH', '')}"


# ------------------------------------------------------------------------------------------------------ the section


def measure(options: argparse.Namespace, weights: Path) -> dict[str, Any]:
    import torch

    device = options.device
    found: dict[str, Any] = {"machine": machine(), "torch": torch.__version__, "rounds": options.rounds}
    found["device"] = network.load_model(_spec(weights), str(weights), device=device).about
    for precision in PRECISIONS:
        part = found.setdefault("embedder", {})[precision] = {
            "plain": plain_fps(weights, precision, device),
            "contiguous": plain_fps(weights, precision, device, torch.contiguous_format),
        }
        for seconds in options.sets:
            videos = max(2, _VIDEOS[seconds] // options.shrink)
            part[seconds] = embedder_fps(weights, precision, device, seconds, videos)
        print(precision, part, flush=True)
    for seconds in options.sets:
        folder, clips = DATA / f"{CLIPS[seconds]}x{seconds}", max(2, CLIPS[seconds] // options.shrink)
        if options.shrink > 1:
            folder = DATA / f"{clips}x{seconds}"
        inputs.build(folder, sources(), seconds, clips)
        rounds = []
        for _ in range(options.rounds):
            decode = decode_wall(folder)
            whole = workflow(folder, weights, 1, device=device)
            rounds.append({"decode": decode, "wall": whole.wall})
            print(f"{clips} x {seconds} s:", rounds[-1], flush=True)
        middle = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        found.setdefault("command", {})[seconds] = middle | {"clips": clips}
    return found


def section(found: dict[str, Any]) -> str:
    about = found["device"]
    on = ", ".join(f"{name} {about[name]}" for name in ("driver", "cuda", "cudnn") if name in about)
    lines = [
        f"{about['device']} ({on or 'no CUDA'}; torch {found['torch']}); {found['machine']}. Medians of {found['rounds']} "
        "rounds of the whole command, its start included.",
        "",
        "| precision | plain loop, frames/s | the same, channels first | "
        + " | ".join(f"embedder, clips of {seconds} s" for seconds in found["command"])
        + " |",
        "|---|---|---|" + "---|" * len(found["command"]),
    ]
    missed = []
    for precision, part in found["embedder"].items():
        cells = []
        for seconds in found["command"]:
            share = part[seconds] / part["plain"]
            cells.append(f"{part[seconds]:.0f} ({share:.0%})")
            if share < LEAST_EMBEDDER:
                missed.append(
                    f"the embedder at clips of {seconds} s in {precision}: {share:.0%} of the plain loop"
                )
        lines.append(
            f"| {precision} | {part['plain']:.0f} | {part['contiguous']:.0f} | {' | '.join(cells)} |"
        )
    lines += ["", "| clips | decoding alone, s | whole command, s | ratio |", "|---|---|---|---|"]
    for seconds, part in found["command"].items():
        ratio = part["wall"] / part["decode"]
        lines.append(
            f"| {part['clips']} of {seconds} s | {part['decode']:.1f} | {part['wall']:.1f} | {ratio:.2f} |"
        )
        if ratio > MOST_COMMAND:
            missed.append(f"the whole command at clips of {seconds} s: {ratio:.2f} times decoding")
    goals = f"Goals: the embedder at least {LEAST_EMBEDDER:.0%} of the plain loop, the command at most {MOST_COMMAND} times decoding alone. "
    return "\n".join([*lines, "", goals + (f"Missed: {'; '.join(missed)}." if missed else "Both are met.")])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--sets", type=int, nargs="+", default=list(CLIPS), choices=CLIPS, metavar="SECONDS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try this script")
    parser.add_argument("--shrink", type=int, default=1, metavar="N", help="an N-th of the clips")
    options = parser.parse_args()
    try:
        devices.settle(options.device)
    except UserError as error:
        raise SystemExit(f"bench.gpu: {error}") from None
    DATA.mkdir(parents=True, exist_ok=True)
    weights = DATA / f"{NAME}.pth"
    if not weights.exists():
        make_weights(weights)
    provide_command()
    found = measure(options, weights)
    (DATA / "gpu.json").write_text(json.dumps(found))
    text = section(found)
    print(text)
    if options.device == "cuda":
        write_section("gpu", text)


if __name__ == "__main__":
    main()
