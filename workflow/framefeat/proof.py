"""The proof: over many codecs, containers and rates, every sampled row is the frame that its time means, or says so.

Clips made for it carry their frame number in their pixels and have known times. Other clips are compared with a plain
decode of everything in order. ``python -m framefeat.proof`` prints one line per clip; ``--naive`` adds what a reader
gets wrong that asks decord for frame ``round(t * fps)`` and believes the answer.
"""

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from framefeat.errors import UserError
from framefeat.numbered import RECIPES, Recipe, expected_frames, make, nearest_frames, read_number
from framefeat.preprocess import Geometry

RATES = (2.0, 1.0, 0.5, 0.0)
"""Samples per second; 0: every frame."""
GEOMETRY = "squash96"
TOLERANCE = 2.0
_MOST_ROWS = 1000
_NAMES = {2.0: "2/s", 1.0: "1/s", 0.5: "0.5/s", 0.0: "all"}


@dataclass
class Line:
    """What was found on one clip, all alignments, rates and decoders together."""

    clip: str
    rows: int = 0
    ok: int = 0
    clamped: int = 0
    bad: int = 0
    decoders: set[str] = field(default_factory=set)
    largest_offset: float = 0.0
    silent: int = 0
    lost: int = 0
    refusal: str = ""
    failures: list[str] = field(default_factory=list)
    naive_rows: int = 0
    naive_wrong: int = 0
    naive_note: str = ""
    seconds: float = 0.0


