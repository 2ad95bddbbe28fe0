"""Lengths and angles of feature vectors."""

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors ``[D]``. Where one is zero: 1 if they are equal, else 0."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else float(np.array_equal(a, b))


def row_lengths(features: np.ndarray) -> np.ndarray:
    """Euclidean lengths of the rows of float ``[T, D]``: float64 ``[T]``."""
    return np.linalg.norm(np.asarray(features, dtype=np.float64), axis=1)


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows of float ``[T, D]`` scaled to length 1, float32; rows of zeros and of NaN stay as they are."""
    values = np.asarray(features, dtype=np.float32)
    lengths = row_lengths(values)
    return (values / np.where(lengths > 0, lengths, 1.0)[:, None]).astype(np.float32)
