"""What a packet's first bytes tell of H.264 and HEVC: where decoding can begin, and what state travels with the packet.

Only what precedes the first slice is read, and of the slice its type. ITU-T H.264 sections 7.3 and 7.4.1, H.265
sections 7.3 and 7.4.2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MOST_UNITS = 64
_MOST_BYTES = 1 << 16
#: Bytes of a first slice that are looked at: its type stands in the first few.
_SLICE_BYTES = 16
_INTRA_SLICES = (2, 4)
#: HEVC: pictures whose leading pictures lack references.
_BROKEN_LINKS = (16, 17, 18)
#: In an HEVC slice's first byte: first_slice_segment_in_pic_flag, no_output_of_prior_pics_flag.
_FIRST_SLICE, _DROPS_PRIOR = 0x80, 0x40
_PROFILES_WITH_CHROMA = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)


@dataclass(frozen=True)
class Head:
    """What precedes a packet's picture data.

    ``entry``: decoding can begin here (H.264: IDR, or an I picture with a recovery point that is reached at once; HEVC:
    IRAP). ``parameters``: the parameter sets in the packet, as they stand. ``bidirectional``: the first slice is a B
    slice; None where it is not known. ``field``: of
    a picture coded as a field its frame's number and whether it is the bottom one. ``anew``: an HEVC sequence begins
    here that does not go on from what precedes it, so that decoders drop pictures on both sides. ``begins``: a picture
    begins here, or it cannot be told. ``lost``: an H.264 picture that others refer to is missing before this one.
    """

    entry: bool
    parameters: frozenset[bytes]
    bidirectional: bool | None
    field: tuple[int, bool] | None = None
    anew: bool = False
    begins: bool = True
    lost: bool = False


class Parser:
    """Reads the heads of one stream's packets. ``extradata``: as the container stores it (avcC, hvcC or Annex B)."""

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._hevc = codec == "hevc"
        data = extradata or b""
        configured = len(data) > (22 if self._hevc else 6) and data[0] == 1
        self._length_size = (data[21 if self._hevc else 4] & 3) + 1 if configured else 0
        self.initial = frozenset(self._configured(data) if configured else self._sets(_annex_b(data)))
        self._frame_number: _FrameNumber | None = None
        self._reference: int | None = None
        for unit in self.initial:
            self._learn(unit)

    def head(self, data: memoryview) -> Head:
        """``data``: one whole packet."""
        units = _with_lengths(data, self._length_size) if self._length_size else _annex_b(data)
        parameters: list[bytes] = []
        recovery = False
        read = 0
        for unit in units:
            read += self._length_size + len(unit)
            kind = self._kind(unit)
            if self._is_slice(kind):
                if self._hevc:
                    entry = 16 <= kind <= 21
                    flags = unit[2] if len(unit) > 2 else 0
                    anew = entry and (kind in _BROKEN_LINKS or bool(flags & _DROPS_PRIOR))
                    begins = bool(flags & _FIRST_SLICE)
                    return Head(entry, frozenset(parameters), None, anew=anew, begins=begins)
                slice_type = _slice_type(unit)
                # Some encoders promise recovery at P pictures: true for who has decoded what came before.
                entry = kind == 5 or (recovery and slice_type in _INTRA_SLICES)
                number, field = self._frame(unit)
                lost = not entry and self._follows_none(number)
                if unit[0] >> 5:  # others refer to it
                    self._reference = number
                return Head(entry, frozenset(parameters), slice_type == 1, field, lost=lost)
            if self._is_parameters(kind):
                parameters.append(unit)
                self._learn(unit)
            elif kind == 6 and not self._hevc:
                recovery = recovery or _recovers_at_once(unit)
        whole = read == len(data) if self._length_size else 0 < read < len(data) < _MOST_BYTES
        return Head(False, frozenset(parameters), None, begins=not whole)

    def _kind(self, unit: bytes) -> int:
        return unit[0] >> 1 & 0x3F if self._hevc else unit[0] & 0x1F

    def _is_slice(self, kind: int) -> bool:
        return kind < 32 if self._hevc else 1 <= kind <= 5

    def _is_parameters(self, kind: int) -> bool:
        return kind in (32, 33, 34) if self._hevc else kind in (7, 8, 13, 15)

    def _learn(self, unit: bytes) -> None:
        if not self._hevc and self._kind(unit) == 7:
            self._frame_number = _frame_number(unit)

    def _frame(self, unit: bytes) -> tuple[int | None, tuple[int, bool] | None]:
        """A slice's frame number, and, if it is of a field, that number and whether the field is the bottom one."""
        told = self._frame_number
        if told is None:
            return None, None
        bits = _Bits(unit[1:_SLICE_BYTES])
        for _ in range(3):  # first_mb_in_slice, slice_type, pic_parameter_set_id
            bits.unsigned()
        bits.read(told.before)
        number = bits.read(told.length)
        return number, (number, bool(bits.read(1))) if told.fields and bits.read(1) else None

    def _follows_none(self, number: int | None) -> bool:
        """Whether frame ``number`` neither belongs to the last reference picture nor follows it (7.4.3)."""
        if number is None or self._reference is None or self._frame_number is None:
            return False
        following = (self._reference + 1) % (1 << self._frame_number.length)
        return not self._frame_number.gaps and number not in (self._reference, following)

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
    whole = bytes(data[:_MOST_BYTES])
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


