"""The reference of the proof: every packet in file order, every frame in the order in which it leaves the decoder,
counted, never sorted and never looked up."""

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from framefeat.video.geometry import Geometry

GEOMETRY = "squash96"


@dataclass(frozen=True, eq=False)
class Reference:
    """A plain decode. ``times``: seconds (float) from the first frame, None for a frame without one; ``pixels``:
    resized, uint8 [n, h, w, 3]; ``unreadable``: frames that cannot be converted; ``troubled``: the decoder refused
    or reported something; ``reordered``: the packets' times are those of one recording whose pictures are shown in
    another order than they are decoded. ``start``: the first frame's own time; ``last_shown``: how long the last
    one stays, by its own account."""

    times: list[Fraction | None]
    pixels: np.ndarray
    unreadable: set[int]
    troubled: bool
    rate: Fraction
    reordered: bool = False
    start: Fraction | None = None
    last_shown: Fraction = Fraction(0)

    @property
    def clock(self) -> list[Fraction] | None:
        """The times, if they ascend."""
        known = [moment for moment in self.times if moment is not None]
        if len(known) < len(self.times) or not _ascends(known):
            return None
        return known

    @property
    def display(self) -> list[Fraction] | None:
        """The times of frames that the decoder gives out in another order, if that is its own doing. (Presentation
        times that ascend in the file are decoding times and tell nothing; a clock that goes back is two
        recordings.)"""
        known = [moment for moment in self.times if moment is not None]
        if not self.reordered or len(set(known)) < len(self.times):
            return None
        return [moment - min(known) for moment in known]


def plain_decode(path: Path, folder: Path) -> Reference:
    """Every frame that a decode in order gives, counted: one thread, every packet, nothing sorted and nothing
    looked up."""
    import av

    size = Geometry.from_name(GEOMETRY)
    store = folder / f"{path.name}.reference"
    times: list[Fraction | None] = []
    unreadable: set[int] = set()
    rate = Fraction(25)
    troubled = False
    given: list[tuple[int, int]] = []
    start: Fraction | None = None
    last_shown = Fraction(0)
    aperture = clean_aperture_of(path)
    with store.open("wb") as output, suppress(av.FFmpegError):
        with av.open(str(path), metadata_errors="replace") as source:
            stream: Any = _video_of(source)
            if stream is None:
                return Reference([], np.zeros((0, *size.output, 3), dtype=np.uint8), set(), True, rate)
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            rate = Fraction(stream.average_rate or stream.guessed_rate or rate)
            first: int | None = None
            for frame in _frames_in_order(source, stream, given):
                if frame is None:
                    troubled = True
                    continue
                if first is None and frame.pts is not None:
                    first, start = frame.pts, frame.pts * Fraction(stream.time_base)
                known = frame.pts is not None and first is not None
                times.append((frame.pts - first) * Fraction(stream.time_base) if known else None)
                try:
                    rgb = cropped(frame.to_ndarray(format="rgb24"), aperture)
                except (ValueError, OSError):
                    unreadable.add(len(times) - 1)
                    rgb = np.zeros((2, 2, 3), dtype=np.uint8)
                troubled |= bool(frame.is_corrupt)
                last_shown = (frame.duration or 0) * Fraction(stream.time_base)
                output.write(size.apply(np.rot90(rgb, round(frame.rotation / 90))).tobytes())
    shape = (len(times), *size.output, 3)
    pixels = np.memmap(store, np.uint8, "r", shape=shape) if times else np.zeros(shape, dtype=np.uint8)
    shown, decoded = ([each[k] for each in given] for k in (0, 1))
    reordered = _ascends(decoded) and not _ascends(shown)
    reference = Reference(times, pixels, unreadable, troubled, rate, reordered, start, last_shown)
    return replace(reference, rate=_counted_rate(reference))


def _counted_rate(reference: Reference) -> Fraction:
    """The container's rate, if its frames agree: one packet for each field makes it twice theirs."""
    clock = reference.clock
    if clock is None or len(clock) < 2:
        return reference.rate
    counted = (len(clock) - 1) / clock[-1]
    return counted if abs(counted - reference.rate) > reference.rate / 10 else reference.rate


def _ascends(values: Sequence[Any]) -> bool:
    return all(b > a for a, b in zip(values, values[1:], strict=False))


def _video_of(source: Any) -> Any:
    from av.stream import Disposition

    streams = [source.streams.best("video"), *source.streams.video]
    found = [s for s in streams if s is not None and not s.disposition & Disposition.attached_pic]
    return found[0] if found and found[0].codec_context is not None else None


def _frames_in_order(source: Any, stream: Any, given: list[tuple[int, int]]) -> Iterator[Any]:
    """Frames as they come; None where the decoder or the container refuses something. ``given``: gets the packets'
    times (of presentation, of decoding)."""
    import av

    packets = source.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            yield None
            packet = None
        if packet is not None and packet.size and None not in (packet.pts, packet.dts):
            given.append((packet.pts, packet.dts))
        try:
            yield from stream.codec_context.decode(packet if packet is not None and packet.size else None)
        except EOFError:
            pass
        except av.FFmpegError:
            yield None
        if packet is None or (not packet.size and packet.pts is None):
            return


def clean_aperture_of(path: Path) -> tuple[int, int] | None:
    """Height and width of a centred clean aperture, read from the file's bytes."""
    for found in re.finditer(rb"\x00\x00\x00\x28clap", path.read_bytes()):
        numbers = struct.unpack_from(">8I", found.string, found.end())
        if numbers[1] and numbers[3] and numbers[4] == numbers[6] == 0:
            return numbers[2] // numbers[3], numbers[0] // numbers[1]
    return None


def cropped(rgb: np.ndarray, aperture: tuple[int, int] | None) -> np.ndarray:
    """The middle of a picture."""
    if aperture is None:
        return rgb
    top, left = ((have - wanted) // 2 for have, wanted in zip(rgb.shape[:2], aperture, strict=True))
    return rgb[top : top + aperture[0], left : left + aperture[1]]
