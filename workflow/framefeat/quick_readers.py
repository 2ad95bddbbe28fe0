"""Two readers of one interface: decord's random access and PyAV's planned or strict forward pass.

A reader yields ``(number, rgb)``: the presented frame's number and its pixels, uint8 [H, W, 3], rotated as players do.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import av
import av.logging
import numpy as np

from framefeat.quick_container import Container
from framefeat.errors import UserError
from framefeat.quick_plan import decode_segments

#: Decoders agree when the mean absolute difference of their pixels is at most this (of 255).
PIXEL_TOLERANCE = 2.0
#: Decoders whose skip_frame=NONREF leaves all other frames the same bytes (no picture ever refers to a skipped one).
_SKIPS_EXACTLY = frozenset({"h264", "mpeg4", "mpeg2video", "mpeg1video"})
_DAMAGE = re.compile(r"error while decoding|concealing|corrupt|invalid nal|no frame!|damaged", re.IGNORECASE)
_BATCH_BYTES = 32 << 20

Frames = Iterator[tuple[int, np.ndarray]]


class Damage(Exception):
    """The stream itself is damaged where a wanted frame would be; the message says what was found and where."""


class Misread(Exception):
    """decord's view of a file is not the container's; the message says how."""


def pixel_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference, 0 to 255; infinite for different shapes."""
    return float(np.abs(a.astype(np.int16) - b).mean()) if a.shape == b.shape else float("inf")


# --- PyAV


