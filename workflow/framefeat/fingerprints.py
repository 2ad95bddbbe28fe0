"""What is known of each video file's content, remembered by path, size and modification time.

The fingerprint is the sha256 of the content: the same figure that ``sha256sum`` prints and that an index may carry.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from framefeat.files import read_json, write_json

SCHEMA = 2
_CHUNK = 4 << 20


def file_sha256(path: str | os.PathLike[str]) -> str:
    """sha256 of a file's content, as lower-case hex digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256", _bufsize=_CHUNK).hexdigest()


def remembered_sha256(path: str | os.PathLike[str], memory: Path) -> str:
    """``file_sha256``, computed once: ``memory`` is a small JSON file that remembers it by path, size and time."""
    found = os.stat(path)
    stamp = [found.st_size, found.st_mtime_ns]
    known = _read(memory)
    entry = known.get(os.path.abspath(path))
    if entry is None or entry["stamp"] != stamp:
        entry = {"stamp": stamp, "sha256": file_sha256(path)}
        _write(memory, _read(memory) | {os.path.abspath(path): entry})
    return entry["sha256"]


def _read(memory: Path) -> dict[str, Any]:
    try:
        stored = read_json(memory)
        return stored["files"] if stored["schema"] == SCHEMA else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write(memory: Path, files: Mapping[str, Any]) -> None:
    write_json(memory, {"schema": SCHEMA, "files": files})


def examine(path: str) -> dict[str, Any]:
    """Read one video: ``{"sha256", "facts", "error"}``; ``facts`` is None and ``error`` a sentence where it is damaged."""
    from framefeat.container import probe

    found = os.stat(path)
    return {"stamp": [found.st_size, found.st_mtime_ns], "sha256": file_sha256(path), **probe(path)}


def examine_all(
    paths: Iterable[str], memory: Path, workers: int, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """``examine`` for every path, in ``workers`` processes; only files that ``memory`` does not know are read.

    A file whose reading kills the process is damaged; it does not harm the others. ``memory`` is updated even when
    the work is interrupted.
    """
    known = _read(memory)
    results: dict[str, dict[str, Any]] = {}
    pending: list[str] = []
    for path in dict.fromkeys(paths):
        found = os.stat(path)
        entry = known.get(path)
        if entry is not None and entry["stamp"] == [found.st_size, found.st_mtime_ns]:
            results[path] = entry
        else:
            pending.append(path)
    if not pending:
        return results
    say(f"reading {len(pending)} new or changed video file(s) of {len(results) + len(pending)}")
    try:
        suspects = _examine_in_pool(pending, results, workers, say)
        for path in suspects:
            results[path] = _examine_alone(path)
    finally:
        # Entries of files that are no longer in the collection are kept: a video that comes back is not read again.
        _write(memory, known | results)
    return results


def _examine_in_pool(
    pending: list[str], results: dict[str, dict[str, Any]], workers: int, say: Callable[[str], None]
) -> list[str]:
    """Fill in ``results``; returns the paths that were left when a worker process died."""
    workers = max(1, min(workers, len(pending)))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(examine, path): path for path in pending}
        try:
            for count, future in enumerate(as_completed(futures), 1):
                results[futures[future]] = future.result()
                if count % 500 == 0:
                    say(f"read {count} of {len(pending)}")
        except BrokenProcessPool:
            return [path for path in pending if path not in results]
    return []


def _examine_alone(path: str) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(examine, path).result()
        except BrokenProcessPool:
            found = os.stat(path)
            return {
                "stamp": [found.st_size, found.st_mtime_ns],
                "sha256": file_sha256(path),
                "facts": None,
                "error": f"{path!r}: reading the container killed the reader; the file is damaged.",
            }
