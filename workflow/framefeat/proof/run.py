"""The proof: over many codecs, containers and rates, every sampled row is the frame that its time means, or says
so.

Clips made for it carry their frame number in their pixels and have known times. Other clips are compared with a
plain decode. ``framefeat proof`` prints one line per clip; ``--naive`` adds what a reader gets wrong that asks decord
for frame ``round(t * fps)`` and believes the answer.
"""

import argparse
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from framefeat.errors import UserError
from framefeat.proof.numbered import RECIPES, Recipe, make
from framefeat.proof.odd_clips import ODD_CLIPS, OddClip
from framefeat.proof.plain_decode import GEOMETRY
from framefeat.proof.truth import Truth, decoded_truth, odd_truth_of, wrong_rows
from framefeat.records import Evidence, VideoRecord
from framefeat.video.geometry import Geometry

RATES = (2.0, 1.0, 0.5, 0.0)
"""Samples per second; 0: every frame."""
SHORT_RATES = (2.0, 0.0)
"""For the odd clips, all of which last a few seconds."""
_MOST_ROWS = 1000
_NAMES = {2.0: "2/s", 1.0: "1/s", 0.5: "0.5/s", 0.0: "all"}


@dataclass
class ClipResult:
    """What was found on one clip, all alignments, rates and decoders together.

    ``doubtful``: rows of videos whose evidence says that order and times contradict each other. They are marked,
    and so are bad rows. ``silent``: rows that show another frame and are not marked.
    """

    clip: str
    rows: int = 0
    ok: int = 0
    clamped: int = 0
    bad: int = 0
    doubtful: int = 0
    decoders: set[str] = field(default_factory=set)
    largest_offset: float = 0.0
    silent: int = 0
    lost: int = 0
    refusal: str = ""
    failures: list[str] = field(default_factory=list)
    naive_rows: int = 0
    naive_wrong: int = 0
    naive_note: str = ""


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


def prove_made(kind: Recipe | OddClip, folder: Path, decoders: Sequence[str], naive: bool) -> ClipResult:
    """One made clip."""
    if isinstance(kind, Recipe):
        clip = make(kind, folder)
        truth = Truth(clip.fps, list(clip.times), clip.numbers, None, lone_interval=1 / kind.rate)
        return _prove(clip.path, truth, decoders, naive, folder, RATES)
    path, truth = odd_truth_of(kind, folder)
    return _prove(path, truth, decoders, naive, folder, SHORT_RATES)


def prove_file(path: Path, folder: Path, decoders: Sequence[str], naive: bool) -> ClipResult:
    """One clip of unknown origin, against a plain decode in order."""
    truth = decoded_truth(path, folder)
    return _prove(path, truth, decoders, naive, folder, RATES) if truth.times else _refused(path, folder)


@contextmanager
def _silence() -> Iterator[None]:
    """The table tells it all."""
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
        yield


def _sample(
    path: Path, times: Sequence[float], fps: float, alignment: str, decoder: str, folder: Path
) -> tuple[Evidence, np.ndarray]:
    from framefeat.sample.video import sample_video

    name = hashlib.sha256(f"{path}{alignment}{decoder}".encode()).hexdigest()[:16]
    record: VideoRecord = {
        "video_id": path.name,
        "fingerprint": name,
        "fps": fps,
        "rows": len(times),
        "times_sha256": str(len(times)),
        "path": str(path),
        "timestamps": list(times),
        "facts": None,
        "error": None,
        "doubts": [],
    }
    outputs = {what: folder / f"{name}.{what}" for what in ("frames", "recheck", "evidence")}
    evidence = sample_video(
        record,
        geometry=GEOMETRY,
        alignment=alignment,
        decoder=decoder,
        frames_path=outputs["frames"],
        recheck_path=outputs["recheck"],
        evidence_path=outputs["evidence"],
    )
    frames = np.load(outputs["frames"])
    for output in outputs.values():
        output.unlink()
    return evidence, frames


def _refused(path: Path, folder: Path) -> ClipResult:
    """A file without a frame: rows that are bad, and a sentence."""
    with _silence():
        evidence, _ = _sample(path, [0.0, 0.5], 25.0, "index", "auto", folder)
    bad = evidence["rows"]["status"].count("bad")
    result = ClipResult(path.name, rows=2, bad=bad, refusal="; ".join(evidence["problems"][:1]))
    if bad != 2:
        result.failures.append("rows of a file without frames are not bad")
    return result


