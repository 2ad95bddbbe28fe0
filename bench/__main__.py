"""``python -m bench``: every method in turn, several rounds, medians and ratios into docs/benchmarks.md.

CPU seconds are the whole machine's (from /proc/stat), so that detached processes count; the machine should be quiet.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from bench import inputs

ROOT = Path(__file__).parents[1]
DATA = ROOT / "bench" / "data"
CORES = len(os.sched_getaffinity(0))


@dataclass
class Figures:
    """One run: wall and CPU seconds, the largest process (bytes), the most that lay in ``watched`` (bytes)."""

    wall: float
    cpu: float
    peak_rss: int
    peak_disk: int
    output: str


def busy_seconds() -> float:
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*.npy") if folder.exists() else ():
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def measure(
    command: list[str], cwd: Path, watched: Path | None = None, env: dict[str, str] | None = None
) -> Figures:
    cpu_before = busy_seconds()
    peak = {"rss": 0, "disk": 0}
    done = threading.Event()

    others = set(psutil.pids())

    def watch() -> None:
        while not done.wait(0.25):  # what watching costs is part of the CPU seconds
            for pid in set(psutil.pids()) - others:
                with suppress(psutil.Error):
                    peak["rss"] = max(peak["rss"], psutil.Process(pid).memory_info().rss)
            if watched is not None:
                peak["disk"] = max(peak["disk"], folder_bytes(watched))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    clock = time.perf_counter()
    finished = subprocess.run(
        command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
    )
    wall = time.perf_counter() - clock
    done.set()
    watcher.join()
    if finished.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{finished.stdout[-3000:]}")
    return Figures(wall, busy_seconds() - cpu_before, peak["rss"], peak["disk"], finished.stdout)


def baseline(method: str, folder: Path, weights: Path, *extra: str) -> Figures:
    command = [
        sys.executable,
        "-m",
        "bench.baselines",
        method,
        "--folder",
        str(folder),
        "--weights",
        str(weights),
    ]
    return measure([*command, *extra], ROOT)


def scaled(part: Figures, start: Figures | None, factor: float) -> Figures:
    """What all clips would have taken: ``start``, where the method starts once, is not multiplied."""
    wall, cpu = (start.wall, start.cpu) if start else (0.0, 0.0)
    return replace(part, wall=wall + (part.wall - wall) * factor, cpu=cpu + (part.cpu - cpu) * factor)


def workflow(folder: Path, weights: Path, gpu: int, **config: Any) -> Figures:
    """The whole command in a fresh working folder: nothing is cached but the operating system's files."""
    work = Path(tempfile.mkdtemp(prefix="framefeat-bench-", dir=DATA))
    try:
        for name in ("Snakefile", "workflow", "config", "profiles", "envs"):
            (work / name).symlink_to(ROOT / name)
        values = {
            "dataset": "bench",
            "frame_index": str(folder / "frames.parquet"),
            "video_index": str(folder / "videos.csv"),
            "video_root": str(folder),
            "weights": str(weights),
            **config,
        }
        (work / "bench.yaml").write_text(yaml.safe_dump(values))
        command = [sys.executable, "-m", "snakemake", "--cores", str(CORES), "--resources", f"gpu={gpu}",
                   "--configfile", "bench.yaml"]  # fmt: skip
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return measure(command, work, work / "results" / "bench" / "frames", os.environ | {"PATH": path})
    finally:
        shutil.rmtree(work, ignore_errors=True)


def many_small(clips: int, seconds: int, rounds: int, gpu: int, weights: Path) -> dict[str, Any]:
    """What each clip costs beside its decoding and its forward passes, where clips are short and many."""
    folder = DATA / f"{clips}x{seconds}"
    inputs.build(folder, sorted((ROOT / "resources" / "example").glob("*.mp4")), seconds, clips)
    found: dict[str, Any] = {"clips": clips, "seconds": seconds, "overhead": {}, "wall": {}}
    for number in range(rounds):
        print(f"{clips} x {seconds} s, round {number + 1} of {rounds}", flush=True)
        decode = baseline("decode_cpu", folder, weights).cpu
        forward = baseline("forward_cpu", folder, weights)
        needed = decode + json.loads(forward.output.strip().splitlines()[-1])["forward_cpu_s"]
        for decoder in ("auto", "pyav"):
            whole = workflow(folder, weights, gpu, decoder=decoder)
            overhead = (whole.cpu - needed) / clips
            found["overhead"].setdefault(decoder, []).append(overhead)
            found["wall"].setdefault(decoder, []).append(whole.wall)
            print(
                f"  {decoder}: {whole.wall:.1f} s wall, {whole.cpu:.1f} s CPU, {needed:.1f} s of it needed: "
                f"{overhead:.2f} s a clip",
                flush=True,
            )
    return found


def machine() -> str:
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return (
        f"{model}, {CORES} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, Linux {platform.release()}"
    )


