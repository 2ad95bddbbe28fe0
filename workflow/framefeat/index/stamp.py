"""What tells that a collection or a table changed, without a look into the videos: Snakemake's own process asks at each
start."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from framefeat.errors import UserError
from framefeat.files import file_sha256, file_stamp, is_remote
from framefeat.index import folder
from framefeat.settings import Settings


def stat_digest(settings: Settings, results: Path) -> str:
    """A digest of the tables' content and of every video's path, size, modification time and permissions (and inode,
    where videos have size and time in common), so that a replaced file is noticed even where its time is older than
    the results. Reads no video. Where the collection cannot be listed it is the error's
    text: the merge that follows says the same to the user.

    Where the last merge into ``results`` met files that it could not read, its time is part of it: the next run looks
    at them again, since nothing else shows that a disk is back.
    """
    digest = hashlib.sha256(repr(folder.unread_since(results)).encode())
    try:
        if settings.from_folder:
            listing = folder.listing(str(settings.videos))
            named = [("", path) for path in sorted([*listing.videos, *listing.unsure])]
            digest.update(_bytes(repr(listing.left_out)))
        else:
            digest.update(_bytes(contents([str(settings.frame_index), str(settings.video_index)])))
            from framefeat.index.collection import find_videos  # with numpy and pyarrow: 0.1 s of each start

            named = [(video.video_id, video.path) for video in find_videos(settings).videos]
    except UserError as error:
        return hashlib.sha256(_bytes(str(error))).hexdigest()
    found = [_stat(path) for _, path in named]
    shared = Counter(file_stamp(one) for one in found if one)
    for (video_id, path), one in zip(named, found, strict=True):
        told: tuple[int, ...] = (*file_stamp(one), one.st_mode) if one else (-1, -1) * is_remote(path)
        if one and shared[file_stamp(one)] > 1:
            told += (one.st_ino,)
        digest.update(_bytes(repr((video_id, path, *told))))
    return digest.hexdigest()


def merge_options(settings: Settings) -> dict[str, Any]:
    """The keys that a merge obeys; None where one says nothing."""
    folder_only = ("videos", "sample_fps")
    keys = (
        "frame_index",
        "video_index",
        "video_root",
        *folder_only,
        "sample_every",
        "alignment",
        "shard_rows",
    )
    return {
        key: getattr(settings, key) if settings.from_folder or key not in folder_only else None
        for key in keys
    }


def asked_of_merge(settings: Settings, collection: str) -> dict[str, Any]:
    """What makes Snakemake merge again where it differs. ``collection``: of ``stat_digest``."""
    options = {key: None if value is None else str(value) for key, value in merge_options(settings).items()}
    return {"collection": collection, "drop": settings.on_bad_frames == "drop", **options}


def contents(paths: Iterable[str]) -> str:
    """A digest of the files' content, or of why it cannot be had."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(file_sha256(path).encode())
        except (OSError, ValueError) as error:
            digest.update(_bytes(f"{path}: {type(error).__name__}"))
    return digest.hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _stat(path: str) -> os.stat_result | None:
    try:
        return None if is_remote(path) else os.stat(path)
    except (OSError, ValueError):
        return None