def sample_times(duration: float, rate: float, frame_times: Sequence[float]) -> list[float]:
    """Times in seconds, ascending and distinct; at rate 0 every frame's own, thinned out where there are very many."""
    if rate:
        return [
            round(k / rate, 3)
            for k in range(max(1, int(np.ceil(duration * rate))))
            if k / rate < duration or k == 0
        ]
    step = -(-len(frame_times) // _MOST_ROWS)
    return sorted({float(value) for value in list(frame_times)[::step]})


@dataclass
class Truth:
    """``times``: of the presented frames, exact seconds from the first. ``pixels``: uint8 [n, h, w, 3], or None where the
    frames carry ``numbers``. ``complete``: the frames are all that the container promises."""

    fps: float
    times: list[Fraction]
    numbers: Sequence[int] | None
    pixels: np.ndarray | None
    complete: bool
    expected: Any

    def differs(self, frame: np.ndarray, native: int) -> bool:
        """Whether ``frame`` (resized) is not presented frame ``native``."""
        if self.numbers is not None:
            return read_number(frame) != self.numbers[native]
        assert self.pixels is not None
        return float(np.abs(frame.astype(np.int16) - self.pixels[native]).mean()) > TOLERANCE


def prove_made(recipe: Recipe, folder: Path, decoders: Sequence[str], naive: bool) -> Line:
    """One made clip."""
    began = time.monotonic()
    clip = make(recipe, folder)
    truth = Truth(
        clip.fps,
        list(clip.times),
        clip.numbers,
        None,
        True,
        lambda times, alignment: expected_frames(clip, times, alignment),
    )
    return _prove(recipe.file, clip.path, truth, decoders, naive, folder, began)


def prove_file(path: Path, folder: Path, decoders: Sequence[str], naive: bool) -> Line:
    """One clip of unknown origin, against a plain decode in order."""
    began = time.monotonic()
    from framefeat.container import read_container

    try:
        with redirect_stderr(Path(os.devnull).open("w")):
            container = read_container(path)
    except UserError as error:
        line = Line(path.name, refusal=str(error))
        _prove_refusal(line, path, folder)
        return line
    pts, pixels = _plain_decode(path, folder)
    if pts:
        times = [(value - pts[0]) * container.time_base for value in pts]
        if any(b <= a for a, b in zip(times, times[1:], strict=False)):
            times = [Fraction(k) / container.average_rate for k in range(len(pts))]
    else:
        times = [Fraction(0)]
    complete = len(pts) == container.n_presented
    fps = float(container.average_rate)

    def expected(wanted: Sequence[float], alignment: str) -> list[int | None]:
        return nearest_frames(times, fps, wanted, alignment, 1 / container.average_rate)

    truth = Truth(fps, times, None, pixels, complete, expected)
    return _prove(path.name, path, truth, decoders, naive, folder, began)


def _plain_decode(path: Path, folder: Path) -> tuple[list[int], np.ndarray]:
    """Every frame that a decode in order gives: its time in ticks and its resized pixels (uint8 [n, h, w, 3], on disk)."""
    import av

    size = Geometry.from_name(GEOMETRY)
    store = folder / f"{path.name}.reference"
    pts: list[int] = []
    with av.open(str(path), metadata_errors="replace") as source, store.open("wb") as output:
        stream: Any = source.streams.best("video")
        stream.thread_type = "NONE"
        packets = iter(source.demux(stream))
        while True:
            frames: list[Any] = []
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                frames = packet.decode()
            except (av.FFmpegError, EOFError):
                if not frames and "packet" not in locals():
                    break
                continue
            for frame in frames:
                rgb = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                output.write(size.apply(rgb).tobytes())
                pts.append(len(pts) if frame.pts is None else frame.pts)
    if not pts:
        return [], np.zeros((0, *size.output, 3), dtype=np.uint8)
    return pts, np.memmap(store, dtype=np.uint8, mode="r", shape=(len(pts), *size.output, 3))


def _sample(
    path: Path, times: Sequence[float], fps: float, alignment: str, decoder: str, folder: Path
) -> tuple[dict[str, Any], np.ndarray]:
    from framefeat.sampling import sample_video

    name = hashlib.sha256(f"{path}{alignment}{decoder}".encode()).hexdigest()[:16]
    record = {
        "video_id": path.name,
        "path": str(path),
        "timestamps": list(times),
        "fps": fps,
        "fingerprint": name,
        "times_sha256": str(len(times)),
    }
    outputs = {what: folder / f"{name}.{what}" for what in ("frames", "recheck", "thumbnails", "evidence")}
    evidence = sample_video(
        record,
        geometry=GEOMETRY,
        alignment=alignment,
        decoder=decoder,
        **{f"{what}_path": output for what, output in outputs.items()},  # type: ignore[arg-type]
    )
    frames = np.load(outputs["frames"])
    for output in outputs.values():
        output.unlink()
    return evidence, frames


def _prove_refusal(line: Line, path: Path, folder: Path) -> None:
    """A file without a frame: bad rows, and a sentence why."""
    with redirect_stderr(Path(os.devnull).open("w")):
        evidence, _ = _sample(path, [0.0, 0.5], 25.0, "index", "auto", folder)
    line.rows, line.bad = 2, evidence["rows"]["status"].count("bad")
    if line.bad != line.rows or not evidence["problems"]:
        line.failures.append("rows of a file without frames are not bad")


def _prove(
    name: str, path: Path, truth: Truth, decoders: Sequence[str], naive: bool, folder: Path, began: float
) -> Line:
    line = Line(name)
    duration = float(truth.times[-1]) + 1 / truth.fps
    schedules = {rate: sample_times(duration, rate, [float(t) for t in truth.times]) for rate in RATES}
    for alignment in ("index", "pts"):
        for rate, times in schedules.items():
            expected = truth.expected(times, alignment)
            served: set[str] = set()
            for decoder in decoders:
                if decoder in served:
                    continue  # auto took it already
                where = f"{alignment} {_NAMES[rate]} {decoder}"
                try:
                    with redirect_stderr(Path(os.devnull).open("w")):
                        evidence, frames = _sample(path, times, truth.fps, alignment, decoder, folder)
                except UserError as error:
                    line.failures.append(f"{where}: {error}")
                    continue
                served.add(evidence["decoder"] or decoder)
                _count(line, where, truth, times, expected, evidence, frames)
    if naive:
        for times in schedules.values():
            _naive(line, path, truth, [n for n in truth.expected(times, "index") if n is not None])
    with suppress(FileNotFoundError):
        (folder / f"{path.name}.reference").unlink()
    line.seconds = time.monotonic() - began
    return line


def _count(
    line: Line,
    where: str,
    truth: Truth,
    times: Sequence[float],
    expected: Sequence[int | None],
    evidence: dict[str, Any],
    frames: np.ndarray,
) -> None:
    rows = evidence["rows"]
    line.decoders.add(evidence["decoder"] or "-")
    last = len(truth.times) - 1
    seconds = [float(moment) for moment in truth.times]
    for row, status in enumerate(rows["status"]):
        line.rows += 1
        setattr(line, status, getattr(line, status) + 1)
        native, pts = rows["native_idx"][row], rows["pts_sec"][row]
        wanted = expected[row]
        if status == "bad":
            if wanted is not None and truth.complete and frames[row].any():
                line.failures.append(f"{where} row {row}: a bad row that is not zeros")
            line.lost += wanted is not None and truth.complete
            continue
        line.largest_offset = max(line.largest_offset, abs(pts - times[row]))
        place = int(np.argmin(np.abs(np.array(seconds) - pts)))
        problem = ""
        if abs(seconds[place] - pts) > 1e-6:
            problem = f"no frame is presented at {pts}"
        elif truth.complete and place != native:
            problem = f"frame {native} is not presented at {pts}"
        elif truth.complete and native != (last if wanted == -1 else wanted):
            problem = f"frame {native} where {wanted} is meant"
        elif truth.complete and (status == "clamped") != (wanted == -1):
            problem = f"{status} where frame {wanted} is meant"
        elif truth.differs(frames[row], place):
            problem = f"its pixels are not those of frame {place}"
        if problem:
            line.silent += 1
            line.failures.append(f"{where} row {row} ({times[row]:g} s): {problem}")


def _naive(line: Line, path: Path, truth: Truth, wanted: Iterable[int]) -> None:
    """``decord.VideoReader(path)[n]`` for the frames that one set of times means, in order, believed as it is."""
    from framefeat.readers_decord import import_decord

    size = Geometry.from_name(GEOMETRY)
    last = len(truth.times) - 1
    numbers = sorted(last + 1 if number == -1 else number for number in wanted)
    line.naive_rows += len(numbers)
    decord = import_decord()
    decord.logging.set_level(decord.logging.FATAL)
    try:
        video = decord.VideoReader(str(path), num_threads=1)
    except Exception:
        line.naive_wrong += len(numbers)
        line.naive_note = "does not open"
        return
    before, wrong = -1, False
    for number in numbers:
        if number != before:
            try:
                rgb = video[min(number, len(video) - 1)].asnumpy()
                wrong = rgb.shape[2] != 3 or truth.differs(size.apply(rgb), min(number, last))
            except Exception:
                wrong = True
        before = number
        line.naive_wrong += wrong


def _task(task: tuple[str, Any, str, tuple[str, ...], bool]) -> Line:
    kind, what, folder, decoders, naive = task
    # Decoders and encoders write to standard error by themselves; what matters is in the line.
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    os.close(quiet)
    prove = prove_made if kind == "made" else prove_file
    return prove(what, Path(folder), decoders, naive)


HEADER = (
    f"{'clip':28} {'rows':>5} {'ok':>5} {'clamped':>7} {'bad':>4} {'decoder':22} {'offset':>8} {'silent':>6}"
)


def text_of(line: Line, naive: bool) -> str:
    """One line of the table."""
    decoders = "+".join(sorted(line.decoders)) or "refused"
    text = (
        f"{line.clip[:28]:28} {line.rows:5} {line.ok:5} {line.clamped:7} {line.bad:4} {decoders:22} "
        f"{line.largest_offset:8.4f} {line.silent:6}"
    )
    if naive:
        text += f"   {line.naive_wrong:5} of {line.naive_rows:5} {line.naive_note}"
    return text


def run(
    naive: bool = False,
    clips: Path | None = None,
    decoders: Sequence[str] = ("auto", "pyav"),
    only: str = "",
    workers: int | None = None,
) -> int:
    """Print the table; returns 0 if nothing is silently different, lost or failed.

    ``clips``: a folder of other clips (default: ``../shared/clips`` beside the repository, if it is there).
    """
    if clips is None:
        clips = Path(__file__).resolve().parents[3] / "shared" / "clips"
    files = [path for path in clips.iterdir() if path.suffix not in (".tsv", ".md")] if clips.is_dir() else []
    # The longest work first, so that no core waits for it at the end.
    files.sort(key=lambda path: -path.stat().st_size)
    with tempfile.TemporaryDirectory(prefix="framefeat-proof-") as folder:
        tasks: list[tuple[str, Any, str, tuple[str, ...], bool]] = [
            ("file", path, folder, tuple(decoders), naive) for path in files if only in path.name
        ]
        tasks += [
            ("made", recipe, folder, tuple(decoders), naive) for recipe in RECIPES if only in recipe.file
        ]
        print(HEADER + ("   naive decord wrong" if naive else ""), flush=True)
        workers = workers or min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, 16)
        lines = []
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for done in as_completed([pool.submit(_task, task) for task in tasks]):
                line = done.result()
                lines.append(line)
                print(text_of(line, naive), flush=True)
                for failure in line.failures[:5]:
                    print(f"    FAILED: {failure}", flush=True)
                if line.refusal:
                    print(f"    {line.refusal}", flush=True)
    total = Line("all")
    for line in lines:
        for what in ("rows", "ok", "clamped", "bad", "silent", "lost", "naive_rows", "naive_wrong"):
            setattr(total, what, getattr(total, what) + getattr(line, what))
        total.largest_offset = max(total.largest_offset, line.largest_offset)
    total.decoders = {f"{len(lines)} clips"}
    print(text_of(total, naive))
    failed = sum(bool(line.failures) for line in lines)
    print(
        f"silent differences: {total.silent}; rows lost without need: {total.lost}; clips that failed: {failed}"
    )
    return int(bool(total.silent or total.lost or failed))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="framefeat proof", description=__doc__)
    parser.add_argument("--naive", action="store_true", help="show what a plain decord reader gets wrong")
    parser.add_argument(
        "--clips", type=Path, metavar="FOLDER", help="other clips (default: ../shared/clips if present)"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="clips whose name contains this")
    parser.add_argument("--decoders", nargs="+", default=["auto", "pyav"], choices=["auto", "pyav", "decord"])
    parser.add_argument("--workers", type=int, metavar="N")
    options = parser.parse_args(arguments)
    return run(options.naive, options.clips, options.decoders, options.only, options.workers)


if __name__ == "__main__":
    sys.exit(main())
