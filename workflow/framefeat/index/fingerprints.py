"""What is known of each video file's content, remembered by path, size and modification time; by inode, too, where
several files have size and time in common (and could have changed places).

The fingerprint is the sha256 of the content: the same figure that ``sha256sum`` prints and that an index may carry.
"""

import json
import os
import stat
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from framefeat.errors import machine_trouble
from framefeat.files import file_sha256, file_stamp, read_json, write_json
from framefeat.words import many

SCHEMA = 3


def _read(memory: Path) -> dict[str, Any]:
    try:
        stored = read_json(memory)
        return stored["files"] if stored["schema"] == SCHEMA else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write(memory: Path, files: Mapping[str, Any]) -> None:
    write_json(memory, {"schema": SCHEMA, "files": files})


def examine(path: str, unsure: bool = False, **asked: int) -> dict[str, Any]:
    """Read one video: ``{"stamp", "sha256", "facts", "error", "no_video"}``. Raises for the machine's trouble alone.

    ``facts`` is None and ``error`` a sentence where it is damaged. ``unsure``: its name does not tell that it is a
    video; ``no_video`` says why it is none, and None where it is one. ``stamp`` is None where the finding may not last
    (the file could not be read, or something unforeseen happened): it is then not remembered. ``sha256`` is None where
    the content could not be read at all. ``asked``: of ``container.probe``.
    """
    entry: dict[str, Any] = {"stamp": None, "sha256": None, "facts": None, "error": None, "no_video": None}
    try:
        from framefeat.index import folder
        from framefeat.video import container

        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return entry | {"error": f"{path!r}: a video file was expected, found {folder.kind_of(path)}."}
        stamp = _stamp(found)
        if unsure and folder.why_no_video(path) and (why := folder.why_no_video(path)):
            return entry | {"stamp": stamp, "no_video": why}
        entry["sha256"] = file_sha256(path)
        probed = container.probe(path, **asked)
        if probed["error"]:
            # A share that was gone for a moment looks like a damaged file; what is wrong twice is the file's.
            entry["sha256"] = file_sha256(path)
            probed = container.probe(path, **asked)
        json.dumps(probed, allow_nan=False)
        return entry | probed | {"stamp": stamp}
    except Exception as error:
        if trouble := machine_trouble(error):
            raise trouble from None
        if isinstance(error, OSError):
            told = error.strerror or error
            return entry | {
                "error": f"{path!r}: the file cannot be read ({told}); make it readable and run again."
            }
        print(f"{path!r}:", file=sys.stderr)
        traceback.print_exc()
        return entry | {"error": unforeseen(path, error)}


def unforeseen(path: str, error: Exception) -> str:
    """The sentence for an error that nobody foresaw; its trace belongs in the log."""
    return (
        f"{path!r}: something unforeseen went wrong with this file ({type(error).__name__}: {error}); the log has the "
        "trace: take the file out, or make it anew with another program."
    )


def examine_all(
    paths: Iterable[str],
    memory: Path,
    workers: int,
    say: Callable[[str], None],
    unsure: Collection[str] = frozenset(),
    every: int | None = None,
) -> dict[str, dict[str, Any]]:
    """``examine`` for every path, in ``workers`` processes; only files that ``memory`` does not know are read.

    ``unsure``: those of ``paths`` whose names do not tell that they are videos. A file whose reading kills the process
    is damaged; it does not harm the others. ``memory`` is updated even when the work is interrupted. ``every``: see
    ``container.probe``; files whose times are known of another number are read again.
    """
    known = _read(memory)
    asked = {} if every is None else {"every": every}
    results: dict[str, dict[str, Any]] = {}
    pending: list[str] = []
    stamps = {path: _stamp_now(path) for path in paths}
    shared = Counter(tuple(stamp[:2]) for stamp in stamps.values() if stamp)
    for path, stamp in stamps.items():
        entry = known.get(_key(path))
        if (
            entry is not None
            and stamp is not None
            and entry["stamp"][:2] == stamp[:2]
            and (shared[tuple(stamp[:2])] == 1 or entry["stamp"] == stamp)
            and (not entry["no_video"] or path in unsure)
            and (every is None or entry["facts"] is None or entry.get("sampled", {}).get("every") == every)
        ):
            results[path] = entry
        else:
            pending.append(path)
    if not pending:
        return results
    say(f"reading {many(len(pending), 'new or changed video file')} of {len(results) + len(pending)}")
    unsure = frozenset(unsure)
    try:
        while pending:
            pending = _examine_in_pool(pending, unsure, results, workers, say, **asked)
            # One of those that were in work killed the pool: the first that are left, in the order of their start.
            suspects, pending = pending[: 2 * workers + 1], pending[2 * workers + 1 :]
            for path in suspects:
                results[path] = _examine_alone(path, path in unsure, **asked)
    finally:
        # Entries of files that are no longer in the collection are kept: a video that comes back is not read again.
        lasting = {_key(path): entry for path, entry in results.items() if entry["stamp"] is not None}
        _write(memory, known | lasting)
    return results


def _key(path: str) -> str:
    """How ``memory`` calls a file: from the working folder where it lies below, so that both can be moved together."""
    return path.removeprefix(os.path.join(os.getcwd(), ""))


def _stamp(found: os.stat_result) -> list[int]:
    return [*file_stamp(found), found.st_ino]


def _stamp_now(path: str) -> list[int] | None:
    try:
        return _stamp(os.stat(path))
    except OSError:
        return None


def _examine_in_pool(
    pending: list[str],
    unsure: Collection[str],
    results: dict[str, dict[str, Any]],
    workers: int,
    say: Callable[[str], None],
    **asked: int,
) -> list[str]:
    """Fill in ``results``; returns the paths that were left when a worker process died."""
    workers = max(1, min(workers, len(pending)))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(examine, path, path in unsure, **asked): path for path in pending}
        try:
            for count, future in enumerate(as_completed(futures), 1):
                results[futures[future]] = future.result()
                if count % 500 == 0:
                    say(f"read {count} of {len(pending)}")
        except BrokenProcessPool:
            return [path for path in pending if path not in results]
    return []


def _examine_alone(path: str, unsure: bool, **asked: int) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(examine, path, unsure, **asked).result()
        except BrokenProcessPool:
            # Not remembered: a lack of memory kills as well, and the next merge may have more.
            entry: dict[str, Any] = {"stamp": None, "sha256": None, "facts": None, "no_video": None}
            with suppress(OSError):
                entry["sha256"] = file_sha256(path)
            return entry | {
                "error": f"{path!r}: reading the container killed the reader; the file is damaged."
            }
