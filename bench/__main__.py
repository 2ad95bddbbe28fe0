"""``python -m bench``: the whole command against what a good engineer would write instead, into docs/benchmarks.md.

Workflow and rival (``baselines.torchcodec_pool``) run in turn, several rounds; their matrices must agree. Figures of
sets that are not measured this time stay. CPU seconds are the whole machine's (from /proc/stat), so that detached
processes count; the machine should be quiet.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from bench import ffmpeg, inputs
from bench.document import CORES, DATA, ROOT, machine, write_section

RIVAL = "rival"
#: Least cosine between a row of the workflow's matrix and the rival's: the same frame, by other code.
ALIKE = 0.999
_SLOW_SECONDS = 120  # of video for methods that are too slow for a whole set


@dataclass(frozen=True)
class Clips:
    """A set of clips, and the decoders that the workflow is measured with."""

    count: int
    seconds: int
    decoders: tuple[str, ...]

    @classmethod
    def named(cls, name: str) -> "Clips":
        """``200x5``: 200 clips of 5 s. Of long clips ``pyav`` is measured too."""
        count, _, seconds = name.partition("x")
        if not (count.isdigit() and seconds.isdigit()):
            raise argparse.ArgumentTypeError(f"{name!r}: write CLIPSxSECONDS, as in 200x5")
        decoders = ("auto", "pyav") if int(seconds) >= 60 else ("auto",)
        return cls(int(count), int(seconds), decoders)

    def __str__(self) -> str:
        return f"{self.count}x{self.seconds}"


SETS = ("200x5", "12x60", "12x240", "2000x5")


@dataclass
class Figures:
    """One run: wall and CPU seconds, the largest process (bytes), the most that lay in ``watched`` (bytes)."""

    wall: float
    cpu: float
    peak_rss: int
    peak_disk: int
    output: str = ""


def busy_seconds() -> float:
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*.npy") if folder.exists() else ():
        with suppress(FileNotFoundError):
            total += path.stat().st_blocks * 512
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


def baseline(
    method: str, folder: Path, weights: Path, *extra: str, env: dict[str, str] | None = None
) -> Figures:
    command = [sys.executable, "-m", "bench.baselines", method, "--folder", str(folder), "--weights",
               str(weights), *extra]  # fmt: skip
    return measure(command, ROOT, env=env)


def workflow(
    folder: Path, weights: Path, gpu: int, keep_matrix: Path | None = None, **config: Any
) -> Figures:
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
        results = work / "results" / "bench"
        figures = measure(command, work, results / "frames", os.environ | {"PATH": path})
        if keep_matrix is not None:
            shutil.move(results / "mobilenet_v3_large" / "bench_features.npy", keep_matrix)
        return figures
    finally:
        shutil.rmtree(work, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------- the rounds


def against_rival(
    clips: Clips, folder: Path, rounds: int, gpu: int, weights: Path, env: dict[str, str]
) -> dict[str, list[Figures]]:
    """The figures of each round, by the workflow's decoder and ``RIVAL``.

    The rival runs between the workflow's decoders, so that what is compared was measured one after the other.
    """
    found: dict[str, list[Figures]] = {name: [] for name in (*clips.decoders, RIVAL)}
    first, *others = clips.decoders
    for number in range(rounds):
        print(f"{clips.count} x {clips.seconds} s, round {number + 1} of {rounds}", flush=True)
        with tempfile.TemporaryDirectory(prefix="matrices-", dir=DATA) as matrices:
            paths = {name: Path(matrices) / f"{name}.npy" for name in found}
            for name in (first, RIVAL, *others):
                if name == RIVAL:
                    out = ("--out", str(paths[name]))
                    one = baseline("torchcodec_pool", folder, weights, *out, env=env)
                else:
                    one = workflow(folder, weights, gpu, paths[name], decoder=name)
                found[name].append(replace(one, output=""))
                print(f"  {name}: {one.wall:.1f} s wall, {one.cpu:.1f} s CPU", flush=True)
            for name in clips.decoders:
                check_alike(paths[name], paths[RIVAL])
    return found


def check_alike(ours: Path, theirs: Path) -> None:
    """A method that computes something else is no rival."""
    one, other = (np.load(path).astype(np.float64) for path in (ours, theirs))
    if one.shape != other.shape:
        raise SystemExit(f"{ours.name} is {one.shape}, {theirs.name} {other.shape}")
    cosines = (one * other).sum(1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))
    if not cosines.min() >= ALIKE:
        row = int(np.argmin(cosines))
        raise SystemExit(f"row {row} of {ours.name} and {theirs.name} differ: cosine {cosines[row]:.5f}")


def others(clips: Clips, folder: Path, rounds: int, weights: Path) -> dict[str, Any]:
    """Loops that are slower, and the limit. The slowest run on a part of the clips and are scaled."""
    few = max(2, min(clips.count, _SLOW_SECONDS // clips.seconds))
    some = [f"clip{number:03}" for number in range(few)]
    runs: dict[str, list[Figures]] = {}
    forwards: list[float] = []
    for number in range(rounds):
        print(f"{clips.count} x {clips.seconds} s, other methods, round {number + 1} of {rounds}", flush=True)
        for name, method in (("decord loop", "decord_loop"), ("decode once, one thread", "decode_cpu")):
            runs.setdefault(name, []).append(baseline(method, folder, weights))
        forward = baseline("forward_cpu", folder, weights)
        forwards.append(json.loads(forward.output.strip().splitlines()[-1])["forward_cpu_s"])
        for name, method in (("process per video", "per_process"), ("notebook", "notebook")):
            part = baseline(method, folder, weights, "--videos", *some)
            start = None if method == "per_process" else baseline(method, folder, weights, "--videos")
            runs.setdefault(f"{name} ({few} clips, scaled)", []).append(
                scaled(part, start, clips.count / few)
            )
        for name, figures in runs.items():
            print(f"  {name}: {figures[-1].wall:.1f} s wall, {figures[-1].cpu:.1f} s CPU", flush=True)
    return {"runs": {name: plain(figures) for name, figures in runs.items()}, "forward_cpu_s": forwards}


def scaled(part: Figures, start: Figures | None, factor: float) -> Figures:
    """What all clips would have taken: ``start``, where the method starts once, is not multiplied."""
    wall, cpu = (start.wall, start.cpu) if start else (0.0, 0.0)
    return replace(part, wall=wall + (part.wall - wall) * factor, cpu=cpu + (part.cpu - cpu) * factor)


def plain(figures: Iterable[Figures]) -> list[dict[str, Any]]:
    """As JSON, without what the commands printed."""
    return [{**vars(one), "output": ""} for one in figures]


def warm(folder: Path) -> None:
    """Read every file once: the system's cache is as warm for the first method as for the last."""
    for path in folder.iterdir():
        path.read_bytes()


