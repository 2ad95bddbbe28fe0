"""Edits of an MP4's boxes in place, for clips that no muxer writes. The header must follow the picture data (as it does
where ``faststart`` is not asked for), so that no chunk moves when the header grows."""

import struct
from collections.abc import Callable, Sequence

VIDEO = ("moov", "trak", "mdia", "minf", "stbl")


def _locate(data: bytes, name: str) -> tuple[int, int, int]:
    """Where the first box of that name begins, its payload begins, and it ends."""
    place = 0
    while place < len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        header = 8
        if size == 1:
            size, header = struct.unpack_from(">Q", data, place + 8)[0], 16
        if kind == name.encode():
            return place, place + header, place + size
        place += size
    raise ValueError(f"there is no box {name!r}")


def find(data: bytes, path: Sequence[str]) -> bytes:
    """The payload of the first box at ``path``."""
    for name in path:
        _, begin, end = _locate(data, name)
        data = data[begin:end]
    return data


def edit(data: bytes, path: Sequence[str], change: Callable[[bytes], bytes]) -> bytes:
    """``data`` with the payload of the first box at ``path`` replaced by what ``change`` makes of it."""
    name, *rest = path
    start, begin, end = _locate(data, name)
    payload = data[begin:end]
    return data[:start] + box(name, edit(payload, rest, change) if rest else change(payload)) + data[end:]


def box(name: str, payload: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(payload), name.encode()) + payload


def forget_keys(kept: Sequence[int]) -> Callable[[bytes], bytes]:
    """Of a sync table (``stss``): only those entries stay."""

    def change(payload: bytes) -> bytes:
        count = struct.unpack_from(">I", payload, 4)[0]
        samples = struct.unpack_from(f">{count}I", payload, 8)
        left = [samples[place] for place in kept]
        return payload[:4] + struct.pack(f">I{len(left)}I", len(left), *left)

    return change


def edit_list(entries: Sequence[tuple[int, int]]) -> Callable[[bytes], bytes]:
    """An ``elst`` of ``(duration by the movie's clock, start by the track's clock or -1 for a gap)``."""

    def change(_: bytes) -> bytes:
        packed = b"".join(struct.pack(">IiI", duration, start, 0x10000) for duration, start in entries)
        return struct.pack(">II", 0, len(entries)) + packed

    return change


def track_matrix(matrix: Sequence[int]) -> Callable[[bytes], bytes]:
    """A ``tkhd`` whose display matrix is these nine numbers (16.16, the last column 2.30)."""

    def change(payload: bytes) -> bytes:
        return payload[:40] + struct.pack(">9i", *matrix) + payload[76:]

    return change


def clean_aperture(width: int, height: int) -> Callable[[bytes], bytes]:
    """An ``stsd`` whose first entry shows the middle ``width`` x ``height`` pixels only."""

    def change(payload: bytes) -> bytes:
        clap = box("clap", struct.pack(">8I", width, 1, height, 1, 0, 1, 0, 1))
        size = struct.unpack_from(">I", payload, 8)[0]
        entry = payload[8 : 8 + size] + clap
        return payload[:8] + struct.pack(">I", len(entry)) + entry[4:] + payload[8 + size :]

    return change


def same_time(first: int, count: int) -> Callable[[bytes], bytes]:
    """An ``stts`` of one run whose ``count`` samples from ``first`` on last no time, so that they share one."""

    def change(payload: bytes) -> bytes:
        samples, delta = struct.unpack_from(">II", payload, 8)
        runs = [(first, delta), (count, 0), (samples - first - count, delta)]
        return payload[:4] + struct.pack(">I", 3) + b"".join(struct.pack(">II", *run) for run in runs)

    return change
