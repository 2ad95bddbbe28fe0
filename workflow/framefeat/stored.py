"""What is stored of one video: a safetensors file with its arrays, and the record that proves them in the header.

One file, written whole: arrays and record cannot be of different runs. ``safetensors.numpy.load_file`` reads it too.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framefeat.errors import writing
from framefeat.files import atomic_path

if TYPE_CHECKING:
    import numpy as np

#: The header's only entry: with several the library would write them in any order.
_RECORD = "record"


def write(
    path: str | os.PathLike[str], record: Mapping[str, Any], arrays: Mapping[str, "np.ndarray"]
) -> None:
    """Write ``record`` (JSON; NaN is refused) and ``arrays``, atomically. Raises ``MachineError`` where it cannot."""
    from safetensors.numpy import save_file

    # A lone surrogate (out of a file name that is not UTF-8) stays JSON's escape.
    text = json.dumps(record, ensure_ascii=True, allow_nan=False)
    with writing(os.fspath(path)), atomic_path(path) as temporary:
        save_file(dict(arrays), temporary, {_RECORD: text})


def read_record(path: str | os.PathLike[str]) -> Any:
    """The record of a stored file, without its arrays.

    Raises ``FileNotFoundError`` where there is none, and ``ValueError`` where it is no whole file of this kind.
    """
    # Not through the library, which imports numpy: a job that finds nothing to do is over before that is done.
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        whole = os.fstat(stream.fileno()).st_size
        try:
            header = json.loads(stream.read(min(length, whole)))
            record = json.loads(header.pop("__metadata__")[_RECORD])
            end = max(array["data_offsets"][1] for array in header.values())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"it is not whole ({error})") from error
    if whole != 8 + length + end:
        raise ValueError(f"it is not whole ({whole} bytes of {8 + length + end})")
    return record


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
