"""Whether the rule fits the file: pure functions of what one video's sampling left behind.

That a row is the frame which the rule asks for is one statement (``alignment_verified``); that this frame is where
the row's time is in the file is another. A rate in the index that is not the file's leaves the first true and makes
the second false.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from framefeat.records import Evidence, Facts, Rows

VERIFIED = "verified"
DOUBTFUL = "doubtful"
NOT_VERIFIED = "not verified"
#: Of a terminal's colours (see ``terminal.coloured``).
LEVELS = {NOT_VERIFIED: 3, DOUBTFUL: 2, VERIFIED: 0}

_ROUNDING_SEC = 1e-6
#: Under ``pts`` the nearest frame is what is asked for, and one that stands for a second or two is nothing strange.
_STANDS_LONG_SEC = 1.0
_SAME_RATE = 0.01
_NEAR = "but every row is within a frame of its time"
_STANDS = (
    "rows are up to {:.3f} s from the nearest frame: the file has a gap there, or a frame that stands long"
)


def of_video(sound: bool, doubts: Sequence[str]) -> str:
    """The state of one video; ``sound``: no row is bad, and the second decode and embedding agreed."""
    if not sound:
        return NOT_VERIFIED
    return DOUBTFUL if doubts else VERIFIED


def of_all(states: Collection[str]) -> str:
    """The worst of the videos' states; nothing is not verified."""
    for state in (NOT_VERIFIED, DOUBTFUL):
        if state in states:
            return state
    return VERIFIED if states else NOT_VERIFIED


def of_manifest(entry: Mapping[str, Any]) -> str:
    """The state of a manifest, or of one of its videos; those without a verdict have only the first statement."""
    verified = entry.get("alignment_verified", entry.get("verified", False))
    return str(entry.get("verdict") or (VERIFIED if verified else NOT_VERIFIED))


def undecided(evidence: Evidence) -> list[str]:
    """Why it cannot be told which frame of the file is which; a video of which this is so is never verified."""
    video = evidence.get("video")
    earlier = video.get("doubts") if video else None
    return list(evidence.get("doubts", earlier) or [])


def doubts(evidence: Evidence) -> list[str]:
    """Everything, in sentences with figures, that speaks against the rule for this file."""
    return [*undecided(evidence), *_misfit(evidence)]


def cautions(evidence: Evidence) -> list[str]:
    """What might have made the video doubtful and did not."""
    video = evidence.get("video")
    if not video or _misfit(evidence) or not np.isfinite(_offsets(evidence["rows"])).any():
        return []
    if evidence["key"]["alignment"] != "index":
        far = _far(evidence, video)
        return [_STANDS.format(np.abs(far).max())] if len(far) else []
    if video.get("vfr"):
        return [f"the frame rate varies, {_NEAR}"]
    apart = abs(evidence["key"]["fps"] - video["fps"]) > _SAME_RATE * video["fps"]
    return [f"{_rates(evidence)}, {_NEAR}"] if apart else []


def _rates(evidence: Evidence) -> str:
    video = evidence["video"]
    assert video is not None
    return f"the index says {evidence['key']['fps']:.6g} fps, the file has {video['fps']:.6g}"


def _are(rows: Rows, status: str) -> np.ndarray:
    return np.asarray(rows["status"], dtype=object) == status


def _offsets(rows: Rows) -> np.ndarray:
    """float64 [T]: seconds from each row's time to its frame's, NaN where there is no frame."""
    shown = np.array([np.nan if time is None else time for time in rows["pts_sec"]], dtype=float)
    return shown - np.asarray(rows["timestamp_sec"], dtype=float)


def _misfit(evidence: Evidence) -> list[str]:
    """At most one sentence: rows lie farther from their frames than a frame lasts, and why."""
    video = evidence.get("video")
    if not video:
        return []
    rows, key = evidence["rows"], evidence["key"]
    far = _far(evidence, video)
    if not len(far):
        return []
    if key["alignment"] != "index":
        return [_STANDS.format(np.abs(far).max())] if np.abs(far).max() > _STANDS_LONG_SEC else []
    frame, offsets = _frame_sec(video), _offsets(rows)
    how_far = f"rows are up to {np.abs(far).max():.3f} s from their frame"
    longest = float(np.asarray(rows["timestamp_sec"], dtype=float)[np.isfinite(offsets)].max())
    other_rate = longest * abs(key["fps"] - video["fps"]) > 1
    rates = _rates(evidence)
    remedy = "set alignment: pts"
    if video.get("vfr"):
        varies = "the file's frame rate varies, and alignment 'index' counts frames as if it did not"
        return [f"{f'{rates} on average; ' if other_rate else ''}{varies}: {how_far}; {remedy}"]
    if other_rate:
        header = " by its header (its frames have no times)" if video.get("index_source") == "rate" else ""
        return [f"{rates}{header}: {how_far}; correct fps in the video index, or {remedy}"]
    return [f"{how_far}, and a frame lasts {frame:.3f} s; {remedy}"]


def _far(evidence: Evidence, video: Facts) -> np.ndarray:
    """float64: the offsets (seconds) of rows that lie farther from their frames than a frame lasts."""
    rows = evidence["rows"]
    offsets = _offsets(rows)
    return offsets[np.abs(offsets) > _reach(rows, offsets, video, _frame_sec(video)) + _ROUNDING_SEC]


def _frame_sec(video: Facts) -> float:
    """How long a frame lasts: the median, or the mean where slow stretches make that the longer one."""
    return float(max(video.get("interval_sec") or 0.0, 1 / video["fps"] if video.get("fps") else 0.0))


def _reach(rows: Rows, offsets: np.ndarray, video: Facts, frame: float) -> np.ndarray:
    """float64 [T]: how far from its frame each row may be.

    The last frame counts for as long as it stands, and a row that is clamped lies up to a frame past that.
    """
    last = max(frame, video.get("last_duration_sec") or 0.0)
    reach = np.full(len(offsets), frame)
    on_last = np.asarray(rows["native_idx"]) == video.get("frames_found", video["frames"]) - 1
    reach[on_last & (offsets < 0)] = last
    reach[_are(rows, "clamped")] = 2 * last
    return reach


def distance(farthest: float | None) -> str:
    """In words, how far from its frame the farthest of doubtful rows is, in seconds; empty where it is no reason to
    doubt."""
    shown = f"{farthest or 0.0:.3f}"
    return "" if float(shown) == 0 else f"rows up to {shown} s from their frames"
