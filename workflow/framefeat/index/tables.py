"""The two input tables: the frame index (rows wanted) and the video index (files)."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from framefeat.errors import UserError, complain

#: What the results add to the frame index; a user's column of that name would be lost, so it is refused.
RESULT_COLUMNS = ("native_idx", "pts_sec", "offset_sec", "status")
#: What the merged index adds.
MERGED_COLUMNS = ("__video_key", "__slice_row")


def read_table(path: str | os.PathLike[str], key: str) -> pa.Table:
    """Read a Parquet, CSV or TSV table as it is; ``video_id`` is text, also ``007``, ``1e5`` and ``NA``.

    ``key`` is the configuration key that named the file, for messages.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise UserError(f"{key}: the file {str(path)!r} does not exist; correct {key} in the configuration.")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = pq.read_table(path)
        elif path.suffix.lower() in (".csv", ".tsv", ".txt"):
            table = pyarrow.csv.read_csv(
                path,
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types={"video_id": pa.string(), "video_path": pa.string(), "sha256": pa.string()}
                ),
            )
        else:
            raise UserError(
                f"{key}: {str(path)!r} is neither .parquet nor .csv nor .tsv; convert it to one of these."
            )
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{key}: {str(path)!r} cannot be read as a table: {error}{_separator_hint(path)}"
        ) from error
    _check_text(table, path, key)
    names = table.column_names
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise complain(f"{key}: {str(path)!r} has columns of the same name:", doubled, "Rename them.")
    return table


def _check_text(table: pa.Table, path: Path, key: str) -> None:
    """Raises ``UserError`` naming the rows of text that is no UTF-8, which Parquet lets pass unread."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowNotImplementedError:
            continue  # of a type that Arrow cannot look into, nor anybody's text
        except pa.ArrowInvalid as error:
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                raise UserError(
                    f"{key}: {str(path)!r}: column {name} ({column.type}) is damaged: {error}; write it anew."
                ) from None
            raw = column.cast(pa.large_binary()).to_pylist()
            wrong = [f"row {row}: {value!r}" for row, value in enumerate(raw) if not _is_utf8(value)]
            raise complain(
                f"{key}: {str(path)!r}: column {name} holds text that is not UTF-8 (rows count from 0):",
                wrong,
                "Write it as UTF-8.",
            ) from None


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def require_columns(table: pa.Table, columns: Sequence[str], path: str, key: str) -> None:
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise UserError(
            f"{key}: {path!r} has no column {', '.join(missing)} (it has: {', '.join(table.column_names)}); "
            f"a table for {key} needs {', '.join(columns)}.{_separator_hint(Path(path))}"
        )


def _separator_hint(path: Path) -> str:
    """What to do about a text table whose first line has other separators than its suffix says."""
    expected = {".csv": ",", ".txt": ",", ".tsv": "\t"}.get(path.suffix.lower())
    if expected is None:
        return ""
    try:
        with path.open("rb") as stream:
            first = stream.readline(10_000).decode("utf-8", "replace")
    except OSError:
        return ""
    names = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
    used = max(names, key=first.count)
    if expected in first or used not in first:
        return ""
    return (
        f" Its columns are separated by {names[used]}, and a {path.suffix} table's must be by {names[expected]}: save it so"
        " (numbers with a point for the decimals)."
    )


def text_column(table: pa.Table, name: str, path: str) -> list[str]:
    """The column as text; integers become their decimal digits. Empty and null cells are refused, all listed."""
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        if not (pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise UserError(f"{path!r}: column {name} holds {kind}, not text; write it as text.")
        column = pc.cast(column, pa.string())
    values = column.to_pylist()
    empty = [f"row {row}" for row, value in enumerate(values) if value is None or value == ""]
    if empty:
        raise complain(
            f"{path!r}: column {name} is empty in (rows count from 0):",
            empty,
            "Fill in or remove these rows.",
        )
    return values


def number_column(table: pa.Table, name: str, path: str) -> np.ndarray:
    """The column as float64; null becomes NaN. What is no number is refused, all listed."""
    column = table.column(name)
    if pa.types.is_boolean(column.type):
        raise UserError(f"{path!r}: column {name} holds {column.type}, not numbers; write plain numbers.")
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    try:
        return np.asarray(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    except pa.ArrowException:
        wrong = [
            f"row {row}: {value!r}" for row, value in enumerate(column.to_pylist()) if not _is_number(value)
        ]
        raise complain(
            f"{path!r}: column {name} holds {column.type}, and what is no number in (rows count from 0):",
            wrong,
            "Write plain numbers, with a point for the decimals.",
        ) from None


def _is_number(value: object) -> bool:
    try:
        pc.cast(pa.scalar(value), pa.float64())
    except (pa.ArrowException, OverflowError):
        return False
    return True
