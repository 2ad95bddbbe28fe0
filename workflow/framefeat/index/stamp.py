"""What tells that a collection changed, without a look into its videos: Snakemake's own process asks at each start."""

import hashlib
import os
from pathlib import Path

from framefeat.errors import UserError
from framefeat.files import is_remote
from framefeat.index import folder
from framefeat.settings import Settings


def stat_digest(settings: Settings, results: Path) -> str:
    """A digest of every video's path, size, modification time and permissions, so that a replaced file is noticed even
    where its time is older than the results. Reads no video. Where the collection cannot be listed it is the error's
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
            from framefeat.index.collection import find_videos  # with numpy and pyarrow: 0.1 s of each start

            named = [(video.video_id, video.path) for video in find_videos(settings).videos]
    except UserError as error:
        return hashlib.sha256(_bytes(str(error))).hexdigest()
    for video_id, path in named:
        digest.update(_bytes(repr((video_id, path, *_stat(path)))))
    return digest.hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _stat(path: str) -> tuple[int, ...]:
    if is_remote(path):
        return (-1, -1)
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ()
    return (found.st_size, found.st_mtime_ns, found.st_mode)
