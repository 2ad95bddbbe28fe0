"""Files of videos that are no longer in the index: they are in no matrix; this lists them, and deletes them on demand."""

from dataclasses import dataclass
from pathlib import Path

from framefeat.errors import UserError

#: Folders of results/{dataset} whose files are named ``{key}.suffix``, where keys may hold dots of their own; ``*`` stands
#: for a geometry or a backbone.
_PER_VIDEO = ("frames/*", "rechecks/*", "evidence/*", "thumbnails/*", "*/features", "*/store")


@dataclass(frozen=True)
class Stale:
    """One file, the video key it belongs to, and its size in bytes."""

    path: Path
    key: str
    size: int


def find(results: Path) -> list[Stale]:
    """Every per-video file of ``results`` (results/{dataset}) whose video has no slice, by path."""
    slices = results / "slices"
    if not slices.is_dir():
        raise UserError(
            f"{str(results)!r} holds no slices: it is no results/{{dataset}} folder, or no run was made yet."
        )
    keys = {path.stem for path in slices.glob("*.json")}
    found = []
    for pattern in _PER_VIDEO:
        for folder in sorted(results.glob(pattern)):
            if not folder.is_dir():
                continue
            for path in sorted(folder.iterdir()):
                key = path.stem
                if path.is_file() and not path.name.startswith(".") and key not in keys:
                    found.append(Stale(path, key, path.stat().st_size))
    return found


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
