"""Reading a finished run: matrix (memory-mapped), index and manifest, checked against each other."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from framefeat.errors import UserError
from framefeat.layout import FRAME_INDEX, MANIFEST, ResultsFolder
from framefeat.records import Manifest
from framefeat.results.finished import ASSEMBLE_AGAIN, FinishedRun
from framefeat.results.pandas_tables import read_pandas
from framefeat.words import many

if TYPE_CHECKING:
    import pandas as pd

    from framefeat.results.sequences import SequenceDataset

_NEEDED = ("video_id", "timestamp_sec", "native_idx", "status")


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """One backbone's results. Row i of ``matrix`` is row i of ``index``.

    ``matrix``: float32 ``[N, D]``, memory-mapped and read-only; ``index``: the user's columns plus ``native_idx,
    pts_sec, offset_sec, status``; ``manifest``: the parsed ``feature_manifest.json``. The paths are absolute, so that
    they hold after a change of directory and in another process.
    """

    matrix_path: Path
    index_path: Path
    manifest_path: Path
    matrix: np.ndarray
    index: "pd.DataFrame"
    manifest: Manifest

    def __len__(self) -> int:
        return len(self.matrix)

    def __repr__(self) -> str:
        rows, dim = self.matrix.shape
        return f"<framefeat.Features {str(self.folder)!r}: {rows} rows x {dim}, {many(len(self.video_ids), 'video')}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # another process maps the file again instead of receiving a copy
        return _load_parts, (self.matrix_path, self.index_path, self.manifest_path)

    @property
    def folder(self) -> Path:
        """Where the matrix lies."""
        return self.matrix_path.parent

    @property
    def files(self) -> tuple[Path, Path, Path]:
        return self.matrix_path, self.index_path, self.manifest_path

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
        targets: Any = None,
        split: str | os.PathLike[str] | Sequence[str] | None = None,
        target_column: str | None = None,
    ) -> "SequenceDataset":
        """A ``torch.utils.data.Dataset`` with one item per video, rows in time order.

        ``targets``: a Parquet or CSV file, a table of pandas, polars or pyarrow, or a structured numpy array, with
        ``video_id``, ``frame_idx`` and one number per row (``target_column`` says which, where there are several);
        joined on the two keys, every row must be found. Or a numpy array with one number for each row of the matrix, in
        its order. ``split``: a text file with one video id per line, or a list of ids; None is every video.
        """
        from framefeat.results.sequences import SequenceDataset
        from framefeat.results.targets import read_split, read_targets

        ids = self.video_ids if split is None else read_split(split, self.video_ids, self.index_path)
        values = None
        if targets is not None:
            values = read_targets(targets, target_column, ids, self.index, self.index_path)
        return SequenceDataset(self, ids, values)


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    matrix: str | os.PathLike[str] | None = None,
    index: str | os.PathLike[str] | None = None,
    manifest: str | os.PathLike[str] | None = None,
) -> Features:
    """Open ``results/{dataset}/{backbone}`` (or its matrix or manifest) without reading the matrix into memory. Where a
    data set has one backbone alone, ``results/{dataset}`` will do.

    ``matrix``, ``index`` and ``manifest`` name files that lie elsewhere; with all three no folder is needed.
    """
    parts = {"matrix": matrix, "index": index, "manifest": manifest}
    lacking = [name for name, part in parts.items() if part is None]
    if path is None and lacking:
        raise UserError(
            f"load: give the folder results/DATASET/BACKBONE of a finished run, or all of matrix, index and manifest ({', '.join(lacking)} "
            "is missing)."
        )
    for name, part in {"path": path, **parts}.items():
        if not isinstance(part, str | os.PathLike | None):
            raise UserError(
                f"load: {name} is to be the path of a file or folder, not of type {type(part).__name__}."
            )
    for name, part in parts.items():
        if part is not None and not Path(part).is_file():
            raise UserError(f"load: {name}: the file {str(part)!r} does not exist.")
    folder = Path() if path is None else _folder(Path(path))
    named = (None if part is None else Path(part).absolute() for part in (matrix, index, manifest))
    whole = (
        folder.resolve() if ".." in folder.parts else folder.absolute()
    )  # the folder's name names the backbone
    return _open(FinishedRun.of(whole, *named))


def _folder(path: Path) -> Path:
    if path.is_file() and path.name not in (MANIFEST, FRAME_INDEX) and path.suffix != ".npy":
        raise UserError(f"{str(path)!r} is no folder of results, and none of the files of a matrix.")
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise UserError(
            f"{str(path)!r} does not exist; give the folder results/DATASET/BACKBONE of a finished run."
        )
    within = [] if (folder / MANIFEST).is_file() else ResultsFolder(folder).assembled()
    if len(within) > 1:
        raise UserError(
            f"{str(path)!r} has the results of several backbones: give one of the folders "
            f"{', '.join(repr(str(one.root)) for one in within)}."
        )
    return within[0].root if within else folder


def _load_parts(matrix_path: Path, index_path: Path, manifest_path: Path) -> Features:
    return _open(FinishedRun.of(matrix_path.parent, matrix_path, index_path, manifest_path))


def _open(run: FinishedRun) -> Features:
    matrix = run.map_matrix()
    index = read_pandas(run.index_path, advice=ASSEMBLE_AGAIN)
    missing = [name for name in _NEEDED if name not in index.columns]
    if missing:
        raise UserError(
            f"{run.index_path}: column {', '.join(missing)} is missing; this is not a frame index of a run."
        )
    run.check(matrix, len(index))
    return Features(run.matrix_path, run.index_path, run.manifest_path, matrix, index, run.manifest)
