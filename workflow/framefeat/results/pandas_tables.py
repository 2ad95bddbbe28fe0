"""Arrow's tables as pandas has them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


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