# ------------------------------------------------------------------------------------------------------- the tables


def table(sets: Mapping[str, Any]) -> str:
    """Markdown: a line for each set and decoder, medians over the rounds with the least and the most."""
    lines = [
        "| clips | decoder | workflow, s | rival, s | workflow over rival | CPU s | largest process, MB | rounds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, part in sets.items():
        clips, rival = Clips.named(name), part["runs"][RIVAL]
        for decoder in clips.decoders:
            ours = part["runs"][decoder]
            ratios = [one["wall"] / other["wall"] for one, other in zip(ours, rival, strict=True)]
            cells = [
                f"{clips.count:,} of {clips.seconds} s",
                f"`{decoder}`",
                spread([one["wall"] for one in ours], 1),
                spread([one["wall"] for one in rival], 1),
                f"**{spread(ratios, 2)}**",
                " / ".join(f"{statistics.median(one['cpu'] for one in some):.0f}" for some in (ours, rival)),
                " / ".join(f"{max(one['peak_rss'] for one in some) / 1e6:.0f}" for some in (ours, rival)),
                str(len(ours)),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    for name, part in sets.items():
        if "others" in part:
            lines += ["", *other_methods(Clips.named(name), part)]
    return "\n".join(lines)


def other_methods(clips: Clips, part: Mapping[str, Any]) -> list[str]:
    runs, rival = part["others"]["runs"], part["runs"][RIVAL]
    decode = statistics.median(one["cpu"] for one in runs["decode once, one thread"])
    forward = statistics.median(part["others"]["forward_cpu_s"])
    limit = (decode + forward) / CORES
    lines = [
        f"{clips.count:,} clips of {clips.seconds} s. Limit: ({decode:.1f} s decoding once + {forward:.1f} s forward passes) "
        f"/ {CORES} cores = **{limit:.1f} s**.",
        "",
        "| method | wall, s | over the limit | CPU s | largest process, MB |",
        "|---|---|---|---|---|",
    ]
    ours = {f"workflow, `{decoder}`": part["runs"][decoder] for decoder in clips.decoders}
    for name, some in {**ours, RIVAL: rival, **runs}.items():
        wall = statistics.median(one["wall"] for one in some)
        cpu = statistics.median(one["cpu"] for one in some)
        peak = max(one["peak_rss"] for one in some) / 1e6
        lines.append(f"| {name} | {wall:.1f} | {wall / limit:.2f} | {cpu:.0f} | {peak:.0f} |")
    return lines


def spread(values: list[float], digits: int) -> str:
    """The median, and the least and the most where there are several."""
    text = f"{statistics.median(values):.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f} to {max(values):.{digits}f})"
    return text


# --------------------------------------------------------------------------------------------------------- the command


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--sets", type=Clips.named, nargs="+", default=[Clips.named(name) for name in SETS],
        metavar="CLIPSxSECONDS", help=f"default: {' '.join(SETS)}",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--all",
        action="store_true",
        help="slower methods too: decord loop, notebook, process per video; the limit",
    )
    parser.add_argument("--gpu", type=int, default=1)
    parser.add_argument(
        "--dry", action="store_true", help="print the tables, write nothing: to try this script"
    )
    options = parser.parse_args()
    DATA.mkdir(parents=True, exist_ok=True)
    weights = DATA / "mobilenet_v3_large.pth"
    if not weights.exists():
        from bench.weights import make_weights

        make_weights(weights)
    env = ffmpeg.environment(DATA / "ffmpeg")
    memory = DATA / "results.json"
    kept = json.loads(memory.read_text()) if memory.exists() and not options.dry else {}
    # Of another machine nothing is comparable.
    sets = kept.get("sets", {}) if kept.get("machine") == machine() else {}
    sources = sorted((ROOT / "resources" / "example").glob("*.mp4"))
    for clips in options.sets:
        folder = DATA / str(clips)
        inputs.build(folder, sources, clips.seconds, clips.count)
        warm(folder)
        runs = against_rival(clips, folder, options.rounds, options.gpu, weights, env)
        sets[str(clips)] = {"runs": {name: plain(figures) for name, figures in runs.items()}}
        if options.all:
            sets[str(clips)]["others"] = others(clips, folder, options.rounds, weights)
        if not options.dry:
            memory.write_text(
                json.dumps({"machine": machine(), "sets": sets})
            )  # should the next set be interrupted
    text = f"Machine: {machine()}.\n\n{table(sets)}\n"
    print(text)
    if not options.dry:
        write_section("bench", text)


if __name__ == "__main__":
    main()
