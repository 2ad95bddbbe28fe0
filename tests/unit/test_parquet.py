"""Damaged Parquet files: a sentence, whatever pyarrow makes of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from framefeat.errors import UserError
from framefeat.parquet import read_parquet
from framefeat.results.pandas_tables import read_pandas


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "t.parquet"
    rows = {"video_id": [f"v{n % 7}" for n in range(500)], "timestamp_sec": np.arange(500) / 2}
    pd.DataFrame(rows).to_parquet(path)
    return path.read_bytes()


def test_changed_bytes_are_another_table_or_a_sentence(content: bytes, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "t.parquet"
    said = []
    for _ in range(400):
        changed = bytearray(content)
        for place in random.integers(0, len(content), random.integers(1, 6)):
            changed[place] = random.integers(0, 256)
        path.write_bytes(changed[: random.integers(0, len(content))] if random.random() < 0.1 else changed)
        try:
            read_pandas(path, advice="make it again.")
        except UserError as error:
            said.append(str(error))
    assert len(said) > 100
    assert all(one.startswith(f"{str(path)!r} is not a whole Parquet file (") for one in said)
    assert all(one.endswith("); make it again.") for one in said)


def test_what_the_machine_says_is_not_the_content_s(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_parquet(tmp_path / "none", advice="")


def test_columns(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(content)
    table = read_parquet(tmp_path / "t", ["timestamp_sec", "video_id"], advice="")
    assert table.column_names == ["timestamp_sec", "video_id"]
    with pytest.raises(UserError, match=r"column a, b is missing; write them"):
        read_parquet(tmp_path / "t", ["a", "video_id", "b"], advice="write them.")
