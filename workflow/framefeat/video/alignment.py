"""Which frame each sample means, and what must be decoded to get it: pure functions of a container's packets."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from framefeat.video.container import Container
from framefeat.video.packets import Packets

#: Codecs of which a pass may leave packets out: what travels with their packets is read (see ``bitstream``), and FFmpeg
#: leaves out non-reference frames packet by packet, with the same bytes for all other frames. All others are decoded whole.
SKIPPABLE_CODECS = frozenset({"h264", "hevc"})
#: Of the groups of pictures that a pass enters, every so many-th is decoded whole, and its frames are compared with the index.
_WHOLE_GROUPS = 16


@dataclass(frozen=True)
class Plan:
    """``native`` int64 [T] (-1: none), ``status`` per row (``ok``, ``clamped``, ``bad``) and, for bad rows, why."""

    native: np.ndarray
    status: list[str]
    reasons: dict[int, str]


PAST_END = "past the end"
_BEYOND = 2**53
LOST = "missing in the file"


def frame_numbers(times: np.ndarray, fps: float) -> np.ndarray:
    """``round(t * fps)``, half to even: int64 [T]; times beyond any video give one frame number beyond any video."""
    with np.errstate(over="ignore"):
        return np.rint(np.minimum(times * fps, _BEYOND)).astype(np.int64)


def plan_samples(
    container: Container, timestamps: Sequence[float] | np.ndarray, fps: float, alignment: str
) -> Plan:
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


def _resolve(container: Container, times: np.ndarray, wanted: np.ndarray) -> Plan:
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
                f"{PAST_END}: {times[row]:g} s means frame {number}, the video has {expected} frames, "
                f"the last at {ending:.3f} s"
            )
        else:
            reasons[int(row)] = (
                f"{LOST}: {times[row]:g} s means frame {number}, {expected} frames were expected and {found} found, "
                f"the last at {ending:.3f} s"
            )
    return Plan(native, status, reasons)


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


@dataclass(frozen=True)
class DecodePlan:
    """What one forward pass feeds to the decoder, by packet position (all arrays [m], file order).

    ``feed`` bool; ``restart`` bool: drain and reset the decoder before this packet; ``wanted`` bool: its frame is
    asked for; ``leading`` bool: follows a restart's key frame but is shown before it, so that it may fail harmlessly;
    ``whole`` bool: nothing around it is left out, so that its frame must come. ``start`` int64: for a wanted packet the key
    packet that it is decoded from, else -1. ``end``: nothing at or after this position is needed.
    """

    feed: np.ndarray
    restart: np.ndarray
    wanted: np.ndarray
    leading: np.ndarray
    whole: np.ndarray
    start: np.ndarray
    end: int


def decode_plan(packets: Packets, wanted: Sequence[int] | np.ndarray) -> DecodePlan:
    """The least that gives the frames of the packets at positions ``wanted``, from key frames on, without a seek.

    A frame is decoded from the last key packet before it that is not shown after it: the pictures that an open group
    leads with are decoded from the key frame of the group before.
    """
    count = len(packets)
    is_wanted = np.zeros(count, dtype=bool)
    is_wanted[np.asarray(wanted, dtype=np.int64)] = True
    start = np.full(count, -1, dtype=np.int64)
    edges = np.zeros(count + 1, dtype=np.int64)
    keys = np.flatnonzero(packets.key)
    for position in np.flatnonzero(is_wanted):
        first = start_of(packets, keys, int(position))
        start[position] = first
        edges[first] += 1
        edges[position + 1] -= 1
    feed = np.cumsum(edges[:-1]) > 0
    begins = feed & ~np.r_[False, feed[:-1]]
    leading = np.zeros(count, dtype=bool)
    for first in np.flatnonzero(begins).tolist():
        if packets.key[first]:
            place = first + 1
            while place < count and feed[place] and packets.pts[place] < packets.pts[first]:
                leading[place] = True
                place += 1
    end = int(np.flatnonzero(feed)[-1]) + 1 if feed.any() else 0
    group = np.maximum(np.searchsorted(keys, np.arange(count), side="right"), 1)
    whole = feed & (group % _WHOLE_GROUPS == 1)
    return DecodePlan(feed, begins, is_wanted, leading & ~is_wanted, whole, start, end)


def whole_plan(packets: Packets, wanted: Sequence[int] | np.ndarray) -> DecodePlan:
    """Everything in order, from the first packet to the last that is wanted."""
    count = len(packets)
    is_wanted = np.zeros(count, dtype=bool)
    is_wanted[np.asarray(wanted, dtype=np.int64)] = True
    end = int(np.flatnonzero(is_wanted)[-1]) + 1 if is_wanted.any() else 0
    feed = np.arange(count) < end
    none = np.zeros(count, dtype=bool)
    start = np.where(is_wanted, 0, -1)
    return DecodePlan(feed, none, is_wanted, none, feed, start, end)


def leading_pictures(packets: Packets) -> int:
    """How many packets follow a key packet and are shown before it: open groups of pictures, where a reader that seeks
    must know what it drops."""
    keys = np.flatnonzero(packets.key)
    if not len(keys):
        return 0
    group = np.searchsorted(keys, np.arange(len(packets)), side="right") - 1
    begun = group >= 0
    return int((packets.pts[begun] < packets.pts[keys[group[begun]]]).sum())


def decode_cost(packets: Packets, positions: Sequence[int] | np.ndarray) -> np.ndarray:
    """How many packets must be decoded for the frame of each packet alone: int64, one for each of ``positions``."""
    keys = np.flatnonzero(packets.key)
    return np.array(
        [position - start_of(packets, keys, position) + 1 for position in map(int, positions)], dtype=np.int64
    )


def start_of(packets: Packets, keys: np.ndarray, position: int) -> int:
    """Position of the key packet that the packet at ``position`` is decoded from (0 if there is none)."""
    place = int(np.searchsorted(keys, position, side="right")) - 1
    while place >= 0 and packets.pts[keys[place]] > packets.pts[position]:
        place -= 1
    return int(keys[place]) if place >= 0 else 0
