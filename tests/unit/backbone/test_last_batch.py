"""The last batch on the CPU: whole with repetitions, or in quarters where these were seen to give the same bytes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from framefeat.backbone.network import embed

FRAMES = np.random.default_rng(3).integers(0, 256, (40, 4, 5, 3), dtype=np.uint8)


class Sized:
    """A network whose features are the mean colours, plus ``skew`` for each row that its batch has."""

    spec = SimpleNamespace(name="sized", dim=3)
    size = (4, 5)

    def __init__(self, skew: float = 0.0) -> None:
        self.device = torch.device("cpu")
        self.fits: int | None = None
        self.quarters: dict[int, bool] = {}
        self.skew = skew
        self.batches: list[int] = []

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(frames))
        return frames.float().mean((1, 2)) + self.skew * len(frames)


def features(network: Sized, rows: int, batch: int = 16) -> np.ndarray:
    network.batches.clear()
    return embed(network, FRAMES[:rows], batch, workers=2)[0]  # type: ignore[arg-type]


def test_a_last_batch_is_no_larger_than_it_must_be() -> None:
    network = Sized()
    first = features(network, 21)
    assert sorted(network.batches) == [4] * 4 + [16] * 2  # it is tried once, on frames that are there
    again = features(network, 21)
    assert sorted(network.batches) == [4] * 2 + [16]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(features(network, 3), first[:3])
    assert network.batches == [4]
    assert features(network, 0).shape == (0, 3)
    features(network, 32)
    assert network.batches == [16, 16]


def test_batches_stay_whole_where_their_size_changes_bytes() -> None:
    network = Sized(skew=1e-3)
    first = features(network, 21)
    again = features(network, 21)
    assert network.batches == [16, 16]
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("batch", [1, 4, 7, 18])
def test_other_sizes_are_not_cut(batch: int) -> None:
    network = Sized()
    for _ in range(2):
        features(network, 40, batch)
        assert set(network.batches) == {batch}


def test_whole_batches_alone_try_nothing() -> None:
    network = Sized()
    features(network, 32)
    assert network.batches == [16, 16]
    assert network.quarters == {}
