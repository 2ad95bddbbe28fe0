"""Which presented frame each sample's time means: pure functions of a container's times."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from framefeat.records import PAST_END
from framefeat.video.container import Container
from framefeat.words import many

_BEYOND = 2**53


@dataclass(frozen=True)
class Aligned:
    """The frames of samples: ``native`` int64 [T] (-1: none), ``status`` per row (``ok``, ``clamped``, ``bad``) and,
    for bad rows, why, in a sentence that names the time."""

    native: np.ndarray
    status: list[str]
    reasons: dict[int, str]


def frame_numbers(times: np.ndarray, fps: float) -> np.ndarray:
    """``round(t * fps)``, half to even: int64 [T]; times beyond any video give one frame number beyond any video."""
    with np.errstate(over="ignore"):
        return np.rint(np.minimum(times * fps, _BEYOND)).astype(np.int64)


def align(
    container: Container, timestamps: Sequence[float] | np.ndarray, fps: float, alignment: str
) -> Aligned:
    """The presented frame of each time (seconds, float64 [T]).

    ``index``: frame ``round(t * fps)``, half to even, in float64: as the labels were made. ``pts``: the frame whose
    presentation time is nearest, by exact arithmetic on the time's shortest decimal form; ties go to the even frame.
    A sample at most one frame past the end takes the last frame (``clamped``). Frames that a file cut short declares
    but does not hold are ``bad``, never replaced.
    """
    times = np.asarray(timestamps, dtype=np.float64)
    if alignment == "index":
        wanted = frame_numbers(times, float(fps))
    elif alignment == "pts":
        wanted = _nearest(container, times)
    else:
        raise ValueError(f"alignment {alignment!r} is neither index nor pts")
    return _resolve(container, times, wanted)


def _resolve(container: Container, times: np.ndarray, wanted: np.ndarray) -> Aligned:
    found, expected = container.n_presented, container.expected_frames
    native = wanted.copy()
    status = ["ok"] * len(wanted)
    reasons: dict[int, str] = {}
    ending = container.times()[-1] if found else 0.0
    for row in np.flatnonzero((wanted >= found) | (wanted < 0)):
        number = int(wanted[row])
        if number == expected == found:
            native[row], status[row] = found - 1, "clamped"
            continue
        native[row], status[row] = -1, "bad"
        if number > expected or number < 0:
            reasons[int(row)] = (
                f"{times[row]:g} s (frame {number}) {PAST_END}: the video has {many(expected, 'frame')}, "
                f"the last at {ending:.3f} s"
            )
        else:
            reasons[int(row)] = f"{times[row]:g} s (frame {number}) is missing in the file"
    return Aligned(native, status, reasons)


def _nearest(container: Container, times: np.ndarray) -> np.ndarray:
    """Presented frame nearest to each time; n for at most one frame past the end, more for what is beyond."""
    count = container.n_presented
    exact = container.pts - container.start_pts
    seconds = container.times()
    after = np.searchsorted(seconds, times, side="left")
    result = np.empty(len(times), dtype=np.int64)
    last = Fraction(int(exact[-1])) * container.time_base
    interval = container.median_interval * container.time_base
    for row, right in enumerate(after):
        time = float(times[row])
        if right >= count - 1 and time > seconds[-1]:
            result[row] = _past_last(container, Fraction(repr(time)), last, interval)
            continue
        # The float search may be one off where a time is a frame's own: look at both neighbours of both.
        low, high = max(0, int(right) - 1), min(count - 1, int(right))
        left_gap, right_gap = abs(time - seconds[low]), abs(seconds[high] - time)
        if abs(left_gap - right_gap) > 1e-6 or low == high:
            result[row] = low if left_gap < right_gap else high
            continue
        moment = Fraction(repr(time))
        result[row] = min(
            range(max(0, low - 1), min(count, high + 2)),
            key=lambda k: (abs(moment - int(exact[k]) * container.time_base), k % 2, k),
        )
    return result


def _past_last(container: Container, moment: Fraction, last: Fraction, interval: Fraction) -> int:
    """Frame number of a time after the last frame: the last, one more, or what the rate gives.

    The last frame is shown for its own duration; half an interval more or less goes to it or to what would follow.
    """
    shown = container.last_shown * container.time_base
    beyond = moment - last - (shown - interval)
    count = container.n_presented
    if beyond <= interval / 2:
        return count - 1
    if beyond <= interval * Fraction(3, 2):
        return count
    return max(count + 1, count - 1 + min(round(beyond / interval), _BEYOND))
