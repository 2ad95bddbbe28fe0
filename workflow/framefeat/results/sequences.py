"""Videos as sequences for torch: of what reads a finished run, the one module that imports torch."""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from framefeat.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


class Source(Protocol):
    """What a sequence is made of: see ``dataset.Features``."""

    @property
    def matrix(self) -> np.ndarray: ...

    @property
    def index(self) -> "pd.DataFrame": ...

    def times_order(self, video_id: str) -> np.ndarray: ...


class Item(dict[str, Any]):
    """One video's sequence. A type of its own, so that torch's default collate can say what it lacks."""


def _collate(items: Sequence[Item], *, collate_fn_map: Any = None) -> dict[str, Any]:
    """torch's default collate of items: videos of one length, with targets."""
    if any(item["target"] is None for item in items):
        raise UserError(
            "These sequences have no targets, and torch's default collate cannot batch None: give targets to sequences(), or "
            "collate_fn=framefeat.pad_collate to the DataLoader."
        )
    lengths = sorted({len(item["features"]) for item in items})
    if len(lengths) > 1:
        raise UserError(
            f"The sequences of this batch have different lengths ({', '.join(map(str, lengths))} rows), which torch's default collate cannot "
            "stack: give collate_fn=framefeat.pad_collate to the DataLoader, or batch_size=1."
        )
    return {name: default_collate([item[name] for item in items]) for name in items[0]}


# torch documents this table and has not made it public (tried with 2.15). Where it is gone, what a person sees is
# torch's own error.
with contextlib.suppress(ImportError):
    from torch.utils.data._utils.collate import default_collate_fn_map

    default_collate_fn_map[Item] = _collate


class SequenceDataset(Dataset[dict[str, Any]]):
    """One item per video, its rows in time order. Nothing is read before an item is asked for.

    An item: ``features`` float32 ``[T, D]``; ``target`` float32 ``[T]`` or None; ``mask`` bool ``[T]``, False where the
    row is bad (its features are set to 0); ``rows`` int64 ``[T]``, the row numbers in the matrix; ``video_id``.
    """

    def __init__(self, features: Source, video_ids: Sequence[str], targets: np.ndarray | None = None) -> None:
        self.features = features
        self.video_ids = list(video_ids)
        self.targets = targets
        self._good = (features.index["status"] != "bad").to_numpy()

    def __len__(self) -> int:
        return len(self.video_ids)

    def __getitem__(self, place: int) -> Item:
        video_id = self.video_ids[place]
        rows = self.features.times_order(video_id)
        values = np.array(self.features.matrix[rows], dtype=np.float32)
        good = self._good[rows]
        values[~good] = 0.0
        return Item(
            features=torch.from_numpy(values),
            target=None if self.targets is None else torch.from_numpy(self.targets[rows].copy()),
            mask=torch.from_numpy(good.copy()),
            rows=torch.from_numpy(rows.astype(np.int64)),
            video_id=video_id,
        )


def pad_collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pad items to the longest: ``features [B, T, D]``, ``target [B, T]`` or None, ``mask [B, T]``, ``lengths [B]``.

    ``mask`` is False on padding and on bad rows alike, where features and target are 0: a loss is to be taken over
    ``mask``. ``rows`` is -1 on padding; ``video_id`` is a list.
    """
    from torch.nn.utils.rnn import pad_sequence

    def padded(name: str, value: float) -> torch.Tensor:
        return pad_sequence([item[name] for item in items], batch_first=True, padding_value=value)

    return {
        "features": padded("features", 0.0),
        "target": None if any(item["target"] is None for item in items) else padded("target", 0.0),
        "mask": padded("mask", False),
        "rows": padded("rows", -1),
        "lengths": torch.tensor([len(item["features"]) for item in items]),
        "video_id": [item["video_id"] for item in items],
    }
