"""Where an export may be written: never over what it is made of, over other files only if framefeat wrote them."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import framefeat
from framefeat.errors import UserError, complain
from framefeat.files import read_json, write_json
from framefeat.settings import Settings

WRITER = f"framefeat {framefeat.__version__}"
#: Says what an exported folder holds; without it the folder is nobody's export.
RECORD = "export.json"


def is_framefeats(writer: object) -> bool:
    """Whether a file's or folder's own note of its writer names this program, in whatever version."""
    return isinstance(writer, str) and writer.startswith("framefeat ")


def check_file(
    out: Path,
    inputs: Iterable[Path],
    force: bool,
    record: Mapping[str, Any],
    read_record: Callable[[Path], Mapping[str, Any]],
) -> None:
    """Raise ``UserError`` where ``out`` must not be written. ``record``: what the new file says of itself;
    ``read_record`` reads it of an existing file, and is empty where framefeat did not write that."""
    _refuse_inputs([out], inputs)
    _check_parent(out)
    _refuse_dangling(out)
    if out.is_dir():
        raise UserError(f"{str(out)!r} is a folder; give the name of a file to write.")
    if out.exists() and not out.is_file():
        raise UserError(f"{str(out)!r} is a pipe or a device; give the name of a file to write.")
    if not out.exists() or force:
        return
    there = read_record(out)
    if not there:
        raise UserError(
            f"{str(out)!r} exists and framefeat did not write it; give another name, or --force to replace it."
        )
    if others := _differences(there, record):
        raise UserError(
            f"{str(out)!r} is another export ({', '.join(others)}); give another name, or --force to replace it."
        )


def refuse_own_sources(settings: Settings, outs: Sequence[Path]) -> None:
    """Raise ``UserError`` where the target ``export_h5`` would write one of the files ``outs`` over its own source."""
    for key in ("export_segments_from", "export_labels_from"):
        named = getattr(settings, key)
        if named and any(same_file(Path(named), out) for out in outs):
            raise UserError(
                f"{key}: {named!r} is the file that export_h5 writes; copy it to another place and name the copy."
            )


def _check_parent(out: Path) -> None:
    """Raise ``UserError`` where no file or folder can be made there."""
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        what = "no folder" if not parent.is_dir() else "a folder that you may not write to"
        raise UserError(f"{str(out)!r} cannot be written: {str(parent)!r} is {what}; give another place.")


@contextmanager
def new_folder(
    out: Path, inputs: Iterable[Path], force: bool, record: Mapping[str, Any]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield an empty folder to write files into, and ``record`` to add to; when the block ends, the files are moved
    into ``out``.

    ``out`` may be new, empty, or an export that framefeat wrote of the same features in the same layout; files of the
    earlier export are replaced or removed. Each file appears whole. ``out/export.json`` (``record``, and all files by
    name) says ``complete: false`` until the last is there.
    """
    inputs = list(inputs)
    _check_parent(out)
    _refuse_dangling(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{str(out)!r} is a file; give the name of a folder to write.")
    if any(same_file(out, path.parent) for path in inputs):
        raise UserError(f"{str(out)!r} holds the files that this export is made of; give another folder.")
    if not force:
        _refuse_others(out, record)
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".tmp-", dir=parent))
    try:
        note = {"writer": WRITER, **record}
        yield scratch, note
        files = sorted(path.name for path in scratch.iterdir())
        _refuse_inputs([out / name for name in files], inputs)
        out.mkdir(exist_ok=True)
        with _alone_in(out):
            if not force:
                _refuse_others(out, record)  # what another export has put there meanwhile
            _move(scratch, out, files, note, force)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _move(scratch: Path, out: Path, files: Sequence[str], note: Mapping[str, Any], force: bool) -> None:
    """Put ``files`` in the place of those of an earlier export."""
    earlier = _files(_record(out))
    foreign = [repr(str(out / name)) for name in files if name not in earlier and os.path.lexists(out / name)]
    odd = [repr(str(out / name)) for name in files if (out / name).exists() and not (out / name).is_file()]
    if odd:
        raise complain(
            "Files are to be written here, and these are folders, pipes or devices:",
            odd,
            "Give another folder.",
        )
    if foreign and not force:
        raise complain(
            "These files exist and framefeat did not write them:",
            foreign,
            "Give another folder, or --force to replace them.",
        )
    write_json(out / RECORD, {**note, "complete": False, "files": sorted({*earlier, *files})})
    for name in files:
        os.replace(scratch / name, out / name)
    for name in earlier - set(files):
        (out / name).unlink(missing_ok=True)
    write_json(out / RECORD, {**note, "complete": True, "files": files}, indent=1)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Two exports do not mix their files."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _refuse_others(out: Path, record: Mapping[str, Any]) -> None:
    """Raise ``UserError`` where ``out`` holds something else than an earlier export of the same features in the same
    layout."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    there = _record(out)
    if not there:
        raise UserError(
            f"{str(out)!r} is not empty and holds no export of framefeat; give another folder, or --force to write into it."
        )
    if others := _differences(there, record):
        raise UserError(
            f"{str(out)!r} holds another export ({', '.join(others)}), whose files would be removed; give another folder, or "
            "--force to replace it."
        )


def _differences(there: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """What makes of an earlier export one of something else."""
    return [
        f"{name} is {there.get(name)!r}"
        for name in ("dataset", "backbone", "control", "format")
        if there.get(name) != record.get(name)
    ]


def _record(out: Path) -> dict[str, Any]:
    """What an earlier export in ``out`` says of itself; empty where there is none."""
    try:
        record = read_json(out / RECORD)
        return dict(record) if is_framefeats(record["writer"]) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _files(record: Mapping[str, Any]) -> set[str]:
    """Plain names alone, whatever the record says."""
    names = record.get("files")
    return {
        name
        for name in (names if isinstance(names, list) else [])
        if isinstance(name, str) and name == os.path.basename(name) and name != RECORD
    }


def _refuse_dangling(out: Path) -> None:
    if out.is_symlink() and not out.exists():
        raise UserError(f"{str(out)!r} is a link to nothing; remove it, or give another name.")


def _refuse_inputs(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    inputs = list(inputs)
    for target in targets:
        if any(same_file(target, path) for path in inputs):
            raise UserError(
                f"{str(target)!r} is one of the files that this export is made of; give another name."
            )


def same_file(one: Path, other: Path) -> bool:
    """Whether both name one file, also where there is none yet."""
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them does not exist
        return os.path.realpath(one) == os.path.realpath(other)
