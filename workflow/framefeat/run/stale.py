"""Files of videos that are no longer in the index, and of shards that are no more, their jobs' logs and benchmarks too:
listed, and deleted on demand."""

from dataclasses import dataclass
from pathlib import Path

from framefeat.errors import UserError
from framefeat.layout import ResultsFolder, jobs_beside
from framefeat.parquet import read_parquet
from framefeat.shard_files import MERGE_AGAIN, Merged
from framefeat.words import many


@dataclass(frozen=True)
class Stale:
    """One file, the ``video`` or ``shard`` (``kind``) that it belongs to, by its name, and its size in bytes."""

    path: Path
    kind: str
    name: str
    size: int


def find(results: Path) -> list[Stale]:
    """Every file of ``results`` (results/{dataset}) of a video or a shard that the last merge does not know, and what
    that shard's jobs left beside it."""
    folder = ResultsFolder(results)
    if not folder.shards.is_dir():
        raise UserError(
            f"{str(results)!r} holds no shards: it is no results/{{dataset}} folder, or no run was made yet."
        )
    slices = Merged(folder).slices
    if not folder.index.is_file() or _videos_of(folder.index) != {
        each["video_id"] for each in slices.values()
    }:
        raise UserError(
            f"{str(folder.index)!r} is not there or not of the videos in {str(folder.shards)!r}: a merge did not end, or is at "
            "work. What is stale is not known before the next one; run Snakemake with --forcerun merge_index."
        )
    known = {"video": set(slices), "shard": set(folder.shard_names())}
    jobs = jobs_beside(folder)
    found = [("video", folder.files_of_videos()), ("shard", folder.files_of_shards())]
    if jobs is not None:
        found.append(("shard", jobs.files_of_shards()))
    return [
        Stale(path, kind, name, path.stat().st_size)
        for kind, files in found
        for name, path in files
        if name not in known[kind]
    ]


def _videos_of(index: Path) -> set[str]:
    import pyarrow.compute as pc

    column = read_parquet(index, ["video_id"], advice=MERGE_AGAIN).column("video_id")
    return set(map(str, pc.unique(column).to_pylist()))


def _whose(files: list[Stale]) -> str:
    """``of 2 videos no longer in the index and of 1 earlier shard``."""
    videos = {file.name for file in files if file.kind == "video"}
    # A shard of one video is called as the video is.
    shards = {file.name for file in files if file.kind == "shard"} - videos
    told = [f"of {many(len(videos), 'video')} no longer in the index"] * bool(videos)
    told += [f"of {many(len(shards), 'earlier shard')}"] * bool(shards)
    return " and ".join(told)


def run(results: Path, delete: bool) -> None:
    files = find(results)
    for file in files:
        print(file.path)
    if not files:
        print("nothing is stale")
        return
    size = sum(file.size for file in files) / 1e6
    told = f"{many(len(files), 'file')} {_whose(files)} ({size:.1f} MB)"
    if delete:
        for file in files:
            file.path.unlink(missing_ok=True)
        print(f"deleted {told}")
    else:
        print(f"{told}; --delete removes them")
