"""``python -m bench.gpu``: what only a machine with a CUDA device can tell. Prints one JSON object.

Embedder throughput against a plain torch loop on tensors that are on the device already; features against the CPU's;
then the whole workflow on the bench's clips against decoding alone on all cores, and twice for the same bytes.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from framefeat import backbone, network

from bench import inputs
from bench.__main__ import DATA, ROOT, workflow


def _frames(count: int) -> np.ndarray:
    sys.path.insert(0, str(ROOT))
    from tests.models import pictures

    return np.concatenate([pictures(64)] * (count // 64))


def throughput(weights: Path, precision: str) -> dict[str, Any]:
    """Frames/s of ``network.embed`` on frames in a memory map, and of the bare network on a tensor on the device."""
    import torch

    spec = backbone.resolve("mobilenet_v3_large", str(weights))
    model = backbone.load_model(spec, str(weights), device="cuda", precision=precision)
    batch = network.AUTO_BATCH["cuda"]
    frames = _frames(64 * 64)
    path = DATA / "frames.npy"
    np.save(path, frames)
    mapped = np.load(path, mmap_mode="r")
    on_device = torch.from_numpy(frames[:batch]).cuda()

    def plain() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(len(frames) // batch):
            model(on_device)
        torch.cuda.synchronize()
        return len(frames) / (time.perf_counter() - start)

    def embedded() -> float:
        start = time.perf_counter()
        network.embed(model, mapped, batch)
        return len(mapped) / (time.perf_counter() - start)

    plain(), embedded()
    pairs = [(plain(), embedded()) for _ in range(5)]
    return {
        "precision": precision,
        "plain_fps": statistics.median(pair[0] for pair in pairs),
        "embed_fps": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[1] / pair[0] for pair in pairs),
    }


def against_cpu(weights: Path, precision: str) -> dict[str, Any]:
    spec = backbone.resolve("mobilenet_v3_large", str(weights))
    frames = _frames(64)
    cpu = network.embed(backbone.load_model(spec, str(weights), device="cpu"), frames, 16)[0]
    model = backbone.load_model(spec, str(weights), device="cuda", precision=precision)
    gpu = network.embed(model, frames, 64)[0]
    again = network.embed(model, frames, 64)[0]
    return {
        "precision": precision,
        "relative": float(np.linalg.norm(gpu - cpu) / np.linalg.norm(cpu)),
        "max_over_std": float(np.abs(gpu - cpu).max() / cpu.std()),
        "same_bytes_twice": bool(np.array_equal(gpu, again)),
        "feature_std": float(cpu.std()),
    }


def out_of_memory(weights: Path) -> dict[str, Any]:
    """A batch that cannot fit halves until it does, and the features stay the same to rounding."""
    import torch

    spec = backbone.resolve("mobilenet_v3_large", str(weights))
    model = backbone.load_model(spec, str(weights), device="cuda")
    frames = _frames(64)
    expected = network.embed(model, frames, 64)[0]
    free = torch.cuda.mem_get_info()[0]
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.5e9 / free))
    found, used = network.embed(model, np.concatenate([frames] * 16), 1024)
    torch.cuda.set_per_process_memory_fraction(1.0)
    return {
        "asked": 1024,
        "used": used,
        "relative": float(np.abs(found[:64] - expected).max() / expected.std()),
    }


def _decode(path: str) -> int:
    from framefeat.container import read_container
    from framefeat.readers import pyav_reader

    container = read_container(path)
    wanted = list(range(0, container.n_presented, 15))
    return sum(1 for _ in pyav_reader(container).frames(wanted))


def decode_wall(folder: Path) -> float:
    paths = [str(path) for path in sorted(folder.glob("clip*.mp4"))]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        list(pool.map(_decode, paths[:1]))
        start = time.perf_counter()
        list(pool.map(_decode, paths))
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", type=int, nargs="+", default=[60, 240])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    DATA.mkdir(parents=True, exist_ok=True)
    weights = DATA / "mobilenet_v3_large.pth"
    if not weights.exists():
        from bench.weights import make_weights

        make_weights(weights)
    results: dict[str, Any] = {"cores": os.cpu_count()}
    results["gpu"] = subprocess.run(
        ["nvidia-smi", "-L"], capture_output=True, text=True, check=False
    ).stdout.split("(")[0]
    results["throughput"] = [throughput(weights, precision) for precision in ("float32", "bf16", "fp16")]
    results["against_cpu"] = [against_cpu(weights, precision) for precision in ("float32", "bf16", "fp16")]
    print(json.dumps(results), flush=True)
    results["out_of_memory"] = out_of_memory(weights)
    print(json.dumps(results["out_of_memory"]), flush=True)
    sources = sorted((ROOT / "resources" / "example").glob("*.mp4"))
    for seconds in options.sets:
        folder = DATA / f"12x{seconds}"
        inputs.build(folder, sources, seconds)
        part: dict[str, list[float]] = {
            "decode_wall": [],
            "workflow_wall": [],
            "workflow_auto_wall": [],
            "peak_disk": [],
        }
        for _ in range(options.rounds):
            part["decode_wall"].append(decode_wall(folder))
            run = workflow(folder, weights, 1, decoder="pyav")
            part["workflow_wall"].append(run.wall)
            part["peak_disk"].append(run.peak_disk)
            part["workflow_auto_wall"].append(workflow(folder, weights, 1).wall)
            print(json.dumps({seconds: part}), flush=True)
        results[str(seconds)] = {name: statistics.median(values) for name, values in part.items()}
    results["digest"] = hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()[:8]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
