"""What one sampling job is about: the video's record, checked against the merge and the file that was fetched."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framefeat.errors import UserError
from framefeat.files import file_sha256, read_json
from framefeat.records import VideoRecord


def read_record(video: Path, slice_path: Path | None = None, fetched: Path | None = None) -> VideoRecord:
    """The record that the merge wrote to ``video``.

    ``slice_path``: the video's slice, which the record must agree with; ``fetched``: where the video is, if not where
    the record says. Raises ``UserError`` where they are not of one merge, or the fetched file is not the index's.
    """
    gone = [str(path) for path in (video, slice_path) if path is not None and not path.is_file()]
    if gone:
        raise UserError(f"{', '.join(map(repr, gone))} is gone; run Snakemake with --forcerun merge_index.")
    record: VideoRecord = read_json(video)
    if slice_path is not None:
        wanted: Mapping[str, Any] = read_json(slice_path)
        differing = [name for name, value in wanted.items() if record.get(name) != value]
        if differing:
            raise UserError(
                f"{str(video)!r} and {str(slice_path)!r} differ in {', '.join(differing)}: they are not of "
                "one merge; run Snakemake with --forcerun merge_index."
            )
    if fetched is not None:
        record["path"] = os.path.abspath(fetched)  # FFmpeg takes what stands before a colon for a protocol
        _check_fetched(record)
    return record


def _check_fetched(record: VideoRecord) -> None:
    """A file fetched for this job is what the index's column sha256 says, where it says anything."""
    wanted = record["fingerprint"]
    if not wanted.startswith("address:") and (found := file_sha256(record["path"])) != wanted:
        raise UserError(
            f"{record['video_id']!r}: the index says sha256 {wanted}, but {record['path']!r} has {found}; fetch it again."
        )
