"""Which presented frame each sample means, and what has to be decoded to get it. Pure: nothing here reads a file."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from framefeat.quick_container import Container

OK, CLAMPED, BAD = "ok", "clamped", "bad"


@dataclass(frozen=True)
class Plan:
    """``native``: int64 [T], number of the presented frame, -1 where the time is past the end; ``status``: T strings."""

    native: np.ndarray
    status: list[str]


def plan_samples(container: Container, times: Sequence[float] | np.ndarray, fps: float, alignment: str) -> Plan:
    """The frame that each of ``times`` (float64 seconds) means. ``alignment``: ``index`` or ``pts`` (docs/alignment.md)."""
    if alignment == "index":
        return plan_by_index(np.asarray(times, dtype=np.float64), fps, container.frames)
    start = int(container.pts[0])
    ticks = [int(pts) - start for pts in container.pts]
    return plan_by_pts([float(t) for t in times], ticks, container.time_base, container.interval)


def plan_by_index(times: np.ndarray, fps: float, frames: int) -> Plan:
    """Frame ``round(t * fps)``, half to even, in float64 as Python's ``round`` has it; one past the last is clamped."""
    wanted = np.rint(times * fps).astype(np.int64)
    status = [OK if n < frames else CLAMPED if n == frames else BAD for n in wanted.tolist()]
    return Plan(np.where(wanted < frames, wanted, np.where(wanted == frames, frames - 1, -1)), status)


def plan_by_pts(times: Sequence[float], ticks: Sequence[int], time_base: Fraction, interval: Fraction) -> Plan:
    """The frame nearest in presentation time, a tie to the even frame number, in exact arithmetic.

    ``ticks``: presentation times from the first frame, ascending integers in units of ``time_base``; ``interval``: the
    median distance of frames in the same units. A time means the decimal fraction that it is written as. Past
    last + interval/2 the last frame stands in (clamped), past last + 1.5 interval there is none.
    """
    native, status = [], []
    last = ticks[-1]
    for time in times:
        at = Fraction(repr(time)) / time_base
        if at > last + interval * 3 / 2:
            native.append(-1)
            status.append(BAD)
            continue
        left = max(0, bisect_right(ticks, at) - 1)
        right = min(left + 1, len(ticks) - 1)
        before, after = abs(at - ticks[left]), abs(ticks[right] - at)
        nearer_right = after < before or (after == before and right % 2 == 0)
        native.append(right if nearer_right else left)
        status.append(CLAMPED if at > last + interval / 2 else OK)
    return Plan(np.array(native, dtype=np.int64), status)


@dataclass(frozen=True)
class Segment:
    """Packets ``first`` (a key frame) to ``last`` (inclusive, in file order) go to the decoder, which is then drained."""

    first: int
    last: int


def decode_segments(container: Container, wanted: Sequence[int]) -> list[Segment]:
    """The least that has to be decoded, in one forward pass, for the presented frames ``wanted`` (ascending).

    A frame's decoding begins at the last key frame that is shown no later than it: pictures that follow a key frame in
    the file and precede it in time (open GOPs) need the key frame before. Groups without a wanted frame are left out.
    """
    packet_of = {int(pts): place for place, pts in enumerate(container.packet_pts) if container.packet_shown[place]}
    keys = np.flatnonzero(container.packet_key)
    key_pts = np.maximum.accumulate(container.packet_pts[keys]) if len(keys) else keys
    segments: list[Segment] = []
    for number in wanted:
        pts = int(container.pts[number])
        last = packet_of[pts]
        before = int(np.searchsorted(key_pts, pts, side="right")) - 1
        first = int(keys[before]) if before >= 0 else 0
        if first > last:  # a key frame of a later place with an earlier time: not to be trusted
            first = 0
        if segments and first <= segments[-1].last + 1:
            segments[-1] = Segment(segments[-1].first, max(last, segments[-1].last))
        else:
            segments.append(Segment(first, last))
    return segments
