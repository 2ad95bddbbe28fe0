"""H.264 written bit by bit: every macroblock is raw (I_PCM), so that streams can be made that no encoder at hand
writes.

Pictures coded as fields, an order of display that is announced nowhere, parameter sets wherever they are wanted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_I_PCM = 25
_START = b"\x00\x00\x00\x01"


class _Bits:
    """Bits, the highest of each byte first."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def u(self, value: int, width: int = 1) -> "_Bits":
        self._bits.append(f"{value:0{width}b}")
        return self

    def ue(self, *values: int) -> "_Bits":
        """Exp-Golomb codes."""
        for value in values:
            code = f"{value + 1:b}"
            self._bits.append("0" * (len(code) - 1) + code)
        return self

    def raw(self, data: bytes) -> "_Bits":
        """Zero bits up to the next byte, then ``data``."""
        self._bits = [text := "".join(self._bits), "0" * (-len(text) % 8)]
        self._bits.append("".join(f"{byte:08b}" for byte in data))
        return self

    def nal(self, kind: int, importance: int) -> bytes:
        """A NAL unit with its start code: the bits, a stop bit, and what keeps start codes out of the payload."""
        text = "".join(self._bits) + "1"
        text += "0" * (-len(text) % 8)
        payload = int(text, 2).to_bytes(len(text) // 8, "big")
        safe = bytearray()
        zeros = 0
        for byte in payload:
            if zeros >= 2 and byte <= 3:
                safe.append(3)
                zeros = 0
            safe.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return _START + bytes([importance << 5 | kind]) + bytes(safe)


@dataclass(frozen=True)
class Stream:
    """What the parameter sets say. ``poc_bits``: of the display order's counter; a slice read with another number
    is garbage."""

    height: int
    width: int
    fields: bool = False
    poc_bits: int = 8
    references: int = 4

    def sps(self) -> bytes:
        rows = self.height // 16
        bits = _Bits().u(77, 8).u(0, 8).u(30, 8)
        bits.ue(0, 4, 0, self.poc_bits - 4, self.references).u(0)
        bits.ue(self.width // 16 - 1, (rows // 2 if self.fields else rows) - 1)
        bits.u(not self.fields)
        if self.fields:
            bits.u(0)
        return bits.u(1).u(0).u(0).nal(7, 3)

    def pps(self, number: int = 0) -> bytes:
        bits = _Bits().ue(number, 0).u(0).u(0).ue(0, 0, 0).u(0).u(0, 2).ue(0, 0, 0)
        return bits.u(1).u(0).u(0).nal(8, 3)

    def picture(
        self,
        grey: np.ndarray,
        *,
        display: int,
        decoding: int,
        key: bool = False,
        needed: bool = True,
        pps: int = 0,
        bottom: bool | None = None,
    ) -> bytes:
        """One picture as one slice. ``grey`` uint8 [H, W] (a field has half of the rows); ``display``: its place in
        display order, counted from the key picture; ``decoding``: reference pictures since then; ``bottom``: which
        field."""
        second = bool(bottom)
        bits = _Bits().ue(0, 7, pps).u(decoding % 256, 8)
        if self.fields:
            bits.u(bottom is not None)
            if bottom is not None:
                bits.u(second)
        is_idr = key and not second
        if is_idr:
            bits.ue(0)
        bits.u((2 * display + second) % (1 << self.poc_bits), self.poc_bits)
        if is_idr:
            bits.u(0, 2)
        elif needed:
            bits.u(0)
        bits.ue(0, 1)
        for top in range(0, grey.shape[0], 16):
            for left in range(0, self.width, 16):
                block = np.ascontiguousarray(grey[top : top + 16, left : left + 16])
                bits.ue(_I_PCM).raw(block.tobytes() + b"\x80" * 128)
        return bits.nal(5 if is_idr else 1, 2 if needed else 0)


def fields_of(stream: Stream, grey: np.ndarray, display: int, decoding: int, key: bool) -> Sequence[bytes]:
    """A frame as two fields, each a picture of its own."""
    return [
        stream.picture(grey[row::2], display=display, decoding=decoding, key=key, bottom=bool(row))
        for row in (0, 1)
    ]
