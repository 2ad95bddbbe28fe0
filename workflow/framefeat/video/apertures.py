"""Crops that a container asks for and FFmpeg does not hand to a decoder: MP4's clean aperture, Matroska's crop.

Read from the file's own boxes (ISO/IEC 14496-12, 8.5.2 and 12.1.4) and elements (RFC 9559, 5.1.4.1.28).
"""

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

#: A header that is larger than this is not looked through.
_MOST_BYTES = 256 << 20
_CONTAINERS = {b"trak", b"mdia", b"minf", b"stbl"}

_SEGMENT, _TRACKS, _ENTRY, _CLUSTER = 0x18538067, 0x1654AE6B, 0xAE, 0x1F43B675
_NUMBER, _VIDEO = 0xD7, 0xE0
_CROPS = {0x54AA: "bottom", 0x54BB: "top", 0x54CC: "left", 0x54DD: "right"}


def asked_crop(path: str, format_name: str, track: int) -> str | None:
    """The crop of the track with that number, in words; None where there is none, or it cannot be read."""
    try:
        with Path(path).open("rb") as stream:
            if "mp4" in format_name:
                return _clean_aperture(stream, track)
            if "matroska" in format_name:
                return _pixel_crop(stream, track)
    except (OSError, struct.error, ValueError, IndexError):
        return None
    return None


# --- MP4


def _clean_aperture(stream: BinaryIO, track: int) -> str | None:
    moov = _moov(stream)
    for kind, box in _boxes(moov):
        if kind == b"trak" and _track_number(box) == track:
            entry = _first_entry(box)
            if entry is None:
                return None
            width, height = struct.unpack(">HH", entry[24:28])
            for name, content in _boxes(entry[78:]):
                if name == b"clap":
                    values = struct.unpack(">8i", content[:32])
                    across, down = values[0] / values[1], values[2] / values[3]
                    if (round(across), round(down)) != (width, height):
                        return f"a clean aperture of {across:g} x {down:g} of its {width} x {height} pixels"
    return None


def _moov(stream: BinaryIO) -> bytes:
    """The content of the file's ``moov`` box; empty where there is none."""
    while len(header := stream.read(8)) == 8:
        size, kind = struct.unpack(">I4s", header)
        head = 8
        if size == 1:
            size, head = struct.unpack(">Q", stream.read(8))[0], 16
        if kind == b"moov":
            return stream.read(size - head) if 0 < size - head <= _MOST_BYTES else b""
        if size < head:
            return b""
        stream.seek(size - head, 1)
    return b""


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        if size < 8:
            return
        yield kind, data[place + 8 : place + size]
        place += size


def _track_number(trak: bytes) -> int:
    header = dict(_boxes(trak)).get(b"tkhd", b"")
    return struct.unpack_from(">I", header, 20 if header[:1] == b"\1" else 12)[0]


def _first_entry(data: bytes) -> bytes | None:
    """The content of the first sample description below ``data``."""
    for kind, content in _boxes(data):
        if kind == b"stsd":
            return next((entry for _, entry in _boxes(content[8:])), None)
        if kind in _CONTAINERS and (found := _first_entry(content)) is not None:
            return found
    return None


# --- Matroska


def _pixel_crop(stream: BinaryIO, track: int) -> str | None:
    for entry in _entries(stream):
        elements = dict(_elements(entry))
        if int.from_bytes(elements.get(_NUMBER, b""), "big") == track:
            video = dict(_elements(elements.get(_VIDEO, b"")))
            sides = {name: int.from_bytes(video.get(number, b""), "big") for number, name in _CROPS.items()}
            if any(sides.values()):
                return "a crop of " + ", ".join(
                    f"{size} pixels ({name})" for name, size in sides.items() if size
                )
    return None


def _entries(stream: BinaryIO) -> Iterator[bytes]:
    while (number := _number(stream, keep_marker=True)) is not None:
        size = _number(stream, keep_marker=False)
        if size is None or number == _CLUSTER:
            return
        if number == _SEGMENT:
            continue  # what it holds comes next
        if number == _TRACKS and size <= _MOST_BYTES:
            yield from (content for kind, content in _elements(stream.read(size)) if kind == _ENTRY)
            return
        stream.seek(size, 1)


def _number(stream: BinaryIO, keep_marker: bool) -> int | None:
    """An element's number or size: its first set bit tells how many bytes it has."""
    first = stream.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + stream.read(length - 1), "big")
    return value if keep_marker else value & ~(1 << 7 * length)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    stream = io.BytesIO(data)
    while (number := _number(stream, keep_marker=True)) is not None:
        size = _number(stream, keep_marker=False)
        if size is None:
            return
        yield number, stream.read(size)
