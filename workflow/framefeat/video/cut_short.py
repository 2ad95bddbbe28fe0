"""Whether a file is cut short: what FFmpeg says while it is read, and what its container declares."""

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from framefeat.video.packets import Reading
from framefeat.video.presented import Presented, empty_slots

_CUT_SHORT = re.compile(r"partial file|ended prematurely|truncated|moov atom not found", re.IGNORECASE)
_OF_STREAM = re.compile(r"stream (\d+), offset")


def shortfall(
    source: Any, stream: Any, reading: Reading, logs: list[Any], frames: Presented, rate: Fraction
) -> tuple[str | None, int]:
    """Why the file counts as cut short (None: it does not), and how many presented frames it declares.

    ``logs``: what FFmpeg said while reading. ``rate``: frames per second.
    """
    found = len(frames.pts)
    reasons = list(_complaints(logs, source.format.name, stream.index))
    missing = _missing_slots(source, stream, reading, frames)
    if missing:
        reasons.append(f"the index declares {stream.frames} frames")
    if not reasons and reading.stopped is None:
        return None, found
    declared = max(found, found + missing if missing else _frames_of_duration(source, stream, rate))
    if not reasons and declared == found:
        return None, found
    if reading.stopped:
        reasons.append(reading.stopped)
    return "; ".join(dict.fromkeys(reasons)), declared


def _complaints(logs: list[Any], format_name: str, stream_index: int) -> Iterator[str]:
    """What the demuxer says of an end that comes too early, of this stream or of the whole file."""
    for _, module, text in logs:
        of = _OF_STREAM.search(text)
        if module in format_name and _CUT_SHORT.search(text) and (of is None or int(of[1]) == stream_index):
            yield text.strip()


def _missing_slots(source: Any, stream: Any, reading: Reading, frames: Presented) -> int:
    """How many frames an AVI lacks by its index, which counts empty slots too; 0 where it is a few at most."""
    if "avi" not in source.format.name:
        return 0
    slots = stream.frames
    if frames.source == "rate":
        held = len(reading.pts) + empty_slots(np.array(reading.dts, dtype=np.int64))
    else:
        held = int(frames.pts[-1] - frames.pts[0]) + 1
    return slots - held if slots and held < slots - max(1, slots // 50) else 0


def _frames_of_duration(source: Any, stream: Any, rate: Fraction) -> int:
    """How many frames fill the duration that stream or file declare; 0 where they declare none."""
    import av

    frames = round(stream.duration * Fraction(stream.time_base) * rate) if stream.duration else 0
    if not frames and source.duration:
        frames = round(Fraction(source.duration, av.time_base) * rate)
    return frames