def run(sets: list[int], rounds: int, clips: int, slow_clips: int, gpu: int, weights: Path) -> dict[str, Any]:
    """Each method once a round, in turn. The slowest run on the first ``slow_clips`` clips and are scaled."""
    sources = sorted((ROOT / "resources" / "example").glob("*.mp4"))
    results: dict[str, Any] = {"machine": machine(), "rounds": rounds, "clips": clips, "sets": {}}
    folders = {seconds: DATA / f"{clips}x{seconds}" for seconds in sets}
    for seconds, folder in folders.items():
        inputs.build(folder, sources, seconds, clips)
    few = [f"clip{number:03}" for number in range(slow_clips)]
    slow = {"torchcodec loop": "torchcodec_loop", "process per video": "per_process", "notebook": "notebook"}
    if subprocess.run([sys.executable, "-c", "import torchcodec"], capture_output=True).returncode:
        print("torchcodec does not load (it needs FFmpeg's shared libraries): not measured", flush=True)
        del slow["torchcodec loop"]
    for seconds, folder in folders.items():
        runs: dict[str, list[Figures]] = defaultdict(list)
        forwards: list[float] = []
        for number in range(rounds):
            print(f"{clips} x {seconds} s, round {number + 1} of {rounds}", flush=True)
            for name, config in (("workflow, auto", {}), ("workflow, pyav", {"decoder": "pyav"})):
                runs[name].append(workflow(folder, weights, gpu, **config))
            runs["decord loop"].append(baseline("decord_loop", folder, weights))
            runs["decode once (1 thread)"].append(baseline("decode_cpu", folder, weights))
            forward = baseline("forward_cpu", folder, weights)
            forwards.append(json.loads(forward.output.strip().splitlines()[-1])["forward_cpu_s"])
            for name, method in slow.items():
                part = baseline(method, folder, weights, "--videos", *few)
                start = None if method == "per_process" else baseline(method, folder, weights, "--videos")
                runs[f"{name} ({slow_clips} clips, scaled)"].append(scaled(part, start, clips / slow_clips))
            for name, figures in runs.items():
                print(f"  {name}: {figures[-1].wall:.1f} s wall, {figures[-1].cpu:.1f} s CPU", flush=True)
        results["sets"][str(seconds)] = {
            "runs": {name: [vars(f) | {"output": ""} for f in figures] for name, figures in runs.items()},
            "forward_cpu_s": forwards,
        }
        (DATA / "results.json").write_text(json.dumps(results))  # should the next set be interrupted
    return results


def table(results: dict[str, Any]) -> str:
    """Markdown: one table per set of clips, medians over the rounds, ratios to the limit."""
    lines = [f"Machine: {results['machine']}. Medians of {results['rounds']} rounds, methods in turn.", ""]
    for seconds, part in results["sets"].items():
        decode = statistics.median(run["cpu"] for run in part["runs"]["decode once (1 thread)"])
        forward = statistics.median(part["forward_cpu_s"])
        limit = (decode + forward) / CORES
        lines += [
            f"### {results['clips']} clips of {seconds} s",
            "",
            f"Limit: ({decode:.1f} s decoding once + {forward:.1f} s forward passes) / {CORES} cores = **{limit:.1f} s**.",
            "",
            "| method | wall s | x limit | CPU s | CPU used | largest process MB | temporary frames MB |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, runs in part["runs"].items():
            wall = statistics.median(run["wall"] for run in runs)
            cpu = statistics.median(run["cpu"] for run in runs)
            lines.append(
                f"| {name} | {wall:.1f} | {wall / limit:.2f} | {cpu:.1f} | {cpu / wall / CORES:.0%} | {max(run['peak_rss'] for run in runs) / 1e6:.0f} | "
                f"{max(run['peak_disk'] for run in runs) / 1e6:.0f} |"
            )
        lines.append("")
    if small := results.get("small"):
        lines += [
            f"### {small['clips']} clips of {small['seconds']} s",
            "",
            "CPU beside decoding once and the forward passes, start-up, verification and report included: "
            + "; ".join(
                f"`decoder: {decoder}`: **{statistics.median(overhead):.2f} s a clip** "
                f"({statistics.median(small['wall'][decoder]):.0f} s for all)"
                for decoder, overhead in small["overhead"].items()
            )
            + ".",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--sets", type=int, nargs="+", default=[60, 240], metavar="SECONDS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=inputs.CLIPS)
    parser.add_argument(
        "--slow-clips", type=int, default=2, help="clips for the slow baselines, whose time is scaled"
    )
    parser.add_argument("--gpu", type=int, default=1)
    options = parser.parse_args()
    DATA.mkdir(parents=True, exist_ok=True)
    weights = DATA / "mobilenet_v3_large.pth"
    if not weights.exists():
        from bench.weights import make_weights

        make_weights(weights)
    small = many_small(200, 5, options.rounds, options.gpu, weights)
    results = run(options.sets, options.rounds, options.clips, options.slow_clips, options.gpu, weights) | {
        "small": small
    }
    (DATA / "results.json").write_text(json.dumps(results))
    text = table(results)
    (DATA / "results.md").write_text(text)
    print(text)
    target = ROOT / "docs" / "benchmarks.md"
    start, end = "<!-- bench:start -->", "<!-- bench:end -->"
    if target.exists() and start in target.read_text():
        before, rest = target.read_text().split(start, 1)
        target.write_text(f"{before}{start}\n\n{text}\n{end}{rest.split(end, 1)[1]}")


if __name__ == "__main__":
    main()
