"""What a packet's first bytes tell of H.264 and HEVC: where decoding can begin, and what state travels with the packet.

Only what precedes the first slice is read, and of the slice its type. ITU-T H.264 sections 7.3 and 7.4.1, H.265
sections 7.3 and 7.4.2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MOST_UNITS = 64
#: Bytes of a first slice that are looked at: its type stands in the first few.
_SLICE_BYTES = 16


@dataclass(frozen=True)
class Head:
    """What precedes a packet's picture data.

    ``entry``: decoding can begin here (H.264: IDR, or a recovery point that is exact at once; HEVC: IRAP).
    ``parameters``: the parameter sets in the packet, as they stand. ``bidirectional``: the first slice is a B slice;
    None where it is not known.
    """

    entry: bool
    parameters: frozenset[bytes]
    bidirectional: bool | None


class Parser:
    """Reads the heads of one stream's packets. ``extradata``: as the container stores it (avcC, hvcC or Annex B)."""

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._hevc = codec == "hevc"
        data = extradata or b""
        configured = len(data) > (22 if self._hevc else 6) and data[0] == 1
        self._length_size = (data[21 if self._hevc else 4] & 3) + 1 if configured else 0
        self.initial = frozenset(self._configured(data) if configured else self._sets(_annex_b(data)))

    def head(self, data: memoryview) -> Head:
        """``data``: one whole packet."""
        units = _with_lengths(data, self._length_size) if self._length_size else _annex_b(data)
        parameters: list[bytes] = []
        recovery = False
        for unit in units:
            kind = self._kind(unit)
            if self._is_slice(kind):
                entry = 16 <= kind <= 21 if self._hevc else kind == 5 or recovery
                return Head(entry, frozenset(parameters), None if self._hevc else _is_b_slice(unit))
            if self._is_parameters(kind):
                parameters.append(unit)
            elif kind == 6 and not self._hevc:
                recovery = recovery or _recovers_at_once(unit)
        return Head(False, frozenset(parameters), None)

    def _kind(self, unit: bytes) -> int:
        return unit[0] >> 1 & 0x3F if self._hevc else unit[0] & 0x1F

    def _is_slice(self, kind: int) -> bool:
        return kind < 32 if self._hevc else 1 <= kind <= 5

    def _is_parameters(self, kind: int) -> bool:
        return kind in (32, 33, 34) if self._hevc else kind in (7, 8, 13, 15)

    def _sets(self, units: Iterator[bytes]) -> list[bytes]:
        return [unit for unit in units if self._is_parameters(self._kind(unit))]

    def _configured(self, data: bytes) -> list[bytes]:
        """The parameter sets of an avcC or hvcC record (ISO/IEC 14496-15, 5.3.3 and 8.3.3)."""
        found: list[bytes] = []
        place = 23 if self._hevc else 5
        groups = data[22] if self._hevc else 2
        for _ in range(groups):
            place += self._hevc
            if place + (1 + self._hevc) > len(data):
                break
            if self._hevc:
                count, place = int.from_bytes(data[place : place + 2], "big"), place + 2
            else:
                count, place = data[place] & 0x1F, place + 1
            for _ in range(count):
                size = int.from_bytes(data[place : place + 2], "big")
                if size:
                    found.append(data[place + 2 : place + 2 + size])
                place += 2 + size
        return self._sets(iter(found))


def _with_lengths(data: memoryview, size: int) -> Iterator[bytes]:
    place = 0
    for _ in range(_MOST_UNITS):
        length = int.from_bytes(data[place : place + size], "big")
        start = place + size
        if not length or start + length > len(data):
            return
        yield _unit(data, start, length)
        place = start + length


def _unit(data: memoryview, start: int, length: int) -> bytes:
    # Slices are large and all but their first bytes are of no interest; everything else is small.
    return bytes(data[start : start + (min(length, _SLICE_BYTES) if length > 4096 else length)])


def _annex_b(data: memoryview | bytes) -> Iterator[bytes]:
    """Units between start codes, without the zeros that may follow them."""
    whole = bytes(data[: 1 << 16])
    start = whole.find(b"\0\0\1")
    for _ in range(_MOST_UNITS):
        if start < 0 or start + 3 >= len(whole):
            return
        end = whole.find(b"\0\0\1", start + 3)
        unit = whole[start + 3 : end if end >= 0 else len(whole)].rstrip(b"\0")
        if unit:
            yield unit
        start = end


class _Bits:
    """Reads a unit bit by bit, emulation prevention bytes removed. Reading past its end gives zeros."""

    def __init__(self, unit: bytes) -> None:
        payload = unit.replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(payload, "big")
        self._left = 8 * len(payload)

    def read(self, count: int) -> int:
        self._left -= count
        shifted = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return shifted & ((1 << count) - 1)

    def unsigned(self) -> int:
        """An Exp-Golomb code."""
        zeros = 0
        while zeros < 32 and not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)


def _is_b_slice(unit: bytes) -> bool:
    bits = _Bits(unit[1:_SLICE_BYTES])
    bits.unsigned()  # first_mb_in_slice
    return bits.unsigned() % 5 == 1


def _recovers_at_once(unit: bytes) -> bool:
    """Whether an SEI unit holds a recovery point with recovery_frame_cnt 0, exact or not: x264's open groups."""
    payload = unit.replace(b"\0\0\3", b"\0\0")
    place = 1
    while place + 1 < len(payload):
        kind = size = 0
        while place < len(payload) and payload[place] == 0xFF:
            kind, place = kind + 255, place + 1
        kind, place = kind + payload[place], place + 1
        while place < len(payload) and payload[place] == 0xFF:
            size, place = size + 255, place + 1
        if place >= len(payload):
            return False
        size, place = size + payload[place], place + 1
        if kind == 6:
            return _Bits(payload[place : place + size]).unsigned() == 0
        if payload[place + size : place + size + 1] == b"\x80":
            return False
        place += size
    return False


def parser_of(codec: str, extradata: bytes | None) -> Any:
    """A parser where the codec has one, else None."""
    return Parser(codec, extradata) if codec in ("h264", "hevc") else None
