"""When a video is doubtful: rows farther from their frames than a frame lasts, and why."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from framefeat.results import verdict

from tests.unit.results.tiny_results import TVSUM


def evidence(
    frames: np.ndarray, times: np.ndarray, index_fps: float, *, alignment: str = "index", **video: Any
) -> dict[str, Any]:
    """What a sampling leaves behind of a file whose frames are presented at ``frames`` (seconds)."""
    if alignment == "index":
        wanted = np.rint(times * index_fps).astype(int)
    else:
        wanted = np.abs(frames[None, :] - times[:, None]).argmin(axis=1)
    status = np.where(wanted < len(frames), "ok", np.where(wanted == len(frames), "clamped", "bad"))
    native = np.where(status == "bad", -1, np.minimum(wanted, len(frames) - 1))
    shown = frames[native]
    facts = {
        "frames": len(frames), "frames_found": len(frames), "fps": (len(frames) - 1) / (frames[-1] - frames[0]),
        "interval_sec": float(np.median(np.diff(frames))), "vfr": False, "index_source": "packets", "warnings": [],
    }  # fmt: skip
    return {
        "key": {"fps": index_fps, "alignment": alignment},
        "video": facts | video,
        "rows": {
            "timestamp_sec": times.tolist(), "native_idx": native.tolist(), "status": status.tolist(),
            "pts_sec": [None if how == "bad" else time for how, time in zip(status, shown.tolist(), strict=True)],
        },
        "warnings": [],
    }  # fmt: skip


def steady(count: int, fps: float) -> np.ndarray:
    return np.arange(count) / fps


def every(step: float, until: float) -> np.ndarray:
    return np.round(np.arange(0, until, step), 3)


#: One second at 25 frames, one at 10, again and again: the index's rate is the true average.
PACES = np.cumsum(np.tile(np.r_[np.full(25, 0.04), np.full(10, 0.1)], 5)) - 0.04
#: Two seconds are missing in the middle.
GAP = np.r_[steady(50, 25), 6 + steady(50, 25)]

CASES = {
    "the file's own rate, ties and all": (evidence(steady(250, 25), every(0.5, 10), 25.0), None),
    "rounded to milliseconds": (evidence(steady(250, 25).round(3), every(0.5, 10), 25.0), None),
    "another rate": (
        evidence(steady(250, 25), every(0.5, 4), 30.0),
        r"the index says 30 fps, the file has 25: rows are up to 0\.700 s from their frame; correct fps",
    ),
    "another rate, and too short to matter": (evidence(steady(250, 25), np.array([0.0, 0.1]), 30.0), None),
    "another rate that clamps": (evidence(steady(25, 25), np.array([0, 0.833]), 30.0), "the index says 30"),
    "the nominal rate and 23.976": (
        evidence(steady(3000, 24000 / 1001), every(0.5, 120), 24.0),
        r"the index says 24 fps, the file has 23\.976: rows are up to 0\.1",
    ),
    # TVSum: the header says 29.97, some frames were dropped, and the index has what is true on average.
    "the true average": (evidence(steady(6000, 29.917), every(0.5, 200), 29.917, fps=29.97), None),
    "not the true average": (evidence(steady(6000, 29.97), every(0.5, 200), 29.917), "says 29.917 fps"),
    "frames without times": (
        evidence(steady(250, 25), every(0.5, 4), 30.0, index_source="rate"),
        "25 by its header",
    ),
    "a variable rate": (
        evidence(PACES, every(0.5, 9), 17.5, vfr=True),
        r"frame rate varies, and alignment 'index' .* set alignment: pts",
    ),
    "a variable rate, and another": (
        evidence(PACES, every(0.5, 6), 25.0, vfr=True),
        r"the index says 25 fps, the file has 17\.\d+ on average; the file's frame rate varies",
    ),
    "a variable rate by presentation time": (
        evidence(PACES, every(0.5, 9), 17.5, vfr=True, alignment="pts"),
        None,
    ),
    "a gap by presentation time": (
        evidence(GAP, every(0.5, 7), 25.0, vfr=True, alignment="pts"),
        r"rows are up to 2\.000 s from the nearest frame: the file has a gap there",
    ),
    "the last frame stands for three seconds": (
        evidence(steady(5, 10), np.array([0.0, 2.4]), 10.0, alignment="pts", last_duration_sec=3.0),
        None,
    ),
    "no row has a frame": (evidence(steady(5, 10), np.array([9.0]), 10.0), None),
    "no video": (evidence(steady(5, 10), np.array([9.0]), 10.0) | {"video": None}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_doubts(name: str) -> None:
    found, expected = CASES[name]
    doubts = verdict.doubts(found)
    if expected is None:
        assert doubts == []
    else:
        assert len(doubts) == 1
        assert re.search(expected, doubts[0]), doubts[0]


def test_a_variable_rate_that_fits_is_told_and_not_doubted() -> None:
    shaky = evidence(np.r_[0, 0.055, 0.08, 0.12], np.array([0, 0.12]), 25.0, vfr=True)
    assert verdict.doubts(shaky) == []
    assert "varies" in verdict.cautions(shaky)[0]
    assert verdict.cautions(evidence(PACES, every(0.5, 9), 17.5, vfr=True)) == []


def test_another_rate_that_fits_all_the_same_is_told_once_and_not_doubted() -> None:
    short = evidence(steady(250, 25), np.array([0.0, 0.1]), 30.0)
    assert verdict.cautions(short) == [
        "the index says 30 fps, the file has 25, but every row is within a frame of its time"
    ]
    assert verdict.cautions(evidence(steady(250, 25), every(0.5, 4), 30.0)) == [], "its doubt says it"
    assert verdict.cautions(evidence(steady(250, 25), every(0.5, 4), 30.0, alignment="pts")) == []
    assert verdict.cautions(evidence(steady(250, 25), every(0.5, 4), 25.1)) == []
    assert verdict.cautions(evidence(steady(5, 10), np.array([9.0]), 30.0)) == [], "no row has a frame"


def test_a_frame_that_stands_for_a_moment_is_told_and_not_doubted() -> None:
    slides = evidence(np.array([0, 0.1, 0.2, 1.9, 2.0, 2.1]), every(0.5, 2), 25.0, vfr=True, alignment="pts")
    assert verdict.doubts(slides) == []
    assert "a frame that stands long" in verdict.cautions(slides)[0]


def test_what_cannot_be_told_is_a_doubt_of_its_own() -> None:
    contradiction = "its times and the order of its frames contradict each other"
    found = evidence(steady(250, 25), every(0.5, 10), 25.0) | {"doubts": [contradiction]}
    assert verdict.undecided(found) == verdict.doubts(found) == [contradiction]


def test_states() -> None:
    states = [verdict.of_video(sound, doubts) for sound in (True, False) for doubts in ([], ["why"])]
    assert states == ["verified", "doubtful", "not verified", "not verified"]
    assert verdict.of_all(["verified"] * 2) == "verified"
    assert verdict.of_all(["verified", "doubtful"]) == "doubtful"
    assert verdict.of_all(states) == "not verified"
    assert verdict.of_all([]) == "not verified"
    # Of a run before there were verdicts.
    assert verdict.of_manifest({"alignment_verified": True}) == "verified"
    assert verdict.of_manifest({"verified": False}) == "not verified"
    assert verdict.of_manifest({"verified": True, "verdict": "doubtful"}) == "doubtful"


@pytest.mark.skipif(not TVSUM.is_dir(), reason="the TVSum tables are not here")
def test_tvsum_is_not_doubtful() -> None:
    """Its frames evenly over its duration, whatever nominal rate the headers say."""
    table = pd.read_csv(TVSUM / "tvsum_index.csv", dtype={"video_id": str}, keep_default_na=False)
    rows = pd.read_parquet(TVSUM / "tvsum_frame_index.parquet").groupby("video_id")["timestamp_sec"]
    times = {name: part.to_numpy() for name, part in rows}
    for video in table.itertuples():
        frames = steady(int(video.frame_count), float(video.fps))
        nominal = min((24, 25, 30, 24000 / 1001, 30000 / 1001), key=lambda rate: abs(rate - video.fps))
        assert verdict.doubts(evidence(frames, times[video.video_id], float(video.fps), fps=nominal)) == []
