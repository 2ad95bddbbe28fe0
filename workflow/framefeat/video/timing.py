"""How fast a video's frames follow each other: the average rate, whether it varies, and the usual interval."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

_USUAL_RATES = (24, 25, 30, 48, 50, 60, 100, 120, 12, 15, 10, 5, 1, 2)


@dataclass(frozen=True)
class Timing:
    """``time_base`` in seconds, ``average_rate`` in frames per second, the other times in ticks of ``time_base``."""

    time_base: Fraction
    average_rate: Fraction
    is_vfr: bool
    median_interval: Fraction
    last_duration: int


def by_rate(declared: Fraction) -> Timing:
    """For frames without usable times: frame k is at k / rate, and the rate is the container's, else 25."""
    rate = declared or Fraction(25)
    return Timing(1 / rate, rate, False, Fraction(1), 0)


def by_times(pts: np.ndarray, time_base: Fraction, declared: Fraction, last_duration: int) -> Timing:
    """For frames at ``pts`` (int64 [n] ticks, ascending, n > 0), the last of them shown for ``last_duration`` (0: not
    known).

    The rate is the ``declared`` one where the frames' own times agree with it, as it is then exact; else it is counted.
    """
    count = len(pts)
    if count == 1:
        rate = declared or Fraction(1)
        interval = 1 / (rate * time_base)
        return Timing(time_base, rate, last_duration > Fraction(3, 2) * interval, interval, last_duration)
    intervals = np.sort(np.diff(pts))
    median = Fraction(int(intervals[(count - 2) // 2]) + int(intervals[(count - 1) // 2]), 2)
    span = int(pts[-1] - pts[0])
    mean = Fraction(span, count - 1)
    varies = _drifts(pts, float(mean))
    rate = _exact_rate(1 / (mean * time_base), declared, span, varies)
    return Timing(time_base, rate, varies or last_duration > Fraction(3, 2) * median, median, last_duration)


def _drifts(pts: np.ndarray, mean: float) -> bool:
    """Whether times leave those of a constant rate by more than rounding to ticks, or a little shaking, explains."""
    drift = np.abs((pts - pts[0]).astype(np.float64) - np.arange(len(pts)) * mean).max()
    return bool(drift > max(min(1.01, 0.3 * mean), 0.1 * mean))


def _exact_rate(counted: Fraction, declared: Fraction, span: int, varies: bool) -> Fraction:
    """The rate that ``counted`` stands for, which was counted over ``span`` ticks: the declared one, a usual one, or
    itself."""
    tolerance = max(Fraction(1, 5000), Fraction(2, max(span, 1)))  # one tick of rounding at each end
    if declared and abs(declared - counted) <= tolerance * counted:
        return declared
    if varies:
        return counted
    for number in _USUAL_RATES:
        for rate in (Fraction(number), Fraction(number * 1000, 1001)):
            if abs(rate - counted) <= min(tolerance, Fraction(1, 2500)) * counted:
                return rate
    return counted