def _slice_type(unit: bytes) -> int:
    """0: P, 1: B, 2: I, 3: SP, 4: SI."""
    bits = _Bits(unit[1:_SLICE_BYTES])
    bits.unsigned()  # first_mb_in_slice
    return bits.unsigned() % 5


@dataclass(frozen=True)
class _FrameNumber:
    """Where a slice header has its frame's number: bits ``before`` it, and its ``length``. ``fields``: pictures may be
    fields; ``gaps``: numbers may be left out."""

    before: int
    length: int
    fields: bool
    gaps: bool


def _frame_number(unit: bytes) -> _FrameNumber | None:
    """By the sequence parameter set ``unit`` (7.3.2.1.1); None where it cannot be one."""
    bits = _Bits(unit[1:])
    profile = bits.read(8)
    bits.read(16)  # constraints, level
    bits.unsigned()  # seq_parameter_set_id
    before = 0
    if profile in _PROFILES_WITH_CHROMA:
        chroma = bits.unsigned()
        if chroma == 3:
            before = 2 * bits.read(1)  # colour_plane_id
        bits.unsigned()  # bit depths
        bits.unsigned()
        bits.read(1)
        if bits.read(1):
            for size in [16] * 6 + [64] * (6 if chroma == 3 else 2):
                _skip_scaling_list(bits, size)
    length = bits.unsigned() + 4
    order = bits.unsigned()
    if order == 0:
        bits.unsigned()
    elif order == 1:
        bits.read(1)
        bits.unsigned()
        bits.unsigned()
        for _ in range(min(bits.unsigned(), 255)):
            bits.unsigned()
    bits.unsigned()  # max_num_ref_frames
    gaps = bits.read(1)
    bits.unsigned()  # width and height
    bits.unsigned()
    return None if length > 16 else _FrameNumber(before, length, not bits.read(1), bool(gaps))


def _skip_scaling_list(bits: "_Bits", size: int) -> None:
    if not bits.read(1):
        return
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.unsigned()
            following = (last + ((code + 1) // 2 if code % 2 else -(code // 2))) % 256
        last = following or last


def ends_sequence(data: memoryview) -> bool:
    """Whether an HEVC packet's last unit ends the sequence: the next picture begins another one."""
    return bytes(data[-2:]) in (b"\x48\x01", b"\x4a\x01") and bytes(data[-6:-2]).endswith(
        (b"\0\0\0\2", b"\0\0\1", b"\0\2")
    )


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
