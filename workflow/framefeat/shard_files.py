"""A shard's files, read back and checked: what the merge wrote of its videos, and what its jobs say they did."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from framefeat.errors import UserError
from framefeat.files import read_json, write_json
from framefeat.layout import STORED, ResultsFolder
from framefeat.records import Former, Shard, Slice, VideoRecord, slice_of

MERGE_AGAIN = "run Snakemake with --forcerun merge_index."
_WORK = re.compile(r"^worked on (\d+) of (\d+) videos, (\d+) rows$", re.MULTILINE)


def read_slices(results: ResultsFolder, shard: str) -> dict[str, Slice]:
    """What decides the frames of a shard's videos, by key. Raises ``UserError`` where the file is gone or broken."""
    path = results.shard(shard)
    found: Shard = _read(path)
    if not isinstance(found.get("videos"), dict):
        raise _broken(path)
    return found["videos"]


def read_records(results: ResultsFolder, shard: str) -> dict[str, VideoRecord]:
    """The records of a shard's videos, by key. Raises ``UserError`` where they are not of one merge with its slices."""
    slices = read_slices(results, shard)
    path = results.videos_of(shard)
    records: dict[str, VideoRecord] = _read(path)
    differing = [
        key for key in slices | records if key not in records or slices.get(key) != slice_of(records[key])
    ]
    if differing:
        raise UserError(
            f"{str(path)!r} and {str(results.shard(shard))!r} differ in {', '.join(differing[:5])}: they are not of one "
            f"merge; {MERGE_AGAIN}"
        )
    return records


def read_former(results: ResultsFolder) -> Former:
    """What the merge found of videos that were here under another name. It is a hint: where it is not there or makes no
    sense, it is empty."""
    try:
        found = read_json(results.former)
        return {
            key: {str(other): list(map(str, digests)) for other, digests in others.items()}
            for key, others in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _read(path: Path) -> Any:
    """The members of a JSON file."""
    if not path.is_file():
        raise UserError(f"{str(path)!r} is gone; {MERGE_AGAIN}")
    try:
        found = read_json(path)
    except ValueError:
        raise _broken(path) from None
    if not isinstance(found, dict):
        raise _broken(path)
    return found


def _broken(path: Path) -> UserError:
    return UserError(f"{str(path)!r} is not what a merge writes; {MERGE_AGAIN}")


def drop_empty_promises(results: ResultsFolder) -> None:
    """Remove what says that a shard is done where a file of one of its videos is gone, and the index where a shard is:
    Snakemake looks at nothing else. It would take the shards that are left for all of them, and a matrix of all for an
    old one."""
    if lacks_shards(results):
        results.index.unlink(missing_ok=True)
    for folder in sorted(results.root.glob("sampled/*/")):
        _drop(folder, results.evidence(folder.name, "any").parent)
    for folder in sorted(results.root.glob("*/extracted/")):
        _drop(folder, results.backbone(folder.parent.name).features("any").parent)


def renew_promises_of_no_matrix(results: ResultsFolder) -> None:
    """Change what says that a shard is done where the matrix that is made of it is gone (a job failed, or a person
    removed it). What another rule made of that matrix is not up to date, and only another input tells Snakemake so."""
    for folder in sorted(results.root.glob("*/extracted/")):
        promise = min(folder.glob("*.json"), default=None)
        files = results.backbone(folder.parent.name).assembled_files(results.root.name)
        if promise is not None and not all(path.is_file() for path in files):
            found = read_json(promise)
            write_json(promise, {**found, "renewed": found.get("renewed", 0) + 1})


def lacks_shards(results: ResultsFolder) -> bool:
    """Whether a file of a shard is gone that the last merge wrote."""
    with_records = {path.stem for path in results.videos.glob("*.json") if path.name[0] != "."}
    return set(results.shard_names()) != with_records


def _drop(promises: Path, files: Path) -> None:
    there = {name.removesuffix(STORED) for name in os.listdir(files)} if files.is_dir() else set()
    for path in promises.glob("*.json"):
        try:
            kept = read_json(path)["videos"].keys() <= there
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            kept = False
        if not kept:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Work:
    """What a job did of its shard; the rest lay there already."""

    videos: int
    of: int
    rows: int

    def __str__(self) -> str:
        return f"worked on {self.videos} of {self.of} videos, {self.rows} rows"


def work_in(log: Path) -> Work | None:
    """What a job's log says of its work; None where it says nothing."""
    try:
        found = _WORK.findall(log.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return Work(*map(int, found[-1])) if found else None


class Merged:
    """All videos of the last merge, whichever shards they are in."""

    def __init__(self, results: ResultsFolder) -> None:
        self._results = results
        self._records: tuple[str, Mapping[str, VideoRecord]] = ("", {})

    @cached_property
    def slices(self) -> dict[str, Slice]:
        """By key, sorted."""
        found: dict[str, Slice] = {}
        for shard in self._results.shard_names():
            found |= read_slices(self._results, shard)
        return dict(sorted(found.items()))

    @cached_property
    def shard_of(self) -> dict[str, str]:
        return {
            key: shard for shard in self._results.shard_names() for key in read_slices(self._results, shard)
        }

    def record(self, key: str) -> VideoRecord:
        """A video's record. Raises ``UserError`` where it has none."""
        shard = self.shard_of.get(key)
        if shard is None:
            raise UserError(f"{str(self._results.videos)!r} knows no video {key!r}; {MERGE_AGAIN}")
        if self._records[0] != shard:  # neighbours in the index are often neighbours in a shard
            self._records = shard, read_records(self._results, shard)
        return self._records[1][key]