@dataclass(frozen=True)
class _Schedule:
    """Times to sample at (seconds), and the frame that each means: see ``numbered.nearest_frames``."""

    name: str
    alignment: str
    times: Sequence[float]
    expected: Sequence[int | None]


def _schedules(truth: Truth, rates: Sequence[float]) -> list[_Schedule]:
    seconds = [float(moment) for moment in truth.times]
    duration = seconds[-1] + 1 / truth.fps
    times = {_NAMES[rate]: sample_times(duration, rate, seconds) for rate in rates}
    times["late"] = seconds[-7:-1] or seconds
    return [
        _Schedule(name, alignment, wanted, truth.expected(wanted, alignment))
        for alignment in ("index", "pts")
        for name, wanted in times.items()
    ]


def _prove(
    path: Path, truth: Truth, decoders: Sequence[str], naive: bool, folder: Path, rates: Sequence[float]
) -> ClipResult:
    result = ClipResult(path.name)
    schedules = _schedules(truth, rates)
    for schedule in schedules:
        served: set[str] = set()
        for decoder in decoders:
            if decoder not in served:  # auto may have taken it already
                served.add(_try(result, path, truth, schedule, decoder, folder))
    if naive:
        for schedule in schedules:
            if schedule.alignment == "index":
                _naive(result, path, truth, [n for n in schedule.expected if n is not None])
    with suppress(FileNotFoundError):
        (folder / f"{path.name}.reference").unlink()
    return result


def _try(
    result: ClipResult, path: Path, truth: Truth, schedule: _Schedule, decoder: str, folder: Path
) -> str:
    """Sample once and add what came of it to ``result``; returns the decoder that served."""
    where = f"{schedule.alignment} {schedule.name} {decoder}"
    try:
        with _silence():
            evidence, frames = _sample(path, schedule.times, truth.fps, schedule.alignment, decoder, folder)
    except Exception as error:  # a file must never end a run: whatever it is, it is a failure here
        result.failures.append(f"{where}: {type(error).__name__}: {str(error).strip().splitlines()[-1]}")
        return decoder
    _count(result, where, truth, schedule, evidence, frames)
    return str(evidence["decoder"] or decoder)


def _count(
    result: ClipResult,
    where: str,
    truth: Truth,
    schedule: _Schedule,
    evidence: Evidence,
    frames: np.ndarray,
) -> None:
    rows = evidence["rows"]
    doubtful = bool(evidence.get("doubts"))
    result.decoders.add(evidence["decoder"] or "-")
    result.rows += len(rows["status"])
    result.doubtful += doubtful * len(rows["status"])
    for row, (status, pts) in enumerate(zip(rows["status"], rows["pts_sec"], strict=True)):
        setattr(result, status, getattr(result, status) + 1)
        if pts is not None:
            result.largest_offset = max(result.largest_offset, abs(pts - schedule.times[row]))
        elif truth.has(schedule.expected[row], schedule.alignment):
            result.lost += not doubtful
            if frames[row].any():
                result.failures.append(f"{where} row {row}: a bad row that is not zeros")
    wrong = {} if doubtful else wrong_rows(truth, schedule.alignment, schedule.expected, evidence, frames)
    result.silent += len(wrong)
    result.failures += [
        f"{where} row {row} ({schedule.times[row]:g} s): {problem}" for row, problem in wrong.items()
    ]


def _naive(result: ClipResult, path: Path, truth: Truth, wanted: Iterable[int]) -> None:
    """``decord.VideoReader(path)[n]`` for the frames that one set of times means, in order, believed as it is."""
    from framefeat.video.decord import import_decord

    size = Geometry.from_name(GEOMETRY)
    last = len(truth.times) - 1
    numbers = sorted(last + 1 if number == -1 else number for number in wanted)
    result.naive_rows += len(numbers)
    decord = import_decord()
    decord.logging.set_level(decord.logging.FATAL)
    try:
        video = decord.VideoReader(str(path), num_threads=1)
    except Exception:
        result.naive_wrong += len(numbers)
        result.naive_note = "does not open"
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
        result.naive_wrong += wrong


