"""Arrow's tables as pandas has them."""

from pathlib import Path
from typing import TYPE_CHECKING

from framefeat.errors import UserError
from framefeat.parquet import not_whole, read_parquet

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def read_pandas(path: Path, *, advice: str) -> "pd.DataFrame":
    """A Parquet file. Raises ``UserError`` with ``advice`` where it is damaged."""
    try:
        return to_pandas(read_parquet(path, advice=advice))
    except (UserError, MemoryError, OSError):
        raise
    except Exception as error:  # what it says of itself to pandas is damaged
        raise not_whole(path, error, advice) from error


def to_pandas(table: "pa.Table") -> "pd.DataFrame":
    """A column that pandas has no type for (times of day in nanoseconds) keeps that of Arrow."""
    import pandas as pd
    import pyarrow as pa

    def series(name: str) -> "pd.Series":
        column = table.column(name)
        try:
            return column.to_pandas()
        except pa.ArrowException:
            return pd.Series(pd.arrays.ArrowExtensionArray(column), copy=False)

    try:
        return table.to_pandas()
    except pa.ArrowException:
        return pd.DataFrame({name: series(name) for name in table.column_names}, copy=False)
