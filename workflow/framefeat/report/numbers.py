"""What the report computes from features: numpy only, rows in time order, NaN rows mean "no frame"."""

from dataclasses import dataclass

import numpy as np

CUT_FLOOR = 0.05  # a change of cosine below this is never called a cut
CUT_SPREADS = 6.0  # robust standard deviations above the median change


def changes(unit: np.ndarray) -> np.ndarray:
    """float32 ``[T]``: ``1 - cosine`` to the row before; NaN for the first row and beside rows without a frame."""
    result = np.full(len(unit), np.nan, dtype=np.float32)
    if len(unit) > 1:
        result[1:] = np.clip(1 - np.einsum("td,td->t", unit[1:], unit[:-1]), 0, 2)
    return result


def typical_change(unit: np.ndarray) -> float:
    """The median change between any two of these unit rows: what two unrelated frames look like to this backbone."""
    known = unit[np.isfinite(unit).all(axis=1)]
    if len(known) < 2:
        return float("inf")
    return float(np.median(1 - (known @ known.T)[np.triu_indices(len(known), 1)]))


def cut_threshold(change: np.ndarray, unlike: float = float("inf")) -> float:
    """The change above which a local peak is a likely cut.

    Far above what is usual in this video; but half of what separates unrelated frames (``unlike``) always suffices, or
    a video of many short scenes would have none. Infinite for less than two changes: one has nothing to stand out from.
    """
    known = change[np.isfinite(change)]
    if known.size < 2:
        return float("inf")
    middle = float(np.median(known))
    spread = 1.4826 * float(np.median(np.abs(known - middle)))
    return max(CUT_FLOOR, min(middle + CUT_SPREADS * spread, 0.5 * unlike))


def likely_cuts(change: np.ndarray, unlike: float = float("inf")) -> np.ndarray:
    """int64: rows that begin a new scene, i.e. local peaks of the change above :func:`cut_threshold`."""
    level = np.where(np.isfinite(change), change, -1.0)
    before = np.concatenate([[-1.0], level[:-1]])
    after = np.concatenate([level[1:], [-1.0]])
    return np.flatnonzero((level >= cut_threshold(change, unlike)) & (level >= before) & (level > after))


def evenly(count: int, most: int) -> np.ndarray:
    """int64: at most ``most`` of the places ``0 .. count - 1``, ends included, evenly spread."""
    if count <= most:
        return np.arange(count)
    if most == 1:
        return np.array([count // 2])
    return np.unique(np.round(np.linspace(0, count - 1, most)).astype(np.int64))


def telling_rows(importance: np.ndarray, most: int) -> np.ndarray:
    """int64: at most ``most`` rows: of each stretch of time the most important one, so that no peak is lost."""
    count = len(importance)
    if count <= most:
        return np.arange(count)
    edges = np.linspace(0, count, most + 1).astype(np.int64)
    return np.array(
        [
            start + int(np.argmax(importance[start:end]))
            for start, end in zip(edges, edges[1:], strict=False)
            if end > start
        ]
    )


def similarity_bytes(unit: np.ndarray) -> tuple[np.ndarray, float]:
    """uint8 ``[T, T]`` cosine similarity, 0 = the returned lowest value shown, 254 = 1, 255 = no frame.

    The lowest value shown is the second percentile: one odd frame must not wash out the blocks of all others.
    """
    similarity = unit @ unit.T
    known = np.isfinite(similarity)
    lowest = float(np.percentile(similarity[known], 2)) if known.any() else 0.0
    lowest = min(lowest, 0.999)
    scaled = np.clip((np.where(known, similarity, lowest) - lowest) / (1 - lowest), 0, 1)
    return np.where(known, np.round(scaled * 254), 255).astype(np.uint8), lowest


@dataclass(frozen=True)
class Plane:
    """``xy`` float32 ``[N, 2]``; ``explained``: share of the variance of each axis."""

    xy: np.ndarray
    explained: tuple[float, float]


def principal_plane(rows: np.ndarray) -> Plane:
    """The two directions of greatest variance of float ``[N, D]`` (all finite), by the smaller Gram matrix."""
    count = len(rows)
    if count < 2:
        return Plane(np.zeros((count, 2), np.float32), (0.0, 0.0))
    centred = (rows - rows.mean(axis=0)).astype(np.float32)
    wide = centred.shape[1] > count
    values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    top = vectors[:, ::-1][:, :2]
    strength = np.maximum(values[::-1][:2], 0)
    xy = top * np.sqrt(strength) if wide else centred @ top
    if xy.shape[1] < 2:
        xy, strength = np.pad(xy, ((0, 0), (0, 1))), np.append(strength, 0)
    # An eigenvector has no sign of its own: the point farthest along each axis lies on the positive side.
    xy = xy * np.where(xy[np.argmax(np.abs(xy), axis=0), np.arange(2)] < 0, -1, 1)
    total = max(float(values.sum()), 1e-30)
    return Plane(xy.astype(np.float32), (float(strength[0]) / total, float(strength[1]) / total))


def neighbours(unit: np.ndarray, groups: np.ndarray, most: int) -> tuple[list[list[int]], list[list[int]]]:
    """For each of ``N`` unit rows its nearest rows (best first): in its own group, and in all others."""
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    same = groups[:, None] == groups[None, :]

    def best(allowed: np.ndarray) -> list[list[int]]:
        masked = np.where(allowed, similarity, -np.inf)
        first = np.argsort(-masked, axis=1, kind="stable")[:, :most]
        return [
            [int(place) for place in row if np.isfinite(masked[number, place])]
            for number, row in enumerate(first)
        ]

    return best(same), best(~same)


def histogram(values: np.ndarray, bins: int = 40) -> dict[str, list[float] | list[int]]:
    """Counts over equal bins; values beyond the 0.1 and 99.9 percentiles fall into the outermost bins."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not known.size:
        return {"edges": [], "counts": []}
    low, high = np.percentile(known, [0.1, 99.9]) if known.size > 5000 else (known.min(), known.max())
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(np.clip(known, low, high), bins=bins, range=(low, high))
    return {"edges": [float(f"{edge:.6g}") for edge in edges], "counts": [int(count) for count in counts]}
