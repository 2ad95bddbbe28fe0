"""The proof: over many codecs, containers and rates, every sampled row is the frame that its time means, or says
so.

Clips made for it carry their frame number in their pixels and have known times. Other clips are compared with a
plain decode: every packet in file order, every frame in the order in which it leaves the decoder, counted and never
sorted. ``python -m framefeat.proof.run`` prints one line per clip; ``--naive`` adds what a reader gets wrong that asks
decord for frame ``round(t * fps)`` and believes the answer.
"""

import argparse
import hashlib
import os
import re
import struct
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from framefeat import tolerances
from framefeat.errors import UserError
from framefeat.proof import odd_clips
from framefeat.proof.numbered import RECIPES, Recipe, make, nearest_frames, read_number
from framefeat.proof.odd_clips import ODD_CLIPS, OddClip
from framefeat.records import Evidence, VideoRecord
from framefeat.video.geometry import Geometry

RATES = (2.0, 1.0, 0.5, 0.0)
"""Samples per second; 0: every frame."""
SHORT_RATES = (2.0, 0.0)
"""For the odd clips, all of which last a few seconds."""
GEOMETRY = "squash96"
#: Of 255: by how much a neighbour may fit better, which is rounding.
_ROUNDING = 0.05
_MOST_ROWS = 1000
_NAMES = {2.0: "2/s", 1.0: "1/s", 0.5: "0.5/s", 0.0: "all"}
#: Seconds that two readings of one time may differ by.
_SAME_TIME = 1e-6


@dataclass
class Line:
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
class Reference:
    """A plain decode. ``times``: seconds (float) from the first frame, None for a frame without one; ``pixels``:
    resized, uint8 [n, h, w, 3]; ``unreadable``: frames that cannot be converted; ``troubled``: the decoder refused
    or reported something; ``reordered``: the packets' times are those of one recording whose pictures are shown in
    another order than they are decoded. ``start``: the first frame's own time; ``last_shown``: how long the last
    one stays, by its own account."""

    times: list[Fraction | None]
    pixels: np.ndarray
    unreadable: set[int]
    troubled: bool
    rate: Fraction
    reordered: bool = False
    start: Fraction | None = None
    last_shown: Fraction = Fraction(0)

    @property
    def clock(self) -> list[Fraction] | None:
        """The times, if they ascend."""
        known = [moment for moment in self.times if moment is not None]
        if len(known) < len(self.times) or not _ascends(known):
            return None
        return known

    @property
    def display(self) -> list[Fraction] | None:
        """The times of frames that the decoder gives out in another order, if that is its own doing. (Presentation
        times that ascend in the file are decoding times and tell nothing; a clock that goes back is two
        recordings.)"""
        known = [moment for moment in self.times if moment is not None]
        if not self.reordered or len(set(known)) < len(self.times):
            return None
        return [moment - min(known) for moment in known]