@dataclass
class PyavReader:
    """PyAV, one forward pass without seeks.

    ``strict``: every packet is decoded in order from the start of the file, nothing is skipped. Otherwise groups of
    pictures without a wanted frame are not decoded, nor are single frames that no other refers to.
    ``missing`` tells after a pass which wanted frames could not be had, and why.
    """

    container: Container
    strict: bool = False
    missing: dict[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "pyav-sequential" if self.strict else "pyav"

    def frames(self, wanted: Sequence[int]) -> Frames:
        """Yield the frames ``wanted`` (ascending, distinct), in that order as far as they can be had."""
        self.missing = {}
        if not len(wanted):
            return
        left = dict.fromkeys(int(number) for number in wanted)
        if not self.strict and self.container.source == "packets":
            pass_ = self._planned(list(left))
            try:
                for number, image in pass_:
                    del left[number]
                    yield number, image
            except Damage:
                pass
            if not left:
                return
        # Whatever the quick pass could not give, the strict one decides.
        for number, image in self._sequential(list(left)):
            del left[number]
            yield number, image
        for number in left:
            self.missing.setdefault(number, "no decoded frame has its presentation time")

    def _planned(self, wanted: list[int]) -> Frames:
        container = self.container
        number_of = {int(container.pts[number]): number for number in wanted}
        segments = iter(decode_segments(container, wanted))
        segment = next(segments)
        skips = container.codec in _SKIPS_EXACTLY
        with _opened(container) as (opened, stream), _messages() as damaged:
            context = stream.codec_context
            place = -1
            for packet in opened.demux(stream):
                if packet.size == 0:
                    break
                place += 1
                if place < segment.first:
                    continue
                if skips:
                    context.skip_frame = "DEFAULT" if packet.pts in number_of else "NONREF"
                yield from self._convert(_decode(context, packet), number_of, damaged)
                if place == segment.last:
                    yield from self._convert(_decode(context, None), number_of, damaged)
                    context.flush_buffers()
                    following = next(segments, None)
                    if following is None:
                        break
                    segment = following

    def _convert(self, frames: list[Any], number_of: dict[int, int], damaged: Callable[[], str | None]) -> Frames:
        if text := damaged():
            raise Damage(text)
        for frame in frames:
            number = number_of.pop(frame.pts, None)
            if number is None:
                continue
            if frame.is_corrupt:
                raise Damage("the decoder calls the frame corrupt")
            yield number, to_rgb(frame)

    def _sequential(self, wanted: list[int]) -> Frames:
        container = self.container
        by_order = container.source == "order"
        number_of = {number if by_order else int(container.pts[number]): number for number in wanted}
        suspect: str | None = None
        count = 0
        with _opened(container) as (opened, stream), _messages() as damaged:
            context = stream.codec_context
            pending = len(number_of)
            packets = opened.demux(stream)
            while pending:
                try:
                    packet = next(packets)
                except StopIteration:
                    break
                except av.FFmpegError as error:
                    suspect = f"the file cannot be read further: {error.strerror}"
                    packet = None
                ending = packet is None or packet.size == 0
                if packet is not None and packet.is_keyframe and packet.size and not suspect_lasts(suspect):
                    suspect = None
                try:
                    frames = context.decode(None if ending else packet)
                except av.FFmpegError as error:
                    frames = []
                    suspect = f"decoding fails: {error.strerror}"
                if text := damaged():
                    suspect = f"the decoder reports: {text}"
                for frame in frames:
                    number = number_of.get(count if by_order else frame.pts)
                    count += 1
                    if number is None:
                        continue
                    pending -= 1
                    if frame.is_corrupt or suspect:
                        self.missing[number] = suspect or "the decoder calls the frame corrupt"
                        continue
                    yield number, to_rgb(frame)
                if ending:
                    break
        if suspect:
            for number in wanted:
                self.missing.setdefault(number, suspect)


def suspect_lasts(suspect: str | None) -> bool:
    return suspect is not None and suspect.startswith("the file cannot be read")


def _decode(context: Any, packet: Any) -> list[Any]:
    try:
        return context.decode(packet)
    except av.FFmpegError as error:
        raise Damage(f"decoding fails: {error.strerror}") from error


@contextmanager
def _opened(container: Container) -> Iterator[tuple[Any, Any]]:
    """The file and its video stream, decoded by one thread (processes are the unit of parallel work)."""
    with av.open(container.path, metadata_errors="ignore") as opened:
        stream = opened.streams[container.stream_index]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        yield opened, stream


@contextmanager
def _messages() -> Iterator[Callable[[], str | None]]:
    """A function that gives FFmpeg's message of damage since the last call, if there was one."""
    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture(local=False) as captured:

        def since() -> str | None:
            if not captured:
                return None
            texts = [_timeless(str(entry[2]).strip()) for entry in captured]
            captured.clear()
            return next((text for text in texts if _DAMAGE.search(text)), None)

        yield since
    av.logging.set_level(before)


def to_rgb(frame: Any) -> np.ndarray:
    """uint8 [H, W, 3], contiguous, turned by the frame's display matrix."""
    image = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


# --- decord


class DecordReader:
    """decord's random access, once its view of the file was found to be the container's (else ``Misread``)."""

    name = "decord"

    def __init__(self, container: Container) -> None:
        self.container = container
        self.missing: dict[int, str] = {}
        self._reader = _agreeing_reader(container)

    def frames(self, wanted: Sequence[int]) -> Frames:
        """Yield the frames ``wanted`` (ascending, distinct). Raises ``Misread`` where decord reports an error."""
        numbers = [int(number) for number in wanted]
        size = 1
        start = 0
        while start < len(numbers):
            chunk = numbers[start : start + size]
            with _stderr() as said:
                try:
                    images = self._reader.get_batch(chunk).asnumpy()
                except Exception as error:
                    raise Misread(f"decord fails: {_first_line(error)}") from error
            if text := said():
                raise Misread(f"decord's decoder reports: {text}")
            yield from zip(chunk, images, strict=True)
            start += len(chunk)
            size = max(1, _BATCH_BYTES // max(1, images[0].nbytes))
            size = min(size, 16)


def _first_line(error: BaseException) -> str:
    return _timeless((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]


def _timeless(text: str) -> str:
    """Without the clock times and addresses that native messages carry: equal runs must say equal things."""
    return re.sub(r"\[\d\d:\d\d:\d\d\] |^\S*/src/\S+: | @ 0x[0-9a-f]+", "", text)


def _agreeing_reader(container: Container) -> Any:
    if container.source != "packets":
        raise Misread("the packets do not tell the frames' times")
    if not container.packet_shown.all():
        raise Misread(f"{int((~container.packet_shown).sum())} packets are not presented (edit list or hidden frames)")
    import decord

    with _stderr() as said:
        decord.logging.set_level(decord.logging.ERROR)
        try:
            reader = decord.VideoReader(container.path, ctx=decord.cpu(0), num_threads=1)
            count = len(reader)
            stamps = np.asarray(reader.get_frame_timestamp(np.arange(count)), dtype=np.float64)[:, 0] if count else None
        except Exception as error:
            raise Misread(f"decord cannot open it: {_first_line(error)}") from error
    if text := said():
        raise Misread(f"decord's decoder reports: {text}")
    if count != container.frames or stamps is None:
        raise Misread(f"decord counts {count} frames, the container {container.frames}")
    times = container.times()
    tolerance = min(2e-3, 0.25 * float(container.interval * container.time_base))
    apart = np.abs(stamps - stamps[0] - times) - times * 2e-7  # decord's stamps are single precision
    if apart.max() > tolerance:
        place = int(apart.argmax())
        raise Misread(f"decord has frame {place} at {stamps[place] - stamps[0]:.3f} s, the container at {times[place]:.3f} s")
    return reader


def check_pixels(reader: DecordReader, number: int) -> None:
    """Compare one frame with PyAV's; ``Misread`` where they differ in shape or in more than the tolerance."""
    theirs = next(iter(reader.frames([number])))[1]
    ours = dict(PyavReader(reader.container).frames([number]))
    if number not in ours:
        raise Misread(f"PyAV cannot decode frame {number}")
    if theirs.shape != ours[number].shape:
        raise Misread(f"decord's frames have shape {theirs.shape}, PyAV's {ours[number].shape}")
    difference = pixel_difference(theirs, ours[number])
    if difference > PIXEL_TOLERANCE:
        raise Misread(f"decord's pixels differ from PyAV's by {difference:.1f}/255 in the mean ({reader.container.pix_fmt})")


@contextmanager
def _stderr() -> Iterator[Callable[[], str | None]]:
    """Catch what native code prints to standard error; the function gives its first line once the block has ended."""
    said = {"text": ""}
    with tempfile.TemporaryFile() as caught:
        kept = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield lambda: _timeless(said["text"].splitlines()[0]) if said["text"] else None
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            said["text"] = caught.read(4096).decode("utf-8", "replace").strip()


# --- the choice


def choose_reader(container: Container, decoder: str, sample: int) -> tuple[DecordReader | PyavReader, str]:
    """The reader for ``decoder`` (auto, decord, pyav) and the reason. ``sample``: a wanted frame whose pixels are compared."""
    if decoder == "pyav":
        return PyavReader(container), "the configuration asks for PyAV"
    try:
        reader = DecordReader(container)
        check_pixels(reader, sample)
    except Misread as error:
        if decoder == "decord":
            raise UserError(
                f"{container.path!r}: decord misreads this file ({error}); set decoder: auto or pyav."
            ) from error
        return PyavReader(container), str(error)
    return reader, "decord agrees with the container and with PyAV"


def second_reader(container: Container, first: str, sample: int) -> DecordReader | PyavReader:
    """A reader other than ``first`` (decord, pyav): PyAV for decord; decord for PyAV, or PyAV strictly in order."""
    if first == "decord":
        return PyavReader(container)
    try:
        reader = DecordReader(container)
        check_pixels(reader, sample)
        return reader
    except Misread:
        return PyavReader(container, strict=True)


def second_opinion(
    container: Container, wanted: Sequence[int], first: str
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray], str]:
    """The frames ``wanted`` through the reader ``first`` and through another one, and the other one's name."""
    own: DecordReader | PyavReader
    try:
        own = DecordReader(container) if first == "decord" else PyavReader(container)
        mine = dict(own.frames(wanted))
    except Misread as error:
        raise UserError(f"{container.path!r}: {error}") from error
    other = second_reader(container, first, wanted[0])
    try:
        theirs = dict(other.frames(wanted))
    except Misread:
        other = PyavReader(container, strict=True)
        theirs = dict(other.frames(wanted))
    lost = sorted(set(wanted) - set(mine) | set(wanted) - set(theirs))
    if lost:
        raise UserError(f"{container.path!r}: frames {lost[:5]} cannot be decoded again.")
    return mine, theirs, other.name


