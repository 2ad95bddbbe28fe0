"""Files: written whole or not at all (a temporary name in the same folder, then a rename), and their sha256."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_CHUNK = 4 << 20
#: A video that lies behind an address, and no local file: fetched by a storage plugin.
_REMOTE = ("http://", "https://", "s3://", "gs://", "gcs://", "az://", "ftp://", "sftp://")


def is_remote(path: str) -> bool:
    """Whether ``path`` is an address for a storage plugin and not a local file."""
    return path.lower().startswith(_REMOTE)


_TEMPORARY = ".tmp-"
_RANDOM = 8  # letters that tempfile adds
_LONGEST_NAME = 80  # of the target's name, as much as a temporary name repeats


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it becomes ``path`` when the block ends, and is removed if it fails."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=_TEMPORARY, suffix="-" + target.name[-_LONGEST_NAME:], dir=target.parent
    )
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def remove_half_made(folder: Path, names: Iterable[str]) -> None:
    """Remove from ``folder`` what killed processes left of files of these names. Nobody may be writing them."""
    if not folder.is_dir():
        return
    ends = {"-" + name[-_LONGEST_NAME:] for name in names}
    for entry in os.scandir(folder):
        if entry.name.startswith(_TEMPORARY) and entry.name[len(_TEMPORARY) + _RANDOM :] in ends:
            with suppress(FileNotFoundError):
                os.unlink(entry)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_json(path: str | os.PathLike[str], value: Any, indent: int | None = None) -> None:
    """Write ``value`` as UTF-8 JSON, atomically; NaN is refused (JSON has none: use null).

    What is no UTF-8 in a file's name is written as JSON's own escape, and read back as it was.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: str | os.PathLike[str]) -> Any:
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)


Stamp = tuple[int, int]
"""Size in bytes and time of the last change in nanoseconds: what tells that a file was replaced, nearly always."""


def file_stamp(found: os.stat_result) -> Stamp:
    return found.st_size, found.st_mtime_ns


def file_sha256(path: str | os.PathLike[str]) -> str:
    """sha256 of a file's content, as lower-case hex digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256", _bufsize=_CHUNK).hexdigest()


def remembered_sha256(path: str | os.PathLike[str], memory: Path) -> str:
    """``file_sha256``, computed once: ``memory`` is a small JSON file that remembers it by path, size and time."""
    stamp = list(file_stamp(os.stat(path)))
    name = os.path.abspath(path)
    entry = _remembered(memory).get(name)
    if entry is None or entry["stamp"] != stamp:
        entry = {"stamp": stamp, "sha256": file_sha256(path)}
        write_json(memory, {"files": _remembered(memory) | {name: entry}})
    return entry["sha256"]


def remembered_paths(sha256: str, memory: Path) -> list[Path]:
    """The files that had this content when they were last looked at."""
    return [Path(name) for name, entry in _remembered(memory).items() if entry["sha256"] == sha256]


def _remembered(memory: Path) -> dict[str, Any]:
    try:
        return read_json(memory)["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