@dataclass
class Truth:
    """``times``: of the presented frames, exact seconds from the first; ``trusted``: the file has them (else they
    are those of a constant rate). ``pixels``: uint8 [n, h, w, 3], or None where the frames carry ``numbers``.
    ``complete``: each of these frames must be found. ``display``: times of frames that come in another order, where
    either may be right."""

    fps: float
    times: list[Fraction]
    numbers: Sequence[int] | None
    pixels: np.ndarray | None
    complete: bool = True
    trusted: bool = True
    usable: bool = True
    crop_may_stay: bool = False
    unreadable: set[int] = field(default_factory=set)
    lone_interval: Fraction = Fraction(1, 25)
    display: list[Fraction] | None = None
    start: Fraction | None = None
    last_shown: Fraction = Fraction(0)

    def expected(self, wanted: Sequence[float], alignment: str) -> list[int | None]:
        return nearest_frames(self.times, self.fps, wanted, alignment, self.lone_interval, self.last_shown)

    def exact(self, alignment: str) -> bool:
        """Whether it is known which frame a time means: where the file has times, or where frames are counted."""
        return self.complete and (self.trusted or alignment == "index")

    def has(self, wanted: int | None, alignment: str) -> bool:
        """Whether there surely is a picture for a time that means frame ``wanted``."""
        return wanted is not None and self.usable and self.exact(alignment) and wanted not in self.unreadable

    def misplaced(self, native: int, pts: float) -> str:
        """Whether frame ``native`` does not exist, or not at ``pts`` seconds."""
        if native >= len(self.times):
            return f"there is no frame {native}"
        if self.trusted and abs(float(self.times[native]) - pts) > _SAME_TIME:
            return f"frame {native} is not presented at {pts}"
        return ""

    def unmeant(self, native: int, status: str, wanted: int | None) -> str:
        """Whether the row's time means another frame (-1: the last one stands in)."""
        if native != (len(self.times) - 1 if wanted == -1 else wanted):
            return f"frame {native} where {wanted} is meant"
        if (status == "clamped") != (wanted == -1):
            return f"{status} where frame {wanted} is meant"
        return ""

    def shows(self, frame: np.ndarray, native: int, pts: float, start: float) -> bool:
        """Whether ``frame`` (resized) is presented frame ``native``, or, where the count is not to be had (damage)
        or is not the only right answer, the frame at ``pts`` seconds after the first or after ``start``."""
        places = [native] if native < len(self.times) else []
        clock = self.display if self.display is not None else None if self.complete else self.times
        if clock is not None:
            own = float(self.start or 0)
            moments = (pts, pts + start - own)
            places += [
                k for k, time in enumerate(clock) if any(abs(float(time) - m) <= _SAME_TIME for m in moments)
            ]
        return any(not self.differs(frame, place) for place in places)

    def differs(self, frame: np.ndarray, native: int) -> bool:
        """Whether ``frame`` is not presented frame ``native``: not within what two conversions differ by, or more
        like the frame before or after it."""
        if self.numbers is not None:
            return read_number(frame) != self.numbers[native]
        if native in self.unreadable:
            return True
        own = self._distance(frame, native)
        around = [place for place in (native - 1, native + 1) if 0 <= place < len(self.times)]
        return own > tolerances.PIXELS or any(self._distance(frame, k) < own - _ROUNDING for k in around)

    def _distance(self, frame: np.ndarray, native: int) -> float:
        assert self.pixels is not None
        return float(np.abs(frame.astype(np.int16) - self.pixels[native]).mean())


def odd_truth_of(kind: OddClip, folder: Path) -> tuple[Path, Truth]:
    """Make an odd clip: where it lies, and the truth about it."""
    clip, told = odd_clips.make(kind, folder)
    return clip.path, _odd_truth(kind, clip.path, told, folder)


def prove_made(kind: Recipe | OddClip, folder: Path, decoders: Sequence[str], naive: bool) -> Line:
    """One made clip."""
    began = time.monotonic()
    if isinstance(kind, Recipe):
        clip = make(kind, folder)
        truth = Truth(clip.fps, list(clip.times), clip.numbers, None, lone_interval=1 / kind.rate)
        return _prove(kind.file, clip.path, truth, decoders, naive, folder, began)
    path, truth = odd_truth_of(kind, folder)
    return _prove(kind.file, path, truth, decoders, naive, folder, began, SHORT_RATES)


def _odd_truth(kind: OddClip, path: Path, told: odd_clips.Truth, folder: Path) -> Truth:
    if told.numbers is None:
        truth = decoded_truth(path, folder)
        truth.complete = truth.complete and not kind.damaged
    else:
        steady = [Fraction(k) / kind.rate for k in range(len(told.numbers))]
        truth = Truth(float(kind.rate), list(told.times or steady), list(told.numbers), None)
        truth.trusted = told.times is not None
    truth.usable = not kind.unusable
    truth.crop_may_stay = kind.cropped
    truth.lone_interval = 1 / kind.rate
    return truth


def prove_file(path: Path, folder: Path, decoders: Sequence[str], naive: bool) -> Line:
    """One clip of unknown origin, against a plain decode in order."""
    began = time.monotonic()
    truth = decoded_truth(path, folder)
    if not truth.times:
        line = Line(path.name)
        _prove_refusal(line, path, folder)
        return line
    return _prove(path.name, path, truth, decoders, naive, folder, began)


