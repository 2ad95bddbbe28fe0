"""Reading a finished run: the matrix (memory-mapped), its index and its manifest, together and checked against each other."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from framefeat.errors import UserError, complain
from framefeat.files import read_json

if TYPE_CHECKING:
    import pandas as pd

    from framefeat.sequences import SequenceDataset

MANIFEST = "feature_manifest.json"
FRAME_INDEX = "frame_index.parquet"
_NEEDED = ("video_id", "timestamp_sec", "native_idx", "status")


@dataclass(frozen=True, eq=False)
class Features:
    """One backbone's results. Row i of ``matrix`` is row i of ``index``.

    ``folder``: where the files lie; ``matrix``: float32 ``[N, D]``, memory-mapped and read-only; ``index``: the user's
    columns plus ``native_idx, pts_sec, offset_sec, status``; ``manifest``: the parsed ``feature_manifest.json``.
    """

    folder: Path
    matrix_path: Path
    matrix: np.ndarray
    index: "pd.DataFrame"
    manifest: dict[str, Any]

    def __len__(self) -> int:
        return len(self.matrix)

    def __reduce__(self) -> tuple[Any, ...]:
        return load, (self.folder,)  # a worker process maps the file again instead of receiving a copy

    @property
    def dim(self) -> int:
        return int(self.matrix.shape[1])

    @cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        import pandas as pd

        codes, names = pd.factorize(self.index["video_id"].astype(str), sort=False)
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
        return {str(name): order[bounds[i] : bounds[i + 1]] for i, name in enumerate(names)}

    @property
    def video_ids(self) -> list[str]:
        """The videos, in order of first appearance in the frame index."""
        return list(self._rows)

    def rows_of(self, video_id: str) -> np.ndarray:
        """Row numbers of one video, int64, ascending (the order of the frame index)."""
        try:
            return self._rows[str(video_id)]
        except KeyError:
            raise UserError(
                f"{self.folder}: there is no video {video_id!r} among its {len(self._rows)} videos (first: {self.video_ids[:3]}); "
                "check the id against the frame index."
            ) from None

    def features_of(self, video_id: str) -> np.ndarray:
        """Features of one video, float32 ``[T, D]``, in the order of the frame index.

        A view of the file where the video's rows stand together (as they do in most indexes), else a copy.
        """
        rows = self.rows_of(video_id)
        if len(rows) == rows[-1] - rows[0] + 1:
            return self.matrix[rows[0] : rows[-1] + 1]
        return self.matrix[rows]

    def times_order(self, video_id: str) -> np.ndarray:
        """Row numbers of one video sorted by ``timestamp_sec`` (equal times stay in the order of the frame index)."""
        rows = self.rows_of(video_id)
        times = self.index["timestamp_sec"].to_numpy(dtype=float)[rows]
        return rows[np.argsort(times, kind="stable")]

    def sequences(
        self,
        targets: "str | os.PathLike[str] | pd.DataFrame | None" = None,
        split: str | os.PathLike[str] | Sequence[str] | None = None,
        target_column: str | None = None,
    ) -> "SequenceDataset":
        """A ``torch.utils.data.Dataset`` with one item per video, rows in time order.

        ``targets``: a Parquet or CSV file, or a DataFrame, with ``video_id``, ``frame_idx`` and one number per row
        (``target_column`` says which, where there are several); joined on the two keys, every row must be found.
        ``split``: a text file with one video id per line, or a list of ids; None is every video.
        """
        from framefeat.sequences import SequenceDataset

        ids = self.video_ids if split is None else read_split(split, self)
        values = None if targets is None else _join_targets(self, targets, target_column, ids)
        return SequenceDataset(self, ids, values)


def load(path: str | os.PathLike[str]) -> Features:
    """Open ``results/{dataset}/{backbone}`` (or its matrix or manifest) without reading the matrix into memory."""
    import pandas as pd

    folder = Path(path)
    if folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(
            f"{str(path)!r} does not exist; give the folder results/DATASET/BACKBONE of a finished run."
        )
    for name in (MANIFEST, FRAME_INDEX):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder}: there is no {name}; give the folder results/DATASET/BACKBONE of a finished run (or finish the run)."
            )
    manifest = read_json(folder / MANIFEST)
    matrix_path = folder / f"{manifest.get('dataset', '')}_features.npy"
    if not matrix_path.is_file():
        found = sorted(folder.glob("*_features.npy"))
        if len(found) != 1:
            raise UserError(
                f"{folder}: {matrix_path.name} is missing; run the workflow again to assemble it."
            )
        matrix_path = found[0]
    try:
        matrix = np.load(matrix_path, mmap_mode="r")
    except ValueError as error:
        raise UserError(
            f"{matrix_path}: this is not a whole .npy file ({error}); assemble it again."
        ) from error
    index = pd.read_parquet(folder / FRAME_INDEX)
    missing = [name for name in _NEEDED if name not in index.columns]
    if missing:
        raise UserError(
            f"{folder / FRAME_INDEX}: column {', '.join(missing)} is missing; this is not a frame index of a run."
        )
    wanted = (int(manifest["total_frames"]), int(manifest["feature_dim"]))
    if matrix.dtype != np.float32 or matrix.shape != wanted or len(index) != wanted[0]:
        raise UserError(
            f"{folder}: the matrix is {matrix.dtype} {matrix.shape}, the frame index has {len(index)} rows and the manifest says "
            f"float32 {wanted}; the files are of different runs: assemble them again."
        )
    return Features(folder, matrix_path, matrix, index, manifest)


def read_split(split: str | os.PathLike[str] | Sequence[str], features: Features) -> list[str]:
    """The ids of a split, in its order; every id must be among the videos, and only once."""
    if isinstance(split, (str, os.PathLike)):
        path = Path(split)
        if not path.is_file():
            raise UserError(
                f"split: the file {str(path)!r} does not exist; give a text file with one video id per line."
            )
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        source = str(path)
    else:
        lines, source = [str(name) for name in split], "split"
    ids = [line.strip() for line in lines if line.strip()]
    known = set(features.video_ids)
    missing = [repr(name) for name in ids if name not in known]
    if missing:
        raise complain(
            f"{source}: these video ids are not in {features.folder / FRAME_INDEX}:",
            missing,
            "Remove them from the split, or extract features for them.",
        )
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise complain(
            f"{source}: these video ids stand there more than once:",
            [repr(name) for name in twice],
            "Keep one of each.",
        )
    if not ids:
        raise UserError(f"{source}: there is no video id in it; write one per line.")
    return ids


def _join_targets(
    features: Features,
    targets: "str | os.PathLike[str] | pd.DataFrame",
    column: str | None,
    ids: Sequence[str],
) -> np.ndarray:
    """float32 ``[N]``: the target of each matrix row, NaN for the rows of videos that are not in ``ids``."""
    import pandas as pd

    keys = ["video_id", "frame_idx"]
    if isinstance(targets, pd.DataFrame):
        table, source = targets, "targets"
    else:
        table, source = _read_targets(Path(targets)), str(targets)
    missing = [name for name in keys if name not in table.columns]
    if missing:
        raise UserError(
            f"{source}: column {', '.join(missing)} is missing (it has: {', '.join(map(str, table.columns))}); targets are joined on "
            "video_id and frame_idx."
        )
    if "frame_idx" not in features.index.columns:
        raise UserError(
            f"{features.folder / FRAME_INDEX}: there is no column frame_idx to join the targets on; give the frame index that column "
            "(the ordinal of the sample within its video) and run the workflow again."
        )
    others = [str(name) for name in table.columns if name not in keys]
    if column is None and len(others) != 1:
        raise UserError(
            f"{source}: choose the target among the columns {', '.join(others) or '(none)'} with target_column."
        )
    column = others[0] if column is None else column
    if column not in others:
        raise UserError(f"{source}: there is no column {column!r}; it has {', '.join(others)}.")
    table = pd.DataFrame(
        {
            "video_id": table["video_id"].astype(str),
            "frame_idx": pd.to_numeric(table["frame_idx"], errors="coerce"),
            "target": pd.to_numeric(table[column], errors="coerce").astype("float64"),
        }
    )
    doubled = table[table.duplicated(keys)]
    if len(doubled):
        raise complain(
            f"{source}: these rows stand there more than once (video_id, frame_idx):",
            [
                f"{video!r}, {frame}"
                for video, frame in zip(doubled["video_id"], doubled["frame_idx"], strict=True)
            ],
            "Keep one target per row.",
        )
    wanted = pd.DataFrame(
        {
            "video_id": features.index["video_id"].astype(str).to_numpy(),
            "frame_idx": pd.to_numeric(features.index["frame_idx"]).to_numpy(),
        }
    )
    joined = wanted.merge(table, on=keys, how="left", validate="many_to_one")
    values = np.array(joined["target"].to_numpy(dtype=np.float32))
    use = wanted["video_id"].isin(list(ids)).to_numpy()
    values[~use] = np.nan
    lost = np.flatnonzero(use & ~np.isfinite(values))
    if len(lost):
        by_video = wanted.iloc[lost].groupby("video_id", sort=False)["frame_idx"]
        raise complain(
            f"{source}: there is no {column} for these rows of {FRAME_INDEX}:",
            [
                f"{video!r}: {len(group)} rows, the first with frame_idx {group.iloc[0]}"
                for video, group in by_video
            ],
            "Add these targets, or leave the videos out with a split.",
        )
    return values


def _read_targets(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if not path.is_file():
        raise UserError(f"targets: the file {str(path)!r} does not exist.")
    if path.suffix.lower() in (".parquet", ".pq"):
        return pd.read_parquet(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        return pd.read_csv(path, sep=separator, dtype={"video_id": str}, keep_default_na=False)
    raise UserError(
        f"targets: {str(path)!r} is neither .parquet nor .csv nor .tsv; convert it to one of these."
    )


def pad_collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pad a list of sequence items to the longest of them; see ``framefeat.sequences.pad_collate``."""
    from framefeat.sequences import pad_collate as collate

    return collate(items)
