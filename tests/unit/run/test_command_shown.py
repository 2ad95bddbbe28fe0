"""The command on the page: as it was typed, without what is nobody else's business."""

import pytest
from framefeat.run.progress import command_shown


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (["--cores", "4", "--config", "videos=my films"], "snakemake --cores 4 --config 'videos=my films'"),
        (["--storage-s3-secret-key", "abc", "-n"], "snakemake --storage-s3-secret-key ... -n"),
        (["--storage-http-password=abc", "--cores=1"], "snakemake --storage-http-password=... --cores=1"),
        (["--keep-going", "all"], "snakemake --keep-going all"),
    ],
)
def test_as_typed_without_secrets(typed: list[str], shown: str) -> None:
    assert command_shown(["/usr/bin/snakemake", *typed]) == shown