def decoded_truth(path: Path, folder: Path) -> Truth:
    reference = plain_decode(path, folder)
    clock = reference.clock
    times = clock or [Fraction(k) / reference.rate for k in range(len(reference.times))]
    return Truth(
        float(reference.rate),
        times,
        None,
        reference.pixels,
        complete=not reference.troubled,
        trusted=clock is not None,
        unreadable=reference.unreadable,
        lone_interval=1 / reference.rate,
        display=reference.display if clock is None else None,
        start=reference.start,
        last_shown=reference.last_shown,
    )


def plain_decode(path: Path, folder: Path) -> Reference:
    """Every frame that a decode in order gives, counted: one thread, every packet, nothing sorted and nothing
    looked up."""
    import av

    size = Geometry.from_name(GEOMETRY)
    store = folder / f"{path.name}.reference"
    times: list[Fraction | None] = []
    unreadable: set[int] = set()
    rate = Fraction(25)
    troubled = False
    given: list[tuple[int, int]] = []
    start: Fraction | None = None
    last_shown = Fraction(0)
    aperture = clean_aperture_of(path)
    with store.open("wb") as output, suppress(av.FFmpegError):
        with av.open(str(path), metadata_errors="replace") as source:
            stream: Any = _video_of(source)
            if stream is None:
                return Reference([], np.zeros((0, *size.output, 3), dtype=np.uint8), set(), True, rate)
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            rate = Fraction(stream.average_rate or stream.guessed_rate or rate)
            first: int | None = None
            for frame in _frames_in_order(source, stream, given):
                if frame is None:
                    troubled = True
                    continue
                if first is None and frame.pts is not None:
                    first, start = frame.pts, frame.pts * Fraction(stream.time_base)
                known = frame.pts is not None and first is not None
                times.append((frame.pts - first) * Fraction(stream.time_base) if known else None)
                try:
                    rgb = cropped(frame.to_ndarray(format="rgb24"), aperture)
                except (ValueError, OSError):
                    unreadable.add(len(times) - 1)
                    rgb = np.zeros((2, 2, 3), dtype=np.uint8)
                troubled |= bool(frame.is_corrupt)
                last_shown = (frame.duration or 0) * Fraction(stream.time_base)
                output.write(size.apply(np.rot90(rgb, round(frame.rotation / 90))).tobytes())
    shape = (len(times), *size.output, 3)
    pixels = np.memmap(store, np.uint8, "r", shape=shape) if times else np.zeros(shape, dtype=np.uint8)
    shown, decoded = ([each[k] for each in given] for k in (0, 1))
    reordered = _ascends(decoded) and not _ascends(shown)
    reference = Reference(times, pixels, unreadable, troubled, rate, reordered, start, last_shown)
    return replace(reference, rate=_counted_rate(reference))


def _counted_rate(reference: Reference) -> Fraction:
    """The container's rate, if its frames agree: one packet for each field makes it twice theirs."""
    clock = reference.clock
    if clock is None or len(clock) < 2:
        return reference.rate
    counted = (len(clock) - 1) / clock[-1]
    return counted if abs(counted - reference.rate) > reference.rate / 10 else reference.rate


def _ascends(values: Sequence[Any]) -> bool:
    return all(b > a for a, b in zip(values, values[1:], strict=False))


def _video_of(source: Any) -> Any:
    from av.stream import Disposition

    streams = [source.streams.best("video"), *source.streams.video]
    found = [s for s in streams if s is not None and not s.disposition & Disposition.attached_pic]
    return found[0] if found and found[0].codec_context is not None else None


def _frames_in_order(source: Any, stream: Any, given: list[tuple[int, int]]) -> Iterator[Any]:
    """Frames as they come; None where the decoder or the container refuses something. ``given``: gets the packets'
    times (of presentation, of decoding)."""
    import av

    packets = source.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            yield None
            packet = None
        if packet is not None and packet.size and None not in (packet.pts, packet.dts):
            given.append((packet.pts, packet.dts))
        try:
            yield from stream.codec_context.decode(packet if packet is not None and packet.size else None)
        except EOFError:
            pass
        except av.FFmpegError:
            yield None
        if packet is None or (not packet.size and packet.pts is None):
            return


