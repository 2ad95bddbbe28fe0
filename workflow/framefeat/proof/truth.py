"""What is right for a clip, and which sampled rows are not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from framefeat import tolerances
from framefeat.proof import odd_clips
from framefeat.proof.numbered import nearest_frames, read_number
from framefeat.proof.odd_clips import OddClip
from framefeat.proof.plain_decode import plain_decode
from framefeat.records import Evidence

#: Of 255: by how much a neighbour may fit better, which is rounding.
_ROUNDING = 0.05
#: Seconds that two readings of one time may differ by.
_SAME_TIME = 1e-6


@dataclass(frozen=True, eq=False)
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
    unreadable: frozenset[int] = frozenset()
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


def decoded_truth(path: Path, folder: Path) -> Truth:
    """The truth about a clip of unknown origin: what a plain decode gives; ``folder`` takes its frames."""
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
        unreadable=frozenset(reference.unreadable),
        lone_interval=1 / reference.rate,
        display=reference.display if clock is None else None,
        start=reference.start,
        last_shown=reference.last_shown,
        crop_may_stay=True,
    )


def odd_truth_of(kind: OddClip, folder: Path) -> tuple[Path, Truth]:
    """Make an odd clip: where it lies, and the truth about it."""
    clip, told = odd_clips.make(kind, folder)
    return clip.path, _odd_truth(kind, clip.path, told, folder)


def _odd_truth(kind: OddClip, path: Path, told: odd_clips.Known, folder: Path) -> Truth:
    if told.numbers is None:
        truth = decoded_truth(path, folder)
        truth = replace(truth, complete=truth.complete and not kind.damaged)
    else:
        times = told.times or [Fraction(k) / kind.rate for k in range(len(told.numbers))]
        known = told.times is not None
        truth = Truth(float(kind.rate), list(times), list(told.numbers), None, trusted=known)
    return replace(truth, usable=not kind.unusable, crop_may_stay=kind.cropped, lone_interval=1 / kind.rate)


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
