"""Which videos a split names, and the target of each row: read, joined and checked against a run's frame index."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from framefeat.errors import UserError, complain
from framefeat.results.pandas_tables import read_pandas, to_pandas
from framefeat.words import many

if TYPE_CHECKING:
    import pandas as pd

_KEYS = ["video_id", "frame_idx"]


def read_split(
    split: str | os.PathLike[str] | Sequence[str], video_ids: Sequence[str], index_path: Path
) -> list[str]:
    """The ids of a split, in its order; every id must be among ``video_ids`` (those of the index), and only once."""
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
    elif isinstance(split, bytes) or not isinstance(split, Iterable):
        raise UserError(
            f"split: {type(split).__name__} is neither a list of video ids nor a text file with one per line."
        )
    else:
        lines, source = [str(name) for name in split], "split"
    ids = [line.strip() for line in lines if line.strip()]
    known = set(video_ids)
    missing = [repr(name) for name in ids if name not in known]
    if missing:
        raise complain(
            f"{source}: these video ids are not in {index_path}:",
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


def read_targets(
    targets: Any, column: str | None, ids: Sequence[str], index: "pd.DataFrame", index_path: Path
) -> np.ndarray:
    """float32 ``[N]``: the target of each row of the matrix, NaN for the rows of videos that are not in ``ids``.

    ``targets`` and ``column``: see ``Features.sequences``. ``index``: the frame index of the run, which lies at
    ``index_path``. Raises ``UserError`` where a row of a video in ``ids`` has no finite target.
    """
    if isinstance(targets, np.ndarray) and targets.dtype.names is None:
        return _in_rows_order(targets, ids, index)
    if isinstance(targets, (str, os.PathLike)):
        table, source = _read_file(Path(targets)), str(targets)
    else:
        table, source = _as_pandas(targets), "targets"
    table = table.set_axis([str(name) for name in table.columns], axis=1)
    column = _target_column(table, source, column)
    if "frame_idx" not in index.columns:
        raise UserError(
            f"{index_path}: there is no column frame_idx to join the targets on; give the frame index that column "
            "(the ordinal of the sample within its video) and run the workflow again."
        )
    return _joined(_one_per_row(table, source, column), source, column, ids, index)


def _target_column(table: "pd.DataFrame", source: str, column: str | None) -> str:
    """The column of ``table`` that holds the targets: ``column``, or the only one beside the keys."""
    missing = [name for name in _KEYS if name not in table.columns]
    if missing:
        raise UserError(
            f"{source}: column {', '.join(missing)} is missing (it has: {', '.join(map(str, table.columns))}); targets are joined on "
            "video_id and frame_idx."
        )
    if doubled := sorted(set(table.columns[table.columns.duplicated()])):
        raise UserError(f"{source}: several columns are named {', '.join(doubled)}; rename them.")
    others = [name for name in table.columns if name not in _KEYS]
    if column is None and len(others) != 1:
        raise UserError(
            f"{source}: choose the target among the columns {', '.join(others) or '(none)'} with target_column."
        )
    column = others[0] if column is None else column
    if column not in others:
        raise UserError(f"{source}: there is no column {column!r}; it has {', '.join(others)}.")
    return column


def _one_per_row(table: "pd.DataFrame", source: str, column: str) -> "pd.DataFrame":
    """``video_id`` (str), ``frame_idx`` and ``target`` (float64), each key once."""
    import pandas as pd

    table = pd.DataFrame(
        {
            "video_id": table["video_id"].astype(str),
            "frame_idx": _ordinals(table["frame_idx"], source),
            "target": _numbers(table[column], source, column),
        }
    )
    table = table[
        table["frame_idx"].notna()
    ]  # what names no row would be joined with each that has no number
    doubled = table[table.duplicated(_KEYS)]
    if len(doubled):
        raise complain(
            f"{source}: these rows stand there more than once (video_id, frame_idx):",
            [
                f"{video!r}, {frame:g}"
                for video, frame in zip(doubled["video_id"], doubled["frame_idx"], strict=True)
            ],
            "Keep one target per row.",
        )
    return table


def _numbers(values: "pd.Series", source: str, column: str) -> "pd.Series":
    """float64, NaN where there is no number. Raises ``UserError`` for a column of something else."""
    import pandas as pd

    try:
        if getattr(values.dtype, "kind", "O") in "mMc":
            raise TypeError
        found = pd.to_numeric(values, errors="coerce")
        if getattr(found.dtype, "kind", "f") not in "fiub":
            raise TypeError
        return found.astype("float64")
    except (TypeError, ValueError):
        raise UserError(f"{source}: column {column} holds {values.dtype}, not numbers.") from None


def _ordinals(values: "pd.Series", source: str) -> "pd.Series":
    """float64: the samples' numbers, NaN where there is none. Raises ``UserError`` where text is no number."""
    found = _numbers(values, source, "frame_idx")
    wrong = values[found.isna() & values.notna()]
    if len(wrong):
        raise UserError(
            f"{source}: column frame_idx holds what is no number in {many(len(wrong), 'row')}, the first {wrong.iloc[0]!r}; it is "
            "the ordinal of the sample within its video."
        )
    return found