def clean_aperture_of(path: Path) -> tuple[int, int] | None:
    """Height and width of a centred clean aperture, read from the file's bytes."""
    for found in re.finditer(rb"\x00\x00\x00\x28clap", path.read_bytes()):
        numbers = struct.unpack_from(">8I", found.string, found.end())
        if numbers[1] and numbers[3] and numbers[4] == numbers[6] == 0:
            return numbers[2] // numbers[3], numbers[0] // numbers[1]
    return None


def cropped(rgb: np.ndarray, aperture: tuple[int, int] | None) -> np.ndarray:
    """The middle of a picture."""
    if aperture is None:
        return rgb
    top, left = ((have - wanted) // 2 for have, wanted in zip(rgb.shape[:2], aperture, strict=True))
    return rgb[top : top + aperture[0], left : left + aperture[1]]


@contextmanager
def _silence() -> Iterator[None]:
    """The table tells it all."""
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
        yield


def _sample(
    path: Path, times: Sequence[float], fps: float, alignment: str, decoder: str, folder: Path
) -> tuple[Evidence, np.ndarray]:
    from framefeat.sample.stage import sample_video

    name = hashlib.sha256(f"{path}{alignment}{decoder}".encode()).hexdigest()[:16]
    record: VideoRecord = {
        "schema": 0,
        "video_id": path.name,
        "fingerprint": name,
        "fps": fps,
        "rows": len(times),
        "times_sha256": str(len(times)),
        "path": str(path),
        "timestamps": list(times),
        "facts": None,
        "error": None,
        "warnings": [],
        "doubts": [],
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
    """A file without a frame: rows that are bad, and a sentence."""
    with _silence():
        evidence, _ = _sample(path, [0.0, 0.5], 25.0, "index", "auto", folder)
    line.rows, line.bad = 2, evidence["rows"]["status"].count("bad")
    line.refusal = "; ".join(evidence["problems"][:1])
    if line.bad != line.rows:
        line.failures.append("rows of a file without frames are not bad")


def _schedules(truth: Truth, rates: Sequence[float]) -> dict[str, list[float]]:
    seconds = [float(moment) for moment in truth.times]
    duration = seconds[-1] + 1 / truth.fps
    schedules = {_NAMES[rate]: sample_times(duration, rate, seconds) for rate in rates}
    return schedules | {"late": seconds[-7:-1] or seconds}


def _prove(
    name: str,
    path: Path,
    truth: Truth,
    decoders: Sequence[str],
    naive: bool,
    folder: Path,
    began: float,
    rates: Sequence[float] | None = None,
) -> Line:
    line = Line(name)
    schedules = _schedules(truth, rates or RATES)
    for alignment in ("index", "pts"):
        for schedule, times in schedules.items():
            expected = truth.expected(times, alignment)
            served: set[str] = set()
            for decoder in decoders:
                if decoder in served:
                    continue  # auto took it already
                where = f"{alignment} {schedule} {decoder}"
                try:
                    with _silence():
                        evidence, frames = _sample(path, times, truth.fps, alignment, decoder, folder)
                except (
                    Exception
                ) as error:  # a file must never end a run: whatever it is, it is a failure here
                    line.failures.append(
                        f"{where}: {type(error).__name__}: {str(error).strip().splitlines()[-1]}"
                    )
                    continue
                served.add(evidence["decoder"] or decoder)
                _count(line, where, alignment, truth, times, expected, evidence, frames)
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
    alignment: str,
    truth: Truth,
    times: Sequence[float],
    expected: Sequence[int | None],
    evidence: Evidence,
    frames: np.ndarray,
) -> None:
    rows = evidence["rows"]
    doubtful = bool(evidence.get("doubts"))
    line.decoders.add(evidence["decoder"] or "-")
    line.rows += len(rows["status"])
    line.doubtful += doubtful * len(rows["status"])
    for row, (status, pts) in enumerate(zip(rows["status"], rows["pts_sec"], strict=True)):
        setattr(line, status, getattr(line, status) + 1)
        if pts is not None:
            line.largest_offset = max(line.largest_offset, abs(pts - times[row]))
        elif truth.has(expected[row], alignment):
            line.lost += not doubtful
            if frames[row].any():
                line.failures.append(f"{where} row {row}: a bad row that is not zeros")
    wrong = {} if doubtful else wrong_rows(truth, alignment, expected, evidence, frames)
    line.silent += len(wrong)
    line.failures += [f"{where} row {row} ({times[row]:g} s): {problem}" for row, problem in wrong.items()]


def wrong_rows(
    truth: Truth,
    alignment: str,
    expected: Sequence[int | None],
    evidence: Evidence,
    frames: np.ndarray,
) -> dict[int, str]:
    """What is wrong with rows that are not marked bad: another frame's picture, or another frame than the rule asks
    for."""
    rows = evidence["rows"]
    crop_stays = truth.crop_may_stay and any(
        "crop" in text or "aperture" in text for text in evidence["warnings"]
    )
    start = evidence["video"]["start_sec"] if evidence["video"] else 0.0
    wrong: dict[int, str] = {}
    for row, (status, pts) in enumerate(zip(rows["status"], rows["pts_sec"], strict=True)):
        if pts is None:  # a bad row
            continue
        native = rows["native_idx"][row]
        problem = truth.misplaced(native, pts) if truth.complete else ""
        if not problem and truth.exact(alignment):
            problem = truth.unmeant(native, status, expected[row])
        if not problem and not crop_stays and not truth.shows(frames[row], native, pts, start):
            problem = f"its pixels are not those of frame {native}"
        if problem:
            wrong[row] = problem
    return wrong


def _naive(line: Line, path: Path, truth: Truth, wanted: Iterable[int]) -> None:
    """``decord.VideoReader(path)[n]`` for the frames that one set of times means, in order, believed as it is."""
    from framefeat.video.decord import import_decord

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


HEADER = f"{'clip':30} {'rows':>5} {'ok':>5} {'clamped':>7} {'bad':>4} {'doubt':>5} {'decoder':22} {'offset':>8} {'silent':>6}"


def text_of(line: Line, naive: bool) -> str:
    """One line of the table."""
    decoders = "+".join(sorted(line.decoders)) or "refused"
    text = (
        f"{line.clip[:30]:30} {line.rows:5} {line.ok:5} {line.clamped:7} {line.bad:4} {line.doubtful:5} {decoders:22} "
        f"{line.largest_offset:8.4f} {line.silent:6}"
    )
    if naive:
        text += f"   {line.naive_wrong:5} of {line.naive_rows:5} {line.naive_note}"
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
        lines = []
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for done in as_completed([pool.submit(_task, task) for task in tasks]):
                line = done.result()
                lines.append(line)
                _print(line, naive)
    total = Line("all")
    for line in lines:
        for what in (
            "rows",
            "ok",
            "clamped",
            "bad",
            "doubtful",
            "silent",
            "lost",
            "naive_rows",
            "naive_wrong",
        ):
            setattr(total, what, getattr(total, what) + getattr(line, what))
        total.largest_offset = max(total.largest_offset, line.largest_offset)
    total.decoders = {f"{len(lines)} clips"}
    print(text_of(total, naive))
    failed = sum(bool(line.failures) for line in lines)
    print(
        f"silent differences: {total.silent}; rows lost without need: {total.lost}; clips that failed: {failed}"
    )
    return int(bool(total.silent or total.lost or failed))


def _files_of(folders: Sequence[Path]) -> list[Path]:
    """The longest work first, so that no core waits for it at the end."""
    files = [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix not in (".tsv", ".md", ".txt")
    ]
    return sorted(files, key=lambda path: -path.stat().st_size)


def _print(line: Line, naive: bool) -> None:
    print(text_of(line, naive), flush=True)
    for failure in line.failures[:5]:
        print(f"    FAILED: {failure}", flush=True)
    if line.refusal:
        print(f"    {line.refusal}", flush=True)


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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="framefeat proof", description=__doc__)
    add_options(parser)
    return run_with(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
