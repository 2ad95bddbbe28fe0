"""What is stored of one video: a safetensors file with its arrays, and the record that proves them in the header.

One file, written whole: arrays and record cannot be of different runs. ``safetensors.numpy.load_file`` reads it too.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from framefeat.errors import writing
from framefeat.files import atomic_path

if TYPE_CHECKING:
    import numpy as np

#: The header's only entry: with several the library would write them in any order.
_RECORD = "record"
#: The library's name for what of the header is no array.
_METADATA = "__metadata__"


def write(
    path: str | os.PathLike[str], record: Mapping[str, Any], arrays: Mapping[str, "np.ndarray"]
) -> None:
    """Write ``record`` (JSON; NaN is refused) and ``arrays``, atomically. Raises ``MachineError`` where it cannot."""
    from safetensors.numpy import save_file

    # A lone surrogate (out of a file name that is not UTF-8) stays JSON's escape.
    text = json.dumps(record, ensure_ascii=True, allow_nan=False)
    with writing(os.fspath(path)), atomic_path(path) as temporary:
        save_file(dict(arrays), temporary, {_RECORD: text})


def copy(
    source: str | os.PathLike[str], path: str | os.PathLike[str], changed: Mapping[str, Any]
) -> dict[str, Any]:
    """Write at ``path`` what is stored at ``source``, with these members of the record ``changed``: the same bytes as
    ``write`` gives. Returns the record. Raises as ``read_record`` and ``write`` do.
    """
    with open(source, "rb") as stream:
        record, arrays = _read_header(stream)
        record |= changed
        text = json.dumps(record, ensure_ascii=True, allow_nan=False)
        header = {_METADATA: {_RECORD: text}, **arrays}
        told = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        told += b" " * (-len(told) % 8)
        with writing(os.fspath(path)), atomic_path(path) as temporary, open(temporary, "wb") as output:
            output.write(len(told).to_bytes(8, "little") + told)
            shutil.copyfileobj(stream, output)
    return record


def read_record(path: str | os.PathLike[str]) -> Any:
    """The record of a stored file, without its arrays.

    Raises ``FileNotFoundError`` where there is none, and ``ValueError`` where it is no whole file of this kind.
    """
    with open(path, "rb") as stream:
        return _read_header(stream)[0]


def arrays_sha256(path: str | os.PathLike[str]) -> str:
    """sha256 of the arrays' bytes, one after the other. Raises as ``read_record`` does."""
    with open(path, "rb") as stream:
        _read_header(stream)
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_header(stream: BinaryIO) -> tuple[Any, dict[str, Any]]:
    """The record, and what the header says of the arrays; ``stream`` stands at their bytes then."""
    # Not through the library, which imports numpy: a job that finds nothing to do is over before that is done.
    length = int.from_bytes(stream.read(8), "little")
    whole = os.fstat(stream.fileno()).st_size
    try:
        header = json.loads(stream.read(min(length, whole)))
        record = json.loads(header.pop(_METADATA)[_RECORD])
        end = max(array["data_offsets"][1] for array in header.values())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"it is not whole ({error})") from error
    if whole != 8 + length + end:
        raise ValueError(f"it is not whole ({whole} bytes of {8 + length + end})")
    return record, header


def read_array(path: str | os.PathLike[str], name: str) -> "np.ndarray":
    """One array of a stored file. Raises as ``read_record`` does."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            array: np.ndarray = file.get_tensor(name)
            return array
    except SafetensorError as error:
        raise ValueError(f"it is not whole ({error})") from error


def record_or_none(path: Path) -> Any:
    """The record; None where there is no whole file."""
    try:
        return read_record(path)
    except (OSError, ValueError):
        return None


def as_bytes(data: bytes) -> "np.ndarray":
    """``data`` as an array that a stored file can hold: uint8 [n]."""
    import numpy as np

    return np.frombuffer(data, dtype=np.uint8)
