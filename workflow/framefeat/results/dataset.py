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
from framefeat.layout import FRAME_INDEX, MANIFEST, BackboneFolder

if TYPE_CHECKING:
    import pandas as pd

    from framefeat.results.sequences import SequenceDataset

_NEEDED = ("video_id", "timestamp_sec", "native_idx", "status")


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """One backbone's results. Row i of ``matrix`` is row i of ``index``.

    ``matrix``: float32 ``[N, D]``, memory-mapped and read-only; ``index``: the user's columns plus ``native_idx, pts_sec,
    offset_sec, status``; ``manifest``: the parsed ``feature_manifest.json``. The paths are absolute, so that they hold after a
    change of directory and in another process.
    """

    matrix_path: Path
    index_path: Path
    manifest_path: Path
    matrix: np.ndarray
    index: "pd.DataFrame"
    manifest: dict[str, Any]

    def __len__(self) -> int:
        return len(self.matrix)

    def __repr__(self) -> str:
        rows, dim = self.matrix.shape
        return f"<framefeat.Features {str(self.folder)!r}: {rows} rows x {dim}, {len(self.video_ids)} videos>"

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

        ``targets``: a Parquet or CSV file, a table of pandas, polars or pyarrow, or a structured numpy array, with ``video_id``,
        ``frame_idx`` and one number per row (``target_column`` says which, where there are several); joined on the two keys, every
        row must be found. Or a numpy array with one number for each row of the matrix, in its order.
        ``split``: a text file with one video id per line, or a list of ids; None is every video.
        """
        from framefeat.results.sequences import SequenceDataset

        ids = self.video_ids if split is None else read_split(split, self)
        values = None if targets is None else _join_targets(self, targets, target_column, ids)
        return SequenceDataset(self, ids, values)


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    matrix: str | os.PathLike[str] | None = None,
    index: str | os.PathLike[str] | None = None,
    manifest: str | os.PathLike[str] | None = None,
) -> Features:
    """Open ``results/{dataset}/{backbone}`` (or its matrix or manifest) without reading the matrix into memory.

    ``matrix``, ``index`` and ``manifest`` name files that lie elsewhere; with all three no folder is needed.
    """
    parts = {"matrix": matrix, "index": index, "manifest": manifest}
    lacking = [name for name, part in parts.items() if part is None]
    if path is None and lacking:
        raise UserError(
            f"load: give the folder results/DATASET/BACKBONE of a finished run, or all of matrix, index and manifest ({', '.join(lacking)} "
            "is missing)."
        )
    for name, part in parts.items():
        if part is not None and not Path(part).is_file():
            raise UserError(f"load: {name}: the file {str(part)!r} does not exist.")
    folder = Path() if path is None else _folder(Path(path))
    index_path = folder / FRAME_INDEX if index is None else Path(index)
    manifest_path = folder / MANIFEST if manifest is None else Path(manifest)
    for file in (manifest_path, index_path):
        if not file.is_file():
            raise UserError(
                f"{folder}: there is no {file.name}; give the folder results/DATASET/BACKBONE of a finished run (or finish the run)."
            )
    matrix_path = _matrix_in(folder, manifest_path) if matrix is None else Path(matrix)
    return _load_parts(matrix_path, index_path, manifest_path)


def _folder(path: Path) -> Path:
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise UserError(
            f"{str(path)!r} does not exist; give the folder results/DATASET/BACKBONE of a finished run."
        )
    return folder


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = read_json(path)
        if {"total_frames", "feature_dim"} <= manifest.keys():
            return dict(manifest)
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: this is not a whole manifest ({error}); assemble it again.") from error
    raise UserError(f"{path}: total_frames or feature_dim is missing; this is not a manifest of a run.")


def _matrix_in(folder: Path, manifest_path: Path) -> Path:
    files = BackboneFolder(folder)
    path = files.matrix(_read_manifest(manifest_path).get("dataset", ""))
    if path.is_file():
        return path
    found = files.matrices()
    if len(found) != 1:
        raise UserError(f"{folder}: {path.name} is missing; run the workflow again to assemble it.")
    return found[0]


def _load_parts(matrix_path: Path, index_path: Path, manifest_path: Path) -> Features:
    import pandas as pd

    matrix_path, index_path, manifest_path = (
        path.absolute() for path in (matrix_path, index_path, manifest_path)
    )
    manifest = _read_manifest(manifest_path)
    try:
        matrix = np.load(matrix_path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise UserError(
            f"{matrix_path}: this is not a whole .npy file ({error}); assemble it again."
        ) from error
    try:
        index = pd.read_parquet(index_path)
    except ValueError as error:  # pyarrow's own errors among them
        raise UserError(
            f"{index_path}: this is not a whole Parquet file ({error}); assemble it again."
        ) from error
    missing = [name for name in _NEEDED if name not in index.columns]
    if missing:
        raise UserError(
            f"{index_path}: column {', '.join(missing)} is missing; this is not a frame index of a run."
        )
    wanted = (int(manifest["total_frames"]), int(manifest["feature_dim"]))
    if matrix.dtype != np.float32 or matrix.shape != wanted or len(index) != wanted[0]:
        raise UserError(
            f"{matrix_path.parent}: the matrix is {matrix.dtype} {matrix.shape}, the frame index has {len(index)} rows and the manifest says "
            f"float32 {wanted}; the files are of different runs: assemble them again."
        )
    return Features(matrix_path, index_path, manifest_path, matrix, index, manifest)


def read_split(split: str | os.PathLike[str] | Sequence[str], features: Features) -> list[str]:
    """The ids of a split, in its order; every id must be among the videos, and only once."""
    if isinstance(split, (str, os.PathLike)):
        path = Path(split)
        if not path.is_file():
            why = "is a folder" if path.is_dir() else "does not exist"
            raise UserError(f"split: {str(path)!r} {why}; give a text file with one video id per line.")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(
                f"split: {str(path)!r} is not text ({error}); give a text file with one video id per line."
            ) from error
        source = str(path)
    else:
        lines, source = [str(name) for name in split], "split"
    ids = [line.strip() for line in lines if line.strip()]
    known = set(features.video_ids)
    missing = [repr(name) for name in ids if name not in known]
    if missing:
        raise complain(
            f"{source}: these video ids are not in {features.index_path}:",
            missing,
            "Remove them from the split, or extract features for them. (A split is text with one video id per line.)",
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


def _join_targets(features: Features, targets: Any, column: str | None, ids: Sequence[str]) -> np.ndarray:
    """float32 ``[N]``: the target of each matrix row, NaN for the rows of videos that are not in ``ids``."""
    import pandas as pd

    keys = ["video_id", "frame_idx"]
    if isinstance(targets, np.ndarray) and targets.dtype.names is None:
        return _row_targets(features, targets, ids)
    if isinstance(targets, (str, os.PathLike)):
        table, source = _read_targets(Path(targets)), str(targets)
    else:
        table, source = _table(targets), "targets"
    missing = [name for name in keys if name not in table.columns]
    if missing:
        raise UserError(
            f"{source}: column {', '.join(missing)} is missing (it has: {', '.join(map(str, table.columns))}); targets are joined on "
            "video_id and frame_idx."
        )
    if "frame_idx" not in features.index.columns:
        raise UserError(
            f"{features.index_path}: there is no column frame_idx to join the targets on; give the frame index that column "
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


def _row_targets(features: Features, targets: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    """Targets that stand in the order of the matrix."""
    if targets.shape != (len(features),) or targets.dtype.kind not in "fiub":
        raise UserError(
            f"targets: the array is {targets.dtype} {list(targets.shape)}, the matrix has {len(features)} rows; give one number for each row, "
            "or a table with video_id and frame_idx."
        )
    values = targets.astype(np.float32)
    use = features.index["video_id"].astype(str).isin(list(ids)).to_numpy()
    values[~use] = np.nan
    lost = np.flatnonzero(use & ~np.isfinite(values))
    if len(lost):
        raise UserError(
            f"targets: {len(lost)} rows have no finite number, the first of them row {lost[0]} ({features.index['video_id'].iloc[lost[0]]!r}). "
            "Add these targets, or leave the videos out with a split."
        )
    return values


def _table(targets: Any) -> "pd.DataFrame":
    """A table of another library as pandas has it; these libraries need not be installed."""
    import pandas as pd

    if isinstance(targets, pd.DataFrame):
        return targets
    if isinstance(targets, np.ndarray):
        # bytes would be compared with text and never be equal
        columns = {name: targets[name] for name in targets.dtype.names or ()}
        return pd.DataFrame(
            {
                name: np.char.decode(part, "utf-8") if part.dtype.kind == "S" else part
                for name, part in columns.items()
            }
        )
    if hasattr(targets, "collect"):
        targets = targets.collect()  # polars' lazy tables
    if not hasattr(targets, "to_pandas"):
        raise UserError(
            f"targets: {type(targets).__name__} is no table; give a Parquet, CSV or TSV file, a table of pandas, polars or pyarrow with "
            "video_id and frame_idx, or a numpy array with one number for each row of the matrix."
        )
    return targets.to_pandas()


def _read_targets(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if not path.is_file():
        raise UserError(f"targets: the file {str(path)!r} does not exist.")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path)
        if path.suffix.lower() in (".csv", ".tsv"):
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            return pd.read_csv(path, sep=separator, dtype={"video_id": str}, keep_default_na=False)
    except ValueError as error:  # also what pyarrow and the CSV parser raise
        raise UserError(f"targets: {str(path)!r} is not a whole {path.suffix} file ({error}).") from error
    raise UserError(
        f"targets: {str(path)!r} is neither .parquet nor .csv nor .tsv; convert it to one of these."
    )


def pad_collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pad a list of sequence items to the longest of them; see ``framefeat.results.sequences.pad_collate``."""
    from framefeat.results.sequences import pad_collate as collate

    return collate(items)
