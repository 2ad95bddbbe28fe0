"""Parquet files, read so that a damaged one is said to be so: pyarrow raises what its libraries happen to raise."""

from pathlib import Path
from typing import TYPE_CHECKING

from framefeat.errors import UserError, first_line

if TYPE_CHECKING:
    import pyarrow as pa


def read_parquet(path: Path, columns: list[str] | None = None, *, advice: str) -> "pa.Table":
    """The table, or ``columns`` of it. Raises ``UserError`` with ``advice`` where it is damaged, or has not all of
    them."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            lacking = [name for name in columns or () if name not in names]
            table = None if lacking else file.read(columns)
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the machine's answer, not the content
            raise
        raise not_whole(path, error, advice) from error
    if table is None:
        raise UserError(f"{str(path)!r}: column {', '.join(lacking)} is missing; {advice}")
    return table if columns is None else table.select(columns)


def not_whole(path: Path, error: Exception, advice: str) -> UserError:
    return UserError(f"{str(path)!r} is not a whole Parquet file ({first_line(error)}); {advice}")
