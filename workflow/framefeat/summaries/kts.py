"""Kernel temporal segmentation: shot boundaries from frame features (Potapov et al., ECCV 2014).

For each number of change points m the segmentation of least within-segment scatter is found exactly (the dynamic
programme of ``ruptures.KernelCPD``, linear kernel), and m minimises ``scatter(m) / n + vmax * m / (2 n) * (log(n / m) +
1)``.
"""

import numpy as np

from framefeat.vectors import unit_rows

#: The weight of the penalty. The original code's users take 1 with features of unit length.
VMAX = 1.0
#: At most one change point per this many seconds.
SECONDS_PER_CHANGE = 2.0


def change_points(features: np.ndarray, max_changes: int, vmax: float = VMAX) -> np.ndarray:
    """Positions where a new segment begins, int64 ``[m]``, ascending, each in ``1 .. n - 1``.

    ``features`` float ``[n, D]``, finite; ``max_changes`` bounds m.
    """
    import ruptures

    signal = np.ascontiguousarray(features, dtype=np.float64)
    n = len(signal)
    most = min(int(max_changes), n - 1)
    prefix = np.concatenate([np.zeros((1, signal.shape[1])), np.cumsum(signal, axis=0)])
    total = float(np.einsum("ij,ij->", signal, signal))

    def scatter(bounds: np.ndarray) -> float:
        sums = prefix[bounds[1:]] - prefix[bounds[:-1]]
        return total - float((np.einsum("ij,ij->i", sums, sums) / np.diff(bounds)).sum())

    best = np.zeros(0, dtype=np.int64)
    if most < 1:
        return best
    least = scatter(np.array([0, n])) / n
    search = ruptures.KernelCPD(kernel="linear", min_size=1).fit(signal)
    search.predict(n_bkps=most)  # fills in the segmentations of every m up to most
    for m in range(1, most + 1):
        ends = np.asarray(search.predict(n_bkps=m), dtype=np.int64)
        cost = scatter(np.concatenate([[0], ends])) / n + vmax * m / (2.0 * n) * (np.log(n / m) + 1.0)
        if cost < least - 1e-12:
            least, best = cost, ends[:-1]
    return best


def shots_of(
    features: np.ndarray, picks: np.ndarray, times: np.ndarray, n_frames: int, vmax: float = VMAX
) -> np.ndarray:
    """The shots of one video in native frames: int32 ``[segments, 2]``, **end inclusive**, covering ``0 .. n_frames -
    1``.

    ``features`` ``[n, D]`` of the sampled frames in time order, ``picks`` int ``[n]`` their native frame numbers
    (ascending), ``times`` float ``[n]`` in seconds. The features are scaled to unit length, so that ``vmax`` means the
    same for every backbone. A shot begins at the native frame of its first sample.
    """
    seconds = float(times[-1] - times[0]) if len(times) else 0.0
    most = int(np.ceil(seconds / SECONDS_PER_CHANGE))
    starts = np.asarray(picks)[change_points(unit_rows(features), most, vmax)]
    starts = np.unique(np.concatenate([[0], starts])).astype(np.int64)
    ends = np.concatenate([starts[1:], [n_frames]]) - 1
    return np.stack([starts, ends], axis=1).astype(np.int32)
