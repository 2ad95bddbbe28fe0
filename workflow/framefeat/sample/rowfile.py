"""What sampling writes besides its evidence: frames row by row, and a strip of thumbnails."""

import os
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from framefeat.errors import writing

if TYPE_CHECKING:
    import numpy as np

#: Height and width in pixels that a thumbnail must fit.
THUMBNAIL_BOX = (72, 160)
#: How a .npy file of version 1.0 begins: magic, version, length of the rest of its header.
_HEAD = struct.Struct("<6s2sH")


class RowFile:
    """A ``.npy`` of uint8 [T, h, w, 3] written row by row; rows never written are zeros that take no disk.

    Plain writes, not a memory map: mapped pages would count as this process's memory.
    """

    def __init__(self, path: str, rows: int, size: tuple[int, int]) -> None:
        from numpy.lib import format as npy

        self._shape = (*size, 3)
        self._path = path
        self._row = size[0] * size[1] * 3
        self._checksums = [zlib.crc32(bytes(self._row))] * rows
        with writing(path):
            self._stream = Path(path).open("w+b", buffering=0)  # noqa: SIM115
            npy.write_array_header_1_0(
                self._stream, {"descr": "|u1", "fortran_order": False, "shape": (rows, *self._shape)}
            )
            self._start = self._stream.tell()
            self._stream.truncate(self._start + rows * self._row)

    def write(self, row: int, pixels: "np.ndarray") -> None:
        if pixels.shape != self._shape:
            raise ValueError(f"a frame of shape {pixels.shape} where {self._shape} is expected")
        self._put(row, pixels.tobytes())

    def clear(self, row: int) -> None:
        """Zeros again."""
        self._put(row, bytes(self._row))

    def read(self, row: int) -> "np.ndarray":
        import numpy as np

        with writing(self._path):
            data = os.pread(self._stream.fileno(), self._row, self._start + row * self._row)
        return np.frombuffer(data, dtype=np.uint8).reshape(self._shape)

    def _put(self, row: int, data: bytes) -> None:
        self._checksums[row] = zlib.crc32(data)
        view = memoryview(data)
        offset = self._start + row * self._row
        with writing(self._path):
            while view:
                written = os.pwrite(self._stream.fileno(), view, offset)
                view, offset = view[written:], offset + written

    @property
    def checksum(self) -> int:
        """Of all rows as they are meant to lie on the disk."""
        return _checksum(self._checksums)

    def close(self) -> None:
        self._stream.close()


def checksum_of(path: str | os.PathLike[str], rows: int) -> int | None:
    """``RowFile.checksum`` of the file that lies there, None where it is no such file of so many rows. Standard library
    only: a client of the embedder asks."""
    with open(path, "rb") as stream:
        head = stream.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        start = _HEAD.size + _HEAD.unpack(head)[-1]
        row, rest = divmod(os.fstat(stream.fileno()).st_size - start, rows)
        if row < 0 or rest:
            return None
        stream.seek(start)
        return _checksum([zlib.crc32(stream.read(row)) for _ in range(rows)])


def _checksum(rows: Sequence[int]) -> int:
    return zlib.crc32(struct.pack(f"<{len(rows)}I", *rows))


def thumbnail_size(height: int, width: int, sample_aspect: Fraction) -> tuple[int, int]:
    """Height and width of a frame's thumbnail: the largest in the box that keeps its display aspect ratio."""
    shown = width * float(sample_aspect)
    scale = min(THUMBNAIL_BOX[0] / height, THUMBNAIL_BOX[1] / shown)
    return max(1, round(height * scale)), max(1, round(shown * scale))


def thumbnail(rgb: "np.ndarray", size: tuple[int, int]) -> "np.ndarray":
    """``rgb`` uint8 [H, W, 3] at ``size`` (height, width)."""
    import numpy as np
    from PIL import Image

    return np.asarray(Image.fromarray(rgb).resize(size[::-1], Image.Resampling.BILINEAR, reducing_gap=1.0))


def write_strip(path: str, cells: Sequence["np.ndarray"], size: tuple[int, int]) -> None:
    """One JPEG: all ``cells`` (uint8 [h, w, 3] of ``size``) side by side; a grey one where there is none."""
    import numpy as np
    from PIL import Image

    strip = np.concatenate(list(cells), axis=1) if cells else np.full((*size, 3), 128, dtype=np.uint8)
    # By the ending PIL finds the one plugin that it needs; by a format's name it imports the five commonest.
    with writing(path):
        Image.fromarray(strip).save(path, format=None if path.endswith(".jpg") else "JPEG", quality=80)
