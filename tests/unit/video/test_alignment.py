import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from framefeat.proof.numbered import nearest_frames
from framefeat.records import PAST_END
from framefeat.video.alignment import align
from framefeat.video.container import Container
from framefeat.video.packets import Packets
from hypothesis import given, settings
from hypothesis import strategies as st


def container_of(pts, time_base=Fraction(1, 1000), rate=Fraction(25), expected=None) -> Container:
    pts = np.array(pts, dtype=np.int64)
    count = len(pts)
    intervals = np.sort(np.diff(pts))
    median = (
        Fraction(int(intervals[(count - 2) // 2]) + int(intervals[(count - 1) // 2]), 2)
        if count > 1
        else 1 / (rate * time_base)
    )
    flags = np.ones(count, dtype=bool)
    return Container(
        path="clip.mp4",
        format="mp4",
        codec="h264",
        pix_fmt="yuv420p",
        width=64,
        height=48,
        sample_aspect=Fraction(1),
        rotation=0,
        time_base=time_base,
        average_rate=rate,
        stream_index=0,
        pts=pts,
        key=flags,
        packet=np.arange(count),
        packets=Packets(pts, pts, flags, flags, flags, ~flags),
        index_source="packets",
        is_vfr=True,
        median_interval=median,
        expected_frames=count if expected is None else expected,
        damage=None,
    )


times_of_frames = st.lists(st.integers(1, 400), min_size=0, max_size=60).map(
    lambda gaps: np.cumsum([0, *gaps]).tolist()
)
sample_times = st.lists(
    st.one_of(st.integers(0, 30000).map(lambda ms: ms / 1000), st.floats(0, 30, allow_nan=False)),
    min_size=1,
    max_size=40,
)


@given(
    times_of_frames,
    st.integers(-5000, 5000),
    sample_times,
    st.sampled_from([23.976, 24.0, 25.0, 29.97, 29.917, 30.0]),
)
@settings(max_examples=200, deadline=None)
def test_index_is_python_round(frames, start, times, fps):
    container = container_of(np.array(frames) + start)
    aligned = align(container, times, fps, "index")
    count = len(frames)
    for row, time in enumerate(times):
        number = round(time * fps)  # half to even
        if number < count:
            assert (aligned.native[row], aligned.status[row]) == (number, "ok")
        elif number == count:
            assert (aligned.native[row], aligned.status[row]) == (count - 1, "clamped")
        else:
            assert (aligned.native[row], aligned.status[row]) == (-1, "bad")
            assert PAST_END in aligned.reasons[row]


@given(
    times_of_frames, st.integers(-5000, 5000), sample_times, st.sampled_from([1000, 90000, 12800, 30000, 7])
)
@settings(max_examples=300, deadline=None)
def test_pts_is_the_nearest_frame_by_exact_arithmetic(frames, start, times, clock):
    base = Fraction(1, clock)
    container = container_of(np.array(frames) + start, base)
    aligned = align(container, times, 25.0, "pts")
    truth = nearest_frames([value * base for value in frames], 25.0, times, "pts", Fraction(1, 25))
    last = len(frames) - 1
    for row, wanted in enumerate(truth):
        expected = (-1, "bad") if wanted is None else (last, "clamped") if wanted == -1 else (wanted, "ok")
        assert (aligned.native[row], aligned.status[row]) == expected


@given(times_of_frames)
@settings(max_examples=100, deadline=None)
def test_ties_go_to_the_even_frame(frames):
    doubled = [2 * value for value in frames]
    container = container_of(doubled, Fraction(1, 2000))
    middles = [(a + b) / 2 / 2000 for a, b in zip(doubled, doubled[1:], strict=False)]
    if middles:
        aligned = align(container, middles, 25.0, "pts")
        assert (aligned.native % 2 == 0).all()


@given(times_of_frames, sample_times)
@settings(max_examples=100, deadline=None)
def test_later_times_never_mean_earlier_frames(frames, times):
    container = container_of(frames)
    for alignment in ("index", "pts"):
        aligned = align(container, sorted(times), 25.0, alignment)
        kept = aligned.native[aligned.native >= 0]
        assert (np.diff(kept) >= 0).all()


def test_the_last_frame_stays_as_long_as_it_says():
    container = dataclasses.replace(container_of([0, 100, 200]), last_duration=3000)
    aligned = align(container, [0.25, 3.15, 3.1501, 3.25, 3.2501], 25.0, "pts")
    assert aligned.native.tolist() == [2, 2, 2, 2, -1]
    assert aligned.status == ["ok", "ok", "clamped", "clamped", "bad"]


def test_the_clamping_rule_at_its_borders():
    container = container_of([0, 40, 80], rate=Fraction(25))
    aligned = align(container, [0.08, 0.1, 0.1001, 0.14, 0.1401], 25.0, "pts")
    assert aligned.status == ["ok", "ok", "clamped", "clamped", "bad"]
    aligned = align(container, [0.08, 0.12, 0.16], 25.0, "index")
    assert aligned.status == ["ok", "clamped", "bad"]
    assert "0.16 s (frame 4) is past the end: the video has 3 frames" in aligned.reasons[2]


@pytest.mark.parametrize("alignment", ["index", "pts"])
@pytest.mark.parametrize("fps", [25.0, 1e308])
def test_absurd_times_are_past_the_end(alignment, fps):
    container = container_of([0, 40, 80], rate=Fraction(25))
    aligned = align(container, [0.0, 1e9, 1e18, 1e300], fps, alignment)
    assert aligned.status == ["ok", "bad", "bad", "bad"]
    assert [row for row, why in aligned.reasons.items() if PAST_END in why] == [1, 2, 3]
    assert all("means frame -" not in reason for reason in aligned.reasons.values())


def test_tvsum_ties_at_25_fps():
    container = container_of(np.arange(0, 4000, 40))
    times = [0.5 * k for k in range(8)]
    assert align(container, times, 25.0, "index").native.tolist() == [0, 12, 25, 38, 50, 62, 75, 88]
    assert align(container, times, 25.0, "pts").native.tolist() == [0, 12, 25, 38, 50, 62, 75, 88]


def test_frames_that_a_cut_file_lacks_are_bad_and_never_clamped():
    container = container_of([0, 40, 80], expected=10)
    aligned = align(container, [0.08, 0.12, 0.36, 0.4, 0.44], 25.0, "index")
    assert aligned.status == ["ok", "bad", "bad", "bad", "bad"]
    assert aligned.reasons[1] == "0.12 s (frame 3) is missing in the file"
    assert [row for row, why in aligned.reasons.items() if PAST_END in why] == [4]


def test_an_unknown_alignment_is_refused():
    with pytest.raises(ValueError, match="nearest"):
        align(container_of([0]), [0.0], 25.0, "nearest")
