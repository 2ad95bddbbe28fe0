"""Files of videos that are no longer in the index, and so in no matrix: listed, and deleted on demand."""

from dataclasses import dataclass
from pathlib import Path

from framefeat.errors import UserError
from framefeat.layout import ResultsFolder


@dataclass(frozen=True)
class Stale:
    """One file, the video key it belongs to, and its size in bytes."""

    path: Path
    key: str
    size: int


def find(results: Path) -> list[Stale]:
    """Every per-video file of ``results`` (results/{dataset}) whose video has no slice, by path."""
    folder = ResultsFolder(results)
    if not folder.slices.is_dir():
        raise UserError(
            f"{str(results)!r} holds no slices: it is no results/{{dataset}} folder, or no run was made yet."
        )
    keys = set(folder.video_keys())
    return [
        Stale(path, key, path.stat().st_size) for key, path in folder.files_of_videos() if key not in keys
    ]


def run(results: Path, delete: bool) -> None:
    files = find(results)
    for file in files:
        print(file.path)
    total = sum(file.size for file in files)
    videos = len({file.key for file in files})
    if not files:
        print("nothing is stale")
        return
    if delete:
        for file in files:
            file.path.unlink(missing_ok=True)
        print(f"deleted {len(files)} files of {videos} removed videos ({total / 1e6:.1f} MB)")
    else:
        print(f"{len(files)} files of {videos} removed videos ({total / 1e6:.1f} MB); --delete removes them")