def _joined(
    table: "pd.DataFrame", source: str, column: str, ids: Sequence[str], index: "pd.DataFrame"
) -> np.ndarray:
    """The targets of ``table`` in the order of the matrix."""
    import pandas as pd

    wanted = pd.DataFrame(
        {
            "video_id": index["video_id"].astype(str).to_numpy(),
            "frame_idx": _ordinals(index["frame_idx"], "frame_index.parquet").to_numpy(),
        }
    )
    joined = wanted.merge(table, on=_KEYS, how="left", validate="many_to_one")
    values = np.array(joined["target"].to_numpy(dtype=np.float32))
    use = wanted["video_id"].isin(list(ids)).to_numpy()
    values[~use] = np.nan
    lost = np.flatnonzero(use & ~np.isfinite(values))
    if len(lost):
        by_video = wanted.iloc[lost].groupby("video_id", sort=False)["frame_idx"]
        raise complain(
            f"{source}: there is no {column} for these rows of frame_index.parquet:",
            [
                f"{video!r}: {many(len(group), 'row')}, the first with frame_idx {group.iloc[0]:g}"
                for video, group in by_video
            ],
            "Add these targets, or leave the videos out with a split.",
        )
    return values


def _in_rows_order(targets: np.ndarray, ids: Sequence[str], index: "pd.DataFrame") -> np.ndarray:
    """Targets that stand in the order of the matrix."""
    if targets.shape != (len(index),) or targets.dtype.kind not in "fiub":
        raise UserError(
            f"targets: the array is {targets.dtype} {list(targets.shape)}, the matrix has {len(index)} rows; give one number for each row, "
            "or a table with video_id and frame_idx."
        )
    # A number that is masked is none.
    values = np.ma.filled(targets.astype(np.float32), np.nan)
    use = index["video_id"].astype(str).isin(list(ids)).to_numpy()
    values[~use] = np.nan
    lost = np.flatnonzero(use & ~np.isfinite(values))
    if len(lost):
        raise UserError(
            f"targets: {many(len(lost), 'row')} without a finite number, the first of them row {lost[0]} ({index['video_id'].iloc[lost[0]]!r}). "
            "Add these targets, or leave the videos out with a split."
        )
    return values


def _as_pandas(targets: Any) -> "pd.DataFrame":
    """A table of another library as pandas has it; these libraries need not be installed."""
    import pandas as pd

    if isinstance(targets, pd.DataFrame):
        return targets
    if isinstance(targets, np.ndarray):
        # bytes would be compared with text and never be equal
        columns = {name: targets[name] for name in targets.dtype.names or ()}
        if odd := [name for name, part in columns.items() if part.ndim != 1]:
            raise UserError(
                f"targets: the fields {', '.join(odd)} of the array have {columns[odd[0]].ndim} dimensions; give one row each."
            )
        try:
            return pd.DataFrame(
                {
                    name: np.char.decode(part, "utf-8") if part.dtype.kind == "S" else part
                    for name, part in columns.items()
                }
            )
        except UnicodeDecodeError as error:
            raise UserError(f"targets: the array holds text that is not UTF-8 ({error}).") from None
    if hasattr(targets, "collect"):
        targets = targets.collect()  # polars' lazy tables
    import pyarrow as pa

    if isinstance(targets, pa.Table):
        return to_pandas(targets)
    table = targets.to_pandas() if hasattr(targets, "to_pandas") else None
    if not isinstance(table, pd.DataFrame):  # a single column, as a rule
        raise UserError(
            f"targets: {type(targets).__name__} is no table; give a Parquet, CSV or TSV file, a table of pandas, polars or pyarrow with "
            "video_id and frame_idx, or a numpy array with one number for each row of the matrix."
        )
    return table


def _read_file(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if not path.is_file():
        raise UserError(f"targets: the file {str(path)!r} does not exist.")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return read_pandas(path, advice="write it again, or give the table itself.")
        if path.suffix.lower() in (".csv", ".tsv"):
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            return pd.read_csv(path, sep=separator, dtype={"video_id": str}, keep_default_na=False)
    except UserError as error:
        raise UserError(f"targets: {error}") from error
    except ValueError as error:  # also what the CSV parser raises
        raise UserError(f"targets: {str(path)!r} is not a whole {path.suffix} file ({error}).") from error
    raise UserError(
        f"targets: {str(path)!r} is neither .parquet nor .csv nor .tsv; convert it to one of these."
    )
