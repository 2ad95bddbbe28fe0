"""Segmentation against a direct transcription of the published formulas, and the knapsack against trying everything."""

from itertools import pairwise, product

import numpy as np
import pytest
from framefeat.summaries.knapsack import knapsack, shot_summary
from framefeat.summaries.kts import change_points, shots_of
from framefeat.vectors import unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.results.tiny_results import scene_features


def reference_kts(features: np.ndarray, most: int, vmax: float) -> list[int]:
    """Potapov et al. 2014 from the Gram matrix: scatter of every segment, the programme over them, then the penalty."""
    kernel = features.astype(float) @ features.astype(float).T
    n = len(kernel)
    scatter = np.zeros((n + 1, n + 1))
    for first in range(n):
        for last in range(first + 1, n + 1):
            block = kernel[first:last, first:last]
            scatter[first, last] = np.trace(block) - block.sum() / (last - first)
    best = np.full((most + 1, n + 1), np.inf)
    previous = np.zeros((most + 1, n + 1), dtype=int)
    best[0, 1:] = scatter[0, 1:]
    for m in range(1, most + 1):
        for last in range(m + 1, n + 1):
            options = best[m - 1, m:last] + scatter[m:last, last]
            previous[m, last] = m + int(np.argmin(options))
            best[m, last] = options.min()
    penalties = [0.0] + [vmax * m / (2 * n) * (np.log(n / m) + 1) for m in range(1, most + 1)]
    chosen = int(np.argmin(best[:, n] / n + penalties))
    points, last = [], n
    for m in range(chosen, 0, -1):
        last = int(previous[m, last])
        points.append(last)
    return points[::-1]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("vmax", [0.2, 1.0, 3.0])
def test_same_segmentation_as_the_published_formulas(seed: int, vmax: float) -> None:
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(20, 90))
    values = scene_features(rng, steps, 24)
    values += 0.3 * rng.random(values.shape, dtype=np.float32)
    values = unit_rows(values)
    most = steps - 1 if seed % 2 else steps // 4
    assert change_points(values, most, vmax).tolist() == reference_kts(values, most, vmax)


def test_finds_the_cuts_it_was_given() -> None:
    cuts = [7, 15, 40, 52]
    values = unit_rows(scene_features(np.random.default_rng(3), 60, 64, cuts))
    assert change_points(values, 30).tolist() == cuts


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_very_short_videos(steps: int) -> None:
    values = np.ones((steps, 8), dtype=np.float32)
    assert change_points(values, 5).tolist() == []
    assert shots_of(values, np.arange(steps) * 15, np.arange(steps) * 0.5, steps * 15).tolist() == [
        [0, steps * 15 - 1]
    ]


def test_zero_features_are_one_shot() -> None:
    assert change_points(np.zeros((40, 8)), 20).tolist() == []


def test_shots_cover_the_video_with_inclusive_ends() -> None:
    rng = np.random.default_rng(5)
    picks = np.minimum(np.arange(50) * 15, 740)
    shots = shots_of(scene_features(rng, 50, 32), picks, np.arange(50) * 0.5, 741)
    assert shots.dtype == np.int32
    assert shots[0, 0] == 0
    assert shots[-1, 1] == 740
    assert all(after[0] == before[1] + 1 for before, after in pairwise(shots.tolist()))
    assert set(shots[1:, 0].tolist()) <= set(picks.tolist())


def test_equal_picks_make_no_empty_shot() -> None:
    values = scene_features(np.random.default_rng(1), 12, 32, [3, 4, 8])
    shots = shots_of(values, np.repeat([0, 1, 2, 3], 3), np.arange(12) * 1.0, 4, vmax=0.01)
    assert np.all(shots[:, 1] >= shots[:, 0])
    assert shots[-1, 1] == 3


@settings(max_examples=150, deadline=None)
@given(
    items=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 12)), min_size=1, max_size=9),
    capacity=st.integers(0, 40),
)
def test_knapsack_is_optimal(items: list[tuple[int, int]], capacity: int) -> None:
    values = np.array([value / 8 for value, _ in items])
    weights = np.array([weight for _, weight in items])
    chosen = knapsack(values, weights, capacity)
    assert weights[chosen].sum() <= capacity
    best = max(
        values[list(mask)].sum() if any(mask) else 0.0
        for mask in (np.array(bits, dtype=bool) for bits in product([0, 1], repeat=len(items)))
        if weights[mask].sum() <= capacity
    )
    assert values[chosen].sum() == best


def test_summary_takes_the_best_shots_within_the_budget() -> None:
    shots = np.array([[0, 9], [10, 29], [30, 39], [40, 99]])
    scores = np.repeat([0.2, 0.9, 0.7, 0.1], [10, 20, 10, 60])
    summary = shot_summary(
        scores, shots
    )  # 15 frames: the second shot (20) does not fit, the third is worth more than the first
    assert summary.dtype == np.uint8
    assert np.flatnonzero(summary).tolist() == list(range(30, 40))