def _task(task: tuple[str, Any, str, tuple[str, ...], bool]) -> ClipResult:
    kind, what, folder, decoders, naive = task
    # Decoders and encoders write to standard error by themselves; what matters is in the result.
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    os.close(quiet)
    prove = prove_made if kind == "made" else prove_file
    return prove(what, Path(folder), decoders, naive)


HEADER = f"{'clip':30} {'rows':>5} {'ok':>5} {'clamped':>7} {'bad':>4} {'doubt':>5} {'decoder':22} {'offset':>8} {'silent':>6}"


def text_of(result: ClipResult, naive: bool) -> str:
    """One line of the table."""
    decoders = "+".join(sorted(result.decoders)) or "refused"
    text = (
        f"{result.clip[:30]:30} {result.rows:5} {result.ok:5} {result.clamped:7} {result.bad:4} {result.doubtful:5} {decoders:22} "
        f"{result.largest_offset:8.4f} {result.silent:6}"
    )
    if naive:
        text += f"   {result.naive_wrong:5} of {result.naive_rows:5} {result.naive_note}"
    return text


def run(
    naive: bool = False,
    clips: Sequence[Path] = (),
    decoders: Sequence[str] = ("auto", "pyav"),
    only: str = "",
    workers: int | None = None,
) -> int:
    """Print the table; returns 0 if nothing is silently different, lost or failed. ``clips``: folders of other
    clips."""
    with tempfile.TemporaryDirectory(prefix="framefeat-proof-") as folder:
        tasks: list[tuple[str, Any, str, tuple[str, ...], bool]] = [
            ("file", path, folder, tuple(decoders), naive) for path in _files_of(clips) if only in path.name
        ]
        kinds: list[Recipe | OddClip] = [*RECIPES, *ODD_CLIPS]
        tasks += [("made", kind, folder, tuple(decoders), naive) for kind in kinds if only in kind.file]
        print(HEADER + ("   naive decord wrong" if naive else ""), flush=True)
        workers = workers or min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, 16)
        results = []
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for done in as_completed([pool.submit(_task, task) for task in tasks]):
                result = done.result()
                results.append(result)
                _print(result, naive)
    total = _total(results)
    print(text_of(total, naive))
    failed = sum(bool(result.failures) for result in results)
    print(
        f"silent differences: {total.silent}; rows lost without need: {total.lost}; clips that failed: {failed}"
    )
    return int(bool(total.silent or total.lost or failed))


def _total(results: Sequence[ClipResult]) -> ClipResult:
    total = ClipResult("all", decoders={f"{len(results)} clips"})
    for name in ("rows", "ok", "clamped", "bad", "doubtful", "silent", "lost", "naive_rows", "naive_wrong"):
        setattr(total, name, sum(getattr(result, name) for result in results))
    total.largest_offset = max((result.largest_offset for result in results), default=0.0)
    return total


def _files_of(folders: Sequence[Path]) -> list[Path]:
    """The longest work first, so that no core waits for it at the end."""
    files = [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix not in (".tsv", ".md", ".txt")
    ]
    return sorted(files, key=lambda path: -path.stat().st_size)


def _print(result: ClipResult, naive: bool) -> None:
    print(text_of(result, naive), flush=True)
    for failure in result.failures[:5]:
        print(f"    FAILED: {failure}", flush=True)
    if result.refusal:
        print(f"    {result.refusal}", flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--naive", action="store_true", help="show what a plain decord reader gets wrong")
    parser.add_argument(
        "--clips",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of other clips, to be tried as well",
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="clips whose name contains this")
    parser.add_argument("--decoders", nargs="+", default=["auto", "pyav"], choices=["auto", "pyav", "decord"])
    parser.add_argument("--workers", type=int, metavar="N")


def run_with(options: argparse.Namespace) -> int:
    missing = [str(folder) for folder in options.clips if not folder.is_dir()]
    if missing:
        raise UserError(f"--clips: {', '.join(missing)}: no such folder; name folders that hold clips.")
    return run(options.naive, options.clips, options.decoders, options.only, options.workers)
