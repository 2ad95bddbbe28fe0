"""Key-shot summaries: the shots of greatest value whose total length fits a budget (0/1 knapsack)."""

import numpy as np

#: The share of a video that a summary may take, the field's convention since TVSum (Song et al., CVPR 2015).
BUDGET = 0.15


def knapsack(values: np.ndarray, weights: np.ndarray, capacity: int) -> np.ndarray:
    """The optimal subset by dynamic programming over capacity: bool ``[items]``.

    ``values`` float ``[items]``, ``weights`` positive int ``[items]`` (frames). An item must improve the total to be
    taken (value 0 never is); among equal totals the choice is deterministic. Time and bits of memory: items x capacity.
    """
    values = np.asarray(values, dtype=np.float64)
    weights = np.asarray(weights, dtype=np.int64)
    capacity = max(0, int(capacity))
    best = np.zeros(capacity + 1)
    taken: list[np.ndarray | None] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        if weight > capacity:
            taken.append(None)
            continue
        candidate = best[: capacity + 1 - weight] + value
        better = np.zeros(capacity + 1, dtype=bool)
        better[weight:] = candidate > best[weight:]
        best[weight:] = np.maximum(best[weight:], candidate)
        taken.append(np.packbits(better))
    chosen = np.zeros(len(values), dtype=bool)
    left = capacity
    for item in range(len(values) - 1, -1, -1):
        bits = taken[item]
        if bits is not None and bits[left >> 3] >> (7 - (left & 7)) & 1:
            chosen[item] = True
            left -= int(weights[item])
    return chosen


def shot_summary(scores: np.ndarray, shots: np.ndarray, budget: float = BUDGET) -> np.ndarray:
    """A key-shot summary of one score per frame: uint8 ``[n_frames]`` of 0/1.

    ``scores`` float ``[n_frames]``; ``shots`` int ``[segments, 2]``, first and last frame (inclusive), covering all
    frames. A shot's value is its mean score, its weight its length, the capacity ``int(budget * n_frames)``.
    """
    starts, ends = shots[:, 0], shots[:, 1]
    lengths = ends - starts + 1
    means = np.add.reduceat(np.asarray(scores, dtype=np.float64), starts) / lengths
    chosen = knapsack(means, lengths, int(budget * len(scores)))
    return np.repeat(chosen.astype(np.uint8), lengths)


def choice(shots: np.ndarray, n_frames: int, budget: float = BUDGET) -> str:
    """What is left to choose in a summary of these shots, whatever the scores.

    ``empty``: no shot fits the budget. ``forced``: the shots that fit, fit together, so that all positive scores give
    the same summary. ``free``: scores decide.
    """
    lengths = shots[:, 1] - shots[:, 0] + 1
    capacity = int(budget * n_frames)
    fitting = lengths[lengths <= capacity]
    if not len(fitting):
        return "empty"
    return "forced" if fitting.sum() <= capacity else "free"
